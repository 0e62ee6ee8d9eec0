//! Real clusters for tests: the release binaries as processes on free loopback ports, with their data in a folder
//! that goes away with the [`Cluster`]. Nothing outlives a test: each process dies with its parent, whatever ends it.

pub mod clients;
pub mod cluster;
pub mod groups;
pub mod kafka;

pub use cluster::{Cluster, ClusterOptions, Node};
