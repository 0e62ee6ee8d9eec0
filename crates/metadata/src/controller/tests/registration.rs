//! Who holds a broker's id, and what a registration may contain.

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, FeatureLevels, IncarnationId, ListenerName, TimestampMs};

use super::harness::*;
use crate::controller::*;
use crate::image::BrokerMemory;
use crate::limits;
use crate::nodes;
use crate::transaction::{Change, Transaction};

/// A registration of another process for the id of broker `id`, whose stream has ended.
fn challenge(cluster: &mut Cluster, id: i32, incarnation: u8) -> RequestId {
    cluster.stop_running(id);
    cluster.send(Request::Register(cluster.registration(id, incarnation, BrokerEpoch::NONE)))
}

fn refusal(cluster: &mut Cluster, id: RequestId) -> Option<Refusal> {
    match cluster.answers.remove(&id)? {
        Answer::Register(Err(refusal)) => Some(refusal),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_holder_that_answers_keeps_its_id_at_once() {
    let mut cluster = Cluster::of(2);
    let ids = [challenge(&mut cluster, 1, 201), challenge(&mut cluster, 2, 202)];
    let answers = |cluster: &mut Cluster, id: i32| {
        let incarnation = cluster.brokers[&id].incarnation;
        let result = ProbeResult::Answered(incarnation);
        cluster.step(Input::Probed { broker: BrokerId(id), incarnation, result });
    };
    answers(&mut cluster, 1);
    let refused = refusal(&mut cluster, ids[0]).expect("no time has passed");
    assert_eq!(refused.error, ErrorCode::DuplicateBrokerRegistration);
    assert_eq!(refusal(&mut cluster, ids[1]), None, "the other holder has not answered");
    answers(&mut cluster, 2);
    assert!(refusal(&mut cluster, ids[1]).is_some());
}

#[test]
fn a_registration_that_waits_takes_its_retries_along_and_keeps_third_processes_out() {
    let mut cluster = Cluster::of(1);
    let first = challenge(&mut cluster, 1, 201);
    let register = |cluster: &mut Cluster, id: i32, incarnation: u8| {
        cluster.send(Request::Register(cluster.registration(id, incarnation, BrokerEpoch::NONE)))
    };
    let retry = register(&mut cluster, 1, 201);
    let third = register(&mut cluster, 1, 203);
    let refused = refusal(&mut cluster, third).expect("at once");
    assert_eq!(refused.error, ErrorCode::DuplicateBrokerRegistration);
    assert!(refused.message.contains("is being registered by another process"), "{refused}");
    // A broker without an id has nothing to do with it.
    let without_id = register(&mut cluster, -1, 204);
    cluster.commit_all();
    assert!(matches!(cluster.answers.remove(&without_id), Some(Answer::Register(Ok(_)))));
    let incarnation = cluster.brokers[&1].incarnation;
    cluster.step(Input::Probed { broker: BrokerId(1), incarnation, result: ProbeResult::Refused });
    cluster.commit_all();
    let epochs = [first, retry].map(|id| match cluster.answers.remove(&id) {
        Some(Answer::Register(Ok(registered))) => registered.epoch,
        other => panic!("not registered: {other:?}"),
    });
    assert_eq!(epochs[0], epochs[1]);
}

/// Its answer was lost, and then the quorum: a second id would leave the first one registered, and topics would get
/// replicas there.
#[test]
fn a_broker_that_was_fenced_before_it_heard_of_its_id_gets_the_same_one() {
    let mut cluster = Cluster::of(1);
    let register = |cluster: &mut Cluster, incarnation: u8| {
        let register = cluster.registration(-1, incarnation, BrokerEpoch::NONE);
        match cluster.ask(Request::Register(register)) {
            Answer::Register(Ok(registered)) => registered,
            other => panic!("not registered: {other:?}"),
        }
    };
    let first = register(&mut cluster, 201);
    cluster.run(10_000);
    assert!(cluster.image.broker(first.broker).is_none() && cluster.image.is_registered(first.broker), "fenced");
    let again = register(&mut cluster, 201);
    assert_eq!(again.broker, first.broker);
    assert!(again.epoch.0 > first.epoch.0);
    assert!(register(&mut cluster, 202).broker != first.broker, "another process");
}

/// The decision about the holder may rest on what was lost.
#[test]
fn a_lost_proposal_ends_a_registration_that_waits() {
    let mut cluster = Cluster::of(1);
    let waiting = challenge(&mut cluster, 1, 201);
    let epoch = cluster.brokers[&1].epoch;
    let allocate = Request::AllocateProducerIds(AllocateProducerIds { broker: BrokerId(1), epoch });
    cluster.send(allocate.clone());
    cluster.send(allocate);
    cluster.lose_one();
    cluster.commit_one();
    assert_eq!(cluster.answers.remove(&waiting), Some(Answer::Unavailable));
    assert!(cluster.notes.iter().any(|note| note.is_warning && note.text.contains("a proposal was refused or lost")));
}

/// It had its epoch at once, and stayed eligible with a log that may have lost its end.
#[test]
fn a_registration_waits_for_its_work_also_when_a_batch_is_refused() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[2, 1]], &[("min.insync.replicas", "2")]);
    cluster.kill(1);
    assert_eq!(cluster.state("t", 0).elr, ids(&[1]));
    cluster.controller.work.is_refused = true;
    let register = cluster.registration(1, 201, BrokerEpoch::NONE);
    let waiting = cluster.send(Request::Register(register));
    cluster.tick();
    cluster.commit_all();
    assert!(matches!(cluster.answers.remove(&waiting), Some(Answer::Register(Ok(_)))));
    assert!(cluster.state("t", 0).elr.is_empty());
}

#[test]
fn a_registration_names_as_much_as_the_limits_allow() {
    let mut cluster = Cluster::new();
    let mut error = |change: &dyn Fn(&mut Register)| {
        let mut register = cluster.registration(1, 1, BrokerEpoch::NONE);
        change(&mut register);
        match cluster.ask(Request::Register(register)) {
            Answer::Register(registered) => registered.err().map(|refusal| refusal.error),
            other => panic!("not the answer: {other:?}"),
        }
    };
    let invalid = Some(ErrorCode::InvalidRegistration);
    let endpoints = |register: &mut Register, count: usize| {
        register.endpoints = vec![register.endpoints[0].clone(); count];
    };
    let text = |bytes: usize| "x".repeat(bytes);
    assert_eq!(error(&|register| endpoints(register, limits::MAX_ENDPOINTS + 2)), invalid);
    assert_eq!(error(&|register| register.rack = Some(text(limits::MAX_REGISTRATION_TEXT_BYTES + 1))), invalid);
    assert_eq!(error(&|register| register.endpoints[0].host = text(limits::MAX_REGISTRATION_TEXT_BYTES + 1)), invalid);
    assert_eq!(error(&|register| register.inter_broker_listener = ListenerName::new("OTHER")), invalid);
    assert_eq!(error(&|register| register.broker = BrokerId(-2)), invalid);
    assert_eq!(error(&|register| endpoints(register, limits::MAX_ENDPOINTS)), None);
    // The same process again, with the longest rack.
    assert_eq!(error(&|register| register.rack = Some(text(limits::MAX_REGISTRATION_TEXT_BYTES))), None);
}

/// Ids and epochs are public: only the process that registered keeps the session alive.
#[test]
fn a_heartbeat_of_another_incarnation_or_epoch_is_told_that_it_is_fenced() {
    let mut cluster = Cluster::of(1);
    let broker = cluster.brokers[&1].clone();
    let mut is_fenced = |epoch, incarnation| {
        let image_revision = cluster.image.revision();
        let beat = Beat { broker: BrokerId(1), epoch, incarnation, image_revision };
        cluster.step(Input::StreamBeat { stream: StreamId(9_999), beat });
        cluster.heartbeats[&StreamId(9_999)].fenced
    };
    let other = ottla_model::IncarnationId([0xee; 16]);
    assert!(is_fenced(broker.epoch, other));
    assert!(is_fenced(BrokerEpoch(broker.epoch.0 - 1), broker.incarnation));
    assert!(!is_fenced(broker.epoch, broker.incarnation));
}

/// More partitions than the batches that may be in flight: a broker that returns at once waits until no ISR and no ELR
/// holds what it was.
#[test]
fn a_large_broker_registers_again_when_nothing_holds_its_predecessor() {
    const PARTITIONS: usize = PARTITIONS_PER_TRANSACTION * (MAX_BATCHES_IN_FLIGHT + 2);
    let mut cluster = Cluster::of(2);
    let replicas: &[i32] = &[2, 1];
    cluster.create("large", &vec![replicas; PARTITIONS], &[("min.insync.replicas", "2")]);
    cluster.stop_running(1);
    cluster.answer_probes();
    let id = cluster.send(Request::Register(cluster.registration(1, 200, BrokerEpoch::NONE)));
    while !cluster.answers.contains_key(&id) {
        assert!(cluster.proposals.len() <= MAX_BATCHES_IN_FLIGHT + 1, "{}", cluster.proposals.len());
        assert!(cluster.commit_one(), "it waits for nothing");
    }
    assert!(matches!(cluster.answers.get(&id), Some(Answer::Register(Ok(_)))));
    let topic = cluster.image.topic("large").expect("is there");
    let former = BrokerId(1);
    assert_eq!(topic.partitions().filter(|(_, state)| state.in_isr(former) || state.elr.contains(&former)).count(), 0);
}

#[test]
fn as_many_brokers_register_as_the_limit_live_ones_and_fenced_ones_together() {
    let mut cluster = Cluster::of(1);
    let fenced = |id| {
        let memory = BrokerMemory {
            id: BrokerId(id),
            epoch: BrokerEpoch(1),
            incarnation: IncarnationId([1; 16]),
            min_insync_replicas: 1,
            fenced_at: TimestampMs(0),
            endpoints: Vec::new(),
            rack: None,
            levels: FeatureLevels::OF_THIS_RELEASE,
            unregistered: false,
            ended_abruptly: true,
        };
        let path = nodes::broker_memory::path(memory.id);
        Change::Create { path, payload: nodes::broker_memory::encode(&memory) }
    };
    let most = i32::try_from(limits::MAX_BROKERS).expect("small");
    cluster.apply(None, &Transaction { changes: (2..=most - 2).map(fenced).collect() });
    for id in [most - 1, most] {
        assert!(cluster.register(id, 1, BrokerEpoch::NONE).is_ok(), "broker {id}");
    }
    let refused = cluster.register(most + 1, 1, BrokerEpoch::NONE).expect_err("one too many");
    assert_eq!(refused.error, ErrorCode::InvalidRegistration);
    assert_eq!(refused.message, "10000 brokers are registered: more are not possible.");
    assert!(cluster.register(2, 1, BrokerEpoch::NONE).is_ok(), "it is one of them");
}

/// It led nothing, and the broker may not know of it: what the next incarnation says of its log is compared with the
/// last session that was ready.
#[test]
fn a_session_that_was_never_ready_is_not_the_last_one_of_its_broker() {
    let mut cluster = Cluster::of(2);
    let memory = |cluster: &Cluster| {
        let memory = cluster.image.broker_memory(BrokerId(1)).expect("it was registered");
        (memory.epoch, memory.incarnation)
    };
    let (ready, first) = (cluster.brokers[&1].epoch, cluster.brokers[&1].incarnation);
    cluster.kill(1);
    assert_eq!(memory(&cluster), (ready, first));
    let second = cluster.register(1, 200, ready).expect("registers");
    assert!(second.epoch > ready);
    cluster.brokers.get_mut(&1).expect("is there").runs = false;
    cluster.run(20_000);
    assert!(cluster.image.broker(BrokerId(1)).is_none(), "its session has ended");
    assert_eq!(memory(&cluster), (ready, incarnation_id(200)));
    let third = cluster.start_after(1, ready);
    cluster.kill(1);
    assert_eq!(memory(&cluster).0, third);
}

/// The epoch is the revision of its entry, and later entries are in flight when it is known.
#[test]
fn a_broker_is_known_by_its_epoch_as_soon_as_its_registration_is_committed() {
    let mut cluster = Cluster::of(1);
    let id = cluster.send(Request::Register(cluster.registration(2, 200, BrokerEpoch::NONE)));
    let (one, two) = (cluster.member(1), BrokerId(2));
    cluster.send(Request::AllocateProducerIds(AllocateProducerIds { broker: one.broker, epoch: one.epoch }));
    assert_eq!(cluster.proposals.len(), 2);
    cluster.commit_one();
    let Some(Answer::Register(Ok(registered))) = cluster.answers.remove(&id) else { panic!("it registers") };
    let allocate = AllocateProducerIds { broker: two, epoch: registered.epoch };
    let answer = cluster.ask(Request::AllocateProducerIds(allocate));
    assert!(matches!(answer, Answer::AllocateProducerIds(Ok(_))), "{answer:?}");
}
