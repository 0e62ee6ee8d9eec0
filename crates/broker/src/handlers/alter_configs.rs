//! AlterConfigs (33) and IncrementalAlterConfigs (44): checked here as far as it takes this broker's properties,
//! decided by the quorum, in force when the answer leaves (`ConfigAdminManager`, `ControllerConfigurationValidator`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_config::known;
use ottla_metadata::broker_config::{self, BrokerConfigError};
use ottla_metadata::controller::{AlterConfig, AlterConfigs, ConfigOp, ConfigOutcomes, Refusal};
use ottla_metadata::{ConfigEntity, ConfigKind, Image, group_config};
use ottla_model::ErrorCode;
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse as LegacyResult;
use ottla_protocol::kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    incremental_alter_configs_response,
};
use ottla_protocol::{RequestHeader, decode_request};
use ottla_replica_manager::live_config::LiveConfig;
use ottla_replica_manager::quorum_handle::QuorumError;

use crate::authorization::Access;
use crate::broker::Broker;
use crate::configs::{self, resource_type, warn_of_no_effect};
use crate::request::RequestContext;
use crate::request::admin::{self, Patience};
use crate::request::wire;
use crate::telemetry::loggers::LoggerError;
use crate::telemetry::logging;

/// One resource of either request.
#[derive(Debug)]
struct Resource {
    kind: i8,
    name: String,
    /// Name, operation by its code, value.
    changes: Vec<(String, i8, Option<String>)>,
    replace_all: bool,
}

/// `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub fn handle_incremental(
    broker: &Arc<Broker>,
    context: &RequestContext,
    header: RequestHeader,
    body: BytesMut,
) -> Reply {
    let request = match decode_request::<IncrementalAlterConfigsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let resources = request
        .resources
        .iter()
        .map(|resource| Resource {
            kind: resource.resource_type,
            name: resource.resource_name.to_string(),
            changes: resource
                .configs
                .iter()
                .map(|config| {
                    (config.name.to_string(), config.config_operation, config.value.as_ref().map(|v| v.to_string()))
                })
                .collect(),
            replace_all: false,
        })
        .collect();
    let access = broker.access(context).validating(request.validate_only);
    let outcome = alter(broker, &access, resources, request.validate_only);
    Reply::later(async move {
        let responses = outcome
            .await
            .into_iter()
            .map(|(resource, refusal)| {
                let (code, message) = admin::told(refusal.as_ref());
                incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                    .with_resource_type(resource.kind)
                    .with_resource_name(wire::text(&resource.name))
                    .with_error_code(code)
                    .with_error_message(message)
            })
            .collect();
        let response = IncrementalAlterConfigsResponse::default().with_responses(responses);
        Response::encode_or_close::<IncrementalAlterConfigsRequest>(&header, &response)
    })
}

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<AlterConfigsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let resources = request
        .resources
        .iter()
        .map(|resource| Resource {
            kind: resource.resource_type,
            name: resource.resource_name.to_string(),
            changes: resource
                .configs
                .iter()
                .map(|config| (config.name.to_string(), SET, config.value.as_ref().map(|value| value.to_string())))
                .collect(),
            replace_all: true,
        })
        .collect();
    let access = broker.access(context).validating(request.validate_only);
    let outcome = alter(broker, &access, resources, request.validate_only);
    Reply::later(async move {
        let responses = outcome
            .await
            .into_iter()
            .map(|(resource, refusal)| {
                let (code, message) = admin::told(refusal.as_ref());
                LegacyResult::default()
                    .with_resource_type(resource.kind)
                    .with_resource_name(wire::text(&resource.name))
                    .with_error_code(code)
                    .with_error_message(message)
            })
            .collect();
        let response = AlterConfigsResponse::default().with_responses(responses);
        Response::encode_or_close::<AlterConfigsRequest>(&header, &response)
    })
}

/// What becomes of each resource, in order.
fn alter(
    broker: &Arc<Broker>,
    access: &Access,
    resources: Vec<Resource>,
    validate_only: bool,
) -> impl Future<Output = Vec<(Resource, Option<Refusal>)>> + Send + use<> {
    let broker = Arc::clone(broker);
    // These requests carry no time-out of their own.
    let patience = Patience::of(broker.config.request_timeout);
    let image = broker.metadata.current();
    let repeated = repeated(&resources);
    let checked: Vec<Result<Option<AlterConfig>, Refusal>> = resources
        .iter()
        .map(|resource| {
            if repeated.contains(&(resource.kind, resource.name.as_str())) {
                let text = "Each resource must appear at most once.";
                return Err(Refusal::new(ErrorCode::InvalidRequest, text));
            }
            match configs::denial(access, Operation::AlterConfigs, resource.kind, &resource.name) {
                Some(denied) => Err(denied),
                None => check(&broker, &image, resource, validate_only),
            }
        })
        .collect();
    let entities: Vec<AlterConfig> = checked.iter().filter_map(|checked| checked.as_ref().ok()?.clone()).collect();
    let asked = entities.len();
    let decision =
        (asked > 0).then(|| broker.quorum.submit(AlterConfigs { entities, validate_only }, patience.remaining()));
    async move {
        let mut decided = Vec::new().into_iter();
        if let Some(decision) = decision {
            let (outcomes, revision) = outcomes(decision.await, asked);
            if let Some(revision) = revision.filter(|_| !validate_only) {
                patience.await_image(&broker.metadata, revision).await;
            }
            decided = outcomes.into_iter();
        }
        let silent =
            || Some(Refusal::new(ErrorCode::UnknownServerError, "the quorum did not answer for this resource"));
        let outcome = checked.into_iter().map(|checked| match checked {
            Err(refusal) => Some(refusal),
            Ok(None) => None,
            Ok(Some(_)) => decided.next().unwrap_or_else(silent),
        });
        let outcome: Vec<_> = outcome.collect();
        resources.into_iter().zip(outcome).collect()
    }
}

fn outcomes(
    decided: Result<ConfigOutcomes, QuorumError>,
    asked: usize,
) -> (Vec<Option<Refusal>>, Option<ottla_model::Revision>) {
    match decided {
        Ok(decided) => (decided.entities.into_iter().map(|(_, refusal)| refusal).collect(), Some(decided.revision)),
        Err(error) => (std::iter::repeat_with(|| Some(admin::no_answer(&error))).take(asked).collect(), None),
    }
}

fn repeated(resources: &[Resource]) -> BTreeSet<(i8, &str)> {
    let mut seen = BTreeSet::new();
    resources.iter().map(|resource| (resource.kind, resource.name.as_str())).filter(|key| !seen.insert(*key)).collect()
}

/// What the quorum is asked for one resource; none where there is nothing to ask.
fn check(
    broker: &Broker,
    image: &Image,
    resource: &Resource,
    validate_only: bool,
) -> Result<Option<AlterConfig>, Refusal> {
    let invalid = |text: String| Refusal::new(ErrorCode::InvalidRequest, text);
    let mut names = BTreeSet::new();
    if !resource.changes.iter().all(|(name, ..)| names.insert(name)) {
        return Err(invalid("Error due to duplicate config keys".to_owned()));
    }
    let without_value: Vec<&str> = resource
        .changes
        .iter()
        .filter(|(_, op, value)| *op != DELETE && value.is_none())
        .map(|(name, ..)| name.as_str())
        .collect();
    if !without_value.is_empty() {
        return Err(invalid(format!("Null value not supported for : {}", without_value.join(", "))));
    }
    let is_own = |what: &str| match resource.name.parse::<i32>() {
        Err(_) => Err(invalid(format!("{what} id must be an integer, but it is: {}", resource.name))),
        Ok(id) if id != broker.identity.id().0 => Err(invalid(format!(
            "Unexpected broker id, expected {}, but received {}",
            broker.identity.id(),
            resource.name
        ))),
        Ok(_) => Ok(()),
    };
    let kind = match resource.kind {
        resource_type::TOPIC => ConfigKind::Topics,
        resource_type::GROUP => ConfigKind::Groups,
        resource_type::BROKER if resource.name.is_empty() => ConfigKind::Brokers,
        resource_type::BROKER => is_own("Node").map(|()| ConfigKind::Brokers)?,
        resource_type::BROKER_LOGGER if !resource.replace_all => {
            is_own("Node")?;
            alter_loggers(&resource.changes, validate_only)?;
            return Ok(None);
        }
        resource_type::CLIENT_METRICS => ConfigKind::ClientMetrics,
        other => return Err(invalid(format!("Unknown resource type {other}"))),
    };
    let changes = resource.changes.iter().map(|(name, op, value)| {
        let value = value.clone().unwrap_or_default();
        let op = match *op {
            SET => ConfigOp::Set(value),
            DELETE => ConfigOp::Delete,
            APPEND => ConfigOp::Append(value),
            SUBTRACT => ConfigOp::Subtract(value),
            other => return Err(invalid(format!("Unknown operations type {other}"))),
        };
        Ok((name.clone(), op))
    });
    let changes: Vec<(String, ConfigOp)> = changes.collect::<Result<_, _>>()?;
    let entity = ConfigEntity { kind, name: resource.name.clone() };
    let known_as = match (kind, entity.name.is_empty()) {
        (ConfigKind::Brokers, true) => ConfigEntity::default_broker(),
        _ => entity.clone(),
    };
    let mut entries = match image.config(&known_as) {
        Some(config) if !resource.replace_all => config.entries.clone(),
        _ => BTreeMap::new(),
    };
    for (name, op) in &changes {
        match op {
            ConfigOp::Set(value) => entries.insert(name.clone(), value.clone()),
            ConfigOp::Delete => entries.remove(name),
            // Lists have no rules that depend on this broker.
            ConfigOp::Append(_) | ConfigOp::Subtract(_) => continue,
        };
    }
    let live = &broker.live_config;
    match kind {
        ConfigKind::Brokers => check_broker(live, &entries, &changes, !entity.name.is_empty())?,
        ConfigKind::Groups => {
            let current = live.current();
            group_config::validate(&entries, |name| current.properties.text(name).map(str::to_owned))
                .map_err(|error| Refusal::new(ErrorCode::InvalidConfig, error.to_string()))?;
        }
        // The quorum checks these.
        ConfigKind::Topics
        | ConfigKind::ClientMetrics
        | ConfigKind::Clients
        | ConfigKind::Users
        | ConfigKind::UserClients
        | ConfigKind::Ips => {}
    }
    let set = changes.iter().filter(|(_, op)| matches!(op, ConfigOp::Set(_) | ConfigOp::Append(_)));
    warn_of_no_effect(kind, &resource.name, set.map(|(name, _)| name.as_str()));
    Ok(Some(AlterConfig { entity, changes, replace_all: resource.replace_all }))
}

/// Levels are this process' own, until it ends: the quorum is not asked.
fn alter_loggers(changes: &[(String, i8, Option<String>)], validate_only: bool) -> Result<(), Refusal> {
    let not_for_loggers = |what: String| {
        Refusal::new(ErrorCode::InvalidRequest, format!("{what} is not allowed for the BROKER_LOGGER resource"))
    };
    let change = |(name, op, value): &(String, i8, Option<String>)| match *op {
        SET => Ok((name.clone(), Some(value.clone().unwrap_or_default()))),
        DELETE => Ok((name.clone(), None)),
        APPEND => Err(not_for_loggers("APPEND operation".to_owned())),
        SUBTRACT => Err(not_for_loggers("SUBTRACT operation".to_owned())),
        other => Err(not_for_loggers(format!("Unknown operation type {other}"))),
    };
    let changes: Vec<_> = changes.iter().map(change).collect::<Result<_, _>>()?;
    let altered = match (logging::loggers(), changes.first()) {
        (Some(loggers), _) => loggers.alter(&changes, validate_only),
        (None, Some((name, _))) => Err(LoggerError::Unknown(name.clone())),
        (None, None) => Ok(()),
    };
    altered.map_err(|error| {
        let code = match error {
            LoggerError::Root => ErrorCode::InvalidRequest,
            LoggerError::Unknown(_) | LoggerError::Level { .. } => ErrorCode::InvalidConfig,
            LoggerError::Fixed(_) => ErrorCode::UnknownServerError,
        };
        Refusal::new(code, error.to_string())
    })
}

/// Kafka says INVALID_REQUEST to all of these; a value that is out of range is INVALID_CONFIG here, as it is for
/// topics.
fn check_broker(
    live: &LiveConfig,
    entries: &BTreeMap<String, String>,
    changes: &[(String, ConfigOp)],
    per_broker: bool,
) -> Result<(), Refusal> {
    let out_of_range = |text: String| Refusal::new(ErrorCode::InvalidConfig, text);
    let changed: BTreeMap<&str, &str> = changes
        .iter()
        .filter_map(|(name, _)| entries.get_key_value(name))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    broker_config::validate(&changed, per_broker, |name| known::broker_config(name).is_some()).map_err(|error| {
        match error {
            BrokerConfigError::Value(_) => out_of_range(error.to_string()),
            _ => Refusal::new(ErrorCode::InvalidRequest, error.to_string()),
        }
    })?;
    for (name, op) in changes {
        let what = match op {
            ConfigOp::Append(_) => "append",
            ConfigOp::Subtract(_) => "subtract",
            ConfigOp::Set(_) | ConfigOp::Delete => continue,
        };
        let config = broker_config::find(broker_config::without_listener(name).unwrap_or(name));
        if !config.is_some_and(|config| config.kind.is_list()) {
            return Err(out_of_range(format!("Config value {what} is not allowed for config key: {name}")));
        }
    }
    let candidate = live.candidate(entries, per_broker).map_err(|error| out_of_range(error.to_string()))?;
    check_threads(live, &candidate).map_err(out_of_range)
}

/// Kafka lets numbers of threads at most double or halve at once (`DynamicThreadPool`).
const THREADS: &[&str] =
    &["num.io.threads", "num.replica.fetchers", "num.recovery.threads.per.data.dir", "background.threads"];

fn check_threads(live: &LiveConfig, candidate: &ottla_config::BrokerConfig) -> Result<(), String> {
    let current = live.current();
    for name in THREADS {
        let number = |config: &ottla_config::BrokerConfig| config.properties.text(name)?.parse::<i64>().ok();
        let (Some(old), Some(new)) = (number(&current), number(candidate)) else { continue };
        let failed = format!("Dynamic thread count update validation failed for {name}={new}");
        if new < old / 2 {
            return Err(format!("{failed}, value should be at least half the current value {old}"));
        }
        if new > old * 2 {
            return Err(format!("{failed}, value should not be greater than double the current value {old}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ottla_config::{BrokerConfig, HostPort};

    use super::*;

    fn live() -> LiveConfig {
        let config = BrokerConfig::on_loopback(0, "unused", &[HostPort::new("127.0.0.1", 2181)]).expect("valid");
        LiveConfig::new(Arc::new(config))
    }

    fn refusal(name: &str, op: ConfigOp, per_broker: bool) -> Option<(ErrorCode, String)> {
        let entries = match &op {
            ConfigOp::Set(value) => BTreeMap::from([(name.to_owned(), value.clone())]),
            _ => BTreeMap::new(),
        };
        let changes = [(name.to_owned(), op)];
        check_broker(&live(), &entries, &changes, per_broker).err().map(|refusal| (refusal.error, refusal.message))
    }

    #[test]
    fn a_brokers_configurations_are_those_that_kafka_lets_change() {
        let set = |value: &str| ConfigOp::Set(value.to_owned());
        assert_eq!(refusal("message.max.bytes", set("2000000"), false), None);
        assert_eq!(refusal("log.cleaner.threads", set("2"), true), None);
        assert_eq!(
            refusal("log.dirs", set("/x"), true),
            Some((ErrorCode::InvalidRequest, "Cannot update these configs dynamically: [log.dirs]".to_owned()))
        );
        assert_eq!(
            refusal("message.max.bytes", set("-1"), true),
            Some((
                ErrorCode::InvalidConfig,
                "Invalid value -1 for configuration message.max.bytes: Value must be at least 0".to_owned()
            ))
        );
        let threads = "Dynamic thread count update validation failed for num.io.threads";
        assert_eq!(
            refusal("num.io.threads", set("17"), true),
            Some((
                ErrorCode::InvalidConfig,
                format!("{threads}=17, value should not be greater than double the current value 8")
            ))
        );
        assert_eq!(
            refusal("num.io.threads", set("3"), true),
            Some((ErrorCode::InvalidConfig, format!("{threads}=3, value should be at least half the current value 8")))
        );
        assert_eq!(refusal("num.io.threads", set("16"), true), None);
        assert_eq!(
            refusal("message.max.bytes", ConfigOp::Append("1".to_owned()), false),
            Some((
                ErrorCode::InvalidConfig,
                "Config value append is not allowed for config key: message.max.bytes".to_owned()
            ))
        );
        assert_eq!(refusal("log.cleanup.policy", ConfigOp::Append("compact".to_owned()), false), None);
        assert_eq!(refusal("log.dirs", ConfigOp::Delete, true), None);
        for guard in known::GUARDS {
            assert!(broker_config::GUARDS.iter().any(|(name, _)| name == guard), "{guard}");
            let refused = refusal(guard, set("org.example.Own"), true).map(|(error, _)| error);
            assert_eq!(refused, Some(ErrorCode::InvalidRequest), "{guard}");
        }
    }

    #[test]
    fn a_resource_may_be_there_once() {
        let resource = |kind, name: &str| Resource { kind, name: name.to_owned(), changes: vec![], replace_all: false };
        let resources = [resource(2, "a"), resource(4, "a"), resource(2, "a"), resource(2, "b")];
        assert_eq!(repeated(&resources), BTreeSet::from([(2, "a")]));
    }
}
