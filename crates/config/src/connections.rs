//! `max.connection.creation.rate` and `max.connections`, of the broker and of single listeners.

use std::collections::BTreeMap;

use ottla_model::ListenerName;

use crate::error::ConfigError;
use crate::listeners::Listeners;
use crate::reader::Reader;

const RATE: &str = "max.connection.creation.rate";
const MAX: &str = "max.connections";

/// How many connections a second may be opened; none: any number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectionRates {
    pub of_broker: Option<u32>,
    pub of_listeners: BTreeMap<ListenerName, u32>,
}

impl ConnectionRates {
    pub(crate) fn read(reader: &Reader<'_>, listeners: &Listeners) -> Result<Self, ConfigError> {
        // Kafka's default is no limit.
        let is_limit = |rate: &u32| *rate < i32::MAX.unsigned_abs();
        let mut of_listeners = of_listeners(reader, listeners, RATE)?;
        of_listeners.retain(|_, rate| is_limit(rate));
        Ok(Self { of_broker: count(reader, RATE)?.filter(is_limit), of_listeners })
    }
}

/// The most connections of those listeners that have a limit of their own.
pub(crate) fn max_of_listeners(
    reader: &Reader<'_>,
    listeners: &Listeners,
) -> Result<BTreeMap<ListenerName, u32>, ConfigError> {
    of_listeners(reader, listeners, MAX)
}

fn of_listeners(
    reader: &Reader<'_>,
    listeners: &Listeners,
    name: &str,
) -> Result<BTreeMap<ListenerName, u32>, ConfigError> {
    let mut found = BTreeMap::new();
    for listener in &listeners.listeners {
        let own = format!("listener.name.{}.{name}", listener.name.as_str().to_ascii_lowercase());
        found.extend(count(reader, &own)?.map(|count| (listener.name.clone(), count)));
    }
    Ok(found)
}

fn count(reader: &Reader<'_>, name: &str) -> Result<Option<u32>, ConfigError> {
    Ok(reader.optional(name, 0..=i32::MAX)?.map(i32::unsigned_abs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BrokerConfig, Sources};

    #[test]
    fn listeners_have_limits_of_their_own() {
        let load = |most: &str| {
            let flags = [
                ("coordinator.connect", "localhost"),
                ("listeners", "CLIENT://:9092,OTHER://:9093"),
                ("listener.security.protocol.map", "CLIENT:PLAINTEXT,OTHER:PLAINTEXT"),
                ("inter.broker.listener.name", "CLIENT"),
                ("listener.name.other.max.connections", most),
            ];
            let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
            BrokerConfig::load(&Sources { flags, ..Sources::default() })
        };
        let config = load("5").expect("a configuration").config;
        assert_eq!(config.max_connections_of_listeners, BTreeMap::from([(ListenerName::new("OTHER"), 5)]));
        let refusal = load("-1").expect_err("refused").to_string();
        assert!(refusal.contains("listener.name.other.max.connections=-1"), "{refusal}");
    }
}
