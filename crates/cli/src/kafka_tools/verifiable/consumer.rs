//! `kafka-verifiable-consumer`: reads a topic as a member of a group, and tells what it is given, reads and commits.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::{Offset, TopicPartition};
use ottla_protocol::messages::fetch::IsolationLevel;

use super::{event, tell_of_older_name};
use crate::consumer::{FETCH_BYTES, From, Incoming, Settings, Topics};
use crate::group_consumer::{GroupConsumer, GroupSettings, ShareChange};
use crate::kafka::{Kafka, KafkaError};
use crate::kafka_tools::console_consumer::terminated;
use crate::kafka_tools::json::Json;
use crate::kafka_tools::options::{OptionSpec, Options, Takes, flag, refused, value};
use crate::kafka_tools::{ToolError, bootstrap, client_properties, exceptions, run_tool, warn_unused};
use crate::{err, out};

pub(in crate::kafka_tools) static SPECS: &[OptionSpec] = &[
    value("assignment-strategy", "ASSIGNMENT-STRATEGY", "org.apache.kafka.clients.consumer.RangeAssignor (default)."),
    value("bootstrap-server", "HOST1:PORT1[,HOST2:PORT2[...]]", "REQUIRED: The server(s) to connect to."),
    value("command-config", "CONFIG-FILE", "A file with properties of the consumer."),
    value("consumer.config", "CONFIG-FILE", "The older name of --command-config."),
    flag("enable-autocommit", "Commit every few seconds rather than after each batch of records."),
    value("group-id", "GROUP-ID", "REQUIRED: The group id of the consumer group."),
    value("group-instance-id", "GROUP-INSTANCE-ID", "The id of a static member."),
    value("group-protocol", "GROUP-PROTOCOL", "classic (default)."),
    refused("group-remote-assignor", Takes::Value, "members use the classic protocol"),
    flag("help", "Show this message."),
    value("max-messages", "MAX-MESSAGES", "So many messages; -1 (default) until the process is ended."),
    value("reset-policy", "RESET-POLICY", "Where to begin while nothing is committed: earliest (default) or latest."),
    value("session-timeout", "TIMEOUT-MS", "How long the group waits for a heartbeat (default: 45000)."),
    value("topic", "TOPIC", "REQUIRED: Consume messages from this topic."),
    flag("verbose", "Tell each record."),
];

const RANGE: &str = "org.apache.kafka.clients.consumer.RangeAssignor";
/// Kafka's default of `max.poll.records`.
const BATCH_RECORDS: usize = 500;

struct Plan {
    bootstrap: String,
    topic: String,
    settings: Settings,
    /// None is no limit.
    messages: Option<u64>,
    is_verbose: bool,
    commits_itself: bool,
}

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool("", SPECS, arguments, plan, |plan| async move {
        consume(plan).await.unwrap_or_else(|error| {
            err!("{}: {error}", exceptions::class(&error));
            ExitCode::FAILURE
        })
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let topic = options.required("topic")?.to_owned();
    tell_of_older_name(options, "consumer.config")?;
    let unknown = |option: &str, text: &str, known: &str| {
        Err(ToolError::Argument(format!("--{option} {text} is not supported: {known} is")))
    };
    if let Some(protocol) = options.get("group-protocol").filter(|text| !text.eq_ignore_ascii_case("classic")) {
        return unknown("group-protocol", protocol, "classic");
    }
    if let Some(strategy) = options.get("assignment-strategy").filter(|text| *text != RANGE) {
        return unknown("assignment-strategy", strategy, RANGE);
    }
    let from = match options.get("reset-policy").unwrap_or("earliest") {
        "earliest" => From::Beginning,
        "latest" => From::End,
        other => return unknown("reset-policy", other, "earliest or latest"),
    };
    let properties = client_properties(options, &["consumer.config", "command-config"], &[])?;
    warn_unused(&properties, &["security.protocol"], "org.apache.kafka.clients.consumer.ConsumerConfig");
    let commits_itself = options.has("enable-autocommit");
    let mut group = GroupSettings::new(options.required("group-id")?);
    group.instance = options.get("group-instance-id").map(str::to_owned);
    group.session_timeout = options.number("session-timeout")?.map_or(group.session_timeout, Duration::from_millis);
    group.commit_every = group.commit_every.filter(|_| commits_itself);
    Ok(Plan {
        bootstrap: bootstrap(options)?.to_owned(),
        topic,
        settings: Settings {
            partition: None,
            from,
            exit_at_end: false,
            isolation_level: IsolationLevel::ReadUncommitted,
            fetch_bytes: FETCH_BYTES,
            group: Some(group),
        },
        messages: options.number::<i64>("max-messages")?.and_then(|most| u64::try_from(most).ok()),
        is_verbose: options.has("verbose"),
        commits_itself,
    })
}

async fn consume(plan: Plan) -> Result<ExitCode, ToolError> {
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    kafka.partitions(&plan.topic).await?;
    let topic = Topics::One(plan.topic.clone());
    let mut group = GroupConsumer::open(&kafka, topic, plan.settings.clone()).await?;
    group.listen(|change, partitions| out!("{}", share(change, partitions)));
    out!("{}", event("startup_complete", Vec::new()));
    let ended_by = tokio::select! {
        read = read(&plan, &mut group) => read.map(|()| None),
        _ = tokio::signal::ctrl_c() => Ok(Some(ExitCode::from(130))),
        () = terminated() => Ok(Some(ExitCode::from(143))),
    };
    let requested = || out!("{}", event("shutdown_requested", Vec::new()));
    let is_interrupted = matches!(ended_by, Ok(Some(_)));
    if is_interrupted {
        requested();
    }
    let closed = group.close().await;
    out!("{}", event("shutdown_complete", Vec::new()));
    // The hook of Kafka's tool says so at every end.
    if !is_interrupted {
        requested();
    }
    let code = ended_by?.unwrap_or(ExitCode::SUCCESS);
    closed?;
    Ok(code)
}

async fn read(plan: &Plan, group: &mut GroupConsumer) -> Result<(), KafkaError> {
    let mut left = plan.messages.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(first) = group.next().await? else { break };
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(BATCH_RECORDS);
        let mut batch = vec![first];
        while batch.len() < most {
            match group.try_next() {
                Some(next) => batch.push(next?),
                None => break,
            }
        }
        left -= batch.len() as u64;
        if plan.is_verbose {
            batch.iter().for_each(|incoming| out!("{}", record(&plan.topic, incoming)));
        }
        out!("{}", consumed(&plan.topic, &batch));
        if !plan.commits_itself {
            let (offsets, result) = group.commit_read(&batch.iter().map(|incoming| incoming.partition).collect()).await;
            out!("{}", committed(&offsets, result.as_ref().err()));
        }
    }
    Ok(())
}

fn place(topic: &str, partition: i32) -> Vec<(&'static str, Json)> {
    vec![("topic", topic.into()), ("partition", partition.into())]
}

fn share(change: ShareChange, partitions: &[TopicPartition]) -> Json {
    let name = match change {
        ShareChange::Assigned => "partitions_assigned",
        ShareChange::Revoked => "partitions_revoked",
    };
    let partitions = partitions.iter().map(|at| Json::Object(place(at.topic.as_str(), at.partition.0)));
    event(name, vec![("partitions", partitions.collect())])
}

fn record(topic: &str, incoming: &Incoming) -> Json {
    let text =
        |bytes: &Option<Bytes>| Json::from(bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
    let mut fields = vec![("key", text(&incoming.record.key)), ("value", text(&incoming.record.value))];
    fields.extend(place(topic, incoming.partition.0));
    fields.push(("offset", incoming.record.offset.0.into()));
    event("record_data", fields)
}

fn consumed(topic: &str, batch: &[Incoming]) -> Json {
    let mut partitions: BTreeMap<i32, (i64, i64, i64)> = BTreeMap::new();
    for incoming in batch {
        let offset = incoming.record.offset.0;
        let (count, _, last) = partitions.entry(incoming.partition.0).or_insert((0, offset, offset));
        (*count, *last) = (*count + 1, offset);
    }
    let summaries = partitions.into_iter().map(|(partition, (count, first, last))| {
        let mut fields = place(topic, partition);
        fields.extend([("count", Json::from(count)), ("minOffset", first.into()), ("maxOffset", last.into())]);
        Json::Object(fields)
    });
    let count = i64::try_from(batch.len()).unwrap_or(i64::MAX);
    event("records_consumed", vec![("count", count.into()), ("partitions", summaries.collect())])
}

fn committed(offsets: &BTreeMap<TopicPartition, Offset>, error: Option<&KafkaError>) -> Json {
    let offsets = offsets.iter().map(|(at, offset)| {
        let mut fields = place(at.topic.as_str(), at.partition.0);
        fields.push(("offset", offset.0.into()));
        Json::Object(fields)
    });
    let mut fields = vec![("offsets", offsets.collect())];
    fields.extend(error.map(|error| ("error", Json::from(error.to_string()))));
    fields.push(("success", error.is_none().into()));
    event("offsets_committed", fields)
}

#[cfg(test)]
mod tests {
    use ottla_model::{ErrorCode, LeaderEpoch, PartitionId, TimestampMs, TopicName};
    use ottla_protocol::record_batch::{Record, TimestampType};

    use super::*;
    use crate::sample_partitions::at;

    fn planned(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(SPECS, line, plan)
    }

    #[test]
    fn command_lines_are_understood() {
        let start = "--topic t --bootstrap-server k --group-id g";
        let plan = planned(&format!("{start} --max-messages 5 --reset-policy latest --group-protocol CLASSIC"));
        let shown = plan.map(|plan| (plan.messages, plan.settings.from, plan.commits_itself));
        assert_eq!(shown, Ok((Some(5), From::End, false)));
        let plan = planned(&format!("{start} --enable-autocommit --session-timeout 7")).expect("a plan");
        let group = plan.settings.group.expect("a group");
        assert!(group.commit_every.is_some() && group.session_timeout == Duration::from_millis(7));
        let text = |line: &str| planned(line).err().unwrap_or_default();
        assert!(text("--topic t --bootstrap-server k").contains("group-id"));
        for refused in ["--group-protocol consumer", "--reset-policy none", "--assignment-strategy x"] {
            let line = text(&format!("{start} {refused}"));
            assert!(line.contains("is not supported") && line.starts_with(refused), "{line}");
        }
    }

    fn shown(event: &Json) -> String {
        event.to_string().split_once(',').expect("a time").1.to_owned()
    }

    #[test]
    fn events_are_those_of_kafkas_tool() {
        let incoming = |partition, offset| Incoming {
            topic: TopicName::new("t").expect("a name"),
            partition: PartitionId(partition),
            record: Record {
                offset: Offset(offset),
                timestamp: TimestampMs(0),
                key: None,
                value: Some("v".into()),
                headers: Vec::new(),
            },
            timestamp_type: TimestampType::CreateTime,
            leader_epoch: LeaderEpoch(0),
        };
        assert_eq!(
            shown(&consumed("t", &[incoming(0, 4), incoming(1, 9), incoming(0, 6)])),
            r#""name":"records_consumed","count":3,"partitions":[{"topic":"t","partition":0,"count":2,"minOffset":4,"maxOffset":6},{"topic":"t","partition":1,"count":1,"minOffset":9,"maxOffset":9}]}"#
        );
        assert_eq!(
            shown(&record("t", &incoming(1, 9))),
            r#""name":"record_data","key":null,"value":"v","topic":"t","partition":1,"offset":9}"#
        );
        assert_eq!(
            shown(&share(ShareChange::Revoked, &[at("t", 0)])),
            r#""name":"partitions_revoked","partitions":[{"topic":"t","partition":0}]}"#
        );
        let offsets = BTreeMap::from([(at("t", 0), Offset(7))]);
        assert_eq!(
            shown(&committed(&offsets, None)),
            r#""name":"offsets_committed","offsets":[{"topic":"t","partition":0,"offset":7}],"success":true}"#
        );
        let error = KafkaError::refused(ErrorCode::IllegalGeneration, &"late");
        assert!(shown(&committed(&offsets, Some(&error))).ends_with(r#""error":"late","success":false}"#));
    }
}
