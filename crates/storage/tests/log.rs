//! The log as its callers see it: appending, reading, rolling, truncating, closing.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::*;
use ottla_model::{LeaderEpoch, MonotonicMs, Offset, ProducerId, TimestampMs};
use ottla_protocol::record_batch::Batches;
use ottla_storage::{
    AppendError, DiskFault, Env, Faults, FaultyEnv, File, Log, LogConfig, MemoryEnv, Read, ReadError, RealEnv,
    is_out_of_descriptors,
};

#[test]
fn offsets_and_epochs_are_assigned_in_place_and_the_same_bytes_come_back() {
    let env = MemoryEnv::new();
    let mut log = create(&env, Arc::default());
    let mut bytes = [batch(&[5, 6, 7], 100), batch(&[8], 50)].concat();
    let appended = log.append_as_leader(&mut bytes, LeaderEpoch(4), NOW).unwrap();
    assert_eq!(
        (appended.first_offset, appended.last_offset, appended.log_end_offset),
        (Offset(0), Offset(3), Offset(4))
    );
    assert_eq!(
        (appended.max_timestamp, appended.size_bytes, appended.is_duplicate),
        (TimestampMs(8), bytes.len(), false)
    );
    let mut more = batch(&[9], 10);
    assert_eq!(log.append_as_leader(&mut more, LeaderEpoch(4), NOW).unwrap().first_offset, Offset(4));
    let read = read_all(&log, Offset(0), Offset(5), 1 << 20);
    assert_eq!(read, [bytes, more].concat());
    assert_eq!(offsets(&read), [(0, 2), (3, 3), (4, 4)]);
    assert!(Batches::new(&read).all(|batch| batch.unwrap().header.partition_leader_epoch == LeaderEpoch(4)));
    assert_eq!(log.epoch_history().epoch_for_offset(Offset(4)), Some(LeaderEpoch(4)));
}

#[test]
fn what_is_no_whole_batch_is_refused_and_changes_nothing() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    let whole = batch(&[1], 100);
    let mut old_format = whole.clone();
    old_format[16] = 1;
    for mut bad in [Vec::new(), whole[..60].to_vec(), whole[..whole.len() - 1].to_vec(), old_format, vec![0; 200]] {
        assert!(matches!(log.append_as_leader(&mut bad, EPOCH, NOW), Err(AppendError::Invalid { .. })));
    }
    let mut large = batch(&[1], 3_000);
    assert!(matches!(log.append_as_leader(&mut large, EPOCH, NOW), Err(AppendError::LargerThanSegment { .. })));
    assert_eq!((log.log_end_offset(), log.size_bytes()), (Offset(0), 0));
}

#[test]
fn a_leader_of_an_older_epoch_is_refused() {
    let env = MemoryEnv::new();
    let mut log = create(&env, Arc::default());
    log.begin_leader_epoch(LeaderEpoch(5));
    let refused = log.append_as_leader(&mut batch(&[1], 1), LeaderEpoch(4), NOW);
    assert!(matches!(refused, Err(AppendError::StaleEpoch { .. })));
}

#[test]
fn retries_are_recognised_and_gaps_refused() {
    let env = MemoryEnv::new();
    let mut log = create(&env, Arc::default());
    append(&mut log, batch(&[1, 2], 5));
    assert_eq!(append(&mut log, idempotent(9, 0, 0, 3)), Offset(2));
    assert_eq!(append(&mut log, idempotent(9, 0, 3, 2)), Offset(5));
    let retry = log.append_as_leader(&mut idempotent(9, 0, 0, 3), EPOCH, NOW).unwrap();
    assert!(retry.is_duplicate);
    assert_eq!((retry.first_offset, retry.last_offset, retry.log_end_offset), (Offset(2), Offset(4), Offset(7)));
    assert!(matches!(log.append_as_leader(&mut idempotent(9, 0, 9, 1), EPOCH, NOW), Err(AppendError::Producer(_))));
    assert_eq!(log.log_end_offset(), Offset(7));
}

#[test]
fn reads_stay_below_the_upper_bound_and_within_a_segment() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    append_many(&mut log, 40, 5);
    assert!(log.segment_count() > 3);
    let everything = read_all(&log, Offset(0), Offset(400), 1 << 20);
    assert_eq!(offsets(&everything).len(), 40);
    for upper in [1, 9, 10, 55, 100, 399, 400] {
        let read = read_all(&log, Offset(0), Offset(upper), 1 << 20);
        // A batch that reaches the bound is left out whole.
        assert_eq!(offsets(&read).len(), usize::try_from(upper / 10).unwrap(), "upper {upper}");
    }
    for from in (0..400).step_by(7) {
        let read = read_all(&log, Offset(from), Offset(400), 700);
        assert_eq!(offsets(&read).first(), Some(&(from / 10 * 10, from / 10 * 10 + 9)), "from {from}");
        assert_eq!(read, everything[everything.len() - read.len()..]);
    }
    let empty = |from, max, upper, min_one| log.read(Offset(from), max, Offset(upper), min_one).unwrap().is_empty();
    assert!(
        empty(400, 1000, 400, true)
            && empty(50, 1000, 50, true)
            && empty(50, 1000, 20, true)
            && empty(0, 0, 400, false)
    );
    let one = log.read(Offset(0), 30, Offset(400), true).unwrap();
    assert_eq!(offsets(&one.read().unwrap()), [(0, 9)]);
    assert!(matches!(log.read(Offset(401), 1, Offset(400), true), Err(ReadError::OutOfRange { .. })));
    log.advance_log_start(Offset(33));
    assert!(matches!(log.read(Offset(32), 1, Offset(400), true), Err(ReadError::OutOfRange { .. })));
    assert_eq!(offsets(&log.read(Offset(33), 1, Offset(400), true).unwrap().read().unwrap()), [(30, 39)]);
}

/// Scenario 39.
#[test]
fn scenario_39_a_first_batch_that_does_not_fit_is_left_out_whole() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    append_many(&mut log, 40, 5);
    let one = log.read(Offset(0), 1, Offset(400), true).unwrap().len;
    for max_bytes in [0, 1, 30, one - 1] {
        let slice = log.read(Offset(0), max_bytes, Offset(400), false).unwrap();
        assert!(slice.is_empty(), "{max_bytes} bytes of the {one} of a batch are of no use");
        assert!(slice.left_out_bytes > 0, "but there is something");
    }
    for max_bytes in [one, one + 1, 2 * one - 1] {
        let slice = log.read(Offset(0), max_bytes, Offset(400), false).unwrap();
        assert_eq!((slice.len, slice.left_out_bytes), (max_bytes, 0), "a later batch may be cut");
    }
    assert_eq!(log.read(Offset(400), 1, Offset(400), false).unwrap().left_out_bytes, 0);
}

#[test]
fn slices_outlive_their_segments() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    append_many(&mut log, 40, 5);
    let slice = log.read(Offset(0), 1 << 20, Offset(400), true).unwrap();
    let before = slice.read().unwrap();
    log.truncate_fully_and_start_at(Offset(1_000), None).unwrap();
    assert_eq!(slice.read().unwrap(), before);
}

#[test]
fn segments_roll_by_size_time_and_index() {
    let env = MemoryEnv::new();
    let day_ms = 86_400_000;
    let config = LogConfig { segment_ms: day_ms, ..LogConfig::default() };
    let mut log = create(&env, Arc::new(config.clone()));
    append(&mut log, batch(&[NOW.0], 10));
    append(&mut log, batch(&[NOW.0 + day_ms], 10));
    assert_eq!(log.segment_count(), 1, "exactly segment.ms is not older than it");
    let mut late = batch(&[NOW.0 + day_ms + 1], 10);
    assert!(log.append_as_leader(&mut late, EPOCH, NOW).unwrap().rolled);
    assert_eq!((log.segment_count(), log.active_segment_base()), (2, Offset(2)));
    // Without timestamps the age of the file counts, by the caller's clock.
    append(&mut log, batch(&[NOW.0 + 5 * day_ms], 10));
    let mut timeless = batch(&[-1], 10);
    log.append_as_leader(&mut timeless, EPOCH, TimestampMs(NOW.0 + 9 * day_ms)).unwrap();
    // A clock or producer that goes back rolls nothing.
    append(&mut log, batch(&[5], 10));
    assert_eq!(log.segment_count(), 3);

    let config = LogConfig { index_interval_bytes: 0, index_size_max_bytes: 80, ..config };
    log.set_config(Arc::new(config));
    for _ in 0..30 {
        append(&mut log, batch(&[NOW.0 + 5 * day_ms], 10));
    }
    assert_eq!(log.segment_count(), 5, "ten entries fill the index");
}

/// With `log.roll.jitter.hours` above the `segment.ms` of a topic nearly every batch began a segment.
#[test]
fn a_segment_has_some_time_left_whatever_the_jitter_is() {
    let env = MemoryEnv::new();
    let config = LogConfig { segment_ms: 1_000, segment_jitter_ms: 3_600_000, ..LogConfig::default() };
    let mut log = create(&env, Arc::new(config));
    append_many(&mut log, 20, NOW.0);
    assert_eq!(log.segment_count(), 1);
    append(&mut log, batch(&[NOW.0 + 1_001], 10));
    assert_eq!(log.segment_count(), 2);
}

#[test]
fn the_directory_holds_kafkas_files() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    append_many(&mut log, 9, 5);
    log.close(TICK).unwrap();
    let base = "00000000000000000000";
    let next = format!("{:020}", log.active_segment_base().0);
    let end = format!("{:020}", log.log_end_offset().0);
    let mut expected = vec![
        format!("{base}.index"),
        format!("{base}.log"),
        format!("{base}.timeindex"),
        format!("{next}.index"),
        format!("{next}.log"),
        format!("{next}.snapshot"),
        format!("{next}.timeindex"),
        format!("{end}.snapshot"),
        "leader-epoch-checkpoint".to_owned(),
        "partition.metadata".to_owned(),
    ];
    expected.sort();
    assert_eq!(file_names(&env), expected);
    assert_eq!(env.read_file(&directory().join("leader-epoch-checkpoint")).unwrap(), b"0\n1\n0 0\n");
    // The batch that ends at offset 19 begins behind the first: 61 bytes of header and ten records of 27 bytes each.
    let index = env.read_file(&directory().join(format!("{base}.index"))).unwrap();
    assert_eq!(index[..8], [0, 0, 0, 19, 0, 0, 1, 0x4B]);
    let time_index = env.read_file(&directory().join(format!("{base}.timeindex"))).unwrap();
    assert_eq!(time_index, [0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 9]);
}

#[test]
fn an_empty_partition_costs_next_to_nothing() {
    let env = MemoryEnv::new();
    let mut log = create(&env, Arc::default());
    let bytes = |env: &MemoryEnv| env.list(&directory()).unwrap().iter().map(|entry| entry.size_bytes).sum::<u64>();
    assert!(bytes(&env) < 100, "{}", bytes(&env));
    log.close(TICK).unwrap();
    assert!(bytes(&env) < 200, "{}", bytes(&env));
    assert!(size_of::<Log<RealEnv>>() < 1024, "{}", size_of::<Log<RealEnv>>());
    assert_eq!(open_clean(&env, Arc::default()).log_end_offset(), Offset(0));
}

#[test]
fn a_clean_close_is_opened_without_a_scan_and_nothing_is_missing() {
    let env = MemoryEnv::new();
    let config = small_segments();
    let mut log = create(&env, Arc::clone(&config));
    append_many(&mut log, 30, 5);
    append(&mut log, idempotent(9, 0, 0, 3));
    log.begin_leader_epoch(LeaderEpoch(3));
    append(&mut log, batch(&[77], 10));
    let (everything, end) = (read_all(&log, Offset(0), Offset::MAX, 1 << 20), log.log_end_offset());
    log.close(TICK).unwrap();
    assert!(matches!(log.append_as_leader(&mut batch(&[1], 1), LeaderEpoch(3), NOW), Err(AppendError::Offline)));
    assert_eq!(read_all(&log, Offset(0), Offset::MAX, 1 << 20), everything, "a closed log can be read");

    let mut log = open_clean(&env, config);
    assert_eq!((log.log_end_offset(), log.recovery_point(), log.topic_id()), (end, end, Some(TOPIC_ID)));
    assert_eq!(read_all(&log, Offset(0), Offset::MAX, 1 << 20), everything);
    assert_eq!(log.epoch_history().latest_epoch(), LeaderEpoch(3));
    assert!(log.append_as_leader(&mut idempotent(9, 0, 0, 3), LeaderEpoch(3), NOW).unwrap().is_duplicate);
    assert_eq!(append(&mut log, idempotent(9, 0, 3, 1)), end);
}

#[test]
fn offsets_are_found_by_time() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    assert_eq!(log.offset_for_timestamp(TimestampMs(0)).unwrap(), None);
    assert_eq!(log.offset_of_max_timestamp().unwrap(), None);
    // Out of order within and between batches.
    let timestamps: Vec<i64> = (0..300).map(|n| (n * 37) % 200 + n).collect();
    for some in timestamps.chunks(6) {
        append(&mut log, batch(some, 20));
    }
    assert!(log.segment_count() > 3);
    let first_at = |target: i64, start: usize| {
        (start..timestamps.len()).find(|at| timestamps[*at] >= target).map(|at| i64::try_from(at).unwrap())
    };
    for start in [0, 100, 250] {
        log.advance_log_start(Offset(start));
        let start = usize::try_from(start).unwrap();
        for target in (0..600).step_by(3) {
            let found = log.offset_for_timestamp(TimestampMs(target)).unwrap();
            assert_eq!(found.map(|found| found.offset.0), first_at(target, start), "timestamp {target} from {start}");
        }
        let largest = *timestamps[start..].iter().max().unwrap();
        let found = log.offset_of_max_timestamp().unwrap().unwrap();
        assert_eq!((found.timestamp.0, Some(found.offset.0)), (largest, first_at(largest, start)));
        assert_eq!(found.leader_epoch, EPOCH);
    }
    assert_eq!((log.earliest().offset, log.latest().offset), (Offset(250), Offset(300)));
}

#[test]
fn truncation_takes_whole_batches_and_what_follows_from_them() {
    let env = MemoryEnv::new();
    let config = small_segments();
    let mut log = create(&env, Arc::clone(&config));
    append(&mut log, idempotent(9, 0, 0, 3));
    append_many(&mut log, 20, 5);
    append(&mut log, idempotent(9, 0, 3, 3));
    log.begin_leader_epoch(LeaderEpoch(1));
    append_many(&mut log, 20, 9);
    log.flush(TICK).unwrap();
    let end = log.log_end_offset();
    assert_eq!(log.recovery_point(), end);
    assert!(!log.truncate_to(end, NOW).unwrap());

    assert!(log.truncate_to(Offset(206), NOW).unwrap());
    assert_eq!((log.log_end_offset(), log.recovery_point()), (Offset(206), Offset(206)));
    assert_eq!(log.epoch_history().latest_epoch(), LeaderEpoch(0));
    assert_eq!(log.producers().last_of(ProducerId(9)).unwrap().1, 5);

    // In the middle of the producer's second batch.
    assert!(log.truncate_to(Offset(204), NOW).unwrap());
    assert_eq!(log.log_end_offset(), Offset(203));
    assert_eq!(log.producers().last_of(ProducerId(9)).unwrap().1, 2);
    assert_eq!(append(&mut log, idempotent(9, 0, 3, 1)), Offset(203));
    log.truncate_to(Offset(8), NOW).unwrap();
    assert_eq!(offsets(&read_all(&log, Offset(0), Offset::MAX, 1 << 20)), [(0, 2)]);
    assert_eq!(log.offset_of_max_timestamp().unwrap().unwrap().timestamp, NOW);
    append_many(&mut log, 10, 5);
    log.close(TICK).unwrap();
    let log = open_clean(&env, config);
    assert_eq!(log.log_end_offset(), Offset(103));
    assert_eq!(offsets(&read_all(&log, Offset(0), Offset::MAX, 1 << 20)).len(), 11);
}

#[test]
fn an_epoch_without_records_goes_with_a_truncation_at_the_end() {
    let env = MemoryEnv::new();
    let mut log = create(&env, Arc::default());
    append_many(&mut log, 1, 5);
    log.begin_leader_epoch(LeaderEpoch(7));
    assert_eq!(log.epoch_history().latest_epoch(), LeaderEpoch(7));
    assert!(!log.truncate_to(Offset(10), NOW).unwrap());
    assert_eq!(log.epoch_history().latest_epoch(), EPOCH);
}

#[test]
fn a_follower_keeps_offsets_and_epochs() {
    let env = MemoryEnv::new();
    let mut log = create(&env, Arc::default());
    let at = |offset, epoch: i32, timestamps: &[i64]| {
        builder(timestamps, 10).placed_at(Offset(offset), LeaderEpoch(epoch)).build().unwrap().to_vec()
    };
    let fetched = [at(0, 1, &[1, 2]), at(2, 1, &[3]), at(3, 4, &[4]), at(4, 4, &[5])].concat();
    let cut = fetched.len() - 3;
    let appended = log.append_as_follower(&fetched[..cut], LeaderEpoch(4), NOW).unwrap();
    assert_eq!((appended.first_offset, appended.log_end_offset), (Offset(0), Offset(4)));
    assert_eq!(log.epoch_history().end_offset_for(LeaderEpoch(1), Offset(4)).unwrap().end_offset, Offset(3));

    let nothing = log.append_as_follower(&fetched[..40], LeaderEpoch(4), NOW).unwrap();
    assert_eq!((nothing.size_bytes, nothing.log_end_offset), (0, Offset(4)));
    let other_leaders = [at(4, 4, &[5]), at(5, 6, &[6])].concat();
    assert_eq!(log.append_as_follower(&other_leaders, LeaderEpoch(4), NOW).unwrap().log_end_offset, Offset(5));

    let old = log.append_as_follower(&at(4, 6, &[1]), LeaderEpoch(6), NOW);
    assert!(matches!(old, Err(AppendError::UnexpectedOffset { .. })));
    let backwards = [at(5, 6, &[1]), at(5, 6, &[1])].concat();
    assert!(matches!(
        log.append_as_follower(&backwards, LeaderEpoch(6), NOW),
        Err(AppendError::UnexpectedOffset { .. })
    ));
    let mut flipped = at(5, 6, &[1]);
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(log.append_as_follower(&flipped, LeaderEpoch(6), NOW), Err(AppendError::Invalid { .. })));
    let stale = log.append_as_follower(&at(5, 1, &[1]), LeaderEpoch(6), NOW);
    assert!(matches!(stale, Err(AppendError::StaleEpoch { .. })));
    assert_eq!(log.log_end_offset(), Offset(5));
    // Compaction leaves gaps.
    assert_eq!(log.append_as_follower(&at(9, 6, &[1]), LeaderEpoch(6), NOW).unwrap().log_end_offset, Offset(10));
    assert_eq!(offsets(&read_all(&log, Offset(5), Offset(10), 100)), [(9, 9)]);
}

#[test]
fn a_follower_starts_over_within_a_batch() {
    let env = MemoryEnv::new();
    let mut log = create(&env, Arc::default());
    append_many(&mut log, 3, 5);
    log.truncate_fully_and_start_at(Offset(1_005), None).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (Offset(1_005), Offset(1_005)));
    let fetched = builder(&[5; 10], 10).placed_at(Offset(1_000), LeaderEpoch(2)).build().unwrap();
    let appended = log.append_as_follower(&fetched, LeaderEpoch(2), NOW).unwrap();
    assert_eq!(appended.log_end_offset, Offset(1_010));
    assert_eq!(log.log_start_offset(), Offset(1_005));
    assert_eq!(offsets(&log.read(Offset(1_005), 10, Offset(1_010), true).unwrap().read().unwrap()), [(1_000, 1_009)]);
    assert!(matches!(log.read(Offset(1_004), 1, Offset(1_010), true), Err(ReadError::OutOfRange { .. })));
    let names = file_names(&env);
    assert!(
        names.contains(&"00000000000000001000.log".to_owned())
            && !names.iter().any(|name| name.starts_with("00000000000000000000"))
    );
}

#[test]
fn flushing_is_due_by_records_and_by_time() {
    let env = MemoryEnv::new();
    let config = LogConfig { flush_messages: 15, flush_ms: 1_000, ..LogConfig::default() };
    let mut log = create(&env, Arc::new(config));
    assert!(!log.flush_due(MonotonicMs(0)));
    append_many(&mut log, 1, 5);
    assert!(!log.flush_due(MonotonicMs(100)));
    assert!(log.flush_due(MonotonicMs(1_100)));
    append_many(&mut log, 1, 5);
    assert!(log.flush_due(MonotonicMs(101)));
    log.flush(MonotonicMs(101)).unwrap();
    assert_eq!(log.recovery_point(), Offset(20));
    assert!(!log.flush_due(MonotonicMs(5_000)) && log.flush_work().is_none());
}

#[test]
fn a_flush_that_a_truncation_overtook_proves_nothing() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    append_many(&mut log, 20, 5);
    let work = log.flush_work().unwrap();
    log.truncate_to(Offset(30), NOW).unwrap();
    let done = work.run().unwrap();
    assert!(!log.flushed(done, TICK));
    assert_eq!(log.recovery_point(), Offset(0));
    assert_eq!(env.read_file(&directory().join("leader-epoch-checkpoint")).unwrap(), b"0\n1\n0 0\n");
    log.flush(TICK).unwrap();
    assert_eq!(log.recovery_point(), Offset(30));
}

/// The log moved to another directory while a flush was under way, which then counted for its copy: names of new
/// segments were taken for durable.
#[test]
fn a_flush_of_a_log_that_was_replaced_proves_nothing_about_its_copy() {
    let env = MemoryEnv::new();
    let elsewhere = "/elsewhere/orders-3".into();
    let mut replaced = Log::create(env.clone(), elsewhere, partition(), TOPIC_ID, small_segments(), NOW).unwrap();
    append_many(&mut replaced, 20, NOW.0);
    let done = replaced.flush_work().unwrap().run().unwrap();
    let mut copy = create(&env, small_segments());
    copy.take_over(&mut replaced);
    assert!(done.up_to() > Offset(0) && !copy.flushed(done, TICK));
    assert_eq!(copy.recovery_point(), Offset(0));
}

/// Its error was taken for that of a file that had gone, and the next sync, which knew nothing of the loss, counted.
#[test]
fn a_failed_sync_takes_the_log_offline_while_old_segments_go_too() {
    let env = FaultyEnv::new(1);
    env.create_directory(&directory()).unwrap();
    let mut log = create(&env, small_segments());
    append_many(&mut log, 30, 5);
    let mut base = Offset(0);
    // The next sync is of the active segment alone.
    while base < log.active_segment_base() {
        base = log.active_segment_base();
        log.flush(TICK).unwrap();
        append_many(&mut log, 1, 5);
    }
    let work = log.flush_work().unwrap();
    assert!(log.advance_log_start(base));
    let end = log.log_end_offset();
    log.delete_old_segments(end, NOW).unwrap().remove(&env).unwrap();
    assert_eq!(log.segment_count(), 1);
    env.set_faults(Faults { sync_error_ppm: 1_000_000, ..Faults::NONE });
    assert!(work.run().is_err());
    assert!(log.is_offline());
}

#[test]
fn a_failed_sync_takes_the_log_offline() {
    let env = FaultyEnv::new(1);
    env.create_directory(&directory()).unwrap();
    let mut log = create(&env, Arc::default());
    append_many(&mut log, 1, 5);
    env.set_faults(Faults { sync_error_ppm: 1_000_000, ..Faults::NONE });
    assert!(log.flush(TICK).is_err());
    env.set_faults(Faults::NONE);
    assert!(log.is_offline());
    assert!(log.flush(TICK).is_err() && log.close(TICK).is_err(), "a later success would prove nothing");
    assert!(matches!(log.append_as_leader(&mut batch(&[1], 1), EPOCH, NOW), Err(AppendError::Offline)));
    assert_eq!(log.recovery_point(), Offset(0));
}

#[test]
fn a_full_disk_refuses_appends_and_loses_nothing() {
    let env = FaultyEnv::new(2);
    let config = small_segments();
    let mut log = create(&env, Arc::clone(&config));
    append_many(&mut log, 3, 5);
    let before = read_all(&log, Offset(0), Offset::MAX, 1 << 20);
    env.set_faults(Faults { no_space_ppm: 1_000_000, ..Faults::NONE });
    for _ in 0..20 {
        assert!(matches!(log.append_as_leader(&mut batch(&[5; 10], 100), EPOCH, NOW), Err(AppendError::Io(_))));
    }
    env.set_faults(Faults::NONE);
    assert_eq!(read_all(&log, Offset(0), Offset::MAX, 1 << 20), before);
    // A shorter batch than those that failed: nothing of them may be left behind it.
    append(&mut log, batch(&[6], 1));
    let after = read_all(&log, Offset(0), Offset::MAX, 1 << 20);
    env.kill();
    let opened = open_unclean(&env, config, Offset(0)).unwrap();
    assert_eq!((opened.cut_bytes, opened.log.log_end_offset()), (0, Offset(31)));
    assert_eq!(read_all(&opened.log, Offset(0), Offset::MAX, 1 << 20), after);
}

#[test]
fn on_a_real_disk() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("orders-3");
    let config = small_segments();
    let mut log = Log::create(RealEnv, directory.clone(), partition(), TOPIC_ID, Arc::clone(&config), NOW).unwrap();
    append_many(&mut log, 30, 5);
    let everything = read_all(&log, Offset(0), Offset::MAX, 500);
    let slice = log.read(Offset(250), 1 << 20, Offset::MAX, true).unwrap();
    let (mut cached, mut copied) = (Vec::new(), Vec::new());
    slice.read_into(&mut copied).unwrap();
    if slice.read_into_if_cached(&mut cached).unwrap() {
        assert_eq!(cached, copied);
    }
    assert!(slice.file().unwrap().size_bytes().unwrap() >= slice.position + slice.len as u64);
    log.truncate_to(Offset(275), NOW).unwrap();
    append_many(&mut log, 3, 5);
    log.close(TICK).unwrap();
    let options = ottla_storage::OpenOptions { clean_shutdown: true, ..ottla_storage::OpenOptions::unclean(NOW) };
    let opened = Log::open(RealEnv, directory, partition(), config, options).unwrap();
    assert_eq!(opened.scanned_bytes, 0);
    assert_eq!(read_all(&opened.log, Offset(0), Offset::MAX, 500), everything, "the same batches were appended again");
}

#[test]
fn an_idle_log_holds_no_file() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    assert_eq!(log.open_files(), 0, "a new log opens its file with the first append");
    append_many(&mut log, 20, NOW.0);
    assert!(log.segment_count() > 2);
    let end = log.log_end_offset();
    let all = read_all(&log, Offset(0), end, 1 << 20);
    assert_eq!(log.open_files(), 3, "the active segment, and the older one that was read last with its index");
    log.close_idle_files();
    assert_eq!(log.open_files(), 3, "all were used a moment ago");
    log.close_idle_files();
    assert_eq!(log.open_files(), 0);
    assert_eq!(read_all(&log, Offset(0), end, 1 << 20), all);
    log.close_idle_files();
    log.close_idle_files();
    append_many(&mut log, 1, NOW.0);
    assert_eq!((log.log_end_offset(), log.open_files()), (end + 10, 1));
}

/// A leader's segments may be larger than the follower's `segment.bytes` was set to meanwhile, and an answer larger
/// than both.
#[test]
fn a_follower_appends_more_than_a_segment_takes() {
    let (env, of_leader) = (MemoryEnv::new(), MemoryEnv::new());
    let mut leader = create(&of_leader, Arc::default());
    append_many(&mut leader, 20, 5);
    append(&mut leader, batch(&[5; 100], 30));
    append_many(&mut leader, 3, 5);
    let all = read_all(&leader, Offset(0), Offset::MAX, 1 << 20);
    let config = small_segments();
    let mut log = create(&env, config.clone());
    let appended = log.append_as_follower(&all, EPOCH, NOW).unwrap();
    assert_eq!((appended.first_offset, appended.log_end_offset), (Offset(0), leader.log_end_offset()));
    assert_eq!((appended.size_bytes, appended.rolled), (all.len(), true));
    assert_eq!(read_all(&log, Offset(0), Offset::MAX, 1 << 20), all);
    assert!(log.segment_count() > 4);
    let sizes = env.list(&directory()).unwrap().into_iter().filter(|entry| entry.name.ends_with(".log"));
    let too_large = sizes.filter(|entry| entry.size_bytes > u64::from(config.segment_bytes)).count();
    assert_eq!(too_large, 1, "the batch that is larger than a segment has one of its own");
    log.close(TICK).unwrap();
    assert_eq!(read_all(&open_clean(&env, config), Offset(0), Offset::MAX, 1 << 20), all);
}

/// Too many open files say nothing of the disk.
#[test]
fn for_want_of_descriptors_nothing_is_lost_and_the_next_try_succeeds() {
    let env = FaultyEnv::new(1);
    let mut log = create(&env, small_segments());
    append_many(&mut log, 10, NOW.0);
    log.flush(TICK).unwrap();
    append_many(&mut log, 10, NOW.0);
    let all = read_all(&log, Offset(0), Offset::MAX, 1 << 20);
    let exhausted = Faults { no_descriptor_ppm: 1_000_000, ..Faults::NONE };
    env.set_faults(exhausted);
    log.close_idle_files();
    log.close_idle_files();
    assert!(is_out_of_descriptors(&log.flush(TICK).unwrap_err()));
    let error = log.append_as_leader(&mut batch(&[NOW.0; 60], 20), EPOCH, NOW).unwrap_err();
    assert_eq!(DiskFault::of(error.io()), DiskFault::OutOfDescriptors);
    assert!(log.read(Offset(0), 10, Offset::MAX, true).is_err());
    assert!(log.truncate_to(Offset(150), NOW).is_err());
    assert!(log.truncate_fully_and_start_at(Offset(150), None).is_err());
    assert!(!log.is_offline());
    env.set_faults(Faults::NONE);
    assert_eq!(read_all(&log, Offset(0), Offset::MAX, 1 << 20), all);
    log.flush(TICK).unwrap();
    assert_eq!(log.recovery_point(), Offset(200));
    assert!(log.truncate_to(Offset(150), NOW).unwrap());
    append_many(&mut log, 10, NOW.0);
}

/// On a thread that serves other requests: a read that may wait for the disk runs elsewhere, without the log.
#[test]
fn reads_that_may_wait_for_the_disk_are_run_without_the_log() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    append_many(&mut log, 40, 5);
    let end = log.log_end_offset();
    let cold = |log: &Log<MemoryEnv>, from: i64| match log.read_if_cached(Offset(from), 700, end, true).unwrap() {
        Read::Cold(cold) => cold,
        Read::Done(_) => panic!("the files are closed"),
    };
    for from in (0..350).step_by(7) {
        log.close_idle_files();
        log.close_idle_files();
        let read = cold(&log, from).run().unwrap().unwrap().read().unwrap();
        let Read::Done(again) = log.read_if_cached(Offset(from), 700, end, true).unwrap() else {
            panic!("the files are open now");
        };
        assert_eq!(again.read().unwrap(), read);
        assert_eq!(offsets(&read).first(), Some(&(from / 10 * 10, from / 10 * 10 + 9)));
    }
    log.close_idle_files();
    log.close_idle_files();
    let (overtaken, of_removed) = (cold(&log, 300), cold(&log, 0));
    log.advance_log_start(Offset(200));
    log.delete_old_segments(end, NOW).unwrap().remove(&env).unwrap();
    assert!(of_removed.run().unwrap().unwrap().is_empty(), "its segment is gone: to be asked anew");
    log.truncate_to(Offset(250), NOW).unwrap();
    append_many(&mut log, 15, 6);
    assert!(overtaken.run().unwrap().unwrap().is_empty(), "other records may be there now");
}

#[test]
fn a_search_by_time_looks_at_a_closed_segment_once() {
    let env = FaultyEnv::new(1);
    let mut log = create(&env, small_segments());
    for number in 0..40 {
        append(&mut log, batch(&[NOW.0 + number; 10], 20));
    }
    log.close(TICK).unwrap();
    let log = open_clean(&env, small_segments());
    assert!(log.segment_count() > 3);
    let future = TimestampMs(NOW.0 + 1_000);
    assert_eq!(log.offset_for_timestamp(future).unwrap(), None);
    env.set_faults(Faults { no_descriptor_ppm: 1_000_000, ..Faults::NONE });
    assert_eq!(log.offset_for_timestamp(future).unwrap(), None, "no file is opened again");
    assert!(log.offset_for_timestamp(NOW).is_err());
}
