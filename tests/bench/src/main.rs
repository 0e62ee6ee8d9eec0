//! `make bench`: one figure per layer, compared with the machine's own limit, measured alternately in one run. Machines
//! are shared and noisy: quote the ratios, not the figures.

mod access_rules;
mod baseline;
mod client_io;
mod group_clients;
mod groups;
mod log_io;
mod logins;
mod many_logs;
mod many_partitions;
mod raft_commits;
mod recovery;
mod report;

use anyhow::Result;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(about = "Ottla's layers beside what this machine can do")]
struct Arguments {
    /// Layers to measure: raft, log, logs (many of them), recovery, partitions (of an idle cluster), groups, client,
    /// group-clients, logins, rules.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "raft,log,logs,recovery,partitions,groups,client,group-clients,logins,rules"
    )]
    rows: Vec<String>,
    /// Rounds; each row prints its median.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// MiB that each throughput round moves.
    #[arg(long, default_value_t = 512)]
    mib: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    for row in &arguments.rows {
        match row.as_str() {
            "raft" => raft_commits::run(arguments.rounds)?,
            "log" => log_io::run(arguments.rounds, arguments.mib)?,
            "logs" => many_logs::run(arguments.rounds, arguments.mib)?,
            "recovery" => recovery::run(arguments.rounds, arguments.mib)?,
            "partitions" => many_partitions::run(arguments.rounds)?,
            "groups" => groups::run(arguments.rounds)?,
            "client" => client_io::run(arguments.rounds, arguments.mib)?,
            "group-clients" => group_clients::run(arguments.rounds)?,
            "logins" => logins::run(arguments.rounds)?,
            "rules" => access_rules::run(arguments.rounds, arguments.mib)?,
            unknown => anyhow::bail!(
                "--rows {unknown}: one of raft, log, logs, recovery, partitions, groups, client, group-clients, \
                 logins, rules"
            ),
        }
    }
    Ok(())
}
