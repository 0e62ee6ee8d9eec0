//! Internal topics that get more replicas as brokers join: they may have been created when the cluster had one broker.
//!
//! The remaining work is in the tree (a topic's `grows_to` and its replicas), so a change of controller loses nothing.
//! A new replica is an ordinary follower: it fetches, and joins the ISR when it has caught up.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_model::{BrokerId, PartitionId, TopicIdPartition};

use super::Controller;
use super::draft::Draft;
use super::work_queue::PARTITIONS_PER_TRANSACTION;
use crate::image::{BrokerRegistration, Image, PartitionState, TopicImage};

/// The topics that may grow; looked up by name, to avoid a scan of all topics.
const GROWING_TOPICS: [&str; 3] = ["__consumer_offsets", "__transaction_state", "__share_group_state"];

impl Controller {
    /// The next batch of replicas to add; none if there is nothing to do.
    pub(super) fn next_growth(&mut self) -> Option<Draft> {
        if !self.may_grow {
            return None;
        }
        let drafts = GROWING_TOPICS.iter().find_map(|name| self.growth_of(self.ledger.ahead().topic(name)?));
        let Some((draft, note)) = drafts else {
            self.may_grow = false;
            return None;
        };
        self.note(note);
        Some(draft)
    }

    fn growth_of(&self, topic: &TopicImage) -> Option<(Draft, String)> {
        let wanted = usize::try_from(topic.grows_to).unwrap_or(0);
        let (ahead, tree) = (self.ledger.ahead(), self.ledger.ahead_tree());
        let mut load = load_of(ahead, topic);
        let mut draft = Draft::default();
        let mut grown = 0;
        for (partition, state) in topic.partitions() {
            if grown == PARTITIONS_PER_TRANSACTION {
                break;
            }
            let mut replicas = state.replicas.clone();
            if state.is_reassigning()
                || topic.queued(partition).is_some()
                || replicas.len() >= wanted
                || !add_replicas(ahead, &mut load, partition, &mut replicas, wanted)
            {
                continue;
            }
            let partition_epoch = state.partition_epoch.next();
            let next = PartitionState { replicas, partition_epoch, ..(**state).clone() };
            draft.partition(tree, ahead, TopicIdPartition { topic_id: topic.id, partition }, &next);
            grown += 1;
        }
        if grown == 0 {
            return None;
        }
        draft.seal(tree);
        if !draft.is_within_limits() {
            return None;
        }
        Some((draft, format!("{grown} partitions of {} get more replicas", topic.name)))
    }
}

/// The brokers that may take replicas, with the number that each has of the topic.
fn load_of(image: &Image, topic: &TopicImage) -> BTreeMap<BrokerId, usize> {
    let may_take = |broker: &&Arc<BrokerRegistration>| broker.is_active() && !image.is_cordoned(broker.id);
    let mut load: BTreeMap<_, _> = image.brokers().filter(may_take).map(|broker| (broker.id, 0)).collect();
    for broker in topic.assignment.iter().flat_map(|(_, assignment)| &assignment.replicas) {
        if let Some(count) = load.get_mut(broker) {
            *count += 1;
        }
    }
    load
}

/// Adds the brokers with the fewest replicas, from racks that the partition does not use yet if there are any. Returns
/// whether it added one.
fn add_replicas(
    image: &Image,
    load: &mut BTreeMap<BrokerId, usize>,
    partition: PartitionId,
    replicas: &mut Vec<BrokerId>,
    wanted: usize,
) -> bool {
    let before = replicas.len();
    while replicas.len() < wanted {
        let rack_of = |broker: BrokerId| image.broker(broker).and_then(|broker| broker.rack.as_deref());
        let shares_rack = |broker: BrokerId| {
            rack_of(broker).is_some_and(|rack| replicas.iter().any(|other| rack_of(*other) == Some(rack)))
        };
        let candidates = load.iter().filter(|(broker, _)| !replicas.contains(broker));
        let best = candidates.min_by_key(|(broker, count)| (shares_rack(**broker), **count, **broker));
        let Some(broker) = best.map(|(broker, _)| *broker) else { break };
        if let Some(count) = load.get_mut(&broker) {
            *count += 1;
        }
        replicas.push(broker);
    }
    if replicas.len() == before {
        return false;
    }
    // The first of them is preferred as leader: all partitions were made on the same few brokers, and should not stay
    // there.
    let turn = usize::try_from(partition.0).unwrap_or(0) % replicas.len();
    replicas.rotate_left(turn);
    true
}

#[cfg(test)]
mod tests {
    use super::super::tests::harness::{Cluster, new_topic};
    use super::*;
    use crate::controller::{NewTopic, Request};

    fn grown(image: &Image, load: &[(i32, usize)], replicas: &[i32], wanted: usize) -> Vec<i32> {
        let mut load = load.iter().map(|(broker, count)| (BrokerId(*broker), *count)).collect();
        let mut replicas = replicas.iter().copied().map(BrokerId).collect();
        add_replicas(image, &mut load, PartitionId(0), &mut replicas, wanted);
        replicas.into_iter().map(|broker| broker.0).collect()
    }

    #[test]
    fn the_least_loaded_brokers_are_added_and_no_more_than_wanted() {
        let cluster = Cluster::of(4);
        assert_eq!(grown(&cluster.image, &[(1, 5), (2, 1), (3, 3), (4, 2)], &[1], 3), [1, 2, 4]);
        assert_eq!(grown(&cluster.image, &[(1, 5), (2, 1), (3, 3), (4, 2)], &[1, 2, 4], 3), [1, 2, 4]);
    }

    #[test]
    fn racks_that_a_partition_does_not_use_come_first() {
        let mut cluster = Cluster::new();
        for (id, rack) in [(1, "a"), (2, "a"), (3, "b")] {
            let register = cluster.registration(id, u8::try_from(id).expect("small"), ottla_model::BrokerEpoch::NONE);
            let rack = Some(rack.to_owned());
            cluster.ask(Request::Register(crate::controller::Register { rack, ..register }));
        }
        assert_eq!(grown(&cluster.image, &[(1, 0), (2, 0), (3, 9)], &[1], 2), [1, 3]);
    }

    #[test]
    fn the_load_is_the_number_of_replicas_of_active_brokers() {
        let mut cluster = Cluster::of(3);
        cluster.create("t", &[&[1, 2], &[1, 3], &[1, 2]], &[]);
        cluster.kill(3);
        cluster.register(4, 77, ottla_model::BrokerEpoch::NONE).expect("it registers, and is not ready");
        let load = load_of(&cluster.image, cluster.image.topic("t").expect("is there"));
        assert_eq!(load, BTreeMap::from([(BrokerId(1), 3), (BrokerId(2), 2)]));
    }

    /// Each replica counts as soon as it is placed: the next partition takes another broker.
    #[test]
    fn a_topic_grows_evenly_over_brokers_that_joined_together() {
        let mut cluster = Cluster::of(1);
        let growing = NewTopic { grows_to: 2, partitions: 12, ..new_topic("__consumer_offsets", &[], &[]) };
        cluster.ask(Request::CreateTopics(crate::controller::CreateTopics {
            topics: vec![growing],
            validate_only: false,
            default_partitions: 1,
            default_replication_factor: 1,
        }));
        let image = (*cluster.image).clone();
        let topic = image.topic("__consumer_offsets").expect("is there");
        let mut load: BTreeMap<_, _> = [(1, 12), (2, 0), (3, 0), (4, 0)].map(|(id, n)| (BrokerId(id), n)).into();
        for (partition, replicas) in topic.assignment.iter() {
            assert!(add_replicas(&image, &mut load, *partition, &mut replicas.replicas.clone(), 2));
        }
        assert_eq!(load.into_values().collect::<Vec<_>>(), [12, 4, 4, 4]);
    }
}
