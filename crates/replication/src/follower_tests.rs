//! The rules of [`Follower`], and whole truncations between a leader's and a follower's history.

use super::*;
use crate::epoch_history::{Divergence, EpochStart};

const LEADER: BrokerId = BrokerId(1);

fn history(entries: &[(i32, i64)]) -> EpochHistory {
    EpochHistory::from_entries(
        entries.iter().map(|&(epoch, start)| EpochStart { epoch: LeaderEpoch(epoch), start_offset: Offset(start) }),
    )
}

/// A log as far as truncation is concerned: its epochs and its end.
#[derive(Clone, Debug)]
struct Log {
    epochs: EpochHistory,
    end: i64,
}

impl Log {
    fn new(entries: &[(i32, i64)], end: i64) -> Self {
        Self { epochs: history(entries), end }
    }

    fn local(&self) -> LocalLog {
        LocalLog { start: Offset(0), end: Offset(self.end), latest_epoch: self.epochs.latest_epoch() }
    }

    fn cut(&mut self, end: i64) {
        self.end = self.end.min(end);
        self.epochs.truncate_from_end(Offset(self.end));
    }
}

fn answer(error: ErrorCode, diverging: Option<(i32, i64)>, high_watermark: i64) -> FetchAnswer {
    FetchAnswer {
        error,
        diverging: diverging.map(|(epoch, end)| EpochEnd { epoch: LeaderEpoch(epoch), end_offset: Offset(end) }),
        high_watermark: Offset(high_watermark),
        log_start: Offset(0),
    }
}

fn follow(log: &Log, high_watermark: i64) -> Follower {
    let (follower, first) =
        Follower::new(LEADER, LeaderEpoch(9), log.local(), Offset(high_watermark), BrokenRules::default());
    assert_eq!(first, None, "the correct rules cut nothing before the leader was asked");
    follower
}

/// Runs a follower with `own` against a leader with `leads` until they agree; returns the offsets to which the
/// follower's log was truncated, request by request.
fn reconcile(leads: &Log, own: &mut Log) -> Vec<i64> {
    let mut follower = follow(own, 0);
    let mut cuts = Vec::new();
    for _ in 0..20 {
        let ask = follower.next_fetch().expect("fetches");
        let found = leads.epochs.divergence(ask.last_fetched_epoch, ask.offset, Offset(0), Offset(leads.end));
        let said = match found {
            Divergence::None if ask.offset.0 <= leads.end => return cuts,
            Divergence::None | Divergence::OutOfRange => answer(ErrorCode::OffsetOutOfRange, None, -1),
            Divergence::At(end) => answer(ErrorCode::None, Some((end.epoch.0, end.end_offset.0)), 0),
        };
        let mut action = follower.fetched(ask, &said, &own.epochs);
        if action == FollowerAction::AskLeaderBounds {
            action = follower.leader_bounds(Some((Offset(0), Offset(leads.end))));
        }
        match action {
            FollowerAction::Truncate(Truncation::To(offset)) => own.cut(offset.0),
            FollowerAction::Truncate(Truncation::FullyAndStartAt(offset)) => {
                *own = Log { epochs: EpochHistory::new(), end: offset.0 };
            }
            other => panic!("{other:?} for {ask:?}"),
        }
        cuts.push(own.end);
        follower.truncated(own.local());
    }
    panic!("no end of questions: {cuts:?}");
}

#[test]
fn scenario_01_a_restarted_follower_keeps_what_is_above_its_hw() {
    let log = Log::new(&[(0, 0)], 100);
    let follower = follow(&log, 60);
    assert_eq!(follower.next_fetch().map(|ask| ask.offset), Some(Offset(100)));
    assert_eq!(follower.high_watermark(), Offset(60));
    let (_, first) = Follower::new(
        LEADER,
        LeaderEpoch(9),
        log.local(),
        Offset(60),
        BrokenRules { truncate_to_high_watermark: true, ..BrokenRules::default() },
    );
    assert_eq!(first, Some(FollowerAction::Truncate(Truncation::To(Offset(60)))), "the broken rule is broken");
}

#[test]
fn scenario_02_the_same_offset_with_other_records_is_found() {
    // Both lost their tails; the shorter one (50) led epoch 1 and wrote up to 80. The other returns with 80 of epoch 0.
    let leads = Log::new(&[(0, 0), (1, 50)], 80);
    let mut own = Log::new(&[(0, 0)], 80);
    assert_eq!(reconcile(&leads, &mut own), [50]);
}

#[test]
fn scenario_03_two_quick_leader_changes_take_more_than_one_question() {
    // Follower: led epochs 1 and 3 and wrote in both. Leader: has epochs 0, 2, 4. Nothing after 10 is common.
    let leads = Log::new(&[(0, 0), (2, 10), (4, 30)], 40);
    let mut own = Log::new(&[(0, 0), (1, 10), (3, 20)], 35);
    assert_eq!(reconcile(&leads, &mut own), [20, 10], "3 → (2, 30), unknown here: cut to 20; 1 → (0, 10): cut to 10");
    assert_eq!(own.epochs, history(&[(0, 0)]));
}

#[test]
fn scenario_03_an_epoch_that_wrote_nothing_is_dropped_without_losing_a_record() {
    // The follower led epoch 2 for a moment and wrote nothing.
    let leads = Log::new(&[(1, 0), (3, 12)], 20);
    let mut own = Log::new(&[(1, 0), (2, 10)], 10);
    assert_eq!(reconcile(&leads, &mut own), [10]);
    assert_eq!(own.epochs, history(&[(1, 0)]));
}

#[test]
fn a_log_without_anything_common_is_cut_to_its_beginning() {
    let leads = Log::new(&[(5, 0)], 40);
    let mut own = Log::new(&[(1, 0), (2, 10)], 35);
    assert_eq!(reconcile(&leads, &mut own).last(), Some(&0));
    assert!(own.epochs.is_empty());
}

#[test]
fn every_pair_of_histories_agrees_on_a_common_prefix() {
    // Logs as strings of epochs, one a record: everything that three leaders can leave behind in six records.
    let mut logs: Vec<Vec<i32>> = vec![vec![]];
    let mut at = 0;
    while let Some(log) = logs.get(at).cloned() {
        at += 1;
        if log.len() < 6 {
            for epoch in *log.last().unwrap_or(&0)..3 {
                logs.push(log.iter().copied().chain([epoch]).collect());
            }
        }
    }
    let to_log = |records: &[i32]| {
        let mut epochs = EpochHistory::new();
        for (offset, &epoch) in records.iter().enumerate() {
            epochs.assign(LeaderEpoch(epoch), Offset(i64::try_from(offset).expect("small")));
        }
        Log { epochs, end: i64::try_from(records.len()).expect("small") }
    };
    // Two logs that one cluster can hold: records of an epoch come from one leader, so where both hold an epoch, one
    // log's records of it are a prefix of the other's.
    for ours in &logs {
        for theirs in &logs {
            let common = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
            let shares_later = |epoch: &i32| ours.iter().skip(common).any(|later| later == epoch);
            if theirs.iter().skip(common).any(shares_later) {
                continue; // the same epoch at other offsets: no cluster writes that
            }
            let mut leads = to_log(theirs);
            leads.epochs.assign(LeaderEpoch(9), Offset(leads.end));
            let mut own = to_log(ours);
            let _ = reconcile(&leads, &mut own);
            assert_eq!(own.end, i64::try_from(common).expect("small"), "{ours:?} follows {theirs:?}");
        }
    }
}

#[test]
fn the_hw_follows_the_leaders_but_not_beyond_the_log() {
    let mut log = Log::new(&[(9, 0)], 10);
    let mut follower = follow(&log, 0);
    let ask = follower.next_fetch().expect("fetches");
    let said = answer(ErrorCode::None, None, 50);
    assert_eq!(follower.fetched(ask, &said, &log.epochs), FollowerAction::Append);
    log.end = 30;
    assert_eq!(follower.appended(log.local(), &said), Some(Offset(30)));
    assert_eq!(follower.appended(log.local(), &answer(ErrorCode::None, None, 20)), None, "it does not fall");
    assert_eq!(follower.next_fetch().map(|ask| ask.offset), Some(Offset(30)));
}

#[test]
fn the_hw_of_a_diverging_answer_is_not_believed() {
    let log = Log::new(&[(3, 0)], 80);
    let mut follower = follow(&log, 40);
    let ask = follower.next_fetch().expect("fetches");
    let action = follower.fetched(ask, &answer(ErrorCode::None, Some((3, 60)), 90), &log.epochs);
    assert_eq!(action, FollowerAction::Truncate(Truncation::To(Offset(60))));
    assert_eq!((follower.high_watermark(), follower.next_fetch()), (Offset(40), None));
}

#[test]
fn answers_to_a_former_position_are_dropped() {
    let log = Log::new(&[(3, 0)], 80);
    let mut follower = follow(&log, 40);
    let ask = follower.next_fetch().expect("fetches");
    follower.truncated(Log::new(&[(3, 0)], 60).local());
    assert_eq!(follower.fetched(ask, &answer(ErrorCode::None, None, 80), &log.epochs), FollowerAction::Ignore);
    let elsewhere = FetchPosition { leader_epoch: LeaderEpoch(8), offset: Offset(60), ..ask };
    assert_eq!(follower.fetched(elsewhere, &answer(ErrorCode::None, None, 80), &log.epochs), FollowerAction::Ignore);
}

/// Found by the simulation: the same diverging answer twice, the second one after the log had grown to the same end
/// again.
#[test]
fn a_late_diverging_answer_does_not_cut_a_log_that_grew_to_the_same_end() {
    let mut log = Log::new(&[(0, 0), (1, 13)], 16);
    let mut follower = follow(&log, 0);
    let ask = follower.next_fetch().expect("fetches");
    let diverges = answer(ErrorCode::None, Some((0, 13)), 0);
    let action = follower.fetched(ask, &diverges, &log.epochs);
    assert_eq!(action, FollowerAction::Truncate(Truncation::To(Offset(13))));
    log.cut(13);
    follower.truncated(log.local());
    let again = follower.next_fetch().expect("fetches");
    assert_eq!(follower.fetched(again, &answer(ErrorCode::None, None, 16), &log.epochs), FollowerAction::Append);
    log.epochs.assign(LeaderEpoch(9), Offset(13));
    log.end = 16;
    assert_eq!(follower.appended(log.local(), &answer(ErrorCode::None, None, 16)), Some(Offset(16)));
    assert_eq!(follower.fetched(ask, &diverges, &log.epochs), FollowerAction::Ignore);
}

#[test]
fn errors_of_the_leader() {
    for (error, expected) in [
        (ErrorCode::NotLeaderOrFollower, FollowerAction::BackOff),
        (ErrorCode::UnknownLeaderEpoch, FollowerAction::BackOff),
        (ErrorCode::UnknownTopicOrPartition, FollowerAction::BackOff),
        (ErrorCode::KafkaStorageError, FollowerAction::BackOff),
        (ErrorCode::CorruptMessage, FollowerAction::BackOff),
        (ErrorCode::OffsetOutOfRange, FollowerAction::AskLeaderBounds),
        (ErrorCode::FencedLeaderEpoch, FollowerAction::AwaitNewEpoch),
    ] {
        let log = Log::new(&[(3, 0)], 80);
        let mut follower = follow(&log, 40);
        let ask = follower.next_fetch().expect("fetches");
        assert_eq!(follower.fetched(ask, &answer(error, None, -1), &log.epochs), expected, "{error:?}");
        assert_eq!(follower.next_fetch().is_some(), expected == FollowerAction::BackOff, "{error:?}");
    }
}

#[test]
fn scenario_12_a_follower_behind_the_leaders_log_start_starts_over_there() {
    let log = Log::new(&[(3, 0)], 80);
    let mut follower = follow(&log, 80);
    let ask = follower.next_fetch().expect("fetches");
    let _ = follower.fetched(ask, &answer(ErrorCode::OffsetOutOfRange, None, -1), &log.epochs);
    let action = follower.leader_bounds(Some((Offset(500), Offset(900))));
    assert_eq!(action, FollowerAction::Truncate(Truncation::FullyAndStartAt(Offset(500))));
    follower.truncated(LocalLog { start: Offset(500), end: Offset(500), latest_epoch: LeaderEpoch::NONE });
    let ask = follower.next_fetch().expect("fetches");
    assert_eq!((ask.offset, ask.last_fetched_epoch, ask.log_start), (Offset(500), LeaderEpoch::NONE, Offset(500)));
    assert_eq!(follower.high_watermark(), Offset(500), "the HW is never below the log's start");
}

/// Found by the simulation: the leader's log starts at 147 within its batch 145..=148; this one ends there, with
/// another batch.
#[test]
fn scenario_12_a_log_that_ends_within_the_leaders_first_batch_starts_over() {
    let log = Log::new(&[(3, 0)], 147);
    let mut follower = follow(&log, 135);
    let said = FetchAnswer { log_start: Offset(147), ..answer(ErrorCode::None, None, 169) };
    let ask = follower.next_fetch().expect("fetches");
    assert_eq!(follower.fetched(ask, &said, &log.epochs), FollowerAction::Append);
    let action = follower.records_do_not_follow(&said);
    assert_eq!(action, FollowerAction::Truncate(Truncation::FullyAndStartAt(Offset(147))));
    // The leader has these records, so it must have sent a damaged batch: the follower fetches again.
    let mut other = follow(&log, 135);
    assert_eq!(other.records_do_not_follow(&answer(ErrorCode::None, None, 169)), FollowerAction::BackOff);
}

#[test]
fn out_of_range_beyond_the_leaders_end_cuts_there() {
    let log = Log::new(&[(3, 0)], 80);
    let bounds = |start, end| {
        let mut follower = follow(&log, 0);
        let ask = follower.next_fetch().expect("fetches");
        let _ = follower.fetched(ask, &answer(ErrorCode::OffsetOutOfRange, None, -1), &log.epochs);
        follower.leader_bounds(Some((Offset(start), Offset(end))))
    };
    assert_eq!(bounds(0, 60), FollowerAction::Truncate(Truncation::To(Offset(60))));
    assert_eq!(bounds(0, 80), FollowerAction::BackOff, "it has moved meanwhile: ask again");
    let mut idle = follow(&log, 0);
    assert_eq!(idle.leader_bounds(Some((Offset(0), Offset(1)))), FollowerAction::Ignore, "nobody asked");
}

/// The disk was full, or out of descriptors: otherwise the follower would not fetch for the rest of the leader epoch.
#[test]
fn a_follower_whose_log_was_not_cut_fetches_again() {
    let log = Log::new(&[(1, 0), (2, 40)], 60);
    let mut follower = follow(&log, 0);
    let asked = follower.next_fetch().expect("fetches");
    let diverging = answer(ErrorCode::None, Some((1, 50)), 0);
    let action = follower.fetched(asked, &diverging, &log.epochs);
    assert!(matches!(action, FollowerAction::Truncate(_)), "{action:?}");
    assert_eq!(follower.next_step(), FollowerStep::BackOff, "while the log is being cut");
    follower.not_truncated();
    assert_eq!(follower.next_fetch(), Some(asked));
    assert_eq!(follower.fetched(asked, &diverging, &log.epochs), action, "and is told the same");
}

#[test]
fn a_follower_tells_whom_it_follows_and_what_it_waits_for() {
    let log = Log::new(&[(3, 0)], 80);
    let mut follower = follow(&log, 40);
    assert_eq!((follower.leader(), follower.leader_epoch(), follower.log_end()), (LEADER, LeaderEpoch(9), Offset(80)));
    assert!(!follower.awaits_bounds() && !follower.is_fenced());
    let ask = follower.next_fetch().expect("fetches");
    let _ = follower.fetched(ask, &answer(ErrorCode::OffsetOutOfRange, None, -1), &log.epochs);
    assert!(follower.awaits_bounds() && !follower.is_fenced());
    assert_eq!(follower.leader_bounds(None), FollowerAction::BackOff);
    let _ = follower.fetched(ask, &answer(ErrorCode::FencedLeaderEpoch, None, -1), &log.epochs);
    assert!(follower.is_fenced() && !follower.awaits_bounds());
    assert_eq!(follower.next_step(), FollowerStep::Stop);
}

/// The bounds of a leader whose log just touches this one, whose log is 20..80.
#[test]
fn a_log_that_touches_the_leaders_is_kept() {
    let bounds_of = |log_end, start, end| {
        let log = LocalLog { start: Offset(20), end: Offset(log_end), latest_epoch: LeaderEpoch(3) };
        let (mut follower, _) = Follower::new(LEADER, LeaderEpoch(9), log, Offset(0), BrokenRules::default());
        let ask = follower.next_fetch().expect("fetches");
        let _ = follower.fetched(ask, &answer(ErrorCode::OffsetOutOfRange, None, -1), &EpochHistory::new());
        follower.leader_bounds(Some((Offset(start), Offset(end))))
    };
    let bounds = |start, end| bounds_of(80, start, end);
    assert_eq!(bounds_of(20, 5, 20), FollowerAction::BackOff, "both are empty there");
    assert_eq!(bounds(80, 90), FollowerAction::BackOff, "it begins where this one ends");
    assert_eq!(bounds(81, 90), FollowerAction::Truncate(Truncation::FullyAndStartAt(Offset(81))));
    assert_eq!(bounds(0, 20), FollowerAction::Truncate(Truncation::To(Offset(20))), "it ends where this one begins");
    assert_eq!(bounds(0, 19), FollowerAction::Truncate(Truncation::FullyAndStartAt(Offset(0))));
    assert_eq!(bounds(5, 10), FollowerAction::Truncate(Truncation::FullyAndStartAt(Offset(5))));
}

#[test]
fn an_empty_log_does_not_start_over_for_records_that_do_not_follow() {
    let empty = LocalLog { start: Offset(147), end: Offset(147), latest_epoch: LeaderEpoch::NONE };
    let (mut follower, _) = Follower::new(LEADER, LeaderEpoch(9), empty, Offset(147), BrokenRules::default());
    let said = FetchAnswer { log_start: Offset(147), ..answer(ErrorCode::None, None, 169) };
    assert_eq!(follower.records_do_not_follow(&said), FollowerAction::BackOff, "it would come to the same");
}

#[test]
fn a_start_that_moved_moves_the_fetch_and_the_high_watermark() {
    let log = Log::new(&[(3, 0)], 80);
    let mut follower = follow(&log, 10);
    follower.log_start_moved(LocalLog { start: Offset(30), ..log.local() });
    assert_eq!(follower.next_fetch().map(|ask| ask.log_start), Some(Offset(30)));
    assert_eq!(follower.high_watermark(), Offset(30));
}

/// The leader names an epoch that this log does not have: its own earlier epoch's end decides, not the leader's.
#[test]
fn an_epoch_that_is_not_here_cuts_at_the_end_of_the_one_before() {
    let log = Log::new(&[(0, 0), (3, 20)], 35);
    let mut follower = follow(&log, 0);
    let ask = follower.next_fetch().expect("fetches");
    let action = follower.fetched(ask, &answer(ErrorCode::None, Some((2, 10)), 0), &log.epochs);
    assert_eq!(action, FollowerAction::Truncate(Truncation::To(Offset(20))));
}

#[test]
fn consumers_read_what_the_leader_has_confirmed_and_the_high_watermark_is_asked_for() {
    let mut log = Log::new(&[(9, 0)], 10);
    let mut follower = follow(&log, 4);
    assert_eq!((follower.high_watermark(), follower.readable_end()), (Offset(4), None));
    let ask = follower.next_fetch().expect("fetches");
    assert_eq!(ask.high_watermark, None, "nobody reads here");
    let now = MonotonicMs(1_000);
    assert!(follower.read_by_consumer(now), "the fetch that waits does not ask for it");
    assert!(!follower.read_by_consumer(now));
    let known = |follower: &Follower| follower.next_fetch().and_then(|ask| ask.high_watermark);
    assert_eq!(known(&follower), Some(Offset::UNKNOWN), "any answer confirms the log");
    let said = answer(ErrorCode::None, None, 4);
    assert_eq!(follower.fetched(ask, &said, &log.epochs), FollowerAction::Append, "it answers the same position");
    assert_eq!(follower.appended(log.local(), &said), Some(Offset(4)), "those who wait look again");
    assert_eq!((follower.readable_end(), known(&follower)), (Some(Offset(4)), Some(Offset(4))));
    assert_eq!(follower.appended(log.local(), &said), None);
    follower.forget_readers(now);
    assert_eq!(known(&follower), Some(Offset(4)), "they read a moment ago");
    follower.forget_readers(now + READERS_REMEMBERED);
    assert_eq!(known(&follower), None);

    // An unclean election: what was committed once is not in the leader's log.
    let ask = follower.next_fetch().expect("fetches");
    let diverges = answer(ErrorCode::None, Some((9, 2)), 2);
    assert_eq!(follower.fetched(ask, &diverges, &log.epochs), FollowerAction::Truncate(Truncation::To(Offset(2))));
    assert_eq!(follower.readable_end(), None);
    log.cut(2);
    follower.truncated(log.local());
    assert_eq!(follower.readable_end(), None, "the rest may differ too");
}

#[test]
fn a_follower_for_which_writes_may_wait_knows_it() {
    const LAG_MAX: Duration = Duration::from_secs(30);
    let log = |end| Log::new(&[(9, 0)], end).local();
    let (mut follower, _) = Follower::new(LEADER, LeaderEpoch(9), log(0), Offset(0), BrokenRules::default());
    let mut after = |end, told: Option<i64>, ms| {
        if let Some(told) = told {
            let _ = follower.appended(log(end), &answer(ErrorCode::None, None, told));
        }
        follower.is_awaited(MonotonicMs(ms), LAG_MAX)
    };
    assert!(!after(0, None, 1_000), "its leader has told nothing yet");
    assert!(!after(54, Some(57), 1_000));
    // It is where the leader's log ended at the fetch before; the answer had no room for what came since.
    assert!(after(57, Some(60), 1_010));
    assert!(after(57, Some(90), 1_020), "the leader waits for it for the time of a lag");
    assert!(after(57, None, 31_009) && !after(57, None, 31_010));
    assert!(after(90, Some(90), 40_000));

    // The leader is asked once from each end, however many answers have no room for records.
    let (mut follower, _) = Follower::new(LEADER, LeaderEpoch(9), log(0), Offset(0), BrokenRules::default());
    let mut after = |end, told| {
        let _ = follower.appended(log(end), &answer(ErrorCode::None, None, told));
        follower.is_awaited(MonotonicMs(1_000), LAG_MAX)
    };
    assert!(!after(0, 57) && !after(54, 58) && !after(54, 60) && !after(54, 90));
    assert!(after(59, 95), "it has passed what the leader had when it asked from 54");
    // Nor is one that stands still taken for one that has caught up.
    let (mut follower, _) = Follower::new(LEADER, LeaderEpoch(9), log(0), Offset(0), BrokenRules::default());
    let mut after = |end, told| {
        let _ = follower.appended(log(end), &answer(ErrorCode::None, None, told));
        follower.is_awaited(MonotonicMs(1_000), LAG_MAX)
    };
    assert!(!after(10, 1_000) && !after(20, 1_000) && !after(20, 1_010) && !after(300, 1_020) && !after(999, 1_030));
}

#[test]
fn consumers_of_another_leader_epoch_are_told_so() {
    let follower = follow(&Log::new(&[(9, 0)], 10), 4);
    let current = LeaderEpoch(9);
    for (asked, expected) in [
        (LeaderEpoch::NONE, Ok(())),
        (LeaderEpoch(9), Ok(())),
        (LeaderEpoch(8), Err(FetchError::FencedLeaderEpoch { asked: LeaderEpoch(8), current })),
        (LeaderEpoch(10), Err(FetchError::UnknownLeaderEpoch { asked: LeaderEpoch(10), current })),
    ] {
        assert_eq!(follower.check_leader_epoch(asked), expected);
    }
}

/// The simulation switches the rules off, and must see what that leads to.
#[test]
fn without_its_rules_a_follower_serves_what_its_leader_has_not_confirmed() {
    let rules = BrokenRules::default();
    for (rules, end) in [
        (rules, None),
        (BrokenRules { followers_serve_unconfirmed: true, ..rules }, Some(Offset(4))),
        (BrokenRules { followers_serve_to_their_end: true, ..rules }, Some(Offset(10))),
    ] {
        let log = Log::new(&[(9, 0)], 10).local();
        let (follower, _) = Follower::new(LEADER, LeaderEpoch(9), log, Offset(4), rules);
        assert_eq!(follower.readable_end(), end);
    }
}
