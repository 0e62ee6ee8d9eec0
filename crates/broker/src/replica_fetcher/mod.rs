//! The fetchers: one task for each broker that leads something which this broker follows, and each log directory that it goes to.
//!
//! A fetcher holds one connection to its source and one incremental fetch session on it, so that quiet partitions cost
//! nothing; the answer's records go from the frame to the log by one write. A change of leadership touches only the
//! partitions that it names: they are left to the next request, which is sent at once (the source ends a parked fetch
//! when the next request of its session comes), and all others keep their place in the session.
//!
//! `num.replica.fetchers` is taken as 1: one connection keeps up with a disk.

mod slots;
mod stream;
mod task;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{BrokerId, TopicIdPartition};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::broker::Identity;
use crate::metadata_cache::MetadataCache;
use crate::partition::Partition;

/// How fetchers ask.
#[derive(Clone, Copy, Debug)]
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
    /// The longest pause after an error of one partition (`replica.fetch.backoff.ms`); the first is [`BACKOFF_MIN`].
    pub backoff_max: Duration,
}

/// The first pause after an error of one partition: most are a leader that has not heard of its leadership yet, and does
/// within milliseconds. Kafka waits a second.
pub const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// The first and the longest pause between attempts to connect: a leader that restarts should find its followers waiting.
pub const RECONNECT_MIN: Duration = Duration::from_millis(20);
pub const RECONNECT_MAX: Duration = Duration::from_millis(250);

/// What a fetcher is told.
enum Change {
    /// As long as it follows this fetcher's source.
    Follow(Arc<Partition>),
    Leave(TopicIdPartition),
    /// The source registered again: connect anew.
    Reconnect,
}

/// The way to one fetcher's task. What it is told waits here, bounded by the partitions of the broker; the task takes all of it at once.
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

/// The broker that is fetched from, and the log directory here that it is written to: a disk that stalls holds up the fetcher of its own
/// partitions, not those of other directories.
type Source = (BrokerId, usize);

#[derive(Default)]
struct State {
    fetchers: HashMap<Source, Running>,
    /// Who fetches what.
    sources: HashMap<TopicIdPartition, Source>,
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

    /// The roles of these partitions may have changed: each is fetched from whom it follows now, or not at all. What counts is what
    /// the partition says when this looks, so that calls may come in any order.
    pub fn update<'a>(&self, partitions: impl IntoIterator<Item = &'a Arc<Partition>>) {
        let mut state = self.state.lock();
        if state.stopped {
            return;
        }
        let mut changes: HashMap<Source, Vec<Change>> = HashMap::new();
        for partition in partitions {
            let id = partition.id();
            let source = partition.following().map(|(leader, _)| (leader, partition.directory().number()));
            let before = match source {
                Some(leader) => state.sources.insert(id, leader),
                None => state.sources.remove(&id),
            };
            if let Some(before) = before.filter(|before| Some(*before) != source) {
                changes.entry(before).or_default().push(Change::Leave(id));
            }
            if let Some(leader) = source {
                changes.entry(leader).or_default().push(Change::Follow(partition.clone()));
            }
        }
        for (source, changes) in changes {
            self.tell(&mut state, source, changes);
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
        state.sources.clear();
        for (_, running) in state.fetchers.drain() {
            running.task.abort();
        }
    }

    fn tell(&self, state: &mut State, source: Source, changes: Vec<Change>) {
        let running = state.fetchers.entry(source).or_insert_with(|| {
            let mailbox = Arc::new(Mailbox::default());
            let fetcher = task::Fetcher::new(
                source.0,
                self.config,
                self.identity.clone(),
                self.metadata.clone(),
                mailbox.clone(),
            );
            Running { mailbox, task: self.runtime.spawn(fetcher.run()) }
        });
        running.mailbox.push(changes);
    }
}
