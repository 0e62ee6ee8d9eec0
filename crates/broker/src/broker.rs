//! The state that every connection, handler and partition of one broker shares.
//!
//! What the lifecycle asks of the [`ReplicaManager`], in this order (errors are `ReplicaManagerError`, one line for people):
//! `new(config, identity, metadata, quorum, telemetry, data runtime's handle) -> Result<Arc<Self>, _>` locks the log directories (in use,
//! read-only: an error); `open_logs() -> Result<OpenedLogs { meta: Option<MetaProperties>, clean_shutdown_epoch: BrokerEpoch }, _>`
//! (blocks); `write_meta_properties(id, &cluster_id) -> Result<(), _>` at a registration; `apply(&image, &delta)` for every change of
//! the image (the first delta lists everything); `begin_shutdown()`, then `shutdown_clean(broker_epoch) -> Result<(), _>` (blocks).

use std::sync::Arc;

use ottla_config::BrokerConfig;
use ottla_model::ClusterId;

use crate::auto_creation::AutoCreation;
use crate::fetch_session::FetchSessionCache;
use crate::groups::GroupCoordinators;
use crate::groups::offsets_topic::OffsetsTopic;
use crate::identity::Identity;
use crate::live_config::LiveConfig;
use crate::metadata_cache::MetadataCache;
use crate::producer_ids::ProducerIds;
use crate::quorum_handle::QuorumHandle;
use crate::replica_manager::ReplicaManager;
use crate::request::ResponseBudget;
use crate::request::budget::RESPONSE_BYTES_MAX;
use crate::telemetry::Telemetry;
use crate::transaction_verifier::TransactionVerifier;

/// Shared by everything that serves clients. Complete only once the broker has registered: no connection is accepted before.
pub struct Broker {
    pub config: Arc<BrokerConfig>,
    /// The configuration as it holds now.
    pub live_config: Arc<LiveConfig>,
    pub identity: Arc<Identity>,
    pub cluster_id: ClusterId,
    pub metadata: Arc<MetadataCache>,
    pub replicas: Arc<ReplicaManager>,
    pub fetch_sessions: FetchSessionCache,
    /// The groups of the partitions of `__consumer_offsets` that are here.
    pub groups: Arc<GroupCoordinators>,
    pub producer_ids: Arc<ProducerIds>,
    pub quorum: Arc<dyn QuorumHandle>,
    pub telemetry: Arc<Telemetry>,
    pub auto_creation: AutoCreation,
    pub offsets_topic: OffsetsTopic,
    pub transaction_verifier: Arc<dyn TransactionVerifier>,
}

impl Broker {
    /// What the response to one request may take.
    pub fn response_budget(&self) -> ResponseBudget {
        ResponseBudget::new(RESPONSE_BYTES_MAX)
    }
}
