//! The tools under Kafka's names: their options, output and exit codes, for people's scripts and documents.

pub mod console_consumer;
pub mod console_producer;
pub mod format;
pub mod options;
pub mod topics;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ottla_model::ErrorCode;

use crate::err;
use crate::kafka::KafkaError;
use crate::output::log_time;
use options::{OptionSpec, OptionsError};

/// Runs the tool of this name (a trailing `.sh` does not matter); none where the name is no tool's.
pub async fn run(name: &str, arguments: &[String]) -> Option<ExitCode> {
    match name.strip_suffix(".sh").unwrap_or(name) {
        "kafka-topics" => Some(topics::run(arguments).await),
        "kafka-console-producer" => Some(console_producer::run(arguments).await),
        "kafka-console-consumer" => Some(console_consumer::run(arguments).await),
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
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    err!("[{}] ERROR {class}: {message}\n ({logger})", log_time(now));
}

/// The same for a message without a class.
pub fn log_plain_error(message: &str, logger: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    err!("[{}] ERROR {message} ({logger})", log_time(now));
}

/// The Java class that an error is known by.
pub fn exception_class(error: &ToolError) -> &'static str {
    let ToolError::Kafka(KafkaError::Refused { code, .. }) = error else {
        return match error {
            ToolError::Kafka(_) => "org.apache.kafka.common.errors.TimeoutException",
            _ => "java.lang.IllegalArgumentException",
        };
    };
    match code {
        ErrorCode::TopicAlreadyExists => "org.apache.kafka.common.errors.TopicExistsException",
        ErrorCode::InvalidReplicationFactor => "org.apache.kafka.common.errors.InvalidReplicationFactorException",
        ErrorCode::InvalidPartitions => "org.apache.kafka.common.errors.InvalidPartitionsException",
        ErrorCode::InvalidTopicException => "org.apache.kafka.common.errors.InvalidTopicException",
        ErrorCode::InvalidConfig => "org.apache.kafka.common.errors.InvalidConfigurationException",
        ErrorCode::InvalidReplicaAssignment => "org.apache.kafka.common.errors.InvalidReplicaAssignmentException",
        ErrorCode::UnknownTopicOrPartition => "org.apache.kafka.common.errors.UnknownTopicOrPartitionException",
        ErrorCode::TopicDeletionDisabled => "org.apache.kafka.common.errors.TopicDeletionDisabledException",
        ErrorCode::PolicyViolation => "org.apache.kafka.common.errors.PolicyViolationException",
        ErrorCode::InvalidRequest => "org.apache.kafka.common.errors.InvalidRequestException",
        ErrorCode::UnsupportedVersion => "org.apache.kafka.common.errors.UnsupportedVersionException",
        ErrorCode::RequestTimedOut => "org.apache.kafka.common.errors.TimeoutException",
        ErrorCode::TopicAuthorizationFailed => "org.apache.kafka.common.errors.TopicAuthorizationException",
        ErrorCode::ClusterAuthorizationFailed => "org.apache.kafka.common.errors.ClusterAuthorizationException",
        _ => "org.apache.kafka.common.errors.ApiException",
    }
}
