//! The broker: stores partition logs and answers Kafka clients, from an image of the tree that it follows.
//!
//! Two runtimes. *Control* (one thread) registers, sends heartbeats, follows the tree and serves metrics; *data* (a thread per
//! worker) owns connections, partitions and fetchers. Neither waits for the other: what control learns reaches
//! the partitions through [`metadata_cache`] and [`replica_manager`], what data needs of the quorum goes through
//! [`quorum_handle`].
//!
//! Kafka's wire types stop at [`handlers`], [`replica_fetcher`] and [`error_map`]; protobuf types stop at the `rpc` crate, which
//! speaks the controller's own types.

pub mod alter_partition;
pub mod auto_creation;
pub mod broker;
pub mod clock;
pub mod configs;
pub mod dispatch;
pub mod error_map;
pub mod fetch_session;
pub mod groups;
pub mod handlers;
pub mod identity;
pub mod lifecycle;
pub mod live_config;
pub mod log_cleaner;
pub mod log_dirs;
pub mod log_io;
pub mod metadata_cache;
pub mod partition;
pub mod producer_ids;
pub mod quorum_handle;
pub mod replica_fetcher;
pub mod replica_manager;
pub mod request;
pub mod signals;
pub mod telemetry;
pub mod topic_settings;
pub mod watch;

#[cfg(test)]
mod data_path_tests;

pub use broker::Broker;
pub use identity::Identity;
pub use lifecycle::{Ready, RunError, run};
pub use ottla_network::response;
