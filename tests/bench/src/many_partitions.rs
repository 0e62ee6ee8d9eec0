//! A cluster with thousands of partitions: the time until they are in sync, and their cost while idle.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_client::{Client, ClientConfig, NewTopic};
use ottla_e2e::{Cluster, Node};
use ottla_model::ErrorCode;

const PARTITIONS: i32 = 3_000;
/// More partitions are added before the idle cluster is measured.
const MORE_PARTITIONS: i32 = 1_000;
const REPLICAS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const IDLE_WINDOW: Duration = Duration::from_secs(20);
/// Making directories takes ext4 a millisecond each for a minute after as many were removed (it passes over inodes that
/// were freed a moment ago): rounds that follow each other see that.
const DIRECTORIES_PATIENCE: Duration = Duration::from_secs(180);

pub fn run(rounds: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut times = Vec::new();
    for round in 0..rounds.max(1) {
        let cluster = Cluster::start()?;
        let client = runtime.block_on(async { Client::new(ClientConfig::new(&cluster.bootstrap())) });
        // Connections are made before.
        runtime.block_on(create(&client, "warm", 1))?;
        let before = brokers_bytes(&cluster)?;
        times.push(runtime.block_on(create(&client, "many", PARTITIONS))?);
        if round + 1 == rounds.max(1) {
            runtime.block_on(create(&client, "more", MORE_PARTITIONS))?;
            let partitions = PARTITIONS + MORE_PARTITIONS;
            let replicas = u64::try_from(partitions)? * REPLICAS as u64;
            let grown = brokers_bytes(&cluster)?.saturating_sub(before);
            println!("an idle replica, brokers' memory: {} bytes", grown / replicas);
            idle(&cluster, partitions)?;
        }
    }
    times.sort();
    let median = times.get(times.len() / 2).context("a round")?;
    println!("{PARTITIONS} partitions, RF {REPLICAS}, created and in sync: {:.2} s", median.as_secs_f64());
    Ok(())
}

/// From the request to the moment in which every ISR is full.
async fn create(client: &Client, name: &str, partition_count: i32) -> Result<Duration> {
    let topic = NewTopic {
        name: name.to_owned(),
        partition_count,
        replication_factor: i16::try_from(REPLICAS)?,
        ..NewTopic::default()
    };
    let started = Instant::now();
    let outcomes = client.create_topics(&[topic], PATIENCE, false).await?;
    let refused = outcomes.iter().find(|outcome| outcome.error != ErrorCode::None);
    ensure!(refused.is_none(), "{refused:?}");
    while started.elapsed() < PATIENCE {
        let topics = client.describe_topics(Some(&[name])).await?;
        let partitions = topics.first().map(|topic| topic.partitions.as_slice()).unwrap_or_default();
        let in_sync = partitions.iter().filter(|partition| partition.isr.len() == REPLICAS).count();
        if in_sync == usize::try_from(partition_count)? {
            return Ok(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("{name} is not in sync after {PATIENCE:?}")
}

fn brokers_bytes(cluster: &Cluster) -> Result<u64> {
    let brokers = cluster.nodes().into_iter().filter(|node| matches!(node, Node::Broker(_)));
    brokers.map(|node| Ok(cluster.resident_kib(node)? * 1024)).sum()
}

/// Waits until every replica has its directory.
fn wait_for_directories(cluster: &Cluster, partitions: i32) -> Result<Duration> {
    let expected = usize::try_from(partitions)?;
    let started = Instant::now();
    for node in cluster.nodes().into_iter().filter(|node| matches!(node, Node::Broker(_))) {
        let folder = cluster.data_folder(node)?;
        while std::fs::read_dir(&folder)?.filter_map(Result::ok).filter(|entry| entry.path().is_dir()).count()
            < expected
        {
            ensure!(started.elapsed() < DIRECTORIES_PATIENCE, "{node:?} has not made its directories");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(started.elapsed())
}

fn idle(cluster: &Cluster, partitions: i32) -> Result<()> {
    let waited = wait_for_directories(cluster, partitions)?;
    println!("directories of {partitions} partitions, after they were in sync: {:.2} s", waited.as_secs_f64());
    // Lets work of the creation finish.
    std::thread::sleep(IDLE_WINDOW / 4);
    let cpu = || -> Result<Duration> { cluster.nodes().into_iter().map(|node| cluster.cpu_time(node)).sum() };
    let (before, started) = (cpu()?, Instant::now());
    std::thread::sleep(IDLE_WINDOW);
    let share = (cpu()? - before).as_secs_f64() / started.elapsed().as_secs_f64();
    let files: usize = cluster.nodes().into_iter().map(|node| cluster.open_files(node)).sum::<Result<_>>()?;
    println!("an idle cluster with {partitions} partitions: {:.1} % of a core, {files} open files", share * 100.0);
    Ok(())
}
