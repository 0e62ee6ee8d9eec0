//! The commands of `goldens/commands.txt`: our tools say at an Ottla what Kafka 4.3's own tools said at a Kafka 4.3
//! (`goldens/kafka-4.3.jsonl`, which `goldens/record.py` writes anew).

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ottla_e2e::cluster::binary;
use ottla_e2e::{Cluster, ClusterOptions};
use serde_json::Value;

const COMMANDS: &str = include_str!("../goldens/commands.txt");
const RECORDED: &str = include_str!("../goldens/kafka-4.3.jsonl");
/// Of a hundred commands so many must agree. The goal is 98; 135 of 171 agreed when this was measured last. The test
/// prints the differences.
const AGREEMENT_PERCENT: usize = 78;
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

/// What our tool says.
fn run(line: String, input: &str, bootstrap: &str, folder: &Path) -> Result<Said> {
    let with_folder = line.replace("{DIR}", &folder.display().to_string());
    let mut words = with_folder.split(' ');
    let mut command = Command::new(binary("ottla")?);
    command.arg0(words.next().unwrap_or_default());
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
        .with_context(|| line.clone())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that refuses its options reads nothing.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let plain = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(bootstrap, "HOST");
        normalized(&text.replace(&folder.display().to_string(), "DIR"))
    };
    let (out, err) = (plain(&output.stdout), plain(&output.stderr));
    Ok(Said { line, out, err, code: output.status.code().map(i64::from) })
}

/// What Kafka's tools said.
fn recorded() -> Result<Vec<Said>> {
    let said = |line: &str| -> Result<Said> {
        let one: Value = serde_json::from_str(line)?;
        let text = |field: &str| one[field].as_str().map(str::to_owned).with_context(|| field.to_owned());
        Ok(Said {
            line: text("line")?,
            out: normalized(&text("out")?),
            err: normalized(&text("err")?),
            code: one["code"].as_i64(),
        })
    };
    RECORDED.lines().map(said).collect()
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
    // `[2026-11-21 09:16:58,656] ERROR …`
    match plain.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, rest)) if time.len() == 23 => format!("[T] {rest}"),
        _ => plain,
    }
}

#[test]
fn our_tools_say_what_kafkas_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
    let formed = run(FORMED.to_owned(), "", &cluster.bootstrap(), folder.path())?;
    ensure!(formed.code == Some(0), "{}", formed.shown());
    let mut said = Vec::new();
    for step in steps()? {
        match step {
            Step::Settle => std::thread::sleep(SETTLE),
            Step::File { name, text } => fs::write(folder.path().join(name), text)?,
            Step::Run { line, input } => said.push(run(line, &input, &cluster.bootstrap(), folder.path())?),
        }
    }
    let wanted = recorded()?;
    let lines = |said: &[Said]| -> Vec<String> { said.iter().map(|one| one.line.clone()).collect() };
    ensure!(lines(&wanted) == lines(&said), "the list has changed: record Kafka's answers again");
    let mut report = String::new();
    let mut differing: BTreeMap<&str, usize> = BTreeMap::new();
    for (wanted, said) in wanted.iter().zip(&said).filter(|(wanted, said)| wanted != said) {
        let tool = wanted.line.split(' ').next().unwrap_or_default();
        *differing.entry(tool).or_default() += 1;
        let kept = KEPT.iter().find(|(line, _)| *line == wanted.line).map(|(_, reason)| *reason);
        let kept = kept.map(|reason| format!(" (kept: {reason})")).unwrap_or_default();
        report += &format!("$ {}{kept}\n-- Kafka\n{}\n-- Ottla\n{}\n\n", wanted.line, wanted.shown(), said.shown());
    }
    let (count, wrong) = (wanted.len(), differing.values().sum::<usize>());
    println!("{} of {count} commands agree\n{report}", count - wrong);
    if (count - wrong) * 100 < count * AGREEMENT_PERCENT {
        bail!("{wrong} of {count} commands differ: {differing:?}\n{report}");
    }
    Ok(())
}
