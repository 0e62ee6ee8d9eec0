//! Reassignments: begun, completed, replaced, cancelled, and what else happens meanwhile.

use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, PartitionId};

use super::harness::*;
use crate::controller::*;
use crate::image::PartitionState;

fn numbers(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.0).collect()
}

/// Replicas, those that are added, and those that are removed.
fn replicas(state: &PartitionState) -> [Vec<i32>; 3] {
    [numbers(&state.replicas), numbers(state.adding()), numbers(state.removing())]
}

fn isr_becomes(cluster: &mut Cluster, isr: &[i32]) -> ErrorCode {
    let members = isr.iter().map(|broker| cluster.member(*broker)).collect();
    cluster.alter_isr("t", members)
}

fn cluster(assignment: &[i32], configs: &[(&str, &str)]) -> Cluster {
    let mut cluster = Cluster::of(5);
    cluster.create("t", &[assignment], configs);
    cluster
}

#[test]
fn a_partition_moves_to_other_brokers() {
    let mut cluster = cluster(&[1, 2, 3], &[]);
    assert_eq!(cluster.reassign("t", Some(&[3, 5, 4])), ErrorCode::None);
    let state = cluster.state("t", 0);
    assert_eq!(replicas(&state), [vec![3, 5, 4, 1, 2], vec![4, 5], vec![1, 2]]);
    assert_eq!((state.leader, state.leader_epoch, isr(&state)), (BrokerId(1), LeaderEpoch(0), vec![1, 2, 3]));
    assert_eq!(isr_becomes(&mut cluster, &[1, 2, 3, 4]), ErrorCode::None);
    assert!(cluster.state("t", 0).is_reassigning(), "5 is not in sync");
    assert_eq!(isr_becomes(&mut cluster, &[1, 2, 3, 4, 5]), ErrorCode::NewLeaderElected);
    let state = cluster.state("t", 0);
    assert_eq!(replicas(&state), [vec![3, 5, 4], vec![], vec![]]);
    assert_eq!((state.leader, state.leader_epoch, isr(&state)), (BrokerId(3), LeaderEpoch(1), vec![3, 4, 5]));
    assert_eq!(cluster.image.reassigning().count(), 0);
    assert!([1, 2].iter().all(|broker| cluster.image.hosted_by(BrokerId(*broker)).count() == 0));
}

/// Several in one topic complete with one request: its node is written once.
#[test]
fn partitions_of_one_topic_complete_together() {
    let mut cluster = Cluster::of(3);
    cluster.create("t", &[&[1], &[1], &[1]], &[]);
    let targets = (0..3).map(|partition| (PartitionId(partition), Some(ids(&[1, 2 + partition % 2])))).collect();
    let topics = vec![("t".to_owned(), targets)];
    cluster.ask(Request::AlterReassignments(AlterReassignments { topics, allow_replication_factor_change: true }));
    assert_eq!(cluster.image.reassigning().count(), 3);
    let leader = cluster.member(1);
    let partitions = (0..3).map(|partition| {
        let state = cluster.state("t", partition);
        AlterPartition {
            partition: cluster.id_of("t", partition),
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            isr: vec![leader, cluster.member(2 + partition % 2)],
        }
    });
    let partitions = partitions.collect();
    cluster.ask(Request::AlterPartitions(AlterPartitions { broker: leader.broker, epoch: leader.epoch, partitions }));
    let moved: Vec<_> = (0..3).map(|partition| numbers(&cluster.state("t", partition).replicas)).collect();
    assert_eq!(moved, [[1, 2], [1, 3], [1, 2]]);
    assert_eq!((cluster.image.reassigning().count(), cluster.state("t", 0).leader_epoch), (0, LeaderEpoch(0)));
}

#[test]
fn a_replication_factor_goes_up_and_down() {
    let mut cluster = cluster(&[1], &[("min.insync.replicas", "2")]);
    assert_eq!(cluster.reassign("t", Some(&[1, 2, 3])), ErrorCode::None);
    assert_eq!(cluster.state("t", 0).established_replicas(), 1, "it can be written to");
    isr_becomes(&mut cluster, &[1, 2, 3]);
    assert_eq!(replicas(&cluster.state("t", 0)), [vec![1, 2, 3], vec![], vec![]]);
    assert_eq!(cluster.reassign("t", Some(&[1, 3])), ErrorCode::None);
    let state = cluster.state("t", 0);
    assert_eq!((numbers(&state.replicas), isr(&state), state.leader), (vec![1, 3], vec![1, 3], BrokerId(1)));
    assert_eq!(state.leader_epoch, LeaderEpoch(1), "a fetch of 2 is fenced");
}

#[test]
fn a_cancelled_reassignment_goes_back() {
    let mut cluster = cluster(&[1, 2], &[]);
    assert_eq!(cluster.reassign("t", None), ErrorCode::NoReassignmentInProgress);
    cluster.reassign("t", Some(&[3, 4]));
    isr_becomes(&mut cluster, &[1, 2, 3]);
    assert_eq!(cluster.reassign("t", None), ErrorCode::None);
    let state = cluster.state("t", 0);
    assert_eq!((replicas(&state), isr(&state)), ([vec![1, 2], vec![], vec![]], vec![1, 2]));
    assert_eq!(state.leader_epoch, LeaderEpoch(1));
}

#[test]
fn nothing_is_cancelled_that_would_cost_records() {
    let mut cluster = cluster(&[1, 2], &[("min.insync.replicas", "2")]);
    cluster.reassign("t", Some(&[3, 4]));
    isr_becomes(&mut cluster, &[1, 3]);
    assert_eq!(cluster.reassign("t", None), ErrorCode::InvalidReplicaAssignment, "only 1 would have the records");
    cluster.kill(1);
    assert_eq!((cluster.state("t", 0).leader, isr(&cluster.state("t", 0))), (BrokerId(3), vec![3]));
    assert_eq!(cluster.reassign("t", None), ErrorCode::InvalidReplicaAssignment, "no original one is in sync");
    isr_becomes(&mut cluster, &[3, 4]);
    assert_eq!(numbers(&cluster.state("t", 0).replicas), [3, 4], "the target is in sync");
}

#[test]
fn another_target_replaces_the_first() {
    let mut cluster = cluster(&[1, 2], &[]);
    cluster.reassign("t", Some(&[3, 4]));
    assert_eq!(cluster.reassign("t", Some(&[5, 3])), ErrorCode::None);
    let state = cluster.state("t", 0);
    assert_eq!(replicas(&state), [vec![5, 3, 1, 2], vec![3, 5], vec![1, 2]], "4 was only on its way");
    cluster.reassign("t", None);
    assert_eq!(replicas(&cluster.state("t", 0)), [vec![1, 2], vec![], vec![]]);
    assert_eq!(cluster.reassign("t", Some(&[1, 2])), ErrorCode::None);
    assert!(!cluster.state("t", 0).is_reassigning(), "it is there already");
}

/// Brokers 3 and 4 hold what 1, which is down, had: they stay until the new target is in sync.
#[test]
fn a_replaced_reassignment_keeps_replicas_that_are_needed() {
    let mut cluster = cluster(&[1], &[]);
    cluster.reassign("t", Some(&[3, 4]));
    isr_becomes(&mut cluster, &[1, 3]);
    cluster.kill(1);
    assert_eq!(cluster.reassign("t", Some(&[5])), ErrorCode::None);
    let state = cluster.state("t", 0);
    assert_eq!((replicas(&state), state.leader), ([vec![5, 1, 3, 4], vec![5], vec![1, 3, 4]], BrokerId(3)));
    isr_becomes(&mut cluster, &[3, 5]);
    assert_eq!(numbers(&cluster.state("t", 0).replicas), [5]);
}

#[test]
fn a_reassignment_waits_for_brokers_that_are_away() {
    let mut cluster = cluster(&[1, 2], &[]);
    cluster.kill(4);
    assert_eq!(cluster.reassign("t", Some(&[3, 4])), ErrorCode::None, "4 is registered");
    isr_becomes(&mut cluster, &[1, 2, 3]);
    cluster.change_leader();
    assert!(cluster.state("t", 0).is_reassigning());
    cluster.start(4);
    isr_becomes(&mut cluster, &[1, 2, 3, 4]);
    assert_eq!(numbers(&cluster.state("t", 0).replicas), [3, 4]);
}

#[test]
fn impossible_targets_are_refused() {
    let mut cluster = cluster(&[1, 2], &[]);
    let refused = ErrorCode::InvalidReplicaAssignment;
    assert_eq!(cluster.reassign("t", Some(&[])), refused);
    assert_eq!(cluster.reassign("t", Some(&[1, 1])), refused);
    assert_eq!(cluster.reassign("t", Some(&[1, 77])), refused);
    assert_eq!(cluster.reassign("nope", Some(&[1])), ErrorCode::UnknownTopicOrPartition);
    let same_factor = |cluster: &mut Cluster, partition, target: &[i32]| {
        let topics = vec![("t".to_owned(), vec![(PartitionId(partition), Some(ids(target)))])];
        let alter = AlterReassignments { topics, allow_replication_factor_change: false };
        let Answer::AlterReassignments(outcomes) = cluster.ask(Request::AlterReassignments(alter)) else {
            panic!("not the answer")
        };
        outcomes.topics[0].1[0].refusal.clone().map(|refusal| refusal.message)
    };
    let text = "The replication factor is changed from 2 to 1";
    assert_eq!(same_factor(&mut cluster, 0, &[3]).as_deref(), Some(text));
    assert_eq!(same_factor(&mut cluster, 9, &[3]).as_deref(), Some("Unable to find partition t:9."));
    assert_eq!(same_factor(&mut cluster, 0, &[3, 2]), None);
}

/// A person who decides about the replicas of an internal topic has decided: brokers that join get none of it.
#[test]
fn a_topic_that_was_reassigned_grows_no_more() {
    let mut cluster = Cluster::of(1);
    let growing = NewTopic { grows_to: 3, partitions: 1, ..new_topic("__consumer_offsets", &[], &[]) };
    cluster.ask(Request::CreateTopics(CreateTopics {
        topics: vec![growing],
        validate_only: false,
        default_partitions: 1,
        default_replication_factor: 1,
    }));
    cluster.start(2);
    assert_eq!(cluster.state("__consumer_offsets", 0).replicas.len(), 2);
    assert_eq!(cluster.reassign("__consumer_offsets", Some(&[1])), ErrorCode::None);
    cluster.start(3);
    assert_eq!(numbers(&cluster.state("__consumer_offsets", 0).replicas), [1]);
}
