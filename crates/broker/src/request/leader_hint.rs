//! Who leads instead, told with the errors of Produce and Fetch (KIP-951): a client goes there at once rather than ask
//! Metadata first.

use ottla_metadata::Image;
use ottla_model::{ErrorCode, ListenerName, PartitionId};
use ottla_protocol::messages::{CurrentLeader, NodeEndpoint, TopicRef};

use crate::request::topology;

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

    /// The leader of a partition as far as the image knows; none where it has none that the client can reach, or the
    /// partition is not known.
    pub fn leader(&mut self, topic: &TopicRef, partition: PartitionId) -> Option<CurrentLeader> {
        let state = match topic {
            TopicRef::Name(name) => self.image.partition_of(name, partition),
            TopicRef::Id(id) => self.image.topic_by_id(*id).and_then(|topic| topic.partition(partition)),
        }?;
        let leader = topology::live(self.image, state.leader)?;
        let endpoint = leader.endpoint(self.listener)?;
        if !self.endpoints.iter().any(|known| known.node_id == leader.id) {
            self.endpoints.push(NodeEndpoint {
                node_id: leader.id,
                host: endpoint.host.clone(),
                port: i32::from(endpoint.port),
                rack: leader.rack.clone(),
            });
        }
        Some(CurrentLeader { leader_id: leader.id, leader_epoch: state.leader_epoch })
    }
}
