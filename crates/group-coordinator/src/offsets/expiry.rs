//! Offsets that nobody has used for `offsets.retention.minutes`, by Kafka's rules (KIP-211).

use ottla_model::{GroupId, TimestampMs};

use super::{Committed, OffsetStore};
use crate::config::GroupConfig;
use crate::group::{Group, OffsetExpiry};
use crate::record::Record;

impl OffsetStore {
    /// The tombstones of a group's expired offsets, and whether nothing is left with them.
    ///
    /// An offset that carries its own expiry goes by that; the others by the retention, counted from where the group says. While the
    /// group has members, offsets of topics that it reads do not expire.
    pub(crate) fn expire(
        &self,
        id: &GroupId,
        group: &Group,
        now: TimestampMs,
        config: &GroupConfig,
    ) -> (Vec<Record>, bool) {
        let Some(offsets) = self.groups.get(id) else { return (Vec::new(), true) };
        let expiry = group.offset_expiry();
        if expiry == OffsetExpiry::Never {
            return (Vec::new(), false);
        }
        let mut records = Vec::new();
        // Whether the group reads the topic is asked once a topic: entries are in order of topics.
        let mut last = None;
        for (at, committed) in &offsets.committed {
            let (topic, _) = *at;
            let subscribed = match last {
                Some((same, subscribed)) if same == topic => subscribed,
                _ => group.is_subscribed_to(self.names.name(topic)),
            };
            last = Some((topic, subscribed));
            if !subscribed && is_expired(committed, expiry, now, config) && !offsets.in_flight.contains_key(at) {
                records.push(self.tombstone(id, *at));
            }
        }
        let nothing_left = records.len() == offsets.committed.len() && offsets.in_flight.is_empty();
        (records, nothing_left)
    }
}

fn is_expired(committed: &Committed, expiry: OffsetExpiry, now: TimestampMs, config: &GroupConfig) -> bool {
    if let Some(expire_timestamp) = committed.expire_timestamp() {
        return now >= expire_timestamp;
    }
    let since = match expiry {
        OffsetExpiry::Never => return false,
        OffsetExpiry::SinceCommit => committed.commit_timestamp,
        OffsetExpiry::Since(empty_since) => empty_since,
    };
    now.0.saturating_sub(since.0) >= config.offsets_retention_ms
}
