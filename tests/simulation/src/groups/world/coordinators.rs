//! Brokers as group coordinators: the inputs of their partitions, and what follows from them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ottla_coordinator_partition::{Backlog, BrokenRules, Environment, Event as Told, LoadError, Loader, Now, Outputs};
use ottla_group_coordinator::offsets_partition::{Notice, OffsetsPartition};
use ottla_group_coordinator::{GroupAnswer, GroupConfig, Record, Request, Shard};
use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, Offset, TopicName};

use super::{Event, World};
use crate::coordinator_log::{LogEvent, LogWorld, Logs, Piece, ReplicaLog, StoredBatch, Weather};
use crate::groups::broker::{Caller, Host, LoadResult};
use crate::groups::client::error_of;
use crate::groups::topics::TopicIds;
use crate::invariants::Violation;
use crate::random::Random;

/// A broker's partition.
pub(super) fn host_of<'b>(
    partitions: &'b mut BTreeMap<i32, Host>,
    index: i32,
    config: &Arc<GroupConfig>,
    rules: BrokenRules,
) -> &'b mut Host {
    partitions.entry(index).or_insert_with(|| Host {
        core: OffsetsPartition::new(config.clone(), rules),
        backlog: Backlog::new(rules),
        held: None,
        processed: 0,
    })
}

/// What `max.message.bytes` of `__consumer_offsets` is.
const MAX_MESSAGE_BYTES: usize = 1_048_588;

impl World {
    /// Gives one of a broker's partitions an input, and carries out what follows.
    pub(super) fn input(
        &mut self,
        id: i32,
        index: i32,
        input: impl FnOnce(&mut OffsetsPartition<Caller>, &mut Environment<'_, '_, Shard>) -> Outputs<Shard, Caller>,
    ) -> Result<(), Violation> {
        let now = self.clocks();
        let (foresees, refuses) = (self.random.percent(50), self.random.happens(self.refused_ppm));
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.is_running) else { return Ok(()) };
        let Some(partition) = usize::try_from(index).ok().and_then(|index| self.logs.partitions.get_mut(index)) else {
            return Ok(());
        };
        let core = &mut host_of(&mut broker.partitions, index, &self.config, self.rules).core;
        let mut log = ReplicaLog { broker: id, partition, now, foresees, refuses, appends: Vec::new() };
        let mut environment: Environment<'_, '_, Shard> = Environment { now, view: &broker.topics, log: &mut log };
        let outputs = input(core, &mut environment);
        let appends = log.appends;
        for result in &appends {
            match result {
                Ok(end) => {
                    self.trace.message(self.now, format_args!("b{id} appended to partition {index} up to {end}"))
                }
                Err(error) => {
                    self.trace.line(self.now, format_args!("b{id} could not append to partition {index}: {error:?}"));
                }
            }
        }
        if appends.iter().any(Result::is_ok) {
            self.replicate(index);
        }
        self.carry_out(id, index, outputs)
    }

    fn carry_out(&mut self, id: i32, index: i32, outputs: Outputs<Shard, Caller>) -> Result<(), Violation> {
        let Outputs { events, answers, load, timer, .. } = outputs;
        for event in events {
            match event {
                Told::NobodyWaits => {
                    return Err(Violation(format!("b{id} answered a request of partition {index} twice")));
                }
                Told::Forgotten(requests) => {
                    return Err(Violation(format!("b{id} left partition {index} and forgot {requests} requests")));
                }
                Told::Loaded { unreadable, .. } if unreadable.count > 0 => {
                    return Err(Violation(format!("b{id} cannot read records of partition {index}: {unreadable:?}")));
                }
                event => self.note(format_args!("b{id}, partition {index}: {event:?}")),
            }
        }
        for (caller, answer) in answers {
            self.answer(id, index, &caller, answer)?;
        }
        let Some(broker) = self.brokers.get_mut(&id) else { return Ok(()) };
        if let Some(change) = timer {
            broker.timers.set(index, (), change);
        }
        if let Some(begins) = load.and_then(|epoch| broker.loads.ask((), (index, epoch.0))) {
            self.begin_to_load(id, begins);
        }
        self.set_alarm(id);
        Ok(())
    }

    fn begin_to_load(&mut self, id: i32, (index, epoch): (i32, i32)) {
        let Some(broker) = self.brokers.get_mut(&id) else { return };
        let loader = Loader::new(self.config.clone(), LeaderEpoch(epoch), MAX_MESSAGE_BYTES);
        broker.loaders.insert((index, epoch), loader);
        let life = broker.life;
        let delay = self.draw_us(self.weather.load_us);
        self.schedule_us(delay, Event::Load { broker: id, life, partition: index, epoch });
    }

    /// The broker's timer sleeps until the first partition is due.
    fn set_alarm(&mut self, id: i32) {
        let Some(broker) = self.brokers.get_mut(&id) else { return };
        let Some(at) = broker.timers.next_at().filter(|at| broker.alarm_at.is_none_or(|alarm| *at < alarm)) else {
            return;
        };
        broker.alarm_at = Some(at);
        let (life, delay) = (broker.life, (at.0 * 1_000).saturating_sub(self.now.0));
        self.schedule_us(delay, Event::TickPartitions { broker: id, life, at });
    }

    /// The broker's image has the topics as they are now.
    pub(super) fn learn_topics(&mut self, id: i32) -> Result<(), Violation> {
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.is_running) else { return Ok(()) };
        let deleted = broker.topics.deleted_until(&self.topics);
        broker.topics = self.topics.clone();
        if deleted.is_empty() {
            return Ok(());
        }
        let deleted: Arc<[TopicName]> = deleted.into();
        let partitions: Vec<i32> = broker.partitions.keys().copied().collect();
        partitions.into_iter().try_for_each(|index| {
            let notice = Notice::TopicsDeleted(Arc::clone(&deleted));
            self.push(id, index, |backlog| backlog.push_notice(notice))
        })
    }

    /// The configuration of all brokers is another one.
    pub fn configure(&mut self, config: GroupConfig) {
        self.config = Arc::new(config);
        for host in self.brokers.values_mut().flat_map(|broker| broker.partitions.values_mut()) {
            host.core.set_config(self.config.clone());
        }
    }

    /// The role or the high watermark of a broker's partition may have changed.
    fn poll(&mut self, id: i32, index: i32) -> Result<(), Violation> {
        self.push(id, index, Backlog::push_poll)
    }

    /// The next piece of a log is read.
    pub(super) fn load(&mut self, id: i32, life: u32, index: i32, epoch: i32) -> Result<(), Violation> {
        let read_fails = self.random.happens(self.unreadable_ppm);
        let max_bytes = usize::try_from(self.random.between(100, 3_000)).unwrap_or(100);
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.is_running && broker.life == life) else {
            return Ok(());
        };
        let Some(mut loader) = broker.loaders.remove(&(index, epoch)) else { return Ok(()) };
        let Some(partition) = usize::try_from(index).ok().and_then(|index| self.logs.partitions.get(index)) else {
            return Ok(());
        };
        let from = loader.next().unwrap_or(Offset::ZERO);
        self.trace.detail(self.now, format_args!("b{id} reads partition {index} from {from}"));
        let result = match partition.read(id, LeaderEpoch(epoch), loader.next(), max_bytes) {
            Err(error) => Err(LoadError::Refused(error)),
            Ok(_) if read_fails => {
                Err(LoadError::Io { at: from, source: std::io::Error::other("the disk answers no more") })
            }
            Ok(Piece { from, records: Some(records), .. }) => match loader.take(from, &records) {
                Ok(()) => {
                    broker.loaders.insert((index, epoch), loader);
                    let delay = self.draw_us(self.weather.load_us);
                    self.schedule_us(delay, Event::Load { broker: id, life, partition: index, epoch });
                    return Ok(());
                }
                Err(error) => return Err(Violation(format!("b{id} cannot load partition {index}: {error}"))),
            },
            Ok(Piece { end, .. }) => Ok(loader.finish(end)),
        };
        self.loaded(id, index, (LeaderEpoch(epoch), result))
    }

    /// A log was read, or could not be; the next one that waits is read then.
    pub(super) fn loaded(&mut self, id: i32, index: i32, result: LoadResult) -> Result<(), Violation> {
        let Some(broker) = self.brokers.get_mut(&id) else { return Ok(()) };
        let host = host_of(&mut broker.partitions, index, &self.config, self.rules);
        if let Some(hold) = &mut host.held {
            // A thread waits for the partition.
            hold.loaded.push(result);
            return Ok(());
        }
        let (epoch, result) = result;
        let is_loaded = result.is_ok();
        self.input(id, index, |core, environment| core.loaded(environment, epoch, result))?;
        let next = self.brokers.get_mut(&id).and_then(|broker| broker.loads.ended(&(), is_loaded));
        if let Some(next) = next {
            self.begin_to_load(id, next);
        }
        self.take_turn(id, index)
    }

    /// The time has come for which partitions had set the timer.
    pub(super) fn tick_partitions(&mut self, id: i32, life: u32, at: MonotonicMs) -> Result<(), Violation> {
        let now = self.clocks().monotonic;
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.life == life) else { return Ok(()) };
        // Another alarm was set before this one.
        if broker.alarm_at.take_if(|alarm| *alarm == at).is_none() {
            return Ok(());
        }
        for (index, ()) in broker.timers.take_due(now) {
            self.push(id, index, Backlog::push_tick)?;
        }
        self.set_alarm(id);
        Ok(())
    }

    /// What brokers do from time to time: followers fetch, and a last member of an ISR that is back leads again.
    pub(super) fn tick_broker(&mut self, id: i32) {
        if self.brokers.get(&id).is_none_or(|broker| !broker.is_running) {
            return;
        }
        // Followers fetch again and again: a follower that missed something while a process stood still gets it now,
        // and a follower outside the ISR comes back into it even when nothing new is appended.
        let lagging = self.logs.partitions.iter().filter(|partition| {
            let isr = partition.isr();
            let has_followers_outside = self.brokers.keys().any(|member| {
                !isr.contains(member) && self.is_up(*member) && !self.logs.is_out(partition.index, *member)
            });
            partition.leader() == Some(id)
                && (partition.high_watermark_of(id).0 < partition.end_of(id) || has_followers_outside)
        });
        let lagging: Vec<i32> = lagging.map(|partition| partition.index).collect();
        for index in lagging {
            if self.random.percent(2) {
                self.replicate(index);
            }
        }
        // One that was the last in the ISR is back.
        let leaderless = self.logs.partitions.iter().filter(|found| found.leader().is_none());
        let leaderless: Vec<i32> = leaderless.map(|partition| partition.index).collect();
        for index in leaderless {
            self.elect(index, None);
        }
    }

    pub(super) fn arrive(
        &mut self,
        id: i32,
        life: u32,
        client: u32,
        call: u64,
        request: Request,
    ) -> Result<(), Violation> {
        let index = self.clients.get(&client).map_or(0, |client| self.partition_of(client.group()));
        self.trace.message(self.now, format_args!("b{id} from client {client}, call {call}: {request:?}"));
        if self.brokers.get(&id).is_none_or(|broker| !broker.is_running || broker.life != life) {
            self.schedule_us(100, Event::Lost { client, call });
            return Ok(());
        }
        self.arrivals += 1;
        let caller = Caller {
            arrival: self.arrivals,
            client,
            call,
            topic_ids: TopicIds::new(),
            fetch: match &request {
                Request::FetchOffsets(fetch) => Some(fetch.clone()),
                _ => None,
            },
            commit: match &request {
                Request::CommitOffsets(commit) => {
                    let first = commit.topics.first().and_then(|(_, partitions)| partitions.first());
                    first.and_then(|partition| u64::try_from(partition.offset.0).ok())
                }
                _ => None,
            },
        };
        self.submit(id, index, caller, request)
    }

    pub(super) fn answer(
        &mut self,
        id: i32,
        index: i32,
        caller: &Caller,
        answer: GroupAnswer,
    ) -> Result<(), Violation> {
        match (&answer, caller.commit) {
            (GroupAnswer::CommitOffsets(_), Some(number)) if error_of(&answer) == ErrorCode::None => {
                self.invariants.acknowledge(number)?;
            }
            (_, Some(_)) => self.invariants.refused_commits += 1,
            _ => {}
        }
        // A leader that was replaced and does not know it answers from what it has, as with Kafka.
        let leads = self.logs.get(index).is_some_and(|partition| partition.is_led_by(id, partition.leading_epoch(id)));
        if let (GroupAnswer::FetchOffsets(fetched), Some(asked), true) = (&answer, &caller.fetch, leads) {
            self.invariants.fetched(asked, &caller.topic_ids, fetched)?;
        }
        self.reply(caller, answer);
        Ok(())
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
        self.schedule_us(us, Event::Log(event));
    }

    fn note(&mut self, what: fmt::Arguments<'_>) {
        self.trace.line(self.now, what);
    }

    fn is_up(&self, id: i32) -> bool {
        self.brokers.get(&id).is_some_and(|broker| broker.is_running) && !self.paused_brokers.contains_key(&id)
    }

    fn learn(&mut self, id: i32, index: i32) -> Result<(), Violation> {
        let now = self.clocks();
        if self.brokers.get(&id).is_none_or(|broker| !broker.is_running) {
            return Ok(());
        }
        if let Some(partition) = self.logs.get_mut(index) {
            partition.learn(id, now);
        }
        self.advance(index)?;
        self.poll(id, index)
    }

    /// The invariants read what is committed, then the leaders hear of their high watermarks.
    fn advance(&mut self, index: i32) -> Result<(), Violation> {
        let Some(partition) = self.logs.get_mut(index) else { return Ok(()) };
        let (fresh, leaders) = (partition.advance(), partition.moved());
        for batch in &fresh {
            self.trace.detail(self.now, format_args!("committed in partition {index} at {}", text(batch)));
            self.invariants.commit(batch)?;
        }
        // One that stands still hears of it when it goes on.
        let up: Vec<i32> = leaders.into_iter().filter(|leader| self.is_up(*leader)).collect();
        up.into_iter().try_for_each(|leader| self.poll(leader, index))
    }
}

/// A batch, for those who follow a run.
fn text(batch: &StoredBatch) -> impl fmt::Display + '_ {
    fmt::from_fn(|f| {
        let decoded = batch.records.iter().map(|raw| Record::decode(&raw.key, raw.value.as_deref()));
        write!(f, "{}: ", batch.base)?;
        f.debug_list().entries(decoded.map(|record| record.ok().flatten())).finish()
    })
}
