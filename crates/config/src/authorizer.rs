//! The authorizer: whether there is one, and what it does not ask its rules for.

use std::collections::BTreeSet;

use ottla_model::KafkaPrincipal;

use crate::error::ConfigError;
use crate::reader::{Reader, one_of, principals};

/// Kafka's authorizers, of both eras. All of them decide alike here.
const CLASSES: &[&str] = &[
    "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "kafka.security.authorizer.AclAuthorizer",
    "kafka.security.auth.SimpleAclAuthorizer",
];

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuthorizerConfig {
    /// `super.users`: principals that may do everything.
    pub super_users: BTreeSet<KafkaPrincipal>,
    /// `allow.everyone.if.no.acl.found`.
    pub allow_everyone_if_no_acl_found: bool,
}

impl AuthorizerConfig {
    /// None without `authorizer.class.name`: everybody may do everything.
    pub(crate) fn read(reader: &Reader<'_>) -> Result<Option<Self>, ConfigError> {
        const CLASS: &str = "authorizer.class.name";
        let Some(class) = reader.property(CLASS) else { return Ok(None) };
        one_of(CLASS, class, &class.value, CLASSES)?;
        let allow_everyone_if_no_acl_found = reader.boolean("allow.everyone.if.no.acl.found")?;
        Ok(Some(Self { super_users: principals(reader, "super.users")?, allow_everyone_if_no_acl_found }))
    }
}
