//! ZooKeeper's clients against the client port of real coordinators: kazoo, the shell of ZooKeeper's Java package, and
//! clients that speak the protocol badly.

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, kafka, wait};
use serde_json::{Value, json};

/// The script `zookeeper_client.py`.
struct Kazoo {
    process: Child,
    commands: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Kazoo {
    fn start(hosts: &str) -> Result<Self> {
        let mut command = clients::python_script("zookeeper_client.py", &[hosts]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let commands = process.stdin.take().context("its input")?;
        let lines = BufReader::new(process.stdout.take().context("its output")?).lines();
        Ok(Self { process, commands, lines })
    }

    fn say(&mut self, command: &str) -> Result<()> {
        writeln!(self.commands, "{command}").context("the client has ended")
    }

    /// The next line for which `wanted` finds something. The client ends with an error if its cluster does not answer.
    fn hear<T>(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> Option<T>) -> Result<T> {
        for line in &mut self.lines {
            let line = line?;
            let value = serde_json::from_str(&line).with_context(|| line.clone())?;
            if let Some(found) = wanted(&value) {
                return Ok(found);
            }
        }
        anyhow::bail!("the client ended before it told: {what}")
    }

    fn hear_topics(&mut self, topics: &[&str]) -> Result<()> {
        let topics = json!(topics);
        self.hear(&format!("the topics {topics}"), |line| (line["topics"] == topics).then_some(()))
    }

    fn hear_port(&mut self) -> Result<u64> {
        self.hear("its server", |line| line["port"].as_u64())
    }
}

impl Drop for Kazoo {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn kazoo_reads_and_watches_the_tree_and_its_session_moves() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions { coordinators: 3, brokers: 1, ..ClusterOptions::default() })?;
    let hosts: Vec<String> = (1..=3).map(|id| cluster.coordinator_address(id)).collect();
    let mut kazoo = Kazoo::start(&hosts.join(","))?;
    let port = kazoo.hear_port()?;
    let read = kazoo.hear("what it read", |line| line.get("children").is_some().then(|| line.clone()))?;
    // goldens: zookeeper-shell ls /, and the tree's own part.
    let top = ["admin", "brokers", "cluster", "config", "consumers", "controller", "controller_epoch", "feature"];
    let top = top.into_iter().chain(["isr_change_notification", "latest_producer_id_block"]);
    let top: Vec<&str> = top.chain(["log_dir_event_notification", "ottla", "zookeeper"]).collect();
    ensure!(read["children"]["/"] == json!(top), "{read}");
    ensure!(read["children"]["/brokers"] == json!(["ids", "seqid", "topics"]), "{read}");
    ensure!(read["children"]["/brokers/ids"] == json!(["1"]), "{read}");
    ensure!(read["broker"]["version"] == 5 && read["controller"]["brokerid"] == 1, "{read}");
    ensure!(read["ephemeral"] == true && read["missing"] == true, "{read}");

    let bootstrap = cluster.bootstrap();
    kazoo.hear_topics(&[])?;
    clients::run_script("create_topic.py", &[&bootstrap, "first", "1", "1"])?;
    kazoo.hear_topics(&["first"])?;
    let server = hosts.iter().position(|host| host.ends_with(&format!(":{port}"))).context("one of three")? + 1;
    cluster.kill(Node::Coordinator(u64::try_from(server)?))?;
    let moved = kazoo.hear_port()?;
    ensure!(moved != port, "it is connected to a dead coordinator");
    clients::run_script("create_topic.py", &[&bootstrap, "second", "1", "1"])?;
    kazoo.hear_topics(&["first", "second"])?;

    kazoo.say("delete first")?;
    kazoo.hear_topics(&["second"])?;
    kazoo.say("write")?;
    kazoo.hear("the refusal", |line| (line["error"] == "NotReadOnlyCallError").then_some(()))?;
    kazoo.say("sync")?;
    kazoo.hear("a sync", |line| (line["done"] == "sync").then_some(()))?;
    kazoo.say("end")?;
    ensure!(kazoo.hear("its session", |line| line["same_session"].as_bool())?, "the session did not move");
    Ok(())
}

/// The leader and the size of the ISR of a topic's only partition.
fn leader(bootstrap: &str, topic: &str) -> Result<(u32, usize)> {
    let described = clients::run(&mut clients::tool("kafka-topics", bootstrap, &["--describe", "--topic", topic])?)?;
    let word = |name: &str| described.split_once(name)?.1.split_whitespace().next();
    let leader = word("Leader: ").with_context(|| described.clone())?.parse()?;
    let isr = word("Isr: ").with_context(|| described.clone())?.split(',').count();
    Ok((leader, isr))
}

#[test]
fn kazoo_elects_leaders_as_kafkas_old_tool_did() -> Result<()> {
    let options = ClusterOptions { coordinators: 1, brokers: 2, ..ClusterOptions::default() };
    let mut cluster = Cluster::start_with(options.with("auto.leader.rebalance.enable", "false"))?;
    let at = cluster.bootstrap();
    let create = ["--create", "--topic", "led", "--replica-assignment", "1:2"];
    clients::run(&mut clients::tool("kafka-topics", &at, &create)?)?;
    cluster.kill(Node::Broker(1))?;
    let wait = |wanted| {
        wait::until_ok("the leader and its ISR", || {
            let found = leader(&at, "led")?;
            ensure!(found == wanted, "{found:?}");
            Ok(())
        })
    };
    wait((2, 1))?;
    cluster.spawn(Node::Broker(1))?;
    wait((2, 2))?;
    let mut kazoo = Kazoo::start(&cluster.coordinator_address(1))?;
    kazoo.say("elect led 0")?;
    kazoo.hear("the election", |line| (line["done"] == "elect").then_some(()))?;
    wait((1, 2))?;
    // The node is gone, as when a controller has seen to it; nothing is left to elect.
    kazoo.say("elect led 0")?;
    kazoo.hear("another election", |line| (line["done"] == "elect").then_some(()))
}

/// Every coordinator takes the writes; two of three ask the one that leads.
#[test]
fn kazoo_configures_topics_and_brokers_as_kafkas_old_tool_did() -> Result<()> {
    let options = ClusterOptions { coordinators: 3, brokers: 1, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options)?;
    let at = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&at, "configured", "1", "1"])?;
    let mut watcher = Kazoo::start(&cluster.coordinator_address(1))?;
    let wrote = |line: &Value| line.get("configured").is_some().then(|| line.clone());
    watcher.say("configure topics configured retention.ms=1000 cleanup.policy=compact")?;
    let first = watcher.hear("the configuration", wrote)?;
    ensure!(first["config"] == json!({"retention.ms": "1000", "cleanup.policy": "compact"}), "{first}");
    for id in 1..=3_u64 {
        let mut kazoo = Kazoo::start(&cluster.coordinator_address(id))?;
        kazoo.say(&format!("configure topics configured retention.ms=200{id}"))?;
        let written = kazoo.hear("the configuration", wrote)?;
        let expected = json!({"retention.ms": format!("200{id}")});
        ensure!(written["config"] == expected, "all entries are replaced: {written}");
        ensure!(written["version"].as_u64() == first["version"].as_u64().map(|version| version + id), "{written}");
        ensure!(written["notified"].as_str().is_some_and(|path| path.starts_with("/config/changes/config_change_0")));
        watcher.hear("the change", |line| (line["config"] == expected && line["event"] == "CHANGED").then_some(()))?;
    }
    let describe = ["--describe", "--entity-type", "topics", "--entity-name", "configured"];
    wait::until_ok("the broker knows the topic's configuration", || {
        let described = clients::run(&mut clients::tool("kafka-configs", &at, &describe)?)?;
        ensure!(described.contains("retention.ms=2003"), "{described}");
        ensure!(!described.contains("cleanup.policy"), "{described}");
        Ok(())
    })?;
    watcher.say("configure brokers 1 log.cleaner.threads=2")?;
    watcher.hear("the broker's configuration", wrote)?;
    let describe = ["--describe", "--entity-type", "brokers", "--entity-name", "1"];
    wait::until_ok("the broker has it", || {
        let described = clients::run(&mut clients::tool("kafka-configs", &at, &describe)?)?;
        ensure!(described.contains("log.cleaner.threads=2"), "{described}");
        Ok(())
    })?;
    let failed = |line: &Value| line.get("failed").is_some().then(|| line["error"].clone());
    watcher.say("configure topics configured retention.ms=soon")?;
    ensure!(watcher.hear("the refusal", failed)? == "BadArgumentsError");
    watcher.say("configure topics not-there retention.ms=1000")?;
    ensure!(watcher.hear("the refusal", failed)? == "NotReadOnlyCallError");
    Ok(())
}

/// What Kafka 3.9 still does by way of ZooKeeper: the configuration of a broker that does not run.
#[test]
fn kafkas_own_tool_configures_a_broker_that_is_down() -> Result<()> {
    let Some(jars) = kafka::broker_jars() else { return Ok(()) };
    let cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
    let server = cluster.coordinator_address(1);
    let configs = |arguments: &[&str]| {
        let entity = ["--zookeeper", &server, "--entity-type", "brokers", "--entity-name", "7"];
        clients::run(kafka::java(&jars, "kafka.admin.ConfigCommand").args(entity).args(arguments))
    };
    let altered = configs(&["--alter", "--add-config", "log.cleaner.threads=2,background.threads=11"])?;
    ensure!(altered.contains("Completed updating config for entity: brokers '7'."), "{altered}");
    configs(&["--alter", "--delete-config", "background.threads"])?;
    let described = configs(&["--describe"])?;
    ensure!(described.contains("log.cleaner.threads=2"), "{described}");
    ensure!(!described.contains("background.threads"), "{described}");
    Ok(())
}

/// The first users are made before any broker runs. Kafka's tool makes the keys itself.
#[test]
fn kafkas_own_tool_makes_a_user_without_a_broker() -> Result<()> {
    let Some(jars) = kafka::broker_jars() else { return Ok(()) };
    let mut cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
    cluster.kill(Node::Broker(1))?;
    let server = cluster.coordinator_address(1);
    let user = ["--zookeeper", &server, "--entity-type", "users", "--entity-name", "alice"];
    let credentials = ["--alter", "--add-config", "SCRAM-SHA-256=[password=secret],SCRAM-SHA-512=[password=secret]"];
    let altered = clients::run(kafka::java(&jars, "kafka.admin.ConfigCommand").args(user).args(credentials))?;
    ensure!(altered.contains("Completed updating config for entity: user-principal 'alice'."), "{altered}");
    cluster.spawn(Node::Broker(1))?;
    let describe = ["--describe", "--entity-type", "users", "--entity-name", "alice"];
    let described = clients::run(&mut clients::tool("kafka-configs", &cluster.bootstrap(), &describe)?)?;
    let expected = "SCRAM-SHA-256=iterations=4096, SCRAM-SHA-512=iterations=4096";
    ensure!(described.contains(expected), "{described}");
    Ok(())
}

/// Two brokers: the second is down for a while, so that the reassignment is seen under way.
#[test]
fn kazoo_reassigns_partitions_as_kafkas_old_tool_did() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 2, ..ClusterOptions::default() })?;
    let at = cluster.bootstrap();
    let create = ["--create", "--topic", "moved", "--replica-assignment", "1"];
    clients::run(&mut clients::tool("kafka-topics", &at, &create)?)?;
    let mut kazoo = Kazoo::start(&cluster.coordinator_address(1))?;
    cluster.kill(Node::Broker(2))?;
    kazoo.say("reassign moved 0 2")?;
    let under_way = json!([{"topic": "moved", "partition": 0, "replicas": [2]}]);
    // The answer and what the watch shows come in either order.
    let (mut is_shown, mut is_taken) = (false, false);
    kazoo.hear("the reassignment, and that it was taken", |line| {
        is_shown |= line["reassignments"] == under_way;
        is_taken |= line["done"] == "reassign";
        (is_shown && is_taken).then_some(())
    })?;
    kazoo.say("reassign moved 0 1")?;
    let failed = |line: &Value| line.get("failed").is_some().then(|| line["error"].clone());
    ensure!(kazoo.hear("the refusal of a second one", failed)? == "NodeExistsError");
    cluster.spawn(Node::Broker(2))?;
    kazoo.hear("its end", |line| (line["event"] == "DELETED").then_some(()))?;
    wait::until_ok("the broker knows the new replica", || {
        let (leader, isr) = leader(&at, "moved")?;
        ensure!((leader, isr) == (2, 1), "{leader} {isr}");
        Ok(())
    })
}

/// Tools of ours that name coordinators in place of brokers, as scripts for Kafka 2 do.
#[test]
fn tools_ask_the_coordinators_where_scripts_name_zookeeper() -> Result<()> {
    let mut cluster = Cluster::start_with(ClusterOptions { coordinators: 3, brokers: 2, ..ClusterOptions::default() })?;
    let coordinators: Vec<String> = (1..=3).map(|id| cluster.coordinator_address(id)).collect();
    let coordinators = coordinators.join(",");
    let tool = |name: &str, line: &str| {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        clients::run(&mut clients::tool_of_zookeepers_era(name, &coordinators, &arguments)?)
    };
    let says = |name: &str, line: &str, expected: &str| {
        let said = tool(name, line)?;
        ensure!(said.contains(expected), "{name} {line}: {said}");
        Ok(())
    };
    let create =
        "--create --if-not-exists --partitions 4 --replication-factor 2 --topic made --config retention.ms=1000";
    says("kafka-topics", create, "Created topic made.")?;
    ensure!(tool("kafka-topics", create)?.is_empty());
    says("kafka-topics", "--list", "made\n")?;
    let described = "PartitionCount: 4\tReplicationFactor: 2\tConfigs: retention.ms=1000\n";
    says("kafka-topics", "--describe --topic made", described)?;
    let alter =
        "--alter --topic made --partitions 6 --delete-config retention.ms --config cleanup.policy=compact --force";
    says("kafka-topics", alter, "Updated config for topic made.")?;
    let described = "PartitionCount: 6\tReplicationFactor: 2\tConfigs: cleanup.policy=compact\n";
    says("kafka-topics", "--describe", described)?;
    let quota = "--alter --entity-type users --entity-name bob --entity-type clients --entity-default";
    let completed = "Completed updating config for entity: user-principal 'bob', default client-id.";
    says("kafka-configs", &format!("{quota} --add-config producer_byte_rate=1024"), completed)?;
    says("kafka-configs", "--alter --topic made --add-config max.message.bytes=100000", "entity: topic 'made'.")?;
    let described = "Configs for topic 'made' are cleanup.policy=compact,max.message.bytes=100000";
    says("kafka-configs", "--describe --entity-type topics --entity-name made", described)?;
    // The first users are made before any broker runs.
    cluster.kill(Node::Broker(1))?;
    cluster.kill(Node::Broker(2))?;
    let user = "--alter --entity-type users --entity-name alice --add-config SCRAM-SHA-512=[password=secret]";
    says("kafka-configs", user, "Completed updating config for entity: user-principal 'alice'.")?;
    let described = "Configs for user-principal 'alice' are SCRAM-SHA-512=[hidden]";
    says("kafka-configs", "--describe --entity-type users", described)?;
    let rule = "--allow-principal User:alice --operation Read --topic made";
    says("kafka-acls", &format!("--add {rule}"), "Adding ACLs for resource")?;
    says("kafka-acls", &format!("--add {rule}"), "already exists.")?;
    says("kafka-acls", "--list", "(principal=User:alice, host=*, operation=READ, permissionType=ALLOW)")?;
    tool("kafka-acls", &format!("--remove --force {rule}"))?;
    ensure!(!tool("kafka-acls", "--list")?.contains("alice"));
    let unknown = tool("kafka-configs", "--alter --entity-type users --entity-name alice --delete-config nothing");
    ensure!(unknown.is_err_and(|error| error.to_string().contains("Invalid config(s): nothing")));
    cluster.spawn(Node::Broker(1))?;
    let at = cluster.bootstrap();
    let describe = ["--describe", "--entity-type", "users"];
    let described = clients::run(&mut clients::tool("kafka-configs", &at, &describe)?)?;
    ensure!(described.contains("'alice' are SCRAM-SHA-512=iterations=4096"), "{described}");
    says("kafka-topics", "--delete --topic made", "Topic made is marked for deletion.")?;
    ensure!(tool("kafka-topics", "--list")?.is_empty());
    Ok(())
}

#[test]
fn zookeepers_own_shell_shows_what_it_showed_of_kafka() -> Result<()> {
    let Some(jars) = kafka::broker_jars() else { return Ok(()) };
    let cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
    clients::run_script("create_topic.py", &[&cluster.bootstrap(), "a.b_c", "1", "1"])?;
    let server = cluster.coordinator_address(1);
    let shell = |command: &str| -> Result<String> {
        let arguments: Vec<&str> = ["-server", &server].into_iter().chain(command.split(' ')).collect();
        let printed = clients::run(kafka::java(&jars, "org.apache.zookeeper.ZooKeeperMain").args(arguments))?;
        // Its thread of events tells of the connection when it gets to it: before the answer, or after it.
        let event = |line: &str| line == "WATCHER::" || line.starts_with("WatchedEvent ");
        let answer = printed.lines().rfind(|line| !line.is_empty() && !event(line));
        answer.map(str::to_owned).with_context(|| format!("no answer: {printed}"))
    };
    let shows = |command: &str, expected: &str| {
        let shown = shell(command)?;
        ensure!(shown == expected, "{command}: {shown}");
        Ok(())
    };
    shows("ls /brokers", "[ids, seqid, topics]")?;
    shows("ls /brokers/topics", "[a.b_c]")?;
    shows("get /brokers/seqid", "null")?;
    let epoch = shell("get /controller_epoch")?;
    ensure!(epoch.parse::<u32>().is_ok(), "{epoch}");
    let state = shell("get /brokers/topics/a.b_c/partitions/0/state")?;
    let state: Value = serde_json::from_str(&state).context(state)?;
    ensure!(state["leader"] == 1 && state["isr"] == json!([1]) && state["version"] == 1, "{state}");
    shows("stat /controller", "numChildren = 0")?;
    // The topic, `partitions`, `0`, `state`.
    shows("getAllChildrenNumber /brokers/topics", "4")
}

/// A frame of four length bytes and a body.
fn frame(body: &[u8]) -> Result<Vec<u8>> {
    Ok([&u32::try_from(body.len())?.to_be_bytes(), body].concat())
}

fn connect_request() -> Result<Vec<u8>> {
    let mut body = vec![0; 4 + 8];
    body.extend(10_000_i32.to_be_bytes());
    body.extend([0; 8]);
    body.extend(16_i32.to_be_bytes());
    body.extend([0; 17]);
    frame(&body)
}

/// Frames as they should be, each of which asks for as much as one can.
fn greedy_frames() -> Result<Vec<Vec<u8>>> {
    const MULTI_READ: i32 = 22;
    const GET_DATA: i32 = 4;
    const GET_CHILDREN: i32 = 8;
    const SET_WATCHES: i32 = 101;
    let text = |body: &mut Vec<u8>, text: &str| -> Result<()> {
        body.extend(i32::try_from(text.len())?.to_be_bytes());
        body.extend(text.as_bytes());
        Ok(())
    };
    let set_watches = |path: &str, count: i32| -> Result<Vec<u8>> {
        let mut body = [(-8_i32).to_be_bytes(), SET_WATCHES.to_be_bytes(), [0; 4], [0; 4]].concat();
        body.extend(count.to_be_bytes());
        for _ in 0..count {
            text(&mut body, path)?;
        }
        body.extend([0; 8]);
        frame(&body)
    };
    let multi_read = |code: i32, path: &str, count: i32| -> Result<Vec<u8>> {
        let mut body = [9_i32.to_be_bytes(), MULTI_READ.to_be_bytes()].concat();
        for _ in 0..count {
            body.extend(code.to_be_bytes());
            body.extend([0; 1 + 4]);
            text(&mut body, path)?;
            body.push(0);
        }
        body.extend([0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff]);
        frame(&body)
    };
    Ok(vec![
        multi_read(GET_CHILDREN, "/brokers/topics", 14)?,
        multi_read(GET_DATA, "/admin/reassign_partitions", 26_000)?,
        // An event for each path.
        set_watches(&format!("/{}", "none".repeat(14)), 16_000)?,
        // The connection ends.
        set_watches("/", 209_000)?,
    ])
}

/// Sends them, and reads nothing until it can send no more.
fn ask_greedily(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_write_timeout(Some(std::time::Duration::from_secs(1)))?;
    stream.write_all(&connect_request()?)?;
    for greedy in greedy_frames()? {
        // The coordinator does not receive more while it has answers, and may close.
        if stream.write_all(&greedy).is_err() {
            break;
        }
    }
    Ok(stream)
}

#[test]
fn clients_that_speak_badly_harm_nobody() -> Result<()> {
    /// Those of the protocol that are answered, and numbers between them that are none.
    const OPERATIONS: u32 = 32;
    /// As many as one address may have.
    const GREEDY: usize = 60;
    /// More than one address may have.
    const HALF_OPEN: usize = 200;
    /// 20,000 frames in all; each connection may end at any of them.
    const CONNECTIONS: u32 = 2_000;
    const FRAMES: u32 = 10;
    const LAST: u32 = FRAMES - 1;
    let cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
    let address = cluster.coordinator_address(1);
    let before_kib = cluster.resident_kib(Node::Coordinator(1))?;
    let mut half_open = Vec::new();
    for _ in 0..HALF_OPEN {
        let mut stream = TcpStream::connect(&address)?;
        // A connect request without its end.
        stream.write_all(&connect_request()?[..20])?;
        half_open.push(stream);
    }
    drop(half_open);
    let mut random = 0x9e37_79b9_u32;
    let mut next = move || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random
    };
    for round in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(&address)?;
        stream.write_all(&connect_request()?)?;
        for number in 0..FRAMES {
            let length = usize::try_from(next() % 200)?;
            let mut body: Vec<u8> = (0..length).map(|_| next().to_be_bytes()[0]).collect();
            // Half of them name an operation that exists, with a body that may be anything.
            if number % 2 == 0 && body.len() >= 8 {
                let operation = match next() % OPERATIONS {
                    small @ 0..24 => small,
                    large => 100 + large - 24,
                };
                body[4..8].copy_from_slice(&operation.to_be_bytes());
            }
            let hostile = match (number, round % 4) {
                (LAST, 0) => vec![0, 0x7f, 0xff, 0xff],
                (LAST, 1) => u32::MAX.to_be_bytes().to_vec(),
                (LAST, 2) => body,
                _ => frame(&body)?,
            };
            // The coordinator may close while we write: that is one of the right answers.
            if stream.write_all(&hostile).is_err() {
                break;
            }
        }
        if round % 200 == 0 {
            stream.set_read_timeout(Some(std::time::Duration::from_millis(100)))?;
            let _ = stream.read(&mut [0; 64]);
        }
    }
    let greedy: Vec<_> = (0..GREEDY)
        .map(|_| {
            let address = address.clone();
            std::thread::spawn(move || ask_greedily(&address))
        })
        .collect();
    let greedy: Vec<_> = greedy.into_iter().map(std::thread::JoinHandle::join).collect();
    let grown = cluster.resident_kib(Node::Coordinator(1))?.saturating_sub(before_kib);
    drop(greedy);
    ensure!(grown < 64 * 1024, "resident memory grew by {grown} KiB");
    ensure!(!cluster.log_text(Node::Coordinator(1))?.contains("panicked"));
    // The quorum decides, and a client that speaks well is served.
    clients::run_script("create_topic.py", &[&cluster.bootstrap(), "later", "1", "1"])?;
    let mut kazoo = Kazoo::start(&address)?;
    kazoo.hear_topics(&["later"])
}
