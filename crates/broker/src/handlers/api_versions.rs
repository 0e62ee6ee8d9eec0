//! ApiVersions (18): what this broker speaks, and which start of the process answers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ottla_metadata::image::FinalizedLevel;
use ottla_model::{ErrorCode, FeatureLevels, OTTLA_VERSION};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::ApiVersionsRequest;
use ottla_protocol::messages::api_versions::{ApiVersionsResponse, Feature};
use ottla_protocol::{RequestHeader, decode_request};
use ottla_replica_manager::identity::Identity;

use crate::broker::Broker;
use crate::request::RequestContext;

/// The first version whose request says which client asks (KIP-511).
const CLIENT_SOFTWARE_FROM: i16 = 3;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let mut response = ApiVersionsResponse::of_this_broker(Some(broker.identity.incarnation()));
    let FinalizedLevel { level, since } = broker.metadata.current().finalized();
    let FeatureLevels { min, max } = FeatureLevels::OF_THIS_RELEASE;
    response.features.push(Feature {
        name: OTTLA_VERSION,
        min_level: min.0,
        max_level: max.0,
        finalized_level: level.0,
    });
    response.features_epoch = i64::try_from(since.0).unwrap_or(i64::MAX);
    respond(response, context, &header, &body)
}

/// Needs no more of the broker than its identity: it is answered before the broker has registered. It does not know the
/// level of the cluster then, and tells of Kafka's features only.
pub fn answer(identity: &Identity, context: &RequestContext, header: &RequestHeader, body: &[u8]) -> Reply {
    respond(ApiVersionsResponse::of_this_broker(Some(identity.incarnation())), context, header, body)
}

fn respond(mut response: ApiVersionsResponse, context: &RequestContext, header: &RequestHeader, body: &[u8]) -> Reply {
    if header.api_version >= CLIENT_SOFTWARE_FROM {
        match decode_request::<ApiVersionsRequest>(header.api_version, Bytes::copy_from_slice(body)) {
            Ok(request)
                if is_software_name(&request.client_software_name)
                    && is_software_name(&request.client_software_version) =>
            {
                context.has_software(&request.client_software_name, &request.client_software_version);
            }
            Ok(_) => {
                response.error = ErrorCode::InvalidRequest;
                response.apis.clear();
            }
            Err(error) => return Reply::close(error),
        }
    }
    Reply::Ready(Response::bytes(response.encode(header.api_version, header.correlation_id)))
}

/// The answer to a version that is not served: version 0, so that any client can read it and ask again.
pub fn unsupported_version(_: &Identity, header: &RequestHeader) -> Reply {
    Reply::Ready(Response::bytes(ApiVersionsResponse::unsupported_version().encode(0, header.correlation_id)))
}

/// Letters, digits, and within them `-` and `.` (Kafka's `ApiVersionsRequest.SOFTWARE_NAME_VERSION_PATTERN`).
fn is_software_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.into_iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use ottla_model::{BrokerId, IncarnationKey};
    use ottla_protocol::{Api, parse_header};

    use super::*;
    use crate::request::test_context::context;
    use ottla_network::response::Part;

    fn bytes_of(answer: Reply) -> Bytes {
        match answer {
            Reply::Ready(response) => match response.parts.as_slice() {
                [Part::Bytes(bytes)] => bytes.slice(4..),
                other => panic!("{} parts", other.len()),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tells_versions_and_the_incarnation() {
        let identity = Identity::new(IncarnationKey::new([9; 32]), BrokerId(1));
        for version in 0..=4 {
            let request = ApiVersionsResponse::encode_request(version, 7, Some("test"));
            let (header, start) = parse_header(&request[4..]).expect("a header");
            let bytes = bytes_of(answer(&identity, &context("X"), &header, &request[4 + start..]));
            let (correlation_id, response) = ApiVersionsResponse::decode(version, &bytes).expect("a response");
            assert_eq!((correlation_id, response.error), (7, ErrorCode::None));
            assert_eq!(response.common(Api::Metadata).map(|range| range.max), Some(13));
            assert_eq!(response.incarnation, (version >= 3).then_some(identity.incarnation()));
        }
    }

    #[test]
    fn software_names_follow_kafkas_pattern() {
        for good in ["apache-kafka-java", "librdkafka", "2.12.1", "a"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a/b", "ä"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}
