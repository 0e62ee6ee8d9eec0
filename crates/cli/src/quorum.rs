//! What the tools ask of the coordinators.

use std::time::Duration;

use anyhow::{Result, bail};
use ottla_rpc::AdminClient;
use ottla_rpc::admin::{QuorumStatusRequest, QuorumStatusResponse};

/// How long a person waits for the quorum: an election and a half.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// The status as the first coordinator tells it that answers; preferably the leader, who knows how far the others are.
pub async fn status(coordinators: &[String], timeout: Duration) -> Result<QuorumStatusResponse> {
    let client = AdminClient::new(coordinators)?;
    Ok(client.quorum_status(QuorumStatusRequest {}, timeout).await?)
}

/// `host:port,host:port`, at least one.
pub fn addresses(text: &str) -> Result<Vec<String>> {
    let addresses: Vec<String> =
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
    if addresses.is_empty() {
        bail!("--coordinators names none: host:port[,host:port…]");
    }
    Ok(addresses)
}
