//! Coordinators come, go and are replaced while the cluster runs.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_client::{Client, ClientConfig, NewTopic};
use ottla_e2e::cluster::binary;
use ottla_e2e::{Cluster, Node, clients, wait};
use ottla_model::ErrorCode;

/// `ottla quorum`, asked of these coordinators.
fn quorum(at: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary("ottla")?);
    clients::run(command.arg("quorum").args(arguments).args(["--coordinators", at]))
}

fn addresses(cluster: &Cluster, ids: &[u64]) -> String {
    ids.iter().map(|id| cluster.coordinator_address(*id)).collect::<Vec<_>>().join(",")
}

/// By id, what `ottla quorum members` says of each.
fn members(at: &str) -> Result<BTreeMap<u64, String>> {
    let out = quorum(at, &["members"])?;
    let line = |line: &str| {
        let (id, rest) = line.split_once("  ")?;
        Some((id.parse().ok()?, rest.to_owned()))
    };
    Ok(out.lines().filter_map(line).collect())
}

fn leader(at: &str) -> Result<u64> {
    let members = members(at)?;
    members.iter().find(|(_, said)| said.contains("quorum leader")).map(|(id, _)| *id).context("no leader")
}

/// Creates twenty topics a second until it is stopped. No call may fail; returns how many it made, and the longest one.
fn create_topics(bootstrap: &str, is_stopped: &AtomicBool, made: &AtomicU32) -> Result<Duration> {
    const INTERVAL: Duration = Duration::from_millis(50);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
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
    })
}

/// From three to four and back, and a member whose disk is gone is replaced: no call of a writer fails.
#[test]
fn the_quorum_grows_shrinks_and_replaces_a_lost_disk_under_a_writer() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let bootstrap = cluster.bootstrap();
    let (is_stopped, made) = (AtomicBool::new(false), AtomicU32::new(0));
    let longest = std::thread::scope(|scope| {
        let writer = scope.spawn(|| create_topics(&bootstrap, &is_stopped, &made));
        let story = change_members(&mut cluster, &made);
        is_stopped.store(true, Ordering::Relaxed);
        let longest = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        story.and(longest)
    })?;
    let count = made.load(Ordering::Relaxed);
    println!("{count} topics, the longest call took {} ms", longest.as_millis());
    cluster.settle()?;
    let listed = clients::run(&mut clients::tool("kafka-topics", &bootstrap, &["--list"])?)?;
    let found = listed.lines().filter(|line| line.starts_with('t')).count();
    ensure!(u32::try_from(found)? == count, "{found} of {count} topics");
    Ok(())
}

fn change_members(cluster: &mut Cluster, made: &AtomicU32) -> Result<()> {
    // Some topics before and after each step.
    let some = || {
        let before = made.load(Ordering::Relaxed);
        wait::until_ok("the writer goes on", || {
            ensure!(made.load(Ordering::Relaxed) > before + 20, "still {before}");
            Ok(())
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

#[test]
fn mistakes_with_members_are_told_in_one_line() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let at = addresses(&cluster, &[1, 2, 3]);
    let second = format!("2@{}", cluster.coordinator_address(2));
    let other = format!("4@{}", cluster.coordinator_address(2));
    for (arguments, text) in [
        (vec!["add", "4@127.0.0.1:1"], "no coordinator answers"),
        (vec!["add", other.as_str()], "coordinator 2, not 4, answers"),
        (vec!["add", "four"], "expected ID@host:port"),
        (vec!["remove", "9"], "not a member"),
        (vec!["transfer", "9"], "not a voter"),
    ] {
        let error = format!("{:#}", quorum(&at, &arguments).err().context("it is refused")?);
        ensure!(error.contains(text), "{arguments:?}: {error}");
    }
    quorum(&at, &["add", &second])?;
    // Two of three are needed: with one away, none may go.
    let away = if leader(&at)? == 3 { 2 } else { 3 };
    let goes = if away == 2 { "1" } else { "2" };
    let goes = if leader(&at)?.to_string() == goes { "1" } else { goes };
    cluster.kill(Node::Coordinator(away))?;
    let refusal = |arguments: &[&str]| -> Result<String> {
        Ok(format!("{:#}", quorum(&at, arguments).err().context("it is done")?))
    };
    wait::until_ok("the silence is noticed", || {
        let error = refusal(&["transfer", &away.to_string()])?;
        ensure!(error.contains("does not answer"), "{error}");
        Ok(())
    })?;
    let error = refusal(&["remove", goes])?;
    ensure!(error.contains("lack a majority"), "{error}");
    Ok(())
}

/// A quorum that is lost goes on from a snapshot of one of its members.
#[test]
fn a_lost_quorum_is_restored_from_a_snapshot() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let bootstrap = cluster.bootstrap();
    let topic = ["--create", "--topic", "kept", "--partitions", "3", "--replication-factor", "3"];
    clients::run(&mut clients::tool("kafka-topics", &bootstrap, &topic)?)?;
    // Two of three are enough for an answer, and the leader is one of them: another one may not have heard of it.
    let last = leader(&addresses(&cluster, &[1, 2, 3]))?;
    for id in [1, 2, 3] {
        cluster.kill(Node::Coordinator(id))?;
    }
    let folder = |cluster: &Cluster, id| cluster.data_folder(Node::Coordinator(id));
    let coordinator = |arguments: &[&str]| clients::run(Command::new(binary("ottla-coordinator")?).args(arguments));
    let (first_text, file_text) =
        (folder(&cluster, 1)?.display().to_string(), cluster.folder().join("tree").display().to_string());
    let last_text = folder(&cluster, last)?.display().to_string();
    let checked = coordinator(&["check", &last_text])?;
    let sound = format!("sound: coordinator {last}, voters 1,2,3");
    ensure!(checked.starts_with(&sound) && checked.contains("1 topics"), "{checked}");
    coordinator(&["snapshot", &last_text, &file_text])?;
    for id in [1, 2, 3] {
        std::fs::remove_dir_all(folder(&cluster, id)?)?;
    }
    let address = cluster.coordinator_address(1);
    let restored = coordinator(&["restore", &file_text, &first_text, "--id", "1", "--address", &address])?;
    ensure!(restored.contains("to be added with empty data directories: 2,3"), "{restored}");
    coordinator(&["check", &first_text])?;
    for id in [1, 2, 3] {
        cluster.spawn(Node::Coordinator(id))?;
    }
    for id in [2, 3] {
        let member = format!("{id}@{}", cluster.coordinator_address(id));
        wait::until_ok("it is added", || quorum(&address, &["add", &member]).map(drop))?;
    }
    ensure!(members(&address)?.keys().eq(&[1, 2, 3]), "{:?}", members(&address)?);
    wait::until_ok("the brokers go on", || {
        let create = ["--create", "--topic", "new", "--if-not-exists", "--replication-factor", "3"];
        clients::run(&mut clients::tool("kafka-topics", &bootstrap, &create)?).map(drop)
    })?;
    cluster.settle()?;
    let listed = clients::run(&mut clients::tool("kafka-topics", &bootstrap, &["--list"])?)?;
    ensure!(listed.contains("kept") && listed.contains("new"), "{listed}");
    Ok(())
}
