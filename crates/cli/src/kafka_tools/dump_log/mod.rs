//! `kafka-dump-log`: the content of a log's files, as Kafka's tool prints it. It works on the files alone, without a
//! broker, and holds one batch at a time.

mod batches;
mod decoder;
mod findings;
pub mod group_records;
mod indexes;
mod text;
pub mod transaction_records;

use std::path::PathBuf;
use std::process::ExitCode;

use self::batches::LogDump;
pub use self::decoder::{Decoded, number};
use self::decoder::{Decoder, Parser};
use self::findings::{Complaints, DumpError};
use self::indexes::IndexCheck;
use self::text::Text;
use super::options::{OptionSpec, Options, Takes, flag, maybe_value, refused, value};
use super::{ToolError, run_tool};
use crate::err;

pub(super) static SPECS: &[OptionSpec] = &[
    refused("cluster-metadata-decoder", Takes::Nothing, "the metadata of a cluster is not kept in a log of records"),
    flag("deep-iteration", "Show each record. Set if print-data-log is."),
    value("files", "String: file1, file2, ...", "REQUIRED: The comma separated list of files to be dumped."),
    flag("help", "Print usage information."),
    flag("index-sanity-check", "Only check the indexes as a broker does when it starts."),
    maybe_value("key-decoder-class", "String", "StringDecoder (default), IntegerDecoder or LongDecoder, for keys."),
    value("max-bytes", "Integer: size", "Read at most so many bytes of a .log file. (default: 2147483647)"),
    value("max-message-size", "Integer: size", "Size of the largest batch that an index names. (default: 5242880)"),
    flag("offsets-decoder", "Show the records as those of __consumer_offsets."),
    flag("print-data-log", "Show keys and values. Set if a decoder is."),
    refused("remote-log-metadata-decoder", Takes::Nothing, "there is no remote storage"),
    refused("share-group-state-decoder", Takes::Nothing, "there are no share groups"),
    flag("skip-record-metadata", "Show keys and values alone."),
    flag("transaction-log-decoder", "Show the records as those of __transaction_state."),
    maybe_value("value-decoder-class", "String", "StringDecoder (default), IntegerDecoder or LongDecoder, for values."),
    flag("verify-index-only", "Check the indexes against their logs without printing them."),
    flag("version", "Display the version."),
];

/// Kafka's default for `--max-message-size`.
const MESSAGE_BYTES_MAX: i32 = 5 * 1_024 * 1_024;

struct Plan {
    files: Vec<PathBuf>,
    log: LogDump,
    index: IndexCheck,
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to parse a log file and dump its contents to the console, useful for debugging a seemingly corrupt log segment.";

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool(PURPOSE, SPECS, arguments, plan, |plan| async move {
        let mut out = Text::to_stdout();
        let result = dump(&plan, &mut out);
        out.finish();
        match result {
            Ok(complaints) => {
                complaints.iter().for_each(|line| err!("{line}"));
                ExitCode::SUCCESS
            }
            Err(error) => {
                err!("{error}");
                ExitCode::FAILURE
            }
        }
    })
    .await
}

/// What is wrong with a line for this tool: of `ottla dump`, which tells it in its own form.
pub fn check(arguments: &[String]) -> Result<(), ToolError> {
    if arguments.is_empty() {
        return Ok(());
    }
    let options = Options::parse(SPECS, arguments)?;
    if options.has("help") || options.has("version") {
        return Ok(());
    }
    plan(&options).map(drop)
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let files = options.required("files")?;
    let is_of_records = ["offsets-decoder", "transaction-log-decoder", "key-decoder-class", "value-decoder-class"]
        .iter()
        .any(|decoder| options.has(decoder));
    let with_content = options.has("print-data-log") || is_of_records;
    let decoder = |name| Decoder::of_class(options.get(name)).map_err(ToolError::Argument);
    let parser = if options.has("offsets-decoder") {
        Parser::Offsets
    } else if options.has("transaction-log-decoder") {
        Parser::Transactions
    } else {
        Parser::Plain { key: decoder("key-decoder-class")?, value: decoder("value-decoder-class")? }
    };
    Ok(Plan {
        // As Java splits: empty names at the end are none.
        files: files.trim_end_matches(',').split(',').map(PathBuf::from).collect(),
        log: LogDump {
            is_deep: options.has("deep-iteration") || with_content,
            content: with_content.then_some(parser),
            skips_metadata: options.has("skip-record-metadata"),
            max_bytes: options.number("max-bytes")?.unwrap_or(i32::MAX),
        },
        index: IndexCheck {
            sanity_only: options.has("index-sanity-check"),
            verify_only: options.has("verify-index-only"),
            message_bytes_max: options.number("max-message-size")?.unwrap_or(MESSAGE_BYTES_MAX),
        },
    })
}

/// Dumps each file; the lines about what is wrong with them come last.
fn dump(plan: &Plan, out: &mut Text<'_>) -> Result<Vec<String>, DumpError> {
    let mut wrong = Complaints::default();
    for file in &plan.files {
        out.line(format_args!("Dumping {}", file.display()));
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match name.rsplit_once('.').map(|(_, suffix)| suffix) {
            Some("log") => plan.log.dump(file, out, &mut wrong)?,
            Some("index") => plan.index.offsets(file, out, &mut wrong)?,
            Some("timeindex") => plan.index.times(file, out, &mut wrong)?,
            Some("snapshot") => indexes::producers(file, out, &mut wrong)?,
            Some("txnindex") => indexes::aborted(file, out)?,
            _ => {
                out.flush();
                err!("Ignoring unknown file {}", file.display());
            }
        }
    }
    Ok(wrong.into_lines())
}

#[cfg(test)]
mod tests;
