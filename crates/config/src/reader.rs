//! Typed values out of properties, with messages that say what is accepted.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ottla_model::KafkaPrincipal;

use crate::error::ConfigError;
use crate::nearest::nearest;
use crate::properties::{Properties, Property};

/// Reads [`Properties`]; an empty text counts as not set, as Kafka's own parser has it for lists and names.
pub(crate) struct Reader<'a> {
    properties: &'a Properties,
}

impl<'a> Reader<'a> {
    pub fn new(properties: &'a Properties) -> Self {
        Self { properties }
    }

    pub fn property(&self, name: &str) -> Option<&'a Property> {
        self.properties.get(name).filter(|property| !property.value.is_empty())
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.property(name).map(|property| property.value.as_str())
    }

    /// A whole number in `range`, if set.
    pub fn optional<N>(&self, name: &str, range: RangeInclusive<N>) -> Result<Option<N>, ConfigError>
    where
        N: FromStr + PartialOrd + Display,
    {
        let Some(property) = self.property(name) else { return Ok(None) };
        let accepted = || format!("a whole number from {} to {}", range.start(), range.end());
        let number: N = property
            .value
            .parse()
            .map_err(|_| ConfigError::invalid(name, property, "is no such number", accepted()))?;
        if !range.contains(&number) {
            return Err(ConfigError::invalid(name, property, "is out of range", accepted()));
        }
        Ok(Some(number))
    }

    /// A whole number that has a default in the table.
    pub fn number<N>(&self, name: &str, range: RangeInclusive<N>) -> Result<N, ConfigError>
    where
        N: FromStr + PartialOrd + Display,
    {
        let accepted = format!("a whole number from {} to {}", range.start(), range.end());
        self.optional(name, range)?.ok_or_else(|| ConfigError::missing(name, accepted))
    }

    /// A number of milliseconds, at least `least`.
    pub fn duration_ms(&self, name: &str, least: u64) -> Result<Duration, ConfigError> {
        self.number(name, least..=i64::MAX.unsigned_abs()).map(Duration::from_millis)
    }

    /// As Kafka reads a boolean: `true` or `false`, in any case.
    pub fn boolean(&self, name: &str) -> Result<bool, ConfigError> {
        let property = self.property(name).ok_or_else(|| ConfigError::missing(name, "true, false"))?;
        match property.value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(ConfigError::invalid(name, property, "is neither", "true, false")),
        }
    }

    /// One of `accepted`, compared exactly.
    pub fn choice(&self, name: &str, accepted: &[&'static str]) -> Result<&'static str, ConfigError> {
        let property = self.property(name).ok_or_else(|| ConfigError::missing(name, accepted.join(", ")))?;
        one_of(name, property, &property.value, accepted)
    }

    /// Items separated by commas; blanks around them and empty ones are dropped.
    pub fn list(&self, name: &str) -> Vec<&'a str> {
        self.text(name).map(items).unwrap_or_default()
    }
}

pub(crate) fn items(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
}

/// `TYPE:NAME[;TYPE:NAME…]`: names of certificates hold commas.
pub(crate) fn principals(reader: &Reader<'_>, key: &str) -> Result<BTreeSet<KafkaPrincipal>, ConfigError> {
    let Some(property) = reader.property(key) else { return Ok(BTreeSet::new()) };
    let names = property.value.split(';').map(str::trim).filter(|name| !name.is_empty());
    let principal = |name: &str| {
        name.parse().map_err(|error| ConfigError::invalid(key, property, format!("{error}"), "User:NAME[;User:NAME…]"))
    };
    names.map(principal).collect()
}

/// `value` as one of `accepted`; an error suggests the nearest.
pub(crate) fn one_of(
    name: &str,
    property: &Property,
    value: &str,
    accepted: &[&'static str],
) -> Result<&'static str, ConfigError> {
    if let Some(found) = accepted.iter().find(|candidate| **candidate == value) {
        return Ok(found);
    }
    let problem = match nearest(value, accepted.iter().copied()) {
        Some(near) => format!("`{value}` is unknown (did you mean {near}?)"),
        None => format!("`{value}` is unknown"),
    };
    Err(ConfigError::invalid(name, property, problem, accepted.join(", ")))
}
