//! How the state of one partition changes: its ISR, ELR and leader together (Kafka's `PartitionChangeBuilder`,
//! KIP-966).
//!
//! Rules:
//! - A leader that is in the ISR and active stays the leader. Otherwise the first replica, in order of preference, that
//!   is in the ISR and active. Otherwise the current leader, if it is shutting down but alive. Otherwise the first
//!   active replica of the ELR: the HW has not moved since it left the ISR, so it has all committed records. Otherwise
//!   there is no leader; the leader epoch grows nevertheless, so that the old leader is fenced.
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

use std::borrow::Cow;

use ottla_model::{BrokerEpoch, BrokerId, ControllerEpoch};

use crate::image::{Assignment, IsrMember, LeaderRecoveryState, PartitionState};

/// The facts about the cluster that an election needs.
pub trait Electorate {
    /// The epoch of a broker that may lead this partition: registered, ready, not shutting down, and with the log that
    /// its ISR or ELR entry refers to.
    fn acceptable(&self, broker: BrokerId, state: &PartitionState) -> Option<BrokerEpoch>;

    /// The epoch of a broker that is active and can read its log, whatever that log lacks.
    fn readable(&self, broker: BrokerId, state: &PartitionState) -> Option<BrokerEpoch>;

    /// Whether `unclean.leader.election.enable` holds where this broker leads.
    fn may_lead_unclean(&self, broker: BrokerId) -> bool;

    /// Whether this incarnation of an ISR member still runs: it may stay the leader while no other replica can lead,
    /// even if it is shutting down.
    fn lives(&self, member: &IsrMember) -> bool;

    /// The effective min ISR (at least 1, at most the replicas) where `leader` leads.
    fn min_insync_replicas(&self, leader: BrokerId, state: &PartitionState) -> usize;

    /// Whether `leader` is known to use the configured min ISR. While it may still use a lower one, its HW may move
    /// with fewer members than expected, and a replica that leaves its ISR may lack committed records.
    fn knows_min_insync_replicas(&self, leader: BrokerId, state: &PartitionState) -> bool;
}

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
        let mut next = PartitionState { leader, isr, controller_epoch, ..state.clone() };
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
        let unchanged = PartitionState { controller_epoch: state.controller_epoch, ..next.clone() } == *former;
        if unchanged {
            return None;
        }
        next.partition_epoch = state.partition_epoch.next();
        Some(next)
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
        let preferred = first.into_iter().chain([state.leader]).chain(state.replicas.iter().copied());
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
        let elr = || ordered(state, state.elr.iter().copied().filter(|broker| self.unclean != Some(*broker)));
        if let Some((leader, epoch)) =
            elr().into_iter().find_map(|broker| acceptable(broker).map(|epoch| (broker, epoch)))
        {
            return Elected::clean(leader, vec![IsrMember { broker: leader, epoch }]);
        }
        if let Some(member) = self.elect_unclean(state, electorate) {
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

    /// A replica that may lack committed records, those that probably lack the fewest first.
    fn elect_unclean(&self, state: &PartitionState, electorate: &dyn Electorate) -> Option<IsrMember> {
        let is_lost = |broker: BrokerId| state.isr_member(broker).is_some_and(IsrMember::is_lost);
        let may_lead = |broker: BrokerId| match self.unclean_election {
            Unclean::Never => false,
            Unclean::WhereEnabled => electorate.may_lead_unclean(broker) && !is_lost(broker),
            Unclean::Demanded => true,
        };
        let mut candidates = state.replicas.clone();
        candidates.retain(|broker| self.leaving != Some(*broker) && may_lead(*broker));
        candidates.sort_by_key(|broker| {
            let was_leader = *broker == state.last_known_leader || *broker == state.leader;
            (is_lost(*broker), !was_leader, !state.last_known_elr.contains(broker))
        });
        let member = |broker| electorate.readable(broker, state).map(|epoch| IsrMember { broker, epoch });
        candidates.into_iter().find_map(member)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::image::Reassignment;
    use ottla_model::{LeaderEpoch, PartitionEpoch};

    /// Live brokers with their epochs, and one min ISR for all.
    struct Live {
        brokers: BTreeMap<i32, i64>,
        min_insync_replicas: usize,
        leader_knows: bool,
        /// The current leader runs, although it is not among the active ones: it shuts down.
        leader_lives: bool,
        unclean_enabled: bool,
    }

    impl Electorate for Live {
        fn acceptable(&self, broker: BrokerId, _: &PartitionState) -> Option<BrokerEpoch> {
            self.brokers.get(&broker.0).copied().map(BrokerEpoch)
        }
        fn readable(&self, broker: BrokerId, _: &PartitionState) -> Option<BrokerEpoch> {
            self.brokers.get(&broker.0).copied().map(BrokerEpoch)
        }
        fn may_lead_unclean(&self, _: BrokerId) -> bool {
            self.unclean_enabled
        }
        fn lives(&self, member: &IsrMember) -> bool {
            self.leader_lives && member.epoch.is_known()
        }
        fn min_insync_replicas(&self, _: BrokerId, state: &PartitionState) -> usize {
            self.min_insync_replicas.min(state.replicas.len())
        }
        fn knows_min_insync_replicas(&self, _: BrokerId, _: &PartitionState) -> bool {
            self.leader_knows
        }
    }

    fn live(brokers: &[i32]) -> Live {
        let brokers = brokers.iter().map(|broker| (*broker, 100 + i64::from(*broker))).collect();
        Live { brokers, min_insync_replicas: 2, leader_knows: true, leader_lives: false, unclean_enabled: false }
    }

    fn members(brokers: &[i32]) -> Vec<IsrMember> {
        let member = |b: &i32| IsrMember { broker: BrokerId(*b), epoch: BrokerEpoch(100 + i64::from(*b)) };
        brokers.iter().map(member).collect()
    }

    fn ids(brokers: &[i32]) -> Vec<BrokerId> {
        brokers.iter().copied().map(BrokerId).collect()
    }

    fn state(leader: i32, isr: &[i32], elr: &[i32]) -> PartitionState {
        PartitionState {
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(5),
            partition_epoch: PartitionEpoch(9),
            controller_epoch: ControllerEpoch(1),
            replicas: ids(&[1, 2, 3]),
            reassignment: None,
            isr: members(isr),
            elr: ids(elr),
            offline: vec![],
            last_known_elr: vec![],
            last_known_leader: BrokerId::NONE,
            leader_recovery_state: LeaderRecoveryState::Recovered,
        }
    }

    fn build(change: PartitionChange<'_>, live: &Live) -> PartitionState {
        build_with(change, live)
    }

    fn build_with(change: PartitionChange<'_>, electorate: &dyn Electorate) -> PartitionState {
        change.build(electorate, ControllerEpoch(2)).expect("a change")
    }

    #[test]
    fn a_fenced_leader_hands_over_in_order_of_preference() {
        let next = build(PartitionChange::new(&state(1, &[1, 3, 2], &[])).without(BrokerId(1)), &live(&[2, 3]));
        assert_eq!(
            (next.leader, next.leader_epoch, next.partition_epoch),
            (BrokerId(2), LeaderEpoch(6), PartitionEpoch(10))
        );
        assert_eq!((next.isr, next.elr, next.controller_epoch), (members(&[3, 2]), vec![], ControllerEpoch(2)));
    }

    #[test]
    fn a_fenced_follower_costs_no_leader_epoch() {
        let next = build(PartitionChange::new(&state(1, &[1, 2], &[])).without(BrokerId(2)), &live(&[1, 3]));
        assert_eq!((next.leader, next.leader_epoch), (BrokerId(1), LeaderEpoch(5)));
        assert_eq!((next.isr, next.elr), (members(&[1]), ids(&[2])));
    }

    #[test]
    fn the_last_member_stays_without_a_leader() {
        let next = build(PartitionChange::new(&state(1, &[1], &[])).without(BrokerId(1)), &live(&[2, 3]));
        assert_eq!((next.leader, next.leader_epoch), (BrokerId::NONE, LeaderEpoch(6)));
        assert_eq!((next.isr.clone(), next.elr.clone(), next.last_known_leader), (members(&[1]), vec![], BrokerId(1)));
        // Nothing more changes until it returns; then it leads in its new epoch.
        assert_eq!(PartitionChange::new(&next).without(BrokerId(1)).build(&live(&[2, 3]), ControllerEpoch(2)), None);
        let returned = Live { brokers: BTreeMap::from([(1, 700)]), ..live(&[]) };
        let back = build(PartitionChange::new(&next), &returned);
        assert_eq!(
            (back.leader, back.leader_epoch, back.last_known_leader),
            (BrokerId(1), LeaderEpoch(7), BrokerId::NONE)
        );
        assert_eq!(back.isr, [IsrMember { broker: BrokerId(1), epoch: BrokerEpoch(700) }]);
    }

    #[test]
    fn a_fenced_last_member_is_replaced_by_a_live_elr_member_and_stays_eligible() {
        let next = build(PartitionChange::new(&state(1, &[1], &[2])).without(BrokerId(1)), &live(&[2, 3]));
        assert_eq!((next.leader, next.isr, next.elr), (BrokerId(2), members(&[2]), ids(&[1])));
    }

    #[test]
    fn a_preferred_replica_leads_again_only_if_it_is_in_sync() {
        let behind = state(2, &[2, 3], &[]);
        let change = || PartitionChange::new(&behind).preferred(false);
        assert_eq!(change().build(&live(&[1, 2, 3]), ControllerEpoch(2)), None);
        let in_sync = state(2, &[2, 1], &[]);
        let change = || PartitionChange::new(&in_sync).preferred(false);
        assert_eq!(change().build(&live(&[2, 3]), ControllerEpoch(2)), None, "it is down");
        let next = build(change(), &live(&[1, 2, 3]));
        assert_eq!((next.leader, next.leader_epoch, next.isr), (BrokerId(1), LeaderEpoch(6), members(&[2, 1])));
        assert!(build(PartitionChange::new(&behind).preferred(true), &live(&[1, 2, 3])).leader == BrokerId(1));
    }

    #[test]
    fn an_unclean_leader_is_the_whole_isr_and_recovers_with_its_first_change() {
        let old = state(1, &[1], &[]);
        let change = |unclean| PartitionChange::new(&old).without(BrokerId(1)).unclean(unclean);
        let enabled = Live { unclean_enabled: true, ..live(&[2, 3]) };
        assert_eq!(build(change(Unclean::WhereEnabled), &live(&[2, 3])).leader, BrokerId::NONE, "it is not enabled");
        assert_eq!(build(change(Unclean::Never), &enabled).leader, BrokerId::NONE);
        for next in [build(change(Unclean::WhereEnabled), &enabled), build(change(Unclean::Demanded), &live(&[2, 3]))] {
            assert_eq!(
                (next.leader, next.leader_epoch, next.isr.clone()),
                (BrokerId(2), LeaderEpoch(6), members(&[2]))
            );
            assert_eq!((next.elr.clone(), next.last_known_elr.clone()), (vec![], ids(&[1])));
            assert!(next.is_recovering());
            let joined = build(PartitionChange::new(&next).with_isr(members(&[2, 3])), &live(&[2, 3]));
            assert_eq!((joined.is_recovering(), joined.last_known_elr), (false, vec![]));
        }
    }

    /// The last known leader, then the last known ELR, then the replicas in order; a log that is gone only on demand.
    #[test]
    fn an_unclean_election_prefers_those_that_lack_least() {
        let mut old = state(1, &[1], &[]);
        (old.leader, old.last_known_leader) = (BrokerId::NONE, BrokerId(1));
        old.isr = vec![IsrMember::lost(BrokerId(1))];
        old.last_known_elr = ids(&[3]);
        // All of them run; none can be elected cleanly.
        let none_acceptable = |brokers: &[i32]| Uneasy(Live { unclean_enabled: true, ..live(brokers) });
        let leader = |unclean, brokers: &[i32]| {
            let change = PartitionChange::new(&old).unclean(unclean);
            change.build(&none_acceptable(brokers), ControllerEpoch(2)).map(|next| next.leader)
        };
        assert_eq!(leader(Unclean::WhereEnabled, &[1, 2, 3]), Some(BrokerId(3)));
        assert_eq!(leader(Unclean::WhereEnabled, &[1, 2]), Some(BrokerId(2)));
        assert_eq!(leader(Unclean::WhereEnabled, &[1]), None, "its log is gone, and the others may return");
        assert_eq!(leader(Unclean::Demanded, &[1]), Some(BrokerId(1)));
        old.isr = members(&[1]);
        let leader = PartitionChange::new(&old).unclean(Unclean::WhereEnabled);
        assert_eq!(build_with(leader, &none_acceptable(&[1, 2, 3])).leader, BrokerId(1), "it led last");
    }

    /// No broker is acceptable, whichever live.
    struct Uneasy(Live);

    impl Electorate for Uneasy {
        fn acceptable(&self, _: BrokerId, _: &PartitionState) -> Option<BrokerEpoch> {
            None
        }
        fn readable(&self, broker: BrokerId, state: &PartitionState) -> Option<BrokerEpoch> {
            self.0.readable(broker, state)
        }
        fn may_lead_unclean(&self, broker: BrokerId) -> bool {
            self.0.may_lead_unclean(broker)
        }
        fn lives(&self, member: &IsrMember) -> bool {
            self.0.lives(member)
        }
        fn min_insync_replicas(&self, leader: BrokerId, state: &PartitionState) -> usize {
            self.0.min_insync_replicas(leader, state)
        }
        fn knows_min_insync_replicas(&self, leader: BrokerId, state: &PartitionState) -> bool {
            self.0.knows_min_insync_replicas(leader, state)
        }
    }

    /// Scenario 6's cousin: the last member lost its end, the ELR has the record.
    #[test]
    fn an_unclean_last_member_gives_way_to_the_elr() {
        let mut before = state(-1, &[1], &[2]);
        before.last_known_leader = BrokerId(1);
        let next = build(PartitionChange::new(&before).without_unclean(BrokerId(1)), &live(&[2, 3]));
        assert_eq!((next.leader, next.isr, next.elr), (BrokerId(2), members(&[2]), vec![]));
        assert_eq!(next.last_known_elr, ids(&[1]));
        // Not back yet: it replaces the last member, and leads when it returns.
        let waits = build(PartitionChange::new(&before).without_unclean(BrokerId(1)), &live(&[3]));
        assert_eq!((waits.leader, waits.elr.clone()), (BrokerId::NONE, vec![]));
        assert!(waits.is_sole_member(BrokerId(2)) && waits.leader_epoch == LeaderEpoch(5));
        assert_eq!(build(PartitionChange::new(&waits), &live(&[1, 2, 3])).leader, BrokerId(2));
        // With no ELR its log is the best there is.
        let alone = state(-1, &[1], &[]);
        assert_eq!(
            PartitionChange::new(&alone).without_unclean(BrokerId(1)).build(&live(&[]), ControllerEpoch(1)),
            None
        );
    }

    #[test]
    fn an_unclean_elr_member_is_eligible_no_more() {
        let next = build(PartitionChange::new(&state(1, &[1], &[2, 3])).without_unclean(BrokerId(2)), &live(&[1]));
        assert_eq!((next.leader, next.elr, next.last_known_elr), (BrokerId(1), ids(&[3]), ids(&[2])));
    }

    #[test]
    fn the_elr_ends_when_the_isr_is_large_enough() {
        let before = state(1, &[1], &[2]);
        let grown = PartitionChange::new(&before).with_isr(members(&[1, 3]));
        let next = build(grown, &live(&[1, 3]));
        assert_eq!((next.isr, next.elr), (members(&[1, 3]), vec![]));
    }

    #[test]
    fn min_isr_of_one_keeps_no_elr() {
        let live = Live { min_insync_replicas: 1, ..live(&[1]) };
        let next = build(PartitionChange::new(&state(1, &[1, 2], &[])).without(BrokerId(2)), &live);
        assert_eq!((next.isr, next.elr), (members(&[1]), vec![]));
    }

    #[test]
    fn a_leader_that_may_not_know_min_isr_yet_feeds_no_elr() {
        let live = Live { leader_knows: false, ..live(&[1]) };
        let next = build(PartitionChange::new(&state(1, &[1, 2], &[])).without(BrokerId(2)), &live);
        assert_eq!((next.isr, next.elr, next.last_known_elr), (members(&[1]), vec![], vec![]));
    }

    #[test]
    fn a_leader_that_shuts_down_leads_on_while_nobody_else_can() {
        let going = |active: &[i32]| Live { leader_lives: true, ..live(active) };
        let alone = build(PartitionChange::new(&state(1, &[1, 2], &[])).without(BrokerId(2)), &going(&[3]));
        assert_eq!((alone.leader, alone.isr.clone()), (BrokerId(1), members(&[1])));
        // As soon as another is in sync, it takes over.
        let grown = build(PartitionChange::new(&alone).with_isr(members(&[1, 3])), &going(&[3]));
        assert_eq!((grown.leader, grown.isr), (BrokerId(3), members(&[1, 3])));
    }

    #[test]
    fn both_fenced_at_once_leaves_the_last_in_isr_and_the_other_eligible() {
        let first = build(PartitionChange::new(&state(1, &[1, 2], &[])).without(BrokerId(1)), &live(&[3]));
        assert_eq!((first.leader, first.isr.clone(), first.elr.clone()), (BrokerId::NONE, members(&[2]), ids(&[1])));
        assert_eq!(PartitionChange::new(&first).without(BrokerId(2)).build(&live(&[3]), ControllerEpoch(1)), None);
        assert_eq!(build(PartitionChange::new(&first), &live(&[1, 3])).leader, BrokerId(1));
    }

    #[test]
    fn a_mark_of_an_unreadable_log_ends_with_a_new_one_or_with_membership() {
        let mark = |broker: i32, epoch| IsrMember { broker: BrokerId(broker), epoch: BrokerEpoch(epoch) };
        let mut before = state(1, &[1], &[]);
        before.offline = vec![mark(2, 92), mark(3, 93)];
        let again = build(PartitionChange::new(&before).without_offline(mark(2, 200)), &live(&[1]));
        assert_eq!(again.offline, [mark(3, 93), mark(2, 200)]);
        let joined = build(PartitionChange::new(&before).with_isr(members(&[1, 3])), &live(&[1, 3]));
        assert_eq!(joined.offline, [mark(2, 92)], "3 reads its log");
    }

    /// A leader may go on without being electable, for example while it shuts down, but only as a member.
    #[test]
    fn a_leader_outside_the_isr_does_not_lead_on() {
        let nobody = Live { leader_lives: true, ..live(&[]) };
        let next = build(PartitionChange::new(&state(1, &[1, 2], &[])).with_isr(members(&[2])), &nobody);
        assert_eq!((next.leader, next.isr), (BrokerId::NONE, members(&[2])));
    }

    #[test]
    fn a_lost_log_is_marked_only_where_another_replica_may_have_it() {
        let mut alone = state(1, &[1], &[]);
        alone.replicas = ids(&[1]);
        let next = build(PartitionChange::new(&alone).without_lost(BrokerId(1)), &live(&[]));
        assert_eq!(next.isr, members(&[1]));
        let next = build(PartitionChange::new(&state(1, &[1], &[])).without_lost(BrokerId(1)), &live(&[]));
        assert_eq!(next.isr, [IsrMember::lost(BrokerId(1))]);
    }
    /// From [1, 2, 3] to [4, 5]; broker 3 is down.
    fn moving(isr: &[i32]) -> PartitionState {
        let reassignment = Reassignment { adding: ids(&[4, 5]), removing: ids(&[1, 2, 3]) };
        let replicas = ids(&[4, 5, 1, 2, 3]);
        PartitionState { replicas, reassignment: Some(Box::new(reassignment)), ..state(1, isr, &[]) }
    }

    #[test]
    fn a_reassignment_completes_when_the_isr_holds_its_target() {
        let began = moving(&[1, 2]);
        let four = build(PartitionChange::new(&began).with_isr(members(&[1, 2, 4])), &live(&[1, 2, 4, 5]));
        assert_eq!((four.leader, four.replicas.len(), four.is_reassigning()), (BrokerId(1), 5, true));
        let change = PartitionChange::new(&four).with_isr(members(&[1, 2, 4, 5]));
        let done = build(change, &live(&[1, 2, 4, 5]));
        assert_eq!((done.leader, done.leader_epoch, done.reassignment), (BrokerId(4), LeaderEpoch(6), None));
        assert_eq!((done.replicas, done.isr, done.elr), (ids(&[4, 5]), members(&[4, 5]), vec![]));
        let early = PartitionChange::new(&began).with_isr(members(&[1, 2, 4])).completing_early(true);
        assert_eq!(build(early, &live(&[1, 2, 4, 5])).isr, members(&[4]));
    }

    #[test]
    fn a_reassignment_waits_for_a_target_that_can_lead() {
        let change = |state| PartitionChange::new(state).with_isr(members(&[1, 2, 4, 5]));
        let waiting = build(change(&moving(&[1, 2, 4])), &live(&[1, 2]));
        assert_eq!((waiting.leader, waiting.is_reassigning()), (BrokerId(1), true), "4 and 5 shut down");
        let done = build(PartitionChange::new(&waiting), &live(&[1, 2, 5]));
        assert_eq!((done.leader, done.is_reassigning()), (BrokerId(5), false));
    }

    #[test]
    fn replicas_that_only_go_go_at_once_and_fence_their_fetches() {
        let shrunk = Assignment {
            replicas: ids(&[1, 3, 2]),
            reassignment: Some(Box::new(Reassignment { adding: vec![], removing: ids(&[2]) })),
        };
        let old = state(1, &[1, 2, 3], &[]);
        let next = build(PartitionChange::new(&old).assigned(shrunk.clone()), &live(&[1, 2, 3]));
        assert_eq!((next.leader, next.leader_epoch, next.replicas), (BrokerId(1), LeaderEpoch(6), ids(&[1, 3])));
        let behind = state(1, &[1, 2], &[]);
        let waits = build(PartitionChange::new(&behind).assigned(shrunk), &live(&[1, 2, 3]));
        assert_eq!((waits.leader_epoch, waits.is_reassigning()), (LeaderEpoch(5), true), "3 is not in sync");
    }

    #[test]
    fn a_replica_that_goes_leaves_no_trace() {
        let mut old = state(-1, &[1], &[2]);
        (old.last_known_elr, old.last_known_leader, old.offline) = (ids(&[3]), BrokerId(3), members(&[3]));
        let next = build(PartitionChange::new(&old).assigned(ids(&[1, 2]).into()), &live(&[]));
        assert_eq!((next.last_known_elr, next.last_known_leader, next.offline), (vec![], BrokerId(1), vec![]));
        assert_eq!((next.isr, next.elr, next.leader_epoch), (members(&[1]), ids(&[2]), LeaderEpoch(6)));
    }
}
