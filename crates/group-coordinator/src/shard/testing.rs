//! A host for tests: a log in memory, a clock that stands until it is moved, and answers by request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{
    BrokerId, ErrorCode, GroupId, LeaderEpoch, MonotonicMs, Offset, PartitionId, TimestampMs, TopicId, TopicName,
};

use super::Shard;
use crate::Now;
use crate::answer::GroupAnswer;
use crate::config::GroupConfig;
use crate::effects::{Effects, RawRecord, RequestId};
use crate::group::Group;
use crate::request::{CommitPartition, GroupTopic, Request};
use crate::topics::{TopicView, Topics};

/// A cluster without topics.
#[derive(Debug, Default)]
pub(crate) struct NoTopics;

impl Topics for NoTopics {
    fn by_name(&self, _: &str) -> Option<TopicView> {
        None
    }
    fn by_id(&self, _: TopicId) -> Option<TopicView> {
        None
    }
    fn names(&self, _: &mut dyn FnMut(&TopicName)) {}
    fn version(&self) -> u64 {
        0
    }
    fn racks(&self, _: TopicId, _: PartitionId) -> Vec<String> {
        Vec::new()
    }
    fn here(&self) -> BrokerId {
        BrokerId(1)
    }
}

/// What the smallest commit has.
pub(crate) fn one_offset() -> (GroupTopic, Vec<CommitPartition>) {
    let partition = CommitPartition {
        partition: PartitionId(0),
        offset: Offset(1),
        leader_epoch: LeaderEpoch(0),
        metadata: None,
        timestamp: None,
        refused: None,
    };
    (GroupTopic { name: "t".to_owned(), id: TopicId::ZERO }, vec![partition])
}

/// A shard with its host.
pub(crate) struct Host {
    pub(crate) shard: Shard,
    pub(crate) config: Arc<GroupConfig>,
    pub(crate) topics: Box<dyn Topics>,
    /// What the partition holds, and how much of it is replicated.
    pub(crate) log: Vec<RawRecord>,
    pub(crate) high_watermark: usize,
    /// While set, the high watermark stands.
    pub(crate) stalled: bool,
    /// While set, the log refuses every batch.
    pub(crate) refusing: Option<ErrorCode>,
    /// The host looks at the log's state before each step, as the broker does; otherwise every refusal comes
    /// unforeseen.
    pub(crate) foresees: bool,
    /// The largest batch that the log takes.
    pub(crate) log_max_batch_bytes: usize,
    /// How often the shard asked to be loaded again.
    pub(crate) reloads: usize,
    pub(crate) answers: BTreeMap<RequestId, GroupAnswer>,
    pub(crate) now: Now,
    requests: u64,
    answered: BTreeSet<RequestId>,
}

impl Host {
    pub(crate) fn new(config: GroupConfig) -> Self {
        let config = Arc::new(config);
        let now = Now { monotonic: MonotonicMs(1_000), wall: TimestampMs(1_000_000) };
        let mut host = Self {
            shard: Shard::new(Arc::clone(&config)),
            config,
            topics: Box::new(NoTopics),
            log: Vec::new(),
            high_watermark: 0,
            stalled: false,
            refusing: None,
            foresees: false,
            log_max_batch_bytes: usize::MAX,
            reloads: 0,
            answers: BTreeMap::new(),
            now,
            requests: 0,
            answered: BTreeSet::new(),
        };
        host.load();
        host
    }

    /// Another coordinator takes over with the log's first `keeps` records, or with all that are replicated if these
    /// are more.
    pub(crate) fn fail_over(&mut self, keeps: usize) {
        let effects = self.shard.resign(ErrorCode::NotCoordinator);
        self.take_answers(effects);
        self.log.truncate(keeps.max(self.high_watermark));
        self.high_watermark = self.log.len();
        self.load();
    }

    fn load(&mut self) {
        self.shard = Shard::new(Arc::clone(&self.config));
        for record in &self.log {
            let value = record.value.as_deref();
            self.shard.apply(self.now.wall, &record.key, value).expect("a record that a shard has written");
        }
        let effects = self.shard.loaded(self.now, &*self.topics);
        self.execute(effects);
    }

    pub(crate) fn look_at_log(&mut self) {
        let refusing = self.refusing.filter(|_| self.foresees);
        self.shard.set_log_state(refusing.map_or(Ok(self.log_max_batch_bytes), Err));
    }

    /// Asks and lets the log have what comes of it.
    pub(crate) fn ask(&mut self, request: Request) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.look_at_log();
        let effects = self.shard.step(self.now, &*self.topics, id, request);
        self.execute(effects);
        id
    }

    /// Asks, and expects the answer at once.
    pub(crate) fn call(&mut self, request: Request) -> GroupAnswer {
        let id = self.ask(request);
        self.answer(id).expect("an answer at once")
    }

    /// Takes the answer to a request, if there is one by now.
    pub(crate) fn answer(&mut self, id: RequestId) -> Option<GroupAnswer> {
        self.answers.remove(&id)
    }

    /// How many requests wait for their answers.
    pub(crate) fn waiting(&self) -> u64 {
        self.requests - u64::try_from(self.answered.len()).expect("small")
    }

    /// Lets time pass, timer by timer.
    pub(crate) fn pass(&mut self, ms: u64) {
        let until = self.now.monotonic + Duration::from_millis(ms);
        loop {
            let next = self.shard.next_deadline().unwrap_or(until).clamp(self.now.monotonic, until);
            self.now.wall.0 += i64::try_from(next.0 - self.now.monotonic.0).expect("small");
            self.now.monotonic = next;
            self.look_at_log();
            let effects = self.shard.tick(self.now, &*self.topics);
            self.execute(effects);
            if next == until && self.shard.next_deadline().is_none_or(|deadline| deadline > until) {
                return;
            }
        }
    }

    /// Time passes and nobody looks.
    pub(crate) fn stand_still(&mut self, ms: u64) {
        self.now.monotonic = self.now.monotonic + Duration::from_millis(ms);
        self.now.wall.0 += i64::try_from(ms).expect("small");
    }

    /// The followers catch up.
    pub(crate) fn replicate(&mut self) {
        self.high_watermark = self.log.len();
        let effects = self.shard.committed_up_to(self.now, self.end());
        self.execute(effects);
    }

    fn end(&self) -> Offset {
        Offset(i64::try_from(self.log.len()).expect("small"))
    }

    pub(crate) fn execute(&mut self, effects: Effects) {
        let Effects { batches, answers, reload, .. } = effects;
        self.take_answers(Effects { answers, ..Effects::default() });
        let mut reload = reload;
        let appended = !batches.is_empty();
        for batch in batches {
            let too_large = (batch.size_bytes() > self.log_max_batch_bytes).then_some(ErrorCode::RecordListTooLarge);
            let further = if let Some(error) = self.refusing.or(too_large) {
                self.shard.append_refused(self.now, batch.number, error)
            } else {
                self.log.extend(batch.records);
                self.shard.appended(batch.number, self.end())
            };
            reload |= further.reload;
            assert!(further.batches.is_empty());
            self.take_answers(further);
            if reload {
                break;
            }
        }
        if reload {
            self.reloads += 1;
            self.high_watermark = self.log.len();
            self.load();
        } else if appended && !self.stalled {
            self.replicate();
        }
    }

    fn take_answers(&mut self, effects: Effects) {
        for (id, answer) in effects.answers {
            assert!(self.answered.insert(id), "{id:?} is answered twice");
            assert!(id.0 <= self.requests, "{id:?} was never asked");
            self.answers.insert(id, answer);
        }
    }
}

impl Shard {
    pub(crate) fn group(&self, id: &GroupId) -> Option<&Group> {
        self.groups.get(id)
    }
}
