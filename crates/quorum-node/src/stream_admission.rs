//! Whose stream of Raft messages is taken: a member's, with the disk that it always voted with, and only if the
//! coordinator at that member's address says that it has opened the stream. Ids of coordinators and disks are public,
//! but a stranger cannot answer from that address.
//!
//! One that is not known here may have become a member since: the members that are known here are asked.

use ottla_model::{CoordinatorId, FeatureLevel, FeatureLevels, IncarnationId};

use crate::broken_rules::BrokenRules;
use crate::disks::{SenderError, check_sender};
use crate::event::Event;
use crate::identity::{Identified, vouched};
use crate::members::Members;

/// Why a stream is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StreamRefused {
    #[error(transparent)]
    Sender(#[from] SenderError),
    #[error("coordinator {id} at {address} says that this stream is not its own")]
    NotItsOwn { id: CoordinatorId, address: String },
    #[error("coordinator {id} at {address} works at ottla.version {theirs}, this cluster at {finalized}")]
    LacksLevel { id: CoordinatorId, address: String, theirs: FeatureLevels, finalized: FeatureLevel },
    /// It may be the sender's: the next one is asked about again.
    #[error("coordinator {id} at {address} does not say whether this stream is its own")]
    Silent { id: CoordinatorId, address: String },
}

/// What comes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdmissionStep {
    /// Ask the coordinators at these addresses for their identity, and pass on what they answer:
    /// [`Admission::members_answered`].
    AskMembers(Vec<String>),
    /// Ask the coordinator at this address whether it has opened the stream: [`Admission::confirmed`].
    Confirm(String),
    /// The messages of the stream are taken from now on.
    Admitted,
    Refused(StreamRefused),
}

/// One stream that somebody has opened. See the module.
#[derive(Clone, Debug)]
pub struct Admission {
    me: CoordinatorId,
    sender: CoordinatorId,
    disk: IncarnationId,
    address: String,
    is_vouched_for: bool,
    finalized: FeatureLevel,
    rules: BrokenRules,
}

impl Admission {
    /// `sender`: the coordinator and the disk that the stream names.
    pub fn begin(
        members: &Members,
        me: CoordinatorId,
        (sender, disk): (CoordinatorId, IncarnationId),
        rules: BrokenRules,
    ) -> (Self, AdmissionStep) {
        let mut admission = Self {
            me,
            sender,
            disk,
            address: String::new(),
            is_vouched_for: false,
            finalized: members.finalized,
            rules,
        };
        let step = match members.address(sender) {
            None if sender != me && !members.was_removed(sender, disk) => {
                let others = members.by_id.iter().filter(|(id, _)| **id != me);
                AdmissionStep::AskMembers(others.map(|(_, member)| member.address.clone()).collect())
            }
            known => admission.check(members, known.map(str::to_owned), None),
        };
        (admission, step)
    }

    /// What the members said that were asked; those that said nothing are left out.
    pub fn members_answered(
        &mut self,
        members: &Members,
        answers: impl IntoIterator<Item = Identified>,
    ) -> AdmissionStep {
        match vouched(members, self.sender, answers) {
            Some((address, disk)) => self.check(members, Some(address), disk),
            None => self.check(members, None, None),
        }
    }

    fn check(&mut self, members: &Members, address: Option<String>, vouched: Option<IncarnationId>) -> AdmissionStep {
        if let Err(refused) = check_sender(members, self.me, self.sender, self.disk, vouched) {
            return AdmissionStep::Refused(refused.into());
        }
        let Some(address) = address else {
            return AdmissionStep::Refused(SenderError::Stranger(self.sender).into());
        };
        self.address.clone_from(&address);
        self.is_vouched_for = vouched.is_some();
        match self.rules.streams_are_not_confirmed {
            true => AdmissionStep::Admitted,
            false => AdmissionStep::Confirm(address),
        }
    }

    /// The answer from the sender's address, and whether it says that it has opened the stream; none: it said nothing.
    pub fn confirmed(&self, answer: Option<(&Identified, bool)>) -> AdmissionStep {
        let (id, address) = (self.sender, self.address.clone());
        match answer {
            Some((found, true)) if (found.id, found.disk) == (self.sender, self.disk) => {
                let (theirs, finalized) = (found.levels, self.finalized);
                match theirs.includes(finalized) || self.rules.levels_are_not_compared {
                    true => AdmissionStep::Admitted,
                    false => AdmissionStep::Refused(StreamRefused::LacksLevel { id, address, theirs, finalized }),
                }
            }
            Some(_) => AdmissionStep::Refused(StreamRefused::NotItsOwn { id, address }),
            None => AdmissionStep::Refused(StreamRefused::Silent { id, address }),
        }
    }

    /// What the node has to know before the first message of a stream that was admitted.
    pub fn vouched(&self) -> Option<Event> {
        let (id, disk, address) = (self.sender, self.disk, self.address.clone());
        self.is_vouched_for.then_some(Event::Vouched { id, disk, address })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ottla_model::Revision;

    use super::*;
    use crate::identity::Recognition;
    use crate::members::MemberInfo;

    const ME: CoordinatorId = CoordinatorId(1);

    fn disk(id: u64) -> IncarnationId {
        IncarnationId([u8::try_from(id).unwrap_or_default(); 16])
    }

    fn address(id: u64) -> String {
        format!("c{id}:2181")
    }

    fn members() -> Members {
        let member =
            |id: u64| (CoordinatorId(id), MemberInfo { address: address(id), disk: Some(disk(id)), is_voter: true });
        Members { by_id: (1..=3).map(member).collect(), revision: Revision(40), ..Members::default() }
    }

    fn found(id: u64, shown: IncarnationId, knows: &[u64]) -> Identified {
        Identified {
            id: CoordinatorId(id),
            disk: shown,
            is_empty: false,
            voters: knows.iter().map(|id| (CoordinatorId(*id), address(*id))).collect(),
            disks: knows.iter().map(|id| (CoordinatorId(*id), disk(*id))).collect::<BTreeMap<_, _>>(),
            members_revision: 50,
            cluster_id: None,
            recognition: Recognition::SameDisk,
            known_disk: None,
            levels: FeatureLevels::told(1, 2),
            finalized: Some(FeatureLevel::FIRST),
        }
    }

    fn begin(sender: u64, shown: IncarnationId) -> (Admission, AdmissionStep) {
        Admission::begin(&members(), ME, (CoordinatorId(sender), shown), BrokenRules::default())
    }

    /// Every id and every disk is public: whoever reached the port could send votes in a member's name.
    #[test]
    fn a_stream_is_the_members_that_says_so_at_its_address() {
        let (admission, step) = begin(2, disk(2));
        assert_eq!(step, AdmissionStep::Confirm(address(2)));
        let own = found(2, disk(2), &[]);
        assert_eq!(admission.confirmed(Some((&own, true))), AdmissionStep::Admitted);
        assert!(admission.vouched().is_none());
        let not_its_own = StreamRefused::NotItsOwn { id: CoordinatorId(2), address: address(2) };
        let refused = AdmissionStep::Refused(not_its_own);
        assert_eq!(admission.confirmed(Some((&own, false))), refused);
        assert_eq!(admission.confirmed(Some((&found(3, disk(3), &[]), true))), refused, "another one answers there");
        let silent = StreamRefused::Silent { id: CoordinatorId(2), address: address(2) };
        assert_eq!(admission.confirmed(None), AdmissionStep::Refused(silent));
    }

    #[test]
    fn a_coordinator_that_does_not_work_at_the_finalized_level_is_not_listened_to() {
        let members = Members { finalized: FeatureLevel(2), ..members() };
        let (admission, _) = Admission::begin(&members, ME, (CoordinatorId(2), disk(2)), BrokenRules::default());
        let newer = found(2, disk(2), &[]);
        let older = Identified { levels: FeatureLevels::UNTOLD, ..newer.clone() };
        assert_eq!(admission.confirmed(Some((&newer, true))), AdmissionStep::Admitted);
        let refused = admission.confirmed(Some((&older, true)));
        assert!(matches!(refused, AdmissionStep::Refused(StreamRefused::LacksLevel { .. })), "{refused:?}");
    }

    #[test]
    fn another_disk_and_this_ones_own_id_are_refused_at_once() {
        assert!(matches!(
            begin(2, disk(9)).1,
            AdmissionStep::Refused(StreamRefused::Sender(SenderError::OtherDisk { .. }))
        ));
        let stranger = StreamRefused::Sender(SenderError::Stranger(ME));
        assert_eq!(begin(1, disk(1)).1, AdmissionStep::Refused(stranger));
    }

    /// Nobody is asked about a disk that is known to be gone.
    #[test]
    fn a_member_that_was_removed_is_refused_at_once_and_comes_back_with_an_empty_disk() {
        let gone = CoordinatorId(4);
        let members = Members { removed: BTreeMap::from([(gone, disk(4))]), ..members() };
        let begin = |shown| Admission::begin(&members, ME, (gone, shown), BrokenRules::default()).1;
        assert_eq!(begin(disk(4)), AdmissionStep::Refused(SenderError::Removed(gone).into()));
        assert_eq!(begin(disk(9)), AdmissionStep::AskMembers(vec![address(2), address(3)]));
    }

    #[test]
    fn of_one_that_is_not_known_the_members_are_asked_and_then_itself() {
        let (mut admission, step) = begin(4, disk(4));
        assert_eq!(step, AdmissionStep::AskMembers(vec![address(2), address(3)]));
        let step = admission.members_answered(&members(), [found(2, disk(2), &[2, 4])]);
        assert_eq!(step, AdmissionStep::Confirm(address(4)));
        assert_eq!(admission.confirmed(Some((&found(4, disk(4), &[]), true))), AdmissionStep::Admitted);
        let (id, disk_id) = (CoordinatorId(4), disk(4));
        assert!(
            matches!(admission.vouched(), Some(Event::Vouched { id: of, disk, .. }) if (of, disk) == (id, disk_id))
        );
        let (mut admission, _) = begin(4, disk(4));
        let stranger = AdmissionStep::Refused(SenderError::Stranger(id).into());
        assert_eq!(admission.members_answered(&members(), []), stranger);
    }
}
