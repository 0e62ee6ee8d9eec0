//! `zkServer.sh` of ZooKeeper's images: what health checks and commands of containers call.

use std::path::Path;
use std::process::ExitCode;

use ottla_config::Service;

use super::{blocking, daemon, usage};
use crate::node::{self, NodeArguments, ready};
use crate::{err, out};

const USAGE: &str = "zkServer.sh [--config DIRECTORY] start|start-foreground|status [FILE]";
/// The script that a start in the background is.
const SCRIPT: &str = "zookeeper-server-start";

#[derive(PartialEq, Eq, Debug)]
enum Command {
    Start,
    StartForeground,
    Status,
}

pub fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some((command, file)) = parse(&words) else { return Ok(usage(USAGE)) };
    let line: Vec<String> = file.into_iter().collect();
    err!("Using config: {}", line.first().map_or("the environment", String::as_str));
    let arguments = NodeArguments::of_script(Service::Coordinator, &line);
    match command {
        Command::Start => {
            daemon::spawn(SCRIPT, &line)?;
            out!("Starting zookeeper ... STARTED");
            Ok(ExitCode::SUCCESS)
        }
        Command::StartForeground => node::start(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Status => blocking(status(&arguments)),
    }
}

/// What is to be done, and the file that is named.
fn parse(words: &[&str]) -> Option<(Command, Option<String>)> {
    let (directory, words) = match words {
        ["--config", directory, rest @ ..] => (Some(*directory), rest),
        words => (None, words),
    };
    let (command, file) = match words {
        [command] => (*command, None),
        [command, file] => (*command, Some(*file)),
        _ => return None,
    };
    let command = match command {
        "start" => Command::Start,
        "start-foreground" => Command::StartForeground,
        "status" => Command::Status,
        _ => return None,
    };
    let file = match (directory, file) {
        (Some(directory), file) => Some(Path::new(directory).join(file.unwrap_or("zoo.cfg")).display().to_string()),
        (None, file) => file.map(str::to_owned),
    };
    Some((command, file))
}

async fn status(arguments: &NodeArguments) -> ExitCode {
    let answer = async {
        let (address, security) = ready::coordinator(arguments)?;
        let is_secure = security.tls.is_some();
        out!("Client port found: {}. Client address: {}. Client SSL: {is_secure}.", address.port, address.host);
        ready::coordinator_mode(&address, &security).await
    };
    match answer.await {
        Ok(mode) => {
            out!("Mode: {mode}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            out!("Error contacting service. It is probably not running.");
            err!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_checks_and_containers_are_read() {
        let file = |text: &str| Some(text.to_owned());
        assert_eq!(parse(&["status"]), Some((Command::Status, None)));
        assert_eq!(parse(&["start-foreground", "/c/z.cfg"]), Some((Command::StartForeground, file("/c/z.cfg"))));
        assert_eq!(parse(&["--config", "/conf", "start"]), Some((Command::Start, file("/conf/zoo.cfg"))));
        assert_eq!(parse(&["--config", "/conf", "status", "a.cfg"]), Some((Command::Status, file("/conf/a.cfg"))));
        for refused in [&["stop"][..], &["restart"], &[], &["--config", "status"], &["status", "a", "b"]] {
            assert_eq!(parse(refused), None, "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_coordinator_that_does_not_run_is_a_failure() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("zoo.cfg");
        // Port 1 refuses.
        std::fs::write(&file, "clientPort=1\n").expect("written");
        let arguments = NodeArguments::of_script(Service::Coordinator, &[file.display().to_string()]);
        assert_eq!(format!("{:?}", status(&arguments).await), format!("{:?}", ExitCode::FAILURE));
    }
}
