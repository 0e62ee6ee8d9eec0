//! Partitions get other replicas while they are written to and read.

use std::collections::BTreeMap;
use std::process::{Child, Command};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::quorum::{addresses, leader};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use rustix::process::Signal;

const RECORDS: u32 = 4_000;

fn tool(bootstrap: &str, name: &str, arguments: &[&str]) -> Result<String> {
    clients::run(&mut clients::tool(name, bootstrap, arguments)?)
}

/// A file with these replicas of the partitions 0, 1, … of a topic.
fn file(cluster: &Cluster, topic: &str, targets: &[&[i32]]) -> Result<String> {
    let entry = |(partition, replicas): (usize, &&[i32])| {
        format!(r#"{{"topic":"{topic}","partition":{partition},"replicas":{replicas:?}}}"#)
    };
    let entries: Vec<_> = targets.iter().enumerate().map(entry).collect();
    let path = cluster.folder().join(format!("{topic}-{}.json", targets.first().map_or(0, |target| target.len())));
    std::fs::write(&path, format!(r#"{{"version":1,"partitions":[{}]}}"#, entries.join(",")))?;
    Ok(path.display().to_string())
}

/// A writer that writes each number once, over some seconds.
fn writer(bootstrap: &str, topic: &str) -> Result<Child> {
    let send = format!(
        "for i in $(seq 1 {RECORDS}); do echo $i; [ $((i % 10)) = 0 ] && sleep 0.02; done | kcat -b {bootstrap} -P -t \
         {topic} -X acks=all -X enable.idempotence=true -X linger.ms=0 -X message.timeout.ms=60000"
    );
    Command::new("sh").args(["-c", &send]).spawn().context("the writer starts")
}

/// The numbers of each partition, in order.
fn read(bootstrap: &str, topic: &str) -> Result<BTreeMap<i32, Vec<u32>>> {
    let arguments = ["-b", bootstrap, "-C", "-t", topic, "-e", "-q", "-f", "%p %s\\n"];
    let out = clients::run(&mut clients::kcat(&arguments))?;
    let mut partitions: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    for line in out.lines() {
        let (partition, number) = line.split_once(' ').with_context(|| line.to_owned())?;
        partitions.entry(partition.parse()?).or_default().push(number.parse()?);
    }
    Ok(partitions)
}

fn await_completion(bootstrap: &str, path: &str, topic: &str, partitions: usize) -> Result<()> {
    let verify = ["--verify", "--reassignment-json-file", path];
    wait::until_ok("the reassignment is complete", || {
        let out = tool(bootstrap, "kafka-reassign-partitions", &verify)?;
        let done = (0..partitions).map(|number| format!("Reassignment of partition {topic}-{number} is completed.\n"));
        let lines = format!("Status of partition reassignment:\n{}\n", done.collect::<String>());
        let cleared = format!(
            "Clearing broker-level throttles on brokers 1,2,3\nClearing topic-level throttles on topic {topic}\n"
        );
        ensure!(out == lines + &cleared, "{out}");
        Ok(())
    })
}

#[test]
fn a_replication_factor_goes_up_and_down_under_a_writer() -> Result<()> {
    let cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    tool(&at, "kafka-topics", &["--create", "--topic", "moved", "--replica-assignment", "1,2,3"])?;
    cluster.settle()?;
    let mut writer = writer(&at, "moved")?;
    let up = file(&cluster, "moved", &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]])?;
    let out = tool(&at, "kafka-reassign-partitions", &["--execute", "--reassignment-json-file", &up])?;
    ensure!(out.ends_with("Successfully started partition reassignments for moved-0,moved-1,moved-2\n"), "{out}");
    let folder = cluster.data_folder(Node::Broker(1))?.display().to_string();
    let first = format!(r#"{{"topic":"moved","partition":0,"replicas":[1],"log_dirs":["{folder}"]}},"#);
    let before = format!(r#"Current partition replica assignment{}{{"version":1,"partitions":[{first}"#, "\n\n");
    ensure!(out.starts_with(&before), "{out}");
    await_completion(&at, &up, "moved", 3)?;
    cluster.settle()?;
    let down = file(&cluster, "moved", &[&[2, 3], &[3, 1], &[1, 2]])?;
    tool(&at, "kafka-reassign-partitions", &["--execute", "--reassignment-json-file", &down])?;
    await_completion(&at, &down, "moved", 3)?;
    cluster.settle()?;
    let none = tool(&at, "kafka-reassign-partitions", &["--list"])?;
    ensure!(none == "No partition reassignments found.\n", "{none}");
    for (broker, gone) in [(1, "moved-0"), (2, "moved-1"), (3, "moved-2")] {
        let folder = cluster.data_folder(Node::Broker(broker))?;
        wait::until_ok("the log of a replica that was moved away is deleted", || {
            let names: Vec<_> = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.file_name()).collect();
            ensure!(!names.iter().any(|name| name.to_string_lossy().starts_with(gone)), "{names:?}");
            Ok(())
        })?;
    }
    ensure!(writer.wait()?.success(), "a record was not acknowledged");
    let partitions = read(&at, "moved")?;
    let mut all: Vec<u32> = partitions.values().flatten().copied().collect();
    ensure!(partitions.values().all(|numbers| numbers.is_sorted()), "out of order");
    all.sort_unstable();
    ensure!(all == (1..=RECORDS).collect::<Vec<_>>(), "{} records", all.len());
    Ok(())
}

/// Broker 3 stands still: what it is to take waits, and is cancelled.
#[test]
fn a_reassignment_that_cannot_go_on_is_cancelled() -> Result<()> {
    let mut cluster = Cluster::prepare(&ClusterOptions::default())?;
    for node in cluster.nodes().into_iter().filter(|node| *node != Node::Broker(3)) {
        cluster.spawn(node)?;
    }
    // Tools ask the controller, which is the first broker that registers: not the one that stops.
    wait::until_ok("broker 1 lives", || {
        let ids = clients::broker_ids(cluster.broker_address(1))?;
        ensure!(ids.contains(&1) || ids.contains(&2), "{ids:?}");
        Ok(())
    })?;
    cluster.spawn(Node::Broker(3))?;
    cluster.wait_ready()?;
    let at = cluster.bootstrap();
    tool(&at, "kafka-topics", &["--create", "--topic", "kept", "--replica-assignment", "1:2"])?;
    cluster.settle()?;
    let target = file(&cluster, "kept", &[&[3, 1]])?;
    let execute = ["--execute", "--reassignment-json-file", &target];
    cluster.signal(Node::Broker(3), Signal::STOP)?;
    // A tool that asked broker 3 first would wait until it is fenced, and it could not be named any more.
    let live = format!("{},{}", cluster.broker_address(1), cluster.broker_address(2));
    tool(&live, "kafka-reassign-partitions", &execute)?;
    let listed = "Current partition reassignments:\nkept-0: replicas: 3,1,2. adding: 3. removing: 2.\n";
    wait::until_ok("another broker knows of it", || {
        let out = tool(&at, "kafka-reassign-partitions", &["--list"])?;
        ensure!(out == listed, "{out}");
        Ok(())
    })?;
    // Java's client waits for a broker that accepts connections and does not answer as long as for the whole call: it
    // must neither begin with broker 3 nor be told that broker 3 is the controller.
    wait::until_ok("broker 3 is fenced", || {
        let ids = clients::broker_ids(cluster.broker_address(1))?;
        ensure!(!ids.contains(&3), "{ids:?}");
        Ok(())
    })?;
    if let Some(mut java) = clients::java(
        "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
        &["--bootstrap-server", &live, "--list"],
    ) {
        let theirs = clients::run(&mut java)?;
        ensure!(theirs == listed, "goldens: Kafka's own tool says {theirs}");
    }
    let described = tool(&at, "kafka-topics", &["--describe", "--topic", "kept"])?;
    ensure!(described.contains("\tAdding Replicas: 3\tRemoving Replicas: 2\t"), "{described}");
    let cancel = ["--cancel", "--reassignment-json-file", &target, "--preserve-throttles"];
    let out = tool(&at, "kafka-reassign-partitions", &cancel)?;
    let told = "Successfully cancelled partition reassignment for: kept-0\n";
    ensure!(out == format!("{told}None of the specified partition moves are active.\n"), "{out}");
    cluster.signal(Node::Broker(3), Signal::CONT)?;
    let verify = ["--verify", "--reassignment-json-file", &target, "--preserve-throttles"];
    let other = "There is no active reassignment of partition kept-0, but replica set is 1,2 rather than 3,1.";
    wait::until_ok("another broker knows of it", || {
        let out = tool(&at, "kafka-reassign-partitions", &verify)?;
        ensure!(out.contains(other), "{out}");
        Ok(())
    })
}

/// Writes so many lines of 1,000 bytes, each acknowledged by all replicas in sync.
fn fill(cluster: &Cluster, topic: &str, lines: usize) -> Result<()> {
    let path = cluster.folder().join("lines");
    std::fs::write(&path, format!("{}\n", "x".repeat(999)).repeat(lines))?;
    let at = cluster.bootstrap();
    let produce = ["-b", &at, "-P", "-t", topic, "-X", "acks=all", "-l"];
    clients::run(Command::new("kcat").args(produce).arg(path)).map(drop)
}

/// The bytes of a partition's segments on a broker; 0 while it has none.
fn log_bytes(cluster: &Cluster, broker: i32, partition: &str) -> Result<u64> {
    let folder = cluster.data_folder(Node::Broker(broker))?.join(partition);
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(0) };
    let is_segment = |path: &std::path::Path| path.extension().is_some_and(|ending| ending == "log");
    let sizes = entries.flatten().map(|entry| entry.path()).filter(|path| is_segment(path));
    // A file may go while the folder is read.
    Ok(sizes.filter_map(|path| Some(path.metadata().ok()?.len())).sum())
}

/// 10 MB are to move at 100 KB a second. Meanwhile the replicas in sync copy as much again, which nothing holds back.
#[test]
fn a_throttle_holds_back_what_moves_and_nothing_else() -> Result<()> {
    const LINES: usize = 10_000;
    let cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    let create = ["--create", "--topic", "big", "--replica-assignment", "1:2", "--config", "min.insync.replicas=2"];
    tool(&at, "kafka-topics", &create)?;
    cluster.settle()?;
    fill(&cluster, "big", LINES)?;
    let target = file(&cluster, "big", &[&[2, 3]])?;
    let execute = ["--execute", "--reassignment-json-file", &target, "--throttle"];
    let out = tool(&at, "kafka-reassign-partitions", &[&execute[..], &["100000"]].concat())?;
    let warned = "\nWarning: You must run --verify periodically, until the reassignment completes, to ensure the throttle \
                  is removed.\nThe inter-broker throttle limit was set to 100000 B/s\nSuccessfully started partition \
                  reassignment for big-0\n";
    ensure!(out.ends_with(warned), "{out}");
    cluster.settle()?;
    let config = |kind: &str, name: &str| -> Result<String> {
        tool(&at, "kafka-configs", &["--describe", "--entity-type", kind, "--entity-name", name])
    };
    let throttled = |out: &str, side: &str, value: &str| out.contains(&format!("{side}.replication.throttled.{value}"));
    let topic = config("topics", "big")?;
    ensure!(throttled(&topic, "leader", "replicas=0:1,0:2 "), "{topic}");
    ensure!(throttled(&topic, "follower", "replicas=0:3 "), "{topic}");
    for broker in ["1", "2", "3"] {
        let out = config("brokers", broker)?;
        ensure!(throttled(&out, "leader", "rate=100000") && throttled(&out, "follower", "rate=100000"), "{out}");
    }

    fill(&cluster, "big", LINES)?;
    let all = log_bytes(&cluster, 1, "big-0")?;
    let moved = log_bytes(&cluster, 3, "big-0")?;
    ensure!(all >= 2 * 1000 * u64::try_from(LINES)?, "{all} bytes");
    ensure!(log_bytes(&cluster, 2, "big-0")? == all, "broker 2 is in sync");
    ensure!(moved < all / 2, "{moved} of {all} bytes at 100 KB a second");
    let verify = ["--verify", "--reassignment-json-file", &target];
    let out = tool(&at, "kafka-reassign-partitions", &verify)?;
    ensure!(out.trim_end().ends_with("Reassignment of partition big-0 is still in progress."), "{out}");

    // What is under way goes on with another rate.
    let more = [&execute[..], &["1000000000", "--additional"]].concat();
    let out = tool(&at, "kafka-reassign-partitions", &more)?;
    ensure!(out.contains("\nThe inter-broker throttle limit was set to 1000000000 B/s\n"), "{out}");
    await_completion(&at, &target, "big", 1)?;
    ensure!(log_bytes(&cluster, 3, "big-0")? == all, "broker 3 has all");
    cluster.settle()?;
    let (topic, broker) = (config("topics", "big")?, config("brokers", "1")?);
    ensure!(!topic.contains("throttled") && !broker.contains("throttled"), "{topic}{broker}");
    Ok(())
}

/// Kafka's tool moves one topic, ours another one: both do and say the same.
#[test]
fn kafkas_reassignment_tool_and_ours_agree() -> Result<()> {
    const CLASS: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
    if clients::java(CLASS, &[]).is_none() {
        ottla_test_support::skipped("OTTLA_KAFKA_JARS names no folder with Apache Kafka's jars");
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    let run = |topic: &str, arguments: &[&str]| -> Result<String> {
        let out = match topic {
            "theirs" => {
                let line = [&["--bootstrap-server", &at], arguments].concat();
                clients::run(&mut clients::java(CLASS, &line).context("the jars were there")?)?
            }
            _ => tool(&at, "kafka-reassign-partitions", arguments)?,
        };
        Ok(out.replace(topic, "TOPIC"))
    };
    let same = |theirs: &str, ours: &str| -> Result<()> {
        ensure!(theirs == ours, "Kafka's tool\n{theirs}\nours\n{ours}");
        Ok(())
    };
    let mut said = [Vec::new(), Vec::new()];
    for (topic, said) in ["theirs", "ours"].into_iter().zip(&mut said) {
        tool(&at, "kafka-topics", &["--create", "--topic", topic, "--replica-assignment", "1:2,2:1,1:2"])?;
        cluster.settle()?;
        let target = file(&cluster, topic, &[&[2, 3], &[2, 1], &[3, 1]])?;
        let with_file = |action: &'static str| [action, "--reassignment-json-file", target.as_str()];
        said.push(run(topic, &[&with_file("--execute")[..], &["--throttle", "1000000"]].concat())?);
        cluster.settle()?;
        let describe = ["--describe", "--entity-type", "topics", "--entity-name", topic];
        let configs = tool(&at, "kafka-configs", &describe)?;
        ensure!(configs.contains("follower.replication.throttled.replicas=0:3,2:3 "), "{topic}: {configs}");
        said.push(configs.replace(topic, "TOPIC"));
        let verify = with_file("--verify");
        wait::until_ok("the reassignment is complete", || {
            let preserving = [&verify[..], &["--preserve-throttles"]].concat();
            let out = tool(&at, "kafka-reassign-partitions", &preserving)?;
            ensure!(!out.contains("in progress"), "{out}");
            Ok(())
        })?;
        cluster.settle()?;
        said.push(run(topic, &[&verify[..], &["--preserve-throttles"]].concat())?);
        said.push(run(topic, &verify)?);
        cluster.settle()?;
        said.push(tool(&at, "kafka-configs", &describe)?.replace(topic, "TOPIC"));
        said.push(run(topic, &with_file("--cancel"))?);
        said.push(run(topic, &["--list"])?);
    }
    let [theirs, ours] = said;
    ensure!(theirs.get(3).is_some_and(|out| out.contains("Clearing broker-level throttles on brokers 1,2,3\n")));
    theirs.iter().zip(&ours).try_for_each(|(theirs, ours)| same(theirs, ours))
}

/// A broker gets two replicas at a time; one that is down holds up what it is to get, and the quorum's leader is
/// killed.
#[test]
fn a_large_plan_goes_on_in_waves_under_another_quorum_leader() -> Result<()> {
    const PARTITIONS: usize = 20;
    let mut cluster = Cluster::prepare(&ClusterOptions::default())?;
    for id in 1..=3 {
        cluster.set_variable(Node::Coordinator(id), "COORDINATOR_REASSIGNMENT_MAX_PARTITIONS_PER_BROKER", "2")?;
        // The tool does not know a broker that is fenced, and may take seconds to begin on a busy machine.
        cluster.set_variable(Node::Coordinator(id), "COORDINATOR_BROKER_SESSION_TIMEOUT_MS", "60000")?;
    }
    cluster.spawn_all()?;
    cluster.wait_ready()?;
    let at = cluster.bootstrap();
    let on_1 = ["1"; PARTITIONS].join(",");
    tool(&at, "kafka-topics", &["--create", "--topic", "waves", "--replica-assignment", &on_1])?;
    cluster.settle()?;
    // It stands still, and is still listed: a tool that asked it would wait until it is fenced.
    cluster.signal(Node::Broker(3), Signal::STOP)?;
    let at = format!("{},{}", cluster.broker_address(1), cluster.broker_address(2));
    let path = file(&cluster, "waves", &[&[2, 3][..]; PARTITIONS])?;
    tool(&at, "kafka-reassign-partitions", &["--execute", "--reassignment-json-file", &path])?;
    let listed = || -> Result<usize> {
        let out = tool(&at, "kafka-reassign-partitions", &["--list"])?;
        Ok(out.lines().filter(|line| line.contains(": replicas: 2,3,1. adding: 2,3. removing: 1.")).count())
    };
    wait::until("all are listed, also those that wait", || Ok(listed()? == PARTITIONS))?;
    let logs = |broker: i32| -> Result<usize> {
        let names = std::fs::read_dir(cluster.data_folder(Node::Broker(broker))?)?.flatten();
        Ok(names.filter(|entry| entry.file_name().to_string_lossy().starts_with("waves-")).count())
    };
    wait::until("the first wave has begun", || Ok(logs(2)? > 0))?;
    let begun = logs(2)?;
    ensure!(begun <= 2, "{begun} logs at once");
    let quorum_leader = leader(&addresses(&cluster, &[1, 2, 3]))?;
    cluster.kill(Node::Coordinator(quorum_leader))?;
    cluster.signal(Node::Broker(3), Signal::CONT)?;
    await_completion(&at, &path, "waves", PARTITIONS)?;
    ensure!(listed()? == 0, "nothing is left");
    cluster.spawn(Node::Coordinator(quorum_leader))
}
