//! A member of an ISR: a replica in one life of its broker.

use crate::{BrokerEpoch, BrokerId};

/// The epoch of a last ISR member whose log is gone (its disk was replaced, or it made a new log in the place of a
/// damaged one). No registration ever has it, so the member leads in no later life either (scenario 33, fault A3).
const LOST: BrokerEpoch = BrokerEpoch(-2);

/// A member of an ISR with the broker epoch it joined in (KIP-903): another incarnation of it is no member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IsrMember {
    pub broker: BrokerId,
    /// [`BrokerEpoch::NONE`] where it is not known, which matches any.
    pub epoch: BrokerEpoch,
}

impl IsrMember {
    /// The last member, of whom nothing is left but that it was last.
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
