//! What waits while a step holds a partition: [`ottla_coordinator_partition::backlog`] decides; here is when the
//! partition is held, and who comes in between two turns.

use ottla_coordinator_partition::{Backlog, Job, Turn};
use ottla_group_coordinator::{GroupAnswer, Request, Shard};

use super::coordinators::host_of;
use super::{Event, World};
use crate::coordinator_log::LogWorld as _;
use crate::groups::broker::{Caller, Hold, Host, Proof};
use crate::invariants::Violation;

/// Between the release of a partition and the next turn: others may come first.
const RELEASE_US: (u64, u64) = (0, 2_000);

impl World {
    fn host(&mut self, id: i32, index: i32) -> Option<&mut Host> {
        let broker = self.brokers.get_mut(&id).filter(|broker| broker.is_running)?;
        Some(host_of(&mut broker.partitions, index, &self.config, self.rules))
    }

    /// Something came for a partition.
    pub(super) fn push(
        &mut self,
        id: i32,
        index: i32,
        push: impl FnOnce(&mut Backlog<Shard, Caller, Proof>),
    ) -> Result<(), Violation> {
        if let Some(host) = self.host(id, index) {
            push(&mut host.backlog);
        }
        self.take_turn(id, index)
    }

    /// A request: processed at once, or queued, or refused.
    pub(super) fn submit(&mut self, id: i32, index: i32, caller: Caller, request: Request) -> Result<(), Violation> {
        let Some(host) = self.host(id, index) else { return Ok(()) };
        if host.held.is_none() && host.backlog.is_in_turn() {
            if host.backlog.take_poll() {
                self.input(id, index, |core, environment| core.poll(environment))?;
            }
            self.process(id, index, caller, request)?;
            return self.take_turn(id, index);
        }
        let is_stalled = host.held.as_ref().is_some_and(|hold| hold.is_known);
        for (caller, error) in host.backlog.push_request(is_stalled, request, None, caller) {
            self.answer(id, index, &caller, GroupAnswer::Failed(error))?;
        }
        self.take_turn(id, index)
    }

    /// Takes one turn, unless a step holds the partition. The next one comes when its outputs have left.
    pub(super) fn take_turn(&mut self, id: i32, index: i32) -> Result<(), Violation> {
        let now = self.clocks().monotonic;
        let Some(host) = self.host(id, index).filter(|host| host.held.is_none()) else { return Ok(()) };
        let Some(Turn { polls, ticks, job, has_more }) = host.backlog.take() else { return Ok(()) };
        if has_more {
            self.schedule_turn(id, index);
        }
        if polls {
            self.input(id, index, |core, environment| core.poll(environment))?;
        }
        if ticks {
            let mut spins = false;
            self.input(id, index, |core, environment| {
                let outputs = core.tick(environment);
                spins = outputs.timer.is_some_and(|timer| timer.at <= now);
                outputs
            })?;
            if spins {
                return Err(Violation(format!("b{id}: partition {index} is due again at once")));
            }
        }
        match job {
            None => Ok(()),
            Some(Job::Notice(notice)) => self.input(id, index, |core, environment| core.notice(environment, notice)),
            Some(Job::Request { request, waiter, .. }) => self.process(id, index, waiter, request),
        }
    }

    fn schedule_turn(&mut self, id: i32, index: i32) {
        let life = self.brokers.get(&id).map_or(0, |broker| broker.life);
        let delay = self.draw_us(RELEASE_US);
        self.schedule_us(delay, Event::TakeTurn { broker: id, life, partition: index });
    }

    pub(super) fn turn_comes(&mut self, id: i32, life: u32, index: i32) -> Result<(), Violation> {
        match self.brokers.get(&id) {
            Some(broker) if broker.life == life => self.take_turn(id, index),
            _ => Ok(()),
        }
    }

    fn process(&mut self, id: i32, index: i32, mut caller: Caller, request: Request) -> Result<(), Violation> {
        let Some(host) = self.host(id, index) else { return Ok(()) };
        if caller.arrival < host.processed {
            let (call, last) = (caller.call, host.processed);
            let what = format!("b{id} took call {call} of partition {index} after one that came later ({last})");
            return Err(Violation(what));
        }
        host.processed = caller.arrival;
        if matches!(request, Request::SyncGroup(_) | Request::FetchOffsets(_)) {
            // Those of the step: the request may have waited for it, and the answer may wait for its records, while the
            // image moves on (seeds 17 and 4500).
            caller.topic_ids = self.brokers.get(&id).map(|broker| broker.topics.ids()).unwrap_or_default();
        }
        let mut own = None;
        self.input(id, index, |core, environment| {
            let (answer, outputs) = core.request(environment, request, || caller.clone());
            own = answer;
            outputs
        })?;
        match own {
            Some(answer) => self.answer(id, index, &caller, answer),
            None => Ok(()),
        }
    }

    /// A step of a partition waits for its disk for `ms`, and is known to after `known_after_ms`.
    pub fn hold_partition(&mut self, id: i32, index: i32, ms: u64, known_after_ms: u64) {
        let Some(host) = self.host(id, index).filter(|host| host.held.is_none()) else { return };
        host.held = Some(Hold::default());
        let life = self.brokers.get(&id).map_or(0, |broker| broker.life);
        self.note(format_args!("a step of b{id} holds partition {index} for {ms} ms"));
        if known_after_ms < ms {
            self.schedule_us(known_after_ms * 1_000, Event::NoticeStall { broker: id, life, partition: index });
        }
        self.schedule_us(ms * 1_000, Event::Release { broker: id, life, partition: index });
    }

    pub(super) fn notice_stall(&mut self, id: i32, life: u32, index: i32) {
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.life == life) else { return };
        if let Some(hold) = broker.partitions.get_mut(&index).and_then(|host| host.held.as_mut()) {
            hold.is_known = true;
        }
    }

    pub(super) fn release(&mut self, id: i32, life: u32, index: i32) -> Result<(), Violation> {
        let Some(broker) = self.brokers.get_mut(&id).filter(|broker| broker.life == life) else { return Ok(()) };
        let Some(hold) = broker.partitions.get_mut(&index).and_then(|host| host.held.take()) else { return Ok(()) };
        self.note(format_args!("b{id} releases partition {index}"));
        self.schedule_turn(id, index);
        hold.loaded.into_iter().try_for_each(|result| self.loaded(id, index, result))
    }
}
