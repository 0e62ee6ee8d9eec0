//! Groups through real connections: sequential commits of one client, and the time until a group of 500 is stable,
//! compared with the same client without a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ottla_client::{Beat, Client, ClientConfig, CommittedOffset, Committer, Membership, MembershipConfig, NewTopic};
use ottla_e2e::{Cluster, ClusterOptions};
use ottla_model::{Offset, PartitionId, TimestampMs, TopicName, TopicPartition};
use ottla_protocol::record_batch::BatchBuilder;
use tokio::sync::watch;

use crate::report::{self, Round};

const TOPIC: &str = "bench-groups";
const ROUND: Duration = Duration::from_secs(2);
const MEMBERS: usize = 500;
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of the heartbeats of a large group's members, which learn of changes only from their responses.
const HEARTBEAT: Duration = Duration::from_millis(500);

pub fn run(rounds: usize) -> Result<()> {
    // The group forms with its first member: otherwise the delay that gathers members would dominate the measurement.
    let options = ClusterOptions::default().with("group.initial.rebalance.delay.ms", "0");
    let cluster = Cluster::start_with(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(ClientConfig::new(&cluster.bootstrap()));
        let topic = NewTopic {
            name: TOPIC.to_owned(),
            partition_count: i32::try_from(MEMBERS)?,
            replication_factor: 3,
            ..NewTopic::default()
        };
        for outcome in client.create_topics(&[topic], CALL_TIMEOUT, false).await? {
            outcome.into_result()?;
        }
        let (mut commits, mut forming) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let ours = per_second(|| commit(&client, round)).await?;
            let machine = per_second(|| produce(&client)).await?;
            commits.push(Round { ours, machine });
            let machine = MEMBERS as f64 / connections(&cluster.bootstrap()).await?.as_secs_f64();
            let ours = MEMBERS as f64 / group_of_many(&client, round).await?.as_secs_f64();
            forming.push(Round { ours, machine });
        }
        report::row("commits of one client, RF 3", "its produces of one record, acks=all", "/s", &commits);
        let what = format!("a classic group of {MEMBERS} forms and settles");
        report::row(&what, "as many connections with one answer", "members/s", &forming);
        Ok(())
    })
}

/// How often an operation is done, one after the other.
async fn per_second<F: Future<Output = Result<()>>>(operation: impl Fn() -> F) -> Result<f64> {
    // The first look-ups (leaders, the coordinator) are not measured.
    operation().await?;
    let (started, mut count) = (Instant::now(), 0_u64);
    while started.elapsed() < ROUND {
        operation().await?;
        count += 1;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

async fn commit(client: &Client, round: usize) -> Result<()> {
    let at = TopicPartition::new(TopicName::new(TOPIC)?, PartitionId(0));
    let offsets = BTreeMap::from([(at, CommittedOffset::from(Offset(7)))]);
    let outcomes = client.commit_offsets(&format!("commits-{round}"), &Committer::nobody(), &offsets).await?;
    ensure!(outcomes.into_values().all(|code| code.is_ok()), "a commit was refused");
    Ok(())
}

async fn produce(client: &Client) -> Result<()> {
    let batch = BatchBuilder::new().record(TimestampMs(1), None, Some(&[7; 32])).build()?.freeze();
    client.produce(TOPIC, PartitionId(0), batch, -1, CALL_TIMEOUT).await?;
    Ok(())
}

/// Opens a connection for every member and waits for one answer on each.
async fn connections(bootstrap: &str) -> Result<Duration> {
    let started = Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..MEMBERS {
        let client = Client::new(ClientConfig::new(bootstrap));
        waiting.spawn(async move { client.metadata(Some(&[])).await.map(drop) });
    }
    while let Some(done) = waiting.join_next().await {
        done??;
    }
    Ok(started.elapsed())
}

/// The state of a member: its generation and number of partitions. None while it joins.
type Standing = Option<(i32, usize)>;

/// From the first JoinGroup until all members are in one generation and share all partitions.
async fn group_of_many(client: &Client, round: usize) -> Result<Duration> {
    let (standing, mut watched) = watch::channel(vec![Standing::None; MEMBERS]);
    let standing = Arc::new(standing);
    let started = Instant::now();
    let mut members = tokio::task::JoinSet::new();
    for number in 0..MEMBERS {
        let config = MembershipConfig {
            heartbeat_interval: HEARTBEAT,
            ..MembershipConfig::new(&format!("many-{round}"), vec![TOPIC.to_owned()])
        };
        let membership = Membership::new(client.clone(), config);
        members.spawn(member(membership, number, Arc::clone(&standing)));
    }
    let settled = watched.wait_for(|all| {
        let first = all.first().copied().flatten().map(|(generation, _)| generation);
        let together = all.iter().all(|one| one.is_some_and(|(generation, _)| Some(generation) == first));
        together && all.iter().flatten().map(|(_, partitions)| partitions).sum::<usize>() == MEMBERS
    });
    tokio::select! {
        settled = settled => drop(settled?),
        Some(ended) = members.join_next() => {
            ended??;
            anyhow::bail!("a member ended by itself");
        }
    }
    Ok(started.elapsed())
}

async fn member(mut membership: Membership, number: usize, standing: Arc<watch::Sender<Vec<Standing>>>) -> Result<()> {
    let stands = |now: Standing| {
        standing.send_modify(|all| {
            if let Some(mine) = all.get_mut(number) {
                *mine = now;
            }
        });
    };
    loop {
        let share = membership.join().await?;
        stands(Some((membership.generation(), share.len())));
        loop {
            tokio::time::sleep_until(membership.heartbeat_due()).await;
            if membership.heartbeat().await? != Beat::Steady {
                stands(None);
                break;
            }
        }
    }
}
