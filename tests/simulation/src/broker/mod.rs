//! One broker: a host with disks that lose what was not synced, and the process on it. The process is a shell around
//! the same cores as the real broker's; it carries out what they decide.
//!
//! - [`session`]: registration, heartbeats, the watch, controlled shutdown.
//! - [`disk`]: log directories: opening, checkpoints, failures, the end.
//! - [`process`]: its turns, and what steps of replicas lead to. [`hosting`]: what the image means for its replicas.
//! - [`replica`]: one partition's replica, and what its log holds.
//! - [`serving`]: what clients and followers ask.
//! - [`moving`]: replicas that move from one log directory to another.
//! - [`access`]: logins, and who may do what.
//! - [`stall`]: what waits for a disk that does not answer.
//! - [`fetching`]: what a follower does. [`sessions`]: the fetch sessions that followers have here.

mod access;
mod disk;
mod fetching;
mod hosting;
mod moving;
mod process;
pub mod replica;
mod serving;
mod session;
mod sessions;
mod stall;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ottla_authorizer::Authorizer;
use ottla_broker_session::BrokenRules as SessionRules;
use ottla_metadata::Image;
use ottla_metadata::image::LeaderSettings;
use ottla_metadata::watch::BrokenRules as WatchRules;
use ottla_model::{BrokerEpoch, BrokerId, FeatureLevels, IncarnationId, IncarnationKey, TopicIdPartition};
use ottla_partition::BrokenRules;
use ottla_protocol::record_batch::{Batches, HEADER_BYTES};
use ottla_replica_fetcher::BrokenRules as FetcherRules;
use ottla_sasl::ClientCredentials;
use ottla_storage::LogConfig;
use ottla_storage::env::{Env as _, Faults, FaultyEnv, File as _, OpenMode};

use crate::clock::{HostClock, SimTime};
use crate::content::Content;
use crate::facts::Fact;
use crate::message::{FetchBytes, Message};
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;
use access::Access;
pub use access::{AccessConfig, DerivedTokens};
use fetching::FetcherState;
use process::Process;
use replica::Replica;
use session::{QuorumLink, new_session};

/// How often a broker looks at its clocks.
pub const TICK_MS: u64 = 25;

const DATA: &str = "/data";

fn data() -> &'static Path {
    Path::new(DATA)
}

/// What all brokers of a run share.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    pub coordinators: Vec<u64>,
    pub replica_lag_time_max: Duration,
    pub rules: BrokenRules,
    pub fetcher_rules: FetcherRules,
    pub session_rules: SessionRules,
    pub watch_rules: WatchRules,
    /// `replica.fetch.response.max.bytes` and `replica.fetch.max.bytes`.
    pub fetch_bytes: FetchBytes,
    pub log_config: Arc<LogConfig>,
    /// The brokers' own `min.insync.replicas`.
    pub min_insync_replicas: i32,
    /// How their partitions get leaders.
    pub leaders: LeaderSettings,
    /// Log directories of each broker, every one a disk of its own.
    pub log_dirs: usize,
}

/// A host of the cluster.
pub struct BrokerNode {
    pub id: BrokerId,
    pub clock: HostClock,
    /// The levels of `ottla.version` that the release works at which is started next.
    pub levels: FeatureLevels,
    settings: Arc<BrokerSettings>,
    /// What the next process starts with; none: security is off.
    pub access: Option<AccessConfig>,
    random: Random,
    /// The disk of each log directory.
    disks: Vec<FaultyEnv>,
    process: Option<Process>,
    /// Which boot of the host this is: while it lasts, the page cache does.
    boot: u64,
    /// What the logs of each directory held when the last process ended, for the comparison with what comes back. A
    /// loss of power, or of the disk, ends it.
    last_contents: BTreeMap<TopicIdPartition, (usize, Content)>,
}

impl BrokerNode {
    pub fn new(id: BrokerId, settings: Arc<BrokerSettings>, mut random: Random) -> Self {
        let disks = (0..settings.log_dirs).map(|_| FaultyEnv::new(random.next_u64())).collect();
        Self {
            id,
            clock: HostClock::default(),
            levels: FeatureLevels::OF_THIS_RELEASE,
            settings,
            access: None,
            random,
            disks,
            process: None,
            boot: 0,
            last_contents: BTreeMap::new(),
        }
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Starts a process: opens the logs, then asks for a registration.
    pub fn start(&mut self, at: SimTime, out: &mut Outbox) {
        let half = self.random.bytes_16();
        let key = IncarnationKey::new(std::array::from_fn(|place| half[place % half.len()]));
        let opened = match disk::open_logs(&self.disks, self.boot, &self.settings, self.clock.wall(at), out) {
            Ok(opened) => opened,
            Err(error) => {
                out.note(format_args!("cannot start: {error}"));
                out.dies = true;
                return;
            }
        };
        if opened.found.iter().any(|found| found.log.is_none()) {
            out.facts.push(Fact::LogsOffline);
        }
        let settings = self.settings.clone();
        let mut random = self.random.fork();
        let Some(link) = QuorumLink::new(&settings.coordinators, &mut random) else {
            out.note(format_args!("cannot start: no coordinator is configured"));
            out.dies = true;
            return;
        };
        let now = self.clock.monotonic(at);
        let session = new_session((self.id, key.incarnation()), self.levels, &opened, &settings, now);
        let mut process = Process::new(key, opened, settings, session, link, random, now);
        process.access = self.access.clone().map(Access::new);
        self.process = Some(process);
    }

    /// The disk of a log directory is replaced by an empty one. The process must have ended.
    pub fn replace_disk(&mut self, directory: usize, seed: u64) {
        if let Some(disk) = self.disks.get_mut(directory) {
            *disk = FaultyEnv::new(seed);
            self.last_contents.retain(|_, (held, _)| *held != directory);
        }
    }

    pub fn disks(&self) -> usize {
        self.disks.len()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.end_process();
        self.disks.iter().for_each(FaultyEnv::kill);
    }

    pub fn lose_power(&mut self) {
        self.end_process();
        self.last_contents.clear();
        self.boot += 1;
        self.disks.iter().for_each(FaultyEnv::lose_power);
    }

    fn end_process(&mut self) {
        if let Some(process) = self.process.take() {
            // A replica that the process has not placed again yet keeps what it had.
            self.last_contents.retain(|id, _| !process.forgotten.contains(id));
            for (id, replica) in process.replicas {
                if replica.is_offline() {
                    self.last_contents.remove(&id);
                } else {
                    self.last_contents.insert(id, (replica.directory, replica.content));
                }
            }
        }
    }

    /// Asks the process to go: leaders move first, then the logs are closed.
    pub fn begin_shutdown(&mut self, at: SimTime) {
        let now = self.clock.monotonic(at);
        if let Some(process) = &mut self.process {
            process.begin_shutdown(now);
        }
    }

    pub fn tick(&mut self, at: SimTime, out: &mut Outbox) {
        let (now, wall) = (self.clock.monotonic(at), self.clock.wall(at));
        if let Some(process) = &mut self.process {
            process.tick(now, wall, out);
        }
    }

    pub fn receive(&mut self, at: SimTime, from: NodeId, message: Message, out: &mut Outbox) {
        let (now, wall) = (self.clock.monotonic(at), self.clock.wall(at));
        if let Some(process) = &mut self.process {
            process.receive(now, wall, from, message, out);
        }
    }

    /// Whether a client has to log in before its next request.
    pub fn needs_login(&self, at: SimTime, client: u32) -> bool {
        let now = self.clock.monotonic(at);
        self.process.as_ref().is_some_and(|process| process.needs_login(now, client))
    }

    pub fn log_in(&mut self, at: SimTime, client: u32, credentials: ClientCredentials, out: &mut Outbox) {
        let (now, wall) = (self.clock.monotonic(at), self.clock.wall(at));
        if let Some(process) = &mut self.process {
            process.log_in(now, wall, client, credentials, out);
        }
    }

    /// The settings by which its process decides who may do what.
    pub fn authorizer(&self) -> Option<&Authorizer> {
        self.process.as_ref()?.access.as_ref().map(|access| &access.config.authorizer)
    }

    /// The incarnation that listens, for a dial.
    pub fn incarnation(&self) -> Option<IncarnationId> {
        self.process.as_ref().map(|process| process.key.incarnation())
    }

    pub fn image(&self) -> Option<&Image> {
        self.process.as_ref().map(|process| &process.image)
    }

    pub fn replica(&self, partition: TopicIdPartition) -> Option<&Replica> {
        self.process.as_ref()?.replicas.get(&partition)
    }

    pub fn replicas(&self) -> impl Iterator<Item = (&TopicIdPartition, &Replica)> {
        self.process.iter().flat_map(|process| process.replicas.iter())
    }

    /// The partitions that this broker follows and may fetch, with the broker that it follows.
    pub fn may_fetch(&self) -> impl Iterator<Item = (TopicIdPartition, BrokerId)> {
        self.replicas().filter_map(|(id, replica)| {
            let follower = replica.follower().filter(|follower| !follower.is_fenced())?;
            Some((*id, follower.leader()))
        })
    }

    pub fn fetcher_state(&self, leader: BrokerId, partition: TopicIdPartition) -> FetcherState {
        self.process.as_ref().map_or(FetcherState::default(), |process| process.fetchers.state_of(leader, &partition))
    }

    /// The partitions that a directory, or any, held when the last process ended.
    pub fn held_in(&self, directory: Option<usize>) -> impl Iterator<Item = TopicIdPartition> {
        let held = self.last_contents.iter();
        held.filter(move |(_, (number, _))| directory.is_none_or(|directory| directory == *number)).map(|(id, _)| *id)
    }

    /// Whether a directory that can be used now held records of the partition when the last process ended: its log must
    /// be there.
    pub fn must_hold(&self, partition: TopicIdPartition) -> bool {
        self.last_content(partition).is_some_and(|content| content.end() > content.start())
    }

    /// What the log held when the former process ended, if its directory can be used now: another one of its name in
    /// another directory must not take its place.
    pub fn last_content(&self, partition: TopicIdPartition) -> Option<&Content> {
        let is_usable =
            |number: usize| self.process.as_ref().is_some_and(|process| !process.is_directory_failed(number));
        let held = self.last_contents.get(&partition).filter(|_| !self.has_forgotten(partition));
        held.filter(|(held, _)| is_usable(*held)).map(|(_, content)| content)
    }

    /// Whether the replica that the former process had has ended in this one.
    fn has_forgotten(&self, partition: TopicIdPartition) -> bool {
        self.process.as_ref().is_some_and(|process| process.forgotten.contains(&partition))
    }

    /// The epoch of the registration, once the image shows it.
    pub fn active_epoch(&self) -> Option<BrokerEpoch> {
        self.process.as_ref()?.active_epoch()
    }

    /// Operations on a directory's disk fail so often from now on.
    pub fn set_disk_faults(&mut self, directory: usize, faults: Faults) {
        if let Some(disk) = self.disks.get(directory) {
            disk.set_faults(faults);
        }
    }

    /// A replica is to move to a directory of this broker.
    pub fn move_replica(&mut self, at: SimTime, partition: TopicIdPartition, directory: usize, out: &mut Outbox) {
        let wall = self.clock.wall(at);
        if let Some(process) = &mut self.process {
            process.begin_move(partition, directory, wall, out);
        }
    }

    /// A directory's disk does not answer from now on.
    pub fn stall_disk(&mut self, directory: usize) {
        if let Some(process) = &mut self.process {
            process.stall(directory);
        }
    }

    /// It answers again.
    pub fn disk_answers(&mut self, at: SimTime, directory: usize, out: &mut Outbox) {
        let (now, wall) = (self.clock.monotonic(at), self.clock.wall(at));
        if let Some(process) = &mut self.process {
            process.disk_answers(now, wall, directory, out);
        }
    }

    /// The replicas that a write which does not return keeps from doing anything.
    pub fn held_up(&self) -> impl Iterator<Item = TopicIdPartition> {
        self.process.iter().flat_map(|process| process.held_up())
    }

    /// Syncs every log, as the system would some time.
    pub fn sync(&mut self, at: SimTime, out: &mut Outbox) {
        let now = self.clock.monotonic(at);
        if let Some(process) = &mut self.process {
            process.sync(now, 100, out);
            process.write_recovery_points(out);
        }
    }

    /// Whether a disk kept a log from being used until the process starts again.
    pub fn needs_restart(&self) -> bool {
        let has_failed =
            |process: &Process| process.log_dirs.all().iter().any(|directory| directory.health().is_failed());
        self.process.as_ref().is_some_and(|process| process.could_not_open || has_failed(process))
    }

    /// Whether it has several logs of a partition, one of which could not be opened: the next start decides.
    pub fn is_undecided(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.placement.undecided().next().is_some())
    }

    /// The registration up to which the process knows that nothing was lost.
    pub fn whole_since(&self) -> BrokerEpoch {
        self.process.as_ref().map_or(BrokerEpoch::NONE, |process| process.last_run.whole_since)
    }

    /// A byte of some record of some log changes on a disk, while no process runs. Says where. `in_last`: also in the
    /// last batch of a segment, where it looks as a write does that was cut off.
    pub fn flip_byte(&mut self, in_last: bool) -> Option<String> {
        let disk = self.random.pick(&self.disks)?.clone();
        let files = disk.without_faults(|| log_files(&disk)).ok()?;
        let (path, content) = self.random.pick(&files)?;
        let mut batches: Vec<_> = Batches::new(content).map_while(Result::ok).collect();
        if !in_last {
            batches.pop();
        }
        let batch = self.random.pick(&batches)?;
        let bytes = self.random.below((batch.bytes.len() - HEADER_BYTES) as u64);
        let position = batch.position + HEADER_BYTES + usize::try_from(bytes).unwrap_or(0);
        disk.flip(path, position, 0x10).ok()?;
        self.last_contents.clear();
        Some(format!("{} at {position}, in the batch at {}", path.display(), batch.header.base_offset))
    }

    /// Somebody copies a log into another directory while no process runs. `is_old`: an old copy, which lacks the end.
    /// Says what.
    pub fn copy_log(&mut self, is_old: bool) -> Option<String> {
        let held: Vec<_> = self.last_contents.iter().map(|(id, (directory, _))| (*id, *directory)).collect();
        let (_, from) = self.random.pick(&held).copied()?;
        let others: Vec<_> = (0..self.disks.len()).filter(|number| *number != from).collect();
        let to = self.random.pick(&others).copied()?;
        let (source, target) = (self.disks.get(from)?.clone(), self.disks.get(to)?.clone());
        let logs = source.without_faults(|| source.list(data())).ok()?;
        let logs: Vec<_> = logs.into_iter().filter(|entry| entry.is_directory && is_live(&entry.name)).collect();
        let name = self.random.pick(&logs)?.name.clone();
        let is_copied = source.without_faults(|| target.without_faults(|| copy_log(&source, &target, &name, is_old)));
        let kind = if is_old { "an old copy" } else { "a copy" };
        is_copied.ok()?.then(|| format!("{kind} of {name} in directory {from} is in directory {to} too"))
    }

    /// DeleteRecords, on the partition's leader: its log starts so far on the way to the high watermark from now on.
    pub fn delete_records(&mut self, at: SimTime, partition: TopicIdPartition, percent: u64, out: &mut Outbox) {
        let now = self.clock.monotonic(at);
        if let Some(process) = &mut self.process {
            process.delete_records(now, partition, percent, out);
        }
    }
}

/// Whether the directory of this name is of a partition, and neither a copy of a move nor set aside.
fn is_live(name: &str) -> bool {
    !["-delete", "-stray", "-future"].iter().any(|suffix| name.ends_with(suffix))
}

/// Copies the directory of a log from one disk to another. False if there is one of its name already.
fn copy_log(source: &FaultyEnv, target: &FaultyEnv, name: &str, is_old: bool) -> std::io::Result<bool> {
    let directory = data().join(name);
    if target.exists(&directory)? || !source.exists(&directory)? {
        return Ok(false);
    }
    target.create_directory(&directory)?;
    let files = source.list(&directory)?;
    let last_segment = files.iter().rev().find(|file| file.name.ends_with(".log")).map(|file| file.name.clone());
    for file in files.iter().filter(|file| !file.is_directory) {
        let path = directory.join(&file.name);
        let mut content = source.read_file(&path)?;
        if is_old && Some(&file.name) == last_segment.as_ref() {
            content.truncate(content.len() / 2);
        }
        let copy = target.open(&path, OpenMode::Truncate)?;
        copy.write_all_at(&content, 0)?;
        copy.sync_all()?;
    }
    target.sync_directory(&directory)?;
    target.sync_directory(data())?;
    Ok(true)
}

/// The segments of every log on a disk, with what they hold.
fn log_files(disk: &FaultyEnv) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for log in disk.list(data())?.iter().filter(|entry| entry.is_directory) {
        let directory = data().join(&log.name);
        for file in disk.list(&directory)?.iter().filter(|entry| entry.name.ends_with(".log") && entry.size_bytes > 0) {
            let path = directory.join(&file.name);
            let content = disk.read_file(&path)?;
            files.push((path, content));
        }
    }
    Ok(files)
}
