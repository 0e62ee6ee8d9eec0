//! The client's errors, by their meaning for the request: it was not executed, it was refused, or its outcome is
//! unknown.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ottla_model::{ErrorCode, rounded};
use ottla_protocol::{Api, CodecError, FrameError, WireError};

/// The certain knowledge about a failed request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was never sent as a whole: doing it again is safe.
    NotSent,
    /// A broker answered with an error: it did not happen.
    Refused,
    /// It was sent and no answer came: it may have happened.
    Unknown,
}

/// Why a request has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: String, reason: Arc<io::Error> },
    #[error("cannot connect to {address} within {}", rounded(*.timeout))]
    ConnectTimeout { address: String, timeout: Duration },
    /// TLS or the login failed: trying again would not help.
    #[error("{address}: {reason}")]
    NotTrusted { address: String, reason: Arc<str> },
    #[error("the connection to {address} was closed before the request was sent")]
    Closed { address: String },
    #[error("the connection to {address} was lost before the response arrived: {reason}")]
    Lost { address: String, reason: Arc<io::Error> },
    #[error("no answer from {address} within {}", rounded(*.timeout))]
    TimedOut { address: String, timeout: Duration },
    #[error("{address} sent an invalid frame: {reason}")]
    Frame { address: String, reason: FrameError },
    #[error("a response cannot be decoded: {0}")]
    Decode(CodecError),
    #[error("a request cannot be encoded: {0}")]
    Encode(CodecError),
    #[error("{address} and this client have no common version of {api}")]
    NoCommonVersion { address: String, api: Api },
    #[error("{}", refused_text(*.code, message.as_deref()))]
    Refused { code: ErrorCode, message: Option<String> },
    #[error("none of the brokers can be reached: {0}")]
    NoBroker(Arc<ClientError>),
    #[error("no bootstrap address is given")]
    NoBootstrap,
    #[error("the partition {topic}-{partition} does not exist")]
    NoSuchPartition { topic: String, partition: i32 },
    #[error("the response of {0} lacks the requested data")]
    Incomplete(Api),
    #[error("gave up after {}: {last}", rounded(*.waited))]
    GaveUp { waited: Duration, last: Arc<ClientError> },
}

fn refused_text(code: ErrorCode, message: Option<&str>) -> String {
    match message {
        Some(message) if !message.is_empty() => format!("{code:?}: {message}"),
        _ => format!("{code:?}"),
    }
}

impl ClientError {
    /// An error that a broker answered.
    pub fn refused(code: ErrorCode) -> Self {
        Self::Refused { code, message: None }
    }

    /// The certain knowledge about the request.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::NotTrusted { .. }
            | Self::Closed { .. }
            | Self::Encode(_)
            | Self::NoCommonVersion { .. }
            | Self::NoBootstrap
            | Self::NoSuchPartition { .. } => Outcome::NotSent,
            // The broker decides whether it was done in time; it says only that it took too long (after an append, for
            // instance).
            Self::Refused {
                code:
                    ErrorCode::RequestTimedOut
                    | ErrorCode::NotEnoughReplicasAfterAppend
                    | ErrorCode::UnknownServerError
                    | ErrorCode::NetworkException,
                ..
            } => Outcome::Unknown,
            Self::Refused { .. } => Outcome::Refused,
            Self::Lost { .. } | Self::TimedOut { .. } | Self::Frame { .. } | Self::Decode(_) | Self::Incomplete(_) => {
                Outcome::Unknown
            }
            Self::NoBroker(last) | Self::GaveUp { last, .. } => last.outcome(),
        }
    }

    /// Whether the same request may succeed later. It says nothing about whether sending it twice is harmless: see
    /// [`ClientError::outcome`].
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Closed { .. }
            | Self::Lost { .. }
            | Self::TimedOut { .. }
            | Self::NoBroker(_)
                if !self.is_distrust() =>
            {
                true
            }
            Self::Refused { code, .. } => code.is_retriable(),
            Self::NoBroker(_)
            | Self::NotTrusted { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Closed { .. }
            | Self::Lost { .. }
            | Self::TimedOut { .. }
            | Self::Frame { .. }
            | Self::Decode(_)
            | Self::Encode(_)
            | Self::NoCommonVersion { .. }
            | Self::NoBootstrap
            | Self::NoSuchPartition { .. }
            | Self::Incomplete(_)
            | Self::GaveUp { .. } => false,
        }
    }

    /// As `is_retriable`, also of an operation that was tried again until its timeout: for those who wait for ever.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::GaveUp { last, .. } => last.is_retriable(),
            other => other.is_retriable(),
        }
    }

    /// What stood in the way of the last broker that was tried.
    pub fn innermost(&self) -> &Self {
        match self {
            Self::NoBroker(last) | Self::GaveUp { last, .. } => last.innermost(),
            other => other,
        }
    }

    /// TLS or the login failed.
    pub fn is_distrust(&self) -> bool {
        match self {
            Self::NotTrusted { .. } => true,
            Self::NoBroker(last) | Self::GaveUp { last, .. } => last.is_distrust(),
            _ => false,
        }
    }

    /// The error code that a broker answered; none if the failure is of another kind.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::GaveUp { last, .. } | Self::NoBroker(last) => last.code(),
            _ => None,
        }
    }
}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> Self {
        Self::Decode(CodecError::Wire(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_as_people_say_them() {
        let last = Arc::new(ClientError::refused(ErrorCode::LeaderNotAvailable));
        let error = ClientError::GaveUp { waited: Duration::from_nanos(29_882_230_821), last };
        assert_eq!(error.to_string(), "gave up after 29.9 s: LeaderNotAvailable");
    }

    #[test]
    fn what_was_tried_for_long_enough_may_still_pass() {
        let gave_up =
            |code| ClientError::GaveUp { waited: Duration::from_secs(30), last: Arc::new(ClientError::refused(code)) };
        let error = gave_up(ErrorCode::LeaderNotAvailable);
        assert!(!error.is_retriable() && error.may_pass());
        assert!(!gave_up(ErrorCode::TopicAuthorizationFailed).may_pass());
    }
}
