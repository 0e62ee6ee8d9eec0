//! Decides when a replica asks the quorum to remove it from ISR and ELR.

use ottla_metadata::controller::ResignReason;
use ottla_metadata::{Image, PartitionState};
use ottla_model::{BrokerEpoch, BrokerId, TopicIdPartition};

use crate::rules::BrokenRules;

/// What keeps a replica from serving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Impairment {
    /// Its log is whole, and cannot be written to, or not be opened, now: the disk is full or does not answer.
    Unwritable,
    /// Its log cannot be read: the directory failed, or the log is damaged.
    Unreadable,
    /// Its log was lost with its directory; a new one is not made before the quorum knows.
    Lost,
}

impl Impairment {
    /// In the order in which replicas without an open log give up their places.
    pub const ALL: [Self; 3] = [Self::Lost, Self::Unreadable, Self::Unwritable];
}

/// The known state of a log directory's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DirectoryState {
    /// Out of use until the process starts again.
    pub is_failed: bool,
    /// A write found no room.
    pub is_full: bool,
    /// Writes do not come back.
    pub is_stalled: bool,
}

impl DirectoryState {
    /// Why the replicas of the directory cannot serve. `is_out_of_room`: the last append of this replica found no
    /// space.
    pub fn impairment(self, is_out_of_room: bool) -> Option<Impairment> {
        if self.is_failed {
            Some(Impairment::Unreadable)
        } else if self.is_stalled || self.is_full && is_out_of_room {
            Some(Impairment::Unwritable)
        } else {
            None
        }
    }
}

/// The reason to resign, to be sent until the image shows the result; none if the replica stays. `has_successor`: a
/// live broker is in the ELR.
pub fn resignation(
    local: BrokerId,
    local_epoch: BrokerEpoch,
    state: &PartitionState,
    impairment: Impairment,
    has_successor: bool,
    rules: BrokenRules,
) -> Option<ResignReason> {
    match impairment {
        Impairment::Unreadable if rules.unreadable_last_member_stays && state.is_sole_member(local) => None,
        // A last member stays, and says so to its clients: it may come round. A live ELR member has everything up to
        // the high watermark, and could not come back into the ISR if nothing can be fetched here (scenario 36).
        Impairment::Unwritable => {
            (state.in_isr(local) && (has_successor || !state.is_sole_member(local))).then_some(ResignReason::Stalled)
        }
        // Also where it counts for nothing: clients are shown which replicas are offline.
        Impairment::Unreadable => {
            (state.leader == local || !state.is_offline(local, local_epoch)).then_some(ResignReason::Offline)
        }
        Impairment::Lost => {
            let in_isr = state.isr_member(local).is_some_and(|member| !member.is_lost());
            (in_isr || state.elr.contains(&local)).then_some(ResignReason::Lost)
        }
    }
}

/// Which of these replicas here give up their places for this impairment, and why; by the image, until it shows it.
pub fn places_to_give_up(
    local: BrokerId,
    image: &Image,
    replicas: impl IntoIterator<Item = TopicIdPartition>,
    impairment: Impairment,
    rules: BrokenRules,
) -> Option<(ResignReason, Vec<TopicIdPartition>)> {
    let epoch = image.broker_epoch(local).unwrap_or(BrokerEpoch::NONE);
    let mut reason = None;
    let mut given = Vec::new();
    for id in replicas {
        let Some(state) = image.partition(id) else { continue };
        let lives = |broker: &BrokerId| image.broker(*broker).is_some_and(|broker| broker.is_active());
        let has_successor = state.elr.iter().any(lives);
        if let Some(why) = resignation(local, epoch, state, impairment, has_successor, rules) {
            reason = Some(why);
            given.push(id);
        }
    }
    reason.map(|reason| (reason, given))
}

#[cfg(test)]
mod tests {
    use ottla_metadata::IsrMember;
    use ottla_metadata::image::LeaderRecoveryState;
    use ottla_model::{ControllerEpoch, LeaderEpoch, PartitionEpoch};

    use super::*;

    const LOCAL: BrokerId = BrokerId(3);
    const EPOCH: BrokerEpoch = BrokerEpoch(30);

    fn state(leader: i32, isr: &[i32], elr: &[i32]) -> PartitionState {
        let member = |id: &i32| IsrMember { broker: BrokerId(*id), epoch: BrokerEpoch(i64::from(*id) * 10) };
        PartitionState {
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(9),
            controller_epoch: ControllerEpoch(1),
            replicas: [1, 2, 3].map(BrokerId).to_vec(),
            reassignment: None,
            isr: isr.iter().map(member).collect(),
            elr: elr.iter().copied().map(BrokerId).collect(),
            offline: vec![],
            last_known_elr: vec![],
            last_known_leader: BrokerId::NONE,
            leader_recovery_state: LeaderRecoveryState::Recovered,
        }
    }

    fn resigns(state: &PartitionState, impairment: Impairment) -> Option<ResignReason> {
        resignation(LOCAL, EPOCH, state, impairment, false, BrokenRules::default())
    }

    #[test]
    fn a_directory_serves_unless_it_failed_stalls_or_had_no_room_for_this_replica() {
        let serves = DirectoryState::default();
        let full = DirectoryState { is_full: true, ..serves };
        let stalled = DirectoryState { is_stalled: true, ..serves };
        let failed = DirectoryState { is_failed: true, is_full: true, is_stalled: true };
        for (directory, is_out_of_room, expected) in [
            (serves, false, None),
            // The directory has room again, and the next append will find it.
            (serves, true, None),
            (full, false, None),
            (full, true, Some(Impairment::Unwritable)),
            (stalled, false, Some(Impairment::Unwritable)),
            (failed, false, Some(Impairment::Unreadable)),
        ] {
            assert_eq!(directory.impairment(is_out_of_room), expected, "{directory:?} {is_out_of_room}");
        }
    }

    #[test]
    fn a_replica_that_cannot_write_leaves_unless_it_is_the_last() {
        let unwritable = Impairment::Unwritable;
        assert_eq!(resigns(&state(3, &[1, 3], &[]), unwritable), Some(ResignReason::Stalled));
        assert_eq!(resigns(&state(3, &[3], &[]), unwritable), None);
        assert_eq!(resigns(&state(1, &[1, 2], &[3]), unwritable), None);
    }

    #[test]
    fn a_replica_that_cannot_read_says_so_until_it_is_shown_offline() {
        let unreadable = Impairment::Unreadable;
        let mut shown = state(1, &[1], &[]);
        assert_eq!(resigns(&shown, unreadable), Some(ResignReason::Offline));
        shown.offline = vec![IsrMember { broker: LOCAL, epoch: EPOCH }];
        assert_eq!(resigns(&shown, unreadable), None);
        shown.leader = LOCAL;
        assert_eq!(resigns(&shown, unreadable), Some(ResignReason::Offline));
    }

    #[test]
    fn a_lost_log_is_given_up_wherever_it_counts() {
        assert_eq!(resigns(&state(1, &[1, 3], &[]), Impairment::Lost), Some(ResignReason::Lost));
        assert_eq!(resigns(&state(1, &[1], &[3]), Impairment::Lost), Some(ResignReason::Lost));
        assert_eq!(resigns(&state(1, &[1], &[]), Impairment::Lost), None);
        let mut known = state(-1, &[], &[]);
        known.isr = vec![IsrMember::lost(LOCAL)];
        assert_eq!(resigns(&known, Impairment::Lost), None);
    }

    /// The simulation switches the rule off, and must see what that leads to.
    #[test]
    fn without_its_rule_a_last_member_that_cannot_read_stays() {
        let rules = BrokenRules { unreadable_last_member_stays: true, ..BrokenRules::default() };
        let resigns = |isr: &[i32]| {
            resignation(LOCAL, EPOCH, &state(1, isr, &[]), Impairment::Unreadable, false, rules).is_some()
        };
        assert!(!resigns(&[3]) && resigns(&[1, 3]));
    }
}
