//! Configurations of topics, brokers, clients and users.

use ottla_metadata::controller::{AlterConfig, AlterConfigs, ConfigOp, ConfigOutcomes, Refusal};
use ottla_metadata::image::{ConfigEntity, ConfigKind};
use ottla_model::{ErrorCode, Revision};

use super::{InvalidField, refusal_parts};
use crate::cluster;

pub fn alter_configs_from_proto(wire: cluster::AlterConfigsRequest) -> Result<AlterConfigs, InvalidField> {
    let entities = wire.entities.into_iter().map(|alter| {
        Ok(AlterConfig {
            entity: entity_from_proto(alter.entity)?,
            changes: alter.changes.into_iter().map(change_from_proto).collect(),
            replace_all: alter.replace_all,
        })
    });
    Ok(AlterConfigs { entities: entities.collect::<Result<_, _>>()?, validate_only: wire.validate_only })
}

fn change_from_proto(wire: cluster::ConfigChange) -> (String, ConfigOp) {
    let operation = wire.operation();
    let op = match (operation, wire.value) {
        (cluster::ConfigOperation::Append, Some(value)) => ConfigOp::Append(value),
        (cluster::ConfigOperation::Subtract, Some(value)) => ConfigOp::Subtract(value),
        (_, value) => value.into(),
    };
    (wire.name, op)
}

fn change_to_proto((name, op): (String, ConfigOp)) -> cluster::ConfigChange {
    let (operation, value) = match op {
        ConfigOp::Set(value) => (cluster::ConfigOperation::Set, Some(value)),
        ConfigOp::Delete => (cluster::ConfigOperation::Set, None),
        ConfigOp::Append(value) => (cluster::ConfigOperation::Append, Some(value)),
        ConfigOp::Subtract(value) => (cluster::ConfigOperation::Subtract, Some(value)),
    };
    cluster::ConfigChange { name, value, operation: operation.into() }
}

fn entity_to_proto(entity: ConfigEntity) -> cluster::ConfigEntity {
    cluster::ConfigEntity { kind: entity.kind.as_str().to_owned(), name: entity.name }
}

pub fn alter_configs_to_proto(command: AlterConfigs) -> cluster::AlterConfigsRequest {
    let entities = command.entities.into_iter().map(|alter| cluster::AlterConfig {
        entity: Some(entity_to_proto(alter.entity)),
        changes: alter.changes.into_iter().map(change_to_proto).collect(),
        replace_all: alter.replace_all,
    });
    cluster::AlterConfigsRequest { entities: entities.collect(), validate_only: command.validate_only }
}

pub fn config_outcomes_from_proto(wire: cluster::AlterConfigsResponse) -> Result<ConfigOutcomes, InvalidField> {
    let entities = wire.entities.into_iter().map(|result| {
        let entity = entity_from_proto(result.entity)?;
        let error = i16::try_from(result.error_code).ok().and_then(ErrorCode::from_code);
        let error = error.unwrap_or(ErrorCode::UnknownServerError);
        Ok((entity, (!error.is_ok()).then(|| Refusal::new(error, result.error_message))))
    });
    Ok(ConfigOutcomes { entities: entities.collect::<Result<_, _>>()?, revision: Revision(wire.revision) })
}

fn entity_from_proto(wire: Option<cluster::ConfigEntity>) -> Result<ConfigEntity, InvalidField> {
    let entity = wire.ok_or_else(|| InvalidField::new("entity", "a change without entity"))?;
    let kind = ConfigKind::parse(&entity.kind)
        .ok_or_else(|| InvalidField::new("entity.kind", format!("{:?} is no kind of entity", entity.kind)))?;
    Ok(ConfigEntity { kind, name: entity.name })
}

pub fn config_outcomes_to_proto(outcomes: ConfigOutcomes) -> cluster::AlterConfigsResponse {
    let entities = outcomes.entities.into_iter().map(|(entity, refusal)| {
        let (error_code, error_message) = refusal_parts(refusal.as_ref());
        cluster::AlterConfigsResult { entity: Some(entity_to_proto(entity)), error_code, error_message }
    });
    cluster::AlterConfigsResponse { entities: entities.collect(), revision: outcomes.revision.0 }
}
