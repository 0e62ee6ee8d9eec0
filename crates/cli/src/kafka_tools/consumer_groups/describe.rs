//! `--describe`: offsets with lag, members, states. The tables are Kafka's, column by column.

use std::collections::{BTreeMap, BTreeSet};

use ottla_client::{CommittedOffset, GroupDescription, GroupMember};
use ottla_model::{ErrorCode, Offset, TopicPartition};

use super::super::ToolError;
use super::super::options::Options;
use super::partitions::{LATEST, offsets_at};
use super::print_error;
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

const MISSING: &str = "-";

pub async fn run(options: &Options) -> Result<(), ToolError> {
    let kafka = super::connect(options).await?;
    let names: BTreeSet<String> = super::groups(&kafka, options).await?.into_iter().collect();
    let verbose = options.has("verbose");
    // Kafka describes all of them before it prints the first.
    let mut described = Vec::new();
    for name in &names {
        described.push(description(&kafka, name).await?);
    }
    for group in &described {
        if options.has("state") {
            if has_members_to_show(group) {
                state(group, verbose);
            }
        } else if options.has("members") {
            has_members_to_show(group);
            members(group, verbose);
        } else {
            let rows = offsets(&kafka, group).await?;
            if has_members_to_show(group) && !rows.is_empty() {
                print_offsets(&rows, verbose);
            }
        }
    }
    Ok(())
}

async fn description(kafka: &Kafka, name: &str) -> Result<GroupDescription, KafkaError> {
    let not_found = || KafkaError::refused(ErrorCode::GroupIdNotFound, &format!("Group {name} not found."));
    match kafka.client().describe_group(name).await {
        // So older brokers show a group that does not exist.
        Ok(group) if group.state == "Dead" => Err(not_found()),
        Ok(group) => Ok(group),
        Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => Err(not_found()),
        Err(error) => Err(error.into()),
    }
}

/// Says what is to be said about a group's state; whether there is a table to print.
fn has_members_to_show(group: &GroupDescription) -> bool {
    let name = &group.group;
    match group.state.as_str() {
        "Dead" => {
            print_error(&format!("Consumer group '{name}' does not exist."));
            return false;
        }
        "Empty" => err!("\nConsumer group '{name}' has no active members."),
        "Stable" => {}
        _ => err!("\nWarning: Consumer group '{name}' is rebalancing."),
    }
    true
}

/// A line of `--offsets`.
struct Row {
    group: String,
    at: TopicPartition,
    committed: Option<CommittedOffset>,
    /// None where the partition cannot be asked.
    end: Option<Offset>,
    consumer: String,
    host: String,
    client: String,
}

/// What members have comes first, those with more before others; then what is committed and nobody has.
async fn offsets(kafka: &Kafka, group: &GroupDescription) -> Result<Vec<Row>, KafkaError> {
    let mut committed = kafka.client().committed_offsets(&group.group, None, false).await?;
    let assigned = group.members.iter().flat_map(|member| &member.assignment);
    let partitions: BTreeSet<TopicPartition> = assigned.chain(committed.keys()).cloned().collect();
    let ends = offsets_at(kafka, &partitions.into_iter().collect::<Vec<_>>(), LATEST).await;
    // A partition that is gone, or has no leader, has no end; the others are shown.
    let ends: BTreeMap<_, _> = ends.into_iter().filter_map(|(at, end)| Some((at, end.ok()??))).collect();
    let row = |at: TopicPartition, committed: Option<CommittedOffset>, owner: [&str; 3]| {
        let [consumer, host, client] = owner.map(str::to_owned);
        Row { group: group.group.clone(), end: ends.get(&at).copied(), at, committed, consumer, host, client }
    };
    let mut rows = Vec::new();
    let mut owners: Vec<&GroupMember> = group.members.iter().filter(|member| !member.assignment.is_empty()).collect();
    owners.sort_by_key(|member| std::cmp::Reverse(member.assignment.len()));
    for member in owners {
        let mut partitions = member.assignment.clone();
        partitions.sort_by_key(|at| at.partition);
        for at in partitions {
            let committed = committed.remove(&at);
            rows.push(row(at, committed, [&member.id, &member.host, &member.client_id]));
        }
    }
    rows.extend(committed.into_iter().map(|(at, offset)| row(at, Some(offset), [MISSING; 3])));
    Ok(rows)
}

fn print_offsets(rows: &[Row], verbose: bool) {
    let width = |least: usize, of: &dyn Fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0).max(least);
    let group = width(15, &|row| row.group.len());
    let topic = width(15, &|row| row.at.topic.as_str().len());
    let consumer = width(15, &|row| row.consumer.len());
    let host = width(15, &|row| row.host.len());
    let line = |columns: [&str; 10]| {
        let [name, on, partition, epoch, current, end, lag, who, at, client] = columns;
        let epoch = if verbose { format!("{epoch:<15} ") } else { String::new() };
        out!(
            "{name:<group$} {on:<topic$} {partition:<10} {epoch}{current:<15} {end:<15} {lag:<15} {who:<consumer$} {at:<host$} {client}"
        );
    };
    out!("");
    line([
        "GROUP",
        "TOPIC",
        "PARTITION",
        "LEADER-EPOCH",
        "CURRENT-OFFSET",
        "LOG-END-OFFSET",
        "LAG",
        "CONSUMER-ID",
        "HOST",
        "CLIENT-ID",
    ]);
    let or_missing = |value: Option<i64>| value.map_or(MISSING.to_owned(), |value| value.to_string());
    for row in rows {
        let current = row.committed.as_ref().map(|committed| committed.offset.0);
        let epoch = row.committed.as_ref().and_then(|committed| committed.leader_epoch).map(|epoch| i64::from(epoch.0));
        let end = row.end.map(|end| end.0);
        let lag = end.zip(current).map(|(end, current)| end - current);
        line([
            &row.group,
            row.at.topic.as_str(),
            &row.at.partition.to_string(),
            &or_missing(epoch),
            &or_missing(current),
            &or_missing(end),
            &or_missing(lag),
            &row.consumer,
            &row.host,
            &row.client,
        ]);
    }
}

fn members(group: &GroupDescription, verbose: bool) {
    let width =
        |least: usize, of: &dyn Fn(&GroupMember) -> usize| group.members.iter().map(of).max().unwrap_or(0).max(least);
    let name = group.group.len().max(15);
    let consumer = width(15, &|member| member.id.len());
    let instance = width(17, &|member| member.instance.as_ref().map_or(0, String::len));
    let host = width(15, &|member| member.host.len());
    let client = width(15, &|member| member.client_id.len());
    let current = width(20, &|member| shown(&member.assignment).len());
    let target = width(20, &|member| member.target_assignment.as_deref().map_or(1, |at| shown(at).len()));
    let has_static = group.members.iter().any(|member| member.instance.is_some());
    let has_classic = group.members.iter().any(|member| member.is_upgraded == Some(false));
    let line = |columns: [&str; 11]| {
        let [of, id, fixed, at, from, count, upgraded, epoch, has, aim, wants] = columns;
        let mut line = format!("{of:<name$} {id:<consumer$} ");
        if has_static {
            line += &format!("{fixed:<instance$} ");
        }
        line += &format!("{at:<host$} {from:<client$} {count:<15} ");
        if verbose {
            if has_classic {
                line += &format!("{upgraded:<15} ");
            }
            line += &format!("{epoch:<15} {has:<current$} {aim:<15} {wants:<target$}");
        }
        out!("{line}");
    };
    out!("");
    line([
        "GROUP",
        "CONSUMER-ID",
        "GROUP-INSTANCE-ID",
        "HOST",
        "CLIENT-ID",
        "#PARTITIONS",
        "UPGRADED",
        "CURRENT-EPOCH",
        "CURRENT-ASSIGNMENT",
        "TARGET-EPOCH",
        "TARGET-ASSIGNMENT",
    ]);
    for member in &group.members {
        let epoch = member.epoch.map_or(MISSING.to_owned(), |epoch| epoch.to_string());
        let target_epoch = member.epoch.map_or(MISSING.to_owned(), |_| group.assignment_epoch.to_string());
        let upgraded = member.is_upgraded.map_or(MISSING.to_owned(), |is_upgraded| is_upgraded.to_string());
        let target = member.target_assignment.as_deref().map_or(MISSING.to_owned(), shown);
        line([
            &group.group,
            &member.id,
            member.instance.as_deref().unwrap_or_default(),
            &member.host,
            &member.client_id,
            &member.assignment.len().to_string(),
            &upgraded,
            &epoch,
            &shown(&member.assignment),
            &target_epoch,
            &target,
        ]);
    }
}

/// `t1:0,1;t2:3`; a dash for nothing.
fn shown(partitions: &[TopicPartition]) -> String {
    if partitions.is_empty() {
        return MISSING.to_owned();
    }
    let mut topics: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    for at in partitions {
        topics.entry(at.topic.as_str()).or_default().insert(at.partition.0);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        let partitions: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        format!("{topic}:{}", partitions.join(","))
    });
    topics.collect::<Vec<_>>().join(";")
}

fn state(group: &GroupDescription, verbose: bool) {
    let coordinator = &group.coordinator;
    let coordinator = format!("{}:{}  ({})", coordinator.host, coordinator.port, coordinator.id);
    let (name, coordinators) = (group.group.len().max(15), coordinator.len().max(25));
    let line = |columns: [&str; 7]| {
        let [of, at, strategy, state, epoch, target, members] = columns;
        let epochs = if verbose { format!("{epoch:<15} {target:<25} ") } else { String::new() };
        out!("{of:<name$} {at:<coordinators$} {strategy:<20} {state:<20} {epochs}{members}");
    };
    out!("");
    line([
        "GROUP",
        "COORDINATOR (ID)",
        "ASSIGNMENT-STRATEGY",
        "STATE",
        "GROUP-EPOCH",
        "TARGET-ASSIGNMENT-EPOCH",
        "#MEMBERS",
    ]);
    let epoch = |epoch: i32| if group.is_consumer_protocol { epoch.to_string() } else { MISSING.to_owned() };
    line([
        &group.group,
        &coordinator,
        if group.assignor.is_empty() { MISSING } else { &group.assignor },
        &group.state,
        &epoch(group.group_epoch),
        &epoch(group.assignment_epoch),
        &group.members.len().to_string(),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_partitions::at;

    #[test]
    fn shares_are_shown_as_kafka_does() {
        assert_eq!(shown(&[at("t1", 1), at("t1", 0), at("a", 10), at("a", 9)]), "a:9,10;t1:0,1");
        assert_eq!(shown(&[]), "-");
    }
}
