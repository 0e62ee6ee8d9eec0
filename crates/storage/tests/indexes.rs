//! Scenario 40: wrong index files (zeros, cut tails, entries out of order, of another segment, newer than the log)
//! change neither the result of a read nor the segments that retention removes.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::*;
use ottla_model::{Offset, TimestampMs};
use ottla_storage::env::OpenMode;
use ottla_storage::{Env, File, Log, LogConfig, MemoryEnv, OpenOptions, TimestampOffset};
use proptest::prelude::*;

fn path(name: &str) -> PathBuf {
    directory().join(name)
}

fn replace(env: &MemoryEnv, name: &str, content: &[u8]) {
    env.open(&path(name), OpenMode::Truncate).unwrap().write_all_at(content, 0).unwrap();
}

/// Distinct, out of order, before [`NOW`].
fn timestamp(number: usize, jitter: i64) -> i64 {
    let number = i64::try_from(number).unwrap();
    NOW.0 - 40_000 + 100 * (number + jitter) + number
}

/// How the process that wrote the log ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    KilledAfterFlush,
    Killed,
}

#[derive(Clone, Debug)]
enum Damage {
    None,
    Remove,
    Zeros(usize),
    Cut(prop::sample::Index),
    Random(Vec<u8>),
    Reverse,
    /// The entries from here on are those of another segment's index.
    OtherSegment,
    /// Offsets, and in a time index timestamps, far beyond the segment.
    Future,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        Just(Damage::None),
        Just(Damage::Remove),
        (1..200_usize).prop_map(Damage::Zeros),
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        prop::collection::vec(any::<u8>(), 0..240).prop_map(Damage::Random),
        Just(Damage::Reverse),
        Just(Damage::OtherSegment),
        Just(Damage::Future),
    ]
}

fn apply(env: &MemoryEnv, name: &str, others: &[(String, Vec<u8>)], damage: &Damage) {
    let entry_bytes = if name.ends_with("timeindex") { 12 } else { 8 };
    let mut content = env.read_file(&path(name)).unwrap();
    match damage {
        Damage::None => return,
        Damage::Remove => return env.remove_file(&path(name)).unwrap(),
        Damage::Zeros(count) => content.resize(content.len() + count, 0),
        Damage::Cut(at) => content.truncate(at.index(content.len() + 1)),
        Damage::Random(bytes) => content.clone_from(bytes),
        Damage::Reverse => {
            content = content.chunks(entry_bytes).rev().flatten().copied().collect();
        }
        Damage::OtherSegment => {
            let other = others.iter().find(|(other, _)| other != name);
            content = other.map(|(_, content)| content.clone()).unwrap_or_default();
        }
        Damage::Future if entry_bytes == 12 => {
            content.extend_from_slice(&(NOW.0 + 1_000_000_000).to_be_bytes());
            content.extend_from_slice(&3_i32.to_be_bytes());
        }
        Damage::Future => {
            content.extend_from_slice(&1_000_000_i32.to_be_bytes());
            content.extend_from_slice(&500_i32.to_be_bytes());
        }
    }
    replace(env, name, &content);
}

/// Writes a log of a batch for each jitter and ends as `end` says; returns its recovery point.
fn write(env: &MemoryEnv, config: &Arc<LogConfig>, jitters: &[i64], end: End) -> Offset {
    let mut log = create(env, config.clone());
    for (number, jitter) in jitters.iter().enumerate() {
        let at = timestamp(number, *jitter);
        append(&mut log, batch(&[at, at + 1, at - 3], 30));
        if matches!(end, End::KilledAfterFlush) && number % 7 == 3 {
            log.flush(TICK).unwrap();
        }
    }
    if matches!(end, End::Closed) {
        log.close(TICK).unwrap();
        return Offset(3 * i64::try_from(jitters.len()).unwrap());
    }
    let recovery_point = log.recovery_point();
    drop(log);
    env.restart();
    recovery_point
}

fn open(env: &MemoryEnv, config: &Arc<LogConfig>, end: End, recovery_point: Offset) -> Log<MemoryEnv> {
    let clean_shutdown = matches!(end, End::Closed);
    let options = OpenOptions { clean_shutdown, recovery_point, ..OpenOptions::unclean(NOW) };
    Log::open(env.clone(), directory(), partition(), config.clone(), options).unwrap().log
}

/// The results of a log: for each offset the batches of a read, for times the records, and the record with the largest
/// timestamp.
#[derive(PartialEq, Eq, Debug)]
struct Answers {
    log_start: Offset,
    reads: Vec<Vec<(i64, i64)>>,
    by_time: Vec<Option<(i64, i64)>>,
    of_largest_time: Option<(i64, i64)>,
}

fn answers(log: &Log<MemoryEnv>) -> Answers {
    let end = log.log_end_offset();
    let read = |from| offsets(&log.read(Offset(from), 160, end, true).unwrap().read().unwrap());
    let record = |found: TimestampOffset| (found.timestamp.0 - NOW.0, found.offset.0);
    let at = |at| log.offset_for_timestamp(TimestampMs(at)).unwrap().map(record);
    Answers {
        log_start: log.log_start_offset(),
        reads: (log.log_start_offset().0..end.0).map(read).collect(),
        by_time: (NOW.0 - 41_000..NOW.0 - 33_000).step_by(47).chain([NOW.0 - 30_001]).map(at).collect(),
        of_largest_time: log.offset_of_max_timestamp().unwrap().map(record),
    }
}

fn go_on(log: &mut Log<MemoryEnv>) {
    for number in 0..5 {
        append(log, batch(&[NOW.0 - 30_000 + number], 30));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn scenario_40_what_index_files_hold_changes_nothing(
        jitters in prop::collection::vec(-8..8_i64, 1..60),
        end in prop_oneof![Just(End::Closed), Just(End::KilledAfterFlush), Just(End::Killed)],
        damages in prop::collection::vec(damage(), 24),
        retention_ms in 33_000..41_000_i64,
    ) {
        let config = Arc::new(LogConfig {
            retention_ms,
            segment_bytes: 900,
            index_interval_bytes: 150,
            ..LogConfig::default()
        });
        let (sound, damaged) = (MemoryEnv::new(), MemoryEnv::new());
        let recovery_point = write(&sound, &config, &jitters, end);
        write(&damaged, &config, &jitters, end);
        for kind in [".index", ".timeindex"] {
            let names: Vec<_> = file_names(&damaged).into_iter().filter(|name| name.ends_with(kind)).collect();
            let before: Vec<_> = names
                .iter()
                .map(|name| (name.clone(), damaged.read_file(&path(name)).unwrap()))
                .collect();
            for (name, damage) in names.iter().zip(damages.iter().cycle().skip(kind.len())) {
                apply(&damaged, name, &before, damage);
            }
        }
        let (mut expected, mut found) =
            (open(&sound, &config, end, recovery_point), open(&damaged, &config, end, recovery_point));
        prop_assert_eq!(answers(&found), answers(&expected));
        for log in [&mut expected, &mut found] {
            go_on(log);
        }
        prop_assert_eq!(answers(&found), answers(&expected));
        for log in [&mut expected, &mut found] {
            let stable = log.log_end_offset();
            let deleted = log.delete_old_segments(stable, NOW).unwrap();
            drop(deleted);
        }
        prop_assert_eq!(answers(&found), answers(&expected));
        for log in [&mut expected, &mut found] {
            let end = log.log_end_offset();
            log.truncate_to(Offset(end.0 - 9), NOW).unwrap();
            go_on(log);
        }
        prop_assert_eq!(answers(&found), answers(&expected));
    }
}

/// apache/kafka#8936 (KAFKA-10207): zeros at the end of a time index made retention delete records that were seconds
/// old.
#[test]
fn zeros_behind_a_time_index_do_not_age_its_segment() {
    for end in [End::Closed, End::KilledAfterFlush] {
        let env = MemoryEnv::new();
        let config = Arc::new(LogConfig { retention_ms: 86_400_000, ..(*small_segments()).clone() });
        let recovery_point = write(&env, &config, &[0; 60], end);
        for name in file_names(&env).iter().filter(|name| name.ends_with("index")) {
            apply(&env, name, &[], &Damage::Zeros(120));
        }
        let mut log = open(&env, &config, end, recovery_point);
        let deleted = log.delete_old_segments(log.log_end_offset(), NOW).unwrap();
        assert!(deleted.is_empty(), "{end:?}");
        assert_eq!(log.log_start_offset(), Offset(0));
    }
}

/// A look-up that meets a wrong entry answers right and slowly; the next round of retention makes it fast again.
#[test]
fn indexes_that_were_seen_to_lie_are_rebuilt() {
    let (sound, env) = (MemoryEnv::new(), MemoryEnv::new());
    write(&sound, &small_segments(), &[0; 60], End::Closed);
    write(&env, &small_segments(), &[0; 60], End::Closed);
    let name = "00000000000000000000.timeindex";
    apply(&env, name, &[], &Damage::Zeros(120));
    assert_ne!(env.read_file(&path(name)).unwrap(), sound.read_file(&path(name)).unwrap());
    let mut log = open(&env, &small_segments(), End::Closed, Offset(0));
    log.offset_for_timestamp(TimestampMs(timestamp(3, 0))).unwrap();
    drop(log.delete_old_segments(Offset(0), NOW).unwrap());
    assert_eq!(env.read_file(&path(name)).unwrap(), sound.read_file(&path(name)).unwrap());
}

/// The files of a killed Kafka: the active segment's index files in their full size, and temporary files of unfinished
/// work.
#[test]
fn a_directory_that_kafka_left_in_the_middle_of_its_work_opens_with_nothing_lost() {
    let env = MemoryEnv::new();
    let config = small_segments();
    let recovery_point = write(&env, &config, &[0; 60], End::KilledAfterFlush);
    let expected = {
        let sound = MemoryEnv::new();
        write(&sound, &config, &[0; 60], End::KilledAfterFlush);
        answers(&open(&sound, &config, End::Killed, recovery_point))
    };
    let names = file_names(&env);
    let last = |kind: &str| names.iter().rfind(|name| name.ends_with(kind)).unwrap().clone();
    for kind in [".index", ".timeindex"] {
        let name = last(kind);
        let mut content = env.read_file(&path(&name)).unwrap();
        content.resize((10 << 20) / 12 * 12, 0);
        replace(&env, &name, &content);
    }
    // A roll of a log whose index files a crash took.
    env.remove_file(&path("00000000000000000000.index")).unwrap();
    env.remove_file(&path("00000000000000000000.timeindex")).unwrap();
    for left_over in [
        "00000000000000000000.log.cleaned",
        "00000000000000000000.index.cleaned",
        "00000000000000000000.timeindex.cleaned",
        "00000000000000000000.txnindex.cleaned",
        "00000000000000000000.log.swap",
        "00000000000000000003.log.deleted",
        "00000000000000000003.index.deleted",
        "00000000000000000003.snapshot.deleted",
        "leader-epoch-checkpoint.tmp",
    ] {
        replace(&env, left_over, b"half of something");
    }
    let log = open(&env, &config, End::Killed, recovery_point);
    assert_eq!(answers(&log), expected);
    let names = file_names(&env);
    assert!(!names.iter().any(|name| [".cleaned", ".swap", ".deleted", ".tmp"].iter().any(|it| name.ends_with(it))));
}
