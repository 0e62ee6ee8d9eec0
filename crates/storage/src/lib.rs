//! The partition log on disk, in Kafka's file formats.
//!
//! Start with [`Log`] (one partition), [`LogDirectory`] (an opened log directory) and [`LogDirs`] (all of `log.dirs`).
//! They are generic over an [`Env`]: the machine's file system, one in memory, and a faulty one that loses unsynced
//! writes.
//!
//! This crate has no timers, threads or partition locks: the caller has them. [`Log`]'s description lists the
//! operations that may wait for the disk.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod aborted_index;
pub mod checkpoint;
pub mod compaction;
pub mod config;
pub mod directory;
pub mod directory_health;
pub mod env;
pub mod error;
pub mod file_name;
mod index_file;
pub mod kept_offsets;
pub mod last_run;
pub mod log;
pub mod log_dirs;
mod offset_index;
pub mod open_files;
mod producer_replay;
pub mod producer_snapshot;
mod recovery;
mod rules;
mod scan;
mod segment;
pub mod slice;
mod time_index;

pub use aborted_index::AbortedTransaction;
pub use config::LogConfig;
pub use directory::{CheckpointKind, DirectoryError, LogDirectory, PartitionDirectory, read_topic_id};
pub use directory_health::{DirectoryHealth, FaultEffect, SLOW_LOOK_INTERVAL, SlowWatch, StallWatch, WriteUnderWay};
pub use env::{Env, Faults, FaultyEnv, File, MemoryEnv, RealEnv};
pub use error::{AppendError, DiskFault, Malformed, OpenError, ReadError, is_full, is_out_of_descriptors};
pub use index_file::Entry;
pub use kept_offsets::{BeingWritten, Checkpoints, Collected, LogCut};
pub use last_run::{LastRun, LeftBy, has_replaced};
pub use log::{
    AbortedSearch, AgeSearch, Appended, ColdRead, CutWatch, DeletedFiles, FlushWork, Flushed, Log, OpenOptions, Opened,
    Read, RecoveryProgress, TimeSearch, TimestampOffset,
};
pub use log_dirs::{ClosedLogs, DirectoryContent, LogDir, LogDirs, LogDirsError};
pub use offset_index::OffsetEntry;
pub use rules::BrokenRules;
pub use slice::LogSlice;
pub use time_index::TimeEntry;
