//! Refusals of consumer groups.

use ottla_model::ErrorCode;

/// Why a heartbeat, or a change of the members that stands for one, is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HeartbeatError {
    pub error: ErrorCode,
    pub message: String,
}

impl HeartbeatError {
    pub fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { error, message: message.into() }
    }
}
