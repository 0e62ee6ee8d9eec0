//! Replicas on their way from one log directory to another: [`ottla_partition::moving`] decides; here its steps are
//! made one by one, as the service's thread makes them between other work.

use ottla_model::{MonotonicMs, TimestampMs, TopicIdPartition, TopicPartition};
use ottla_partition::finish_cold;
use ottla_partition::moving::{CHUNK_BYTES, FutureReplica, MoveError, MoveRequest, Next, may_move};
use ottla_storage::env::FaultyEnv;
use ottla_storage::{Read, ReadError};

use super::process::Process;
use crate::at_once::AtOnce;
use crate::facts::Fact;
use crate::outbox::Outbox;

/// A move that has not ended.
pub(super) struct Move {
    to: usize,
    /// Of the replica that moves: another one of the same partition does not.
    number: u64,
    copy: FutureReplica<FaultyEnv>,
    /// The copy has caught up when it was looked at last.
    has_caught_up: bool,
}

/// A log whose replica has moved away.
pub(super) struct OldLog {
    directory: usize,
    name: TopicPartition,
}

/// What a step of a move led to.
enum Moved {
    NotYet,
    Done,
    CalledOff,
}

impl Process {
    /// AlterReplicaLogDirs: a replica is to move to another directory.
    pub(super) fn begin_move(&mut self, id: TopicIdPartition, to: usize, wall: TimestampMs, out: &mut Outbox) {
        let Some(replica) = self.replicas.get(&id) else { return };
        let (Some(from), Some(target)) = (self.log_dirs.get(replica.directory), self.log_dirs.get(to)) else { return };
        let is_stalled = self.is_stalled(to) || self.is_stalled(replica.directory);
        if !may_move(from.health(), target.health()) || is_stalled {
            return;
        }
        let (number, goes_to) = (replica.number, self.moves.get(&id).map(|one| one.to));
        let request = MoveRequest::new(&to, &replica.directory, goes_to.as_ref());
        if let Some(former) = request.calls_off.then(|| self.moves.remove(&id)).flatten() {
            self.drop_copy(id, &former, &"called off", out);
        }
        if !request.begins {
            return;
        }
        let (env, named) = (target.env().clone(), (replica.name.clone(), id.topic_id));
        let config = self.settings.log_config.clone();
        let path = target.future_path(&named.0, self.random.bytes_16());
        let created = path.map_err(MoveError::from).and_then(|path| {
            FutureReplica::create(env, path, named, config, wall, self.settings.rules).map_err(MoveError::from)
        });
        match created {
            Ok(copy) => {
                out.note(format_args!("moves {} to directory {to}", replica.name));
                self.moves.insert(id, Move { to, number, copy, has_caught_up: false });
            }
            Err(error) => out.note(format_args!("does not move {}: {error}", replica.name)),
        }
    }

    /// One step of each move.
    pub(super) fn step_moves(&mut self, now: MonotonicMs, wall: TimestampMs, out: &mut Outbox) {
        for old in std::mem::take(&mut self.old_logs) {
            self.remove_old(old, out);
        }
        // One thread moves all: it waits for the disk of the old log.
        if !self.old_logs.is_empty() {
            return;
        }
        let ids: Vec<_> = self.moves.keys().copied().collect();
        for id in ids {
            let Some(mut one) = self.moves.remove(&id) else { continue };
            let from = self.replicas.get(&id).map_or(0, |replica| replica.directory);
            if self.is_stalled(one.to) || self.is_stalled(from) {
                self.moves.insert(id, one);
                continue;
            }
            match self.step_move(now, wall, id, &mut one, out) {
                Ok(Moved::NotYet) => {
                    self.moves.insert(id, one);
                }
                Ok(Moved::Done) => {}
                Err(error) if error.passes() => {
                    self.moves.insert(id, one);
                }
                Ok(Moved::CalledOff) => self.drop_copy(id, &one, &"called off", out),
                Err(error) => self.drop_copy(id, &one, &error, out),
            }
        }
    }

    fn drop_copy(&self, id: TopicIdPartition, one: &Move, why: &dyn std::fmt::Display, out: &mut Outbox) {
        out.note(format_args!("the move of partition {} to directory {}: {why}", id.partition, one.to));
        let Some(directory) = self.log_dirs.get(one.to) else { return };
        if let Err(error) = directory.remove(one.copy.path()) {
            out.note(format_args!("the copy is not removed: {error}"));
        }
    }

    fn step_move(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        id: TopicIdPartition,
        one: &mut Move,
        out: &mut Outbox,
    ) -> Result<Moved, MoveError> {
        let unique = self.random.bytes_16();
        let to = self.log_dirs.get(one.to).filter(|directory| !directory.health().is_failed());
        let replica = self.replicas.get_mut(&id).filter(|replica| replica.number == one.number);
        let (Some(to), Some(replica)) = (to, replica) else { return Ok(Moved::CalledOff) };
        let (name, high_watermark, from) = (replica.name.clone(), replica.high_watermark(), replica.directory);
        let Some(log) = replica.core.log_mut() else { return Ok(Moved::CalledOff) };
        if !std::mem::take(&mut one.has_caught_up) {
            match one.copy.next(log)? {
                Next::StartAt(offset) => one.copy.start_at(offset)?,
                Next::CutTo(offset) => one.copy.cut_to(offset, wall)?,
                Next::Copy(Read::Done(records)) => {
                    one.copy.append(&records, wall)?;
                }
                Next::Copy(Read::Cold(cold)) => {
                    let read_on = |from| log.read_if_cached(from, CHUNK_BYTES, log.log_end_offset(), true);
                    let records = finish_cold::<_, ReadError>(cold, &AtOnce, read_on)?;
                    // Nothing: the log was cut meanwhile, or ends in a gap. The next look says which.
                    one.copy.append(&records, wall)?;
                }
                // The last step follows under the partition's lock: more may come before it.
                Next::CaughtUp => one.has_caught_up = true,
            }
            return Ok(Moved::NotYet);
        }
        if !one.copy.catch_up(log, wall)? {
            return Ok(Moved::NotYet);
        }
        let made = one.copy.take_place(log, (to, &name), high_watermark, (now, wall), || unique)?;
        *log = *made;
        to.place();
        let env = to.env().clone();
        if let Some(directory) = self.log_dirs.get(from) {
            directory.unplace();
        }
        out.note(format_args!("has moved {name} from directory {from} to {}", one.to));
        match replica.moved(one.to, env) {
            Ok(None) => {}
            Ok(Some(what)) | Err(what) => out.facts.push(Fact::Broken { what: format!("{name} has moved: {what}") }),
        }
        self.fetchers.changed.push(id);
        self.old_logs.push(OldLog { directory: from, name });
        Ok(Moved::Done)
    }

    /// The log has its new place already: the process may die before.
    fn remove_old(&mut self, old: OldLog, out: &mut Outbox) {
        if self.is_stalled(old.directory) {
            self.old_logs.push(old);
            return;
        }
        let (unique, names) = (self.random.bytes_16(), [old.name]);
        let renamed = self.in_directory(old.directory, out, |directory| directory.mark_deleted(&names, || unique));
        self.remove_paths(old.directory, &renamed.unwrap_or_default(), out);
    }
}
