//! The proposals of this broker's leaders on their way to the quorum: [`ottla_partition::isr_changes`] decides what is
//! sent and what an answer means. Only the sending and the waiting are here.

use std::sync::{Arc, Weak};

use ottla_model::{ErrorCode, MonotonicMs, TopicIdPartition};
use ottla_partition::{Decided, IsrProposals};
use ottla_replication::{IsrOutcome, IsrProposal};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;
use crate::quorum_handle::QuorumHandle;

/// The leaders of this broker, as far as their ISRs are concerned.
pub trait Leaders: Send + Sync {
    /// The outcome of a proposal.
    fn isr_decided(&self, decided: Decided);
    /// A leader asked to be ticked by now.
    fn tick(&self, partition: TopicIdPartition, now: MonotonicMs);
}

/// The proposals of this broker's leaders.
pub struct AlterPartitionManager {
    quorum: Arc<dyn QuorumHandle>,
    proposals: Mutex<IsrProposals>,
    changed: Notify,
}

impl AlterPartitionManager {
    pub fn new(quorum: Arc<dyn QuorumHandle>) -> Arc<Self> {
        Arc::new(Self { quorum, proposals: Mutex::default(), changed: Notify::new() })
    }

    /// Sends `proposal` with the next request.
    pub fn submit(&self, partition: TopicIdPartition, proposal: IsrProposal) {
        self.proposals.lock().submit(partition, proposal);
        self.changed.notify_one();
    }

    /// Ticks this leader at `at`.
    pub fn tick_at(&self, partition: TopicIdPartition, at: MonotonicMs) {
        self.proposals.lock().tick_at(partition, at);
        self.changed.notify_one();
    }

    /// Sends proposals and ticks leaders, until they are gone. Runs once per broker.
    pub async fn run(self: Arc<Self>, leaders: Weak<dyn Leaders>) {
        loop {
            let (request, next_tick) = {
                let mut proposals = self.proposals.lock();
                (proposals.next_request(), proposals.next_tick())
            };
            let Some(changes) = request else {
                match next_tick {
                    Some(at) => {
                        let _ = tokio::time::timeout_at(clock::instant(at), self.changed.notified()).await;
                        let Some(leaders) = leaders.upgrade() else { return };
                        self.tick_due(&*leaders);
                    }
                    None => self.changed.notified().await,
                }
                continue;
            };
            let asked = changes.len();
            let answer = self.quorum.alter_partitions(changes).await;
            match &answer {
                Err(error) => {
                    tracing::warn!(%error, partitions = asked, "ISR changes without an answer; they are sent again");
                }
                Ok(answer) if answer.error != ErrorCode::None => {
                    tracing::warn!(error = ?answer.error, "the quorum refused the ISR changes of this broker");
                }
                Ok(_) => {}
            }
            let outcomes = self.proposals.lock().answered(answer.ok());
            // One line for a broker that comes or goes, however much it hosts.
            let is_changed = |decided: &&Decided| matches!(decided.outcome, IsrOutcome::Decided { .. });
            let changed = outcomes.iter().filter(is_changed).count();
            if changed > 0 {
                tracing::info!(partitions = changed, refused = asked - changed, "ISRs changed");
            }
            let Some(leaders) = leaders.upgrade() else { return };
            outcomes.into_iter().for_each(|decided| leaders.isr_decided(decided));
        }
    }

    fn tick_due(&self, leaders: &dyn Leaders) {
        let now = clock::monotonic();
        loop {
            // The leader may propose while it is ticked.
            let due = self.proposals.lock().take_due(now);
            let Some(partition) = due else { return };
            leaders.tick(partition, now);
        }
    }
}
