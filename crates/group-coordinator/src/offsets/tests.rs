use std::collections::BTreeSet;

use bytes::Bytes;
use ottla_model::{
    BrokerId, ErrorCode, GroupId, LeaderEpoch, MemberId, MonotonicMs, Offset, PartitionId, TimestampMs, TopicId,
    TopicName,
};

use super::*;
use crate::answer::{FetchedOffset, GroupAnswer};
use crate::config::GroupConfig;
use crate::effects::RequestId;
use crate::group::Group;
use crate::group::classic::ClassicGroup;
use crate::record::{ClassicGroupMember, ClassicGroupMetadata};
use crate::request::{CommitOffsets, CommitPartition, DeleteOffsets, FetchOffsets, GroupTopic};
use crate::shard::testing::NoTopics;
use crate::topics::{TopicView, Topics};
use crate::{Now, group::embedded};

const ID: RequestId = RequestId(1);
const OLD: TopicId = TopicId([1; 16]);
const NEW: TopicId = TopicId([2; 16]);
const DAY_MS: i64 = 86_400_000;

fn now(wall: i64) -> Now {
    Now { monotonic: MonotonicMs(0), wall: TimestampMs(wall) }
}

fn group() -> GroupId {
    GroupId::new("g")
}

fn partition(partition: i32, offset: i64) -> CommitPartition {
    CommitPartition {
        partition: PartitionId(partition),
        offset: Offset(offset),
        leader_epoch: LeaderEpoch(3),
        metadata: None,
        timestamp: None,
        refused: None,
    }
}

fn commit(topics: Vec<(&str, TopicId, Vec<CommitPartition>)>) -> CommitOffsets {
    CommitOffsets {
        group: group(),
        member: MemberId::new(""),
        instance: None,
        generation_or_epoch: -1,
        knows_member_epochs: true,
        retention_ms: None,
        topics: topics
            .into_iter()
            .map(|(name, id, partitions)| (GroupTopic { name: name.to_owned(), id }, partitions))
            .collect(),
    }
}

/// Commits at the time and lets the log take it.
fn committed(store: &mut OffsetStore, at: i64, request: CommitOffsets) {
    for record in in_flight(store, at, request) {
        store.apply(&record);
    }
}

fn in_flight(store: &mut OffsetStore, at: i64, request: CommitOffsets) -> Vec<Record> {
    let records = store.commit(now(at), &GroupConfig::default(), ID, request).records;
    records.iter().for_each(|record| store.propose(record));
    records
}

fn fetch(store: &OffsetStore, topic: &str, id: TopicId, partition: i32, require_stable: bool) -> FetchedOffset {
    let topic = GroupTopic { name: topic.to_owned(), id };
    let request = FetchOffsets {
        group: group(),
        member: None,
        member_epoch: -1,
        require_stable,
        topics: Some(vec![(topic, vec![PartitionId(partition)])]),
    };
    store.fetch(&NoTopics, &request).topics.remove(0).1.remove(0)
}

fn offset(store: &OffsetStore, topic: &str, partition: i32) -> i64 {
    fetch(store, topic, TopicId::ZERO, partition, false).offset.0
}

/// The topics and partitions that records are about.
fn keys(records: &[Record]) -> Vec<(String, i32)> {
    let keys = records.iter().map(|record| match record {
        Record::Offset { key, value: None } => (key.topic.clone(), key.partition.0),
        other => panic!("not a tombstone: {other:?}"),
    });
    keys.collect()
}

fn subscribed(state_since: i64, topics: &[&str]) -> Group {
    let subscription = embedded::Subscription {
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        ..embedded::Subscription::default()
    };
    let members = match topics {
        [] => Vec::new(),
        _ => vec![ClassicGroupMember {
            member: MemberId::new("m"),
            instance: None,
            client_id: String::new(),
            client_host: String::new(),
            rebalance_timeout_ms: 1,
            session_timeout_ms: 1,
            subscription: embedded::write_subscription(&subscription),
            assignment: Bytes::new(),
        }],
    };
    let has_members = !members.is_empty();
    Group::Classic(ClassicGroup::from_record(ClassicGroupMetadata {
        protocol_type: "consumer".to_owned(),
        generation: 1,
        protocol: has_members.then(|| "range".to_owned()),
        leader: has_members.then(|| MemberId::new("m")),
        current_state_timestamp: Some(TimestampMs(state_since)),
        members,
    }))
}

fn simple() -> Group {
    Group::Classic(ClassicGroup::simple())
}

/// The topic, and one that cannot be read.
struct OneTopic(TopicView);

const UNREADABLE: &str = "unreadable";

impl Topics for OneTopic {
    fn by_name(&self, name: &str) -> Option<TopicView> {
        (self.0.name.as_str() == name).then(|| self.0.clone())
    }
    fn by_id(&self, id: TopicId) -> Option<TopicView> {
        (self.0.id == id).then(|| self.0.clone())
    }
    fn is_unreadable(&self, name: &str) -> bool {
        name == UNREADABLE
    }
    fn names(&self, each: &mut dyn FnMut(&TopicName)) {
        each(&self.0.name);
    }
    fn version(&self) -> u64 {
        1
    }
    fn racks(&self, _: TopicId, _: PartitionId) -> Vec<String> {
        Vec::new()
    }
    fn here(&self) -> BrokerId {
        BrokerId(1)
    }
}

#[test]
fn a_commit_is_told_once_it_is_replicated() {
    let mut store = OffsetStore::default();
    let mut first = partition(0, 7);
    first.metadata = Some("note".to_owned());
    let records = in_flight(&mut store, 5, commit(vec![("t", OLD, vec![first, partition(1, 8)])]));
    assert_eq!(offset(&store, "t", 0), -1, "not before it is replicated");
    let unstable = fetch(&store, "t", TopicId::ZERO, 0, true);
    assert_eq!((unstable.error, unstable.offset), (ErrorCode::UnstableOffsetCommit, Offset::UNKNOWN));
    records.iter().for_each(|record| store.apply(record));
    assert_eq!(
        fetch(&store, "t", TopicId::ZERO, 0, true),
        FetchedOffset {
            partition: PartitionId(0),
            offset: Offset(7),
            leader_epoch: LeaderEpoch(3),
            metadata: "note".to_owned(),
            error: ErrorCode::None,
        }
    );
    let everything =
        FetchOffsets { group: group(), member: None, member_epoch: -1, require_stable: false, topics: None };
    let all = store.fetch(&NoTopics, &everything).topics;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].1.iter().map(|found| found.offset.0).collect::<Vec<_>>(), [7, 8]);
    // Another group has nothing, and a partition that nobody committed is −1.
    let other = FetchOffsets { group: GroupId::new("h"), ..everything };
    assert!(store.fetch(&NoTopics, &other).topics.is_empty());
    assert_eq!(offset(&store, "t", 9), -1);
    assert_eq!(offset(&store, "u", 0), -1);
}

#[test]
fn a_refused_commit_leaves_what_was_there() {
    let mut store = OffsetStore::default();
    committed(&mut store, 1, commit(vec![("t", OLD, vec![partition(0, 7)])]));
    let refused =
        in_flight(&mut store, 2, commit(vec![("t", OLD, vec![partition(0, 9)]), ("u", NEW, vec![partition(0, 1)])]));
    refused.iter().for_each(|record| store.withdraw(record));
    assert_eq!(fetch(&store, "t", TopicId::ZERO, 0, true).offset, Offset(7));
    assert_eq!(store.names.len(), 1, "what nobody holds is forgotten");
}

#[test]
fn partitions_fail_alone() {
    let store = OffsetStore::default();
    let config = GroupConfig { offset_metadata_max_bytes: 3, ..GroupConfig::default() };
    // Three characters of Java, nine bytes; then four characters.
    let mut fits = partition(0, 1);
    fits.metadata = Some("äöü".to_owned());
    let mut too_large = partition(1, 2);
    too_large.metadata = Some("𝄞𝄞".to_owned());
    let mut unknown = partition(2, 3);
    unknown.refused = Some(ErrorCode::UnknownTopicOrPartition);
    let decision = store.commit(now(1), &config, ID, commit(vec![("t", OLD, vec![fits, too_large.clone(), unknown])]));
    assert_eq!(decision.records.len(), 1);
    let [(ID, GroupAnswer::CommitOffsets(topics))] = &decision.after[..] else { panic!("{decision:?}") };
    assert_eq!(
        topics[0].1,
        [
            (PartitionId(0), ErrorCode::None),
            (PartitionId(1), ErrorCode::OffsetMetadataTooLarge),
            (PartitionId(2), ErrorCode::UnknownTopicOrPartition)
        ]
    );
    // With nothing to write the answer need not wait.
    let decision = store.commit(now(1), &config, ID, commit(vec![("t", OLD, vec![too_large])]));
    assert_eq!((decision.records.len(), decision.now.len(), decision.after.len()), (0, 1, 0));
}

#[test]
fn another_topic_of_the_same_name_has_no_offset() {
    let mut store = OffsetStore::default();
    committed(
        &mut store,
        1,
        commit(vec![("t", OLD, vec![partition(0, 7)]), ("u", TopicId::ZERO, vec![partition(0, 8)])]),
    );
    assert_eq!(fetch(&store, "t", OLD, 0, false).offset, Offset(7));
    assert_eq!(fetch(&store, "t", NEW, 0, false).offset, Offset::UNKNOWN);
    assert_eq!(fetch(&store, "u", NEW, 0, false).offset, Offset(8), "an id that is not known forbids nothing");
}

#[test]
fn offset_delete_spares_what_members_read() {
    let mut store = OffsetStore::default();
    committed(&mut store, 1, commit(vec![("read", OLD, vec![partition(0, 1)]), ("left", OLD, vec![partition(0, 2)])]));
    in_flight(&mut store, 2, commit(vec![("left", OLD, vec![partition(1, 2)])]));
    let request = DeleteOffsets {
        group: group(),
        topics: vec![
            ("read".to_owned(), vec![PartitionId(0)]),
            ("left".to_owned(), vec![PartitionId(0), PartitionId(1), PartitionId(2)]),
        ],
    };
    let decision = store.delete(&subscribed(0, &["read"]), ID, &request);
    assert_eq!(keys(&decision.records), [("left".to_owned(), 0), ("left".to_owned(), 1)], "also what is in flight");
    let [(ID, GroupAnswer::DeleteOffsets(deleted))] = &decision.after[..] else { panic!("{decision:?}") };
    assert_eq!(deleted.error, ErrorCode::None);
    assert_eq!(deleted.topics[0].1, [(PartitionId(0), ErrorCode::GroupSubscribedToTopic)]);
    assert!(deleted.topics[1].1.iter().all(|(_, code)| *code == ErrorCode::None));
    decision.records.iter().for_each(|record| {
        store.propose(record);
        store.apply(record);
    });
    assert_eq!((offset(&store, "left", 0), offset(&store, "read", 0)), (-1, 1));
}

#[test]
fn a_deleted_group_takes_everything_along() {
    let mut store = OffsetStore::default();
    committed(&mut store, 1, commit(vec![("t", OLD, vec![partition(0, 1), partition(1, 1)])]));
    let late = in_flight(&mut store, 2, commit(vec![("u", OLD, vec![partition(5, 1)])]));
    let tombstones = store.delete_all(&group());
    assert_eq!(keys(&tombstones), [("t".to_owned(), 0), ("t".to_owned(), 1), ("u".to_owned(), 5)]);
    tombstones.iter().for_each(|record| store.propose(record));
    late.iter().chain(&tombstones).for_each(|record| store.apply(record));
    assert!(store.groups.is_empty() && store.groups().is_empty() && store.names.len() == 0);
    assert!(store.delete_all(&group()).is_empty());
}

#[test]
fn offsets_of_deleted_topics_go_and_those_of_a_successor_stay() {
    let mut store = OffsetStore::default();
    committed(
        &mut store,
        1,
        commit(vec![
            ("gone", OLD, vec![partition(0, 1), partition(1, 1)]),
            ("again", OLD, vec![partition(0, 1)]),
            ("again", NEW, vec![partition(1, 1)]),
            ("kept", OLD, vec![partition(0, 1)]),
        ]),
    );
    in_flight(&mut store, 2, commit(vec![("gone", OLD, vec![partition(2, 1)])]));
    let again = TopicView { id: NEW, name: TopicName::new("again").unwrap(), partitions: 2 };
    let topics = OneTopic(again);
    let deleted = BTreeSet::from(["gone", "again", "never"].map(|name| TopicName::new(name).unwrap()));
    let found = found_gone(&store, &topics, Some(&deleted));
    assert_eq!(found, [("gone", 0), ("gone", 1), ("gone", 2), ("again", 0)].map(|(name, at)| (name.to_owned(), at)));
    // The client commits for the new topic before the tombstone is written.
    in_flight(&mut store, 3, commit(vec![("again", NEW, vec![partition(0, 2)])]));
    let found = found_gone(&store, &topics, Some(&deleted));
    assert_eq!(found, [("gone", 0), ("gone", 1), ("gone", 2)].map(|(name, at)| (name.to_owned(), at)));
}

/// What a search finds, in pieces of two looks.
fn found_gone(store: &OffsetStore, topics: &dyn Topics, deleted: Option<&BTreeSet<TopicName>>) -> Vec<(String, i32)> {
    let gone = store.gone_topics(topics, deleted);
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let piece = store.find_gone(&gone, &group(), after, 2);
        found.extend(piece.tombstones);
        after = piece.next;
        if after.is_none() {
            let whole = store.find_gone(&gone, &group(), None, usize::MAX).tombstones;
            assert_eq!(keys(&found).into_iter().collect::<BTreeSet<_>>(), keys(&whole).into_iter().collect());
            return keys(&whole);
        }
    }
}

/// After a load. An offset without a topic id may be any topic's; of a topic that cannot be read nothing is known, and
/// an open transaction may end later.
#[test]
fn offsets_of_other_topics_than_those_of_now_go_when_everything_is_compared() {
    let mut store = OffsetStore::default();
    committed(
        &mut store,
        1,
        commit(vec![
            ("gone", OLD, vec![partition(0, 1), partition(1, 1), partition(2, 1)]),
            ("again", OLD, vec![partition(0, 1)]),
            ("again", NEW, vec![partition(1, 1)]),
            ("of-kafka", TopicId::ZERO, vec![partition(0, 1)]),
            (UNREADABLE, OLD, vec![partition(0, 1)]),
        ]),
    );
    let open = commit(vec![("gone", OLD, vec![partition(7, 1)]), ("again", NEW, vec![partition(7, 1)])]);
    for record in store.commit(now(2), &GroupConfig::default(), ID, open).records {
        store.replay_in_transaction(ottla_model::ProducerId(1), record);
    }
    let again = TopicView { id: NEW, name: TopicName::new("again").unwrap(), partitions: 2 };
    let found = found_gone(&store, &OneTopic(again), None);
    let expected = [("gone", 0), ("gone", 1), ("gone", 2), ("gone", 7), ("again", 0)];
    assert_eq!(found, expected.map(|(name, at)| (name.to_owned(), at)));
}

#[test]
fn offsets_expire_by_the_groups_state() {
    let config = GroupConfig { offsets_retention_ms: 7 * DAY_MS, ..GroupConfig::default() };
    let mut store = OffsetStore::default();
    committed(&mut store, 0, commit(vec![("old", OLD, vec![partition(0, 1)]), ("read", OLD, vec![partition(0, 1)])]));
    committed(&mut store, 5 * DAY_MS, commit(vec![("new", OLD, vec![partition(0, 1)])]));
    let expired = |store: &OffsetStore, group_state: &Group, at: i64| {
        let found = store.expire(&group(), group_state, TimestampMs(at), &config, None, usize::MAX);
        (keys(&found.tombstones).into_iter().map(|(topic, _)| topic).collect::<Vec<_>>(), found.nothing_left)
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    // A group without members of any kind: each offset from its commit on.
    assert_eq!(expired(&store, &simple(), 7 * DAY_MS - 1), (names(&[]), false));
    assert_eq!(expired(&store, &simple(), 7 * DAY_MS), (names(&["old", "read"]), false));
    assert_eq!(expired(&store, &simple(), 12 * DAY_MS), (names(&["old", "read", "new"]), true));
    // A group that became empty at day 4: all of them a retention after that.
    let emptied = subscribed(4 * DAY_MS, &[]);
    assert_eq!(expired(&store, &emptied, 11 * DAY_MS - 1), (names(&[]), false));
    assert_eq!(expired(&store, &emptied, 11 * DAY_MS), (names(&["old", "read", "new"]), true));
    // A group with members keeps what they read.
    assert_eq!(expired(&store, &subscribed(0, &["read"]), 8 * DAY_MS), (names(&["old"]), false));
    // A commit in flight holds its offset, and the group.
    in_flight(&mut store, 8 * DAY_MS, commit(vec![("old", OLD, vec![partition(0, 2)])]));
    assert_eq!(expired(&store, &simple(), 12 * DAY_MS), (names(&["read", "new"]), false));
    assert!(store.expire(&GroupId::new("none"), &simple(), TimestampMs(0), &config, None, usize::MAX).nothing_left);
}

#[test]
fn offsets_expire_in_pieces() {
    let mut store = OffsetStore::default();
    committed(&mut store, 0, commit(vec![("t", OLD, (0..10).map(|at| partition(at, 1)).collect())]));
    let (mut after, mut expired, mut pieces) = (None, 0, 0);
    loop {
        let config = GroupConfig::default();
        let found = store.expire(&group(), &simple(), TimestampMs(30 * DAY_MS), &config, after, 4);
        assert!(found.looked_at <= 4 && !found.nothing_left, "a piece does not speak for the whole group");
        (expired, pieces) = (expired + found.tombstones.len(), pieces + 1);
        after = found.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((expired, pieces), (10, 3));
}

#[test]
fn an_offset_may_carry_its_own_expiry() {
    let mut store = OffsetStore::default();
    let request =
        CommitOffsets { retention_ms: Some(1000), ..commit(vec![("t", TopicId::ZERO, vec![partition(0, 1)])]) };
    committed(&mut store, 5000, request);
    let at = |wall| {
        store.expire(&group(), &simple(), TimestampMs(wall), &GroupConfig::default(), None, usize::MAX).nothing_left
    };
    assert!(!at(5999));
    assert!(at(6000));
}

#[test]
fn an_entry_is_small() {
    assert_eq!(size_of::<Committed>() + size_of::<Key>(), 56);
}
