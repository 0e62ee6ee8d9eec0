//! A controller with a tree that applies its proposals, and brokers that only send heartbeats. After every entry the
//! image is compared with one that is built from the tree, and the invariants are checked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, ErrorCode, IncarnationId, LeaderEpoch, ListenerName, MonotonicMs, PartitionId,
    Revision, TimestampMs, TopicIdPartition,
};

use crate::controller::*;
use crate::delta::Delta;
use crate::image::{Endpoint, Image, IsrMember, LeaderSettings, PartitionState};
use crate::limits;
use crate::liveness::Reached;
use crate::transaction::{Transaction, TransactionError};
use crate::tree::{Node, NodeChange, Path, Tree};

pub(super) const TICK_MS: u64 = 50;

#[derive(Clone, Debug)]
pub(in crate::controller) struct Broker {
    pub epoch: BrokerEpoch,
    pub incarnation: IncarnationId,
    pub stream: StreamId,
    /// Sends heartbeats and answers probes.
    pub runs: bool,
    /// Its image follows the tree; otherwise it does not move.
    pub follows: bool,
    pub image_revision: Revision,
}

pub(in crate::controller) struct Cluster {
    pub config: ControllerConfig,
    pub tree: Tree,
    /// A second member's tree, built from the bytes of the entries.
    copy: Tree,
    pub image: Arc<Image>,
    pub controller: Controller,
    pub now: Now,
    pub proposals: VecDeque<(EntryId, Transaction)>,
    pub answers: BTreeMap<RequestId, Answer>,
    pub heartbeats: BTreeMap<StreamId, BeatAnswer>,
    pub probes: Vec<Probe>,
    pub notes: Vec<Note>,
    pub brokers: BTreeMap<i32, Broker>,
    /// Whether the probes of running brokers are answered.
    pub reachable: bool,
    pub transactions: usize,
    /// Raft has lost a proposal.
    has_lost: bool,
    pub largest_transaction: usize,
    /// Changes of leaders, and states with an ELR, that were seen.
    pub elections: usize,
    pub states_with_elr: usize,
    /// As the controllers counted them.
    pub unclean_elections: u64,
    pub completed_reassignments: usize,
    /// Of the brokers that register from now on.
    pub leader_settings: LeaderSettings,
    next_id: u64,
    leaders: BTreeMap<(TopicIdPartition, LeaderEpoch), BrokerId>,
}

impl Cluster {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(configure: impl FnOnce(&mut ControllerConfig)) -> Self {
        let mut config = ControllerConfig::new(ClusterId::new("G6jBNhY5TiO_EKLtMUA1qA"));
        configure(&mut config);
        let now = Now { monotonic: MonotonicMs(10_000), wall: TimestampMs(1_795_250_318_461) };
        let tree = Tree::new();
        let image = Image::from_tree(&tree);
        let (controller, effects) = Controller::new(now, config.clone(), tree.clone(), image.clone(), Reached::new());
        let mut cluster = Self {
            config,
            copy: tree.clone(),
            tree,
            image: Arc::new(image),
            controller,
            now,
            proposals: VecDeque::new(),
            answers: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
            probes: Vec::new(),
            notes: Vec::new(),
            brokers: BTreeMap::new(),
            reachable: true,
            transactions: 0,
            has_lost: false,
            largest_transaction: 0,
            elections: 0,
            states_with_elr: 0,
            unclean_elections: 0,
            completed_reassignments: 0,
            leader_settings: LeaderSettings::default(),
            next_id: 1,
            leaders: BTreeMap::new(),
        };
        cluster.take(effects);
        cluster.commit_all();
        cluster
    }

    /// Brokers 1 to `count`, registered and ready.
    pub fn of(count: i32) -> Self {
        let mut cluster = Self::new();
        for id in 1..=count {
            cluster.start(id);
        }
        cluster
    }

    fn take(&mut self, effects: Effects) {
        for Proposal { entry, transaction, encoded } in effects.proposals {
            assert!(encoded.len() <= limits::MAX_TRANSACTION_BYTES, "an entry of {} bytes", encoded.len());
            assert_eq!(Transaction::decode(&encoded).as_ref(), Ok(&transaction));
            self.transactions += 1;
            self.largest_transaction = self.largest_transaction.max(transaction.changes.len());
            self.proposals.push_back((entry, transaction));
        }
        assert_eq!(effects.refusal, None);
        for (id, answer) in effects.answers {
            assert!(self.answers.insert(id, answer).is_none(), "{id:?} is answered twice");
        }
        self.heartbeats.extend(effects.heartbeats);
        self.probes.extend(effects.probes);
        self.notes.extend(effects.notes);
        self.unclean_elections += effects.unclean_elections;
    }

    /// One input, without committing its proposals.
    pub fn step(&mut self, input: Input) {
        let effects = self.controller.step(self.now, input);
        self.take(effects);
    }

    /// Commits the oldest proposal. False: there was none.
    pub fn commit_one(&mut self) -> bool {
        let Some((entry, transaction)) = self.proposals.pop_front() else { return false };
        self.apply(Some(entry), &transaction);
        true
    }

    /// An entry is applied everywhere.
    pub fn apply(&mut self, entry: Option<EntryId>, transaction: &Transaction) {
        let revision = Revision(self.tree.revision().0 + 1);
        let result = self.tree.apply(revision, transaction);
        let changes: Arc<[_]> = result.clone().unwrap_or_default().into();
        let read = Transaction::decode(&transaction.encode()).expect("another member can read it");
        assert_eq!(self.copy.apply(revision, &read).err(), result.clone().err());
        assert!(self.copy == self.tree, "two members' trees differ");
        if entry.is_some() && !self.has_lost {
            assert_eq!(result.as_ref().err(), None, "the controller's own proposals hold");
        }
        let before = self.image.clone();
        let (image, delta) = before.apply(revision, &changes);
        assert_eq!(image, Image::from_tree(&self.tree), "the image is what the tree says");
        let between = Delta::between(&before, &image);
        assert_eq!(delta.partitions, between.partitions);
        assert_eq!(delta.brokers, between.brokers);
        assert_eq!(delta.undecodable, []);
        self.image = Arc::new(image);
        self.check(&before, &delta);
        self.tell_applied(entry, result.map(|_| ()), changes, delta);
    }

    /// The controller learns of an entry that has left `tree` and `image`.
    pub fn tell_applied(
        &mut self,
        entry: Option<EntryId>,
        result: Result<(), TransactionError>,
        changes: Arc<[NodeChange]>,
        delta: Delta,
    ) {
        let state = Box::new((self.tree.clone(), (*self.image).clone()));
        let (revision, delta) = (self.tree.revision(), Arc::new(delta));
        self.step(Input::Applied { entry, revision, result, changes, delta, state });
    }

    /// The oldest proposal is lost, and will never be applied. The controller learns of it with the next of its
    /// entries, which may not apply without the lost one.
    pub fn lose_one(&mut self) {
        self.proposals.pop_front().expect("proposed");
        self.has_lost = true;
    }

    /// An entry of this many large nodes, which no controller would propose, is applied.
    pub fn fill(&mut self, nodes: usize) {
        let payload = bytes::Bytes::from(vec![0; limits::MAX_NODE_BYTES]);
        let revision = Revision(self.tree.revision().0 + 1);
        let node = Node { payload, created: revision, modified: revision, version: 0 };
        let path = |at: usize| Path::new(&format!("/filled/{at}")).expect("a path");
        let changes = (0..nodes).map(|at| NodeChange { path: path(at), node: Some(node.clone()) });
        let changes: Arc<[NodeChange]> = changes.collect();
        self.tree.accept(revision, &changes);
        self.copy.accept(revision, &changes);
        let (image, delta) = self.image.apply(revision, &changes);
        self.image = Arc::new(image);
        self.tell_applied(None, Ok(()), changes, delta);
    }

    pub fn commit_all(&mut self) {
        while self.commit_one() {}
    }

    /// The rules that hold in every state.
    fn check(&mut self, before: &Image, delta: &Delta) {
        let image = self.image.clone();
        match image.controller() {
            Some(broker) => assert!(image.broker(broker).is_some(), "/controller names the dead broker {broker}"),
            None => assert_eq!(image.broker_count(), 0, "nobody is controller"),
        }
        assert!(image.controller_epoch() >= before.controller_epoch());
        for broker in before.brokers().chain(image.brokers()) {
            let moved = |image: &Image| image.index.adding_count(broker.id);
            let most = self.config.reassignments_per_broker_max.max(moved(before));
            assert!(moved(&image) <= most, "{} partitions are moved to broker {} at once", moved(&image), broker.id);
        }
        for change in &delta.partitions {
            let id = TopicIdPartition { topic_id: change.topic_id, partition: change.partition };
            let Some(new) = &change.new else { continue };
            self.check_state(&image, id, new);
            let Some(old) = &change.old else { continue };
            self.elections += usize::from(new.leader != old.leader);
            self.states_with_elr += usize::from(!new.elr.is_empty());
            assert!(
                new.leader_epoch >= old.leader_epoch && new.partition_epoch > old.partition_epoch,
                "{old:?} {new:?}"
            );
            assert!(new.leader == old.leader || new.leader_epoch > old.leader_epoch, "{old:?} {new:?}");
            let has_left = old.replicas.iter().any(|broker| !new.is_replica(*broker));
            assert!(!has_left || new.leader_epoch > old.leader_epoch, "it may come again: {old:?} {new:?}");
            if old.is_reassigning() && !new.is_reassigning() {
                let is_whole = new.replicas.iter().all(|broker| new.in_isr(*broker));
                let is_back = new.replicas.iter().all(|broker| old.assignment().original().contains(broker));
                assert!(is_whole || is_back, "a reassignment ended half-way: {old:?} {new:?}");
                self.completed_reassignments += usize::from(is_whole && !is_back);
            }
        }
    }

    fn check_state(&mut self, image: &Image, id: TopicIdPartition, state: &PartitionState) {
        assert!(!state.isr.is_empty(), "{state:?}");
        assert!(state.isr_ids().all(|broker| state.is_replica(broker)), "{state:?}");
        assert!(!state.has_leader() || state.in_isr(state.leader), "{state:?}");
        assert!(state.has_leader() == (state.last_known_leader == BrokerId::NONE), "{state:?}");
        let moving = state.adding().iter().chain(state.removing());
        assert!(moving.clone().all(|broker| state.is_replica(*broker)), "{state:?}");
        assert!(state.adding().iter().all(|broker| !state.removing().contains(broker)), "{state:?}");
        assert!(state.is_reassigning() == (moving.count() > 0), "{state:?}");
        assert!(!state.assignment().target().is_empty() && !state.assignment().original().is_empty(), "{state:?}");
        let beside = state.elr.iter().chain(&state.last_known_elr);
        assert!(beside.clone().all(|broker| state.is_replica(*broker) && !state.in_isr(*broker)), "{state:?}");
        assert!(state.elr.iter().all(|broker| !state.last_known_elr.contains(broker)), "{state:?}");
        if state.has_leader() {
            let leader = *self.leaders.entry((id, state.leader_epoch)).or_insert(state.leader);
            assert_eq!(leader, state.leader, "two leaders of {id:?} in epoch {}", state.leader_epoch);
        }
        for member in &state.isr {
            if let Some(registered) = image.broker(member.broker) {
                let is_current = registered.epoch == member.epoch || state.is_sole_member(member.broker);
                assert!(is_current, "the ISR holds a predecessor of broker {}: {state:?}", member.broker);
            }
        }
    }

    pub fn request_id(&mut self) -> RequestId {
        self.next_id += 1;
        RequestId(self.next_id)
    }

    /// Sends a request and commits nothing.
    pub fn send(&mut self, request: Request) -> RequestId {
        let id = self.request_id();
        let mut entropy = [0; 16];
        entropy[..8].copy_from_slice(&id.0.to_le_bytes());
        self.step(Input::Request { id, request, entropy });
        id
    }

    /// Sends a request, commits everything, and takes the answer.
    pub fn ask(&mut self, request: Request) -> Answer {
        let id = self.send(request);
        self.commit_all();
        self.answers.remove(&id).unwrap_or_else(|| panic!("{id:?} is not answered"))
    }

    /// Sends a request that is answered as soon as the entries in flight are committed, without committing later ones.
    pub fn ask_uncommitted(&mut self, request: Request) -> Answer {
        let id = self.send(request);
        while !self.answers.contains_key(&id) && self.commit_one() {}
        self.answers.remove(&id).unwrap_or_else(|| panic!("{id:?} is not answered"))
    }

    /// As [`Cluster::of`], of brokers whose leaderships return to them every `interval_s` at the latest.
    pub fn balancing(count: i32, interval_s: u32) -> Self {
        let mut cluster = Self::new();
        cluster.leader_settings.rebalance_interval_s = interval_s;
        (1..=count).for_each(|id| {
            cluster.start(id);
        });
        cluster
    }

    pub fn registration(&self, id: i32, incarnation: u8, clean_shutdown_epoch: BrokerEpoch) -> Register {
        let endpoint = Endpoint {
            listener: ListenerName::new("INTERNAL"),
            host: "10.0.0.1".to_owned(),
            port: u16::try_from(9000 + id.max(0)).unwrap_or(9000),
            security_protocol: "PLAINTEXT".to_owned(),
        };
        Register {
            broker: BrokerId(id),
            incarnation: incarnation_id(incarnation),
            cluster_id: Some(self.config.cluster_id.clone()),
            endpoints: vec![endpoint],
            inter_broker_listener: ListenerName::new("INTERNAL"),
            rack: None,
            clean_shutdown_epoch,
            min_insync_replicas: 2,
            leaders: self.leader_settings,
            levels: self.config.levels,
        }
    }

    pub fn register(&mut self, id: i32, incarnation: u8, clean: BrokerEpoch) -> Result<Registered, Refusal> {
        let register = self.registration(id, incarnation, clean);
        match self.ask(Request::Register(register)) {
            Answer::Register(registered) => {
                if let Ok(registered) = &registered {
                    self.joined(registered, incarnation);
                }
                registered
            }
            other => panic!("not the answer to a registration: {other:?}"),
        }
    }

    pub fn joined(&mut self, registered: &Registered, incarnation: u8) {
        self.next_id += 1;
        let broker = Broker {
            epoch: registered.epoch,
            incarnation: incarnation_id(incarnation),
            stream: StreamId(self.next_id),
            runs: true,
            follows: true,
            image_revision: Revision(0),
        };
        self.brokers.insert(registered.broker.0, broker);
    }

    /// A new incarnation after an unclean end registers and becomes ready.
    pub fn start(&mut self, id: i32) -> BrokerEpoch {
        self.start_after(id, BrokerEpoch::NONE)
    }

    /// A new incarnation registers and becomes ready.
    pub fn start_after(&mut self, id: i32, clean: BrokerEpoch) -> BrokerEpoch {
        self.next_id += 1;
        let incarnation = u8::try_from(self.next_id % 251).unwrap_or(0);
        let registered = self.register(id, incarnation, clean).expect("registers");
        self.beat(id);
        registered.epoch
    }

    /// The broker sends a heartbeat, with its image as far as it follows, and answers probes.
    pub fn beat(&mut self, id: i32) {
        let revision = self.image.revision();
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.runs) else { return };
        if broker.follows {
            broker.image_revision = revision;
        }
        let beat = Beat {
            broker: BrokerId(id),
            epoch: broker.epoch,
            incarnation: broker.incarnation,
            image_revision: broker.image_revision,
        };
        let stream = broker.stream;
        self.step(Input::StreamBeat { stream, beat });
        self.answer_probes();
        self.commit_all();
    }

    pub fn answer_probes(&mut self) {
        while let Some(probe) = self.probes.pop() {
            let at = self.brokers.get(&probe.broker.0);
            let result = match at.filter(|broker| broker.runs) {
                _ if !self.reachable => ProbeResult::Unknown,
                Some(broker) => ProbeResult::Answered(broker.incarnation),
                None => ProbeResult::Refused,
            };
            self.step(Input::Probed { broker: probe.broker, incarnation: probe.incarnation, result });
        }
    }

    /// Time passes in ticks; running brokers send a heartbeat every 500 ms, every proposal commits.
    pub fn run(&mut self, ms: u64) {
        for passed in (0..ms).step_by(usize::try_from(TICK_MS).expect("small")) {
            self.now.monotonic.0 += TICK_MS;
            self.now.wall.0 += i64::try_from(TICK_MS).expect("small");
            if passed % 500 == 0 {
                self.brokers.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.beat(id));
            }
            let effects = self.controller.tick(self.now);
            self.take(effects);
            self.answer_probes();
            self.commit_all();
        }
    }

    /// One tick; nothing commits.
    pub fn tick(&mut self) {
        self.now.monotonic.0 += TICK_MS;
        let effects = self.controller.tick(self.now);
        self.take(effects);
    }

    /// The process ends: its stream closes, and its address refuses connections.
    pub fn kill(&mut self, id: i32) {
        self.stop_running(id);
        self.answer_probes();
        self.commit_all();
    }

    /// The process ends; nothing that follows is done yet.
    pub fn stop_running(&mut self, id: i32) {
        let broker = self.brokers.get_mut(&id).expect("is there");
        broker.runs = false;
        let stream = broker.stream;
        self.step(Input::StreamClosed { stream });
    }

    /// Another coordinator becomes quorum leader: uncommitted proposals are lost.
    pub fn change_leader(&mut self) {
        self.replace_leader((*self.image).clone());
    }

    /// A coordinator that has started after all of this becomes quorum leader: it has the tree, and no more.
    pub fn change_leader_to_a_new_one(&mut self) {
        self.replace_leader(Image::from_tree(&self.tree));
    }

    fn replace_leader(&mut self, image: Image) {
        self.proposals.clear();
        self.answers.clear();
        self.probes.clear();
        // The no-op of the new term.
        let revision = Revision(self.tree.revision().0 + 1);
        self.tree.advance(revision);
        self.copy.advance(revision);
        self.image = Arc::new(image.apply(revision, &[]).0);
        let old = std::mem::replace(&mut self.next_id, 0);
        self.next_id = old + 1;
        let (controller, effects) =
            Controller::new(self.now, self.config.clone(), self.tree.clone(), (*self.image).clone(), Reached::new());
        self.controller = controller;
        for broker in self.brokers.values_mut() {
            self.next_id += 1;
            broker.stream = StreamId(self.next_id);
        }
        self.take(effects);
    }

    pub fn create(&mut self, name: &str, assignments: &[&[i32]], configs: &[(&str, &str)]) {
        let answer = self.ask(Request::CreateTopics(CreateTopics {
            topics: vec![new_topic(name, assignments, configs)],
            validate_only: false,
            default_partitions: 1,
            default_replication_factor: 1,
        }));
        let Answer::CreateTopics(outcomes) = answer else { panic!("not the answer: {answer:?}") };
        assert_eq!(outcomes.topics[0].refusal, None);
        assert_eq!(outcomes.revision, self.image.revision());
        // The leaders' images follow at once.
        self.brokers.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.beat(id));
    }

    /// Partition 0 of the topic gets these replicas; none cancels. The error, if it is refused.
    pub fn reassign(&mut self, topic: &str, target: Option<&[i32]>) -> ErrorCode {
        let targets = vec![(PartitionId(0), target.map(ids))];
        let topics = vec![(topic.to_owned(), targets)];
        let alter = AlterReassignments { topics, allow_replication_factor_change: true };
        let Answer::AlterReassignments(outcomes) = self.ask(Request::AlterReassignments(alter)) else {
            panic!("not the answer to a reassignment")
        };
        let refusal = outcomes.topics[0].1[0].refusal.as_ref();
        refusal.map_or(ErrorCode::None, |refusal| refusal.error)
    }

    pub fn state(&self, topic: &str, partition: i32) -> Arc<PartitionState> {
        self.image.partition_of(topic, PartitionId(partition)).expect("the partition is there").clone()
    }

    pub fn id_of(&self, topic: &str, partition: i32) -> TopicIdPartition {
        let topic_id = self.image.topic(topic).expect("the topic is there").id;
        TopicIdPartition { topic_id, partition: PartitionId(partition) }
    }

    pub fn member(&self, id: i32) -> IsrMember {
        let epoch = self.brokers.get(&id).map_or(BrokerEpoch(0), |broker| broker.epoch);
        IsrMember { broker: BrokerId(id), epoch }
    }

    /// An ISR change of a partition's leader, based on the current state.
    pub fn isr_request(&self, topic: &str, isr: Vec<IsrMember>) -> AlterPartitions {
        let state = self.state(topic, 0);
        let change = AlterPartition {
            partition: self.id_of(topic, 0),
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            isr,
        };
        let leader = self.member(state.leader.0);
        AlterPartitions { broker: leader.broker, epoch: leader.epoch, partitions: vec![change] }
    }

    pub fn alter(&mut self, request: AlterPartitions) -> (ErrorCode, Option<AlteredPartition>) {
        match self.ask(Request::AlterPartitions(request)) {
            Answer::AlterPartitions(altered) => (altered.error, altered.partitions.into_iter().next()),
            other => panic!("not the answer to an ISR change: {other:?}"),
        }
    }

    /// The error of an ISR change of the leader.
    pub fn alter_isr(&mut self, topic: &str, isr: Vec<IsrMember>) -> ErrorCode {
        let request = self.isr_request(topic, isr);
        let (error, result) = self.alter(request);
        result.map_or(error, |result| result.error)
    }
}

pub(in crate::controller) fn new_topic(name: &str, assignments: &[&[i32]], configs: &[(&str, &str)]) -> NewTopic {
    let assignment = |replicas: &&[i32]| replicas.iter().copied().map(BrokerId).collect();
    NewTopic {
        name: name.to_owned(),
        partitions: -1,
        replication_factor: -1,
        grows_to: 0,
        assignments: (0..).map(PartitionId).zip(assignments.iter().map(assignment)).collect(),
        configs: configs.iter().map(|(name, value)| (String::from(*name), Some(String::from(*value)))).collect(),
    }
}

pub(in crate::controller) fn ids(brokers: &[i32]) -> Vec<BrokerId> {
    brokers.iter().copied().map(BrokerId).collect()
}

pub(super) fn isr(state: &PartitionState) -> Vec<i32> {
    state.isr_ids().map(|broker| broker.0).collect()
}

/// As of a broker of version 0.1: not a UUID of version 8, to which there is a key.
pub(in crate::controller) fn incarnation_id(number: u8) -> IncarnationId {
    let mut bytes = [number; 16];
    bytes[6] &= 0x7f;
    IncarnationId(bytes)
}
