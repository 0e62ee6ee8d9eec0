//! Log directories that stall, fail or are full: their leaderships and places in ISRs are given up; a failed one is
//! left for the rest of the process's life.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::TopicIdPartition;
use ottla_partition::{BrokenRules, DirectoryState, Impairment, ReopeningPause, places_to_give_up};

use super::ReplicaManager;
use super::upkeep::{WATCH_INTERVAL, interval};
use crate::log_dirs::LogDir;
use crate::log_io::{DirectoryHealth, StallWatch, Urgency};
use crate::partition::Partition;

/// Looks in a row, a write under way and none finished, before a directory's leaderships are given up: a disk that is
/// only busy answers within seconds, and clients wait for each of them.
const STALLED_LOOKS: u32 = 4;

impl ReplicaManager {
    /// Gives up leaderships where the disk does not answer, and takes directories whose disk failed out of use.
    pub(super) async fn watch_directories(self: Arc<Self>) {
        let mut watches: HashMap<PathBuf, StallWatch> = HashMap::new();
        let mut reopenings: HashMap<PathBuf, ReopeningPause> = HashMap::new();
        let mut interval = interval(WATCH_INTERVAL);
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.context.storage_failed.notified() => {}
            }
            if self.is_stopping() {
                return;
            }
            self.give_up_unopened().await;
            self.open_waiting_logs();
            for directory in self.log_dirs.all() {
                if directory.health().is_failed() {
                    self.leave_failed(directory).await;
                    self.give_up_impaired(directory, false).await;
                    continue;
                }
                let looks = watches.entry(directory.path().clone()).or_default().look(directory.health());
                // First, so that deltas about its partitions do not wait for the disk.
                directory.health().set_stalled(looks >= STALLED_LOOKS);
                // The quorum is asked again only as often as that.
                let gives_up = looks >= STALLED_LOOKS && looks.is_multiple_of(STALLED_LOOKS);
                if gives_up {
                    tracing::error!(
                        directory = %directory.path().display(), seconds = looks,
                        "the log directory does not answer: its leaderships are given up"
                    );
                }
                self.give_up_impaired(directory, gives_up).await;
                if !directory.health().is_stalled() {
                    self.reopen_logs(directory, reopenings.entry(directory.path().clone()).or_default());
                }
            }
            self.show_directories();
            if self.log_dirs.all_failed() {
                self.last_directory_failed.notify_one();
            }
        }
    }

    async fn leave_failed(self: &Arc<Self>, directory: &Arc<LogDir>) {
        let (manager, owner) = (self.clone(), directory.clone());
        // On a thread that may wait: a write that does not come back holds its partition's lock.
        let left = tokio::task::spawn_blocking(move || {
            manager.log_dirs.distrust_registration();
            let partitions = manager.partitions_in(&owner);
            if partitions.iter().filter(|partition| partition.fail_if_open()).count() > 0 {
                manager.metrics.leader_partitions.set(manager.count_leaders());
            }
            manager.fetchers.update(&partitions);
        });
        // The quorum is asked for other leaders even if this has not finished.
        let _ = tokio::time::timeout(WATCH_INTERVAL, left).await;
    }

    /// Gives up the places of replicas that the directory's disk keeps from serving.
    async fn give_up_impaired(&self, directory: &Arc<LogDir>, is_stalled: bool) {
        let health = directory.health();
        let state = DirectoryState { is_failed: health.is_failed(), is_full: health.is_full(), is_stalled };
        if state == DirectoryState::default() {
            return;
        }
        let partitions = self.partitions_in(directory);
        for impairment in [Impairment::Unreadable, Impairment::Unwritable] {
            let is_impaired =
                |partition: &&Arc<Partition>| state.impairment(partition.is_out_of_room()) == Some(impairment);
            self.give_up(partitions.iter().filter(is_impaired).map(|partition| partition.id()).collect(), impairment)
                .await;
        }
    }

    fn show_directories(&self) {
        let count = |is: fn(&DirectoryHealth) -> bool| {
            let directories = self.log_dirs.all().iter().filter(|directory| is(directory.health()));
            i64::try_from(directories.count()).unwrap_or(i64::MAX)
        };
        self.metrics.log_directories_offline.set(count(DirectoryHealth::is_failed));
        self.metrics.log_directories_full.set(count(DirectoryHealth::is_full));
        self.metrics.log_directories_stalled.set(count(DirectoryHealth::is_stalled));
    }

    /// Completes when no log directory works any more: the broker has nothing left to serve from.
    pub async fn last_directory_failed(&self) {
        self.last_directory_failed.notified().await;
    }

    /// Tries again to open the logs for which a disk had no room.
    fn open_waiting_logs(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut *self.waiting_logs.lock());
        for partition in waiting.into_iter().filter(|partition| !partition.is_closed()) {
            let manager = self.clone();
            partition.directory().run(Urgency::Urgent, move || manager.create_logs(&[partition]));
        }
    }

    fn count_leaders(&self) -> i64 {
        i64::try_from(self.partitions().iter().filter(|partition| partition.leads()).count()).unwrap_or(i64::MAX)
    }

    /// Gives up the places of replicas whose logs were not opened, or are lost.
    async fn give_up_unopened(self: &Arc<Self>) {
        for impairment in [Impairment::Lost, Impairment::Unreadable, Impairment::Unwritable] {
            let impaired = self.replicas.lock().impaired(impairment);
            self.give_up(impaired, impairment).await;
        }
        if !self.has_unclaimed.swap(false, Ordering::AcqRel) {
            return;
        }
        // On a thread that may wait: the others' disks are watched meanwhile.
        let manager = self.clone();
        let claiming = tokio::task::spawn_blocking(move || {
            let is_left = manager.claim_replaced_directories();
            manager.has_unclaimed.store(is_left, Ordering::Release);
        });
        let _ = tokio::time::timeout(WATCH_INTERVAL, claiming).await;
    }

    /// Claims replaced directories once the quorum no longer counts on the logs that were lost with them. Returns
    /// whether one is left. Waits for the disk.
    fn claim_replaced_directories(&self) -> bool {
        if !self.log_dirs.has_replaced() {
            return false;
        }
        if !self.replicas.lock().may_claim_replaced() {
            return true;
        }
        let Some(meta) = self.log_dirs.meta().ok().flatten() else { return true };
        let Some(cluster_id) = &meta.cluster_id else { return true };
        match self.log_dirs.claim_replaced(meta.broker_id, cluster_id) {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(%error, "a replaced log directory is not claimed yet");
                true
            }
        }
    }

    /// Asks the quorum not to count on these partitions' replicas here, each for the reason that [`places_to_give_up`]
    /// finds; asked again by the next look, until the image shows it.
    async fn give_up(&self, partitions: Vec<TopicIdPartition>, impairment: Impairment) {
        let image = self.metadata.current();
        let (local, rules) = (self.identity.id(), BrokenRules::default());
        let Some((reason, given)) = places_to_give_up(local, &image, partitions, impairment, rules) else { return };
        let count = given.len();
        match self.quorum.resign_leadership(given, reason).await {
            Ok(_) => tracing::warn!(partitions = count, ?reason, "left ISRs because of a log directory"),
            Err(error) => {
                tracing::warn!(
                    partitions = count, ?reason, %error,
                    "did not leave ISRs yet, although a log directory stalls or failed"
                )
            }
        }
    }
}
