//! Transaction coordinators: the partitions of `__transaction_state` that this broker leads, each with its
//! transactional ids.
//!
//! - [`partition`]: one partition's ids behind one lock; `ottla_transaction_coordinator::state_partition` decides.
//! - [`cluster`]: what transactional ids see of the cluster.
//! - [`markers`]: the ends of transactions, on their way to the leaders of their partitions.
//! - [`verification`]: what leaders ask coordinators before they append.
//! - [`config`], [`metrics`]: configuration and metrics of transactions.
//!
//! Locks: state partition, then partition; a thread that holds a partition's lock never waits for a state partition.

mod cluster;
mod config;
mod markers;
pub mod metrics;
mod partition;
pub mod verification;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_config::BrokerConfig;
use ottla_group_coordinator::partition_for;
use ottla_metadata::{Delta, Image};
use ottla_model::{ErrorCode, ListenerName, PartitionId, TransactionalId};
use ottla_replica_manager::manager::Coordinators;
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::partition::Partition;
use ottla_replica_manager::partition::waiters::Watcher;
use ottla_transaction_coordinator::{Answer, Request, TransactionConfig};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::load_permits::LoadPermits;
use crate::peers::Peers;
use crate::producer_ids::ProducerIds;
use crate::telemetry::Telemetry;
use crate::timer::Timer;
use config::transaction_config;
use markers::MarkerSender;
use metrics::States;
use partition::TransactionPartition;

/// The topic that holds transactional ids.
pub const STATE_TOPIC: &str = "__transaction_state";

/// How long an answer may wait for replicas. The change takes effect later all the same; who asks again is told so.
pub const REPLICATION_TIMEOUT: Duration = Duration::from_secs(5);

/// What all partitions share.
struct Common {
    config: ArcSwap<TransactionConfig>,
    /// Bytes of a log that are read at a time while loading.
    load_buffer_bytes: usize,
    load_permits: LoadPermits,
    data: Handle,
    /// At least as new as every leadership.
    image: ArcSwap<Image>,
    inter_broker: ListenerName,
    producer_ids: Arc<ProducerIds>,
    timer: Timer<TransactionPartition>,
    markers: Arc<MarkerSender>,
    telemetry: Arc<Telemetry>,
}

pub struct TransactionCoordinators {
    common: Arc<Common>,
    /// The partitions with a replica here, whether this broker leads them or not.
    partitions: RwLock<BTreeMap<PartitionId, Arc<TransactionPartition>>>,
}

/// The answer to a request that was submitted.
pub enum PendingAnswer {
    Ready(Answer),
    /// Ends without an answer only with the process.
    Waiting(oneshot::Receiver<Answer>),
}

impl PendingAnswer {
    /// The answer, or the error that Kafka returns when a record is not replicated in time. The future may be dropped.
    pub async fn answer(self) -> Answer {
        match self {
            Self::Ready(answer) => answer,
            Self::Waiting(receiver) => match tokio::time::timeout(REPLICATION_TIMEOUT, receiver).await {
                Ok(answer) => answer.unwrap_or(Answer::Failed(ErrorCode::NotCoordinator)),
                Err(_) => Answer::Failed(ErrorCode::CoordinatorNotAvailable),
            },
        }
    }
}

impl TransactionCoordinators {
    /// Without partitions. The timer and the senders of markers run on `data`, where the partitions are.
    pub fn new(
        config: &BrokerConfig,
        metadata: &Arc<MetadataCache>,
        producer_ids: Arc<ProducerIds>,
        telemetry: Arc<Telemetry>,
        data: &Handle,
    ) -> Arc<Self> {
        let timer = Timer::default();
        data.spawn(timer.clone().run());
        let inter_broker = config.inter_broker_listener.clone();
        let peers = Peers::new(Arc::clone(metadata), inter_broker.clone());
        let common = Arc::new(Common {
            config: ArcSwap::from_pointee(transaction_config(config)),
            load_buffer_bytes: config.transactions.state_log_load_buffer_bytes,
            load_permits: LoadPermits::default(),
            data: data.clone(),
            image: ArcSwap::from_pointee(Image::empty()),
            inter_broker,
            producer_ids,
            timer,
            markers: MarkerSender::new(peers, data.clone(), Arc::clone(&telemetry)),
            telemetry,
        });
        let coordinators = Arc::new(Self { common, partitions: RwLock::default() });
        let counted = Arc::downgrade(&coordinators);
        let states = move || counted.upgrade().map(|coordinators| coordinators.states()).unwrap_or_default();
        coordinators.common.telemetry.transactions.count_by(states);
        coordinators
    }

    fn states(&self) -> States {
        let mut states = States::new();
        self.all().iter().for_each(|partition| partition.count_states(&mut states));
        states
    }

    /// Submits a request to the id's partition. The step is taken when this returns, in the order of the calls.
    pub fn submit(&self, image: &Image, id: &TransactionalId, request: Request) -> PendingAnswer {
        let partition = coordinator_partition(image, id.as_str());
        match partition.and_then(|partition| self.partitions.read().get(&partition).cloned()) {
            Some(partition) => partition.submit(request),
            None => PendingAnswer::Ready(Answer::Failed(ErrorCode::NotCoordinator)),
        }
    }

    /// Submits a request to every partition that this broker leads.
    pub fn submit_all(&self, request: &Request) -> Vec<PendingAnswer> {
        self.all()
            .into_iter()
            .filter(|partition| partition.leads())
            .map(|partition| partition.submit(request.clone()))
            .collect()
    }

    fn all(&self) -> Vec<Arc<TransactionPartition>> {
        self.partitions.read().values().cloned().collect()
    }
}

impl Coordinators for TransactionCoordinators {
    fn image_moved(&self, image: &Arc<Image>, _: &Delta) {
        self.common.image.store(Arc::clone(image));
    }

    fn configured(&self, config: &BrokerConfig, _: &Image) {
        self.common.config.store(Arc::new(transaction_config(config)));
        for partition in self.all() {
            partition.config_changed();
        }
    }

    fn placed(&self, partition: &Arc<Partition>) {
        if partition.topic.as_str() != STATE_TOPIC {
            return;
        }
        let state_partition = TransactionPartition::new(Arc::clone(&self.common), Arc::clone(partition));
        let watcher: Weak<dyn Watcher> = Arc::downgrade(&(Arc::clone(&state_partition) as Arc<dyn Watcher>));
        partition.watch(watcher);
        // The partition of a deleted topic with the same number is closed by now, or will be.
        self.partitions.write().insert(partition.id().partition, state_partition);
    }

    fn removed(&self, partition: &Arc<Partition>) {
        let mut partitions = self.partitions.write();
        let number = partition.id().partition;
        if partitions.get(&number).is_some_and(|found| found.is_of(partition)) {
            partitions.remove(&number);
        }
    }
}

/// The partition of [`STATE_TOPIC`] that a transactional id belongs to; none before there is one.
pub fn coordinator_partition(image: &Image, id: &str) -> Option<PartitionId> {
    let partitions = i32::try_from(image.topic(STATE_TOPIC)?.partition_count()).ok().filter(|count| *count > 0)?;
    Some(PartitionId(partition_for(id, partitions)))
}
