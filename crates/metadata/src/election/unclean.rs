//! The election of a replica that may lack committed records.

use ottla_model::BrokerId;

use super::electorate::Electorate;
use crate::image::{IsrMember, PartitionState};

/// Whether a replica may lead that may lack committed records, if no other can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unclean {
    #[default]
    Never,
    /// Where `unclean.leader.election.enable` is set.
    WhereEnabled,
    /// An operator demands it.
    Demanded,
}

impl Unclean {
    /// The replica that probably lacks the fewest records, with its epoch. `leaving` must not lead.
    pub(super) fn elect(
        self,
        leaving: Option<BrokerId>,
        state: &PartitionState,
        electorate: &dyn Electorate,
    ) -> Option<IsrMember> {
        let is_lost = |broker: BrokerId| state.isr_member(broker).is_some_and(IsrMember::is_lost);
        let may_lead = |broker: BrokerId| match self {
            Self::Never => false,
            Self::WhereEnabled => electorate.may_lead_unclean(broker) && !is_lost(broker),
            Self::Demanded => true,
        };
        let mut candidates = state.replicas.clone();
        candidates.retain(|broker| leaving != Some(*broker) && may_lead(*broker));
        let in_order = electorate.asks_last_known_first();
        candidates.sort_by_key(|broker| {
            let was_leader = *broker == state.last_known_leader || *broker == state.leader;
            let is_known = state.last_known_elr.contains(broker);
            // A replica that is being added may have no record yet.
            let is_added = state.adding().contains(broker);
            (is_lost(*broker), in_order && !was_leader, in_order && !is_known, in_order && is_added)
        });
        let member = |broker| electorate.readable(broker, state).map(|epoch| IsrMember { broker, epoch });
        candidates.into_iter().find_map(member)
    }
}
