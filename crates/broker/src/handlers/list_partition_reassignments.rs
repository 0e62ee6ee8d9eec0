//! ListPartitionReassignments (46): the reassignments under way, of all partitions or of those that are named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::{Image, TopicImage};
use ottla_model::{ErrorCode, PartitionId, TopicName};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use ottla_protocol::kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::wire;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    match decode_request::<ListPartitionReassignmentsRequest>(header.api_version, body.freeze()) {
        Ok(_) if !broker.access(context).cluster(Operation::Describe) => {
            let denied = ListPartitionReassignmentsResponse::default()
                .with_error_code(ErrorCode::ClusterAuthorizationFailed.code())
                .with_error_message(None);
            Reply::encode::<ListPartitionReassignmentsRequest>(&header, &denied)
        }
        Ok(request) => {
            let response = answer(&broker.metadata.current(), &request);
            Reply::encode::<ListPartitionReassignmentsRequest>(&header, &response)
        }
        Err(error) => Reply::close(error),
    }
}

fn answer(image: &Image, request: &ListPartitionReassignmentsRequest) -> ListPartitionReassignmentsResponse {
    let mut topics: BTreeMap<TopicName, Vec<OngoingPartitionReassignment>> = BTreeMap::new();
    match &request.topics {
        None => {
            // One that is under way may be replaced by one that waits: it is listed once.
            let all: BTreeSet<_> = image.reassigning().chain(image.queued()).collect();
            for id in all {
                let Some(topic) = image.topic_by_id(id.topic_id) else { continue };
                let listed = ongoing(topic, id.partition);
                topics.entry(topic.name.clone()).or_default().extend(listed);
            }
        }
        Some(named) => {
            let mut seen = BTreeSet::new();
            for (topic, partition) in
                named.iter().flat_map(|one| one.partition_indexes.iter().map(move |index| (&one.name, *index)))
            {
                let Some(topic) = image.topic(topic.as_str()) else { continue };
                let partition = PartitionId(partition);
                let listed = ongoing(topic, partition);
                if let Some(listed) = listed.filter(|_| seen.insert((topic.id, partition))) {
                    topics.entry(topic.name.clone()).or_default().push(listed);
                }
            }
        }
    }
    let topic = |(name, partitions)| {
        OngoingTopicReassignment::default().with_name(wire::topic_name(&name)).with_partitions(partitions)
    };
    // The schema's default is an empty message, which clients show.
    ListPartitionReassignmentsResponse::default()
        .with_error_message(None)
        .with_topics(topics.into_iter().map(topic).collect())
}

/// Also one that waits for its turn, as if it had begun.
fn ongoing(topic: &TopicImage, partition: PartitionId) -> Option<OngoingPartitionReassignment> {
    let assignment = topic.reassignment(partition)?;
    let listed = OngoingPartitionReassignment::default()
        .with_partition_index(partition.0)
        .with_replicas(wire::broker_ids(assignment.replicas.iter().copied()))
        .with_adding_replicas(wire::broker_ids(assignment.adding().iter().copied()))
        .with_removing_replicas(wire::broker_ids(assignment.removing().iter().copied()));
    Some(listed)
}

#[cfg(test)]
mod tests {
    use ottla_metadata::nodes::{self, topic::TopicNode};
    use ottla_metadata::{Assignment, Node, NodeChange, Reassignment};
    use ottla_model::{BrokerId, Revision, TopicId};
    use ottla_protocol::kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;

    use super::*;
    use crate::request::test_image;

    /// The test's image, with partition 0 of `t` on its way from [1, 2, 3] to [4, 1]; `queued` wait for their turns.
    fn image(queued: &[(i32, &[i32])]) -> Image {
        let ids = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
        let reassignment = Reassignment { adding: ids(&[4]), removing: ids(&[2, 3]) };
        let moving = Assignment { replicas: ids(&[4, 1, 2, 3]), reassignment: Some(Box::new(reassignment)) };
        let assignment = vec![(PartitionId(0), moving), (PartitionId(1), ids(&[1, 2, 3]).into())];
        let topic = TopicNode {
            id: TopicId(7u128.to_be_bytes()),
            assignment,
            grows_to: 0,
            queued: queued.iter().map(|(partition, target)| (PartitionId(*partition), ids(target))).collect(),
        };
        let path = nodes::topic::path(&TopicName::new("t").expect("valid"));
        let revision = Revision(11);
        let node =
            Node { payload: nodes::topic::encode(&topic), created: Revision(10), modified: revision, version: 1 };
        test_image::image().apply(revision, &[NodeChange { path, node: Some(node) }]).0
    }

    fn listed(image: &Image, named: Option<&[(&'static str, &[i32])]>) -> Vec<(String, Vec<i32>)> {
        let topic = |(name, indexes): &(&'static str, &[i32])| {
            let name = ottla_protocol::kafka_protocol::messages::TopicName(wire::text(name));
            ListPartitionReassignmentsTopics::default().with_name(name).with_partition_indexes(indexes.to_vec())
        };
        let topics = named.map(|named| named.iter().map(topic).collect());
        let response = answer(image, &ListPartitionReassignmentsRequest::default().with_topics(topics));
        let indexes = |one: &OngoingTopicReassignment| one.partitions.iter().map(|p| p.partition_index).collect();
        response.topics.iter().map(|one| (one.name.to_string(), indexes(one))).collect()
    }

    #[test]
    fn all_or_those_that_are_named_and_under_way() {
        let image = image(&[]);
        let moving = vec![("t".to_owned(), vec![0])];
        assert_eq!(listed(&image, None), moving);
        assert_eq!(listed(&image, Some(&[("t", &[1, 0, 0, 9]), ("nope", &[0])])), moving);
        assert_eq!(listed(&image, Some(&[("t", &[1])])), []);
        assert_eq!(listed(&test_image::image(), None), []);
        let response = answer(&image, &ListPartitionReassignmentsRequest::default().with_topics(None));
        let ids = |ids: &[_]| ids.iter().map(|id: &ottla_protocol::kafka_protocol::messages::BrokerId| id.0).collect();
        let one = &response.topics[0].partitions[0];
        let told: [Vec<i32>; 3] = [ids(&one.replicas), ids(&one.adding_replicas), ids(&one.removing_replicas)];
        assert_eq!(told, [vec![4, 1, 2, 3], vec![4], vec![2, 3]]);
    }
    /// To clients a reassignment that waits is under way; the last target counts.
    #[test]
    fn one_that_waits_is_listed_as_one_that_has_begun() {
        let image = image(&[(0, &[3, 5]), (1, &[2, 4])]);
        assert_eq!(listed(&image, None), [("t".to_owned(), vec![0, 1])]);
        let response = answer(&image, &ListPartitionReassignmentsRequest::default().with_topics(None));
        let ids = |ids: &[_]| ids.iter().map(|id: &ottla_protocol::kafka_protocol::messages::BrokerId| id.0).collect();
        let told: Vec<[Vec<i32>; 3]> = response.topics[0]
            .partitions
            .iter()
            .map(|one| [ids(&one.replicas), ids(&one.adding_replicas), ids(&one.removing_replicas)])
            .collect();
        let first = [vec![3, 5, 1, 2], vec![5], vec![1, 2]];
        assert_eq!(told, [first, [vec![2, 4, 1, 3], vec![4], vec![1, 3]]]);
    }
}
