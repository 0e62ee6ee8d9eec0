//! Transaction coordinators: the partitions of `__transaction_state` that this broker leads, each with its
//! transactional ids.
//!
//! `coordinators` hosts the partitions; this module says what is particular to transactions.
//!
//! - [`cluster`]: what transactional ids see of the cluster.
//! - [`markers`]: the ends of transactions, on their way to the leaders of their partitions.
//! - [`verification`]: what leaders ask coordinators before they append.
//! - [`config`], [`metrics`]: configuration and metrics of transactions.

mod cluster;
mod config;
mod markers;
pub mod metrics;
pub mod verification;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_config::BrokerConfig;
use ottla_group_coordinator::partition_for;
use ottla_metadata::{Delta, Image};
use ottla_model::{ErrorCode, ListenerName, PartitionId, TransactionalId};
use ottla_replica_manager::live_config::LiveConfig;
use ottla_replica_manager::manager;
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::partition::Partition;
use ottla_transaction_coordinator::{Cluster, IdBudget, Marker, Request, Shard, TransactionConfig};
use tokio::runtime::Handle;

use crate::coordinators::{self, Coordinator, Metrics, PartitionHandle, PartitionHandles, States};
use crate::peers::Peers;
use crate::producer_ids::ProducerIds;
use crate::telemetry::Telemetry;
use cluster::ImageCluster;
use config::transaction_config;
use markers::MarkerSender;

pub type PendingAnswer = coordinators::PendingAnswer<Shard>;

/// The topic that holds transactional ids.
pub const STATE_TOPIC: &str = "__transaction_state";

/// How long an answer may wait for replicas. The change takes effect later all the same, and a retry gets its outcome.
pub const REPLICATION_TIMEOUT: Duration = Duration::from_secs(5);

/// What the transactional ids of all partitions share.
pub struct TransactionCoordinator {
    config: ArcSwap<TransactionConfig>,
    budget: Arc<IdBudget>,
    /// Its image is at least as new as every leadership, and as the one by which a handler let partitions join a
    /// transaction.
    metadata: Arc<MetadataCache>,
    inter_broker: ListenerName,
    producer_ids: Arc<ProducerIds>,
    markers: Arc<MarkerSender>,
    telemetry: Arc<Telemetry>,
}

impl Coordinator for TransactionCoordinator {
    type Shard = Shard;
    type StateName = &'static str;

    const TOPIC: &'static str = STATE_TOPIC;
    const STATE: &'static str = "transactional ids";

    fn config(&self) -> Arc<TransactionConfig> {
        self.config.load_full()
    }

    fn batch_bytes_max(&self) -> usize {
        usize::try_from(self.config.load().max_batch_bytes).unwrap_or(0)
    }

    fn view<T>(&self, step: impl FnOnce(&mut dyn Cluster) -> T) -> T {
        let image = self.metadata.peek();
        let (inter_broker, producer_ids) = (&self.inter_broker, &self.producer_ids);
        step(&mut ImageCluster { image: &image, inter_broker, producer_ids })
    }

    fn send(&self, from: &Arc<PartitionHandle<Self>>, marker: Marker) {
        self.markers.send(from, marker);
    }

    fn count_states(shard: &Shard) -> States<Self> {
        shard.states()
    }

    fn metrics(&self) -> Metrics<'_> {
        let transactions = &self.telemetry.transactions;
        Metrics {
            partitions: &transactions.partitions,
            loads: &transactions.loads,
            load_ms: &transactions.load_ms,
            records: &transactions.records,
        }
    }
}

pub struct TransactionCoordinators {
    partitions: PartitionHandles<TransactionCoordinator>,
}

impl TransactionCoordinators {
    /// Without partitions. The timer and the senders of markers run on `data`, where the partitions are.
    pub fn new(
        live: &LiveConfig,
        metadata: &Arc<MetadataCache>,
        producer_ids: Arc<ProducerIds>,
        budget: Arc<IdBudget>,
        telemetry: Arc<Telemetry>,
        data: &Handle,
    ) -> Arc<Self> {
        let config = live.fixed();
        let inter_broker = config.inter_broker_listener.clone();
        let peers = Peers::new(Arc::clone(metadata), inter_broker.clone(), live.peers().clone());
        let coordinator = TransactionCoordinator {
            config: ArcSwap::from_pointee(transaction_config(config, &budget)),
            budget,
            metadata: Arc::clone(metadata),
            inter_broker,
            producer_ids,
            markers: MarkerSender::new(peers, data.clone(), Arc::clone(&telemetry)),
            telemetry: Arc::clone(&telemetry),
        };
        let load_buffer_bytes = config.transactions.state_log_load_buffer_bytes;
        let coordinators = Arc::new(Self { partitions: PartitionHandles::new(coordinator, load_buffer_bytes, data) });
        let counted = Arc::downgrade(&coordinators);
        let states = move || counted.upgrade().map(|found| found.partitions.count_states()).unwrap_or_default();
        telemetry.transactions.count_by(states);
        coordinators
    }

    /// Submits a request to the id's partition. The step is taken when this returns, in the order of the calls.
    pub fn submit(&self, image: &Image, id: &TransactionalId, request: Request) -> PendingAnswer {
        let partition = coordinator_partition(image, id.as_str());
        match partition.and_then(|partition| self.partitions.get(partition)) {
            Some(partition) => partition.submit(request, None),
            None => PendingAnswer::failed(ErrorCode::NotCoordinator),
        }
    }

    /// What the ids here hold together.
    pub fn held_bytes(&self) -> usize {
        self.partitions.coordinator().budget.used()
    }

    /// Submits a request to every partition that this broker leads, to each when its answer is asked for.
    pub fn submit_all(&self, request: &Request) -> impl Iterator<Item = PendingAnswer> {
        self.partitions.submit_all(request)
    }
}

impl manager::Coordinators for TransactionCoordinators {
    fn image_moved(&self, _: &Arc<Image>, _: &Delta) {}

    fn configured(&self, config: &BrokerConfig, _: &Image) {
        let coordinator = self.partitions.coordinator();
        coordinator.config.store(Arc::new(transaction_config(config, &coordinator.budget)));
        self.partitions.config_changed();
    }

    fn placed(&self, partition: &Arc<Partition>) {
        self.partitions.placed(partition);
    }

    fn removed(&self, partition: &Arc<Partition>) {
        self.partitions.removed(partition);
    }
}

/// The partition of [`STATE_TOPIC`] that a transactional id belongs to; none before there is one.
pub fn coordinator_partition(image: &Image, id: &str) -> Option<PartitionId> {
    let partitions = i32::try_from(image.topic(STATE_TOPIC)?.partition_count()).ok().filter(|count| *count > 0)?;
    Some(PartitionId(partition_for(id, partitions)))
}

#[cfg(test)]
mod tests {
    use ottla_config::HostPort;
    use ottla_model::{TopicName, TopicPartition};
    use ottla_transaction_coordinator::Leader;

    use super::*;
    use crate::producer_ids::tests::Blocks;
    use crate::request::test_image;

    /// An image takes effect in the handlers first: a partition of a topic that it creates joined a transaction, and
    /// the coordinator, with the image before, took it for one that was deleted. It would have got no marker.
    #[tokio::test]
    async fn a_partition_that_may_join_a_transaction_is_there_for_its_end() {
        let config = BrokerConfig::on_loopback(0, "unused", &[HostPort::new("127.0.0.1", 2181)]).expect("valid");
        let metadata = Arc::new(MetadataCache::new(Arc::new(Image::empty()), Duration::ZERO));
        let coordinators = TransactionCoordinators::new(
            &LiveConfig::new(Arc::new(config)),
            &metadata,
            ProducerIds::new(Arc::new(Blocks::default()), &Handle::current()),
            Arc::default(),
            Arc::default(),
            &Handle::current(),
        );
        let partition = TopicPartition::new(TopicName::new("t").expect("valid"), PartitionId(1));
        let leader = || coordinators.partitions.coordinator().view(|cluster| cluster.leader(&partition));
        assert_eq!(leader(), Leader::Deleted);
        metadata.store(Arc::new(test_image::image()));
        assert_eq!(leader(), Leader::None);
    }
}
