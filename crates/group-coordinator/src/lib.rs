//! Consumer groups as a synchronous core: groups, members, assignments, committed offsets.
//!
//! An [`OffsetsPartition`](offsets_partition::OffsetsPartition) is one partition of `__consumer_offsets` on one broker.
//! It loads the partition's log into a [`Shard`] when its broker becomes the leader, and drops the shard when it is no
//! longer the leader. The shard is given requests and the time; what comes out are [`Effects`]: records to append, and
//! answers that may leave.
//!
//! - [`offsets_partition`]: what `coordinator-partition` needs of a shard, to load, serve and leave it.
//! - [`request`], [`answer`]: what clients ask and are told, without wire types.
//! - [`shard`]: the groups of one leadership; batches in flight; answers that wait for the high watermark.
//! - [`group`]: classic groups and KIP-848 consumer groups, and the way from one to the other.
//! - [`offsets`]: committed offsets and their expiry.
//! - [`assignor`]: the assignors that run here (KIP-848).
//! - [`record`]: what the partition holds, in Kafka's formats.
//! - [`timer`]: what is due when.
//!
//! Layer 1: no clock, no entropy, no I/O; ordered maps only. Invariants: an answer that promises a write leaves after
//! the high watermark has passed it; generations and epochs of a group never fall; a partition of a consumer group has
//! at most one owner.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod answer;
pub mod assignor;
mod budget;
pub mod config;
pub mod effects;
mod group;
mod offsets;
pub mod offsets_partition;
pub mod record;
pub mod request;
pub mod shard;
mod timer;
pub mod topics;

pub use answer::GroupAnswer;
pub use config::GroupConfig;
pub use effects::{Batch, BatchKind, BatchNumber, Effects, RequestId, TransactionEnd};
pub use record::{Record, RecordError, partition_for};
pub use request::Request;
pub use shard::Shard;
pub use topics::{TopicView, Topics, VisibleTopics};

pub use ottla_coordinator_partition::Now;
