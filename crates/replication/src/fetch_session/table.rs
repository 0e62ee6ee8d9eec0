//! The fetch sessions of a broker by id, and which one gives way when the slots are used up.
//!
//! Kafka's rules (KIP-227): a new session may take the place of one that has been idle for [`EVICTION_AGE`], or of one
//! that is older than that and holds no more partitions than the new one; a follower's session may also take the place
//! of any consumer's. The limit is `max.incremental.fetch.session.cache.slots`.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ottla_model::MonotonicMs;

use super::{Fetcher, SessionId};

/// A session that is younger keeps its slot (Kafka's `min.incremental.fetch.session.eviction.ms`).
pub const EVICTION_AGE: Duration = Duration::from_secs(120);

/// What a consumer's session takes besides its partitions, and what a partition takes: its slot, its entries in maps,
/// its subscription, and the name of a topic, which may have one partition only.
pub const SESSION_BYTES: usize = 1_024;
pub const SESSION_PARTITION_BYTES: usize = 800;

fn bytes(partitions: usize) -> usize {
    partitions.saturating_mul(SESSION_PARTITION_BYTES).saturating_add(SESSION_BYTES)
}

#[derive(Debug)]
struct Entry<S> {
    session: S,
    fetcher: Fetcher,
    created: MonotonicMs,
    last_used: MonotonicMs,
    /// Its place in the order of use.
    listed_use: MonotonicMs,
    partitions: usize,
}

/// Sessions that are removed are returned: dropping one may be more than the caller wants to do under a lock.
#[derive(Debug)]
pub struct SessionTable<S> {
    slots: usize,
    sessions: HashMap<SessionId, Entry<S>>,
    /// (last use or an earlier one, id). Every fetch uses a session: its place is brought up to date when a session has
    /// to give way.
    by_last_use: BTreeSet<(MonotonicMs, SessionId)>,
    /// (is a follower's, partitions, id): the first is the cheapest to lose.
    by_value: BTreeSet<(bool, usize, SessionId)>,
    /// What all consumers' sessions may take together: beyond it fetches are answered without a session. What clients
    /// can make the broker keep between their requests is bounded. Followers are not counted.
    consumer_bytes_max: usize,
    consumer_bytes: usize,
    refused: usize,
}

impl<S: Clone> SessionTable<S> {
    pub fn new(slots: usize, consumer_bytes_max: usize) -> Self {
        Self {
            slots,
            sessions: HashMap::new(),
            by_last_use: BTreeSet::new(),
            by_value: BTreeSet::new(),
            consumer_bytes_max,
            consumer_bytes: 0,
            refused: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// What all consumers' sessions take, what they may take, and how often one found no room.
    pub fn consumer_bytes(&self) -> (usize, usize, usize) {
        (self.consumer_bytes, self.consumer_bytes_max, self.refused)
    }

    /// The session with this id, if it is this fetcher's. Somebody else's session must not be found: a consumer that
    /// guesses a follower's session id would otherwise speak as that follower.
    pub(super) fn get(&self, id: SessionId, fetcher: Fetcher) -> Option<S> {
        let entry = self.sessions.get(&id)?;
        (entry.fetcher == fetcher).then(|| entry.session.clone())
    }

    /// Puts a new session into a slot, under the id that `make` is given, one of those that `fresh_id` offers; none
    /// when every slot is worth more. Returns the session that gave way, too.
    pub(super) fn insert(
        &mut self,
        now: MonotonicMs,
        fetcher: Fetcher,
        partitions: usize,
        fresh_id: impl FnMut() -> i32,
        make: impl FnOnce(SessionId) -> S,
    ) -> Option<(SessionId, S, Option<S>)> {
        let is_replica = fetcher.is_replica();
        if !is_replica && self.consumer_bytes.saturating_add(bytes(partitions)) > self.consumer_bytes_max {
            self.refused += 1;
            return None;
        }
        let evicted = if self.sessions.len() >= self.slots {
            let victim = self.victim(now, is_replica, partitions)?;
            self.take(victim)
        } else {
            None
        };
        let mut ids = std::iter::repeat_with(fresh_id).map(SessionId);
        let id = ids.find(|id| *id != SessionId::NONE && !self.sessions.contains_key(id))?;
        let session = make(id);
        let entry =
            Entry { session: session.clone(), fetcher, created: now, last_used: now, listed_use: now, partitions };
        if !is_replica {
            self.consumer_bytes += bytes(partitions);
        }
        self.by_last_use.insert((now, id));
        self.by_value.insert((is_replica, partitions, id));
        self.sessions.insert(id, entry);
        Some((id, session, evicted))
    }

    /// The session was used and now holds so many partitions.
    ///
    /// # Errors
    /// It may not live on, without partitions or with more than are left for consumers: the removed session, if it was
    /// still there.
    pub(super) fn touch(&mut self, id: SessionId, now: MonotonicMs, partitions: usize) -> Result<(), Option<S>> {
        let Some(entry) = self.sessions.get_mut(&id) else { return Err(None) };
        let (is_replica, partitions_before) = (entry.fetcher.is_replica(), entry.partitions);
        (entry.partitions, entry.last_used) = (partitions, now);
        if partitions_before != partitions {
            self.by_value.remove(&(is_replica, partitions_before, id));
            self.by_value.insert((is_replica, partitions, id));
            if !is_replica {
                self.consumer_bytes = self.consumer_bytes - bytes(partitions_before) + bytes(partitions);
            }
        }
        let fits = is_replica || self.consumer_bytes <= self.consumer_bytes_max;
        if partitions > 0 && fits {
            return Ok(());
        }
        self.refused += usize::from(!fits);
        Err(self.take(id))
    }

    /// Ends a session of this fetcher.
    pub(super) fn remove(&mut self, id: SessionId, fetcher: Fetcher) -> Option<S> {
        if self.sessions.get(&id).is_some_and(|entry| entry.fetcher == fetcher) { self.take(id) } else { None }
    }

    /// The session that has been idle for longest, if that is long enough to give way.
    fn idle_longest(&mut self, now: MonotonicMs) -> Option<SessionId> {
        while let Some(&(listed_use, id)) = self.by_last_use.first()
            && now.since(listed_use) > EVICTION_AGE
        {
            let entry = self.sessions.get_mut(&id)?;
            if entry.last_used == listed_use {
                return Some(id);
            }
            entry.listed_use = entry.last_used;
            self.by_last_use.remove(&(listed_use, id));
            self.by_last_use.insert((entry.listed_use, id));
        }
        None
    }

    fn victim(&mut self, now: MonotonicMs, for_replica: bool, partitions: usize) -> Option<SessionId> {
        if let Some(idle_longest) = self.idle_longest(now) {
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

    fn take(&mut self, id: SessionId) -> Option<S> {
        let entry = self.sessions.remove(&id)?;
        let is_replica = entry.fetcher.is_replica();
        self.by_last_use.remove(&(entry.listed_use, id));
        self.by_value.remove(&(is_replica, entry.partitions, id));
        if !is_replica {
            self.consumer_bytes -= bytes(entry.partitions);
        }
        Some(entry.session)
    }
}
