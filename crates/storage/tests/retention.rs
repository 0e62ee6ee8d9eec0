//! The segments that a log deletes, when, and the state afterwards.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::*;
use ottla_model::{Offset, TimestampMs};
use ottla_storage::{Env, Faults, FaultyEnv, Log, LogConfig, MemoryEnv, OpenOptions, RealEnv};

const HOUR: i64 = 3_600_000;

fn config(change: impl FnOnce(&mut LogConfig)) -> Arc<LogConfig> {
    let mut config = LogConfig { deletes: true, retention_ms: -1, retention_bytes: -1, ..(*small_segments()).clone() };
    change(&mut config);
    Arc::new(config)
}

/// Segments that differ only in their timestamps, one list for each; the last one is active.
fn with_segments<E: Env>(env: &E, config: &Arc<LogConfig>, timestamps: &[i64]) -> Log<E> {
    let mut log = create(env, config.clone());
    for timestamp in timestamps {
        let segments = log.segment_count();
        // One batch fills a segment of 2,000 bytes: the next one begins another.
        append(&mut log, batch(&[*timestamp; 10], 150));
        assert!(log.segment_count() == segments + 1 || segments == 1);
    }
    assert_eq!(log.segment_count(), timestamps.len());
    log
}

fn live_logs<E: Env>(env: &E) -> Vec<String> {
    file_names(env).into_iter().filter(|name| name.ends_with(".log")).collect()
}

#[test]
fn old_segments_go_and_the_start_moves() {
    let env = MemoryEnv::new();
    let config = config(|config| config.retention_ms = HOUR);
    let now = NOW.0;
    let mut log = with_segments(&env, &config, &[now - 3 * HOUR, now - 2 * HOUR, now, now]);
    let end = log.log_end_offset();
    let deleted = log.delete_old_segments(end, NOW).unwrap();
    assert_eq!((log.segment_count(), log.log_start_offset()), (2, Offset(20)));
    assert!(log.read(Offset(19), 1, end, true).is_err());
    assert_eq!(offsets(&read_all(&log, Offset(20), end, 1 << 20)), [(20, 29), (30, 39)]);
    // Kafka's names, and the files that stay until the delay has passed.
    let names = file_names(&env);
    for kind in ["log", "index", "timeindex"] {
        assert!(names.contains(&format!("00000000000000000010.{kind}.deleted")), "{names:?}");
    }
    deleted.remove(&env).unwrap();
    assert!(!file_names(&env).iter().any(|name| name.ends_with(".deleted")));
    assert!(log.delete_old_segments(end, NOW).unwrap().is_empty(), "the rest has not expired");
}

#[test]
fn nothing_at_or_above_the_high_watermark_goes() {
    let env = MemoryEnv::new();
    let config = config(|config| (config.retention_ms, config.retention_bytes) = (0, 0));
    let mut log = with_segments(&env, &config, &[1, 1, 1]);
    drop(log.delete_old_segments(Offset(19), NOW).unwrap());
    assert_eq!(log.log_start_offset(), Offset(10));
    drop(log.delete_old_segments(Offset(29), NOW).unwrap());
    assert_eq!(log.log_start_offset(), Offset(20), "the active segment reaches above the high watermark");
}

#[test]
fn an_active_segment_goes_only_when_all_of_it_has_expired() {
    let env = MemoryEnv::new();
    let config = config(|config| config.retention_ms = HOUR);
    let mut log = create(&env, config.clone());
    append(&mut log, batch(&[NOW.0 - 5 * HOUR], 10));
    append(&mut log, batch(&[NOW.0], 10));
    let end = log.log_end_offset();
    assert!(log.delete_old_segments(end, NOW).unwrap().is_empty());
    let later = TimestampMs(NOW.0 + HOUR + 1);
    assert!(!log.delete_old_segments(end, later).unwrap().is_empty());
    assert_eq!((log.log_start_offset(), log.log_end_offset(), log.segment_count()), (end, end, 1));
    assert!(log.delete_old_segments(end, later).unwrap().is_empty(), "an empty segment stays");
    assert_eq!(append(&mut log, batch(&[later.0], 10)), end);
    log.close(TICK).unwrap();
    let reopened = open_clean(&env, config);
    assert_eq!((reopened.log_start_offset(), reopened.log_end_offset()), (end, end.next()));
}

#[test]
fn size_takes_the_oldest_while_enough_stays() {
    let env = MemoryEnv::new();
    let unlimited = config(|_| ());
    let mut log = with_segments(&env, &unlimited, &[NOW.0; 5]);
    let segment = log.size_bytes() / 5;
    let end = log.log_end_offset();
    for (kept_bytes, segments) in
        [(5 * segment, 5), (4 * segment + 1, 5), (4 * segment, 4), (2 * segment + 1, 3), (0, 1)]
    {
        log.set_config(config(|config| config.retention_bytes = i64::try_from(kept_bytes).unwrap()));
        drop(log.delete_old_segments(end, NOW).unwrap());
        assert_eq!(log.segment_count(), segments, "{kept_bytes} bytes are kept");
    }
    assert_eq!((log.size_bytes(), log.log_start_offset()), (0, end));
}

#[test]
fn without_the_delete_policy_only_what_is_before_the_start_goes() {
    let env = MemoryEnv::new();
    let config = config(|config| {
        (config.deletes, config.retention_ms, config.retention_bytes) = (false, 0, 0);
    });
    let mut log = with_segments(&env, &config, &[1, 1, 1]);
    let end = log.log_end_offset();
    assert!(log.delete_old_segments(end, NOW).unwrap().is_empty());
    log.advance_log_start(Offset(19));
    drop(log.delete_old_segments(end, NOW).unwrap());
    assert_eq!(live_logs(&env), ["00000000000000000010.log", "00000000000000000020.log"]);
    log.advance_log_start(end);
    drop(log.delete_old_segments(end, NOW).unwrap());
    assert_eq!(live_logs(&env), ["00000000000000000020.log"], "the active segment stays");
}

#[test]
fn scenario_19_timestamps_in_the_future_do_not_keep_a_segment_for_ever() {
    let env = MemoryEnv::new();
    let config = config(|config| config.retention_ms = HOUR);
    let far = NOW.0 + 1_000_000 * HOUR;
    // A wrong producer, then right ones. The segments are created at NOW.
    let mut log = with_segments(&env, &config, &[far, NOW.0, NOW.0]);
    let end = log.log_end_offset();
    assert!(log.delete_old_segments(end, TimestampMs(NOW.0 + HOUR)).unwrap().is_empty());
    drop(log.delete_old_segments(end, TimestampMs(NOW.0 + HOUR + 1)).unwrap());
    assert_eq!(log.log_start_offset(), end, "by the time of its last write it has expired");
}

#[test]
fn scenario_19_a_clock_that_jumps_back_deletes_nothing() {
    let env = MemoryEnv::new();
    let config = config(|config| config.retention_ms = HOUR);
    let mut log = with_segments(&env, &config, &[NOW.0, NOW.0]);
    let end = log.log_end_offset();
    for now in [0, NOW.0 - 1_000 * HOUR, NOW.0 - 1] {
        assert!(log.delete_old_segments(end, TimestampMs(now)).unwrap().is_empty());
    }
    assert_eq!(log.log_start_offset(), Offset(0));
}

#[test]
fn a_real_files_age_is_its_last_write() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("orders-3");
    let config = config(|config| config.retention_ms = HOUR);
    let far = 4_000_000_000_000;
    let mut log = Log::create(RealEnv, place.clone(), partition(), TOPIC_ID, config.clone(), TimestampMs(0)).unwrap();
    append(&mut log, batch(&[far; 10], 150));
    append(&mut log, batch(&[far; 10], 150));
    log.close(TICK).unwrap();
    let modified = RealEnv.modified(&place.join("00000000000000000000.log")).unwrap().unwrap();
    let options = OpenOptions { clean_shutdown: true, ..OpenOptions::unclean(TimestampMs(0)) };
    let mut log = Log::open(RealEnv, place, partition(), config, options).unwrap().log;
    let end = log.log_end_offset();
    assert!(log.delete_old_segments(end, TimestampMs(modified.0 + HOUR)).unwrap().is_empty());
    assert!(!log.delete_old_segments(end, TimestampMs(modified.0 + 2 * HOUR)).unwrap().is_empty());
}

#[test]
fn readers_and_flushes_that_have_begun_are_not_disturbed() {
    let env = MemoryEnv::new();
    let config = config(|config| config.retention_bytes = 0);
    let mut log = with_segments(&env, &config, &[1, 1, 1]);
    let slice = log.read(Offset(0), 1 << 20, log.log_end_offset(), true).unwrap();
    let work = log.flush_work().unwrap();
    let deleted = log.delete_old_segments(log.log_end_offset(), NOW).unwrap();
    deleted.remove(&env).unwrap();
    assert_eq!(offsets(&slice.read().unwrap()), [(0, 9)]);
    let done = work.run().unwrap();
    assert!(!log.flushed(done, TICK), "it may not have seen what is there now");
    assert!(!log.is_offline());
    append(&mut log, batch(&[1], 1));
    log.flush(TICK).unwrap();
    assert_eq!(log.recovery_point(), log.log_end_offset());
}

#[test]
fn producers_are_known_after_their_segments_have_gone() {
    let env = MemoryEnv::new();
    let config = config(|config| config.retention_bytes = 0);
    let mut log = create(&env, config.clone());
    append(&mut log, idempotent(7, 0, 0, 3));
    drop(log.delete_old_segments(log.log_end_offset(), NOW).unwrap());
    assert_eq!((log.segment_count(), log.size_bytes()), (1, 0));
    let retry = log.append_as_leader(&mut idempotent(7, 0, 0, 3), EPOCH, NOW).unwrap();
    assert!(retry.is_duplicate && retry.first_offset == Offset(0));
    let (end, start) = (log.log_end_offset(), log.log_start_offset());
    drop(log);
    // As after a kill: nothing was closed.
    let options = OpenOptions { log_start: start, ..OpenOptions::unclean(NOW) };
    let mut log = Log::open(env, directory(), partition(), config, options).unwrap().log;
    assert_eq!(log.log_end_offset(), end);
    let retry = log.append_as_leader(&mut idempotent(7, 0, 0, 3), EPOCH, NOW).unwrap();
    assert!(retry.is_duplicate && retry.first_offset == Offset(0), "scenario 15");
}

/// An append fails, its half cannot be cut off, all segments expire, and the disk refuses to set them aside: the torn
/// end must not lie in the middle of the log, where a clean start would take it for records.
#[test]
fn the_remains_of_a_failed_append_do_not_stay_before_the_segment_that_retention_begins() {
    let config = config(|config| config.retention_bytes = 0);
    let mut with_remains = 0;
    for seed in 0..8 {
        let env = FaultyEnv::new(seed);
        env.create_directory(directory().parent().unwrap()).unwrap();
        let mut log = create(&env, config.clone());
        append(&mut log, batch(&[1; 3], 100));
        let (size, end) = (log.size_bytes(), log.log_end_offset());
        env.set_faults(Faults { io_error_ppm: 1_000_000, cut_error_ppm: 1_000_000, ..Faults::NONE });
        log.append_as_leader(&mut batch(&[2; 3], 100), EPOCH, NOW).unwrap_err();
        let first = || env.read_file(&directory().join("00000000000000000000.log")).unwrap().len() as u64;
        env.set_faults(Faults { rename_error_ppm: 1_000_000, ..Faults::NONE });
        with_remains += usize::from(first() > size);
        log.delete_old_segments(end, NOW).unwrap_err();
        env.set_faults(Faults::NONE);
        assert_eq!((log.segment_count(), first()), (2, size));
        assert_eq!(append(&mut log, batch(&[3; 3], 100)), end);
    }
    assert!(with_remains > 4, "{with_remains}");
}

/// The disk refuses to set one file aside: the next run goes on there, and returns also the files before it.
#[test]
fn files_that_were_set_aside_before_an_error_are_removed_by_the_next_run() {
    for refused in ["00000000000000000010.index.deleted", "00000000000000000010.snapshot.deleted"] {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("orders-3");
        let config = config(|config| config.retention_bytes = 0);
        let mut log = Log::create(RealEnv, place.clone(), partition(), TOPIC_ID, config, NOW).unwrap();
        for _ in 0..3 {
            append(&mut log, batch(&[1; 10], 150));
        }
        std::fs::create_dir(place.join(refused)).unwrap();
        let end = log.log_end_offset();
        log.delete_old_segments(end, NOW).unwrap_err();
        std::fs::remove_dir(place.join(refused)).unwrap();
        let names = || RealEnv.list(&place).unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();
        assert!(names().iter().any(|name| name.ends_with(".deleted")));
        log.delete_old_segments(end, NOW).unwrap().remove(&RealEnv).unwrap();
        let mut left = names();
        left.retain(|name| name.ends_with(".deleted") || name.starts_with("00000000000000000010"));
        assert!(left.is_empty(), "{left:?}");
        assert!(log.segment_count() == 1 && log.size_bytes() == 0);
    }
}
