//! From the tree to the partitions: which replicas this broker has, and what each of them does.

use std::path::PathBuf;
use std::sync::Arc;

use ottla_metadata::{BrokerChange, ConfigEntity, ConfigKind, Delta, Image, PartitionState, TopicImage};
use ottla_model::{BrokerEpoch, ErrorCode, MonotonicMs, Offset, TopicIdPartition, TopicName, TopicPartition};
use ottla_partition::{AbsentLog, BrokenRules, Hosting};
use ottla_storage::{DiskFault, OpenError, RealEnv};

use super::found_logs::facts_of;
use super::{DeltaState, Hosted, ReplicaManager, Unopened};
use crate::clock;
use crate::group_host::OFFSETS_TOPIC;
use crate::log_dirs::{FoundLog, LogDir};
use crate::log_io::Urgency;
use crate::partition::waiters::Wakes;
use crate::partition::{Log, Partition};
use crate::topic_settings::TopicSettings;

/// So many new logs are made at once while a delta is taken in, so that a topic can be written to when its creation is
/// announced. More go to the I/O threads: they would hold up everything else.
const CREATED_INLINE_MAX: usize = 8;

/// Logs that one job of an I/O thread makes before their followers are told: the first partitions of a large topic are in sync
/// while the last ones are made.
const CREATED_PER_JOB: usize = 64;

/// What a delta leads to, collected and then done in an order that is safe.
#[derive(Default)]
struct Work {
    /// Partitions whose role may have changed.
    changed: Vec<Arc<Partition>>,
    created: Vec<Arc<Partition>>,
    removed: Vec<Arc<Partition>>,
}

impl ReplicaManager {
    /// Takes in what changed on the way to `image`, the current one. Deltas come in the order of their revisions.
    pub fn apply(self: &Arc<Self>, image: &Arc<Image>, delta: &Delta) {
        let mut delta_state = self.delta_state.lock();
        if self.is_stopping() {
            return;
        }
        // Before the partitions: groups that are loaded with this image see its topics.
        self.groups.topics_changed(image, delta);
        let now = clock::monotonic();
        if delta_state.is_current {
            self.apply_delta(&mut delta_state, image, delta, now);
        } else if self.identity.epoch().is_known() && BrokerEpoch::from(image.revision()) >= self.identity.epoch() {
            delta_state.is_current = true;
            self.live.follow(image, self.identity.id());
            self.groups.configure(&self.live.current(), image);
            self.load_image(&mut delta_state, image, now);
        }
    }

    /// The first image that is as new as this broker's registration: everything that the tree places here.
    fn load_image(self: &Arc<Self>, delta_state: &mut DeltaState, image: &Image, now: MonotonicMs) {
        let mut work = Work::default();
        let mut hosted = Hosted::default();
        delta_state.is_loading_image = true;
        for id in image.hosted_by(self.identity.id()) {
            let Some(topic) = image.topic_by_id(id.topic_id) else { continue };
            let Some(state) = topic.partition(id.partition) else { continue };
            self.host_new(delta_state, &mut hosted, &mut work, image, &topic.name, id, state, now);
        }
        delta_state.is_loading_image = false;
        self.hosted.store(Arc::new(hosted));
        for found in delta_state.found.take_rest() {
            self.set_aside(found);
        }
        self.execute(work);
    }

    fn apply_delta(self: &Arc<Self>, delta_state: &mut DeltaState, image: &Image, delta: &Delta, now: MonotonicMs) {
        let local = self.identity.id();
        let mut work = Work::default();
        // Before the topics that come with it.
        let own = [ConfigEntity::broker(local), ConfigEntity::default_broker()];
        if delta.configs.iter().any(|entity| own.contains(entity)) && self.live.follow(image, local) {
            self.configure_all(delta_state, image, now);
            self.context.cleaner.reconfigured();
            self.groups.configure(&self.live.current(), image);
        }
        if delta.configs.iter().any(|entity| entity.kind == ConfigKind::Groups) {
            self.groups.configure(&self.live.current(), image);
        }
        let mut wakes = Wakes::default();
        let mut hosted: Hosted = (**self.hosted.load()).clone();
        // What goes gives its name free first: a topic that was deleted and made again is in one delta.
        for change in &delta.partitions {
            if change.new.as_ref().is_some_and(|state| state.is_replica(local)) {
                continue;
            }
            let id = TopicIdPartition { topic_id: change.topic_id, partition: change.partition };
            if let Some(partition) = hosted.partitions.remove(&id) {
                work.removed.push(partition);
            }
        }
        for topic in &delta.topics_deleted {
            delta_state.settings.remove(&topic.name);
            if hosted.topics.get(&topic.name) == Some(&topic.id) {
                hosted.topics.remove(&topic.name);
            }
        }
        for change in &delta.partitions {
            let Some(state) = change.new.as_ref().filter(|state| state.is_replica(local)) else { continue };
            let id = TopicIdPartition { topic_id: change.topic_id, partition: change.partition };
            match hosted.partitions.get(&id) {
                Some(partition) if partition.is_held_up() => self.assume_later(partition, state),
                Some(partition) => {
                    self.counting_leaders(partition, || partition.assume(state, now, &mut wakes));
                    work.changed.push(partition.clone());
                    self.reconsider(&mut work, partition, state);
                }
                None => self.host_new(delta_state, &mut hosted, &mut work, image, &change.topic, id, state, now),
            }
        }
        if !work.removed.is_empty() || !work.created.is_empty() {
            self.hosted.store(Arc::new(hosted));
        }
        drop(wakes);
        self.execute(work);
        for entity in &delta.configs {
            self.configure(delta_state, image, entity, now);
        }
        for change in &delta.brokers {
            self.broker_changed(image, change, now);
        }
    }

    /// The partition's lock may be held until its disk answers: nobody waits for it here.
    fn assume_later(self: &Arc<Self>, partition: &Arc<Partition>, state: &Arc<PartitionState>) {
        let (manager, partition, state) = (self.clone(), partition.clone(), state.clone());
        let owner = partition.directory();
        owner.run(Urgency::Urgent, move || {
            let mut wakes = Wakes::default();
            manager.counting_leaders(&partition, || partition.assume(&state, clock::monotonic(), &mut wakes));
            drop(wakes);
            manager.fetchers.update([&partition]);
        });
    }

    /// A replica that had no place here: takes the log that the disk held, or gets a new one.
    #[expect(clippy::too_many_arguments, reason = "the body of two loops")]
    fn host_new(
        self: &Arc<Self>,
        delta_state: &mut DeltaState,
        hosted: &mut Hosted,
        work: &mut Work,
        image: &Image,
        topic: &TopicName,
        id: TopicIdPartition,
        state: &Arc<PartitionState>,
        now: MonotonicMs,
    ) {
        let settings = delta_state
            .settings
            .entry(topic.clone())
            .or_insert_with(|| Arc::new(self.settings_of(&image.topic_overrides(topic.as_str()))))
            .clone();
        let name = TopicPartition::new(topic.clone(), id.partition);
        let claimed = delta_state.found.claim(&name, id.topic_id);
        // Of the name's former topic (KIP-516, scenario 11), or older copies of this one.
        claimed.others.into_iter().for_each(|other| self.set_aside(other));
        let absent = self.absent_log(delta_state);
        let decision = self.decide(state, claimed.log.as_ref(), absent);
        let directory = match (&claimed.log, decision) {
            (Some(found), Hosting::Take | Hosting::StayOffline) => Some(found.directory.clone()),
            (None, Hosting::StayOffline) if absent == AbsentLog::DirectoryMissing => self.log_dirs.missing().cloned(),
            _ => self.directory_for_new_log(),
        };
        let Some(directory) = directory else {
            tracing::error!(partition = %name, "no log directory is left for a new partition");
            return;
        };
        let high_watermark = match (&claimed.log, decision) {
            (Some(found), Hosting::Take) => found.high_watermark,
            _ => Offset::ZERO,
        };
        let partition = self.new_partition(topic, id, &directory, settings.clone(), high_watermark);
        let mut wakes = Wakes::default();
        partition.assume(state, now, &mut wakes);
        match (decision, claimed.log) {
            (Hosting::Take, Some(found)) => {
                self.counting_leaders(&partition, || open_found(&partition, found, &settings, now));
                work.changed.push(partition.clone());
            }
            (Hosting::StayOffline, found) => {
                partition.log_failed();
                self.unopened.lock().push(Unopened { partition: partition.clone(), found, absent });
                self.context.storage_failed.notify_one();
            }
            (Hosting::Take | Hosting::StartOver, found) => {
                found.into_iter().for_each(|found| self.set_aside(found));
                work.created.push(partition.clone());
            }
        }
        hosted.insert(partition);
    }

    fn decide(&self, state: &PartitionState, found: Option<&FoundLog>, absent: AbsentLog) -> Hosting {
        let (local, epoch) = (self.identity.id(), self.identity.epoch());
        ottla_partition::host(local, epoch, state, found.map(facts_of), absent, BrokenRules::default())
    }

    /// Why a replica may have no log here.
    fn absent_log(&self, delta_state: &DeltaState) -> AbsentLog {
        if !delta_state.is_loading_image {
            // It was placed here while this process runs.
            AbsentLog::NeverMade
        } else if self.log_dirs.missing().is_some() {
            AbsentLog::DirectoryMissing
        } else if self.log_dirs.has_replaced() {
            AbsentLog::DirectoryReplaced
        } else {
            AbsentLog::NeverMade
        }
    }

    fn directory_for_new_log(&self) -> Option<Arc<LogDir>> {
        let config = self.live.current();
        let cordoned: Vec<&str> = config.properties.text("cordoned.log.dirs").unwrap_or_default().split(',').collect();
        self.log_dirs.least_used(&cordoned).cloned()
    }

    /// A replica without an open log has a new state: it may start over now.
    fn reconsider(&self, work: &mut Work, partition: &Arc<Partition>, state: &PartitionState) {
        let mut unopened = self.unopened.lock();
        let Some(place) = unopened.iter().position(|unopened| Arc::ptr_eq(&unopened.partition, partition)) else {
            return;
        };
        let Some(known) = unopened.get(place) else { return };
        if self.decide(state, known.found.as_ref(), known.absent) != Hosting::StartOver
            || known.absent == AbsentLog::DirectoryMissing
        {
            return;
        }
        let known = unopened.swap_remove(place);
        tracing::warn!(partition = %partition.name(), "the quorum does not count on this replica any more: it starts over");
        known.found.into_iter().for_each(|found| self.set_aside(found));
        partition.begin_opening();
        work.created.push(partition.clone());
    }

    fn new_partition(
        &self,
        topic: &TopicName,
        id: TopicIdPartition,
        directory: &Arc<LogDir>,
        settings: Arc<TopicSettings>,
        high_watermark: Offset,
    ) -> Arc<Partition> {
        directory.place();
        self.telemetry.partitions.add(1);
        let partition =
            Partition::new(topic.clone(), id, self.context.clone(), directory.clone(), settings, high_watermark);
        if topic.as_str() == OFFSETS_TOPIC {
            self.groups.host(&partition);
        }
        partition
    }

    fn execute(self: &Arc<Self>, work: Work) {
        if !work.removed.is_empty() {
            self.remove(&work.removed);
        }
        self.fetchers.update(work.removed.iter().chain(&work.changed));
        let all_idle = work.created.iter().all(|partition| partition.directory().is_idle());
        if work.created.len() <= CREATED_INLINE_MAX && all_idle {
            self.create_logs(&work.created);
            return;
        }
        // Those that lead first: nobody can use a partition whose leader has no log.
        let (leading, following): (Vec<_>, Vec<_>) =
            work.created.into_iter().partition(|partition| partition.assigned_leader() == self.identity.id());
        for directory in self.log_dirs.all() {
            let here = |partition: &&Arc<Partition>| partition.is_in(directory);
            let created: Vec<_> = leading.iter().chain(&following).filter(here).cloned().collect();
            for chunk in created.chunks(CREATED_PER_JOB) {
                let (manager, chunk) = (self.clone(), chunk.to_vec());
                directory.run(Urgency::Urgent, move || manager.create_logs(&chunk));
            }
        }
    }

    /// Makes the logs of new partitions. Waits for the disk, briefly.
    pub(super) fn create_logs(&self, partitions: &[Arc<Partition>]) {
        for partition in partitions {
            self.counting_leaders(partition, || self.create_log(partition));
        }
        self.fetchers.update(partitions);
    }

    fn create_log(&self, partition: &Arc<Partition>) {
        if partition.is_closed() {
            return;
        }
        let (name, owner) = (partition.topic_partition(), partition.directory());
        let path = owner.partition_path(&name);
        let config = partition.settings().log.clone();
        let created = Log::create(RealEnv, path, name, partition.id().topic_id, config, clock::wall());
        match created {
            Ok(log) => partition.log_opened(Box::new(log), clock::monotonic()),
            Err(error) => {
                tracing::error!(partition = %partition.name(), %error, "a log is not created");
                partition.log_failed();
                let cause = if let OpenError::Io { error, .. } = &error { Some(error) } else { None };
                if self.context.directory_refused(&owner, &error, cause) != DiskFault::Failed {
                    self.uncreated.lock().push(partition.clone());
                }
            }
        }
    }

    /// Ends replicas: their directories are renamed at once (before new ones may take the names) and removed later.
    fn remove(&self, removed: &[Arc<Partition>]) {
        for partition in removed {
            let ending = partition.clone();
            let end = move || {
                if let Some(mut log) = ending.close(ErrorCode::NotLeaderOrFollower) {
                    log.abandon();
                }
            };
            let owner = partition.directory();
            if partition.is_held_up() {
                // Its lock may be held until the disk answers.
                owner.run(Urgency::Urgent, end);
            } else {
                self.counting_leaders(partition, end);
            }
            self.groups.unhost(partition);
            self.telemetry.partitions.add(-1);
            self.context.cleaner.forget(partition.id());
            partition.directory().unplace();
        }
        for directory in self.log_dirs.all() {
            let here = |partition: &&Arc<Partition>| partition.is_in(directory);
            let names: Vec<_> = removed.iter().filter(here).map(|partition| partition.topic_partition()).collect();
            if names.is_empty() {
                continue;
            }
            let (owner, host) = (directory.clone(), self.context.clone());
            directory.run(Urgency::Urgent, move || match owner.mark_deleted(&names) {
                Ok(paths) => {
                    let remover = owner.clone();
                    owner.run(Urgency::Background, move || remove_directories(&remover, &paths));
                }
                Err(error) => {
                    host.directory_refused(&owner, &error, error.io());
                }
            });
        }
    }

    /// A directory of a topic that the cluster does not have: kept under another name, for people to look at.
    pub(super) fn set_aside(&self, found: FoundLog) {
        tracing::warn!(
            partition = %found.partition, topic_id = ?found.topic_id, directory = %found.directory.path().display(),
            damaged = found.is_damaged, "not a log of a topic of this cluster, or a damaged one: its directory is set aside as -stray"
        );
        let owner = found.directory.clone();
        let (name, log) = (found.partition, found.log);
        found.directory.run(Urgency::Urgent, move || {
            if let Some(mut log) = log {
                log.abandon();
            }
            if let Err(error) = owner.mark_stray(&name) {
                tracing::error!(partition = %name, %error, "a stray directory is not set aside");
            }
        });
    }

    fn configure(
        self: &Arc<Self>,
        delta_state: &mut DeltaState,
        image: &Image,
        entity: &ConfigEntity,
        now: MonotonicMs,
    ) {
        if entity.kind != ConfigKind::Topics {
            return;
        }
        let Some(topic) = image.topic(&entity.name).filter(|topic| delta_state.settings.contains_key(&topic.name))
        else {
            return;
        };
        self.configure_topic(delta_state, image, topic, now);
    }

    /// What holds where topics set nothing has changed: every topic here is judged anew.
    fn configure_all(self: &Arc<Self>, delta_state: &mut DeltaState, image: &Image, now: MonotonicMs) {
        for name in delta_state.settings.keys().cloned().collect::<Vec<_>>() {
            match image.topic(name.as_str()) {
                Some(topic) => self.configure_topic(delta_state, image, topic, now),
                None => {
                    delta_state.settings.remove(&name);
                }
            }
        }
    }

    fn configure_topic(
        self: &Arc<Self>,
        delta_state: &mut DeltaState,
        image: &Image,
        topic: &TopicImage,
        now: MonotonicMs,
    ) {
        let settings = Arc::new(self.settings_of(&image.topic_overrides(topic.name.as_str())));
        delta_state.settings.insert(topic.name.clone(), settings.clone());
        let mut wakes = Wakes::default();
        for (partition, _) in topic.partitions() {
            if let Some(partition) = self.partition(TopicIdPartition { topic_id: topic.id, partition }) {
                partition.set_settings(settings.clone(), now, &mut wakes);
            }
        }
    }

    fn broker_changed(&self, image: &Image, change: &BrokerChange, now: MonotonicMs) {
        let Some(new) = change.new.as_ref().filter(|_| change.id != self.identity.id()) else { return };
        let is_other = change
            .old
            .as_ref()
            .is_none_or(|old| old.epoch != new.epoch || old.inter_broker_endpoint() != new.inter_broker_endpoint());
        if is_other {
            self.fetchers.reconnect(change.id);
        }
        let became_active =
            new.is_active() && change.old.as_ref().is_none_or(|old| old.epoch != new.epoch || !old.is_active());
        if became_active {
            // Its replicas may have caught up while they were not eligible, and say nothing more.
            for id in image.hosted_by(change.id) {
                if let Some(partition) = self.partition(id).filter(|partition| partition.leads()) {
                    partition.tick(now);
                }
            }
        }
    }

    fn counting_leaders<T>(&self, partition: &Partition, change: impl FnOnce() -> T) -> T {
        let before = partition.leads();
        let result = change();
        self.telemetry.leader_partitions.add(i64::from(partition.leads()) - i64::from(before));
        result
    }
}

fn remove_directories(directory: &LogDir, paths: &[PathBuf]) {
    for path in paths {
        if let Err(error) = directory.remove(path) {
            tracing::warn!(%error, "a deleted partition is not removed; the next start tries again");
        }
    }
}

fn open_found(partition: &Arc<Partition>, found: FoundLog, settings: &TopicSettings, now: MonotonicMs) {
    let Some(mut log) = found.log else {
        partition.log_failed();
        return;
    };
    log.set_config(settings.log.clone());
    if found.topic_id.is_none()
        && let Err(error) = log.set_topic_id(partition.id().topic_id)
    {
        tracing::error!(partition = %partition.name(), %error, "the log does not take its topic's id");
        partition.log_failed();
        return;
    }
    partition.log_opened(log, now);
}
