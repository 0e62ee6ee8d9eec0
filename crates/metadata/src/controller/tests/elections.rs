//! Preferred and unclean elections, on demand and by themselves.

use ottla_model::{BrokerId, ErrorCode, PartitionId};

use super::harness::*;
use crate::controller::*;
use crate::image::{BrokerRegistration, ConfigEntity, LeaderSettings, PartitionState};
use crate::nodes;
use crate::transaction::{Change, Transaction};

const UNCLEAN: &str = "unclean.leader.election.enable";

/// The errors of an election of partition 0 of "t", or of every partition that needs one.
fn elect(cluster: &mut Cluster, election: ElectionType, all: bool) -> Vec<ErrorCode> {
    let topics = (!all).then(|| vec![("t".to_owned(), vec![PartitionId(0)])]);
    let answer = cluster.ask(Request::ElectLeaders(ElectLeaders { election, topics }));
    let Answer::ElectLeaders(outcomes) = answer else { panic!("not the answer: {answer:?}") };
    let outcomes = outcomes.topics.into_iter().flat_map(|(_, outcomes)| outcomes);
    outcomes.map(|outcome| outcome.refusal.map_or(ErrorCode::None, |refusal| refusal.error)).collect()
}

fn alter(entity: ConfigEntity, name: &str, op: ConfigOp) -> Request {
    let entities = vec![AlterConfig { entity, changes: vec![(name.to_owned(), op)], replace_all: false }];
    Request::AlterConfigs(AlterConfigs { entities, validate_only: false })
}

fn set(cluster: &mut Cluster, entity: ConfigEntity, name: &str, value: &str) {
    cluster.ask(alter(entity, name, ConfigOp::Set(value.to_owned())));
}

/// Broker 1 starts, and is in the ISR again.
fn come_back(cluster: &mut Cluster) {
    cluster.start(1);
    let members = vec![cluster.member(2), cluster.member(1)];
    let _ = cluster.alter_isr("t", members);
}

/// Broker 1, preferred, came back and is in the ISR again; broker 2 leads.
fn returned(mut cluster: Cluster) -> Cluster {
    cluster.create("t", &[&[1, 2]], &[]);
    cluster.kill(1);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    come_back(&mut cluster);
    assert_eq!(isr(&cluster.state("t", 0)), [2, 1]);
    cluster
}

#[test]
fn preferred_leaders_are_elected_on_demand() {
    let mut cluster = returned(Cluster::of(3));
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2), "nothing moves by itself");
    assert_eq!(elect(&mut cluster, ElectionType::Unclean, false), [ErrorCode::ElectionNotNeeded]);
    assert_eq!(elect(&mut cluster, ElectionType::Preferred, true), [ErrorCode::None]);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
    assert_eq!(elect(&mut cluster, ElectionType::Preferred, false), [ErrorCode::ElectionNotNeeded]);
    assert_eq!(elect(&mut cluster, ElectionType::Preferred, true), []);
    cluster.kill(1);
    assert_eq!(elect(&mut cluster, ElectionType::Preferred, false), [ErrorCode::PreferredLeaderNotAvailable]);
    let topics = Some(vec![("t".to_owned(), vec![PartitionId(7)]), ("x".to_owned(), vec![PartitionId(0)])]);
    let answer = cluster.ask(Request::ElectLeaders(ElectLeaders { election: ElectionType::Preferred, topics }));
    let Answer::ElectLeaders(outcomes) = answer else { panic!("not the answer") };
    let refusals = outcomes.topics.into_iter().flat_map(|(_, outcomes)| outcomes).filter_map(|one| one.refusal);
    let texts: Vec<_> = refusals.map(|refusal| (refusal.error, refusal.message)).collect();
    let unknown = |text: &str| (ErrorCode::UnknownTopicOrPartition, text.to_owned());
    assert_eq!(texts, [unknown("No such partition as t-7"), unknown("No such topic as x")]);
}

/// A partition that is named twice is decided once.
#[test]
fn a_repeated_partition_needs_no_second_election() {
    let mut cluster = returned(Cluster::of(3));
    let topics = Some(vec![("t".to_owned(), vec![PartitionId(0); 2])]);
    let answer = cluster.ask(Request::ElectLeaders(ElectLeaders { election: ElectionType::Preferred, topics }));
    let Answer::ElectLeaders(outcomes) = answer else { panic!("not the answer") };
    let [(_, outcomes)] = outcomes.topics.as_slice() else { panic!("{outcomes:?}") };
    let errors: Vec<_> = outcomes.iter().map(|one| one.refusal.as_ref().map(|refusal| refusal.error)).collect();
    assert_eq!(errors, [None, Some(ErrorCode::ElectionNotNeeded)]);
}

fn ask_for_shutdown(cluster: &mut Cluster, id: i32) -> RequestId {
    let (epoch, incarnation) = (cluster.brokers[&id].epoch, cluster.brokers[&id].incarnation);
    cluster.send(Request::ControlledShutdown(ControlledShutdown { broker: BrokerId(id), epoch, incarnation }))
}

/// The broker asks for its shutdown, as a process that is told to end, and ends.
fn shut_down(cluster: &mut Cluster, id: i32) {
    let request = ask_for_shutdown(cluster, id);
    // The broker ends when it has its answer.
    cluster.run(1_000);
    assert!(cluster.answers.contains_key(&request));
    cluster.kill(id);
}

#[test]
fn a_broker_leads_again_with_the_change_that_takes_it_into_the_isr() {
    let mut cluster = Cluster::balancing(3, 300);
    cluster.create("t", &[&[1, 2]], &[]);
    shut_down(&mut cluster, 1);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    come_back(&mut cluster);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state)), (BrokerId(1), vec![2, 1]));
}

const PAUSE_MS: u64 = RETURN_PAUSE.as_millis() as u64;

/// Clients that found its address refused wait before they connect there again (librdkafka up to 10 s).
#[test]
fn scenario_62_a_broker_that_was_killed_leads_again_after_a_pause() {
    let mut cluster = returned(Cluster::balancing(3, 300));
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    cluster.run(PAUSE_MS - 500);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2), "in sync, and still awaited");
    cluster.run(1_000);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
    assert!(cluster.image.brokers().all(|broker| !broker.awaits_clients));
    // From now on nothing is awaited: another ISR change, or another controller, finds it as any other broker.
    cluster.change_leader();
    cluster.run(1_000);
    shut_down(&mut cluster, 1);
    come_back(&mut cluster);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1), "its last end was a clean one");
}

/// Its request came when the process was gone, or with it: clients found its address refused before others led.
#[test]
fn scenario_67_a_broker_that_ends_before_its_shutdown_is_answered_has_ended_abruptly() {
    let mut cluster = Cluster::balancing(3, 300);
    cluster.create("t", &[&[1, 2]], &[]);
    ask_for_shutdown(&mut cluster, 1);
    cluster.kill(1);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    come_back(&mut cluster);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2), "in sync, and still awaited");
    cluster.run(PAUSE_MS + 500);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
}

/// The pause is for leaderships that have a leader: where the broker is needed, or an operator wants it, it leads.
#[test]
fn a_broker_that_was_killed_leads_where_it_is_needed() {
    let mut cluster = returned(Cluster::balancing(3, 300));
    cluster.create("alone", &[&[1]], &[]);
    cluster.kill(2);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1), "nobody else is in sync");
    cluster.kill(1);
    assert_eq!(cluster.state("alone", 0).leader, BrokerId::NONE);
    cluster.start(1);
    assert_eq!(cluster.state("alone", 0).leader, BrokerId(1));
    let mut asked = returned(Cluster::balancing(3, 300));
    assert_eq!(elect(&mut asked, ElectionType::Preferred, false), [ErrorCode::None]);
    assert_eq!(asked.state("t", 0).leader, BrokerId(1));
}

/// Broker 2 is killed while clients still wait for broker 1: broker 3 leads, although it comes last.
#[test]
fn a_broker_that_clients_wait_for_leads_after_the_others() {
    let mut cluster = Cluster::balancing(3, 300);
    cluster.create("t", &[&[1, 2, 3]], &[]);
    cluster.kill(1);
    cluster.start(1);
    let members = vec![cluster.member(2), cluster.member(1), cluster.member(3)];
    let _ = cluster.alter_isr("t", members);
    cluster.kill(2);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state)), (BrokerId(3), vec![1, 3]));
    cluster.run(PAUSE_MS + 500);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
}

/// A controller that begins in the middle of the pause counts it again; one that ends in it is not the end of it.
#[test]
fn a_pause_outlives_the_controller_and_a_second_end() {
    let mut cluster = returned(Cluster::balancing(3, 300));
    cluster.run(PAUSE_MS - 500);
    cluster.change_leader();
    cluster.run(PAUSE_MS - 500);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    cluster.run(1_000);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
    // One that begins when the pause is over, and nothing has returned yet, gives it back.
    let mut late = returned(Cluster::balancing(3, 300));
    late.run(PAUSE_MS - 500);
    while late.image.brokers().any(|broker| broker.awaits_clients) {
        late.tick();
        late.commit_one();
    }
    assert_eq!(late.state("t", 0).leader, BrokerId(2), "its return is not committed");
    late.change_leader();
    late.run(1_000);
    assert_eq!(late.state("t", 0).leader, BrokerId(1));
    let mut twice = returned(Cluster::balancing(3, 300));
    twice.run(1_000);
    shut_down(&mut twice, 1);
    come_back(&mut twice);
    assert_eq!(twice.state("t", 0).leader, BrokerId(2), "clients still wait because of the first end");
    twice.run(PAUSE_MS + 500);
    assert_eq!(twice.state("t", 0).leader, BrokerId(1));
}

/// The tree says this of the broker's settings from now on, in the same incarnation.
fn set_interval(cluster: &mut Cluster, id: i32, rebalance_interval_s: u32) {
    let path = nodes::broker::path(BrokerId(id));
    let expected = cluster.tree.get(&path).expect("it is registered").version;
    let known = cluster.image.broker(BrokerId(id)).expect("it is registered");
    let leaders = LeaderSettings { rebalance_interval_s, ..known.leaders };
    let payload = nodes::broker::encode(&BrokerRegistration { leaders, ..(**known).clone() });
    cluster.apply(None, &Transaction { changes: vec![Change::Set { path, payload, expected }] });
}

/// What was in the ISR all the time returns at the interval, to a broker that wants it.
#[test]
fn leaderships_return_at_the_interval() {
    let mut cluster = returned(Cluster::of(3));
    set_interval(&mut cluster, 3, 5);
    cluster.run(6_000);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2), "broker 1 does not want it back");
    set_interval(&mut cluster, 1, 5);
    cluster.run(6_000);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
    set_interval(&mut cluster, 1, 0);
    set_interval(&mut cluster, 3, 0);
    cluster.run(1_000);
    assert_eq!(cluster.controller.in_flight(), 0);
}

/// The tree says that broker 2 leads this partition of "t"; broker 1 is in sync all the time.
fn lead_by_2(cluster: &mut Cluster, number: PartitionId) {
    let topic = cluster.image.topic("t").expect("is there").clone();
    let old = topic.partition(number).expect("is there");
    let (leader_epoch, partition_epoch) = (old.leader_epoch.next(), old.partition_epoch.next());
    let new = PartitionState { leader: BrokerId(2), leader_epoch, partition_epoch, ..(**old).clone() };
    let path = nodes::partition::path(&topic.name, number);
    let expected = cluster.tree.get(&path).expect("is there").version;
    let payload = nodes::partition::encode(&new);
    cluster.apply(None, &Transaction { changes: vec![Change::Set { path, payload, expected }] });
}

/// One of three partitions, then two of three, that broker 1 is preferred for are led by another broker.
#[test]
fn leaderships_return_at_the_interval_when_too_many_are_led_by_others() {
    for (percent, returns_after) in [(0, 1), (33, 1), (34, 2), (67, 3), (100, 4)] {
        let mut cluster = Cluster::new();
        cluster.leader_settings.rebalance_interval_s = 5;
        cluster.leader_settings.imbalance_percent = percent;
        (1..=2).for_each(|id| {
            cluster.start(id);
        });
        cluster.create("t", &[&[1, 2], &[1, 2], &[1, 2]], &[]);
        for others in 1..=3 {
            (0..others).for_each(|number| lead_by_2(&mut cluster, PartitionId(number)));
            cluster.run(6_000);
            let leader = cluster.state("t", 0).leader;
            let expected = if others >= returns_after { BrokerId(1) } else { BrokerId(2) };
            assert_eq!(leader, expected, "{others} of 3 at {percent} %");
        }
    }
}

/// The story of seed 004: B and C fall behind and out of the ISR, A leads alone and dies.
fn seed_004(mut cluster: Cluster, configs: &[(&str, &str)]) -> Cluster {
    cluster.create("t", &[&[1, 2, 3]], configs);
    let alone = vec![cluster.member(1)];
    cluster.alter_isr("t", alone);
    assert_eq!(isr(&cluster.state("t", 0)), [1]);
    cluster.kill(1);
    cluster
}

const MIN_ISR_1: (&str, &str) = ("min.insync.replicas", "1");

#[test]
fn without_unclean_elections_a_partition_waits_for_its_last_leader() {
    let mut cluster = seed_004(Cluster::of(3), &[MIN_ISR_1]);
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE);
    cluster.run(5_000);
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE);
    cluster.start(1);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, state.is_recovering()), (BrokerId(1), false));
}

#[test]
fn an_enabled_topic_gets_a_leader_at_once() {
    let mut cluster = seed_004(Cluster::of(3), &[MIN_ISR_1, (UNCLEAN, "true")]);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state), state.is_recovering()), (BrokerId(2), vec![2], true));
    // The former leader follows; with the change that takes it in, the partition has recovered.
    cluster.start(1);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    let members = vec![cluster.member(2), cluster.member(1)];
    assert_eq!(cluster.alter_isr("t", members), ErrorCode::None);
    assert!(!cluster.state("t", 0).is_recovering());
}

#[test]
fn unclean_elections_are_enabled_while_partitions_wait() {
    for entity in [ConfigEntity::topic("t"), ConfigEntity::default_broker(), ConfigEntity::broker(BrokerId(3))] {
        let mut cluster = seed_004(Cluster::of(3), &[MIN_ISR_1]);
        set(&mut cluster, entity.clone(), UNCLEAN, "true");
        let leader = if entity == ConfigEntity::broker(BrokerId(3)) { 3 } else { 2 };
        assert_eq!(cluster.state("t", 0).leader, BrokerId(leader), "{entity:?}");
    }
}

/// It took a broker that came, or another quorum leader, to elect one.
#[test]
fn what_forbids_unclean_elections_is_taken_away_while_partitions_wait() {
    let mut cluster = seed_004(Cluster::of(3), &[MIN_ISR_1, (UNCLEAN, "false")]);
    set(&mut cluster, ConfigEntity::default_broker(), UNCLEAN, "true");
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE);
    cluster.ask(alter(ConfigEntity::topic("t"), UNCLEAN, ConfigOp::Delete));
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
}

/// Of very many partitions: the elections that the first one brings are under way, and past those of the second one.
#[test]
fn unclean_elections_are_enabled_one_after_the_other() {
    let mut cluster = Cluster::of(3);
    (2..=3).for_each(|id| cluster.kill(id));
    let (few, many): (&[i32], &[i32]) = (&[1, 2], &[1, 3]);
    let of_3 = std::iter::repeat_n(many, MAX_BATCHES_IN_FLIGHT * PARTITIONS_PER_TRANSACTION + 1);
    let assignments: Vec<_> = std::iter::once(few).chain(of_3).collect();
    cluster.create("t", &assignments, &[MIN_ISR_1]);
    (2..=3).for_each(|id| {
        cluster.start(id);
    });
    cluster.kill(1);
    (2..=3).for_each(|id| cluster.beat(id));
    assert_eq!(cluster.image.leaderless().count(), assignments.len());
    for id in [3, 2] {
        cluster.send(alter(ConfigEntity::broker(BrokerId(id)), UNCLEAN, ConfigOp::Set("true".to_owned())));
    }
    cluster.commit_all();
    assert_eq!(cluster.image.leaderless().count(), 0);
}

#[test]
fn the_topic_wins_over_the_brokers_and_the_tree_over_properties() {
    let enabled = || {
        let mut cluster = Cluster::new();
        cluster.leader_settings.unclean_election = true;
        (1..=3).for_each(|id| {
            cluster.start(id);
        });
        cluster
    };
    assert_eq!(seed_004(enabled(), &[MIN_ISR_1]).state("t", 0).leader, BrokerId(2));
    let forbidden = seed_004(enabled(), &[MIN_ISR_1, (UNCLEAN, "false")]);
    assert_eq!(forbidden.state("t", 0).leader, BrokerId::NONE);
    let mut cluster = enabled();
    set(&mut cluster, ConfigEntity::default_broker(), UNCLEAN, "false");
    assert_eq!(seed_004(cluster, &[MIN_ISR_1]).state("t", 0).leader, BrokerId::NONE);
}

#[test]
fn a_leader_is_elected_uncleanly_on_demand() {
    let mut cluster = seed_004(Cluster::of(3), &[MIN_ISR_1]);
    assert_eq!(elect(&mut cluster, ElectionType::Preferred, false), [ErrorCode::PreferredLeaderNotAvailable]);
    assert_eq!(elect(&mut cluster, ElectionType::Unclean, true), [ErrorCode::None]);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    assert_eq!(elect(&mut cluster, ElectionType::Unclean, false), [ErrorCode::ElectionNotNeeded]);
    let mut all_down = seed_004(Cluster::of(3), &[MIN_ISR_1]);
    all_down.kill(2);
    all_down.kill(3);
    assert_eq!(elect(&mut all_down, ElectionType::Unclean, false), [ErrorCode::EligibleLeadersNotAvailable]);
}

/// A replica that comes back while no other runs, out of the ISR, leads where that is enabled.
#[test]
fn a_replica_that_returns_first_is_elected_uncleanly() {
    let mut cluster = seed_004(Cluster::of(3), &[MIN_ISR_1, (UNCLEAN, "false")]);
    cluster.kill(2);
    cluster.kill(3);
    set(&mut cluster, ConfigEntity::topic("t"), UNCLEAN, "true");
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE);
    cluster.start(3);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(3));
}

/// The ELR has every committed record: it is asked first.
#[test]
fn an_eligible_replica_makes_an_unclean_election_needless() {
    let mut cluster = Cluster::of(3);
    cluster.create("t", &[&[1, 2, 3]], &[(UNCLEAN, "true")]);
    let pair = vec![cluster.member(1), cluster.member(3)];
    cluster.alter_isr("t", pair);
    let alone = vec![cluster.member(1)];
    cluster.alter_isr("t", alone);
    assert_eq!(cluster.state("t", 0).elr, ids(&[3]));
    cluster.kill(1);
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, state.is_recovering()), (BrokerId(3), false));
}

/// What the log was told of unclean elections since the last look.
fn told(cluster: &mut Cluster) -> Vec<String> {
    let notes = std::mem::take(&mut cluster.notes).into_iter().filter(|note| note.is_warning);
    notes.map(|note| note.text).filter(|text| text.starts_with("unclean")).collect()
}

#[test]
fn an_unclean_election_is_told_once_in_each_term_and_its_leaders_return_is_none() {
    let mut cluster = seed_004(Cluster::of(3), &[MIN_ISR_1, (UNCLEAN, "true")]);
    let elected = |cluster: &Cluster| {
        let state = cluster.state("t", 0);
        assert!(state.leader == BrokerId(2) && state.is_recovering());
        format!("unclean election: broker 2 leads t-0 in leader epoch {}; ", state.leader_epoch)
    };
    let lost = "records that only the former ISR [1] or ELR [] has are lost";
    assert_eq!(told(&mut cluster), [elected(&cluster) + lost]);
    // It leads again with the log that it had.
    cluster.kill(3);
    cluster.kill(2);
    assert_eq!(cluster.state("t", 0).leader, BrokerId::NONE);
    cluster.start(2);
    let again = elected(&cluster);
    assert_eq!((told(&mut cluster), cluster.unclean_elections), (vec![], 1));
    // Of another partition there is nothing to tell.
    cluster.create("clean", &[&[2]], &[]);
    cluster.change_leader();
    let lost = "it was elected before this coordinator led, and records that only others have are lost";
    assert_eq!((told(&mut cluster), cluster.unclean_elections), (vec![again + lost], 2));
}

#[test]
fn of_many_unclean_elections_all_are_counted_and_ten_are_named() {
    for (partitions, more) in [(10, None), (13, Some("unclean leader elections of 3 further partitions"))] {
        let mut cluster = Cluster::of(2);
        let replicas: &[i32] = &[1, 2];
        cluster.create("t", &vec![replicas; partitions], &[MIN_ISR_1, (UNCLEAN, "true")]);
        cluster.kill(2);
        cluster.start(2);
        cluster.kill(1);
        let told = told(&mut cluster);
        assert_eq!(told.iter().filter(|text| text.starts_with("unclean election: broker 2 leads t-")).count(), 10);
        assert_eq!(told.get(10).map(String::as_str), more);
        assert_eq!(cluster.unclean_elections, partitions as u64);
    }
}

#[test]
fn without_its_rule_an_unclean_election_is_not_told() {
    let mut cluster = Cluster::with(|config| config.rules.unclean_is_not_told = true);
    (1..=3).for_each(|id| {
        cluster.start(id);
    });
    let mut cluster = seed_004(cluster, &[MIN_ISR_1, (UNCLEAN, "true")]);
    assert!(cluster.state("t", 0).is_recovering());
    assert_eq!((told(&mut cluster), cluster.unclean_elections), (vec![], 0));
}

#[test]
fn only_a_broker_that_gets_its_leaderships_back_by_itself_has_a_pause() {
    for (interval_s, has_pause) in [(0, false), (300, true)] {
        let mut cluster = Cluster::balancing(1, interval_s);
        cluster.kill(1);
        cluster.start(1);
        assert_eq!(cluster.image.broker(BrokerId(1)).expect("it is registered").awaits_clients, has_pause);
    }
}

#[test]
fn many_elections_on_demand_are_made_in_bounded_batches() {
    const LAST: usize = 100;
    let mut cluster = Cluster::of(2);
    let replicas: &[i32] = &[1, 2];
    cluster.create("t", &vec![replicas; PARTITIONS_PER_TRANSACTION + LAST], &[]);
    cluster.kill(1);
    cluster.start(1);
    let (one, two) = (cluster.member(1), cluster.member(2));
    let join = |number| {
        let (state, partition) = (cluster.state("t", number), cluster.id_of("t", number));
        let (leader_epoch, partition_epoch) = (state.leader_epoch, state.partition_epoch);
        AlterPartition { partition, leader_epoch, partition_epoch, isr: vec![two, one] }
    };
    let partitions = (0..).take(PARTITIONS_PER_TRANSACTION + LAST).map(join).collect();
    cluster.ask(Request::AlterPartitions(AlterPartitions { broker: two.broker, epoch: two.epoch, partitions }));
    cluster.send(Request::ElectLeaders(ElectLeaders { election: ElectionType::Preferred, topics: None }));
    let sizes: Vec<_> = cluster.proposals.iter().map(|(_, transaction)| transaction.changes.len()).collect();
    assert_eq!(sizes, [PARTITIONS_PER_TRANSACTION, LAST]);
}
