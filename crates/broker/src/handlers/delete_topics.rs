//! DeleteTopics (20): by name, or from version 6 by id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::{CLUSTER, Operation, ResourceType};
use ottla_metadata::Image;
use ottla_metadata::controller::{DeleteTopics, Refusal, TopicRef};
use ottla_model::{ErrorCode, TopicId};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use ottla_protocol::kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use ottla_protocol::{Api, RequestHeader, decode_request};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::quotas::throttle::throttled;
use crate::request::RequestContext;
use crate::request::admin::{self, Patience};
use crate::request::wire;

/// The first version that can say that deletion is disabled.
const DELETION_DISABLED_FROM: i16 = 3;
/// From here on clients know THROTTLING_QUOTA_EXCEEDED.
const QUOTA_ERROR_FROM: i16 = 5;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<DeleteTopicsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let asked = asked(&request);
    if !broker.config.delete_topic_enable {
        let error = if header.api_version < DELETION_DISABLED_FROM {
            ErrorCode::InvalidRequest
        } else {
            ErrorCode::TopicDeletionDisabled
        };
        let refusal = Refusal::new(error, "Topic deletion is disabled.");
        let responses = asked.iter().map(|(name, id)| result(name.as_deref(), *id, Some(&refusal))).collect();
        return Reply::encode::<DeleteTopicsRequest>(
            &header,
            &DeleteTopicsResponse::default().with_responses(responses),
        );
    }
    let broker = Arc::clone(broker);
    let patience = Patience::of_request(request.timeout_ms);
    let (mut responses, topics) = sort_out(asked);
    let topics = allowed(&broker.access(context), &broker.metadata.peek(), topics, &mut responses);
    let topics = without_both(&broker.metadata.peek(), topics, &mut responses);
    let (topics, wait) = charge(&broker, context, &header, topics, &mut responses);
    let version = header.api_version;
    let by_id = resolved(&broker.metadata.peek(), &topics);
    let decision =
        (!topics.is_empty()).then(|| broker.quorum.submit(DeleteTopics { topics: by_id }, patience.remaining()));
    let answer = Reply::later(async move {
        if let Some(decision) = decision {
            let image = broker.metadata.current();
            let (outcomes, revision) = admin::outcomes(decision.await, topics.len());
            if let Some(revision) = revision {
                patience.await_image(&broker.metadata, revision).await;
            }
            for (topic, outcome) in topics.iter().zip(outcomes) {
                // The name and the id are both told where they are known.
                let outcome = outcome.map_err(|refusal| of_name(refusal, topic));
                let (name, id) = match (&outcome, topic) {
                    (Ok(deleted), _) => (Some(deleted.name.clone()), deleted.id),
                    (Err(_), TopicRef::Name(name)) => (Some(name.clone()), TopicId::ZERO),
                    (Err(_), TopicRef::Id(id)) => {
                        (image.topic_by_id(*id).map(|topic| topic.name.as_str().to_owned()), *id)
                    }
                };
                responses.push(result(name.as_deref(), id, outcome.err().as_ref()));
            }
        }
        let response = DeleteTopicsResponse::default().with_responses(responses);
        Response::encode_or_close::<DeleteTopicsRequest>(&header, &response)
    });
    throttled(answer, Api::DeleteTopics, version, wait)
}

/// Without the topics that are named both by name and by id. As in Kafka one answer tells of both, and only to those
/// who may delete the topic: it shows which id the name has.
fn without_both(image: &Image, topics: Vec<TopicRef>, responses: &mut Vec<DeletableTopicResult>) -> Vec<TopicRef> {
    let text = "The provided topic name maps to an ID that was already supplied.";
    let refusal = Refusal::new(ErrorCode::InvalidRequest, text);
    let id_of = |topic: &TopicRef| match topic {
        TopicRef::Name(name) => image.topic(name).map(|found| TopicRef::Id(found.id)),
        TopicRef::Id(_) => None,
    };
    let both: BTreeSet<TopicRef> = {
        // A set: a request may name a hundred thousand.
        let asked: BTreeSet<&TopicRef> = topics.iter().collect();
        topics.iter().filter_map(id_of).filter(|id| asked.contains(id)).collect()
    };
    for topic in &topics {
        if let (TopicRef::Name(name), Some(TopicRef::Id(id))) = (topic, id_of(topic).filter(|id| both.contains(id))) {
            responses.push(result(Some(name), id, Some(&refusal)));
        }
    }
    let is_both = |topic: &TopicRef| both.contains(topic) || id_of(topic).is_some_and(|id| both.contains(&id));
    topics.into_iter().filter(|topic| !is_both(topic)).collect()
}

/// The topics by their ids, where this broker knows them. A request that names a topic is tried again when the quorum
/// changes its leader: a later try must not delete what somebody has created under the name meanwhile.
fn resolved(image: &Image, topics: &[TopicRef]) -> Vec<TopicRef> {
    let asked: BTreeSet<&TopicRef> = topics.iter().collect();
    let resolve = |topic: &TopicRef| match topic {
        // A topic that is named by its id too is the quorum's to refuse.
        TopicRef::Name(name) => image.topic(name).map(|found| TopicRef::Id(found.id)).filter(|id| !asked.contains(id)),
        TopicRef::Id(_) => None,
    };
    topics.iter().map(|topic| resolve(topic).unwrap_or_else(|| topic.clone())).collect()
}

/// Who asked for a name knows nothing of the id that was looked up for it.
fn of_name(refusal: Refusal, topic: &TopicRef) -> Refusal {
    match topic {
        TopicRef::Name(_) if refusal.error == ErrorCode::UnknownTopicId => Refusal {
            error: ErrorCode::UnknownTopicOrPartition,
            message: "This server does not host this topic-partition.".to_owned(),
        },
        _ => refusal,
    }
}

/// Counts the partitions that are deleted, topic by topic: those that come when the quota is used up are refused.
fn charge(
    broker: &Broker,
    context: &RequestContext,
    header: &RequestHeader,
    topics: Vec<TopicRef>,
    responses: &mut Vec<DeletableTopicResult>,
) -> (Vec<TopicRef>, Duration) {
    let image = broker.metadata.peek();
    let (mut wait, mut kept) = (Duration::ZERO, Vec::with_capacity(topics.len()));
    for topic in topics {
        let found = match &topic {
            TopicRef::Name(name) => image.topic(name),
            TopicRef::Id(id) => image.topic_by_id(*id),
        };
        let partitions = found.map_or(0, |topic| topic.partition_count());
        let (longer, refusal) = admin::charge_changes(broker, context, header, partitions, QUOTA_ERROR_FROM);
        wait = wait.max(longer);
        match (refusal, &topic) {
            (None, _) => kept.push(topic),
            (Some(refusal), TopicRef::Name(name)) => responses.push(result(Some(name), TopicId::ZERO, Some(&refusal))),
            (Some(refusal), TopicRef::Id(id)) => responses.push(result(None, *id, Some(&refusal))),
        }
    }
    (kept, wait)
}

/// What was asked for, whatever the version.
fn asked(request: &DeleteTopicsRequest) -> Vec<(Option<String>, TopicId)> {
    let by_name = request.topic_names.iter().map(|name| (Some(name.to_string()), TopicId::ZERO));
    let either = request
        .topics
        .iter()
        .map(|topic| (topic.name.as_ref().map(|name| name.to_string()), wire::topic_id(topic.topic_id)));
    by_name.chain(either).collect()
}

/// The answers that need no quorum, and what is to be deleted (Kafka's `ControllerApis.deleteTopics`).
fn sort_out(asked: Vec<(Option<String>, TopicId)>) -> (Vec<DeletableTopicResult>, Vec<TopicRef>) {
    let invalid = |text: &str| Refusal::new(ErrorCode::InvalidRequest, text);
    let mut responses = Vec::new();
    let mut counts: BTreeMap<TopicRef, u32> = BTreeMap::new();
    let mut order = Vec::new();
    for (name, id) in asked {
        let topic = match (name, id.is_zero()) {
            (None, true) => {
                let refusal = invalid("Neither topic name nor id were specified.");
                responses.push(result(None, id, Some(&refusal)));
                continue;
            }
            (Some(name), false) => {
                let refusal = invalid("You may not specify both topic name and topic id.");
                responses.push(result(Some(&name), id, Some(&refusal)));
                continue;
            }
            (Some(name), true) => TopicRef::Name(name),
            (None, false) => TopicRef::Id(id),
        };
        let count = counts.entry(topic.clone()).or_insert(0);
        *count += 1;
        if *count == 1 {
            order.push(topic);
        }
    }
    let twice: BTreeSet<TopicRef> =
        counts.into_iter().filter(|(_, count)| *count > 1).map(|(topic, _)| topic).collect();
    for topic in &twice {
        responses.push(match topic {
            TopicRef::Name(name) => result(Some(name), TopicId::ZERO, Some(&invalid("Duplicate topic name."))),
            TopicRef::Id(id) => result(None, *id, Some(&invalid("Duplicate topic id."))),
        });
    }
    order.retain(|topic| !twice.contains(topic));
    (responses, order)
}

/// The topics that may be deleted; the others are answered. A topic that may not even be described is not named, and a
/// name that may be described is known to be free or not.
fn allowed(
    access: &Access,
    image: &Image,
    topics: Vec<TopicRef>,
    responses: &mut Vec<DeletableTopicResult>,
) -> Vec<TopicRef> {
    let may_delete_all = access.shows(Operation::Delete, ResourceType::Cluster, CLUSTER);
    let refusal = |error| Some(Refusal::new(error, String::new()));
    let mut is_allowed = |topic: &TopicRef| {
        let (name, id) = match topic {
            TopicRef::Name(name) => (Some(name.as_str()), TopicId::ZERO),
            TopicRef::Id(id) => (image.topic_by_id(*id).map(|topic| topic.name.as_str()), *id),
        };
        if may_delete_all {
            if let Some(name) = name {
                access.granted(Operation::Delete, name);
            }
            return true;
        }
        // The quorum may know it already, and checks no rules.
        let Some(name) = name else {
            responses.push(result(None, id, refusal(ErrorCode::UnknownTopicId).as_ref()));
            return false;
        };
        // What was named is told to the audit log.
        let is_described = match id.is_zero() {
            true => access.topic(Operation::Describe, name),
            false => access.shows(Operation::Describe, ResourceType::Topic, name),
        };
        // By its id a topic is deleted also by whom it is not described to, as in Kafka.
        if (is_described || !id.is_zero()) && access.topic(Operation::Delete, name) {
            return true;
        }
        let error = match is_described && image.topic(name).is_none() {
            true => ErrorCode::UnknownTopicOrPartition,
            false => ErrorCode::TopicAuthorizationFailed,
        };
        let is_named = id.is_zero() || is_described;
        responses.push(result(Some(name).filter(|_| is_named), id, refusal(error).as_ref()));
        false
    };
    topics.into_iter().filter(&mut is_allowed).collect()
}

fn result(name: Option<&str>, id: TopicId, refusal: Option<&Refusal>) -> DeletableTopicResult {
    let (code, message) = admin::told(refusal);
    DeletableTopicResult::default()
        .with_name(name.map(|name| TopicName(wire::text(name))))
        .with_topic_id(wire::uuid(id))
        .with_error_code(code)
        .with_error_message(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B12: a try that the quorum had not decided was repeated by name.
    #[test]
    fn a_name_is_resolved_before_the_first_try() {
        let image = crate::request::test_image::image();
        let (name, found) = image.topics().next().map(|topic| (topic.name.to_string(), topic.id)).unwrap();
        let asked = [TopicRef::Name(name), TopicRef::Name("not there yet".into()), TopicRef::Id(TopicId([9; 16]))];
        let sent = [TopicRef::Id(found), asked[1].clone(), asked[2].clone()];
        assert_eq!(resolved(&image, &asked), sent);
        let twice = [asked[0].clone(), TopicRef::Id(found)];
        assert_eq!(resolved(&image, &twice), twice);
        let gone = || Refusal::new(ErrorCode::UnknownTopicId, "gone");
        assert_eq!(of_name(gone(), &asked[0]).error, ErrorCode::UnknownTopicOrPartition);
        assert_eq!(of_name(gone(), &asked[2]).error, ErrorCode::UnknownTopicId);
    }

    #[test]
    fn names_and_ids_are_sorted_out() {
        let id = TopicId([1; 16]);
        let name = |name: &str| Some(name.to_owned());
        let (responses, topics) = sort_out(vec![
            (name("a"), TopicId::ZERO),
            (name("b"), TopicId::ZERO),
            (name("a"), TopicId::ZERO),
            (None, id),
            (None, TopicId::ZERO),
            (name("c"), id),
        ]);
        assert_eq!(topics, [TopicRef::Name("b".into()), TopicRef::Id(id)]);
        assert_eq!(responses.len(), 3);
        assert!(responses.iter().all(|response| response.error_code == ErrorCode::InvalidRequest.code()));
    }

    #[test]
    fn a_topic_named_both_ways_is_refused_once_and_stays() {
        let image = crate::request::test_image::image();
        let (name, found) = image.topics().next().map(|topic| (topic.name.to_string(), topic.id)).unwrap();
        let other = TopicRef::Name("other".into());
        let asked = vec![TopicRef::Id(found), other.clone(), TopicRef::Name(name.clone())];
        let mut responses = Vec::new();
        assert_eq!(without_both(&image, asked, &mut responses), [other]);
        let told: Vec<_> =
            responses.iter().map(|one| (one.name.as_ref().map(|name| name.as_str()), one.error_code)).collect();
        assert_eq!(told, [(Some(name.as_str()), ErrorCode::InvalidRequest.code())]);
    }
}
