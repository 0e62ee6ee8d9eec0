//! ListTransactions (66), versions 0 to 2: the transactional ids that this broker coordinates, by state, producer id,
//! duration and pattern.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use ottla_authorizer::{Operation, ResourceType};
use ottla_model::{ErrorCode, ProducerId};
use ottla_network::response::Reply;
use ottla_protocol::kafka_protocol::messages::list_transactions_response::TransactionState as ListedState;
use ottla_protocol::kafka_protocol::messages::{
    ListTransactionsRequest, ListTransactionsResponse, TransactionalId as WireId,
};
use ottla_protocol::kafka_protocol::protocol::StrBytes;
use ottla_protocol::{RequestHeader, decode_request};
use ottla_transaction_coordinator::request::{ListTransactions, Pattern};
use ottla_transaction_coordinator::{Request, TransactionAnswer, TransactionState};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::request::RequestContext;
use crate::request::meter::Meter;
use crate::request::transaction::{self, wire_producer_id};
use crate::request::wire;

/// Where the ids hold more together, they are looked through beside the workers: there are about a thousand of them.
const INLINE_HELD_BYTES_MAX: usize = 1024 * 1024;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let body_bytes = body.len();
    let request = match decode_request::<ListTransactionsRequest>(header.api_version, body.freeze()) {
        Ok(request) => request,
        Err(error) => return Reply::close(error),
    };
    let Ok((list, unknown)) = filters(&request) else {
        let code = ErrorCode::InvalidRegularExpression.code();
        let response = ListTransactionsResponse::default().with_error_code(code);
        return Reply::encode::<ListTransactionsRequest>(&header, &response);
    };
    let (owned, access) = (Arc::clone(broker), broker.access(context));
    let is_long = broker.transactions.held_bytes() > INLINE_HELD_BYTES_MAX;
    Meter::of(broker, context, &header).carry_out_if(broker, is_long, body_bytes, move || {
        let list = Request::List(list);
        let pending = owned.transactions.submit_all(&list).map(|pending| ((), pending)).collect();
        transaction::respond_all::<ListTransactionsRequest, _>(header, pending, move |answers| {
            response(unknown, &access, answers.into_iter().map(|((), answer)| answer))
        })
    })
}

/// The filters, and the names of states that no transaction has.
fn filters(request: &ListTransactionsRequest) -> Result<(ListTransactions, Vec<StrBytes>), ErrorCode> {
    // Sets: a client may name a quarter of a million.
    let (mut states, mut unknown, mut seen) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    for name in &request.state_filters {
        match TransactionState::from_name(name) {
            Some(state) => drop(states.insert(state)),
            None if seen.insert(name) => unknown.push(name.clone()),
            None => {}
        }
    }
    let pattern = request.transactional_id_pattern.as_ref().filter(|pattern| !pattern.is_empty());
    let list = ListTransactions {
        states: (!request.state_filters.is_empty()).then_some(states),
        producer_ids: request.producer_id_filters.iter().map(|id| ProducerId(id.0)).collect(),
        longer_than_ms: request.duration_filter,
        pattern: pattern
            .map(|pattern| Pattern::new(pattern))
            .transpose()
            .map_err(|_| ErrorCode::InvalidRegularExpression)?,
    };
    Ok((list, unknown))
}

fn response(
    unknown: Vec<StrBytes>,
    access: &Access,
    answers: impl Iterator<Item = TransactionAnswer>,
) -> ListTransactionsResponse {
    let is_shown = |id: &str| access.shows(Operation::Describe, ResourceType::TransactionalId, id);
    let mut states = Vec::new();
    for answer in answers {
        match answer {
            TransactionAnswer::Listed(listed) => {
                states.extend(listed.into_iter().filter(|one| is_shown(one.id.as_str())).map(|one| {
                    ListedState::default()
                        .with_transactional_id(WireId(wire::text(one.id.as_str())))
                        .with_producer_id(wire_producer_id(one.producer_id))
                        .with_transaction_state(wire::text(one.state.name()))
                }))
            }
            // Another broker lists them.
            TransactionAnswer::Failed(ErrorCode::NotCoordinator) => {}
            other => return ListTransactionsResponse::default().with_error_code(other.error().code()),
        }
    }
    ListTransactionsResponse::default().with_unknown_state_filters(unknown).with_transaction_states(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_states_that_nobody_knows_are_told_back() {
        let names = vec![wire::text("Ongoing"), wire::text("Going")];
        let request = ListTransactionsRequest::default().with_state_filters(names);
        let (list, unknown) = filters(&request).expect("valid");
        assert_eq!(list.states, Some([TransactionState::Ongoing].into()));
        assert_eq!(unknown, [wire::text("Going")]);
        let nothing = filters(&ListTransactionsRequest::default()).expect("valid").0;
        assert_eq!((nothing.states, nothing.pattern, nothing.longer_than_ms), (None, None, -1));
        let pattern = Some(wire::text("("));
        let broken = ListTransactionsRequest::default().with_transactional_id_pattern(pattern);
        assert_eq!(filters(&broken), Err(ErrorCode::InvalidRegularExpression));
    }
}
