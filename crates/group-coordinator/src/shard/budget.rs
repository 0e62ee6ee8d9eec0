//! What the groups of all partitions of a broker may hold together: clients must not fill the memory with groups,
//! members or offsets, however many of them there are.

use ottla_model::{ErrorCode, GroupId};

use super::Shard;
use crate::budget::{Rank, Usage};
use crate::group::{Group, NAMED_TOPIC_BYTES};
use crate::request::{
    CommitInTransaction, CommitOffsets, ConsumerGroupHeartbeat, JoinGroup, Request, SyncGroup, bytes_of_client,
    bytes_of_protocols,
};

/// The longest name of a new group: the budget counts groups, of any name. Kafka has no limit but that of a string.
const GROUP_NAME_BYTES_MAX: usize = 2_048;

impl Shard {
    /// The error with which a request is refused because the broker's groups hold as much as they may.
    pub(super) fn over_budget(&self, request: &Request) -> Option<ErrorCode> {
        let is_too_long = |group: &GroupId| group.as_str().len() > GROUP_NAME_BYTES_MAX;
        if request.group().is_some_and(|group| is_too_long(group) && !self.groups.contains_key(group)) {
            return Some(ErrorCode::InvalidGroupId);
        }
        let (more, error) = match request {
            Request::JoinGroup(join) => (self.added_by_join(join), ErrorCode::GroupMaxSizeReached),
            Request::SyncGroup(sync) => (self.added_by_sync(sync), ErrorCode::GroupMaxSizeReached),
            Request::ConsumerGroupHeartbeat(beat) => (self.added_by_heartbeat(beat), ErrorCode::GroupMaxSizeReached),
            Request::CommitOffsets(commit) => (self.added_by_commit(commit), ErrorCode::InvalidCommitOffsetSize),
            Request::CommitInTransaction(CommitInTransaction { commit, .. }) => {
                let bytes = self.offsets.bytes_added_in_transaction(commit);
                (Usage { bytes, ..self.added_by_commit(commit) }, ErrorCode::InvalidCommitOffsetSize)
            }
            _ => return None,
        };
        (!self.share.budget.has_room(more, self.rank(request))).then_some(error)
    }

    /// Commits of groups without members leave some room to the others: what they leave behind stays until it expires,
    /// members go with their client.
    fn rank(&self, request: &Request) -> Rank {
        let has_members = |group: &GroupId| self.groups.get(group).is_some_and(|group| group.member_count() > 0);
        match request {
            Request::CommitOffsets(commit) if !has_members(&commit.group) => Rank::WithoutMembers,
            Request::CommitInTransaction(request) if !has_members(&request.commit.group) => Rank::WithoutMembers,
            _ => Rank::WithMembers,
        }
    }

    fn added_by_join(&self, join: &JoinGroup) -> Usage {
        let group = self.groups.get(&join.group);
        let former = group.and_then(|group| group.said_by(&join.member, join.instance.as_ref()));
        let bytes = bytes_of_protocols(&join.protocols) + bytes_of_client(&join.client, join.instance.as_ref());
        Usage {
            groups: usize::from(group.is_none()),
            members: usize::from(former.is_none()),
            // A member that joins again mostly says what it said before.
            bytes: bytes.saturating_sub(former.unwrap_or(0)),
        }
    }

    fn added_by_sync(&self, sync: &SyncGroup) -> Usage {
        let Some(group) = self.groups.get(&sync.group) else { return Usage::default() };
        let bytes: usize = sync.assignments.iter().map(|(_, assignment)| assignment.len()).sum();
        Usage { bytes: bytes.saturating_sub(group.assigned_bytes()), ..Usage::default() }
    }

    fn added_by_heartbeat(&self, beat: &ConsumerGroupHeartbeat) -> Usage {
        let group = self.groups.get(&beat.group);
        let former = group.and_then(|group| group.said_by(&beat.member, beat.instance.as_ref()));
        if former.is_none() && beat.member_epoch != 0 {
            return Usage::default();
        }
        let topics: usize = beat.subscribed_topics.iter().flatten().map(|topic| NAMED_TOPIC_BYTES + topic.len()).sum();
        let named = beat.subscribed_regex.as_ref().map_or(0, String::len) + beat.rack.as_ref().map_or(0, String::len);
        let bytes = topics + named + bytes_of_client(&beat.client, beat.instance.as_ref());
        Usage {
            groups: usize::from(group.is_none()),
            members: usize::from(former.is_none()),
            bytes: bytes.saturating_sub(former.unwrap_or(0)),
        }
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
