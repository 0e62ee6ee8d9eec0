//! `ottla local`: a cluster of processes on this machine, for people and for `make run`.
//!
//! `DIR/NAME/{pid,log,data}` for each member; `DIR/cluster.json` has the number of members. Members keep running when
//! this program ends, and are found again by their pid files.

mod layout;
mod logs;
mod process;
mod security;
mod start;
mod status;
mod stop;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

pub use layout::Layout;

#[derive(Subcommand)]
pub enum LocalCommand {
    /// Start members (default: all) and wait until they are ready.
    Start {
        #[command(flatten)]
        at: At,
        /// Members: coordinator-1, broker-2, …
        names: Vec<String>,
        /// Brokers of the cluster (3 if it is new).
        #[arg(long)]
        brokers: Option<u16>,
        /// Coordinators of the cluster (3 if it is new; fixed by the first start).
        #[arg(long)]
        coordinators: Option<u16>,
        /// A folder of deploy/certs.sh: the members show each other its certificates, and clients log in. For a new
        /// cluster.
        #[arg(long, value_name = "FOLDER")]
        certificates: Option<PathBuf>,
    },
    /// Stop members: brokers first, so that their leaderships move or end cleanly.
    Stop {
        #[command(flatten)]
        at: At,
        names: Vec<String>,
    },
    /// Show the running members, and their CPU and memory use.
    Status {
        #[command(flatten)]
        at: At,
        /// Measure the processor time over this many seconds.
        #[arg(long, value_name = "SECONDS")]
        measure: Option<u64>,
    },
    /// Show the logs of members.
    Logs {
        #[command(flatten)]
        at: At,
        names: Vec<String>,
        /// Number of last lines of each.
        #[arg(long, default_value_t = 100)]
        lines: usize,
        /// Keep showing new output.
        #[arg(long, short)]
        follow: bool,
    },
}

#[derive(Args)]
pub struct At {
    /// The cluster's directory.
    #[arg(long, default_value = "data")]
    dir: PathBuf,
}

pub async fn run(command: LocalCommand) -> Result<()> {
    match command {
        LocalCommand::Start { at, names, brokers, coordinators, certificates } => {
            let layout = Layout::open(&at.dir, coordinators, brokers)?.secured(certificates.as_deref())?;
            start::start(&layout, &names).await
        }
        LocalCommand::Stop { at, names } => stop::stop(&Layout::open(&at.dir, None, None)?, &names).await,
        LocalCommand::Status { at, measure } => status::status(&Layout::existing(&at.dir)?, measure).await,
        LocalCommand::Logs { at, names, lines, follow } => {
            logs::logs(&Layout::existing(&at.dir)?, &names, lines, follow).await
        }
    }
}
