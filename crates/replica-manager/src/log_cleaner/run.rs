//! One cleaning of one partition, on a thread of the cleaner.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use ottla_storage::DirectoryError;
use ottla_storage::compaction::{CleanError, CleaningStats};

use super::throttle::Throttle;
use super::{Choice, LogCleaner};
use crate::clock;
use crate::log_dirs::Log;
use crate::manager::retention::remove_later;

pub(super) fn clean(cleaner: &Arc<LogCleaner>, choice: &Choice) -> Result<CleaningStats, CleanError> {
    let Choice { partition, directory, dirt } = choice;
    let (name, now) = (partition.topic_partition(), clock::wall());
    let begin = |log: &mut Log| partition.is_in(directory).then(|| log.begin_cleaning(dirt, now)).flatten();
    let job = partition.with_log(begin).flatten().ok_or(CleanError::Aborted)?;
    let is_over = || cleaner.is_stopping() || partition.is_closed() || partition.is_moving();
    let pace = &mut |bytes: u64| {
        let rate = cleaner.config().io_max_bytes_per_second;
        let wait = cleaner.throttle.ask(bytes, rate, clock::monotonic());
        if Throttle::sleep(wait, is_over) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let mut cleaning = job.index(cleaner.limits(), pace)?;
    while let Some(cleaned) = cleaning.next(pace)? {
        if directory.clean_offset(&name).is_none() {
            let set = partition.set_clean_offset(directory, dirt.first_dirty);
            set.ok_or(CleanError::Aborted)?.map_err(io_error)?;
        }
        let swapped = partition.with_log(|log| {
            let delay_ms = log.config().file_delete_delay_ms;
            log.swap_in(cleaned).map(|deleted| (deleted, delay_ms))
        });
        let (deleted, delay_ms) = swapped.ok_or(CleanError::Aborted)??;
        // Readers may still have the old files open.
        remove_later(directory, deleted, delay_ms, &cleaner.timers);
    }
    let stats = cleaning.stats();
    let clean_up_to = cleaning.finish()?;
    partition.set_clean_offset(directory, clean_up_to).ok_or(CleanError::Aborted)?.map_err(io_error)?;
    Ok(stats)
}

fn io_error(error: DirectoryError) -> CleanError {
    CleanError::Io(match error {
        DirectoryError::Io { error, .. } | DirectoryError::ReadOnly { error, .. } => error,
        error => io::Error::other(error.to_string()),
    })
}
