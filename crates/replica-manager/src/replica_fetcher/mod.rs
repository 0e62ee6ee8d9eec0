//! The fetchers: one task for each broker that leads something which this broker follows, and each log directory that
//! it goes to.
//!
//! A fetcher holds one connection to its source and one incremental fetch session on it, so that quiet partitions cost
//! nothing; the answer's records go from the frame to the log by one write. A change of leadership touches only the
//! partitions that it names: they are left to the next request, which is sent at once (the source ends a parked fetch
//! when the next request of its session comes), and all others keep their place in the session.
//!
//! `num.replica.fetchers` is taken as 1: one connection keeps up with a disk.

mod stream;
mod task;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{BrokerId, TopicIdPartition};
use ottla_replica_fetcher::{Assignments, Reassigned};
use ottla_secure_stream::StreamSecurity;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::identity::Identity;
use crate::metadata_cache::MetadataCache;
use crate::partition::Partition;

/// How the fetchers of a broker ask.
#[derive(Clone, Debug)]
pub struct FetcherConfig {
    /// `replica.fetch.wait.max.ms`
    pub max_wait: Duration,
    /// `replica.fetch.min.bytes`
    pub min_bytes: usize,
    /// `replica.fetch.max.bytes`, of one partition.
    pub partition_max_bytes: usize,
    /// `replica.fetch.response.max.bytes`
    pub response_max_bytes: usize,
    /// `replica.socket.timeout.ms`
    pub socket_timeout: Duration,
    /// `replica.socket.receive.buffer.bytes`
    pub receive_buffer_bytes: Option<usize>,
    /// How connections to other brokers are secured.
    pub security: StreamSecurity,
    /// The longest pause after an error of one partition (`replica.fetch.backoff.ms`); the first is
    /// [`ottla_replica_fetcher::BACKOFF_MIN`].
    pub backoff_max: Duration,
}

/// What a fetcher's task is sent.
enum Change {
    /// The role of this partition may have changed.
    RoleChanged(Arc<Partition>),
    Leave(TopicIdPartition),
    /// The source registered again: connect anew.
    Reconnect,
}

/// The way to one fetcher's task. Changes wait here, bounded by the partitions of the broker; the task takes all of
/// them at once.
#[derive(Default)]
struct Mailbox {
    changes: Mutex<Vec<Change>>,
    arrived: Notify,
}

impl Mailbox {
    fn push(&self, changes: impl IntoIterator<Item = Change>) {
        self.changes.lock().extend(changes);
        self.arrived.notify_one();
    }

    fn take(&self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.lock())
    }
}

/// All fetchers of a broker.
pub struct Fetchers {
    config: FetcherConfig,
    identity: Arc<Identity>,
    metadata: Arc<MetadataCache>,
    runtime: Handle,
    state: Mutex<State>,
}

/// The broker that is fetched from, and the log directory here that it is written to: a disk that stalls holds up the
/// fetcher of its own partitions, not those of other directories.
type Source = (BrokerId, usize);

#[derive(Default)]
struct State {
    fetchers: HashMap<Source, Running>,
    assignments: Assignments<Source>,
    stopped: bool,
}

struct Running {
    mailbox: Arc<Mailbox>,
    task: tokio::task::JoinHandle<()>,
}

impl Fetchers {
    /// The tasks will run on `runtime`.
    pub fn new(config: FetcherConfig, identity: Arc<Identity>, metadata: Arc<MetadataCache>, runtime: Handle) -> Self {
        Self { config, identity, metadata, runtime, state: Mutex::default() }
    }

    /// The roles of these partitions may have changed: each is fetched from the broker that it follows now, or not at
    /// all. What counts is what the partition says when this asks it, so that calls may come in any order. It is asked
    /// without its lock, which a disk may hold: all other partitions would wait for that disk.
    pub fn update(&self, partitions: impl IntoIterator<Item = Arc<Partition>>) {
        let mut state = self.state.lock();
        if state.stopped {
            return;
        }
        let mut changes: HashMap<Source, Vec<Change>> = HashMap::new();
        for partition in partitions {
            let source = partition.followed().map(|leader| (leader, partition.directory().number()));
            let Reassigned { from, to } = state.assignments.assign(partition.id(), source);
            if let Some(from) = from {
                changes.entry(from).or_default().push(Change::Leave(partition.id()));
            }
            if let Some(to) = to {
                changes.entry(to).or_default().push(Change::RoleChanged(partition));
            }
        }
        for (source, changes) in changes {
            self.send(&mut state, source, changes);
        }
    }

    /// A broker is reached elsewhere now, or is another incarnation.
    pub fn reconnect(&self, source: BrokerId) {
        for ((broker, _), running) in &self.state.lock().fetchers {
            if *broker == source {
                running.mailbox.push([Change::Reconnect]);
            }
        }
    }

    /// Ends all fetching.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        state.assignments.clear();
        for (_, running) in state.fetchers.drain() {
            running.task.abort();
        }
    }

    fn send(&self, state: &mut State, source: Source, changes: Vec<Change>) {
        let running = state.fetchers.entry(source).or_insert_with(|| {
            let mailbox = Arc::new(Mailbox::default());
            let fetcher = task::FetcherTask::new(
                source.0,
                self.config.clone(),
                self.identity.clone(),
                self.metadata.clone(),
                mailbox.clone(),
            );
            Running { mailbox, task: self.runtime.spawn(fetcher.run()) }
        });
        running.mailbox.push(changes);
    }
}
