//! Throttles of replication while replicas move: which replicas of which topics, on which brokers.

use std::collections::{BTreeMap, BTreeSet};

use ottla_client::{Client, ClientError, ConfigChange, ConfigEntry, ConfigResource, Reassignment};
use ottla_model::{BrokerId, TopicPartition};

/// Bytes per second that a broker sends, and that it fetches.
const BROKER_RATES: [&str; 2] = ["leader.replication.throttled.rate", "follower.replication.throttled.rate"];
const TOPIC_REPLICAS: [&str; 2] = ["leader.replication.throttled.replicas", "follower.replication.throttled.replicas"];
/// Bytes per second that a broker moves between its log directories.
pub const LOG_DIR_RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";

/// The brokers that a partition is copied from, and those that it is copied to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Copies {
    sources: BTreeSet<BrokerId>,
    destinations: BTreeSet<BrokerId>,
}

type Moves = BTreeMap<TopicPartition, Copies>;

/// What is copied with these targets, beside what is under way.
fn moves(
    under_way: &[Reassignment],
    targets: &BTreeMap<TopicPartition, Vec<BrokerId>>,
    current: &BTreeMap<TopicPartition, Vec<BrokerId>>,
) -> Moves {
    let mut moves = Moves::new();
    for one in under_way {
        let destinations: BTreeSet<BrokerId> = one.adding.iter().copied().collect();
        let sources = one.replicas.iter().copied().filter(|replica| !destinations.contains(replica)).collect();
        moves.insert(one.at.clone(), Copies { sources, destinations });
    }
    for (at, target) in targets {
        let copies = moves.entry(at.clone()).or_insert_with(|| Copies {
            sources: current.get(at).into_iter().flatten().copied().collect(),
            destinations: BTreeSet::new(),
        });
        copies.destinations = target.iter().copied().filter(|broker| !copies.sources.contains(broker)).collect();
    }
    moves
}

/// The replicas that the leaders' throttle names, and those that the followers' does, of each topic.
fn throttled(moves: &Moves) -> BTreeMap<String, [String; 2]> {
    // Kafka's tool sorts the entries as texts.
    let mut topics: BTreeMap<String, [BTreeSet<String>; 2]> = BTreeMap::new();
    for (at, copies) in moves {
        let sides = topics.entry(at.topic.as_str().to_owned()).or_default();
        for (side, brokers) in sides.iter_mut().zip([&copies.sources, &copies.destinations]) {
            side.extend(brokers.iter().map(|broker| format!("{}:{broker}", at.partition.0)));
        }
    }
    let joined = |side: BTreeSet<String>| side.into_iter().collect::<Vec<_>>().join(",");
    topics.into_iter().map(|(topic, sides)| (topic, sides.map(joined))).collect()
}

/// Sets the throttles of all that will be under way, before it begins.
pub async fn set(
    client: &Client,
    under_way: &[Reassignment],
    targets: &BTreeMap<TopicPartition, Vec<BrokerId>>,
    current: &BTreeMap<TopicPartition, Vec<BrokerId>>,
    bytes_per_second: u64,
) -> Result<(), ClientError> {
    let moves = moves(under_way, targets, current);
    let set = |name: &str, value: String| ConfigChange::Set { name: name.to_owned(), value };
    for (topic, sides) in throttled(&moves) {
        let changes: Vec<_> = TOPIC_REPLICAS.iter().zip(sides).map(|(name, value)| set(name, value)).collect();
        client.alter_configs(&ConfigResource::Topic(topic), &changes).await?;
    }
    let brokers: BTreeSet<BrokerId> =
        moves.values().flat_map(|copies| copies.sources.union(&copies.destinations)).copied().collect();
    let rates = BROKER_RATES.map(|name| set(name, bytes_per_second.to_string()));
    // A broker takes its rates itself. One that is down sends and fetches nothing: the move must not wait for it.
    let described = client.describe_cluster().await?;
    let live: BTreeSet<BrokerId> = described.brokers.iter().map(|broker| broker.address.id).collect();
    for broker in brokers.intersection(&live) {
        client.alter_configs(&ConfigResource::Broker(*broker), &rates).await?;
    }
    Ok(())
}

/// Whether a broker's configuration has rates that were set while it ran.
pub fn is_throttled(entries: &[ConfigEntry]) -> bool {
    /// Kafka's `ConfigSource.DYNAMIC_BROKER_CONFIG`.
    const DYNAMIC: i8 = 2;
    entries.iter().any(|entry| entry.source == DYNAMIC && BROKER_RATES.contains(&entry.name.as_str()))
}

/// Which throttles of brokers are removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removed {
    /// Those of replication, the only ones that [`set`] sets.
    OfReplication,
    /// That between log directories, too, as Kafka's tool does.
    All,
}

impl Removed {
    fn names(self) -> impl Iterator<Item = &'static str> {
        BROKER_RATES.into_iter().chain((self == Self::All).then_some(LOG_DIR_RATE))
    }
}

/// Removes the throttles of these brokers, and those of these topics, as many as can be; then tells the first failure.
pub async fn clear(
    client: &Client,
    removed: Removed,
    brokers: &BTreeSet<BrokerId>,
    topics: impl IntoIterator<Item = &str>,
) -> Result<(), ClientError> {
    let delete = |name: &str| ConfigChange::Delete { name: name.to_owned() };
    let rates: Vec<_> = removed.names().map(delete).collect();
    let mut cleared = Ok(());
    for broker in brokers {
        cleared = cleared.and(client.alter_configs(&ConfigResource::Broker(*broker), &rates).await);
    }
    for topic in topics {
        let resource = ConfigResource::Topic(topic.to_owned());
        cleared = cleared.and(client.alter_configs(&resource, &TOPIC_REPLICAS.map(delete)).await);
    }
    cleared
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_partitions::{at, brokers};

    /// A rebalance removed the limit of moves between log directories that a person had set.
    #[test]
    fn only_kafkas_tool_removes_the_throttle_between_log_directories() {
        assert!(Removed::OfReplication.names().eq(BROKER_RATES));
        assert!(Removed::All.names().eq(BROKER_RATES.into_iter().chain([LOG_DIR_RATE])));
    }

    #[test]
    fn sources_lead_and_destinations_follow() {
        let targets = BTreeMap::from([
            (at("t", 0), brokers(&[4, 1])),
            (at("t", 10), brokers(&[2, 3])),
            (at("u", 2), brokers(&[5])),
        ]);
        let current =
            BTreeMap::from([(at("t", 0), brokers(&[1, 2])), (at("t", 10), brokers(&[2])), (at("u", 2), brokers(&[1]))]);
        let under_way = [
            Reassignment { at: at("u", 2), replicas: brokers(&[3, 1]), adding: brokers(&[3]), removing: brokers(&[1]) },
            Reassignment { at: at("v", 0), replicas: brokers(&[6, 7]), adding: brokers(&[7]), removing: Vec::new() },
        ];
        let throttled = throttled(&moves(&under_way, &targets, &current));
        let sides = |topic: &str| throttled[topic].each_ref().map(String::as_str);
        assert_eq!(sides("t"), ["0:1,0:2,10:2", "0:4,10:3"]);
        assert_eq!(sides("u"), ["2:1", "2:5"], "the new target replaces the one that is under way");
        assert_eq!(sides("v"), ["0:6", "0:7"], "what is under way goes on under the throttle");
    }
}
