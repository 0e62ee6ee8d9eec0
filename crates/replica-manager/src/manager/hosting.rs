//! From the tree to the partitions: which replicas this broker has, and what each of them does.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ottla_metadata::broker_config::CordonedLogDirs;
use ottla_metadata::{BrokerChange, ConfigEntity, ConfigKind, Delta, Image, PartitionState, TopicImage};
use ottla_model::{BrokerId, ErrorCode, MonotonicMs, Offset, TopicIdPartition, TopicName};
use ottla_partition::{BrokenRules, BrokerNews, Errand, Fate, Local, LogLocation, Place, Placement};
use ottla_resources::giving_way::give_way;

use super::hosted_partitions::HostedPartitions;
use super::upkeep::PARTITIONS_PER_TURN;
use super::{DeltaState, ReplicaManager};
use crate::clock;
use crate::log_dirs::{FoundLog, Log, LogDir};
use crate::log_io::{self, Urgency};
use crate::partition::Partition;
use crate::partition::touched::Pass;
use crate::partition::waiters::Wakes;
use crate::topic_settings::TopicSettings;

/// Up to this many new logs are made before the delta is announced, so that a topic can be written to when its creation
/// is announced. More of them would delay every other partition.
const CREATED_AT_ONCE_MAX: usize = 8;
/// How long a delta waits for its new logs: far longer than a disk that answers takes. Nothing else waits for one that
/// does not.
const CREATION_PATIENCE: Duration = Duration::from_millis(500);

/// How often leaders are looked at for writes that wait for a broker which has left, while it is in an ISR.
const LOOK_FOR_WAITING_EVERY: Duration = Duration::from_millis(100);
/// By then the quorum has taken the broker out of a hundred thousand ISRs, or it is the last member of some.
const LOOKS_FOR_WAITING_MAX: usize = 30;

/// So many followers get their fetchers before a delta is announced. More of them come only with the image of a start:
/// the broker may serve before it follows.
const FETCHERS_AT_ONCE_MAX: usize = 2_000;

/// Fewer logs that were found are not worth a thread of their own.
const FOUND_PER_THREAD_MIN: usize = 2_000;

/// Logs that one job of an I/O thread makes before their followers are told: the first partitions of a large topic are
/// in sync while the last ones are made.
const CREATED_PER_JOB: usize = 64;

/// What a delta leads to, collected and then done in an order that is safe.
#[derive(Default)]
struct Work {
    /// Partitions whose role may have changed.
    changed: Vec<Arc<Partition>>,
    created: Vec<Arc<Partition>>,
    /// Partitions that take the logs which the directories held.
    found: Vec<(Arc<Partition>, Option<Box<Log>>)>,
    removed: Vec<(Arc<Partition>, Fate)>,
}

impl ReplicaManager {
    /// Takes in what changed on the way to `image`, the current one. Deltas come in the order of their revisions.
    pub fn apply(self: &Arc<Self>, image: &Arc<Image>, delta: &Delta) {
        let mut delta_state = self.delta_state.lock();
        if self.is_stopping() {
            return;
        }
        self.coordinators.image_moved(image, delta);
        let now = clock::monotonic();
        let local = Local {
            id: self.identity.id(),
            epoch: self.identity.epoch(),
            last_epoch: delta_state.last_run.registered,
            absent: self.log_dirs.absent_log(),
            rules: BrokenRules::default(),
        };
        let (was_current, loads) = {
            let replicas = self.replicas.lock();
            (replicas.is_current(), replicas.loads(local.epoch, image))
        };
        if loads {
            self.live.follow(image, local.id);
            self.coordinators.configured(&self.live.current(), image);
        } else if was_current {
            // Before the topics that come with it.
            self.configure_broker(&mut delta_state, image, delta, now);
        }
        let placed = self.replicas.lock().image_moved(&local, image, delta);
        self.place(&mut delta_state, image, &delta.topics_deleted, placed, now);
        if was_current {
            for entity in &delta.configs {
                self.configure(&mut delta_state, image, entity, now);
            }
            for change in &delta.brokers {
                self.broker_changed(image, change, now);
            }
        }
    }

    /// Configurations of this broker, of all brokers and of groups.
    fn configure_broker(
        self: &Arc<Self>,
        delta_state: &mut DeltaState,
        image: &Image,
        delta: &Delta,
        now: MonotonicMs,
    ) {
        let own = [ConfigEntity::broker(self.identity.id()), ConfigEntity::default_broker()];
        if delta.configs.iter().any(|entity| own.contains(entity)) && self.live.follow(image, self.identity.id()) {
            self.configure_all(delta_state, image, now);
            self.context.cleaner.reconfigured();
            self.coordinators.configured(&self.live.current(), image);
        }
        if delta.configs.iter().any(|entity| entity.kind == ConfigKind::Groups) {
            self.coordinators.configured(&self.live.current(), image);
        }
        for topic in &delta.topics_deleted {
            delta_state.settings.remove(&topic.name);
        }
    }

    /// Carries out what the image means for the replicas here.
    fn place(
        self: &Arc<Self>,
        delta_state: &mut DeltaState,
        image: &Image,
        deleted: &[Arc<TopicImage>],
        placed: Vec<Placement<FoundLog>>,
        now: MonotonicMs,
    ) {
        let mut work = Work::default();
        let mut wakes = Wakes::default();
        let mut hosted: HostedPartitions = (**self.hosted.load()).clone();
        let mut new = Vec::new();
        for topic in deleted {
            if hosted.topics.get(&topic.name) == Some(&topic.id) {
                hosted.topics.remove(&topic.name);
            }
        }
        for placement in placed {
            match placement {
                Placement::Remove { id, fate } => {
                    work.removed.extend(hosted.partitions.remove(&id).map(|partition| (partition, fate)));
                }
                Placement::SetAside(found) => self.set_aside(found),
                Placement::Discard(found) => self.discard(found),
                Placement::Assume { id, state } => {
                    let Some(partition) = hosted.partitions.get(&id) else { continue };
                    if partition.goes_later(Errand::Image) {
                        self.assume_later(partition, &state);
                    } else {
                        self.counting_leaders(partition, || partition.assume(&state, now, &mut wakes));
                        work.changed.push(partition.clone());
                    }
                }
                Placement::StartOver(id) => {
                    let Some(partition) = hosted.partitions.get(&id) else { continue };
                    tracing::warn!(
                        partition = %partition.name(),
                        "creating a new log: the replica is neither in the ISR nor in the ELR"
                    );
                    if partition.goes_later(Errand::Image) {
                        // Before the job that makes the log: nobody waits for its lock here.
                        let opening = partition.clone();
                        partition.directory().run(Urgency::Urgent, move || opening.begin_opening());
                    } else {
                        partition.begin_opening();
                    }
                    work.created.push(partition.clone());
                }
                Placement::Place { id, topic, state, log } => {
                    let settings = self.topic_settings(delta_state, image, &topic);
                    if let Some(partition) = self.place_new(&mut work, &topic, id, &state, log, settings, now) {
                        hosted.insert(partition.clone());
                        new.push(partition);
                    }
                }
            }
        }
        self.open_found(std::mem::take(&mut work.found));
        let was_loaded = std::mem::replace(&mut hosted.is_loaded, self.replicas.lock().is_current());
        if !new.is_empty() || !work.removed.is_empty() || hosted.is_loaded != was_loaded {
            self.hosted.store(Arc::new(hosted));
        }
        new.iter().for_each(|partition| partition.can_be_found());
        drop(wakes);
        self.execute(work);
    }

    fn topic_settings(&self, delta_state: &mut DeltaState, image: &Image, topic: &TopicName) -> Arc<TopicSettings> {
        let make = || Arc::new(self.settings_of(&image.topic_overrides(topic.as_str())));
        delta_state.settings.entry(topic.clone()).or_insert_with(make).clone()
    }

    /// The partition's lock may be held until its disk answers: nobody waits for it here.
    fn assume_later(self: &Arc<Self>, partition: &Arc<Partition>, state: &Arc<PartitionState>) {
        let (manager, partition, state) = (self.clone(), partition.clone(), state.clone());
        let owner = partition.directory();
        owner.run(Urgency::Urgent, move || {
            let mut wakes = Wakes::default();
            manager.counting_leaders(&partition, || partition.assume(&state, clock::monotonic(), &mut wakes));
            drop(wakes);
            manager.update_fetchers([&partition]);
        });
    }

    /// A replica that had no place here: takes the log that the disk held, or gets a new one.
    #[expect(clippy::too_many_arguments, reason = "the body of a loop")]
    fn place_new(
        self: &Arc<Self>,
        work: &mut Work,
        topic: &TopicName,
        id: TopicIdPartition,
        state: &Arc<PartitionState>,
        log: Place<FoundLog>,
        settings: Arc<TopicSettings>,
        now: MonotonicMs,
    ) -> Option<Arc<Partition>> {
        // Before the replicas' lock: a directory that is being claimed may wait for its disk.
        let missing = if matches!(log, Place::Offline(_)) { self.log_dirs.missing().cloned() } else { None };
        let least_used = || self.directory_for_new_log();
        let LogLocation { directory, high_watermark } = self.replicas.lock().locate(&id, &log, || missing, least_used);
        let Some(directory) = directory else {
            tracing::error!(%topic, partition = %id.partition, "no log directory is left for a new partition");
            return None;
        };
        let partition = self.new_partition(topic, id, &directory, settings.clone(), high_watermark);
        let mut wakes = Wakes::default();
        partition.assume(state, now, &mut wakes);
        match log {
            // It is given its topic's id, durably: nobody waits for that disk here.
            Place::Found(found) if found.log.as_ref().is_none_or(|log| log.topic_id().is_none()) => {
                let (manager, opening) = (self.clone(), partition.clone());
                directory.run(Urgency::Urgent, move || {
                    if !opening.is_closed() {
                        manager.open_log(&opening, found.log);
                        manager.update_fetchers([&opening]);
                    }
                });
            }
            Place::Found(found) => {
                work.found.push((partition.clone(), found.log));
                work.changed.push(partition.clone());
            }
            Place::New => work.created.push(partition.clone()),
            Place::Offline(_) => {
                if self.replicas.lock().is_undecided(id) {
                    tracing::error!(
                        partition = partition.name(),
                        "several log directories hold a log of this partition, and one of the logs cannot be opened now: \
                         make room, and start the broker again"
                    );
                }
                partition.log_failed();
                self.context.storage_failed.notify_one();
            }
        }
        Some(partition)
    }

    fn directory_for_new_log(&self) -> Option<Arc<LogDir>> {
        self.log_dirs.least_used(&self.cordoned()).cloned()
    }

    pub fn cordoned(&self) -> CordonedLogDirs {
        let config = self.live.current();
        CordonedLogDirs::parse(config.properties.text(CordonedLogDirs::KEY).unwrap_or_default())
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
        self.metrics.partitions.add(1);
        let partition =
            Partition::new(topic.clone(), id, self.context.clone(), directory.clone(), settings, high_watermark);
        self.coordinators.placed(&partition);
        partition
    }

    fn execute(self: &Arc<Self>, work: Work) {
        if !work.removed.is_empty() {
            self.remove(&work.removed);
        }
        if work.changed.len() <= FETCHERS_AT_ONCE_MAX {
            self.update_fetchers(&work.changed);
        } else {
            self.context.data.spawn(self.clone().update_many_fetchers(work.changed));
        }
        if work.created.is_empty() {
            return;
        }
        let is_prompt = |partition: &Arc<Partition>| {
            let directory = partition.directory();
            directory.is_idle() && !directory.health().is_unusable()
        };
        let waits = work.created.len() <= CREATED_AT_ONCE_MAX && work.created.iter().all(is_prompt);
        // Every job drops its sender when it is done.
        let (done, all_done) = mpsc::channel::<()>();
        // Those that lead first: nobody can use a partition whose leader has no log.
        let (leading, following): (Vec<_>, Vec<_>) =
            work.created.into_iter().partition(|partition| partition.assigned_leader() == self.identity.id());
        for directory in self.log_dirs.all() {
            let here = |partition: &&Arc<Partition>| partition.is_in(directory);
            let created: Vec<_> = leading.iter().chain(&following).filter(here).cloned().collect();
            for chunk in created.chunks(CREATED_PER_JOB) {
                let (manager, chunk, done) = (self.clone(), chunk.to_vec(), done.clone());
                directory.run(Urgency::Urgent, move || {
                    manager.create_logs(&chunk);
                    drop(done);
                });
            }
        }
        drop(done);
        if waits {
            // Done, or the disk takes its time: the partitions answer when it has.
            let _ = log_io::run_blocking(|| all_done.recv_timeout(CREATION_PATIENCE));
        }
    }

    /// Beside the deltas: who is asked late says what holds then.
    async fn update_many_fetchers(self: Arc<Self>, changed: Vec<Arc<Partition>>) {
        for partitions in changed.chunks(PARTITIONS_PER_TURN) {
            give_way().await;
            self.update_fetchers(partitions.iter().filter(|partition| !partition.is_closed()));
        }
    }

    /// The roles of these partitions may have changed. Asked is whoever has their places by now: a replica that ends
    /// late says nothing of the one that has come back since.
    pub(super) fn update_fetchers<'a>(&self, partitions: impl IntoIterator<Item = &'a Arc<Partition>>) {
        let hosted = |partition: &Arc<Partition>| self.partition(partition.id()).unwrap_or_else(|| partition.clone());
        self.fetchers.update(partitions.into_iter().map(hosted));
    }

    /// Makes the logs of new partitions. Waits for the disk, briefly.
    pub(super) fn create_logs(&self, partitions: &[Arc<Partition>]) {
        for partition in partitions {
            if !partition.is_closed() {
                self.open_log(partition, None);
            }
        }
        self.update_fetchers(partitions);
    }

    /// The roles of these partitions begin, with their logs. A start waits for a hundred thousand of them, while the
    /// other cores have nothing to do.
    fn open_found(&self, found: Vec<(Arc<Partition>, Option<Box<Log>>)>) {
        let threads = self.config.num_recovery_threads_per_data_dir.min(found.len() / FOUND_PER_THREAD_MIN);
        log_io::shared_out(found, threads, |(partition, log)| self.open_log(&partition, log));
    }

    /// Opens the log that was found, or creates one. If the disk has no room for it, [`Self::open_waiting_logs`] tries
    /// again.
    pub(super) fn open_log(&self, partition: &Arc<Partition>, found: Option<Box<Log>>) {
        let has_room = self.counting_leaders(partition, || partition.open_log(found, clock::monotonic()));
        if !has_room {
            self.waiting_logs.lock().push(partition.clone());
        }
    }

    /// Ends replicas: their directories are renamed at once (before new ones may take the names) and removed later, if
    /// they are not kept.
    fn remove(self: &Arc<Self>, removed: &[(Arc<Partition>, Fate)]) {
        let mut owners = Vec::with_capacity(removed.len());
        for (partition, _) in removed {
            let (manager, ending) = (self.clone(), partition.clone());
            let end = move || {
                let close = || ending.close(ErrorCode::NotLeaderOrFollower);
                if let Some(mut log) = manager.counting_leaders(&ending, close) {
                    log.abandon();
                }
                manager.update_fetchers([&ending]);
            };
            let mut owner = self.end_move(partition);
            if partition.goes_later(Errand::Image) {
                // Its lock may be held until the disk answers.
                owner.run(Urgency::Urgent, end);
            } else {
                end();
                // Where it stays, whatever has become of a move.
                owner = partition.directory();
            }
            self.coordinators.removed(partition);
            self.metrics.partitions.add(-1);
            self.context.cleaner.forget(partition.id());
            owner.unplace();
            owners.push(owner);
        }
        for directory in self.log_dirs.all() {
            let names = |wanted: Fate| -> Vec<_> {
                let all = removed.iter().zip(&owners);
                let here = all.filter(|((_, fate), owner)| *fate == wanted && Arc::ptr_eq(owner, directory));
                here.map(|((partition, _), _)| partition.topic_partition()).collect()
            };
            for name in names(Fate::SetAside) {
                let owner = directory.clone();
                directory.run(Urgency::Urgent, move || {
                    tracing::warn!(
                        partition = %name, directory = %owner.path().display(),
                        "the restored quorum has no such replica here: its log is set aside as -stray"
                    );
                    if let Err(error) = owner.mark_stray(&name) {
                        tracing::error!(partition = %name, %error, "a stray directory is not set aside");
                    }
                });
            }
            let names = names(Fate::Deleted);
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

    /// The log of a partition that was moved to other brokers while this one was down.
    fn discard(&self, found: FoundLog) {
        tracing::info!(
            partition = %found.partition, directory = %found.directory.path().display(),
            "the partition was moved to other brokers: its log is deleted"
        );
        let (owner, host) = (found.directory.clone(), self.context.clone());
        let (name, log) = (found.partition, found.log);
        found.directory.run(Urgency::Urgent, move || {
            if let Some(mut log) = log {
                log.abandon();
            }
            match owner.mark_deleted(&[name]) {
                Ok(paths) => {
                    let remover = owner.clone();
                    owner.run(Urgency::Background, move || remove_directories(&remover, &paths));
                }
                Err(error) => {
                    host.directory_refused(&owner, &error, error.io());
                }
            }
        });
    }

    /// A directory of a topic that the cluster does not have: kept under another name, for people to look at.
    pub(super) fn set_aside(&self, found: FoundLog) {
        tracing::warn!(
            partition = %found.partition, topic_id = ?found.topic_id, directory = %found.directory.path().display(),
            damaged = found.is_damaged,
            "not a log of a topic of this cluster, or a damaged one: its directory is set aside as -stray"
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
                partition.set_settings(settings.clone());
                if partition.goes_later(Errand::Image) {
                    // Its disk does not answer: the others do not wait for it.
                    partition.directory().run(Urgency::Urgent, move || {
                        partition.apply_settings(clock::monotonic(), &mut Wakes::default());
                    });
                } else {
                    partition.apply_settings(now, &mut wakes);
                }
            }
        }
    }

    fn broker_changed(self: &Arc<Self>, image: &Image, change: &BrokerChange, now: MonotonicMs) {
        let news = BrokerNews::of(self.identity.id(), change);
        if news.is_other {
            self.fetchers.reconnect(change.id);
        }
        if news.became_active {
            for id in image.hosted_by(change.id) {
                self.broker_news(id, now);
            }
        }
        if news.has_left {
            self.context.data.spawn(self.clone().tick_leaders_with_followers_on(image.clone(), change.id));
        }
    }

    /// Beside the deltas: elections of other partitions follow the change that took the broker out.
    async fn tick_leaders_with_followers_on(self: Arc<Self>, image: Image, broker: BrokerId) {
        for (number, id) in image.led_by(self.identity.id()).enumerate() {
            if number % PARTITIONS_PER_TURN == 0 {
                give_way().await;
            }
            if image.partition(id).is_some_and(|state| state.is_replica(broker)) {
                self.broker_news(id, clock::monotonic());
            }
        }
        drop(image);
        // A write that comes later waits for the replica on that broker, too.
        for _ in 0..LOOKS_FOR_WAITING_MAX {
            tokio::time::sleep(LOOK_FOR_WAITING_EVERY).await;
            let (is_back, is_awaited) = {
                let image = self.metadata.peek();
                (image.broker(broker).is_some(), image.in_sync_on(broker).next().is_some())
            };
            if is_back || !is_awaited || self.is_stopping() {
                return;
            }
            self.tick_touched_leaders().await;
        }
    }

    /// A broker that has a replica of this partition has come or gone. A leader whose disk does not answer is ticked by
    /// the next round of all.
    fn broker_news(&self, id: TopicIdPartition, now: MonotonicMs) {
        let Some(partition) = self.partition(id).filter(|partition| partition.leads()) else { return };
        match partition.when_held(Errand::BrokerNews) {
            Some(_) => partition.look_again(Pass::Leaders),
            None => partition.tick(now),
        }
    }

    fn counting_leaders<T>(&self, partition: &Partition, change: impl FnOnce() -> T) -> T {
        let before = partition.leads();
        let result = change();
        self.metrics.leader_partitions.add(i64::from(partition.leads()) - i64::from(before));
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
