//! Bearer tokens on a listener (OAUTHBEARER): their check, and the provider's keys, which are read again at intervals,
//! and soon when a token names a key that is not known.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use ottla_model::ListenerName;
use ottla_sasl::oauth::settings::{BearerSettings, KeysSettings, Location};
use ottla_sasl::oauth::{Bearer, BearerRules, KeySet, KeySetError, TokenError};
use ottla_secure_stream::web::{Endpoint, WebError};
use ottla_tls::TlsError;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How soon keys are read again for tokens that name others: whoever invents names must not keep the provider busy.
const KEYS_INTERVAL_MIN: Duration = Duration::from_secs(10);
/// As of an answer of a provider.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
    #[error("{url}: {source}")]
    Web { url: String, source: WebError },
    #[error("{0}")]
    Set(#[from] KeySetError),
    #[error("{0}")]
    Tls(#[from] TlsError),
}

/// The bearer tokens of one listener.
pub struct BearerChecks {
    rules: BearerRules,
    keys: ArcSwap<KeySet>,
    /// None: nobody signs tokens.
    source: Option<KeySource>,
    /// A token named a key that is not known.
    is_key_wanted: Notify,
}

struct KeySource {
    settings: KeysSettings,
    endpoint: Option<Endpoint>,
}

impl BearerChecks {
    /// Reads keys in files, which must be there; those at an URL come with [`Self::follow_keys`].
    pub fn new(settings: &BearerSettings) -> Result<Self, KeysError> {
        let mut keys = KeySet::default();
        let source = match &settings.keys {
            None => None,
            Some(settings) => {
                let endpoint = match &settings.location {
                    Location::File(path) => {
                        keys = keys_of_file(path)?;
                        None
                    }
                    Location::Web(uri) => Some(Endpoint::new(uri.clone(), &settings.tls)?),
                };
                Some(KeySource { settings: settings.clone(), endpoint })
            }
        };
        let rules = settings.rules.clone();
        Ok(Self { rules, keys: ArcSwap::from_pointee(keys), source, is_key_wanted: Notify::new() })
    }

    pub fn check(&self, token: &str) -> Result<Bearer, TokenError> {
        let checked = self.rules.check(token, &self.keys.load(), now_ms());
        if matches!(checked, Err(TokenError::UnknownKey(_))) {
            self.is_key_wanted.notify_one();
        }
        checked
    }

    /// Reads the keys again and again; ends only with its task.
    pub async fn follow_keys(self: Arc<Self>, listener: ListenerName) {
        let Some(source) = &self.source else { return };
        if let Some(url) = source.endpoint.as_ref().map(Endpoint::uri).filter(|url| url.scheme_str() == Some("http")) {
            tracing::warn!(%listener, %url, "the keys of tokens come over a connection that anybody can alter");
        }
        let mut retry = source.settings.retry;
        loop {
            let began = Instant::now();
            let wait = match source.keys().await {
                Ok(keys) => {
                    tracing::debug!(%listener, ?keys, "the keys of tokens were read");
                    self.keys.store(Arc::new(keys));
                    retry = source.settings.retry;
                    source.settings.refresh.max(KEYS_INTERVAL_MIN)
                }
                Err(error) => {
                    tracing::error!(%listener, %error, "the keys of tokens cannot be read; the former ones stay");
                    let wait = retry.max(Duration::from_millis(1));
                    retry = wait.saturating_mul(2).min(source.settings.retry_max);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // After a failure the next try comes sooner anyway.
                () = self.is_key_wanted.notified(), if wait > KEYS_INTERVAL_MIN => {
                    tokio::time::sleep_until(began + KEYS_INTERVAL_MIN).await;
                }
            }
        }
    }
}

impl KeySource {
    async fn keys(&self) -> Result<KeySet, KeysError> {
        match (&self.endpoint, &self.settings.location) {
            (Some(endpoint), _) => {
                let failed = |source| KeysError::Web { url: endpoint.uri().to_string(), source };
                Ok(KeySet::parse(&endpoint.get().await.map_err(failed)?)?)
            }
            (None, Location::File(path)) => {
                let (read, path) = (path.clone(), path.clone());
                let read = tokio::task::spawn_blocking(move || keys_of_file(&read)).await;
                read.map_err(|error| KeysError::File { path, problem: error.to_string() })?
            }
            (None, Location::Web(url)) => Err(KeysError::File {
                path: url.to_string().into(),
                problem: "no connection to it was made".to_owned(),
            }),
        }
    }
}

fn keys_of_file(path: &Path) -> Result<KeySet, KeysError> {
    let failed = |problem: String| KeysError::File { path: path.to_owned(), problem };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(failed(format!("more than {FILE_BYTES_MAX} bytes")));
    }
    let json = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    KeySet::parse(&json).map_err(|error| failed(error.to_string()))
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    i64::try_from(now).unwrap_or(i64::MAX)
}
