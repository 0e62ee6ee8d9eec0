//! Which replica of each partition is preferred as leader: a matter of order, which copies nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ottla_model::BrokerId;

use super::Band;

/// Changes the first replicas so that every taker leads its share, with as few changes as the ways between them allow.
/// The partitions that prefer another broker stay as they are, and belong to nobody's share.
pub fn balance(replicas: &mut [Vec<BrokerId>], takers: &BTreeSet<BrokerId>) {
    let mut leads: BTreeMap<BrokerId, u64> = takers.iter().map(|broker| (*broker, 0)).collect();
    for first in replicas.iter().filter_map(|replicas| replicas.first()) {
        leads.entry(*first).and_modify(|count| *count += 1);
    }
    let total = leads.values().sum();
    let band = Band::of_count(total, u64::try_from(takers.len()).unwrap_or(u64::MAX));
    let mut given_up = BTreeSet::new();
    loop {
        let excess = |broker: &BrokerId| leads.get(broker).copied().unwrap_or(0);
        let candidates = || leads.keys().copied().filter(|broker| !given_up.contains(broker));
        // One that leads too much gives to one that leads less; then one that leads too little gets from one that can.
        let most = candidates().filter(|b| band.excess(excess(b)) > 0).max_by_key(|b| (excess(b), *b));
        let least = candidates().filter(|b| band.lack(excess(b)) > 0).min_by_key(|b| (excess(b), *b));
        let way = match (most, least) {
            (Some(most), _) => way(replicas, takers, most, |b| excess(&b) + 1 < excess(&most), false),
            (None, Some(least)) => way(replicas, takers, least, |b| excess(&b) > excess(&least) + 1, true),
            (None, None) => return,
        };
        let Some(way) = way else {
            // No order of replicas helps this one.
            given_up.extend(most.or(least));
            continue;
        };
        for (partition, to) in way {
            let Some(list) = replicas.get_mut(partition) else { continue };
            let Some(at) = list.iter().position(|broker| *broker == to) else { continue };
            if let Some(from) = list.first().copied() {
                leads.entry(from).and_modify(|count| *count = count.saturating_sub(1));
            }
            *leads.entry(to).or_default() += 1;
            list.swap(0, at);
        }
    }
}

/// The shortest chain of partitions by which a leadership goes from `start` to a broker that satisfies `is_end`, or,
/// backwards, comes from one. Each step: the partition, and the replica that it prefers then.
fn way(
    replicas: &[Vec<BrokerId>],
    takers: &BTreeSet<BrokerId>,
    start: BrokerId,
    is_end: impl Fn(BrokerId) -> bool,
    is_backwards: bool,
) -> Option<Vec<(usize, BrokerId)>> {
    let mut edges: BTreeMap<BrokerId, BTreeMap<BrokerId, usize>> = BTreeMap::new();
    for (partition, list) in replicas.iter().enumerate() {
        let Some((first, others)) = list.split_first().filter(|(first, _)| takers.contains(*first)) else { continue };
        for other in others.iter().filter(|other| takers.contains(*other)) {
            let (from, to) = if is_backwards { (other, first) } else { (first, other) };
            edges.entry(*from).or_default().entry(*to).or_insert(partition);
        }
    }
    let mut reached: BTreeMap<BrokerId, (BrokerId, usize)> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        if at != start && is_end(at) {
            let mut steps = Vec::new();
            let mut here = at;
            while here != start {
                let (previous, partition) = *reached.get(&here)?;
                steps.push((partition, if is_backwards { previous } else { here }));
                here = previous;
            }
            return Some(steps);
        }
        for (next, partition) in edges.get(&at).into_iter().flatten() {
            if *next != start && !reached.contains_key(next) {
                reached.insert(*next, (at, *partition));
                queue.push_back(*next);
            }
        }
    }
    None
}
