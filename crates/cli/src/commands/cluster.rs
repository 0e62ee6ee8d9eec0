//! `ottla brokers` and `ottla quorum`.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::{Bootstrap, Coordinators};
use crate::kafka::Kafka;
use crate::out;
use crate::progress::Progress;
use crate::quorum;

#[derive(Args)]
pub struct BrokersArguments {
    /// Wait until this number of brokers is registered
    #[arg(long, value_name = "N")]
    wait: Option<usize>,
    #[command(flatten)]
    at: Bootstrap,
}

/// How long `--wait` waits.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub async fn brokers(arguments: BrokersArguments) -> Result<()> {
    let kafka = Kafka::connect(&arguments.at.addresses()).await?;
    let mut progress = Progress::new(Duration::from_secs(1));
    let view = loop {
        let view = kafka.client().metadata(Some(&[])).await?;
        let wanted = arguments.wait.unwrap_or(0);
        if view.brokers.len() >= wanted {
            break view;
        }
        if progress.elapsed() > PATIENCE {
            progress.clear();
            bail!("only {} of {wanted} brokers are there after {} s", view.brokers.len(), PATIENCE.as_secs());
        }
        progress.show(&format!("{} of {wanted} brokers are there", view.brokers.len()));
        tokio::time::sleep(POLL).await;
    };
    progress.clear();
    for (id, broker) in &view.brokers {
        let controller = if view.controller == Some(*id) { "  controller" } else { "" };
        let rack = broker.rack.as_ref().map_or(String::new(), |rack| format!("  rack {rack}"));
        out!("{id}  {}{rack}{controller}", broker.address());
    }
    Ok(())
}

pub async fn quorum(coordinators: &Coordinators) -> Result<()> {
    let status = quorum::status(&coordinators.addresses()?, quorum::TIMEOUT).await?;
    out!("cluster {}  term {}  committed revision {}", status.cluster_id, status.term, status.committed_revision);
    for member in &status.members {
        let role = if member.coordinator_id == status.leader_id { "  quorum leader" } else { "" };
        // Only the leader knows how far the others are.
        let matched = match member.matched_revision {
            0 => String::new(),
            revision => format!("  has revision {revision}"),
        };
        out!("{}  {}{matched}{role}", member.coordinator_id, member.address);
    }
    if status.leader_id == 0 {
        bail!("there is no quorum leader (asked coordinator {})", status.coordinator_id);
    }
    Ok(())
}
