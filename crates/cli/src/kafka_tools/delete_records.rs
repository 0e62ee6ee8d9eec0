//! `kafka-delete-records`: deletes the records of partitions below offsets that a JSON file names.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use ottla_model::{Offset, PartitionId, TopicName, TopicPartition};
use serde_json::Value;

use super::options::{OptionSpec, Options, flag, value};
use super::{COMMAND_FAILED, OPERATION_FAILED, ToolError, bootstrap, exceptions, read_file, run_tool};
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

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to delete records of the given partitions down to the specified offset.";

pub async fn run(arguments: &[String]) -> ExitCode {
    let plan =
        |options: &Options| Ok((bootstrap(options)?.to_owned(), options.required("offset-json-file")?.to_owned()));
    run_tool(PURPOSE, SPECS, arguments, plan, |(bootstrap, path)| async move {
        match delete(&bootstrap, &path).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Kafka's tool prints it twice: the text, and the exception with its stack.
                err!("{error}\n{}: {error}", exceptions::class(&error));
                ExitCode::FAILURE
            }
        }
    })
    .await
}

async fn delete(bootstrap: &str, path: &str) -> Result<(), ToolError> {
    let offsets = parse(&read_file(path)?)?;
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

fn parse(text: &str) -> Result<BTreeMap<TopicPartition, Offset>, ToolError> {
    let refused = |text: &str| ToolError::admin(OPERATION_FAILED, text);
    let json: Value = serde_json::from_str(text).map_err(|_| refused("The input string is not a valid JSON"))?;
    match json.get("version").map(Value::as_i64) {
        None | Some(Some(1)) => {}
        Some(_) => return Err(refused(&format!("Not supported version field value {}", json["version"]))),
    }
    let partitions = json.get("partitions").and_then(Value::as_array);
    let partitions = partitions.ok_or_else(|| refused("Missing partitions field"))?;
    let mut offsets = BTreeMap::new();
    for entry in partitions {
        let at = || {
            let topic = TopicName::new(entry.get("topic")?.as_str()?).ok()?;
            let partition = i32::try_from(entry.get("partition")?.as_i64()?).ok()?;
            let offset = Offset(entry.get("offset")?.as_i64()?);
            Some((TopicPartition::new(topic, PartitionId(partition)), offset))
        };
        let (at, offset) = at().ok_or_else(|| refused(&format!("{entry}: wanted are topic, partition and offset")))?;
        if offsets.insert(at.clone(), offset).is_some() {
            let text = format!("Offset json file contains duplicate topic partitions: {at}");
            return Err(ToolError::admin(COMMAND_FAILED, text));
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
        let refused = |text: &str| {
            let error = parse(text).expect_err(text);
            format!("{}: {error}", exceptions::class(&error).trim_start_matches("org.apache.kafka.tools."))
        };
        assert_eq!(refused("{"), "AdminOperationException: The input string is not a valid JSON");
        assert_eq!(refused("{}"), "AdminOperationException: Missing partitions field");
        let version = r#"{"version":2,"partitions":[]}"#;
        assert_eq!(refused(version), "AdminOperationException: Not supported version field value 2");
        let entry = r#"{"topic":"t","partition":0,"offset":1}"#;
        assert_eq!(
            refused(&format!("{{\"partitions\":[{entry},{entry}]}}")),
            "AdminCommandFailedException: Offset json file contains duplicate topic partitions: t-0"
        );
        assert!(parse(r#"{"partitions":[{"topic":"t"}]}"#).is_err());
    }
}
