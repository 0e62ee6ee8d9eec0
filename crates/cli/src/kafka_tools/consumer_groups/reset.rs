//! `--reset-offsets`: where to, by every way that Kafka's tool knows; shown, exported, and with `--execute` done.

use std::collections::BTreeMap;

use ottla_client::{CommittedOffset, Committer};
use ottla_model::{ErrorCode, Offset, PartitionId, TimestampMs, TopicName, TopicPartition};

use super::super::options::Options;
use super::super::{ToolError, log, now_ms, read_file};
use super::partitions::{EARLIEST, LATEST, Named, offsets_at};
use super::{SCENARIOS, print_error};
use crate::calendar;
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

const LOGGER: &str = "org.apache.kafka.tools.OffsetsUtils";
/// In the words of Kafka's tool; the version is one of Kafka's.
const WITHOUT_EXECUTE: &str = "WARN: No action will be performed as the --execute option is missing. In version 5.0, this command will require either --dry-run or --execute to be specified. You should add the --dry-run option explicitly if you are scripting this command and want to keep the current default behavior without prompting.";
const UNPARSABLE_TIME: &str = "java.text.ParseException";
pub const UNPARSABLE_DURATION: &str = "java.time.format.DateTimeParseException";

pub type Offsets = BTreeMap<TopicPartition, Offset>;

/// Where to.
#[derive(Clone, PartialEq, Debug)]
pub enum Scenario {
    To(i64),
    Earliest,
    Latest,
    Current,
    ShiftBy(i64),
    /// To the first record at or after a time.
    Time(TimestampMs),
    /// By group; `None` is the one that the line names.
    File(BTreeMap<Option<String>, Offsets>),
}

impl Scenario {
    pub fn of(options: &Options) -> Result<Self, ToolError> {
        let argument = |text: String| Err(ToolError::Usage(text));
        if let Some(offset) = options.number("to-offset")? {
            return Ok(Self::To(offset));
        }
        if options.has("to-earliest") {
            return Ok(Self::Earliest);
        }
        if options.has("to-latest") {
            return Ok(Self::Latest);
        }
        if options.has("to-current") {
            return Ok(Self::Current);
        }
        if let Some(by) = options.number("shift-by")? {
            return Ok(Self::ShiftBy(by));
        }
        if let Some(text) = options.get("to-datetime") {
            return match calendar::timestamp_ms(text) {
                Some(time) => Ok(Self::Time(TimestampMs(time))),
                None if !text.contains('T') => Err(ToolError::admin(
                    UNPARSABLE_TIME,
                    "Error parsing timestamp. It does not contain a 'T' according to ISO8601 format",
                )),
                None => Err(ToolError::admin(UNPARSABLE_TIME, format!("Unparseable date: \"{text}\""))),
            };
        }
        if let Some(text) = options.get("by-duration") {
            return match calendar::duration_ms(text) {
                Some(ago) => Ok(Self::Time(TimestampMs(now_ms().saturating_sub(ago)))),
                None => Err(ToolError::admin(UNPARSABLE_DURATION, "Text cannot be parsed to a Duration")),
            };
        }
        if let Some(path) = options.get("from-file") {
            return Ok(Self::File(from_csv(&read_file(path)?)?));
        }
        let scenarios = SCENARIOS.map(|name| format!("[{name}]")).join(", ");
        argument(format!("Option '[reset-offsets]' requires one of the following scenarios: [{scenarios}]"))
    }
}

/// `topic,partition,offset` or `group,topic,partition,offset`, line by line.
fn from_csv(text: &str) -> Result<BTreeMap<Option<String>, Offsets>, ToolError> {
    let mut plan: BTreeMap<Option<String>, Offsets> = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong =
            || ToolError::Usage(format!("line {}: wanted is [group,]topic,partition,offset: '{line}'", number + 1));
        let fields: Vec<&str> = line.split(',').map(|field| field.trim().trim_matches('"')).collect();
        let (group, rest) = match fields.as_slice() {
            [group, rest @ ..] if rest.len() == 3 => (Some((*group).to_owned()), rest),
            rest => (None, rest),
        };
        let [topic, partition, offset] = rest else { return Err(wrong()) };
        let topic = TopicName::new(topic).map_err(|_| wrong())?;
        let partition = PartitionId(partition.parse().map_err(|_| wrong())?);
        let offset = Offset(offset.parse().map_err(|_| wrong())?);
        plan.entry(group).or_default().insert(TopicPartition::new(topic, partition), offset);
    }
    Ok(plan)
}

pub async fn run(options: &Options) -> Result<(), ToolError> {
    if !options.has("dry-run") && !options.has("execute") {
        err!("{WITHOUT_EXECUTE}");
    }
    let scenario = Scenario::of(options)?;
    let named = options.all("topic").iter().map(|text| Named::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let is_scoped = options.has("all-topics") || !named.is_empty() || matches!(scenario, Scenario::File(_));
    if !is_scoped {
        let message = "One of the reset scopes should be defined: --all-topics, --topic.";
        return Err(ToolError::Usage(message.to_owned()));
    }
    let kafka = super::connect(options).await?;
    let mut plans = BTreeMap::new();
    for group in super::groups(&kafka, options).await? {
        if !is_inactive(&kafka, &group).await? {
            plans.insert(group, Offsets::new());
            continue;
        }
        let partitions = if options.has("all-topics") {
            kafka.client().committed_offsets(&group, None, false).await.map_err(KafkaError::from)?.into_keys().collect()
        } else {
            let mut partitions = Vec::new();
            for topic in &named {
                partitions.extend(topic.resolve(&kafka).await?);
            }
            partitions
        };
        let plan = plan(&kafka, &group, &scenario, &partitions).await?;
        if options.has("execute") && !options.has("dry-run") {
            commit(&kafka, &group, &plan).await?;
        }
        plans.insert(group, plan);
    }
    if options.has("export") {
        export(&plans, options.all("group").len() == 1);
    } else {
        print(&plans);
    }
    Ok(())
}

/// Whether nobody is in the group; said otherwise.
async fn is_inactive(kafka: &Kafka, group: &str) -> Result<bool, KafkaError> {
    let state = match kafka.client().describe_group(group).await {
        Ok(described) => described.state,
        // It begins with its first offset.
        Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    if matches!(state.as_str(), "Empty" | "Dead") {
        return Ok(true);
    }
    let only = format!("Assignments can only be reset if the group '{group}' is inactive");
    print_error(&format!("{only}, but the current state is {state}."));
    Ok(false)
}

/// The offsets of these partitions.
pub async fn plan(
    kafka: &Kafka,
    group: &str,
    scenario: &Scenario,
    partitions: &[TopicPartition],
) -> Result<Offsets, ToolError> {
    let plan = match scenario {
        Scenario::To(offset) => {
            let wanted = partitions.iter().map(|at| (at.clone(), Offset(*offset))).collect();
            within(kafka, wanted).await?
        }
        Scenario::Earliest => bounds(kafka, partitions, EARLIEST).await?,
        Scenario::Latest => bounds(kafka, partitions, LATEST).await?,
        Scenario::Time(time) => {
            let (mut plan, mut too_old) = (Offsets::new(), Vec::new());
            for (at, found) in offsets_at(kafka, partitions, *time).await {
                match found? {
                    Some(found) => {
                        plan.insert(at, found);
                    }
                    None => {
                        let (partition, topic) = (at.partition, &at.topic);
                        out!(
                            "\nWarn: Partition {partition} from topic {topic} is empty. Falling back to latest known offset."
                        );
                        too_old.push(at);
                    }
                }
            }
            plan.extend(bounds(kafka, &too_old, LATEST).await?);
            plan
        }
        Scenario::Current => {
            let mut plan = committed(kafka, group, partitions).await?;
            let others: Vec<_> = partitions.iter().filter(|at| !plan.contains_key(at)).cloned().collect();
            plan.extend(bounds(kafka, &others, LATEST).await?);
            plan
        }
        Scenario::ShiftBy(by) => {
            let mut wanted = committed(kafka, group, partitions).await?;
            if let Some(at) = partitions.iter().find(|at| !wanted.contains_key(at)) {
                return Err(ToolError::Usage(format!(
                    "Cannot shift offset for partition {at} since there is no current committed offset"
                )));
            }
            wanted.values_mut().for_each(|offset| *offset = Offset(offset.0.saturating_add(*by)));
            within(kafka, wanted).await?
        }
        Scenario::File(plans) => match plans.get(&Some(group.to_owned())).or_else(|| plans.get(&None)) {
            Some(wanted) => within(kafka, wanted.clone()).await?,
            None => {
                print_error(&format!("No reset plan for group {group} found"));
                Offsets::new()
            }
        },
    };
    Ok(plan)
}

/// What the group has committed of these partitions.
async fn committed(kafka: &Kafka, group: &str, partitions: &[TopicPartition]) -> Result<Offsets, KafkaError> {
    let committed = kafka.client().committed_offsets(group, Some(partitions), false).await?;
    let asked = committed.into_iter().filter(|(at, _)| partitions.contains(at));
    Ok(asked.map(|(at, committed)| (at, committed.offset)).collect())
}

/// The offsets of all partitions at a time; 0 where there is none.
async fn bounds(kafka: &Kafka, partitions: &[TopicPartition], time: TimestampMs) -> Result<Offsets, KafkaError> {
    let found = offsets_at(kafka, partitions, time).await;
    found.into_iter().map(|(at, found)| Ok((at, found?.unwrap_or(Offset(0))))).collect()
}

/// These offsets; where one is beyond an end of its log, that end.
async fn within(kafka: &Kafka, mut wanted: Offsets) -> Result<Offsets, KafkaError> {
    let partitions: Vec<_> = wanted.keys().cloned().collect();
    let starts = bounds(kafka, &partitions, EARLIEST).await?;
    let ends = bounds(kafka, &partitions, LATEST).await?;
    for (at, offset) in &mut wanted {
        let (Some(start), Some(end)) = (starts.get(at), ends.get(at)) else { continue };
        let kept = (*offset).clamp(*start, *end.max(start));
        if kept != *offset {
            let how = if *offset > *end { "higher than latest" } else { "lower than earliest" };
            let message =
                format!("New offset ({offset}) is {how} offset for topic partition {at}. Value will be set to {kept}");
            log("WARN", &message, LOGGER);
            *offset = kept;
        }
    }
    Ok(wanted)
}

pub async fn commit(kafka: &Kafka, group: &str, plan: &Offsets) -> Result<(), KafkaError> {
    if plan.is_empty() {
        return Ok(());
    }
    let offsets: BTreeMap<TopicPartition, CommittedOffset> =
        plan.iter().map(|(at, offset)| (at.clone(), (*offset).into())).collect();
    let outcomes = kafka.client().commit_offsets(group, &Committer::nobody(), &offsets).await?;
    match outcomes.into_values().find(|code| !code.is_ok()) {
        Some(code) => Err(ottla_client::ClientError::refused(code).into()),
        None => Ok(()),
    }
}

fn export(plans: &BTreeMap<String, Offsets>, is_single: bool) {
    for (group, plan) in plans {
        for (at, offset) in plan {
            let group = if is_single { String::new() } else { format!("{group},") };
            out!("{group}{},{},{offset}", at.topic, at.partition);
        }
    }
    out!("");
}

fn print(plans: &BTreeMap<String, Offsets>) {
    let rows = || plans.iter().flat_map(|(group, plan)| plan.iter().map(move |(at, offset)| (group, at, offset)));
    let group_width = rows().map(|(group, ..)| group.len()).max().unwrap_or(0).max(15);
    let topic_width = rows().map(|(_, at, _)| at.topic.as_str().len()).max().unwrap_or(0).max(15);
    let line = |group: &str, topic: &str, partition: &str, offset: &str| {
        out!("{group:<group_width$} {topic:<topic_width$} {partition:<10} {offset}");
    };
    out!("");
    line("GROUP", "TOPIC", "PARTITION", "NEW-OFFSET");
    for (group, at, offset) in rows() {
        line(group, at.topic.as_str(), &at.partition.to_string(), &offset.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_both_of_kafkas_forms() {
        let plan = from_csv("t,0,7\n\"u\",1,8\n\n").expect("a plan");
        let offsets: Vec<(String, i64)> = plan[&None].iter().map(|(at, offset)| (at.to_string(), offset.0)).collect();
        assert_eq!(offsets, [("t-0".into(), 7), ("u-1".into(), 8)]);
        let plan = from_csv("g,t,0,7\nh,t,0,9\n").expect("a plan");
        assert_eq!(plan.keys().flatten().collect::<Vec<_>>(), ["g", "h"]);
        for wrong in ["t,0", "t,x,1", "g,t,0,1,2", "a/b,0,1"] {
            assert!(from_csv(wrong).is_err(), "{wrong}");
        }
    }
}
