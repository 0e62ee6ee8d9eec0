//! Brokers that are down stay registered (fault A10).

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode};

use super::harness::*;
use crate::controller::*;

fn create(cluster: &mut Cluster, topic: NewTopic) -> Option<Refusal> {
    let request = CreateTopics {
        topics: vec![topic],
        validate_only: false,
        default_partitions: 1,
        default_replication_factor: 3,
    };
    match cluster.ask(Request::CreateTopics(request)) {
        Answer::CreateTopics(mut outcomes) => outcomes.topics.remove(0).refusal,
        other => panic!("not the answer: {other:?}"),
    }
}

fn placed(name: &str, partitions: i32) -> NewTopic {
    NewTopic { partitions, ..new_topic(name, &[], &[("min.insync.replicas", "2")]) }
}

fn with_one_of_three_down() -> Cluster {
    let mut cluster = Cluster::of(3);
    cluster.kill(3);
    cluster
}

#[test]
fn topics_are_created_and_grow_while_a_broker_is_down() {
    let mut cluster = with_one_of_three_down();
    assert_eq!(create(&mut cluster, placed("t", 6)), None);
    for partition in 0..6 {
        let state = cluster.state("t", partition);
        assert_eq!(state.replicas.len(), 3);
        assert!(state.has_leader() && state.isr.len() == 2 && !state.in_isr(BrokerId(3)), "{state:?}");
        assert_ne!(state.replicas[0], BrokerId(3), "the preferred leader is alive");
    }
    let topics = vec![NewPartitions { topic: "t".to_owned(), total: 7, assignments: None }];
    let answer = cluster.ask(Request::CreatePartitions(CreatePartitions { topics, validate_only: false }));
    let Answer::CreatePartitions(outcomes) = answer else { panic!("not the answer") };
    assert_eq!(outcomes.topics[0].refusal, None);
    assert_eq!(cluster.state("t", 6).replicas.len(), 3);
    // With manual assignments too; one without a live broker is refused, as in Kafka.
    assert_eq!(create(&mut cluster, new_topic("named", &[&[3, 1, 2]], &[])), None);
    assert_eq!(cluster.state("named", 0).leader, BrokerId(1));
    let refusal = create(&mut cluster, new_topic("dead", &[&[3]], &[])).expect("refused");
    assert_eq!(refusal.error, ErrorCode::InvalidReplicaAssignment);
    assert!(refusal.message.contains("are fenced or in controlled shutdown"), "{refusal}");
    // It comes back, catches up, and joins.
    cluster.start(3);
    let all = [1, 2, 3].map(|id| cluster.member(id)).to_vec();
    assert_eq!(cluster.alter_isr("t", all), ErrorCode::None);
    assert_eq!(cluster.state("t", 0).isr.len(), 3);
}

#[test]
fn a_topic_that_grows_counts_brokers_that_are_down() {
    let mut cluster = with_one_of_three_down();
    assert_eq!(create(&mut cluster, NewTopic { grows_to: 3, ..placed("__consumer_offsets", 2) }), None);
    assert_eq!(cluster.state("__consumer_offsets", 0).replicas.len(), 3);
}

#[test]
fn a_broker_in_controlled_shutdown_is_not_placed_on_until_it_is_down() {
    let mut cluster = Cluster::of(3);
    let me = cluster.member(3);
    cluster.send(Request::ControlledShutdown(ControlledShutdown {
        broker: me.broker,
        epoch: me.epoch,
        incarnation: cluster.brokers[&me.broker.0].incarnation,
    }));
    cluster.commit_all();
    let refusal = create(&mut cluster, placed("early", 1)).expect("refused");
    assert_eq!(refusal.error, ErrorCode::InvalidReplicationFactor);
    cluster.kill(3);
    assert_eq!(create(&mut cluster, placed("late", 1)), None);
}

#[test]
fn an_unregistered_broker_is_gone_until_it_registers_again() {
    let mut cluster = with_one_of_three_down();
    let unregister = Request::UnregisterBroker(UnregisterBroker { broker: BrokerId(3) });
    assert_eq!(cluster.image.fenced_brokers().map(|broker| broker.id.0).collect::<Vec<_>>(), [3]);
    let Answer::UnregisterBroker(Ok(unregistered)) = cluster.ask(unregister.clone()) else { panic!("refused") };
    assert_eq!(unregistered.revision, cluster.image.revision());
    assert_eq!(cluster.image.fenced_brokers().count(), 0);
    let Answer::UnregisterBroker(Err(refusal)) = cluster.ask(unregister) else { panic!("unregistered twice") };
    assert_eq!(refusal.error, ErrorCode::BrokerIdNotRegistered);
    assert_eq!(create(&mut cluster, placed("t", 1)).map(|r| r.error), Some(ErrorCode::InvalidReplicationFactor));
    let named = create(&mut cluster, new_topic("named", &[&[1, 2, 3]], &[]));
    assert_eq!(named.map(|refusal| refusal.error), Some(ErrorCode::InvalidReplicaAssignment));
    cluster.start(3);
    assert_eq!(create(&mut cluster, placed("t", 1)), None);
}

/// A record that an ISR still refers to is kept: an unclean return is detected after UnregisterBroker too.
#[test]
fn unregistering_forgets_nothing_that_an_isr_rests_on() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[("min.insync.replicas", "1")]);
    cluster.kill(2);
    // A live one is fenced first.
    let unregister = Request::UnregisterBroker(UnregisterBroker { broker: BrokerId(1) });
    assert!(matches!(cluster.ask(unregister), Answer::UnregisterBroker(Ok(_))));
    assert!(cluster.image.broker(BrokerId(1)).is_none() && !cluster.image.is_registered(BrokerId(1)));
    assert_eq!(isr(&cluster.state("t", 0)), [1]);
    let empty = Register { cluster_id: None, ..cluster.registration(1, 99, BrokerEpoch::NONE) };
    let Answer::Register(Ok(registered)) = cluster.ask(Request::Register(empty)) else { panic!("refused") };
    cluster.joined(&registered, 99);
    cluster.beat(1);
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE, "its disk is empty");
}

/// With the rule switched off, the fault shows.
#[test]
fn without_its_rule_a_broker_that_is_down_counts_as_gone() {
    let mut cluster = Cluster::with(|config| config.rules.fenced_broker_is_gone = true);
    (1..=3).for_each(|id| assert!(cluster.start(id).is_known()));
    cluster.kill(3);
    let refusal = create(&mut cluster, placed("t", 1)).expect("refused");
    assert_eq!(refusal.error, ErrorCode::InvalidReplicationFactor);
}

/// Fault F8: a group's partition follows from the number of partitions.
#[test]
fn topics_whose_keys_are_found_by_their_number_of_partitions_do_not_grow() {
    let mut cluster = Cluster::of(3);
    for name in ["__consumer_offsets", "__transaction_state"] {
        assert_eq!(create(&mut cluster, placed(name, 2)), None);
        let topics = vec![NewPartitions { topic: name.to_owned(), total: 3, assignments: None }];
        let answer = cluster.ask(Request::CreatePartitions(CreatePartitions { topics, validate_only: false }));
        let Answer::CreatePartitions(outcomes) = answer else { panic!("not the answer") };
        let refusal = outcomes.topics[0].refusal.clone().expect("refused");
        assert_eq!(refusal.error, ErrorCode::InvalidPartitions);
    }
}
