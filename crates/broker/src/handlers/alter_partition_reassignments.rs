//! AlterPartitionReassignments (45): partitions get other replicas, or keep those that they had.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::controller::{AlterReassignments, PartitionOutcome, PartitionOutcomes, Refusal};
use ottla_model::{BrokerId, ErrorCode, PartitionId};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::alter_partition_reassignments_request::ReassignableTopic;
use ottla_protocol::kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use ottla_protocol::kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, TopicName,
};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::admin::{self, Patience};
use crate::request::wire;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<AlterPartitionReassignmentsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    if !broker.access(context).cluster(Operation::Alter) {
        let denied = refused(&Refusal::new(ErrorCode::ClusterAuthorizationFailed, String::new()));
        return Reply::encode::<AlterPartitionReassignmentsRequest>(&header, &denied);
    }
    let alter = to_decide(&request);
    let allows = alter.allow_replication_factor_change;
    let broker = Arc::clone(broker);
    let patience = Patience::of_request(request.timeout_ms);
    let decision = broker.quorum.submit(alter, patience.remaining());
    Reply::later(async move {
        let response = match decision.await {
            Ok(outcomes) => {
                patience.await_image(&broker.metadata, outcomes.revision).await;
                response(outcomes)
            }
            Err(error) => refused(&admin::no_answer(&error)),
        };
        let response = response.with_allow_replication_factor_change(allows);
        Response::encode_or_close::<AlterPartitionReassignmentsRequest>(&header, &response)
    })
}

fn to_decide(request: &AlterPartitionReassignmentsRequest) -> AlterReassignments {
    let topic = |topic: &ReassignableTopic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let target = partition.replicas.as_ref();
            (PartitionId(partition.partition_index), target.map(|ids| ids.iter().map(|id| BrokerId(id.0)).collect()))
        });
        (topic.name.to_string(), partitions.collect())
    };
    AlterReassignments {
        topics: request.topics.iter().map(topic).collect(),
        allow_replication_factor_change: request.allow_replication_factor_change,
    }
}

fn response(outcomes: PartitionOutcomes) -> AlterPartitionReassignmentsResponse {
    let partition = |outcome: PartitionOutcome| {
        let partition = ReassignablePartitionResponse::default().with_partition_index(outcome.partition.0);
        let (code, message) = admin::told(outcome.refusal.as_ref());
        partition.with_error_code(code).with_error_message(message)
    };
    let topic = |(name, outcomes): (String, Vec<PartitionOutcome>)| {
        ReassignableTopicResponse::default()
            .with_name(TopicName(wire::text(&name)))
            .with_partitions(outcomes.into_iter().map(partition).collect())
    };
    AlterPartitionReassignmentsResponse::default()
        .with_error_message(None)
        .with_responses(outcomes.topics.into_iter().map(topic).collect())
}

/// The failure of the request as a whole.
fn refused(refusal: &Refusal) -> AlterPartitionReassignmentsResponse {
    let (code, message) = admin::told(Some(refusal));
    AlterPartitionReassignmentsResponse::default().with_error_code(code).with_error_message(message)
}

#[cfg(test)]
mod tests {
    use ottla_model::ErrorCode;
    use ottla_protocol::kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;

    use super::*;

    #[test]
    fn targets_and_cancellations_are_told_apart() {
        let target = |replicas: Option<&[i32]>| {
            let ids = replicas.map(|ids| ids.iter().map(|id| wire::broker_id(BrokerId(*id))).collect());
            ReassignablePartition::default().with_replicas(ids)
        };
        let partitions = vec![target(Some(&[2, 1])), target(None), target(Some(&[]))];
        let topic = ReassignableTopic::default().with_name(TopicName(wire::text("t"))).with_partitions(partitions);
        let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
        let asked = to_decide(&request);
        let targets: Vec<_> = asked.topics[0].1.iter().map(|(_, target)| target.clone()).collect();
        assert_eq!(targets, [Some(vec![BrokerId(2), BrokerId(1)]), None, Some(vec![])]);
        assert!(asked.allow_replication_factor_change, "the default of version 0");
    }

    #[test]
    fn outcomes_have_kafkas_texts() {
        let outcome = |partition, error: Option<ErrorCode>| PartitionOutcome {
            partition: PartitionId(partition),
            refusal: error.map(|error| Refusal::new(error, String::new())),
        };
        let decided = vec![outcome(1, None), outcome(0, Some(ErrorCode::NoReassignmentInProgress))];
        let topics = vec![("t".to_owned(), decided)];
        let response = response(PartitionOutcomes { topics, ..PartitionOutcomes::default() });
        let told: Vec<_> = response.responses[0]
            .partitions
            .iter()
            .map(|result| (result.partition_index, result.error_code, result.error_message.as_deref()))
            .collect();
        let code = ErrorCode::NoReassignmentInProgress.code();
        assert_eq!(told, [(1, 0, None), (0, code, Some("No partition reassignment is in progress."))]);
    }
}
