//! ListPartitionReassignments (46): the reassignments under way. There is no way to start one yet, so that there are
//! none.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::ErrorCode;
use ottla_network::response::Answer;
use ottla_protocol::kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    match decode_request::<ListPartitionReassignmentsRequest>(header.api_version, body.freeze()) {
        Ok(_) if !broker.access(context).cluster(Operation::Describe) => {
            let denied = ListPartitionReassignmentsResponse::default()
                .with_error_code(ErrorCode::ClusterAuthorizationFailed.code())
                .with_error_message(None);
            Answer::encode::<ListPartitionReassignmentsRequest>(&header, &denied)
        }
        Ok(_) => {
            // The schema's default is an empty message, which clients show.
            let none = ListPartitionReassignmentsResponse::default().with_error_message(None);
            Answer::encode::<ListPartitionReassignmentsRequest>(&header, &none)
        }
        Err(error) => Answer::close(error),
    }
}
