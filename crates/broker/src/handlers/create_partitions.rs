//! CreatePartitions (37): more partitions for a topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::controller::{CreatePartitions, NewPartitions, Refusal};
use ottla_model::{BrokerId, ErrorCode};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use ottla_protocol::kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use ottla_protocol::kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use ottla_protocol::{Api, RequestHeader, decode_request};

use crate::broker::Broker;
use crate::quotas::throttle::throttled;
use crate::request::RequestContext;
use crate::request::admin::{self, Patience};

/// From here on clients know THROTTLING_QUOTA_EXCEEDED.
const QUOTA_ERROR_FROM: i16 = 3;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<CreatePartitionsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context).validating(request.validate_only);
    let broker = Arc::clone(broker);
    let patience = Patience::of_request(request.timeout_ms);
    let (once, twice) = sort_out(request.topics);
    let (once, denied): (Vec<_>, Vec<_>) =
        once.into_iter().partition(|topic| access.topic(Operation::Alter, topic.name.as_str()));
    let (once, over_quota, wait) = charge(&broker, context, &header, once, request.validate_only);
    let version = header.api_version;
    let command =
        CreatePartitions { topics: once.iter().map(new_partitions).collect(), validate_only: request.validate_only };
    let decision = (!once.is_empty()).then(|| broker.quorum.submit(command, patience.remaining()));
    let answer = Reply::later(async move {
        let duplicate = Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name.");
        let mut results: Vec<_> = twice.iter().map(|topic| result(topic, Some(&duplicate))).collect();
        let refusal = Refusal::new(ErrorCode::TopicAuthorizationFailed, "The topic authorization is failed.");
        results.extend(denied.iter().map(|topic| result(topic, Some(&refusal))));
        let exceeded = Refusal::new(ErrorCode::ThrottlingQuotaExceeded, String::new());
        results.extend(over_quota.iter().map(|topic| result(topic, Some(&exceeded))));
        if let Some(decision) = decision {
            let (outcomes, revision) = admin::outcomes(decision.await, once.len());
            if let Some(revision) = revision.filter(|_| !request.validate_only) {
                patience.await_image(&broker.metadata, revision).await;
            }
            results.extend(once.iter().zip(outcomes).map(|(topic, outcome)| result(topic, outcome.err().as_ref())));
        }
        let response = CreatePartitionsResponse::default().with_results(results);
        Response::encode_or_close::<CreatePartitionsRequest>(&header, &response)
    });
    throttled(answer, Api::CreatePartitions, version, wait)
}

/// Counts the partitions that are added; the topics that the quota refuses come second.
fn charge(
    broker: &Broker,
    context: &RequestContext,
    header: &RequestHeader,
    topics: Vec<CreatePartitionsTopic>,
    validate_only: bool,
) -> (Vec<CreatePartitionsTopic>, Vec<CreatePartitionsTopic>, Duration) {
    let image = broker.metadata.peek();
    let mut wait = Duration::ZERO;
    let (kept, refused) = topics.into_iter().partition(|topic| {
        let there = image.topic(topic.name.as_str()).map_or(0, |topic| topic.partition_count());
        let added = usize::try_from(topic.count).unwrap_or(0).saturating_sub(there);
        if validate_only {
            return true;
        }
        let (longer, refusal) = admin::charge_changes(broker, context, header, added, QUOTA_ERROR_FROM);
        wait = wait.max(longer);
        refusal.is_none()
    });
    (kept, refused, wait)
}

/// Topics that are there once, in order, and one of each of those that are there more often.
fn sort_out(topics: Vec<CreatePartitionsTopic>) -> (Vec<CreatePartitionsTopic>, Vec<CreatePartitionsTopic>) {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for topic in &topics {
        *counts.entry(topic.name.to_string()).or_insert(0) += 1;
    }
    let (once, more): (Vec<_>, Vec<_>) =
        topics.into_iter().partition(|topic| counts.get(topic.name.as_str()) == Some(&1));
    let twice: BTreeMap<String, CreatePartitionsTopic> =
        more.into_iter().map(|topic| (topic.name.to_string(), topic)).collect();
    (once, twice.into_values().collect())
}

fn new_partitions(topic: &CreatePartitionsTopic) -> NewPartitions {
    let brokers = |one: &CreatePartitionsAssignment| one.broker_ids.iter().map(|id| BrokerId(id.0)).collect();
    NewPartitions {
        topic: topic.name.to_string(),
        total: topic.count,
        assignments: topic.assignments.as_ref().map(|assignments| assignments.iter().map(brokers).collect()),
    }
}

fn result(topic: &CreatePartitionsTopic, refusal: Option<&Refusal>) -> CreatePartitionsTopicResult {
    let (code, message) = admin::told(refusal);
    CreatePartitionsTopicResult::default()
        .with_name(topic.name.clone())
        .with_error_code(code)
        .with_error_message(message)
}
