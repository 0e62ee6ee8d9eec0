//! What takes offsets away on request: OffsetDelete, DeleteGroups, and topics that are deleted.
//!
//! A key whose write is in flight gets a tombstone too: that write is in the log before it.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{ErrorCode, GroupId, PartitionId, TopicId, TopicName};

use super::{GroupOffsets, Key, OffsetStore, TopicNumber, is_another_topic};
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

    /// The tombstones of everything that was committed for topics that are gone; what was committed for a topic that
    /// has taken a name over stays.
    pub(crate) fn delete_topics(&self, topics: &dyn Topics, deleted: &[TopicName]) -> Vec<(GroupId, Vec<Record>)> {
        let gone: Vec<_> = deleted
            .iter()
            .filter_map(|name| {
                let successor = topics.by_name(name.as_str()).map(|topic| topic.id);
                self.names.number(name.as_str()).map(|number| (number, successor))
            })
            .collect();
        if gone.is_empty() {
            return Vec::new();
        }
        self.groups
            .iter()
            .filter_map(|(group, offsets)| {
                let mut keys = BTreeSet::new();
                for (number, successor) in &gone {
                    let all = (*number, PartitionId(i32::MIN))..=(*number, PartitionId(i32::MAX));
                    let committed =
                        offsets.committed.range(all.clone()).map(|(at, committed)| (*at, committed.topic_id));
                    let in_flight = offsets.in_flight.range(all).map(|(at, writes)| (*at, writes.topic_id));
                    let theirs = committed.chain(in_flight).filter(|(_, id)| {
                        successor.is_none_or(|successor| id.is_zero() || is_another_topic(*id, successor))
                    });
                    keys.extend(theirs.map(|(at, _)| at));
                }
                let records: Vec<Record> = keys.into_iter().map(|at| self.tombstone(group, at)).collect();
                (!records.is_empty()).then(|| (group.clone(), records))
            })
            .collect()
    }

    /// As [`Self::delete_topics`], for topics that were deleted before the log was read. An offset that names no topic
    /// id may be any topic's, and stays.
    pub(crate) fn delete_outdated(&self, topics: &dyn Topics) -> Vec<(GroupId, Vec<Record>)> {
        let ids: BTreeMap<TopicNumber, Option<TopicId>> =
            self.names.iter().map(|(number, name)| (number, topics.by_name(name).map(|topic| topic.id))).collect();
        let is_outdated =
            |at: Key, id: TopicId| !id.is_zero() && ids.get(&at.0).is_some_and(|current| *current != Some(id));
        self.groups
            .iter()
            .filter_map(|(group, offsets)| {
                let outdated = offsets.committed.iter().filter(|(at, committed)| is_outdated(**at, committed.topic_id));
                let records: Vec<Record> = outdated.map(|(at, _)| self.tombstone(group, *at)).collect();
                (!records.is_empty()).then(|| (group.clone(), records))
            })
            .collect()
    }
}

impl GroupOffsets {
    fn has(&self, at: Key) -> bool {
        self.committed.contains_key(&at) || self.in_flight.contains_key(&at)
    }
}
