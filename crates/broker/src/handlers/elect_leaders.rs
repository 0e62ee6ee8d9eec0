//! ElectLeaders (43): preferred replicas lead again, or any live replica leads where there is no leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::controller::{ElectLeaders, ElectionType, PartitionOutcome, PartitionOutcomes, Refusal};
use ottla_model::{ErrorCode, PartitionId};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use ottla_protocol::kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::admin::{self, Patience};
use crate::request::wire;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<ElectLeadersRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let named = named(&request);
    if !broker.access(context).cluster(Operation::Alter) {
        let denied = Refusal::new(ErrorCode::ClusterAuthorizationFailed, String::new());
        return Reply::encode::<ElectLeadersRequest>(&header, &refused(named, header.api_version, &denied));
    }
    let Some(election) = election_type(request.election_type) else {
        let error = Refusal::new(ErrorCode::InvalidRequest, "Unknown election type.");
        let response = refused(named, header.api_version, &error);
        return Reply::encode::<ElectLeadersRequest>(&header, &response);
    };
    let broker = Arc::clone(broker);
    let patience = Patience::of_request(request.timeout_ms);
    let decision = broker.quorum.submit(to_decide(election, named.as_ref()), patience.remaining());
    Reply::later(async move {
        let response = match decision.await {
            Ok(outcomes) => {
                patience.await_image(&broker.metadata, outcomes.revision).await;
                response(outcomes)
            }
            Err(error) => refused(named, header.api_version, &admin::no_answer(&error)),
        };
        Response::encode_or_close::<ElectLeadersRequest>(&header, &response)
    })
}

fn election_type(code: i8) -> Option<ElectionType> {
    match code {
        0 => Some(ElectionType::Preferred),
        1 => Some(ElectionType::Unclean),
        _ => None,
    }
}

/// By topic, each partition once.
type Named = BTreeMap<String, BTreeSet<PartitionId>>;

/// None asks for every partition.
fn named(request: &ElectLeadersRequest) -> Option<Named> {
    let mut named = Named::new();
    for topic in request.topic_partitions.as_ref()? {
        let partitions = topic.partitions.iter().copied().map(PartitionId);
        named.entry(topic.topic.to_string()).or_default().extend(partitions);
    }
    Some(named)
}

fn to_decide(election: ElectionType, named: Option<&Named>) -> ElectLeaders {
    let partitions =
        |(topic, partitions): (&String, &BTreeSet<PartitionId>)| (topic.clone(), partitions.iter().copied().collect());
    ElectLeaders { election, topics: named.map(|named| named.iter().map(partitions).collect()) }
}

fn response(outcomes: PartitionOutcomes) -> ElectLeadersResponse {
    let topic = |(name, outcomes): (String, Vec<PartitionOutcome>)| {
        let results = outcomes.into_iter().map(|outcome| result(outcome.partition.0, outcome.refusal.as_ref()));
        ReplicaElectionResult::default()
            .with_topic(TopicName(wire::text(&name)))
            .with_partition_result(results.collect())
    };
    ElectLeadersResponse::default().with_replica_election_results(outcomes.topics.into_iter().map(topic).collect())
}

/// The same failure for the request as a whole, which version 0 cannot tell, and for every partition.
fn refused(named: Option<Named>, version: i16, refusal: &Refusal) -> ElectLeadersResponse {
    let outcome = |partition| PartitionOutcome { partition, refusal: Some(refusal.clone()) };
    let topics = named.into_iter().flatten();
    let topics = topics.map(|(topic, partitions)| (topic, partitions.into_iter().map(outcome).collect())).collect();
    let response = response(PartitionOutcomes { topics, ..PartitionOutcomes::default() });
    if version >= 1 { response.with_error_code(refusal.error.code()) } else { response }
}

fn result(partition: i32, refusal: Option<&Refusal>) -> PartitionResult {
    let (code, message) = admin::told(refusal);
    PartitionResult::default().with_partition_id(partition).with_error_code(code).with_error_message(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_and_have_kafkas_texts() {
        let outcome = |partition, error: Option<ErrorCode>| PartitionOutcome {
            partition: PartitionId(partition),
            refusal: error.map(|error| Refusal::new(error, String::new())),
        };
        let decided = vec![outcome(1, None), outcome(0, Some(ErrorCode::ElectionNotNeeded))];
        let topics = vec![("t".to_owned(), decided)];
        let response = response(PartitionOutcomes { topics, ..PartitionOutcomes::default() });
        let [topic] = response.replica_election_results.as_slice() else { panic!("{response:?}") };
        let told: Vec<_> = topic
            .partition_result
            .iter()
            .map(|result| (result.partition_id, result.error_code, result.error_message.as_deref()))
            .collect();
        let needless = "Leader election not needed for topic partition.";
        assert_eq!(told, [(1, 0, None), (0, ErrorCode::ElectionNotNeeded.code(), Some(needless))]);
    }

    #[test]
    fn a_repeated_partition_is_asked_for_once() {
        use ottla_protocol::kafka_protocol::messages::elect_leaders_request::TopicPartitions;
        let topic = TopicPartitions::default().with_topic(TopicName(wire::text("t"))).with_partitions(vec![3, 0, 3]);
        let request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic; 2]));
        let named = named(&request);
        let asked = to_decide(ElectionType::Preferred, named.as_ref());
        assert_eq!(asked.topics, Some(vec![("t".to_owned(), vec![PartitionId(0), PartitionId(3)])]));
        let refusal = Refusal::new(ErrorCode::RequestTimedOut, String::new());
        let told = |version| {
            let response = refused(named.clone(), version, &refusal);
            let results: usize = response.replica_election_results.iter().map(|one| one.partition_result.len()).sum();
            (response.error_code, results)
        };
        assert_eq!((told(0), told(2)), ((0, 2), (ErrorCode::RequestTimedOut.code(), 2)));
        assert_eq!(super::named(&ElectLeadersRequest::default().with_topic_partitions(None)), None);
    }

    #[test]
    fn an_unknown_type_is_no_election() {
        assert_eq!((election_type(0), election_type(1)), (Some(ElectionType::Preferred), Some(ElectionType::Unclean)));
        assert_eq!((election_type(2), election_type(-1)), (None, None));
    }
}
