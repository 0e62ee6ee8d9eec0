//! A bucket of tokens, for changes of the cluster: Kafka's `TokenBucket` (KIP-599). A burst of a whole request is
//! possible where a rate over windows would refuse it, and is paid for by the requests that follow.

use std::time::Duration;

use ottla_model::MonotonicMs;

use crate::rate::Windows;

#[derive(Clone, PartialEq, Debug)]
pub struct TokenBucket {
    /// Below zero: changes that were let through before they were paid for.
    tokens: f64,
    filled_at: MonotonicMs,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(windows: Windows, now: MonotonicMs, limit: f64) -> Self {
        Self { tokens: Self::most(windows, limit), filled_at: now }
    }

    fn most(windows: Windows, limit: f64) -> f64 {
        limit * windows.count as f64 * windows.length.as_secs_f64()
    }

    fn fill(&mut self, windows: Windows, now: MonotonicMs, limit: f64) {
        let since = now.since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + since * limit).min(Self::most(windows, limit));
        self.filled_at = now;
    }

    /// How long the client has to wait until the bucket is not below zero; zero if it is not.
    pub fn throttle(&mut self, windows: Windows, now: MonotonicMs, limit: f64) -> Duration {
        self.fill(windows, now, limit);
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_millis((-self.tokens / limit * 1_000.0).round().min(1e15) as u64)
    }

    pub fn take(&mut self, windows: Windows, now: MonotonicMs, limit: f64, count: f64) {
        self.fill(windows, now, limit);
        self.tokens -= count;
    }

    /// Whether it holds all that it can: the client has changed nothing for long.
    pub fn is_idle(&mut self, windows: Windows, now: MonotonicMs, limit: f64) -> bool {
        self.fill(windows, now, limit);
        self.tokens >= Self::most(windows, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows { count: 11, length: Duration::from_secs(1) };

    #[test]
    fn a_burst_is_let_through_and_paid_for() {
        let limit = 2.0;
        let mut bucket = TokenBucket::new(WINDOWS, MonotonicMs(0), limit);
        assert!(bucket.is_idle(WINDOWS, MonotonicMs(0), limit));
        bucket.take(WINDOWS, MonotonicMs(0), limit, 30.0);
        // 22 − 30 = −8 tokens, of which 2 come back each second.
        assert_eq!(bucket.throttle(WINDOWS, MonotonicMs(0), limit), Duration::from_secs(4));
        assert_eq!(bucket.throttle(WINDOWS, MonotonicMs(3_000), limit), Duration::from_secs(1));
        assert_eq!(bucket.throttle(WINDOWS, MonotonicMs(4_000), limit), Duration::ZERO);
        assert!(!bucket.is_idle(WINDOWS, MonotonicMs(4_000), limit));
        assert!(bucket.is_idle(WINDOWS, MonotonicMs(15_000), limit));
    }
}
