//! `kafka-console-producer` and `kafka-console-consumer` with real brokers: a file goes through a topic unchanged.

use std::fs::File;
use std::process::Stdio;

use anyhow::{Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions, clients};

fn small() -> Result<Cluster> {
    Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })
}

fn produce(at: &str, arguments: &[&str], input: &[u8]) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), input)?;
    let mut tool = clients::tool("kafka-console-producer", at, arguments)?;
    let output = tool.stdin(File::open(file.path())?).output()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}

fn consume(at: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let mut tool = clients::tool("kafka-console-consumer", at, arguments)?;
    let output = tool.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(output.stdout)
}

#[test]
fn a_file_comes_back() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&at, "lines", "1", "1"])?;
    let large = ["--alter", "--entity-type", "topics", "--entity-name", "lines", "--add-config"];
    let large = [&large[..], &["max.message.bytes=4000000"]].concat();
    clients::run(&mut clients::tool("kafka-configs", &at, &large)?)?;
    let mut file = Vec::new();
    for number in 0..100_000 {
        file.extend_from_slice(format!("line {number}\n").as_bytes());
        if number % 1_000 == 0 {
            file.extend_from_slice(b"\n\xff\xfe not UTF-8 \x00\n");
        }
    }
    // Longer than a batch, amid short ones.
    file.extend(std::iter::repeat_n(b'x', 3_000_000));
    file.extend_from_slice(b"\nlast\n");
    // The last line has no end.
    produce(&at, &["--topic", "lines"], &file[..file.len() - 1])?;
    let count = (100_000 + 200 + 2).to_string();
    let read = consume(&at, &["--topic", "lines", "--from-beginning", "--max-messages", &count])?;
    ensure!(read == file, "{} bytes came back of {}", read.len(), file.len());

    // As Java reads lines.
    clients::run_script("create_topic.py", &[&at, "windows", "1", "1"])?;
    produce(&at, &["--topic", "windows"], b"a\r\n\r\nb\r\n")?;
    let read = consume(&at, &["--topic", "windows", "--from-beginning", "--max-messages", "3"])?;
    ensure!(read == b"a\n\nb\n", "{:?}", String::from_utf8_lossy(&read));
    Ok(())
}

#[test]
fn the_shell_of_the_metadata_looks_around() -> Result<()> {
    let cluster = small()?;
    clients::run_script("create_topic.py", &[&cluster.bootstrap(), "seen", "2", "1"])?;
    let coordinator = cluster.coordinator_address(1);
    let shell = |words: &[&str], input: &str| -> Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), input)?;
        let mut tool = std::process::Command::new(ottla_e2e::cluster::binary("ottla")?);
        tool.args(["as", "kafka-metadata-shell", "--controllers", &coordinator]).args(words);
        let output = tool.stdin(File::open(file.path())?).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    ensure!(shell(&["ls", "/brokers/topics"], "")? == "seen\n");
    let found = shell(&["find", "/brokers/topics/seen/partitions"], "")?;
    ensure!(found.lines().any(|path| path == "/brokers/topics/seen/partitions/1/state"), "{found}");
    let lines = "cd /brokers\npwd\nls nowhere\ncat ids/1\nexit\nls\n";
    let told = shell(&[], lines)?;
    let told: Vec<&str> = told.lines().collect();
    ensure!(told.len() == 3 && told[0] == "/brokers" && told[1].contains("nowhere"), "{told:?}");
    ensure!(told[2].contains("\"endpoints\""), "{told:?}");
    Ok(())
}

/// Batches are made for the usual limit; a topic may have a smaller one.
#[test]
fn batches_fit_the_topic() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&at, "narrow", "1", "1"])?;
    let narrow = ["--alter", "--entity-type", "topics", "--entity-name", "narrow", "--add-config"];
    let narrow = [&narrow[..], &["max.message.bytes=2000"]].concat();
    clients::run(&mut clients::tool("kafka-configs", &at, &narrow)?)?;
    let lines: String = (0..2_000).map(|number| format!("line {number}\n")).collect();
    produce(&at, &["--topic", "narrow"], lines.as_bytes())?;
    let read = consume(&at, &["--topic", "narrow", "--from-beginning", "--max-messages", "2000"])?;
    ensure!(read == lines.as_bytes(), "{} bytes came back of {}", read.len(), lines.len());
    Ok(())
}

#[test]
fn topics_are_included_by_an_expression() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    for topic in ["in-1", "in-2", "out"] {
        clients::run_script("create_topic.py", &[&at, topic, "1", "1"])?;
        produce(&at, &["--topic", topic], format!("of {topic}\n").as_bytes())?;
    }
    let read = |more: &[&str]| -> Result<Vec<String>> {
        let common = ["--include", "in-.*", "--from-beginning", "--max-messages", "2"];
        let read = String::from_utf8(consume(&at, &[&common, more].concat())?)?;
        let mut lines: Vec<String> = read.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    };
    ensure!(read(&[])? == ["of in-1", "of in-2"]);
    ensure!(read(&["--group", "g"])? == ["of in-1", "of in-2"]);

    let offsets = ["--topic", "__consumer_offsets", "--from-beginning", "--timeout-ms", "5000", "--formatter"];
    let formatter = |name: &str| -> Result<String> {
        let class = format!("org.apache.kafka.tools.consumer.{name}");
        Ok(String::from_utf8(consume(&at, &[&offsets[..], &[class.as_str()]].concat())?)?)
    };
    let committed = formatter("OffsetsMessageFormatter")?;
    let beginning = r#"{"key":{"type":1,"data":{"group":"g","topic":"in-1","partition":0}},"value":{"version":4,"#;
    ensure!(committed.contains(beginning) && !committed.contains('\n'), "{committed}");
    let groups = formatter("GroupMetadataMessageFormatter")?;
    ensure!(groups.contains(r#"{"key":{"type":2,"data":{"group":"g"}},"value":{"version":"#), "{groups}");
    Ok(())
}
