//! A leader's proposals for the ISR: who leaves, who joins, and what follows from the quorum's decisions.

use super::*;

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

/// A broker died that tens of thousands of ISRs hold: the quorum takes it out of one after the other.
#[test]
fn a_member_whose_broker_has_gone_leaves_once_a_write_waits_for_it() {
    let mut story = Story::new(&[1, 2, 3], 1, 100);
    let _ = story.fetch(0, 2, 100);
    let _ = story.fetch(0, 3, 100);
    story.image.remove(2);
    assert_eq!(story.tick(5).alter, None, "no write waits");
    let _ = story.append(10, 110);
    let proposal = story.tick(11).alter.expect("2 will not fetch it");
    assert_eq!(brokers_of(&proposal), [1, 3], "3 is as far as 2, but there");
    let _ = story.fetch(12, 3, 110);
    assert_eq!(story.hw(), 100, "not before the quorum decided");
    assert_eq!(story.accept(13, &proposal).high_watermark, Some(Offset(110)));
}

#[test]
fn members_that_never_show_up_leave_after_the_lag_time_since_election() {
    let mut story = Story::new(&[1, 2, 3], 1, 40);
    assert_eq!(story.tick(LAG_MAX_MS).alter, None);
    let proposal = story.tick(LAG_MAX_MS + 1).alter.expect("neither came");
    assert_eq!(brokers_of(&proposal), [1]);
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

/// The answer to a proposal of an earlier leader epoch comes when this one's first proposal waits to be sent. Taken for
/// its refusal, it would let the high watermark pass a follower that the quorum takes into the ISR a moment later.
#[test]
fn scenario_08_an_outcome_of_an_earlier_leader_epoch_says_nothing() {
    let story_in = |epoch| Story::in_epoch(LeaderEpoch(epoch), &[1], 1, 100, BrokenRules::default());
    let earlier = story_in(5).fetch(1, 2, 100).alter.expect("2 has everything");
    let mut story = story_in(6);
    let present = story.fetch(2, 2, 100).alter.expect("2 has everything");
    assert_ne!(earlier.number, present.number);
    let _ = story.decide(3, &earlier, IsrOutcome::Refused(ErrorCode::IneligibleReplica));
    assert_eq!(story.append(4, 110).high_watermark, None, "2 may join, and lacks this");
    assert!(story.accept(5, &present).isr_changed);
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
        established_replicas: replicas.len(),
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

/// A reassignment began while a proposal was on its way, which was decided on top of it. The state in between is older
/// than the decision, and the leader refused the fetches of the new replicas for ever.
#[test]
fn replicas_that_a_decision_overtook_are_learnt() {
    let mut story = Story::new(&[1], 1, 100);
    let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
    let partition_epoch = proposal.partition_epoch.next().next();
    let (leader_epoch, isr) = (proposal.leader_epoch, proposal.isr.clone());
    let _ = story.decide(2, &proposal, IsrOutcome::Decided { leader_epoch, partition_epoch, isr: isr.clone() });
    let replicas = [1, 2, 3, 4].map(BrokerId);
    let view = PartitionView { leader_epoch, partition_epoch, replicas: &replicas, established_replicas: 3, isr: &isr };
    let _ = story.leader.state_changed(at(3), view, &story.image);
    assert!(story.leader.progress(BrokerId(4)).is_some());
    assert_eq!(story.leader.progress(BrokerId(2)).map(|progress| progress.log_end), Some(Offset(100)));
}

#[test]
fn min_isr_can_change_while_a_leader_leads() {
    let mut story = Story::new(&[1], 2, 60);
    assert_eq!(story.hw(), 60);
    let effects = story.leader.set_min_insync_replicas(at(1), 1, &story.image);
    assert_eq!(effects.high_watermark, Some(Offset(100)));
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

/// One replica gets two more: it takes writes although the min ISR is 2.
#[test]
fn the_min_isr_is_bounded_without_replicas_that_are_being_added() {
    let mut story = Story::new(&[1], 2, 100);
    assert!(story.leader.is_under_min_isr());
    let isr = [member(1)];
    let view = |partition_epoch, isr| PartitionView {
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(partition_epoch),
        replicas: &REPLICAS,
        established_replicas: 1,
        isr,
    };
    let _ = story.leader.state_changed(at(1), view(11, &isr), &story.image);
    assert_eq!(story.append(2, 110).high_watermark, Some(Offset(110)));
    let proposal = story.fetch(3, 2, 110).alter.expect("2 has everything");
    let _ = story.accept(4, &proposal);
    assert_eq!(story.leader.effective_min_isr(), 2, "the reassignment may be complete with this change");
    let members = [member(1), member(2)];
    let _ = story.leader.state_changed(at(5), view(12, &members), &story.image);
    assert_eq!(story.leader.effective_min_isr(), 1, "the image says that it is not");
}

/// A replica took the place of another one while a proposal was on its way, which was decided on top of that.
#[test]
fn a_replica_that_replaced_another_one_is_learnt() {
    let mut story = Story::new(&[1], 1, 100);
    let proposal = story.fetch(1, 2, 100).alter.expect("2 has everything");
    let partition_epoch = proposal.partition_epoch.next().next();
    let (leader_epoch, isr) = (proposal.leader_epoch, proposal.isr.clone());
    let _ = story.decide(2, &proposal, IsrOutcome::Decided { leader_epoch, partition_epoch, isr: isr.clone() });
    let replicas = [1, 2, 4].map(BrokerId);
    let view = PartitionView { leader_epoch, partition_epoch, replicas: &replicas, established_replicas: 3, isr: &isr };
    let _ = story.leader.state_changed(at(3), view, &story.image);
    assert!(story.leader.progress(BrokerId(4)).is_some() && story.leader.progress(BrokerId(3)).is_none());
}

/// Until the image says which replicas are being added, the min ISR is bounded by all of them.
#[test]
fn the_high_watermark_moves_when_the_image_lowers_the_bound_of_the_min_isr() {
    let mut story = Story::new(&[1], 3, 100);
    let isr = [member(1), member(2)];
    let view = |partition_epoch, established_replicas, isr| PartitionView {
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(partition_epoch),
        replicas: &REPLICAS,
        established_replicas,
        isr,
    };
    let _ = story.leader.state_changed(at(1), view(11, 2, &isr[..1]), &story.image);
    let proposal = story.fetch(2, 2, 100).alter.expect("2 has everything");
    let _ = story.accept(3, &proposal);
    assert_eq!(story.leader.effective_min_isr(), 3);
    let _ = story.append(4, 110);
    assert_eq!(story.fetch(5, 2, 110).high_watermark, None, "two of three");
    let effects = story.leader.state_changed(at(6), view(12, 2, &isr), &story.image);
    assert_eq!(effects.high_watermark, Some(Offset(110)));
}
