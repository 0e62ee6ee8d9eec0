//! The decisions of one partition's leader and followers: in-sync replicas, high watermark, leader epochs and
//! truncation, the sequence numbers of idempotent producers, and what a fetch session answers.
//!
//! Layer 1: synchronous, no I/O. The caller owns the log: it passes log ends and the [`EpochHistory`] in, and executes
//! the results ([`LeaderEffects`], [`FollowerAction`]). Start with [`Leader`] and [`Follower`].
//!
//! Invariants that this crate keeps:
//! - the high watermark (HW) is the smallest log end over the *maximal* ISR (committed and pending), never falls while
//!   a leader leads, and does not move while the committed ISR is below `min.insync.replicas` (KIP-966);
//! - a follower's progress counts for an ISR member only if it was reported under the broker epoch of that ISR entry
//!   (KIP-903);
//! - a log is truncated by leader epoch, never to the HW (KIP-101, KIP-279).

pub mod effects;
pub mod epoch_history;
pub mod fetch_order;
pub mod fetch_session;
pub mod follower;
pub mod high_watermark;
pub mod isr;
pub mod leader;
pub mod producer_state;
pub mod rules;

pub use effects::{
    FetchError, FollowerAction, FollowerStep, Following, IsrOutcome, IsrProposal, LeaderEffects, Truncation,
    check_leader_epoch,
};
pub use epoch_history::{Divergence, EpochEnd, EpochHistory, EpochStart};
pub use fetch_order::{AnswerBudget, FetchLimits, FetchOrder};
pub use follower::{FetchAnswer, FetchPosition, Follower, LocalLog};
pub use isr::{Isr, IsrMember};
pub use leader::{Brokers, FollowerFetch, Leader, LeaderConfig, PartitionView, ReplicaProgress};
pub use producer_state::{
    AppendTerms, BatchOrigin, CachedBatch, CompletedTransaction, EndMarker, ProducerBatch, ProducerCheck,
    ProducerError, ProducerSnapshot, ProducerStates, TransactionMarker, VerificationGuard, VerificationRequest,
    refusal_of, verdict_of,
};
pub use rules::BrokenRules;
