//! Seeded mutation of network input: helpers of the tests.
//!
//! Every run is the same: seeds are counted up, and a failure prints the seed with the API, version or codec that it
//! was mutated from.

pub mod allocation;
pub mod corpus;
pub mod mutation;
