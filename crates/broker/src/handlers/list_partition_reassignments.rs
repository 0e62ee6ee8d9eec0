//! ListPartitionReassignments (46): the reassignments under way. There is no way to start one yet, so that there are
//! none.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_network::response::Answer;
use ottla_protocol::kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;

pub fn handle(_: &Arc<Broker>, _: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    match decode_request::<ListPartitionReassignmentsRequest>(header.api_version, body.freeze()) {
        Ok(_) => {
            Answer::encode::<ListPartitionReassignmentsRequest>(&header, &ListPartitionReassignmentsResponse::default())
        }
        Err(error) => Answer::close(error),
    }
}
