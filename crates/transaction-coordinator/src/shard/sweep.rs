//! What is looked for from time to time: transactions that run longer than their producers asked for, and ids that
//! nobody has used for long.

use std::ops::Bound;
use std::time::Duration;

use ottla_model::{MonotonicMs, TimestampMs, TransactionalId};

use super::{Change, Effects, Shard};
use crate::Now;
use crate::config::TransactionConfig;
use crate::effects::{BATCH_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES};
use crate::record;
use crate::transaction::TransactionState;

/// Ids that one piece of the search for expired ones looks at, so that requests are answered between two pieces.
const IDS_PER_PIECE: usize = 1_024;

/// The part of a shard's idle ids, one of so many, that makes room at once: a look at all of them makes room for many.
const FORGOTTEN_AT_ONCE: usize = 10;

/// When the shard looks next. None until it is loaded.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    timed_out: Option<MonotonicMs>,
    expired: Option<MonotonicMs>,
    /// The id after which the search for expired ones goes on; none at the start of a round.
    after: Option<TransactionalId>,
}

impl Sweeps {
    pub(super) fn begin(&mut self, now: Now, config: &TransactionConfig) {
        self.timed_out = Some(now.monotonic + interval(config.abort_timed_out_interval_ms));
        self.expired = Some(now.monotonic + interval(config.remove_expired_interval_ms));
        self.after = None;
    }

    pub(super) fn next(&self, has_deadlines: bool) -> Option<MonotonicMs> {
        [self.timed_out.filter(|_| has_deadlines), self.expired].into_iter().flatten().min()
    }
}

fn interval(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0).max(1))
}

impl Shard {
    /// A transaction runs: it has what is left of its time.
    pub(super) fn set_deadline(&mut self, now: Now, id: &TransactionalId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.current.is_two_phase() {
            return;
        }
        let timeout = i64::from(entry.current.timeout_ms).max(0);
        // A wall clock that was set back, or another broker's, does not make a transaction last longer.
        let ran = now.wall.0.saturating_sub(entry.current.start.0).clamp(0, timeout);
        let at = now.monotonic + Duration::from_millis(u64::try_from(timeout - ran).unwrap_or(0));
        entry.deadline = Some(at);
        self.deadlines.insert((at, id.clone()));
    }

    /// Aborts what ran out of time.
    pub(super) fn abort_timed_out(&mut self, now: Now) -> Effects {
        let mut effects = Effects::default();
        if self.sweeps.timed_out.is_none_or(|at| at > now.monotonic) {
            return effects;
        }
        self.sweeps.timed_out = Some(now.monotonic + interval(self.config.abort_timed_out_interval_ms));
        let due: Vec<TransactionalId> =
            self.deadlines.iter().take_while(|(at, _)| *at < now.monotonic).map(|(_, id)| id.clone()).collect();
        for id in due {
            let Some(entry) = self.entries.get(&id) else { continue };
            // The change in flight decides; what still runs after it is found by the next look.
            if !entry.is_changing {
                let aborted = self.fence(&entry.current, now);
                effects.extend(self.propose(now, &id, aborted, None));
            }
        }
        effects
    }

    /// Forgets ids that were not used for `transactional.id.expiration.ms`; one piece of the round.
    pub(super) fn remove_expired(&mut self, now: Now) -> Effects {
        if self.sweeps.expired.is_none_or(|at| at > now.monotonic) {
            return Effects::default();
        }
        let from = self.sweeps.after.take().map_or(Bound::Unbounded, Bound::Excluded);
        let until = now.wall.0.saturating_sub(i64::from(self.config.id_expiration_ms));
        let piece = self.entries.range::<TransactionalId, _>((from, Bound::Unbounded)).take(IDS_PER_PIECE);
        let (mut expired, mut looked_at, mut last) = (Vec::new(), 0, None);
        for (id, entry) in piece {
            (looked_at, last) = (looked_at + 1, Some(id.clone()));
            if entry.is_idle() && entry.current.last_update.0 <= until {
                expired.push(id.clone());
            }
        }
        if looked_at < IDS_PER_PIECE {
            self.sweeps.expired = Some(now.monotonic + interval(self.config.remove_expired_interval_ms));
        } else {
            self.sweeps.after = last;
        }
        self.forget_ids(now, expired)
    }

    /// Forgets some ids that run no transaction, because the broker's ids hold as much as they may: those that never
    /// had a transaction first, then those that were not used for the longest time.
    pub(super) fn make_room(&mut self, now: Now) -> Effects {
        if self.leaving > 0 {
            // Their tombstones are on the way.
            return Effects::default();
        }
        let mut oldest: Vec<(bool, TimestampMs, TransactionalId)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_idle())
            .map(|(id, entry)| {
                let had_transaction = entry.current.state != TransactionState::Empty;
                (had_transaction, entry.current.last_update, id.clone())
            })
            .collect();
        oldest.sort_unstable();
        oldest.truncate(oldest.len().div_ceil(FORGOTTEN_AT_ONCE).min(IDS_PER_PIECE));
        self.forget_ids(now, oldest.into_iter().map(|(_, _, id)| id).collect())
    }

    /// Writes tombstones, in batches that the log takes.
    fn forget_ids(&mut self, now: Now, ids: Vec<TransactionalId>) -> Effects {
        let limit = self.batch_bytes_max();
        let mut effects = Effects::default();
        let (mut records, mut changes, mut bytes) = (Vec::new(), Vec::new(), BATCH_OVERHEAD_BYTES);
        for id in ids {
            let tombstone = record::encode(&id, None);
            let size = RECORD_OVERHEAD_BYTES + tombstone.key.len();
            if bytes + size > limit && !records.is_empty() {
                effects.extend(self.batch(now, std::mem::take(&mut records), std::mem::take(&mut changes)));
                bytes = BATCH_OVERHEAD_BYTES;
            }
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.is_changing = true;
            }
            self.leaving += 1;
            bytes += size;
            records.push(tombstone);
            changes.push(Change { id, next: None, answer: None });
        }
        if !records.is_empty() {
            effects.extend(self.batch(now, records, changes));
        }
        effects
    }
}
