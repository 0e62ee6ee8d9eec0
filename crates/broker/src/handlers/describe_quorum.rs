//! DescribeQuorum (55): the leader of the metadata quorum, and how far every coordinator and every broker has got.
//! Kafka's quorum is a log with the name `__cluster_metadata`; here it is Raft's log, whose offsets are revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::quorum_progress::{Progress, QuorumProgress, Voter};
use ottla_model::{ErrorCode, Revision};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::describe_quorum_request::TopicData as AskedTopic;
use ottla_protocol::kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use ottla_protocol::kafka_protocol::messages::{BrokerId, DescribeQuorumRequest, DescribeQuorumResponse, TopicName};
use ottla_protocol::{RequestHeader, decode_request};
use uuid::Uuid;

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::{admin, wire};

const TOPIC: &str = "__cluster_metadata";
/// How the response names the listener of a coordinator.
const LISTENER: &str = "CONTROLLER";
/// The first version with a message, nodes and the ids of disks.
const NODES_FROM: i16 = 2;
/// The request has no timeout of its own. An election takes a second at most.
const TIMEOUT: Duration = Duration::from_secs(5);

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<DescribeQuorumRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    if !broker.access(context).cluster(Operation::Describe) {
        let denied = DescribeQuorumResponse::default()
            .with_error_code(ErrorCode::ClusterAuthorizationFailed.code())
            .with_error_message(None);
        return Reply::encode::<DescribeQuorumRequest>(&header, &denied);
    }
    if !names_the_quorum(&request.topics) {
        return Reply::encode::<DescribeQuorumRequest>(&header, &unknown(request.topics));
    }
    let progress = broker.quorum.progress(TIMEOUT);
    Reply::later(async move {
        let response = match progress.await {
            Ok(progress) => response(header.api_version, &progress),
            Err(error) => {
                let refusal = admin::no_answer(&error);
                let message = admin::message(&refusal).filter(|_| header.api_version >= NODES_FROM);
                DescribeQuorumResponse::default()
                    .with_error_code(refusal.error.code())
                    .with_error_message(message.as_deref().map(wire::text))
            }
        };
        Response::encode_or_close::<DescribeQuorumRequest>(&header, &response)
    })
}

fn names_the_quorum(topics: &[AskedTopic]) -> bool {
    let [topic] = topics else { return false };
    topic.topic_name.as_str() == TOPIC && matches!(&*topic.partitions, [one] if one.partition_index == 0)
}

/// The response to a request for other partitions than the one that there is. Each partition is answered once.
fn unknown(topics: Vec<AskedTopic>) -> DescribeQuorumResponse {
    let mut asked: BTreeMap<TopicName, BTreeSet<i32>> = BTreeMap::new();
    for topic in topics {
        let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
        asked.entry(topic.topic_name).or_default().extend(partitions);
    }
    let partition = |index| {
        PartitionData::default()
            .with_partition_index(index)
            .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
            .with_leader_id(BrokerId(-1))
    };
    let topics = asked.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(partition);
        TopicData::default().with_partitions(partitions.collect()).with_topic_name(name)
    });
    DescribeQuorumResponse::default().with_error_message(None).with_topics(topics.collect())
}

fn response(version: i16, progress: &QuorumProgress) -> DescribeQuorumResponse {
    let member = |voter: &Voter| {
        let disk = voter.disk.filter(|_| version >= NODES_FROM).map_or(Uuid::nil(), |disk| Uuid::from_bytes(disk.0));
        replica(version, node_id(voter.id.0), voter.progress).with_replica_directory_id(disk)
    };
    let voters = progress.voters.iter().filter(|voter| voter.is_voter).map(member);
    let learners = progress.voters.iter().filter(|voter| !voter.is_voter).map(member);
    let observers = progress.observers.iter().map(|observer| replica(version, observer.id.0, observer.progress));
    let partition = PartitionData::default()
        .with_leader_id(BrokerId(node_id(progress.leader.0)))
        .with_leader_epoch(i32::try_from(progress.term).unwrap_or(i32::MAX))
        .with_high_watermark(offset(progress.committed))
        .with_current_voters(voters.collect())
        .with_observers(learners.chain(observers).collect())
        .with_error_message(None);
    let topic = TopicData::default().with_topic_name(wire::text(TOPIC).into()).with_partitions(vec![partition]);
    let nodes = progress.voters.iter().filter(|_| version >= NODES_FROM).map(|voter| {
        let (host, port) = voter.address.rsplit_once(':').unwrap_or((&voter.address, "0"));
        let listener = Listener::default()
            .with_name(wire::text(LISTENER))
            .with_host(wire::text(host.trim_matches(['[', ']'])))
            .with_port(port.parse().unwrap_or(0));
        Node::default().with_node_id(BrokerId(node_id(voter.id.0))).with_listeners(vec![listener])
    });
    DescribeQuorumResponse::default().with_error_message(None).with_topics(vec![topic]).with_nodes(nodes.collect())
}

fn replica(version: i16, id: i32, progress: Progress) -> ReplicaState {
    let state = ReplicaState::default().with_replica_id(BrokerId(id)).with_log_end_offset(offset(progress.end));
    if version == 0 {
        return state;
    }
    state.with_last_fetch_timestamp(progress.heard_at.0).with_last_caught_up_timestamp(progress.caught_up_at.0)
}

fn node_id(coordinator: u64) -> i32 {
    i32::try_from(coordinator).unwrap_or(i32::MAX)
}

/// Kafka's offsets are those of the next record.
fn offset(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use ottla_metadata::quorum_progress::Observer;
    use ottla_model::{BrokerId as Id, CoordinatorId, IncarnationId, TimestampMs};
    use ottla_protocol::kafka_protocol::messages::describe_quorum_request::PartitionData as AskedPartition;

    use super::*;

    fn progress() -> QuorumProgress {
        let at = |end| Progress { end: Revision(end), heard_at: TimestampMs(100), caught_up_at: TimestampMs(90) };
        let voter = |id: u64, end| Voter {
            id: CoordinatorId(id),
            address: format!("[::{id}]:2181"),
            disk: (id == 1).then_some(IncarnationId([7; 16])),
            is_voter: id < 3,
            progress: at(end),
        };
        QuorumProgress {
            leader: CoordinatorId(2),
            term: 5,
            committed: Revision(9),
            voters: vec![voter(1, 8), voter(2, 10), voter(4, 3)],
            observers: vec![Observer { id: Id(3), progress: at(9) }],
        }
    }

    #[test]
    fn every_version_names_the_leader_and_the_replicas() {
        for version in 0..=2 {
            let response = response(version, &progress());
            let partition = &response.topics[0].partitions[0];
            assert_eq!((partition.leader_id.0, partition.leader_epoch, partition.high_watermark), (2, 5, 10));
            let ends: Vec<_> = partition.current_voters.iter().map(|v| (v.replica_id.0, v.log_end_offset)).collect();
            assert_eq!(ends, [(1, 9), (2, 11)]);
            let observers: Vec<_> = partition.observers.iter().map(|observer| observer.replica_id.0).collect();
            assert_eq!(observers, [4, 3], "a learner observes, as brokers do");
            assert_eq!(response.nodes.len(), if version >= 2 { 3 } else { 0 });
            ottla_protocol::encode_response::<DescribeQuorumRequest>(version, 1, &response).expect("encodes");
        }
        let node = &response(2, &progress()).nodes[0].listeners[0];
        assert_eq!((node.host.as_str(), node.port), ("::1", 2181));
    }

    #[test]
    fn other_partitions_are_unknown() {
        let asked = |name: &str, index| {
            let partition = AskedPartition::default().with_partition_index(index);
            vec![AskedTopic::default().with_topic_name(wire::text(name).into()).with_partitions(vec![partition])]
        };
        assert!(names_the_quorum(&asked(TOPIC, 0)));
        for topics in [asked(TOPIC, 1), asked("t", 0), Vec::new()] {
            assert!(!names_the_quorum(&topics));
            let response = unknown(topics);
            let errors = response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error_code);
            assert!(errors.into_iter().all(|code| code == ErrorCode::UnknownTopicOrPartition.code()));
            ottla_protocol::encode_response::<DescribeQuorumRequest>(2, 1, &response).expect("encodes");
        }
    }
}
