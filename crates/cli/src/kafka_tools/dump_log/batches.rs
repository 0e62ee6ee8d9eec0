//! `.log` files: their batches, and the records in them.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use ottla_model::TransactionResult;
use ottla_protocol::record_batch::{
    BatchHeader, EndMarkerRecord, HEADER_BYTES, LOG_OVERHEAD_BYTES, Record, Records, TimestampType, verify_crc,
};

use super::decoder::Parser;
use super::findings::{BATCH_BYTES_MAX, Complaints, DumpError, base_offset, open};
use super::text::Text;

/// The greatest size that a compressed batch may unpack to.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;
/// Kafka takes fewer bytes than this at the end of a file for no batch: base offset, length, leader epoch, magic.
const MAGIC_END_BYTES: u64 = 17;
/// Kafka's least size of a record of its first format: a length below it ends the dump.
const RECORD_BYTES_MIN: i32 = 14;
const READ_BYTES: usize = 1 << 20;

/// What is shown of a log.
pub struct LogDump {
    /// Each record has a line.
    pub is_deep: bool,
    /// How keys and values are shown; none: they are not.
    pub content: Option<Parser>,
    pub skips_metadata: bool,
    pub max_bytes: i32,
}

impl LogDump {
    pub fn dump(&self, file: &Path, out: &mut Text<'_>, wrong: &mut Complaints) -> Result<(), DumpError> {
        out.line(format_args!("Log starting offset: {}", base_offset(file)?));
        let mut batches = LogReader::open(file, self.max_bytes)?;
        let mut last_offset = -1;
        let mut gaps = Vec::new();
        while let Some((header, batch)) = batches.next()? {
            let position = batches.position - header.size_bytes() as u64;
            let codec =
                header.compression().map_err(|error| DumpError::Compression(file.to_path_buf(), position, error))?;
            put_batch(out, &header, position, codec.name(), verify_crc(&batch));
            if self.is_deep {
                let failed = |error| DumpError::Records(file.to_path_buf(), position, error);
                for record in Records::new(&batch, UNPACKED_BYTES_MAX).map_err(failed)? {
                    let record = record.map_err(failed)?;
                    if record.offset.0 != last_offset + 1 {
                        gaps.push((last_offset, record.offset.0));
                    }
                    last_offset = record.offset.0;
                    self.put_record(out, &header, &batch, &record)?;
                }
            }
        }
        let trailing = batches.end - batches.position;
        if trailing > 0 && self.max_bytes == i32::MAX {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            out.line(format_args!("Found {trailing} invalid bytes at the end of {name}"));
        }
        wrong.gaps.push((file.to_path_buf(), gaps));
        Ok(())
    }

    fn put_record(
        &self,
        out: &mut Text<'_>,
        header: &BatchHeader,
        batch: &Bytes,
        record: &Record,
    ) -> Result<(), DumpError> {
        if !self.skips_metadata {
            put_metadata(out, header, record);
            if header.is_control() {
                put_control(out, header, batch, record);
            }
        }
        if let Some(parser) = self.content.as_ref().filter(|_| !header.is_control()) {
            parser.put(out, record, if self.skips_metadata { "| " } else { " " })?;
        }
        out.end_line();
        Ok(())
    }
}

fn time_name(header: &BatchHeader) -> &'static str {
    match header.timestamp_type() {
        TimestampType::CreateTime => "CreateTime: ",
        TimestampType::LogAppendTime => "LogAppendTime: ",
    }
}

fn put_batch(out: &mut Text<'_>, header: &BatchHeader, position: u64, codec: &str, is_valid: bool) {
    let put_flag = |out: &mut Text<'_>, name: &str, value: bool| {
        out.put(name);
        out.put(if value { "true" } else { "false" });
    };
    out.field("baseOffset: ", header.base_offset.0);
    out.field(" lastOffset: ", header.last_offset().0);
    out.field(" count: ", i64::from(header.record_count));
    out.field(" baseSequence: ", i64::from(header.base_sequence));
    out.field(" lastSequence: ", i64::from(header.last_sequence()));
    out.field(" producerId: ", header.producer_id.0);
    out.field(" producerEpoch: ", i64::from(header.producer_epoch.0));
    out.field(" partitionLeaderEpoch: ", i64::from(header.partition_leader_epoch.0));
    put_flag(out, " isTransactional: ", header.is_transactional());
    put_flag(out, " isControl: ", header.is_control());
    out.put(" deleteHorizonMs: ");
    let horizon = header.attributes.has_delete_horizon().then_some(header.base_timestamp.0);
    put_optional(out, horizon);
    out.field(" position: ", i64::try_from(position).unwrap_or(i64::MAX));
    out.put(" ");
    out.field(time_name(header), header.max_timestamp.0);
    out.field(" size: ", i64::try_from(header.size_bytes()).unwrap_or(i64::MAX));
    out.field(" magic: ", i64::from(header.magic));
    out.put(" compresscodec: ");
    out.put(codec);
    out.field(" crc: ", i64::from(header.crc));
    put_flag(out, " isvalid: ", is_valid);
    out.end_line();
}

/// As Java writes an `OptionalLong`.
pub fn put_optional(out: &mut Text<'_>, number: Option<i64>) {
    match number {
        None => out.put("OptionalLong.empty"),
        Some(number) => {
            out.field("OptionalLong[", number);
            out.put("]");
        }
    }
}

fn put_metadata(out: &mut Text<'_>, header: &BatchHeader, record: &Record) {
    let length = |field: &Option<Bytes>| field.as_ref().map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(-1));
    out.field("| offset: ", record.offset.0);
    out.put(" ");
    out.field(time_name(header), record.timestamp.0);
    out.field(" keySize: ", length(&record.key));
    out.field(" valueSize: ", length(&record.value));
    out.field(" sequence: ", sequence(header, record));
    out.put(" headerKeys: [");
    for (at, one) in record.headers.iter().enumerate() {
        out.put(if at > 0 { "," } else { "" });
        out.put(&one.key);
    }
    out.put("]");
}

/// A record's sequence number; 0 follows 2³¹−1, and −1 is none.
fn sequence(header: &BatchHeader, record: &Record) -> i64 {
    if header.base_sequence < 0 {
        return -1;
    }
    (i64::from(header.base_sequence) + (record.offset.0 - header.base_offset.0)) % (i64::from(i32::MAX) + 1)
}

fn put_control(out: &mut Text<'_>, header: &BatchHeader, batch: &Bytes, record: &Record) {
    match EndMarkerRecord::parse(header, batch) {
        Some(marker) => {
            out.put(match marker.result {
                TransactionResult::Abort => " endTxnMarker: ABORT",
                TransactionResult::Commit => " endTxnMarker: COMMIT",
            });
            out.field(" coordinatorEpoch: ", i64::from(marker.coordinator_epoch));
        }
        // The other kinds are those of KRaft's log.
        None => {
            let kind = record.key.as_ref().and_then(|key| key.get(2..4)).and_then(|bytes| bytes.first_chunk());
            out.field(" controlType: UNKNOWN(", kind.map_or(-1, |bytes| i64::from(i16::from_be_bytes(*bytes))));
            out.put(")");
        }
    }
}

/// The batches of a file, one after the other.
struct LogReader<'a> {
    path: &'a Path,
    input: BufReader<File>,
    buffer: BytesMut,
    /// Where the next batch begins.
    position: u64,
    /// Where reading ends.
    end: u64,
}

impl<'a> LogReader<'a> {
    fn open(path: &'a Path, max_bytes: i32) -> Result<Self, DumpError> {
        let file = open(path)?;
        let size = file.metadata().map_err(|error| DumpError::File(path.to_path_buf(), error))?.len();
        let end = size.min(u64::try_from(max_bytes).unwrap_or(0));
        let input = BufReader::with_capacity(READ_BYTES, file);
        Ok(Self { path, input, buffer: BytesMut::new(), position: 0, end })
    }

    /// The next whole batch. None at the end, and where a batch is cut off.
    fn next(&mut self) -> Result<Option<(BatchHeader, Bytes)>, DumpError> {
        let failed = |error| DumpError::File(self.path.to_path_buf(), error);
        let left = self.end - self.position;
        if left <= MAGIC_END_BYTES {
            return Ok(None);
        }
        let Some(size) = batch_size(&mut self.input, &mut self.buffer, left, self.path, self.position)? else {
            return Ok(None);
        };
        self.buffer.resize(size, 0);
        self.input.read_exact(&mut self.buffer[LOG_OVERHEAD_BYTES..]).map_err(failed)?;
        let batch = self.buffer.split().freeze();
        let header = BatchHeader::parse(&batch)
            .map_err(|error| DumpError::Header(self.path.to_path_buf(), self.position, error))?;
        self.position += size as u64;
        Ok(Some((header, batch)))
    }
}

/// Reads a batch's offset and length; its size if it is whole.
fn batch_size(
    input: &mut BufReader<File>,
    buffer: &mut BytesMut,
    left: u64,
    path: &Path,
    position: u64,
) -> Result<Option<usize>, DumpError> {
    buffer.clear();
    buffer.resize(LOG_OVERHEAD_BYTES, 0);
    input.read_exact(buffer).map_err(|error| DumpError::File(path.to_path_buf(), error))?;
    let length = buffer.get(8..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| i32::from_be_bytes(*bytes));
    size_of(length, left, path, position)
}

fn size_of(length: i32, left: u64, path: &Path, position: u64) -> Result<Option<usize>, DumpError> {
    let size = match usize::try_from(length) {
        Ok(length) if size_is_possible(length) => length + LOG_OVERHEAD_BYTES,
        _ => return Err(DumpError::TooSmall { size: length, file: path.to_path_buf() }),
    };
    if size as u64 > left {
        return Ok(None);
    }
    if size > BATCH_BYTES_MAX {
        return Err(DumpError::TooLarge(path.to_path_buf(), position, size));
    }
    Ok(Some(size))
}

fn size_is_possible(length: usize) -> bool {
    i32::try_from(length).is_ok_and(|length| length >= RECORD_BYTES_MIN)
}

/// The header of the batch at `position` of a log, if the batch ends at or before `end`.
pub fn header_at(log: &File, path: &Path, position: u64, end: u64) -> Result<Option<BatchHeader>, DumpError> {
    let left = end.saturating_sub(position);
    if left <= MAGIC_END_BYTES {
        return Ok(None);
    }
    let failed = |error| DumpError::File(path.to_path_buf(), error);
    let mut bytes = [0; HEADER_BYTES];
    let wanted = usize::try_from(left).unwrap_or(HEADER_BYTES).min(HEADER_BYTES);
    log.read_exact_at(&mut bytes[..wanted], position).map_err(failed)?;
    let length = i32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if size_of(length, left, path, position)?.is_none() {
        return Ok(None);
    }
    BatchHeader::parse(&bytes[..wanted])
        .map(Some)
        .map_err(|error| DumpError::Header(path.to_path_buf(), position, error))
}

/// The largest timestamp of the records of the batch at `position`.
pub fn max_timestamp_at(log: &File, path: &Path, position: u64, header: &BatchHeader) -> Result<i64, DumpError> {
    let mut bytes = vec![0; header.size_bytes()];
    log.read_exact_at(&mut bytes, position).map_err(|error| DumpError::File(path.to_path_buf(), error))?;
    let failed = |error| DumpError::Records(path.to_path_buf(), position, error);
    let mut largest = -1;
    for record in Records::new(&bytes.into(), UNPACKED_BYTES_MAX).map_err(failed)? {
        largest = largest.max(record.map_err(failed)?.timestamp.0);
    }
    Ok(largest)
}
