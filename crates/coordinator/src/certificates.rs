//! The certificates of this coordinator: towards clients, other coordinators, and brokers. They follow their files.

use std::sync::Arc;
use std::time::Duration;

use ottla_config::CoordinatorTls;
use ottla_tls::{ClientTls, ServerTls, TlsError, TlsSettings};

/// How often the files are looked at, as brokers do.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Certificates {
    settings: TlsSettings,
    pub server: Arc<ServerTls>,
    /// None: other coordinators are reached in plaintext.
    pub client: Option<Arc<ClientTls>>,
    pub towards_brokers: Arc<ClientTls>,
}

impl Certificates {
    /// Reads the files.
    pub fn read(tls: &CoordinatorTls) -> Result<Self, TlsError> {
        let settings = tls.settings.clone();
        let server = Arc::new(ServerTls::for_http(settings.clone())?);
        let client = match tls.between_coordinators {
            true => Some(Arc::new(ClientTls::for_http(settings.clone())?)),
            false => None,
        };
        let towards_brokers = Arc::new(ClientTls::new(settings.clone())?);
        Ok(Self { settings, server, client, towards_brokers })
    }

    /// Looks at the files again and again; ends only with its task.
    pub async fn follow(self) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let certificates = self.clone();
            // They may be on a disk that does not answer.
            if let Err(error) = tokio::task::spawn_blocking(move || certificates.look()).await {
                tracing::error!(%error, "the certificates are not followed any more");
                return;
            }
        }
    }

    fn look(&self) {
        let server = self.server.follow(&self.settings);
        let client = self.client.as_ref().map_or(Ok(false), |client| client.follow(&self.settings));
        let towards_brokers = self.towards_brokers.follow(&self.settings);
        match [server, client, towards_brokers].into_iter().collect::<Result<Vec<bool>, TlsError>>() {
            Err(error) => tracing::error!(%error, "new certificates cannot be used; the former ones stay"),
            Ok(changed) if changed.contains(&true) => tracing::info!("new certificates are in use"),
            Ok(_) => {}
        }
    }
}
