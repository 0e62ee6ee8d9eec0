//! Conversations with one shard: what clients ask, what the log and the leaders do, what leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::{BrokerId, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicName, TopicPartition};

use super::*;
use crate::cluster::Leader;
use crate::effects::{Marker, RawRecord};
use crate::request::{AddPartitions, EndTransaction, InitProducer, ListTransactions, Pattern};
use crate::transaction::{Producer, TransactionVersion};

const WALL_MS: i64 = 1_000_000;
const EPOCH: LeaderEpoch = LeaderEpoch(9);

struct TestCluster {
    next_id: i64,
    leaders: BTreeMap<TopicPartition, Leader>,
}

impl Cluster for TestCluster {
    fn leader(&self, partition: &TopicPartition) -> Leader {
        self.leaders.get(partition).copied().unwrap_or(Leader::Broker(BrokerId(1)))
    }

    fn new_producer_id(&mut self) -> Option<ProducerId> {
        self.next_id += 1;
        (self.next_id > 0).then_some(ProducerId(self.next_id))
    }
}

/// A shard, its log, and the markers that were sent.
struct Stage {
    shard: Shard,
    cluster: TestCluster,
    now_ms: u64,
    log: Vec<RawRecord>,
    markers: Vec<Marker>,
    answers: BTreeMap<u64, TransactionAnswer>,
    requests: u64,
    /// What the log says to the next batches.
    refuses: Option<ErrorCode>,
    /// The high watermark follows each append at once.
    replicates: bool,
}

impl Stage {
    fn new() -> Self {
        Self::with(TransactionConfig::default(), Vec::new())
    }

    /// A coordinator that loads a log.
    fn with(config: TransactionConfig, log: Vec<RawRecord>) -> Self {
        let mut stage = Self {
            shard: Shard::new(Arc::new(config), EPOCH),
            cluster: TestCluster { next_id: 100, leaders: BTreeMap::new() },
            now_ms: 0,
            log: Vec::new(),
            markers: Vec::new(),
            answers: BTreeMap::new(),
            requests: 0,
            refuses: None,
            replicates: true,
        };
        for raw in &log {
            stage.shard.apply(&raw.key, raw.value.as_deref()).unwrap();
        }
        stage.log = log;
        let effects = stage.shard.loaded(stage.now(), &mut stage.cluster);
        stage.execute(effects);
        stage
    }

    fn now(&self) -> Now {
        let wall = TimestampMs(WALL_MS + i64::try_from(self.now_ms).unwrap());
        Now { monotonic: MonotonicMs(self.now_ms), wall }
    }

    fn execute(&mut self, effects: Effects) {
        let Effects { batches, answers, messages: markers, .. } = effects;
        self.markers.extend(markers);
        for (id, answer) in answers {
            assert!(self.answers.insert(id.0, answer).is_none(), "a second answer to {id:?}");
        }
        for batch in batches {
            let further = match self.refuses {
                Some(error) => self.shard.append_refused(self.now(), batch.number, error),
                None => {
                    self.log.extend(batch.records);
                    let end = Offset(i64::try_from(self.log.len()).unwrap());
                    self.shard.appended(self.now(), &mut self.cluster, batch.number, end)
                }
            };
            self.execute(further);
        }
        if self.replicates {
            self.replicate();
        }
    }

    fn replicate(&mut self) {
        let end = Offset(i64::try_from(self.log.len()).unwrap());
        let effects = self.shard.committed_up_to(self.now(), &mut self.cluster, end);
        if !effects.is_empty() {
            self.execute(effects);
        }
    }

    /// Asks; none while the answer waits.
    fn ask(&mut self, request: Request) -> Option<TransactionAnswer> {
        self.requests += 1;
        let id = self.requests;
        let effects = self.shard.step(self.now(), &mut self.cluster, RequestId(id), request);
        self.execute(effects);
        self.answers.remove(&id)
    }

    fn tick_after(&mut self, after: Duration) {
        self.now_ms += u64::try_from(after.as_millis()).unwrap();
        let effects = self.shard.tick(self.now(), &mut self.cluster);
        self.execute(effects);
    }

    fn init(&mut self) -> Producer {
        match self.ask(init(None)) {
            Some(TransactionAnswer::Initialized(producer)) => producer,
            other => panic!("{other:?}"),
        }
    }

    /// All leaders write what they were sent.
    fn write_markers(&mut self) -> Vec<Marker> {
        let markers = std::mem::take(&mut self.markers);
        for marker in &markers {
            let results = marker.partitions.iter().map(|partition| (partition.clone(), ErrorCode::None)).collect();
            let effects = self.shard.marker_answered(self.now(), marker.number, &results);
            self.execute(effects);
        }
        markers
    }

    fn state(&mut self) -> (TransactionState, Producer) {
        match self.ask(Request::Describe(id())) {
            Some(TransactionAnswer::Described(described)) => (described.state, described.producer),
            other => panic!("{other:?}"),
        }
    }
}

fn id() -> TransactionalId {
    TransactionalId::new("tx")
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new(TopicName::new("t").unwrap(), PartitionId(partition))
}

fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

fn init(expected: Option<Producer>) -> Request {
    Request::InitProducer(InitProducer {
        id: id(),
        timeout_ms: 60_000,
        expected,
        enable_two_phase_commit: false,
        keep_prepared: false,
    })
}

fn add(producer: Producer, version: TransactionVersion, partitions: &[i32]) -> AddPartitions {
    AddPartitions { id: id(), producer, partitions: partitions.iter().copied().map(tp).collect(), version }
}

fn end(producer: Producer, commit: bool, version: TransactionVersion) -> Request {
    Request::End(EndTransaction { id: id(), producer, commit, version })
}

const V0: TransactionVersion = TransactionVersion::V0;
const V2: TransactionVersion = TransactionVersion::V2;

fn failed(error: ErrorCode) -> Option<TransactionAnswer> {
    Some(TransactionAnswer::Failed(error))
}

#[test]
fn a_transaction_commits_on_all_its_partitions() {
    let mut stage = Stage::new();
    stage.cluster.leaders.insert(tp(1), Leader::Broker(BrokerId(2)));
    let first = stage.init();
    assert_eq!(first, producer(101, 0));
    assert_eq!(stage.ask(Request::AddPartitions(add(first, V2, &[0, 1]))), Some(TransactionAnswer::Added));
    stage.replicates = false;
    assert_eq!(stage.ask(end(first, true, V2)), None, "the decision is not replicated yet");
    assert!(stage.markers.is_empty());
    stage.replicates = true;
    stage.replicate();
    assert_eq!(stage.answers.pop_first().map(|(_, answer)| answer), Some(TransactionAnswer::Ended(producer(101, 1))));
    assert_eq!(stage.state().0, TransactionState::PrepareCommit);
    let next = producer(101, 1);
    assert_eq!(
        stage.ask(Request::AddPartitions(add(next, V2, &[0]))),
        failed(ErrorCode::ConcurrentTransactions),
        "markers are on their way"
    );
    let markers = stage.write_markers();
    let sent: Vec<_> = markers.iter().map(|marker| (marker.broker, marker.partitions.clone())).collect();
    assert_eq!(sent, [(BrokerId(1), vec![tp(0)]), (BrokerId(2), vec![tp(1)])]);
    assert!(markers.iter().all(|marker| {
        marker.is_commit && marker.producer_epoch == ProducerEpoch(1) && marker.coordinator_epoch == EPOCH
    }));
    assert_eq!(stage.state(), (TransactionState::CompleteCommit, next));
    assert_eq!(stage.ask(end(first, true, V2)), Some(TransactionAnswer::Ended(next)), "the answer was lost");
    assert_eq!(stage.ask(end(first, false, V2)), failed(ErrorCode::InvalidTxnState));
    assert_eq!(stage.ask(end(next, true, V2)), failed(ErrorCode::InvalidTxnState), "nothing runs");
    assert_eq!(stage.ask(Request::AddPartitions(add(next, V2, &[3]))), Some(TransactionAnswer::Added));
}

#[test]
fn producers_of_before_kip_890_keep_their_epoch() {
    let mut stage = Stage::new();
    let first = stage.init();
    stage.ask(Request::AddPartitions(add(first, V0, &[0])));
    assert_eq!(stage.ask(end(first, false, V0)), Some(TransactionAnswer::Ended(first)));
    assert_eq!(stage.ask(end(first, false, V0)), failed(ErrorCode::ConcurrentTransactions));
    assert_eq!(stage.ask(end(first, true, V0)), failed(ErrorCode::InvalidTxnState));
    stage.write_markers();
    assert_eq!(stage.ask(end(first, false, V0)), Some(TransactionAnswer::Ended(first)));
    assert_eq!(stage.ask(end(producer(101, 1), false, V0)), failed(ErrorCode::ProducerFenced));
    assert_eq!(stage.ask(end(producer(7, 0), false, V0)), failed(ErrorCode::InvalidProducerIdMapping));
}

/// Transaction seed 3306: a process of before KIP-890 has taken over, and has ended a transaction without a new epoch.
/// What the process before it asks is no repeated request, though its epoch is the one before.
#[test]
fn a_fenced_producer_does_not_get_the_epoch_of_its_successor() {
    for commit in [false, true] {
        let mut stage = Stage::new();
        let (fenced, successor) = (stage.init(), stage.init());
        assert_eq!((fenced, successor), (producer(101, 0), producer(101, 1)));
        stage.ask(Request::AddPartitions(add(successor, V0, &[0])));
        assert_eq!(stage.ask(end(successor, commit, V0)), Some(TransactionAnswer::Ended(successor)));
        stage.write_markers();
        assert_eq!(stage.ask(end(fenced, commit, V2)), failed(ErrorCode::ProducerFenced));
    }
}

#[test]
fn an_abort_of_nothing_gives_a_new_epoch() {
    let mut stage = Stage::new();
    let first = stage.init();
    assert_eq!(stage.ask(end(first, true, V2)), failed(ErrorCode::InvalidTxnState));
    assert_eq!(stage.ask(end(first, false, V2)), Some(TransactionAnswer::Ended(producer(101, 1))));
    assert_eq!(stage.state(), (TransactionState::CompleteAbort, producer(101, 1)), "no marker is needed");
    assert_eq!(
        stage.ask(end(first, false, V2)),
        Some(TransactionAnswer::Ended(producer(101, 1))),
        "the answer was lost"
    );
    assert_eq!(stage.ask(end(producer(101, 1), false, V2)), Some(TransactionAnswer::Ended(producer(101, 2))));
}

#[test]
fn a_new_producer_fences_the_former_and_aborts_its_transaction() {
    let mut stage = Stage::new();
    let first = stage.init();
    stage.ask(Request::AddPartitions(add(first, V2, &[0])));
    assert_eq!(stage.ask(init(None)), failed(ErrorCode::ConcurrentTransactions));
    assert_eq!(stage.ask(end(first, true, V2)), failed(ErrorCode::ProducerFenced));
    assert_eq!(stage.ask(init(None)), failed(ErrorCode::ConcurrentTransactions), "markers are on their way");
    let markers = stage.write_markers();
    assert_eq!((markers[0].is_commit, markers[0].producer_epoch), (false, ProducerEpoch(2)));
    assert_eq!(stage.init(), producer(101, 3));
    assert_eq!(stage.ask(Request::AddPartitions(add(first, V2, &[0]))), failed(ErrorCode::ProducerFenced));
}

#[test]
fn a_producer_that_recovers_names_what_it_had() {
    let mut stage = Stage::new();
    let first = stage.init();
    let bumped = producer(101, 1);
    assert_eq!(stage.ask(init(Some(first))), Some(TransactionAnswer::Initialized(bumped)));
    assert_eq!(stage.ask(init(Some(first))), Some(TransactionAnswer::Initialized(bumped)), "the answer was lost");
    assert_eq!(stage.init(), producer(101, 2));
    assert_eq!(stage.ask(init(Some(bumped))), failed(ErrorCode::ProducerFenced));
    assert_eq!(stage.ask(init(Some(producer(5, 2)))), failed(ErrorCode::ProducerFenced));
}

/// A transaction of a producer's last epoch, which has ended with the producer's next id; its markers are not written.
fn after_the_last_epoch() -> (Stage, Transaction, Producer) {
    let mut last = Transaction::new(ProducerId(7), 60_000, TimestampMs(WALL_MS));
    last.producer.epoch = ProducerEpoch(i16::MAX - 1);
    let mut stage = Stage::with(TransactionConfig::default(), vec![record::encode(&id(), Some(&last))]);
    stage.ask(Request::AddPartitions(add(last.producer, V2, &[0])));
    let next = producer(101, 0);
    assert_eq!(stage.ask(end(last.producer, true, V2)), Some(TransactionAnswer::Ended(next)));
    (stage, last, next)
}

#[test]
fn used_up_epochs_lead_to_another_id() {
    let (mut stage, last, next) = after_the_last_epoch();
    assert_eq!(stage.write_markers()[0].producer_epoch, ProducerEpoch(i16::MAX), "of the former id");
    assert_eq!(stage.state(), (TransactionState::CompleteCommit, next));
    assert_eq!(stage.ask(end(last.producer, true, V2)), Some(TransactionAnswer::Ended(next)), "the answer was lost");
    // The same for InitProducerId.
    let mut stage = Stage::with(TransactionConfig::default(), vec![record::encode(&id(), Some(&last))]);
    assert_eq!(stage.ask(init(Some(last.producer))), Some(TransactionAnswer::Initialized(next)));
    let bumped = Some(TransactionAnswer::Initialized(producer(101, 1)));
    assert_eq!(stage.ask(init(Some(next))), bumped);
    assert_eq!(stage.ask(init(Some(next))), bumped);
}

/// The coordinator's abort says a little more than a transaction's last record. A log that took this one and not the
/// abort kept the transaction for ever, and readers of committed records waited for it.
#[test]
fn a_transaction_grows_as_long_as_its_end_fits() {
    let limit = 400;
    // Of the broker, or of the topic.
    for (of_broker, of_topic) in [(limit, usize::MAX), (1_000_000, 400)] {
        let config = TransactionConfig { max_batch_bytes: of_broker, ..TransactionConfig::default() };
        let mut stage = Stage::with(config, Vec::new());
        stage.shard.limit_batches(of_topic);
        let first = stage.init();
        let mut joins = |partition: i32| stage.ask(Request::AddPartitions(add(first, V0, &[partition])));
        let joined = (0..100).take_while(|partition| joins(*partition) == Some(TransactionAnswer::Added)).count();
        assert!((1..100).contains(&joined), "{joined}");
        assert_eq!(joins(100), failed(ErrorCode::PolicyViolation));
        assert_eq!(stage.ask(init(None)), failed(ErrorCode::ConcurrentTransactions));
        let abort = crate::effects::BATCH_OVERHEAD_BYTES + stage.log.last().unwrap().size_bytes();
        assert!(abort <= usize::try_from(limit).unwrap(), "{abort}");
    }
}

/// It was told INVALID_PRODUCER_ID_MAPPING, or that it was fenced, upon which producers give up: once in 32,767
/// transactions.
#[test]
fn a_producer_with_another_id_waits_for_the_markers_of_the_former() {
    let (mut stage, _, next) = after_the_last_epoch();
    let requests = [Request::AddPartitions(add(next, V2, &[0])), end(next, false, V2), init(Some(next))];
    for request in requests.clone() {
        assert_eq!(stage.ask(request), failed(ErrorCode::ConcurrentTransactions));
    }
    // The same at the next coordinator.
    let mut stage = Stage::with(TransactionConfig::default(), std::mem::take(&mut stage.log));
    for request in requests {
        assert_eq!(stage.ask(request), failed(ErrorCode::ConcurrentTransactions));
    }
    stage.write_markers();
    assert_eq!(stage.ask(Request::AddPartitions(add(next, V2, &[0]))), Some(TransactionAnswer::Added));
}

/// The fence of a producer with its last epoch but one is the last epoch, which it took for its own next one: its late
/// EndTxn was a repeated one, and it went on under that epoch beside its successor.
#[test]
fn a_producer_that_was_fenced_by_the_last_epoch_does_not_get_it() {
    let mut last = Transaction::new(ProducerId(7), 60_000, TimestampMs(WALL_MS));
    last.producer.epoch = ProducerEpoch(i16::MAX - 1);
    let mut stage = Stage::with(TransactionConfig::default(), vec![record::encode(&id(), Some(&last))]);
    stage.ask(Request::AddPartitions(add(last.producer, V2, &[0])));
    assert_eq!(stage.ask(init(None)), failed(ErrorCode::ConcurrentTransactions));
    assert_eq!(stage.ask(end(last.producer, false, V2)), failed(ErrorCode::ProducerFenced));
    stage.write_markers();
    for commit in [false, true] {
        assert_eq!(stage.ask(end(last.producer, commit, V2)), failed(ErrorCode::ProducerFenced));
    }
    assert_eq!(stage.init(), producer(101, 0));
}

#[test]
fn a_refused_record_changes_nothing() {
    let mut stage = Stage::new();
    stage.refuses = Some(ErrorCode::NotEnoughReplicas);
    assert_eq!(stage.ask(init(None)), failed(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(stage.ask(Request::Describe(id())), failed(ErrorCode::TransactionalIdNotFound));
    stage.refuses = None;
    let first = stage.init();
    stage.refuses = Some(ErrorCode::NotLeaderOrFollower);
    assert_eq!(stage.ask(Request::AddPartitions(add(first, V2, &[0]))), failed(ErrorCode::NotCoordinator));
    assert_eq!(stage.state(), (TransactionState::Empty, first));
    stage.refuses = None;
    stage.ask(Request::AddPartitions(add(first, V2, &[0])));
    stage.ask(end(first, true, V2));
    // The end of the transaction is refused: it is written again.
    stage.refuses = Some(ErrorCode::NotEnoughReplicas);
    stage.write_markers();
    assert_eq!(stage.state().0, TransactionState::PrepareCommit);
    stage.refuses = None;
    stage.tick_after(markers::RETRY_COMPLETION);
    assert_eq!(stage.state().0, TransactionState::CompleteCommit);
}

#[test]
fn one_change_is_in_flight_at_a_time() {
    let mut stage = Stage::new();
    let first = stage.init();
    stage.replicates = false;
    assert_eq!(stage.ask(Request::AddPartitions(add(first, V0, &[0]))), None);
    for request in [init(None), Request::AddPartitions(add(first, V0, &[1])), end(first, true, V0)] {
        assert_eq!(stage.ask(request), failed(ErrorCode::ConcurrentTransactions));
    }
    let waiting = stage.shard.resign(ErrorCode::NotCoordinator).answers;
    assert_eq!(
        waiting.into_iter().map(|(_, answer)| answer).collect::<Vec<_>>(),
        [TransactionAnswer::Failed(ErrorCode::NotCoordinator)]
    );
}

#[test]
fn markers_follow_leaders_and_forget_deleted_partitions() {
    let mut stage = Stage::new();
    let first = stage.init();
    stage.ask(Request::AddPartitions(add(first, V2, &[0, 1, 2])));
    stage.cluster.leaders.insert(tp(1), Leader::None);
    stage.cluster.leaders.insert(tp(2), Leader::Deleted);
    stage.ask(end(first, true, V2));
    let sent = std::mem::take(&mut stage.markers);
    assert_eq!(sent.iter().map(|marker| &marker.partitions[..]).collect::<Vec<_>>(), [&[tp(0)][..]]);
    let moved = [(tp(0), ErrorCode::NotLeaderOrFollower)].into();
    let effects = stage.shard.marker_answered(stage.now(), sent[0].number, &moved);
    stage.execute(effects);
    stage.cluster.leaders.insert(tp(0), Leader::Broker(BrokerId(5)));
    stage.cluster.leaders.insert(tp(1), Leader::Broker(BrokerId(5)));
    stage.tick_after(Duration::from_secs(1));
    let again = std::mem::take(&mut stage.markers);
    assert_eq!((again.len(), again[0].broker, &again[0].partitions), (1, BrokerId(5), &vec![tp(0), tp(1)]));
    let effects = stage.shard.marker_lost(stage.now(), again[0].number);
    stage.execute(effects);
    stage.tick_after(Duration::from_secs(1));
    stage.write_markers();
    assert_eq!(stage.state().0, TransactionState::CompleteCommit);
    // An answer that comes late is of no consequence.
    let late = stage.shard.marker_answered(stage.now(), again[0].number, &moved);
    assert!(late.is_empty());
}

#[test]
fn the_next_coordinator_goes_on() {
    let mut stage = Stage::new();
    let first = stage.init();
    stage.ask(Request::AddPartitions(add(first, V2, &[0])));
    stage.ask(end(first, true, V2));
    let mut next = Stage::with(TransactionConfig::default(), stage.log);
    assert_eq!(next.ask(end(first, true, V2)), failed(ErrorCode::ConcurrentTransactions));
    assert_eq!(next.write_markers().len(), 1);
    assert_eq!(next.ask(end(first, true, V2)), Some(TransactionAnswer::Ended(producer(101, 1))));
    assert_eq!(next.log.len(), 4, "two of the producer, the decision, the end");
}

#[test]
fn a_transaction_that_runs_too_long_is_aborted() {
    let mut stage = Stage::new();
    let first = stage.init();
    stage.ask(Request::AddPartitions(add(first, V0, &[0])));
    stage.tick_after(Duration::from_secs(60));
    assert!(stage.markers.is_empty());
    assert!(stage.shard.next_deadline().is_some());
    stage.tick_after(Duration::from_secs(10));
    assert!(!stage.write_markers()[0].is_commit);
    assert_eq!(stage.state(), (TransactionState::CompleteAbort, producer(101, 2)));
    assert_eq!(stage.ask(Request::AddPartitions(add(first, V0, &[0]))), failed(ErrorCode::ProducerFenced));
}

#[test]
fn ids_that_nobody_uses_are_forgotten() {
    let config = TransactionConfig { id_expiration_ms: 7_200_000, ..TransactionConfig::default() };
    let mut stage = Stage::with(config, Vec::new());
    stage.init();
    stage.tick_after(Duration::from_secs(3_600));
    assert_eq!(stage.state().0, TransactionState::Empty);
    stage.tick_after(Duration::from_secs(3_600));
    assert_eq!(stage.ask(Request::Describe(id())), failed(ErrorCode::TransactionalIdNotFound));
    let last = stage.log.last().unwrap();
    assert_eq!(last.value, None);
    assert_eq!(
        Stage::with(TransactionConfig::default(), stage.log).ask(Request::Describe(id())),
        failed(ErrorCode::TransactionalIdNotFound)
    );
}

#[test]
fn leaders_learn_what_a_transaction_includes() {
    let mut stage = Stage::new();
    let first = stage.init();
    stage.ask(Request::AddPartitions(add(first, V0, &[0])));
    let verified = stage.ask(Request::VerifyPartitions(add(first, V0, &[0, 1])));
    let expected = vec![(tp(0), ErrorCode::None), (tp(1), ErrorCode::TransactionAbortable)];
    assert_eq!(verified, Some(TransactionAnswer::Verified(expected)));
    let mut verify = |producer| stage.ask(Request::VerifyPartitions(add(producer, V0, &[0])));
    assert_eq!(verify(producer(101, 5)), failed(ErrorCode::ProducerFenced));
    assert_eq!(verify(producer(1, 0)), failed(ErrorCode::InvalidProducerIdMapping));
    stage.ask(end(first, true, V0));
    let verified = stage.ask(Request::VerifyPartitions(add(first, V0, &[0])));
    assert_eq!(verified, failed(ErrorCode::ConcurrentTransactions));
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let mut stage = Stage::new();
    let with = |change: &dyn Fn(&mut InitProducer)| {
        let Request::InitProducer(mut request) = init(None) else { panic!() };
        change(&mut request);
        Request::InitProducer(request)
    };
    let cases: [(Request, ErrorCode); 5] = [
        (with(&|init| init.timeout_ms = 900_001), ErrorCode::InvalidTransactionTimeout),
        (with(&|init| init.timeout_ms = 0), ErrorCode::InvalidTransactionTimeout),
        (with(&|init| init.enable_two_phase_commit = true), ErrorCode::TransactionalIdAuthorizationFailed),
        (with(&|init| init.keep_prepared = true), ErrorCode::UnsupportedVersion),
        (with(&|init| init.id = TransactionalId::new("")), ErrorCode::InvalidRequest),
    ];
    for (request, error) in cases {
        assert_eq!(stage.ask(request), failed(error));
    }
    assert_eq!(
        stage.ask(Request::AddPartitions(add(producer(1, 0), V2, &[0]))),
        failed(ErrorCode::InvalidProducerIdMapping)
    );
    stage.cluster.next_id = i64::MIN;
    assert_eq!(stage.ask(init(None)), failed(ErrorCode::CoordinatorLoadInProgress), "no ids from the quorum yet");
}

#[test]
fn lists_are_filtered() {
    let mut stage = Stage::new();
    let first = stage.init();
    stage.ask(Request::AddPartitions(add(first, V2, &[0])));
    stage.now_ms = 500;
    let mut found = |request: ListTransactions| match stage.ask(Request::List(request)) {
        Some(TransactionAnswer::Listed(listed)) => listed.len(),
        other => panic!("{other:?}"),
    };
    let all = ListTransactions { longer_than_ms: -1, ..ListTransactions::default() };
    assert_eq!(found(all.clone()), 1);
    assert_eq!(found(ListTransactions { longer_than_ms: 499, ..all.clone() }), 1);
    assert_eq!(found(ListTransactions { longer_than_ms: 500, ..all.clone() }), 0);
    assert_eq!(found(ListTransactions { producer_ids: [ProducerId(1)].into(), ..all.clone() }), 0);
    assert_eq!(found(ListTransactions { states: Some([TransactionState::Empty].into()), ..all.clone() }), 0);
    assert_eq!(found(ListTransactions { pattern: Some(Pattern::new("t.").unwrap()), ..all.clone() }), 1);
    assert_eq!(found(ListTransactions { pattern: Some(Pattern::new("t").unwrap()), ..all }), 0);
    assert!(Pattern::new("(").is_err());
    assert!(Pattern::new("((a{1000}){1000}){1000}").is_err());
}

fn new_id(text: &str) -> Request {
    let Request::InitProducer(request) = init(None) else { unreachable!("an InitProducerId") };
    Request::InitProducer(InitProducer { id: TransactionalId::new(text), ..request })
}

/// G10: each InitProducerId with a new id took memory for a week.
#[test]
fn g10_new_transactional_ids_without_end_stay_below_the_ceiling() {
    let budget = Arc::new(crate::IdBudget::new(100 * 1_100));
    let mut stage =
        Stage::with(TransactionConfig { budget: budget.clone(), ..TransactionConfig::default() }, Vec::new());
    // A producer that runs transactions, between two of them.
    let producer = stage.init();
    stage.ask(Request::AddPartitions(add(producer, V2, &[0])));
    stage.ask(end(producer, true, V2));
    stage.write_markers();
    let mut taken = 0;
    for number in 0..5_000 {
        stage.now_ms += 1;
        match stage.ask(new_id(&format!("id-{number}"))) {
            Some(TransactionAnswer::Initialized(_)) => taken += 1,
            Some(TransactionAnswer::Failed(ErrorCode::CoordinatorLoadInProgress)) => {}
            other => panic!("{other:?}"),
        }
        assert!(budget.used() <= budget.ceiling());
    }
    assert!(taken > 4_000, "the newcomer finds the room of those that are forgotten: {taken}");
    assert!(matches!(stage.ask(init(None)), Some(TransactionAnswer::Initialized(_))), "one that is there goes on");
    let too_long = "x".repeat(crate::budget::ID_BYTES_MAX + 1);
    assert_eq!(stage.ask(new_id(&too_long)), Some(TransactionAnswer::Failed(ErrorCode::InvalidRequest)));
    // The next coordinator counts what it finds; one that goes gives everything back.
    let (used, log) = (budget.used(), std::mem::take(&mut stage.log));
    drop(stage);
    assert_eq!(budget.used(), 0);
    let next = Stage::with(TransactionConfig { budget: budget.clone(), ..TransactionConfig::default() }, log);
    assert_eq!(budget.used(), used);
    drop(next);
    assert_eq!(budget.used(), 0);
}
