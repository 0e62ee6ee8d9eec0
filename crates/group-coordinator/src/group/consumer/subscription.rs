//! What the group reads: topics by name, expressions and what they matched, and when the group's epoch rises with it.
//!
//! Topics are compared in heartbeats, and only when their version has changed since the last comparison: a topic that
//! is created, grows or is deleted raises the epoch of exactly the groups that read it. Kafka resolves expressions in
//! the background, at most every ten seconds. Here a new expression is resolved in the heartbeat that brings it; when
//! topics change, the group's expressions are resolved in pieces over the next heartbeats ([`Resolution`]), as often as
//! is cheap ([`pause`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_model::{MonotonicMs, TopicName};

use super::group::{Resolution, Soft};
use super::member::Member;
use super::{ConsumerGroup, timestamp};
use crate::record::{ConsumerGroupMetadata, Record, ResolvedExpression};
use crate::shard::Context;
use crate::topics::VisibleTopics;

/// Kafka's interval between two resolutions, the longest here.
const PAUSE_MAX_MS: u64 = 10_000;

/// Expressions that are resolved in one step, and names that they are matched against before the step ends early. A
/// step stays within some ten milliseconds, whatever the group's members subscribe by: compiling takes up to two,
/// matching some 100 ns a name.
const EXPRESSIONS_PER_STEP: usize = 4;
const NAMES_PER_STEP: usize = 20_000;

/// How long no comparison is made after one that went over `names` topics: at some 100 ns a name and expression, it
/// takes a small part of the time however fast topics come and go.
fn pause(names: usize) -> Duration {
    Duration::from_millis(u64::try_from(names / 4).unwrap_or(PAUSE_MAX_MS).min(PAUSE_MAX_MS))
}

impl ConsumerGroup {
    /// The topics that the group reads, whether they exist or not.
    fn subscribed(&self) -> BTreeSet<&str> {
        let matched = self.expressions.values().flat_map(|expression| &expression.topics);
        self.named.keys().map(String::as_str).chain(matched.map(TopicName::as_str)).collect()
    }

    /// What a member reads.
    pub(super) fn subscribed_by<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = &'a str> {
        let expression = member.regex.as_ref().and_then(|regex| self.expressions.get(regex));
        let matched = expression.into_iter().flat_map(|expression| &expression.topics);
        member.topics.iter().map(String::as_str).chain(matched.map(TopicName::as_str))
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

    /// Resolves expressions that were never resolved, and no others. Returns whether what is read changed.
    fn resolve_new(&mut self, cx: &Context<'_>, visible: &VisibleTopics, records: &mut Vec<Record>) -> bool {
        if self.by_regex.len() == self.expressions.len() {
            return false;
        }
        let new = self.by_regex.keys().filter(|expression| !self.expressions.contains_key(*expression));
        let new: Vec<String> = new.take(EXPRESSIONS_PER_STEP).cloned().collect();
        let mut changed = false;
        let mut names = 0;
        for expression in new {
            if names >= NAMES_PER_STEP {
                break;
            }
            let (matched, scanned) = cx.regexes.borrow_mut().matched(&expression, cx.topics, visible);
            names += scanned;
            changed |= !matched.is_empty();
            self.resolved(cx, records, expression, matched);
        }
        changed
    }

    /// Takes the next piece of the resolution; returns whether all expressions are resolved.
    fn continue_resolution(&mut self, cx: &Context<'_>, visible: &VisibleTopics) -> bool {
        let mut resolution = self.soft.resolution.take().unwrap_or_else(|| Resolution {
            version: cx.topics.version(),
            matched: BTreeMap::new(),
            names: 0,
        });
        let mut missing = self.by_regex.keys().filter(|expression| !resolution.matched.contains_key(*expression));
        let piece: Vec<String> = missing.by_ref().take(EXPRESSIONS_PER_STEP).cloned().collect();
        let mut is_complete = missing.next().is_none();
        let (mut names, mut left) = (0, piece.len());
        for expression in piece {
            if names >= NAMES_PER_STEP {
                is_complete = false;
                break;
            }
            left -= 1;
            let (matched, scanned) = cx.regexes.borrow_mut().matched(&expression, cx.topics, visible);
            names += scanned;
            resolution.matched.insert(expression, matched);
        }
        resolution.names += names;
        self.soft.resolution = Some(resolution);
        is_complete && left == 0
    }

    /// Writes what a complete resolution has changed. Returns whether what is read changed, and the version of the
    /// topics for which that holds.
    fn end_resolution(&mut self, cx: &Context<'_>, records: &mut Vec<Record>) -> (bool, u64) {
        let Some(Resolution { version, matched, names }) = self.soft.resolution.take() else {
            return (false, cx.topics.version());
        };
        self.soft.look_again = cx.now.monotonic + pause(names);
        let mut changed = false;
        for (expression, matched) in matched {
            // Its last member may have gone since.
            let is_used = self.by_regex.contains_key(&expression);
            let known = self.expressions.get(&expression);
            if !is_used || known.is_some_and(|known| known.topics == matched) {
                continue;
            }
            changed |= known.is_some() || !matched.is_empty();
            self.resolved(cx, records, expression, matched);
        }
        (changed, version)
    }

    fn resolved(
        &mut self,
        cx: &Context<'_>,
        records: &mut Vec<Record>,
        expression: String,
        matched: BTreeSet<TopicName>,
    ) {
        let value = ResolvedExpression {
            topics: matched.iter().map(ToString::to_string).collect(),
            version: i64::try_from(cx.topics.version()).unwrap_or(i64::MAX),
            timestamp: timestamp(cx),
        };
        let record =
            Record::RegularExpression { group: cx.group.clone(), expression: expression.clone(), value: Some(value) };
        self.write(records, record);
        if let Some(known) = self.expressions.get_mut(&expression) {
            // The image's names instead of copies.
            known.topics = matched;
        }
    }

    /// Compares the topics if they may have changed, and raises the group's epoch if they did, or if `changed` says
    /// that the group did. Expressions are matched for the member that asks, as in Kafka; a step of another kind leaves
    /// them to the next heartbeat.
    pub(super) fn look(&mut self, cx: &Context<'_>, records: &mut Vec<Record>, mut changed: bool) {
        let all = VisibleTopics::default();
        let visible = cx.visible.as_ref().or(self.by_regex.is_empty().then_some(&all));
        changed |= visible.is_some_and(|visible| self.resolve_new(cx, visible, records));
        let may_differ = self.soft.seen_topics != Some(cx.topics.version()) && cx.now.monotonic >= self.soft.look_again;
        let mut seen = None;
        if may_differ && visible.is_some_and(|visible| self.continue_resolution(cx, visible)) {
            let (matches_changed, version) = self.end_resolution(cx, records);
            changed |= matches_changed;
            seen = Some(version);
        }
        if seen.is_none() && !changed {
            return;
        }
        let hash = self.hash_topics(cx);
        if seen.is_some() {
            self.soft.seen_topics = seen;
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

impl Soft {
    /// Whether the epoch was raised within the last `ms`.
    pub(super) fn moved_within(&self, now: MonotonicMs, ms: u64) -> bool {
        now < self.moved + Duration::from_millis(ms)
    }
}
