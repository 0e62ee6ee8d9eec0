//! `OFFSET.snapshot`: the producer state of a log that ends at OFFSET (Kafka's `ProducerSnapshot`, version 1).
//!
//! Big-endian: version i16, CRC-32C u32 of everything after it, number of entries i32, then for each producer its
//! id i64, epoch i16, last sequence i32, last offset i64, offset delta i32, timestamp i64, coordinator epoch i32,
//! first offset of the current transaction i64.

use bytes::{Buf, BufMut};
use ottla_model::{Offset, ProducerEpoch, ProducerId, TimestampMs};
use ottla_replication::ProducerSnapshot;

use crate::error::Malformed;

const VERSION: i16 = 1;
const CRC_OFFSET: usize = 2;
const ENTRIES_OFFSET: usize = 6;
const HEADER_BYTES: usize = 10;
const ENTRY_BYTES: usize = 46;

pub fn encode(producers: impl Iterator<Item = ProducerSnapshot>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.put_i16(VERSION);
    bytes.put_u32(0);
    bytes.put_i32(0);
    let mut count = 0_i32;
    for producer in producers {
        bytes.put_i64(producer.producer_id.0);
        bytes.put_i16(producer.producer_epoch.0);
        bytes.put_i32(producer.last_sequence);
        bytes.put_i64(producer.last_offset.0);
        bytes.put_i32(producer.offset_delta);
        bytes.put_i64(producer.timestamp.0);
        bytes.put_i32(producer.coordinator_epoch);
        bytes.put_i64(producer.current_transaction_first_offset.0);
        count = count.saturating_add(1);
    }
    bytes[ENTRIES_OFFSET..HEADER_BYTES].copy_from_slice(&count.to_be_bytes());
    let crc = crc_fast::crc32_iscsi(&bytes[ENTRIES_OFFSET..]);
    bytes[CRC_OFFSET..ENTRIES_OFFSET].copy_from_slice(&crc.to_be_bytes());
    bytes
}

pub fn decode(bytes: &[u8]) -> Result<Vec<ProducerSnapshot>, Malformed> {
    let malformed = |reason: &str| Malformed::new("producer snapshot", reason);
    if bytes.len() < HEADER_BYTES {
        return Err(malformed("too short"));
    }
    let (mut header, mut entries) = bytes.split_at(HEADER_BYTES);
    if header.get_i16() != VERSION {
        return Err(malformed("the version is not 1"));
    }
    if header.get_u32() != crc_fast::crc32_iscsi(&bytes[ENTRIES_OFFSET..]) {
        return Err(malformed("the checksum does not match"));
    }
    if usize::try_from(header.get_i32()).ok().and_then(|count| count.checked_mul(ENTRY_BYTES)) != Some(entries.len()) {
        return Err(malformed("the number of entries does not match the size"));
    }
    let mut producers = Vec::with_capacity(entries.len() / ENTRY_BYTES);
    while entries.has_remaining() {
        producers.push(ProducerSnapshot {
            producer_id: ProducerId(entries.get_i64()),
            producer_epoch: ProducerEpoch(entries.get_i16()),
            last_sequence: entries.get_i32(),
            last_offset: Offset(entries.get_i64()),
            offset_delta: entries.get_i32(),
            timestamp: TimestampMs(entries.get_i64()),
            coordinator_epoch: entries.get_i32(),
            current_transaction_first_offset: Offset(entries.get_i64()),
        });
    }
    Ok(producers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producer() -> ProducerSnapshot {
        ProducerSnapshot {
            producer_id: ProducerId(0x0102_0304_0506_0708),
            producer_epoch: ProducerEpoch(9),
            last_sequence: 41,
            last_offset: Offset(1000),
            offset_delta: 5,
            timestamp: TimestampMs(0x0A0B_0C0D),
            coordinator_epoch: -1,
            current_transaction_first_offset: Offset(-1),
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode([producer()].into_iter());
        let expected = [
            &[0, 1][..],                                       // version
            &crc_fast::crc32_iscsi(&bytes[6..]).to_be_bytes(), // checksum
            &[0, 0, 0, 1],                                     // one entry
            &[1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 0, 0, 41],      // id, epoch, last sequence
            &[0, 0, 0, 0, 0, 0, 3, 0xE8, 0, 0, 0, 5],          // last offset, delta
            &[0, 0, 0, 0, 0x0A, 0x0B, 0x0C, 0x0D],             // timestamp
            &[0xFF; 12],                                       // coordinator epoch, transaction
        ]
        .concat();
        assert_eq!(bytes, expected);
        // Kafka 3.9's file for a log without producers: the CRC covers the four bytes of the count.
        assert_eq!(encode(std::iter::empty()), [0, 1, 0x48, 0x67, 0x4B, 0xC7, 0, 0, 0, 0]);
    }

    #[test]
    fn round_trip_and_rejection() {
        let producers: Vec<_> =
            (0..20).map(|id| ProducerSnapshot { producer_id: ProducerId(id), ..producer() }).collect();
        let bytes = encode(producers.iter().copied());
        assert_eq!(decode(&bytes), Ok(producers));
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 0x10;
            assert!(decode(&flipped).is_err(), "a flipped bit in byte {position} was not noticed");
            assert!(decode(&bytes[..position]).is_err(), "cut to {position} bytes");
        }
    }
}
