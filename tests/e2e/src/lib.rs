//! Real clusters for tests: the release binaries as processes on free loopback ports, with their data in a folder that
//! is removed with the [`Cluster`]. No process outlives a test: each one ends with its parent.

mod access;
pub mod certificates;
pub mod clients;
pub mod cluster;
pub mod containers;
pub mod counting_proxy;
pub mod groups;
pub mod kafka;
pub mod quorum;
pub mod wait;

pub use access::Access;
pub use cluster::{Cluster, ClusterOptions, Host, Node};
