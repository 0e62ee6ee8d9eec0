//! What only brokers know, asked of them in Kafka's protocol: log directories, groups, lag.
//!
//! A coordinator reaches brokers as a client, with its own certificate or user ([`crate::broker_security`]): their
//! authorizer decides what it may see. It passes their refusals on.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use ottla_client::{Client, ClientConfig, ClientError, CommittedOffset};
use ottla_metadata::image::{BrokerRegistration, Image};
use ottla_model::{BrokerId, ErrorCode, TimestampMs, TopicPartition};
use ottla_rpc::admin::{
    DescribeGroupResponse, DescribeLogDirsResponse, GroupLag, GroupMember, GroupSummary, ListGroupsRequest,
    ListGroupsResponse, LogDir, LogDirReplica, PartitionId,
};
use tonic::{Code, Status};

use super::AdminService;
use super::errors::{name, of_kafka, status};
use super::paging::{Mask, Masked as _, Page, masked, page};
use crate::broker_security::BrokerSecurity;

masked!(GroupSummary: group, protocol_type, state, group_type);

/// The list of all groups, or of all replicas of a broker.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a broker may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A whole call: a group's coordinator, its offsets, and the ends of their partitions.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Ends of partitions that are asked for at a time.
const LOOKUPS_MAX: usize = 16;
/// Partitions of one group in one answer.
const LAGS_MAX: usize = 10_000;

/// A client of the live brokers.
fn client(image: &Image, security: &BrokerSecurity) -> Result<Client, Status> {
    let live: Vec<&BrokerRegistration> =
        image.brokers().filter(|broker| broker.ready).map(|broker| &**broker).collect();
    if live.is_empty() {
        return Err(status(Code::Unavailable, "NO_LIVE_BROKER", "no broker lives"));
    }
    let way = security.way(&live);
    let way = way.map_err(|error| status(Code::FailedPrecondition, "NO_USABLE_LISTENER", error.to_string()))?;
    let mut config = ClientConfig { bootstrap: way.addresses, retry_timeout: TIMEOUT, ..ClientConfig::new("") };
    tracing::debug!(listener = %way.listener, "asking brokers");
    config.connection.security = way.security;
    config.connection.client_id = Some("ottla-coordinator".to_owned());
    config.connection.connect_timeout = TIMEOUT;
    config.connection.request_timeout = TIMEOUT;
    config.connection.response_max_bytes = ANSWER_BYTES_MAX;
    Ok(Client::new(config))
}

fn failed(error: &ClientError) -> Status {
    match error {
        ClientError::Refused { code, message } => of_kafka(*code, message.as_deref().unwrap_or_default()),
        ClientError::GaveUp { last, .. } => failed(last),
        error => status(Code::Unavailable, "BROKER_NOT_AVAILABLE", error.to_string()),
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| status(Code::DeadlineExceeded, "BROKER_NOT_AVAILABLE", "the brokers did not answer in time");
    tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(late)?
}

fn partition_ids(assignment: Vec<TopicPartition>) -> Vec<PartitionId> {
    let id = |at: TopicPartition| PartitionId { topic: at.topic.to_string(), partition: at.partition.0 };
    assignment.into_iter().map(id).collect()
}

/// The end of a partition; −1 if it is not known.
async fn end_of(client: &Client, image: &Image, at: &TopicPartition) -> i64 {
    let state = image.partition_of(at.topic.as_str(), at.partition);
    if !state.is_some_and(|state| state.has_leader()) {
        return -1;
    }
    const LATEST: TimestampMs = TimestampMs(-1);
    match client.list_offsets(at.topic.as_str(), at.partition, LATEST).await {
        Ok(found) => found.offset.0,
        Err(_) => -1,
    }
}

async fn lags(client: &Client, image: &Image, committed: BTreeMap<TopicPartition, CommittedOffset>) -> Vec<GroupLag> {
    let lookups = stream::iter(committed).map(|(at, committed)| async move {
        let end_offset = end_of(client, image, &at).await;
        GroupLag {
            topic: at.topic.to_string(),
            partition: at.partition.0,
            committed_offset: committed.offset.0,
            end_offset,
            // A log that was truncated ends before its committed offset.
            lag: if end_offset < 0 { -1 } else { (end_offset - committed.offset.0).max(0) },
        }
    });
    lookups.buffered(LOOKUPS_MAX).collect().await
}

impl AdminService {
    pub(super) async fn log_dirs(&self, broker: i32) -> Result<DescribeLogDirsResponse, Status> {
        let _permit = self.broker_calls.permit()?;
        let view = self.view()?;
        let broker = BrokerId(broker);
        if !view.image.is_registered(broker) {
            return Err(of_kafka(ErrorCode::BrokerIdNotRegistered, &format!("no broker {broker} is registered")));
        }
        if view.image.broker(broker).is_none() {
            let text = format!("broker {broker} is down");
            return Err(status(Code::Unavailable, "BROKER_NOT_AVAILABLE", text));
        }
        let client = client(&view.image, self.shared.broker_security())?;
        let directories = in_time(async { client.describe_log_dirs(broker).await.map_err(|error| failed(&error)) });
        let directory = |found: ottla_client::LogDir| LogDir {
            path: found.path,
            error: if found.error.is_ok() { String::new() } else { name(found.error) },
            total_bytes: found.total_bytes,
            usable_bytes: found.usable_bytes,
            replicas: found
                .replicas
                .into_iter()
                .map(|replica| LogDirReplica {
                    topic: replica.at.topic.to_string(),
                    partition: replica.at.partition.0,
                    size_bytes: replica.size_bytes,
                    offset_lag: replica.offset_lag,
                    is_future: replica.is_future,
                })
                .collect(),
        };
        Ok(DescribeLogDirsResponse { directories: directories.await?.into_iter().map(directory).collect() })
    }

    pub(super) async fn groups(&self, request: ListGroupsRequest) -> Result<ListGroupsResponse, Status> {
        let asked = Page::new(request.page_size, &request.page_token)?;
        let mask = Mask::new(request.read_mask, GroupSummary::FIELDS)?;
        let _permit = self.broker_calls.permit()?;
        let client = client(&self.view()?.image, self.shared.broker_security())?;
        let listed = in_time(async {
            client.list_groups(&request.states, &request.types).await.map_err(|error| failed(&error))
        });
        let rest = listed
            .await?
            .into_iter()
            .skip_while(|group| asked.after.as_ref().is_some_and(|after| group.group <= *after));
        let (groups, next_page_token) = page(&asked, rest, |group| group.group.clone());
        let summary = |group: ottla_client::ListedGroup| {
            let mut summary = GroupSummary {
                group: group.group,
                protocol_type: group.protocol_type,
                state: group.state,
                group_type: group.kind,
            };
            summary.keep(&mask);
            summary
        };
        Ok(ListGroupsResponse { groups: groups.into_iter().map(summary).collect(), next_page_token })
    }

    pub(super) async fn group(&self, group: &str) -> Result<DescribeGroupResponse, Status> {
        let _permit = self.broker_calls.permit()?;
        let view = self.view()?;
        let client = client(&view.image, self.shared.broker_security())?;
        in_time(async {
            let found = client.describe_group(group).await.map_err(|error| failed(&error))?;
            if found.state == "Dead" {
                return Err(of_kafka(ErrorCode::GroupIdNotFound, &format!("no group {group}")));
            }
            let committed = client.committed_offsets(group, None, false).await.map_err(|error| failed(&error))?;
            if committed.len() > LAGS_MAX {
                let text = format!("the group has committed offsets of more than {LAGS_MAX} partitions");
                return Err(status(Code::OutOfRange, "TOO_MANY_PARTITIONS", text));
            }
            let lags = lags(&client, &view.image, committed).await;
            let member = |member: ottla_client::GroupMember| GroupMember {
                id: member.id,
                instance_id: member.instance.unwrap_or_default(),
                client_id: member.client_id,
                host: member.host,
                assignment: partition_ids(member.assignment),
            };
            Ok(DescribeGroupResponse {
                group: found.group,
                state: found.state,
                coordinator: found.coordinator.id.0,
                assignor: found.assignor,
                members: found.members.into_iter().map(member).collect(),
                total_lag: lags.iter().map(|lag| lag.lag.max(0)).sum(),
                lags,
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_cluster_without_brokers_says_so() {
        let refused = client(&Image::empty(), &BrokerSecurity::default()).err().map(|status| status.code());
        assert_eq!(refused, Some(Code::Unavailable));
        let gave_up = ClientError::GaveUp {
            waited: TIMEOUT,
            last: Arc::new(ClientError::Refused { code: ErrorCode::GroupAuthorizationFailed, message: None }),
        };
        assert_eq!(failed(&gave_up).code(), Code::PermissionDenied);
    }
}
