//! The steps that the owner of a member must execute, in this order:
//!
//! 1. send `messages`;
//! 2. write `persist` in one batch, and sync it if `must_sync` is set;
//! 3. call [`crate::Member::persisted`], which gives more messages and committed entries;
//! 4. only then send `messages_after_persist`: they promise that the batch is on the disk;
//! 5. apply `committed` of both, in order, and call [`crate::Member::applied`].
//!
//! A crash between any two of these steps is safe; a message of step 4 that leaves before step 2 is not.

use bytes::Bytes;
use ottla_model::{CoordinatorId, Revision};

use protobuf::{CodedOutputStream, Message as _};
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Message, MessageType};

use crate::log_store::{Entry, EntryType, HardState, Snapshot};

/// A message for another member, opaque to the transport. Messages may be lost, repeated and reordered.
#[derive(Clone, PartialEq, Debug)]
pub struct Outgoing {
    pub to: CoordinatorId,
    /// The encoded message without the snapshot data, which is its last field.
    pub head: Bytes,
    /// The snapshot data of the message, shared with other messages that carry the same snapshot. The owner must report
    /// the outcome with [`crate::Member::report_snapshot`].
    pub snapshot_data: Option<Bytes>,
}

/// Fields of Raft's protobuf messages, with the wire type of bytes.
const MESSAGE_SNAPSHOT: u32 = 9 << 3 | 2;
const SNAPSHOT_DATA: u32 = 1 << 3 | 2;

impl Outgoing {
    /// None if the message cannot be encoded.
    pub(crate) fn new(mut message: Message) -> Option<Self> {
        let to = CoordinatorId(message.to);
        if message.get_msg_type() != MessageType::MsgSnapshot {
            return Some(Self { to, head: message.write_to_bytes().ok()?.into(), snapshot_data: None });
        }
        // The data comes last, so that it need not be copied.
        let mut snapshot = message.take_snapshot();
        let data = std::mem::take(&mut snapshot.data);
        let metadata = snapshot.write_to_bytes().ok()?;
        let mut data_head = Vec::new();
        let mut stream = CodedOutputStream::vec(&mut data_head);
        stream.write_raw_varint32(SNAPSHOT_DATA).ok()?;
        stream.write_raw_varint64(data.len() as u64).ok()?;
        stream.flush().ok()?;
        let mut head = message.write_to_bytes().ok()?;
        let mut stream = CodedOutputStream::vec(&mut head);
        stream.write_raw_varint32(MESSAGE_SNAPSHOT).ok()?;
        stream.write_raw_varint64((metadata.len() + data_head.len() + data.len()) as u64).ok()?;
        stream.flush().ok()?;
        head.extend_from_slice(&metadata);
        head.extend_from_slice(&data_head);
        Some(Self { to, head: head.into(), snapshot_data: Some(data) })
    }

    pub fn is_snapshot(&self) -> bool {
        self.snapshot_data.is_some()
    }

    /// The whole message in one piece.
    pub fn to_bytes(&self) -> Bytes {
        match &self.snapshot_data {
            None => self.head.clone(),
            Some(data) => [&self.head[..], data].concat().into(),
        }
    }
}

/// One batch for the log store.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Persist {
    /// Replaces the log and the state machine, before the entries.
    pub snapshot: Option<Snapshot>,
    /// Consecutive entries; they replace the log from the index of the first one.
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// Messages depend on it: the batch must be on the disk before they are sent.
    pub must_sync: bool,
}

impl Persist {
    pub fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.entries.is_empty() && self.hard_state.is_none()
    }
}

/// An entry that a majority holds: apply it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    pub revision: Revision,
    pub term: u64,
    /// Empty: a new leader's first entry, which changes nothing, but moves the revision.
    pub data: Bytes,
    /// With an entry that changes the membership; the owner applies it with [`crate::Member::change_membership`].
    pub member_change: Option<MemberChange>,
}

/// One member of the quorum becomes another thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberChange {
    /// It receives the log from now on.
    AddLearner(CoordinatorId),
    /// It counts for majorities from now on.
    AddVoter(CoordinatorId),
    Remove(CoordinatorId),
}

impl MemberChange {
    pub(crate) fn to_raft(self) -> ConfChangeV2 {
        let (kind, id) = match self {
            Self::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
            Self::AddVoter(id) => (ConfChangeType::AddNode, id),
            Self::Remove(id) => (ConfChangeType::RemoveNode, id),
        };
        let mut single = ConfChangeSingle { node_id: id.0, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        ConfChangeV2 { changes: vec![single].into(), ..ConfChangeV2::default() }
    }

    /// The change that the entry makes, if it makes one. An error is an entry that no release wrote.
    #[allow(clippy::result_unit_err)]
    pub fn of(entry: &Entry) -> Result<Option<Self>, ()> {
        match entry.get_entry_type() {
            EntryType::EntryNormal => Ok(None),
            EntryType::EntryConfChange => Err(()),
            EntryType::EntryConfChangeV2 => Self::from_entry(entry).map(Some).ok_or(()),
        }
    }

    /// The entry's own data, beside the change of a member.
    pub fn data(entry: &Entry) -> &Bytes {
        if entry.get_entry_type() == EntryType::EntryNormal { &entry.data } else { &entry.context }
    }

    /// None if the entry's data is not one change of one member.
    pub(crate) fn from_entry(entry: &Entry) -> Option<Self> {
        let change = ConfChangeV2::parse_from_bytes(&entry.data).ok()?;
        let [single] = change.changes.as_ref() else { return None };
        let id = CoordinatorId(single.node_id);
        let is_plain = change.get_transition() == ConfChangeTransition::Auto && change.context.is_empty();
        (is_plain && id.0 != 0).then_some(match single.get_change_type() {
            ConfChangeType::AddLearnerNode => Self::AddLearner(id),
            ConfChangeType::AddNode => Self::AddVoter(id),
            ConfChangeType::RemoveNode => Self::Remove(id),
        })
    }
}

/// Every state up to `revision` was committed when the read began: once that is applied here, the read may be answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadConfirmed {
    pub context: Vec<u8>,
    pub revision: Revision,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Follower,
    /// Candidate or pre-candidate: the member asks for votes.
    Candidate,
    Leader,
}

/// This member's role, and the leader that it knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleChange {
    pub role: Role,
    pub leader: Option<CoordinatorId>,
    pub term: u64,
}

/// See the module for the order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Effects {
    pub messages: Vec<Outgoing>,
    pub persist: Persist,
    pub messages_after_persist: Vec<Outgoing>,
    pub committed: Vec<Committed>,
    pub reads: Vec<ReadConfirmed>,
    /// Set if the role, the leader or the term changed.
    pub role: Option<RoleChange>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_in_two_pieces_is_the_same_message() {
        for data in [&b""[..], &[7; 300_000]] {
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgSnapshot);
            (message.to, message.from, message.term, message.priority) = (2, 1, 9, 3);
            message.mut_snapshot().data = Bytes::copy_from_slice(data);
            message.mut_snapshot().mut_metadata().index = 70;
            message.mut_snapshot().mut_metadata().mut_conf_state().voters = vec![1, 2, 3];
            let outgoing = Outgoing::new(message.clone()).expect("written");
            assert!(outgoing.is_snapshot());
            let read = Message::parse_from_carllerche_bytes(&outgoing.to_bytes()).expect("readable");
            assert_eq!(read, message);
        }
    }
}
