//! CreateDelegationToken (38), versions 1 to 3: a token that its owner, or who may create tokens for it, asks for. The
//! broker chooses the id, the quorum keeps the token.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{Operation, ResourceType};
use ottla_config::DelegationTokenConfig;
use ottla_metadata::DelegationToken;
use ottla_metadata::controller::{AlterDelegationToken, Gated, TokenChange};
use ottla_model::{ErrorCode, KafkaPrincipal, TopicId};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::{CreateDelegationTokenRequest, CreateDelegationTokenResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::admin::{self, Patience};
use crate::request::{RequestContext, tokens, wire};

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<CreateDelegationTokenRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let requester = context.principal.clone();
    let owner = owner(&request, &requester);
    let empty = CreateDelegationTokenResponse::default()
        .with_principal_type(wire::text(&owner.principal_type))
        .with_principal_name(wire::text(&owner.name))
        .with_token_requester_principal_type(wire::text(&requester.principal_type))
        .with_token_requester_principal_name(wire::text(&requester.name));
    let change = match check(broker, context, &request, owner) {
        Ok(change) => change,
        Err(code) => {
            let response = empty.with_error_code(code.code());
            return Reply::encode::<CreateDelegationTokenRequest>(&header, &response);
        }
    };
    let token_id = token_id();
    let patience = Patience::of(broker.config.request_timeout);
    let request = AlterDelegationToken { token_id: token_id.clone(), change };
    let decision = broker.quorum.submit(request, patience.remaining());
    let broker = Arc::clone(broker);
    Reply::later(async move {
        let response = match decision.await {
            Ok(Ok(made)) => {
                patience.await_image(&broker.metadata, made.revision).await;
                let hmac = broker.tokens.as_ref().map(|tokens| tokens.hmac(&token_id)).unwrap_or_default();
                made_response(empty, &made.token).with_token_id(wire::text(&token_id)).with_hmac(hmac.into())
            }
            Ok(Err(refusal)) => empty.with_error_code(refusal.error.code()),
            Err(error) => empty.with_error_code(admin::no_answer(&error).error.code()),
        };
        Response::encode_or_close::<CreateDelegationTokenRequest>(&header, &response)
    })
}

/// Whom the token is to speak for.
fn owner(request: &CreateDelegationTokenRequest, requester: &KafkaPrincipal) -> KafkaPrincipal {
    match request.owner_principal_name.as_ref().filter(|name| !name.is_empty()) {
        Some(name) => {
            let principal_type = request.owner_principal_type.as_deref().unwrap_or_default();
            KafkaPrincipal::new(principal_type, name.as_str())
        }
        None => requester.clone(),
    }
}

fn check(
    broker: &Broker,
    context: &RequestContext,
    request: &CreateDelegationTokenRequest,
    owner: KafkaPrincipal,
) -> Result<TokenChange, ErrorCode> {
    tokens::may_ask(context)?;
    // A login by token keeps the name alone: the token of `Group:admin` would be a login as `User:admin`.
    if &*owner.principal_type != KafkaPrincipal::USER {
        return Err(ErrorCode::InvalidPrincipalType);
    }
    let is_for_itself = owner == context.principal;
    let may_create = || {
        let owner = owner.to_string();
        broker.access(context).allows(Operation::CreateTokens, ResourceType::User, &owner)
    };
    if !is_for_itself && !may_create() {
        return Err(ErrorCode::DelegationTokenAuthorizationFailed);
    }
    let renewers: Vec<KafkaPrincipal> =
        request.renewers.iter().map(|one| KafkaPrincipal::new(&*one.principal_type, &*one.principal_name)).collect();
    if renewers.iter().any(|renewer| &*renewer.principal_type != KafkaPrincipal::USER) {
        return Err(ErrorCode::InvalidPrincipalType);
    }
    tokens::enabled(broker)?;
    // A quorum leader of a release that does not know tokens could not say so.
    Gated::DelegationTokens.check(&broker.metadata.current()).map_err(|refusal| refusal.error)?;
    let config = broker.config.delegation_tokens.as_ref().ok_or(ErrorCode::DelegationTokenAuthDisabled)?;
    let requester = context.principal.clone();
    let (lifetime_ms, renewal_ms) = lifetime(config, request.max_lifetime_ms);
    Ok(TokenChange::Create { owner, requester, renewers, lifetime_ms, renewal_ms })
}

/// The longest life, and the one without a renewal. A wish of 0 or less is none.
fn lifetime(config: &DelegationTokenConfig, wished_ms: i64) -> (i64, i64) {
    let ms = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let most = ms(config.lifetime_max);
    (if wished_ms > 0 { wished_ms.min(most) } else { most }, ms(config.renewal))
}

fn made_response(empty: CreateDelegationTokenResponse, token: &DelegationToken) -> CreateDelegationTokenResponse {
    empty
        .with_issue_timestamp_ms(token.issued.0)
        .with_expiry_timestamp_ms(token.expires.0)
        .with_max_timestamp_ms(token.max.0)
}

/// As Kafka's: 16 random bytes in base64, without a dash at the beginning, which tools would take for an option.
fn token_id() -> String {
    loop {
        let id = TopicId(rand::random()).to_string();
        if !id.starts_with('-') {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lifetimes_are_bounded_and_ids_are_kafkas() {
        let config = DelegationTokenConfig {
            secret: ottla_tls::Password::new("s"),
            lifetime_max: Duration::from_secs(70),
            renewal: Duration::from_secs(10),
            check_interval: Duration::from_secs(1),
        };
        assert_eq!(lifetime(&config, -1), (70_000, 10_000));
        assert_eq!(lifetime(&config, 60_000), (60_000, 10_000));
        assert_eq!(lifetime(&config, 80_000), (70_000, 10_000));
        let id = token_id();
        assert!(id.len() == 22 && !id.starts_with('-'), "{id}");
    }
}
