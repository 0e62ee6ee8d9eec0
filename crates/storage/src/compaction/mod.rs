//! Compaction: of every key the last record stays (`cleanup.policy=compact`), by Kafka's rules.
//!
//! The order of things, and who holds the partition's lock:
//! 1. [`Log::dirt`] says what there is to clean (lock);
//! 2. [`Log::begin_cleaning`] takes note of the segments (lock);
//! 3. [`CleanJob::index`] reads the dirty part and remembers the last offset of every key (no lock);
//! 4. [`Cleaning::next`] writes what stays of a group of segments to `.cleaned` files, and syncs them (no lock);
//! 5. [`Log::swap_in`] puts them in the place of the segments that they were made of (lock; it only renames);
//! 6. [`Cleaning::finish`] makes the names durable and says how far the log is clean (no lock).
//!
//! Invariants:
//! - only segments that are closed, below the high watermark and on disk are touched; the log keeps its end, and every
//!   segment its own, by an empty batch where no record is left: segments go on where the one before ends;
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

/// What one cleaning may use.
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

/// Hears of every piece of input and output, in bytes: it may wait (a throttle), or end the cleaning.
pub type Pacing<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Why a cleaning ended. Nothing is lost: what was swapped in stays, the rest is as before.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The log was closed, cut or lost segments, or the caller wanted no more. It may be tried again.
    #[error("the cleaning was given up")]
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
