//! The broker's fetch sessions by id, and the room that parked fetches without one take. Which session gives way is
//! decided by [`SessionTable`].

use std::sync::Arc;

use ottla_model::{ErrorCode, MonotonicMs};
use ottla_replication::fetch_session::{Found, SessionRequest, SessionTable};
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
    /// `consumer_bytes_max`: what the sessions of all consumers may remember.
    pub fn new(slots: usize, consumer_bytes_max: usize, parked_bytes: Arc<Ledger>) -> Self {
        Self { parked_bytes, sessions: Mutex::new(SessionTable::new(slots, consumer_bytes_max)) }
    }

    /// See [`SessionTable::find`].
    pub fn find(
        &self,
        now: MonotonicMs,
        fetcher: Fetcher,
        request: &SessionRequest,
    ) -> Result<Found<Arc<FetchSession>>, ErrorCode> {
        let fresh_id = || rand::random_range(1..=i32::MAX);
        let make = |id| Arc::new(FetchSession::new(id, fetcher, request.uses_topic_ids));
        let mut sessions = self.sessions.lock();
        let (found, ended) = sessions.find(now, fetcher, request, fresh_id, make)?;
        // Ending a session visits its partitions.
        drop(sessions);
        ended.iter().for_each(|session| session.end());
        Ok(found)
    }

    /// See [`SessionTable::taken_in`].
    pub fn taken_in(&self, found: &Found<Arc<FetchSession>>, now: MonotonicMs, partitions: usize) -> SessionId {
        self.sessions.lock().taken_in(found, now, partitions)
    }

    /// See [`SessionTable::consumer_bytes`].
    pub fn consumer_bytes(&self) -> (usize, usize, usize) {
        self.sessions.lock().consumer_bytes()
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

    /// A request that begins a session with so many partitions, or ends the one that it names.
    fn full(id: SessionId, epoch: i32, partitions: usize) -> SessionRequest {
        SessionRequest { id, epoch, uses_topic_ids: false, partitions }
    }

    #[test]
    fn parked_fetches_have_a_budget() {
        let cache = FetchSessionCache::new(1, 1 << 20, Ledger::new(PARKED_BYTES_MAX as u64));
        let rooms: Vec<_> = std::iter::repeat_with(|| cache.park(1_000)).take(1_000).flatten().collect();
        let held = rooms.len() * 1_000 * PARKED_PARTITION_BYTES;
        assert!(held <= PARKED_BYTES_MAX && held > PARKED_BYTES_MAX * 9 / 10, "{} fetches", rooms.len());
        assert!(cache.park(1_000).is_none() && cache.park(usize::MAX).is_none());
        drop(rooms);
        assert!(cache.park(1_000).is_some());
    }

    /// G9: a fetch that was parked kept the partitions of a session that had been ended, as often as a client liked.
    #[test]
    fn g9_a_session_that_is_ended_lets_go_of_its_partitions_and_of_its_parked_fetch() {
        use super::super::FetchPartition;
        let cache = FetchSessionCache::new(1, 1 << 20, Ledger::new(1 << 20));
        let fetcher = Fetcher::Consumer;
        // What a parked fetch holds.
        let parked = cache.find(MonotonicMs(0), fetcher, &full(SessionId::NONE, 0, 1)).expect("a slot").session;
        let key = super::super::PartitionKey {
            topic: Arc::new(super::super::TopicRef::Name("t".to_owned())),
            partition: ottla_model::PartitionId(0),
        };
        parked.lock().partitions.want(
            key,
            FetchPartition {
                offset: ottla_model::Offset(0),
                log_start: ottla_model::Offset(0),
                max_bytes: 1,
                current_leader_epoch: ottla_model::LeaderEpoch(0),
                last_fetched_epoch: ottla_model::LeaderEpoch(0),
                high_watermark: None,
            },
        );
        assert!(!parked.is_ended());
        let last = cache.find(MonotonicMs(0), fetcher, &full(parked.id(), -1, 0)).expect("a session for one request");
        assert_eq!(last.id, SessionId::NONE);
        assert!(parked.is_ended());
        assert_eq!(parked.lock().partitions.len(), 0);
        assert!(cache.is_empty() && cache.consumer_bytes().0 == 0);
    }

    #[test]
    fn g9_sessions_of_consumers_are_weighed() {
        let cache = FetchSessionCache::new(1_000, 1 << 20, Ledger::new(1 << 20));
        let begins = |_: &i32| {
            let found = cache.find(MonotonicMs(0), Fetcher::Consumer, &full(SessionId::NONE, 0, 200));
            found.is_ok_and(|found| found.id != SessionId::NONE)
        };
        let taken = (0..1_000).filter(begins).count();
        assert_eq!(taken, 6);
        let (used, ceiling, refused) = cache.consumer_bytes();
        assert!(used <= ceiling && refused == 994, "{used} {refused}");
    }
}
