//! Apache Kafka itself, 3.9 and 4.3, where the machine has its jars: its look at log files, and a broker that writes
//! some.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::clients;
use crate::cluster::listens;
use crate::wait;
use ottla_test_support::free_ports;

/// The folder with the jars of Kafka 3.9's broker (`OTTLA_KAFKA_BROKER_JARS`); reports a skipped test if there is none.
pub fn broker_jars() -> Option<PathBuf> {
    jars("OTTLA_KAFKA_BROKER_JARS")
}

/// The folder with the jars of Kafka 4.3's broker (`OTTLA_KAFKA_BROKER_4_JARS`); reports a skipped test if there is
/// none.
pub fn broker_4_jars() -> Option<PathBuf> {
    jars("OTTLA_KAFKA_BROKER_4_JARS")
}

/// The folder with the jars of Kafka 4.3's tools (`OTTLA_KAFKA_JARS`); reports a skipped test if there is none.
pub fn tool_jars() -> Option<PathBuf> {
    jars("OTTLA_KAFKA_JARS")
}

fn jars(variable: &str) -> Option<PathBuf> {
    let jars = std::env::var_os(variable).map(PathBuf::from);
    if jars.is_none() {
        let reason = format!("{variable} names no folder with jars of Apache Kafka");
        ottla_test_support::skipped(&reason);
    }
    jars
}

/// A program of Kafka, or of what comes with it; its standard error goes to its output.
pub fn java(jars: &Path, class: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec java \"$@\" 2>&1", "java"]);
    command.args(["-Xmx512M", "-Djava.awt.headless=true", "-cp", &format!("{}/*", jars.display()), class]);
    command
}

/// The files of a partition's directory with one of these endings.
pub fn files(directory: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Runs DumpLogSegments over every segment and index of these directories; returns its output for each directory's
/// segments. Offsets may be missing only if a directory's name begins with `compacted`.
pub fn dump(jars: &Path, directories: &[PathBuf]) -> Result<Vec<String>> {
    let list = |endings: &[&str]| -> Result<String> {
        let mut all = Vec::new();
        for directory in directories {
            all.extend(files(directory, endings)?.iter().map(|path| path.display().to_string()));
        }
        Ok(all.join(","))
    };
    let run = |files: &str, arguments: &[&str]| {
        clients::run(java(jars, "kafka.tools.DumpLogSegments").args(["--files", files]).args(arguments))
    };
    let indexes = list(&["index", "timeindex"])?;
    let segments = run(&list(&["log"])?, &["--deep-iteration", "--print-data-log"])?;
    let verified = run(&indexes, &["--deep-iteration", "--verify-index-only"])?;
    let sound = run(&indexes, &["--index-sanity-check"])?;
    ensure!(sound.contains("passed sanity check"), "{sound}");
    let snapshots = list(&["snapshot"])?;
    let snapshots = if snapshots.is_empty() { String::new() } else { run(&snapshots, &[])? };
    for (what, output) in
        [("segments", &segments), ("indexes", &verified), ("checks", &sound), ("snapshots", &snapshots)]
    {
        let fault = output.lines().find(|line| {
            [
                "Mismatch",
                "mismatch",
                "out of order",
                "Exception",
                "invalid",
                "isvalid: false",
                "corrupt",
                "not found in the log",
            ]
            .iter()
            .any(|word| line.contains(word))
                || line.starts_with("Non-consecutive") && !line.contains("/compacted")
        });
        if let Some(fault) = fault {
            let from = output.find(fault).unwrap_or_default();
            bail!("{what}: {}", output.get(from..).unwrap_or_default().chars().take(2_000).collect::<String>());
        }
    }
    let of = |directory: &PathBuf| {
        let dumps = segments.split("Dumping ").filter(|dump| dump.starts_with(&format!("{}/", directory.display())));
        dumps.collect::<String>()
    };
    Ok(directories.iter().map(of).collect())
}

/// What DumpLogSegments prints of the files of a directory with this ending.
pub fn dump_kind(jars: &Path, directory: &Path, ending: &str) -> Result<String> {
    let all: Vec<String> = files(directory, &[ending])?.iter().map(|path| path.display().to_string()).collect();
    clients::run(java(jars, "kafka.tools.DumpLogSegments").args(["--files", &all.join(",")]))
}

/// A Kafka of one process (KRaft), and its log directory.
pub struct KafkaBroker {
    child: Child,
    port: u16,
    listener_ports: BTreeMap<String, u16>,
    folder: PathBuf,
}

impl KafkaBroker {
    /// Starts a broker in `folder`, with these properties beside the required ones, and waits until it listens.
    pub fn start(jars: &Path, folder: &Path, properties: &[&str]) -> Result<Self> {
        Self::start_listening(jars, folder, &[], properties)
    }

    /// As [`KafkaBroker::start`], with further listeners: name and security protocol.
    pub fn start_listening(
        jars: &Path,
        folder: &Path,
        listeners: &[(String, String)],
        properties: &[&str],
    ) -> Result<Self> {
        let ports = free_ports(2 + listeners.len())?;
        let [port, controller, others @ ..] = &ports[..] else { bail!("two ports") };
        let (port, names) = (*port, listeners.iter().map(|(name, _)| name.clone()));
        let listener_ports: BTreeMap<String, u16> = names.zip(others.iter().copied()).collect();
        let further: String = listener_ports.iter().map(|(name, port)| format!(",{name}://127.0.0.1:{port}")).collect();
        let protocols: String = listeners.iter().map(|(name, protocol)| format!(",{name}:{protocol}")).collect();
        let data = folder.join("data");
        let mut lines = vec![
            "process.roles=broker,controller".to_owned(),
            "node.id=1".to_owned(),
            format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
            "controller.listener.names=CONTROLLER".to_owned(),
            format!("listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT{protocols}"),
            format!("listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{further}"),
            format!("advertised.listeners=PLAINTEXT://127.0.0.1:{port}{further}"),
            format!("log.dirs={}", data.display()),
            "offsets.topic.replication.factor=1".to_owned(),
            "transaction.state.log.replication.factor=1".to_owned(),
            "transaction.state.log.min.isr=1".to_owned(),
        ];
        lines.extend(properties.iter().map(|line| (*line).to_owned()));
        let config = folder.join("server.properties");
        fs::write(&config, lines.join("\n"))?;
        let config = config.display().to_string();
        clients::run(java(jars, "kafka.tools.StorageTool").args([
            "format",
            "-t",
            "4L6g3nShT-eMCtK--X86sw",
            "-c",
            &config,
        ]))?;
        let log = fs::File::create(folder.join("log"))?;
        let child = java(jars, "kafka.Kafka")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start Kafka")?;
        let mut broker = Self { child, port, listener_ports, folder: folder.to_owned() };
        let listening = wait::until("Kafka listens", || match broker.child.try_wait()? {
            Some(status) => bail!("Kafka ended: {status}"),
            None => Ok(listens(SocketAddr::from(([127, 0, 0, 1], port)))),
        });
        listening.with_context(|| broker.log_text())?;
        Ok(broker)
    }

    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The address of one of the listeners that a test added.
    pub fn address_of(&self, listener: &str) -> String {
        format!("127.0.0.1:{}", self.listener_ports.get(listener).copied().unwrap_or_default())
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Ends it in the middle of its work.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as an operator would.
    pub fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id above 0")?;
        kill_process(pid, Signal::TERM)?;
        let ended = wait::until("Kafka ends", || Ok(self.child.try_wait()?.is_some()));
        ended.with_context(|| self.log_text())
    }
}

impl Drop for KafkaBroker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
