//! `.index`, `.timeindex`, `.txnindex` and `.snapshot` files.

use std::fs::File;
use std::path::{Path, PathBuf};

use ottla_storage::{AbortedTransaction, Entry, OffsetEntry, TimeEntry, producer_snapshot};

use super::batches::{header_at, max_timestamp_at, put_optional};
use super::findings::{Complaints, DumpError, absolute, base_offset, open};
use super::text::Text;

/// How indexes are looked at.
pub struct IndexCheck {
    pub sanity_only: bool,
    pub verify_only: bool,
    pub message_bytes_max: i32,
}

/// An index's entries, and the size of its file.
struct Index<T> {
    entries: Vec<T>,
    size_bytes: usize,
}

impl<T: Entry> Index<T> {
    fn read(file: &Path) -> Result<Self, DumpError> {
        let bytes = std::fs::read(file).map_err(|error| DumpError::File(file.to_path_buf(), error))?;
        let entries = bytes.chunks_exact(T::BYTES).map(T::decode).collect();
        Ok(Self { entries, size_bytes: bytes.len() })
    }

    /// Whether the file ends within an entry, as Kafka's brokers say it.
    fn check_size(&self, file: &Path, kind: &str) -> Result<(), DumpError> {
        if self.size_bytes.is_multiple_of(T::BYTES) {
            return Ok(());
        }
        Err(DumpError::CorruptIndex(format!(
            "{kind} file {} is corrupt, found {} bytes which is neither positive nor a multiple of {}",
            absolute(file).display(),
            self.size_bytes,
            T::BYTES
        )))
    }
}

/// The offset of an entry: Java's relative offsets have a sign.
fn offset_of(base: i64, relative: u32) -> i64 {
    base.wrapping_add(i64::from(relative.cast_signed()))
}

/// The log beside an index, and its size.
fn log_of(file: &Path) -> Result<(PathBuf, File, u64), DumpError> {
    let path = beside(file, "log");
    let log = open(&path)?;
    let size = log.metadata().map_err(|error| DumpError::File(path.clone(), error))?.len();
    Ok((path, log, size))
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let digits = name.split('.').next().unwrap_or_default();
    file.with_file_name(format!("{digits}.{suffix}"))
}

impl IndexCheck {
    pub fn offsets(&self, file: &Path, out: &mut Text<'_>, wrong: &mut Complaints) -> Result<(), DumpError> {
        let base = base_offset(file)?;
        let (log_path, log, log_bytes) = log_of(file)?;
        let index = Index::<OffsetEntry>::read(file)?;
        let Some(last) = index.entries.last() else {
            out.line(format_args!("{} is empty.", file.display()));
            return Ok(());
        };
        if self.sanity_only {
            let last = offset_of(base, last.relative_offset);
            if last < base {
                return Err(below_base(file, "index", last, base, "base offset"));
            }
            index.check_size(file, "Index")?;
            out.line(format_args!("{} passed sanity check.", file.display()));
            return Ok(());
        }
        let mut mismatches = Vec::new();
        for (at, entry) in index.entries.iter().enumerate() {
            let offset = offset_of(base, entry.relative_offset);
            // What follows was allocated and never written.
            if offset == base && at > 0 {
                break;
            }
            let position = u64::from(entry.position);
            let end = log_bytes.min(position.saturating_add(u64::try_from(self.message_bytes_max).unwrap_or(0)));
            let header = header_at(&log, &log_path, position, end)?
                .ok_or_else(|| DumpError::NoBatch(log_path.clone(), self.message_bytes_max, position))?;
            if header.last_offset().0 != offset {
                mismatches.push((offset, header.last_offset().0));
            }
            if !self.verify_only {
                out.field("offset: ", offset);
                out.field(" position: ", i64::from(entry.position));
                out.end_line();
            }
        }
        // Kafka's tool shows them from the last to the first.
        mismatches.sort_by_key(|(offset, _)| std::cmp::Reverse(*offset));
        wrong.mismatches.push((file.to_path_buf(), mismatches));
        Ok(())
    }

    pub fn times(&self, file: &Path, out: &mut Text<'_>, wrong: &mut Complaints) -> Result<(), DumpError> {
        let base = base_offset(file)?;
        let (log_path, log, log_bytes) = log_of(file)?;
        let offsets = Index::<OffsetEntry>::read(&beside(file, "index"))?.entries;
        let index = Index::<TimeEntry>::read(file)?;
        if self.sanity_only {
            check_times(file, base, &index)?;
            out.line(format_args!("{} passed sanity check.", file.display()));
            return Ok(());
        }
        let (mut mismatches, mut disordered, mut not_found) = (Vec::new(), Vec::new(), Vec::new());
        let mut previous = -1;
        for (at, entry) in index.entries.iter().enumerate() {
            let (offset, timestamp) = (offset_of(base, entry.relative_offset), entry.timestamp.0);
            if offset == base && at > 0 {
                break;
            }
            let near = offsets.iter().rev().find(|entry| offset_of(base, entry.relative_offset) <= offset);
            let mut position = near.map_or(0, |entry| u64::from(entry.position));
            let mut found = None;
            while let Some(header) = header_at(&log, &log_path, position, log_bytes)? {
                if header.last_offset().0 >= offset {
                    found = Some(header);
                    break;
                }
                position += header.size_bytes() as u64;
            }
            match found {
                Some(header) if header.last_offset().0 == offset => {
                    let largest = max_timestamp_at(&log, &log_path, position, &header)?;
                    if largest != timestamp {
                        mismatches.push((timestamp, largest));
                    }
                    if previous >= timestamp {
                        disordered.push((timestamp, previous));
                    }
                }
                other => not_found.push((offset, other.map_or(-1, |header| header.last_offset().0))),
            }
            if !self.verify_only {
                out.field("timestamp: ", timestamp);
                out.field(" offset: ", offset);
                out.end_line();
            }
            previous = timestamp;
        }
        wrong.times.push((file.to_path_buf(), mismatches));
        wrong.disordered_times.push((file.to_path_buf(), disordered));
        wrong.not_found.push((file.to_path_buf(), not_found));
        Ok(())
    }
}

fn below_base(file: &Path, kind: &str, last: i64, base: i64, name: &str) -> DumpError {
    let time = if kind == "index" { "" } else { "time " };
    DumpError::CorruptIndex(format!(
        "Corrupt {time}index found, {kind} file ({}) has non-zero size but the last offset is {last} which is less \
         than the {name} {base}",
        absolute(file).display()
    ))
}

fn check_times(file: &Path, base: i64, index: &Index<TimeEntry>) -> Result<(), DumpError> {
    if let (Some(first), Some(last)) = (index.entries.first(), index.entries.last()) {
        if last.timestamp < first.timestamp {
            return Err(DumpError::CorruptIndex(format!(
                "Corrupt time index found, time index file ({}) has non-zero size but the last timestamp is {} which \
                 is less than the first timestamp {}",
                absolute(file).display(),
                last.timestamp,
                first.timestamp
            )));
        }
        let last = offset_of(base, last.relative_offset);
        if last < base {
            return Err(below_base(file, "time index", last, base, "first offset"));
        }
    }
    index.check_size(file, "Time index")
}

/// The aborted transactions of a segment.
pub fn aborted(file: &Path, out: &mut Text<'_>) -> Result<(), DumpError> {
    let bytes = std::fs::read(file).map_err(|error| DumpError::File(file.to_path_buf(), error))?;
    for entry in bytes.chunks_exact(AbortedTransaction::BYTES) {
        let decoded = AbortedTransaction::decode(entry);
        out.field("version: ", i64::from(super::decoder::number(entry)));
        out.field(" producerId: ", decoded.producer_id.0);
        out.field(" firstOffset: ", decoded.first_offset.0);
        out.field(" lastOffset: ", decoded.last_offset.0);
        out.field(" lastStableOffset: ", decoded.last_stable.0);
        out.end_line();
    }
    match bytes.len().is_multiple_of(AbortedTransaction::BYTES) {
        true => Ok(()),
        false => Err(DumpError::CorruptIndex(format!(
            "{} is corrupt: {} bytes are no whole number of entries",
            absolute(file).display(),
            bytes.len()
        ))),
    }
}

/// The producers of a snapshot. As with Kafka's tool, one that is damaged does not end the dump.
pub fn producers(file: &Path, out: &mut Text<'_>, wrong: &mut Complaints) -> Result<(), DumpError> {
    let bytes = std::fs::read(file).map_err(|error| DumpError::File(file.to_path_buf(), error))?;
    let producers = match producer_snapshot::decode(&bytes) {
        Ok(producers) => producers,
        Err(error) => {
            wrong.snapshots.push(format!("{}: {error}", file.display()));
            return Ok(());
        }
    };
    for producer in producers {
        out.field("producerId: ", producer.producer_id.0);
        out.field(" producerEpoch: ", i64::from(producer.producer_epoch.0));
        out.field(" coordinatorEpoch: ", i64::from(producer.coordinator_epoch));
        out.put(" currentTxnFirstOffset: ");
        put_optional(out, Some(producer.current_transaction_first_offset.0).filter(|offset| *offset >= 0));
        out.field(" lastTimestamp: ", producer.timestamp.0);
        if producer.last_offset.0 >= 0 {
            out.field(" firstSequence: ", first_sequence(producer.last_sequence, producer.offset_delta));
            out.field(" lastSequence: ", i64::from(producer.last_sequence));
            out.field(" lastOffset: ", producer.last_offset.0);
            out.field(" offsetDelta: ", i64::from(producer.offset_delta));
            out.field(" timestamp: ", producer.timestamp.0);
        }
        out.end_line();
    }
    Ok(())
}

/// The sequence number `delta` before `last`; 2³¹−1 is before 0.
fn first_sequence(last: i32, delta: i32) -> i64 {
    let first = i64::from(last) - i64::from(delta);
    if first < 0 && delta > last { first + i64::from(i32::MAX) + 1 } else { first }
}
