//! What takes offsets away on request: OffsetDelete, DeleteGroups, and topics that are deleted.
//!
//! A key whose write is in flight gets a tombstone too: that write is in the log before it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};

use ottla_model::{ErrorCode, GroupId, PartitionId, TopicId, TopicName};

use super::{GroupOffsets, Key, OffsetStore, TopicNames, TopicNumber, is_another_topic};
use crate::answer::{DeletedOffsets, GroupAnswer};
use crate::effects::RequestId;
use crate::group::Group;
use crate::record::Record;
use crate::request::DeleteOffsets;
use crate::shard::Decision;
use crate::topics::Topics;

impl OffsetStore {
    /// OffsetDelete of a group that allows it: what a member reads stays.
    pub(crate) fn delete(&self, group: &Group, id: RequestId, request: &DeleteOffsets) -> Decision {
        let offsets = self.groups.get(&request.group);
        let mut records = Vec::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for (topic, partitions) in &request.topics {
            let code = if group.is_subscribed_to(topic) { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
            topics.push((topic.clone(), partitions.iter().map(|partition| (*partition, code)).collect()));
            if let (ErrorCode::None, Some(offsets), Some(number)) = (code, offsets, self.names.number(topic)) {
                let there = partitions.iter().map(|partition| (number, *partition)).filter(|at| offsets.has(*at));
                records.extend(there.map(|at| self.tombstone(&request.group, at)));
            }
        }
        let answer = vec![(id, GroupAnswer::DeleteOffsets(DeletedOffsets { error: ErrorCode::None, topics }))];
        if records.is_empty() {
            Decision { now: answer, ..Decision::default() }
        } else {
            Decision { records, after: answer, ..Decision::default() }
        }
    }

    /// The tombstones of everything that a group has committed.
    pub(crate) fn delete_all(&self, group: &GroupId) -> Vec<Record> {
        let Some(offsets) = self.groups.get(group) else { return Vec::new() };
        let keys: BTreeSet<Key> = offsets.committed.keys().chain(offsets.in_flight.keys()).copied().collect();
        keys.into_iter().map(|at| self.tombstone(group, at)).collect()
    }

    /// What [`Self::find_gone`] goes by. `deleted`: topics that were deleted meanwhile; none: every offset is compared
    /// with the topics that there are.
    pub(crate) fn gone_topics<'t>(
        &self,
        topics: &'t dyn Topics,
        deleted: Option<&BTreeSet<TopicName>>,
    ) -> GoneTopics<'t> {
        let named = deleted.map(|deleted| {
            let known = deleted.iter().filter(|name| !topics.is_unreadable(name.as_str())).filter_map(|name| {
                let successor = topics.by_name(name.as_str()).map(|topic| topic.id);
                self.names.number(name.as_str()).map(|number| (number, successor))
            });
            known.collect()
        });
        GoneTopics { topics, named }
    }

    /// Whether there is anything of a topic of this name.
    pub(crate) fn has_topic(&self, name: &str) -> bool {
        self.names.number(name).is_some()
    }

    /// Up to `limit` groups that have committed anything, from `from` on.
    pub(crate) fn groups_from(&self, from: Bound<GroupId>, limit: usize) -> Vec<GroupId> {
        self.groups.range((from, Bound::Unbounded)).take(limit).map(|(group, _)| group.clone()).collect()
    }

    /// The tombstones of what a group has committed for topics that are gone; what was committed for a topic that has
    /// taken a name over stays. Looks at up to `limit` offsets, those after `after`.
    pub(crate) fn find_gone(&self, gone: &GoneTopics<'_>, id: &GroupId, after: Option<Key>, limit: usize) -> FoundGone {
        let mut found = FoundGone::default();
        let Some(offsets) = self.groups.get(id) else { return found };
        let mut judge = Judge { gone, names: &self.names, last: None };
        let mut keys = BTreeSet::new();
        let mut looked_at_last = after;
        'ranges: for range in gone.ranges(offsets.committed.len()) {
            let (first, last) = range.into_inner();
            let from = match after {
                Some(after) if after >= last => continue,
                Some(after) if after >= first => Bound::Excluded(after),
                _ => Bound::Included(first),
            };
            found.looked_at += 1;
            for (at, committed) in offsets.committed.range((from, Bound::Included(last))) {
                // At least one, so that the next look begins behind this one.
                if found.looked_at >= limit && looked_at_last != after {
                    found.next = looked_at_last;
                    break 'ranges;
                }
                found.looked_at += 1;
                looked_at_last = Some(*at);
                // A write in flight is in the log before the tombstone: it decides what would be lost.
                let topic_id = offsets.in_flight.get(at).map_or(committed.topic_id, |writes| writes.topic_id);
                if judge.is_gone(*at, topic_id) {
                    keys.insert(*at);
                }
            }
        }
        if found.next.is_none() {
            // Also what transactions wrote that have not ended.
            let in_flight = offsets.in_flight.iter().filter(|(at, writes)| judge.is_gone(**at, writes.topic_id));
            keys.extend(in_flight.map(|(at, _)| *at));
        }
        found.tombstones = keys.into_iter().map(|at| self.tombstone(id, at)).collect();
        found
    }
}

/// Which topics are gone.
pub(crate) struct GoneTopics<'t> {
    topics: &'t dyn Topics,
    /// Those that were deleted, each with the topic that has its name now; none: see [`OffsetStore::gone_topics`].
    named: Option<BTreeMap<TopicNumber, Option<TopicId>>>,
}

impl GoneTopics<'_> {
    /// Where their offsets are among a group's `offsets`: topic by topic, or everywhere if these are fewer.
    fn ranges(&self, offsets: usize) -> Vec<RangeInclusive<Key>> {
        let of = |first, last| (first, PartitionId(i32::MIN))..=(last, PartitionId(i32::MAX));
        match &self.named {
            Some(named) if named.len() <= offsets => named.keys().map(|number| of(*number, *number)).collect(),
            _ => vec![of(TopicNumber::MIN, TopicNumber::MAX)],
        }
    }
}

/// Judges offset after offset; topics are looked up once where their offsets follow each other.
struct Judge<'a> {
    gone: &'a GoneTopics<'a>,
    names: &'a TopicNames,
    last: Option<(TopicNumber, Current)>,
}

/// What has a name now.
#[derive(Clone, Copy)]
enum Current {
    /// Its node cannot be read: nothing is known of it.
    Unreadable,
    Topic(Option<TopicId>),
}

impl Judge<'_> {
    /// Whether an offset goes that was committed for the topic of this id (zero: not known).
    fn is_gone(&mut self, (topic, _): Key, id: TopicId) -> bool {
        if let Some(named) = &self.gone.named {
            let Some(successor) = named.get(&topic) else { return false };
            return successor.is_none_or(|successor| id.is_zero() || is_another_topic(id, successor));
        }
        // It may be any topic's, and stays; or it is a tombstone that is in flight.
        if id.is_zero() {
            return false;
        }
        let current = match self.last {
            Some((same, current)) if same == topic => current,
            _ => {
                let name = self.names.name(topic);
                match self.gone.topics.is_unreadable(name) {
                    true => Current::Unreadable,
                    false => Current::Topic(self.gone.topics.by_name(name).map(|topic| topic.id)),
                }
            }
        };
        self.last = Some((topic, current));
        matches!(current, Current::Topic(current) if current != Some(id))
    }
}

/// What a look at a group's offsets found.
#[derive(Default)]
pub(crate) struct FoundGone {
    pub(crate) tombstones: Vec<Record>,
    pub(crate) looked_at: usize,
    /// More offsets follow this one; none: all were looked at.
    pub(crate) next: Option<Key>,
}

impl GroupOffsets {
    fn has(&self, at: Key) -> bool {
        self.committed.contains_key(&at) || self.in_flight.contains_key(&at)
    }
}
