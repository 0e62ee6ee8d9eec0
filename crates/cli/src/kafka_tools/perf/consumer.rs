//! `kafka-consumer-perf-test`: reads a topic in a group as fast as it goes, and reports rates.

use std::process::ExitCode;
use std::time::Duration;

use ottla_protocol::messages::fetch::IsolationLevel;
use tokio::time::Instant;

use super::date_format::DateFormat;
use super::{NO_METRICS, decimal};
use crate::consumer::{From, Incoming, Settings, Topics};
use crate::group_consumer::{GroupConsumer, GroupSettings};
use crate::kafka::Kafka;
use crate::kafka_tools::options::{OptionSpec, Options, Takes, flag, maybe_value, refused, value};
use crate::kafka_tools::{ToolError, bootstrap, client_properties, exceptions, now_ms, run_tool, warn_unused};
use crate::{err, out};

pub(in crate::kafka_tools) static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "String: server to connect to", "REQUIRED: The server(s) to connect to."),
    value("command-config", "String: config file", "A file with properties as --command-property has them."),
    value(
        "command-property",
        "String: prop1=val1",
        "isolation.level, session.timeout.ms and enable.auto.commit are used.",
    ),
    value("consumer.config", "String: config file", "The older name of --command-config."),
    value(
        "date-format",
        "String: date format",
        "The pattern of times, with Java's letters y, M, d, H, m, s and S (default: yyyy-MM-dd HH:mm:ss:SSS).",
    ),
    value("fetch-size", "Integer: size", "The most bytes of one fetch of a partition (default: 1048576)."),
    flag("from-latest", "Begin at the end of the topic where nothing is committed, rather than at the start."),
    value("group", "String: gid", "The group id to consume on (default: perf-consumer- and a number)."),
    flag("help", "Print usage information."),
    flag("hide-header", "Leave out the line of names."),
    refused("include", Takes::Value, "--topic names the one topic that is read"),
    value("messages", "Long: count", "The older name of --num-records."),
    value("num-records", "Long: count", "REQUIRED: The number of records to consume."),
    refused("print-metrics", Takes::Nothing, NO_METRICS),
    value("reporting-interval", "Long: interval_ms", "Milliseconds between two reports (default: 5000)."),
    flag("show-detailed-stats", "Report each interval."),
    refused("socket-buffer-size", Takes::Value, "the system sizes the buffers of sockets"),
    maybe_value("timeout", "Long: milliseconds", "How long to wait for the next record (default: 10000)."),
    value("topic", "String: topic", "REQUIRED: The topic to consume from."),
    flag("version", "Display the version."),
];

/// The properties of a consumer that have an effect; a warning names the others.
const PROPERTIES: &[&str] = &["enable.auto.commit", "isolation.level", "security.protocol", "session.timeout.ms"];
const MIB: f64 = 1_024.0 * 1_024.0;

struct Plan {
    bootstrap: String,
    topic: String,
    settings: Settings,
    records: u64,
    timeout_ms: u64,
    interval_ms: i64,
    is_detailed: bool,
    has_header: bool,
    format: DateFormat,
}

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool("", SPECS, arguments, plan, |plan| async move {
        match measure(plan).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                err!("{}: {error}", exceptions::class(&error));
                ExitCode::FAILURE
            }
        }
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let properties = client_properties(options, &["consumer.config", "command-config"], &["command-property"])?;
    let property = |name: &str| properties.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let isolation_level = match property("isolation.level") {
        Some("read_committed") => IsolationLevel::ReadCommitted,
        _ => IsolationLevel::ReadUncommitted,
    };
    let name = options.get("group").map(str::to_owned);
    let mut group =
        GroupSettings::new(&name.unwrap_or_else(|| format!("perf-consumer-{}", rand::random_range(0..100_000))));
    if let Some(text) = property("session.timeout.ms") {
        let millis = text.parse().map_err(|_| ToolError::Argument("session.timeout.ms must be a number".to_owned()))?;
        group.session_timeout = Duration::from_millis(millis);
    }
    if property("enable.auto.commit") == Some("false") {
        group.commit_every = None;
    }
    warn_unused(&properties, PROPERTIES, "org.apache.kafka.clients.consumer.ConsumerConfig");
    let older = [("messages", "num-records"), ("consumer.config", "command-config")];
    for (option, newer) in older.into_iter().filter(|(option, _)| options.has(option)) {
        out!("Warning: --{option} is deprecated. Use --{newer} instead.");
    }
    let topic = options.required("topic")?.to_owned();
    let records = match options.number("num-records")? {
        Some(records) => records,
        None => options.number("messages")?.ok_or(crate::kafka_tools::options::OptionsError::Missing("num-records"))?,
    };
    let interval_ms = options.number("reporting-interval")?.unwrap_or(5_000);
    if interval_ms <= 0 {
        return Err(ToolError::Argument("Reporting interval must be greater than 0.".to_owned()));
    }
    let format = options.get("date-format").unwrap_or("yyyy-MM-dd HH:mm:ss:SSS");
    Ok(Plan {
        bootstrap: bootstrap(options)?.to_owned(),
        topic,
        settings: Settings {
            partition: None,
            from: if options.has("from-latest") { From::End } else { From::Beginning },
            exit_at_end: false,
            isolation_level,
            fetch_bytes: options.number("fetch-size")?.unwrap_or(1_024 * 1_024),
            group: Some(group),
        },
        records,
        timeout_ms: options.number("timeout")?.unwrap_or(10_000),
        interval_ms,
        is_detailed: options.has("show-detailed-stats"),
        has_header: !options.has("hide-header"),
        format: DateFormat::parse(format).map_err(ToolError::Argument)?,
    })
}

/// What was read, at one time.
#[derive(Clone, Copy, Default)]
struct Progress {
    at_ms: i64,
    records: u64,
    bytes: u64,
    /// How long the group has taken to give out partitions.
    joining_ms: i64,
}

impl Progress {
    fn add(&mut self, incoming: &Incoming) {
        let length = |field: &Option<bytes::Bytes>| field.as_ref().map_or(0, bytes::Bytes::len) as u64;
        self.records += 1;
        self.bytes += length(&incoming.record.key) + length(&incoming.record.value);
    }
}

async fn measure(plan: Plan) -> Result<(), ToolError> {
    if plan.has_header {
        let first = if plan.is_detailed { "time, threadId" } else { "start.time, end.time" };
        out!(
            "{first}, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, \
             fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec"
        );
    }
    let start = Progress { at_ms: now_ms(), ..Progress::default() };
    let kafka = Kafka::connect(&plan.bootstrap).await?;
    kafka.partitions(&plan.topic).await?;
    let topic = Topics::One(plan.topic.clone());
    let mut group = GroupConsumer::open(&kafka, topic, plan.settings.clone()).await?;
    let end = read(&plan, &mut group, start).await?;
    group.close().await?;
    if !plan.is_detailed {
        out!("{}", total_line(&plan.format, &start, &end));
    }
    Ok(())
}

async fn read(plan: &Plan, group: &mut GroupConsumer, start: Progress) -> Result<Progress, ToolError> {
    let patience = Duration::from_millis(plan.timeout_ms);
    let (mut now, mut last) = (start, start);
    let mut last_record = Instant::now();
    while now.records < plan.records {
        let next = match group.try_next() {
            Some(next) => Some(next?),
            None => match tokio::time::timeout_at(last_record + patience, group.next()).await {
                Ok(next) => next?,
                Err(_) => None,
            },
        };
        now.joining_ms = i64::try_from(group.joining().as_millis()).unwrap_or(0);
        now.at_ms = now_ms();
        let Some(incoming) = next else {
            out!(
                "WARNING: Exiting before consuming the expected number of records: timeout ({} ms) exceeded. \
                 You can use the --timeout option to increase the timeout.",
                plan.timeout_ms
            );
            break;
        };
        last_record = Instant::now();
        now.add(&incoming);
        if now.at_ms - last.at_ms >= plan.interval_ms {
            if plan.is_detailed {
                out!("{}", interval_line(&plan.format, &last, &now));
            }
            last = now;
        }
    }
    Ok(now)
}

fn total_line(format: &DateFormat, start: &Progress, end: &Progress) -> String {
    let megabytes = end.bytes as f64 / MIB;
    let records = end.records as f64;
    let elapsed = (end.at_ms - start.at_ms) as f64 / 1_000.0;
    let fetching_ms = end.at_ms - start.at_ms - end.joining_ms;
    let fetching = fetching_ms as f64 / 1_000.0;
    format!(
        "{}, {}, {}, {}, {}, {}, {}, {fetching_ms}, {}, {}",
        format.format(start.at_ms),
        format.format(end.at_ms),
        decimal(megabytes, 4),
        decimal(megabytes / elapsed, 4),
        end.records,
        decimal(records / elapsed, 4),
        end.joining_ms,
        decimal(megabytes / fetching, 4),
        decimal(records / fetching, 4)
    )
}

fn interval_line(format: &DateFormat, last: &Progress, now: &Progress) -> String {
    let elapsed_ms = now.at_ms - last.at_ms;
    let joining_ms = now.joining_ms - last.joining_ms;
    let fetching_ms = elapsed_ms - joining_ms;
    let megabytes = (now.bytes - last.bytes) as f64 / MIB;
    let records = (now.records - last.records) as f64;
    let rate = |amount: f64, ms: i64| if ms <= 0 { 0.0 } else { 1_000.0 * amount / ms as f64 };
    format!(
        "{}, 0, {}, {}, {}, {}, {joining_ms}, {fetching_ms}, {}, {}",
        format.format(now.at_ms),
        decimal(now.bytes as f64 / MIB, 4),
        decimal(rate(megabytes, elapsed_ms), 4),
        now.records,
        decimal(rate(records, elapsed_ms), 4),
        decimal(rate(megabytes, fetching_ms), 4),
        decimal(rate(records, fetching_ms), 4)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(line: &str) -> Result<Plan, String> {
        crate::kafka_tools::planned(SPECS, line, plan)
    }

    #[test]
    fn command_lines_of_documents_are_understood() {
        let plan = planned("--bootstrap-server k --topic t --messages 100 --timeout --group g").expect("a plan");
        assert_eq!((plan.records, plan.timeout_ms, plan.settings.from), (100, 10_000, From::Beginning));
        assert_eq!(plan.settings.group.map(|group| group.group), Some("g".to_owned()));
        let plan =
            planned("--bootstrap-server k --topic t --num-records 1 --fetch-size 5 --timeout 7").expect("a plan");
        assert_eq!((plan.settings.fetch_bytes, plan.timeout_ms), (5, 7));
        let text = |line: &str| planned(line).err().unwrap_or_default();
        assert!(text("--bootstrap-server k --topic t").contains("num-records"));
        assert!(text("--bootstrap-server k --num-records 5").contains("topic"));
        assert!(text("--topic t --num-records 5 --include x").contains("include is not supported"));
        assert!(text("--bootstrap-server k --topic t --num-records 5 --date-format E").contains("not supported"));
        assert!(
            text("--bootstrap-server k --topic t --num-records 5 --reporting-interval 0").contains("greater than 0")
        );
    }

    #[test]
    fn lines_are_those_of_kafkas_tool() {
        let format = DateFormat::parse("yyyy-MM-dd HH:mm:ss:SSS").expect("a pattern");
        let start = Progress { at_ms: 1_795_252_618_000, ..Progress::default() };
        let end = Progress { at_ms: start.at_ms + 2_000, records: 4_000, bytes: 4 << 20, joining_ms: 1_000 };
        assert_eq!(
            total_line(&format, &start, &end),
            "2026-11-21 09:16:58:000, 2026-11-21 09:17:00:000, 4.0000, 2.0000, 4000, 2000.0000, 1000, 1000, 4.0000, 4000.0000"
        );
        assert_eq!(
            interval_line(&format, &start, &end),
            "2026-11-21 09:17:00:000, 0, 4.0000, 2.0000, 4000, 2000.0000, 1000, 1000, 4.0000, 4000.0000"
        );
    }
}
