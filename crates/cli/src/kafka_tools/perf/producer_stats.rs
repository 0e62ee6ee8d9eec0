//! What `kafka-producer-perf-test` counts and says: latencies and rates, in windows and over all.

use super::decimal;

/// The most latencies that are kept; of more records each n-th counts for the percentiles.
const SAMPLES_MAX: u64 = 500_000;
const MIB: f64 = 1_024.0 * 1_024.0;

/// Counts of a span of time.
#[derive(Clone, Copy, Default)]
struct Counts {
    records: u64,
    bytes: u64,
    latency_sum_ms: u64,
    latency_max_ms: u32,
}

impl Counts {
    fn add(&mut self, latency_ms: u32, bytes: u64) {
        self.records += 1;
        self.bytes += bytes;
        self.latency_sum_ms += u64::from(latency_ms);
        self.latency_max_ms = self.latency_max_ms.max(latency_ms);
    }

    /// Records a second, MB a second, the average latency.
    fn rates(&self, elapsed_ms: i64) -> (f64, f64, f64) {
        let elapsed = elapsed_ms as f64;
        let records = self.records as f64;
        (1_000.0 * records / elapsed, 1_000.0 * self.bytes as f64 / elapsed / MIB, self.latency_sum_ms as f64 / records)
    }
}

/// What all records came to.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    pub records: u64,
    pub records_per_s: f64,
    pub mib_per_s: f64,
    pub latency_avg_ms: f64,
    pub latency_max_ms: u32,
    /// The 50th, 95th, 99th and 99.9th.
    pub latency_percentiles_ms: [u32; 4],
}

pub struct Stats {
    began_ms: i64,
    window_began_ms: i64,
    interval_ms: i64,
    /// Each n-th record's latency is kept.
    sampling: u64,
    latencies: Vec<u32>,
    total: Counts,
    window: Counts,
    /// Of the records after the warm-up alone.
    is_steady_state: bool,
    is_silent: bool,
}

impl Stats {
    pub fn new(records: u64, interval_ms: i64, is_steady_state: bool, now_ms: i64) -> Self {
        Self {
            began_ms: now_ms,
            window_began_ms: now_ms,
            interval_ms,
            sampling: (records / records.clamp(1, SAMPLES_MAX)).max(1),
            latencies: Vec::new(),
            total: Counts::default(),
            window: Counts::default(),
            is_steady_state,
            is_silent: false,
        }
    }

    /// From here on other statistics report the windows.
    pub fn silence(&mut self) {
        self.is_silent = true;
    }

    /// Counts a record that was acknowledged; the lines to print.
    pub fn record(&mut self, latency_ms: u32, bytes: u64, now_ms: i64) -> Vec<String> {
        if self.total.records.is_multiple_of(self.sampling) {
            self.latencies.push(latency_ms);
        }
        self.total.add(latency_ms, bytes);
        self.window.add(latency_ms, bytes);
        let mut lines = Vec::new();
        if now_ms - self.window_began_ms >= self.interval_ms {
            if self.is_steady_state && self.total.records == self.window.records {
                lines.push("In steady state.".to_owned());
            }
            if !self.is_silent {
                lines.push(self.window_line(now_ms));
            }
            self.window = Counts::default();
            self.window_began_ms = now_ms;
        }
        lines
    }

    fn window_line(&self, now_ms: i64) -> String {
        let (records, megabytes, average) = self.window.rates(now_ms - self.window_began_ms);
        format!(
            "{} records sent, {} records/sec ({} MB/sec), {} ms avg latency, {} ms max latency.",
            self.window.records,
            decimal(records, 1),
            decimal(megabytes, 2),
            decimal(average, 1),
            decimal(f64::from(self.window.latency_max_ms), 1)
        )
    }

    /// What was counted until now.
    pub fn summary(&mut self, now_ms: i64) -> Summary {
        let (records_per_s, mib_per_s, latency_avg_ms) = self.total.rates(now_ms - self.began_ms);
        self.latencies.sort_unstable();
        let at = |share: f64| {
            let index = (share * self.latencies.len() as f64) as usize;
            self.latencies.get(index).copied().unwrap_or(0)
        };
        Summary {
            records: self.total.records,
            records_per_s,
            mib_per_s,
            latency_avg_ms,
            latency_max_ms: self.total.latency_max_ms,
            latency_percentiles_ms: [at(0.5), at(0.95), at(0.99), at(0.999)],
        }
    }

    pub fn total_line(&mut self, now_ms: i64) -> String {
        let total = self.summary(now_ms);
        let [p50, p95, p99, p999] = total.latency_percentiles_ms;
        format!(
            "{}{} records sent, {} records/sec ({} MB/sec), {} ms avg latency, {} ms max latency, \
             {p50} ms 50th, {p95} ms 95th, {p99} ms 99th, {p999} ms 99.9th.",
            total.records,
            if self.is_steady_state { " steady state" } else { "" },
            decimal(total.records_per_s, 6),
            decimal(total.mib_per_s, 2),
            decimal(total.latency_avg_ms, 2),
            decimal(f64::from(total.latency_max_ms), 2),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_kafkas_tool() {
        let mut stats = Stats::new(100, 1_000, false, 0);
        for at in 0..99_u32 {
            assert!(stats.record(at, 1_024, 5).is_empty());
        }
        let window = "100 records sent, 50.0 records/sec (0.05 MB/sec), 49.5 ms avg latency, 99.0 ms max latency.";
        assert_eq!(stats.record(99, 1_024, 2_000), [window]);
        let total = "100 records sent, 25.000000 records/sec (0.02 MB/sec), 49.50 ms avg latency, \
                     99.00 ms max latency, 50 ms 50th, 95 ms 95th, 99 ms 99th, 99 ms 99.9th.";
        assert_eq!(stats.total_line(4_000), total);
    }

    #[test]
    fn the_steady_state_has_its_own_lines() {
        let mut all = Stats::new(10, 10, false, 0);
        all.silence();
        assert!(all.record(1, 1, 20).is_empty());
        let mut steady = Stats::new(5, 10, true, 0);
        let lines = steady.record(1, 1, 20);
        assert_eq!((lines.len(), lines[0].as_str()), (2, "In steady state."));
        assert!(steady.total_line(20).starts_with("1 steady state records sent, 50.000000 records/sec"));
    }

    #[test]
    fn few_latencies_are_kept_of_many_records() {
        let mut stats = Stats::new(2_000_000, 1_000, false, 0);
        for _ in 0..2_000_000 {
            stats.record(3, 1, 0);
        }
        assert_eq!(stats.latencies.len() as u64, SAMPLES_MAX);
        assert!(stats.total_line(1_000).contains("3 ms 99.9th"));
        assert!(Stats::new(5, 1_000, false, 0).total_line(0).starts_with("0 records sent, NaN records/sec"));
    }
}
