//! Transactions of the tree: the content of a Raft entry.
//!
//! A transaction holds decided values and expected versions, never an instruction to compute: members on different
//! releases cannot diverge, and an entry that is applied twice is refused the second time.

use bytes::Bytes;
use prost::Message;

use crate::tree::{Path, PathError};

/// One change of a transaction. Changes apply in order; a later change sees the result of earlier ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The node must not exist.
    Create { path: Path, payload: Bytes },
    /// The node must exist at version `expected`.
    Set { path: Path, payload: Bytes, expected: i32 },
    /// The node must exist at version `expected`.
    Delete { path: Path, expected: i32 },
    /// The node must exist at version `expected`, or, with none, not exist.
    Check { path: Path, expected: Option<i32> },
}

impl Change {
    pub fn path(&self) -> &Path {
        match self {
            Self::Create { path, .. }
            | Self::Set { path, .. }
            | Self::Delete { path, .. }
            | Self::Check { path, .. } => path,
        }
    }
}

/// A list of changes: all of them apply, or none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction {
    pub changes: Vec<Change>,
}

/// Why a transaction did not apply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransactionError {
    #[error("{path} exists")]
    Exists { path: Path },
    #[error("{path} does not exist")]
    Missing { path: Path },
    #[error("{path} is at version {found}, not {expected}")]
    Version { path: Path, expected: i32, found: i32 },
    /// The entry that was to carry it holds no transaction.
    #[error("the entry cannot be decoded")]
    Unreadable,
}

/// Bytes that are no transaction of a release that this one knows.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransactionDecodeError {
    #[error("not a transaction: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("unknown kind of change {0}")]
    UnknownChange(i32),
    #[error("a change lacks its expected version")]
    NoExpectedVersion,
}

const CREATE: i32 = 1;
const SET: i32 = 2;
const DELETE: i32 = 3;
const CHECK: i32 = 4;

#[derive(Clone, PartialEq, prost::Message)]
struct ChangeRecord {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    path: String,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
    #[prost(int32, optional, tag = "4")]
    expected: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TransactionRecord {
    #[prost(message, repeated, tag = "1")]
    changes: Vec<ChangeRecord>,
}

impl Transaction {
    /// The form that Raft entries carry.
    pub fn encode(&self) -> Vec<u8> {
        let changes = self.changes.iter().map(|change| {
            let (kind, payload, expected) = match change {
                Change::Create { payload, .. } => (CREATE, payload.clone(), None),
                Change::Set { payload, expected, .. } => (SET, payload.clone(), Some(*expected)),
                Change::Delete { expected, .. } => (DELETE, Bytes::new(), Some(*expected)),
                Change::Check { expected, .. } => (CHECK, Bytes::new(), *expected),
            };
            ChangeRecord { kind, path: change.path().as_str().to_owned(), payload, expected }
        });
        TransactionRecord { changes: changes.collect() }.encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, TransactionDecodeError> {
        let changes = TransactionRecord::decode(bytes)?.changes.into_iter().map(|record| {
            let path = Path::new(&record.path)?;
            let expected = || record.expected.ok_or(TransactionDecodeError::NoExpectedVersion);
            Ok(match record.kind {
                CREATE => Change::Create { path, payload: record.payload },
                SET => Change::Set { path, expected: expected()?, payload: record.payload },
                DELETE => Change::Delete { path, expected: expected()? },
                CHECK => Change::Check { path, expected: record.expected },
                unknown => return Err(TransactionDecodeError::UnknownChange(unknown)),
            })
        });
        Ok(Self { changes: changes.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_survive_their_entry_form() {
        let path = |text| Path::new(text).expect("a valid path");
        let payload = Bytes::from_static(b"payload");
        let transaction = Transaction {
            changes: vec![
                Change::Create { path: path("/a"), payload: payload.clone() },
                Change::Set { path: path("/b"), payload, expected: 3 },
                Change::Delete { path: path("/c"), expected: 0 },
                Change::Check { path: path("/d"), expected: Some(0) },
                Change::Check { path: path("/e"), expected: None },
            ],
        };
        assert_eq!(Transaction::decode(&transaction.encode()), Ok(transaction));
        assert_eq!(Transaction::decode(&[]), Ok(Transaction::default()));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(matches!(Transaction::decode(&[0xff; 9]), Err(TransactionDecodeError::Protobuf(_))));
        let record = |kind, path: &str| {
            let change = ChangeRecord { kind, path: path.to_owned(), payload: Bytes::new(), expected: None };
            Transaction::decode(&TransactionRecord { changes: vec![change] }.encode_to_vec())
        };
        assert_eq!(record(9, "/a"), Err(TransactionDecodeError::UnknownChange(9)));
        assert_eq!(record(SET, "/a"), Err(TransactionDecodeError::NoExpectedVersion));
        assert!(matches!(record(CREATE, "a"), Err(TransactionDecodeError::Path(_))));
    }
}
