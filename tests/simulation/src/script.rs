//! A cluster that a test leads step by step: the scenarios that have cost others data, each under its name.

use bytes::Bytes;
use ottla_metadata::PartitionState;
use ottla_model::{
    BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs, TopicIdPartition,
};
use ottla_protocol::record_batch::BatchBuilder;

use crate::broker::BrokerNode;
use crate::broker::replica::Replica;
use crate::clock::WALL_START_MS;
use crate::invariants::Violation;
use crate::message::{CallId, Message, Produce, ProduceAnswer};
use crate::network::NodeId;
use crate::world::{SCRIPT, World, WorldConfig};

/// Nothing that a script waits for takes longer.
const PATIENCE_MS: u64 = 30_000;

/// Scripts look at the world this often.
const LOOK_MS: u64 = 5;

pub struct Script {
    pub world: World,
    next_call: u64,
    next_value: u64,
    next_sequence: i32,
}

/// Steps of a script end in what the invariants say.
pub type Step<T = ()> = Result<T, Violation>;

fn failed<T>(what: impl Into<String>) -> Step<T> {
    Err(Violation(what.into()))
}

impl Script {
    /// A whole cluster with the topic `t`, every ISR full.
    pub fn new(seed: u64, config: WorldConfig) -> Step<Self> {
        let mut script = Self { world: World::new(seed, config, false), next_call: 0, next_value: 0, next_sequence: 0 };
        if let Some(security) = script.world.security.as_deref_mut() {
            security.is_led = true;
        }
        script.world.create_topic("t");
        script.converge()?;
        Ok(script)
    }

    /// Until everything is as it should be.
    pub fn converge(&mut self) -> Step {
        self.wait("convergence", |world| world.what_is_missing().is_none() && !world.partitions().is_empty())
    }

    pub fn run_ms(&mut self, ms: u64) -> Step {
        self.world.run_for_ms(ms)
    }

    pub fn wait(&mut self, what: &str, done: impl Fn(&World) -> bool) -> Step {
        let end = self.world.now.plus_ms(PATIENCE_MS);
        while !done(&self.world) {
            if self.world.now >= end {
                let missing = self.world.what_is_missing().unwrap_or_default();
                let tail = self.world.trace.tail().join("\n");
                return failed(format!("{tail}\nwaited in vain for {what} ({missing})"));
            }
            self.world.run_for_ms(LOOK_MS)?;
        }
        Ok(())
    }

    pub fn partition(&self) -> Step<TopicIdPartition> {
        match self.world.partitions().first() {
            Some(partition) => Ok(*partition),
            None => failed("no partition"),
        }
    }

    pub fn state(&self) -> Step<PartitionState> {
        let partition = self.partition()?;
        match self.world.newest_image().and_then(|image| image.partition(partition)) {
            Some(state) => Ok((**state).clone()),
            None => failed("no state"),
        }
    }

    pub fn leader(&self) -> Step<i32> {
        let state = self.state()?;
        if state.has_leader() { Ok(state.leader.0) } else { failed(format!("no leader: {state:?}")) }
    }

    /// The replicas that do not lead, in their order.
    pub fn followers(&self) -> Step<Vec<i32>> {
        let state = self.state()?;
        Ok(state.replicas.iter().filter(|broker| **broker != state.leader).map(|broker| broker.0).collect())
    }

    pub fn isr(&self) -> Step<Vec<i32>> {
        let mut ids: Vec<_> = self.state()?.isr.iter().map(|member| member.broker.0).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    pub fn broker(&self, id: i32) -> Step<&BrokerNode> {
        self.world.brokers.get(&id).map_or_else(|| failed(format!("no b{id}")), Ok)
    }

    pub fn replica(&self, id: i32) -> Step<&Replica> {
        let partition = self.partition()?;
        self.broker(id)?.replica(partition).map_or_else(|| failed(format!("b{id} has no replica")), Ok)
    }

    pub fn end_of(&self, id: i32) -> Step<Offset> {
        Ok(self.replica(id)?.log_end())
    }

    pub fn hw_of(&self, id: i32) -> Step<Offset> {
        Ok(self.replica(id)?.high_watermark())
    }

    pub fn registered_epoch(&self, id: i32) -> Option<BrokerEpoch> {
        self.world.newest_image()?.broker_epoch(BrokerId(id))
    }

    pub fn quorum_leader(&self) -> Step<u64> {
        match self.world.coordinators.iter().find(|(_, node)| node.is_leading()) {
            Some((id, _)) => Ok(*id),
            None => failed("no coordinator leads"),
        }
    }

    // ---- producing

    /// A batch of `records`, never the same twice.
    pub fn batch(&mut self, records: usize) -> Step<Bytes> {
        let builder = BatchBuilder::new();
        self.fill(builder, records)
    }

    /// The next batch of the script's idempotent producer.
    pub fn idempotent_batch(&mut self, records: i32) -> Step<Bytes> {
        let builder = BatchBuilder::new().producer(ProducerId(77), ProducerEpoch(0), self.next_sequence);
        self.next_sequence += records;
        self.fill(builder, usize::try_from(records).unwrap_or(0))
    }

    fn fill(&mut self, mut builder: BatchBuilder, records: usize) -> Step<Bytes> {
        for _ in 0..records {
            self.next_value += 1;
            let value = format!("script value {}", self.next_value);
            builder = builder.record(TimestampMs(WALL_START_MS), None, Some(value.as_bytes()));
        }
        match builder.build() {
            Ok(batch) => Ok(batch.freeze()),
            Err(error) => failed(error.to_string()),
        }
    }

    /// Sends a batch, and waits for nothing.
    pub fn send(&mut self, broker: i32, acks: i16, batch: Bytes) -> Step<CallId> {
        let partition = self.partition()?;
        self.next_call += 1;
        let call = CallId(self.next_call);
        let produce = Produce { partition, acks, batch, timeout_ms: 2_000, is_confirmed: false };
        self.world.send(SCRIPT, NodeId::Broker(broker), Message::Produce { call, produce });
        Ok(call)
    }

    /// The answer to a batch, if it has come.
    pub fn answer(&self, call: CallId) -> Option<ProduceAnswer> {
        self.world.inbox.iter().find_map(|(_, message)| match message {
            Message::ProduceAnswer { call: answered, answer } if *answered == call => Some(*answer),
            _ => None,
        })
    }

    /// Sends a batch and waits for the answer; none comes from one that is gone.
    pub fn produce(&mut self, broker: i32, acks: i16, batch: Bytes) -> Step<ProduceAnswer> {
        let call = self.send(broker, acks, batch)?;
        let end = self.world.now.plus_ms(PATIENCE_MS);
        while self.world.now < end {
            if let Some(answer) = self.answer(call) {
                return Ok(answer);
            }
            self.world.run_for_ms(LOOK_MS)?;
        }
        failed(format!("b{broker} never answered"))
    }

    /// `batches` batches with acks=all to the leader, each acknowledged.
    pub fn write(&mut self, batches: usize) -> Step {
        for _ in 0..batches {
            let leader = self.leader()?;
            let batch = self.batch(2)?;
            let answer = self.produce(leader, -1, batch)?;
            if answer.error != ErrorCode::None {
                return failed(format!("b{leader} answered {answer:?}"));
            }
        }
        Ok(())
    }

    /// Unreplicated records: acks=1, to a given broker.
    pub fn write_hastily(&mut self, broker: i32, batches: usize) -> Step {
        for _ in 0..batches {
            let batch = self.batch(2)?;
            let answer = self.produce(broker, 1, batch)?;
            if answer.error != ErrorCode::None {
                return failed(format!("b{broker} answered {answer:?}"));
            }
        }
        Ok(())
    }

    // ---- faults

    pub fn kill(&mut self, broker: i32) {
        self.world.kill(NodeId::Broker(broker));
    }

    pub fn lose_power(&mut self, broker: i32) {
        self.world.lose_power(NodeId::Broker(broker));
    }

    pub fn start(&mut self, broker: i32) {
        self.world.start_after(NodeId::Broker(broker), 0);
    }

    /// Cuts the links between brokers.
    pub fn cut_brokers(&mut self, one: i32, other: i32) {
        self.world.network.cut_both(NodeId::Broker(one), NodeId::Broker(other));
    }

    /// Cuts a broker from every coordinator.
    pub fn cut_from_quorum(&mut self, broker: i32) {
        for id in 1..=self.world.config.coordinators {
            self.world.network.cut_both(NodeId::Broker(broker), NodeId::Coordinator(id));
        }
    }

    /// Cuts a broker from every other server.
    pub fn isolate(&mut self, broker: i32) {
        let node = NodeId::Broker(broker);
        let others: Vec<_> = self.world.all_servers().filter(|other| *other != node).collect();
        for other in others {
            self.world.network.cut_both(node, other);
        }
    }

    pub fn heal(&mut self) {
        self.world.heal();
    }

    /// Waits until the broker is out of the tree.
    pub fn wait_fenced(&mut self, broker: i32) -> Step {
        self.wait(&format!("b{broker} to be fenced"), |world| {
            world.newest_image().is_some_and(|image| image.broker(BrokerId(broker)).is_none())
        })
    }

    /// Waits until the tree names this leader, and it leads.
    pub fn wait_leads(&mut self, broker: i32) -> Step {
        self.wait(&format!("b{broker} to lead"), |world| {
            let Some(partition) = world.partitions().first().copied() else { return false };
            world.leader_of(partition) == Some(broker)
                && world
                    .brokers
                    .get(&broker)
                    .and_then(|node| node.replica(partition))
                    .is_some_and(|replica| replica.leader().is_some())
        })
    }

    /// Waits until another than `broker` leads; returns who.
    pub fn wait_other_leader(&mut self, broker: i32) -> Step<i32> {
        let leads = move |world: &World| {
            let partition = world.partitions().first().copied()?;
            world.leader_of(partition).filter(|leader| *leader != broker)
        };
        self.wait(&format!("another leader than b{broker}"), |world| leads(world).is_some())?;
        let leader = self.leader()?;
        self.wait_leads(leader)?;
        Ok(leader)
    }

    pub fn leader_epoch(&self) -> Step<LeaderEpoch> {
        Ok(self.state()?.leader_epoch)
    }
}
