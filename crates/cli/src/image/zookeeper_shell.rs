//! `zookeeper-shell HOST:PORT ls|get|stat PATH`, and ZooKeeper's own `zkCli.sh [-server HOST:PORT] …`: what health
//! checks and people ask of the tree, on the command line or as lines of standard input.

use std::io::BufRead as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use ottla_rpc::admin::{GetNodeRequest, ListNodesRequest, Node};
use ottla_rpc::{AdminClient, CallError};

use super::usage;
use crate::quorum::{self, TIMEOUT};
use crate::{client_security, err, out};

const USAGE: &str = "zookeeper-shell HOST:PORT[,…] [-zk-tls-config-file FILE] [ls [-R] [-s]|get [-s]|stat PATH]; \
                     zkCli.sh [-server HOST:PORT[,…]] [-timeout MILLISECONDS] [the same]";
const COMMANDS: &str = "only ls, get and stat are answered";
/// Kafka's name, and that of ZooKeeper's own program.
const TLS_OPTIONS: [&str; 2] = ["-zk-tls-config-file", "-client-configuration"];
/// Where `zkCli.sh` goes that is told nothing.
const DEFAULT_SERVER: &str = "localhost:2181";

#[derive(PartialEq, Eq, Debug)]
struct Line<'a> {
    connect: &'a str,
    timeout: Duration,
    /// A file with `zookeeper.ssl.*`.
    tls: Option<&'a str>,
    /// Empty: those of standard input.
    command: Vec<&'a str>,
}

/// `is_zookeepers`: the program of ZooKeeper, which has a default server; Kafka's script begins with the server.
fn parse(is_zookeepers: bool, words: &[String]) -> Option<Line<'_>> {
    let (mut connect, mut timeout, mut tls) = (is_zookeepers.then_some(DEFAULT_SERVER), TIMEOUT, None);
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(option) = words.next_if(|word| word.starts_with('-')) {
        match option {
            "-server" => connect = Some(words.next()?),
            "-timeout" => timeout = Duration::from_millis(words.next()?.parse().ok()?),
            option if TLS_OPTIONS.contains(&option) => tls = Some(words.next()?),
            // As it is: nothing is written here, and every request waits for the coordinators.
            "-r" | "-waitforconnection" => {}
            _ => return None,
        }
    }
    let connect = match connect {
        Some(connect) => connect,
        None => words.next()?,
    };
    // Kafka's script has it behind the server.
    if words.next_if(|word| TLS_OPTIONS.contains(word)).is_some() {
        tls = Some(words.next()?);
    }
    Some(Line { connect, timeout, tls, command: words.collect() })
}

pub async fn run(is_zookeepers: bool, arguments: &[String]) -> ExitCode {
    let Some(Line { connect, timeout, tls, command }) = parse(is_zookeepers, arguments) else { return usage(USAGE) };
    let tls = tls.map_or(Ok(()), take_over);
    let client = tls.and_then(|()| quorum::addresses(connect)).and_then(|addresses| Ok(quorum::reader(&addresses)?));
    let tree = match client {
        Ok(client) => Tree { client, timeout },
        Err(error) => return told(Err(error)),
    };
    out!("Connecting to {connect}\n");
    if let Err(error) = tree.connected().await {
        return told(Err(error));
    }
    // What ZooKeeper's shell shows of its session; scripts count these lines.
    out!("WATCHER::\n\nWatchedEvent state:SyncConnected type:None path:null");
    if !command.is_empty() {
        return told(tree.answer(&command).await);
    }
    let mut last = ExitCode::SUCCESS;
    // Nothing else is to be done between two lines.
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            [] => {}
            ["quit" | "close"] => break,
            command => last = told(tree.answer(command).await),
        }
    }
    last
}

fn take_over(path: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    client_security::take_over(&ottla_config::parse_properties(&text)).map_err(anyhow::Error::msg)
}

fn told(answer: anyhow::Result<String>) -> ExitCode {
    match answer {
        Ok(text) => {
            out!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            err!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Tree {
    client: AdminClient,
    timeout: Duration,
}

impl Tree {
    /// Waits until a coordinator answers, whatever it says.
    async fn connected(&self) -> anyhow::Result<()> {
        let request = GetNodeRequest { path: "/".to_owned(), linearizable: true };
        match self.client.get_node(request, self.timeout).await {
            Ok(_) | Err(CallError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn answer(&self, words: &[&str]) -> anyhow::Result<String> {
        let [command, options @ .., path] = words else { anyhow::bail!("{COMMANDS}, with a path") };
        let has = |option: &str| options.contains(&option);
        let known: &[&str] = match *command {
            "ls" => &["-R", "-s", "-w"],
            "get" => &["-s", "-w"],
            "stat" => &["-w"],
            other => anyhow::bail!("{other}: {COMMANDS}"),
        };
        if let Some(unknown) = options.iter().find(|option| !known.contains(option)) {
            anyhow::bail!("{command}: {unknown} is unknown");
        }
        if has("-w") {
            err!("-w: nothing is watched, this shell only asks");
        }
        let names = match *command {
            "ls" => Some(self.names(path, has("-R")).await?),
            _ => None,
        };
        if let Some(names) = names.as_ref().filter(|_| has("-R")) {
            return Ok(names.join("\n"));
        }
        let node = match names.is_none() || has("-s") {
            true => Some(self.node(path).await?),
            false => None,
        };
        let listed = names.map(|names| format!("[{}]", names.join(", ")));
        let content = node.as_ref().filter(|_| *command == "get").map(|node| match node.json.as_str() {
            // As ZooKeeper's shell shows a node without data.
            "" => "null".to_owned(),
            json => json.to_owned(),
        });
        let stat = node.as_ref().filter(|_| *command == "stat" || has("-s")).map(stat);
        Ok([listed, content, stat].into_iter().flatten().collect::<Vec<_>>().join("\n"))
    }

    async fn names(&self, path: &str, recursive: bool) -> anyhow::Result<Vec<String>> {
        let request = ListNodesRequest { path: path.to_owned(), recursive, linearizable: true };
        let listed = self.client.list_nodes(request, self.timeout).await;
        Ok(listed.map_err(|error| failed(path, error))?.names)
    }

    async fn node(&self, path: &str) -> anyhow::Result<Node> {
        let request = GetNodeRequest { path: path.to_owned(), linearizable: true };
        let found = self.client.get_node(request, self.timeout).await;
        let node = found.map_err(|error| failed(path, error))?.node;
        node.ok_or_else(|| anyhow::anyhow!("Node does not exist: {path}"))
    }
}

/// In ZooKeeper's words, where a node is not there.
fn failed(path: &str, error: CallError) -> anyhow::Error {
    if error.is_not_found() { anyhow::anyhow!("Node does not exist: {path}") } else { error.into() }
}

fn stat(node: &Node) -> String {
    format!(
        "cZxid = {:#x}\nmZxid = {:#x}\ndataVersion = {}\nnumChildren = {}",
        node.created_revision, node.modified_revision, node.version, node.children
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_lines_are_read() {
        let told = |is_zookeepers, text: &str| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            parse(is_zookeepers, &words).map(|line| {
                let tls = line.tls.map(|file| format!(" by {file}")).unwrap_or_default();
                format!("{} {} {}{tls}", line.connect, line.timeout.as_millis(), line.command.join(" "))
            })
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(told(false, "zk:2181"), some("zk:2181 5000 "));
        assert_eq!(told(false, "zk:2181/one ls -R /brokers"), some("zk:2181/one 5000 ls -R /brokers"));
        assert_eq!(told(false, "-server zk:2181 ls /"), some("zk:2181 5000 ls /"));
        assert_eq!(told(false, "zk:2182 -zk-tls-config-file /f ls /"), some("zk:2182 5000 ls / by /f"));
        assert_eq!(told(false, ""), None);
        assert_eq!(told(true, "ls /"), some("localhost:2181 5000 ls /"));
        assert_eq!(told(true, "-timeout 3000 -server zk:2181 get /controller"), some("zk:2181 3000 get /controller"));
        assert_eq!(told(true, ""), some("localhost:2181 5000 "));
        for refused in ["-server", "-timeout soon ls /", "-frobnicate ls /"] {
            assert_eq!(told(true, refused), None, "{refused}");
        }
    }

    #[tokio::test]
    async fn what_is_not_answered_is_named() {
        let client = AdminClient::new(&["127.0.0.1:1"]).expect("an address");
        let tree = Tree { client, timeout: Duration::from_millis(1) };
        for (command, expected) in [
            (&["create", "/a"][..], "create: only ls, get and stat are answered"),
            (&["ls"], "only ls, get and stat are answered, with a path"),
            (&["get", "-R", "/"], "get: -R is unknown"),
        ] {
            assert_eq!(tree.answer(command).await.expect_err("refused").to_string(), expected);
        }
    }
}
