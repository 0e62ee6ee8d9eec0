//! Coordinators come, go and are replaced while the cluster runs.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::cluster::binary;
use ottla_e2e::quorum::{addresses, change_members, create_topics, leader, members, quorum};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use rustix::process::Signal;

/// From three to four and back, and a member whose disk is gone is replaced: no call of a writer fails.
#[test]
fn the_quorum_grows_shrinks_and_replaces_a_lost_disk_under_a_writer() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let bootstrap = cluster.bootstrap();
    let (is_stopped, made) = (AtomicBool::new(false), AtomicU32::new(0));
    let longest = std::thread::scope(|scope| {
        let writer = scope.spawn(|| create_topics(&bootstrap, &is_stopped, &made));
        let story = change_members(&mut cluster, &is_stopped, &made);
        is_stopped.store(true, Ordering::Relaxed);
        let longest = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        longest.and_then(|longest| story.map(|()| longest))
    })?;
    let count = made.load(Ordering::Relaxed);
    println!("{count} topics, the longest call took {} ms", longest.as_millis());
    cluster.settle()?;
    let listed = clients::run(&mut clients::tool("kafka-topics", &bootstrap, &["--list"])?)?;
    let found = listed.lines().filter(|line| line.starts_with('t')).count();
    ensure!(u32::try_from(found)? == count, "{found} of {count} topics");
    Ok(())
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

/// A byte of a coordinator's write-ahead log is another one. It started without what followed, and could have voted
/// twice; now it ends with a line that has the steps.
#[test]
fn a_coordinator_with_a_damaged_log_is_refused_and_replaced() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions { brokers: 1, ..ClusterOptions::default() })?;
    let at = cluster.bootstrap();
    for number in 0..5 {
        let topic = format!("topic-{number}");
        clients::run(&mut clients::tool("kafka-topics", &at, &["--create", "--topic", &topic])?)?;
    }
    let damaged = Node::Coordinator(3);
    cluster.kill(damaged)?;
    let folder = cluster.data_folder(damaged)?;
    let logs = std::fs::read_dir(folder.join("quorum"))?.filter_map(Result::ok).map(|entry| entry.path());
    let logs: Vec<_> = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    let [log] = logs.as_slice() else { anyhow::bail!("{logs:?}") };
    let whole = std::fs::read(log)?;
    let mut spoilt = whole.clone();
    *spoilt.get_mut(whole.len() / 2).context("it is not empty")? ^= 1;
    std::fs::write(log, spoilt)?;
    cluster.spawn(damaged)?;
    let status = cluster.wait(damaged)?;
    let said = cluster.log_text(damaged)?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(status.code() == Some(1) && last.contains("its write-ahead log is damaged at byte "), "{status}: {said}");
    ensure!(last.contains("ottla quorum remove"), "{last}");
    // A power loss within the last write is no damage.
    std::fs::write(log, whole.get(..whole.len() - 3).context("it is longer")?)?;
    cluster.spawn(damaged)?;
    let two = addresses(&cluster, &[1, 2]);
    let all_answer = || {
        let known = members(&two)?;
        ensure!(known.keys().eq(&[1, 2, 3]) && !known.values().any(|said| said.contains("silent")), "{known:?}");
        Ok(())
    };
    wait::until_ok("it votes again", all_answer)?;
    cluster.kill(damaged)?;
    quorum(&two, &["remove", "3"])?;
    std::fs::remove_dir_all(&folder)?;
    cluster.spawn(damaged)?;
    let third = format!("3@{}", cluster.coordinator_address(3));
    wait::until_ok("it is added", || quorum(&two, &["add", &third]).map(drop))?;
    wait::until_ok("it votes again", all_answer)
}

/// What happened after the snapshot is not in the restored tree. Leader epochs were given out again, which no follower
/// takes whose log has a later one, and logs were deleted that nobody else had.
#[test]
fn a_quorum_that_is_restored_from_an_old_snapshot_leads_and_deletes_no_log() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    for (topic, assignment) in [("stays", "1:2:3"), ("moved", "1"), ("moved-too", "1")] {
        let create = ["--create", "--topic", topic, "--replica-assignment", assignment];
        clients::run(&mut clients::tool("kafka-topics", &at, &create)?)?;
    }
    let write = |topic: &str, text: &str| {
        // A retry is no second record, also where leaders change meanwhile.
        let once = "-X enable.idempotence=true -X message.timeout.ms=60000";
        let send = format!("echo {text} | kcat -b {at} -P -t {topic} {once}");
        clients::run(Command::new("sh").args(["-c", &send])).map(drop)
    };
    for topic in ["moved", "moved-too"] {
        write(topic, "before")?;
    }
    cluster.kill(Node::Coordinator(3))?;
    let folder = |cluster: &Cluster, id| cluster.data_folder(Node::Coordinator(id));
    let coordinator = |arguments: &[&str]| clients::run(Command::new(binary("ottla-coordinator")?).args(arguments));
    let file = cluster.folder().join("tree").display().to_string();
    coordinator(&["snapshot", &folder(&cluster, 3)?.display().to_string(), &file])?;
    cluster.spawn(Node::Coordinator(3))?;

    let plan = cluster.folder().join("plan.json");
    let moves = r#"{"version":1,"partitions":[{"topic":"moved","partition":0,"replicas":[2]},
        {"topic":"moved-too","partition":0,"replicas":[3]}]}"#;
    std::fs::write(&plan, moves)?;
    let plan = plan.display().to_string();
    let reassign = |action: &str| {
        let arguments = [action, "--reassignment-json-file", &plan];
        clients::run(&mut clients::tool("kafka-reassign-partitions", &at, &arguments)?)
    };
    reassign("--execute")?;
    wait::until_ok("it is moved", || {
        let out = reassign("--verify")?;
        ensure!(out.matches("is completed").count() == 2, "{out}");
        Ok(())
    })?;
    for topic in ["moved", "moved-too"] {
        write(topic, "after")?;
    }
    // The epochs of its leaders grow: each of them leads with a log that ends in its own.
    for id in [1, 2, 1] {
        cluster.signal(Node::Broker(id), Signal::TERM)?;
        cluster.wait(Node::Broker(id))?;
        write("stays", "without")?;
        cluster.spawn(Node::Broker(id))?;
        cluster.wait_ready()?;
        cluster.settle()?;
        write("stays", "with")?;
    }

    // The host of one broker loses its power meanwhile, and the others run on.
    cluster.kill(Node::Broker(3))?;
    let registration = cluster.data_folder(Node::Broker(3))?.join(".ottla_registration");
    let text = std::fs::read_to_string(&registration)?;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    ensure!(text.contains(boot_id.trim()), "{text}");
    std::fs::write(&registration, text.replace(boot_id.trim(), "00000000-0000-0000-0000-000000000000"))?;
    for id in [1, 2, 3] {
        cluster.kill(Node::Coordinator(id))?;
        std::fs::remove_dir_all(folder(&cluster, id)?)?;
    }
    let address = cluster.coordinator_address(1);
    let first = folder(&cluster, 1)?.display().to_string();
    coordinator(&["restore", &file, &first, "--id", "1", "--address", &address])?;
    for id in [1, 2, 3] {
        cluster.spawn(Node::Coordinator(id))?;
    }
    for id in [2, 3] {
        let member = format!("{id}@{}", cluster.coordinator_address(id));
        wait::until_ok("it is added", || quorum(&address, &["add", &member]).map(drop))?;
    }
    cluster.spawn(Node::Broker(3))?;
    wait::until_ok("all replicas are in sync again", || {
        let out = clients::run(&mut clients::tool("kafka-topics", &at, &["--describe", "--topic", "stays"])?)?;
        ensure!(out.contains("Isr: 1,2,3"), "{out}");
        Ok(())
    })?;
    write("stays", "restored")?;
    let read = clients::run(&mut clients::kcat(&["-b", &at, "-C", "-t", "stays", "-e", "-q"]))?;
    ensure!(read == format!("{}restored\n", "without\nwith\n".repeat(3)), "{read}");
    for (topic, broker) in [("moved", 2), ("moved-too", 3)] {
        let kept = wait::until_ok("the log is set aside", || {
            let mut entries = std::fs::read_dir(cluster.data_folder(Node::Broker(broker))?)?.filter_map(Result::ok);
            let kept = entries.find(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                name.starts_with(&format!("{topic}-0.")) && name.ends_with("-stray")
            });
            Ok(kept.with_context(|| format!("broker {broker} has none"))?.path())
        })?;
        let records = std::fs::read(kept.join("00000000000000000000.log"))?;
        let has = |text: &[u8]| records.windows(text.len()).any(|window| window == text);
        ensure!(has(b"before") && has(b"after"), "{topic}: {} bytes", records.len());
    }
    Ok(())
}
