//! Opening the logs of a directory: what it holds, in what state the last process left it, and how far the work has
//! come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ottla_partition::{OpeningContext, open_log};
use ottla_storage::{
    DirectoryContent, DirectoryError, LeftBy, LogConfig, OpenError, PartitionDirectory, RealEnv, RecoveryProgress,
    is_out_of_descriptors,
};
use parking_lot::Mutex;

use super::{FoundLog, LogDir};
use crate::clock;
use crate::log_io::Urgency;

/// Descriptors become free when connections end; idle ones end after minutes. A start does not wait that long.
const DESCRIPTOR_TRIES: u32 = 100;
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// How far the opening of the logs has come, of all directories. For people: `/readyz`, and a line now and then.
#[derive(Default, Debug)]
pub struct OpeningProgress {
    logs: AtomicUsize,
    opened: AtomicUsize,
    /// Bytes above recovery points, as far as they have been found.
    to_check_bytes: AtomicU64,
    checked_bytes: AtomicU64,
}

impl OpeningProgress {
    /// The logs that are open, or could not be.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// What was read to find out what is whole.
    pub fn checked_bytes(&self) -> u64 {
        self.checked_bytes.load(Ordering::Relaxed)
    }
}

impl std::fmt::Display for OpeningProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mebibytes = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed) >> 20;
        let (opened, logs) = (self.opened(), self.logs.load(Ordering::Relaxed));
        write!(f, "{opened} of {logs} logs opened")?;
        let (checked, found) = (mebibytes(&self.checked_bytes), mebibytes(&self.to_check_bytes));
        if found > 0 { write!(f, ", {checked} of {found} MiB found unsynced so far are checked") } else { Ok(()) }
    }
}

/// Opens every log of a directory, `threads` at a time; a thread that has finished one takes the next, because one may
/// be large and the others not. Removes what an earlier run had marked as deleted.
pub(super) fn open_directory(
    directory: &Arc<LogDir>,
    threads: usize,
    config: &Arc<LogConfig>,
    boot_id: Option<&str>,
    progress: &OpeningProgress,
) -> Result<(Vec<FoundLog>, LeftBy), DirectoryError> {
    let DirectoryContent { left_by, live, leftovers, strays } = directory.content(boot_id)?;
    for path in leftovers {
        let owner = directory.clone();
        directory.run(Urgency::Background, move || {
            if let Err(error) = owner.remove(&path) {
                tracing::warn!(%error, "a deleted partition is not removed");
            }
        });
    }
    for path in strays {
        let path = path.display();
        tracing::warn!(%path, "the directory of a partition that the cluster does not have is kept");
    }
    progress.logs.fetch_add(live.len(), Ordering::Relaxed);
    let next = AtomicUsize::new(0);
    let opened = Mutex::new(Vec::with_capacity(live.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, live.len().max(1)) {
            scope.spawn(|| {
                while let Some(found) = live.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let log = open(directory, found, left_by.closed, config, progress);
                    progress.opened.fetch_add(1, Ordering::Relaxed);
                    opened.lock().push(log);
                }
            });
        }
    });
    Ok((opened.into_inner(), left_by))
}

/// Opens again while the process has no free descriptor: connections may hold them, and a log that is not opened at the
/// start stays offline until the next one.
fn when_descriptors_are_free<T>(
    tries: u32,
    pause: Duration,
    mut open: impl FnMut() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    for attempt in 1..tries {
        match open() {
            Err(OpenError::Io { error, .. }) if is_out_of_descriptors(&error) => {
                if attempt == 1 {
                    tracing::warn!(%error, "no descriptor is free to open a log; trying again");
                }
                std::thread::sleep(pause);
            }
            opened => return opened,
        }
    }
    open()
}

fn open(
    directory: &Arc<LogDir>,
    found: &PartitionDirectory,
    clean_shutdown: bool,
    config: &Arc<LogConfig>,
    progress: &OpeningProgress,
) -> FoundLog {
    let mut last = RecoveryProgress { scanned_bytes: 0, total_bytes: 0 };
    let mut count = |now: RecoveryProgress| {
        let grown = |now: u64, before: u64| now.saturating_sub(before);
        progress.to_check_bytes.fetch_add(grown(now.total_bytes, last.total_bytes), Ordering::Relaxed);
        progress.checked_bytes.fetch_add(grown(now.scanned_bytes, last.scanned_bytes), Ordering::Relaxed);
        last = now;
    };
    let context = OpeningContext { checkpoints: directory.checkpoints(), clean_shutdown, config, now: clock::wall() };
    let opened = when_descriptors_are_free(DESCRIPTOR_TRIES, DESCRIPTOR_PAUSE, || {
        open_log(RealEnv, found, context, Some(&mut count))
    });
    let (log, error) = FoundLog::new(&RealEnv, found, directory.clone(), context, opened);
    if let Some(error) = error {
        tracing::error!(%error, tried_again = log.awaits_room, "a log is not opened");
    }
    lower_clean_offset(directory, &log);
    log
}

fn lower_clean_offset(directory: &LogDir, log: &FoundLog) {
    if let Err(error) = log.lower_clean_offset(directory) {
        tracing::warn!(partition = %log.partition, %error, "how far a log is clean is not written");
    }
}

/// Opens a log again that awaited room. Waits for the disk, for as long as a recovery takes.
pub fn open_again(found: &PartitionDirectory, directory: &Arc<LogDir>, config: &Arc<LogConfig>) -> FoundLog {
    let (log, error) = FoundLog::open_again(found, directory, directory.clone(), config, clock::wall());
    match error {
        Some(error) if log.awaits_room => tracing::warn!(%error, "a log is not opened yet"),
        Some(error) => tracing::error!(%error, "a log is not opened"),
        None => tracing::info!(partition = %found.partition, "a log that awaited room is opened"),
    }
    lower_clean_offset(directory, &log);
    log
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    fn failed<T>(error: Error) -> Result<T, OpenError> {
        Err(OpenError::Io { directory: "t-0".into(), error })
    }

    #[test]
    fn a_log_is_opened_again_while_there_are_no_descriptors() {
        let no_descriptor = || Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let mut calls = 0;
        let opened = when_descriptors_are_free(5, Duration::ZERO, || {
            calls += 1;
            if calls < 4 { failed(no_descriptor()) } else { Ok(calls) }
        });
        assert_eq!(opened.ok(), Some(4));
        let mut calls = 0;
        let given_up = when_descriptors_are_free(5, Duration::ZERO, || {
            calls += 1;
            failed::<()>(no_descriptor())
        });
        assert!(given_up.is_err() && calls == 5);
        let mut calls = 0;
        let other = when_descriptors_are_free(5, Duration::ZERO, || {
            calls += 1;
            failed::<()>(ErrorKind::PermissionDenied.into())
        });
        assert!(other.is_err() && calls == 1, "another error does not pass");
    }
}
