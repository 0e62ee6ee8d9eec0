//! Making the log durable, and closing it.
//!
//! The order matters: records, indexes, producer snapshots, names and leader epochs are on disk before the recovery
//! point covers them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::{MonotonicMs, Offset};
use ottla_replication::EpochStart;

use super::{Log, Shared};
use crate::checkpoint::leader_epochs;
use crate::env::{Env, File, OpenMode};
use crate::error::{is_full, is_out_of_descriptors};
use crate::file_name::{self, path_of};
use crate::open_files::Kept;
use crate::segment::Place;

/// The files to sync so that the log is durable up to its present end. Run it on any thread, without the partition's
/// lock, then pass the result to [`Log::flushed`].
pub struct FlushWork<E: Env> {
    env: E,
    directory: PathBuf,
    /// The active segment's file where it is open.
    active_file: Option<Arc<E::File>>,
    active_base: Offset,
    /// The older segments above the recovery point: their base offsets, and the kinds of their files.
    segments: Vec<(Offset, &'static [&'static str])>,
    snapshots: Vec<Offset>,
    sync_names: bool,
    sync_directory: bool,
    epochs: Vec<EpochStart>,
    epochs_version: u64,
    shared: Arc<Shared>,
    done: Flushed,
}

/// The proof that a flush has been done.
#[derive(Clone, Copy, Debug)]
pub struct Flushed {
    up_to: Offset,
    cuts: u64,
    names_changes: u64,
    directory: bool,
}

impl Flushed {
    /// Records below are on disk (if the log has not been truncated meanwhile).
    pub fn up_to(&self) -> Offset {
        self.up_to
    }
}

impl<E: Env> FlushWork<E> {
    /// Waits for the disk.
    ///
    /// # Errors
    /// The log is offline from now on: the content of the disk is unknown. Exceptions: a full disk ([`is_full`]) that
    /// has stored the records, and missing descriptors ([`is_out_of_descriptors`]). Then [`Log::is_offline`] returns
    /// false, and the flush must be retried.
    pub fn run(self) -> io::Result<Flushed> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Ok(Flushed { up_to: Offset::ZERO, ..self.done });
        }
        if self.shared.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync of this log has failed"));
        }
        let synced = self.sync();
        // Rewritten as a new file, not synced in place: if the disk has no space for it, nothing is lost, and the next
        // flush retries.
        let is_synced = synced.is_ok();
        match synced.and_then(|()| self.write_epochs()) {
            Ok(()) => Ok(self.done),
            Err(error) if is_synced && is_full(&error) => Err(error),
            // A file could not be opened: nothing that was synced failed.
            Err(error) if is_out_of_descriptors(&error) => Err(error),
            // Renamed, removed or truncated in the meantime: no sync is needed. Any other error is the disk's: the
            // kernel reports it once, and the next sync would succeed without the records.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_overtaken() => {
                Ok(Flushed { up_to: Offset::ZERO, ..self.done })
            }
            Err(error) => {
                self.shared.failed.store(true, Ordering::Release);
                Err(error)
            }
        }
    }

    fn is_overtaken(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire) || self.shared.cuts.load(Ordering::Acquire) != self.done.cuts
    }

    fn sync(&self) -> io::Result<()> {
        // The topic's id, before the records that need it.
        if self.sync_directory {
            sync_topic_id(&self.env, &self.directory)?;
        }
        for (base, kinds) in &self.segments {
            for kind in *kinds {
                self.env.open(&path_of(&self.directory, *base, kind), OpenMode::Write)?.sync_data()?;
            }
        }
        match &self.active_file {
            Some(file) => file.sync_data()?,
            None => {
                let path = path_of(&self.directory, self.active_base, file_name::LOG);
                self.env.open(&path, OpenMode::Write)?.sync_data()?;
            }
        }
        for offset in &self.snapshots {
            let path = path_of(&self.directory, *offset, file_name::PRODUCER_SNAPSHOT);
            self.env.open(&path, OpenMode::Write)?.sync_data()?;
        }
        if self.sync_names {
            self.env.sync_directory(&self.directory)?;
        }
        if self.sync_directory
            && let Some(parent) = self.directory.parent()
        {
            self.env.sync_directory(parent)?;
        }
        Ok(())
    }

    fn write_epochs(&self) -> io::Result<()> {
        write_epochs(&self.env, &self.directory, &self.shared, &self.epochs, self.epochs_version)
    }
}

/// Makes the topic's id durable, which creating the log did not wait for.
pub(super) fn sync_topic_id<E: Env>(env: &E, directory: &Path) -> io::Result<()> {
    match env.open(&directory.join(file_name::PARTITION_METADATA), OpenMode::Write) {
        Ok(metadata) => metadata.sync_data(),
        // A log of a Kafka before 2.8 that has not got its id yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes the checkpoint unless it holds this version or a later one. Writers take turns: a flush that was slow must
/// not put epochs back that a truncation has removed since.
fn write_epochs<E: Env>(
    env: &E,
    directory: &Path,
    shared: &Shared,
    entries: &[EpochStart],
    version: u64,
) -> io::Result<()> {
    let mut on_disk = shared.epochs_on_disk.lock();
    if *on_disk >= version {
        return Ok(());
    }
    let path = directory.join(file_name::LEADER_EPOCH_CHECKPOINT);
    env.write_file_atomically(&path, &leader_epochs::encode(entries))?;
    *on_disk = version;
    Ok(())
}

impl<E: Env> Log<E> {
    /// Whether `flush.messages` or `flush.ms` requires a flush.
    pub fn flush_due(&mut self, now: MonotonicMs) -> bool {
        let unflushed = self.log_end.distance_from(self.recovery_point);
        if unflushed == 0 {
            return false;
        }
        let last = *self.last_flush.get_or_insert(now);
        unflushed >= u64::try_from(self.config.flush_messages).unwrap_or(0)
            || now.since(last).as_millis() >= u128::try_from(self.config.flush_ms).unwrap_or(0)
    }

    /// The unsynced part up to the log's end; none if everything is synced.
    pub fn flush_work(&self) -> Option<FlushWork<E>> {
        let epochs_unwritten = *self.shared.epochs_on_disk.lock() < self.epochs_version;
        let names_unsynced = self.names_synced < self.names_changes || self.directory_unsynced;
        if self.shared.closed.load(Ordering::Acquire)
            || self.log_end == self.recovery_point && !names_unsynced && !epochs_unwritten
        {
            return None;
        }
        // From the segment below the recovery point on: it may have been active, its indexes unsynced, when the point
        // was reached.
        let from = self.segment_number(self.recovery_point - 1);
        let older = self.segments.get(from..self.segments.len().saturating_sub(1)).unwrap_or_default();
        Some(FlushWork {
            env: self.env.clone(),
            directory: self.directory.clone(),
            active_file: self.files.get(Kept::Active, self.active().base_offset),
            active_base: self.active().base_offset,
            segments: older.iter().map(|segment| (segment.base_offset, segment.kinds())).collect(),
            snapshots: self.snapshots.iter().copied().filter(|offset| *offset >= self.recovery_point).collect(),
            sync_names: names_unsynced,
            sync_directory: self.directory_unsynced,
            epochs: self.epochs.entries().to_vec(),
            epochs_version: self.epochs_version,
            shared: Arc::clone(&self.shared),
            done: Flushed {
                up_to: self.log_end,
                cuts: self.shared.cuts.load(Ordering::Acquire),
                names_changes: self.names_changes,
                directory: self.directory_unsynced,
            },
        })
    }

    /// Takes note of a flush that was done. Returns whether the recovery point moved.
    pub fn flushed(&mut self, done: Flushed, now: MonotonicMs) -> bool {
        self.last_flush = Some(now);
        if done.cuts != self.shared.cuts.load(Ordering::Acquire) || self.is_offline() {
            return false;
        }
        if done.directory {
            self.directory_unsynced = false;
        }
        self.names_synced = self.names_synced.max(done.names_changes);
        let moved = done.up_to > self.recovery_point;
        self.recovery_point = self.recovery_point.max(done.up_to);
        moved
    }

    /// Flushes here and now.
    ///
    /// # Errors
    /// As [`FlushWork::run`].
    pub fn flush(&mut self, now: MonotonicMs) -> io::Result<()> {
        if let Some(work) = self.flush_work() {
            let done = work.run()?;
            self.flushed(done, now);
        }
        Ok(())
    }

    /// Completes and syncs every file, so that the next start trusts them. The log takes no appends afterwards; it can
    /// still be read. Only when all logs of a directory have been closed may its clean-shutdown file be written.
    pub fn close(&mut self, now: MonotonicMs) -> io::Result<()> {
        if self.shared.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync of this log has failed"));
        }
        if self.shared.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.cut_dirty_tail()?;
        // Even if nothing is new: a failed append may have been cut off, and that must last.
        if let Some(file) = self.files.get(Kept::Active, self.active().base_offset) {
            file.sync_data()?;
        }
        let place = Place { env: &self.env, directory: &self.directory };
        let active_base = self.active().base_offset;
        if let Some(active) = self.segments.last_mut() {
            active.complete_indexes(place)?;
        }
        // An empty state at offset 0 needs no snapshot.
        if self.log_end > self.log_start || !self.producers.is_empty() {
            self.write_producer_snapshot(true)?;
        }
        self.flush(now)?;
        for kind in self.active().kinds().iter().filter(|kind| **kind != file_name::LOG) {
            self.env.open(&self.place().path(active_base, kind), OpenMode::Create)?.sync_data()?;
        }
        self.env.sync_directory(&self.directory)?;
        self.shared.closed.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes the leader epochs now: after a truncation the file must not contain removed epochs.
    pub(crate) fn write_epochs_now(&self) -> io::Result<()> {
        write_epochs(&self.env, &self.directory, &self.shared, self.epochs.entries(), self.epochs_version)
    }
}
