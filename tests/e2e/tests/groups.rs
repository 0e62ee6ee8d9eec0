//! Groups of many kinds of consumers on a real cluster: brokers are killed and return, members crash, leave and join,
//! topics grow.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command};

use anyhow::{Context as _, Result, bail, ensure};
use ottla_e2e::groups::{Group, Tongue, moment};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};

/// Sessions as short as classic members request, so that a crash is detected within a test.
fn options() -> ClusterOptions {
    ClusterOptions::default()
        .with("group.initial.rebalance.delay.ms", "500")
        .with("group.consumer.min.session.timeout.ms", "6000")
        .with("group.consumer.session.timeout.ms", "6000")
}

fn members(library: &str, protocol: &str, bootstrap: &str, group: &str, topic: &str, count: usize) -> Group {
    members_with(library, protocol, bootstrap, group, topic, count, None)
}

fn members_with(
    library: &str,
    protocol: &str,
    bootstrap: &str,
    group: &str,
    topic: &str,
    count: usize,
    setting: Option<&str>,
) -> Group {
    let arguments = [library, protocol, bootstrap, group, topic, &count.to_string()].map(str::to_owned);
    let arguments: Vec<String> = arguments.into_iter().chain(setting.map(str::to_owned)).collect();
    Group::new(group, Tongue::Members, move || {
        clients::python_script("group_members.py", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    })
}

/// Kafka's Java consumer, where its jars are.
fn java_members(protocol: &str, bootstrap: &str, group: &str, topic: &str, settings: &str) -> Option<Group> {
    // The session of the consumer protocol is the broker's to say.
    let session = if protocol == "classic" { &["--session-timeout", "6000"][..] } else { &[] };
    let arguments: Vec<String> = [
        "--bootstrap-server",
        bootstrap,
        "--topic",
        topic,
        "--group-id",
        group,
        "--group-protocol",
        protocol,
        "--reset-policy",
        "earliest",
        "--command-config",
        settings,
    ]
    .iter()
    .chain(session)
    .map(|argument| (*argument).to_owned())
    .collect();
    let command = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        clients::java("org.apache.kafka.tools.VerifiableConsumer", &arguments)
    };
    command()?;
    // Checked before: the jars exist.
    Some(Group::new(group, Tongue::Verifiable, move || command().unwrap_or_else(|| Command::new("java"))))
}

fn our_members(bootstrap: &str, group: &str, topic: &str) -> Result<Group> {
    let tool = clients::tool("kafka-console-consumer", bootstrap, &[])?;
    let program = tool.get_program().to_owned();
    let arguments: Vec<String> = [
        "--bootstrap-server",
        bootstrap,
        "--group",
        group,
        "--topic",
        topic,
        "--from-beginning",
        "--formatter-property",
        "print.partition=true",
        "--formatter-property",
        "print.offset=true",
        "--formatter-property",
        "print.value=false",
        "--formatter-property",
        "key.separator= ",
        "--command-property",
        "session.timeout.ms=6000",
        "--command-property",
        "heartbeat.interval.ms=500",
        "--command-property",
        "auto.commit.interval.ms=500",
    ]
    .map(str::to_owned)
    .to_vec();
    Ok(Group::new(group, Tongue::Offsets, move || {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(&program);
        command.arg0("kafka-console-consumer").args(&arguments);
        command
    }))
}

fn kcat_members(bootstrap: &str, group: &str, topic: &str) -> Group {
    let arguments: Vec<String> = [
        "-b",
        bootstrap,
        "-G",
        group,
        "-u",
        "-f",
        "%p %o\n",
        "-X",
        "auto.offset.reset=earliest",
        "-X",
        "session.timeout.ms=6000",
        "-X",
        "heartbeat.interval.ms=500",
        "-X",
        "auto.commit.interval.ms=500",
        "-X",
        "topic.metadata.refresh.interval.ms=1000",
        // kcat ends when librdkafka says that all brokers are down: each was lost, and none has been connected to
        // since. Brokers are killed one after the other here, and it must have come back to the former ones.
        "-X",
        "reconnect.backoff.max.ms=200",
        "-X",
        "enable.sparse.connections=false",
        topic,
    ]
    .map(str::to_owned)
    .to_vec();
    Group::new(group, Tongue::Offsets, move || {
        let mut command = Command::new("kcat");
        command.args(&arguments);
        command
    })
    .committing_unprinted()
}

/// `steady_producer.py`, until it is stopped.
struct Writer(Child);

impl Writer {
    fn start(bootstrap: &str, topic: &str, first: i32, partitions: i32, pause_s: &str) -> Result<Self> {
        let numbers = [partitions.to_string(), first.to_string()];
        let [count, first] = &numbers;
        let mut child = clients::start_script("steady_producer.py", &[bootstrap, topic, count, pause_s, first])?;
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().context("its output is a pipe")?).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the producer said {line:?}");
        Ok(Self(child))
    }

    /// Stops it; how many records were acknowledged, none of them missing.
    fn stop(mut self) -> Result<u64> {
        writeln!(self.0.stdin.take().context("its input is a pipe")?, "stop")?;
        let mut out = String::new();
        self.0.stdout.take().context("its output is a pipe")?.read_to_string(&mut out)?;
        ensure!(self.0.wait()?.success(), "the producer failed: {out}");
        let told: serde_json::Value = serde_json::from_str(out.trim())?;
        ensure!(told["missing"] == 0 && told["unsent"] == 0, "{told}");
        told["acknowledged"].as_u64().context("a number of records")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_tool(name: &str, bootstrap: &str, arguments: &[&str]) -> Result<String> {
    clients::run(&mut clients::tool(name, bootstrap, arguments)?)
}

fn create_topic(bootstrap: &str, topic: &str, partitions: i32, replicas: i32) -> Result<()> {
    clients::run_script("create_topic.py", &[bootstrap, topic, &partitions.to_string(), &replicas.to_string()])
        .map(drop)
}

fn ends(bootstrap: &str, topic: &str) -> Result<BTreeMap<i32, i64>> {
    let told = run_tool("kafka-get-offsets", bootstrap, &["--topic", topic])?;
    told.lines()
        .map(|line| {
            let mut numbers = line.rsplit(':');
            let end = numbers.next().context("an end")?.parse()?;
            Ok((numbers.next().context("a partition")?.parse()?, end))
        })
        .collect()
}

fn wait_in_sync(bootstrap: &str) -> Result<()> {
    wait::until_ok("all replicas in sync", || {
        let behind = run_tool("kafka-topics", bootstrap, &["--describe", "--under-replicated-partitions"])?;
        ensure!(behind.is_empty(), "{behind}");
        Ok(())
    })
}

/// A group with how many crews of how many members it has.
type Crewed = (Group, usize, usize);

/// Every client's groups at once, of 1, 3 and 50 members, while each broker in turn, and with it the coordinators of
/// some groups, is killed and comes back; members crash, leave and join in between, and the topic gets more partitions.
#[test]
fn groups_of_every_client_live_through_kills() -> Result<()> {
    live_through_kills("soak", 48, 2, |cluster, topic| {
        let all = cluster.bootstrap();
        let mut groups: Vec<Crewed> = Vec::new();
        for protocol in ["classic", "cooperative", "consumer"] {
            groups.push((members("confluent", protocol, &all, &format!("one-{protocol}"), topic, 1), 1, 1));
            groups.push((members("confluent", protocol, &all, &format!("three-{protocol}"), topic, 1), 3, 1));
        }
        groups.push((members("confluent", "classic", &all, "fifty-classic", topic, 10), 5, 10));
        groups.push((members("confluent", "consumer", &all, "fifty-consumer", topic, 10), 5, 10));
        groups.push((members("aiokafka", "classic", &all, "aiokafka", topic, 1), 3, 1));
        groups.push((our_members(&all, "ours", topic)?, 3, 1));
        match clients::have("kcat") {
            true => groups.push((kcat_members(&all, "kcat", topic), 2, 1)),
            false => eprintln!("without kcat: it is not installed"),
        }
        let settings = cluster.folder().join("java.properties");
        std::fs::write(&settings, "metadata.max.age.ms=1000\n")?;
        for protocol in ["classic", "consumer"] {
            match java_members(protocol, &all, &format!("java-{protocol}"), topic, &settings.display().to_string()) {
                Some(group) => groups.push((group, 2, 1)),
                None => eprintln!("without Java's {protocol} consumer: OTTLA_KAFKA_JARS names no folder with its jars"),
            }
        }
        Ok(groups)
    })
}

/// The same for kafka-python alone, whose members do not always find back into their group when a topic grows on a
/// machine that is busy.
#[test]
fn kafka_pythons_groups_live_through_kills() -> Result<()> {
    live_through_kills("soak-python", 12, 0, |cluster, topic| {
        Ok(vec![(members("kafka-python", "classic", &cluster.bootstrap(), "kafka-python", topic, 1), 3, 1)])
    })
}

fn live_through_kills(
    topic: &str,
    partitions: i32,
    more: i32,
    recruit: impl FnOnce(&Cluster, &str) -> Result<Vec<Crewed>>,
) -> Result<()> {
    let mut cluster = Cluster::start_with(options())?;
    let all = cluster.bootstrap();
    create_topic(&all, topic, partitions, 3)?;
    let writer = Writer::start(&all, topic, 0, partitions, "0.5")?;
    let mut groups = recruit(&cluster, topic)?;
    for (group, crews, _) in &mut groups {
        for _ in 0..*crews {
            group.join()?;
        }
    }
    let settled = |groups: &mut [Crewed], what: &str| -> Result<()> {
        for (group, crews, each) in groups {
            group.wait_settled(partitions, *crews * *each).with_context(|| {
                let describe = ["--describe", "--group", &group.name, "--members", "--verbose"];
                let members = run_tool("kafka-consumer-groups", &all, &describe);
                format!("{what}; the coordinator says: {members:?}; members of partition 0:\n{}", group.history(0))
            })?;
        }
        Ok(())
    };
    settled(&mut groups, "at first")?;

    for broker in 1..=3 {
        cluster.kill(Node::Broker(broker))?;
        for (group, crews, _) in groups.iter_mut().filter(|(_, crews, _)| *crews > 1) {
            match broker {
                1 => {
                    group.crash()?;
                    group.join()?;
                }
                2 => {
                    group.leave()?;
                    *crews -= 1;
                }
                _ => {
                    group.join()?;
                    *crews += 1;
                }
            }
        }
        cluster.spawn(Node::Broker(broker))?;
        cluster.wait_ready()?;
        wait_in_sync(&all)?;
        settled(&mut groups, &format!("after broker {broker} was killed"))?;
    }

    if more > 0 {
        let total = (partitions + more).to_string();
        run_tool("kafka-topics", &all, &["--alter", "--topic", topic, "--partitions", &total])?;
        cluster.settle()?;
        ensure!(
            Writer::start(&all, topic, partitions, more, "0.2")?.stop()? > 0,
            "nothing was written to the new partitions"
        );
    }
    ensure!(writer.stop()? > 0, "nothing was written");

    let ends = ends(&all, topic)?;
    ensure!(ends.len() == usize::try_from(partitions + more)?, "{ends:?}");
    for (group, ..) in &mut groups {
        group.wait_read(&ends)?;
    }
    for (group, ..) in &mut groups {
        group.end()?;
    }
    for (group, ..) in &groups {
        // Only librdkafka distinguishes a loss from a revocation.
        let is_librdkafkas = ["one-", "three-", "fifty-"].iter().any(|prefix| group.name.starts_with(prefix));
        group.check(is_librdkafkas)?;
        committed_everything(&all, &group.name)?;
    }
    Ok(())
}

/// Members that left have committed their positions: there is no lag.
fn committed_everything(bootstrap: &str, group: &str) -> Result<()> {
    let table = run_tool("kafka-consumer-groups", bootstrap, &["--describe", "--group", group])?;
    let mut rows = 0;
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with("GROUP ")) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        ensure!(columns.get(5) == Some(&"0"), "{group} lags: {line}");
        rows += 1;
    }
    ensure!(rows > 0, "{group} has committed nothing:\n{table}");
    Ok(())
}

/// A member keeps the partitions that it need not revoke while others join and leave.
#[test]
fn cooperative_members_keep_what_they_need_not_give_up() -> Result<()> {
    const TOPIC: &str = "kept";
    // Long sessions: on a busy machine a member may stand still for seconds, and one whose session ends loses what the
    // others are then given.
    let options = options().with("group.consumer.session.timeout.ms", "60000");
    let cluster = Cluster::start_with(options)?;
    let all = cluster.bootstrap();
    create_topic(&all, TOPIC, 12, 3)?;
    for protocol in ["cooperative", "consumer"] {
        let session = (protocol == "cooperative").then_some("session.timeout.ms=60000");
        let mut group = members_with("confluent", protocol, &all, protocol, TOPIC, 1, session);
        for _ in 0..3 {
            group.join()?;
        }
        group.wait_balanced(12, 3)?;
        let before = moment();
        group.join()?;
        group.wait_balanced(12, 4)?;
        let moved = group.revoked_since(before);
        ensure!(moved == 3, "{protocol}: {moved} of 12 partitions moved when a fourth member joined three");
        let (before, owners) = (moment(), group.owners());
        group.leave()?;
        group.wait_balanced(12, 3)?;
        let leaver = group.revoked_since(before);
        let after = group.owners();
        let kept = owners.iter().filter(|(at, owner)| after.get(at) == Some(owner)).count();
        let story = || format!("{owners:?}, then {after:?}: {}", group.ownership_since(before));
        ensure!(leaver <= 3, "{protocol}: {leaver} partitions were revoked when a member with three left: {}", story());
        ensure!(kept == 9, "{protocol}: {kept} of 9 partitions stayed where they were: {}", story());
        group.end()?;
        group.check(true)?;
    }
    Ok(())
}

/// A static member that returns within its session gets its former partitions, and the other members are not affected.
#[test]
fn static_members_come_back_to_what_they_had() -> Result<()> {
    const TOPIC: &str = "fixed";
    // A member must be back within its session: on a busy machine Python alone takes seconds to start.
    let options = options().with("group.consumer.session.timeout.ms", "60000");
    let cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..options })?;
    let all = cluster.bootstrap();
    create_topic(&all, TOPIC, 6, 1)?;
    for protocol in ["classic", "consumer"] {
        let crew = |name: &str, instance: &str| {
            let session = (protocol == "classic").then(|| "session.timeout.ms=30000".to_owned());
            let arguments: Vec<String> = ["confluent", protocol, &all, protocol, TOPIC, "1"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("group.instance.id={instance}")])
                .chain(session)
                .collect();
            Group::new(name, Tongue::Members, move || {
                clients::python_script("group_members.py", &arguments.iter().map(String::as_str).collect::<Vec<_>>())
            })
        };
        let (mut steady, mut restarted) = (crew("steady", "a"), crew("restarted", "b"));
        steady.join()?;
        restarted.join()?;
        steady.wait_owned("two static members share", |owned| owned.len() == 3)?;
        restarted.wait_owned("two static members share", |owned| owned.len() == 3)?;
        let (before, had) = (moment(), restarted.owners().into_keys().collect::<Vec<_>>());
        // One of the consumer protocol says that it will be back; a classic one need not say anything.
        match protocol {
            "consumer" => restarted.leave()?,
            _ => restarted.crash()?,
        }
        restarted.join()?;
        restarted.wait_owned("the static member is back with what it had", |owned| owned == had)?;
        let noticed = steady.revoked_since(before);
        ensure!(noticed == 0, "{protocol}: the other member lost {noticed} partitions");
        steady.end()?;
        restarted.end()?;
    }
    Ok(())
}

/// Kafka's tool for groups and ours say the same of our groups; both reset offsets and delete groups.
#[test]
fn kafkas_group_tool_and_ours_agree() -> Result<()> {
    const TOPIC: &str = "described";
    const CLASS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    if clients::java(CLASS, &[]).is_none() {
        ottla_test_support::skipped("OTTLA_KAFKA_JARS names no folder with Apache Kafka's jars");
        return Ok(());
    }
    let cluster = Cluster::start_with(options())?;
    let all = cluster.bootstrap();
    create_topic(&all, TOPIC, 4, 3)?;
    let writer = Writer::start(&all, TOPIC, 0, 4, "0.05")?;
    let mut groups = Vec::new();
    for protocol in ["classic", "consumer"] {
        let mut group = members("confluent", protocol, &all, protocol, TOPIC, 2);
        group.join()?;
        group.wait_settled(4, 2)?;
        groups.push(group);
    }
    writer.stop()?;
    let ends = ends(&all, TOPIC)?;
    for group in &mut groups {
        group.wait_read(&ends)?;
    }
    let both = |arguments: &[&str]| -> Result<String> {
        let line = [&["--bootstrap-server", &all], arguments].concat();
        let theirs = clients::run(&mut clients::java(CLASS, &line).context("the jars were there")?)?;
        let ours = run_tool("kafka-consumer-groups", &all, arguments)?;
        // Rows come in the order of a hash table there.
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
            lines.sort();
            lines
        };
        ensure!(sorted(&theirs) == sorted(&ours), "{arguments:?}: Kafka's tool\n{theirs}\nours\n{ours}");
        Ok(theirs)
    };
    wait::until_ok("the last commits are there", || {
        for group in ["classic", "consumer"] {
            committed_everything(&all, group)?;
        }
        Ok(())
    })?;
    let listed = both(&["--list", "--state", "--type"])?;
    ensure!(listed.contains("Classic") && listed.contains("Consumer") && listed.contains("Stable"), "{listed}");
    both(&["--describe", "--all-groups", "--verbose"])?;
    both(&["--describe", "--all-groups", "--members", "--verbose"])?;
    both(&["--describe", "--all-groups", "--state", "--verbose"])?;
    for group in &mut groups {
        group.end()?;
    }
    let reset = both(&["--reset-offsets", "--group", "classic", "--topic", TOPIC, "--to-earliest", "--execute"])?;
    ensure!(reset.lines().filter(|line| line.starts_with("classic ")).count() == 4, "{reset}");
    let lags = both(&["--describe", "--group", "classic"])?;
    let total: i64 = lags.lines().filter_map(|line| line.split_whitespace().nth(5)?.parse::<i64>().ok()).sum();
    ensure!(total == ends.values().sum::<i64>(), "{lags}");
    run_tool("kafka-consumer-groups", &all, &["--delete", "--group", "classic"])?;
    let line = ["--bootstrap-server", &all, "--delete", "--group", "consumer"];
    let deleted = clients::run(&mut clients::java(CLASS, &line).context("the jars were there")?)?;
    ensure!(deleted.contains("was successful"), "{deleted}");
    let left = both(&["--list"])?;
    ensure!(left.trim().is_empty(), "{left}");
    formatted(&all)
}

/// The cluster's group data is in Kafka's formats: Kafka's console consumer reads it.
fn formatted(all: &str) -> Result<()> {
    for (formatter, wanted) in [
        (
            "org.apache.kafka.tools.consumer.OffsetsMessageFormatter",
            ["\"group\":\"classic\"", "\"topic\":\"described\"", "\"offset\":"],
        ),
        (
            "org.apache.kafka.tools.consumer.GroupMetadataMessageFormatter",
            ["\"group\":\"classic\"", "\"protocolType\":\"consumer\"", "\"generation\":"],
        ),
    ] {
        let line = [
            "--bootstrap-server",
            all,
            "--topic",
            "__consumer_offsets",
            "--from-beginning",
            "--formatter",
            formatter,
            "--timeout-ms",
            "8000",
        ];
        let command = clients::java("org.apache.kafka.tools.consumer.ConsoleConsumer", &line);
        let mut command = command.context("the jars were there")?;
        // A JVM that starts, connects and joins for longer than its time-out has shown nothing.
        wait::until_ok(&format!("{formatter} shows the group"), || {
            let told = clients::run(&mut command)?;
            match wanted.iter().find(|wanted| !told.contains(*wanted)) {
                Some(missing) => bail!("no {missing}:\n{told}"),
                None => Ok(()),
            }
        })?;
    }
    Ok(())
}

/// One broker alone has groups: the offsets topic has the replicas that there can be.
#[test]
fn a_single_broker_has_groups() -> Result<()> {
    const TOPIC: &str = "alone";
    let cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
    let all = cluster.bootstrap();
    create_topic(&all, TOPIC, 3, 1)?;
    let writer = Writer::start(&all, TOPIC, 0, 3, "0.02")?;
    let mut groups = [
        members("confluent", "classic", &all, "classic", TOPIC, 2),
        members("confluent", "consumer", &all, "consumer", TOPIC, 2),
    ];
    for group in &mut groups {
        group.join()?;
    }
    for group in &mut groups {
        group.wait_settled(3, 2)?;
    }
    writer.stop()?;
    let ends = ends(&all, TOPIC)?;
    for group in &mut groups {
        group.wait_read(&ends)?;
        group.end()?;
        group.check(true)?;
        committed_everything(&all, &group.name)?;
    }
    Ok(())
}
