//! A rate over the last windows of time: Kafka's `Rate` of a windowed sum.

use std::collections::VecDeque;
use std::time::Duration;

use ottla_model::MonotonicMs;

/// `quota.window.num` and `quota.window.size.seconds`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Windows {
    /// How many windows are kept, with the current one.
    pub count: usize,
    pub length: Duration,
}

impl Windows {
    fn length_ms(self) -> u64 {
        u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// The windows that are complete when all are in use.
    fn full(self) -> u64 {
        u64::try_from(self.count.saturating_sub(1)).unwrap_or(u64::MAX).max(1)
    }

    /// What a client may use within all windows before it is above a limit.
    pub fn most(self, limit: f64) -> f64 {
        limit * self.full() as f64 * self.length.as_secs_f64()
    }
}

/// What one client has used.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rate {
    /// The beginning of each window, and what was used in it.
    samples: VecDeque<(MonotonicMs, f64)>,
}

impl Rate {
    pub fn record(&mut self, windows: Windows, now: MonotonicMs, amount: f64) {
        self.forget_old(windows, now);
        match self.samples.back_mut() {
            Some((began, sum)) if now.since(*began) < windows.length => *sum += amount,
            _ => self.samples.push_back((now, amount)),
        }
        while self.samples.len() > windows.count.max(1) {
            self.samples.pop_front();
        }
    }

    fn forget_old(&mut self, windows: Windows, now: MonotonicMs) {
        let kept_for = windows.length.saturating_mul(u32::try_from(windows.count).unwrap_or(u32::MAX).max(1));
        while self.samples.front().is_some_and(|(began, _)| now.since(*began) >= kept_for) {
            self.samples.pop_front();
        }
    }

    /// Whether nothing was used within the windows.
    pub fn is_idle(&mut self, windows: Windows, now: MonotonicMs) -> bool {
        self.forget_old(windows, now);
        self.samples.is_empty()
    }

    /// The time that the rate is measured over: at least all windows but the current one, so that a client that has
    /// just begun is not above its limit with the first request.
    fn measured_ms(&self, windows: Windows, now: MonotonicMs) -> f64 {
        let elapsed = self.samples.front().map_or(Duration::ZERO, |(began, _)| now.since(*began));
        let elapsed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let missing = windows.full().saturating_sub(elapsed / windows.length_ms());
        (elapsed + missing.saturating_mul(windows.length_ms())).max(windows.length_ms()) as f64
    }

    /// How much a second.
    pub fn per_second(&mut self, windows: Windows, now: MonotonicMs) -> f64 {
        self.forget_old(windows, now);
        let sum: f64 = self.samples.iter().map(|(_, sum)| sum).sum();
        sum * 1_000.0 / self.measured_ms(windows, now)
    }

    /// How much may be used now without being above the limit.
    pub fn allowance(&mut self, windows: Windows, now: MonotonicMs, limit: f64) -> f64 {
        self.forget_old(windows, now);
        let sum: f64 = self.samples.iter().map(|(_, sum)| sum).sum();
        (limit * self.measured_ms(windows, now) / 1_000.0 - sum).max(0.0)
    }

    /// How long the client has to wait until its rate is at the limit again; zero if it is not above it.
    pub fn throttle(&mut self, windows: Windows, now: MonotonicMs, limit: f64) -> Duration {
        let rate = self.per_second(windows, now);
        if rate <= limit {
            return Duration::ZERO;
        }
        let excess = (rate - limit) / limit.max(f64::MIN_POSITIVE);
        let ms = (excess * self.measured_ms(windows, now)).round();
        // An address that may not connect at all has no end of its wait.
        Duration::from_millis(if ms.is_finite() && ms < 1e15 { ms as u64 } else { u64::MAX / 2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows { count: 11, length: Duration::from_secs(1) };

    #[test]
    fn a_client_that_begins_is_measured_over_ten_windows() {
        let mut rate = Rate::default();
        rate.record(WINDOWS, MonotonicMs(1_000), 10_000.0);
        assert_eq!(rate.per_second(WINDOWS, MonotonicMs(1_000)), 1_000.0);
        assert_eq!(rate.throttle(WINDOWS, MonotonicMs(1_000), 1_000.0), Duration::ZERO);
        rate.record(WINDOWS, MonotonicMs(1_000), 5_000.0);
        // (1500 − 1000) / 1000 × 10 s.
        assert_eq!(rate.throttle(WINDOWS, MonotonicMs(1_000), 1_000.0), Duration::from_secs(5));
    }

    #[test]
    fn what_was_used_long_ago_does_not_count() {
        let mut rate = Rate::default();
        for second in 0..20 {
            rate.record(WINDOWS, MonotonicMs(second * 1_000), 1_000.0);
        }
        // Eleven windows with one that has just begun.
        assert_eq!(rate.per_second(WINDOWS, MonotonicMs(19_000)), 1_100.0);
        assert_eq!(rate.per_second(WINDOWS, MonotonicMs(19_999)).round(), 1_000.0);
        assert!(!rate.is_idle(WINDOWS, MonotonicMs(29_999)));
        assert!(rate.is_idle(WINDOWS, MonotonicMs(30_000)));
        assert_eq!(rate.per_second(WINDOWS, MonotonicMs(40_000)), 0.0);
    }

    /// A throttle of replication asks how many bytes may go now.
    #[test]
    fn what_may_be_used_now_keeps_the_average_at_the_limit() {
        let (mut rate, limit) = (Rate::default(), 1_000.0);
        assert_eq!(rate.allowance(WINDOWS, MonotonicMs(5_000), limit), 10_000.0, "ten windows");
        rate.record(WINDOWS, MonotonicMs(5_000), 12_000.0);
        assert_eq!(rate.allowance(WINDOWS, MonotonicMs(5_000), limit), 0.0, "one batch too much");
        let mut used = 12_000.0;
        for now in (5_000..605_000).step_by(500) {
            let allowed = rate.allowance(WINDOWS, MonotonicMs(now), limit);
            rate.record(WINDOWS, MonotonicMs(now), allowed);
            used += allowed;
        }
        let average = used / 600.0;
        assert!((0.9 * limit..1.15 * limit).contains(&average), "{average}");
        assert_eq!(rate.allowance(WINDOWS, MonotonicMs(605_000), 0.0), 0.0);
    }

    /// A client that waits for as long as it is told stays at its limit.
    #[test]
    fn who_waits_as_told_has_the_rate_of_the_limit() {
        let (mut rate, mut now, mut used, limit) = (Rate::default(), 0, 0.0, 1_000_000.0);
        while now < 600_000 {
            rate.record(WINDOWS, MonotonicMs(now), 700_000.0);
            used += 700_000.0;
            let wait = rate.throttle(WINDOWS, MonotonicMs(now), limit);
            now += 1 + u64::try_from(wait.as_millis()).expect("short");
        }
        let average = used * 1_000.0 / now as f64;
        assert!((0.9 * limit..1.1 * limit).contains(&average), "{average}");
    }

    #[test]
    fn a_limit_of_nothing_has_no_end() {
        let mut rate = Rate::default();
        rate.record(WINDOWS, MonotonicMs(0), 1.0);
        assert!(rate.throttle(WINDOWS, MonotonicMs(0), 0.0) > Duration::from_secs(1_000_000));
        assert_eq!(WINDOWS.most(1_000.0), 10_000.0);
    }
}
