//! What the replicas of internal topics carry.

use std::sync::Arc;

use ottla_config::BrokerConfig;
use ottla_metadata::{Delta, Image};

use crate::partition::Partition;

/// The coordinators whose state lives in partitions of internal topics. They are told what happens to those partitions
/// here, in step with the replicas, by the one that takes in deltas.
pub trait Coordinators: Send + Sync {
    /// The image has moved on; its partitions follow after this. So what a partition's coordinator loads meets topics
    /// that it knows.
    fn image_moved(&self, image: &Arc<Image>, delta: &Delta);
    /// The configuration of the broker, or of groups, is another one from now on.
    fn configured(&self, config: &BrokerConfig, image: &Image);
    /// A partition got a replica here; its log is not open yet.
    fn placed(&self, partition: &Arc<Partition>);
    /// The partition's replica here is gone.
    fn removed(&self, partition: &Arc<Partition>);
}

/// Several kinds of coordinators, each with a topic of its own.
impl Coordinators for Vec<Arc<dyn Coordinators>> {
    fn image_moved(&self, image: &Arc<Image>, delta: &Delta) {
        self.iter().for_each(|kind| kind.image_moved(image, delta));
    }

    fn configured(&self, config: &BrokerConfig, image: &Image) {
        self.iter().for_each(|kind| kind.configured(config, image));
    }

    fn placed(&self, partition: &Arc<Partition>) {
        self.iter().for_each(|kind| kind.placed(partition));
    }

    fn removed(&self, partition: &Arc<Partition>) {
        self.iter().for_each(|kind| kind.removed(partition));
    }
}
