//! What is wrong with a configuration: always one line that names the key, the value and what is accepted.

use crate::known;
use crate::properties::Property;

/// A configuration that cannot be used. A binary prints it on one line and exits with 1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{key}={value} ({origin}): {problem}; accepted: {accepted}")]
    Invalid { key: String, value: String, origin: String, problem: String, accepted: String },
    #[error("{key} is not set; accepted: {accepted}")]
    Missing { key: String, accepted: String },
    #[error("{path}: {problem}; accepted: a readable file of `key=value` lines")]
    File { path: String, problem: String },
    #[error("{variable}: {problem}; accepted: {accepted}")]
    Variable { variable: String, problem: String, accepted: String },
    #[error("{flag}: not a setting; accepted: key=value")]
    Flag { flag: String },
}

impl ConfigError {
    pub(crate) fn invalid(
        key: &str,
        property: &Property,
        problem: impl Into<String>,
        accepted: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            key: key.to_owned(),
            value: one_line(known::shown(key, &property.value)),
            origin: property.origin.to_string(),
            problem: one_line(&problem.into()),
            accepted: accepted.into(),
        }
    }

    pub(crate) fn missing(key: &str, accepted: impl Into<String>) -> Self {
        Self::Missing { key: key.to_owned(), accepted: accepted.into() }
    }
}

/// A value as it may stand in a one-line message: control characters become spaces.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
