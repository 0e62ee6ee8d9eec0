//! `--delete` and `--delete-offsets`.

use std::collections::BTreeMap;

use ottla_client::ClientError;
use ottla_model::{ErrorCode, TopicPartition};

use super::super::options::Options;
use super::super::{ToolError, exceptions};
use super::partitions::Named;
use super::print_error;
use crate::kafka::KafkaError;
use crate::out;

pub async fn groups(options: &Options) -> Result<(), ToolError> {
    let kafka = super::connect(options).await?;
    let (mut deleted, mut failed) = (Vec::new(), Vec::new());
    for group in super::groups(&kafka, options).await? {
        match kafka.client().delete_group(&group).await {
            Ok(()) => deleted.push(format!("'{group}'")),
            Err(error) => failed.push((group, KafkaError::from(error))),
        }
    }
    let deleted = deleted.join(", ");
    if failed.is_empty() {
        out!("Deletion of requested consumer groups ({deleted}) was successful.");
        return Ok(());
    }
    print_error("Deletion of some consumer groups failed:");
    for (group, error) in failed {
        out!("* Group '{group}' could not be deleted due to: {}", exceptions::shown(&error));
    }
    if !deleted.is_empty() {
        out!("\nThese consumer groups were deleted successfully: {deleted}");
    }
    Ok(())
}

pub async fn offsets(options: &Options) -> Result<(), ToolError> {
    let group = options.required("group")?;
    let named = options.all("topic").iter().map(|text| Named::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let kafka = super::connect(options).await?;
    let mut partitions = Vec::new();
    // By topic and partition, where the topic has any: what became of it.
    let mut rows: BTreeMap<(String, Option<i32>), Option<KafkaError>> = BTreeMap::new();
    for topic in named {
        match topic.resolve(&kafka).await {
            Ok(found) => partitions.extend(found),
            Err(error) => drop(rows.insert((topic.topic.to_string(), None), Some(error))),
        }
    }
    let of = |at: &TopicPartition| (at.topic.to_string(), Some(at.partition.0));
    match kafka.client().delete_offsets(group, &partitions).await {
        Ok(outcomes) => {
            let refused = |code: &ErrorCode| (!code.is_ok()).then(|| ClientError::refused(*code).into());
            rows.extend(outcomes.iter().map(|(at, code)| (of(at), refused(code))));
            let failed = outcomes.values().any(|code| !code.is_ok());
            match failed {
                false => out!("Request succeeded for deleting offsets from group {group}."),
                true => print_error("Encountered some partition-level error, see the follow-up details."),
            }
        }
        Err(error) => {
            let refused = |error: &ClientError| Some(KafkaError::from(error.clone()));
            rows.extend(partitions.iter().map(|at| (of(at), refused(&error))));
            print_error(&KafkaError::from(error).to_string());
        }
    }
    let line = |topic: &str, partition: &str, status: &str| out!("{topic:<15} {partition:<10} {status:<15}");
    out!("");
    line("TOPIC", "PARTITION", "STATUS");
    for ((topic, partition), error) in rows {
        let partition = partition.map_or("-".to_owned(), |partition| partition.to_string());
        let status = error.map_or("Successful".to_owned(), |error| format!("Error: {}", exceptions::shown(&error)));
        line(&topic, &partition, &status);
    }
    Ok(())
}
