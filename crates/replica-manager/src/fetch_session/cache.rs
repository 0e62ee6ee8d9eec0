//! The broker's fetch sessions by id, and which one gives way when the slots are used up.
//!
//! Kafka's rules (KIP-227): a new session may take the place of one that has been idle for [`EVICTION_AGE`], or of one
//! that is older than that and holds no more partitions than the new one; a follower's session may also take the place
//! of any consumer's. The limit is `max.incremental.fetch.session.cache.slots`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ottla_model::MonotonicMs;
use ottla_resources::{Ledger, Share};
use parking_lot::Mutex;

use super::{CONSUMER_PARTITIONS_MAX, FetchSession, Fetcher, SessionId};

/// A session that is younger keeps its slot (Kafka's `min.incremental.fetch.session.eviction.ms`).
pub const EVICTION_AGE: Duration = Duration::from_secs(120);

/// What a parked fetch holds for itself, and for each of its partitions: slot, subscription, its place at the
/// partition.
const PARKED_FETCH_BYTES: usize = 1024;
const PARKED_PARTITION_BYTES: usize = 400;

pub struct FetchSessionCache {
    slots: usize,
    /// What parked fetches without a session hold, over all connections. A fetch that finds no room is answered at once
    /// with what there is, and its client told to wait before it asks again.
    parked_bytes: Arc<Ledger>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: HashMap<SessionId, Entry>,
    /// (last used, id): the first is the one that has been idle for longest.
    by_last_use: BTreeSet<(MonotonicMs, SessionId)>,
    /// (is a follower's, partitions, id): the first is the cheapest to lose.
    by_value: BTreeSet<(bool, usize, SessionId)>,
    /// Of all consumers' sessions.
    consumer_partitions: usize,
}

struct Entry {
    session: Arc<FetchSession>,
    created: MonotonicMs,
    last_used: MonotonicMs,
    partitions: usize,
}

impl Entry {
    fn is_replica(&self) -> bool {
        matches!(self.session.fetcher(), Fetcher::Replica { .. })
    }
}

impl FetchSessionCache {
    pub fn new(slots: usize, parked_bytes: Arc<Ledger>) -> Self {
        Self { slots, parked_bytes, state: Mutex::default() }
    }

    /// The session with this id, if it is this fetcher's. Somebody else's session must not be found: a consumer that
    /// guesses a follower's session id would otherwise speak as that follower.
    pub fn get(&self, id: SessionId, fetcher: Fetcher) -> Option<Arc<FetchSession>> {
        let state = self.state.lock();
        let entry = state.sessions.get(&id)?;
        (entry.session.fetcher() == fetcher).then(|| entry.session.clone())
    }

    /// Puts a new session into a slot, under the id that `make` is given; none when every slot is worth more.
    pub fn insert(
        &self,
        now: MonotonicMs,
        fetcher: Fetcher,
        partitions: usize,
        make: impl FnOnce(SessionId) -> Arc<FetchSession>,
    ) -> Option<Arc<FetchSession>> {
        let mut state = self.state.lock();
        let is_replica = matches!(fetcher, Fetcher::Replica { .. });
        if !is_replica && state.consumer_partitions + partitions > CONSUMER_PARTITIONS_MAX {
            return None;
        }
        // What is evicted is dropped when the lock is free: dropping a session visits its partitions.
        let evicted = if state.sessions.len() >= self.slots {
            let victim = state.victim(now, is_replica, partitions)?;
            state.remove(victim)
        } else {
            None
        };
        let id = loop {
            let id = SessionId(rand::random_range(1..=i32::MAX));
            if !state.sessions.contains_key(&id) {
                break id;
            }
        };
        let session = make(id);
        let entry = Entry { session: session.clone(), created: now, last_used: now, partitions };
        if !is_replica {
            state.consumer_partitions += partitions;
        }
        state.by_last_use.insert((now, id));
        state.by_value.insert((is_replica, partitions, id));
        state.sessions.insert(id, entry);
        drop(state);
        drop(evicted);
        Some(session)
    }

    /// The session was used and now holds so many partitions. Says whether it may live on: not without any, and not
    /// with more than are left for consumers.
    pub fn touch(&self, id: SessionId, now: MonotonicMs, partitions: usize) -> bool {
        let mut state = self.state.lock();
        let Some(entry) = state.sessions.get_mut(&id) else { return false };
        let before = (entry.is_replica(), entry.partitions, entry.last_used);
        (entry.partitions, entry.last_used) = (partitions, now);
        state.by_last_use.remove(&(before.2, id));
        state.by_last_use.insert((now, id));
        if before.1 != partitions {
            state.by_value.remove(&(before.0, before.1, id));
            state.by_value.insert((before.0, partitions, id));
            if !before.0 {
                state.consumer_partitions = state.consumer_partitions - before.1 + partitions;
            }
        }
        if partitions > 0 && (before.0 || state.consumer_partitions <= CONSUMER_PARTITIONS_MAX) {
            return true;
        }
        let removed = state.remove(id);
        drop(state);
        drop(removed);
        false
    }

    /// Ends a session of this fetcher.
    pub fn remove(&self, id: SessionId, fetcher: Fetcher) {
        let mut state = self.state.lock();
        if state.sessions.get(&id).is_some_and(|entry| entry.session.fetcher() == fetcher) {
            let removed = state.remove(id);
            drop(state);
            drop(removed);
        }
    }

    /// Room for a fetch of so many partitions to park; none if there is none.
    pub fn park(&self, partitions: usize) -> Option<ParkedRoom> {
        let bytes = partitions.saturating_mul(PARKED_PARTITION_BYTES).saturating_add(PARKED_FETCH_BYTES);
        self.parked_bytes.take(bytes as u64)
    }

    pub fn len(&self) -> usize {
        self.state.lock().sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A parked fetch's part of what parked fetches may hold, until it is dropped.
pub type ParkedRoom = Share;

impl State {
    fn victim(&self, now: MonotonicMs, for_replica: bool, partitions: usize) -> Option<SessionId> {
        let &(last_used, idle_longest) = self.by_last_use.first()?;
        if now.since(last_used) > EVICTION_AGE {
            return Some(idle_longest);
        }
        for &(is_replica, size, id) in &self.by_value {
            if (is_replica, size) > (for_replica, partitions) {
                return None;
            }
            let settled = self.sessions.get(&id).is_some_and(|entry| now.since(entry.created) > EVICTION_AGE);
            if settled || (for_replica && !is_replica) {
                return Some(id);
            }
        }
        None
    }

    fn remove(&mut self, id: SessionId) -> Option<Entry> {
        let entry = self.sessions.remove(&id)?;
        self.by_last_use.remove(&(entry.last_used, id));
        self.by_value.remove(&(entry.is_replica(), entry.partitions, id));
        if !entry.is_replica() {
            self.consumer_partitions -= entry.partitions;
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_model::{BrokerEpoch, BrokerId};

    const REPLICA: Fetcher = Fetcher::Replica { id: BrokerId(2), epoch: BrokerEpoch(7) };

    const PARKED_BYTES_MAX: usize = 128 << 20;

    fn cache(slots: usize) -> FetchSessionCache {
        FetchSessionCache::new(slots, Ledger::new(PARKED_BYTES_MAX as u64))
    }

    fn add(cache: &FetchSessionCache, now: u64, fetcher: Fetcher, partitions: usize) -> Option<SessionId> {
        cache
            .insert(MonotonicMs(now), fetcher, partitions, |id| Arc::new(FetchSession::new(id, fetcher, true)))
            .map(|session| session.id())
    }

    #[test]
    fn a_young_session_keeps_its_slot_from_consumers_but_not_from_followers() {
        let cache = cache(1);
        let first = add(&cache, 0, Fetcher::Consumer, 5).expect("free slot");
        assert_eq!(add(&cache, 1_000, Fetcher::Consumer, 500), None);
        let follower = add(&cache, 1_000, REPLICA, 1).expect("a follower takes a consumer's slot");
        assert!(cache.get(first, Fetcher::Consumer).is_none());
        assert!(cache.get(follower, REPLICA).is_some());
        assert_eq!(add(&cache, 1_000, REPLICA, 100), None, "but not a young follower's");
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn an_idle_session_and_a_smaller_old_one_give_way() {
        let cache = cache(2);
        let small = add(&cache, 0, Fetcher::Consumer, 2).expect("free slot");
        let large = add(&cache, 0, Fetcher::Consumer, 50).expect("free slot");
        cache.touch(small, MonotonicMs(119_000), 2);
        cache.touch(large, MonotonicMs(119_000), 50);
        assert_eq!(add(&cache, 121_000, Fetcher::Consumer, 1), None, "worth less than any");
        let third = add(&cache, 121_000, Fetcher::Consumer, 10).expect("worth more than the small one");
        assert!(cache.get(small, Fetcher::Consumer).is_none());
        assert!(cache.get(large, Fetcher::Consumer).is_some());
        cache.touch(third, MonotonicMs(230_000), 10);
        add(&cache, 240_000, Fetcher::Consumer, 1).expect("the large one has been idle");
        assert!(cache.get(large, Fetcher::Consumer).is_none());
    }

    #[test]
    fn what_consumers_can_make_the_broker_remember_is_bounded() {
        let cache = cache(10);
        let half = CONSUMER_PARTITIONS_MAX / 2;
        let first = add(&cache, 0, Fetcher::Consumer, half).expect("free slot");
        assert_eq!(add(&cache, 0, Fetcher::Consumer, half + 1), None);
        let second = add(&cache, 0, Fetcher::Consumer, half).expect("free slot");
        add(&cache, 0, REPLICA, CONSUMER_PARTITIONS_MAX * 2).expect("followers are not counted");
        assert!(cache.touch(first, MonotonicMs(1), half));
        assert!(!cache.touch(first, MonotonicMs(2), half + 1), "it has grown too large");
        assert!(cache.get(first, Fetcher::Consumer).is_none());
        assert!(cache.touch(second, MonotonicMs(3), half + 1));
        assert!(!cache.touch(second, MonotonicMs(4), 0), "nothing is left of it");
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn parked_fetches_have_a_budget() {
        let cache = cache(1);
        let rooms: Vec<_> = std::iter::repeat_with(|| cache.park(1_000)).take(1_000).flatten().collect();
        let held = rooms.len() * 1_000 * PARKED_PARTITION_BYTES;
        assert!(held <= PARKED_BYTES_MAX && held > PARKED_BYTES_MAX * 9 / 10, "{} fetches", rooms.len());
        assert!(cache.park(1_000).is_none() && cache.park(usize::MAX).is_none());
        drop(rooms);
        assert!(cache.park(1_000).is_some());
    }

    #[test]
    fn a_session_is_found_only_by_its_fetcher() {
        let cache = cache(2);
        let id = add(&cache, 0, REPLICA, 3).expect("free slot");
        assert!(cache.get(id, Fetcher::Consumer).is_none());
        let later_life = Fetcher::Replica { id: BrokerId(2), epoch: BrokerEpoch(8) };
        assert!(cache.get(id, later_life).is_none());
        cache.remove(id, Fetcher::Consumer);
        assert!(cache.get(id, REPLICA).is_some());
    }
}
