//! The watch stream: the tree as one coordinator applies it. A snapshot if the coordinator no longer has the changes
//! since the caller's revision, then every change, in order of revision.

use std::time::Duration;

use ottla_metadata::tree::{Node, NodeChange, Path};
use ottla_model::{BrokerId, Revision};
use tokio::time::Instant;
use tonic::Streaming;

use crate::cluster::watch_event::Event;
use crate::cluster::{WatchEvent, WatchRequest};
use crate::cluster_client::generated;
use crate::convert;
use crate::coordinators::{ATTEMPT_TIMEOUT, BACKOFF_MAX, BACKOFF_MIN, CallError, Coordinators, describe};

const OPERATION: &str = "watch";

/// The updates of a watcher, in this order: at most one snapshot, then changes.
#[derive(Clone, Debug)]
pub enum WatchUpdate {
    /// The whole tree at `revision`; replaces what the watcher had.
    Snapshot { revision: Revision, nodes: Vec<(Path, Node)> },
    /// The changes of one revision; none if only the revision moved.
    Changes { revision: Revision, changes: Vec<NodeChange> },
}

impl WatchUpdate {
    pub fn revision(&self) -> Revision {
        match self {
            Self::Snapshot { revision, .. } | Self::Changes { revision, .. } => *revision,
        }
    }
}

/// Every revision is above the one before it: a coordinator that would go back is left.
#[derive(Debug)]
pub struct WatchStream {
    events: Streaming<WatchEvent>,
    address: String,
    /// The greatest revision that was handed out, or that the caller came with.
    revision: Revision,
    /// The chunks of a snapshot that is not complete.
    snapshot: Vec<(Path, Node)>,
    /// The parts of a revision that is not complete.
    changes: Vec<NodeChange>,
    /// How many parts have come that did not complete an update.
    parts: u64,
}

pub(crate) async fn open(
    coordinators: &Coordinators,
    from: Revision,
    broker: BrokerId,
    not_at: Option<&str>,
    timeout: Duration,
) -> Result<WatchStream, CallError> {
    let deadline = Instant::now() + timeout;
    let first = usize::try_from(broker.0).unwrap_or(0);
    let mut last = "nobody was asked".to_owned();
    let mut pause = BACKOFF_MIN;
    loop {
        // The coordinator that the caller has just left comes last.
        let mut listed = coordinators.listed();
        let start = first % listed.len().max(1);
        listed.rotate_left(start);
        let (others, left): (Vec<_>, Vec<_>) =
            listed.into_iter().partition(|target| Some(target.address.as_str()) != not_at);
        for target in others.into_iter().chain(left) {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(CallError::Deadline { operation: OPERATION, timeout, last, maybe_done: false });
            }
            let request = WatchRequest { from_revision: from.0, broker_id: broker.0 };
            let mut client = generated(target.channel.clone());
            match tokio::time::timeout(remaining.min(ATTEMPT_TIMEOUT), client.watch(request)).await {
                Ok(Ok(response)) => {
                    return Ok(WatchStream {
                        events: response.into_inner(),
                        address: target.address.clone(),
                        revision: from,
                        snapshot: Vec::new(),
                        changes: Vec::new(),
                        parts: 0,
                    });
                }
                Ok(Err(status)) => last = format!("{}: {}", target.address, describe(&status)),
                Err(_elapsed) => last = format!("{}: silent", target.address),
            }
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(pause.min(remaining)).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

impl WatchStream {
    /// The address of the coordinator that is watched.
    pub fn coordinator(&self) -> &str {
        &self.address
    }

    /// How many parts of updates have come after which their update was not complete. While this grows, the caller is
    /// being sent more than its revision shows.
    pub fn parts(&self) -> u64 {
        self.parts
    }

    /// The next update. An error ends the stream: the caller opens another from the revision that it has.
    ///
    /// Cancel safe: the parts of a snapshot that have come stay with the stream.
    pub async fn next(&mut self) -> Result<WatchUpdate, CallError> {
        loop {
            let event = match self.events.message().await {
                Ok(Some(event)) => event,
                Ok(None) => return Err(self.ended("closed".to_owned())),
                Err(status) => return Err(self.ended(describe(&status))),
            };
            match event.event {
                Some(Event::Snapshot(chunk)) => {
                    for node in chunk.nodes {
                        let node = convert::node_from_proto(node).map_err(|error| self.malformed(error.to_string()))?;
                        self.snapshot.push(node);
                    }
                    if chunk.last {
                        let revision = self.advance(Revision(chunk.revision), true)?;
                        return Ok(WatchUpdate::Snapshot { revision, nodes: std::mem::take(&mut self.snapshot) });
                    }
                    self.parts += 1;
                }
                Some(Event::Changes(part)) => {
                    for change in part.changes {
                        let change =
                            convert::change_from_proto(change).map_err(|error| self.malformed(error.to_string()))?;
                        self.changes.push(change);
                    }
                    if !part.more {
                        let revision = self.advance(Revision(part.revision), false)?;
                        return Ok(WatchUpdate::Changes { revision, changes: std::mem::take(&mut self.changes) });
                    }
                    self.parts += 1;
                }
                // An event of a later release: it has no changes of the tree.
                None => {}
            }
        }
    }

    /// A snapshot may repeat the revision that the caller has; nothing may fall behind it.
    fn advance(&mut self, to: Revision, may_repeat: bool) -> Result<Revision, CallError> {
        if to < self.revision || (to == self.revision && !may_repeat) {
            return Err(self.malformed(format!("revision {} after {}", to.0, self.revision.0)));
        }
        self.revision = to;
        Ok(to)
    }

    fn ended(&self, reason: String) -> CallError {
        CallError::StreamEnded { operation: OPERATION, address: self.address.clone(), reason }
    }

    fn malformed(&self, reason: String) -> CallError {
        CallError::Malformed { operation: OPERATION, address: self.address.clone(), reason }
    }
}
