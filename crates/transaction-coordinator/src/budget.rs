//! What the transactional ids of all partitions of a broker may hold together. Anybody may ask for a new id with each
//! request, and an id is kept for a week (`transactional.id.expiration.ms`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_model::TransactionalId;

use crate::transaction::Transaction;

/// The longest transactional id. Kafka has no limit but that of a string; frameworks make ids of up to some hundred
/// bytes.
pub const ID_BYTES_MAX: usize = 2_048;

/// What an id takes besides its text and its partitions: its entry, its places in the maps, the change in flight.
const ENTRY_BYTES: usize = 1_024;
/// A partition of a transaction: in the state, in the change in flight and among the markers.
const PARTITION_BYTES: usize = 256;

/// The ceiling where the memory is large: half a million ids.
const BYTES_MAX: usize = 512 << 20;

/// Shared by the partitions of a broker. Each of them adds what it holds.
#[derive(Debug)]
pub struct IdBudget {
    bytes_max: usize,
    bytes: AtomicUsize,
    refused: AtomicUsize,
}

impl Default for IdBudget {
    fn default() -> Self {
        Self::new(BYTES_MAX)
    }
}

/// Budgets are the same if they allow the same.
impl PartialEq for IdBudget {
    fn eq(&self, other: &Self) -> bool {
        self.bytes_max == other.bytes_max
    }
}

impl Eq for IdBudget {}

impl IdBudget {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max: bytes_max.min(BYTES_MAX), bytes: AtomicUsize::new(0), refused: AtomicUsize::new(0) }
    }

    pub fn used(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn ceiling(&self) -> usize {
        self.bytes_max
    }

    /// Requests that found no room, since the start.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether there is room for so many bytes more.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        let fits = self.used().saturating_add(more) <= self.bytes_max;
        if !fits {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }
}

/// About how many bytes an id takes.
pub(crate) fn bytes(id: &TransactionalId, partitions: usize) -> usize {
    ENTRY_BYTES + 4 * id.as_str().len() + PARTITION_BYTES * partitions
}

pub(crate) fn bytes_of(id: &TransactionalId, transaction: &Transaction) -> usize {
    bytes(id, transaction.partitions.len())
}

/// What one shard holds of the broker's budget; given back when the shard goes.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) budget: Arc<IdBudget>,
    bytes: usize,
}

impl Share {
    pub(crate) fn new(budget: Arc<IdBudget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// An id takes `now` bytes instead of `former`.
    pub(crate) fn replace(&mut self, former: usize, now: usize) {
        self.bytes = self.bytes + now - former;
        if now >= former {
            self.budget.bytes.fetch_add(now - former, Ordering::Relaxed);
        } else {
            self.budget.bytes.fetch_sub(former - now, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
