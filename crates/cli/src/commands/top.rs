//! `ottla top`: which topics are written and read, and which clients read and write, right now.
//!
//! The rates are differences of what any broker of Kafka tells: the ends of logs, the sizes of the leaders' logs, the
//! committed offsets of groups and the client ids of their members, the last sequence numbers of producers. A producer
//! that is not idempotent has none: it is seen in the rate of its topic alone.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use futures::StreamExt as _;
use ottla_client::{Client, TransactionFilter};
use ottla_model::{BrokerId, ErrorCode, Offset, PartitionId, ProducerId, TopicName, TopicPartition};
use serde_json::Value;

use super::at::Bootstrap;
use super::rendering::{Output, Table};
use crate::kafka::Kafka;
use crate::kafka_tools::consumer_groups::LATEST;
use crate::output;

#[derive(Args)]
pub struct TopArguments {
    /// Seconds between two looks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// One table, after the first interval; so it also is where nobody watches
    #[arg(long)]
    once: bool,
    /// The most lines of each table
    #[arg(long, default_value_t = 20)]
    rows: usize,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: Bootstrap,
}

/// Requests that are under way at once.
const CONCURRENT: usize = 32;

/// How long a look waits for leaders that do not answer.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// What the cluster tells at one time.
#[derive(Default)]
struct Look {
    ends: BTreeMap<TopicPartition, i64>,
    /// The bytes of the leaders' logs.
    bytes: BTreeMap<TopicPartition, i64>,
    groups: BTreeMap<String, Group>,
    producers: BTreeMap<TopicPartition, Producers>,
    /// The transactional ids of producers that have one.
    transactional: BTreeMap<ProducerId, String>,
}

/// The producers of a partition.
type Producers = BTreeMap<ProducerId, Written>;

/// How far a producer has written to a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Written {
    epoch: i32,
    last_sequence: i32,
}

impl Written {
    /// The records since then.
    fn since(self, before: Option<Self>) -> i64 {
        /// Sequence numbers go around at the end of the non-negative ones.
        const SEQUENCES: i64 = 1 << 31;
        let last = i64::from(self.last_sequence);
        match before {
            Some(before) if before.epoch == self.epoch => {
                (last - i64::from(before.last_sequence)).rem_euclid(SEQUENCES)
            }
            // An epoch begins with 0.
            _ => last + 1,
        }
    }
}

#[derive(Default)]
struct Group {
    committed: BTreeMap<TopicPartition, i64>,
    /// The client id of the member that reads the partition.
    readers: BTreeMap<TopicPartition, String>,
}

pub async fn run(arguments: TopArguments) -> Result<()> {
    let kafka = Kafka::connect(&arguments.at.addresses().await?).await?;
    let is_watched = std::io::stdout().is_terminal() && !arguments.once;
    let hasty = kafka.with_patience(LOOK_PATIENCE);
    let hasty = hasty.client();
    let mut before = look(&kafka, hasty).await?;
    let mut looked = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(arguments.interval)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        let after = look(&kafka, hasty).await?;
        let passed = looked.elapsed();
        looked = Instant::now();
        let rates = Rates::between(&before, &after, passed);
        let rows = arguments.rows;
        let tables =
            [("topics", rates.topics(rows)), ("clients", rates.clients(rows)), ("producers", rates.producers(rows))];
        if is_watched {
            output::bytes(b"\x1b[2J\x1b[H");
        }
        let lines = || {
            let is_terminal = std::io::stdout().is_terminal();
            let tables: Vec<Vec<String>> = tables.iter().map(|(_, table)| table.lines(is_terminal)).collect();
            tables.join(&String::new())
        };
        let value = tables.iter().map(|(name, table)| ((*name).to_owned(), table.to_json())).collect();
        arguments.output.value(&Value::Object(value), lines);
        if !is_watched {
            return Ok(());
        }
        before = after;
    }
}

/// `hasty` does not wait long for leaders.
async fn look(kafka: &Kafka, hasty: &Client) -> Result<Look> {
    let client = kafka.client();
    let view = hasty.metadata(None).await?;
    let mut leaders: BTreeMap<TopicPartition, BrokerId> = BTreeMap::new();
    for topic in view.topics.values() {
        let Ok(name) = TopicName::new(&topic.name) else { continue };
        let led = topic.partitions.values().filter(|partition| partition.leader != BrokerId::NONE);
        leaders.extend(led.map(|led| (TopicPartition::new(name.clone(), led.partition), led.leader)));
    }
    let asked: Vec<TopicPartition> = leaders.keys().cloned().collect();
    // A topic may be deleted, a leader may be gone: it is left out until the next look.
    let ends = hasty.list_offsets_of(&asked, LATEST).await;
    let ends = ends.into_iter().filter_map(|(at, end)| Some((at, end.ok()?.offset.0))).collect();
    let mut bytes = BTreeMap::new();
    for broker in view.brokers.keys() {
        let Ok(dirs) = client.describe_log_dirs(*broker).await else { continue };
        let replicas = dirs.into_iter().flat_map(|dir| dir.replicas).filter(|replica| !replica.is_future);
        let led = replicas.filter(|replica| leaders.get(&replica.at) == Some(broker));
        bytes.extend(led.map(|replica| (replica.at, replica.size_bytes)));
    }
    let listed = client.list_groups(&[], &[]).await?;
    let groups = futures::stream::iter(listed)
        .map(|listed| async move {
            let group = group(kafka, &listed.group).await;
            (listed.group, group)
        })
        .buffer_unordered(CONCURRENT)
        .filter_map(|(name, group)| async move { Some((name, group?)) })
        .collect()
        .await;
    let producers = producers(kafka, leaders.keys()).await;
    // Who may not see transactions sees the ids of their producers.
    let transactions = client.list_transactions(&TransactionFilter::default()).await.unwrap_or_default();
    let transactional =
        transactions.into_values().flatten().map(|one| (one.producer_id, one.transactional_id)).collect();
    Ok(Look { ends, bytes, groups, producers, transactional })
}

/// The producers of these partitions. A topic whose producers are not told is left out.
async fn producers(
    kafka: &Kafka,
    partitions: impl Iterator<Item = &TopicPartition>,
) -> BTreeMap<TopicPartition, Producers> {
    let mut by_topic: BTreeMap<&TopicName, Vec<PartitionId>> = BTreeMap::new();
    for at in partitions {
        by_topic.entry(&at.topic).or_default().push(at.partition);
    }
    let told = futures::stream::iter(by_topic).map(|(topic, partitions)| async move {
        let told = kafka.client().describe_producers(topic.as_str(), &partitions, None).await.unwrap_or_default();
        let of_partition = told.into_iter().map(|(partition, active)| {
            let written = active.into_iter().map(|producer| {
                let (epoch, last_sequence) = (producer.producer_epoch, producer.last_sequence);
                (producer.producer_id, Written { epoch, last_sequence })
            });
            (TopicPartition::new(topic.clone(), partition), written.collect())
        });
        of_partition.collect::<Vec<_>>()
    });
    let told: Vec<Vec<(TopicPartition, Producers)>> = told.buffer_unordered(CONCURRENT).collect().await;
    told.into_iter().flatten().collect()
}

/// None: it has gone, or has no offsets.
async fn group(kafka: &Kafka, name: &str) -> Option<Group> {
    let committed = kafka.client().committed_offsets(name, None, false).await.ok()?;
    let committed = committed.into_iter().map(|(at, committed)| (at, committed.offset));
    let committed = committed.filter(|(_, offset)| *offset != Offset::UNKNOWN).map(|(at, offset)| (at, offset.0));
    let mut readers = BTreeMap::new();
    match kafka.client().describe_group(name).await {
        Ok(described) => {
            for member in described.members {
                readers.extend(member.assignment.into_iter().map(|at| (at, member.client_id.clone())));
            }
        }
        Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => return None,
        Err(_) => {}
    }
    Some(Group { committed: committed.collect(), readers })
}

/// What happens to a topic, in a second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct TopicRate {
    records_in: f64,
    bytes_in: f64,
    /// By all groups together.
    records_read: f64,
}

/// What a client of a group does with a topic.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct ClientRate {
    records_read: f64,
    lag: i64,
}

struct Rates {
    topics: BTreeMap<TopicName, TopicRate>,
    /// By client id (empty: nobody reads the partition now), group and topic.
    clients: BTreeMap<(String, String, TopicName), ClientRate>,
    /// Records written in a second, by producer and topic, with the transactional id.
    producers: BTreeMap<(ProducerId, TopicName), (Option<String>, f64)>,
}

impl Rates {
    fn between(before: &Look, after: &Look, passed: Duration) -> Self {
        let seconds = passed.as_secs_f64().max(f64::MIN_POSITIVE);
        // A log that was truncated or cut at its beginning, and offsets that were reset, are no traffic.
        let rate = |before: Option<&i64>, after: i64| {
            before.map_or(0.0, |before| after.saturating_sub(*before).max(0) as f64 / seconds)
        };
        let mut topics: BTreeMap<TopicName, TopicRate> = BTreeMap::new();
        for (at, end) in &after.ends {
            topics.entry(at.topic.clone()).or_default().records_in += rate(before.ends.get(at), *end);
        }
        for (at, bytes) in &after.bytes {
            topics.entry(at.topic.clone()).or_default().bytes_in += rate(before.bytes.get(at), *bytes);
        }
        let mut clients: BTreeMap<(String, String, TopicName), ClientRate> = BTreeMap::new();
        for (name, group) in &after.groups {
            let earlier = before.groups.get(name);
            for (at, committed) in &group.committed {
                let read = rate(earlier.and_then(|earlier| earlier.committed.get(at)), *committed);
                topics.entry(at.topic.clone()).or_default().records_read += read;
                let reader = group.readers.get(at).cloned().unwrap_or_default();
                let client = clients.entry((reader, name.clone(), at.topic.clone())).or_default();
                client.records_read += read;
                client.lag += after.ends.get(at).map_or(0, |end| (end - committed).max(0));
            }
        }
        let mut producers: BTreeMap<(ProducerId, TopicName), (Option<String>, f64)> = BTreeMap::new();
        for (at, active) in &after.producers {
            // How much they wrote before is not known of a partition that was not seen.
            let Some(earlier) = before.producers.get(at) else { continue };
            for (id, written) in active {
                let records = written.since(earlier.get(id).copied());
                let name = || (after.transactional.get(id).cloned(), 0.0);
                let (_, rate) = producers.entry((*id, at.topic.clone())).or_insert_with(name);
                *rate += records as f64 / seconds;
            }
        }
        producers.retain(|_, (_, rate)| *rate > 0.0);
        Self { topics, clients, producers }
    }

    /// The busiest first.
    fn topics(&self, rows: usize) -> Table {
        let mut sorted: Vec<_> = self.topics.iter().collect();
        let busy = |rate: &TopicRate| rate.records_in + rate.records_read;
        sorted.sort_by(|(_, a), (_, b)| busy(b).total_cmp(&busy(a)));
        let mut table = Table::new(&["topic", "records_in_s", "bytes_in_s", "records_read_s"]);
        for (topic, rate) in sorted.into_iter().take(rows) {
            let [records, bytes, read] = [rate.records_in, rate.bytes_in, rate.records_read].map(whole);
            table.push([topic.as_str().into(), records, bytes, read]);
        }
        table
    }

    fn clients(&self, rows: usize) -> Table {
        let mut sorted: Vec<_> = self.clients.iter().collect();
        sorted.sort_by(|(_, a), (_, b)| b.records_read.total_cmp(&a.records_read).then(b.lag.cmp(&a.lag)));
        let mut table = Table::new(&["client", "group", "topic", "records_read_s", "lag"]);
        for ((client, group, topic), rate) in sorted.into_iter().take(rows) {
            let (client, group) = (client.as_str().into(), group.as_str().into());
            table.push([client, group, topic.as_str().into(), whole(rate.records_read), rate.lag.into()]);
        }
        table
    }

    /// Those that write, the busiest first.
    fn producers(&self, rows: usize) -> Table {
        let mut sorted: Vec<_> = self.producers.iter().collect();
        sorted.sort_by(|(_, (_, a)), (_, (_, b))| b.total_cmp(a));
        let mut table = Table::new(&["producer", "transactional_id", "topic", "records_in_s"]);
        for ((id, topic), (transactional, rate)) in sorted.into_iter().take(rows) {
            table.push([id.0.into(), transactional.clone().into(), topic.as_str().into(), whole(*rate)]);
        }
        table
    }
}

/// Rates below ten keep a digit.
fn whole(rate: f64) -> Value {
    if rate < 10.0 { ((rate * 10.0).round() / 10.0).into() } else { (rate.round() as i64).into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_partitions::at;

    fn a_look(ends: &[(&str, i32, i64)], bytes: i64, committed: i64) -> Look {
        let group = Group {
            committed: [(at("a", 0), committed), (at("a", 1), 5)].into(),
            readers: [(at("a", 0), "app-1".to_owned())].into(),
        };
        Look {
            ends: ends.iter().map(|(topic, partition, end)| (at(topic, *partition), *end)).collect(),
            bytes: [(at("a", 0), bytes)].into(),
            groups: [("g".to_owned(), group)].into(),
            ..Look::default()
        }
    }

    #[test]
    fn producers_are_seen_by_their_sequence_numbers() {
        let look = |producers: &[(i64, i32, i32)]| {
            let written = |(id, epoch, last_sequence): &(i64, i32, i32)| {
                (ProducerId(*id), Written { epoch: *epoch, last_sequence: *last_sequence })
            };
            Look {
                producers: [(at("a", 0), producers.iter().map(written).collect())].into(),
                transactional: [(ProducerId(2), "tx".to_owned())].into(),
                ..Look::default()
            }
        };
        let before = look(&[(1, 0, i32::MAX - 1), (2, 0, 70), (3, 0, 5)]);
        let after = look(&[(1, 0, 9), (2, 1, 3), (3, 0, 5), (4, 0, 199)]);
        assert_eq!(
            Rates::between(&before, &after, Duration::from_secs(1)).producers(10).lines(false),
            [
                "PRODUCER  TRANSACTIONAL ID  TOPIC  RECORDS IN S",
                "4         -                 a      200",
                "1         -                 a      11",
                "2         tx                a      4.0",
            ]
        );
        assert!(Rates::between(&Look::default(), &after, Duration::from_secs(1)).producers.is_empty());
    }

    #[test]
    fn rates_are_differences_in_a_second() {
        let before = a_look(&[("a", 0, 100), ("a", 1, 10), ("b", 0, 7)], 1_000, 50);
        let after = a_look(&[("a", 0, 300), ("a", 1, 10), ("b", 0, 3), ("new", 0, 9)], 3_000, 90);
        let rates = Rates::between(&before, &after, Duration::from_secs(2));
        assert_eq!(
            rates.topics(10).lines(false),
            [
                "TOPIC  RECORDS IN S  BYTES IN S  RECORDS READ S",
                "a      100           1000        20",
                "b      0.0           0.0         0.0",
                "new    0.0           0.0         0.0",
            ]
        );
        assert_eq!(
            rates.clients(10).lines(false),
            [
                "CLIENT  GROUP  TOPIC  RECORDS READ S  LAG",
                "app-1   g      a      20              210",
                "-       g      a      0.0             5",
            ]
        );
        assert_eq!(rates.topics(1).lines(false).len(), 2);
    }
}
