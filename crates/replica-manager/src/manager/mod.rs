//! The partitions of this broker: found by name or id, made and unmade as the tree says, and looked after.
//!
//! - [`hosted_partitions`]: which partitions have a place here;
//! - [`hosting`]: what a delta of the tree means for the partitions;
//! - [`directory_failures`]: log directories that stall, fail or are full;
//! - [`log_metrics`]: the sizes and ends of logs, for a page of metrics;
//! - [`moves`]: replicas that go from one log directory to another;
//! - [`retention`]: old segments go;
//! - [`upkeep`]: timers and checkpoints;
//! - [`closing`]: the end.
//!
//! Invariants: a look-up takes no lock; a delta costs what it touches; nothing is opened, made or set aside before the
//! image has reached this broker's registration, because an older image may lack what the disk rightly holds.

mod closing;
mod coordinators;
mod directory_failures;
mod hosted_partitions;
mod hosting;
pub mod log_metrics;
pub mod metrics;
pub mod moves;
mod reopening;
pub mod retention;
mod upkeep;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use ottla_config::BrokerConfig;
use ottla_metadata::Image;
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, ErrorCode, MonotonicMs, PartitionId, TopicId, TopicIdPartition, TopicName,
};
use ottla_partition::{Decided, Errand, Replicas};
use ottla_protocol::messages::TopicRef;
use ottla_storage::LastRun;
use ottla_storage::checkpoint::meta_properties::MetaProperties;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::alter_partition::{AlterPartitionManager, Leaders};
use crate::clock;
use crate::fetch_session::FindPartition;
use crate::identity::Identity;
use crate::live_config::LiveConfig;
use crate::log_cleaner::LogCleaner;
use crate::log_dirs::opening::OpeningProgress;
use crate::log_dirs::{FoundLog, LogDirs, LogDirsError};
use crate::metadata_cache::MetadataCache;
use crate::partition::touched::Touched;
use crate::partition::{Partition, PartitionContext};
use crate::quorum_handle::QuorumHandle;
use crate::replica_fetcher::{FetcherConfig, Fetchers};
use crate::replication_throttles::ReplicationThrottles;
use crate::topic_settings::TopicSettings;

use hosted_partitions::HostedPartitions;
use metrics::ReplicaMetrics;
use moves::Moves;

pub use crate::log_dirs::LogDirsError as ReplicaManagerError;
pub use coordinators::Coordinators;

/// What the log directories held at the start.
pub struct OpenedLogs {
    /// None if all directories are new.
    pub meta: Option<MetaProperties>,
    /// The registration up to which nothing is lost: of the last run, if it ended cleanly in every directory or the
    /// machine has been running since; else [`BrokerEpoch::NONE`].
    pub clean_shutdown_epoch: BrokerEpoch,
}

pub struct ReplicaManager {
    config: Arc<BrokerConfig>,
    live: Arc<LiveConfig>,
    identity: Arc<Identity>,
    metadata: Arc<MetadataCache>,
    quorum: Arc<dyn QuorumHandle>,
    coordinators: Arc<dyn Coordinators>,
    metrics: Arc<ReplicaMetrics>,
    log_dirs: LogDirs,
    context: Arc<PartitionContext>,
    fetchers: Arc<Fetchers>,
    hosted: ArcSwap<HostedPartitions>,
    /// One delta at a time.
    delta_state: Mutex<DeltaState>,
    /// Which replicas the tree places here, and what the disks held at the start. Held for decisions only, never for
    /// the disk.
    replicas: Mutex<Replicas<FoundLog>>,
    /// Partitions for whose logs a disk had no room.
    waiting_logs: Mutex<Vec<Arc<Partition>>>,
    last_directory_failed: Notify,
    /// A replaced log directory may have to be claimed, and nobody is about to.
    has_unclaimed: AtomicBool,
    moves: Moves,
    stopping: AtomicBool,
}

/// What only those who take in deltas touch.
#[derive(Default)]
struct DeltaState {
    last_run: LastRun,
    /// The settings of each topic that has partitions here.
    settings: HashMap<TopicName, Arc<TopicSettings>>,
}

impl FindPartition for ReplicaManager {
    fn find(&self, topic: &TopicRef, partition: PartitionId) -> Result<Arc<Partition>, ErrorCode> {
        Self::find(self, topic, partition)
    }
}

impl Leaders for ReplicaManager {
    fn isr_decided(&self, Decided { partition, number, outcome }: Decided) {
        let Some(partition) = self.partition(partition) else { return };
        if partition.goes_later(Errand::IsrDecided) {
            // Its disk does not answer: the others do not wait for it.
            tokio::task::spawn_blocking(move || partition.isr_decided(clock::monotonic(), number, &outcome));
        } else {
            partition.isr_decided(clock::monotonic(), number, &outcome);
        }
    }

    fn tick(&self, partition: TopicIdPartition, now: MonotonicMs) {
        if let Some(partition) = self.partition(partition) {
            partition.tick(now);
        }
    }
}

impl ReplicaManager {
    /// Locks the log directories and starts what runs beside the partitions: on `data` what touches them, on the
    /// calling runtime what must go on when a disk holds `data` up.
    pub fn new(
        live: Arc<LiveConfig>,
        identity: Arc<Identity>,
        metadata: Arc<MetadataCache>,
        quorum: Arc<dyn QuorumHandle>,
        coordinators: Arc<dyn Coordinators>,
        metrics: Arc<ReplicaMetrics>,
        data: Handle,
    ) -> Result<Arc<Self>, ReplicaManagerError> {
        let config = live.fixed().clone();
        let log_dirs = LogDirs::open(&config)?;
        let alter_partition = AlterPartitionManager::new(quorum.clone());
        let fetcher_config = FetcherConfig {
            max_wait: config.replica_fetch_wait_max,
            min_bytes: config.replica_fetch_min_bytes,
            partition_max_bytes: config.replica_fetch_max_bytes,
            response_max_bytes: config.replica_fetch_response_max_bytes,
            socket_timeout: config.replica_socket_timeout,
            receive_buffer_bytes: config.replica_socket_receive_buffer_bytes,
            security: live.peers().clone(),
            backoff_max: config.replica_fetch_backoff,
        };
        let fetchers = Arc::new(Fetchers::new(fetcher_config, identity.clone(), metadata.clone(), data.clone()));
        let context = Arc::new(PartitionContext {
            identity: identity.clone(),
            metadata: metadata.clone(),
            alter_partition: alter_partition.clone(),
            cleaner: LogCleaner::start(live.clone(), metrics.clone(), data.clone()),
            throttles: Arc::new(ReplicationThrottles::new(&live, &metrics.throttled_bytes)),
            fetchers: Arc::downgrade(&fetchers),
            replica_lag_time_max: config.replica_lag_time_max,
            verifies_transactions: config.transaction_partition_verification_enable,
            metrics: metrics.clone(),
            data: data.clone(),
            touched: Touched::default(),
            high_watermarks_moved: AtomicBool::new(false),
            checkpoints_unwritten: AtomicBool::new(false),
            log_start_moved: Notify::new(),
            segment_flushed: Notify::new(),
            storage_failed: Notify::new(),
        });
        let manager = Arc::new(Self {
            live,
            fetchers,
            config,
            identity,
            metadata,
            quorum,
            coordinators,
            metrics,
            log_dirs,
            context,
            hosted: ArcSwap::from_pointee(HostedPartitions::default()),
            delta_state: Mutex::default(),
            replicas: Mutex::default(),
            waiting_logs: Mutex::default(),
            last_directory_failed: Notify::new(),
            has_unclaimed: AtomicBool::new(true),
            moves: Moves::default(),
            stopping: AtomicBool::new(false),
        });
        let leaders: Weak<Self> = Arc::downgrade(&manager);
        data.spawn(alter_partition.run(leaders));
        let hosting = Arc::downgrade(&manager);
        manager.metrics.logs.show(move || Some(hosting.upgrade()?.hosted.load_full()));
        manager.start_upkeep(&data);
        Ok(manager)
    }

    /// Opens every log that the directories hold. Blocks: recovery after a kill reads what was not synced.
    /// `progress` tells others how far it is.
    pub fn open_logs(&self, progress: &OpeningProgress) -> Result<OpenedLogs, LogDirsError> {
        let settings = self.settings_of(&BTreeMap::new());
        let threads = self.config.num_recovery_threads_per_data_dir;
        let (found, last_run) = self.log_dirs.open_logs(threads, &settings.log, progress)?;
        self.delta_state.lock().last_run = last_run;
        let mut replicas = self.replicas.lock();
        found.into_iter().for_each(|log| replicas.add_found(log));
        let LastRun { closed, whole_since, .. } = last_run;
        tracing::info!(
            logs = replicas.found_len(),
            clean = closed,
            whole_since = %whole_since,
            checked_bytes = progress.checked_bytes(),
            "logs opened"
        );
        Ok(OpenedLogs { meta: self.log_dirs.meta()?, clean_shutdown_epoch: whole_since })
    }

    /// This broker has registered as `epoch`: see [`LogDirs::remember_registration`]. Waits for the disk.
    pub fn remember_registration(&self, epoch: BrokerEpoch) {
        self.log_dirs.remember_registration(epoch);
    }

    /// Makes the directories this broker's, for good.
    pub fn write_meta_properties(&self, id: BrokerId, cluster_id: &ClusterId) -> Result<(), LogDirsError> {
        self.log_dirs.claim(id, cluster_id)
    }

    /// The replica of a partition on this broker.
    ///
    /// # Errors
    /// What a client is told where there is none: UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID, or
    /// NOT_LEADER_OR_FOLLOWER for one that lives elsewhere.
    pub fn find(&self, topic: &TopicRef, partition: PartitionId) -> Result<Arc<Partition>, ErrorCode> {
        let hosted = self.hosted.load();
        let topic_id = match topic {
            TopicRef::Id(id) => Some(*id),
            TopicRef::Name(name) => hosted.topics.get(name.as_str()).copied(),
        };
        topic_id
            .and_then(|topic_id| hosted.partitions.get(&TopicIdPartition { topic_id, partition }))
            .cloned()
            .ok_or_else(|| missing(&self.metadata.peek(), topic, partition))
    }

    /// By id, if it is here.
    pub fn partition(&self, id: TopicIdPartition) -> Option<Arc<Partition>> {
        self.hosted.load().partitions.get(&id).cloned()
    }

    /// All replicas here, in no order. For upkeep and telemetry, never for a request.
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.hosted.load().partitions.values().cloned().collect()
    }

    pub fn log_dirs(&self) -> &LogDirs {
        &self.log_dirs
    }

    pub fn throttles(&self) -> &ReplicationThrottles {
        &self.context.throttles
    }

    fn settings_of(&self, overrides: &BTreeMap<String, String>) -> TopicSettings {
        let layers = self.live.layers();
        let expiration_ms = i64::try_from(layers.config.producer_id_expiration.as_millis()).unwrap_or(i64::MAX);
        TopicSettings::new(overrides, &layers.topic_defaults, expiration_ms)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// Why a partition that has no replica here cannot be served: it is elsewhere, or nowhere.
fn missing(image: &Image, topic: &TopicRef, partition: PartitionId) -> ErrorCode {
    let (topic, unknown) = match topic {
        TopicRef::Name(name) => (image.topic(name), ErrorCode::UnknownTopicOrPartition),
        TopicRef::Id(id) if *id == TopicId::ZERO => (None, ErrorCode::UnknownTopicId),
        TopicRef::Id(id) => (image.topic_by_id(*id), ErrorCode::UnknownTopicId),
    };
    match topic {
        None => unknown,
        Some(topic) if topic.partition(partition).is_some() => ErrorCode::NotLeaderOrFollower,
        Some(_) => ErrorCode::UnknownTopicOrPartition,
    }
}
