//! The broker: stores partition logs and answers Kafka clients, from an image of the tree that it follows.
//!
//! Two runtimes. *Control* (one thread) registers, sends heartbeats, follows the tree and serves metrics; *data* (a
//! thread per worker) owns connections, partitions and fetchers. Neither waits for the other: what control learns
//! reaches the partitions through `replica-manager`, what data needs of the quorum goes through its `quorum_handle`.
//!
//! Kafka's wire types stop at [`handlers`] and at `replica-manager`'s fetchers; protobuf types stop at the `rpc` crate,
//! which speaks the controller's own types.

pub mod audit;
pub mod authorization;
pub mod auto_creation;
pub mod broker;
pub mod client_metrics;
pub mod configs;
pub mod coordinators;
pub mod credentials;
pub mod delegation_tokens;
mod dispatch;
pub mod first_users;
pub mod groups;
pub mod handlers;
pub mod internal_topic;
pub mod lifecycle;
mod oauth;
pub mod peers;
pub mod producer_ids;
pub mod quotas;
pub mod request;
pub mod resources;
pub mod security;
pub mod signals;
pub mod telemetry;
pub mod transaction_verifier;
pub mod transactions;
pub mod watch;

#[cfg(test)]
mod data_path_tests;

pub use broker::Broker;
pub use lifecycle::{Ready, RunError, run};
