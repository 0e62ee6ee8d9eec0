//! One partition on a log in memory: loading, failed loads, waiting answers at the end of a leadership.

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};
use ottla_coordinator_partition::{BrokenRules, Environment, LoadError, Loaded, Loader, Outputs, PartitionLog, Waiter};
use ottla_model::{BrokerId, GroupId, MemberId, PartitionId, TimestampMs, TopicId};
use ottla_protocol::record_batch::patch_offset_and_epoch;

use super::*;
use crate::effects::Batch;
use crate::request::{CommitOffsets, CommitPartition, FetchOffsets, GroupTopic};
use crate::topics::TopicView;

const EPOCH: LeaderEpoch = LeaderEpoch(3);

const TOPIC_ID: TopicId = TopicId([1; 16]);

/// The topic `t` with four partitions, while it exists.
struct OneTopic {
    exists: bool,
    id: TopicId,
}

impl Topics for OneTopic {
    fn by_name(&self, name: &str) -> Option<TopicView> {
        let name = TopicName::new(name).ok()?;
        (self.exists && name.as_str() == "t").then_some(TopicView { id: self.id, name, partitions: 4 })
    }
    fn by_id(&self, id: TopicId) -> Option<TopicView> {
        self.by_name("t").filter(|topic| topic.id == id)
    }
    fn names(&self, each: &mut dyn FnMut(&TopicName)) {
        self.by_name("t").iter().for_each(|topic| each(&topic.name));
    }
    fn version(&self) -> u64 {
        u64::from(self.exists)
    }
    fn racks(&self, _: TopicId, _: PartitionId) -> Vec<String> {
        Vec::new()
    }
    fn here(&self) -> BrokerId {
        BrokerId(1)
    }
}

struct TestLog {
    epoch: LeaderEpoch,
    high_watermark: i64,
    end: i64,
    bytes: BytesMut,
    refusals: VecDeque<ErrorCode>,
    /// What it says when it is asked whether it takes records.
    refuses: Option<ErrorCode>,
}

impl PartitionLog for TestLog {
    fn leading_epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark)
    }

    fn end_if_empty(&self, _: LeaderEpoch) -> Option<Offset> {
        (self.end == 0).then_some(Offset::ZERO)
    }

    fn check_append(&self, _: LeaderEpoch) -> Result<usize, ErrorCode> {
        self.refuses.map_or(Ok(usize::MAX), Err)
    }

    fn append(&mut self, epoch: LeaderEpoch, batch: &Batch) -> Result<Offset, ErrorCode> {
        if let Some(error) = self.refuses.or_else(|| self.refusals.pop_front()) {
            return Err(error);
        }
        let mut bytes = batch.encode().unwrap();
        patch_offset_and_epoch(&mut bytes, Offset(self.end), epoch);
        self.bytes.extend_from_slice(&bytes);
        self.end += i64::try_from(batch.records.len()).unwrap();
        Ok(Offset(self.end))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Client(u64);

impl Waiter for Client {
    fn is_gone(&self) -> bool {
        false
    }
}

struct Bench {
    now: u64,
    topics: OneTopic,
    log: TestLog,
    partition: OffsetsPartition<Client>,
}

impl Bench {
    fn new(rules: BrokenRules) -> Self {
        let log = TestLog {
            epoch: LeaderEpoch::NONE,
            high_watermark: 0,
            end: 0,
            bytes: BytesMut::new(),
            refusals: VecDeque::new(),
            refuses: None,
        };
        let partition = OffsetsPartition::new(Arc::new(GroupConfig::default()), rules);
        Self { now: 1_000, topics: OneTopic { exists: true, id: TOPIC_ID }, log, partition }
    }

    /// A partition that leads a log with one commit of offset 7.
    fn with_commit(rules: BrokenRules) -> Self {
        let mut bench = Self::new(rules);
        bench.log.epoch = LeaderEpoch(2);
        let _ = bench.poll();
        let (answer, _) = bench.ask(1, commit(7));
        assert_eq!(answer, None);
        bench
    }

    fn on<T>(&mut self, input: impl FnOnce(&mut OffsetsPartition<Client>, &mut Environment<'_, '_, Shard>) -> T) -> T {
        let now = Now { monotonic: MonotonicMs(self.now), wall: TimestampMs(i64::try_from(self.now).unwrap()) };
        let mut environment: Environment<'_, '_, Shard> = Environment { now, view: &self.topics, log: &mut self.log };
        input(&mut self.partition, &mut environment)
    }

    fn poll(&mut self) -> Outputs<Shard, Client> {
        self.on(|partition, environment| partition.poll(environment))
    }

    fn ask(&mut self, client: u64, request: Request) -> (Option<GroupAnswer>, Outputs<Shard, Client>) {
        self.on(|partition, environment| partition.request(environment, request, || Client(client)))
    }

    fn read(&self) -> Result<Loaded<Shard>, LoadError> {
        let mut loader = Loader::<Shard>::new(Arc::new(GroupConfig::default()), EPOCH, 1_000_000);
        loader.take(Offset::ZERO, &Bytes::copy_from_slice(&self.log.bytes))?;
        Ok(loader.finish(Offset(self.log.end)))
    }

    fn loaded(&mut self, epoch: LeaderEpoch, result: Result<Loaded<Shard>, LoadError>) -> Outputs<Shard, Client> {
        self.on(|partition, environment| partition.loaded(environment, epoch, result))
    }

    /// The topics of all that the group has committed.
    fn all_fetched(&mut self) -> Vec<TopicId> {
        let group = GroupId::new("g");
        let request = FetchOffsets { group, member: None, member_epoch: -1, require_stable: false, topics: None };
        match self.ask(9, Request::FetchOffsets(request)).0.unwrap() {
            GroupAnswer::FetchOffsets(fetched) => fetched.topics.into_iter().map(|(topic, _)| topic.id).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn fetched(&mut self) -> Result<i64, ErrorCode> {
        let request = FetchOffsets {
            group: GroupId::new("g"),
            member: None,
            member_epoch: -1,
            require_stable: false,
            topics: Some(vec![(the_topic(), vec![PartitionId(0)])]),
        };
        match self.ask(9, Request::FetchOffsets(request)).0.unwrap() {
            GroupAnswer::FetchOffsets(fetched) => Ok(fetched.topics[0].1[0].offset.0),
            GroupAnswer::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }
}

fn the_topic() -> GroupTopic {
    GroupTopic { name: "t".to_owned(), id: TOPIC_ID }
}

fn commit(offset: i64) -> Request {
    let partition = CommitPartition {
        partition: PartitionId(0),
        offset: Offset(offset),
        leader_epoch: LeaderEpoch(0),
        metadata: None,
        timestamp: None,
        refused: None,
    };
    Request::CommitOffsets(CommitOffsets {
        group: GroupId::new("g"),
        member: MemberId::new(""),
        instance: None,
        generation_or_epoch: -1,
        knows_member_epochs: true,
        retention_ms: None,
        topics: vec![(the_topic(), vec![partition])],
    })
}

fn io_error() -> LoadError {
    LoadError::Io { at: Offset::ZERO, source: io::Error::other("bad sector") }
}

#[test]
fn groups_are_served_when_what_was_read_is_replicated() {
    let mut bench = Bench::with_commit(BrokenRules::default());
    bench.log.epoch = EPOCH;
    let outputs = bench.poll();
    assert_eq!(outputs.load, Some(EPOCH));
    // The commit of the former leadership is not replicated: whoever waits for it is told to look elsewhere.
    assert_eq!(outputs.answers, [(Client(1), GroupAnswer::Failed(ErrorCode::NotCoordinator))]);
    assert_eq!(bench.fetched(), Err(ErrorCode::CoordinatorLoadInProgress));
    let loaded = bench.read();
    let _ = bench.loaded(EPOCH, loaded);
    assert_eq!(bench.fetched(), Err(ErrorCode::CoordinatorLoadInProgress));
    bench.log.high_watermark = bench.log.end;
    let _ = bench.poll();
    assert_eq!(bench.fetched(), Ok(7));
}

#[test]
fn a_log_that_could_not_be_read_is_read_again_after_a_pause() {
    let mut bench = Bench::with_commit(BrokenRules::default());
    bench.log.high_watermark = bench.log.end;
    bench.log.epoch = EPOCH;
    let _ = bench.poll();
    for pause_ms in [1_000, 2_000, 4_000] {
        let outputs = bench.loaded(EPOCH, Err(io_error()));
        assert_eq!(outputs.timer.map(|timer| timer.at), Some(MonotonicMs(bench.now + pause_ms)));
        assert_eq!(bench.fetched(), Err(ErrorCode::NotCoordinator));
        bench.now += pause_ms - 1;
        assert_eq!(bench.on(|partition, environment| partition.tick(environment)).load, None);
        bench.now += 1;
        assert_eq!(bench.on(|partition, environment| partition.tick(environment)).load, Some(EPOCH));
    }
    let loaded = bench.read();
    let _ = bench.loaded(EPOCH, loaded);
    assert_eq!(bench.fetched(), Ok(7));
}

#[test]
fn what_was_read_for_a_former_leadership_is_dropped() {
    let mut bench = Bench::with_commit(BrokenRules::default());
    bench.log.high_watermark = bench.log.end;
    bench.log.epoch = EPOCH;
    let _ = bench.poll();
    let old = bench.read();
    bench.log.epoch = LeaderEpoch(4);
    assert_eq!(bench.poll().load, Some(LeaderEpoch(4)));
    let _ = bench.loaded(EPOCH, old);
    assert_eq!(bench.fetched(), Err(ErrorCode::CoordinatorLoadInProgress));
}

#[test]
fn topics_that_were_deleted_while_the_log_was_read_lose_their_offsets() {
    let mut bench = Bench::with_commit(BrokenRules::default());
    bench.log.high_watermark = bench.log.end;
    bench.log.epoch = EPOCH;
    let _ = bench.poll();
    let loaded = bench.read();
    let deleted = Notice::TopicsDeleted(Arc::new([TopicName::new("t").unwrap()]));
    bench.topics.exists = false;
    let _ = bench.on(|partition, environment| partition.notice(environment, deleted));
    let _ = bench.loaded(EPOCH, loaded);
    bench.log.high_watermark = bench.log.end;
    let _ = bench.poll();
    assert_eq!(bench.fetched(), Ok(-1));
}

/// F7: a coordinator that ends before it has written the tombstones leaves offsets of a deleted topic to the next one,
/// and these were told under the id of the topic that has the name now.
#[test]
fn offsets_of_topics_that_went_before_the_log_was_read_go() {
    for successor in [true, false] {
        let mut bench = Bench::with_commit(BrokenRules::default());
        bench.log.high_watermark = bench.log.end;
        let _ = bench.poll();
        assert_eq!(bench.all_fetched(), [TOPIC_ID]);
        bench.topics = OneTopic { exists: successor, id: TopicId([2; 16]) };
        if successor {
            assert_eq!(bench.all_fetched(), [], "not the new topic's");
        }
        bench.log.epoch = EPOCH;
        let _ = bench.poll();
        let (loaded, before) = (bench.read(), bench.log.end);
        let _ = bench.loaded(EPOCH, loaded);
        assert_eq!(bench.log.end, before + 1, "a tombstone");
        bench.log.high_watermark = bench.log.end;
        let _ = bench.poll();
        assert_eq!(bench.all_fetched(), []);
    }
}

/// Tombstones that the log refused were not written before the next load, whether the refusal was foreseen or not.
#[test]
fn offsets_of_topics_that_went_go_when_the_log_takes_records_again() {
    for (is_foreseen, is_noticed) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut bench = Bench::with_commit(BrokenRules::default());
        bench.log.high_watermark = bench.log.end;
        let _ = bench.poll();
        let refuse = |bench: &mut Bench| {
            bench.topics.exists = false;
            if is_foreseen {
                bench.log.refuses = Some(ErrorCode::NotEnoughReplicas);
            } else {
                bench.log.refusals.push_back(ErrorCode::NotEnoughReplicas);
            }
        };
        if !is_noticed {
            refuse(&mut bench);
        }
        bench.log.epoch = EPOCH;
        let _ = bench.poll();
        let loaded = bench.read();
        let _ = bench.loaded(EPOCH, loaded);
        if is_noticed {
            refuse(&mut bench);
            let deleted = Notice::TopicsDeleted(Arc::new([TopicName::new("t").unwrap()]));
            let _ = bench.on(|partition, environment| partition.notice(environment, deleted));
        }
        let before = bench.log.end;
        bench.now += 500;
        let _ = bench.on(|partition, environment| partition.tick(environment));
        bench.log.refuses = None;
        bench.now += 500;
        let _ = bench.on(|partition, environment| partition.tick(environment));
        assert_eq!(bench.log.end, before + 1, "a tombstone; foreseen {is_foreseen}, noticed {is_noticed}");
        bench.log.high_watermark = bench.log.end;
        let _ = bench.poll();
        assert_eq!(bench.all_fetched(), []);
        bench.now += 10_000;
        let _ = bench.on(|partition, environment| partition.tick(environment));
        assert_eq!(bench.log.end, before + 1, "once");
    }
}

#[test]
fn a_cut_log_is_an_error() {
    let bench = Bench::with_commit(BrokenRules::default());
    let half = bench.log.bytes.len() / 2;
    let mut loader = Loader::<Shard>::new(Arc::new(GroupConfig::default()), EPOCH, 1_000_000);
    let cut = loader.take(Offset::ZERO, &Bytes::copy_from_slice(&bench.log.bytes[..half]));
    assert!(matches!(cut, Err(LoadError::Cut { at: Offset::ZERO })), "{cut:?}");
}
