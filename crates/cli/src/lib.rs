//! `ottla`: the tools of a cluster, in one binary. Under one of Kafka's names (`kafka-topics`, …) it is that tool.
//!
//! A library, which the binary only calls: cargo compiles a library beside those that it needs, and a binary after all
//! of them.

mod calendar;
mod client_security;
mod commands;
mod consumer;
mod describe;
mod dev;
mod group_consumer;
mod image;
mod kafka;
mod kafka_tools;
mod lines;
mod local;
#[cfg(test)]
mod metrics_page;
mod murmur2;
mod node;
mod output;
mod producer;
mod progress;
mod quorum;
mod replication_throttles;
#[cfg(test)]
mod sample_partitions;
#[cfg(test)]
mod sample_records;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

/// The whole program, with the arguments of the process.
pub fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            err!("ottla: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes on one line. Many errors end with the text of their cause: it is told once. What a broker
/// refused is told in its words, without the name of the code.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let next = match cause.downcast_ref::<ottla_client::ClientError>() {
            Some(refused) => kafka::KafkaError::from(refused.clone()).to_string(),
            None => cause.to_string(),
        };
        if text.is_empty() {
            text = next;
        } else if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
    }
    text
}

fn run() -> anyhow::Result<ExitCode> {
    let mut line = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).peekable();
    let mut called = line.next().unwrap_or_default();
    // `ottla as NAME …` is what a link of that name does.
    if line.next_if(|word| word == "as").is_some() {
        called = line.next().unwrap_or_default();
    }
    let called = Path::new(&called).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    // One thread is enough for a tool, and starts fastest.
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let arguments: Vec<String> = line.collect();
    if let Some(code) = image::run(&called, &arguments) {
        return code;
    }
    if let Some(line) = kafka_tools::absent::refusal(&called) {
        err!("{line}");
        return Ok(ExitCode::FAILURE);
    }
    if called.starts_with("kafka-") {
        let runtime = runtime()?;
        let code = runtime.block_on(kafka_tools::run(&called, &arguments));
        // A thread that waits for standard input must not hold the end.
        runtime.shutdown_background();
        return code.ok_or_else(|| anyhow::anyhow!("{called} is not the name of a tool"));
    }
    let parsed = match commands::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.kind() == ErrorKind::DisplayHelp && output::page(&error.render().ansi().to_string()) => {
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            let tip = commands::config::tip(&arguments).filter(|_| error.use_stderr());
            if let Some(tip) = tip {
                // Standard error that is gone has nobody to be told.
                let _ = error.print();
                err!("{tip}");
                return Ok(ExitCode::from(2));
            }
            error.exit()
        }
    };
    if let Some(ended) = parsed.run_services() {
        return ended.map(|()| ExitCode::SUCCESS);
    }
    let runtime = runtime()?;
    let result = runtime.block_on(commands::run(parsed));
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use ottla_client::ClientError;
    use ottla_model::ErrorCode;

    use super::*;

    #[test]
    fn a_cause_is_told_once_and_in_words() {
        #[derive(Debug, thiserror::Error)]
        #[error("the port: {0}")]
        struct Repeats(#[source] std::io::Error);
        let error = anyhow::Error::from(Repeats(std::io::Error::other("in use"))).context("ottla dev");
        assert_eq!(told(&error), "ottla dev: the port: in use");
        let error = anyhow::Error::from(ClientError::refused(ErrorCode::GroupIdNotFound));
        assert!(!told(&error).contains("GroupIdNotFound"), "{}", told(&error));
    }
}
