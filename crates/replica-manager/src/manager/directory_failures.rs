//! Log directories that stall, fail or are full: their leaderships and places in ISRs are given up; a failed one is
//! left for the rest of the process's life.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::TopicIdPartition;
use ottla_partition::{BrokenRules, DirectoryLook, DirectoryWatch, Impairment, WATCH_INTERVAL, places_to_give_up};
use ottla_storage::DirectoryHealth;

use super::ReplicaManager;
use super::upkeep::interval;
use crate::log_dirs::LogDir;
use crate::log_io::{OneThread, Urgency};

impl ReplicaManager {
    /// Looks at the directories now and then, and when a write failed ([`ottla_partition::upkeep`]).
    pub(super) async fn watch_directories(self: Arc<Self>) {
        let mut watches: Vec<DirectoryWatch> = self.log_dirs.all().iter().map(|_| DirectoryWatch::default()).collect();
        let mut leaving: Vec<_> = self.log_dirs.all().iter().map(|_| OneThread::default()).collect();
        let mut interval = interval(WATCH_INTERVAL);
        loop {
            let is_due = tokio::select! {
                _ = interval.tick() => true,
                () = self.context.storage_failed.notified() => false,
            };
            if self.is_stopping() {
                return;
            }
            self.give_up_unopened().await;
            if is_due {
                self.open_waiting_logs();
            }
            for ((directory, watch), leaving) in self.log_dirs.all().iter().zip(&mut watches).zip(&mut leaving) {
                let look = watch.look(directory.health(), is_due, BrokenRules::default());
                if look.is_failed {
                    self.leave_failed(directory, leaving).await;
                }
                if let Some(seconds) = look.stalled_looks {
                    tracing::error!(
                        directory = %directory.path().display(), seconds,
                        "the log directory does not answer: its leaderships are given up"
                    );
                }
                self.give_up_impaired(directory, look).await;
                if look.may_reopen {
                    self.reopen_logs(directory, watch);
                }
            }
            self.show_directories();
            if self.log_dirs.all_failed() {
                self.last_directory_failed.notify_one();
            }
        }
    }

    async fn leave_failed(self: &Arc<Self>, directory: &Arc<LogDir>, leaving: &mut OneThread) {
        let (manager, owner) = (self.clone(), directory.clone());
        // On a thread that may wait: a write that does not come back holds its partition's lock. Others are asked to
        // lead in any case.
        let leave = move || {
            manager.log_dirs.distrust_registration();
            let partitions = manager.partitions_in(&owner);
            if partitions.iter().filter(|partition| partition.directory_failed()).count() > 0 {
                manager.metrics.leader_partitions.set(manager.count_leaders());
            }
            manager.update_fetchers(&partitions);
        };
        leaving.run(WATCH_INTERVAL, leave).await;
    }

    /// Gives up the places of replicas that the directory's disk keeps from serving.
    async fn give_up_impaired(&self, directory: &Arc<LogDir>, look: DirectoryLook) {
        if !look.is_impaired() {
            return;
        }
        let partitions = self.partitions_in(directory);
        let replicas = partitions.iter().map(|partition| (partition.id(), partition.is_out_of_room()));
        for (impairment, replicas) in look.impaired(replicas) {
            self.give_up(replicas, impairment).await;
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
        for impairment in Impairment::ALL {
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
