//! gRPC between the services: the code generated from `proto/`, conversions to the types of the cores, and clients that
//! find the quorum leader.
//!
//! - [`cluster`], [`quorum`], [`admin`]: generated messages, clients and servers.
//! - [`ClusterClient`]: the requests of brokers; [`AdminClient`]: the requests of tools.
//! - [`coordinators`]: the list of coordinators behind both: leader hints, back-off, dead peers. [`channel`]: one
//!   connection, in plaintext or by TLS.
//! - [`leader_hint`]: how a coordinator that does not lead names the one that does. [`cluster_metadata`]: what each
//!   call says of its cluster.
//! - [`convert`]: tree nodes and their changes, to and from the wire.
//!
//! Protobuf types stop here: layer 1 never sees them.

pub mod admin_client;
pub mod channel;
pub mod cluster_client;
pub mod cluster_metadata;
pub mod convert;
pub mod coordinators;
pub mod heartbeat;
pub mod leader_hint;
pub mod ports;
pub mod watch;

/// `ottla.cluster.v1`: between brokers and the quorum.
#[allow(clippy::all, clippy::pedantic, rust_2018_idioms)]
pub mod cluster {
    tonic::include_proto!("ottla.cluster.v1");
}

/// `ottla.quorum.v1`: between coordinators.
#[allow(clippy::all, clippy::pedantic, rust_2018_idioms)]
pub mod quorum {
    tonic::include_proto!("ottla.quorum.v1");
}

/// `ottla.admin.v1`: for people.
#[allow(clippy::all, clippy::pedantic, rust_2018_idioms)]
pub mod admin {
    tonic::include_proto!("ottla.admin.v1");
}

pub use admin_client::AdminClient;
pub use channel::{ChannelSecurity, Dialed};
pub use cluster_client::ClusterClient;
pub use coordinators::{CallError, Coordinators};
pub use heartbeat::HeartbeatStream;
pub use leader_hint::{LeaderHint, NotLeader};
pub use tonic::Code;
pub use watch::{WatchStream, WatchUpdate};

/// The descriptor set of every service above, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The largest message that either side decodes. Snapshots travel in chunks of at most 1 MiB and requests have bounded
/// batches: only a broken peer comes near.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
