//! The messages for one peer, between the driver and the task of its connection.

use ottla_consensus::Outgoing;
use ottla_model::{BrokerId, CoordinatorId};
use tokio::sync::mpsc;

/// Bound of the messages that wait for one peer: the most that Raft has in flight, and its heartbeats.
pub const QUEUED_MESSAGES_MAX: usize = 256;

/// What goes to a peer.
pub enum PeerMessage {
    Raft(Outgoing),
    /// These brokers asked this coordinator for the leader, which the peer is.
    BrokersAsked(Vec<BrokerId>),
}

/// A member to dial, and what is sent to it.
pub struct Peer {
    pub id: CoordinatorId,
    pub address: String,
    pub queue: mpsc::Receiver<PeerMessage>,
}
