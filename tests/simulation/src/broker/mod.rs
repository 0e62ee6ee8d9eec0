//! One broker: a host with a disk that loses what was not synced, and the process on it. The process is a small shell around
//! the same cores as the real broker's: the image, `Leader` and `Follower`, and the log.
//!
//! - [`session`]: registration, heartbeats, the watch, controlled shutdown.
//! - [`disk`]: opening, syncing, checkpoints.
//! - [`replica`]: one partition's log and role.
//! - [`serving`]: what clients and followers ask.
//! - [`fetching`]: what a follower does. [`sessions`]: the fetch sessions that followers have here.

mod disk;
mod fetching;
mod process;
pub mod replica;
mod serving;
mod session;
mod sessions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::Image;
use ottla_model::{BrokerEpoch, BrokerId, IncarnationId, TopicIdPartition};
use ottla_replica_fetcher::BrokenRules as FetcherRules;
use ottla_replication::Rules;
use ottla_storage::LogConfig;
use ottla_storage::checkpoint::clean_shutdown;
use ottla_storage::env::{Env, Faults, FaultyEnv};

use crate::clock::{HostClock, SimTime};
use crate::content::Content;
use crate::message::Message;
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;
use fetching::FetcherState;
use process::Process;
use replica::Replica;

/// How often a broker looks at its clocks.
pub const TICK_MS: u64 = 25;

const DATA: &str = "/data";

fn data() -> &'static Path {
    Path::new(DATA)
}

fn path(name: &str) -> PathBuf {
    data().join(name)
}

/// What all brokers of a run share.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    pub coordinators: Vec<u64>,
    pub replica_lag_time_max: Duration,
    pub rules: Rules,
    pub fetcher_rules: FetcherRules,
    pub log_config: Arc<LogConfig>,
    /// The brokers' own `min.insync.replicas`.
    pub min_insync_replicas: i32,
}

/// A host of the cluster.
pub struct BrokerNode {
    pub id: BrokerId,
    pub clock: HostClock,
    settings: Arc<BrokerSettings>,
    random: Random,
    env: FaultyEnv,
    faults: Faults,
    process: Option<Process>,
    /// Which boot of the host this is: while it lasts, the page cache does.
    boot: u64,
    /// What the logs held when the last process ended, for the comparison with what came back.
    last_contents: BTreeMap<TopicIdPartition, Content>,
}

impl BrokerNode {
    pub fn new(id: BrokerId, settings: Arc<BrokerSettings>, mut random: Random) -> Self {
        let env = FaultyEnv::new(random.next_u64());
        Self {
            id,
            clock: HostClock::default(),
            settings,
            random,
            env,
            faults: Faults::NONE,
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
        let incarnation = IncarnationId(self.random.bytes_16());
        let read = || -> anyhow::Result<_> { Ok((self.take_clean_shutdown()?, self.whole_since()?)) };
        let (clean_epoch, whole_since) = match read() {
            Ok(epochs) => epochs,
            Err(error) => {
                out.note(format_args!("cannot start: {error}"));
                out.dies = true;
                return;
            }
        };
        let mut process = Process::new(
            self.id,
            incarnation,
            self.boot,
            clean_epoch.or(whole_since).unwrap_or(BrokerEpoch::NONE),
            self.settings.clone(),
            self.env.clone(),
            self.random.fork(),
        );
        process.faults = self.faults;
        process.open_logs(self.clock.wall(at), clean_epoch.is_some(), out);
        self.process = Some(process);
    }

    /// The clean-shutdown file speaks of the last end only: it goes before anything is written.
    fn take_clean_shutdown(&self) -> anyhow::Result<Option<BrokerEpoch>> {
        self.env.create_directory(data())?;
        self.env.sync_directory(Path::new("/"))?;
        let file = path(clean_shutdown::FILE_NAME);
        if !self.env.exists(&file)? {
            return Ok(None);
        }
        let epoch = clean_shutdown::decode(&self.env.read_file(&file)?);
        self.env.remove_file(&file)?;
        self.env.sync_directory(data())?;
        Ok(Some(epoch))
    }

    /// The epoch of the last registration, if the host has not lost its page cache since: a process that was killed has lost
    /// no record, and says so, or several processes that die at once could not be told from machines that lose power.
    fn whole_since(&self) -> anyhow::Result<Option<BrokerEpoch>> {
        let Some(bytes) = disk::read_small(&self.env, disk::LIFE)? else { return Ok(None) };
        let text = String::from_utf8(bytes)?;
        let Some((boot, epoch)) = text.split_once(' ') else { return Ok(None) };
        Ok((boot.parse() == Ok(self.boot)).then_some(BrokerEpoch(epoch.parse()?)))
    }

    /// The disk is replaced by an empty one. The process must have ended.
    pub fn replace_disk(&mut self, seed: u64) {
        self.env = FaultyEnv::new(seed);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.end_process();
        self.env.kill();
    }

    pub fn lose_power(&mut self) {
        self.end_process();
        self.boot += 1;
        self.env.lose_power();
    }

    fn end_process(&mut self) {
        if let Some(process) = self.process.take() {
            self.last_contents =
                process.replicas.into_iter().map(|(partition, replica)| (partition, replica.content)).collect();
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

    /// The incarnation that listens, for a dial.
    pub fn incarnation(&self) -> Option<IncarnationId> {
        self.process.as_ref().map(|process| process.incarnation)
    }

    pub fn image(&self) -> Option<&Image> {
        self.process.as_ref().map(|process| &process.image)
    }

    pub fn replica(&self, partition: TopicIdPartition) -> Option<&Replica> {
        self.process.as_ref()?.replicas.get(&partition)
    }

    pub fn replica_mut(&mut self, partition: TopicIdPartition) -> Option<&mut Replica> {
        self.process.as_mut()?.replicas.get_mut(&partition)
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

    /// What a log held when the former process ended.
    pub fn last_content(&self, partition: TopicIdPartition) -> Option<&Content> {
        self.last_contents.get(&partition)
    }

    /// The epoch of the registration, once the image shows it.
    pub fn active_epoch(&self) -> Option<BrokerEpoch> {
        self.process.as_ref()?.active_epoch()
    }

    /// So many operations in a million fail from now on.
    pub fn set_disk_faults(&mut self, ppm: u32) {
        self.faults = Faults { io_error_ppm: ppm, no_space_ppm: ppm, sync_error_ppm: ppm, ..Faults::NONE };
        self.env.set_faults(self.faults);
        if let Some(process) = &mut self.process {
            process.faults = self.faults;
        }
    }

    /// Syncs every log, as the system would some time.
    pub fn sync(&mut self, at: SimTime, out: &mut Outbox) {
        let now = self.clock.monotonic(at);
        if let Some(process) = &mut self.process {
            process.sync(now, 100, out);
        }
    }

    /// Whether some log could not be opened, and no copy has taken its place.
    pub fn has_damaged_log(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.damaged.is_empty())
    }

    /// DeleteRecords, on the partition's leader: its log starts here from now on.
    pub fn delete_records(&mut self, partition: TopicIdPartition, before_percent: u64, out: &mut Outbox) {
        if let Some(replica) = self.replica_mut(partition) {
            replica.delete_records(before_percent, out);
        }
    }
}
