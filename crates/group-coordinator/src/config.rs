//! What the broker's configuration says about groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_model::GroupId;

use crate::budget::Budget;

/// Limits and times of groups; the names are those of Kafka's broker properties. Times in milliseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupConfig {
    pub group_min_session_timeout_ms: i32,
    pub group_max_session_timeout_ms: i32,
    pub group_initial_rebalance_delay_ms: i32,
    pub group_max_size: i32,
    pub offset_metadata_max_bytes: i32,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    pub offsets_retention_check_interval_ms: i64,
    /// `offsets.topic.segment.bytes` bounds nothing here; a batch may not be larger than `max.message.bytes` of the
    /// partition.
    pub max_batch_bytes: i32,
    pub consumer_session_timeout_ms: i32,
    pub consumer_min_session_timeout_ms: i32,
    pub consumer_max_session_timeout_ms: i32,
    /// The longest interval that members of consumer groups are told; small and unsettled groups are told less (see the
    /// ADR).
    pub consumer_heartbeat_interval_ms: i32,
    /// The interval was set by somebody: it is what members are told.
    pub consumer_heartbeat_interval_is_set: bool,
    pub consumer_max_size: i32,
    /// `group.consumer.assignors`: names of assignors that run here; the first is the default.
    pub consumer_assignors: Vec<String>,
    pub consumer_migration_policy: MigrationPolicy,
    /// What the groups of all partitions may hold together; every configuration of a broker has the same.
    pub budget: Arc<Budget>,
    /// What is configured for single groups (config resources of type group), within the bounds of the broker's
    /// configuration.
    pub overrides: BTreeMap<GroupId, GroupOverrides>,
}

/// What may be configured for one group; none: as for all groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GroupOverrides {
    /// `consumer.session.timeout.ms`.
    pub consumer_session_timeout_ms: Option<i32>,
    /// `consumer.heartbeat.interval.ms`.
    pub consumer_heartbeat_interval_ms: Option<i32>,
}

impl GroupConfig {
    /// How long a member of a consumer group may be silent.
    pub fn consumer_session_timeout_of(&self, group: &GroupId) -> i32 {
        let own = self.overrides.get(group).and_then(|own| own.consumer_session_timeout_ms);
        own.map_or(self.consumer_session_timeout_ms, |own| {
            own.max(self.consumer_min_session_timeout_ms).min(self.consumer_max_session_timeout_ms)
        })
    }

    /// The interval that was set for a consumer group, or for all of them; none: the coordinator chooses, up to
    /// `consumer_heartbeat_interval_ms`.
    pub fn consumer_heartbeat_interval_of(&self, group: &GroupId) -> Option<i32> {
        let own = self.overrides.get(group).and_then(|own| own.consumer_heartbeat_interval_ms);
        own.or(self.consumer_heartbeat_interval_is_set.then_some(self.consumer_heartbeat_interval_ms))
    }
}

/// `group.consumer.migration.policy`: which way groups may change their protocol while they have members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrationPolicy {
    Bidirectional,
    /// Only classic to consumer.
    Upgrade,
    /// Only consumer to classic.
    Downgrade,
    Disabled,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            group_min_session_timeout_ms: 6_000,
            group_max_session_timeout_ms: 1_800_000,
            group_initial_rebalance_delay_ms: 3_000,
            group_max_size: i32::MAX,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            offsets_retention_check_interval_ms: 600_000,
            max_batch_bytes: 1_048_588,
            consumer_session_timeout_ms: 45_000,
            consumer_min_session_timeout_ms: 45_000,
            consumer_max_session_timeout_ms: 60_000,
            consumer_heartbeat_interval_ms: 5_000,
            consumer_heartbeat_interval_is_set: false,
            consumer_max_size: i32::MAX,
            consumer_assignors: vec!["uniform".to_owned(), "range".to_owned()],
            consumer_migration_policy: MigrationPolicy::Bidirectional,
            budget: Arc::default(),
            overrides: BTreeMap::new(),
        }
    }
}
