//! `ottla tree`.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Subcommand;
use ottla_rpc::admin::{GetNodeRequest, ListNodesRequest, NodeEvent, WatchNodesRequest};
use ottla_rpc::{AdminClient, CallError, Code};
use serde_json::{Value, json};

use super::Coordinators;
use super::at::explain;
use super::rendering::Output;
use crate::quorum::{self, TIMEOUT};
use crate::{err, out};

#[derive(Subcommand)]
pub enum TreeCommand {
    /// List the nodes below a path
    Ls {
        #[arg(default_value = "/")]
        path: String,
        /// All nodes below, with full paths
        #[arg(long, short)]
        recursive: bool,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        at: Coordinators,
    },
    /// Show the payload of a node
    Get {
        path: String,
        /// Also show its revisions and version
        #[arg(long, short)]
        stat: bool,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        at: Coordinators,
    },
    /// Show changes of a path and below, as they come, until Ctrl-C
    Watch {
        #[arg(default_value = "/")]
        path: String,
        /// Begin after this revision of the past, if the coordinators still have it
        #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
        after: Option<u64>,
        /// Stop after this number of changes
        #[arg(long, short = 'n', value_name = "N")]
        max_changes: Option<u64>,
        /// A JSON object for each change, one a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: Coordinators,
    },
}

pub async fn run(command: TreeCommand) -> Result<()> {
    match command {
        TreeCommand::Ls { path, recursive, output, at } => {
            let addresses = at.addresses().await?;
            let request = ListNodesRequest { path, recursive, linearizable: true };
            let listed = quorum::reader(&addresses)?.list_nodes(request, TIMEOUT).await;
            let names = told(&addresses, listed).await?.names;
            output.value(&Value::from(names.clone()), || names);
        }
        TreeCommand::Get { path, stat, output, at } => {
            let addresses = at.addresses().await?;
            let request = GetNodeRequest { path: path.clone(), linearizable: true };
            let got = quorum::reader(&addresses)?.get_node(request, TIMEOUT).await;
            let node = told(&addresses, got).await?.node.with_context(|| format!("{path} is not there"))?;
            let value = json!({
                "path": node.path,
                "payload": payload(&node.json),
                "created_revision": node.created_revision,
                "modified_revision": node.modified_revision,
                "version": node.version,
                "children": node.children,
            });
            let line = format!(
                "created at revision {}, changed at {}, version {}, {}",
                node.created_revision,
                node.modified_revision,
                node.version,
                if node.children == 1 { "1 child".to_owned() } else { format!("{} children", node.children) }
            );
            output.value(&value, || std::iter::once(node.json).chain(stat.then_some(line)).collect());
        }
        TreeCommand::Watch { path, after, max_changes, json, at } => {
            let addresses = at.addresses().await?;
            let client = quorum::reader(&addresses)?;
            tokio::select! {
                watched = watch(&client, &addresses, path, after, max_changes, json) => return watched,
                _ = tokio::signal::ctrl_c() => {}
            }
        }
    }
    Ok(())
}

async fn told<T>(addresses: &[String], answer: Result<T, CallError>) -> Result<T> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(error) => Err(explain(addresses, error.into()).await),
    }
}

/// The payload of a node as it is in JSON; a text that is none stays one.
fn payload(text: &str) -> Value {
    match text {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}

/// Before a stream that ended is begun again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

async fn watch(
    client: &AdminClient,
    addresses: &[String],
    path: String,
    after: Option<u64>,
    max_changes: Option<u64>,
    as_json: bool,
) -> Result<()> {
    let mut left = max_changes.unwrap_or(u64::MAX);
    // The last revision of which all changes were shown.
    let mut seen = after;
    while left > 0 {
        // The changes after a revision; after 0 are those that come.
        let request = WatchNodesRequest { prefix: path.clone(), from_revision: seen.unwrap_or(0) };
        let mut stream = told(addresses, client.watch_nodes(request, TIMEOUT).await).await?;
        let ended = loop {
            match stream.message().await {
                Ok(Some(response)) => {
                    for event in response.events.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                        out!("{}", line(response.revision, event, as_json));
                        left -= 1;
                    }
                    seen = Some(response.revision);
                    if left == 0 {
                        return Ok(());
                    }
                }
                Ok(None) => break None,
                // What asking again does not change: the revision is gone, or the path is none.
                Err(status) if matches!(status.code(), Code::OutOfRange | Code::InvalidArgument) => {
                    return Err(anyhow!("{}", status.message()));
                }
                Err(status) => break Some(status),
            }
        };
        let reason = ended.map_or_else(String::new, |status| format!(": {}", status.message()));
        let from = match seen {
            Some(revision) => format!("after revision {revision}"),
            // Nothing was shown yet: what came in between is lost.
            None => "with what comes".to_owned(),
        };
        err!("the coordinator ended the watch{reason}; it goes on {from}");
        tokio::time::sleep(RESTART_PAUSE).await;
    }
    Ok(())
}

/// `17  /brokers/ids/1  {"…"}`, `18  /brokers/ids/1  deleted`.
fn line(revision: u64, event: &NodeEvent, as_json: bool) -> String {
    if as_json {
        let value = json!({
            "revision": revision,
            "path": event.path,
            "deleted": event.deleted,
            "payload": payload(&event.json),
        });
        return value.to_string();
    }
    match event.deleted {
        true => format!("{revision}  {}  deleted", event.path),
        false => format!("{revision}  {}  {}", event.path, event.json).trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_lines() {
        let event = |deleted, json: &str| NodeEvent { path: "/a".to_owned(), deleted, json: json.to_owned() };
        assert_eq!(line(7, &event(false, "{\"x\":1}"), false), "7  /a  {\"x\":1}");
        assert_eq!(line(7, &event(false, ""), false), "7  /a");
        assert_eq!(line(8, &event(true, ""), false), "8  /a  deleted");
        let told: Value = serde_json::from_str(&line(8, &event(false, "{\"x\":1}"), true)).expect("JSON");
        assert_eq!(told, json!({"revision": 8, "path": "/a", "deleted": false, "payload": {"x": 1}}));
    }
}
