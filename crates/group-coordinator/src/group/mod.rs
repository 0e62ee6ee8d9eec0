//! Groups of both protocols, and what both answer in common.
//!
//! A group's step changes the group at once and returns a [`Decision`](crate::shard::Decision): the records that make
//! the change last, and the answers. Groups know their timers only through [`Context`](crate::shard::Context), and
//! their offsets not at all.

pub(crate) mod classic;
pub(crate) mod consumer;
pub(crate) mod embedded;

use ottla_model::{ErrorCode, GroupId, InstanceId, MemberId, TimestampMs};

use crate::answer::ListedGroup;
use crate::effects::RequestId;
use crate::record::Record;
use crate::request::CommitOffsets;
use crate::topics::Topics;
use classic::ClassicGroup;
use consumer::ConsumerGroup;

/// What a member takes besides its texts and byte strings: timers, an assignment of some partitions.
const MEMBER_BYTES: usize = 1_024;
/// A member's id is held by the group and by its timers.
const ID_COPIES: usize = 3;
/// What a topic that a consumer group's member names takes besides its text: entries of maps and sets.
pub(crate) const NAMED_TOPIC_BYTES: usize = 128;

fn member_bytes(id: &MemberId) -> usize {
    MEMBER_BYTES + ID_COPIES * id.as_str().len()
}

/// One group.
#[derive(Clone, Debug)]
pub(crate) enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

/// From when on a committed offset grows old; what a group says of its offsets as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OffsetExpiry {
    /// No offset expires while the group is in this state.
    Never,
    /// Each offset from its own commit on.
    SinceCommit,
    /// All of them from here on: the group has been empty since.
    Since(TimestampMs),
}

impl Group {
    /// No members (and, for a classic group, no round under way).
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_empty(),
            Self::Consumer(group) => group.is_empty(),
        }
    }

    pub(crate) fn member_count(&self) -> usize {
        match self {
            Self::Classic(group) => group.member_count(),
            Self::Consumer(group) => group.member_count(),
        }
    }

    /// How many members there are, and about how many bytes they hold.
    pub(crate) fn size(&self) -> (usize, usize) {
        match self {
            Self::Classic(group) => (group.member_count(), group.bytes()),
            Self::Consumer(group) => (group.member_count(), group.bytes()),
        }
    }

    /// How many bytes a member of this id, or of this instance id, has said of itself; none if it is not there.
    pub(crate) fn said_by(&self, member: &MemberId, instance: Option<&InstanceId>) -> Option<usize> {
        match self {
            Self::Classic(group) => group.said_by(member, instance),
            Self::Consumer(group) => group.said_by(member, instance),
        }
    }

    /// The bytes of the assignments that a classic group's leader has made.
    pub(crate) fn assigned_bytes(&self) -> usize {
        match self {
            Self::Classic(group) => group.members().values().map(|member| member.assignment.len()).sum(),
            // The coordinator assigns.
            Self::Consumer(_) => usize::MAX,
        }
    }

    /// Whether a commit counts: it comes from a member of this generation or epoch, or from outside while nobody reads.
    pub(crate) fn validate_commit(&self, topics: &dyn Topics, request: &CommitOffsets) -> Result<(), ErrorCode> {
        match self {
            Self::Classic(group) => {
                group.validate_commit(&request.member, request.instance.as_ref(), request.generation_or_epoch)
            }
            Self::Consumer(group) => group.validate_commit(topics, request),
        }
    }

    /// As [`Self::validate_commit`], for a commit inside a transaction: its producer need not be a member, or name one.
    pub(crate) fn validate_commit_in_transaction(&self, request: &CommitOffsets) -> Result<(), ErrorCode> {
        let names_nobody = request.generation_or_epoch < 0 && request.member.is_empty() && request.instance.is_none();
        match self {
            _ if names_nobody => Ok(()),
            Self::Classic(group) => {
                let (member, instance) = (&request.member, request.instance.as_ref());
                group.validate_commit_in_transaction(member, instance, request.generation_or_epoch)
            }
            Self::Consumer(group) => group.validate_commit_in_transaction(request),
        }
    }

    /// Whether OffsetFetch may be answered to this member (version 9 and above name one).
    pub(crate) fn validate_fetch(&self, member: Option<&MemberId>, member_epoch: i32) -> Result<(), ErrorCode> {
        match self {
            Self::Classic(_) => Ok(()),
            Self::Consumer(group) => group.validate_fetch(member, member_epoch),
        }
    }

    /// Whether offsets of the group may be deleted (those of subscribed topics may not, see `is_subscribed_to`).
    pub(crate) fn validate_delete_offsets(&self) -> Result<(), ErrorCode> {
        match self {
            Self::Classic(group) => group.validate_delete_offsets(),
            Self::Consumer(_) => Ok(()),
        }
    }

    /// Whether a member reads the topic; a group whose subscriptions are not known is taken to read everything.
    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        match self {
            Self::Classic(group) => group.is_subscribed_to(topic),
            Self::Consumer(group) => group.is_subscribed_to(topic),
        }
    }

    /// How the group's offsets grow old.
    pub(crate) fn offset_expiry(&self) -> OffsetExpiry {
        match self {
            Self::Classic(group) => group.offset_expiry(),
            Self::Consumer(group) => group.offset_expiry(),
        }
    }

    /// The records that delete the group (not its offsets).
    pub(crate) fn tombstones(&self, id: &GroupId) -> Vec<Record> {
        match self {
            Self::Classic(_) => vec![ClassicGroup::tombstone(id)],
            Self::Consumer(group) => group.tombstones(id),
        }
    }

    pub(crate) fn listed(&self, id: &GroupId) -> ListedGroup {
        match self {
            Self::Classic(group) => group.listed(id),
            Self::Consumer(group) => group.listed(id),
        }
    }

    /// Takes the requests that wait inside the group: they will be answered elsewhere, or with an error.
    pub(crate) fn take_waiting(&mut self) -> Vec<RequestId> {
        match self {
            Self::Classic(group) => group.take_waiting(),
            Self::Consumer(group) => group.take_waiting(),
        }
    }
}
