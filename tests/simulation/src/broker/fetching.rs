//! What a broker fetches as a follower: [`ottla_replica_fetcher`] decides; here its effects become messages.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, TimestampMs, TopicIdPartition};
use ottla_partition::FollowerEffects;
use ottla_replica_fetcher::{
    Assignments, BrokenRules, Effect, FetchRequest, FetchResponse, Fetcher, FetcherConfig, Followers, Reassigned,
    RequestNumber,
};
use ottla_replication::{FetchAnswer, FetchPosition, FollowerStep};

use super::process::Process;
use crate::message::{CallId, Fetch, FetchedPartition, Message, SessionRef};
use crate::network::NodeId;
use crate::outbox::Outbox;

fn config(rules: BrokenRules) -> FetcherConfig {
    FetcherConfig {
        max_wait: Duration::from_millis(500),
        socket_timeout: Duration::from_millis(1_000),
        backoff_max: Duration::from_millis(100),
        rules,
    }
}

/// A request without an answer yet.
#[derive(Clone, Copy)]
enum Underway {
    Fetch(RequestNumber),
    Bounds(RequestNumber),
}

/// An answer as it came.
pub(super) enum Received {
    Fetch { error: ErrorCode, session_id: i32, partitions: Vec<(TopicIdPartition, FetchedPartition)> },
    Bounds(Option<Offset>),
}

/// The broker that is fetched from, and the log directory here that it is written to.
pub(super) type Source = (BrokerId, usize);

/// The fetches from one source, and what is under way on the connection to it.
struct Connection {
    core: Fetcher<TopicIdPartition>,
    /// Answers leave a connection in the order of the requests: one that comes earlier waits for those before it.
    underway: VecDeque<(CallId, Underway, Option<Received>)>,
}

/// What the fetcher of a partition's leader does with it.
#[derive(Clone, Copy, Default)]
pub struct FetcherState {
    /// It has the partition, if only to pause it or to ask about it.
    pub is_held: bool,
    /// It asks for records.
    pub is_fetching: bool,
}

#[derive(Default)]
pub(super) struct Fetchers {
    assignments: Assignments<Source>,
    sources: BTreeMap<Source, Connection>,
    /// Partitions whose role may have changed in this turn.
    pub changed: Vec<TopicIdPartition>,
}

impl Fetchers {
    /// The source registered again.
    pub fn reconnect(&mut self, now: MonotonicMs, broker: BrokerId) {
        self.of_broker(broker).for_each(|source| source.core.reconnect(now));
    }

    pub fn lost(&mut self, now: MonotonicMs, broker: BrokerId) {
        for source in self.of_broker(broker).filter(|source| !source.underway.is_empty()) {
            source.underway.clear();
            source.core.disconnected(now);
        }
    }

    fn of_broker(&mut self, broker: BrokerId) -> impl Iterator<Item = &mut Connection> {
        self.sources.range_mut((broker, 0)..=(broker, usize::MAX)).map(|(_, source)| source)
    }

    pub fn state_of(&self, leader: BrokerId, partition: &TopicIdPartition) -> FetcherState {
        let mut of_leader = self.sources.range((leader, 0)..=(leader, usize::MAX)).map(|(_, source)| source);
        let source = of_leader.find(|source| source.core.handle(partition).is_some());
        source.map_or(FetcherState::default(), |source| FetcherState {
            is_held: true,
            is_fetching: source.core.is_fetching(partition),
        })
    }
}

/// The followers of a process, for the fetcher's core.
struct LocalFollowers<'a> {
    process: &'a mut Process,
    now: MonotonicMs,
    wall: TimestampMs,
    out: &'a mut Outbox,
}

impl Followers for LocalFollowers<'_> {
    type Handle = TopicIdPartition;

    fn next_step(&mut self, id: &TopicIdPartition, leader_epoch: LeaderEpoch) -> FollowerStep {
        self.process.replicas.get(id).map_or(FollowerStep::Stop, |replica| replica.core.next_step(leader_epoch))
    }

    fn fetched(
        &mut self,
        id: &TopicIdPartition,
        asked: FetchPosition,
        answer: &FetchAnswer,
        records: &[u8],
    ) -> FollowerStep {
        let Some(replica) = self.process.replicas.get_mut(id) else { return FollowerStep::Stop };
        let effects = replica.core.leader_answered(asked, answer, records, self.now, self.wall);
        self.process.execute_follower(*id, effects, self.out)
    }

    fn leader_bounds(
        &mut self,
        id: &TopicIdPartition,
        leader_epoch: LeaderEpoch,
        bounds: Option<(Offset, Offset)>,
    ) -> FollowerStep {
        let Some(replica) = self.process.replicas.get_mut(id) else { return FollowerStep::Stop };
        let effects = replica.core.leader_bounds(leader_epoch, bounds, self.wall);
        self.process.execute_follower(*id, effects, self.out)
    }
}

impl Process {
    /// Tells the fetchers of changed roles, then sends what is due.
    pub(super) fn run_fetchers(&mut self, now: MonotonicMs, wall: TimestampMs, out: &mut Outbox) {
        for id in std::mem::take(&mut self.fetchers.changed) {
            self.role_changed(now, id);
        }
        let sources: Vec<_> = self.fetchers.sources.keys().copied().collect();
        for source in sources.into_iter().filter(|source| !self.is_source_held(*source)).collect::<Vec<_>>() {
            self.with_source(source, |process, source| process.run_fetcher(now, wall, source, out));
        }
    }

    fn role_changed(&mut self, now: MonotonicMs, id: TopicIdPartition) {
        let replica = self.replicas.get(&id);
        let following = replica.and_then(|replica| replica.core.following());
        let directory = replica.map_or(0, |replica| replica.directory);
        let source = following.map(|following| (following.leader, directory));
        let Reassigned { from, to } = self.fetchers.assignments.assign(id, source);
        if let Some(source) = from.and_then(|from| self.fetchers.sources.get_mut(&from)) {
            source.core.leave(now, id);
        }
        let Some(to) = to else { return };
        let rules = self.settings.fetcher_rules;
        let source = self
            .fetchers
            .sources
            .entry(to)
            .or_insert_with(|| Connection { core: Fetcher::new(to.0, config(rules)), underway: VecDeque::new() });
        source.core.role_changed(now, id, id, following);
    }

    /// The source is out of its map meanwhile, because the core asks the process for its followers.
    fn with_source(&mut self, source: Source, run: impl FnOnce(&mut Self, &mut Connection)) {
        let Some(mut connection) = self.fetchers.sources.remove(&source) else { return };
        run(self, &mut connection);
        self.fetchers.sources.insert(source, connection);
    }

    fn run_fetcher(&mut self, now: MonotonicMs, wall: TimestampMs, source: &mut Connection, out: &mut Outbox) {
        loop {
            let effects = source.core.tick(now, &mut LocalFollowers { process: self, now, wall, out });
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.execute_fetcher_effect(now, source, effect, out);
            }
        }
    }

    fn execute_fetcher_effect(&mut self, now: MonotonicMs, source: &mut Connection, effect: Effect, out: &mut Outbox) {
        let broker = source.core.source();
        let to = NodeId::Broker(broker.0);
        match effect {
            Effect::Connect if self.image.broker(broker).is_some() => source.core.connected(now),
            Effect::Connect => source.core.disconnected(now),
            Effect::Disconnect(_) => source.underway.clear(),
            Effect::AskBounds(question) => {
                let call = self.call_id();
                source.underway.push_back((call, Underway::Bounds(question.number), None));
                out.send(to, Message::Bounds { call, question });
            }
            Effect::Fetch(FetchRequest { number, session_id, session_epoch, max_wait, partitions, forgotten }) => {
                let call = self.call_id();
                source.underway.push_back((call, Underway::Fetch(number), None));
                let fetch = Fetch {
                    replica: Some((self.id, self.identity)),
                    session: SessionRef { id: session_id, epoch: session_epoch },
                    partitions,
                    forgotten,
                    max_wait_ms: u64::try_from(max_wait.as_millis()).unwrap_or(0),
                    bytes: self.settings.fetch_bytes,
                    reads_committed: false,
                    rack: None,
                };
                out.send(to, Message::Fetch { call, fetch });
            }
        }
    }

    pub(super) fn source_answered(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        from: NodeId,
        call: CallId,
        received: Received,
        out: &mut Outbox,
    ) {
        let NodeId::Broker(broker) = from else { return };
        let asked = |source: &&Source| {
            let connection = self.fetchers.sources.get(source);
            source.0.0 == broker
                && connection.is_some_and(|it| it.underway.iter().any(|(underway, ..)| *underway == call))
        };
        let Some(source) = self.fetchers.sources.keys().find(asked).copied() else { return };
        if let Some(received) = self.source_waits(source, call, received) {
            self.answered_by(now, wall, source, call, received, out);
        }
    }

    pub(super) fn answered_by(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        source: Source,
        call: CallId,
        received: Received,
        out: &mut Outbox,
    ) {
        self.with_source(source, |process, source| {
            let Some(place) = source.underway.iter_mut().find(|(underway, ..)| *underway == call) else { return };
            place.2 = Some(received);
            while let Some((_, underway, received @ Some(_))) = source.underway.front_mut() {
                let (underway, received) = (*underway, received.take());
                source.underway.pop_front();
                let mut followers = LocalFollowers { process, now, wall, out };
                match (underway, received) {
                    (Underway::Fetch(number), Some(Received::Fetch { error, session_id, partitions })) => {
                        let response = FetchResponse { error, session_id };
                        let partitions = partitions.into_iter().map(|(id, fetched)| typed(id, fetched));
                        source.core.fetched(now, number, response, partitions, &mut followers);
                    }
                    (Underway::Bounds(number), Some(Received::Bounds(offset))) => {
                        source.core.bounds_answered(now, number, offset, &mut followers);
                    }
                    _ => {}
                }
            }
        });
    }

    /// Carries out what became of a leader's answer.
    fn execute_follower(&mut self, id: TopicIdPartition, effects: FollowerEffects, out: &mut Outbox) -> FollowerStep {
        let Some(replica) = self.replicas.get_mut(&id) else { return FollowerStep::Stop };
        if let Some(cut) = &effects.truncated {
            replica.was_cut(cut, out);
        }
        if effects.appended {
            replica.appended(out);
        }
        if let Some(high_watermark) = effects.high_watermark {
            replica.publish(high_watermark, out);
            self.high_watermarks_moved = true;
        }
        if effects.high_watermark.is_some() || effects.log_start_moved {
            self.fetch_sessions.changed(id);
        }
        if let Some(error) = &effects.refused {
            out.note(format_args!("{}: the leader's records do not fit: {error}", replica.name));
        }
        if effects.appended {
            self.append_succeeded(id);
        }
        if let Some(cut) = effects.truncated {
            self.log_was_cut(id, cut.left(), out);
        }
        if let Some(error) = effects.disk_error {
            self.disk_refused(id, &error.text, error.cause.as_ref(), out);
        }
        effects.step
    }
}

fn typed(id: TopicIdPartition, fetched: FetchedPartition) -> (TopicIdPartition, FetchAnswer, Bytes) {
    let answer = FetchAnswer {
        error: fetched.error,
        diverging: fetched.diverging,
        high_watermark: fetched.high_watermark,
        log_start: fetched.log_start,
    };
    (id, answer, fetched.records)
}
