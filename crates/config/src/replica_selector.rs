//! `replica.selector.class`: from which replica a consumer is to read (KIP-392).

use crate::error::ConfigError;
use crate::reader::Reader;

const KEY: &str = "replica.selector.class";
const LEADER_CLASS: &str = "org.apache.kafka.common.replica.LeaderSelector";
const RACK_AWARE_CLASS: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

/// How a leader chooses the replica that a consumer reads from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplicaSelector {
    /// Consumers read from the leader.
    #[default]
    Leader,
    /// Consumers read from a replica in their rack.
    RackAware,
}

pub(crate) fn read(reader: &Reader<'_>) -> Result<ReplicaSelector, ConfigError> {
    let Some(property) = reader.property(KEY) else { return Ok(ReplicaSelector::Leader) };
    match property.value.trim() {
        "" | LEADER_CLASS => Ok(ReplicaSelector::Leader),
        RACK_AWARE_CLASS => Ok(ReplicaSelector::RackAware),
        _ => {
            let accepted = format!("{RACK_AWARE_CLASS}, {LEADER_CLASS}");
            Err(ConfigError::invalid(KEY, property, "is no class that this broker has", accepted))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BrokerConfig, Sources};

    fn load(value: Option<&str>) -> Result<ReplicaSelector, String> {
        let mut flags = vec![("coordinator.connect".to_owned(), "localhost".to_owned())];
        flags.extend(value.map(|value| (KEY.to_owned(), value.to_owned())));
        let sources = Sources { flags, ..Sources::default() };
        BrokerConfig::load(&sources).map(|loaded| loaded.config.replica_selector).map_err(|error| error.to_string())
    }

    #[test]
    fn kafkas_classes_are_known_and_others_are_refused_in_one_line() {
        for value in [None, Some(""), Some(LEADER_CLASS)] {
            assert_eq!(load(value), Ok(ReplicaSelector::Leader), "{value:?}");
        }
        assert_eq!(load(Some(RACK_AWARE_CLASS)), Ok(ReplicaSelector::RackAware));
        let error = load(Some("org.example.Nearest")).expect_err("no such class");
        assert!(error.contains("replica.selector.class=org.example.Nearest") && !error.contains('\n'), "{error}");
    }
}
