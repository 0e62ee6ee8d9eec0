//! The network between processes: who reaches whom, how fast, and what gets lost, late, twice or out of order.
//!
//! Messages belong to a connection from one life of a process to another: what is on its way to a process that died
//! does not reach the next one under the same id. What a dead process had sent is still delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::clock::SimTime;
use crate::random::Random;

/// A process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NodeId {
    Coordinator(u64),
    Broker(i32),
    Client(u32),
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(id) => write!(f, "c{id}"),
            Self::Broker(id) => write!(f, "b{id}"),
            Self::Client(id) => write!(f, "k{id}"),
        }
    }
}

/// What a kind of message may suffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// May be lost, late, doubled and out of order: Raft messages, requests and their answers, each as if on a
    /// connection of its own.
    Loose,
    /// In order, once, unless the link is cut: streams.
    Ordered,
}

/// How the network behaves at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weather {
    pub latency_us: (u64, u64),
    pub drop_ppm: u32,
    pub duplicate_ppm: u32,
    /// This often a message takes much longer.
    pub slow_ppm: u32,
    pub slow_us: (u64, u64),
}

impl Weather {
    pub const CALM: Self = Self { latency_us: (100, 600), drop_ppm: 0, duplicate_ppm: 0, slow_ppm: 0, slow_us: (0, 0) };

    pub const ROUGH: Self = Self {
        latency_us: (100, 5_000),
        drop_ppm: 20_000,
        duplicate_ppm: 20_000,
        slow_ppm: 20_000,
        slow_us: (20_000, 2_000_000),
    };
}

/// The state of every link.
#[derive(Clone, Debug)]
pub struct Network {
    random: Random,
    weather: Weather,
    /// From → to: nothing gets through.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// When the last ordered message of a link arrives.
    last_ordered: BTreeMap<(NodeId, NodeId), SimTime>,
}

impl Network {
    pub fn new(random: Random) -> Self {
        Self { random, weather: Weather::CALM, cut: BTreeSet::new(), last_ordered: BTreeMap::new() }
    }

    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    pub fn weather(&self) -> Weather {
        self.weather
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    pub fn cut_both(&mut self, one: NodeId, other: NodeId) {
        self.cut(one, other);
        self.cut(other, one);
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn heal_between(&mut self, one: NodeId, other: NodeId) {
        self.cut.remove(&(one, other));
        self.cut.remove(&(other, one));
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Whether both directions are open, as a TCP connection needs.
    pub fn is_connected(&self, one: NodeId, other: NodeId) -> bool {
        !self.is_cut(one, other) && !self.is_cut(other, one)
    }

    fn latency(&mut self) -> u64 {
        let Weather { latency_us, slow_ppm, slow_us, .. } = self.weather;
        let latency = self.random.between(latency_us.0, latency_us.1);
        if self.random.happens(slow_ppm) { latency + self.random.between(slow_us.0, slow_us.1) } else { latency }
    }

    /// When the message arrives: never, once, or twice.
    pub fn arrivals(&mut self, now: SimTime, from: NodeId, to: NodeId, delivery: Delivery) -> [Option<SimTime>; 2] {
        if self.is_cut(from, to) {
            return [None, None];
        }
        let first = now.plus_us(self.latency());
        match delivery {
            Delivery::Ordered => {
                let last = self.last_ordered.entry((from, to)).or_default();
                let at = first.max(last.plus_us(1));
                *last = at;
                [Some(at), None]
            }
            Delivery::Loose => {
                if self.random.happens(self.weather.drop_ppm) {
                    return [None, None];
                }
                let twice = self.random.happens(self.weather.duplicate_ppm);
                let second = twice.then(|| now.plus_us(self.latency()));
                [Some(first), second]
            }
        }
    }

    /// The delay of something that the network itself reports: a refused connection, the end of one.
    pub fn notice_delay_us(&mut self) -> u64 {
        self.random.between(100, 600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordered_messages_stay_in_order_whatever_the_weather() {
        let mut network = Network::new(Random::new(1));
        network.set_weather(Weather::ROUGH);
        let (from, to) = (NodeId::Broker(1), NodeId::Coordinator(1));
        let mut last = SimTime(0);
        for now in 0..1_000 {
            let [first, second] = network.arrivals(SimTime(now * 100), from, to, Delivery::Ordered);
            let first = first.expect("the link is up");
            assert!(first > last && second.is_none());
            last = first;
        }
    }

    #[test]
    fn a_cut_has_a_direction() {
        let mut network = Network::new(Random::new(1));
        let (one, other) = (NodeId::Broker(1), NodeId::Broker(2));
        network.cut(one, other);
        assert_eq!(network.arrivals(SimTime(0), one, other, Delivery::Loose), [None, None]);
        assert!(network.arrivals(SimTime(0), other, one, Delivery::Loose)[0].is_some());
        assert!(!network.is_connected(other, one));
        network.heal_between(one, other);
        assert!(network.is_connected(one, other));
    }
}
