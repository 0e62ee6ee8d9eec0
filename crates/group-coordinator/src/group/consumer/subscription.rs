//! What the group reads: topics by name, expressions and what they matched, and when the group's epoch rises with it.
//!
//! Topics are looked at in heartbeats, and only when their version is another one than at the last look: a topic that appears, grows or
//! goes raises the epoch of exactly the groups that read it. Kafka resolves expressions in the background, at most every ten seconds;
//! here it happens in the heartbeat, as often as is cheap: [`pause`].

use std::collections::BTreeSet;
use std::time::Duration;

use ottla_model::MonotonicMs;

use super::member::Member;
use super::{ConsumerGroup, regex, timestamp};
use crate::record::{ConsumerGroupMetadata, Record, ResolvedExpression};
use crate::shard::Context;

/// Kafka's interval between two resolutions, the longest here.
const PAUSE_MAX_MS: u64 = 10_000;

/// How long no look is taken after one that went over `names` topics: at some 100 ns a name and expression, looking takes a small part
/// of the time however fast topics come and go.
fn pause(names: usize) -> Duration {
    Duration::from_millis(u64::try_from(names / 4).unwrap_or(PAUSE_MAX_MS).min(PAUSE_MAX_MS))
}

impl ConsumerGroup {
    /// The topics that the group reads, whether they exist or not.
    fn subscribed(&self) -> BTreeSet<&str> {
        let matched = self.expressions.values().flat_map(|expression| &expression.topics);
        self.named.keys().chain(matched).map(String::as_str).collect()
    }

    /// What a member reads.
    pub(super) fn subscribed_by<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a str> {
        let expression = member.regex.as_ref().and_then(|regex| self.expressions.get(regex));
        let matched = expression.into_iter().flat_map(|expression| &expression.topics);
        member.topics.iter().chain(matched).map(String::as_str)
    }

    /// Removes what expressions matched that nobody subscribes by any more.
    pub(super) fn forget_expressions(&mut self, cx: &Context<'_>, records: &mut Vec<Record>) {
        let left: Vec<String> =
            self.expressions.keys().filter(|expression| !self.by_regex.contains_key(*expression)).cloned().collect();
        for expression in left {
            let record = Record::RegularExpression { group: cx.group.clone(), expression, value: None };
            self.write(records, record);
        }
    }

    /// Resolves the group's expressions, all of them, so that one change of topics is one change of the group.
    ///
    /// Returns whether what is read changed.
    fn resolve_expressions(&mut self, cx: &Context<'_>, records: &mut Vec<Record>) -> bool {
        if self.by_regex.is_empty() {
            return false;
        }
        let (resolved, scanned) = regex::resolve(self.by_regex.keys(), cx.topics);
        self.soft.look_again = cx.now.monotonic + pause(scanned * self.by_regex.len());
        let mut changed = false;
        for (expression, matched) in resolved {
            let known = self.expressions.get(&expression);
            if known.is_some_and(|known| known.topics == matched) {
                continue;
            }
            changed |= known.is_some() || !matched.is_empty();
            let value = ResolvedExpression {
                topics: matched.into_iter().collect(),
                version: i64::try_from(cx.topics.version()).unwrap_or(i64::MAX),
                timestamp: timestamp(cx),
            };
            let record = Record::RegularExpression { group: cx.group.clone(), expression, value: Some(value) };
            self.write(records, record);
        }
        changed
    }

    /// Looks at the topics if they may have changed, and raises the group's epoch if they did, or if `changed` says that the
    /// group did.
    pub(super) fn look(&mut self, cx: &Context<'_>, records: &mut Vec<Record>, mut changed: bool) {
        let version = cx.topics.version();
        let unresolved = self.by_regex.keys().any(|expression| !self.expressions.contains_key(expression));
        let due = self.soft.seen_topics != Some(version) && cx.now.monotonic >= self.soft.look_again;
        if due || unresolved {
            changed |= self.resolve_expressions(cx, records);
        }
        if !due && !changed {
            return;
        }
        let hash = self.hash_topics(cx);
        if due {
            self.soft.seen_topics = Some(version);
        }
        if changed || hash != self.metadata_hash {
            self.raise_epoch(cx, records, hash);
        }
    }

    fn hash_topics(&mut self, cx: &Context<'_>) -> i64 {
        let mut hashes = std::mem::take(&mut self.soft.hashes);
        let hash = hashes.group_hash(self.subscribed().into_iter(), cx.topics);
        self.soft.look_again = self.soft.look_again.max(cx.now.monotonic + pause(hashes.len()));
        self.soft.hashes = hashes;
        hash
    }

    /// Raises the epoch after members have gone.
    pub(super) fn raise_epoch_now(&mut self, cx: &Context<'_>, records: &mut Vec<Record>) {
        let hash = self.hash_topics(cx);
        self.raise_epoch(cx, records, hash);
    }

    fn raise_epoch(&mut self, cx: &Context<'_>, records: &mut Vec<Record>, metadata_hash: i64) {
        if self.has_partition_metadata {
            self.write(records, Record::PartitionMetadata { group: cx.group.clone(), value: None });
        }
        let value = ConsumerGroupMetadata { epoch: self.epoch.saturating_add(1), metadata_hash };
        self.write(records, Record::ConsumerGroup { group: cx.group.clone(), value: Some(value) });
        self.soft.moved = cx.now.monotonic;
    }
}

impl super::Soft {
    /// Whether the epoch was raised within the last `ms`.
    pub(super) fn moved_within(&self, now: MonotonicMs, ms: u64) -> bool {
        now < self.moved + Duration::from_millis(ms)
    }
}
