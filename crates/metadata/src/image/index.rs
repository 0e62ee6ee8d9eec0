//! The partitions of each broker, updated with every change, so that the cost of fencing a broker depends only on its
//! own partitions.

use std::ops::Bound;

use imbl::{OrdMap, OrdSet};
use ottla_model::{BrokerId, TopicIdPartition};

use super::PartitionState;

type ByBroker = OrdMap<BrokerId, OrdSet<TopicIdPartition>>;

/// Agrees with the partitions of the image that holds it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct PartitionIndex {
    count: usize,
    hosted: ByBroker,
    led: ByBroker,
    in_sync: ByBroker,
    eligible: ByBroker,
    leaderless: OrdSet<TopicIdPartition>,
    imbalanced: OrdSet<TopicIdPartition>,
    reassigning: OrdSet<TopicIdPartition>,
    adding: ByBroker,
}

impl PartitionIndex {
    /// How many partitions there are.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn leaderless_count(&self) -> usize {
        self.leaderless.len()
    }

    pub fn hosted(&self, broker: BrokerId) -> impl Iterator<Item = TopicIdPartition> + '_ {
        members(&self.hosted, broker)
    }

    pub fn in_sync(&self, broker: BrokerId) -> impl Iterator<Item = TopicIdPartition> + '_ {
        members(&self.in_sync, broker)
    }

    pub fn eligible(&self, broker: BrokerId) -> impl Iterator<Item = TopicIdPartition> + '_ {
        members(&self.eligible, broker)
    }

    pub fn leaderless(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.leaderless.iter().copied()
    }

    /// The partitions that come after `after` (all with none) and whose ISR holds the broker.
    pub fn in_sync_after(
        &self,
        broker: BrokerId,
        after: Option<TopicIdPartition>,
    ) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.in_sync.get(&broker).into_iter().flat_map(move |set| beyond(set, after))
    }

    /// Likewise, for the partitions that the broker leads.
    pub fn led_after(
        &self,
        broker: BrokerId,
        after: Option<TopicIdPartition>,
    ) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.led.get(&broker).into_iter().flat_map(move |set| beyond(set, after))
    }

    /// Likewise, for the ELR.
    pub fn eligible_after(
        &self,
        broker: BrokerId,
        after: Option<TopicIdPartition>,
    ) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.eligible.get(&broker).into_iter().flat_map(move |set| beyond(set, after))
    }

    /// Likewise, for the partitions without a leader.
    pub fn leaderless_after(&self, after: Option<TopicIdPartition>) -> impl Iterator<Item = TopicIdPartition> + '_ {
        beyond(&self.leaderless, after)
    }

    /// Likewise, for the partitions that have a replica on the broker.
    pub fn hosted_after(
        &self,
        broker: BrokerId,
        after: Option<TopicIdPartition>,
    ) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.hosted.get(&broker).into_iter().flat_map(move |set| beyond(set, after))
    }

    pub fn imbalanced(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.imbalanced.iter().copied()
    }

    /// Likewise, for the partitions that are being reassigned.
    pub fn reassigning_after(&self, after: Option<TopicIdPartition>) -> impl Iterator<Item = TopicIdPartition> + '_ {
        beyond(&self.reassigning, after)
    }

    pub fn reassigning(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.reassigning.iter().copied()
    }

    /// How many partitions are being moved to the broker.
    pub fn adding_count(&self, broker: BrokerId) -> usize {
        self.adding.get(&broker).map_or(0, OrdSet::len)
    }

    /// Every broker that is in some ISR, live or not.
    pub fn in_sync_brokers(&self) -> impl Iterator<Item = BrokerId> + '_ {
        self.in_sync.keys().copied()
    }

    pub fn is_leaderless(&self, partition: &TopicIdPartition) -> bool {
        self.leaderless.contains(partition)
    }

    pub fn is_imbalanced(&self, partition: &TopicIdPartition) -> bool {
        self.imbalanced.contains(partition)
    }

    pub fn is_led(&self, broker: BrokerId, partition: &TopicIdPartition) -> bool {
        self.led.get(&broker).is_some_and(|led| led.contains(partition))
    }

    /// Every partition that has an ELR, some more than once.
    pub fn with_elr(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.eligible.values().flat_map(|set| set.iter().copied())
    }

    /// One partition went from `old` to `new`. Sets whose membership stays are not touched: a fencing changes tens of
    /// thousands of partitions, in every image of the cluster.
    pub fn change(&mut self, partition: TopicIdPartition, old: Option<&PartitionState>, new: Option<&PartitionState>) {
        self.count = self.count + usize::from(new.is_some()) - usize::from(old.is_some());
        reindex(&mut self.hosted, partition, replicas(old), replicas(new));
        reindex(&mut self.led, partition, leader(old), leader(new));
        reindex(&mut self.in_sync, partition, isr(old), isr(new));
        reindex(&mut self.eligible, partition, elr(old), elr(new));
        reindex(&mut self.adding, partition, adding(old), adding(new));
        let mark = |set: &mut OrdSet<TopicIdPartition>, is_member: fn(&PartitionState) -> bool| {
            let (was, is) = (old.is_some_and(is_member), new.is_some_and(is_member));
            if is && !was {
                set.insert(partition);
            } else if was && !is {
                set.remove(&partition);
            }
        };
        mark(&mut self.leaderless, |state| !state.has_leader());
        mark(&mut self.imbalanced, PartitionState::is_imbalanced);
        mark(&mut self.reassigning, PartitionState::is_reassigning);
    }
}

fn replicas(state: Option<&PartitionState>) -> impl Iterator<Item = BrokerId> + Clone + '_ {
    state.into_iter().flat_map(|state| state.replicas.iter().copied())
}

fn adding(state: Option<&PartitionState>) -> impl Iterator<Item = BrokerId> + Clone + '_ {
    state.into_iter().flat_map(|state| state.adding().iter().copied())
}

fn leader(state: Option<&PartitionState>) -> impl Iterator<Item = BrokerId> + Clone + '_ {
    state.filter(|state| state.has_leader()).map(|state| state.leader).into_iter()
}

fn isr(state: Option<&PartitionState>) -> impl Iterator<Item = BrokerId> + Clone + '_ {
    state.into_iter().flat_map(PartitionState::isr_ids)
}

fn elr(state: Option<&PartitionState>) -> impl Iterator<Item = BrokerId> + Clone + '_ {
    state.into_iter().flat_map(|state| state.elr.iter().copied())
}

fn members(index: &ByBroker, broker: BrokerId) -> impl Iterator<Item = TopicIdPartition> + '_ {
    index.get(&broker).into_iter().flat_map(|set| set.iter().copied())
}

fn beyond(
    set: &OrdSet<TopicIdPartition>,
    after: Option<TopicIdPartition>,
) -> impl Iterator<Item = TopicIdPartition> + '_ {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    set.range((from, Bound::Unbounded)).copied()
}

fn reindex(
    index: &mut ByBroker,
    partition: TopicIdPartition,
    old: impl Iterator<Item = BrokerId> + Clone,
    new: impl Iterator<Item = BrokerId> + Clone,
) {
    for broker in old.clone().filter(|broker| !new.clone().any(|stays| stays == *broker)) {
        let Some(set) = index.get_mut(&broker) else { continue };
        set.remove(&partition);
        if set.is_empty() {
            index.remove(&broker);
        }
    }
    for broker in new.filter(|broker| !old.clone().any(|was| was == *broker)) {
        index.entry(broker).or_default().insert(partition);
    }
}
