//! The two clocks of a broker. Cores take `now` as an argument; only their callers read these clocks.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ottla_model::{MonotonicMs, TimestampMs};

#[inline]
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    // An hour before the first look: "never" can be told from "at the start", and lags can be subtracted.
    *START.get_or_init(|| {
        let now = Instant::now();
        now.checked_sub(Duration::from_secs(3_600)).unwrap_or(now)
    })
}

/// Only moves forward, at the same pace whatever people do to the clock.
#[inline]
pub fn monotonic() -> MonotonicMs {
    MonotonicMs(u64::try_from(start().elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// The instant of a monotonic time, for timers.
pub fn instant(at: MonotonicMs) -> tokio::time::Instant {
    tokio::time::Instant::from_std(start() + Duration::from_millis(at.0))
}

/// What people's clocks say: for records' timestamps, never for decisions.
#[inline]
pub fn wall() -> TimestampMs {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
