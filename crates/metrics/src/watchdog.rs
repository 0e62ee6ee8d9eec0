//! Tells of what held a thread that serves others.

use std::time::{Duration, Instant};

use crate::rate_limit::RateLimit;

/// What takes longer on a worker delays everybody else whom the worker serves: clients notice.
const HELD_MAX: Duration = Duration::from_millis(50);

/// Writes a line, at most one a second, about work that held a worker for more than 50 ms.
pub struct Watchdog {
    limit: RateLimit,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { limit: RateLimit::per_second() }
    }
}

impl Watchdog {
    /// To be called when the work that began at `began` is done; says whether it held the worker. `line` gets its
    /// duration, and the number of lines left out before it.
    pub fn check(&self, began: Instant, line: impl FnOnce(Duration, u64)) -> bool {
        let took = began.elapsed();
        let is_slow = took > HELD_MAX;
        if is_slow {
            self.limit.run(|left_out| line(took, left_out));
        }
        is_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_held_the_worker_is_told() {
        let watchdog = Watchdog::default();
        let mut lines = 0;
        assert!(!watchdog.check(Instant::now() + HELD_MAX, |_, _| lines += 1));
        assert_eq!(lines, 0);
        let slow = || Instant::now().checked_sub(2 * HELD_MAX).expect("the machine runs for longer");
        assert!(watchdog.check(slow(), |took, _| {
            assert!(took > HELD_MAX);
            lines += 1;
        }));
        assert!(watchdog.check(slow(), |_, _| lines += 1));
        assert_eq!(lines, 1);
    }
}
