//! ISR proposals on their way to the quorum and back: those of all leaders of a broker are sent in batches, one request
//! at a time, and each outcome goes back to the leader that proposed.
//!
//! A leader has at most one change under way. It says itself when it wants to be ticked again (after an unknown
//! outcome, or a refusal that may pass): see [`ottla_replication::Leader`].

use std::collections::{BTreeMap, BTreeSet};

use ottla_metadata::controller::{AlterPartition, AlteredPartition, AlteredPartitions};
use ottla_model::{BrokerEpoch, BrokerId, MonotonicMs, TopicIdPartition};
use ottla_replication::{IsrMember, IsrOutcome, IsrProposal};

use crate::rules::BrokenRules;

/// Changes in one request: a broker's death concerns thousands of partitions at once, and each answer should come soon.
const BATCH_MAX: usize = 1_000;

/// The proposals of a broker's leaders.
#[derive(Default, Debug)]
pub struct IsrProposals {
    rules: BrokenRules,
    /// The latest of each partition: a proposal that was not sent yet gives way to its successor.
    waiting: BTreeMap<TopicIdPartition, IsrProposal>,
    /// Of the request that is under way.
    asked: BTreeMap<TopicIdPartition, IsrProposal>,
    /// Leaders that want to be ticked before the next round of all.
    ticks: BTreeSet<(MonotonicMs, TopicIdPartition)>,
}

/// The outcome of a proposal, for [`crate::Replica::isr_decided`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decided {
    pub partition: TopicIdPartition,
    pub number: u64,
    pub outcome: IsrOutcome,
}

impl IsrProposals {
    /// With rules switched off.
    pub fn with_rules(rules: BrokenRules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// A leader proposes an ISR: it goes with the next request.
    pub fn submit(&mut self, partition: TopicIdPartition, proposal: IsrProposal) {
        self.waiting.insert(partition, proposal);
    }

    /// A leader wants to be ticked at `at`.
    pub fn tick_at(&mut self, partition: TopicIdPartition, at: MonotonicMs) {
        self.ticks.insert((at, partition));
    }

    /// The next request, to be followed by [`Self::answered`]. None while one is under way, or nothing is proposed.
    pub fn next_request(&mut self) -> Option<Vec<AlterPartition>> {
        if !self.asked.is_empty() || self.waiting.is_empty() {
            return None;
        }
        self.asked = match self.waiting.keys().nth(BATCH_MAX).copied() {
            Some(rest) => {
                let rest = self.waiting.split_off(&rest);
                std::mem::replace(&mut self.waiting, rest)
            }
            None => std::mem::take(&mut self.waiting),
        };
        Some(self.asked.iter().map(|(partition, proposal)| request_of(*partition, proposal)).collect())
    }

    /// The answer to the request; none if there was none. The outcomes are unknown then, and also if the quorum refused
    /// the whole request.
    pub fn answered(&mut self, answer: Option<AlteredPartitions>) -> Vec<Decided> {
        let altered = answer.filter(|answer| answer.error.is_ok()).map(|answer| answer.partitions).unwrap_or_default();
        let altered: BTreeMap<_, _> = altered.into_iter().map(|altered| (altered.partition, altered)).collect();
        let (asked, rules) = (std::mem::take(&mut self.asked).into_iter(), self.rules);
        asked
            .map(|(partition, proposal)| {
                let outcome = match outcome_of(altered.get(&partition), &proposal) {
                    IsrOutcome::Unknown if rules.silence_grants_isr_changes => IsrOutcome::Decided {
                        leader_epoch: proposal.leader_epoch,
                        partition_epoch: proposal.partition_epoch.next(),
                        isr: proposal.isr.clone(),
                    },
                    outcome => outcome,
                };
                Decided { partition, number: proposal.number, outcome }
            })
            .collect()
    }

    /// When the next leader is to be ticked.
    pub fn next_tick(&self) -> Option<MonotonicMs> {
        self.ticks.first().map(|(at, _)| *at)
    }

    /// The next leader that is to be ticked by now.
    pub fn take_due(&mut self, now: MonotonicMs) -> Option<TopicIdPartition> {
        let due = self.ticks.first().copied().filter(|(at, _)| *at <= now)?;
        self.ticks.remove(&due);
        Some(due.1)
    }
}

/// The change of one partition that a proposal asks for.
fn request_of(id: TopicIdPartition, proposal: &IsrProposal) -> AlterPartition {
    AlterPartition {
        partition: id,
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        isr: proposal.isr.clone(),
    }
}

/// What became of a proposal. A partition that the answer leaves out, or that had no answer at all, may have been
/// changed or not.
fn outcome_of(altered: Option<&AlteredPartition>, proposal: &IsrProposal) -> IsrOutcome {
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
    use ottla_model::{ErrorCode, LeaderEpoch, PartitionEpoch, PartitionId, Revision, TopicId};

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
    #[test]
    fn one_request_at_a_time_with_the_latest_proposal_of_each_partition() {
        let other = |number: i32| TopicIdPartition { partition: PartitionId(number), ..PARTITION };
        let mut proposals = IsrProposals::default();
        assert_eq!(proposals.next_request(), None);
        proposals.submit(PARTITION, proposal());
        proposals.submit(PARTITION, IsrProposal { number: 8, ..proposal() });
        proposals.submit(other(1), proposal());
        let asked = proposals.next_request().expect("two are proposed");
        assert_eq!(asked.iter().map(|change| change.partition).collect::<Vec<_>>(), [PARTITION, other(1)]);
        proposals.submit(other(2), proposal());
        assert_eq!(proposals.next_request(), None, "one is under way");
        let answer = |error, partitions| AlteredPartitions { error, partitions, revision: Revision(9) };
        let one = altered(ErrorCode::InvalidUpdateVersion, &[]);
        let decided = proposals.answered(Some(answer(ErrorCode::None, vec![one])));
        assert_eq!(
            (decided[0].number, &decided[0].outcome),
            (8, &IsrOutcome::Refused(ErrorCode::InvalidUpdateVersion))
        );
        assert_eq!((decided[1].partition, &decided[1].outcome), (other(1), &IsrOutcome::Unknown), "it was left out");
        assert_eq!(proposals.next_request().map(|asked| asked.len()), Some(1));
        // The whole request is refused.
        let refused = answer(ErrorCode::StaleBrokerEpoch, vec![altered(ErrorCode::None, &[1])]);
        assert!(proposals.answered(Some(refused)).iter().all(|decided| decided.outcome == IsrOutcome::Unknown));
    }

    #[test]
    fn a_request_has_a_thousand_changes_at_most() {
        let mut proposals = IsrProposals::default();
        for number in 0..2_500 {
            proposals.submit(TopicIdPartition { partition: PartitionId(number), ..PARTITION }, proposal());
        }
        let mut sizes = Vec::new();
        while let Some(asked) = proposals.next_request() {
            sizes.push((asked.len(), proposals.answered(None).len()));
        }
        assert_eq!(sizes, [(1_000, 1_000), (1_000, 1_000), (500, 500)]);
    }

    #[test]
    fn leaders_are_ticked_when_they_asked_for_it() {
        let mut proposals = IsrProposals::default();
        proposals.tick_at(PARTITION, MonotonicMs(20));
        proposals.tick_at(PARTITION, MonotonicMs(10));
        assert_eq!(proposals.next_tick(), Some(MonotonicMs(10)));
        assert_eq!(proposals.take_due(MonotonicMs(9)), None);
        assert_eq!(proposals.take_due(MonotonicMs(15)), Some(PARTITION));
        assert_eq!(proposals.take_due(MonotonicMs(15)), None);
        assert_eq!(proposals.next_tick(), Some(MonotonicMs(20)));
    }

    /// The simulation switches the rule off, and must see what that leads to.
    #[test]
    fn without_its_rule_silence_grants_what_was_proposed() {
        let broken = BrokenRules { silence_grants_isr_changes: true, ..BrokenRules::default() };
        for (rules, granted) in [(broken, true), (BrokenRules::default(), false)] {
            let mut proposals = IsrProposals::with_rules(rules);
            proposals.submit(PARTITION, proposal());
            assert!(proposals.next_request().is_some());
            let outcome = match granted {
                true => IsrOutcome::Decided {
                    leader_epoch: LeaderEpoch(3),
                    partition_epoch: PartitionEpoch(5),
                    isr: proposal().isr,
                },
                false => IsrOutcome::Unknown,
            };
            assert_eq!(proposals.answered(None), [Decided { partition: PARTITION, number: 7, outcome }]);
        }
    }
}
