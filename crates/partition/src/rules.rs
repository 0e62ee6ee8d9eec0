//! Which of the rules that keep data safe are in force.

/// Switches for the simulation, which proves that it would notice a rule's absence. Everything else uses the default,
/// in which every rule holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    pub replication: ottla_replication::BrokenRules,
    pub log_dirs: ottla_storage::BrokenRules,
    /// Broken: a producer keeps waiting for the high watermark after its leader lost the leadership.
    pub acks_outlive_leadership: bool,
    /// Broken: a follower's fetch counts as progress although its log has parted from the leader's.
    pub diverging_fetch_counts: bool,
    /// Broken: a damaged log gives way to a new one although the quorum still counts on it (fault A4).
    pub damaged_log_starts_over: bool,
    /// Broken: of several logs with one name the longest wins, even if it belongs to another topic (fault A5).
    pub longest_log_wins: bool,
    /// Broken: a last ISR member that cannot read its log keeps its place, and with it the leadership (fault A9).
    pub unreadable_last_member_stays: bool,
    /// Broken: a replica that has lost its log with a replaced directory begins an empty one and says nothing (fault
    /// A3).
    pub lost_log_starts_over: bool,
    /// Broken: a log directory that does not answer keeps its leaderships.
    pub stalled_directory_leads: bool,
    /// Broken: the replicas of a log directory that has failed keep their roles.
    pub failed_directory_goes_on: bool,
    /// Broken: an ISR change that was not answered counts as made, although the quorum may not have heard of it.
    pub silence_grants_isr_changes: bool,
    /// Broken: a reader of committed records reads up to the high watermark, whatever transactions are open.
    pub open_transactions_are_stable: bool,
    /// Broken: a batch that begins a transaction is appended without the word of the transaction coordinator (KIP-890),
    /// where the question would only verify.
    pub no_verification: bool,
    /// Broken: of several logs of a partition the first that is found wins, also if another one reaches further.
    pub first_found_wins: bool,
    /// Broken: of several logs of a partition one that can be opened wins over one that cannot be opened now.
    pub unreadable_log_gives_way: bool,
    /// Broken: the copy of a log in another directory takes the log's place before it holds the same.
    pub moves_before_caught_up: bool,
}
