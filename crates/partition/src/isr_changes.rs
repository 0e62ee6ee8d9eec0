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

#[cfg(test)]
mod tests {
    use ottla_model::{ErrorCode, LeaderEpoch, PartitionEpoch, PartitionId, TopicId};

    use super::*;

    const PARTITION: TopicIdPartition = TopicIdPartition { topic_id: TopicId([1; 16]), partition: PartitionId(0) };

    fn member(broker: i32) -> IsrMember {
        IsrMember { broker: BrokerId(broker), epoch: BrokerEpoch(i64::from(broker) * 10) }
    }

    fn proposal() -> IsrProposal {
        IsrProposal {
            number: 7,
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(4),
            isr: vec![member(1), member(2)],
        }
    }

    fn altered(error: ErrorCode, isr: &[i32]) -> AlteredPartition {
        AlteredPartition {
            partition: PARTITION,
            error,
            leader: BrokerId(1),
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(5),
            isr: isr.iter().copied().map(BrokerId).collect(),
        }
    }

    #[test]
    fn a_proposal_is_asked_for_as_it_is() {
        let asked = request_of(PARTITION, &proposal());
        assert_eq!((asked.partition, asked.isr), (PARTITION, proposal().isr));
        assert_eq!((asked.leader_epoch, asked.partition_epoch), (LeaderEpoch(3), PartitionEpoch(4)));
    }

    #[test]
    fn an_answer_decides_refuses_or_is_not_known() {
        let decided = IsrOutcome::Decided {
            leader_epoch: LeaderEpoch(3),
            partition_epoch: PartitionEpoch(5),
            isr: vec![member(2), IsrMember { broker: BrokerId(3), epoch: BrokerEpoch::NONE }],
        };
        assert_eq!(outcome_of(Some(&altered(ErrorCode::None, &[2, 3])), &proposal()), decided);
        let error = ErrorCode::InvalidUpdateVersion;
        assert_eq!(outcome_of(Some(&altered(error, &[1])), &proposal()), IsrOutcome::Refused(error));
        assert_eq!(outcome_of(None, &proposal()), IsrOutcome::Unknown);
    }
}
