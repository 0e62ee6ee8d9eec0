//! Fetch, versions 4 to 18: requests of consumers and follower replicas, and responses whose records stay outside of
//! memory.
//!
//! [`encode`] returns the pieces of one frame: all bytes between two partitions' records are one [`Bytes`]; the records
//! are any type of the caller, for example a slice of a file. Records are never copied here.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, IncarnationKey, LeaderEpoch, Offset, PartitionId, ProducerId};
use std::borrow::Cow;

use super::{CurrentLeader, NodeEndpoint, TopicRef};
use crate::api::Api;
use crate::bounds::elements_max;
use crate::frame::{self, FrameOverflow};
use crate::wire::{self, Reader, WireError};

/// The most partitions, fetched and forgotten together, in one request or response. A cluster has 100,000; a parsed one
/// takes 80 bytes at most, so that a frame cannot grow beyond 20 MiB.
pub const PARTITIONS_MAX: usize = 250_000;

/// Ottla's tagged field of a request: the key of the follower's incarnation. Kafka's fields begin at 0; a broker that
/// does not know a tag passes over it.
const INCARNATION_KEY_TAG: u32 = 10_000;

/// The most aborted transactions that a decoder takes from one response.
const ABORTED_TRANSACTIONS_MAX: usize = 1_000_000;

const SESSIONS_FROM: i16 = 7;
const FLEXIBLE_FROM: i16 = 12;
const TOPIC_IDS_FROM: i16 = 13;
const REPLICA_STATE_FROM: i16 = 15;
const NODE_ENDPOINTS_FROM: i16 = 16;
const DIRECTORY_ID_FROM: i16 = 17;
const HIGH_WATERMARK_FROM: i16 = 18;

/// The isolation level of a consumer (KIP-98).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IsolationLevel {
    /// Up to the high watermark.
    #[default]
    ReadUncommitted,
    /// Up to the last stable offset.
    ReadCommitted,
}

/// A parsed request, of a consumer or a follower.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchRequest {
    pub cluster_id: Option<String>,
    /// The follower that sends the request, or [`BrokerId::NONE`] for a consumer.
    pub replica_id: BrokerId,
    /// The follower's broker epoch; from version 15, else [`BrokerEpoch::NONE`].
    pub replica_epoch: BrokerEpoch,
    /// What proves that the follower is the broker that it says; from version 15, else none.
    pub incarnation_key: Option<IncarnationKey>,
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    pub isolation_level: IsolationLevel,
    /// 0 where there is no session.
    pub session_id: i32,
    /// −1 for a request outside of any session, 0 for one that opens or replaces a session.
    pub session_epoch: i32,
    pub topics: Vec<FetchTopic>,
    pub forgotten_topics: Vec<ForgottenTopic>,
    pub rack_id: String,
}

impl Default for FetchRequest {
    /// A consumer's request for nothing, outside of any session.
    fn default() -> Self {
        Self {
            cluster_id: None,
            replica_id: BrokerId::NONE,
            replica_epoch: BrokerEpoch::NONE,
            incarnation_key: None,
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: i32::MAX,
            isolation_level: IsolationLevel::ReadUncommitted,
            session_id: 0,
            session_epoch: -1,
            topics: Vec::new(),
            forgotten_topics: Vec::new(),
            rack_id: String::new(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchTopic {
    pub topic: TopicRef,
    pub partitions: Vec<FetchPartition>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchPartition {
    pub partition: PartitionId,
    /// The leader epoch that the asker knows; from version 9, else [`LeaderEpoch::NONE`].
    pub current_leader_epoch: LeaderEpoch,
    pub fetch_offset: Offset,
    /// The epoch of the last record that the asker has; from version 12, else [`LeaderEpoch::NONE`].
    pub last_fetched_epoch: LeaderEpoch,
    /// The follower's log start offset; from version 5, else [`Offset::UNKNOWN`].
    pub log_start_offset: Offset,
    /// The most bytes of records for this partition.
    pub max_bytes: i32,
    /// The follower's log directory; from version 17, else all zero.
    pub replica_directory_id: [u8; 16],
    /// The high watermark that the follower knows; from version 18, else none.
    pub high_watermark: Option<Offset>,
}

impl FetchPartition {
    /// What a consumer asks that knows no leader epoch.
    pub fn of_consumer(partition: PartitionId, fetch_offset: Offset, max_bytes: i32) -> Self {
        Self {
            partition,
            current_leader_epoch: LeaderEpoch::NONE,
            fetch_offset,
            last_fetched_epoch: LeaderEpoch::NONE,
            log_start_offset: Offset::UNKNOWN,
            max_bytes,
            replica_directory_id: [0; 16],
            high_watermark: None,
        }
    }
}

/// Partitions that leave a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForgottenTopic {
    pub topic: TopicRef,
    pub partitions: Vec<PartitionId>,
}

/// Refuses a version that this module does not know, so that no field is read by a wrong schema.
fn known(version: i16) -> Result<(), WireError> {
    if Api::Fetch.served().contains(version) { Ok(()) } else { Err(WireError::UnknownVersion(version)) }
}

/// Parses the body that begins at `body_start` of `frame` (see [`frame::parse_header`]).
pub fn parse(version: i16, frame: &[u8], body_start: usize) -> Result<FetchRequest, WireError> {
    known(version)?;
    let flexible = version >= FLEXIBLE_FROM;
    let mut reader = Reader::new(frame, body_start);
    if reader.remaining() > Api::Fetch.body_max_bytes() {
        return Err(WireError::InvalidLength(reader.remaining() as i64));
    }
    let mut request = FetchRequest::default();
    if version < REPLICA_STATE_FROM {
        request.replica_id = BrokerId(reader.i32()?);
    }
    request.max_wait_ms = reader.i32()?;
    request.min_bytes = reader.i32()?;
    request.max_bytes = reader.i32()?;
    request.isolation_level = match reader.i8()? {
        0 => IsolationLevel::ReadUncommitted,
        1 => IsolationLevel::ReadCommitted,
        other => return Err(WireError::InvalidField { name: "isolation_level", value: i64::from(other) }),
    };
    if version >= SESSIONS_FROM {
        request.session_id = reader.i32()?;
        request.session_epoch = reader.i32()?;
    }
    let partitions_max = PARTITIONS_MAX.min(elements_max() as usize);
    let mut partitions_left = partitions_max;
    let topic_count = reader.array_length(flexible, 3, partitions_max)?;
    request.topics.reserve_exact(topic_count);
    for _ in 0..topic_count {
        let topic = TopicRef::parse(&mut reader, flexible, version >= TOPIC_IDS_FROM)?;
        let count = reader.array_length(flexible, 16, partitions_left)?;
        partitions_left -= count;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(parse_partition(version, &mut reader)?);
        }
        if flexible {
            reader.skip_tagged_fields()?;
        }
        request.topics.push(FetchTopic { topic, partitions });
    }
    if version >= SESSIONS_FROM {
        let topic_count = reader.array_length(flexible, 3, partitions_max)?;
        request.forgotten_topics.reserve_exact(topic_count);
        for _ in 0..topic_count {
            let topic = TopicRef::parse(&mut reader, flexible, version >= TOPIC_IDS_FROM)?;
            let count = reader.array_length(flexible, 4, partitions_left)?;
            partitions_left -= count;
            let partitions = (0..count).map(|_| reader.i32().map(PartitionId)).collect::<Result<_, _>>()?;
            if flexible {
                reader.skip_tagged_fields()?;
            }
            request.forgotten_topics.push(ForgottenTopic { topic, partitions });
        }
    }
    if version >= 11 {
        request.rack_id = reader.string(flexible)?.into_owned();
    }
    if flexible {
        reader.tagged_fields(|tag, field| {
            match tag {
                0 => request.cluster_id = field.nullable_string(true)?.map(Cow::into_owned),
                1 if version >= REPLICA_STATE_FROM => {
                    request.replica_id = BrokerId(field.i32()?);
                    request.replica_epoch = BrokerEpoch(field.i64()?);
                    field.skip_tagged_fields()?;
                }
                INCARNATION_KEY_TAG if version >= REPLICA_STATE_FROM => {
                    request.incarnation_key = Some(IncarnationKey::new(field.array()?));
                }
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(request)
}

fn parse_partition(version: i16, reader: &mut Reader<'_>) -> Result<FetchPartition, WireError> {
    let partition = PartitionId(reader.i32()?);
    let current_leader_epoch = if version >= 9 { LeaderEpoch(reader.i32()?) } else { LeaderEpoch::NONE };
    let fetch_offset = Offset(reader.i64()?);
    let last_fetched_epoch = if version >= 12 { LeaderEpoch(reader.i32()?) } else { LeaderEpoch::NONE };
    let log_start_offset = if version >= 5 { Offset(reader.i64()?) } else { Offset::UNKNOWN };
    let max_bytes = reader.i32()?;
    let mut replica_directory_id = [0; 16];
    let mut high_watermark = None;
    if version >= FLEXIBLE_FROM {
        reader.tagged_fields(|tag, field| {
            match tag {
                0 if version >= DIRECTORY_ID_FROM => replica_directory_id = field.uuid()?,
                1 if version >= HIGH_WATERMARK_FROM => {
                    high_watermark = Some(Offset(field.i64()?)).filter(|offset| *offset != Offset::MAX);
                }
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(FetchPartition {
        partition,
        current_leader_epoch,
        fetch_offset,
        last_fetched_epoch,
        log_start_offset,
        max_bytes,
        replica_directory_id,
        high_watermark,
    })
}

/// Encodes a request as a whole frame.
pub fn encode_request(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &FetchRequest,
) -> Result<Bytes, FrameOverflow> {
    let flexible = version >= FLEXIBLE_FROM;
    let partitions: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    let size = 96 + (request.topics.len() + request.forgotten_topics.len()) * 32 + partitions * 64;
    let mut out = Vec::from(frame::begin_request(Api::Fetch, version, correlation_id, client_id, size));
    if version < REPLICA_STATE_FROM {
        out.put_i32(request.replica_id.0);
    }
    out.put_i32(request.max_wait_ms);
    out.put_i32(request.min_bytes);
    out.put_i32(request.max_bytes);
    out.put_i8(match request.isolation_level {
        IsolationLevel::ReadUncommitted => 0,
        IsolationLevel::ReadCommitted => 1,
    });
    if version >= SESSIONS_FROM {
        out.put_i32(request.session_id);
        out.put_i32(request.session_epoch);
    }
    wire::put_array(&mut out, flexible, request.topics.len());
    for topic in &request.topics {
        topic.topic.put(&mut out, flexible, version >= TOPIC_IDS_FROM);
        wire::put_array(&mut out, flexible, topic.partitions.len());
        for partition in &topic.partitions {
            put_request_partition(version, &mut out, partition);
        }
        wire::put_no_tagged_fields(&mut out, flexible);
    }
    if version >= SESSIONS_FROM {
        wire::put_array(&mut out, flexible, request.forgotten_topics.len());
        for topic in &request.forgotten_topics {
            topic.topic.put(&mut out, flexible, version >= TOPIC_IDS_FROM);
            wire::put_array(&mut out, flexible, topic.partitions.len());
            for partition in &topic.partitions {
                out.put_i32(partition.0);
            }
            wire::put_no_tagged_fields(&mut out, flexible);
        }
    }
    if version >= 11 {
        wire::put_string(&mut out, flexible, &request.rack_id);
    }
    if flexible {
        let is_replica = request.replica_id != BrokerId::NONE || request.replica_epoch != BrokerEpoch::NONE;
        let with_state = version >= REPLICA_STATE_FROM && is_replica;
        let key = request.incarnation_key.as_ref().filter(|_| version >= REPLICA_STATE_FROM);
        let fields = [request.cluster_id.is_some(), with_state, key.is_some()];
        wire::put_unsigned_varint(&mut out, fields.into_iter().map(u32::from).sum());
        if let Some(cluster_id) = &request.cluster_id {
            let mut field = BytesMut::with_capacity(cluster_id.len() + 3);
            wire::put_string(&mut field, true, cluster_id);
            wire::put_unsigned_varint(&mut out, 0);
            wire::put_unsigned_varint(&mut out, field.len() as u32);
            out.put_slice(&field);
        }
        if with_state {
            wire::put_unsigned_varint(&mut out, 1);
            wire::put_unsigned_varint(&mut out, 13);
            out.put_i32(request.replica_id.0);
            out.put_i64(request.replica_epoch.0);
            out.put_u8(0);
        }
        if let Some(key) = key {
            wire::put_unsigned_varint(&mut out, INCARNATION_KEY_TAG);
            wire::put_unsigned_varint(&mut out, IncarnationKey::BYTES as u32);
            out.put_slice(key.as_bytes());
        }
    }
    frame::finish(&mut out, 0)?;
    Ok(Bytes::from(out))
}

fn put_request_partition(version: i16, out: &mut impl BufMut, partition: &FetchPartition) {
    out.put_i32(partition.partition.0);
    if version >= 9 {
        out.put_i32(partition.current_leader_epoch.0);
    }
    out.put_i64(partition.fetch_offset.0);
    if version >= 12 {
        out.put_i32(partition.last_fetched_epoch.0);
    }
    if version >= 5 {
        out.put_i64(partition.log_start_offset.0);
    }
    out.put_i32(partition.max_bytes);
    if version >= FLEXIBLE_FROM {
        let directory = version >= DIRECTORY_ID_FROM && partition.replica_directory_id != [0; 16];
        let high_watermark = partition.high_watermark.filter(|_| version >= HIGH_WATERMARK_FROM);
        wire::put_unsigned_varint(out, u32::from(directory) + u32::from(high_watermark.is_some()));
        if directory {
            wire::put_unsigned_varint(out, 0);
            wire::put_unsigned_varint(out, 16);
            out.put_slice(&partition.replica_directory_id);
        }
        if let Some(high_watermark) = high_watermark {
            wire::put_unsigned_varint(out, 1);
            wire::put_unsigned_varint(out, 8);
            out.put_i64(high_watermark.0);
        }
    }
}

/// Records of one partition in an answer, wherever they are.
pub trait RecordSlice {
    /// How many bytes will be sent for it, exactly.
    fn size_bytes(&self) -> usize;
}

impl RecordSlice for Bytes {
    fn size_bytes(&self) -> usize {
        self.len()
    }
}

/// A piece of a frame, in the order of sending.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part<S> {
    Bytes(Bytes),
    Records(S),
}

impl<S: RecordSlice> Part<S> {
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Records(records) => records.size_bytes(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchResponse<S> {
    pub throttle_time_ms: i32,
    /// From version 7.
    pub error: ErrorCode,
    /// From version 7; 0 where there is no session.
    pub session_id: i32,
    pub topics: Vec<FetchTopicResponse<S>>,
    /// Where the leaders named in `current_leader` listen; from version 16.
    pub node_endpoints: Vec<NodeEndpoint>,
}

impl<S> Default for FetchResponse<S> {
    fn default() -> Self {
        Self {
            throttle_time_ms: 0,
            error: ErrorCode::None,
            session_id: 0,
            topics: Vec::new(),
            node_endpoints: Vec::new(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchTopicResponse<S> {
    pub topic: TopicRef,
    pub partitions: Vec<FetchPartitionResponse<S>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchPartitionResponse<S> {
    pub partition: PartitionId,
    pub error: ErrorCode,
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
    /// From version 5.
    pub log_start_offset: Offset,
    /// Where the follower's log leaves the leader's; from version 12.
    pub diverging_epoch: Option<EpochEndOffset>,
    /// From version 12.
    pub current_leader: Option<CurrentLeader>,
    /// None (null) for a consumer that reads uncommitted records.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// From version 11; [`BrokerId::NONE`] for "read here".
    pub preferred_read_replica: BrokerId,
    /// None is sent as no bytes, never as null, which old clients do not expect.
    pub records: Option<S>,
}

impl<S> FetchPartitionResponse<S> {
    /// An answer without records.
    pub fn failed(partition: PartitionId, error: ErrorCode) -> Self {
        Self {
            partition,
            error,
            high_watermark: Offset::UNKNOWN,
            last_stable_offset: Offset::UNKNOWN,
            log_start_offset: Offset::UNKNOWN,
            diverging_epoch: None,
            current_leader: None,
            aborted_transactions: None,
            preferred_read_replica: BrokerId::NONE,
            records: None,
        }
    }
}

/// The end of an epoch in the leader's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEndOffset {
    pub epoch: LeaderEpoch,
    pub end_offset: Offset,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbortedTransaction {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
}

/// Encodes a response as the pieces of one frame, length prefix included. Everything but records is allocated once.
pub fn encode<S: RecordSlice + Clone>(
    version: i16,
    correlation_id: i32,
    response: &FetchResponse<S>,
) -> Result<Vec<Part<S>>, FrameOverflow> {
    let flexible = version >= FLEXIBLE_FROM;
    let partition_count: usize = response.topics.iter().map(|topic| topic.partitions.len()).sum();
    let size = 48 + response.topics.len() * 48 + partition_count * 80;
    // What is appended to a vector is inlined; for `BytesMut` each field is a call.
    let mut out = Vec::from(frame::begin_response(Api::Fetch, version, correlation_id, size));
    // Where records go between the bytes, and which: the buffer is cut once it is complete.
    let mut cuts: Vec<(usize, &S)> = Vec::with_capacity(partition_count);
    let mut records_bytes = 0;

    out.put_i32(response.throttle_time_ms);
    if version >= SESSIONS_FROM {
        out.put_i16(response.error.code());
        out.put_i32(response.session_id);
    }
    wire::put_array(&mut out, flexible, response.topics.len());
    for topic in &response.topics {
        topic.topic.put(&mut out, flexible, version >= TOPIC_IDS_FROM);
        wire::put_array(&mut out, flexible, topic.partitions.len());
        for partition in &topic.partitions {
            put_response_partition(version, &mut out, partition);
            let size = partition.records.as_ref().map_or(0, RecordSlice::size_bytes);
            wire::put_bytes_length(&mut out, flexible, size);
            if let Some(records) = partition.records.as_ref().filter(|_| size > 0) {
                cuts.push((out.len(), records));
                records_bytes += size;
            }
            put_response_partition_tags(version, &mut out, partition);
        }
        wire::put_no_tagged_fields(&mut out, flexible);
    }
    if version >= NODE_ENDPOINTS_FROM && !response.node_endpoints.is_empty() {
        wire::put_unsigned_varint(&mut out, 1);
        super::put_node_endpoints_tagged(&mut out, 0, &response.node_endpoints);
    } else {
        wire::put_no_tagged_fields(&mut out, flexible);
    }
    frame::finish(&mut out, records_bytes)?;

    let mut rest = Bytes::from(out);
    let mut parts = Vec::with_capacity(cuts.len() * 2 + 1);
    let mut cut_before = 0;
    for (cut, records) in cuts {
        // Cuts ascend and lie within the buffer: they were its length as it grew.
        parts.push(Part::Bytes(rest.split_to(cut - cut_before)));
        parts.push(Part::Records(records.clone()));
        cut_before = cut;
    }
    if !rest.is_empty() {
        parts.push(Part::Bytes(rest));
    }
    Ok(parts)
}

fn put_response_partition<S>(version: i16, out: &mut impl BufMut, partition: &FetchPartitionResponse<S>) {
    let flexible = version >= FLEXIBLE_FROM;
    out.put_i32(partition.partition.0);
    out.put_i16(partition.error.code());
    out.put_i64(partition.high_watermark.0);
    out.put_i64(partition.last_stable_offset.0);
    if version >= 5 {
        out.put_i64(partition.log_start_offset.0);
    }
    wire::put_nullable_array(out, flexible, partition.aborted_transactions.as_ref().map(Vec::len));
    for aborted in partition.aborted_transactions.iter().flatten() {
        out.put_i64(aborted.producer_id.0);
        out.put_i64(aborted.first_offset.0);
        wire::put_no_tagged_fields(out, flexible);
    }
    if version >= 11 {
        out.put_i32(partition.preferred_read_replica.0);
    }
}

fn put_response_partition_tags<S>(version: i16, out: &mut impl BufMut, partition: &FetchPartitionResponse<S>) {
    if version < FLEXIBLE_FROM {
        return;
    }
    let count = u32::from(partition.diverging_epoch.is_some()) + u32::from(partition.current_leader.is_some());
    wire::put_unsigned_varint(out, count);
    if let Some(diverging) = partition.diverging_epoch {
        wire::put_unsigned_varint(out, 0);
        wire::put_unsigned_varint(out, 13);
        out.put_i32(diverging.epoch.0);
        out.put_i64(diverging.end_offset.0);
        out.put_u8(0);
    }
    if let Some(leader) = partition.current_leader {
        leader.put_tagged(out, 1);
    }
}

/// Decodes a response frame (without its length prefix); returns the correlation id with it. Records are slices of the
/// frame.
pub fn decode_response(version: i16, response: &Bytes) -> Result<(i32, FetchResponse<Bytes>), WireError> {
    known(version)?;
    let flexible = version >= FLEXIBLE_FROM;
    let (correlation_id, start) = frame::parse_response_header(Api::Fetch, version, response)?;
    let mut reader = Reader::new(response, start);
    let mut decoded = FetchResponse { throttle_time_ms: reader.i32()?, ..FetchResponse::default() };
    if version >= SESSIONS_FROM {
        decoded.error = ErrorCode::from_code(reader.i16()?).unwrap_or(ErrorCode::UnknownServerError);
        decoded.session_id = reader.i32()?;
    }
    let topic_count = reader.array_length(flexible, 3, PARTITIONS_MAX)?;
    decoded.topics.reserve_exact(topic_count);
    for _ in 0..topic_count {
        let topic = TopicRef::parse(&mut reader, flexible, version >= TOPIC_IDS_FROM)?;
        let count = reader.array_length(flexible, 24, PARTITIONS_MAX)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(decode_response_partition(version, &mut reader, response)?);
        }
        if flexible {
            reader.skip_tagged_fields()?;
        }
        decoded.topics.push(FetchTopicResponse { topic, partitions });
    }
    if flexible {
        reader.tagged_fields(|tag, field| {
            if tag == 0 && version >= NODE_ENDPOINTS_FROM {
                decoded.node_endpoints = super::parse_node_endpoints(field)?;
            }
            Ok(())
        })?;
    }
    Ok((correlation_id, decoded))
}

fn decode_response_partition(
    version: i16,
    reader: &mut Reader<'_>,
    frame: &Bytes,
) -> Result<FetchPartitionResponse<Bytes>, WireError> {
    let flexible = version >= FLEXIBLE_FROM;
    let partition = PartitionId(reader.i32()?);
    let error = ErrorCode::from_code(reader.i16()?).unwrap_or(ErrorCode::UnknownServerError);
    let high_watermark = Offset(reader.i64()?);
    let last_stable_offset = Offset(reader.i64()?);
    let log_start_offset = if version >= 5 { Offset(reader.i64()?) } else { Offset::UNKNOWN };
    let aborted_transactions = match reader.nullable_array(flexible, 16, ABORTED_TRANSACTIONS_MAX)? {
        None => None,
        Some(count) => {
            let mut aborted = Vec::with_capacity(count);
            for _ in 0..count {
                let producer_id = ProducerId(reader.i64()?);
                let first_offset = Offset(reader.i64()?);
                if flexible {
                    reader.skip_tagged_fields()?;
                }
                aborted.push(AbortedTransaction { producer_id, first_offset });
            }
            Some(aborted)
        }
    };
    let preferred_read_replica = if version >= 11 { BrokerId(reader.i32()?) } else { BrokerId::NONE };
    let records = reader.nullable_bytes(flexible)?.filter(|range| !range.is_empty()).map(|range| frame.slice(range));
    let mut diverging_epoch = None;
    let mut current_leader = None;
    if flexible {
        reader.tagged_fields(|tag, field| {
            match tag {
                0 => {
                    let epoch = LeaderEpoch(field.i32()?);
                    let end_offset = Offset(field.i64()?);
                    diverging_epoch = Some(EpochEndOffset { epoch, end_offset });
                }
                1 => current_leader = Some(CurrentLeader::parse(field)?),
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(FetchPartitionResponse {
        partition,
        error,
        high_watermark,
        last_stable_offset,
        log_start_offset,
        diverging_epoch,
        current_leader,
        aborted_transactions,
        preferred_read_replica,
        records,
    })
}
