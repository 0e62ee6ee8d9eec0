//! The members of the running quorum, as the tree records them.

use ottla_model::ErrorCode;

use super::draft::Draft;
use super::{Answer, Controller, Refusal, RequestId, SetMember};
use crate::limits;
use crate::nodes;
use crate::nodes::coordinator::CoordinatorNode;

impl Controller {
    /// A transaction of its own: it becomes Raft's change of the membership, of which one is made at a time. Nothing is
    /// proposed for what the tree already says, or will say: the node repeats the request until it is applied.
    pub(super) fn set_member(&mut self, id: RequestId, request: SetMember) {
        let SetMember { coordinator, node } = request;
        let address = limits::cut(node.address, limits::MAX_ADDRESS_BYTES);
        let node = CoordinatorNode { address, is_live_change: true, ..node };
        if self.ledger.ahead().coordinator(coordinator).is_none_or(|known| known.node != node) {
            let mut draft = Draft::default();
            let payload = nodes::coordinator::encode(&node);
            draft.put(self.ledger.ahead_tree(), nodes::coordinator::path(coordinator), payload);
            self.propose(draft);
        }
        self.answer(id, Answer::SetMember(()));
    }

    /// The node answers this request, unless another one is wrapped around it, which no client of ours does.
    pub(super) fn refuse_quorum_change(&mut self, id: RequestId) {
        let refusal = Refusal::new(ErrorCode::InvalidRequest, "A change of the quorum takes no key.");
        self.answer(id, Answer::ChangeQuorum(Err(refusal)));
    }
}
