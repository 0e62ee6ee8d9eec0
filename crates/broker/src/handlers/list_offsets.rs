//! ListOffsets, versions 1 to 11: where a log starts and ends, and what lies at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::{ErrorCode, LeaderEpoch, MonotonicMs, PartitionId, TimestampMs};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use ottla_protocol::kafka_protocol::messages::{ListOffsetsRequest, TopicName};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::{RequestHeader, decode_request};
use ottla_replica_manager::partition::{FoundOffset, OffsetQuery, Visible};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::slices::{self, Progress, Slice, Sliced};

/// Before this version OFFSET_NOT_AVAILABLE was not known (KIP-207).
const OFFSET_NOT_AVAILABLE_FROM: i16 = 5;

/// The time that asks for the offset of the latest time.
const MAX_TIMESTAMP: i64 = -3;

/// The isolation level of a reader of committed records.
const READ_COMMITTED: i8 = 1;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<ListOffsetsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let access = broker.access(context);
    // A follower that lost its place asks for the log's very end; nobody else may see above the high watermark.
    let claims_to_follow = request.replica_id.0 >= 0 && context.is_inter_broker_listener;
    let is_follower = claims_to_follow && access.cluster(Operation::ClusterAction);
    let visible = match request.isolation_level {
        _ if is_follower => Visible::LogEnd,
        READ_COMMITTED => Visible::LastStable,
        _ => Visible::HighWatermark,
    };
    let searches = Searches {
        header,
        access,
        is_follower,
        visible,
        topics: request.topics.into_iter(),
        name: TopicRef::Name(String::new()),
        is_allowed: false,
        partitions: Vec::new().into_iter(),
        crowded_out: None,
        crowded_since: None,
        seen: BTreeSet::new(),
        response: ListOffsetsResponse::default(),
    };
    slices::carry_out(broker, context, searches)
}

/// Looks into one partition after the other.
struct Searches {
    header: RequestHeader,
    access: Access,
    is_follower: bool,
    visible: Visible,
    /// Those that have not begun.
    topics: std::vec::IntoIter<ListOffsetsTopic>,
    /// The topic that has, whether the client may look into it, and what is left of it.
    name: TopicRef,
    is_allowed: bool,
    partitions: std::vec::IntoIter<ListOffsetsPartition>,
    /// The next one: too many others wait for its disk; and since when this request waits for such disks.
    crowded_out: Option<ListOffsetsPartition>,
    crowded_since: Option<MonotonicMs>,
    seen: BTreeSet<(TopicName, PartitionId)>,
    response: ListOffsetsResponse,
}

impl Sliced for Searches {
    fn go_on(&mut self, broker: &Broker, slice: &mut Slice) -> Progress {
        loop {
            while let Some(asked) = self.crowded_out.take().or_else(|| self.partitions.next()) {
                if self.has_to_wait(broker, &asked) && slices::may_wait(&mut self.crowded_since) {
                    self.crowded_out = Some(asked);
                    return Progress::Crowded;
                }
                self.search_next(broker, &asked);
                if slice.is_used_up() {
                    return Progress::UsedUp;
                }
            }
            let Some(topic) = self.topics.next() else { return Progress::Done };
            self.name = TopicRef::Name(topic.name.0.to_string());
            self.is_allowed = self.is_follower || self.access.topic(Operation::Describe, topic.name.as_str());
            self.response.topics.push(ListOffsetsTopicResponse::default().with_name(topic.name));
            self.partitions = topic.partitions.into_iter();
        }
    }

    fn answer(self, _: &Arc<Broker>, _: &RequestContext) -> Reply {
        Reply::encode::<ListOffsetsRequest>(&self.header, &self.response)
    }
}

impl Searches {
    /// Whether too many others wait for the disk that is to be searched.
    fn has_to_wait(&self, broker: &Broker, asked: &ListOffsetsPartition) -> bool {
        let searches = asked.timestamp >= 0 || asked.timestamp == MAX_TIMESTAMP;
        let found = || broker.replicas.find(&self.name, PartitionId(asked.partition_index));
        searches
            && self.is_allowed
            && found().is_ok_and(|partition| {
                let directory = partition.directory();
                directory.health().has_many_readers() && !directory.health().is_unusable()
            })
    }

    fn search_next(&mut self, broker: &Broker, asked: &ListOffsetsPartition) {
        let Some(topic) = self.response.topics.last_mut() else { return };
        let (partition, version) = (PartitionId(asked.partition_index), self.header.api_version);
        let found = if !self.is_allowed {
            Err(ErrorCode::TopicAuthorizationFailed)
        } else if self.seen.insert((topic.name.clone(), partition)) {
            find(broker, &self.name, partition, version, asked.timestamp, asked.current_leader_epoch, self.visible)
        } else {
            Err(ErrorCode::InvalidRequest)
        };
        topic.partitions.push(answer(partition, version, found));
    }
}

fn find(
    broker: &Broker,
    topic: &TopicRef,
    partition: PartitionId,
    version: i16,
    timestamp: i64,
    leader_epoch: i32,
    visible: Visible,
) -> Result<FoundOffset, ErrorCode> {
    let query = query(version, timestamp)?;
    let partition = broker.replicas.find(topic, partition)?;
    let Some(query) = query else { return Ok(FoundOffset::NONE) };
    partition.find_offset(query, LeaderEpoch(leader_epoch), visible)
}

/// What a timestamp asks for; none for a place that only tiered logs have.
fn query(version: i16, timestamp: i64) -> Result<Option<OffsetQuery>, ErrorCode> {
    let (query, since) = match timestamp {
        -1 => (Some(OffsetQuery::Latest), 0),
        -2 => (Some(OffsetQuery::Earliest), 0),
        MAX_TIMESTAMP => (Some(OffsetQuery::MaxTimestamp), 7),
        -4 => (Some(OffsetQuery::Earliest), 8),
        -5 => (None, 9),
        -6 => (None, 11),
        at if at < 0 => return Err(ErrorCode::UnsupportedVersion),
        at => (Some(OffsetQuery::At(TimestampMs(at))), 0),
    };
    if version < since { Err(ErrorCode::UnsupportedVersion) } else { Ok(query) }
}

fn answer(partition: PartitionId, version: i16, found: Result<FoundOffset, ErrorCode>) -> ListOffsetsPartitionResponse {
    let answer = ListOffsetsPartitionResponse::default().with_partition_index(partition.0);
    match found {
        Ok(found) => answer
            .with_timestamp(found.timestamp.0)
            .with_offset(found.offset.0)
            .with_leader_epoch(if version >= 4 { found.leader_epoch.0 } else { -1 }),
        Err(error) => {
            let error = match error {
                ErrorCode::OffsetNotAvailable if version < OFFSET_NOT_AVAILABLE_FROM => ErrorCode::LeaderNotAvailable,
                error => error,
            };
            answer.with_error_code(error.code()).with_timestamp(-1).with_offset(-1).with_leader_epoch(-1)
        }
    }
}
