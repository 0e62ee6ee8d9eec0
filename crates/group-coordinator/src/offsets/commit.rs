//! OffsetCommit: from a request that its group has let pass to one batch of records.

use ottla_model::{ErrorCode, TimestampMs};

use super::OffsetStore;
use crate::Now;
use crate::answer::GroupAnswer;
use crate::config::GroupConfig;
use crate::effects::RequestId;
use crate::record::{OffsetKey, OffsetValue, Record};
use crate::request::CommitOffsets;
use crate::shard::Decision;

impl OffsetStore {
    /// The records of a commit, and its answer once they are replicated. Partitions whose metadata is too large, and
    /// those that the host refused, are answered with their errors and leave the others alone.
    pub(crate) fn commit(&self, now: Now, config: &GroupConfig, id: RequestId, request: CommitOffsets) -> Decision {
        let expire_timestamp = request.retention_ms.map(|ms| TimestampMs(now.wall.0.saturating_add(ms)));
        let mut records = Vec::new();
        let mut answers = Vec::with_capacity(request.topics.len());
        for (topic, partitions) in request.topics {
            let mut codes = Vec::with_capacity(partitions.len());
            for partition in partitions {
                let metadata = partition.metadata.unwrap_or_default();
                let code = match partition.refused {
                    Some(code) => code,
                    None if is_too_large(&metadata, config) => ErrorCode::OffsetMetadataTooLarge,
                    None => ErrorCode::None,
                };
                codes.push((partition.partition, code));
                if code != ErrorCode::None {
                    continue;
                }
                records.push(Record::Offset {
                    key: OffsetKey {
                        group: request.group.clone(),
                        topic: topic.name.clone(),
                        partition: partition.partition,
                    },
                    value: Some(OffsetValue {
                        offset: partition.offset,
                        leader_epoch: partition.leader_epoch,
                        metadata,
                        commit_timestamp: partition.timestamp.unwrap_or(now.wall),
                        expire_timestamp,
                        topic_id: topic.id,
                    }),
                });
            }
            answers.push((topic, codes));
        }
        let answer = vec![(id, GroupAnswer::CommitOffsets(answers))];
        if records.is_empty() {
            Decision { now: answer, ..Decision::default() }
        } else {
            Decision { records, after: answer, ..Decision::default() }
        }
    }
}

/// `offset.metadata.max.bytes` counts what Java calls characters, whatever its name says.
fn is_too_large(metadata: &str, config: &GroupConfig) -> bool {
    let limit = usize::try_from(config.offset_metadata_max_bytes).unwrap_or(0);
    // No text has more UTF-16 units than bytes.
    metadata.len() > limit && metadata.encode_utf16().count() > limit
}
