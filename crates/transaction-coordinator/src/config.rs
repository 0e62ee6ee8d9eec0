//! What the broker's configuration says about transactions.

use std::sync::Arc;

use crate::budget::IdBudget;

/// Limits and times of transactions; the names are those of Kafka's broker properties. Times in milliseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionConfig {
    /// `transaction.max.timeout.ms`: the longest time-out that a producer may ask for.
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`: an id that was not used for so long is forgotten.
    pub id_expiration_ms: i32,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`: how often transactions that timed out are looked
    /// for.
    pub abort_timed_out_interval_ms: i32,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`: how often expired ids are looked for.
    pub remove_expired_interval_ms: i32,
    /// `transaction.two.phase.commit.enable`: whether producers may ask for transactions that never time out (KIP-939).
    pub two_phase_commit_is_enabled: bool,
    /// The largest batch that the log takes.
    pub max_batch_bytes: i32,
    /// What the ids of all partitions may hold together; every configuration of a broker has the same.
    pub budget: Arc<IdBudget>,
    pub broken_rules: BrokenRules,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            max_timeout_ms: 900_000,
            id_expiration_ms: 604_800_000,
            abort_timed_out_interval_ms: 10_000,
            remove_expired_interval_ms: 3_600_000,
            two_phase_commit_is_enabled: false,
            max_batch_bytes: 1_048_588,
            budget: Arc::default(),
            broken_rules: BrokenRules::default(),
        }
    }
}

/// Rules that a simulation breaks to prove that it would notice. All are kept in a broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// Markers are sent when the decision is appended, before it is replicated.
    pub marker_before_decision: bool,
    /// A transaction that is ended by the coordinator leaves its producer's epoch as it is.
    pub no_epoch_bump: bool,
}
