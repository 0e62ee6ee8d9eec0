//! What an operator does on the days after the first, each step under a producer with acks=all on every partition and
//! a group that reads. No record may be missing, twice or out of order. Standard error shows how long the longest
//! stall of a partition was in each step; no test asserts a time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_chaos::{
    Longest, Report, SteadyGroup, SteadyProducer, Wrong, led_by_others, wait_for_preferred_leaders, wait_in_sync,
};
use ottla_e2e::quorum::{addresses, change_members, create_topics, leader, members, quorum};
use ottla_e2e::{Access, Cluster, ClusterOptions, Node, clients, wait};
use rustix::process::Signal;

const TOPIC: &str = "moved";
const PARTITIONS: u32 = 500;
/// A record to each of the 500 partitions in this time: 2,500 a second, which leaves the most part of two cores to the
/// cluster.
const PAUSE_S: f64 = 0.2;
/// Its partitions begin with one replica.
const GROWING: &str = "growing";
const GROWING_PARTITIONS: u32 = 12;
const GROWING_PAUSE_S: f64 = 0.05;
/// Time of writing after each step, which counts for it.
const CALM: Duration = Duration::from_secs(2);
const RECORD_BYTES: u64 = 10_000;

/// MiB of records, before replication, that `moved` holds when its replicas move: OTTLA_OPERATIONS_MIB.
fn size_mib() -> Result<u64> {
    match std::env::var("OTTLA_OPERATIONS_MIB") {
        Ok(text) => text.parse().with_context(|| format!("OTTLA_OPERATIONS_MIB={text}")),
        Err(_) => Ok(70),
    }
}

/// Runs a tool that may take as long as it needs to move data; its last line.
fn long_tool(at: &Access, arguments: &[&str]) -> Result<String> {
    let mut command = at.tool("ottla", arguments)?;
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{arguments:?}: {text}");
    Ok(text.lines().last().unwrap_or_default().to_owned())
}

fn access(cluster: &Cluster) -> Access {
    Access::plaintext(cluster.bootstrap())
}

/// One step of the operator, as the clients saw it.
struct Step {
    name: String,
    took: Duration,
    producer: Longest,
    group: Longest,
    /// The longest call of an admin client that was busy meanwhile.
    call: Option<Duration>,
}

/// Clients that write and read while steps are taken.
struct Load {
    producers: Vec<SteadyProducer>,
    group: SteadyGroup,
    steps: Vec<Step>,
}

impl Load {
    fn start(at: &Access, topics: &[(&str, u32, f64)]) -> Result<Self> {
        let names: Vec<&str> = topics.iter().map(|(name, ..)| *name).collect();
        let group = SteadyGroup::start(at, "readers", 2, &names)?;
        let producers = topics
            .iter()
            .map(|(name, partitions, pause_s)| SteadyProducer::start_paced(at, name, *partitions, *pause_s))
            .collect::<Result<_>>()?;
        let mut load = Self { producers, group, steps: Vec::new() };
        // Connections are made, and all partitions have been read.
        sleep(CALM);
        load.producers.iter_mut().try_for_each(|producer| producer.end_period().map(drop))?;
        load.group.end_period()?;
        load.step("nothing", || {
            sleep(CALM);
            Ok(None)
        })?;
        Ok(load)
    }

    /// Takes a step, and tells what the clients saw of it. It may return the longest call of an admin client.
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Option<Duration>>) -> Result<()> {
        let began = Instant::now();
        let call = work().with_context(|| name.to_owned())?;
        let took = began.elapsed();
        sleep(CALM);
        let longest = self.producers.iter_mut().map(SteadyProducer::end_period).collect::<Result<Vec<_>>>()?;
        let producer = longest.into_iter().max_by(|one, other| one.seconds.total_cmp(&other.seconds));
        let group = self.group.end_period()?;
        let step = Step { name: name.to_owned(), took, producer: producer.context("a producer")?, group, call };
        report(&format!(
            "{name}: {:.1} s; the longest wait for an acknowledgement {:.2} s ({}), for the group {:.2} s ({})",
            took.as_secs_f64(),
            step.producer.seconds,
            step.producer.partition,
            step.group.seconds,
            step.group.partition
        ));
        self.steps.push(step);
        Ok(())
    }

    /// Stops the clients, shows the table, and checks.
    fn finish(self) -> Result<()> {
        let reports = self.producers.into_iter().map(SteadyProducer::finish).collect::<Result<Vec<Report>>>()?;
        let delivered = self.group.finish()?;
        let mut table = "| step | took | producer | group | admin call | missing, twice, out of order |\n".to_owned();
        table += "|---|---|---|---|---|---|\n";
        // The first period is the start of the clients, which is no step.
        for (number, step) in self.steps.iter().enumerate() {
            let of_step = reports.iter().filter_map(|report| report.periods.get(number + 1));
            let wrong = of_step.fold(Wrong::default(), |sum, wrong| sum + *wrong);
            let call = step.call.map_or("–".to_owned(), |call| format!("{:.2} s", call.as_secs_f64()));
            let Step { name, took, producer, group, .. } = step;
            let (took, producer, group) = (took.as_secs_f64(), producer.seconds, group.seconds);
            let Wrong { missing, duplicates, out_of_order } = wrong;
            writeln!(
                table,
                "| {name} | {took:.1} s | {producer:.2} s | {group:.2} s | {call} | {missing}, {duplicates}, \
                 {out_of_order} |"
            )?;
        }
        report(&format!("the clients saw\n{table}{delivered:?}"));
        reports.iter().try_for_each(Report::check)?;
        delivered.check()
    }
}

/// Not with `eprintln!`, which is shown only of tests that fail.
fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "operations: {line}");
}

/// Replicas for each partition: three of the brokers, in turn.
fn in_turn(brokers: &[i32], partitions: u32, replicas: usize) -> Result<Vec<Vec<i32>>> {
    let of_partition = |partition: u32| -> Result<Vec<i32>> {
        let from = usize::try_from(partition)?;
        (0..replicas).map(|place| brokers.get((from + place) % brokers.len()).copied().context("a broker")).collect()
    };
    (0..partitions).map(of_partition).collect()
}

fn joined(ids: &[i32], between: &str) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

fn create(at: &Access, topic: &str, replicas: &[Vec<i32>], min_insync_replicas: u32) -> Result<()> {
    let assignment = replicas.iter().map(|ids| joined(ids, ":")).collect::<Vec<_>>().join(",");
    let config = format!("min.insync.replicas={min_insync_replicas}");
    let arguments = ["--create", "--topic", topic, "--replica-assignment", &assignment, "--config", &config];
    at.run_tool("kafka-topics", &arguments).map(drop)
}

/// Gives the partitions of a topic these replicas; returns when they have them.
fn reassign(cluster: &Cluster, topic: &str, targets: &[Vec<i32>]) -> Result<()> {
    let at = access(cluster);
    let entry = |(partition, replicas): (usize, &Vec<i32>)| {
        format!(r#"{{"topic":"{topic}","partition":{partition},"replicas":{replicas:?}}}"#)
    };
    let entries: Vec<_> = targets.iter().enumerate().map(entry).collect();
    let path = cluster.folder().join(format!("{topic}.json"));
    std::fs::write(&path, format!(r#"{{"version":1,"partitions":[{}]}}"#, entries.join(",")))?;
    let path = path.display().to_string();
    at.run_tool("kafka-reassign-partitions", &["--execute", "--reassignment-json-file", &path])?;
    // A large one takes longer than a test waits for a state: as long as fewer are under way than before, it goes on.
    let mut under_way = usize::MAX;
    while under_way > 0 {
        under_way = wait::until_ok("the reassignment goes on", || {
            let out = at.run_tool("kafka-reassign-partitions", &["--list"])?;
            let left = out.lines().filter(|line| line.contains(": replicas: ")).count();
            ensure!(left == 0 || left < under_way, "{left} partitions are under way");
            Ok(left)
        })?;
    }
    Ok(())
}

/// As an operator does it: the next step only when all replicas are in sync.
fn restart_cleanly(cluster: &mut Cluster, node: Node) -> Result<()> {
    cluster.signal(node, Signal::TERM)?;
    let status = cluster.wait(node)?;
    ensure!(status.success(), "SIGTERM ends {node} with 0, not {status}");
    cluster.spawn(node)?;
    match node {
        Node::Broker(_) => {
            cluster.wait_ready()?;
            wait_in_sync(&access(cluster))
        }
        Node::Coordinator(id) => {
            let address = cluster.coordinator_address(id);
            wait::until_ok("the coordinator has caught up", || {
                let known = members(&address)?;
                let own = known.get(&id).with_context(|| format!("{known:?}"))?;
                ensure!(!own.contains("silent"), "{own}");
                Ok(())
            })
        }
    }
}

/// Brokers in turn, then coordinators.
fn restart_all(cluster: &mut Cluster, load: &mut Load, name: &str, brokers: &[i32]) -> Result<()> {
    restart_brokers(cluster, load, name, brokers)?;
    restart_coordinators(cluster, load, name)
}

fn restart_brokers(cluster: &mut Cluster, load: &mut Load, name: &str, brokers: &[i32]) -> Result<()> {
    load.step(&format!("{name}: {} brokers", brokers.len()), || {
        for id in brokers {
            restart_cleanly(cluster, Node::Broker(*id))?;
        }
        let done = Instant::now();
        let at = access(cluster);
        wait_for_preferred_leaders(&at)?;
        report(&format!("leaders balanced {:.2} s after the last broker was in sync", done.elapsed().as_secs_f64()));
        Ok(None)
    })
}

fn restart_coordinators(cluster: &mut Cluster, load: &mut Load, name: &str) -> Result<()> {
    load.step(&format!("{name}: three coordinators"), || {
        let at = addresses(cluster, &[1, 2, 3]);
        for id in 1..=3 {
            if leader(&at)? == id {
                quorum(&at, &["transfer"])?;
            }
            restart_cleanly(cluster, Node::Coordinator(id))?;
        }
        Ok(None)
    })
}

/// Starts a drain, stops the broker when it is empty, and waits until it is unregistered.
fn drain(cluster: &mut Cluster, id: i32) -> Result<()> {
    let at = access(cluster);
    let arguments = ["broker", "drain", &id.to_string()];
    let mut command = at.tool("ottla", &arguments)?;
    let mut drain = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(drain.stdout.take().context("its output")?).lines();
    let is_empty = |line: &String| line.ends_with("stop it; it is unregistered then");
    ensure!(lines.by_ref().map_while(Result::ok).any(|line| is_empty(&line)), "the drain ended too early");
    cluster.signal(Node::Broker(id), Signal::TERM)?;
    cluster.wait(Node::Broker(id))?;
    let last = lines.last().transpose()?;
    ensure!(drain.wait()?.success() && last == Some(format!("broker {id} is unregistered")), "{last:?}");
    Ok(())
}

/// Three of five brokers run, and `moved` and `growing` are there, filled.
fn three_of_five(mib: u64) -> Result<Cluster> {
    let options = ClusterOptions { brokers: 5, ..ClusterOptions::default() };
    let mut cluster = Cluster::prepare(&options)?;
    for node in cluster.nodes() {
        if !matches!(node, Node::Broker(4 | 5)) {
            cluster.spawn(node)?;
        }
    }
    cluster.wait_ready()?;
    let at = access(&cluster);
    create(&at, TOPIC, &in_turn(&[1, 2, 3], PARTITIONS, 3)?, 2)?;
    create(&at, GROWING, &in_turn(&[1, 2, 3], GROWING_PARTITIONS, 1)?, 1)?;
    let (records, size) = ((mib << 20) / RECORD_BYTES, RECORD_BYTES.to_string());
    let mut fill = at.tool(
        "kafka-producer-perf-test",
        &["--topic", TOPIC, "--num-records", &records.to_string(), "--record-size", &size, "--throughput", "-1"],
    )?;
    // Bounded by the records, not by a time: 10 GB take minutes.
    let filled = fill.args(["--command-property", "acks=all"]).stdout(Stdio::null()).status()?;
    ensure!(filled.success(), "{records} records were not written: {filled}");
    wait_in_sync(&at)?;
    Ok(cluster)
}

#[test]
fn an_operators_work_costs_clients_nothing() -> Result<()> {
    let mib = size_mib()?;
    let mut cluster = three_of_five(mib)?;
    let at = access(&cluster);
    let topics = [(TOPIC, PARTITIONS, PAUSE_S), (GROWING, GROWING_PARTITIONS, GROWING_PAUSE_S)];
    let mut load = Load::start(&at, &topics)?;

    load.step("RF 1→3→2 of 12 partitions", || {
        for replicas in [3, 2] {
            reassign(&cluster, GROWING, &in_turn(&[2, 3, 1], GROWING_PARTITIONS, replicas)?)?;
        }
        Ok(None)
    })?;
    // A broker whose leaderships return only on demand.
    cluster.set_variable(Node::Broker(1), "KAFKA_AUTO_LEADER_REBALANCE_ENABLE", "false")?;
    load.step("a broker is stopped and started", || restart_cleanly(&mut cluster, Node::Broker(1)).map(|()| None))?;
    let elections = led_by_others(&at)?;
    ensure!(elections > 100, "{elections} partitions of broker 1 are led by others");
    load.step(&format!("{elections} preferred elections"), || {
        let began = Instant::now();
        at.run_tool("kafka-leader-election", &["--election-type", "preferred", "--all-topic-partitions"])?;
        report(&format!("the tool's call took {:.2} s", began.elapsed().as_secs_f64()));
        wait_for_preferred_leaders(&at)?;
        Ok(None)
    })?;
    cluster.set_variable(Node::Broker(1), "KAFKA_AUTO_LEADER_REBALANCE_ENABLE", "true")?;
    load.step("two brokers join and take their shares", || {
        cluster.spawn(Node::Broker(4))?;
        cluster.spawn(Node::Broker(5))?;
        cluster.wait_ready()?;
        let last = long_tool(&at, &["rebalance", "plan", "--execute"])?;
        ensure!(last == "all brokers hold their shares", "{last}");
        Ok(None)
    })?;
    load.step(&format!("{PARTITIONS} partitions with {mib} MiB get other replicas"), || {
        // Backwards: partition 0 has [5, 4, 3], most replicas are new ones.
        reassign(&cluster, TOPIC, &in_turn(&[5, 4, 3, 2, 1], PARTITIONS, 3)?)?;
        Ok(None)
    })?;
    load.step("a broker is drained and leaves", || drain(&mut cluster, 5).map(|()| None))?;
    restart_all(&mut cluster, &mut load, "rolling restart", &[1, 2, 3, 4])?;
    load.step("quorum 3→4→3, a lost disk replaced", || {
        let (is_stopped, made) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| create_topics(&at.bootstrap, &is_stopped, &made));
            let story = change_members(&mut cluster, &is_stopped, &made);
            is_stopped.store(true, Ordering::Relaxed);
            let longest = writer.join().map_err(|_| anyhow::anyhow!("the admin client panicked"))?;
            longest.and_then(|longest| story.map(|()| Some(longest)))
        })
    })?;
    load.finish()
}

/// The feature whose level the releases of a cluster agree upon.
const FEATURE: &str = "ottla.version";
/// From here on a cluster may have what [`subscribe`] asks for.
const SUBSCRIPTIONS_FROM: i16 = 2;

/// The levels of [`FEATURE`] that the brokers' release works at, and the one in force. Brokers of the first releases
/// name none: they are at the first.
struct Levels {
    supported_max: i16,
    finalized: i16,
}

fn levels(at: &Access) -> Result<Levels> {
    let out = at.run_tool("kafka-features", &["describe"])?;
    let Some(line) = out.lines().find(|line| line.contains(FEATURE)) else {
        ensure!(out.contains("metadata.version"), "{out}");
        return Ok(Levels { supported_max: 1, finalized: 1 });
    };
    let level = |name: &str| -> Result<i16> {
        let (_, rest) = line.split_once(name).with_context(|| line.to_owned())?;
        let text = rest.split_whitespace().next().unwrap_or_default();
        text.parse().with_context(|| line.to_owned())
    };
    Ok(Levels { supported_max: level("SupportedMaxVersion:")?, finalized: level("FinalizedVersionLevel:")? })
}

fn raise_level(at: &Access, level: i16) -> Result<String> {
    at.run_tool("kafka-features", &["upgrade", "--feature", &format!("{FEATURE}={level}")])
}

/// What belongs to [`SUBSCRIPTIONS_FROM`].
fn subscribe(at: &Access) -> Result<String> {
    let subscription = ["--entity-type", "client-metrics", "--entity-name", "all", "--alter"];
    at.run_tool("kafka-configs", &[&subscription[..], &["--add-config", "interval.ms=60000"]].concat())
}

/// What both releases read, although only the newer one writes all of its fields.
fn alter_topic(at: &Access, retention_ms: &str) -> Result<()> {
    let topic = ["--entity-type", "topics", "--entity-name", TOPIC];
    let config = format!("retention.ms={retention_ms}");
    at.run_tool("kafka-configs", &[&topic[..], &["--alter", "--add-config", &config]].concat())?;
    wait::until_ok("every release reads the configuration", || {
        let out = at.run_tool("kafka-configs", &[&topic[..], &["--describe"]].concat())?;
        ensure!(out.contains(&config) && out.contains("min.insync.replicas=2"), "{out}");
        Ok(())
    })
}

/// A process of the older release is refused where the level was finalized, says why or is told of by others, and costs
/// clients nothing; then it is of the newer release again.
fn start_older(cluster: &mut Cluster, (older, newer): (&Path, &Path), level: i16) -> Result<()> {
    let broker = Node::Broker(3);
    cluster.use_binaries_of(broker, older)?;
    cluster.signal(broker, Signal::TERM)?;
    cluster.wait(broker)?;
    cluster.spawn(broker)?;
    let status = cluster.wait(broker)?;
    let log = cluster.log_text(broker)?;
    let why = format!("the broker does not support finalized version {level} of {FEATURE}");
    ensure!(!status.success() && log.contains(&why), "{status}: {log}");
    cluster.use_binaries_of(broker, newer)?;
    cluster.spawn(broker)?;
    cluster.wait_ready()?;
    wait_in_sync(&access(cluster))?;

    let at = addresses(cluster, &[1, 2, 3]);
    if leader(&at)? == 3 {
        quorum(&at, &["transfer"])?;
    }
    let coordinator = Node::Coordinator(3);
    cluster.use_binaries_of(coordinator, older)?;
    cluster.signal(coordinator, Signal::TERM)?;
    cluster.wait(coordinator)?;
    cluster.spawn(coordinator)?;
    let of_cluster = format!(", this cluster at {level}");
    wait::until_ok("the others tell why they do not listen to the coordinator", || {
        let log = cluster.log_text(Node::Coordinator(1))?;
        let is_told = |line: &str| line.contains("works at ottla.version 1-") && line.contains(&of_cluster);
        ensure!(log.contains("coordinator 3 at") && log.lines().any(is_told));
        Ok(())
    })?;
    ensure!(leader(&addresses(cluster, &[1, 2]))? != 3, "it does not lead");
    cluster.use_binaries_of(coordinator, newer)?;
    restart_cleanly(cluster, coordinator)
}

/// A cluster of an older release becomes this one, process by process, goes back, for nothing was finalized meanwhile,
/// becomes this one again, and is finalized where this release works at a level that the older one does not know.
#[test]
fn a_rolling_upgrade_costs_clients_nothing() -> Result<()> {
    let Some(older) = std::env::var_os("OTTLA_PREVIOUS_BIN_DIR").map(PathBuf::from) else {
        ottla_test_support::skipped("OTTLA_PREVIOUS_BIN_DIR names no folder with an older release's binaries");
        return Ok(());
    };
    const PARTITIONS: u32 = 60;
    let version =
        |folder: &Path| -> Result<String> { clients::run(Command::new(folder.join("ottla-broker")).arg("--version")) };
    let newer = ottla_e2e::cluster::binary("ottla-broker")?;
    let newer = newer.parent().context("a folder of binaries")?.to_owned();
    report(&format!("from {} to {}", version(&older)?.trim(), version(&newer)?.trim()));
    let mut cluster = Cluster::prepare(&ClusterOptions::default())?;
    for node in cluster.nodes() {
        cluster.use_binaries_of(node, &older)?;
        cluster.spawn(node)?;
    }
    cluster.wait_ready()?;
    let at = access(&cluster);
    let Levels { supported_max: known_to_older, finalized: first } = levels(&at)?;
    create(&at, TOPIC, &in_turn(&[1, 2, 3], PARTITIONS, 3)?, 2)?;
    let mut load = Load::start(&at, &[(TOPIC, PARTITIONS, GROWING_PAUSE_S)])?;
    for (name, folder) in [("upgrade", &newer), ("downgrade", &older), ("upgrade again", &newer)] {
        for node in cluster.nodes() {
            cluster.use_binaries_of(node, folder)?;
        }
        // All are of the older release before both upgrades.
        if *folder == newer {
            ensure!(raise_level(&at, known_to_older + 1).is_err(), "a level is finalized that processes do not know");
        }
        // Coordinators of the newer release know what brokers of it ask; brokers of the older one are known to both.
        if name == "downgrade" {
            restart_brokers(&mut cluster, &mut load, name, &[1, 2, 3])?;
            restart_coordinators(&mut cluster, &mut load, name)?;
        } else {
            restart_coordinators(&mut cluster, &mut load, name)?;
            restart_brokers(&mut cluster, &mut load, name, &[1, 2, 3])?;
            ensure!(levels(&at)?.finalized == first, "nobody has finalized a level");
            if first < SUBSCRIPTIONS_FROM {
                let refused = subscribe(&at).err().context("a subscription below its level")?;
                let why = format!("need {FEATURE} {SUBSCRIPTIONS_FROM}");
                ensure!(format!("{refused:#}").contains(&why), "{refused:#}");
            }
        }
        alter_topic(&at, if name == "downgrade" { "3600000" } else { "7200000" })?;
    }
    let newest = levels(&at)?.supported_max;
    if newest == known_to_older {
        report(&format!("both releases work at level {newest}: there is none to finalize"));
        return load.finish();
    }
    load.step(&format!("level {newest} is finalized"), || {
        raise_level(&at, newest)?;
        wait::until_ok("every broker knows the level", || {
            ensure!(levels(&at)?.finalized == newest);
            subscribe(&at).map(drop)
        })?;
        Ok(None)
    })?;
    load.step("a broker and a coordinator of the older release are refused", || {
        start_older(&mut cluster, (&older, &newer), newest).map(|()| None)
    })?;
    load.finish()
}

#[test]
fn replicas_go_round_the_brokers() -> Result<()> {
    let replicas = in_turn(&[5, 4, 3], 4, 2)?;
    ensure!(replicas == [[5, 4], [4, 3], [3, 5], [5, 4]], "{replicas:?}");
    let led: BTreeMap<i32, usize> = replicas.iter().flatten().fold(BTreeMap::new(), |mut counts, id| {
        *counts.entry(*id).or_default() += 1;
        counts
    });
    ensure!(led == BTreeMap::from([(3, 2), (4, 3), (5, 3)]), "{led:?}");
    Ok(())
}
