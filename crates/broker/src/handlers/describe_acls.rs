//! DescribeAcls (29), versions 1 to 3: the rules of the authorizer that a filter matches, from this broker's image.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{AclBinding, AclFilter, AclIndex, Operation};
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::describe_acls_response::{AclDescription, DescribeAclsResource};
use ottla_protocol::kafka_protocol::messages::{DescribeAclsRequest, DescribeAclsResponse};

use crate::broker::Broker;
use crate::request::acls::{self, NO_AUTHORIZER, WireFilter};
use crate::request::budget::TOO_LARGE;
use crate::request::meter::Meter;
use crate::request::{RequestContext, ResponseBudget, wire};

/// What a rule takes in a response beside its texts.
const RULE_BYTES: usize = 8;

/// More rules are looked through beside the workers.
const INLINE_RULES_MAX: usize = 1_000;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let is_allowed = broker.access(context).cluster(Operation::Describe);
    let is_long = is_allowed && broker.metadata.peek().acls().len() > INLINE_RULES_MAX;
    let owned = Arc::clone(broker);
    Meter::of(broker, context, &header).carry_out_if(broker, is_long, body.len(), move || {
        Reply::respond::<DescribeAclsRequest>(&header, body, |request| response(&owned, is_allowed, request))
    })
}

fn response(broker: &Broker, is_allowed: bool, request: &DescribeAclsRequest) -> DescribeAclsResponse {
    if broker.authorization.is_none() {
        return refused(ErrorCode::SecurityDisabled, NO_AUTHORIZER);
    }
    if !is_allowed {
        return refused(ErrorCode::ClusterAuthorizationFailed, "Cluster authorization failed.");
    }
    match filter(request) {
        Some(filter) => answer(broker.metadata.current().acls(), &filter, broker.response_budget()),
        None => refused(ErrorCode::InvalidRequest, "The filter contains UNKNOWN elements."),
    }
}

fn filter(request: &DescribeAclsRequest) -> Option<AclFilter> {
    acls::filter(&WireFilter {
        resource_type: request.resource_type_filter,
        pattern_type: request.pattern_type_filter,
        name: request.resource_name_filter.as_ref(),
        principal: request.principal_filter.as_ref(),
        host: request.host_filter.as_ref(),
        operation: request.operation,
        permission: request.permission_type,
    })
}

fn answer(rules: &AclIndex, filter: &AclFilter, mut budget: ResponseBudget) -> DescribeAclsResponse {
    let mut resources: Vec<DescribeAclsResource> = Vec::new();
    for AclBinding { pattern, entry } in rules.matching(filter) {
        let principal = entry.principal.to_string();
        if !budget.take(pattern.name.len() + principal.len() + entry.host.len() + RULE_BYTES) {
            return refused(ErrorCode::InvalidRequest, TOO_LARGE);
        }
        let description = AclDescription::default()
            .with_principal(wire::text(&principal))
            .with_host(wire::text(&entry.host))
            .with_operation(entry.operation.code())
            .with_permission_type(entry.permission.code());
        let (resource_type, pattern_type) = (pattern.resource_type.code(), pattern.pattern_type.code());
        // The rules of one pattern follow each other.
        match resources.last_mut() {
            Some(last)
                if (last.resource_type, last.pattern_type, last.resource_name.as_str())
                    == (resource_type, pattern_type, pattern.name.as_str()) =>
            {
                last.acls.push(description);
            }
            _ => resources.push(
                DescribeAclsResource::default()
                    .with_resource_type(resource_type)
                    .with_resource_name(wire::text(&pattern.name))
                    .with_pattern_type(pattern_type)
                    .with_acls(vec![description]),
            ),
        }
    }
    DescribeAclsResponse::default().with_error_message(None).with_resources(resources)
}

fn refused(error: ErrorCode, message: &str) -> DescribeAclsResponse {
    DescribeAclsResponse::default().with_error_code(error.code()).with_error_message(Some(wire::text(message)))
}
