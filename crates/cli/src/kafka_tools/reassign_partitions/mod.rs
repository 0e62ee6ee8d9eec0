//! `kafka-reassign-partitions`: partitions get other replicas, on other brokers or in other log directories.

mod file;
mod moves;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use ottla_client::{
    Client, ClientError, ConfigChange, ConfigResource, DescribedTopic, Reassignment, ReassignmentRefused,
};
use ottla_metadata::placement::{self, Seeded, UsableBroker};
use ottla_model::{BrokerId, ErrorCode, TopicPartition};

use super::options::{OptionSpec, Options, OptionsError, Takes, flag, refused, value};
use super::{COMMAND_FAILED, ToolError, exceptions, run_tool};
use crate::kafka::{Kafka, KafkaError};
use crate::out;
use crate::replication_throttles::{self, LOG_DIR_RATE, Removed};
use file::{Wanted, joined};

pub(super) static SPECS: &[OptionSpec] = &[
    flag("additional", "Execute this reassignment in addition to any other ongoing ones."),
    refused("bootstrap-controller", Takes::Value, "coordinators do not speak Kafka's protocol; ask a broker"),
    value(
        "bootstrap-server",
        "Server(s) to use for bootstrapping",
        "REQUIRED: the server(s) to use for bootstrapping.",
    ),
    value(
        "broker-list",
        "brokerlist",
        "The brokers to which the partitions are to be moved, in the form \"0,1,2\". REQUIRED with --generate.",
    ),
    flag("cancel", "Cancel an active reassignment."),
    value(
        "command-config",
        "Admin client property file",
        "A file with a client's properties; security.protocol can only be PLAINTEXT.",
    ),
    flag("disable-rack-aware", "Disable rack aware replica assignment."),
    flag(
        "disallow-replication-factor-change",
        "Refuse a reassignment that gives a partition another number of replicas.",
    ),
    flag("execute", "Begin the reassignment that --reassignment-json-file describes."),
    flag("generate", "Propose a reassignment. It is only shown, not executed."),
    flag("help", "Print usage information."),
    flag("list", "List all active partition reassignments."),
    flag("preserve-throttles", "Do not modify broker or topic throttles."),
    value(
        "reassignment-json-file",
        "manual assignment json file path",
        "The JSON file with the reassignment: {\"partitions\": [{\"topic\": \"foo\", \"partition\": 1, \"replicas\": [1,2,3], \"log_dirs\": [\"dir1\",\"dir2\",\"dir3\"]}], \"version\":1}. log_dirs is optional: \"any\", or the path of a log directory of the broker.",
    ),
    value(
        "replica-alter-log-dirs-throttle",
        "replicaAlterLogDirsThrottle",
        "The bytes per second that a broker moves between its log directories at most, from now on and until --verify or --cancel. At least 1 KB/s.",
    ),
    value(
        "throttle",
        "throttle",
        "The bytes per second that the moved replicas take between brokers at most, from now on and until --verify or --cancel. At least 1 KB/s.",
    ),
    value(
        "timeout",
        "timeout",
        "How long to wait for moves to other log directories to begin, in milliseconds; 10000 by default.",
    ),
    value(
        "topics-to-move-json-file",
        "topics to reassign json file path",
        "The topics that --generate proposes a reassignment for: {\"topics\": [{\"topic\": \"foo\"},{\"topic\": \"foo1\"}], \"version\":1}.",
    ),
    flag("verify", "Show whether the reassignment that --reassignment-json-file describes is completed."),
    flag("version", "Display the version."),
];

const ACTIONS: [&str; 5] = ["generate", "execute", "verify", "cancel", "list"];
/// Each option with the actions that it may stand beside.
const OPTIONS_OF_ACTIONS: &[(&str, &[&str])] = &[
    ("reassignment-json-file", &["execute", "verify", "cancel"]),
    ("topics-to-move-json-file", &["generate"]),
    ("broker-list", &["generate"]),
    ("disable-rack-aware", &["generate"]),
    ("additional", &["execute"]),
    ("disallow-replication-factor-change", &["execute"]),
    ("replica-alter-log-dirs-throttle", &["execute"]),
    ("throttle", &["execute"]),
    ("timeout", &["execute", "cancel"]),
    ("preserve-throttles", &["verify", "cancel"]),
];
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the cluster may take to begin or cancel reassignments.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);

const VERIFY_PERIODICALLY: &str =
    "Warning: You must run --verify periodically, until the reassignment completes, to ensure the throttle is removed.";

const EXISTING: &str = "Cannot execute because there is an existing partition assignment.  Use --additional to override this and create a new partition assignment in addition to the existing one. The --additional flag can also be used to change the throttle by resubmitting the current reassignment.";

/// Why nothing, or not everything, was done.
#[derive(Debug, thiserror::Error)]
pub enum ReassignError {
    /// One line.
    #[error("{0}")]
    Terse(String),
    /// Kafka's `AdminCommandFailedException`.
    #[error("{0}")]
    Failed(String),
    /// There are not enough brokers for a topic's replicas.
    #[error("{0}")]
    Unplaceable(String),
    /// A topic or partition that is not there.
    #[error("org.apache.kafka.common.errors.UnknownTopicOrPartitionException: {0}")]
    Unknown(String),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

impl From<ClientError> for ReassignError {
    fn from(error: ClientError) -> Self {
        Self::Kafka(error.into())
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Action {
    Generate { topics: String, brokers: String, is_rack_aware: bool },
    Execute { file: String, execution: Execution, timeout: Duration },
    Verify { file: String, preserves_throttles: bool },
    Cancel { file: String, preserves_throttles: bool, timeout: Duration },
    List,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Execution {
    is_additional: bool,
    may_change_factor: bool,
    /// Bytes per second; a negative one changes nothing.
    throttle: i64,
    /// The same, between log directories.
    log_dir_throttle: i64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    bootstrap: String,
    action: Action,
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to move topic partitions between replicas.";

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool(PURPOSE, SPECS, arguments, plan, |plan| async move {
        match carry_out(&plan).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(ReassignError::Terse(text)) => {
                out!("{text}");
                ExitCode::FAILURE
            }
            Err(ReassignError::Failed(text)) => {
                out!("Error: {text}\n{COMMAND_FAILED}: {text}\n");
                ExitCode::FAILURE
            }
            Err(ReassignError::Unplaceable(text)) => {
                let class = exceptions::class_of(ErrorCode::InvalidReplicationFactor);
                out!("Error: {text}\n{class}: {text}\n");
                ExitCode::FAILURE
            }
            Err(ReassignError::Kafka(error)) => {
                let shown = exceptions::shown(&error);
                out!("Error: {shown}\njava.util.concurrent.ExecutionException: {shown}\n");
                ExitCode::FAILURE
            }
            Err(error) => {
                out!("Error: {error}\njava.util.concurrent.ExecutionException: {error}\n");
                ExitCode::FAILURE
            }
        }
    })
    .await
}

fn plan(options: &Options) -> Result<Plan, ToolError> {
    let actions: Vec<&str> = ACTIONS.into_iter().filter(|action| options.has(action)).collect();
    let [action] = actions.as_slice() else {
        let names = ACTIONS.map(|action| format!("--{action}")).join(", ");
        return Err(ToolError::Usage(format!("Command must include exactly one action: {names}")));
    };
    let Some(bootstrap) = options.get("bootstrap-server").map(str::to_owned) else {
        let text = "Please specify either --bootstrap-server or --bootstrap-controller";
        return Err(ToolError::Usage(text.to_owned()));
    };
    let required: &[&'static str] = match *action {
        "generate" => &["topics-to-move-json-file", "broker-list"],
        "list" => &[],
        _ => &["reassignment-json-file"],
    };
    if let Some(missing) = required.iter().find(|name| !options.has(name)) {
        return Err(OptionsError::Missing(missing).into());
    }
    if let Some((option, _)) =
        OPTIONS_OF_ACTIONS.iter().find(|(option, actions)| options.has(option) && !actions.contains(action))
    {
        return Err(ToolError::Usage(format!("Option \"[{option}]\" can't be used with action \"[{action}]\"")));
    }
    let text = |name| options.get(name).unwrap_or_default().to_owned();
    let file = text("reassignment-json-file");
    let timeout = options.number("timeout")?.map_or(TIMEOUT, Duration::from_millis);
    let preserves_throttles = options.has("preserve-throttles");
    let action = match *action {
        "generate" => Action::Generate {
            topics: text("topics-to-move-json-file"),
            brokers: text("broker-list"),
            is_rack_aware: !options.has("disable-rack-aware"),
        },
        "execute" => Action::Execute {
            file,
            execution: Execution {
                is_additional: options.has("additional"),
                may_change_factor: !options.has("disallow-replication-factor-change"),
                throttle: options.number("throttle")?.unwrap_or(-1),
                log_dir_throttle: options.number("replica-alter-log-dirs-throttle")?.unwrap_or(-1),
            },
            timeout,
        },
        "verify" => Action::Verify { file, preserves_throttles },
        "cancel" => Action::Cancel { file, preserves_throttles, timeout },
        _ => Action::List,
    };
    Ok(Plan { bootstrap, action })
}

async fn carry_out(plan: &Plan) -> Result<(), ReassignError> {
    let connect = async || -> Result<Kafka, ReassignError> { Ok(Kafka::connect(&plan.bootstrap).await?) };
    match &plan.action {
        Action::List => list(connect().await?.client()).await,
        Action::Generate { topics, brokers, is_rack_aware } => {
            let topics = file::topics_to_move(&read(topics)?).map_err(ReassignError::Failed)?;
            let brokers = file::brokers(brokers).map_err(ReassignError::Failed)?;
            generate(connect().await?.client(), &topics, &brokers, *is_rack_aware).await
        }
        Action::Execute { file, execution, timeout } => {
            let wanted = wanted(file)?;
            let targets = wanted.to_execute().map_err(ReassignError::Failed)?;
            let kafka = connect().await?;
            let moving = wanted.directories.keys().map(|(broker, _)| *broker).collect();
            execute(kafka.client(), &targets, &moving, *execution).await?;
            match wanted.directories.is_empty() {
                true => Ok(()),
                false => moves::execute(kafka.client(), &wanted.directories, *timeout).await,
            }
        }
        Action::Verify { file, preserves_throttles } => {
            verify(connect().await?.client(), &wanted(file)?, *preserves_throttles).await
        }
        Action::Cancel { file, preserves_throttles, timeout } => {
            cancel(connect().await?.client(), &wanted(file)?, *preserves_throttles, *timeout).await
        }
    }
}

fn read(path: &str) -> Result<String, ReassignError> {
    std::fs::read_to_string(path).map_err(|error| ReassignError::Failed(format!("Unable to read file {path}: {error}")))
}

fn wanted(path: &str) -> Result<Wanted, ReassignError> {
    Wanted::parse(&read(path)?).map_err(ReassignError::Failed)
}

async fn list(client: &Client) -> Result<(), ReassignError> {
    let under_way = client.list_partition_reassignments(None).await?;
    if under_way.is_empty() {
        out!("No partition reassignments found.");
        return Ok(());
    }
    out!("Current partition reassignments:");
    for one in &under_way {
        out!("{}", listed(one));
    }
    Ok(())
}

fn listed(one: &Reassignment) -> String {
    let some = |what, brokers: &[BrokerId]| match brokers.is_empty() {
        true => String::new(),
        false => format!(" {what}: {}.", joined(brokers)),
    };
    let (adding, removing) = (some("adding", &one.adding), some("removing", &one.removing));
    format!("{}: replicas: {}.{adding}{removing}", one.at, joined(&one.replicas))
}

/// The replicas of all partitions of these topics, which must be there.
async fn assignment_of(
    client: &Client,
    topics: &BTreeSet<&str>,
) -> Result<BTreeMap<TopicPartition, Vec<BrokerId>>, ReassignError> {
    let names: Vec<&str> = topics.iter().copied().collect();
    let mut assignment = BTreeMap::new();
    for topic in client.describe_topics(Some(&names)).await? {
        match topic.error {
            ErrorCode::None => assignment.extend(replicas_of(&topic)),
            ErrorCode::UnknownTopicOrPartition => {
                return Err(ReassignError::Unknown(format!("Topic {} not found.", topic.name)));
            }
            code => return Err(KafkaError::refused(code, &exceptions::message(code)).into()),
        }
    }
    Ok(assignment)
}

fn replicas_of(topic: &DescribedTopic) -> impl Iterator<Item = (TopicPartition, Vec<BrokerId>)> + '_ {
    topic.partitions.iter().filter_map(|partition| {
        let name = ottla_model::TopicName::new(&topic.name).ok()?;
        Some((TopicPartition::new(name, partition.partition), partition.replicas.clone()))
    })
}

async fn generate(
    client: &Client,
    topics: &[String],
    brokers: &[BrokerId],
    is_rack_aware: bool,
) -> Result<(), ReassignError> {
    let current = assignment_of(client, &topics.iter().map(String::as_str).collect()).await?;
    let cluster = client.describe_cluster().await?;
    let there = cluster.brokers.into_iter().map(|broker| broker.address);
    let usable: Vec<UsableBroker> = there
        .filter(|address| brokers.contains(&address.id))
        .map(|address| UsableBroker { id: address.id, rack: address.rack.filter(|_| is_rack_aware), is_active: true })
        .collect();
    let without_rack = usable.iter().filter(|broker| broker.rack.is_none()).count();
    if is_rack_aware && without_rack != 0 && without_rack != usable.len() {
        let text = "Not all brokers have rack information. Add --disable-rack-aware in command line to make replica assignment without rack information.";
        return Err(ReassignError::Failed(text.to_owned()));
    }
    let mut seeded = Seeded::new(*uuid::Uuid::new_v4().as_bytes());
    let proposed = propose(&current, &usable, &mut seeded)?;
    let directories = moves::directories(client, &current).await?;
    out!("Current partition replica assignment\n{}\n", file::to_json(&current, &directories));
    out!("Proposed partition reassignment configuration\n{}", file::to_json(&proposed, &BTreeMap::new()));
    Ok(())
}

/// As Kafka's tool says it.
fn too_few(factor: usize, brokers: usize) -> String {
    match brokers {
        0 => "All brokers are currently fenced, or have all their log directories cordoned.".to_owned(),
        _ => format!(
            "The target replication factor of {factor} cannot be reached because only {brokers} broker(s) are registered \
             or some brokers have all their log directories cordoned."
        ),
    }
}

/// Each topic is placed as a new one would be, with as many replicas as its first partition has.
fn propose(
    current: &BTreeMap<TopicPartition, Vec<BrokerId>>,
    brokers: &[UsableBroker],
    seeded: &mut Seeded,
) -> Result<BTreeMap<TopicPartition, Vec<BrokerId>>, ReassignError> {
    let mut topics: BTreeMap<&str, Vec<(&TopicPartition, &Vec<BrokerId>)>> = BTreeMap::new();
    for (at, replicas) in current {
        topics.entry(at.topic.as_str()).or_default().push((at, replicas));
    }
    let mut proposed = BTreeMap::new();
    for partitions in topics.into_values() {
        let factor = partitions.first().map_or(0, |(_, replicas)| replicas.len());
        if factor > brokers.len() {
            return Err(ReassignError::Unplaceable(too_few(factor, brokers.len())));
        }
        let placed = placement::place(brokers.to_vec(), partitions.len(), factor, seeded);
        let placed = placed.map_err(|error| ReassignError::Failed(error.to_string()))?;
        proposed.extend(partitions.into_iter().map(|(at, _)| at.clone()).zip(placed));
    }
    Ok(proposed)
}

async fn execute(
    client: &Client,
    targets: &BTreeMap<TopicPartition, Vec<BrokerId>>,
    moving: &BTreeSet<BrokerId>,
    execution: Execution,
) -> Result<(), ReassignError> {
    let under_way = client.list_partition_reassignments(None).await?;
    if !execution.is_additional && !under_way.is_empty() {
        return Err(ReassignError::Terse(EXISTING.to_owned()));
    }
    let there: BTreeSet<BrokerId> = live_brokers(client).await?;
    if let Some(unknown) = targets.values().flatten().find(|broker| !there.contains(broker)) {
        return Err(ReassignError::Failed(format!("Unknown broker id {unknown}")));
    }
    let mut current = assignment_of(client, &targets.keys().map(|at| at.topic.as_str()).collect()).await?;
    current.retain(|at, _| targets.contains_key(at));
    let missing: Vec<String> = targets.keys().filter(|at| !current.contains_key(at)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return Err(ReassignError::Unknown(format!("Unable to find partition: {}", missing.join(", "))));
    }
    let directories = moves::directories(client, &current).await?;
    out!(
        "Current partition replica assignment\n\n{}\n\nSave this to use as the --reassignment-json-file option during \
         rollback",
        file::to_json(&current, &directories)
    );
    if execution.throttle >= 0 || execution.log_dir_throttle >= 0 {
        out!("{VERIFY_PERIODICALLY}");
    }
    if let Ok(throttle) = u64::try_from(execution.throttle) {
        replication_throttles::set(client, &under_way, targets, &current, throttle).await?;
        out!("The inter-broker throttle limit was set to {throttle} B/s");
    }
    if execution.log_dir_throttle >= 0 {
        let value = execution.log_dir_throttle.to_string();
        let change = [ConfigChange::Set { name: LOG_DIR_RATE.to_owned(), value }];
        for broker in moving {
            client.alter_configs(&ConfigResource::Broker(*broker), &change).await?;
        }
        out!("The replica-alter-dir throttle limit was set to {} B/s", execution.log_dir_throttle);
    }
    let asked = targets.iter().map(|(at, target)| (at.clone(), Some(target.clone()))).collect();
    let refused = client.alter_partition_reassignments(&asked, execution.may_change_factor, ADMIN_TIMEOUT).await?;
    if !refused.is_empty() {
        let refusals = refusals(&refused);
        return Err(ReassignError::Terse(format!("Error reassigning partition(s):\n{refusals}")));
    }
    let partitions: Vec<_> = targets.keys().collect();
    out!("Successfully started partition reassignment{} for {}", plural(targets.len()), joined(&partitions));
    Ok(())
}

fn refusals(refused: &[ReassignmentRefused]) -> String {
    let mut refused: Vec<_> = refused.iter().collect();
    refused.sort_by(|one, other| one.at.cmp(&other.at));
    let line = |one: &ReassignmentRefused| {
        let message = one.message.clone().unwrap_or_else(|| exceptions::message(one.error));
        format!("{}: {message}", one.at)
    };
    refused.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

async fn live_brokers(client: &Client) -> Result<BTreeSet<BrokerId>, ReassignError> {
    let cluster = client.describe_cluster().await?;
    Ok(cluster.brokers.iter().map(|broker| broker.address.id).collect())
}

/// How a partition stands to its target.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Progress {
    UnderWay,
    /// With the replicas that it has.
    Done(Vec<BrokerId>),
}

async fn verify(client: &Client, wanted: &Wanted, preserves_throttles: bool) -> Result<(), ReassignError> {
    let under_way = client.list_partition_reassignments(None).await?;
    let is_under_way = |at: &TopicPartition| under_way.iter().any(|one| one.at == *at);
    let settled: BTreeSet<&str> =
        wanted.targets.iter().filter(|(at, _)| !is_under_way(at)).map(|(at, _)| at.topic.as_str()).collect();
    let mut current = BTreeMap::new();
    let names: Vec<&str> = settled.into_iter().collect();
    if !names.is_empty() {
        for topic in client.describe_topics(Some(&names)).await? {
            current.extend(replicas_of(&topic));
        }
    }
    out!("Status of partition reassignment:");
    let targets: BTreeMap<_, _> = wanted.targets.iter().cloned().collect();
    for (at, target) in &targets {
        let progress = match is_under_way(at) {
            true => Progress::UnderWay,
            false => Progress::Done(current.get(at).cloned().unwrap_or_default()),
        };
        out!("{}", progress_line(at, target, &progress));
    }
    let states = moves::states(client, &wanted.directories).await?;
    out!("{}", moves::lines(&states, &wanted.directories).join("\n"));
    let is_done = under_way.is_empty() && states.values().all(moves::MoveState::is_done);
    if is_done && !preserves_throttles {
        for line in clear_throttles(client, wanted).await? {
            out!("{line}");
        }
    }
    Ok(())
}

fn progress_line(at: &TopicPartition, target: &[BrokerId], progress: &Progress) -> String {
    match progress {
        Progress::UnderWay => format!("Reassignment of partition {at} is still in progress."),
        Progress::Done(replicas) if replicas == target => format!("Reassignment of partition {at} is completed."),
        Progress::Done(replicas) => format!(
            "There is no active reassignment of partition {at}, but replica set is {} rather than {}.",
            joined(replicas),
            joined(target)
        ),
    }
}

async fn cancel(
    client: &Client,
    wanted: &Wanted,
    preserves_throttles: bool,
    timeout: Duration,
) -> Result<(), ReassignError> {
    let partitions: BTreeSet<TopicPartition> = wanted.targets.iter().map(|(at, _)| at.clone()).collect();
    let partitions: Vec<_> = partitions.into_iter().collect();
    let active: Vec<_> =
        client.list_partition_reassignments(Some(&partitions)).await?.into_iter().map(|one| one.at).collect();
    if active.is_empty() {
        out!("None of the specified partition reassignments are active.");
    } else {
        let asked = active.iter().map(|at| (at.clone(), None)).collect();
        let refused = client.alter_partition_reassignments(&asked, true, ADMIN_TIMEOUT).await?;
        if !refused.is_empty() {
            return Err(ReassignError::Terse(format!(
                "Error cancelling partition reassignment{} for:\n{}",
                plural(refused.len()),
                refusals(&refused)
            )));
        }
        out!("Successfully cancelled partition reassignment{} for: {}", plural(active.len()), joined(&active));
    }
    let states = moves::states(client, &wanted.directories).await?;
    let back: BTreeMap<_, _> = states
        .into_iter()
        .filter_map(|(replica, state)| match state {
            moves::MoveState::Active { current, .. } => Some((replica, current)),
            _ => None,
        })
        .collect();
    // Kafka's tool does not end this line.
    let mut unended = "";
    match back.is_empty() {
        true => unended = "None of the specified partition moves are active.",
        false => moves::execute(client, &back, timeout).await?,
    }
    let lines = if preserves_throttles { Vec::new() } else { clear_throttles(client, wanted).await? };
    let text = format!("{unended}{}", lines.join("\n"));
    if !text.is_empty() {
        out!("{text}");
    }
    Ok(())
}

/// Removes the throttles of all live brokers, and of these topics.
async fn clear_throttles(client: &Client, wanted: &Wanted) -> Result<Vec<String>, ReassignError> {
    let live = live_brokers(client).await?;
    let mut brokers = live.clone();
    brokers.extend(wanted.targets.iter().flat_map(|(_, target)| target.iter().copied()));
    let topics = wanted.topics();
    replication_throttles::clear(client, Removed::All, &live, topics.iter().map(|topic| topic.as_str())).await?;
    let (brokers, topics): (Vec<_>, Vec<_>) = (brokers.into_iter().collect(), topics.into_iter().collect());
    Ok(vec![
        format!("Clearing broker-level throttles on broker{} {}", plural(brokers.len()), joined(&brokers)),
        format!("Clearing topic-level throttles on topic{} {}", plural(topics.len()), joined(&topics)),
    ])
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka_tools::planned;
    use crate::sample_partitions::{at, brokers};

    #[test]
    fn options_are_checked_as_kafkas_tool_does() {
        let action = |line: &str| planned(SPECS, line, plan).map(|plan| plan.action);
        let execute = action("--bootstrap-server k --execute --reassignment-json-file f --additional");
        let file = "f".to_owned();
        let execution = Execution { is_additional: true, may_change_factor: true, throttle: -1, log_dir_throttle: -1 };
        let expected = Action::Execute { file, execution, timeout: Duration::from_secs(10) };
        assert_eq!(execute, Ok(expected));
        assert_eq!(action("--bootstrap-server k --list"), Ok(Action::List));
        let one = "Command must include exactly one action: --generate, --execute, --verify, --cancel, --list";
        let cases = [
            ("--bootstrap-server k", one),
            ("--bootstrap-server k --list --cancel", one),
            ("--list", "Please specify either --bootstrap-server or --bootstrap-controller"),
            ("--bootstrap-server k --verify", "Missing required argument \"[reassignment-json-file]\""),
            (
                "--bootstrap-server k --generate --topics-to-move-json-file f",
                "Missing required argument \"[broker-list]\"",
            ),
            (
                "--bootstrap-server k --verify --reassignment-json-file f --additional",
                "Option \"[additional]\" can't be used with action \"[verify]\"",
            ),
            (
                "--bootstrap-server k --verify --reassignment-json-file f --throttle 1",
                "Option \"[throttle]\" can't be used with action \"[verify]\"",
            ),
        ];
        for (line, text) in cases {
            assert_eq!(action(line), Err(text.to_owned()), "{line}");
        }
    }

    #[test]
    fn reassignments_are_told_as_kafkas_tool_does() {
        let one = |adding: &[i32], removing: &[i32]| Reassignment {
            at: at("t", 0),
            replicas: brokers(&[3, 4, 1]),
            adding: brokers(adding),
            removing: brokers(removing),
        };
        assert_eq!(listed(&one(&[3, 4], &[1])), "t-0: replicas: 3,4,1. adding: 3,4. removing: 1.");
        assert_eq!(listed(&one(&[], &[1])), "t-0: replicas: 3,4,1. removing: 1.");
        let line = |progress| progress_line(&at("t", 0), &brokers(&[1, 2]), &progress);
        assert_eq!(line(Progress::UnderWay), "Reassignment of partition t-0 is still in progress.");
        assert_eq!(line(Progress::Done(brokers(&[1, 2]))), "Reassignment of partition t-0 is completed.");
        assert_eq!(
            line(Progress::Done(brokers(&[2]))),
            "There is no active reassignment of partition t-0, but replica set is 2 rather than 1,2."
        );
        let refused = |partition, message: Option<&str>| ReassignmentRefused {
            at: at("t", partition),
            error: ErrorCode::NoReassignmentInProgress,
            message: message.map(str::to_owned),
        };
        let told = refusals(&[refused(1, Some("No.")), refused(0, None)]);
        assert_eq!(told, "t-0: No partition reassignment is in progress.\nt-1: No.");
    }

    #[test]
    fn proposals_keep_the_replication_factor_and_use_the_brokers() {
        let current = BTreeMap::from([
            (at("t", 0), brokers(&[1, 2])),
            (at("t", 1), brokers(&[1, 2])),
            (at("u", 0), brokers(&[1])),
        ]);
        let broker = |id| UsableBroker { id: BrokerId(id), rack: None, is_active: true };
        let brokers = [broker(3), broker(4)];
        let proposed = propose(&current, &brokers, &mut Seeded::new([7; 16])).expect("possible");
        let factors: Vec<usize> = proposed.values().map(Vec::len).collect();
        assert_eq!(factors, [2, 2, 1]);
        assert!(proposed.values().flatten().all(|broker| [3, 4].contains(&broker.0)), "{proposed:?}");
        let leaders: BTreeSet<_> = [0, 1].map(|number| proposed[&at("t", number)][0]).into();
        assert_eq!(leaders.len(), 2, "they take turns");
        let error = propose(&current, &[broker(3)], &mut Seeded::new([7; 16])).expect_err("too few");
        let text = "The target replication factor of 2 cannot be reached because only 1 broker(s) are registered or \
                    some brokers have all their log directories cordoned.";
        assert_eq!(error.to_string(), text);
    }
}
