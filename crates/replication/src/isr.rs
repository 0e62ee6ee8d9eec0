//! The in-sync replicas of one partition, as its leader sees them: committed, or with one pending change.
//!
//! Owns the committed ISR and at most one proposal. Transitions: committed → pending expand or pending shrink
//! ([`Isr::expand`], [`Isr::shrink`]) → committed, by the quorum's decision or newer metadata ([`Isr::commit`]), or
//! back by a definite refusal ([`Isr::revert`]).
//!
//! The *maximal* ISR contains every member that the quorum may have committed: a member that is being added already
//! counts, a member that is being removed still counts (KIP-497, scenario 7).

use ottla_model::BrokerId;
pub use ottla_model::IsrMember;

/// A change that has been proposed and not decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingChange {
    pub number: u64,
    pub kind: ChangeKind,
    /// An attempt's outcome is unknown: the quorum may hold the proposal already, or get it late.
    pub is_uncertain: bool,
    /// The quorum refused it for a reason that only newer metadata explains: it is not sent again.
    pub awaits_metadata: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    Expand(IsrMember),
    Shrink(Box<[BrokerId]>),
}

/// The committed ISR and the change that is pending, if any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Isr {
    committed: Box<[IsrMember]>,
    pending: Option<Box<PendingChange>>,
}

impl Isr {
    pub fn committed_as(members: &[IsrMember]) -> Self {
        Self { committed: members.into(), pending: None }
    }

    pub fn committed(&self) -> &[IsrMember] {
        &self.committed
    }

    pub fn pending(&self) -> Option<&PendingChange> {
        self.pending.as_deref()
    }

    pub fn pending_mut(&mut self) -> Option<&mut PendingChange> {
        self.pending.as_deref_mut()
    }

    /// The member of the maximal ISR with this id. A committed member that is also being added under another epoch does
    /// not exist: a broker joins only when no ISR holds its predecessor.
    #[inline]
    pub fn maximal_member(&self, broker: BrokerId) -> Option<IsrMember> {
        self.committed_member(broker).or_else(|| match self.pending.as_deref() {
            Some(PendingChange { kind: ChangeKind::Expand(member), .. }) if member.broker == broker => Some(*member),
            _ => None,
        })
    }

    #[inline]
    pub fn committed_member(&self, broker: BrokerId) -> Option<IsrMember> {
        self.committed.iter().copied().find(|member| member.broker == broker)
    }

    /// Members of the maximal ISR.
    pub fn maximal_len(&self) -> usize {
        let adding = matches!(self.pending.as_deref(), Some(PendingChange { kind: ChangeKind::Expand(_), .. }));
        self.committed.len() + usize::from(adding)
    }

    /// The members of the pending change, or the committed members if there is none.
    pub fn proposed(&self) -> Vec<IsrMember> {
        let mut members = self.committed.to_vec();
        match self.pending.as_deref().map(|pending| &pending.kind) {
            Some(ChangeKind::Expand(member)) => members.push(*member),
            Some(ChangeKind::Shrink(leaving)) => members.retain(|member| !leaving.contains(&member.broker)),
            None => {}
        }
        members
    }

    pub fn expand(&mut self, number: u64, member: IsrMember) {
        self.propose(number, ChangeKind::Expand(member));
    }

    pub fn shrink(&mut self, number: u64, leaving: Vec<BrokerId>) {
        self.propose(number, ChangeKind::Shrink(leaving.into()));
    }

    fn propose(&mut self, number: u64, kind: ChangeKind) {
        debug_assert!(self.pending.is_none(), "one change at a time");
        self.pending = Some(Box::new(PendingChange { number, kind, is_uncertain: false, awaits_metadata: false }));
    }

    /// The quorum's decision, or newer metadata, replaces both sets. Returns whether the committed members changed.
    pub fn commit(&mut self, members: &[IsrMember]) -> bool {
        self.pending = None;
        let changed = *self.committed != *members;
        if changed {
            self.committed = members.into();
        }
        changed
    }

    /// The pending change certainly never happens.
    pub fn revert(&mut self) {
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::BrokerEpoch;

    use super::*;

    fn member(broker: i32) -> IsrMember {
        IsrMember { broker: BrokerId(broker), epoch: BrokerEpoch(100 + i64::from(broker)) }
    }

    #[test]
    fn the_maximal_isr_is_the_larger_of_committed_and_pending() {
        let mut isr = Isr::committed_as(&[member(1), member(2)]);
        isr.expand(1, member(3));
        assert_eq!((isr.committed().len(), isr.maximal_len(), isr.proposed().len()), (2, 3, 3));
        assert_eq!(isr.maximal_member(BrokerId(3)), Some(member(3)));
        isr.revert();
        assert_eq!(isr.maximal_member(BrokerId(3)), None);
        isr.shrink(2, vec![BrokerId(2)]);
        assert_eq!((isr.maximal_len(), isr.proposed()), (2, vec![member(1)]));
        assert_eq!(isr.maximal_member(BrokerId(2)), Some(member(2)));
        assert!(isr.commit(&[member(1)]));
        assert_eq!((isr.maximal_len(), isr.pending()), (1, None));
    }

    #[test]
    fn an_unknown_epoch_matches_any_incarnation() {
        assert!(member(1).is_incarnation(BrokerEpoch(101)) && !member(1).is_incarnation(BrokerEpoch(102)));
        assert!(IsrMember { broker: BrokerId(1), epoch: BrokerEpoch::NONE }.is_incarnation(BrokerEpoch(7)));
    }
}
