//! The two clocks that the cores are given.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ottla_metadata::controller::Now;
use ottla_model::{MonotonicMs, TimestampMs};

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock {
    pub fn monotonic(&self) -> MonotonicMs {
        MonotonicMs(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = TimestampMs(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX));
        Now { monotonic: self.monotonic(), wall }
    }
}
