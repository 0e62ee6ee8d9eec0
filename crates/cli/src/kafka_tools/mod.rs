//! The tools under Kafka's names: their options, output and exit codes, for people's scripts and documents.

pub mod broker_api_versions;
pub mod cluster;
pub mod configs;
pub mod console_consumer;
pub mod console_producer;
pub mod consumer_groups;
pub mod delete_records;
pub mod exceptions;
pub mod format;
pub mod get_offsets;
pub mod log_dirs;
pub mod options;
pub mod topics;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::kafka::KafkaError;
use crate::output::log_time;
use crate::{err, out};
use options::{OptionSpec, Options, OptionsError};

/// Runs the tool of this name (a trailing `.sh` does not matter); none where the name is no tool's.
pub async fn run(name: &str, arguments: &[String]) -> Option<ExitCode> {
    match name.strip_suffix(".sh").unwrap_or(name) {
        "kafka-topics" => Some(topics::run(arguments).await),
        "kafka-console-producer" => Some(console_producer::run(arguments).await),
        "kafka-console-consumer" => Some(console_consumer::run(arguments).await),
        "kafka-consumer-groups" => Some(consumer_groups::run(arguments).await),
        "kafka-get-offsets" => Some(get_offsets::run(arguments).await),
        "kafka-delete-records" => Some(delete_records::run(arguments).await),
        "kafka-configs" => Some(configs::run(arguments).await),
        "kafka-log-dirs" => Some(log_dirs::run(arguments).await),
        "kafka-broker-api-versions" => Some(broker_api_versions::run(arguments).await),
        "kafka-cluster" => Some(cluster::run(arguments).await),
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
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// What every tool begins with: the command line is read, `--help` and `--version` are answered, a line that cannot be carried
/// out is refused; then what `plan` made of it is carried out.
pub async fn run_tool<P, F>(
    specs: &'static [OptionSpec],
    arguments: &[String],
    plan: impl FnOnce(&Options) -> Result<P, ToolError>,
    carry_out: impl FnOnce(P) -> F,
) -> ExitCode
where
    F: Future<Output = ExitCode>,
{
    let options = match Options::parse(specs, arguments) {
        Ok(options) => options,
        Err(error) => return refuse_options(&error.into(), specs),
    };
    if options.has("help") {
        out!("{}", options::usage(specs).trim_end());
        return ExitCode::SUCCESS;
    }
    if options.has("version") {
        out!("{} (Ottla)", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match plan(&options) {
        Ok(plan) => carry_out(plan).await,
        Err(error) => refuse_options(&error, specs),
    }
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

/// What a tool that failed on its command line prints: the reason, and the usage unless the option is unknown.
pub fn refuse_options(error: &ToolError, specs: &[OptionSpec]) -> ExitCode {
    err!("{error}");
    match error {
        ToolError::Options(OptionsError::Unrecognized(_)) => {
            err!("joptsimple.UnrecognizedOptionException: {error}\n");
        }
        _ => err!("{}", options::usage(specs).trim_end()),
    }
    ExitCode::FAILURE
}

/// A line as Kafka's tools log an error: scripts look for the class in it.
pub fn log_error(class: &str, message: &str, logger: &str) {
    log("ERROR", &format!("{class}: {message}\n"), logger);
}

/// A line as Kafka's tools log it.
pub fn log(level: &str, message: &str, logger: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    err!("[{}] {level} {message} ({logger})", log_time(now));
}
