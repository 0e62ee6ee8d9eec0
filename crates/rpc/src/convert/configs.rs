//! Configurations of topics, brokers, clients and users.

use ottla_metadata::controller::{AlterConfig, AlterConfigs, ConfigOutcomes};
use ottla_metadata::image::{ConfigEntity, ConfigKind};

use super::{InvalidField, refusal_parts};
use crate::cluster;

pub fn alter_configs_from_proto(wire: cluster::AlterConfigsRequest) -> Result<AlterConfigs, InvalidField> {
    let entities = wire.entities.into_iter().map(|alter| {
        let entity = alter.entity.ok_or_else(|| InvalidField::new("entity", "a change without entity"))?;
        let kind = ConfigKind::parse(&entity.kind)
            .ok_or_else(|| InvalidField::new("entity.kind", format!("{:?} is no kind of entity", entity.kind)))?;
        Ok(AlterConfig {
            entity: ConfigEntity { kind, name: entity.name },
            changes: alter.changes.into_iter().map(|entry| (entry.name, entry.value)).collect(),
            replace_all: alter.replace_all,
        })
    });
    Ok(AlterConfigs { entities: entities.collect::<Result<_, _>>()?, validate_only: wire.validate_only })
}

pub fn config_outcomes_to_proto(outcomes: ConfigOutcomes) -> cluster::AlterConfigsResponse {
    let entities = outcomes.entities.into_iter().map(|(entity, refusal)| {
        let (error_code, error_message) = refusal_parts(refusal.as_ref());
        let entity = cluster::ConfigEntity { kind: entity.kind.as_str().to_owned(), name: entity.name };
        cluster::AlterConfigsResult { entity: Some(entity), error_code, error_message }
    });
    cluster::AlterConfigsResponse { entities: entities.collect(), revision: outcomes.revision.0 }
}
