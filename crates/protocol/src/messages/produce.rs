//! Produce, versions 3 to 13.
//!
//! The request's records stay in place: the parser returns ranges of the frame, in which the broker patches offsets
//! before it writes these bytes to the log.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut, Bytes};
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionId, TimestampMs};

use super::{CurrentLeader, NodeEndpoint, TopicRef};
use crate::api::Api;
use crate::bounds::elements_max;
use crate::frame::{self, FrameOverflow};
use crate::wire::{self, Reader, WireError};

/// The most topics, and the most partitions of all topics together, in one request. The cluster has 100,000 partitions
/// at most; a parsed one takes 32 bytes, so that the smallest of elements cannot grow a frame beyond 12 MiB.
pub const PARTITIONS_MAX: usize = 100_000;

/// The most record errors that a decoder takes from one response.
const RECORD_ERRORS_MAX: usize = 100_000;

const FLEXIBLE_FROM: i16 = 9;
const RECORD_ERRORS_FROM: i16 = 8;
const LEADERS_FROM: i16 = 10;
const TOPIC_IDS_FROM: i16 = 13;

/// A parsed request. Ranges are positions in the frame that was parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProduceRequest {
    pub transactional_id: Option<String>,
    /// −1 (all in-sync replicas), 0 (no answer) or 1; other values are the handler's to refuse.
    pub acks: i16,
    pub timeout_ms: i32,
    pub topics: Vec<TopicProduce>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicProduce {
    pub topic: TopicRef,
    pub partitions: Vec<PartitionProduce>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionProduce {
    pub partition: PartitionId,
    /// Where the batches lie in the frame; none for null.
    pub records: Option<Range<usize>>,
}

/// Refuses a version that this module does not know, so that no field is read by a wrong schema.
fn known(version: i16) -> Result<(), WireError> {
    if Api::Produce.served().contains(version) { Ok(()) } else { Err(WireError::UnknownVersion(version)) }
}

/// Parses the body that begins at `body_start` of `frame` (see [`frame::parse_header`]).
pub fn parse(version: i16, frame: &[u8], body_start: usize) -> Result<ProduceRequest, WireError> {
    known(version)?;
    let flexible = version >= FLEXIBLE_FROM;
    let mut reader = Reader::new(frame, body_start);
    let transactional_id = reader.nullable_string(flexible)?.map(Cow::into_owned);
    let acks = reader.i16()?;
    let timeout_ms = reader.i32()?;
    let partitions_max = PARTITIONS_MAX.min(elements_max() as usize);
    let topic_count = reader.array_length(flexible, 3, partitions_max)?;
    let mut topics = Vec::with_capacity(topic_count);
    let mut partitions_left = partitions_max;
    for _ in 0..topic_count {
        let topic = TopicRef::parse(&mut reader, flexible, version >= TOPIC_IDS_FROM)?;
        let count = reader.array_length(flexible, 5, partitions_left)?;
        partitions_left -= count;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            let partition = PartitionId(reader.i32()?);
            let records = reader.nullable_bytes(flexible)?;
            if flexible {
                reader.skip_tagged_fields()?;
            }
            partitions.push(PartitionProduce { partition, records });
        }
        if flexible {
            reader.skip_tagged_fields()?;
        }
        topics.push(TopicProduce { topic, partitions });
    }
    if flexible {
        reader.skip_tagged_fields()?;
    }
    Ok(ProduceRequest { transactional_id, acks, timeout_ms, topics })
}

/// A request as a client builds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProduceCall {
    pub transactional_id: Option<String>,
    pub acks: i16,
    pub timeout_ms: i32,
    /// Topic by topic: partition and its one batch.
    pub topics: Vec<(TopicRef, Vec<(PartitionId, Bytes)>)>,
}

/// Encodes a request as a whole frame.
pub fn encode_request(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    call: &ProduceCall,
) -> Result<Bytes, FrameOverflow> {
    let flexible = version >= FLEXIBLE_FROM;
    let size = call.topics.iter().flat_map(|(_, partitions)| partitions).map(|(_, records)| records.len() + 24);
    let size = size.sum::<usize>() + 64 + call.topics.len() * 64;
    let mut out = frame::begin_request(Api::Produce, version, correlation_id, client_id, size);
    wire::put_nullable_string(&mut out, flexible, call.transactional_id.as_deref());
    out.put_i16(call.acks);
    out.put_i32(call.timeout_ms);
    wire::put_array(&mut out, flexible, call.topics.len());
    for (topic, partitions) in &call.topics {
        topic.put(&mut out, flexible, version >= TOPIC_IDS_FROM);
        wire::put_array(&mut out, flexible, partitions.len());
        for (partition, records) in partitions {
            out.put_i32(partition.0);
            wire::put_bytes_length(&mut out, flexible, records.len());
            out.put_slice(records);
            wire::put_no_tagged_fields(&mut out, flexible);
        }
        wire::put_no_tagged_fields(&mut out, flexible);
    }
    wire::put_no_tagged_fields(&mut out, flexible);
    frame::finish(&mut out, 0)?;
    Ok(out.freeze())
}

/// The response to a Produce request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProduceResponse {
    pub topics: Vec<TopicProduceResponse>,
    pub throttle_time_ms: i32,
    /// Where the leaders named in `current_leader` listen; from version 10.
    pub node_endpoints: Vec<NodeEndpoint>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicProduceResponse {
    pub topic: TopicRef,
    pub partitions: Vec<PartitionProduceResponse>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionProduceResponse {
    pub partition: PartitionId,
    pub error: ErrorCode,
    /// The offset of the first record, or [`Offset::UNKNOWN`].
    pub base_offset: Offset,
    /// [`TimestampMs::NONE`] unless the topic is stamped by the broker.
    pub log_append_time: TimestampMs,
    /// From version 5.
    pub log_start_offset: Offset,
    /// Which records caused the batch to be refused; from version 8.
    pub record_errors: Vec<RecordError>,
    /// From version 8.
    pub error_message: Option<String>,
    /// From version 10.
    pub current_leader: Option<CurrentLeader>,
}

impl PartitionProduceResponse {
    /// An answer that appended nothing.
    pub fn failed(partition: PartitionId, error: ErrorCode) -> Self {
        Self {
            partition,
            error,
            base_offset: Offset::UNKNOWN,
            log_append_time: TimestampMs::NONE,
            log_start_offset: Offset::UNKNOWN,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }
}

/// A record that caused its batch to be refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordError {
    /// The record's place in its batch, from 0.
    pub batch_index: i32,
    pub message: Option<String>,
}

/// Encodes a response as a whole frame.
pub fn encode_response(version: i16, correlation_id: i32, response: &ProduceResponse) -> Result<Bytes, FrameOverflow> {
    let flexible = version >= FLEXIBLE_FROM;
    let partitions: usize = response.topics.iter().map(|topic| topic.partitions.len()).sum();
    let size = 32 + response.topics.len() * 48 + partitions * 48;
    let mut out = Vec::from(frame::begin_response(Api::Produce, version, correlation_id, size));
    wire::put_array(&mut out, flexible, response.topics.len());
    for topic in &response.topics {
        topic.topic.put(&mut out, flexible, version >= TOPIC_IDS_FROM);
        wire::put_array(&mut out, flexible, topic.partitions.len());
        for partition in &topic.partitions {
            out.put_i32(partition.partition.0);
            out.put_i16(partition.error.code());
            out.put_i64(partition.base_offset.0);
            out.put_i64(partition.log_append_time.0);
            if version >= 5 {
                out.put_i64(partition.log_start_offset.0);
            }
            if version >= RECORD_ERRORS_FROM {
                wire::put_array(&mut out, flexible, partition.record_errors.len());
                for error in &partition.record_errors {
                    out.put_i32(error.batch_index);
                    wire::put_nullable_string(&mut out, flexible, error.message.as_deref());
                    wire::put_no_tagged_fields(&mut out, flexible);
                }
                wire::put_nullable_string(&mut out, flexible, partition.error_message.as_deref());
            }
            match partition.current_leader {
                Some(leader) if version >= LEADERS_FROM => {
                    wire::put_unsigned_varint(&mut out, 1);
                    leader.put_tagged(&mut out, 0);
                }
                _ => wire::put_no_tagged_fields(&mut out, flexible),
            }
        }
        wire::put_no_tagged_fields(&mut out, flexible);
    }
    out.put_i32(response.throttle_time_ms);
    if version >= LEADERS_FROM && !response.node_endpoints.is_empty() {
        wire::put_unsigned_varint(&mut out, 1);
        super::put_node_endpoints_tagged(&mut out, 0, &response.node_endpoints);
    } else {
        wire::put_no_tagged_fields(&mut out, flexible);
    }
    frame::finish(&mut out, 0)?;
    Ok(Bytes::from(out))
}

/// Decodes a response frame (without its length prefix); returns the correlation id with it.
pub fn decode_response(version: i16, response: &[u8]) -> Result<(i32, ProduceResponse), WireError> {
    known(version)?;
    let flexible = version >= FLEXIBLE_FROM;
    let (correlation_id, start) = frame::parse_response_header(Api::Produce, version, response)?;
    let mut reader = Reader::new(response, start);
    let topic_count = reader.array_length(flexible, 3, PARTITIONS_MAX)?;
    let mut topics = Vec::with_capacity(topic_count);
    for _ in 0..topic_count {
        let topic = TopicRef::parse(&mut reader, flexible, version >= TOPIC_IDS_FROM)?;
        let count = reader.array_length(flexible, 22, PARTITIONS_MAX)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(decode_partition(version, &mut reader)?);
        }
        if flexible {
            reader.skip_tagged_fields()?;
        }
        topics.push(TopicProduceResponse { topic, partitions });
    }
    let throttle_time_ms = reader.i32()?;
    let mut node_endpoints = Vec::new();
    if flexible {
        reader.tagged_fields(|tag, field| {
            if tag == 0 && version >= LEADERS_FROM {
                node_endpoints = super::parse_node_endpoints(field)?;
            }
            Ok(())
        })?;
    }
    Ok((correlation_id, ProduceResponse { topics, throttle_time_ms, node_endpoints }))
}

fn decode_partition(version: i16, reader: &mut Reader<'_>) -> Result<PartitionProduceResponse, WireError> {
    let flexible = version >= FLEXIBLE_FROM;
    let partition = PartitionId(reader.i32()?);
    let error = ErrorCode::from_code(reader.i16()?).unwrap_or(ErrorCode::UnknownServerError);
    let base_offset = Offset(reader.i64()?);
    let log_append_time = TimestampMs(reader.i64()?);
    let log_start_offset = if version >= 5 { Offset(reader.i64()?) } else { Offset::UNKNOWN };
    let mut record_errors = Vec::new();
    let mut error_message = None;
    if version >= RECORD_ERRORS_FROM {
        for _ in 0..reader.array_length(flexible, 5, RECORD_ERRORS_MAX)? {
            let batch_index = reader.i32()?;
            let message = reader.nullable_string(flexible)?.map(Cow::into_owned);
            if flexible {
                reader.skip_tagged_fields()?;
            }
            record_errors.push(RecordError { batch_index, message });
        }
        error_message = reader.nullable_string(flexible)?.map(Cow::into_owned);
    }
    let mut current_leader = None;
    if flexible {
        reader.tagged_fields(|tag, field| {
            if tag == 0 && version >= LEADERS_FROM {
                current_leader = Some(CurrentLeader::parse(field)?);
            }
            Ok(())
        })?;
    }
    // A peer may spell "unknown" out.
    let current_leader = current_leader.filter(|leader: &CurrentLeader| {
        leader.leader_id != BrokerId::NONE || leader.leader_epoch != LeaderEpoch::NONE
    });
    Ok(PartitionProduceResponse {
        partition,
        error,
        base_offset,
        log_append_time,
        log_start_offset,
        record_errors,
        error_message,
        current_leader,
    })
}
