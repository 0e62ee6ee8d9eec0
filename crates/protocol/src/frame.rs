//! The outside of every message: four bytes of length, then a header.
//!
//! Invariant: the parsers return for any input; a header is accepted only for a supported API and version.

use bytes::{BufMut, BytesMut};
use std::borrow::Cow;

use crate::api::Api;
use crate::wire::{self, Reader, WireError};

/// How many bytes the length prefix has.
pub const LENGTH_BYTES: usize = 4;

/// The most bytes of a frame after its length prefix, which is a signed 32-bit number.
pub const FRAME_BYTES_MAX: usize = i32::MAX as usize;

/// A frame whose length its prefix cannot express. It must not be sent: the peer would read a negative length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a frame of {0} bytes: its length prefix expresses at most {FRAME_BYTES_MAX}")]
pub struct FrameOverflow(pub usize);

/// A frame whose header cannot be served. Every case but one closes the connection, as Kafka does; an
/// [`FrameError::UnsupportedVersion`] of ApiVersions is answered with version 0 and `UNSUPPORTED_VERSION`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {size} bytes: at most {max} are accepted")]
    TooLarge { size: u32, max: usize },
    #[error("a frame with the negative size {0}")]
    NegativeSize(i32),
    #[error("not Kafka's protocol: {0}")]
    OtherProtocol(&'static str),
    #[error("a frame of {0} bytes has no room for a header")]
    TooShort(usize),
    #[error("API key {0} is not served")]
    UnknownApi(i16),
    #[error("version {} of {api} is not served, only {}", .header.api_version, .api.served())]
    UnsupportedVersion { api: Api, header: RequestHeader },
    #[error("the request header is invalid: {0}")]
    Header(#[from] WireError),
}

impl FrameError {
    /// The header for a response with version 0 of ApiVersions and `UNSUPPORTED_VERSION`; none if the connection must
    /// be closed.
    pub fn answerable(&self) -> Option<&RequestHeader> {
        match self {
            Self::UnsupportedVersion { api: Api::ApiVersions, header } => Some(header),
            _ => None,
        }
    }
}

/// The header of every request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<String>,
}

impl RequestHeader {
    /// The API; a header that [`parse_header`] accepted has one.
    pub fn api(&self) -> Option<Api> {
        Api::from_key(self.api_key)
    }
}

/// Reads the length prefix: how many bytes follow, at most `max_bytes`. An empty frame cannot hold a header and is
/// refused.
pub fn parse_length(prefix: [u8; LENGTH_BYTES], max_bytes: usize) -> Result<usize, FrameError> {
    let size = i32::from_be_bytes(prefix);
    let too_large = u32::try_from(size).map_or(true, |size| size as usize > max_bytes);
    if too_large {
        // Only where the number is absurd anyway: four printable bytes can also be an honest length.
        match prefix {
            [b'G', b'E', b'T', b' ']
            | [b'P', b'O', b'S', b'T']
            | [b'P', b'U', b'T', b' ']
            | [b'H', b'E', b'A', b'D']
            | [b'H', b'T', b'T', b'P'] => return Err(FrameError::OtherProtocol("HTTP")),
            [0x16, 0x03, _, _] => return Err(FrameError::OtherProtocol("a TLS handshake on a plaintext listener")),
            _ => {}
        }
    }
    match u32::try_from(size) {
        Err(_) => Err(FrameError::NegativeSize(size)),
        Ok(size) if size as usize > max_bytes => Err(FrameError::TooLarge { size, max: max_bytes }),
        Ok(0) => Err(FrameError::TooShort(0)),
        Ok(size) => Ok(size as usize),
    }
}

/// Parses the header of a frame (without its length prefix); returns it with the position at which the body begins.
pub fn parse_header(frame: &[u8]) -> Result<(RequestHeader, usize), FrameError> {
    let mut reader = Reader::new(frame, 0);
    let (Ok(api_key), Ok(api_version), Ok(correlation_id)) = (reader.i16(), reader.i16(), reader.i32()) else {
        return Err(FrameError::TooShort(frame.len()));
    };
    let api = Api::from_key(api_key).ok_or(FrameError::UnknownApi(api_key))?;
    let mut header = RequestHeader { api_key, api_version, correlation_id, client_id: None };
    if !api.served().contains(api_version) {
        return Err(FrameError::UnsupportedVersion { api, header });
    }
    // The client id keeps its old form in every header version, so that any broker can parse an ApiVersions header.
    header.client_id = reader.nullable_string(false)?.map(Cow::into_owned);
    if api.request_header_version(api_version) >= 2 {
        reader.skip_tagged_fields()?;
    }
    Ok((header, reader.position()))
}

/// Begins a response: room for the length, then the header. [`finish`] completes it.
pub fn begin_response(api: Api, version: i16, correlation_id: i32, body_bytes: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(LENGTH_BYTES + 5 + body_bytes);
    out.put_u32(0);
    out.put_i32(correlation_id);
    wire::put_no_tagged_fields(&mut out, api.response_header_version(version) >= 1);
    out
}

/// Begins a request: room for the length, then the header. [`finish`] completes it.
pub fn begin_request(
    api: Api,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    body_bytes: usize,
) -> BytesMut {
    let mut out = BytesMut::with_capacity(LENGTH_BYTES + 11 + client_id.map_or(0, str::len) + body_bytes);
    out.put_u32(0);
    out.put_i16(api.key());
    out.put_i16(version);
    out.put_i32(correlation_id);
    wire::put_nullable_string(&mut out, false, client_id);
    wire::put_no_tagged_fields(&mut out, api.request_header_version(version) >= 2);
    out
}

/// Writes the length of a frame that a `begin_` function began. `extra_bytes` are sent after these and belong to the
/// frame.
pub fn finish(out: &mut [u8], extra_bytes: usize) -> Result<(), FrameOverflow> {
    let length = out.len().saturating_add(extra_bytes).saturating_sub(LENGTH_BYTES);
    let prefix_value = i32::try_from(length).map_err(|_| FrameOverflow(length))?;
    if let Some(prefix) = out.first_chunk_mut::<LENGTH_BYTES>() {
        *prefix = prefix_value.to_be_bytes();
    }
    Ok(())
}

/// As [`finish`], for frames without a list whose length the peer chooses: they end far below the bound.
pub fn finish_short(out: &mut [u8]) {
    let finished = finish(out, 0);
    debug_assert!(finished.is_ok(), "{finished:?}");
}

/// Reads the correlation id and steps over the header of a response frame (without its length prefix); returns it with
/// the position at which the body begins.
pub fn parse_response_header(api: Api, version: i16, frame: &[u8]) -> Result<(i32, usize), WireError> {
    let mut reader = Reader::new(frame, 0);
    let correlation_id = reader.i32()?;
    if api.response_header_version(version) >= 1 {
        reader.skip_tagged_fields()?;
    }
    Ok((correlation_id, reader.position()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 104_857_600;

    #[test]
    fn lengths_that_no_kafka_client_sends_are_refused() {
        assert_eq!(parse_length(100_u32.to_be_bytes(), MAX), Ok(100));
        assert_eq!(parse_length((-1_i32).to_be_bytes(), MAX), Err(FrameError::NegativeSize(-1)));
        assert_eq!(parse_length(0_u32.to_be_bytes(), MAX), Err(FrameError::TooShort(0)));
        assert_eq!(
            parse_length(((MAX + 1) as u32).to_be_bytes(), MAX),
            Err(FrameError::TooLarge { size: (MAX + 1) as u32, max: MAX })
        );
        assert_eq!(parse_length(*b"GET ", MAX), Err(FrameError::OtherProtocol("HTTP")));
        assert_eq!(parse_length(*b"POST", MAX), Err(FrameError::OtherProtocol("HTTP")));
        assert!(matches!(parse_length([0x16, 3, 1, 2], MAX), Err(FrameError::OtherProtocol(_))));
    }

    #[test]
    fn a_length_that_the_prefix_cannot_express_is_refused() {
        let frame = || begin_response(Api::OffsetFetch, 8, 7, 0);
        let header_bytes = frame().len() - LENGTH_BYTES;
        let mut largest = frame();
        assert_eq!(finish(&mut largest, FRAME_BYTES_MAX - header_bytes), Ok(()));
        assert_eq!(largest[..LENGTH_BYTES], i32::MAX.to_be_bytes());
        for beyond in [1, 1 << 31, usize::MAX - FRAME_BYTES_MAX] {
            let overflow = finish(&mut frame(), FRAME_BYTES_MAX - header_bytes + beyond);
            assert!(matches!(overflow, Err(FrameOverflow(bytes)) if bytes > FRAME_BYTES_MAX), "{overflow:?}");
        }
    }

    #[test]
    fn client_ids_null_negative_and_too_long() {
        let header = |client_id: &[u8]| {
            let mut frame = vec![0, 3, 0, 1, 0, 0, 0, 7];
            frame.extend_from_slice(client_id);
            parse_header(&frame)
        };
        let (null, start) = header(&[0xff, 0xff]).unwrap();
        assert_eq!((null.correlation_id, null.client_id, start), (7, None, 10));
        assert_eq!(header(&[0, 1, b'x']).unwrap().0.client_id.as_deref(), Some("x"));
        assert_eq!(header(&(-7_530_i16).to_be_bytes()), Err(FrameError::Header(WireError::InvalidLength(-7_530))));
        assert_eq!(header(&[0, 9, b'x']), Err(FrameError::Header(WireError::Truncated)));
        assert_eq!(header(&[0, 1, 0xff]).unwrap().0.client_id.as_deref(), Some("?"));
        assert_eq!(header(&[]), Err(FrameError::Header(WireError::Truncated)));
    }

    #[test]
    fn a_frame_cut_at_every_position_is_refused() {
        let mut frame = begin_request(Api::Metadata, 12, 5, Some("client"), 0);
        finish(&mut frame, 0).unwrap();
        let frame = &frame[LENGTH_BYTES..];
        for end in 0..frame.len() {
            assert!(parse_header(&frame[..end]).is_err(), "{end}");
        }
        assert_eq!(parse_header(frame).unwrap().1, frame.len());
    }

    #[test]
    fn unknown_keys_and_versions() {
        let frame = |key: i16, version: i16| {
            let mut frame = Vec::new();
            frame.extend_from_slice(&key.to_be_bytes());
            frame.extend_from_slice(&version.to_be_bytes());
            frame.extend_from_slice(&[0, 0, 0, 9, 0xff, 0xff, 0]);
            parse_header(&frame).unwrap_err()
        };
        assert_eq!(frame(9_999, 0), FrameError::UnknownApi(9_999));
        assert_eq!(frame(-1, 0), FrameError::UnknownApi(-1));
        assert_eq!(frame(0, 100).answerable(), None);
        assert_eq!(frame(0, 2).answerable(), None);
        assert_eq!(frame(0, 2).to_string(), "version 2 of Produce is not served, only 3 to 13");
        assert_eq!(frame(18, 100).answerable().map(|header| header.correlation_id), Some(9));
    }

    #[test]
    fn huge_counts_of_tagged_fields_are_refused() {
        let mut frame = vec![0, 3, 0, 12, 0, 0, 0, 7, 0xff, 0xff];
        frame.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(matches!(
            parse_header(&frame),
            Err(FrameError::Header(WireError::TooManyTaggedFields { count: 0xffff_ffff, .. }))
        ));
    }
}
