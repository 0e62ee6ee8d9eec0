//! What a broker's turn led to, as far as the invariants care.

use ottla_model::{IncarnationId, LeaderEpoch, Offset, TopicIdPartition};

use crate::content::{Content, RecordId};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fact {
    /// This broker leads from now on.
    Leads { partition: TopicIdPartition, leader_epoch: LeaderEpoch },
    /// Leader or follower, it published this high watermark.
    HighWatermark { partition: TopicIdPartition, leader_epoch: LeaderEpoch, offset: Offset },
    /// The log holds new records from here on.
    Appended { partition: TopicIdPartition, from: Offset },
    /// A produce with acks=all and min.insync.replicas of at least 2 was answered.
    /// `record` is the first one, as it was appended.
    Acknowledged {
        partition: TopicIdPartition,
        leader_epoch: LeaderEpoch,
        first: Offset,
        next: Offset,
        record: Option<RecordId>,
        min_isr: usize,
    },
    /// A new process opened a log that held this. Its role may have begun with a truncation since.
    Opened { partition: TopicIdPartition, content: Content },
    /// Logs of this broker cannot be read in this life: the quorum is not to count on them.
    LogsOffline,
    /// A replica began a new, empty log.
    Began { partition: TopicIdPartition },
    /// Clients are answered from now on.
    Serves { incarnation: IncarnationId },
    /// Something is wrong that no fault explains.
    Broken { what: String },
}
