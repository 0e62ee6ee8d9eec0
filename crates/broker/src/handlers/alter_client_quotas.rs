//! AlterClientQuotas (49), versions 0 and 1: quotas of users, clients and addresses. The quorum keeps them with the
//! configurations.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::ConfigEntity;
use ottla_metadata::controller::{AlterConfig, AlterConfigs, ConfigOp, Refusal};
use ottla_metadata::quota_config::{self, QuotaKind};
use ottla_model::ErrorCode;
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::alter_client_quotas_request::EntryData as Asked;
use ottla_protocol::kafka_protocol::messages::alter_client_quotas_response::{EntityData, EntryData};
use ottla_protocol::kafka_protocol::messages::{AlterClientQuotasRequest, AlterClientQuotasResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::quotas::entity;
use crate::request::RequestContext;
use crate::request::admin::{self, Patience};

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<AlterClientQuotasRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context).validating(request.validate_only);
    let is_allowed = access.cluster(Operation::AlterConfigs);
    let mut seen = BTreeSet::new();
    let checked: Vec<Result<AlterConfig, Refusal>> = request
        .entries
        .iter()
        .map(|entry| match is_allowed {
            true => check(entry, &mut seen),
            false => Err(Refusal::new(ErrorCode::ClusterAuthorizationFailed, String::new())),
        })
        .collect();
    let entities: Vec<AlterConfig> = checked.iter().flatten().cloned().collect();
    let (asked, validate_only) = (entities.len(), request.validate_only);
    let broker = Arc::clone(broker);
    // The request carries no time-out of its own.
    let patience = Patience::of(broker.config.request_timeout);
    let decision =
        (asked > 0).then(|| broker.quorum.submit(AlterConfigs { entities, validate_only }, patience.remaining()));
    Reply::later(async move {
        let mut decided = match decision {
            None => Vec::new(),
            Some(decision) => match decision.await {
                Ok(outcomes) => {
                    if !validate_only {
                        patience.await_image(&broker.metadata, outcomes.revision).await;
                    }
                    outcomes.entities.into_iter().map(|(_, refusal)| refusal).collect()
                }
                Err(error) => vec![Some(admin::no_answer(&error)); asked],
            },
        }
        .into_iter();
        let silent = || Some(Refusal::new(ErrorCode::UnknownServerError, "the quorum did not answer for this entity"));
        let entries = request.entries.iter().zip(checked).map(|(entry, checked)| match checked {
            Ok(_) => result(entry, decided.next().unwrap_or_else(silent).as_ref()),
            Err(refusal) => result(entry, Some(&refusal)),
        });
        let response = AlterClientQuotasResponse::default().with_entries(entries.collect());
        Response::encode_or_close::<AlterClientQuotasRequest>(&header, &response)
    })
}

/// The change of a configuration that an entry asks for.
fn check(entry: &Asked, seen: &mut BTreeSet<ConfigEntity>) -> Result<AlterConfig, Refusal> {
    let invalid = |text: String| Refusal::new(ErrorCode::InvalidRequest, text);
    let named = entry.entity.iter().map(|part| (part.entity_type.as_str(), part.entity_name.as_deref()));
    let entity = entity::of_parts(&named.collect::<Vec<_>>()).map_err(invalid)?;
    if !seen.insert(entity.clone()) {
        return Err(invalid("Duplicate entity.".to_owned()));
    }
    let mut changes: Vec<(String, ConfigOp)> = Vec::new();
    for op in &entry.ops {
        let key = op.key.as_str();
        let kind = QuotaKind::parse(key).filter(|kind| kind.is_for(entity.kind));
        let kind = kind.ok_or_else(|| invalid(format!("Invalid configuration key {key}")))?;
        if changes.iter().any(|(name, _)| name == key) {
            return Err(invalid(format!("Duplicate quota key: {key}")));
        }
        let value = if op.remove {
            ConfigOp::Delete
        } else {
            let text = op.value.to_string();
            quota_config::parse(kind, &text).map_err(|error| invalid(error.to_string()))?;
            ConfigOp::Set(text)
        };
        changes.push((key.to_owned(), value));
    }
    Ok(AlterConfig { entity, changes, replace_all: false })
}

fn result(entry: &Asked, refusal: Option<&Refusal>) -> EntryData {
    let named = entry.entity.iter().map(|part| {
        EntityData::default().with_entity_type(part.entity_type.clone()).with_entity_name(part.entity_name.clone())
    });
    let (code, message) = admin::told(refusal);
    EntryData::default().with_error_code(code).with_error_message(message).with_entity(named.collect())
}

#[cfg(test)]
mod tests {
    use ottla_protocol::kafka_protocol::messages::alter_client_quotas_request::{EntityData as Part, OpData};

    use super::*;
    use crate::request::wire;

    fn entry(of_type: &'static str, key: &'static str, value: f64) -> Asked {
        let part = Part::default().with_entity_type(wire::text(of_type)).with_entity_name(Some(wire::text("10.0.0.1")));
        Asked::default()
            .with_entity(vec![part])
            .with_ops(vec![OpData::default().with_key(wire::text(key)).with_value(value)])
    }

    #[test]
    fn entries_become_changes_of_configurations() {
        let mut seen = BTreeSet::new();
        let alter = check(&entry("user", "producer_byte_rate", 1_048_576.0), &mut seen).expect("valid");
        assert_eq!(alter.changes, [("producer_byte_rate".to_owned(), ConfigOp::Set("1048576".to_owned()))]);
        assert!(check(&entry("user", "request_percentage", 12.5), &mut seen).is_err(), "the same entity twice");
        let refused = |entry| check(&entry, &mut BTreeSet::new()).err().map(|refusal| refusal.error);
        let invalid = Some(ErrorCode::InvalidRequest);
        assert_eq!(refused(entry("user", "producer_byte_rate", 0.0)), invalid);
        assert_eq!(refused(entry("user", "connection_creation_rate", 1.0)), invalid);
        assert_eq!(refused(entry("ip", "connection_creation_rate", 1.0)), None);
        assert_eq!(refused(entry("client-id", "consumer_byte_rate", f64::NAN)), invalid);
        let mut removal = entry("user", "consumer_byte_rate", 0.0);
        removal.ops[0].remove = true;
        assert!(check(&removal, &mut BTreeSet::new()).is_ok_and(|alter| alter.changes[0].1 == ConfigOp::Delete));
    }
}
