//! What heals by itself after a loss, and what a person has to say: the rows of that table in docs/operations.md that
//! no other test shows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::quorum::{addresses, leader, members, quorum};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use rustix::process::Signal;

fn tool(bootstrap: &str, name: &str, arguments: &[&str]) -> Result<String> {
    clients::run(&mut clients::tool(name, bootstrap, arguments)?)
}

fn create(bootstrap: &str, topic: &str, assignment: &str) -> Result<()> {
    let arguments = ["--create", "--topic", topic, "--replica-assignment", assignment];
    tool(bootstrap, "kafka-topics", &arguments).map(drop)
}

/// Writes the numbers from `from` to `to`, one record each, with acks=all.
fn write(bootstrap: &str, topic: &str, from: u32, to: u32) -> Result<()> {
    let send = format!("seq {from} {to} | kcat -b {bootstrap} -P -t {topic} -X acks=all -X message.timeout.ms=60000");
    clients::run(Command::new("sh").args(["-c", &send])).map(drop)
}

fn wait_to_read(bootstrap: &str, topic: &str, to: u32) -> Result<()> {
    wait::until_ok("everything is read", || {
        let out = clients::run(&mut clients::kcat(&["-b", bootstrap, "-C", "-t", topic, "-e", "-q"]))?;
        let read: BTreeSet<u32> = out.lines().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(read == (1..=to).collect(), "{} of {to}", read.len());
        Ok(())
    })
}

/// The word behind `name` in each partition's line.
fn described(bootstrap: &str, topic: &str, name: &str) -> Result<Vec<String>> {
    let out = tool(bootstrap, "kafka-topics", &["--describe", "--topic", topic])?;
    let words = out.lines().filter(|line| line.contains("Partition: ")).filter_map(|line| line.split_once(name));
    Ok(words.map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default().to_owned()).collect())
}

fn wait_in_sync(bootstrap: &str, topic: &str, replicas: usize) -> Result<()> {
    wait::until_ok("all replicas are in sync", || {
        let isr = described(bootstrap, topic, "Isr: ")?;
        ensure!(isr.iter().all(|members| members.split(',').count() == replicas), "{isr:?}");
        Ok(())
    })
}

fn wait_for_leaders(bootstrap: &str, topic: &str, wanted: &[&str]) -> Result<()> {
    wait::until_ok("the leaders are those", || {
        let leaders = described(bootstrap, topic, "Leader: ")?;
        ensure!(leaders == wanted, "{leaders:?}");
        Ok(())
    })
}

/// The log directory of a broker that has this partition.
fn directory_of(directories: &[PathBuf], partition: &str) -> Result<PathBuf> {
    let found = directories.iter().find(|directory| directory.join(partition).is_dir());
    found.cloned().with_context(|| format!("no directory has {partition}"))
}

#[test]
fn a_broker_with_a_new_disk_fetches_everything_again() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    create(&at, "kept", "1:2:3,2:3:1,3:1:2")?;
    write(&at, "kept", 1, 500)?;
    cluster.kill(Node::Broker(1))?;
    std::fs::remove_dir_all(cluster.data_folder(Node::Broker(1))?)?;
    write(&at, "kept", 501, 600)?;
    cluster.spawn(Node::Broker(1))?;
    cluster.wait_ready()?;
    wait_in_sync(&at, "kept", 3)?;
    wait_for_leaders(&at, "kept", &["1", "2", "3"])?;
    // What the new disk has is enough.
    cluster.kill(Node::Broker(2))?;
    cluster.kill(Node::Broker(3))?;
    wait_for_leaders(&at, "kept", &["1", "1", "1"])?;
    wait_to_read(&at, "kept", 600)
}

/// A disk that does not mount: something else lies where the log directory was. What other brokers have is fetched
/// again to the disk that is left; a partition that is nowhere else has no leader until the disk is back.
#[test]
fn a_disk_of_a_broker_is_away_and_comes_back() -> Result<()> {
    let mut cluster = Cluster::prepare(&ClusterOptions::default())?;
    let folder = cluster.data_folder(Node::Broker(1))?;
    let directories = [folder.join("a"), folder.join("b")];
    let listed = directories.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",");
    cluster.set_variable(Node::Broker(1), "KAFKA_LOG_DIRS", &listed)?;
    cluster.spawn_all()?;
    let at = cluster.bootstrap();
    create(&at, "kept", "1:2:3,1:3:2,1:2:3,1:3:2")?;
    // A new partition goes to the directory with the fewest.
    create(&at, "alone", "1,1")?;
    write(&at, "kept", 1, 300)?;
    write(&at, "alone", 1, 300)?;
    let lost = directory_of(&directories, "alone-0")?;
    let other = directory_of(&directories, "alone-1")?;
    ensure!(lost != other, "both partitions are in {}", lost.display());

    let was_lost = |number: &usize| lost.join(format!("kept-{number}")).is_dir();
    let moved: Vec<usize> = (0..4).filter(was_lost).collect();
    ensure!((1..4).contains(&moved.len()), "both directories have partitions of `kept`, the lost one {moved:?}");
    let aside = |path: &Path| path.with_extension("away");
    cluster.kill(Node::Broker(1))?;
    std::fs::rename(&lost, aside(&lost))?;
    std::fs::write(&lost, "no directory")?;
    cluster.spawn(Node::Broker(1))?;
    cluster.wait_ready()?;
    wait_for_leaders(&at, "alone", &["none", "1"])?;
    wait_in_sync(&at, "kept", 3)?;
    wait_for_leaders(&at, "kept", &["1", "1", "1", "1"])?;
    for number in moved {
        ensure!(other.join(format!("kept-{number}")).is_dir(), "kept-{number} is not on the disk that is left");
    }
    write(&at, "kept", 301, 600)?;

    cluster.kill(Node::Broker(1))?;
    std::fs::remove_file(&lost)?;
    std::fs::rename(aside(&lost), &lost)?;
    cluster.spawn(Node::Broker(1))?;
    cluster.wait_ready()?;
    wait_for_leaders(&at, "alone", &["1", "1"])?;
    wait_for_leaders(&at, "kept", &["1", "1", "1", "1"])?;
    wait_to_read(&at, "alone", 300)?;
    wait_to_read(&at, "kept", 600)
}

#[test]
fn a_broker_that_is_lost_is_decommissioned() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions { brokers: 4, ..ClusterOptions::default() })?;
    let at = cluster.bootstrap();
    create(&at, "kept", "1:2:3,2:3:1,3:1:2")?;
    write(&at, "kept", 1, 500)?;
    cluster.kill(Node::Broker(1))?;
    std::fs::remove_dir_all(cluster.data_folder(Node::Broker(1))?)?;
    wait::until_ok("the quorum knows", || {
        let ids = clients::broker_ids(cluster.broker_address(2))?;
        ensure!(!ids.contains(&1), "{ids:?}");
        Ok(())
    })?;
    // The broker that is down cannot be throttled, and sends nothing.
    tool(&at, "ottla", &["broker", "decommission", "1", "--throttle", "100000000"])?;
    wait_in_sync(&at, "kept", 3)?;
    let replicas = described(&at, "kept", "Replicas: ")?;
    ensure!(!replicas.iter().any(|ids| ids.split(',').any(|id| id == "1")), "{replicas:?}");
    let known = tool(&at, "kafka-cluster", &["list-endpoints", "--include-fenced-brokers"])?;
    ensure!(!known.lines().any(|line| line.starts_with("1 ")), "{known}");
    write(&at, "kept", 501, 600)?;
    wait_to_read(&at, "kept", 600)
}

#[test]
fn a_rack_is_lost_and_comes_back() -> Result<()> {
    const PARTITIONS: usize = 8;
    let mut cluster = Cluster::prepare(&ClusterOptions { brokers: 4, ..ClusterOptions::default() })?;
    for (id, rack) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
        cluster.set_variable(Node::Broker(id), "KAFKA_BROKER_RACK", rack)?;
    }
    cluster.spawn_all()?;
    let at = cluster.bootstrap();
    let partitions = PARTITIONS.to_string();
    let spread = ["--create", "--topic", "kept", "--partitions", &partitions, "--replication-factor", "2"];
    tool(&at, "kafka-topics", &spread)?;
    write(&at, "kept", 1, 500)?;
    let leaders = described(&at, "kept", "Leader: ")?;
    for id in [1, 2] {
        cluster.signal(Node::Broker(id), Signal::KILL)?;
    }
    for id in [1, 2] {
        cluster.wait(Node::Broker(id))?;
    }
    wait::until_ok("the other rack leads", || {
        let leaders = described(&at, "kept", "Leader: ")?;
        ensure!(leaders.iter().all(|leader| ["3", "4"].contains(&leader.as_str())), "{leaders:?}");
        Ok(())
    })?;
    write(&at, "kept", 501, 600)?;
    for id in [1, 2] {
        cluster.spawn(Node::Broker(id))?;
    }
    cluster.wait_ready()?;
    wait_in_sync(&at, "kept", 2)?;
    let before: Vec<&str> = leaders.iter().map(String::as_str).collect();
    ensure!(before.len() == PARTITIONS, "{before:?}");
    wait_for_leaders(&at, "kept", &before)?;
    wait_to_read(&at, "kept", 600)
}

/// Coordinator 5 was away when 4 was removed: it knows 4 with its former disk, and says so. The word of one member does
/// not end the coordinator that took the place; the others know better when they answer again.
#[test]
fn one_member_that_lags_does_not_end_a_replaced_coordinator() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions { coordinators: 5, brokers: 1, ..ClusterOptions::default() })?;
    let three = addresses(&cluster, &[1, 2, 3]);
    wait::until_ok("all five vote and have caught up", || {
        let known = members(&three)?;
        ensure!(known.len() == 5 && !known.values().any(|said| said.contains("silent")), "{known:?}");
        Ok(())
    })?;
    if leader(&three)? > 3 {
        quorum(&three, &["transfer", "1"])?;
    }
    for id in [4, 5] {
        cluster.kill(Node::Coordinator(id))?;
    }
    std::fs::remove_dir_all(cluster.data_folder(Node::Coordinator(4))?)?;
    quorum(&three, &["remove", "4"])?;
    for id in [1, 2, 3] {
        cluster.signal(Node::Coordinator(id), Signal::STOP)?;
    }
    cluster.spawn(Node::Coordinator(5))?;
    cluster.spawn(Node::Coordinator(4))?;
    wait::until_ok("coordinator 5 disputes the disk of coordinator 4", || {
        let log = cluster.log_text(Node::Coordinator(4))?;
        ensure!(log.contains("coordinator 5 ") && log.contains("the other members decide"), "{log}");
        Ok(())
    })?;
    for id in [1, 2, 3] {
        cluster.signal(Node::Coordinator(id), Signal::CONT)?;
    }
    let fourth = format!("4@{}", cluster.coordinator_address(4));
    wait::until_ok("coordinator 4 is added", || quorum(&three, &["add", &fourth]).map(drop))?;
    wait::until_ok("all five vote", || {
        let known = members(&three)?;
        ensure!(known.keys().eq(&[1, 2, 3, 4, 5]), "{known:?}");
        ensure!(!known.values().any(|said| said.contains("silent") || said.contains("learner")), "{known:?}");
        Ok(())
    })?;
    let ended = cluster.ended()?;
    ensure!(ended.is_empty(), "{ended:?} ended");
    Ok(())
}

/// The table of docs/operations.md: its last column names a test, which exists in a file of that name.
#[test]
fn each_row_of_the_table_is_a_test() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/operations.md"))?;
    let (_, section) = page.split_once("## What heals by itself").context("the section")?;
    let (section, _) = section.split_once("\n## ").context("the next section")?;
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| ") && line.ends_with("` |")).collect();
    ensure!(rows.len() > 10, "{rows:?}");
    let folders = ["tests/e2e/tests", "tests/chaos/tests", "crates/broker/src/data_path_tests"];
    for row in rows {
        let words: Vec<&str> = row.split('`').collect();
        let [.., file, _, function, _] = words.as_slice() else { anyhow::bail!("{row}") };
        let texts = folders.iter().filter_map(|folder| std::fs::read_to_string(root.join(folder).join(file)).ok());
        // Those that take a minute are ignored, and `make soak` runs them.
        let is_test = |text: String| {
            let before = text.split_once(&format!("\nfn {function}(")).map(|(before, _)| before);
            before.and_then(|before| before.rsplit("\n\n").next()).is_some_and(|item| item.contains("#[test]"))
        };
        ensure!(texts.into_iter().any(is_test), "{row}: no such test");
    }
    Ok(())
}
