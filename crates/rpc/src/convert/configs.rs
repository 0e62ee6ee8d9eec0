//! Configurations of topics, brokers, clients and users.

use ottla_metadata::controller::{AlterConfig, AlterConfigs, ConfigOp, ConfigOutcomes};
use ottla_metadata::image::{ConfigEntity, ConfigKind};
use ottla_model::Revision;

use super::{InvalidField, Wire, refusal_from_proto, refusal_to_proto};
use crate::cluster;

fn change_from_proto(message: cluster::ConfigChange) -> (String, ConfigOp) {
    let operation = message.operation();
    let op = match (operation, message.value) {
        (cluster::ConfigOperation::Append, Some(value)) => ConfigOp::Append(value),
        (cluster::ConfigOperation::Subtract, Some(value)) => ConfigOp::Subtract(value),
        (_, value) => value.into(),
    };
    (message.name, op)
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

fn entity_from_proto(message: Option<cluster::ConfigEntity>) -> Result<ConfigEntity, InvalidField> {
    let entity = message.ok_or_else(|| InvalidField::new("entity", "a change without entity"))?;
    let kind = ConfigKind::parse(&entity.kind)
        .ok_or_else(|| InvalidField::new("entity.kind", format!("{:?} is no kind of entity", entity.kind)))?;
    Ok(ConfigEntity { kind, name: entity.name })
}

impl Wire for AlterConfigs {
    type Message = cluster::AlterConfigsRequest;

    fn into_proto(self) -> Self::Message {
        let entities = self.entities.into_iter().map(|alter| cluster::AlterConfig {
            entity: Some(entity_to_proto(alter.entity)),
            changes: alter.changes.into_iter().map(change_to_proto).collect(),
            replace_all: alter.replace_all,
        });
        cluster::AlterConfigsRequest { entities: entities.collect(), validate_only: self.validate_only }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let entities = message.entities.into_iter().map(|alter| {
            Ok(AlterConfig {
                entity: entity_from_proto(alter.entity)?,
                changes: alter.changes.into_iter().map(change_from_proto).collect(),
                replace_all: alter.replace_all,
            })
        });
        Ok(Self { entities: entities.collect::<Result<_, _>>()?, validate_only: message.validate_only })
    }
}

impl Wire for ConfigOutcomes {
    type Message = cluster::AlterConfigsResponse;

    fn into_proto(self) -> Self::Message {
        let entities = self.entities.into_iter().map(|(entity, refusal)| {
            let (error_code, error_message) = refusal_to_proto(refusal);
            cluster::AlterConfigsResult { entity: Some(entity_to_proto(entity)), error_code, error_message }
        });
        cluster::AlterConfigsResponse { entities: entities.collect(), revision: self.revision.0 }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let entities = message.entities.into_iter().map(|result| {
            let entity = entity_from_proto(result.entity)?;
            Ok((entity, refusal_from_proto(result.error_code, result.error_message)))
        });
        Ok(Self { entities: entities.collect::<Result<_, _>>()?, revision: Revision(message.revision) })
    }
}
