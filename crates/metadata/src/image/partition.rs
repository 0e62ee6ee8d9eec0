//! The state of one partition: its leader, ISR and ELR.

use ottla_model::{BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch};

pub use ottla_model::IsrMember;

/// Whether the leader's log has all acknowledged records, or an unclean election may have lost some.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum LeaderRecoveryState {
    #[default]
    Recovered,
    Recovering,
}

/// Which replicas come and go while a partition is reassigned (KIP-455). A replica is in one of the lists at most.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reassignment {
    pub adding: Vec<BrokerId>,
    pub removing: Vec<BrokerId>,
}

/// The replicas of a partition, as its topic's node has them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Assignment {
    /// In order of preference; those that a reassignment removes come last.
    pub replicas: Vec<BrokerId>,
    /// While one is under way.
    pub reassignment: Option<Box<Reassignment>>,
}

impl From<Vec<BrokerId>> for Assignment {
    fn from(replicas: Vec<BrokerId>) -> Self {
        Self { replicas, reassignment: None }
    }
}

impl Assignment {
    pub fn adding(&self) -> &[BrokerId] {
        self.reassignment.as_ref().map_or(&[], |reassignment| &reassignment.adding)
    }

    pub fn removing(&self) -> &[BrokerId] {
        self.reassignment.as_ref().map_or(&[], |reassignment| &reassignment.removing)
    }

    /// The replicas when the reassignment has completed.
    pub fn target(&self) -> Vec<BrokerId> {
        self.replicas.iter().copied().filter(|broker| !self.removing().contains(broker)).collect()
    }

    /// The replicas when the reassignment is cancelled.
    pub fn original(&self) -> Vec<BrokerId> {
        self.replicas.iter().copied().filter(|broker| !self.adding().contains(broker)).collect()
    }
}

/// One partition, as decided.
///
/// Invariants: the leader is in the ISR, or [`BrokerId::NONE`]; the ISR is not empty and within the replicas; the ELR
/// shares no member with the ISR and is empty while the ISR has min.insync.replicas members; the epochs only grow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionState {
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    /// Grows by one with every change; the expected value of a leader's compare-and-set.
    pub partition_epoch: PartitionEpoch,
    /// Of the time of the last change.
    pub controller_epoch: ControllerEpoch,
    /// In order of preference; those that a reassignment removes come last.
    pub replicas: Vec<BrokerId>,
    /// While one is under way.
    pub reassignment: Option<Box<Reassignment>>,
    pub isr: Vec<IsrMember>,
    /// KIP-966: not in the ISR, but holds everything up to the HW, because the HW stood still since it left.
    pub elr: Vec<BrokerId>,
    /// Replicas that cannot read their log, each with the broker epoch of its report: they lead nothing before they
    /// register again. Their directory failed, or the log is damaged.
    pub offline: Vec<IsrMember>,
    /// Members of the ISR or ELR since the ISR fell below min.insync.replicas that came back from an unclean shutdown.
    pub last_known_elr: Vec<BrokerId>,
    /// The last leader, while the partition has none; [`BrokerId::NONE`] while it has one.
    pub last_known_leader: BrokerId,
    pub leader_recovery_state: LeaderRecoveryState,
}

impl PartitionState {
    pub fn has_leader(&self) -> bool {
        self.leader != BrokerId::NONE
    }

    /// The first replica, which leads while nothing is wrong.
    pub fn preferred_leader(&self) -> BrokerId {
        self.replicas.first().copied().unwrap_or(BrokerId::NONE)
    }

    /// Whether the leader was elected uncleanly and has not changed its ISR since.
    pub fn is_recovering(&self) -> bool {
        self.leader_recovery_state == LeaderRecoveryState::Recovering
    }

    /// Whether another replica than the preferred one leads.
    pub fn is_imbalanced(&self) -> bool {
        self.has_leader() && self.leader != self.preferred_leader()
    }

    pub fn isr_ids(&self) -> impl Iterator<Item = BrokerId> + Clone + '_ {
        self.isr.iter().map(|member| member.broker)
    }

    pub fn in_isr(&self, broker: BrokerId) -> bool {
        self.isr_member(broker).is_some()
    }

    pub fn isr_member(&self, broker: BrokerId) -> Option<&IsrMember> {
        self.isr.iter().find(|member| member.broker == broker)
    }

    /// Whether this broker, in this epoch, cannot read its log.
    pub fn is_offline(&self, broker: BrokerId, epoch: BrokerEpoch) -> bool {
        self.offline.contains(&IsrMember { broker, epoch })
    }

    pub fn assignment(&self) -> Assignment {
        Assignment { replicas: self.replicas.clone(), reassignment: self.reassignment.clone() }
    }

    /// As [`Self::assignment`] is equal, without a copy.
    pub(crate) fn has_assignment(&self, assignment: &Assignment) -> bool {
        self.replicas == assignment.replicas && self.reassignment == assignment.reassignment
    }

    pub fn is_reassigning(&self) -> bool {
        self.reassignment.is_some()
    }

    /// The replicas that a reassignment adds; empty without one.
    pub fn adding(&self) -> &[BrokerId] {
        self.reassignment.as_ref().map_or(&[], |reassignment| &reassignment.adding)
    }

    /// The replicas that a reassignment removes; empty without one.
    pub fn removing(&self) -> &[BrokerId] {
        self.reassignment.as_ref().map_or(&[], |reassignment| &reassignment.removing)
    }

    /// What min.insync.replicas is bounded by: the replicas without those that are being added. A partition with one
    /// replica can be written to while it gets two more.
    pub fn established_replicas(&self) -> usize {
        self.replicas.len() - self.adding().len().min(self.replicas.len())
    }

    pub fn is_replica(&self, broker: BrokerId) -> bool {
        self.replicas.contains(&broker)
    }

    /// Whether the ISR is this broker alone, in whichever incarnation.
    pub fn is_sole_member(&self, broker: BrokerId) -> bool {
        matches!(self.isr.as_slice(), [member] if member.broker == broker)
    }
}
