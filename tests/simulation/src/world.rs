//! The whole cluster in one thread: processes, network, clocks and disks, and the queue of what happens when.
//!
//! Events are ordered by (time, number). Nothing here asks the machine for time or chance: a seed gives the same run, to the byte.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::controller::{
    AdmitCoordinator, CreateTopics, DeleteTopics, NewTopic, Probe, ProbeResult, Rules as ControllerRules, TopicRef,
};
use ottla_metadata::{Answer, Image, Request};
use ottla_model::{BrokerEpoch, BrokerId, CoordinatorId, IncarnationId, Offset, Revision, TopicIdPartition};
use ottla_replication::Rules;
use ottla_storage::LogConfig;

use crate::broker::{self, BrokerNode, BrokerSettings};
use crate::client::{self, Consumer, Producer};
use crate::clock::SimTime;
use crate::coordinator_node::{self, AppliedEntry, CoordinatorNode};
use crate::facts::Fact;
use crate::invariants::{Invariants, Replica, Violation};
use crate::message::{CallId, Message};
use crate::network::{Network, NodeId};
use crate::outbox::Outbox;
use crate::random::Random;
use crate::trace::Trace;

/// The client that scripts speak as.
pub const SCRIPT: NodeId = NodeId::Client(999);

/// The admin asks again after this long.
const ADMIN_RETRY_MS: u64 = 700;

/// A dial is given up after this long.
const DIAL_MS: u64 = 500;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    pub coordinators: u64,
    pub brokers: i32,
    pub partitions: i32,
    pub replication_factor: i32,
    pub min_isr: usize,
    pub replica_lag_time_max: Duration,
    pub segment_bytes: u32,
    pub idempotent_producers: u32,
    pub hasty_producers: u32,
    pub consumers: u32,
    pub rules: Rules,
    pub controller_rules: ControllerRules,
}

impl WorldConfig {
    /// What scripted scenarios begin with.
    pub fn small() -> Self {
        Self {
            coordinators: 3,
            brokers: 3,
            partitions: 1,
            replication_factor: 3,
            min_isr: 2,
            replica_lag_time_max: Duration::from_secs(10),
            segment_bytes: 1 << 20,
            idempotent_producers: 0,
            hasty_producers: 0,
            consumers: 0,
            rules: Rules::default(),
            controller_rules: ControllerRules::default(),
        }
    }

    pub fn draw(random: &mut Random) -> Self {
        let brokers = i32::try_from(random.between(3, 5)).unwrap_or(3);
        Self {
            coordinators: 3,
            brokers,
            partitions: i32::try_from(random.between(1, 3)).unwrap_or(1),
            replication_factor: if random.percent(80) { 3 } else { 2 },
            min_isr: if random.percent(75) { 2 } else { 1 },
            replica_lag_time_max: Duration::from_millis(random.between(800, 8_000)),
            segment_bytes: u32::try_from(random.between(600, 20_000)).unwrap_or(20_000),
            idempotent_producers: u32::try_from(random.between(1, 2)).unwrap_or(1),
            hasty_producers: u32::try_from(random.between(0, 1)).unwrap_or(0),
            consumers: u32::try_from(random.between(0, 1)).unwrap_or(0),
            rules: Rules::default(),
            controller_rules: ControllerRules::default(),
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
    RepairDisk(i32),
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
    Create { topic: String },
    Delete { topic: String },
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
    queue: BTreeMap<(SimTime, u64), Event>,
    next_event: u64,
    lives: BTreeMap<NodeId, u32>,
    paused: BTreeMap<NodeId, Vec<Event>>,
    /// Hosts without power: nothing answers there, not even a refusal.
    dark: BTreeSet<NodeId>,
    lost_power: BTreeSet<BrokerId>,
    admin: Vec<AdminTask>,
    admin_sent: SimTime,
    admin_target: u64,
    next_call: u64,
    /// The topics that clients use.
    topics: BTreeSet<String>,
    clients_know: Revision,
    /// The newest image that any coordinator ever had: what is known when none runs.
    image: Image,
    pub events: u64,
    /// Processes that ended by themselves come back.
    pub restarts: bool,
    /// What scripts receive under [`SCRIPT`].
    pub inbox: Vec<(NodeId, Message)>,
    /// The revision that each broker's image had last, by its life: it never goes back.
    image_revisions: BTreeMap<i32, (u32, Revision)>,
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
            log_config: Arc::new(LogConfig {
                segment_bytes: config.segment_bytes,
                index_interval_bytes: 200,
                ..LogConfig::default()
            }),
            min_insync_replicas: 1,
        });
        let coordinators = (1..=config.coordinators)
            .map(|id| (id, CoordinatorNode::new(CoordinatorId(id), config.controller_rules, random.fork())))
            .collect();
        let brokers = (1..=config.brokers)
            .map(|id| (id, BrokerNode::new(BrokerId(id), settings.clone(), random.fork())))
            .collect();
        let ids: Vec<i32> = (1..=config.brokers).collect();
        let idempotent = (1..=config.idempotent_producers).map(|id| (id, -1));
        let hasty = (1..=config.hasty_producers).map(|id| (config.idempotent_producers + id, 1));
        let producers: BTreeMap<_, _> = idempotent
            .chain(hasty)
            .map(|(id, acks)| (id, Producer::new(id, acks, ids.clone(), random.fork())))
            .collect();
        let consumers =
            (1..=config.consumers).map(|id| (100 + id, Consumer::new(100 + id, ids.clone(), random.fork()))).collect();
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
            queue: BTreeMap::new(),
            next_event: 0,
            lives: BTreeMap::new(),
            paused: BTreeMap::new(),
            dark: BTreeSet::new(),
            lost_power: BTreeSet::new(),
            admin: Vec::new(),
            admin_sent: SimTime(0),
            admin_target: 1,
            next_call: 0,
            topics: BTreeSet::new(),
            clients_know: Revision(0),
            image: Image::empty(),
            events: 0,
            restarts: true,
            inbox: Vec::new(),
            image_revisions: BTreeMap::new(),
            deliveries: BTreeMap::new(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let disks: Vec<AdmitCoordinator> = self
            .coordinators
            .iter()
            .map(|(&id, node)| AdmitCoordinator {
                coordinator: CoordinatorId(id),
                disk: node.disk_id().unwrap_or(IncarnationId::ZERO),
                address: format!("c{id}"),
            })
            .collect();
        for node in self.coordinators.values_mut() {
            if let Err(error) = node.bootstrap(&disks) {
                self.trace.line(self.now, format_args!("bootstrap failed: {error}"));
            }
        }
        let nodes: Vec<_> = self.all_servers().collect();
        for node in nodes {
            let delay = self.random.between(0, 20_000);
            self.schedule(self.now.plus_us(delay), Event::Start(node));
        }
        let clients: Vec<_> =
            std::iter::once(0).chain(self.producers.keys().copied()).chain(self.consumers.keys().copied()).collect();
        for id in clients {
            self.lives.insert(NodeId::Client(id), 1);
            let delay = self.random.between(0, 40_000);
            self.schedule(self.now.plus_us(delay), Event::Tick { node: NodeId::Client(id), life: 1 });
        }
    }

    pub fn all_servers(&self) -> impl Iterator<Item = NodeId> + use<> {
        let coordinators: Vec<_> = self.coordinators.keys().map(|id| NodeId::Coordinator(*id)).collect();
        let brokers: Vec<_> = self.brokers.keys().map(|id| NodeId::Broker(*id)).collect();
        coordinators.into_iter().chain(brokers)
    }

    fn schedule(&mut self, at: SimTime, event: Event) {
        self.next_event += 1;
        self.queue.insert((at, self.next_event), event);
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

    /// The next thing happens; false if nothing ever will.
    pub fn step(&mut self) -> Result<bool, Violation> {
        let Some(((at, _), event)) = self.queue.pop_first() else { return Ok(false) };
        self.now = self.now.max(at);
        self.events += 1;
        self.happen(event)?;
        Ok(true)
    }

    pub fn run_until(&mut self, end: SimTime) -> Result<(), Violation> {
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.step()?;
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
                let applied = match self.coordinators.get_mut(&to) {
                    Some(node) => node.probed(self.now, broker, incarnation, result, &mut out),
                    None => Vec::new(),
                };
                self.finish_turn(NodeId::Coordinator(to), out, applied)
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
            Event::RepairDisk(id) => {
                self.repair_disk(id);
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
        let mut applied = Vec::new();
        let interval_ms = match node {
            NodeId::Coordinator(id) => {
                if let Some(coordinator) = self.coordinators.get_mut(&id) {
                    applied = coordinator.tick(self.now, &mut out);
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
                client::TICK_MS
            }
            NodeId::Client(id) => {
                self.tell_clients();
                if let Some(producer) = self.producers.get_mut(&id) {
                    producer.tick(self.now, &mut out);
                } else if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.tick(self.now, &mut out);
                }
                client::TICK_MS
            }
        };
        self.schedule(self.now.plus_ms(interval_ms), Event::Tick { node, life });
        self.finish_turn(node, out, applied)
    }

    // ---- messages

    fn deliver(&mut self, from: NodeId, to: NodeId, to_life: u32, message: Message) -> Result<(), Violation> {
        if to_life != self.life(to) || !self.is_running(to) {
            return Ok(());
        }
        *self.deliveries.entry(message.name()).or_default() += 1;
        self.trace.message(self.now, format_args!("{to} <- {from} {}", message.name()));
        let mut out = Outbox::default();
        let mut applied = Vec::new();
        match to {
            NodeId::Coordinator(id) => {
                if let Some(coordinator) = self.coordinators.get_mut(&id) {
                    applied = coordinator.receive(self.now, from, message, &mut out);
                }
            }
            NodeId::Broker(id) => {
                if let Some(broker) = self.brokers.get_mut(&id) {
                    broker.receive(self.now, from, message, &mut out);
                }
            }
            // The client that creates and deletes topics.
            NodeId::Client(0) => self.admin_answered(message),
            NodeId::Client(id) => self.client_receives(id, from, message, &mut out)?,
        }
        self.finish_turn(to, out, applied)
    }

    fn client_receives(&mut self, id: u32, from: NodeId, message: Message, out: &mut Outbox) -> Result<(), Violation> {
        if to_script(id) {
            self.inbox.push((from, message));
            return Ok(());
        }
        let mut seen = Vec::new();
        if let Some(producer) = self.producers.get_mut(&id) {
            match (message, from) {
                (Message::ProduceAnswer { call, answer }, _) => {
                    seen.extend(producer.answered(self.now, call, &answer, out));
                }
                (Message::ConnectionLost, NodeId::Broker(broker)) => producer.connection_lost(self.now, broker),
                _ => {}
            }
        } else if let Some(consumer) = self.consumers.get_mut(&id) {
            match (message, from) {
                (Message::FetchAnswer { call, partitions }, _) => {
                    seen.extend(consumer.answered(self.now, call, &partitions));
                }
                (Message::ConnectionLost, NodeId::Broker(broker)) => consumer.connection_lost(self.now, broker),
                _ => {}
            }
        }
        for seen in &seen {
            self.invariants.seen(seen)?;
        }
        Ok(())
    }

    pub fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let is_answered = !matches!(message, Message::ConnectionLost);
        if !self.is_running(to) {
            // The host refuses the connection, if it has power.
            if is_answered && !self.dark.contains(&to) && self.network.is_connected(from, to) && self.is_running(from) {
                let at = self.now.plus_us(self.network.notice_delay_us());
                let to_life = self.life(from);
                self.schedule(at, Event::Deliver { from: to, to: from, to_life, message: Message::ConnectionLost });
            }
            return;
        }
        let to_life = self.life(to);
        let arrivals = self.network.arrivals(self.now, from, to, message.delivery());
        if arrivals == [None, None] && matches!(message, Message::WatchEvent { .. }) {
            // A stream with a hole is no stream: this end notices.
            if let NodeId::Coordinator(id) = from
                && let Some(coordinator) = self.coordinators.get_mut(&id)
            {
                coordinator.watch_broken(to);
            }
        }
        for at in arrivals.into_iter().flatten() {
            self.schedule(at, Event::Deliver { from, to, to_life, message: message.clone() });
        }
    }

    fn finish_turn(&mut self, node: NodeId, out: Outbox, applied: Vec<AppliedEntry>) -> Result<(), Violation> {
        let Outbox { sends, probes, facts, notes, dies } = out;
        for note in &notes {
            self.trace.line(self.now, format_args!("{node} {note}"));
        }
        for fact in &facts {
            self.check_fact(node, fact)?;
        }
        match node {
            NodeId::Coordinator(id) => self.check_coordinator(id, &applied)?,
            NodeId::Broker(id) => self.check_image(id)?,
            NodeId::Client(_) => {}
        }
        for (to, message) in sends {
            self.send(node, to, message);
        }
        if let NodeId::Coordinator(id) = node {
            for probe in probes {
                self.dial(id, probe);
            }
        }
        if dies {
            self.kill(node);
            if self.restarts {
                let delay = self.random.between(50, 1_500);
                self.schedule(self.now.plus_ms(delay), Event::Start(node));
            }
        }
        Ok(())
    }

    fn dial(&mut self, from: u64, probe: Probe) {
        let (coordinator, broker) = (NodeId::Coordinator(from), NodeId::Broker(probe.broker.0));
        let life = self.life(coordinator);
        if self.network.is_connected(coordinator, broker) && !self.dark.contains(&broker) {
            let at = self.now.plus_us(self.network.notice_delay_us());
            self.schedule(at, Event::DialArrives { from, life, probe });
        } else {
            let event = dialled(from, life, &probe, ProbeResult::Unknown);
            self.schedule(self.now.plus_ms(DIAL_MS), event);
        }
    }

    fn dial_arrives(&mut self, from: u64, life: u32, probe: Probe) {
        let broker = NodeId::Broker(probe.broker.0);
        if self.is_paused(broker) || self.dark.contains(&broker) {
            let event = dialled(from, life, &probe, ProbeResult::Unknown);
            return self.schedule(self.now.plus_ms(DIAL_MS), event);
        }
        let incarnation = self.brokers.get(&probe.broker.0).and_then(BrokerNode::incarnation);
        let result = incarnation.map_or(ProbeResult::Refused, ProbeResult::Answered);
        let at = self.now.plus_us(self.network.notice_delay_us());
        self.schedule(at, dialled(from, life, &probe, result));
    }

    // ---- what is checked

    fn check_coordinator(&mut self, id: u64, applied: &[AppliedEntry]) -> Result<(), Violation> {
        for entry in applied {
            self.invariants.tree_applied(id, entry.revision, entry.digest)?;
        }
        let Some(node) = self.coordinators.get(&id) else { return Ok(()) };
        if let Some(term) = node.term_if_leader() {
            self.invariants.quorum_leads(id, term)?;
        }
        let Some(image) = node.image().filter(|_| !applied.is_empty()) else { return Ok(()) };
        if image.revision() > self.image.revision() {
            self.image = image.clone();
        }
        if self.invariants.has_lossy() {
            for topic in image.topics() {
                for (partition, state) in topic.partitions() {
                    let partition = TopicIdPartition { topic_id: topic.id, partition };
                    // Alone it never left, and what it lacks nobody has told it.
                    for member in state.isr.iter().filter(|_| state.isr.len() > 1) {
                        self.invariants.in_sync(partition, member.broker, member.epoch);
                    }
                }
            }
        }
        Ok(())
    }

    /// An image never goes back (scenario 22).
    fn check_image(&mut self, id: i32) -> Result<(), Violation> {
        let life = self.life(NodeId::Broker(id));
        let Some(revision) = self.brokers.get(&id).and_then(BrokerNode::image).map(Image::revision) else {
            return Ok(());
        };
        match self.image_revisions.insert(id, (life, revision)) {
            Some((former, known)) if former == life && known > revision => {
                Err(Violation(format!("the image of b{id} went back from {known} to {revision}")))
            }
            _ => Ok(()),
        }
    }

    fn check_fact(&mut self, node: NodeId, fact: &Fact) -> Result<(), Violation> {
        let NodeId::Broker(id) = node else { return Ok(()) };
        let life = self.life(node);
        let Some(broker) = self.brokers.get(&id) else { return Ok(()) };
        let view = |partition: &TopicIdPartition| {
            broker.replica(*partition).map(|replica| Replica { broker: BrokerId(id), life, content: &replica.content })
        };
        match fact {
            Fact::Leads { partition, leader_epoch } => match view(partition) {
                Some(replica) => self.invariants.leads(*partition, *leader_epoch, replica),
                None => Ok(()),
            },
            Fact::HighWatermark { partition, leader_epoch, offset } => match view(partition) {
                Some(replica) => self.invariants.high_watermark(*partition, *leader_epoch, *offset, replica),
                None => Ok(()),
            },
            Fact::Appended { partition, from } => match view(partition) {
                Some(replica) => self.invariants.appended(*partition, replica, *from),
                None => Ok(()),
            },
            Fact::Acknowledged { partition, leader_epoch, first, next, min_isr } => match view(partition) {
                Some(replica) => {
                    self.invariants.acknowledged(*partition, *leader_epoch, *first..*next, *min_isr, replica)
                }
                None => Ok(()),
            },
            Fact::Opened { partition } => match view(partition) {
                Some(replica) => {
                    let after_power_loss = self.lost_power.contains(&BrokerId(id));
                    self.invariants.opened(*partition, replica, broker.last_content(*partition), after_power_loss)
                }
                None => Ok(()),
            },
            Fact::Removed { .. } => Ok(()),
            Fact::Broken { what } => Err(Violation(format!("b{id}: {what}"))),
        }
    }

    // ---- processes

    fn start(&mut self, node: NodeId) -> Result<(), Violation> {
        if self.is_running(node) {
            return Ok(());
        }
        self.dark.remove(&node);
        let life = self.life(node) + 1;
        self.lives.insert(node, life);
        self.trace.line(self.now, format_args!("{node} starts, life {life}"));
        let mut out = Outbox::default();
        match node {
            NodeId::Coordinator(id) => {
                if let Some(coordinator) = self.coordinators.get_mut(&id)
                    && let Err(error) = coordinator.start()
                {
                    return Err(Violation(format!("c{id} cannot start: {error}")));
                }
            }
            NodeId::Broker(id) => {
                if let Some(broker) = self.brokers.get_mut(&id) {
                    broker.start(self.now, &mut out);
                }
            }
            NodeId::Client(_) => {}
        }
        let phase = self.random.between(0, 20_000);
        self.schedule(self.now.plus_us(phase), Event::Tick { node, life });
        self.finish_turn(node, out, Vec::new())?;
        if let NodeId::Broker(id) = node
            && self.is_running(node)
        {
            self.lost_power.remove(&BrokerId(id));
        }
        Ok(())
    }

    /// `kill -9`. The other ends of its connections notice.
    pub fn kill(&mut self, node: NodeId) {
        if !self.is_running(node) {
            return;
        }
        self.trace.line(self.now, format_args!("{node} is killed"));
        self.end(node);
        let others: Vec<_> = self.all_servers().chain(self.clients()).filter(|other| *other != node).collect();
        for other in others {
            if self.network.is_connected(node, other) && self.is_running(other) {
                let at = self.now.plus_us(self.network.notice_delay_us());
                let to_life = self.life(other);
                self.schedule(at, Event::Deliver { from: node, to: other, to_life, message: Message::ConnectionLost });
            }
        }
    }

    fn end(&mut self, node: NodeId) {
        self.paused.remove(&node);
        match node {
            NodeId::Coordinator(id) => {
                if let Some(coordinator) = self.coordinators.get_mut(&id) {
                    coordinator.kill();
                }
            }
            NodeId::Broker(id) => {
                if let Some(broker) = self.brokers.get_mut(&id) {
                    broker.kill();
                }
            }
            NodeId::Client(_) => {}
        }
        let life = self.life(node) + 1;
        self.lives.insert(node, life);
    }

    fn clients(&self) -> impl Iterator<Item = NodeId> + use<> {
        let ids: Vec<_> = self.producers.keys().chain(self.consumers.keys()).copied().collect();
        ids.into_iter().map(NodeId::Client)
    }

    /// The host of a process loses its power, and with it what was not synced. Nobody is told.
    pub fn lose_power(&mut self, node: NodeId) {
        if !self.is_running(node) {
            return;
        }
        self.trace.line(self.now, format_args!("{node} loses its power"));
        match node {
            NodeId::Broker(id) => {
                self.note_power_loss(id);
                if let Some(broker) = self.brokers.get_mut(&id) {
                    broker.lose_power();
                }
            }
            NodeId::Coordinator(id) => {
                if let Some(coordinator) = self.coordinators.get_mut(&id) {
                    coordinator.lose_power();
                }
            }
            NodeId::Client(_) => {}
        }
        self.dark.insert(node);
        self.end(node);
    }

    fn note_power_loss(&mut self, id: i32) {
        let Some(broker) = self.brokers.get(&id) else { return };
        let epoch = broker
            .active_epoch()
            .or_else(|| self.newest_image().and_then(|image| image.broker_epoch(BrokerId(id))))
            .unwrap_or(BrokerEpoch(i64::try_from(self.newest_revision().0).unwrap_or(0)));
        let hosted: Vec<_> = self.hosted(id).map(|partition| (partition, self.effective_min_isr())).collect();
        self.invariants.lost_power(BrokerId(id), epoch, &hosted);
        self.lost_power.insert(BrokerId(id));
    }

    /// Whether the promise about acknowledged records would survive it.
    pub fn may_lose_power(&self, id: i32) -> bool {
        let min_isr = self.effective_min_isr();
        self.hosted(id).all(|partition| self.invariants.may_lose(BrokerId(id), partition, min_isr))
    }

    fn hosted(&self, id: i32) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.newest_image().into_iter().flat_map(move |image| image.hosted_by(BrokerId(id)))
    }

    pub fn effective_min_isr(&self) -> usize {
        self.config.min_isr.min(usize::try_from(self.config.replication_factor).unwrap_or(1))
    }

    pub fn lose_disk(&mut self, id: u64) {
        let node = NodeId::Coordinator(id);
        self.kill(node);
        self.trace.line(self.now, format_args!("{node} loses its disk"));
        if let Some(coordinator) = self.coordinators.get_mut(&id) {
            coordinator.lose_disk();
        }
    }

    pub fn start_after(&mut self, node: NodeId, ms: u64) {
        self.schedule(self.now.plus_ms(ms), Event::Start(node));
    }

    /// SIGSTOP, and SIGCONT after `ms`.
    pub fn pause(&mut self, node: NodeId, ms: u64) {
        if self.is_running(node) && !self.is_paused(node) {
            self.trace.line(self.now, format_args!("{node} is stopped for {ms} ms"));
            self.paused.insert(node, Vec::new());
            self.schedule(self.now.plus_ms(ms), Event::Resume(node));
        }
    }

    fn resume(&mut self, node: NodeId) {
        if let Some(backlog) = self.paused.remove(&node) {
            self.trace.line(self.now, format_args!("{node} goes on"));
            // Ticks last: what has arrived is read before any time-out is judged.
            let (ticks, rest): (Vec<_>, Vec<_>) =
                backlog.into_iter().partition(|event| matches!(event, Event::Tick { .. }));
            for event in rest.into_iter().chain(ticks) {
                self.schedule(self.now, event);
            }
        }
    }

    /// Of the operations on a broker's disk, so many in a million fail.
    pub fn break_disk(&mut self, id: i32, ppm: u32, ms: u64) {
        self.trace.line(self.now, format_args!("the disk of b{id} fails {ppm} times in a million for {ms} ms"));
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.set_disk_faults(ppm);
        }
        self.schedule(self.now.plus_ms(ms), Event::RepairDisk(id));
    }

    fn repair_disk(&mut self, id: i32) {
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.set_disk_faults(0);
        }
    }

    pub fn freeze_clock(&mut self, node: NodeId, ms: u64) {
        self.trace.line(self.now, format_args!("the clock of {node} stands still for {ms} ms"));
        let now = self.now;
        if let Some(clock) = self.clock_mut(node) {
            clock.freeze(now);
        }
        self.schedule(self.now.plus_ms(ms), Event::Thaw(node));
    }

    fn thaw(&mut self, node: NodeId) {
        let now = self.now;
        if let Some(clock) = self.clock_mut(node) {
            clock.thaw(now);
        }
    }

    pub fn set_wall_clock(&mut self, node: NodeId, offset_ms: i64) {
        self.trace.line(self.now, format_args!("the wall clock of {node} is off by {offset_ms} ms"));
        if let Some(clock) = self.clock_mut(node) {
            clock.set_wall_offset_ms(offset_ms);
        }
    }

    fn clock_mut(&mut self, node: NodeId) -> Option<&mut crate::clock::HostClock> {
        match node {
            NodeId::Coordinator(id) => self.coordinators.get_mut(&id).map(|node| &mut node.clock),
            NodeId::Broker(id) => self.brokers.get_mut(&id).map(|node| &mut node.clock),
            NodeId::Client(_) => None,
        }
    }

    /// Cuts `from` → `to`, and with `both` the way back, for `ms`.
    pub fn cut(&mut self, from: NodeId, to: NodeId, both: bool, ms: u64) {
        self.trace
            .line(self.now, format_args!("cut {from} -> {to}{} for {ms} ms", if both { " and back" } else { "" }));
        self.network.cut(from, to);
        if both {
            self.network.cut(to, from);
        }
        self.schedule(self.now.plus_ms(ms), Event::Mend(from, to));
    }

    pub fn shut_down(&mut self, id: i32) {
        self.trace.line(self.now, format_args!("b{id} is asked to shut down"));
        let now = self.now;
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.begin_shutdown(now);
        }
    }

    /// Every log of a broker reaches the disk.
    pub fn sync(&mut self, id: i32) -> Result<(), Violation> {
        let mut out = Outbox::default();
        let now = self.now;
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.sync(now, &mut out);
        }
        self.finish_turn(NodeId::Broker(id), out, Vec::new())
    }

    pub fn delete_records(&mut self, partition: TopicIdPartition, percent: u64) -> Result<(), Violation> {
        let Some(leader) = self.leader_of(partition) else { return Ok(()) };
        let mut out = Outbox::default();
        let Some(broker) = self.brokers.get_mut(&leader) else { return Ok(()) };
        broker.delete_records(partition, percent, &mut out);
        if let Some(replica) = broker.replica(partition) {
            let start = replica.log.log_start_offset();
            self.invariants.records_deleted(partition, start);
        }
        self.finish_turn(NodeId::Broker(leader), out, Vec::new())
    }

    /// Faults end: links, clocks and weather are good, what is down comes up, what stands still goes on.
    pub fn heal(&mut self) {
        self.trace.line(self.now, format_args!("everything is healed"));
        self.network.heal();
        self.network.set_weather(crate::network::Weather::CALM);
        let nodes: Vec<_> = self.all_servers().collect();
        for node in nodes {
            self.thaw(node);
            self.resume(node);
            if let NodeId::Broker(id) = node {
                self.repair_disk(id);
            }
            if !self.is_running(node) {
                self.schedule(self.now.plus_ms(10), Event::Start(node));
            }
        }
    }

    // ---- topics and clients

    pub fn create_topic(&mut self, topic: &str) {
        self.admin.push(AdminTask::Create { topic: topic.to_owned() });
        self.topics.insert(topic.to_owned());
    }

    pub fn delete_topic(&mut self, topic: &str) {
        self.admin.push(AdminTask::Delete { topic: topic.to_owned() });
    }

    pub fn is_admin_done(&self) -> bool {
        self.admin.is_empty()
    }

    fn tick_admin(&mut self, out: &mut Outbox) {
        if self.admin.is_empty() || self.now < self.admin_sent.plus_ms(ADMIN_RETRY_MS) && self.admin_sent.0 > 0 {
            return;
        }
        self.admin_sent = self.now;
        let Some(task) = self.admin.first() else { return };
        let request = match task {
            AdminTask::Create { topic } => Request::CreateTopics(CreateTopics {
                topics: vec![NewTopic {
                    name: topic.clone(),
                    partitions: self.config.partitions,
                    replication_factor: self.config.replication_factor,
                    assignments: Vec::new(),
                    configs: vec![("min.insync.replicas".to_owned(), Some(self.config.min_isr.to_string()))],
                }],
                validate_only: false,
                default_partitions: 1,
                default_replication_factor: 1,
            }),
            AdminTask::Delete { topic } => {
                Request::DeleteTopics(DeleteTopics { topics: vec![TopicRef::Name(topic.clone())] })
            }
        };
        self.next_call += 1;
        let call = CallId(self.next_call);
        out.send(NodeId::Coordinator(self.admin_target), Message::Cluster { call, request: Arc::new(request) });
        // The answer, if it comes, knows better.
        self.admin_target = self.admin_target % self.config.coordinators + 1;
    }

    fn admin_answered(&mut self, message: Message) {
        let Message::ClusterAnswer { call, answer, leader } = message else { return };
        if call.0 != self.next_call || self.admin.is_empty() {
            return;
        }
        if let Some(leader) = leader {
            self.admin_target = leader.0;
        }
        let Some(answer) = answer else { return };
        let (Answer::CreateTopics(outcomes) | Answer::DeleteTopics(outcomes)) = *answer else { return };
        let Some(outcome) = outcomes.topics.first() else { return };
        use ottla_model::ErrorCode::{TopicAlreadyExists, UnknownTopicOrPartition};
        let is_done = match &outcome.refusal {
            None => true,
            // The answer to an earlier attempt was lost.
            Some(refusal) => matches!(refusal.error, TopicAlreadyExists | UnknownTopicOrPartition),
        };
        if let Some(refusal) = &outcome.refusal {
            self.trace.line(self.now, format_args!("admin: {refusal}"));
        }
        if is_done {
            self.admin.remove(0);
            self.admin_sent = SimTime(0);
        }
    }

    /// Clients write to and read from what the newest image shows.
    fn tell_clients(&mut self) {
        let revision = self.newest_revision();
        if revision == self.clients_know {
            return;
        }
        self.clients_know = revision;
        let partitions = self.partitions();
        for producer in self.producers.values_mut() {
            producer.set_partitions(&partitions);
        }
        for consumer in self.consumers.values_mut() {
            consumer.set_partitions(&partitions);
        }
    }

    // ---- looks

    /// None before the first entry is applied.
    pub fn newest_image(&self) -> Option<&Image> {
        (self.image.revision() > Revision(0)).then_some(&self.image)
    }

    pub fn newest_revision(&self) -> Revision {
        self.newest_image().map_or(Revision(0), Image::revision)
    }

    /// All partitions of the topics, as the newest image has them.
    pub fn partitions(&self) -> Vec<TopicIdPartition> {
        let Some(image) = self.newest_image() else { return Vec::new() };
        image
            .topics()
            .flat_map(|topic| {
                topic.partitions().map(|(partition, _)| TopicIdPartition { topic_id: topic.id, partition })
            })
            .collect()
    }

    /// The broker that leads by the newest image.
    pub fn leader_of(&self, partition: TopicIdPartition) -> Option<i32> {
        let state = self.newest_image()?.partition(partition)?;
        state.has_leader().then_some(state.leader.0)
    }

    /// What is left of a topic that was deleted and created again is the business of nobody.
    pub fn forget_deleted_topics(&mut self, former: &[TopicIdPartition]) {
        let current = self.partitions();
        for partition in former.iter().filter(|partition| !current.contains(partition)) {
            self.invariants.topic_deleted(*partition);
        }
    }

    /// None if the cluster is as it should be: every ISR full, every log equal, every HW at the log's end, every coordinator
    /// (but one that lost its disk) at the same revision.
    pub fn what_is_missing(&self) -> Option<String> {
        let revision = self.newest_revision();
        for (id, coordinator) in &self.coordinators {
            if coordinator.lost_its_disk() {
                continue;
            }
            match coordinator.tree() {
                Some(tree) if tree.revision() == revision => {}
                Some(tree) => return Some(format!("c{id} is at {} of {revision}", tree.revision())),
                None => return Some(format!("c{id} does not run")),
            }
        }
        if !self.coordinators.values().any(CoordinatorNode::is_leading) {
            return Some("no coordinator leads".to_owned());
        }
        let image = self.newest_image()?;
        for (id, broker) in &self.brokers {
            let Some(own) = broker.image() else { return Some(format!("b{id} does not run")) };
            if own.revision() != revision {
                return Some(format!("b{id} is at {} of {revision}", own.revision()));
            }
            if broker.active_epoch().is_none() {
                return Some(format!("b{id} is not registered"));
            }
        }
        if !self.admin.is_empty() {
            return Some("the admin waits".to_owned());
        }
        for topic in image.topics() {
            for (number, state) in topic.partitions() {
                let partition = TopicIdPartition { topic_id: topic.id, partition: number };
                let name = format!("{}-{number}", topic.name);
                if !state.has_leader() {
                    return Some(format!("{name} has no leader: {state:?}"));
                }
                if state.isr.len() != state.replicas.len() {
                    return Some(format!("{name} has ISR {:?} of {:?}", state.isr, state.replicas));
                }
                if let Some(what) = self.replica_differs(partition, &state.replicas, state.leader) {
                    return Some(format!("{name}: {what}"));
                }
            }
        }
        None
    }

    fn replica_differs(&self, partition: TopicIdPartition, replicas: &[BrokerId], leader: BrokerId) -> Option<String> {
        let of = |broker: BrokerId| self.brokers.get(&broker.0).and_then(|node| node.replica(partition));
        let Some(leading) = of(leader) else { return Some(format!("b{leader} has no replica")) };
        if leading.leader().is_none() {
            return Some(format!("b{leader} does not lead"));
        }
        let end = leading.log.log_end_offset();
        for &broker in replicas {
            let Some(replica) = of(broker) else { return Some(format!("b{broker} has no replica")) };
            if replica.log.log_end_offset() != end {
                return Some(format!("b{broker} ends at {} of {end}", replica.log.log_end_offset()));
            }
            if replica.high_watermark() != end {
                return Some(format!("b{broker} has HW {} of {end}", replica.high_watermark()));
            }
            let from: Offset = replica.content.start().max(leading.content.start());
            if !replica.content.iter_from(from).eq(leading.content.iter_from(from)) {
                return Some(format!("b{broker} holds other records than b{leader}"));
            }
        }
        None
    }
}

fn to_script(client: u32) -> bool {
    SCRIPT == NodeId::Client(client)
}

fn dialled(to: u64, life: u32, probe: &Probe, result: ProbeResult) -> Event {
    Event::Dialled { to, life, broker: probe.broker, incarnation: probe.incarnation, result }
}
