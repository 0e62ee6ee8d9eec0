//! DeleteAcls (31): no authorizer is configured; each filter is refused.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_model::ErrorCode;
use ottla_network::response::Answer;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use ottla_protocol::kafka_protocol::messages::{DeleteAclsRequest, DeleteAclsResponse};

use super::describe_acls::NO_AUTHORIZER;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::wire;

pub fn handle(_: &Arc<Broker>, _: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    Answer::respond(&header, body, answer)
}

fn answer(request: &DeleteAclsRequest) -> DeleteAclsResponse {
    let refused = DeleteAclsFilterResult::default()
        .with_error_code(ErrorCode::SecurityDisabled.code())
        .with_error_message(Some(wire::text(NO_AUTHORIZER)));
    DeleteAclsResponse::default().with_filter_results(vec![refused; request.filters.len()])
}

#[cfg(test)]
mod tests {
    use ottla_protocol::kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;

    use super::*;

    #[test]
    fn every_filter_is_refused() {
        let request = DeleteAclsRequest::default().with_filters(vec![DeleteAclsFilter::default(); 3]);
        let codes: Vec<_> = answer(&request).filter_results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [ErrorCode::SecurityDisabled.code(); 3]);
    }
}
