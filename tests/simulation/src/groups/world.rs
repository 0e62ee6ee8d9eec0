//! Brokers, logs, members and the queue of what happens when.

mod clients;
mod coordinators;
mod hosts;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_coordinator_partition::BrokenRules;
use ottla_group_coordinator::{GroupAnswer, GroupConfig, Request, partition_for};
use ottla_model::{GroupId, MonotonicMs};

use super::admin::Admin;
use super::broker::Broker;
use super::classic_member::ClassicMember;
use super::client::{error_of, is_about_the_coordinator};
use super::consumer_member::ConsumerMember;
use super::invariants::Invariants;
use super::topics::{IdTp, SimTopics, TopicIds, Tp, by_id, matched};
use crate::clock::SimTime;
use crate::coordinator_log::{LogEvent, LogWorld, Logs, Weather};
use crate::event_queue::EventQueue;
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
        answers: BTreeMap<u64, GroupAnswer>,
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

    /// By the ids under which the client knows its topics.
    pub fn owned_by_id(&self) -> BTreeSet<IdTp> {
        match &self.kind {
            Kind::Classic(member) => by_id(&member.owned, &member.topic_ids),
            Kind::Consumer(member) => by_id(&member.owned, &member.topic_ids),
            Kind::Admin(_) | Kind::Script { .. } => BTreeSet::new(),
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
    Log(LogEvent),
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
        answer: Box<GroupAnswer>,
        /// The topics that the broker means by their names.
        topic_ids: TopicIds,
    },
    Lost {
        client: u32,
        call: u64,
    },
    /// A broker's image has the topics as they are now.
    LearnTopics(i32),
    CreateTopic {
        name: String,
        partitions: i32,
    },
    /// A broker reads the next piece of a log.
    Load {
        broker: i32,
        life: u32,
        partition: i32,
        epoch: i32,
    },
    /// A broker's timer.
    TickPartitions {
        broker: i32,
        life: u32,
        at: MonotonicMs,
    },
    /// Whoever held a partition has released it, and looks what came meanwhile.
    TakeTurn {
        broker: i32,
        life: u32,
        partition: i32,
    },
    /// The disk for which a step waits is known not to answer.
    NoticeStall {
        broker: i32,
        life: u32,
        partition: i32,
    },
    /// The disk answers.
    Release {
        broker: i32,
        life: u32,
        partition: i32,
    },
    StartBroker(i32),
    ResumeBroker(i32),
    ResumeClient(u32),
}

pub struct World {
    pub now: SimTime,
    pub config: Arc<GroupConfig>,
    pub weather: Weather,
    pub topics: SimTopics,
    pub logs: Logs,
    pub brokers: BTreeMap<i32, Broker>,
    pub clients: BTreeMap<u32, Client>,
    pub invariants: Invariants,
    pub trace: Trace,
    pub random: Random,
    pub events: u64,
    /// Appends that are refused for no reason, this often in a million.
    pub refused_ppm: u32,
    /// Reads of a log that fail, this often in a million.
    pub unreadable_ppm: u32,
    rules: BrokenRules,
    queue: EventQueue<Event>,
    paused_brokers: BTreeMap<i32, Vec<Event>>,
    paused_clients: BTreeMap<u32, Vec<Event>>,
    next_call: u64,
    next_commit: u64,
    next_client: u32,
    /// Requests that have come to brokers.
    arrivals: u64,
    /// Calls that are on their way, or wait at a broker.
    calls: BTreeMap<u64, (u32, i32)>,
}

impl World {
    /// `rules`: those that are switched off, to see that an invariant notices.
    pub fn new(
        seed: u64,
        brokers: i32,
        partitions: i32,
        config: GroupConfig,
        rules: BrokenRules,
        prints: bool,
    ) -> Self {
        let broker = || {
            let mut broker = Broker::new(rules);
            broker.is_running = true;
            broker
        };
        let ids: Vec<i32> = (1..=brokers).collect();
        let mut world = Self {
            now: SimTime(0),
            config: Arc::new(config),
            weather: Weather::CALM,
            topics: SimTopics::default(),
            logs: Logs::new(partitions, &ids),
            brokers: ids.iter().map(|id| (*id, broker())).collect(),
            clients: BTreeMap::new(),
            invariants: Invariants::default(),
            trace: Trace::new(prints),
            random: Random::new(seed),
            events: 0,
            refused_ppm: 0,
            unreadable_ppm: 0,
            rules,
            queue: EventQueue::default(),
            paused_brokers: BTreeMap::new(),
            paused_clients: BTreeMap::new(),
            next_call: 0,
            next_commit: 0,
            next_client: 0,
            arrivals: 0,
            calls: BTreeMap::new(),
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
        self.note(format_args!("{name} is created with {partitions} partitions"));
        self.topics_changed();
    }

    pub fn delete_topic(&mut self, name: &str) {
        self.topics.delete(name);
        self.note(format_args!("{name} is deleted"));
        self.topics_changed();
    }

    pub fn create_topic_after_ms(&mut self, name: String, partitions: i32, ms: u64) {
        self.schedule_us(ms * 1_000, Event::CreateTopic { name, partitions });
    }

    /// Each broker hears of it in a while.
    fn topics_changed(&mut self) {
        let ids: Vec<i32> = self.brokers.keys().copied().collect();
        for id in ids {
            let delay = self.draw_us(self.weather.image_lag_us);
            self.schedule_us(delay, Event::LearnTopics(id));
        }
    }

    pub fn add_partition(&mut self, name: &str) {
        self.topics.add_partition(name);
        self.note(format_args!("{name} has one more partition"));
        self.topics_changed();
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

    /// The partitions that a member subscribes to, as the topics are now.
    pub fn subscription_of(&self, client: &Client) -> BTreeSet<Tp> {
        let (behaviour, knows_regex) = match &client.kind {
            Kind::Classic(member) => (&member.behaviour, false),
            Kind::Consumer(member) => (&member.behaviour, true),
            Kind::Admin(_) | Kind::Script { .. } => return BTreeSet::new(),
        };
        match &behaviour.regex {
            Some(expression) if knows_regex => self.topics.partitions_of(&matched(expression)),
            _ => self.topics.partitions_of(&behaviour.topics),
        }
    }

    pub fn partition_of(&self, group: &GroupId) -> i32 {
        partition_for(group.as_str(), i32::try_from(self.logs.partitions.len()).unwrap_or(1))
    }

    pub fn leader_of(&self, partition: i32) -> Option<i32> {
        self.logs.leader_of(partition)
    }

    pub(super) fn schedule_us(&mut self, after_us: u64, event: Event) {
        self.queue.schedule(self.now.plus_us(after_us), event);
    }

    pub(super) fn draw_us(&mut self, (low, high): (u64, u64)) -> u64 {
        self.random.between(low, high)
    }

    // ---- time

    pub fn run_for_ms(&mut self, ms: u64) -> Result<(), Violation> {
        let end = self.now.plus_ms(ms);
        while let Some((at, event)) = self.queue.next_until(end) {
            self.now = self.now.max(at);
            self.events += 1;
            self.happen(event)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match &event {
            Event::TickBroker(id)
            | Event::Log(LogEvent::Learn { broker: id, .. })
            | Event::LearnTopics(id)
            | Event::Load { broker: id, .. }
            | Event::TickPartitions { broker: id, .. }
            | Event::TakeTurn { broker: id, .. }
            | Event::NoticeStall { broker: id, .. }
            | Event::Release { broker: id, .. }
            | Event::Arrive { broker: id, .. } => {
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
                self.tick_broker(id);
                Ok(())
            }
            Event::Load { broker, life, partition, epoch } => self.load(broker, life, partition, epoch),
            Event::TickPartitions { broker, life, at } => self.tick_partitions(broker, life, at),
            Event::TakeTurn { broker, life, partition } => self.turn_comes(broker, life, partition),
            Event::NoticeStall { broker, life, partition } => {
                self.notice_stall(broker, life, partition);
                Ok(())
            }
            Event::Release { broker, life, partition } => self.release(broker, life, partition),
            Event::TickClient(id) => {
                self.schedule_us(TICK_MS * 1_000, Event::TickClient(id));
                self.with_client(id, |kind, turn| match kind {
                    Kind::Classic(member) => member.tick(turn),
                    Kind::Consumer(member) => member.tick(turn),
                    Kind::Admin(admin) => admin.tick(turn),
                    Kind::Script { .. } => {}
                })
            }
            Event::Log(event) => self.happen_to_log(event),
            Event::LearnTopics(id) => self.learn_topics(id),
            Event::CreateTopic { name, partitions } => {
                if self.topics.id(&name).is_zero() {
                    self.create_topic(&name, partitions);
                }
                Ok(())
            }
            Event::Arrive { broker, life, client, call, request } => self.arrive(broker, life, client, call, *request),
            Event::Answered { client, call, answer, topic_ids } => {
                self.calls.remove(&call);
                self.with_client(client, |kind, turn| match kind {
                    Kind::Classic(member) => member.answered(turn, call, *answer, &topic_ids),
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
                let backlog = self.paused_brokers.remove(&id);
                self.catch_up_on(backlog)
            }
            Event::ResumeClient(id) => {
                self.note(format_args!("client {id} goes on"));
                let backlog = self.paused_clients.remove(&id);
                self.catch_up_on(backlog)
            }
        }
    }

    /// What waited while a process stood still happens now, in order.
    fn catch_up_on(&mut self, backlog: Option<Vec<Event>>) -> Result<(), Violation> {
        backlog.into_iter().flatten().try_for_each(|event| self.happen(event))
    }
}
