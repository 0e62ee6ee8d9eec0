//! A broker and the quorum: registration, the heartbeat stream, the watch, and the controlled shutdown.

use std::sync::Arc;

use ottla_metadata::controller::{
    Beat, BeatAnswer, ControlledShutdown, Refusal, Register, Registered, ShutdownProgress,
};
use ottla_metadata::{Delta, Endpoint, Image, Request};
use ottla_model::{BrokerEpoch, CoordinatorId, ListenerName, MonotonicMs, Revision, TimestampMs};

use super::process::{Call, Process};
use crate::message::{Message, WatchEvent};
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;

const BEAT_MS: u64 = 500;
/// A stream that says nothing for this long is given up.
const BEAT_SILENCE_MS: u64 = 1_000;
/// After a stream ended.
const REOPEN_MS: u64 = 100;
const REGISTER_RETRY_MS: u64 = 100;
/// An image that is behind for this long is fetched from another coordinator.
const BEHIND_MS: u64 = 500;
/// A watch that brought nothing for this long is begun again, elsewhere.
const WATCH_SILENCE_MS: u64 = 2_000;
const SHUTDOWN_RETRY_MS: u64 = 100;
/// Leaders that have not moved by then stay where they are.
const SHUTDOWN_MAX_MS: u64 = 3_000;

pub(super) struct Session {
    coordinators: Vec<u64>,
    /// Whom to ask next: the last known leader, or a guess.
    leader: u64,
    registered: Option<BrokerEpoch>,
    /// The epoch since which nothing was lost.
    previous_epoch: BrokerEpoch,
    register_at: MonotonicMs,
    registering: bool,

    connection: u64,
    is_open: bool,
    open_at: MonotonicMs,
    last_beat: MonotonicMs,
    last_answer: MonotonicMs,
    told_revision: Revision,
    committed: Revision,
    behind_since: Option<MonotonicMs>,

    watch_from: u64,
    stream: u64,
    is_watching: bool,
    last_event: MonotonicMs,

    shutdown_since: Option<MonotonicMs>,
    shutdown_asked: MonotonicMs,
    shutdown_done: bool,
}

impl Session {
    pub fn new(coordinators: &[u64], previous_epoch: BrokerEpoch, random: &mut Random) -> Self {
        let guess = random.pick(coordinators).copied().unwrap_or(1);
        Self {
            coordinators: coordinators.to_vec(),
            leader: guess,
            registered: None,
            previous_epoch,
            register_at: MonotonicMs(0),
            registering: false,
            // Never those of a former life.
            connection: random.next_u64() >> 1,
            is_open: false,
            open_at: MonotonicMs(0),
            last_beat: MonotonicMs(0),
            last_answer: MonotonicMs(0),
            told_revision: Revision(0),
            committed: Revision(0),
            behind_since: None,
            watch_from: guess,
            stream: random.next_u64() >> 1,
            is_watching: false,
            last_event: MonotonicMs(0),
            shutdown_since: None,
            shutdown_asked: MonotonicMs(0),
            shutdown_done: false,
        }
    }

    pub fn epoch(&self) -> Option<BrokerEpoch> {
        self.registered
    }

    /// The last epoch in which the logs were whole: one that was fenced has lost nothing.
    pub fn whole_since(&self) -> BrokerEpoch {
        self.registered.unwrap_or(self.previous_epoch)
    }

    pub fn leader_node(&self) -> NodeId {
        NodeId::Coordinator(self.leader)
    }

    fn another(&self, than: u64, random: &mut Random) -> u64 {
        let others: Vec<_> = self.coordinators.iter().copied().filter(|id| *id != than).collect();
        random.pick(&others).copied().unwrap_or(than)
    }

    pub fn try_another_coordinator(&mut self, random: &mut Random) {
        self.leader = self.another(self.leader, random);
    }

    pub fn not_leader(&mut self, hint: Option<CoordinatorId>, random: &mut Random) {
        match hint {
            Some(leader) if leader.0 != self.leader => self.leader = leader.0,
            _ => self.try_another_coordinator(random),
        }
    }

    pub fn registration_failed(&mut self, now: MonotonicMs) {
        self.registering = false;
        self.register_at = MonotonicMs(now.0 + REGISTER_RETRY_MS);
    }

    pub fn shutdown_progress(&mut self, progress: &ShutdownProgress) {
        self.shutdown_done |= progress.done || !progress.error.is_ok();
    }

    fn close_beats(&mut self, now: MonotonicMs) {
        self.is_open = false;
        self.open_at = MonotonicMs(now.0 + REOPEN_MS);
    }
}

fn passed(now: MonotonicMs, since: MonotonicMs) -> u64 {
    now.0.saturating_sub(since.0)
}

impl Process {
    pub(super) fn tick_session(&mut self, now: MonotonicMs, out: &mut Outbox) {
        if self.session.registered.is_none() {
            self.register(now, out);
        } else {
            self.beat(now, out);
        }
        let silent = passed(now, self.session.last_event) >= WATCH_SILENCE_MS;
        let behind = self.session.behind_since.is_some_and(|since| passed(now, since) >= BEHIND_MS);
        if !self.session.is_watching || silent || behind {
            self.watch(now, out);
        }
    }

    fn register(&mut self, now: MonotonicMs, out: &mut Outbox) {
        if self.session.registering || now < self.session.register_at || self.session.shutdown_since.is_some() {
            return;
        }
        let cluster_id = match self.cluster_id() {
            Ok(cluster_id) => cluster_id,
            Err(error) => return self.die(&error, out),
        };
        let listener = ListenerName::new("INTERNAL");
        let port = u16::try_from(9_000 + self.id.0).unwrap_or(9_000);
        let request = Request::Register(Register {
            broker: self.id,
            incarnation: self.incarnation,
            cluster_id,
            endpoints: vec![Endpoint {
                listener: listener.clone(),
                host: format!("b{}", self.id),
                port,
                security_protocol: "PLAINTEXT".to_owned(),
            }],
            inter_broker_listener: listener,
            rack: None,
            clean_shutdown_epoch: self.session.previous_epoch,
            min_insync_replicas: self.settings.min_insync_replicas,
        });
        let call = self.call_id();
        self.session.registering = true;
        self.calls.insert(call, (now, Call::Register));
        out.send(self.session.leader_node(), Message::Cluster { call, request: Arc::new(request) });
    }

    pub(super) fn registered(&mut self, now: MonotonicMs, result: Result<Registered, Refusal>, out: &mut Outbox) {
        self.session.registering = false;
        match result {
            Ok(registered) => {
                out.note(format_args!("is registered with epoch {}", registered.epoch));
                self.session.registered = Some(registered.epoch);
                if let Err(error) = self.remember(&registered.cluster_id, registered.epoch) {
                    return self.die(&error, out);
                }
                self.session.is_open = false;
                self.session.open_at = now;
                self.beat(now, out);
            }
            Err(refusal) => {
                out.note(format_args!("is not registered: {refusal}"));
                self.session.registration_failed(now);
            }
        }
    }

    fn beat(&mut self, now: MonotonicMs, out: &mut Outbox) {
        let Some(epoch) = self.session.registered else { return };
        let beat =
            Beat { broker: self.id, epoch, incarnation: self.incarnation, image_revision: self.image.revision() };
        if self.session.is_open && passed(now, self.session.last_answer) >= BEAT_SILENCE_MS {
            self.session.close_beats(now);
            self.session.try_another_coordinator(&mut self.random);
        }
        if !self.session.is_open {
            if now < self.session.open_at {
                return;
            }
            self.session.connection += 1;
            self.session.is_open = true;
            self.session.last_answer = now;
            self.session.last_beat = now;
            self.session.told_revision = beat.image_revision;
            let connection = self.session.connection;
            out.send(self.session.leader_node(), Message::BeatOpen { connection, beat });
        } else if passed(now, self.session.last_beat) >= BEAT_MS || self.session.told_revision < beat.image_revision {
            self.session.last_beat = now;
            self.session.told_revision = beat.image_revision;
            let connection = self.session.connection;
            out.send(self.session.leader_node(), Message::Beat { connection, beat });
        }
    }

    pub(super) fn beat_answered(
        &mut self,
        now: MonotonicMs,
        from: NodeId,
        connection: u64,
        answer: Option<BeatAnswer>,
        leader: Option<CoordinatorId>,
        out: &mut Outbox,
    ) {
        if !self.session.is_open || connection != self.session.connection || from != self.session.leader_node() {
            return;
        }
        let Some(answer) = answer else {
            self.session.close_beats(now);
            self.session.not_leader(leader, &mut self.random);
            return;
        };
        self.session.last_answer = now;
        self.session.committed = self.session.committed.max(answer.committed_revision);
        self.note_lag(now);
        if answer.fenced {
            out.note(format_args!("was fenced"));
            // The process lives and has lost nothing since.
            if let Some(epoch) = self.session.registered.take() {
                self.session.previous_epoch = epoch;
            }
            self.session.close_beats(now);
            self.session.register_at = now;
        }
    }

    fn note_lag(&mut self, now: MonotonicMs) {
        if self.image.revision() >= self.session.committed {
            self.session.behind_since = None;
        } else {
            self.session.behind_since.get_or_insert(now);
        }
    }

    fn watch(&mut self, now: MonotonicMs, out: &mut Outbox) {
        self.session.watch_from = self.session.another(self.session.watch_from, &mut self.random);
        self.session.stream += 1;
        self.session.is_watching = true;
        self.session.last_event = now;
        self.session.behind_since = None;
        let stream = self.session.stream;
        let from = self.image.revision();
        out.send(NodeId::Coordinator(self.session.watch_from), Message::Watch { stream, from });
    }

    pub(super) fn watched(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        stream: u64,
        event: WatchEvent,
        out: &mut Outbox,
    ) {
        if stream != self.session.stream {
            return;
        }
        self.session.last_event = now;
        let (next, delta) = match event {
            WatchEvent::Snapshot { revision, nodes } => {
                if revision <= self.image.revision() {
                    return;
                }
                let (next, _) = Image::from_nodes(revision, nodes.iter().map(|(path, node)| (path, node)));
                let delta = Delta::between(&self.image, &next);
                (next, delta)
            }
            WatchEvent::Changes { revision, changes } => {
                if revision <= self.image.revision() {
                    return;
                }
                self.image.apply(revision, &changes)
            }
        };
        self.image = next;
        self.note_lag(now);
        self.image_moved(now, wall, &delta, out);
        self.beat(now, out);
    }

    pub(super) fn connection_lost(&mut self, now: MonotonicMs, from: NodeId) {
        if from == self.session.leader_node() && self.session.is_open {
            self.session.close_beats(now);
            self.session.try_another_coordinator(&mut self.random);
        }
        if from == NodeId::Coordinator(self.session.watch_from) {
            self.session.is_watching = false;
        }
        if let NodeId::Broker(id) = from {
            self.fetchers.lost(now, ottla_model::BrokerId(id));
        }
    }

    pub(super) fn begin_shutdown(&mut self, now: MonotonicMs) {
        self.session.shutdown_since.get_or_insert(now);
    }

    pub(super) fn tick_shutdown(&mut self, now: MonotonicMs, _wall: TimestampMs, out: &mut Outbox) {
        let Some(since) = self.session.shutdown_since else { return };
        let epoch = self.session.registered;
        if self.session.shutdown_done || epoch.is_none() || passed(now, since) >= SHUTDOWN_MAX_MS {
            match self.close_all(now, out) {
                Ok(()) => out.note(format_args!("has shut down cleanly")),
                Err(error) => out.note(format_args!("goes without closing: {error}")),
            }
            out.dies = true;
            return;
        }
        if passed(now, self.session.shutdown_asked) >= SHUTDOWN_RETRY_MS
            && !self.calls.values().any(|(_, call)| matches!(call, Call::Shutdown))
            && let Some(epoch) = epoch
        {
            self.session.shutdown_asked = now;
            let request = Request::ControlledShutdown(ControlledShutdown {
                broker: self.id,
                epoch,
                incarnation: self.incarnation,
            });
            let call = self.call_id();
            self.calls.insert(call, (now, Call::Shutdown));
            out.send(self.session.leader_node(), Message::Cluster { call, request: Arc::new(request) });
        }
    }
}
