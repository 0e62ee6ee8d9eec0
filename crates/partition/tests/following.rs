//! What a follower does with its leader's answers.
#![allow(clippy::unwrap_used, unused_must_use, reason = "most steps only prepare what a test looks at")]

mod common;

use common::*;
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, Offset};
use ottla_partition::{BrokenRules, ConsumerTerms, Fetch, Fetched, FollowerEffects, Reader, ReplicaConfig};
use ottla_replication::{EpochEnd, FetchAnswer, FetchPosition, FollowerStep};
use ottla_storage::env::{Faults, FaultyEnv};
use ottla_storage::{AppendError, LogConfig};

fn answered(high_watermark: i64, log_start: i64) -> FetchAnswer {
    FetchAnswer {
        error: ErrorCode::None,
        diverging: None,
        high_watermark: Offset(high_watermark),
        log_start: Offset(log_start),
    }
}

fn position(host: &Host) -> FetchPosition {
    match host.core.next_step(EPOCH) {
        FollowerStep::Fetch(position) => position,
        other => unreachable!("it fetches: {other:?}"),
    }
}

/// The leader's answer to the fetch that the follower sends now.
fn reply(host: &mut Host, answer: &FetchAnswer, records: &[u8]) -> FollowerEffects {
    let asked = position(host);
    host.core.leader_answered(asked, answer, records, NOW, WALL)
}

/// A follower with records 0..3, replicated up to 2.
fn with_records() -> Host {
    let mut host = Host::follower();
    let effects = reply(&mut host, &answered(2, 0), &placed(0, 3, EPOCH));
    assert!(effects.appended && effects.disk_error.is_none() && effects.refused.is_none());
    assert_eq!(effects.high_watermark, Some(Offset(2)));
    assert_eq!(effects.step, FollowerStep::Fetch(position(&host)));
    assert_eq!(position(&host).offset, Offset(3));
    assert_eq!(host.core.following().map(|following| following.leader), Some(OTHER));
    host
}

#[test]
fn an_answer_to_the_leader_epoch_before_stops_its_fetcher() {
    let mut host = with_records();
    let asked = position(&host);
    host.assume(&state(OTHER, LeaderEpoch(6), 2, &[1, 2]));
    let effects = host.core.leader_answered(asked, &answered(3, 0), &placed(3, 1, EPOCH), NOW, WALL);
    assert_eq!((effects.step, effects.appended), (FollowerStep::Stop, false));
    assert_eq!(host.core.leader_bounds(EPOCH, None, WALL).step, FollowerStep::Stop);
    assert_eq!(host.core.next_step(EPOCH), FollowerStep::Stop);
    assert_eq!(host.log_range(), (Offset(0), Offset(3)));
}

#[test]
fn the_same_role_goes_on() {
    let mut host = with_records();
    assert!(!host.assume(&state(OTHER, EPOCH, 2, &[2])).role_changed);
    // A leader without an epoch of its own does not exist; should the tree say so, its log is not this leader's.
    let elsewhere = state(ottla_model::BrokerId(3), EPOCH, 3, &[2]);
    assert!(host.assume(&elsewhere).role_changed);
    // A broker that is no replica follows nobody.
    let mut moved = (*elsewhere).clone();
    moved.leader_epoch = LeaderEpoch(6);
    moved.replicas = vec![OTHER];
    host.assume(&std::sync::Arc::new(moved));
    assert!(host.core.follower().is_none());
}

#[test]
fn records_that_are_here_already_are_not_appended_twice() {
    let mut host = with_records();
    let effects = reply(&mut host, &answered(3, 0), &placed(0, 3, EPOCH));
    assert!(!effects.appended && effects.refused.is_none());
    assert_eq!(effects.step, FollowerStep::Fetch(position(&host)));
    assert_eq!(host.log_range(), (Offset(0), Offset(3)));
}

#[test]
fn an_answer_without_records_moves_what_it_tells() {
    let mut host = with_records();
    let effects = reply(&mut host, &answered(3, 1), &[]);
    assert_eq!((effects.high_watermark, effects.appended), (Some(Offset(3)), false));
    assert_eq!(host.log_range(), (Offset(1), Offset(3)));
    assert_eq!(position(&host).log_start, Offset(1));
    // An older answer does not take it back.
    assert_eq!(reply(&mut host, &answered(3, 0), &[]).high_watermark, None);
    assert_eq!((host.log_range(), position(&host).log_start), ((Offset(1), Offset(3)), Offset(1)));
}

#[test]
fn a_log_that_has_parted_is_cut_where_the_leader_says() {
    let mut host = with_records();
    let diverging = Some(EpochEnd { epoch: EPOCH, end_offset: Offset(1) });
    let effects = reply(&mut host, &FetchAnswer { diverging, ..answered(9, 0) }, &[]);
    let truncated = effects.truncated.expect("cut");
    assert_eq!((truncated.from, truncated.to, truncated.log_start), (Offset(3), Offset(0), Offset(0)));
    assert_eq!(effects.high_watermark, Some(Offset(0)), "the batch that contains the offset goes as a whole");
    assert_eq!(position(&host).offset, Offset(0));
}

/// DeleteRecords can leave a leader's log that begins within a batch.
#[test]
fn a_log_that_ends_in_the_middle_of_the_leaders_first_batch_starts_over_there() {
    let mut host = with_records();
    let effects = reply(&mut host, &answered(6, 4), &placed(2, 4, EPOCH));
    assert!(effects.refused.is_none() && effects.truncated.is_some());
    assert_eq!(host.log_range(), (Offset(4), Offset(4)));
    // A batch that does not follow, of a leader that still has what is here, is refused.
    let mut host = with_records();
    let effects = reply(&mut host, &answered(6, 0), &placed(2, 4, EPOCH));
    assert!(matches!(effects.refused, Some(AppendError::UnexpectedOffset { .. })));
    assert_eq!(effects.step, FollowerStep::BackOff);
}

/// Seed 3444 of the clusters: an answer without records had moved the log's start to its end before. The records below
/// it were still in a segment, the first batch was refused again and again, and the follower never joined the ISR.
#[test]
fn so_does_a_log_whose_records_are_all_deleted() {
    let mut host = with_records();
    let effects = reply(&mut host, &answered(3, 3), &[]);
    assert!(effects.refused.is_none());
    assert_eq!(host.log_range(), (Offset(3), Offset(3)));
    let effects = reply(&mut host, &answered(6, 3), &placed(2, 4, EPOCH));
    assert!(effects.refused.is_none() && effects.appended, "{effects:?}");
    assert_eq!(host.log_range(), (Offset(3), Offset(6)));
    assert_eq!(position(&host).offset, Offset(6));
}

#[test]
fn a_damaged_batch_is_asked_for_again() {
    let mut host = with_records();
    let mut damaged = placed(3, 1, EPOCH);
    *damaged.last_mut().unwrap() ^= 1;
    let effects = reply(&mut host, &answered(4, 0), &damaged);
    assert!(effects.refused.is_some() && !effects.appended && effects.disk_error.is_none());
    assert_eq!(effects.step, FollowerStep::BackOff);
    assert_eq!((effects.high_watermark, host.core.high_watermark()), (None, Offset(2)));
}

#[test]
fn the_leaders_bounds_decide_over_a_log_out_of_range() {
    let out_of_range = FetchAnswer { error: ErrorCode::OffsetOutOfRange, ..answered(-1, -1) };
    let ask = |host: &mut Host| assert_eq!(reply(host, &out_of_range, &[]).step, FollowerStep::AskLeaderBounds);
    let mut host = with_records();
    ask(&mut host);
    assert_eq!(host.core.leader_bounds(EPOCH, None, WALL).step, FollowerStep::BackOff);
    ask(&mut host);
    let effects = host.core.leader_bounds(EPOCH, Some((Offset(7), Offset(9))), WALL);
    assert!(effects.truncated.is_some());
    assert_eq!(host.log_range(), (Offset(7), Offset(7)));
    assert_eq!(effects.high_watermark, Some(Offset(7)));
    // Nobody asked for them.
    let effects = host.core.leader_bounds(EPOCH, Some((Offset(20), Offset(30))), WALL);
    assert!(effects.truncated.is_none());
    assert_eq!(effects.step, FollowerStep::Fetch(position(&host)));
}

#[test]
fn a_later_epoch_of_the_leader_ends_the_follower() {
    let mut host = with_records();
    let fenced = FetchAnswer { error: ErrorCode::FencedLeaderEpoch, ..answered(-1, -1) };
    assert_eq!(reply(&mut host, &fenced, &[]).step, FollowerStep::Stop);
    let mut host = with_records();
    let busy = FetchAnswer { error: ErrorCode::KafkaStorageError, ..answered(-1, -1) };
    assert_eq!(reply(&mut host, &busy, &[]).step, FollowerStep::BackOff);
}

#[test]
fn a_disk_without_room_pauses_and_one_that_fails_stops() {
    for (faults, step) in [
        (Faults { no_space_ppm: 1_000_000, ..Faults::NONE }, FollowerStep::BackOff),
        (Faults { io_error_ppm: 1_000_000, ..Faults::NONE }, FollowerStep::Stop),
    ] {
        let mut host = with_records();
        host.env.set_faults(faults);
        let effects = reply(&mut host, &answered(4, 0), &placed(3, 1, EPOCH));
        assert!(effects.disk_error.is_some() && !effects.appended);
        assert_eq!(effects.step, step);
    }
}

#[test]
fn records_that_must_be_synced_first_are_not_told_of_when_the_sync_fails() {
    let mut host = Host::follower_with(LogConfig { flush_messages: 1, ..LogConfig::default() });
    host.env.set_faults(Faults { sync_error_ppm: 1_000_000, ..Faults::NONE });
    let effects = reply(&mut host, &answered(1, 0), &placed(0, 1, EPOCH));
    assert!(effects.disk_error.is_some());
    assert_eq!((effects.step, effects.high_watermark), (FollowerStep::Stop, None));
}

#[test]
fn retention_moves_the_start_of_the_next_fetch() {
    let mut host = Host::follower_with(LogConfig { segment_bytes: 150, retention_ms: 1_000, ..LogConfig::default() });
    for base in [0, 2, 4] {
        reply(&mut host, &answered(base + 2, 0), &placed(base, 2, EPOCH)).appended.then_some(()).unwrap();
    }
    let later = ottla_model::TimestampMs(WALL.0 + 5_000);
    let retained = host.core.delete_old_segments(later, &brokers).unwrap();
    assert!(retained.effects.changed && retained.log_start.1 > Offset(0));
    assert_eq!(position(&host).log_start, retained.log_start.1);
}

/// What a consumer gets of this follower, and whether the fetcher has to look at the next step.
fn read(host: &mut Host, fetch: &Fetch) -> (Result<Fetched<FaultyEnv>, ErrorCode>, bool) {
    let (effects, fetched) = host.fetch(fetch);
    (fetched.map_err(|refused| refused.error_code()), effects.fetch_changed)
}

#[test]
fn consumers_read_below_the_high_watermark_that_the_follower_knows() {
    let mut host = with_records();
    let (fetched, fetch_changed) = read(&mut host, &consumer_fetch(0, false));
    let fetched = fetched.ok().unwrap();
    assert!(fetched.is_follower && fetched.records.is_some() && fetch_changed);
    assert_eq!((fetched.upper, fetched.high_watermark, fetched.log_start), (Offset(2), Offset(2), Offset(0)));
    assert_eq!(position(&host).high_watermark, Some(Offset(2)), "the leader is asked for a higher one");
    let (fetched, fetch_changed) = read(&mut host, &consumer_fetch(2, false));
    assert!(fetched.ok().unwrap().records.is_none() && !fetch_changed, "it waits");
    assert!(read(&mut host, &consumer_fetch(3, false)).0.ok().unwrap().records.is_none(), "the leader may be further");
    assert_eq!(read(&mut host, &consumer_fetch(4, false)).0.err(), Some(ErrorCode::OffsetOutOfRange));
    let effects = reply(&mut host, &answered(3, 1), &[]);
    assert!(effects.log_start_moved);
    assert_eq!((effects.high_watermark, position(&host).high_watermark), (Some(Offset(3)), Some(Offset(3))));
    assert_eq!(read(&mut host, &consumer_fetch(0, false)).0.err(), Some(ErrorCode::OffsetOutOfRange));
    assert_eq!(read(&mut host, &consumer_fetch(1, false)).0.ok().unwrap().upper, Offset(3));
}

#[test]
fn a_follower_checks_the_leader_epoch_and_the_last_epoch_of_a_consumer() {
    let mut host = with_records();
    let of = |epoch: i32| Fetch { current_leader_epoch: LeaderEpoch(epoch), ..consumer_fetch(1, false) };
    assert_eq!(read(&mut host, &of(4)).0.err(), Some(ErrorCode::FencedLeaderEpoch));
    assert_eq!(read(&mut host, &of(6)).0.err(), Some(ErrorCode::UnknownLeaderEpoch));
    assert!(read(&mut host, &of(5)).0.is_ok());
    let parted = Fetch { last_fetched_epoch: LeaderEpoch(3), ..consumer_fetch(1, false) };
    assert!(read(&mut host, &parted).0.ok().unwrap().diverging.is_some());
    // It has read records of the leader that this follower does not have yet.
    let ahead = Fetch { last_fetched_epoch: LeaderEpoch(6), ..consumer_fetch(3, false) };
    assert_eq!(read(&mut host, &ahead).0.ok().unwrap().diverging, None);
    // Before Fetch 11 consumers knew leaders only.
    let leader_only = ConsumerTerms { read_committed: false, reads_followers: false };
    let old = Fetch { reader: Reader::Consumer(leader_only), ..consumer_fetch(0, false) };
    assert_eq!(read(&mut host, &old).0.err(), Some(ErrorCode::NotLeaderOrFollower));
    host.assume(&state(BrokerId::NONE, LeaderEpoch(6), 2, &[1, 2]));
    assert_eq!(read(&mut host, &consumer_fetch(0, false)).0.err(), Some(ErrorCode::NotLeaderOrFollower));
}

/// Scenario 58: an unclean election has cut what was committed. A follower shows none of it before its leader has said
/// where their logs part.
#[test]
fn scenario_58_a_follower_shows_nothing_that_its_new_leader_may_not_have() {
    let after_election = |rules: BrokenRules| {
        let mut host = with_records();
        let config = ReplicaConfig { rules, ..config() };
        host.core.assume(&state(OTHER, LeaderEpoch(6), 2, &[2]), NOW, WALL, &config, &brokers);
        let fetched = read(&mut host, &consumer_fetch(0, false)).0.ok().unwrap();
        (host, fetched.records.is_some())
    };
    let (mut host, shows) = after_election(BrokenRules::default());
    assert!(!shows);
    let asked = match host.core.next_step(LeaderEpoch(6)) {
        FollowerStep::Fetch(position) => position,
        other => unreachable!("it fetches: {other:?}"),
    };
    assert_eq!(asked.high_watermark, Some(Offset::UNKNOWN), "the leader answers at once");
    let parts = EpochEnd { epoch: EPOCH, end_offset: Offset(1) };
    let diverges = FetchAnswer { diverging: Some(parts), ..answered(1, 0) };
    assert!(host.core.leader_answered(asked, &diverges, &[], NOW, WALL).truncated.is_some());
    assert!(read(&mut host, &consumer_fetch(0, false)).0.ok().unwrap().records.is_none());
    let FollowerStep::Fetch(asked) = host.core.next_step(LeaderEpoch(6)) else { unreachable!("it fetches") };
    let effects = host.core.leader_answered(asked, &answered(1, 0), &[], NOW, WALL);
    // The batch that the leader does not have is gone as a whole.
    assert_eq!(effects.high_watermark, Some(Offset(0)), "those who wait look again");
    assert_eq!(read(&mut host, &consumer_fetch(0, false)).0.ok().unwrap().upper, Offset(0));

    let replication = ottla_replication::BrokenRules {
        followers_serve_unconfirmed: true,
        ..ottla_replication::BrokenRules::default()
    };
    assert!(after_election(BrokenRules { replication, ..BrokenRules::default() }).1);
}
