//! DescribeClientQuotas (48): there are no quotas, since [`alter_client_quotas`](super::alter_client_quotas) takes
//! none.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::ErrorCode;
use ottla_network::response::Answer;
use ottla_protocol::kafka_protocol::messages::{DescribeClientQuotasRequest, DescribeClientQuotasResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    match decode_request::<DescribeClientQuotasRequest>(header.api_version, body.freeze()) {
        Ok(_) if !broker.access(context).cluster(Operation::DescribeConfigs) => {
            let denied = DescribeClientQuotasResponse::default()
                .with_error_code(ErrorCode::ClusterAuthorizationFailed.code())
                .with_error_message(None)
                .with_entries(None);
            Answer::encode::<DescribeClientQuotasRequest>(&header, &denied)
        }
        Ok(_) => {
            let none = DescribeClientQuotasResponse::default().with_error_message(None).with_entries(Some(Vec::new()));
            Answer::encode::<DescribeClientQuotasRequest>(&header, &none)
        }
        Err(error) => Answer::close(error),
    }
}
