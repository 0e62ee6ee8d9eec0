//! The roles of those who call a coordinator.

use std::collections::BTreeSet;

use ottla_model::KafkaPrincipal;

use crate::error::ConfigError;
use crate::reader::{Reader, principals};

/// Principals of certificates, by the roles that they have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RolesConfig {
    pub read: BTreeSet<KafkaPrincipal>,
    pub operate: BTreeSet<KafkaPrincipal>,
    pub admin: BTreeSet<KafkaPrincipal>,
    /// Brokers and coordinators.
    pub member: BTreeSet<KafkaPrincipal>,
}

impl RolesConfig {
    /// None without any of them: callers have no roles.
    pub(crate) fn read(reader: &Reader<'_>) -> Result<Option<Self>, ConfigError> {
        let roles = Self {
            read: principals(reader, "roles.read")?,
            operate: principals(reader, "roles.operate")?,
            admin: principals(reader, "roles.admin")?,
            member: principals(reader, "roles.member")?,
        };
        Ok(Some(roles).filter(|roles| *roles != Self::default()))
    }
}
