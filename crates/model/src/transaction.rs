//! How a transaction ends.

/// The end of a transaction, as markers in the log and requests name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransactionResult {
    Abort,
    Commit,
}
