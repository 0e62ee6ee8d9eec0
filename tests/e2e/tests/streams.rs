//! Kafka Streams with exactly-once processing: a count by word, through a repartition topic and a state store with its
//! changelog, is exact while brokers, coordinators and the application itself are killed.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients};

const RECORDS: &str = "12000";
const WORDS: &str = "40";
/// The records are written over this time, in which what the application uses is killed.
const WRITING_SECS: &str = "30";
const BETWEEN_KILLS: Duration = Duration::from_secs(4);

/// The jars, and the compiled application.
struct Counts {
    class_path: String,
    folder: tempfile::TempDir,
}

impl Counts {
    /// None if the Makefile could not fetch Kafka Streams.
    fn compile() -> Result<Option<Self>> {
        let Ok(jars) = std::env::var("OTTLA_KAFKA_STREAMS_JARS") else { return Ok(None) };
        let folder = tempfile::tempdir()?;
        let classes = folder.path().join("classes");
        let mut javac = Command::new("javac");
        javac.args(["-cp", &format!("{jars}/*"), "-d"]).arg(&classes).arg(clients::script("Counts.java"));
        clients::run(&mut javac)?;
        Ok(Some(Self { class_path: format!("{jars}/*:{}", classes.display()), folder }))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = clients::jvm(&self.class_path);
        // The last size of the heap counts.
        command.args(["-Xmx160M", "Counts"]).args(arguments);
        command
    }

    /// Where an instance tells what it replaced a thread for.
    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let out = clients::run(&mut self.command(arguments))?;
        ensure!(out.trim().ends_with("ok"), "{out}");
        Ok(())
    }
}

/// One instance of the application; killed when dropped.
struct Instance(Child);

impl Instance {
    fn start(counts: &Counts, bootstrap: &str, name: &str) -> Result<Self> {
        let state = counts.folder.path().join(name).to_string_lossy().into_owned();
        let log = File::options().create(true).append(true).open(counts.log(name))?;
        let mut command = counts.command(&["app", bootstrap, &state]);
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn streams_counts_exactly_once_while_everything_is_killed() -> Result<()> {
    let Some(counts) = Counts::compile()? else {
        ottla_test_support::skipped("the jars of Kafka Streams are not there");
        return Ok(());
    };
    let options = ClusterOptions::default().with("group.initial.rebalance.delay.ms", "0");
    let mut cluster = Cluster::start_with(options)?;
    let bootstrap = cluster.bootstrap();
    for topic in ["words", "counted"] {
        clients::run_script("create_topic.py", &[&bootstrap, topic, "4"])?;
    }
    let mut instances =
        [Some(Instance::start(&counts, &bootstrap, "first")?), Some(Instance::start(&counts, &bootstrap, "second")?)];
    let nodes = cluster.nodes();
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let proving = scope.spawn(|| {
            let proved = counts
                .run(&["produce", &bootstrap, RECORDS, WORDS, WRITING_SECS])
                .and_then(|()| counts.run(&["check", &bootstrap, RECORDS]));
            has_ended.store(true, Ordering::SeqCst);
            proved
        });
        for turn in 0.. {
            std::thread::sleep(BETWEEN_KILLS);
            if has_ended.load(Ordering::SeqCst) {
                break;
            }
            // Later the application is left alone, so that it can come to the end of the records.
            if turn >= 2 * nodes.len() {
                continue;
            }
            if turn % 3 == 2 {
                let (index, name) = if turn % 2 == 0 { (0, "first") } else { (1, "second") };
                // Dropped first: two processes cannot use one state directory.
                drop(instances[index].take());
                instances[index] = Some(Instance::start(&counts, &bootstrap, name)?);
            } else {
                let node: Node = nodes[turn % nodes.len()];
                cluster.bounce(node)?;
            }
        }
        let proved = proving.join().ok().context("the thread of the producer and the check")?;
        let logs = || ["first", "second"].map(|name| fs::read_to_string(counts.log(name)).unwrap_or_default());
        proved.with_context(|| format!("the instances told:\n{}", logs().join("\n")))
    })
}
