//! Internal topics that get more replicas as brokers join: they may have been created when the cluster had one broker.
//!
//! The remaining work is in the tree (a topic's `grows_to` and its replicas), so a change of controller loses nothing.
//! A new replica is an ordinary follower: it fetches, and joins the ISR when it has caught up.

use std::collections::BTreeMap;

use ottla_model::{BrokerId, PartitionId, TopicIdPartition};

use super::Controller;
use super::draft::Draft;
use super::work::PARTITIONS_PER_TRANSACTION;
use crate::image::{Image, PartitionState, TopicImage};
use crate::nodes;
use crate::nodes::topic::TopicNode;

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
        let mut assignment = (*topic.assignment).clone();
        let mut draft = Draft::default();
        let mut grown = 0;
        for (partition, replicas) in &mut assignment {
            if grown == PARTITIONS_PER_TRANSACTION {
                break;
            }
            if replicas.len() >= wanted || !add_replicas(ahead, &mut load, *partition, replicas, wanted) {
                continue;
            }
            let Some(state) = topic.partition(*partition) else { continue };
            let next = PartitionState { partition_epoch: state.partition_epoch.next(), ..(**state).clone() };
            draft.partition(tree, ahead, TopicIdPartition { topic_id: topic.id, partition: *partition }, &next);
            grown += 1;
        }
        if grown == 0 {
            return None;
        }
        let node = nodes::topic::encode(&TopicNode { id: topic.id, assignment, grows_to: topic.grows_to });
        draft.put(tree, nodes::topic::path(&topic.name), node);
        if !draft.is_within_limits() {
            return None;
        }
        Some((draft, format!("{grown} partitions of {} get more replicas", topic.name)))
    }
}

/// The brokers that may take replicas, with the number that each has of the topic.
fn load_of(image: &Image, topic: &TopicImage) -> BTreeMap<BrokerId, usize> {
    let mut load: BTreeMap<_, _> =
        image.brokers().filter(|broker| broker.is_active()).map(|broker| (broker.id, 0)).collect();
    for broker in topic.assignment.iter().flat_map(|(_, replicas)| replicas) {
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
