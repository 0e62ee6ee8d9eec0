//! Rules of the authorizer on the wire.

use ottla_authorizer::{
    AclBinding, AclEntry, AclFilter, EntryFilter, Operation, PatternFilter, PatternType, Permission, ResourceFilter,
    ResourcePattern, ResourceType,
};
use ottla_model::KafkaPrincipal;
use ottla_protocol::kafka_protocol::messages::create_acls_request::AclCreation;
use ottla_protocol::kafka_protocol::protocol::StrBytes;

/// Kafka's text where it runs without an authorizer.
pub const NO_AUTHORIZER: &str = "No Authorizer is configured.";

/// Kafka's codes for what a filter leaves open.
const ANY: i8 = 1;
const MATCH: i8 = 2;

/// The rule, or what is wrong with it.
pub fn binding(creation: &AclCreation) -> Result<AclBinding, String> {
    let resource_type = ResourceType::from_code(creation.resource_type)
        .ok_or_else(|| format!("Invalid resource type {}", creation.resource_type))?;
    let pattern_type = PatternType::from_code(creation.resource_pattern_type)
        .ok_or_else(|| format!("Invalid pattern type {}", creation.resource_pattern_type))?;
    let operation =
        Operation::from_code(creation.operation).ok_or_else(|| format!("Invalid operation {}", creation.operation))?;
    let permission = Permission::from_code(creation.permission_type)
        .ok_or_else(|| format!("Invalid permission type {}", creation.permission_type))?;
    let principal: KafkaPrincipal = creation
        .principal
        .parse()
        .map_err(|_| format!("Could not parse principal from `{}`", creation.principal.as_str()))?;
    Ok(AclBinding {
        pattern: ResourcePattern { resource_type, pattern_type, name: creation.resource_name.as_str().to_owned() },
        entry: AclEntry { principal, host: creation.host.as_str().to_owned(), operation, permission },
    })
}

/// The fields of a filter, which two requests have alike.
pub struct WireFilter<'a> {
    pub resource_type: i8,
    pub pattern_type: i8,
    pub name: Option<&'a StrBytes>,
    pub principal: Option<&'a StrBytes>,
    pub host: Option<&'a StrBytes>,
    pub operation: i8,
    pub permission: i8,
}

/// None if a code is none of Kafka's.
pub fn filter(wire: &WireFilter<'_>) -> Option<AclFilter> {
    fn any_or<T>(code: i8, from: impl FnOnce(i8) -> Option<T>) -> Option<Option<T>> {
        if code == ANY { Some(None) } else { from(code).map(Some) }
    }
    let text = |text: Option<&StrBytes>| text.map(|text| text.as_str().to_owned());
    // A text of another form is no rule's principal.
    let principal = |text: &StrBytes| text.parse().unwrap_or_else(|_| KafkaPrincipal::new("", text.as_str()));
    Some(AclFilter {
        pattern: ResourceFilter {
            resource_type: any_or(wire.resource_type, ResourceType::from_code)?,
            pattern: match wire.pattern_type {
                ANY => PatternFilter::Any,
                MATCH => PatternFilter::Match,
                code => PatternFilter::Is(PatternType::from_code(code)?),
            },
            name: text(wire.name),
        },
        entry: EntryFilter {
            principal: wire.principal.map(principal),
            host: text(wire.host),
            operation: any_or(wire.operation, Operation::from_code)?,
            permission: any_or(wire.permission, Permission::from_code)?,
        },
    })
}
