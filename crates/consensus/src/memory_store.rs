//! A log store in memory, for tests and simulation. It knows which writes were synced: [`MemoryStore::crash`] loses the
//! others, as a machine without power would.

use std::collections::BTreeMap;

use crate::effects::Persist;
use crate::log_store::{ConfState, Entry, HardState, InitialState, LogStore, Snapshot, StoreError};

#[derive(Clone, Default, Debug)]
struct State {
    hard_state: HardState,
    conf_state: ConfState,
    /// The index of the snapshot before the first entry.
    compacted_index: u64,
    compacted_term: u64,
    entries: BTreeMap<u64, Entry>,
}

impl State {
    fn write(&mut self, write: &Write) {
        match write {
            Write::Persist(persist) => {
                if let Some(snapshot) = &persist.snapshot {
                    let metadata = snapshot.get_metadata();
                    self.compacted_index = metadata.index;
                    self.compacted_term = metadata.term;
                    self.conf_state = metadata.get_conf_state().clone();
                    self.entries.clear();
                }
                if let Some(first) = persist.entries.first() {
                    self.entries.split_off(&first.index);
                    self.entries.extend(persist.entries.iter().map(|entry| (entry.index, entry.clone())));
                }
                if let Some(hard_state) = &persist.hard_state {
                    self.hard_state = hard_state.clone();
                }
            }
            Write::Bootstrap(conf_state) | Write::Membership(conf_state) => self.conf_state = conf_state.clone(),
            Write::Compact(through) => {
                if let Some(entry) = self.entries.get(through) {
                    self.compacted_term = entry.term;
                    self.compacted_index = *through;
                    self.entries = self.entries.split_off(&(through + 1));
                }
            }
        }
    }

    fn last_index(&self) -> u64 {
        self.entries.last_key_value().map_or(self.compacted_index, |(&index, _)| index)
    }
}

#[derive(Clone, Debug)]
enum Write {
    Persist(Persist),
    Bootstrap(ConfState),
    Membership(ConfState),
    Compact(u64),
}

/// Holds the current state, the durable one, and the writes between the two.
#[derive(Clone, Default, Debug)]
pub struct MemoryStore {
    current: State,
    durable: State,
    unsynced: Vec<Write>,
    /// The result of [`LogStore::snapshot`]; the owner stores it here.
    snapshot: Option<Snapshot>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    fn write(&mut self, write: Write, sync: bool) {
        self.current.write(&write);
        self.unsynced.push(write);
        if sync {
            for write in self.unsynced.drain(..) {
                self.durable.write(&write);
            }
        }
    }

    /// Loses every write after the last synced one.
    pub fn crash(&mut self) {
        self.current = self.durable.clone();
        self.unsynced.clear();
        self.snapshot = None;
    }

    /// The state machine's owner made a snapshot.
    pub fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    /// An entry changed the membership. Synced: a member that starts with the former membership may need the vote of
    /// one that is gone, or not know that it has a vote itself.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.write(Write::Membership(conf_state), true);
    }

    pub fn forget_snapshot(&mut self) {
        self.snapshot = None;
    }

    pub fn hard_state(&self) -> &HardState {
        &self.current.hard_state
    }

    pub fn conf_state(&self) -> &ConfState {
        &self.current.conf_state
    }

    /// Bytes of the entries that the log holds.
    pub fn log_bytes(&self) -> u64 {
        self.current.entries.values().map(entry_bytes).sum()
    }

    /// The greatest index that can be forgotten so that at least `keep_bytes` of entries stay.
    pub fn index_with_tail(&self, keep_bytes: u64) -> u64 {
        let mut kept = 0;
        for (index, entry) in self.current.entries.iter().rev() {
            if kept >= keep_bytes {
                return *index;
            }
            kept += entry_bytes(entry);
        }
        self.current.compacted_index
    }

    /// Of the hard state that a crash now would leave.
    pub fn durable_hard_state(&self) -> &HardState {
        &self.durable.hard_state
    }

    /// The last entry that a crash now would leave.
    pub fn durable_last_index(&self) -> u64 {
        self.durable.last_index()
    }
}

fn entry_bytes(entry: &Entry) -> u64 {
    u64::from(protobuf::Message::compute_size(entry))
}

impl LogStore for MemoryStore {
    fn initial_state(&self) -> Result<InitialState, StoreError> {
        Ok(InitialState { hard_state: self.current.hard_state.clone(), conf_state: self.current.conf_state.clone() })
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StoreError> {
        if low < self.first_index() {
            return Err(StoreError::Compacted);
        }
        if high > self.last_index() + 1 {
            return Err(StoreError::Unavailable);
        }
        let mut taken = Vec::new();
        let mut bytes = 0u64;
        for (_, entry) in self.current.entries.range(low..high.max(low)) {
            bytes += entry_bytes(entry);
            if bytes > max_bytes && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> Result<u64, StoreError> {
        if index == self.current.compacted_index {
            return Ok(self.current.compacted_term);
        }
        if index < self.current.compacted_index {
            return Err(StoreError::Compacted);
        }
        self.current.entries.get(&index).map(|entry| entry.term).ok_or(StoreError::Unavailable)
    }

    fn first_index(&self) -> u64 {
        self.current.compacted_index + 1
    }

    fn last_index(&self) -> u64 {
        self.current.last_index()
    }

    fn snapshot(&self, at_least: u64) -> Result<Option<Snapshot>, StoreError> {
        let oldest = at_least.max(self.current.compacted_index);
        Ok(self.snapshot.clone().filter(|snapshot| snapshot.get_metadata().index >= oldest.max(1)))
    }

    fn persist(&mut self, persist: &Persist) -> Result<(), StoreError> {
        self.write(Write::Persist(persist.clone()), persist.must_sync);
        Ok(())
    }

    fn bootstrap(&mut self, conf_state: ConfState) -> Result<(), StoreError> {
        self.write(Write::Bootstrap(conf_state), true);
        Ok(())
    }

    fn compact(&mut self, through: u64) -> Result<(), StoreError> {
        self.write(Write::Compact(through), false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        crate::conformance::run(MemoryStore::new, |store| store);
    }

    #[test]
    fn a_crash_loses_what_was_not_synced() {
        let entry = |index| Entry { index, term: 1, ..Entry::default() };
        let mut store = MemoryStore::new();
        let synced = Persist { entries: vec![entry(1)], must_sync: true, ..Persist::default() };
        store.persist(&synced).expect("memory");
        let unsynced = Persist { entries: vec![entry(2)], must_sync: false, ..Persist::default() };
        store.persist(&unsynced).expect("memory");
        assert_eq!(store.last_index(), 2);
        store.crash();
        assert_eq!(store.last_index(), 1);
    }
}
