//! Names of topics, each kept once however many groups have committed for it.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Stands for a topic's name within one shard, for as long as something holds it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct TopicNumber(u32);

impl TopicNumber {
    pub(super) const MIN: Self = Self(u32::MIN);
    pub(super) const MAX: Self = Self(u32::MAX);
}

#[derive(Debug, Default)]
pub(super) struct TopicNames {
    numbers: BTreeMap<Arc<str>, TopicNumber>,
    names: BTreeMap<TopicNumber, Named>,
    next: u32,
}

#[derive(Debug)]
struct Named {
    name: Arc<str>,
    holders: u64,
}

impl TopicNames {
    /// The number of a name that something holds.
    pub(super) fn number(&self, name: &str) -> Option<TopicNumber> {
        self.numbers.get(name).copied()
    }

    /// The name of a number that something holds.
    pub(super) fn name(&self, number: TopicNumber) -> &str {
        self.names.get(&number).map_or("", |named| &named.name)
    }

    /// Gives the name a number, or counts one more holder of it.
    pub(super) fn hold(&mut self, name: &str) -> TopicNumber {
        if let Some(number) = self.number(name) {
            if let Some(named) = self.names.get_mut(&number) {
                named.holders += 1;
            }
            return number;
        }
        // Numbers come round again after four thousand million names; those in use are stepped over.
        while self.names.contains_key(&TopicNumber(self.next)) {
            self.next = self.next.wrapping_add(1);
        }
        let number = TopicNumber(self.next);
        self.next = self.next.wrapping_add(1);
        let name: Arc<str> = name.into();
        self.numbers.insert(Arc::clone(&name), number);
        self.names.insert(number, Named { name, holders: 1 });
        number
    }

    /// One holder less; the last one takes the name along.
    pub(super) fn release(&mut self, number: TopicNumber) {
        let Some(named) = self.names.get_mut(&number) else { return };
        named.holders = named.holders.saturating_sub(1);
        if named.holders == 0 {
            let name = Arc::clone(&named.name);
            self.names.remove(&number);
            self.numbers.remove(&name);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}
