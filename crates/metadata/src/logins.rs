//! With what clients log in, as an image has it.

use ottla_model::TimestampMs;

use crate::image::{ConfigEntity, ConfigKind, Image};
use crate::nodes::delegation_token::DelegationToken;

/// Rules that a simulation takes out to see that its checks notice. All hold by default; nothing but tests sets them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// A delegation token is good for as long as it is in the tree.
    pub expired_tokens_log_in: bool,
}

impl Image {
    /// The text of a user's SCRAM credential for a mechanism.
    pub fn scram_credential(&self, user: &str, mechanism: &str) -> Option<&str> {
        let entity = ConfigEntity { kind: ConfigKind::Users, name: user.to_owned() };
        self.config(&entity)?.entries.get(mechanism).map(String::as_str)
    }

    /// The delegation token of this id, unless its time is over.
    pub fn valid_token(&self, id: &str, now: TimestampMs, rules: BrokenRules) -> Option<&DelegationToken> {
        self.delegation_token(id).filter(|token| rules.expired_tokens_log_in || !token.is_expired(now))
    }
}
