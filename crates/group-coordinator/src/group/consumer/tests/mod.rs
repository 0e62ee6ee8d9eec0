//! The rules of consumer groups, through a shard with a log in memory.

mod classic_members;
mod costs;
mod joining;
mod migration;
mod mixed;
mod random;
mod reconciling;
mod refused;
mod replaying;
mod subscribing;
mod transcripts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_model::{BrokerId, ErrorCode, GroupId, InstanceId, MemberId, PartitionId, TopicId, TopicName};

use crate::answer::{ConsumerGroupDescribed, ConsumerGroupMember, ConsumerHeartbeatAnswer, GroupAnswer};
use crate::config::GroupConfig;
use crate::group::Group;
use crate::record::Record;
use crate::request::{ClientInfo, ConsumerGroupHeartbeat, Request};
use crate::shard::testing::Host;
use crate::topics::{TopicView, Topics, VisibleTopics};

use super::ConsumerGroup;
use super::group::Soft;

pub(super) const SESSION_MS: u64 = 45_000;
pub(super) const REBALANCE_MS: i32 = 60_000;

pub(super) fn group() -> GroupId {
    GroupId::new("g")
}

/// The topics of a cluster that tests change.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    topics: BTreeMap<String, TopicView>,
    racks: Vec<String>,
    version: u64,
    /// How often all names were gone through.
    scans: Arc<AtomicUsize>,
    /// How often a topic was looked up.
    lookups: Arc<AtomicUsize>,
}

impl Cluster {
    pub(super) fn of(topics: &[(&str, i32)]) -> Self {
        let mut cluster = Self::default();
        for (name, partitions) in topics {
            cluster.set(name, *partitions);
        }
        cluster
    }

    /// Makes a topic, or gives it partitions.
    pub(super) fn set(&mut self, name: &str, partitions: i32) {
        self.version += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.version.to_be_bytes());
        let topic = TopicView { id: TopicId(id), name: TopicName::new(name).unwrap(), partitions };
        self.topics.entry(name.to_owned()).or_insert(topic).partitions = partitions;
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.version += 1;
        self.topics.remove(name);
    }

    pub(super) fn id(&self, name: &str) -> TopicId {
        self.topics[name].id
    }
}

impl Topics for Cluster {
    fn by_name(&self, name: &str) -> Option<TopicView> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.topics.get(name).cloned()
    }
    fn by_id(&self, id: TopicId) -> Option<TopicView> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.topics.values().find(|topic| topic.id == id).cloned()
    }
    fn names(&self, each: &mut dyn FnMut(&TopicName)) {
        self.scans.fetch_add(1, Ordering::Relaxed);
        self.topics.values().for_each(|topic| each(&topic.name));
    }
    fn version(&self) -> u64 {
        self.version
    }
    fn racks(&self, _: TopicId, _: PartitionId) -> Vec<String> {
        self.racks.clone()
    }
    fn here(&self) -> BrokerId {
        BrokerId(1)
    }
}

/// A host with a cluster.
pub(super) struct World {
    pub(super) host: Host,
    pub(super) cluster: Cluster,
}

impl World {
    pub(super) fn new(topics: &[(&str, i32)]) -> Self {
        Self::with(topics, GroupConfig::default())
    }

    pub(super) fn with(topics: &[(&str, i32)], config: GroupConfig) -> Self {
        let mut world = Self { host: Host::new(config), cluster: Cluster::of(topics) };
        world.change(|_| {});
        world
    }

    /// Changes the topics.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.cluster);
        self.host.topics = Box::new(self.cluster.clone());
    }

    pub(super) fn beat(&mut self, request: ConsumerGroupHeartbeat) -> ConsumerHeartbeatAnswer {
        match self.host.call(Request::ConsumerGroupHeartbeat(request)) {
            GroupAnswer::ConsumerGroupHeartbeat(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn refused(&mut self, request: ConsumerGroupHeartbeat) -> (ErrorCode, String) {
        let answer = self.beat(request);
        assert_ne!(answer.error, ErrorCode::None);
        (answer.error, answer.message.unwrap())
    }

    pub(super) fn describe(&mut self) -> ConsumerGroupDescribed {
        match self.host.call(Request::ConsumerGroupDescribe(group())) {
            GroupAnswer::ConsumerGroupDescribe(described) => described,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn state(&mut self) -> &'static str {
        self.describe().state
    }

    /// The records from a position in the log on.
    pub(super) fn records(&self, from: usize) -> Vec<Record> {
        let records = self.host.log[from..].iter();
        records.map(|raw| Record::decode(&raw.key, raw.value.as_deref()).unwrap().unwrap()).collect()
    }

    /// The records from a position in the log on, by their kinds.
    pub(super) fn kinds(&self, from: usize) -> Vec<String> {
        self.records(from).iter().map(kind).collect()
    }

    /// What the log makes of the groups.
    pub(super) fn replayed(&self) -> BTreeMap<GroupId, Group> {
        let mut groups = BTreeMap::new();
        for record in self.records(0) {
            match record {
                Record::ClassicGroup { group, value: Some(value) } => {
                    groups.insert(group, Group::Classic(crate::group::classic::ClassicGroup::from_record(value)));
                }
                Record::ClassicGroup { group, value: None } => {
                    if matches!(groups.get(&group), Some(Group::Classic(_))) {
                        groups.remove(&group);
                    }
                }
                record => ConsumerGroup::replay(&mut groups, record),
            }
        }
        groups
    }

    /// The group as the log has it.
    pub(super) fn replayed_group(&self) -> Option<ConsumerGroup> {
        match self.replayed().remove(&group()) {
            Some(Group::Consumer(group)) => Some(group),
            _ => None,
        }
    }

    /// The shard's group and the log's are the same.
    pub(super) fn check_replay(&mut self) {
        let live = self.host.shard.group(&group()).cloned();
        match (live, self.replayed().remove(&group())) {
            (Some(Group::Consumer(mut live)), Some(Group::Consumer(replayed))) => {
                live.soft = Soft::default();
                assert_eq!(format!("{live:#?}"), format!("{replayed:#?}"));
            }
            (None, None) | (Some(Group::Classic(_)), Some(Group::Classic(_)) | None) => {}
            (live, replayed) => panic!("{live:#?}\nbut replayed:\n{replayed:#?}"),
        }
    }
}

fn kind(record: &Record) -> String {
    let (name, tombstone) = match record {
        Record::Offset { value, .. } => ("offset", value.is_none()),
        Record::ClassicGroup { value, .. } => ("classic", value.is_none()),
        Record::ConsumerGroup { value, .. } => ("epoch", value.is_none()),
        Record::PartitionMetadata { value, .. } => ("partitions", value.is_none()),
        Record::ConsumerMember { value, .. } => ("member", value.is_none()),
        Record::TargetAssignment { value, .. } => ("target epoch", value.is_none()),
        Record::TargetMember { value, .. } => ("target", value.is_none()),
        Record::CurrentAssignment { value, .. } => ("current", value.is_none()),
        Record::RegularExpression { value, .. } => ("regex", value.is_none()),
    };
    if tombstone { format!("-{name}") } else { name.to_owned() }
}

/// A heartbeat that says nothing new.
pub(super) fn beat(member: &str, epoch: i32) -> ConsumerGroupHeartbeat {
    ConsumerGroupHeartbeat {
        group: group(),
        member: MemberId::new(member),
        fresh_id: String::new(),
        member_epoch: epoch,
        instance: None,
        rack: None,
        rebalance_timeout_ms: -1,
        client: ClientInfo { client_id: "c".to_owned(), client_host: "/127.0.0.1".to_owned() },
        subscribed_topics: None,
        subscribed_regex: None,
        visible_topics: VisibleTopics::default(),
        server_assignor: None,
        owned: None,
    }
}

pub(super) fn join(member: &str, topics: &[&str]) -> ConsumerGroupHeartbeat {
    ConsumerGroupHeartbeat {
        rebalance_timeout_ms: REBALANCE_MS,
        subscribed_topics: Some(topics.iter().map(|topic| (*topic).to_owned()).collect()),
        owned: Some(vec![]),
        ..beat(member, 0)
    }
}

pub(super) fn join_static(member: &str, instance: &str, topics: &[&str]) -> ConsumerGroupHeartbeat {
    ConsumerGroupHeartbeat { instance: Some(InstanceId::new(instance)), ..join(member, topics) }
}

pub(super) fn join_regex(member: &str, regex: &str) -> ConsumerGroupHeartbeat {
    ConsumerGroupHeartbeat { subscribed_topics: None, subscribed_regex: Some(regex.to_owned()), ..join(member, &[]) }
}

/// A heartbeat with what the member owns.
pub(super) fn owns(member: &str, epoch: i32, owned: &[(TopicId, &[i32])]) -> ConsumerGroupHeartbeat {
    ConsumerGroupHeartbeat { owned: Some(partitions(owned)), ..beat(member, epoch) }
}

pub(super) fn partitions(of: &[(TopicId, &[i32])]) -> Vec<(TopicId, Vec<PartitionId>)> {
    of.iter().map(|(topic, of)| (*topic, of.iter().map(|partition| PartitionId(*partition)).collect())).collect()
}

/// The topics that a member shall own partitions of.
pub(super) fn assigned_names(member: &ConsumerGroupMember) -> Vec<String> {
    member.target_assignment.iter().map(|(_, name, _)| name.clone()).collect()
}
