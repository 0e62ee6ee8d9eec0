//! Which batches of a Fetch answer belong to aborted transactions: a reader of committed records skips them. Brokers
//! send them, with a list of the transactions (Kafka's `CompletedFetch.containsAbortMarker` and its neighbours).

use std::collections::{HashSet, VecDeque};

use ottla_model::ProducerId;
use ottla_protocol::messages::fetch::AbortedTransaction;
use ottla_protocol::record_batch::BatchHeader;

/// The state at one point of a walk through the batches of one answer, in their order.
#[derive(Debug, Default)]
pub struct AbortedBatches {
    /// Not begun yet, by first offset.
    later: VecDeque<AbortedTransaction>,
    ongoing: HashSet<ProducerId>,
}

impl AbortedBatches {
    /// `aborted` as the answer has it; none where the reader did not ask for committed records alone.
    pub fn new(aborted: Option<Vec<AbortedTransaction>>) -> Self {
        let mut later = aborted.unwrap_or_default();
        later.sort_by_key(|transaction| transaction.first_offset);
        Self { later: later.into(), ongoing: HashSet::new() }
    }

    /// The next batch of the answer. Returns whether its records were aborted.
    pub fn contain(&mut self, header: &BatchHeader) -> bool {
        while let Some(begun) = self.later.pop_front_if(|transaction| transaction.first_offset <= header.last_offset())
        {
            self.ongoing.insert(begun.producer_id);
        }
        if header.is_control() {
            // The marker: what the producer writes after it is another transaction.
            self.ongoing.remove(&header.producer_id);
            return false;
        }
        header.is_transactional() && self.ongoing.contains(&header.producer_id)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ottla_model::{Offset, ProducerEpoch, TimestampMs};
    use ottla_protocol::record_batch::{BatchBuilder, Batches};

    use super::*;

    fn aborted(producer_id: i64, first_offset: i64) -> AbortedTransaction {
        AbortedTransaction { producer_id: ProducerId(producer_id), first_offset: Offset(first_offset) }
    }

    fn header(producer_id: i64, offset: i64, builder: BatchBuilder) -> BatchHeader {
        let batch = builder.producer(ProducerId(producer_id), ProducerEpoch(0), 0);
        let batch = batch.record(TimestampMs(1), None, Some(b"value")).build().expect("a batch");
        let bytes: Bytes = batch.freeze();
        let mut header = Batches::new(&bytes).next().expect("one batch").expect("it is readable").header;
        header.base_offset = Offset(offset);
        header
    }

    fn records(producer_id: i64, offset: i64) -> BatchHeader {
        header(producer_id, offset, BatchBuilder::new().transactional())
    }

    fn marker(producer_id: i64, offset: i64) -> BatchHeader {
        header(producer_id, offset, BatchBuilder::new().transactional().control())
    }

    #[test]
    fn a_transaction_is_skipped_up_to_its_marker() {
        let mut batches = AbortedBatches::new(Some(vec![aborted(7, 4), aborted(7, 0)]));
        let walk = [
            (records(7, 0), true),
            (records(8, 1), false),
            (header(9, 2, BatchBuilder::new()), false),
            (marker(7, 3), false),
            (records(7, 4), true),
            (marker(7, 5), false),
            (records(7, 6), false),
        ];
        for (header, expected) in walk {
            assert_eq!(batches.contain(&header), expected, "at offset {}", header.base_offset);
        }
    }

    #[test]
    fn a_transaction_that_began_before_the_answer_is_skipped() {
        let mut batches = AbortedBatches::new(Some(vec![aborted(7, 0)]));
        assert!(batches.contain(&records(7, 50)));
    }

    #[test]
    fn without_a_list_nothing_is_skipped() {
        assert!(!AbortedBatches::new(None).contain(&records(7, 0)));
    }
}
