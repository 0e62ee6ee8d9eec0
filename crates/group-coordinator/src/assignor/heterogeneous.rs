//! The uniform assignor where members read different topics.
//!
//! Members keep what they still read; what nobody has goes to the reader with the least load, topics with few readers
//! first; then partitions move from the most to the least loaded reader of a topic until no topic has readers whose
//! loads differ by more than one, or [`PASSES_MAX`] rounds over the topics are over (only overlapping, unequal
//! subscriptions take more than two).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use ottla_model::TopicId;

use super::{GroupSpec, Partitions, index_of, partition_at};

/// Kafka's bound: each round about halves what is left to move.
const PASSES_MAX: usize = 16;

/// A topic on its way to new owners.
struct Topic {
    id: TopicId,
    /// Indices of members, ascending.
    readers: Vec<usize>,
    /// The owner of each partition.
    owners: Vec<Option<usize>>,
}

pub(super) fn assign(spec: &GroupSpec<'_>) -> Vec<Partitions> {
    let mut topics = read_topics(spec);
    let mut loads = keep(spec, &mut topics);
    // Most partitions per reader first, then the fewest readers: what can go to few goes before they are full.
    topics.sort_by(|a, b| {
        let (left, right) = (a.owners.len() * b.readers.len(), b.owners.len() * a.readers.len());
        right.cmp(&left).then(a.readers.len().cmp(&b.readers.len())).then(a.id.cmp(&b.id))
    });
    for topic in &mut topics {
        give_out(topic, &mut loads);
    }
    for _ in 0..PASSES_MAX {
        let moved: usize = topics.iter_mut().map(|topic| balance(topic, &mut loads)).sum();
        if moved == 0 {
            break;
        }
    }
    let mut assigned = vec![Partitions::new(); spec.members.len()];
    for topic in &topics {
        for (index, owner) in topic.owners.iter().enumerate() {
            if let Some(mine) = owner.and_then(|owner| assigned.get_mut(owner)) {
                mine.entry(topic.id).or_default().insert(partition_at(index));
            }
        }
    }
    assigned
}

fn read_topics(spec: &GroupSpec<'_>) -> Vec<Topic> {
    let mut readers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (index, member) in spec.members.iter().enumerate() {
        for topic in member.subscribed.iter() {
            readers.entry(*topic).or_default().push(index);
        }
    }
    let topic = |(id, readers)| Topic { id, readers, owners: vec![None; spec.partitions_of(id)] };
    readers.into_iter().map(topic).collect()
}

/// Leaves members what they have and still read; how much each has. `topics` are in the order of their ids.
fn keep(spec: &GroupSpec<'_>, topics: &mut [Topic]) -> Vec<usize> {
    let mut loads = vec![0; spec.members.len()];
    for (index, (member, load)) in spec.members.iter().zip(&mut loads).enumerate() {
        for (id, partitions) in member.current.iter().filter(|(id, _)| member.subscribed.contains(id)) {
            let Some(topic) = topics.binary_search_by_key(id, |topic| topic.id).ok().and_then(|at| topics.get_mut(at))
            else {
                continue;
            };
            for partition in partitions {
                if let Some(owner @ None) = topic.owners.get_mut(index_of(*partition)) {
                    *owner = Some(index);
                    *load += 1;
                }
            }
        }
    }
    loads
}

fn load_of(loads: &[usize], member: usize) -> usize {
    loads.get(member).copied().unwrap_or(0)
}

fn add(loads: &mut [usize], member: usize, change: isize) {
    if let Some(load) = loads.get_mut(member) {
        *load = load.saturating_add_signed(change);
    }
}

/// Gives every partition without an owner to the reader with the least load.
fn give_out(topic: &mut Topic, loads: &mut [usize]) {
    if topic.owners.iter().all(Option::is_some) {
        return;
    }
    let mut least: BinaryHeap<_> =
        topic.readers.iter().map(|reader| Reverse((load_of(loads, *reader), *reader))).collect();
    for owner in topic.owners.iter_mut().filter(|owner| owner.is_none()) {
        let Some(mut top) = least.peek_mut() else { return };
        let Reverse((load, reader)) = *top;
        *owner = Some(reader);
        *top = Reverse((load + 1, reader));
        add(loads, reader, 1);
    }
}

/// Moves the topic's partitions until its readers' loads differ by one at most, as far as the most loaded have some of
/// it. How many moved.
fn balance(topic: &mut Topic, loads: &mut [usize]) -> usize {
    let least = topic.readers.iter().map(|reader| load_of(loads, *reader)).min().unwrap_or(0);
    let most = topic.owners.iter().flatten().map(|owner| load_of(loads, *owner)).max().unwrap_or(0);
    if most <= least + 1 {
        return 0;
    }
    let mut held: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (partition, owner) in topic.owners.iter().enumerate() {
        if let Some(owner) = owner {
            held.entry(*owner).or_default().push(partition);
        }
    }
    let mut readers: BTreeSet<(usize, usize)> =
        topic.readers.iter().map(|reader| (load_of(loads, *reader), *reader)).collect();
    let mut givers: BTreeSet<(usize, usize)> = held.keys().map(|owner| (load_of(loads, *owner), *owner)).collect();
    let mut moved = 0;
    while let (Some((low, taker)), Some((high, giver))) = (readers.first().copied(), givers.last().copied()) {
        if high <= low + 1 {
            break;
        }
        let Some(partition) = held.get_mut(&giver).and_then(Vec::pop) else {
            givers.remove(&(high, giver));
            continue;
        };
        if let Some(owner) = topic.owners.get_mut(partition) {
            *owner = Some(taker);
        }
        // A taker is never a giver of the same topic: its load stays below that of every giver.
        readers.remove(&(low, taker));
        readers.insert((low + 1, taker));
        readers.remove(&(high, giver));
        readers.insert((high - 1, giver));
        givers.remove(&(high, giver));
        givers.insert((high - 1, giver));
        if givers.remove(&(low, taker)) {
            givers.insert((low + 1, taker));
        }
        add(loads, taker, 1);
        add(loads, giver, -1);
        moved += 1;
    }
    moved
}
