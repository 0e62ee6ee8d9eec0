//! Conversions between messages and the controller's types: tree nodes, heartbeats, and every request that the
//! controller decides, with its answer.
//!
//! A new request of brokers needs two [`Wire`] conversions in the file of its subject and one line in [`decisions`].

mod acls;
mod brokers;
mod configs;
mod decisions;
mod delegation_tokens;
mod elections;
mod features;
mod members;
mod partitions;
mod progress;
mod topics;
mod tree;

pub use brokers::{
    beat_answer_from_proto, beat_answer_to_proto, beat_from_proto, beat_to_proto, first_beat_from_proto,
    first_beat_to_proto, levels_from_proto,
};
pub use decisions::{answer_from_proto, answer_to_proto, request_from_proto, request_to_proto};
pub use progress::{progress_from_proto, progress_to_proto};
pub use tree::{InvalidNode, change_from_proto, change_to_proto, node_from_proto, node_to_proto};

use bytes::Bytes;
use ottla_metadata::controller::Refusal;
use ottla_model::{ErrorCode, TopicId};

/// A message with an impossible field.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidField {
    pub field: &'static str,
    pub problem: String,
}

impl InvalidField {
    fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

impl From<InvalidField> for tonic::Status {
    fn from(error: InvalidField) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// A request or an answer of the controller with its message.
trait Wire: Sized {
    type Message;

    fn into_proto(self) -> Self::Message;
    fn from_proto(message: Self::Message) -> Result<Self, InvalidField>;
}

fn id_16(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], InvalidField> {
    bytes.try_into().map_err(|_| InvalidField::new(field, format!("{} bytes where an id has 16", bytes.len())))
}

fn topic_id(bytes: &[u8]) -> Result<TopicId, InvalidField> {
    id_16("topic_id", bytes).map(TopicId)
}

fn topic_id_to_proto(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn code(error: ErrorCode) -> i32 {
    i32::from(error.code())
}

/// A code of a later release is an error that this one has no name for.
fn error(code: i32) -> ErrorCode {
    i16::try_from(code).ok().and_then(ErrorCode::from_code).unwrap_or(ErrorCode::UnknownServerError)
}

/// Code and text of a refusal; 0 and empty if there is none.
fn refusal_to_proto(refusal: Option<Refusal>) -> (i32, String) {
    refusal.map_or((0, String::new()), |refusal| (code(refusal.error), refusal.message))
}

fn refusal_from_proto(error_code: i32, message: String) -> Option<Refusal> {
    (error_code != 0).then(|| Refusal::new(error(error_code), message))
}
