//! A leader's validation of a producer's batch before the append: Kafka's `ProduceRequest.validateRecords`,
//! `UnifiedLog.analyzeAndValidateRecords` and `LogValidator`, in that order and with their error codes.
//!
//! One pass. Uncompressed records are read in place without allocations; compressed ones run through a window of 64
//! KiB. Stricter than Kafka in four points: bytes after the batch are refused, not cut off; offset deltas that are not
//! consecutive are refused, not rewritten; a producer id needs an epoch; and the decompressed size has a bound.

use std::sync::atomic::{AtomicU64, Ordering};

use ottla_model::{ErrorCode, TimestampMs};

use super::decompress::{DecompressError, Decompressor};
use super::header::{BatchHeader, Compression, HEADER_BYTES, LOG_OVERHEAD_BYTES, MAGIC, TimestampType, crc_of};
use super::walk::{Source, WalkError, step, with_stream};
use crate::wire::Reader;

/// The most record errors that are reported of one batch: each carries a text, and a batch may hold a million records.
pub const RECORD_ERRORS_MAX: usize = 1_000;

/// The smallest batch length that any format allows (Kafka's `LegacyRecord.RECORD_OVERHEAD_V0`).
const LEGACY_OVERHEAD_BYTES: i32 = 14;

/// The first version of Produce in which zstd is understood (KIP-110).
const ZSTD_FROM_PRODUCE: i16 = 7;

/// Of the refused records, as many are named in the message of the batch.
const RECORD_ERRORS_SHOWN: usize = 3;

/// The limits of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The version of the Produce request that brought it.
    pub produce_version: i16,
    /// `max.message.bytes`: the largest batch, header included, as it came.
    pub max_message_bytes: usize,
    /// The broker's wall clock.
    pub now: TimestampMs,
    /// `message.timestamp.type`. With [`TimestampType::LogAppendTime`] the records' own timestamps are not validated.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// Whether the topic is compacted: every record then needs a key.
    pub is_compacted: bool,
    /// The most bytes that the records may unpack to: see [`Limits::unpacked_max_bytes_for`].
    pub unpacked_max_bytes: u64,
}

impl Limits {
    /// Kafka's defaults.
    pub fn new(now: TimestampMs) -> Self {
        const MAX_MESSAGE_BYTES: usize = 1_048_588;
        Self {
            produce_version: 13,
            max_message_bytes: MAX_MESSAGE_BYTES,
            now,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            is_compacted: false,
            unpacked_max_bytes: Self::unpacked_max_bytes_for(MAX_MESSAGE_BYTES),
        }
    }

    /// 32 MiB, or 32 times `max.message.bytes` if that is more; at most the ceiling of this process, 256 MiB, for any
    /// topic, because 30 KB can decompress to a gigabyte. Kafka has no bound, and spends seconds on such a batch;
    /// producers bound their uncompressed batches by their own `max.request.size`, 1 MiB by default.
    pub fn unpacked_max_bytes_for(max_message_bytes: usize) -> u64 {
        unpacked_max_bytes_within(max_message_bytes, UNPACKED_CEILING.load(Ordering::Relaxed))
    }
}

/// What one batch may unpack to, whatever the topic says.
const UNPACKED_CEILING_BYTES: u64 = 256 << 20;

/// The ceiling of this process: [`UNPACKED_CEILING_BYTES`], or less where its memory is small.
static UNPACKED_CEILING: AtomicU64 = AtomicU64::new(UNPACKED_CEILING_BYTES);

/// Lowers what one batch may unpack to in this process. Who unpacks a batch for a topic, or cleans its log, holds
/// all of it for a moment.
pub fn set_unpacked_ceiling(bytes: u64) {
    UNPACKED_CEILING.store(bytes.min(UNPACKED_CEILING_BYTES), Ordering::Relaxed);
}

pub(super) fn unpacked_max_bytes_within(max_message_bytes: usize, ceiling_bytes: u64) -> u64 {
    const FLOOR_BYTES: u64 = 32 << 20;
    (max_message_bytes as u64).saturating_mul(32).max(FLOOR_BYTES).min(ceiling_bytes)
}

/// A batch that may be appended, and the facts that the log needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValidatedBatch {
    pub header: BatchHeader,
    /// The largest timestamp of the records, which may differ from the header's; [`TimestampMs::NONE`] if no record has
    /// one.
    pub max_timestamp: TimestampMs,
    /// The first record with that timestamp, as its distance from the base offset.
    pub offset_delta_of_max_timestamp: i32,
    /// The size of the unpacked records.
    pub records_bytes: u64,
}

/// A record that is refused; its batch is then refused as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordFault {
    /// The record's place in its batch, from 0.
    pub batch_index: i32,
    pub problem: RecordProblem,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordProblem {
    NoKey,
    Timestamp { timestamp: i64, oldest: i64, newest: i64 },
}

impl RecordFault {
    /// The text for the producer, in Kafka's words. `partition` is the partition's name.
    pub fn message(&self, partition: &str) -> String {
        match self.problem {
            RecordProblem::NoKey => {
                format!("Compacted topic cannot accept message without key in topic partition {partition}")
            }
            RecordProblem::Timestamp { timestamp, oldest, newest } => format!(
                "Timestamp {timestamp} of message with offset {} is out of range. The timestamp should be within [{oldest}, {newest}]",
                self.batch_index
            ),
        }
    }
}

/// A batch that is not appended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidBatch {
    #[error("Produce requests with version {0} must have at least one record batch per partition")]
    NoBatch(i16),
    #[error("Produce requests with version {0} are only allowed to contain exactly one record batch per partition")]
    SeveralBatches(i16),
    #[error(
        "Produce requests with version {version} are only allowed to contain record batches with magic version 2, not {magic}"
    )]
    OldMagic { version: i16, magic: i8 },
    #[error("Invalid magic found in record: {0}")]
    UnknownMagic(i8),
    #[error("Record size {0} is less than the minimum record overhead ({LEGACY_OVERHEAD_BYTES})")]
    TooSmall(i32),
    #[error("Record batch is corrupted (the size {0} is smaller than the minimum allowed overhead {HEADER_BYTES})")]
    NoRoomForHeader(i64),
    #[error("Produce requests with version {0} are not allowed to use ZStandard compression")]
    ZstdTooEarly(i16),
    #[error("Unknown compression type id: {0}")]
    UnknownCompression(i16),
    #[error("The baseOffset of the record batch should be 0, but it is {0}")]
    BaseOffset(i64),
    #[error("The record batch size is {size} bytes which exceeds the maximum configured value of {max}.")]
    TooLarge { size: usize, max: usize },
    #[error("Record is corrupt (stored crc = {stored}, computed crc = {computed})")]
    Crc { stored: u32, computed: u32 },
    #[error("Batch has an invalid offset range: [{base}, {last}]")]
    OffsetRange { base: i64, last: i64 },
    #[error("Invalid reported count for record batch: {0}")]
    Count(i32),
    #[error("Inconsistent batch offset range [{base}, {last}] and count of records {count}")]
    CountMismatch { base: i64, last: i64, count: i32 },
    #[error("Clients are not allowed to write control records")]
    Control,
    #[error("Invalid sequence number {sequence} in record batch with producerId {producer_id}")]
    Sequence { sequence: i32, producer_id: i64 },
    #[error("Invalid producer epoch {epoch} in record batch with producerId {producer_id}")]
    ProducerEpoch { epoch: i16, producer_id: i64 },
    #[error("Transactional records need a producer id")]
    TransactionWithoutProducer,
    #[error("Producer should not set timestamp type to LogAppendTime.")]
    LogAppendTime,
    #[error("{0}")]
    Structure(String),
    #[error("The record batch unpacks to more than {0} bytes")]
    UnpackedTooLarge(u64),
    #[error("Failed to decompress record stream: {0}")]
    Decompress(String),
    #[error("One or more records have been rejected due to invalid timestamp")]
    Timestamps(Vec<RecordFault>),
    #[error("One or more records have been rejected due to {} record errors in total", .0.len())]
    Records(Vec<RecordFault>),
}

impl InvalidBatch {
    /// The code that a producer is answered with.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::UnknownMagic(_) | Self::TooSmall(_) | Self::NoRoomForHeader(_) | Self::Crc { .. } => {
                ErrorCode::CorruptMessage
            }
            // Java's producer splits a batch after this error and tries again, which helps a bomb that was none.
            Self::TooLarge { .. } | Self::UnpackedTooLarge(_) => ErrorCode::MessageTooLarge,
            Self::ZstdTooEarly(_) | Self::UnknownCompression(_) => ErrorCode::UnsupportedCompressionType,
            Self::LogAppendTime | Self::Timestamps(_) => ErrorCode::InvalidTimestamp,
            Self::NoBatch(_)
            | Self::SeveralBatches(_)
            | Self::OldMagic { .. }
            | Self::BaseOffset(_)
            | Self::OffsetRange { .. }
            | Self::Count(_)
            | Self::CountMismatch { .. }
            | Self::Control
            | Self::Sequence { .. }
            | Self::ProducerEpoch { .. }
            | Self::TransactionWithoutProducer
            | Self::Structure(_)
            | Self::Decompress(_)
            | Self::Records(_) => ErrorCode::InvalidRecord,
        }
    }

    /// The text for the producer, in Kafka's words. `partition` is the partition's name.
    pub fn message(&self, partition: &str) -> String {
        match self {
            Self::OffsetRange { .. }
            | Self::Count(_)
            | Self::CountMismatch { .. }
            | Self::Control
            | Self::Sequence { .. } => format!("{self} in topic partition {partition}"),
            Self::Records(faults) => {
                let shown = |fault: &RecordFault| {
                    format!("RecordError(batchIndex={}, message='{}')", fault.batch_index, fault.message(partition))
                };
                let first: Vec<String> = faults.iter().take(RECORD_ERRORS_SHOWN).map(shown).collect();
                format!("{self}, and only showing the first three errors at most: [{}]", first.join(", "))
            }
            _ => self.to_string(),
        }
    }

    /// The records that caused it, at most [`RECORD_ERRORS_MAX`] of them.
    pub fn record_faults(&self) -> &[RecordFault] {
        match self {
            Self::Timestamps(faults) | Self::Records(faults) => faults,
            _ => &[],
        }
    }
}

/// Validates a producer's records for one partition: exactly one batch, and everything within it.
pub fn validate(records: &[u8], limits: &Limits) -> Result<ValidatedBatch, InvalidBatch> {
    let header = check_envelope(records, limits)?;
    let compression = check_header(&header, limits)?;
    if records.len() > limits.max_message_bytes {
        return Err(InvalidBatch::TooLarge { size: records.len(), max: limits.max_message_bytes });
    }
    let computed = crc_of(records);
    if computed != header.crc {
        return Err(InvalidBatch::Crc { stored: header.crc, computed });
    }
    check_batch(&header)?;
    let body = records.get(HEADER_BYTES..).unwrap_or_default();
    let walked = match compression {
        Compression::None => walk(&mut Reader::new(body, 0), &header, limits),
        packed => Decompressor::new(packed, body)
            .map_err(|error| WalkError::from(DecompressError::from_io(&error)))
            .and_then(|input| with_stream(input, limits.unpacked_max_bytes, |source| walk(source, &header, limits))),
    };
    let walked = walked.map_err(|error| match error {
        WalkError::Structure(text) => InvalidBatch::Structure(text),
        WalkError::Decompress(DecompressError::TooLarge { max }) => InvalidBatch::UnpackedTooLarge(max),
        WalkError::Decompress(DecompressError::Corrupt(text)) => InvalidBatch::Decompress(text),
    })?;
    if !walked.faults.is_empty() {
        return Err(if walked.has_timestamp_fault {
            InvalidBatch::Timestamps(walked.faults)
        } else {
            InvalidBatch::Records(walked.faults)
        });
    }
    Ok(ValidatedBatch {
        header,
        max_timestamp: walked.max_timestamp,
        offset_delta_of_max_timestamp: walked.offset_delta_of_max_timestamp,
        records_bytes: walked.records_bytes,
    })
}

/// Exactly one whole batch of a known format.
fn check_envelope(records: &[u8], limits: &Limits) -> Result<BatchHeader, InvalidBatch> {
    let version = limits.produce_version;
    let mut reader = Reader::new(records, 0);
    let (Ok(_), Ok(batch_length), Ok(_), Ok(magic)) = (reader.i64(), reader.i32(), reader.i32(), reader.i8()) else {
        return Err(InvalidBatch::NoBatch(version));
    };
    if batch_length < LEGACY_OVERHEAD_BYTES {
        return Err(InvalidBatch::TooSmall(batch_length));
    }
    match magic {
        MAGIC => {}
        0 | 1 => return Err(InvalidBatch::OldMagic { version, magic }),
        magic => return Err(InvalidBatch::UnknownMagic(magic)),
    }
    let size = i64::from(batch_length) + LOG_OVERHEAD_BYTES as i64;
    if size > records.len() as i64 {
        return Err(InvalidBatch::NoBatch(version));
    }
    if size < HEADER_BYTES as i64 {
        return Err(InvalidBatch::NoRoomForHeader(size));
    }
    if size < records.len() as i64 {
        return Err(InvalidBatch::SeveralBatches(version));
    }
    // All that parsing can refuse was refused above.
    BatchHeader::parse(records).map_err(|_| InvalidBatch::NoRoomForHeader(size))
}

/// The checks that need only the header, before the CRC is computed.
fn check_header(header: &BatchHeader, limits: &Limits) -> Result<Compression, InvalidBatch> {
    let compression = header.compression().map_err(|unknown| InvalidBatch::UnknownCompression(unknown.0))?;
    if compression == Compression::Zstd && limits.produce_version < ZSTD_FROM_PRODUCE {
        return Err(InvalidBatch::ZstdTooEarly(limits.produce_version));
    }
    if header.base_offset.0 != 0 {
        return Err(InvalidBatch::BaseOffset(header.base_offset.0));
    }
    Ok(compression)
}

/// The header fields that a client must not set.
fn check_batch(header: &BatchHeader) -> Result<(), InvalidBatch> {
    let (base, last) = (header.base_offset.0, header.last_offset().0);
    if header.last_offset_delta < 0 {
        return Err(InvalidBatch::OffsetRange { base, last });
    }
    if header.record_count <= 0 {
        return Err(InvalidBatch::Count(header.record_count));
    }
    if header.last_offset_delta != header.record_count - 1 {
        return Err(InvalidBatch::CountMismatch { base, last, count: header.record_count });
    }
    if header.is_control() {
        return Err(InvalidBatch::Control);
    }
    if header.has_producer_id() {
        let producer_id = header.producer_id.0;
        if header.base_sequence < 0 {
            return Err(InvalidBatch::Sequence { sequence: header.base_sequence, producer_id });
        }
        if header.producer_epoch.0 < 0 {
            return Err(InvalidBatch::ProducerEpoch { epoch: header.producer_epoch.0, producer_id });
        }
    } else if header.is_transactional() {
        return Err(InvalidBatch::TransactionWithoutProducer);
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(InvalidBatch::LogAppendTime);
    }
    Ok(())
}

struct Walked {
    max_timestamp: TimestampMs,
    offset_delta_of_max_timestamp: i32,
    records_bytes: u64,
    faults: Vec<RecordFault>,
    has_timestamp_fault: bool,
}

/// Walks the records that the header declares; nothing may be left after them.
fn walk<S: Source>(source: &mut S, header: &BatchHeader, limits: &Limits) -> Result<Walked, WalkError> {
    let judges_timestamps = limits.timestamp_type == TimestampType::CreateTime;
    let oldest = limits.now.0.saturating_sub(limits.timestamp_before_max_ms);
    let newest = limits.now.0.saturating_add(limits.timestamp_after_max_ms);
    let mut walked = Walked {
        max_timestamp: TimestampMs::NONE,
        offset_delta_of_max_timestamp: header.last_offset_delta,
        records_bytes: 0,
        faults: Vec::new(),
        has_timestamp_fault: false,
    };
    for index in 0..header.record_count {
        let record = step(source)?;
        if record.offset_delta != index {
            return Err(WalkError::Structure(format!(
                "Record {index} of the batch has the offset delta {}",
                record.offset_delta
            )));
        }
        let timestamp = header.base_timestamp.0.checked_add(record.timestamp_delta).ok_or_else(|| {
            WalkError::Structure(format!("The timestamp of record {index} of the batch is out of range"))
        })?;
        if limits.is_compacted && !record.has_key {
            push_fault(&mut walked.faults, index, RecordProblem::NoKey);
        } else if judges_timestamps && timestamp != TimestampMs::NONE.0 && (timestamp < oldest || timestamp > newest) {
            walked.has_timestamp_fault = true;
            push_fault(&mut walked.faults, index, RecordProblem::Timestamp { timestamp, oldest, newest });
        }
        if timestamp > walked.max_timestamp.0 {
            walked.max_timestamp = TimestampMs(timestamp);
            walked.offset_delta_of_max_timestamp = index;
        }
    }
    if !source.is_at_end()? {
        return Err(WalkError::Structure("Incorrect declared batch size, records still remaining in file".to_owned()));
    }
    walked.records_bytes = source.position();
    Ok(walked)
}

fn push_fault(faults: &mut Vec<RecordFault>, batch_index: i32, problem: RecordProblem) {
    if faults.len() < RECORD_ERRORS_MAX {
        faults.push(RecordFault { batch_index, problem });
    }
}
