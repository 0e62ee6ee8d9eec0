//! How a replica gets its log: it takes the one that was found at the start, or creates a new one.
//!
//! The disk may have no room at that moment. The log, or its creation, then waits ([`Replica::awaits_log`]): the caller
//! tries again later. Until then the replica answers as one whose log is offline.

use std::io;
use std::sync::Arc;

use ottla_model::{MonotonicMs, Offset, TimestampMs, TopicId, TopicPartition};
use ottla_replication::Brokers;
use ottla_storage::{Checkpoints, DirectoryError, DiskFault, Env, Log, LogConfig, LogDir, LogDirectory, OpenError};

use crate::ack_waiters::Ack;
use crate::effects::Effects;
use crate::replica::{LogState, Replica, ReplicaConfig};

/// The place and the configuration of a replica's log.
pub struct LogPlace<'d, E: Env> {
    pub directory: &'d LogDirectory<E>,
    /// Of this directory.
    pub checkpoints: &'d Checkpoints,
    pub partition: TopicPartition,
    pub topic_id: TopicId,
    pub config: Arc<LogConfig>,
}

/// A log that could not be created, or not be given its topic's id.
pub struct NotOpened<E: Env> {
    pub error: io::Error,
    /// The log that was found.
    pub found: Option<Box<Log<E>>>,
}

impl<E: Env> LogPlace<'_, E> {
    /// Makes the log that was found a log of this topic, or creates a new one. A log that knows no topic is empty, or
    /// of a release of Kafka before 2.8; without the id its records would belong to nobody after the next start. Waits
    /// for the disk.
    ///
    /// # Errors
    /// To be passed to [`Replica::log_opened`].
    pub fn open(self, found: Option<Box<Log<E>>>, wall: TimestampMs) -> Result<Box<Log<E>>, NotOpened<E>> {
        let Some(mut log) = found else { return self.create(wall) };
        log.set_config(self.config);
        if log.topic_id().is_none() {
            let forgotten = if log.log_end_offset() == Offset::ZERO {
                forget(self.directory, self.checkpoints, &self.partition)
            } else {
                Ok(())
            };
            if let Err(error) = forgotten.and_then(|()| log.set_topic_id(self.topic_id)) {
                return Err(NotOpened { error, found: Some(log) });
            }
        }
        Ok(log)
    }

    fn create(self, wall: TimestampMs) -> Result<Box<Log<E>>, NotOpened<E>> {
        if let Err(refused) = self.checkpoints.write_refused(self.directory) {
            return Err(NotOpened { error: refused.into_io(), found: None });
        }
        // A log that was not renamed when its replica left: this one replica must not fail because of it, nor take its
        // records.
        let freed = self.directory.free_name(&self.partition).map_err(DirectoryError::into_io);
        let forgotten = freed.and_then(|is_freed| match is_freed {
            true => forget(self.directory, self.checkpoints, &self.partition),
            false => Ok(()),
        });
        if let Err(error) = forgotten {
            return Err(NotOpened { error, found: None });
        }
        let (env, path) = (self.directory.env().clone(), self.directory.partition_path(&self.partition));
        match Log::create(env, path, self.partition, self.topic_id, self.config, wall) {
            Ok(log) => Ok(Box::new(log)),
            Err(OpenError::Io { error, .. }) => Err(NotOpened { error, found: None }),
            Err(error) => Err(NotOpened { error: io::Error::other(error), found: None }),
        }
    }
}

/// A log begins anew. The checkpoints of its name may be of a deleted topic: they must be gone from the disk before the
/// log has its topic's id, because the next start believes them then (scenario 42).
fn forget<E: Env>(
    directory: &LogDirectory<E>,
    checkpoints: &Checkpoints,
    partition: &TopicPartition,
) -> io::Result<()> {
    let forgotten = checkpoints.forget(directory, std::iter::once(partition));
    // Also files that an earlier try could not write.
    forgotten.and_then(|()| checkpoints.write_refused(directory)).map_err(DirectoryError::into_io)
}

/// As [`LogPlace::open`], in a directory that may not have been usable at the start. Waits for the disk.
///
/// # Errors
/// To be passed to [`Replica::log_opened`].
pub fn open_in<E: Env>(
    directory: &LogDir<E>,
    partition: TopicPartition,
    topic_id: TopicId,
    config: Arc<LogConfig>,
    found: Option<Box<Log<E>>>,
    wall: TimestampMs,
) -> Result<Box<Log<E>>, NotOpened<E>> {
    match &*directory.opened() {
        Some(opened) => {
            let checkpoints = directory.checkpoints();
            LogPlace { directory: opened, checkpoints, partition, topic_id, config }.open(found, wall)
        }
        None => Err(NotOpened { error: io::Error::other("it could not be opened at the start"), found }),
    }
}

impl<E: Env, A: Ack> Replica<E, A> {
    /// The result of [`LogPlace::open`]. With an open log the role begins that the tree named meanwhile. Without one
    /// the effects have the disk's error, and every request is answered with KAFKA_STORAGE_ERROR.
    pub fn log_opened(
        &mut self,
        opened: Result<Box<Log<E>>, NotOpened<E>>,
        now: MonotonicMs,
        wall: TimestampMs,
        config: &ReplicaConfig,
        brokers: &impl Brokers,
    ) -> Effects<A> {
        let mut log = match opened {
            Ok(log) => log,
            Err(refused) => return self.log_not_opened(refused),
        };
        let high_watermark = self.idle_high_watermark.max(log.log_start_offset()).min(log.log_end_offset());
        self.idle_high_watermark = high_watermark;
        log.high_watermark_moved(high_watermark);
        self.log = LogState::Open(log);
        let mut effects = match self.assigned().cloned() {
            Some(assigned) => self.take_role(&assigned, now, wall, config, brokers),
            None => Effects::default(),
        };
        effects.high_watermark = effects.high_watermark.or(Some(high_watermark));
        effects
    }

    fn log_not_opened(&mut self, refused: NotOpened<E>) -> Effects<A> {
        let mut effects = self.log_failed();
        match DiskFault::of(Some(&refused.error)) {
            DiskFault::Full | DiskFault::OutOfDescriptors | DiskFault::NameTaken => {
                self.log = LogState::Waiting(refused.found);
            }
            DiskFault::Failed => {
                if let Some(mut log) = refused.found {
                    log.abandon();
                }
            }
        }
        effects.disk_error = Some(refused.error);
        effects
    }

    /// Whether the disk had no room for the log: it is to be opened again with [`Self::take_waiting_log`].
    pub fn awaits_log(&self) -> bool {
        matches!(self.log, LogState::Waiting(_))
    }

    /// The log that was found and waits; none if a new one is to be created.
    pub fn take_waiting_log(&mut self) -> Option<Box<Log<E>>> {
        if let LogState::Waiting(found) = &mut self.log { found.take() } else { None }
    }

    /// A new log will be created instead of one that could not be read.
    pub fn begin_opening(&mut self) {
        if self.is_offline() {
            self.log = LogState::Opening;
            self.idle_high_watermark = Offset::ZERO;
        }
    }
}
