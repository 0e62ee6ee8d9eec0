//! Loggers: the targets of log lines, each with a level that can change at run time (Kafka's BROKER_LOGGER).
//!
//! A logger is a crate or a module, such as `ottla_network::listener`; `root` stands for all of them. A module becomes
//! known with its first log line, whether it is written or suppressed.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::Layer;

pub const ROOT: &str = "root";

/// As Kafka lists them in its error.
const LEVELS: &str = "DEBUG, ERROR, FATAL, INFO, TRACE, WARN";

/// The level of a logger. Nothing is logged as fatal here: FATAL silences a logger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Fatal,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    fn from_kafka(text: &str) -> Option<Self> {
        Some(match text {
            "FATAL" => Self::Fatal,
            "ERROR" => Self::Error,
            "WARN" => Self::Warn,
            "INFO" => Self::Info,
            "DEBUG" => Self::Debug,
            "TRACE" => Self::Trace,
            _ => return None,
        })
    }

    fn from_directive(text: &str) -> Option<Self> {
        match text.to_ascii_uppercase().as_str() {
            "OFF" => Some(Self::Fatal),
            other => Self::from_kafka(other),
        }
    }

    pub fn kafka(self) -> &'static str {
        match self {
            Self::Fatal => "FATAL",
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
            Self::Trace => "TRACE",
        }
    }

    fn directive(self) -> &'static str {
        match self {
            Self::Fatal => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Why a level is not set, in Kafka's words.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoggerError {
    #[error("Logger {0} does not exist!")]
    Unknown(String),
    #[error(
        "Cannot set the log level of {logger} to {level} as it is not a supported log level. Valid log levels are {LEVELS}"
    )]
    Level { logger: String, level: String },
    #[error("Removing the log level of the {ROOT} logger is not allowed")]
    Root,
    #[error("the log levels of this process cannot change: {0}")]
    Fixed(String),
}

/// A change of one logger: its level, or none for that of the logger above it.
pub type Change = (String, Option<String>);

/// Puts a filter into force.
type Apply = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// The loggers of a process.
pub struct Loggers {
    /// `logging.level`, or `RUST_LOG`.
    base: String,
    set: Mutex<BTreeMap<String, Level>>,
    seen: &'static Seen,
    apply: Box<Apply>,
}

impl Loggers {
    pub fn new(
        base: String,
        seen: &'static Seen,
        apply: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { base, set: Mutex::default(), seen, apply: Box::new(apply) }
    }

    /// Every logger with the level that holds for it, by name.
    pub fn levels(&self) -> Vec<(String, Level)> {
        let set = self.set.lock().clone();
        let mut names = self.names();
        names.insert(ROOT.to_owned());
        names.into_iter().map(|name| (name.clone(), effective(&self.base, &set, &name))).collect()
    }

    /// Checks the changes, and sets all of them unless `validate_only`.
    pub fn alter(&self, changes: &[Change], validate_only: bool) -> Result<(), LoggerError> {
        let names = self.names();
        let mut set = self.set.lock();
        let mut next = set.clone();
        for (name, level) in changes {
            if name != ROOT && !names.contains(name) {
                return Err(LoggerError::Unknown(name.clone()));
            }
            match level {
                Some(text) => {
                    let invalid = || LoggerError::Level { logger: name.clone(), level: text.clone() };
                    next.insert(name.clone(), Level::from_kafka(text).ok_or_else(invalid)?);
                }
                None if name == ROOT => return Err(LoggerError::Root),
                None => drop(next.remove(name)),
            }
        }
        if validate_only {
            return Ok(());
        }
        (self.apply)(&filter(&self.base, &next)).map_err(LoggerError::Fixed)?;
        *set = next;
        Ok(())
    }

    fn names(&self) -> BTreeSet<String> {
        let targets = self.seen.targets.lock();
        let parents = |target: &&'static str| {
            let ends = target.match_indices("::").map(|(at, _)| at).chain([target.len()]);
            let target = *target;
            ends.filter_map(move |end| target.get(..end)).map(str::to_owned).collect::<Vec<_>>()
        };
        targets.iter().flat_map(parents).collect()
    }
}

/// The filter in `EnvFilter`'s syntax. Of several directives for one target the last one counts.
fn filter(base: &str, set: &BTreeMap<String, Level>) -> String {
    let directive = |(name, level): (&String, &Level)| match name.as_str() {
        ROOT => level.directive().to_owned(),
        name => format!("{name}={}", level.directive()),
    };
    [base.to_owned()].into_iter().chain(set.iter().map(directive)).collect::<Vec<_>>().join(",")
}

/// The level of the nearest directive at or above `name`.
fn effective(base: &str, set: &BTreeMap<String, Level>, name: &str) -> Level {
    let filter = filter(base, set);
    let mut nearest: Option<(usize, Level)> = None;
    for directive in filter.split(',').map(str::trim) {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (target, Level::from_directive(level)),
            None if Level::from_directive(directive).is_some() => ("", Level::from_directive(directive)),
            // A target without a level is logged completely.
            None => (directive, Some(Level::Trace)),
        };
        let Some(level) = level.filter(|_| name.starts_with(target)) else { continue };
        if nearest.is_none_or(|(length, _)| target.len() >= length) {
            nearest = Some((target.len(), level));
        }
    }
    // EnvFilter without a directive for all targets logs errors.
    nearest.map_or(Level::Error, |(_, level)| level)
}

/// Collects the targets of this project's log lines.
#[derive(Default)]
pub struct Seen {
    targets: Mutex<BTreeSet<&'static str>>,
}

impl<S: Subscriber> Layer<S> for &'static Seen {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target().starts_with("ottla") {
            self.targets.lock().insert(metadata.target());
        }
        Interest::always()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn loggers(base: &str) -> (Loggers, Arc<Mutex<Vec<String>>>) {
        let seen: &'static Seen = Box::leak(Box::default());
        seen.targets.lock().extend(["ottla_network::listener", "ottla_storage"]);
        let applied = Arc::new(Mutex::new(Vec::new()));
        let put = Arc::clone(&applied);
        let apply = move |filter: &str| {
            put.lock().push(filter.to_owned());
            Ok(())
        };
        (Loggers::new(base.to_owned(), seen, apply), applied)
    }

    fn set(name: &str, level: &str) -> Change {
        (name.to_owned(), Some(level.to_owned()))
    }

    fn shown(loggers: &Loggers) -> Vec<(String, &'static str)> {
        loggers.levels().into_iter().map(|(name, level)| (name, level.kafka())).collect()
    }

    #[test]
    fn loggers_have_levels_of_their_own_or_those_above_them() {
        let (loggers, applied) = loggers("info,ottla_storage=warn");
        let named = |levels: [&'static str; 4]| {
            let names = ["ottla_network", "ottla_network::listener", "ottla_storage", "root"];
            names.map(str::to_owned).into_iter().zip(levels).collect::<Vec<_>>()
        };
        assert_eq!(shown(&loggers), named(["INFO", "INFO", "WARN", "INFO"]));
        loggers.alter(&[set("ottla_network", "DEBUG"), set("root", "ERROR")], false).expect("set");
        assert_eq!(shown(&loggers), named(["DEBUG", "DEBUG", "WARN", "ERROR"]));
        assert_eq!(applied.lock().as_slice(), ["info,ottla_storage=warn,ottla_network=debug,error"]);
        loggers.alter(&[("ottla_network".to_owned(), None)], false).expect("removed");
        assert_eq!(shown(&loggers), named(["ERROR", "ERROR", "WARN", "ERROR"]));
    }

    #[test]
    fn wrong_changes_change_nothing() {
        let (loggers, applied) = loggers("info");
        let refused = |changes: &[Change]| loggers.alter(changes, false).map_err(|error| error.to_string());
        let unknown = refused(&[set("root", "DEBUG"), set("kafka.server", "DEBUG")]);
        assert_eq!(unknown, Err("Logger kafka.server does not exist!".to_owned()));
        assert!(refused(&[set("root", "loud")]).is_err_and(|text| text.contains("Valid log levels are DEBUG, ERROR")));
        assert!(refused(&[("root".to_owned(), None)]).is_err_and(|text| text.contains("not allowed")));
        assert_eq!(loggers.alter(&[set("root", "TRACE")], true), Ok(()));
        assert!(applied.lock().is_empty());
        assert_eq!(loggers.levels().last().map(|(_, level)| *level), Some(Level::Info));
    }
}
