//! Metrics that clients push to brokers (KIP-714): which metrics a client is asked for, which of its requests come in
//! time, and what the broker shows of them.
//!
//! Layer 1: synchronous; time comes in with each call. Start with [`Clients`].

mod client;
mod clients;
mod otlp;
mod page;
mod point;
mod subscriptions;
#[cfg(test)]
mod testing;

pub use client::{Identity, Refused};
pub use clients::{Clients, Held, Push, Subscribed};
pub use otlp::OtlpError;
pub use page::Page;
pub use point::Points;
pub use subscriptions::Subscriptions;
