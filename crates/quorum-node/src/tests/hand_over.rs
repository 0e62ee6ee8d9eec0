//! A leader that brokers miss, and the members that they reach (scenario 65).

use ottla_model::{BrokerId, CoordinatorId};

use super::disk;
use super::leading::{BROKER, register};
use super::peers::Peers;
use crate::{Event, Output};

/// Longer than the pause after a change of leaders.
const SETTLED_TICKS: usize = 70;
/// Longer than a broker may take to be heard after it was told who leads.
const MISSED_TICKS: usize = 12;
const STRANGER: CoordinatorId = CoordinatorId(4);

/// A leader that has not heard the only broker since it registered; its place, and that of another member.
fn with_a_lost_broker() -> (Peers, usize, usize) {
    let mut peers = Peers::new();
    let leader = peers.elect();
    peers.step(leader, register(1));
    run(&mut peers, SETTLED_TICKS, None);
    assert_eq!(peers.leader(), Some(leader));
    (peers, leader, (leader + 1) % 3)
}

fn run(peers: &mut Peers, ticks: usize, away: Option<usize>) {
    for _ in 0..ticks {
        peers.tick(away);
    }
}

/// The broker asks this member, which tells the leader.
fn asked(peers: &mut Peers, leader: usize, member: usize) {
    let sender = peers.nodes[member].id();
    peers.step(leader, Event::PeerWasAsked { sender, disk: disk(sender.0), brokers: vec![BROKER] });
}

fn hands_over(peers: &Peers, leader: usize) -> bool {
    peers.outputs[leader].notes().iter().any(|note| note.contains("hands the quorum over"))
}

fn candidates(peers: &Peers, leader: usize) -> Vec<CoordinatorId> {
    let better = peers.nodes[leader].leadership.as_ref().expect("it leads").better_reached();
    better.into_iter().map(|candidate| candidate.coordinator).collect()
}

#[test]
fn a_member_that_a_lost_broker_asks_takes_over() {
    let (mut peers, leader, heir) = with_a_lost_broker();
    asked(&mut peers, leader, heir);
    peers.tick(None);
    assert!(!hands_over(&peers, leader), "the broker may be about to be heard");
    run(&mut peers, MISSED_TICKS, None);
    assert!(hands_over(&peers, leader));
    assert_eq!(peers.leader(), Some(heir));
}

#[test]
fn nobody_takes_over_who_does_not_answer_and_nobody_at_all_while_the_rule_is_off() {
    let (mut peers, leader, heir) = with_a_lost_broker();
    run(&mut peers, SETTLED_TICKS, Some(heir));
    asked(&mut peers, leader, heir);
    run(&mut peers, MISSED_TICKS, Some(heir));
    assert_eq!(candidates(&peers, leader), [peers.nodes[heir].id()]);
    assert!(!hands_over(&peers, leader), "it is away");

    let (mut peers, leader, heir) = with_a_lost_broker();
    peers.nodes[leader].config.broken_rules.keeps_lost_brokers = true;
    asked(&mut peers, leader, heir);
    run(&mut peers, MISSED_TICKS, None);
    assert_eq!(candidates(&peers, leader), [peers.nodes[heir].id()]);
    assert!(!hands_over(&peers, leader));
}

#[test]
fn only_the_word_of_voters_with_their_disks_counts() {
    let (mut peers, leader, other) = with_a_lost_broker();
    let sender = peers.nodes[other].id();
    peers.step(leader, Event::PeerWasAsked { sender, disk: disk(9), brokers: vec![BROKER] });
    // Members vouch for one that waits to be added: its messages are taken, and it is no voter.
    peers.step(leader, Event::Vouched { id: STRANGER, disk: disk(4), address: "c4:2181".to_owned() });
    assert_eq!(peers.nodes[leader].check_sender(STRANGER, disk(4)), Ok(()));
    peers.step(leader, Event::PeerWasAsked { sender: STRANGER, disk: disk(4), brokers: vec![BROKER] });
    run(&mut peers, MISSED_TICKS, None);
    assert_eq!(candidates(&peers, leader), []);
}

#[test]
fn a_follower_tells_the_leader_of_known_brokers_once_in_a_tick() {
    let (mut peers, leader, follower) = with_a_lost_broker();
    let told = |peers: &mut Peers, at: usize| -> Vec<(CoordinatorId, Vec<BrokerId>)> {
        let outputs = std::mem::take(&mut peers.outputs[at].all);
        let of = |output| match output {
            Output::BrokersAsked { leader, brokers } => Some((leader, brokers)),
            _ => None,
        };
        outputs.into_iter().filter_map(of).collect()
    };
    peers.outputs[follower].all.clear();
    peers.tick(None);
    assert_eq!(told(&mut peers, follower), [], "nobody asked");
    for broker in [BROKER, BrokerId(9), BROKER] {
        peers.step(follower, Event::BrokerAsked(broker));
        peers.step(leader, Event::BrokerAsked(broker));
    }
    assert_eq!(told(&mut peers, follower), []);
    peers.tick(None);
    assert_eq!(told(&mut peers, follower), [(peers.nodes[leader].id(), vec![BROKER])]);
    assert_eq!(told(&mut peers, leader), []);
    peers.tick(None);
    assert_eq!(told(&mut peers, follower), []);
}
