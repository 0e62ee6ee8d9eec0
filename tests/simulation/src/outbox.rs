//! What a process wants done when its turn ends: the world carries it out.

use std::fmt;

use ottla_metadata::controller::Probe;
use ottla_model::{BrokerId, ErrorCode, IsrMember, Offset};

use crate::facts::Fact;
use crate::message::{CallId, Message, ProduceAnswer};
use crate::network::NodeId;

/// Members of an ISR, for the trace.
pub struct Members<'a>(pub &'a [IsrMember]);

impl fmt::Display for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|member| member.broker.0)).finish()
    }
}

/// Collected during one turn of one process.
#[derive(Default)]
pub struct Outbox {
    pub sends: Vec<(NodeId, Message)>,
    /// Dials to brokers, by a coordinator.
    pub probes: Vec<Probe>,
    pub facts: Vec<Fact>,
    /// Lines for the trace.
    pub notes: Vec<String>,
    /// The process ends here, as if killed at this very point.
    pub dies: bool,
}

impl Outbox {
    pub fn send(&mut self, to: NodeId, message: Message) {
        self.sends.push((to, message));
    }

    /// The answer to a produce: where its first record is, or the error and who leads.
    pub fn answer_produce(&mut self, to: NodeId, call: CallId, result: Result<Offset, ErrorCode>, leader: BrokerId) {
        let (error, base_offset) = match result {
            Ok(first) => (ErrorCode::None, first),
            Err(error) => (error, Offset::UNKNOWN),
        };
        self.send(to, Message::ProduceAnswer { call, answer: ProduceAnswer { error, base_offset, leader } });
    }

    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        self.notes.push(what.to_string());
    }
}
