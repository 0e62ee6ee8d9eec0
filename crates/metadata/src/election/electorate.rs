//! The brokers, as an election sees them.

use ottla_model::{BrokerEpoch, BrokerId};

use crate::image::{IsrMember, PartitionState};

/// The facts about the cluster that an election needs.
pub trait Electorate {
    /// The epoch of a broker that may lead this partition: registered, ready, not shutting down, and with the log that
    /// its ISR or ELR entry refers to.
    fn acceptable(&self, broker: BrokerId, state: &PartitionState) -> Option<BrokerEpoch>;

    /// The epoch of a broker that is active and can read its log, whatever that log lacks.
    fn readable(&self, broker: BrokerId, state: &PartitionState) -> Option<BrokerEpoch>;

    /// Whether `unclean.leader.election.enable` holds where this broker leads.
    fn may_lead_unclean(&self, broker: BrokerId) -> bool;

    /// Whether clients may still wait before they connect to this broker again: another replica leads sooner for them.
    fn is_awaited(&self, _: BrokerId) -> bool {
        false
    }

    /// Whether unclean elections ask the last known leader first, then the last known ELR: nothing but a test says no.
    fn asks_last_known_first(&self) -> bool {
        true
    }

    /// Whether this incarnation of an ISR member still runs: it may stay the leader while no other replica can lead,
    /// even if it is shutting down.
    fn lives(&self, member: &IsrMember) -> bool;

    /// The effective min ISR (at least 1, at most the replicas) where `leader` leads.
    fn min_insync_replicas(&self, leader: BrokerId, state: &PartitionState) -> usize;

    /// Whether `leader` is known to use the configured min ISR. While it may still use a lower one, its HW may move
    /// with fewer members than expected, and a replica that leaves its ISR may lack committed records.
    fn knows_min_insync_replicas(&self, leader: BrokerId, state: &PartitionState) -> bool;
}
