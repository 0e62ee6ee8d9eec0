//! Compaction: which records stay, which are removed and when, and that a crash at any point leaves one of the two
//! states.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use common::*;
use ottla_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use ottla_protocol::record_batch::{BatchBuilder, BatchHeader, Batches, Compression, Header, Record};
use ottla_storage::compaction::{CleanError, CleanerLimits, NextLook};
use ottla_storage::{Env, File, Log, LogConfig, MemoryEnv};

const DAY_MS: i64 = 86_400_000;

fn config() -> LogConfig {
    LogConfig { compact: true, deletes: false, min_cleanable_dirty_ppm: 0, ..(*small_segments()).clone() }
}

fn compacted<E: Env>(env: &E) -> Log<E> {
    create(env, Arc::new(config()))
}

/// Appends `count` batches of three records whose keys come round again and again.
fn append_rounds<E: Env>(log: &mut Log<E>, count: usize, keys: usize) {
    for number in 0..count {
        let offset = log.log_end_offset().0 as usize;
        let texts: Vec<_> = (0..3).map(|n| (format!("key {}", (offset + n) % keys), format!("{number} {n}"))).collect();
        let records: Vec<_> = texts.iter().map(|(key, value)| (key.as_str(), Some(value.as_str()))).collect();
        append(log, keyed(&records, NOW.0).build().unwrap().to_vec());
    }
}

/// The last record of every key.
fn latest(records: &[Record]) -> BTreeMap<Vec<u8>, Record> {
    records.iter().map(|record| (record.key.clone().unwrap().to_vec(), record.clone())).collect()
}

fn headers(bytes: &[u8]) -> Vec<BatchHeader> {
    Batches::new(bytes).map(|batch| batch.unwrap().header).collect()
}

fn log_bytes<E: Env>(log: &Log<E>) -> Vec<u8> {
    read_all(log, log.log_start_offset(), Offset::MAX, 1 << 20)
}

#[test]
fn of_every_key_the_last_record_stays() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    append_rounds(&mut log, 100, 10);
    let before = records(&log, Offset(0));
    let segments = log.segment_count();
    let active = log.active_segment_base();
    let checkpoint = clean(&env, &mut log, None, NOW);
    assert_eq!(checkpoint, active);
    let after = records(&log, Offset(0));
    assert_eq!(latest(&after), latest(&before));
    let below: Vec<_> = after.iter().filter(|record| record.offset < active).collect();
    assert_eq!(below.len(), 10, "of each key one");
    assert!(below.iter().all(|record| before.contains(record)), "unchanged");
    // Groups are formed by the sizes before a cleaning: the next cleaning merges the small results of the last one.
    clean(&env, &mut log, Some(Offset(0)), NOW);
    assert!(log.segment_count() < segments, "small segments become one");
    assert_eq!(records(&log, Offset(0)), after);
    assert_eq!(
        after.iter().filter(|it| it.offset >= active).count() as u64,
        log.log_end_offset().distance_from(active)
    );
    // From everywhere the same is read.
    for from in 0..log.log_end_offset().0 {
        let expected: Vec<_> = after.iter().filter(|record| record.offset.0 >= from).cloned().collect();
        let mut read = records(&log, Offset(from));
        read.retain(|record| record.offset.0 >= from);
        assert_eq!(read, expected);
    }
    let dirt = log.dirt(Some(checkpoint), log.log_end_offset(), NOW).unwrap();
    assert!(!dirt.is_worth_it() && dirt.next_look == NextLook::AfterRoll);
}

#[test]
fn cleaning_twice_changes_nothing_and_rewrites_nothing() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    append_rounds(&mut log, 60, 50);
    for _ in 0..3 {
        clean(&env, &mut log, None, NOW);
    }
    let (bytes, names) = (log_bytes(&log), file_names(&env));
    clean(&env, &mut log, None, NOW);
    assert!(log_bytes(&log) == bytes);
    assert_eq!(file_names(&env), names);
}

#[test]
fn what_is_written_later_counts() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    let mut checkpoint = None;
    for _ in 0..10 {
        append_rounds(&mut log, 20, 7);
        let before = latest(&records(&log, Offset(0)));
        checkpoint = Some(clean(&env, &mut log, checkpoint, NOW));
        assert_eq!(latest(&records(&log, Offset(0))), before);
    }
    assert!(log.size_bytes() < 8_000);
}

#[test]
fn a_log_whose_keys_do_not_fit_takes_several_passes() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    append_rounds(&mut log, 300, 200);
    log.flush(TICK).unwrap();
    let before = latest(&records(&log, Offset(0)));
    let limits = CleanerLimits { map_bytes: 60 * 24, ..CleanerLimits::default() };
    let (active, end) = (log.active_segment_base(), log.log_end_offset());
    let tiny = CleanerLimits { map_bytes: 1, ..limits };
    let refused = clean_within(&env, &mut log, None, end, NOW, tiny);
    assert!(matches!(refused, Err(CleanError::MapTooSmall)));
    let (mut checkpoint, mut passes) = (None, 0);
    while checkpoint != Some(active) {
        let (reached, stats) = clean_within(&env, &mut log, checkpoint, end, NOW, limits).unwrap();
        assert!(stats.keys <= 60 && Some(reached) > checkpoint);
        checkpoint = Some(reached);
        assert_eq!(latest(&records(&log, Offset(0))), before);
        passes += 1;
    }
    assert!(passes > 3);
    assert_eq!(records(&log, Offset(0)).iter().filter(|record| record.offset < active).count(), 200);
}

#[test]
fn tombstones_live_as_long_as_promised() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    append(&mut log, keyed(&[("a", Some("1")), ("b", Some("2"))], NOW.0).build().unwrap().to_vec());
    append(&mut log, keyed(&[("a", None)], NOW.0).build().unwrap().to_vec());
    append_many(&mut log, 10, NOW.0);
    let key_of = |record: &Record| record.key.clone().map(|key| (key.to_vec(), record.value.is_some()));
    let keys = |log: &Log<MemoryEnv>| -> Vec<_> { records(log, Offset(0)).iter().filter_map(key_of).collect() };
    let (a, b) = ((b"a".to_vec(), false), (b"b".to_vec(), true));
    let horizon = |log: &Log<MemoryEnv>| {
        headers(&log_bytes(log))
            .iter()
            .find(|header| header.attributes.has_delete_horizon())
            .map(|it| it.base_timestamp)
    };

    clean(&env, &mut log, None, NOW);
    assert_eq!(keys(&log), [b.clone(), a.clone()], "the value is gone, the tombstone stays");
    let expected = Some(TimestampMs(NOW.0 + DAY_MS));
    assert_eq!(horizon(&log), expected, "from the first cleaning on its time runs");
    clean(&env, &mut log, None, TimestampMs(NOW.0 + DAY_MS - 1));
    assert_eq!((keys(&log), horizon(&log)), (vec![b.clone(), a], expected));
    clean(&env, &mut log, None, TimestampMs(NOW.0 + DAY_MS));
    assert_eq!((keys(&log), horizon(&log)), (vec![b], None));
}

#[test]
fn headers_timestamps_and_codecs_survive() {
    let header = |key: &str, value: Option<&'static [u8]>| Header { key: key.into(), value: value.map(Into::into) };
    for &codec in Compression::ALL {
        let env = MemoryEnv::new();
        let mut log = compacted(&env);
        for round in 0..30_i64 {
            let mut batch = BatchBuilder::new().compression(codec);
            for key in 0..5_i64 {
                let headers =
                    [header("h", Some(b"1")), header("h", None), header("g", Some(b"")), header("h", Some(b"2"))];
                let key_bytes = (round * 2 + key).to_be_bytes();
                batch.push(TimestampMs(round * 10 + key % 2), Some(&key_bytes), Some(&[7; 40]), &headers);
            }
            append(&mut log, batch.build().unwrap().to_vec());
        }
        let (before, before_bytes) = (latest(&records(&log, Offset(0))), log_bytes(&log));
        let active = log.active_segment_base();
        clean(&env, &mut log, None, NOW);
        let after = records(&log, Offset(0));
        assert_eq!(latest(&after), before, "{codec:?}");
        assert!(after.iter().all(|record| record.headers.len() == 4));
        let old: BTreeMap<_, _> = headers(&before_bytes).into_iter().map(|it| (it.base_offset, it)).collect();
        for new in headers(&log_bytes(&log)).iter().filter(|new| new.base_offset < active) {
            let old = old[&new.base_offset];
            assert_eq!((new.last_offset(), new.base_timestamp), (old.last_offset(), old.base_timestamp));
            assert_eq!(new.compression(), Ok(codec));
            assert_eq!(new.partition_leader_epoch, old.partition_leader_epoch);
        }
    }
}

#[test]
fn nothing_above_the_stable_offset_nor_of_the_active_segment_is_touched() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    append_rounds(&mut log, 100, 3);
    let bytes = log_bytes(&log);
    // Nothing is on disk yet.
    let dirt = log.dirt(None, log.log_end_offset(), NOW).unwrap();
    assert_eq!((dirt.cleanable_bytes, dirt.next_look), (0, NextLook::Soon));
    log.flush(TICK).unwrap();
    let stable = Offset(100);
    let (checkpoint, _) = clean_within(&env, &mut log, None, stable, NOW, CleanerLimits::default()).unwrap();
    assert!(checkpoint <= stable && checkpoint > Offset(50));
    let tail = |bytes: &[u8]| -> Vec<_> {
        headers(bytes).into_iter().filter(|header| header.base_offset >= checkpoint).collect()
    };
    assert_eq!(tail(&log_bytes(&log)), tail(&bytes));
    assert_eq!(log.dirt(Some(checkpoint), stable, NOW).unwrap().next_look, NextLook::Soon);
}

#[test]
fn lags_delay_and_force_a_cleaning() {
    let env = MemoryEnv::new();
    let lags = LogConfig { min_compaction_lag_ms: 1_000, max_compaction_lag_ms: 5_000, ..config() };
    let mut log = create(&env, Arc::new(LogConfig { min_cleanable_dirty_ppm: 1_000_000, ..lags }));
    append_rounds(&mut log, 60, 3);
    log.flush(TICK).unwrap();
    let end = log.log_end_offset();
    let dirt = |log: &mut Log<MemoryEnv>, after: i64| log.dirt(None, end, TimestampMs(NOW.0 + after)).unwrap();
    let young = dirt(&mut log, 999);
    assert_eq!((young.cleanable_bytes, young.next_look), (0, NextLook::At(TimestampMs(NOW.0 + 1_000))));
    let older = dirt(&mut log, 1_000);
    assert!(older.cleanable_bytes > 0 && !older.is_worth_it(), "the ratio cannot be above 1");
    assert_eq!(older.next_look, NextLook::At(TimestampMs(NOW.0 + 5_000)));
    let overdue = dirt(&mut log, 5_001);
    assert!(overdue.is_overdue && overdue.is_worth_it());
}

#[test]
fn a_checkpoint_that_cannot_be_is_not_believed() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    append_rounds(&mut log, 30, 3);
    log.flush(TICK).unwrap();
    let end = log.log_end_offset();
    for wrong in [end + 1, Offset(-1)] {
        let dirt = log.dirt(Some(wrong), end, NOW).unwrap();
        assert!(dirt.checkpoint_was_wrong && dirt.first_dirty == Offset(0));
    }
    log.advance_log_start(Offset(20));
    assert_eq!(log.dirt(Some(Offset(5)), end, NOW).unwrap().first_dirty, Offset(20));
}

#[test]
fn the_end_and_the_sequences_survive() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    let keyed_of = |producer: i64, sequence: i32| {
        keyed(&[("k", Some("v")), ("l", Some("v"))], NOW.0)
            .producer(ProducerId(producer), ProducerEpoch(1), sequence)
            .build()
            .unwrap()
            .to_vec()
    };
    for round in 0..20 {
        append(&mut log, keyed_of(1, round * 2));
    }
    for round in 0..40 {
        append(&mut log, keyed_of(2, round * 2));
    }
    let (active, end) = (log.active_segment_base(), log.log_end_offset());
    clean(&env, &mut log, None, NOW);
    let batches: Vec<_> = headers(&log_bytes(&log)).into_iter().filter(|header| header.base_offset < active).collect();
    let of_first: Vec<_> = batches.iter().filter(|header| header.producer_id == ProducerId(1)).collect();
    assert_eq!((of_first.len(), of_first[0].record_count, of_first[0].last_sequence()), (1, 0, 39), "an empty batch");
    assert_eq!(batches.last().unwrap().next_offset(), active, "segments go on from each other");
    // Without snapshots: from the batches alone.
    env.restart();
    for name in file_names(&env).iter().filter(|name| name.ends_with(".snapshot")) {
        env.remove_file(&directory().join(name)).unwrap();
    }
    let log = open_unclean(&env, Arc::new(config()), Offset(0)).unwrap().log;
    assert_eq!(log.log_end_offset(), end);
    assert_eq!(log.producers().last_of(ProducerId(1)), Some((ProducerEpoch(1), 39)));
    assert_eq!(log.producers().last_of(ProducerId(2)), Some((ProducerEpoch(1), 79)));
}

#[test]
fn indexes_of_a_cleaned_segment_answer_as_a_scan_does() {
    let env = MemoryEnv::new();
    let mut log = create(&env, Arc::new(LogConfig { segment_bytes: 20_000, ..config() }));
    for number in 0..400_i64 {
        let key = format!("{}", number % 150);
        append(&mut log, keyed(&[(&key, Some("some value"))], 1_000 + number).build().unwrap().to_vec());
    }
    clean(&env, &mut log, None, NOW);
    let all = records(&log, Offset(0));
    let check = |log: &Log<MemoryEnv>| {
        for from in 0..400 {
            let first = records(log, Offset(from)).into_iter().find(|record| record.offset.0 >= from);
            assert_eq!(first.as_ref(), all.iter().find(|record| record.offset.0 >= from));
        }
        for timestamp in (990..1_410).map(TimestampMs) {
            let found = log.offset_for_timestamp(timestamp).unwrap().map(|found| found.offset);
            assert_eq!(found, all.iter().find(|record| record.timestamp >= timestamp).map(|record| record.offset));
        }
        assert_eq!(log.offset_of_max_timestamp().unwrap().unwrap().offset, Offset(399));
    };
    check(&log);
    log.close(TICK).unwrap();
    env.restart();
    check(&open_clean(&env, Arc::new(config())));
}

#[test]
fn readers_in_flight_keep_reading() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    append_rounds(&mut log, 60, 3);
    let slice = log.read(Offset(0), 1 << 20, log.log_end_offset(), true).unwrap();
    let bytes = slice.read().unwrap();
    clean(&env, &mut log, None, NOW);
    assert_ne!(&log_bytes(&log)[..100], &bytes[..100]);
    assert_eq!(slice.read().unwrap(), bytes, "of a file that has no name any more");
}

#[test]
fn a_truncation_or_an_end_in_between_ends_the_cleaning() {
    type Interference = fn(&mut Log<MemoryEnv>);
    let interferences: [(&str, Interference); 4] = [
        ("truncated", |log| assert!(log.truncate_to(Offset(30), NOW).unwrap())),
        ("started over", |log| log.truncate_fully_and_start_at(Offset(500), None).unwrap()),
        ("closed", |log| log.close(TICK).unwrap()),
        ("retention", |log| {
            log.advance_log_start(Offset(60));
            let _ = log.delete_old_segments(log.log_end_offset(), NOW).unwrap();
        }),
    ];
    for (name, interfere) in interferences {
        let env = MemoryEnv::new();
        let mut log = compacted(&env);
        append_rounds(&mut log, 100, 3);
        log.flush(TICK).unwrap();
        let dirt = log.dirt(None, log.log_end_offset(), NOW).unwrap();
        let job = log.begin_cleaning(&dirt, NOW).unwrap();
        let pace = &mut |_| ControlFlow::Continue(());
        let mut cleaning = job.index(CleanerLimits::default(), pace).unwrap();
        let cleaned = cleaning.next(pace).unwrap().unwrap();
        interfere(&mut log);
        let (bytes, end) = (log_bytes(&log), log.log_end_offset());
        assert!(matches!(log.swap_in(cleaned), Err(CleanError::Aborted)), "{name}");
        assert!(matches!(cleaning.next(pace), Ok(_) | Err(CleanError::Aborted)), "{name}");
        assert_eq!((log_bytes(&log), log.log_end_offset()), (bytes, end), "{name}");
        assert!(!file_names(&env).iter().any(|it| it.ends_with(".swap") || it.contains("00.log.cleaned")), "{name}");
    }
}

#[test]
fn a_damaged_batch_ends_the_cleaning_and_is_named() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    append_rounds(&mut log, 60, 3);
    log.flush(TICK).unwrap();
    let path = directory().join("00000000000000000000.log");
    env.open(&path, ottla_storage::env::OpenMode::Write).unwrap().write_all_at(&[0xEE], 300).unwrap();
    let end = log.log_end_offset();
    match clean_within(&env, &mut log, None, end, NOW, CleanerLimits::default()) {
        Err(CleanError::Corrupt { file, position }) => assert_eq!((file, position < 300), (path, true)),
        other => panic!("{other:?}"),
    }
    assert!(!file_names(&env).iter().any(|name| name.ends_with(".cleaned")));
}

#[test]
fn records_without_keys_go() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    append_many(&mut log, 30, NOW.0);
    let active = log.active_segment_base();
    clean(&env, &mut log, None, NOW);
    assert!(records(&log, Offset(0)).iter().all(|record| record.offset >= active));
    assert_eq!(log.epoch_history().latest_epoch(), LeaderEpoch(0));
}

#[test]
fn markers_stay_while_their_records_do() {
    let env = MemoryEnv::new();
    let mut log = compacted(&env);
    let transactional = |builder: BatchBuilder, sequence: i32| {
        builder.producer(ProducerId(5), ProducerEpoch(0), sequence).transactional()
    };
    let commit = || {
        let marker = BatchBuilder::new().record(NOW, Some(&[0, 0, 0, 1]), Some(&[0; 6]));
        transactional(marker, -1).control().build().unwrap().to_vec()
    };
    append(&mut log, transactional(keyed(&[("t", Some("1"))], NOW.0), 0).build().unwrap().to_vec());
    append(&mut log, commit());
    append(&mut log, keyed(&[("x", Some("x"))], NOW.0).build().unwrap().to_vec());
    append(&mut log, transactional(keyed(&[("t", Some("2"))], NOW.0), 1).build().unwrap().to_vec());
    append(&mut log, commit());
    append_many(&mut log, 10, NOW.0);
    let markers = |log: &Log<MemoryEnv>| -> Vec<_> {
        let all = headers(&log_bytes(log));
        all.iter().filter(|it| it.is_control() && it.record_count > 0).map(|it| it.base_offset.0).collect()
    };
    clean(&env, &mut log, None, NOW);
    assert_eq!(markers(&log), [1, 4], "the first transaction's record is gone only now");
    clean(&env, &mut log, None, NOW);
    assert_eq!(markers(&log), [1, 4], "the first marker has its horizon");
    clean(&env, &mut log, None, TimestampMs(NOW.0 + DAY_MS));
    assert_eq!(markers(&log), [4]);
    assert_eq!(records(&log, Offset(0)).iter().filter(|it| it.key.as_deref() == Some(b"t")).count(), 1);
}
