//! The verification of the transactional batches of one request (KIP-890): each partition says whether its transaction
//! is open there, and the transaction coordinator is asked, once, about those where it is not.
//!
//! Before version 12 of Produce a client has added its partitions to the transaction itself, and the coordinator
//! confirms it; from then on the question adds them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use ottla_model::{ErrorCode, PartitionId, ProducerEpoch, ProducerId};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::produce::ProduceRequest;
use ottla_protocol::record_batch::BatchHeader;
use ottla_replica_manager::clock;
use ottla_replica_manager::partition::{AppendRefused, Partition};
use ottla_replication::{VerificationGuard, VerificationRequest};

use crate::broker::Broker;
use crate::transaction_verifier::{RETRY_FOR, RETRY_PAUSE, TransactionVerifier, VerificationQuestion};

/// The first version whose producers know that their epoch is bumped with every transaction.
const EPOCH_BUMP_FROM: i16 = 12;
/// The first version whose producers know TRANSACTION_ABORTABLE.
const ABORTABLE_FROM: i16 = 11;

/// What is known of the transactional batches of a request, by their places in it.
#[derive(Default)]
pub(super) struct Verifications {
    version: i16,
    guards: BTreeMap<usize, VerificationGuard>,
    refused: BTreeMap<usize, AppendRefused>,
    /// The question to the coordinator, and the places of its partitions.
    question: Option<(VerificationQuestion, Vec<Asked>)>,
}

/// A batch that the coordinator is asked about.
struct Asked {
    place: usize,
    partition: Arc<Partition>,
    wanted: VerificationRequest,
}

/// A transactional batch of the request.
struct Batch<'r> {
    place: usize,
    topic: &'r TopicRef,
    partition: PartitionId,
    header: BatchHeader,
}

impl Verifications {
    /// Looks at the batches of a request; nothing is done for one without a transactional id.
    ///
    /// # Errors
    /// The request is refused as a whole.
    pub fn begin(broker: &Arc<Broker>, version: i16, request: &ProduceRequest, body: &[u8]) -> Result<Self, ErrorCode> {
        let mut verifications = Self { version, ..Self::default() };
        let Some(transactional_id) = &request.transactional_id else { return Ok(verifications) };
        let batches = transactional_batches(request, body);
        let Some((producer_id, producer_epoch)) = batches.first().map(producer_of) else { return Ok(verifications) };
        if batches.iter().any(|batch| producer_of(batch) != (producer_id, producer_epoch)) {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        let supports_epoch_bump = version >= EPOCH_BUMP_FROM;
        if !supports_epoch_bump && !broker.config.transaction_partition_verification_enable {
            return Ok(verifications);
        }
        let (mut partitions, mut places) = (Vec::new(), Vec::new());
        for Batch { place, topic, partition, header } in batches {
            // What this broker does not lead is refused with the append.
            let Ok(partition) = broker.replicas.find(topic, partition) else { continue };
            let wanted = VerificationRequest {
                producer_id,
                producer_epoch,
                base_sequence: header.base_sequence,
                supports_epoch_bump,
            };
            match partition.begin_verification(&wanted, clock::wall()) {
                Ok(None) => {}
                Ok(Some(guard)) => {
                    verifications.guards.insert(place, guard);
                    partitions.push(partition.topic_partition());
                    places.push(Asked { place, partition, wanted });
                }
                Err(error) => {
                    verifications.refused.insert(place, error.into());
                }
            }
        }
        if !partitions.is_empty() {
            let transactional_id = transactional_id.clone();
            let question = VerificationQuestion {
                transactional_id,
                producer_id,
                producer_epoch,
                partitions,
                adds: supports_epoch_bump,
            };
            verifications.question = Some((question, places));
        }
        Ok(verifications)
    }

    /// Refuses the batches at these places, whatever they are.
    pub fn refusing(mut self, places: Vec<(usize, ErrorCode)>) -> Self {
        self.refused.extend(places.into_iter().map(|(place, error)| (place, error.into())));
        self
    }

    /// Whether nothing has to be asked.
    pub fn are_complete(&self) -> bool {
        self.question.is_none()
    }

    /// Asks the coordinator.
    pub fn complete(mut self, broker: &Broker) -> impl Future<Output = Self> + Send + use<> {
        let (asked, verifier) = (self.question.take(), Arc::clone(&broker.transaction_verifier));
        async move {
            if let Some((question, asked)) = asked {
                let answer = self.ask(&*verifier, question, &asked).await;
                for (Asked { place, .. }, error) in asked.into_iter().zip(answer) {
                    let error = match error {
                        ErrorCode::TransactionAbortable if self.version < ABORTABLE_FROM => ErrorCode::InvalidTxnState,
                        error => error,
                    };
                    if error != ErrorCode::None {
                        self.refused.insert(place, AppendRefused::unverified(error, self.version >= EPOCH_BUMP_FROM));
                    }
                }
            }
            self
        }
    }

    /// Asks until a former transaction of the producer has ended here and at the coordinator, or for [`RETRY_FOR`].
    async fn ask(
        &mut self,
        verifier: &dyn TransactionVerifier,
        question: VerificationQuestion,
        asked: &[Asked],
    ) -> Vec<ErrorCode> {
        let begun = Instant::now();
        loop {
            let answer = verifier.verify(question.clone()).await;
            if !question.adds {
                return answer;
            }
            let is_ending = answer.contains(&ErrorCode::ConcurrentTransactions);
            if is_ending {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            // A guard that the marker took away while the question was on its way proves nothing.
            let is_outdated = self.renew_guards(asked);
            let is_over = begun.elapsed() >= RETRY_FOR;
            match (is_ending, is_outdated) {
                (false, false) => return answer,
                (_, true) if is_over => return vec![ErrorCode::ConcurrentTransactions; asked.len()],
                (true, false) if is_over => return answer,
                _ => {}
            }
        }
    }

    /// Begins the verifications that have ended meanwhile anew. Returns whether there were any.
    fn renew_guards(&mut self, asked: &[Asked]) -> bool {
        let mut is_outdated = false;
        for Asked { place, partition, wanted } in asked {
            match partition.begin_verification(wanted, clock::wall()) {
                Ok(Some(guard)) => {
                    is_outdated |= self.guards.get(place) != Some(&guard);
                    self.guards.insert(*place, guard);
                }
                Ok(None) => drop(self.guards.remove(place)),
                Err(error) => drop(self.refused.insert(*place, error.into())),
            }
        }
        is_outdated
    }

    /// The guard that the append of the batch at this place brings along, if it needs one.
    ///
    /// # Errors
    /// The batch must not be appended.
    pub fn guard(&self, place: usize) -> Result<Option<&VerificationGuard>, AppendRefused> {
        match self.refused.get(&place) {
            Some(refused) => Err(refused.clone()),
            None => Ok(self.guards.get(&place)),
        }
    }
}

fn producer_of(batch: &Batch<'_>) -> (ProducerId, ProducerEpoch) {
    (batch.header.producer_id, batch.header.producer_epoch)
}

/// Batches that are none are refused with the append.
fn transactional_batches<'r>(request: &'r ProduceRequest, body: &[u8]) -> Vec<Batch<'r>> {
    let partitions =
        request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|wanted| (&topic.topic, wanted)));
    let batches = partitions.enumerate().filter_map(|(place, (topic, wanted))| {
        let records = body.get(wanted.records.clone()?)?;
        let header = BatchHeader::parse(records).ok()?;
        (header.is_transactional() && header.has_producer_id()).then_some(Batch {
            place,
            topic,
            partition: wanted.partition,
            header,
        })
    });
    batches.collect()
}
