//! Scenarios 20–26: the quorum.

use std::sync::Arc;

use ottla_metadata::controller::{
    AllocateProducerIds, AlterConfig, AlterConfigs, AlterPartition, AlterPartitions, ConfigOp, ControlledShutdown,
    Register, ResignLeadership, ResignReason,
};
use ottla_metadata::image::{IsrMember, LeaderSettings, Standing};
use ottla_metadata::{Answer, ConfigEntity, ConfigKind, Request};
use ottla_model::{BrokerEpoch, BrokerId, CoordinatorId, ErrorCode, IncarnationId, IncarnationKey, ListenerName};
use ottla_quorum_node::BrokenRules as NodeRules;

use crate::coordinator_node::CoordinatorNode;
use crate::invariants::Violation;
use crate::message::{CallId, Message};
use crate::network::NodeId;
use crate::script::{Script, Step};
use crate::world::{SCRIPT, World, WorldConfig};

fn epochs(script: &Script) -> Vec<Option<BrokerEpoch>> {
    (1..=3).map(|id| script.registered_epoch(id)).collect()
}

#[test]
fn scenario_20_a_member_that_lost_its_disk_does_not_vote() {
    let story = || -> Step {
        let mut script = Script::new(20, WorldConfig::small())?;
        script.write(2)?;
        let victim = script.quorum_leader()?;
        script.world.lose_disk(victim);
        script.world.start_after(NodeId::Coordinator(victim), 50);
        script.run_ms(3_000)?;
        let is_member = |world: &World| world.coordinators.get(&victim).is_some_and(CoordinatorNode::is_member);
        assert!(!is_member(&script.world), "it stays out");
        script.converge()?;
        // With one of the other two away there is no majority, whatever the third remembers.
        let other = script.quorum_leader()?;
        script.world.kill(NodeId::Coordinator(other));
        script.run_ms(5_000)?;
        assert!(script.quorum_leader().is_err());
        script.world.start_after(NodeId::Coordinator(other), 0);
        script.converge()?;
        script.write(2)
    };
    story().expect("no vote is given twice");
}

/// The quorum goes from three to four and back, and a member whose disk is gone is replaced under its id.
#[test]
fn members_come_go_and_are_replaced() {
    let story = || -> Step {
        let mut script = Script::new(120, WorldConfig::small())?;
        script.world.grow_quorum();
        script.wait("the fourth coordinator to vote", |world| voters(world) == [1, 2, 3, 4])?;
        script.write(2)?;
        // With one of four away there is still a majority, with two there is none.
        let leader = script.quorum_leader()?;
        script.world.kill(NodeId::Coordinator(leader));
        script.wait("another leader", |world| world.coordinators.values().any(CoordinatorNode::is_leading))?;
        script.world.start_after(NodeId::Coordinator(leader), 0);
        script.converge()?;
        script.world.shrink_quorum(1);
        script.wait("the first coordinator to be gone", |world| voters(world) == [2, 3, 4])?;
        script.converge()?;
        script.world.lose_disk(2);
        script.run_ms(2_500)?;
        script.world.replace_member();
        let disk = |world: &World| world.newest_image()?.coordinator(CoordinatorId(2)).map(|one| one.node.disk);
        let before = disk(&script.world);
        script.wait("the second coordinator to vote with another disk", |world| {
            disk(world) != before && voters(world) == [2, 3, 4]
        })?;
        script.converge()?;
        script.write(2)
    };
    story().expect("members change");
}

/// A member is replaced while another one, which knows it with its former disk, hears of nothing but it.
fn replaced_beside_one_that_lags(node_rules: NodeRules) -> Step {
    let mut script = Script::new(121, WorldConfig { node_rules, ..WorldConfig::small() })?;
    for size in [4, 5] {
        script.world.grow_quorum();
        script.wait("another coordinator to vote", |world| voters(world).len() == size)?;
    }
    let leader = script.quorum_leader()?;
    let [victim, lagging, ..] = [1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<u64>>()[..] else {
        return Err(Violation("two do not lead".to_owned()));
    };
    for id in (1..=5).filter(|id| ![victim, lagging].contains(id)) {
        script.world.network.cut_both(NodeId::Coordinator(lagging), NodeId::Coordinator(id));
    }
    let disk = |world: &World| world.newest_image()?.coordinator(CoordinatorId(victim)).map(|one| one.node.disk);
    let before = disk(&script.world);
    script.world.lose_disk(victim);
    script.world.replace_member();
    script.wait("the coordinator to vote with another disk", |world| {
        disk(world) != before && voters(world) == [1, 2, 3, 4, 5]
    })?;
    script.heal();
    script.converge()
}

#[test]
fn a_member_that_lags_does_not_end_one_that_was_replaced() {
    replaced_beside_one_that_lags(NodeRules::default()).expect("the others are asked");
    let rules = NodeRules { one_member_is_believed: true, ..NodeRules::default() };
    // It ends with every start, and is never there when it is to be added.
    let noticed = replaced_beside_one_that_lags(rules).expect_err("it ends");
    assert!(noticed.0.contains("waited in vain for the coordinator to vote"), "{}", noticed.0);
}

fn voters(world: &World) -> Vec<u64> {
    let coordinators = world.newest_image().into_iter().flat_map(|image| image.coordinators());
    coordinators.filter(|(_, one)| one.node.standing == Standing::Voter).map(|(id, _)| id.0).collect()
}

#[test]
fn scenario_21_snapshots_with_crashes_in_the_middle() {
    let story = |seed| -> Step {
        let mut script = Script::new(seed, WorldConfig::small())?;
        let away = script.quorum_leader()? % 3 + 1;
        script.world.kill(NodeId::Coordinator(away));
        // So much happens meanwhile that the log does not reach back: leaders come and go.
        for round in 0..12 {
            let broker = round % 3 + 1;
            script.kill(broker);
            script.wait_fenced(broker)?;
            script.start(broker);
            script.run_ms(1_500)?;
        }
        script.world.start_after(NodeId::Coordinator(away), 0);
        for steps in 0..6 {
            script.run_ms(60)?;
            if let Some(node) = script.world.coordinators.get_mut(&away) {
                node.arm_crash(steps);
            }
        }
        script.run_ms(2_000)?;
        script.converge()
    };
    ottla_test_support::each_seed(21..24, |seed| {
        story(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    });
}

/// Which directions between a broker and the leader of the quorum carry nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Both,
    ToLeader,
    FromLeader,
}

fn cut_from(script: &mut Script, leader: u64, brokers: &[i32], cut: Cut) {
    let leader = NodeId::Coordinator(leader);
    for broker in brokers.iter().map(|id| NodeId::Broker(*id)) {
        let network = &mut script.world.network;
        if cut != Cut::FromLeader {
            network.cut(broker, leader);
        }
        if cut != Cut::ToLeader {
            network.cut(leader, broker);
        }
    }
}

/// The leader and the term of the quorum.
fn leadership(script: &Script) -> Step<(u64, u64)> {
    let leader = script.quorum_leader()?;
    let term = script.world.coordinators.get(&leader).and_then(CoordinatorNode::term_if_leader);
    term.map(|term| (leader, term)).ok_or_else(|| Violation("no term".to_owned()))
}

/// Some brokers do not reach the leader of the quorum, which its peers reach.
fn brokers_cut_from_the_leader(count: i32, cut: Cut, node_rules: NodeRules) -> Step<bool> {
    let mut script = Script::new(65, WorldConfig { node_rules, ..WorldConfig::small() })?;
    // After a change of leaders nothing is handed over for a while.
    script.run_ms(5_000)?;
    let (leader, term) = leadership(&script)?;
    let before = epochs(&script);
    let brokers: Vec<i32> = (1..=count).collect();
    cut_from(&mut script, leader, &brokers, cut);
    for _ in 0..40 {
        script.run_ms(500)?;
        script.write(1)?;
    }
    let now = leadership(&script)?;
    if now.0 == leader {
        assert_eq!(now.1, term, "it leads all the time");
    } else {
        assert_eq!(now.1, term + 1, "one change");
        assert_eq!(epochs(&script), before, "before any broker was fenced");
    }
    script.heal();
    script.converge()?;
    assert_eq!(leadership(&script)?, now, "the return of the links changes no leader");
    Ok(now.0 != leader)
}

#[test]
fn scenario_65_a_leader_that_no_broker_reaches_hands_the_quorum_over() {
    let hands_over = |count, cut| brokers_cut_from_the_leader(count, cut, NodeRules::default()).expect("leaders stay");
    assert!(hands_over(3, Cut::Both));
    assert!(hands_over(2, Cut::Both), "one reaches it, two do not");
    assert!(hands_over(3, Cut::ToLeader));
    assert!(!hands_over(3, Cut::FromLeader), "it hears them, and the images come from the others");
    assert!(!hands_over(1, Cut::Both), "two reach it");
    let rules = NodeRules { keeps_lost_brokers: true, ..NodeRules::default() };
    let noticed = brokers_cut_from_the_leader(3, Cut::Both, rules).expect_err("all brokers are fenced");
    assert!(noticed.0.contains("and fewer reach it") || noticed.0.contains("no leader"), "{}", noticed.0);
}

/// Two coordinators that brokers reach in part, one better than the other: the leadership does not go to and fro.
#[test]
fn scenario_65_the_leadership_goes_to_the_better_reached_once() {
    let story = || -> Step {
        let mut script = Script::new(165, WorldConfig { brokers: 5, ..WorldConfig::small() })?;
        script.run_ms(5_000)?;
        let (leader, term) = leadership(&script)?;
        cut_from(&mut script, leader, &[3, 4, 5], Cut::Both);
        for heir in (1..=3).filter(|id| *id != leader) {
            cut_from(&mut script, heir, &[1], Cut::Both);
        }
        script.run_ms(25_000)?;
        let (heir, next) = leadership(&script)?;
        assert!(heir != leader && next == term + 1, "c{heir} leads in term {next}, after c{leader} in {term}");
        script.heal();
        script.converge()
    };
    story().expect("the leadership settles");
}

#[test]
fn scenario_22_a_watch_never_goes_back_nor_stands_still() {
    let story = || -> Step {
        let mut script = Script::new(22, WorldConfig::small())?;
        let leader = script.quorum_leader()?;
        // One coordinator hears nothing of the quorum any more, but serves watches.
        let lagging = leader % 3 + 1;
        for id in (1..=3).filter(|id| *id != lagging) {
            script.world.network.cut_both(NodeId::Coordinator(lagging), NodeId::Coordinator(id));
        }
        for _ in 0..3 {
            let follower = script.followers()?[0];
            script.kill(follower);
            script.wait_fenced(follower)?;
            script.start(follower);
            script.wait("every broker's image to follow", |world| {
                let revision = world.newest_revision();
                world.brokers.values().all(|broker| broker.image().is_some_and(|image| image.revision() == revision))
                    && world.brokers.values().all(|broker| broker.active_epoch().is_some())
            })?;
        }
        script.heal();
        script.converge()
    };
    story().expect("brokers watch elsewhere");
}

#[test]
fn scenario_23_a_new_quorum_leader_fences_nobody_for_the_past() {
    let story = || -> Step {
        let mut script = Script::new(23, WorldConfig::small())?;
        let before = epochs(&script);
        let leader_epoch = script.leader_epoch()?;
        for _ in 0..3 {
            let leader = script.quorum_leader()?;
            script.world.kill(NodeId::Coordinator(leader));
            script.world.start_after(NodeId::Coordinator(leader), 4_000);
            script.run_ms(6_000)?;
            script.converge()?;
        }
        assert_eq!(epochs(&script), before);
        // A leader that stalls for longer than a session, alone or with everybody else.
        let leader = script.quorum_leader()?;
        script.world.pause(NodeId::Coordinator(leader), 5_000);
        script.run_ms(8_000)?;
        script.converge()?;
        let nodes: Vec<_> = script.world.all_servers().collect();
        for node in nodes {
            script.world.pause(node, 6_000);
        }
        script.run_ms(9_000)?;
        script.converge()?;
        assert_eq!(epochs(&script), before, "nobody was away");
        assert_eq!(script.leader_epoch()?, leader_epoch);
        Ok(())
    };
    story().expect("silence counts only while somebody listens");
}

#[test]
fn scenario_24_two_processes_with_one_broker_id() {
    let story = || -> Step {
        let mut script = Script::new(24, WorldConfig::small())?;
        script.write(2)?;
        let before = epochs(&script);
        let request = Request::Register(Register {
            broker: BrokerId(1),
            incarnation: IncarnationId([9; 16]),
            cluster_id: None,
            endpoints: Vec::new(),
            inter_broker_listener: ListenerName::new("INTERNAL"),
            rack: None,
            clean_shutdown_epoch: BrokerEpoch::NONE,
            min_insync_replicas: 1,
            leaders: LeaderSettings::default(),
            levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
        });
        let leader = NodeId::Coordinator(script.quorum_leader()?);
        let call = CallId(24_000);
        script.world.send(SCRIPT, leader, Message::Cluster { call, request: Arc::new(request) });
        script.run_ms(3_000)?;
        let answer = script.world.inbox.iter().find_map(|(_, message)| match message {
            Message::ClusterAnswer { call: CallId(24_000), answer: Some(answer), .. } => Some((**answer).clone()),
            _ => None,
        });
        match answer {
            Some(Answer::Register(Err(refusal))) => {
                assert_ne!(refusal.error, ErrorCode::None);
                assert!(!refusal.message.is_empty(), "it names the other");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(epochs(&script), before, "the living one notices nothing");
        script.write(2)?;
        script.converge()
    };
    story().expect("the second is refused");
}

/// Everything that a stranger can read of a broker: its id, its epoch, its incarnation.
#[test]
fn requests_without_a_brokers_key_move_nothing() {
    let story = || -> Step {
        let mut script = Script::new(241, WorldConfig::small())?;
        script.write(2)?;
        let (before, leader_epoch, isr) = (epochs(&script), script.leader_epoch()?, script.isr()?);
        let (broker, partition, state) = (BrokerId(script.leader()?), script.partition()?, script.state()?);
        let image = script.world.newest_image().ok_or_else(|| Violation("no image".to_owned()))?;
        let registered = image.broker(broker).ok_or_else(|| Violation("the leader is not registered".to_owned()))?;
        let (epoch, incarnation) = (registered.epoch, registered.incarnation);
        let alone = AlterPartition {
            partition,
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            isr: vec![IsrMember { broker, epoch }],
        };
        let (partitions, reason) = (vec![partition], ResignReason::Lost);
        let forged = [
            Request::AlterPartitions(AlterPartitions { broker, epoch, partitions: vec![alone] }),
            Request::ResignLeadership(ResignLeadership { broker, epoch, partitions, reason }),
            Request::ControlledShutdown(ControlledShutdown { broker, epoch, incarnation }),
            Request::AllocateProducerIds(AllocateProducerIds { broker, epoch }),
        ];
        let leader = NodeId::Coordinator(script.quorum_leader()?);
        for (call, request) in (24_100..).map(CallId).zip(forged) {
            let keyed = Request::Proved(IncarnationKey::new([9; IncarnationKey::BYTES]), Box::new(request.clone()));
            for request in [request, keyed] {
                script.world.inbox.clear();
                script.world.send(SCRIPT, leader, Message::Cluster { call, request: Arc::new(request.clone()) });
                script.run_ms(500)?;
                let answer = script.world.inbox.iter().find_map(|(_, message)| match message {
                    Message::ClusterAnswer { call: answered, answer: Some(answer), .. } if *answered == call => {
                        Some((**answer).clone())
                    }
                    _ => None,
                });
                let error = match answer {
                    Some(Answer::AlterPartitions(altered)) => altered.error,
                    Some(Answer::ResignLeadership(resigned)) => resigned.error,
                    Some(Answer::ControlledShutdown(progress)) => progress.error,
                    Some(Answer::AllocateProducerIds(Err(error))) => error,
                    other => panic!("{}: {other:?}", request.name()),
                };
                assert_eq!(error, ErrorCode::ClusterAuthorizationFailed, "{}", request.name());
            }
        }
        assert_eq!((epochs(&script), script.leader_epoch()?, script.isr()?), (before, leader_epoch, isr));
        script.write(2)?;
        script.converge()
    };
    story().expect("nobody is believed who only read what is public");
}

#[test]
fn scenario_26_many_leaderships_at_once_and_a_quorum_change_in_the_middle() {
    let story = || -> Step {
        let mut script = Script::new(26, WorldConfig { partitions: 120, ..WorldConfig::small() })?;
        let victim = script.leader()?;
        script.kill(victim);
        script.run_ms(2)?;
        let leader = script.quorum_leader()?;
        script.world.kill(NodeId::Coordinator(leader));
        script.world.start_after(NodeId::Coordinator(leader), 1_000);
        script.wait("every partition to have a living leader", |world| {
            world.partitions().iter().all(|partition| {
                world.leader_of(*partition).is_some_and(|leader| {
                    leader != victim
                        && world
                            .brokers
                            .get(&leader)
                            .and_then(|node| node.replica(*partition))
                            .is_some_and(|replica| replica.leader().is_some())
                })
            })
        })?;
        script.start(victim);
        script.converge()
    };
    story().expect("none is forgotten");
}

/// A1, A6: a group's name that makes no path, and changes above what a node, an entry or a message may have.
#[test]
fn scenario_38_what_no_member_could_apply_is_refused_and_harms_nobody() {
    let story = || -> Step {
        let mut script = Script::new(38, WorldConfig::small())?;
        let group = |name: String| ConfigEntity { kind: ConfigKind::Groups, name };
        let interval = ("consumer.session.timeout.ms".to_owned(), ConfigOp::Set("45000".to_owned()));
        let large = |mib: usize| ("unknown.key".to_owned(), ConfigOp::Set("v".repeat(mib << 20)));
        let requests = [
            (group("g".repeat(1_010)), interval),
            (ConfigEntity::default_broker(), large(3)),
            (ConfigEntity::default_broker(), large(20)),
        ];
        let leader = NodeId::Coordinator(script.quorum_leader()?);
        for (call, (entity, change)) in (38_000..).zip(requests) {
            let alter = AlterConfig { entity, changes: vec![change], replace_all: false };
            let request = Request::AlterConfigs(AlterConfigs { entities: vec![alter], validate_only: false });
            let call = CallId(call);
            script.world.send(SCRIPT, leader, Message::Cluster { call, request: Arc::new(request) });
        }
        script.run_ms(2_000)?;
        let mut answered = 0;
        for (_, message) in &script.world.inbox {
            if let Message::ClusterAnswer { call: CallId(38_000..38_003), answer, .. } = message {
                answered += 1;
                // Refused by the controller's limits, or by the guard before the proposal.
                if let Some(Answer::AlterConfigs(outcomes)) = answer.as_deref() {
                    assert!(outcomes.entities.iter().all(|(_, refusal)| refusal.is_some()), "{outcomes:?}");
                }
            }
        }
        assert_eq!(answered, 3);
        for id in 1..=3 {
            script.world.kill(NodeId::Coordinator(id));
            script.world.start_after(NodeId::Coordinator(id), 100);
        }
        script.run_ms(3_000)?;
        script.converge()?;
        script.write(2)
    };
    story().expect("every member goes on, also after a restart");
}
