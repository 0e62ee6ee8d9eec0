//! Control batches that end a transaction: one record, whose key says how it ends, and whose value which coordinator
//! says so.
//!
//! Key: version i16 (0), type i16 (0 aborts, 1 commits). Value: version i16 (0), coordinator epoch i32.

use std::io;

use bytes::{Buf, BufMut, BytesMut};
use ottla_model::{ProducerEpoch, ProducerId, TimestampMs, TransactionResult};

use super::builder::BatchBuilder;
use super::header::{BatchHeader, Compression, HEADER_BYTES, TimestampType};
use super::records::field;
use crate::wire::Reader;

const VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// What the record of an end marker says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndMarkerRecord {
    pub result: TransactionResult,
    pub coordinator_epoch: i32,
}

impl EndMarkerRecord {
    /// Reads the marker whose batch begins `batch`. None for control batches of other kinds, and for one that
    /// compaction left without its record.
    pub fn parse(header: &BatchHeader, batch: &[u8]) -> Option<Self> {
        let is_one = header.is_control() && header.record_count == 1;
        if !is_one || !matches!(header.compression(), Ok(Compression::None)) {
            return None;
        }
        let records = batch.get(..header.size_bytes())?;
        let mut reader = Reader::new(records, HEADER_BYTES);
        // Length, attributes, timestamp and offset: of one record, they are those of the batch.
        reader.varint().ok()?;
        reader.i8().ok()?;
        reader.varlong().ok()?;
        reader.varint().ok()?;
        let mut key = records.get(field(&mut reader).ok()??)?;
        let mut value = records.get(field(&mut reader).ok()??)?;
        // Later versions only append fields.
        if key.remaining() < 4 || key.get_i16() < VERSION || value.remaining() < 6 || value.get_i16() < VERSION {
            return None;
        }
        let result = match key.get_i16() {
            ABORT => TransactionResult::Abort,
            COMMIT => TransactionResult::Commit,
            _ => return None,
        };
        Some(Self { result, coordinator_epoch: value.get_i32() })
    }

    /// The batch that a leader appends for it. Offset and leader epoch are assigned by the append.
    pub fn batch(
        self,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        timestamp: TimestampMs,
        timestamp_type: TimestampType,
    ) -> io::Result<BytesMut> {
        let (mut key, mut value) = (Vec::with_capacity(4), Vec::with_capacity(6));
        key.put_i16(VERSION);
        key.put_i16(match self.result {
            TransactionResult::Abort => ABORT,
            TransactionResult::Commit => COMMIT,
        });
        value.put_i16(VERSION);
        value.put_i32(self.coordinator_epoch);
        BatchBuilder::new()
            .producer(producer_id, producer_epoch, -1)
            .transactional()
            .control()
            .timestamp_type(timestamp_type)
            .record(timestamp, Some(&key), Some(&value))
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record_batch::{StoredRecords, empty_batch, verify_crc};

    fn built(result: TransactionResult) -> (BatchHeader, BytesMut) {
        let record = EndMarkerRecord { result, coordinator_epoch: 0x0102_0304 };
        let batch =
            record.batch(ProducerId(7), ProducerEpoch(3), TimestampMs(1_000), TimestampType::CreateTime).unwrap();
        (BatchHeader::parse(&batch).unwrap(), batch)
    }

    #[test]
    fn a_marker_says_what_was_written() {
        for result in [TransactionResult::Abort, TransactionResult::Commit] {
            let (header, batch) = built(result);
            assert!(verify_crc(&batch) && header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch), (ProducerId(7), ProducerEpoch(3)));
            assert_eq!((header.base_sequence, header.max_timestamp), (-1, TimestampMs(1_000)));
            let expected = EndMarkerRecord { result, coordinator_epoch: 0x0102_0304 };
            assert_eq!(EndMarkerRecord::parse(&header, &batch), Some(expected));
            for end in 0..batch.len() {
                assert_eq!(EndMarkerRecord::parse(&header, &batch[..end]), None, "cut to {end} bytes");
            }
        }
    }

    #[test]
    fn golden_record() {
        let (_, batch) = built(TransactionResult::Commit);
        let record = [0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 1, 2, 3, 4, 0];
        assert_eq!(batch[HEADER_BYTES..], [&[32][..], &record].concat());
        let records = StoredRecords::new(&batch, 1 << 10).unwrap();
        let mut keys = 0;
        records
            .for_each(|record| {
                assert_eq!(record.key, Some(&[0, 0, 0, 1][..]));
                keys += 1;
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(keys, 1);
    }

    #[test]
    fn other_control_batches_are_no_markers() {
        let (header, batch) = built(TransactionResult::Abort);
        let empty = empty_batch(&header);
        assert_eq!(EndMarkerRecord::parse(&BatchHeader::parse(&empty).unwrap(), &empty), None);
        let mut leader_change = batch.to_vec();
        leader_change[HEADER_BYTES + 8] = 2;
        assert_eq!(EndMarkerRecord::parse(&header, &leader_change), None);
        let data = BatchBuilder::new().record(TimestampMs(1), Some(&[0, 0, 0, 1]), Some(&[0; 6])).build().unwrap();
        assert_eq!(EndMarkerRecord::parse(&BatchHeader::parse(&data).unwrap(), &data), None);
    }
}
