//! The change of one partition: see [`super`] for its rules.

use std::borrow::Cow;

use ottla_model::{BrokerEpoch, BrokerId, ControllerEpoch};

use super::electorate::Electorate;
use super::unclean::Unclean;
use crate::image::{Assignment, IsrMember, LeaderRecoveryState, PartitionState};

struct Elected {
    leader: BrokerId,
    isr: Vec<IsrMember>,
    is_unclean: bool,
}

impl Elected {
    fn clean(leader: BrokerId, isr: Vec<IsrMember>) -> Self {
        Self { leader, isr, is_unclean: false }
    }
}

/// A change of one partition that is being computed.
#[derive(Debug)]
pub struct PartitionChange<'a> {
    state: &'a PartitionState,
    isr: Vec<IsrMember>,
    /// The leader itself changes its ISR: it has recovered from an unclean election.
    is_proposed: bool,
    is_preferred: bool,
    preferred_may_lag: bool,
    unclean_election: Unclean,
    /// Must not lead, whatever the electorate returns.
    leaving: Option<BrokerId>,
    unclean: Option<BrokerId>,
    unclean_sole_member_wins: bool,
    offline: Option<IsrMember>,
    lost: Option<BrokerId>,
    assignment: Option<Assignment>,
    completes_early: bool,
}

impl<'a> PartitionChange<'a> {
    /// Only an election, if the partition has no leader that may stay.
    pub fn new(state: &'a PartitionState) -> Self {
        Self {
            state,
            isr: state.isr.clone(),
            is_proposed: false,
            is_preferred: false,
            preferred_may_lag: false,
            unclean_election: Unclean::Never,
            leaving: None,
            unclean: None,
            unclean_sole_member_wins: false,
            offline: None,
            lost: None,
            assignment: None,
            completes_early: false,
        }
    }

    /// Other replicas: a reassignment begins, changes or is cancelled. Some member of the ISR stays a replica.
    #[must_use]
    pub fn assigned(mut self, assignment: Assignment) -> Self {
        self.assignment = Some(assignment);
        self
    }

    /// Switches a rule off, to test that simulations detect it: see `controller::BrokenRules`.
    #[must_use]
    pub(crate) fn completing_early(mut self, early: bool) -> Self {
        self.completes_early = early;
        self
    }

    /// The ISR that the leader proposes.
    #[must_use]
    pub fn with_isr(mut self, isr: Vec<IsrMember>) -> Self {
        self.isr = isr;
        self.is_proposed = true;
        self
    }

    /// The first replica leads if it is in the ISR. `may_lag` switches that condition off, see
    /// `controller::BrokenRules`.
    #[must_use]
    pub fn preferred(mut self, may_lag: bool) -> Self {
        (self.is_preferred, self.preferred_may_lag) = (true, may_lag);
        self
    }

    #[must_use]
    pub fn unclean(mut self, unclean: Unclean) -> Self {
        self.unclean_election = unclean;
        self
    }

    /// The broker leaves: it leaves the ISR if that has another member, and does not lead.
    #[must_use]
    pub fn without(mut self, broker: BrokerId) -> Self {
        self.isr.retain(|member| member.broker != broker);
        self.leaving = Some(broker);
        self
    }

    /// The broker came back from an unclean shutdown: its log may have lost its end.
    #[must_use]
    pub fn without_unclean(mut self, broker: BrokerId) -> Self {
        self = self.without(broker);
        self.unclean = Some(broker);
        self
    }

    /// The broker cannot read its log while it has this epoch.
    #[must_use]
    pub fn without_offline(mut self, member: IsrMember) -> Self {
        self = self.without_unclean(member.broker);
        self.offline = Some(member);
        self
    }

    /// The broker's log is gone: it will create a new one.
    #[must_use]
    pub fn without_lost(mut self, broker: BrokerId) -> Self {
        self = self.without_unclean(broker);
        self.lost = Some(broker);
        self
    }

    /// Switches a rule off, to test that simulations detect it: see `controller::BrokenRules`.
    #[must_use]
    pub(crate) fn letting_unclean_sole_member_win(mut self, wins: bool) -> Self {
        self.unclean_sole_member_wins = wins;
        self
    }

    /// The next state; none if nothing changes.
    pub fn build(mut self, electorate: &dyn Electorate, controller_epoch: ControllerEpoch) -> Option<PartitionState> {
        let former = self.state;
        let assigned = self.reassign(electorate);
        let state = &*assigned;
        let is_unclean = |broker: &BrokerId| self.unclean == Some(*broker);
        let Elected { leader, isr, is_unclean: is_unclean_election } = self.elect(state, electorate);
        let mut next = PartitionState { leader, isr, ..state.clone() };
        if is_unclean_election {
            next.leader_recovery_state = LeaderRecoveryState::Recovering;
        } else if self.is_proposed {
            next.leader_recovery_state = LeaderRecoveryState::Recovered;
        }
        // An in-sync replica reads its log; an offline mark applies only to the epoch in which the broker reported it.
        let joins = |broker: BrokerId| next.in_isr(broker) && !state.in_isr(broker);
        let is_replaced = |broker: BrokerId| self.offline.is_some_and(|member| member.broker == broker);
        let stay = state.offline.iter().filter(|member| !joins(member.broker) && !is_replaced(member.broker));
        next.offline = stay.copied().chain(self.offline).collect();
        // Without a leader the HW does not move; the last leader's configuration defines the guarantee of the ISR.
        let ruler = match (next.has_leader(), state.has_leader()) {
            (true, _) => leader,
            (false, true) => state.leader,
            (false, false) => state.last_known_leader,
        };
        if next.isr.len() >= electorate.min_insync_replicas(ruler, &next) {
            next.elr.clear();
            next.last_known_elr.clear();
        } else {
            // A new leader reads the configuration before it reads that it leads. The old one may lag behind.
            let may_grow = leader != state.leader || electorate.knows_min_insync_replicas(leader, state);
            let out = |broker: &BrokerId| !next.in_isr(*broker);
            let left = state.isr.iter().filter(|member| may_grow && !member.is_lost()).map(|member| member.broker);
            let candidates: Vec<BrokerId> = ordered(state, state.elr.iter().copied().chain(left));
            // The log of an unclean leader is the partition's from now on: no other has all of it.
            let stays_eligible = |b: &BrokerId| out(b) && !is_unclean(b) && !is_unclean_election;
            let elr: Vec<_> = candidates.iter().copied().filter(stays_eligible).collect();
            let known = state.last_known_elr.iter().copied().chain(candidates);
            let last_known_elr = ordered(state, known).into_iter().filter(|b| out(b) && !elr.contains(b)).collect();
            (next.elr, next.last_known_elr) = (elr, last_known_elr);
        }
        let has_left = former.replicas.iter().any(|replica| !next.is_replica(*replica));
        if next.leader != state.leader || is_unclean_election || has_left {
            next.leader_epoch = state.leader_epoch.next();
        }
        next.last_known_leader = match next.has_leader() {
            true => BrokerId::NONE,
            false if ruler == BrokerId::NONE || next.is_replica(ruler) => ruler,
            // If it is added again, its log does not have the most records.
            false => next.isr_ids().next().unwrap_or(BrokerId::NONE),
        };
        // Under the former controller epoch until here.
        if next == *former {
            return None;
        }
        next.controller_epoch = controller_epoch;
        next.partition_epoch = state.partition_epoch.next();
        // A leader that is the whole ISR may be all that a reassignment waits for, and it proposes no ISR then.
        let completed = match next.is_reassigning() && next.leader != former.leader {
            true => PartitionChange::new(&next).build(electorate, controller_epoch),
            false => None,
        };
        Some(completed.filter(|completed| !completed.is_reassigning() && completed.has_leader()).unwrap_or(next))
    }

    /// The state with the replicas that it is to have, and the ISR within them.
    fn reassign(&mut self, electorate: &dyn Electorate) -> Cow<'a, PartitionState> {
        if self.assignment.is_none() && !self.state.is_reassigning() {
            return Cow::Borrowed(self.state);
        }
        let mut assignment = self.assignment.take().unwrap_or_else(|| self.state.assignment());
        if self.is_complete(&assignment, electorate) {
            assignment = assignment.target().into();
        }
        let Assignment { replicas, reassignment } = assignment;
        let mut state = self.state.clone();
        self.isr.retain(|member| replicas.contains(&member.broker));
        state.isr.retain(|member| replicas.contains(&member.broker));
        state.offline.retain(|member| replicas.contains(&member.broker));
        state.elr.retain(|broker| replicas.contains(broker));
        state.last_known_elr.retain(|broker| replicas.contains(broker));
        Cow::Owned(PartitionState { replicas, reassignment, ..state })
    }

    /// Whether all target replicas are in the ISR, so that the others may go. One of them must be able to lead: a
    /// member that shuts down leaves the ISR soon, and returns.
    fn is_complete(&self, assignment: &Assignment, electorate: &dyn Electorate) -> bool {
        if assignment.reassignment.is_none() {
            return false;
        }
        let target = assignment.target();
        let member = |broker: &BrokerId| self.isr.iter().find(|m| m.broker == *broker && !m.is_lost());
        let may_lead = |broker: &BrokerId| {
            self.leaving != Some(*broker)
                && (electorate.acceptable(*broker, self.state).is_some()
                    || (*broker == self.state.leader && member(broker).is_some_and(|m| electorate.lives(m))))
        };
        let in_sync = target.iter().filter(|broker| member(broker).is_some());
        let is_whole = in_sync.clone().count() == target.len() || self.completes_early;
        is_whole && in_sync.clone().any(may_lead)
    }

    fn elect(&self, state: &PartitionState, electorate: &dyn Electorate) -> Elected {
        let acceptable = |broker: BrokerId| match self.leaving == Some(broker) {
            true => None,
            false => electorate.acceptable(broker, state),
        };
        let in_isr = |broker: &BrokerId| self.isr.iter().any(|member| member.broker == *broker);
        if let Some(epoch) =
            acceptable(state.preferred_leader()).filter(|_| self.is_preferred && self.preferred_may_lag)
        {
            let leader = state.preferred_leader();
            return Elected::clean(leader, vec![IsrMember { broker: leader, epoch }]);
        }
        let first = self.is_preferred.then(|| state.preferred_leader());
        let awaited_last = |mut brokers: Vec<BrokerId>| {
            brokers.sort_by_key(|broker| electorate.is_awaited(*broker));
            brokers
        };
        // Nearly always the leader stays, and the others are not put in order.
        let others = std::iter::once_with(|| awaited_last(state.replicas.clone())).flatten();
        let preferred = first.into_iter().chain([state.leader]).chain(others);
        if let Some((leader, epoch)) =
            preferred.filter(in_isr).find_map(|broker| acceptable(broker).map(|epoch| (broker, epoch)))
        {
            // A last member that returns leads in its new incarnation.
            let renew = |member: &IsrMember| match member.broker == leader {
                true => IsrMember { epoch, ..*member },
                false => *member,
            };
            return Elected::clean(leader, self.isr.iter().map(renew).collect());
        }
        let leads_on = |member: &IsrMember| {
            member.broker == state.leader && self.leaving != Some(state.leader) && electorate.lives(member)
        };
        if self.isr.iter().any(leads_on) {
            return Elected::clean(state.leader, self.isr.clone());
        }
        let elr = || {
            let eligible = state.elr.iter().copied().filter(|broker| self.unclean != Some(*broker));
            awaited_last(ordered(state, eligible))
        };
        if let Some((leader, epoch)) =
            elr().into_iter().find_map(|broker| acceptable(broker).map(|epoch| (broker, epoch)))
        {
            return Elected::clean(leader, vec![IsrMember { broker: leader, epoch }]);
        }
        if let Some(member) = self.unclean_election.elect(self.leaving, state, electorate) {
            return Elected { leader: member.broker, isr: vec![member], is_unclean: true };
        }
        if !self.isr.is_empty() {
            return Elected::clean(BrokerId::NONE, self.isr.clone());
        }
        // The last member leaves. If its log may have lost its end, an ELR member that has not returned yet replaces
        // it. The epoch of that member is unknown, so only a new incarnation of it will lead.
        let stand_in = elr().first().copied().filter(|_| self.unclean.is_some() && !self.unclean_sole_member_wins);
        match stand_in {
            Some(broker) => Elected::clean(BrokerId::NONE, vec![IsrMember { broker, epoch: BrokerEpoch::NONE }]),
            None => Elected::clean(BrokerId::NONE, state.isr.iter().map(|member| self.marked(*member)).collect()),
        }
    }

    /// The last member, marked if its log is gone. If no other replica has the records either, it may lead there.
    fn marked(&self, member: IsrMember) -> IsrMember {
        match self.lost == Some(member.broker) && self.state.replicas.len() > 1 {
            true => IsrMember::lost(member.broker),
            false => member,
        }
    }
}

/// Brokers in the replicas' order of preference, each once.
fn ordered(state: &PartitionState, brokers: impl Iterator<Item = BrokerId>) -> Vec<BrokerId> {
    let brokers: Vec<_> = brokers.collect();
    state.replicas.iter().copied().filter(|replica| brokers.contains(replica)).collect()
}
