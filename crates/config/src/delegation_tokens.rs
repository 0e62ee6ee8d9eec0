//! Delegation tokens: whether there are any, and how long they live.

use std::time::Duration;

use ottla_tls::Password;

use crate::error::ConfigError;
use crate::reader::Reader;

#[derive(Clone, Debug)]
pub struct DelegationTokenConfig {
    /// `delegation.token.secret.key`: the HMACs of tokens are made with it; the same on all brokers.
    pub secret: Password,
    /// `delegation.token.max.lifetime.ms`.
    pub lifetime_max: Duration,
    /// `delegation.token.expiry.time.ms`: how long a token lives without a renewal.
    pub renewal: Duration,
    /// `delegation.token.expiry.check.interval.ms`.
    pub check_interval: Duration,
}

impl DelegationTokenConfig {
    /// None without a secret: there are no tokens.
    pub(crate) fn read(reader: &Reader<'_>) -> Result<Option<Self>, ConfigError> {
        let config = |secret: &str| {
            Ok(Self {
                secret: Password::new(secret),
                lifetime_max: reader.duration_ms("delegation.token.max.lifetime.ms", 1)?,
                renewal: reader.duration_ms("delegation.token.expiry.time.ms", 1)?,
                check_interval: reader.duration_ms("delegation.token.expiry.check.interval.ms", 1)?,
            })
        };
        reader.text("delegation.token.secret.key").map(config).transpose()
    }
}
