//! Kafka's connections: listening sockets, frames in, responses out. Generic over the [`Service`] that answers, so that
//! a request costs no dynamic call.
//!
//! - [`listener`]: sockets that listen, and the task of each connection;
//! - [`connection`]: one connection's requests and responses, in order;
//! - `transport`: plaintext or TLS; [`security`], `authentication`: what a listener demands before it serves;
//! - [`frame_budget`]: the memory of large frames that are being read;
//! - `handshake_turns`: whose TLS handshake is calculated now;
//! - `response_memory`: the memory of responses that wait to be read;
//! - `cold_reads`: threads that wait for records on their way from the disks;
//! - [`response`]: what a service gives back;
//! - [`metrics`]: what is counted.

mod authentication;
mod cold_reads;
pub mod connection;
pub mod context;
pub mod frame_budget;
mod frame_reader;
mod handshake_turns;
pub mod listener;
pub mod metrics;
pub mod response;
mod response_memory;
mod response_writer;
pub mod security;
mod service;
mod transport;

pub use connection::{Connection, ConnectionShared, End, Gate};
pub use context::{ClientSoftware, RequestContext};
pub use frame_budget::FrameBudget;
pub use listener::{AcceptOptions, BindError, BoundListener, accept, bind};
pub use metrics::NetworkMetrics;
pub use response::{Part, RecordSlice, Reply, Response, SliceAccess};
pub use security::{ListenerSecurity, LoginEvent, LoginWatcher, SaslListener};
pub use service::Service;
pub use transport::Transport;
