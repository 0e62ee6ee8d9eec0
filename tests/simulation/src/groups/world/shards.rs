//! What brokers do with their shards: loading, requests, effects.

use std::collections::VecDeque;
use std::sync::Arc;

use ottla_group_coordinator::{Answer, BatchNumber, Effects, Request, RequestId};
use ottla_model::{ErrorCode, Offset};

use super::{Event, World};
use crate::groups::broker::{Hosted, Waiter};
use crate::groups::client::error_of;
use crate::invariants::Violation;

impl World {
    /// The broker hears who leads the partition: it drops the shard of an older epoch, and makes its own.
    pub(super) fn learn(&mut self, id: i32, partition: i32) -> Result<(), Violation> {
        let Some(found) = self.partition(partition) else { return Ok(()) };
        let (leads, epoch) = (found.leader == Some(id), found.epoch);
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.is_running) else { return Ok(()) };
        if broker.shards.get(&partition).is_some_and(|hosted| hosted.epoch == epoch && leads) {
            return Ok(());
        }
        if let Some(mut hosted) = broker.shards.remove(&partition) {
            self.note(format_args!("b{id} resigns from partition {partition} of epoch {}", hosted.epoch));
            let effects = hosted.shard.resign(ErrorCode::NotCoordinator);
            self.dropped(id, partition, hosted, effects)?;
        }
        if leads {
            let hosted = Hosted::new(epoch, self.config.clone());
            if let Some(broker) = self.brokers.get_mut(&id) {
                broker.shards.insert(partition, hosted);
            }
            self.try_load(id, partition)?;
        }
        Ok(())
    }

    /// A shard that is let go must not leave anybody waiting.
    fn dropped(&mut self, id: i32, partition: i32, mut hosted: Hosted, effects: Effects) -> Result<(), Violation> {
        for (request, answer) in effects.answers {
            let Some(waiter) = hosted.waiting.remove(&request) else {
                return Err(Violation(format!(
                    "b{id} answered {request:?} of partition {partition} twice: {answer:?}"
                )));
            };
            self.reply(waiter.client, waiter.call, answer);
        }
        match hosted.waiting.first_key_value() {
            Some((_, waiter)) => Err(Violation(format!("b{id} let partition {partition} go and forgot {waiter:?}"))),
            None => Ok(()),
        }
    }

    /// Loads once everything in the log is committed: what is answered from here on cannot be taken back.
    pub(super) fn try_load(&mut self, id: i32, index: i32) -> Result<(), Violation> {
        let Some(partition) = self.partition(index) else { return Ok(()) };
        let end = partition.end_of(id);
        if partition.high_watermark() < end {
            return Ok(());
        }
        let batches = partition.copy(id).to_vec();
        let now = self.clocks();
        let Some(hosted) = self.brokers.get_mut(&id).and_then(|broker| broker.shards.get_mut(&index)) else {
            return Ok(());
        };
        if hosted.is_loaded {
            return Ok(());
        }
        for batch in &batches {
            for raw in &batch.records {
                if let Err(error) = hosted.shard.apply(batch.timestamp, &raw.key, raw.value.as_deref()) {
                    return Err(Violation(format!("b{id} cannot load partition {index}: {error}")));
                }
            }
        }
        hosted.is_loaded = true;
        let epoch = hosted.epoch;
        let effects = hosted.shard.loaded(now, &self.topics);
        self.note(format_args!("b{id} has loaded partition {index} of epoch {epoch} up to {end}"));
        self.carry_out(id, index, effects)
    }

    pub(super) fn tick_broker(&mut self, id: i32) -> Result<(), Violation> {
        let now = self.clocks();
        if self.brokers.get(&id).is_none_or(|broker| !broker.is_running) {
            return Ok(());
        }
        // Followers fetch again and again: a follower that missed something while a process stood still gets it now, and a
        // follower outside the ISR comes back into it even when nothing new is appended.
        let lagging = self.partitions.iter().filter(|partition| {
            let has_followers_outside = self.brokers.keys().any(|member| {
                !partition.isr.contains(member) && self.is_up(*member) && !self.is_out(partition.index, *member)
            });
            partition.leader == Some(id) && (partition.high_watermark() < partition.end_of(id) || has_followers_outside)
        });
        let lagging: Vec<i32> = lagging.map(|partition| partition.index).collect();
        for index in lagging {
            if self.random.percent(2) {
                self.replicate(index);
            }
        }
        // One that was the last in the ISR is back.
        let leaderless = self.partitions.iter().filter(|found| found.leader.is_none() && found.isr.contains(&id));
        let leaderless: Vec<i32> = leaderless.map(|partition| partition.index).collect();
        for index in leaderless {
            self.elect(index, None);
        }
        let Some(broker) = self.brokers.get(&id) else { return Ok(()) };
        let due: Vec<i32> = broker
            .shards
            .iter()
            .filter(|(_, hosted)| {
                hosted.is_loaded && hosted.shard.next_deadline().is_some_and(|at| at <= now.monotonic)
            })
            .map(|(index, _)| *index)
            .collect();
        for index in due {
            self.look_at_log(id, index);
            let Some(hosted) = self.brokers.get_mut(&id).and_then(|broker| broker.shards.get_mut(&index)) else {
                continue;
            };
            let effects = hosted.shard.tick(now, &self.topics);
            if hosted.shard.next_deadline().is_some_and(|at| at <= now.monotonic) && effects.is_empty() {
                return Err(Violation(format!("b{id}: partition {index} is due again at once, and does nothing")));
            }
            self.carry_out(id, index, effects)?;
        }
        Ok(())
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
        let now = self.clocks();
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.is_running && broker.life == life) else {
            self.schedule_us(100, Event::Lost { client, call });
            return Ok(());
        };
        let refused = match broker.shards.get(&index) {
            None => Some(ErrorCode::NotCoordinator),
            Some(hosted) if !hosted.is_loaded => Some(ErrorCode::CoordinatorLoadInProgress),
            Some(_) => None,
        };
        if let Some(error) = refused {
            self.reply(client, call, Answer::Failed(error));
            return Ok(());
        }
        broker.next_request += 1;
        let request_id = RequestId(broker.next_request);
        let waiter = Waiter {
            client,
            call,
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
        let Some(hosted) = broker.shards.get_mut(&index) else { return Ok(()) };
        hosted.waiting.insert(request_id, waiter);
        self.look_at_log(id, index);
        let Some(hosted) = self.brokers.get_mut(&id).and_then(|broker| broker.shards.get_mut(&index)) else {
            return Ok(());
        };
        let effects = hosted.shard.step(now, &self.topics, request_id, request);
        self.carry_out(id, index, effects)
    }

    /// The shard is told whether its log takes records, as the broker tells it. Half of the refusals come unforeseen.
    fn look_at_log(&mut self, id: i32, index: i32) {
        let epoch =
            self.brokers.get(&id).and_then(|broker| broker.shards.get(&index)).map_or(-1, |hosted| hosted.epoch);
        let refused = self.partition(index).and_then(|partition| partition.refusal(id, epoch));
        let refused = refused.filter(|_| self.random.percent(50));
        if let Some(hosted) = self.brokers.get_mut(&id).and_then(|broker| broker.shards.get_mut(&index)) {
            hosted.shard.set_log_state(refused.map_or(Ok(()), Err));
        }
    }

    pub(super) fn catch_up(&mut self, index: i32, follower: i32) -> Result<(), Violation> {
        let Some(leader) = self.leader_of(index) else { return Ok(()) };
        if !self.is_up(leader) || !self.is_up(follower) || self.is_out(index, follower) {
            return Ok(());
        }
        // A broker that has a shard believes that it leads, and fetches from nobody before it learns better. Otherwise its log
        // would lose records that its shard has in memory.
        if self.brokers.get(&follower).is_some_and(|broker| broker.shards.contains_key(&index)) {
            return Ok(());
        }
        let Some(partition) = self.partition_mut(index) else { return Ok(()) };
        partition.catch_up(follower);
        self.advance(index)
    }

    /// The high watermark moves: the invariants read what is committed, then the leader's shard hears of it.
    fn advance(&mut self, index: i32) -> Result<(), Violation> {
        let now = self.clocks();
        let Some(partition) = self.partition_mut(index) else { return Ok(()) };
        let fresh = partition.advance();
        let (leader, epoch, high_watermark) = (partition.leader, partition.epoch, partition.high_watermark());
        for batch in &fresh {
            self.invariants.commit(batch)?;
        }
        let Some(leader) = leader else { return Ok(()) };
        let Some(hosted) = self.brokers.get_mut(&leader).and_then(|broker| broker.shards.get_mut(&index)) else {
            return Ok(());
        };
        if hosted.epoch != epoch {
            return Ok(());
        }
        if !hosted.is_loaded {
            return self.try_load(leader, index);
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let effects = hosted.shard.committed_up_to(now, Offset(high_watermark));
        self.carry_out(leader, index, effects)
    }

    /// Appends, answers, and what follows from the appends.
    fn carry_out(&mut self, id: i32, index: i32, effects: Effects) -> Result<(), Violation> {
        let mut pending = VecDeque::from([effects]);
        while let Some(Effects { batches, answers, reload }) = pending.pop_front() {
            for batch in batches {
                let result = self.append(id, index, batch.timestamp, batch.records);
                self.appended(id, index, batch.number, result, &mut pending);
                // What follows a refused change would be written without it.
                if pending.back().is_some_and(|effects| effects.reload) {
                    break;
                }
            }
            for (request, answer) in answers {
                self.answer(id, index, request, answer)?;
            }
            if reload {
                self.reload(id, index, &mut pending)?;
            }
        }
        Ok(())
    }

    fn append(
        &mut self,
        id: i32,
        index: i32,
        timestamp: ottla_model::TimestampMs,
        records: Vec<ottla_group_coordinator::effects::RawRecord>,
    ) -> Result<i64, ErrorCode> {
        let refused = self.random.happens(self.refused_ppm);
        let epoch =
            self.brokers.get(&id).and_then(|broker| broker.shards.get(&index)).map_or(-1, |hosted| hosted.epoch);
        let Some(partition) = self.partition_mut(index) else { return Err(ErrorCode::NotLeaderOrFollower) };
        let result =
            if refused { Err(ErrorCode::NotEnoughReplicas) } else { partition.append(id, epoch, timestamp, records) };
        match result {
            Ok(end) => self.trace.message(self.now, format_args!("b{id} appended to partition {index} up to {end}")),
            Err(error) => self.note(format_args!("b{id} could not append to partition {index}: {error:?}")),
        }
        if result.is_ok() {
            self.replicate(index);
        }
        result
    }

    fn appended(
        &mut self,
        id: i32,
        index: i32,
        number: BatchNumber,
        result: Result<i64, ErrorCode>,
        pending: &mut VecDeque<Effects>,
    ) {
        let now = self.clocks();
        let Some(hosted) = self.brokers.get_mut(&id).and_then(|broker| broker.shards.get_mut(&index)) else { return };
        pending.push_back(match result {
            Ok(end) => hosted.shard.appended(number, Offset(end)),
            Err(error) => hosted.shard.append_refused(now, number, error),
        });
    }

    fn answer(&mut self, id: i32, index: i32, request: RequestId, answer: Answer) -> Result<(), Violation> {
        let is_leader = |epoch| self.partition(index).is_some_and(|partition| partition.is_led_by(id, epoch));
        let Some(hosted) = self.brokers.get(&id).and_then(|broker| broker.shards.get(&index)) else { return Ok(()) };
        let leads = is_leader(hosted.epoch);
        let Some(hosted) = self.brokers.get_mut(&id).and_then(|broker| broker.shards.get_mut(&index)) else {
            return Ok(());
        };
        let Some(waiter) = hosted.waiting.remove(&request) else {
            return Err(Violation(format!("b{id} answered {request:?} of partition {index} twice: {answer:?}")));
        };
        match (&answer, waiter.commit) {
            (Answer::CommitOffsets(_), Some(number)) if error_of(&answer) == ErrorCode::None => {
                self.invariants.acknowledge(number)?;
            }
            (_, Some(_)) => self.invariants.refused_commits += 1,
            _ => {}
        }
        // A leader that was replaced and does not know it answers from what it has, as with Kafka.
        if let (Answer::FetchOffsets(fetched), Some(asked), true) = (&answer, &waiter.fetch, leads) {
            self.invariants.fetched(asked, fetched)?;
        }
        self.reply(waiter.client, waiter.call, answer);
        Ok(())
    }

    /// The shard is ahead of the log: drop it and load again.
    fn reload(&mut self, id: i32, index: i32, pending: &mut VecDeque<Effects>) -> Result<(), Violation> {
        let config = Arc::clone(&self.config);
        let Some(broker) = self.brokers.get_mut(&id) else { return Ok(()) };
        let Some(hosted) = broker.shards.remove(&index) else { return Ok(()) };
        let epoch = hosted.epoch;
        // Whatever is left of the old shard's effects are its answers.
        let rest = pending.drain(..).fold(Effects::default(), |mut all, effects| {
            all.extend(effects);
            all
        });
        if !rest.batches.is_empty() {
            return Err(Violation(format!("b{id}: partition {index} wants to append after it asked for a reload")));
        }
        self.note(format_args!("b{id} loads partition {index} of epoch {epoch} again"));
        self.dropped(id, index, hosted, rest)?;
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.shards.insert(index, Hosted::new(epoch, config));
        }
        self.try_load(id, index)
    }
}
