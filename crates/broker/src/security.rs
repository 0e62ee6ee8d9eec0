//! From the configuration of listeners to what `network` demands of connections, and from that of the inter-broker
//! listener to how this broker connects to others. Certificates follow their files and the configuration, and the login
//! to other brokers follows the configuration.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use ottla_config::BrokerConfig;
use ottla_model::ListenerName;
use ottla_network::{ListenerSecurity, LoginWatcher, SaslListener};
use ottla_replica_manager::live_config::LiveConfig;
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_rpc::ChannelSecurity;
use ottla_secure_stream::StreamSecurity;
use ottla_tls::{ClientTls, ServerTls, TlsError};

use crate::audit::AuditLog;
use crate::credentials::ListenerUsers;
use crate::delegation_tokens::Tokens;
use crate::oauth::{BearerChecks, KeysError};

/// How often the files of certificates and the configuration are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A listener, or the connections to other brokers, whose certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener}: {source}")]
pub struct SecurityError {
    listener: ListenerName,
    source: KeysError,
}

/// What was made of the configuration of the listeners.
pub struct Listeners {
    pub security: BTreeMap<ListenerName, ListenerSecurity>,
    /// Whose keys are to be followed.
    pub bearers: Vec<(ListenerName, Arc<BearerChecks>)>,
}

/// The security of each listener.
pub fn listeners(
    live: &Arc<LiveConfig>,
    metadata: &Arc<MetadataCache>,
    tokens: Option<&Arc<Tokens>>,
    audit: Option<&Arc<AuditLog>>,
) -> Result<Listeners, SecurityError> {
    let config = live.fixed();
    let (mut listeners, mut bearers) = (BTreeMap::new(), Vec::new());
    for (name, wanted) in &config.security.listeners {
        let failed = |source| SecurityError { listener: name.clone(), source };
        let tls = wanted.tls.clone().map(ServerTls::new).transpose().map_err(|error| failed(error.into()))?;
        let bearer = wanted.sasl.as_ref().and_then(|sasl| sasl.bearer.as_ref());
        let bearer = bearer.map(BearerChecks::new).transpose().map_err(failed)?.map(Arc::new);
        bearers.extend(bearer.clone().map(|checks| (name.clone(), checks)));
        let sasl = wanted.sasl.as_ref().map(|sasl| SaslListener {
            mechanisms: sasl.mechanisms.clone(),
            credentials: Arc::new(ListenerUsers::new(
                name,
                sasl,
                Arc::clone(live),
                Arc::clone(metadata),
                tokens.cloned(),
                bearer,
            )),
            watcher: audit.map(|audit| Arc::clone(audit) as Arc<dyn LoginWatcher + Send + Sync>),
            reauth_max: sasl.reauth_max,
            receive_bytes_max: sasl.receive_bytes_max,
            failure_delay: config.security.failed_authentication_delay,
        });
        let security = ListenerSecurity { protocol: wanted.protocol, tls: tls.map(Arc::new), sasl: sasl.map(Arc::new) };
        listeners.insert(name.clone(), security);
    }
    Ok(Listeners { security: listeners, bearers })
}

/// How this broker connects to others.
pub fn peers(config: &BrokerConfig) -> Result<StreamSecurity, SecurityError> {
    let failed =
        |source: TlsError| SecurityError { listener: config.inter_broker_listener.clone(), source: source.into() };
    let wanted = &config.security.inter_broker;
    let tls = wanted.tls.clone().map(ClientTls::new).transpose().map_err(failed)?;
    StreamSecurity::new(tls, wanted.login.clone()).map_err(failed)
}

/// How this broker connects to coordinators.
pub fn coordinators(config: &BrokerConfig) -> Result<ChannelSecurity, TlsError> {
    let tls = config.coordinator_tls.clone().map(ClientTls::for_http).transpose()?;
    Ok(ChannelSecurity { tls: tls.map(Arc::new), secret: config.cluster_secret.clone() })
}

/// Looks at the files of all certificates, and at the login to other brokers, again and again; ends only with its task.
/// `coordinators`: of the connections to them.
pub async fn follow_files(
    live: Arc<LiveConfig>,
    listeners: BTreeMap<ListenerName, ListenerSecurity>,
    coordinators: Option<Arc<ClientTls>>,
) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let listeners = Arc::new(listeners);
    loop {
        looks.tick().await;
        let (live, listeners, coordinators) = (Arc::clone(&live), Arc::clone(&listeners), coordinators.clone());
        // A directory of certificates may be on a disk that does not answer.
        let looked = tokio::task::spawn_blocking(move || look(&live, &listeners, coordinators.as_deref())).await;
        if let Err(error) = looked {
            tracing::error!(%error, "the certificates are not followed any more");
            return;
        }
    }
}

fn look(live: &LiveConfig, listeners: &BTreeMap<ListenerName, ListenerSecurity>, coordinators: Option<&ClientTls>) {
    let config = live.current();
    for (name, security) in listeners {
        let wanted = config.security.listeners.get(name).and_then(|listener| listener.tls.as_ref());
        if let (Some(tls), Some(wanted)) = (&security.tls, wanted) {
            report(name, tls.follow(wanted));
        }
    }
    if let (Some(tls), Some(wanted)) = (&live.peers().tls, &config.security.inter_broker.tls) {
        report(&config.inter_broker_listener, tls.follow(wanted));
    }
    if let (Some(login), Some(wanted)) = (&live.peers().login, &config.security.inter_broker.login) {
        match login.follow(wanted) {
            Ok(true) => tracing::info!("new connections to other brokers log in as the configuration says now"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "the new login to other brokers cannot be used; the former one stays")
            }
        }
    }
    if let (Some(tls), Some(wanted)) = (coordinators, &config.coordinator_tls) {
        report(&"connections to coordinators", tls.follow(wanted));
    }
}

fn report(listener: &dyn Display, followed: Result<bool, TlsError>) {
    match followed {
        Ok(true) => tracing::info!(%listener, "new certificates are in use"),
        Ok(false) => {}
        Err(error) => tracing::error!(%listener, %error, "new certificates cannot be used; the former ones stay"),
    }
}
