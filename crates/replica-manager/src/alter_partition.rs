//! ISR changes on their way to the quorum: the proposals of this broker's leaders are sent in batches, one request at a
//! time, and each outcome goes back to the leader that proposed.
//!
//! A leader has at most one change under way and says itself when it wants to be ticked again (an outcome that is not
//! known, a refusal that may pass): see `ottla_replication::Leader`. Only the sending and the waiting are here.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use ottla_metadata::controller::{AlteredPartition, AlteredPartitions};
use ottla_model::{ErrorCode, MonotonicMs, TopicIdPartition};
use ottla_partition::isr_changes::{outcome_of, request_of};
use ottla_replication::{IsrOutcome, IsrProposal};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;
use crate::quorum_handle::{QuorumError, QuorumHandle};

/// Changes in one request: a broker's death concerns thousands of partitions at once, and each answer should come soon.
const BATCH_MAX: usize = 1_000;

/// The leaders of this broker, as far as their ISRs are concerned.
pub trait Leaders: Send + Sync {
    /// What became of proposal `number`.
    fn isr_decided(&self, partition: TopicIdPartition, number: u32, outcome: IsrOutcome);
    /// A leader asked to be ticked by now.
    fn tick(&self, partition: TopicIdPartition, now: MonotonicMs);
}

/// The proposals of this broker's leaders.
pub struct AlterPartitionManager {
    quorum: Arc<dyn QuorumHandle>,
    /// The latest of each partition: a proposal that was not sent yet gives way to its successor.
    proposals: Mutex<HashMap<TopicIdPartition, IsrProposal>>,
    /// Leaders that want to be ticked before the next round of all.
    deadlines: Mutex<BTreeSet<(MonotonicMs, TopicIdPartition)>>,
    changed: Notify,
}

impl AlterPartitionManager {
    pub fn new(quorum: Arc<dyn QuorumHandle>) -> Arc<Self> {
        Arc::new(Self { quorum, proposals: Mutex::default(), deadlines: Mutex::default(), changed: Notify::new() })
    }

    /// Sends `proposal` with the next request.
    pub fn submit(&self, partition: TopicIdPartition, proposal: IsrProposal) {
        self.proposals.lock().insert(partition, proposal);
        self.changed.notify_one();
    }

    /// Ticks this leader at `at`.
    pub fn tick_at(&self, partition: TopicIdPartition, at: MonotonicMs) {
        self.deadlines.lock().insert((at, partition));
        self.changed.notify_one();
    }

    /// Sends proposals and ticks leaders, until they are gone. Runs once per broker.
    pub async fn run(self: Arc<Self>, leaders: Weak<dyn Leaders>) {
        loop {
            let batch = self.take_batch();
            if batch.is_empty() {
                let next = self.deadlines.lock().first().map(|(at, _)| *at);
                match next {
                    Some(at) => {
                        let _ = tokio::time::timeout_at(clock::instant(at), self.changed.notified()).await;
                        let Some(leaders) = leaders.upgrade() else { return };
                        self.tick_due(&*leaders);
                    }
                    None => self.changed.notified().await,
                }
                continue;
            }
            let changes = batch.iter().map(|(partition, proposal)| request_of(*partition, proposal)).collect();
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
            let Some(leaders) = leaders.upgrade() else { return };
            for (partition, proposal) in batch {
                leaders.isr_decided(partition, proposal.number, outcome_of(outcomes.0.get(&partition), &proposal));
            }
        }
    }

    fn take_batch(&self) -> Vec<(TopicIdPartition, IsrProposal)> {
        let mut proposals = self.proposals.lock();
        if proposals.len() <= BATCH_MAX {
            return proposals.drain().collect();
        }
        let ids: Vec<_> = proposals.keys().take(BATCH_MAX).copied().collect();
        ids.iter().filter_map(|id| proposals.remove_entry(id)).collect()
    }

    fn tick_due(&self, leaders: &dyn Leaders) {
        let now = clock::monotonic();
        loop {
            let mut deadlines = self.deadlines.lock();
            let Some((_, partition)) = deadlines.first().copied().filter(|(at, _)| *at <= now) else { return };
            deadlines.pop_first();
            drop(deadlines);
            leaders.tick(partition, now);
        }
    }
}

/// The answers of one request, by partition.
struct Outcomes(HashMap<TopicIdPartition, AlteredPartition>);

impl Outcomes {
    fn of(answer: Result<AlteredPartitions, QuorumError>) -> Self {
        let partitions = match answer {
            Ok(answer) if answer.error == ErrorCode::None => answer.partitions,
            Ok(answer) => {
                tracing::warn!(error = ?answer.error, "the quorum refused the ISR changes of this broker");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        Self(partitions.into_iter().map(|altered| (altered.partition, altered)).collect())
    }
}
