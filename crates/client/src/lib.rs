//! A small async Kafka client.
//!
//! - [`Connection`]: one TCP connection to one broker; correlation ids, pipelining with a bound, time-outs. Replica
//!   fetching uses it directly.
//! - [`Client`]: a cluster by its bootstrap addresses; versions negotiated, leaders cached and refreshed, requests
//!   retried where a retry is safe. The command-line tools and the end-to-end tests use it.
//! - [`Membership`]: a member of a consumer group; and administration of groups, offsets, transactions, configurations
//!   and log directories.
//! - [`ClientError`]: distinguishes requests that certainly were not executed from those that may have been.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod aborted;
mod acls;
mod admin;
mod cluster;
mod configs;
mod connection;
mod convert;
mod coordinator;
mod data;
mod delegation_tokens;
mod elections;
mod error;
mod features;
mod groups;
mod list_offsets;
mod log_dirs;
mod membership;
mod metadata;
mod offsets;
mod quotas;
mod reassignments;
mod replicas;
mod scram;
mod transactions;

pub use aborted::AbortedBatches;
pub use admin::{
    ClusterDescription, DescribedBroker, DescribedPartition, DescribedTopic, NewPartitions, NewTopic,
    QuorumDescription, QuorumReplica, TopicOutcome,
};
pub use cluster::{Client, ClientConfig};
pub use configs::{CONFIG_CLIENT_METRICS, ConfigChange, ConfigEntry, ConfigResource};
pub use connection::{Connection, ConnectionConfig};
pub use data::{FetchOptions, FoundOffset, Produced};
pub use delegation_tokens::DescribedToken;
pub use elections::{ElectionOutcome, ElectionType};
pub use error::{ClientError, Outcome};
pub use features::{FeatureChange, FeatureLevels, Features};
pub use groups::{GroupDescription, GroupMember, ListedGroup};
pub use list_offsets::FoundOffsets;
pub use log_dirs::{LogDir, LogDirReplica};
pub use membership::{Beat, Membership, MembershipConfig};
pub use metadata::{BrokerAddress, ClusterView, PartitionView, TopicView};
pub use offsets::{CommittedOffset, Committer};
pub use ottla_secure_stream::StreamSecurity;
pub use quotas::{ClientQuota, QuotaMatch, QuotaPart};
pub use reassignments::{Reassignment, ReassignmentRefused};
pub use replicas::{ReplicaPosition, ReplicaRecords};
pub use scram::{DescribedUser, ScramChange};
pub use transactions::{ActiveProducer, ListedTransaction, OpenTransaction, TransactionDescription, TransactionFilter};
