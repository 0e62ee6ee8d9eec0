//! DescribeClientQuotas (48), versions 0 and 1: the quotas that a filter matches, from this broker's image.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::Image;
use ottla_metadata::quota_config::{self, QuotaKind};
use ottla_model::ErrorCode;
use ottla_network::response::Reply;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use ottla_protocol::kafka_protocol::messages::describe_client_quotas_response::{EntityData, EntryData, ValueData};
use ottla_protocol::kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};

use crate::broker::Broker;
use crate::quotas::entity::{self, Parts};
use crate::request::budget::TOO_LARGE;
use crate::request::{RequestContext, ResponseBudget, wire};

/// How a component matches.
const EXACT: i8 = 0;
const DEFAULT: i8 = 1;
const SPECIFIED: i8 = 2;

/// What an entry takes in a response beside its names.
const ENTRY_BYTES: usize = 64;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let is_allowed = broker.access(context).cluster(Operation::DescribeConfigs);
    Reply::respond(&header, body, |request: &DescribeClientQuotasRequest| {
        if !is_allowed {
            return refused(ErrorCode::ClusterAuthorizationFailed, "Cluster authorization failed.");
        }
        let found = check(request).and_then(|()| {
            find(&broker.metadata.current(), request, broker.response_budget()).ok_or_else(|| TOO_LARGE.to_owned())
        });
        match found {
            Ok(entries) => DescribeClientQuotasResponse::default().with_error_message(None).with_entries(Some(entries)),
            Err(text) => refused(ErrorCode::InvalidRequest, &text),
        }
    })
}

fn refused(error: ErrorCode, message: &str) -> DescribeClientQuotasResponse {
    DescribeClientQuotasResponse::default()
        .with_error_code(error.code())
        .with_error_message(Some(wire::text(message)))
        .with_entries(None)
}

fn check(request: &DescribeClientQuotasRequest) -> Result<(), String> {
    let mut seen = Vec::new();
    for component in &request.components {
        let of_type = component.entity_type.as_str();
        if ![entity::USER, entity::CLIENT_ID, entity::IP].contains(&of_type) {
            return Err(format!("Custom entity type {of_type} not supported"));
        }
        if seen.contains(&of_type) {
            return Err(format!("Duplicate filter component entity type {of_type}"));
        }
        seen.push(of_type);
        match (component.match_type, &component._match) {
            (EXACT, Some(_)) | (DEFAULT | SPECIFIED, None) => {}
            (EXACT | DEFAULT | SPECIFIED, _) => return Err("Request has an invalid match.".to_owned()),
            (other, _) => return Err(format!("Unexpected match type: {other}")),
        }
    }
    if seen.contains(&entity::IP) && seen.len() > 1 {
        let text = "Invalid entity filter component combination, IP filter component should not be used with user or clientId filter component.";
        return Err(text.to_owned());
    }
    Ok(())
}

/// None where the response has no room for them.
fn find(image: &Image, request: &DescribeClientQuotasRequest, mut budget: ResponseBudget) -> Option<Vec<EntryData>> {
    let mut entries = Vec::new();
    for (entity, config) in image.quota_configs() {
        let Some(parts) = entity::parts(entity).filter(|parts| matches(request, parts)) else { continue };
        let values = QuotaKind::ALL.into_iter().filter_map(|kind| {
            let value = quota_config::parse(kind, config.entries.get(kind.as_str())?).ok()?;
            Some(ValueData::default().with_key(wire::text(kind.as_str())).with_value(value))
        });
        let values: Vec<ValueData> = values.collect();
        if values.is_empty() {
            continue;
        }
        if !budget.take(entity.name.len() + ENTRY_BYTES * values.len()) {
            return None;
        }
        let named = parts.iter().map(|(of_type, name)| {
            EntityData::default()
                .with_entity_type(wire::text(of_type))
                .with_entity_name(name.as_deref().map(wire::text))
        });
        entries.push(EntryData::default().with_entity(named.collect()).with_values(values));
    }
    Some(entries)
}

/// A strict filter names every part that an entity has.
fn matches(request: &DescribeClientQuotasRequest, parts: &Parts) -> bool {
    let is_matched = |component: &ComponentData| {
        let Some(name) = parts.get(component.entity_type.as_str()) else { return false };
        match component.match_type {
            EXACT => name.is_some() && name.as_deref() == component._match.as_deref(),
            DEFAULT => name.is_none(),
            _ => true,
        }
    };
    (!request.strict || request.components.len() == parts.len()) && request.components.iter().all(is_matched)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(named: &[(&str, Option<&str>)]) -> Parts {
        named.iter().map(|(of_type, name)| ((*of_type).to_owned(), name.map(str::to_owned))).collect()
    }

    fn component(of_type: &'static str, match_type: i8, name: Option<&'static str>) -> ComponentData {
        ComponentData::default()
            .with_entity_type(wire::text(of_type))
            .with_match_type(match_type)
            .with_match(name.map(wire::text))
    }

    #[test]
    fn filters_match_as_kafkas_do() {
        let alice = parts(&[("user", Some("alice"))]);
        let of_client = parts(&[("user", Some("alice")), ("client-id", None)]);
        let ask = |components: Vec<ComponentData>, strict, parts| {
            matches(&DescribeClientQuotasRequest::default().with_components(components).with_strict(strict), parts)
        };
        assert!(ask(vec![], false, &alice) && !ask(vec![], true, &alice));
        let user = component("user", EXACT, Some("alice"));
        assert!(ask(vec![user.clone()], false, &of_client) && !ask(vec![user.clone()], true, &of_client));
        assert!(ask(vec![user, component("client-id", DEFAULT, None)], true, &of_client));
        assert!(ask(vec![component("user", SPECIFIED, None)], true, &alice));
        assert!(!ask(vec![component("user", DEFAULT, None)], true, &alice));
        let wrong = |components| check(&DescribeClientQuotasRequest::default().with_components(components)).is_err();
        assert!(wrong(vec![component("group", SPECIFIED, None)]) && wrong(vec![component("user", 9, None)]));
        assert!(wrong(vec![component("user", EXACT, None)]));
        assert!(wrong(vec![component("user", SPECIFIED, None), component("ip", SPECIFIED, None)]));
    }
}
