//! Scenario 32: compaction beside readers, and crashes at every operation on files.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use common::*;
use ottla_model::{Offset, TimestampMs};
use ottla_protocol::record_batch::Record;
use ottla_storage::compaction::{CleanError, CleanerLimits};
use ottla_storage::{Env, FaultyEnv, Log, LogConfig, MemoryEnv};

const DAY_MS: i64 = 86_400_000;
const KEYS: usize = 12;

fn config() -> Arc<LogConfig> {
    Arc::new(LogConfig { compact: true, deletes: false, min_cleanable_dirty_ppm: 0, ..(*small_segments()).clone() })
}

/// One more record: of each key in turn, now and then a tombstone.
fn append_record<E: Env>(log: &mut Log<E>, number: usize) {
    let key = format!("key {}", number * 7 % KEYS);
    let value = format!("value {number}");
    let value = (number % 5 != 3).then_some(value.as_str());
    append(log, keyed(&[(&key, value)], NOW.0).build().unwrap().to_vec());
}

/// The state of a reader of these records: the value of each key.
fn table<'r>(records: impl IntoIterator<Item = &'r Record>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut table = BTreeMap::new();
    for record in records {
        let key = record.key.clone().unwrap().to_vec();
        match &record.value {
            Some(value) => table.insert(key, value.to_vec()),
            None => table.remove(&key),
        };
    }
    table
}

/// Cleans all that can be cleaned, and calls `look` after each swap.
fn clean_watched<E: Env>(
    env: &E,
    log: &mut Log<E>,
    now: TimestampMs,
    mut look: impl FnMut(&Log<E>),
) -> Result<(), CleanError> {
    let dirt = log.dirt(None, log.log_end_offset(), now)?;
    let Some(job) = log.begin_cleaning(&dirt, now) else { return Ok(()) };
    let pace = &mut |_| ControlFlow::Continue(());
    let mut cleaning = job.index(CleanerLimits::default(), pace)?;
    while let Some(cleaned) = cleaning.next(pace)? {
        log.swap_in(cleaned)?.remove(env)?;
        look(log);
    }
    cleaning.finish().map(drop)
}

#[test]
fn scenario_32_a_reader_through_a_cleaned_range_misses_no_last_value() {
    // Readers that start at different times and read a few batches between any two steps of the cleaner.
    for step_bytes in [1, 300, 2_500] {
        let env = MemoryEnv::new();
        let mut log = create(&env, config());
        let mut readers: Vec<(Offset, Vec<Record>)> = Vec::new();
        let read_on = |log: &Log<MemoryEnv>, readers: &mut Vec<(Offset, Vec<Record>)>| {
            for (next, seen) in readers {
                let slice = log.read(*next, step_bytes, log.log_end_offset(), true).unwrap();
                let bytes = slice.read().unwrap();
                for batch in ottla_protocol::record_batch::Batches::new(&bytes).map_while(Result::ok) {
                    *next = batch.header.next_offset();
                    let batch = bytes::Bytes::copy_from_slice(batch.bytes);
                    let records = ottla_protocol::record_batch::Records::new(&batch, 1 << 20).unwrap();
                    seen.extend(records.map(|record| record.unwrap()));
                }
            }
        };
        for number in 0..400 {
            append_record(&mut log, number);
            if number % 40 == 0 {
                readers.push((Offset(0), Vec::new()));
            }
            if number % 30 == 29 {
                log.flush(TICK).unwrap();
                clean_watched(&env, &mut log, NOW, |log| read_on(log, &mut readers)).unwrap();
            }
            read_on(&log, &mut readers);
        }
        let all: Vec<Record> = records(&log, Offset(0));
        for _ in 0..500 {
            read_on(&log, &mut readers);
        }
        for (next, seen) in &readers {
            assert_eq!(*next, log.log_end_offset());
            assert!(seen.is_sorted_by_key(|record| record.offset), "in order, none twice");
            // Tombstones are kept for a day: a reader that is at most that late has the state of the log.
            assert_eq!(table(seen), table(&all));
        }
    }
}

/// A log with several groups to clean, all of it on disk.
fn dirty_log(env: &FaultyEnv) -> Log<FaultyEnv> {
    env.create_directory(directory().parent().unwrap()).unwrap();
    env.sync_directory(std::path::Path::new("/")).unwrap();
    let mut log = create(env, config());
    for number in 0..150 {
        append_record(&mut log, number);
    }
    log.flush(TICK).unwrap();
    log
}

#[test]
fn scenario_32_a_crash_in_the_swap_leaves_either_state() {
    // Twice: the second cleaning merges the small results of the first one, and removes tombstones.
    let rounds = [NOW, TimestampMs(NOW.0 + 2 * DAY_MS)];
    for power_is_lost in [false, true] {
        let mut operations = 0;
        loop {
            let env = FaultyEnv::new(operations);
            let mut log = dirty_log(&env);
            let mut states = vec![read_all(&log, Offset(0), Offset::MAX, 1 << 20)];
            let (end, recovery_point) = (log.log_end_offset(), log.recovery_point());
            let expected = table(&records(&log, Offset(0)));
            env.die_after(operations);
            let run = rounds.iter().try_for_each(|now| {
                clean_watched(&env, &mut log, *now, |log| states.push(read_all(log, Offset(0), Offset::MAX, 1 << 20)))
            });
            let survived = run.is_ok();
            drop(log);
            // After a restart: the same operations without a crash give the allowed states.
            {
                let env = FaultyEnv::new(operations);
                let mut log = dirty_log(&env);
                for now in rounds {
                    let look = |log: &Log<FaultyEnv>| states.push(read_all(log, Offset(0), Offset::MAX, 1 << 20));
                    clean_watched(&env, &mut log, now, look).unwrap();
                }
            }
            if power_is_lost {
                env.lose_power()
            } else {
                env.kill()
            }
            let opened = open_unclean(&env, config(), recovery_point).unwrap();
            let mut log = opened.log;
            assert_eq!((log.log_end_offset(), opened.cut_bytes), (end, 0), "after {operations} operations");
            let bytes = read_all(&log, Offset(0), Offset::MAX, 1 << 20);
            assert!(states.contains(&bytes), "neither state, after {operations} operations");
            let names = file_names(&env);
            let left_over = |name: &String| [".cleaned", ".swap", ".deleted"].iter().any(|it| name.ends_with(it));
            assert!(!names.iter().any(left_over), "{names:?}");
            // Every index answers as a scan would, and the log accepts appends.
            let all = records(&log, Offset(0));
            for from in (0..end.0).step_by(3).map(Offset) {
                let first = records(&log, from).into_iter().find(|record| record.offset >= from);
                assert_eq!(first.as_ref(), all.iter().find(|record| record.offset >= from));
            }
            log.flush(TICK).unwrap();
            clean_watched(&env, &mut log, NOW, |_| ()).unwrap();
            assert_eq!(table(&records(&log, Offset(0))), expected);
            append_record(&mut log, 3);
            log.close(TICK).unwrap();
            env.kill();
            assert_eq!(open_clean(&env, config()).log_end_offset(), end + 1);
            if survived {
                break;
            }
            operations += 1;
        }
        assert!(operations > 60, "{operations} operations are too few for several swaps");
    }
}
