//! The committed offsets of groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, OffsetFetchResponse};
use ottla_model::{ErrorCode, LeaderEpoch, Offset, TopicPartition};
use ottla_protocol::Api;

use crate::cluster::{Client, Link};
use crate::convert::{by_topic, checked, error_of, group_id, partition, text, topic_name};
use crate::error::{ClientError, Outcome};

/// Later versions of OffsetCommit and OffsetFetch name topics by id alone.
const NAMES_UP_TO: i16 = 9;
/// The first version of OffsetFetch for several groups.
const SEVERAL_GROUPS_FROM: i16 = 8;

/// A position that a group committed: the next record to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommittedOffset {
    pub offset: Offset,
    /// The epoch of the record before it; none if the committer did not send it.
    pub leader_epoch: Option<LeaderEpoch>,
    pub metadata: String,
}

impl From<Offset> for CommittedOffset {
    fn from(offset: Offset) -> Self {
        Self { offset, leader_epoch: None, metadata: String::new() }
    }
}

/// The member that commits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committer {
    pub member: String,
    pub generation: i32,
    pub instance: Option<String>,
}

impl Committer {
    /// No member: accepted while the group has no members.
    pub fn nobody() -> Self {
        Self { member: String::new(), generation: -1, instance: None }
    }
}

impl Client {
    /// The committed offsets of a group, for these partitions or for all. Partitions without a committed offset are
    /// left out. `require_stable` waits for transactions that commit offsets.
    pub async fn committed_offsets(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
        require_stable: bool,
    ) -> Result<BTreeMap<TopicPartition, CommittedOffset>, ClientError> {
        let attempt = |link: Arc<Link>| async move {
            let request = fetch_request(group, partitions, require_stable, link.version(Api::OffsetFetch)?);
            fetched(link.call_up_to(NAMES_UP_TO, &request).await?)
        };
        self.at_group_coordinator(group, |_| true, attempt).await
    }

    /// Commits offsets. Returns the outcome of each partition; an error of the coordinator as a whole is returned after
    /// retries.
    pub async fn commit_offsets(
        &self,
        group: &str,
        committer: &Committer,
        offsets: &BTreeMap<TopicPartition, CommittedOffset>,
    ) -> Result<BTreeMap<TopicPartition, ErrorCode>, ClientError> {
        // A commit that happened may happen again: the same member says the same.
        self.at_group_coordinator(group, |_| true, |link| async move { commit(&link, group, committer, offsets).await })
            .await
    }

    /// Deletes committed offsets. Returns the outcome of each partition.
    pub async fn delete_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, ErrorCode>, ClientError> {
        let topics = by_topic(partitions.iter().map(|at| (at, ()))).into_iter().map(|(topic, partitions)| {
            let partitions = partitions
                .into_iter()
                .map(|(at, ())| OffsetDeleteRequestPartition::default().with_partition_index(at.0));
            OffsetDeleteRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions.collect())
        });
        let request = &OffsetDeleteRequest::default().with_group_id(group_id(group)).with_topics(topics.collect());
        let attempt = |link: Arc<Link>| async move {
            let response = link.call(request).await?;
            checked(response.error_code)?;
            let mut outcomes = BTreeMap::new();
            for topic in response.topics {
                for found in topic.partitions {
                    let at = partition(Api::OffsetDelete, &topic.name.0, found.partition_index)?;
                    outcomes.insert(at, error_of(found.error_code));
                }
            }
            Ok(outcomes)
        };
        self.at_group_coordinator(group, |error| error.outcome() != Outcome::Unknown, attempt).await
    }
}

fn fetch_request(
    group: &str,
    partitions: Option<&[TopicPartition]>,
    require_stable: bool,
    version: i16,
) -> OffsetFetchRequest {
    let topics = partitions.map(|partitions| {
        let topics = by_topic(partitions.iter().map(|at| (at, ()))).into_iter();
        topics
            .map(|(topic, partitions)| (topic_name(topic), partitions.into_iter().map(|(at, ())| at.0).collect()))
            .collect::<Vec<(_, Vec<i32>)>>()
    });
    let request = OffsetFetchRequest::default().with_require_stable(require_stable && version >= 7);
    if version >= SEVERAL_GROUPS_FROM {
        let topics = topics.map(|topics| {
            let topics = topics.into_iter();
            topics
                .map(|(name, at)| OffsetFetchRequestTopics::default().with_name(name).with_partition_indexes(at))
                .collect()
        });
        let asked = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(topics);
        request.with_groups(vec![asked])
    } else {
        let topics = topics.map(|topics| {
            let topics = topics.into_iter();
            topics
                .map(|(name, at)| OffsetFetchRequestTopic::default().with_name(name).with_partition_indexes(at))
                .collect()
        });
        request.with_group_id(group_id(group)).with_topics(topics)
    }
}

/// The offsets of an answer, in whichever version.
fn fetched(response: OffsetFetchResponse) -> Result<BTreeMap<TopicPartition, CommittedOffset>, ClientError> {
    checked(response.error_code)?;
    let mut rows = Vec::new();
    for group in response.groups {
        checked(group.error_code)?;
        for topic in group.topics {
            for found in topic.partitions {
                let epoch = found.committed_leader_epoch;
                rows.push((
                    (topic.name.clone(), found.partition_index, found.error_code),
                    (found.committed_offset, epoch, found.metadata),
                ));
            }
        }
    }
    for topic in response.topics {
        for found in topic.partitions {
            let epoch = found.committed_leader_epoch;
            rows.push((
                (topic.name.clone(), found.partition_index, found.error_code),
                (found.committed_offset, epoch, found.metadata),
            ));
        }
    }
    let mut offsets = BTreeMap::new();
    for ((topic, index, error), (offset, epoch, metadata)) in rows {
        checked(error)?;
        if offset < 0 {
            continue;
        }
        let committed = CommittedOffset {
            offset: Offset(offset),
            leader_epoch: Some(LeaderEpoch(epoch)).filter(|epoch| epoch.0 >= 0),
            metadata: metadata.map(|text| text.to_string()).unwrap_or_default(),
        };
        offsets.insert(partition(Api::OffsetFetch, &topic.0, index)?, committed);
    }
    Ok(offsets)
}

/// One try over this connection.
pub(crate) async fn commit(
    link: &Link,
    group: &str,
    committer: &Committer,
    offsets: &BTreeMap<TopicPartition, CommittedOffset>,
) -> Result<BTreeMap<TopicPartition, ErrorCode>, ClientError> {
    let topics = by_topic(offsets).into_iter().map(|(topic, partitions)| {
        let partitions = partitions.into_iter().map(|(at, committed)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(at.0)
                .with_committed_offset(committed.offset.0)
                .with_committed_leader_epoch(committed.leader_epoch.unwrap_or(LeaderEpoch::NONE).0)
                .with_committed_metadata(Some(text(&committed.metadata)))
        });
        OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions.collect())
    });
    let request = OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_member_id(text(&committer.member))
        .with_generation_id_or_member_epoch(committer.generation)
        .with_group_instance_id(committer.instance.as_deref().map(text))
        .with_topics(topics.collect());
    let response = link.call_up_to(NAMES_UP_TO, &request).await?;
    let mut outcomes = BTreeMap::new();
    for topic in response.topics {
        for found in topic.partitions {
            let error = error_of(found.error_code);
            // The coordinator's own state: the same for all partitions, and gone after a while.
            if matches!(
                error,
                ErrorCode::NotCoordinator
                    | ErrorCode::CoordinatorNotAvailable
                    | ErrorCode::CoordinatorLoadInProgress
                    | ErrorCode::RequestTimedOut
            ) {
                return Err(ClientError::refused(error));
            }
            outcomes.insert(partition(Api::OffsetCommit, &topic.name.0, found.partition_index)?, error);
        }
    }
    Ok(outcomes)
}
