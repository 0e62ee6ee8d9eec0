//! Transactions in a log: what a reader of committed records gets, and the index of aborted transactions through
//! restarts, crashes, truncation, retention and compaction.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::*;
use ottla_model::TransactionResult::{Abort, Commit};
use ottla_model::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use ottla_protocol::record_batch::{BatchHeader, Batches, TimestampType};
use ottla_replication::{AppendTerms, EndMarker, ProducerError, VerificationRequest};
use ottla_storage::env::OpenMode;
use ottla_storage::{AbortedTransaction, AppendError, Env, FaultyEnv, File, Log, LogConfig, MemoryEnv, OpenOptions};

fn log(env: &MemoryEnv) -> Log<MemoryEnv> {
    create(env, small_segments())
}

fn all_committed<E: Env>(log: &Log<E>) -> Vec<i64> {
    let end = log.log_end_offset();
    read_committed(log, log.log_start_offset(), end, 300).unwrap().into_iter().map(|offset| offset.0).collect()
}

fn index_name(base: i64) -> std::path::PathBuf {
    directory().join(format!("{base:020}.txnindex"))
}

fn entry(producer: i64, first: i64, last: i64, last_stable: i64) -> Vec<u8> {
    let numbers = [producer, first, last, last_stable].map(i64::to_be_bytes);
    [&[0, 0][..], &numbers.concat()].concat()
}

#[test]
fn a_reader_of_committed_records_skips_aborted_ones() {
    let env = MemoryEnv::new();
    let mut log = log(&env);
    append(&mut log, transactional(1, 0, 0)); // 0
    append(&mut log, batch(&[NOW.0], 5)); // 1
    append(&mut log, transactional(2, 0, 0)); // 2
    append(&mut log, transactional(1, 0, 1)); // 3
    assert_eq!(log.last_stable_offset(log.log_end_offset()), Offset(0));
    end(&mut log, 2, 0, Commit); // 4
    assert_eq!(log.last_stable_offset(log.log_end_offset()), Offset(0), "the first one is still open");
    end(&mut log, 1, 0, Abort); // 5
    append(&mut log, batch(&[NOW.0], 5)); // 6
    assert_eq!(log.last_stable_offset(Offset(5)), Offset(0), "the marker is not replicated");
    assert_eq!(log.last_stable_offset(Offset(6)), Offset(6));
    assert_eq!(all_committed(&log), [1, 2, 6]);
    log.close(TICK).unwrap();
    assert_eq!(env.read_file(&index_name(0)).unwrap(), entry(1, 0, 5, 6));
    env.restart();
    assert_eq!(all_committed(&open_clean(&env, small_segments())), [1, 2, 6]);
}

#[test]
fn there_is_no_index_where_nothing_is_aborted() {
    let env = MemoryEnv::new();
    let mut log = log(&env);
    for sequence in 0..40 {
        append(&mut log, transactional(1, 0, sequence));
        end(&mut log, 1, 0, Commit);
        end(&mut log, 2, 0, Abort);
    }
    assert!(log.segment_count() > 2);
    assert!(log.aborted_search(Offset(0), log.log_end_offset()).is_none());
    log.close(TICK).unwrap();
    assert!(!file_names(&env).iter().any(|name| name.ends_with(".txnindex")), "an empty transaction leaves no entry");
}

#[test]
fn a_marker_in_a_later_segment_is_found() {
    let env = MemoryEnv::new();
    let mut log = log(&env);
    append(&mut log, transactional(1, 0, 0));
    append_many(&mut log, 30, NOW.0);
    assert!(log.segment_count() > 3);
    assert_eq!(log.last_stable_offset(log.log_end_offset()), Offset(0));
    end(&mut log, 1, 0, Abort);
    append_many(&mut log, 30, NOW.0);
    assert_eq!(all_committed(&log).first(), Some(&1));
    let with_index = file_names(&env).iter().filter(|name| name.ends_with(".txnindex")).count();
    assert_eq!(with_index, 1, "written when its segment was closed");
}

#[test]
fn a_reader_far_behind_gets_only_the_transactions_of_its_records() {
    let env = MemoryEnv::new();
    let mut log = create(&env, Arc::new(LogConfig { producer_id_expiration_ms: i64::MAX, ..LogConfig::default() }));
    for sequence in 0..3_000 {
        append(&mut log, transactional(1, 0, sequence));
        end(&mut log, 1, 0, Abort);
    }
    append(&mut log, batch(&[NOW.0], 5));
    let end = log.log_end_offset();
    for (from, expected) in [(0, 1..=20), (2_000, 1..=20), (5_996, 2..=2)] {
        let search = log.aborted_search(Offset(from), end).unwrap();
        assert_eq!(search.needs_disk(), from < 4_000, "the newest are in memory");
        let slice = log.read(Offset(from), 2_000, end, true).unwrap();
        let found = search.run(&slice).unwrap().unwrap();
        assert!(expected.contains(&found.len()), "{} from {from} on", found.len());
        assert_eq!(found[0].first_offset, Offset(from));
    }
    assert!(log.aborted_search(Offset(6_000), end).is_none());
    assert_eq!(all_committed(&log), [6_000]);
}

#[test]
fn a_slice_of_a_log_that_lost_segments_meanwhile_is_not_believed() {
    let env = MemoryEnv::new();
    let mut log = log(&env);
    append(&mut log, transactional(1, 0, 0));
    end(&mut log, 1, 0, Abort);
    append_many(&mut log, 30, NOW.0);
    let upper = log.log_end_offset();
    let search = log.aborted_search(Offset(0), upper).unwrap();
    let slice = log.read(Offset(0), 1_000, upper, true).unwrap();
    log.advance_log_start(Offset(100));
    let deleted = log.delete_old_segments(upper, NOW).unwrap();
    assert!(!deleted.is_empty());
    deleted.remove(&env).unwrap();
    assert_eq!(search.run(&slice).unwrap(), None);
}

#[test]
fn truncation_opens_a_transaction_again() {
    let env = MemoryEnv::new();
    let mut log = log(&env);
    append_many(&mut log, 10, NOW.0);
    append(&mut log, transactional(1, 0, 0)); // 100
    let marker = end(&mut log, 1, 0, Abort); // 101
    append_many(&mut log, 30, NOW.0);
    log.high_watermark_moved(marker);
    assert!(log.truncate_to(marker, NOW).unwrap());
    assert_eq!(log.last_stable_offset(log.log_end_offset()), Offset(100));
    end(&mut log, 1, 0, Commit);
    assert_eq!(all_committed(&log).last(), Some(&100));
    assert!(log.aborted_search(Offset(0), log.log_end_offset()).is_none());
}

#[test]
fn after_a_restart_a_marker_that_is_not_replicated_decides_nothing() {
    let env = MemoryEnv::new();
    let mut log = log(&env);
    append_many(&mut log, 2, NOW.0);
    append(&mut log, transactional(1, 0, 0)); // 20
    append_many(&mut log, 30, NOW.0);
    let marker = end(&mut log, 1, 0, Commit);
    append_many(&mut log, 10, NOW.0);
    for is_clean in [true, false] {
        if is_clean {
            log.close(TICK).unwrap();
        }
        env.restart();
        let options = OpenOptions {
            clean_shutdown: is_clean,
            high_watermark: marker,
            recovery_point: Offset(if is_clean { 0 } else { marker.0 }),
            ..OpenOptions::unclean(NOW)
        };
        log = Log::open(env.clone(), directory(), partition(), small_segments(), options).unwrap().log;
        assert_eq!(log.last_stable_offset(marker), Offset(20));
        log.high_watermark_moved(marker.next());
        assert_eq!(log.last_stable_offset(marker.next()), marker.next());
    }
}

#[test]
fn deleted_records_bound_no_reader() {
    let env = MemoryEnv::new();
    let mut log = log(&env);
    append(&mut log, transactional(1, 0, 0));
    append_many(&mut log, 10, NOW.0);
    log.advance_log_start(Offset(50));
    assert_eq!(log.last_stable_offset(log.log_end_offset()), Offset(50), "the transaction may have records there");
    let _ = log.delete_old_segments(log.log_end_offset(), NOW).unwrap();
    log.close(TICK).unwrap();
    env.restart();
    let mut log = open_clean(&env, small_segments());
    assert_eq!(log.last_stable_offset(log.log_end_offset()), log.log_start_offset());
    end(&mut log, 1, 0, Abort);
    assert_eq!(log.last_stable_offset(log.log_end_offset()), log.log_end_offset());
}

#[test]
fn a_damaged_index_is_rebuilt_when_the_log_is_opened() {
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage, bool); 5] = [
        ("cut off", |bytes| bytes[..bytes.len() - 1].to_vec(), true),
        ("zeros", |bytes| [bytes, vec![0; 34]].concat(), true),
        ("another version", |bytes| [&[9, 9][..], &bytes[2..]].concat(), true),
        ("not in order", |bytes| [&bytes[..], &bytes[..34]].concat(), true),
        // Only the records show it: a clean end is believed.
        ("another transaction's", |bytes| [&bytes[..bytes.len() - 34], &entry(8, 3, 4, 5)].concat(), false),
    ];
    for (name, damage, is_seen_after_a_clean_end) in damages {
        for is_clean in [true, false] {
            if is_clean && !is_seen_after_a_clean_end {
                continue;
            }
            let env = MemoryEnv::new();
            let mut log = log(&env);
            append(&mut log, transactional(2, 0, 0)); // began before: the snapshot knows it
            append_many(&mut log, 12, NOW.0);
            let first = log.active_segment_base();
            append(&mut log, transactional(1, 0, 0));
            end(&mut log, 1, 0, Abort);
            end(&mut log, 2, 0, Abort);
            append_many(&mut log, 30, NOW.0);
            assert!(log.segment_count() > 4);
            log.flush(TICK).unwrap();
            let (point, expected) = (log.recovery_point(), all_committed(&log));
            if is_clean {
                log.close(TICK).unwrap();
            }
            let index = env.read_file(&index_name(first.0)).unwrap();
            assert_eq!(index.len(), 68);
            let damaged = damage(index.clone());
            let file = env.open(&index_name(first.0), OpenMode::Truncate).unwrap();
            file.write_all_at(&damaged, 0).unwrap();
            env.restart();
            let log = match is_clean {
                true => open_clean(&env, small_segments()),
                false => open_unclean(&env, small_segments(), point).unwrap().log,
            };
            assert_eq!(env.read_file(&index_name(first.0)).unwrap(), index, "{name}");
            assert_eq!(all_committed(&log), expected, "{name}");
        }
    }
}

/// A directory that was copied without its index files: a missing index of aborted transactions reads as "nothing was
/// aborted".
#[test]
fn indexes_that_are_gone_are_rebuilt_with_that_of_aborted_transactions() {
    for (has_snapshots, is_clean) in [(true, true), (true, false), (false, true), (false, false)] {
        let env = MemoryEnv::new();
        let mut log = log(&env);
        append(&mut log, transactional(2, 0, 0));
        for sequence in 0..4 {
            append_many(&mut log, 12, NOW.0);
            append(&mut log, transactional(1, 0, sequence));
            end(&mut log, 1, 0, Abort);
        }
        end(&mut log, 2, 0, Abort);
        append_many(&mut log, 30, NOW.0);
        log.flush(TICK).unwrap();
        let (point, expected) = (log.recovery_point(), all_committed(&log));
        if is_clean {
            log.close(TICK).unwrap();
        }
        let of_kind = |kind: &str| file_names(&env).into_iter().filter(|name| name.ends_with(kind)).collect::<Vec<_>>();
        assert!(of_kind(".txnindex").len() > 1);
        // All three kinds.
        let mut gone = of_kind("index");
        if !has_snapshots {
            gone.extend(of_kind(".snapshot"));
        }
        for name in gone {
            env.remove_file(&directory().join(name)).unwrap();
        }
        env.restart();
        let mut log = match is_clean {
            true => open_clean(&env, small_segments()),
            false => open_unclean(&env, small_segments(), point).unwrap().log,
        };
        assert_eq!(all_committed(&log), expected, "snapshots: {has_snapshots}, clean: {is_clean}");
        log.close(TICK).unwrap();
        env.restart();
        assert_eq!(all_committed(&open_clean(&env, small_segments())), expected, "at the next start");
    }
}

#[test]
fn a_loss_of_power_brings_no_truncated_entry_back() {
    let env = FaultyEnv::new(7);
    env.create_directory(directory().parent().unwrap()).unwrap();
    env.sync_directory(std::path::Path::new("/")).unwrap();
    let mut log = create(&env, small_segments());
    append(&mut log, transactional(1, 0, 0)); // 0
    end(&mut log, 1, 0, Abort); // 1
    log.close(TICK).unwrap();
    env.kill();
    let mut log = open_clean(&env, small_segments());
    assert!(log.truncate_to(Offset(1), NOW).unwrap());
    log.close(TICK).unwrap();
    env.lose_power();
    let mut log = open_clean(&env, small_segments());
    end(&mut log, 1, 0, Commit);
    assert_eq!(all_committed(&log), [0]);
}

#[test]
fn an_unclean_end_rebuilds_the_index_of_the_unsynced_part() {
    let env = MemoryEnv::new();
    let mut log = log(&env);
    append(&mut log, transactional(1, 0, 0));
    append_many(&mut log, 10, NOW.0);
    log.flush(TICK).unwrap();
    let point = log.recovery_point();
    for sequence in 1..40 {
        append(&mut log, transactional(1, 0, sequence));
        end(&mut log, 1, 0, if sequence % 3 == 0 { Commit } else { Abort });
    }
    let expected = all_committed(&log);
    for name in file_names(&env).iter().filter(|name| name.ends_with(".txnindex")) {
        env.open(&directory().join(name), OpenMode::Truncate).unwrap();
    }
    env.restart();
    let mut log = open_unclean(&env, small_segments(), point).unwrap().log;
    assert_eq!(all_committed(&log), expected);
    log.close(TICK).unwrap();
    env.restart();
    assert_eq!(all_committed(&open_clean(&env, small_segments())), expected);
}

#[test]
fn compaction_removes_aborted_records_and_keeps_their_markers_and_index() {
    let env = MemoryEnv::new();
    let config = Arc::new(LogConfig { compact: true, delete_retention_ms: 1_000, ..(*small_segments()).clone() });
    let mut log = create(&env, Arc::clone(&config));
    append(&mut log, transactional(1, 0, 0)); // 0
    append(&mut log, transactional(2, 0, 0)); // 1
    end(&mut log, 1, 0, Abort); // 2
    append(&mut log, transactional(1, 0, 1)); // 3
    end(&mut log, 2, 0, Commit); // 4
    for number in 0..100 {
        append(&mut log, keyed(&[(&format!("{}", number % 60), Some("v"))], NOW.0).build().unwrap().to_vec());
    }
    end(&mut log, 1, 0, Abort);
    let marker = log.log_end_offset() - 1;
    for number in 0..100 {
        append(&mut log, keyed(&[(&format!("{}", number % 60), Some("w"))], NOW.0).build().unwrap().to_vec());
    }
    let markers = |log: &Log<MemoryEnv>| -> Vec<i64> {
        let bytes = read_all(log, Offset(0), Offset::MAX, 1 << 20);
        let headers: Vec<BatchHeader> = Batches::new(&bytes).map(|batch| batch.unwrap().header).collect();
        headers.iter().filter(|it| it.is_control() && it.record_count > 0).map(|it| it.base_offset.0).collect()
    };
    let is_aborted = |offset: i64| [0, 3].contains(&offset);
    let all_records =
        |log: &Log<MemoryEnv>| -> Vec<i64> { records(log, Offset(0)).iter().map(|it| it.offset.0).collect() };
    clean(&env, &mut log, None, NOW);
    assert!(!all_records(&log).into_iter().any(is_aborted));
    assert_eq!(markers(&log), [2, 4, marker.0]);
    assert!(all_committed(&log).contains(&1));
    let aborted = log.aborted_search(Offset(0), log.log_end_offset()).expect("the index of the new segment");
    let slice = log.read(Offset(0), 1 << 20, log.log_end_offset(), true).unwrap();
    let first = AbortedTransaction {
        producer_id: ProducerId(1),
        first_offset: Offset(0),
        last_offset: Offset(2),
        last_stable: Offset(1),
    };
    assert_eq!(aborted.run(&slice).unwrap().unwrap()[0], first);
    // Nothing of the transactions is left: the markers get their horizon, and go when it has passed.
    clean(&env, &mut log, None, NOW);
    assert_eq!(markers(&log)[0], 2);
    log.close(TICK).unwrap();
    env.restart();
    let mut log = open_clean(&env, Arc::clone(&config));
    clean(&env, &mut log, None, TimestampMs(NOW.0 + 1_000));
    assert!(!markers(&log).contains(&2), "{:?}", markers(&log));
    assert!(markers(&log).contains(&4), "the committed record is still there");
    assert!(all_committed(&log).contains(&1));
}

#[test]
fn a_transactional_append_needs_its_verification_and_markers_their_epochs() {
    let env = MemoryEnv::new();
    let mut log = log(&env);
    let refused = log.append_as_leader(&mut transactional(1, 3, 0), EPOCH, NOW);
    assert!(matches!(refused, Err(AppendError::Producer(ProducerError::NotVerified { .. }))));
    let request = VerificationRequest {
        producer_id: ProducerId(1),
        producer_epoch: ProducerEpoch(3),
        base_sequence: 0,
        supports_epoch_bump: true,
    };
    let guard = log.begin_verification(&request, NOW).unwrap();
    let terms = AppendTerms { guard: guard.as_ref(), ..AppendTerms::CLIENT };
    // The log moves to another directory while the coordinator is asked.
    let mut moved = self::log(&MemoryEnv::new());
    moved.take_over(&mut log);
    let mut log = moved;
    log.append_on_terms(&mut transactional(1, 3, 0), EPOCH, &terms, NOW).unwrap();
    assert!(log.begin_verification(&request, NOW).unwrap().is_none(), "the transaction is open");
    let marker = |epoch, coordinator_epoch| EndMarker {
        producer_id: ProducerId(1),
        producer_epoch: ProducerEpoch(epoch),
        result: Commit,
        coordinator_epoch,
    };
    let mut append = |marker| log.append_marker(&marker, 2, EPOCH, TimestampType::CreateTime, NOW);
    let refused = append(marker(3, 9));
    assert!(matches!(refused, Err(AppendError::Producer(ProducerError::InvalidMarkerEpoch { .. }))));
    append(marker(4, 9)).unwrap();
    let refused = append(marker(5, 8));
    assert!(matches!(refused, Err(AppendError::Producer(ProducerError::CoordinatorFenced { .. }))));
    let end = log.log_end_offset();
    assert!(log.append_marker(&marker(5, 9), 2, LeaderEpoch(-1), TimestampType::CreateTime, NOW).is_err());
    assert_eq!((end, log.log_end_offset()), (Offset(2), Offset(2)));
}
