//! Seeded mutation of what arrives from the network: what the tests share.
//!
//! Every run is the same: seeds are counted up, and a failure prints the seed with the API, version or codec that it was mutated from.

pub mod allocation;
pub mod corpus;
pub mod mutation;
