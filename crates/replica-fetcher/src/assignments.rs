//! Which fetcher has a partition.

use std::collections::BTreeMap;

use ottla_model::TopicIdPartition;

/// The fetcher of each partition. `K` identifies a fetcher: the source broker, and any further key.
#[derive(Clone, Debug)]
pub struct Assignments<K> {
    fetchers: BTreeMap<TopicIdPartition, K>,
}

impl<K> Default for Assignments<K> {
    fn default() -> Self {
        Self { fetchers: BTreeMap::new() }
    }
}

/// The fetchers that must learn of a partition's change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reassigned<K> {
    /// Drops the partition.
    pub from: Option<K>,
    /// The fetcher that has it now; it may be the same as before.
    pub to: Option<K>,
}

impl<K: Copy + PartialEq> Assignments<K> {
    /// The partition is fetched by `fetcher` from now on; none: by none.
    pub fn assign(&mut self, partition: TopicIdPartition, fetcher: Option<K>) -> Reassigned<K> {
        let before = match fetcher {
            Some(fetcher) => self.fetchers.insert(partition, fetcher),
            None => self.fetchers.remove(&partition),
        };
        Reassigned { from: before.filter(|before| Some(*before) != fetcher), to: fetcher }
    }

    pub fn clear(&mut self) {
        self.fetchers.clear();
    }
}
