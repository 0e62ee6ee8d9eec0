//! The tools under Kafka's names against a real cluster: their output equals that of Apache Kafka's tools, line by
//! line.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions, clients};

/// Standard output and standard error of a tool, and whether it ended with 0.
fn told(name: &str, bootstrap: &str, arguments: &[&str]) -> Result<(String, String, bool)> {
    let Output { status, stdout, stderr } = clients::tool(name, bootstrap, arguments)?.output()?;
    Ok((String::from_utf8(stdout)?, String::from_utf8(stderr)?, status.success()))
}

fn expect(bootstrap: &str, name: &str, arguments: &[&str], wanted: &str) -> Result<()> {
    let (out, err, ok) = told(name, bootstrap, arguments)?;
    ensure!(ok && out == wanted, "{name} {arguments:?}: wanted\n{wanted}\ngot\n{out}\nand\n{err}");
    Ok(())
}

fn small() -> Result<Cluster> {
    Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })
}

fn topic_with_records(bootstrap: &str, topic: &str) -> Result<()> {
    clients::run_script("create_topic.py", &[bootstrap, topic, "2", "1"])?;
    let send = format!("seq 1 10 | kcat -b {bootstrap} -P -t {topic} -p 1 -X acks=all");
    clients::run(std::process::Command::new("sh").args(["-c", &send])).map(drop)
}

#[test]
fn configurations_are_changed_and_shown() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&at, "my-topic", "1", "1"])?;
    let topic = ["--entity-type", "topics", "--entity-name", "my-topic"];
    let configs =
        |arguments: &[&str], wanted: &str| expect(&at, "kafka-configs", &[arguments, &topic].concat(), wanted);
    configs(
        &["--alter", "--add-config", "retention.ms=3600000,cleanup.policy=[compact,delete]"],
        "Completed updating config for topic my-topic.\n",
    )?;
    // The script that makes topics sets min.insync.replicas.
    configs(
        &["--describe"],
        "Dynamic configs for topic my-topic are:\n  \
         cleanup.policy=compact,delete sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete, DEFAULT_CONFIG:log.cleanup.policy=delete}\n  \
         min.insync.replicas=1 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:min.insync.replicas=1, DEFAULT_CONFIG:min.insync.replicas=1}\n  \
         retention.ms=3600000 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=3600000}\n",
    )?;
    configs(
        &["--alter", "--delete-config", "retention.ms,cleanup.policy"],
        "Completed updating config for topic my-topic.\n",
    )?;
    let (out, _, _) = told("kafka-configs", &at, &[&["--describe"], &topic[..]].concat())?;
    ensure!(!out.contains("retention.ms") && !out.contains("cleanup.policy"), "{out}");
    let (_, err, ok) =
        told("kafka-configs", &at, &[&["--alter", "--add-config", "retention.ms=soon"], &topic[..]].concat())?;
    let wanted =
        "InvalidConfigurationException: Invalid value soon for configuration retention.ms: Not a number of type LONG";
    ensure!(!ok && err.contains(wanted), "{err}");
    expect(
        &at,
        "kafka-configs",
        &["--alter", "--entity-type", "brokers", "--entity-default", "--add-config", "log.cleaner.threads=2"],
        "Completed updating default config for brokers in the cluster.\n",
    )?;
    expect(
        &at,
        "kafka-configs",
        &["--describe", "--entity-type", "brokers", "--entity-name", "1"],
        "Dynamic configs for broker 1 are:\n",
    )?;
    let loggers = ["--entity-type", "broker-loggers", "--entity-name", "1"];
    let level = |wanted: &str| -> Result<()> {
        let (out, _, ok) = told("kafka-configs", &at, &[&["--describe"], &loggers[..]].concat())?;
        let line = format!("  ottla_broker={wanted} sensitive=false synonyms={{}}");
        ensure!(ok && out.lines().any(|shown| shown == line), "{out}");
        Ok(())
    };
    level("INFO")?;
    expect(
        &at,
        "kafka-configs",
        &[&["--alter", "--add-config", "ottla_broker=DEBUG"], &loggers[..]].concat(),
        "Completed updating config for broker-logger 1.\n",
    )?;
    level("DEBUG")?;
    let wrong = told("kafka-configs", &at, &[&["--alter", "--add-config", "kafka=DEBUG"], &loggers[..]].concat())?;
    ensure!(!wrong.2 && wrong.1.contains("Logger kafka does not exist!"), "{}", wrong.1);
    let (out, _, ok) = told("kafka-configs", &at, &["--describe", "--broker-defaults"])?;
    let wanted = "Default configs for brokers in the cluster are:\n  log.cleaner.threads=2 sensitive=false";
    ensure!(ok && out.starts_with(wanted), "{out}");
    Ok(())
}

#[test]
fn offsets_are_shown_and_records_deleted() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    topic_with_records(&at, "my-topic")?;
    expect(&at, "kafka-get-offsets", &["--topic", "my-topic"], "my-topic:0:0\nmy-topic:1:10\n")?;
    let plan = cluster.folder().join("delete.json");
    std::fs::write(&plan, r#"{"partitions":[{"topic":"my-topic","partition":1,"offset":4}],"version":1}"#)?;
    let plan = plan.to_str().context("a path of text")?;
    expect(
        &at,
        "kafka-delete-records",
        &["--offset-json-file", plan],
        "Executing records delete operation\nRecords delete operation completed:\npartition: my-topic-1\tlow_watermark: 4\n",
    )?;
    expect(&at, "kafka-get-offsets", &["--topic-partitions", "my-topic:1", "--time", "earliest"], "my-topic:1:4\n")?;
    std::fs::write(plan, r#"{"partitions":[{"topic":"my-topic","partition":1,"offset":11}],"version":1}"#)?;
    expect(
        &at,
        "kafka-delete-records",
        &["--offset-json-file", plan],
        "Executing records delete operation\nRecords delete operation completed:\npartition: my-topic-1\terror: org.apache.kafka.common.errors.OffsetOutOfRangeException: The requested offset is not within the range of offsets maintained by the server.\n",
    )?;
    let (_, err, ok) = told("kafka-get-offsets", &at, &["--topic", "nope"])?;
    ensure!(!ok && err == "Error occurred: Could not match any topic-partitions with the specified filters\n", "{err}");
    Ok(())
}

#[test]
fn a_group_reads_on_from_what_it_committed() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    topic_with_records(&at, "my-topic")?;
    let consume = |count: &str| {
        let arguments = ["--topic", "my-topic", "--group", "g1", "--from-beginning", "--max-messages", count];
        told("kafka-console-consumer", &at, &arguments)
    };
    let (out, err, ok) = consume("4")?;
    ensure!(ok && out == "1\n2\n3\n4\n" && err == "Processed a total of 4 messages\n", "{out}{err}");
    let header = "\nGROUP           TOPIC           PARTITION  CURRENT-OFFSET  LOG-END-OFFSET  LAG             CONSUMER-ID     HOST            CLIENT-ID\n";
    let rows = |current: &str, lag: &str| {
        format!(
            "{header}g1              my-topic        0          0               0               0               -               -               -\n\
             g1              my-topic        1          {current:<15} 10              {lag:<15} -               -               -\n"
        )
    };
    expect(&at, "kafka-consumer-groups", &["--describe", "--group", "g1"], &rows("4", "6"))?;
    let (out, _, ok) = consume("6")?;
    ensure!(ok && out == "5\n6\n7\n8\n9\n10\n", "{out}");
    expect(
        &at,
        "kafka-consumer-groups",
        &["--reset-offsets", "--group", "g1", "--topic", "my-topic:1", "--shift-by", "-3", "--execute"],
        "\nGROUP           TOPIC           PARTITION  NEW-OFFSET\ng1              my-topic        1          7\n",
    )?;
    expect(&at, "kafka-consumer-groups", &["--describe", "--group", "g1"], &rows("7", "3"))?;
    let (out, _, ok) = consume("3")?;
    ensure!(ok && out == "8\n9\n10\n", "{out}");
    expect(
        &at,
        "kafka-consumer-groups",
        &["--delete", "--group", "g1"],
        "Deletion of requested consumer groups ('g1') was successful.\n",
    )?;
    let (out, _, ok) = told("kafka-consumer-groups", &at, &["--describe", "--group", "g1"])?;
    let wanted = "\nError: Executing consumer group command failed due to org.apache.kafka.common.errors.GroupIdNotFoundException: Group g1 not found.\n";
    ensure!(ok && out == wanted, "{out}");
    Ok(())
}

fn ottla(bootstrap: &str, arguments: &[&str]) -> Result<(String, String, bool)> {
    let mut command = std::process::Command::new(ottla_e2e::cluster::binary("ottla")?);
    let Output { status, stdout, stderr } = command.args(arguments).args(["--bootstrap-server", bootstrap]).output()?;
    Ok((String::from_utf8(stdout)?, String::from_utf8(stderr)?, status.success()))
}

#[test]
fn ottla_resets_a_group_and_shows_rates() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    topic_with_records(&at, "my-topic")?;
    let reset = |to: &[&str]| {
        let arguments = [&["group", "reset", "g1", "--topic", "my-topic:1", "--output", "json"], to].concat();
        ottla(&at, &arguments)
    };
    let row =
        |out: &str| -> Result<serde_json::Value> { Ok(serde_json::from_str::<serde_json::Value>(out)?[0].take()) };
    let (out, err, ok) = reset(&["--to-latest"])?;
    ensure!(ok && row(&out)?["after"] == 10 && err.contains("--execute"), "{out}{err}");
    let (out, err, ok) = reset(&["--to-offset", "7", "--execute"])?;
    ensure!(ok && row(&out)?["before"].is_null() && err.is_empty(), "{out}{err}");
    let (out, _, ok) = reset(&["--shift-by", "-3", "--execute"])?;
    let shown = row(&out)?;
    ensure!(ok && shown["before"] == 7 && shown["after"] == 4, "{out}");
    let (out, _, ok) = reset(&["--by-duration", "1h"])?;
    ensure!(ok && row(&out)?["after"] == 0, "{out}");
    let (out, err, ok) = ottla(&at, &["top", "--once", "--interval", "1", "--output", "json"])?;
    let shown: serde_json::Value = serde_json::from_str(&out).with_context(|| format!("{out}{err}"))?;
    let client = &shown["clients"][0];
    ensure!(ok && client["group"] == "g1" && client["topic"] == "my-topic" && client["lag"] == 6, "{out}");
    let topics = shown["topics"].as_array().context("topics")?;
    ensure!(topics.iter().any(|topic| topic["topic"] == "my-topic"), "{out}");
    ensure!(shown["producers"].is_array(), "{out}");
    Ok(())
}

#[test]
fn replicas_are_compared() -> Result<()> {
    use std::io::BufRead as _;
    let cluster = Cluster::start()?;
    let at = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&at, "my-topic", "2", "3"])?;
    cluster.settle()?;
    let send = format!("seq 1 100 | kcat -b {at} -P -t my-topic -p 1 -X acks=all");
    clients::run(std::process::Command::new("sh").args(["-c", &send]))?;
    let line = ["--topics-include", "my-topic", "--time", "-2", "--report-interval-ms", "100", "--max-wait-ms", "100"];
    let mut command = std::process::Command::new(ottla_e2e::cluster::binary("ottla")?);
    std::os::unix::process::CommandExt::arg0(&mut command, "kafka-replica-verification");
    let mut tool = command.args(line).args(["--broker-list", &at]).stdout(std::process::Stdio::piped()).spawn()?;
    let out = tool.stdout.take().context("its output")?;
    let lines = std::io::BufReader::new(out).lines();
    let mut said = Vec::new();
    for line in lines {
        let line = line?;
        let is_done = line.contains(": max lag is 0 for partition my-topic-");
        said.push(line);
        // The followers learn of the high watermark with their next fetch.
        if is_done || said.len() > 1_000 {
            break;
        }
    }
    tool.kill()?;
    tool.wait()?;
    let last = said.last().context("a line")?;
    ensure!(said[0].ends_with(": verification process is started"), "{said:?}");
    ensure!(last.contains("max lag is 0") && last.ends_with(" among 2 partitions"), "{said:?}");
    ensure!(!said.iter().any(|line| line.contains("match")), "{said:?}");
    Ok(())
}

#[test]
fn the_cluster_and_its_versions_are_shown() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    let output = clients::tool("kafka-cluster", &at, &["cluster-id"])?.output()?;
    let id = String::from_utf8(output.stdout)?;
    ensure!(id.starts_with("Cluster ID: ") && id.trim_end().len() == "Cluster ID: ".len() + 22, "{id}");
    let (out, _, ok) = told("kafka-cluster", &at, &["list-endpoints"])?;
    ensure!(ok && out.lines().count() == 2 && out.contains("unfenced   broker"), "{out}");
    let (_, error, ok) = told("kafka-cluster", &at, &["unregister", "--id", "99"])?;
    let class = "org.apache.kafka.common.errors.BrokerIdNotRegisteredException";
    ensure!(!ok && error == format!("{class}: Broker ID 99 is not currently registered\n"), "{error}");
    let (out, _, ok) = told("kafka-metadata-quorum", &at, &["describe", "--status"])?;
    ensure!(ok && out.starts_with(&format!("ClusterId:              {}", &id["Cluster ID: ".len()..])), "{out}");
    ensure!(out.contains("LeaderId:               1\n") && out.contains("CONTROLLER://"), "{out}");
    let (out, _, ok) = told("kafka-metadata-quorum", &at, &["describe", "--replication"])?;
    let kinds: Vec<&str> = out.lines().filter_map(|line| line.trim_end().rsplit('\t').next()).collect();
    ensure!(ok && kinds == ["Status", "Leader", "Observer"], "{out}");
    let (_, error, ok) = told("kafka-metadata-quorum", &at, &["add-controller"])?;
    ensure!(!ok && error.lines().count() == 1, "{error}");
    let (out, _, ok) = told("kafka-broker-api-versions", &at, &[])?;
    ensure!(ok && out.starts_with(&format!("{at} (id: 1 rack: null isFenced: false) -> (\n")), "{out}");
    for line in ["\tFetch(1): 4 to 18 [usable: 18],", "\tJoinGroup(11): 0 to 9 [usable: 9],", "\tVote"] {
        ensure!(out.lines().any(|shown| shown == line) != (line == "\tVote"), "{line}\n{out}");
    }
    Ok(())
}
