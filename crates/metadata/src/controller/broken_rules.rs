//! Switches of the tests.

/// Rules that a simulation takes out to see that its checks notice. All hold by default; nothing but tests sets them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// A fenced broker stays electable, and stays in the ISRs that it did not lead.
    pub fenced_stays_electable: bool,
    /// The broker epoch of an ISR member is ignored (KIP-903 is switched off).
    pub any_broker_epoch_joins: bool,
    /// An unclean shutdown counts as a clean one (KIP-966 is switched off).
    pub unclean_counts_as_clean: bool,
    /// A sole ISR member that returns from an unclean shutdown wins over the ELR.
    pub unclean_sole_member_wins: bool,
    /// A last member whose log is gone leads again (the rule of scenario 33 is switched off).
    pub lost_log_may_lead: bool,
    /// A log that cannot be read counts: its replica stays in the ELR, and leads as the last member (faults A4, A9).
    pub offline_log_may_lead: bool,
    /// A broker that is down is placed on no more, and may not be named in assignments (fault A10).
    pub fenced_broker_is_gone: bool,
    /// The preferred replica leads although it is not in the ISR.
    pub preferred_may_lag: bool,
    /// A broker that ended without a controlled shutdown leads its partitions again as soon as it is in sync.
    pub abrupt_end_has_no_pause: bool,
    /// A reassignment completes with the first of its target replicas in the ISR.
    pub reassignment_completes_early: bool,
    /// Any number of partitions is moved to a broker at once.
    pub reassignments_have_no_waves: bool,
    /// New topics are placed on brokers that are cordoned too.
    pub cordoned_gets_replicas: bool,
    /// Elections are unclean wherever they have to be, whatever `unclean.leader.election.enable` is.
    pub unclean_is_always_enabled: bool,
    /// Unclean elections take the first replica, whoever led last or was in the ELR.
    pub unclean_takes_anybody: bool,
    /// The log and the metric do not tell of unclean elections.
    pub unclean_is_not_told: bool,
    /// A configuration is written without the revision at which `min.insync.replicas` last changed.
    pub min_insync_replicas_revision_is_not_kept: bool,
    /// A level is finalized although a process of the cluster does not know it.
    pub levels_are_not_asked: bool,
    /// A broker registers although it does not know the finalized level.
    pub unknown_levels_register: bool,
    /// What belongs to a level is written before the level is finalized.
    pub levels_gate_nothing: bool,
    /// A request in a broker's name needs no proof (ADR 0033 is switched off).
    pub unproved_is_decided: bool,
    /// Rules that are added take the place of those that their resource pattern had.
    pub added_acls_replace: bool,
    /// A repeated request about rules, configurations or tokens is decided again.
    pub changes_of_security_are_forgotten: bool,
}
