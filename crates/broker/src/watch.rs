//! The tree → this broker's image → its partitions.
//!
//! Invariants: an image never goes back; every change reaches the metadata cache first and the partitions after it, in
//! order of revision; a revision is announced (to admin requests that wait, to the heartbeats) only once the partitions
//! have taken it; nothing is taken before this broker has registered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ottla_metadata::{Delta, Image, watch as tree_watch};
use ottla_metrics::{Reminder, Watchdog};
use ottla_model::BrokerId;
use ottla_replica_manager::manager::ReplicaManager;
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_rpc::{CallError, ClusterClient, WatchStream, WatchUpdate};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::telemetry::Telemetry;

/// How long one attempt to find a coordinator to watch may take; they go on for ever.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The same before this broker has registered: who finds no coordinator leaves the search to the registration. Two that
/// search would double the connections that coordinators refuse.
const EARLY_OPEN_TIMEOUT: Duration = Duration::from_millis(500);
/// Revisions taken together, when they have queued up: one hand-over to the data runtime for all of them.
const BATCH_MAX: usize = 256;
/// A stream that ends at once must not be opened again in a tight loop.
const REOPEN_PAUSE: Duration = Duration::from_millis(20);

/// Between lines that say that it is still trying, for the same reason.
const REMIND_INTERVAL: Duration = Duration::from_secs(60);
/// After a refusal of the call: the coordinators do not take this broker for a member.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Whose image follows the tree, and who is told.
pub struct WatchContext {
    pub client: ClusterClient,
    pub broker: BrokerId,
    pub metadata: Arc<MetadataCache>,
    pub replicas: Arc<ReplicaManager>,
    pub telemetry: Arc<Telemetry>,
    /// The partitions' runtime: a delta that touches thousands of them must not hold up a heartbeat.
    pub data: Handle,
}

/// The task that follows the tree. Ends with this.
pub struct Watching {
    tasks: JoinSet<()>,
    leave: Arc<Notify>,
    registered: watch::Sender<bool>,
}

impl Default for Watching {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), leave: Arc::default(), registered: watch::Sender::new(false) }
    }
}

impl Watching {
    /// Told when this broker's image lags: watch elsewhere.
    pub fn leave(&self) -> Arc<Notify> {
        Arc::clone(&self.leave)
    }

    /// The tree is read from now on.
    pub fn begin(&mut self, context: WatchContext) {
        let (leave, registered) = (self.leave(), self.registered.subscribe());
        self.tasks.spawn(Watcher { context, leave, registered }.run());
    }

    /// What was read is taken from now on.
    pub fn registered(&mut self, context: impl FnOnce() -> WatchContext) {
        if self.tasks.is_empty() {
            self.begin(context());
        }
        self.registered.send_replace(true);
    }
}

/// Follows the tree until dropped.
struct Watcher {
    context: WatchContext,
    leave: Arc<Notify>,
    /// Whether this broker has registered. A tree of a hundred thousand partitions takes most of a second to be read,
    /// which is done while the logs are opened; what it means for them is seen once they are, and the registration's
    /// revision is known.
    registered: watch::Receiver<bool>,
}

impl Watcher {
    async fn run(mut self) {
        let mut unwatched = Reminder::new(REMIND_INTERVAL);
        let mut left: Option<String> = None;
        loop {
            let from = self.context.metadata.revision();
            let is_registered = *self.registered.borrow();
            let timeout = if is_registered { OPEN_TIMEOUT } else { EARLY_OPEN_TIMEOUT };
            let opened = self.context.client.watch(from, self.context.broker, left.as_deref(), timeout).await;
            let mut stream = match opened {
                Ok(stream) => stream,
                Err(error) if !is_registered => {
                    tracing::debug!(%error, "the tree is not read before the registration");
                    let _ = self.registered.wait_for(|registered| *registered).await;
                    continue;
                }
                Err(error) => {
                    let complain = |more| tracing::warn!(%error, more, "no coordinator can be watched; trying again");
                    unwatched.run(error.reason(), complain);
                    let is_refused = matches!(error, CallError::Refused { .. });
                    tokio::time::sleep(if is_refused { REFUSED_PAUSE } else { REOPEN_PAUSE }).await;
                    continue;
                }
            };
            tracing::debug!(coordinator = stream.coordinator(), %from, "watching");
            unwatched.reset();
            let error = self.follow(&mut stream).await;
            left = Some(stream.coordinator().to_owned());
            match error {
                Some(error) => tracing::debug!(%error, "the watch ended"),
                None => {
                    tracing::info!(coordinator = stream.coordinator(), "its view of the tree lags: watching elsewhere")
                }
            }
            tokio::time::sleep(REOPEN_PAUSE).await;
        }
    }

    /// Applies what comes until the stream ends (with its error) or is to be left.
    async fn follow(&mut self, stream: &mut WatchStream) -> Option<CallError> {
        let leave = Arc::clone(&self.leave);
        let mut leaving = Leaving::default();
        loop {
            let first = match leaving.next(stream, &leave).await? {
                Ok(update) => update,
                Err(error) => return Some(error),
            };
            let mut batch = vec![first];
            let mut ended = None;
            while batch.len() < BATCH_MAX {
                // `next` is cancel safe: what is not here yet stays in the stream.
                match futures::FutureExt::now_or_never(stream.next()) {
                    Some(Ok(update)) => batch.push(update),
                    Some(Err(error)) => {
                        ended = Some(error);
                        break;
                    }
                    None => break,
                }
            }
            let steps = self.read(batch);
            // The sender lives as long as this broker.
            let _ = self.registered.wait_for(|registered| *registered).await;
            self.apply(steps).await;
            if ended.is_some() {
                return ended;
            }
        }
    }

    /// The images after these updates, and what each changed.
    fn read(&self, batch: Vec<WatchUpdate>) -> Vec<(Arc<Image>, Delta)> {
        let mut image = self.context.metadata.current();
        let mut steps = Vec::with_capacity(batch.len());
        for update in batch {
            let Some((next, delta)) = step(&image, update) else { continue };
            if !delta.undecodable.is_empty() {
                tracing::error!(
                    paths = ?delta.undecodable,
                    "nodes of the tree that this release cannot read are left out"
                );
            }
            image = Arc::new(next);
            steps.push((Arc::clone(&image), delta));
        }
        steps
    }

    async fn apply(&self, steps: Vec<(Arc<Image>, Delta)>) {
        let Some((image, _)) = steps.last() else { return };
        let revision = image.revision();
        let (metadata, replicas) = (Arc::clone(&self.context.metadata), Arc::clone(&self.context.replicas));
        let task = self.context.data.spawn(async move {
            let watchdog = Watchdog::default();
            for (image, delta) in steps {
                let began = Instant::now();
                // Clients learn of a new leader no earlier than the leader itself can be asked; a moment is enough.
                metadata.store(Arc::clone(&image));
                if !delta.is_empty() {
                    replicas.apply(&image, &delta);
                }
                watchdog.check(began, |took, more| {
                    tracing::warn!(
                        revision = %image.revision(), ?took, more,
                        "applying a change of the tree blocked a worker"
                    );
                });
            }
        });
        if task.await.is_err() {
            // The runtime goes down, or a change could not be taken: what follows must not be announced on top of it.
            return;
        }
        // Before the announcement: a request that waited for this revision is answered after it, and whoever reads the
        // metric then must find it.
        self.context.telemetry.image_revision.set(i64::try_from(revision.0).unwrap_or(i64::MAX));
        self.context.metadata.announce();
    }
}

/// When a stream is left that is said to lag.
#[derive(Default)]
struct Leaving {
    /// Of the stream, when it was said last.
    parts: u64,
}

impl Leaving {
    /// The next update; none: the stream is to be left. Not while it brings more and more of one update: the snapshot
    /// of a large tree takes longer than an image may lag behind. Whoever left it each time would never have it whole.
    async fn next(&mut self, stream: &mut WatchStream, leave: &Notify) -> Option<Result<WatchUpdate, CallError>> {
        loop {
            tokio::select! {
                update = stream.next() => return Some(update),
                () = leave.notified() => {}
            }
            let before = std::mem::replace(&mut self.parts, stream.parts());
            if self.parts == before {
                return None;
            }
        }
    }
}

/// The image after an update, and what it changed; none if it is not newer.
fn step(image: &Image, update: WatchUpdate) -> Option<(Image, Delta)> {
    match update {
        WatchUpdate::Changes { revision, changes } => tree_watch::follow_changes(image, revision, &changes),
        WatchUpdate::Snapshot { revision, nodes } => {
            let nodes = nodes.iter().map(|(path, node)| (path, node));
            tree_watch::follow_snapshot(image, revision, nodes, tree_watch::BrokenRules::default())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures::Stream;
    use ottla_model::Revision;
    use ottla_rpc::cluster::cluster_server::{Cluster, ClusterServer};
    use ottla_rpc::cluster::{
        DecideRequest, DecideResponse, DescribeQuorumRequest, DescribeQuorumResponse, HeartbeatRequest,
        HeartbeatResponse, SnapshotChunk, WatchEvent, WatchRequest, watch_event,
    };
    use parking_lot::Mutex;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
    use tonic::{Request, Response, Status, Streaming};

    use super::*;

    type Events = ReceiverStream<Result<WatchEvent, Status>>;
    type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

    /// A coordinator whose watch stream the test feeds.
    struct Fed(Mutex<Option<Events>>);

    #[tonic::async_trait]
    impl Cluster for Fed {
        type HeartbeatStream = Responses<HeartbeatResponse>;
        type WatchStream = Events;

        async fn decide(&self, _: Request<DecideRequest>) -> Result<Response<DecideResponse>, Status> {
            Err(Status::unimplemented("not of this test"))
        }

        async fn describe_quorum(
            &self,
            _: Request<DescribeQuorumRequest>,
        ) -> Result<Response<DescribeQuorumResponse>, Status> {
            Err(Status::unimplemented("not of this test"))
        }

        async fn heartbeat(
            &self,
            _: Request<Streaming<HeartbeatRequest>>,
        ) -> Result<Response<Self::HeartbeatStream>, Status> {
            Err(Status::unimplemented("not of this test"))
        }

        async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
            self.0.lock().take().map(Response::new).ok_or_else(|| Status::unavailable("watched already"))
        }
    }

    fn chunk(last: bool) -> Result<WatchEvent, Status> {
        let chunk = SnapshotChunk { revision: 7, nodes: Vec::new(), last };
        Ok(WatchEvent { event: Some(watch_event::Event::Snapshot(chunk)) })
    }

    /// Half a second after the registration the image lagged, and the broker began anew with another coordinator: with
    /// a tree that takes longer to come it never had an image, nor was ready.
    #[tokio::test]
    async fn a_stream_is_not_left_while_it_brings_a_large_snapshot() {
        const BRIEFLY: Duration = Duration::from_millis(100);
        let (events, fed) = mpsc::channel(4);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("bound").to_string();
        let service = ClusterServer::new(Fed(Mutex::new(Some(ReceiverStream::new(fed)))));
        let server = tonic::transport::Server::builder().add_service(service);
        let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let client = ClusterClient::new(&[address]).expect("an address");
        let mut stream = client.watch(Revision(0), BrokerId(1), None, OPEN_TIMEOUT).await.expect("watched");
        let (mut leaving, leave) = (Leaving::default(), Notify::new());
        for parts in 1..=3 {
            events.send(chunk(false)).await.expect("taken");
            while stream.parts() < parts {
                let next = tokio::time::timeout(BRIEFLY, leaving.next(&mut stream, &leave)).await;
                assert!(next.is_err(), "it is not complete");
            }
            leave.notify_one();
            let next = tokio::time::timeout(BRIEFLY, leaving.next(&mut stream, &leave)).await;
            assert!(next.is_err(), "more of it has come");
        }
        leave.notify_one();
        assert!(leaving.next(&mut stream, &leave).await.is_none(), "nothing has come since");
        events.send(chunk(true)).await.expect("taken");
        let update = leaving.next(&mut stream, &leave).await.expect("not to be left").expect("an update");
        assert_eq!(update.revision(), Revision(7));
        serving.abort();
    }
}
