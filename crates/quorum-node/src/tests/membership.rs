//! Members come and go while the quorum runs.

use ottla_metadata::controller::ChangeQuorum;
use ottla_model::{CoordinatorId, ErrorCode, IncarnationId, Revision};

use super::leading::set;
use super::peers::Peers;
use super::{Outputs, disk, node, now};
use crate::{CallId, Event, Output, QuorumStore as _};

fn add(id: u64, disk: IncarnationId) -> ChangeQuorum {
    ChangeQuorum::Add { coordinator: CoordinatorId(id), disk, address: format!("c{id}:2181") }
}

fn remove(id: u64) -> ChangeQuorum {
    ChangeQuorum::Remove { coordinator: CoordinatorId(id), disk: None, force: false }
}

fn voters(peers: &Peers, at: usize) -> Vec<u64> {
    peers.nodes[at].members().voters().map(|id| id.0).collect()
}

fn settle(peers: &mut Peers) {
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
    let refused = peers.change(9, remove(3), None).expect_err("it is gone");
    assert_eq!(refused.error, ErrorCode::VoterNotFound);
    // It may not have heard of its own end: nobody listens to it.
    let term = peers.nodes[at].role().term;
    for _ in 0..60 {
        peers.tick(None);
    }
    assert_eq!(peers.nodes[at].role().term, term);
    assert_eq!(peers.leader(), Some(at));
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
    assert!(refused.message.contains("no majority"), "{refused}");
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
