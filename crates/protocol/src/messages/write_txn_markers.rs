//! WriteTxnMarkers, versions 1 and 2: a transaction coordinator tells partition leaders how transactions ended.
//! `kafka_protocol` does not know version 2, which adds the transaction version of each marker (KIP-1228).

use bytes::{BufMut, Bytes};
use ottla_model::{ErrorCode, PartitionId, ProducerEpoch, ProducerId};

use crate::api::Api;
use crate::bounds::elements_max;
use crate::frame::{self, FrameOverflow};
use crate::wire::{self, Reader, WireError};

/// The first version that tells the transaction version.
const TRANSACTION_VERSION_FROM: i16 = 2;
/// The least bytes of a marker, a topic of a request, and a topic of a response.
const MARKER_MIN_BYTES: usize = 17;
const TOPIC_MIN_BYTES: usize = 3;
const PARTITION_RESULT_MIN_BYTES: usize = 7;

/// The end of one producer's transaction, for some partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TxnMarker {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub is_commit: bool,
    /// Names from the wire: not yet validated as topic names.
    pub topics: Vec<(String, Vec<PartitionId>)>,
    /// The leader epoch of the coordinator's partition.
    pub coordinator_epoch: i32,
    /// 0 where the coordinator does not tell it.
    pub transaction_version: i8,
}

/// What became of one producer's marker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TxnMarkerResult {
    pub producer_id: ProducerId,
    pub topics: Vec<(String, Vec<(PartitionId, ErrorCode)>)>,
}

/// Parses the request whose body begins at `start` of `frame`. At most [`elements_max`] elements.
pub fn parse_request(version: i16, frame: &[u8], start: usize) -> Result<Vec<TxnMarker>, WireError> {
    let mut reader = Reader::new(frame, start);
    let mut left = elements_max() as usize;
    let mut markers = Vec::new();
    for _ in 0..counted(&mut reader, MARKER_MIN_BYTES, &mut left)? {
        let producer_id = ProducerId(reader.i64()?);
        let producer_epoch = ProducerEpoch(reader.i16()?);
        let is_commit = reader.bool()?;
        let mut topics = Vec::new();
        for _ in 0..counted(&mut reader, TOPIC_MIN_BYTES, &mut left)? {
            let name = reader.string(true)?.into_owned();
            let count = counted(&mut reader, size_of::<i32>(), &mut left)?;
            let partitions = (0..count).map(|_| reader.i32().map(PartitionId)).collect::<Result<_, _>>()?;
            reader.skip_tagged_fields()?;
            topics.push((name, partitions));
        }
        let coordinator_epoch = reader.i32()?;
        let transaction_version = if version >= TRANSACTION_VERSION_FROM { reader.i8()? } else { 0 };
        reader.skip_tagged_fields()?;
        markers.push(TxnMarker {
            producer_id,
            producer_epoch,
            is_commit,
            topics,
            coordinator_epoch,
            transaction_version,
        });
    }
    reader.skip_tagged_fields()?;
    Ok(markers)
}

fn counted(reader: &mut Reader<'_>, element_min_bytes: usize, left: &mut usize) -> Result<usize, WireError> {
    let count = reader.array_length(true, element_min_bytes, *left)?;
    *left -= count;
    Ok(count)
}

/// The whole request, length included.
pub fn encode_request(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    markers: &[TxnMarker],
) -> Result<Bytes, FrameOverflow> {
    let mut out = frame::begin_request(Api::WriteTxnMarkers, version, correlation_id, client_id, 64 * markers.len());
    wire::put_array(&mut out, true, markers.len());
    for marker in markers {
        out.put_i64(marker.producer_id.0);
        out.put_i16(marker.producer_epoch.0);
        out.put_u8(u8::from(marker.is_commit));
        wire::put_array(&mut out, true, marker.topics.len());
        for (name, partitions) in &marker.topics {
            wire::put_string(&mut out, true, name);
            wire::put_array(&mut out, true, partitions.len());
            partitions.iter().for_each(|partition| out.put_i32(partition.0));
            wire::put_no_tagged_fields(&mut out, true);
        }
        out.put_i32(marker.coordinator_epoch);
        if version >= TRANSACTION_VERSION_FROM {
            out.put_i8(marker.transaction_version);
        }
        wire::put_no_tagged_fields(&mut out, true);
    }
    wire::put_no_tagged_fields(&mut out, true);
    frame::finish(&mut out, 0)?;
    Ok(out.freeze())
}

/// Parses a response frame, without its length.
pub fn parse_response(version: i16, bytes: &[u8]) -> Result<Vec<TxnMarkerResult>, WireError> {
    let (_, start) = frame::parse_response_header(Api::WriteTxnMarkers, version, bytes)?;
    let mut reader = Reader::new(bytes, start);
    let mut left = elements_max() as usize;
    let mut results = Vec::new();
    for _ in 0..counted(&mut reader, MARKER_MIN_BYTES - size_of::<i32>(), &mut left)? {
        let producer_id = ProducerId(reader.i64()?);
        let mut topics = Vec::new();
        for _ in 0..counted(&mut reader, TOPIC_MIN_BYTES, &mut left)? {
            let name = reader.string(true)?.into_owned();
            let mut partitions = Vec::new();
            for _ in 0..counted(&mut reader, PARTITION_RESULT_MIN_BYTES, &mut left)? {
                let partition = PartitionId(reader.i32()?);
                let code = ErrorCode::from_code(reader.i16()?).unwrap_or(ErrorCode::UnknownServerError);
                reader.skip_tagged_fields()?;
                partitions.push((partition, code));
            }
            reader.skip_tagged_fields()?;
            topics.push((name, partitions));
        }
        reader.skip_tagged_fields()?;
        results.push(TxnMarkerResult { producer_id, topics });
    }
    reader.skip_tagged_fields()?;
    Ok(results)
}

/// The whole response, length included.
pub fn encode_response(version: i16, correlation_id: i32, results: &[TxnMarkerResult]) -> Result<Bytes, FrameOverflow> {
    let mut out = frame::begin_response(Api::WriteTxnMarkers, version, correlation_id, 64 * results.len());
    wire::put_array(&mut out, true, results.len());
    for result in results {
        out.put_i64(result.producer_id.0);
        wire::put_array(&mut out, true, result.topics.len());
        for (name, partitions) in &result.topics {
            wire::put_string(&mut out, true, name);
            wire::put_array(&mut out, true, partitions.len());
            for (partition, code) in partitions {
                out.put_i32(partition.0);
                out.put_i16(code.code());
                wire::put_no_tagged_fields(&mut out, true);
            }
            wire::put_no_tagged_fields(&mut out, true);
        }
        wire::put_no_tagged_fields(&mut out, true);
    }
    wire::put_no_tagged_fields(&mut out, true);
    frame::finish(&mut out, 0)?;
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::WriteTxnMarkersRequest;
    use kafka_protocol::protocol::Decodable;

    use super::*;
    use crate::frame::LENGTH_BYTES;

    fn markers() -> Vec<TxnMarker> {
        let marker = |id: i64, is_commit| TxnMarker {
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(3),
            is_commit,
            topics: vec![("logs".to_owned(), vec![PartitionId(0), PartitionId(7)]), ("none".to_owned(), Vec::new())],
            coordinator_epoch: 12,
            transaction_version: 2,
        };
        vec![marker(5, true), marker(6, false)]
    }

    #[test]
    fn requests_survive_the_wire_and_are_kafkas() {
        for version in [1, 2] {
            let frame = encode_request(version, 9, Some("me"), &markers()).unwrap();
            let (header, start) = frame::parse_header(&frame[LENGTH_BYTES..]).unwrap();
            assert_eq!((header.api(), header.correlation_id), (Some(Api::WriteTxnMarkers), 9));
            let read = parse_request(version, &frame[LENGTH_BYTES..], start).unwrap();
            let told = if version == 1 { 0 } else { 2 };
            let expected: Vec<_> =
                markers().into_iter().map(|marker| TxnMarker { transaction_version: told, ..marker }).collect();
            assert_eq!(read, expected);
            if version == 1 {
                let mut body = BytesMut::from(&frame[LENGTH_BYTES + start..]).freeze();
                let theirs = WriteTxnMarkersRequest::decode(&mut body, 1).unwrap();
                assert_eq!((theirs.markers.len(), theirs.markers[0].coordinator_epoch, body.len()), (2, 12, 0));
                assert_eq!(theirs.markers[0].topics[0].partition_indexes, [0, 7]);
            }
        }
    }

    #[test]
    fn responses_survive_the_wire() {
        let partitions = vec![(PartitionId(1), ErrorCode::None), (PartitionId(2), ErrorCode::NotLeaderOrFollower)];
        let results =
            vec![TxnMarkerResult { producer_id: ProducerId(5), topics: vec![("logs".to_owned(), partitions)] }];
        let frame = encode_response(2, 9, &results).unwrap();
        assert_eq!(parse_response(2, &frame[LENGTH_BYTES..]), Ok(results));
    }

    #[test]
    fn lengths_beyond_the_frame_are_refused() {
        let frame = encode_request(2, 9, None, &markers()).unwrap();
        let (_, start) = frame::parse_header(&frame[LENGTH_BYTES..]).unwrap();
        let mut body = frame[LENGTH_BYTES + start..].to_vec();
        body[0] = 0xff;
        body[1] = 0x7f;
        assert!(parse_request(2, &body, 0).is_err());
        for end in 0..body.len() - 1 {
            assert!(parse_request(2, &frame[LENGTH_BYTES + start..][..end], 0).is_err());
        }
    }
}
