//! The state that every connection, handler and partition of one broker shares.
//!
//! What the lifecycle asks of the [`ReplicaManager`], in this order (errors are `ReplicaManagerError`, one line for people):
//! `new(config, identity, metadata, quorum, telemetry, data runtime's handle) -> Result<Arc<Self>, _>` locks the log directories (in use,
//! read-only: an error); `open_logs() -> Result<OpenedLogs { meta: Option<MetaProperties>, clean_shutdown_epoch: BrokerEpoch }, _>`
//! (blocks); `write_meta_properties(id, &cluster_id) -> Result<(), _>` at a registration; `apply(&image, &delta)` for every change of
//! the image (the first delta lists everything); `begin_shutdown()`, then `shutdown_clean(broker_epoch) -> Result<(), _>` (blocks).

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

use ottla_config::BrokerConfig;
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, IncarnationId};

use crate::auto_creation::AutoCreation;
use crate::group_host::offsets_topic::OffsetsTopic;
use crate::metadata_cache::MetadataCache;
use crate::quorum_handle::QuorumHandle;
use crate::replica_manager::ReplicaManager;
use crate::telemetry::Telemetry;

/// Who this broker is. The incarnation is known from the start; the id and the epoch come with the registration, and
/// the epoch changes when the broker was fenced and registers again.
#[derive(Debug)]
pub struct Identity {
    incarnation: IncarnationId,
    id: AtomicI32,
    epoch: AtomicI64,
}

impl Identity {
    pub fn new(incarnation: IncarnationId, id: BrokerId) -> Self {
        Self { incarnation, id: AtomicI32::new(id.0), epoch: AtomicI64::new(BrokerEpoch::NONE.0) }
    }

    pub fn incarnation(&self) -> IncarnationId {
        self.incarnation
    }

    /// `BrokerId::NONE` until the quorum has given one (only where none is configured or stored).
    pub fn id(&self) -> BrokerId {
        BrokerId(self.id.load(Ordering::Acquire))
    }

    /// `BrokerEpoch::NONE` until registered.
    pub fn epoch(&self) -> BrokerEpoch {
        BrokerEpoch(self.epoch.load(Ordering::Acquire))
    }

    pub fn registered(&self, id: BrokerId, epoch: BrokerEpoch) {
        self.id.store(id.0, Ordering::Release);
        self.epoch.store(epoch.0, Ordering::Release);
    }
}

/// Shared by everything that serves clients. Complete only once the broker has registered: no connection is accepted before.
pub struct Broker {
    pub config: Arc<BrokerConfig>,
    pub identity: Arc<Identity>,
    pub cluster_id: ClusterId,
    pub metadata: Arc<MetadataCache>,
    pub replicas: Arc<ReplicaManager>,
    pub quorum: Arc<dyn QuorumHandle>,
    pub telemetry: Arc<Telemetry>,
    pub auto_creation: AutoCreation,
    pub offsets_topic: OffsetsTopic,
}
