//! Quotas of clients, as Kafka measures and enforces them: whose limit holds, the rate over windows of time, and how
//! long a client that is above its limit has to wait.
//!
//! Layer 1: synchronous; time comes in with each call. Start with [`Quotas::charge`].

mod bucket;
mod limits;
mod quotas;
mod rate;

pub use bucket::TokenBucket;
pub use limits::{Entity, Limit, Limits, Name};
pub use quotas::{Charge, Client, Quotas};
pub use rate::{Rate, Windows};
