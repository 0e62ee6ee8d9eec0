//! What the handlers of the transaction APIs share: the way to the transactional ids and back.

use std::sync::Arc;

use ottla_model::{ErrorCode, PartitionId, ProducerEpoch, ProducerId, TopicName, TopicPartition, TransactionalId};
use ottla_network::response::{Reply, Response};
use ottla_protocol::RequestHeader;
use ottla_protocol::kafka_protocol::messages;
use ottla_protocol::kafka_protocol::protocol::Request;
use ottla_transaction_coordinator::{Producer, Request as TransactionRequest, TransactionAnswer};
use tokio::time::Instant;

use crate::broker::Broker;
use crate::coordinators::pending_answer::all_ready;
use crate::transactions::{PendingAnswer, REPLICATION_TIMEOUT};

pub fn transactional_id(id: &messages::TransactionalId) -> TransactionalId {
    TransactionalId::new(id.as_str())
}

pub fn producer(id: messages::ProducerId, epoch: i16) -> Producer {
    Producer { id: ProducerId(id.0), epoch: ProducerEpoch(epoch) }
}

pub fn wire_producer_id(id: ProducerId) -> messages::ProducerId {
    messages::ProducerId(id.0)
}

/// The partition; none for a name that no topic can have.
pub fn topic_partition(topic: &messages::TopicName, partition: i32) -> Option<TopicPartition> {
    let name = TopicName::new(topic.as_str()).ok()?;
    Some(TopicPartition::new(name, PartitionId(partition)))
}

/// Asks the id's coordinator, which has to be this broker.
pub fn submit(broker: &Arc<Broker>, id: &TransactionalId, request: TransactionRequest) -> PendingAnswer {
    broker.transactions.submit(&broker.metadata.peek(), id, request)
}

/// One id's answer as its API has it.
pub fn respond<R: Request>(
    header: RequestHeader,
    pending: PendingAnswer,
    make: impl FnOnce(TransactionAnswer) -> R::Response + Send + 'static,
) -> Reply {
    match pending {
        PendingAnswer::Ready(answer) => Reply::encode::<R>(&header, &make(answer)),
        waiting => Reply::later(async move {
            let answer = waiting.answer_within(REPLICATION_TIMEOUT).await;
            Response::encode_or_close::<R>(&header, &make(answer))
        }),
    }
}

/// The answers of several ids or partitions, in the order in which they were asked.
pub fn respond_all<R: Request, T: Send + 'static>(
    header: RequestHeader,
    pending: Vec<(T, PendingAnswer)>,
    make: impl FnOnce(Vec<(T, TransactionAnswer)>) -> R::Response + Send + 'static,
) -> Reply {
    let pending = match all_ready(pending) {
        // Here, not in the connection's task: the request may be handled beside the workers.
        Ok(answers) => return Reply::encode::<R>(&header, &make(answers)),
        Err(pending) => pending,
    };
    Reply::later(async move {
        let deadline = Instant::now() + REPLICATION_TIMEOUT;
        let mut answers = Vec::with_capacity(pending.len());
        for (of, pending) in pending {
            answers.push((of, pending.answer_by(deadline).await));
        }
        Response::encode_or_close::<R>(&header, &make(answers))
    })
}

/// PRODUCER_FENCED, as clients of before version `known_from` know it.
pub fn fenced_for(version: i16, known_from: i16, error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced if version < known_from => ErrorCode::InvalidProducerEpoch,
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use ottla_protocol::kafka_protocol::messages::{DescribeTransactionsRequest, DescribeTransactionsResponse};
    use tokio::sync::oneshot;

    use super::*;

    /// Each answer had the whole time after the one before it: a thousand that wait held a leader's question up for an
    /// hour and more.
    #[tokio::test(start_paused = true)]
    async fn answers_that_wait_together_share_their_time() {
        let (senders, pending): (Vec<_>, Vec<_>) = (0..10)
            .map(|number| {
                let (sender, receiver) = oneshot::channel();
                (sender, (number, PendingAnswer::Waiting(receiver)))
            })
            .unzip();
        let header = RequestHeader { api_key: 65, api_version: 0, correlation_id: 1, client_id: None };
        let answer = respond_all::<DescribeTransactionsRequest, i32>(header, pending, |answers| {
            assert!(answers.iter().all(|(_, answer)| answer.error() == ErrorCode::CoordinatorNotAvailable));
            DescribeTransactionsResponse::default()
        });
        let Reply::Later(waiting) = answer else { panic!("nothing waits") };
        let begun = Instant::now();
        drop(waiting.await);
        assert_eq!(begun.elapsed(), REPLICATION_TIMEOUT);
        drop(senders);
    }
}
