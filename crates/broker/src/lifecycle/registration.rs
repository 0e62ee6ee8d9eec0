//! A broker's way into the cluster: it waits for coordinators as long as it takes, and gives up only on what waiting
//! cannot cure (another cluster, an id that a living broker keeps).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_config::BrokerConfig;
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, ErrorCode, ListenerName, Revision};
use ottla_rpc::{ClusterClient, WatchUpdate, cluster};
use tokio::time::Instant;

use super::RunError;
use crate::broker::Identity;
use crate::listener::BoundListener;

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
    pub endpoints: Vec<cluster::Endpoint>,
    pub inter_broker_listener: ListenerName,
    pub rack: Option<String>,
    /// The epoch up to which this broker's log is known to be whole: of the clean-shutdown file, or, while the process lives, its own.
    pub clean_shutdown_epoch: BrokerEpoch,
    pub min_insync_replicas: i32,
    pub session_timeout: Duration,
}

#[derive(Clone, Debug)]
pub struct Registered {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
    pub cluster_id: ClusterId,
    pub revision: Revision,
}

/// The advertised endpoints; a port that the system chose is told as chosen.
pub fn endpoints(config: &BrokerConfig, bound: &[BoundListener]) -> Vec<cluster::Endpoint> {
    config
        .advertised_listeners
        .iter()
        .map(|advertised| {
            let chosen = bound.iter().find(|listener| listener.name == advertised.name);
            let port = match (advertised.port, chosen) {
                (0, Some(listener)) => listener.address.port(),
                (port, _) => port,
            };
            cluster::Endpoint {
                listener: advertised.name.as_str().to_owned(),
                host: advertised.host.clone(),
                port: u32::from(port),
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
    let request = cluster::RegisterRequest {
        broker_id: application.id.0,
        incarnation_id: Bytes::copy_from_slice(identity.incarnation().as_bytes()),
        cluster_id: application.stored_cluster_id.as_ref().map(ClusterId::to_string).unwrap_or_default(),
        endpoints: application.endpoints.clone(),
        inter_broker_listener: application.inter_broker_listener.as_str().to_owned(),
        rack: application.rack.clone(),
        clean_shutdown_epoch: application.clean_shutdown_epoch.0,
        min_insync_replicas: application.min_insync_replicas,
        ..cluster::RegisterRequest::default()
    };
    let mut refused_since: Option<Instant> = None;
    let mut said = false;
    loop {
        let response = match client.register(request.clone(), ATTEMPT).await {
            Ok(response) => response,
            Err(error) => {
                tracing::info!(%error, "waiting for the coordinators");
                // A refusal of the call itself comes at once.
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let error = i16::try_from(response.error_code)
            .ok()
            .and_then(ErrorCode::from_code)
            .unwrap_or(ErrorCode::UnknownServerError);
        match error {
            ErrorCode::None => return accepted(application, response),
            ErrorCode::DuplicateBrokerRegistration => {
                let since = *refused_since.get_or_insert_with(Instant::now);
                let patience = application.session_timeout + DUPLICATE_MARGIN;
                if since.elapsed() >= patience {
                    let message = response.error_message;
                    return Err(RunError::DuplicateId { id: application.id, message });
                }
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        id = %application.id,
                        "the id belongs to a broker that lives ({}); trying for {} s",
                        response.error_message,
                        patience.as_secs()
                    );
                }
                tokio::time::sleep(RETRY).await;
            }
            ErrorCode::InconsistentClusterId => {
                let asked = client.coordinators().addresses().join(",");
                let message = format!("coordinator.connect={asked}: {}", response.error_message);
                return Err(RunError::OtherCluster { message });
            }
            error if error.is_retriable() => {
                tracing::info!(?error, message = response.error_message, "registration is put off");
                tokio::time::sleep(RETRY).await;
            }
            error => return Err(RunError::Refused { error, message: response.error_message }),
        }
    }
}

fn accepted(application: &Application, response: cluster::RegisterResponse) -> Result<Registered, RunError> {
    let cluster_id = ClusterId::new(response.cluster_id);
    for known in [&application.stored_cluster_id, &application.wanted_cluster_id].into_iter().flatten() {
        if *known != cluster_id {
            let message = format!("the coordinators belong to cluster {cluster_id}, this broker to {known}");
            return Err(RunError::OtherCluster { message });
        }
    }
    Ok(Registered {
        id: BrokerId(response.broker_id),
        epoch: BrokerEpoch(response.broker_epoch),
        cluster_id,
        revision: Revision(response.revision),
    })
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
