//! Two clocks that must never be mixed: one that only moves forward and one that people set.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// Milliseconds on a monotonic clock since an arbitrary start. Elections, sessions and lags use it, never the wall
/// clock, which jumps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MonotonicMs(pub u64);

impl MonotonicMs {
    /// The time that passed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for MonotonicMs {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// A span of time as people say it: `350 ms`, `29.9 s`, `30 s`.
pub fn rounded(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        return format!("{} ms", span.as_millis());
    }
    let tenths = (span.as_millis() + 50) / 100;
    match (tenths / 10, tenths % 10) {
        (seconds, 0) => format!("{seconds} s"),
        (seconds, tenth) => format!("{seconds}.{tenth} s"),
    }
}

/// Milliseconds since 1970-01-01T00:00Z, as records and tree nodes carry them. −1 means "none" in a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TimestampMs(pub i64);

impl TimestampMs {
    pub const NONE: Self = Self(-1);
}

impl fmt::Display for TimestampMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_as_people_say_them() {
        let told = |millis| rounded(Duration::from_millis(millis));
        assert_eq!([told(350), told(999), told(1_000)], ["350 ms", "999 ms", "1 s"]);
        assert_eq!([told(29_882), told(29_960), told(30_000)], ["29.9 s", "30 s", "30 s"]);
    }
}
