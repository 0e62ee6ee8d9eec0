//! The partition log: append beside plain file writes, read into a socket beside plain sendfile.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_model::{LeaderEpoch, Offset, PartitionId, TimestampMs, TopicId, TopicName, TopicPartition};
use ottla_protocol::record_batch::{BatchBuilder, Limits, validate};
use ottla_storage::env::RealEnv;
use ottla_storage::{Log, LogConfig};
use tempfile::TempDir;

use crate::baseline::{self, PIECE_BYTES};
use crate::report::{self, Round};

pub const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

pub fn run(rounds: usize, mib: usize) -> Result<()> {
    let bytes = mib * PIECE_BYTES;
    let (mut appends, mut checked, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    // The first round only makes the host back the memory that the page cache needs; it is not counted.
    for round in 0..=rounds {
        let folder = TempDir::with_prefix("ottla-bench-")?;
        let plain = folder.path().join("plain");
        let written = baseline::plain_write(&plain, bytes)?;
        let (log, appended) = append(&folder.path().join("bench-0"), bytes, false)?;
        let (_, validated) = append(&folder.path().join("bench-1"), bytes, true)?;
        let sent = baseline::sendfile_over_loopback(&plain, bytes)?;
        let read = read_to_socket(&log, bytes)?;
        if round > 0 {
            let machine = report::mib_per_s(bytes, written);
            appends.push(Round { ours: report::mib_per_s(bytes, appended), machine });
            checked.push(Round { ours: report::mib_per_s(bytes, validated), machine });
            reads.push(Round { ours: report::mib_per_s(bytes, read), machine: report::mib_per_s(bytes, sent) });
        }
    }
    report::row("log append, 1 MiB batches", "plain file writes", "MiB/s", &appends);
    report::row("validate + log append, 1 MiB batches", "plain file writes", "MiB/s", &checked);
    report::row("log read to a socket", "sendfile of a plain file", "MiB/s", &reads);
    Ok(())
}

pub type RealLog = Log<RealEnv>;

pub fn partition(number: i32) -> Result<TopicPartition> {
    Ok(TopicPartition::new(TopicName::new("bench").context("a topic name")?, PartitionId(number)))
}

pub fn new_log(directory: &Path, number: i32, config: Arc<LogConfig>) -> Result<RealLog> {
    Ok(Log::create(RealEnv, directory.to_owned(), partition(number)?, TopicId([7; 16]), config, NOW)?)
}

/// A batch of 1 KB records, as near to `bytes` as they come.
pub fn batch(bytes: usize) -> Result<bytes::BytesMut> {
    let value = vec![b'x'; 1_000];
    let mut builder = BatchBuilder::new();
    while builder.size_bytes() + value.len() + 64 < bytes {
        builder = builder.record(NOW, None, Some(&value));
    }
    Ok(builder.build()?)
}

fn append(directory: &Path, bytes: usize, check: bool) -> Result<(RealLog, Duration)> {
    let mut log = new_log(directory, 0, Arc::new(LogConfig::default()))?;
    let mut batch = batch(PIECE_BYTES)?;
    let limits = Limits { max_message_bytes: 2 * PIECE_BYTES, ..Limits::new(NOW) };
    let started = Instant::now();
    for _ in 0..bytes / PIECE_BYTES {
        if check {
            // As it comes from a client: offsets from 0.
            batch[..8].fill(0);
            validate(&batch, &limits)?;
        }
        log.append_as_leader(&mut batch, LeaderEpoch::ZERO, NOW)?;
    }
    Ok((log, started.elapsed()))
}

fn read_to_socket(log: &RealLog, bytes: usize) -> Result<Duration> {
    // All batches are alike.
    let batches = bytes / PIECE_BYTES;
    let total = usize::try_from(log.size_bytes())?;
    let (batch_bytes, batch_records) = (total / batches, log.log_end_offset().0 / i64::try_from(batches)?);
    ensure!(batch_bytes * batches == total, "{batches} batches come to {total} bytes");
    baseline::over_loopback(total, |stream| {
        for batch in 0..batches {
            let from = Offset(i64::try_from(batch)? * batch_records);
            let slice = log.read(from, PIECE_BYTES, Offset::MAX, true)?.truncated(batch_bytes);
            let file = slice.file().context("records up to the end")?;
            let (mut position, end) = (slice.position, slice.position + u64::try_from(slice.len)?);
            while position < end {
                let left = usize::try_from(end - position)?;
                ensure!(rustix::fs::sendfile(&*stream, file.as_fd(), Some(&mut position), left)? > 0, "cut off");
            }
        }
        Ok(())
    })
}
