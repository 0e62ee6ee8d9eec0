//! One member of a consumer group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_model::{GroupId, InstanceId, MemberId, PartitionId, TopicId};

use crate::record::{
    ClassicMemberMetadata, ConsumerMemberMetadata, CurrentAssignment, MemberState, Record, TopicPartitions,
};
use crate::request::{ClientInfo, ConsumerGroupHeartbeat, bytes_of_client, bytes_of_protocols};

/// The epoch that a member joins with, and that of a member that replaces a static one until it is reconciled.
pub(super) const JOINING: i32 = 0;
/// A member that has left for good.
pub(super) const LEFT: i32 = -1;
/// A static member that will be back before its session ends: it keeps its partitions.
pub(super) const LEFT_FOR_A_WHILE: i32 = -2;

/// Partitions, each with the member epoch at which it was given (KIP-1251); no topic without a partition.
pub(super) type Owned = BTreeMap<TopicId, BTreeMap<PartitionId, i32>>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Member {
    pub(super) epoch: i32,
    /// Accepted while the answer that raised the epoch may have been lost.
    pub(super) previous_epoch: i32,
    pub(super) state: MemberState,
    pub(super) instance: Option<InstanceId>,
    pub(super) rack: Option<String>,
    pub(super) client: ClientInfo,
    /// Members that name the same topics share one set.
    pub(super) topics: Arc<BTreeSet<String>>,
    /// Not empty.
    pub(super) regex: Option<String>,
    pub(super) rebalance_timeout_ms: i32,
    /// The assignor that it asks for.
    pub(super) assignor: Option<String>,
    /// For a member that speaks the classic protocol.
    pub(super) classic: Option<ClassicMemberMetadata>,
    pub(super) assigned: Owned,
    /// Told to the member, and not yet confirmed.
    pub(super) pending_revocation: Owned,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            epoch: JOINING,
            previous_epoch: LEFT,
            state: MemberState::Stable,
            instance: None,
            rack: None,
            client: ClientInfo::default(),
            topics: Arc::default(),
            regex: None,
            rebalance_timeout_ms: -1,
            assignor: None,
            classic: None,
            assigned: Owned::new(),
            pending_revocation: Owned::new(),
        }
    }
}

impl Member {
    pub(super) fn is_classic(&self) -> bool {
        self.classic.is_some()
    }

    /// It owns exactly what the target of this epoch says.
    pub(super) fn is_reconciled_to(&self, assignment_epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == assignment_epoch
    }

    /// It was told to give something up and has not said that it did. A static member that has left for a while reads
    /// nothing.
    pub(super) fn must_give_up(&self) -> bool {
        self.state == MemberState::UnrevokedPartitions && !self.is_classic() && self.epoch != LEFT_FOR_A_WHILE
    }

    /// The epoch at which a partition was given to it, also while it gives it up.
    pub(super) fn assignment_epoch(&self, topic: TopicId, partition: PartitionId) -> Option<i32> {
        let of = |owned: &Owned| owned.get(&topic)?.get(&partition).copied();
        of(&self.assigned).or_else(|| of(&self.pending_revocation))
    }

    /// What it holds, or may still hold.
    pub(super) fn held(&self) -> impl Iterator<Item = (TopicId, PartitionId)> + '_ {
        [&self.assigned, &self.pending_revocation]
            .into_iter()
            .flatten()
            .flat_map(|(topic, partitions)| partitions.keys().map(|partition| (*topic, *partition)))
    }

    /// What the member says of itself, in bytes, without the topics that it names.
    pub(super) fn bytes(&self) -> usize {
        let protocols = self.classic.as_ref().map_or(0, |classic| bytes_of_protocols(&classic.protocols));
        let named = self.regex.as_ref().map_or(0, String::len) + self.rack.as_ref().map_or(0, String::len);
        protocols + named + bytes_of_client(&self.client, self.instance.as_ref())
    }

    /// Takes what a heartbeat tells of the member.
    pub(super) fn hear(&mut self, beat: &ConsumerGroupHeartbeat) {
        if let Some(instance) = &beat.instance {
            self.instance = Some(instance.clone());
        }
        if let Some(rack) = &beat.rack {
            self.rack = Some(rack.clone());
        }
        if beat.rebalance_timeout_ms != -1 {
            self.rebalance_timeout_ms = beat.rebalance_timeout_ms;
        }
        if let Some(assignor) = &beat.server_assignor {
            self.assignor = Some(assignor.clone());
        }
        if let Some(topics) = &beat.subscribed_topics {
            self.subscribe(topics.iter().cloned().collect());
        }
        if let Some(regex) = &beat.subscribed_regex {
            self.regex = Some(regex.clone()).filter(|regex| !regex.is_empty());
        }
        self.client = beat.client.clone();
        self.classic = None;
    }

    /// Whether [`Self::hear`] may change anything. Most heartbeats tell nothing, and copy no member.
    pub(super) fn hears_news(&self, beat: &ConsumerGroupHeartbeat) -> bool {
        beat.rack.is_some()
            || beat.rebalance_timeout_ms != -1
            || beat.server_assignor.is_some()
            || beat.subscribed_topics.is_some()
            || beat.subscribed_regex.is_some()
            || (beat.instance.is_some() && beat.instance != self.instance)
            || beat.client != self.client
            || self.is_classic()
    }

    /// Keeps the former set if it has the same topics.
    pub(super) fn subscribe(&mut self, topics: BTreeSet<String>) {
        if *self.topics != topics {
            self.topics = Arc::new(topics);
        }
    }

    /// Takes what a member metadata record says.
    pub(super) fn describe_as(&mut self, value: &ConsumerMemberMetadata) {
        self.instance = value.instance.clone();
        self.rack = value.rack.clone();
        self.client = ClientInfo { client_id: value.client_id.clone(), client_host: value.client_host.clone() };
        self.subscribe(value.subscribed_topics.iter().cloned().collect());
        self.regex = value.subscribed_regex.clone().filter(|regex| !regex.is_empty());
        self.rebalance_timeout_ms = value.rebalance_timeout_ms;
        self.assignor = value.server_assignor.clone();
        self.classic = value.classic.clone();
    }

    /// Takes what a current assignment record says.
    pub(super) fn assign_as(&mut self, value: &CurrentAssignment) {
        self.epoch = value.member_epoch;
        self.previous_epoch = value.previous_member_epoch;
        self.state = value.state;
        self.assigned = owned(&value.assigned, value.member_epoch);
        self.pending_revocation = owned(&value.pending_revocation, value.member_epoch);
    }

    pub(super) fn metadata_record(&self, group: &GroupId, member: &MemberId) -> Record {
        let value = ConsumerMemberMetadata {
            instance: self.instance.clone(),
            rack: self.rack.clone(),
            client_id: self.client.client_id.clone(),
            client_host: self.client.client_host.clone(),
            subscribed_topics: self.topics.iter().cloned().collect(),
            subscribed_regex: self.regex.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            server_assignor: self.assignor.clone(),
            classic: self.classic.clone(),
        };
        Record::ConsumerMember { group: group.clone(), member: member.clone(), value: Some(value) }
    }

    pub(super) fn assignment_record(&self, group: &GroupId, member: &MemberId) -> Record {
        let value = CurrentAssignment {
            member_epoch: self.epoch,
            previous_member_epoch: self.previous_epoch,
            state: self.state,
            assigned: listed(&self.assigned),
            pending_revocation: listed(&self.pending_revocation),
        };
        Record::CurrentAssignment { group: group.clone(), member: member.clone(), value: Some(value) }
    }
}

/// Partitions of a record; releases that did not know assignment epochs have given them by the member's epoch.
fn owned(topics: &[TopicPartitions], member_epoch: i32) -> Owned {
    let mut owned = Owned::new();
    for topic in topics.iter().filter(|topic| !topic.partitions.is_empty()) {
        let epochs = topic.assignment_epochs.iter().copied().chain(std::iter::repeat(member_epoch));
        owned.entry(topic.topic).or_default().extend(topic.partitions.iter().copied().zip(epochs));
    }
    owned
}

fn listed(owned: &Owned) -> Vec<TopicPartitions> {
    let listed = owned.iter().map(|(topic, partitions)| TopicPartitions {
        topic: *topic,
        partitions: partitions.keys().copied().collect(),
        assignment_epochs: partitions.values().copied().collect(),
    });
    listed.collect()
}
