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
    Ok(best_status(coordinators, timeout).await?.1)
}

/// The same addresses, those of a coordinator that knows who leads first. One that waits to be added, that was removed
/// or that is cut off may be named first, and would look for a leader for seconds, or tell of a quorum without one.
pub async fn informed_first(mut coordinators: Vec<String>) -> Vec<String> {
    if coordinators.len() > 1
        && let Ok((informed, status)) = best_status(&coordinators, TIMEOUT).await
        && status.leader_id != 0
    {
        coordinators.sort_by_key(|address| *address != informed);
    }
    coordinators
}

/// And the address of the coordinator that told it.
async fn best_status(coordinators: &[String], timeout: Duration) -> Result<(String, QuorumStatusResponse)> {
    let mut asking = JoinSet::new();
    for address in coordinators {
        // Each one is asked separately: a client of all of them would use the first that answers.
        let client = reader(std::slice::from_ref(address))?;
        let address = address.clone();
        asking.spawn(async move { (address, client.quorum_status(QuorumStatusRequest {}, timeout).await) });
    }
    // One that knows a leader before one that does not: the terms of a coordinator that is cut off may be later.
    let rank = |status: &QuorumStatusResponse| (status.leader_id != 0, status.term);
    let (mut best, mut failed): (Option<(String, QuorumStatusResponse)>, _) = (None, None);
    while let Some(answer) = asking.join_next().await {
        match answer? {
            (address, Ok(status)) if status.leader_id == status.coordinator_id => return Ok((address, status)),
            (address, Ok(status)) => {
                best = best.filter(|(_, other)| rank(other) >= rank(&status)).or(Some((address, status)));
            }
            (_, Err(error)) => failed = Some(error),
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
