//! One partition of `__consumer_offsets` or `__transaction_state`: the replicas that ship
//! ([`ottla_partition::Replica`]), each over a log on a disk in memory. They decide what is appended, replicated,
//! truncated and committed.
//!
//! The worlds of [`crate::groups`] and [`crate::transactions`] stand for the network (when a follower fetches, when a
//! broker hears of the tree) and for the failures of brokers, as [`cluster`] has it for both; [`quorum`] decides who
//! leads and who is in an ISR, and [`fetching`] what a follower asks, by the rules that ship.

mod cluster;
mod fetching;
mod quorum;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_coordinator_partition::{Batch, Now, PartitionLog, RawRecord};
use ottla_metadata::controller::AlteredPartitions;
use ottla_model::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, PartitionId, Revision, TimestampMs, TopicId,
    TopicIdPartition, TopicName, TopicPartition,
};
use ottla_partition::{Ack, Append, Effects, IsrProposals, LogPlace, Replica, ReplicaConfig, read_own};
use ottla_protocol::record_batch::Batches;
use ottla_replication::AppendTerms;
use ottla_storage::compaction::{CleanError, CleanerLimits};
use ottla_storage::env::MemoryEnv;
use ottla_storage::{Checkpoints, LogConfig, LogDirectory};

use crate::at_once::AtOnce;
use crate::clock::WALL_START_MS;

pub use cluster::{LogEvent, LogWorld, Logs, Weather};
use fetching::Fetchers;
pub use quorum::state_of;
use quorum::{MIN_ISR, Quorum, election_order, epoch_of};

const TOPIC_ID: TopicId = TopicId([7; 16]);
const FETCH_BYTES: usize = 1 << 20;
/// Small, so that there are segments to compact.
const SEGMENT_BYTES: u32 = 4_096;
/// Longer than a run.
const TOMBSTONES_STAY_MS: i64 = 86_400_000;

/// Nothing waits at a replica here: the coordinators look at the high watermark.
pub struct NoAck;

impl Ack for NoAck {
    fn is_abandoned(&self) -> bool {
        true
    }
}

/// A replica whose disk refuses nothing.
pub type LocalReplica = Replica<MemoryEnv, NoAck>;

/// A batch as it was appended.
#[derive(Debug)]
pub struct StoredBatch {
    pub epoch: i32,
    pub base: i64,
    pub records: Vec<RawRecord>,
}

impl StoredBatch {
    pub fn end(&self) -> i64 {
        self.base + i64::try_from(self.records.len()).unwrap_or(0)
    }
}

/// A piece of a leader's log, and where the log ends.
pub struct Piece {
    pub from: Offset,
    /// None at the end.
    pub records: Option<Bytes>,
    pub end: Offset,
}

pub struct Partition {
    pub index: i32,
    id: TopicIdPartition,
    quorum: Quorum,
    replicas: BTreeMap<i32, LocalReplica>,
    /// What each broker fetches.
    fetchers: BTreeMap<i32, Fetchers>,
    /// Up to where each log was compacted.
    cleaned: BTreeMap<i32, Offset>,
    /// By leader epoch and offset: what the invariants are told when it is committed.
    appended: BTreeMap<(i32, i64), Arc<StoredBatch>>,
    committed: Offset,
    /// The leaders' high watermarks, as [`Self::moved`] said last.
    told: BTreeMap<i32, (LeaderEpoch, Offset)>,
}

/// Every broker may be in an ISR.
#[allow(clippy::unnecessary_wraps, reason = "the form of `Brokers`")]
pub fn any_epoch(broker: BrokerId) -> Option<BrokerEpoch> {
    Some(epoch_of(broker.0))
}

pub fn replica_config(broker: i32, min_insync_replicas: usize) -> ReplicaConfig {
    ReplicaConfig {
        local: BrokerId(broker),
        local_epoch: epoch_of(broker),
        // Followers fall out of the ISR by the world's dice.
        replica_lag_time_max: Duration::from_secs(86_400),
        min_insync_replicas,
        rules: ottla_partition::BrokenRules::default(),
    }
}

fn log_config(keeps_tombstones: bool) -> Arc<LogConfig> {
    Arc::new(LogConfig {
        segment_bytes: SEGMENT_BYTES,
        deletes: false,
        compact: true,
        min_cleanable_dirty_ppm: 0,
        delete_retention_ms: if keeps_tombstones { TOMBSTONES_STAY_MS } else { 0 },
        ..LogConfig::default()
    })
}

/// When the logs are created.
pub const START: Now = Now { monotonic: MonotonicMs(0), wall: TimestampMs(WALL_START_MS) };

/// A replica with an empty log, and without a role.
///
/// # Panics
/// Never: a disk in memory refuses nothing.
pub fn new_replica(partition: TopicPartition, config: &ReplicaConfig) -> LocalReplica {
    let mut replica = LocalReplica::new(Offset::ZERO);
    let directory = LogDirectory::open(MemoryEnv::default(), Path::new("/data").to_owned());
    let directory = directory.unwrap_or_else(|_| unreachable!("in memory"));
    let checkpoints = &Checkpoints::default();
    let (topic_id, log_config) = (TOPIC_ID, log_config(true));
    let place = LogPlace { directory: &directory, checkpoints, partition, topic_id, config: log_config };
    let _ = replica.log_opened(place.open(None, START.wall), START.monotonic, START.wall, config, &any_epoch);
    replica
}

impl Partition {
    /// # Panics
    /// Never: the name is valid.
    pub fn new(index: i32, brokers: &[i32]) -> Self {
        let topic = TopicName::new("__coordinators").unwrap_or_else(|_| unreachable!("a valid name"));
        let name = TopicPartition::new(topic, PartitionId(index));
        Self {
            index,
            id: TopicIdPartition { topic_id: TOPIC_ID, partition: PartitionId(index) },
            quorum: Quorum::new(name.topic.clone(), brokers),
            replicas: brokers
                .iter()
                .map(|broker| (*broker, new_replica(name.clone(), &replica_config(*broker, MIN_ISR))))
                .collect(),
            fetchers: BTreeMap::new(),
            cleaned: BTreeMap::new(),
            appended: BTreeMap::new(),
            committed: Offset::ZERO,
            told: BTreeMap::new(),
        }
    }

    // ---- the quorum

    pub fn leader(&self) -> Option<i32> {
        self.quorum.leader()
    }

    /// Of the leader that was elected last.
    pub fn epoch(&self) -> LeaderEpoch {
        self.quorum.state.leader_epoch
    }

    pub fn isr(&self) -> BTreeSet<i32> {
        self.quorum.state.isr_ids().map(|broker| broker.0).collect()
    }

    pub fn is_led_by(&self, broker: i32, epoch: LeaderEpoch) -> bool {
        self.leader() == Some(broker) && self.epoch() == epoch
    }

    /// Another leader; none if none of these may lead. Says whether that is a change.
    pub fn elect(&mut self, order: &[i32]) -> bool {
        self.quorum.elect(order)
    }

    /// The broker is down, or does not fetch, until it fetches again.
    pub fn fence(&mut self, broker: i32) {
        self.quorum.fence(broker);
    }

    /// The broker hears of the tree's state.
    pub fn learn(&mut self, broker: i32, now: Now) {
        let Some(replica) = self.replicas.get_mut(&broker) else { return };
        let (state, config) = (&self.quorum.state, replica_config(broker, MIN_ISR));
        let effects = replica.assume(state, now.monotonic, now.wall, &config, &self.quorum.eligible());
        self.execute(broker, effects, now);
        self.role_changed(broker, now);
    }

    /// The broker's process has ended; the next one finds its log.
    pub fn restart(&mut self, broker: i32, now: Now) {
        self.process_ended(broker, now);
        let Some(replica) = self.replicas.get_mut(&broker) else { return };
        let high_watermark = replica.high_watermark();
        let (Some(log), _) = replica.close(ErrorCode::NotLeaderOrFollower) else { return };
        *replica = LocalReplica::new(high_watermark);
        let _ = replica.log_opened(
            Ok(log),
            now.monotonic,
            now.wall,
            &replica_config(broker, MIN_ISR),
            &self.quorum.eligible(),
        );
    }

    /// Carries out what a step led to: the quorum decides at once what the leader proposes.
    fn execute(&mut self, broker: i32, effects: Effects<NoAck>, now: Now) {
        let (mut proposals, mut proposal) = (IsrProposals::default(), effects.proposal);
        while let Some(proposed) = proposal.take() {
            proposals.submit(self.id, proposed);
            let asked = proposals.next_request().unwrap_or_default();
            let partitions = asked.iter().map(|request| self.quorum.alter(broker, request)).collect();
            let answer = AlteredPartitions { error: ErrorCode::None, partitions, revision: Revision(0) };
            for decided in proposals.answered(Some(answer)) {
                let Some(replica) = self.replicas.get_mut(&broker) else { return };
                let eligible = self.quorum.eligible();
                let (effects, _) = replica.isr_decided(now.monotonic, decided.number, &decided.outcome, &eligible);
                proposal = effects.proposal;
            }
        }
    }

    // ---- the replicas

    /// The leader epoch in which the broker leads, or believes to.
    pub fn leading_epoch(&self, broker: i32) -> LeaderEpoch {
        self.replicas.get(&broker).map_or(LeaderEpoch::NONE, Replica::leading_epoch)
    }

    /// The brokers that lead, or believe to, and whose high watermarks have moved since this was asked last.
    pub fn moved(&mut self) -> Vec<i32> {
        let leading = self.replicas.iter().filter(|(_, replica)| replica.leader().is_some());
        let now: BTreeMap<_, _> =
            leading.map(|(broker, replica)| (*broker, (replica.leading_epoch(), replica.high_watermark()))).collect();
        let moved = now.iter().filter(|(broker, at)| self.told.get(broker) != Some(at));
        let moved = moved.map(|(broker, _)| *broker).collect();
        self.told = now;
        moved
    }

    pub fn end_of(&self, broker: i32) -> i64 {
        let log = self.replicas.get(&broker).and_then(|replica| replica.log());
        log.map_or(0, |log| log.log_end_offset().0)
    }

    pub fn high_watermark_of(&self, broker: i32) -> Offset {
        self.replicas.get(&broker).map_or(Offset::ZERO, Replica::high_watermark)
    }

    /// Up to where records are committed.
    pub fn high_watermark(&self) -> i64 {
        self.committed.0
    }

    fn append(&mut self, broker: i32, epoch: LeaderEpoch, batch: &Batch, now: Now) -> Result<i64, ErrorCode> {
        let Some(replica) = self.replicas.get_mut(&broker) else { return Err(ErrorCode::NotLeaderOrFollower) };
        replica.leading_in(epoch)?;
        let mut bytes = batch.encode().map_err(|_| ErrorCode::UnknownServerError)?;
        let append = Append { records: &mut bytes, header: None, acks_all: true, terms: AppendTerms::COORDINATOR };
        let appended = replica.append(append, now.monotonic, batch.timestamp, &self.quorum.eligible());
        let (appended, effects) = appended.map_err(|error| error.error_code())?;
        let base = appended.first_offset.0;
        let stored = StoredBatch { epoch: epoch.0, base, records: batch.records.clone() };
        self.appended.insert((epoch.0, base), Arc::new(stored));
        self.execute(broker, effects, now);
        Ok(appended.log_end.0)
    }

    /// What the leader of `epoch` has from `from` on.
    pub fn read(
        &self,
        broker: i32,
        epoch: LeaderEpoch,
        from: Option<Offset>,
        max_bytes: usize,
    ) -> Result<Piece, ErrorCode> {
        let Some(replica) = self.replicas.get(&broker) else { return Err(ErrorCode::NotLeaderOrFollower) };
        let read = |from| replica.read_own(epoch, from, max_bytes);
        let own = read_own(from, &AtOnce, read).map_err(|error| error.error_code())?;
        let records = own.records.map(|slice| slice.read()).transpose().map_err(|_| ErrorCode::KafkaStorageError)?;
        Ok(Piece { from: own.from, records, end: own.end })
    }

    /// The batches that are committed now and were not before: those below some leader's high watermark.
    pub fn advance(&mut self) -> Vec<Arc<StoredBatch>> {
        let leaders = self.replicas.values().filter(|replica| replica.leader().is_some());
        let Some(leader) = leaders.max_by_key(|replica| replica.high_watermark()) else { return Vec::new() };
        let high_watermark = leader.high_watermark();
        let mut fresh = Vec::new();
        while let Some(log) = leader.log().filter(|_| self.committed < high_watermark) {
            let Ok(slice) = log.read(self.committed, FETCH_BYTES, high_watermark, true) else { break };
            let Ok(bytes) = slice.read() else { break };
            for batch in Batches::new(&bytes).map_while(Result::ok) {
                let at = (batch.header.partition_leader_epoch.0, batch.header.base_offset.0);
                fresh.extend(self.appended.get(&at).cloned());
                self.committed = batch.header.next_offset();
            }
        }
        fresh
    }

    /// The broker's log cleaner goes over its log.
    pub fn compact(&mut self, broker: i32, keeps_tombstones: bool, now: Now) -> Result<(), CleanError> {
        let Some(replica) = self.replicas.get_mut(&broker) else { return Ok(()) };
        let stable = replica.high_watermark();
        let clean_up_to = self.cleaned.get(&broker).copied();
        let Some(log) = replica.log_mut() else { return Ok(()) };
        log.set_config(log_config(keeps_tombstones));
        log.flush(now.monotonic)?;
        let dirt = log.dirt(clean_up_to, stable, now.wall)?;
        let Some(job) = log.begin_cleaning(&dirt, now.wall) else { return Ok(()) };
        let pace = &mut |_: u64| ControlFlow::Continue(());
        let limits = CleanerLimits { map_bytes: 1 << 20, ..CleanerLimits::default() };
        let mut cleaning = job.index(limits, pace)?;
        while let Some(cleaned) = cleaning.next(pace)? {
            drop(log.swap_in(cleaned)?);
        }
        self.cleaned.insert(broker, cleaning.finish()?);
        Ok(())
    }
}

/// The log of a partition on one broker, during one input of a coordinator.
pub struct ReplicaLog<'a> {
    pub broker: i32,
    pub partition: &'a mut Partition,
    pub now: Now,
    /// The broker sees that the log would refuse an append; otherwise the refusal comes unforeseen.
    pub foresees: bool,
    /// Appends are refused for no reason.
    pub refuses: bool,
    /// What became of appends.
    pub appends: Vec<Result<i64, ErrorCode>>,
}

impl PartitionLog for ReplicaLog<'_> {
    fn leading_epoch(&self) -> LeaderEpoch {
        self.partition.leading_epoch(self.broker)
    }

    fn high_watermark(&self) -> Offset {
        self.partition.high_watermark_of(self.broker)
    }

    fn end_if_empty(&self, epoch: LeaderEpoch) -> Option<Offset> {
        let (_, log) = self.partition.replicas.get(&self.broker)?.leading_in(epoch).ok()?;
        Some(log.log_end_offset()).filter(|end| *end == log.log_start_offset())
    }

    fn check_append(&self, epoch: LeaderEpoch) -> Result<usize, ErrorCode> {
        let Some(replica) = self.partition.replicas.get(&self.broker).filter(|_| self.foresees) else {
            return Ok(usize::MAX);
        };
        replica.leading_in(epoch)?.0.check_append(true)?;
        Ok(usize::MAX)
    }

    fn append(&mut self, epoch: LeaderEpoch, batch: &Batch) -> Result<Offset, ErrorCode> {
        let result = if self.refuses {
            Err(ErrorCode::NotEnoughReplicas)
        } else {
            self.partition.append(self.broker, epoch, batch, self.now)
        };
        self.appends.push(result);
        result.map(Offset)
    }
}
