//! What a dump finds to be wrong: with the files, or with what is read of them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ottla_protocol::record_batch::{HeaderError, RecordsError, UnknownCompression};

/// No batch that a broker accepts is larger: `max.message.bytes` is 1 MiB by default. A damaged length must not claim
/// the machine's memory.
pub const BATCH_BYTES_MAX: usize = 256 * 1_024 * 1_024;

/// What ends the dump; the text is shown, and the exit code is 1.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    #[error("{0}: the name does not begin with an offset")]
    Name(PathBuf),
    #[error("Found record size {size} smaller than minimum record overhead (14) in file {file}.")]
    TooSmall { size: i32, file: PathBuf },
    #[error("{0}: the batch at byte {1}: {2}")]
    Header(PathBuf, u64, HeaderError),
    #[error("{0}: the batch at byte {1}: {2}")]
    Compression(PathBuf, u64, UnknownCompression),
    #[error("{0}: the batch at byte {1}: {2}")]
    Records(PathBuf, u64, RecordsError),
    #[error("{0}: the batch at byte {1} has {2} bytes, more than the {max} that are read", max = BATCH_BYTES_MAX)]
    TooLarge(PathBuf, u64, usize),
    #[error("{0}: no batch of at most {1} bytes at byte {2}; see --max-message-size")]
    NoBatch(PathBuf, i32, u64),
    #[error("Failed to decode message at offset {0} using the specified decoder (message had a missing key)")]
    NoKey(i64),
    #[error("offset {offset}: {bytes} bytes are too few for {class}")]
    TooShort { offset: i64, bytes: usize, class: &'static str },
    /// An index that a broker would build again.
    #[error("{0}")]
    CorruptIndex(String),
}

/// What was found to be wrong, in the order of the files; a pair of numbers for each fault.
#[derive(Default)]
pub struct Complaints {
    /// A line for each snapshot that cannot be read.
    pub snapshots: Vec<String>,
    pub mismatches: Vec<(PathBuf, Vec<(i64, i64)>)>,
    pub times: Vec<(PathBuf, Vec<(i64, i64)>)>,
    pub disordered_times: Vec<(PathBuf, Vec<(i64, i64)>)>,
    pub not_found: Vec<(PathBuf, Vec<(i64, i64)>)>,
    /// One pair for each gap: 16 bytes a record at most.
    pub gaps: Vec<(PathBuf, Vec<(i64, i64)>)>,
}

impl Complaints {
    pub fn into_lines(self) -> Vec<String> {
        let mut lines = self.snapshots;
        let mut table = |found: Vec<(PathBuf, Vec<(i64, i64)>)>, title: &str, row: &dyn Fn(i64, i64) -> String| {
            for (file, pairs) in found.into_iter().filter(|(_, pairs)| !pairs.is_empty()) {
                lines.push(format!("{title}{}", absolute(&file).display()));
                lines.extend(pairs.into_iter().map(|(first, second)| row(first, second)));
            }
        };
        table(self.mismatches, "Mismatches in :", &|index, log| format!("  Index offset: {index}, log offset: {log}"));
        table(self.times, "Found timestamp mismatch in :", &|index, log| {
            format!("  Index timestamp: {index}, log timestamp: {log}")
        });
        table(self.disordered_times, "Found out of order timestamp in :", &|index, before| {
            format!("  Index timestamp: {index}, Previously indexed timestamp: {before}")
        });
        table(self.not_found, "The following indexed offsets are not found in :", &|index, log| {
            format!("Indexed offset: {index}, found log offset: {log}")
        });
        table(self.gaps, "Non-consecutive offsets in ", &|before, after| format!("  {before} is followed by {after}"));
        lines
    }
}

pub fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf())
}

pub fn open(file: &Path) -> Result<File, DumpError> {
    File::open(file).map_err(|error| DumpError::File(file.to_path_buf(), error))
}

/// The offset that a file's name begins with.
pub fn base_offset(file: &Path) -> Result<i64, DumpError> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let digits = name.split('.').next().unwrap_or_default();
    digits.parse().map_err(|_| DumpError::Name(file.to_path_buf()))
}
