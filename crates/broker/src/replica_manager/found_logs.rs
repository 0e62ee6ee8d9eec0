//! The logs that the directories held at the start, until the tree says whose they are.
//!
//! One partition may have logs in several directories: a move that was cut off between its two renames, or a disk that came
//! back. Topic ids are compared first, and only the tree knows which id lives: a log of a deleted topic of the same name may
//! well be longer. So all of them wait here.

use std::collections::HashMap;

use ottla_model::{TopicId, TopicPartition};
use ottla_partition::{BrokenRules, choose_log};

use crate::log_dirs::FoundLog;

#[derive(Default)]
pub(super) struct FoundLogs(HashMap<TopicPartition, Vec<FoundLog>>);

/// What was found of one partition.
#[derive(Default)]
pub(super) struct Claimed {
    pub log: Option<FoundLog>,
    /// Those that are not the partition's.
    pub others: Vec<FoundLog>,
}

impl FoundLogs {
    pub fn add(&mut self, log: FoundLog) {
        self.0.entry(log.partition.clone()).or_default().push(log);
    }

    /// The number of partitions that logs were found of.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The log of a partition of the topic with this id, and the others of its name: see [`choose_log`].
    pub fn claim(&mut self, name: &TopicPartition, topic_id: TopicId) -> Claimed {
        let mut others = self.0.remove(name).unwrap_or_default();
        let facts: Vec<_> = others.iter().map(facts_of).collect();
        let log = choose_log(&facts, topic_id, BrokenRules::default()).map(|place| others.swap_remove(place));
        Claimed { log, others }
    }

    /// What nobody claimed.
    pub fn take_rest(&mut self) -> impl Iterator<Item = FoundLog> + use<> {
        std::mem::take(&mut self.0).into_values().flatten()
    }
}

/// What decides about a log that was found.
pub(super) fn facts_of(found: &FoundLog) -> ottla_partition::FoundLog {
    ottla_partition::FoundLog {
        topic_id: found.topic_id,
        reach: found.log.as_ref().map(|log| (log.epoch_history().latest_epoch(), log.log_end_offset())),
        is_damaged: found.is_damaged,
    }
}
