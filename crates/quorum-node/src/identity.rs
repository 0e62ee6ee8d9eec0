//! Which coordinator is which: what one tells of itself, and what follows for another one that reads it.
//!
//! Coordinators identify themselves to each other before a first start, before each Raft stream, and before one of them
//! is added to the quorum. An id that comes with another disk than the one with which it voted has lost its votes.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_metadata::controller::{ChangeQuorum, Refusal};
use ottla_model::{CoordinatorId, ErrorCode, FeatureLevel, FeatureLevels, IncarnationId};

use crate::broken_rules::BrokenRules;
use crate::members::{MemberInfo, Members};
use crate::opinions::{Opinion, Opinions};

/// Coordinators and where they are reached.
pub type Addresses = BTreeMap<CoordinatorId, String>;

/// How a coordinator knows the disk of the one that asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recognition {
    /// It knows no disk of that id.
    Unknown,
    SameDisk,
    OtherDisk,
    /// The asker, with this disk, was removed from the quorum.
    Removed,
}

/// The identity of a coordinator, as it tells it to another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identified {
    pub id: CoordinatorId,
    pub disk: IncarnationId,
    /// Its disk has never voted.
    pub is_empty: bool,
    /// None while it joins a quorum whose state it has not received.
    pub voters: Addresses,
    /// The disks of its members that it has seen.
    pub disks: BTreeMap<CoordinatorId, IncarnationId>,
    /// Of the last change of its members while the quorum ran; 0: none.
    pub members_revision: u64,
    /// None while its cluster has no id yet.
    pub cluster_id: Option<String>,
    /// Whether it knows the asker's disk.
    pub recognition: Recognition,
    pub known_disk: Option<IncarnationId>,
    /// The levels of `ottla.version` that its release works at.
    pub levels: FeatureLevels,
    /// The finalized level of its tree; none without a quorum, or of a release that knows no levels.
    pub finalized: Option<FeatureLevel>,
}

/// Why another coordinator and this one cannot be in one quorum; for people, in one line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Conflict {
    #[error("coordinator {id} is at {address} too, with another disk: every coordinator needs its own id")]
    DuplicateId { id: CoordinatorId, address: String },
    #[error("the list of servers says that {address} is coordinator {expected}, but coordinator {found} answers there")]
    OtherId { address: String, expected: CoordinatorId, found: CoordinatorId },
    #[error("the list of servers is {ours} here and {theirs} on coordinator {id} at {address}: all must have the same")]
    OtherVoters { id: CoordinatorId, address: String, ours: String, theirs: String },
    #[error("the coordinator at {address} belongs to cluster {theirs}, this one to cluster {ours}")]
    OtherCluster { address: String, ours: String, theirs: String },
    #[error(
        "coordinator {me} voted with disk {known} before, says coordinator {id} at {address}, and this data directory is disk {disk}: a member that lost its disk must not vote (ottla quorum remove {me}, then add it)"
    )]
    LostDisk { me: CoordinatorId, disk: IncarnationId, known: IncarnationId, id: CoordinatorId, address: String },
    #[error(
        "coordinator {id} at {address} works at ottla.version {theirs}, this cluster at {finalized}: it needs another release"
    )]
    PeerLacksLevel { id: CoordinatorId, address: String, theirs: FeatureLevels, finalized: FeatureLevel },
    #[error(
        "this coordinator works at ottla.version {ours}, the cluster at {finalized}, says coordinator {id} at {address}: it needs another release"
    )]
    LacksLevel { id: CoordinatorId, address: String, ours: FeatureLevels, finalized: FeatureLevel },
    /// One that lags says so too: the others are asked.
    #[error(
        "coordinator {id} at {address} knows coordinator {me} with another disk: it lags, or the disk was lost; the other members decide"
    )]
    DisputedDisk { me: CoordinatorId, id: CoordinatorId, address: String },
    /// Of the other one. Its word counts for nothing until its disk is admitted: a member that was restored alone says
    /// of all others that they were removed.
    #[error(
        "refused: coordinator {id} voted with disk {known} before and shows disk {shown} now: it lost its disk, and must not vote"
    )]
    PeerLostDisk { id: CoordinatorId, known: IncarnationId, shown: IncarnationId },
    #[error(
        "coordinator {me} was removed from the quorum, says coordinator {id} at {address}: to bring it back, empty its data directory, start it, and add it (ottla quorum add)"
    )]
    Removed { me: CoordinatorId, id: CoordinatorId, address: String },
}

impl Conflict {
    /// Whether this coordinator must end: its disk is the wrong one, and nothing that waits will change it. With the
    /// other conflicts the other one is misconfigured, or both are: the quorum continues without it.
    pub fn ends_this_one(&self) -> bool {
        matches!(self, Self::LostDisk { .. } | Self::DuplicateId { .. } | Self::Removed { .. })
    }
}

pub fn names(voters: &Addresses) -> String {
    voters.iter().map(|(id, address)| format!("{id}@{address}")).collect::<Vec<_>>().join(",")
}

/// What a coordinator knows of itself and of its quorum at one moment.
#[derive(Clone, Debug)]
pub struct OwnIdentity {
    pub id: CoordinatorId,
    pub disk: IncarnationId,
    /// From the tree, else from the configuration.
    pub cluster_id: Option<String>,
    /// The list that was configured, or agreed on while the quorum forms.
    pub listed: Addresses,
    /// None until the quorum is formed.
    pub members: Option<Arc<Members>>,
    /// The levels of `ottla.version` that this release works at.
    pub levels: FeatureLevels,
    pub broken_rules: BrokenRules,
}

impl OwnIdentity {
    fn is_joining(&self) -> bool {
        self.members.as_ref().is_some_and(|members| members.is_hearsay())
    }

    /// The members; before the quorum is formed, the list.
    pub fn voters(&self) -> Addresses {
        let address = |(id, member): (&CoordinatorId, &MemberInfo)| (*id, member.address.clone());
        match &self.members {
            Some(members) => members.by_id.iter().map(address).collect(),
            None => self.listed.clone(),
        }
    }

    /// The disk that `id` is known to have voted with.
    pub fn known_disk(&self, id: CoordinatorId) -> Option<IncarnationId> {
        if id == self.id {
            return Some(self.disk);
        }
        self.members.as_ref()?.get(id)?.disk
    }

    /// The disk that messages to `id` are for: also that of one that another member vouches for.
    pub fn expected_disk(&self, id: CoordinatorId) -> Option<IncarnationId> {
        self.known_disk(id).or_else(|| Some(self.members.as_ref()?.vouched.get(&id)?.disk))
    }

    /// Of the last change of the members while the quorum ran; 0: none that this coordinator knows of.
    pub fn members_revision(&self) -> u64 {
        self.members.as_ref().map_or(0, |members| members.revision.0)
    }

    /// The id of this cluster and that of the coordinator that was found, if it belongs to another one.
    pub fn other_cluster(&self, found: &Identified) -> Option<(String, String)> {
        let (ours, theirs) = (self.cluster_id.clone()?, found.cluster_id.clone()?);
        (ours != theirs).then_some((ours, theirs))
    }

    /// The response to `asker`, which shows the disk `shown`; none: it shows nothing that is a disk.
    pub fn answer(&self, asker: CoordinatorId, shown: Option<IncarnationId>) -> Identified {
        let known_disk = self.known_disk(asker);
        let was_removed = |members: &Arc<Members>| members.was_removed(asker, shown.unwrap_or_default());
        let recognition = match known_disk {
            None if self.members.as_ref().is_some_and(was_removed) => Recognition::Removed,
            None => Recognition::Unknown,
            Some(known) if Some(known) == shown => Recognition::SameDisk,
            Some(_) => Recognition::OtherDisk,
        };
        // One that joins, and has not received the quorum's state, would compare a list of today with those of the
        // first start (scenario 50).
        let voters = if self.is_joining() { Addresses::new() } else { self.voters() };
        let members = self.members.iter().flat_map(|members| &members.by_id);
        Identified {
            id: self.id,
            disk: self.disk,
            is_empty: self.members.is_none(),
            voters,
            disks: members.filter_map(|(id, member)| Some((*id, member.disk?))).collect(),
            members_revision: self.members_revision(),
            cluster_id: self.cluster_id.clone(),
            recognition,
            known_disk,
            levels: self.levels,
            finalized: self.members.as_ref().map(|members| members.finalized),
        }
    }

    /// Checks the answer of the coordinator that is listed as `expected`. Lists are compared by ids: one quorum may
    /// have several addresses per member. They are not compared where the members have changed since the first start:
    /// one of the two may not know yet.
    pub fn check(
        &self,
        opinions: &mut Opinions,
        address: &str,
        expected: CoordinatorId,
        found: &Identified,
    ) -> Result<(), Conflict> {
        let address = address.to_owned();
        let any_disk_acts = self.broken_rules.emptied_disk_votes;
        // First: the disks and lists of another cluster are irrelevant for this one.
        if let Some((ours, theirs)) = self.other_cluster(found) {
            return Err(Conflict::OtherCluster { address, ours, theirs });
        }
        if found.id == self.id && found.disk != self.disk {
            return Err(Conflict::DuplicateId { id: self.id, address });
        }
        if found.id != expected {
            return Err(Conflict::OtherId { address, expected, found: found.id });
        }
        self.check_levels(&address, found)?;
        // Before anything that it says of this one.
        if let Some(known) = self.expected_disk(found.id).filter(|known| *known != found.disk && !any_disk_acts) {
            return Err(Conflict::PeerLostDisk { id: found.id, known, shown: found.disk });
        }
        // Whatever its age: a removed disk is not added again.
        if found.recognition == Recognition::Removed || self.was_left_out(found) {
            return Err(Conflict::Removed { me: self.id, id: found.id, address });
        }
        let ours = self.voters();
        let has_changed = found.members_revision > 0 || self.members_revision() > 0;
        // A quorum that runs without this coordinator may add it.
        let may_join = !found.is_empty && self.members.is_none() && !found.voters.contains_key(&self.id);
        if !has_changed && !may_join && !found.voters.is_empty() && !found.voters.keys().eq(ours.keys()) {
            let (id, ours, theirs) = (found.id, names(&ours), names(&found.voters));
            return Err(Conflict::OtherVoters { id, address, ours, theirs });
        }
        // One that joins knows nothing of anybody yet.
        if found.is_empty || found.voters.is_empty() || any_disk_acts {
            return Ok(());
        }
        let is_other_disk = found.recognition == Recognition::OtherDisk;
        let members = found.voters.keys().copied().collect();
        opinions.record(found.id, Opinion { members_revision: found.members_revision, members, is_other_disk });
        let is_believed = self.broken_rules.one_member_is_believed;
        let is_disk_lost = is_believed || opinions.is_disk_lost(self.id, self.members_revision());
        let (me, id) = (self.id, found.id);
        match is_other_disk {
            false => Ok(()),
            true if !is_disk_lost => Err(Conflict::DisputedDisk { me, id, address }),
            true => {
                let known = found.known_disk.unwrap_or_default();
                Err(Conflict::LostDisk { me, disk: self.disk, known, id, address })
            }
        }
    }

    /// Whether the members changed later than this one knows, and it is none of them. The tree remembers one disk of
    /// each removed id: of two that were removed, it knows the first one no more.
    fn was_left_out(&self, found: &Identified) -> bool {
        let was_member = |members: &Arc<Members>| !members.is_hearsay() && members.get(self.id).is_some();
        !found.is_empty
            && self.members.as_ref().is_some_and(was_member)
            && found.members_revision > self.members_revision()
            && found.voters.contains_key(&found.id)
            && !found.voters.contains_key(&self.id)
    }

    /// Each must work at the level that the other's tree has.
    fn check_levels(&self, address: &str, found: &Identified) -> Result<(), Conflict> {
        if self.broken_rules.levels_are_not_compared {
            return Ok(());
        }
        let (id, address) = (found.id, address.to_owned());
        if let Some(finalized) = found.finalized.filter(|level| !self.levels.includes(*level)) {
            return Err(Conflict::LacksLevel { id, address, ours: self.levels, finalized });
        }
        match self.level_for(found).filter(|level| !found.levels.includes(*level)) {
            Some(finalized) => Err(Conflict::PeerLacksLevel { id, address, theirs: found.levels, finalized }),
            None => Ok(()),
        }
    }

    /// The level that another coordinator must work at; none if this one cannot know.
    pub(crate) fn level_for(&self, found: &Identified) -> Option<FeatureLevel> {
        match &self.members {
            Some(members) => Some(members.finalized),
            // Both form a quorum, whose tree begins at the highest level.
            None if found.is_empty => Some(self.levels.max),
            None => None,
        }
    }

    /// Whether the coordinator that was found at the address may be added: it must have the id, the disk (unless the
    /// change names none) and an empty data directory. The quorum must not wait for a coordinator that would not listen
    /// to it: no other one could be added meanwhile.
    pub fn check_addition(
        &self,
        (id, disk, address): (CoordinatorId, IncarnationId, String),
        found: &Identified,
    ) -> Result<ChangeQuorum, Refusal> {
        let refuse = |text: String| Err(Refusal::new(ErrorCode::InvalidRequest, text));
        if let Some((ours, theirs)) = self.other_cluster(found) {
            return refuse(format!(
                "coordinator {id} at {address} belongs to cluster {theirs}, this quorum to cluster {ours}"
            ));
        }
        if found.id != id {
            return refuse(format!("coordinator {}, not {id}, answers at {address}", found.id));
        }
        if disk != IncarnationId::ZERO && disk != found.disk {
            return refuse(format!("coordinator {id} at {address} has disk {}, not {disk}", found.disk));
        }
        if let Err(conflict) = self.check_levels(&address, found) {
            return refuse(conflict.to_string());
        }
        let known = self.members.as_ref().and_then(|members| members.get(id));
        let is_member = known.is_some_and(|member| member.disk == Some(found.disk));
        if !found.is_empty && !is_member {
            let text =
                format!("coordinator {id} at {address} belongs to a quorum already: its data directory is not empty");
            return Err(Refusal::new(ErrorCode::InvalidVoterKey, text));
        }
        Ok(ChangeQuorum::Add { coordinator: id, disk: found.disk, address })
    }
}

/// What the members that answered know of a coordinator that this one does not know. Only a member that has seen a
/// later change of the members is believed: others may name one that was removed since.
pub fn vouched(
    members: &Members,
    id: CoordinatorId,
    answers: impl IntoIterator<Item = Identified>,
) -> Option<(String, Option<IncarnationId>)> {
    let known = answers.into_iter().filter(|found| !found.is_empty && found.id != id);
    let newest = known.max_by_key(|found| found.members_revision)?;
    let is_later = newest.members_revision > members.revision.0;
    let address = newest.voters.get(&id).filter(|_| is_later)?.clone();
    Some((address, newest.disks.get(&id).copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(id: u64) -> IncarnationId {
        IncarnationId([u8::try_from(id).unwrap_or_default(); 16])
    }

    /// Coordinator 1 of three, of cluster `test`; the disk of coordinator n is [n; 16].
    fn own() -> OwnIdentity {
        let member = |id: u64| {
            let (address, disk) = (format!("c{id}:2181"), Some(disk(id)));
            (CoordinatorId(id), MemberInfo { address, disk, is_voter: true })
        };
        OwnIdentity {
            id: CoordinatorId(1),
            disk: disk(1),
            cluster_id: Some("test".to_owned()),
            listed: Addresses::new(),
            members: Some(Arc::new(Members { by_id: (1..=3).map(member).collect(), ..Members::default() })),
            levels: FeatureLevels::told(1, 2),
            broken_rules: BrokenRules::default(),
        }
    }

    fn found(id: u64, shown: IncarnationId) -> Identified {
        Identified {
            id: CoordinatorId(id),
            disk: shown,
            is_empty: false,
            voters: [1, id].map(|id| (CoordinatorId(id), format!("c{id}:2181"))).into(),
            disks: BTreeMap::new(),
            members_revision: 1 << 40,
            cluster_id: Some("test".to_owned()),
            recognition: Recognition::Unknown,
            known_disk: None,
            levels: FeatureLevels::told(1, 2),
            finalized: Some(FeatureLevel::FIRST),
        }
    }

    #[test]
    fn each_of_two_coordinators_works_at_the_level_of_the_other_ones_tree() {
        let at = |level: i16| {
            let members = own().members.map(|members| Members { finalized: FeatureLevel(level), ..(*members).clone() });
            OwnIdentity { members: members.map(Arc::new), ..own() }
        };
        let check = |own: &OwnIdentity, found: &Identified| {
            own.check(&mut Opinions::default(), "c2:2181", CoordinatorId(2), found)
        };
        let newer = found(2, disk(2));
        let older = Identified { levels: FeatureLevels::UNTOLD, finalized: None, ..newer.clone() };
        assert_eq!((check(&at(1), &newer), check(&at(1), &older), check(&at(2), &newer)), (Ok(()), Ok(()), Ok(())));
        assert!(matches!(check(&at(2), &older), Err(Conflict::PeerLacksLevel { .. })));
        let ahead = Identified { levels: FeatureLevels::told(1, 3), finalized: Some(FeatureLevel(3)), ..newer.clone() };
        let lacks = check(&at(1), &ahead).expect_err("level 3");
        assert!(matches!(lacks, Conflict::LacksLevel { .. }) && !lacks.ends_this_one());
        // Two that form a quorum begin at the highest level; one that joins does not know the level yet.
        let starting = OwnIdentity { members: None, ..own() };
        let empty = Identified { is_empty: true, ..older.clone() };
        assert!(matches!(check(&starting, &empty), Err(Conflict::PeerLacksLevel { .. })));
        assert_eq!(check(&starting, &older), Ok(()));
        let added = (CoordinatorId(2), disk(2), "c2:2181".to_owned());
        assert!(at(2).check_addition(added.clone(), &older).is_err() && at(1).check_addition(added, &older).is_ok());
    }

    /// A member that was restored alone, while the others live, ended all of them: it says that they were removed.
    #[test]
    fn another_disk_than_the_known_one_says_nothing_of_this_one() {
        let restored = Identified { recognition: Recognition::Removed, ..found(2, disk(9)) };
        let check = |found: &Identified| own().check(&mut Opinions::default(), "c2:2181", CoordinatorId(2), found);
        let (known, shown) = (disk(2), disk(9));
        assert_eq!(check(&restored), Err(Conflict::PeerLostDisk { id: CoordinatorId(2), known, shown }));
        let lost = Identified { recognition: Recognition::OtherDisk, ..restored.clone() };
        assert_eq!(check(&lost), Err(Conflict::PeerLostDisk { id: CoordinatorId(2), known, shown }));
        // The known disk is believed.
        let removed = check(&Identified { disk: known, ..restored });
        assert!(matches!(removed, Err(Conflict::Removed { .. })), "{removed:?}");
    }

    /// It went on for ever, refused by all, and every refusal was a line in their logs.
    #[test]
    fn a_disk_that_was_removed_before_the_last_removed_one_of_its_id_is_removed_too() {
        let members = |ids: &[u64]| ids.iter().map(|id| (CoordinatorId(*id), format!("c{id}:2181"))).collect();
        let without = Identified { voters: members(&[2, 3]), ..found(2, disk(2)) };
        let check = |own: &OwnIdentity, found: &Identified| {
            own.check(&mut Opinions::default(), "c2:2181", CoordinatorId(2), found)
        };
        assert!(matches!(check(&own(), &without), Err(Conflict::Removed { .. })));
        // It lags, and this one was added since.
        let since = own().members.map(|known| Members { revision: ottla_model::Revision(1 << 41), ..(*known).clone() });
        let added = OwnIdentity { members: since.map(Arc::new), ..own() };
        assert_eq!(check(&added, &without), Ok(()));
        // It waits to be added, and knows the members by hearsay.
        assert_eq!(check(&OwnIdentity { members: None, ..own() }, &without), Ok(()));
        assert_eq!(check(&own(), &Identified { voters: members(&[1, 2, 3]), ..without }), Ok(()));
    }

    /// It never caught up, and blocked every other addition.
    #[test]
    fn a_coordinator_of_another_cluster_is_not_added() {
        let (id, address) = (CoordinatorId(4), "c4:2181".to_owned());
        let empty = |cluster_id: Option<&str>| Identified {
            is_empty: true,
            members_revision: 0,
            cluster_id: cluster_id.map(str::to_owned),
            ..found(4, disk(4))
        };
        let check = |found: &Identified| own().check_addition((id, IncarnationId::ZERO, address.clone()), found);
        let change = ChangeQuorum::Add { coordinator: id, disk: disk(4), address: address.clone() };
        assert_eq!(check(&empty(Some("test"))).expect("of this cluster"), change);
        assert_eq!(check(&empty(None)).expect("of none yet"), change);
        let refused = check(&empty(Some("other"))).expect_err("of another one");
        assert!(refused.message.contains("belongs to cluster other"), "{refused}");
        let refused = check(&found(4, disk(4))).expect_err("it has voted elsewhere");
        assert_eq!(refused.error, ErrorCode::InvalidVoterKey);
    }

    #[test]
    fn an_answer_tells_the_asker_how_its_disk_is_known() {
        let recognition = |id, shown| own().answer(CoordinatorId(id), Some(shown)).recognition;
        assert_eq!(recognition(2, disk(2)), Recognition::SameDisk);
        assert_eq!(recognition(2, disk(9)), Recognition::OtherDisk);
        assert_eq!(recognition(4, disk(4)), Recognition::Unknown);
        let mut own = own();
        let members = Members { removed: BTreeMap::from([(CoordinatorId(4), disk(4))]), ..Members::default() };
        own.members = Some(Arc::new(members));
        assert_eq!(own.answer(CoordinatorId(4), Some(disk(4))).recognition, Recognition::Removed);
        assert_eq!(own.answer(CoordinatorId(4), Some(disk(5))).recognition, Recognition::Unknown);
        own.members = None;
        assert!(own.answer(CoordinatorId(4), Some(disk(4))).is_empty);
    }

    /// Its list of today was compared with the list of the first start, and the other one ended.
    #[test]
    fn scenario_50_a_coordinator_that_joins_tells_no_list_before_it_has_the_quorums_state() {
        let member =
            |id: u64| (CoordinatorId(id), MemberInfo { address: format!("c{id}:2181"), disk: None, is_voter: false });
        let told = Members { by_id: (1..=4).map(member).collect(), ..Members::default() };
        let joining = OwnIdentity { id: CoordinatorId(3), disk: disk(3), members: Some(Arc::new(told)), ..own() };
        let answer = joining.answer(CoordinatorId(2), Some(disk(2)));
        assert!(!answer.is_empty && answer.voters.is_empty());
        let listed = (1..=3).map(|id| (CoordinatorId(id), format!("c{id}:2181"))).collect();
        let lost = OwnIdentity { id: CoordinatorId(2), disk: disk(9), listed, members: None, ..own() };
        assert_eq!(lost.check(&mut Opinions::default(), "c3:2181", CoordinatorId(3), &answer), Ok(()));
    }

    #[test]
    fn only_a_member_that_has_seen_a_later_change_vouches() {
        let members = Members { revision: ottla_model::Revision(40), ..Members::default() };
        let answer = |from: u64, members_revision: u64, of: u64| Identified {
            members_revision,
            voters: BTreeMap::from([(CoordinatorId(4), format!("c4:{of}"))]),
            disks: BTreeMap::from([(CoordinatorId(4), disk(of))]),
            ..found(from, disk(from))
        };
        let vouched = |answers: Vec<Identified>| vouched(&members, CoordinatorId(4), answers);
        assert_eq!(vouched(vec![answer(2, 40, 1)]), None, "it knows no more than this one");
        assert_eq!(vouched(vec![answer(2, 50, 1), answer(3, 60, 2)]), Some(("c4:2".to_owned(), Some(disk(2)))));
        assert_eq!(vouched(vec![answer(4, 70, 1)]), None, "nobody vouches for himself");
        assert_eq!(vouched(vec![Identified { is_empty: true, ..answer(2, 50, 1) }]), None);
    }

    fn check(own: &OwnIdentity, found: &Identified) -> Result<(), Conflict> {
        own.check(&mut Opinions::default(), "there:2181", found.id, found)
    }

    fn members_at(revision: u64) -> OwnIdentity {
        let members = own()
            .members
            .map(|members| Arc::new(Members { revision: ottla_model::Revision(revision), ..Members::clone(&members) }));
        OwnIdentity { members, ..own() }
    }

    #[test]
    fn a_coordinator_meets_itself_and_another_one_with_its_id() {
        let voters = own().voters();
        let same = Identified { voters, ..found(1, disk(1)) };
        assert_eq!(check(&own(), &same), Ok(()));
        let conflict = check(&own(), &Identified { disk: disk(9), ..same.clone() });
        assert!(matches!(conflict, Err(Conflict::DuplicateId { .. })), "{conflict:?}");
        let other = own().check(&mut Opinions::default(), "there:2181", CoordinatorId(2), &same);
        assert!(matches!(other, Err(Conflict::OtherId { .. })), "{other:?}");
    }

    #[test]
    fn lists_are_compared_until_the_members_have_changed() {
        let list = |ids: &[u64]| ids.iter().map(|id| (CoordinatorId(*id), format!("c{id}:2181"))).collect();
        let formed = |members_revision| Identified { members_revision, voters: list(&[2]), ..found(2, disk(2)) };
        let is_other = |result: Result<(), Conflict>| match result {
            Ok(()) => false,
            Err(Conflict::OtherVoters { ours, theirs, .. }) => {
                assert_eq!((ours.as_str(), theirs.as_str()), ("1@c1:2181,2@c2:2181,3@c3:2181", "2@c2:2181"));
                true
            }
            Err(other) => panic!("{other}"),
        };
        assert!(is_other(check(&members_at(0), &formed(0))));
        let changed = Identified { voters: list(&[1, 2]), ..formed(1) };
        assert!(!is_other(check(&members_at(0), &changed)) && !is_other(check(&members_at(1), &formed(0))));
        let same = Identified { voters: own().voters(), ..formed(0) };
        assert!(!is_other(check(&members_at(0), &same)));
        // An empty disk: a quorum that runs without it may add it, one that has it has another list.
        let empty = OwnIdentity { listed: own().voters(), members: None, ..own() };
        assert!(!is_other(check(&empty, &formed(0))));
        assert!(is_other(check(&empty, &Identified { is_empty: true, ..formed(0) })));
        let with_it = check(&empty, &Identified { voters: list(&[1, 2]), ..formed(0) });
        assert!(matches!(with_it, Err(Conflict::OtherVoters { .. })), "{with_it:?}");
        assert!(!is_other(check(&empty, &Identified { is_empty: true, voters: Addresses::new(), ..formed(0) })));
    }

    #[test]
    fn one_member_disputes_a_disk_and_all_others_end_it() {
        let mut opinions = Opinions::default();
        let says = |id: u64| Identified {
            voters: own().voters(),
            recognition: Recognition::OtherDisk,
            known_disk: Some(disk(8)),
            ..found(id, disk(id))
        };
        // Who knows nothing of anybody says nothing of this disk either.
        let empty = Identified { is_empty: true, ..says(3) };
        let joins = Identified { voters: Addresses::new(), ..says(3) };
        for found in [empty, joins] {
            assert_eq!(own().check(&mut opinions, "c3:2181", CoordinatorId(3), &found), Ok(()));
        }
        let mut check = |id| own().check(&mut opinions, "there:2181", CoordinatorId(id), &says(id));
        let disputed = check(2);
        assert!(matches!(disputed, Err(Conflict::DisputedDisk { .. })), "{disputed:?}");
        let lost = check(3);
        assert!(matches!(lost, Err(Conflict::LostDisk { known, .. }) if known == disk(8)), "{lost:?}");
        assert_eq!(super::tests::check(&own(), &Identified { recognition: Recognition::SameDisk, ..says(2) }), Ok(()));
    }

    #[test]
    fn an_answer_tells_the_members_and_since_when_they_are_so() {
        let answer = members_at(40).answer(CoordinatorId(2), Some(disk(2)));
        assert_eq!((answer.members_revision, answer.voters), (40, own().voters()));
        let names: Vec<_> = own().voters().into_keys().map(|id| id.0).collect();
        assert_eq!(names, [1, 2, 3]);
        let listed = BTreeMap::from([(CoordinatorId(1), "c1:2181".to_owned())]);
        let starting = OwnIdentity { listed: listed.clone(), members: None, ..own() };
        let answer = starting.answer(CoordinatorId(2), None);
        assert_eq!((answer.members_revision, answer.voters, answer.is_empty), (0, listed, true));
    }
}
