//! One of three brokers is down, or the quorum's leader is killed: topics are created, grow and are written all the
//! same (faults A10, B12).

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};

fn tool(bootstrap: &str, name: &str, arguments: &[&str]) -> Result<String> {
    clients::run(&mut clients::tool(name, bootstrap, arguments)?)
}

/// Writes the numbers from `from` to `to`, one record each, with acks=all.
fn write(bootstrap: &str, topic: &str, from: u32, to: u32) -> Result<()> {
    let send = format!("seq {from} {to} | kcat -b {bootstrap} -P -t {topic} -X acks=all -X message.timeout.ms=60000");
    clients::run(Command::new("sh").args(["-c", &send])).map(drop)
}

fn read(bootstrap: &str, topic: &str) -> Result<BTreeSet<u32>> {
    let out = clients::run(&mut clients::kcat(&["-b", bootstrap, "-C", "-t", topic, "-e", "-q"]))?;
    out.lines().map(|line| line.parse().with_context(|| line.to_owned())).collect()
}

/// The numbers of members in the ISRs of a topic's partitions.
fn isr_sizes(bootstrap: &str, topic: &str) -> Result<Vec<usize>> {
    let out = tool(bootstrap, "kafka-topics", &["--describe", "--topic", topic])?;
    let lists = out.lines().filter_map(|line| line.split_once("Isr: "));
    Ok(lists.map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default().split(',').count()).collect())
}

#[test]
fn topics_are_created_written_and_grown_while_a_broker_is_down() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions::default().with("min.insync.replicas", "2"))?;
    let at = cluster.bootstrap();
    cluster.kill(Node::Broker(3))?;
    let create = ["--create", "--topic", "down", "--partitions", "3", "--replication-factor", "3"];
    // Whether the quorum has noticed the end of the broker or not: the topic is there.
    tool(&at, "kafka-topics", &create)?;
    // It may be there although the tool's first answer was an error.
    let assigned = ["--create", "--if-not-exists", "--topic", "assigned", "--replica-assignment", "1:2:3,3:1:2"];
    wait::until_ok("a broker that is down is named in an assignment", || {
        tool(&at, "kafka-topics", &assigned).map(drop)
    })?;
    write(&at, "down", 1, 500)?;
    cluster.settle()?;
    tool(&at, "kafka-topics", &["--alter", "--topic", "down", "--partitions", "6"])?;
    write(&at, "down", 501, 1_000)?;
    cluster.settle()?;
    ensure!(isr_sizes(&at, "down")?.len() == 6, "six partitions");
    let down = tool(&at, "kafka-cluster", &["list-endpoints", "--include-fenced-brokers"])?;
    ensure!(down.lines().any(|line| line.starts_with("3 ") && line.contains(" fenced")), "{down}");
    cluster.spawn(Node::Broker(3))?;
    wait::until_ok("the third replica catches up", || {
        let sizes = isr_sizes(&at, "down")?;
        ensure!(sizes == [3; 6], "{sizes:?}");
        Ok(())
    })?;
    // What the third broker has is enough, together with any other one.
    cluster.kill(Node::Broker(1))?;
    wait::until_ok("everything is read from the others", || {
        let read = read(&at, "down")?;
        ensure!(read == (1..=1_000).collect(), "{} of 1,000", read.len());
        Ok(())
    })
}

#[test]
fn a_broker_that_will_not_come_back_is_unregistered() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    let listed = |wanted: bool| -> Result<()> {
        let out = tool(&at, "kafka-cluster", &["list-endpoints", "--include-fenced-brokers"])?;
        ensure!(out.lines().any(|line| line.starts_with("3 ")) == wanted, "{out}");
        Ok(())
    };
    listed(true)?;
    cluster.kill(Node::Broker(3))?;
    wait::until_ok("it is fenced", || {
        let out = tool(&at, "kafka-cluster", &["list-endpoints", "--include-fenced-brokers"])?;
        ensure!(out.lines().any(|line| line.starts_with("3 ") && line.contains(" fenced")), "{out}");
        Ok(())
    })?;
    tool(&at, "kafka-cluster", &["unregister", "--id", "3"])?;
    cluster.settle()?;
    listed(false)?;
    let create = ["--create", "--if-not-exists", "--topic", "three", "--partitions", "1", "--replication-factor", "3"];
    ensure!(tool(&at, "kafka-topics", &create).is_err(), "only two brokers are registered");
    // The same id may come again.
    cluster.spawn(Node::Broker(3))?;
    wait::until_ok("it is registered again", || tool(&at, "kafka-topics", &create).map(drop))
}

fn quorum_leader(bootstrap: &str) -> Result<u64> {
    let out = tool(bootstrap, "kafka-metadata-quorum", &["describe", "--status"])?;
    let line = out.lines().find_map(|line| line.strip_prefix("LeaderId:")).context("a leader")?;
    Ok(line.trim().parse()?)
}

/// Repeats a tool whose broker does not know the topic yet; any other error is final.
fn once_it_exists(mut run: impl FnMut() -> Result<String>) -> Result<String> {
    wait::until_ok("the topic exists", || match run() {
        Err(error) if format!("{error:#}").contains("does not exist as expected") => Err(error),
        definite => Ok(definite),
    })?
}

/// B12: a broker repeats a request whose answer was lost. Neither TOPIC_ALREADY_EXISTS nor INVALID_PARTITIONS may come
/// of it. Every tool asks another broker, whose image may be a moment behind, as in Kafka: only "does not exist" and an
/// old count of partitions may pass by themselves.
#[test]
fn admin_requests_succeed_once_while_the_quorum_leader_is_killed() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    for round in 0..4 {
        let leader = quorum_leader(&at)?;
        let is_killed = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let (at, is_killed) = (&at, &is_killed);
            let admins: Vec<_> = (0..4)
                .map(|admin| {
                    scope.spawn(move || -> Result<()> {
                        let mut after_kill = 0;
                        for number in 0.. {
                            let topic = format!("t-{round}-{admin}-{number}");
                            let name = ["--topic", topic.as_str()];
                            let run = |arguments: &[&str]| tool(at, "kafka-topics", &[arguments, &name[..]].concat());
                            run(&["--create", "--partitions", "1", "--replication-factor", "2"])?;
                            once_it_exists(|| run(&["--alter", "--partitions", "2"]))?;
                            wait::until_ok("the topic has grown", || {
                                let described = run(&["--describe"])?;
                                ensure!(described.contains("PartitionCount: 2"), "{described}");
                                Ok(())
                            })?;
                            once_it_exists(|| run(&["--delete"]))?;
                            after_kill += u32::from(is_killed.load(Ordering::Acquire));
                            if after_kill >= 2 {
                                return Ok(());
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            cluster.kill(Node::Coordinator(leader))?;
            is_killed.store(true, Ordering::Release);
            admins.into_iter().try_for_each(|admin| admin.join().expect("a thread of this test"))
        })?;
        cluster.spawn(Node::Coordinator(leader))?;
    }
    Ok(())
}
