//! What reaches the driver, and the bounded way in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use bytes::Bytes;
use ottla_consensus::{Snapshot, Status};
use ottla_metadata::controller::{Answer, Beat, BeatAnswer, ProbeResult, Request, StreamId};
use ottla_model::{BrokerId, CoordinatorId, IncarnationId};
use ottla_rpc::NotLeader;
use tokio::sync::{mpsc, oneshot};

use crate::rocksdb_store::DiskError;
use crate::view::View;

/// Events that may wait for the driver: some milliseconds of its work.
pub const QUEUED_EVENTS_MAX: usize = 4_096;
/// How long a task waits before it tries a full queue again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// How a request ended: decided, or not here.
pub type Outcome = Result<Answer, NotLeader>;

pub enum Event {
    /// A whole Raft message of a peer.
    Raft(Bytes),
    /// What was on its way to this peer is probably lost.
    PeerUnreachable(CoordinatorId),
    /// Nobody listens at this peer's address any more.
    PeerGone(CoordinatorId),
    SnapshotSent {
        to: CoordinatorId,
        sent: bool,
    },
    SnapshotMade(Result<Snapshot, DiskError>),
    /// A peer answered as this disk.
    PeerIdentified {
        id: CoordinatorId,
        disk: IncarnationId,
    },
    Request {
        request: Request,
        answer: oneshot::Sender<Outcome>,
    },
    StreamOpened {
        stream: StreamId,
        beat: Beat,
        answers: mpsc::Sender<Result<BeatAnswer, NotLeader>>,
    },
    StreamBeat {
        stream: StreamId,
        beat: Beat,
    },
    StreamClosed {
        stream: StreamId,
    },
    Probed {
        broker: BrokerId,
        incarnation: IncarnationId,
        result: ProbeResult,
    },
    /// A linearizable read: answered with a state that has everything that was committed before.
    Read(oneshot::Sender<Arc<View>>),
    Status(oneshot::Sender<Status>),
    /// Hand over what can be handed over and stop.
    Stop,
    /// Stop as a killed process would: nothing is handed over.
    Halt,
}

/// The driver has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the coordinator is stopping")]
pub struct Stopped;

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct DriverHandle {
    events: SyncSender<Event>,
    streams: Arc<AtomicU64>,
}

impl DriverHandle {
    pub(super) fn new(events: SyncSender<Event>) -> Self {
        Self { events, streams: Arc::default() }
    }

    /// Waits, without blocking the thread, while the queue is full.
    pub async fn send(&self, mut event: Event) -> Result<(), Stopped> {
        loop {
            match self.events.try_send(event) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Stopped),
                Err(TrySendError::Full(back)) => event = back,
            }
            tokio::time::sleep(FULL_QUEUE_PAUSE).await;
        }
    }

    /// Loses the event where the queue is full.
    pub fn try_send(&self, event: Event) -> Result<(), Stopped> {
        match self.events.try_send(event) {
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(Stopped),
        }
    }

    /// For a thread of its own.
    pub fn send_blocking(&self, event: Event) -> Result<(), Stopped> {
        self.events.send(event).map_err(|_| Stopped)
    }

    pub async fn request(&self, request: Request) -> Result<Outcome, Stopped> {
        let (answer, outcome) = oneshot::channel();
        self.send(Event::Request { request, answer }).await?;
        outcome.await.map_err(|_| Stopped)
    }

    /// A state that holds everything that was committed before the call. Waits for a quorum; the caller bounds it.
    pub async fn linearizable_view(&self) -> Result<Arc<View>, Stopped> {
        let (answer, view) = oneshot::channel();
        self.send(Event::Read(answer)).await?;
        view.await.map_err(|_| Stopped)
    }

    pub async fn status(&self) -> Result<Status, Stopped> {
        let (answer, status) = oneshot::channel();
        self.send(Event::Status(answer)).await?;
        status.await.map_err(|_| Stopped)
    }

    /// Never the same twice within this process.
    pub fn next_stream(&self) -> StreamId {
        StreamId(self.streams.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
