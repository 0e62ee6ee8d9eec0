//! Controlled shutdown: a broker's leaderships move first, and the other brokers learn of it before it stops answering.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::{BrokerId, ErrorCode, MonotonicMs, Revision};

use super::draft::Draft;
use super::electorate::next_controller;
use super::work_queue::{Progress, Work};
use super::{
    Answer, Beat, ControlledShutdown, Controller, EntryId, IdempotencyKey, Refusal, RequestId, ShutdownProgress,
    UnregisterBroker, Unregistered,
};
use crate::image::{BrokerMemory, BrokerRegistration};
use crate::nodes;

/// How long a request waits for the last changes to commit and for the other brokers' images to catch up. Then it is
/// answered as not done, and the broker retries. It gives an attempt without an answer up after
/// [`ATTEMPT_TIMEOUT`](crate::leader_search::ATTEMPT_TIMEOUT), and soon takes the quorum for lost.
const HOLD: Duration = Duration::from_millis(500);

/// How long a broker may keep sending heartbeats after its last shutdown request. It moves leaderships for 3 s and then
/// closes its logs; a shutdown with very many logs may take a minute.
const GOES_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Waiting {
    broker: BrokerId,
    deadline: MonotonicMs,
    /// The last proposal for this shutdown; none while more will follow, or if there was nothing to do.
    after: Option<EntryId>,
    is_moved: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shutdowns {
    waiting: BTreeMap<RequestId, Waiting>,
    /// Of the last change that was made for each broker's shutdown, as far as this controller knows.
    moved_at: BTreeMap<BrokerId, Revision>,
    /// The time of each broker's last shutdown request, as far as this controller knows.
    asked_at: BTreeMap<BrokerId, MonotonicMs>,
}

impl Shutdowns {
    pub fn outstanding(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.waiting.keys().copied()
    }

    /// Whether a request of the broker has no answer yet.
    pub fn is_waiting(&self, broker: BrokerId) -> bool {
        self.waiting.values().any(|waiting| waiting.broker == broker)
    }
}

impl Controller {
    pub(super) fn controlled_shutdown(&mut self, id: RequestId, request: ControlledShutdown) {
        let ControlledShutdown { broker, epoch, incarnation } = request;
        if let Err(error) = self.check_epoch(broker, epoch) {
            return self.answer(id, shutdown_progress(error, 0, false));
        }
        let ahead = self.ledger.ahead();
        if ahead.broker(broker).is_none_or(|registration| registration.incarnation != incarnation) {
            return self.answer(id, shutdown_progress(ErrorCode::StaleBrokerEpoch, 0, false));
        }
        self.shutdowns.asked_at.insert(broker, self.now.monotonic);
        if let Some(registration) = ahead.broker(broker).filter(|registration| !registration.shutting_down) {
            let leaving = BrokerRegistration { shutting_down: true, ..(**registration).clone() };
            let mut draft = Draft::default();
            draft.put(self.ledger.ahead_tree(), nodes::broker::path(broker), nodes::broker::encode(&leaving));
            // Clients should not use a broker that shuts down as the controller.
            if ahead.controller() == Some(broker)
                && let Some(next) = next_controller(ahead, broker)
            {
                self.draft_controller(&mut draft, Some(next));
            }
            self.propose(draft);
            self.note(format!("broker {broker} shuts down: its leaderships move"));
        }
        if !self.work.contains(Work::Shutdown(broker)) {
            self.work.push(Progress::new(Work::Shutdown(broker)));
        }
        let deadline = self.now.monotonic + HOLD;
        self.shutdowns.waiting.insert(id, Waiting { broker, deadline, after: None, is_moved: false });
    }

    /// A broker leaves the cluster permanently. A live one is fenced first, and may register again.
    pub(super) fn unregister_broker(&mut self, id: RequestId, request: UnregisterBroker, key: Option<IdempotencyKey>) {
        let broker = request.broker;
        if !self.ledger.ahead().is_registered(broker) {
            let text = format!("Broker ID {broker} is not currently registered");
            let refusal = Refusal::new(ErrorCode::BrokerIdNotRegistered, text);
            return self.answer(id, Answer::UnregisterBroker(Err(refusal)));
        }
        self.fence(broker, "it was unregistered");
        let (ahead, tree) = (self.ledger.ahead(), self.ledger.ahead_tree());
        // Its registration is in flight: there is no session yet that could end.
        let memory = ahead.broker_memory(broker).filter(|_| ahead.broker(broker).is_none()).cloned();
        let Some(memory) = memory else { return self.answer(id, Answer::Unavailable) };
        let mut draft = Draft::default();
        let is_named = ahead.in_sync_on(broker).chain(ahead.eligible_on(broker)).next().is_some();
        match is_named {
            true => {
                let unregistered = BrokerMemory { unregistered: true, ..(*memory).clone() };
                let payload = nodes::broker_memory::encode(&unregistered);
                draft.put(tree, nodes::broker_memory::path(broker), payload);
            }
            false => draft.delete(tree, nodes::broker_memory::path(broker)),
        }
        let response = Answer::UnregisterBroker(Ok(Unregistered { revision: Revision(0) }));
        self.remember(&mut draft, key, &response);
        self.propose(draft);
        // What waits for it is given up.
        self.room_at.insert(broker);
        self.note(format!("broker {broker} is unregistered"));
        self.answer(id, response);
    }

    /// The broker is out of the tree: its waiting shutdown requests are obsolete.
    pub(super) fn end_shutdowns_of(&mut self, broker: BrokerId) {
        self.shutdowns.moved_at.remove(&broker);
        self.shutdowns.asked_at.remove(&broker);
        let of_broker = |waiting: &Waiting| waiting.broker == broker;
        let ended: Vec<_> =
            self.shutdowns.waiting.iter().filter(|(_, waiting)| of_broker(waiting)).map(|(id, _)| *id).collect();
        for id in ended {
            self.shutdowns.waiting.remove(&id);
            self.answer(id, shutdown_progress(ErrorCode::StaleBrokerEpoch, 0, false));
        }
    }

    /// A broker that requested its shutdown but keeps sending heartbeats does not shut down: it may lead again.
    pub(super) fn end_stale_shutdown(&mut self, beat: &Beat) {
        let ahead = self.ledger.ahead();
        let leaving = |broker: &&std::sync::Arc<BrokerRegistration>| broker.epoch == beat.epoch && broker.shutting_down;
        let Some(registration) = ahead.broker(beat.broker).filter(leaving).cloned() else { return };
        let asked_at = *self.shutdowns.asked_at.entry(beat.broker).or_insert(self.now.monotonic);
        if self.now.monotonic.since(asked_at) < GOES_WITHIN {
            return;
        }
        self.shutdowns.asked_at.remove(&beat.broker);
        self.shutdowns.moved_at.remove(&beat.broker);
        self.work.remove(Work::Shutdown(beat.broker));
        if let Some(session) = self.liveness.session_mut(beat.broker) {
            session.is_leaving = false;
        }
        let staying = BrokerRegistration { shutting_down: false, ..(*registration).clone() };
        let mut draft = Draft::default();
        draft.put(self.ledger.ahead_tree(), nodes::broker::path(beat.broker), nodes::broker::encode(&staying));
        self.propose(draft);
        self.work.push(Progress::new(Work::Elect(beat.broker)));
        self.complete_reassignments();
        self.warn(format!("broker {} asked for a shutdown and goes on: it counts again", beat.broker));
    }

    /// The work queue was cleared: queue requested work again.
    pub(super) fn resume_shutdowns(&mut self) {
        for waiting in self.shutdowns.waiting.values_mut() {
            (waiting.after, waiting.is_moved) = (None, false);
            let work = Work::Shutdown(waiting.broker);
            if !self.work.contains(work) {
                self.work.push(Progress::new(work));
            }
        }
    }

    /// Answers the requests that are done, or that have waited long enough.
    pub(super) fn advance_shutdowns(&mut self) {
        for (id, mut waiting) in std::mem::take(&mut self.shutdowns.waiting) {
            let broker = waiting.broker;
            if !waiting.is_moved && !self.work.contains(Work::Shutdown(broker)) {
                waiting.is_moved = true;
                waiting.after = self.ledger.last_in_flight();
            }
            let is_committed = waiting.is_moved && waiting.after.is_none_or(|entry| !self.ledger.is_in_flight(entry));
            if is_committed && waiting.after.take().is_some() {
                let at = self.ledger.image().revision();
                self.shutdowns.moved_at.insert(broker, at);
            }
            // After a change of quorum leader the time is unknown: the current commit index is late enough.
            let committed = self.ledger.image().revision();
            let is_known = is_committed && {
                let moved_at = *self.shutdowns.moved_at.entry(broker).or_insert(committed);
                self.others_have_reached(broker, moved_at)
            };
            if !is_known && self.now.monotonic < waiting.deadline {
                self.shutdowns.waiting.insert(id, waiting);
                continue;
            }
            let (remaining, may_move) = self.remaining_leaderships(broker);
            let is_done = is_known && !may_move;
            if let Some(session) = self.liveness.session_mut(broker).filter(|_| is_done) {
                session.is_leaving = true;
            }
            let revision = self.shutdowns.moved_at.get(&broker).copied();
            let mut answer = shutdown_progress(ErrorCode::None, remaining, is_done);
            answer.stamp(revision.unwrap_or(committed), false);
            self.effects.answers.push((id, answer));
        }
    }

    /// Whether every other live broker that is not shutting down has an image of this revision, so that none sends
    /// clients or fetchers to the leaving one.
    fn others_have_reached(&self, leaving: BrokerId, revision: Revision) -> bool {
        let image = self.ledger.image();
        self.liveness.sessions().filter(|(broker, session)| *broker != leaving && session.has_stream()).all(
            |(broker, session)| {
                image.broker(broker).is_none_or(|b| !b.is_active()) || session.image_revision >= revision
            },
        )
    }

    /// The number of partitions that the broker still leads, and whether any of them could move once another replica
    /// has caught up.
    fn remaining_leaderships(&self, broker: BrokerId) -> (u32, bool) {
        let ahead = self.ledger.ahead();
        let (mut remaining, mut may_move) = (0_u32, false);
        for partition in ahead.led_by(broker) {
            let Some(state) = ahead.partition(partition) else { continue };
            remaining = remaining.saturating_add(1);
            may_move |= state
                .replicas
                .iter()
                .any(|replica| *replica != broker && ahead.broker(*replica).is_some_and(|r| r.is_active()));
        }
        (remaining, may_move)
    }
}

pub(super) fn shutdown_progress(error: ErrorCode, remaining_leaderships: u32, done: bool) -> Answer {
    Answer::ControlledShutdown(ShutdownProgress { error, remaining_leaderships, revision: Revision(0), done })
}
