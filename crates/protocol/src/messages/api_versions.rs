//! ApiVersions: what a broker speaks, and, for coordinators that probe it, which start of the process answers.
//!
//! The incarnation rides in a tagged field that Kafka's schema does not have; clients skip tags they do not know.

use bytes::{BufMut, Bytes};
use ottla_model::{ErrorCode, IncarnationId};

use crate::api::{Api, VersionRange};
use crate::frame;
use crate::wire::{self, Reader, WireError};

/// The tagged field that carries the 16 bytes of the broker's incarnation, far from the tags that Kafka gives out.
pub const INCARNATION_TAG: u32 = 10_001;

/// The first version with tagged fields.
const FLEXIBLE_FROM: i16 = 3;

/// The most APIs that a decoder takes from one response.
const APIS_MAX: usize = 10_000;

/// What an ApiVersions response says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiVersionsResponse {
    pub error: ErrorCode,
    /// Key and versions, in the order of the wire.
    pub apis: Vec<(i16, VersionRange)>,
    pub throttle_time_ms: i32,
    /// The broker's incarnation; none from a broker that is not Ottla's, or below version 3.
    pub incarnation: Option<IncarnationId>,
}

impl ApiVersionsResponse {
    /// What this release answers.
    pub fn of_this_broker(incarnation: Option<IncarnationId>) -> Self {
        Self {
            error: ErrorCode::None,
            apis: Api::ALL.iter().map(|api| (api.key(), api.advertised())).collect(),
            throttle_time_ms: 0,
            incarnation,
        }
    }

    /// The answer to a version that is not served: encode it with version 0. It names ApiVersions alone, as Kafka's does, so that
    /// the client can ask again (KIP-511).
    pub fn unsupported_version() -> Self {
        Self {
            error: ErrorCode::UnsupportedVersion,
            apis: vec![(Api::ApiVersions.key(), Api::ApiVersions.advertised())],
            throttle_time_ms: 0,
            incarnation: None,
        }
    }

    /// The versions of an API that both sides speak; none if there is no such version.
    pub fn common(&self, api: Api) -> Option<VersionRange> {
        let (_, theirs) = self.apis.iter().find(|(key, _)| *key == api.key())?;
        api.served().intersect(*theirs)
    }

    /// Encodes a whole frame.
    pub fn encode(&self, version: i16, correlation_id: i32) -> Bytes {
        let flexible = version >= FLEXIBLE_FROM;
        let mut out = frame::begin_response(Api::ApiVersions, version, correlation_id, 40 + self.apis.len() * 7);
        out.put_i16(self.error.code());
        wire::put_array(&mut out, flexible, self.apis.len());
        for (key, versions) in &self.apis {
            out.put_i16(*key);
            out.put_i16(versions.min);
            out.put_i16(versions.max);
            wire::put_no_tagged_fields(&mut out, flexible);
        }
        if version >= 1 {
            out.put_i32(self.throttle_time_ms);
        }
        if flexible {
            match &self.incarnation {
                Some(incarnation) => {
                    wire::put_unsigned_varint(&mut out, 1);
                    wire::put_unsigned_varint(&mut out, INCARNATION_TAG);
                    wire::put_unsigned_varint(&mut out, 16);
                    out.put_slice(incarnation.as_bytes());
                }
                None => wire::put_unsigned_varint(&mut out, 0),
            }
        }
        frame::finish(&mut out, 0);
        out.freeze()
    }

    /// Encodes a request as a whole frame.
    pub fn encode_request(version: i16, correlation_id: i32, client_id: Option<&str>) -> Bytes {
        let mut out = frame::begin_request(Api::ApiVersions, version, correlation_id, client_id, 32);
        if version >= FLEXIBLE_FROM {
            wire::put_string(&mut out, true, "ottla");
            wire::put_string(&mut out, true, env!("CARGO_PKG_VERSION"));
            out.put_u8(0);
        }
        frame::finish(&mut out, 0);
        out.freeze()
    }

    /// Decodes a response frame (without its length prefix); returns the correlation id with it. A broker that does not
    /// serve `version` answers in the form of version 0: that is understood too.
    pub fn decode(version: i16, response: &[u8]) -> Result<(i32, Self), WireError> {
        let (correlation_id, start) = frame::parse_response_header(Api::ApiVersions, version, response)?;
        let mut reader = Reader::new(response, start);
        let error = ErrorCode::from_code(reader.i16()?).unwrap_or(ErrorCode::UnknownServerError);
        let version = if error == ErrorCode::UnsupportedVersion { 0 } else { version };
        let flexible = version >= FLEXIBLE_FROM;
        let count = reader.array_length(flexible, 6, APIS_MAX)?;
        let mut apis = Vec::with_capacity(count);
        for _ in 0..count {
            let key = reader.i16()?;
            apis.push((key, VersionRange { min: reader.i16()?, max: reader.i16()? }));
            if flexible {
                reader.skip_tagged_fields()?;
            }
        }
        let throttle_time_ms = if version >= 1 { reader.i32()? } else { 0 };
        let mut incarnation = None;
        if flexible {
            reader.tagged_fields(|tag, field| {
                if tag == INCARNATION_TAG {
                    incarnation = Some(IncarnationId(field.uuid()?));
                }
                Ok(())
            })?;
        }
        Ok((correlation_id, Self { error, apis, throttle_time_ms, incarnation }))
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiVersionsRequest;
    use kafka_protocol::protocol::Decodable;

    use super::*;
    use crate::codec;

    #[test]
    fn every_version_decodes_here_and_with_the_schemas() {
        let incarnation = IncarnationId([7; 16]);
        let response = ApiVersionsResponse::of_this_broker(Some(incarnation));
        for version in 0..=4 {
            let bytes = response.encode(version, 11);
            let (correlation_id, back) = ApiVersionsResponse::decode(version, &bytes[4..]).unwrap();
            assert_eq!((correlation_id, &back.apis), (11, &response.apis));
            assert_eq!(back.incarnation, (version >= 3).then_some(incarnation));
            let (_, theirs) = codec::decode_response::<ApiVersionsRequest>(version, bytes.slice(4..)).unwrap();
            assert_eq!(theirs.api_keys.len(), Api::ALL.len());
            assert_eq!(theirs.unknown_tagged_fields.len(), usize::from(version >= 3));
            let request = ApiVersionsResponse::encode_request(version, 1, Some("x"));
            let (header, start) = frame::parse_header(&request[4..]).unwrap();
            assert_eq!(header.api_version, version);
            let mut body = request.slice(4 + start..);
            ApiVersionsRequest::decode(&mut body, version).unwrap();
            assert!(body.is_empty());
        }
    }

    #[test]
    fn an_unsupported_version_is_understood_in_the_form_of_version_0() {
        let bytes = ApiVersionsResponse::unsupported_version().encode(0, 3);
        let (_, response) = ApiVersionsResponse::decode(4, &bytes[4..]).unwrap();
        assert_eq!(response.error, ErrorCode::UnsupportedVersion);
        assert_eq!(response.common(Api::ApiVersions), Some(VersionRange { min: 0, max: 4 }));
        assert_eq!(response.common(Api::Fetch), None);
    }
}
