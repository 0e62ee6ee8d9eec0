//! What a coordinator has only while it leads: the controller, its proposals on their way, and everybody who waits for an answer.
//! Thrown away as a whole when the leadership is lost; what is in flight then may commit or not, and is told so to nobody here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use ottla_consensus::{LogStore, Member};
use ottla_metadata::controller::{
    Answer, BeatAnswer, Controller, ControllerConfig, Effects, EntryId, Input, Now, Probe, Request, RequestId, StreamId,
};
use ottla_metadata::image::Image;
use ottla_metadata::liveness::Reached;
use ottla_metadata::transaction::Transaction;
use ottla_metadata::tree::Tree;
use ottla_rpc::NotLeader;
use tokio::sync::{mpsc, oneshot};

use super::event::Outcome;

/// Requests that may wait for the controller to be ready or for their decision. More are told to ask again.
const WAITING_REQUESTS_MAX: usize = 16_384;
/// Bytes of transactions in one proposal; a group commit larger than this only delays its first.
const PROPOSAL_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(super) struct Leadership {
    pub term: u64,
    /// None until the first entry of the term is applied: before, nothing may be decided.
    controller: Option<Controller>,
    /// What came before there was a controller, in order.
    early: Vec<Input>,
    requests: BTreeMap<RequestId, oneshot::Sender<Outcome>>,
    last_request: u64,
    streams: BTreeMap<StreamId, mpsc::Sender<Result<BeatAnswer, NotLeader>>>,
    /// Decided, not yet proposed.
    queue: VecDeque<(EntryId, Bytes)>,
    /// Proposed, by revision.
    in_flight: BTreeMap<u64, EntryId>,
    /// Endpoints that the driver is to have dialled.
    pub probes: Vec<Probe>,
}

impl Leadership {
    pub fn new(term: u64) -> Self {
        Self {
            term,
            controller: None,
            early: Vec::new(),
            requests: BTreeMap::new(),
            last_request: 0,
            streams: BTreeMap::new(),
            queue: VecDeque::new(),
            in_flight: BTreeMap::new(),
            probes: Vec::new(),
        }
    }

    pub fn is_unsettled(&self) -> bool {
        self.controller.as_ref().is_some_and(Controller::is_unsettled)
    }

    pub fn is_deciding(&self) -> bool {
        self.controller.is_some()
    }

    /// The first entry of this term is applied: `tree` and `image` are as it left them.
    pub fn begin(&mut self, now: Now, config: ControllerConfig, tree: Tree, image: Image, reached: Reached) {
        let (controller, effects) = Controller::new(now, config, tree, image, reached);
        self.controller = Some(controller);
        self.carry_out(effects);
        for input in std::mem::take(&mut self.early) {
            self.step(now, input);
        }
    }

    pub fn step(&mut self, now: Now, input: Input) {
        match &mut self.controller {
            Some(controller) => {
                let effects = controller.step(now, input);
                self.carry_out(effects);
            }
            None => self.early.push(input),
        }
    }

    pub fn tick(&mut self, now: Now) {
        if let Some(controller) = &mut self.controller {
            let effects = controller.tick(now);
            self.carry_out(effects);
        }
    }

    /// The caller's random bytes decide ids and placement.
    pub fn request(&mut self, now: Now, request: Request, entropy: [u8; 16], answer: oneshot::Sender<Outcome>) {
        if self.requests.len() >= WAITING_REQUESTS_MAX {
            let _ = answer.send(Ok(Answer::Unavailable));
            return;
        }
        self.last_request += 1;
        let id = RequestId(self.last_request);
        self.requests.insert(id, answer);
        self.step(now, Input::Request { id, request, entropy });
    }

    pub fn stream_opened(&mut self, stream: StreamId, answers: mpsc::Sender<Result<BeatAnswer, NotLeader>>) {
        self.streams.insert(stream, answers);
    }

    pub fn has_stream(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    pub fn stream_closed(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    fn carry_out(&mut self, effects: Effects) {
        for (entry, transaction) in effects.proposals {
            self.queue.push_back((entry, transaction.encode().into()));
        }
        for (request, answer) in effects.answers {
            if let Some(waiting) = self.requests.remove(&request) {
                // Whoever asked may have gone away.
                let _ = waiting.send(Ok(answer));
            }
        }
        for (stream, answer) in effects.heartbeats {
            if let Some(answers) = self.streams.get(&stream) {
                // A broker that does not read its answers gets the next one.
                let _ = answers.try_send(Ok(answer));
            }
        }
        self.probes.extend(effects.probes);
        for note in effects.notes {
            if note.is_warning {
                tracing::warn!("{}", note.text);
            } else {
                tracing::info!("{}", note.text);
            }
        }
    }

    /// Proposes what was decided, many entries at once. What Raft does not take now (the leadership is being handed over) waits.
    /// Returns how many entries were proposed.
    pub fn propose<S: LogStore>(&mut self, member: &mut Member<S>) -> usize {
        let mut proposed_entries = 0;
        while !self.queue.is_empty() {
            let mut bytes = 0;
            let batch: Vec<Bytes> = self
                .queue
                .iter()
                .map(|(_, data)| data.clone())
                .take_while(|data| {
                    let fits = bytes == 0 || bytes + data.len() <= PROPOSAL_BYTES_MAX;
                    bytes += data.len();
                    fits
                })
                .collect();
            let count = batch.len();
            let Ok(proposed) = member.propose(batch) else { break };
            for (at, (entry, _)) in self.queue.drain(..count).enumerate() {
                self.in_flight.insert(proposed.first.0 + at as u64, entry);
            }
            proposed_entries += count;
        }
        proposed_entries
    }

    /// The entry at `revision` is applied; its name, if this controller proposed it.
    pub fn applied(&mut self, revision: u64) -> Option<EntryId> {
        self.in_flight.remove(&revision)
    }

    /// The leadership is lost: everybody is told to go elsewhere. What was learned about reachable brokers is kept; none where
    /// nothing was decided.
    pub fn end(self, not_leader: &NotLeader) -> Option<Reached> {
        for (_, waiting) in self.requests {
            let _ = waiting.send(Err(not_leader.clone()));
        }
        for (_, answers) in self.streams {
            let _ = answers.try_send(Err(not_leader.clone()));
        }
        self.controller.map(Controller::into_reached)
    }
}

/// The controller's settings that come from the configuration.
#[derive(Clone, Debug)]
pub struct Liveness {
    pub session_timeout: Duration,
    pub reconnect_grace: Duration,
    pub tick_interval: Duration,
    pub reserved_broker_max_id: i32,
}

/// A transaction that a committed entry carries.
pub(super) fn decode(data: &[u8]) -> Result<Transaction, String> {
    Transaction::decode(data).map_err(|error| error.to_string())
}
