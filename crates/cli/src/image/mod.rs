//! The small programs of other people's images: start scripts, checks and what their init containers call, under their
//! names.

mod cub;
mod daemon;
mod nc;
pub mod storage;
mod zk_server;
mod zookeeper_session;
mod zookeeper_shell;

use std::process::ExitCode;

use ottla_config::Service;

use crate::err;
use crate::node::{self, NodeArguments};

/// Runs the program of this name (a trailing `.sh` does not matter); none where the name is no program's.
pub fn run(name: &str, arguments: &[String]) -> Option<anyhow::Result<ExitCode>> {
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    let name = name.strip_suffix(".sh").unwrap_or(name);
    let is_start = matches!(name, "kafka-server-start" | "zookeeper-server-start");
    if is_start && arguments.iter().any(|word| word == daemon::OPTION) {
        return Some(daemon::spawn(name, arguments).map(|_| ExitCode::SUCCESS).map_err(Into::into));
    }
    Some(match name {
        "kafka-server-start" | "start-kafka" => {
            done(node::start(&NodeArguments::of_script(Service::Broker, arguments)))
        }
        "zookeeper-server-start" => done(node::start(&NodeArguments::of_script(Service::Coordinator, arguments))),
        "zkServer" => zk_server::run(arguments),
        "nc" => Ok(nc::run(arguments)),
        "cub" | "ub" | "dub" => blocking(cub::run(arguments)),
        "kafka-storage" => Ok(storage::run(arguments)),
        "zookeeper-shell" | "zkCli" => blocking(zookeeper_shell::run(name == "zkCli", arguments)),
        _ => return None,
    })
}

fn blocking(program: impl Future<Output = ExitCode>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(program);
    runtime.shutdown_background();
    Ok(code)
}

/// What every program here says of a line that it cannot carry out.
fn usage(text: &str) -> ExitCode {
    err!("usage: {text}");
    ExitCode::from(2)
}
