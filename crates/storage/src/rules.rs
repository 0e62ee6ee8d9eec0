//! Which of the rules about log directories are in force.

/// Switches for the simulation, which proves that it would notice a rule's absence. Everything else uses the default,
/// in which every rule holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// Broken: a replaced directory is claimed with the others, before the quorum knows what was lost with its
    /// predecessor.
    pub claims_replaced_at_once: bool,
    /// Broken: an I/O error counts as lack of room, so that the directory stays in use.
    pub failed_disk_counts_as_full: bool,
}
