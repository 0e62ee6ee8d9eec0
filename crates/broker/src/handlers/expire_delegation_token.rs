//! ExpireDelegationToken (40), versions 1 and 2: a token ends, at once or after a time. The quorum decides.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_metadata::controller::{AlterDelegationToken, TokenChange};
use ottla_model::ErrorCode;
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::{ExpireDelegationTokenRequest, ExpireDelegationTokenResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::admin::{self, Patience};
use crate::request::{RequestContext, tokens};

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<ExpireDelegationTokenRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let refused = |code: ErrorCode| ExpireDelegationTokenResponse::default().with_error_code(code.code());
    let asked = match check(broker, context, &request) {
        Ok(asked) => asked,
        Err(code) => return Reply::encode::<ExpireDelegationTokenRequest>(&header, &refused(code)),
    };
    let patience = Patience::of(broker.config.request_timeout);
    let decision = broker.quorum.submit(asked, patience.remaining());
    let broker = Arc::clone(broker);
    let period_ms = request.expiry_time_period_ms;
    Reply::later(async move {
        let response = match decision.await {
            Ok(Ok(ended)) => {
                patience.await_image(&broker.metadata, ended.revision).await;
                // Kafka repeats the period of a token that ended at once.
                let expires = if period_ms < 0 { period_ms } else { ended.token.expires.0 };
                ExpireDelegationTokenResponse::default().with_expiry_timestamp_ms(expires)
            }
            Ok(Err(refusal)) => refused(refusal.error),
            Err(error) => refused(admin::no_answer(&error).error),
        };
        Response::encode_or_close::<ExpireDelegationTokenRequest>(&header, &response)
    })
}

fn check(
    broker: &Broker,
    context: &RequestContext,
    request: &ExpireDelegationTokenRequest,
) -> Result<AlterDelegationToken, ErrorCode> {
    tokens::may_ask(context)?;
    let known = tokens::enabled(broker)?;
    let image = broker.metadata.current();
    let token_id = known.find(&image, &request.hmac).ok_or(ErrorCode::DelegationTokenNotFound)?;
    let period_ms = Some(request.expiry_time_period_ms).filter(|period_ms| *period_ms >= 0);
    let change = TokenChange::Expire { by: context.principal.clone(), period_ms };
    Ok(AlterDelegationToken { token_id, change })
}
