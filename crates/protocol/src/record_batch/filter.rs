//! Taking records out of a stored batch, for compaction.
//!
//! Kept records are copied byte for byte: offsets, timestamps and sequences are relative to the batch's header, which
//! keeps its base, and headers of records are never parsed. Only if a delete horizon replaces the base timestamp, the
//! records' timestamp deltas are rewritten (KIP-534). A compressed batch is compressed again with its own codec.

use std::borrow::Cow;
use std::io;
use std::ops::ControlFlow;

use bytes::BytesMut;
use ottla_model::{Offset, TimestampMs};

use super::builder::assemble;
use super::decompress::decompress;
use super::header::{
    Attributes, BatchHeader, Compression, HEADER_BYTES, LOG_OVERHEAD_BYTES, TimestampType, crc_of, put_crc,
};
use super::records::{RecordsError, field};
use crate::wire::{self, Reader, WireError};

/// The fields of a record that compaction needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyedRecord<'a> {
    pub offset: Offset,
    pub key: Option<&'a [u8]>,
    /// False for a tombstone.
    pub has_value: bool,
}

/// The records of one stored batch, unpacked.
pub struct StoredRecords<'a> {
    header: BatchHeader,
    compression: Compression,
    records: Cow<'a, [u8]>,
}

/// A record that can be copied.
struct RawRecord<'a> {
    view: KeyedRecord<'a>,
    /// With its length.
    bytes: &'a [u8],
    attributes: u8,
    timestamp_delta: i64,
    /// From the offset delta on.
    rest: &'a [u8],
}

/// The result of filtering a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Filtered {
    /// Every record stays, and so does the batch, byte for byte.
    Unchanged,
    /// Some records stay.
    Rebuilt(BytesMut),
    /// No record stays.
    Empty,
}

impl<'a> StoredRecords<'a> {
    /// Unpacks the batch at the start of `batch`, to at most `unpacked_max_bytes`.
    pub fn new(batch: &'a [u8], unpacked_max_bytes: u64) -> Result<Self, RecordsError> {
        let header = BatchHeader::parse(batch)?;
        let packed = batch.get(HEADER_BYTES..header.size_bytes()).ok_or(WireError::Truncated)?;
        let compression = header.compression()?;
        let records = match compression {
            Compression::None => Cow::Borrowed(packed),
            // An empty batch has nothing to decompress, whatever its codec.
            _ if header.record_count == 0 => Cow::Borrowed(&[][..]),
            codec => Cow::Owned(decompress(codec, packed, unpacked_max_bytes)?),
        };
        Ok(Self { header, compression, records })
    }

    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Shows every record to `look`, until it says that it has seen enough.
    pub fn for_each(&self, mut look: impl FnMut(KeyedRecord<'_>) -> ControlFlow<()>) -> Result<(), RecordsError> {
        let mut at = 0;
        for _ in 0..self.header.record_count {
            let record = self.read(at)?;
            at += record.bytes.len();
            if look(record.view).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read(&self, at: usize) -> Result<RawRecord<'_>, RecordsError> {
        let mut outer = Reader::new(&self.records, at);
        let size = usize::try_from(outer.varint()?).map_err(|_| WireError::InvalidLength(-1))?;
        let end = outer.position().checked_add(size).ok_or(WireError::Truncated)?;
        let inside = self.records.get(..end).ok_or(WireError::Truncated)?;
        let mut reader = Reader::new(inside, outer.position());
        let attributes = reader.i8()? as u8;
        let timestamp_delta = reader.varlong()?;
        let rest = inside.get(reader.position()..).unwrap_or_default();
        let offset_delta = reader.varint()?;
        let key = field(&mut reader)?.and_then(|range| inside.get(range));
        let has_value = field(&mut reader)?.is_some();
        let offset = self.header.base_offset + i64::from(offset_delta);
        let bytes = inside.get(at..).unwrap_or_default();
        Ok(RawRecord { view: KeyedRecord { offset, key, has_value }, bytes, attributes, timestamp_delta, rest })
    }

    /// Keeps the records for which `keep` returns true. A batch with a remaining tombstone, or with `is_to_expire`,
    /// gets `delete_horizon` unless it has one: the time after which the tombstones or the marker may be removed.
    pub fn filter(
        &self,
        delete_horizon: TimestampMs,
        is_to_expire: bool,
        mut keep: impl FnMut(KeyedRecord<'_>) -> bool,
    ) -> Result<Filtered, RecordsError> {
        let mut kept: Vec<RawRecord<'_>> = Vec::new();
        let mut at = 0;
        for _ in 0..self.header.record_count {
            let record = self.read(at)?;
            at += record.bytes.len();
            if keep(record.view) {
                kept.push(record);
            }
        }
        if kept.is_empty() {
            return Ok(Filtered::Empty);
        }
        let has_tombstone = kept.iter().any(|record| !record.view.has_value);
        let sets_horizon = (has_tombstone || is_to_expire) && !self.header.attributes.has_delete_horizon();
        if kept.len() == usize::try_from(self.header.record_count).unwrap_or(0) && !sets_horizon {
            return Ok(Filtered::Unchanged);
        }
        let rebuilt = self.rebuild(&kept, sets_horizon.then_some(delete_horizon));
        rebuilt.map(Filtered::Rebuilt).map_err(|error| RecordsError::Pack(error.to_string()))
    }

    fn rebuild(&self, kept: &[RawRecord<'_>], horizon: Option<TimestampMs>) -> io::Result<BytesMut> {
        let mut header = self.header;
        let old_base = header.base_timestamp.0;
        let mut body = Vec::with_capacity(kept.iter().map(|record| record.bytes.len() + 10).sum());
        for record in kept {
            let Some(horizon) = horizon else {
                body.extend_from_slice(record.bytes);
                continue;
            };
            let delta = old_base.wrapping_add(record.timestamp_delta).wrapping_sub(horizon.0);
            let size = 1 + wire::varlong_bytes(delta) + record.rest.len();
            wire::put_varlong(&mut body, i64::try_from(size).unwrap_or(i64::MAX));
            body.push(record.attributes);
            wire::put_varlong(&mut body, delta);
            body.extend_from_slice(record.rest);
        }
        if let Some(horizon) = horizon {
            header.base_timestamp = horizon;
            header.attributes = header.attributes.with_delete_horizon();
        }
        if header.timestamp_type() == TimestampType::CreateTime {
            let timestamps = kept.iter().map(|record| old_base.wrapping_add(record.timestamp_delta));
            header.max_timestamp = TimestampMs(timestamps.max().unwrap_or(header.max_timestamp.0));
        }
        header.record_count = i32::try_from(kept.len()).unwrap_or(i32::MAX);
        assemble(header, self.compression.into(), &body)
    }
}

/// A batch with the offsets, producer and sequences of `header`, without records: it keeps the end of the log, and the
/// state of its producer (Kafka's `writeEmptyHeader`).
pub fn empty_batch(header: &BatchHeader) -> [u8; HEADER_BYTES] {
    let attributes =
        Attributes::new(Compression::None, header.timestamp_type(), header.is_transactional(), header.is_control());
    let empty = BatchHeader {
        batch_length: (HEADER_BYTES - LOG_OVERHEAD_BYTES) as i32,
        attributes,
        base_timestamp: TimestampMs::NONE,
        record_count: 0,
        ..*header
    };
    let mut bytes = empty.encode();
    let crc = crc_of(&bytes);
    put_crc(&mut bytes, crc);
    bytes
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ottla_model::{LeaderEpoch, ProducerEpoch, ProducerId};

    use super::*;
    use crate::record_batch::{BatchBuilder, Header, Records, set_max_timestamp, verify_crc};

    const HORIZON: TimestampMs = TimestampMs(5_000_000);

    /// Offsets 100 to 105; the fourth record is a tombstone, the others have headers, one key of them twice.
    fn batch(compression: Compression) -> Vec<u8> {
        let headers = [
            Header { key: "same".into(), value: Some(Bytes::from_static(b"1")) },
            Header { key: "same".into(), value: None },
            Header { key: "same".into(), value: Some(Bytes::from_static(b"2")) },
        ];
        let mut builder = BatchBuilder::new()
            .compression(compression)
            .producer(ProducerId(7), ProducerEpoch(2), 40)
            .placed_at(Offset(100), LeaderEpoch(3));
        for number in 0..6_u8 {
            let value = (number != 3).then_some(&b"some value"[..]);
            let headers = if number == 3 { &[][..] } else { &headers[..] };
            builder.push(TimestampMs(1_000 + i64::from(number % 4)), Some(&[number]), value, headers);
        }
        builder.build().unwrap().to_vec()
    }

    fn records(batch: &[u8]) -> Vec<super::super::Record> {
        Records::new(&Bytes::copy_from_slice(batch), 1 << 20).unwrap().map(|record| record.unwrap()).collect()
    }

    fn filter(batch: &[u8], keep: impl FnMut(KeyedRecord<'_>) -> bool) -> Filtered {
        StoredRecords::new(batch, 1 << 20).unwrap().filter(HORIZON, false, keep).unwrap()
    }

    #[test]
    fn what_stays_is_as_it_was() {
        for &codec in Compression::ALL {
            let before = batch(codec);
            let Filtered::Rebuilt(after) = filter(&before, |record| matches!(record.offset.0, 101 | 104)) else {
                panic!("rebuilt")
            };
            assert!(verify_crc(&after));
            let (old, new) = (BatchHeader::parse(&before).unwrap(), BatchHeader::parse(&after).unwrap());
            let expected = BatchHeader {
                batch_length: new.batch_length,
                crc: new.crc,
                record_count: 2,
                max_timestamp: TimestampMs(1_001),
                ..old
            };
            assert_eq!(new, expected, "{codec:?}");
            let all = records(&before);
            assert_eq!(records(&after), [all[1].clone(), all[4].clone()]);
        }
    }

    #[test]
    fn all_or_nothing() {
        let before = batch(Compression::Zstd);
        assert_eq!(filter(&before, |record| record.has_value && record.offset.0 == 0), Filtered::Empty);
        let values = BatchBuilder::new().record(TimestampMs(1), Some(b"k"), Some(b"v")).build().unwrap();
        assert_eq!(filter(&values, |_| true), Filtered::Unchanged);
    }

    #[test]
    fn a_tombstone_gives_its_batch_a_horizon_once() {
        for &codec in Compression::ALL {
            let before = batch(codec);
            let Filtered::Rebuilt(after) = filter(&before, |_| true) else { panic!("rebuilt") };
            let header = BatchHeader::parse(&after).unwrap();
            assert!(header.attributes.has_delete_horizon() && verify_crc(&after));
            assert_eq!((header.base_timestamp, header.max_timestamp), (HORIZON, TimestampMs(1_003)));
            assert_eq!(header.compression(), Ok(codec));
            assert_eq!(records(&after), records(&before));
            assert_eq!(filter(&after, |_| true), Filtered::Unchanged, "a later pass leaves it alone");
            let Filtered::Rebuilt(fewer) = filter(&after, |record| record.offset.0 == 103) else { panic!("rebuilt") };
            assert_eq!(BatchHeader::parse(&fewer).unwrap().base_timestamp, HORIZON);
            assert_eq!(records(&fewer), [records(&before)[3].clone()]);
        }
    }

    #[test]
    fn append_time_stays() {
        let mut before = batch(Compression::Lz4);
        set_max_timestamp(&mut before, TimestampType::LogAppendTime, TimestampMs(9_000));
        let Filtered::Rebuilt(after) = filter(&before, |record| record.offset.0 >= 103) else { panic!("rebuilt") };
        let header = BatchHeader::parse(&after).unwrap();
        assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(header.max_timestamp, TimestampMs(9_000));
        assert_eq!(records(&after), records(&before)[3..]);
    }

    #[test]
    fn an_empty_batch_keeps_offsets_and_sequences() {
        let before = batch(Compression::Gzip);
        let header = BatchHeader::parse(&before).unwrap();
        let empty = empty_batch(&header);
        assert!(verify_crc(&empty));
        let parsed = BatchHeader::parse(&empty).unwrap();
        assert_eq!((parsed.last_offset(), parsed.last_sequence()), (Offset(105), 45));
        assert_eq!((parsed.record_count, parsed.compression()), (0, Ok(Compression::None)));
        assert_eq!(parsed.partition_leader_epoch, LeaderEpoch(3));
        assert!(records(&empty).is_empty());
        assert_eq!(filter(&empty, |_| true), Filtered::Empty);
        assert_eq!(empty_batch(&parsed), empty);
    }

    #[test]
    fn damaged_records_are_an_error() {
        let whole = batch(Compression::None);
        let mut damaged = whole.clone();
        damaged[HEADER_BYTES] = 0xff;
        damaged[HEADER_BYTES + 1] = 0xff;
        let filtered = StoredRecords::new(&damaged, 1 << 20).unwrap().filter(HORIZON, false, |_| true);
        assert!(filtered.is_err());
        assert!(StoredRecords::new(&whole[..whole.len() - 1], 1 << 20).is_err());
        assert!(StoredRecords::new(&batch(Compression::Zstd), 10).is_err(), "unpacks to more than it may");
    }
}
