//! DescribeDelegationToken (41), versions 1 to 3: the tokens that concern the sender or that it may describe, with
//! their HMACs, from this broker's image.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{Operation, ResourceType};
use ottla_metadata::DelegationToken;
use ottla_model::{ErrorCode, KafkaPrincipal};
use ottla_network::response::Reply;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::describe_delegation_token_response::{
    DescribedDelegationToken, DescribedDelegationTokenRenewer,
};
use ottla_protocol::kafka_protocol::messages::{DescribeDelegationTokenRequest, DescribeDelegationTokenResponse};

use crate::broker::Broker;
use crate::request::meter::Meter;
use crate::request::{RequestContext, tokens, wire};

/// What a token takes in a response beside its principals: its HMAC, its id, three times.
const TOKEN_BYTES: usize = 128;

/// More tokens are looked through beside the workers: each takes two checks, and its HMAC is derived.
const INLINE_TOKENS_MAX: usize = 300;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let is_long = broker.metadata.peek().delegation_tokens().nth(INLINE_TOKENS_MAX).is_some();
    let meter = Meter::of(broker, context, &header);
    let (owned, context) = (Arc::clone(broker), context.clone());
    meter.carry_out_if(broker, is_long, body.len(), move || {
        Reply::respond::<DescribeDelegationTokenRequest>(&header, body, |request| {
            match described(&owned, &context, request) {
                Ok(described) => DescribeDelegationTokenResponse::default().with_tokens(described),
                Err(code) => DescribeDelegationTokenResponse::default().with_error_code(code.code()),
            }
        })
    })
}

fn described(
    broker: &Broker,
    context: &RequestContext,
    request: &DescribeDelegationTokenRequest,
) -> Result<Vec<DescribedDelegationToken>, ErrorCode> {
    tokens::may_ask(context)?;
    let known = tokens::enabled(broker)?;
    let owners: Option<BTreeSet<KafkaPrincipal>> = request.owners.as_ref().map(|owners| {
        owners.iter().map(|owner| KafkaPrincipal::new(&*owner.principal_type, &*owner.principal_name)).collect()
    });
    let (access, image) = (broker.access(context), broker.metadata.current());
    let mut budget = broker.response_budget();
    let mut described = Vec::new();
    for (id, token) in image.delegation_tokens() {
        if owners.as_ref().is_some_and(|owners| !concerns_any(token, owners)) {
            continue;
        }
        let is_shown = token.concerns(&context.principal)
            || access.shows(Operation::Describe, ResourceType::DelegationToken, id)
            || access.shows(Operation::DescribeTokens, ResourceType::User, &token.owner.to_string());
        if !is_shown {
            continue;
        }
        let bytes = |one: &KafkaPrincipal| one.principal_type.len() + one.name.len();
        let texts: usize = token.renewers.iter().chain([&token.owner, &token.requester]).map(bytes).sum();
        if !budget.take(TOKEN_BYTES + texts) {
            return Err(ErrorCode::InvalidRequest);
        }
        described.push(wire_token(id, token).with_hmac(known.hmac(id).into()));
    }
    Ok(described)
}

fn concerns_any(token: &DelegationToken, owners: &BTreeSet<KafkaPrincipal>) -> bool {
    let mut all = token.renewers.iter().chain([&token.owner, &token.requester]);
    all.any(|principal| owners.contains(principal))
}

fn wire_token(id: &str, token: &DelegationToken) -> DescribedDelegationToken {
    let renewers = token.renewers.iter().map(|renewer| {
        DescribedDelegationTokenRenewer::default()
            .with_principal_type(wire::text(&renewer.principal_type))
            .with_principal_name(wire::text(&renewer.name))
    });
    DescribedDelegationToken::default()
        .with_principal_type(wire::text(&token.owner.principal_type))
        .with_principal_name(wire::text(&token.owner.name))
        .with_token_requester_principal_type(wire::text(&token.requester.principal_type))
        .with_token_requester_principal_name(wire::text(&token.requester.name))
        .with_issue_timestamp(token.issued.0)
        .with_expiry_timestamp(token.expires.0)
        .with_max_timestamp(token.max.0)
        .with_token_id(wire::text(id))
        .with_renewers(renewers.collect())
}
