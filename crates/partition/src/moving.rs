//! The move of a replica to another log directory of its broker: a copy of its log grows there, and takes the place of
//! the log once it holds the same.
//!
//! The log goes on meanwhile: it grows, is truncated, or loses its beginning. [`FutureReplica::next`] says each time
//! what brings the copy nearer to it. The last step is made while nothing can append to the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_model::{LeaderEpoch, MonotonicMs, Offset, TimestampMs, TopicId, TopicPartition};
use ottla_replication::epoch_history::Divergence;
use ottla_storage::env::Env;
use ottla_storage::{
    AppendError, CutWatch, DirectoryError, DirectoryHealth, DiskFault, Log, LogConfig, LogDir, LogSlice, OpenError,
    OpenOptions, Read, ReadError,
};

use crate::rules::BrokenRules;

/// Bytes that are copied at once.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Of a copy that are not synced: the last step, which waits for the disk while the partition's lock is held, has
/// little to sync, and the kernel does not gather more than a disk writes in a second.
const UNSYNCED_BYTES_MAX: usize = 64 << 20;
/// Records that may be missing at the last step: they are copied while the partition's lock is held.
const LAST_RECORDS_MAX: i64 = u16::MAX as i64;
/// No batch is of a later epoch.
const ANY_EPOCH: LeaderEpoch = LeaderEpoch(i32::MAX);

/// Why a copy did not come nearer to its log.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("{0}")]
    Directory(#[from] DirectoryError),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{0}")]
    Append(#[from] AppendError),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl MoveError {
    /// What the disk's refusal means. Of a disk that is full nothing is lost: the log goes on where it is, and the copy
    /// waits.
    pub fn fault(&self) -> DiskFault {
        let cause = match self {
            Self::Io(error)
            | Self::Append(AppendError::Io(error))
            | Self::Read(ReadError::Io(error))
            | Self::Open(OpenError::Io { error, .. }) => Some(error),
            Self::Directory(error) => error.io(),
            _ => None,
        };
        DiskFault::of(cause)
    }

    /// Whether the move goes on some time later: nothing is lost by waiting, because the log goes on where it is.
    pub fn passes(&self) -> bool {
        self.fault() != DiskFault::Failed
    }
}

/// Whether a replica may move from a directory in this state to one in that.
pub fn may_move(from: &DirectoryHealth, to: &DirectoryHealth) -> bool {
    !to.is_unusable() && !from.is_failed()
}

/// What a request to move a replica leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoveRequest {
    /// The move that is under way, or waits, is called off.
    pub calls_off: bool,
    /// A move to the directory begins.
    pub begins: bool,
}

impl MoveRequest {
    /// A replica in the directory `current` is to be in `to`. `under_way`: where it goes already, unless that was
    /// called off. A request for where it is calls its move off.
    pub fn new<D: PartialEq>(to: &D, current: &D, under_way: Option<&D>) -> Self {
        let is_known = under_way == Some(to);
        Self { calls_off: under_way.is_some() && !is_known, begins: !is_known && current != to }
    }
}

/// What a look at the log leads to.
pub enum Next<E: Env> {
    /// These records follow.
    Copy(Read<E>),
    /// The log was cut: the copy ends here.
    CutTo(Offset),
    /// The log starts here by now.
    StartAt(Offset),
    CaughtUp,
}

/// The copy of a log.
pub struct FutureReplica<E: Env> {
    copy: Log<E>,
    path: PathBuf,
    unsynced_bytes: usize,
    /// Where the log ended at the last look.
    looked_to: Offset,
    /// Up to here the log seemed to have no records that the copy lacks: it was cut within a gap.
    nothing_to: Option<Offset>,
    /// Of the log, since the last look at it.
    cuts: Option<CutWatch>,
    rules: BrokenRules,
}

impl<E: Env> FutureReplica<E> {
    /// An empty copy at this path.
    pub fn create(
        env: E,
        path: PathBuf,
        (partition, topic_id): (TopicPartition, TopicId),
        config: Arc<LogConfig>,
        now: TimestampMs,
        rules: BrokenRules,
    ) -> Result<Self, OpenError> {
        let copy = Log::create(env, path.clone(), partition, topic_id, config, now)?;
        Ok(Self { copy, path, unsynced_bytes: 0, looked_to: Offset::ZERO, nothing_to: None, cuts: None, rules })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far the copy reaches.
    pub fn end(&self) -> Offset {
        self.copy.log_end_offset()
    }

    pub fn size_bytes(&self) -> u64 {
        self.copy.size_bytes()
    }

    /// What brings the copy nearer to `log`.
    pub fn next(&mut self, log: &Log<E>) -> Result<Next<E>, MoveError> {
        self.cuts = Some(log.watch_cuts());
        let (start, end) = (log.log_start_offset(), log.log_end_offset());
        self.looked_to = end;
        let (from, epoch) = (self.copy.log_end_offset(), self.copy.epoch_history().latest_epoch());
        if from < start {
            return Ok(Next::StartAt(start));
        }
        match log.epoch_history().divergence(epoch, from, start, end) {
            Divergence::None if from <= end => {}
            Divergence::At(point) if point.end_offset >= start && point.end_offset < from => {
                return Ok(Next::CutTo(point.end_offset));
            }
            _ => return Ok(Next::StartAt(start)),
        }
        if from == end || self.nothing_to == Some(end) {
            return Ok(Next::CaughtUp);
        }
        Ok(Next::Copy(log.read_if_cached(from, CHUNK_BYTES, end, true)?))
    }

    /// The log starts here by now.
    pub fn start_at(&mut self, offset: Offset) -> Result<(), MoveError> {
        self.nothing_to = None;
        Ok(self.copy.truncate_fully_and_start_at(offset, None)?)
    }

    /// The log was cut.
    pub fn cut_to(&mut self, offset: Offset, now: TimestampMs) -> Result<(), MoveError> {
        self.nothing_to = None;
        self.copy.truncate_to(offset, now)?;
        Ok(())
    }

    /// Appends records that the last look at the log found; returns how many bytes they are.
    pub fn append(&mut self, records: &LogSlice<E::File>, now: TimestampMs) -> Result<usize, MoveError> {
        let read = records.read();
        // Cut under the slice: it may have other records by now, which follow some that the copy has and the log has
        // not. The next look says how far.
        if self.cuts.as_ref().is_some_and(CutWatch::was_cut) {
            return Ok(0);
        }
        let bytes = read?;
        self.nothing_to = bytes.is_empty().then_some(self.looked_to);
        self.copy.append_as_follower(&bytes, ANY_EPOCH, now)?;
        self.unsynced_bytes += bytes.len();
        Ok(bytes.len())
    }

    /// Syncs the copy. Waits for the disk: not while the partition's lock is held.
    pub fn flush(&mut self, now: MonotonicMs) -> Result<(), MoveError> {
        self.copy.flush(now)?;
        self.unsynced_bytes = 0;
        Ok(())
    }

    /// The same, if much was copied since the last time.
    pub fn flush_if_large(&mut self, now: MonotonicMs) -> Result<(), MoveError> {
        if self.unsynced_bytes >= UNSYNCED_BYTES_MAX { self.flush(now) } else { Ok(()) }
    }

    /// The last step, while nothing appends to `log`: what was appended last is copied. Returns whether the copy holds
    /// what the log holds: more may have come than can be copied now.
    pub fn catch_up(&mut self, log: &Log<E>, now: TimestampMs) -> Result<bool, MoveError> {
        if self.rules.moves_before_caught_up {
            return Ok(true);
        }
        match self.next(log)? {
            Next::CaughtUp => self.has_all_of(log),
            // It is in memory.
            Next::Copy(Read::Done(records)) if log.log_end_offset().0 - self.end().0 <= LAST_RECORDS_MAX => {
                self.append(&records, now)?;
                Ok(self.end() == log.log_end_offset())
            }
            _ => Ok(false),
        }
    }

    /// What seemed to be a gap may be none by now.
    fn has_all_of(&mut self, log: &Log<E>) -> Result<bool, MoveError> {
        let (from, end) = (self.end(), log.log_end_offset());
        if from < end && !log.read(from, CHUNK_BYTES, end, true)?.is_empty() {
            self.nothing_to = None;
            return Ok(false);
        }
        Ok(true)
    }

    /// A copy that was closed takes records again.
    fn open_again(
        &mut self,
        directory: &LogDir<E>,
        partition: &TopicPartition,
        config: Arc<LogConfig>,
        now: TimestampMs,
    ) -> Result<(), OpenError> {
        let options = OpenOptions {
            clean_shutdown: true,
            recovery_point: self.end(),
            log_start: self.copy.log_start_offset(),
            high_watermark: Offset::ZERO,
            now,
            progress: None,
        };
        let env = directory.env().clone();
        self.copy = Log::open(env, self.path.clone(), partition.clone(), config, options)?.log;
        Ok(())
    }

    /// The copy takes the place of `log`, which it has caught up with: it gets the partition's name, durably. Returns
    /// the partition's log; the former one is closed, and its directory is to be removed.
    pub fn take_place(
        &mut self,
        log: &mut Log<E>,
        (to, partition): (&LogDir<E>, &TopicPartition),
        high_watermark: Offset,
        (now, wall): (MonotonicMs, TimestampMs),
        unique: impl FnMut() -> [u8; 16],
    ) -> Result<Box<Log<E>>, MoveError> {
        self.copy.close(now)?;
        let live_path = match to.make_live(&self.path, partition) {
            Ok(path) => path,
            Err(error) => {
                // A closed copy would not take what comes until the next try.
                self.open_again(to, partition, log.config().clone(), wall)?;
                return Err(error.into());
            }
        };
        let options = OpenOptions {
            clean_shutdown: true,
            recovery_point: self.end(),
            log_start: log.log_start_offset(),
            high_watermark,
            now: wall,
            progress: None,
        };
        let opened = Log::open(to.env().clone(), live_path, partition.clone(), log.config().clone(), options);
        let mut opened = match opened {
            Ok(opened) => opened.log,
            Err(error) => {
                // The old log is the partition's as before.
                to.mark_deleted(std::slice::from_ref(partition), unique)?;
                return Err(error.into());
            }
        };
        log.abandon();
        opened.take_over(log);
        if self.nothing_to.is_some() {
            opened.end_in_gap(log.log_end_offset());
            opened.high_watermark_moved(high_watermark);
        }
        Ok(Box::new(opened))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_another_directory_takes_the_place_of_the_former_one() {
        let request = |to, under_way: Option<u32>| MoveRequest::new(&to, &1, under_way.as_ref());
        let expected = |calls_off, begins| MoveRequest { calls_off, begins };
        assert_eq!(request(2, None), expected(false, true));
        assert_eq!(request(2, Some(2)), expected(false, false), "it is on its way");
        assert_eq!(request(3, Some(2)), expected(true, true));
        assert_eq!(request(1, Some(2)), expected(true, false), "it stays");
        assert_eq!(request(1, None), expected(false, false));
    }
}
