//! The logs that the directories of a broker held at the start.

use std::sync::Arc;

use ottla_model::{Offset, TimestampMs, TopicId, TopicPartition};
use ottla_storage::directory::PartitionDirectoryKind;
use ottla_storage::{
    CheckpointKind, Checkpoints, DirectoryError, DiskFault, Env, Log, LogConfig, LogDir, OpenError, OpenOptions,
    Opened, PartitionDirectory, RecoveryProgress, read_topic_id,
};

use crate::hosting::LogFacts;
use crate::placement::Found;

/// A log that was there at the start. `D` names its log directory.
pub struct FoundLog<E: Env, D> {
    pub partition: TopicPartition,
    pub topic_id: Option<TopicId>,
    pub directory: D,
    /// None if it cannot be opened: it is not served.
    pub log: Option<Box<Log<E>>>,
    /// It cannot be opened because of its content: damaged records, or the id of its topic is lost.
    pub is_damaged: bool,
    /// It cannot be opened because its disk has no room, or the process no descriptor: it is opened again later
    /// (scenario 43).
    pub awaits_room: bool,
    pub high_watermark: Offset,
}

/// What is known of the logs of a directory before they are opened.
#[derive(Clone, Copy)]
pub struct OpeningContext<'c> {
    pub checkpoints: &'c Checkpoints,
    /// The last process closed every log.
    pub clean_shutdown: bool,
    /// For logs whose topics are not known yet.
    pub config: &'c Arc<LogConfig>,
    pub now: TimestampMs,
}

/// Opens a log as the checkpoints of its directory and the last shutdown allow. Waits for the disk, for as long as a
/// recovery takes.
///
/// # Errors
/// To be passed to [`FoundLog::new`].
pub fn open_log<E: Env>(
    env: E,
    found: &PartitionDirectory,
    context: OpeningContext<'_>,
    progress: Option<&mut dyn FnMut(RecoveryProgress)>,
) -> Result<Opened<E>, OpenError> {
    let checkpoint = |kind| context.checkpoints.get(kind, &found.partition);
    let options = OpenOptions {
        clean_shutdown: context.clean_shutdown,
        recovery_point: checkpoint(CheckpointKind::RecoveryPoint),
        log_start: checkpoint(CheckpointKind::LogStart),
        high_watermark: checkpoint(CheckpointKind::HighWatermark),
        now: context.now,
        progress,
    };
    let mut config = context.config.clone();
    if context.checkpoints.find(CheckpointKind::Cleaner, &found.partition).is_some() {
        // Offsets may be missing between the segments of a log that was ever compacted, whatever its topic says now.
        Arc::make_mut(&mut config).may_have_gaps = true;
    }
    Log::open(env, found.path.clone(), found.partition.clone(), config, options)
}

impl<E: Env, D> FoundLog<E, D> {
    /// A log by the result of [`open_log`]. Also returns why it cannot be opened.
    pub fn new(
        env: &E,
        found: &PartitionDirectory,
        directory: D,
        context: OpeningContext<'_>,
        opened: Result<Opened<E>, OpenError>,
    ) -> (Self, Option<OpenError>) {
        let (log, high_watermark, error) = match opened {
            Ok(opened) => (Some(Box::new(opened.log)), opened.high_watermark, None),
            // The next checkpoint must not say less than this one, as long as the log is not open.
            Err(error) => (None, context.checkpoints.get(CheckpointKind::HighWatermark, &found.partition), Some(error)),
        };
        let topic_id = match &log {
            Some(log) => log.topic_id(),
            None => found.topic_id.or_else(|| read_topic_id(env, &found.path)),
        };
        let passes = |error: &OpenError| error.io().is_some_and(|io| DiskFault::of(Some(io)) != DiskFault::Failed);
        let found = Self {
            partition: found.partition.clone(),
            topic_id,
            directory,
            log,
            is_damaged: error.as_ref().is_some_and(OpenError::is_damage),
            awaits_room: error.as_ref().is_some_and(passes),
            high_watermark,
        };
        (found, error)
    }

    /// Its place in `directory`.
    pub fn place(&self, directory: &LogDir<E>) -> PartitionDirectory {
        PartitionDirectory {
            path: directory.partition_path(&self.partition),
            partition: self.partition.clone(),
            kind: PartitionDirectoryKind::Live,
            topic_id: self.topic_id,
        }
    }

    /// Opens a log again that awaited room; `place`: see [`Self::place`]. Waits for the disk, for as long as a recovery
    /// takes.
    pub fn open_again(
        place: &PartitionDirectory,
        directory: &LogDir<E>,
        owner: D,
        config: &Arc<LogConfig>,
        now: TimestampMs,
    ) -> (Self, Option<OpenError>) {
        // The try before may have written: its files are those of a process that was killed.
        let context = OpeningContext { checkpoints: directory.checkpoints(), clean_shutdown: false, config, now };
        let env = directory.env();
        Self::new(env, place, owner, context, open_log(env.clone(), place, context, None))
    }

    /// Lowers how far the log is clean to its end: a process that was killed between a cut of the log and that of its
    /// offsets has left more. Records that take the place of those that were cut would count as cleaned. The other
    /// offsets are written anew soon, and may be too high of very many logs after a loss of power. Waits for the disk,
    /// if there is anything to write.
    pub fn lower_clean_offset(&self, directory: &LogDir<E>) -> Result<(), DirectoryError> {
        let Some(end) = self.log.as_ref().map(|log| log.log_end_offset()) else { return Ok(()) };
        match directory.clean_offset(&self.partition) {
            Some(offset) if offset > end => directory.set_clean_offset(&self.partition, end),
            _ => Ok(()),
        }
    }

    /// Its disk refused. It may not do so when the process starts again.
    pub fn awaits_restart(&self) -> bool {
        self.log.is_none() && !self.is_damaged && !self.awaits_room
    }
}

impl<E: Env, D> Found for FoundLog<E, D> {
    fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    fn facts(&self) -> LogFacts {
        let log = self.log.as_ref();
        LogFacts {
            topic_id: self.topic_id,
            reach: log.map(|log| (log.epoch_history().latest_epoch(), log.log_end_offset())),
            log_start: log.map_or(Offset::ZERO, |log| log.log_start_offset()),
            has_records: log.is_some_and(|log| log.log_end_offset() > log.log_start_offset()),
            is_damaged: self.is_damaged,
        }
    }

    fn awaits_room(&self) -> bool {
        self.awaits_room
    }
}

/// When the logs of a directory that await room are opened again. Each try may read everything above a recovery point:
/// the pauses double while no log could be opened.
#[derive(Default, Debug)]
pub struct ReopeningPause {
    /// Logs that awaited room at the last try.
    awaiting: usize,
    pause: u32,
    looks_left: u32,
}

impl ReopeningPause {
    /// In looks at the directory.
    const MAX: u32 = 30;

    /// One look at a directory with so many logs that await room; whether to try now.
    pub fn look(&mut self, awaiting: usize) -> bool {
        if awaiting == 0 {
            *self = Self::default();
            return false;
        }
        if awaiting != self.awaiting {
            (self.pause, self.looks_left) = (0, 0);
        }
        if self.looks_left > 0 {
            self.looks_left -= 1;
            return false;
        }
        self.awaiting = awaiting;
        self.pause = (self.pause * 2).clamp(1, Self::MAX);
        self.looks_left = self.pause - 1;
        true
    }
}
