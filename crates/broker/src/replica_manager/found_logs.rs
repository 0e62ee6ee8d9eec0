//! The logs that the directories held at the start, until the tree says whose they are.
//!
//! One partition may have logs in several directories: a move that was cut off between its two renames, or a disk that came
//! back. Topic ids are compared first, and only the tree knows which id lives: a log of a deleted topic of the same name may
//! well be longer. So all of them wait here.

use std::collections::HashMap;

use ottla_model::{TopicId, TopicPartition};

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

    /// The log of a partition of the topic with this id. Of several the one whose last epoch is later, then the longer one: by
    /// leader epochs the later log has what was decided last, as in an election. A log without a topic id (Kafka wrote none
    /// before 2.8) counts where there is none with the right one.
    pub fn claim(&mut self, name: &TopicPartition, topic_id: TopicId) -> Claimed {
        let mut claimed = Claimed::default();
        for log in self.0.remove(name).unwrap_or_default() {
            if log.topic_id.is_some_and(|found| found != topic_id) {
                claimed.others.push(log);
                continue;
            }
            let rank = |found: &FoundLog| (found.topic_id.is_some(), reach(found));
            match &mut claimed.log {
                Some(kept) if rank(kept) >= rank(&log) => claimed.others.push(log),
                kept => claimed.others.extend(kept.replace(log)),
            }
        }
        claimed
    }

    /// What nobody claimed.
    pub fn take_rest(&mut self) -> impl Iterator<Item = FoundLog> + use<> {
        std::mem::take(&mut self.0).into_values().flatten()
    }
}

fn reach(found: &FoundLog) -> Option<(ottla_model::LeaderEpoch, ottla_model::Offset)> {
    found.log.as_ref().map(|log| (log.epoch_history().latest_epoch(), log.log_end_offset()))
}
