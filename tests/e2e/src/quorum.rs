//! `ottla quorum`: coordinators come, go and are replaced while topics are created.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_client::{Client, ClientConfig, NewTopic};
use ottla_model::ErrorCode;

use crate::cluster::binary;
use crate::{Cluster, Node, clients, wait};

/// `ottla quorum`, asked of these coordinators.
pub fn quorum(at: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary("ottla")?);
    clients::run(command.arg("quorum").args(arguments).args(["--coordinators", at]))
}

pub fn addresses(cluster: &Cluster, ids: &[u64]) -> String {
    ids.iter().map(|id| cluster.coordinator_address(*id)).collect::<Vec<_>>().join(",")
}

/// By id, what `ottla quorum members` says of each.
pub fn members(at: &str) -> Result<BTreeMap<u64, String>> {
    let out = quorum(at, &["members"])?;
    let line = |line: &str| {
        let (id, rest) = line.split_once("  ")?;
        Some((id.parse().ok()?, rest.to_owned()))
    };
    Ok(out.lines().filter_map(line).collect())
}

pub fn leader(at: &str) -> Result<u64> {
    let members = members(at)?;
    members.iter().find(|(_, said)| said.contains("quorum leader")).map(|(id, _)| *id).context("no leader")
}

/// Creates twenty topics a second until it is stopped. No call may fail, or it stops itself. Returns the longest one.
pub fn create_topics(bootstrap: &str, is_stopped: &AtomicBool, made: &AtomicU32) -> Result<Duration> {
    const INTERVAL: Duration = Duration::from_millis(50);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let longest: Result<Duration> = runtime.block_on(async {
        let client = Client::new(ClientConfig::new(bootstrap));
        let mut longest = Duration::ZERO;
        while !is_stopped.load(Ordering::Relaxed) {
            let number = made.fetch_add(1, Ordering::Relaxed);
            let topic = NewTopic {
                name: format!("t{number}"),
                partition_count: 1,
                replication_factor: 1,
                ..NewTopic::default()
            };
            let began = Instant::now();
            let outcomes = client.create_topics(&[topic], Duration::from_secs(60), false).await?;
            longest = longest.max(began.elapsed());
            ensure!(outcomes.iter().all(|outcome| outcome.error == ErrorCode::None), "t{number}: {outcomes:?}");
            tokio::time::sleep(INTERVAL.saturating_sub(began.elapsed())).await;
        }
        Ok(longest)
    });
    is_stopped.store(true, Ordering::Relaxed);
    longest
}

/// From three to four and back, and a member whose disk is gone is replaced, while [`create_topics`] makes topics.
pub fn change_members(cluster: &mut Cluster, is_stopped: &AtomicBool, made: &AtomicU32) -> Result<()> {
    // Some topics before and after each step.
    let some = || {
        let before = made.load(Ordering::Relaxed);
        wait::until(&format!("the writer goes on after {before} topics"), || {
            ensure!(!is_stopped.load(Ordering::Relaxed), "the writer has ended");
            Ok(made.load(Ordering::Relaxed) > before + 20)
        })
    };
    some()?;
    let three = addresses(cluster, &[1, 2, 3]);
    cluster.prepare_coordinator(4)?;
    cluster.spawn(Node::Coordinator(4))?;
    let fourth = format!("4@{}", cluster.coordinator_address(4));
    wait::until_ok("the fourth coordinator votes", || quorum(&three, &["add", &fourth]).map(drop))?;
    let known = members(&three)?;
    ensure!(known.keys().eq(&[1, 2, 3, 4]) && !known.values().any(|said| said.contains("learner")), "{known:?}");
    some()?;

    // Brokers follow: the new one leads, and every call goes there.
    quorum(&three, &["transfer", "4"])?;
    ensure!(leader(&three)? == 4, "{:?}", members(&three)?);
    some()?;

    // The one that goes says so in one line, and ends.
    quorum(&three, &["remove", "1"])?;
    let status = cluster.wait(Node::Coordinator(1))?;
    ensure!(status.code() == Some(1), "{status}");
    let log = cluster.log_text(Node::Coordinator(1))?;
    ensure!(log.lines().last().is_some_and(|line| line.contains("was removed from the quorum")), "{log}");
    let others = addresses(cluster, &[2, 3, 4]);
    some()?;

    // A member loses its disk. It must not vote again; it is removed, and another disk is added under its id.
    let lost = if leader(&others)? == 2 { 3 } else { 2 };
    cluster.kill(Node::Coordinator(lost))?;
    std::fs::remove_dir_all(cluster.data_folder(Node::Coordinator(lost))?)?;
    cluster.spawn(Node::Coordinator(lost))?;
    let status = cluster.wait(Node::Coordinator(lost))?;
    ensure!(status.code() == Some(1), "{status}");
    let log = cluster.log_text(Node::Coordinator(lost))?;
    ensure!(log.lines().last().is_some_and(|line| line.contains("must not vote")), "{log}");
    quorum(&others, &["remove", &lost.to_string()])?;
    cluster.spawn(Node::Coordinator(lost))?;
    let member = format!("{lost}@{}", cluster.coordinator_address(lost));
    wait::until_ok("another disk votes", || quorum(&others, &["add", &member]).map(drop))?;
    ensure!(members(&others)?.keys().eq(&[2, 3, 4]), "{:?}", members(&others)?);
    some()?;

    // Only members that were added live, or have another disk, are left to lead.
    quorum(&others, &["transfer", &lost.to_string()])?;
    some()
}
