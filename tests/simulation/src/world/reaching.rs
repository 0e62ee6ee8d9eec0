//! Brokers that reach other coordinators, and not the one that leads (scenario 65).

use crate::network::Weather;

use super::*;

/// A broker asks another coordinator after half a session without an answer. After a change of leaders a whole session
/// passes before the next one, in which brokers that are back, and those that were cut off just now, find the leader.
const HANDED_OVER_MS: u64 = 7_000;

/// A leader that more brokers miss than can reach it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct LostBrokers {
    leader: u64,
    term: u64,
    /// They reach all others.
    brokers: Vec<i32>,
    since: SimTime,
}

impl World {
    /// A leader that more brokers miss than reach hands the leadership over.
    pub(super) fn check_reach(&mut self) -> Result<(), Violation> {
        let found = self.find_lost_brokers();
        let known = self.lost_brokers.take();
        self.lost_brokers = match (known, found) {
            (Some(known), Some(found)) if LostBrokers { since: known.since, ..found.clone() } == known => Some(known),
            (_, found) => found,
        };
        let Some(lost) = &self.lost_brokers else { return Ok(()) };
        self.invariants.checks += 1;
        match self.now >= lost.since.plus_ms(HANDED_OVER_MS) {
            false => Ok(()),
            true => Err(Violation(format!(
                "c{} leads, though since {} brokers {:?} reach the others, and fewer reach it",
                lost.leader, lost.since, lost.brokers
            ))),
        }
    }

    /// None too while the quorum suffers, or the weather is bad: then nothing is promised.
    fn find_lost_brokers(&self) -> Option<LostBrokers> {
        let image = self.newest_image()?;
        if self.network.weather() != Weather::CALM {
            return None;
        }
        let members = image.coordinators().filter(|(_, one)| one.node.standing != Standing::Removed);
        let members: Vec<u64> = members.map(|(id, _)| id.0).collect();
        let leading =
            |id: &u64| Some((*id, self.coordinators.get(id).filter(|node| node.is_leading())?.term_if_leader()?));
        let (leader, term) = members.iter().filter_map(leading).max_by_key(|(_, term)| *term)?;
        let is_well = |node: NodeId| {
            let clock = match node {
                NodeId::Coordinator(id) => self.coordinators.get(&id).map(|node| &node.clock),
                NodeId::Broker(id) => self.brokers.get(&id).map(|node| &node.clock),
                NodeId::Client(_) => None,
            };
            self.is_running(node) && !self.is_paused(node) && clock.is_some_and(|clock| !clock.is_frozen())
        };
        let nodes: Vec<_> = members.iter().map(|id| NodeId::Coordinator(*id)).collect();
        let are_connected = |one: NodeId, others: &[NodeId]| {
            others.iter().all(|other| *other == one || self.network.is_connected(one, *other))
        };
        if !nodes.iter().all(|node| is_well(*node) && are_connected(*node, &nodes)) {
            return None;
        }
        let leader_node = NodeId::Coordinator(leader);
        let others: Vec<_> = nodes.iter().copied().filter(|node| *node != leader_node).collect();
        let (mut brokers, mut reaching) = (Vec::new(), 0);
        for id in self.brokers.keys().copied() {
            let node = NodeId::Broker(id);
            if !self.network.is_cut(node, leader_node) {
                reaching += 1;
            } else if is_well(node) && are_connected(node, &others) && image.is_registered(BrokerId(id)) {
                brokers.push(id);
            }
        }
        (brokers.len() > reaching).then_some(LostBrokers { leader, term, brokers, since: self.now })
    }
}
