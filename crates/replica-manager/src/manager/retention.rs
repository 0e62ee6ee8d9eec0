//! Old segments go: every `log.retention.check.interval.ms` each log is asked what it no longer keeps, on its
//! directory's background thread; the files are removed `file.delete.delay.ms` later.

use std::sync::Arc;
use std::time::Duration;

use ottla_storage::{DeletedFiles, RealEnv};
use tokio::runtime::Handle;

use super::ReplicaManager;
use super::upkeep::interval;
use crate::clock;
use crate::log_dirs::LogDir;
use crate::log_io::Urgency;

impl ReplicaManager {
    /// One pass over the directory at a time: the next one waits until the last has been taken up. Each directory has
    /// its own, so that one whose disk does not answer does not keep the others from making room.
    pub(super) async fn delete_old_segments(self: Arc<Self>, directory: Arc<LogDir>) {
        let mut interval = interval(self.config.log_retention_check_interval);
        loop {
            interval.tick().await;
            if self.is_stopping() {
                return;
            }
            let (manager, owner, data) = (self.clone(), directory.clone(), Handle::current());
            let (done, finished) = tokio::sync::oneshot::channel::<()>();
            directory.run(Urgency::Background, move || {
                manager.delete_old_segments_in(&owner, &data);
                drop(done);
            });
            // It ends by being dropped, also where the directory's threads have ended.
            let _ = finished.await;
        }
    }

    fn delete_old_segments_in(&self, directory: &Arc<LogDir>, data: &Handle) {
        let now = clock::wall();
        for partition in self.partitions_in(directory) {
            if self.is_stopping() || directory.health().is_failed() {
                return;
            }
            if let Some((files, delay_ms)) = partition.delete_old_segments(now) {
                remove_later(directory, files, delay_ms, data);
            }
        }
    }
}

/// Removes files that are no part of a log any more, `delay_ms` from now. What waits when the process ends is removed
/// when the logs are opened.
pub fn remove_later(directory: &Arc<LogDir>, files: DeletedFiles, delay_ms: i64, data: &Handle) {
    let owner = directory.clone();
    let delay = Duration::from_millis(u64::try_from(delay_ms).unwrap_or(0));
    data.spawn(async move {
        tokio::time::sleep(delay).await;
        owner.clone().run(Urgency::Background, move || {
            if let Err(error) = files.remove(&RealEnv) {
                tracing::warn!(directory = %owner.path().display(), %error, "files that were deleted are not removed; the next start tries again");
            }
        });
    });
}
