//! Rules of the authorizer: the current ones, and changes.

use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::{CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest};
use ottla_authorizer::{
    AclBinding, AclEntry, AclFilter, Operation, PatternFilter, PatternType, Permission, ResourcePattern, ResourceType,
};
use ottla_model::ErrorCode;
use ottla_protocol::Api;

use crate::cluster::Client;
use crate::convert::{error_of, text};
use crate::error::{ClientError, Outcome};

/// Kafka's codes for what a filter leaves open.
const ANY: i8 = 1;
const MATCH: i8 = 2;

fn pattern_code(pattern: PatternFilter) -> i8 {
    match pattern {
        PatternFilter::Any => ANY,
        PatternFilter::Match => MATCH,
        PatternFilter::Is(pattern_type) => pattern_type.code(),
    }
}

fn refusal(code: i16, message: Option<impl ToString>) -> Option<ClientError> {
    match error_of(code) {
        ErrorCode::None => None,
        code => Some(ClientError::Refused { code, message: message.map(|message| message.to_string()) }),
    }
}

impl Client {
    /// The rules that a filter matches.
    pub async fn describe_acls(&self, filter: &AclFilter) -> Result<Vec<AclBinding>, ClientError> {
        let AclFilter { pattern, entry } = filter;
        let request = DescribeAclsRequest::default()
            .with_resource_type_filter(pattern.resource_type.map_or(ANY, ResourceType::code))
            .with_pattern_type_filter(pattern_code(pattern.pattern))
            .with_resource_name_filter(pattern.name.as_deref().map(text))
            .with_principal_filter(entry.principal.as_ref().map(|principal| text(&principal.to_string())))
            .with_host_filter(entry.host.as_deref().map(text))
            .with_operation(entry.operation.map_or(ANY, Operation::code))
            .with_permission_type(entry.permission.map_or(ANY, Permission::code));
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            match refusal(response.error_code, response.error_message) {
                Some(refused) => Err(refused),
                None => Ok(response.resources),
            }
        };
        let resources = self.retry(None, |_| true, attempt).await?;
        let mut bindings = Vec::new();
        for resource in resources {
            for acl in &resource.acls {
                let pattern = (resource.resource_type, resource.pattern_type, resource.resource_name.as_str());
                let entry = (acl.principal.as_str(), acl.host.as_str(), acl.operation, acl.permission_type);
                bindings.push(binding(pattern, entry).ok_or(ClientError::Incomplete(Api::DescribeAcls))?);
            }
        }
        Ok(bindings)
    }

    /// Adds rules.
    pub async fn create_acls(&self, bindings: &[AclBinding]) -> Result<(), ClientError> {
        let creation = |AclBinding { pattern, entry }: &AclBinding| {
            AclCreation::default()
                .with_resource_type(pattern.resource_type.code())
                .with_resource_name(text(&pattern.name))
                .with_resource_pattern_type(pattern.pattern_type.code())
                .with_principal(text(&entry.principal.to_string()))
                .with_host(text(&entry.host))
                .with_operation(entry.operation.code())
                .with_permission_type(entry.permission.code())
        };
        let request = CreateAclsRequest::default().with_creations(bindings.iter().map(creation).collect());
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            let mut refused =
                response.results.into_iter().filter_map(|result| refusal(result.error_code, result.error_message));
            refused.next().map_or(Ok(()), Err)
        };
        // A retry must not undo a later change by another client.
        self.retry(None, |error| error.outcome() != Outcome::Unknown, attempt).await
    }

    /// Removes the rules that any of the filters matches.
    pub async fn delete_acls(&self, filters: &[AclFilter]) -> Result<(), ClientError> {
        let wire = |AclFilter { pattern, entry }: &AclFilter| {
            DeleteAclsFilter::default()
                .with_resource_type_filter(pattern.resource_type.map_or(ANY, ResourceType::code))
                .with_pattern_type_filter(pattern_code(pattern.pattern))
                .with_resource_name_filter(pattern.name.as_deref().map(text))
                .with_principal_filter(entry.principal.as_ref().map(|principal| text(&principal.to_string())))
                .with_host_filter(entry.host.as_deref().map(text))
                .with_operation(entry.operation.map_or(ANY, Operation::code))
                .with_permission_type(entry.permission.map_or(ANY, Permission::code))
        };
        let request = DeleteAclsRequest::default().with_filters(filters.iter().map(wire).collect());
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            let mut refused = response
                .filter_results
                .into_iter()
                .filter_map(|result| refusal(result.error_code, result.error_message));
            refused.next().map_or(Ok(()), Err)
        };
        self.retry(None, |error| error.outcome() != Outcome::Unknown, attempt).await
    }
}

/// None for codes that this release does not know.
fn binding(pattern: (i8, i8, &str), entry: (&str, &str, i8, i8)) -> Option<AclBinding> {
    let ((resource_type, pattern_type, name), (principal, host, operation, permission)) = (pattern, entry);
    Some(AclBinding {
        pattern: ResourcePattern {
            resource_type: ResourceType::from_code(resource_type)?,
            pattern_type: PatternType::from_code(pattern_type)?,
            name: name.to_owned(),
        },
        entry: AclEntry {
            principal: principal.parse().ok()?,
            host: host.to_owned(),
            operation: Operation::from_code(operation)?,
            permission: Permission::from_code(permission)?,
        },
    })
}
