//! The range assignor: each topic is cut into as many contiguous ranges as it has readers.
//!
//! Readers are taken in the same order for every topic, static members first by their instance ids, so topics with as
//! many partitions and the same readers are cut alike (co-partitioning), and a static member that comes back gets its
//! ranges again.

use std::collections::BTreeMap;

use ottla_model::TopicId;

use super::{GroupSpec, MemberSpec, Partitions, partition_at};

/// How far one topic has been given out.
struct Cut {
    partitions: usize,
    readers: usize,
    served: usize,
    next: usize,
}

pub(super) fn assign(spec: &GroupSpec<'_>) -> Vec<Partitions> {
    let mut order: Vec<(usize, &MemberSpec<'_>)> = spec.members.iter().enumerate().collect();
    order.sort_by_key(|(_, member)| (member.instance.is_none(), member.instance, member.member));
    let mut cuts: BTreeMap<TopicId, Cut> = BTreeMap::new();
    for topic in spec.members.iter().flat_map(|member| member.subscribed.iter()) {
        cuts.entry(*topic)
            .or_insert_with(|| Cut { partitions: spec.partitions_of(*topic), readers: 0, served: 0, next: 0 })
            .readers += 1;
    }
    let mut assigned = vec![Partitions::new(); spec.members.len()];
    for (index, member) in order {
        for topic in member.subscribed.iter() {
            let Some(cut) = cuts.get_mut(topic) else { continue };
            // The first `partitions % readers` readers get one more.
            let extra = usize::from(cut.served < cut.partitions % cut.readers);
            let end = cut.next + cut.partitions / cut.readers + extra;
            if end > cut.next
                && let Some(partitions) = assigned.get_mut(index)
            {
                partitions.insert(*topic, (cut.next..end).map(partition_at).collect());
            }
            cut.served += 1;
            cut.next = end;
        }
    }
    assigned
}
