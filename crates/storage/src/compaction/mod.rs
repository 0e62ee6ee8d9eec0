//! Compaction: of every key the last record stays (`cleanup.policy=compact`), by Kafka's rules.
//!
//! The order of steps, and which of them hold the partition's lock:
//! 1. [`Log::dirt`] finds the cleanable part (lock);
//! 2. [`Log::begin_cleaning`] takes note of the segments (lock);
//! 3. [`CleanJob::index`] reads the dirty part and remembers the last offset of every key (no lock);
//! 4. [`Cleaning::next`] writes the remaining records of a group of segments to `.cleaned` files, and syncs them (no
//!    lock);
//! 5. [`Log::swap_in`] replaces the old segments by the new one (lock; it only renames);
//! 6. [`Cleaning::finish`] makes the names durable and says how far the log is clean (no lock).
//!
//! Invariants:
//! - only segments that are closed, below the high watermark and on disk are cleaned; the log and every segment keep
//!   their end, by an empty batch if no record is left: every segment begins where the one before ends;
//! - a batch of which everything stays is kept byte for byte, else see `record_batch::StoredRecords::filter`;
//! - the last batch of an active producer stays, empty if need be, so that its sequences are known after a restart;
//! - a crash at any point leaves the old segments or the new one ([`crate::recovery`] finishes a swap);
//! - a truncation, a removal of segments or the end of the log in between makes [`Log::swap_in`] refuse.

mod clean;
mod dirt;
mod job;
mod offset_map;
mod output;
mod retention;
mod swap;
mod transactions;

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

use ottla_protocol::record_batch::RecordsError;

pub use dirt::{Dirt, NextLook};
pub use job::{CleanJob, Cleaned, Cleaning, CleaningStats};

/// The limits of one cleaning.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CleanerLimits {
    /// `log.cleaner.dedupe.buffer.size`, for one thread.
    pub map_bytes: usize,
    /// `log.cleaner.io.buffer.load.factor`
    pub load_factor: f64,
    /// `log.cleaner.io.buffer.size`: how much is read and written at once.
    pub io_buffer_bytes: usize,
}

impl Default for CleanerLimits {
    fn default() -> Self {
        Self { map_bytes: 128 << 20, load_factor: 0.9, io_buffer_bytes: 512 << 10 }
    }
}

/// Called with the number of bytes of every read and write: it may wait (a throttle), or end the cleaning.
pub type Pacing<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Why a cleaning ended. Nothing is lost: swapped segments stay, the others are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The log was closed, cut or lost segments, or the caller wanted no more. It may be tried again.
    #[error("the cleaning was cancelled")]
    Aborted,
    #[error("{file}: not a record batch at byte {position}")]
    Corrupt { file: PathBuf, position: u64 },
    #[error("{file}: the records of the batch at byte {position} cannot be read: {error}")]
    Records { file: PathBuf, position: u64, error: RecordsError },
    #[error("one batch has more keys than the offset map holds: log.cleaner.dedupe.buffer.size is too small")]
    MapTooSmall,
    #[error("a cleaned segment would be larger than 2 GiB")]
    SegmentTooLarge,
    #[error("cannot clean: {0}")]
    Io(#[from] io::Error),
}
