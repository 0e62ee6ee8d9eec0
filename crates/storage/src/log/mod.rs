//! The log of one partition: batches in segments, and the state derived from them (leader epochs, producer states).
//!
//! Owns the partition's directory. Not synchronised: the partition's lock is the caller's. Nothing here waits for the
//! disk but reads that miss the page cache, [`Log::close`], truncation, and [`FlushWork::run`], which is made to be run
//! elsewhere without the lock.
//!
//! Invariants:
//! - `log_start <= log_end`, `recovery_point <= log_end`; segments ascend and the last one is active;
//! - everything below the recovery point is on disk: records, indexes, leader epochs, producer snapshots and names. It
//!   only moves when a sync that covers it has succeeded, and falls with a truncation;
//! - an append is in the log whole or not at all, in memory as after a restart of the process;
//! - producer states and leader epochs are always those of the records below `log_end`.

mod aborted;
mod append;
mod flush;
mod read;
mod recent;
mod retention;
mod roll;
mod segment_list;
mod timestamp;
mod truncate;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ottla_model::{LeaderEpoch, MonotonicMs, Offset, TimestampMs, TopicId, TopicPartition};
use ottla_protocol::record_batch::BatchHeader;
use ottla_replication::{EpochHistory, ProducerError, ProducerStates, VerificationGuard, VerificationRequest};
use parking_lot::Mutex;

pub use aborted::AbortedSearch;
pub use append::Appended;
pub(crate) use append::producer_batch;
pub use flush::{FlushWork, Flushed};
pub use read::{ColdRead, Read};
pub use retention::AgeSearch;
pub use segment_list::DeletedFiles;
pub use timestamp::{TimeSearch, TimestampOffset};

pub use crate::recovery::{OpenOptions, Opened, RecoveryProgress};

use crate::checkpoint::partition_metadata;
use crate::config::LogConfig;
use crate::env::{DirectoryEntry, Env, File, OpenMode};
use crate::error::OpenError;
use crate::file_name;
use crate::open_files::{Kept, OpenFiles};
use crate::segment::{Place, Segment};
use recent::RecentBatches;

/// The log of one partition. See the module's description.
pub struct Log<E: Env> {
    pub(crate) env: E,
    pub(crate) directory: PathBuf,
    pub(crate) partition: TopicPartition,
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) config: Arc<LogConfig>,
    /// By base offset; never empty; the last one is active. A vector: a map's first node alone would cost kilobytes.
    pub(crate) segments: Vec<Segment>,
    pub(crate) files: Arc<OpenFiles<E::File>>,
    pub(crate) log_start: Offset,
    pub(crate) log_end: Offset,
    /// The end of the active segment's last record, where the log ends later: it was truncated within a gap.
    pub(crate) records_end: Option<Offset>,
    pub(crate) recovery_point: Offset,
    pub(crate) epochs: EpochHistory,
    /// Counts changes of `epochs`.
    pub(crate) epochs_version: u64,
    pub(crate) producers: ProducerStates,
    /// The last known high watermark. Markers at or beyond it do not decide their transactions yet, after a restart
    /// or a truncation neither.
    pub(crate) high_watermark: Offset,
    /// The offsets of the snapshot files, ascending.
    pub(crate) snapshots: Vec<Offset>,
    pub(crate) recent: RecentBatches,
    /// The headers of one append; kept for its memory.
    pub(crate) headers: Vec<BatchHeader>,
    /// A failed append may have left bytes behind the active segment's end; they must go before the next one.
    pub(crate) tail_is_dirty: bool,
    /// Files that were set aside before one could not be: whoever removes old segments next removes them too.
    pub(crate) set_aside: DeletedFiles,
    /// Counts the names that were created, and how far of that count a sync has come.
    pub(crate) names_changes: u64,
    pub(crate) names_synced: u64,
    /// The directory's own name is not durable yet.
    pub(crate) directory_unsynced: bool,
    pub(crate) last_flush: Option<MonotonicMs>,
    pub(crate) shared: Arc<Shared>,
}

/// The part of the log that flush work on other threads shares.
#[derive(Default)]
pub(crate) struct Shared {
    /// After a failed sync the content of the disk is unknown: the kernel may have dropped the pages, and the next sync
    /// may succeed nevertheless.
    pub failed: AtomicBool,
    /// The directory may be renamed or gone.
    pub closed: AtomicBool,
    /// Counts truncations, and segments that were taken out: a flush that began before one proves nothing, and may miss
    /// files.
    pub cuts: AtomicU64,
    /// Counts only truncations: records that the cleaner read before a truncation may not be part of the log any more.
    pub truncations: AtomicU64,
    /// The version of the leader epochs that is in the checkpoint file; older ones must not replace it.
    pub epochs_on_disk: Mutex<u64>,
}

impl Shared {
    /// The log is about to lose records from its end, or all of them.
    pub fn truncated(&self) {
        self.truncations.fetch_add(1, Ordering::AcqRel);
        self.cuts.fetch_add(1, Ordering::AcqRel);
    }

    #[inline]
    pub fn is_offline(&self) -> bool {
        self.failed.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire)
    }
}

/// Sees whether a log has lost records from its end, or all of them, since this was asked for: others may be in their
/// place, at the same positions of the same file.
pub struct CutWatch {
    shared: Arc<Shared>,
    truncations: u64,
}

impl CutWatch {
    pub fn was_cut(&self) -> bool {
        self.shared.truncations.load(Ordering::Acquire) != self.truncations
    }
}

/// An earlier log of this name should have been renamed, and was not: its records must not become this log's.
fn refuse_records(env: &impl Env, directory: &Path) -> io::Result<()> {
    if !env.exists(directory)? {
        return Ok(());
    }
    let has_records = |entry: &DirectoryEntry| {
        entry.size_bytes > 0 && matches!(file_name::parse(&entry.name), Some((_, file_name::LOG)))
    };
    match env.list(directory)?.iter().any(has_records) {
        true => Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a log with records already")),
        false => Ok(()),
    }
}

impl<E: Env> Log<E> {
    /// Creates the log of a partition that this directory never held, starting at offset 0.
    ///
    /// The topic id is written before the log file exists and is durable before any record: if records survive without
    /// it, the log is refused ([`OpenError::UnknownTopic`]), so that they cannot be attributed to another topic of the
    /// same name. Nothing is synced here: thousands of logs are created at once, and each sync would wait for the disk.
    pub fn create(
        env: E,
        directory: PathBuf,
        partition: TopicPartition,
        topic_id: TopicId,
        config: Arc<LogConfig>,
        now: TimestampMs,
    ) -> Result<Self, OpenError> {
        let created = (|| {
            refuse_records(&env, &directory)?;
            env.create_directory(&directory)?;
            let metadata = env.open(&directory.join(file_name::PARTITION_METADATA), OpenMode::Truncate)?;
            metadata.write_all_at(&partition_metadata::encode(topic_id), 0)?;
            Segment::create(Place { env: &env, directory: &directory }, Offset::ZERO, now)
        })();
        let (segment, file) = match created {
            Ok(created) => created,
            Err(error) => return Err(OpenError::Io { directory, error }),
        };
        drop(file);
        let mut log = Self::with_segments(env, directory, partition, config, vec![segment]);
        log.topic_id = Some(topic_id);
        log.names_changes += 1;
        log.directory_unsynced = true;
        Ok(log)
    }

    pub(crate) fn with_segments(
        env: E,
        directory: PathBuf,
        partition: TopicPartition,
        config: Arc<LogConfig>,
        segments: Vec<Segment>,
    ) -> Self {
        let producer_budget = env.producer_budget();
        Self {
            env,
            directory,
            partition,
            topic_id: None,
            config,
            segments,
            files: Arc::default(),
            log_start: Offset::ZERO,
            log_end: Offset::ZERO,
            records_end: None,
            recovery_point: Offset::ZERO,
            epochs: EpochHistory::new(),
            epochs_version: 0,
            producers: ProducerStates::within(producer_budget),
            high_watermark: Offset::ZERO,
            snapshots: Vec::new(),
            recent: RecentBatches::default(),
            headers: Vec::new(),
            tail_is_dirty: false,
            set_aside: DeletedFiles::default(),
            names_changes: 0,
            names_synced: 0,
            directory_unsynced: false,
            last_flush: None,
            shared: Arc::new(Shared::default()),
        }
    }

    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The topic id in `partition.metadata`; none in logs that Kafka wrote before 2.8.
    pub fn topic_id(&self) -> Option<TopicId> {
        self.topic_id
    }

    /// Gives a log without a topic id one, durably.
    pub fn set_topic_id(&mut self, topic_id: TopicId) -> io::Result<()> {
        let path = self.directory.join(file_name::PARTITION_METADATA);
        self.env.write_file_atomically(&path, &partition_metadata::encode(topic_id))?;
        self.topic_id = Some(topic_id);
        Ok(())
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn config(&self) -> &Arc<LogConfig> {
        &self.config
    }

    /// From the next append on.
    pub fn set_config(&mut self, config: Arc<LogConfig>) {
        self.config = config;
    }

    /// The first offset that may be read.
    pub fn log_start_offset(&self) -> Offset {
        self.log_start
    }

    /// The offset of the next record.
    pub fn log_end_offset(&self) -> Offset {
        self.log_end
    }

    /// Records below this offset are on disk, in any case. The broker writes it to `recovery-point-offset-checkpoint`.
    pub fn recovery_point(&self) -> Offset {
        self.recovery_point
    }

    pub fn epoch_history(&self) -> &EpochHistory {
        &self.epochs
    }

    pub fn producers(&self) -> &ProducerStates {
        &self.producers
    }

    /// Everything below is replicated. A follower's high watermark may fall with a truncation.
    pub fn high_watermark_moved(&mut self, high_watermark: Offset) {
        self.high_watermark = high_watermark;
        self.producers.replicated(high_watermark);
    }

    /// The offset up to which a reader of committed records may read, given the high watermark: at most the first
    /// record of a transaction that is not decided by a replicated marker.
    pub fn last_stable_offset(&self, high_watermark: Offset) -> Offset {
        match self.producers.first_unstable_offset(high_watermark) {
            // Records before the log's start cannot be read; whose they were does not matter any more.
            Some(first) => first.max(self.log_start).min(high_watermark),
            None => high_watermark,
        }
    }

    /// Whether a transactional batch may be appended: see [`ProducerStates::begin_verification`].
    pub fn begin_verification(
        &mut self,
        request: &VerificationRequest,
        now: TimestampMs,
    ) -> Result<Option<VerificationGuard>, ProducerError> {
        self.producers.begin_verification(request, now)
    }

    /// Takes over from a log that this one, its copy, replaces what is not in its files: see
    /// [`ProducerStates::take_verifications`]. No record of the copy shows an epoch that began without one; followers
    /// and consumers may ask the leader about it (scenario 3).
    pub fn take_over(&mut self, replaced: &mut Self) {
        self.producers.take_verifications(&mut replaced.producers);
        if self.epochs != replaced.epochs {
            self.epochs.clone_from(&replaced.epochs);
            self.epochs_version += 1;
        }
        // What began with the files of the other one proves nothing about these, and may miss its own.
        let cuts = replaced.shared.cuts.fetch_add(1, Ordering::AcqRel) + 1;
        self.shared.cuts.store(cuts, Ordering::Release);
    }

    /// The log ends at `offset`, and has no records before it: see [`Self::truncate_to`].
    pub fn end_in_gap(&mut self, offset: Offset) {
        if offset > self.log_end {
            self.records_end = Some(self.records_end.unwrap_or(self.log_end));
            self.log_end = offset;
            self.producers.set_end_offset(offset);
        }
    }

    /// For what is read without the partition's lock.
    pub fn watch_cuts(&self) -> CutWatch {
        let truncations = self.shared.truncations.load(Ordering::Acquire);
        CutWatch { shared: Arc::clone(&self.shared), truncations }
    }

    /// Forgets producers that have been idle for too long (`producer.id.expiration.ms`); returns how many.
    pub fn remove_expired_producers(&mut self, now: TimestampMs) -> usize {
        self.producers.remove_expired(now, self.config.producer_id_expiration_ms)
    }

    /// All segments' log files together.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.size_bytes)).sum()
    }

    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The base offset of the segment that is appended to.
    pub fn active_segment_base(&self) -> Offset {
        self.active().base_offset
    }

    /// A sync has failed, or the log is closed: it refuses appends, and its recovery point does not move. After a
    /// failed sync only reopening the directory shows which records survived.
    pub fn is_offline(&self) -> bool {
        self.shared.is_offline()
    }

    /// This broker leads from `epoch` on: the epoch begins at the log's end. Persisted with the next flush; a crash
    /// before loses only epochs without records, which no truncation needs.
    pub fn begin_leader_epoch(&mut self, epoch: LeaderEpoch) {
        if epoch > self.epochs.latest_epoch() && self.epochs.assign(epoch, self.log_end) {
            self.epochs_version += 1;
        }
    }

    /// Moves the log's start forward (DeleteRecords, or a leader's log start); the records before it are not readable
    /// any more. Their segments are removed by retention. Returns whether it moved. At most the log's end.
    pub fn advance_log_start(&mut self, log_start: Offset) -> bool {
        let log_start = log_start.min(self.log_end);
        if log_start <= self.log_start {
            return false;
        }
        self.log_start = log_start;
        if self.epochs.truncate_from_start(log_start) {
            self.epochs_version += 1;
        }
        self.producers.log_start_moved(log_start);
        true
    }

    /// The directory is about to be renamed or removed: the log refuses appends, and flush work that is still in
    /// progress does nothing. Reads that have begun continue.
    pub fn abandon(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.files.close_all();
    }

    /// Closes the files that were not used since the last call; their next use opens them again. Between calls a log
    /// holds three files at most, an idle one none (`docs/adr/0009-at-most-three-open-files-a-partition.md`).
    pub fn close_idle_files(&mut self) {
        for kept in Kept::ALL {
            if !self.files.take_used(kept) {
                self.files.close(kept);
                if kept == Kept::Active {
                    self.headers = Vec::new();
                }
            }
        }
    }

    /// The files that are open, for tests and benchmarks.
    pub fn open_files(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn place(&self) -> Place<'_, E> {
        Place { env: &self.env, directory: &self.directory }
    }

    pub(crate) fn active(&self) -> &Segment {
        self.segments.last().expect("a log has an active segment from its creation on")
    }

    /// The number of the segment that holds `offset`, or would.
    pub(crate) fn segment_number(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base_offset <= offset).saturating_sub(1)
    }

    pub(crate) fn active_file(&self) -> io::Result<Arc<E::File>> {
        self.kept(Kept::Active, self.active().base_offset, file_name::LOG, OpenMode::Write)
    }

    /// The log file of any segment.
    pub(crate) fn segment_file(&self, number: usize) -> io::Result<Arc<E::File>> {
        if number + 1 == self.segments.len() {
            return self.active_file();
        }
        let Some(segment) = self.segments.get(number) else { return Err(io::ErrorKind::NotFound.into()) };
        self.kept(Kept::Older, segment.base_offset, file_name::LOG, OpenMode::Read)
    }

    /// An open file of the segment at `base`; opened and kept if need be.
    fn kept(&self, kept: Kept, base: Offset, kind: &str, mode: OpenMode) -> io::Result<Arc<E::File>> {
        if let Some(file) = self.files.get(kept, base) {
            return Ok(file);
        }
        let file = Arc::new(self.env.open(&self.place().path(base, kind), mode)?);
        self.keep(kept, base, &file);
        Ok(file)
    }

    pub(crate) fn keep(&self, kept: Kept, base: Offset, file: &Arc<E::File>) {
        self.files.keep_if(kept, base, file, || true);
        self.env.opened(&self.files, kept, file);
    }
}
