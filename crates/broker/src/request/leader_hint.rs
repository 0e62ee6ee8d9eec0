//! Who leads instead, told with the errors of Produce and Fetch (KIP-951): a client goes there at once rather than ask
//! Metadata first.

use ottla_metadata::Image;
use ottla_model::{BrokerId, ErrorCode, ListenerName, PartitionId};
use ottla_protocol::messages::{CurrentLeader, NodeEndpoint, TopicRef};

/// The leaders named in one answer, each endpoint once.
pub struct LeaderHints<'a> {
    image: &'a Image,
    listener: &'a ListenerName,
    pub endpoints: Vec<NodeEndpoint>,
}

/// Whether an answer with this error says who leads.
pub fn names_leader(error: ErrorCode) -> bool {
    matches!(error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch)
}

impl<'a> LeaderHints<'a> {
    /// Endpoints will be those of `listener`, the one that the request came in on.
    pub fn new(image: &'a Image, listener: &'a ListenerName) -> Self {
        Self { image, listener, endpoints: Vec::new() }
    }

    /// The leader of a partition as far as the image knows; none where it has none or the partition is not known.
    pub fn leader(&mut self, topic: &TopicRef, partition: PartitionId) -> Option<CurrentLeader> {
        let state = match topic {
            TopicRef::Name(name) => self.image.partition_of(name, partition),
            TopicRef::Id(id) => self.image.topic_by_id(*id).and_then(|topic| topic.partition(partition)),
        }?;
        if !state.has_leader() {
            return None;
        }
        self.add_endpoint(state.leader);
        Some(CurrentLeader { leader_id: state.leader, leader_epoch: state.leader_epoch })
    }

    fn add_endpoint(&mut self, id: BrokerId) {
        if self.endpoints.iter().any(|endpoint| endpoint.node_id == id) {
            return;
        }
        let Some(broker) = self.image.broker(id) else { return };
        let Some(endpoint) = broker.endpoint(self.listener) else { return };
        self.endpoints.push(NodeEndpoint {
            node_id: id,
            host: endpoint.host.clone(),
            port: i32::from(endpoint.port),
            rack: broker.rack.clone(),
        });
    }
}
