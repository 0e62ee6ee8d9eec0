//! The whole cluster in one thread: processes, network, clocks and disks, and the queue of what happens when.
//!
//! Events are ordered by (time, number). Nothing here asks the machine for time or chance: a seed gives the same run,
//! to the byte.

mod balancing;
mod checks;
mod delivery;
mod looks;
mod members;
mod processes;
mod reaching;
mod releases;
mod returns;
mod securing;
mod topics;
mod unclean;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ottla_broker_session::BrokenRules as SessionRules;
use ottla_metadata::balance::BrokenRules as BalanceRules;
use ottla_metadata::controller::{
    AlterReassignments, BrokenRules as ControllerRules, ChangeQuorum, CreateTopics, DeleteTopics, ElectLeaders,
    ElectionType, NewTopic, Probe, ProbeResult, REASSIGNMENTS_PER_BROKER_MAX, ReassignmentTargets, TopicRef,
};
use ottla_metadata::image::{LeaderSettings, Standing};
use ottla_metadata::{Answer, Image, Request};
use ottla_model::{
    BrokerEpoch, BrokerId, CoordinatorId, FeatureLevel, FeatureLevels, IncarnationId, Offset, PartitionId, Revision,
    TopicIdPartition,
};
use ottla_partition::BrokenRules;
use ottla_quorum_node::BrokenRules as NodeRules;
use ottla_replica_fetcher::BrokenRules as FetcherRules;
use ottla_storage::LogConfig;

use crate::broker::{self, BrokerNode, BrokerSettings};
use crate::client::{self, Consumer, Producer};
use crate::clock::SimTime;
use crate::coordinator_node::{self, CoordinatorNode, CoordinatorSettings, Observed};
use crate::event_queue::EventQueue;
use crate::facts::Fact;
use crate::invariants::{Invariants, Replica, Violation};
use crate::message::{CallId, FetchBytes, Message};
use crate::network::{Network, NodeId};
use crate::outbox::Outbox;
use crate::random::Random;
use crate::security::{Security, SecurityConfig};
use crate::trace::Trace;
use crate::transactor::Transactor;
use balancing::Balancing;
use reaching::LostBrokers;
pub use releases::{NEWER, OLDER};
use returns::Returns;
use unclean::UncleanElections;

/// The client that scripts speak as.
pub const SCRIPT: NodeId = NodeId::Client(999);

/// The admin asks again after this long.
const ADMIN_RETRY_MS: u64 = 700;

/// How late a late answer is: some come after the fetcher has given its connection up.
const LATE_BOUNDS_MS: (u64, u64) = (100, 1_800);

/// A dial is given up after this long.
const DIAL_MS: u64 = 500;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    pub coordinators: u64,
    /// Every coordinator has a list of all at its first start; otherwise brokers bring it.
    pub lists_servers: bool,
    pub brokers: i32,
    pub partitions: i32,
    pub replication_factor: i32,
    pub min_isr: usize,
    pub replica_lag_time_max: Duration,
    pub segment_bytes: u32,
    /// Log directories of each broker.
    pub log_dirs: usize,
    /// How the brokers' partitions get leaders.
    pub leaders: LeaderSettings,
    /// How many partitions may be moved to a broker at once.
    pub reassignments_per_broker_max: usize,
    /// `unclean.leader.election.enable` of the topics; none: it is not set.
    pub unclean_election: Option<bool>,
    /// How long a leader waits for followers before it answers a produce.
    pub produce_timeout_ms: u64,
    pub idempotent_producers: u32,
    pub hasty_producers: u32,
    pub consumers: u32,
    /// Producers of transactions; with any there is a reader of committed records too.
    pub transactors: u32,
    /// Processes of two releases: the cluster begins with the older one.
    pub releases: bool,
    /// Of followers and consumers. Where they are narrow, most batches are larger.
    pub fetch_bytes: FetchBytes,
    pub rules: BrokenRules,
    pub fetcher_rules: FetcherRules,
    pub session_rules: SessionRules,
    pub controller_rules: ControllerRules,
    pub node_rules: NodeRules,
    pub balance_rules: BalanceRules,
    /// None: everybody may do everything.
    pub security: Option<SecurityConfig>,
}

impl WorldConfig {
    /// What scripted scenarios begin with.
    pub fn small() -> Self {
        Self {
            coordinators: 3,
            lists_servers: true,
            brokers: 3,
            partitions: 1,
            replication_factor: 3,
            min_isr: 2,
            replica_lag_time_max: Duration::from_secs(10),
            segment_bytes: 1 << 20,
            log_dirs: 1,
            leaders: LeaderSettings::default(),
            reassignments_per_broker_max: REASSIGNMENTS_PER_BROKER_MAX,
            unclean_election: None,
            produce_timeout_ms: 2_000,
            idempotent_producers: 0,
            hasty_producers: 0,
            consumers: 0,
            transactors: 0,
            releases: false,
            fetch_bytes: FetchBytes::WIDE,
            rules: BrokenRules::default(),
            fetcher_rules: FetcherRules::default(),
            session_rules: SessionRules::default(),
            controller_rules: ControllerRules::default(),
            node_rules: NodeRules::default(),
            balance_rules: BalanceRules::default(),
            security: None,
        }
    }

    /// Mostly wide; some are smaller than one batch, or than what a partition writes in the meantime.
    fn draw_fetch_bytes(random: &mut Random) -> FetchBytes {
        if random.percent(60) {
            return FetchBytes::WIDE;
        }
        let bytes = |random: &mut Random| usize::try_from(random.between(50, 1_500)).unwrap_or(50);
        FetchBytes { answer_max: bytes(random), partition_max: bytes(random) }
    }

    /// Of a coordinator whose list has these.
    fn coordinator_settings(&self, listed: impl IntoIterator<Item = u64>) -> CoordinatorSettings {
        let address = |id| (CoordinatorId(id), coordinator_node::address_of(CoordinatorId(id)));
        CoordinatorSettings {
            listed: listed.into_iter().map(address).collect(),
            connect: (1..=self.coordinators).map(|id| coordinator_node::address_of(CoordinatorId(id))).collect(),
            levels: if self.releases { OLDER } else { NEWER },
            rules: self.controller_rules,
            reassignments_per_broker_max: self.reassignments_per_broker_max,
            node_rules: self.node_rules,
        }
    }

    /// With leaderships that return by themselves in three of ten seeds, unclean elections in some, and one
    /// reassignment of a broker at a time in half of them. What this draws moves nothing that others draw.
    pub fn drawn_aside(self, seed: u64, may_be_unclean: bool) -> Self {
        let mut random = Random::new(seed ^ 0x1EAD_0BA1_A4CE_0000);
        let rebalance_interval_s =
            if random.percent(30) { u32::try_from(random.between(1, 5)).unwrap_or(1) } else { 0 };
        let unclean_election = match random.below(10) {
            _ if !may_be_unclean => None,
            0 | 1 => Some(true),
            2 => Some(false),
            _ => None,
        };
        let of_brokers = may_be_unclean && random.percent(10);
        let leaders =
            LeaderSettings { unclean_election: of_brokers, rebalance_interval_s, ..LeaderSettings::default() };
        let reassignments_per_broker_max = if random.percent(50) { 1 } else { self.reassignments_per_broker_max };
        Self { leaders, unclean_election, reassignments_per_broker_max, ..self }
    }

    pub fn draw(random: &mut Random) -> Self {
        let brokers = i32::try_from(random.between(3, 5)).unwrap_or(3);
        Self {
            coordinators: 3,
            lists_servers: random.percent(80),
            brokers,
            partitions: i32::try_from(random.between(1, 3)).unwrap_or(1),
            replication_factor: if random.percent(80) { 3 } else { 2 },
            min_isr: if random.percent(75) { 2 } else { 1 },
            replica_lag_time_max: Duration::from_millis(random.between(800, 8_000)),
            segment_bytes: u32::try_from(random.between(600, 20_000)).unwrap_or(20_000),
            log_dirs: if random.percent(30) { 2 } else { 1 },
            leaders: LeaderSettings::default(),
            reassignments_per_broker_max: REASSIGNMENTS_PER_BROKER_MAX,
            unclean_election: None,
            produce_timeout_ms: random.between(1_500, 12_000),
            idempotent_producers: u32::try_from(random.between(1, 2)).unwrap_or(1),
            hasty_producers: u32::try_from(random.between(0, 1)).unwrap_or(0),
            consumers: u32::try_from(random.between(0, 1)).unwrap_or(0),
            transactors: 0,
            releases: false,
            fetch_bytes: Self::draw_fetch_bytes(random),
            rules: BrokenRules::default(),
            fetcher_rules: FetcherRules::default(),
            session_rules: SessionRules::default(),
            controller_rules: ControllerRules::default(),
            node_rules: NodeRules::default(),
            balance_rules: BalanceRules::default(),
            security: None,
        }
    }
}

enum Event {
    Deliver {
        from: NodeId,
        to: NodeId,
        to_life: u32,
        message: Message,
    },
    Tick {
        node: NodeId,
        life: u32,
    },
    DialArrives {
        from: u64,
        life: u32,
        probe: Probe,
    },
    Dialled {
        to: u64,
        life: u32,
        broker: BrokerId,
        incarnation: IncarnationId,
        result: ProbeResult,
    },
    Start(NodeId),
    Resume(NodeId),
    Thaw(NodeId),
    RepairDisk(i32, usize),
    DiskAnswers(i32, usize),
    /// Both directions between the two are open again.
    Mend(NodeId, NodeId),
}

impl Event {
    /// Whose turn it is; none for what the world itself does.
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Deliver { to, .. } => Some(*to),
            Self::Tick { node, .. } => Some(*node),
            Self::Dialled { to, .. } => Some(NodeId::Coordinator(*to)),
            _ => None,
        }
    }
}

/// What the admin wants of the quorum.
enum AdminTask {
    Create {
        topic: String,
    },
    Delete {
        topic: String,
    },
    /// Without a target, back to the replicas before.
    Reassign {
        topic: String,
        partition: PartitionId,
        target: Option<Vec<BrokerId>>,
    },
    ReassignAll {
        topics: Vec<(String, ReassignmentTargets)>,
    },
    ElectPreferred,
    ElectUnclean,
    ChangeQuorum(ChangeQuorum),
    Cordon {
        broker: BrokerId,
        is_cordoned: bool,
    },
    /// Once: it may be refused.
    ChangeLevel(FeatureLevel),
    ChangeToken {
        is_made: bool,
    },
}

pub struct World {
    pub now: SimTime,
    pub config: WorldConfig,
    pub random: Random,
    pub network: Network,
    pub trace: Trace,
    pub invariants: Invariants,
    pub coordinators: BTreeMap<u64, CoordinatorNode>,
    pub brokers: BTreeMap<i32, BrokerNode>,
    pub producers: BTreeMap<u32, Producer>,
    pub consumers: BTreeMap<u32, Consumer>,
    pub transactors: BTreeMap<u32, Transactor>,
    queue: EventQueue<Event>,
    lives: BTreeMap<NodeId, u32>,
    paused: BTreeMap<NodeId, Vec<Event>>,
    /// Hosts without power: nothing answers there, not even a refusal.
    dark: BTreeSet<NodeId>,
    admin: Vec<AdminTask>,
    balancing: Option<Balancing>,
    pub security: Option<Box<Security>>,
    admin_sent: SimTime,
    admin_target: u64,
    next_call: u64,
    /// The topics that clients use.
    topics: BTreeSet<String>,
    clients_know: Revision,
    /// The newest image that any coordinator ever had: what is known when none runs.
    image: Image,
    /// When a member of the quorum got the disk that the image names.
    disks_since: BTreeMap<CoordinatorId, SimTime>,
    /// Every process of a broker whose registration was ready some time.
    ready: BTreeSet<IncarnationId>,
    pub events: u64,
    /// Processes that ended by themselves come back.
    pub restarts: bool,
    /// What scripts receive under [`SCRIPT`].
    pub inbox: Vec<(NodeId, Message)>,
    /// The revision that each broker's image had last, by its life: it never goes back.
    image_revisions: BTreeMap<i32, (u32, Revision)>,
    /// The last registration that each broker's own image showed.
    registrations: BTreeMap<i32, BrokerEpoch>,
    /// Leaders whose disks do not answer, and since when: [`World::check_stalled`].
    held_leaders: BTreeMap<(i32, TopicIdPartition), SimTime>,
    /// Until then answers about the bounds of a log take up to [`LATE_BOUNDS_MS`].
    pub late_bounds_until: SimTime,
    /// Streams that strangers have opened.
    forged_streams: BTreeSet<u64>,
    returns: Returns,
    lost_brokers: Option<LostBrokers>,
    unclean: UncleanElections,
    pub deliveries: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(seed: u64, config: WorldConfig, prints: bool) -> Self {
        let mut random = Random::new(seed);
        let network = Network::new(random.fork());
        let settings = Arc::new(BrokerSettings {
            coordinators: (1..=config.coordinators).collect(),
            replica_lag_time_max: config.replica_lag_time_max,
            rules: config.rules,
            fetcher_rules: config.fetcher_rules,
            session_rules: config.session_rules,
            watch_rules: config.security.as_ref().map(|security| security.rules.watch).unwrap_or_default(),
            fetch_bytes: config.fetch_bytes,
            log_config: Arc::new(LogConfig {
                segment_bytes: config.segment_bytes,
                index_interval_bytes: 200,
                ..LogConfig::default()
            }),
            min_insync_replicas: 1,
            leaders: config.leaders,
            log_dirs: config.log_dirs,
        });
        let listed: Vec<u64> = if config.lists_servers { (1..=config.coordinators).collect() } else { Vec::new() };
        let coordinator_settings = config.coordinator_settings(listed);
        let coordinators = (1..=config.coordinators)
            .map(|id| (id, CoordinatorNode::new(CoordinatorId(id), coordinator_settings.clone(), random.fork())))
            .collect();
        let brokers = (1..=config.brokers)
            .map(|id| {
                let mut broker = BrokerNode::new(BrokerId(id), settings.clone(), random.fork());
                broker.levels = coordinator_settings.levels;
                (id, broker)
            })
            .collect();
        let ids: Vec<i32> = (1..=config.brokers).collect();
        let idempotent = (1..=config.idempotent_producers).map(|id| (id, -1));
        let hasty = (1..=config.hasty_producers).map(|id| (config.idempotent_producers + id, 1));
        let producers: BTreeMap<_, _> = idempotent
            .chain(hasty)
            .map(|(id, acks)| {
                let random = random.fork();
                (id, Producer::new(id, acks, config.produce_timeout_ms, ids.clone(), random))
            })
            .collect();
        let mut consumers: BTreeMap<_, _> = (1..=config.consumers)
            .map(|id| (100 + id, Consumer::new(100 + id, ids.clone(), config.fetch_bytes, random.fork())))
            .collect();
        let transactors =
            (1..=config.transactors).map(|id| (200 + id, Transactor::new(id, ids.clone(), random.fork()))).collect();
        if config.transactors > 0 {
            let reader = Consumer::new(300, ids, config.fetch_bytes, random.fork()).of_committed();
            consumers.insert(reader.id, reader);
        }
        let mut world = Self {
            now: SimTime(0),
            config,
            random,
            network,
            trace: Trace::new(prints),
            invariants: Invariants::default(),
            coordinators,
            brokers,
            producers,
            consumers,
            transactors,
            queue: EventQueue::default(),
            lives: BTreeMap::new(),
            paused: BTreeMap::new(),
            dark: BTreeSet::new(),
            admin: Vec::new(),
            balancing: None,
            security: None,
            admin_sent: SimTime(0),
            admin_target: 1,
            next_call: 0,
            topics: BTreeSet::new(),
            clients_know: Revision(0),
            image: Image::empty(),
            disks_since: BTreeMap::new(),
            ready: BTreeSet::new(),
            events: 0,
            restarts: true,
            inbox: Vec::new(),
            image_revisions: BTreeMap::new(),
            registrations: BTreeMap::new(),
            held_leaders: BTreeMap::new(),
            late_bounds_until: SimTime(0),
            forged_streams: BTreeSet::new(),
            returns: Returns::default(),
            lost_brokers: None,
            unclean: UncleanElections::default(),
            deliveries: BTreeMap::new(),
        };
        world.begin_security(seed);
        world.begin();
        world
    }

    fn begin(&mut self) {
        let nodes: Vec<_> = self.all_servers().collect();
        for node in nodes {
            let delay = self.random.between(0, 20_000);
            self.schedule(self.now.plus_us(delay), Event::Start(node));
        }
        let clients: Vec<_> = std::iter::once(NodeId::Client(0)).chain(self.clients()).collect();
        for node in clients {
            self.lives.insert(node, 1);
            let delay = self.random.between(0, 40_000);
            self.schedule(self.now.plus_us(delay), Event::Tick { node, life: 1 });
        }
    }

    pub fn all_servers(&self) -> impl Iterator<Item = NodeId> + use<> {
        let coordinators: Vec<_> = self.coordinators.keys().map(|id| NodeId::Coordinator(*id)).collect();
        let brokers: Vec<_> = self.brokers.keys().map(|id| NodeId::Broker(*id)).collect();
        coordinators.into_iter().chain(brokers)
    }

    fn schedule(&mut self, at: SimTime, event: Event) {
        self.queue.schedule(at, event);
    }

    pub fn life(&self, node: NodeId) -> u32 {
        self.lives.get(&node).copied().unwrap_or(0)
    }

    pub fn is_running(&self, node: NodeId) -> bool {
        match node {
            NodeId::Coordinator(id) => self.coordinators.get(&id).is_some_and(CoordinatorNode::is_running),
            NodeId::Broker(id) => self.brokers.get(&id).is_some_and(BrokerNode::is_running),
            NodeId::Client(_) => true,
        }
    }

    pub fn is_paused(&self, node: NodeId) -> bool {
        self.paused.contains_key(&node)
    }

    // ---- time

    pub fn run_until(&mut self, end: SimTime) -> Result<(), Violation> {
        while let Some((at, event)) = self.queue.next_until(end) {
            self.now = self.now.max(at);
            self.events += 1;
            self.happen(event)?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    pub fn run_for_ms(&mut self, ms: u64) -> Result<(), Violation> {
        self.run_until(self.now.plus_ms(ms))
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        if let Some(node) = event.node()
            && let Some(backlog) = self.paused.get_mut(&node)
        {
            backlog.push(event);
            return Ok(());
        }
        match event {
            Event::Deliver { from, to, to_life, message } => self.deliver(from, to, to_life, message),
            Event::Tick { node, life } => self.tick(node, life),
            Event::DialArrives { from, life, probe } => {
                self.dial_arrives(from, life, probe);
                Ok(())
            }
            Event::Dialled { to, life, broker, incarnation, result } => {
                if life != self.life(NodeId::Coordinator(to)) {
                    return Ok(());
                }
                self.trace.line(self.now, format_args!("c{to} dialled b{broker}: {result:?}"));
                let mut out = Outbox::default();
                let observed = match self.coordinators.get_mut(&to) {
                    Some(node) => node.probed(self.now, broker, incarnation, result, &mut out),
                    None => Vec::new(),
                };
                self.finish_turn(NodeId::Coordinator(to), out, observed)
            }
            Event::Start(node) => self.start(node),
            Event::Resume(node) => {
                self.resume(node);
                Ok(())
            }
            Event::Thaw(node) => {
                self.thaw(node);
                Ok(())
            }
            Event::DiskAnswers(id, directory) => self.disk_answers(id, directory),
            Event::RepairDisk(id, directory) => {
                self.repair_disk(id, directory);
                Ok(())
            }
            Event::Mend(one, other) => {
                self.network.heal_between(one, other);
                Ok(())
            }
        }
    }

    fn tick(&mut self, node: NodeId, life: u32) -> Result<(), Violation> {
        if life != self.life(node) || !self.is_running(node) {
            return Ok(());
        }
        let mut out = Outbox::default();
        let mut observed = Vec::new();
        let interval_ms = match node {
            NodeId::Coordinator(id) => {
                let newest = self.newest_revision();
                if let Some(coordinator) = self.coordinators.get_mut(&id) {
                    let ticked = coordinator.tick(self.now, newest, &mut out);
                    observed = ticked.map_err(|error| Violation(format!("c{id} cannot go on: {error}")))?;
                }
                coordinator_node::TICK_MS
            }
            NodeId::Broker(id) => {
                if let Some(broker) = self.brokers.get_mut(&id) {
                    broker.tick(self.now, &mut out);
                }
                broker::TICK_MS
            }
            NodeId::Client(0) => {
                self.tick_admin(&mut out);
                self.check_reach()?;
                client::TICK_MS
            }
            NodeId::Client(id) if self.security_clients().contains(&node) => {
                self.continue_restoring();
                self.tick_security(id, &mut out);
                client::TICK_MS
            }
            NodeId::Client(id) => {
                self.tell_clients();
                if let Some(producer) = self.producers.get_mut(&id) {
                    producer.tick(self.now, &mut out);
                } else if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.tick(self.now, &mut out);
                } else if let Some(transactor) = self.transactors.get_mut(&id)
                    && let Some(seen) = transactor.tick(self.now, &mut out)
                {
                    self.invariants.seen(&seen)?;
                }
                client::TICK_MS
            }
        };
        self.schedule(self.now.plus_ms(interval_ms), Event::Tick { node, life });
        self.finish_turn(node, out, observed)
    }
}
