//! What records do to a group: when they are written, and when they are replayed.
//!
//! Replay takes records as a log that was compacted holds them: a tombstone without what it removes, and a member's
//! assignment before what the member told of itself, are no errors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_model::{GroupId, MemberId, TopicName};

use super::ConsumerGroup;
use super::group::Expression;
use super::member::{LEFT, Member, Owned};
use crate::group::Group;
use crate::record::{ConsumerMemberMetadata, Record};

impl ConsumerGroup {
    /// Replays a record of a consumer group while loading.
    pub(crate) fn replay(groups: &mut BTreeMap<GroupId, Group>, record: Record) {
        let id = record.group().clone();
        if let Record::ConsumerGroup { value: None, .. } = record {
            if matches!(groups.get(&id), Some(Group::Consumer(_))) {
                groups.remove(&id);
            }
            return;
        }
        if has_value(&record) && !matches!(groups.get(&id), Some(Group::Consumer(_))) {
            groups.insert(id.clone(), Group::Consumer(Self::default()));
        }
        if let Some(Group::Consumer(group)) = groups.get_mut(&id) {
            group.apply(&record);
        }
    }

    /// Makes the change that a record says. The tombstone of the group itself is the shard's business.
    pub(super) fn apply(&mut self, record: &Record) {
        match record {
            Record::ConsumerGroup { value: Some(value), .. } => {
                self.epoch = value.epoch;
                self.metadata_hash = value.metadata_hash;
            }
            Record::PartitionMetadata { value, .. } => self.has_partition_metadata = value.is_some(),
            Record::ConsumerMember { member, value: Some(value), .. } => {
                self.set_metadata(member, value);
            }
            Record::ConsumerMember { member, value: None, .. } => {
                if let Some(removed) = self.members.remove(member) {
                    self.forget_identity(member, &removed);
                    self.forget_owned(member, &removed);
                    self.forget_subscription(&removed.topics, removed.regex.as_deref());
                }
            }
            Record::TargetAssignment { value, .. } => self.assignment_epoch = value.map_or(-1, |value| value.epoch),
            Record::TargetMember { member, value: Some(topics), .. } => {
                let target = topics
                    .iter()
                    .filter(|topic| !topic.partitions.is_empty())
                    .map(|topic| (topic.topic, topic.partitions.iter().copied().collect()));
                self.targets.insert(member.clone(), target.collect());
            }
            Record::TargetMember { member, value: None, .. } => {
                self.targets.remove(member);
            }
            Record::CurrentAssignment { member, value: Some(value), .. } => {
                self.set_assignment(member, |assigned| assigned.assign_as(value));
            }
            Record::CurrentAssignment { member, value: None, .. } => {
                if self.members.contains_key(member) {
                    self.set_assignment(member, |left| {
                        (left.epoch, left.previous_epoch) = (LEFT, LEFT);
                        (left.assigned, left.pending_revocation) = (Owned::new(), Owned::new());
                    });
                }
            }
            Record::RegularExpression { expression, value: Some(value), .. } => {
                let topics = value.topics.iter().filter_map(|topic| TopicName::new(topic).ok()).collect();
                self.expressions.insert(expression.clone(), Expression { topics });
            }
            Record::RegularExpression { expression, value: None, .. } => {
                self.expressions.remove(expression);
            }
            Record::ConsumerGroup { value: None, .. } | Record::ClassicGroup { .. } | Record::Offset { .. } => {}
        }
    }

    /// Changes what a member, perhaps a new one, says of itself. The owners of partitions stay as they are: a log that
    /// is compacted while it is read may show an assignment of a former life of the member, but not the tombstone that
    /// ended it. What that assignment names may be another member's by now.
    fn set_metadata(&mut self, id: &MemberId, value: &ConsumerMemberMetadata) {
        let mut member = self.members.remove(id).unwrap_or_default();
        let former = (Arc::clone(&member.topics), member.regex.clone());
        self.forget_identity(id, &member);
        member.describe_as(value);
        if !Arc::ptr_eq(&former.0, &member.topics) || former.1 != member.regex {
            self.forget_subscription(&former.0, former.1.as_deref());
            self.remember_subscription(&mut member);
        }
        self.remember_identity(id, &member);
        self.members.insert(id.clone(), member);
    }

    /// Changes what a member, perhaps a new one, holds.
    fn set_assignment(&mut self, id: &MemberId, assign: impl FnOnce(&mut Member)) {
        let mut member = self.members.remove(id).unwrap_or_default();
        self.forget_owned(id, &member);
        assign(&mut member);
        for (topic, partition) in member.held() {
            self.owners.entry(topic).or_default().insert(partition, id.clone());
        }
        self.members.insert(id.clone(), member);
    }

    fn remember_identity(&mut self, id: &MemberId, member: &Member) {
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        self.classic_members += usize::from(member.is_classic());
    }

    /// Counts a subscription, and lets the member share the topics of another one that is the same.
    fn remember_subscription(&mut self, member: &mut Member) {
        if !member.topics.is_empty() {
            match self.subscriptions.get_key_value(&member.topics) {
                Some((known, _)) => member.topics = Arc::clone(known),
                None => member.topics.iter().for_each(|topic| count_up(&mut self.named, topic)),
            }
            *self.subscriptions.entry(Arc::clone(&member.topics)).or_default() += 1;
        }
        if let Some(regex) = &member.regex {
            count_up(&mut self.by_regex, regex);
        }
    }

    fn forget_subscription(&mut self, topics: &Arc<BTreeSet<String>>, regex: Option<&str>) {
        if let Some(count) = self.subscriptions.get_mut(topics) {
            *count -= 1;
            if *count == 0 {
                self.subscriptions.remove(topics);
                topics.iter().for_each(|topic| count_down(&mut self.named, topic));
            }
        }
        if let Some(regex) = regex {
            count_down(&mut self.by_regex, regex);
        }
    }

    fn forget_identity(&mut self, id: &MemberId, member: &Member) {
        if let Some(instance) = &member.instance
            && self.statics.get(instance) == Some(id)
        {
            self.statics.remove(instance);
        }
        self.classic_members -= usize::from(member.is_classic());
    }

    fn forget_owned(&mut self, id: &MemberId, member: &Member) {
        for (topic, partition) in member.held() {
            if let Some(partitions) = self.owners.get_mut(&topic) {
                // A log that is compacted may show a later owner before the former one has let go.
                if partitions.get(&partition) == Some(id) {
                    partitions.remove(&partition);
                }
                if partitions.is_empty() {
                    self.owners.remove(&topic);
                }
            }
        }
    }
}

/// A tombstone makes no group.
fn has_value(record: &Record) -> bool {
    match record {
        Record::PartitionMetadata { value, .. } => value.is_some(),
        Record::ConsumerMember { value, .. } => value.is_some(),
        Record::TargetAssignment { value, .. } => value.is_some(),
        Record::TargetMember { value, .. } => value.is_some(),
        Record::CurrentAssignment { value, .. } => value.is_some(),
        Record::RegularExpression { value, .. } => value.is_some(),
        Record::ConsumerGroup { value, .. } => value.is_some(),
        Record::ClassicGroup { .. } | Record::Offset { .. } => false,
    }
}

fn count_up(counts: &mut BTreeMap<String, usize>, key: &str) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => {
            counts.insert(key.to_owned(), 1);
        }
    }
}

fn count_down(counts: &mut BTreeMap<String, usize>, key: &str) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
