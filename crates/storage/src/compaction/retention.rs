//! Which batches and records stay (Kafka's `Cleaner.cleanInto` and `shouldRetainRecord`).

use std::collections::HashMap;

use ottla_model::{Offset, ProducerEpoch, ProducerId, TimestampMs};
use ottla_protocol::record_batch::{BatchHeader, Filtered, KeyedRecord, RecordsError, StoredRecords, empty_batch};
use ottla_replication::ProducerStates;

use super::offset_map::OffsetMap;
use super::transactions::Transactions;

/// How far a batch is unpacked. Producers' batches are bounded by 22 times `max.message.bytes` when they are appended.
pub(super) const UNPACKED_MAX_BYTES: u64 = 1 << 30;

/// The last batch of each active producer, from which its epoch and sequence are restored after a restart.
pub(super) struct LastBatches(HashMap<ProducerId, (ProducerEpoch, Option<Offset>)>);

impl LastBatches {
    pub fn of(producers: &ProducerStates) -> Self {
        let last = producers.snapshot().map(|producer| {
            let last_offset = (producer.last_offset.0 >= 0).then_some(producer.last_offset);
            (producer.producer_id, (producer.producer_epoch, last_offset))
        });
        Self(last.collect())
    }

    fn has(&self, header: &BatchHeader) -> bool {
        match self.0.get(&header.producer_id) {
            Some((_, Some(last_offset))) => header.last_offset() == *last_offset,
            // Only a marker is known of it: that has the epoch, which fences.
            Some((epoch, None)) => header.is_control() && header.producer_epoch == *epoch,
            None => false,
        }
    }
}

/// The remaining part of a batch.
pub(super) enum Kept {
    Nothing,
    /// The batch as it is.
    All,
    Rebuilt(Vec<u8>),
}

pub(super) struct Retention<'a> {
    pub map: &'a OffsetMap,
    pub last_batches: &'a LastBatches,
    pub now: TimestampMs,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
}

impl Retention<'_> {
    /// The remaining part of the batch at the start of `bytes`. `ends_group`: the segment must keep its end.
    pub fn keep(
        &self,
        header: &BatchHeader,
        bytes: &[u8],
        ends_group: bool,
        transactions: &mut Transactions,
    ) -> Result<Kept, RecordsError> {
        let keeps_empty = ends_group || header.has_producer_id() && self.last_batches.has(header);
        let horizon_passed = header.attributes.has_delete_horizon() && header.base_timestamp <= self.now;
        let (records, goes, is_to_expire) = if header.is_control() {
            let records = StoredRecords::new(bytes, UNPACKED_MAX_BYTES)?;
            let is_obsolete = transactions.is_obsolete(&records)?;
            (Some(records), is_obsolete && horizon_passed, is_obsolete)
        } else {
            (None, transactions.is_aborted(header), false)
        };
        let filtered = if goes {
            Filtered::Empty
        } else {
            let records = match records {
                Some(records) => records,
                None => StoredRecords::new(bytes, UNPACKED_MAX_BYTES)?,
            };
            let horizon = TimestampMs(self.now.0.saturating_add(self.delete_retention_ms));
            records.filter(horizon, is_to_expire, |record| {
                header.is_control() || self.keeps(&record, header.attributes.has_delete_horizon(), horizon_passed)
            })?
        };
        Ok(match filtered {
            Filtered::Unchanged => Kept::All,
            Filtered::Rebuilt(batch) => Kept::Rebuilt(batch.to_vec()),
            Filtered::Empty if !keeps_empty => Kept::Nothing,
            Filtered::Empty => {
                let empty = empty_batch(header);
                if empty == bytes { Kept::All } else { Kept::Rebuilt(empty.to_vec()) }
            }
        })
    }

    fn keeps(&self, record: &KeyedRecord<'_>, has_horizon: bool, horizon_passed: bool) -> bool {
        if record.offset > self.map.latest() {
            return true;
        }
        // A topic that was not always compacted may have records without keys; no later record could replace them.
        let Some(key) = record.key else { return false };
        let is_latest = self.map.get(key).is_none_or(|latest| record.offset >= latest);
        is_latest && (record.has_value || !has_horizon || !horizon_passed)
    }
}
