//! Reading the records of a batch, for consumers: keys and values are slices of the batch, or of its unpacked form.

use std::ops::Range;

use bytes::Bytes;
use ottla_model::{Offset, TimestampMs};

use super::decompress::{DecompressError, decompress};
use super::header::{BatchHeader, Compression, HEADER_BYTES, HeaderError, TimestampType, UnknownCompression};
use crate::wire::{Reader, WireError};

/// One record as a consumer sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub offset: Offset,
    pub timestamp: TimestampMs,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

/// A header of a record. Keys may repeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes that are not UTF-8 are shown as U+FFFD.
    pub key: String,
    pub value: Option<Bytes>,
}

/// A batch whose records cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordsError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Compression(#[from] UnknownCompression),
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    #[error("a record is malformed: {0}")]
    Record(#[from] WireError),
    #[error("the records cannot be packed again: {0}")]
    Pack(String),
}

/// The records of one batch, in order. After an error nothing follows.
#[derive(Clone, Debug)]
pub struct Records {
    header: BatchHeader,
    bytes: Bytes,
    at: usize,
    left: i32,
}

impl Records {
    /// Reads the batch at the start of `batch`; packed records are unpacked at once, to at most `unpacked_max_bytes`.
    pub fn new(batch: &Bytes, unpacked_max_bytes: u64) -> Result<Self, RecordsError> {
        let header = BatchHeader::parse(batch)?;
        if batch.len() < header.size_bytes() {
            return Err(WireError::Truncated.into());
        }
        let packed = batch.slice(HEADER_BYTES..header.size_bytes());
        let bytes = match header.compression()? {
            Compression::None => packed,
            codec => Bytes::from(decompress(codec, &packed, unpacked_max_bytes)?),
        };
        Ok(Self { header, bytes, at: 0, left: header.record_count })
    }

    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    fn read(&mut self) -> Result<Record, WireError> {
        let mut outer = Reader::new(&self.bytes, self.at);
        let size = usize::try_from(outer.varint()?).map_err(|_| WireError::InvalidLength(-1))?;
        let end = outer.position().checked_add(size).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(WireError::Truncated)?;
        let inside = self.bytes.get(..end).ok_or(WireError::Truncated)?;
        let mut reader = Reader::new(inside, outer.position());
        reader.i8()?; // attributes, unused so far
        let timestamp_delta = reader.varlong()?;
        let offset_delta = reader.varint()?;
        let slice = |range: Option<Range<usize>>| range.map(|range| self.bytes.slice(range));
        let key = slice(field(&mut reader)?);
        let value = slice(field(&mut reader)?);
        let count = reader.varint()?;
        let count = usize::try_from(count).map_err(|_| WireError::InvalidLength(i64::from(count)))?;
        // A header takes two bytes at least.
        if count > reader.remaining() / 2 {
            return Err(WireError::Truncated);
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let key = field(&mut reader)?.ok_or(WireError::InvalidLength(-1))?;
            let key = String::from_utf8_lossy(self.bytes.get(key).unwrap_or_default()).into_owned();
            headers.push(Header { key, value: slice(field(&mut reader)?) });
        }
        if reader.remaining() > 0 {
            return Err(WireError::InvalidLength(size as i64));
        }
        let timestamp = match self.header.timestamp_type() {
            TimestampType::CreateTime => TimestampMs(self.header.base_timestamp.0.wrapping_add(timestamp_delta)),
            TimestampType::LogAppendTime => self.header.max_timestamp,
        };
        self.at = end;
        Ok(Record { offset: self.header.base_offset + i64::from(offset_delta), timestamp, key, value, headers })
    }
}

pub(super) fn field(reader: &mut Reader<'_>) -> Result<Option<Range<usize>>, WireError> {
    let length = reader.varint()?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| WireError::InvalidLength(i64::from(length)))?;
    let start = reader.position();
    reader.take(length)?;
    Ok(Some(start..start + length))
}

impl Iterator for Records {
    type Item = Result<Record, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        self.left -= 1;
        let record = self.read();
        if record.is_err() {
            self.left = 0;
        }
        Some(record.map_err(RecordsError::from))
    }
}
