//! ISR changes on their way to the quorum: what the leaders of this broker propose is sent in batches, one request at a time,
//! and each answer goes back to the partition that asked.
//!
//! A leader has at most one change under way and says itself when it wants to be asked again (an outcome that is not known,
//! a refusal that may pass): see `ottla_replication::Leader`. Here is only the waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ottla_model::{ErrorCode, MonotonicMs, TopicIdPartition};
use ottla_replication::{IsrMember, IsrOutcome, IsrProposal};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;
use crate::partition::Partition;
use crate::quorum_handle::{AlterPartition, AlterPartitionsAnswer, AlteredPartition, QuorumError, QuorumHandle};

/// Changes in one request: a broker's death concerns thousands of partitions at once, and each answer should come soon.
const BATCH_MAX: usize = 1_000;

/// The proposals of this broker's leaders.
pub struct IsrUpdates {
    quorum: Arc<dyn QuorumHandle>,
    /// The latest of each partition: a proposal that was not sent yet gives way to its successor.
    proposals: Mutex<HashMap<TopicIdPartition, (Arc<Partition>, IsrProposal)>>,
    /// Leaders that want to be ticked before the next round of all.
    deadlines: Mutex<BTreeMap<(MonotonicMs, u64), Arc<Partition>>>,
    changed: Notify,
}

impl IsrUpdates {
    pub fn new(quorum: Arc<dyn QuorumHandle>) -> Arc<Self> {
        Arc::new(Self { quorum, proposals: Mutex::default(), deadlines: Mutex::default(), changed: Notify::new() })
    }

    /// Sends `proposal` with the next request.
    pub fn propose(&self, partition: Arc<Partition>, proposal: IsrProposal) {
        self.proposals.lock().insert(partition.id(), (partition, proposal));
        self.changed.notify_one();
    }

    /// Sends proposals and wakes leaders, until it is dropped. Runs once per broker.
    pub async fn run(self: Arc<Self>) {
        let mut sequence = 0_u64;
        loop {
            let batch = self.take_batch();
            if batch.is_empty() {
                let next = self.deadlines.lock().keys().next().map(|(at, _)| *at);
                match next {
                    Some(at) => {
                        let _ = tokio::time::timeout_at(clock::instant(at), self.changed.notified()).await;
                        self.tick_due();
                    }
                    None => self.changed.notified().await,
                }
                continue;
            }
            let changes = batch.iter().map(|(partition, proposal)| request_of(partition, proposal)).collect();
            let answer = self.quorum.alter_partitions(changes).await;
            if let Err(error) = &answer {
                tracing::warn!(%error, partitions = batch.len(), "ISR changes without an answer; they are sent again");
            }
            let outcomes = Outcomes::of(answer);
            // One line for a broker that comes or goes, however much it hosts.
            let decided = outcomes.0.values().filter(|altered| altered.error == ErrorCode::None).count();
            if decided > 0 {
                tracing::info!(partitions = decided, refused = batch.len() - decided, "ISRs changed");
            }
            for (partition, proposal) in batch {
                let is_held_up = partition.is_held_up();
                let outcome = outcomes.of_partition(partition.id(), &proposal);
                sequence += 1;
                let (updates, number) = (self.clone(), sequence);
                let tell = move || {
                    let retry_at = partition.isr_decided(clock::monotonic(), proposal.number, &outcome);
                    if let Some(at) = retry_at {
                        updates.deadlines.lock().insert((at, number), partition);
                    }
                };
                match is_held_up {
                    // Its disk does not answer: the others do not wait for it.
                    true => drop(tokio::task::spawn_blocking(tell)),
                    false => tell(),
                }
            }
        }
    }

    fn take_batch(&self) -> Vec<(Arc<Partition>, IsrProposal)> {
        let mut proposals = self.proposals.lock();
        if proposals.len() <= BATCH_MAX {
            return proposals.drain().map(|(_, waiting)| waiting).collect();
        }
        let ids: Vec<_> = proposals.keys().take(BATCH_MAX).copied().collect();
        ids.iter().filter_map(|id| proposals.remove(id)).collect()
    }

    fn tick_due(&self) {
        let now = clock::monotonic();
        let due: Vec<_> = {
            let mut deadlines = self.deadlines.lock();
            let later = deadlines.split_off(&(MonotonicMs(now.0.saturating_add(1)), 0));
            std::mem::replace(&mut *deadlines, later).into_values().collect()
        };
        for partition in due {
            partition.tick(now);
        }
    }
}

fn request_of(partition: &Partition, proposal: &IsrProposal) -> AlterPartition {
    let id = partition.id();
    AlterPartition {
        topic_id: id.topic_id,
        partition: id.partition,
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        isr: proposal.isr.iter().map(|member| (member.broker, member.epoch)).collect(),
    }
}

/// The answers of one request, by partition.
struct Outcomes(HashMap<TopicIdPartition, AlteredPartition>);

impl Outcomes {
    fn of(answer: Result<AlterPartitionsAnswer, QuorumError>) -> Self {
        let partitions = match answer {
            Ok(answer) if answer.error == ErrorCode::None => answer.partitions,
            Ok(answer) => {
                tracing::warn!(error = ?answer.error, "the quorum refused the ISR changes of this broker");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        Self(
            partitions
                .into_iter()
                .map(|altered| (TopicIdPartition { topic_id: altered.topic_id, partition: altered.partition }, altered))
                .collect(),
        )
    }

    /// A partition that the answer leaves out, or that had no answer at all, may have been changed or not.
    fn of_partition(&self, id: TopicIdPartition, proposal: &IsrProposal) -> IsrOutcome {
        match self.0.get(&id) {
            None => IsrOutcome::Unknown,
            Some(altered) if altered.error == ErrorCode::None => IsrOutcome::Decided {
                leader_epoch: altered.leader_epoch,
                partition_epoch: altered.partition_epoch,
                isr: altered.isr.iter().map(|broker| member_of(*broker, proposal)).collect(),
            },
            Some(altered) => IsrOutcome::Refused(altered.error),
        }
    }
}

/// The answer names brokers alone; their epochs are those of the proposal, which is what was decided.
fn member_of(broker: ottla_model::BrokerId, proposal: &IsrProposal) -> IsrMember {
    proposal
        .isr
        .iter()
        .copied()
        .find(|member| member.broker == broker)
        .unwrap_or(IsrMember { broker, epoch: ottla_model::BrokerEpoch::NONE })
}
