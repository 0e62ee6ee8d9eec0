//! `/brokers/topics/T`: a topic's id and which brokers hold its partitions.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_model::{BrokerId, PartitionId, TopicId};
use prost::Message;
use serde::Serialize;

use super::{NodeError, Ordered, to_json};
use crate::image::{Assignment, Reassignment};
use crate::tree::Path;

/// The content of a topic's node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicNode {
    pub id: TopicId,
    /// By partition, ascending.
    pub assignment: Vec<(PartitionId, Assignment)>,
    /// Target number of replicas as brokers join; 0: the current number.
    pub grows_to: i32,
    /// The replicas of partitions whose reassignment waits for its turn.
    pub queued: BTreeMap<PartitionId, Vec<BrokerId>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AssignmentPayload {
    #[prost(int32, tag = "1")]
    partition: i32,
    #[prost(int32, repeated, tag = "2")]
    replicas: Vec<i32>,
    #[prost(int32, repeated, tag = "3")]
    adding: Vec<i32>,
    #[prost(int32, repeated, tag = "4")]
    removing: Vec<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TopicPayload {
    #[prost(bytes = "bytes", tag = "1")]
    topic_id: Bytes,
    #[prost(message, repeated, tag = "2")]
    partitions: Vec<AssignmentPayload>,
    #[prost(int32, tag = "3")]
    grows_to: i32,
    #[prost(message, repeated, tag = "4")]
    queued: Vec<AssignmentPayload>,
}

pub fn path(name: &ottla_model::TopicName) -> Path {
    Path::built(format!("/brokers/topics/{name}"))
}

fn numbers(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.0).collect()
}

pub fn encode(topic: &TopicNode) -> Bytes {
    let partitions = topic.assignment.iter().map(|(partition, assignment)| AssignmentPayload {
        partition: partition.0,
        replicas: numbers(&assignment.replicas),
        adding: numbers(assignment.adding()),
        removing: numbers(assignment.removing()),
    });
    let queued = topic.queued.iter().map(|(partition, target)| AssignmentPayload {
        partition: partition.0,
        replicas: numbers(target),
        adding: Vec::new(),
        removing: Vec::new(),
    });
    let topic_id = Bytes::copy_from_slice(topic.id.as_bytes());
    let (partitions, queued) = (partitions.collect(), queued.collect());
    TopicPayload { topic_id, partitions, grows_to: topic.grows_to, queued }.encode_to_vec().into()
}

pub fn decode(payload: &Bytes) -> Result<TopicNode, NodeError> {
    let payload = TopicPayload::decode(payload.clone())?;
    let grows_to = payload.grows_to;
    let id = TopicId::from_slice(&payload.topic_id).ok_or_else(|| NodeError::field("topic_id", &payload.topic_id))?;
    let mut assignment: Vec<_> =
        payload.partitions.into_iter().map(|one| (PartitionId(one.partition), assignment_of(one))).collect();
    assignment.sort_by_key(|(partition, _): &(PartitionId, Assignment)| *partition);
    let ids = |brokers: Vec<i32>| brokers.into_iter().map(BrokerId).collect();
    let queued = payload.queued.into_iter().map(|one| (PartitionId(one.partition), ids(one.replicas))).collect();
    Ok(TopicNode { id, assignment, grows_to, queued })
}

fn assignment_of(payload: AssignmentPayload) -> Assignment {
    let ids = |brokers: Vec<i32>| brokers.into_iter().map(BrokerId).collect();
    let is_reassigned = !payload.adding.is_empty() || !payload.removing.is_empty();
    let reassignment = Reassignment { adding: ids(payload.adding), removing: ids(payload.removing) };
    Assignment { replicas: ids(payload.replicas), reassignment: is_reassigned.then(|| Box::new(reassignment)) }
}

/// Kafka's version 3 of it.
#[derive(Serialize)]
struct Shown<'a> {
    partitions: Ordered<'a, Vec<i32>>,
    topic_id: String,
    adding_replicas: Ordered<'a, Vec<i32>>,
    removing_replicas: Ordered<'a, Vec<i32>>,
    version: u8,
}

pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    let topic = decode(payload)?;
    let of_each = |brokers: fn(&Assignment) -> &[BrokerId]| -> Vec<(String, Vec<i32>)> {
        topic.assignment.iter().map(|(partition, one)| (partition.to_string(), numbers(brokers(one)))).collect()
    };
    let of_some = |brokers| {
        let mut shown = of_each(brokers);
        shown.retain(|(_, brokers)| !brokers.is_empty());
        shown
    };
    to_json(&Shown {
        partitions: Ordered(&of_each(|one| &one.replicas)),
        topic_id: topic.id.to_string(),
        adding_replicas: Ordered(&of_some(Assignment::adding)),
        removing_replicas: Ordered(&of_some(Assignment::removing)),
        version: 3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_kafka_kept_in_zookeeper() {
        let topic = TopicNode {
            id: "od_-eKm-R_uinTKrbP9GCw".parse().expect("an id"),
            assignment: vec![(PartitionId(0), vec![BrokerId(3), BrokerId(2), BrokerId(1)].into())],
            grows_to: 3,
            queued: Default::default(),
        };
        assert_eq!(decode(&encode(&topic)), Ok(topic.clone()));
        // goldens: zookeeper-shell get /brokers/topics/a.b_c
        let golden = r#"{"partitions":{"0":[3,2,1]},"topic_id":"od_-eKm-R_uinTKrbP9GCw","adding_replicas":{},"removing_replicas":{},"version":3}"#;
        assert_eq!(json(&encode(&topic)).as_deref(), Ok(golden));
    }
    #[test]
    fn a_reassignment_is_kept_and_shown_as_kafka_kept_it_in_zookeeper() {
        let reassignment = Reassignment { adding: vec![BrokerId(4)], removing: vec![BrokerId(1)] };
        let moving = Assignment { replicas: [4, 1].map(BrokerId).to_vec(), reassignment: Some(Box::new(reassignment)) };
        let topic = TopicNode {
            id: "od_-eKm-R_uinTKrbP9GCw".parse().expect("an id"),
            assignment: vec![(PartitionId(0), vec![BrokerId(2)].into()), (PartitionId(1), moving)],
            grows_to: 0,
            queued: BTreeMap::from([(PartitionId(0), vec![BrokerId(3), BrokerId(2)])]),
        };
        assert_eq!(decode(&encode(&topic)), Ok(topic.clone()));
        let shown = json(&encode(&topic)).expect("shows");
        assert!(shown.contains(r#""partitions":{"0":[2],"1":[4,1]}"#), "{shown}");
        assert!(shown.contains(r#""adding_replicas":{"1":[4]},"removing_replicas":{"1":[1]}"#), "{shown}");
    }
}
