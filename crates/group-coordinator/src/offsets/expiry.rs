//! Offsets that nobody has used for `offsets.retention.minutes`, by Kafka's rules (KIP-211).

use std::ops::Bound;

use ottla_model::{GroupId, TimestampMs};

use super::{Committed, Key, OffsetStore};
use crate::config::GroupConfig;
use crate::group::{Group, OffsetExpiry};
use crate::record::Record;

/// What a look at a group's offsets found.
#[derive(Default)]
pub(crate) struct Expired {
    pub(crate) tombstones: Vec<Record>,
    pub(crate) looked_at: usize,
    /// The group has no offsets but those that expire now.
    pub(crate) nothing_left: bool,
    /// More offsets follow this one; none: all were looked at.
    pub(crate) next: Option<Key>,
    last: Option<Key>,
}

impl OffsetStore {
    /// Looks at up to `limit` offsets of a group, those after `after`.
    ///
    /// An offset that carries its own expiry goes by that; the others by the retention, counted from where the group
    /// says. While the group has members, offsets of topics that it reads do not expire.
    pub(crate) fn expire(
        &self,
        id: &GroupId,
        group: &Group,
        now: TimestampMs,
        config: &GroupConfig,
        after: Option<Key>,
        limit: usize,
    ) -> Expired {
        let Some(offsets) = self.groups.get(id) else { return Expired { nothing_left: true, ..Expired::default() } };
        let expiry = group.offset_expiry();
        if expiry == OffsetExpiry::Never {
            return Expired::default();
        }
        let mut expired = Expired::default();
        // Whether the group reads the topic is asked once a topic: entries are in order of topics.
        let mut last = None;
        let is_whole = after.is_none();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (at, committed) in offsets.committed.range((from, Bound::Unbounded)) {
            if expired.looked_at == limit {
                expired.next = expired.last;
                return expired;
            }
            expired.looked_at += 1;
            expired.last = Some(*at);
            let (topic, _) = *at;
            let subscribed = match last {
                Some((same, subscribed)) if same == topic => subscribed,
                _ => group.is_subscribed_to(self.names.name(topic)),
            };
            last = Some((topic, subscribed));
            if !subscribed && is_expired(committed, expiry, now, config) && !offsets.in_flight.contains_key(at) {
                expired.tombstones.push(self.tombstone(id, *at));
            }
        }
        // A group that was looked at in pieces is empty in the next round.
        expired.nothing_left =
            is_whole && expired.tombstones.len() == offsets.committed.len() && offsets.in_flight.is_empty();
        expired
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
