//! Leaders after failures: they return to preferred replicas, and an unclean election takes what is left (seed 004).

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};

fn tool(bootstrap: &str, name: &str, arguments: &[&str]) -> Result<String> {
    clients::run(&mut clients::tool(name, bootstrap, arguments)?)
}

/// Writes the numbers from `from` to `to`, one record each.
fn write(bootstrap: &str, topic: &str, from: u32, to: u32, acks: &str) -> Result<()> {
    let send =
        format!("seq {from} {to} | kcat -b {bootstrap} -P -t {topic} -X acks={acks} -X message.timeout.ms=60000");
    clients::run(Command::new("sh").args(["-c", &send])).map(drop)
}

fn read(bootstrap: &str, topic: &str) -> Result<BTreeSet<u32>> {
    let out = clients::run(&mut clients::kcat(&["-b", bootstrap, "-C", "-t", topic, "-e", "-q"]))?;
    out.lines().map(|line| line.parse().with_context(|| line.to_owned())).collect()
}

/// The leader and the ISR of each partition of a topic, as kafka-topics shows them.
fn leaders(bootstrap: &str, topic: &str) -> Result<Vec<(String, String)>> {
    let out = tool(bootstrap, "kafka-topics", &["--describe", "--topic", topic])?;
    let word = |line: &str, name: &str| {
        line.split_once(name).and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_default().to_owned()
    };
    let partitions = out.lines().filter(|line| line.contains("Partition: "));
    Ok(partitions.map(|line| (word(line, "Leader: "), word(line, "Isr: "))).collect())
}

fn wait_for_leaders(bootstrap: &str, topic: &str, wanted: &[&str]) -> Result<()> {
    wait::until_ok("the leaders are those", || {
        let leaders = leaders(bootstrap, topic)?;
        let led: Vec<&str> = leaders.iter().map(|(leader, _)| leader.as_str()).collect();
        ensure!(led == wanted, "{leaders:?}");
        Ok(())
    })
}

#[test]
fn a_killed_broker_leads_again_when_it_is_back() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    let create = ["--create", "--topic", "balanced", "--replica-assignment", "1:2:3,2:3:1,3:1:2"];
    tool(&at, "kafka-topics", &create)?;
    write(&at, "balanced", 1, 300, "all")?;
    cluster.kill(Node::Broker(1))?;
    wait_for_leaders(&at, "balanced", &["2", "2", "3"])?;
    write(&at, "balanced", 301, 600, "all")?;
    cluster.spawn(Node::Broker(1))?;
    wait_for_leaders(&at, "balanced", &["1", "2", "3"])?;
    write(&at, "balanced", 601, 900, "all")?;
    ensure!(read(&at, "balanced")? == (1..=900).collect(), "a record is missing");
    Ok(())
}

#[test]
fn without_the_rebalance_leaders_return_by_the_tool() -> Result<()> {
    let options = ClusterOptions::default().with("auto.leader.rebalance.enable", "false");
    let mut cluster = Cluster::start_with(options)?;
    let at = cluster.bootstrap();
    tool(&at, "kafka-topics", &["--create", "--topic", "by-tool", "--replica-assignment", "1:2:3"])?;
    cluster.kill(Node::Broker(1))?;
    wait_for_leaders(&at, "by-tool", &["2"])?;
    cluster.spawn(Node::Broker(1))?;
    wait::until_ok("the broker is in sync", || {
        let leaders = leaders(&at, "by-tool")?;
        ensure!(leaders.iter().all(|(_, isr)| isr.split(',').count() == 3), "{leaders:?}");
        Ok(())
    })?;
    wait_for_leaders(&at, "by-tool", &["2"])?;
    let elect = ["--election-type", "preferred", "--topic", "by-tool", "--partition", "0"];
    let out = tool(&at, "kafka-leader-election", &elect)?;
    ensure!(out == "Successfully completed leader election (PREFERRED) for partitions by-tool-0\n", "{out}");
    let out = tool(&at, "kafka-leader-election", &elect)?;
    ensure!(out == "Valid replica already elected for partitions by-tool-0\n", "{out}");
    wait_for_leaders(&at, "by-tool", &["1"])?;
    let all = ["--election-type", "preferred", "--all-topic-partitions"];
    ensure!(tool(&at, "kafka-leader-election", &all)?.is_empty(), "goldens: nothing is to be done, nothing is said");
    Ok(())
}

/// Kafka's tool elects the leader of one topic, ours that of another one: both do and say the same.
#[test]
fn kafkas_election_tool_and_ours_agree() -> Result<()> {
    const CLASS: &str = "org.apache.kafka.tools.LeaderElectionCommand";
    if clients::java(CLASS, &[]).is_none() {
        ottla_test_support::skipped("OTTLA_KAFKA_JARS names no folder with Apache Kafka's jars");
        return Ok(());
    }
    let options = ClusterOptions::default().with("auto.leader.rebalance.enable", "false");
    let mut cluster = Cluster::start_with(options)?;
    let at = cluster.bootstrap();
    for topic in ["theirs", "ours"] {
        tool(&at, "kafka-topics", &["--create", "--topic", topic, "--replica-assignment", "1:2:3,2:3:1"])?;
    }
    cluster.kill(Node::Broker(1))?;
    for topic in ["theirs", "ours"] {
        wait_for_leaders(&at, topic, &["2", "2"])?;
    }
    cluster.spawn(Node::Broker(1))?;
    for topic in ["theirs", "ours"] {
        wait::until_ok("the broker is in sync", || {
            let leaders = leaders(&at, topic)?;
            ensure!(leaders.iter().all(|(_, isr)| isr.split(',').count() == 3), "{leaders:?}");
            Ok(())
        })?;
    }
    let run = |topic: &str, arguments: &[&str]| -> Result<String> {
        let out = match topic {
            "theirs" => {
                let line = [&["--bootstrap-server", &at], arguments].concat();
                clients::run(&mut clients::java(CLASS, &line).context("the jars were there")?)?
            }
            _ => tool(&at, "kafka-leader-election", arguments)?,
        };
        Ok(out.replace(topic, "TOPIC"))
    };
    let mut said = [Vec::new(), Vec::new()];
    for (topic, said) in ["theirs", "ours"].into_iter().zip(&mut said) {
        let path = cluster.folder().join(format!("{topic}-elect.json"));
        let partitions = [0, 1].map(|number| format!(r#"{{"topic":"{topic}","partition":{number}}}"#)).join(",");
        std::fs::write(&path, format!(r#"{{"partitions":[{partitions}]}}"#))?;
        let path = path.display().to_string();
        let of_file = ["--election-type", "preferred", "--path-to-json-file", &path];
        let of_one = ["--election-type", "PREFERRED", "--topic", topic, "--partition", "0"];
        said.push(run(topic, &of_file)?);
        wait_for_leaders(&at, topic, &["1", "2"])?;
        said.push(run(topic, &of_one)?);
        said.push(run(topic, &["--election-type", "unclean", "--topic", topic, "--partition", "1"])?);
    }
    said.iter_mut().zip(["theirs", "ours"]).try_for_each(|(said, topic)| {
        said.push(run(topic, &["--election-type", "preferred", "--all-topic-partitions"])?);
        anyhow::Ok(())
    })?;
    let [theirs, ours] = said;
    for (theirs, ours) in theirs.iter().zip(&ours) {
        ensure!(theirs == ours, "Kafka's tool\n{theirs}\nours\n{ours}");
    }
    Ok(())
}

/// Seed 004: B and C are down while A writes on alone; A dies, and B and C return.
#[test]
fn scenario_45_an_unclean_election_gives_up_what_only_the_last_leader_has() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    let create = ["--create", "--topic", "story", "--replica-assignment", "1:2:3", "--config", "min.insync.replicas=1"];
    tool(&at, "kafka-topics", &create)?;
    write(&at, "story", 1, 100, "all")?;
    cluster.kill(Node::Broker(2))?;
    cluster.kill(Node::Broker(3))?;
    wait::until_ok("broker 1 is alone", || {
        let leaders = leaders(&at, "story")?;
        ensure!(leaders == [("1".to_owned(), "1".to_owned())], "{leaders:?}");
        Ok(())
    })?;
    write(&at, "story", 101, 200, "all")?;
    cluster.kill(Node::Broker(1))?;
    cluster.spawn(Node::Broker(2))?;
    cluster.spawn(Node::Broker(3))?;
    wait::until_ok("the partition waits for its last leader", || {
        let leaders = leaders(&at, "story")?;
        ensure!(leaders.iter().all(|(leader, _)| leader == "none"), "{leaders:?}");
        Ok(())
    })?;
    let enable = ["--alter", "--entity-type", "topics", "--entity-name", "story", "--add-config"];
    tool(&at, "kafka-configs", &[&enable[..], &["unclean.leader.election.enable=true"]].concat())?;
    wait_for_leaders(&at, "story", &["2"])?;
    write(&at, "story", 1_001, 1_100, "all")?;
    // The former leader gives up what it had alone, and the preferred replica leads again.
    cluster.spawn(Node::Broker(1))?;
    wait_for_leaders(&at, "story", &["1"])?;
    let kept: BTreeSet<u32> = (1..=100).chain(1_001..=1_100).collect();
    let found = read(&at, "story")?;
    ensure!(found == kept, "{} records, not {}: {:?}", found.len(), kept.len(), found.symmetric_difference(&kept));
    let is_told = (1..=3).any(|id| {
        cluster
            .log_text(Node::Coordinator(id))
            .is_ok_and(|log| log.contains("unclean election: broker 2 leads story-0"))
    });
    ensure!(is_told, "no coordinator's log tells what is lost");
    Ok(())
}
