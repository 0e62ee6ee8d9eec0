//! Building batches: for clients, transaction markers and tests.

use std::io;

use bytes::{BufMut, BytesMut};
use ottla_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

use super::compress::{Packing, compress_from};
use super::decompress::{AtMost, DecompressError, Decompressor};
use super::header::{
    Attributes, BatchHeader, Compression, HEADER_BYTES, LOG_OVERHEAD_BYTES, MAGIC, TimestampType, crc_of,
};
use super::records::Header;
use crate::wire;

/// Collects records and makes one batch of them. The base timestamp is that of the first record.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    compression: Compression,
    timestamp_type: TimestampType,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: i32,
    is_transactional: bool,
    is_control: bool,
    base_timestamp: Option<TimestampMs>,
    max_timestamp: TimestampMs,
    last_offset_delta: i32,
    record_count: i32,
    records: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch at offset 0, uncompressed, of no particular producer.
    pub fn new() -> Self {
        Self {
            base_offset: Offset::ZERO,
            leader_epoch: LeaderEpoch::NONE,
            compression: Compression::None,
            timestamp_type: TimestampType::CreateTime,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
            is_transactional: false,
            is_control: false,
            base_timestamp: None,
            max_timestamp: TimestampMs::NONE,
            last_offset_delta: -1,
            record_count: 0,
            records: Vec::new(),
        }
    }

    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The idempotent producer that writes it, and the first record's sequence number.
    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
        self
    }

    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.is_transactional = true;
        self
    }

    #[must_use]
    pub fn control(mut self) -> Self {
        self.is_control = true;
        self
    }

    /// As a leader would have written it.
    #[must_use]
    pub fn placed_at(mut self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Self {
        self.base_offset = base_offset;
        self.leader_epoch = leader_epoch;
        self
    }

    #[must_use]
    pub fn timestamp_type(mut self, timestamp_type: TimestampType) -> Self {
        self.timestamp_type = timestamp_type;
        self
    }

    /// A record at the next offset.
    #[must_use]
    pub fn record(mut self, timestamp: TimestampMs, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        self.push(timestamp, key, value, &[]);
        self
    }

    /// Adds a record at the next offset.
    pub fn push(&mut self, timestamp: TimestampMs, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) {
        self.push_at(self.last_offset_delta.saturating_add(1), timestamp, key, value, headers);
    }

    /// Adds a record at `offset_delta` from the base offset, as compacted batches have them.
    pub fn push_at(
        &mut self,
        offset_delta: i32,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) {
        let base = *self.base_timestamp.get_or_insert(timestamp);
        let timestamp_delta = timestamp.0.wrapping_sub(base.0);
        let field_bytes = |field: Option<&[u8]>| match field {
            None => 1,
            Some(field) => wire::varlong_bytes(field.len() as i64) + field.len(),
        };
        let mut size = 1 + wire::varlong_bytes(timestamp_delta) + wire::varlong_bytes(i64::from(offset_delta));
        size += field_bytes(key) + field_bytes(value) + wire::varlong_bytes(headers.len() as i64);
        for header in headers {
            size += field_bytes(Some(header.key.as_bytes())) + field_bytes(header.value.as_deref());
        }
        let out = &mut self.records;
        out.reserve(size + 5);
        wire::put_varlong(out, size as i64);
        out.put_u8(0);
        wire::put_varlong(out, timestamp_delta);
        wire::put_varint(out, offset_delta);
        put_field(out, key);
        put_field(out, value);
        wire::put_varlong(out, headers.len() as i64);
        for header in headers {
            put_field(out, Some(header.key.as_bytes()));
            put_field(out, header.value.as_deref());
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.last_offset_delta = offset_delta;
        self.record_count = self.record_count.saturating_add(1);
    }

    pub fn record_count(&self) -> usize {
        usize::try_from(self.record_count).unwrap_or(0)
    }

    /// The size of the batch so far, were it not compressed.
    pub fn size_bytes(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// The batch, CRC included.
    pub fn build(self) -> io::Result<BytesMut> {
        let header = BatchHeader {
            base_offset: self.base_offset,
            batch_length: 0,
            partition_leader_epoch: self.leader_epoch,
            magic: MAGIC,
            crc: 0,
            attributes: Attributes::new(self.compression, self.timestamp_type, self.is_transactional, self.is_control),
            last_offset_delta: self.last_offset_delta.max(0),
            base_timestamp: self.base_timestamp.unwrap_or(TimestampMs::NONE),
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.record_count,
        };
        assemble(header, self.compression.into(), &self.records)
    }
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => wire::put_varint(out, -1),
        Some(field) => {
            wire::put_varlong(out, field.len() as i64);
            out.extend_from_slice(field);
        }
    }
}

/// Packs records behind a header whose length and CRC follow from them.
pub(super) fn assemble(header: BatchHeader, packing: Packing, records: &[u8]) -> io::Result<BytesMut> {
    assemble_from(header, packing, &mut &*records, HEADER_BYTES + records.len(), usize::MAX)
}

/// [`assemble`] of records that come piece by piece; an error once the batch is larger than `batch_max_bytes`.
fn assemble_from(
    mut header: BatchHeader,
    packing: Packing,
    records: &mut impl io::Read,
    capacity: usize,
    batch_max_bytes: usize,
) -> io::Result<BytesMut> {
    let mut batch = BytesMut::with_capacity(capacity);
    batch.put_bytes(0, HEADER_BYTES);
    compress_from(packing, records, Bounded { batch: &mut batch, max_bytes: batch_max_bytes })?;
    header.attributes = header.attributes.with_compression(packing.compression);
    header.batch_length = i32::try_from(batch.len() - LOG_OVERHEAD_BYTES)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a batch of more than 2 GiB"))?;
    for with_crc in [false, true] {
        if with_crc {
            header.crc = crc_of(&batch);
        }
        if let Some(head) = batch.first_chunk_mut::<HEADER_BYTES>() {
            *head = header.encode();
        }
    }
    Ok(batch)
}

/// A batch that grows to a bound.
struct Bounded<'b> {
    batch: &'b mut BytesMut,
    max_bytes: usize,
}

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max_bytes.saturating_sub(self.batch.len()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, RecompressError::TooLarge { max: self.max_bytes }));
        }
        self.batch.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A batch that cannot be recompressed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecompressError {
    #[error(transparent)]
    Unpack(#[from] DecompressError),
    #[error("The record batch is larger than {max} bytes once it is packed as the topic says")]
    TooLarge { max: usize },
}

impl RecompressError {
    fn from_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            Some(own) => own.clone(),
            None => DecompressError::from_io(error).into(),
        }
    }
}

/// The same batch packed with another codec, for topics whose `compression.type` is not the producer's. Offsets,
/// timestamps and producer fields stay. `batch` has passed validation. The records go through piece by piece: neither
/// more than `unpacked_max_bytes` of them nor a batch of more than `batch_max_bytes` is ever held.
pub fn recompress(
    batch: &[u8],
    target: impl Into<Packing>,
    unpacked_max_bytes: u64,
    batch_max_bytes: usize,
) -> Result<BytesMut, RecompressError> {
    let corrupt = |error: &dyn std::fmt::Display| DecompressError::Corrupt(error.to_string());
    let header = BatchHeader::parse(batch).map_err(|error| corrupt(&error))?;
    let source = header.compression().map_err(|error| corrupt(&error))?;
    let packed = batch.get(HEADER_BYTES..).unwrap_or_default();
    let records = Decompressor::new(source, packed).map_err(|error| DecompressError::from_io(&error))?;
    let mut records = AtMost::new(records, unpacked_max_bytes);
    assemble_from(header, target.into(), &mut records, batch.len(), batch_max_bytes)
        .map_err(|error| RecompressError::from_io(&error))
}
