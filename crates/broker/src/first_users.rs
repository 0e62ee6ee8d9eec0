//! The users that `kafka-storage format --add-scram` named: made at a broker's first start, where they are not there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_config::{BrokerConfig, FormattedUser, formatted_users};
use ottla_metadata::controller::{AlterConfig, AlterConfigs, ConfigOp};
use ottla_metadata::{ConfigEntity, ConfigKind, Image};
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::quorum_handle::QuorumHandle;

use crate::credentials;

const PATIENCE: Duration = Duration::from_secs(30);

pub async fn create(config: Arc<BrokerConfig>, metadata: Arc<MetadataCache>, quorum: Arc<dyn QuorumHandle>) {
    let read = move || config.log_dirs.iter().flat_map(|directory| formatted_users(directory)).collect::<Vec<_>>();
    let users = tokio::task::spawn_blocking(read).await.unwrap_or_default();
    let entities = missing(&metadata.current(), users);
    if entities.is_empty() {
        return;
    }
    let names: Vec<String> = entities.iter().map(|alter| alter.entity.name.clone()).collect();
    match quorum.submit(AlterConfigs { entities, validate_only: false }, PATIENCE).await {
        Ok(outcomes) => {
            for (entity, refusal) in outcomes.entities {
                if let Some(refusal) = refusal {
                    tracing::warn!(user = entity.name, %refusal, "a user of kafka-storage was not made");
                }
            }
            tracing::info!(?names, "users of kafka-storage");
        }
        Err(error) => tracing::warn!(?names, %error, "users of kafka-storage were not made"),
    }
}

/// The credentials that the image lacks: what was changed since the format stays.
fn missing(image: &Image, users: Vec<FormattedUser>) -> Vec<AlterConfig> {
    let mut changes: BTreeMap<String, BTreeMap<String, ConfigOp>> = BTreeMap::new();
    for user in users {
        if !credentials::of_user(image, &user.name).contains_key(&user.hash) {
            let op = ConfigOp::Set(user.credential.to_text());
            changes.entry(user.name).or_default().insert(user.hash.mechanism_name().to_owned(), op);
        }
    }
    let alter = |(name, changes): (String, BTreeMap<String, ConfigOp>)| AlterConfig {
        entity: ConfigEntity { kind: ConfigKind::Users, name },
        changes: changes.into_iter().collect(),
        replace_all: false,
    };
    changes.into_iter().map(alter).collect()
}
