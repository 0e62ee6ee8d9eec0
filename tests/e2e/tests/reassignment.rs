//! Partitions get other replicas while they are written to and read.

use std::collections::BTreeMap;
use std::process::{Child, Command};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::groups::wait_for;
use ottla_e2e::{Cluster, Node, clients};
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
    let out = clients::run(Command::new("kcat").args(arguments))?;
    let mut partitions: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    for line in out.lines() {
        let (partition, number) = line.split_once(' ').with_context(|| line.to_owned())?;
        partitions.entry(partition.parse()?).or_default().push(number.parse()?);
    }
    Ok(partitions)
}

fn await_completion(bootstrap: &str, path: &str, topic: &str, partitions: usize) -> Result<()> {
    let verify = ["--verify", "--reassignment-json-file", path];
    wait_for("the reassignment is complete", || {
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
    let mut writer = writer(&at, "moved")?;
    let up = file(&cluster, "moved", &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]])?;
    let out = tool(&at, "kafka-reassign-partitions", &["--execute", "--reassignment-json-file", &up])?;
    ensure!(out.ends_with("Successfully started partition reassignments for moved-0,moved-1,moved-2\n"), "{out}");
    let before = r#"{"version":1,"partitions":[{"topic":"moved","partition":0,"replicas":[1],"log_dirs":["any"]},"#;
    ensure!(out.starts_with(&format!("Current partition replica assignment\n\n{before}")), "{out}");
    await_completion(&at, &up, "moved", 3)?;
    let down = file(&cluster, "moved", &[&[2, 3], &[3, 1], &[1, 2]])?;
    tool(&at, "kafka-reassign-partitions", &["--execute", "--reassignment-json-file", &down])?;
    await_completion(&at, &down, "moved", 3)?;
    let none = tool(&at, "kafka-reassign-partitions", &["--list"])?;
    ensure!(none == "No partition reassignments found.\n", "{none}");
    for (broker, gone) in [(1, "moved-0"), (2, "moved-1"), (3, "moved-2")] {
        let folder = cluster.data_folder(Node::Broker(broker))?;
        wait_for("the log of a replica that was moved away is deleted", || {
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
    let cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    tool(&at, "kafka-topics", &["--create", "--topic", "kept", "--replica-assignment", "1:2"])?;
    let target = file(&cluster, "kept", &[&[3, 1]])?;
    let execute = ["--execute", "--reassignment-json-file", &target];
    cluster.signal(Node::Broker(3), Signal::STOP)?;
    tool(&at, "kafka-reassign-partitions", &execute)?;
    let out = tool(&at, "kafka-reassign-partitions", &["--list"])?;
    let listed = "Current partition reassignments:\nkept-0: replicas: 3,1,2. adding: 3. removing: 2.\n";
    ensure!(out == listed, "{out}");
    // Java's client waits for a broker that accepts connections and does not answer as long as for the whole call: it
    // must neither begin with broker 3 nor be told that broker 3 is the controller.
    wait_for("broker 3 is fenced", || {
        let live = clients::broker_ids(cluster.broker_address(1))?;
        ensure!(!live.contains(&3), "{live:?}");
        Ok(())
    })?;
    let live = format!("{},{}", cluster.broker_address(1), cluster.broker_address(2));
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
    let out = tool(&at, "kafka-reassign-partitions", &verify)?;
    let other = "There is no active reassignment of partition kept-0, but replica set is 1,2 rather than 3,1.";
    ensure!(out.contains(other), "{out}");
    Ok(())
}
