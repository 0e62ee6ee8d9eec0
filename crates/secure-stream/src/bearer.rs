//! What the connections of this process log in with. A bearer token is from its file, or from the provider's endpoint,
//! and kept for most of its life.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ottla_sasl::oauth::token_source::{TokenEndpoint, TokenSource};
use ottla_sasl::{ClientCredentials, ClientLogin, Mechanism};
use ottla_tls::TlsError;

use crate::SecureError;
use crate::web::Endpoint;

/// A file with a token, which a sidecar may be writing this moment.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A login that may change while the process runs. Connections that are open keep theirs.
#[derive(Debug)]
pub struct FollowedLogin(Mutex<(ClientLogin, Arc<Login>)>);

impl FollowedLogin {
    /// May read files with certificates.
    pub fn new(login: ClientLogin) -> Result<Self, TlsError> {
        let made = Arc::new(Login::new(login.clone())?);
        Ok(Self(Mutex::new((login, made))))
    }

    /// That of new connections.
    pub fn current(&self) -> Arc<Login> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner).1)
    }

    /// Takes this login from now on; true: it is another one than before. May read files.
    pub fn follow(&self, wanted: &ClientLogin) -> Result<bool, TlsError> {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).0 == *wanted {
            return Ok(false);
        }
        let made = Arc::new(Login::new(wanted.clone())?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (wanted.clone(), made);
        Ok(true)
    }
}

/// What a connection logs in with.
#[derive(Debug)]
pub enum Login {
    User(ClientCredentials),
    Bearer(Box<BearerTokens>),
}

#[derive(Debug)]
pub struct BearerTokens {
    source: TokenSource,
    endpoint: Option<Endpoint>,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    token: String,
    until: Instant,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a token")
    }
}

impl Login {
    /// May read files with certificates.
    pub fn new(login: ClientLogin) -> Result<Self, TlsError> {
        let source = match login {
            ClientLogin::User(credentials) => return Ok(Self::User(credentials)),
            ClientLogin::Bearer(source) => source,
        };
        let endpoint = match &source {
            TokenSource::Endpoint(at) => Some(Endpoint::new(at.url.clone(), &at.tls)?),
            TokenSource::File(_) | TokenSource::Unsecured(_) => None,
        };
        Ok(Self::Bearer(Box::new(BearerTokens { source, endpoint, kept: Mutex::default() })))
    }

    pub(crate) async fn credentials(&self) -> Result<ClientCredentials, SecureError> {
        match self {
            Self::User(credentials) => Ok(credentials.clone()),
            Self::Bearer(tokens) => {
                let password = tokens.token().await?;
                let mechanism = Mechanism::OAuthBearer;
                Ok(ClientCredentials { mechanism, user: String::new(), password, is_token: false })
            }
        }
    }
}

impl BearerTokens {
    async fn token(&self) -> Result<String, SecureError> {
        let failed = |text: String| SecureError::Login(format!("no bearer token: {text}"));
        match (&self.source, &self.endpoint) {
            (TokenSource::File(path), _) => {
                let named = |error: &dyn std::fmt::Display| failed(format!("{}: {error}", path.display()));
                let size = tokio::fs::metadata(path).await.map_err(|error| named(&error))?.len();
                if size > FILE_BYTES_MAX {
                    return Err(named(&format!("more than {FILE_BYTES_MAX} bytes")));
                }
                let text = tokio::fs::read_to_string(path).await.map_err(|error| named(&error))?;
                Ok(text.trim().to_owned())
            }
            (TokenSource::Unsecured(login), _) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
                Ok(login.token(i64::try_from(now).unwrap_or(i64::MAX)))
            }
            (TokenSource::Endpoint(asked), Some(endpoint)) => {
                if let Some(token) = self.kept(Instant::now()) {
                    return Ok(token);
                }
                let named = |error: &dyn std::fmt::Display| failed(format!("{}: {error}", endpoint.uri()));
                let began = Instant::now();
                let answer = endpoint.post_form(&asked.authorization(), asked.form()).await;
                let answer = answer.map_err(|error| named(&error))?;
                let (token, lifetime_s) = TokenEndpoint::token(&answer).ok_or_else(|| named(&"no access_token"))?;
                if let Some(lifetime_s) = lifetime_s {
                    self.keep(&token, began, lifetime_s);
                }
                Ok(token)
            }
            (TokenSource::Endpoint(_), None) => Err(failed("no endpoint".to_owned())),
        }
    }

    fn kept(&self, now: Instant) -> Option<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|kept| now < kept.until).map(|kept| kept.token.clone())
    }

    /// Kafka's window: four fifths of its life.
    fn keep(&self, token: &str, began: Instant, lifetime_s: u64) {
        let until = began.checked_add(Duration::from_secs(lifetime_s / 5 * 4));
        let kept = until.map(|until| Kept { token: token.to_owned(), until });
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }
}
