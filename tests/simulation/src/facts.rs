//! What a broker's turn led to, as far as the invariants care.

use ottla_authorizer::{Operation, Requester, ResourceType};
use ottla_model::{IncarnationId, LeaderEpoch, Offset, Revision, TimestampMs, TopicIdPartition};
use ottla_sasl::ClientCredentials;

use crate::content::{Content, RecordId};

/// A login that was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedIn {
    pub credentials: ClientCredentials,
    /// Whom the broker takes the client for; none: it was refused.
    pub user: Option<String>,
    /// The broker's time.
    pub wall: TimestampMs,
    /// Of the image that the broker had.
    pub revision: Revision,
}

/// What a broker decided by its image of this revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    pub requester: Requester,
    pub operation: Operation,
    pub resource_type: ResourceType,
    pub name: String,
    pub is_allowed: bool,
    pub revision: Revision,
}

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
    /// A client came with these.
    LoggedIn(Box<LoggedIn>),
    /// A request was allowed, or not.
    Checked(Box<Checked>),
    /// Something is wrong that no fault explains.
    Broken { what: String },
}
