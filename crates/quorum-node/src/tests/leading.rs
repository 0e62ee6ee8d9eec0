//! What a leader answers, and what it leaves behind when it leads no longer.

use ottla_consensus::log_store::HardState;
use ottla_consensus::{Entry, LogStore as _, Persist};
use ottla_metadata::controller::{
    Answer, Beat, ControllerConfig, FeatureChange, FeatureUpdate, Probe, ProbeResult, Register, Request, StreamId,
    UpdateFeatures, first_transaction,
};
use ottla_metadata::image::{ConfigEntity, Endpoint, LeaderSettings};
use ottla_metadata::liveness::LEARN_INTERVAL;
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, CoordinatorId, FeatureLevel, FeatureLevels, IncarnationId, ListenerName,
    MonotonicMs, OTTLA_VERSION, Revision, TimestampMs,
};

use super::Store;
use super::guard::{alter, outcome};
use super::peers::Peers;
use super::{Outputs, disk, leader, node, node_with, now, step};
use crate::store::QuorumStore as _;
use crate::{BrokenRules, CallId, Event, Node, NodeError, Output, ReadId, RequestError};

pub(super) const BROKER: BrokerId = BrokerId(1);
const INCARNATION: IncarnationId = IncarnationId([9; 16]);
const STREAM: StreamId = StreamId(1);

pub(super) fn register(call: u64) -> Event {
    let endpoint = Endpoint {
        listener: ListenerName::new("INTERNAL"),
        host: "b1".to_owned(),
        port: 9092,
        security_protocol: "PLAINTEXT".to_owned(),
    };
    let register = Register {
        broker: BROKER,
        incarnation: INCARNATION,
        cluster_id: Some(ClusterId::new("test")),
        endpoints: vec![endpoint],
        inter_broker_listener: ListenerName::new("INTERNAL"),
        rack: None,
        clean_shutdown_epoch: BrokerEpoch::NONE,
        min_insync_replicas: 1,
        leaders: LeaderSettings::default(),
        levels: FeatureLevels::OF_THIS_RELEASE,
    };
    Event::Request { call: CallId(call), request: Request::Register(register), entropy: [1; 16] }
}

fn beat(epoch: BrokerEpoch, image_revision: Revision) -> Beat {
    Beat { broker: BROKER, epoch, incarnation: INCARNATION, image_revision }
}

/// A leader with a broker, whose stream is open.
fn with_broker(out: &mut Outputs) -> (Node<Store>, BrokerEpoch) {
    let mut node = leader(out);
    step(&mut node, register(1), out);
    let Ok(Answer::Register(Ok(registered))) = outcome(out, CallId(1)) else { panic!("{:?}", out.all) };
    let beat = beat(registered.epoch, node.view().revision);
    step(&mut node, Event::StreamOpened { stream: STREAM, beat }, out);
    (node, registered.epoch)
}

fn probes(out: &Outputs) -> usize {
    let is_probe = |output: &&Output| matches!(output, Output::Probe(Probe { broker, .. }) if *broker == BROKER);
    out.all.iter().filter(is_probe).count()
}

fn beats(out: &Outputs) -> usize {
    out.all.iter().filter(|output| matches!(output, Output::Beat { stream, .. } if *stream == STREAM)).count()
}

fn reads(out: &Outputs) -> Vec<ReadId> {
    let read = |output: &Output| if let Output::Read(read) = output { Some(*read) } else { None };
    out.all.iter().filter_map(read).collect()
}

pub(super) fn set(call: u64, value: String) -> Event {
    alter(call, ConfigEntity::default_broker(), "unknown.key", value)
}

#[test]
fn what_was_proposed_is_counted_once() {
    let mut out = Outputs::default();
    let mut node = leader(&mut out);
    assert!(node.is_leader() && node.id() == CoordinatorId(1));
    assert_eq!(node.take_proposals(), 1, "the first transaction of a cluster");
    for call in 1..=3 {
        node.step(now(1), set(call, call.to_string()), &mut out).expect("taken");
    }
    node.flush(now(1), &mut out).expect("memory");
    assert_eq!((node.take_proposals(), node.take_proposals()), (3, 0));
    assert_eq!(node.committed(), node.view().revision);
    assert!(node.committed() > Revision(3));
    assert!(!out.all.iter().any(|output| matches!(output, Output::MakeSnapshot)), "nobody wants one");
}

#[test]
fn the_first_transaction_records_the_disks() {
    let node = leader(&mut Outputs::default());
    assert_eq!(node.view().image.coordinator_disk(CoordinatorId(1)), Some(disk(1)));
}

#[test]
fn a_read_that_was_closed_is_not_answered_and_the_others_are() {
    let mut out = Outputs::default();
    let mut node = leader(&mut out);
    for event in [Event::Read(ReadId(1)), Event::Read(ReadId(2)), Event::ReadClosed(ReadId(1))] {
        node.step(now(1), event, &mut out).expect("taken");
    }
    assert_eq!(reads(&out), []);
    node.flush(now(1), &mut out).expect("memory");
    assert_eq!(reads(&out), [ReadId(2)]);
}

#[test]
fn a_stream_is_answered_until_it_closes() {
    let mut out = Outputs::default();
    let (mut node, epoch) = with_broker(&mut out);
    let before = beats(&out);
    let revision = node.view().revision;
    step(&mut node, Event::StreamBeat { stream: STREAM, beat: beat(epoch, revision) }, &mut out);
    assert!(beats(&out) > before);
    assert!(node.may_sleep(), "it has a leader, and every stream");
    let observers = node.progress(now(1)).expect("it leads").observers;
    assert_eq!((observers.len(), observers[0].id), (1, BROKER));
    step(&mut node, Event::StreamClosed { stream: STREAM }, &mut out);
    assert!(!node.may_sleep(), "the broker may have ended");
    let before = beats(&out);
    step(&mut node, Event::StreamBeat { stream: STREAM, beat: beat(epoch, revision) }, &mut out);
    assert_eq!(beats(&out), before);
    assert!(!node.may_sleep(), "a late message does not open the stream again");
    let mut out = Outputs::default();
    node.end_leadership(&mut out);
    assert!(!out.all.iter().any(|output| matches!(output, Output::EndStream { .. })), "it is closed already");
}

#[test]
fn whoever_waits_is_told_when_the_leadership_ends() {
    let mut out = Outputs::default();
    let (mut node, _) = with_broker(&mut out);
    node.step(now(1), set(7, "v".to_owned()), &mut out).expect("taken");
    node.end_leadership(&mut out);
    assert_eq!(outcome(&out, CallId(7)), Err(RequestError::NotLeader { leader: None }));
    let ended = |output: &&Output| matches!(output, Output::EndStream { stream, leader: None } if *stream == STREAM);
    assert_eq!(out.all.iter().filter(ended).count(), 1);
    assert!(node.progress(now(1)).is_none() && !node.is_deciding());
}

/// A broker that was reached before need not be dialled for a refusal to prove its end.
#[test]
fn brokers_that_were_reached_stay_known_and_the_others_are_dialled_again() {
    let mut out = Outputs::default();
    let (mut node, _) = with_broker(&mut out);
    node.end_leadership(&mut out);
    let later = |rounds: u32| now((LEARN_INTERVAL * rounds).as_millis().try_into().expect("small"));
    let dialled = |node: &mut Node<Store>, rounds| {
        let mut out = Outputs::default();
        node.tick(later(rounds), 0, &mut out);
        probes(&out)
    };
    assert_eq!(dialled(&mut node, 1), 1);
    assert_eq!(dialled(&mut node, 1), 0, "not with every tick");
    let answered = |incarnation| Event::Probed {
        broker: BROKER,
        incarnation: INCARNATION,
        result: ProbeResult::Answered(incarnation),
    };
    step(&mut node, answered(IncarnationId([8; 16])), &mut out);
    assert_eq!(dialled(&mut node, 2), 1, "another process answered");
    step(&mut node, answered(INCARNATION), &mut out);
    assert_eq!(dialled(&mut node, 3), 0);

    // What the controller has learnt is not forgotten with it.
    let (mut node, _) = with_broker(&mut out);
    step(&mut node, answered(INCARNATION), &mut out);
    node.end_leadership(&mut out);
    assert_eq!(dialled(&mut node, 1), 0);
}

#[test]
fn refused_messages_are_noted_once_and_counted() {
    let mut out = Outputs::default();
    let mut node = node(1, 3, Store::default());
    let refused = |node: &mut Node<Store>, out: &mut Outputs| {
        let event = Event::Raft { sender: CoordinatorId(9), disk: disk(9), message: bytes::Bytes::new() };
        step(node, event, out);
    };
    let noted = |out: &Outputs, text: &str| out.notes().iter().filter(|note| note.contains(text)).count();
    refused(&mut node, &mut out);
    node.tick(now(20_000), 0, &mut out);
    assert_eq!(noted(&out, "was refused"), 1);
    assert_eq!(noted(&out, "more messages"), 0, "it was the only one");
    for _ in 0..3 {
        refused(&mut node, &mut out);
    }
    assert_eq!(noted(&out, "was refused"), 2);
    node.tick(now(25_000), 0, &mut out);
    assert_eq!(noted(&out, "more messages"), 0, "the interval is not over");
    node.tick(now(30_000), 0, &mut out);
    assert_eq!(noted(&out, "2 more messages of peers were refused"), 1);
}

#[test]
fn a_log_that_is_too_long_is_cut_and_keeps_its_tail() {
    let mut out = Outputs::default();
    let mut node = leader(&mut out);
    let mut cuts = 0;
    for call in 1..=100 {
        let first = node.store().first_index();
        step(&mut node, set(call, call.to_string()), &mut out);
        assert!(node.store().log_bytes() <= 2_000, "the limit of the tests' configuration");
        if node.store().first_index() > first {
            cuts += 1;
            assert!(node.store().log_bytes() >= 250, "a member that was away for a moment needs no snapshot");
        }
    }
    assert!((1..20).contains(&cuts), "not with every entry: {cuts}");
}

#[test]
fn followers_name_their_leader_and_the_leader_knows_how_far_they_are() {
    let mut peers = Peers::new();
    assert!(!peers.nodes[0].may_sleep(), "nobody leads yet");
    assert_eq!(peers.nodes[0].hand_over(), None);
    let at = peers.elect();
    for _ in 0..5 {
        peers.tick(None);
    }
    let id = peers.nodes[at].id();
    assert_eq!(usize::try_from(id.0).expect("small"), at + 1);
    let follower = (at + 1) % 3;
    assert!(peers.nodes[follower].may_sleep() && !peers.nodes[follower].is_leader());
    assert!(peers.nodes[follower].progress(now(0)).is_none());
    peers.step(follower, set(1, "v".to_owned()));
    assert_eq!(outcome(&peers.outputs[follower], CallId(1)), Err(RequestError::NotLeader { leader: Some(id) }));
    let follows = format!("follows coordinator {id} ");
    assert_eq!(peers.outputs[follower].notes().iter().filter(|note| note.contains(&follows)).count(), 1);

    let wall = TimestampMs(1_800_000_000_000);
    let progress = peers.nodes[at].progress(super::Now { monotonic: MonotonicMs(9), wall }).expect("it leads");
    assert_eq!((progress.leader, progress.committed), (id, peers.nodes[at].committed()));
    for voter in &progress.voters {
        let expected = if voter.id == id { wall } else { now(0).wall };
        assert_eq!((voter.progress.heard_at, voter.progress.caught_up_at), (expected, expected), "{}", voter.id);
        assert_eq!((voter.progress.end, voter.disk), (progress.committed, Some(disk(voter.id.0))));
    }

    // One of them is away while the log grows.
    let away = (at + 2) % 3;
    peers.step(at, set(2, "w".to_owned()));
    peers.tick(Some(away));
    let progress = peers.nodes[at].progress(now(0)).expect("it leads");
    for voter in progress.voters {
        let is_away = voter.id == peers.nodes[away].id();
        assert_eq!(voter.progress.end < progress.committed, is_away, "{}", voter.id);
    }
    peers.tick(None);

    let heir = peers.nodes[at].hand_over().expect("another voter is there");
    assert_ne!(heir, id);
    for _ in 0..5 {
        peers.tick(None);
    }
    assert_eq!(peers.leader().map(|at| peers.nodes[at].id()), Some(heir));
}

#[test]
fn the_end_of_a_leader_is_noted_and_that_of_another_is_not() {
    let mut peers = Peers::new();
    let at = peers.elect();
    peers.tick(None);
    let (leader, other) = (peers.nodes[at].id(), peers.nodes[(at + 1) % 3].id());
    let watcher = (at + 2) % 3;
    let noted = |peers: &Peers| peers.outputs[watcher].notes().iter().any(|note| note.contains("has ended"));
    peers.step(watcher, Event::PeerGone(other));
    assert!(!noted(&peers));
    peers.step(watcher, Event::PeerGone(leader));
    assert!(noted(&peers));
}

#[test]
fn a_peers_disk_is_recorded_when_it_is_first_seen() {
    let mut peers = Peers::new();
    for node in &mut peers.nodes {
        node.config.voters.get_mut(&CoordinatorId(3)).expect("a voter").disk = None;
        node.publish_members(&mut Outputs::default());
    }
    let at = peers.elect();
    peers.tick(None);
    let recorded = |peers: &Peers| peers.nodes[at].view().image.coordinator_disk(CoordinatorId(3));
    assert_eq!(recorded(&peers), None);
    peers.step(
        at,
        Event::PeerIdentified { id: CoordinatorId(3), disk: disk(3), levels: FeatureLevels::OF_THIS_RELEASE },
    );
    peers.tick(None);
    assert_eq!(recorded(&peers), Some(disk(3)));
}

#[test]
fn a_level_changes_when_every_member_has_told_that_it_works_at_it() {
    let mut peers = Peers::new();
    let at = peers.elect();
    peers.tick(None);
    let others: Vec<_> = peers.nodes.iter().map(Node::id).filter(|id| *id != peers.nodes[at].id()).collect();
    let mut calls = 0;
    let mut ask = |peers: &mut Peers, level: i16, change: FeatureChange| {
        calls += 1;
        let updates = vec![FeatureUpdate { name: OTTLA_VERSION.to_owned(), level, change }];
        let request = Request::UpdateFeatures(UpdateFeatures { updates, validate_only: false });
        peers.step(at, Event::Request { call: CallId(calls), request, entropy: [0; 16] });
        peers.tick(None);
        match outcome(&peers.outputs[at], CallId(calls)) {
            Ok(Answer::UpdateFeatures(updated)) => updated.map(drop).map_err(|refusal| refusal.message),
            other => panic!("{other:?}"),
        }
    };
    let tell = |peers: &mut Peers, id: CoordinatorId, levels: FeatureLevels| {
        peers.step(at, Event::PeerIdentified { id, disk: disk(id.0), levels });
    };
    let (down, up) = (FeatureChange::SafeDowngrade, FeatureChange::Upgrade);
    tell(&mut peers, others[0], FeatureLevels::OF_THIS_RELEASE);
    let silent = ask(&mut peers, 1, down).expect_err("the other one has told nothing");
    assert!(silent.contains(&format!("Coordinator {} has not told", others[1])), "{silent}");
    tell(&mut peers, others[1], FeatureLevels::UNTOLD);
    assert_eq!(ask(&mut peers, 1, down), Ok(()));
    let older = ask(&mut peers, 2, up).expect_err("the other one is of the older release");
    assert!(older.contains(&format!("Coordinator {} only supports versions 1-1", others[1])), "{older}");
    tell(&mut peers, others[1], FeatureLevels::OF_THIS_RELEASE);
    assert_eq!(ask(&mut peers, 2, up), Ok(()));
    assert!(peers.nodes.iter().all(|node| node.members().finalized == FeatureLevel(2)));
}

/// A process of another release is started on the disk.
#[test]
fn a_node_that_does_not_work_at_the_level_of_its_tree_does_not_start() {
    let (mut node, mut out) = (node(1, 1, Store::default()), Outputs::default());
    node.flush(now(0), &mut out).expect("memory");
    assert_eq!(node.view().image.finalized().level, FeatureLevel::NEWEST);
    let mut config = node.config.clone();
    config.controller.levels = FeatureLevels::UNTOLD;
    let mut member_config = ottla_consensus::MemberConfig::new(CoordinatorId(1), 1);
    member_config.applied = node.view().revision;
    let member = ottla_consensus::Member::new(&member_config, node.into_store()).expect("memory");
    assert!(matches!(Node::new(config, member), Err(NodeError::LacksLevel { .. })));
}

/// The log of a former leader ends with what was never committed: an empty entry, and the cluster's first transaction.
/// A controller that began with the empty entry would make that transaction a second time.
#[test]
fn a_leader_decides_from_its_own_first_entry_on() {
    let mut store = Store::default();
    let membership = ottla_consensus::Membership::new([CoordinatorId(1)]).expect("one");
    store.bootstrap(membership.to_conf_state()).expect("memory");
    let first = first_transaction(&ControllerConfig::new(ClusterId::new("test")));
    let entry = |index, data: Vec<u8>| Entry { index, term: 1, data: data.into(), ..Entry::default() };
    let entries = vec![entry(1, Vec::new()), entry(2, first.encode())];
    let hard_state = HardState { term: 1, commit: 1, ..HardState::default() };
    let persist = Persist { entries, hard_state: Some(hard_state), must_sync: true, ..Persist::default() };
    store.persist(&persist).expect("memory");
    let mut out = Outputs::default();
    let mut node = node(1, 1, store);
    node.flush(now(0), &mut out).expect("memory");
    assert!(node.is_deciding());
    assert_eq!(node.view().image.cluster_id(), Some(&ClusterId::new("test")));
    assert!(!out.notes().iter().any(|note| note.contains("changes nothing")), "{:?}", out.notes());
}

/// With the rule taken out a decision is answered with the revision that its entry will have.
#[test]
fn without_its_rule_a_decision_is_answered_before_it_is_committed() {
    let rules = BrokenRules { answers_before_commit: true, ..BrokenRules::default() };
    let mut out = Outputs::default();
    let mut node = node_with(1, 1, Store::default(), rules);
    node.flush(now(0), &mut out).expect("memory");
    let before = node.view().revision;
    for call in 1..=2 {
        node.step(now(1), set(call, call.to_string()), &mut out).expect("taken");
        let Ok(Answer::AlterConfigs(outcomes)) = outcome(&out, CallId(call)) else { panic!("{:?}", out.all) };
        assert_eq!(outcomes.revision, Revision(before.0 + call));
    }
    assert_eq!(node.view().revision, before, "nothing is committed");
}
