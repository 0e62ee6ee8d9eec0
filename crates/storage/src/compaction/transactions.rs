//! Which transactions were aborted, while the cleaner walks a log: their records go at once, their markers when no
//! record of them is left (Kafka's `CleanedTransactionMetadata`).
//!

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::Path;

use bytes::Buf;
use ottla_model::{Offset, ProducerId};
use ottla_protocol::record_batch::{BatchHeader, RecordsError, StoredRecords};

use crate::aborted_index::{AbortedIndex, AbortedTransaction};
use crate::env::{Env, OpenMode};
use crate::file_name::{self, path_of};

/// The aborted transactions of these indexes, by first offset.
pub(crate) fn read_aborted<E: Env>(
    env: &E,
    directory: &Path,
    indexes: &[(Offset, AbortedIndex)],
) -> io::Result<Vec<AbortedTransaction>> {
    let mut aborted = Vec::new();
    for (base, index) in indexes {
        if index.written() > 0 {
            let file = env.open(&path_of(directory, *base, file_name::TRANSACTION_INDEX), OpenMode::Read)?;
            let mut read = 0;
            while read < index.written() {
                let block = index.block(&file, read)?;
                read += u32::try_from(block.len()).unwrap_or(u32::MAX);
                aborted.extend(block);
            }
        }
        aborted.extend_from_slice(index.waiting());
    }
    aborted.sort_by_key(|transaction| transaction.first_offset);
    Ok(aborted)
}

/// An aborted transaction that the walk is within.
struct Ongoing {
    transaction: AbortedTransaction,
    /// Whether a batch of it is still in the log.
    has_batches: bool,
}

/// The state of transactions at one point of a walk in the order of the log.
pub(crate) struct Transactions {
    /// Not begun yet, by first offset.
    aborted: VecDeque<AbortedTransaction>,
    ongoing_aborted: HashMap<ProducerId, Ongoing>,
    ongoing_committed: HashSet<ProducerId>,
    /// Of these the marker stays: they belong into the new segment's index.
    kept: Vec<AbortedTransaction>,
}

impl Transactions {
    pub fn new(aborted: &[AbortedTransaction]) -> Self {
        Self {
            aborted: aborted.iter().copied().collect(),
            ongoing_aborted: HashMap::new(),
            ongoing_committed: HashSet::new(),
            kept: Vec::new(),
        }
    }

    /// The transactions whose markers were kept since the last call.
    pub fn take_kept(&mut self) -> Vec<AbortedTransaction> {
        std::mem::take(&mut self.kept)
    }

    /// A batch of records. Returns whether its transaction was aborted, so that its records must not be read.
    pub fn is_aborted(&mut self, header: &BatchHeader) -> bool {
        self.begin_up_to(header.last_offset());
        if !header.is_transactional() {
            return false;
        }
        if let Some(ongoing) = self.ongoing_aborted.get_mut(&header.producer_id) {
            ongoing.has_batches = true;
            return true;
        }
        self.ongoing_committed.insert(header.producer_id);
        false
    }

    /// A control batch. Returns whether all records of its transaction are gone.
    pub fn is_obsolete(&mut self, records: &StoredRecords<'_>) -> Result<bool, RecordsError> {
        let header = *records.header();
        self.begin_up_to(header.last_offset());
        let mut kind = None;
        let mut is_empty = true;
        records.for_each(|record| {
            is_empty = false;
            // The key: version i16, type i16.
            let mut key = record.key.unwrap_or_default();
            if key.remaining() >= 4 {
                key.advance(2);
                kind = Some(key.get_i16());
            }
            std::ops::ControlFlow::Break(())
        })?;
        Ok(match kind {
            // The records of the transaction were removed before.
            None => is_empty,
            Some(0) => match self.ongoing_aborted.remove(&header.producer_id) {
                Some(Ongoing { transaction, has_batches: true }) => {
                    self.kept.push(transaction);
                    false
                }
                _ => true,
            },
            Some(1) => !self.ongoing_committed.remove(&header.producer_id),
            Some(_) => false,
        })
    }

    fn begin_up_to(&mut self, offset: Offset) {
        while let Some(transaction) = self.aborted.front().filter(|it| it.first_offset <= offset).copied() {
            self.aborted.pop_front();
            self.ongoing_aborted.entry(transaction.producer_id).or_insert(Ongoing { transaction, has_batches: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::{LeaderEpoch, ProducerEpoch, TimestampMs};
    use ottla_protocol::record_batch::BatchBuilder;

    use super::*;

    fn aborted(producer: i64, first: i64, last: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(producer),
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable: Offset(first),
        }
    }

    fn batch(producer: i64, offset: i64) -> BatchHeader {
        let builder = BatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(0), 0).transactional();
        let built = builder.record(TimestampMs(1), Some(b"k"), Some(b"v")).placed_at(Offset(offset), LeaderEpoch(0));
        BatchHeader::parse(&built.build().unwrap()).unwrap()
    }

    fn marker(producer: i64, offset: i64, kind: u8) -> Vec<u8> {
        let builder =
            BatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(0), -1).transactional().control();
        let built = builder.record(TimestampMs(1), Some(&[0, 0, 0, kind]), Some(&[0; 6]));
        built.placed_at(Offset(offset), LeaderEpoch(0)).build().unwrap().to_vec()
    }

    fn is_obsolete(transactions: &mut Transactions, marker: &[u8]) -> bool {
        transactions.is_obsolete(&StoredRecords::new(marker, 1 << 10).unwrap()).unwrap()
    }

    #[test]
    fn a_marker_stays_as_long_as_something_of_its_transaction() {
        let mut transactions = Transactions::new(&[aborted(1, 10, 20), aborted(3, 40, 50)]);
        assert!(transactions.is_aborted(&batch(1, 10)));
        assert!(!transactions.is_aborted(&batch(2, 12)));
        assert!(!is_obsolete(&mut transactions, &marker(1, 20, 0)));
        assert_eq!(transactions.take_kept(), [aborted(1, 10, 20)]);
        assert!(!is_obsolete(&mut transactions, &marker(2, 21, 1)), "a committed one with records");
        assert!(!transactions.is_aborted(&batch(1, 30)), "the next transaction of the same producer");
        assert!(!is_obsolete(&mut transactions, &marker(1, 31, 1)));
        assert!(is_obsolete(&mut transactions, &marker(1, 32, 1)), "of which nothing is left");
        assert!(is_obsolete(&mut transactions, &marker(3, 50, 0)), "aborted, and nothing is left");
        assert!(!is_obsolete(&mut transactions, &marker(3, 51, 2)), "another kind of control record");
        assert!(transactions.take_kept().is_empty());
    }
}
