//! How the state of one partition changes: its ISR, ELR and leader together (Kafka's `PartitionChangeBuilder`,
//! KIP-966).
//!
//! Rules:
//! - A leader that is in the ISR and active stays the leader. Otherwise the first replica, in order of preference, that
//!   is in the ISR and active; one that clients may not find again yet comes after the others. Otherwise the current
//!   leader, if it is shutting down but alive. Otherwise the first active replica of the ELR: the HW has not moved
//!   since it left the ISR, so it has all committed records. Otherwise there is no leader; the leader epoch grows
//!   nevertheless, so that the old leader is fenced.
//! - A preferred election puts the first replica before the leader, if it is in the ISR and active.
//! - An unclean election, where it is enabled or asked for, takes any active replica that can read its log, if none of
//!   the above can lead: the last known leader, then the last known ELR, then the others. It is the whole ISR then, and
//!   nobody is eligible beside it; the state is "recovering" until that leader changes its ISR. A replica whose log is
//!   gone comes last, and only on demand.
//! - The ISR never becomes empty. Its last member stays while no other replica can be elected. Unlike Kafka, which lets
//!   the ISR become empty, the tree keeps the last member and its epoch: the next election needs both.
//! - A replica that leaves the ISR while the ISR is below min.insync.replicas joins the ELR; so does a last member that
//!   an ELR member replaces. The ELR is cleared when the ISR has min.insync.replicas members again. A replica that
//!   returns from an unclean shutdown is in neither: an ELR member replaces it even as the last member of the ISR,
//!   whether that member is live yet or not.
//! - Neither is a replica that cannot read its log (offline: its directory failed, or the log is damaged): it leads
//!   nothing before it registers again. A last member that has lost its log is marked, and does not lead in a later
//!   incarnation either.
//! - A reassignment completes with the change after which all target replicas are in the ISR and one of them can lead:
//!   the others leave the ISR and the replicas. Whenever a replica leaves the replicas, the leader epoch grows: if it
//!   is added again, with an empty log, a fetch that it sent before says nothing of that log.
//! - The effective min.insync.replicas is that of the partition's leader, whose configuration decides when the HW
//!   moves.
//!
//! - [`change`]: the change of one partition, with its clean elections;
//! - [`unclean`]: the election among replicas that may lack committed records;
//! - [`electorate`]: what both ask about the brokers.

mod change;
mod electorate;
#[cfg(test)]
mod tests;
mod unclean;

pub use change::PartitionChange;
pub use electorate::Electorate;
pub use unclean::Unclean;
