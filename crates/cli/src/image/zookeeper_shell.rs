//! `zookeeper-shell HOST:PORT ls|get|stat PATH`: what health checks and people ask of the tree.

use std::process::ExitCode;

use ottla_rpc::AdminClient;
use ottla_rpc::admin::{GetNodeRequest, ListNodesRequest};

use super::usage;
use crate::quorum::{self, TIMEOUT};
use crate::{err, out};

const USAGE: &str = "zookeeper-shell HOST:PORT[,…] ls|get|stat PATH";

pub async fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "-server").collect();
    let (connect, command, path) = match words.as_slice() {
        [connect, command, path] => (*connect, *command, *path),
        [connect, command, "-R" | "-s" | "-w", path] => (*connect, *command, *path),
        _ => return usage(USAGE),
    };
    match answer(connect, command, path).await {
        Ok(Some(text)) => {
            out!("Connecting to {connect}\n\n{text}");
            ExitCode::SUCCESS
        }
        Ok(None) => {
            err!("Node does not exist: {path}");
            ExitCode::FAILURE
        }
        Err(error) => {
            err!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn answer(connect: &str, command: &str, path: &str) -> anyhow::Result<Option<String>> {
    let client = AdminClient::new(&quorum::addresses(connect)?)?;
    if command == "ls" {
        let request = ListNodesRequest { path: path.to_owned(), recursive: false, linearizable: true };
        let names = client.list_nodes(request, TIMEOUT).await?.names;
        return Ok(Some(format!("[{}]", names.join(", "))));
    }
    let request = GetNodeRequest { path: path.to_owned(), linearizable: true };
    let Some(node) = client.get_node(request, TIMEOUT).await?.node else { return Ok(None) };
    match command {
        "get" => Ok(Some(node.json)),
        "stat" => Ok(Some(format!(
            "cZxid = {:#x}\nmZxid = {:#x}\ndataVersion = {}\nnumChildren = {}",
            node.created_revision, node.modified_revision, node.version, node.children
        ))),
        _ => anyhow::bail!("{command}: only ls, get and stat are answered"),
    }
}
