//! The 61 bytes before a batch's records, and the few of them that a leader may change in place.
//!
//! Layout (big endian): base offset 0..8, length of the rest 8..12, leader epoch 12..16, magic 16, CRC-32C 17..21 over
//! everything from 21, attributes 21..23, last offset delta 23..27, base timestamp 27..35, max timestamp 35..43,
//! producer id 43..51, producer epoch 51..53, base sequence 53..57, record count 57..61.

use crc_fast::CrcAlgorithm;
use ottla_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

use crate::wire::Reader;

/// The size of a batch without records.
pub const HEADER_BYTES: usize = 61;
/// Base offset and length: the bytes that the length field does not count.
pub const LOG_OVERHEAD_BYTES: usize = 12;
/// The only format that is read and written. Kafka 4 refuses 0 and 1 as well.
pub const MAGIC: i8 = 2;

const CRC_START: usize = 17;
const CRC_COVERS_FROM: usize = 21;
const ATTRIBUTES_START: usize = 21;
const MAX_TIMESTAMP_START: usize = 35;

/// Whether the producer or the broker sets the timestamps of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimestampType {
    #[default]
    CreateTime,
    LogAppendTime,
}

/// How the records of a batch are packed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    /// Every codec, and none, by ascending number.
    pub const ALL: &'static [Self] = &[Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number in a batch's attributes.
    pub fn id(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    pub fn from_id(id: i16) -> Result<Self, UnknownCompression> {
        Self::ALL.iter().copied().find(|codec| codec.id() == id).ok_or(UnknownCompression(id))
    }

    /// The name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec with this name in configurations.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|codec| codec.name() == name)
    }
}

/// A number that no codec has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown compression type {0}")]
pub struct UnknownCompression(pub i16);

/// The 16 attribute bits of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    const COMPRESSION: i16 = 0x07;
    const LOG_APPEND_TIME: i16 = 0x08;
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    const DELETE_HORIZON: i16 = 0x40;

    pub fn new(
        compression: Compression,
        timestamp_type: TimestampType,
        is_transactional: bool,
        is_control: bool,
    ) -> Self {
        let mut bits = compression.id();
        if timestamp_type == TimestampType::LogAppendTime {
            bits |= Self::LOG_APPEND_TIME;
        }
        if is_transactional {
            bits |= Self::TRANSACTIONAL;
        }
        if is_control {
            bits |= Self::CONTROL;
        }
        Self(bits)
    }

    pub fn compression(self) -> Result<Compression, UnknownCompression> {
        Compression::from_id(self.0 & Self::COMPRESSION)
    }

    #[must_use]
    pub fn with_compression(self, compression: Compression) -> Self {
        Self(self.0 & !Self::COMPRESSION | compression.id())
    }

    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    #[must_use]
    pub fn with_timestamp_type(self, timestamp_type: TimestampType) -> Self {
        match timestamp_type {
            TimestampType::CreateTime => Self(self.0 & !Self::LOG_APPEND_TIME),
            TimestampType::LogAppendTime => Self(self.0 | Self::LOG_APPEND_TIME),
        }
    }

    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    #[must_use]
    pub fn with_delete_horizon(self) -> Self {
        Self(self.0 | Self::DELETE_HORIZON)
    }

    /// Whether the base timestamp is the time after which a tombstone may go (compacted logs).
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }
}

/// Bytes that are no header of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    #[error("{0} bytes have no room for the header of a batch")]
    TooShort(usize),
    #[error("Record batch is corrupted (the size {0} is smaller than the minimum allowed overhead {HEADER_BYTES})")]
    InvalidLength(i64),
    #[error("magic {0} is not supported")]
    UnsupportedMagic(i8),
}

/// The header of a batch, every field as it is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// The bytes after the first [`LOG_OVERHEAD_BYTES`]; at least 49.
    pub batch_length: i32,
    pub partition_leader_epoch: LeaderEpoch,
    pub magic: i8,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    pub attributes: Attributes,
    /// The last record's offset less the base offset. A compacted batch may have fewer records than this says.
    pub last_offset_delta: i32,
    pub base_timestamp: TimestampMs,
    pub max_timestamp: TimestampMs,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence number, or −1.
    pub base_sequence: i32,
    pub record_count: i32,
}

impl BatchHeader {
    /// Parses the header at the start of `bytes`; the records need not be there. The CRC is not checked.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(bytes, 0);
        let header = (|| {
            Ok::<_, crate::wire::WireError>(Self {
                base_offset: Offset(reader.i64()?),
                batch_length: reader.i32()?,
                partition_leader_epoch: LeaderEpoch(reader.i32()?),
                magic: reader.i8()?,
                crc: reader.i32()? as u32,
                attributes: Attributes(reader.i16()?),
                last_offset_delta: reader.i32()?,
                base_timestamp: TimestampMs(reader.i64()?),
                max_timestamp: TimestampMs(reader.i64()?),
                producer_id: ProducerId(reader.i64()?),
                producer_epoch: ProducerEpoch(reader.i16()?),
                base_sequence: reader.i32()?,
                record_count: reader.i32()?,
            })
        })()
        .map_err(|_| HeaderError::TooShort(bytes.len()))?;
        if header.magic != MAGIC {
            return Err(HeaderError::UnsupportedMagic(header.magic));
        }
        if (header.batch_length as i64) < (HEADER_BYTES - LOG_OVERHEAD_BYTES) as i64 {
            return Err(HeaderError::InvalidLength(header.batch_length as i64 + LOG_OVERHEAD_BYTES as i64));
        }
        Ok(header)
    }

    /// The header as its 61 bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(target) = out.get_mut(at..at + bytes.len()) {
                target.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&self.base_offset.0.to_be_bytes());
        put(&self.batch_length.to_be_bytes());
        put(&self.partition_leader_epoch.0.to_be_bytes());
        put(&self.magic.to_be_bytes());
        put(&self.crc.to_be_bytes());
        put(&self.attributes.0.to_be_bytes());
        put(&self.last_offset_delta.to_be_bytes());
        put(&self.base_timestamp.0.to_be_bytes());
        put(&self.max_timestamp.0.to_be_bytes());
        put(&self.producer_id.0.to_be_bytes());
        put(&self.producer_epoch.0.to_be_bytes());
        put(&self.base_sequence.to_be_bytes());
        put(&self.record_count.to_be_bytes());
        out
    }

    /// The size of the whole batch.
    pub fn size_bytes(&self) -> usize {
        // The length is at least 49 once parsed.
        LOG_OVERHEAD_BYTES + usize::try_from(self.batch_length).unwrap_or(0)
    }

    pub fn last_offset(&self) -> Offset {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// The offset after the last record.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }

    pub fn compression(&self) -> Result<Compression, UnknownCompression> {
        self.attributes.compression()
    }

    pub fn timestamp_type(&self) -> TimestampType {
        self.attributes.timestamp_type()
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes.is_transactional()
    }

    pub fn is_control(&self) -> bool {
        self.attributes.is_control()
    }

    /// Whether an idempotent or transactional producer wrote it.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id.0 > ProducerId::NONE.0
    }

    /// The last record's sequence number; 0 follows 2³¹−1. −1 if there is none.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        (last % (i64::from(i32::MAX) + 1)) as i32
    }
}

/// The CRC-32C of a whole batch, over everything from the attributes on.
pub fn crc_of(batch: &[u8]) -> u32 {
    let covered = batch.get(CRC_COVERS_FROM..).unwrap_or_default();
    // The algorithm has 32 bits; the function is generic over up to 64.
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, covered) as u32
}

/// Whether the stored CRC is that of the bytes. `batch` is one whole batch.
pub fn verify_crc(batch: &[u8]) -> bool {
    stored_crc(batch) == Some(crc_of(batch))
}

fn stored_crc(batch: &[u8]) -> Option<u32> {
    batch.get(CRC_START..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn put(batch: &mut [u8], start: usize, bytes: &[u8]) {
    // A batch that was parsed has all 61 bytes; anything shorter is left alone.
    if let Some(target) = batch.get_mut(start..start + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

pub(super) fn put_crc(batch: &mut [u8], crc: u32) {
    put(batch, CRC_START, &crc.to_be_bytes());
}

/// Writes the base offset and the leader epoch that a leader assigns. Neither is covered by the CRC.
pub fn patch_offset_and_epoch(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    put(batch, 0, &base_offset.0.to_be_bytes());
    put(batch, 12, &leader_epoch.0.to_be_bytes());
}

/// Writes the timestamp type, the largest timestamp and the resulting CRC. Does nothing if both have these values
/// already.
pub fn set_max_timestamp(batch: &mut [u8], timestamp_type: TimestampType, max_timestamp: TimestampMs) {
    if let Ok(mut header) = BatchHeader::parse(batch) {
        set_max_timestamp_of(&mut header, batch, timestamp_type, max_timestamp);
    }
}

/// [`set_max_timestamp`] for a batch whose header is known; updates `header` too.
pub fn set_max_timestamp_of(
    header: &mut BatchHeader,
    batch: &mut [u8],
    timestamp_type: TimestampType,
    max_timestamp: TimestampMs,
) {
    if header.max_timestamp == max_timestamp && header.timestamp_type() == timestamp_type {
        return;
    }
    header.attributes = header.attributes.with_timestamp_type(timestamp_type);
    header.max_timestamp = max_timestamp;
    put(batch, ATTRIBUTES_START, &header.attributes.0.to_be_bytes());
    put(batch, MAX_TIMESTAMP_START, &max_timestamp.0.to_be_bytes());
    header.crc = crc_of(batch);
    put_crc(batch, header.crc);
}

/// All that a leader changes in a batch that passed validation: offset, epoch, and the timestamps: `log_append_time`
/// for a topic that is stamped by the broker, else the largest of the records (a producer may have declared another).
pub fn prepare_for_append(
    batch: &mut [u8],
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    max_timestamp: TimestampMs,
    log_append_time: Option<TimestampMs>,
) {
    patch_offset_and_epoch(batch, base_offset, leader_epoch);
    match log_append_time {
        Some(now) => set_max_timestamp(batch, TimestampType::LogAppendTime, now),
        None => set_max_timestamp(batch, TimestampType::CreateTime, max_timestamp),
    }
}
