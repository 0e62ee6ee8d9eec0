//! What becomes of the brokers' processes, and who leads.

use super::{Event, World};
use crate::coordinator_log::LogWorld as _;
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
        self.lose_replicas_of(id);
    }

    /// The log cleaner of a broker has gone over a partition.
    pub fn compact(&mut self, index: i32, broker: i32, keeps_tombstones: bool) -> Result<(), Violation> {
        self.note(format_args!("b{broker} compacts partition {index}"));
        // Whoever has begun to read the log finds the tombstones of what it has read: `delete.retention.ms`.
        let is_read = |broker: &Broker| broker.loaders.keys().any(|(loading, _)| *loading == index);
        let keeps_tombstones = keeps_tombstones || self.brokers.get(&broker).is_some_and(is_read);
        let now = self.clocks();
        let Some(partition) = self.logs.get_mut(index) else { return Ok(()) };
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
        self.take_up_replicas_of(id)
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
}
