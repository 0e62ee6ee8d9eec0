//! ZooKeeper's client protocol over the tree, for tools of a ZooKeeper-era Kafka. Synchronous: frames
//! and trees in, frames out; the coordinator holds the sockets and the clocks.
//!
//! - [`connect`]: the first frame of a connection. [`sessions`]: which sessions live, and when they expire.
//! - [`client`]: one connected client: requests, watches, answers.
//! - [`writes`]: the writes of Kafka's old tools, as requests to the controller.
//! - [`znodes`]: the tree as ZooKeeper shows it. [`reassignments`]: the node of those under way. [`watches`]: who is
//!   told about which change.
//! - [`operation`], [`jute`]: the wire format.
//!
//! The format is described in `zookeeper.jute` and in the programmer's guide of ZooKeeper 3.9. What differs from an
//! ensemble is in `docs/adr/0030-zookeepers-client-protocol.md`.

pub mod client;
pub mod connect;
mod jute;
mod operation;
mod reassignments;
pub mod sessions;
mod watches;
pub mod writes;
mod znodes;

#[cfg(test)]
mod tests;

pub use client::{Client, MayWrite, Next, RequestError};
pub use jute::FRAME_BYTES_MAX;
pub use operation::{chroots_of, is_ping};
pub use reassignments::Reassignments;
pub use watches::WatchBudget;

/// ZooKeeper's error codes (`KeeperException.Code`), as far as they are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    Ok,
    /// A path, an operation, a watch or data that is not valid, or more watches than a connection may have.
    BadArguments,
    Unimplemented,
    NoNode,
    /// Writes of configurations and elections, where only who shows the cluster's secret may alter the cluster.
    NoAuth,
    NodeExists,
    /// Writes: the tree is written by brokers and admin requests.
    NotReadOnly,
    /// `removeWatches` and `checkWatches` of a watch that is not set.
    NoWatcher,
    /// The write may or may not have been done.
    OperationTimeout,
}

impl ErrorCode {
    pub fn code(self) -> i32 {
        match self {
            Self::Ok => 0,
            Self::Unimplemented => -6,
            Self::OperationTimeout => -7,
            Self::BadArguments => -8,
            Self::NoNode => -101,
            Self::NoAuth => -102,
            Self::NodeExists => -110,
            Self::NotReadOnly => -119,
            Self::NoWatcher => -121,
        }
    }
}
