//! The uniform assignor where all members read the same topics.
//!
//! Loads differ by one at most, and no member gives up more than that takes: the larger shares go to members that hold
//! more than the smaller share already. (Kafka hands the larger shares out in the order of its hash map, and so may
//! move a partition for nothing.)

use std::collections::BTreeMap;

use ottla_model::TopicId;

use super::{GroupSpec, Partitions, index_of, partition_at};

/// Which partitions of each topic have an owner.
type Taken = BTreeMap<TopicId, Vec<bool>>;

pub(super) fn assign(spec: &GroupSpec<'_>) -> Vec<Partitions> {
    let Some(first) = spec.members.first() else { return Vec::new() };
    let mut taken: Taken =
        first.subscribed.iter().map(|topic| (*topic, vec![false; spec.partitions_of(*topic)])).collect();
    let total: usize = taken.values().map(Vec::len).sum();
    let mut quotas = quotas(spec, total, &taken);
    let mut assigned = vec![Partitions::new(); spec.members.len()];

    for ((member, quota), mine) in spec.members.iter().zip(&mut quotas).zip(&mut assigned) {
        // What the member has is looked up among the topics, and not every topic with the member: members times topics
        // may be millions.
        for (topic, current) in member.current {
            let Some(taken) = taken.get_mut(topic) else { continue };
            for partition in current {
                let Some(taken) = taken.get_mut(index_of(*partition)) else { break };
                if *quota > 0 && !*taken {
                    *taken = true;
                    *quota -= 1;
                    mine.entry(*topic).or_default().insert(*partition);
                }
            }
        }
    }

    let mut free = taken.iter().flat_map(|(topic, taken)| {
        taken.iter().enumerate().filter(|(_, taken)| !**taken).map(|(index, _)| (*topic, partition_at(index)))
    });
    for (quota, mine) in quotas.into_iter().zip(&mut assigned) {
        for (topic, partition) in free.by_ref().take(quota) {
            mine.entry(topic).or_default().insert(partition);
        }
    }
    assigned
}

/// How many partitions each member shall own; they add up to `total`.
fn quotas(spec: &GroupSpec<'_>, total: usize, topics: &Taken) -> Vec<usize> {
    let (least, mut larger) = (total / spec.members.len(), total % spec.members.len());
    let held = spec.members.iter().map(|member| {
        member
            .current
            .iter()
            .filter_map(|(topic, held)| Some((held, topics.get(topic)?.len())))
            .map(|(held, count)| held.iter().take_while(|partition| index_of(**partition) < count).count())
            .sum::<usize>()
    });
    let mut quotas: Vec<usize> = held
        .map(|held| {
            let one_more = held > least && larger > 0;
            larger -= usize::from(one_more);
            least + usize::from(one_more)
        })
        .collect();
    for quota in quotas.iter_mut().filter(|quota| **quota == least).take(larger) {
        *quota += 1;
    }
    quotas
}
