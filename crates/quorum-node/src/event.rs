//! The inputs and outputs of a node.

use std::sync::Arc;

use bytes::Bytes;
use ottla_consensus::{Outgoing, RoleChange, Snapshot};
use ottla_metadata::controller::{Answer, Beat, BeatAnswer, Probe, ProbeResult, Request, StreamId};
use ottla_metadata::tree::Tree;
use ottla_model::{BrokerId, CoordinatorId, FeatureLevels, IncarnationId, Revision};

use crate::members::Members;
use crate::view::View;
use crate::watchers::Changes;

/// Names a request until it is answered; chosen by the caller, unique among the unanswered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CallId(pub u64);

/// Names a linearizable read; as [`CallId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ReadId(pub u64);

/// Names a watcher of the tree; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WatcherId(pub u64);

/// An input of the node.
#[derive(Clone, Debug)]
pub enum Event {
    /// A whole Raft message of a peer, which shows this disk.
    Raft {
        sender: CoordinatorId,
        disk: IncarnationId,
        message: Bytes,
    },
    /// Messages in flight to this peer are probably lost.
    PeerUnreachable(CoordinatorId),
    /// The peer's address refuses connections: its process has ended.
    PeerGone(CoordinatorId),
    /// A snapshot left for this peer, or did not.
    SnapshotSent {
        to: CoordinatorId,
        sent: bool,
    },
    /// A broker asked this coordinator for the quorum leader, which this one is not.
    BrokerAsked(BrokerId),
    /// These brokers asked another member for the leader: its [`Output::BrokersAsked`].
    PeerWasAsked {
        sender: CoordinatorId,
        disk: IncarnationId,
        brokers: Vec<BrokerId>,
    },
    /// The answer to [`Output::MakeSnapshot`].
    SnapshotMade(Snapshot),
    SnapshotFailed,
    /// A peer answered as this disk, and works at these levels of `ottla.version`.
    PeerIdentified {
        id: CoordinatorId,
        disk: IncarnationId,
        levels: FeatureLevels,
    },
    /// Another member knows this coordinator, with this disk, as a member.
    Vouched {
        id: CoordinatorId,
        disk: IncarnationId,
        address: String,
    },
    /// The caller's random bytes decide ids and placement.
    Request {
        call: CallId,
        request: Request,
        entropy: [u8; 16],
    },
    StreamOpened {
        stream: StreamId,
        beat: Beat,
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
    Read(ReadId),
    /// The caller of the read is gone.
    ReadClosed(ReadId),
    /// Follows the tree from the revision that it has; 0: none.
    WatchOpened {
        watcher: WatcherId,
        from: Revision,
    },
    /// It went away, or is too slow.
    WatchClosed(WatcherId),
}

/// Why a request was not answered by the controller.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// This node does not lead, or no longer leads. The request may have been decided, or may still be.
    #[error("this coordinator does not lead the quorum")]
    NotLeader { leader: Option<CoordinatorId> },
    /// The decision cannot be proposed: a retry would not help.
    #[error("{0}")]
    Refused(String),
}

/// How a request ended.
pub type Outcome = Result<Answer, RequestError>;

/// An update for a watcher.
#[derive(Clone, Debug)]
pub enum WatchUpdate {
    /// The whole tree; replaces the watcher's state.
    Snapshot(Arc<View>),
    /// The changes of one revision.
    Changes(Changes),
}

/// An entry that was applied here.
#[derive(Clone, Debug)]
pub struct AppliedEntry {
    pub revision: Revision,
    /// As the entry left it.
    pub tree: Tree,
    /// Why it changed nothing, though it was to.
    pub problem: Option<String>,
}

/// A line for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    pub is_warning: bool,
    pub text: String,
}

/// An action that the owner must execute.
#[derive(Clone, Debug)]
pub enum Output {
    Respond {
        call: CallId,
        outcome: Outcome,
    },
    Beat {
        stream: StreamId,
        response: BeatAnswer,
    },
    /// This node does not lead: the stream's broker must connect to the leader.
    EndStream {
        stream: StreamId,
        leader: Option<CoordinatorId>,
    },
    /// The read may be answered, with the state published last.
    Read(ReadId),
    /// Dial a broker; ends in [`Event::Probed`].
    Probe(Probe),
    Applied(AppliedEntry),
    /// The state after everything that was applied so far.
    Published(Arc<View>),
    Watch {
        watcher: WatcherId,
        update: WatchUpdate,
    },
    /// The members of the quorum changed, or their addresses did, or another member vouches for a coordinator. Messages
    /// reach those that are named there.
    Members(Arc<Members>),
    /// Tell the leader that these brokers asked here for it, if there is room: see [`Event::PeerWasAsked`].
    BrokersAsked {
        leader: CoordinatorId,
        brokers: Vec<BrokerId>,
    },
    /// This coordinator is no longer a member: it must stop. Its node takes no part in the quorum any more.
    Removed,
    /// Make a snapshot of the tree in the store; ends in [`Event::SnapshotMade`].
    MakeSnapshot,
    /// The role, the leader or the term changed.
    Role(RoleChange),
    /// This many partitions got leaders that may lack acknowledged records. The notes name them.
    UncleanElections(u64),
    Note(Note),
}

/// Executes a node's outputs, in this order and immediately: a message passed to [`Sink::send`] may leave before the
/// node's next write.
pub trait Sink {
    /// Passes the message on to its peer, without waiting. False if there is no room: the message is lost.
    fn send(&mut self, message: Outgoing) -> bool;

    fn put(&mut self, output: Output);
}

pub(crate) fn note(out: &mut impl Sink, is_warning: bool, text: String) {
    out.put(Output::Note(Note { is_warning, text }));
}
