//! `ottla-coordinator`: one member of the metadata quorum.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ottla_config::{CoordinatorConfig, Loaded, Sources};
use ottla_coordinator::offline::{self, OfflineError};
use ottla_coordinator::{CoordinatorError, telemetry};
use ottla_model::CoordinatorId;
use tokio::signal::unix::{SignalKind, signal};

/// Returns free memory to the system, and reserves address space without touching it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The driver has its own thread; everything else waits for sockets.
const WORKER_THREADS: usize = 1;

/// One member of Ottla's metadata quorum. Configured by COORDINATOR_* (and cp-zookeeper's ZOOKEEPER_*) variables, a
/// properties file, or key=value flags; later ones win in the order file, environment, flags.
#[derive(Parser, Debug)]
#[command(name = "ottla-coordinator", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A file of properties (key=value lines), or a zoo.cfg
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// One property, such as client.port=22181; wins over the file and the environment
    #[arg(long = "override", short = 'o', alias = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

/// What is done to a data directory without running the coordinator.
#[derive(Subcommand, Debug)]
enum Command {
    /// Whether a data directory holds what a coordinator can start with; nothing is written
    Check { data_dir: PathBuf },
    /// Write the tree of a data directory to a new file
    Snapshot { data_dir: PathBuf, file: PathBuf },
    /// Make an empty data directory the disk of the only member of a new quorum, with the tree of a file
    Restore {
        file: PathBuf,
        data_dir: PathBuf,
        /// The id of this coordinator
        #[arg(long)]
        id: u64,
        /// host:port at which the others and brokers reach it
        #[arg(long)]
        address: String,
    },
}

#[allow(clippy::print_stdout)]
fn run_offline(command: Command) -> Result<(), String> {
    let text = |error: OfflineError| error.to_string();
    let names = |ids: &[CoordinatorId]| ids.iter().map(CoordinatorId::to_string).collect::<Vec<_>>().join(",");
    match command {
        Command::Check { data_dir } => {
            let sound = offline::check(&data_dir).map_err(text)?;
            println!(
                "sound: coordinator {}, voters {}, learners {}, term {}, log {} to {} (last term {}), committed {}, applied {}",
                sound.id,
                names(&sound.voters),
                names(&sound.learners),
                sound.term,
                sound.first,
                sound.last,
                sound.last_term,
                sound.committed,
                sound.applied
            );
            println!("{} nodes, {} topics, {} partitions", sound.nodes, sound.topics, sound.partitions);
            if sound.is_removed {
                println!("coordinator {} was removed from the quorum", sound.id);
            }
        }
        Command::Snapshot { data_dir, file } => {
            let saved = offline::save(&data_dir, &file).map_err(text)?;
            println!(
                "last term {}, last revision {}, {} nodes, {} bytes in {}",
                saved.term,
                saved.revision,
                saved.nodes,
                saved.bytes,
                file.display()
            );
            if let Some(damage) = saved.damage {
                println!("{damage}: what follows is not in the file");
            }
        }
        Command::Restore { file, data_dir, id, address } => {
            let restored = offline::restore(&file, &data_dir, CoordinatorId(id), &address).map_err(text)?;
            println!(
                "coordinator {id} is a quorum of one, with the {} nodes of revision {}, at revision {}",
                restored.nodes, restored.saved, restored.revision
            );
            if !restored.former.is_empty() {
                println!("to be added with empty data directories: {}", names(&restored.former));
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(command) => run_offline(command),
        None => start(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Also where logging could not be set up: this one line must be read.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("ottla-coordinator: {problem}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<(), String> {
    let text = |error: CoordinatorError| error.to_string();
    let sources = Sources::of_process(arguments.file, &arguments.overrides).map_err(|error| error.to_string())?;
    let Loaded { config, warnings } = CoordinatorConfig::load(&sources).map_err(|error| error.to_string())?;
    telemetry::start_logging(&config.logging)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("services")
        .enable_all()
        .build()
        .map_err(|error| format!("no threads: {error}"))?;
    let result = runtime.block_on(async {
        // Before anything else: a signal that comes while the ports are bound must not kill outright.
        let mut terminated = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut interrupted = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
            tracing::info!("stopping");
        };
        ottla_coordinator::run(config, shutdown).await.map_err(text)
    });
    // Streams that are still open need not end by themselves.
    runtime.shutdown_background();
    result
}
