//! The quotas that the configurations of users, clients and addresses may hold.

use crate::nodes::config::ConfigKind;

/// What a quota bounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum QuotaKind {
    ProducerByteRate,
    ConsumerByteRate,
    RequestPercentage,
    ControllerMutationRate,
    ConnectionCreationRate,
}

impl QuotaKind {
    pub const ALL: [Self; 5] = [
        Self::ProducerByteRate,
        Self::ConsumerByteRate,
        Self::RequestPercentage,
        Self::ControllerMutationRate,
        Self::ConnectionCreationRate,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProducerByteRate => "producer_byte_rate",
            Self::ConsumerByteRate => "consumer_byte_rate",
            Self::RequestPercentage => "request_percentage",
            Self::ControllerMutationRate => "controller_mutation_rate",
            Self::ConnectionCreationRate => "connection_creation_rate",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Whether configurations of this kind of entity can hold the quota.
    pub fn is_for(self, kind: ConfigKind) -> bool {
        match kind {
            ConfigKind::Ips => self == Self::ConnectionCreationRate,
            ConfigKind::Clients | ConfigKind::Users | ConfigKind::UserClients => self != Self::ConnectionCreationRate,
            ConfigKind::Topics | ConfigKind::Brokers | ConfigKind::Groups | ConfigKind::ClientMetrics => false,
        }
    }

    /// Kafka holds rates of bytes and of connections in whole numbers.
    fn is_whole(self) -> bool {
        !matches!(self, Self::RequestPercentage | Self::ControllerMutationRate)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidQuota {
    #[error("Quota {0} must be greater than 0")]
    NotPositive(String),
    #[error("Invalid value {1} for quota {0}: it is no number")]
    NotANumber(String, String),
    #[error("Configuration {0} should be a whole number")]
    NotWhole(String),
    #[error("Invalid configuration key {0}")]
    UnknownKey(String),
}

/// A value of a quota.
pub fn parse(kind: QuotaKind, value: &str) -> Result<f64, InvalidQuota> {
    let name = || kind.as_str().to_owned();
    let number: f64 = value.trim().parse().map_err(|_| InvalidQuota::NotANumber(name(), value.to_owned()))?;
    if !number.is_finite() {
        return Err(InvalidQuota::NotANumber(name(), value.to_owned()));
    }
    // An address may be barred from connecting at all.
    if number < 0.0 || (number == 0.0 && kind != QuotaKind::ConnectionCreationRate) {
        return Err(InvalidQuota::NotPositive(name()));
    }
    if kind.is_whole() && (number - number.round()).abs() > 1e-6 {
        return Err(InvalidQuota::NotWhole(name()));
    }
    Ok(number)
}

/// Checks one entry of the configuration of a user, a client or an address. Users have other entries as well: their
/// credentials.
pub fn validate(entity: ConfigKind, name: &str, value: &str) -> Result<(), InvalidQuota> {
    match QuotaKind::parse(name) {
        Some(kind) if kind.is_for(entity) => parse(kind, value).map(|_| ()),
        Some(_) => Err(InvalidQuota::UnknownKey(name.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_positive_numbers_of_their_entities() {
        let check = |kind, name: &str, value: &str| validate(kind, name, value).map_err(|error| error.to_string());
        assert_eq!(check(ConfigKind::Users, "producer_byte_rate", "1048576"), Ok(()));
        assert_eq!(check(ConfigKind::UserClients, "request_percentage", "12.5"), Ok(()));
        assert_eq!(check(ConfigKind::Users, "producer_byte_rate", "1.0E7"), Ok(()));
        assert_eq!(check(ConfigKind::Ips, "connection_creation_rate", "0"), Ok(()));
        assert_eq!(check(ConfigKind::Users, "SCRAM-SHA-256", "salt=x"), Ok(()));
        for (kind, name, value) in [
            (ConfigKind::Users, "producer_byte_rate", "0"),
            (ConfigKind::Users, "producer_byte_rate", "-1"),
            (ConfigKind::Users, "consumer_byte_rate", "1.5"),
            (ConfigKind::Clients, "request_percentage", "NaN"),
            (ConfigKind::Clients, "request_percentage", "inf"),
            (ConfigKind::Clients, "controller_mutation_rate", "many"),
            (ConfigKind::Users, "connection_creation_rate", "1"),
            (ConfigKind::Ips, "producer_byte_rate", "1"),
        ] {
            assert!(check(kind, name, value).is_err(), "{name}={value}");
        }
    }
}
