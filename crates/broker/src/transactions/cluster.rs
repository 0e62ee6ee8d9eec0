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
            // What this release cannot read is not gone: a transaction that left it out would stay open there for ever.
            None if self.image.is_unreadable_topic(partition.topic.as_str()) => Leader::None,
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ottla_metadata::{Node, NodeChange, nodes};
    use ottla_model::{BrokerId, PartitionId, Revision, TopicName};
    use tokio::runtime::Handle;

    use super::*;
    use crate::producer_ids::tests::Blocks;
    use crate::request::test_image;

    /// Its partitions got no markers, and their transactions never ended.
    #[tokio::test]
    async fn a_topic_that_cannot_be_read_is_not_deleted() {
        let partition = TopicPartition::new(TopicName::new("t").expect("valid"), PartitionId(0));
        let producer_ids = &ProducerIds::new(Arc::new(Blocks::default()), &Handle::current());
        let inter_broker = &ListenerName::new(test_image::INTERNAL);
        let leader = |image: &Image| ImageCluster { image, inter_broker, producer_ids }.leader(&partition);
        let (image, revision) = (test_image::image(), Revision(11));
        assert_eq!(leader(&image), Leader::Broker(BrokerId(1)));
        let change = |payload: Option<Bytes>| {
            let node = payload.map(|payload| Node { payload, created: revision, modified: revision, version: 0 });
            [NodeChange { path: nodes::topic::path(&partition.topic), node }]
        };
        assert_eq!(leader(&image.apply(revision, &change(Some(Bytes::from_static(&[0xFF])))).0), Leader::None);
        assert_eq!(leader(&image.apply(revision, &change(None)).0), Leader::Deleted);
    }
}
