//! The tools under Kafka's names that write, read and show records, against a real cluster.

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::cluster::{Cluster, ClusterOptions, Node};
use ottla_e2e::{clients, kafka};
use serde_json::Value;

fn small() -> Result<Cluster> {
    let cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
    clients::run_script("create_topic.py", &[&cluster.bootstrap(), "my-topic", "2", "1"])?;
    Ok(cluster)
}

fn told(bootstrap: &str, name: &str, arguments: &str) -> Result<String> {
    clients::run(&mut clients::tool(name, bootstrap, &arguments.split(' ').collect::<Vec<_>>())?)
}

/// The events of a tool, by name.
fn events(lines: &str) -> Result<Vec<(String, Value)>> {
    let event = |line: &str| {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        Ok((event["name"].as_str().context("a name")?.to_owned(), event))
    };
    lines.lines().map(event).collect()
}

#[test]
fn each_message_is_told_when_it_is_written_and_read() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    let written = told(&at, "kafka-verifiable-producer", "--topic my-topic --max-messages 20 --value-prefix 3")?;
    let written = events(&written)?;
    let values: Vec<&str> = written.iter().filter_map(|(_, event)| event["value"].as_str()).collect();
    ensure!(values.len() == 20 && values[19] == "3.19", "{values:?}");
    let (last, data) = written.last().context("an event")?;
    ensure!(last == "tool_data" && data["sent"] == 20 && data["acked"] == 20, "{data}");

    let arguments = "--topic my-topic --max-messages 20 --group-id g --verbose";
    let read = events(&told(&at, "kafka-verifiable-consumer", arguments)?)?;
    let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names[..2] == ["startup_complete", "partitions_assigned"], "{names:?}");
    ensure!(names.ends_with(&["partitions_revoked", "shutdown_complete", "shutdown_requested"]), "{names:?}");
    let count = |wanted: &str| read.iter().filter(|(name, _)| name == wanted).count();
    ensure!(count("record_data") == 20 && count("offsets_committed") == count("records_consumed"), "{names:?}");
    let consumed = read.iter().filter(|(name, _)| name == "records_consumed");
    ensure!(consumed.filter_map(|(_, event)| event["count"].as_i64()).sum::<i64>() == 20, "{read:?}");

    let groups = told(&at, "kafka-groups", "--list --consumer")?;
    ensure!(
        groups.lines().nth(1) == Some("g                    Classic              consumer             "),
        "{groups}"
    );
    let features = told(&at, "kafka-features", "describe")?;
    ensure!(features.contains("metadata.version") && features.contains("SupportedMinVersion: 4.3-IV0"), "{features}");
    Ok(())
}

#[test]
fn rates_and_latencies_are_measured() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    let arguments = "--topic my-topic --num-records 2000 --record-size 100 --throughput -1 --warmup-records 500";
    let written = told(&at, "kafka-producer-perf-test", arguments)?;
    ensure!(written.contains("\n2000 records sent, ") && written.contains("\n1500 steady state records"), "{written}");
    let read = told(&at, "kafka-consumer-perf-test", "--topic my-topic --num-records 2000")?;
    let fields: Vec<&str> = read.lines().nth(1).context("a line")?.split(", ").collect();
    ensure!(fields.len() == 10 && fields[4] == "2000", "{read}");
    let latency = told(&at, "kafka-e2e-latency", "--topic new --num-records 3 --producer-acks all --record-size 9")?;
    ensure!(latency.contains("Topic \"new\" does not exist.") && latency.contains("99.9th = "), "{latency}");
    Ok(())
}

/// Kafka's tool over the same files, where its jars are there.
#[test]
fn logs_are_shown_as_kafkas_tool_shows_them() -> Result<()> {
    let mut cluster = small()?;
    let at = cluster.bootstrap();
    told(&at, "kafka-verifiable-producer", "--topic my-topic --max-messages 300 --repeating-keys 7")?;
    told(&at, "kafka-verifiable-consumer", "--topic my-topic --max-messages 300 --group-id g")?;
    let data = cluster.data_folder(Node::Broker(1))?;
    cluster.signal(Node::Broker(1), rustix::process::Signal::TERM)?;
    cluster.wait(Node::Broker(1))?;
    let folders: Vec<_> = std::fs::read_dir(&data)?.collect::<std::io::Result<_>>()?;
    let mut shown = 0;
    for folder in folders.iter().map(std::fs::DirEntry::path).filter(|path| path.is_dir()) {
        let is_of_groups = folder.to_string_lossy().contains("__consumer_offsets");
        for file in kafka::files(&folder, &["log", "index", "timeindex", "snapshot"])? {
            let path = file.to_string_lossy().into_owned();
            let decoder = if is_of_groups { "--offsets-decoder" } else { "--print-data-log" };
            let mut tool = std::process::Command::new(ottla_e2e::cluster::binary("ottla")?);
            let ours = clients::run(tool.args(["as", "kafka-dump-log", "--files", &path, decoder]))?;
            ensure!(ours.starts_with(&format!("Dumping {path}\n")) && !ours.contains("isvalid: false"), "{ours}");
            shown += ours.lines().filter(|line| line.starts_with("| offset: ")).count();
            let size = std::fs::metadata(&file)?.len();
            let Some(mut theirs) =
                clients::java("org.apache.kafka.tools.DumpLogSegments", &["--files", &path, decoder])
            else {
                continue;
            };
            // A Java machine for each of fifty empty logs would take minutes.
            if size > 0 {
                let theirs = clients::run(&mut theirs)?;
                ensure!(ours == theirs, "{path}: ours\n{ours}\nKafka's\n{theirs}");
            }
        }
    }
    ensure!(shown > 300, "{shown} records");
    Ok(())
}
