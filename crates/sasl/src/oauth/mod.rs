//! OAUTHBEARER: which bearer tokens a server accepts, and whose they are. Tokens are JSON web tokens: signed ones, or
//! unsecured ones where the configuration asks for them.

mod keys;
pub(crate) mod message;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod token_source;

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

pub use keys::{KeySet, KeySetError};

/// Tokens with many roles have some kilobytes.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

pub type Claims = Map<String, Value>;

/// Why a token is refused; for the log. Clients are told that it is invalid, and no more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    #[error("no JSON web token: {0}")]
    Malformed(String),
    #[error("a token of {0} bytes; at most {TOKEN_BYTES_MAX} are read")]
    TooLong(usize),
    #[error("a signature by {0} is not accepted")]
    Algorithm(String),
    #[error("no key `{0}` of the provider is known")]
    UnknownKey(String),
    #[error("the signature is wrong")]
    Signature,
    #[error("the claim `{0}` is missing, or is none")]
    Claim(String),
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token does not have the required scope")]
    Scope,
}

/// A token that was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bearer {
    pub user: String,
    /// Milliseconds since 1970.
    pub expires_ms: i64,
}

/// What a token must have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BearerRules {
    /// Whether a provider must have signed it; otherwise it must be unsecured.
    pub is_signed: bool,
    /// One of them has to be among the token's; empty: any.
    pub audiences: BTreeSet<String>,
    pub issuer: Option<String>,
    pub clock_skew_ms: i64,
    pub scope_claim: String,
    pub sub_claim: String,
    pub required_scope: BTreeSet<String>,
}

impl BearerRules {
    /// Checks a token at this time (milliseconds since 1970).
    pub fn check(&self, token: &str, keys: &KeySet, now_ms: i64) -> Result<Bearer, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong(token.len()));
        }
        let claims = if self.is_signed { keys.verify(token)? } else { unsecured(token)? };
        let missing = |name: &str| TokenError::Claim(name.to_owned());
        let expires_ms = time_ms(&claims, "exp")?.ok_or_else(|| missing("exp"))?;
        if now_ms.saturating_sub(self.clock_skew_ms) >= expires_ms {
            return Err(TokenError::Expired);
        }
        let issued_ms = time_ms(&claims, "iat")?;
        if self.is_signed && issued_ms.is_none() {
            return Err(missing("iat"));
        }
        let latest_ms = now_ms.saturating_add(self.clock_skew_ms);
        let begins_ms = if self.is_signed { time_ms(&claims, "nbf")? } else { issued_ms };
        if begins_ms.is_some_and(|begins_ms| begins_ms > latest_ms) {
            return Err(TokenError::NotYet);
        }
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(TokenError::Issuer);
        }
        if !self.audiences.is_empty() && texts(&claims, "aud")?.is_disjoint(&self.audiences) {
            return Err(TokenError::Audience);
        }
        // A scope is a text of words in most tokens, and a list in some.
        let scope = texts(&claims, &self.scope_claim)?;
        let has = |wanted: &String| scope.iter().any(|text| text.split(' ').any(|word| word == wanted));
        if !self.required_scope.iter().all(has) {
            return Err(TokenError::Scope);
        }
        let user = claims.get(&self.sub_claim).and_then(Value::as_str).map(str::trim).unwrap_or_default();
        if user.is_empty() {
            return Err(missing(&self.sub_claim));
        }
        Ok(Bearer { user: user.to_owned(), expires_ms })
    }
}

/// A time of a token, which has seconds; none: it is not there.
fn time_ms(claims: &Claims, name: &str) -> Result<Option<i64>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..1e15).contains(seconds));
    // In this range a float has every millisecond.
    seconds.map(|seconds| Some((seconds * 1000.0) as i64)).ok_or_else(|| TokenError::Claim(name.to_owned()))
}

/// A claim that is a text or a list of texts; empty: it is not there.
fn texts(claims: &Claims, name: &str) -> Result<BTreeSet<String>, TokenError> {
    let text = |value: &Value| {
        let text = value.as_str().map(str::trim).filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| TokenError::Claim(name.to_owned()))
    };
    match claims.get(name) {
        None | Some(Value::Null) => Ok(BTreeSet::new()),
        Some(Value::Array(values)) => values.iter().map(text).collect(),
        Some(value) => text(value).map(|text| BTreeSet::from([text])),
    }
}

/// The claims of a token without a signature (`alg` is `none`).
fn unsecured(token: &str) -> Result<Claims, TokenError> {
    let malformed = |problem: &str| TokenError::Malformed(problem.to_owned());
    let mut parts = token.split('.');
    let (Some(header), Some(claims), signature, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(malformed("not three parts"));
    };
    let header = object(header)?;
    if header.get("alg").and_then(Value::as_str) != Some("none") || signature.is_some_and(|text| !text.is_empty()) {
        return Err(TokenError::Algorithm("a key, where unsecured tokens are accepted,".to_owned()));
    }
    object(claims)
}

fn object(part: &str) -> Result<Claims, TokenError> {
    let malformed = |problem: &dyn std::fmt::Display| TokenError::Malformed(problem.to_string());
    let json = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).map_err(|error| malformed(&error))?;
    serde_json::from_slice(&json).map_err(|error| malformed(&error))
}
