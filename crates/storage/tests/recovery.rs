//! Opening a log after an end that was not clean (scenarios 13, 14, 19).
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::*;
use ottla_model::{LeaderEpoch, Offset, ProducerId};
use ottla_storage::env::OpenMode;
use ottla_storage::{Env, FaultyEnv, File, Log, LogConfig, MemoryEnv, OpenError, OpenOptions, RecoveryProgress};

fn segment(base: i64, kind: &str) -> PathBuf {
    directory().join(format!("{base:020}.{kind}"))
}

/// A log of several segments; and its bytes.
fn written(env: &MemoryEnv) -> (Log<MemoryEnv>, Vec<u8>) {
    let mut log = create(env, small_segments());
    append(&mut log, idempotent(9, 0, 0, 5));
    append_many(&mut log, 12, 5);
    log.begin_leader_epoch(LeaderEpoch(2));
    append(&mut log, idempotent(9, 0, 5, 5));
    append_many(&mut log, 8, 6);
    let bytes = read_all(&log, Offset(0), Offset::MAX, 1 << 20);
    assert!(log.segment_count() > 3);
    (log, bytes)
}

fn overwrite(env: &MemoryEnv, path: PathBuf, position: u64, bytes: &[u8]) {
    env.open(&path, OpenMode::Write).unwrap().write_all_at(bytes, position).unwrap();
}

fn flip(env: &MemoryEnv, path: PathBuf, position: usize) {
    let byte = env.read_file(&path).unwrap()[position] ^ 4;
    overwrite(env, path, position as u64, &[byte]);
}

#[test]
fn everything_is_rebuilt_from_the_log_alone() {
    let env = MemoryEnv::new();
    let (log, bytes) = written(&env);
    let (epochs, end) = (log.epoch_history().clone(), log.log_end_offset());
    env.restart();
    for name in file_names(&env) {
        if !name.ends_with(".log") && name != "partition.metadata" {
            env.remove_file(&directory().join(name)).unwrap();
        }
    }
    let mut told = Vec::new();
    let mut listener = |progress: RecoveryProgress| told.push(progress);
    let options = OpenOptions { progress: Some(&mut listener), ..OpenOptions::unclean(NOW) };
    let opened = Log::open(env.clone(), directory(), partition(), small_segments(), options).unwrap();
    let size = bytes.len() as u64;
    assert_eq!((opened.scanned_bytes, opened.cut_bytes), (size, 0));
    assert_eq!(told, [RecoveryProgress { scanned_bytes: size, total_bytes: size }]);
    let mut log = opened.log;
    assert_eq!((log.log_end_offset(), log.recovery_point(), log.topic_id()), (end, Offset(0), Some(TOPIC_ID)));
    assert_eq!(read_all(&log, Offset(0), Offset::MAX, 700), bytes);
    assert_eq!(log.epoch_history(), &epochs);
    assert_eq!(log.producers().last_of(ProducerId(9)).unwrap().1, 9);
    append_many(&mut log, 20, 5);
    log.flush(TICK).unwrap();
    assert_eq!(log.recovery_point(), log.log_end_offset());
}

/// As in the broker: a roll is followed by a flush. For a log of any size, a kill costs a scan of the active segment
/// only.
#[test]
fn after_a_flush_behind_a_roll_only_the_active_segment_is_read() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    while log.segment_count() < 20 {
        let rolled = log.append_as_leader(&mut batch(&[NOW.0; 10], 20), EPOCH, NOW).unwrap().rolled;
        if rolled {
            log.flush(TICK).unwrap();
        }
    }
    append_many(&mut log, 1, NOW.0);
    let (recovery_point, end, active) = (log.recovery_point(), log.log_end_offset(), log.active_segment_base());
    env.restart();
    let active_bytes = env.read_file(&segment(active.0, "log")).unwrap().len() as u64;
    let opened = open_unclean(&env, small_segments(), recovery_point).unwrap();
    assert_eq!((opened.log.log_end_offset(), opened.scanned_bytes), (end, active_bytes));
}

#[test]
fn only_what_lies_above_the_recovery_point_is_read() {
    let env = MemoryEnv::new();
    let (mut log, bytes) = written(&env);
    log.flush(TICK).unwrap();
    let recovery_point = log.recovery_point();
    append_many(&mut log, 1, 5);
    env.restart();
    let opened = open_unclean(&env, small_segments(), recovery_point).unwrap();
    assert!(opened.scanned_bytes > 0 && opened.scanned_bytes < 2_000 + 400, "{}", opened.scanned_bytes);
    let all = read_all(&opened.log, Offset(0), Offset::MAX, 1 << 20);
    assert_eq!(all[..bytes.len()], bytes);
    assert_eq!(opened.log.recovery_point(), recovery_point);
    assert_eq!(opened.log.producers().last_of(ProducerId(9)).unwrap().1, 9);
}

#[test]
fn scenario_14_a_torn_tail_is_cut_at_the_last_whole_batch() {
    let whole = batch(&[1; 4], 50);
    for torn_bytes in [1, 12, 16, 17, 60, 61, 62, whole.len() - 1] {
        for zeros in [0, 5_000] {
            let env = MemoryEnv::new();
            let (log, bytes) = written(&env);
            let (base, end) = (log.active_segment_base().0, log.log_end_offset());
            env.restart();
            let path = segment(base, "log");
            let size = env.read_file(&path).unwrap().len();
            overwrite(&env, path.clone(), size as u64, &[&whole[..torn_bytes], &vec![0; zeros]].concat());
            let opened = open_unclean(&env, small_segments(), Offset(0)).unwrap();
            assert_eq!(opened.cut_bytes, (torn_bytes + zeros) as u64);
            assert_eq!(opened.log.log_end_offset(), end);
            assert_eq!(env.read_file(&path).unwrap().len(), size);
            let mut log = opened.log;
            append_many(&mut log, 3, 5);
            assert_eq!(read_all(&log, Offset(0), Offset::MAX, 1 << 20)[..bytes.len()], bytes);
        }
    }
}

#[test]
fn scenario_14_a_flipped_bit_in_the_middle_is_refused_and_nothing_is_touched() {
    let env = MemoryEnv::new();
    let (log, _) = written(&env);
    let active = log.active_segment_base().0;
    env.restart();
    // In the active segment, before its last batch; and at the end of a segment with others behind it.
    let middle_of_active = (active, 70);
    let end_of_first = (0, env.read_file(&segment(0, "log")).unwrap().len() - 1);
    for (base, position) in [middle_of_active, end_of_first] {
        let path = segment(base, "log");
        flip(&env, path.clone(), position);
        let content = env.read_file(&path).unwrap();
        match open_unclean(&env, small_segments(), Offset(0)) {
            Err(OpenError::CorruptMiddle { file, position: at }) => {
                assert_eq!(file, path);
                assert!(at <= position as u64);
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("a damaged batch was skipped or cut"),
        }
        assert_eq!(env.read_file(&path).unwrap(), content);
        flip(&env, path, position);
    }
    open_unclean(&env, small_segments(), Offset(0)).unwrap();
}

#[test]
fn a_flipped_bit_in_the_last_batch_is_a_torn_tail() {
    let env = MemoryEnv::new();
    let (log, _) = written(&env);
    let (base, end) = (log.active_segment_base().0, log.log_end_offset());
    env.restart();
    let size = env.read_file(&segment(base, "log")).unwrap().len();
    flip(&env, segment(base, "log"), size - 1);
    assert_eq!(open_unclean(&env, small_segments(), Offset(0)).unwrap().log.log_end_offset(), end - 10);
}

#[test]
fn a_segment_that_lost_its_end_is_refused_only_if_records_follow() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    append_many(&mut log, 8, 5);
    let base = log.active_segment_base();
    assert_eq!(log.segment_count(), 2);
    env.restart();
    let cut = |env: &MemoryEnv| {
        let file = env.open(&segment(0, "log"), OpenMode::Write).unwrap();
        let size = file.size_bytes().unwrap();
        file.set_len(size - 331).unwrap();
    };
    cut(&env);
    let refused = open_unclean(&env, small_segments(), Offset(0));
    assert!(matches!(refused, Err(OpenError::CorruptMiddle { .. })));
    let compacted = LogConfig { may_have_gaps: true, ..(*small_segments()).clone() };
    open_unclean(&env, Arc::new(compacted), Offset(0)).unwrap();
    env.restart();
    // Nothing in the later segment survived: it never was more than a torn tail.
    env.open(&segment(base.0, "log"), OpenMode::Write).unwrap().set_len(20).unwrap();
    let opened = open_unclean(&env, small_segments(), Offset(0)).unwrap();
    assert_eq!((opened.log.log_end_offset(), opened.log.segment_count()), (base - 10, 1));
    assert!(!file_names(&env).iter().any(|name| name.starts_with(&format!("{:020}.log", base.0))));
}

#[test]
fn scenario_13_checkpoints_ahead_of_the_log_are_taken_back_to_it() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    append_many(&mut log, 11, NOW.0);
    log.begin_leader_epoch(LeaderEpoch(4));
    append(&mut log, idempotent(9, 0, 0, 5));
    log.flush(TICK).unwrap();
    log.close(TICK).unwrap();
    env.restart();
    // The last segment lost everything from the producer's batch on, and more than the checkpoints know.
    let base = log.active_segment_base();
    let first_size = 331;
    env.open(&segment(base.0, "log"), OpenMode::Write).unwrap().set_len(first_size).unwrap();
    let options =
        OpenOptions { recovery_point: Offset(9_999), high_watermark: Offset(8_888), ..OpenOptions::unclean(NOW) };
    let opened = Log::open(env.clone(), directory(), partition(), small_segments(), options).unwrap();
    let end = base + 10;
    assert_eq!(opened.log.log_end_offset(), end);
    assert_eq!((opened.high_watermark, opened.log.recovery_point()), (end, end));
    assert_eq!(opened.log.epoch_history().latest_epoch(), LeaderEpoch(0));
    assert_eq!(opened.log.producers().last_of(ProducerId(9)), None);
    assert!(!file_names(&env).contains(&"00000000000000000115.snapshot".to_owned()));
}

#[test]
fn a_log_start_beyond_the_end_starts_over() {
    let env = MemoryEnv::new();
    written(&env);
    env.restart();
    let options = OpenOptions { log_start: Offset(5_000), high_watermark: Offset(10), ..OpenOptions::unclean(NOW) };
    let opened = Log::open(env.clone(), directory(), partition(), small_segments(), options).unwrap();
    assert_eq!((opened.log.log_start_offset(), opened.log.log_end_offset()), (Offset(5_000), Offset(5_000)));
    assert_eq!(opened.high_watermark, Offset(5_000));
    assert_eq!(opened.log.size_bytes(), 0);
}

#[test]
fn damaged_companions_are_rebuilt_after_a_clean_shutdown_too() {
    let env = MemoryEnv::new();
    let (mut log, bytes) = written(&env);
    log.close(TICK).unwrap();
    let active = log.active_segment_base().0;
    env.restart();
    env.remove_file(&segment(0, "index")).unwrap();
    overwrite(&env, segment(active, "index"), 0, &[1; 3]);
    overwrite(&env, segment(active, "timeindex"), 0, &[1; 13]);
    for name in file_names(&env) {
        if name.ends_with(".snapshot") {
            flip(&env, directory().join(name), 7);
        }
    }
    overwrite(&env, directory().join("leader-epoch-checkpoint"), 0, b"xx");
    env.open(&directory().join("00000000000000099999.index"), OpenMode::Create).unwrap();
    env.open(&directory().join("00000000000000000000.log.deleted"), OpenMode::Create).unwrap();
    let log = open_clean(&env, small_segments());
    assert_eq!(read_all(&log, Offset(0), Offset::MAX, 700), bytes);
    assert_eq!(log.epoch_history().latest_epoch(), LeaderEpoch(2));
    assert_eq!(log.producers().last_of(ProducerId(9)).unwrap().1, 9);
    let names = file_names(&env);
    assert!(!names.iter().any(|name| name.contains("99999") || name.ends_with(".deleted")));
    assert!(names.contains(&"00000000000000000000.index".to_owned()));
}

/// It was believed that the trusted part had no epochs: what diverged there would never have been cut.
#[test]
fn leader_epochs_that_were_cut_to_nothing_are_read_from_the_records() {
    let cut_to = |left: &[u8], clean_shutdown| {
        let env = MemoryEnv::new();
        let (mut log, bytes) = written(&env);
        log.flush(TICK).unwrap();
        let (epochs, recovery_point) = (log.epoch_history().clone(), log.recovery_point());
        if clean_shutdown {
            log.close(TICK).unwrap();
        }
        env.restart();
        let file = env.open(&directory().join("leader-epoch-checkpoint"), OpenMode::Truncate).unwrap();
        file.write_all_at(left, 0).unwrap();
        let options = OpenOptions { clean_shutdown, recovery_point, ..OpenOptions::unclean(NOW) };
        let log = Log::open(env.clone(), directory(), partition(), small_segments(), options).unwrap().log;
        assert_eq!(log.epoch_history(), &epochs, "{left:?}, clean: {clean_shutdown}");
        assert_eq!(read_all(&log, Offset(0), Offset::MAX, 700), bytes);
    };
    for left in [&b""[..], b"0", b"0\n"] {
        cut_to(left, true);
        cut_to(left, false);
    }
}

#[test]
fn an_index_that_lost_its_way_costs_time_not_records() {
    let env = MemoryEnv::new();
    let (mut log, bytes) = written(&env);
    log.close(TICK).unwrap();
    env.restart();
    let index = env.read_file(&segment(0, "index")).unwrap();
    overwrite(&env, segment(0, "index"), 4, &[0, 0, 0, 33]);
    assert!(index.len() >= 8);
    let log = open_clean(&env, small_segments());
    assert_eq!(read_all(&log, Offset(0), Offset::MAX, 700), bytes);
    for from in 0..50 {
        assert!(!read_all(&log, Offset(from), Offset(60), 100).is_empty());
    }
}

/// A start opens a hundred thousand of them.
#[test]
fn a_log_without_records_is_opened_after_a_kill_without_a_change_on_the_disk() {
    let env = FaultyEnv::new(1);
    drop(Log::create(env.clone(), directory(), partition(), TOPIC_ID, small_segments(), NOW).unwrap());
    env.kill();
    env.die_after(0);
    let open = || Log::open(env.clone(), directory(), partition(), small_segments(), OpenOptions::unclean(NOW));
    let log = open().unwrap().log;
    assert_eq!((log.log_end_offset(), log.topic_id(), log.open_files()), (Offset(0), Some(TOPIC_ID), 0));
    // Index files that are not empty are emptied: the entries are of records that are gone.
    env.kill();
    let index = segment(0, "index");
    env.open(&index, OpenMode::Write).unwrap().write_all_at(&[0; 8], 0).unwrap();
    env.die_after(0);
    assert!(open().is_err());
    env.kill();
    assert!(open().is_ok() && env.read_file(&index).unwrap().is_empty());
}

#[test]
fn a_half_created_log_opens_empty() {
    let env = MemoryEnv::new();
    env.create_directory(&directory()).unwrap();
    env.open(&directory().join("partition.metadata"), OpenMode::Create).unwrap();
    let opened = open_unclean(&env, small_segments(), Offset(0)).unwrap();
    assert_eq!((opened.log.log_end_offset(), opened.log.topic_id()), (Offset(0), None));
}

/// Seeds 2145 and 8363: a log without a topic id began anew, and then the host lost its power: the empty segment is
/// what is left, beside checkpoints of a deleted topic. A log that Kafka closed before 2.8 keeps its offsets.
#[test]
fn scenario_42_an_unfinished_log_begins_at_the_start_whatever_the_checkpoints_say() {
    for (clean_shutdown, start) in [(false, Offset(0)), (true, Offset(12))] {
        let env = MemoryEnv::new();
        env.create_directory(&directory()).unwrap();
        env.open(&segment(0, "log"), OpenMode::Create).unwrap();
        let options = OpenOptions {
            clean_shutdown,
            log_start: Offset(12),
            recovery_point: Offset(12),
            high_watermark: Offset(12),
            ..OpenOptions::unclean(NOW)
        };
        let opened = Log::open(env.clone(), directory(), partition(), small_segments(), options).unwrap();
        assert_eq!((opened.log.log_start_offset(), opened.high_watermark, opened.log.topic_id()), (start, start, None));
    }
}

#[test]
fn what_a_failed_append_left_behind_a_rolled_segment_is_cut() {
    for left_over in
        [vec![1; 100], builder(&[NOW.0; 10], 20).placed_at(Offset(60), LeaderEpoch(0)).build().unwrap().to_vec()]
    {
        let env = MemoryEnv::new();
        let mut log = create(&env, small_segments());
        append_many(&mut log, 8, 5);
        let bytes = read_all(&log, Offset(0), Offset::MAX, 1 << 20);
        env.restart();
        let size = env.read_file(&segment(0, "log")).unwrap().len();
        overwrite(&env, segment(0, "log"), size as u64, &left_over);
        let opened = open_unclean(&env, small_segments(), Offset(0)).unwrap();
        assert_eq!(opened.cut_bytes, left_over.len() as u64);
        assert_eq!(read_all(&opened.log, Offset(0), Offset::MAX, 1 << 20), bytes);
    }
}

#[test]
fn what_a_failed_roll_left_behind_hides_nothing() {
    for clean in [true, false] {
        for after in [2, 8] {
            let env = MemoryEnv::new();
            let mut log = create(&env, small_segments());
            append_many(&mut log, after, 5);
            let bytes = read_all(&log, Offset(0), Offset::MAX, 1 << 20);
            log.close(TICK).unwrap();
            env.restart();
            env.open(&segment(15, "log"), OpenMode::Create).unwrap();
            let log = if clean {
                open_clean(&env, small_segments())
            } else {
                open_unclean(&env, small_segments(), Offset(18)).unwrap().log
            };
            assert_eq!(read_all(&log, Offset(0), Offset::MAX, 700), bytes, "clean {clean}, {after} batches");
            assert!(!env.exists(&segment(15, "log")).unwrap());
        }
    }
}

/// Seed 11719 of `compaction_model`: a follower's log, whose leader had compacted the offsets from 3 to 9, is cut to 5.
/// The segment that begins next must not leave a gap behind the one before it, which would stand for lost records.
#[test]
fn a_segment_behind_a_cut_within_a_gap_begins_where_the_records_end() {
    let env = MemoryEnv::new();
    let mut log = create(&env, small_segments());
    append(&mut log, batch(&[NOW.0; 3], 150));
    let mut behind_gap = batch(&[NOW.0; 3], 150);
    ottla_protocol::record_batch::patch_offset_and_epoch(&mut behind_gap, Offset(10), EPOCH);
    log.append_as_follower(&behind_gap, EPOCH, NOW).unwrap();
    assert!(log.truncate_to(Offset(5), NOW).unwrap());
    assert_eq!(append(&mut log, batch(&[NOW.0; 10], 150)), Offset(5));
    assert_eq!((log.segment_count(), log.active_segment_base()), (2, Offset(3)));
    env.restart();
    let log = open_unclean(&env, small_segments(), Offset(0)).unwrap().log;
    assert_eq!(log.log_end_offset(), Offset(15));
    assert_eq!(offsets(&read_all(&log, Offset(0), Offset(15), 1 << 20)), [(0, 2), (5, 14)]);
}
