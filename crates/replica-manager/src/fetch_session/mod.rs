//! Fetch sessions (KIP-227): what one fetcher reads, remembered between its requests, so that neither an idle partition
//! nor a long list of them costs anything.
//!
//! A session subscribes to its partitions and looks only at those that have news or that a request named; a broker
//! that follows 4,000 quiet partitions sends an empty request and costs an empty answer. A fetch without a session
//! goes the same way with a session of its own that lives for one request.
//!
//! Invariants:
//! - a slot that has something to say is queued in `order` (or in the signal's list): one whose records found no room
//!   in an answer stays queued; a partition that is left out of an incremental answer is unchanged, never forgotten;
//! - what was reported last is remembered only once an answer that reports it has been made ([`Slots::commit`]);
//! - a follower's progress is what its requests name: looking again because an append woke a parked fetch moves
//!   nothing.
//!
//! Lock order: session, then partition, then the signal.

pub mod cache;

use std::collections::HashMap;
use std::sync::Arc;

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, PartitionId};
use ottla_replication::{AnswerBudget, FetchOrder};
use ottla_storage::RealEnv;
use parking_lot::Mutex;

use crate::partition::waiters::{FetchKind, FetchSignal, Subscription, Wakes};
use crate::partition::{Fetch, FetchRead, Partition, Reader};

pub use cache::{FetchSessionCache, ParkedRoom};
/// A topic as a request names it: by name before version 13, then by id.
pub use ottla_protocol::messages::TopicRef;
pub use ottla_replication::FetchLimits;

/// Partitions that all consumers' sessions together may remember, at some 200 bytes each. Beyond it fetches are
/// answered without a session: what clients can make the broker keep between their requests is bounded. Followers are
/// not counted.
pub const CONSUMER_PARTITIONS_MAX: usize = 200_000;

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
pub fn next_epoch(epoch: i32) -> i32 {
    if epoch < 0 { FINAL_EPOCH } else { epoch.checked_add(1).unwrap_or(1) }
}

/// Who fetches. A session belongs to one fetcher; a broker that registered again is another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetcher {
    Consumer,
    /// Only where a fetch came in on the inter-broker listener with an id and epoch that the image confirms.
    Replica {
        id: BrokerId,
        epoch: BrokerEpoch,
    },
}

impl Fetcher {
    pub fn kind(self) -> FetchKind {
        match self {
            Self::Consumer => FetchKind::Consumer,
            Self::Replica { .. } => FetchKind::Replica,
        }
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
}

impl FetchPartition {
    fn fetch(&self, reader: Reader, max_bytes: usize, min_one: bool) -> Fetch {
        Fetch {
            reader,
            offset: self.offset,
            log_start: self.log_start,
            current_leader_epoch: self.current_leader_epoch,
            last_fetched_epoch: self.last_fetched_epoch,
            max_bytes,
            min_one,
        }
    }
}

/// How one fetch is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchTerms {
    pub limits: FetchLimits,
    pub read_committed: bool,
    /// The answer reports every partition, not only those with news.
    pub full: bool,
}

struct Slot {
    topic: Arc<TopicRef>,
    partition: PartitionId,
    wanted: FetchPartition,
    hosted: Option<Hosted>,
    /// High watermark and log start of the last answer; none after an error, so that its end is reported.
    last_reported: Option<(Offset, Offset)>,
    /// The current request named it: its offset is a follower's progress.
    named: bool,
}

struct Hosted {
    partition: Arc<Partition>,
    /// None in a fetch without a session that has not parked.
    subscription: Option<Arc<Subscription>>,
}

impl Hosted {
    fn leave(&self) {
        if let Some(subscription) = &self.subscription {
            self.partition.unsubscribe(subscription);
        }
    }
}

/// One partition of an answer.
pub struct Entry {
    slot: u32,
    pub topic: Arc<TopicRef>,
    pub partition: PartitionId,
    pub read: FetchRead,
}

/// What a look at the partitions found.
pub struct FetchResult {
    pub entries: Vec<Entry>,
    budget: AnswerBudget,
    /// Something that must not wait: an error, a divergence.
    is_urgent: bool,
}

impl FetchResult {
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

/// Where a broker's partitions are found.
pub trait FindPartition {
    fn find(&self, topic: &TopicRef, partition: PartitionId) -> Result<Arc<Partition>, ErrorCode>;
}

pub struct FetchSession {
    id: SessionId,
    fetcher: Fetcher,
    uses_topic_ids: bool,
    signal: Arc<FetchSignal>,
    pub slots: Mutex<Slots>,
}

/// The partitions of a session, behind its lock.
pub struct Slots {
    /// What the next request must carry.
    pub next_epoch: i32,
    /// Counts the requests: an earlier one that is still parked ends, with nothing, when the next one comes.
    pub turn: u64,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// Only in a session that lives on: a single fetch has nothing to look up.
    index: HashMap<(Arc<TopicRef>, PartitionId), u32>,
    order: FetchOrder,
    /// The slots of the current pass; kept for its memory.
    pass: Vec<u32>,
    subscribes: bool,
}

impl FetchSession {
    /// `remembered`: it lives on between requests; otherwise it serves one fetch.
    pub fn new(id: SessionId, fetcher: Fetcher, uses_topic_ids: bool) -> Self {
        let remembered = id != SessionId::NONE;
        Self {
            id,
            fetcher,
            uses_topic_ids,
            signal: Arc::default(),
            slots: Mutex::new(Slots {
                next_epoch: next_epoch(INITIAL_EPOCH),
                turn: 0,
                slots: Vec::new(),
                free: Vec::new(),
                index: HashMap::new(),
                order: FetchOrder::default(),
                pass: Vec::new(),
                subscribes: remembered,
            }),
        }
    }

    pub fn id(&self) -> SessionId {
        self.id
    }

    pub fn fetcher(&self) -> Fetcher {
        self.fetcher
    }

    pub fn uses_topic_ids(&self) -> bool {
        self.uses_topic_ids
    }

    pub fn signal(&self) -> &FetchSignal {
        &self.signal
    }

    fn is_remembered(&self) -> bool {
        self.id != SessionId::NONE
    }

    /// A request names a partition: adds it, or changes what is wanted of it.
    pub fn want(&self, slots: &mut Slots, topic: &Arc<TopicRef>, partition: PartitionId, wanted: FetchPartition) {
        if self.is_remembered()
            && let Some(&at) = slots.index.get(&(topic.clone(), partition))
        {
            if let Some(slot) = slots.slots.get_mut(at as usize).and_then(Option::as_mut) {
                slot.wanted = wanted;
                slot.named = true;
                // A follower that names a partition again may have ignored what it was told of a former position.
                if matches!(self.fetcher, Fetcher::Replica { .. }) {
                    slot.last_reported = None;
                }
                slots.order.queue(at);
            }
            return;
        }
        let slot = Slot { topic: topic.clone(), partition, wanted, hosted: None, last_reported: None, named: true };
        let at = match slots.free.pop() {
            Some(at) => {
                if let Some(place) = slots.slots.get_mut(at as usize) {
                    *place = Some(slot);
                }
                at
            }
            None => {
                slots.slots.push(Some(slot));
                // A frame is too small to hold more partitions than fit 32 bits.
                u32::try_from(slots.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        slots.order.insert(at);
        if self.is_remembered() {
            slots.index.insert((topic.clone(), partition), at);
        }
    }

    /// The fetcher does not want the partition any more.
    pub fn forget(&self, slots: &mut Slots, topic: &Arc<TopicRef>, partition: PartitionId) {
        let Some(at) = slots.index.remove(&(topic.clone(), partition)) else { return };
        if let Some(slot) = slots.slots.get_mut(at as usize).and_then(Option::take) {
            if let Some(hosted) = slot.hosted {
                hosted.leave();
            }
            slots.order.remove(at);
            slots.free.push(at);
        }
    }

    /// From now on news of the partitions reach the signal: before a fetch without a session parks.
    pub fn subscribe(&self, slots: &mut Slots) {
        slots.subscribes = true;
        for (at, slot) in slots.slots.iter_mut().enumerate() {
            if let Some(Slot { hosted: Some(hosted), .. }) = slot
                && hosted.subscription.is_none()
            {
                let subscription = self.new_subscription(at as u32);
                hosted.partition.subscribe(subscription.clone());
                hosted.subscription = Some(subscription);
            }
        }
    }

    fn new_subscription(&self, at: u32) -> Arc<Subscription> {
        Arc::new(Subscription::new(self.signal.clone(), at, self.fetcher.kind()))
    }

    /// Reads the partitions that may have something to say, in the session's order and within the answer's limits: all
    /// of them for a full answer, else those with news, those that found no room last time and those that the request
    /// named. The result goes to [`Slots::commit`] or [`Slots::put_back`].
    pub fn evaluate(
        &self,
        slots: &mut Slots,
        partitions: &impl FindPartition,
        terms: &FetchTerms,
        now: MonotonicMs,
        wakes: &mut Wakes,
    ) -> FetchResult {
        let mut found = FetchResult::new(terms.limits);
        let mut pass = std::mem::take(&mut slots.pass);
        slots.take_news(&self.signal);
        slots.order.start_pass(&mut pass);
        if terms.full {
            // Slots are in the session's order until the first answer.
            pass.clear();
            pass.extend(0..slots.slots.len() as u32);
            found.entries.reserve_exact(slots.len());
        }
        for at in &pass {
            self.look(slots, *at, partitions, terms, now, wakes, &mut found);
        }
        slots.pass = pass;
        found
    }

    #[expect(clippy::too_many_arguments, reason = "the body of a loop")]
    fn look(
        &self,
        slots: &mut Slots,
        at: u32,
        partitions: &impl FindPartition,
        terms: &FetchTerms,
        now: MonotonicMs,
        wakes: &mut Wakes,
        found: &mut FetchResult,
    ) {
        let subscribes = slots.subscribes;
        let Some(slot) = slots.slots.get_mut(at as usize).and_then(Option::as_mut) else { return };
        if found.budget.is_full() && !terms.full && !slot.named {
            // It keeps its place, before those that are served now.
            slots.order.queue(at);
            return;
        }
        if slot.hosted.as_ref().is_some_and(|hosted| hosted.partition.is_closed())
            && let Some(hosted) = slot.hosted.take()
        {
            hosted.leave();
        }
        let wanted = slot.wanted;
        let progress = std::mem::take(&mut slot.named);
        let read = match self.host(slot, at, subscribes, partitions) {
            Ok(hosted) => {
                if let Some(subscription) = &hosted.subscription {
                    subscription.taken();
                }
                let reader = match self.fetcher {
                    Fetcher::Consumer => Reader::Consumer { read_committed: terms.read_committed },
                    Fetcher::Replica { id, epoch } => Reader::Replica { id, epoch, progress },
                };
                let (room, is_first) = (found.budget.room(wanted.max_bytes), found.budget.takes_large_batch());
                // Records leave from their files, each with a descriptor until it is sent.
                let is_crowded = !is_first && RealEnv::is_crowded();
                let room = if is_crowded { 0 } else { room };
                hosted.partition.fetch(&wanted.fetch(reader, room, is_first), now, wakes)
            }
            Err(error) => FetchRead::error(error),
        };
        if read.left_out_bytes > 0 {
            slots.order.queue(at);
        }
        let Some(slot) = slots.slots.get(at as usize).and_then(Option::as_ref) else { return };
        let bytes = read.records_bytes();
        found.budget.add(bytes, read.left_out_bytes, wanted.max_bytes);
        let is_urgent = read.error != ErrorCode::None || read.diverging.is_some();
        let has_news = slot.last_reported != Some((read.high_watermark, read.log_start));
        if terms.full || bytes > 0 || is_urgent || has_news {
            found.is_urgent |= is_urgent;
            found.entries.push(Entry { slot: at, topic: slot.topic.clone(), partition: slot.partition, read });
        }
    }

    fn host<'a>(
        &self,
        slot: &'a mut Slot,
        at: u32,
        subscribes: bool,
        partitions: &impl FindPartition,
    ) -> Result<&'a Hosted, ErrorCode> {
        if slot.hosted.is_none() {
            let partition = partitions.find(&slot.topic, slot.partition)?;
            let subscription = subscribes.then(|| {
                let subscription = self.new_subscription(at);
                partition.subscribe(subscription.clone());
                subscription
            });
            slot.hosted = Some(Hosted { partition, subscription });
        }
        slot.hosted.as_ref().ok_or(ErrorCode::UnknownServerError)
    }
}

impl Slots {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take_news(&mut self, signal: &FetchSignal) {
        let mut news = std::mem::take(&mut self.pass);
        news.clear();
        signal.drain(&mut news);
        for at in news.drain(..) {
            // News of a slot that was forgotten meanwhile are nobody's.
            if self.slots.get(at as usize).is_some_and(Option::is_some) {
                self.order.queue(at);
            }
        }
        self.pass = news;
    }

    /// An answer with these entries has been made. Records what was reported; partitions that returned records go to
    /// the end of the session's order. These and partitions with errors are read again with the next request.
    pub fn commit(&mut self, entries: &[Entry]) {
        for entry in entries {
            let Some(slot) = self.slots.get_mut(entry.slot as usize).and_then(Option::as_mut) else { continue };
            let read = &entry.read;
            slot.last_reported = (read.error == ErrorCode::None).then_some((read.high_watermark, read.log_start));
            if read.records_bytes() > 0 {
                self.order.move_to_end(entry.slot);
            }
            if read.records_bytes() > 0 || read.error != ErrorCode::None || read.diverging.is_some() {
                self.order.queue(entry.slot);
            }
        }
    }

    /// No answer was made of these: they still have it to say, at their place.
    pub fn put_back(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.order.queue(entry.slot);
        }
    }
}

impl Drop for FetchSession {
    fn drop(&mut self) {
        for slot in self.slots.get_mut().slots.iter().flatten() {
            if let Some(hosted) = &slot.hosted {
                hosted.leave();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_model::TopicId;

    #[test]
    fn epochs_wrap_to_one() {
        assert_eq!(next_epoch(INITIAL_EPOCH), 1);
        assert_eq!(next_epoch(i32::MAX), 1);
        assert_eq!(next_epoch(FINAL_EPOCH), FINAL_EPOCH);
    }

    #[test]
    fn forgetting_frees_the_slot_and_leaves_the_others() {
        let session = FetchSession::new(SessionId(1), Fetcher::Consumer, true);
        let wanted = FetchPartition {
            offset: Offset(0),
            log_start: Offset::UNKNOWN,
            max_bytes: 1,
            current_leader_epoch: LeaderEpoch::NONE,
            last_fetched_epoch: LeaderEpoch::NONE,
        };
        let topic = Arc::new(TopicRef::Id(TopicId([1; 16])));
        let mut slots = session.slots.lock();
        for partition in 0..3 {
            session.want(&mut slots, &topic, PartitionId(partition), wanted);
        }
        session.want(&mut slots, &topic, PartitionId(1), FetchPartition { offset: Offset(9), ..wanted });
        assert_eq!(slots.len(), 3);
        session.forget(&mut slots, &topic, PartitionId(1));
        let mut queued = Vec::new();
        slots.order.start_pass(&mut queued);
        assert_eq!((slots.len(), queued), (2, vec![0, 2]));
        session.want(&mut slots, &topic, PartitionId(7), wanted);
        assert_eq!((slots.len(), slots.slots.len()), (3, 3));
    }
}
