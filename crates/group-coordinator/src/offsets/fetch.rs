//! OffsetFetch: what is replicated.

use ottla_model::{ErrorCode, LeaderEpoch, Offset, PartitionId, TopicId};

use super::{Committed, GroupOffsets, Key, OffsetStore, is_another_topic};
use crate::answer::FetchedOffset;
use crate::answer::FetchedOffsets;
use crate::request::{FetchOffsets, GroupTopic};
use crate::topics::Topics;

impl OffsetStore {
    /// The offsets of one group. A partition without one has the offset −1. Where all topics are asked for, those that
    /// are gone have no id, and what was committed for a former topic of the same name is left out.
    ///
    /// With `require_stable`, an offset over which a write is in flight is not told, UNSTABLE_OFFSET_COMMIT is: the
    /// client asks again. Commits inside transactions that run are such writes too.
    pub(crate) fn fetch(&self, known: &dyn Topics, request: &FetchOffsets) -> FetchedOffsets {
        let offsets = self.groups.get(&request.group);
        let topics = match &request.topics {
            Some(topics) => topics
                .iter()
                .map(|(topic, partitions)| {
                    let number = self.names.number(&topic.name);
                    let found = partitions
                        .iter()
                        .map(|partition| {
                            let at = number.map(|number| (number, *partition));
                            offsets
                                .zip(at)
                                .map(|(offsets, at)| offsets.fetch(at, topic.id, request.require_stable))
                                .unwrap_or_else(|| nothing(*partition, ErrorCode::None))
                        })
                        .collect();
                    (topic.clone(), found)
                })
                .collect(),
            None => offsets.map_or_else(Vec::new, |offsets| self.fetch_all(known, offsets, request.require_stable)),
        };
        FetchedOffsets { error: ErrorCode::None, topics }
    }

    fn fetch_all(
        &self,
        known: &dyn Topics,
        offsets: &GroupOffsets,
        require_stable: bool,
    ) -> Vec<(GroupTopic, Vec<FetchedOffset>)> {
        let mut topics: Vec<(GroupTopic, Vec<FetchedOffset>)> = Vec::new();
        let mut last = None;
        for (at, committed) in &offsets.committed {
            if last != Some(at.0) {
                last = Some(at.0);
                let name = self.names.name(at.0).to_owned();
                let id = known.by_name(&name).map_or(TopicId::ZERO, |topic| topic.id);
                topics.push((GroupTopic { name, id }, Vec::new()));
            }
            if let Some((topic, found)) =
                topics.last_mut().filter(|(topic, _)| !is_another_topic(committed.topic_id, topic.id))
            {
                found.push(offsets.fetch(*at, topic.id, require_stable));
            }
        }
        topics.retain(|(_, found)| !found.is_empty());
        topics
    }
}

impl GroupOffsets {
    fn fetch(&self, at: Key, asked: TopicId, require_stable: bool) -> FetchedOffset {
        if require_stable && self.in_flight.contains_key(&at) {
            return nothing(at.1, ErrorCode::UnstableOffsetCommit);
        }
        match self.committed.get(&at) {
            Some(committed) if !is_another_topic(committed.topic_id, asked) => found(at.1, committed),
            _ => nothing(at.1, ErrorCode::None),
        }
    }
}

fn found(partition: PartitionId, committed: &Committed) -> FetchedOffset {
    FetchedOffset {
        partition,
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata().to_owned(),
        error: ErrorCode::None,
    }
}

fn nothing(partition: PartitionId, error: ErrorCode) -> FetchedOffset {
    FetchedOffset {
        partition,
        offset: Offset::UNKNOWN,
        leader_epoch: LeaderEpoch::NONE,
        metadata: String::new(),
        error,
    }
}
