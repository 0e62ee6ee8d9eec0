//! `ottla broker`: replicas leave brokers. What `ottla rebalance` shares: a look at the cluster, and moves in waves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use ottla_client::{Client, ConfigChange, ConfigResource, ElectionType};
use ottla_metadata::balance::{
    self, BalancedBroker, BalancedPartition, BrokenRules, BrokerRole, Cluster, Execution, Goals, Load, Plan,
    PlannedMove, WaveLimits,
};
use ottla_metadata::broker_config::CordonedLogDirs;
use ottla_model::{BrokerId, ErrorCode, PartitionId, TopicName, TopicPartition};

use super::at::Bootstrap;
use super::cluster::{self, BrokersArguments};
use super::rendering::counted;
use crate::kafka::Kafka;
use crate::kafka_tools::exceptions;
use crate::out;
use crate::progress::Progress;
use crate::replication_throttles;

const CORDON: &str = CordonedLogDirs::KEY;
const POLL: Duration = Duration::from_millis(200);
/// Sizes are asked less often: the answer of a broker names all its replicas.
const SIZES_EVERY: Duration = Duration::from_secs(2);
const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Subcommand)]
pub enum BrokerCommand {
    /// The brokers that run: id, address, rack and which is the controller
    List(BrokersArguments),
    /// Move all replicas and leaderships away from a broker, wait until it is stopped, and unregister it
    Drain {
        broker: i32,
        /// Show what would move, and end
        #[arg(long)]
        plan: bool,
        /// End when the broker is empty; it stays registered, and gets no new replicas
        #[arg(long, conflicts_with = "plan")]
        keep: bool,
        #[command(flatten)]
        waves: Waves,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Let a broker that was drained get replicas again
    Undrain {
        broker: i32,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Give the replicas of a broker that is down to others, and unregister it
    Decommission {
        broker: i32,
        /// Show what would move, and end
        #[arg(long)]
        plan: bool,
        #[command(flatten)]
        waves: Waves,
        #[command(flatten)]
        at: Bootstrap,
    },
}

/// How much moves at once.
#[derive(Args)]
pub struct Waves {
    /// Partitions that move at once at most
    #[arg(long, default_value_t = WaveLimits::default().partitions, value_name = "N")]
    wave_partitions: usize,
    /// Bytes that move at once at most; a larger partition moves alone
    #[arg(long, default_value_t = WaveLimits::default().bytes, value_name = "BYTES")]
    wave_bytes: u64,
    /// Bytes per second that a broker sends or fetches at most for what moves; 0: no limit
    #[arg(long, value_name = "BYTES_PER_SECOND")]
    throttle: Option<u64>,
}

/// How a plan is carried out.
#[derive(Clone, Copy)]
pub struct Pace {
    pub limits: WaveLimits,
    /// Bytes per second; none: no limit.
    pub throttle: Option<u64>,
}

impl Waves {
    pub fn pace(&self) -> Pace {
        let limits = WaveLimits { partitions: self.wave_partitions.max(1), bytes: self.wave_bytes };
        Pace { limits, throttle: self.throttle.filter(|rate| *rate > 0) }
    }

    /// With a throttle where the command line says nothing of one.
    pub fn pace_or(&self, throttle: u64) -> Pace {
        Pace { throttle: Some(self.throttle.unwrap_or(throttle)).filter(|rate| *rate > 0), ..self.pace() }
    }
}

pub async fn broker(command: BrokerCommand) -> Result<()> {
    match command {
        BrokerCommand::List(arguments) => cluster::brokers(arguments).await,
        BrokerCommand::Drain { broker, plan, keep, waves, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            drain(kafka.client(), BrokerId(broker), plan, keep, waves.pace()).await
        }
        BrokerCommand::Undrain { broker, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            // The broker itself takes the change: without it the client would only wait for it.
            ensure!(
                is_live(kafka.client(), BrokerId(broker)).await?,
                "broker {broker} does not run: start it, then ottla broker undrain {broker}"
            );
            let change = [ConfigChange::Delete { name: CORDON.to_owned() }];
            kafka.client().alter_configs(&ConfigResource::Broker(BrokerId(broker)), &change).await?;
            out!("broker {broker} gets new replicas again");
            Ok(())
        }
        BrokerCommand::Decommission { broker, plan, waves, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            decommission(kafka.client(), BrokerId(broker), plan, waves.pace()).await
        }
    }
}

async fn drain(client: &Client, broker: BrokerId, is_plan: bool, keeps: bool, pace: Pace) -> Result<()> {
    ensure!(is_registered(client, broker).await?, "broker {broker} is not registered");
    ensure!(is_live(client, broker).await?, "broker {broker} is down: ottla broker decommission {broker}");
    if is_plan {
        let cluster = observe(client, Some(broker)).await?;
        explain(&cluster, &balance::plan(&cluster, Goals::Vacate)?);
        return Ok(());
    }
    // Without a plan nothing is begun.
    balance::plan(&observe(client, Some(broker)).await?, Goals::Vacate)?;
    let change = [ConfigChange::Set { name: CORDON.to_owned(), value: "*".to_owned() }];
    client.alter_configs(&ConfigResource::Broker(broker), &change).await?;
    out!("broker {broker} gets no new replicas any more ({CORDON}=*)");
    empty(client, broker, pace).await?;
    if keeps {
        out!("broker {broker} holds no replica");
        return Ok(());
    }
    out!("broker {broker} holds no replica: stop it; it is unregistered then");
    let mut progress = Progress::new(Duration::from_secs(1));
    while is_live(client, broker).await? {
        progress.show(&format!("broker {broker} still runs"));
        tokio::time::sleep(POLL).await;
    }
    progress.clear();
    unregister(client, broker).await
}

async fn decommission(client: &Client, broker: BrokerId, is_plan: bool, pace: Pace) -> Result<()> {
    ensure!(is_registered(client, broker).await?, "broker {broker} is not registered");
    ensure!(!is_live(client, broker).await?, "broker {broker} is live: ottla broker drain {broker}");
    if is_plan {
        let cluster = observe(client, Some(broker)).await?;
        explain(&cluster, &balance::plan(&cluster, Goals::Vacate)?);
        return Ok(());
    }
    empty(client, broker, pace).await?;
    ensure!(
        !is_live(client, broker).await?,
        "broker {broker} has come back: it holds no replica, and stays registered"
    );
    unregister(client, broker).await
}

async fn unregister(client: &Client, broker: BrokerId) -> Result<()> {
    let cluster = observe(client, Some(broker)).await?;
    let holds = cluster.partitions.values().filter(|partition| partition.replicas.contains(&broker)).count();
    ensure!(holds == 0, "broker {broker} has got {holds} replicas again: it stays registered");
    client.unregister_broker(broker).await?;
    out!("broker {broker} is unregistered");
    Ok(())
}

/// Moves replicas until the broker holds none: topics may have been created after the plan.
async fn empty(client: &Client, broker: BrokerId, pace: Pace) -> Result<()> {
    loop {
        let cluster = observe(client, Some(broker)).await?;
        let plan = balance::plan(&cluster, Goals::Vacate)?;
        if plan.moves.is_empty() {
            // Reassignments of others may still have to take it away.
            await_reassignments(client, broker).await?;
            return Ok(());
        }
        explain(&cluster, &plan);
        carry_out(client, plan.moves, pace).await?;
    }
}

async fn await_reassignments(client: &Client, broker: BrokerId) -> Result<()> {
    let mut progress = Progress::new(Duration::from_secs(1));
    loop {
        let under_way = client.list_partition_reassignments(None).await?;
        let waiting = under_way.iter().filter(|one| one.removing.contains(&broker)).count();
        if waiting == 0 {
            progress.clear();
            return Ok(());
        }
        progress.show(&format!("{waiting} reassignments that take replicas from broker {broker} are under way"));
        tokio::time::sleep(POLL).await;
    }
}

async fn is_registered(client: &Client, broker: BrokerId) -> Result<bool> {
    let cluster = client.describe_cluster_with_fenced().await?;
    Ok(cluster.brokers.iter().any(|one| one.address.id == broker))
}

async fn is_live(client: &Client, broker: BrokerId) -> Result<bool> {
    let cluster = client.describe_cluster_with_fenced().await?;
    Ok(cluster.brokers.iter().any(|one| one.address.id == broker && !one.is_fenced))
}

/// The cluster as a plan needs it: roles, racks, replicas (of a partition that is being reassigned: its target), and
/// sizes as far as live brokers tell them.
pub async fn observe(client: &Client, leaving: Option<BrokerId>) -> Result<Cluster<TopicPartition>> {
    let described = client.describe_cluster_with_fenced().await?;
    let mut brokers = Vec::with_capacity(described.brokers.len());
    let mut sizes: BTreeMap<TopicPartition, u64> = BTreeMap::new();
    for broker in described.brokers {
        let id = broker.address.id;
        let is_cordoned = !broker.is_fenced && is_cordoned(client, id).await?;
        if !broker.is_fenced {
            for (at, bytes) in sizes_on(client, id).await? {
                let known = sizes.entry(at).or_default();
                *known = bytes.max(*known);
            }
        }
        let role = match leaving == Some(id) {
            true => BrokerRole::Leaves,
            false if broker.is_fenced || is_cordoned => BrokerRole::Keeps,
            false => BrokerRole::Shares,
        };
        brokers.push(BalancedBroker { id, rack: broker.address.rack, role });
    }
    let mut leaving_replicas: BTreeMap<TopicPartition, Vec<BrokerId>> = BTreeMap::new();
    for one in client.list_partition_reassignments(None).await? {
        leaving_replicas.insert(one.at, one.removing);
    }
    let mut partitions = BTreeMap::new();
    for topic in client.describe_topics(None).await? {
        match topic.error {
            ErrorCode::None => {}
            // Deleted since it was listed.
            ErrorCode::UnknownTopicOrPartition => continue,
            code => bail!("topic {}: {}", topic.name, exceptions::message(code)),
        }
        let Ok(name) = TopicName::new(&topic.name) else { continue };
        for partition in topic.partitions {
            let at = TopicPartition::new(name.clone(), partition.partition);
            let removing = leaving_replicas.get(&at).map_or(&[][..], Vec::as_slice);
            let replicas = partition.replicas.into_iter().filter(|broker| !removing.contains(broker)).collect();
            let bytes = sizes.get(&at).copied().unwrap_or(0);
            partitions.insert(at, BalancedPartition { replicas, bytes });
        }
    }
    Ok(Cluster { brokers, partitions })
}

async fn is_cordoned(client: &Client, broker: BrokerId) -> Result<bool> {
    let entries = client.describe_configs(&ConfigResource::Broker(broker)).await?;
    let value = entries.iter().find(|entry| entry.name == CORDON).and_then(|entry| entry.value.as_deref());
    Ok(value.is_some_and(|value| CordonedLogDirs::parse(value).are_all()))
}

/// The sizes of the replicas on a broker, those on their way between directories once.
async fn sizes_on(client: &Client, broker: BrokerId) -> Result<BTreeMap<TopicPartition, u64>> {
    let directories = client.describe_log_dirs(broker).await?;
    let replicas = directories.into_iter().flat_map(|directory| directory.replicas);
    let sizes = replicas.filter(|replica| !replica.is_future);
    Ok(sizes.map(|replica| (replica.at, u64::try_from(replica.size_bytes).unwrap_or(0))).collect())
}

/// What the plan does, before it is done.
pub fn explain(cluster: &Cluster<TopicPartition>, plan: &Plan<TopicPartition>) {
    for line in explained(cluster, plan) {
        out!("{line}");
    }
}

fn explained(cluster: &Cluster<TopicPartition>, plan: &Plan<TopicPartition>) -> Vec<String> {
    if plan.moves.is_empty() {
        return vec!["nothing has to move".to_owned()];
    }
    let reordered = plan.moves.iter().filter(|one| one.added().next().is_none()).count();
    let replicas = plan.replicas();
    let mut lines = vec![format!(
        "{} of {} {}: {}; {} only {} another leader",
        counted(replicas, "replica"),
        counted(plan.moves.len() - reordered, "partition"),
        if replicas == 1 { "moves" } else { "move" },
        bytes(plan.bytes()),
        counted(reordered, "partition"),
        if reordered == 1 { "prefers" } else { "prefer" },
    )];
    for broker in &cluster.brokers {
        let load = |loads: &BTreeMap<BrokerId, Load>| loads.get(&broker.id).copied().unwrap_or_default();
        let (was, will) = (load(&plan.before), load(&plan.after));
        lines.push(format!(
            "broker {}: {} → {}, {} → {} replicas, {} → {} preferred leaders",
            broker.id,
            bytes(was.bytes),
            bytes(will.bytes),
            was.replicas,
            will.replicas,
            was.leaders,
            will.leaders
        ));
    }
    lines
}

fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        // One digit after the point; cut, not rounded.
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

/// Moves in waves, under the throttle, with a line of progress; then leaders are elected as the new orders prefer them.
pub async fn carry_out(client: &Client, moves: Vec<PlannedMove<TopicPartition>>, pace: Pace) -> Result<()> {
    let mut elect: BTreeMap<String, Vec<PartitionId>> = BTreeMap::new();
    for one in &moves {
        let at = &one.partition;
        elect.entry(at.topic.as_str().to_owned()).or_default().push(at.partition);
    }
    match pace.throttle {
        None => move_in_waves(client, moves, pace.limits).await?,
        Some(rate) => {
            let targets = moves.iter().map(|one| (one.partition.clone(), one.to.clone())).collect();
            let current = moves.iter().map(|one| (one.partition.clone(), one.from.clone())).collect();
            replication_throttles::set(client, &[], &targets, &current, rate).await?;
            let moved = move_in_waves(client, moves, pace.limits).await;
            // Also after a failure: nobody would think of them.
            let cleared = clear_throttles(client, elect.keys()).await;
            moved.and(cleared)?;
        }
    }
    elect_preferred(client, &elect).await
}

async fn clear_throttles(client: &Client, topics: impl Iterator<Item = &String>) -> Result<()> {
    let described = client.describe_cluster_with_fenced().await?;
    let live = described.brokers.iter().filter(|broker| !broker.is_fenced).map(|broker| broker.address.id).collect();
    // One that was deleted meanwhile has no throttle any more.
    let there: BTreeSet<String> = client.describe_topics(None).await?.into_iter().map(|topic| topic.name).collect();
    let topics = topics.filter(|topic| there.contains(*topic)).map(String::as_str);
    Ok(replication_throttles::clear(client, &live, topics).await?)
}

async fn move_in_waves(client: &Client, moves: Vec<PlannedMove<TopicPartition>>, limits: WaveLimits) -> Result<()> {
    let total: u64 = moves.iter().map(|one| one.bytes).sum();
    let of_all = counted(moves.len(), "partition");
    let mut execution = Execution::new(moves, limits, BrokenRules::default());
    let (mut done_bytes, mut done) = (0, 0);
    let mut progress = Progress::new(Duration::from_secs(1));
    let begun = Instant::now();
    let mut copied = 0;
    let mut sized_at = begun;
    while !execution.is_done() {
        begin(client, execution.next_wave()).await?;
        let listed = client.list_partition_reassignments(None).await?;
        let complete = execution.still_active(&listed.into_iter().map(|one| one.at).collect());
        done += complete.len();
        done_bytes += complete.iter().map(|one| one.bytes).sum::<u64>();
        if !complete.is_empty() || sized_at.elapsed() >= SIZES_EVERY {
            copied = copied_of(client, execution.under_way()).await?;
            sized_at = Instant::now();
        }
        let now = (done_bytes + copied).min(total);
        let left = time_left(begun.elapsed(), now, total);
        progress.show(&format!("{done} of {of_all}, {} of {}{left}", bytes(now), bytes(total)));
        if !execution.under_way().is_empty() {
            tokio::time::sleep(POLL).await;
        }
    }
    progress.clear();
    Ok(())
}

async fn elect_preferred(client: &Client, elect: &BTreeMap<String, Vec<PartitionId>>) -> Result<()> {
    let outcomes = client.elect_leaders(ElectionType::Preferred, Some(elect), ADMIN_TIMEOUT).await?;
    for one in outcomes {
        // A topic may have been deleted meanwhile.
        let is_fine =
            matches!(one.error, ErrorCode::None | ErrorCode::ElectionNotNeeded | ErrorCode::UnknownTopicOrPartition);
        if !is_fine {
            let why = one.message.unwrap_or_else(|| exceptions::message(one.error));
            out!("{}-{} keeps its leader: {why}", one.topic, one.partition);
        }
    }
    Ok(())
}

async fn begin(client: &Client, wave: &[PlannedMove<TopicPartition>]) -> Result<()> {
    if wave.is_empty() {
        return Ok(());
    }
    let targets = wave.iter().map(|one| (one.partition.clone(), Some(one.to.clone()))).collect();
    let refused = client.alter_partition_reassignments(&targets, false, ADMIN_TIMEOUT).await?;
    // A topic that is gone has nothing to move.
    let refused = refused.into_iter().find(|one| one.error != ErrorCode::UnknownTopicOrPartition);
    if let Some(one) = refused {
        let why = one.message.unwrap_or_else(|| exceptions::message(one.error));
        bail!("{} cannot move: {why}", one.at);
    }
    Ok(())
}

/// The bytes that the new replicas of the moves under way have got.
async fn copied_of(client: &Client, under_way: &[PlannedMove<TopicPartition>]) -> Result<u64> {
    let takers: BTreeSet<BrokerId> = under_way.iter().flat_map(PlannedMove::added).collect();
    let mut copied = 0;
    for taker in takers {
        // One that is down copies nothing now.
        let Ok(sizes) = sizes_on(client, taker).await else { continue };
        for one in under_way.iter().filter(|one| one.added().any(|broker| broker == taker)) {
            copied += sizes.get(&one.partition).copied().unwrap_or(0);
        }
    }
    Ok(copied)
}

fn time_left(elapsed: Duration, done: u64, total: u64) -> String {
    let left = u128::from(total.saturating_sub(done));
    match (elapsed.as_millis() * left).checked_div(u128::from(done)) {
        Some(millis) if left > 0 => format!(", about {} s left", millis.div_ceil(1000)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_partitions::at;

    #[test]
    fn sizes_and_times_are_told() {
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!(time_left(Duration::from_secs(10), 25, 100), ", about 30 s left");
        assert_eq!([time_left(Duration::from_secs(1), 0, 9), time_left(Duration::from_secs(1), 9, 9)], ["", ""]);
    }

    #[test]
    fn a_plan_is_explained() {
        let broker = |id, role| BalancedBroker { id: BrokerId(id), rack: None, role };
        let brokers = vec![broker(1, BrokerRole::Leaves), broker(2, BrokerRole::Shares)];
        let partitions = BTreeMap::from([(at("t", 0), BalancedPartition { replicas: vec![BrokerId(1)], bytes: 2048 })]);
        let cluster = Cluster { brokers, partitions };
        let plan = balance::plan(&cluster, Goals::Vacate).expect("possible");
        let expected = [
            "1 replica of 1 partition moves: 2.0 KiB; 0 partitions only prefer another leader",
            "broker 1: 2.0 KiB → 0 B, 1 → 0 replicas, 1 → 0 preferred leaders",
            "broker 2: 0 B → 2.0 KiB, 0 → 1 replicas, 0 → 1 preferred leaders",
        ];
        assert_eq!(explained(&cluster, &plan), expected);
    }
}
