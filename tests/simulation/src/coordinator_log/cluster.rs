//! The brokers that replicate coordinators' logs, in the worlds of groups and of transactions alike: when a follower
//! fetches, when a broker hears of the tree, who is asked to lead, and what a broker's death means for its replicas.

use std::collections::BTreeSet;
use std::fmt;

use ottla_coordinator_partition::Now;

use super::{Partition, election_order};
use crate::invariants::Violation;
use crate::random::Random;

/// What the network and the replicas do; faults change it.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub latency_us: (u64, u64),
    pub lost_ppm: u32,
    /// From an append to the followers' having it.
    pub replication_us: (u64, u64),
    /// From an election to a broker's hearing of it.
    pub image_lag_us: (u64, u64),
    /// How long one piece of a log is read.
    pub load_us: (u64, u64),
}

impl Weather {
    pub const CALM: Self = Self {
        latency_us: (50, 500),
        lost_ppm: 0,
        replication_us: (200, 2_000),
        image_lag_us: (500, 20_000),
        load_us: (50, 500),
    };
}

/// What happens to logs by itself.
#[derive(Clone, Copy, Debug)]
pub enum LogEvent {
    /// A broker hears who leads a partition.
    Learn {
        broker: i32,
        partition: i32,
    },
    CatchUp {
        partition: i32,
        follower: i32,
    },
    /// A follower that fetched nothing fetches again.
    CatchUpAgain {
        partition: i32,
        follower: i32,
    },
}

/// The partitions of a world.
pub struct Logs {
    pub partitions: Vec<Partition>,
    brokers: Vec<i32>,
    /// Followers that do not fetch.
    fell_out: BTreeSet<(i32, i32)>,
}

impl Logs {
    pub fn new(partitions: i32, brokers: &[i32]) -> Self {
        let partitions = (0..partitions).map(|index| Partition::new(index, brokers)).collect();
        Self { partitions, brokers: brokers.to_vec(), fell_out: BTreeSet::new() }
    }

    pub fn get(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    pub fn get_mut(&mut self, index: i32) -> Option<&mut Partition> {
        self.partitions.get_mut(usize::try_from(index).ok()?)
    }

    pub fn leader_of(&self, index: i32) -> Option<i32> {
        self.get(index).and_then(Partition::leader)
    }

    pub fn is_out(&self, partition: i32, follower: i32) -> bool {
        self.fell_out.contains(&(partition, follower))
    }

    fn all(&self) -> Vec<i32> {
        self.partitions.iter().map(|partition| partition.index).collect()
    }
}

/// A world with coordinators' logs.
pub trait LogWorld {
    fn logs(&mut self) -> &mut Logs;
    fn clocks(&self) -> Now;
    fn weather(&self) -> Weather;
    fn random(&mut self) -> &mut Random;
    fn after_us(&mut self, us: u64, event: LogEvent);
    fn note(&mut self, what: fmt::Arguments<'_>);
    /// Whether a broker's process runs, and does not stand still.
    fn is_up(&self, broker: i32) -> bool;
    /// A broker hears who leads the partition.
    fn learn(&mut self, broker: i32, partition: i32) -> Result<(), Violation>;
    /// High watermarks may have moved.
    fn advance(&mut self, partition: i32) -> Result<(), Violation>;

    fn happen_to_log(&mut self, event: LogEvent) -> Result<(), Violation> {
        match event {
            LogEvent::Learn { broker, partition } => self.learn(broker, partition),
            LogEvent::CatchUp { partition, follower } => self.catch_up(partition, follower),
            LogEvent::CatchUpAgain { partition, follower } => {
                self.logs().fell_out.remove(&(partition, follower));
                self.catch_up(partition, follower)
            }
        }
    }

    fn draw(&mut self, (low, high): (u64, u64)) -> u64 {
        self.random().between(low, high)
    }

    /// Asks for another leader than `but`; everybody hears of it in a while.
    fn elect(&mut self, partition: i32, but: Option<i32>) {
        let brokers = self.logs().brokers.clone();
        let (others, last): (Vec<i32>, Vec<i32>) =
            brokers.iter().copied().filter(|id| self.is_up(*id)).partition(|id| Some(*id) != but);
        let mut order = election_order(&others, self.random());
        // It goes on where nobody else may lead.
        order.extend(last);
        let Some(found) = self.logs().get_mut(partition) else { return };
        if !found.elect(&order) {
            return;
        }
        let (leader, epoch) = (found.leader(), found.epoch());
        self.note(format_args!("partition {partition}: leader {leader:?} in epoch {epoch}"));
        for broker in brokers {
            let lag = self.draw(self.weather().image_lag_us);
            self.after_us(lag, LogEvent::Learn { broker, partition });
        }
        self.replicate(partition);
    }

    /// The followers will have what the leader has.
    fn replicate(&mut self, partition: i32) {
        let leader = self.logs().leader_of(partition);
        for follower in self.logs().brokers.clone() {
            if Some(follower) != leader {
                let delay = self.draw(self.weather().replication_us);
                self.after_us(delay, LogEvent::CatchUp { partition, follower });
            }
        }
    }

    fn catch_up(&mut self, index: i32, follower: i32) -> Result<(), Violation> {
        let now = self.clocks();
        let logs = self.logs();
        let source = logs.get(index).and_then(|partition| partition.source_of(follower));
        let Some(source) = source.filter(|_| !logs.is_out(index, follower)) else { return Ok(()) };
        if !self.is_up(follower) || !self.is_up(source) {
            return Ok(());
        }
        if let Some(again) = self.logs().get_mut(index).and_then(|partition| partition.fetch(follower, now)) {
            let us = again.0.saturating_sub(now.monotonic.0).max(1) * 1_000;
            self.after_us(us, LogEvent::CatchUp { partition: index, follower });
        }
        self.advance(index)
    }

    /// The follower fetches nothing, and falls out of the ISR, until it is back after a while.
    fn shrink_isr(&mut self, partition: i32, follower: i32, ms: u64) {
        self.note(format_args!("partition {partition}: b{follower} falls out of the ISR for {ms} ms"));
        self.fence(partition, follower);
        self.logs().fell_out.insert((partition, follower));
        self.after_us(ms * 1_000, LogEvent::CatchUpAgain { partition, follower });
    }

    /// The leader hears of it at once, or when it goes on: the high watermark of one that stands still does not move
    /// (seed 10889).
    fn fence(&mut self, partition: i32, broker: i32) {
        let Some(found) = self.logs().get_mut(partition) else { return };
        found.fence(broker);
        if let Some(broker) = found.leader() {
            self.after_us(0, LogEvent::Learn { broker, partition });
        }
    }

    /// A broker's process has ended, and the quorum knows it.
    fn lose_replicas_of(&mut self, broker: i32) {
        let now = self.clocks();
        for index in self.logs().all() {
            if let Some(partition) = self.logs().get_mut(index) {
                partition.restart(broker, now);
            }
            if self.logs().leader_of(index) == Some(broker) {
                self.elect(index, Some(broker));
            }
            self.fence(index, broker);
        }
    }

    /// A broker's process has begun.
    fn take_up_replicas_of(&mut self, broker: i32) -> Result<(), Violation> {
        for partition in self.logs().all() {
            if self.logs().leader_of(partition).is_none() {
                self.elect(partition, None);
            }
            self.learn(broker, partition)?;
            let delay = self.draw(self.weather().replication_us);
            self.after_us(delay, LogEvent::CatchUp { partition, follower: broker });
        }
        Ok(())
    }
}
