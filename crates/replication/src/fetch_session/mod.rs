//! Fetch sessions (KIP-227): what one fetcher reads, remembered between its requests, so that neither an idle partition
//! nor a long list of them costs anything.
//!
//! The caller owns the partitions: it names them by a key `K`, keeps what it holds of one as a handle `H`, passes the
//! slots of those with news to [`SessionPartitions::evaluate`], and reads them when it is asked to ([`ReadPartition`]).
//! [`SessionTable`] holds the sessions of a broker.
//!
//! Invariants:
//! - a slot that has something to say is queued: one whose records found no room in an answer stays queued; a partition
//!   that is left out of an incremental answer is unchanged, never forgotten;
//! - what was reported last is remembered only once an answer that reports it has been made
//!   ([`SessionPartitions::commit`]);
//! - a follower's progress is what its requests name: looking again because an append woke a parked fetch moves
//!   nothing.

mod opening;
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset};

pub use opening::{Found, SessionRequest};
pub use table::{EVICTION_AGE, SESSION_BYTES, SESSION_PARTITION_BYTES, SessionTable};

use crate::fetch_order::{AnswerBudget, FetchLimits, FetchOrder};

/// Names a session on this broker; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub i32);

impl SessionId {
    pub const NONE: Self = Self(0);
}

/// The epoch that starts a session.
pub const INITIAL_EPOCH: i32 = 0;
/// The epoch of a fetch that wants no session, and ends the one that it names.
pub const FINAL_EPOCH: i32 = -1;

/// The epoch after `epoch`: wraps to 1.
fn next_epoch(epoch: i32) -> i32 {
    if epoch < 0 { FINAL_EPOCH } else { epoch.checked_add(1).unwrap_or(1) }
}

/// Switches for the simulation, which proves that it would notice a rule's absence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// Broken: a partition whose records were returned keeps its place, before those that have waited (fault A2).
    pub served_keeps_its_place: bool,
    /// Broken: a partition whose records found no room is not looked at again before it has news.
    pub left_out_is_forgotten: bool,
}

/// Who fetches. A session belongs to one fetcher; a broker that registered again is another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetcher {
    Consumer,
    /// Compares replicas: it reads any of them, as a consumer reads the leader (Kafka's debugging consumer).
    Debugger,
    /// Only where a fetch came in on the inter-broker listener with an id and epoch that the image confirms.
    Replica {
        id: BrokerId,
        epoch: BrokerEpoch,
    },
}

impl Fetcher {
    pub fn is_replica(self) -> bool {
        matches!(self, Self::Replica { .. })
    }
}

/// What a request wants of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchPartition {
    pub offset: Offset,
    /// The follower's log start; unknown for consumers.
    pub log_start: Offset,
    pub max_bytes: usize,
    /// The leader epoch that the fetcher knows; none: it does not say.
    pub current_leader_epoch: LeaderEpoch,
    /// Of the fetcher's last record; none: it does not say.
    pub last_fetched_epoch: LeaderEpoch,
    /// The high watermark that a follower knows, whose consumers wait for a higher one; none: it can wait for its time.
    pub high_watermark: Option<Offset>,
}

impl FetchPartition {
    /// Whether the fetcher wants to know this at once, if it has not been reported (KIP-1166). With the high watermark
    /// goes the log start: its consumers ask for both.
    fn awaits(&self, facts: &ReadFacts) -> bool {
        let knows = |known: Offset| facts.high_watermark <= known && facts.log_start <= self.log_start;
        self.high_watermark.is_some_and(|known| !knows(known))
    }
}

/// What is read of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionRequest {
    pub slot: u32,
    pub wanted: FetchPartition,
    /// The current request named the partition: its offset is a follower's progress.
    pub is_progress: bool,
    pub max_bytes: usize,
    /// One whole batch may exceed the limit.
    pub min_one: bool,
}

/// What a read came to, as far as the session is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadFacts {
    pub error: ErrorCode,
    pub diverges: bool,
    /// The consumer is sent to another replica.
    pub is_redirected: bool,
    pub bytes: usize,
    /// About how much there is that found no room.
    pub left_out_bytes: usize,
    /// There is more, which must not go now: nothing wakes the fetch for it, and the next request looks again.
    pub is_held_back: bool,
    pub high_watermark: Offset,
    pub log_start: Offset,
}

impl ReadFacts {
    /// It must not wait.
    fn is_urgent(&self) -> bool {
        self.error != ErrorCode::None || self.diverges || self.is_redirected
    }
}

/// A read partition.
pub trait PartitionRead {
    fn facts(&self) -> ReadFacts;
}

/// Reads partitions for a session.
pub trait ReadPartition<K, H> {
    type Read: PartitionRead;

    /// `handle`: what the caller holds of the partition; it may take it, or put one there.
    fn read(&mut self, key: &K, handle: &mut Option<H>, request: &PartitionRequest) -> Self::Read;
}

/// One partition of an answer.
pub struct Entry<K, R> {
    slot: u32,
    pub key: K,
    pub read: R,
}

/// What a look at the partitions found.
pub struct FetchResult<K, R> {
    pub entries: Vec<Entry<K, R>>,
    budget: AnswerBudget,
    /// Something that must not wait: an error, a divergence, another replica, a high watermark that is waited for.
    is_urgent: bool,
}

impl<K, R> FetchResult<K, R> {
    fn new(limits: FetchLimits) -> Self {
        Self { entries: Vec::new(), budget: AnswerBudget::new(limits), is_urgent: false }
    }

    pub fn bytes(&self) -> usize {
        self.budget.bytes()
    }

    /// Whether an answer is due before the fetch's time has passed.
    pub fn is_due(&self) -> bool {
        self.is_urgent || self.budget.is_due()
    }
}

#[derive(Debug)]
struct Slot<K, H> {
    key: K,
    wanted: FetchPartition,
    handle: Option<H>,
    /// High watermark and log start of the last answer; none after an error, so that its end is reported.
    last_reported: Option<(Offset, Offset)>,
    /// The current request named it: its offset is a follower's progress.
    named: bool,
}

/// The partitions of one session, or of one fetch without a session.
#[derive(Debug)]
pub struct SessionPartitions<K, H> {
    fetcher: Fetcher,
    uses_topic_ids: bool,
    is_remembered: bool,
    rules: BrokenRules,
    /// What the next request must carry.
    next_epoch: i32,
    turn: u64,
    is_ended: bool,
    slots: Vec<Option<Slot<K, H>>>,
    free: Vec<u32>,
    /// Only in a session that lives on: a single fetch has nothing to look up.
    index: HashMap<K, u32>,
    order: FetchOrder,
    /// The slots of the current pass; kept for its memory.
    pass: Vec<u32>,
}

impl<K: Clone + Eq + Hash, H> SessionPartitions<K, H> {
    /// `is_remembered`: it lives on between requests; otherwise it serves one fetch.
    pub fn new(fetcher: Fetcher, uses_topic_ids: bool, is_remembered: bool, rules: BrokenRules) -> Self {
        Self {
            fetcher,
            uses_topic_ids,
            is_remembered,
            rules,
            next_epoch: next_epoch(INITIAL_EPOCH),
            turn: 0,
            is_ended: false,
            slots: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            order: FetchOrder::default(),
            pass: Vec::new(),
        }
    }

    /// Counts the requests.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// Whether a request that is still parked ends, with nothing: the session's next one has come, or the session has
    /// ended.
    pub fn is_over(&self, turn: u64) -> bool {
        self.is_ended || self.turn != turn
    }

    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// The session is not in the table any more. Returns what the caller held of its partitions.
    pub fn end(&mut self) -> Vec<H> {
        self.is_ended = true;
        (self.free, self.pass, self.index, self.order) = Default::default();
        std::mem::take(&mut self.slots).into_iter().filter_map(|slot| slot?.handle).collect()
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The partition's slot, in a session that lives on.
    pub fn slot_of(&self, key: &K) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// What the caller holds of each partition.
    pub fn handles_mut(&mut self) -> impl Iterator<Item = (u32, &mut H)> {
        let held = |(at, slot): (usize, _)| {
            let slot: &mut Option<Slot<K, H>> = slot;
            Some((u32::try_from(at).ok()?, slot.as_mut()?.handle.as_mut()?))
        };
        self.slots.iter_mut().enumerate().filter_map(held)
    }

    /// The session's next request has come.
    ///
    /// # Errors
    /// It does not follow the last one. Nothing has changed.
    fn begin_request(&mut self, epoch: i32, uses_topic_ids: bool) -> Result<(), ErrorCode> {
        if epoch != self.next_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if uses_topic_ids != self.uses_topic_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        self.next_epoch = next_epoch(epoch);
        self.turn += 1;
        Ok(())
    }

    /// A request names a partition: adds it, or changes what is wanted of it.
    pub fn want(&mut self, key: K, wanted: FetchPartition) {
        if let Some(at) = self.slot_of(&key) {
            if let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_mut) {
                slot.wanted = wanted;
                slot.named = true;
                // A follower that names a partition again may have ignored what it was told of a former position.
                if self.fetcher.is_replica() {
                    slot.last_reported = None;
                }
                self.order.queue(at);
            }
            return;
        }
        let at = self.insert(Slot { key: key.clone(), wanted, handle: None, last_reported: None, named: true });
        self.order.insert(at);
        if self.is_remembered {
            self.index.insert(key, at);
        }
    }

    fn insert(&mut self, slot: Slot<K, H>) -> u32 {
        if let Some(at) = self.free.pop()
            && let Some(place) = self.slots.get_mut(at as usize)
        {
            *place = Some(slot);
            return at;
        }
        self.slots.push(Some(slot));
        // A frame is too small to hold more partitions than fit 32 bits.
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    /// The fetcher does not want the partition any more. Returns what the caller held of it.
    pub fn forget(&mut self, key: &K) -> Option<H> {
        let at = self.index.remove(key)?;
        let slot = self.slots.get_mut(at as usize).and_then(Option::take)?;
        self.order.remove(at);
        self.free.push(at);
        slot.handle
    }

    /// Reads the partitions that may have something to say, in the session's order and within the answer's limits: all
    /// of them for a full answer, else those with news, those that found no room last time and those that the request
    /// named. The result goes to [`Self::commit`] or [`Self::put_back`].
    pub fn evaluate<R: ReadPartition<K, H>>(
        &mut self,
        news: impl IntoIterator<Item = u32>,
        limits: FetchLimits,
        full: bool,
        reader: &mut R,
    ) -> FetchResult<K, R::Read> {
        let mut found = FetchResult::new(limits);
        let mut pass = std::mem::take(&mut self.pass);
        for at in news {
            // The slot was removed meanwhile.
            if self.slots.get(at as usize).is_some_and(Option::is_some) {
                self.order.queue(at);
            }
        }
        self.order.start_pass(&mut pass);
        if full {
            // Slots are in the session's order until the first answer.
            pass.clear();
            pass.extend(0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
            found.entries.reserve_exact(self.len());
        }
        for at in &pass {
            self.look(*at, full, reader, &mut found);
        }
        self.pass = pass;
        found
    }

    fn look<R: ReadPartition<K, H>>(
        &mut self,
        at: u32,
        full: bool,
        reader: &mut R,
        found: &mut FetchResult<K, R::Read>,
    ) {
        let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::as_mut) else { return };
        let keeps_queued = !self.rules.left_out_is_forgotten;
        if found.budget.is_full() && !full && !slot.named {
            // It keeps its place, before those that are served now.
            if keeps_queued {
                self.order.queue(at);
            }
            return;
        }
        let wanted = slot.wanted;
        let request = PartitionRequest {
            slot: at,
            wanted,
            is_progress: std::mem::take(&mut slot.named),
            max_bytes: found.budget.room(wanted.max_bytes),
            min_one: found.budget.takes_large_batch(),
        };
        let read = reader.read(&slot.key, &mut slot.handle, &request);
        let facts = read.facts();
        if (facts.left_out_bytes > 0 || facts.is_held_back) && keeps_queued {
            self.order.queue(at);
        }
        found.budget.add(facts.bytes, facts.left_out_bytes, wanted.max_bytes);
        let has_news = slot.last_reported != Some((facts.high_watermark, facts.log_start));
        if full || facts.bytes > 0 || facts.is_urgent() || has_news {
            found.is_urgent |= facts.is_urgent() || has_news && wanted.awaits(&facts);
            found.entries.push(Entry { slot: at, key: slot.key.clone(), read });
        }
    }

    /// Whether the fetch is answered with this, rather than waiting for more.
    pub fn answers<R>(&self, found: &FetchResult<K, R>, time_is_up: bool) -> bool {
        time_is_up || self.is_empty() || found.is_due()
    }

    /// An answer with these entries has been made. Records what was reported; partitions that returned records go to
    /// the end of the session's order. These and partitions with errors are read again with the next request.
    pub fn commit<R: PartitionRead>(&mut self, entries: &[Entry<K, R>]) {
        for entry in entries {
            let Some(slot) = self.slots.get_mut(entry.slot as usize).and_then(Option::as_mut) else { continue };
            let facts = entry.read.facts();
            slot.last_reported = (facts.error == ErrorCode::None).then_some((facts.high_watermark, facts.log_start));
            if facts.bytes > 0 && !self.rules.served_keeps_its_place {
                self.order.move_to_end(entry.slot);
            }
            if facts.bytes > 0 || facts.is_urgent() {
                self.order.queue(entry.slot);
            }
        }
    }

    /// No response was made of these: queues them again, at their place.
    pub fn put_back<R>(&mut self, entries: &[Entry<K, R>]) {
        for entry in entries {
            self.order.queue(entry.slot);
        }
    }
}
