//! What becomes of the brokers' processes, and who leads.

use super::{Event, World};
use crate::coordinator_log::election_order;
use crate::groups::broker::Broker;
use crate::invariants::Violation;

impl World {
    pub fn kill_broker(&mut self, id: i32) {
        self.note(format_args!("b{id} is killed"));
        let Some(broker) = self.brokers.get_mut(&id) else { return };
        broker.stop();
        self.paused_brokers.remove(&id);
        // Its connections break: whoever waits there learns of it.
        let waiting: Vec<(u64, u32)> =
            self.calls.iter().filter(|(_, (_, at))| *at == id).map(|(call, (client, _))| (*call, *client)).collect();
        for (call, client) in waiting {
            let delay = self.draw_us(self.weather.latency_us);
            self.schedule_us(delay, Event::Lost { client, call });
        }
        for partition in 0..self.partitions.len() {
            let index = i32::try_from(partition).unwrap_or(0);
            let now = self.clocks();
            if let Some(partition) = self.partition_mut(index) {
                partition.restart(id, now);
            }
            if self.leader_of(index) == Some(id) {
                self.elect(index, Some(id));
            }
            self.shrink(index, id);
        }
    }

    /// The log cleaner of a broker has gone over a partition.
    pub fn compact(&mut self, index: i32, broker: i32, keeps_tombstones: bool) -> Result<(), Violation> {
        self.note(format_args!("b{broker} compacts partition {index}"));
        // Whoever has begun to read the log finds the tombstones of what it has read: `delete.retention.ms`.
        let is_read = |broker: &Broker| broker.loaders.keys().any(|(loading, _)| *loading == index);
        let keeps_tombstones = keeps_tombstones || self.brokers.get(&broker).is_some_and(is_read);
        let now = self.clocks();
        let Some(partition) = self.partition_mut(index) else { return Ok(()) };
        partition
            .compact(broker, keeps_tombstones, now)
            .map_err(|error| Violation(format!("b{broker} cannot compact partition {index}: {error}")))
    }

    pub fn start_broker_after_ms(&mut self, id: i32, ms: u64) {
        self.schedule_us(ms * 1_000, Event::StartBroker(id));
    }

    pub(super) fn start_broker(&mut self, id: i32) -> Result<(), Violation> {
        if self.brokers.get(&id).is_none_or(|broker| broker.is_running) {
            return Ok(());
        }
        self.note(format_args!("b{id} starts"));
        if let Some(broker) = self.brokers.get_mut(&id) {
            broker.is_running = true;
            broker.topics = self.topics.clone();
        }
        self.schedule_us(0, Event::TickBroker(id));
        for partition in 0..self.partitions.len() {
            let index = i32::try_from(partition).unwrap_or(0);
            if self.leader_of(index).is_none() {
                self.elect(index, None);
            }
            self.learn(id, index)?;
            let delay = self.draw_us(self.weather.replication_us);
            self.schedule_us(delay, Event::CatchUp { partition: index, follower: id });
        }
        Ok(())
    }

    /// SIGSTOP. Whether another leads meanwhile is the caller's business.
    pub fn pause_broker(&mut self, id: i32, ms: u64) {
        self.note(format_args!("b{id} stands still for {ms} ms"));
        self.paused_brokers.entry(id).or_default();
        self.schedule_us(ms * 1_000, Event::ResumeBroker(id));
    }

    pub fn is_broker_paused(&self, id: i32) -> bool {
        self.paused_brokers.contains_key(&id)
    }

    /// Another leader than `but`, if there is one; everybody hears of it in a while.
    pub fn elect(&mut self, partition: i32, but: Option<i32>) {
        let candidates: Vec<i32> = self
            .brokers
            .iter()
            .filter(|(id, broker)| broker.is_running && Some(**id) != but && !self.paused_brokers.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        let order = election_order(&candidates, &mut self.random);
        let Some(found) = self.partition_mut(partition) else { return };
        if !found.elect(&order) {
            return;
        }
        let (leader, epoch) = (found.leader(), found.epoch());
        self.note(format_args!("partition {partition}: leader {leader:?} in epoch {epoch}"));
        let ids: Vec<i32> = self.brokers.keys().copied().collect();
        for broker in ids {
            let delay = self.draw_us(self.weather.image_lag_us);
            self.schedule_us(delay, Event::Learn { broker, partition });
        }
        self.replicate(partition);
    }

    /// The followers will have what the leader has.
    pub(super) fn replicate(&mut self, partition: i32) {
        let leader = self.leader_of(partition);
        let followers: Vec<i32> = self.brokers.keys().copied().filter(|id| Some(*id) != leader).collect();
        for follower in followers {
            let delay = self.draw_us(self.weather.replication_us);
            self.schedule_us(delay, Event::CatchUp { partition, follower });
        }
    }

    /// The leader hears of it at once.
    fn shrink(&mut self, partition: i32, member: i32) {
        let now = self.clocks();
        let Some(found) = self.partition_mut(partition) else { return };
        found.fence(member, now);
        if let Some(broker) = found.leader() {
            self.schedule_us(0, Event::Learn { broker, partition });
        }
    }

    /// The follower falls out of the ISR, and comes back after a while.
    pub fn shrink_isr(&mut self, partition: i32, member: i32, ms: u64) {
        self.note(format_args!("partition {partition}: b{member} falls out of the ISR for {ms} ms"));
        self.shrink(partition, member);
        self.fell_out.insert((partition, member));
        self.schedule_us(ms * 1_000, Event::CatchUpAgain { partition, follower: member });
    }

    pub(super) fn is_out(&self, partition: i32, member: i32) -> bool {
        self.fell_out.contains(&(partition, member))
    }

    pub(super) fn is_up(&self, id: i32) -> bool {
        self.brokers.get(&id).is_some_and(|broker| broker.is_running) && !self.paused_brokers.contains_key(&id)
    }
}
