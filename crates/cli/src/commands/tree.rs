//! `ottla tree`.

use anyhow::{Context as _, Result};
use clap::Subcommand;
use ottla_rpc::admin::{GetNodeRequest, ListNodesRequest};

use super::Coordinators;
use crate::out;
use crate::quorum::{self, TIMEOUT};

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
        at: Coordinators,
    },
    /// Show the payload of a node
    Get {
        path: String,
        /// Also show its revisions and version
        #[arg(long, short)]
        stat: bool,
        #[command(flatten)]
        at: Coordinators,
    },
}

pub async fn run(command: TreeCommand) -> Result<()> {
    match command {
        TreeCommand::Ls { path, recursive, at } => {
            let client = quorum::reader(&at.addresses().await?)?;
            let request = ListNodesRequest { path, recursive, linearizable: true };
            for name in client.list_nodes(request, TIMEOUT).await?.names {
                out!("{name}");
            }
        }
        TreeCommand::Get { path, stat, at } => {
            let client = quorum::reader(&at.addresses().await?)?;
            let request = GetNodeRequest { path: path.clone(), linearizable: true };
            let node = client.get_node(request, TIMEOUT).await?.node.with_context(|| format!("{path} is not there"))?;
            out!("{}", node.json);
            if stat {
                out!(
                    "created at revision {}, changed at {}, version {}, {} children",
                    node.created_revision,
                    node.modified_revision,
                    node.version,
                    node.children
                );
            }
        }
    }
    Ok(())
}
