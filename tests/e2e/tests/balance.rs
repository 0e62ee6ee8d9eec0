//! Brokers join and leave while partitions are written to and read by a group.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use rustix::process::Signal;

const RECORDS: u32 = 6_000;
const PARTITIONS: usize = 12;

fn ottla(bootstrap: &str, arguments: &[&str]) -> Result<Command> {
    let mut command = clients::tool("ottla", bootstrap, arguments)?;
    command.stdin(Stdio::null());
    Ok(command)
}

/// A writer that writes each number once, over some seconds.
fn writer(bootstrap: &str, topic: &str) -> Result<Child> {
    let send = format!(
        "for i in $(seq 1 {RECORDS}); do echo $i; [ $((i % 10)) = 0 ] && sleep 0.02; done | kcat -b {bootstrap} -P -t \
         {topic} -X acks=all -X enable.idempotence=true -X linger.ms=0 -X message.timeout.ms=60000"
    );
    Command::new("sh").args(["-c", &send]).spawn().context("the writer starts")
}

/// A member of a group; what it reads goes to a file.
fn member(cluster: &Cluster, topic: &str) -> Result<(Child, PathBuf)> {
    let path = cluster.folder().join("read");
    let at = cluster.bootstrap();
    let child = Command::new("kcat")
        .args([
            "-b",
            &at,
            "-G",
            "followers",
            "-q",
            "-u",
            "-X",
            "auto.offset.reset=earliest",
            "-f",
            "%p %o %s\\n",
            topic,
        ])
        .stdout(std::fs::File::create(&path)?)
        .stderr(std::fs::File::create(path.with_extension("err"))?)
        .spawn()?;
    Ok((child, path))
}

/// What the member has read. One that has ended will not read more.
fn read_so_far(member: &mut Child, path: &Path) -> Result<String> {
    if let Some(status) = member.try_wait()? {
        let told = std::fs::read_to_string(path.with_extension("err"))?;
        bail!("the member ended with {status}: {told}");
    }
    Ok(std::fs::read_to_string(path)?)
}

/// The numbers of each partition by offset. A member reads an offset again if a commit of it was lost: never another
/// record there, and never one that is out of order.
fn numbers(text: &str) -> Result<BTreeMap<i32, BTreeMap<i64, u32>>> {
    let mut partitions: BTreeMap<i32, BTreeMap<i64, u32>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let mut word = || words.next().with_context(|| line.to_owned());
        let (partition, offset, number) = (word()?.parse()?, word()?.parse()?, word()?.parse()?);
        let before = partitions.entry(partition).or_default().insert(offset, number);
        ensure!(before.is_none_or(|before| before == number), "two records at {partition}@{offset}");
    }
    Ok(partitions)
}

fn check(partitions: &BTreeMap<i32, BTreeMap<i64, u32>>) -> Result<()> {
    let mut all: Vec<u32> = partitions.values().flat_map(|offsets| offsets.values().copied()).collect();
    ensure!(partitions.values().all(|offsets| offsets.values().is_sorted()), "out of order");
    all.sort_unstable();
    ensure!(all == (1..=RECORDS).collect::<Vec<_>>(), "{} records", all.len());
    Ok(())
}

/// How many replicas of the topic, or of all topics, each broker has, as kafka-topics shows them.
fn replicas(bootstrap: &str, topic: Option<&str>) -> Result<BTreeMap<i32, usize>> {
    let mut describe = vec!["--describe"];
    describe.extend(topic.into_iter().flat_map(|topic| ["--topic", topic]));
    let out = clients::run(&mut clients::tool("kafka-topics", bootstrap, &describe)?)?;
    let mut counts = BTreeMap::new();
    for (_, rest) in out.lines().filter_map(|line| line.split_once("\tReplicas: ")) {
        for id in rest.split('\t').next().unwrap_or_default().split(',') {
            *counts.entry(id.trim().parse()?).or_default() += 1;
        }
    }
    Ok(counts)
}

#[test]
fn a_broker_joins_and_another_leaves_under_a_writer_and_a_group() -> Result<()> {
    let mut cluster = Cluster::prepare(&ClusterOptions { brokers: 4, ..ClusterOptions::default() })?;
    for node in cluster.nodes().into_iter().filter(|node| *node != Node::Broker(4)) {
        cluster.spawn(node)?;
    }
    let at = cluster.bootstrap();
    let wait_for_brokers = |cluster: &Cluster, count: usize| {
        wait::until_ok("the brokers are there", || {
            let ids = clients::broker_ids(cluster.broker_address(1))?;
            ensure!(ids.len() == count, "{ids:?}");
            Ok(())
        })
    };
    wait_for_brokers(&cluster, 3)?;
    cluster.wait_ready()?;
    let assignment = ["1:2", "2:3", "3:1"].repeat(PARTITIONS / 3).join(",");
    let create = ["--create", "--topic", "shared", "--replica-assignment", &assignment];
    clients::run(&mut clients::tool("kafka-topics", &at, &create)?)?;
    cluster.settle()?;
    let mut writer = writer(&at, "shared")?;
    let (mut member, path) = member(&cluster, "shared")?;
    // The topic of the group's offsets is made with the group: none of its replicas is to be on the next broker.
    wait::until("the group reads", || Ok(!read_so_far(&mut member, &path)?.is_empty()))?;
    cluster.settle()?;

    cluster.spawn(Node::Broker(4))?;
    wait_for_brokers(&cluster, 4)?;
    cluster.settle()?;
    let out = clients::run(&mut ottla(&at, &["rebalance", "plan"])?)?;
    ensure!(out.contains(" partitions move: ") && out.contains("\nbroker 4: "), "{out}");
    ensure!(!replicas(&at, None)?.contains_key(&4), "a plan alone moves nothing");
    let out = clients::run(&mut ottla(&at, &["rebalance", "plan", "--execute", "--wave-partitions", "2"])?)?;
    ensure!(out.ends_with("all brokers hold their shares\n"), "{out}");
    cluster.settle()?;
    // Within 5 % of the mean; which topics move is the plan's choice.
    let held = replicas(&at, None)?;
    let total: usize = held.values().sum();
    let is_share = |count: &usize| (total * 95 / 400..=(total * 105).div_ceil(400)).contains(count);
    ensure!(held.len() == 4 && held.values().all(is_share), "{held:?}");

    let out = clients::run(&mut ottla(&at, &["broker", "drain", "2", "--keep"])?)?;
    ensure!(out.ends_with("broker 2 holds no replica\n"), "{out}");
    clients::run(&mut clients::tool("kafka-topics", &at, &["--create", "--topic", "later", "--partitions", "9"])?)?;
    cluster.settle()?;
    for topic in ["shared", "later"] {
        let held = replicas(&at, Some(topic))?;
        ensure!(!held.contains_key(&2), "{topic}: {held:?}");
    }
    let mut drain = ottla(&at, &["broker", "drain", "2"])?.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(drain.stdout.take().context("its output")?).lines();
    let is_empty = |line: &String| line.ends_with("stop it; it is unregistered then");
    ensure!(lines.by_ref().map_while(Result::ok).any(|line| is_empty(&line)), "the drain ended too early");
    cluster.signal(Node::Broker(2), Signal::TERM)?;
    cluster.wait(Node::Broker(2))?;
    let last = lines.last().transpose()?;
    ensure!(drain.wait()?.success() && last.as_deref() == Some("broker 2 is unregistered"), "{last:?}");

    ensure!(writer.wait()?.success(), "a record was not acknowledged");
    let read = ["-b", &at, "-C", "-t", "shared", "-e", "-q", "-f", "%p %o %s\\n"];
    check(&numbers(&clients::run(&mut clients::kcat(&read))?)?)?;
    let has_read = wait::until_ok("the group has read all", || {
        let text = match read_so_far(&mut member, &path) {
            Ok(text) => text,
            Err(ended) => return Ok(Err(ended)),
        };
        // A line may be half written.
        check(&numbers(text.rsplit_once('\n').map_or("", |(whole, _)| whole))?)?;
        Ok(Ok(()))
    });
    has_read.flatten()?;
    member.kill()?;
    member.wait()?;
    Ok(())
}

/// The lines of a command until one begins like this.
fn until(lines: &mut impl Iterator<Item = String>, start: &str) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    for line in lines {
        seen.push(line);
        if seen.last().is_some_and(|line| line.starts_with(start)) {
            return Ok(seen);
        }
    }
    anyhow::bail!("it ended without {start:?}: {seen:?}")
}

#[test]
fn a_broker_that_joins_takes_its_share_by_itself() -> Result<()> {
    let mut cluster = Cluster::prepare(&ClusterOptions { brokers: 4, ..ClusterOptions::default() })?;
    for node in cluster.nodes().into_iter().filter(|node| *node != Node::Broker(4)) {
        cluster.spawn(node)?;
    }
    let at = cluster.bootstrap();
    cluster.wait_ready()?;
    // Broker 3 has nothing.
    let assignment = ["1:2", "2:1"].repeat(PARTITIONS / 2).join(",");
    let create = ["--create", "--topic", "shared", "--replica-assignment", &assignment];
    clients::run(&mut clients::tool("kafka-topics", &at, &create)?)?;
    cluster.settle()?;
    writer(&at, "shared")?.wait()?;

    let watch = ["rebalance", "auto", "--watch", "--wave-partitions", "3"];
    let mut auto = ottla(&at, &watch)?.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(auto.stdout.take().context("its output")?).lines().map_while(Result::ok);
    let story = (|| {
        let seen = until(&mut lines, "balanced")?;
        ensure!(seen.iter().any(|line| line.contains(" partitions move: ")), "{seen:?}");
        cluster.settle()?;
        ensure!(replicas(&at, Some("shared"))?.contains_key(&3));
        cluster.spawn(Node::Broker(4))?;
        until(&mut lines, "broker 4 has joined")?;
        until(&mut lines, "balanced").map(drop)
    })();
    auto.kill()?;
    auto.wait()?;
    story?;
    cluster.settle()?;
    // Within 5 % of the mean, or one more or less.
    let held = replicas(&at, None)?;
    let total: usize = held.values().sum();
    ensure!(held.len() == 4 && held.values().all(|count| (total / 4).abs_diff(*count) <= 1), "{held:?}");
    let once = clients::run(&mut ottla(&at, &["rebalance", "auto"])?)?;
    ensure!(once == "balanced\n", "{once}");
    // What it moved at is set no more.
    for (kind, name) in [("topics", "shared"), ("brokers", "1"), ("brokers", "4")] {
        let describe = ["--describe", "--entity-type", kind, "--entity-name", name];
        let out = clients::run(&mut clients::tool("kafka-configs", &at, &describe)?)?;
        ensure!(!out.contains("throttled"), "{out}");
    }
    Ok(())
}

/// The bytes of a topic's segments on a broker.
fn topic_bytes(cluster: &Cluster, broker: i32, topic: &str) -> Result<u64> {
    let is_of_topic = |name: &std::ffi::OsStr| {
        name.to_str().and_then(|name| name.strip_prefix(topic)?.strip_prefix('-')?.parse::<u32>().ok()).is_some()
    };
    let folders = std::fs::read_dir(cluster.data_folder(Node::Broker(broker))?)?.flatten();
    let mut bytes = 0;
    for folder in folders.filter(|folder| is_of_topic(&folder.file_name())) {
        let files = std::fs::read_dir(folder.path())?.flatten().map(|file| file.path());
        let segments = files.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
        bytes += segments.filter_map(|path| Some(path.metadata().ok()?.len())).sum::<u64>();
    }
    Ok(bytes)
}

/// How many partitions of the topic each broker leads.
fn leaders(bootstrap: &str, topic: &str) -> Result<BTreeMap<i32, usize>> {
    let out = clients::run(&mut clients::tool("kafka-topics", bootstrap, &["--describe", "--topic", topic])?)?;
    let mut counts = BTreeMap::new();
    for (_, rest) in out.lines().filter_map(|line| line.split_once("\tLeader: ")) {
        *counts.entry(rest.split('\t').next().unwrap_or_default().trim().parse()?).or_default() += 1;
    }
    Ok(counts)
}

/// Three brokers with 40 partitions of one size, two replicas each; a fourth one joins without any.
#[test]
fn an_empty_broker_gets_its_share_and_nothing_moves_that_need_not() -> Result<()> {
    const COUNT: usize = 40;
    const BYTES: usize = 200_000;
    /// Within 5 % of the mean.
    const OF_100: u64 = 5;
    let mut cluster = Cluster::prepare(&ClusterOptions { brokers: 4, ..ClusterOptions::default() })?;
    for node in cluster.nodes().into_iter().filter(|node| *node != Node::Broker(4)) {
        cluster.spawn(node)?;
    }
    cluster.wait_ready()?;
    let at = cluster.bootstrap();
    let assignment: Vec<_> = ["1:2", "2:3", "3:1"].into_iter().cycle().take(COUNT).collect();
    let create = ["--create", "--topic", "even", "--replica-assignment", &assignment.join(",")];
    clients::run(&mut clients::tool("kafka-topics", &at, &create)?)?;
    let fill = format!(
        "for p in $(seq 0 {}); do head -c {BYTES} /dev/zero | tr '\\0' x | kcat -b {at} -P -t even -p $p -D '~' \
         -X acks=all || exit 1; done",
        COUNT - 1
    );
    clients::run(Command::new("sh").args(["-c", &fill]))?;
    cluster.spawn(Node::Broker(4))?;
    cluster.wait_ready()?;
    let out = clients::run(&mut ottla(&at, &["rebalance", "auto", "--throttle", "0"])?)?;
    ensure!(out.ends_with("balanced\n"), "{out}");

    let moved: Vec<usize> = out
        .lines()
        .filter(|line| line.contains(" partitions move: "))
        .map(|line| line.split(' ').next().unwrap_or_default().parse())
        .collect::<Result<_, _>>()?;
    // The fourth broker is within the tolerance with 95 % of its quarter: no plan moves less.
    let least = (2 * COUNT * 95).div_ceil(400);
    let moved: usize = moved.iter().sum();
    ensure!(moved >= least && moved * 10 <= least * 11, "{moved} replicas moved, at least {least} must: {out}");
    wait::until_ok("bytes and leaders are even", || {
        let bytes: Vec<u64> = (1..=4).map(|id| topic_bytes(&cluster, id, "even")).collect::<Result<_>>()?;
        let mean = bytes.iter().sum::<u64>() / 4;
        ensure!(bytes.iter().all(|own| own.abs_diff(mean) * 100 <= mean * OF_100), "{bytes:?}");
        let led = leaders(&at, "even")?;
        ensure!(led.len() == 4 && led.values().all(|count| *count == COUNT / 4), "{led:?}");
        Ok(())
    })
}

/// It said `balanced` at once, and the throttles stayed for ever.
#[test]
fn a_rebalance_that_is_started_again_ends_what_the_first_one_has_left() -> Result<()> {
    let cluster = Cluster::start_with(ClusterOptions { brokers: 2, ..ClusterOptions::default() })?;
    let at = cluster.bootstrap();
    let create = ["--create", "--topic", "heavy", "--replica-assignment", "1,1,1,1"];
    clients::run(&mut clients::tool("kafka-topics", &at, &create)?)?;
    let fill = format!(
        "for p in 0 1 2 3; do head -c 400000 /dev/zero | tr '\\0' x | kcat -b {at} -P -t heavy -p $p -D '~' \
         -X acks=all || exit 1; done"
    );
    clients::run(Command::new("sh").args(["-c", &fill]))?;
    let under_way = || clients::run(&mut clients::tool("kafka-reassign-partitions", &at, &["--list"])?);
    // Minutes for each partition.
    let slow = ["rebalance", "plan", "--execute", "--throttle", "1024"];
    let mut first = ottla(&at, &slow)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    wait::until("replicas move", || Ok(under_way()?.contains("adding: 2")))?;
    first.kill()?;
    first.wait()?;
    ensure!(under_way()?.contains("adding: 2"), "it is done already");
    let out = clients::run(&mut ottla(&at, &["rebalance", "auto"])?)?;
    ensure!(out.ends_with("balanced\n"), "{out}");
    ensure!(!under_way()?.contains("adding"), "it has not waited: {}", under_way()?);
    let describe = ["--describe", "--entity-type", "brokers"];
    let configs = clients::run(&mut clients::tool("kafka-configs", &at, &describe)?)?;
    ensure!(!configs.contains("throttled.rate"), "{configs}");
    Ok(())
}
