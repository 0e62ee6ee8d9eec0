//! The partitions that `--topic` means: `topic` or `topic:0,1,2`, several times.

use std::collections::BTreeMap;

use ottla_client::FoundOffset;
use ottla_model::{ErrorCode, Offset, PartitionId, TimestampMs, TopicName, TopicPartition};

use super::super::ToolError;
use crate::kafka::{Kafka, KafkaError};

/// What `--topic` says about one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    pub topic: TopicName,
    /// None for all partitions that the topic has.
    pub partitions: Option<Vec<PartitionId>>,
}

impl Named {
    pub fn parse(text: &str) -> Result<Self, ToolError> {
        let (name, partitions) = match text.split_once(':') {
            None => (text, None),
            Some((name, list)) if !list.contains(':') && !list.is_empty() => {
                let parse = |number: &str| {
                    let wrong = || format!("Invalid partition '{number}' specified in topic arg '{text}''");
                    number.trim().parse().map(PartitionId).map_err(|_| ToolError::Usage(wrong()))
                };
                (name, Some(list.split(',').map(parse).collect::<Result<Vec<_>, _>>()?))
            }
            Some(_) => {
                let message = format!("Invalid topic arg '{text}', expected topic name and partitions");
                return Err(ToolError::Usage(message));
            }
        };
        let topic =
            TopicName::new(name).map_err(|error| KafkaError::refused(ErrorCode::InvalidTopicException, &error))?;
        Ok(Self { topic, partitions })
    }

    /// All partitions, or the error of a topic that does not exist.
    pub async fn resolve(&self, kafka: &Kafka) -> Result<Vec<TopicPartition>, KafkaError> {
        let partitions = match &self.partitions {
            Some(partitions) => partitions.clone(),
            None => {
                let described = kafka.client().describe_topics(Some(&[self.topic.as_str()])).await?;
                let found = described.into_iter().next();
                match found {
                    Some(found) if found.error.is_ok() => found.partitions.iter().map(|at| at.partition).collect(),
                    Some(found) => return Err(ottla_client::ClientError::refused(found.error).into()),
                    None => return Err(ottla_client::ClientError::refused(ErrorCode::UnknownTopicOrPartition).into()),
                }
            }
        };
        Ok(partitions.into_iter().map(|at| TopicPartition::new(self.topic.clone(), at)).collect())
    }
}

/// Kafka's special times.
pub const LATEST: TimestampMs = TimestampMs(-1);
pub const EARLIEST: TimestampMs = TimestampMs(-2);

/// The offsets of partitions at a time, by one request to each leader. None where no record is that late, or, with
/// `LATEST`, never.
pub async fn offsets_at(
    kafka: &Kafka,
    partitions: &[TopicPartition],
    time: TimestampMs,
) -> BTreeMap<TopicPartition, Result<Option<Offset>, KafkaError>> {
    let found = kafka.client().list_offsets_of(partitions, time).await;
    let known = |found: FoundOffset| Some(found.offset).filter(|offset| *offset != Offset::UNKNOWN);
    found.into_iter().map(|(at, found)| (at, found.map(known).map_err(KafkaError::from))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_may_name_partitions() {
        let parsed = |text| Named::parse(text).map_err(|error| error.to_string());
        let named = parsed("t:0,2").expect("valid");
        assert_eq!((named.topic.as_str(), named.partitions), ("t", Some(vec![PartitionId(0), PartitionId(2)])));
        assert_eq!(parsed("t").expect("valid").partitions, None);
        assert_eq!(parsed("t:x"), Err("Invalid partition 'x' specified in topic arg 't:x''".into()));
        assert!(parsed("t:0:1").is_err_and(|text| text.starts_with("Invalid topic arg")));
        assert!(parsed("t:").is_err() && parsed("a/b").is_err());
    }
}
