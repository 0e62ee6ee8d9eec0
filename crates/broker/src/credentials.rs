//! What a broker knows of its users: SCRAM credentials of the cluster's tree (`/config/users`), and users of the
//! configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_config::SaslConfig;
use ottla_metadata::{ConfigEntity, ConfigKind, Image};
use ottla_model::{ClusterSecret, ListenerName};
use ottla_replica_manager::live_config::LiveConfig;
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_sasl::oauth::{Bearer, TokenError};
use ottla_sasl::{Credentials, ScramCredential, ScramHash, TokenCredential};

use crate::delegation_tokens::Tokens;
use crate::oauth::BearerChecks;

/// The credentials of a user in the cluster's tree.
pub fn of_user(image: &Image, user: &str) -> BTreeMap<ScramHash, ScramCredential> {
    let entity = ConfigEntity { kind: ConfigKind::Users, name: user.to_owned() };
    image.config(&entity).map(|config| of_entries(&config.entries)).unwrap_or_default()
}

/// The credentials among the configurations of a user.
pub fn of_entries(entries: &BTreeMap<String, String>) -> BTreeMap<ScramHash, ScramCredential> {
    let credential =
        |hash: ScramHash| Some((hash, ScramCredential::from_text(hash, entries.get(hash.mechanism_name())?)?));
    ScramHash::ALL.into_iter().filter_map(credential).collect()
}

/// The users of one listener.
pub struct ListenerUsers {
    listener: ListenerName,
    live: Arc<LiveConfig>,
    metadata: Arc<MetadataCache>,
    /// Of `SaslConfig::scram_users`, derived once.
    configured: BTreeMap<(ScramHash, String), ScramCredential>,
    nobody_secret: [u8; 32],
    tokens: Option<Arc<Tokens>>,
    /// Of OAUTHBEARER.
    bearer: Option<Arc<BearerChecks>>,
}

impl ListenerUsers {
    /// Derives the keys of users in the configuration: some milliseconds for each.
    pub fn new(
        listener: &ListenerName,
        config: &SaslConfig,
        live: Arc<LiveConfig>,
        metadata: Arc<MetadataCache>,
        tokens: Option<Arc<Tokens>>,
        bearer: Option<Arc<BearerChecks>>,
    ) -> Self {
        let nobody_secret = nobody_secret(live.fixed().cluster_secret.as_ref());
        let mut configured = BTreeMap::new();
        for (user, password) in &config.scram_users {
            for hash in ScramHash::ALL {
                let credential = ScramCredential::of_configured(hash, &nobody_secret, user, password.reveal());
                configured.insert((hash, user.clone()), credential);
            }
        }
        Self { listener: listener.clone(), live, metadata, configured, nobody_secret, tokens, bearer }
    }
}

/// All brokers of a cluster show the same salt for a user that does not exist, also after a restart, as they do for one
/// that does: other salts would tell which users exist. Without a secret that they share they cannot.
fn nobody_secret(cluster: Option<&ClusterSecret>) -> [u8; 32] {
    cluster.map_or_else(rand::random, |cluster| ottla_sasl::nobody_secret(cluster.as_bytes()))
}

impl Credentials for ListenerUsers {
    fn password(&self, user: &str) -> Option<String> {
        // Login modules may change while the broker runs.
        let config = self.live.current();
        let sasl = config.security.listeners.get(&self.listener)?.sasl.as_ref()?;
        sasl.plain_users.get(user).map(|password| password.reveal().to_owned())
    }

    fn scram(&self, hash: ScramHash, user: &str) -> Option<ScramCredential> {
        let image = self.metadata.peek();
        let of_cluster = image.scram_credential(user, hash.mechanism_name());
        let of_cluster = of_cluster.and_then(|text| ScramCredential::from_text(hash, text));
        of_cluster.or_else(|| self.configured.get(&(hash, user.to_owned())).cloned())
    }

    fn token(&self, hash: ScramHash, id: &str) -> Option<TokenCredential> {
        self.tokens.as_ref()?.credential(&self.metadata.peek(), hash, id, &self.nobody_secret)
    }

    fn bearer(&self, token: &str) -> Result<Bearer, TokenError> {
        let checks = self.bearer.as_ref().ok_or_else(|| TokenError::UnknownKey(String::new()))?;
        checks.check(token)
    }

    fn nobody_secret(&self) -> [u8; 32] {
        self.nobody_secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_of_a_cluster_show_the_same_of_a_user_that_does_not_exist() {
        let secret = ClusterSecret::new("s3cret");
        assert_eq!(nobody_secret(Some(&secret)), nobody_secret(Some(&secret)));
        assert_ne!(nobody_secret(Some(&secret)), nobody_secret(Some(&ClusterSecret::new("other"))));
        assert_ne!(nobody_secret(None), nobody_secret(None));
    }
}
