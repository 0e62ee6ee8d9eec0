//! No more log lines of one kind than a person can read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most one line per interval; the next one says how many were left out.
pub struct RateLimit {
    interval: Duration,
    last: Mutex<Option<Instant>>,
    left_out: AtomicU64,
}

impl RateLimit {
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: Mutex::new(None), left_out: AtomicU64::new(0) }
    }

    pub fn per_second() -> Self {
        Self::new(Duration::from_secs(1))
    }

    /// Runs `line` with the number of lines left out before it, unless one was written within the interval.
    pub fn run(&self, line: impl FnOnce(u64)) {
        let now = Instant::now();
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| now.duration_since(last) < self.interval) {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                return;
            }
            *last = Some(now);
        }
        line(self.left_out.swap(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_it_leaves_out() {
        let limit = RateLimit::new(Duration::from_secs(3600));
        let mut lines = Vec::new();
        for _ in 0..3 {
            limit.run(|left_out| lines.push(left_out));
        }
        assert_eq!(lines, [0]);
        assert_eq!(limit.left_out.load(Ordering::Relaxed), 2);
    }
}
