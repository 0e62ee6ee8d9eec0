//! What the groups of all partitions of a broker may hold together: clients must not fill the memory with groups,
//! members or offsets, however many of them there are.

use ottla_model::{ErrorCode, GroupId};

use super::Shard;
use crate::budget::Usage;
use crate::group::Group;
use crate::request::{CommitOffsets, ConsumerGroupHeartbeat, JoinGroup, Request};

impl Shard {
    /// The error with which a request is refused because the broker's groups hold as much as they may.
    pub(super) fn over_budget(&self, request: &Request) -> Option<ErrorCode> {
        let (more, error) = match request {
            Request::JoinGroup(join) => (self.added_by_join(join), ErrorCode::GroupMaxSizeReached),
            Request::ConsumerGroupHeartbeat(beat) => (self.added_by_heartbeat(beat), ErrorCode::GroupMaxSizeReached),
            Request::CommitOffsets(commit) => (self.added_by_commit(commit), ErrorCode::InvalidCommitOffsetSize),
            _ => return None,
        };
        (!self.share.budget.has_room(more)).then_some(error)
    }

    fn added_by_join(&self, join: &JoinGroup) -> Usage {
        let group = self.groups.get(&join.group);
        let is_known = group.is_some_and(|group| group.has_member(&join.member, join.instance.as_ref()));
        let bytes: usize = join.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum();
        Usage {
            groups: usize::from(group.is_none()),
            members: usize::from(!is_known),
            // A member that joins again mostly says what it said before.
            bytes: if is_known { bytes.saturating_sub(REJOIN_BYTES) } else { bytes },
        }
    }

    fn added_by_heartbeat(&self, beat: &ConsumerGroupHeartbeat) -> Usage {
        let group = self.groups.get(&beat.group);
        let is_known = group.is_some_and(|group| group.has_member(&beat.member, beat.instance.as_ref()));
        if is_known || beat.member_epoch != 0 {
            return Usage::default();
        }
        let topics: usize = beat.subscribed_topics.iter().flatten().map(String::len).sum();
        let bytes = topics + beat.subscribed_regex.as_ref().map_or(0, String::len);
        Usage { groups: usize::from(group.is_none()), members: 1, bytes }
    }

    fn added_by_commit(&self, commit: &CommitOffsets) -> Usage {
        Usage {
            groups: usize::from(!self.groups.contains_key(&commit.group)),
            members: 0,
            bytes: self.offsets.bytes_added_by(commit),
        }
    }

    /// Measures a group whose members may have changed.
    pub(super) fn measure(&mut self, group: &GroupId) {
        let size = self.groups.get(group).map_or((0, 0), Group::size);
        self.share.set(group, size);
    }

    /// Measures a group if members have come or gone; what members say of themselves changes only with their requests.
    pub(super) fn measure_if_changed(&mut self, group: &GroupId) {
        let known = self.share.sizes.get(group).map_or(0, |(members, _)| *members);
        if self.groups.get(group).map_or(0, Group::member_count) != known {
            self.measure(group);
        }
    }

    /// Adds what this shard holds to what the broker holds.
    pub(super) fn report_usage(&mut self) {
        self.share.report(self.groups.len(), self.offsets.bytes());
    }
}

/// What a member that joins again may say without being measured before: subscriptions are smaller by far.
const REJOIN_BYTES: usize = 64 << 10;
