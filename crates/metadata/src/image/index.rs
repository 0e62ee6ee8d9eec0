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
    hosted: ByBroker,
    in_sync: ByBroker,
    eligible: ByBroker,
    leaderless: OrdSet<TopicIdPartition>,
    imbalanced: OrdSet<TopicIdPartition>,
    reassigning: OrdSet<TopicIdPartition>,
}

impl PartitionIndex {
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

    /// Likewise, for the partitions that another replica than the preferred one leads.
    pub fn imbalanced_after(&self, after: Option<TopicIdPartition>) -> impl Iterator<Item = TopicIdPartition> + '_ {
        beyond(&self.imbalanced, after)
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

    /// Every broker that is in some ISR, live or not.
    pub fn in_sync_brokers(&self) -> impl Iterator<Item = BrokerId> + '_ {
        self.in_sync.keys().copied()
    }

    pub fn is_leaderless(&self, partition: &TopicIdPartition) -> bool {
        self.leaderless.contains(partition)
    }

    /// Every partition that has an ELR, some more than once.
    pub fn with_elr(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.eligible.values().flat_map(|set| set.iter().copied())
    }

    /// One partition went from `old` to `new`.
    pub fn change(&mut self, partition: TopicIdPartition, old: Option<&PartitionState>, new: Option<&PartitionState>) {
        let replicas = |state: Option<&PartitionState>| state.map(|s| s.replicas.clone()).unwrap_or_default();
        let isr = |state: Option<&PartitionState>| -> Vec<BrokerId> {
            state.map(|s| s.isr_ids().collect()).unwrap_or_default()
        };
        let elr = |state: Option<&PartitionState>| state.map(|s| s.elr.clone()).unwrap_or_default();
        reindex(&mut self.hosted, partition, &replicas(old), &replicas(new));
        reindex(&mut self.in_sync, partition, &isr(old), &isr(new));
        reindex(&mut self.eligible, partition, &elr(old), &elr(new));
        mark(&mut self.leaderless, partition, new.is_some_and(|state| !state.has_leader()));
        mark(&mut self.imbalanced, partition, new.is_some_and(PartitionState::is_imbalanced));
        mark(&mut self.reassigning, partition, new.is_some_and(PartitionState::is_reassigning));
    }
}

fn mark(set: &mut OrdSet<TopicIdPartition>, partition: TopicIdPartition, is_member: bool) {
    match is_member {
        true => set.insert(partition),
        false => set.remove(&partition),
    };
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

fn reindex(index: &mut ByBroker, partition: TopicIdPartition, old: &[BrokerId], new: &[BrokerId]) {
    for broker in old.iter().filter(|broker| !new.contains(broker)) {
        let Some(set) = index.get_mut(broker) else { continue };
        set.remove(&partition);
        if set.is_empty() {
            index.remove(broker);
        }
    }
    for broker in new.iter().filter(|broker| !old.contains(broker)) {
        index.entry(*broker).or_default().insert(partition);
    }
}
