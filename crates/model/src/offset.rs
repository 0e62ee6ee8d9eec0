//! Positions in a partition's log.

use std::fmt;
use std::ops::{Add, Sub};

/// The offset of a record in its partition: 0 or greater, except for the special values of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Offset(pub i64);

impl Offset {
    pub const ZERO: Self = Self(0);
    /// The value on the wire for an unknown offset.
    pub const UNKNOWN: Self = Self(-1);
    pub const MAX: Self = Self(i64::MAX);

    /// The offset after this one.
    #[must_use]
    pub fn next(self) -> Self {
        self + 1
    }

    /// How many offsets lie between `earlier` and this one; 0 when `earlier` is later.
    pub fn distance_from(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl Add<i64> for Offset {
    type Output = Self;
    fn add(self, count: i64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl Sub<i64> for Offset {
    type Output = Self;
    fn sub(self, count: i64) -> Self {
        Self(self.0.saturating_sub(count))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
