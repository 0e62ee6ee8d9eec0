//! How an empty disk comes to vote.
//!
//! A disk that never voted cannot have lost a vote. It may therefore join the quorum of its first start in two cases:
//! every other configured member reports that its disk is empty too; or one of them has already formed the quorum and
//! knows this disk from that time. A disk that a formed member does not know, under an id that it does know, has
//! replaced a disk that voted: it is refused, and the error names it.
//!
//! If the quorum runs, and this coordinator is not one of its members, it waits until it is added (`ottla quorum add`).
//! It then receives the quorum's state before it votes.
//!
//! If no list is configured: without an id, a quorum of one; with an id, the first broker sends its list.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use ottla_consensus::{LogStore as _, Membership};
use ottla_model::CoordinatorId;
use ottla_quorum_node::Voter;
use ottla_rpc::coordinators::{channel, describe};
use ottla_rpc::quorum::Recognition;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::error::CoordinatorError;
use crate::identify::{self, Conflict, Identified};
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

/// Asks every listed peer until all agree.
async fn agree(shared: &Shared) -> Result<Formed, CoordinatorError> {
    let listed = shared.voters();
    let mut peers = Vec::new();
    for (&id, address) in listed.iter().filter(|(id, _)| **id != shared.id) {
        peers.push(Peer { id, address: address.clone(), channel: channel(address)? });
    }
    let mut reminder = Reminder::default();
    loop {
        let answers = join_all(peers.iter().map(|peer| identify::identify(shared, peer.channel.clone()))).await;
        let mut disks = BTreeMap::from([(shared.id, Some(shared.disk))]);
        let mut missing = Vec::new();
        let mut is_remembered = false;
        let mut runs_without = None;
        for (peer, answer) in peers.iter().zip(answers) {
            match answer {
                Ok(found) => {
                    identify::check(shared, &peer.address, peer.id, &found)?;
                    if !found.is_empty && found.recognition == Recognition::SameDisk && found.members_revision > 0 {
                        return Ok(Formed::Joins(members_of(&found)));
                    }
                    if !found.is_empty && !found.voters.contains_key(&shared.id) {
                        runs_without = Some(identify::names(&found.voters));
                    }
                    is_remembered |= !found.is_empty && found.recognition == Recognition::SameDisk;
                    disks.insert(peer.id, Some(found.disk));
                }
                Err(status) => missing.push(format!("{} at {} ({})", peer.id, peer.address, describe(&status))),
            }
        }
        if let Some(members) = runs_without {
            let me = shared.id;
            reminder
                .say(|| format!("the quorum {members} runs without this coordinator: ottla quorum add {me}@ADDRESS"));
            tokio::time::sleep(JOIN_PAUSE).await;
            continue;
        }
        // A quorum that knows this disk was formed with it: no other answers are needed.
        if missing.is_empty() || is_remembered {
            let voter = |(id, address): (CoordinatorId, String)| {
                let disk = disks.get(&id).copied().flatten();
                (id, Voter { address, disk })
            };
            return Ok(Formed::First(listed.into_iter().map(voter).collect()));
        }
        reminder.say(|| format!("first start: waiting for coordinator {}", missing.join(", ")));
        tokio::time::sleep(ROUND_PAUSE).await;
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
            let answer = match channel(&address) {
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
