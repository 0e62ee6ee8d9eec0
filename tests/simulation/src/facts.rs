//! What a broker's turn led to, as far as the invariants care.

use ottla_model::{LeaderEpoch, Offset, TopicIdPartition};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fact {
    /// This broker leads from now on.
    Leads { partition: TopicIdPartition, leader_epoch: LeaderEpoch },
    /// Leader or follower, it published this high watermark.
    HighWatermark { partition: TopicIdPartition, leader_epoch: LeaderEpoch, offset: Offset },
    /// The log holds new records from here on.
    Appended { partition: TopicIdPartition, from: Offset },
    /// A produce with acks=all and min.insync.replicas of at least 2 was answered.
    Acknowledged { partition: TopicIdPartition, leader_epoch: LeaderEpoch, first: Offset, next: Offset, min_isr: usize },
    /// A log was opened by a new process.
    Opened { partition: TopicIdPartition },
    /// The replica is gone: its topic was deleted.
    Removed { partition: TopicIdPartition },
    /// Something is wrong that no fault explains.
    Broken { what: String },
}
