//! The errors of a log, by operation.

use std::io;
use std::path::PathBuf;

use ottla_model::{LeaderEpoch, Offset};
use ottla_replication::producer_state::ProducerError;
use rustix::io::Errno;

/// An append that did not happen. The log is as before.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The bytes are no sequence of whole, valid batches of format 2, or (from a leader) a checksum is wrong.
    #[error("invalid record batch at byte {position}: {reason}")]
    Invalid { position: usize, reason: String },
    /// `RECORD_LIST_TOO_LARGE`: more bytes at once than a segment may hold.
    #[error("{size_bytes} bytes are more than a segment of {segment_bytes} bytes holds")]
    LargerThanSegment { size_bytes: usize, segment_bytes: usize },
    /// The caller's leader epoch is older than one that the log has records of.
    #[error("leader epoch {epoch} is older than {latest}, which the log has seen")]
    StaleEpoch { epoch: LeaderEpoch, latest: LeaderEpoch },
    /// A follower received a batch whose offsets do not follow the end of its log: it must request the leader's bounds.
    #[error("a batch of offsets {base}..={last} does not follow the log's end {log_end}")]
    UnexpectedOffset { base: Offset, last: Offset, log_end: Offset },
    /// An idempotent producer's epoch or sequence is wrong; the inner error has Kafka's text and code.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// The disk returned an error; the written part of the batch does not belong to the log.
    #[error("cannot append: {0}")]
    Io(#[from] io::Error),
    /// A sync failed before (the content of the disk is unknown), or the log is closed.
    #[error("the log is offline")]
    Offline,
}

impl AppendError {
    /// The I/O error, if the disk caused the error.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// A read that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// `OFFSET_OUT_OF_RANGE`
    #[error("offset {offset} is not within {log_start}..={log_end}")]
    OutOfRange { offset: Offset, log_start: Offset, log_end: Offset },
    /// The file does not contain the data that were written to it.
    #[error("{file}: not a record batch at byte {position}")]
    Corrupt { file: PathBuf, position: u64 },
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    #[error("the log is offline")]
    Offline,
}

/// A log that cannot be opened. Nothing has been cut or removed because of it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A batch is damaged, or missing, that has valid batches behind it. It was acknowledged once, and an in-sync copy
    /// may exist elsewhere: the log is neither served nor cut nor read past it (scenario 14).
    #[error("{file}: the record batch at byte {position} is damaged or missing, and valid ones follow it")]
    CorruptMiddle { file: PathBuf, position: u64 },
    /// There are records, and the id of the topic that they belong to did not survive. They may be of a topic that was
    /// deleted and made again under the same name since.
    #[error("{directory}: the topic's id is lost ({reason}): the records cannot be attributed to a topic")]
    UnknownTopic { directory: PathBuf, reason: String },
    #[error("cannot open the log in {directory}: {error}")]
    Io { directory: PathBuf, error: io::Error },
}

impl OpenError {
    /// Whether it is the log's content that keeps it from being opened: opening it again will not help.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::CorruptMiddle { .. } | Self::UnknownTopic { .. })
    }

    /// The I/O error, if the disk caused the error.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// A file whose content is not of its format.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct Malformed {
    /// The file, or its kind where the path is not known.
    pub what: String,
    pub reason: String,
}

impl Malformed {
    pub(crate) fn new(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into() }
    }
}

/// Whether the disk, or its owner's quota, has no space. Earlier writes are intact, and writes succeed again when there
/// is space. After any other error the content of the disk is unknown.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether the process or the machine has no free file descriptor at the moment. This is not a disk fault: earlier
/// writes are intact, and the same operation succeeds when other descriptors were closed. A sync never fails so.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// The meaning of a disk error for its log directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// There is no room at the moment: the directory stays in use, and writes succeed again when space returns.
    Full,
    /// Not the disk's fault, and it passes: see [`is_out_of_descriptors`].
    OutOfDescriptors,
    /// Not the disk's fault: something is in the way of one log, whose opening is tried again.
    NameTaken,
    /// The content of the disk is unknown: the directory goes offline.
    Failed,
}

impl DiskFault {
    /// From the system's error, if the system caused it.
    pub fn of(cause: Option<&io::Error>) -> Self {
        match cause {
            Some(error) if is_full(error) => Self::Full,
            Some(error) if is_out_of_descriptors(error) => Self::OutOfDescriptors,
            Some(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) => {
                Self::NameTaken
            }
            _ => Self::Failed,
        }
    }
}

impl From<Malformed> for io::Error {
    fn from(error: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_descriptors_is_no_fault_of_a_disk() {
        let fault = |errno: Errno| DiskFault::of(Some(&errno.into()));
        for errno in [Errno::MFILE, Errno::NFILE] {
            assert_eq!(fault(errno), DiskFault::OutOfDescriptors);
        }
        assert_eq!([fault(Errno::EXIST), fault(Errno::NOTEMPTY)], [DiskFault::NameTaken; 2]);
        assert_eq!((fault(Errno::NOSPC), fault(Errno::DQUOT)), (DiskFault::Full, DiskFault::Full));
        assert_eq!((fault(Errno::IO), fault(Errno::ROFS)), (DiskFault::Failed, DiskFault::Failed));
        assert_eq!(DiskFault::of(None), DiskFault::Failed);
    }
}
