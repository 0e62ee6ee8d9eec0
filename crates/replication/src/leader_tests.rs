//! The rules of [`Leader`], one short story for each. Broker n is registered with epoch 100 + n unless a story differs.

#[path = "leader_isr_tests.rs"]
mod isr_tests;

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::follower::{FetchAnswer, Follower, LocalLog};

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

#[test]
fn a_function_tells_which_brokers_are_eligible() {
    let brokers = |broker: BrokerId| (broker == LOCAL).then_some(epoch_of(1));
    assert_eq!((brokers.eligible_epoch(LOCAL), brokers.eligible_epoch(BrokerId(2))), (Some(epoch_of(1)), None));
}

struct Story {
    leader: Leader,
    image: Image,
}

const REPLICAS: [BrokerId; 3] = [BrokerId(1), BrokerId(2), BrokerId(3)];

impl Story {
    /// Leader 1 of replicas 1, 2, 3 in leader epoch 5 and partition epoch 10, elected at 0 ms with a log of 0..100.
    fn new(isr: &[i32], min_isr: usize, high_watermark: i64) -> Self {
        Self::with_rules(isr, min_isr, high_watermark, BrokenRules::default())
    }

    fn with_rules(isr: &[i32], min_isr: usize, high_watermark: i64, rules: BrokenRules) -> Self {
        Self::in_epoch(LeaderEpoch(5), isr, min_isr, high_watermark, rules)
    }

    fn in_epoch(
        leader_epoch: LeaderEpoch,
        isr: &[i32],
        min_isr: usize,
        high_watermark: i64,
        rules: BrokenRules,
    ) -> Self {
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
            leader_epoch,
            partition_epoch: PartitionEpoch(10),
            replicas: &REPLICAS,
            established_replicas: REPLICAS.len(),
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
    ) -> Result<LeaderEffects, FetchError> {
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
            established_replicas: REPLICAS.len(),
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
        established_replicas: REPLICAS.len(),
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
    let rules = BrokenRules { hw_over_committed_isr_only: true, ..BrokenRules::default() };
    let mut story = Story::with_rules(&[1], 1, 100, rules);
    assert!(story.fetch(1, 2, 100).alter.is_some());
    assert_eq!(story.append(2, 110).high_watermark, Some(Offset(110)));
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
    }
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
    assert_eq!(story.leader.check_leader_epoch(former), Err(FetchError::FencedLeaderEpoch { asked: former, current }));
    assert_eq!(story.leader.check_leader_epoch(later), Err(FetchError::UnknownLeaderEpoch { asked: later, current }));
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

/// The follower that a consumer at `offset` is sent to by leader 1, if the brokers in `near` are near it.
fn preferred(story: &Story, now_ms: u64, offset: i64, near: &[i32]) -> Option<i32> {
    let is_near = |broker: BrokerId| near.contains(&broker.0);
    let preferred = story.leader.preferred_read_replica(at(now_ms), Offset(offset), is_near, &story.image);
    preferred.map(|broker| broker.0)
}

#[test]
fn a_consumer_is_sent_to_the_furthest_member_near_it_that_has_its_offset() {
    let mut story = Story::new(&[1, 2, 3], 1, 50);
    assert_eq!(preferred(&story, 0, 50, &[2, 3]), None, "no follower has said what it has");
    let _ = story.fetch(10, 2, 80);
    let _ = story.fetch(20, 3, 90);
    assert_eq!(preferred(&story, 30, 50, &[2, 3]), Some(3));
    assert_eq!(preferred(&story, 30, 50, &[2]), Some(2));
    assert_eq!(preferred(&story, 30, 85, &[2]), None, "it does not have that offset");
    assert_eq!(preferred(&story, 30, 80, &[2]), Some(2), "it waits for that offset");
    assert_eq!(preferred(&story, 30, 50, &[]), None);
    assert_eq!(preferred(&story, 30, 50, &[1, 2, 3]), None, "the leader is near");
    // Of two with the same end the one that was caught up last, then the larger id.
    let _ = story.fetch(40, 2, 100);
    let _ = story.fetch(50, 3, 100);
    assert_eq!(preferred(&story, 60, 50, &[2, 3]), Some(3));
    let _ = story.fetch(60, 2, 100);
    assert_eq!(preferred(&story, 60, 50, &[2, 3]), Some(2));
    let _ = story.fetch(60, 3, 100);
    assert_eq!(preferred(&story, 60, 50, &[2, 3]), Some(3));
}

#[test]
fn a_consumer_is_not_sent_to_a_follower_that_has_gone_or_restarted_or_is_not_in_sync() {
    let mut story = Story::new(&[1, 2], 1, 50);
    let _ = story.fetch(10, 2, 100);
    let _ = story.fetch(10, 3, 60);
    assert_eq!(preferred(&story, 20, 50, &[3]), None, "it is not in the ISR");
    assert_eq!(preferred(&story, 20, 50, &[2]), Some(2));
    story.image.set(2, 200);
    assert_eq!(preferred(&story, 20, 50, &[2]), None, "another incarnation may have another log");
    story.image.remove(2);
    assert_eq!(preferred(&story, 20, 50, &[2]), None, "it is fenced");
}

/// The round of ticks passes by a leader at rest: it must have nothing to do, and miss nothing later.
#[test]
fn a_leader_rests_while_the_isr_has_everything_and_nobody_may_join_it() {
    let mut story = Story::new(&[1, 2, 3], 1, 100);
    let rests = |story: &Story| story.leader.is_at_rest(&story.image);
    assert!(!rests(&story), "the others have not fetched in this leader epoch");
    drop(story.fetch(1, 2, 100));
    drop(story.fetch(1, 3, 100));
    assert!(rests(&story));
    drop(story.append(2, 110));
    drop(story.fetch(3, 2, 110));
    assert!(!rests(&story), "one lacks records");
    let proposal = story.tick(LAG_MAX_MS * 2).alter.expect("it lags");
    assert!(!rests(&story), "a proposal is not decided");
    drop(story.accept(LAG_MAX_MS * 2, &proposal));
    assert!(!rests(&story), "it may come back");
    story.image.remove(3);
    assert!(rests(&story));
    assert_eq!(story.tick(LAG_MAX_MS * 4), LeaderEffects::default());
    story.image.set(3, 103);
    assert!(!rests(&story), "its broker is there again");
}

proptest! {
    /// A follower whose last answer had no room for its records was held back while every write waited for it, ten
    /// seconds long: it lacked what was committed since the fetch by which its leader counted it as caught up.
    #[test]
    fn a_follower_knows_when_writes_may_wait_for_it(
        steps in vec((0..4_i64, any::<bool>(), 0..3_i64, 0..12_i64), 1..100),
    ) {
        let mut story = Story::new(&[1, 2], 1, 100);
        let log = |end| LocalLog { start: Offset(0), end: Offset(end), latest_epoch: LeaderEpoch(5) };
        let (mut follower, _) = Follower::new(LOCAL, LeaderEpoch(5), log(0), Offset(0), BrokenRules::default());
        let (mut leader_end, mut end, mut asked_from) = (100, 0, None);
        for (ms, (written, is_acknowledged, has_room, records)) in (1..).zip(steps) {
            // In a fetch session a position is named once: an answer may tell the HW without records.
            if asked_from.replace(end) != Some(end) {
                let _ = story.fetch(ms, 3, end);
            }
            leader_end += written;
            let _ = story.append(ms, leader_end);
            if is_acknowledged {
                let _ = story.fetch(ms, 2, leader_end);
            }
            end = leader_end.min(end + has_room * records);
            let answer = FetchAnswer {
                error: ErrorCode::None,
                diverging: None,
                high_watermark: Offset(story.hw()),
                log_start: Offset(0),
            };
            let _ = follower.appended(log(end), &answer);
            let is_awaited = follower.is_awaited(at(ms), Duration::from_millis(LAG_MAX_MS));
            prop_assert!(is_awaited || !story.leader.is_about_to_join(BrokerId(3), at(ms)), "in step {ms}");
        }
    }
}

/// A throttled follower was held back while every write waited for it, ten seconds long.
#[test]
fn a_follower_outside_the_isr_for_which_writes_wait_is_about_to_join() {
    let mut story = Story::new(&[1, 2], 1, 100);
    let _ = story.fetch(1, 2, 100);
    let _ = story.fetch(2, 3, 40);
    assert!(!story.leader.is_about_to_join(BrokerId(3), at(2)), "it lags");
    let _ = story.append(3, 110);
    let _ = story.fetch(4, 2, 110);
    // It has what there was when it fetched the last time, and lacks what was committed since.
    assert_eq!((story.fetch(5, 3, 100).alter, story.hw()), (None, 110));
    assert!(story.leader.is_about_to_join(BrokerId(3), at(5)));
    let _ = story.append(6, 120);
    let _ = story.fetch(7, 2, 120);
    assert_eq!(story.hw(), 110, "the HW waits for it");
    assert!(story.fetch(8, 3, 110).alter.is_some());
}
