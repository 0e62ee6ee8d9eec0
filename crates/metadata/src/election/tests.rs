use std::collections::BTreeMap;

use ottla_model::{BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch};

use super::*;
use crate::image::{Assignment, IsrMember, LeaderRecoveryState, PartitionState, Reassignment};

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
    assert_eq!((back.leader, back.leader_epoch, back.last_known_leader), (BrokerId(1), LeaderEpoch(7), BrokerId::NONE));
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
        assert_eq!((next.leader, next.leader_epoch, next.isr.clone()), (BrokerId(2), LeaderEpoch(6), members(&[2])));
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
    old.last_known_elr.clear();
    old.reassignment = Some(Box::new(Reassignment { adding: ids(&[2]), removing: ids(&[]) }));
    let leader = PartitionChange::new(&old).unclean(Unclean::WhereEnabled);
    assert_eq!(build_with(leader, &none_acceptable(&[2, 3])).leader, BrokerId(3), "2 is being added");
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
    assert_eq!(PartitionChange::new(&alone).without_unclean(BrokerId(1)).build(&live(&[]), ControllerEpoch(1)), None);
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
    let before = moving(&[1, 2, 4]);
    let change = || PartitionChange::new(&before).with_isr(members(&[1, 2, 4, 5]));
    let waiting = build(change(), &live(&[1, 2]));
    assert_eq!((waiting.leader, waiting.is_reassigning()), (BrokerId(1), true), "4 and 5 shut down");
    let going = Live { leader_lives: true, ..live(&[1, 2]) };
    assert!(build(change(), &going).is_reassigning(), "only the leader leads while it shuts down");
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

/// The leader is the target, and shuts down: it leads on while no other replica can, and the others are not needed.
#[test]
fn a_reassignment_completes_with_a_leader_that_shuts_down_and_is_its_target() {
    let reassignment = Reassignment { adding: vec![], removing: ids(&[2, 3]) };
    let before = PartitionState { reassignment: Some(Box::new(reassignment)), ..state(1, &[1, 2], &[]) };
    let done = build(PartitionChange::new(&before), &Live { leader_lives: true, ..live(&[]) });
    assert_eq!((done.leader, done.replicas, done.isr), (BrokerId(1), ids(&[1]), members(&[1])));
    assert_eq!(
        PartitionChange::new(&before).build(&live(&[3]), ControllerEpoch(2)).map(|next| next.is_reassigning()),
        Some(true)
    );
}
