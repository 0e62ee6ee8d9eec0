//! Which partitions are not as they should be, and how many.

use ottla_metadata::image::{Image, PartitionState, TopicImage};

/// Whether a replica that is not being added is outside the ISR.
pub fn is_under_replicated(state: &PartitionState) -> bool {
    let established = state.replicas.iter().filter(|broker| !state.adding().contains(broker));
    established.into_iter().any(|broker| !state.in_isr(*broker))
}

pub fn is_under_min_isr(image: &Image, topic: &TopicImage, state: &PartitionState) -> bool {
    state.isr.len() < image.min_insync_replicas(topic, state)
}

/// Figures that need a look at every partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PartitionCounts {
    pub all: u32,
    pub leaderless: u32,
    pub under_replicated: u32,
    pub under_min_isr: u32,
    pub reassigning: u32,
}

impl PartitionCounts {
    pub fn of(image: &Image) -> Self {
        let mut counts = Self::default();
        for topic in image.topics() {
            for (number, state) in topic.partitions() {
                counts.all += 1;
                counts.leaderless += u32::from(!state.has_leader());
                counts.under_replicated += u32::from(is_under_replicated(state));
                counts.under_min_isr += u32::from(is_under_min_isr(image, topic, state));
                counts.reassigning += u32::from(state.is_reassigning() || topic.queued(number).is_some());
            }
        }
        counts
    }
}
