//! How an empty disk comes to vote.
//!
//! A disk that never voted cannot have lost a vote. It may therefore join the quorum of its first start in two cases:
//! every other configured member reports that its disk is empty too; or one of them has already formed the quorum and
//! knows this disk from that time. A disk that a formed member does not know, under an id that it does know, has
//! replaced a disk that voted. If the members agree on that, it is refused, and the error names it; a single member may
//! lag, and is not believed ([`crate::opinions`]).
//!
//! If the quorum runs, and this coordinator is not one of its members, it waits until it is added (`ottla quorum add`).
//! It then receives the quorum's state before it votes.
//!
//! If no list is configured: without an id, a quorum of one; with an id, the first broker sends its list.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::CoordinatorId;

use crate::broken_rules::BrokenRules;
use crate::disks::Voter;
use crate::identity::{self, Addresses, Conflict, Identified, OwnIdentity, Recognition};
use crate::opinions::{ASKED_MAX, Opinions};

/// Between two rounds of questions.
pub const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// The same, while an operator has to act.
pub const JOIN_PAUSE: Duration = Duration::from_millis(200);

/// How a coordinator with an empty disk finds its quorum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Way {
    /// Alone, at once.
    Alone { address: String },
    /// From the configured list; with `bootstrap` without asking the peers.
    Listed { bootstrap: bool },
    /// By the list that a broker hands over.
    Told,
}

pub type Voters = BTreeMap<CoordinatorId, Voter>;

/// What a first start leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Formed {
    /// A vote in the first quorum.
    First(Voters),
    /// A place in a quorum that runs, of these members. The membership comes with the quorum's state.
    Joins(Voters),
}

/// What a coordinator with an empty disk does first.
#[derive(Debug)]
pub enum Begin {
    /// It votes without asking anybody.
    Votes(Voters),
    Asks(FirstStart),
    /// It waits for a list, and asks those who are on it: [`members_behind`].
    WaitsForList,
}

pub fn begin(way: Way, own: &OwnIdentity) -> Begin {
    match way {
        Way::Alone { address } => Begin::Votes(BTreeMap::from([(own.id, Voter { address, disk: Some(own.disk) })])),
        Way::Listed { bootstrap: true } => {
            let disk = |id| (id == own.id).then_some(own.disk);
            let voter =
                |(id, address): (&CoordinatorId, &String)| (*id, Voter { address: address.clone(), disk: disk(*id) });
            Begin::Votes(own.listed.iter().map(voter).collect())
        }
        Way::Listed { bootstrap: false } => Begin::Asks(FirstStart::new(own)),
        Way::Told => Begin::WaitsForList,
    }
}

/// A coordinator that is asked at a first start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AskedPeer {
    pub id: CoordinatorId,
    pub address: String,
}

/// What a round of questions led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Formed(Formed),
    /// Ask all again after the pause. The reason is for people.
    AskAgain {
        pause: Duration,
        reason: String,
    },
}

/// The questions of an empty disk to the listed peers, until all agree. Members of a running quorum that an answer
/// names are asked too: the list may be older than the quorum's members.
#[derive(Debug)]
pub struct FirstStart {
    listed: Addresses,
    asked: Vec<AskedPeer>,
}

impl FirstStart {
    /// By the list of `own`.
    pub fn new(own: &OwnIdentity) -> Self {
        let mut start = Self { listed: own.listed.clone(), asked: Vec::new() };
        start.ask_too(own.id, &own.listed);
        start
    }

    /// Those to ask in the next round.
    pub fn asked(&self) -> &[AskedPeer] {
        &self.asked
    }

    /// Adds those that are not asked yet.
    fn ask_too(&mut self, me: CoordinatorId, addresses: &Addresses) {
        for (&id, address) in addresses.iter().filter(|(id, _)| **id != me) {
            let is_asked = self.asked.iter().any(|peer| peer.id == id && peer.address == *address);
            if !is_asked && self.asked.len() < ASKED_MAX {
                self.asked.push(AskedPeer { id, address: address.clone() });
            }
        }
    }

    /// The answers of a round, in the order of [`FirstStart::asked`]; an error says why there is none. A conflict ends
    /// this coordinator.
    pub fn round(
        &mut self,
        own: &OwnIdentity,
        opinions: &mut Opinions,
        answers: impl IntoIterator<Item = Result<Identified, String>>,
    ) -> Result<Step, Conflict> {
        let mut round = Round::default();
        for (peer, answer) in self.asked.iter().zip(answers) {
            let is_listed = self.listed.contains_key(&peer.id);
            match answer {
                Ok(found) => match own.check(opinions, &peer.address, peer.id, &found) {
                    Ok(()) if !found.is_empty && found.voters.is_empty() => {
                        round.missing.push(format!("{} at {} (it joins the quorum)", peer.id, peer.address));
                    }
                    Ok(()) => round.found.push(found),
                    Err(conflict @ Conflict::DisputedDisk { .. }) => {
                        round.missing.push(conflict.to_string());
                        round.disputing.push(found);
                    }
                    // One of the two is started again, from another release.
                    Err(conflict @ (Conflict::PeerLacksLevel { .. } | Conflict::LacksLevel { .. })) => {
                        round.missing.push(conflict.to_string());
                    }
                    Err(conflict @ Conflict::OtherVoters { .. }) if found.is_empty => {
                        round.missing.push(conflict.to_string());
                        round.other_lists.push(conflict);
                    }
                    Err(conflict) if is_listed => return Err(conflict),
                    // The list does not name it, and an older member may be wrong about it.
                    Err(_) => {}
                },
                Err(why) if is_listed => round.missing.push(format!("{} at {} ({why})", peer.id, peer.address)),
                Err(_) => {}
            }
        }
        if let Some(conflict) = round.wrong_list(self.listed.len(), own.broken_rules) {
            return Err(conflict);
        }
        let verdict = match own.broken_rules.emptied_disk_votes {
            true => Verdict::First,
            false => round.verdict(own.id),
        };
        let step = match verdict {
            Verdict::Joins(members) => Step::Formed(Formed::Joins(members)),
            Verdict::First => Step::Formed(Formed::First(self.first_voters(own, &round))),
            Verdict::WaitsToBeAdded(members) => {
                let me = own.id;
                let reason =
                    format!("the quorum {members} runs without this coordinator: ottla quorum add {me}@ADDRESS");
                Step::AskAgain { pause: JOIN_PAUSE, reason }
            }
            Verdict::AskAgain => {
                let reason = format!("first start: waiting for coordinator {}", round.missing.join(", "));
                Step::AskAgain { pause: ROUND_PAUSE, reason }
            }
        };
        for found in round.found.iter().chain(&round.disputing).filter(|found| !found.is_empty) {
            self.ask_too(own.id, &found.voters);
        }
        Ok(step)
    }

    /// The listed coordinators, with the disks that answered.
    fn first_voters(&self, own: &OwnIdentity, round: &Round) -> Voters {
        let mut disks = BTreeMap::from([(own.id, own.disk)]);
        disks.extend(round.found.iter().map(|found| (found.id, found.disk)));
        let voter = |(id, address): (&CoordinatorId, &String)| {
            (*id, Voter { address: address.clone(), disk: disks.get(id).copied() })
        };
        self.listed.iter().map(voter).collect()
    }
}

/// The members that a running quorum has. Their disks are learnt with its state: they may be others by then.
fn members_of(found: &Identified) -> Voters {
    found.voters.iter().map(|(id, address)| (*id, Voter { address: address.clone(), disk: None })).collect()
}

/// The answers of one round.
#[derive(Default, Debug)]
struct Round {
    found: Vec<Identified>,
    /// They know this coordinator with another disk, and are not believed yet.
    disputing: Vec<Identified>,
    /// Empty disks with another list than this one.
    other_lists: Vec<Conflict>,
    /// What is missing for a first quorum; for people.
    missing: Vec<String>,
}

enum Verdict {
    Joins(Voters),
    First,
    /// The members, for people.
    WaitsToBeAdded(String),
    AskAgain,
}

impl Round {
    /// Why no quorum can form, once it is certain: all `listed` coordinators have empty disks, and not the same list.
    /// While some are silent, they may run as a quorum to which this coordinator is to be added; an empty disk with an
    /// older list is then one of its members whose disk was replaced.
    fn wrong_list(&self, listed: usize, rules: BrokenRules) -> Option<Conflict> {
        let empty = self.found.iter().filter(|found| found.is_empty).count() + self.other_lists.len();
        // Less this one.
        let is_certain = empty + 1 >= listed || rules.other_list_is_final;
        is_certain.then(|| self.other_lists.first().cloned()).flatten()
    }

    /// The members that have seen the latest change of the members decide: others lag.
    fn verdict(&self, me: CoordinatorId) -> Verdict {
        let formed = || self.found.iter().filter(|found| !found.is_empty);
        let newest = formed().chain(&self.disputing).map(|found| found.members_revision).max();
        let of_newest = || formed().filter(|found| Some(found.members_revision) == newest);
        let knowing = of_newest().find(|found| found.recognition == Recognition::SameDisk);
        if let Some(found) = knowing.filter(|found| found.members_revision > 0) {
            return Verdict::Joins(members_of(found));
        }
        if let Some(found) = of_newest().find(|found| !found.voters.contains_key(&me)) {
            return Verdict::WaitsToBeAdded(identity::names(&found.voters));
        }
        // A quorum that knows this disk was formed with it: no other answers are needed.
        let may_form = self.missing.is_empty() || knowing.is_some();
        if may_form && self.disputing.is_empty() { Verdict::First } else { Verdict::AskAgain }
    }
}

/// Why no members are known by a list that a broker handed over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotYet {
    /// This list may still do, later. The reason is for people.
    Waiting(String),
    Conflict(Conflict),
}

/// The members behind a list of addresses, by id, by what is answered there.
pub fn members_behind(
    own: &OwnIdentity,
    answers: impl IntoIterator<Item = (String, Result<Identified, String>)>,
) -> Result<Addresses, NotYet> {
    let mut found: BTreeMap<CoordinatorId, (String, Identified)> = BTreeMap::new();
    for (address, answer) in answers {
        let answer = answer.map_err(|why| NotYet::Waiting(format!("{address}: {why}")))?;
        if answer.id == own.id && answer.disk != own.disk {
            return Err(NotYet::Conflict(Conflict::DuplicateId { id: own.id, address }));
        }
        if let Some((other, known)) = found.get(&answer.id)
            && known.disk != answer.disk
        {
            let id = answer.id;
            return Err(NotYet::Waiting(format!(
                "coordinator {id} is at {other} and, with another disk, at {address}"
            )));
        }
        found.entry(answer.id).or_insert((address, answer));
    }
    // One of them has a list already, its own or one that it agreed on: that one counts, if this coordinator is on it.
    if let Some((_, told)) = found.values().find(|(_, one)| one.voters.contains_key(&own.id)) {
        return Ok(told.voters.clone());
    }
    if let Some((address, other)) = found.values().find(|(_, one)| !one.voters.is_empty()) {
        let theirs = identity::names(&other.voters);
        let why = format!("coordinator {} at {address} belongs to the quorum {theirs}", other.id);
        return Err(NotYet::Waiting(why));
    }
    if !found.contains_key(&own.id) {
        return Err(NotYet::Waiting(format!("coordinator {} is not on it", own.id)));
    }
    Ok(found.into_iter().map(|(id, (address, _))| (id, address)).collect())
}

#[cfg(test)]
mod tests {
    use ottla_model::IncarnationId;

    use super::*;

    const ME: CoordinatorId = CoordinatorId(2);

    /// Of a member of a running quorum.
    fn found(id: u64, members_revision: u64, members: &[u64], recognition: Recognition) -> Identified {
        Identified {
            id: CoordinatorId(id),
            disk: IncarnationId::ZERO,
            is_empty: false,
            voters: members.iter().map(|id| (CoordinatorId(*id), format!("c{id}:2181"))).collect(),
            disks: BTreeMap::new(),
            members_revision,
            cluster_id: None,
            recognition,
            known_disk: None,
            levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
            finalized: None,
        }
    }

    #[test]
    fn a_replaced_coordinator_joins_while_a_member_lags() {
        let lagging = found(1, 40, &[1, 2, 3], Recognition::OtherDisk);
        let knowing = found(3, 50, &[1, 2, 3], Recognition::SameDisk);
        let missing = vec!["1 lags".to_owned()];
        let round = Round {
            found: vec![knowing],
            disputing: vec![lagging.clone()],
            missing: missing.clone(),
            ..Round::default()
        };
        assert!(matches!(round.verdict(ME), Verdict::Joins(members) if members.len() == 3));
        // Removed, and not added yet.
        let without = found(3, 45, &[1, 3], Recognition::Unknown);
        let round = Round { found: vec![without], disputing: vec![lagging], missing, ..Round::default() };
        assert!(matches!(round.verdict(ME), Verdict::WaitsToBeAdded(members) if members == "1@c1:2181,3@c3:2181"));
    }

    #[test]
    fn a_member_that_lags_does_not_let_a_disk_join_or_form() {
        for revision in [0, 40] {
            let lagging = found(1, revision, &[1, 2, 3], Recognition::SameDisk);
            let newest = found(3, 50, &[1, 2, 3], Recognition::OtherDisk);
            let missing = vec!["3".to_owned()];
            let round = Round { found: vec![lagging], disputing: vec![newest], missing, ..Round::default() };
            assert!(matches!(round.verdict(ME), Verdict::AskAgain), "{revision}");
        }
        // Of the first quorum, which was formed with this disk.
        let remembering = found(1, 0, &[1, 2, 3], Recognition::SameDisk);
        let round = Round { found: vec![remembering], missing: vec!["3".to_owned()], ..Round::default() };
        assert!(matches!(round.verdict(ME), Verdict::First));
    }

    /// A fourth coordinator that was to join ended beside a member whose disk had just been replaced.
    #[test]
    fn another_list_on_an_empty_disk_counts_once_all_disks_are_known_to_be_empty() {
        let conflict = Conflict::OtherVoters {
            id: CoordinatorId(1),
            address: "c1:2181".to_owned(),
            ours: "1,2,3".to_owned(),
            theirs: "1,2".to_owned(),
        };
        let empty = || Identified { is_empty: true, ..found(3, 0, &[], Recognition::Unknown) };
        let mut round = Round { other_lists: vec![conflict.clone()], ..Round::default() };
        assert_eq!(round.wrong_list(3, BrokenRules::default()), None, "coordinator 3 is silent");
        round.found.push(found(3, 0, &[1, 3], Recognition::Unknown));
        assert_eq!(round.wrong_list(3, BrokenRules::default()), None, "coordinator 3 is a member of a quorum");
        round.found[0] = empty();
        assert_eq!(round.wrong_list(3, BrokenRules::default()), Some(conflict));
    }

    fn disk(id: u64) -> IncarnationId {
        IncarnationId([u8::try_from(id).unwrap_or_default(); 16])
    }

    fn addresses(ids: impl IntoIterator<Item = u64>) -> Addresses {
        ids.into_iter().map(|id| (CoordinatorId(id), format!("c{id}:2181"))).collect()
    }

    /// Coordinator 2 with an empty disk, of a list of three.
    fn own() -> OwnIdentity {
        OwnIdentity {
            id: ME,
            disk: disk(2),
            cluster_id: Some("test".to_owned()),
            listed: addresses(1..=3),
            members: None,
            levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
            broken_rules: BrokenRules::default(),
        }
    }

    /// An empty disk with the same list.
    fn empty(id: u64) -> Identified {
        Identified { is_empty: true, disk: disk(id), ..found(id, 0, &[1, 2, 3], Recognition::Unknown) }
    }

    fn silent() -> Result<Identified, String> {
        Err("no answer".to_owned())
    }

    /// A round of those that are asked at first, coordinators 1 and 3.
    fn round(answers: [Result<Identified, String>; 2]) -> (FirstStart, Result<Step, Conflict>) {
        let mut start = FirstStart::new(&own());
        let step = start.round(&own(), &mut Opinions::default(), answers);
        (start, step)
    }

    /// What is missing, for people.
    fn missing(step: Result<Step, Conflict>) -> String {
        match step {
            Ok(Step::AskAgain { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn asked(start: &FirstStart) -> Vec<(u64, &str)> {
        start.asked().iter().map(|peer| (peer.id.0, peer.address.as_str())).collect()
    }

    #[test]
    fn alone_and_with_bootstrap_a_disk_votes_at_once_and_its_own_disk_is_the_only_one_it_knows() {
        let address = "c2:2181".to_owned();
        let Begin::Votes(alone) = begin(Way::Alone { address: address.clone() }, &own()) else { panic!("it asks") };
        assert_eq!(alone, BTreeMap::from([(ME, Voter { address, disk: Some(disk(2)) })]));
        let Begin::Votes(voters) = begin(Way::Listed { bootstrap: true }, &own()) else { panic!("it asks") };
        let known: Vec<_> = voters.into_iter().map(|(id, voter)| (id.0, voter.disk)).collect();
        assert_eq!(known, [(1, None), (2, Some(disk(2))), (3, None)]);
        let Begin::Asks(start) = begin(Way::Listed { bootstrap: false }, &own()) else { panic!("it votes") };
        assert_eq!(asked(&start), [(1, "c1:2181"), (3, "c3:2181")]);
    }

    #[test]
    fn empty_disks_with_one_list_form_the_quorum_once_all_have_answered() {
        let (_, formed) = round([Ok(empty(1)), Ok(empty(3))]);
        let voter = |id| (CoordinatorId(id), Voter { address: format!("c{id}:2181"), disk: Some(disk(id)) });
        assert_eq!(formed, Ok(Step::Formed(Formed::First((1..=3).map(voter).collect()))));
        let (_, step) = round([Ok(empty(1)), silent()]);
        assert_eq!(missing(step), "first start: waiting for coordinator 3 at c3:2181 (no answer)");
        // It joins a quorum itself, and has not received its state.
        let joins = Identified { is_empty: false, voters: Addresses::new(), ..empty(3) };
        let (_, step) = round([Ok(empty(1)), Ok(joins)]);
        assert!(missing(step).ends_with("3 at c3:2181 (it joins the quorum)"));
    }

    #[test]
    fn members_that_a_running_quorum_names_are_asked_too_each_once_and_a_bounded_number() {
        let running = Identified { voters: addresses([1, 3, 4]), ..found(1, 7, &[], Recognition::Unknown) };
        // An empty disk knows no more than its list.
        let elsewhere = BTreeMap::from([(CoordinatorId(5), "c5:2181".to_owned())]);
        let (mut start, step) = round([Ok(running.clone()), Ok(Identified { voters: elsewhere, ..empty(3) })]);
        assert!(missing(step).contains("runs without this coordinator"));
        assert_eq!(asked(&start), [(1, "c1:2181"), (3, "c3:2181"), (4, "c4:2181")]);
        // The list does not name coordinator 4: its silence keeps nothing waiting, and its word ends nobody.
        let moved = BTreeMap::from([(CoordinatorId(3), "elsewhere:2181".to_owned())]);
        let stranger = Identified { cluster_id: Some("other".to_owned()), ..found(4, 7, &[4], Recognition::Unknown) };
        for last in [silent(), Ok(stranger)] {
            let first = Identified { voters: moved.clone(), ..running.clone() };
            let step = start.round(&own(), &mut Opinions::default(), [Ok(first), Ok(empty(3)), last]);
            assert!(missing(step).contains("runs without this coordinator"));
        }
        assert_eq!(asked(&start).last(), Some(&(3, "elsewhere:2181")));
        assert_eq!(start.asked().len(), 4);
        let many = Identified { voters: addresses(10..90), ..running };
        let step = start.round(&own(), &mut Opinions::default(), [Ok(many), Ok(empty(3))]);
        assert!(missing(step).contains("runs without this coordinator"));
        assert_eq!(start.asked().len(), ASKED_MAX);
    }

    #[test]
    fn a_listed_silent_member_is_named_and_one_that_is_not_listed_is_not() {
        let running = Identified { voters: addresses([1, 2, 3, 4]), ..found(1, 0, &[], Recognition::Unknown) };
        let mut start = FirstStart::new(&own());
        start.ask_too(ME, &running.voters);
        let step = start.round(&own(), &mut Opinions::default(), [Ok(empty(1)), silent(), silent()]);
        assert_eq!(missing(step), "first start: waiting for coordinator 3 at c3:2181 (no answer)");
    }

    #[test]
    fn another_list_ends_the_start_where_it_is_of_a_quorum_and_waits_where_it_is_of_an_empty_disk() {
        let other_list = Identified { voters: addresses([1, 2]), ..empty(1) };
        let (_, step) = round([Ok(other_list.clone()), silent()]);
        assert!(missing(step).contains("the list of servers is"), "coordinator 3 may know better");
        let (_, step) = round([Ok(Identified { is_empty: false, ..other_list.clone() }), silent()]);
        assert!(matches!(step, Err(Conflict::OtherVoters { .. })), "{step:?}");
        let (_, step) = round([Ok(other_list), Ok(empty(3))]);
        assert!(matches!(step, Err(Conflict::OtherVoters { .. })), "all disks are empty: {step:?}");
        let (_, step) = round([Ok(Identified { cluster_id: Some("other".to_owned()), ..empty(1) }), silent()]);
        assert!(matches!(step, Err(Conflict::OtherCluster { .. })), "{step:?}");
    }

    #[test]
    fn members_behind_addresses_are_known_once_each_has_one_disk_and_this_one_is_on_the_list() {
        let bare = |id| Identified { voters: Addresses::new(), ..empty(id) };
        let behind = |answers: &[(&str, Identified)]| {
            let answers = answers.iter().map(|(address, found)| ((*address).to_owned(), Ok(found.clone())));
            members_behind(&own(), answers)
        };
        let waits = |answers: &[(&str, Identified)], text: &str| {
            let why = behind(answers);
            assert!(matches!(&why, Err(NotYet::Waiting(why)) if why.contains(text)), "{why:?}");
        };
        // Two addresses of one coordinator are one member.
        let found = behind(&[("a:1", bare(1)), ("b:1", bare(2)), ("c:1", bare(1))]);
        let both = [(CoordinatorId(1), "a:1".to_owned()), (ME, "b:1".to_owned())];
        assert_eq!(found, Ok(BTreeMap::from(both)));
        waits(&[("a:1", bare(1)), ("b:1", bare(3))], "coordinator 2 is not on it");
        let twice = Identified { disk: disk(9), ..bare(1) };
        waits(&[("a:1", bare(1)), ("b:1", bare(2)), ("c:1", twice)], "with another disk, at c:1");
        let agreed = Identified { voters: addresses([1, 2]), ..bare(1) };
        assert_eq!(behind(&[("a:1", agreed), ("b:1", bare(2))]), Ok(addresses([1, 2])));
        let theirs = Identified { voters: addresses([1, 3]), ..bare(1) };
        waits(&[("a:1", theirs), ("b:1", bare(2))], "belongs to the quorum 1@c1:2181,3@c3:2181");
        let double = Identified { disk: disk(9), ..bare(2) };
        let address = "b:1".to_owned();
        assert_eq!(behind(&[("b:1", double)]), Err(NotYet::Conflict(Conflict::DuplicateId { id: ME, address })));
        let down = members_behind(&own(), [("a:1".to_owned(), silent())]);
        assert_eq!(down, Err(NotYet::Waiting("a:1: no answer".to_owned())));
    }
}
