//! Opening a log that was never closed and never synced, every byte of which is checked, beside reading its files front
//! to back; and beside that the usual case, in which the recovery point has passed all but the active segment.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use ottla_model::{LeaderEpoch, MonotonicMs, Offset};
use ottla_storage::env::RealEnv;
use ottla_storage::{Log, LogConfig, OpenOptions};
use tempfile::TempDir;

use crate::baseline::{self, PIECE_BYTES};
use crate::log_io::{NOW, batch, new_log, partition};
use crate::report::{self, Round};

/// Segments of which a log of some hundred MiB has a few.
const SEGMENT_BYTES: u32 = 128 << 20;

pub fn run(rounds: usize, mib: usize) -> Result<()> {
    let folder = TempDir::with_prefix("ottla-bench-")?;
    let directory = folder.path().join("bench-0");
    let config = Arc::new(LogConfig { segment_bytes: SEGMENT_BYTES, ..LogConfig::default() });
    let mut log = new_log(&directory, 0, config.clone())?;
    let mut batch = batch(PIECE_BYTES)?;
    for _ in 0..mib {
        if log.append_as_leader(&mut batch, LeaderEpoch::ZERO, NOW)?.rolled {
            log.flush(MonotonicMs(0))?;
        }
    }
    let bytes = usize::try_from(log.size_bytes())?;
    let (recovery_point, end) = (log.recovery_point(), log.log_end_offset());
    drop(log);
    let (mut whole, mut tail) = (Vec::new(), 0);
    for round in 0..=rounds {
        let machine = baseline::plain_read(&directory, ".log")?;
        ensure!(machine.0 == bytes, "the files have {} bytes, the log has {bytes}", machine.0);
        let started = Instant::now();
        let scanned = open(&directory, &config, Offset::ZERO, end)?;
        let elapsed = started.elapsed();
        ensure!(scanned == u64::try_from(bytes)?, "{scanned} of {bytes} bytes were checked");
        // The first round brings the files into the page cache.
        if round > 0 {
            let machine = report::mib_per_s(bytes, machine.1);
            whole.push(Round { ours: report::mib_per_s(bytes, elapsed), machine });
        }
        tail = open(&directory, &config, recovery_point, end)?;
    }
    report::row("recovery of a log that was never synced", "sequential read of its files", "MiB/s", &whole);
    println!(
        "recovery after a kill, {} MiB in segments of {} MiB: {} MiB are checked",
        bytes >> 20,
        SEGMENT_BYTES >> 20,
        tail >> 20
    );
    Ok(())
}

/// Opens the log and returns how many bytes were checked.
fn open(directory: &Path, config: &Arc<LogConfig>, recovery_point: Offset, end: Offset) -> Result<u64> {
    let options = OpenOptions { recovery_point, ..OpenOptions::unclean(NOW) };
    let opened = Log::open(RealEnv, directory.to_owned(), partition(0)?, config.clone(), options)?;
    ensure!(opened.log.log_end_offset() == end, "records are missing");
    Ok(opened.scanned_bytes)
}
