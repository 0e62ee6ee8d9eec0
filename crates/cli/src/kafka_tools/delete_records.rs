//! `kafka-delete-records`: deletes the records of partitions below offsets that a JSON file names.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use ottla_model::{Offset, PartitionId, TopicName, TopicPartition};
use serde_json::Value;

use super::options::{OptionSpec, Options, flag, value};
use super::{ToolError, bootstrap, exceptions, run_tool};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "String: server(s) to use for bootstrapping", "REQUIRED: The server to connect to."),
    value(
        "command-config",
        "String: command config property file path",
        "A file with a client's properties, such as security.protocol.",
    ),
    flag("help", "Print usage information."),
    value(
        "offset-json-file",
        "String: Offset json file path",
        "REQUIRED: The JSON file with offset per partition: {\"partitions\": [{\"topic\": \"foo\", \"partition\": 1, \"offset\": 1}], \"version\":1}. The offset -1 is the end of the partition.",
    ),
    flag("version", "Display the version."),
];

/// How long brokers may take over it; Kafka's tool allows as much.
const TIMEOUT: Duration = Duration::from_secs(30);

pub async fn run(arguments: &[String]) -> ExitCode {
    let plan =
        |options: &Options| Ok((bootstrap(options)?.to_owned(), options.required("offset-json-file")?.to_owned()));
    run_tool(SPECS, arguments, plan, |(bootstrap, path)| async move {
        match delete(&bootstrap, &path).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                err!("{error}");
                ExitCode::FAILURE
            }
        }
    })
    .await
}

async fn delete(bootstrap: &str, path: &str) -> Result<(), ToolError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ToolError::Argument(format!("Unable to read file {path}: {error}")))?;
    let offsets = parse(&text).map_err(ToolError::Argument)?;
    let kafka = Kafka::connect(bootstrap).await?;
    out!("Executing records delete operation");
    let mut rows = Vec::new();
    for (at, before) in &offsets {
        let row = match kafka.client().delete_records(at, *before, TIMEOUT).await {
            Ok(start) => format!("low_watermark: {start}"),
            Err(error) => format!("error: {}", exceptions::shown(&KafkaError::from(error))),
        };
        rows.push(format!("partition: {at}\t{row}"));
    }
    out!("Records delete operation completed:");
    for row in rows {
        out!("{row}");
    }
    Ok(())
}

fn parse(text: &str) -> Result<BTreeMap<TopicPartition, Offset>, String> {
    let json: Value = serde_json::from_str(text).map_err(|_| "The input string is not a valid JSON".to_owned())?;
    match json.get("version").map(Value::as_i64) {
        None | Some(Some(1)) => {}
        Some(_) => return Err(format!("Not supported version field value {}", json["version"])),
    }
    let partitions = json.get("partitions").and_then(Value::as_array).ok_or("Missing partitions field")?;
    let mut offsets = BTreeMap::new();
    for entry in partitions {
        let at = || {
            let topic = TopicName::new(entry.get("topic")?.as_str()?).ok()?;
            let partition = i32::try_from(entry.get("partition")?.as_i64()?).ok()?;
            let offset = Offset(entry.get("offset")?.as_i64()?);
            Some((TopicPartition::new(topic, PartitionId(partition)), offset))
        };
        let (at, offset) = at().ok_or_else(|| format!("{entry}: wanted are topic, partition and offset"))?;
        if offsets.insert(at.clone(), offset).is_some() {
            return Err(format!("Offset json file contains duplicate topic partitions: {at}"));
        }
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_kafkas_tool_does() {
        let one = r#"{"partitions":[{"topic":"my-topic","partition":0,"offset":1}],"version":1}"#;
        let offsets: Vec<(String, i64)> =
            parse(one).expect("valid").into_iter().map(|(at, offset)| (at.to_string(), offset.0)).collect();
        assert_eq!(offsets, [("my-topic-0".into(), 1)]);
        assert_eq!(parse("{").expect_err("no JSON"), "The input string is not a valid JSON");
        assert_eq!(parse("{}").expect_err("nothing"), "Missing partitions field");
        assert_eq!(parse(r#"{"version":2,"partitions":[]}"#).expect_err("v2"), "Not supported version field value 2");
        let entry = r#"{"topic":"t","partition":0,"offset":1}"#;
        assert_eq!(
            parse(&format!("{{\"partitions\":[{entry},{entry}]}}")).expect_err("twice"),
            "Offset json file contains duplicate topic partitions: t-0"
        );
        assert!(parse(r#"{"partitions":[{"topic":"t"}]}"#).is_err());
    }
}
