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

/// The fetches from one broker, and what is under way on the connection to it.
struct Source {
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
    assignments: Assignments<BrokerId>,
    sources: BTreeMap<BrokerId, Source>,
    /// Partitions whose role may have changed in this turn.
    pub changed: Vec<TopicIdPartition>,
}

impl Fetchers {
    /// The source registered again.
    pub fn reconnect(&mut self, now: MonotonicMs, broker: BrokerId) {
        if let Some(source) = self.sources.get_mut(&broker) {
            source.core.reconnect(now);
        }
    }

    pub fn lost(&mut self, now: MonotonicMs, broker: BrokerId) {
        if let Some(source) = self.sources.get_mut(&broker)
            && !source.underway.is_empty()
        {
            source.underway.clear();
            source.core.disconnected(now);
        }
    }

    pub fn state_of(&self, leader: BrokerId, partition: &TopicIdPartition) -> FetcherState {
        self.sources.get(&leader).map_or(FetcherState::default(), |source| FetcherState {
            is_held: source.core.handle(partition).is_some(),
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
        for broker in sources {
            self.with_source(broker, |process, source| process.run_fetcher(now, wall, source, out));
        }
    }

    fn role_changed(&mut self, now: MonotonicMs, id: TopicIdPartition) {
        let following = self.replicas.get(&id).and_then(|replica| replica.core.following());
        let leader = following.map(|following| following.leader);
        let Reassigned { from, to } = self.fetchers.assignments.assign(id, leader);
        if let Some(source) = from.and_then(|from| self.fetchers.sources.get_mut(&from)) {
            source.core.leave(now, id);
        }
        let Some(to) = to else { return };
        let rules = self.settings.fetcher_rules;
        let source = self
            .fetchers
            .sources
            .entry(to)
            .or_insert_with(|| Source { core: Fetcher::new(to, config(rules)), underway: VecDeque::new() });
        source.core.role_changed(now, id, id, following);
    }

    /// The source is out of its map meanwhile, because the core asks the process for its followers.
    fn with_source(&mut self, broker: BrokerId, run: impl FnOnce(&mut Self, &mut Source)) {
        let Some(mut source) = self.fetchers.sources.remove(&broker) else { return };
        run(self, &mut source);
        self.fetchers.sources.insert(broker, source);
    }

    fn run_fetcher(&mut self, now: MonotonicMs, wall: TimestampMs, source: &mut Source, out: &mut Outbox) {
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

    fn execute_fetcher_effect(&mut self, now: MonotonicMs, source: &mut Source, effect: Effect, out: &mut Outbox) {
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
        self.with_source(BrokerId(broker), |process, source| {
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
        }
        if let Some(error) = &effects.refused {
            out.note(format_args!("{}: the leader's records do not fit: {error}", replica.name));
        }
        if effects.appended {
            self.append_succeeded(id);
        }
        if let Some(cut) = effects.truncated {
            self.log_was_cut(id, cut.recovery_point, out);
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
