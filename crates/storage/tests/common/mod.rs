//! Helpers of the tests of the log.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ottla_model::{
    LeaderEpoch, MonotonicMs, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicId, TopicName,
    TopicPartition, TransactionResult,
};
use ottla_protocol::record_batch::{BatchBuilder, Batches, EndMarkerRecord, Record, Records, TimestampType};
use ottla_replication::{AppendTerms, EndMarker};
use ottla_storage::compaction::{CleanError, CleanerLimits, CleaningStats};
use ottla_storage::{Env, Log, LogConfig, OpenError, OpenOptions, Opened};

pub const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
pub const TICK: MonotonicMs = MonotonicMs(1);
pub const EPOCH: LeaderEpoch = LeaderEpoch(0);
pub const TOPIC_ID: TopicId = TopicId([7; 16]);

pub fn partition() -> TopicPartition {
    TopicPartition::new(TopicName::new("orders").unwrap(), PartitionId(3))
}

pub fn directory() -> PathBuf {
    PathBuf::from("/data/orders-3")
}

/// Small enough for a few batches to fill a segment and several index entries.
pub fn small_segments() -> Arc<LogConfig> {
    Arc::new(LogConfig {
        segment_bytes: 2_000,
        index_interval_bytes: 200,
        producer_id_expiration_ms: i64::MAX,
        ..LogConfig::default()
    })
}

pub fn create<E: Env>(env: &E, config: Arc<LogConfig>) -> Log<E> {
    Log::create(env.clone(), directory(), partition(), TOPIC_ID, config, NOW).unwrap()
}

pub fn open_clean<E: Env>(env: &E, config: Arc<LogConfig>) -> Log<E> {
    let options = OpenOptions { clean_shutdown: true, ..OpenOptions::unclean(NOW) };
    Log::open(env.clone(), directory(), partition(), config, options).unwrap().log
}

pub fn open_unclean<E: Env>(env: &E, config: Arc<LogConfig>, recovery_point: Offset) -> Result<Opened<E>, OpenError> {
    let options = OpenOptions { recovery_point, ..OpenOptions::unclean(NOW) };
    Log::open(env.clone(), directory(), partition(), config, options)
}

/// A batch of one record for each timestamp, each with a value of `value_bytes`.
pub fn batch(timestamps: &[i64], value_bytes: usize) -> Vec<u8> {
    builder(timestamps, value_bytes).build().unwrap().to_vec()
}

pub fn builder(timestamps: &[i64], value_bytes: usize) -> BatchBuilder {
    let value = vec![0xAB; value_bytes];
    timestamps
        .iter()
        .fold(BatchBuilder::new(), |builder, timestamp| builder.record(TimestampMs(*timestamp), None, Some(&value)))
}

pub fn idempotent(producer: i64, epoch: i16, sequence: i32, records: usize) -> Vec<u8> {
    let timestamps = vec![NOW.0; records];
    builder(&timestamps, 10).producer(ProducerId(producer), ProducerEpoch(epoch), sequence).build().unwrap().to_vec()
}

/// A client's batch, of a transaction or not, that no transaction coordinator is asked about.
pub const UNVERIFIED: AppendTerms<'_> = AppendTerms { verifies: false, ..AppendTerms::CLIENT };

pub fn append<E: Env>(log: &mut Log<E>, mut batch: Vec<u8>) -> Offset {
    let epoch = log.epoch_history().latest_epoch().max(EPOCH);
    log.append_on_terms(&mut batch, epoch, &UNVERIFIED, NOW).unwrap().first_offset
}

/// Ends the producer's transaction; returns the marker's offset.
pub fn end<E: Env>(log: &mut Log<E>, producer: i64, epoch: i16, result: TransactionResult) -> Offset {
    let marker = EndMarker {
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(epoch),
        result,
        coordinator_epoch: 0,
    };
    let leader_epoch = log.epoch_history().latest_epoch().max(EPOCH);
    log.append_marker(&marker, 1, leader_epoch, TimestampType::CreateTime, NOW).unwrap().first_offset
}

/// The data records that a consumer of committed records gets of `from..last stable offset`, by what it does with the
/// broker's answers; the offsets of the records. None if it must ask again, because segments went meanwhile.
pub fn read_committed<E: Env>(
    log: &Log<E>,
    from: Offset,
    high_watermark: Offset,
    max_bytes: usize,
) -> Option<Vec<Offset>> {
    let (mut offsets, mut next) = (Vec::new(), from);
    let upper = log.last_stable_offset(high_watermark);
    while next < upper {
        let search = log.aborted_search(next, upper);
        let slice = log.read(next, max_bytes, upper, true).unwrap();
        let aborted = match search {
            Some(search) => search.run(&slice).unwrap()?,
            None => Vec::new(),
        };
        let mut waiting: Vec<_> = aborted.iter().map(|it| (it.first_offset, it.producer_id)).collect();
        waiting.sort_unstable();
        let (mut waiting, mut active) = (waiting.into_iter().peekable(), BTreeSet::new());
        let bytes = slice.read().unwrap();
        if bytes.is_empty() {
            break;
        }
        for batch in Batches::new(&bytes).map_while(Result::ok) {
            let header = batch.header;
            next = header.next_offset();
            while waiting.peek().is_some_and(|(first, _)| *first <= header.last_offset()) {
                active.extend(waiting.next().map(|(_, producer)| producer));
            }
            if header.is_control() {
                let marker = EndMarkerRecord::parse(&header, batch.bytes);
                if marker.is_some_and(|marker| marker.result == TransactionResult::Abort) {
                    active.remove(&header.producer_id);
                }
                continue;
            }
            if header.is_transactional() && active.contains(&header.producer_id) {
                continue;
            }
            let batch = Bytes::copy_from_slice(batch.bytes);
            let all = Records::new(&batch, 1 << 24).unwrap().map(|record| record.unwrap().offset);
            offsets.extend(all.filter(|offset| *offset >= from));
        }
    }
    Some(offsets)
}

/// A batch of one transactional record, which is its key.
pub fn transactional(producer: i64, epoch: i16, sequence: i32) -> Vec<u8> {
    let key = format!("{producer} {epoch} {sequence}");
    let builder = keyed(&[(&key, Some("in a transaction"))], NOW.0);
    builder.producer(ProducerId(producer), ProducerEpoch(epoch), sequence).transactional().build().unwrap().to_vec()
}

/// Appends batches of ten records of this timestamp each.
pub fn append_many<E: Env>(log: &mut Log<E>, batches: usize, timestamp: i64) {
    for _ in 0..batches {
        append(log, batch(&[timestamp; 10], 20));
    }
}

/// Everything from `from` to `upper`, slice after slice.
pub fn read_all<E: Env>(log: &Log<E>, from: Offset, upper: Offset, max_bytes: usize) -> Vec<u8> {
    let (mut all, mut next) = (Vec::new(), from);
    loop {
        let slice = log.read(next, max_bytes, upper, true).unwrap();
        let bytes = slice.read().unwrap();
        let Some(last) = Batches::new(&bytes).map(|batch| batch.unwrap()).last() else {
            assert!(bytes.is_empty(), "a slice begins with a whole batch");
            return all;
        };
        all.extend_from_slice(&bytes[..last.position + last.bytes.len()]);
        next = last.header.next_offset();
    }
}

pub fn offsets(bytes: &[u8]) -> Vec<(i64, i64)> {
    Batches::new(bytes)
        .map(|batch| batch.unwrap().header)
        .map(|header| (header.base_offset.0, header.last_offset().0))
        .collect()
}

pub fn file_names<E: Env>(env: &E) -> Vec<String> {
    env.list(&directory()).unwrap().into_iter().map(|entry| entry.name).collect()
}

/// Cleans everything cleanable below `stable`, at any dirty ratio, within these limits; returns the cleaner's
/// checkpoint and its result. Old files are removed at once.
pub fn clean_within<E: Env>(
    env: &E,
    log: &mut Log<E>,
    checkpoint: Option<Offset>,
    stable: Offset,
    now: TimestampMs,
    limits: CleanerLimits,
) -> Result<(Offset, CleaningStats), CleanError> {
    let dirt = log.dirt(checkpoint, stable, now)?;
    let Some(job) = log.begin_cleaning(&dirt, now) else { return Ok((dirt.first_dirty, CleaningStats::default())) };
    let pace = &mut |_| ControlFlow::Continue(());
    let mut cleaning = job.index(limits, pace)?;
    while let Some(cleaned) = cleaning.next(pace)? {
        log.swap_in(cleaned)?.remove(env)?;
    }
    let stats = cleaning.stats();
    Ok((cleaning.finish()?, stats))
}

pub fn clean<E: Env>(env: &E, log: &mut Log<E>, checkpoint: Option<Offset>, now: TimestampMs) -> Offset {
    log.flush(TICK).unwrap();
    let end = log.log_end_offset();
    clean_within(env, log, checkpoint, end, now, CleanerLimits::default()).unwrap().0
}

/// Records with keys and values; a value of None is a tombstone.
pub fn keyed(records: &[(&str, Option<&str>)], timestamp: i64) -> BatchBuilder {
    records.iter().fold(BatchBuilder::new(), |builder, (key, value)| {
        builder.record(TimestampMs(timestamp), Some(key.as_bytes()), value.map(str::as_bytes))
    })
}

/// Every record from `from` on.
pub fn records<E: Env>(log: &Log<E>, from: Offset) -> Vec<Record> {
    let bytes = read_all(log, from, Offset::MAX, 700);
    let batches = Batches::new(&bytes).map(|batch| Bytes::copy_from_slice(batch.unwrap().bytes));
    batches.flat_map(|batch| Records::new(&batch, 1 << 24).unwrap().map(|record| record.unwrap())).collect()
}
