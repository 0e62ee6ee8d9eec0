//! Applies a batch in the log to the producer states.

use ottla_model::TransactionResult;
use ottla_protocol::record_batch::{BatchHeader, EndMarkerRecord};
use ottla_replication::{EndMarker, ProducerStates, TransactionMarker};

use crate::aborted_index::AbortedTransaction;
use crate::log::producer_batch;

/// The batch, whose bytes begin `bytes`, is in the log. Returns the transaction that it aborts, if it has records: an
/// entry of the index of the batch's segment. Only control batches are looked into.
pub(crate) fn apply(producers: &mut ProducerStates, header: &BatchHeader, bytes: &[u8]) -> Option<AbortedTransaction> {
    if !header.is_control() {
        producers.apply(&producer_batch(header));
        return None;
    }
    // Other control records (a leader change) say nothing of producers; neither does a marker that compaction emptied.
    let marker = EndMarkerRecord::parse(header, bytes).filter(|_| header.has_producer_id());
    let completed = marker.and_then(|EndMarkerRecord { result, coordinator_epoch }| {
        producers.apply_marker(&TransactionMarker {
            end: EndMarker {
                producer_id: header.producer_id,
                producer_epoch: header.producer_epoch,
                result,
                coordinator_epoch,
            },
            offset: header.base_offset,
            timestamp: header.max_timestamp,
        })
    });
    // A marker batch has one record, but its header has the last word on where the log ends.
    producers.set_end_offset(header.next_offset());
    completed.filter(|completed| completed.result == TransactionResult::Abort).map(|completed| AbortedTransaction {
        producer_id: completed.producer_id,
        first_offset: completed.first_offset,
        last_offset: completed.last_offset,
        last_stable: completed.last_stable,
    })
}
