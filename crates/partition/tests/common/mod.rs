//! A replica on a disk in memory, in the role that the test gives it.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part")]

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::image::LeaderRecoveryState;
use ottla_metadata::{IsrMember, PartitionState};
use ottla_model::{
    BrokerEpoch, BrokerId, ControllerEpoch, ErrorCode, LeaderEpoch, MonotonicMs, Offset, PartitionEpoch, PartitionId,
    TimestampMs, TopicId, TopicName, TopicPartition,
};
use ottla_partition::{
    Ack, Append, AppendError, Appended, BrokenRules, ConsumerTerms, Effects, Fetch, Fetched, LogPlace, ReadError,
    Reader, Replica, ReplicaConfig,
};
use ottla_protocol::record_batch::BatchBuilder;
use ottla_replication::AppendTerms;
use ottla_storage::env::FaultyEnv;
use ottla_storage::{Checkpoints, LogConfig, LogDirectory};

pub const LOCAL: BrokerId = BrokerId(1);
pub const OTHER: BrokerId = BrokerId(2);
pub const NOW: MonotonicMs = MonotonicMs(1_000);
pub const WALL: TimestampMs = TimestampMs(1_700_000_000_000);
/// The leader epoch that a test begins in.
pub const EPOCH: LeaderEpoch = LeaderEpoch(5);

/// An answer that waits, by the name that the test gave it.
#[derive(Clone, Debug)]
pub struct Answer(pub &'static str, pub Rc<Cell<bool>>);

impl Ack for Answer {
    fn is_abandoned(&self) -> bool {
        self.1.get()
    }
}

/// For produces and deletions that nobody waits for.
pub struct NoAck;

impl Ack for NoAck {
    fn is_abandoned(&self) -> bool {
        false
    }
}

pub fn answer(name: &'static str) -> Answer {
    Answer(name, Rc::default())
}

pub fn names(answers: &[Answer]) -> Vec<&'static str> {
    answers.iter().map(|answer| answer.0).collect()
}

pub fn failed(effects: &Effects<Answer>) -> Vec<(&'static str, ErrorCode)> {
    effects.failed.iter().map(|(answer, error)| (answer.0, *error)).collect()
}

/// Every broker is registered with ten times its id.
#[allow(clippy::unnecessary_wraps, reason = "the form of `Brokers`")]
pub fn brokers(id: BrokerId) -> Option<BrokerEpoch> {
    Some(broker_epoch(id))
}

pub fn broker_epoch(id: BrokerId) -> BrokerEpoch {
    BrokerEpoch(i64::from(id.0) * 10)
}

/// A state of the partition with replicas 1 and 2.
pub fn state(leader: BrokerId, leader_epoch: LeaderEpoch, partition_epoch: i32, isr: &[i32]) -> Arc<PartitionState> {
    let member = |id: &i32| IsrMember { broker: BrokerId(*id), epoch: broker_epoch(BrokerId(*id)) };
    Arc::new(PartitionState {
        leader,
        leader_epoch,
        partition_epoch: PartitionEpoch(partition_epoch),
        controller_epoch: ControllerEpoch(1),
        replicas: vec![LOCAL, OTHER],
        reassignment: None,
        isr: isr.iter().map(member).collect(),
        elr: vec![],
        offline: vec![],
        last_known_elr: vec![],
        last_known_leader: BrokerId::NONE,
        leader_recovery_state: LeaderRecoveryState::Recovered,
    })
}

/// Replica 1 leads alone.
pub fn sole_leader(leader_epoch: LeaderEpoch) -> Arc<PartitionState> {
    Arc::new(PartitionState { replicas: vec![LOCAL], ..(*state(LOCAL, leader_epoch, 0, &[LOCAL.0])).clone() })
}

pub fn config() -> ReplicaConfig {
    ReplicaConfig {
        local: LOCAL,
        local_epoch: broker_epoch(LOCAL),
        replica_lag_time_max: Duration::from_secs(30),
        min_insync_replicas: 1,
        rules: BrokenRules::default(),
    }
}

/// `count` records, written at `timestamp`.
pub fn batch(count: i64, timestamp: TimestampMs) -> BatchBuilder {
    (0..count).fold(BatchBuilder::new(), |builder, _| builder.record(timestamp, None, Some(&[7; 20])))
}

/// A leader's batch of `count` records at `base`.
pub fn placed(base: i64, count: i64, epoch: LeaderEpoch) -> Vec<u8> {
    batch(count, WALL).placed_at(Offset(base), epoch).build().unwrap().to_vec()
}

/// A replica and the disk under it.
pub struct Host {
    pub env: FaultyEnv,
    pub core: Replica<FaultyEnv, Answer>,
}

impl Host {
    /// An empty log with this configuration, without a role.
    pub fn new(log_config: LogConfig) -> Self {
        let env = FaultyEnv::new(1);
        let directory = LogDirectory::open(env.clone(), Path::new("/data").to_owned()).unwrap();
        let place = LogPlace {
            directory: &directory,
            checkpoints: &Checkpoints::default(),
            partition: TopicPartition::new(TopicName::new("t").unwrap(), PartitionId(0)),
            topic_id: TopicId([1; 16]),
            config: Arc::new(log_config),
        };
        let mut core = Replica::new(Offset::ZERO);
        let effects = core.log_opened(place.open(None, WALL), NOW, WALL, &config(), &brokers);
        assert!(effects.disk_error.is_none());
        Self { env, core }
    }

    /// Leads replicas 1 and 2, both of them in sync.
    pub fn leader() -> Self {
        Self::leader_with(LogConfig::default())
    }

    pub fn leader_with(log_config: LogConfig) -> Self {
        let mut host = Self::new(log_config);
        let effects = host.assume(&state(LOCAL, EPOCH, 1, &[1, 2]));
        assert!(effects.role_changed);
        host
    }

    /// Follows broker 2.
    pub fn follower() -> Self {
        Self::follower_with(LogConfig::default())
    }

    pub fn follower_with(log_config: LogConfig) -> Self {
        let mut host = Self::new(log_config);
        let effects = host.assume(&state(OTHER, EPOCH, 1, &[1, 2]));
        assert!(effects.role_changed);
        host
    }

    pub fn assume(&mut self, state: &Arc<PartitionState>) -> Effects<Answer> {
        self.core.assume(state, NOW, WALL, &config(), &brokers)
    }

    pub fn try_append(&mut self, batch: BatchBuilder) -> Result<(Appended, Effects<Answer>), AppendError> {
        let mut records = batch.build().unwrap().to_vec();
        let append = Append { records: &mut records, header: None, acks_all: true, terms: AppendTerms::CLIENT };
        self.core.append(append, NOW, WALL, &brokers)
    }

    /// Appends `count` records as the leader.
    pub fn append(&mut self, count: i64) -> Appended {
        self.try_append(batch(count, WALL)).unwrap().0
    }

    /// Broker 2 has everything below `offset`, and its log starts at `log_start`.
    pub fn fetched(&mut self, offset: i64, log_start: i64) -> Effects<Answer> {
        let (effects, fetched) = self.fetch(&replica_fetch(offset, log_start, true));
        assert!(fetched.is_ok());
        effects
    }

    pub fn fetch(&mut self, fetch: &Fetch) -> (Effects<Answer>, Result<Fetched<FaultyEnv>, ReadError>) {
        self.core.fetch(fetch, NOW, &brokers, None)
    }

    pub fn log_range(&self) -> (Offset, Offset) {
        let log = self.core.log().unwrap();
        (log.log_start_offset(), log.log_end_offset())
    }
}

pub fn replica_fetch(offset: i64, log_start: i64, progress: bool) -> Fetch {
    Fetch {
        reader: Reader::Replica { id: OTHER, epoch: broker_epoch(OTHER), progress },
        offset: Offset(offset),
        log_start: Offset(log_start),
        current_leader_epoch: EPOCH,
        last_fetched_epoch: if offset == 0 { LeaderEpoch::NONE } else { EPOCH },
        max_bytes: 1 << 20,
        min_one: true,
    }
}

pub fn consumer_fetch(offset: i64, read_committed: bool) -> Fetch {
    Fetch {
        reader: Reader::Consumer(ConsumerTerms { read_committed, reads_followers: true }),
        current_leader_epoch: LeaderEpoch::NONE,
        last_fetched_epoch: LeaderEpoch::NONE,
        ..replica_fetch(offset, 0, false)
    }
}
