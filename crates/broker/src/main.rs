//! `ottla-broker`: reads its configuration, runs a broker until SIGTERM or SIGINT, and exits with 0 after a clean stop
//! or with 1 and one line of reason.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ottla_broker::signals;
use ottla_broker::telemetry::logging;
use ottla_config::{BrokerConfig, Sources};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Two arenas serve two or three busy threads; the default of four a core only keeps more freed pages. What is free for
/// a second goes back to the system, by a thread that sleeps while there is nothing to give back. A thread tidies up
/// its cache after each MiB that it was given or gave back: each small request is read into 16 KiB, and every fourth
/// one paid for it with the default of 64 KiB. A cache holds some MiB at most in either case.
#[allow(unsafe_code, reason = "the allocator reads its settings from a symbol of this name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 82] =
    b"background_thread:true,narenas:2,dirty_decay_ms:1000,tcache_gc_incr_bytes:1048576\0";

/// The broker of Ottla, a replicated log that Kafka clients use unchanged.
///
/// Every setting is a Kafka property: from FILE, from KAFKA_* variables (KAFKA_LOG_DIRS is log.dirs), or by --override.
#[derive(Parser)]
#[command(name = "ottla-broker", version)]
struct Arguments {
    /// A file of properties (key=value lines)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// One property; wins over the file and the environment
    #[arg(long = "override", short = 'o', alias = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(std::io::stderr(), "ottla-broker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let sources = Sources::of_process(arguments.file, &arguments.overrides)?;
    let loaded = BrokerConfig::load(&sources)?;
    if let Some(roles) = loaded.config.properties.text("process.roles").filter(|roles| roles.contains("controller")) {
        let problem =
            format!("process.roles={roles}: this program is a broker alone; accepted: broker, or `ottla start`");
        return Err(problem.into());
    }
    logging::install(&loaded.config.logging);
    for warning in loaded.warnings {
        tracing::warn!("{warning}");
    }
    ottla_broker::run(loaded.config, signals::stop_asked()?, |_| {})?;
    Ok(())
}
