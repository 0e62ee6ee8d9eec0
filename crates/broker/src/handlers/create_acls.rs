//! CreateAcls (30), versions 1 to 3: rules are added to the authorizer's. The quorum decides.

use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{AclBinding, Operation};
use ottla_metadata::controller::{CreateAcls, Refusal};
use ottla_model::ErrorCode;
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::create_acls_response::AclCreationResult;
use ottla_protocol::kafka_protocol::messages::{CreateAclsRequest, CreateAclsResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::acls::{self, NO_AUTHORIZER};
use crate::request::admin::{self, Patience};

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<CreateAclsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let count = request.creations.len();
    if broker.authorization.is_none() {
        return Reply::encode::<CreateAclsRequest>(&header, &refuse_all(count, &no_authorizer()));
    }
    if !broker.access(context).cluster(Operation::Alter) {
        let denied = Refusal::new(ErrorCode::ClusterAuthorizationFailed, String::new());
        return Reply::encode::<CreateAclsRequest>(&header, &refuse_all(count, &denied));
    }
    let checked: Vec<Result<AclBinding, Refusal>> = request
        .creations
        .iter()
        .map(|creation| acls::binding(creation).map_err(|text| Refusal::new(ErrorCode::InvalidRequest, text)))
        .collect();
    let bindings: Vec<AclBinding> = checked.iter().flatten().cloned().collect();
    let asked = bindings.len();
    let broker = Arc::clone(broker);
    // The request carries no time-out of its own.
    let patience = Patience::of(broker.config.request_timeout);
    let decision = (asked > 0).then(|| broker.quorum.submit(CreateAcls { bindings }, patience.remaining()));
    Reply::later(async move {
        let mut decided = match decision {
            None => Vec::new(),
            Some(decision) => match decision.await {
                Ok(created) => {
                    patience.await_image(&broker.metadata, created.revision).await;
                    created.refusals
                }
                Err(error) => vec![Some(admin::no_answer(&error)); asked],
            },
        }
        .into_iter();
        let silent = || Some(Refusal::new(ErrorCode::UnknownServerError, "the quorum did not answer for this rule"));
        let results = checked.into_iter().map(|checked| match checked {
            Ok(_) => result(decided.next().unwrap_or_else(silent).as_ref()),
            Err(refusal) => result(Some(&refusal)),
        });
        let response = CreateAclsResponse::default().with_results(results.collect());
        Response::encode_or_close::<CreateAclsRequest>(&header, &response)
    })
}

pub fn no_authorizer() -> Refusal {
    Refusal::new(ErrorCode::SecurityDisabled, NO_AUTHORIZER)
}

fn refuse_all(count: usize, refusal: &Refusal) -> CreateAclsResponse {
    CreateAclsResponse::default().with_results(vec![result(Some(refusal)); count])
}

fn result(refusal: Option<&Refusal>) -> AclCreationResult {
    let (code, message) = admin::told(refusal);
    AclCreationResult::default().with_error_code(code).with_error_message(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_refused_without_an_authorizer() {
        let codes: Vec<_> = refuse_all(2, &no_authorizer()).results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [ErrorCode::SecurityDisabled.code(); 2]);
    }
}
