//! What brokers do with their shards, and what becomes of their processes.

use std::fmt;

use ottla_coordinator_partition::{BrokenRules, Environment, Event, LoadError, Loader, Now, Outputs};
use ottla_transaction_coordinator::Shard;
use ottla_transaction_coordinator::state_partition::Notice;

use super::*;
use crate::coordinator_log::{LogEvent, LogWorld, Logs, Piece, ReplicaLog, Weather};

/// Of one piece of a log that is read.
const LOAD_BYTES: usize = 1 << 20;

impl World {
    /// Reads the log, as the broker asked for.
    pub(super) fn load(&mut self, id: i32, life: u32, index: i32, epoch: LeaderEpoch) -> Result<(), Violation> {
        if self.brokers.get(&id).is_none_or(|broker| broker.life != life) {
            return Ok(());
        }
        let Some(partition) = self.logs.get(index) else { return Ok(()) };
        let mut loader = Loader::<Shard>::new(Arc::clone(&self.config), epoch, 1_048_588);
        let loaded = loop {
            match partition.read(id, epoch, loader.next(), LOAD_BYTES) {
                Err(error) => break Err(LoadError::Refused(error)),
                Ok(Piece { from, records: Some(records), .. }) => {
                    if let Err(error) = loader.take(from, &records) {
                        break Err(error);
                    }
                }
                Ok(Piece { end, .. }) => break Ok(loader.finish(end)),
            }
        };
        self.step(id, index, |core, environment| (None, core.loaded(environment, epoch, loaded)))?;
        Ok(())
    }

    /// Lets a partition's core take a step, and executes what follows. Returns the answer to the request that was its
    /// input.
    fn step(
        &mut self,
        id: i32,
        index: i32,
        step: impl FnOnce(
            &mut StatePartition<Caller>,
            &mut Environment<'_, '_, Shard>,
        ) -> (Option<TransactionAnswer>, Outputs<Shard, Caller>),
    ) -> Result<Option<TransactionAnswer>, Violation> {
        let (now, is_refused) = (self.clocks(), self.random.happens(self.refused_ppm));
        let Some(broker) = self.brokers.get_mut(&id) else { return Ok(None) };
        let life = broker.life;
        let partition = usize::try_from(index).ok().and_then(|at| self.logs.partitions.get_mut(at));
        let (Some(hosted), Some(partition)) = (broker.hosted.get_mut(&index), partition) else { return Ok(None) };
        let mut view = View { data: &self.data, next_producer_id: &mut self.next_producer_id };
        let (foresees, refuses) = (true, is_refused);
        let mut log = ReplicaLog { broker: id, partition, now, foresees, refuses, appends: Vec::new() };
        let mut environment: Environment<'_, '_, Shard> = Environment { now, view: &mut view, log: &mut log };
        let (answer, outputs) = step(&mut hosted.core, &mut environment);
        if log.appends.iter().any(Result::is_ok) {
            self.replicate(index);
        }
        for event in outputs.events {
            match event {
                // Its leadership ended meanwhile.
                Event::LoadFailed { error: LoadError::Refused(_), .. } => {}
                Event::Forgotten(_) | Event::NobodyWaits | Event::LoadFailed { .. } => {
                    return Err(Violation(format!("b{id}, partition {index}: {event:?}")));
                }
                event => self.note(format_args!("b{id}, partition {index}: {event:?}")),
            }
        }
        for (caller, answer) in outputs.answers {
            self.reply(caller, answer);
        }
        for marker in outputs.messages {
            let (latency, is_lost) = self.network();
            let (number, epoch) = (marker.number, marker.coordinator_epoch);
            if is_lost {
                let event = super::Event::Marked { to: id, life, partition: index, epoch, number, results: None };
                self.schedule_us(PATIENCE_MS * 1_000, event);
            } else {
                let marker = Box::new(marker);
                self.schedule_us(latency, super::Event::Mark { from: id, life, partition: index, marker });
            }
        }
        if let (Some(change), Some(broker)) = (outputs.timer, self.brokers.get_mut(&id)) {
            broker.timers.set(index, (), change);
        }
        if let Some(epoch) = outputs.load {
            let delay = self.draw_us(self.weather.load_us);
            self.schedule_us(delay, super::Event::Load { broker: id, life, partition: index, epoch });
        }
        Ok(answer)
    }

    pub(super) fn tick_broker(&mut self, id: i32) -> Result<(), Violation> {
        let now = self.clocks();
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.is_running) else { return Ok(()) };
        let due = broker.timers.take_due(now.monotonic);
        let led: Vec<i32> =
            self.logs.partitions.iter().filter(|found| found.leader() == Some(id)).map(|found| found.index).collect();
        for index in led {
            // Followers fetch again and again.
            if self.random.percent(3) {
                self.replicate(index);
            }
        }
        for (index, ()) in due {
            self.step(id, index, |core, environment| (None, core.tick(environment)))?;
            let hosted = self.brokers.get(&id).and_then(|broker| broker.hosted.get(&index));
            let next = hosted.and_then(|hosted| hosted.core.shard()?.next_deadline());
            if next.is_some_and(|at| at <= now.monotonic) {
                return Err(Violation(format!("b{id}: partition {index} is due again at once")));
            }
        }
        Ok(())
    }

    pub(super) fn arrive(&mut self, id: i32, life: u32, caller: Caller, request: Request) -> Result<(), Violation> {
        self.trace.message(self.now, format_args!("b{id}: {caller:?}: {request:?}"));
        let Some(of) = request.transactional_id() else { return Ok(()) };
        let index = self.partition_of(of);
        if self.brokers.get(&id).is_none_or(|broker| !broker.is_running || broker.life != life) {
            return Ok(());
        }
        if self.brokers.get(&id).is_some_and(|broker| !broker.hosted.contains_key(&index)) {
            self.reply(caller, TransactionAnswer::Failed(ErrorCode::NotCoordinator));
            return Ok(());
        }
        let waiter = caller.clone();
        let answer = self.step(id, index, |core, environment| core.request(environment, request, || waiter))?;
        if let Some(answer) = answer {
            self.reply(caller, answer);
        }
        Ok(())
    }

    fn reply(&mut self, caller: Caller, answer: TransactionAnswer) {
        let (latency, is_lost) = self.network();
        if !is_lost {
            self.schedule_us(latency, super::Event::Answered { caller, answer: Box::new(answer) });
        }
    }

    /// A broker has answered a marker, or did not.
    pub(super) fn marked(
        &mut self,
        id: i32,
        life: u32,
        index: i32,
        epoch: LeaderEpoch,
        number: MarkerNumber,
        results: Option<Results>,
    ) -> Result<(), Violation> {
        if self.brokers.get(&id).is_none_or(|broker| broker.life != life) {
            return Ok(());
        }
        self.step(id, index, |core, environment| {
            (None, core.notice(environment, Notice::MarkerAnswered { epoch, number, results }))
        })?;
        Ok(())
    }

    pub fn kill_broker(&mut self, id: i32) {
        self.note(format_args!("b{id} is killed"));
        let Some(broker) = self.brokers.get_mut(&id) else { return };
        broker.is_running = false;
        broker.life += 1;
        broker.hosted.clear();
        broker.timers = Timers::default();
        self.lose_replicas_of(id);
        let others: Vec<i32> = self.brokers.iter().filter(|(_, broker)| broker.is_running).map(|(id, _)| *id).collect();
        for index in 0..self.data.len() {
            if self.data.get(index).is_some_and(|data| data.leader == id)
                && let Some(to) = self.random.pick(&others).copied()
            {
                self.move_data(index, to);
            }
        }
    }

    pub fn start_broker_after_ms(&mut self, id: i32, ms: u64) {
        self.schedule_us(ms * 1_000, super::Event::StartBroker(id));
    }

    pub(super) fn start_broker(&mut self, id: i32) -> Result<(), Violation> {
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| !broker.is_running) else { return Ok(()) };
        broker.is_running = true;
        self.note(format_args!("b{id} starts"));
        self.take_up_replicas_of(id)
    }

    /// What keeps the world from being at rest, when no client begins anything more.
    pub fn unrest(&self) -> Option<String> {
        for partition in &self.logs.partitions {
            let hosted = partition.leader().and_then(|leader| self.brokers.get(&leader)?.hosted.get(&partition.index));
            let core = hosted.map(|hosted| &hosted.core).filter(|core| core.epoch() == partition.epoch());
            let Some(shard) = core.and_then(|core| core.shard()) else {
                return Some(format!("partition {} has no coordinator", partition.index));
            };
            let states = shard.states();
            if states.keys().any(|state| ["Ongoing", "PrepareCommit", "PrepareAbort"].contains(state)) {
                return Some(format!("partition {}: {states:?}", partition.index));
            }
        }
        self.data
            .iter()
            .find(|data| !data.is_deleted && data.has_open())
            .map(|data| format!("{} has an open transaction", data.name))
    }
}

impl LogWorld for World {
    fn logs(&mut self) -> &mut Logs {
        &mut self.logs
    }

    fn clocks(&self) -> Now {
        self.now.clocks()
    }

    fn weather(&self) -> Weather {
        self.weather
    }

    fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    fn after_us(&mut self, us: u64, event: LogEvent) {
        self.schedule_us(us, super::Event::Log(event));
    }

    fn note(&mut self, what: fmt::Arguments<'_>) {
        self.trace.line(self.now, what);
    }

    fn is_up(&self, id: i32) -> bool {
        self.brokers.get(&id).is_some_and(|broker| broker.is_running)
    }

    fn learn(&mut self, id: i32, partition: i32) -> Result<(), Violation> {
        let now = self.clocks();
        let core = StatePartition::new(Arc::clone(&self.config), BrokenRules::default());
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.is_running) else { return Ok(()) };
        broker.hosted.entry(partition).or_insert(StatePartitionHost { core });
        if let Some(found) = self.logs.get_mut(partition) {
            found.learn(id, now);
        }
        self.advance(partition)?;
        self.step(id, partition, |core, environment| (None, core.poll(environment)))?;
        Ok(())
    }

    /// The invariants read what is committed.
    fn advance(&mut self, index: i32) -> Result<(), Violation> {
        let Some(partition) = self.logs.get_mut(index) else { return Ok(()) };
        let (fresh, leaders) = (partition.advance(), partition.moved());
        for batch in &fresh {
            self.invariants.replicated(batch)?;
        }
        for leader in leaders {
            self.step(leader, index, |core, environment| (None, core.poll(environment)))?;
        }
        Ok(())
    }
}
