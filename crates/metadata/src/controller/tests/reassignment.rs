//! Reassignments: begun, completed, replaced, cancelled, and what else happens meanwhile.

use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, PartitionId};

use super::harness::*;
use crate::controller::*;
use crate::image::{ConfigEntity, IsrMember, PartitionState};

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

/// The only replica cannot read its log, and an operator has the partition moved (seed 2828). Where an unclean election
/// is enabled, the new replica leads at once, and the reassignment is complete; else it waits.
#[test]
fn scenario_68_a_partition_whose_only_log_is_damaged_moves_away_from_it() {
    for enabled in [true, false] {
        let value = enabled.to_string();
        let mut cluster = cluster(&[2], &[("unclean.leader.election.enable", value.as_str())]);
        let IsrMember { broker, epoch } = cluster.member(2);
        let partitions = vec![cluster.id_of("t", 0)];
        let resign = ResignLeadership { broker, epoch, partitions, reason: ResignReason::Offline };
        cluster.ask(Request::ResignLeadership(resign));
        assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE);
        assert_eq!(cluster.reassign("t", Some(&[3])), ErrorCode::None);
        let state = cluster.state("t", 0);
        if enabled {
            assert_eq!((state.leader, isr(&state), state.is_recovering()), (BrokerId(3), vec![3], true));
            assert_eq!(replicas(&state), [vec![3], vec![], vec![]]);
        } else {
            assert_eq!((state.leader, isr(&state)), (BrokerId::NONE, vec![2]));
            assert_eq!(replicas(&state), [vec![3, 2], vec![3], vec![2]]);
        }
    }
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

/// Why a partition of "t" may not move to as many replicas as it has.
fn same_factor(cluster: &mut Cluster, partition: i32, target: &[i32]) -> Option<String> {
    let topics = vec![("t".to_owned(), vec![(PartitionId(partition), Some(ids(target)))])];
    let alter = AlterReassignments { topics, allow_replication_factor_change: false };
    let Answer::AlterReassignments(outcomes) = cluster.ask(Request::AlterReassignments(alter)) else {
        panic!("not the answer")
    };
    outcomes.topics[0].1[0].refusal.clone().map(|refusal| refusal.message)
}

#[test]
fn impossible_targets_are_refused() {
    let mut cluster = cluster(&[1, 2], &[]);
    let refused = ErrorCode::InvalidReplicaAssignment;
    assert_eq!(cluster.reassign("t", Some(&[])), refused);
    assert_eq!(cluster.reassign("t", Some(&[1, 1])), refused);
    assert_eq!(cluster.reassign("t", Some(&[1, 77])), refused);
    assert_eq!(cluster.reassign("nope", Some(&[1])), ErrorCode::UnknownTopicOrPartition);
    let text = "The replication factor is changed from 2 to 1";
    assert_eq!(same_factor(&mut cluster, 0, &[3]).as_deref(), Some(text));
    assert_eq!(same_factor(&mut cluster, 9, &[3]).as_deref(), Some("Unable to find partition t:9."));
    assert_eq!(same_factor(&mut cluster, 0, &[3, 2]), None);
}

const GROWING: &str = "__consumer_offsets";

/// Brokers 1 and 2, and an internal topic on both that gets a third replica when there is a third broker.
fn growing(configure: impl FnOnce(&mut ControllerConfig)) -> Cluster {
    let mut cluster = Cluster::with(configure);
    cluster.start(1);
    let growing = NewTopic { grows_to: 3, partitions: 1, ..new_topic(GROWING, &[], &[]) };
    cluster.ask(Request::CreateTopics(CreateTopics {
        topics: vec![growing],
        validate_only: false,
        default_partitions: 1,
        default_replication_factor: 1,
    }));
    cluster.start(2);
    assert_eq!(numbers(&cluster.state(GROWING, 0).replicas), [1, 2]);
    cluster
}

/// Whether no log directory of broker 3 gets new replicas.
fn cordon(cluster: &mut Cluster, is_cordoned: bool) {
    let op = if is_cordoned { ConfigOp::Set("*".to_owned()) } else { ConfigOp::Delete };
    let changes = vec![("cordoned.log.dirs".to_owned(), op)];
    let entities = vec![AlterConfig { entity: ConfigEntity::broker(BrokerId(3)), changes, replace_all: false }];
    cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
}

/// A person who decides how many replicas an internal topic has has decided: brokers that join get none of it.
#[test]
fn a_topic_whose_replicas_became_fewer_grows_no_more() {
    let mut cluster = growing(|_| {});
    assert_eq!(cluster.reassign(GROWING, Some(&[1])), ErrorCode::None);
    cluster.start(3);
    assert_eq!(numbers(&cluster.state(GROWING, 0).replicas), [1]);
}

/// A rebalance after the second broker had joined left the offsets of groups with two replicas for ever.
#[test]
fn a_topic_whose_replicas_only_move_grows_on() {
    let mut cluster = growing(|_| {});
    assert_eq!(cluster.reassign(GROWING, Some(&[2, 1])), ErrorCode::None);
    cluster.start(3);
    assert_eq!(numbers(&cluster.state(GROWING, 0).replicas), [2, 1, 3]);
}

#[test]
fn a_partition_grows_when_its_replicas_have_moved() {
    let mut cluster = growing(|_| {});
    cordon(&mut cluster, true);
    cluster.start(3);
    assert_eq!(cluster.reassign(GROWING, Some(&[1, 3])), ErrorCode::None);
    cordon(&mut cluster, false);
    assert_eq!(numbers(&cluster.state(GROWING, 0).replicas), [1, 3, 2], "2 goes");
    let isr = [1, 3].map(|broker| cluster.member(broker)).to_vec();
    assert_eq!(cluster.alter_isr(GROWING, isr), ErrorCode::None);
    let state = cluster.state(GROWING, 0);
    assert_eq!(replicas(&state), [vec![1, 3, 2], vec![], vec![]], "2 is a new replica");
}

/// As [`growing`], with a third broker that has no room: the topic's move to it waits.
fn growing_later() -> Cluster {
    let mut cluster = growing(|config| config.reassignments_per_broker_max = 1);
    cordon(&mut cluster, true);
    cluster.start(3);
    cluster.create("t", &[&[1]], &[]);
    assert_eq!(cluster.reassign("t", Some(&[3])), ErrorCode::None);
    assert_eq!(cluster.reassign(GROWING, Some(&[1, 3])), ErrorCode::None);
    cordon(&mut cluster, false);
    assert_eq!(replicas(&cluster.state(GROWING, 0)), [vec![1, 2], vec![], vec![]]);
    cluster
}

/// It was looked at before, and nothing told later that it may grow.
#[test]
fn a_partition_grows_when_its_move_is_called_off_while_it_waits() {
    let mut cluster = growing_later();
    assert_eq!(cluster.reassign(GROWING, None), ErrorCode::None);
    assert_eq!(numbers(&cluster.state(GROWING, 0).replicas), [1, 2, 3]);
}

/// What waits for its turn has a number of replicas, too: with one more, its turn would have taken that back.
#[test]
fn a_partition_whose_move_waits_does_not_grow_before_it() {
    let mut cluster = growing_later();
    let isr = [1, 3].map(|broker| cluster.member(broker)).to_vec();
    cluster.alter_isr("t", isr);
    assert_eq!(replicas(&cluster.state(GROWING, 0)), [vec![1, 3, 2], vec![3], vec![2]]);
}

/// `ottla broker undrain` said that the broker gets new replicas again, and internal topics gave it none.
#[test]
fn a_topic_grows_onto_a_broker_that_is_cordoned_no_more() {
    let mut cluster = growing(|_| {});
    cordon(&mut cluster, true);
    cluster.start(3);
    assert_eq!(numbers(&cluster.state(GROWING, 0).replicas), [1, 2]);
    cordon(&mut cluster, false);
    assert_eq!(numbers(&cluster.state(GROWING, 0).replicas), [1, 2, 3]);
}

/// Nothing is under way, and nothing waits.
const NONE: [Vec<i32>; 2] = [Vec::new(), Vec::new()];

/// Five brokers, each of which takes two replicas at a time, and a topic with six partitions on brokers 1 and 2.
fn in_waves() -> Cluster {
    let mut cluster = Cluster::with(|config| config.reassignments_per_broker_max = 2);
    (1..=5).for_each(|id| {
        cluster.start(id);
    });
    cluster.create("t", &[&[1, 2][..]; 6], &[]);
    cluster
}

/// The errors of a request that gives these partitions of "t" a target, or takes it back.
fn ask_for(cluster: &mut Cluster, partitions: &[i32], target: Option<&[i32]>) -> Vec<ErrorCode> {
    let targets = partitions.iter().map(|number| (PartitionId(*number), target.map(ids))).collect();
    let topics = vec![("t".to_owned(), targets)];
    let request = AlterReassignments { topics, allow_replication_factor_change: true };
    let answer = cluster.ask(Request::AlterReassignments(request));
    let Answer::AlterReassignments(outcomes) = answer else { panic!("not the answer: {answer:?}") };
    let outcomes = outcomes.topics.into_iter().flat_map(|(_, outcomes)| outcomes);
    outcomes.map(|outcome| outcome.refusal.map_or(ErrorCode::None, |refusal| refusal.error)).collect()
}

fn partitions(ids: impl Iterator<Item = ottla_model::TopicIdPartition>) -> Vec<i32> {
    ids.map(|id| id.partition.0).collect()
}

/// Which partitions are under way, and which wait.
fn waves(cluster: &Cluster) -> [Vec<i32>; 2] {
    [partitions(cluster.image.reassigning()), partitions(cluster.image.queued())]
}

/// All replicas of the partition are in sync.
fn catch_up(cluster: &mut Cluster, number: i32) {
    let state = cluster.state("t", number);
    let isr = state.replicas.iter().map(|broker| cluster.member(broker.0)).collect();
    let partition = cluster.id_of("t", number);
    let (leader_epoch, partition_epoch) = (state.leader_epoch, state.partition_epoch);
    let leader = cluster.member(state.leader.0);
    let partitions = vec![AlterPartition { partition, leader_epoch, partition_epoch, isr }];
    cluster.ask(Request::AlterPartitions(AlterPartitions { broker: leader.broker, epoch: leader.epoch, partitions }));
}

#[test]
fn scenario_64_a_large_plan_is_carried_out_in_waves() {
    let mut cluster = in_waves();
    assert_eq!(ask_for(&mut cluster, &[0, 1, 2, 3], Some(&[3, 4])), [ErrorCode::None; 4]);
    assert_eq!(waves(&cluster), [vec![0, 1], vec![2, 3]]);
    // Another broker has room: what waits for others does not hold it up.
    assert_eq!(ask_for(&mut cluster, &[4], Some(&[5, 1])), [ErrorCode::None]);
    assert_eq!(waves(&cluster), [vec![0, 1, 4], vec![2, 3]]);
    // What waits shows as begun, and its replicas are what they were.
    let topic = cluster.image.topic("t").expect("is there").clone();
    let waiting = topic.reassignment(PartitionId(2)).expect("it waits");
    assert_eq!([numbers(&waiting.replicas), numbers(waiting.adding())], [vec![3, 4, 1, 2], vec![3, 4]]);
    assert_eq!(replicas(&cluster.state("t", 2)), [vec![1, 2], vec![], vec![]]);
    catch_up(&mut cluster, 1);
    assert_eq!(waves(&cluster), [vec![0, 2, 4], vec![3]]);
    assert_eq!(replicas(&cluster.state("t", 2)), [vec![3, 4, 1, 2], vec![3, 4], vec![1, 2]]);
    // The next controller goes on.
    cluster.change_leader_to_a_new_one();
    cluster.run(1_000);
    assert_eq!(waves(&cluster), [vec![0, 2, 4], vec![3]]);
    for number in [0, 2, 3, 4] {
        catch_up(&mut cluster, number);
    }
    assert_eq!(waves(&cluster), NONE);
    let found: Vec<_> = (0..6).map(|number| numbers(&cluster.state("t", number).replicas)).collect();
    assert_eq!(found, [vec![3, 4], vec![3, 4], vec![3, 4], vec![3, 4], vec![5, 1], vec![1, 2]]);
}

#[test]
fn what_waits_is_replaced_and_cancelled_as_what_has_begun() {
    let mut cluster = in_waves();
    ask_for(&mut cluster, &[0, 1, 2, 3], Some(&[3, 4]));
    assert_eq!(ask_for(&mut cluster, &[2, 5], None), [ErrorCode::None, ErrorCode::NoReassignmentInProgress]);
    assert_eq!(waves(&cluster), [vec![0, 1], vec![3]]);
    // A target without the brokers that are busy needs no turn.
    ask_for(&mut cluster, &[3], Some(&[5, 2]));
    assert_eq!(waves(&cluster), [vec![0, 1, 3], vec![]]);
    // One that is under way goes on while another target of the partition waits.
    ask_for(&mut cluster, &[3], Some(&[3, 2]));
    assert_eq!(waves(&cluster), [vec![0, 1, 3], vec![3]]);
    assert_eq!(replicas(&cluster.state("t", 3))[1], [5]);
    catch_up(&mut cluster, 0);
    assert_eq!(waves(&cluster), [vec![1, 3], vec![]]);
    assert_eq!(replicas(&cluster.state("t", 3)), [vec![3, 2, 1], vec![3], vec![1]]);
    // Both end with a cancellation.
    ask_for(&mut cluster, &[2], Some(&[4, 3]));
    ask_for(&mut cluster, &[4], Some(&[4, 3]));
    assert_eq!(waves(&cluster), [vec![1, 3], vec![2, 4]]);
    ask_for(&mut cluster, &[1, 2, 3, 4], None);
    assert_eq!(waves(&cluster), NONE);
    assert_eq!(replicas(&cluster.state("t", 4)), [vec![1, 2], vec![], vec![]]);
}

/// A drain planned the same move again and again: what waits shows as begun, and a plan with as many replicas as it is
/// to have was refused.
#[test]
fn what_waits_with_more_replicas_may_go_elsewhere_with_as_many() {
    let mut cluster = in_waves();
    ask_for(&mut cluster, &[0, 1, 2], Some(&[1, 2, 3]));
    assert_eq!(waves(&cluster), [vec![0, 1], vec![2]]);
    assert_eq!(same_factor(&mut cluster, 2, &[4, 2, 3]), None);
    assert_eq!(waves(&cluster), [vec![0, 1], vec![2]]);
    let refused = same_factor(&mut cluster, 2, &[4, 2]);
    assert_eq!(refused.as_deref(), Some("The replication factor is changed from 3 to 2"));
}

/// What cannot be done any more is given up, and does not hold up the rest.
#[test]
fn a_broker_that_is_unregistered_is_waited_for_no_more() {
    let mut cluster = in_waves();
    ask_for(&mut cluster, &[0, 1], Some(&[3, 4]));
    ask_for(&mut cluster, &[2, 3], Some(&[4, 5]));
    cluster.kill(5);
    assert_eq!(waves(&cluster), [vec![0, 1], vec![2, 3]]);
    cluster.ask(Request::UnregisterBroker(UnregisterBroker { broker: BrokerId(5) }));
    assert_eq!(waves(&cluster), [vec![0, 1], vec![]]);
    catch_up(&mut cluster, 0);
    assert_eq!(waves(&cluster), [vec![1], vec![]]);
    assert_eq!(replicas(&cluster.state("t", 2)), [vec![1, 2], vec![], vec![]]);
    assert!(cluster.notes.iter().any(|note| note.is_warning && note.text.contains("is given up: t-2")));
}

/// Seven waves: each begins when the one before is done, and nobody asks for it.
#[test]
fn a_plan_of_many_partitions_goes_on_by_itself() {
    const MANY: i32 = 200;
    let mut cluster = Cluster::with(|config| config.reassignments_per_broker_max = 30);
    (1..=4).for_each(|id| {
        cluster.start(id);
    });
    let assignment: &[i32] = &[1, 2];
    cluster.create("t", &vec![assignment; usize::try_from(MANY).expect("small")], &[]);
    let all: Vec<i32> = (0..MANY).collect();
    assert!(ask_for(&mut cluster, &all, Some(&[3, 4])).iter().all(|error| *error == ErrorCode::None));
    let mut rounds = 0;
    while cluster.image.reassigning().next().is_some() {
        let [under_way, queued] = waves(&cluster);
        assert!(under_way.len() <= 30 && (under_way.len() == 30 || queued.is_empty()), "{}", under_way.len());
        under_way.into_iter().for_each(|number| catch_up(&mut cluster, number));
        rounds += 1;
    }
    assert!(all.iter().all(|number| numbers(&cluster.state("t", *number).replicas) == [3, 4]), "{rounds} rounds");
}
