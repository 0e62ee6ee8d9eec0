//! Brokers come, live, are fenced and go.

use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, CoordinatorId, ErrorCode, IncarnationId, IncarnationKey, Revision,
};

use super::harness::*;
use crate::controller::*;
use crate::image::Image;
use crate::nodes;
use crate::tree::Path;

#[test]
fn the_first_transaction_lays_out_zookeepers_tree() {
    let coordinator = |id: u8| AdmitCoordinator {
        coordinator: CoordinatorId(id.into()),
        disk: IncarnationId([id; 16]),
        address: format!("coordinator-{id}:2888"),
    };
    let mut cluster = Cluster::with(|config| config.coordinators = (1..=3).map(coordinator).collect());
    // goldens: zookeeper-shell ls /, without ZooKeeper's own and before a broker has registered.
    let top = [
        "admin",
        "brokers",
        "cluster",
        "config",
        "consumers",
        "controller_epoch",
        "feature",
        "isr_change_notification",
        "latest_producer_id_block",
        "log_dir_event_notification",
        "ottla",
    ];
    assert_eq!(cluster.tree.children(&Path::root()), top);
    cluster.start(1);
    assert!(cluster.tree.children(&Path::root()).contains(&"controller".to_owned()));
    let at = |path: &str| nodes::json_at(&cluster.tree, &Path::new(path).expect("a path"));
    assert_eq!(at("/cluster/id").as_deref(), Some(r#"{"version":"1","id":"G6jBNhY5TiO_EKLtMUA1qA"}"#));
    assert_eq!(at("/controller_epoch").as_deref(), Some("1"));
    assert_eq!(at("/brokers/seqid"), None);
    assert_eq!(at("/isr_change_notification"), None);
    assert!(at("/controller").expect("is there").starts_with(r#"{"version":2,"brokerid":1,"timestamp":"1795250"#));
    assert_eq!(cluster.image.coordinator_disk(CoordinatorId(2)), Some(IncarnationId([2; 16])));
}

/// Scenario 20: a coordinator that lost its disk comes back under its old id.
#[test]
fn scenario_20_a_known_coordinator_with_another_disk_is_refused_by_name() {
    let mut cluster = Cluster::new();
    let admit = |disk: u8| {
        let disk = IncarnationId([disk; 16]);
        Request::AdmitCoordinator(AdmitCoordinator { coordinator: CoordinatorId(1), disk, address: String::new() })
    };
    assert_eq!(cluster.ask(admit(1)), Answer::AdmitCoordinator(Ok(())));
    assert_eq!(cluster.ask(admit(1)), Answer::AdmitCoordinator(Ok(())));
    cluster.change_leader();
    let Answer::AdmitCoordinator(Err(refused)) = cluster.ask(admit(2)) else { panic!("admitted") };
    assert_eq!((refused.known, refused.shown), (IncarnationId([1; 16]), IncarnationId([2; 16])));
    assert!(refused.to_string().contains("coordinator 1"));
}

#[test]
fn ids_are_given_from_1001_on_and_a_retry_gets_the_same() {
    let mut cluster = Cluster::new();
    let first = cluster.register(-1, 1, BrokerEpoch::NONE).expect("registers");
    assert_eq!(first.broker, BrokerId(1001));
    assert_eq!(first.epoch, BrokerEpoch::from(first.revision));
    let again = cluster.register(-1, 1, BrokerEpoch::NONE).expect("registers");
    assert_eq!((again.broker, again.epoch), (first.broker, first.epoch));
    // An id that was configured by hand is not assigned.
    cluster.start(1002);
    assert_eq!(cluster.register(-1, 2, BrokerEpoch::NONE).expect("registers").broker, BrokerId(1003));
}

#[test]
fn a_retry_before_the_first_answer_gets_the_same_epoch() {
    let mut cluster = Cluster::new();
    let register = Request::Register(cluster.registration(1, 1, BrokerEpoch::NONE));
    let ids = [cluster.send(register.clone()), cluster.send(register)];
    cluster.commit_all();
    let epochs = ids.map(|id| match cluster.answers.remove(&id) {
        Some(Answer::Register(Ok(registered))) => registered.epoch,
        other => panic!("not registered: {other:?}"),
    });
    assert_eq!(epochs[0], epochs[1]);
    assert_eq!(cluster.image.broker_epoch(BrokerId(1)), Some(epochs[0]));
}

/// Scenario 24: a second process with a living broker's id, and a broker of another cluster.
#[test]
fn scenario_24_a_second_process_and_another_clusters_broker_are_refused_with_names() {
    let mut cluster = Cluster::of(1);
    let holder = cluster.brokers[&1].clone();
    let refused = cluster.register(1, 200, BrokerEpoch::NONE).expect_err("the id is taken");
    assert_eq!(refused.error, ErrorCode::DuplicateBrokerRegistration);
    assert!(refused.message.contains(&holder.incarnation.to_string()), "{refused}");
    assert!(refused.message.contains("10.0.0.1:9001"), "{refused}");
    // The living one notices nothing.
    cluster.beat(1);
    assert!(!cluster.heartbeats[&holder.stream].fenced);
    assert_eq!(cluster.image.broker_epoch(BrokerId(1)), Some(holder.epoch));

    let mut stranger = cluster.registration(2, 201, BrokerEpoch::NONE);
    stranger.cluster_id = Some(ClusterId::new("another"));
    let Answer::Register(Err(refused)) = cluster.ask(Request::Register(stranger)) else { panic!("registered") };
    assert_eq!(refused.error, ErrorCode::InconsistentClusterId);
    assert_eq!(refused.message, "Expected cluster ID G6jBNhY5TiO_EKLtMUA1qA, but got cluster ID another");
}

#[test]
fn a_dead_holder_that_was_reached_gives_way_at_once() {
    let mut cluster = Cluster::of(2);
    cluster.stop_running(1);
    cluster.probes.clear();
    // The stream is missing, the grace period runs: the holder is probed before the new process is refused.
    let register = Request::Register(cluster.registration(1, 200, BrokerEpoch::NONE));
    let id = cluster.send(register);
    assert!(!cluster.answers.contains_key(&id));
    let incarnation = cluster.brokers[&1].incarnation;
    cluster.step(Input::Probed { broker: BrokerId(1), incarnation, result: ProbeResult::Refused });
    cluster.commit_all();
    assert!(matches!(cluster.answers.get(&id), Some(Answer::Register(Ok(_)))));
}

/// G6: a forged broker that names the address of a real one gets no replicas.
#[test]
fn a_broker_is_ready_only_after_its_address_was_dialled_and_no_other_process_answers_there() {
    let mut cluster = Cluster::of(1);
    let registered = cluster.register(2, 200, BrokerEpoch::NONE).expect("registers");
    let (broker, incarnation) = (BrokerId(2), incarnation_id(200));
    let is_ready = |cluster: &Cluster| cluster.image.broker(broker).is_some_and(|broker| broker.ready);
    let (stream, image_revision) = (cluster.brokers[&2].stream, cluster.image.revision());
    let beat = Beat { broker, epoch: registered.epoch, incarnation, image_revision };
    cluster.step(Input::StreamBeat { stream, beat });
    cluster.commit_all();
    assert!(!is_ready(&cluster), "the probe has not ended");
    assert_eq!(cluster.probes.len(), 1);
    let other = ProbeResult::Answered(cluster.brokers[&1].incarnation);
    for _ in 0..3 {
        cluster.step(Input::Probed { broker, incarnation, result: other });
        cluster.step(Input::StreamBeat { stream, beat });
        cluster.commit_all();
        assert!(!is_ready(&cluster), "another broker answers there");
        cluster.probes.clear();
        // It is dialled again soon: the predecessor may have been slow to go.
        for _ in 0..6 {
            cluster.tick();
        }
        assert_eq!(cluster.probes.len(), 1);
    }
    cluster.step(Input::Probed { broker, incarnation, result: ProbeResult::Answered(incarnation) });
    cluster.commit_all();
    assert!(is_ready(&cluster));
}

/// An address may be for other networks than the coordinators': a broker that cannot be dialled is ready all the same.
#[test]
fn a_broker_whose_address_proves_nothing_is_ready() {
    for result in [ProbeResult::Refused, ProbeResult::Unknown] {
        let mut cluster = Cluster::of(1);
        let registered = cluster.register(2, 200, BrokerEpoch::NONE).expect("registers");
        let (broker, incarnation) = (BrokerId(2), incarnation_id(200));
        let (stream, image_revision) = (cluster.brokers[&2].stream, cluster.image.revision());
        let beat = Beat { broker, epoch: registered.epoch, incarnation, image_revision };
        cluster.step(Input::StreamBeat { stream, beat });
        cluster.step(Input::Probed { broker, incarnation, result });
        cluster.commit_all();
        assert!(cluster.image.broker(broker).is_some_and(|broker| broker.ready), "{result:?}");
    }
}

/// The fencing of the old incarnation and the registration of the new one are both in flight when the old one's session
/// expires too.
#[test]
fn a_session_that_ends_twice_does_not_fence_the_next_incarnation() {
    let mut cluster = Cluster::of(2);
    cluster.stop_running(1);
    let incarnation = cluster.brokers[&1].incarnation;
    cluster.step(Input::Probed { broker: BrokerId(1), incarnation, result: ProbeResult::Refused });
    let register = Request::Register(cluster.registration(1, 200, BrokerEpoch::NONE));
    let id = cluster.send(register);
    assert_eq!(cluster.proposals.len(), 2);
    for _ in 0..30 {
        cluster.tick();
    }
    cluster.step(Input::Probed { broker: BrokerId(1), incarnation, result: ProbeResult::Refused });
    assert_eq!(cluster.proposals.len(), 2);
    cluster.commit_all();
    let Some(Answer::Register(Ok(registered))) = cluster.answers.remove(&id) else { panic!("not registered") };
    assert_eq!(cluster.image.broker_epoch(BrokerId(1)), Some(registered.epoch));
}

#[test]
fn a_holder_that_cannot_be_reached_keeps_its_id_until_its_session_ends() {
    let mut cluster = Cluster::new();
    cluster.reachable = false;
    cluster.start(1);
    cluster.start(2);
    cluster.stop_running(1);
    let register = Request::Register(cluster.registration(1, 200, BrokerEpoch::NONE));
    let id = cluster.send(register.clone());
    cluster.run(900);
    assert!(!cluster.answers.contains_key(&id));
    // The grace of a lost stream ends first; with it the challenge is won.
    cluster.run(200);
    assert!(matches!(cluster.answers.get(&id), Some(Answer::Register(Ok(_)))), "{:?}", cluster.answers.get(&id));
    // A holder that has not opened a stream yet gets time: the challenger is refused and retries.
    let id = cluster.send(Request::Register(cluster.registration(1, 201, BrokerEpoch::NONE)));
    cluster.run(1_100);
    let refused = cluster.answers.remove(&id);
    let Some(Answer::Register(Err(refused))) = refused else { panic!("not refused: {refused:?}") };
    assert_eq!(refused.error, ErrorCode::DuplicateBrokerRegistration);
}

#[test]
fn a_broker_is_ready_when_its_image_has_its_registration() {
    let mut cluster = Cluster::of(1);
    let registered = cluster.register(2, 9, BrokerEpoch::NONE).expect("registers");
    let broker = cluster.brokers.get_mut(&2).expect("is there");
    broker.follows = false;
    broker.image_revision = Revision(registered.revision.0 - 1);
    cluster.beat(2);
    assert!(!cluster.image.broker(BrokerId(2)).expect("is there").ready);
    cluster.brokers.get_mut(&2).expect("is there").image_revision = registered.revision;
    cluster.beat(2);
    let broker = cluster.image.broker(BrokerId(2)).expect("is there").clone();
    assert!(broker.ready && broker.epoch == registered.epoch);
}

#[test]
fn a_dead_process_is_fenced_within_milliseconds_and_controller_moves_with_it() {
    let mut cluster = Cluster::of(3);
    assert_eq!((cluster.image.controller(), cluster.image.controller_epoch().0), (Some(BrokerId(1)), 1));
    cluster.stop_running(1);
    cluster.answer_probes();
    // One transaction fences it and moves /controller.
    assert_eq!(cluster.proposals.len(), 1);
    cluster.commit_all();
    assert!(cluster.image.broker(BrokerId(1)).is_none());
    assert_eq!((cluster.image.controller(), cluster.image.controller_epoch().0), (Some(BrokerId(2)), 2));
    cluster.kill(2);
    cluster.kill(3);
    assert_eq!(cluster.image.controller(), None);
    cluster.start(2);
    assert_eq!((cluster.image.controller(), cluster.image.controller_epoch().0), (Some(BrokerId(2)), 4));
}

#[test]
fn a_fenced_incarnation_is_told_so() {
    let mut cluster = Cluster::of(2);
    let broker = cluster.brokers.get_mut(&1).expect("is there");
    broker.runs = false;
    cluster.run(3_100);
    assert!(cluster.image.broker(BrokerId(1)).is_none());
    cluster.brokers.get_mut(&1).expect("is there").runs = true;
    cluster.beat(1);
    let stream = cluster.brokers[&1].stream;
    assert!(cluster.heartbeats[&stream].fenced);
    assert_eq!(cluster.heartbeats[&stream].committed_revision, cluster.image.revision());
}

/// Scenario 23: a new quorum leader fences no broker for time before its election, and a stalled one none for its
/// stall.
#[test]
fn scenario_23_nobody_is_fenced_for_a_leaders_own_silence() {
    let mut cluster = Cluster::of(2);
    cluster.run(2_000);
    for broker in cluster.brokers.values_mut() {
        broker.runs = false;
    }
    cluster.reachable = false;
    cluster.run(2_400);
    cluster.change_leader();
    cluster.commit_all();
    cluster.run(2_900);
    assert_eq!(cluster.image.broker_count(), 2, "a fresh timeout each");
    // The leader stalls for a minute; its first input afterwards is a tick.
    cluster.now.monotonic.0 += 60_000;
    cluster.run(50);
    assert_eq!(cluster.image.broker_count(), 2);
    cluster.run(200);
    assert_eq!(cluster.image.broker_count(), 0);
}

/// A host with a broker and the quorum leader dies: the next leader has dialled the broker before, as a follower.
#[test]
fn a_new_leader_dials_whoever_opens_no_stream() {
    let mut cluster = Cluster::of(2);
    let incarnation = cluster.brokers[&1].incarnation;
    cluster.brokers.get_mut(&1).expect("is there").runs = false;
    let mut reached = crate::liveness::Reached::new();
    reached.note(BrokerId(1), incarnation, ProbeResult::Answered(incarnation));
    let (tree, image) = (cluster.tree.clone(), (*cluster.image).clone());
    let (controller, _) = Controller::new(cluster.now, cluster.config.clone(), tree, image, reached);
    cluster.controller = controller;
    cluster.run(250);
    assert_eq!(cluster.image.broker_count(), 2);
    cluster.run(100);
    assert!(cluster.image.broker(BrokerId(1)).is_none());
}

/// Scenario 22: an image never goes back.
#[test]
fn scenario_22_an_image_keeps_the_newer_revision() {
    let (image, _) = Image::empty().apply(Revision(7), &[]);
    assert_eq!(image.apply(Revision(5), &[]).0.revision(), Revision(7));
}

#[test]
fn a_broker_that_shut_down_is_fenced_as_its_stream_ends() {
    let mut cluster = Cluster::of(3);
    cluster.reachable = false;
    cluster.create("t", &[&[1, 2, 3], &[2, 3, 1]], &[]);
    let epoch = cluster.brokers[&1].epoch;
    let shutdown = Request::ControlledShutdown(ControlledShutdown {
        broker: BrokerId(1),
        epoch,
        incarnation: cluster.brokers[&1].incarnation,
    });
    let id = cluster.send(shutdown.clone());
    cluster.commit_all();
    let state = cluster.state("t", 0);
    assert_eq!((state.leader, isr(&state)), (BrokerId(2), vec![2, 3]));
    assert_eq!(isr(&cluster.state("t", 1)), [2, 3]);
    assert_eq!(cluster.image.controller(), Some(BrokerId(2)));
    // The other brokers' images have not reached it yet.
    assert!(!cluster.answers.contains_key(&id));
    cluster.beat(2);
    cluster.beat(3);
    let progress = |answer| match answer {
        Some(Answer::ControlledShutdown(progress)) => progress,
        other => panic!("not the answer: {other:?}"),
    };
    let done = progress(cluster.answers.remove(&id));
    assert!(done.done && done.remaining_leaderships == 0 && done.error == ErrorCode::None, "{done:?}");
    assert!(done.revision <= cluster.image.revision());
    cluster.stop_running(1);
    cluster.commit_all();
    assert!(cluster.image.broker(BrokerId(1)).is_none(), "no probe and no grace");
    let stale = cluster.send(shutdown);
    assert_eq!(progress(cluster.answers.remove(&stale)).error, ErrorCode::StaleBrokerEpoch);
}

#[test]
fn a_shutdown_waits_for_a_replica_that_may_catch_up_and_hands_over_as_it_joins() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[]);
    cluster.create("alone", &[&[1]], &[]);
    // The follower joins the ELR, but it may lack records that only the leader has: it does not get the leadership.
    let one = vec![cluster.member(1)];
    assert_eq!(cluster.alter_isr("t", one), ErrorCode::None);
    let epoch = cluster.brokers[&1].epoch;
    let shutdown = Request::ControlledShutdown(ControlledShutdown {
        broker: BrokerId(1),
        epoch,
        incarnation: cluster.brokers[&1].incarnation,
    });
    let ask = |cluster: &mut Cluster| {
        let id = cluster.send(shutdown.clone());
        cluster.run(1_100);
        match cluster.answers.remove(&id) {
            Some(Answer::ControlledShutdown(progress)) => (progress.remaining_leaderships, progress.done),
            other => panic!("not the answer: {other:?}"),
        }
    };
    assert_eq!(ask(&mut cluster), (2, false));
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1), "nothing loses its leader while it runs");
    // The follower catches up: the change that brings it in hands over.
    let both = vec![cluster.member(1), cluster.member(2)];
    assert_eq!(cluster.alter_isr("t", both), ErrorCode::NewLeaderElected);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    // Partitions without another replica stay; nothing more will move.
    assert_eq!(ask(&mut cluster), (1, true));
    assert_eq!(isr(&cluster.state("t", 0)), [2]);
    assert_eq!(cluster.state("alone", 0).leader, BrokerId(1));
}

/// Raft lost what was proposed for a shutdown: the work that is left is done without another request.
#[test]
fn a_shutdown_goes_on_after_a_lost_proposal() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2], &[1, 2]], &[]);
    let (epoch, incarnation) = (cluster.brokers[&1].epoch, cluster.brokers[&1].incarnation);
    let id = cluster.send(Request::ControlledShutdown(ControlledShutdown { broker: BrokerId(1), epoch, incarnation }));
    // The mark of the broker is committed, the moves are not.
    cluster.commit_one();
    assert!(!cluster.proposals.is_empty());
    while !cluster.proposals.is_empty() {
        cluster.lose_one();
    }
    let other = AllocateProducerIds { broker: BrokerId(2), epoch: cluster.brokers[&2].epoch };
    cluster.send(Request::AllocateProducerIds(other));
    cluster.commit_all();
    assert_eq!([0, 1].map(|partition| cluster.state("t", partition).leader), [BrokerId(2); 2]);
    cluster.beat(2);
    let Some(Answer::ControlledShutdown(progress)) = cluster.answers.remove(&id) else { panic!("no answer") };
    assert!(progress.done && progress.remaining_leaderships == 0, "{progress:?}");
}

fn error_of(answer: &Answer) -> ErrorCode {
    match answer {
        Answer::Register(registered) => registered.as_ref().err().map_or(ErrorCode::None, |refused| refused.error),
        Answer::AlterPartitions(altered) => altered.error,
        Answer::ResignLeadership(resigned) => resigned.error,
        Answer::ControlledShutdown(progress) => progress.error,
        Answer::AllocateProducerIds(allocated) => allocated.err().unwrap_or(ErrorCode::None),
        other => panic!("not in a broker's name: {other:?}"),
    }
}

/// Ids, epochs and incarnations are public: who has only read them speaks for no broker.
#[test]
fn only_the_key_of_its_incarnation_speaks_for_a_broker() {
    let mut cluster = Cluster::of(2);
    let (key, wrong) = (IncarnationKey::new([7; 32]), IncarnationKey::new([8; 32]));
    let incarnation = key.incarnation();
    let proved = |key: &IncarnationKey, request| Request::Proved(key.clone(), Box::new(request));
    let once = |request| Request::Once(IdempotencyKey([7; 16]), Box::new(request));
    let register = Register { incarnation, ..cluster.registration(3, 0, BrokerEpoch::NONE) };
    let register = Request::Register(register);
    for forged in [register.clone(), once(register.clone()), proved(&wrong, register.clone())] {
        assert_eq!(error_of(&cluster.ask(forged)), ErrorCode::ClusterAuthorizationFailed);
    }
    let Answer::Register(Ok(registered)) = cluster.ask(proved(&key, register)) else { panic!("not registered") };
    let (broker, epoch, reason) = (registered.broker, registered.epoch, ResignReason::Stalled);
    let requests = [
        Request::AlterPartitions(AlterPartitions { broker, epoch, partitions: Vec::new() }),
        Request::ResignLeadership(ResignLeadership { broker, epoch, partitions: Vec::new(), reason }),
        Request::AllocateProducerIds(AllocateProducerIds { broker, epoch }),
        Request::ControlledShutdown(ControlledShutdown { broker, epoch, incarnation }),
    ];
    for request in requests {
        for forged in [request.clone(), once(request.clone()), proved(&wrong, request.clone())] {
            assert_eq!(error_of(&cluster.ask(forged)), ErrorCode::ClusterAuthorizationFailed, "{request:?}");
        }
        assert!(cluster.image.broker(broker).is_some_and(|broker| !broker.shutting_down));
        let id = cluster.send(proved(&key, request));
        while !cluster.answers.contains_key(&id) {
            cluster.run(50);
        }
        assert_eq!(cluster.answers.get(&id).map(error_of), Some(ErrorCode::None));
    }
    // A broker of version 0.1 has no key.
    let (epoch, broker) = (cluster.brokers[&1].epoch, BrokerId(1));
    let without = Request::AllocateProducerIds(AllocateProducerIds { broker, epoch });
    assert_eq!(error_of(&cluster.ask(without)), ErrorCode::None);
}

/// Fault G2: ids and epochs are public; and a broker that does not go after all counts again.
#[test]
fn a_shutdown_is_asked_for_by_the_broker_itself_and_ends_where_it_stays() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[("min.insync.replicas", "1")]);
    let (epoch, incarnation) = (cluster.brokers[&1].epoch, cluster.brokers[&1].incarnation);
    let forged = ControlledShutdown { broker: BrokerId(1), epoch, incarnation: IncarnationId([0xee; 16]) };
    let Answer::ControlledShutdown(refused) = cluster.ask(Request::ControlledShutdown(forged.clone())) else {
        panic!()
    };
    assert_eq!(refused.error, ErrorCode::StaleBrokerEpoch);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(1));
    cluster.send(Request::ControlledShutdown(ControlledShutdown { incarnation, ..forged }));
    cluster.run(30_000);
    assert_eq!(cluster.state("t", 0).leader, BrokerId(2));
    assert!(cluster.image.broker(BrokerId(1)).is_some_and(|broker| broker.shutting_down));
    // A repeated request gets its time again, on any quorum leader.
    cluster.change_leader();
    cluster.commit_all();
    cluster.run(59_000);
    assert!(cluster.image.broker(BrokerId(1)).is_some_and(|broker| broker.shutting_down));
    cluster.run(2_000);
    assert!(cluster.image.broker(BrokerId(1)).is_some_and(|broker| broker.is_active()));
}

/// The node asks again until the change is applied: what the tree says already is not written anew.
#[test]
fn a_members_part_in_the_quorum_is_written_once() {
    use crate::nodes::coordinator::{CoordinatorNode, Standing};

    let mut cluster = Cluster::new();
    let coordinator = CoordinatorId(4);
    let node = |standing| {
        let first = CoordinatorNode::first(incarnation_id(4), "10.0.0.4:9090".to_owned());
        CoordinatorNode { standing, ..first }
    };
    let mut set = |standing| {
        let before = cluster.transactions;
        let set = SetMember { coordinator, node: node(standing) };
        assert_eq!(cluster.ask(Request::SetMember(set)), Answer::SetMember(()));
        let known = cluster.image.coordinator(coordinator).expect("it is in the tree");
        assert_eq!(known.node, CoordinatorNode { is_live_change: true, ..node(standing) });
        cluster.transactions - before
    };
    assert_eq!((set(Standing::Learner), set(Standing::Learner), set(Standing::Voter)), (1, 0, 1));
}

/// The node of the quorum leader decides it, before the controller.
#[test]
fn a_change_of_the_quorum_is_not_the_controllers() {
    let mut cluster = Cluster::new();
    let answer = cluster.ask(Request::ChangeQuorum(ChangeQuorum::TransferLeadership { to: None }));
    assert!(matches!(&answer, Answer::ChangeQuorum(Err(refusal)) if refusal.error == ErrorCode::InvalidRequest));
}
