//! The rules of [`Leader`], one short story for each. Broker n is registered with epoch 100 + n unless a story differs.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;

const LAG_MAX_MS: u64 = 30_000;
const LOCAL: BrokerId = BrokerId(1);

fn epoch_of(broker: i32) -> BrokerEpoch {
    BrokerEpoch(100 + i64::from(broker))
}

fn member(broker: i32) -> IsrMember {
    IsrMember { broker: BrokerId(broker), epoch: epoch_of(broker) }
}

fn at(ms: u64) -> MonotonicMs {
    MonotonicMs(ms)
}

/// The image's brokers, to be changed in the middle of a story.
#[derive(Default)]
struct Image(RefCell<BTreeMap<BrokerId, BrokerEpoch>>);

impl Image {
    fn of(brokers: &[i32]) -> Self {
        Self(RefCell::new(brokers.iter().map(|&id| (BrokerId(id), epoch_of(id))).collect()))
    }

    fn set(&self, broker: i32, epoch: i64) {
        self.0.borrow_mut().insert(BrokerId(broker), BrokerEpoch(epoch));
    }

    fn remove(&self, broker: i32) {
        self.0.borrow_mut().remove(&BrokerId(broker));
    }
}

impl Brokers for Image {
    fn eligible_epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.0.borrow().get(&broker).copied()
    }
}

struct Story {
    leader: Leader,
    image: Image,
}

const REPLICAS: [BrokerId; 3] = [BrokerId(1), BrokerId(2), BrokerId(3)];

impl Story {
    /// Leader 1 of replicas 1, 2, 3 in leader epoch 5 and partition epoch 10, elected at 0 ms with a log of 0..100.
    fn new(isr: &[i32], min_isr: usize, high_watermark: i64) -> Self {
        Self::with_rules(isr, min_isr, high_watermark, Rules::default())
    }

    fn with_rules(isr: &[i32], min_isr: usize, high_watermark: i64, rules: Rules) -> Self {
        let image = Image::of(&[1, 2, 3]);
        let config = LeaderConfig {
            local: LOCAL,
            local_epoch: epoch_of(1),
            replica_lag_time_max: Duration::from_millis(LAG_MAX_MS),
            min_insync_replicas: min_isr,
            rules,
        };
        let members: Vec<_> = isr.iter().map(|&id| member(id)).collect();
        let view = PartitionView {
            leader_epoch: LeaderEpoch(5),
            partition_epoch: PartitionEpoch(10),
            replicas: &REPLICAS,
            isr: &members,
        };
        let (leader, effects) =
            Leader::new(at(0), config, view, Offset(0), Offset(100), Offset(high_watermark), &image);
        assert_eq!(effects.alter, None);
        Self { leader, image }
    }

    fn try_fetch(
        &mut self,
        now: u64,
        broker: i32,
        epoch: BrokerEpoch,
        offset: i64,
    ) -> Result<LeaderEffects, FetchRefused> {
        let fetch = FollowerFetch {
            replica: BrokerId(broker),
            broker_epoch: epoch,
            leader_epoch: self.leader.leader_epoch(),
            fetch_offset: Offset(offset),
            log_start_offset: Offset(0),
        };
        self.leader.follower_fetched(at(now), &fetch, &self.image)
    }

    fn fetch(&mut self, now: u64, broker: i32, offset: i64) -> LeaderEffects {
        self.try_fetch(now, broker, epoch_of(broker), offset).expect("a good fetch")
    }

    fn append(&mut self, now: u64, log_end: i64) -> LeaderEffects {
        self.leader.appended(at(now), Offset(log_end), &self.image)
    }

    fn tick(&mut self, now: u64) -> LeaderEffects {
        self.leader.tick(at(now), &self.image)
    }

    fn decide(&mut self, now: u64, proposal: &IsrProposal, outcome: IsrOutcome) -> LeaderEffects {
        self.leader.isr_decided(at(now), proposal.number, &outcome, &self.image)
    }

    fn accept(&mut self, now: u64, proposal: &IsrProposal) -> LeaderEffects {
        let outcome = IsrOutcome::Decided {
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch.next(),
            isr: proposal.isr.clone(),
        };
        self.decide(now, proposal, outcome)
    }

    fn metadata(&mut self, now: u64, partition_epoch: i32, isr: &[IsrMember]) -> LeaderEffects {
        let view = PartitionView {
            leader_epoch: self.leader.leader_epoch(),
            partition_epoch: PartitionEpoch(partition_epoch),
            replicas: &REPLICAS,
            isr,
        };
        self.leader.state_changed(at(now), view, &self.image)
    }

    fn hw(&self) -> i64 {
        self.leader.high_watermark().0
    }
}

fn brokers_of(proposal: &IsrProposal) -> Vec<i32> {
    proposal.isr.iter().map(|member| member.broker.0).collect()
}

#[test]
fn hw_is_the_smallest_log_end_of_the_isr() {
    let mut story = Story::new(&[1, 2, 3], 1, 40);
    assert_eq!(story.hw(), 40, "a new leader does not know how far the members are");
    assert_eq!(story.fetch(1, 2, 90).high_watermark, None);
    assert_eq!(story.fetch(2, 3, 70).high_watermark, Some(Offset(70)));
    assert_eq!(story.fetch(3, 3, 100).high_watermark, Some(Offset(90)));
    assert_eq!(story.append(4, 120), LeaderEffects::default());
    assert_eq!(story.fetch(5, 2, 120).high_watermark, Some(Offset(100)));
    assert_eq!(story.fetch(6, 3, 110).high_watermark, Some(Offset(110)));
    assert_eq!(story.fetch(7, 3, 60).high_watermark, None, "the HW never falls");
    assert_eq!(story.hw(), 110);
}

#[test]
fn a_sole_member_commits_at_once() {
    let mut story = Story::new(&[1], 1, 40);
    assert_eq!(story.hw(), 100);
    assert_eq!(story.append(1, 101).high_watermark, Some(Offset(101)));
}

/// Scenario 18: a follower whose disk is full is in sync up to the record that it cannot take.
#[test]
fn a_follower_that_gave_up_its_place_is_waited_for_only_when_it_has_everything() {
    let mut story = Story::new(&[1, 2], 1, 100);
    let _ = story.fetch(1, 2, 100);
    let _ = story.append(2, 110);
    assert_eq!(story.hw(), 100, "2 is a member");
    let view = PartitionView {
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(11),
        replicas: &REPLICAS,
        isr: &[member(1)],
    };
    let effects = story.leader.state_changed(at(3), view, &story.image);
    assert_eq!(effects.high_watermark, Some(Offset(110)), "nobody waits for it");
    let _ = story.append(4, 120);
    assert_eq!(story.hw(), 120);
    assert_eq!(story.fetch(5, 2, 100).alter, None);
    assert!(story.fetch(6, 2, 120).alter.is_some(), "it has room again");
}

#[test]
fn hw_waits_for_a_caught_up_follower_that_may_join() {
    let mut story = Story::new(&[1], 1, 100);
    let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
    let _ = story.decide(2, &proposal, IsrOutcome::Refused(ErrorCode::IneligibleReplica));
    assert_eq!(story.append(3, 110).high_watermark, None, "2 is caught up and registered: waited for");
    story.image.remove(2);
    assert_eq!(story.tick(4).high_watermark, Some(Offset(110)), "a fenced follower is not");
}

#[test]
fn scenario_06_hw_is_frozen_below_min_isr() {
    let mut story = Story::new(&[1], 2, 60);
    assert_eq!(story.hw(), 60);
    assert_eq!(story.append(1, 110).high_watermark, None);
    assert_eq!(story.leader.check_append(true), Err(ErrorCode::NotEnoughReplicas));
    assert_eq!(story.leader.check_append(false), Ok(()), "acks=1 asks for no replicas");
    let effects = story.fetch(2, 2, 110);
    assert_eq!(effects.high_watermark, None, "a pending member does not lift the ISR to min ISR");
    let proposal = effects.alter.expect("2 has everything");
    let effects = story.accept(3, &proposal);
    assert_eq!((effects.high_watermark, effects.isr_changed), (Some(Offset(110)), true));
    assert_eq!(story.leader.check_append(true), Ok(()));
}

#[test]
fn effective_min_isr_is_at_most_the_number_of_replicas() {
    let story = Story::new(&[1, 2, 3], 7, 0);
    assert_eq!(story.leader.effective_min_isr(), 3);
    assert_eq!(story.leader.check_append(true), Ok(()));
}

#[test]
fn acks_all_are_answered_by_hw_and_min_isr() {
    let mut story = Story::new(&[1, 2], 2, 100);
    let _ = story.append(1, 110);
    assert_eq!(story.leader.ack_state(Offset(110)), AckState::Waiting);
    let _ = story.fetch(2, 2, 110);
    assert_eq!(story.leader.ack_state(Offset(110)), AckState::Acknowledged);
    let _ = story.metadata(3, 11, &[member(1)]);
    assert_eq!(story.leader.ack_state(Offset(110)), AckState::NotEnoughReplicas);
    assert_eq!(story.leader.ack_state(Offset(111)), AckState::Waiting);
}

#[test]
fn expansion_needs_the_hw_and_the_start_of_the_epoch() {
    // The HW of a new leader may be below records that were acknowledged before: 100 is the start of the epoch.
    let mut story = Story::new(&[1, 3], 1, 40);
    assert_eq!(story.fetch(1, 2, 99).alter, None);
    assert_eq!(brokers_of(&story.fetch(2, 2, 100).alter.expect("at the epoch's start")), [1, 2, 3]);

    let mut story = Story::new(&[1], 1, 100);
    story.image.remove(2);
    let _ = story.append(1, 200);
    assert_eq!(story.fetch(2, 2, 150).alter, None, "behind the HW, and not registered");
    assert_eq!(story.fetch(3, 2, 200).alter, None, "not registered");
    story.image.set(2, epoch_of(2).0);
    assert!(story.fetch(4, 2, 200).alter.is_some());
}

#[test]
fn a_follower_that_is_always_one_fetch_behind_is_in_sync() {
    let mut story = Story::new(&[1, 2], 1, 100);
    let _ = story.fetch(0, 2, 100);
    for step in 1..100_u64 {
        let end = 100 + i64::try_from(step).expect("small") * 10;
        let _ = story.append(step * 1_000, end);
        let _ = story.fetch(step * 1_000 + 1, 2, end - 10);
        assert_eq!(story.tick(step * 1_000 + 2).alter, None, "step {step}");
    }
}

#[test]
fn a_follower_that_lags_for_too_long_leaves() {
    let mut story = Story::new(&[1, 2, 3], 1, 100);
    let _ = story.fetch(0, 2, 100);
    let _ = story.fetch(0, 3, 100);
    assert_eq!(story.leader.next_deadline(at(0)), None, "idle and in sync");
    let _ = story.append(10, 110);
    let _ = story.fetch(20, 2, 110);
    assert_eq!(story.leader.next_deadline(at(20)), Some(at(10 + LAG_MAX_MS + 1)), "3 had everything until 10 ms");
    assert_eq!(story.tick(10 + LAG_MAX_MS).alter, None);
    let proposal = story.tick(10 + LAG_MAX_MS + 1).alter.expect("3 stands still");
    assert_eq!(brokers_of(&proposal), [1, 2]);
    assert_eq!(story.hw(), 100, "scenario 7: not before the quorum decided");
    assert_eq!(story.accept(10 + LAG_MAX_MS + 2, &proposal).high_watermark, Some(Offset(110)));
}

#[test]
fn members_that_never_show_up_leave_after_the_lag_time_since_election() {
    let mut story = Story::new(&[1, 2, 3], 1, 40);
    assert_eq!(story.tick(LAG_MAX_MS).alter, None);
    let proposal = story.tick(LAG_MAX_MS + 1).alter.expect("neither came");
    assert_eq!(brokers_of(&proposal), [1]);
}

#[test]
fn scenario_07_hw_counts_the_larger_of_committed_and_pending() {
    // An undecided shrink releases no member.
    let mut story = Story::new(&[1, 2], 1, 100);
    let _ = story.append(1, 110);
    let shrink = story.tick(LAG_MAX_MS + 2).alter.expect("2 stands still");
    assert_eq!(story.append(LAG_MAX_MS + 2, 120).high_watermark, None);
    let effects = story.decide(LAG_MAX_MS + 3, &shrink, IsrOutcome::Refused(ErrorCode::OperationNotAttempted));
    assert_eq!((effects.high_watermark, story.hw()), (None, 100));

    // An expansion that is not decided binds already.
    let mut story = Story::new(&[1], 1, 100);
    let expand = story.fetch(1, 2, 100).alter.expect("2 has everything");
    story.image.remove(2);
    assert_eq!(story.append(2, 110).high_watermark, None, "the quorum may hold 2 in the ISR by now");
    let effects = story.accept(3, &expand);
    assert_eq!((effects.high_watermark, effects.isr_changed), (None, true));
    assert_eq!(story.fetch(4, 2, 110).high_watermark, Some(Offset(110)));
}

#[test]
fn the_broken_rule_for_the_simulation_is_broken() {
    let rules = Rules { hw_over_committed_isr_only: true, ..Rules::default() };
    let mut story = Story::with_rules(&[1], 1, 100, rules);
    assert!(story.fetch(1, 2, 100).alter.is_some());
    assert_eq!(story.append(2, 110).high_watermark, Some(Offset(110)));
}

#[test]
fn one_proposal_at_a_time() {
    let mut story = Story::new(&[1], 1, 100);
    let first = story.fetch(1, 2, 100).alter.expect("2 has everything");
    assert_eq!(story.fetch(2, 3, 100).alter, None);
    assert_eq!(story.fetch(3, 2, 100).alter, None);
    let _ = story.accept(4, &first);
    let second = story.fetch(5, 3, 100).alter.expect("3's turn");
    assert_eq!(brokers_of(&second), [1, 2, 3]);
    assert_ne!(first.number, second.number);
    assert_eq!(story.accept(6, &first), LeaderEffects::default(), "an answer to a proposal that has passed");
    assert!(story.leader.isr().pending().is_some());
}

#[test]
fn scenario_05_a_refused_replica_is_neither_counted_nor_waited_for() {
    let mut story = Story::new(&[1], 1, 100);
    let proposal = story.fetch(1, 2, 100).alter.expect("the image does not know of the fencing yet");
    let _ = story.decide(2, &proposal, IsrOutcome::Refused(ErrorCode::IneligibleReplica));
    assert_eq!(story.leader.isr().maximal_len(), 1);
    story.image.remove(2);
    assert_eq!(story.append(3, 110).high_watermark, Some(Offset(110)));
    assert_eq!(story.fetch(4, 2, 110).alter, None);
    // Registered again, and refused for a moment: proposed again, but not in a tight loop.
    story.image.set(2, 200);
    let epoch = BrokerEpoch(200);
    assert_eq!(story.try_fetch(50, 2, epoch, 110).expect("good").alter, None);
    let again = story.try_fetch(102, 2, epoch, 110).expect("good").alter.expect("the pause is over");
    assert_eq!(again.isr.last(), Some(&IsrMember { broker: BrokerId(2), epoch }));
}

#[test]
fn scenario_08_an_unknown_outcome_is_retried_with_the_same_expected_version() {
    let mut story = Story::new(&[1], 1, 100);
    let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
    assert_eq!(story.decide(1_000, &proposal, IsrOutcome::Unknown), LeaderEffects::default());
    assert_eq!(story.leader.isr().maximal_len(), 2, "it may have happened");
    assert_eq!(story.append(1_001, 110).high_watermark, None);
    assert_eq!(story.tick(1_050).alter, None, "not before the pause is over");
    assert_eq!(story.leader.next_deadline(at(1_050)), Some(at(1_100)));
    assert_eq!(story.tick(1_100).alter.as_ref(), Some(&proposal));
    assert_eq!(story.tick(1_101).alter, None, "once per answer");
    // It had been applied: the quorum recognises it and answers with the state.
    assert!(story.accept(1_200, &proposal).isr_changed);
    assert_eq!(story.leader.isr().committed().len(), 2);
}

#[test]
fn scenario_08_a_refusal_after_an_unknown_outcome_proves_nothing_while_the_replica_lives() {
    let mut story = Story::new(&[1], 1, 100);
    let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
    let _ = story.decide(500, &proposal, IsrOutcome::Unknown);
    assert!(story.tick(600).alter.is_some());
    let _ = story.decide(700, &proposal, IsrOutcome::Refused(ErrorCode::IneligibleReplica));
    assert_eq!(story.leader.isr().maximal_len(), 2, "the first attempt may still arrive");
    assert_eq!(story.append(701, 110).high_watermark, None);
    // Its incarnation has ended: now the first attempt cannot succeed any more.
    story.image.set(2, 200);
    assert!(story.tick(800).alter.is_some());
    let effects = story.decide(900, &proposal, IsrOutcome::Refused(ErrorCode::IneligibleReplica));
    assert_eq!((effects.high_watermark, story.leader.isr().maximal_len()), (Some(Offset(110)), 1));
}

#[test]
fn scenario_08_other_definite_errors_wait_for_metadata() {
    for error in [
        ErrorCode::FencedLeaderEpoch,
        ErrorCode::InvalidUpdateVersion,
        ErrorCode::InvalidRequest,
        ErrorCode::UnknownTopicOrPartition,
        ErrorCode::UnknownTopicId,
        ErrorCode::NewLeaderElected,
    ] {
        let mut story = Story::new(&[1], 1, 100);
        let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
        let _ = story.decide(2, &proposal, IsrOutcome::Refused(error));
        assert_eq!(story.leader.isr().maximal_len(), 2, "{error:?}");
        assert_eq!(story.tick(60_000).alter, None, "{error:?} is not sent again");
        assert_eq!(story.leader.next_deadline(at(60_000)), None);
        let _ = story.append(60_001, 110);
        let effects = story.metadata(60_002, 11, &[member(1)]);
        assert!(!effects.isr_changed && story.leader.isr().pending().is_none());
    }
    // An error that says nothing about the state is a retry.
    let mut story = Story::new(&[1], 1, 100);
    let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
    let _ = story.decide(2, &proposal, IsrOutcome::Refused(ErrorCode::NotController));
    assert_eq!(story.tick(102).alter, Some(proposal));
}

#[test]
fn older_metadata_is_ignored() {
    let mut story = Story::new(&[1], 1, 100);
    let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
    assert_eq!(story.metadata(2, 10, &[member(1)]), LeaderEffects::default());
    assert!(story.leader.isr().pending().is_some(), "the state that the proposal is based on");
    let _ = story.accept(3, &proposal);
    let _ = story.metadata(4, 11, &[member(1), member(2)]);
    let _ = story.metadata(5, 10, &[member(1)]);
    assert_eq!(story.leader.isr().committed().len(), 2);
}

#[test]
fn scenario_04_a_fetch_of_a_former_life_does_not_count() {
    // The image knows the new incarnation: refused.
    let mut story = Story::new(&[1], 1, 60);
    story.image.set(2, 200);
    let error = story.try_fetch(1, 2, epoch_of(2), 100).expect_err("stale");
    assert_eq!(error.error_code(), ErrorCode::NotLeaderOrFollower);
    assert!(story.leader.progress(BrokerId(2)).is_some_and(|progress| progress.log_end == Offset::UNKNOWN));

    // The image does not know it yet, but the new incarnation has fetched: the former one's progress no longer counts,
    // and does not let the new one join.
    let mut story = Story::new(&[1, 3], 1, 60);
    let new_life = BrokerEpoch(200);
    assert_eq!(story.try_fetch(1, 2, new_life, 0).expect("good").alter, None);
    assert_eq!(story.fetch(2, 2, 100), LeaderEffects::default());
    assert_eq!(story.leader.progress(BrokerId(2)).map(|progress| progress.log_end), Some(Offset(0)));
    story.image.set(2, 200);
    let proposal = story.try_fetch(3, 2, new_life, 100).expect("good").alter.expect("caught up by itself");
    assert!(proposal.isr.contains(&IsrMember { broker: BrokerId(2), epoch: new_life }), "by its own epoch");
}

#[test]
fn scenario_04_a_member_that_was_restarted_holds_the_hw_until_metadata_speaks() {
    let mut story = Story::new(&[1, 2], 2, 100);
    let _ = story.append(1, 110);
    // A new incarnation of 2 fetches, under a registration that this leader's image has not seen.
    assert_eq!(story.try_fetch(2, 2, BrokerEpoch(200), 110).expect("good").high_watermark, None);
    assert_eq!(story.hw(), 100, "the ISR says 2 with its former epoch");
    let joined = IsrMember { broker: BrokerId(2), epoch: BrokerEpoch(200) };
    assert_eq!(story.metadata(3, 11, &[member(1)]).high_watermark, None, "below min ISR");
    assert_eq!(story.metadata(4, 12, &[member(1), joined]).high_watermark, Some(Offset(110)));
}

#[test]
fn fetches_are_checked_before_they_count() {
    let story = Story::new(&[1, 2], 1, 100);
    let fetch = |broker, epoch| FollowerFetch {
        replica: BrokerId(broker),
        broker_epoch: epoch_of(broker),
        leader_epoch: LeaderEpoch(epoch),
        fetch_offset: Offset(0),
        log_start_offset: Offset(0),
    };
    for (broker, epoch, expected) in [
        (2, 5, ErrorCode::None),
        (2, -1, ErrorCode::None),
        (2, 4, ErrorCode::FencedLeaderEpoch),
        (2, 6, ErrorCode::UnknownLeaderEpoch),
        (9, 5, ErrorCode::UnknownLeaderEpoch),
        (9, -1, ErrorCode::NotLeaderOrFollower),
        (1, 5, ErrorCode::UnknownLeaderEpoch), // this broker itself
    ] {
        let code = story
            .leader
            .check_fetch(&fetch(broker, epoch), &story.image)
            .map_or_else(|error| error.error_code(), |()| ErrorCode::None);
        assert_eq!(code, expected, "broker {broker}, epoch {epoch}");
    }
}

#[test]
fn a_fetch_beyond_the_log_is_not_progress() {
    let mut story = Story::new(&[1, 2], 1, 60);
    assert_eq!(story.fetch(1, 2, 101), LeaderEffects::default());
    assert_eq!(story.leader.progress(BrokerId(2)).map(|progress| progress.log_end), Some(Offset::UNKNOWN));
}

#[test]
fn offsets_are_available_once_the_hw_reaches_the_epoch() {
    let mut story = Story::new(&[1, 2], 1, 60);
    assert!(!story.leader.are_offsets_available());
    let _ = story.fetch(1, 2, 99);
    assert!(!story.leader.are_offsets_available());
    let _ = story.fetch(2, 2, 100);
    assert!(story.leader.are_offsets_available());
    assert_eq!(story.leader.high_watermark(), Offset(100));
}

#[test]
fn scenario_09_a_leader_that_is_cut_off_acknowledges_nothing() {
    let mut story = Story::new(&[1, 2, 3], 2, 100);
    let _ = story.append(1, 110);
    let shrink = story.tick(LAG_MAX_MS + 1).alter.expect("nobody fetches");
    for round in 1..50 {
        let now = LAG_MAX_MS + round * 1_000;
        let _ = story.decide(now, &shrink, IsrOutcome::Unknown);
        assert_eq!(story.tick(now + 100).alter.as_ref(), Some(&shrink), "the same, and no more than one");
        assert_eq!(story.hw(), 100);
        assert_eq!(story.leader.ack_state(Offset(110)), AckState::Waiting);
    }
}

#[test]
fn replicas_come_and_go_and_the_rest_keep_their_progress() {
    let mut story = Story::new(&[1, 2, 3], 1, 100);
    let _ = story.fetch(1, 2, 100);
    let _ = story.fetch(1, 3, 100);
    let replicas = [BrokerId(1), BrokerId(2), BrokerId(4)];
    let isr = [member(1), member(2)];
    let view = PartitionView {
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(11),
        replicas: &replicas,
        isr: &isr,
    };
    let effects = story.leader.state_changed(at(2), view, &story.image);
    assert!(effects.isr_changed);
    assert!(story.leader.progress(BrokerId(3)).is_none());
    assert_eq!(story.leader.progress(BrokerId(2)).map(|progress| progress.log_end), Some(Offset(100)));
    assert_eq!(story.leader.progress(BrokerId(4)).map(|progress| progress.log_end), Some(Offset::UNKNOWN));
    assert_eq!(story.append(3, 110).high_watermark, None);
    assert_eq!(story.fetch(4, 2, 110).high_watermark, Some(Offset(110)));
}

#[test]
fn min_isr_can_change_while_a_leader_leads() {
    let mut story = Story::new(&[1], 2, 60);
    assert_eq!(story.hw(), 60);
    let effects = story.leader.set_min_insync_replicas(at(1), 1, &story.image);
    assert_eq!(effects.high_watermark, Some(Offset(100)));
}

#[test]
fn a_leader_tells_what_it_began_with_and_what_it_knows_now() {
    let mut story = Story::new(&[1, 2], 1, 40);
    let _ = story.append(1, 110);
    let leader = &story.leader;
    assert_eq!((leader.epoch_start(), leader.log_end()), (Offset(100), Offset(110)));
    assert_eq!((leader.partition_epoch(), leader.leader_epoch()), (PartitionEpoch(10), LeaderEpoch(5)));
    let followers: Vec<_> = leader.followers().iter().map(|follower| follower.broker.0).collect();
    assert_eq!(followers, [2, 3]);
    let _ = story.metadata(2, 11, &[member(1)]);
    assert_eq!(story.leader.partition_epoch(), PartitionEpoch(11));
    let nothing = |high_watermark| LeaderEffects { high_watermark, ..LeaderEffects::default() };
    assert!(nothing(None).is_empty() && !nothing(Some(Offset(1))).is_empty());
}

#[test]
fn the_low_watermark_is_the_lowest_start_of_the_live_replicas() {
    let mut story = Story::new(&[1, 2, 3], 1, 0);
    assert_eq!(story.leader.low_watermark(&story.image), Offset::UNKNOWN, "2 and 3 have not fetched");
    for (broker, log_start_offset) in [(2, 20), (3, 30)] {
        let fetch = FollowerFetch {
            replica: BrokerId(broker),
            broker_epoch: epoch_of(broker),
            leader_epoch: LeaderEpoch::NONE,
            fetch_offset: Offset(100),
            log_start_offset: Offset(log_start_offset),
        };
        assert!(story.leader.follower_fetched(at(1), &fetch, &story.image).is_ok());
    }
    assert_eq!(story.leader.low_watermark(&story.image), Offset(0), "its own");
    story.leader.log_start_moved(Offset(50));
    assert_eq!(story.leader.low_watermark(&story.image), Offset(20));
    story.image.remove(2);
    assert_eq!(story.leader.low_watermark(&story.image), Offset(30));
    story.leader.log_start_moved(Offset(900));
    story.image.remove(3);
    assert_eq!(story.leader.low_watermark(&story.image), Offset(100), "never beyond the high watermark");
}

#[test]
fn a_request_names_this_leader_epoch_or_none() {
    let story = Story::new(&[1], 1, 0);
    let current = LeaderEpoch(5);
    for passes in [LeaderEpoch::NONE, current] {
        assert_eq!(story.leader.check_leader_epoch(passes), Ok(()));
    }
    let (former, later) = (LeaderEpoch(4), LeaderEpoch(6));
    assert_eq!(
        story.leader.check_leader_epoch(former),
        Err(FetchRefused::FencedLeaderEpoch { asked: former, current })
    );
    assert_eq!(story.leader.check_leader_epoch(later), Err(FetchRefused::UnknownLeaderEpoch { asked: later, current }));
}

/// The first fetch of a leader epoch says nothing of the time before it.
#[test]
fn a_follower_that_comes_once_in_a_while_is_caught_up_since_its_last_fetch_only() {
    let mut story = Story::new(&[1, 2], 1, 100);
    let _ = story.append(1, 110);
    let caught_up = |story: &Story| story.leader.progress(BrokerId(2)).and_then(|progress| progress.last_caught_up);
    assert_eq!(caught_up(&story), Some(at(0)), "granted at the election");
    let _ = story.fetch(10, 2, 50);
    assert_eq!(caught_up(&story), Some(at(0)));
    let _ = story.append(15, 120);
    let _ = story.fetch(20, 2, 109);
    assert_eq!(caught_up(&story), Some(at(0)), "not up to the end that it was shown");
    let _ = story.fetch(30, 2, 120);
    assert_eq!(caught_up(&story), Some(at(30)));
    let _ = story.append(40, 130);
    assert_eq!(caught_up(&story), Some(at(40)), "it had everything until now");
    let _ = story.append(50, 140);
    assert_eq!(caught_up(&story), Some(at(40)));
    let _ = story.fetch(60, 2, 130);
    assert_eq!(caught_up(&story), Some(at(40)), "the end that its last fetch was shown was 120, at 30");
    let _ = story.fetch(70, 2, 140);
    assert_eq!(caught_up(&story), Some(at(70)));
}

/// Nothing was appended, so nothing says that the follower had everything until now.
#[test]
fn an_append_without_records_grants_no_time() {
    let mut story = Story::new(&[1, 2], 1, 100);
    let _ = story.fetch(10, 2, 100);
    let _ = story.append(20, 100);
    assert_eq!(story.leader.progress(BrokerId(2)).and_then(|progress| progress.last_caught_up), Some(at(10)));
}

/// A member that left must fetch everything once; one that stays is not held to the end of that moment.
#[test]
fn a_member_that_stays_while_another_leaves_keeps_its_time() {
    let mut story = Story::new(&[1, 2, 3], 1, 100);
    let _ = story.fetch(1, 2, 100);
    let _ = story.fetch(1, 3, 100);
    let _ = story.append(2, 110);
    let _ = story.metadata(3, 11, &[member(1), member(2)]);
    assert_eq!(story.tick(4).alter, None, "2 had everything two milliseconds ago");
    assert_eq!(story.hw(), 100);
}

#[test]
fn an_uncertain_proposal_is_repeated_and_one_that_awaits_metadata_is_not() {
    let mut story = Story::new(&[1], 1, 100);
    let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
    let _ = story.decide(10, &proposal, IsrOutcome::Unknown);
    assert_eq!(story.leader.next_deadline(at(10)), Some(at(110)));
    assert_eq!(story.tick(109).alter, None);
    let again = story.tick(110).alter.expect("the outcome is not known");
    assert_eq!(again, proposal);
    assert_eq!(story.tick(111).alter, None, "it is under way");
    assert_eq!(story.leader.next_deadline(at(111)), None);
    let _ = story.decide(120, &again, IsrOutcome::Refused(ErrorCode::InvalidUpdateVersion));
    assert_eq!(story.tick(10_000).alter, None, "the image will tell");
}

#[test]
fn a_decision_of_another_leader_epoch_or_an_older_one_is_no_decision() {
    for (leader_epoch, partition_epoch, counts) in [(5, 11, true), (5, 10, true), (5, 9, false), (6, 11, false)] {
        let mut story = Story::new(&[1], 1, 100);
        let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
        let outcome = IsrOutcome::Decided {
            leader_epoch: LeaderEpoch(leader_epoch),
            partition_epoch: PartitionEpoch(partition_epoch),
            isr: proposal.isr.clone(),
        };
        let effects = story.decide(2, &proposal, outcome);
        assert_eq!(effects.isr_changed, counts, "{leader_epoch} {partition_epoch}");
    }
}

/// After a refusal the next proposal waits, and the moment at which it may leave counts.
#[test]
fn a_refused_follower_is_proposed_again_when_the_pause_is_over() {
    let mut story = Story::new(&[1], 1, 100);
    let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
    let _ = story.decide(10, &proposal, IsrOutcome::Refused(ErrorCode::IneligibleReplica));
    assert_eq!(story.fetch(109, 2, 100).alter, None);
    assert!(story.fetch(110, 2, 100).alter.is_some());
}

/// A member's progress counts under the epoch of its ISR entry only; the same end under the right one is news.
#[test]
fn a_fetch_under_another_registration_is_looked_at_although_its_end_is_the_same() {
    let mut story = Story::new(&[1, 2], 1, 40);
    let again = IsrMember { broker: BrokerId(2), epoch: BrokerEpoch(500) };
    let _ = story.metadata(1, 11, &[member(1), again]);
    assert_eq!(story.fetch(2, 2, 90).high_watermark, None, "the former process");
    story.image.set(2, 500);
    let moved = story.try_fetch(3, 2, BrokerEpoch(500), 90).map(|effects| effects.high_watermark);
    assert_eq!(moved, Ok(Some(Offset(90))));
}

#[test]
fn a_pending_member_holds_the_high_watermark_and_no_other_follower_does() {
    let mut story = Story::new(&[1], 1, 100);
    assert!(story.fetch(1, 2, 100).alter.is_some());
    assert_eq!(story.append(2, 110).high_watermark, None);
    assert_eq!(story.fetch(3, 2, 110).high_watermark, Some(Offset(110)), "3 was never here");
}

#[test]
fn a_member_that_left_may_join_at_the_very_end_of_then() {
    let mut story = Story::new(&[1, 2], 1, 100);
    let _ = story.fetch(1, 2, 100);
    let _ = story.append(2, 110);
    assert_eq!(story.metadata(3, 11, &[member(1)]).high_watermark, Some(Offset(110)));
    assert!(story.fetch(4, 2, 110).alter.is_some());
}

/// The deadline of a follower that is no member matters while it is waited for, and not later.
#[test]
fn a_follower_that_may_join_has_a_deadline_until_it_has_passed() {
    let story = Story::new(&[1], 1, 100);
    assert_eq!(story.leader.next_deadline(at(LAG_MAX_MS)), Some(at(LAG_MAX_MS + 1)), "2 and 3 never came");
    assert_eq!(story.leader.next_deadline(at(LAG_MAX_MS + 1)), None);
    assert_eq!(story.leader.next_deadline(at(LAG_MAX_MS + 2)), None);
    let story = Story::new(&[1, 2], 1, 100);
    assert_eq!(story.leader.next_deadline(at(LAG_MAX_MS + 5)), Some(at(LAG_MAX_MS + 1)), "a member stays due");
}
