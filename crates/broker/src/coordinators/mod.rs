//! Coordinators of groups and of transactions: the partitions of an internal topic that this broker has, each with the
//! state that its log holds. `ottla_coordinator_partition` decides; here are the locks, the threads and the metrics.
//!
//! - [`partition_handle`]: one partition's state behind one lock.
//! - [`partition_handles`]: the partitions of one topic.
//! - [`pending_answer`]: the answer to a request that was submitted; [`handler`]: who waits for it.
//! - [`timer`]: one for all partitions of a topic.
//!
//! `groups` and `transactions` implement [`Coordinator`].
//!
//! Locks: partition handle, then partition; a thread that holds a partition's lock never waits for a partition handle.

pub mod handler;
pub mod partition_handle;
pub mod partition_handles;
pub mod pending_answer;
pub mod timer;

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_coordinator_partition::CoordinatorShard;
use ottla_metrics::{Counter, Gauge};

pub use partition_handle::PartitionHandle;
pub use partition_handles::PartitionHandles;
pub use pending_answer::PendingAnswer;

/// How many groups or transactional ids there are, by state.
pub type States<C> = BTreeMap<<C as Coordinator>::StateName, u64>;

/// The metrics of the partitions of one topic.
#[derive(Clone, Copy)]
pub struct Metrics<'a> {
    /// Partitions whose state is served.
    pub partitions: &'a Gauge,
    pub loads: &'a Counter,
    pub load_ms: &'a Counter,
    /// Records that were appended.
    pub records: &'a Counter,
}

/// What distinguishes the coordinators of one topic from those of another. All partitions of the topic share it.
pub trait Coordinator: Sized + Send + Sync + 'static {
    type Shard: CoordinatorShard<
            Config: Send + Sync,
            Request: Clone + Send,
            Answer: Send,
            Message: Send,
            Notice: Send,
            RecordError: Send,
        > + Send;
    type StateName: Ord + Copy + Send;

    /// The internal topic.
    const TOPIC: &'static str;
    /// What the topic holds, in log lines: a plural.
    const STATE: &'static str;

    fn config(&self) -> Arc<<Self::Shard as CoordinatorShard>::Config>;

    /// The largest batch that it writes.
    fn batch_bytes_max(&self) -> usize;

    /// Lets a step look at the cluster.
    fn view<T>(&self, step: impl FnOnce(<Self::Shard as CoordinatorShard>::View<'_>) -> T) -> T;

    /// Sends a message of `from`, and reports what became of it with [`PartitionHandle::notice`].
    fn send(&self, from: &Arc<PartitionHandle<Self>>, message: <Self::Shard as CoordinatorShard>::Message);

    fn count_states(shard: &Self::Shard) -> States<Self>;

    fn metrics(&self) -> Metrics<'_>;
}
