//! The transactions of a log that bound its last stable offset.
//!
//! A transaction is *open* until its marker is in the log, and *unreplicated* until the high watermark has passed that
//! marker: a marker that is not replicated may still be lost with its leader, and another one take its place.

use std::collections::BTreeMap;

use ottla_model::{Offset, ProducerId, TransactionResult};

/// A transaction whose marker is in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompletedTransaction {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// The marker's.
    pub last_offset: Offset,
    pub result: TransactionResult,
    /// Below it every transaction is decided, once the marker is replicated.
    pub last_stable: Offset,
}

/// Both maps are by the transaction's first offset, which is the transaction's own: a batch belongs to one producer.
#[derive(Clone, Debug, Default)]
pub(super) struct Transactions {
    open: BTreeMap<Offset, ProducerId>,
    /// The offsets of the markers.
    pub(super) unreplicated: BTreeMap<Offset, Offset>,
}

impl Transactions {
    pub fn begin(&mut self, producer_id: ProducerId, first_offset: Offset) {
        self.open.insert(first_offset, producer_id);
    }

    /// Returns the offset below which every transaction is decided now.
    pub fn complete(&mut self, first_offset: Offset, marker: Offset) -> Offset {
        self.open.remove(&first_offset);
        self.unreplicated.insert(first_offset, marker);
        self.open.keys().next().copied().unwrap_or(marker.next())
    }

    #[inline]
    pub fn first_unstable_offset(&self, high_watermark: Offset) -> Option<Offset> {
        let open = self.open.keys().next().copied();
        let unreplicated = self.unreplicated.iter().find(|(_, marker)| **marker >= high_watermark);
        [open, unreplicated.map(|(first_offset, _)| *first_offset)].into_iter().flatten().min()
    }

    /// Forgets the transactions whose markers are below.
    pub fn replicated(&mut self, high_watermark: Offset) {
        if !self.unreplicated.is_empty() {
            self.unreplicated.retain(|_, marker| *marker >= high_watermark);
        }
    }

    pub fn clear(&mut self) {
        self.open.clear();
        self.unreplicated.clear();
    }
}
