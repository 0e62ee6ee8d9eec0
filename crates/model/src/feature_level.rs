//! Levels of `ottla.version`, the feature that says which records and requests every process of a cluster understands.

use std::fmt;

/// The feature whose level an operator raises when all processes of a cluster are of the new release.
pub const OTTLA_VERSION: &str = "ottla.version";

/// Kafka's features that this release serves, each at one level: 1 of `group.version` is KIP-848, 30 of
/// `metadata.version` is 4.3-IV0, from which tools derive the cluster's version, 2 of `transaction.version` is KIP-890.
/// Features that are not implemented (share groups) are not listed.
pub const KAFKAS_FEATURES: &[(&str, i16)] =
    &[("group.version", 1), ("metadata.version", 30), ("transaction.version", 2)];

/// A level of `ottla.version`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FeatureLevel(pub i16);

impl FeatureLevel {
    /// What the first releases write. They know no levels: a tree and a process that name none are at this one.
    pub const FIRST: Self = Self(1);
    /// From here on the tree may have delegation tokens, and subscriptions to clients' metrics.
    pub const TOKENS_AND_CLIENT_METRICS: Self = Self(2);
    /// Of this release.
    pub const NEWEST: Self = Self::TOKENS_AND_CLIENT_METRICS;
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The levels that a process works at, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FeatureLevels {
    pub min: FeatureLevel,
    pub max: FeatureLevel,
}

impl FeatureLevels {
    pub const OF_THIS_RELEASE: Self = Self { min: FeatureLevel::FIRST, max: FeatureLevel::NEWEST };
    /// Of a process that names none.
    pub const UNTOLD: Self = Self { min: FeatureLevel::FIRST, max: FeatureLevel::FIRST };

    /// What a process says of itself. 0 and 0: it is of a release that names none.
    pub fn told(min: i16, max: i16) -> Self {
        match (min, max) {
            (0, 0) => Self::UNTOLD,
            _ => Self { min: FeatureLevel(min), max: FeatureLevel(max) },
        }
    }

    /// The lowest and the highest, as nodes and messages carry them.
    pub fn to_wire(self) -> (i32, i32) {
        (self.min.0.into(), self.max.0.into())
    }

    /// Of a node or a message, as [`told`](Self::told).
    ///
    /// # Errors
    ///
    /// The number that is no level.
    pub fn from_wire(min: i32, max: i32) -> Result<Self, i32> {
        let level = |level: i32| i16::try_from(level).map_err(|_| level);
        Ok(Self::told(level(min)?, level(max)?))
    }

    pub fn includes(self, level: FeatureLevel) -> bool {
        (self.min..=self.max).contains(&level)
    }
}

impl Default for FeatureLevels {
    fn default() -> Self {
        Self::UNTOLD
    }
}

/// As Kafka writes ranges.
impl fmt::Display for FeatureLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_names_no_levels_is_at_the_first() {
        assert_eq!(FeatureLevels::told(0, 0), FeatureLevels::UNTOLD);
        let told = FeatureLevels::told(2, 3);
        let (min, max) = told.to_wire();
        assert_eq!(FeatureLevels::from_wire(min, max), Ok(told));
        assert_eq!(FeatureLevels::from_wire(0, 0), Ok(FeatureLevels::UNTOLD));
        assert_eq!(FeatureLevels::from_wire(1, 1 << 15), Err(1 << 15));
        assert_eq!(FeatureLevels::from_wire(-(1 << 15) - 1, 1), Err(-(1 << 15) - 1));
        assert!(
            !told.includes(FeatureLevel::FIRST) && told.includes(FeatureLevel(2)) && told.includes(FeatureLevel(3))
        );
        assert!(!told.includes(FeatureLevel(4)));
        assert_eq!(told.to_string(), "2-3");
        assert!(!FeatureLevels::told(3, 2).includes(FeatureLevel(3)), "a range of nothing");
    }
}
