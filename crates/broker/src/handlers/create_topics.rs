//! CreateTopics (19): any broker takes it; the quorum decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::{CLUSTER, Operation, ResourceType};
use ottla_metadata::ConfigKind;
use ottla_metadata::controller::{CreateTopics, NewTopic, Refusal, TopicOutcome};
use ottla_model::{BrokerId, ErrorCode, PartitionId};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::create_topics_request::CreatableTopic;
use ottla_protocol::kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use ottla_protocol::kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use ottla_protocol::{Api, RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::configs;
use crate::quotas::throttle::throttled;
use crate::request::admin::{self, Patience};
use crate::request::wire;
use crate::request::{RequestContext, ResponseBudget};

/// The first version whose answer shows the topic's configuration (KIP-525).
const CONFIGS_FROM: i16 = 5;
/// From here on clients know THROTTLING_QUOTA_EXCEEDED.
const QUOTA_ERROR_FROM: i16 = 6;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<CreateTopicsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let broker = Arc::clone(broker);
    let patience = Patience::of_request(request.timeout_ms);
    let access = broker.access(context).validating(request.validate_only);
    let mut refused = refused_here(&access, &request.topics);
    let wait = charge(&broker, context, &header, &request, &mut refused);
    let version = header.api_version;
    let asked: Vec<&CreatableTopic> =
        request.topics.iter().filter(|topic| !refused.contains_key(topic.name.as_str())).collect();
    for topic in &asked {
        configs::warn_of_no_effect(
            ConfigKind::Topics,
            topic.name.as_str(),
            topic.configs.iter().map(|config| config.name.as_str()),
        );
    }
    let command = CreateTopics {
        topics: asked.iter().map(|topic| new_topic(topic)).collect(),
        validate_only: request.validate_only,
        default_partitions: broker.config.num_partitions,
        default_replication_factor: i32::from(broker.config.default_replication_factor),
    };
    let decision = broker.quorum.submit(command, patience.remaining());
    let answer = Reply::later(async move {
        let (mut outcomes, revision) =
            admin::outcomes(decision.await, request.topics.len() - count_refused(&request.topics, &refused));
        if let Some(revision) = revision.filter(|_| !request.validate_only) {
            patience.await_image(&broker.metadata, revision).await;
        }
        let mut outcomes = outcomes.drain(..);
        let mut budget = broker.response_budget();
        let mut told = BTreeSet::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            match refused.get(topic.name.as_str()) {
                // A name that is there twice is answered once.
                Some(refusal) => {
                    if told.insert(topic.name.as_str()) {
                        topics.push(failure(topic, refusal));
                    }
                }
                None => topics.push(match outcomes.next() {
                    Some(Ok(outcome)) => success(&broker, &access, header.api_version, topic, &outcome, &mut budget),
                    Some(Err(refusal)) => failure(topic, &refusal),
                    None => failure(topic, &Refusal::new(ErrorCode::UnknownServerError, "")),
                }),
            }
        }
        let response = CreateTopicsResponse::default().with_topics(topics);
        Response::encode_or_close::<CreateTopicsRequest>(&header, &response)
    });
    throttled(answer, Api::CreateTopics, version, wait)
}

/// Counts the partitions that are asked for, topic by topic: those that come when the quota is used up are refused.
fn charge(
    broker: &Broker,
    context: &RequestContext,
    header: &RequestHeader,
    request: &CreateTopicsRequest,
    refused: &mut BTreeMap<String, Refusal>,
) -> Duration {
    let mut wait = Duration::ZERO;
    for topic in request.topics.iter().filter(|_| !request.validate_only) {
        if refused.contains_key(topic.name.as_str()) {
            continue;
        }
        let partitions = match (topic.assignments.len(), usize::try_from(topic.num_partitions)) {
            (0, Ok(partitions)) => partitions,
            (0, Err(_)) => usize::try_from(broker.config.num_partitions).unwrap_or(1),
            (assigned, _) => assigned,
        };
        let (longer, refusal) = admin::charge_changes(broker, context, header, partitions, QUOTA_ERROR_FROM);
        wait = wait.max(longer);
        if let Some(refusal) = refusal {
            refused.insert(topic.name.as_str().to_owned(), refusal);
        }
    }
    wait
}

fn count_refused(topics: &[CreatableTopic], refused: &BTreeMap<String, Refusal>) -> usize {
    topics.iter().filter(|topic| refused.contains_key(topic.name.as_str())).count()
}

/// What needs no quorum to be refused (Kafka's `ControllerApis.createTopics`).
fn refused_here(access: &Access, topics: &[CreatableTopic]) -> BTreeMap<String, Refusal> {
    const KRAFT_LOG: &str = "__cluster_metadata";
    let may_create_all = access.shows(Operation::Create, ResourceType::Cluster, CLUSTER);
    let mut seen = BTreeSet::new();
    let mut refused = BTreeMap::new();
    for topic in topics {
        let name = topic.name.as_str();
        if !seen.insert(name) {
            refused.insert(name.to_owned(), Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name."));
        } else if name == KRAFT_LOG {
            let text = format!("Creation of internal topic {KRAFT_LOG} is prohibited.");
            refused.insert(name.to_owned(), Refusal::new(ErrorCode::InvalidRequest, text));
        } else if may_create_all {
            access.granted(Operation::Create, name);
        } else if !access.topic(Operation::Create, name) {
            let refusal = Refusal::new(ErrorCode::TopicAuthorizationFailed, "Authorization failed.");
            refused.insert(name.to_owned(), refusal);
        }
    }
    refused
}

fn new_topic(topic: &CreatableTopic) -> NewTopic {
    let assignment =
        |one: &ottla_protocol::kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment| {
            (PartitionId(one.partition_index), one.broker_ids.iter().map(|id| BrokerId(id.0)).collect())
        };
    let config = |one: &ottla_protocol::kafka_protocol::messages::create_topics_request::CreatableTopicConfig| {
        (one.name.to_string(), one.value.as_ref().map(|value| value.to_string()))
    };
    NewTopic {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: i32::from(topic.replication_factor),
        grows_to: 0,
        assignments: topic.assignments.iter().map(assignment).collect(),
        configs: topic.configs.iter().map(config).collect(),
    }
}

fn success(
    broker: &Broker,
    access: &Access,
    version: i16,
    topic: &CreatableTopic,
    outcome: &TopicOutcome,
    budget: &mut ResponseBudget,
) -> CreatableTopicResult {
    let result = created(topic, outcome);
    if version < CONFIGS_FROM {
        return result;
    }
    if !access.shows(Operation::DescribeConfigs, ResourceType::Topic, topic.name.as_str()) {
        return result
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_configs(Some(Vec::new()))
            .with_topic_config_error_code(ErrorCode::TopicAuthorizationFailed.code());
    }
    let overrides = topic
        .configs
        .iter()
        .filter_map(|config| Some((config.name.to_string(), config.value.as_ref()?.to_string())))
        .collect();
    let entries = configs::topic_entries(&broker.live_config, &overrides);
    let bytes = entries.iter().map(|entry| entry.name.len() + entry.value.as_ref().map_or(0, String::len) + 8).sum();
    if !budget.take(bytes) {
        return result.with_configs(None).with_topic_config_error_code(ErrorCode::PolicyViolation.code());
    }
    let configs = entries
        .into_iter()
        .map(|entry| {
            CreatableTopicConfigs::default()
                .with_name(wire::text(&entry.name))
                .with_value(entry.value.as_deref().map(wire::text))
                .with_read_only(entry.read_only)
                .with_config_source(entry.source.code())
                .with_is_sensitive(entry.sensitive)
        })
        .collect();
    result.with_configs(Some(configs))
}

fn created(topic: &CreatableTopic, outcome: &TopicOutcome) -> CreatableTopicResult {
    CreatableTopicResult::default()
        // The schema's default is an empty message, which kafka-python shows.
        .with_error_message(None)
        .with_name(topic.name.clone())
        .with_topic_id(wire::uuid(outcome.id))
        .with_num_partitions(outcome.partitions)
        .with_replication_factor(i16::try_from(outcome.replication_factor).unwrap_or(-1))
}

fn failure(topic: &CreatableTopic, refusal: &Refusal) -> CreatableTopicResult {
    let (code, message) = admin::told(Some(refusal));
    CreatableTopicResult::default()
        .with_name(topic.name.clone())
        .with_error_code(code)
        .with_error_message(message)
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_configs(Some(Vec::new()))
}

#[cfg(test)]
mod tests {
    use ottla_model::TopicId;
    use ottla_protocol::kafka_protocol::messages::TopicName;

    use super::*;

    #[test]
    fn a_topic_that_was_created_has_no_message() {
        let topic = CreatableTopic::default().with_name(TopicName(wire::text("t")));
        let outcome = TopicOutcome {
            name: "t".to_owned(),
            id: TopicId([7; 16]),
            refusal: None,
            partitions: 3,
            replication_factor: 2,
        };
        for version in 2..=7 {
            let response = CreateTopicsResponse::default().with_topics(vec![created(&topic, &outcome)]);
            let frame = ottla_protocol::encode_response::<CreateTopicsRequest>(version, 1, &response).expect("encodes");
            let decoded = ottla_protocol::decode_response::<CreateTopicsRequest>(version, frame.slice(4..));
            let topic = decoded.expect("decodes").1.topics.remove(0);
            assert_eq!((topic.error_code, topic.error_message), (0, None), "version {version}");
        }
    }

    #[test]
    fn duplicates_and_krafts_own_log_are_refused_here() {
        let topic = |name| CreatableTopic::default().with_name(TopicName(wire::text(name)));
        let refused =
            refused_here(&Access::unlimited(), &[topic("a"), topic("b"), topic("a"), topic("__cluster_metadata")]);
        assert_eq!(refused.keys().map(String::as_str).collect::<Vec<_>>(), ["__cluster_metadata", "a"]);
    }
}
