//! DescribeAcls (29): no authorizer is configured, as Kafka says it.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_model::ErrorCode;
use ottla_network::response::Answer;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::{DescribeAclsRequest, DescribeAclsResponse};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::wire;

/// Kafka's text where it runs without an authorizer.
pub const NO_AUTHORIZER: &str = "No Authorizer is configured.";

pub fn handle(_: &Arc<Broker>, _: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    Answer::respond(&header, body, answer)
}

fn answer(_: &DescribeAclsRequest) -> DescribeAclsResponse {
    DescribeAclsResponse::default()
        .with_error_code(ErrorCode::SecurityDisabled.code())
        .with_error_message(Some(wire::text(NO_AUTHORIZER)))
}
