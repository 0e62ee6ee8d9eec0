//! Rules that a simulation takes out to see that its checks notice. All hold by default; nothing but tests sets them.

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// Votes and acknowledgements are sent before the state that they promise is on the disk.
    pub sends_before_persist: bool,
    /// The controller begins with the election, before everything of earlier terms is applied.
    pub decides_before_own_entry: bool,
    /// A linearizable read is answered without asking the quorum.
    pub reads_skip_the_quorum: bool,
    /// A watcher that is ahead of this node gets a snapshot of the past.
    pub watch_goes_back: bool,
    /// Any disk may act for a coordinator id: also an empty one, under an id that has voted.
    pub emptied_disk_votes: bool,
    /// Requests are answered when they are decided, not when the decision is committed.
    pub answers_before_commit: bool,
    /// A learner becomes a voter before it has the log.
    pub promotes_without_log: bool,
    /// The word of one member that a disk is the wrong one ends a coordinator, also if that member lags.
    pub one_member_is_believed: bool,
    /// At a first start another list on an empty disk ends a coordinator while others are silent.
    pub other_list_is_final: bool,
    /// A stream of Raft messages is its sender's because it says so.
    pub streams_are_not_confirmed: bool,
    /// A leader keeps the leadership whatever brokers it reaches.
    pub keeps_lost_brokers: bool,
    /// A coordinator is listened to, and listens, although it does not work at the finalized level.
    pub levels_are_not_compared: bool,
}
