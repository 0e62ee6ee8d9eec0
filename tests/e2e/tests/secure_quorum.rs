//! Coordinators and a broker that show each other certificates, as processes, and those who do not belong to them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::certificates::Authority;
use ottla_e2e::cluster::binary;
use ottla_e2e::{Cluster, ClusterOptions, Node, wait};
use tempfile::TempDir;

/// What a coordinator's log says of a connection that it refuses.
const REFUSED: &str = "refused a connection";

struct Secure {
    cluster: Cluster,
    files: TempDir,
    authority: Authority,
}

impl Secure {
    fn start() -> Result<Self> {
        let files = TempDir::with_prefix("ottla-e2e-certificates-")?;
        let authority = Authority::new(files.path(), "ours")?;
        let mut cluster = Cluster::prepare(&ClusterOptions { brokers: 1, ..ClusterOptions::default() })?;
        cluster.show_certificates(&authority)?;
        cluster.spawn_all()?;
        Ok(Self { cluster, files, authority })
    }

    /// The properties of a tool that shows this store, and trusts this authority.
    fn properties(&self, name: &str, store: Option<&Path>, authority: &str) -> Result<PathBuf> {
        let path = self.files.path().join(format!("{name}.properties"));
        let ca = self.files.path().join(format!("{authority}-ca.pem"));
        let mut text = format!(
            "zookeeper.ssl.client.enable=true\nzookeeper.ssl.truststore.location={}\n\
             zookeeper.clientCnxnSocket=org.apache.zookeeper.ClientCnxnSocketNetty\n",
            ca.display()
        );
        if let Some(store) = store {
            text += &format!("zookeeper.ssl.keystore.location={}\n", store.display());
        }
        fs::write(&path, text)?;
        Ok(path)
    }

    /// `ottla ARGUMENTS` at the coordinators; whether it succeeded, and what it said.
    fn ottla(&self, arguments: &[&str], properties: Option<&Path>) -> Result<(bool, String)> {
        let coordinators: Vec<String> = (1..=3).map(|id| self.cluster.coordinator_address(id)).collect();
        let mut command = Command::new(binary("ottla")?);
        command.args(arguments).arg("--coordinators").arg(coordinators.join(",")).env_remove("OTTLA_PROFILE");
        command.env("HOME", self.files.path()).env_remove("XDG_CONFIG_HOME");
        if let Some(properties) = properties {
            command.arg("--command-config").arg(properties);
        }
        let output = command.output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    fn refusals(&self) -> Result<usize> {
        let logs = (1..=3).map(|id| self.cluster.log_text(Node::Coordinator(id)));
        let count = |text: String| text.lines().filter(|line| line.contains(REFUSED)).count();
        logs.map(|log| log.map(count)).sum()
    }

    /// Writes to a topic and reads it again, by the listener for clients.
    fn roundtrip(&self, topic: &str) -> Result<()> {
        let bootstrap = self.cluster.bootstrap();
        let run = |arguments: &[&str], input: &str| -> Result<String> {
            let mut child = Command::new(binary("ottla")?)
                .args(arguments)
                .args(["--bootstrap-server", &bootstrap])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()?;
            child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
            let output = child.wait_with_output()?;
            ensure!(output.status.success(), "{arguments:?}: {}", output.status);
            Ok(String::from_utf8(output.stdout)?)
        };
        run(&["topic", "create", topic, "--partitions", "1", "--replication-factor", "1"], "")?;
        run(&["produce", topic], "one\ntwo\n")?;
        let read = run(&["consume", topic, "--from-beginning", "--exit-at-end"], "")?;
        ensure!(read.contains("one") && read.contains("two"), "{read}");
        Ok(())
    }
}

#[test]
fn processes_with_certificates_are_a_cluster() -> Result<()> {
    let mut secure = Secure::start()?;
    secure.roundtrip("first")?;
    secure.cluster.kill(Node::Coordinator(1))?;
    secure.cluster.spawn(Node::Coordinator(1))?;
    secure.cluster.bounce(Node::Broker(1))?;
    secure.roundtrip("second")?;
    let admin = secure.properties("admin", Some(&secure.authority.sign("admin")?.store), "ours")?;
    wait::until_ok("all three vote", || {
        let (done, text) = secure.ottla(&["quorum", "members"], Some(&admin))?;
        ensure!(done && (1..=3).all(|id| text.contains(&secure.cluster.coordinator_address(id))), "{text}");
        Ok(())
    })
}

#[test]
fn callers_do_what_their_role_may() -> Result<()> {
    let secure = Secure::start()?;
    let store = |name: &str| -> Result<PathBuf> { Ok(secure.authority.sign(name)?.store) };
    let admin = secure.properties("admin", Some(&store("admin")?), "ours")?;
    let reader = secure.properties("reader", Some(&store("reader")?), "ours")?;
    let nobody = secure.properties("nobody", Some(&store("nobody")?), "ours")?;
    for (who, list, transfer) in [(&admin, true, true), (&reader, true, false), (&nobody, false, false)] {
        let (done, text) = secure.ottla(&["tree", "ls", "/"], Some(who))?;
        ensure!(done == list, "{}: {text}", who.display());
        ensure!(done || text.contains("needs the role read"), "{text}");
        let (done, text) = secure.ottla(&["quorum", "transfer"], Some(who))?;
        ensure!(done == transfer, "{}: {text}", who.display());
        ensure!(done || text.contains("needs the role operate"), "{text}");
    }
    let logs: Vec<String> = (1..=3).map(|id| secure.cluster.log_text(Node::Coordinator(id))).collect::<Result<_>>()?;
    // One line a second at most.
    ensure!(logs.iter().any(|log| log.contains("refused: User:CN=")), "a line tells of it");
    secure.roundtrip("after")
}

/// A certificate of the authority alone makes nobody broker 1 or coordinator 1.
#[test]
fn an_id_belongs_to_its_certificate() -> Result<()> {
    let mut secure = Secure::start()?;
    secure.cluster.signal(Node::Broker(1), rustix::process::Signal::TERM)?;
    secure.cluster.wait(Node::Broker(1))?;
    // A member too, but another one.
    let other = secure.cluster.environment(Node::Coordinator(1))?;
    let other = other.get("COORDINATOR_SSL_KEYSTORE_LOCATION").cloned().context("a store")?;
    let name = "KAFKA_ZOOKEEPER_SSL_KEYSTORE_LOCATION";
    let own = secure.cluster.environment(Node::Broker(1))?.get(name).cloned().context("a store")?;
    secure.cluster.set_variable(Node::Broker(1), name, &other)?;
    secure.cluster.spawn(Node::Broker(1))?;
    wait::until("the coordinators refuse it", || {
        let logs = (1..=3).map(|id| secure.cluster.log_text(Node::Coordinator(id)));
        let logs = logs.collect::<Result<Vec<_>>>()?;
        Ok(logs.iter().any(|log| log.contains("User:CN=coordinator-1 is not broker-1")))
    })?;
    // It may have ended by itself.
    let _ = secure.cluster.kill(Node::Broker(1));
    secure.cluster.set_variable(Node::Broker(1), name, &own)?;
    secure.cluster.spawn(Node::Broker(1))?;
    secure.cluster.wait_ready()?;
    secure.roundtrip("after")
}

#[test]
fn strangers_are_told_of_in_a_line_and_disturb_nobody() -> Result<()> {
    let mut secure = Secure::start()?;
    let other = Authority::new(secure.files.path(), "other")?;
    let expired = secure.authority.sign_until("late", 2_001)?;
    let strangers = [
        ("plaintext", None),
        ("bare", Some(secure.properties("bare", None, "ours")?)),
        ("other", Some(secure.properties("other", Some(&other.sign("stranger")?.store), "ours")?)),
        ("late", Some(secure.properties("late", Some(&expired.store), "ours")?)),
    ];
    for (who, properties) in strangers {
        let before = secure.refusals()?;
        let (done, text) = secure.ottla(&["tree", "ls", "/"], properties.as_deref())?;
        ensure!(!done, "{who}: {text}");
        ensure!(!text.contains("panicked"), "{who}: {text}");
        wait::until("a line", || Ok(secure.refusals()? > before))?;
    }
    let before = secure.refusals()?;
    wait::until("a line of a word in plaintext", || {
        let mut stream = TcpStream::connect(secure.cluster.coordinator_address(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(b"ruok")?;
        let mut answer = Vec::new();
        // Reset, or ended.
        let _ = stream.read_to_end(&mut answer);
        ensure!(answer.is_empty(), "{answer:?}");
        Ok(secure.refusals()? > before)
    })?;
    // A client that does not trust the coordinators goes away by itself.
    let wary = secure.properties("wary", Some(&secure.authority.sign("wary")?.store), "other")?;
    ensure!(!secure.ottla(&["tree", "ls", "/"], Some(&wary))?.0);
    ensure!(secure.cluster.ended()?.is_empty());
    secure.roundtrip("after")
}
