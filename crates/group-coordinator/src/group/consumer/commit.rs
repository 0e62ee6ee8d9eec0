//! Who may commit and fetch offsets of the group.

use ottla_model::{ErrorCode, MemberId, PartitionId};

use super::ConsumerGroup;
use super::member::Member;
use crate::request::{CommitOffsets, GroupTopic};
use crate::topics::Topics;

impl ConsumerGroup {
    /// Whether a commit counts. One of an older epoch does for partitions that the member has had since then
    /// (KIP-1251): it may not have heard yet of the epoch that it was moved to. As with Kafka, one partition that does
    /// not count refuses all.
    pub(crate) fn validate_commit(&self, topics: &dyn Topics, request: &CommitOffsets) -> Result<(), ErrorCode> {
        let epoch = request.generation_or_epoch;
        // An admin client, or a consumer that is in no group, may commit while nobody reads.
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(&request.member).ok_or(ErrorCode::UnknownMemberId)?;
        if !member.is_classic() && !request.knows_member_epochs {
            return Err(ErrorCode::UnsupportedVersion);
        }
        if epoch == member.epoch {
            return Ok(());
        }
        let counts = |topic: &GroupTopic, partition: PartitionId| {
            let known =
                if topic.id.is_zero() { topics.by_name(&topic.name).map(|topic| topic.id) } else { Some(topic.id) };
            known.and_then(|id| member.assignment_epoch(id, partition)).is_some_and(|assigned| assigned <= epoch)
        };
        let mut partitions =
            request.topics.iter().flat_map(|(topic, of)| of.iter().map(move |of| (topic, of.partition)));
        if epoch < member.epoch && partitions.all(|(topic, partition)| counts(topic, partition)) {
            return Ok(());
        }
        Err(stale(member))
    }

    /// Whether a commit inside a transaction counts: it comes from the member in its present epoch.
    pub(crate) fn validate_commit_in_transaction(&self, request: &CommitOffsets) -> Result<(), ErrorCode> {
        if request.generation_or_epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(&request.member).ok_or(ErrorCode::UnknownMemberId)?;
        // Producers know no STALE_MEMBER_EPOCH.
        if request.generation_or_epoch == member.epoch { Ok(()) } else { Err(ErrorCode::IllegalGeneration) }
    }

    /// Whether OffsetFetch is answered to this member; who names none is always answered.
    pub(crate) fn validate_fetch(&self, member: Option<&MemberId>, epoch: i32) -> Result<(), ErrorCode> {
        let Some(member) = member else {
            return if epoch < 0 { Ok(()) } else { Err(ErrorCode::UnknownMemberId) };
        };
        let found = self.members.get(member).ok_or(ErrorCode::UnknownMemberId)?;
        if epoch == found.epoch { Ok(()) } else { Err(stale(found)) }
    }
}

fn stale(member: &Member) -> ErrorCode {
    if member.is_classic() { ErrorCode::IllegalGeneration } else { ErrorCode::StaleMemberEpoch }
}
