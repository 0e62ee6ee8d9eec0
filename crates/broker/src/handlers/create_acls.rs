//! CreateAcls (30): no authorizer is configured, so that no rule would hold; each is refused.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_model::ErrorCode;
use ottla_network::response::Answer;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::create_acls_response::AclCreationResult;
use ottla_protocol::kafka_protocol::messages::{CreateAclsRequest, CreateAclsResponse};

use super::describe_acls::NO_AUTHORIZER;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::wire;

pub fn handle(_: &Arc<Broker>, _: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    Answer::respond(&header, body, answer)
}

fn answer(request: &CreateAclsRequest) -> CreateAclsResponse {
    let refused = AclCreationResult::default()
        .with_error_code(ErrorCode::SecurityDisabled.code())
        .with_error_message(Some(wire::text(NO_AUTHORIZER)));
    CreateAclsResponse::default().with_results(vec![refused; request.creations.len()])
}

#[cfg(test)]
mod tests {
    use ottla_protocol::kafka_protocol::messages::create_acls_request::AclCreation;

    use super::*;

    #[test]
    fn every_rule_is_refused() {
        let request = CreateAclsRequest::default().with_creations(vec![AclCreation::default(); 2]);
        let codes: Vec<_> = answer(&request).results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [ErrorCode::SecurityDisabled.code(); 2]);
    }
}
