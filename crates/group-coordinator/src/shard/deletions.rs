//! Offsets of topics that are gone go too: of topics that are deleted while the shard is served, and of those that went
//! before its log was read. Whoever read the log before may have ended before it had written the tombstones.
//!
//! A round goes through the groups in pieces, so that a shard with very many groups answers requests between two
//! pieces. It stands still while the log refuses records; tombstones that the log refused nevertheless are looked for
//! again.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Duration;

use ottla_model::{ErrorCode, GroupId, MonotonicMs, TopicName};

use super::in_flight::{Deletion, Pending};
use super::pace::{GROUPS_PER_PIECE, OFFSETS_PER_PIECE, PAUSE_AFTER_TOO_LARGE, PAUSE_WHILE_REFUSED};
use super::{Effects, Shard};
use crate::Now;
use crate::offsets::Key;
use crate::record::Record;
use crate::topics::Topics;

/// Until the next piece of a round: a timer that is due at once would keep others from the lock.
const PAUSE_BETWEEN_PIECES: Duration = Duration::from_millis(1);

/// The rounds that are due.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    /// When the next piece is due, if any is.
    at: MonotonicMs,
    round: Option<Round>,
    /// The next round compares every offset with the topics that there are.
    compares_all: bool,
    /// The topics of a later round. Only those that something is committed for.
    deleted: BTreeSet<TopicName>,
}

#[derive(Debug)]
struct Round {
    /// None: it compares every offset.
    deleted: Option<BTreeSet<TopicName>>,
    /// The group after which it goes on, or, with a key, within which it goes on after that; none at the start.
    after: Option<(GroupId, Option<Key>)>,
}

impl Deletions {
    pub(super) fn next(&self) -> Option<MonotonicMs> {
        (self.round.is_some() || self.compares_all || !self.deleted.is_empty()).then_some(self.at)
    }

    fn take_round(&mut self) -> Option<Round> {
        if let Some(round) = self.round.take() {
            return Some(round);
        }
        if std::mem::take(&mut self.compares_all) {
            return Some(Round { deleted: None, after: None });
        }
        let deleted = std::mem::take(&mut self.deleted);
        (!deleted.is_empty()).then_some(Round { deleted: Some(deleted), after: None })
    }
}

impl Shard {
    /// Topics are gone: what was committed for them goes too. Other changes of topics are found by each group's next
    /// heartbeat.
    pub fn topics_deleted(&mut self, now: Now, topics: &dyn Topics, deleted: &[TopicName]) -> Effects {
        let known = deleted.iter().filter(|name| self.offsets.has_topic(name.as_str()));
        self.deletions.deleted.extend(known.cloned());
        self.delete_gone(now, topics)
    }

    /// The log was read: what is gone by now was gone before, or nobody said so.
    pub(super) fn delete_outdated(&mut self, now: Now, topics: &dyn Topics) -> Effects {
        self.deletions.compares_all = true;
        self.delete_gone(now, topics)
    }

    /// One piece of a round, if one is due.
    pub(super) fn delete_gone(&mut self, now: Now, topics: &dyn Topics) -> Effects {
        let mut effects = Effects::default();
        if self.deletions.next().is_none_or(|at| at > now.monotonic) {
            return effects;
        }
        self.deletions.at = now.monotonic + PAUSE_BETWEEN_PIECES;
        if self.is_paused(now) {
            return effects;
        }
        let Some(mut round) = self.deletions.take_round() else { return effects };
        let kind = if round.deleted.is_some() { Deletion::Deleted } else { Deletion::NotFound };
        let gone = self.offsets.gone_topics(topics, round.deleted.as_ref());
        let (from, mut within) = match round.after.take() {
            Some((group, None)) => (Bound::Excluded(group), None),
            Some((group, within)) => (Bound::Included(group), within),
            None => (Bound::Unbounded, None),
        };
        let piece = self.offsets.groups_from(from, GROUPS_PER_PIECE);
        let mut offsets_left = OFFSETS_PER_PIECE;
        for id in &piece {
            let found = self.offsets.find_gone(&gone, id, within.take(), offsets_left);
            offsets_left = offsets_left.saturating_sub(found.looked_at);
            let written = self.append_in_pieces(now, id, found.tombstones);
            for batch in &written.batches {
                self.in_flight.deletes(batch.number, kind);
            }
            effects.extend(written);
            if offsets_left == 0 || found.next.is_some() {
                round.after = Some((id.clone(), found.next));
                self.deletions.round = Some(round);
                return effects;
            }
        }
        if piece.len() == GROUPS_PER_PIECE {
            round.after = piece.last().map(|last| (last.clone(), None));
            self.deletions.round = Some(round);
        }
        effects
    }

    /// The log refused tombstones: what they were for is looked for again.
    pub(super) fn deletion_refused(&mut self, now: Now, pending: &Pending, error: ErrorCode) {
        match pending.deletion {
            None => return,
            Some(Deletion::NotFound) => self.deletions.compares_all = true,
            Some(Deletion::Deleted) => {
                let names = pending.offsets.iter().filter_map(|record| match record {
                    Record::Offset { key, .. } => TopicName::new(&key.topic).ok(),
                    _ => None,
                });
                self.deletions.deleted.extend(names);
            }
        }
        let is_too_large = matches!(error, ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge);
        let pause = if is_too_large { PAUSE_AFTER_TOO_LARGE } else { PAUSE_WHILE_REFUSED };
        self.deletions.at = now.monotonic + pause;
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::MemberId;

    use super::*;
    use crate::config::GroupConfig;
    use crate::request::{CommitOffsets, Request};
    use crate::shard::testing::{Host, one_offset};

    /// One step looked at every group, with the lock of all of them.
    #[test]
    fn offsets_of_a_deleted_topic_go_in_pieces() {
        let mut host = Host::new(GroupConfig::default());
        let groups = GROUPS_PER_PIECE + 10;
        for number in 0..groups {
            host.ask(Request::CommitOffsets(CommitOffsets {
                group: GroupId::new(format!("g{number}")),
                member: MemberId::new(""),
                instance: None,
                generation_or_epoch: -1,
                knows_member_epochs: true,
                retention_ms: None,
                topics: vec![one_offset()],
            }));
        }
        assert_eq!(host.log.len(), groups);
        // The round of the load was now.
        host.pass(1);
        let deleted = [TopicName::new("t").unwrap()];
        let effects = host.shard.topics_deleted(host.now, &*host.topics, &deleted);
        assert_eq!(effects.batches.len(), GROUPS_PER_PIECE);
        host.execute(effects);
        assert!(host.shard.next_deadline().is_some_and(|at| at <= host.now.monotonic + PAUSE_BETWEEN_PIECES));
        host.pass(1);
        assert_eq!(host.log.len(), 2 * groups, "a tombstone for each");
        // Nothing is committed for it any more: no group is looked at.
        let effects = host.shard.topics_deleted(host.now, &*host.topics, &deleted);
        assert!(effects.batches.is_empty() && host.shard.deletions.next().is_none());
    }
}
