//! One cleaning of one partition, on a thread of the cleaner.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use ottla_storage::compaction::{CleanError, CleaningStats};
use ottla_storage::{DeletedFiles, DirectoryError, RealEnv};

use super::throttle::Throttle;
use super::{Choice, LogCleaner};
use crate::clock;
use crate::log_dirs::LogDir;
use crate::log_io::Urgency;

pub(super) fn clean(cleaner: &Arc<LogCleaner>, choice: &Choice) -> Result<CleaningStats, CleanError> {
    let Choice { partition, dirt } = choice;
    let (directory, name) = (partition.directory().clone(), partition.topic_partition());
    let now = clock::wall();
    let job = partition.with_log(|log| log.begin_cleaning(dirt, now)).flatten().ok_or(CleanError::Aborted)?;
    let is_over = || cleaner.is_stopping() || partition.is_closed();
    let pace = &mut |bytes: u64| {
        let rate = cleaner.config().io_max_bytes_per_second;
        let wait = cleaner.throttle.ask(bytes, rate, clock::monotonic());
        if Throttle::sleep(wait, is_over) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let mut cleaning = job.index(cleaner.limits(), pace)?;
    while let Some(cleaned) = cleaning.next(pace)? {
        if directory.clean_offset(&name).is_none() {
            directory.set_clean_offset(&name, dirt.first_dirty).map_err(io_error)?;
        }
        let swapped = partition.with_log(|log| {
            let delay_ms = log.config().file_delete_delay_ms;
            log.swap_in(cleaned).map(|deleted| (deleted, delay_ms))
        });
        let (deleted, delay_ms) = swapped.ok_or(CleanError::Aborted)??;
        let delay = Duration::from_millis(u64::try_from(delay_ms).unwrap_or(0));
        remove_later(cleaner, directory.clone(), deleted, delay);
    }
    let stats = cleaning.stats();
    let clean_up_to = cleaning.finish()?;
    directory.set_clean_offset(&name, clean_up_to).map_err(io_error)?;
    Ok(stats)
}

fn io_error(error: DirectoryError) -> CleanError {
    CleanError::Io(match error {
        DirectoryError::Io { error, .. } | DirectoryError::ReadOnly { error, .. } => error,
        error => io::Error::other(error.to_string()),
    })
}

/// Readers may still have the old files open. What is left when the process ends goes when the log is opened.
fn remove_later(cleaner: &LogCleaner, directory: Arc<LogDir>, deleted: DeletedFiles, delay: Duration) {
    cleaner.timers.spawn(async move {
        tokio::time::sleep(delay).await;
        directory.clone().run(Urgency::Background, move || {
            if let Err(error) = deleted.remove(&RealEnv) {
                tracing::warn!(directory = %directory.path().display(), %error, "old segments are not removed");
            }
        });
    });
}
