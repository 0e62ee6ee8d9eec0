//! What the broker's configuration, and that of single groups in the tree, mean for groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_config::{BrokerConfig, MigrationPolicy as ConfiguredPolicy};
use ottla_group_coordinator::GroupConfig;
use ottla_group_coordinator::config::{GroupOverrides, MigrationPolicy};
use ottla_group_coordinator::shard::Budget;
use ottla_metadata::{ConfigKind, Image};
use ottla_model::GroupId;

const MINUTE_MS: i64 = 60_000;

/// As groups want it.
pub fn group_config(config: &BrokerConfig, image: &Image, budget: &Arc<Budget>) -> GroupConfig {
    let groups = &config.groups;
    GroupConfig {
        group_min_session_timeout_ms: groups.group_min_session_timeout_ms,
        group_max_session_timeout_ms: groups.group_max_session_timeout_ms,
        group_initial_rebalance_delay_ms: groups.group_initial_rebalance_delay_ms,
        group_max_size: groups.group_max_size,
        offset_metadata_max_bytes: groups.offset_metadata_max_bytes,
        offsets_retention_ms: i64::from(groups.offsets_retention_minutes) * MINUTE_MS,
        offsets_retention_check_interval_ms: groups.offsets_retention_check_interval_ms,
        max_batch_bytes: i32::try_from(config.message_max_bytes).unwrap_or(i32::MAX),
        consumer_session_timeout_ms: groups.consumer_session_timeout_ms,
        consumer_min_session_timeout_ms: groups.consumer_min_session_timeout_ms,
        consumer_max_session_timeout_ms: groups.consumer_max_session_timeout_ms,
        consumer_heartbeat_interval_ms: groups.consumer_heartbeat_interval_ms,
        consumer_heartbeat_interval_is_set: groups.consumer_heartbeat_interval_is_set,
        consumer_max_size: groups.consumer_max_size,
        consumer_assignors: groups.consumer_assignors.iter().map(|name| (*name).to_owned()).collect(),
        consumer_migration_policy: match groups.consumer_migration_policy {
            ConfiguredPolicy::Bidirectional => MigrationPolicy::Bidirectional,
            ConfiguredPolicy::Upgrade => MigrationPolicy::Upgrade,
            ConfiguredPolicy::Downgrade => MigrationPolicy::Downgrade,
            ConfiguredPolicy::Disabled => MigrationPolicy::Disabled,
        },
        budget: Arc::clone(budget),
        overrides: overrides(image),
    }
}

/// What is set on single groups. Walks the configurations of the cluster: for when one of a group has changed.
fn overrides(image: &Image) -> BTreeMap<GroupId, GroupOverrides> {
    let groups = image.configs().filter(|(entity, _)| entity.kind == ConfigKind::Groups);
    groups
        .map(|(entity, config)| {
            // Judged before it was written.
            let number = |name: &str| config.entries.get(name).and_then(|value| value.trim().parse().ok());
            let overrides = GroupOverrides {
                consumer_session_timeout_ms: number("consumer.session.timeout.ms"),
                consumer_heartbeat_interval_ms: number("consumer.heartbeat.interval.ms"),
            };
            (GroupId::new(entity.name.as_str()), overrides)
        })
        .filter(|(_, overrides)| *overrides != GroupOverrides::default())
        .collect()
}

#[cfg(test)]
mod tests {
    use ottla_config::HostPort;
    use ottla_metadata::{ConfigEntity, Node, nodes};
    use ottla_model::Revision;

    use super::*;

    #[test]
    fn the_defaults_are_the_cores_and_groups_have_their_own() {
        let config = BrokerConfig::on_loopback(0, "unused", &[HostPort::new("127.0.0.1", 2181)]).expect("valid");
        let budget = Arc::default();
        assert_eq!(group_config(&config, &Image::empty(), &budget), GroupConfig::default());
        let entries = [("consumer.session.timeout.ms", "50000"), ("consumer.unknown", "x")];
        let entries = entries.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let (revision, entity) = (Revision(1), ConfigEntity::group("g"));
        let node = Node { payload: nodes::config::encode(&entries), created: revision, modified: revision, version: 0 };
        let image = Image::from_nodes(revision, [(&entity.path(), &node)]).0;
        let config = group_config(&config, &image, &budget);
        assert_eq!(config.consumer_session_timeout_of(&GroupId::new("g")), 50_000);
        assert_eq!(config.consumer_session_timeout_of(&GroupId::new("other")), 45_000);
    }
}
