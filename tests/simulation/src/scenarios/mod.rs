//! Scenarios that have cost others data, step by step. A scenario states what must hold; the invariants watch
//! meanwhile. Others of the same list are tests of the crates whose rule they concern, under the same names.

mod disks;
mod elections;
mod isr;
mod nearest;
mod quorum;
mod reassignment;
mod registration;
mod replication;
mod rules;
mod security;
pub(crate) mod seeds;
mod stalls;
mod transcripts;
