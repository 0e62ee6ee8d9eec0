//! Rules of the authorizer.

use ottla_authorizer::{
    AclBinding, AclEntry, AclFilter, EntryFilter, Operation, PatternFilter, PatternType, Permission, ResourceFilter,
    ResourcePattern, ResourceType,
};
use ottla_metadata::controller::{CreateAcls, CreatedAcls, DeleteAcls, DeletedAcls};
use ottla_model::{KafkaPrincipal, Revision};

use super::{InvalidField, Wire, refusal_from_proto, refusal_to_proto};
use crate::cluster;

/// Kafka's numbers for what a filter leaves open.
const ANY: i32 = 1;
const MATCH: i32 = 2;

/// The value of one of Kafka's numbers.
fn coded<T>(field: &'static str, code: i32, from: impl FnOnce(i8) -> Option<T>) -> Result<T, InvalidField> {
    let value = i8::try_from(code).ok().and_then(from);
    value.ok_or_else(|| InvalidField::new(field, format!("{code} is none that this release knows")))
}

fn any_or<T>(field: &'static str, code: i32, from: impl FnOnce(i8) -> Option<T>) -> Result<Option<T>, InvalidField> {
    if code == ANY { Ok(None) } else { coded(field, code, from).map(Some) }
}

fn binding_to_proto(binding: AclBinding) -> cluster::AclBinding {
    let AclBinding { pattern, entry } = binding;
    cluster::AclBinding {
        resource_type: pattern.resource_type.code().into(),
        pattern_type: pattern.pattern_type.code().into(),
        name: pattern.name,
        principal_type: entry.principal.principal_type.to_string(),
        principal_name: entry.principal.name.to_string(),
        host: entry.host,
        operation: entry.operation.code().into(),
        permission: entry.permission.code().into(),
    }
}

fn binding_from_proto(message: cluster::AclBinding) -> Result<AclBinding, InvalidField> {
    let pattern = ResourcePattern {
        resource_type: coded("resource_type", message.resource_type, ResourceType::from_code)?,
        pattern_type: coded("pattern_type", message.pattern_type, PatternType::from_code)?,
        name: message.name,
    };
    let entry = AclEntry {
        principal: KafkaPrincipal::new(message.principal_type, message.principal_name),
        host: message.host,
        operation: coded("operation", message.operation, Operation::from_code)?,
        permission: coded("permission", message.permission, Permission::from_code)?,
    };
    Ok(AclBinding { pattern, entry })
}

fn filter_to_proto(filter: AclFilter) -> cluster::AclFilter {
    let AclFilter { pattern, entry } = filter;
    let principal = entry.principal.as_ref();
    cluster::AclFilter {
        resource_type: pattern.resource_type.map_or(ANY, |one| one.code().into()),
        pattern_type: match pattern.pattern {
            PatternFilter::Any => ANY,
            PatternFilter::Match => MATCH,
            PatternFilter::Is(pattern_type) => pattern_type.code().into(),
        },
        name: pattern.name,
        principal_type: principal.map(|principal| principal.principal_type.to_string()),
        principal_name: principal.map(|principal| principal.name.to_string()).unwrap_or_default(),
        host: entry.host,
        operation: entry.operation.map_or(ANY, |one| one.code().into()),
        permission: entry.permission.map_or(ANY, |one| one.code().into()),
    }
}

fn filter_from_proto(message: cluster::AclFilter) -> Result<AclFilter, InvalidField> {
    let pattern = ResourceFilter {
        resource_type: any_or("resource_type", message.resource_type, ResourceType::from_code)?,
        pattern: match message.pattern_type {
            ANY => PatternFilter::Any,
            MATCH => PatternFilter::Match,
            code => PatternFilter::Is(coded("pattern_type", code, PatternType::from_code)?),
        },
        name: message.name,
    };
    let principal_name = message.principal_name;
    let entry = EntryFilter {
        principal: message.principal_type.map(|of_type| KafkaPrincipal::new(of_type, principal_name)),
        host: message.host,
        operation: any_or("operation", message.operation, Operation::from_code)?,
        permission: any_or("permission", message.permission, Permission::from_code)?,
    };
    Ok(AclFilter { pattern, entry })
}

impl Wire for CreateAcls {
    type Message = cluster::CreateAclsRequest;

    fn into_proto(self) -> Self::Message {
        cluster::CreateAclsRequest { bindings: self.bindings.into_iter().map(binding_to_proto).collect() }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self { bindings: message.bindings.into_iter().map(binding_from_proto).collect::<Result<_, _>>()? })
    }
}

impl Wire for CreatedAcls {
    type Message = cluster::CreateAclsResponse;

    fn into_proto(self) -> Self::Message {
        let results = self.refusals.into_iter().map(|refusal| {
            let (error_code, error_message) = refusal_to_proto(refusal);
            cluster::CreateAclsResult { error_code, error_message }
        });
        cluster::CreateAclsResponse { results: results.collect(), revision: self.revision.0 }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let results = message.results.into_iter();
        let refusals = results.map(|result| refusal_from_proto(result.error_code, result.error_message)).collect();
        Ok(Self { refusals, revision: Revision(message.revision) })
    }
}

impl Wire for DeleteAcls {
    type Message = cluster::DeleteAclsRequest;

    fn into_proto(self) -> Self::Message {
        cluster::DeleteAclsRequest { filters: self.filters.into_iter().map(filter_to_proto).collect() }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self { filters: message.filters.into_iter().map(filter_from_proto).collect::<Result<_, _>>()? })
    }
}

impl Wire for DeletedAcls {
    type Message = cluster::DeleteAclsResponse;

    fn into_proto(self) -> Self::Message {
        let results = self.filters.into_iter().map(|filter| {
            let (removed, refusal) = match filter {
                Ok(removed) => (removed, None),
                Err(refusal) => (Vec::new(), Some(refusal)),
            };
            let (error_code, error_message) = refusal_to_proto(refusal);
            let removed = removed.into_iter().map(binding_to_proto).collect();
            cluster::DeleteAclsResult { removed, error_code, error_message }
        });
        cluster::DeleteAclsResponse { results: results.collect(), revision: self.revision.0 }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let filters = message.results.into_iter().map(|result| {
            Ok(match refusal_from_proto(result.error_code, result.error_message) {
                Some(refusal) => Err(refusal),
                None => Ok(result.removed.into_iter().map(binding_from_proto).collect::<Result<_, _>>()?),
            })
        });
        Ok(Self { filters: filters.collect::<Result<_, InvalidField>>()?, revision: Revision(message.revision) })
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::controller::Refusal;
    use ottla_model::ErrorCode;

    use super::*;

    fn binding(name: &str) -> AclBinding {
        let pattern = ResourcePattern {
            resource_type: ResourceType::Group,
            pattern_type: PatternType::Prefixed,
            name: name.to_owned(),
        };
        let entry = AclEntry {
            principal: KafkaPrincipal::user("CN=a,O=b"),
            host: "*".to_owned(),
            operation: Operation::TwoPhaseCommit,
            permission: Permission::Deny,
        };
        AclBinding { pattern, entry }
    }

    #[test]
    fn rules_and_filters_travel() {
        let create = CreateAcls { bindings: vec![binding("a"), binding("b")] };
        assert_eq!(CreateAcls::from_proto(create.clone().into_proto()), Ok(create));
        let filter = |pattern, principal: Option<&str>| AclFilter {
            pattern: ResourceFilter { resource_type: None, pattern, name: principal.map(str::to_owned) },
            entry: EntryFilter { principal: principal.map(KafkaPrincipal::user), ..EntryFilter::default() },
        };
        let filters = vec![
            filter(PatternFilter::Any, None),
            filter(PatternFilter::Match, Some("a")),
            filter(PatternFilter::Is(PatternType::Literal), Some("")),
        ];
        let delete = DeleteAcls { filters };
        assert_eq!(DeleteAcls::from_proto(delete.clone().into_proto()), Ok(delete));
        let refused = Refusal::new(ErrorCode::PolicyViolation, "many");
        let created = CreatedAcls { refusals: vec![None, Some(refused.clone())], revision: Revision(7) };
        assert_eq!(CreatedAcls::from_proto(created.clone().into_proto()), Ok(created));
        let deleted = DeletedAcls { filters: vec![Ok(vec![binding("a")]), Err(refused)], revision: Revision(8) };
        assert_eq!(DeletedAcls::from_proto(deleted.clone().into_proto()), Ok(deleted));
        let unknown = cluster::AclBinding { operation: 99, ..binding_to_proto(binding("a")) };
        assert_eq!(binding_from_proto(unknown).map_err(|error| error.field), Err("operation"));
    }
}
