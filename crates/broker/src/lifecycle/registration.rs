//! A broker's way into the cluster: it waits for coordinators as long as it takes, and gives up only on what waiting
//! cannot cure (another cluster, an id that a living broker keeps).

use std::sync::Arc;
use std::time::Duration;

use ottla_config::BrokerConfig;
use ottla_metadata::Endpoint;
use ottla_metadata::controller::{Register, Registered};
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, ErrorCode, ListenerName, Revision};
use ottla_network::BoundListener;
use ottla_rpc::{ClusterClient, WatchUpdate};
use tokio::time::Instant;

use super::RunError;
use crate::identity::Identity;

/// How long one attempt may take; they go on for ever.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Between a refusal that may pass and the next attempt. The holder of the id may be fenced any moment.
const RETRY: Duration = Duration::from_millis(200);
/// Beyond the session timeout, after which a holder that is dead has certainly been fenced.
const DUPLICATE_MARGIN: Duration = Duration::from_secs(1);

/// What a registration says of this broker.
#[derive(Clone, Debug)]
pub struct Application {
    /// The id to register with; `BrokerId::NONE`: the quorum gives one.
    pub id: BrokerId,
    /// Of `meta.properties`: none tells the quorum that this disk is new.
    pub stored_cluster_id: Option<ClusterId>,
    /// `cluster.id`: what the cluster must be called.
    pub wanted_cluster_id: Option<ClusterId>,
    pub endpoints: Vec<Endpoint>,
    pub inter_broker_listener: ListenerName,
    pub rack: Option<String>,
    /// The epoch up to which this broker's log is known to be whole: of the clean-shutdown file, or, while the process lives, its own.
    pub clean_shutdown_epoch: BrokerEpoch,
    pub min_insync_replicas: i32,
    pub session_timeout: Duration,
}

/// The advertised endpoints; a port that the system chose is told as chosen.
pub fn endpoints(config: &BrokerConfig, bound: &[BoundListener]) -> Vec<Endpoint> {
    config
        .advertised_listeners
        .iter()
        .map(|advertised| {
            let chosen = bound.iter().find(|listener| listener.name == advertised.name);
            let port = match (advertised.port, chosen) {
                (0, Some(listener)) => listener.address.port(),
                (port, _) => port,
            };
            Endpoint {
                listener: advertised.name.clone(),
                host: advertised.host.clone(),
                port,
                security_protocol: advertised.protocol.name().to_owned(),
            }
        })
        .collect()
}

/// Registers, however long the coordinators take to appear.
pub async fn register(
    client: &ClusterClient,
    identity: &Arc<Identity>,
    application: &Application,
) -> Result<Registered, RunError> {
    if let (Some(wanted), None) = (&application.wanted_cluster_id, &application.stored_cluster_id) {
        check_cluster(client, wanted).await?;
    }
    let request = Register {
        broker: application.id,
        incarnation: identity.incarnation(),
        cluster_id: application.stored_cluster_id.clone(),
        endpoints: application.endpoints.clone(),
        inter_broker_listener: application.inter_broker_listener.clone(),
        rack: application.rack.clone(),
        clean_shutdown_epoch: application.clean_shutdown_epoch,
        min_insync_replicas: application.min_insync_replicas,
    };
    let mut refused_since: Option<Instant> = None;
    let mut said = false;
    loop {
        let refusal = match client.submit(request.clone(), ATTEMPT).await {
            Ok(Ok(registered)) => return accepted(application, registered),
            Ok(Err(refusal)) => refusal,
            Err(error) => {
                tracing::info!(%error, "waiting for the coordinators");
                // A refusal of the call itself comes at once.
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        match refusal.error {
            ErrorCode::DuplicateBrokerRegistration => {
                let since = *refused_since.get_or_insert_with(Instant::now);
                let patience = application.session_timeout + DUPLICATE_MARGIN;
                if since.elapsed() >= patience {
                    let message = refusal.message;
                    return Err(RunError::DuplicateId { id: application.id, message });
                }
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        id = %application.id,
                        "the id belongs to a broker that lives ({}); trying for {} s",
                        refusal.message,
                        patience.as_secs()
                    );
                }
                tokio::time::sleep(RETRY).await;
            }
            ErrorCode::InconsistentClusterId => {
                let asked = client.coordinators().addresses().join(",");
                let message = format!("coordinator.connect={asked}: {}", refusal.message);
                return Err(RunError::OtherCluster { message });
            }
            error if error.is_retriable() => {
                tracing::info!(?error, message = refusal.message, "registration is put off");
                tokio::time::sleep(RETRY).await;
            }
            error => return Err(RunError::Refused { error, message: refusal.message }),
        }
    }
}

fn accepted(application: &Application, registered: Registered) -> Result<Registered, RunError> {
    let cluster_id = &registered.cluster_id;
    for known in [&application.stored_cluster_id, &application.wanted_cluster_id].into_iter().flatten() {
        if known != cluster_id {
            let message = format!("the coordinators belong to cluster {cluster_id}, this broker to {known}");
            return Err(RunError::OtherCluster { message });
        }
    }
    Ok(registered)
}

/// A broker on a new disk that was told which cluster it belongs to must not show up in another one, not even for a moment.
async fn check_cluster(client: &ClusterClient, wanted: &ClusterId) -> Result<(), RunError> {
    loop {
        let mut stream = match client.watch(Revision(0), BrokerId::NONE, None, ATTEMPT).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::info!(%error, "waiting for the coordinators");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        if let Ok(Ok(WatchUpdate::Snapshot { revision, nodes })) = tokio::time::timeout(ATTEMPT, stream.next()).await {
            let (image, _) = ottla_metadata::Image::from_nodes(revision, nodes.iter().map(|(path, node)| (path, node)));
            return match image.cluster_id() {
                Some(found) if found != wanted => {
                    let message =
                        format!("the coordinators belong to cluster {found}, cluster.id={wanted} says otherwise");
                    Err(RunError::OtherCluster { message })
                }
                // A quorum that has no id yet answers the registration with the one that it takes.
                _ => Ok(()),
            };
        }
        tokio::time::sleep(RETRY).await;
    }
}
