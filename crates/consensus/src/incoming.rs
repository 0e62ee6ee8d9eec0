//! Checks of a peer's message before Raft sees it.
//!
//! The Raft library trusts its peers. A term near 2^64, a commit index beyond the end of the log, entries with a gap,
//! or a snapshot of an impossible membership makes it panic, and since it persists the term of such a message, it
//! panics again after every restart. Each condition below excludes one of those panics. Messages that no correct member
//! sends are refused; late, repeated and reordered messages pass.

use bytes::Bytes;
use ottla_model::CoordinatorId;
use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{Raft, Storage};

use crate::effects::MemberChange;
use crate::log_store::Snapshot;
use crate::membership::Membership;

/// A term may be ahead of this member's by as many elections as an ensemble without rest holds in three months. An
/// attacker would have to send 2^38 messages, each of which is written to the disk, to come near the greatest term.
const TERM_JUMP_MAX: u64 = 1 << 24;
/// Terms are added to; the greatest one leaves room.
const TERM_MAX: u64 = 1 << 62;
/// Indexes are added to; a log never gets there.
const INDEX_MAX: u64 = 1 << 60;
/// A question's context has 24 bytes, a campaign's name fewer.
const CONTEXT_BYTES_MAX: usize = 256;
/// Bound of the reads of peers that a leader has not answered. A peer repeats a read after a while, so more of them
/// come from a faulty peer.
const PENDING_READS_MAX: usize = 4_096;

/// Why a peer's message was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageError {
    #[error("it cannot be decoded")]
    Malformed,
    #[error("it is for coordinator {to}")]
    NotForMe { to: u64 },
    #[error("its sender, coordinator {from}, is not another coordinator")]
    Stranger { from: u64 },
    #[error("this member joins, and needs a snapshot first")]
    Joining,
    #[error("{0} is not a message between members")]
    Kind(&'static str),
    #[error("its term {term} is impossible: this member is in term {known}")]
    Term { term: u64, known: u64 },
    #[error("its index {index} is beyond the end of the log, {last}")]
    Index { index: u64, last: u64 },
    #[error("its commit index {commit} is beyond the end of the log, {last}")]
    Commit { commit: u64, last: u64 },
    #[error("its entries are not consecutive")]
    Entries,
    #[error("its snapshot does not belong to this quorum: {0}")]
    Snapshot(&'static str),
    #[error("its context is invalid")]
    Context,
    #[error("too many reads are waiting")]
    TooManyReads,
    #[error("earlier entries are not on the disk yet")]
    Early,
}

/// A message of a peer, read but not checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Incoming {
    pub(crate) message: Message,
}

impl Incoming {
    pub fn parse(bytes: &Bytes) -> Result<Self, MessageError> {
        let message = Message::parse_from_carllerche_bytes(bytes).map_err(|_| MessageError::Malformed)?;
        Ok(Self { message })
    }

    pub fn from(&self) -> CoordinatorId {
        CoordinatorId(self.message.from)
    }

    /// Whether it only says that a follower is there: an answer to a heartbeat that no read waits for.
    pub fn is_plain_heartbeat_answer(&self) -> bool {
        self.message.get_msg_type() == MessageType::MsgHeartbeatResponse && self.message.context.is_empty()
    }

    /// The snapshot that it carries: the owner reads it before [`crate::Member::receive`], because a snapshot that
    /// cannot be read must not become the state machine.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        (self.message.get_msg_type() == MessageType::MsgSnapshot).then(|| self.message.get_snapshot())
    }
}

/// Refuses every message that would make the library panic or store something that no correct member sends.
pub(crate) fn check<S: Storage>(
    raft: &Raft<S>,
    membership: &Membership,
    message: &Message,
) -> Result<(), MessageError> {
    if message.to != raft.id {
        return Err(MessageError::NotForMe { to: message.to });
    }
    // A sender that this member does not know may belong to a later membership. Whether it does, the owner checks.
    if message.from == raft.id || message.from == 0 {
        return Err(MessageError::Stranger { from: message.from });
    }
    if membership.is_empty() {
        check_joining(message)?;
    }
    if message.context.len() > CONTEXT_BYTES_MAX {
        return Err(MessageError::Context);
    }
    check_kind(message.get_msg_type())?;
    check_term(raft, message)?;
    // The library answers these without reading their content, or drops them.
    if message.term != 0 && message.term < raft.term {
        return Ok(());
    }
    let last = raft.raft_log.last_index();
    match message.get_msg_type() {
        MessageType::MsgAppend => check_append(message),
        MessageType::MsgHeartbeat if message.commit > last => {
            Err(MessageError::Commit { commit: message.commit, last })
        }
        MessageType::MsgSnapshot => check_snapshot(raft, message),
        MessageType::MsgAppendResponse => check_append_response(raft, message),
        MessageType::MsgReadIndex => check_read(raft, message),
        MessageType::MsgReadIndexResp if message.get_entries().len() != 1 => Err(MessageError::Context),
        // A member that wins an election must have its whole log on the disk; the library asserts this.
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse | MessageType::MsgTimeoutNow
            if last != raft.raft_log.persisted =>
        {
            Err(MessageError::Early)
        }
        MessageType::MsgTimeoutNow if message.term != raft.term || message.from != raft.leader_id => {
            Err(MessageError::Kind("a leadership transfer by a coordinator that is not the leader"))
        }
        _ => Ok(()),
    }
}

/// A member that joins must learn the members from a snapshot: the log tells only of their changes. It has no vote,
/// and gives none: its disk may replace one that has voted.
fn check_joining(message: &Message) -> Result<(), MessageError> {
    match message.get_msg_type() {
        MessageType::MsgSnapshot | MessageType::MsgHeartbeat => Ok(()),
        MessageType::MsgAppend if message.index > 0 || message.get_entries().is_empty() => Ok(()),
        _ => Err(MessageError::Joining),
    }
}

/// Messages that a member sends to itself, or to its own library, are never on the wire.
fn check_kind(kind: MessageType) -> Result<(), MessageError> {
    match kind {
        MessageType::MsgAppend
        | MessageType::MsgAppendResponse
        | MessageType::MsgSnapshot
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp
        | MessageType::MsgTimeoutNow
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => Ok(()),
        MessageType::MsgPropose => Err(MessageError::Kind("a proposal")),
        MessageType::MsgTransferLeader => Err(MessageError::Kind("a request for another leader")),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => Err(MessageError::Kind("a member's message to itself")),
    }
}

/// Term 0 marks local messages. Of the messages on the wire only forwarded read requests have it, because they are
/// forwarded unchanged.
fn check_term<S: Storage>(raft: &Raft<S>, message: &Message) -> Result<(), MessageError> {
    let term = message.term;
    let fits = if message.get_msg_type() == MessageType::MsgReadIndex {
        term == 0
    } else {
        term != 0 && term <= TERM_MAX && term <= raft.term.saturating_add(TERM_JUMP_MAX)
    };
    if fits { Ok(()) } else { Err(MessageError::Term { term, known: raft.term }) }
}

/// The entries must follow the position `(index, log_term)` and each other, with terms that do not fall and are not
/// above the sender's. The position must exist: only index 0 has term 0, but the library treats an index outside the
/// log as one with term 0 and would append there.
fn check_append(message: &Message) -> Result<(), MessageError> {
    if (message.index == 0) != (message.log_term == 0) || message.index > INDEX_MAX || message.log_term > message.term {
        return Err(MessageError::Entries);
    }
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in message.get_entries() {
        index += 1;
        let is_next = entry.index == index && entry.term >= term.max(1) && entry.term <= message.term;
        if !is_next || !is_possible(entry) {
            return Err(MessageError::Entries);
        }
        term = entry.term;
    }
    Ok(())
}

/// Changes of the membership have one form: what the library cannot read, it panics on when it is applied.
fn is_possible(entry: &Entry) -> bool {
    match entry.get_entry_type() {
        EntryType::EntryNormal => true,
        EntryType::EntryConfChange => false,
        EntryType::EntryConfChangeV2 => MemberChange::from_entry(entry).is_some(),
    }
}

fn check_append_response<S: Storage>(raft: &Raft<S>, message: &Message) -> Result<(), MessageError> {
    // If this member is not the leader, or for another term, the library reads only the term.
    if raft.state != raft::StateRole::Leader || message.term != raft.term {
        return Ok(());
    }
    let last = raft.raft_log.last_index();
    // A follower has no entry that its leader lacks, and no member requests a snapshot.
    let index = message.index.max(if message.reject { message.reject_hint } else { 0 });
    if index > last || message.request_snapshot != raft::INVALID_INDEX {
        return Err(MessageError::Index { index, last });
    }
    Ok(())
}

fn check_read<S: Storage>(raft: &Raft<S>, message: &Message) -> Result<(), MessageError> {
    let context = match message.get_entries() {
        [entry] => entry.data.len(),
        _ => return Err(MessageError::Context),
    };
    if context == 0 || context > CONTEXT_BYTES_MAX {
        return Err(MessageError::Context);
    }
    if raft.pending_read_count() >= PENDING_READS_MAX {
        return Err(MessageError::TooManyReads);
    }
    Ok(())
}

fn check_snapshot<S: Storage>(raft: &Raft<S>, message: &Message) -> Result<(), MessageError> {
    let metadata = message.get_snapshot().get_metadata();
    let Some(members) = Membership::from_conf_state(metadata.get_conf_state()) else {
        return Err(MessageError::Snapshot("impossible members"));
    };
    if !members.contains(CoordinatorId(raft.id)) {
        return Err(MessageError::Snapshot("this coordinator is not among the members"));
    }
    let (index, term) = (metadata.index, metadata.term);
    if index == 0 || index > INDEX_MAX || term == 0 || term > message.term {
        return Err(MessageError::Snapshot("an impossible place"));
    }
    // Committed entries never change.
    if index == raft.raft_log.committed && raft.raft_log.term(index).ok() != Some(term) {
        return Err(MessageError::Snapshot("another history"));
    }
    Ok(())
}
