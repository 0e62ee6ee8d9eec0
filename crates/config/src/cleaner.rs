//! How compacted logs are cleaned: `log.cleaner.*`.

use std::time::Duration;

use crate::error::ConfigError;
use crate::reader::Reader;

/// Kafka refuses less for a thread: so little holds too few keys to get on.
const DEDUPE_BYTES_PER_THREAD_MIN: i64 = 1 << 20;

/// The cleaner's configuration. All of it may change while the broker runs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CleanerConfig {
    pub enable: bool,
    /// 0 cleans nothing.
    pub threads: usize,
    /// For the offset maps of all threads together.
    pub dedupe_buffer_bytes: usize,
    /// How full an offset map may be, above 0 and below 1.
    pub load_factor: f64,
    /// For reading and writing, of all threads together.
    pub io_buffer_bytes: usize,
    /// Read and written by all threads together.
    pub io_max_bytes_per_second: f64,
    /// How long a log that may be dirty waits for a look.
    pub backoff: Duration,
}

impl CleanerConfig {
    pub(crate) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        let threads: usize = reader.number("log.cleaner.threads", 0..=i32::MAX as usize)?;
        let least = DEDUPE_BYTES_PER_THREAD_MIN.saturating_mul(i64::try_from(threads.max(1)).unwrap_or(i64::MAX));
        let dedupe: i64 = reader.number("log.cleaner.dedupe.buffer.size", least..=i64::MAX)?;
        Ok(Self {
            enable: reader.boolean("log.cleaner.enable")?,
            threads,
            dedupe_buffer_bytes: usize::try_from(dedupe).unwrap_or(usize::MAX),
            load_factor: positive(reader, "log.cleaner.io.buffer.load.factor", 0.99)?,
            io_buffer_bytes: reader.number("log.cleaner.io.buffer.size", 0..=i32::MAX as usize)?,
            io_max_bytes_per_second: positive(reader, "log.cleaner.io.max.bytes.per.second", f64::MAX)?,
            backoff: reader.duration_ms("log.cleaner.backoff.ms", 0)?,
        })
    }

    /// Of these, what one thread may use for its offset map.
    pub fn map_bytes_per_thread(&self) -> usize {
        // Kafka's maps have at most 2 GiB.
        (self.dedupe_buffer_bytes / self.threads.max(1)).min(i32::MAX as usize)
    }

    /// What one thread reads or writes at once.
    pub fn io_bytes_per_thread(&self) -> usize {
        self.io_buffer_bytes / self.threads.max(1) / 2
    }
}

/// A number above 0.
fn positive(reader: &Reader<'_>, name: &str, most: f64) -> Result<f64, ConfigError> {
    let accepted = || format!("a number above 0, at most {most:e}");
    let property = reader.property(name).ok_or_else(|| ConfigError::missing(name, accepted()))?;
    match property.value.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= most => Ok(number),
        _ => Err(ConfigError::invalid(name, property, "is no such number", accepted())),
    }
}
