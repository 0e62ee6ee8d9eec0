//! An ISR proposal on its way to the quorum and back.

use ottla_metadata::controller::{AlterPartition, AlteredPartition};
use ottla_model::{BrokerEpoch, BrokerId, TopicIdPartition};
use ottla_replication::{IsrMember, IsrOutcome, IsrProposal};

/// The change of one partition that a proposal asks for.
pub fn request_of(id: TopicIdPartition, proposal: &IsrProposal) -> AlterPartition {
    AlterPartition {
        partition: id,
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        isr: proposal.isr.clone(),
    }
}

/// What became of a proposal. A partition that the answer leaves out, or that had no answer at all, may have been
/// changed or not.
pub fn outcome_of(altered: Option<&AlteredPartition>, proposal: &IsrProposal) -> IsrOutcome {
    match altered {
        None => IsrOutcome::Unknown,
        Some(altered) if altered.error.is_ok() => IsrOutcome::Decided {
            leader_epoch: altered.leader_epoch,
            partition_epoch: altered.partition_epoch,
            isr: altered.isr.iter().map(|broker| member_of(*broker, proposal)).collect(),
        },
        Some(altered) => IsrOutcome::Refused(altered.error),
    }
}

/// The answer names brokers alone; their epochs are those of the proposal, which is what was decided.
fn member_of(broker: BrokerId, proposal: &IsrProposal) -> IsrMember {
    let known = proposal.isr.iter().find(|member| member.broker == broker);
    known.copied().unwrap_or(IsrMember { broker, epoch: BrokerEpoch::NONE })
}
