//! The server's side of one conversation.

use std::time::Duration;

use ring::hmac;

use crate::SaslError;
use crate::mechanism::Mechanism;
use crate::oauth::{Bearer, TokenError, message};
use crate::plain;
use crate::scram::{self, ClientFinal, ClientFirst, ScramCredential, ScramHash};

/// Where a server finds what it knows of its users.
pub trait Credentials {
    /// The user's password for PLAIN; none: no such user.
    fn password(&self, user: &str) -> Option<String>;
    fn scram(&self, hash: ScramHash, user: &str) -> Option<ScramCredential>;
    /// The delegation token of this id, unless it has expired.
    fn token(&self, hash: ScramHash, id: &str) -> Option<TokenCredential>;
    /// Checks a bearer token.
    fn bearer(&self, token: &str) -> Result<Bearer, TokenError>;
    /// The key of the salts that users who do not exist seem to have.
    fn nobody_secret(&self) -> [u8; 32];
}

/// What a server knows of a delegation token (KIP-48).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenCredential {
    pub credential: ScramCredential,
    /// The user that the token speaks for.
    pub owner: String,
    /// Milliseconds since 1970.
    pub expires_ms: i64,
}

impl TokenCredential {
    fn login(&self) -> TokenLogin {
        TokenLogin { is_delegation: true, expires_ms: self.expires_ms }
    }
}

/// The secret that the servers of a cluster make the HMACs of delegation tokens with.
pub struct TokenSecret(hmac::Key);

impl TokenSecret {
    pub fn new(secret: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA512, secret.as_bytes()))
    }

    pub fn hmac(&self, token_id: &str) -> Vec<u8> {
        hmac::sign(&self.0, token_id.as_bytes()).as_ref().to_vec()
    }

    /// What stands for an HMAC where it is looked for among others: the time which that takes tells how much of this is
    /// right, and this is no part of the HMAC.
    pub fn fingerprint(&self, hmac: &[u8]) -> Vec<u8> {
        hmac::sign(&self.0, hmac).as_ref().to_vec()
    }

    /// What a client logs in with as its password.
    pub fn password(&self, token_id: &str) -> String {
        scram::base64(&self.hmac(token_id))
    }
}

/// A key for [`Credentials::nobody_secret`] out of what the servers of a cluster share.
pub fn nobody_secret(shared: &[u8]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, shared);
    let mut secret = [0; 32];
    secret.copy_from_slice(hmac::sign(&key, b"salts of users that do not exist").as_ref());
    secret
}

/// The outcome of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send this; the client goes on.
    Continue(Vec<u8>),
    /// Send this; the client is this user.
    Done { answer: Vec<u8>, user: String, token: Option<TokenLogin> },
}

/// The user came with a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenLogin {
    /// Whether it is a delegation token; otherwise it is a bearer token.
    pub is_delegation: bool,
    /// Milliseconds since 1970: the login ends with the token.
    pub expires_ms: i64,
}

/// How long a login lasts: until its token ends, and no longer than the listener allows. None: it does not end.
/// `wall_ms`: now, in milliseconds since 1970.
pub fn login_lifetime(most: Option<Duration>, token: Option<TokenLogin>, wall_ms: i64) -> Option<Duration> {
    let remaining =
        |token: TokenLogin| Duration::from_millis(token.expires_ms.saturating_sub(wall_ms).max(0).unsigned_abs());
    [most, token.map(remaining)].into_iter().flatten().min()
}

enum State {
    Plain,
    ScramFirst { hash: ScramHash, nonce: String },
    ScramFinal(Box<ScramFinal>),
    Bearer,
    BearerRefused(TokenError),
    Ended,
}

struct ScramFinal {
    hash: ScramHash,
    user: String,
    token: Option<TokenLogin>,
    is_known: bool,
    credential: ScramCredential,
    gs2_header: String,
    /// Of both sides.
    nonce: String,
    /// The first two messages, as the proof covers them.
    first_messages: String,
}

pub struct ServerSession {
    state: State,
}

impl ServerSession {
    /// `nonce`: fresh random bytes.
    pub fn new(mechanism: Mechanism, nonce: &[u8; 18]) -> Self {
        let state = match mechanism {
            Mechanism::Plain => State::Plain,
            Mechanism::Scram(hash) => State::ScramFirst { hash, nonce: scram::base64(nonce) },
            Mechanism::OAuthBearer => State::Bearer,
        };
        Self { state }
    }

    #[cfg(test)]
    pub(crate) fn with_nonce(hash: ScramHash, nonce: &str) -> Self {
        Self { state: State::ScramFirst { hash, nonce: nonce.to_owned() } }
    }

    /// Takes the client's next message. After an error the conversation has ended.
    pub fn step(&mut self, message: &[u8], credentials: &dyn Credentials) -> Result<Step, SaslError> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Plain => plain_step(message, credentials),
            State::ScramFirst { hash, nonce } => {
                let (next, answer) = scram_first(hash, &nonce, text(hash, message)?, credentials)?;
                self.state = State::ScramFinal(Box::new(next));
                Ok(Step::Continue(answer))
            }
            State::ScramFinal(state) => {
                let message = text(state.hash, message)?;
                scram_final(*state, message)
            }
            State::Bearer => {
                let given = message::parse(message)?;
                match credentials.bearer(given.token) {
                    Ok(bearer) if given.authorization_id.is_empty() || given.authorization_id == bearer.user => {
                        let token = TokenLogin { is_delegation: false, expires_ms: bearer.expires_ms };
                        Ok(Step::Done { answer: Vec::new(), user: bearer.user, token: Some(token) })
                    }
                    Ok(_) => Err(SaslError::OtherAuthorizationId),
                    Err(error) => {
                        self.state = State::BearerRefused(error);
                        Ok(Step::Continue(message::REFUSAL.into()))
                    }
                }
            }
            State::BearerRefused(error) => Err(error.into()),
            State::Ended => Err(SaslError::AfterTheEnd),
        }
    }
}

fn plain_step(message: &[u8], credentials: &dyn Credentials) -> Result<Step, SaslError> {
    let given = plain::parse(message)?;
    let expected = credentials.password(given.user);
    // A user that does not exist is compared too.
    let is_same = plain::is_same(expected.as_deref().unwrap_or_default(), given.password);
    if expected.is_some() && is_same {
        Ok(Step::Done { answer: Vec::new(), user: given.user.to_owned(), token: None })
    } else {
        Err(SaslError::WrongCredentials { mechanism: Mechanism::Plain })
    }
}

fn text(hash: ScramHash, message: &[u8]) -> Result<&str, SaslError> {
    std::str::from_utf8(message).map_err(|_| SaslError::malformed(Mechanism::Scram(hash), "not UTF-8"))
}

fn scram_first(
    hash: ScramHash,
    nonce: &str,
    message: &str,
    credentials: &dyn Credentials,
) -> Result<(ScramFinal, Vec<u8>), SaslError> {
    let malformed = |problem| SaslError::malformed(Mechanism::Scram(hash), problem);
    let first = ClientFirst::parse(message).map_err(malformed)?;
    if !first.authorization_id.is_empty() && first.authorization_id != first.user {
        return Err(SaslError::OtherAuthorizationId);
    }
    let (found, user, token) = if first.is_token {
        match credentials.token(hash, &first.user) {
            Some(known) => {
                let login = known.login();
                (Some(known.credential), known.owner, Some(login))
            }
            None => (None, first.user.clone(), None),
        }
    } else {
        (credentials.scram(hash, &first.user), first.user.clone(), None)
    };
    let is_known = found.is_some();
    let credential =
        found.unwrap_or_else(|| ScramCredential::of_nobody(hash, &credentials.nobody_secret(), &first.user));
    let nonce = format!("{}{nonce}", first.nonce);
    let answer = format!("r={nonce},s={},i={}", scram::base64(&credential.salt), credential.iterations);
    let next = ScramFinal {
        hash,
        user,
        token,
        is_known,
        credential,
        gs2_header: first.gs2_header.to_owned(),
        nonce,
        first_messages: format!("{},{answer}", first.bare),
    };
    Ok((next, answer.into_bytes()))
}

fn scram_final(state: ScramFinal, message: &str) -> Result<Step, SaslError> {
    let mechanism = Mechanism::Scram(state.hash);
    let last = ClientFinal::parse(message).map_err(|problem| SaslError::malformed(mechanism, problem))?;
    // librdkafka before 2.6.1 sends its own nonce twice before the server's, which Kafka takes. That it ends with the
    // server's is what keeps an old message from being sent again.
    if !last.nonce.ends_with(&state.nonce) {
        return Err(SaslError::malformed(mechanism, "another nonce"));
    }
    if scram::from_base64(last.channel_binding).as_deref() != Some(state.gs2_header.as_bytes()) {
        return Err(SaslError::malformed(mechanism, "another channel binding"));
    }
    let auth_message = format!("{},{}", state.first_messages, last.without_proof);
    let is_proved = state.credential.is_proved(state.hash, auth_message.as_bytes(), &last.proof);
    if !(is_proved && state.is_known) {
        return Err(SaslError::WrongCredentials { mechanism });
    }
    let signature = state.credential.server_signature(state.hash, auth_message.as_bytes());
    let answer = format!("v={}", scram::base64(&signature)).into_bytes();
    Ok(Step::Done { answer, user: state.user, token: state.token })
}
