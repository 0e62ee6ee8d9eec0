//! `kafka-metadata-quorum`: the leader of the metadata quorum, how far the coordinators and brokers have got, and the
//! removal of a coordinator.

use std::process::ExitCode;

use ottla_client::{QuorumDescription, QuorumReplica};
use ottla_model::TopicId;

use super::options::{OptionSpec, Options, OptionsError, Takes, flag, refused, usage, value};
use super::{ToolError, bootstrap, client_properties, exceptions, now_ms};
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

const NO_ADD: &str = "add-controller reads the files of Kafka's controllers; ottla quorum add ID@host:port adds one";

pub(super) static SPECS: &[OptionSpec] = &[
    refused("bootstrap-controller", Takes::Value, "there are no KRaft controllers; brokers answer"),
    value("bootstrap-server", "BOOTSTRAP_SERVER", "REQUIRED: A list of host/port pairs to connect to."),
    value("command-config", "COMMAND_CONFIG", "A file with a client's properties, such as security.protocol."),
    value("controller-directory-id", "DIRECTORY_ID", "remove-controller: the id of the coordinator's disk."),
    value("controller-id", "ID", "remove-controller: the id of the coordinator."),
    flag("dry-run", "remove-controller: print what would be done, and do nothing."),
    flag("help", "Show this message."),
    flag("human-readable", "describe --replication: times as milliseconds ago."),
    flag("replication", "describe: one line for each coordinator and broker."),
    flag("status", "describe: a short summary."),
];

const USAGE: &str = "usage: kafka-metadata-quorum --bootstrap-server BOOTSTRAP_SERVER describe [--status] [--replication] | \
     remove-controller --controller-id ID --controller-directory-id DIRECTORY_ID [--dry-run]";
const COMMANDS: [&str; 3] = ["describe", "add-controller", "remove-controller"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum View {
    Status,
    Replication { human_readable: bool },
    Remove { id: i32, directory: TopicId, dry_run: bool },
}

pub async fn run(arguments: &[String]) -> ExitCode {
    let (view, options) = match plan(arguments) {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            out!("{USAGE}\n\n{}", usage(SPECS).trim_end());
            return ExitCode::SUCCESS;
        }
        Err(ToolError::Argument(text)) => {
            err!("{text}");
            return ExitCode::FAILURE;
        }
        Err(ToolError::Options(error @ OptionsError::Refused(..))) => {
            err!("kafka-metadata-quorum: error: {error}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            err!("{USAGE}\nkafka-metadata-quorum: error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match describe(view, &options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            err!("{}: {error}", exceptions::class(&error));
            ExitCode::FAILURE
        }
    }
}

/// None asks for help.
fn plan(arguments: &[String]) -> Result<Option<(View, Options)>, ToolError> {
    let command = arguments.iter().find(|word| COMMANDS.contains(&word.as_str())).map(String::as_str);
    if command == Some("add-controller") {
        return Err(ToolError::Argument(format!("add-controller is not supported: {NO_ADD}")));
    }
    let long = |word: &String| if word == "-h" { "--help".to_owned() } else { word.clone() };
    let options = Options::parse(SPECS, &arguments.iter().map(long).collect::<Vec<_>>())?;
    if options.has("help") {
        return Ok(None);
    }
    if command.is_none() {
        return Err(ToolError::Usage(format!("the command is one of {}", COMMANDS.join(", "))));
    }
    let others: &[&str] = match command {
        Some("remove-controller") => &["human-readable", "replication", "status"],
        _ => &["controller-directory-id", "controller-id", "dry-run"],
    };
    if let Some(other) = others.iter().find(|name| options.has(name)) {
        return Err(ToolError::Usage(format!("unrecognized arguments: '--{other}'")));
    }
    client_properties(&options, &["command-config"], &[])?;
    bootstrap(&options)?;
    let human_readable = options.has("human-readable");
    let refused = |text: &str| Err(ToolError::Argument(text.to_owned()));
    if command == Some("remove-controller") {
        let (Some(id), Some(directory)) = (options.get("controller-id"), options.get("controller-directory-id")) else {
            return Err(ToolError::Usage("--controller-id and --controller-directory-id are required".to_owned()));
        };
        let Some(id) = id.parse::<i32>().ok().filter(|id| *id >= 0) else {
            return refused(&format!("Invalid negative --controller-id: {id}"));
        };
        let Ok(directory) = directory.parse::<TopicId>() else {
            return refused(&format!("Failed to parse --controller-directory-id: {directory}"));
        };
        return Ok(Some((View::Remove { id, directory, dry_run: options.has("dry-run") }, options)));
    }
    let view = match (options.has("status"), options.has("replication")) {
        (true, true) => {
            return refused("Only one of --status or --replication should be specified with describe sub-command");
        }
        (false, true) => View::Replication { human_readable },
        (true, false) if human_readable => {
            return refused("The option --human-readable is only supported along with --replication");
        }
        (true, false) => View::Status,
        (false, false) => {
            return refused("One of --status or --replication must be specified with describe sub-command");
        }
    };
    Ok(Some((view, options)))
}

async fn describe(view: View, options: &Options) -> Result<(), ToolError> {
    if let View::Remove { id, directory, dry_run } = view {
        if !dry_run {
            let kafka = Kafka::connect(bootstrap(options)?).await?;
            kafka.client().remove_raft_voter(id, directory).await.map_err(KafkaError::from)?;
        }
        let prefix = if dry_run { "DRY RUN of removing" } else { "Removed" };
        out!("{prefix}  KRaft controller {id} with directory id {directory}");
        return Ok(());
    }
    let kafka = Kafka::connect(bootstrap(options)?).await?;
    let quorum = kafka.client().describe_quorum().await.map_err(KafkaError::from)?;
    match view {
        View::Status => {
            let cluster = kafka.client().describe_cluster().await.map_err(KafkaError::from)?;
            out!("{}", status(&cluster.cluster_id, &quorum));
        }
        View::Replication { human_readable } => {
            let now = human_readable.then(now_ms);
            replication(&quorum, now).iter().for_each(|line| out!("{line}"));
        }
        View::Remove { .. } => {}
    }
    Ok(())
}

fn status(cluster_id: &str, quorum: &QuorumDescription) -> String {
    let leader = quorum.voters.iter().find(|voter| voter.id == quorum.leader);
    let last = quorum.voters.iter().min_by_key(|voter| voter.log_end_offset);
    let (lag, lag_ms) = match leader.zip(last) {
        Some((leader, last)) => (leader.log_end_offset - last.log_end_offset, time_lag_ms(leader, last)),
        None => (0, -1),
    };
    let voters: Vec<_> =
        quorum.voters.iter().map(|voter| replica(voter, quorum.endpoints.get(&voter.id).map(Vec::as_slice))).collect();
    let observers: Vec<_> = quorum.observers.iter().map(|observer| replica(observer, None)).collect();
    let lines = [
        ("ClusterId:", cluster_id.to_owned()),
        ("LeaderId:", quorum.leader.to_string()),
        ("LeaderEpoch:", quorum.leader_epoch.to_string()),
        ("HighWatermark:", quorum.high_watermark.to_string()),
        ("MaxFollowerLag:", lag.to_string()),
        ("MaxFollowerLagTimeMs:", lag_ms.to_string()),
        ("CurrentVoters:", format!("[{}]", voters.join(", "))),
        ("CurrentObservers:", format!("[{}]", observers.join(", "))),
    ];
    lines.map(|(name, value)| format!("{name:<24}{value}")).join("\n")
}

fn time_lag_ms(leader: &QuorumReplica, last: &QuorumReplica) -> i64 {
    match (leader.last_caught_up_ms, last.last_caught_up_ms) {
        _ if leader.id == last.id => 0,
        (leader, last) if leader >= 0 && last >= 0 => leader - last,
        _ => -1,
    }
}

fn replica(replica: &QuorumReplica, endpoints: Option<&[String]>) -> String {
    let mut fields = vec![format!("\"id\": {}", replica.id)];
    if replica.directory != TopicId::default() {
        fields.push(format!("\"directoryId\": \"{}\"", replica.directory));
    }
    if let Some(endpoints) = endpoints {
        let quoted: Vec<_> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
        fields.push(format!("\"endpoints\": [{}]", quoted.join(", ")));
    }
    format!("{{{}}}", fields.join(", "))
}

/// A table: the leader, the other voters, the observers. With `now`, times are shown as milliseconds ago.
fn replication(quorum: &QuorumDescription, now: Option<i64>) -> Vec<String> {
    let end = quorum.voters.iter().find(|voter| voter.id == quorum.leader).map_or(0, |leader| leader.log_end_offset);
    let time = |ms: i64| match now {
        Some(now) if ms >= 0 => format!("{} ms ago", (now - ms).max(0)),
        _ => ms.to_string(),
    };
    let row = |replica: &QuorumReplica, status: &str| {
        [
            replica.id.to_string(),
            replica.directory.to_string(),
            replica.log_end_offset.to_string(),
            (end - replica.log_end_offset).to_string(),
            time(replica.last_fetch_ms),
            time(replica.last_caught_up_ms),
            status.to_owned(),
        ]
    };
    let names =
        ["NodeId", "DirectoryId", "LogEndOffset", "Lag", "LastFetchTimestamp", "LastCaughtUpTimestamp", "Status"];
    let (leader, followers): (Vec<_>, Vec<_>) = quorum.voters.iter().partition(|voter| voter.id == quorum.leader);
    let mut rows = vec![names.map(str::to_owned)];
    rows.extend(leader.into_iter().map(|replica| row(replica, "Leader")));
    rows.extend(followers.into_iter().map(|replica| row(replica, "Follower")));
    rows.extend(quorum.observers.iter().map(|replica| row(replica, "Observer")));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |row: &[String; 7]| row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}\t")).collect();
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn view(line: &str) -> Result<Option<View>, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        plan(&arguments).map(|plan| plan.map(|(view, _)| view)).map_err(|error| error.to_string())
    }

    #[test]
    fn command_lines_of_documents_are_understood() {
        assert_eq!(view("--bootstrap-server k:9092 describe --status"), Ok(Some(View::Status)));
        let table = Ok(Some(View::Replication { human_readable: true }));
        assert_eq!(view("--bootstrap-server k describe --replication --human-readable"), table);
        assert_eq!(view("describe --re --bootstrap-server k"), Ok(Some(View::Replication { human_readable: false })));
        assert_eq!(view("-h"), Ok(None));
        for (line, text) in [
            ("--bootstrap-server k describe", "One of --status or --replication"),
            ("--bootstrap-server k describe --status --replication", "Only one of"),
            ("--bootstrap-server k describe --status --human-readable", "only supported along with --replication"),
            ("--bootstrap-server k --status", "the command is one of"),
            ("describe --status", "bootstrap-server"),
            ("--bootstrap-server k describe --status --dry-run", "unrecognized arguments: '--dry-run'"),
            ("--bootstrap-server k remove-controller --status", "unrecognized arguments: '--status'"),
            ("--bootstrap-controller k describe --status", "no KRaft controllers"),
            ("--bootstrap-server k add-controller", "add-controller is not supported"),
            ("--bootstrap-server k remove-controller --controller-id 3", "are required"),
            (
                "--bootstrap-server k remove-controller --controller-id x --controller-directory-id y",
                "--controller-id: x",
            ),
        ] {
            assert!(view(line).is_err_and(|error| error.contains(text) && error.lines().count() == 1), "{line}");
        }
    }

    #[test]
    fn a_quorum_is_shown_as_kafkas_tool_shows_it() {
        let replica = |id, directory, log_end_offset, last_caught_up_ms| QuorumReplica {
            id,
            directory: TopicId([directory; 16]),
            log_end_offset,
            last_fetch_ms: 900,
            last_caught_up_ms,
        };
        let quorum = QuorumDescription {
            leader: 2,
            leader_epoch: 5,
            high_watermark: 10,
            voters: vec![replica(1, 0, 7, 850), replica(2, 255, 11, 1_000)],
            observers: vec![replica(4, 0, 10, -1)],
            endpoints: BTreeMap::from([(2, vec!["CONTROLLER://k:2181".to_owned()])]),
        };
        let shown = status("abc", &quorum);
        let expected = "ClusterId:              abc\n\
                        LeaderId:               2\n\
                        LeaderEpoch:            5\n\
                        HighWatermark:          10\n\
                        MaxFollowerLag:         4\n\
                        MaxFollowerLagTimeMs:   150\n\
                        CurrentVoters:          [{\"id\": 1}, {\"id\": 2, \
                        \"directoryId\": \"_____________________w\", \"endpoints\": [\"CONTROLLER://k:2181\"]}]\n\
                        CurrentObservers:       [{\"id\": 4}]";
        assert_eq!(shown, expected);
        let table = replication(&quorum, Some(1_100));
        assert_eq!(table.len(), 4);
        let cells = |line: &String| line.split('\t').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(cells(&table[1])[2..7], ["11", "0", "200 ms ago", "100 ms ago", "Leader"]);
        assert_eq!(cells(&table[2])[2..7], ["7", "4", "200 ms ago", "250 ms ago", "Follower"]);
        assert_eq!(cells(&table[3])[5..7], ["-1", "Observer"]);
    }
}
