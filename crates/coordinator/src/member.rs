//! This coordinator's part in one quorum: its disk, how it forms or joins the quorum, and the driver that runs it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ottla_config::CoordinatorConfig;
use ottla_consensus::{Member, MemberConfig, MemberError};
use ottla_metadata::controller::ControllerConfig;
use ottla_model::{Chroot, ClusterId, CoordinatorId, IncarnationId, Revision};
use ottla_quorum_node::first_start::Way;
use ottla_quorum_node::{BrokenRules, HistoryLimits, NodeConfig, QuorumStore as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::driver::{self, Change, DriverConfig, DriverHandle, Input};
use crate::error::CoordinatorError;
use crate::first_start;
use crate::peers;
use crate::rocksdb_store::{Disk, Identity, RocksDbStore};
use crate::shared::{Formed, OutgoingSecurity, Shared};
use crate::telemetry::{self, Metrics};

/// The id of a coordinator that was given none: it is alone.
const ONLY_ID: CoordinatorId = CoordinatorId(1);
/// How long the end waits for the driver, beyond the driver's own bound for handing over: a snapshot of a large tree
/// may be under way. Docker kills a container after 10 s.
const DRIVER_END_TIMEOUT: Duration = Duration::from_secs(5);
const DRIVER_END_PAUSE: Duration = Duration::from_millis(1);

/// A member that does not run yet.
pub struct QuorumMember {
    config: CoordinatorConfig,
    disk: Disk,
    identity: Identity,
    pub shared: Arc<Shared>,
    connect_lists: mpsc::Receiver<Vec<String>>,
    clock: Clock,
    pub metrics: Arc<Metrics>,
    own_address: String,
}

impl QuorumMember {
    /// `config` is that of this quorum: its data directory, and its cluster's id.
    pub fn new(
        config: CoordinatorConfig,
        (disk, identity): (Disk, Identity),
        security: OutgoingSecurity,
        (chroot, root): (Option<Chroot>, Option<Arc<Shared>>),
        clock: Clock,
        own_address: String,
    ) -> Self {
        let (sender, connect_lists) = mpsc::channel(1);
        let metrics = Metrics::new(clock, chroot.as_ref());
        let shared = Shared::new(&identity, &config, security, (chroot, root), sender);
        // The driver holds the metrics, and ends with the last handle to it, which the shared state holds.
        let watched = Arc::downgrade(&shared);
        metrics.resources.add("watches", move || watched.upgrade().map(|shared| shared.watches()).unwrap_or_default());
        Self { config, disk, identity, shared, connect_lists, clock, metrics, own_address }
    }

    /// Forms or joins the quorum, and is its member until `shutdown`. One that may not be a member of a chroot's quorum
    /// waits for `shutdown`, too: the cluster at the root, and those of other chroots, go on.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), CoordinatorError> {
        tokio::pin!(shutdown);
        let chroot = self.shared.chroot().cloned();
        let ended = self.take_part(shutdown.as_mut()).await;
        match (chroot, ended) {
            (Some(chroot), Err(error @ (CoordinatorError::Removed { .. } | CoordinatorError::Conflict(_)))) => {
                tracing::error!("chroot {chroot}: {error}");
                shutdown.await;
                Ok(())
            }
            (_, ended) => ended,
        }
    }

    async fn take_part(mut self, mut shutdown: Pin<&mut impl Future<Output = ()>>) -> Result<(), CoordinatorError> {
        let mut store = RocksDbStore::open(self.disk.clone())?;
        if self.identity.voters.is_empty() {
            let way = match (self.config.servers.is_empty(), self.config.id) {
                (true, None) => Way::Alone { address: self.own_address.clone() },
                (true, Some(_)) => Way::Told,
                (false, _) => Way::Listed { bootstrap: self.config.bootstrap },
            };
            let told = &mut self.connect_lists;
            let forming = first_start::form(way, &self.shared, told, &mut store, &mut self.identity);
            tokio::select! {
                formed = forming => formed?,
                () = &mut shutdown => return Ok(()),
            }
        } else {
            take_configured_addresses(&self.config, &mut self.identity);
        }
        if self.shared.chroot().is_none() {
            write_myid(&self.config, self.identity.id);
        }
        let (fatal, mut failed) = mpsc::channel(1);
        // The streams to the other members; they end with this function.
        let mut streams = JoinSet::new();
        let (changes, mut changed) = mpsc::unbounded_channel();
        let mut started = self.start_driver(store, changes)?;
        drop(self.disk);
        let _halt = HaltOnDrop { driver: started.handle.clone(), thread: started.thread };
        let stopped = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                Some(error) = failed.recv() => break Err(error),
                // Only a panic ends it unasked, and only where panics do not end the process.
                _ = &mut started.ended => return Err(CoordinatorError::DriverEnded),
                Some(change) = changed.recv() => match change {
                    Change::Peer(peer) => {
                        let (shared, driver) = (self.shared.clone(), started.handle.clone());
                        streams.spawn(peers::run(peer, shared, driver, fatal.clone()));
                    }
                    Change::Removed => break Err(CoordinatorError::Removed { id: self.identity.id }),
                },
                Some(ended) = streams.join_next() => match ended {
                    Ok(Err(error)) => break Err(error),
                    // Its coordinator is no peer any more, or has another address.
                    Ok(Ok(())) => {}
                    Err(_) => break Err(CoordinatorError::Stopped),
                },
            }
        };
        let _ = started.handle.send(Input::Stop).await;
        let _ = tokio::time::timeout(DRIVER_END_TIMEOUT, started.ended).await;
        stopped
    }

    fn start_driver(
        &self,
        mut store: RocksDbStore,
        changes: mpsc::UnboundedSender<Change>,
    ) -> Result<Started, CoordinatorError> {
        let Self { config, identity, shared, clock, metrics, .. } = self;
        let (applied, _) = store.disk().applied()?;
        store.set_metrics(metrics.clone());
        let member_config = MemberConfig {
            // It was told to join, and has not received the quorum's state yet.
            joins: store.conf_state().voters.is_empty(),
            ..member_config(config, identity.id, Revision(applied))
        };
        let member = Member::new(&member_config, store).map_err(|error| match error {
            MemberError::NotAMember { id, .. } => CoordinatorError::Removed { id },
            error => error.into(),
        })?;
        let heartbeat_ticks = u32::try_from(ticks(config, config.raft_heartbeat)).unwrap_or(1);
        let driver = DriverConfig {
            id: identity.id,
            node: node_config(config, identity, heartbeat_ticks),
            tick: config.raft_tick,
            heartbeat_ticks,
            clock: *clock,
            metrics: metrics.clone(),
            changes,
            runtime: tokio::runtime::Handle::current(),
            broker_tls: shared.broker_security().tls(),
        };
        let running = driver::start(driver, member)?;
        shared.set_formed(Formed {
            driver: running.handle.clone(),
            view: running.view,
            role: running.role,
            members: running.members,
        });
        Ok(Started { handle: running.handle, ended: running.ended, thread: running.thread })
    }
}

/// Stops the driver when its owner is dropped, even in the middle of an await, and waits until nothing uses the
/// database any more: a process that ends while a thread does so may crash on its way out, and another one that opens
/// the database at once would be refused. Blocks its thread, but no longer than [`DRIVER_END_TIMEOUT`]: the disk may
/// not answer.
struct HaltOnDrop {
    driver: DriverHandle,
    thread: std::thread::JoinHandle<()>,
}

impl Drop for HaltOnDrop {
    fn drop(&mut self) {
        let start = std::time::Instant::now();
        while !self.thread.is_finished() {
            // The queue may be full.
            let _ = self.driver.try_send(Input::Halt);
            if start.elapsed() > DRIVER_END_TIMEOUT {
                tracing::warn!("the disk does not answer: its thread is left behind");
                return;
            }
            std::thread::sleep(DRIVER_END_PAUSE);
        }
    }
}

struct Started {
    handle: DriverHandle,
    ended: tokio::sync::oneshot::Receiver<()>,
    thread: std::thread::JoinHandle<()>,
}

fn node_config(config: &CoordinatorConfig, identity: &Identity, heartbeat_ticks: u32) -> NodeConfig {
    let cluster_id = config.cluster_id.clone().unwrap_or_else(random_cluster_id);
    NodeConfig {
        voters: identity.voters.clone(),
        controller: ControllerConfig {
            session_timeout: config.broker_session_timeout,
            reconnect_grace: config.broker_stream_grace,
            tick_interval: config.raft_tick * heartbeat_ticks,
            reserved_broker_max_id: config.reserved_broker_max_id,
            reassignments_per_broker_max: config.reassignments_per_broker_max,
            ..ControllerConfig::new(cluster_id)
        },
        compact_bytes: config.snapshot_bytes,
        history: HistoryLimits::default(),
        nonce: rand::random(),
        broken_rules: BrokenRules::default(),
    }
}

fn member_config(config: &CoordinatorConfig, id: CoordinatorId, applied: Revision) -> MemberConfig {
    MemberConfig {
        heartbeat_ticks: ticks(config, config.raft_heartbeat),
        election_ticks: ticks(config, config.raft_election_min),
        election_ticks_max: ticks(config, config.raft_election_max),
        applied,
        logger: slog::Logger::root(telemetry::RaftLog, slog::o!()),
        ..MemberConfig::new(id, rand::random())
    }
}

fn ticks(config: &CoordinatorConfig, duration: Duration) -> usize {
    let ticks = duration.as_millis() / config.raft_tick.as_millis().max(1);
    usize::try_from(ticks).unwrap_or(usize::MAX).max(1)
}

/// Kafka's form: 22 characters of URL-safe base64, not beginning with a dash, which tools would treat as an option.
fn random_cluster_id() -> ClusterId {
    loop {
        let text = IncarnationId(rand::random()).to_string();
        if !text.starts_with('-') {
            return ClusterId::new(text);
        }
    }
}

/// Takes the data directory.
pub fn open_disk(config: &CoordinatorConfig) -> Result<(Disk, Identity), CoordinatorError> {
    let disk = Disk::open(&config.data_dir)?;
    let identity = own_identity(config, &disk)?;
    Ok((disk, identity))
}

/// The disk's identity; a new one on an empty disk.
fn own_identity(config: &CoordinatorConfig, disk: &Disk) -> Result<Identity, CoordinatorError> {
    if let Some(identity) = disk.identity()? {
        return match config.id {
            Some(configured) if configured != identity.id => {
                Err(CoordinatorError::OtherId { configured, stored: identity.id })
            }
            _ => Ok(identity),
        };
    }
    let id = config.id.unwrap_or(ONLY_ID);
    let identity = Identity { id, disk: IncarnationId(rand::random()), voters: BTreeMap::new() };
    disk.write_identity(&identity)?;
    Ok(identity)
}

/// Who belongs to a formed quorum is on the disk, and changes with the quorum; where the members of the first start are
/// reached may change by configuration.
fn take_configured_addresses(config: &CoordinatorConfig, identity: &mut Identity) {
    for server in &config.servers {
        match identity.voters.get_mut(&server.id) {
            Some(voter) => voter.address = server.address.to_string(),
            None => tracing::info!(
                "servers names coordinator {}, which was not in the quorum at this disk's first start: members come and \
                 go by ottla quorum add and remove",
                server.id
            ),
        }
    }
}

/// As in ZooKeeper's images, so that the volume alone identifies the member.
fn write_myid(config: &CoordinatorConfig, id: CoordinatorId) {
    let path = config.data_dir.join("myid");
    if !path.exists()
        && let Err(error) = std::fs::write(&path, format!("{id}\n"))
    {
        tracing::warn!("{}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use ottla_config::Sources;
    use ottla_consensus::{LogStore as _, Membership};
    use ottla_quorum_node::Voter;

    use super::*;

    /// It had gone on when it was removed from a chroot's quorum, and each later start ended: the cluster at the root
    /// lacked this member, too.
    #[tokio::test]
    async fn who_was_removed_from_a_chroots_quorum_starts_for_the_others() {
        for (chroot, goes_on) in [("", false), ("/kafka", true)] {
            let directory = tempfile::tempdir().expect("a directory");
            let data_dir = directory.path().display().to_string();
            let flags = [("id", "1"), ("data.dir", &*data_dir)];
            let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            let sources = Sources { flags, ..Sources::default() };
            let config = CoordinatorConfig::load(&sources).expect("a configuration").config;
            let (disk, mut identity) = open_disk(&config).expect("a disk");
            identity.voters = [(CoordinatorId(2), Voter { address: "c2:2181".to_owned(), disk: None })].into();
            let mut store = RocksDbStore::open(disk.clone()).expect("readable");
            let without = Membership::new([CoordinatorId(2)]).expect("one");
            store.bootstrap(without.to_conf_state()).expect("written");
            drop(store);
            let (security, place) = (OutgoingSecurity::default(), (Chroot::parse(chroot).expect("valid"), None));
            let member = QuorumMember::new(config, (disk, identity), security, place, Clock::default(), String::new());
            match member.run(async {}).await {
                Ok(()) => assert!(goes_on),
                Err(error) => assert!(!goes_on && matches!(error, CoordinatorError::Removed { .. }), "{error}"),
            }
        }
    }
}
