//! The simulated time, and each process's own clocks, which may stand still or be set.

use std::fmt;

use ottla_coordinator_partition::Now;
use ottla_model::{MonotonicMs, TimestampMs};

/// Microseconds since the run began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct SimTime(pub u64);

impl SimTime {
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms * 1_000)
    }

    pub const fn from_secs(secs: u64) -> Self {
        Self(secs * 1_000_000)
    }

    pub fn as_ms(self) -> u64 {
        self.0 / 1_000
    }

    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0 + ms * 1_000)
    }

    #[must_use]
    pub fn plus_us(self, us: u64) -> Self {
        Self(self.0 + us)
    }

    /// What clocks say that nobody freezes or sets.
    pub fn clocks(self) -> Now {
        let ms = self.as_ms();
        Now { monotonic: MonotonicMs(ms), wall: TimestampMs(WALL_START_MS + i64::try_from(ms).unwrap_or(0)) }
    }
}

impl fmt::Display for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:4}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// When the wall clocks say that a run began: 2025-01-01.
pub const WALL_START_MS: i64 = 1_735_689_600_000;

/// The clocks of one host.
#[derive(Clone, Debug, Default)]
pub struct HostClock {
    /// The monotonic clock has lost this much to pauses.
    lost_us: u64,
    /// It stands still since then.
    frozen_at: Option<SimTime>,
    /// How far the wall clock was set off.
    wall_offset_ms: i64,
}

impl HostClock {
    pub fn monotonic(&self, at: SimTime) -> MonotonicMs {
        let at = self.frozen_at.unwrap_or(at);
        MonotonicMs(at.0.saturating_sub(self.lost_us) / 1_000)
    }

    pub fn wall(&self, at: SimTime) -> TimestampMs {
        TimestampMs(WALL_START_MS + i64::try_from(at.as_ms()).unwrap_or(i64::MAX) + self.wall_offset_ms)
    }

    pub fn freeze(&mut self, at: SimTime) {
        self.frozen_at.get_or_insert(at);
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen_at.is_some()
    }

    pub fn thaw(&mut self, at: SimTime) {
        if let Some(since) = self.frozen_at.take() {
            self.lost_us += at.0.saturating_sub(since.0);
        }
    }

    pub fn set_wall_offset_ms(&mut self, offset_ms: i64) {
        self.wall_offset_ms = offset_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_clock_loses_the_time_and_never_goes_back() {
        let mut clock = HostClock::default();
        assert_eq!(clock.monotonic(SimTime::from_ms(50)), MonotonicMs(50));
        clock.freeze(SimTime::from_ms(100));
        assert_eq!(clock.monotonic(SimTime::from_ms(300)), MonotonicMs(100));
        clock.thaw(SimTime::from_ms(400));
        assert_eq!(clock.monotonic(SimTime::from_ms(410)), MonotonicMs(110));
    }
}
