//! `ottla broker`: replicas leave brokers. What `ottla rebalance` shares: a look at the cluster, and moves in waves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use ottla_client::{Client, ConfigChange, ConfigResource, DescribedTopic, ElectionType, Reassignment};
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
use crate::replication_throttles::{self, Removed};

const CORDON: &str = CordonedLogDirs::KEY;
const POLL: Duration = Duration::from_millis(200);
/// Sizes are asked less often: the answer of a broker names all its replicas.
const SIZES_EVERY: Duration = Duration::from_secs(2);
/// A partition without a leader for so long is not waited for: the brokers that have it may not return. A restart takes
/// less.
const LEADERLESS_MAX: Duration = Duration::from_secs(60);
const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Partitions of one request for elections: half of what a cluster takes.
const ELECTED_AT_ONCE: usize = 5_000;

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
    /// Bytes per second that a broker sends or fetches at most for what moves; 0: no limit, also none of an earlier run
    #[arg(long, value_name = "BYTES_PER_SECOND")]
    throttle: Option<u64>,
}

/// How a plan is carried out.
#[derive(Clone, Copy)]
pub struct Pace {
    pub limits: WaveLimits,
    /// Bytes per second; none: no limit.
    pub throttle: Option<u64>,
    /// Throttles are set and removed by this run: a person's own stay where nothing is said of them.
    pub owns_throttles: bool,
}

impl Waves {
    pub fn pace(&self) -> Pace {
        let limits = WaveLimits { partitions: self.wave_partitions.max(1), bytes: self.wave_bytes };
        Pace { limits, throttle: self.throttle.filter(|rate| *rate > 0), owns_throttles: self.throttle.is_some() }
    }

    /// With a throttle where the command line says nothing of one.
    pub fn pace_or(&self, throttle: u64) -> Pace {
        let throttle = Some(self.throttle.unwrap_or(throttle)).filter(|rate| *rate > 0);
        Pace { throttle, owns_throttles: true, ..self.pace() }
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
        let observed = observe(client, Some(broker)).await?;
        explain(&observed.cluster, &balance::plan(&observed.cluster, Goals::Vacate)?);
        return observed.ensure_rid_of(broker);
    }
    // Without a plan nothing is begun.
    balance::plan(&observe(client, Some(broker)).await?.cluster, Goals::Vacate)?;
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
        let observed = observe(client, Some(broker)).await?;
        explain(&observed.cluster, &balance::plan(&observed.cluster, Goals::Vacate)?);
        return observed.ensure_rid_of(broker);
    }
    empty(client, broker, pace).await?;
    ensure!(
        !is_live(client, broker).await?,
        "broker {broker} has come back: it holds no replica, and stays registered"
    );
    unregister(client, broker).await
}

async fn unregister(client: &Client, broker: BrokerId) -> Result<()> {
    let observed = observe(client, Some(broker)).await?;
    observed.ensure_rid_of(broker)?;
    let partitions = observed.cluster.partitions.values();
    let holds = partitions.filter(|partition| partition.replicas.contains(&broker)).count();
    ensure!(holds == 0, "broker {broker} has got {holds} replicas again: it stays registered");
    client.unregister_broker(broker).await?;
    out!("broker {broker} is unregistered");
    Ok(())
}

/// Moves replicas until the broker holds none: topics may have been created after the plan. Then fails if partitions
/// without a leader are left.
async fn empty(client: &Client, broker: BrokerId, pace: Pace) -> Result<()> {
    loop {
        let observed = observe(client, Some(broker)).await?;
        let plan = balance::plan(&observed.cluster, Goals::Vacate)?;
        if plan.moves.is_empty() {
            // Reassignments of others may still have to take it away.
            let what = format!("reassignments that take replicas from broker {broker}");
            let is_led = |one: &Reassignment| !observed.leaderless.contains_key(&one.at);
            await_reassignments(client, &what, |one| one.removing.contains(&broker) && is_led(one)).await?;
            end_throttles(client, pace).await?;
            return observe(client, Some(broker)).await?.ensure_rid_of(broker);
        }
        explain(&observed.cluster, &plan);
        carry_out(client, plan.moves, pace).await?;
    }
}

/// Until no reassignment is under way that is waited for.
async fn await_reassignments(client: &Client, what: &str, is_awaited: impl Fn(&Reassignment) -> bool) -> Result<()> {
    let mut progress = Progress::new(Duration::from_secs(1));
    let mut leaderless = Leaderless::default();
    let mut looked_at = Instant::now();
    loop {
        let under_way = client.list_partition_reassignments(None).await?;
        let mut waiting: Vec<_> = under_way.iter().filter(|one| is_awaited(one)).collect();
        let awaited: BTreeSet<_> = waiting.iter().map(|one| one.at.clone()).collect();
        let given_up = leaderless.for_long(Instant::now());
        waiting.retain(|one| !given_up.contains(&one.at));
        if waiting.is_empty() {
            progress.clear();
            return Ok(());
        }
        if looked_at.elapsed() >= SIZES_EVERY {
            leaderless.look(client, &awaited).await?;
            looked_at = Instant::now();
        }
        progress.show(&awaited_line(&waiting, what, &live_brokers(client).await?));
        tokio::time::sleep(POLL).await;
    }
}

fn awaited_line(waiting: &[&Reassignment], what: &str, live: &BTreeSet<BrokerId>) -> String {
    let takers = waiting.iter().flat_map(|one| one.adding.iter().copied()).collect();
    format!("{} {what} are under way{}", waiting.len(), down_among(&takers, live))
}

/// Until the reassignments end that an earlier run of a tool has left, as far as they can: one whose new replica is on
/// a broker that is down, or which nobody leads, may never.
async fn await_earlier(client: &Client, earlier: &[Reassignment]) -> Result<()> {
    let known: BTreeSet<&TopicPartition> = earlier.iter().map(|one| &one.at).collect();
    if known.is_empty() {
        return Ok(());
    }
    let live = live_brokers(client).await?;
    let topics: BTreeSet<&str> = known.iter().map(|at| at.topic.as_str()).collect();
    let topics = client.describe_topics(Some(&topics.into_iter().collect::<Vec<_>>())).await?;
    let (led, _) = partitions_of(topics, BTreeMap::new(), &BTreeMap::new())?;
    let is_awaited = |one: &Reassignment| known.contains(&one.at) && may_end(one, &live, &led);
    await_reassignments(client, "reassignments of before", is_awaited).await
}

/// Whether a reassignment goes on: its new replicas have a leader to copy from, and live.
fn may_end(one: &Reassignment, live: &BTreeSet<BrokerId>, led: &Led) -> bool {
    led.contains_key(&one.at) && one.adding.iter().all(|taker| live.contains(taker))
}

/// The partitions that nobody leads now, and since when.
#[derive(Default)]
struct Leaderless(BTreeMap<TopicPartition, Instant>);

impl Leaderless {
    async fn look(&mut self, client: &Client, among: &BTreeSet<TopicPartition>) -> Result<()> {
        let topics: BTreeSet<&str> = among.iter().map(|at| at.topic.as_str()).collect();
        let topics = client.describe_topics(Some(&topics.into_iter().collect::<Vec<_>>())).await?;
        let (_, leaderless) = partitions_of(topics, BTreeMap::new(), &BTreeMap::new())?;
        self.seen(leaderless.into_keys().filter(|at| among.contains(at)).collect(), Instant::now());
        Ok(())
    }

    fn seen(&mut self, leaderless: BTreeSet<TopicPartition>, now: Instant) {
        self.0.retain(|at, _| leaderless.contains(at));
        for at in leaderless {
            self.0.entry(at).or_insert(now);
        }
    }

    /// Those that are not waited for any more.
    fn for_long(&self, now: Instant) -> BTreeSet<TopicPartition> {
        let long = self.0.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= LEADERLESS_MAX);
        long.map(|(at, _)| at.clone()).collect()
    }
}

/// There is nothing to move: what an earlier run has left comes to its end.
pub async fn finish_earlier(client: &Client, pace: Pace) -> Result<()> {
    let earlier = client.list_partition_reassignments(None).await?;
    if !earlier.is_empty() {
        under_throttle(client, pace, &earlier, &[], await_earlier(client, &earlier)).await?;
    }
    end_throttles(client, pace).await
}

/// Under the throttle of this run, also for what an earlier one has left; it is removed at the end.
async fn under_throttle(
    client: &Client,
    pace: Pace,
    earlier: &[Reassignment],
    moves: &[PlannedMove<TopicPartition>],
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let Some(rate) = pace.throttle else {
        if pace.owns_throttles {
            let throttled = throttled_brokers(client).await?;
            replication_throttles::clear(client, Removed::OfReplication, &throttled, []).await?;
        }
        return work.await;
    };
    let targets = moves.iter().map(|one| (one.partition.clone(), one.to.clone())).collect();
    let current = moves.iter().map(|one| (one.partition.clone(), one.from.clone())).collect();
    let done = match replication_throttles::set(client, earlier, &targets, &current, rate).await {
        Ok(()) => work.await,
        Err(error) => Err(error.into()),
    };
    // Also after a failure: nobody would think of them.
    let moved = moves.iter().map(|one| &one.partition).chain(earlier.iter().map(|one| &one.at));
    let cleared = clear_throttles(client, &moved.map(|at| at.topic.as_str()).collect()).await;
    done.and(cleared)
}

/// Throttles that an earlier run left because it was ended in the middle: nobody would think of them.
async fn end_throttles(client: &Client, pace: Pace) -> Result<()> {
    let throttled = throttled_brokers(client).await?;
    if throttled.is_empty() || !client.list_partition_reassignments(None).await?.is_empty() {
        return Ok(());
    }
    let brokers = throttled.iter().map(BrokerId::to_string).collect::<Vec<_>>().join(", ");
    match pace.owns_throttles {
        true => {
            replication_throttles::clear(client, Removed::OfReplication, &throttled, []).await?;
            out!("replication throttles of an earlier run are removed from brokers {brokers}");
        }
        false => out!("brokers {brokers} have replication throttles: --throttle 0 removes them"),
    }
    Ok(())
}

async fn throttled_brokers(client: &Client) -> Result<BTreeSet<BrokerId>> {
    let mut throttled = BTreeSet::new();
    for broker in live_brokers(client).await? {
        let entries = client.describe_configs(&ConfigResource::Broker(broker)).await?;
        if replication_throttles::is_throttled(&entries) {
            throttled.insert(broker);
        }
    }
    Ok(throttled)
}

async fn live_brokers(client: &Client) -> Result<BTreeSet<BrokerId>> {
    Ok(client.describe_cluster().await?.brokers.iter().map(|broker| broker.address.id).collect())
}

async fn is_registered(client: &Client, broker: BrokerId) -> Result<bool> {
    let cluster = client.describe_cluster_with_fenced().await?;
    Ok(cluster.brokers.iter().any(|one| one.address.id == broker))
}

async fn is_live(client: &Client, broker: BrokerId) -> Result<bool> {
    let cluster = client.describe_cluster_with_fenced().await?;
    Ok(cluster.brokers.iter().any(|one| one.address.id == broker && !one.is_fenced))
}

/// What a plan begins with.
pub struct Observed {
    /// Without the partitions that have no leader: nobody copies from them, and a move would wait for ever, also in the
    /// place of others.
    pub cluster: Cluster<TopicPartition>,
    /// Those, with the replicas that they have.
    pub leaderless: BTreeMap<TopicPartition, Vec<BrokerId>>,
}

impl Observed {
    /// That no partition is left that cannot leave the broker.
    fn ensure_rid_of(&self, broker: BrokerId) -> Result<()> {
        let left: Vec<_> =
            self.leaderless.iter().filter(|(_, replicas)| replicas.contains(&broker)).map(|(at, _)| at).collect();
        let Some(first) = left.first() else { return Ok(()) };
        bail!(
            "{} of broker {broker} cannot move, because no replica leads ({first}{}): start a broker that has the \
             records, elect uncleanly, or delete the topics; then run this again",
            counted(left.len(), "partition"),
            if left.len() > 1 { ", …" } else { "" }
        )
    }

    /// For a rebalance, which leaves them where they are.
    pub fn tell_of_leaderless(&self) {
        if !self.leaderless.is_empty() {
            out!("{} without a leader: no replica of them moves", counted(self.leaderless.len(), "partition"));
        }
    }
}

/// The cluster as a plan needs it: roles, racks, replicas (of a partition that is being reassigned: its target), and
/// sizes as far as live brokers tell them.
pub async fn observe(client: &Client, leaving: Option<BrokerId>) -> Result<Observed> {
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
    // One that begins or ends between the answers is in one of the two lists: the later one counts.
    let mut targets = targets_of(client.list_partition_reassignments(None).await?);
    let topics = client.describe_topics(None).await?;
    targets.extend(targets_of(client.list_partition_reassignments(None).await?));
    let (partitions, leaderless) = partitions_of(topics, targets, &sizes)?;
    Ok(Observed { cluster: Cluster { brokers, partitions }, leaderless })
}

type Led = BTreeMap<TopicPartition, BalancedPartition>;

/// The partitions that have a leader, and the replicas of those that have none.
fn partitions_of(
    topics: Vec<DescribedTopic>,
    mut targets: BTreeMap<TopicPartition, Vec<BrokerId>>,
    sizes: &BTreeMap<TopicPartition, u64>,
) -> Result<(Led, BTreeMap<TopicPartition, Vec<BrokerId>>)> {
    let (mut led, mut leaderless) = (BTreeMap::new(), BTreeMap::new());
    for topic in topics {
        match topic.error {
            ErrorCode::None => {}
            // Deleted since it was listed.
            ErrorCode::UnknownTopicOrPartition => continue,
            code => bail!("topic {}: {}", topic.name, exceptions::message(code)),
        }
        let Ok(name) = TopicName::new(&topic.name) else { continue };
        for partition in topic.partitions {
            let at = TopicPartition::new(name.clone(), partition.partition);
            let target = targets.remove(&at);
            if partition.leader == BrokerId::NONE {
                leaderless.insert(at, partition.replicas);
                continue;
            }
            let bytes = sizes.get(&at).copied().unwrap_or(0);
            led.insert(at, BalancedPartition { replicas: target.unwrap_or(partition.replicas), bytes });
        }
    }
    Ok((led, leaderless))
}

/// The replicas that partitions will have. Metadata shows those that there are now, without what waits for its turn.
fn targets_of(under_way: Vec<Reassignment>) -> BTreeMap<TopicPartition, Vec<BrokerId>> {
    let target = |one: Reassignment| {
        let stays = |broker: &BrokerId| !one.removing.contains(broker);
        (one.at, one.replicas.into_iter().filter(stays).collect())
    };
    under_way.into_iter().map(target).collect()
}

pub async fn is_cordoned(client: &Client, broker: BrokerId) -> Result<bool> {
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
    let earlier = client.list_partition_reassignments(None).await?;
    let work = async {
        move_in_waves(client, moves.clone(), pace.limits).await?;
        await_earlier(client, &earlier).await
    };
    under_throttle(client, pace, &earlier, &moves, work).await?;
    elect_preferred(client, &elect).await
}

async fn clear_throttles(client: &Client, topics: &BTreeSet<&str>) -> Result<()> {
    let live = live_brokers(client).await?;
    // One that was deleted meanwhile has no throttle any more.
    let there: BTreeSet<String> = client.describe_topics(None).await?.into_iter().map(|topic| topic.name).collect();
    let topics = topics.iter().copied().filter(|topic| there.contains(*topic));
    Ok(replication_throttles::clear(client, Removed::OfReplication, &live, topics).await?)
}

async fn move_in_waves(client: &Client, moves: Vec<PlannedMove<TopicPartition>>, limits: WaveLimits) -> Result<()> {
    let total: u64 = moves.iter().map(|one| one.bytes).sum();
    let of_all = counted(moves.len(), "partition");
    let mut execution = Execution::new(moves, limits, BrokenRules::default());
    let (mut done_bytes, mut done) = (0, 0);
    let mut progress = Progress::new(Duration::from_secs(1));
    let begun = Instant::now();
    let (mut copied, mut awaited) = (0, String::new());
    let mut sized_at = begun;
    let mut leaderless = Leaderless::default();
    while !execution.is_done() {
        begin(client, execution.next_wave()).await?;
        let listed = client.list_partition_reassignments(None).await?;
        let stuck = leaderless.for_long(Instant::now());
        let active = listed.into_iter().map(|one| one.at).filter(|at| !stuck.contains(at)).collect();
        let ended = execution.still_active(&active);
        let (left, complete): (Vec<_>, Vec<_>) = ended.into_iter().partition(|one| stuck.contains(&one.partition));
        for one in left {
            progress.clear();
            out!("{} has lost its leader: its move is not waited for", one.partition);
        }
        done += complete.len();
        done_bytes += complete.iter().map(|one| one.bytes).sum::<u64>();
        if !complete.is_empty() || sized_at.elapsed() >= SIZES_EVERY {
            let live = live_brokers(client).await?;
            copied = copied_of(client, execution.under_way(), &live).await;
            awaited = awaited_brokers(execution.under_way(), &live);
            let under_way = execution.under_way().iter().map(|one| one.partition.clone()).collect();
            leaderless.look(client, &under_way).await?;
            sized_at = Instant::now();
        }
        let now = (done_bytes + copied).min(total);
        let left = time_left(begun.elapsed(), now, total);
        progress.show(&format!("{done} of {of_all}, {} of {}{left}{awaited}", bytes(now), bytes(total)));
        if !execution.under_way().is_empty() {
            tokio::time::sleep(POLL).await;
        }
    }
    progress.clear();
    Ok(())
}

async fn elect_preferred(client: &Client, elect: &BTreeMap<String, Vec<PartitionId>>) -> Result<()> {
    for some in in_requests(elect, ELECTED_AT_ONCE) {
        for one in client.elect_leaders(ElectionType::Preferred, Some(&some), ADMIN_TIMEOUT).await? {
            // A topic may have been deleted meanwhile.
            let is_fine = matches!(
                one.error,
                ErrorCode::None | ErrorCode::ElectionNotNeeded | ErrorCode::UnknownTopicOrPartition
            );
            if !is_fine {
                let why = one.message.unwrap_or_else(|| exceptions::message(one.error));
                out!("{}-{} keeps its leader: {why}", one.topic, one.partition);
            }
        }
    }
    Ok(())
}

/// The same partitions, at most so many together.
fn in_requests(
    partitions: &BTreeMap<String, Vec<PartitionId>>,
    most: usize,
) -> Vec<BTreeMap<String, Vec<PartitionId>>> {
    let all: Vec<_> = partitions.iter().flat_map(|(topic, of)| of.iter().map(move |one| (topic, *one))).collect();
    let request = |some: &[(&String, PartitionId)]| {
        let mut request: BTreeMap<String, Vec<PartitionId>> = BTreeMap::new();
        for (topic, partition) in some {
            request.entry((*topic).clone()).or_default().push(*partition);
        }
        request
    };
    all.chunks(most).map(request).collect()
}

/// Whether the partition is another one than the plan knows: its topic is gone, and has nothing to move, or it has more
/// replicas now (an internal topic grows as brokers join), and is the next plan's.
fn is_outdated(refused: ErrorCode) -> bool {
    matches!(refused, ErrorCode::UnknownTopicOrPartition | ErrorCode::InvalidReplicationFactor)
}

async fn begin(client: &Client, wave: &[PlannedMove<TopicPartition>]) -> Result<()> {
    if wave.is_empty() {
        return Ok(());
    }
    let targets = wave.iter().map(|one| (one.partition.clone(), Some(one.to.clone()))).collect();
    let refused = client.alter_partition_reassignments(&targets, false, ADMIN_TIMEOUT).await?;
    if let Some(one) = refused.into_iter().find(|one| !is_outdated(one.error)) {
        let why = one.message.unwrap_or_else(|| exceptions::message(one.error));
        bail!("{} cannot move: {why}", one.at);
    }
    Ok(())
}

/// The bytes that the new replicas of the moves under way have got. One that is down copies nothing now, and is not
/// asked: the question would wait for it, and the next wave for the question.
async fn copied_of(client: &Client, under_way: &[PlannedMove<TopicPartition>], live: &BTreeSet<BrokerId>) -> u64 {
    let takers: BTreeSet<BrokerId> = under_way.iter().flat_map(PlannedMove::added).collect();
    let mut copied = 0;
    for taker in takers.intersection(live) {
        let Ok(sizes) = sizes_on(client, *taker).await else { continue };
        for one in under_way.iter().filter(|one| one.added().any(|broker| broker == *taker)) {
            copied += sizes.get(&one.partition).copied().unwrap_or(0);
        }
    }
    copied
}

fn awaited_brokers(under_way: &[PlannedMove<TopicPartition>], live: &BTreeSet<BrokerId>) -> String {
    down_among(&under_way.iter().flat_map(PlannedMove::added).collect(), live)
}

/// For the line of progress: brokers that are to get replicas, and are down.
fn down_among(takers: &BTreeSet<BrokerId>, live: &BTreeSet<BrokerId>) -> String {
    let down: Vec<_> = takers.difference(live).map(BrokerId::to_string).collect();
    match down.is_empty() {
        true => String::new(),
        false => format!(", waits for brokers that are down: {}", down.join(", ")),
    }
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
    use ottla_client::DescribedPartition;
    use ottla_model::{LeaderEpoch, TopicId};

    use super::*;
    use crate::sample_partitions::{at, brokers as ids};

    #[test]
    fn sizes_and_times_are_told() {
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!(time_left(Duration::from_secs(10), 25, 100), ", about 30 s left");
        assert_eq!([time_left(Duration::from_secs(1), 0, 9), time_left(Duration::from_secs(1), 9, 9)], ["", ""]);
    }

    /// Of one that waited for its turn the plan knew only the replicas that stay: it was refused as a change of the
    /// replication factor, and a drain that was started again ended there.
    #[test]
    fn a_plan_begins_with_the_targets_of_what_is_under_way_or_waits() {
        let one = |partition, replicas: &[i32], adding: &[i32], removing: &[i32]| Reassignment {
            at: at("t", partition),
            replicas: ids(replicas),
            adding: ids(adding),
            removing: ids(removing),
        };
        let under_way = vec![one(0, &[4, 2, 3, 1], &[4], &[1]), one(1, &[1, 2, 3], &[3], &[])];
        let expected = BTreeMap::from([(at("t", 0), ids(&[4, 2, 3])), (at("t", 1), ids(&[1, 2, 3]))]);
        assert_eq!(targets_of(under_way), expected);
    }

    /// A broker that was lost with the only replica of a partition was never decommissioned: the tool waited for ever,
    /// and where there were many, nothing else moved.
    #[test]
    fn partitions_without_a_leader_are_not_moved_and_are_told() {
        let partition = |id, leader, replicas: &[i32]| DescribedPartition {
            partition: PartitionId(id),
            error: ErrorCode::None,
            leader: BrokerId(leader),
            leader_epoch: LeaderEpoch(0),
            replicas: ids(replicas),
            isr: ids(replicas),
            offline_replicas: Vec::new(),
            elr: None,
            last_known_elr: None,
        };
        let topic = DescribedTopic {
            name: "t".to_owned(),
            id: TopicId::ZERO,
            error: ErrorCode::None,
            is_internal: false,
            partitions: vec![partition(0, 2, &[1, 2]), partition(1, -1, &[1]), partition(2, 2, &[2])],
        };
        let (targets, sizes) = (BTreeMap::from([(at("t", 0), ids(&[3, 2]))]), BTreeMap::from([(at("t", 2), 9)]));
        let (partitions, leaderless) = partitions_of(vec![topic], targets, &sizes).expect("topics without errors");
        let expected = [(at("t", 0), ids(&[3, 2]), 0), (at("t", 2), ids(&[2]), 9)]
            .map(|(at, replicas, bytes)| (at, BalancedPartition { replicas, bytes }));
        assert_eq!(partitions, BTreeMap::from(expected));
        // What was begun before it lost its leader does not end: it is not waited for either.
        let begun = |partition, adding: &[i32]| Reassignment {
            at: at("t", partition),
            replicas: ids(&[1, 2, 3]),
            adding: ids(adding),
            removing: ids(&[1]),
        };
        let live = BTreeSet::from([BrokerId(2), BrokerId(3)]);
        let ends = [begun(0, &[3]), begun(1, &[3]), begun(2, &[4])].map(|one| may_end(&one, &live, &partitions));
        assert_eq!(ends, [true, false, false]);
        let observed = Observed { cluster: Cluster { brokers: Vec::new(), partitions }, leaderless };
        let refused = observed.ensure_rid_of(BrokerId(1)).expect_err("it has the only replica").to_string();
        assert!(refused.starts_with("1 partition of broker 1 cannot move") && refused.contains("(t-1)"), "{refused}");
        assert!(observed.ensure_rid_of(BrokerId(2)).is_ok());
    }

    /// One that lost its only replica while it moved was waited for without an end, in the place of others.
    #[test]
    fn a_partition_without_a_leader_is_waited_for_as_long_as_a_restart_takes() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let some = |partitions: &[i32]| partitions.iter().map(|one| at("t", *one)).collect::<BTreeSet<_>>();
        let mut leaderless = Leaderless::default();
        leaderless.seen(some(&[0, 1]), after(0));
        leaderless.seen(some(&[0]), after(30));
        leaderless.seen(some(&[0, 1]), after(40));
        let expected = [(59, &[][..]), (60, &[0]), (99, &[0]), (100, &[0, 1])];
        for (seconds, partitions) in expected {
            assert_eq!(leaderless.for_long(after(seconds)), some(partitions), "{seconds} s");
        }
    }

    /// The cluster refuses a request with more than 10,000 partitions, and every leader stayed where it was.
    #[test]
    fn elections_of_many_partitions_are_several_requests() {
        let ids = |numbers: &[i32]| numbers.iter().copied().map(PartitionId).collect::<Vec<_>>();
        let all = BTreeMap::from([("a".to_owned(), ids(&[0, 1, 2])), ("b".to_owned(), ids(&[0, 5]))]);
        let expected = [
            BTreeMap::from([("a".to_owned(), ids(&[0, 1]))]),
            BTreeMap::from([("a".to_owned(), ids(&[2])), ("b".to_owned(), ids(&[0]))]),
            BTreeMap::from([("b".to_owned(), ids(&[5]))]),
        ];
        assert_eq!(in_requests(&all, 2), expected);
    }

    #[test]
    fn brokers_that_a_wave_waits_for_are_named() {
        let one = |to: &[i32]| PlannedMove { partition: at("t", 0), from: ids(&[1, 2]), to: ids(to), bytes: 1 };
        let live = ids(&[1, 2, 3]).into_iter().collect();
        assert_eq!(awaited_brokers(&[one(&[3, 2])], &live), "");
        assert_eq!(awaited_brokers(&[one(&[3, 2]), one(&[5, 4])], &live), ", waits for brokers that are down: 4, 5");
    }

    /// A drain that waited for a reassignment of before to a lost broker did not say so: to decommission that one ends
    /// it.
    #[test]
    fn brokers_that_reassignments_wait_for_are_named() {
        let one = |adding: &[i32]| Reassignment {
            at: at("t", 0),
            replicas: ids(&[5, 3, 2]),
            adding: ids(adding),
            removing: ids(&[2]),
        };
        let (first, second, live) = (one(&[5]), one(&[3]), ids(&[2, 3]).into_iter().collect());
        let line = awaited_line(&[&first, &second], "moves", &live);
        assert_eq!(line, "2 moves are under way, waits for brokers that are down: 5");
        assert_eq!(awaited_line(&[&second], "moves", &live), "1 moves are under way");
    }

    #[test]
    fn a_partition_that_has_grown_since_the_plan_ends_no_drain() {
        let outdated = [ErrorCode::InvalidReplicationFactor, ErrorCode::UnknownTopicOrPartition];
        assert!(outdated.into_iter().all(is_outdated));
        assert!(!is_outdated(ErrorCode::InvalidReplicaAssignment));
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
