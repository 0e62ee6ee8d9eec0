//! Kafka's bytes to types and back.
//!
//! - [`frame`]: the length prefix and the request header.
//! - [`api`]: the APIs that are served, their version ranges and header versions.
//! - [`bounds`]: checks how much a decoder would allocate for a body, before it runs.
//! - [`codec`]: every API but those of [`messages`], through the `kafka_protocol` crate.
//! - [`messages`]: Produce and Fetch, with own parsers and encoders so that records are never copied; ApiVersions;
//!   versions that `kafka_protocol` lacks.
//! - [`record_batch`]: the batch header, validation as Kafka's brokers do it, compression, building and reading.
//!
//! Invariants: nothing here panics or allocates more than a small multiple of a named bound on any input; nothing
//! here does I/O or reads a clock. Frames that the encoders return begin with their four bytes of length; frames that
//! the parsers take do not have them any more.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod bounds;
#[cfg(test)]
mod bounds_tests;
pub mod codec;
pub mod frame;
pub mod messages;
pub mod record_batch;
#[cfg(test)]
mod test_random;
pub mod wire;

pub use api::{Api, VersionRange};
pub use codec::{CodecError, decode_request, decode_response, encode_request, encode_response};
pub use frame::{FrameError, FrameOverflow, RequestHeader, parse_header};
pub use kafka_protocol;
pub use wire::WireError;
