//! The JSON files of the tool: which partitions get which replicas, and which topics are to be moved.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{BrokerId, PartitionId, TopicName, TopicPartition};
use serde_json::Value;

use crate::kafka_tools::json::Json;

/// Any directory of the broker.
const ANY_LOG_DIR: &str = "any";

/// A replica: the partition and its broker.
pub type Replica = (BrokerId, TopicPartition);

/// What a file wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// In the file's order; it may name a partition twice.
    pub targets: Vec<(TopicPartition, Vec<BrokerId>)>,
    /// Directories of replicas, where the file names them.
    pub directories: BTreeMap<Replica, String>,
}

impl Wanted {
    pub fn parse(json: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        check_version(&json)?;
        let mut wanted = Self::default();
        for entry in json.get("partitions").and_then(Value::as_array).into_iter().flatten() {
            let missing = |field: &str| format!("No such field exists: `{field}`");
            let topic = entry.get("topic").and_then(Value::as_str).ok_or_else(|| missing("topic"))?;
            let partition = number(entry.get("partition").ok_or_else(|| missing("partition"))?)?;
            let at = TopicPartition::new(
                TopicName::new(topic).map_err(|invalid| invalid.to_string())?,
                PartitionId(partition),
            );
            let replicas = entry.get("replicas").and_then(Value::as_array).ok_or_else(|| missing("replicas"))?;
            let replicas = replicas.iter().map(|id| number(id).map(BrokerId)).collect::<Result<Vec<_>, _>>()?;
            if let Some(directories) = entry.get("log_dirs").and_then(Value::as_array) {
                if directories.len() != replicas.len() {
                    let listed = |items: Vec<String>| format!("[{}]", items.join(", "));
                    let ids = listed(replicas.iter().map(ToString::to_string).collect());
                    let names = listed(directories.iter().filter_map(Value::as_str).map(str::to_owned).collect());
                    return Err(format!(
                        "Size of replicas list {ids} is different from size of log dirs list {names} for partition {at}"
                    ));
                }
                for (broker, directory) in replicas.iter().zip(directories) {
                    let directory =
                        directory.as_str().ok_or_else(|| format!("Expected `String` value, received {directory}"))?;
                    if directory != ANY_LOG_DIR {
                        wanted.directories.insert((*broker, at.clone()), directory.to_owned());
                    }
                }
            }
            wanted.targets.push((at, replicas));
        }
        Ok(wanted)
    }

    /// The targets, each partition once; the texts are Kafka's.
    pub fn to_execute(&self) -> Result<BTreeMap<TopicPartition, Vec<BrokerId>>, String> {
        if self.targets.is_empty() {
            return Err("Partition reassignment list cannot be empty".to_owned());
        }
        if self.targets.iter().any(|(_, replicas)| replicas.is_empty()) {
            return Err("Partition replica list cannot be empty".to_owned());
        }
        let twice = duplicates(self.targets.iter().map(|(at, _)| at));
        if !twice.is_empty() {
            return Err(format!("Partition reassignment contains duplicate topic partitions: {}", joined(&twice)));
        }
        let entries: Vec<String> = self
            .targets
            .iter()
            .map(|(at, replicas)| (at, duplicates(replicas)))
            .filter(|(_, twice)| !twice.is_empty())
            .map(|(at, twice)| format!("{at} contains multiple entries for {}", joined(&twice)))
            .collect();
        if !entries.is_empty() {
            return Err(format!("Partition replica lists may not contain duplicate entries: {}", entries.join(". ")));
        }
        Ok(self.targets.iter().cloned().collect())
    }

    pub fn topics(&self) -> BTreeSet<TopicName> {
        self.targets.iter().map(|(at, _)| at.topic.clone()).collect()
    }
}

/// The topics of `--topics-to-move-json-file`.
pub fn topics_to_move(json: &str) -> Result<Vec<String>, String> {
    let json: Value = serde_json::from_str(json).map_err(|_| "The input string is not a valid JSON".to_owned())?;
    check_version(&json)?;
    let listed = json.get("topics").and_then(Value::as_array).into_iter().flatten();
    let name = |entry: &Value| entry.get("topic").and_then(Value::as_str).map(str::to_owned);
    let topics: Option<Vec<_>> = listed.map(name).collect();
    let topics = topics.ok_or("No such field exists: `topic`")?;
    let twice = duplicates(&topics);
    if !twice.is_empty() {
        return Err(format!("List of topics to reassign contains duplicate entries: [{}]", twice.join(", ")));
    }
    Ok(topics)
}

/// `--broker-list`.
pub fn brokers(text: &str) -> Result<Vec<BrokerId>, String> {
    let id = |text: &str| text.parse().map(BrokerId).map_err(|_| format!("For input string: \"{text}\""));
    let brokers: Vec<_> = text.split(',').map(id).collect::<Result<_, _>>()?;
    let twice = duplicates(&brokers);
    if !twice.is_empty() {
        let twice: Vec<_> = twice.iter().map(ToString::to_string).collect();
        return Err(format!("Broker list contains duplicate entries: [{}]", twice.join(", ")));
    }
    Ok(brokers)
}

/// An assignment as a file that `--execute` takes, with the directories of its replicas where they are known.
pub fn to_json(
    assignment: &BTreeMap<TopicPartition, Vec<BrokerId>>,
    directories: &BTreeMap<Replica, String>,
) -> String {
    let entry = |(at, replicas): (&TopicPartition, &Vec<BrokerId>)| {
        let directory = |broker: &BrokerId| directories.get(&(*broker, at.clone())).map_or(ANY_LOG_DIR, String::as_str);
        Json::Object(vec![
            ("topic", at.topic.as_str().into()),
            ("partition", at.partition.0.into()),
            ("replicas", replicas.iter().map(|broker| broker.0).collect()),
            ("log_dirs", replicas.iter().map(directory).collect()),
        ])
    };
    let entries: Json = assignment.iter().map(entry).collect();
    Json::Object(vec![("version", 1.into()), ("partitions", entries)]).to_string()
}

pub fn joined(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn check_version(json: &Value) -> Result<(), String> {
    match json.get("version").map_or(Ok(1), number)? {
        1 => Ok(()),
        other => Err(format!("Not supported version field value {other}")),
    }
}

fn number(value: &Value) -> Result<i32, String> {
    let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
    number.ok_or_else(|| format!("Expected `Int` value, received {value}"))
}

/// Those that come more than once, each once.
fn duplicates<'a, T: Ord + Clone + 'a>(items: impl IntoIterator<Item = &'a T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<T> = items.into_iter().filter(|item| !seen.insert(*item)).cloned().collect();
    twice.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_partitions::at;

    fn parse(entries: &str) -> Result<Wanted, String> {
        Wanted::parse(&format!(r#"{{"version":1,"partitions":[{entries}]}}"#))
    }

    #[test]
    fn files_are_read_as_kafkas_tool_does() {
        let wanted =
            parse(r#"{"topic":"t","partition":1,"replicas":[3,1],"log_dirs":["any","/data/a"]}"#).expect("reads");
        assert_eq!(wanted.targets, [(at("t", 1), vec![BrokerId(3), BrokerId(1)])]);
        assert_eq!(wanted.directories, BTreeMap::from([((BrokerId(1), at("t", 1)), "/data/a".to_owned())]));
        let sizes = parse(r#"{"topic":"t","partition":1,"replicas":[3,1],"log_dirs":["any"]}"#);
        let text = "Size of replicas list [3, 1] is different from size of log dirs list [any] for partition t-1";
        assert_eq!(sizes, Err(text.to_owned()));
        assert_eq!(Wanted::parse(r#"{"version":2}"#), Err("Not supported version field value 2".to_owned()));
        assert!(parse(r#"{"topic":"t","replicas":[3]}"#).is_err_and(|text| text.contains("partition")));
    }

    #[test]
    fn targets_are_checked_before_anything_is_asked() {
        let refused = |entries: &str| parse(entries).expect("reads").to_execute().expect_err("refused");
        assert_eq!(refused(""), "Partition reassignment list cannot be empty");
        assert_eq!(refused(r#"{"topic":"t","partition":1,"replicas":[]}"#), "Partition replica list cannot be empty");
        let entry = r#"{"topic":"t","partition":1,"replicas":[1]}"#;
        let text = "Partition reassignment contains duplicate topic partitions: t-1";
        assert_eq!(refused(&format!("{entry},{entry}")), text);
        let text = "Partition replica lists may not contain duplicate entries: t-1 contains multiple entries for 2";
        assert_eq!(refused(r#"{"topic":"t","partition":1,"replicas":[2,1,2]}"#), text);
    }

    #[test]
    fn assignments_are_shown_as_files() {
        let assignment =
            BTreeMap::from([(at("t", 0), vec![BrokerId(1), BrokerId(2)]), (at("a", 1), vec![BrokerId(3)])]);
        let directories = BTreeMap::from([((BrokerId(2), at("t", 0)), "/data/b".to_owned())]);
        let json = r#"{"version":1,"partitions":[{"topic":"a","partition":1,"replicas":[3],"log_dirs":["any"]},{"topic":"t","partition":0,"replicas":[1,2],"log_dirs":["any","/data/b"]}]}"#;
        assert_eq!(to_json(&assignment, &directories), json);
        let read = Wanted::parse(json).expect("reads");
        assert_eq!((read.to_execute(), read.directories), (Ok(assignment), directories));
    }

    #[test]
    fn brokers_and_topics_to_move_are_named_once() {
        assert_eq!(brokers("1,2"), Ok(vec![BrokerId(1), BrokerId(2)]));
        assert_eq!(brokers("1,2,1"), Err("Broker list contains duplicate entries: [1]".to_owned()));
        assert_eq!(brokers("1,x"), Err("For input string: \"x\"".to_owned()));
        let topics = |json| topics_to_move(json);
        assert_eq!(topics(r#"{"topics":[{"topic":"a"},{"topic":"b"}],"version":1}"#), Ok(vec!["a".into(), "b".into()]));
        let text = "List of topics to reassign contains duplicate entries: [a]";
        assert_eq!(topics(r#"{"topics":[{"topic":"a"},{"topic":"a"}]}"#), Err(text.to_owned()));
        assert_eq!(topics("x"), Err("The input string is not a valid JSON".to_owned()));
    }
}
