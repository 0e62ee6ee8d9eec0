//! The offsets that a log directory keeps beside its logs: high watermarks, recovery points, log starts, how far logs
//! are clean.
//!
//! Invariants: a file never names a partition that has left the directory, not even for a moment after its name is free
//! again (a topic of the same name must start without checkpoints); a recovery point on disk is never above the end
//! that a truncation left.

use std::time::Duration;

use ottla_model::{Offset, TopicPartition};
use parking_lot::Mutex;

use crate::checkpoint::offsets::Offsets;
use crate::directory::{CheckpointKind, DirectoryError, LogDirectory};
use crate::env::Env;
use crate::error::DiskFault;

/// The offset of a partition; none if its log cannot be read now: then the value on disk stays.
pub type Collected = Vec<(TopicPartition, Option<Offset>)>;

/// One of the files is being written: perhaps its disk does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BeingWritten;

/// The content of the files, and the right to replace them.
#[derive(Default)]
pub struct Checkpoints(Mutex<State>);

#[derive(Default)]
struct State {
    high_watermarks: Offsets,
    recovery_points: Offsets,
    log_starts: Offsets,
    cleaned: Offsets,
    /// Counts removed partitions, lowered points and files that were replaced: offsets that were collected before must
    /// not be written afterwards. They may lack a partition that has come since.
    revisions: u64,
    /// Files that the disk refused: they have other offsets than are here.
    unwritten: Vec<CheckpointKind>,
}

impl State {
    fn of(&mut self, kind: CheckpointKind) -> &mut Offsets {
        match kind {
            CheckpointKind::HighWatermark => &mut self.high_watermarks,
            CheckpointKind::RecoveryPoint => &mut self.recovery_points,
            CheckpointKind::LogStart => &mut self.log_starts,
            CheckpointKind::Cleaner => &mut self.cleaned,
        }
    }

    fn write(&mut self, kind: CheckpointKind, storage: &LogDirectory<impl Env>) -> Result<(), DirectoryError> {
        self.unwritten.retain(|unwritten| *unwritten != kind);
        let written = storage.write_checkpoint(kind, self.of(kind).iter().map(|(name, offset)| (name, *offset)));
        if written.is_err() {
            self.unwritten.push(kind);
        }
        written
    }

    /// Whether the file has the offsets that are here.
    fn is_written(&self, kind: CheckpointKind) -> bool {
        !self.unwritten.contains(&kind)
    }
}

/// What a truncation left of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogCut {
    pub end: Offset,
    pub recovery_point: Offset,
}

impl Checkpoints {
    /// Reads the files, and removes partitions that have no directory any more according to `lives`: a process that
    /// ended between the rename of a directory and [`Self::forget`] left them. A file that cannot be read counts as
    /// empty; one that a full disk refuses is written later. Waits for the disk.
    pub fn load(
        &self,
        storage: &LogDirectory<impl Env>,
        lives: impl Fn(&TopicPartition) -> bool,
    ) -> Result<(), DirectoryError> {
        let mut state = self.0.lock();
        for kind in CheckpointKind::ALL {
            let mut offsets = storage.read_checkpoint(kind).unwrap_or_else(|error| {
                tracing::warn!(%error, "a checkpoint cannot be read: continuing without it");
                Offsets::new()
            });
            let before = offsets.len();
            offsets.retain(|partition, _| lives(partition));
            let left = before - offsets.len();
            *state.of(kind) = offsets;
            if left > 0
                && let Err(error) = state.write(kind, storage)
                && DiskFault::of(error.io()) == DiskFault::Failed
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The offset on disk of one partition; 0 if there is none.
    pub fn get(&self, kind: CheckpointKind, partition: &TopicPartition) -> Offset {
        self.find(kind, partition).unwrap_or_default()
    }

    /// The offset on disk of one partition.
    pub fn find(&self, kind: CheckpointKind, partition: &TopicPartition) -> Option<Offset> {
        self.0.lock().of(kind).get(partition).copied()
    }

    /// As [`Self::find`], for somebody who does not wait for the disk.
    ///
    /// # Errors
    /// The files could not be looked at within `patience`.
    pub fn find_within(
        &self,
        patience: Duration,
        kind: CheckpointKind,
        partition: &TopicPartition,
    ) -> Result<Option<Offset>, BeingWritten> {
        let mut state = self.0.try_lock_for(patience).ok_or(BeingWritten)?;
        Ok(state.of(kind).get(partition).copied())
    }

    /// Replaces the offset on disk of one partition, unless it is equal. Waits for the disk.
    pub fn set(
        &self,
        kind: CheckpointKind,
        storage: &LogDirectory<impl Env>,
        partition: &TopicPartition,
        offset: Offset,
    ) -> Result<(), DirectoryError> {
        let mut state = self.0.lock();
        match state.of(kind).insert(partition.clone(), offset) {
            Some(before) if before == offset && state.is_written(kind) => Ok(()),
            _ => state.write(kind, storage),
        }
    }

    /// Replaces a file by the result of `collect`, unless it is equal. Waits for the disk.
    pub fn write(
        &self,
        kind: CheckpointKind,
        storage: &LogDirectory<impl Env>,
        collect: impl Fn() -> Collected,
    ) -> Result<(), DirectoryError> {
        loop {
            let revisions = self.0.lock().revisions;
            // Without the lock: a partition that is being truncated holds its own lock, and waits for this one.
            let collected = collect();
            let mut state = self.0.lock();
            if state.revisions != revisions {
                continue;
            }
            let on_disk = state.of(kind);
            let mut offsets = Offsets::new();
            for (partition, offset) in collected {
                // Most logs start with their first record: nothing is written of them.
                if let Some(offset) = offset.or_else(|| on_disk.get(&partition).copied())
                    && (kind != CheckpointKind::LogStart || offset > Offset::ZERO)
                {
                    offsets.insert(partition, offset);
                }
            }
            if *on_disk != offsets || !state.is_written(kind) {
                *state.of(kind) = offsets;
                state.revisions += 1;
                state.write(kind, storage)?;
            }
            return Ok(());
        }
    }

    /// A log was truncated: after a power loss a recovery point above its new end would be wrong, once other records
    /// were written there. Rare: only synced records can be below such a point. The clean offset must not exceed the
    /// new end either, nor, after an unclean election, the high watermark: after a kill records that nobody else has
    /// would count as committed (scenario 66). Nor must the log start, which such an election may leave above the end:
    /// after a kill the records that came since would count as deleted.
    pub fn log_was_cut(
        &self,
        storage: &LogDirectory<impl Env>,
        partition: &TopicPartition,
        cut: LogCut,
    ) -> Result<(), DirectoryError> {
        let mut state = self.0.lock();
        state.revisions += 1;
        let mut written = Ok(());
        for (kind, to) in [
            (CheckpointKind::RecoveryPoint, cut.recovery_point),
            (CheckpointKind::Cleaner, cut.recovery_point),
            (CheckpointKind::HighWatermark, cut.end),
            (CheckpointKind::LogStart, cut.end),
        ] {
            if let Some(offset) = state.of(kind).get_mut(partition).filter(|offset| **offset > to) {
                *offset = to;
                written = written.and(state.write(kind, storage));
            }
        }
        written
    }

    /// Writes the files that the disk refused before. Until it has succeeded, no log may be created: the files may
    /// still name an earlier log of its name. Waits for the disk, if there is anything to write.
    pub fn write_refused(&self, storage: &LogDirectory<impl Env>) -> Result<(), DirectoryError> {
        let mut state = self.0.lock();
        for kind in state.unwritten.clone() {
            state.write(kind, storage)?;
        }
        Ok(())
    }

    /// These partitions have left: a log that takes one of the names later must not begin with their offsets. Waits for
    /// the disk.
    pub fn forget<'p>(
        &self,
        storage: &LogDirectory<impl Env>,
        partitions: impl Iterator<Item = &'p TopicPartition> + Clone,
    ) -> Result<(), DirectoryError> {
        let mut state = self.0.lock();
        state.revisions += 1;
        let mut written = Ok(());
        for kind in CheckpointKind::ALL {
            let mut left = 0;
            for partition in partitions.clone() {
                left += usize::from(state.of(kind).remove(partition).is_some());
            }
            if left > 0 {
                written = written.and(state.write(kind, storage));
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::{PartitionId, TopicName};

    use super::*;
    use crate::env::{Faults, FaultyEnv, RealEnv};

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new(TopicName::new("t").unwrap(), PartitionId(number))
    }

    fn on_disk(storage: &LogDirectory<RealEnv>, kind: CheckpointKind) -> Vec<(i32, i64)> {
        let offsets = storage.read_checkpoint(kind).unwrap();
        offsets.into_iter().map(|(partition, offset)| (partition.partition.0, offset.0)).collect()
    }

    #[test]
    fn what_left_while_offsets_were_collected_is_not_written() {
        let root = tempfile::tempdir().unwrap();
        let storage = LogDirectory::open(RealEnv, root.path().to_owned()).unwrap();
        let checkpoints = Checkpoints::default();
        let both = || vec![(partition(0), Some(Offset(5))), (partition(1), Some(Offset(6)))];
        checkpoints.write(CheckpointKind::HighWatermark, &storage, both).unwrap();
        let first_look = std::cell::Cell::new(true);
        let collect = || {
            if first_look.replace(false) {
                checkpoints.forget(&storage, [partition(0)].iter()).unwrap();
                return both();
            }
            vec![(partition(1), None)]
        };
        checkpoints.write(CheckpointKind::HighWatermark, &storage, collect).unwrap();
        assert_eq!(on_disk(&storage, CheckpointKind::HighWatermark), [(1, 6)]);
    }

    /// A replica moved to the directory while offsets were collected: its log start was written and lost again, and a
    /// crash showed records that had been deleted.
    #[test]
    fn what_came_while_offsets_were_collected_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let storage = LogDirectory::open(RealEnv, root.path().to_owned()).unwrap();
        let checkpoints = Checkpoints::default();
        let both = || vec![(partition(0), Some(Offset(5))), (partition(1), Some(Offset(6)))];
        let first_look = std::cell::Cell::new(true);
        let collect = || {
            if first_look.replace(false) {
                checkpoints.write(CheckpointKind::LogStart, &storage, both).unwrap();
                return vec![(partition(0), Some(Offset(5)))];
            }
            both()
        };
        checkpoints.write(CheckpointKind::LogStart, &storage, collect).unwrap();
        assert_eq!(on_disk(&storage, CheckpointKind::LogStart), [(0, 5), (1, 6)]);
    }

    #[test]
    fn a_full_disk_does_not_keep_the_files_from_being_read() {
        let env = FaultyEnv::new(2);
        let storage = LogDirectory::open(env.clone(), "/data".into()).unwrap();
        let both = [partition(0), partition(1)];
        let offsets = both.iter().map(|partition| (partition, Offset(5)));
        storage.write_checkpoint(CheckpointKind::HighWatermark, offsets).unwrap();
        env.set_faults(Faults { no_space_ppm: 1_000_000, ..Faults::NONE });
        let checkpoints = Checkpoints::default();
        checkpoints.load(&storage, |it| *it == partition(0)).unwrap();
        let known = |number| checkpoints.find(CheckpointKind::HighWatermark, &partition(number));
        assert_eq!((known(0), known(1)), (Some(Offset(5)), None));
        assert!(checkpoints.write_refused(&storage).is_err(), "the file still names a log that is not there");
        env.set_faults(Faults::NONE);
        checkpoints.write_refused(&storage).unwrap();
        assert_eq!(storage.read_checkpoint(CheckpointKind::HighWatermark).unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_the_disk_refused_is_written_later() {
        let env = FaultyEnv::new(1);
        let storage = LogDirectory::open(env.clone(), "/data".into()).unwrap();
        let checkpoints = Checkpoints::default();
        for kind in CheckpointKind::ALL {
            checkpoints.set(kind, &storage, &partition(0), Offset(5)).unwrap();
        }
        let on_disk = || CheckpointKind::ALL.map(|kind| storage.read_checkpoint(kind).unwrap().len());
        let full = Faults { no_space_ppm: 1_000_000, ..Faults::NONE };
        env.set_faults(full);
        assert!(checkpoints.forget(&storage, [partition(0)].iter()).is_err());
        assert!(checkpoints.write_refused(&storage).is_err());
        assert_eq!(on_disk(), [1; 4]);
        env.set_faults(Faults::NONE);
        // Nothing has changed here since.
        checkpoints.write(CheckpointKind::HighWatermark, &storage, Vec::new).unwrap();
        assert_eq!(on_disk(), [0, 1, 1, 1]);
        checkpoints.write_refused(&storage).unwrap();
        assert_eq!(on_disk(), [0; 4]);

        for kind in [CheckpointKind::RecoveryPoint, CheckpointKind::Cleaner, CheckpointKind::HighWatermark] {
            checkpoints.set(kind, &storage, &partition(1), Offset(9)).unwrap();
        }
        env.set_faults(full);
        let cut = LogCut { end: Offset(4), recovery_point: Offset(3) };
        assert!(checkpoints.log_was_cut(&storage, &partition(1), cut).is_err());
        env.set_faults(Faults::NONE);
        checkpoints.set(CheckpointKind::Cleaner, &storage, &partition(1), Offset(3)).unwrap();
        checkpoints.write(CheckpointKind::HighWatermark, &storage, || vec![(partition(1), None)]).unwrap();
        let high_watermarks = storage.read_checkpoint(CheckpointKind::HighWatermark).unwrap();
        assert_eq!(high_watermarks.get(&partition(1)), Some(&Offset(4)));
        checkpoints.write(CheckpointKind::RecoveryPoint, &storage, || vec![(partition(1), None)]).unwrap();
        for kind in [CheckpointKind::RecoveryPoint, CheckpointKind::Cleaner] {
            assert_eq!(storage.read_checkpoint(kind).unwrap().get(&partition(1)), Some(&Offset(3)));
        }
    }

    /// A leader with a high watermark of 9 follows one that was elected uncleanly, is cut to 4, leads again, and is
    /// killed with 7 records: 4 to 6 are not committed. The file still said 9.
    #[test]
    fn scenario_66_a_high_watermark_is_cut_with_its_log() {
        let root = tempfile::tempdir().unwrap();
        let storage = LogDirectory::open(RealEnv, root.path().to_owned()).unwrap();
        let checkpoints = Checkpoints::default();
        let kind = CheckpointKind::HighWatermark;
        checkpoints.set(kind, &storage, &partition(0), Offset(9)).unwrap();
        checkpoints.set(kind, &storage, &partition(1), Offset(3)).unwrap();
        for cut in [partition(0), partition(1)] {
            let left = LogCut { end: Offset(4), recovery_point: Offset(2) };
            checkpoints.log_was_cut(&storage, &cut, left).unwrap();
        }
        assert_eq!(on_disk(&storage, kind), [(0, 4), (1, 3)], "and one that was not above the cut stays");
    }

    /// A follower whose log starts at 9 is cut to 4 by a leader that was elected uncleanly, follows it to 7, and is
    /// killed. It began anew at 9, without the records of an ISR that it is in.
    #[test]
    fn a_log_start_is_cut_with_its_log() {
        let root = tempfile::tempdir().unwrap();
        let storage = LogDirectory::open(RealEnv, root.path().to_owned()).unwrap();
        let checkpoints = Checkpoints::default();
        let kind = CheckpointKind::LogStart;
        checkpoints.set(kind, &storage, &partition(0), Offset(9)).unwrap();
        checkpoints.set(kind, &storage, &partition(1), Offset(3)).unwrap();
        for cut in [partition(0), partition(1)] {
            let left = LogCut { end: Offset(4), recovery_point: Offset(4) };
            checkpoints.log_was_cut(&storage, &cut, left).unwrap();
        }
        assert_eq!(on_disk(&storage, kind), [(0, 4), (1, 3)]);
    }

    #[test]
    fn a_name_without_a_directory_is_forgotten_at_the_start() {
        let root = tempfile::tempdir().unwrap();
        let storage = LogDirectory::open(RealEnv, root.path().to_owned()).unwrap();
        for kind in CheckpointKind::ALL {
            let all = || vec![(partition(0), Some(Offset(5))), (partition(1), Some(Offset(6)))];
            Checkpoints::default().write(kind, &storage, all).unwrap();
        }
        let checkpoints = Checkpoints::default();
        checkpoints.load(&storage, |found| *found == partition(1)).unwrap();
        for kind in CheckpointKind::ALL {
            assert_eq!(on_disk(&storage, kind), [(1, 6)]);
            assert_eq!(checkpoints.get(kind, &partition(0)), Offset::ZERO);
        }
    }
}
