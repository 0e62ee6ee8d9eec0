//! The contract of [`LogStore`] as tests. A store's own tests call [`run`], which panics if the store violates the
//! contract.

use bytes::Bytes;

use crate::effects::Persist;
use crate::log_store::{ConfState, Entry, HardState, LogStore, Snapshot, StoreError};
use crate::membership::Membership;
use ottla_model::CoordinatorId;

/// `fresh` creates an empty store; `reopen` closes a store and opens it again from its files.
pub fn run<S: LogStore>(mut fresh: impl FnMut() -> S, mut reopen: impl FnMut(S) -> S) {
    starts_empty(fresh());
    remembers_membership_and_hard_state(fresh(), &mut reopen);
    appends_and_reads(fresh(), &mut reopen);
    replaces_a_conflicting_tail(fresh(), &mut reopen);
    bounds_what_it_reads(fresh());
    compacts(fresh(), &mut reopen);
    installs_a_snapshot(fresh(), &mut reopen);
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: Bytes::from(format!("entry {index} of term {term}")), ..Entry::default() }
}

fn append<S: LogStore>(store: &mut S, entries: Vec<Entry>) {
    let persist = Persist { entries, must_sync: true, ..Persist::default() };
    store.persist(&persist).expect("append");
}

fn conf_state() -> ConfState {
    Membership::new([1, 2, 3].map(CoordinatorId)).expect("three distinct voters").to_conf_state()
}

fn starts_empty<S: LogStore>(store: S) {
    let initial = store.initial_state().expect("readable");
    assert!(initial.conf_state.voters.is_empty(), "a fresh store has no voters");
    assert_eq!(initial.hard_state, HardState::default());
    assert_eq!((store.first_index(), store.last_index()), (1, 0));
    assert_eq!(store.term(0).expect("the term before the first entry"), 0);
    assert!(matches!(store.term(1), Err(StoreError::Unavailable)));
    assert!(store.entries(1, 1, u64::MAX).expect("an empty range").is_empty());
    assert!(matches!(store.entries(1, 2, u64::MAX), Err(StoreError::Unavailable)));
    assert!(store.snapshot(0).expect("readable").is_none(), "nothing to take a snapshot of");
}

fn remembers_membership_and_hard_state<S: LogStore>(mut store: S, reopen: &mut impl FnMut(S) -> S) {
    store.bootstrap(conf_state()).expect("bootstrap");
    let hard_state = HardState { term: 5, vote: 2, commit: 0, ..HardState::default() };
    let persist = Persist { hard_state: Some(hard_state.clone()), must_sync: true, ..Persist::default() };
    store.persist(&persist).expect("hard state");
    let store = reopen(store);
    let initial = store.initial_state().expect("readable");
    assert_eq!(initial.conf_state.voters, conf_state().voters);
    assert_eq!(initial.hard_state, hard_state);
}

fn appends_and_reads<S: LogStore>(mut store: S, reopen: &mut impl FnMut(S) -> S) {
    append(&mut store, vec![entry(1, 1), entry(2, 1)]);
    append(&mut store, vec![entry(3, 2)]);
    for _ in 0..2 {
        assert_eq!((store.first_index(), store.last_index()), (1, 3));
        assert_eq!(store.entries(1, 4, u64::MAX).expect("whole log"), vec![entry(1, 1), entry(2, 1), entry(3, 2)]);
        assert_eq!(store.entries(2, 3, u64::MAX).expect("one"), vec![entry(2, 1)]);
        assert_eq!(store.term(2).expect("term"), 1);
        assert_eq!(store.term(3).expect("term"), 2);
        assert!(matches!(store.entries(1, 5, u64::MAX), Err(StoreError::Unavailable)));
        store = reopen(store);
    }
}

fn replaces_a_conflicting_tail<S: LogStore>(mut store: S, reopen: &mut impl FnMut(S) -> S) {
    append(&mut store, vec![entry(1, 1), entry(2, 1), entry(3, 1), entry(4, 1)]);
    append(&mut store, vec![entry(2, 3), entry(3, 3)]);
    for _ in 0..2 {
        assert_eq!(store.last_index(), 3, "the old tail must be gone");
        assert_eq!(store.entries(1, 4, u64::MAX).expect("whole log"), vec![entry(1, 1), entry(2, 3), entry(3, 3)]);
        assert!(matches!(store.term(4), Err(StoreError::Unavailable)));
        store = reopen(store);
    }
}

fn bounds_what_it_reads<S: LogStore>(mut store: S) {
    append(&mut store, (1..=10).map(|index| entry(index, 1)).collect());
    assert_eq!(store.entries(3, 11, 0).expect("at least one"), vec![entry(3, 1)]);
    let two: u64 = [3, 4].iter().map(|&index| u64::from(protobuf::Message::compute_size(&entry(index, 1)))).sum();
    assert_eq!(store.entries(3, 11, two).expect("two fit").len(), 2);
    assert_eq!(store.entries(3, 11, two - 1).expect("one fits").len(), 1);
    assert_eq!(store.entries(1, 11, u64::MAX).expect("all").len(), 10);
}

fn compacts<S: LogStore>(mut store: S, reopen: &mut impl FnMut(S) -> S) {
    append(&mut store, (1..=10).map(|index| entry(index, index.div_ceil(4))).collect());
    store.compact(6).expect("compact");
    // Again, and earlier: nothing happens.
    store.compact(6).expect("compact");
    store.compact(2).expect("compact");
    for _ in 0..2 {
        assert_eq!((store.first_index(), store.last_index()), (7, 10));
        assert_eq!(store.term(6).expect("the last compacted entry's term stays"), 2);
        assert!(matches!(store.term(5), Err(StoreError::Compacted)));
        assert!(matches!(store.entries(6, 8, u64::MAX), Err(StoreError::Compacted)));
        assert_eq!(store.entries(7, 11, u64::MAX).expect("the rest").len(), 4);
        store = reopen(store);
    }
    store.compact(10).expect("compact all");
    for _ in 0..2 {
        assert_eq!((store.first_index(), store.last_index()), (11, 10));
        assert_eq!(store.term(10).expect("term"), 3);
        store = reopen(store);
    }
    append(&mut store, vec![entry(11, 4)]);
    assert_eq!((store.first_index(), store.last_index()), (11, 11));
}

fn installs_a_snapshot<S: LogStore>(mut store: S, reopen: &mut impl FnMut(S) -> S) {
    append(&mut store, vec![entry(1, 1), entry(2, 1), entry(3, 1)]);
    let mut snapshot = Snapshot::default();
    snapshot.data = crate::snapshot::Encoder::new().finish();
    snapshot.mut_metadata().index = 20;
    snapshot.mut_metadata().term = 4;
    snapshot.mut_metadata().set_conf_state(conf_state());
    let hard_state = HardState { term: 4, vote: 0, commit: 20, ..HardState::default() };
    let persist = Persist {
        snapshot: Some(snapshot),
        entries: vec![entry(21, 4)],
        hard_state: Some(hard_state.clone()),
        must_sync: true,
    };
    store.persist(&persist).expect("install");
    for _ in 0..2 {
        assert_eq!((store.first_index(), store.last_index()), (21, 21));
        assert_eq!(store.term(20).expect("the snapshot's term"), 4);
        assert!(matches!(store.term(3), Err(StoreError::Compacted)));
        let initial = store.initial_state().expect("readable");
        assert_eq!(initial.hard_state, hard_state);
        assert_eq!(initial.conf_state.voters, conf_state().voters, "the membership comes with the snapshot");
        store = reopen(store);
    }
}
