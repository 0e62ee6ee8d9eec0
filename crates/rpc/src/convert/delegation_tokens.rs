//! Delegation tokens.

use ottla_metadata::DelegationToken;
use ottla_metadata::controller::{AlterDelegationToken, AlteredDelegationToken, Refusal, TokenChange};
use ottla_model::{KafkaPrincipal, Revision, TimestampMs};

use super::{InvalidField, Wire, refusal_from_proto, refusal_to_proto};
use crate::cluster;
use crate::cluster::alter_delegation_token_request::Change;

fn principal_to_proto(principal: &KafkaPrincipal) -> cluster::Principal {
    cluster::Principal { r#type: principal.principal_type.to_string(), name: principal.name.to_string() }
}

fn principal_from_proto(
    field: &'static str,
    message: Option<cluster::Principal>,
) -> Result<KafkaPrincipal, InvalidField> {
    let message = message.ok_or_else(|| InvalidField::new(field, "none"))?;
    Ok(KafkaPrincipal::new(message.r#type, message.name))
}

fn all_from_proto(messages: Vec<cluster::Principal>) -> Vec<KafkaPrincipal> {
    messages.into_iter().map(|message| KafkaPrincipal::new(message.r#type, message.name)).collect()
}

impl Wire for AlterDelegationToken {
    type Message = cluster::AlterDelegationTokenRequest;

    fn into_proto(self) -> Self::Message {
        let period = |by: &KafkaPrincipal, period_ms| cluster::DelegationTokenPeriod {
            by: Some(principal_to_proto(by)),
            period_ms,
        };
        let change = match self.change {
            TokenChange::Create { owner, requester, renewers, lifetime_ms, renewal_ms } => {
                Change::Create(cluster::CreateDelegationToken {
                    owner: Some(principal_to_proto(&owner)),
                    requester: Some(principal_to_proto(&requester)),
                    renewers: renewers.iter().map(principal_to_proto).collect(),
                    lifetime_ms,
                    renewal_ms,
                })
            }
            TokenChange::Renew { by, period_ms } => Change::Renew(period(&by, Some(period_ms))),
            TokenChange::Expire { by, period_ms } => Change::Expire(period(&by, period_ms)),
            TokenChange::RemoveExpired => Change::RemoveExpired(true),
        };
        cluster::AlterDelegationTokenRequest { token_id: self.token_id, change: Some(change) }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let change = match message.change {
            Some(Change::Create(create)) => TokenChange::Create {
                owner: principal_from_proto("owner", create.owner)?,
                requester: principal_from_proto("requester", create.requester)?,
                renewers: all_from_proto(create.renewers),
                lifetime_ms: create.lifetime_ms,
                renewal_ms: create.renewal_ms,
            },
            Some(Change::Renew(renew)) => TokenChange::Renew {
                by: principal_from_proto("by", renew.by)?,
                period_ms: renew.period_ms.ok_or_else(|| InvalidField::new("period_ms", "none"))?,
            },
            Some(Change::Expire(expire)) => {
                TokenChange::Expire { by: principal_from_proto("by", expire.by)?, period_ms: expire.period_ms }
            }
            Some(Change::RemoveExpired(_)) => TokenChange::RemoveExpired,
            None => return Err(InvalidField::new("change", "none that this release knows")),
        };
        Ok(Self { token_id: message.token_id, change })
    }
}

impl Wire for Result<AlteredDelegationToken, Refusal> {
    type Message = cluster::AlterDelegationTokenResponse;

    fn into_proto(self) -> Self::Message {
        match self {
            Ok(AlteredDelegationToken { token, revision }) => cluster::AlterDelegationTokenResponse {
                error_code: 0,
                error_message: String::new(),
                revision: revision.0,
                owner: Some(principal_to_proto(&token.owner)),
                requester: Some(principal_to_proto(&token.requester)),
                renewers: token.renewers.iter().map(principal_to_proto).collect(),
                issued_ms: token.issued.0,
                max_ms: token.max.0,
                expires_ms: token.expires.0,
            },
            Err(refusal) => {
                let (error_code, error_message) = refusal_to_proto(Some(refusal));
                let empty = cluster::AlterDelegationTokenResponse::default();
                cluster::AlterDelegationTokenResponse { error_code, error_message, ..empty }
            }
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        if let Some(refusal) = refusal_from_proto(message.error_code, message.error_message) {
            return Ok(Err(refusal));
        }
        let token = DelegationToken {
            owner: principal_from_proto("owner", message.owner)?,
            requester: principal_from_proto("requester", message.requester)?,
            renewers: all_from_proto(message.renewers),
            issued: TimestampMs(message.issued_ms),
            max: TimestampMs(message.max_ms),
            expires: TimestampMs(message.expires_ms),
        };
        Ok(Ok(AlteredDelegationToken { token, revision: Revision(message.revision) }))
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::ErrorCode;

    use super::*;

    #[test]
    fn tokens_travel() {
        let user = KafkaPrincipal::user;
        for change in [
            TokenChange::Create {
                owner: user("a"),
                requester: user("b"),
                renewers: vec![user("c"), KafkaPrincipal::new("Group", "d")],
                lifetime_ms: 5,
                renewal_ms: 4,
            },
            TokenChange::Renew { by: user("a"), period_ms: 3 },
            TokenChange::Expire { by: user("a"), period_ms: Some(0) },
            TokenChange::Expire { by: user("a"), period_ms: None },
            TokenChange::RemoveExpired,
        ] {
            let request = AlterDelegationToken { token_id: "t".to_owned(), change };
            assert_eq!(AlterDelegationToken::from_proto(request.clone().into_proto()), Ok(request));
        }
        let token = DelegationToken {
            owner: user("a"),
            requester: user("b"),
            renewers: vec![user("c")],
            issued: TimestampMs(1),
            max: TimestampMs(3),
            expires: TimestampMs(2),
        };
        let refused: Result<AlteredDelegationToken, _> =
            Err(Refusal::new(ErrorCode::DelegationTokenExpired, String::new()));
        for answer in [Ok(AlteredDelegationToken { token, revision: Revision(7) }), refused] {
            assert_eq!(Wire::from_proto(answer.clone().into_proto()), Ok(answer));
        }
        let empty = cluster::AlterDelegationTokenRequest::default();
        assert_eq!(AlterDelegationToken::from_proto(empty).map_err(|error| error.field), Err("change"));
    }
}
