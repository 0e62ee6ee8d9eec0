//! Brokers, logs, members and the queue of what happens when.

mod shards;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_group_coordinator::{Answer, GroupConfig, Now, Request, partition_for};
use ottla_model::{ErrorCode, GroupId, MonotonicMs, TimestampMs, TopicName};

use super::admin::Admin;
use super::broker::Broker;
use super::classic_member::ClassicMember;
use super::client::{Turn, error_of, is_about_the_coordinator};
use super::consumer_member::ConsumerMember;
use super::invariants::Invariants;
use super::log::Partition;
use super::topics::{SimTopics, Tp};
use crate::clock::{SimTime, WALL_START_MS};
use crate::invariants::Violation;
use crate::random::Random;
use crate::trace::Trace;

const TICK_MS: u64 = 5;

#[derive(Debug)]
pub enum Kind {
    Classic(ClassicMember),
    Consumer(ConsumerMember),
    Admin(Admin),
    /// What a scenario asks, and what it was answered.
    Script {
        group: GroupId,
        answers: BTreeMap<u64, Answer>,
    },
}

/// One client process.
#[derive(Debug)]
pub struct Client {
    pub kind: Kind,
    pub is_running: bool,
    random: Random,
    coordinator: Option<i32>,
}

impl Client {
    pub fn group(&self) -> &GroupId {
        match &self.kind {
            Kind::Classic(member) => &member.group,
            Kind::Consumer(member) => &member.group,
            Kind::Admin(admin) => &admin.group,
            Kind::Script { group, .. } => group,
        }
    }

    pub fn owned(&self) -> Option<&BTreeSet<Tp>> {
        match &self.kind {
            Kind::Classic(member) => Some(&member.owned),
            Kind::Consumer(member) => Some(&member.owned),
            Kind::Admin(_) | Kind::Script { .. } => None,
        }
    }

    /// A member that is there, and wants to be.
    pub fn is_member(&self) -> bool {
        self.is_running
            && match &self.kind {
                Kind::Classic(member) => member.state != super::classic_member::State::Gone,
                Kind::Consumer(member) => !member.is_gone,
                Kind::Admin(_) | Kind::Script { .. } => false,
            }
    }
}

#[derive(Debug)]
pub(super) enum Event {
    TickBroker(i32),
    TickClient(u32),
    /// A broker hears who leads a partition.
    Learn {
        broker: i32,
        partition: i32,
    },
    CatchUp {
        partition: i32,
        follower: i32,
    },
    Arrive {
        broker: i32,
        life: u32,
        client: u32,
        call: u64,
        request: Box<Request>,
    },
    Answered {
        client: u32,
        call: u64,
        answer: Box<Answer>,
    },
    Lost {
        client: u32,
        call: u64,
    },
    StartBroker(i32),
    ResumeBroker(i32),
    ResumeClient(u32),
    CatchUpAgain {
        partition: i32,
        follower: i32,
    },
}

/// What the network and the replicas do; faults change it.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub latency_us: (u64, u64),
    pub lost_ppm: u32,
    /// From an append to the followers' having it.
    pub replication_us: (u64, u64),
    /// From an election to a broker's hearing of it.
    pub image_lag_us: (u64, u64),
}

impl Weather {
    pub const CALM: Self =
        Self { latency_us: (50, 500), lost_ppm: 0, replication_us: (200, 2_000), image_lag_us: (500, 20_000) };
}

pub struct World {
    pub now: SimTime,
    pub config: Arc<GroupConfig>,
    pub weather: Weather,
    pub topics: SimTopics,
    pub partitions: Vec<Partition>,
    pub brokers: BTreeMap<i32, Broker>,
    pub clients: BTreeMap<u32, Client>,
    pub invariants: Invariants,
    pub trace: Trace,
    pub random: Random,
    pub events: u64,
    /// Appends that are refused for no reason, this often in a million.
    pub refused_ppm: u32,
    queue: BTreeMap<(SimTime, u64), Event>,
    next_event: u64,
    paused_brokers: BTreeMap<i32, Vec<Event>>,
    paused_clients: BTreeMap<u32, Vec<Event>>,
    next_call: u64,
    next_commit: u64,
    next_client: u32,
    /// Calls that are on their way, or wait at a broker.
    calls: BTreeMap<u64, (u32, i32)>,
    fell_out: BTreeSet<(i32, i32)>,
}

impl World {
    pub fn new(seed: u64, brokers: i32, partitions: i32, config: GroupConfig, prints: bool) -> Self {
        let ids: Vec<i32> = (1..=brokers).collect();
        let mut world = Self {
            now: SimTime(0),
            config: Arc::new(config),
            weather: Weather::CALM,
            topics: SimTopics::default(),
            partitions: (0..partitions).map(|index| Partition::new(index, &ids)).collect(),
            brokers: ids.iter().map(|id| (*id, Broker { life: 1, is_running: true, ..Broker::default() })).collect(),
            clients: BTreeMap::new(),
            invariants: Invariants::default(),
            trace: Trace::new(prints),
            random: Random::new(seed),
            events: 0,
            refused_ppm: 0,
            queue: BTreeMap::new(),
            next_event: 0,
            paused_brokers: BTreeMap::new(),
            paused_clients: BTreeMap::new(),
            next_call: 0,
            next_commit: 0,
            next_client: 0,
            calls: BTreeMap::new(),
            fell_out: BTreeSet::new(),
        };
        for id in ids {
            world.schedule_us(0, Event::TickBroker(id));
        }
        for partition in 0..partitions {
            world.elect(partition, None);
        }
        world
    }

    pub fn create_topic(&mut self, name: &str, partitions: i32) {
        self.topics.create(name, partitions);
        self.invariants.name_topic(name, self.topics.id(name));
    }

    pub fn add_partition(&mut self, name: &str) -> Result<(), Violation> {
        self.topics.add_partition(name);
        self.note(format_args!("{name} has one more partition"));
        self.topics_changed(&[])
    }

    pub fn delete_topic(&mut self, name: &str) -> Result<(), Violation> {
        let Ok(deleted) = TopicName::new(name) else { return Ok(()) };
        self.topics.delete(name);
        self.note(format_args!("{name} is deleted"));
        self.topics_changed(&[deleted])
    }

    pub fn add_client(&mut self, kind: Kind) -> u32 {
        self.next_client += 1;
        let id = self.next_client;
        let random = self.random.fork();
        self.clients.insert(id, Client { kind, is_running: true, random, coordinator: None });
        let delay = self.random.between(0, 30_000);
        self.schedule_us(delay, Event::TickClient(id));
        id
    }

    pub fn partition_of(&self, group: &GroupId) -> i32 {
        partition_for(group.as_str(), i32::try_from(self.partitions.len()).unwrap_or(1))
    }

    pub fn leader_of(&self, partition: i32) -> Option<i32> {
        self.partition(partition).and_then(|partition| partition.leader)
    }

    pub(super) fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    pub(super) fn partition_mut(&mut self, index: i32) -> Option<&mut Partition> {
        self.partitions.get_mut(usize::try_from(index).ok()?)
    }

    pub fn clocks(&self) -> Now {
        let ms = self.now.as_ms();
        Now { monotonic: MonotonicMs(ms), wall: TimestampMs(WALL_START_MS + i64::try_from(ms).unwrap_or(0)) }
    }

    pub(super) fn schedule_us(&mut self, after_us: u64, event: Event) {
        self.next_event += 1;
        self.queue.insert((self.now.plus_us(after_us), self.next_event), event);
    }

    pub(super) fn draw_us(&mut self, (low, high): (u64, u64)) -> u64 {
        self.random.between(low, high)
    }

    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.line(self.now, what);
    }

    // ---- time

    pub fn run_for_ms(&mut self, ms: u64) -> Result<(), Violation> {
        let end = self.now.plus_ms(ms);
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.events += 1;
            self.happen(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match &event {
            Event::TickBroker(id) | Event::Learn { broker: id, .. } | Event::Arrive { broker: id, .. } => {
                if let Some(backlog) = self.paused_brokers.get_mut(id) {
                    backlog.push(event);
                    return Ok(());
                }
            }
            Event::TickClient(id) | Event::Answered { client: id, .. } | Event::Lost { client: id, .. } => {
                if let Some(backlog) = self.paused_clients.get_mut(id) {
                    backlog.push(event);
                    return Ok(());
                }
            }
            _ => {}
        }
        match event {
            Event::TickBroker(id) => {
                self.schedule_us(TICK_MS * 1_000, Event::TickBroker(id));
                self.tick_broker(id)
            }
            Event::TickClient(id) => {
                self.schedule_us(TICK_MS * 1_000, Event::TickClient(id));
                self.with_client(id, |kind, turn| match kind {
                    Kind::Classic(member) => member.tick(turn),
                    Kind::Consumer(member) => member.tick(turn),
                    Kind::Admin(admin) => admin.tick(turn),
                    Kind::Script { .. } => {}
                })
            }
            Event::Learn { broker, partition } => self.learn(broker, partition),
            Event::CatchUp { partition, follower } => self.catch_up(partition, follower),
            Event::CatchUpAgain { partition, follower } => {
                self.fell_out.remove(&(partition, follower));
                self.catch_up(partition, follower)
            }
            Event::Arrive { broker, life, client, call, request } => self.arrive(broker, life, client, call, *request),
            Event::Answered { client, call, answer } => {
                self.calls.remove(&call);
                self.with_client(client, |kind, turn| match kind {
                    Kind::Classic(member) => member.answered(turn, call, *answer),
                    Kind::Consumer(member) => member.answered(turn, call, *answer),
                    Kind::Admin(_) => turn.forgets_coordinator |= is_about_the_coordinator(error_of(&answer)),
                    Kind::Script { answers, .. } => {
                        turn.forgets_coordinator |= is_about_the_coordinator(error_of(&answer));
                        answers.insert(call, *answer);
                    }
                })
            }
            Event::Lost { client, call } => {
                self.calls.remove(&call);
                self.with_client(client, |kind, turn| match kind {
                    Kind::Classic(member) => member.lost(turn, call),
                    Kind::Consumer(member) => member.lost(turn, call),
                    Kind::Admin(_) | Kind::Script { .. } => turn.forgets_coordinator = true,
                })
            }
            Event::StartBroker(id) => self.start_broker(id),
            Event::ResumeBroker(id) => {
                self.note(format_args!("b{id} goes on"));
                self.backlog(self.paused_brokers.get(&id).is_some(), |world| world.paused_brokers.remove(&id))
            }
            Event::ResumeClient(id) => {
                self.note(format_args!("client {id} goes on"));
                self.backlog(self.paused_clients.get(&id).is_some(), |world| world.paused_clients.remove(&id))
            }
        }
    }

    /// What waited while a process stood still happens now, in order.
    fn backlog(&mut self, some: bool, take: impl FnOnce(&mut Self) -> Option<Vec<Event>>) -> Result<(), Violation> {
        if some {
            for event in take(self).unwrap_or_default() {
                self.happen(event)?;
            }
        }
        Ok(())
    }

    // ---- clients

    /// Lets a client take a turn, carries out what it wants, and asks the invariants about what it believes.
    pub(super) fn with_client(&mut self, id: u32, act: impl FnOnce(&mut Kind, &mut Turn<'_>)) -> Result<(), Violation> {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.is_running) else { return Ok(()) };
        let mut turn = Turn {
            now: self.now,
            topics: &self.topics,
            random: &mut client.random,
            next_call: &mut self.next_call,
            next_commit: &mut self.next_commit,
            forgets_coordinator: false,
            sends: Vec::new(),
            commits: Vec::new(),
            notes: Vec::new(),
        };
        act(&mut client.kind, &mut turn);
        let Turn { forgets_coordinator, sends, commits, notes, .. } = turn;
        if forgets_coordinator {
            client.coordinator = None;
        }
        let group = client.group().clone();
        let belief = match &client.kind {
            Kind::Classic(member) => Some((member.member.clone(), member.generation, member.owned.clone())),
            Kind::Consumer(member) => Some((member.member.clone(), member.epoch, member.owned.clone())),
            Kind::Admin(_) | Kind::Script { .. } => None,
        };
        for note in notes {
            self.trace.line(self.now, format_args!("client {id}: {note}"));
        }
        for issued in commits {
            self.invariants.issue(issued);
        }
        if let Some((member, generation, owned)) = belief {
            self.invariants.believes(id, &group, &member, generation, &owned)?;
        }
        for (call, request) in sends {
            self.send(id, &group, call, request);
        }
        Ok(())
    }

    fn send(&mut self, client: u32, group: &GroupId, call: u64, request: Request) {
        let leader = self.leader_of(self.partition_of(group));
        let Some(found) = self.clients.get_mut(&client) else { return };
        let Some(broker) = found.coordinator.or(leader) else {
            let answer = Box::new(Answer::Failed(ErrorCode::CoordinatorNotAvailable));
            self.schedule_us(500, Event::Answered { client, call, answer });
            return;
        };
        found.coordinator = Some(broker);
        self.calls.insert(call, (client, broker));
        if self.random.happens(self.weather.lost_ppm) {
            return;
        }
        let life = self.brokers.get(&broker).map_or(0, |broker| broker.life);
        let delay = self.draw_us(self.weather.latency_us);
        self.schedule_us(delay, Event::Arrive { broker, life, client, call, request: Box::new(request) });
    }

    /// The answer leaves the broker.
    pub(super) fn reply(&mut self, client: u32, call: u64, answer: Answer) {
        self.trace.message(self.now, format_args!("to client {client}, call {call}: {answer:?}"));
        if self.random.happens(self.weather.lost_ppm) {
            return;
        }
        let delay = self.draw_us(self.weather.latency_us);
        self.schedule_us(delay, Event::Answered { client, call, answer: Box::new(answer) });
    }

    /// `kill -9`, or the end of the machine.
    pub fn crash_client(&mut self, id: u32) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.is_running = false;
        let group = client.group().clone();
        self.paused_clients.remove(&id);
        self.invariants.forgets(id, &group);
        self.note(format_args!("client {id} of {group} crashes"));
    }

    pub fn pause_client(&mut self, id: u32, ms: u64) {
        self.note(format_args!("client {id} stands still for {ms} ms"));
        self.paused_clients.entry(id).or_default();
        self.schedule_us(ms * 1_000, Event::ResumeClient(id));
    }

    pub fn leave(&mut self, id: u32) -> Result<(), Violation> {
        self.note(format_args!("client {id} leaves"));
        self.with_client(id, |kind, turn| match kind {
            Kind::Classic(member) => member.leave(turn),
            Kind::Consumer(member) => member.leave(turn),
            Kind::Admin(_) | Kind::Script { .. } => {}
        })
    }

    pub fn is_client_paused(&self, id: u32) -> bool {
        self.paused_clients.contains_key(&id)
    }

    // ---- brokers

    pub fn kill_broker(&mut self, id: i32) {
        self.note(format_args!("b{id} is killed"));
        let Some(broker) = self.brokers.get_mut(&id) else { return };
        broker.is_running = false;
        broker.life += 1;
        broker.shards.clear();
        self.paused_brokers.remove(&id);
        // Its connections break: whoever waits there learns of it.
        let waiting: Vec<(u64, u32)> =
            self.calls.iter().filter(|(_, (_, at))| *at == id).map(|(call, (client, _))| (*call, *client)).collect();
        for (call, client) in waiting {
            let delay = self.draw_us(self.weather.latency_us);
            self.schedule_us(delay, Event::Lost { client, call });
        }
        for partition in 0..self.partitions.len() {
            let index = i32::try_from(partition).unwrap_or(0);
            if let Some(partition) = self.partition_mut(index) {
                partition.shrink(id);
            }
            if self.leader_of(index) == Some(id) {
                self.elect(index, Some(id));
            }
        }
    }

    pub fn start_broker_after_ms(&mut self, id: i32, ms: u64) {
        self.schedule_us(ms * 1_000, Event::StartBroker(id));
    }

    fn start_broker(&mut self, id: i32) -> Result<(), Violation> {
        if self.brokers.get(&id).is_none_or(|broker| broker.is_running) {
            return Ok(());
        }
        self.note(format_args!("b{id} starts"));
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.is_running = true;
        }
        self.schedule_us(0, Event::TickBroker(id));
        for partition in 0..self.partitions.len() {
            let index = i32::try_from(partition).unwrap_or(0);
            if self.leader_of(index).is_none() {
                self.elect(index, None);
            }
            let delay = self.draw_us(self.weather.replication_us);
            self.schedule_us(delay, Event::CatchUp { partition: index, follower: id });
        }
        Ok(())
    }

    /// SIGSTOP. Whether another leads meanwhile is the caller's business.
    pub fn pause_broker(&mut self, id: i32, ms: u64) {
        self.note(format_args!("b{id} stands still for {ms} ms"));
        self.paused_brokers.entry(id).or_default();
        self.schedule_us(ms * 1_000, Event::ResumeBroker(id));
    }

    pub fn is_broker_paused(&self, id: i32) -> bool {
        self.paused_brokers.contains_key(&id)
    }

    /// Another leader than `but`, if there is one; everybody hears of it in a while.
    pub fn elect(&mut self, partition: i32, but: Option<i32>) {
        let candidates: Vec<i32> = self
            .brokers
            .iter()
            .filter(|(id, broker)| broker.is_running && Some(**id) != but && !self.paused_brokers.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        let first = usize::try_from(self.random.below(candidates.len() as u64)).unwrap_or(0);
        let order: Vec<i32> = candidates.iter().cycle().skip(first).take(candidates.len()).copied().collect();
        let Some(found) = self.partition_mut(partition) else { return };
        let leader = found.elect(&order);
        let epoch = found.epoch;
        self.note(format_args!("partition {partition}: leader {leader:?} in epoch {epoch}"));
        let ids: Vec<i32> = self.brokers.keys().copied().collect();
        for broker in ids {
            let delay = self.draw_us(self.weather.image_lag_us);
            self.schedule_us(delay, Event::Learn { broker, partition });
        }
        self.replicate(partition);
    }

    /// The followers will have what the leader has.
    pub(super) fn replicate(&mut self, partition: i32) {
        let leader = self.leader_of(partition);
        let followers: Vec<i32> = self.brokers.keys().copied().filter(|id| Some(*id) != leader).collect();
        for follower in followers {
            let delay = self.draw_us(self.weather.replication_us);
            self.schedule_us(delay, Event::CatchUp { partition, follower });
        }
    }

    /// The follower falls out of the ISR, and comes back after a while.
    pub fn shrink_isr(&mut self, partition: i32, member: i32, ms: u64) {
        self.note(format_args!("partition {partition}: b{member} falls out of the ISR for {ms} ms"));
        if let Some(found) = self.partition_mut(partition) {
            found.shrink(member);
        }
        self.fell_out.insert((partition, member));
        self.schedule_us(ms * 1_000, Event::CatchUpAgain { partition, follower: member });
    }

    pub(super) fn is_out(&self, partition: i32, member: i32) -> bool {
        self.fell_out.contains(&(partition, member))
    }

    pub(super) fn is_up(&self, id: i32) -> bool {
        self.brokers.get(&id).is_some_and(|broker| broker.is_running) && !self.paused_brokers.contains_key(&id)
    }
}
