//! Which of the rules that keep data safe are in force.

/// Switches for the simulation, which proves that it would notice a rule's absence. Everything else uses
/// [`Rules::default`], in which every rule holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Broken: a new follower first truncates to its high watermark, as Kafka did before KIP-101.
    pub truncate_to_high_watermark: bool,
    /// Broken: the high watermark is computed over the committed ISR; a member that is being added does not hold it.
    pub hw_over_committed_isr_only: bool,
    pub fetch_sessions: crate::fetch_session::BrokenRules,
}
