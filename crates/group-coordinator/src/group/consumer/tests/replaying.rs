//! Replay of logs as compaction leaves them.

use std::collections::BTreeMap;

use ottla_model::{MemberId, PartitionId, TopicId};

use super::group;
use crate::group::Group;
use crate::group::consumer::ConsumerGroup;
use crate::record::{ConsumerMemberMetadata, CurrentAssignment, MemberState, Record, TopicPartitions};

const TOPIC: TopicId = TopicId([7; 16]);

fn assignment(member: &str, epoch: i32, assigned: &[i32], pending: &[i32]) -> Record {
    let of = |partitions: &[i32]| match partitions {
        [] => Vec::new(),
        partitions => vec![TopicPartitions {
            topic: TOPIC,
            partitions: partitions.iter().copied().map(PartitionId).collect(),
            assignment_epochs: vec![epoch; partitions.len()],
        }],
    };
    let value = CurrentAssignment {
        member_epoch: epoch,
        previous_member_epoch: epoch,
        state: if pending.is_empty() { MemberState::Stable } else { MemberState::UnrevokedPartitions },
        assigned: of(assigned),
        pending_revocation: of(pending),
    };
    Record::CurrentAssignment { group: group(), member: MemberId::new(member), value: Some(value) }
}

fn metadata(member: &str) -> Record {
    let value = ConsumerMemberMetadata {
        instance: None,
        rack: None,
        client_id: String::new(),
        client_host: String::new(),
        subscribed_topics: vec!["t".to_owned()],
        subscribed_regex: None,
        rebalance_timeout_ms: 1_000,
        server_assignor: None,
        classic: None,
    };
    Record::ConsumerMember { group: group(), member: MemberId::new(member), value: Some(value) }
}

/// Seed 477 of the groups: the log is compacted while it is read. Member "a" held the partition, was put out and joined
/// again: its tombstones lie in the compacted part and are gone, for its keys have later values. Meanwhile the
/// partition went to "b", which has not let go of it.
#[test]
fn a_former_life_of_a_member_takes_no_partition_from_its_owner() {
    let mut groups = BTreeMap::new();
    let log = [
        metadata("a"),
        metadata("b"),
        assignment("a", 12, &[3], &[]),
        // From here on the log is compacted.
        assignment("b", 14, &[2], &[3]),
        metadata("a"),
        assignment("a", 17, &[5], &[]),
    ];
    for record in log {
        ConsumerGroup::replay(&mut groups, record);
    }
    let Some(Group::Consumer(consumer)) = groups.get(&group()) else { panic!("no consumer group") };
    let owner = |partition| consumer.owners[&TOPIC].get(&PartitionId(partition)).map(MemberId::as_str);
    assert_eq!((owner(2), owner(3), owner(5)), (Some("b"), Some("b"), Some("a")));
}

/// As above, but "b" only held the partition between two lives of "a", which holds it again.
#[test]
fn an_owner_in_between_takes_no_partition_from_a_member_that_holds_it_again() {
    let mut groups = BTreeMap::new();
    let log = [
        metadata("a"),
        metadata("b"),
        assignment("a", 12, &[3], &[]),
        assignment("b", 14, &[3], &[]),
        assignment("a", 15, &[3], &[]),
        assignment("b", 16, &[2], &[]),
    ];
    for record in log {
        ConsumerGroup::replay(&mut groups, record);
    }
    let Some(Group::Consumer(consumer)) = groups.get(&group()) else { panic!("no consumer group") };
    assert_eq!(consumer.owners[&TOPIC].get(&PartitionId(3)).map(MemberId::as_str), Some("a"));
}
