//! DeleteAcls (31), versions 1 to 3: the rules that filters match are removed. The quorum decides.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{AclBinding, AclFilter, Operation};
use ottla_metadata::controller::{DeleteAcls, Refusal};
use ottla_model::ErrorCode;
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use ottla_protocol::kafka_protocol::messages::delete_acls_response::{DeleteAclsFilterResult, DeleteAclsMatchingAcl};
use ottla_protocol::kafka_protocol::messages::{DeleteAclsRequest, DeleteAclsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use super::create_acls::no_authorizer;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::acls::{self, WireFilter};
use crate::request::admin::{self, Patience};
use crate::request::wire;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<DeleteAclsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let count = request.filters.len();
    if broker.authorization.is_none() {
        return Reply::encode::<DeleteAclsRequest>(&header, &refuse_all(count, &no_authorizer()));
    }
    if !broker.access(context).cluster(Operation::Alter) {
        let denied = Refusal::new(ErrorCode::ClusterAuthorizationFailed, String::new());
        return Reply::encode::<DeleteAclsRequest>(&header, &refuse_all(count, &denied));
    }
    let checked: Vec<Option<AclFilter>> = request.filters.iter().map(filter).collect();
    let filters: Vec<AclFilter> = checked.iter().flatten().cloned().collect();
    let asked = filters.len();
    let broker = Arc::clone(broker);
    // The request carries no time-out of its own.
    let patience = Patience::of(broker.config.request_timeout);
    let decision = (asked > 0).then(|| broker.quorum.submit(DeleteAcls { filters }, patience.remaining()));
    Reply::later(async move {
        let mut decided = match decision {
            None => Vec::new(),
            Some(decision) => match decision.await {
                Ok(deleted) => {
                    patience.await_image(&broker.metadata, deleted.revision).await;
                    deleted.filters
                }
                Err(error) => vec![Err(admin::no_answer(&error)); asked],
            },
        }
        .into_iter();
        let silent = || Err(Refusal::new(ErrorCode::UnknownServerError, "the quorum did not answer for this filter"));
        let unknown = || Refusal::new(ErrorCode::InvalidRequest, "The filter contains UNKNOWN elements.");
        let results = checked.into_iter().map(|checked| match checked {
            Some(_) => result(decided.next().unwrap_or_else(silent)),
            None => result(Err(unknown())),
        });
        let response = DeleteAclsResponse::default().with_filter_results(results.collect());
        Response::encode_or_close::<DeleteAclsRequest>(&header, &response)
    })
}

fn filter(filter: &DeleteAclsFilter) -> Option<AclFilter> {
    acls::filter(&WireFilter {
        resource_type: filter.resource_type_filter,
        pattern_type: filter.pattern_type_filter,
        name: filter.resource_name_filter.as_ref(),
        principal: filter.principal_filter.as_ref(),
        host: filter.host_filter.as_ref(),
        operation: filter.operation,
        permission: filter.permission_type,
    })
}

fn refuse_all(count: usize, refusal: &Refusal) -> DeleteAclsResponse {
    DeleteAclsResponse::default().with_filter_results(vec![result(Err(refusal.clone())); count])
}

fn result(outcome: Result<Vec<AclBinding>, Refusal>) -> DeleteAclsFilterResult {
    let result = DeleteAclsFilterResult::default().with_error_message(None);
    match outcome {
        Ok(removed) => result.with_matching_acls(removed.iter().map(removed_acl).collect()),
        Err(refusal) => {
            let (code, message) = admin::told(Some(&refusal));
            result.with_error_code(code).with_error_message(message)
        }
    }
}

fn removed_acl(AclBinding { pattern, entry }: &AclBinding) -> DeleteAclsMatchingAcl {
    DeleteAclsMatchingAcl::default()
        .with_error_message(None)
        .with_resource_type(pattern.resource_type.code())
        .with_resource_name(wire::text(&pattern.name))
        .with_pattern_type(pattern.pattern_type.code())
        .with_principal(wire::text(&entry.principal.to_string()))
        .with_host(wire::text(&entry.host))
        .with_operation(entry.operation.code())
        .with_permission_type(entry.permission.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_is_refused_without_an_authorizer() {
        let codes: Vec<_> =
            refuse_all(3, &no_authorizer()).filter_results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [ErrorCode::SecurityDisabled.code(); 3]);
    }
}
