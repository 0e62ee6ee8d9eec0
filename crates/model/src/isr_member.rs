//! A member of an ISR: a replica in one incarnation of its broker.

use crate::{BrokerEpoch, BrokerId};

/// The epoch of a last ISR member whose log is gone (its disk was replaced, or it created a new log instead of a
/// damaged one). No registration ever has this epoch, so the member does not lead in a later incarnation either
/// (scenario 33, fault A3).
const LOST: BrokerEpoch = BrokerEpoch(-2);

/// A member of an ISR with the broker epoch it joined in (KIP-903): another incarnation of it is no member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IsrMember {
    pub broker: BrokerId,
    /// [`BrokerEpoch::NONE`] if it is unknown, which matches any.
    pub epoch: BrokerEpoch,
}

impl IsrMember {
    /// The last ISR member, if its log is lost: only its id remains.
    pub fn lost(broker: BrokerId) -> Self {
        Self { broker, epoch: LOST }
    }

    pub fn is_lost(&self) -> bool {
        self.epoch == LOST
    }

    /// Whether progress reported under `epoch` is this member's.
    pub fn is_incarnation(&self, epoch: BrokerEpoch) -> bool {
        !self.epoch.is_known() || self.epoch == epoch
    }
}
