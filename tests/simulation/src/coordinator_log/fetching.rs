//! What the followers of a partition fetch: [`ottla_replica_fetcher`] decides, as it does for a broker. Here the leader
//! answers at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ottla_coordinator_partition::Now;
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, TopicIdPartition};
use ottla_partition::{Fetch, Fetched, Reader};
use ottla_replica_fetcher::{
    Assignments, BoundsQuestion, BrokenRules, Effect, FetchRequest, FetchResponse, Fetcher, FetcherConfig, Followers,
    LogEnd, Reassigned,
};
use ottla_replication::{FetchAnswer, FetchPosition, FollowerStep};
use ottla_storage::Read;
use ottla_storage::env::MemoryEnv;

use super::{FETCH_BYTES, LocalReplica, Partition, epoch_of};

/// So many fetches bring any follower up to date, or none will.
const FETCHES_MAX: usize = 100;

/// The leader gives no sessions: every fetch names the partition.
const NO_SESSION: i32 = 0;

fn config() -> FetcherConfig {
    FetcherConfig {
        max_wait: Duration::from_millis(500),
        socket_timeout: Duration::from_secs(30),
        backoff_max: Duration::from_millis(100),
        rules: BrokenRules::default(),
    }
}

/// The fetchers of one broker, by the broker that they fetch from.
#[derive(Default)]
pub(super) struct Fetchers {
    assignments: Assignments<BrokerId>,
    by_source: BTreeMap<BrokerId, Fetcher<()>>,
}

/// The broker's replica, for the fetcher's core.
struct LocalFollower<'a> {
    replica: &'a mut LocalReplica,
    now: Now,
}

impl Followers for LocalFollower<'_> {
    type Handle = ();

    fn next_step(&mut self, (): &(), leader_epoch: LeaderEpoch) -> FollowerStep {
        self.replica.next_step(leader_epoch)
    }

    fn fetched(&mut self, (): &(), asked: FetchPosition, answer: &FetchAnswer, records: &[u8]) -> FollowerStep {
        self.replica.leader_answered(asked, answer, records, self.now.monotonic, self.now.wall).step
    }

    fn leader_bounds(&mut self, (): &(), leader_epoch: LeaderEpoch, bounds: Option<(Offset, Offset)>) -> FollowerStep {
        self.replica.leader_bounds(leader_epoch, bounds, self.now.wall).step
    }
}

/// Whether another fetch may bring more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    More,
    Nothing,
}

impl Partition {
    /// The broker that the replica here follows.
    pub fn source_of(&self, follower: i32) -> Option<i32> {
        Some(self.replicas.get(&follower)?.following()?.leader.0)
    }

    /// The fetchers of a broker hear of its replica's role.
    pub(super) fn role_changed(&mut self, follower: i32, now: Now) {
        let following = self.replicas.get(&follower).and_then(LocalReplica::following);
        let fetchers = self.fetchers.entry(follower).or_default();
        let source = following.map(|following| following.leader);
        let Reassigned { from, to } = fetchers.assignments.assign(self.id, source);
        if let Some(fetcher) = from.and_then(|from| fetchers.by_source.get_mut(&from)) {
            fetcher.leave(now.monotonic, self.id);
        }
        if let Some(to) = to {
            let fetcher = fetchers.by_source.entry(to).or_insert_with(|| Fetcher::new(to, config()));
            fetcher.role_changed(now.monotonic, self.id, (), following);
        }
    }

    /// A broker's process has ended: its fetchers are gone, and the connections to it are broken.
    pub(super) fn process_ended(&mut self, broker: i32, now: Now) {
        self.fetchers.remove(&broker);
        for fetchers in self.fetchers.values_mut() {
            if let Some(fetcher) = fetchers.by_source.get_mut(&BrokerId(broker)) {
                fetcher.disconnected(now.monotonic);
            }
        }
    }

    /// The follower fetches until it has what its leader has. Says when it is to be asked again, if it pauses.
    pub fn fetch(&mut self, follower: i32, now: Now) -> Option<MonotonicMs> {
        self.quorum.is_back(follower);
        let source = BrokerId(self.source_of(follower)?);
        let mut fetcher = self.fetchers.get_mut(&follower)?.by_source.remove(&source)?;
        self.run_fetcher(follower, &mut fetcher, now);
        let again = fetcher.deadline();
        self.fetchers.entry(follower).or_default().by_source.insert(source, fetcher);
        again
    }

    fn run_fetcher(&mut self, follower: i32, fetcher: &mut Fetcher<()>, now: Now) {
        for _ in 0..FETCHES_MAX {
            let Some(replica) = self.replicas.get_mut(&follower) else { return };
            let effects = fetcher.tick(now.monotonic, &mut LocalFollower { replica, now });
            let mut progress = Progress::Nothing;
            for effect in effects {
                match effect {
                    Effect::Connect => {
                        fetcher.connected(now.monotonic);
                        progress = Progress::More;
                    }
                    Effect::Disconnect(_) => progress = Progress::More,
                    Effect::AskBounds(question) => {
                        self.answer_bounds(follower, fetcher, question, now);
                        progress = Progress::More;
                    }
                    Effect::Fetch(request) => {
                        if self.answer_fetch(follower, fetcher, request, now) == Progress::More {
                            progress = Progress::More;
                        }
                    }
                }
            }
            if progress == Progress::Nothing {
                return;
            }
        }
    }

    fn answer_bounds(&mut self, follower: i32, fetcher: &mut Fetcher<()>, question: BoundsQuestion, now: Now) {
        let leader = self.replicas.get(&fetcher.source().0);
        let leading = leader.and_then(|replica| replica.leading_in(question.leader_epoch).ok());
        let offset = leading.map(|(_, log)| match question.end {
            LogEnd::Earliest => log.log_start_offset(),
            LogEnd::Latest => log.log_end_offset(),
        });
        if let Some(replica) = self.replicas.get_mut(&follower) {
            fetcher.bounds_answered(now.monotonic, question.number, offset, &mut LocalFollower { replica, now });
        }
    }

    fn answer_fetch(&mut self, follower: i32, fetcher: &mut Fetcher<()>, request: FetchRequest, now: Now) -> Progress {
        let source = fetcher.source().0;
        let asked = request.partitions.into_iter();
        let answers: Vec<(TopicIdPartition, FetchAnswer, Bytes)> = asked
            .map(|(id, position)| {
                let (answer, records) = self.leader_reads(source, follower, position, now);
                (id, answer, records)
            })
            .collect();
        let has_more = |(_, answer, records): &(_, FetchAnswer, Bytes)| {
            answer.error == ErrorCode::None && (answer.diverging.is_some() || !records.is_empty())
        };
        let has_records = answers.iter().any(has_more);
        let Some(replica) = self.replicas.get_mut(&follower) else { return Progress::Nothing };
        let before = replica.high_watermark();
        let response = FetchResponse { error: ErrorCode::None, session_id: NO_SESSION };
        fetcher.fetched(now.monotonic, request.number, response, answers, &mut LocalFollower { replica, now });
        match has_records || replica.high_watermark() != before {
            true => Progress::More,
            false => Progress::Nothing,
        }
    }

    /// What the leader answers to a follower's fetch.
    fn leader_reads(&mut self, source: i32, follower: i32, position: FetchPosition, now: Now) -> (FetchAnswer, Bytes) {
        let id = BrokerId(follower);
        let fetch = Fetch {
            reader: Reader::Replica { id, epoch: epoch_of(follower), progress: true },
            offset: position.offset,
            log_start: position.log_start,
            current_leader_epoch: position.leader_epoch,
            last_fetched_epoch: position.last_fetched_epoch,
            max_bytes: FETCH_BYTES,
            min_one: true,
        };
        let Some(leader) = self.replicas.get_mut(&source) else { return refused(ErrorCode::NotLeaderOrFollower) };
        let (effects, fetched) = leader.fetch(&fetch, now.monotonic, &self.quorum.eligible(), None);
        let answered = fetched.map_err(|error| error.error_code()).and_then(|fetched| answer_of(&fetched));
        self.execute(source, effects, now);
        answered.unwrap_or_else(refused)
    }
}

fn refused(error: ErrorCode) -> (FetchAnswer, Bytes) {
    let answer = FetchAnswer { error, diverging: None, high_watermark: Offset::UNKNOWN, log_start: Offset::UNKNOWN };
    (answer, Bytes::new())
}

fn answer_of(fetched: &Fetched<MemoryEnv>) -> Result<(FetchAnswer, Bytes), ErrorCode> {
    let failed = |_| ErrorCode::KafkaStorageError;
    let records = match &fetched.records {
        None => Bytes::new(),
        Some(Read::Done(slice)) => slice.read().map_err(failed)?,
        Some(Read::Cold(cold)) => match cold.run().map_err(|_| ErrorCode::KafkaStorageError)? {
            Some(slice) => slice.read().map_err(failed)?,
            None => Bytes::new(),
        },
    };
    let answer = FetchAnswer {
        error: ErrorCode::None,
        diverging: fetched.diverging,
        high_watermark: fetched.high_watermark,
        log_start: fetched.log_start,
    };
    Ok((answer, records))
}
