//! `ottla brokers`, `ottla quorum` and `ottla cluster`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use ottla_rpc::admin::{
    AddQuorumMemberRequest, ClusterHealthRequest, ClusterHealthResponse, Health, ListBrokersRequest,
    ListBrokersResponse, RemoveQuorumMemberRequest, TransferQuorumLeadershipRequest,
};
use serde_json::{Value, json};

use super::at::{Bootstrap, Coordinators, Quorum, explain};
use super::rendering::{Output, Table, counted};
use crate::kafka::Kafka;
use crate::out;
use crate::progress::Progress;
use crate::quorum;

#[derive(Args)]
pub struct BrokersArguments {
    /// Wait until this number of brokers is registered
    #[arg(long, value_name = "N")]
    wait: Option<usize>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: Bootstrap,
}

/// How long `--wait` waits.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub async fn brokers(arguments: BrokersArguments) -> Result<()> {
    let kafka = Kafka::connect(&arguments.at.addresses().await?).await?;
    let mut progress = Progress::new(Duration::from_secs(1));
    let view = loop {
        let view = kafka.client().metadata(Some(&[])).await?;
        let wanted = arguments.wait.unwrap_or(0);
        if view.brokers.len() >= wanted {
            break view;
        }
        if progress.elapsed() > PATIENCE {
            progress.clear();
            bail!("only {} of {wanted} brokers are there after {} s", view.brokers.len(), PATIENCE.as_secs());
        }
        progress.show(&format!("{} of {wanted} brokers are there", view.brokers.len()));
        tokio::time::sleep(POLL).await;
    };
    progress.clear();
    let mut table = Table::new(&["broker", "address", "rack", "controller"]);
    let mut lines = Vec::new();
    for (id, broker) in &view.brokers {
        let is_controller = view.controller == Some(*id);
        table.push([id.0.into(), broker.address().into(), broker.rack.clone().into(), is_controller.into()]);
        let controller = if is_controller { "  controller" } else { "" };
        let rack = broker.rack.as_ref().map_or(String::new(), |rack| format!("  rack {rack}"));
        lines.push(format!("{id}  {}{rack}{controller}", broker.address()));
    }
    arguments.output.value(&table.to_json(), || lines);
    Ok(())
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct QuorumArguments {
    #[command(subcommand)]
    command: Option<QuorumCommand>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: Coordinators,
}

#[derive(Subcommand)]
enum QuorumCommand {
    /// The members, who leads, and how far each has got
    Members {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        at: Coordinators,
    },
    /// Add a coordinator that runs with an empty data directory, and wait until it votes
    Add {
        /// ID@host:port
        #[arg(value_name = "ID@ADDRESS")]
        member: String,
        #[command(flatten)]
        at: Quorum,
    },
    /// Remove a coordinator
    Remove {
        id: u64,
        /// Also if too few of the remaining voters answer
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        at: Quorum,
    },
    /// Let another voter lead
    Transfer {
        /// The one that is to lead; else the one with the most complete log
        id: Option<u64>,
        #[command(flatten)]
        at: Quorum,
    },
}

/// How long a coordinator may take to receive the tree. A million nodes are some hundred megabytes.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);

pub async fn quorum(arguments: QuorumArguments) -> Result<()> {
    match arguments.command {
        None => members(&arguments.at, &arguments.output).await,
        Some(QuorumCommand::Members { output, at }) => members(&at, &output).await,
        Some(QuorumCommand::Add { member, at }) => {
            let parsed = member.split_once('@').and_then(|(id, address)| Some((id.parse::<u64>().ok()?, address)));
            let Some((coordinator_id, address)) = parsed.filter(|(id, address)| *id > 0 && address.contains(':'))
            else {
                bail!("{member}: expected ID@host:port, such as 4@coordinator-4:2181");
            };
            let request = AddQuorumMemberRequest { coordinator_id, address: address.to_owned() };
            let client = at.client().await?;
            let changed = client.add_quorum_member(request, CHANGE_TIMEOUT).await?;
            out!("coordinator {coordinator_id} votes since revision {}", changed.revision);
            Ok(())
        }
        Some(QuorumCommand::Remove { id, force, at }) => {
            let request = RemoveQuorumMemberRequest { coordinator_id: id, force };
            let changed = at.client().await?.remove_quorum_member(request, CHANGE_TIMEOUT).await?;
            out!("coordinator {id} was removed at revision {}", changed.revision);
            Ok(())
        }
        Some(QuorumCommand::Transfer { id, at }) => {
            let request = TransferQuorumLeadershipRequest { coordinator_id: id.unwrap_or(0) };
            at.client().await?.transfer_quorum_leadership(request, CHANGE_TIMEOUT).await?;
            await_leader(&at.coordinators).await?;
            members(&at.coordinators, &Output::default()).await
        }
    }
}

/// The former leader answers when it leads no more: the election may take a moment.
async fn await_leader(coordinators: &Coordinators) -> Result<()> {
    let addresses = coordinators.addresses().await?;
    let began = Instant::now();
    while quorum::status(&addresses, quorum::TIMEOUT).await?.leader_id == 0 && began.elapsed() < quorum::TIMEOUT {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn members(coordinators: &Coordinators, output: &Output) -> Result<()> {
    let addresses = coordinators.addresses().await?;
    let status = match quorum::status(&addresses, quorum::TIMEOUT).await {
        Ok(status) => status,
        Err(error) => return Err(explain(&addresses, error).await),
    };
    let head = format!(
        "cluster {}  term {}  committed revision {}",
        status.cluster_id, status.term, status.committed_revision
    );
    let mut lines = vec![head];
    let mut table = Table::new(&["coordinator", "address", "role", "matched_revision", "silent"]);
    let leader = status.members.iter().find(|member| member.coordinator_id == status.leader_id);
    let now = leader.map(|leader| leader.heard_at_ms);
    for member in &status.members {
        let role = match member.coordinator_id == status.leader_id {
            true => "quorum leader",
            false if member.learner => "learner",
            false => "follower",
        };
        let silent = silence(now, member.heard_at_ms);
        // Only the leader knows how far the others are.
        let matched = Some(member.matched_revision).filter(|revision| *revision > 0);
        let mut line = format!("{}  {}", member.coordinator_id, member.address);
        line.extend(matched.map(|revision| format!("  has revision {revision}")));
        line.extend(Some(role).filter(|role| *role != "follower").map(|role| format!("  {role}")));
        line.extend(silent.as_ref().map(|silence| format!("  {silence}")));
        lines.push(line);
        table.push([
            member.coordinator_id.into(),
            member.address.as_str().into(),
            role.into(),
            matched.into(),
            silent.is_some().into(),
        ]);
    }
    let value = json!({
        "cluster_id": status.cluster_id,
        "term": status.term,
        "committed_revision": status.committed_revision,
        "members": table.to_json(),
    });
    output.value(&value, || lines);
    if status.leader_id == 0 {
        bail!("there is no quorum leader (asked coordinator {})", status.coordinator_id);
    }
    Ok(())
}

/// Longer than some heartbeats, each of which a coordinator answers.
const SILENT_MAX_MS: i64 = 2_000;

/// That a coordinator was not heard of, by the leader's clock; `now` is when the leader last heard of itself. The
/// revision that a dead coordinator had looks well as long as nothing changes.
fn silence(now: Option<i64>, heard_at_ms: i64) -> Option<String> {
    // Another coordinator than the leader does not know.
    let now = now.filter(|now| *now > 0)?;
    match now - heard_at_ms {
        silent if silent <= SILENT_MAX_MS => None,
        silent if heard_at_ms > 0 => Some(format!("silent for {} s", silent / 1_000)),
        _ => Some("silent".to_owned()),
    }
}

#[derive(Subcommand)]
pub enum ClusterCommand {
    /// Brokers, partitions, coordinators, and what is wrong; ends with 1 if partitions cannot be used
    Status {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        at: Coordinators,
    },
}

pub async fn run(command: ClusterCommand) -> Result<ExitCode> {
    let ClusterCommand::Status { output, at } = command;
    let addresses = quorum::informed_first(at.addresses().await?).await;
    let client = quorum::reader(&addresses)?;
    let health = match client.cluster_health(ClusterHealthRequest {}, quorum::TIMEOUT).await {
        Ok(health) => health,
        Err(error) => return Err(explain(&addresses, error.into()).await),
    };
    let brokers = client.list_brokers(ListBrokersRequest {}, quorum::TIMEOUT).await?;
    let (brokers, voters) = (broker_table(&brokers), voter_table(&health));
    let value = json!({
        "health": word(health.health()),
        "problems": health.problems,
        "cluster_id": health.cluster_id,
        "controller": health.controller_id,
        "topics": health.topics,
        "partitions": health.partitions,
        "leaderless_partitions": health.leaderless_partitions,
        "under_replicated_partitions": health.under_replicated_partitions,
        "under_min_isr_partitions": health.under_min_isr_partitions,
        "reassigning_partitions": health.reassigning_partitions,
        "brokers": brokers.to_json(),
        "quorum": voters.to_json(),
    });
    output.value(&value, || screen(&health, &brokers, &voters, std::io::stdout().is_terminal()));
    Ok(if health.health() == Health::Critical { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Ok => "ok",
        Health::Degraded => "degraded",
        Health::Critical => "critical",
        Health::Unspecified => "unknown",
    }
}

fn broker_table(listed: &ListBrokersResponse) -> Table {
    let mut table = Table::new(&["broker", "state", "endpoints", "rack", "replicas", "leaders"]);
    for broker in &listed.brokers {
        let state = match (broker.fenced, broker.id == listed.controller_id) {
            (true, _) => "down",
            (false, true) => "controller",
            (false, false) => "live",
        };
        table.push([
            broker.id.into(),
            state.into(),
            broker.endpoints.iter().map(String::as_str).collect::<Value>(),
            broker.rack.as_str().into(),
            broker.replicas.into(),
            broker.leaders.into(),
        ]);
    }
    table
}

fn voter_table(health: &ClusterHealthResponse) -> Table {
    let mut table = Table::new(&["coordinator", "role", "address", "lag"]);
    let leader = health.quorum.iter().find(|voter| voter.coordinator_id == health.quorum_leader_id);
    let now = leader.map(|leader| leader.heard_at_ms);
    for voter in &health.quorum {
        let role = match silence(now, voter.heard_at_ms) {
            _ if voter.coordinator_id == health.quorum_leader_id => "quorum leader".to_owned(),
            None => "follower".to_owned(),
            Some(silence) => silence,
        };
        table.push([voter.coordinator_id.into(), role.into(), voter.address.as_str().into(), voter.lag.into()]);
    }
    table
}

fn screen(health: &ClusterHealthResponse, brokers: &Table, voters: &Table, is_terminal: bool) -> Vec<String> {
    let state = word(health.health());
    let colour = match health.health() {
        Health::Ok => "32",
        Health::Degraded => "33",
        Health::Critical | Health::Unspecified => "31",
    };
    let state = if is_terminal { format!("\x1b[{colour}m{state}\x1b[0m") } else { state.to_owned() };
    let mut lines = vec![format!("cluster {}  {state}", health.cluster_id)];
    lines.extend(health.problems.iter().map(|problem| format!("  {problem}")));
    lines.push(format!(
        "{}, {}: {} leaderless, {} under-replicated, {} below min.insync.replicas, {} reassigning",
        counted(health.topics, "topic"),
        counted(health.partitions, "partition"),
        health.leaderless_partitions,
        health.under_replicated_partitions,
        health.under_min_isr_partitions,
        health.reassigning_partitions
    ));
    for table in [brokers, voters] {
        lines.push(String::new());
        lines.extend(table.lines(is_terminal));
    }
    lines
}
