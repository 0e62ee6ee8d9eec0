//! The configuration of topics, brokers, groups, clients, users and addresses, and of subscriptions to clients'
//! metrics.

use std::collections::BTreeMap;

use ottla_metadata::controller::{AlterConfig, AlterConfigs, ConfigOp};
use ottla_metadata::image::{ConfigEntity, ConfigKind};
use ottla_metadata::nodes::config::is_secret;
use ottla_rpc::admin::config_change::Change;
use ottla_rpc::admin::{
    AlterConfigRequest, AlterConfigResponse, ConfigEntry, ConfigResource, DescribeConfigRequest, DescribeConfigResponse,
};
use tonic::{Code, Status};

use super::AdminService;
use super::errors::{invalid, refused, status};
use super::topics::no_topic;
use crate::access::{self, Caller};

fn entity(resource: Option<ConfigResource>) -> Result<ConfigEntity, Status> {
    let resource = resource.unwrap_or_default();
    let kinds = || {
        let kinds = ConfigKind::ALL.into_iter().filter(|kind| *kind != ConfigKind::UserClients);
        let kinds: Vec<_> = kinds.map(ConfigKind::as_str).collect();
        invalid("INVALID_RESOURCE", format!("the resource's kind is none of {}", kinds.join(", ")))
    };
    // A client of a user has two names.
    let kind = ConfigKind::parse(&resource.kind).filter(|kind| *kind != ConfigKind::UserClients).ok_or_else(kinds)?;
    if resource.name.is_empty() {
        return Err(invalid("INVALID_RESOURCE", "the resource has no name; `<default>` stands for all of a kind"));
    }
    Ok(ConfigEntity { kind, name: resource.name })
}

fn op(change: Option<Change>, name: &str) -> Result<ConfigOp, Status> {
    match change {
        Some(Change::Set(value)) => Ok(ConfigOp::Set(value)),
        Some(Change::Delete(true)) => Ok(ConfigOp::Delete),
        Some(Change::Append(value)) => Ok(ConfigOp::Append(value)),
        Some(Change::Subtract(value)) => Ok(ConfigOp::Subtract(value)),
        Some(Change::Delete(false)) | None => Err(invalid("INVALID_CHANGE", format!("{name} has no change"))),
    }
}

impl AdminService {
    pub(super) fn config(&self, request: DescribeConfigRequest) -> Result<DescribeConfigResponse, Status> {
        let entity = entity(request.resource)?;
        let view = self.view()?;
        if entity.kind == ConfigKind::Topics && view.image.topic(&entity.name).is_none() {
            return Err(no_topic(&entity.name));
        }
        let entries = view.image.config(&entity).map(|config| config.entries.clone()).unwrap_or_default();
        let entries = entries.into_iter().map(|(name, value)| {
            let sensitive = is_secret(&name);
            ConfigEntry { name, value: if sensitive { String::new() } else { value }, sensitive }
        });
        Ok(DescribeConfigResponse { entries: entries.collect(), revision: view.revision.0 })
    }

    pub(super) async fn alter(
        &self,
        caller: &Caller,
        request: AlterConfigRequest,
    ) -> Result<AlterConfigResponse, Status> {
        let entity = entity(request.resource)?;
        caller.check(access::role_of_entity(&entity), "AlterConfig of this kind")?;
        if entity.kind == ConfigKind::Brokers {
            // A broker checks them against its own properties first.
            let text = "the configuration of brokers is altered at a broker (IncrementalAlterConfigs, kafka-configs)";
            return Err(status(Code::FailedPrecondition, "ALTERED_AT_BROKERS", text));
        }
        let mut names = BTreeMap::new();
        for change in request.changes {
            let op = op(change.change, &change.name)?;
            if names.insert(change.name, op).is_some() {
                return Err(invalid("INVALID_CHANGE", "an entry is changed twice"));
            }
        }
        let alter = AlterConfig { entity, changes: names.into_iter().collect(), replace_all: false };
        let alter = AlterConfigs { entities: vec![alter], validate_only: request.validate_only };
        let outcomes = self.decide(alter, None).await?;
        match outcomes.entities.first() {
            Some((_, Some(refusal))) => Err(refused(refusal)),
            _ => Ok(AlterConfigResponse { revision: outcomes.revision.0 }),
        }
    }
}
