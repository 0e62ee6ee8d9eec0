//! RenewDelegationToken (39), versions 1 and 2: a token lives longer, up to its longest life. The quorum decides.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_metadata::controller::{AlterDelegationToken, TokenChange};
use ottla_model::ErrorCode;
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::{RenewDelegationTokenRequest, RenewDelegationTokenResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::admin::{self, Patience};
use crate::request::{RequestContext, tokens};

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<RenewDelegationTokenRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let refused = |code: ErrorCode| RenewDelegationTokenResponse::default().with_error_code(code.code());
    let asked = match check(broker, context, &request) {
        Ok(asked) => asked,
        Err(code) => return Reply::encode::<RenewDelegationTokenRequest>(&header, &refused(code)),
    };
    let patience = Patience::of(broker.config.request_timeout);
    let decision = broker.quorum.submit(asked, patience.remaining());
    let broker = Arc::clone(broker);
    Reply::later(async move {
        let response = match decision.await {
            Ok(Ok(renewed)) => {
                patience.await_image(&broker.metadata, renewed.revision).await;
                RenewDelegationTokenResponse::default().with_expiry_timestamp_ms(renewed.token.expires.0)
            }
            Ok(Err(refusal)) => refused(refusal.error),
            Err(error) => refused(admin::no_answer(&error).error),
        };
        Response::encode_or_close::<RenewDelegationTokenRequest>(&header, &response)
    })
}

fn check(
    broker: &Broker,
    context: &RequestContext,
    request: &RenewDelegationTokenRequest,
) -> Result<AlterDelegationToken, ErrorCode> {
    tokens::may_ask(context)?;
    let known = tokens::enabled(broker)?;
    let config = broker.config.delegation_tokens.as_ref().ok_or(ErrorCode::DelegationTokenAuthDisabled)?;
    let image = broker.metadata.current();
    let token_id = known.find(&image, &request.hmac).ok_or(ErrorCode::DelegationTokenNotFound)?;
    let most = i64::try_from(config.renewal.as_millis()).unwrap_or(i64::MAX);
    let period_ms = if request.renew_period_ms > 0 { request.renew_period_ms.min(most) } else { most };
    let change = TokenChange::Renew { by: context.principal.clone(), period_ms };
    Ok(AlterDelegationToken { token_id, change })
}
