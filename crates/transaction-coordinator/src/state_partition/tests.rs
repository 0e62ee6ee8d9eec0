//! From leadership to leadership.

use ottla_coordinator_partition::{
    BrokenRules, Environment, Event, LoadError, Loader, PartitionLog, TimerChange, Waiter,
};
use ottla_model::{BrokerId, ProducerId, TimestampMs, TransactionalId};

use super::*;
use crate::cluster::Leader;
use crate::effects::{Batch, BatchKind};
use crate::request::InitProducer;

struct NoWaiter;

impl Waiter for NoWaiter {
    fn is_gone(&self) -> bool {
        false
    }
}

struct TestCluster(i64);

impl Cluster for TestCluster {
    fn leader(&self, _: &TopicPartition) -> Leader {
        Leader::Broker(BrokerId(1))
    }

    fn new_producer_id(&mut self) -> Option<ProducerId> {
        self.0 += 1;
        Some(ProducerId(self.0))
    }
}

#[derive(Default)]
struct TestLog {
    epoch: i32,
    high_watermark: i64,
    batches: Vec<Batch>,
}

impl PartitionLog for TestLog {
    fn leading_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.epoch)
    }

    fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark)
    }

    fn end_if_empty(&self, _: LeaderEpoch) -> Option<Offset> {
        self.batches.is_empty().then_some(Offset(0))
    }

    fn check_append(&self, _: LeaderEpoch) -> Result<usize, ErrorCode> {
        Ok(usize::MAX)
    }

    fn append(&mut self, epoch: LeaderEpoch, batch: &Batch) -> Result<Offset, ErrorCode> {
        assert_eq!(epoch, self.leading_epoch());
        self.batches.push(batch.clone());
        Ok(Offset(self.batches.len() as i64))
    }
}

struct Stage {
    core: StatePartition<NoWaiter>,
    log: TestLog,
    cluster: TestCluster,
    now_ms: u64,
}

impl Stage {
    fn new() -> Self {
        let core = StatePartition::new(Arc::new(TransactionConfig::default()), BrokenRules::default());
        Self { core, log: TestLog { epoch: -1, ..TestLog::default() }, cluster: TestCluster(0), now_ms: 0 }
    }

    fn with<T>(&mut self, step: impl FnOnce(&mut StatePartition<NoWaiter>, &mut Environment<'_, '_, Shard>) -> T) -> T {
        let now = Now { monotonic: MonotonicMs(self.now_ms), wall: TimestampMs(1_000_000) };
        step(&mut self.core, &mut Environment { now, view: &mut self.cluster, log: &mut self.log })
    }

    fn init(&mut self) -> Option<TransactionAnswer> {
        let request = Request::InitProducer(InitProducer {
            id: TransactionalId::new("tx"),
            timeout_ms: 1_000,
            expected: None,
            enable_two_phase_commit: false,
            keep_prepared: false,
        });
        self.with(|core, environment| core.request(environment, request, || NoWaiter)).0
    }
}

fn failed(error: ErrorCode) -> Option<TransactionAnswer> {
    Some(TransactionAnswer::Failed(error))
}

#[test]
fn ids_are_served_from_what_is_replicated() {
    let mut stage = Stage::new();
    assert_eq!(stage.init(), failed(ErrorCode::NotCoordinator));
    stage.log.epoch = 1;
    let _ = stage.with(|core, environment| core.poll(environment));
    assert_eq!(stage.init(), None, "an empty log is served at once");
    // Another leadership: the request is answered, the log is read, and served when its end is replicated.
    stage.log.epoch = 2;
    let outputs = stage.with(|core, environment| core.poll(environment));
    assert_eq!(outputs.load, Some(LeaderEpoch(2)));
    assert!(matches!(outputs.answers[..], [(NoWaiter, TransactionAnswer::Failed(ErrorCode::NotCoordinator))]));
    assert_eq!(stage.init(), failed(ErrorCode::CoordinatorLoadInProgress));
    let mut loader = Loader::<Shard>::new(Arc::new(TransactionConfig::default()), LeaderEpoch(2), 1_000_000);
    let bytes = stage.log.batches[0].encode().unwrap().freeze();
    loader.take(Offset(0), &bytes).unwrap();
    assert_eq!(loader.next(), Some(Offset(1)));
    let late = Loader::new(Arc::new(TransactionConfig::default()), LeaderEpoch(1), 0).finish(Offset(0));
    let _ = stage.with(|core, environment| core.loaded(environment, LeaderEpoch(1), Ok(late)));
    let loaded = loader.finish(Offset(1));
    let _ = stage.with(|core, environment| core.loaded(environment, LeaderEpoch(2), Ok(loaded)));
    assert_eq!(stage.init(), failed(ErrorCode::CoordinatorLoadInProgress), "the end is not replicated");
    stage.log.high_watermark = 1;
    let outputs = stage.with(|core, environment| core.poll(environment));
    assert!(matches!(outputs.events[..], [Event::Serving { .. }]));
    assert_eq!(stage.init(), None);
    assert_eq!(stage.core.shard().map(|shard| shard.states()), Some([("Empty", 1)].into()));
}

#[test]
fn a_log_that_cannot_be_read_is_read_again() {
    let mut stage = Stage::new();
    stage.log.epoch = 1;
    stage.log.batches.push(Batch {
        number: Default::default(),
        timestamp: TimestampMs(0),
        records: Vec::new(),
        kind: BatchKind::Plain,
    });
    let outputs = stage.with(|core, environment| core.poll(environment));
    assert_eq!(outputs.load, Some(LeaderEpoch(1)));
    let cut = LoadError::Cut { at: Offset(0) };
    let outputs = stage.with(|core, environment| core.loaded(environment, LeaderEpoch(1), Err(cut)));
    assert_eq!(outputs.timer, Some(TimerChange { at: MonotonicMs(1_000), instead_of: None }));
    assert_eq!(stage.init(), failed(ErrorCode::NotCoordinator));
    stage.now_ms = 1_000;
    let outputs = stage.with(|core, environment| core.tick(environment));
    assert_eq!(outputs.load, Some(LeaderEpoch(1)));
}
