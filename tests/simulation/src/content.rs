//! What a replica's log holds, record by record, as it was read back from the storage: what the invariants compare.

use std::collections::VecDeque;

use ottla_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use ottla_protocol::record_batch::{Batches, verify_crc};

/// One record, by what makes it this record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RecordId {
    pub epoch: LeaderEpoch,
    /// The CRC of its batch, and its place in it.
    pub crc: u32,
    pub place: u16,
    pub producer: ProducerId,
    pub producer_epoch: ProducerEpoch,
    /// −1 without an idempotent producer.
    pub sequence: i32,
}

/// The records of one log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Content {
    start: Offset,
    records: VecDeque<RecordId>,
}

impl Content {
    pub fn start(&self) -> Offset {
        self.start
    }

    pub fn end(&self) -> Offset {
        self.start + i64::try_from(self.records.len()).unwrap_or(i64::MAX)
    }

    pub fn get(&self, offset: Offset) -> Option<&RecordId> {
        let at = usize::try_from(offset.0.checked_sub(self.start.0)?).ok()?;
        self.records.get(at)
    }

    /// With their offsets.
    pub fn iter(&self) -> impl Iterator<Item = (Offset, &RecordId)> {
        self.iter_from(self.start)
    }

    pub fn iter_from(&self, from: Offset) -> impl Iterator<Item = (Offset, &RecordId)> {
        let skip = usize::try_from(from.distance_from(self.start)).unwrap_or(usize::MAX);
        let first = self.start.max(from);
        self.records
            .iter()
            .skip(skip)
            .enumerate()
            .map(move |(place, record)| (first + i64::try_from(place).unwrap_or(i64::MAX), record))
    }

    pub fn truncate(&mut self, end: Offset) {
        self.records.truncate(usize::try_from(end.distance_from(self.start)).unwrap_or(0));
    }

    /// Forgets everything: the log is empty and starts here.
    pub fn restart(&mut self, start: Offset) {
        self.records.clear();
        self.start = start;
    }

    /// Takes in the batches that follow the end; those before it are skipped. A gap is an error, and so is a checksum
    /// that is wrong.
    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self.extend_damaged(bytes)? {
            Some(offset) => Err(format!("the checksum of the batch at {offset} is wrong")),
            None => Ok(()),
        }
    }

    /// As [`Self::extend`] from a disk that may have changed what it holds: where the first damaged batch is.
    pub fn extend_damaged(&mut self, bytes: &[u8]) -> Result<Option<Offset>, String> {
        let mut damaged = None;
        for batch in Batches::new(bytes) {
            let batch = batch.map_err(|error| format!("the log holds what is no batch: {error}"))?;
            let header = batch.header;
            if header.last_offset() < self.end() {
                continue;
            }
            if !verify_crc(batch.bytes) {
                damaged = damaged.or(Some(header.base_offset));
            }
            if header.base_offset != self.end() {
                if !self.records.is_empty() || header.base_offset > self.start {
                    return Err(format!("a batch at {} follows the end at {}", header.base_offset, self.end()));
                }
                self.start = header.base_offset;
            }
            for place in 0..=header.last_offset_delta {
                let sequence = if header.base_sequence < 0 {
                    -1
                } else {
                    ottla_replication::producer_state::last_sequence(header.base_sequence, place)
                };
                self.records.push_back(RecordId {
                    epoch: header.partition_leader_epoch,
                    crc: header.crc,
                    place: u16::try_from(place).unwrap_or(u16::MAX),
                    producer: header.producer_id,
                    producer_epoch: header.producer_epoch,
                    sequence,
                });
            }
        }
        Ok(damaged)
    }
}
