//! Brokers, logs, producers and the queue of what happens when.

mod hosts;
mod leaders;

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_coordinator_partition::{Timers, Waiter};
use ottla_group_coordinator::partition_for;
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, ProducerId, TopicPartition, TransactionalId};
use ottla_partition::BrokenRules as LeaderRules;
use ottla_replication::VerificationGuard;
use ottla_transaction_coordinator::request::AddPartitions;
use ottla_transaction_coordinator::state_partition::StatePartition;
use ottla_transaction_coordinator::{
    Cluster, Leader, Marker, MarkerNumber, Request, TransactionAnswer, TransactionConfig,
};

use super::data::{DataBatch, DataPartition};
use super::invariants::Invariants;
use super::producer::{Call, Client};
use crate::clock::SimTime;
use crate::coordinator_log::{LogEvent, LogWorld as _, Logs, Weather};
use crate::event_queue::EventQueue;
use crate::invariants::Violation;
use crate::random::Random;
use crate::trace::Trace;

const DATA_PARTITIONS: i32 = 6;
const TICK_MS: u64 = 5;
/// After it a caller that got no answer gives up.
const PATIENCE_MS: u64 = 300;

/// A batch that its client has given up arrives as late as this.
const LATE_MS: (u64, u64) = (300, 3_000);

/// What clients do about a batch that is not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Habits {
    /// They send it again, and nothing arrives late.
    Patient,
    /// Those of before KIP-890 part 2 may abort the transaction instead (`delivery.timeout.ms`), and what the network
    /// did not deliver at once may arrive when they have.
    GivesUp,
}

/// Who waits for a coordinator's answer.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    Client {
        client: u32,
        call: u64,
    },
    /// A partition's leader that may not append before.
    Leader {
        client: u32,
        call: u64,
        index: usize,
        batch: DataBatch,
        guard: VerificationGuard,
    },
}

impl Waiter for Caller {
    fn is_gone(&self) -> bool {
        false
    }
}

/// One partition of `__transaction_state` on one broker.
#[derive(Debug)]
pub(super) struct StatePartitionHost {
    pub(super) core: StatePartition<Caller>,
}

#[derive(Debug, Default)]
pub struct Broker {
    /// Grows with every start.
    pub(super) life: u32,
    pub is_running: bool,
    pub(super) hosted: BTreeMap<i32, StatePartitionHost>,
    /// When each of them is ticked.
    pub(super) timers: Timers<i32, ()>,
}

#[derive(Debug)]
pub(super) enum Event {
    TickBroker(i32),
    Turn(u32),
    Log(LogEvent),
    Load { broker: i32, life: u32, partition: i32, epoch: LeaderEpoch },
    Ask { broker: i32, life: u32, caller: Caller, request: Box<Request> },
    Answered { caller: Caller, answer: Box<TransactionAnswer> },
    Produce { client: u32, call: u64, index: usize, to: i32, batch: DataBatch },
    Produced { client: u32, call: u64, index: usize, result: Result<(), ErrorCode> },
    GiveUp { client: u32, call: u64 },
    Mark { from: i32, life: u32, partition: i32, marker: Box<Marker> },
    Marked { to: i32, life: u32, partition: i32, epoch: LeaderEpoch, number: MarkerNumber, results: Option<Results> },
    StartBroker(i32),
}

pub(super) type Results = BTreeMap<TopicPartition, ErrorCode>;

pub struct World {
    pub now: SimTime,
    config: Arc<TransactionConfig>,
    pub weather: Weather,
    /// Appends that are refused for no reason, this often in a million.
    pub refused_ppm: u32,
    pub habits: Habits,
    pub logs: Logs,
    pub data: Vec<DataPartition>,
    pub brokers: BTreeMap<i32, Broker>,
    pub clients: BTreeMap<u32, Client>,
    pub invariants: Invariants,
    pub trace: Trace,
    pub random: Random,
    pub events: u64,
    queue: EventQueue<Event>,
    next_call: u64,
    transactions: u64,
    next_producer_id: i64,
}

/// What a shard sees of the world.
struct View<'a> {
    data: &'a [DataPartition],
    next_producer_id: &'a mut i64,
}

impl Cluster for View<'_> {
    fn leader(&self, partition: &TopicPartition) -> Leader {
        match self.data.iter().find(|found| found.name == *partition) {
            Some(found) if !found.is_deleted => Leader::Broker(BrokerId(found.leader)),
            _ => Leader::Deleted,
        }
    }

    fn new_producer_id(&mut self) -> Option<ProducerId> {
        *self.next_producer_id += 1;
        // Now and then the quorum is slow.
        (*self.next_producer_id % 7 != 0).then_some(ProducerId(*self.next_producer_id))
    }
}

impl World {
    pub fn new(seed: u64, brokers: i32, partitions: i32, config: TransactionConfig, prints: bool) -> Self {
        let ids: Vec<i32> = (1..=brokers).collect();
        let mut world = Self {
            now: SimTime(0),
            config: Arc::new(config),
            weather: Weather::CALM,
            refused_ppm: 0,
            habits: Habits::Patient,
            logs: Logs::new(partitions, &ids),
            data: (0..DATA_PARTITIONS)
                .map(|index| DataPartition::new(index, 1 + index % brokers, LeaderRules::default()))
                .collect(),
            brokers: ids.iter().map(|id| (*id, Broker { life: 1, is_running: true, ..Broker::default() })).collect(),
            clients: BTreeMap::new(),
            invariants: Invariants::default(),
            trace: Trace::new(prints),
            random: Random::new(seed),
            events: 0,
            queue: EventQueue::default(),
            next_call: 0,
            transactions: 0,
            next_producer_id: 0,
        };
        for id in ids {
            world.schedule_us(0, Event::TickBroker(id));
        }
        for partition in 0..partitions {
            world.elect(partition, None);
        }
        world
    }

    /// Before anything happens.
    pub fn break_leaders(&mut self, rules: LeaderRules) {
        self.data =
            self.data.iter().zip(0..).map(|(data, index)| DataPartition::new(index, data.leader, rules)).collect();
    }

    pub fn add_client(&mut self, id: &TransactionalId) -> u32 {
        let number = u32::try_from(self.clients.len()).unwrap_or(u32::MAX);
        let random = self.random.fork();
        self.clients.insert(number, Client::new(id.clone(), random));
        self.schedule_us(0, Event::Turn(number));
        number
    }

    pub fn crash_client(&mut self, number: u32) {
        self.note(format_args!("client {number} crashes"));
        if let Some(client) = self.clients.get_mut(&number) {
            client.crash();
        }
        self.schedule_us(1_000, Event::Turn(number));
    }

    fn partition_of(&self, id: &TransactionalId) -> i32 {
        partition_for(id.as_str(), i32::try_from(self.logs.partitions.len()).unwrap_or(1))
    }

    pub fn leader_of(&self, partition: i32) -> Option<i32> {
        self.logs.leader_of(partition)
    }

    fn schedule_us(&mut self, after_us: u64, event: Event) {
        self.queue.schedule(self.now.plus_us(after_us), event);
    }

    fn draw_us(&mut self, (low, high): (u64, u64)) -> u64 {
        self.random.between(low, high)
    }

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
        match event {
            Event::TickBroker(id) => {
                self.schedule_us(TICK_MS * 1_000, Event::TickBroker(id));
                self.tick_broker(id)
            }
            Event::Turn(client) => {
                self.turn(client);
                Ok(())
            }
            Event::Log(event) => self.happen_to_log(event),
            Event::Load { broker, life, partition, epoch } => self.load(broker, life, partition, epoch),
            Event::Ask { broker, life, caller, request } => self.arrive(broker, life, caller, *request),
            Event::Answered { caller, answer } => self.answered(caller, &answer),
            Event::Produce { client, call, index, to, batch } => {
                self.produce(client, call, index, to, &batch);
                Ok(())
            }
            Event::Produced { client, call, index, result } => {
                self.produced(client, call, index, result);
                Ok(())
            }
            Event::GiveUp { client, call } => {
                let Some(found) = self.clients.get_mut(&client).filter(|found| found.call == Some(call)) else {
                    return Ok(());
                };
                found.call = None;
                let rest = found.lost(self.habits);
                self.schedule_us(rest * 1_000, Event::Turn(client));
                Ok(())
            }
            Event::Mark { from, life, partition, marker } => self.mark(from, life, partition, &marker),
            Event::Marked { to, life, partition, epoch, number, results } => {
                self.marked(to, life, partition, epoch, number, results)
            }
            Event::StartBroker(id) => self.start_broker(id),
        }
    }

    /// A client whose turn it is asks its next request.
    fn turn(&mut self, number: u32) {
        let names: Vec<TopicPartition> = self.data.iter().map(|data| data.name.clone()).collect();
        let Some(client) = self.clients.get_mut(&number).filter(|client| client.call.is_none()) else { return };
        let Some(call) = client.next(&names, &mut self.transactions) else {
            // It has stopped.
            return;
        };
        self.next_call += 1;
        let id = self.next_call;
        client.call = Some(id);
        let (latency, is_lost) = self.network();
        self.schedule_us(PATIENCE_MS * 1_000, Event::GiveUp { client: number, call: id });
        match call {
            Call::Coordinator(request) => {
                let caller = Caller::Client { client: number, call: id };
                self.ask(caller, request);
            }
            Call::Leader(index, batch) => {
                let Some(to) = self.data.get(index).map(|data| data.leader) else { return };
                let after_us = match (is_lost, self.habits) {
                    (false, _) => latency,
                    (true, Habits::Patient) => return,
                    (true, Habits::GivesUp) => self.draw_us(LATE_MS) * 1_000,
                };
                self.schedule_us(after_us, Event::Produce { client: number, call: id, index, to, batch });
            }
        }
    }

    /// Sends a request to the coordinator, as far as the caller knows it.
    fn ask(&mut self, caller: Caller, request: Request) {
        let Some(id) = request.transactional_id() else { return };
        let broker = self.leader_of(self.partition_of(id)).unwrap_or(1);
        let (Caller::Client { client, .. } | Caller::Leader { client, .. }) = &caller;
        let known = match (&caller, self.clients.get_mut(client)) {
            (Caller::Client { .. }, Some(client)) => *client.coordinator.get_or_insert(broker),
            _ => broker,
        };
        let life = self.brokers.get(&known).map_or(0, |broker| broker.life);
        let (latency, is_lost) = self.network();
        if !is_lost {
            self.schedule_us(latency, Event::Ask { broker: known, life, caller, request: Box::new(request) });
        }
    }

    fn network(&mut self) -> (u64, bool) {
        let latency = self.draw_us(self.weather.latency_us);
        let is_lost = self.random.happens(self.weather.lost_ppm);
        (latency, is_lost)
    }

    fn answered(&mut self, caller: Caller, answer: &TransactionAnswer) -> Result<(), Violation> {
        match caller {
            Caller::Client { client, call } => {
                let Some(found) = self.clients.get_mut(&client).filter(|found| found.call == Some(call)) else {
                    return Ok(());
                };
                found.call = None;
                let rest = found.answered(answer, &mut self.invariants)?;
                self.trace.message(self.now, format_args!("client {client}, call {call}: {answer:?}"));
                self.schedule_us(rest * 1_000, Event::Turn(client));
            }
            Caller::Leader { client, call, index, batch, guard } => {
                self.verified(client, call, index, &batch, &guard, answer);
            }
        }
        Ok(())
    }

    fn produced(&mut self, client: u32, call: u64, index: usize, result: Result<(), ErrorCode>) {
        let Some(name) = self.data.get(index).map(|data| data.name.clone()) else { return };
        let Some(found) = self.clients.get_mut(&client).filter(|found| found.call == Some(call)) else { return };
        found.call = None;
        let rest = found.produced(result, &name, &mut self.invariants);
        self.trace.message(self.now, format_args!("client {client}, call {call}: batch in {name}: {result:?}"));
        self.schedule_us(rest * 1_000, Event::Turn(client));
    }
}
