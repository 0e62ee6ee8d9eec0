//! Requests and responses through the `kafka_protocol` crate: bounds first, then its decoder; headers by the API table.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable, Request};

use crate::api::Api;
use crate::bounds::{self, BoundsError};
use crate::frame::{self, FRAME_BYTES_MAX, FrameOverflow};
use crate::wire::WireError;

/// A message that does not go through the codec.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    #[error("API key {0} is not in the table")]
    UnknownApi(i16),
    #[error(transparent)]
    Bounds(#[from] BoundsError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Overflow(#[from] FrameOverflow),
    #[error("{api} version {version} does not decode: {reason}")]
    Decode { api: Api, version: i16, reason: String },
    #[error("{api} version {version} does not encode: {reason}")]
    Encode { api: Api, version: i16, reason: String },
}

fn api_of<R: Request>() -> Result<Api, CodecError> {
    Api::from_key(R::KEY).ok_or(CodecError::UnknownApi(R::KEY))
}

/// Decodes the body of a request: `decode_request::<MetadataRequest>(header.api_version, body)`. `body` begins where
/// [`frame::parse_header`] ended.
pub fn decode_request<R: Request>(version: i16, body: Bytes) -> Result<R, CodecError> {
    let api = api_of::<R>()?;
    let mut body = bounds::check_and_repair(api.key(), version, body)?;
    R::decode(&mut body, api.schema_version(version)).map_err(|error| decode_error(api, version, &error))
}

/// Encodes a response as a whole frame, length prefix and header included:
/// `encode_response::<MetadataRequest>(header.api_version, header.correlation_id, &response)`.
pub fn encode_response<R: Request>(
    version: i16,
    correlation_id: i32,
    response: &R::Response,
) -> Result<Bytes, CodecError> {
    let api = api_of::<R>()?;
    let schema = api.schema_version(version);
    let size = response.compute_size(schema).map_err(|error| encode_error(api, version, &error))?;
    check_size(size)?;
    let mut out = frame::begin_response(api, version, correlation_id, size);
    response.encode(&mut out, schema).map_err(|error| encode_error(api, version, &error))?;
    frame::finish(&mut out, 0)?;
    Ok(out.freeze())
}

/// Encodes a request as a whole frame, length prefix and header included.
pub fn encode_request<R: Request>(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &R,
) -> Result<Bytes, CodecError> {
    let api = api_of::<R>()?;
    let schema = api.schema_version(version);
    let size = request.compute_size(schema).map_err(|error| encode_error(api, version, &error))?;
    check_size(size)?;
    let mut out: BytesMut = frame::begin_request(api, version, correlation_id, client_id, size);
    request.encode(&mut out, schema).map_err(|error| encode_error(api, version, &error))?;
    frame::finish(&mut out, 0)?;
    Ok(out.freeze())
}

/// Decodes a response frame (without its length prefix); returns the correlation id with it. The peer is a broker of
/// the cluster: its arrays are not held to [`bounds`].
pub fn decode_response<R: Request>(version: i16, frame: Bytes) -> Result<(i32, R::Response), CodecError> {
    let api = api_of::<R>()?;
    let (correlation_id, start) = frame::parse_response_header(api, version, &frame)?;
    let mut body = frame.slice(start..);
    let response = R::Response::decode(&mut body, api.schema_version(version))
        .map_err(|error| decode_error(api, version, &error))?;
    Ok((correlation_id, response))
}

/// Before memory is allocated for a frame that could not be sent.
fn check_size(body_bytes: usize) -> Result<(), FrameOverflow> {
    if body_bytes > FRAME_BYTES_MAX { Err(FrameOverflow(body_bytes)) } else { Ok(()) }
}

pub(crate) fn encode_error(api: Api, version: i16, reason: &dyn std::fmt::Display) -> CodecError {
    CodecError::Encode { api, version, reason: reason.to_string() }
}

fn decode_error(api: Api, version: i16, reason: &dyn std::fmt::Display) -> CodecError {
    CodecError::Decode { api, version, reason: reason.to_string() }
}
