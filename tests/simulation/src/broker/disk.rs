//! The log directories of a process: opened at the start, checkpointed now and then, looked at, and closed.
//! [`ottla_storage::LogDirs`] and [`ottla_partition`] decide; here their decisions are carried out, one after another.

use std::path::PathBuf;

use ottla_model::{BrokerId, ErrorCode, MonotonicMs, TimestampMs, TopicIdPartition};
use ottla_partition::{
    ClosedReplicas, DirectoryLook, Errand, Impairment, OpeningContext, Shutdown, WATCH_INTERVAL, least_used, open_log,
    places_to_give_up, take_flushed, write_checkpoints,
};
use ottla_storage::env::FaultyEnv;
use ottla_storage::{
    CheckpointKind, Collected, DirectoryContent, DirectoryError, DiskFault, FlushWork, LastRun, LogDir, LogDirs,
    LogDirsError,
};

use super::process::Process;
use super::replica::DiskFailed;
use super::{BrokerSettings, data};
use crate::facts::Fact;
use crate::outbox::Outbox;

/// A log that was there at the start.
pub(super) type FoundLog = ottla_partition::FoundLog<FaultyEnv, usize>;

/// What the directories held at the start.
pub(super) struct OpenedLogs {
    pub log_dirs: LogDirs<FaultyEnv>,
    pub found: Vec<FoundLog>,
    pub last_run: LastRun,
}

/// Opens every log of every directory.
pub(super) fn open_logs(
    envs: &[FaultyEnv],
    boot: u64,
    settings: &BrokerSettings,
    wall: TimestampMs,
    out: &mut Outbox,
) -> Result<OpenedLogs, LogDirsError> {
    let disks = envs.iter().map(|env| (env.clone(), data().to_owned()));
    let log_dirs = LogDirs::open_with(disks, Some(format!("boot-{boot}")), settings.rules.log_dirs)?;
    let (mut left_by, mut found) = (Vec::new(), Vec::new());
    log_dirs.each_usable(|directory| {
        let content = directory.content(log_dirs.boot_id())?;
        left_by.push(content.left_by);
        found.extend(open_directory(directory, content, settings, wall, out)?);
        Ok(())
    })?;
    for directory in log_dirs.all().iter().filter(|directory| directory.is_missing()) {
        out.note(format_args!("directory {} is not usable", directory.number()));
    }
    let last_run = log_dirs.last_run(left_by);
    Ok(OpenedLogs { log_dirs, found, last_run })
}

fn open_directory(
    directory: &LogDir<FaultyEnv>,
    content: DirectoryContent,
    settings: &BrokerSettings,
    wall: TimestampMs,
    out: &mut Outbox,
) -> Result<Vec<FoundLog>, DirectoryError> {
    let number = directory.number();
    content.leftovers.iter().try_for_each(|path| directory.remove(path))?;
    let context = OpeningContext {
        checkpoints: directory.checkpoints(),
        clean_shutdown: content.left_by.closed,
        config: &settings.log_config,
        now: wall,
    };
    let mut logs = Vec::new();
    for place in &content.live {
        let opened = open_log(directory.env().clone(), place, context, None);
        let (log, error) = FoundLog::new(directory.env(), place, number, context, opened);
        if let Some(error) = error {
            out.note(format_args!("does not open {} in directory {number}: {error}", place.partition));
        }
        if let Some(log) = &log.log {
            let (start, end) = (log.log_start_offset(), log.log_end_offset());
            out.note(format_args!("finds {} in directory {number}: {start}..{end}", place.partition));
        }
        logs.push(log);
    }
    Ok(logs)
}

impl Process {
    pub(super) fn directory_for_new_log(&self) -> Option<usize> {
        least_used(&self.log_dirs, |_| false)
    }

    pub(super) fn is_directory_failed(&self, number: usize) -> bool {
        self.log_dirs.get(number).is_some_and(|directory| directory.health().is_failed())
    }

    /// A directory did not do something.
    pub(super) fn directory_refused(&mut self, number: usize, error: &DirectoryError, out: &mut Outbox) {
        self.directory_fault(number, error, DiskFault::of(error.io()), out);
    }

    pub(super) fn directory_fault(
        &mut self,
        number: usize,
        error: &dyn std::fmt::Display,
        fault: DiskFault,
        out: &mut Outbox,
    ) {
        out.note(format_args!("directory {number}: {error} ({fault:?})"));
        let Some(directory) = self.log_dirs.get(number) else { return };
        self.look_at_directories |= directory.health().refused(fault).needs_look;
    }

    /// Does something in a directory whose disk may refuse it.
    pub(super) fn in_directory<T>(
        &mut self,
        number: usize,
        out: &mut Outbox,
        act: impl FnOnce(&LogDir<FaultyEnv>) -> Result<T, DirectoryError>,
    ) -> Option<T> {
        let directory = self.log_dirs.get(number).filter(|directory| !directory.health().is_failed())?;
        match act(directory) {
            Ok(done) => Some(done),
            Err(error) => {
                self.directory_refused(number, &error, out);
                None
            }
        }
    }

    pub(super) fn remove_paths(&mut self, number: usize, paths: &[PathBuf], out: &mut Outbox) {
        for path in paths {
            self.in_directory(number, out, |directory| directory.remove(path));
        }
    }

    pub(super) fn replicas_in(&self, directory: usize) -> Vec<TopicIdPartition> {
        self.replicas.iter().filter(|(_, replica)| replica.directory == directory).map(|(id, _)| *id).collect()
    }

    /// Looks at the directories now and then, and when a write failed.
    pub(super) fn watch_directories(&mut self, now: MonotonicMs, wall: TimestampMs, out: &mut Outbox) {
        let is_due = now >= self.watch_at;
        let is_asked_for = std::mem::take(&mut self.look_at_directories);
        if !is_due && !is_asked_for {
            return;
        }
        if is_due {
            self.watch_at = now + WATCH_INTERVAL;
        }
        for impairment in Impairment::ALL {
            self.give_up(now, self.placement.impaired(impairment), impairment, out);
        }
        self.claim_replaced(out);
        let waiting = if is_due { std::mem::take(&mut self.waiting_logs) } else { Default::default() };
        for id in waiting {
            self.open_log(now, wall, id, None, out);
        }
        for number in 0..self.watches.len() {
            let (Some(directory), Some(watch)) = (self.log_dirs.get(number), self.watches.get_mut(number)) else {
                continue;
            };
            let look = watch.look(directory.health(), is_due, self.settings.rules);
            if look.is_failed {
                self.leave_failed(number, out);
            }
            if let Some(looks) = look.stalled_looks {
                out.note(format_args!("directory {number} does not answer for {looks} looks"));
            }
            self.give_up_impaired(now, number, look, out);
            if look.may_reopen {
                self.reopen_logs(now, wall, number, out);
            }
        }
        if self.log_dirs.all_failed() {
            self.die(&DiskFailed("no log directory is left".to_owned()), out);
        }
    }

    fn leave_failed(&mut self, number: usize, out: &mut Outbox) {
        self.log_dirs.distrust_registration();
        for id in self.replicas_in(number) {
            if self.when_held(id, Errand::Image).is_some() {
                // A thread of the service waits for the lock; here the next look finds it.
                continue;
            }
            let Some(replica) = self.replicas.get_mut(&id) else { continue };
            let Some(effects) = replica.core.directory_failed() else { continue };
            out.facts.push(Fact::LogsOffline);
            replica.may_have_been_cut();
            self.execute(id, effects, out);
            self.fetchers.changed.push(id);
        }
    }

    fn give_up_impaired(&mut self, now: MonotonicMs, number: usize, look: DirectoryLook, out: &mut Outbox) {
        let here = self.replicas.values().filter(|replica| replica.directory == number);
        for (impairment, replicas) in look.impaired(here.map(|replica| (replica.id, replica.is_out_of_room))) {
            self.give_up(now, replicas, impairment, out);
        }
    }

    /// Opens logs again for which there was no room at the start.
    fn reopen_logs(&mut self, now: MonotonicMs, wall: TimestampMs, number: usize, out: &mut Outbox) {
        let here = self.placement.awaiting_room().filter(|(_, found)| found.directory == number);
        let awaiting: Vec<_> = here.map(|(id, _)| id).collect();
        if self.watches.get_mut(number).is_some_and(|watch| watch.reopens(awaiting.len())) {
            // Where one finds no room, the next ones would find none.
            let _ = awaiting.into_iter().try_for_each(|id| self.reopen(now, wall, number, id, out));
        }
    }

    /// None if there is still no room.
    fn reopen(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        number: usize,
        id: TopicIdPartition,
        out: &mut Outbox,
    ) -> Option<()> {
        let directory = self.log_dirs.get(number)?;
        let place = self.placement.unopened(&id)?.place(directory);
        let (log, error) = FoundLog::open_again(&place, directory, number, &self.settings.log_config, wall);
        out.note(format_args!("opens {} again: {error:?}", place.partition));
        let awaits_room = log.awaits_room;
        self.could_not_open |= log.awaits_restart();
        if let Some(FoundLog { log: Some(log), .. }) = self.placement.opened_again(&id, log) {
            directory.health().has_room();
            self.begin_with(now, wall, id, log, out);
        }
        (!awaits_room).then_some(())
    }

    fn claim_replaced(&mut self, out: &mut Outbox) {
        if !self.log_dirs.has_replaced() || !self.placement.may_claim_replaced() {
            return;
        }
        let Some((broker, Some(cluster))) =
            self.log_dirs.meta().ok().flatten().map(|meta| (meta.broker_id, meta.cluster_id))
        else {
            return;
        };
        out.note(format_args!("claims its replaced directory"));
        if let Err(error) = self.log_dirs.claim_replaced(broker, &cluster) {
            out.note(format_args!("a replaced directory is not claimed yet: {error}"));
        }
    }

    fn give_up(&mut self, now: MonotonicMs, replicas: Vec<TopicIdPartition>, impairment: Impairment, out: &mut Outbox) {
        let (local, rules) = (self.id, self.settings.rules);
        if let Some((reason, partitions)) = places_to_give_up(local, &self.image, replicas, impairment, rules) {
            self.resign(now, partitions, reason, out);
        }
    }

    /// The image says which logs belong here.
    pub(super) fn write_due_checkpoints(&mut self, now: MonotonicMs, out: &mut Outbox) {
        let may_differ =
            |kind| kind != CheckpointKind::HighWatermark || std::mem::take(&mut self.high_watermarks_moved);
        let due = self.checkpoints.take_due(now, may_differ);
        self.write_checkpoints(&due.kinds, out);
    }

    /// A thread that waits for its disk writes none.
    fn write_checkpoints(&mut self, kinds: &[CheckpointKind], out: &mut Outbox) {
        let is_current = self.placement.is_current();
        for number in (0..self.log_dirs.all().len()).filter(|number| !self.is_stalled(*number)).collect::<Vec<_>>() {
            let Some(directory) = self.log_dirs.get(number) else { continue };
            let written = write_checkpoints(directory, is_current, kinds, |kind| self.collect(number, kind));
            if let Err(error) = written {
                self.directory_refused(number, &error, out);
            }
        }
    }

    fn collect(&self, number: usize, kind: CheckpointKind) -> Collected {
        let here = self.replicas.values().filter(|replica| replica.directory == number);
        here.map(|replica| (replica.name.clone(), replica.core.checkpointed(kind))).collect()
    }

    /// Syncs each log with this chance, in percent: as the system does some time, and the service after each segment.
    pub fn sync(&mut self, now: MonotonicMs, percent: u32, out: &mut Outbox) {
        let ids: Vec<_> = self.replicas.keys().copied().collect();
        for id in ids {
            let is_stalled = self.replicas.get(&id).is_some_and(|replica| self.is_stalled(replica.directory));
            if !self.random.percent(percent) || is_stalled {
                continue;
            }
            let Some(replica) = self.replicas.get_mut(&id) else { continue };
            let Some(log) = replica.core.log_mut() else { continue };
            match log.flush_work().map(FlushWork::run) {
                Some(Ok(done)) if take_flushed(log, done, now) => self.checkpoints.segment_flushed(now),
                Some(Ok(_)) | None => {}
                Some(Err(error)) => {
                    let (number, fault) = (replica.directory, replica.core.disk_fault(Some(&error)));
                    self.directory_fault(number, &error, fault, out);
                }
            }
        }
    }

    /// Every log was synced on request: the checkpoints say so.
    pub fn write_recovery_points(&mut self, out: &mut Outbox) {
        self.write_checkpoints(&[CheckpointKind::RecoveryPoint], out);
    }

    /// Closes everything, so that the next start trusts it. Waits for a disk that does not answer no longer than the
    /// service: the process goes, and leaves that directory and those after it as after a kill.
    pub fn close_all(&mut self, now: MonotonicMs, out: &mut Outbox) -> Result<(), LogDirsError> {
        let mut shutdown = Shutdown::begin(self.identity, self.placement.is_current(), self.last_run);
        for number in 0..self.log_dirs.all().len() {
            if self.is_stalled(number) {
                out.note(format_args!("directory {number} does not answer: it is left as after a kill"));
                return Ok(());
            }
            let mut closed = ClosedReplicas::default();
            for id in self.replicas_in(number) {
                let Some(replica) = self.replicas.get_mut(&id) else { continue };
                let name = replica.name.clone();
                let (log, effects) = replica.core.close(ErrorCode::NotLeaderOrFollower);
                let high_watermark = replica.core.high_watermark();
                self.fail_all(&effects.failed, BrokerId::NONE, out);
                if let Err(error) = closed.add(name, high_watermark, log, now) {
                    out.note(format_args!("a log of partition {} is not closed: {error}", id.partition));
                }
            }
            if let Some(directory) = self.log_dirs.get(number)
                && let Some(error) = shutdown.leave(directory, &closed)
            {
                out.note(format_args!("directory {number} is not left: {error}"));
            }
        }
        shutdown.end(&self.log_dirs)
    }
}
