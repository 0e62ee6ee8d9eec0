//! A small async Kafka client.
//!
//! - [`Connection`]: one TCP connection to one broker; correlation ids, pipelining with a bound, time-outs. Replica fetching uses it directly.
//! - [`Client`]: a cluster by its bootstrap addresses; versions negotiated, leaders cached and refreshed, requests retried where a
//!   retry is safe. The command-line tools and the end-to-end tests use it.
//! - [`ClientError`]: tells what certainly did not happen from what may have.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
mod cluster;
mod connection;
mod data;
mod error;
mod metadata;

pub use admin::{
    ClusterDescription, ConfigEntry, DescribedBroker, DescribedPartition, DescribedTopic, NewPartitions, NewTopic,
    TopicOutcome,
};
pub use cluster::{Client, ClientConfig};
pub use connection::{Connection, ConnectionConfig};
pub use data::{FetchOptions, FoundOffset, Produced};
pub use error::{ClientError, Outcome};
pub use metadata::{BrokerAddress, ClusterView, PartitionView, TopicView};
