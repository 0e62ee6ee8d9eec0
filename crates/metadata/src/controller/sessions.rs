//! A broker's session: heartbeats, readiness, fencing.

use ottla_model::{BrokerId, IncarnationId};

use super::draft::Draft;
use super::electorate::next_controller;
use super::work_queue::{Progress, Work};
use super::{Beat, BeatAnswer, Controller, ProbeResult, StreamId};
use crate::image::{BrokerMemory, BrokerRegistration};
use crate::liveness::Verdict;
use crate::nodes;
use crate::nodes::controller::ControllerNode;

impl Controller {
    pub(super) fn beat(&mut self, stream: StreamId, beat: Beat) {
        let is_known = self.liveness.beat(stream, &beat);
        self.heard_broker(beat.broker);
        let image = self.ledger.image();
        let is_registered = image
            .broker(beat.broker)
            .is_some_and(|broker| broker.epoch == beat.epoch && broker.incarnation == beat.incarnation);
        let answer = BeatAnswer {
            committed_revision: image.revision(),
            fenced: !is_registered,
            session_timeout: self.config.session_timeout,
        };
        self.effects.heartbeats.push((stream, answer));
        if is_known {
            self.make_ready(beat.broker);
            self.end_stale_shutdown(&beat);
        }
    }

    /// The broker's image has reached its registration: it knows which partitions it no longer leads. Its address was
    /// dialled: a registration with the address of another broker gets no replicas. From now on the broker may lead and
    /// join ISRs. No ISR contains its predecessor (except as the last member): registration waited for that.
    fn make_ready(&mut self, id: BrokerId) {
        let Some(session) = self.liveness.session(id).filter(|session| session.has_stream()) else { return };
        let ahead = self.ledger.ahead();
        let Some(broker) = ahead.broker(id).filter(|broker| broker.epoch == session.epoch && !broker.ready) else {
            return;
        };
        let lags = i64::try_from(session.image_revision.0).is_ok_and(|revision| revision < broker.epoch.0);
        if lags || !self.liveness.is_address_checked(id) {
            return;
        }
        let ready = BrokerRegistration { ready: true, ..(**broker).clone() };
        let mut draft = Draft::default();
        draft.put(self.ledger.ahead_tree(), nodes::broker::path(ready.id), nodes::broker::encode(&ready));
        self.propose(draft);
        self.work.push(Progress::new(Work::Elect(ready.id)));
        self.complete_reassignments();
        self.may_grow = true;
        // One behind TLS never answers, and a name may be for other networks than this coordinator's.
        let has_answered = self.liveness.reached().has(ready.id, ready.incarnation);
        let whether = if has_answered { "" } else { "; it has not answered at its address" };
        self.note(format!("broker {} is ready, in epoch {}{whether}", ready.id, ready.epoch));
    }

    pub(super) fn stream_closed(&mut self, stream: StreamId) {
        let Some(broker) = self.liveness.stream_closed(stream) else { return };
        if self.liveness.session(broker).is_some_and(|session| session.is_leaving) {
            // Nothing that anybody has to look after.
            if let Some(text) = self.remove_broker(broker, "it has shut down") {
                self.note(text);
            }
        }
    }

    pub(super) fn probed(&mut self, broker: BrokerId, incarnation: IncarnationId, result: ProbeResult) {
        match self.liveness.probed(broker, incarnation, result) {
            Verdict::Gone => self.fence(broker, "its stream has ended and it does not answer any more where it did"),
            Verdict::Alive => self.registrations.holder_answered(broker, incarnation),
            Verdict::Unknown => {}
        }
        self.make_ready(broker);
    }

    pub(super) fn fence_expired(&mut self) {
        for (broker, reason) in self.liveness.expired() {
            self.fence(broker, reason);
        }
    }

    /// A broker that is not there any more, or must not be.
    pub(super) fn fence(&mut self, broker: BrokerId, reason: &str) {
        if let Some(text) = self.remove_broker(broker, reason) {
            self.warn(text);
        }
    }

    /// Removes the broker from the tree, and from as many partitions as fit into one transaction; the rest follows.
    /// The line to log; none if it is being removed already.
    fn remove_broker(&mut self, broker: BrokerId, reason: &str) -> Option<String> {
        let (ahead, tree) = (self.ledger.ahead(), self.ledger.ahead_tree());
        // The session is of the committed registration. Its fencing may be in flight already, and with it the next
        // incarnation's registration, which has done nothing yet to be fenced for.
        let epoch = self.liveness.session(broker)?.epoch;
        let registration = ahead.broker(broker).filter(|broker| broker.epoch == epoch).cloned()?;
        // One that ends before its shutdown is answered has left clients at an address that refuses them (scenario 67).
        let is_graceful = registration.shutting_down && !self.shutdowns.is_waiting(broker);
        let mut draft = Draft::default();
        draft.delete(tree, nodes::broker::path(broker));
        // A session that was never ready led nothing and joined no ISR, and the broker may not know of it (the response
        // was lost, and the process ended). The next incarnation is compared with the last session that was ready.
        let former = ahead.broker_memory(broker).filter(|_| !registration.ready);
        let memory = BrokerMemory {
            id: broker,
            epoch: former.map_or(registration.epoch, |former| former.epoch),
            incarnation: registration.incarnation,
            min_insync_replicas: registration.min_insync_replicas,
            fenced_at: self.now.wall,
            endpoints: registration.endpoints.clone(),
            rack: registration.rack.clone(),
            levels: registration.levels,
            unregistered: false,
            ended_abruptly: !is_graceful || registration.awaits_clients,
        };
        draft.put(tree, nodes::broker_memory::path(broker), nodes::broker_memory::encode(&memory));
        let mut epoch = ahead.controller_epoch();
        if ahead.controller() == Some(broker) {
            let next = next_controller(ahead, broker);
            if next.is_some() {
                epoch = epoch.next();
            }
            self.draft_controller(&mut draft, next);
        }
        let mut progress = Progress::new(Work::Fence(broker));
        let is_done = self.fill_batch(&mut draft, &mut progress, epoch);
        self.work.remove(Work::Shutdown(broker));
        self.work.remove(Work::Elect(broker));
        if self.propose(draft).is_some() && !is_done {
            self.work.push(progress);
        }
        self.end_shutdowns_of(broker);
        Some(format!(
            "broker {broker} (epoch {}, incarnation {}) is fenced: {reason}",
            registration.epoch, registration.incarnation
        ))
    }

    /// `/controller` names this broker from now on, or none.
    pub(super) fn draft_controller(&self, draft: &mut Draft, broker: Option<BrokerId>) {
        let tree = self.ledger.ahead_tree();
        let Some(broker) = broker else { return draft.delete(tree, nodes::controller::path()) };
        let node = ControllerNode { broker, since: self.now.wall };
        draft.put(tree, nodes::controller::path(), nodes::controller::encode(node));
        let epoch = self.ledger.ahead().controller_epoch().next();
        draft.put(tree, nodes::controller_epoch::path(), nodes::controller_epoch::encode(epoch));
    }

    /// Repairs a `/controller` without a live broker. The fencing transaction moves it; this is for trees of another
    /// origin.
    pub(super) fn ensure_controller(&mut self) {
        let ahead = self.ledger.ahead();
        if ahead.controller().is_some_and(|broker| ahead.broker(broker).is_some()) {
            return;
        }
        let next = next_controller(ahead, BrokerId::NONE);
        if next != ahead.controller() {
            let mut draft = Draft::default();
            self.draft_controller(&mut draft, next);
            self.propose(draft);
        }
    }
}
