//! The `ottla` command as a person uses it: on a small cluster of real processes.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::cluster::binary;
use ottla_e2e::{Cluster, ClusterOptions};
use ottla_test_support::free_ports;
use serde_json::{Value, json};

/// Below the minute for which tools wait for brokers that may come.
const AT_ONCE: Duration = Duration::from_secs(20);

/// What a command said, and whether it succeeded.
struct Said {
    out: String,
    err: String,
    ok: bool,
    took: Duration,
}

impl Said {
    fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }

    /// The one line of a refusal.
    fn refusal(&self) -> Result<&str> {
        let is_one = self.err.trim_end().lines().count() == 1;
        ensure!(!self.ok && self.out.is_empty() && is_one, "{:?} {:?}", self.out, self.err);
        Ok(self.err.trim_end())
    }
}

fn run(words: &[&str], input: &[u8]) -> Result<Said> {
    let began = Instant::now();
    let mut child = Command::new(binary("ottla")?)
        .args(words)
        .env_remove("OTTLA_BOOTSTRAP")
        .env_remove("OTTLA_COORDINATORS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("standard input")?.write_all(input)?;
    let output = child.wait_with_output()?;
    Ok(Said {
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
        ok: output.status.success(),
        took: began.elapsed(),
    })
}

struct Shell {
    cluster: Cluster,
    brokers: String,
    coordinators: String,
}

impl Shell {
    fn start() -> Result<Self> {
        let cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
        let (brokers, coordinators) = (cluster.bootstrap(), cluster.coordinator_address(1));
        Ok(Self { cluster, brokers, coordinators })
    }

    fn ask(&self, words: &[&str]) -> Result<Said> {
        self.feed(words, b"")
    }

    fn feed(&self, words: &[&str], input: &[u8]) -> Result<Said> {
        run(&[words, &["--bootstrap-server", &self.brokers]].concat(), input)
    }

    fn ok(&self, words: &[&str]) -> Result<Said> {
        let said = self.ask(words)?;
        ensure!(said.ok, "{words:?}: {} {}", said.out, said.err);
        Ok(said)
    }

    fn ask_coordinators(&self, words: &[&str]) -> Result<Said> {
        run(&[words, &["--coordinators", &self.coordinators]].concat(), b"")
    }
}

fn json_lines(said: &Said) -> Result<Vec<Value>> {
    said.lines().into_iter().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[test]
fn records_are_written_and_found_again() -> Result<()> {
    let shell = Shell::start()?;
    // A name that is misspelt creates nothing.
    let refused = shell.feed(&["produce", "letters"], b"a\n")?;
    ensure!(refused.refusal()?.contains("letters does not exist"), "{}", refused.err);
    let refused = shell.ask(&["consume", "letters", "-e"])?;
    ensure!(refused.refusal()?.contains("letters does not exist"), "{}", refused.err);
    ensure!(shell.ok(&["topic", "list"])?.out.is_empty());

    let written = shell.feed(&["produce", "letters", "--create", "-H", "from=test", "--key", "k"], b"alpha\nbeta\n")?;
    ensure!(written.ok, "{}", written.err);
    // Not before the next millisecond, so that a time separates them.
    std::thread::sleep(Duration::from_millis(20));
    let written = shell.feed(&["produce", "letters"], b"gamma\n\xff\xfe\n")?;
    ensure!(written.ok, "{}", written.err);

    let all = json_lines(&shell.ok(&["consume", "letters", "--from", "earliest", "-e", "--json"])?)?;
    ensure!(all.len() == 4, "{all:?}");
    let first = all.iter().find(|record| record["value"] == "alpha").context("alpha")?;
    ensure!(first["key"] == "k" && first["headers"] == json!([{"key": "from", "value": "test"}]), "{first}");
    ensure!(first["topic"] == "letters" && first["timestamp_ms"].as_i64() > Some(0), "{first}");
    let raw = all.iter().find(|record| record["value_encoding"] == "base64").context("bytes")?;
    ensure!(raw["value"] == "//4=" && raw["key"].is_null(), "{raw}");

    let values = |words: &[&str]| -> Result<Vec<String>> {
        let said = shell.ok(&[&["consume", "letters", "-e"], words].concat())?;
        let mut lines: Vec<String> = said.lines().into_iter().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    };
    ensure!(values(&["--from", "10m", "--grep", "^(al|ga)"])? == ["alpha", "gamma"]);
    ensure!(values(&["--from", "latest"])?.is_empty());
    let shown = values(&["--from", "0", "--headers", "--grep", "beta", "-n", "1"])?;
    ensure!(shown == ["from:test\tbeta"], "{shown:?}");
    // By time: what was written after the first two.
    let later = first["timestamp_ms"].as_i64().context("a number")? + 10;
    let time = time_text(later);
    ensure!(values(&["--from", &time, "--grep", "[a-z]"])? == ["gamma"], "{time}");
    let past_end = shell.ok(&["consume", "letters", "-e", "-p", "0", "-o", "999"])?;
    ensure!(past_end.out.is_empty() && past_end.err.contains("999 is not there yet"), "{}", past_end.err);
    Ok(())
}

/// `2026-11-29T10:00:00.123Z`, by the tool of the system.
fn time_text(ms: i64) -> String {
    let told = Command::new("date").args(["-u", "-d", &format!("@{}", ms / 1_000), "+%Y-%m-%dT%H:%M:%S"]).output();
    let text = told.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    format!("{text}.{:03}Z", ms % 1_000)
}

#[test]
fn topics_grow_and_lists_are_read_by_programs() -> Result<()> {
    let shell = Shell::start()?;
    shell.ok(&["topic", "create", "my-a", "-p", "1"])?;
    shell.ok(&["topic", "create", "my-b", "-p", "2"])?;
    ensure!(shell.ok(&["topic", "alter", "my-a", "--partitions", "3"])?.out == "topic my-a has 3 partitions\n");
    let refused = shell.ask(&["topic", "alter", "none", "--partitions", "3"])?;
    ensure!(refused.refusal()?.contains("none does not exist"), "{}", refused.err);
    let refused = shell.ask(&["topic", "alter", "my-a", "--partitions", "2"])?;
    refused.refusal()?;

    ensure!(shell.ok(&["topic", "list"])?.out == "my-a\nmy-b\n");
    let listed: Value = serde_json::from_str(&shell.ok(&["topic", "list", "--output", "json"])?.out)?;
    ensure!(listed[0]["topic"] == "my-a" && listed[0]["partitions"] == 3, "{listed}");
    let described = shell.ok(&["topic", "describe", "my-.*"])?;
    ensure!(described.lines().len() == 1 + 3 + 1 + 2, "{}", described.out);
    let described: Value = serde_json::from_str(&shell.ok(&["topic", "describe", "my-b", "-o", "json"])?.out)?;
    ensure!(described[0]["partitions"][1]["leader"] == 1, "{described}");
    let refused = shell.ask(&["topic", "describe", "your-.*"])?;
    ensure!(refused.refusal()?.contains("no topic's name matches"), "{}", refused.err);
    for words in [&["broker", "list"][..], &["brokers"]] {
        let brokers: Value = serde_json::from_str(&shell.ok(&[words, &["--output", "json"]].concat())?.out)?;
        ensure!(brokers[0]["broker"] == 1 && brokers[0]["controller"] == true, "{brokers}");
    }
    let yaml = shell.ok(&["topic", "list", "--output", "yaml"])?;
    ensure!(yaml.out.contains("topic: \"my-a\""), "{}", yaml.out);
    let quorum = shell.ask_coordinators(&["quorum", "members", "--output", "json"])?;
    let quorum: Value = serde_json::from_str(&quorum.out)?;
    ensure!(quorum["members"][0]["role"] == "quorum leader", "{quorum}");
    Ok(())
}

#[test]
fn changes_of_the_tree_are_shown_as_they_come() -> Result<()> {
    let shell = Shell::start()?;
    let got = shell.ask_coordinators(&["tree", "get", "/brokers/ids/1", "--output", "json"])?;
    let before: Value = serde_json::from_str(&got.out)?;
    let revision = before["created_revision"].as_u64().context("a revision")?;
    ensure!(before["payload"].is_object(), "{before}");
    shell.ok(&["topic", "create", "seen", "-p", "1"])?;
    // From the past, so that nothing depends on when the watch begins.
    let after = revision.to_string();
    let words = ["tree", "watch", "/brokers/topics/seen", "--after", &after, "-n", "1", "--json"];
    let watched = shell.ask_coordinators(&words)?;
    let changes = json_lines(&watched)?;
    let path = changes.first().and_then(|change| change["path"].as_str()).context("a change")?;
    ensure!(changes.len() == 1 && path.starts_with("/brokers/topics/seen"), "{} {}", watched.out, watched.err);
    ensure!(changes[0]["deleted"] == false && changes[0]["revision"].as_u64() > Some(revision), "{changes:?}");
    Ok(())
}

#[test]
fn a_cluster_is_measured_and_left_as_it_was() -> Result<()> {
    let shell = Shell::start()?;
    let small = ["bench", "--records", "5000", "--record-size", "50", "-p", "2"];
    let told: Value = serde_json::from_str(&shell.ok(&[&small[..], &["--output", "json"]].concat())?.out)?;
    for side in ["produce", "consume"] {
        let records = &told[side]["records"];
        ensure!(*records == 5_000 && told[side]["records_per_s"].as_f64() > Some(0.0), "{told}");
    }
    let lines = shell.ok(&small)?;
    ensure!(lines.lines().len() == 3 && lines.out.starts_with("produce  5000 records"), "{}", lines.out);
    ensure!(shell.ok(&["topic", "list"])?.out.is_empty(), "the topic is left behind");
    let refused = shell.ask(&["bench", "--topic", "none"])?;
    ensure!(refused.refusal()?.contains("none does not exist"), "{}", refused.err);
    Ok(())
}

#[test]
fn mistakes_are_told_at_once_and_in_words() -> Result<()> {
    let shell = Shell::start()?;
    let refused = shell.ask(&["group", "delete", "nosuch"])?;
    ensure!(refused.refusal()?.contains("group nosuch does not exist"), "{}", refused.err);
    let refused = shell.ask(&["config", "get", "--broker", "7"])?;
    ensure!(refused.refusal()?.contains("broker 7 does not run") && refused.took < AT_ONCE, "{}", refused.err);
    let tipped = shell.ask(&["config", "get", "topic", "t"])?;
    ensure!(!tipped.ok && tipped.err.contains("tip: ottla config get --topic t"), "{}", tipped.err);
    let refused = run(&["topic", "list", "--profile", "../x"], b"")?;
    ensure!(refused.refusal()?.contains("--profile ../x"), "{}", refused.err);
    let folder = tempfile::tempdir()?;
    let refused = run(&["local", "status", "--dir", &folder.path().display().to_string()], b"")?;
    ensure!(refused.refusal()?.contains("there is no local cluster"), "{}", refused.err);

    // The other kind of port.
    let told = run(&["topic", "list", "-b", &shell.coordinators], b"")?;
    ensure!(!told.ok && told.err.contains("is a coordinator's port") && told.took < AT_ONCE, "{}", told.err);
    for words in [&["tree", "ls", "/"][..], &["quorum", "members"], &["cluster", "status"]] {
        let told = run(&[words, &["--coordinators", &shell.cluster.broker_address(1).to_string()]].concat(), b"")?;
        ensure!(!told.ok && told.err.contains("is a broker's port"), "{words:?}: {}", told.err);
    }
    // A name that no resolver will ever know (RFC 2606).
    let told = run(&["topic", "list", "-b", "nosuch.invalid:9092"], b"")?;
    ensure!(!told.ok && told.err.contains("No resolvable bootstrap urls") && told.took < AT_ONCE, "{}", told.err);
    Ok(())
}

#[test]
fn another_program_on_the_port_is_told_of() -> Result<()> {
    let port = free_ports(1)?[0];
    let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
    // Ends with the process of the test.
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 64];
            let _ = std::io::Read::read(&mut stream, &mut request);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    let told = run(&["topic", "list", "-b", &format!("127.0.0.1:{port}")], b"")?;
    ensure!(!told.ok && told.err.contains("is no broker") && told.took < AT_ONCE, "{}", told.err);
    Ok(())
}

#[test]
fn the_shell_of_zookeeper_shows_and_writes_what_the_coordinators_allow() -> Result<()> {
    let shell = Shell::start()?;
    shell.ok(&["topic", "create", "old", "-p", "1"])?;
    let ask = |words: &[&str]| run(&[&["as", "zookeeper-shell", &shell.coordinators], words].concat(), b"");
    let told = ask(&["stat", "/brokers/ids/1"])?;
    for name in ["cZxid = 0x", "ctime = ", "pZxid = 0x", "aclVersion = 0", "ephemeralOwner = 0x", "dataLength = "] {
        ensure!(told.ok && told.out.contains(name), "{name}: {} {}", told.out, told.err);
    }
    let told = ask(&["get", "-s", "/brokers/topics/none"])?;
    ensure!(!told.ok && told.err.contains("Node does not exist: /brokers/topics/none"), "{}", told.err);
    let told = ask(&["frobnicate", "/"])?;
    ensure!(!told.ok && told.err.contains("Command not found: Command not found frobnicate"), "{}", told.err);
    // Brokers write the nodes of topics, and nobody else.
    let told = ask(&["set", "/brokers/topics/old", "{}"])?;
    ensure!(!told.ok, "{} {}", told.out, told.err);
    // As Kafka's tools of ZooKeeper's era deleted topics.
    let told = ask(&["create", "/admin/delete_topics/old"])?;
    ensure!(told.ok && told.out.contains("Created /admin/delete_topics/old"), "{} {}", told.out, told.err);
    ottla_e2e::wait::until("the topic is gone", || Ok(shell.ok(&["topic", "list"])?.out.is_empty()))?;
    Ok(())
}
