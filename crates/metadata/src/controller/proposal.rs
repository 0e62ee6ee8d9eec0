//! Transactions on their way to Raft, and the checks before they are proposed.
//!
//! Every member must be able to apply every proposal. Therefore each transaction is read again from its encoding, and
//! applied to the tree and the image ahead ([`super::ledger`]), before it is proposed. A transaction that fails this is
//! refused here, where its caller gets an error; after a commit it would fail on every member.

use bytes::Bytes;

use super::EntryId;
use crate::limits::{MAX_NODE_BYTES, MAX_TRANSACTION_BYTES};
use crate::transaction::{Change, Transaction, TransactionError};
use crate::tree::Path;

/// A transaction that every member can apply at its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    pub entry: EntryId,
    pub transaction: Transaction,
    /// The transaction as the Raft entry carries it.
    pub encoded: Bytes,
}

/// Why a transaction is not proposed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposalError {
    #[error("the change has {bytes} bytes, more than the {MAX_TRANSACTION_BYTES} that one entry may have")]
    EntryTooLarge { bytes: usize },
    #[error("{path} would have {bytes} bytes, more than the {MAX_NODE_BYTES} that a node may have")]
    NodeTooLarge { path: Path, bytes: usize },
    #[error("the change cannot be decoded again: {0}")]
    Unreadable(String),
    #[error("the change does not apply: {0}")]
    Inapplicable(TransactionError),
    #[error("the payload for {0} could not be decoded")]
    UnreadableNode(Path),
}

/// The form that the entry carries, from which every member reads the same transaction.
pub(super) fn encode(transaction: &Transaction) -> Result<Bytes, ProposalError> {
    let encoded: Bytes = transaction.encode().into();
    if encoded.len() > MAX_TRANSACTION_BYTES {
        return Err(ProposalError::EntryTooLarge { bytes: encoded.len() });
    }
    for change in &transaction.changes {
        if let Change::Create { path, payload } | Change::Set { path, payload, .. } = change
            && payload.len() > MAX_NODE_BYTES
        {
            return Err(ProposalError::NodeTooLarge { path: path.clone(), bytes: payload.len() });
        }
    }
    let read = Transaction::decode(&encoded).map_err(|error| ProposalError::Unreadable(error.to_string()))?;
    match read == *transaction {
        true => Ok(encoded),
        false => Err(ProposalError::Unreadable("it comes back as another".to_owned())),
    }
}
