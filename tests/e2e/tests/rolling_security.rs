//! A running cluster in plaintext becomes one whose coordinators are reached by TLS alone, and goes back, one process
//! at a time, as docs/security.md says, under a writer with acks=all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::certificates::Authority;
use ottla_e2e::cluster::binary;
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const TOPIC: &str = "written-while-it-changes";
/// Messages that the writer must have had acknowledged in a step before the next one begins.
const MESSAGES_OF_A_STEP: usize = 200;
const PLAINTEXT_PORT: &str = "COORDINATOR_CLIENT_PORT";
const TLS_PORT: &str = "COORDINATOR_SECURE_CLIENT_PORT";
const UNIFICATION: &str = "COORDINATOR_PORT_UNIFICATION";
const QUORUM: &str = "COORDINATOR_SSL_QUORUM";
const MEMBER_ID: &str = "COORDINATOR_SSL_MEMBER_ID";
const CLIENT: &str = "KAFKA_ZOOKEEPER_SSL_CLIENT_ENABLE";

/// A variable that is set, or taken away.
type Change<'a> = (&'a str, Option<&'a str>);

struct Rolling {
    cluster: Cluster,
    files: TempDir,
    authority: Authority,
    writer: Writer,
}

/// `kafka-verifiable-producer`, which tells of each message whether it was acknowledged.
struct Writer {
    child: Child,
    events: PathBuf,
}

impl Writer {
    fn start(bootstrap: &str, folder: &Path) -> Result<Self> {
        let properties = folder.join("writer.properties");
        fs::write(&properties, "retries=1000000\n")?;
        let events = folder.join("writer.events");
        let arguments = ["--topic", TOPIC, "--acks", "-1", "--throughput", "200", "--command-config"];
        let mut command = clients::tool("kafka-verifiable-producer", bootstrap, &arguments[..6])?;
        command.arg(arguments[6]).arg(properties);
        let out = File::create(&events)?;
        let child =
            command.stdin(Stdio::null()).stdout(out).stderr(File::create(folder.join("writer.err"))?).spawn()?;
        Ok(Self { child, events })
    }

    fn events(&self, name: &str) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.events)?;
        // The last line may not be whole yet.
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let named = events.filter(|event| event["name"] == name);
        Ok(named.map(|event| event["value"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Ends it, and returns what was acknowledged. No message may have failed.
    fn end(mut self) -> Result<BTreeSet<String>> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id")?;
        kill_process(pid, Signal::TERM)?;
        self.child.wait()?;
        let failed = self.events("producer_send_error")?;
        ensure!(failed.is_empty(), "{} messages failed, such as {:?}", failed.len(), failed.first());
        Ok(self.events("producer_send_success")?.into_iter().collect())
    }
}

impl Drop for Rolling {
    fn drop(&mut self) {
        let _ = self.writer.child.kill();
        let _ = self.writer.child.wait();
    }
}

impl Rolling {
    /// Three coordinators and three brokers in plaintext, and the writer.
    fn start() -> Result<Self> {
        let cluster = Cluster::start_with(ClusterOptions::default().with("min.insync.replicas", "2"))?;
        let files = TempDir::with_prefix("ottla-e2e-rolling-")?;
        let authority = Authority::new(files.path(), "ours")?;
        for name in ["admin", "nobody"] {
            let text = format!(
                "zookeeper.ssl.client.enable=true\nzookeeper.ssl.truststore.location={}\n\
                 zookeeper.ssl.keystore.location={}\n",
                authority.certificate.display(),
                authority.sign(name)?.store.display()
            );
            fs::write(files.path().join(format!("{name}.properties")), text)?;
        }
        let bootstrap = cluster.bootstrap();
        let create = ["--create", "--topic", TOPIC, "--partitions", "6", "--replication-factor", "3"];
        clients::run(&mut clients::tool("kafka-topics", &bootstrap, &create)?)?;
        let writer = Writer::start(&bootstrap, files.path())?;
        Ok(Self { cluster, files, authority, writer })
    }

    /// `ottla quorum members` of these coordinators as JSON, by TLS in the name of `who`, or in plaintext.
    fn members(&self, coordinators: &[u64], who: Option<&str>) -> Result<Value> {
        let addresses: Vec<String> = coordinators.iter().map(|id| self.cluster.coordinator_address(*id)).collect();
        let mut command = Command::new(binary("ottla")?);
        command.args(["quorum", "members", "--output", "json", "--coordinators", &addresses.join(",")]);
        command.env_remove("OTTLA_PROFILE").env("HOME", self.files.path()).env_remove("XDG_CONFIG_HOME");
        if let Some(who) = who {
            command.arg("--command-config").arg(self.files.path().join(format!("{who}.properties")));
        }
        Ok(serde_json::from_str(&clients::run(&mut command)?)?)
    }

    /// Waits until a coordinator that was started knows a leader, and the leader has all three with it.
    fn wait_whole(&self, id: u64, who: Option<&str>) -> Result<()> {
        wait::until_ok("the quorum is whole", || {
            self.members(&[id], who)?;
            let seen = self.members(&[1, 2, 3], who)?;
            let members = seen["members"].as_array().context("members")?;
            let committed = seen["committed_revision"].as_u64();
            let is_with_it =
                |member: &&Value| member["silent"] == false && member["matched_revision"].as_u64() >= committed;
            ensure!(members.iter().filter(is_with_it).count() == 3, "{seen}");
            Ok(())
        })
        .with_context(|| self.logs())
    }

    fn logs(&self) -> String {
        let text = |node| {
            let log = self.cluster.log_text(node).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(15).collect();
            format!("{node}:\n{}\n", last.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        self.cluster.nodes().into_iter().map(text).collect()
    }

    fn change(&mut self, node: Node, changes: &[Change<'_>]) -> Result<()> {
        for (name, value) in changes {
            match value {
                Some(value) => self.cluster.set_variable(node, name, value)?,
                None => self.cluster.unset_variable(node, name)?,
            }
        }
        Ok(())
    }

    fn restart(&mut self, node: Node) -> Result<()> {
        self.cluster.signal(node, Signal::TERM)?;
        self.cluster.wait(node)?;
        self.cluster.spawn(node)
    }

    /// One step for all coordinators, one after the other. `who`: asks by TLS from now on, or in plaintext.
    fn roll_coordinators(&mut self, step: &str, changes: &[Change<'_>], who: Option<&str>) -> Result<()> {
        for id in 1..=3 {
            let node = Node::Coordinator(id);
            self.change(node, changes)?;
            self.restart(node)?;
            self.wait_whole(id, who).with_context(|| format!("{step}: coordinator {id}"))?;
        }
        self.goes_on(step)
    }

    fn roll_brokers(&mut self, step: &str, changes: &[Change<'_>]) -> Result<()> {
        for id in 1..=3 {
            let node = Node::Broker(id);
            self.change(node, changes)?;
            self.restart(node)?;
            self.cluster.wait_ready().with_context(|| format!("{step}: broker {id}"))?;
            let bootstrap = self.cluster.bootstrap();
            let behind = ["--describe", "--under-replicated-partitions"];
            wait::until_ok("all replicas are in sync", || {
                let listed = clients::run(&mut clients::tool("kafka-topics", &bootstrap, &behind)?)?;
                ensure!(listed.trim().is_empty(), "{listed}");
                Ok(())
            })?;
        }
        self.goes_on(step)
    }

    /// The writer gets acknowledgements.
    fn goes_on(&mut self, step: &str) -> Result<()> {
        let before = self.writer.events("producer_send_success")?.len();
        let writer = &mut self.writer;
        let goes_on = wait::until_ok("the writer goes on", || {
            if let Some(status) = writer.child.try_wait()? {
                return Ok(Err(anyhow::anyhow!("{step}: the writer ended with {status}")));
            }
            let now = writer.events("producer_send_success")?.len();
            ensure!(now >= before + MESSAGES_OF_A_STEP, "{step}: {before} acknowledged messages, then {now}");
            Ok(Ok(()))
        });
        let told = || fs::read_to_string(self.files.path().join("writer.err")).unwrap_or_default();
        goes_on.flatten().with_context(|| format!("the writer told:\n{}", told()))
    }

    /// The stores of each process, which have no effect yet.
    fn hand_out_certificates(&mut self) -> Result<()> {
        let ca = self.authority.certificate.display().to_string();
        for node in self.cluster.nodes() {
            let store = self.authority.sign(&node.to_string())?.store.display().to_string();
            let changes = match node {
                Node::Coordinator(_) => vec![
                    ("COORDINATOR_SSL_KEYSTORE_TYPE", Some("PEM")),
                    ("COORDINATOR_SSL_KEYSTORE_LOCATION", Some(&*store)),
                    ("COORDINATOR_SSL_TRUSTSTORE_TYPE", Some("PEM")),
                    ("COORDINATOR_SSL_TRUSTSTORE_LOCATION", Some(&*ca)),
                ],
                Node::Broker(_) => vec![
                    ("KAFKA_ZOOKEEPER_SSL_KEYSTORE_LOCATION", Some(&*store)),
                    ("KAFKA_ZOOKEEPER_SSL_TRUSTSTORE_LOCATION", Some(&*ca)),
                ],
            };
            self.change(node, &changes)?;
        }
        Ok(())
    }

    /// The port of a coordinator moves from one setting to the other, with its number.
    fn move_port(&mut self, from: &str, to: &str) -> Result<()> {
        for id in 1..=3 {
            let node = Node::Coordinator(id);
            let port = self.cluster.environment(node)?.get(from).cloned().context("a port")?;
            self.change(node, &[(from, None), (to, Some(&port))])?;
        }
        Ok(())
    }

    /// Everything that was acknowledged is there.
    fn check(self) -> Result<()> {
        let bootstrap = self.cluster.bootstrap();
        let mut this = self;
        let stopped = Command::new("true").stdout(Stdio::null()).spawn()?;
        let writer = std::mem::replace(&mut this.writer, Writer { child: stopped, events: PathBuf::new() });
        let acknowledged = writer.end()?;
        let mut consume = Command::new(binary("ottla")?);
        consume.args(["consume", TOPIC, "--from-beginning", "--exit-at-end", "--bootstrap-server", &bootstrap]);
        consume.env_remove("OTTLA_PROFILE").env("HOME", this.files.path()).env_remove("XDG_CONFIG_HOME");
        let read = clients::run(&mut consume)?;
        let read: BTreeSet<&str> = read.lines().collect();
        let lost: Vec<&String> = acknowledged.iter().filter(|value| !read.contains(value.as_str())).collect();
        ensure!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
        println!("{} messages, none lost", acknowledged.len());
        ensure!(this.cluster.ended()?.is_empty());
        Ok(())
    }
}

#[test]
fn a_cluster_becomes_secure_and_goes_back_under_a_writer() -> Result<()> {
    let mut rolling = Rolling::start()?;
    rolling.hand_out_certificates()?;
    // There: 1. ports accept both; 2. coordinators dial each other by TLS; 3. brokers too; 4. no plaintext any more.
    rolling.roll_coordinators("both on each port", &[(UNIFICATION, Some("true"))], None)?;
    rolling.members(&[1, 2, 3], Some("nobody")).context("a tool by TLS")?;
    rolling.roll_coordinators("TLS between coordinators", &[(QUORUM, Some("true"))], Some("admin"))?;
    rolling.members(&[1, 2, 3], None).context("a tool in plaintext")?;
    rolling.roll_brokers("TLS of brokers", &[(CLIENT, Some("true"))])?;
    rolling.move_port(PLAINTEXT_PORT, TLS_PORT)?;
    rolling.roll_coordinators("TLS alone", &[(UNIFICATION, None)], Some("admin"))?;
    ensure!(rolling.members(&[1, 2, 3], None).is_err(), "plaintext is accepted");

    // 5. Who may do what, in a second roll.
    let members = rolling.cluster.nodes().iter().map(|node| format!("User:CN={node}")).collect::<Vec<_>>().join(";");
    let roles: &[Change<'_>] = &[
        ("COORDINATOR_ROLES_MEMBER", Some(members.as_str())),
        ("COORDINATOR_ROLES_ADMIN", Some("User:CN=admin")),
        (MEMBER_ID, Some("true")),
    ];
    rolling.roll_coordinators("roles", roles, Some("admin"))?;
    ensure!(rolling.members(&[1, 2, 3], Some("nobody")).is_err(), "a certificate without a role is let in");

    // And back.
    let no_roles: Vec<Change<'_>> = roles.iter().map(|(name, _)| (*name, None)).collect();
    rolling.roll_coordinators("no roles", &no_roles, Some("admin"))?;
    rolling.move_port(TLS_PORT, PLAINTEXT_PORT)?;
    rolling.roll_coordinators("both again", &[(UNIFICATION, Some("true"))], Some("admin"))?;
    rolling.roll_brokers("brokers in plaintext", &[(CLIENT, None)])?;
    rolling.roll_coordinators("coordinators in plaintext", &[(QUORUM, None)], Some("admin"))?;
    rolling.roll_coordinators("plaintext alone", &[(UNIFICATION, None)], None)?;
    ensure!(rolling.members(&[1, 2, 3], Some("admin")).is_err(), "TLS is accepted");
    rolling.check()
}
