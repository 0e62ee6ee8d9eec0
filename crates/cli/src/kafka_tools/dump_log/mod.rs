//! `kafka-dump-log`: the content of a log's files, as Kafka's tool prints it. It works on the files alone, without a
//! broker, and holds one batch at a time.

mod batches;
mod decoder;
pub mod group_records;
mod indexes;
mod text;
pub mod transaction_records;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ottla_protocol::record_batch::{HeaderError, RecordsError, UnknownCompression};

use self::batches::LogDump;
pub use self::decoder::{Decoded, number};
use self::decoder::{Decoder, Parser};
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

/// What ends the dump; the text is shown, and the exit code is 1.
#[derive(Debug, thiserror::Error)]
enum DumpError {
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    #[error("{0}: the name does not begin with an offset")]
    Name(PathBuf),
    #[error("Found record size {size} smaller than minimum record overhead (14) in file {file}.")]
    TooSmall { size: i32, file: PathBuf },
    #[error("{0}: the batch at byte {1}: {2}")]
    Header(PathBuf, u64, HeaderError),
    #[error("{0}: the batch at byte {1}: {2}")]
    Compression(PathBuf, u64, UnknownCompression),
    #[error("{0}: the batch at byte {1}: {2}")]
    Records(PathBuf, u64, RecordsError),
    #[error("{0}: the batch at byte {1} has {2} bytes, more than the {max} that are read", max = batches::BATCH_BYTES_MAX)]
    TooLarge(PathBuf, u64, usize),
    #[error("{0}: no batch of at most {1} bytes at byte {2}; see --max-message-size")]
    NoBatch(PathBuf, i32, u64),
    #[error("Failed to decode message at offset {0} using the specified decoder (message had a missing key)")]
    NoKey(i64),
    #[error("offset {offset}: {bytes} bytes are too few for {class}")]
    TooShort { offset: i64, bytes: usize, class: &'static str },
    /// An index that a broker would build again.
    #[error("{0}")]
    CorruptIndex(String),
}

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

/// What was found to be wrong, in the order of the files; a pair of numbers for each fault.
#[derive(Default)]
struct Complaints {
    /// A line for each snapshot that cannot be read.
    snapshots: Vec<String>,
    mismatches: Vec<(PathBuf, Vec<(i64, i64)>)>,
    times: Vec<(PathBuf, Vec<(i64, i64)>)>,
    disordered_times: Vec<(PathBuf, Vec<(i64, i64)>)>,
    not_found: Vec<(PathBuf, Vec<(i64, i64)>)>,
    /// One pair for each gap: 16 bytes a record at most.
    gaps: Vec<(PathBuf, Vec<(i64, i64)>)>,
}

impl Complaints {
    fn into_lines(self) -> Vec<String> {
        let mut lines = self.snapshots;
        let mut table = |found: Vec<(PathBuf, Vec<(i64, i64)>)>, title: &str, row: &dyn Fn(i64, i64) -> String| {
            for (file, pairs) in found.into_iter().filter(|(_, pairs)| !pairs.is_empty()) {
                lines.push(format!("{title}{}", absolute(&file).display()));
                lines.extend(pairs.into_iter().map(|(first, second)| row(first, second)));
            }
        };
        table(self.mismatches, "Mismatches in :", &|index, log| format!("  Index offset: {index}, log offset: {log}"));
        table(self.times, "Found timestamp mismatch in :", &|index, log| {
            format!("  Index timestamp: {index}, log timestamp: {log}")
        });
        table(self.disordered_times, "Found out of order timestamp in :", &|index, before| {
            format!("  Index timestamp: {index}, Previously indexed timestamp: {before}")
        });
        table(self.not_found, "The following indexed offsets are not found in :", &|index, log| {
            format!("Indexed offset: {index}, found log offset: {log}")
        });
        table(self.gaps, "Non-consecutive offsets in ", &|before, after| format!("  {before} is followed by {after}"));
        lines
    }
}

fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf())
}

fn open(file: &Path) -> Result<File, DumpError> {
    File::open(file).map_err(|error| DumpError::File(file.to_path_buf(), error))
}

/// The offset that a file's name begins with.
fn base_offset(file: &Path) -> Result<i64, DumpError> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let digits = name.split('.').next().unwrap_or_default();
    digits.parse().map_err(|_| DumpError::Name(file.to_path_buf()))
}

#[cfg(test)]
mod tests;
