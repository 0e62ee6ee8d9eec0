//! The inputs of the driver, and the bounded queue for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ottla_consensus::{Snapshot, Status};
use ottla_metadata::controller::{Answer, Beat, BeatAnswer, Request, StreamId};
use ottla_metadata::quorum_progress::QuorumProgress;
use ottla_model::Revision;
use ottla_quorum_node::{Event, View};
use ottla_rpc::NotLeader;
use tokio::sync::{mpsc, oneshot};

use super::queue::{PutError, Sender};
use super::watch::{self, WatchSender, Watching};
use crate::rocksdb_store::DiskError;

/// Inputs that may wait for the driver: some milliseconds of its work.
pub const QUEUED_INPUTS_MAX: usize = 4_096;
/// How long a task waits before it tries a full queue again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub enum RequestError {
    NotLeader(NotLeader),
    /// The decision cannot be proposed; a retry would not help.
    Refused(String),
}

/// How a request ended.
pub type Outcome = Result<Answer, RequestError>;

/// The channel for the responses to a broker's heartbeats.
pub type BeatSender = mpsc::Sender<Result<BeatAnswer, NotLeader>>;

pub enum Input {
    /// An input that the node accepts unchanged.
    Event(Event),
    Request {
        request: Request,
        reply: oneshot::Sender<Outcome>,
    },
    OpenStream {
        stream: StreamId,
        beat: Beat,
        responses: BeatSender,
    },
    Read(oneshot::Sender<Arc<View>>),
    Watch {
        from: Revision,
        updates: WatchSender,
    },
    Status(oneshot::Sender<Status>),
    Progress(oneshot::Sender<Option<QuorumProgress>>),
    SnapshotMade(Result<Snapshot, DiskError>),
    /// Transfer the leadership if possible, and stop.
    Stop,
    /// Stop as a killed process would: nothing is handed over.
    Halt,
}

impl From<Event> for Input {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

/// The driver has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the coordinator is stopping")]
pub struct Stopped;

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct DriverHandle {
    inputs: Sender<Input>,
    streams: Arc<AtomicU64>,
    answers_may_wait: Arc<AtomicBool>,
}

impl DriverHandle {
    pub(crate) fn new(inputs: Sender<Input>) -> Self {
        Self { inputs, streams: Arc::default(), answers_may_wait: Arc::default() }
    }

    /// Waits, without blocking the thread, while the queue is full.
    pub async fn send(&self, input: impl Into<Input>) -> Result<(), Stopped> {
        self.put(input.into(), Sender::try_send).await
    }

    /// As [`Self::send`], of an input that the driver need not be woken for: it takes it with the next one, or with the
    /// next tick. An idle quorum would wake its leader's driver for each answer to a heartbeat.
    pub async fn send_quietly(&self, input: impl Into<Input>) -> Result<(), Stopped> {
        self.put(input.into(), Sender::try_send_quietly).await
    }

    async fn put(
        &self,
        mut input: Input,
        put: impl Fn(&Sender<Input>, Input) -> Result<(), PutError<Input>>,
    ) -> Result<(), Stopped> {
        loop {
            match put(&self.inputs, input) {
                Ok(()) => return Ok(()),
                Err(PutError::Ended) => return Err(Stopped),
                Err(PutError::Full(back)) => input = back,
            }
            tokio::time::sleep(FULL_QUEUE_PAUSE).await;
        }
    }

    /// Whether nothing waits for answers to Raft's heartbeats: see [`ottla_quorum_node::Node::answers_may_wait`].
    pub fn answers_may_wait(&self) -> bool {
        self.answers_may_wait.load(Ordering::Acquire)
    }

    pub(super) fn let_answers_wait(&self, may_wait: bool) {
        self.answers_may_wait.store(may_wait, Ordering::Release);
    }

    /// Drops the input if the queue is full.
    pub fn try_send(&self, input: impl Into<Input>) -> Result<(), Stopped> {
        match self.inputs.try_send(input.into()) {
            Ok(()) | Err(PutError::Full(_)) => Ok(()),
            Err(PutError::Ended) => Err(Stopped),
        }
    }

    /// For use outside the runtime.
    pub fn send_blocking(&self, input: impl Into<Input>) -> Result<(), Stopped> {
        self.inputs.send(input.into()).map_err(|_| Stopped)
    }

    /// Submits a request to the controller.
    pub async fn submit(&self, request: Request) -> Result<Outcome, Stopped> {
        let (reply, outcome) = oneshot::channel();
        self.send(Input::Request { request, reply }).await?;
        outcome.await.map_err(|_| Stopped)
    }

    /// A state that holds everything that was committed before the call. Waits for a quorum; the caller bounds it.
    pub async fn linearizable_view(&self) -> Result<Arc<View>, Stopped> {
        let (reply, view) = oneshot::channel();
        self.send(Input::Read(reply)).await?;
        view.await.map_err(|_| Stopped)
    }

    /// Follows the tree from the revision that the caller has; 0: none.
    pub async fn watch(&self, from: Revision) -> Result<Watching, Stopped> {
        let (updates, watching) = watch::channel();
        self.send(Input::Watch { from, updates }).await?;
        Ok(watching)
    }

    pub async fn status(&self) -> Result<Status, Stopped> {
        let (reply, status) = oneshot::channel();
        self.send(Input::Status(reply)).await?;
        status.await.map_err(|_| Stopped)
    }

    /// None if this coordinator does not lead the quorum.
    pub async fn progress(&self) -> Result<Option<QuorumProgress>, Stopped> {
        let (reply, progress) = oneshot::channel();
        self.send(Input::Progress(reply)).await?;
        progress.await.map_err(|_| Stopped)
    }

    /// Never the same twice within this process.
    pub fn next_stream(&self) -> StreamId {
        StreamId(self.streams.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
