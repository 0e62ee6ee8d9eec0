//! `/delegation_token/tokens/ID`: a delegation token (KIP-48), without its HMAC: brokers derive it from the id and the
//! secret that they share.

use bytes::Bytes;
use ottla_model::{KafkaPrincipal, TimestampMs};
use prost::Message;
use serde::Serialize;

use super::config::{decode_name, encode_name};
use super::{NodeError, to_json};
use crate::tree::Path;

/// A token that a client logs in with in the name of its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DelegationToken {
    pub owner: KafkaPrincipal,
    /// Who asked for it.
    pub requester: KafkaPrincipal,
    /// Who may renew it and let it expire, beside its owner.
    pub renewers: Vec<KafkaPrincipal>,
    pub issued: TimestampMs,
    /// No renewal goes beyond this.
    pub max: TimestampMs,
    pub expires: TimestampMs,
}

impl DelegationToken {
    pub fn is_expired(&self, now: TimestampMs) -> bool {
        self.max < now || self.expires < now
    }

    /// Who may renew it and let it expire.
    pub fn may_be_renewed_by(&self, principal: &KafkaPrincipal) -> bool {
        self.owner == *principal || self.renewers.contains(principal)
    }

    /// Who sees it without any rule, and in whose lists it is.
    pub fn concerns(&self, principal: &KafkaPrincipal) -> bool {
        self.may_be_renewed_by(principal) || self.requester == *principal
    }
}

pub fn path(id: &str) -> Path {
    Path::built(format!("/delegation_token/tokens/{}", encode_name(id)))
}

pub(super) fn id_of(name: &str) -> Option<String> {
    decode_name(name)
}

#[derive(Clone, PartialEq, prost::Message)]
struct PrincipalPayload {
    #[prost(string, tag = "1")]
    principal_type: String,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TokenPayload {
    #[prost(message, optional, tag = "1")]
    owner: Option<PrincipalPayload>,
    #[prost(message, optional, tag = "2")]
    requester: Option<PrincipalPayload>,
    #[prost(message, repeated, tag = "3")]
    renewers: Vec<PrincipalPayload>,
    #[prost(int64, tag = "4")]
    issued_ms: i64,
    #[prost(int64, tag = "5")]
    max_ms: i64,
    #[prost(int64, tag = "6")]
    expires_ms: i64,
}

fn of_principal(principal: &KafkaPrincipal) -> PrincipalPayload {
    PrincipalPayload { principal_type: principal.principal_type.to_string(), name: principal.name.to_string() }
}

fn to_principal(payload: PrincipalPayload) -> KafkaPrincipal {
    KafkaPrincipal::new(payload.principal_type, payload.name)
}

pub fn encode(token: &DelegationToken) -> Bytes {
    let payload = TokenPayload {
        owner: Some(of_principal(&token.owner)),
        requester: Some(of_principal(&token.requester)),
        renewers: token.renewers.iter().map(of_principal).collect(),
        issued_ms: token.issued.0,
        max_ms: token.max.0,
        expires_ms: token.expires.0,
    };
    payload.encode_to_vec().into()
}

pub fn decode(payload: &Bytes) -> Result<DelegationToken, NodeError> {
    let payload = TokenPayload::decode(payload.clone())?;
    let owner = payload.owner.ok_or_else(|| NodeError::field("owner", "none"))?;
    let requester = payload.requester.unwrap_or_else(|| owner.clone());
    Ok(DelegationToken {
        owner: to_principal(owner),
        requester: to_principal(requester),
        renewers: payload.renewers.into_iter().map(to_principal).collect(),
        issued: TimestampMs(payload.issued_ms),
        max: TimestampMs(payload.max_ms),
        expires: TimestampMs(payload.expires_ms),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    version: u8,
    owner: String,
    token_requester: String,
    renewers: Vec<String>,
    issue_timestamp: i64,
    max_timestamp: i64,
    expiry_timestamp: i64,
    token_id: String,
}

pub fn json(id: &str, payload: &Bytes) -> Result<String, NodeError> {
    let token = decode(payload)?;
    to_json(&Shown {
        version: 3,
        owner: token.owner.to_string(),
        token_requester: token.requester.to_string(),
        renewers: token.renewers.iter().map(ToString::to_string).collect(),
        issue_timestamp: token.issued.0,
        max_timestamp: token.max.0,
        expiry_timestamp: token.expires.0,
        token_id: id.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{NodePath, classify};
    use super::*;

    #[test]
    fn tokens_come_back_and_look_as_in_zookeeper() {
        let token = DelegationToken {
            owner: KafkaPrincipal::user("alice"),
            requester: KafkaPrincipal::user("admin"),
            renewers: vec![KafkaPrincipal::user("bob")],
            issued: TimestampMs(1),
            max: TimestampMs(3),
            expires: TimestampMs(2),
        };
        assert_eq!(decode(&encode(&token)), Ok(token.clone()));
        let shown = r#"{"version":3,"owner":"User:alice","tokenRequester":"User:admin","renewers":["User:bob"],"issueTimestamp":1,"maxTimestamp":3,"expiryTimestamp":2,"tokenId":"-a_B"}"#;
        assert_eq!(json("-a_B", &encode(&token)).as_deref(), Ok(shown));
        assert_eq!(classify(&path("-a_B")), NodePath::DelegationToken("-a_B".to_owned()));
        assert!(decode(&Bytes::new()).is_err());
        assert!(!token.is_expired(TimestampMs(2)) && token.is_expired(TimestampMs(3)));
        let user = KafkaPrincipal::user;
        assert!(token.may_be_renewed_by(&user("bob")) && !token.may_be_renewed_by(&user("admin")));
        assert!(token.concerns(&user("admin")) && !token.concerns(&user("carol")));
    }
}
