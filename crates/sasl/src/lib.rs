//! SASL as Kafka speaks it: PLAIN, SCRAM and OAUTHBEARER of both sides, JAAS texts, SCRAM credentials, bearer tokens.
//!
//! Layer 1: synchronous and deterministic. Bytes come in, bytes or a verdict go out; nonces and secrets are inputs.
//! Secrets are compared in constant time, and a user that does not exist costs a client as many steps as a wrong
//! password.

pub mod client;
pub mod jaas;
pub mod mechanism;
pub mod oauth;
mod plain;
pub mod scram;
pub mod server;

pub use client::{ClientCredentials, ClientLogin, ClientSession};
pub use jaas::{JaasEntry, JaasError};
pub use mechanism::Mechanism;
pub use scram::{SALT_BYTES, ScramCredential, ScramHash};
pub use server::{
    Credentials, ServerSession, Step, TokenCredential, TokenLogin, TokenSecret, login_lifetime, nobody_secret,
};

/// Why an authentication failed. The text goes to the log; [`SaslError::told`] is what a client may know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SaslError {
    #[error("malformed {mechanism} message: {problem}")]
    Malformed { mechanism: Mechanism, problem: &'static str },
    #[error("wrong user or password ({mechanism})")]
    WrongCredentials { mechanism: Mechanism },
    #[error("an authorization id that is not the user name")]
    OtherAuthorizationId,
    #[error("the server is not who it should be: its signature is wrong")]
    WrongServer,
    #[error("the server refused: {0}")]
    Refused(String),
    #[error("bearer token: {0}")]
    InvalidToken(#[from] oauth::TokenError),
    #[error("a message after the end of the conversation")]
    AfterTheEnd,
}

impl SaslError {
    pub(crate) fn malformed(mechanism: Mechanism, problem: &'static str) -> Self {
        Self::Malformed { mechanism, problem }
    }

    /// The text for the client; Kafka's, which its clients show to people. It does not tell whether the user exists.
    pub fn told(&self) -> String {
        match self {
            Self::WrongCredentials { mechanism: Mechanism::Plain } => {
                "Authentication failed: Invalid username or password".to_owned()
            }
            Self::WrongCredentials { mechanism } => format!(
                "Authentication failed during authentication due to invalid credentials with SASL mechanism {mechanism}"
            ),
            Self::OtherAuthorizationId => {
                "Authentication failed: Client requested an authorization id that is different from username".to_owned()
            }
            Self::InvalidToken(_) => oauth::message::REFUSAL.to_owned(),
            other => format!("Authentication failed: {other}"),
        }
    }
}
