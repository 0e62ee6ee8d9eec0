//! The commands of `goldens/commands.txt`: what Kafka 4.3's own tools said at a Kafka 4.3 (`goldens/kafka-4.3.jsonl`)
//! is said by our tools at an Ottla, by our tools at a Kafka, and by Kafka's tools at an Ottla.
//!
//! A JVM for each command takes minutes: `make crossed` runs Kafka's tools. To record Kafka's answers anew:
//! `make goldens`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ottla_e2e::clients::jvm;
use ottla_e2e::cluster::binary;
use ottla_e2e::kafka::{KafkaBroker, broker_4_jars, tool_jars};
use ottla_e2e::{Cluster, ClusterOptions};
use serde_json::{Value, json};

const COMMANDS: &str = include_str!("../goldens/commands.txt");
const RECORDED: &str = include_str!("../goldens/kafka-4.3.jsonl");
/// The class behind each of Kafka's tools.
const CLASSES: &str = include_str!("../goldens/classes.json");
/// Of a hundred commands so many must agree. The test prints the differences.
const AGREEMENT_PERCENT: usize = 98;
/// Commands whose answers differ, and why that is right. They do not count as agreeing.
const KEPT: &[(&str, &str)] = &[(
    "kafka-delete-records --offset-json-file {DIR}/delete.json",
    "Kafka's tool asks for a topic that does not exist for a minute, and then tells of a timeout; ours says at once that \
     there is no such topic",
)];
/// What Kafka 4.3 writes into a cluster that it forms, so that all brokers have one value. In Ottla each broker has its
/// own unless somebody sets one for all.
const FORMED: &str = "kafka-configs --alter --broker-defaults --add-config min.insync.replicas=1";
/// What goes on in the background is done after it.
const SETTLE: Duration = Duration::from_secs(3);
/// Kafka's tools log to standard error, as with the configuration that comes with them.
const LOGGING: &str = "log4j.rootLogger=WARN, stderr
log4j.appender.stderr=org.apache.log4j.ConsoleAppender
log4j.appender.stderr.Target=System.err
log4j.appender.stderr.layout=org.apache.log4j.PatternLayout
log4j.appender.stderr.layout.ConversionPattern=[%d] %p %m (%c)%n
";

/// Whose tools say it.
enum Tools {
    Ours,
    Kafkas { class_path: String, classes: HashMap<String, String> },
}

impl Tools {
    /// None where the machine lacks the jars.
    fn kafkas() -> Result<Option<Self>> {
        let (Some(broker), Some(tools)) = (broker_4_jars(), tool_jars()) else { return Ok(None) };
        let class_path = format!("{}/*:{}/*", broker.display(), tools.display());
        Ok(Some(Self::Kafkas { class_path, classes: serde_json::from_str(CLASSES)? }))
    }

    fn command(&self, tool: &str, folder: &Path) -> Result<Command> {
        let Self::Kafkas { class_path, classes } = self else {
            let mut command = Command::new(binary("ottla")?);
            command.arg0(tool);
            return Ok(command);
        };
        let logging = folder.join("log4j.properties");
        fs::write(&logging, LOGGING)?;
        let mut command = jvm(class_path);
        command.arg(format!("-Dlog4j.configuration=file:{}", logging.display()));
        command.arg(classes.get(tool).with_context(|| tool.to_owned())?);
        Ok(command)
    }
}

/// One line of the list.
enum Step {
    Run { line: String, input: String },
    File { name: String, text: String },
    Settle,
}

fn steps() -> Result<Vec<Step>> {
    let unescaped = |text: &str| text.replace("\\n", "\n").replace("\\t", "\t");
    let mut steps = Vec::new();
    let mut input = String::new();
    for line in COMMANDS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(text) = line.strip_prefix("<<") {
            input = unescaped(text);
        } else if let Some(rest) = line.strip_prefix("@file ") {
            let (name, text) = rest.split_once(' ').context("a name and a text")?;
            steps.push(Step::File { name: name.to_owned(), text: unescaped(text) });
        } else if line == "@settle" {
            steps.push(Step::Settle);
        } else {
            steps.push(Step::Run { line: line.to_owned(), input: std::mem::take(&mut input) });
        }
    }
    Ok(steps)
}

#[derive(Clone, PartialEq, Eq)]
struct Said {
    line: String,
    out: Vec<String>,
    err: Vec<String>,
    code: Option<i64>,
}

impl Said {
    fn shown(&self) -> String {
        format!("{}\n--\n{}\nexit {:?}", self.out.join("\n"), self.err.join("\n"), self.code)
    }
}

/// What a tool says, with neither addresses nor folders of this run.
fn run(
    tools: &Tools,
    line: &str,
    input: &str,
    bootstrap: &str,
    folder: &Path,
) -> Result<(String, String, Option<i32>)> {
    let with_folder = line.replace("{DIR}", &folder.display().to_string());
    let mut words = with_folder.split(' ');
    let mut command = tools.command(words.next().unwrap_or_default(), folder)?;
    let words: Vec<&str> = words.collect();
    command.args(&words);
    // A line without an option asks what the tool says to nothing at all.
    if !words.is_empty() {
        command.args(["--bootstrap-server", bootstrap]);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| line.to_owned())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that refuses its options reads nothing.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let plain = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(bootstrap, "HOST");
        let text = text.replace(&folder.display().to_string(), "DIR");
        // Frames of Java's stack are no words of a tool.
        let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("\tat ") && !line.starts_with("\t... "));
        lines.collect::<String>()
    };
    Ok((plain(&output.stdout), plain(&output.stderr), output.status.code()))
}

/// The lines of a record, without what differs from run to run.
fn parsed(record: &str) -> Result<Vec<Said>> {
    let said = |line: &str| -> Result<Said> {
        let one: Value = serde_json::from_str(line)?;
        let text = |field: &str| one[field].as_str().map(str::to_owned).with_context(|| field.to_owned());
        let (out, err) = (normalized(&text("out")?), normalized(&text("err")?));
        Ok(Said { line: text("line")?, out, err, code: one["code"].as_i64() })
    };
    record.lines().map(said).collect()
}

/// Without what differs from run to run: times, ids, the order of lines. The table of options that follows a mistake is
/// in each tool's own words.
fn normalized(text: &str) -> Vec<String> {
    let lines = text.lines().take_while(|line| !line.starts_with("Option  ") && !line.starts_with("Option (*"));
    let lines = lines.map(str::trim_end).filter(|line| !line.is_empty());
    // What Java says of its logging, an advertisement of Kafka's consumer, and the log of Java's client are no words of
    // the tool.
    const ASIDES: [&str; 3] =
        ["Reconfiguration failed: No configuration found", "(KIP-848) is production-ready!", "[AdminClient clientId="];
    let lines = lines.filter(|line| !ASIDES.iter().any(|aside| line.contains(aside)));
    let mut lines: Vec<String> = lines.map(without_ids).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// Times become T, ids of 22 characters ID, ports PORT, paths in quotes PATH, and the numbers of groups that the
/// console consumer invents N.
fn without_ids(line: &str) -> String {
    const INVENTED: &str = "console-consumer-";
    // `[2026-11-21 09:16:58,656] ERROR …`
    let line = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, rest)) if time.len() == 23 => format!("[T] {rest}"),
        _ => line.to_owned(),
    };
    let is_part = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    let mut plain = String::new();
    let mut word = String::new();
    for character in line.chars().chain(['\0']) {
        if is_part(character) {
            word.push(character);
            continue;
        }
        let is_id = word.len() == 22 && word.bytes().any(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        let is_port = word.len() == 5 && word.bytes().all(|byte| byte.is_ascii_digit());
        let is_time = word.len() == 13 && word.starts_with('1') && word.bytes().all(|byte| byte.is_ascii_digit());
        match (is_id, is_time) {
            _ if word.starts_with(INVENTED) => plain.push_str("console-consumer-N"),
            (true, _) => plain.push_str("ID"),
            (_, true) => plain.push('T'),
            _ if is_port => plain.push_str("PORT"),
            _ => plain.push_str(&word),
        }
        word.clear();
        if character != '\0' {
            plain.push(character);
        }
    }
    // Log directories lie elsewhere.
    let mut parts: Vec<&str> = plain.split('"').collect();
    for part in parts.iter_mut().filter(|part| part.starts_with('/') || part.starts_with("DIR/")) {
        *part = "PATH";
    }
    plain = parts.join("\"");
    // The width of columns follows from the longest name.
    if plain.contains("console-consumer-N") {
        plain = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    // The brokers have the configurations of a topic in an order of their own.
    if let Some((topic, configs)) = plain.split_once("Configs: ") {
        let mut configs: Vec<&str> = configs.split(',').collect();
        configs.sort_unstable();
        plain = format!("{topic}Configs: {}", configs.join(","));
    }
    // Java has its sets in any order.
    if plain.contains("one of") || plain.contains("Valid states are: ") {
        let mut words: Vec<&str> = plain.split([' ', ',', '[', ']', '\'']).filter(|word| !word.is_empty()).collect();
        words.sort_unstable();
        plain = words.join(" ");
    }
    plain
}

/// What `tools` say to all commands at the cluster behind `bootstrap`, as a line of JSON for each.
fn say_all(tools: &Tools, bootstrap: &str, folder: &Path) -> Result<String> {
    let mut said = String::new();
    for step in steps()? {
        match step {
            Step::Settle => std::thread::sleep(SETTLE),
            Step::File { name, text } => fs::write(folder.join(name), text)?,
            Step::Run { line, input } => {
                let (out, err, code) = run(tools, &line, &input, bootstrap, folder)?;
                said += &format!("{}\n", json!({"line": line, "out": out, "err": err, "code": code}));
            }
        }
    }
    Ok(said)
}

/// Compares with the record what `who` said.
fn compare(who: &str, said: &str) -> Result<()> {
    let (wanted, said) = (parsed(RECORDED)?, parsed(said)?);
    let lines = |said: &[Said]| -> Vec<String> { said.iter().map(|one| one.line.clone()).collect() };
    ensure!(lines(&wanted) == lines(&said), "the list has changed: record Kafka's answers again (make goldens)");
    let mut report = String::new();
    let mut differing: BTreeMap<&str, usize> = BTreeMap::new();
    for (wanted, said) in wanted.iter().zip(&said).filter(|(wanted, said)| wanted != said) {
        let tool = wanted.line.split(' ').next().unwrap_or_default();
        *differing.entry(tool).or_default() += 1;
        let kept = KEPT.iter().find(|(line, _)| *line == wanted.line).map(|(_, reason)| *reason);
        let kept = kept.map(|reason| format!(" (kept: {reason})")).unwrap_or_default();
        report += &format!("$ {}{kept}\n-- recorded\n{}\n-- {who}\n{}\n\n", wanted.line, wanted.shown(), said.shown());
    }
    let (count, wrong) = (wanted.len(), differing.values().sum::<usize>());
    println!("{who}: {} of {count} commands agree\n{report}", count - wrong);
    if (count - wrong) * 100 < count * AGREEMENT_PERCENT {
        bail!("{who}: {wrong} of {count} commands differ: {differing:?}\n{report}");
    }
    Ok(())
}

fn ottla() -> Result<Cluster> {
    let cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
    let folder = tempfile::tempdir()?;
    let (out, err, code) = run(&Tools::Ours, FORMED, "", &cluster.bootstrap(), folder.path())?;
    ensure!(code == Some(0), "{out}{err}");
    Ok(cluster)
}

#[test]
fn our_tools_say_what_kafkas_said() -> Result<()> {
    let (cluster, folder) = (ottla()?, tempfile::tempdir()?);
    compare("our tools at an Ottla", &say_all(&Tools::Ours, &cluster.bootstrap(), folder.path())?)
}

#[test]
fn our_tools_say_the_same_to_kafka() -> Result<()> {
    let Some(jars) = broker_4_jars() else { return Ok(()) };
    let (data, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let kafka = KafkaBroker::start(&jars, data.path(), &[])?;
    compare("our tools at a Kafka", &say_all(&Tools::Ours, &kafka.bootstrap(), folder.path())?)?;
    kafka.stop()
}

#[test]
#[ignore = "a JVM for each command takes minutes: make crossed"]
fn kafkas_tools_say_the_same_to_ottla() -> Result<()> {
    let Some(tools) = Tools::kafkas()? else { return Ok(()) };
    let (cluster, folder) = (ottla()?, tempfile::tempdir()?);
    compare("Kafka's tools at an Ottla", &say_all(&tools, &cluster.bootstrap(), folder.path())?)
}

/// No test: writes the record.
#[test]
#[ignore = "writes the record: make goldens"]
fn record_what_kafkas_tools_say_to_kafka() -> Result<()> {
    let jars = broker_4_jars().context("no jars of Kafka's broker")?;
    let tools = Tools::kafkas()?.context("no jars of Kafka's tools")?;
    let (data, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let kafka = KafkaBroker::start(&jars, data.path(), &[])?;
    let said = say_all(&tools, &kafka.bootstrap(), folder.path())?;
    fs::write(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("goldens/kafka-4.3.jsonl"), said)?;
    kafka.stop()
}
