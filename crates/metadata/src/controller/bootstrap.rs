//! The first transaction of a cluster, and the coordinators' disks.

use bytes::Bytes;
use ottla_model::ControllerEpoch;

use super::draft::Draft;
use super::{AdmissionError, AdmitCoordinator, Answer, Controller, ControllerConfig, RequestId};
use crate::limits;
use crate::nodes;
use crate::nodes::coordinator::CoordinatorNode;
use crate::transaction::Transaction;
use crate::tree::Path;

/// The first transaction of a quorum: the cluster id, the coordinators' disks, the counters, the empty parents.
pub fn first_transaction(config: &ControllerConfig) -> Transaction {
    let mut draft = Draft::default();
    for parent in nodes::EMPTY_PARENTS {
        draft.create(Path::built((*parent).to_owned()), Bytes::new());
    }
    draft.create(nodes::sequence_id::path(), Bytes::new());
    draft.create(nodes::feature::path(), nodes::feature::encode(config.levels.max));
    draft.create(nodes::controller_epoch::path(), nodes::controller_epoch::encode(ControllerEpoch(0)));
    draft.create(nodes::cluster_id::path(), nodes::cluster_id::encode(&config.cluster_id));
    for coordinator in &config.coordinators {
        let node = CoordinatorNode::first(coordinator.disk, coordinator.address.clone());
        draft.create(nodes::coordinator::path(coordinator.coordinator), nodes::coordinator::encode(&node));
    }
    draft.into_transaction()
}

impl Controller {
    /// Scenario 20: the tree remembers which disk a coordinator voted with.
    pub(super) fn admit_coordinator(&mut self, id: RequestId, request: AdmitCoordinator) {
        let AdmitCoordinator { coordinator, disk, address } = request;
        let address = limits::cut(address, limits::MAX_ADDRESS_BYTES);
        match self.ledger.ahead().coordinator_disk(coordinator) {
            Some(known) if known == disk => self.answer(id, Answer::AdmitCoordinator(Ok(()))),
            Some(known) => {
                let refused = AdmissionError { coordinator, known, shown: disk };
                self.warn(refused.to_string());
                self.answer(id, Answer::AdmitCoordinator(Err(refused)));
            }
            None => {
                let mut draft = Draft::default();
                let node = nodes::coordinator::encode(&CoordinatorNode::first(disk, address));
                draft.create(nodes::coordinator::path(coordinator), node);
                self.propose(draft);
                self.answer(id, Answer::AdmitCoordinator(Ok(())));
            }
        }
    }
}
