//! Many partitions: round-robin appends and reads, compared with plain files that are written and read the same way;
//! and the cost of an unused log.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_model::{LeaderEpoch, Offset};
use ottla_storage::LogConfig;
use tempfile::TempDir;

use crate::log_io::{NOW, RealLog, batch, new_log};
use crate::report::{self, Round};

/// The size of one append to one of many partitions: batches are smaller if records go to more partitions.
const BATCH_BYTES: usize = 64 * 1024;

pub fn run(rounds: usize, mib: usize) -> Result<()> {
    raise_descriptor_limit();
    // First: later there is memory that was freed and is used again.
    idle_memory()?;
    for partitions in [1, 100, 2_000] {
        let (mut appends, mut reads) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let folder = TempDir::with_prefix("ottla-bench-")?;
            let plain = PlainFiles::create(&folder.path().join("plain"), partitions)?;
            let mut logs = new_logs(folder.path(), partitions)?;
            let batch = batch(BATCH_BYTES)?;
            let turns = (mib << 20) / batch.len() / partitions;
            let bytes = turns * partitions * batch.len();
            let written = plain.write(turns, &batch)?;
            let appended = append(&mut logs, turns, &batch)?;
            let plain_read = plain.read(turns, batch.len())?;
            let read = read(&logs, turns, batch.len())?;
            // The first round makes the host back the memory of the page cache.
            if round > 0 {
                let rate = |elapsed| report::mib_per_s(bytes, elapsed);
                appends.push(Round { ours: rate(appended), machine: rate(written) });
                reads.push(Round { ours: rate(read), machine: rate(plain_read) });
            }
        }
        let of = |what: &str| {
            format!("log {what}, 64 KiB, {partitions} partition{}", if partitions == 1 { "" } else { "s" })
        };
        report::row(&of("append"), "writes to as many files", "MiB/s", &appends);
        report::row(&of("read"), "reads of as many files", "MiB/s", &reads);
    }
    Ok(())
}

fn new_logs(folder: &Path, partitions: usize) -> Result<Vec<RealLog>> {
    let config = Arc::new(LogConfig::default());
    (0..partitions)
        .map(|number| new_log(&folder.join(format!("bench-{number}")), i32::try_from(number)?, config.clone()))
        .collect()
}

fn append(logs: &mut [RealLog], turns: usize, batch: &[u8]) -> Result<Duration> {
    let mut batch = batch.to_vec();
    let started = Instant::now();
    for _ in 0..turns {
        for log in logs.iter_mut() {
            log.append_as_leader(&mut batch, LeaderEpoch::ZERO, NOW)?;
        }
    }
    Ok(started.elapsed())
}

fn read(logs: &[RealLog], turns: usize, batch_bytes: usize) -> Result<Duration> {
    let records = logs.first().context("a log")?.log_end_offset().0 / i64::try_from(turns)?;
    let mut buffer = Vec::with_capacity(batch_bytes);
    let started = Instant::now();
    for turn in 0..turns {
        let from = Offset(i64::try_from(turn)? * records);
        for log in logs {
            buffer.clear();
            log.read(from, batch_bytes, Offset::MAX, true)?.read_into(&mut buffer)?;
            ensure!(buffer.len() == batch_bytes, "{} bytes were read", buffer.len());
        }
    }
    Ok(started.elapsed())
}

struct PlainFiles(Vec<File>);

impl PlainFiles {
    fn create(folder: &Path, count: usize) -> Result<Self> {
        std::fs::create_dir(folder)?;
        let files = (0..count).map(|number| {
            File::options().read(true).write(true).create_new(true).open(folder.join(number.to_string()))
        });
        Ok(Self(files.collect::<Result<_, _>>()?))
    }

    fn write(&self, turns: usize, piece: &[u8]) -> Result<Duration> {
        let started = Instant::now();
        for turn in 0..turns {
            for file in &self.0 {
                file.write_all_at(piece, u64::try_from(turn * piece.len())?)?;
            }
        }
        Ok(started.elapsed())
    }

    fn read(&self, turns: usize, piece_bytes: usize) -> Result<Duration> {
        let mut buffer = vec![0; piece_bytes];
        let started = Instant::now();
        for turn in 0..turns {
            for file in &self.0 {
                file.read_exact_at(&mut buffer, u64::try_from(turn * piece_bytes)?)?;
            }
        }
        Ok(started.elapsed())
    }
}

fn idle_memory() -> Result<()> {
    const LOGS: usize = 2_000;
    let folder = TempDir::with_prefix("ottla-bench-")?;
    let before = resident_bytes()?;
    let logs = new_logs(folder.path(), LOGS)?;
    let grown = resident_bytes()?.saturating_sub(before);
    let open: usize = logs.iter().map(RealLog::open_files).sum();
    println!("an idle log: {} bytes of memory, {} open files", grown / LOGS, open.div_ceil(LOGS));
    Ok(())
}

fn resident_bytes() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS in the status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}

/// Plain files and active segments are open at the same time.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        println!("the limit of open files stays: {error}");
    }
}
