//! Spoilt messages of real coordinators, and spoilt requests of real brokers, at the node of a coordinator: it refuses
//! them or takes them, and goes on, also after a restart from what it has stored.
//!
//! Three nodes form a quorum in memory, elect leaders, decide requests and exchange snapshots. Everything that they
//! send is recorded; a message is then spoilt, in its bytes or in its fields, and given to the member that it was for.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_consensus::{LogStore as _, Member, MemberConfig, Membership, Outgoing};
use ottla_fuzz::mutation::{Random, mutate};
use ottla_metadata::controller::{
    AllocateProducerIds, AlterConfig, AlterConfigs, Beat, ConfigOp, ControlledShutdown, ControllerConfig, CreateTopics,
    DeleteTopics, NewTopic, Now, Register, Request, ResignLeadership, ResignReason, StreamId, TopicRef,
    UnregisterBroker,
};
use ottla_metadata::image::{ConfigEntity, Endpoint, LeaderSettings};
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, CoordinatorId, IncarnationId, ListenerName, MonotonicMs, PartitionId, Revision,
    TimestampMs, TopicId, TopicIdPartition,
};
use ottla_quorum_node::{
    BrokenRules, CallId, Event, HistoryLimits, MemoryQuorumStore, Node, NodeConfig, Output, QuorumStore as _, ReadId,
    Sink, Voter, WatcherId,
};
use ottla_rpc::cluster::{DecideRequest, HeartbeatRequest};
use ottla_rpc::convert;
use prost::Message as _;
use protobuf::{Message as _, ProtobufEnum as _};
use raft::eraftpb::{EntryType, Message, MessageType};

const MEMBERS: usize = 3;
/// Spoilt messages and requests of one seed.
const SPOILT_PER_SEED: usize = 2_000;
/// The last messages are kept to be spoilt: members pass over those of earlier terms.
const RECORDED_MAX: usize = 60;

/// What a node wants to be done.
#[derive(Default)]
struct Wants {
    sent: Vec<Outgoing>,
    snapshot: bool,
}

impl Sink for Wants {
    fn send(&mut self, message: Outgoing) -> bool {
        self.sent.push(message);
        true
    }

    fn put(&mut self, output: Output) {
        self.snapshot |= matches!(output, Output::MakeSnapshot);
    }
}

fn disk(id: CoordinatorId) -> IncarnationId {
    IncarnationId([id.0 as u8; 16])
}

fn id_of(member: usize) -> CoordinatorId {
    CoordinatorId(member as u64 + 1)
}

fn node(member: usize, mut store: MemoryQuorumStore, seed: u64) -> Node<MemoryQuorumStore> {
    let voter = |id| (id, Voter { address: format!("c{id}:2181"), disk: Some(disk(id)) });
    let voters: BTreeMap<_, _> = (0..MEMBERS).map(|member| voter(id_of(member))).collect();
    if store.conf_state_is_empty() {
        store.bootstrap(Membership::new(voters.keys().copied()).unwrap().to_conf_state()).unwrap();
    }
    let mut config = MemberConfig::new(id_of(member), seed * 3 + member as u64);
    config.applied = store.applied().unwrap().revision;
    let node_config = NodeConfig {
        voters,
        controller: ControllerConfig::new(ClusterId::new("fuzz")),
        compact_bytes: 2_000,
        history: HistoryLimits { revisions: 10, bytes: 1 << 20 },
        nonce: seed,
        broken_rules: BrokenRules::default(),
    };
    let mut node = Node::new(node_config, Member::new(&config, store).unwrap()).unwrap();
    node.start().unwrap();
    node
}

/// A message on its way, or a request of a broker.
#[derive(Clone)]
enum Recorded {
    Raft { from: CoordinatorId, to: usize, bytes: Bytes },
    Decide(Bytes),
    Beat(Bytes),
}

struct Quorum {
    nodes: Vec<Node<MemoryQuorumStore>>,
    wants: Vec<Wants>,
    ms: u64,
    names: u64,
    recorded: Vec<Recorded>,
    /// Spoilt messages of members that changed something or were answered.
    effective: usize,
}

impl Quorum {
    fn new(seed: u64) -> Self {
        Self {
            nodes: (0..MEMBERS).map(|member| node(member, MemoryQuorumStore::default(), seed)).collect(),
            wants: (0..MEMBERS).map(|_| Wants::default()).collect(),
            ms: 0,
            names: 0,
            recorded: Vec::new(),
            effective: 0,
        }
    }

    fn now(&self) -> Now {
        Now { monotonic: MonotonicMs(self.ms), wall: TimestampMs(1_700_000_000_000 + self.ms as i64) }
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// An error would end the process.
    fn step(&mut self, member: usize, event: Event) {
        let now = self.now();
        self.nodes[member].step(now, event, &mut self.wants[member]).unwrap();
        self.nodes[member].flush(now, &mut self.wants[member]).unwrap();
    }

    fn record(&mut self, random: &mut Random, recorded: Recorded) {
        if self.recorded.len() >= RECORDED_MAX {
            self.recorded.swap_remove(random.below(RECORDED_MAX));
        }
        self.recorded.push(recorded);
    }

    /// Time passes; messages are delivered, except those to and from the member that is away.
    fn tick(&mut self, random: &mut Random, away: Option<usize>) {
        self.ms += 50;
        let now = self.now();
        for member in 0..MEMBERS {
            self.nodes[member].tick(now, 1, &mut self.wants[member]);
            self.nodes[member].flush(now, &mut self.wants[member]).unwrap();
        }
        // Answers to spoilt messages may make nodes talk for ever.
        for _ in 0..10 {
            for from in 0..MEMBERS {
                for message in std::mem::take(&mut self.wants[from].sent) {
                    // Only a known member has a connection: a spoilt configuration may name others.
                    let Some(to) = (0..MEMBERS).find(|member| id_of(*member) == message.to) else { continue };
                    if message.is_snapshot() {
                        self.step(from, Event::SnapshotSent { to: message.to, sent: true });
                    }
                    let (sender, bytes) = (id_of(from), message.to_bytes());
                    self.record(random, Recorded::Raft { from: sender, to, bytes: bytes.clone() });
                    if away.is_none_or(|away| away != from && away != to) {
                        self.step(to, Event::Raft { sender, disk: disk(sender), message: bytes });
                    }
                }
                if std::mem::take(&mut self.wants[from].snapshot) {
                    let made = self.nodes[from].store().make_snapshot();
                    self.step(from, Event::SnapshotMade(made));
                }
            }
        }
    }

    fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(Node::is_deciding)
    }

    fn request(&mut self, random: &mut Random) {
        let request = request(random);
        let bytes = convert::request_to_proto(request.clone()).encode_to_vec();
        self.record(random, Recorded::Decide(bytes.into()));
        let beat = Beat {
            broker: BrokerId(random.below(3) as i32),
            epoch: BrokerEpoch(random.below(60) as i64),
            incarnation: IncarnationId([random.below(3) as u8; 16]),
            image_revision: Revision(random.below(60) as u64),
        };
        self.record(random, Recorded::Beat(convert::beat_to_proto(&beat).encode_to_vec().into()));
        if let Some(leader) = self.leader() {
            let call = CallId(self.name());
            self.step(leader, Event::Request { call, request, entropy: [random.next() as u8; 16] });
        }
    }

    /// An ordinary life: requests, reads, watchers, a member that is away and needs a snapshot, elections.
    fn live(&mut self, random: &mut Random, rounds: usize) {
        let away = Some(random.below(MEMBERS)).filter(|_| random.below(2) == 0);
        for _ in 0..rounds {
            self.request(random);
            let member = random.below(MEMBERS);
            let name = self.name();
            match random.below(6) {
                0 | 1 => self.step(member, Event::Read(ReadId(name))),
                2 => self.step(member, Event::WatchOpened { watcher: WatcherId(name), from: Revision(0) }),
                3 => self.step(member, Event::PeerGone(id_of((member + 1) % MEMBERS))),
                4 => drop(self.leader().and_then(|leader| self.nodes[leader].hand_over())),
                _ => {}
            }
            self.tick(random, away);
        }
    }

    /// Gives a spoilt copy of something recorded to the member that it was for.
    fn spoil(&mut self, random: &mut Random) {
        let recorded = self.recorded[random.below(self.recorded.len())].clone();
        match recorded {
            Recorded::Raft { from, to, bytes } => {
                let known = self.nodes[to].status();
                let message = match random.below(4) {
                    0 => mutate(random, &bytes, 0).into(),
                    _ => spoil_fields(random, &bytes, known.role.term, known.last.0),
                };
                self.step(to, Event::Raft { sender: from, disk: disk(from), message });
                let status = self.nodes[to].status();
                self.effective += usize::from(status != known || !self.wants[to].sent.is_empty());
            }
            Recorded::Decide(bytes) => {
                let Ok(message) = DecideRequest::decode(&*mutate(random, &bytes, 0)) else { return };
                let Ok(request) = convert::request_from_proto(message) else { return };
                let (call, member) = (CallId(self.name()), self.leader().unwrap_or(0));
                self.step(member, Event::Request { call, request, entropy: [random.next() as u8; 16] });
            }
            Recorded::Beat(bytes) => {
                let Ok(message) = HeartbeatRequest::decode(&*mutate(random, &bytes, 0)) else { return };
                let Ok(beat) = convert::beat_from_proto(&message) else { return };
                let (stream, member) = (StreamId(self.name()), self.leader().unwrap_or(0));
                self.step(member, Event::StreamOpened { stream, beat });
                self.step(member, Event::StreamBeat { stream, beat });
                self.step(member, Event::StreamClosed { stream });
            }
        }
    }

    /// What was stored does not keep a member from starting.
    fn restart(&mut self, member: usize, seed: u64) {
        let store = self.nodes[member].store().clone();
        self.nodes[member] = node(member, store, seed);
        self.wants[member] = Wants::default();
    }
}

/// A number near one that a decision depends on, or one that sums overflow with.
fn near(random: &mut Random, known: u64) -> u64 {
    match random.below(8) {
        0 => 0,
        1 => known,
        2 => known.wrapping_add(1),
        3 => known.wrapping_sub(1),
        4 => known.wrapping_add(random.below(40) as u64),
        5 => u64::MAX - random.below(3) as u64,
        6 => 1 << random.below(64),
        _ => random.next(),
    }
}

/// One to three fields of a Raft message become other ones.
fn spoil_fields(random: &mut Random, bytes: &Bytes, term: u64, last: u64) -> Bytes {
    let Ok(mut message) = Message::parse_from_carllerche_bytes(bytes) else { return bytes.clone() };
    for _ in 0..=random.below(3) {
        match random.below(14) {
            0 => message.term = near(random, term),
            1 => message.index = near(random, last),
            2 => message.log_term = near(random, term),
            3 => message.commit = near(random, last),
            4 => message.commit_term = near(random, term),
            5 => message.reject = !message.reject,
            6 => message.reject_hint = near(random, last),
            7 => message.request_snapshot = near(random, last),
            8 => message.context = random.next().to_be_bytes()[..random.below(9)].to_vec().into(),
            9 => {
                let kinds = MessageType::values();
                message.set_msg_type(kinds[random.below(kinds.len())]);
            }
            10 => {
                let at = random.below(message.entries.len());
                if let Some(entry) = message.entries.get_mut(at) {
                    match random.below(4) {
                        0 => entry.index = near(random, last),
                        1 => entry.term = near(random, term),
                        2 => entry.set_entry_type(EntryType::EntryConfChangeV2),
                        _ => entry.data = mutate(random, &entry.data, 0).into(),
                    }
                }
            }
            11 => {
                let at = random.below(message.entries.len());
                if at < message.entries.len() {
                    let entry = message.entries[at].clone();
                    message.entries.insert(at, entry);
                }
            }
            12 => {
                let metadata = message.mut_snapshot().mut_metadata();
                match random.below(3) {
                    0 => metadata.index = near(random, last),
                    1 => metadata.term = near(random, term),
                    _ => metadata.mut_conf_state().voters.push(near(random, 3)),
                }
            }
            _ => {
                let snapshot = message.mut_snapshot();
                snapshot.data = mutate(random, &snapshot.data, 0).into();
            }
        }
    }
    message.write_to_bytes().unwrap().into()
}

fn request(random: &mut Random) -> Request {
    let name = format!("t{}", random.below(4));
    let broker = BrokerId(random.below(3) as i32);
    let epoch = BrokerEpoch(random.below(60) as i64);
    match random.below(9) {
        0 | 1 => Request::Register(Register {
            broker,
            incarnation: IncarnationId([random.below(3) as u8; 16]),
            cluster_id: None,
            endpoints: vec![Endpoint {
                listener: ListenerName::new("PLAINTEXT"),
                host: "192.0.2.1".into(),
                port: 9092,
                security_protocol: "PLAINTEXT".into(),
            }],
            inter_broker_listener: ListenerName::new("PLAINTEXT"),
            rack: Some("r".to_owned()),
            clean_shutdown_epoch: BrokerEpoch::NONE,
            min_insync_replicas: 1,
            leaders: LeaderSettings::default(),
            levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
        }),
        2 | 3 => Request::CreateTopics(CreateTopics {
            topics: vec![NewTopic {
                name,
                partitions: 2,
                replication_factor: 2,
                grows_to: 0,
                assignments: vec![],
                configs: vec![("retention.ms".to_owned(), Some("60000".to_owned()))],
            }],
            validate_only: false,
            default_partitions: 1,
            default_replication_factor: 1,
        }),
        4 => Request::DeleteTopics(DeleteTopics { topics: vec![TopicRef::Name(name)] }),
        5 => Request::AllocateProducerIds(AllocateProducerIds { broker, epoch }),
        6 => Request::ControlledShutdown(ControlledShutdown { broker, epoch, incarnation: IncarnationId([1; 16]) }),
        7 if random.below(2) == 0 => Request::UnregisterBroker(UnregisterBroker { broker }),
        7 => Request::ResignLeadership(ResignLeadership {
            broker,
            epoch,
            partitions: vec![TopicIdPartition { topic_id: TopicId([1; 16]), partition: PartitionId(0) }],
            reason: ResignReason::Offline,
        }),
        _ => {
            let change = ("unknown.key".to_owned(), ConfigOp::Set(random.next().to_string()));
            let alter =
                AlterConfig { entity: ConfigEntity::default_broker(), changes: vec![change], replace_all: false };
            Request::AlterConfigs(AlterConfigs { entities: vec![alter], validate_only: false })
        }
    }
}

#[test]
fn spoilt_messages_end_no_member() {
    let (mut spoilt, mut effective) = (0, 0);
    ottla_test_support::each_seed(0..200, |seed| {
        let random = &mut Random::new(seed);
        let mut quorum = Quorum::new(seed);
        quorum.live(random, 60);
        for number in 0..SPOILT_PER_SEED {
            quorum.spoil(random);
            if number % 200 == 199 {
                quorum.restart(random.below(MEMBERS), seed + number as u64);
            }
            if number % 10 == 9 {
                quorum.live(random, 2);
            }
        }
        spoilt += SPOILT_PER_SEED;
        effective += quorum.effective;
    });
    println!("{spoilt} spoilt messages and requests, of which {effective} changed something or were answered");
    assert!(effective > spoilt / 20, "only {effective} of {spoilt} messages were of interest to a member");
}
