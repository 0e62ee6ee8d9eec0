//! Rules that the simulation takes out to prove that it would notice.

/// Everything but the simulation uses [`BrokenRules::default`], in which every rule holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// Broken: a new follower first truncates to its high watermark, as Kafka did before KIP-101.
    pub truncate_to_high_watermark: bool,
    /// Broken: the high watermark is computed over the committed ISR; a member that is being added does not hold it.
    pub hw_over_committed_isr_only: bool,
    pub fetch_sessions: crate::fetch_session::BrokenRules,
}
