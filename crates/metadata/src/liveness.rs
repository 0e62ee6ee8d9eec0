//! Sessions: which registered brokers live. Soft state of the quorum leader, lost and rebuilt with leadership.
//!
//! A session ends in one of three ways, fastest first: its stream ends, and a probe of an address that was reached
//! before is refused; its stream is missing for the grace period; it is silent for the session timeout. Only time in
//! which this controller could listen counts: a gap between two calls that exceeds the tick interval by L extends every
//! session by L (scenario 23).

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::{BrokerEpoch, BrokerId, IncarnationId, MonotonicMs, Revision};

use crate::controller::{Beat, ProbeResult, StreamId};

/// After this time a new quorum leader dials the brokers that have not opened a stream to it. Brokers reconnect within
/// 100 ms; three times that justifies a probe.
pub const FIRST_PROBE_DELAY: Duration = Duration::from_millis(300);

/// How often an incarnation that was never reached is dialled again, so that its end will be seen at once.
pub const LEARN_INTERVAL: Duration = Duration::from_secs(5);

/// How often a broker is dialled that is not ready because another process answers at its address.
const OTHER_ANSWERS_INTERVAL: Duration = Duration::from_millis(250);

/// How often a broker is dialled whose stream has ended while its address proves nothing. A process that is being
/// killed closes one socket after the other: its listener may still take a connection, and reset it, after the stream
/// has ended.
pub const REPROBE_INTERVAL: Duration = Duration::from_millis(20);

/// The incarnations that this coordinator has reached by dialling: only for these does a refused connection prove
/// anything. Kept by the coordinator over terms; every member probes brokers as they register, not only the leader.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reached(BTreeMap<BrokerId, IncarnationId>);

impl Reached {
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a probe's end. Only an answer as the incarnation that was looked for counts.
    pub fn note(&mut self, broker: BrokerId, incarnation: IncarnationId, result: ProbeResult) {
        if result == ProbeResult::Answered(incarnation) {
            self.0.insert(broker, incarnation);
        }
    }

    pub fn has(&self, broker: BrokerId, incarnation: IncarnationId) -> bool {
        self.0.get(&broker) == Some(&incarnation)
    }
}

/// The meaning of a probe's result for the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Alive,
    /// The address was reached before, and now refuses connections or answers with another incarnation.
    Gone,
    Unknown,
}

/// One broker's session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    pub epoch: BrokerEpoch,
    pub incarnation: IncarnationId,
    /// The time of the last message, on the sessions' clock.
    heard: MonotonicMs,
    stream: Option<StreamId>,
    /// Since when there is no stream; none while there is one or there never was.
    stream_lost: Option<MonotonicMs>,
    /// The time of the next probe, unless a stream opens before; none if a probe would prove nothing.
    probe_at: Option<MonotonicMs>,
    is_probed: bool,
    /// Whether another incarnation answered at its address; none until a probe has ended.
    other_answers: Option<bool>,
    /// The newest revision in its heartbeats.
    pub image_revision: Revision,
    /// Its controlled shutdown was granted: the end of its stream is its end.
    pub is_leaving: bool,
}

impl Session {
    pub fn has_stream(&self) -> bool {
        self.stream.is_some()
    }
}

/// All sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Liveness {
    session_timeout: Duration,
    reconnect_grace: Duration,
    tick_interval: Duration,
    sessions: BTreeMap<BrokerId, Session>,
    streams: BTreeMap<StreamId, BrokerId>,
    reached: Reached,
    last_call: MonotonicMs,
    /// How long this controller did not listen, in sum.
    stalled: Duration,
}

impl Liveness {
    pub fn new(
        now: MonotonicMs,
        (session_timeout, reconnect_grace, tick_interval): (Duration, Duration, Duration),
        reached: Reached,
    ) -> Self {
        Self {
            session_timeout,
            reconnect_grace,
            tick_interval,
            sessions: BTreeMap::new(),
            streams: BTreeMap::new(),
            reached,
            last_call: now,
            stalled: Duration::ZERO,
        }
    }

    /// To be called at the start of every step and tick: notices when none came for longer than a tick.
    pub fn observe(&mut self, now: MonotonicMs) {
        let gap = now.since(self.last_call);
        self.stalled += gap.saturating_sub(self.tick_interval);
        self.last_call = self.last_call.max(now);
    }

    /// The sessions' clock: the monotonic clock minus the time in which this controller could not listen.
    pub(crate) fn clock(&self) -> MonotonicMs {
        MonotonicMs(self.last_call.0.saturating_sub(u64::try_from(self.stalled.as_millis()).unwrap_or(u64::MAX)))
    }

    pub fn session(&self, broker: BrokerId) -> Option<&Session> {
        self.sessions.get(&broker)
    }

    /// How long nothing was heard of it, on the sessions' clock.
    pub fn silence(&self, session: &Session) -> Duration {
        self.clock().since(session.heard)
    }

    pub fn session_mut(&mut self, broker: BrokerId) -> Option<&mut Session> {
        self.sessions.get_mut(&broker)
    }

    pub fn sessions(&self) -> impl Iterator<Item = (BrokerId, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }

    pub fn reached(&self) -> &Reached {
        &self.reached
    }

    pub fn into_reached(self) -> Reached {
        self.reached
    }

    /// Grants a fresh timeout: to a broker that has just registered, or to each one when leadership begins. The latter
    /// are dialled soon if they open no stream.
    pub fn start(&mut self, broker: BrokerId, epoch: BrokerEpoch, incarnation: IncarnationId) {
        let clock = self.clock();
        self.end(broker);
        let session = Session {
            epoch,
            incarnation,
            heard: clock,
            stream: None,
            stream_lost: None,
            probe_at: Some(clock + FIRST_PROBE_DELAY),
            is_probed: false,
            other_answers: None,
            image_revision: Revision(0),
            is_leaving: false,
        };
        self.sessions.insert(broker, session);
    }

    /// The broker is out of the tree.
    pub fn end(&mut self, broker: BrokerId) {
        if let Some(stream) = self.sessions.remove(&broker).and_then(|session| session.stream) {
            self.streams.remove(&stream);
        }
    }

    /// A heartbeat. False: it is of no session, but of an incarnation that is out of the tree.
    pub fn beat(&mut self, stream: StreamId, beat: &Beat) -> bool {
        let clock = self.clock();
        let reached = self.reached.has(beat.broker, beat.incarnation);
        let Some(session) = self.sessions.get_mut(&beat.broker) else { return false };
        if session.epoch != beat.epoch || session.incarnation != beat.incarnation {
            return false;
        }
        session.heard = clock;
        session.image_revision = session.image_revision.max(beat.image_revision);
        session.stream_lost = None;
        if session.stream != Some(stream) {
            if let Some(old) = session.stream.replace(stream) {
                self.streams.remove(&old);
            }
            self.streams.insert(stream, beat.broker);
            // Dial it while it is alive, so that a refused connection proves something later.
            session.probe_at = (!reached).then_some(clock);
        }
        true
    }

    /// The broker whose only stream has ended.
    pub fn stream_closed(&mut self, stream: StreamId) -> Option<BrokerId> {
        let clock = self.clock();
        let broker = self.streams.remove(&stream)?;
        let session = self.sessions.get_mut(&broker).filter(|session| session.stream == Some(stream))?;
        session.stream = None;
        session.stream_lost = Some(clock);
        // At once; even if it was never reached, the probe may show that it is alive.
        session.probe_at = Some(clock);
        Some(broker)
    }

    /// A probe's end.
    pub fn probed(&mut self, broker: BrokerId, incarnation: IncarnationId, result: ProbeResult) -> Verdict {
        let clock = self.clock();
        self.reached.note(broker, incarnation, result);
        let reached = self.reached.has(broker, incarnation);
        let Some(session) = self.sessions.get_mut(&broker).filter(|s| s.incarnation == incarnation) else {
            return Verdict::Unknown;
        };
        session.is_probed = false;
        let other_answers = matches!(result, ProbeResult::Answered(answering) if answering != incarnation);
        session.other_answers = Some(other_answers);
        if !reached {
            session.probe_at = Some(clock + if other_answers { OTHER_ANSWERS_INTERVAL } else { LEARN_INTERVAL });
        } else if session.stream_lost.is_some() {
            session.probe_at = Some(clock + REPROBE_INTERVAL);
        }
        match result {
            ProbeResult::Answered(answering) if answering == incarnation => Verdict::Alive,
            // A stream that is open proves more than an address that does not answer.
            ProbeResult::Answered(_) | ProbeResult::Refused if reached && !session.has_stream() => Verdict::Gone,
            _ => Verdict::Unknown,
        }
    }

    /// Whether the broker's address was dialled, and no other process answered there. A refused connection or silence
    /// does not count against the broker: its address may be for other networks than this coordinator's.
    pub fn is_address_checked(&self, broker: BrokerId) -> bool {
        self.sessions.get(&broker).is_some_and(|session| {
            self.reached.has(broker, session.incarnation) || session.other_answers == Some(false)
        })
    }

    /// The brokers to dial now. Each is marked: its probe's end is awaited.
    pub fn due_probes(&mut self) -> Vec<(BrokerId, IncarnationId)> {
        let clock = self.clock();
        let is_due = |session: &Session| !session.is_probed && session.probe_at.is_some_and(|at| at <= clock);
        let mut due = Vec::new();
        for (broker, session) in self.sessions.iter_mut().filter(|(_, session)| is_due(session)) {
            session.probe_at = None;
            session.is_probed = true;
            due.push((*broker, session.incarnation));
        }
        due
    }

    /// Dials the broker at the next chance.
    pub fn probe_now(&mut self, broker: BrokerId) {
        let clock = self.clock();
        if let Some(session) = self.sessions.get_mut(&broker) {
            session.probe_at = Some(clock);
        }
    }

    /// Whether a broker's stream has ended and the broker's state is still unknown: then the owner must tick at full
    /// rate.
    pub fn is_unsettled(&self) -> bool {
        self.sessions.values().any(|session| session.stream_lost.is_some())
    }

    /// The brokers whose time is over, with the reason.
    pub fn expired(&self) -> Vec<(BrokerId, &'static str)> {
        let clock = self.clock();
        let reason = |session: &Session| {
            if clock.since(session.heard) >= self.session_timeout {
                return Some("it was silent for the session timeout");
            }
            let lost = session.stream_lost?;
            (clock.since(lost) >= self.reconnect_grace)
                .then_some("its heartbeat stream ended, and no new one was opened")
        };
        self.sessions.iter().filter_map(|(broker, session)| Some((*broker, reason(session)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROKER: BrokerId = BrokerId(1);
    const EPOCH: BrokerEpoch = BrokerEpoch(10);
    const INCARNATION: IncarnationId = IncarnationId([1; 16]);

    fn liveness() -> Liveness {
        let times = (Duration::from_secs(3), Duration::from_secs(1), Duration::from_millis(50));
        let mut liveness = Liveness::new(MonotonicMs(1_000), times, Reached::new());
        liveness.start(BROKER, EPOCH, INCARNATION);
        liveness
    }

    fn beat() -> Beat {
        Beat { broker: BROKER, epoch: EPOCH, incarnation: INCARNATION, image_revision: Revision(11) }
    }

    /// Ticks on time from the last call up to `until`.
    fn run(liveness: &mut Liveness, until: u64) {
        for now in (liveness.last_call.0..=until).step_by(50) {
            liveness.observe(MonotonicMs(now));
        }
    }

    #[test]
    fn silence_ends_a_session() {
        let mut liveness = liveness();
        run(&mut liveness, 3_950);
        assert_eq!(liveness.expired(), []);
        run(&mut liveness, 4_000);
        assert_eq!(liveness.expired().len(), 1);
    }

    #[test]
    fn a_stream_that_stays_away_ends_a_session_sooner() {
        let mut liveness = liveness();
        assert!(liveness.beat(StreamId(1), &beat()));
        assert_eq!(liveness.stream_closed(StreamId(1)), Some(BROKER));
        run(&mut liveness, 1_950);
        assert_eq!(liveness.expired(), []);
        let mut reopened = liveness.clone();
        assert!(reopened.beat(StreamId(2), &beat()));
        run(&mut liveness, 2_000);
        assert_eq!(liveness.expired().len(), 1);
        run(&mut reopened, 2_000);
        assert_eq!(reopened.expired(), []);
        // A late end of an older stream is ignored.
        assert_eq!(reopened.stream_closed(StreamId(1)), None);
    }

    /// Scenario 23: a leader that stalls does not fence a broker for time in which it could not listen.
    #[test]
    fn a_stall_lengthens_every_session() {
        let mut liveness = liveness();
        liveness.observe(MonotonicMs(61_000));
        assert_eq!(liveness.expired(), []);
        run(&mut liveness, 63_900);
        assert_eq!(liveness.expired(), []);
        run(&mut liveness, 64_000);
        assert_eq!(liveness.expired().len(), 1);
    }

    #[test]
    fn a_refused_connection_proves_something_only_where_the_broker_was_reached() {
        let mut liveness = liveness();
        run(&mut liveness, 1_250);
        assert_eq!(liveness.due_probes(), []);
        run(&mut liveness, 1_300);
        assert_eq!(liveness.due_probes(), [(BROKER, INCARNATION)]);
        assert_eq!(liveness.due_probes(), [], "one probe at a time");
        assert_eq!(liveness.probed(BROKER, INCARNATION, ProbeResult::Refused), Verdict::Unknown);
        let other = ProbeResult::Answered(IncarnationId([2; 16]));
        assert_eq!(liveness.probed(BROKER, INCARNATION, other), Verdict::Unknown);
        assert_eq!(liveness.probed(BROKER, INCARNATION, ProbeResult::Answered(INCARNATION)), Verdict::Alive);
        assert_eq!(liveness.probed(BROKER, INCARNATION, ProbeResult::Refused), Verdict::Gone);
        assert_eq!(liveness.probed(BROKER, INCARNATION, other), Verdict::Gone);
        assert_eq!(liveness.probed(BROKER, INCARNATION, ProbeResult::Unknown), Verdict::Unknown);
        assert!(liveness.beat(StreamId(1), &beat()));
        assert_eq!(liveness.probed(BROKER, INCARNATION, ProbeResult::Refused), Verdict::Unknown, "its stream is open");
    }

    /// The stream of a killed process ends before its listener closes: the first probe is accepted and reset.
    #[test]
    fn an_address_that_proves_nothing_is_dialled_again_while_the_stream_is_away() {
        let mut liveness = liveness();
        assert!(liveness.beat(StreamId(1), &beat()));
        assert_eq!(liveness.due_probes().len(), 1);
        assert_eq!(liveness.probed(BROKER, INCARNATION, ProbeResult::Answered(INCARNATION)), Verdict::Alive);
        run(&mut liveness, 1_100);
        assert_eq!(liveness.due_probes(), [], "its stream is open");
        assert_eq!(liveness.stream_closed(StreamId(1)), Some(BROKER));
        assert_eq!(liveness.due_probes().len(), 1);
        assert_eq!(liveness.probed(BROKER, INCARNATION, ProbeResult::Unknown), Verdict::Unknown);
        run(&mut liveness, 1_150);
        assert_eq!(liveness.due_probes().len(), 1);
        assert_eq!(liveness.probed(BROKER, INCARNATION, ProbeResult::Refused), Verdict::Gone);
    }

    #[test]
    fn heartbeats_of_another_incarnation_are_told_apart() {
        let mut liveness = liveness();
        assert!(!liveness.beat(StreamId(1), &Beat { epoch: BrokerEpoch(9), ..beat() }));
        assert!(!liveness.beat(StreamId(1), &Beat { incarnation: IncarnationId([2; 16]), ..beat() }));
        assert!(!liveness.beat(StreamId(1), &Beat { broker: BrokerId(2), ..beat() }));
        assert!(liveness.beat(StreamId(1), &beat()));
        assert_eq!(liveness.session(BROKER).map(|session| session.image_revision), Some(Revision(11)));
    }
}
