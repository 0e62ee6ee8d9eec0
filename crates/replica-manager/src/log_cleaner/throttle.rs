//! Holds the cleaner's reading and writing to `log.cleaner.io.max.bytes.per.second`, of all threads together.

use std::time::Duration;

use ottla_model::MonotonicMs;
use parking_lot::Mutex;

/// A thread that waits looks this often whether the broker ends.
const NAP_MAX: Duration = Duration::from_millis(100);

/// How much may be done at once after a pause: without it every short batch would cost a nap.
const BURST_MS: f64 = 50.0;

#[derive(Default)]
pub(super) struct Throttle {
    /// When what was asked for so far is paid for.
    paid_at_ms: Mutex<f64>,
}

impl Throttle {
    /// Asks for `bytes`; how long to wait first.
    pub fn ask(&self, bytes: u64, bytes_per_second: f64, now: MonotonicMs) -> Duration {
        let now = now.0 as f64;
        let mut paid_at = self.paid_at_ms.lock();
        let begin = paid_at.max(now - BURST_MS);
        *paid_at = begin + bytes as f64 * 1_000.0 / bytes_per_second;
        Duration::try_from_secs_f64((begin - now).max(0.0) / 1_000.0).unwrap_or_default()
    }

    /// Sleeps, unless `is_over` says to stop. Says whether to go on.
    pub fn sleep(mut wait: Duration, is_over: impl Fn() -> bool) -> bool {
        while !wait.is_zero() && !is_over() {
            let nap = wait.min(NAP_MAX);
            std::thread::sleep(nap);
            wait -= nap;
        }
        !is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_time() {
        let throttle = Throttle::default();
        let (mut now, mut bytes) = (10_000.0_f64, 0_u64);
        for _ in 0..1_000 {
            let wait = throttle.ask(4_096, 1e6, MonotonicMs(now as u64));
            now += wait.as_secs_f64() * 1_000.0;
            bytes += 4_096;
        }
        let took_ms = now - 10_000.0;
        let expected_ms = bytes as f64 / 1e6 * 1_000.0;
        assert!((took_ms - expected_ms).abs() < 100.0, "{took_ms} ms instead of {expected_ms}");
    }

    #[test]
    fn without_a_bound_nobody_waits() {
        let throttle = Throttle::default();
        for _ in 0..100 {
            assert_eq!(throttle.ask(1 << 30, f64::MAX, MonotonicMs(1_000)), Duration::ZERO);
        }
    }
}
