//! The sweep for offsets that nobody has used for `offsets.retention.minutes`, and for groups that are left with
//! nothing.
//!
//! It runs every `offsets.retention.check.interval.ms` and goes through the groups in pieces, so that a shard with very
//! many groups answers requests between two pieces.

use std::ops::Bound;
use std::time::Duration;

use ottla_model::{GroupId, MonotonicMs};

use super::pace::{GROUPS_PER_PIECE, OFFSETS_PER_PIECE};
use super::{Effects, Shard};
use crate::Now;
use crate::config::GroupConfig;
use crate::effects::{BATCH_OVERHEAD_BYTES, Batch};
use crate::offsets::Key;
use crate::record::Record;

/// Where the sweep stands.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// None until the shard is loaded.
    next: Option<MonotonicMs>,
    /// The group after which the sweep goes on, or, with a key, within which it goes on after that; none at the start
    /// of a round.
    after: Option<(GroupId, Option<Key>)>,
}

impl Sweep {
    pub(super) fn begin(&mut self, now: Now, config: &GroupConfig) {
        let interval = u64::try_from(config.offsets_retention_check_interval_ms).unwrap_or(0).max(1);
        self.next = Some(now.monotonic + Duration::from_millis(interval));
        self.after = None;
    }

    pub(super) fn next(&self) -> Option<MonotonicMs> {
        self.next
    }
}

impl Shard {
    /// One piece of the sweep, if it is due.
    pub(super) fn sweep_expired_offsets(&mut self, now: Now) -> Effects {
        let mut effects = Effects::default();
        if self.sweep.next.is_none_or(|next| next > now.monotonic) {
            return effects;
        }
        let (from, mut within) = match self.sweep.after.take() {
            Some((group, None)) => (Bound::Excluded(group), None),
            Some((group, within)) => (Bound::Included(group), within),
            None => (Bound::Unbounded, None),
        };
        let next = self.groups.range::<GroupId, _>((from, Bound::Unbounded)).take(GROUPS_PER_PIECE);
        let piece: Vec<GroupId> = next.map(|(id, _)| id.clone()).collect();
        let mut offsets_left = OFFSETS_PER_PIECE;
        for id in &piece {
            let Some(group) = self.groups.get(id) else { continue };
            let found = self.offsets.expire(id, group, now.wall, &self.config, within.take(), offsets_left);
            let mut records = found.tombstones;
            offsets_left = offsets_left.saturating_sub(found.looked_at);
            if found.nothing_left && group.is_empty() {
                records.extend(group.tombstones(id));
                self.groups.remove(id);
                self.timers.cancel_group(id);
                // It may have given ids out, which were counted.
                self.measure(id);
            }
            effects.extend(self.append_in_pieces(now, id, records));
            if offsets_left == 0 || found.next.is_some() {
                self.sweep.after = Some((id.clone(), found.next));
                return effects;
            }
        }
        if piece.len() < GROUPS_PER_PIECE {
            self.sweep.begin(now, &self.config);
        } else {
            self.sweep.after = piece.last().map(|last| (last.clone(), None));
        }
        effects
    }

    /// Appends records that need not be all or nothing, in as many batches as the log's limit asks for.
    pub(super) fn append_in_pieces(&mut self, now: Now, group: &GroupId, records: Vec<Record>) -> Effects {
        let limit = usize::try_from(self.config.max_batch_bytes).unwrap_or(0);
        let mut batches: Vec<Batch> = Vec::new();
        let (mut piece, mut bytes) = (Vec::new(), BATCH_OVERHEAD_BYTES);
        for record in records {
            let size = record.encode().size_bytes();
            if bytes + size > limit && !piece.is_empty() {
                batches.push(self.batch(now, group, std::mem::take(&mut piece), Vec::new()));
                bytes = BATCH_OVERHEAD_BYTES;
            }
            bytes += size;
            piece.push(record);
        }
        if !piece.is_empty() {
            batches.push(self.batch(now, group, piece, Vec::new()));
        }
        Effects { batches, ..Effects::default() }
    }
}
