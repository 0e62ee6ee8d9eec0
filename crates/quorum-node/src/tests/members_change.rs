//! What a change of the members waits for, what is refused, and what its callers are answered.

use std::time::Duration;

use ottla_metadata::controller::{Answer, ChangeQuorum, Now, Request};
use ottla_model::{CoordinatorId, ErrorCode};

use super::leading::set;
use super::membership::{add, ask, outcomes, remove, settle, voters};
use super::peers::Peers;
use super::{Outputs, disk, leader, step};
use crate::{CallId, Event, Outcome, Output, RequestError};

const FOURTH: CoordinatorId = CoordinatorId(4);

fn change(call: u64, change: ChangeQuorum) -> Event {
    Event::Request { call: CallId(call), request: Request::ChangeQuorum(change), entropy: [0; 16] }
}

fn transfer(to: CoordinatorId) -> ChangeQuorum {
    ChangeQuorum::TransferLeadership { to: Some(to) }
}

/// The coordinator at the place after this one, of three.
fn next_to(at: usize) -> CoordinatorId {
    CoordinatorId((at as u64 + 1) % 3 + 1)
}

fn is_done(outcomes: &[Outcome]) -> bool {
    matches!(outcomes, [Ok(Answer::ChangeQuorum(Ok(_)))])
}

/// The refusal, which is the only answer to the call.
fn refusal(peers: &Peers, at: usize, call: u64) -> (ErrorCode, String) {
    match &outcomes(peers, at, call)[..] {
        [Ok(Answer::ChangeQuorum(Err(refusal)))] => (refusal.error, refusal.message.clone()),
        other => panic!("{other:?}"),
    }
}

/// Ticks until the state is reached. None of the calls is answered in an earlier tick.
fn until(peers: &mut Peers, at: usize, calls: &[u64], is_reached: impl Fn(&Peers) -> bool) {
    for _ in 0..60 {
        for call in calls {
            assert_eq!(outcomes(peers, at, *call), [], "call {call}");
        }
        peers.tick(None);
        if is_reached(peers) {
            return;
        }
    }
    panic!("it is not reached");
}

#[test]
fn all_that_add_a_coordinator_are_answered_when_it_votes() {
    let mut peers = Peers::new();
    let at = peers.elect();
    settle(&mut peers);
    assert!(peers.nodes[at].may_sleep(), "nothing is under way");
    ask(&mut peers, at, 7, add(4, disk(4)));
    assert_eq!(outcomes(&peers, at, 7), []);
    settle(&mut peers);
    assert!(peers.nodes[at].members().get(FOURTH).is_some_and(|member| !member.is_voter));
    ask(&mut peers, at, 8, add(4, disk(4)));
    assert!(!peers.nodes[at].may_sleep(), "two wait");
    peers.join(3, disk(4));
    until(&mut peers, at, &[7, 8], |peers| voters(peers, at) == [1, 2, 3, 4]);
    assert!(is_done(&outcomes(&peers, at, 7)) && is_done(&outcomes(&peers, at, 8)));
    settle(&mut peers);
    assert!(peers.nodes[at].may_sleep());
    ask(&mut peers, at, 9, add(4, disk(4)));
    assert!(is_done(&outcomes(&peers, at, 9)), "it votes already");
}

#[test]
fn the_one_that_removes_a_coordinator_is_answered_when_it_is_gone() {
    let mut peers = Peers::new();
    let at = peers.elect();
    let gone = next_to(at);
    let with = |disk| ChangeQuorum::Remove { coordinator: gone, disk: Some(disk), force: false };
    let (known, other) = (disk(gone.0), disk(9));
    ask(&mut peers, at, 7, with(other));
    let text = format!("Coordinator {gone} votes with disk {known}, not with {other}");
    assert_eq!(refusal(&peers, at, 7), (ErrorCode::VoterNotFound, text));
    ask(&mut peers, at, 8, with(known));
    until(&mut peers, at, &[8], |peers| peers.nodes[at].members().get(gone).is_none());
    assert!(is_done(&outcomes(&peers, at, 8)));
}

#[test]
fn the_one_that_adds_a_coordinator_is_told_that_it_was_removed_before_it_voted() {
    let mut peers = Peers::new();
    let at = peers.elect();
    ask(&mut peers, at, 7, add(4, disk(4)));
    settle(&mut peers);
    ask(&mut peers, at, 8, remove(4));
    until(&mut peers, at, &[7, 8], |peers| peers.nodes[at].members().get(FOURTH).is_none());
    assert!(is_done(&outcomes(&peers, at, 8)));
    settle(&mut peers);
    let text = "The coordinator was removed before it had the log".to_owned();
    assert_eq!(refusal(&peers, at, 7), (ErrorCode::InvalidRequest, text));
}

/// Its id is that of a coordinator that was removed.
#[test]
fn a_coordinator_that_comes_back_with_an_empty_disk_is_waited_for() {
    let mut peers = Peers::new();
    let at = peers.elect();
    let back = next_to(at);
    ask(&mut peers, at, 7, remove(back.0));
    until(&mut peers, at, &[7], |peers| peers.nodes[at].members().get(back).is_none());
    settle(&mut peers);
    peers.join(usize::try_from(back.0).expect("small") - 1, disk(9));
    ask(&mut peers, at, 8, add(back.0, disk(9)));
    until(&mut peers, at, &[8], |peers| voters(peers, at) == [1, 2, 3]);
    assert!(is_done(&outcomes(&peers, at, 8)));
}

#[test]
fn of_those_that_wait_for_a_change_the_oldest_asks_again_when_there_are_too_many() {
    let mut peers = Peers::new();
    let at = peers.elect();
    ask(&mut peers, at, 1, add(4, disk(4)));
    settle(&mut peers);
    for call in 2..=32 {
        ask(&mut peers, at, call, add(4, disk(4)));
    }
    for call in 1..=32 {
        assert_eq!(outcomes(&peers, at, call), [], "there is room for call {call}");
    }
    ask(&mut peers, at, 33, add(4, disk(4)));
    assert_eq!(outcomes(&peers, at, 1), [Ok(Answer::Unavailable)]);
    for call in 2..=33 {
        assert_eq!(outcomes(&peers, at, call), [], "call {call}");
    }
}

#[test]
fn one_change_is_made_at_a_time() {
    let mut peers = Peers::new();
    let at = peers.elect();
    let (now, other) = (peers.now(), next_to(at));
    // Before it is proposed to Raft, the same change may be asked for again, and no other one.
    for event in [change(7, add(4, disk(4))), change(8, add(4, disk(4))), change(9, remove(other.0))] {
        peers.nodes[at].step(now, event, &mut peers.outputs[at]).expect("taken");
    }
    assert_eq!((outcomes(&peers, at, 7), outcomes(&peers, at, 8)), (vec![], vec![]));
    assert_eq!(outcomes(&peers, at, 9), [Ok(Answer::Unavailable)]);
    settle(&mut peers);
    assert!(peers.nodes[at].members().get(FOURTH).is_some());
    // Raft has it, and has not applied it yet.
    ask(&mut peers, at, 10, remove(4));
    ask(&mut peers, at, 11, remove(4));
    assert_eq!(outcomes(&peers, at, 10), []);
    assert_eq!(outcomes(&peers, at, 11), [Ok(Answer::Unavailable)]);
}

#[test]
fn a_refusal_names_the_voters_that_answer() {
    let mut peers = Peers::new();
    let at = peers.elect();
    let (leader, away, other) = (peers.nodes[at].id(), (at + 1) % 3, CoordinatorId((at as u64 + 2) % 3 + 1));
    for _ in 0..60 {
        peers.tick(Some(away));
    }
    ask(&mut peers, at, 7, remove(other.0));
    let text = format!(
        "Without coordinator {other} the other 2 voters lack a majority that answers: only coordinators {leader} \
         answer. Force it if they come back"
    );
    assert_eq!(refusal(&peers, at, 7), (ErrorCode::InvalidRequest, text));
}

#[test]
fn a_member_answers_if_it_was_heard_within_two_seconds() {
    let mut peers = Peers::new();
    let at = peers.elect();
    settle(&mut peers);
    let (node, other) = (&peers.nodes[at], next_to(at));
    let heard = node.leadership.as_ref().and_then(|leadership| leadership.times_of(other).heard).expect("its vote");
    let answers =
        |id, after_ms| node.answers(Now { monotonic: heard + Duration::from_millis(after_ms), ..peers.now() }, id);
    assert!(answers(other, 0) && answers(other, 1_999));
    assert!(!answers(other, 2_000) && !answers(other, 2_001));
    assert!(answers(node.id(), 60_000), "this one itself");
    assert!(!answers(FOURTH, 0), "it was never heard");
}

/// A leader, and a voter that lacks this number of entries.
fn with_a_lagging_voter(entries: u64) -> (Peers, usize, CoordinatorId) {
    let mut peers = Peers::new();
    let at = peers.elect();
    settle(&mut peers);
    let away = (at + 1) % 3;
    for call in 0..entries {
        peers.step(at, set(1_000 + call, call.to_string()));
        if call % 30 == 0 {
            peers.tick(Some(away));
        }
    }
    (peers, at, next_to(at))
}

#[test]
fn an_heir_may_lack_as_many_entries_as_are_in_flight_to_it() {
    let (mut peers, at, heir) = with_a_lagging_voter(256);
    let node = &peers.nodes[at];
    assert_eq!((node.lacks(heir), node.lacks(node.id())), (256, 0));
    assert_eq!(node.lacks(FOURTH), node.status().last.0, "nothing is known of it");
    ask(&mut peers, at, 7, transfer(heir));
    assert_eq!(outcomes(&peers, at, 7), [], "it is to take over");
    ask(&mut peers, at, 8, transfer(heir));
    assert_eq!(outcomes(&peers, at, 8), [Ok(Answer::Unavailable)], "one transfer at a time");

    let (mut peers, at, heir) = with_a_lagging_voter(257);
    ask(&mut peers, at, 7, transfer(heir));
    let text = format!("Coordinator {heir} lacks 257 revisions");
    assert_eq!(refusal(&peers, at, 7), (ErrorCode::InvalidRequest, text));
}

#[test]
fn a_transfer_to_an_heir_that_does_not_take_over_ends_after_two_seconds() {
    let mut peers = Peers::new();
    let at = peers.elect();
    settle(&mut peers);
    let (away, heir) = ((at + 1) % 3, next_to(at));
    ask(&mut peers, at, 7, transfer(heir));
    assert!(!peers.nodes[at].may_sleep(), "the transfer is under way");
    for _ in 0..39 {
        peers.tick(Some(away));
    }
    assert_eq!(outcomes(&peers, at, 7), []);
    peers.tick(Some(away));
    let text = format!("Coordinator {heir} did not take over");
    assert_eq!(refusal(&peers, at, 7), (ErrorCode::RequestTimedOut, text));
    assert!(peers.nodes[at].is_deciding() && peers.nodes[at].may_sleep());
    ask(&mut peers, at, 8, transfer(heir));
    let text = format!("Coordinator {heir} does not answer");
    assert_eq!(refusal(&peers, at, 8), (ErrorCode::InvalidRequest, text));
    ask(&mut peers, at, 9, transfer(FOURTH));
    let text = "Coordinator 4 is not a voter of the quorum".to_owned();
    assert_eq!(refusal(&peers, at, 9), (ErrorCode::VoterNotFound, text));
    let itself = peers.nodes[at].id();
    ask(&mut peers, at, 10, transfer(itself));
    assert!(is_done(&outcomes(&peers, at, 10)), "it leads");
}

/// Heartbeats reach it, and it answers them, long before a snapshot does.
#[test]
fn a_learner_that_answers_gets_no_vote_before_it_has_the_log() {
    let mut peers = Peers::new();
    let at = peers.elect();
    peers.outputs[at].lost_snapshots = u32::MAX;
    peers.join(3, disk(4));
    ask(&mut peers, at, 7, add(4, disk(4)));
    for _ in 0..60 {
        peers.tick(None);
        assert_eq!(voters(&peers, at), [1, 2, 3]);
    }
    let node = &peers.nodes[at];
    assert!(node.answers(peers.now(), FOURTH) && node.lacks(FOURTH) == node.status().last.0);
    peers.outputs[at].lost_snapshots = 0;
    until(&mut peers, at, &[7], |peers| voters(peers, at) == [1, 2, 3, 4]);
}

#[test]
fn the_next_leader_goes_on_with_a_change_that_nobody_asks_for_again() {
    let mut peers = Peers::new();
    let at = peers.elect();
    ask(&mut peers, at, 7, add(4, disk(4)));
    settle(&mut peers);
    let heir = next_to(at);
    ask(&mut peers, at, 8, transfer(heir));
    settle(&mut peers);
    assert!(matches!(outcomes(&peers, at, 7)[..], [Err(RequestError::NotLeader { .. })]));
    assert!(matches!(outcomes(&peers, at, 8)[..], [Err(RequestError::NotLeader { .. })]));
    let handed_over = format!("handed the quorum over, to coordinator {heir} if it took it");
    assert!(peers.outputs[at].notes().contains(&handed_over.as_str()));
    let next = peers.leader().expect("it leads");
    assert_eq!(peers.nodes[next].id(), heir);
    peers.join(3, disk(4));
    until(&mut peers, next, &[], |peers| voters(peers, next) == [1, 2, 3, 4]);
}

#[test]
fn a_quorum_has_at_most_sixteen_members() {
    let mut peers = Peers::of(15);
    let at = peers.elect();
    ask(&mut peers, at, 7, add(16, disk(16)));
    assert_eq!(outcomes(&peers, at, 7), [], "it is added");

    let mut peers = Peers::of(16);
    let at = peers.elect();
    ask(&mut peers, at, 7, add(17, disk(17)));
    let text = "A quorum has at most 16 members".to_owned();
    assert_eq!(refusal(&peers, at, 7), (ErrorCode::InvalidRequest, text));
}

#[test]
fn the_number_of_coordinators_that_were_members_is_bounded() {
    let mut out = Outputs::default();
    let mut alone = leader(&mut out);
    let mut ask = |call: u64, asked| {
        step(&mut alone, change(call, asked), &mut out);
        let outputs = std::mem::take(&mut out.all).into_iter();
        let outcomes = outputs.filter_map(|output| match output {
            Output::Respond { call: of, outcome } if of == CallId(call) => Some(outcome),
            _ => None,
        });
        outcomes.collect::<Vec<_>>()
    };
    // With this one, 1,024.
    for id in 2..=1_024 {
        assert_eq!(ask(id, add(id, disk(2))), [], "coordinator {id} is added");
        assert!(is_done(&ask(10_000 + id, remove(id))), "coordinator {id} is gone");
    }
    let refused = ask(1_025, add(1_025, disk(2)));
    let [Ok(Answer::ChangeQuorum(Err(refusal)))] = &refused[..] else { panic!("{refused:?}") };
    assert!(refusal.message.contains("1024 coordinators"), "{refusal}");
    assert_eq!(ask(1_026, add(7, disk(3))), [], "it was a member before");
}
