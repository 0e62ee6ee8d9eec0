//! UnregisterBroker (64): removes the registration of a broker that will not come back.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_metadata::controller::{Refusal, UnregisterBroker};
use ottla_model::{BrokerId, ErrorCode};
use ottla_network::response::{Reply, Response};
use ottla_protocol::kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use ottla_protocol::{RequestHeader, decode_request};

use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::admin::{self, Patience};

/// The request has no timeout of its own; Kafka's clients wait for 30 s.
const TIMEOUT: Duration = Duration::from_secs(25);

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let request = match decode_request::<UnregisterBrokerRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    if !broker.access(context).cluster(Operation::Alter) {
        let denied = Refusal::new(ErrorCode::ClusterAuthorizationFailed, String::new());
        return Reply::encode::<UnregisterBrokerRequest>(&header, &response(Some(denied)));
    }
    let broker = Arc::clone(broker);
    let patience = Patience::of(TIMEOUT);
    let unregister = UnregisterBroker { broker: BrokerId(request.broker_id.0) };
    let decision = broker.quorum.submit(unregister, patience.remaining());
    Reply::later(async move {
        let outcome = match decision.await {
            Ok(Ok(unregistered)) => {
                patience.await_image(&broker.metadata, unregistered.revision).await;
                Ok(())
            }
            Ok(Err(refusal)) => Err(refusal),
            Err(error) => Err(admin::no_answer(&error)),
        };
        Response::encode_or_close::<UnregisterBrokerRequest>(&header, &response(outcome.err()))
    })
}

fn response(refusal: Option<Refusal>) -> UnregisterBrokerResponse {
    let (code, message) = admin::told(refusal.as_ref());
    UnregisterBrokerResponse::default().with_error_code(code).with_error_message(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_has_a_message() {
        assert_eq!(response(None), UnregisterBrokerResponse::default().with_error_message(None));
        let refused = response(Some(Refusal::new(ErrorCode::BrokerIdNotRegistered, "Broker ID 9 is not registered")));
        assert_eq!(refused.error_code, ErrorCode::BrokerIdNotRegistered.code());
        assert_eq!(refused.error_message.as_deref(), Some("Broker ID 9 is not registered"));
    }
}
