//! Replicas on their way from one log directory to another (AlterReplicaLogDirs). [`ottla_partition::moving`] decides
//! what is copied, and when the copy takes the log's place.
//!
//! A copy grows in the other directory under a name that ends in `-future`, chunk by chunk, without the partition's
//! lock, and is synced on the way. When what is missing is small, the rest is copied under the lock, the copy is closed
//! (which syncs the rest) and gets the partition's name, and the partition goes on with it; the old directory is
//! renamed `-delete`.
//!
//! Crash safety: until the rename the old log is the partition's and the copy is dropped at the next start. Between the
//! two renames both directories have a log of that name, with the same records: the next start takes the one that
//! reaches further.
//!
//! Each directory that replicas move to has a thread, which moves one at a time: several would wait for the same disk.
//! A disk that is full or does not answer holds up no moves to others, which may be those that make room. The thread
//! ends when nothing is left to move.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ottla_model::{ErrorCode, Offset, TopicIdPartition};
use ottla_partition::moving::{self, CHUNK_BYTES, FutureReplica as Copy, MoveRequest, Next};
use ottla_partition::{BrokenRules, finish_cold};
use ottla_storage::slice::RecordSlice;
use ottla_storage::{CheckpointKind, ColdRead, DirectoryError, DiskFault, OpenError, Read, RealEnv};
use parking_lot::Mutex;

use super::ReplicaManager;
use crate::clock;
use crate::log_dirs::{LogDir, unique};
use crate::log_io::{Blocking, Urgency};
use crate::partition::Partition;

/// How long a move waits before it looks again at a disk without room, or at a log that is not open.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a throttled move waits before it looks whether the rate has changed, or the move was called off.
const THROTTLE_PAUSE: Duration = Duration::from_millis(200);
/// What a directory that has just got a log says of it: without that a crash would read all of the log again, and show
/// records that were deleted.
const CHECKPOINTS: &[CheckpointKind] =
    &[CheckpointKind::HighWatermark, CheckpointKind::RecoveryPoint, CheckpointKind::LogStart];

/// The moves that have not ended.
#[derive(Default)]
pub struct Moves {
    state: Mutex<State>,
    /// When the rate of all moves together allows the next chunk.
    next_chunk: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<TopicIdPartition, Arc<Move>>,
    /// By the number of the directory that they go to.
    current: BTreeMap<usize, Arc<Move>>,
    /// The directories with a thread.
    threads: BTreeSet<usize>,
}

impl State {
    /// The move of this replica that was asked for last, unless it was called off.
    fn known(&self, partition: &Arc<Partition>) -> Option<Arc<Move>> {
        let all = self.waiting.get(&partition.id()).into_iter().chain(self.current.values());
        // A replica that has come back is another one.
        let mut of_it = all.filter(|one| Arc::ptr_eq(&one.partition, partition));
        of_it.find(|one| !one.cancelled.load(Ordering::Acquire)).cloned()
    }

    /// The next move to this directory. The one before it of the same replica must have ended. None: the thread ends.
    fn take_next(&mut self, to: usize) -> Option<Arc<Move>> {
        let moves = |id: &TopicIdPartition| self.current.values().any(|current| current.partition.id() == *id);
        let next = self.waiting.iter().find(|(id, one)| one.to.number() == to && !moves(id)).map(|(id, _)| *id);
        let next = next.and_then(|id| self.waiting.remove(&id));
        match &next {
            Some(one) => drop(self.current.insert(to, one.clone())),
            None => drop(self.threads.remove(&to)),
        }
        next
    }
}

struct Move {
    partition: Arc<Partition>,
    to: Arc<LogDir>,
    /// How far the copy reaches; −1 before it begins.
    end: AtomicI64,
    size_bytes: AtomicI64,
    cancelled: AtomicBool,
    /// The last step has begun: it is too late to call it off. Changed with [`State`]'s lock.
    is_committed: AtomicBool,
    /// Where the replica was at the last step.
    from: OnceLock<Arc<LogDir>>,
    /// Held during the last step, until what the replica has left has another name.
    last_step: Mutex<()>,
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
    /// work, INVALID_REPLICA_ASSIGNMENT for one that takes no more logs (KIP-1066).
    pub fn move_replica(self: &Arc<Self>, partition: &Arc<Partition>, path: &Path) -> Result<(), ErrorCode> {
        let to = self.log_dirs.find(path).ok_or(ErrorCode::LogDirNotFound)?;
        if !moving::may_move(partition.directory().health(), to.health()) {
            return Err(ErrorCode::KafkaStorageError);
        }
        let mut state = self.moves.state.lock();
        let id = partition.id();
        let known = state.known(partition);
        let goes_to = known.as_ref().map(|known| known.to.number());
        let is_committed = known.as_ref().is_some_and(|known| known.is_committed.load(Ordering::Acquire));
        let is_in = goes_to.filter(|_| is_committed).unwrap_or_else(|| partition.directory().number());
        let request = MoveRequest::new(&to.number(), &is_in, goes_to.as_ref());
        if request.begins && to.is_cordoned(&self.cordoned()) {
            return Err(ErrorCode::InvalidReplicaAssignment);
        }
        if let Some(known) = known.filter(|_| request.calls_off) {
            known.cancelled.store(true, Ordering::Release);
            state.waiting.remove(&id);
        }
        if !request.begins {
            return Ok(());
        }
        let one = Move {
            partition: partition.clone(),
            to: to.clone(),
            end: AtomicI64::new(-1),
            size_bytes: AtomicI64::new(0),
            cancelled: AtomicBool::default(),
            is_committed: AtomicBool::default(),
            from: OnceLock::new(),
            last_step: Mutex::default(),
        };
        state.waiting.insert(id, Arc::new(one));
        if !self.start_thread(&mut state, to.number()) {
            state.waiting.remove(&id);
            return Err(ErrorCode::KafkaStorageError);
        }
        Ok(())
    }

    /// Starts the thread of moves to this directory, unless it runs.
    fn start_thread(self: &Arc<Self>, state: &mut State, to: usize) -> bool {
        if !state.threads.insert(to) {
            return true;
        }
        let manager = self.clone();
        let spawned = std::thread::Builder::new().name("log-mover".to_owned()).spawn(move || manager.run_moves(to));
        if let Err(error) = &spawned {
            tracing::error!(%error, "no thread for moves between log directories");
            state.threads.remove(&to);
        }
        spawned.is_ok()
    }

    /// The replica ends. Its move is called off; returns where its log is, or comes to if the last step has begun. A
    /// new log of its name, in the directory that it leaves, is made when that step is over: it would be taken for what
    /// the replica has left, and be deleted.
    pub(super) fn end_move(&self, partition: &Arc<Partition>) -> Arc<LogDir> {
        let mut state = self.moves.state.lock();
        let is_its = |one: &Arc<Move>| Arc::ptr_eq(&one.partition, partition);
        if state.waiting.get(&partition.id()).is_some_and(is_its) {
            state.waiting.remove(&partition.id());
        }
        let Some(one) = state.current.values().find(|one| is_its(one)) else { return partition.directory() };
        if !one.is_committed.load(Ordering::Acquire) {
            one.cancelled.store(true, Ordering::Release);
            return partition.directory();
        }
        if let Some(from) = one.from.get() {
            let ending = one.clone();
            // New logs are made by the same thread.
            from.run(Urgency::Urgent, move || drop(ending.last_step.lock()));
        }
        one.to.clone()
    }

    /// Waits for the last steps that have begun; at the end of the process no other begins.
    pub(super) fn await_last_steps(&self) {
        let current: Vec<_> = self.moves.state.lock().current.values().cloned().collect();
        current.iter().for_each(|one| drop(one.last_step.lock()));
    }

    /// The copies that are under way or wait.
    pub fn future_replicas(&self) -> Vec<FutureReplica> {
        let state = self.moves.state.lock();
        let all = state.current.values().chain(state.waiting.values());
        let live = all.filter(|one| !one.cancelled.load(Ordering::Acquire));
        live.map(|one| FutureReplica {
            partition: one.partition.clone(),
            directory: one.to.clone(),
            end: Offset(one.end.load(Ordering::Acquire).max(0)),
            size_bytes: one.size_bytes.load(Ordering::Acquire),
        })
        .collect()
    }

    fn run_moves(self: Arc<Self>, to: usize) {
        loop {
            let Some(one) = self.moves.state.lock().take_next(to) else { return };
            self.run_and_log(&one);
            let mut state = self.moves.state.lock();
            state.current.remove(&to);
            // A move of the same replica to another directory may have waited for this one.
            let elsewhere = state.waiting.get(&one.partition.id()).map(|next| next.to.number());
            if let Some(elsewhere) = elsewhere.filter(|elsewhere| *elsewhere != to)
                && !self.start_thread(&mut state, elsewhere)
            {
                state.waiting.remove(&one.partition.id());
            }
        }
    }

    fn run_and_log(&self, one: &Move) {
        let (from, name) = (one.partition.directory(), one.partition.name());
        let (from, to) = (from.path().display(), one.to.path().display());
        one.partition.set_moving(true);
        let moved = self.run_move(one);
        one.partition.set_moving(false);
        match moved {
            Ok(()) => tracing::info!(partition = name, %from, %to, "a replica has moved"),
            Err(MoveError::CalledOff) => {
                tracing::info!(partition = name, %from, %to, "the move of a replica was called off")
            }
            Err(error) => tracing::error!(partition = name, %from, %to, %error, "a replica is not moved"),
        }
    }

    fn is_off(&self, one: &Move) -> bool {
        one.cancelled.load(Ordering::Acquire) || one.partition.is_closed() || self.is_stopping()
    }

    fn run_move(&self, one: &Move) -> Result<(), MoveError> {
        // It may be there since: a move that could not be called off any more has brought it.
        if self.is_off(one) || one.partition.directory().number() == one.to.number() {
            return Err(MoveError::CalledOff);
        }
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
            if self.is_off(one) || one.to.health().is_failed() {
                return Err(MoveError::CalledOff);
            }
            let Some(next) = partition.with_log(|log| copy.next(log)) else { return Err(MoveError::CalledOff) };
            let done = match next? {
                Next::StartAt(offset) => copy.start_at(offset).map_err(MoveError::from),
                Next::CutTo(offset) => copy.cut_to(offset, clock::wall()).map_err(MoveError::from),
                Next::Copy(Read::Done(slice)) => self.copy(one, &slice, &mut copy),
                // Without the partition's lock.
                Next::Copy(Read::Cold(cold)) => self.copy_cold(one, cold, &mut copy),
                // The partition's lock is not held for as long as the sync takes.
                Next::CaughtUp => match copy.flush(clock::monotonic()) {
                    Ok(()) => match self.replace(one, &mut copy) {
                        Ok(true) => return Ok(()),
                        replaced => replaced.map(|_| ()),
                    },
                    Err(error) => Err(error.into()),
                },
            };
            let done = done.and_then(|()| copy.flush_if_large(clock::monotonic()).map_err(MoveError::from));
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

    fn copy(&self, one: &Move, slice: &RecordSlice, copy: &mut Copy<RealEnv>) -> Result<(), MoveError> {
        let bytes = copy.append(slice, clock::wall())?;
        self.keep_pace(one, bytes);
        Ok(())
    }

    fn copy_cold(&self, one: &Move, cold: ColdRead<RealEnv>, copy: &mut Copy<RealEnv>) -> Result<(), MoveError> {
        let records = finish_cold(cold, &Blocking, |from| {
            let read = one.partition.with_log(|log| log.read_if_cached(from, CHUNK_BYTES, log.log_end_offset(), true));
            read.unwrap_or_else(|| Ok(Read::Done(RecordSlice::empty()))).map_err(moving::MoveError::from)
        })?;
        // Nothing: the log was cut meanwhile, or ends in a gap. The next look says which.
        self.copy(one, &records, copy)
    }

    /// `replica.alter.log.dirs.io.max.bytes.per.second`
    fn move_rate(&self) -> Option<u64> {
        const RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
        let live = self.live.current();
        live.properties.text(RATE).and_then(|text| text.parse::<u64>().ok()).filter(|rate| *rate > 0)
    }

    /// Waits until the rate, which is that of all moves together, allows the next chunk after these bytes.
    fn keep_pace(&self, one: &Move, bytes: usize) {
        let Some(rate) = self.move_rate() else { return };
        let cost = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate);
        let until = {
            let mut next_chunk = self.moves.next_chunk.lock();
            let now = Instant::now();
            let until = next_chunk.unwrap_or(now).max(now) + cost;
            *next_chunk = Some(until);
            until
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_off(one) {
                return;
            }
            if self.move_rate() != Some(rate) {
                *self.moves.next_chunk.lock() = None;
                return;
            }
            std::thread::sleep(left.min(THROTTLE_PAUSE));
        }
    }

    /// Whether the last step may be made; it cannot be called off any more then. Not at the end of the process: the
    /// directory may have been left already, and would vouch for a log that nobody closes.
    fn commit(&self, one: &Move) -> bool {
        let _state = self.moves.state.lock();
        let may = !one.cancelled.load(Ordering::Acquire) && !self.is_stopping();
        one.is_committed.store(may, Ordering::Release);
        may
    }

    /// The last step, under the partition's lock. Says whether it was the last: more may have come than can be copied
    /// under a lock.
    fn replace(&self, one: &Move, copy: &mut Copy<RealEnv>) -> Result<bool, MoveError> {
        let partition = &one.partition;
        let _last_step = one.last_step.lock();
        let (name, from) = (partition.topic_partition(), one.from.get_or_init(|| partition.directory()));
        let high_watermark = partition.high_watermark();
        let replaced = partition.replace_log(&one.to, |log| -> Result<_, MoveError> {
            if !copy.catch_up(log, clock::wall())? {
                return Ok(None);
            }
            if !self.commit(one) {
                return Err(MoveError::CalledOff);
            }
            let now = (clock::monotonic(), clock::wall());
            Ok(Some(copy.take_place(log, (&one.to, &name), high_watermark, now, unique)?))
        });
        match replaced {
            None => Err(MoveError::CalledOff),
            Some(Err(error)) => {
                // The replica stays where it is, until the next try at least: the move may be called off again.
                one.is_committed.store(false, Ordering::Release);
                Err(error)
            }
            Some(Ok(false)) => Ok(false),
            Some(Ok(true)) => {
                self.after_move(one, from);
                Ok(true)
            }
        }
    }

    fn after_move(&self, one: &Move, from: &Arc<LogDir>) {
        one.to.place();
        from.unplace();
        // It may be another directory's fetcher that brings its records now.
        self.update_fetchers([&one.partition]);
        // Before the old directory forgets them.
        self.checkpoint(&one.to, CHECKPOINTS);
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
