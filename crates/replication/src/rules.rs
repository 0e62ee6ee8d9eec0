//! Rules that the simulation takes out to prove that it would notice.

/// Everything but the simulation uses [`BrokenRules::default`], in which every rule holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// Broken: a new follower first truncates to its high watermark, as Kafka did before KIP-101.
    pub truncate_to_high_watermark: bool,
    /// Broken: the high watermark is computed over the committed ISR; a member that is being added does not hold it.
    pub hw_over_committed_isr_only: bool,
    /// Broken: a follower serves consumers up to its log's end.
    pub followers_serve_to_their_end: bool,
    /// Broken: a follower serves consumers before the leader of its leader epoch has answered it.
    pub followers_serve_unconfirmed: bool,
    pub fetch_sessions: crate::fetch_session::BrokenRules,
}
