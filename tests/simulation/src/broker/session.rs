//! A broker and the quorum: carries out what the session decides (`ottla-broker-session`), sends its calls to
//! coordinators, and holds the watch.

use std::sync::Arc;
use std::time::Duration;

use ottla_broker_session::{Applicant, Closing, Effect, Session, SessionConfig};
use ottla_metadata::controller::BeatAnswer;
use ottla_metadata::image::Standing;
use ottla_metadata::leader_search::{Attempted, Attempts, LeaderSearch, Repeat};
use ottla_metadata::{Answer, Endpoint, Request, watch};
use ottla_model::{BrokerId, CoordinatorId, FeatureLevels, IncarnationId, ListenerName, MonotonicMs, TimestampMs};

use super::BrokerSettings;
use super::disk::OpenedLogs;
use super::process::{Call, Process};
use crate::message::{CallId, Message, WatchEvent};
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;

/// As the brokers' and coordinators' defaults have it.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// As the channels of `ottla-rpc` have it: a ping after a second without a byte, and a second for its answer. A
/// coordinator that answers, and brings nothing, is left only because the session says so.
const WATCH_PING_MS: u64 = 1_000;
const WATCH_SILENCE_MS: u64 = 2_000;

/// A registration is asked for in calls of this length.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);

/// A request to the leader of the quorum, which goes from coordinator to coordinator until its time is over.
pub(super) struct PendingCall {
    what: Call,
    request: Arc<Request>,
    began: MonotonicMs,
    attempts: Attempts,
    /// Whom it asks; none while it pauses.
    asked: Option<u64>,
    /// The end of the attempt or of the pause.
    until: MonotonicMs,
}

/// What the process has of streams to the coordinators.
pub(super) struct QuorumLink {
    search: LeaderSearch<u64>,
    /// The stream of heartbeats, and with whom.
    beats: Option<(u64, u64)>,
    next_beats: u64,

    watch_from: u64,
    stream: u64,
    is_watching: bool,
    /// When the last event or pong came.
    last_event: MonotonicMs,
    /// A ping is sent, and nothing has come since.
    is_pinged: bool,
    coordinators: Vec<u64>,
}

impl QuorumLink {
    pub fn new(coordinators: &[u64], random: &mut Random) -> Option<Self> {
        Some(Self {
            search: LeaderSearch::new(coordinators.to_vec())?,
            beats: None,
            // Never those of a former life.
            next_beats: random.next_u64() >> 1,
            watch_from: random.pick(coordinators).copied().unwrap_or(1),
            stream: random.next_u64() >> 1,
            is_watching: false,
            last_event: MonotonicMs(0),
            is_pinged: false,
            coordinators: coordinators.to_vec(),
        })
    }
}

/// The session of a new process.
pub(super) fn new_session(
    (id, incarnation): (BrokerId, IncarnationId),
    levels: FeatureLevels,
    opened: &OpenedLogs,
    settings: &BrokerSettings,
    now: MonotonicMs,
) -> Session {
    let config = SessionConfig {
        heartbeat_interval: HEARTBEAT_INTERVAL,
        session_timeout: SESSION_TIMEOUT,
        controlled_shutdown: true,
        rules: settings.session_rules,
    };
    let listener = ListenerName::new("INTERNAL");
    let applicant = Applicant {
        id,
        incarnation,
        stored_cluster_id: opened.log_dirs.meta().ok().flatten().and_then(|meta| meta.cluster_id),
        wanted_cluster_id: None,
        endpoints: vec![Endpoint {
            listener: listener.clone(),
            host: format!("b{id}"),
            port: u16::try_from(9_000 + id.0).unwrap_or(9_000),
            security_protocol: "PLAINTEXT".to_owned(),
        }],
        inter_broker_listener: listener,
        rack: None,
        whole_since: opened.last_run.whole_since,
        min_insync_replicas: settings.min_insync_replicas,
        leaders: settings.leaders,
        levels,
    };
    Session::new(config, applicant, now)
}

impl Process {
    pub(super) fn tick_session(&mut self, now: MonotonicMs, out: &mut Outbox) {
        let silent_ms = now.0.saturating_sub(self.link.last_event.0);
        if !self.link.is_watching || silent_ms >= WATCH_SILENCE_MS {
            self.watch(now, out);
        } else if silent_ms >= WATCH_PING_MS && !self.link.is_pinged {
            self.link.is_pinged = true;
            out.send(NodeId::Coordinator(self.link.watch_from), Message::WatchPing { stream: self.link.stream });
        }
        self.run_session(now, out);
    }

    /// Carries out what the session wants.
    pub(super) fn run_session(&mut self, now: MonotonicMs, out: &mut Outbox) {
        self.session.image_moved(&self.image, self.image.revision());
        for effect in self.session.tick(now) {
            match effect {
                // Of a broker that was told the name of its cluster.
                Effect::AskClusterId => self.session.cluster_id_answered(now, self.image.cluster_id()),
                Effect::Register(register) => {
                    self.call(now, Call::Register, Request::Register(register), REGISTER_TIMEOUT, out);
                }
                Effect::Remember { registered, is_first } => {
                    if is_first && let Err(error) = self.log_dirs.claim(registered.broker, &registered.cluster_id) {
                        return self.die(&error, out);
                    }
                    self.log_dirs.remember_registration(registered.epoch);
                }
                Effect::Registered(registered) => {
                    out.note(format_args!("is registered with epoch {}", registered.epoch));
                    self.identity = registered.epoch;
                }
                Effect::OpenHeartbeats(beat) => {
                    let leader = *self.link.search.guess();
                    self.link.next_beats += 1;
                    let connection = self.link.next_beats;
                    self.link.beats = Some((leader, connection));
                    out.send(NodeId::Coordinator(leader), Message::BeatOpen { connection, beat });
                    self.session.heartbeats_opened(now);
                }
                Effect::Heartbeat(beat) => {
                    if let Some((leader, connection)) = self.link.beats {
                        out.send(NodeId::Coordinator(leader), Message::Beat { connection, beat });
                    }
                }
                Effect::CloseHeartbeats { is_silent } => {
                    let closed = self.link.beats.take().filter(|_| is_silent);
                    if let Some((leader, _)) = closed {
                        self.link.search.move_on(&leader);
                    }
                }
                Effect::LeaveWatch => self.watch(now, out),
                Effect::Serve => self.begin_to_serve(out),
                Effect::ControlledShutdown(request, timeout) => {
                    self.call(now, Call::Shutdown, Request::ControlledShutdown(request), timeout, out);
                }
                Effect::Close(closing) => self.close(now, closing, out),
                Effect::GiveUp(give_up) => {
                    out.note(format_args!("gives up: {give_up}"));
                    out.dies = true;
                }
            }
        }
    }

    fn close(&mut self, now: MonotonicMs, closing: Closing, out: &mut Outbox) {
        match self.close_all(now, out) {
            Ok(()) => out.note(format_args!("has shut down cleanly: {closing:?}")),
            Err(error) => out.note(format_args!("goes without closing: {error}")),
        }
        out.dies = true;
    }

    pub(super) fn begin_shutdown(&mut self, now: MonotonicMs) {
        self.session.stop(now);
    }

    // ---- calls

    /// Asks the leader of the quorum.
    pub(super) fn call(&mut self, now: MonotonicMs, what: Call, request: Request, timeout: Duration, out: &mut Outbox) {
        let request = match request.is_in_own_name() {
            true => Request::Proved(self.key.clone(), Box::new(request)),
            false => request,
        };
        let attempts = Attempts::new(timeout, Repeat::Freely);
        let call = PendingCall { what, request: Arc::new(request), began: now, attempts, asked: None, until: now };
        self.attempt(now, call, out);
    }

    fn attempt(&mut self, now: MonotonicMs, mut call: PendingCall, out: &mut Outbox) {
        let Some(patience) = call.attempts.next(now.since(call.began)) else {
            return self.unanswered(now, call.what, out);
        };
        let leader = *self.link.search.guess();
        call.asked = Some(leader);
        call.until = now + patience;
        let id = self.call_id();
        out.send(NodeId::Coordinator(leader), Message::Cluster { call: id, request: call.request.clone() });
        self.calls.insert(id, call);
    }

    /// An attempt at `asked` brought no answer of the leader's.
    fn attempt_failed(
        &mut self,
        now: MonotonicMs,
        mut call: PendingCall,
        asked: u64,
        result: Attempted<u64>,
        out: &mut Outbox,
    ) {
        let pause = self.link.search.attempted(&mut call.attempts, now.since(call.began), &asked, result);
        if pause.is_zero() {
            return self.attempt(now, call, out);
        }
        call.asked = None;
        call.until = now + pause;
        let id = self.call_id();
        self.calls.insert(id, call);
    }

    pub(super) fn tick_calls(&mut self, now: MonotonicMs, out: &mut Outbox) {
        let due: Vec<_> = self.calls.extract_if(.., |_, call| now >= call.until).map(|(_, call)| call).collect();
        for call in due {
            match call.asked {
                Some(coordinator) => self.attempt_failed(now, call, coordinator, Attempted::Nothing, out),
                None => self.attempt(now, call, out),
            }
        }
    }

    /// `answer`: none from a coordinator that does not lead.
    pub(super) fn answered(
        &mut self,
        now: MonotonicMs,
        from: NodeId,
        id: CallId,
        answer: Option<Box<Answer>>,
        leader: Option<CoordinatorId>,
        out: &mut Outbox,
    ) {
        let Some(mut call) = self.calls.remove(&id) else { return };
        let NodeId::Coordinator(from) = from else { return };
        match answer {
            Some(answer) => {
                let elapsed = now.since(call.began);
                self.link.search.attempted(&mut call.attempts, elapsed, &from, Attempted::Answered);
                self.decided_call(now, call.what, *answer, out);
            }
            None => {
                let leader = leader.map(|leader| (leader, Some(leader.0)));
                let result = Attempted::NotLeader { answered_by: CoordinatorId(from), leader };
                self.attempt_failed(now, call, from, result, out);
            }
        }
    }

    pub(super) fn is_calling(&self, is: impl Fn(&Call) -> bool) -> bool {
        self.calls.values().any(|call| is(&call.what))
    }

    // ---- heartbeats

    pub(super) fn beat_answered(
        &mut self,
        now: MonotonicMs,
        from: NodeId,
        connection: u64,
        answer: Option<BeatAnswer>,
        leader: Option<CoordinatorId>,
        out: &mut Outbox,
    ) {
        let Some((with, _)) = self.link.beats.filter(|beats| *beats == (beats.0, connection)) else { return };
        if from != NodeId::Coordinator(with) {
            return;
        }
        match answer {
            Some(answer) => {
                if answer.fenced {
                    out.note(format_args!("was fenced"));
                }
                self.session.beat_answered(now, &answer);
            }
            None => {
                self.link.beats = None;
                let leader = leader.map(|leader| (leader, Some(leader.0)));
                self.link.search.does_not_lead(&with, CoordinatorId(with), leader);
                self.session.heartbeats_lost(now);
            }
        }
        self.run_session(now, out);
    }

    pub(super) fn connection_lost(&mut self, now: MonotonicMs, from: NodeId, out: &mut Outbox) {
        match from {
            NodeId::Coordinator(id) => self.coordinator_lost(now, id, out),
            NodeId::Broker(id) => self.fetchers.lost(now, ottla_model::BrokerId(id)),
            NodeId::Client(_) => {}
        }
    }

    fn coordinator_lost(&mut self, now: MonotonicMs, id: u64, out: &mut Outbox) {
        if self.link.beats.take_if(|(with, _)| *with == id).is_some() {
            self.link.search.move_on(&id);
            self.session.heartbeats_lost(now);
        }
        if self.link.watch_from == id {
            self.link.is_watching = false;
        }
        let lost: Vec<_> = self.calls.extract_if(.., |_, call| call.asked == Some(id)).map(|(_, call)| call).collect();
        for call in lost {
            self.attempt_failed(now, call, id, Attempted::Nothing, out);
        }
    }

    /// The members of the quorum changed.
    fn follow_coordinators(&mut self) {
        let members = self.image.coordinators().filter(|(_, one)| one.node.standing != Standing::Removed);
        let members: Vec<u64> = members.map(|(id, _)| id.0).collect();
        if !members.is_empty() {
            self.link.search.set_listed(members.clone());
            self.link.coordinators = members;
        }
    }

    // ---- the watch

    fn watch(&mut self, now: MonotonicMs, out: &mut Outbox) {
        let others: Vec<_> = self.link.coordinators.iter().copied().filter(|id| *id != self.link.watch_from).collect();
        self.link.watch_from = self.random.pick(&others).copied().unwrap_or(self.link.watch_from);
        self.link.stream += 1;
        self.link.is_watching = true;
        let stream = self.link.stream;
        self.watch_lives(now, stream);
        let from = self.image.revision();
        out.send(NodeId::Coordinator(self.link.watch_from), Message::Watch { stream, from });
    }

    pub(super) fn watch_lives(&mut self, now: MonotonicMs, stream: u64) {
        if stream == self.link.stream {
            self.link.last_event = now;
            self.link.is_pinged = false;
        }
    }

    pub(super) fn watched(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        stream: u64,
        event: WatchEvent,
        out: &mut Outbox,
    ) {
        if stream != self.link.stream {
            return;
        }
        self.watch_lives(now, stream);
        let followed = match event {
            WatchEvent::Snapshot { revision, nodes } => {
                let nodes = nodes.iter().map(|(path, node)| (path, node));
                watch::follow_snapshot(&self.image, revision, nodes, self.settings.watch_rules)
            }
            WatchEvent::Changes { revision, changes } => watch::follow_changes(&self.image, revision, &changes),
        };
        let Some((next, delta)) = followed else { return };
        self.image = next;
        if delta.coordinators_changed {
            self.follow_coordinators();
        }
        self.image_moved(now, wall, &delta, out);
        self.run_session(now, out);
    }
}
