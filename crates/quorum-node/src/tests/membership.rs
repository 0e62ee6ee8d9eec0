//! Members come and go while the quorum runs.

use bytes::Bytes;
use ottla_metadata::controller::{Answer, ChangeQuorum, Request};
use ottla_model::{CoordinatorId, ErrorCode, IncarnationId, Revision};

use super::leading::set;
use super::peers::Peers;
use super::{Outputs, disk, node, now};
use crate::{CallId, Event, Outcome, Output, QuorumStore as _, RequestError};

pub(super) fn add(id: u64, disk: IncarnationId) -> ChangeQuorum {
    ChangeQuorum::Add { coordinator: CoordinatorId(id), disk, address: format!("c{id}:2181") }
}

pub(super) fn remove(id: u64) -> ChangeQuorum {
    ChangeQuorum::Remove { coordinator: CoordinatorId(id), disk: None, force: false }
}

pub(super) fn voters(peers: &Peers, at: usize) -> Vec<u64> {
    peers.nodes[at].members().voters().map(|id| id.0).collect()
}

pub(super) fn settle(peers: &mut Peers) {
    for _ in 0..5 {
        peers.tick(None);
    }
}

#[test]
fn a_fourth_member_joins_with_a_snapshot_and_votes() {
    let mut peers = Peers::new();
    let at = peers.elect();
    peers.step(at, set(1, "v".to_owned()));
    peers.join(3, disk(4));
    peers.change(7, add(4, disk(4)), None).expect("added");
    settle(&mut peers);
    for at in 0..4 {
        assert_eq!(voters(&peers, at), [1, 2, 3, 4], "on {}", at + 1);
        assert_eq!(peers.nodes[at].members().address(CoordinatorId(4)), Some("c4:2181"));
        assert_eq!(peers.nodes[at].view().tree, peers.nodes[0].view().tree);
        assert_eq!(peers.nodes[at].store().conf_state().voters.len(), 4, "the disk has it too");
    }
    // The log is whole, and still the new one got a snapshot: the log does not tell who the first members were.
    assert!(peers.outputs[3].notes().iter().any(|note| note.contains("installed a snapshot")));
    // Once more is once.
    peers.change(8, add(4, disk(4)), None).expect("it votes already");
    let refused = peers.change(9, add(4, disk(5)), None).expect_err("another disk");
    assert_eq!(refused.error, ErrorCode::DuplicateVoter);

    // One that is asked to lead leads.
    let to = Some(CoordinatorId(4));
    peers.change(10, ChangeQuorum::TransferLeadership { to }, None).expect("handed over");
    settle(&mut peers);
    assert_eq!(peers.leader(), Some(3));
}

#[test]
fn a_removed_member_is_told_and_its_disk_does_not_come_back() {
    let mut peers = Peers::new();
    peers.elect();
    peers.change(7, remove(3), None).expect("removed");
    settle(&mut peers);
    let at = peers.elect();
    assert_eq!(voters(&peers, at), [1, 2]);
    let refused = peers.change(8, add(3, disk(3)), None).expect_err("a removed disk");
    assert_eq!(refused.error, ErrorCode::InvalidVoterKey);
    // A removal that is repeated was done. One of another disk was not, nor one of a coordinator that was never there.
    let done = peers.change(9, remove(3), None).expect("it is gone");
    let revision = peers.nodes[at].view().image.coordinator(CoordinatorId(3)).map(|gone| gone.modified);
    assert_eq!(Some(done.revision), revision);
    let with = |id, disk| ChangeQuorum::Remove { coordinator: CoordinatorId(id), disk: Some(disk), force: false };
    peers.change(10, with(3, disk(3)), None).expect("the disk that is gone");
    for never in [with(3, disk(9)), with(9, disk(9)), remove(9)] {
        let refused = peers.change(11, never, None).expect_err("it was never there");
        assert_eq!(refused.error, ErrorCode::VoterNotFound);
    }
    // It may not have heard of its own end: nobody listens to it.
    let term = peers.nodes[at].role().term;
    for _ in 0..60 {
        peers.tick(None);
    }
    assert_eq!(peers.nodes[at].role().term, term);
    assert_eq!(peers.leader(), Some(at));
    assert!(peers.outputs[2].all.iter().any(|output| matches!(output, Output::Removed)), "it was told");
    peers.step(at, Event::Raft { sender: CoordinatorId(3), disk: disk(3), message: Bytes::new() });
    let refused = "a message of coordinator 3 was refused: coordinator 3 was removed from this quorum";
    assert!(peers.outputs[at].notes().contains(&refused), "{:?}", peers.outputs[at].notes());
}

#[test]
fn a_member_whose_disk_is_gone_is_replaced_under_its_id() {
    let mut peers = Peers::new();
    let at = peers.elect();
    let gone = (at + 1) % 3;
    let id = gone as u64 + 1;
    let refused = peers.change(7, add(id, disk(9)), Some(gone)).expect_err("it is a member");
    assert_eq!(refused.error, ErrorCode::DuplicateVoter);
    peers.change(8, remove(id), Some(gone)).expect("removed");
    peers.join(gone, disk(9));
    peers.change(9, add(id, disk(9)), None).expect("added");
    settle(&mut peers);
    assert_eq!(voters(&peers, gone), [1, 2, 3]);
    assert_eq!(peers.nodes[gone].members().get(CoordinatorId(id)).and_then(|member| member.disk), Some(disk(9)));
    assert_eq!(peers.nodes[gone].view().tree, peers.nodes[at].view().tree);
}

/// An empty disk under an id that has voted gives no vote, whoever asks.
#[test]
fn an_emptied_disk_gives_no_vote() {
    let mut peers = Peers::new();
    let at = peers.elect();
    let (emptied, other) = ((at + 1) % 3, (at + 2) % 3);
    peers.join(emptied, disk(9));
    // Without the leader, a majority would need its vote.
    for _ in 0..100 {
        peers.tick(Some(at));
    }
    assert!(!peers.nodes[other].is_leader(), "two of three are one and an empty disk");
    assert_eq!(peers.nodes[emptied].role().term, 0);
}

#[test]
fn what_would_lose_the_majority_is_refused_unless_forced() {
    let mut peers = Peers::new();
    let at = peers.elect();
    let (away, other) = ((at + 1) % 3, (at + 2) % 3);
    for _ in 0..60 {
        peers.tick(Some(away));
    }
    let id = other as u64 + 1;
    let refused = peers.change(7, remove(id), Some(away)).expect_err("one of two would answer");
    assert!(refused.message.contains("lack a majority"), "{refused}");
    let forced = ChangeQuorum::Remove { coordinator: CoordinatorId(id), disk: None, force: true };
    peers.change(8, forced, Some(away)).expect("removed");
}

#[test]
fn a_learner_that_does_not_answer_gets_no_vote_and_is_removed_again() {
    let mut peers = Peers::new();
    let at = peers.elect();
    let request = |change| ottla_metadata::controller::Request::ChangeQuorum(change);
    let event = Event::Request { call: CallId(7), request: request(add(4, disk(4))), entropy: [0; 16] };
    peers.step(at, event);
    for _ in 0..60 {
        peers.tick(None);
    }
    assert_eq!(voters(&peers, at), [1, 2, 3]);
    let refused = peers.change(8, add(5, disk(5)), None).expect_err("one at a time");
    assert!(refused.message.contains("one is added at a time"), "{refused}");
    peers.change(9, remove(4), None).expect("removed");
    assert!(peers.nodes[at].members().get(CoordinatorId(4)).is_none());
    peers.change(10, remove(1), None).expect("three, one goes");
    peers.change(11, remove(2), None).expect("two, one goes");
    let refused = peers.change(12, remove(3), None).expect_err("the last");
    assert!(refused.message.contains("last voter"), "{refused}");
}

#[test]
fn the_only_voter_grows_to_two() {
    let mut out = Outputs::default();
    let mut first = node(1, 1, super::Store::default());
    first.flush(now(0), &mut out).expect("memory");
    assert!(first.is_deciding() && first.members().revision == Revision(0));
    let request = ottla_metadata::controller::Request::ChangeQuorum(add(2, disk(2)));
    super::step(&mut first, Event::Request { call: CallId(1), request, entropy: [0; 16] }, &mut out);
    assert!(first.members().get(CoordinatorId(2)).is_some_and(|member| !member.is_voter));
    let told = |output: &Output| matches!(output, Output::Members(members) if members.by_id.len() == 2);
    assert!(out.all.iter().any(told), "the service dials it");
}

/// Its answer would find no way to a sender whose address it does not know.
#[test]
fn a_coordinator_that_others_vouch_for_is_a_destination_until_it_is_known() {
    let mut out = Outputs::default();
    let mut one = node(1, 3, super::Store::default());
    let vouch =
        |id, address: &str| Event::Vouched { id: CoordinatorId(id), disk: disk(id), address: address.to_owned() };
    let told = |out: &mut Outputs| {
        let outputs = std::mem::take(&mut out.all);
        let members = outputs.into_iter().filter_map(|output| match output {
            Output::Members(members) => Some(members),
            _ => None,
        });
        members.last()
    };
    super::step(&mut one, vouch(5, "c5:2181"), &mut out);
    let members = told(&mut out).expect("its owner dials it");
    assert!(members.destinations().any(|destination| destination == (CoordinatorId(5), "c5:2181")));
    assert!(members.get(CoordinatorId(5)).is_none(), "it is no member");
    // Nothing new, one that is a member, and this one itself.
    for known in [vouch(5, "c5:2181"), vouch(2, "c2:1"), vouch(1, "c1:1")] {
        super::step(&mut one, known, &mut out);
        assert!(told(&mut out).is_none());
    }
    super::step(&mut one, vouch(5, "elsewhere:2181"), &mut out);
    let members = told(&mut out).expect("it is dialled there");
    assert!(members.destinations().any(|destination| destination == (CoordinatorId(5), "elsewhere:2181")));
    // It keeps some, not all.
    for id in 6..100 {
        super::step(&mut one, vouch(id, "c:2181"), &mut out);
    }
    assert_eq!(told(&mut out).expect("some").vouched.len(), 16);
}

pub(super) fn ask(peers: &mut Peers, at: usize, call: u64, change: ChangeQuorum) {
    let request = Request::ChangeQuorum(change);
    peers.step(at, Event::Request { call: CallId(call), request, entropy: [0; 16] });
}

pub(super) fn outcomes(peers: &Peers, at: usize, of: u64) -> Vec<Outcome> {
    let outputs = peers.outputs[at].all.iter();
    let outcomes = outputs.filter_map(|output| match output {
        Output::Respond { call, outcome } if *call == CallId(of) => Some(outcome.clone()),
        _ => None,
    });
    outcomes.collect()
}

#[test]
fn a_transfer_is_answered_by_the_one_that_leads_then() {
    let mut peers = Peers::new();
    let at = peers.elect();
    let to = Some(CoordinatorId((at as u64 + 1) % 3 + 1));
    ask(&mut peers, at, 7, ChangeQuorum::TransferLeadership { to });
    settle(&mut peers);
    assert!(matches!(outcomes(&peers, at, 7)[..], [Err(RequestError::NotLeader { .. })]), "ask again");
    let next = peers.leader().expect("it leads");
    // Anybody: one that is repeated would be another one.
    ask(&mut peers, next, 8, ChangeQuorum::TransferLeadership { to: None });
    settle(&mut peers);
    assert!(matches!(outcomes(&peers, next, 8)[..], [Ok(Answer::ChangeQuorum(Ok(_)))]));
}

#[test]
fn an_heir_that_lacks_much_is_refused() {
    let mut peers = Peers::new();
    let at = peers.elect();
    settle(&mut peers);
    let away = (at + 1) % 3;
    for call in 0..300 {
        peers.step(at, set(call, call.to_string()));
        if call % 30 == 0 {
            peers.tick(Some(away));
        }
    }
    let to = Some(CoordinatorId(away as u64 + 1));
    ask(&mut peers, at, 1_000, ChangeQuorum::TransferLeadership { to });
    let outcomes = outcomes(&peers, at, 1_000);
    let [Ok(Answer::ChangeQuorum(Err(refusal)))] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert!(refusal.message.contains("lacks 300 revisions"), "{refusal}");
}

/// It was told to ask the next leader, and there was none.
#[test]
fn a_leader_without_an_heir_does_not_remove_itself() {
    let mut peers = Peers::new();
    let at = peers.elect();
    let other = (at + 1) % 3;
    peers.change(7, remove(other as u64 + 1), None).expect("removed");
    let at = peers.elect();
    let heir = (0..3).find(|place| *place != at && *place != other).expect("the third");
    // Raft notices the silence, and some ticks later it leads no more.
    let is_refused = |outcome: &Outcome| matches!(outcome, Ok(Answer::ChangeQuorum(Err(refusal))) if refusal.message == "No other voter answers");
    let mut was_refused = false;
    for call in 8..40 {
        peers.tick(Some(heir));
        let change = ChangeQuorum::Remove { coordinator: CoordinatorId(at as u64 + 1), disk: None, force: true };
        ask(&mut peers, at, call, change);
        was_refused |= outcomes(&peers, at, call).iter().any(is_refused);
    }
    assert!(was_refused && !peers.nodes[at].is_leader());
}
