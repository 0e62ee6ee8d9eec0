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
use std::fmt::Display;
use std::time::{Duration, Instant};

use futures::future::join_all;
use ottla_consensus::{LogStore as _, Membership};
use ottla_model::CoordinatorId;
use ottla_quorum_node::Voter;
use ottla_rpc::coordinators::describe;
use ottla_rpc::quorum::Recognition;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::error::CoordinatorError;
use crate::identify::{self, Conflict, Identified};
use crate::opinions::ASKED_MAX;
use crate::rocksdb_store::{Identity, RocksDbStore};
use crate::shared::Shared;

/// Between two rounds of questions.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// The same, while an operator has to act.
const JOIN_PAUSE: Duration = Duration::from_millis(200);
/// Interval of the log line while this coordinator waits.
const REMIND_AFTER: Duration = Duration::from_secs(10);

/// How this coordinator finds its quorum.
#[derive(Clone, Debug)]
pub enum Way {
    /// Alone, at once.
    Alone { address: String },
    /// From the configured list; with `bootstrap` without asking the peers.
    Listed { bootstrap: bool },
    /// By the list that a broker hands over.
    Told,
}

type Voters = BTreeMap<CoordinatorId, Voter>;

/// What a first start leads to.
enum Formed {
    /// A vote in the first quorum.
    First(Voters),
    /// A place in a quorum that runs, of these members.
    Joins(Voters),
}

/// Waits until this disk may vote, and stores the list of voters.
pub async fn form(
    way: Way,
    shared: &Shared,
    connect_lists: &mut mpsc::Receiver<Vec<String>>,
    store: &mut RocksDbStore,
    identity: &mut Identity,
) -> Result<(), CoordinatorError> {
    let formed = match way {
        Way::Alone { address } => {
            Formed::First(BTreeMap::from([(shared.id, Voter { address, disk: Some(shared.disk) })]))
        }
        Way::Listed { bootstrap: true } => {
            tracing::warn!("bootstrap: this empty disk votes without asking the others");
            let own = |id| (id == shared.id).then_some(shared.disk);
            let voter = |(id, address)| (id, Voter { address, disk: own(id) });
            Formed::First(shared.voters().into_iter().map(voter).collect())
        }
        Way::Listed { bootstrap: false } => agree(shared).await?,
        Way::Told => {
            let listed = wait_to_be_told(shared, connect_lists).await?;
            shared.set_voters(listed);
            agree(shared).await?
        }
    };
    identity.voters = match formed {
        Formed::First(voters) => {
            let membership = Membership::new(voters.keys().copied())?;
            // The membership first: after a crash in between the disk asks again, and has still not voted.
            store.bootstrap(membership.to_conf_state()).map_err(CoordinatorError::Store)?;
            voters
        }
        // The membership comes with the quorum's state.
        Formed::Joins(members) => members,
    };
    store.disk().write_identity(identity)?;
    Ok(())
}

/// The members that a running quorum has. Their disks are learnt with its state: they may be others by then.
fn members_of(found: &Identified) -> Voters {
    found.voters.iter().map(|(id, address)| (*id, Voter { address: address.clone(), disk: None })).collect()
}

/// One listed peer while this disk waits for leave to vote.
struct Peer {
    id: CoordinatorId,
    address: String,
    channel: Channel,
}

/// Asks every listed peer until all agree. Members of a running quorum that an answer names are asked too: the list may
/// be older than the quorum's members.
async fn agree(shared: &Shared) -> Result<Formed, CoordinatorError> {
    let listed = shared.voters();
    let mut peers = Vec::new();
    add_peers(shared, &listed, &mut peers)?;
    let mut reminder = Reminder::default();
    loop {
        let answers = join_all(peers.iter().map(|peer| identify::identify(shared, peer.channel.clone()))).await;
        let mut round = Round::default();
        for (peer, answer) in peers.iter().zip(answers) {
            let missing = |why: &dyn Display| format!("{} at {} ({why})", peer.id, peer.address);
            match answer.map_err(|status| missing(&describe(&status))) {
                Ok(found) => match identify::check(shared, &peer.address, peer.id, &found) {
                    Ok(()) => round.found.push(found),
                    Err(conflict @ Conflict::DisputedDisk { .. }) => {
                        round.missing.push(conflict.to_string());
                        round.disputing.push(found);
                    }
                    Err(conflict @ Conflict::OtherVoters { .. }) if found.is_empty => {
                        round.missing.push(conflict.to_string());
                        round.other_lists.push(conflict);
                    }
                    Err(conflict) if listed.contains_key(&peer.id) => return Err(conflict.into()),
                    // The list does not name it, and an older member may be wrong about it.
                    Err(conflict) => tracing::debug!("{conflict}"),
                },
                Err(missing) if listed.contains_key(&peer.id) => round.missing.push(missing),
                Err(_) => {}
            }
        }
        if let Some(conflict) = round.wrong_list(listed.len()) {
            return Err(conflict.into());
        }
        let mut disks = BTreeMap::from([(shared.id, shared.disk)]);
        disks.extend(round.found.iter().map(|found| (found.id, found.disk)));
        match round.verdict(shared.id) {
            Verdict::Joins(members) => return Ok(Formed::Joins(members)),
            Verdict::First => {
                let voter = |(id, address): (CoordinatorId, String)| {
                    let disk = disks.get(&id).copied();
                    (id, Voter { address, disk })
                };
                return Ok(Formed::First(listed.into_iter().map(voter).collect()));
            }
            Verdict::WaitsToBeAdded(members) => {
                let me = shared.id;
                reminder.say(|| {
                    format!("the quorum {members} runs without this coordinator: ottla quorum add {me}@ADDRESS")
                });
                tokio::time::sleep(JOIN_PAUSE).await;
            }
            Verdict::AskAgain => {
                reminder.say(|| format!("first start: waiting for coordinator {}", round.missing.join(", ")));
                tokio::time::sleep(ROUND_PAUSE).await;
            }
        }
        for found in round.found.iter().chain(&round.disputing).filter(|found| !found.is_empty) {
            add_peers(shared, &found.voters, &mut peers)?;
        }
    }
}

/// Adds those that are not asked yet.
fn add_peers(
    shared: &Shared,
    addresses: &BTreeMap<CoordinatorId, String>,
    peers: &mut Vec<Peer>,
) -> Result<(), CoordinatorError> {
    for (&id, address) in addresses.iter().filter(|(id, _)| **id != shared.id) {
        let is_asked = peers.iter().any(|peer| peer.id == id && peer.address == *address);
        if !is_asked && peers.len() < ASKED_MAX {
            peers.push(Peer { id, address: address.clone(), channel: shared.channel(address)? });
        }
    }
    Ok(())
}

/// The answers of one round.
#[derive(Default)]
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
    fn wrong_list(&self, listed: usize) -> Option<Conflict> {
        let empty = self.found.iter().filter(|found| found.is_empty).count() + self.other_lists.len();
        // Less this one.
        (empty + 1 >= listed).then(|| self.other_lists.first().cloned()).flatten()
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
            return Verdict::WaitsToBeAdded(identify::names(&found.voters));
        }
        // A quorum that knows this disk was formed with it: no other answers are needed.
        let may_form = self.missing.is_empty() || knowing.is_some();
        if may_form && self.disputing.is_empty() { Verdict::First } else { Verdict::AskAgain }
    }
}

/// Waits for a list of addresses behind which this coordinator and others, distinct and fresh, are found.
async fn wait_to_be_told(
    shared: &Shared,
    connect_lists: &mut mpsc::Receiver<Vec<String>>,
) -> Result<BTreeMap<CoordinatorId, String>, CoordinatorError> {
    tracing::info!(
        "no list of servers is configured: waiting for the first broker to hand over its coordinator.connect"
    );
    let mut reminder = Reminder::default();
    loop {
        let Some(addresses) = connect_lists.recv().await else { return Err(CoordinatorError::Stopped) };
        match members_at(shared, &addresses).await {
            Ok(listed) => {
                tracing::info!("the quorum is {}", identify::names(&listed));
                return Ok(listed);
            }
            Err(NotYet::Conflict(conflict)) => return Err(conflict.into()),
            Err(NotYet::Waiting(why)) => {
                reminder.say(|| format!("first start by the list {}: {why}", addresses.join(",")));
            }
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

enum NotYet {
    /// This list may still do, later.
    Waiting(String),
    Conflict(Conflict),
}

/// The members behind a list of addresses, by id.
async fn members_at(shared: &Shared, addresses: &[String]) -> Result<BTreeMap<CoordinatorId, String>, NotYet> {
    let ask = |address: &String| {
        let address = address.clone();
        async move {
            let answer = match shared.channel(&address) {
                Ok(channel) => identify::identify(shared, channel).await.map_err(|status| describe(&status)),
                Err(error) => Err(error.to_string()),
            };
            (address, answer)
        }
    };
    let mut found: BTreeMap<CoordinatorId, (String, Identified)> = BTreeMap::new();
    for (address, answer) in join_all(addresses.iter().map(ask)).await {
        let answer = answer.map_err(|why| NotYet::Waiting(format!("{address}: {why}")))?;
        if answer.id == shared.id && answer.disk != shared.disk {
            return Err(NotYet::Conflict(Conflict::DuplicateId { id: shared.id, address }));
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
    if let Some((_, told)) = found.values().find(|(_, one)| one.voters.contains_key(&shared.id)) {
        return Ok(told.voters.clone());
    }
    if let Some((address, other)) = found.values().find(|(_, one)| !one.voters.is_empty()) {
        let theirs = identify::names(&other.voters);
        let why = format!("coordinator {} at {address} belongs to the quorum {theirs}", other.id);
        return Err(NotYet::Waiting(why));
    }
    if !found.contains_key(&shared.id) {
        return Err(NotYet::Waiting(format!("coordinator {} is not on it", shared.id)));
    }
    Ok(found.into_iter().map(|(id, (address, _))| (id, address)).collect())
}

/// Says the same thing only so often, another thing at once.
#[derive(Default)]
struct Reminder {
    said: Option<(Instant, String)>,
}

impl Reminder {
    fn say(&mut self, text: impl FnOnce() -> String) {
        let text = text();
        let fresh = self.said.as_ref().is_none_or(|(at, last)| *last != text || at.elapsed() >= REMIND_AFTER);
        if fresh {
            tracing::info!("{text}");
            self.said = Some((Instant::now(), text));
        }
    }
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
            stream_confirmed: false,
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
        let without = found(3, 45, &[1, 3], Recognition::Unspecified);
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
        let empty = || Identified { is_empty: true, ..found(3, 0, &[], Recognition::Unspecified) };
        let mut round = Round { other_lists: vec![conflict.clone()], ..Round::default() };
        assert_eq!(round.wrong_list(3), None, "coordinator 3 is silent");
        round.found.push(found(3, 0, &[1, 3], Recognition::Unspecified));
        assert_eq!(round.wrong_list(3), None, "coordinator 3 is a member of a quorum");
        round.found[0] = empty();
        assert_eq!(round.wrong_list(3), Some(conflict));
    }
}
