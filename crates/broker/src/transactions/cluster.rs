//! The cluster, as transactional ids see it.

use std::sync::Arc;

use ottla_metadata::Image;
use ottla_model::{ListenerName, ProducerId, TopicPartition};
use ottla_transaction_coordinator::{Cluster, Leader};

use crate::producer_ids::ProducerIds;
use crate::request::topology;

/// One step's view.
pub(super) struct ImageCluster<'a> {
    pub image: &'a Image,
    pub inter_broker: &'a ListenerName,
    pub producer_ids: &'a Arc<ProducerIds>,
}

impl Cluster for ImageCluster<'_> {
    fn leader(&self, partition: &TopicPartition) -> Leader {
        match self.image.partition_of(partition.topic.as_str(), partition.partition) {
            None => Leader::Deleted,
            Some(state) if topology::live_endpoint(self.image, state.leader, self.inter_broker).is_some() => {
                Leader::Broker(state.leader)
            }
            Some(_) => Leader::None,
        }
    }

    fn new_producer_id(&mut self) -> Option<ProducerId> {
        // Without an id the producer asks again, and finds one of the block that is on its way.
        self.producer_ids.take_now()
    }
}
