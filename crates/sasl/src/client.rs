//! The client's side of one conversation.

use std::fmt;

use subtle::ConstantTimeEq as _;

use crate::SaslError;
use crate::mechanism::Mechanism;
use crate::oauth::message;
use crate::oauth::token_source::TokenSource;
use crate::plain;
use crate::scram::{self, ITERATIONS_MAX, ITERATIONS_MIN, ScramCredential, ScramHash, ServerFirst};

/// What a client logs in with.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCredentials {
    pub mechanism: Mechanism,
    pub user: String,
    pub password: String,
    /// The user is the id of a delegation token, and the password its HMAC in base64. Of OAUTHBEARER the password is
    /// the bearer token, and there is no user.
    pub is_token: bool,
}

/// How a client comes by its credentials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientLogin {
    User(ClientCredentials),
    /// By a bearer token from there.
    Bearer(TokenSource),
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.mechanism, self.user)
    }
}

enum State {
    Plain,
    ScramFirst { hash: ScramHash, nonce: String },
    ScramFinal { hash: ScramHash, nonce: String, bare: String },
    ServerSignature(Vec<u8>),
    Bearer,
    BearerAnswer,
    Ended,
}

pub struct ClientSession {
    credentials: ClientCredentials,
    state: State,
}

impl ClientSession {
    /// `nonce`: fresh random bytes.
    pub fn new(credentials: ClientCredentials, nonce: &[u8; 18]) -> Self {
        let state = match credentials.mechanism {
            Mechanism::Plain => State::Plain,
            Mechanism::Scram(hash) => State::ScramFirst { hash, nonce: scram::base64(nonce) },
            Mechanism::OAuthBearer => State::Bearer,
        };
        Self { credentials, state }
    }

    /// The next message to send, after the server's `answer` (empty at the start); none: the server has accepted.
    pub fn step(&mut self, answer: &[u8]) -> Result<Option<Vec<u8>>, SaslError> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Plain => Ok(Some(plain::encode(&self.credentials.user, &self.credentials.password))),
            State::ScramFirst { hash, nonce } => {
                let extension = if self.credentials.is_token { ",tokenauth=true" } else { "" };
                let bare = format!("n={},r={nonce}{extension}", scram::escape(&self.credentials.user));
                let message = format!("n,,{bare}");
                self.state = State::ScramFinal { hash, nonce, bare };
                Ok(Some(message.into_bytes()))
            }
            State::ScramFinal { hash, nonce, bare } => {
                let (message, signature) = self.prove(hash, &nonce, &bare, answer)?;
                self.state = State::ServerSignature(signature);
                Ok(Some(message))
            }
            State::ServerSignature(expected) => {
                let text = std::str::from_utf8(answer).unwrap_or_default();
                if let Some(error) = text.strip_prefix("e=") {
                    return Err(SaslError::Refused(error.to_owned()));
                }
                let given = text.strip_prefix("v=").and_then(scram::from_base64).unwrap_or_default();
                if bool::from(given.ct_eq(&expected)) { Ok(None) } else { Err(SaslError::WrongServer) }
            }
            State::Bearer => {
                self.state = State::BearerAnswer;
                Ok(Some(message::encode(&self.credentials.password)))
            }
            State::BearerAnswer if answer.is_empty() => Ok(None),
            // The reason of a refusal, which the server repeats in its error.
            State::BearerAnswer => Ok(Some(message::CONSENT.to_vec())),
            State::Ended => Ok(None),
        }
    }

    fn prove(&self, hash: ScramHash, nonce: &str, bare: &str, answer: &[u8]) -> Result<(Vec<u8>, Vec<u8>), SaslError> {
        let malformed = |problem| SaslError::malformed(self.credentials.mechanism, problem);
        let text = std::str::from_utf8(answer).map_err(|_| malformed("not UTF-8"))?;
        let first = ServerFirst::parse(text).map_err(malformed)?;
        if !first.nonce.starts_with(nonce) || first.nonce.len() == nonce.len() {
            return Err(malformed("another nonce"));
        }
        // Fewer would give the password away to a false server, more would keep this client busy.
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&first.iterations) {
            return Err(malformed("a number of iterations outside 4096 to 16384"));
        }
        let salted = hash.salted_password(self.credentials.password.as_bytes(), &first.salt, first.iterations);
        let credential = ScramCredential::of_salted_password(hash, &salted, first.salt, first.iterations);
        let without_proof = format!("c=biws,r={}", first.nonce);
        let auth_message = format!("{bare},{text},{without_proof}");
        let signature = hash.hmac(&credential.stored_key, auth_message.as_bytes());
        let proof: Vec<u8> = hash.client_key(&salted).iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let message = format!("{without_proof},p={}", scram::base64(&proof));
        Ok((message.into_bytes(), credential.server_signature(hash, auth_message.as_bytes())))
    }
}

#[cfg(test)]
mod tests;
