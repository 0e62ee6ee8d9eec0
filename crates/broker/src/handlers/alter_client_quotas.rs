//! AlterClientQuotas (49): quotas are not enforced yet, so that none is accepted.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_model::ErrorCode;
use ottla_network::response::Answer;
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages::alter_client_quotas_response::{EntityData, EntryData};
use ottla_protocol::kafka_protocol::messages::{AlterClientQuotasRequest, AlterClientQuotasResponse};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::wire;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Answer {
    let is_allowed = broker.access(context).cluster(Operation::AlterConfigs);
    Answer::respond(&header, body, |request| answer(is_allowed, request))
}

fn answer(is_allowed: bool, request: &AlterClientQuotasRequest) -> AlterClientQuotasResponse {
    let entity = |entity: &ottla_protocol::kafka_protocol::messages::alter_client_quotas_request::EntityData| {
        EntityData::default().with_entity_type(entity.entity_type.clone()).with_entity_name(entity.entity_name.clone())
    };
    let refused = request.entries.iter().map(|entry| {
        let (error, text) = match is_allowed {
            true => (ErrorCode::UnsupportedVersion, "Client quotas are not supported."),
            false => (ErrorCode::ClusterAuthorizationFailed, "Cluster authorization failed."),
        };
        EntryData::default()
            .with_error_code(error.code())
            .with_error_message(Some(wire::text(text)))
            .with_entity(entry.entity.iter().map(entity).collect())
    });
    AlterClientQuotasResponse::default().with_entries(refused.collect())
}

#[cfg(test)]
mod tests {
    use ottla_protocol::kafka_protocol::messages::alter_client_quotas_request;

    use super::*;

    #[test]
    fn a_quota_is_refused_by_its_entity() {
        let user = alter_client_quotas_request::EntityData::default().with_entity_type(wire::text("user"));
        let entry = alter_client_quotas_request::EntryData::default().with_entity(vec![user]);
        let response = answer(true, &AlterClientQuotasRequest::default().with_entries(vec![entry]));
        assert_eq!(response.entries[0].error_code, ErrorCode::UnsupportedVersion.code());
        assert_eq!(response.entries[0].entity[0].entity_type.as_str(), "user");
    }
}
