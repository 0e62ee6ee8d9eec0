//! ApiVersions: a broker's APIs and versions, and, for coordinators that probe it, its incarnation.
//!
//! The incarnation rides in a tagged field that Kafka's schema does not have; clients skip tags they do not know.

use bytes::{BufMut, Bytes, BytesMut};
use ottla_model::{ErrorCode, IncarnationId, KAFKAS_FEATURES};

use crate::api::{Api, VersionRange};
use crate::frame;
use crate::wire::{self, Reader, WireError};

/// The tagged field that carries the 16 bytes of the broker's incarnation, far from the tags that Kafka gives out.
pub const INCARNATION_TAG: u32 = 10_001;

/// A feature with the levels that this broker works with and the level that the cluster is at (KIP-584).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feature {
    pub name: &'static str,
    pub min_level: i16,
    pub max_level: i16,
    /// The level in force. 0: off.
    pub finalized_level: i16,
}

/// Kafka's features: each has the level of this release.
fn kafkas_features() -> impl Iterator<Item = Feature> {
    KAFKAS_FEATURES.iter().map(|&(name, level)| Feature {
        name,
        min_level: level,
        max_level: level,
        finalized_level: level,
    })
}

/// The first version whose clients understand supported features with a minimum of 0 (KIP-1022).
const ZERO_LEVELS_FROM: i16 = 4;

/// The first version with tagged fields.
const FLEXIBLE_FROM: i16 = 3;

/// The most APIs that a decoder takes from one response.
const APIS_MAX: usize = 10_000;

/// The content of an ApiVersions response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiVersionsResponse {
    pub error: ErrorCode,
    /// Key and versions, in the order of the wire.
    pub apis: Vec<(i16, VersionRange)>,
    pub throttle_time_ms: i32,
    /// The broker's incarnation; none from a broker that is not Ottla's, or below version 3.
    pub incarnation: Option<IncarnationId>,
    /// Not decoded.
    pub features: Vec<Feature>,
    /// Grows with each change of a finalized level: clients believe the highest.
    pub features_epoch: i64,
}

impl ApiVersionsResponse {
    /// The response of this release, with Kafka's features.
    pub fn of_this_broker(incarnation: Option<IncarnationId>) -> Self {
        Self {
            error: ErrorCode::None,
            apis: Api::ALL.iter().map(|api| (api.key(), api.advertised())).collect(),
            throttle_time_ms: 0,
            incarnation,
            features: kafkas_features().collect(),
            features_epoch: 0,
        }
    }

    /// The response to an unsupported version: encode it with version 0. It lists only ApiVersions, as Kafka's does, so
    /// that the client can retry with a supported version (KIP-511).
    pub fn unsupported_version() -> Self {
        Self {
            error: ErrorCode::UnsupportedVersion,
            apis: vec![(Api::ApiVersions.key(), Api::ApiVersions.advertised())],
            throttle_time_ms: 0,
            incarnation: None,
            features: Vec::new(),
            features_epoch: 0,
        }
    }

    /// The versions of an API that both sides support; none if there is no such version.
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
            let is_good = self.error == ErrorCode::None;
            let features = if is_good { 3 } else { 0 };
            wire::put_unsigned_varint(&mut out, features + u32::from(self.incarnation.is_some()));
            if is_good {
                self.put_features(&mut out, version);
            }
            if let Some(incarnation) = &self.incarnation {
                wire::put_unsigned_varint(&mut out, INCARNATION_TAG);
                wire::put_unsigned_varint(&mut out, 16);
                out.put_slice(incarnation.as_bytes());
            }
        }
        frame::finish_short(&mut out);
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
        frame::finish_short(&mut out);
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
        let (features, features_epoch) = (Vec::new(), 0);
        Ok((correlation_id, Self { error, apis, throttle_time_ms, incarnation, features, features_epoch }))
    }

    /// The tagged fields 0 to 2: supported features, the epoch of the finalized ones, finalized features.
    fn put_features(&self, out: &mut BytesMut, version: i16) {
        let supported = self.features.iter().filter(|feature| version >= ZERO_LEVELS_FROM || feature.min_level > 0);
        put_levels(out, 0, supported.map(|feature| (feature.name, feature.min_level, feature.max_level)));
        wire::put_unsigned_varint(out, 1);
        wire::put_unsigned_varint(out, 8);
        out.put_i64(self.features_epoch);
        let finalized = self.features.iter().filter(|feature| feature.finalized_level > 0);
        put_levels(out, 2, finalized.map(|feature| (feature.name, feature.finalized_level, feature.finalized_level)));
    }
}

/// One tagged field with an array of names and two levels each.
fn put_levels(out: &mut BytesMut, tag: u32, levels: impl Iterator<Item = (&'static str, i16, i16)>) {
    let levels: Vec<_> = levels.collect();
    let mut field = BytesMut::new();
    wire::put_array(&mut field, true, levels.len());
    for (name, first, second) in levels {
        wire::put_string(&mut field, true, name);
        field.put_i16(first);
        field.put_i16(second);
        wire::put_no_tagged_fields(&mut field, true);
    }
    wire::put_unsigned_varint(out, tag);
    wire::put_unsigned_varint(out, u32::try_from(field.len()).unwrap_or(u32::MAX));
    out.put_slice(&field);
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
    fn features_are_those_of_the_schema() {
        for version in 3..=4 {
            let off = Feature { name: "off", min_level: 0, max_level: 3, finalized_level: 0 };
            let mut response = ApiVersionsResponse::of_this_broker(None);
            response.features.push(off);
            response.features_epoch = 9;
            let bytes = response.encode(version, 1);
            let (_, theirs) = codec::decode_response::<ApiVersionsRequest>(version, bytes.slice(4..)).unwrap();
            let supported: Vec<_> =
                theirs.supported_features.iter().map(|f| (f.name.as_str(), f.min_version, f.max_version)).collect();
            let expected =
                [("group.version", 1, 1), ("metadata.version", 30, 30), ("transaction.version", 2, 2), ("off", 0, 3)];
            // Those that begin at 0 are told from version 4 on.
            assert_eq!(supported, if version >= 4 { &expected[..] } else { &expected[..3] });
            let finalized: Vec<_> =
                theirs.finalized_features.iter().map(|f| (f.name.as_str(), f.max_version_level)).collect();
            assert_eq!(finalized, [("group.version", 1), ("metadata.version", 30), ("transaction.version", 2)]);
            assert_eq!(theirs.finalized_features_epoch, 9);
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
