//! The partitions of one fetcher, and what its source has been told of each: builds the requests, finds the partition that
//! an answer speaks of.
//!
//! Invariant: a partition that has changed since the source was told of it is in `unsent`; one that the source must forget is in
//! `forgotten`. So a request costs what changed, however many partitions there are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ottla_model::{LeaderEpoch, MonotonicMs, PartitionId, TopicId, TopicIdPartition};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{FetchPartition, FetchTopic, ForgottenTopic};
use ottla_replication::FetchPosition;

use crate::partition::Partition;

/// Numbers the requests of a connection.
pub type RequestNumber = u64;

pub struct Slot {
    pub partition: Arc<Partition>,
    pub leader_epoch: LeaderEpoch,
    /// Where the next request asks for; none while the partition pauses.
    wanted: Option<FetchPosition>,
    /// What the source's session has of it, since which request; and what it had before, which an answer to an earlier
    /// request speaks of.
    sent: Option<(FetchPosition, RequestNumber)>,
    sent_before: Option<FetchPosition>,
    is_unsent: bool,
    /// Errors in a row.
    pub failures: u32,
    paused_until: Option<MonotonicMs>,
}

impl Slot {
    /// What the source was asked for by the request with this number.
    pub fn asked(&self, request: RequestNumber) -> Option<FetchPosition> {
        match self.sent {
            Some((position, since)) if request >= since => Some(position),
            _ => self.sent_before,
        }
    }
}

#[derive(Default)]
pub struct Slots {
    slots: HashMap<TopicIdPartition, Slot>,
    unsent: Vec<TopicIdPartition>,
    forgotten: Vec<TopicIdPartition>,
    paused: BTreeSet<(MonotonicMs, TopicIdPartition)>,
}

impl Slots {
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether there is a partition to fetch now.
    pub fn has_active(&self) -> bool {
        self.slots.len() > self.paused.len()
    }

    /// Whether the next request has something to say.
    pub fn has_news(&self) -> bool {
        !self.unsent.is_empty() || !self.forgotten.is_empty()
    }

    pub fn get_mut(&mut self, id: &TopicIdPartition) -> Option<&mut Slot> {
        self.slots.get_mut(id)
    }

    /// Fetches a partition from now on, from `wanted`; what was known of it is over.
    pub fn follow(&mut self, partition: Arc<Partition>, wanted: FetchPosition) {
        let id = partition.id();
        self.resume(id);
        let slot = Slot {
            partition,
            leader_epoch: wanted.leader_epoch,
            wanted: Some(wanted),
            // The session may have it from an earlier leader epoch: naming it again replaces that.
            sent: None,
            sent_before: None,
            is_unsent: true,
            failures: 0,
            paused_until: None,
        };
        self.slots.insert(id, slot);
        self.forgotten.retain(|forgotten| *forgotten != id);
        // A second entry does no harm: the request names each once.
        self.unsent.push(id);
    }

    /// Does not fetch the partition any more.
    pub fn leave(&mut self, id: TopicIdPartition) {
        self.resume(id);
        if let Some(slot) = self.slots.remove(&id)
            && slot.sent.is_some()
        {
            self.forgotten.push(id);
        }
    }

    /// The source speaks of a partition that is not fetched (any more): it is told so.
    pub fn forget(&mut self, id: TopicIdPartition) {
        self.forgotten.push(id);
    }

    fn resume(&mut self, id: TopicIdPartition) {
        if let Some(slot) = self.slots.get_mut(&id)
            && let Some(until) = slot.paused_until.take()
        {
            self.paused.remove(&(until, id));
        }
    }

    /// The next request asks for `position`.
    pub fn want(&mut self, id: TopicIdPartition, position: FetchPosition) {
        self.resume(id);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.wanted = Some(position);
        let known = slot.sent.is_some_and(|(sent, _)| sent == position);
        if !known && !std::mem::replace(&mut slot.is_unsent, true) {
            self.unsent.push(id);
        }
    }

    /// Leaves the partition out until `until`: the source forgets it, or it would answer at once for ever.
    pub fn pause(&mut self, id: TopicIdPartition, until: MonotonicMs) {
        self.resume(id);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.wanted = None;
        slot.paused_until = Some(until);
        slot.is_unsent = false;
        slot.sent_before = None;
        self.paused.insert((until, id));
        if slot.sent.take().is_some() {
            self.forgotten.push(id);
        }
    }

    /// When the first pause ends.
    pub fn next_resume(&self) -> Option<MonotonicMs> {
        self.paused.first().map(|(until, _)| *until)
    }

    /// The partitions whose pause is over.
    pub fn due(&self, now: MonotonicMs) -> Vec<TopicIdPartition> {
        self.paused.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| *id).collect()
    }

    /// All that pause.
    pub fn paused(&self) -> Vec<TopicIdPartition> {
        self.paused.iter().map(|(_, id)| *id).collect()
    }

    /// The source knows nothing (any more): the next request names everything.
    pub fn forget_sent(&mut self) {
        self.forgotten.clear();
        self.unsent.clear();
        for (id, slot) in &mut self.slots {
            slot.sent = None;
            slot.sent_before = None;
            slot.is_unsent = slot.wanted.is_some();
            if slot.is_unsent {
                self.unsent.push(*id);
            }
        }
    }

    /// What the request with this number says: the partitions that are new or have moved, and those to forget.
    pub fn take_news(
        &mut self,
        number: RequestNumber,
        partition_max_bytes: i32,
    ) -> (Vec<FetchTopic>, Vec<ForgottenTopic>) {
        let mut unsent = std::mem::take(&mut self.unsent);
        let mut forgotten = std::mem::take(&mut self.forgotten);
        // By topic: the request names each once.
        unsent.sort_unstable();
        unsent.dedup();
        forgotten.sort_unstable();
        forgotten.dedup();
        let mut topics: Vec<FetchTopic> = Vec::new();
        for id in unsent {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            slot.is_unsent = false;
            let Some(wanted) = slot.wanted else { continue };
            slot.sent_before = slot.sent.map(|(position, _)| position);
            slot.sent = Some((wanted, number));
            let asked = request_partition(id.partition, wanted, partition_max_bytes);
            match topics.last_mut() {
                Some(topic) if topic.topic == TopicRef::Id(id.topic_id) => topic.partitions.push(asked),
                _ => topics.push(FetchTopic { topic: TopicRef::Id(id.topic_id), partitions: vec![asked] }),
            }
        }
        let mut forgotten_topics: Vec<ForgottenTopic> = Vec::new();
        for id in forgotten {
            // Named again meanwhile: a source takes in what is named first, then forgets.
            if self.slots.get(&id).is_some_and(|slot| slot.sent.is_some()) {
                continue;
            }
            push_forgotten(&mut forgotten_topics, id.topic_id, id.partition);
        }
        (topics, forgotten_topics)
    }
}

fn push_forgotten(topics: &mut Vec<ForgottenTopic>, topic_id: TopicId, partition: PartitionId) {
    match topics.last_mut() {
        Some(topic) if topic.topic == TopicRef::Id(topic_id) => topic.partitions.push(partition),
        _ => topics.push(ForgottenTopic { topic: TopicRef::Id(topic_id), partitions: vec![partition] }),
    }
}

fn request_partition(partition: PartitionId, wanted: FetchPosition, max_bytes: i32) -> FetchPartition {
    FetchPartition {
        partition,
        current_leader_epoch: wanted.leader_epoch,
        fetch_offset: wanted.offset,
        last_fetched_epoch: wanted.last_fetched_epoch,
        log_start_offset: wanted.log_start,
        max_bytes,
        replica_directory_id: [0; 16],
        high_watermark: None,
    }
}
