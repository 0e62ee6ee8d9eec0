//! Quotas of users, clients and addresses: the current ones, and changes.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::{AlterClientQuotasRequest, DescribeClientQuotasRequest};
use ottla_model::ErrorCode;

use crate::cluster::Client;
use crate::convert::{error_of, text};
use crate::error::{ClientError, Outcome};

/// A part of an entity: its type (`user`, `client-id`, `ip`) and its name; none is the default.
pub type QuotaPart = (String, Option<String>);

/// Which name of a part a filter matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QuotaMatch {
    Exactly(String),
    Default,
    Any,
}

/// An entity with its quotas.
#[derive(Clone, PartialEq, Debug)]
pub struct ClientQuota {
    /// By type.
    pub entity: BTreeMap<String, Option<String>>,
    pub values: BTreeMap<String, f64>,
}

impl Client {
    /// The quotas of the entities that have these parts and no others.
    pub async fn describe_client_quotas(
        &self,
        filter: &[(String, QuotaMatch)],
    ) -> Result<Vec<ClientQuota>, ClientError> {
        let component = |(of_type, matched): &(String, QuotaMatch)| {
            let (match_type, name) = match matched {
                QuotaMatch::Exactly(name) => (0, Some(text(name))),
                QuotaMatch::Default => (1, None),
                QuotaMatch::Any => (2, None),
            };
            ComponentData::default().with_entity_type(text(of_type)).with_match_type(match_type).with_match(name)
        };
        let request = DescribeClientQuotasRequest::default()
            .with_components(filter.iter().map(component).collect())
            .with_strict(true);
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            match error_of(response.error_code) {
                ErrorCode::None => Ok(response.entries.unwrap_or_default()),
                code => Err(ClientError::Refused {
                    code,
                    message: response.error_message.map(|message| message.to_string()),
                }),
            }
        };
        let entries = self.retry(None, |_| true, attempt).await?;
        let quota = entries.into_iter().map(|entry| ClientQuota {
            entity: entry
                .entity
                .iter()
                .map(|part| (part.entity_type.to_string(), part.entity_name.as_ref().map(|name| name.to_string())))
                .collect(),
            values: entry.values.iter().map(|value| (value.key.to_string(), value.value)).collect(),
        });
        Ok(quota.collect())
    }

    /// Sets quotas of an entity, or removes them where the value is none.
    pub async fn alter_client_quotas(
        &self,
        entity: &[QuotaPart],
        changes: &[(String, Option<f64>)],
    ) -> Result<(), ClientError> {
        let part = |(of_type, name): &QuotaPart| {
            EntityData::default().with_entity_type(text(of_type)).with_entity_name(name.as_deref().map(text))
        };
        let op = |(key, value): &(String, Option<f64>)| {
            OpData::default().with_key(text(key)).with_value(value.unwrap_or_default()).with_remove(value.is_none())
        };
        let entry = EntryData::default()
            .with_entity(entity.iter().map(part).collect())
            .with_ops(changes.iter().map(op).collect());
        let request = AlterClientQuotasRequest::default().with_entries(vec![entry]);
        let attempt = || async {
            let response = self.admin_link().await?.call(&request).await?;
            let mut refused = response.entries.into_iter().filter_map(|entry| match error_of(entry.error_code) {
                ErrorCode::None => None,
                code => {
                    Some(ClientError::Refused { code, message: entry.error_message.map(|message| message.to_string()) })
                }
            });
            refused.next().map_or(Ok(()), Err)
        };
        // A retry must not undo a later change by another client.
        self.retry(None, |error| error.outcome() != Outcome::Unknown, attempt).await
    }
}
