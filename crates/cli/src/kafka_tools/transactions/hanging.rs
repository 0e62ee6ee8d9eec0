//! Transactions that hang: open in a partition, and unknown to every coordinator.

use std::collections::{BTreeMap, BTreeSet};

use ottla_client::{ActiveProducer, TransactionFilter};
use ottla_model::{BrokerId, PartitionId, ProducerId, TopicName, TopicPartition};

use super::super::now_ms;
use super::{failed, is_unknown_id, table};
use crate::kafka::Kafka;

/// How many topics, and partitions of a topic, one request names at most.
const BATCH: usize = 500;

/// Where to look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Search {
    /// None: all topics.
    pub topic: Option<TopicName>,
    /// None: all partitions.
    pub partition: Option<PartitionId>,
    /// The replicas on this broker; none: the leaders.
    pub broker: Option<BrokerId>,
    /// Younger transactions may still be ended by their coordinator.
    pub longer_than_ms: i64,
}

struct Open {
    at: TopicPartition,
    producer: ActiveProducer,
}

pub(super) async fn find(search: &Search, kafka: &Kafka) -> Result<(), String> {
    let now = now_ms();
    let open = long_open(search, now, kafka).await?;
    let known = match open.is_empty() {
        true => BTreeMap::new(),
        false => coordinated(&open, kafka).await?,
    };
    let rows = open.iter().filter(|open| is_hanging(open, &known)).map(|Open { at, producer }| {
        [
            at.topic.to_string(),
            at.partition.0.to_string(),
            producer.producer_id.0.to_string(),
            producer.producer_epoch.to_string(),
            producer.coordinator_epoch.unwrap_or(-1).to_string(),
            producer.current_transaction_start.map_or(-1, |offset| offset.0).to_string(),
            producer.last_timestamp.0.to_string(),
            ((now - producer.last_timestamp.0) / 60_000).to_string(),
        ]
    });
    let headers = [
        "Topic",
        "Partition",
        "ProducerId",
        "ProducerEpoch",
        "CoordinatorEpoch",
        "StartOffset",
        "LastTimestamp",
        "Duration(min)",
    ];
    table(headers, rows.collect());
    Ok(())
}

/// The transactions that have been open for longer than any should.
async fn long_open(search: &Search, now: i64, kafka: &Kafka) -> Result<Vec<Open>, String> {
    let mut open = Vec::new();
    for (topic, partitions) in searched(search, kafka).await? {
        for some in partitions.chunks(BATCH) {
            let what = || match search.broker {
                Some(broker) => {
                    format!("Failed to describe producers for {} partitions on broker {}", some.len(), broker.0)
                }
                None => format!("Failed to describe producers for {} partitions", some.len()),
            };
            let producers = kafka.client().describe_producers(topic.as_str(), some, search.broker).await;
            for (partition, producers) in producers.map_err(failed(what()))? {
                let at = TopicPartition::new(topic.clone(), partition);
                let long = producers.into_iter().filter(|producer| {
                    producer.current_transaction_start.is_some()
                        && now - producer.last_timestamp.0 > search.longer_than_ms
                });
                open.extend(long.map(|producer| Open { at: at.clone(), producer }));
            }
        }
    }
    Ok(open)
}

/// The partitions to look into, by topic.
async fn searched(search: &Search, kafka: &Kafka) -> Result<BTreeMap<TopicName, Vec<PartitionId>>, String> {
    let topics = match (&search.topic, search.partition) {
        (Some(topic), Some(partition)) => return Ok(BTreeMap::from([(topic.clone(), vec![partition])])),
        (Some(topic), None) => vec![topic.as_str().to_owned()],
        (None, _) => {
            let topics = kafka.client().list_topics().await.map_err(failed("Failed to list topics"))?;
            topics.into_iter().map(|topic| topic.name).collect()
        }
    };
    let mut partitions = BTreeMap::new();
    for some in topics.chunks(BATCH) {
        let names: Vec<&str> = some.iter().map(String::as_str).collect();
        let what = format!("Failed to describe {} topics", names.len());
        for topic in kafka.client().describe_topics(Some(&names)).await.map_err(failed(&what))? {
            if !topic.error.is_ok() {
                return Err(failed(&what)(ottla_client::ClientError::refused(topic.error)));
            }
            let name = TopicName::new(&topic.name).map_err(|error| error.to_string())?;
            let here = topic.partitions.into_iter();
            let here = here.filter(|found| search.broker.is_none_or(|broker| found.replicas.contains(&broker)));
            partitions.insert(name, here.map(|found| found.partition).collect());
        }
    }
    Ok(partitions)
}

/// The partitions that the coordinator of each producer will still end.
async fn coordinated(open: &[Open], kafka: &Kafka) -> Result<BTreeMap<ProducerId, BTreeSet<TopicPartition>>, String> {
    let ids: BTreeSet<ProducerId> = open.iter().map(|open| open.producer.producer_id).collect();
    let filter = TransactionFilter { producer_ids: ids.iter().copied().collect(), ..TransactionFilter::default() };
    let what = format!("Failed to list transactions for {} producers", ids.len());
    let listed = kafka.client().list_transactions(&filter).await.map_err(failed(what))?;
    let mut known = BTreeMap::new();
    for transaction in listed.into_values().flatten().filter(|listed| ids.contains(&listed.producer_id)) {
        match kafka.client().describe_transaction(&transaction.transactional_id).await {
            Ok(found) => {
                known.insert(transaction.producer_id, found.partitions.into_iter().collect());
            }
            Err(error) if is_unknown_id(&error) => {}
            Err(error) => return Err(failed("Failed to describe transactions")(error)),
        }
    }
    Ok(known)
}

fn is_hanging(open: &Open, known: &BTreeMap<ProducerId, BTreeSet<TopicPartition>>) -> bool {
    known.get(&open.producer.producer_id).is_none_or(|partitions| !partitions.contains(&open.at))
}
