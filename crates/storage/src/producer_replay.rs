//! Applies a batch in the log to the producer states.

use bytes::{Buf, Bytes};
use ottla_protocol::record_batch::{BatchHeader, Records};
use ottla_replication::{ProducerStates, TransactionMarker};

use crate::log::producer_batch;

/// The batch, whose bytes begin `bytes`, is in the log. Only control batches are looked into.
pub(crate) fn apply(producers: &mut ProducerStates, header: &BatchHeader, bytes: &[u8]) {
    if !header.is_control() {
        producers.apply(&producer_batch(header));
        return;
    }
    match coordinator_epoch(header, bytes) {
        Some(coordinator_epoch) if header.has_producer_id() => {
            // Whether the transaction held records matters to the last stable offset, which is not kept yet.
            producers.apply_marker(&TransactionMarker {
                producer_id: header.producer_id,
                producer_epoch: header.producer_epoch,
                coordinator_epoch,
                offset: header.base_offset,
                timestamp: header.max_timestamp,
            });
        }
        // Other control records (a leader change) say nothing of producers.
        _ => producers.set_end_offset(header.next_offset()),
    }
    // A marker batch has one record, but its header has the last word on where the log ends.
    producers.set_end_offset(header.next_offset());
}

/// A marker's value: version i16, coordinator epoch i32. Control batches are never compressed.
fn coordinator_epoch(header: &BatchHeader, bytes: &[u8]) -> Option<i32> {
    /// A control batch is under 100 bytes; nothing larger is unpacked for its sake.
    const CONTROL_BATCH_MAX_BYTES: usize = 4096;
    let batch = bytes.get(..header.size_bytes()).filter(|batch| batch.len() <= CONTROL_BATCH_MAX_BYTES)?;
    let mut records = Records::new(&Bytes::copy_from_slice(batch), CONTROL_BATCH_MAX_BYTES as u64).ok()?;
    let record = records.next()?.ok()?;
    // The key: version i16, type i16, where 0 aborts and 1 commits.
    let mut key = record.key?;
    if key.remaining() < 4 || key.get_i16() < 0 || !matches!(key.get_i16(), 0 | 1) {
        return None;
    }
    let mut value = record.value?;
    (value.remaining() >= 6).then(|| {
        value.advance(2);
        value.get_i32()
    })
}
