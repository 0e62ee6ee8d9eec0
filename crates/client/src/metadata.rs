//! The client's view of the cluster: brokers, topics, leaders. A response replaces the topics that it contains; a
//! leader in an error response (KIP-951) replaces an older one at once.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::MetadataResponse;
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, PartitionId, TopicId};
use ottla_protocol::messages::{CurrentLeader, NodeEndpoint};

use crate::convert::{error_of, from_wire};

/// Where a broker listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokerAddress {
    pub id: BrokerId,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

impl BrokerAddress {
    /// `host:port`, with brackets around a host that has colons.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A partition as Metadata shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionView {
    pub partition: PartitionId,
    pub error: ErrorCode,
    /// [`BrokerId::NONE`] if there is no leader.
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    pub offline_replicas: Vec<BrokerId>,
}

/// A topic as Metadata shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicView {
    pub name: String,
    /// All zero if the broker does not send it.
    pub id: TopicId,
    pub error: ErrorCode,
    pub is_internal: bool,
    pub partitions: BTreeMap<PartitionId, PartitionView>,
}

impl TopicView {
    /// The partitions that have a leader.
    pub fn led(&self) -> impl Iterator<Item = PartitionId> + '_ {
        self.partitions.values().filter(|partition| partition.leader != BrokerId::NONE).map(|found| found.partition)
    }
}

/// The cluster as the latest answers show it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterView {
    pub cluster_id: Option<String>,
    /// The receiver of admin requests; none if Metadata has no controller.
    pub controller: Option<BrokerId>,
    pub brokers: BTreeMap<BrokerId, BrokerAddress>,
    pub topics: BTreeMap<String, TopicView>,
}

impl ClusterView {
    /// The view of these topics alone: there may be a hundred thousand others.
    pub(crate) fn of(&self, topics: &[&str]) -> Self {
        let known = topics.iter().filter_map(|topic| self.topics.get_key_value(*topic));
        Self {
            cluster_id: self.cluster_id.clone(),
            controller: self.controller,
            brokers: self.brokers.clone(),
            topics: known.map(|(name, topic)| (name.clone(), topic.clone())).collect(),
        }
    }

    /// Forgets the topics that an answer with all topics does not have.
    pub(crate) fn keep_listed(&mut self, all: &MetadataResponse) {
        let names: BTreeSet<&str> =
            all.topics.iter().filter_map(|topic| topic.name.as_ref()).map(|name| name.0.as_str()).collect();
        self.topics.retain(|name, _| names.contains(name.as_str()));
    }

    /// Takes an answer in: its brokers are all there are; its topics replace those of the same names.
    pub(crate) fn absorb(&mut self, response: &MetadataResponse) {
        self.cluster_id = response.cluster_id.as_ref().map(ToString::to_string);
        self.controller = Some(BrokerId(response.controller_id.0)).filter(|id| *id != BrokerId::NONE);
        self.brokers = response
            .brokers
            .iter()
            .map(|broker| {
                let id = BrokerId(broker.node_id.0);
                let rack = broker.rack.as_ref().map(ToString::to_string);
                (id, BrokerAddress { id, host: broker.host.to_string(), port: broker.port, rack })
            })
            .collect();
        for topic in &response.topics {
            let Some(name) = topic.name.as_ref().map(|name| name.0.to_string()) else { continue };
            let error = error_of(topic.error_code);
            let partitions = topic.partitions.iter().map(|partition| {
                let id = PartitionId(partition.partition_index);
                let view = PartitionView {
                    partition: id,
                    error: error_of(partition.error_code),
                    leader: BrokerId(partition.leader_id.0),
                    leader_epoch: LeaderEpoch(partition.leader_epoch),
                    replicas: from_wire(&partition.replica_nodes),
                    isr: from_wire(&partition.isr_nodes),
                    offline_replicas: from_wire(&partition.offline_replicas),
                };
                (id, view)
            });
            let mut view = TopicView {
                name: name.clone(),
                id: TopicId(topic.topic_id.into_bytes()),
                error,
                is_internal: topic.is_internal,
                partitions: partitions.collect(),
            };
            // Without an id the topic may have been deleted and created again, with epochs from 0.
            let is_same = |known: &&TopicView| known.id == view.id && !known.id.is_zero();
            if let Some(known) = self.topics.get(&name).filter(is_same) {
                view.keep_newer_leaders(known);
            }
            self.topics.insert(name, view);
        }
    }

    /// A leader that a broker named; an older epoch than the known one is ignored.
    pub(crate) fn learn_leader(
        &mut self,
        topic: &str,
        partition: PartitionId,
        leader: CurrentLeader,
        endpoints: &[NodeEndpoint],
    ) -> bool {
        if let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.node_id == leader.leader_id) {
            let address = BrokerAddress {
                id: endpoint.node_id,
                host: endpoint.host.clone(),
                port: endpoint.port,
                rack: endpoint.rack.clone(),
            };
            self.brokers.insert(endpoint.node_id, address);
        }
        let known = self.topics.get_mut(topic).and_then(|topic| topic.partitions.get_mut(&partition));
        match known {
            Some(known) if leader.leader_epoch > known.leader_epoch && leader.leader_id != BrokerId::NONE => {
                known.leader = leader.leader_id;
                known.leader_epoch = leader.leader_epoch;
                true
            }
            _ => false,
        }
    }
}

impl TopicView {
    /// A broker that lags may name a leader that was already replaced.
    fn keep_newer_leaders(&mut self, known: &Self) {
        for (id, partition) in &mut self.partitions {
            if let Some(known) = known.partitions.get(id)
                && known.leader_epoch > partition.leader_epoch
            {
                partition.leader = known.leader;
                partition.leader_epoch = known.leader_epoch;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };
    use kafka_protocol::messages::{BrokerId as WireBrokerId, TopicName};
    use kafka_protocol::protocol::StrBytes;

    use super::*;

    fn response(leader: i32, epoch: i32) -> MetadataResponse {
        let broker = |id| {
            MetadataResponseBroker::default()
                .with_node_id(WireBrokerId(id))
                .with_host(StrBytes::from_static_str("kafka"))
                .with_port(9092)
        };
        let partition =
            MetadataResponsePartition::default().with_leader_id(WireBrokerId(leader)).with_leader_epoch(epoch);
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str("logs"))))
            .with_topic_id(uuid::Uuid::from_bytes([1; 16]))
            .with_partitions(vec![partition]);
        MetadataResponse::default().with_brokers(vec![broker(1), broker(2)]).with_topics(vec![topic])
    }

    #[test]
    fn a_leader_never_goes_back_to_an_older_epoch() {
        let mut view = ClusterView::default();
        view.absorb(&response(1, 3));
        let leader = |view: &ClusterView| view.topics["logs"].partitions[&PartitionId(0)].leader;
        assert_eq!(leader(&view), BrokerId(1));
        let named = CurrentLeader { leader_id: BrokerId(7), leader_epoch: LeaderEpoch(4) };
        let endpoint = NodeEndpoint { node_id: BrokerId(7), host: "::1".into(), port: 9, rack: None };
        assert!(view.learn_leader("logs", PartitionId(0), named, &[endpoint]));
        assert_eq!((leader(&view), view.brokers[&BrokerId(7)].address()), (BrokerId(7), "[::1]:9".to_owned()));
        assert!(!view.learn_leader("logs", PartitionId(0), named, &[]));
        view.absorb(&response(1, 3));
        assert_eq!(leader(&view), BrokerId(7));
        view.absorb(&response(2, 5));
        assert_eq!(leader(&view), BrokerId(2));
    }

    /// Each list of all topics after the first compared every topic with all: fifty thousand took half a minute, in
    /// which a member sent no heartbeat.
    #[test]
    fn a_list_of_all_topics_is_taken_in_at_once() {
        const MANY: usize = 50_000;
        let named =
            |name: String| MetadataResponseTopic::default().with_name(Some(TopicName(StrBytes::from_string(name))));
        let all = |from: usize| {
            MetadataResponse::default().with_topics((from..MANY).map(|at| named(format!("topic-{at:08}"))).collect())
        };
        let mut view = ClusterView::default();
        view.absorb(&all(0));
        view.keep_listed(&all(1));
        assert_eq!(view.topics.len(), MANY - 1);
        let asked = view.of(&["topic-00000000", "topic-00000007"]);
        assert_eq!(asked.topics.keys().collect::<Vec<_>>(), ["topic-00000007"]);
    }
}
