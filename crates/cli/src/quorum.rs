//! The tools' requests to the coordinators.

use std::time::Duration;

use anyhow::{Result, bail};
use ottla_model::Chroot;
use ottla_rpc::admin::{QuorumStatusRequest, QuorumStatusResponse};
use ottla_rpc::{AdminClient, CallError};
use tokio::task::JoinSet;

use crate::client_security;

/// How long a person waits for the quorum: an election and a half.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// A client that shows no secret.
pub fn reader(coordinators: &[String]) -> Result<AdminClient, CallError> {
    AdminClient::secured(coordinators, &client_security::coordinators(None))
}

/// The status from the quorum leader, which knows the progress of the others; else from any coordinator.
pub async fn status(coordinators: &[String], timeout: Duration) -> Result<QuorumStatusResponse> {
    let mut asking = JoinSet::new();
    for address in coordinators {
        // Each one is asked separately: a client of all of them would use the first that answers.
        let client = reader(std::slice::from_ref(address))?;
        asking.spawn(async move { client.quorum_status(QuorumStatusRequest {}, timeout).await });
    }
    let (mut best, mut failed): (Option<QuorumStatusResponse>, _) = (None, None);
    while let Some(answer) = asking.join_next().await {
        match answer? {
            Ok(status) if status.leader_id == status.coordinator_id => return Ok(status),
            Ok(status) => best = best.filter(|other| other.term >= status.term).or(Some(status)),
            Err(error) => failed = Some(error),
        }
    }
    match (best, failed) {
        (Some(status), _) => Ok(status),
        (None, Some(error)) => Err(error.into()),
        (None, None) => bail!("no coordinator is named"),
    }
}

/// `host:port,host:port/chroot`, at least one; the chroot of all stands after the last. Each address gets it.
pub fn addresses(text: &str) -> Result<Vec<String>> {
    let (hosts, path) = text.split_once('/').unwrap_or((text, ""));
    let chroot = Chroot::parse(path)?.map(|chroot| chroot.to_string()).unwrap_or_default();
    let hosts = hosts.split(',').map(str::trim).filter(|item| !item.is_empty());
    let addresses: Vec<String> = hosts.map(|host| format!("{host}{chroot}")).collect();
    if addresses.is_empty() {
        bail!("--coordinators names none: host:port[,host:port…]");
    }
    Ok(addresses)
}
