//! Replicas on their way from one log directory to another (AlterReplicaLogDirs). [`ottla_partition::moving`] decides
//! what is copied, and when the copy takes the log's place.
//!
//! A copy grows in the other directory under a name that ends in `-future`, chunk by chunk, without the partition's
//! lock. When what is missing is small, the rest is copied under the lock, the copy is closed (which syncs it) and gets
//! the partition's name, and the partition goes on with it; the old directory is renamed `-delete`.
//!
//! Crash safety: until the rename the old log is the partition's and the copy is dropped at the next start. Between the
//! two renames both directories have a log of that name, with the same records: the next start takes the one that
//! reaches further.
//!
//! One thread moves one replica at a time: several would wait for the same disks. It ends when nothing is left to move.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use ottla_model::{ErrorCode, Offset, TopicIdPartition};
use ottla_partition::moving::{self, CHUNK_BYTES, FutureReplica as Copy, MoveRequest, Next};
use ottla_partition::{BrokenRules, finish_cold};
use ottla_storage::slice::RecordSlice;
use ottla_storage::{ColdRead, DirectoryError, DiskFault, OpenError, Read, RealEnv};
use parking_lot::Mutex;

use super::ReplicaManager;
use crate::clock;
use crate::log_dirs::{LogDir, unique};
use crate::log_io::{Blocking, Urgency};
use crate::partition::Partition;

/// How long a move waits before it looks again at a disk without room, or at a log that is not open.
const PAUSE: Duration = Duration::from_millis(500);

/// The moves that have not ended.
#[derive(Default)]
pub struct Moves(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: BTreeMap<TopicIdPartition, Arc<Move>>,
    current: Option<Arc<Move>>,
    is_running: bool,
}

struct Move {
    partition: Arc<Partition>,
    to: Arc<LogDir>,
    /// How far the copy reaches; −1 before it begins.
    end: AtomicI64,
    size_bytes: AtomicI64,
    cancelled: AtomicBool,
}

/// A copy that is under way, for DescribeLogDirs.
pub struct FutureReplica {
    pub partition: Arc<Partition>,
    pub directory: Arc<LogDir>,
    pub end: Offset,
    pub size_bytes: i64,
}

#[derive(Debug, thiserror::Error)]
enum MoveError {
    /// It was called off, the partition went, or the broker stops.
    #[error("called off")]
    CalledOff,
    #[error(transparent)]
    Failed(#[from] moving::MoveError),
}

impl From<DirectoryError> for MoveError {
    fn from(error: DirectoryError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<OpenError> for MoveError {
    fn from(error: OpenError) -> Self {
        Self::Failed(error.into())
    }
}

impl ReplicaManager {
    /// Moves a replica to the directory at `path`, or calls its move off where it is there already.
    ///
    /// # Errors
    /// LOG_DIR_NOT_FOUND for a path that is none of this broker's, KAFKA_STORAGE_ERROR for a directory that does not
    /// work.
    pub fn move_replica(self: &Arc<Self>, partition: &Arc<Partition>, path: &Path) -> Result<(), ErrorCode> {
        let to = self.log_dirs.find(path).ok_or(ErrorCode::LogDirNotFound)?;
        if !moving::may_move(partition.directory().health(), to.health()) {
            return Err(ErrorCode::KafkaStorageError);
        }
        let mut state = self.moves.0.lock();
        let id = partition.id();
        let known = state.waiting.get(&id).or(state.current.as_ref().filter(|current| current.partition.id() == id));
        let known = known.filter(|known| !known.cancelled.load(Ordering::Acquire));
        let (goes_to, is_in) = (known.map(|known| known.to.number()), partition.directory().number());
        let request = MoveRequest::new(&to.number(), &is_in, goes_to.as_ref());
        if let Some(known) = known.filter(|_| request.calls_off) {
            known.cancelled.store(true, Ordering::Release);
            state.waiting.remove(&id);
        }
        if !request.begins {
            return Ok(());
        }
        let (end, size_bytes) = (AtomicI64::new(-1), AtomicI64::new(0));
        let one =
            Move { partition: partition.clone(), to: to.clone(), end, size_bytes, cancelled: AtomicBool::default() };
        state.waiting.insert(id, Arc::new(one));
        if !std::mem::replace(&mut state.is_running, true) {
            let manager = self.clone();
            let spawned = std::thread::Builder::new().name("log-mover".to_owned()).spawn(move || manager.run_moves());
            if let Err(error) = spawned {
                tracing::error!(%error, "no thread for moves between log directories");
                state.is_running = false;
                state.waiting.remove(&id);
                return Err(ErrorCode::KafkaStorageError);
            }
        }
        Ok(())
    }

    /// The copies that are under way or wait.
    pub fn future_replicas(&self) -> Vec<FutureReplica> {
        let state = self.moves.0.lock();
        let all = state.current.iter().chain(state.waiting.values());
        let live = all.filter(|one| !one.cancelled.load(Ordering::Acquire));
        live.map(|one| FutureReplica {
            partition: one.partition.clone(),
            directory: one.to.clone(),
            end: Offset(one.end.load(Ordering::Acquire).max(0)),
            size_bytes: one.size_bytes.load(Ordering::Acquire),
        })
        .collect()
    }

    fn run_moves(self: Arc<Self>) {
        loop {
            let one = {
                let mut state = self.moves.0.lock();
                state.current = state.waiting.pop_first().map(|(_, one)| one);
                match &state.current {
                    Some(one) => one.clone(),
                    None => {
                        state.is_running = false;
                        return;
                    }
                }
            };
            let (from, name) = (one.partition.directory(), one.partition.name());
            let (from, to) = (from.path().display(), one.to.path().display());
            match self.run_move(&one) {
                Ok(()) => tracing::info!(partition = name, %from, %to, "a replica has moved"),
                Err(MoveError::CalledOff) => {
                    tracing::info!(partition = name, %from, %to, "the move of a replica was called off")
                }
                Err(error) => tracing::error!(partition = name, %from, %to, %error, "a replica is not moved"),
            }
        }
    }

    fn run_move(&self, one: &Move) -> Result<(), MoveError> {
        let name = one.partition.topic_partition();
        let path = one.to.future_path(&name)?;
        let moved = self.copy_and_replace(one, &path);
        if moved.is_err() {
            let (owner, path) = (one.to.clone(), path);
            one.to.run(Urgency::Background, move || {
                if let Err(error) = owner.remove(&path) {
                    tracing::warn!(%error, "the copy of a move is not removed; the next start tries again");
                }
            });
        }
        moved
    }

    fn copy_and_replace(&self, one: &Move, path: &Path) -> Result<(), MoveError> {
        let partition = &one.partition;
        let (name, topic_id) = (partition.topic_partition(), partition.id().topic_id);
        let config = partition.settings().log.clone();
        let (path, rules) = (path.to_owned(), BrokenRules::default());
        let mut copy = Copy::create(RealEnv, path, (name, topic_id), config, clock::wall(), rules)?;
        loop {
            let is_off = one.cancelled.load(Ordering::Acquire) || partition.is_closed() || self.is_stopping();
            if is_off || one.to.health().is_failed() {
                return Err(MoveError::CalledOff);
            }
            let Some(next) = partition.with_log(|log| copy.next(log)) else { return Err(MoveError::CalledOff) };
            let done = match next? {
                Next::StartAt(offset) => copy.start_at(offset).map_err(MoveError::from),
                Next::CutTo(offset) => copy.cut_to(offset, clock::wall()).map_err(MoveError::from),
                Next::Copy(Read::Done(slice)) => self.copy(&slice, &mut copy),
                // Without the partition's lock.
                Next::Copy(Read::Cold(cold)) => self.copy_cold(cold, partition, &mut copy),
                Next::CaughtUp => match self.replace(one, &mut copy)? {
                    true => return Ok(()),
                    false => Ok(()),
                },
            };
            match done {
                Ok(()) => {}
                Err(MoveError::Failed(error)) if error.passes() => {
                    if error.fault() == DiskFault::Full {
                        one.to.health().filled();
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
            one.end.store(copy.end().0, Ordering::Release);
            one.size_bytes.store(i64::try_from(copy.size_bytes()).unwrap_or(i64::MAX), Ordering::Release);
        }
    }

    fn copy(&self, slice: &RecordSlice, copy: &mut Copy<RealEnv>) -> Result<(), MoveError> {
        let bytes = copy.append(slice, clock::wall())?;
        self.keep_pace(bytes);
        Ok(())
    }

    fn copy_cold(&self, cold: ColdRead<RealEnv>, of: &Partition, copy: &mut Copy<RealEnv>) -> Result<(), MoveError> {
        let records = finish_cold(cold, &Blocking, |from| {
            let read = of.with_log(|log| log.read_if_cached(from, CHUNK_BYTES, log.log_end_offset(), true));
            read.unwrap_or_else(|| Ok(Read::Done(RecordSlice::empty()))).map_err(moving::MoveError::from)
        })?;
        // Nothing: the log was cut meanwhile, and the next look says how far.
        if records.is_empty() { Ok(()) } else { self.copy(&records, copy) }
    }

    /// `replica.alter.log.dirs.io.max.bytes.per.second`
    fn keep_pace(&self, bytes: usize) {
        const QUOTA: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
        let live = self.live.current();
        let quota = live.properties.text(QUOTA).and_then(|text| text.parse::<u64>().ok()).filter(|quota| *quota > 0);
        if let Some(quota) = quota {
            let micros = (bytes as u64).saturating_mul(1_000_000) / quota;
            // A look now and then whether the quota has been raised, or the move called off.
            std::thread::sleep(Duration::from_micros(micros).min(Duration::from_secs(5)));
        }
    }

    /// The last step, under the partition's lock. Says whether it was the last: more may have come than can be copied
    /// under a lock.
    fn replace(&self, one: &Move, copy: &mut Copy<RealEnv>) -> Result<bool, MoveError> {
        let partition = &one.partition;
        let (name, from) = (partition.topic_partition(), partition.directory());
        let high_watermark = partition.high_watermark();
        let replaced = partition.replace_log(&one.to, |log| -> Result<_, MoveError> {
            if !copy.catch_up(log, clock::wall())? {
                return Ok(None);
            }
            let now = (clock::monotonic(), clock::wall());
            Ok(Some(copy.take_place(log, (&one.to, &name), high_watermark, now, unique)?))
        });
        match replaced {
            None => Err(MoveError::CalledOff),
            Some(Err(error)) => Err(error),
            Some(Ok(false)) => Ok(false),
            Some(Ok(true)) => {
                self.after_move(one, &from);
                Ok(true)
            }
        }
    }

    fn after_move(&self, one: &Move, from: &Arc<LogDir>) {
        one.to.place();
        from.unplace();
        // It may be another directory's fetcher that brings its records now.
        self.fetchers.update([&one.partition]);
        let (owner, name) = (from.clone(), one.partition.topic_partition());
        // Before the next move begins: the replica may come back, and a log of that name would be renamed then that is
        // the replica's.
        let renamed = from.mark_deleted(std::slice::from_ref(&name));
        from.run(Urgency::Urgent, move || {
            let removed = renamed.and_then(|paths| paths.iter().try_for_each(|path| owner.remove(path)));
            if let Err(error) = removed {
                tracing::warn!(partition = %name, %error, "cannot remove the old log of a moved replica");
            }
        });
    }
}
