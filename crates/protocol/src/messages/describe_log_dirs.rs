//! DescribeLogDirs responses, versions 1 to 5: `kafka_protocol` does not know version 5, which says of each directory
//! whether it is cordoned (KIP-1066). Its request is that of version 4.

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use kafka_protocol::protocol::Encodable as _;

use crate::api::Api;
use crate::codec::{self, CodecError};
use crate::{frame, wire};

/// The newest version that [`codec::decode_response`] can decode.
pub const DECODED_MAX: i16 = 4;

/// The whole frame, with length prefix and header. `cordoned` belongs to `response.results`, in their order.
pub fn encode_response(
    version: i16,
    correlation_id: i32,
    response: &DescribeLogDirsResponse,
    cordoned: &[bool],
) -> Result<Bytes, CodecError> {
    if version <= DECODED_MAX {
        return codec::encode_response::<DescribeLogDirsRequest>(version, correlation_id, response);
    }
    let mut out = frame::begin_response(Api::DescribeLogDirs, version, correlation_id, 0);
    out.put_i32(response.throttle_time_ms);
    out.put_i16(response.error_code);
    wire::put_array(&mut out, true, response.results.len());
    for (at, result) in response.results.iter().enumerate() {
        let mut fields = BytesMut::new();
        let encoded = result.encode(&mut fields, DECODED_MAX);
        encoded.map_err(|error| codec::encode_error(Api::DescribeLogDirs, version, &error))?;
        // The last byte is the number of tagged fields, none; the new field comes before it.
        fields.truncate(fields.len().saturating_sub(1));
        out.put_slice(&fields);
        out.put_u8(cordoned.get(at).copied().unwrap_or_default().into());
        wire::put_no_tagged_fields(&mut out, true);
    }
    wire::put_no_tagged_fields(&mut out, true);
    frame::finish(&mut out, 0)?;
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
    use kafka_protocol::protocol::StrBytes;

    use super::*;

    #[test]
    fn version_5_is_version_4_and_a_byte_for_each_directory() {
        let result = |path: &'static str| {
            DescribeLogDirsResult::default().with_log_dir(StrBytes::from_static_str(path)).with_usable_bytes(7)
        };
        let response = DescribeLogDirsResponse::default().with_results(vec![result("/a"), result("/b")]);
        let old = encode_response(4, 9, &response, &[false, true]).unwrap();
        let new = encode_response(5, 9, &response, &[false, true]).unwrap();
        // The response ends with: usable bytes (7), cordoned, tags of the result, tags of the response.
        assert_eq!(new[new.len() - 5..], [0, 7, 1, 0, 0]);
        assert_eq!(old[old.len() - 4..], [0, 7, 0, 0]);
        assert_eq!(new.len(), old.len() + 2);
        assert_eq!(new[..4], (u32::try_from(new.len()).unwrap() - 4).to_be_bytes());
    }
}
