//! Between the wire and the words of the house: tree nodes, and every request of `ottla.cluster.v1` with its answer.

mod brokers;
mod configs;
mod partitions;
mod topics;
mod tree;

pub use brokers::{
    allocate_producer_ids_from_proto, allocated_producer_ids_to_proto, beat_answer_to_proto, beat_from_proto,
    controlled_shutdown_from_proto, endpoint_to_proto, register_from_proto, registered_to_proto,
    shutdown_progress_to_proto,
};
pub use configs::{
    alter_configs_from_proto, alter_configs_to_proto, config_outcomes_from_proto, config_outcomes_to_proto,
};
pub use partitions::{
    alter_partitions_from_proto, altered_partitions_to_proto, resign_leadership_from_proto, resign_reason_to_proto,
    resigned_to_proto,
};
pub use topics::{
    create_partitions_from_proto, create_topics_from_proto, delete_topics_from_proto, partitions_outcomes_to_proto,
    topics_created_to_proto, topics_deleted_to_proto,
};
pub use tree::{InvalidNode, change_from_proto, change_to_proto, node_from_proto, node_to_proto};

use ottla_metadata::controller::Refusal;
use ottla_model::{ErrorCode, TopicId};

/// A request with a field that cannot be meant.
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

fn id_16(field: &'static str, bytes: &[u8]) -> Result<[u8; 16], InvalidField> {
    bytes.try_into().map_err(|_| InvalidField::new(field, format!("{} bytes where an id has 16", bytes.len())))
}

fn topic_id(bytes: &[u8]) -> Result<TopicId, InvalidField> {
    id_16("topic_id", bytes).map(TopicId)
}

fn code(error: ErrorCode) -> i32 {
    i32::from(error.code())
}

/// Code and text of what may have been refused; 0 and empty where it was not.
fn refusal_parts(refusal: Option<&Refusal>) -> (i32, String) {
    match refusal {
        Some(refusal) => (code(refusal.error), refusal.message.clone()),
        None => (0, String::new()),
    }
}
