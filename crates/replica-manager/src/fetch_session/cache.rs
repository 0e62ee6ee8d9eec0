//! The broker's fetch sessions by id, and the room that parked fetches without one take. Which session gives way is
//! decided by [`SessionTable`].

use std::sync::Arc;

use ottla_model::MonotonicMs;
use ottla_replication::fetch_session::SessionTable;
use ottla_resources::{Ledger, Share};
use parking_lot::Mutex;

use super::{FetchSession, Fetcher, SessionId};

/// What a parked fetch holds for itself, and for each of its partitions: slot, subscription, its place at the
/// partition.
const PARKED_FETCH_BYTES: usize = 1024;
const PARKED_PARTITION_BYTES: usize = 400;

pub struct FetchSessionCache {
    /// What parked fetches without a session hold, over all connections. A fetch that finds no room is answered at once
    /// with what there is, and its client told to wait before it asks again.
    parked_bytes: Arc<Ledger>,
    sessions: Mutex<SessionTable<Arc<FetchSession>>>,
}

impl FetchSessionCache {
    pub fn new(slots: usize, parked_bytes: Arc<Ledger>) -> Self {
        Self { parked_bytes, sessions: Mutex::new(SessionTable::new(slots)) }
    }

    /// See [`SessionTable::get`].
    pub fn get(&self, id: SessionId, fetcher: Fetcher) -> Option<Arc<FetchSession>> {
        self.sessions.lock().get(id, fetcher)
    }

    /// See [`SessionTable::insert`].
    pub fn insert(
        &self,
        now: MonotonicMs,
        fetcher: Fetcher,
        partitions: usize,
        make: impl FnOnce(SessionId) -> Arc<FetchSession>,
    ) -> Option<Arc<FetchSession>> {
        let fresh_id = || rand::random_range(1..=i32::MAX);
        let mut sessions = self.sessions.lock();
        let (session, evicted) = sessions.insert(now, fetcher, partitions, fresh_id, make)?;
        // Dropping a session visits its partitions.
        drop(sessions);
        drop(evicted);
        Some(session)
    }

    /// The session was used and now holds so many partitions. Says whether it may live on.
    pub fn touch(&self, id: SessionId, now: MonotonicMs, partitions: usize) -> bool {
        let touched = self.sessions.lock().touch(id, now, partitions);
        touched.is_ok()
    }

    /// Ends a session of this fetcher.
    pub fn remove(&self, id: SessionId, fetcher: Fetcher) {
        let removed = self.sessions.lock().remove(id, fetcher);
        drop(removed);
    }

    /// Room for a fetch of so many partitions to park; none if there is none.
    pub fn park(&self, partitions: usize) -> Option<ParkedRoom> {
        let bytes = partitions.saturating_mul(PARKED_PARTITION_BYTES).saturating_add(PARKED_FETCH_BYTES);
        self.parked_bytes.take(bytes as u64)
    }

    pub fn len(&self) -> usize {
        self.sessions.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A parked fetch's part of what parked fetches may hold, until it is dropped.
pub type ParkedRoom = Share;

#[cfg(test)]
mod tests {
    use super::*;

    const PARKED_BYTES_MAX: usize = 128 << 20;

    #[test]
    fn parked_fetches_have_a_budget() {
        let cache = FetchSessionCache::new(1, Ledger::new(PARKED_BYTES_MAX as u64));
        let rooms: Vec<_> = std::iter::repeat_with(|| cache.park(1_000)).take(1_000).flatten().collect();
        let held = rooms.len() * 1_000 * PARKED_PARTITION_BYTES;
        assert!(held <= PARKED_BYTES_MAX && held > PARKED_BYTES_MAX * 9 / 10, "{} fetches", rooms.len());
        assert!(cache.park(1_000).is_none() && cache.park(usize::MAX).is_none());
        drop(rooms);
        assert!(cache.park(1_000).is_some());
    }
}
