//! Blocks of producer ids: each id is assigned only once in the life of the cluster.

use ottla_model::ErrorCode;

use super::draft::Draft;
use super::{AllocateProducerIds, AllocatedProducerIds, Answer, Controller, RequestId};
use crate::image::ProducerIdBlock;
use crate::nodes;

/// Kafka's block: few enough that a broker's restart wastes little, enough that a thousand producers cost one request.
pub const PRODUCER_IDS_PER_BLOCK: i32 = 1000;

impl Controller {
    pub(super) fn allocate_producer_ids(&mut self, id: RequestId, request: AllocateProducerIds) {
        if let Err(error) = self.check_epoch(request.broker, request.epoch) {
            return self.answer(id, Answer::AllocateProducerIds(Err(error)));
        }
        let count = PRODUCER_IDS_PER_BLOCK;
        let first = self.ledger.ahead().producer_ids().map_or(0, |block| block.last.saturating_add(1));
        let Some(last) = first.checked_add(i64::from(count) - 1) else {
            self.warn("the producer ids are used up".to_owned());
            return self.answer(id, Answer::AllocateProducerIds(Err(ErrorCode::UnknownServerError)));
        };
        let mut draft = Draft::default();
        let block = ProducerIdBlock { broker: request.broker, first, last };
        draft.put(self.ledger.ahead_tree(), nodes::producer_ids::path(), nodes::producer_ids::encode(block));
        self.propose(draft);
        self.answer(id, Answer::AllocateProducerIds(Ok(AllocatedProducerIds { first, count })));
    }
}
