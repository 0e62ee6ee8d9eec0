//! The tools under Kafka's names: their options, output and exit codes, for people's scripts and documents.

pub mod absent;
pub mod acls;
pub mod broker_api_versions;
pub mod client_metrics;
pub mod client_quotas;
pub mod cluster;
pub mod configs;
pub mod console_consumer;
pub mod console_producer;
pub mod consumer_groups;
pub mod coordinator_formatter;
pub mod delegation_tokens;
pub mod delete_records;
pub mod deserializer;
pub mod dump_log;
pub mod exceptions;
pub mod features;
pub mod format;
pub mod get_offsets;
pub mod groups;
mod json;
pub mod leader_election;
pub mod log_dirs;
pub mod metadata_quorum;
pub mod metadata_shell;
pub mod options;
pub mod perf;
pub mod reassign_partitions;
pub mod replica_verification;
pub mod streams_reset;
pub mod topics;
pub mod transactions;
pub mod users;
pub mod verifiable;
pub mod zookeeper;

#[cfg(test)]
mod option_tests;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client_security;
use crate::kafka::KafkaError;
use crate::output::{self, log_time};
use crate::{err, out};
use options::{OptionSpec, Options, OptionsError};

/// Runs the tool of this name (a trailing `.sh` does not matter); none where the name is no tool's.
pub async fn run(name: &str, arguments: &[String]) -> Option<ExitCode> {
    match name.strip_suffix(".sh").unwrap_or(name) {
        "kafka-acls" => Some(acls::run(arguments).await),
        "kafka-client-metrics" => Some(client_metrics::run(arguments).await),
        "kafka-replica-verification" => Some(replica_verification::run(arguments).await),
        "kafka-topics" => Some(topics::run(arguments).await),
        "kafka-console-producer" => Some(console_producer::run(arguments).await),
        "kafka-console-consumer" => Some(console_consumer::run(arguments).await),
        "kafka-consumer-groups" => Some(consumer_groups::run(arguments).await),
        "kafka-features" => Some(features::run(arguments).await),
        "kafka-groups" => Some(groups::run(arguments).await),
        "kafka-get-offsets" => Some(get_offsets::run(arguments).await),
        "kafka-delegation-tokens" => Some(delegation_tokens::run(arguments).await),
        "kafka-delete-records" => Some(delete_records::run(arguments).await),
        "kafka-configs" => Some(configs::run(arguments).await),
        "kafka-leader-election" => Some(leader_election::run(arguments).await),
        "kafka-reassign-partitions" => Some(reassign_partitions::run(arguments).await),
        "kafka-consumer-perf-test" => Some(perf::consumer::run(arguments).await),
        "kafka-e2e-latency" => Some(perf::latency::run(arguments).await),
        "kafka-producer-perf-test" => Some(perf::producer::run(arguments).await),
        "kafka-verifiable-consumer" => Some(verifiable::consumer::run(arguments).await),
        "kafka-verifiable-producer" => Some(verifiable::producer::run(arguments).await),
        "kafka-dump-log" => Some(dump_log::run(arguments).await),
        "kafka-log-dirs" => Some(log_dirs::run(arguments).await),
        "kafka-broker-api-versions" => Some(broker_api_versions::run(arguments).await),
        "kafka-cluster" => Some(cluster::run(arguments).await),
        "kafka-streams-application-reset" => Some(streams_reset::run(arguments).await),
        "kafka-metadata-shell" => Some(metadata_shell::run(arguments).await),
        "kafka-metadata-quorum" => Some(metadata_quorum::run(arguments).await),
        "kafka-transactions" => Some(transactions::run(arguments).await),
        _ => None,
    }
}

/// A tool's failure before it asked the cluster anything.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The usage is shown with it.
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("{0}")]
    Usage(String),
    /// What Kafka's tools call `IllegalArgumentException`.
    #[error("{0}")]
    Argument(String),
    /// A value of a configuration, which Kafka's tools check before they ask a broker.
    #[error("{0}")]
    Config(String),
    /// What Kafka's tools report by another class of Java: scripts look for it.
    #[error("{text}")]
    Thrown { class: &'static str, text: String },
    /// A value that the parser of Kafka's tools cannot convert, with the exception behind it.
    #[error("{refused}")]
    Unconverted { refused: String, cause: String },
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// With `--zookeeper`: the coordinators were not reached, or refused the call.
    #[error(transparent)]
    Quorum(#[from] ottla_rpc::CallError),
}

impl ToolError {
    /// An exception of Kafka's tools themselves.
    pub fn admin(class: &'static str, text: impl Into<String>) -> Self {
        Self::Thrown { class, text: text.into() }
    }
}

/// The classes of exceptions of Kafka's tools.
pub const COMMAND_FAILED: &str = "org.apache.kafka.tools.AdminCommandFailedException";
pub const OPERATION_FAILED: &str = "org.apache.kafka.tools.AdminOperationException";
const CANNOT_READ: &str = "java.io.IOException";

/// The text of a file that the command line names.
pub fn read_file(path: &str) -> Result<String, ToolError> {
    std::fs::read_to_string(path)
        .map_err(|error| ToolError::admin(CANNOT_READ, format!("Unable to read file {path}: {error}")))
}

/// What every tool begins with: the command line is read, `--help` and `--version` are answered, a line that cannot be
/// carried out is refused; then what `plan` made of it is carried out. To a line without any word the tool says what it
/// is for; where `purpose` is empty, what is missing.
pub async fn run_tool<P, F>(
    purpose: &'static str,
    specs: &'static [OptionSpec],
    arguments: &[String],
    plan: impl FnOnce(&Options) -> Result<P, ToolError>,
    execute: impl FnOnce(P) -> F,
) -> ExitCode
where
    F: Future<Output = ExitCode>,
{
    if arguments.is_empty() && !purpose.is_empty() {
        return tell_purpose(purpose, specs);
    }
    let options = match Options::parse(specs, arguments) {
        Ok(options) => options,
        Err(error) => return refuse_options(&error.into(), specs),
    };
    if options.has("help") {
        tell(options::usage(specs).trim_end());
        return ExitCode::SUCCESS;
    }
    if options.has("version") {
        out!("{} (Ottla)", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    // A tool that is told to use TLS or SASL must not go on without.
    let planned =
        client_properties(&options, &["command-config", "zk-tls-config-file"], &[]).and_then(|_| plan(&options));
    match planned {
        Ok(plan) => execute(plan).await,
        Err(error) => refuse_options(&error, specs),
    }
}

/// Answers `--help`.
pub fn tell(help: &str) {
    if !output::page(help) {
        out!("{help}");
    }
}

/// What a tool says to a line without any word.
pub fn tell_purpose(purpose: &str, specs: &[OptionSpec]) -> ExitCode {
    err!("{purpose}\n{}", options::usage(specs).trim_end());
    ExitCode::FAILURE
}

/// What a tool makes of a line of words, or what it says of it: for the tools' tests.
#[cfg(test)]
fn planned<P>(
    specs: &'static [OptionSpec],
    line: &str,
    plan: impl FnOnce(&Options) -> Result<P, ToolError>,
) -> Result<P, String> {
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    Options::parse(specs, &arguments)
        .map_err(ToolError::from)
        .and_then(|options| plan(&options))
        .map_err(|error| error.to_string())
}

/// `--bootstrap-server`, or `--broker-list` as it was called before.
pub fn bootstrap(options: &options::Options) -> Result<&str, OptionsError> {
    match options.get("bootstrap-server").or_else(|| options.get("broker-list")) {
        Some(servers) => Ok(servers),
        None => Err(OptionsError::Missing("bootstrap-server")),
    }
}

/// The properties of a client: those of the files that `files` name, then those of `pairs`, which win. What they say of
/// TLS and SASL holds for this process from then on.
pub fn client_properties(
    options: &options::Options,
    files: &[&'static str],
    pairs: &[&'static str],
) -> Result<Vec<(String, String)>, ToolError> {
    let mut properties = file_properties(options, files)?;
    for name in pairs {
        properties.extend(options.pairs(name)?);
    }
    client_security::take_over(&properties).map_err(ToolError::Argument)?;
    Ok(properties)
}

/// Names the properties that have no effect, as Kafka's clients do.
pub fn warn_unused(properties: &[(String, String)], used: &[&str], logger: &str) {
    let is_used = |name: &str| used.contains(&name) || client_security::is_read(name);
    let unused: BTreeSet<&str> =
        properties.iter().map(|(name, _)| name.as_str()).filter(|name| !is_used(name)).collect();
    if !unused.is_empty() {
        let names = unused.into_iter().collect::<Vec<_>>().join(", ");
        log("WARN", &format!("These configurations '[{names}]' were supplied but are not used yet."), logger);
    }
}

/// The properties in the files that options name.
pub fn file_properties(options: &options::Options, files: &[&'static str]) -> Result<Vec<(String, String)>, ToolError> {
    let mut properties = Vec::new();
    for path in files.iter().filter_map(|name| options.get(name)) {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ToolError::Argument(format!("Unable to read file {path}: {error}")))?;
        properties.extend(ottla_config::parse_properties(&text));
    }
    Ok(properties)
}

/// What a tool that failed on its command line prints: the reason, and the usage unless the option is unknown
/// or its value is wrong.
pub fn refuse_options(error: &ToolError, specs: &[OptionSpec]) -> ExitCode {
    if let ToolError::Config(_) = error {
        err!("{}: {error}", exceptions::class(error));
        return ExitCode::FAILURE;
    }
    err!("{error}");
    match error {
        ToolError::Options(OptionsError::Unrecognized(_)) => {
            err!("joptsimple.UnrecognizedOptionException: {error}\n");
        }
        ToolError::Options(OptionsError::Refused(..)) => {}
        // Kafka's tools print it twice: the text, and the exception with its stack.
        ToolError::Unconverted { cause, .. } => err!("{}: {error}\nCaused by: {cause}", exceptions::class(error)),
        ToolError::Argument(_) | ToolError::Thrown { .. } => err!("{}: {error}", exceptions::class(error)),
        _ => err!("{}", options::usage(specs).trim_end()),
    }
    ExitCode::FAILURE
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    i64::try_from(now).unwrap_or(i64::MAX)
}

/// A line as Kafka's tools log an error: scripts look for the class in it.
pub fn log_error(class: &str, message: &str, logger: &str) {
    log("ERROR", &format!("{class}: {message}\n"), logger);
}

/// A line as Kafka's tools log it.
pub fn log(level: &str, message: &str, logger: &str) {
    err!("[{}] {level} {message} ({logger})", stamp());
}

/// The time, as Kafka's tools write it.
pub fn stamp() -> String {
    log_time(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}
