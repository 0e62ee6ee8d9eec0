//! `kafka-verifiable-producer`: writes growing numbers, and tells of each whether it was acknowledged.

use std::cell::Cell;
use std::process::ExitCode;

use bytes::Bytes;
use ottla_model::{Offset, TimestampMs};
use tokio::sync::mpsc;

use super::{event, tell_of_older_name};
use crate::kafka::{Connecting, Kafka};
use crate::kafka_tools::console_consumer::terminated;
use crate::kafka_tools::json::Json;
use crate::kafka_tools::options::{OptionSpec, Options, flag, value};
use crate::kafka_tools::perf::{Pace, acks, producer_settings};
use crate::kafka_tools::{ToolError, bootstrap, client_properties, exceptions, now_ms, run_tool};
use crate::producer::{Outgoing, Producer, QUEUE_RECORDS, Sent, Settings};
use crate::{err, out};

pub(in crate::kafka_tools) static SPECS: &[OptionSpec] = &[
    value("acks", "ACKS", "Acknowledgements of each message: -1 (default), 0 or 1."),
    value("bootstrap-server", "HOST1:PORT1[,HOST2:PORT2[...]]", "REQUIRED: The server(s) to connect to."),
    value("command-config", "CONFIG-FILE", "A file with properties of the producer."),
    flag("help", "Show this message."),
    value("max-messages", "MAX-MESSAGES", "So many messages; -1 (default) until the process is ended."),
    value("message-create-time", "CREATE-TIME", "The time of the first message in milliseconds (default: now)."),
    value("producer.config", "CONFIG-FILE", "The older name of --command-config."),
    value("repeating-keys", "REPEATING-KEYS", "Keys from 0 up to this number, and again."),
    value("throughput", "THROUGHPUT", "Messages a second, about; -1 (default) is no limit."),
    value("topic", "TOPIC", "REQUIRED: Produce messages to this topic."),
    value("value-prefix", "VALUE-PREFIX", "A number and a dot before each value."),
];

struct Plan {
    connecting: Connecting,
    settings: Settings,
    topic: String,
    /// None is no limit.
    messages: Option<u64>,
    throughput: i64,
    create_time_ms: Option<i64>,
    value_prefix: Option<i32>,
    repeating_keys: Option<i32>,
}

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool("", SPECS, arguments, plan, |plan| async move {
        produce(plan).await.unwrap_or_else(|error| {
            err!("{}: {error}", exceptions::class(&error));
            ExitCode::FAILURE
        })
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let topic = options.required("topic")?.to_owned();
    tell_of_older_name(options, "producer.config")?;
    let mut properties = vec![
        ("acks".to_owned(), options.get("acks").unwrap_or("-1").to_owned()),
        // A message that is sent twice would be told of twice.
        ("retries".to_owned(), "0".to_owned()),
    ];
    acks(options.get("acks").unwrap_or("-1"))?;
    properties.extend(client_properties(options, &["producer.config", "command-config"], &[])?);
    let (connecting, settings) = producer_settings(bootstrap(options)?, &properties)?;
    Ok(Plan {
        connecting,
        settings,
        topic,
        messages: options.number::<i64>("max-messages")?.and_then(|most| u64::try_from(most).ok()),
        throughput: options.number("throughput")?.unwrap_or(-1),
        create_time_ms: options.number("message-create-time")?.filter(|time| *time != -1),
        value_prefix: options.number("value-prefix")?,
        repeating_keys: options.number("repeating-keys")?.filter(|keys| *keys > 0),
    })
}

async fn produce(plan: Plan) -> Result<ExitCode, ToolError> {
    let kafka = Kafka::connect_with(plan.connecting.clone()).await?;
    let producer = Producer::open(&kafka, &plan.topic, plan.settings.clone()).await?;
    let (sender, records) = mpsc::channel(QUEUE_RECORDS);
    let began_ms = now_ms();
    let sent = Cell::new(0);
    let mut acknowledged = 0;
    out!("{}", event("startup_complete", Vec::new()));
    let report = |batch: Sent| {
        if batch.result.is_ok() {
            acknowledged += batch.records.len();
        }
        events(&plan.topic, &batch).iter().for_each(|event| out!("{event}"));
        true
    };
    let generating = async {
        // Dropped by a signal, it ends the channel, and what is in it is still sent.
        tokio::select! {
            () = generate(&plan, sender, &sent) => ExitCode::SUCCESS,
            _ = tokio::signal::ctrl_c() => ExitCode::from(130),
            () = terminated() => ExitCode::from(143),
        }
    };
    // Whoever takes no more messages ends the making of them.
    let producing = async {
        let mut records = records;
        producer.run_reporting(&mut records, report).await
    };
    let (result, code) = tokio::join!(producing, generating);
    result.map_err(|error| ToolError::Argument(error.to_string()))?;
    out!("{}", event("shutdown_complete", Vec::new()));
    let rate = 1_000.0 * acknowledged as f64 / (now_ms() - began_ms) as f64;
    let data = vec![
        ("sent", Json::Number(sent.get())),
        ("acked", Json::Number(i64::try_from(acknowledged).unwrap_or(i64::MAX))),
        ("target_throughput", Json::Number(plan.throughput)),
        ("avg_throughput", Json::Double(rate)),
    ];
    out!("{}", event("tool_data", data));
    Ok(code)
}

/// Makes the messages; the channel ends with them.
async fn generate(plan: &Plan, sender: mpsc::Sender<Outgoing>, sent: &Cell<i64>) {
    let pace = Pace::new(plan.throughput as f64);
    let began_ms = now_ms();
    let mut number = 0;
    while plan.messages.is_none_or(|most| number < most) {
        let key = plan.repeating_keys.map(|keys| (number % u64::try_from(keys).unwrap_or(1)).to_string().into());
        let value = match plan.value_prefix {
            Some(prefix) => format!("{prefix}.{number}"),
            None => number.to_string(),
        };
        // Times go on from the first as the clock does.
        let time = plan.create_time_ms.map_or_else(now_ms, |first| first + (now_ms() - began_ms));
        let record =
            Outgoing { key, value: Some(value.into()), timestamp: Some(TimestampMs(time)), ..Outgoing::default() };
        if sender.send(record).await.is_err() {
            return;
        }
        number += 1;
        sent.set(sent.get() + 1);
        pace.wait(number).await;
    }
}

/// An event for each message of a batch.
fn events(topic: &str, batch: &Sent) -> Vec<Json> {
    let text =
        |bytes: &Option<Bytes>| Json::from(bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
    let told = |(at, record): (i64, &Outgoing)| {
        let mut fields = vec![("key", text(&record.key)), ("value", text(&record.value))];
        match &batch.result {
            Ok(first) => {
                // Without acknowledgements no offset is known.
                let offset = if *first == Offset::UNKNOWN { -1 } else { first.0 + at };
                fields.push(("offset", offset.into()));
                fields.extend([("topic", topic.into()), ("partition", batch.partition.0.into())]);
                event("producer_send_success", fields)
            }
            Err(error) => {
                let shown = exceptions::shown(error);
                let (class, message) = shown.split_once(": ").unwrap_or((&shown, ""));
                fields.push(("topic", topic.into()));
                fields.extend([("exception", format!("class {class}").into()), ("message", message.into())]);
                event("producer_send_error", fields)
            }
        }
    };
    (0..).zip(&batch.records).map(told).collect()
}

#[cfg(test)]
mod tests {
    use ottla_model::{ErrorCode, PartitionId};

    use super::*;
    use crate::kafka::KafkaError;

    fn planned(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(SPECS, line, plan)
    }

    #[test]
    fn command_lines_are_understood() {
        let plan =
            planned("--topic t --bootstrap-server k --max-messages 5 --acks 1 --value-prefix 3").expect("a plan");
        assert_eq!((plan.messages, plan.settings.acks, plan.value_prefix), (Some(5), 1, Some(3)));
        assert_eq!((plan.connecting.retries_max, plan.throughput, plan.create_time_ms), (Some(0), -1, None));
        let plan =
            planned("--topic t --bootstrap-server k --max-messages -1 --repeating-keys 2 --message-create-time 9");
        let shown = plan.map(|plan| (plan.messages, plan.repeating_keys, plan.create_time_ms));
        assert_eq!(shown, Ok((None, Some(2), Some(9))));
        assert!(planned("--topic t").is_err_and(|text| text.contains("bootstrap-server")));
        assert!(planned("--bootstrap-server k").is_err_and(|text| text.contains("topic")));
        assert!(planned("--topic t --bootstrap-server k --acks 7").is_err_and(|text| text.contains("acks")));
    }

    #[test]
    fn each_message_is_told() {
        let record = |value: &str| Outgoing { value: Some(value.to_owned().into()), ..Outgoing::default() };
        let batch = |result| Sent { partition: PartitionId(2), records: vec![record("0"), record("1")], result };
        let shown = |batch: &Sent| {
            let events = events("t", batch);
            events
                .iter()
                .map(|event| event.to_string().split_once(',').expect("a time").1.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(&batch(Ok(Offset(7))))[1],
            r#""name":"producer_send_success","key":null,"value":"1","offset":8,"topic":"t","partition":2}"#
        );
        let failed = batch(Err(KafkaError::refused(ErrorCode::RequestTimedOut, &"late")));
        assert_eq!(
            shown(&failed)[0],
            r#""name":"producer_send_error","key":null,"value":"0","topic":"t","exception":"class org.apache.kafka.common.errors.TimeoutException","message":"late"}"#
        );
    }
}
