//! The content of the brokers' log directories, and deletion of records from the beginning of a log.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::{AlterReplicaLogDirsRequest, DeleteRecordsRequest, DescribeLogDirsRequest};
use ottla_model::{BrokerId, ErrorCode, Offset, TopicPartition};
use ottla_protocol::Api;
use ottla_protocol::messages::describe_log_dirs::DECODED_MAX;

use crate::cluster::Client;
use crate::convert::{checked, error_of, millis, partition, text, topic_name};
use crate::error::ClientError;

/// One log directory of a broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogDir {
    pub path: String,
    pub error: ErrorCode,
    pub replicas: Vec<LogDirReplica>,
    /// −1 if the broker does not send it.
    pub total_bytes: i64,
    /// −1 if the broker does not send it.
    pub usable_bytes: i64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogDirReplica {
    pub at: TopicPartition,
    pub size_bytes: i64,
    /// How far it lags: behind the high watermark, or, of a future replica, behind the current one.
    pub offset_lag: i64,
    /// Whether it is being moved to this directory.
    pub is_future: bool,
}

impl Client {
    /// The log directories of one broker, with all replicas in them.
    pub async fn describe_log_dirs(&self, broker: BrokerId) -> Result<Vec<LogDir>, ClientError> {
        let request = DescribeLogDirsRequest::default().with_topics(None);
        let attempt = || async {
            self.metadata(Some(&[])).await?;
            let response = self.link_to(broker).await?.call_up_to(DECODED_MAX, &request).await?;
            checked(response.error_code)?;
            Ok(response.results)
        };
        let results = self.retry(None, |_| true, attempt).await?;
        let dirs = results.into_iter().map(|dir| {
            let replicas = dir.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|found| {
                    Ok(LogDirReplica {
                        at: partition(Api::DescribeLogDirs, &topic.name.0, found.partition_index)?,
                        size_bytes: found.partition_size,
                        offset_lag: found.offset_lag,
                        is_future: found.is_future_key,
                    })
                })
            });
            Ok(LogDir {
                path: dir.log_dir.to_string(),
                error: error_of(dir.error_code),
                replicas: replicas.collect::<Result<_, ClientError>>()?,
                total_bytes: dir.total_bytes,
                usable_bytes: dir.usable_bytes,
            })
        });
        dirs.collect()
    }

    /// Begins to move a broker's replicas to other directories of it. Returns the error of each.
    pub async fn alter_replica_log_dirs(
        &self,
        broker: BrokerId,
        moves: &BTreeMap<TopicPartition, String>,
    ) -> Result<BTreeMap<TopicPartition, ErrorCode>, ClientError> {
        let mut directories: BTreeMap<&str, BTreeMap<&str, Vec<i32>>> = BTreeMap::new();
        for (at, path) in moves {
            directories.entry(path).or_default().entry(at.topic.as_str()).or_default().push(at.partition.0);
        }
        let directory = |(path, topics): (&str, BTreeMap<&str, Vec<i32>>)| {
            let topics = topics.into_iter().map(|(topic, partitions)| {
                AlterReplicaLogDirTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
            });
            AlterReplicaLogDir::default().with_path(text(path)).with_topics(topics.collect())
        };
        let directories = directories.into_iter().map(directory).collect();
        let request = AlterReplicaLogDirsRequest::default().with_dirs(directories);
        let attempt = || async {
            self.metadata(Some(&[])).await?;
            self.link_to(broker).await?.call(&request).await
        };
        // The replica goes to the directory that was named last: a repetition changes nothing.
        let response = self.retry(None, |_| true, attempt).await?;
        let results = response.results.iter().flat_map(|topic| {
            topic.partitions.iter().map(|result| {
                let at = partition(Api::AlterReplicaLogDirs, &topic.topic_name.0, result.partition_index)?;
                Ok((at, error_of(result.error_code)))
            })
        });
        results.collect()
    }

    /// Deletes the records of a partition below an offset; −1 stands for its high watermark. Returns the log's new
    /// start offset.
    pub async fn delete_records(
        &self,
        at: &TopicPartition,
        before: Offset,
        timeout: Duration,
    ) -> Result<Offset, ClientError> {
        let topic = at.topic.as_str();
        let asked = DeleteRecordsPartition::default().with_partition_index(at.partition.0).with_offset(before.0);
        let asked = DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
        let request = DeleteRecordsRequest::default().with_topics(vec![asked]).with_timeout_ms(millis(timeout));
        let attempt = || async {
            let link = self.link_to(self.leader(topic, at.partition).await?).await?;
            let response = link.call(&request).await?;
            let mut answers = response.topics.into_iter().flat_map(|topic| topic.partitions);
            let answer = answers.find(|answer| answer.partition_index == at.partition.0);
            let answer = answer.ok_or(ClientError::Incomplete(Api::DeleteRecords))?;
            checked(answer.error_code)?;
            Ok(Offset(answer.low_watermark))
        };
        // A repetition is harmless: deleted records stay deleted.
        self.retry(Some(topic), |_| true, attempt).await
    }

    /// The APIs that a broker names: key and versions, in its order.
    pub async fn api_versions(&self, broker: BrokerId) -> Result<BTreeMap<i16, (i16, i16)>, ClientError> {
        let link = self.link_to(broker).await?;
        Ok(link.versions.apis.iter().map(|(key, versions)| (*key, (versions.min, versions.max))).collect())
    }
}
