//! What leaders ask coordinators before they append the first batch of a transaction (KIP-890): whether the partition
//! is in the transaction, or, for producers that leave it to the leader, that it joins.
//!
//! Questions to one coordinator share its requests: what comes while one is on its way goes with the next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ottla_client::ClientError;
use ottla_model::{BrokerId, ErrorCode, ListenerName, PartitionId, TopicName, TopicPartition};
use ottla_protocol::Api;
use ottla_protocol::kafka_protocol::messages as wire_messages;
use ottla_protocol::kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use ottla_protocol::kafka_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replication::verdict_of;
use ottla_secure_stream::StreamSecurity;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{STATE_TOPIC, coordinator_partition};
use crate::peers::{PeerError, Peers};
use crate::request::{topology, wire};
use crate::transaction_verifier::{TransactionVerifier, VerificationAnswer, VerificationQuestion};

/// Questions in one request.
const QUESTIONS_PER_REQUEST: usize = 1_000;
/// About the bytes of these, unless one question has more: a request with too many is not read by the coordinator, and
/// the questions of all other producers would be lost with those of one that asks about as much as it may.
const BYTES_PER_REQUEST: usize = 256 * 1024;

/// The answer for each partition. What could not be asked has an error that lets clients ask again.
type Verdicts = BTreeMap<TopicPartition, ErrorCode>;

/// Puts questions to transaction coordinators.
pub struct Verifier(Arc<Inner>);

struct Inner {
    metadata: Arc<MetadataCache>,
    inter_broker: ListenerName,
    peers: Arc<Peers>,
    data: Handle,
    queues: Mutex<BTreeMap<BrokerId, Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    is_busy: bool,
}

struct Waiting {
    question: VerificationQuestion,
    answer: oneshot::Sender<Verdicts>,
}

impl Verifier {
    pub fn new(
        metadata: Arc<MetadataCache>,
        inter_broker: ListenerName,
        security: StreamSecurity,
        data: Handle,
    ) -> Self {
        let peers = Peers::new(Arc::clone(&metadata), inter_broker.clone(), security);
        Self(Arc::new(Inner { metadata, inter_broker, peers, data, queues: Mutex::default() }))
    }
}

impl TransactionVerifier for Verifier {
    fn verify(&self, question: VerificationQuestion) -> VerificationAnswer {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let partitions = question.partitions.clone();
            let verdicts = inner.ask(question).await;
            let verdict = |partition| verdicts.get(partition).copied().map_or(ErrorCode::NetworkException, verdict_of);
            partitions.iter().map(verdict).collect()
        })
    }
}

impl Inner {
    /// Asks the coordinator of the transactional id.
    async fn ask(self: &Arc<Self>, question: VerificationQuestion) -> Verdicts {
        let failed = |error| question.partitions.iter().map(|partition| (partition.clone(), error)).collect();
        let Some(coordinator) = self.coordinator(&question.transactional_id) else {
            return failed(ErrorCode::CoordinatorNotAvailable);
        };
        let unanswered = failed(ErrorCode::NetworkException);
        let (answer, verdicts) = oneshot::channel();
        let is_idle = {
            let mut queues = self.queues.lock();
            let queue = queues.entry(coordinator).or_default();
            queue.waiting.push_back(Waiting { question, answer });
            !std::mem::replace(&mut queue.is_busy, true)
        };
        if is_idle {
            let inner = Arc::clone(self);
            self.data.spawn(async move { inner.drain(coordinator).await });
        }
        verdicts.await.unwrap_or(unanswered)
    }

    fn coordinator(&self, id: &str) -> Option<BrokerId> {
        let image = self.metadata.peek();
        let partition = coordinator_partition(&image, id)?;
        let leader = image.partition_of(STATE_TOPIC, partition)?.leader;
        topology::live_endpoint(&image, leader, &self.inter_broker).map(|_| leader)
    }

    /// Asks what waits for one coordinator, until nothing does.
    async fn drain(&self, coordinator: BrokerId) {
        while let Some(batch) = self.next(coordinator) {
            let request = to_request(batch.iter().map(|waiting| &waiting.question));
            let response = self.call(coordinator, &request).await;
            if let Err(error) = &response {
                tracing::debug!(%coordinator, %error, "a transaction coordinator does not answer");
            }
            let mut answers = response.as_ref().map(by_transaction).unwrap_or_default();
            for Waiting { question, answer } in batch {
                let verdicts = question.partitions.iter().map(|partition| {
                    let key = (question.transactional_id.clone(), partition.clone());
                    (partition.clone(), answers.remove(&key).unwrap_or(ErrorCode::NetworkException))
                });
                // The client may have gone.
                let _ = answer.send(verdicts.collect());
            }
        }
    }

    fn next(&self, coordinator: BrokerId) -> Option<Vec<Waiting>> {
        let mut queues = self.queues.lock();
        let queue = queues.get_mut(&coordinator)?;
        let batch = take_next(&mut queue.waiting);
        if batch.is_empty() {
            queue.is_busy = false;
            return None;
        }
        Some(batch)
    }

    async fn call(
        &self,
        coordinator: BrokerId,
        request: &AddPartitionsToTxnRequest,
    ) -> Result<AddPartitionsToTxnResponse, PeerError> {
        let connection = self.peers.connection(coordinator).await?;
        let response = connection.call(Api::AddPartitionsToTxn.served().max, request).await?;
        match ErrorCode::from_code(response.error_code) {
            Some(ErrorCode::None) => Ok(response),
            code => Err(ClientError::refused(code.unwrap_or(ErrorCode::UnknownServerError)).into()),
        }
    }
}

/// The questions of the next request: of each transactional id only one, because the answers are told apart by it.
fn take_next(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let (mut batch, mut later) = (Vec::<Waiting>::new(), VecDeque::new());
    let (mut ids, mut bytes_left) = (BTreeSet::new(), BYTES_PER_REQUEST);
    while let Some(next) = waiting.pop_front() {
        let bytes = about_bytes(&next.question);
        let has_room = batch.is_empty() || (batch.len() < QUESTIONS_PER_REQUEST && bytes <= bytes_left);
        if has_room && ids.insert(next.question.transactional_id.clone()) {
            bytes_left = bytes_left.saturating_sub(bytes);
            batch.push(next);
        } else {
            later.push_back(next);
        }
    }
    *waiting = later;
    batch
}

fn about_bytes(question: &VerificationQuestion) -> usize {
    let partitions = question.partitions.iter().map(|partition| partition.topic.as_str().len() + 12);
    question.transactional_id.len() + partitions.sum::<usize>()
}

fn to_request<'a>(questions: impl Iterator<Item = &'a VerificationQuestion>) -> AddPartitionsToTxnRequest {
    let transactions = questions.map(|question| {
        let mut topics: BTreeMap<&TopicName, Vec<i32>> = BTreeMap::new();
        for partition in &question.partitions {
            topics.entry(&partition.topic).or_default().push(partition.partition.0);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            AddPartitionsToTxnTopic::default()
                .with_name(wire_messages::TopicName(wire::text(name.as_str())))
                .with_partitions(partitions)
        });
        AddPartitionsToTxnTransaction::default()
            .with_transactional_id(wire_messages::TransactionalId(wire::text(&question.transactional_id)))
            .with_producer_id(wire_messages::ProducerId(question.producer_id.0))
            .with_producer_epoch(question.producer_epoch.0)
            .with_verify_only(!question.adds)
            .with_topics(topics.collect())
    });
    AddPartitionsToTxnRequest::default().with_transactions(transactions.collect())
}

fn by_transaction(response: &AddPartitionsToTxnResponse) -> BTreeMap<(String, TopicPartition), ErrorCode> {
    let mut found = BTreeMap::new();
    for transaction in &response.results_by_transaction {
        let id = transaction.transactional_id.as_str().to_owned();
        for topic in &transaction.topic_results {
            let Ok(name) = TopicName::new(topic.name.as_str()) else { continue };
            for result in &topic.results_by_partition {
                let partition = TopicPartition::new(name.clone(), PartitionId(result.partition_index));
                let code = ErrorCode::from_code(result.partition_error_code).unwrap_or(ErrorCode::UnknownServerError);
                found.insert((id.clone(), partition), code);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use ottla_model::{ProducerEpoch, ProducerId};

    use super::*;

    fn waiting(id: &str, partitions: usize) -> Waiting {
        let at = TopicPartition::new(TopicName::new("t").expect("a name"), PartitionId(0));
        let question = VerificationQuestion {
            transactional_id: id.to_owned(),
            producer_id: ProducerId(1),
            producer_epoch: ProducerEpoch(0),
            partitions: vec![at; partitions],
            adds: true,
        };
        Waiting { question, answer: oneshot::channel().0 }
    }

    fn requests(waiting: impl IntoIterator<Item = Waiting>) -> Vec<Vec<String>> {
        let mut waiting: VecDeque<Waiting> = waiting.into_iter().collect();
        let next = || Some(take_next(&mut waiting)).filter(|batch| !batch.is_empty());
        let ids = |batch: Vec<Waiting>| batch.into_iter().map(|one| one.question.transactional_id).collect::<Vec<_>>();
        std::iter::from_fn(next).map(ids).collect()
    }

    /// A producer that asked about the same partition a hundred thousand times, or had a very long name, made a request
    /// that its coordinator did not read: the transactions of all others went no further.
    #[test]
    fn a_large_question_does_not_take_others_along() {
        assert_eq!(requests([waiting("a", 1), waiting("b", 2), waiting("a", 1)]), [vec!["a", "b"], vec!["a"]]);
        let large = BYTES_PER_REQUEST / 12;
        let asked = [waiting("a", 1), waiting("large", large), waiting("b", 1), waiting("larger", 2 * large)];
        assert_eq!(requests(asked), [vec!["a", "b"], vec!["large"], vec!["larger"]]);
        let long = "x".repeat(BYTES_PER_REQUEST);
        assert_eq!(requests([waiting("a", 1), waiting(&long, 1)]).len(), 2);
        let many = (0..=QUESTIONS_PER_REQUEST).map(|number| waiting(&number.to_string(), 1));
        assert_eq!(requests(many).iter().map(Vec::len).collect::<Vec<_>>(), [QUESTIONS_PER_REQUEST, 1]);
    }
}
