//! Transactions as administrators see them: the producers of a partition, the transactional ids of the coordinators,
//! and the abortion of a transaction that nobody ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeTransactionsRequest, ListTransactionsRequest, ProducerId as WireProducerId,
    TransactionalId,
};
use ottla_model::{BrokerId, ErrorCode, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicPartition};
use ottla_protocol::Api;
use ottla_protocol::messages::write_txn_markers::{self, TxnMarker};

use crate::cluster::{Client, Link};
use crate::convert::{checked, error_of, partition, text, topic_name};
use crate::coordinator::CoordinatorKey;
use crate::error::ClientError;

/// The time-out with which an administrator takes over a transactional id: it has no transaction of its own.
const FENCING_TIMEOUT: Duration = Duration::from_millis(1);
/// From here on ListTransactions filters by duration.
const DURATION_FILTER_FROM: i16 = 1;
/// From here on ListTransactions filters by a pattern.
const PATTERN_FILTER_FROM: i16 = 2;

/// A producer that a partition remembers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActiveProducer {
    pub producer_id: ProducerId,
    pub producer_epoch: i32,
    pub last_sequence: i32,
    pub last_timestamp: TimestampMs,
    /// None before its first marker.
    pub coordinator_epoch: Option<i32>,
    /// None outside a transaction.
    pub current_transaction_start: Option<Offset>,
}

/// What a coordinator says of a transactional id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionDescription {
    pub coordinator: BrokerId,
    /// Kafka's name of it: `Ongoing`, `CompleteCommit`.
    pub state: String,
    pub timeout_ms: i32,
    /// None where no transaction is open.
    pub start: Option<TimestampMs>,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    /// The partitions that the coordinator has not ended yet.
    pub partitions: Vec<TopicPartition>,
}

/// A transactional id in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedTransaction {
    pub transactional_id: String,
    pub producer_id: ProducerId,
    pub state: String,
}

/// Which transactional ids a list has; by default all.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct TransactionFilter {
    /// Empty: of every producer id.
    pub producer_ids: Vec<ProducerId>,
    /// Only transactions that have been open for longer.
    pub longer_than_ms: Option<i64>,
    /// A regular expression that the whole id matches.
    pub pattern: Option<String>,
}

/// One producer's transaction in one partition, as its end must name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenTransaction {
    pub at: TopicPartition,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub coordinator_epoch: i32,
}

impl Client {
    /// The producers that partitions of a topic remember, as `broker` has them, or each partition's leader.
    pub async fn describe_producers(
        &self,
        topic: &str,
        partitions: &[PartitionId],
        broker: Option<BrokerId>,
    ) -> Result<BTreeMap<PartitionId, Vec<ActiveProducer>>, ClientError> {
        self.retry(Some(topic), |_| true, || self.describe_producers_once(topic, partitions, broker)).await
    }

    async fn describe_producers_once(
        &self,
        topic: &str,
        partitions: &[PartitionId],
        broker: Option<BrokerId>,
    ) -> Result<BTreeMap<PartitionId, Vec<ActiveProducer>>, ClientError> {
        let mut by_broker: BTreeMap<BrokerId, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            let leader = self.leader(topic, *partition).await?;
            by_broker.entry(broker.unwrap_or(leader)).or_default().push(partition.0);
        }
        let mut producers = BTreeMap::new();
        for (broker, partitions) in by_broker {
            let asked = TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(partitions);
            let request = DescribeProducersRequest::default().with_topics(vec![asked]);
            let response = self.link_to(broker).await?.call(&request).await?;
            for found in response.topics.into_iter().flat_map(|topic| topic.partitions) {
                match error_of(found.error_code) {
                    ErrorCode::None => {}
                    code => {
                        let message = found.error_message.map(|message| message.to_string());
                        return Err(ClientError::Refused { code, message });
                    }
                }
                let active = found.active_producers.into_iter().map(|producer| ActiveProducer {
                    producer_id: ProducerId(producer.producer_id.0),
                    producer_epoch: producer.producer_epoch,
                    last_sequence: producer.last_sequence,
                    last_timestamp: TimestampMs(producer.last_timestamp),
                    coordinator_epoch: Some(producer.coordinator_epoch).filter(|epoch| *epoch >= 0),
                    current_transaction_start: Some(Offset(producer.current_txn_start_offset))
                        .filter(|offset| offset.0 >= 0),
                });
                producers.insert(PartitionId(found.partition_index), active.collect());
            }
        }
        if partitions.iter().all(|partition| producers.contains_key(partition)) {
            Ok(producers)
        } else {
            Err(ClientError::Incomplete(Api::DescribeProducers))
        }
    }

    /// The transactional ids of each coordinator.
    pub async fn list_transactions(
        &self,
        filter: &TransactionFilter,
    ) -> Result<BTreeMap<BrokerId, Vec<ListedTransaction>>, ClientError> {
        let request = ListTransactionsRequest::default()
            .with_producer_id_filters(filter.producer_ids.iter().map(|id| WireProducerId(id.0)).collect())
            .with_duration_filter(filter.longer_than_ms.unwrap_or(-1))
            .with_transactional_id_pattern(filter.pattern.as_deref().map(text));
        let needed = match filter {
            TransactionFilter { pattern: Some(_), .. } => PATTERN_FILTER_FROM,
            TransactionFilter { longer_than_ms: Some(_), .. } => DURATION_FILTER_FROM,
            _ => 0,
        };
        let view = self.retry(None, |_| true, || self.metadata(Some(&[]))).await?;
        let mut listed = BTreeMap::new();
        for broker in view.brokers.keys() {
            let attempt = || async {
                let link = self.link_to(*broker).await?;
                if link.version(Api::ListTransactions)? < needed {
                    return Err(ClientError::refused(ErrorCode::UnsupportedVersion));
                }
                let response = link.call(&request).await?;
                checked(response.error_code)?;
                Ok(response.transaction_states)
            };
            let states = self.retry(None, |_| true, attempt).await?.into_iter().map(|state| ListedTransaction {
                transactional_id: state.transactional_id.0.to_string(),
                producer_id: ProducerId(state.producer_id.0),
                state: state.transaction_state.to_string(),
            });
            listed.insert(*broker, states.collect());
        }
        Ok(listed)
    }

    /// What the coordinator knows of a transactional id.
    pub async fn describe_transaction(&self, id: &str) -> Result<TransactionDescription, ClientError> {
        let key = &CoordinatorKey::TransactionalId(id.to_owned());
        let request = &DescribeTransactionsRequest::default().with_transactional_ids(vec![TransactionalId(text(id))]);
        let attempt = |link: Arc<Link>| async move {
            let coordinator = self.coordinator(key).await?.id;
            let response = link.call(request).await?;
            let state = response.transaction_states.into_iter().next();
            let state = state.ok_or(ClientError::Incomplete(Api::DescribeTransactions))?;
            checked(state.error_code)?;
            let partitions = state.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|index| partition(Api::DescribeTransactions, &topic.topic.0, *index))
            });
            Ok(TransactionDescription {
                coordinator,
                state: state.transaction_state.to_string(),
                timeout_ms: state.transaction_timeout_ms,
                start: Some(TimestampMs(state.transaction_start_time_ms)).filter(|start| start.0 >= 0),
                producer_id: ProducerId(state.producer_id.0),
                producer_epoch: ProducerEpoch(state.producer_epoch),
                partitions: partitions.collect::<Result<_, _>>()?,
            })
        };
        self.at_coordinator(key, |_| true, attempt).await
    }

    /// Ends a transaction in one partition with an abort marker, past its coordinator: for a transaction that no
    /// coordinator knows any more.
    pub async fn abort_transaction(&self, transaction: &OpenTransaction) -> Result<(), ClientError> {
        let topic = transaction.at.topic.as_str();
        let marker = TxnMarker {
            producer_id: transaction.producer_id,
            producer_epoch: transaction.producer_epoch,
            is_commit: false,
            topics: vec![(topic.to_owned(), vec![transaction.at.partition])],
            coordinator_epoch: transaction.coordinator_epoch,
            transaction_version: 0,
        };
        let markers = &[marker];
        let attempt = || async {
            let link = self.link_to(self.leader(topic, transaction.at.partition).await?).await?;
            let version = link.version(Api::WriteTxnMarkers)?;
            let encode = |id| Ok(write_txn_markers::encode_request(version, id, None, markers)?);
            let response = link.connection.send(encode).await?;
            let results = write_txn_markers::parse_response(version, &response)?;
            let mut outcomes = results.into_iter().flat_map(|result| result.topics).flat_map(|(_, each)| each);
            match outcomes.next() {
                Some((_, ErrorCode::None)) => Ok(()),
                Some((_, code)) => Err(ClientError::refused(code)),
                None => Err(ClientError::Incomplete(Api::WriteTxnMarkers)),
            }
        };
        // A second marker for a transaction that has ended changes nothing that a reader sees.
        self.retry(Some(topic), |_| true, attempt).await
    }

    /// Aborts the open transaction of a transactional id and fences its producer.
    pub async fn fence_producer(&self, transactional_id: &str) -> Result<(), ClientError> {
        self.init_producer_id(Some(transactional_id), FENCING_TIMEOUT).await.map(|_| ())
    }
}
