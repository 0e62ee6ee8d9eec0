//! Logs that were found at the start and could not be opened, because their disk had no room or the process no
//! descriptor: they are opened again, and their replicas take up the roles that the tree has for them (scenario 43).

use std::collections::VecDeque;
use std::sync::Arc;

use ottla_model::TopicIdPartition;
use ottla_partition::DirectoryWatch;

use super::ReplicaManager;
use crate::log_dirs::LogDir;
use crate::log_dirs::opening::open_again;
use crate::log_io::Urgency;

impl ReplicaManager {
    /// Tries again to open the logs of a directory that await room, if it is time.
    pub(super) fn reopen_logs(self: &Arc<Self>, directory: &Arc<LogDir>, watch: &mut DirectoryWatch) {
        // The last try is still under way.
        if !directory.is_idle() {
            return;
        }
        let awaiting: VecDeque<TopicIdPartition> = {
            let replicas = self.replicas.lock();
            let here = replicas.awaiting_room().filter(|(_, found)| Arc::ptr_eq(&found.directory, directory));
            here.map(|(id, _)| id).collect()
        };
        if watch.reopens(awaiting.len()) {
            self.reopen_next(directory, awaiting);
        }
    }

    /// Opens the first log again, and goes on with the others if there was room for it. On the urgent thread: it also
    /// renames the directories of replicas that leave, and a log must not be opened while that happens. One log a job:
    /// other urgent work comes in between.
    fn reopen_next(self: &Arc<Self>, directory: &Arc<LogDir>, mut awaiting: VecDeque<TopicIdPartition>) {
        let Some(id) = awaiting.pop_front() else { return };
        let (manager, owner) = (self.clone(), directory.clone());
        directory.run(Urgency::Urgent, move || {
            if !manager.is_stopping() && manager.reopen(&owner, id) {
                manager.reopen_next(&owner, awaiting);
            }
        });
    }

    /// Opens one log again. Whether the next one may be tried. Waits for the disk.
    fn reopen(&self, directory: &Arc<LogDir>, id: TopicIdPartition) -> bool {
        let place = {
            let replicas = self.replicas.lock();
            replicas.unopened(&id).map(|found| found.place(directory))
        };
        let partition = self.partition(id).filter(|partition| !partition.is_closed());
        let (Some(place), Some(partition)) = (place, partition) else { return true };
        let log = open_again(&place, directory, &partition.settings().log);
        let awaits_room = log.awaits_room;
        let opened = self.replicas.lock().opened_again(&id, log);
        if let Some(found) = opened {
            directory.health().has_room();
            self.open_log(&partition, found.log);
            self.update_fetchers([&partition]);
        }
        !awaits_room
    }
}
