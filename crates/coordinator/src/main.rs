//! `ottla-coordinator`: one member of the metadata quorum.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ottla_config::{CoordinatorConfig, Loaded, Sources};
use ottla_coordinator::{CoordinatorError, telemetry};
use tokio::signal::unix::{SignalKind, signal};

/// Returns free memory to the system, and reserves address space without touching it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The driver has its own thread; everything else waits for sockets.
const WORKER_THREADS: usize = 1;

/// One member of Ottla's metadata quorum. Configured by COORDINATOR_* (and cp-zookeeper's ZOOKEEPER_*) variables, a
/// properties file, or key=value flags; later ones win in the order file, environment, flags.
#[derive(Parser, Debug)]
#[command(name = "ottla-coordinator", version)]
struct Arguments {
    /// A file of properties (key=value lines), or a zoo.cfg
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// One property, such as client.port=22181; wins over the file and the environment
    #[arg(long = "override", short = 'o', alias = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(arguments) {
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
