//! Which partitions of a fetch get their turn, in which order, and how many bytes each may add to the answer.
//!
//! Kafka's rules (KIP-74, KIP-227): partitions are served in the session's order. A partition whose records were
//! returned moves to the end; every other one keeps its place, even if a request names it again. The first records of a
//! response include one whole batch, however large; after that a batch that does not fit is left out as a whole, so
//! that no fetcher gets only a part of a batch. Kafka checks every partition of a session for each request. Here only
//! partitions that may have news are checked, in the same order.
//!
//! The caller owns the partitions and names them by slot numbers; it reads the logs between [`FetchOrder::start_pass`]
//! and the answer.

/// The limits of one answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchLimits {
    pub max_bytes: usize,
    /// The fetch waits until this much can be returned, or its time has passed.
    pub min_bytes: usize,
}

/// How full one answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnswerBudget {
    limits: FetchLimits,
    bytes: usize,
    left_out_bytes: usize,
}

impl AnswerBudget {
    pub fn new(limits: FetchLimits) -> Self {
        Self { limits, bytes: 0, left_out_bytes: 0 }
    }

    /// The records in the answer so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of bytes of a partition's records that the response accepts, if its fetcher wants at most
    /// `partition_max_bytes`.
    pub fn room(&self, partition_max_bytes: usize) -> usize {
        partition_max_bytes.min(self.limits.max_bytes.saturating_sub(self.bytes))
    }

    /// No more records are accepted.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.limits.max_bytes && !self.takes_large_batch()
    }

    /// The next records may exceed every limit by one batch: without it a fetcher would never pass a batch that is
    /// larger.
    pub fn takes_large_batch(&self) -> bool {
        self.bytes == 0
    }

    /// A partition was read: `bytes` are in the answer, `left_out_bytes` would have been, had there been room.
    pub fn add(&mut self, bytes: usize, left_out_bytes: usize, partition_max_bytes: usize) {
        self.bytes += bytes;
        self.left_out_bytes = self.left_out_bytes.saturating_add(left_out_bytes.min(partition_max_bytes));
    }

    /// Whether the response must be sent before the fetch's wait time has passed. Records that found no room count too
    /// (as in Kafka's `DelayedFetch`): waiting longer would not make room.
    pub fn is_due(&self) -> bool {
        self.bytes.saturating_add(self.left_out_bytes) >= self.limits.min_bytes
    }
}

#[derive(Clone, Copy, Default, Debug)]
struct Place {
    /// The session's order: ascending.
    rank: u64,
    is_queued: bool,
    /// The slot's number is in `queue`, also after the slot was removed: a removal does not search the queue.
    is_listed: bool,
}

/// The order of a fetch session's partitions, and which of them may have something to say.
#[derive(Default, Debug)]
pub struct FetchOrder {
    places: Vec<Place>,
    queue: Vec<u32>,
    next_rank: u64,
}

impl FetchOrder {
    /// A partition joins the session, in a new slot or in one that was removed: at the end, and queued.
    pub fn insert(&mut self, slot: u32) {
        let at = slot as usize;
        if at >= self.places.len() {
            self.places.resize(at + 1, Place::default());
        }
        self.move_to_end(slot);
        self.queue(slot);
    }

    pub fn remove(&mut self, slot: u32) {
        if let Some(place) = self.places.get_mut(slot as usize) {
            place.is_queued = false;
        }
    }

    /// The partition may have news: the next pass includes it, at its place.
    pub fn queue(&mut self, slot: u32) {
        let Some(place) = self.places.get_mut(slot as usize) else { return };
        place.is_queued = true;
        if !std::mem::replace(&mut place.is_listed, true) {
            self.queue.push(slot);
        }
    }

    /// Records of the partition were returned: all others come before it from now on.
    pub fn move_to_end(&mut self, slot: u32) {
        let Some(place) = self.places.get_mut(slot as usize) else { return };
        place.rank = self.next_rank;
        self.next_rank += 1;
    }

    /// Replaces the content of `slots` by the queued slots, in the session's order. They are not queued any more: the
    /// caller queues those again that have more to say.
    pub fn start_pass(&mut self, slots: &mut Vec<u32>) {
        slots.clear();
        for slot in self.queue.drain(..) {
            let Some(place) = self.places.get_mut(slot as usize) else { continue };
            place.is_listed = false;
            if std::mem::take(&mut place.is_queued) {
                slots.push(slot);
            }
        }
        slots.sort_unstable_by_key(|slot| self.places.get(*slot as usize).map(|place| place.rank));
    }
}
