//! ConsumerGroupDescribe.

use std::collections::BTreeMap;

use ottla_model::{ErrorCode, GroupId, MemberId, PartitionId, TopicId};

use super::ConsumerGroup;
use super::member::Member;
use crate::answer::{ConsumerGroupDescribed, ConsumerGroupMember};
use crate::assignor::Partitions;
use crate::config::GroupConfig;
use crate::topics::Topics;

impl ConsumerGroup {
    pub(crate) fn describe(
        &self,
        group: &GroupId,
        topics: &dyn Topics,
        config: &GroupConfig,
    ) -> ConsumerGroupDescribed {
        // Each topic is looked up once, however many members have of it.
        let mut names = BTreeMap::new();
        let mut name = |id: TopicId| -> Option<String> {
            names.entry(id).or_insert_with(|| topics.by_id(id).map(|topic| topic.name.to_string())).clone()
        };
        ConsumerGroupDescribed {
            error: ErrorCode::None,
            message: None,
            group: group.clone(),
            state: self.state().name(),
            group_epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            assignor: self.preferred_assignor(&config.consumer_assignors),
            members: self.members.iter().map(|(id, member)| self.described(id, member, &mut name)).collect(),
        }
    }

    fn described(
        &self,
        id: &MemberId,
        member: &Member,
        name: &mut impl FnMut(TopicId) -> Option<String>,
    ) -> ConsumerGroupMember {
        // Topics that are gone have no name any more.
        let mut named = |partitions: Vec<(TopicId, Vec<PartitionId>)>| {
            partitions.into_iter().filter_map(|(id, partitions)| Some((id, name(id)?, partitions))).collect()
        };
        let target = self.targets.get(id).map(Partitions::iter).into_iter().flatten();
        ConsumerGroupMember {
            member: id.clone(),
            instance: member.instance.clone(),
            rack: member.rack.clone(),
            member_epoch: member.epoch,
            client_id: member.client.client_id.clone(),
            client_host: member.client.client_host.clone(),
            subscribed_topics: member.topics.iter().cloned().collect(),
            subscribed_regex: member.regex.clone(),
            assignment: named(
                member.assigned.iter().map(|(id, partitions)| (*id, partitions.keys().copied().collect())).collect(),
            ),
            target_assignment: named(
                target.map(|(id, partitions)| (*id, partitions.iter().copied().collect())).collect(),
            ),
            is_classic: member.is_classic(),
        }
    }
}
