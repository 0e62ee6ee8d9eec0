//! The broker: stores partition logs and answers Kafka clients, from an image of the tree that it follows.
//!
//! Two runtimes. *Control* (one thread) registers, sends heartbeats, follows the tree and serves metrics; *data* (a
//! thread per worker) owns connections, partitions and fetchers. Neither waits for the other: what control learns
//! reaches the partitions through [`metadata_cache`] and [`replica_manager`], what data needs of the quorum goes
//! through [`quorum_handle`].
//!
//! Kafka's wire types stop at [`handlers`], [`replica_fetcher`] and [`error_map`]; protobuf types stop at the `rpc`
//! crate, which speaks the controller's own types.

pub mod auto_creation;
pub mod broker;
pub mod configs;
pub mod dispatch;
pub mod groups;
pub mod handlers;
pub mod internal_topic;
pub mod lifecycle;
mod load_permits;
pub mod peers;
pub mod producer_ids;
pub mod request;
pub mod signals;
pub mod telemetry;
mod timer;
pub mod transaction_verifier;
pub mod transactions;
pub mod watch;

#[cfg(test)]
mod data_path_tests;

pub use broker::Broker;
pub use lifecycle::{Ready, RunError, run};
