//! The state that every connection, handler and partition of one broker shares.

use std::sync::Arc;

use ottla_config::BrokerConfig;
use ottla_model::ClusterId;
use ottla_replica_manager::fetch_session::FetchSessionCache;
use ottla_replica_manager::identity::Identity;
use ottla_replica_manager::live_config::LiveConfig;
use ottla_replica_manager::manager::ReplicaManager;
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::quorum_handle::QuorumHandle;

use crate::audit::AuditLog;
use crate::authorization::{Access, Authorization};
use crate::auto_creation::AutoCreation;
use crate::delegation_tokens::Tokens;
use crate::groups::GroupCoordinators;
use crate::internal_topic::InternalTopics;
use crate::producer_ids::ProducerIds;
use crate::quotas::ClientQuotas;
use crate::request::heavy::HeavyWork;
use crate::request::shared_responses::SharedResponses;
use crate::request::{RequestContext, ResponseBudget};
use crate::resources::Resources;
use crate::telemetry::Telemetry;
use crate::transaction_verifier::TransactionVerifier;
use crate::transactions::TransactionCoordinators;

/// Shared by everything that serves clients. Complete only once the broker has registered: no connection is accepted
/// before.
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
    /// The transactional ids of the partitions of `__transaction_state` that are here.
    pub transactions: Arc<TransactionCoordinators>,
    pub producer_ids: Arc<ProducerIds>,
    pub quorum: Arc<dyn QuorumHandle>,
    pub telemetry: Arc<Telemetry>,
    pub resources: Arc<Resources>,
    pub quotas: Arc<ClientQuotas>,
    /// None: everybody may do everything.
    pub authorization: Option<Arc<Authorization>>,
    /// None: there is no audit log.
    pub audit: Option<Arc<AuditLog>>,
    /// None: there are no delegation tokens.
    pub tokens: Option<Arc<Tokens>>,
    pub auto_creation: AutoCreation,
    /// Makes large responses beside the workers.
    pub heavy_work: HeavyWork,
    /// The responses to Metadata requests for all topics.
    pub metadata_responses: SharedResponses,
    pub internal_topics: InternalTopics,
    /// Asks the coordinators of transactions that write here.
    pub transaction_verifier: Arc<dyn TransactionVerifier>,
}

impl Broker {
    /// What the sender of a request may do.
    pub fn access(&self, context: &RequestContext) -> Access {
        Access::of(self.authorization.as_ref(), self.audit.as_ref(), &self.metadata, context)
    }

    /// What the response to one request may take.
    pub fn response_budget(&self) -> ResponseBudget {
        ResponseBudget::new(self.resources.response_bytes_max())
    }
}
