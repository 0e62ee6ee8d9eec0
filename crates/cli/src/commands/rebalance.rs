//! `ottla rebalance`: brokers get their shares of bytes, replicas and leaders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use ottla_client::Client;
use ottla_metadata::balance::{self, BrokerRole, Cluster, Goals};
use ottla_model::{BrokerId, TopicPartition};

use super::at::Bootstrap;
use super::balance::{Pace, Waves, carry_out, explain, finish_earlier, is_cordoned, observe};
use crate::kafka::Kafka;
use crate::out;

/// What `auto` moves by itself leaves room for clients on a network of a gigabit.
const AUTO_THROTTLE: u64 = 50 << 20;
/// While a plan is carried out topics grow, and new ones are created: then another plan follows. Where that does not
/// end, records come faster than they can be moved.
const ROUNDS_MAX: usize = 8;
/// How often `--watch` looks whether brokers have come or gone.
const WATCH_PAUSE: Duration = Duration::from_secs(5);

#[derive(Subcommand)]
pub enum RebalanceCommand {
    /// Show which replicas would move so that all brokers hold their shares of bytes, replicas and leaders
    Plan {
        /// Carry the plan out
        #[arg(long)]
        execute: bool,
        #[command(flatten)]
        waves: Waves,
        #[command(flatten)]
        at: Bootstrap,
    },
    /// Move replicas until all brokers hold their shares: at 50 MiB per second if --throttle does not say otherwise
    Auto {
        /// Go on: when a broker joins, give it its share
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        waves: Waves,
        #[command(flatten)]
        at: Bootstrap,
    },
}

pub async fn rebalance(command: RebalanceCommand) -> Result<()> {
    match command {
        RebalanceCommand::Plan { execute, waves, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            plan(kafka.client(), execute, waves.pace()).await
        }
        RebalanceCommand::Auto { watch, waves, at } => {
            let kafka = Kafka::connect(&at.addresses().await?).await?;
            let pace = waves.pace_or(AUTO_THROTTLE);
            match watch {
                false => auto(kafka.client(), pace).await.map(drop),
                true => keep_balanced(kafka.client(), pace).await,
            }
        }
    }
}

async fn plan(client: &Client, executes: bool, pace: Pace) -> Result<()> {
    let observed = observe(client, None).await?;
    let plan = balance::plan(&observed.cluster, Goals::Balance)?;
    explain(&observed.cluster, &plan);
    tell_of_keepers(&observed.cluster);
    observed.tell_of_leaderless();
    match (executes, plan.moves.is_empty()) {
        (false, _) => {}
        (true, true) => finish_earlier(client, pace).await?,
        (true, false) => {
            carry_out(client, plan.moves, pace).await?;
            out!("all brokers hold their shares");
        }
    }
    Ok(())
}

fn tell_of_keepers(cluster: &Cluster<TopicPartition>) {
    for broker in cluster.brokers.iter().filter(|broker| broker.role == BrokerRole::Keeps) {
        out!("broker {} is down or cordoned: it keeps what it has and gets nothing", broker.id);
    }
}

/// Carries out one plan after the other until there is nothing to move. Returns the brokers that hold shares.
async fn auto(client: &Client, pace: Pace) -> Result<BTreeSet<BrokerId>> {
    for round in 0..ROUNDS_MAX {
        let observed = observe(client, None).await?;
        let cluster = &observed.cluster;
        if round == 0 {
            tell_of_keepers(cluster);
            observed.tell_of_leaderless();
        }
        let plan = balance::plan(cluster, Goals::Balance)?;
        if plan.moves.is_empty() {
            // The plan counts reassignments of others, and those that an earlier run has left, as done.
            finish_earlier(client, pace).await?;
            out!("balanced");
            return Ok(sharing(cluster));
        }
        explain(cluster, &plan);
        carry_out(client, plan.moves, pace).await?;
    }
    bail!("after {ROUNDS_MAX} plans the shares still differ: records come faster than replicas move")
}

/// Those that give and get replicas.
fn sharing(cluster: &Cluster<TopicPartition>) -> BTreeSet<BrokerId> {
    let sharing = cluster.brokers.iter().filter(|broker| broker.role == BrokerRole::Shares);
    sharing.map(|broker| broker.id).collect()
}

/// Balances whenever a broker has joined. One that is down for a while comes back to what it had.
async fn keep_balanced(client: &Client, pace: Pace) -> Result<()> {
    let mut known = auto(client, pace).await?;
    loop {
        tokio::time::sleep(WATCH_PAUSE).await;
        // A cluster that does not answer now will.
        let Ok(brokers) = roles(client).await else { continue };
        if let Some(joined) = newcomer(&mut known, &brokers) {
            out!("broker {joined} has joined");
            match auto(client, pace).await {
                // Not the one that joined where it was down as the plan was made: it has no share yet.
                Ok(sharing) => known.extend(sharing),
                Err(error) => out!("not balanced: {error:#}"),
            }
        }
    }
}

/// A broker that holds no share yet and may get one. Those that have left are forgotten.
fn newcomer(known: &mut BTreeSet<BrokerId>, brokers: &BTreeMap<BrokerId, WatchedRole>) -> Option<BrokerId> {
    known.retain(|broker| !has_left(*broker, brokers));
    let mut sharing = brokers.iter().filter(|(_, role)| **role == WatchedRole::Shares).map(|(broker, _)| *broker);
    sharing.find(|broker| !known.contains(broker))
}

/// What `--watch` sees of a registered broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WatchedRole {
    Shares,
    Cordoned,
    Down,
}

async fn roles(client: &Client) -> Result<BTreeMap<BrokerId, WatchedRole>> {
    let mut roles = BTreeMap::new();
    for broker in client.describe_cluster_with_fenced().await?.brokers {
        let id = broker.address.id;
        let role = match broker.is_fenced {
            true => WatchedRole::Down,
            false if is_cordoned(client, id).await? => WatchedRole::Cordoned,
            false => WatchedRole::Shares,
        };
        roles.insert(id, role);
    }
    Ok(roles)
}

/// Whether the broker joins anew when it is seen again: it was drained, or its id was unregistered and belongs to
/// another machine then.
fn has_left(broker: BrokerId, brokers: &BTreeMap<BrokerId, WatchedRole>) -> bool {
    !matches!(brokers.get(&broker), Some(WatchedRole::Shares | WatchedRole::Down))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new broker with the id of one that was decommissioned got nothing, and neither did one after `undrain`.
    #[test]
    fn a_broker_that_left_joins_again() {
        let roles = [(1, WatchedRole::Shares), (2, WatchedRole::Down), (3, WatchedRole::Cordoned)];
        let brokers = roles.map(|(id, role)| (BrokerId(id), role)).into();
        assert_eq!([1, 2, 3, 4].map(|id| has_left(BrokerId(id), &brokers)), [false, false, true, true]);
    }

    /// A broker that was down again as the plan was made counted as served, and got nothing when it came back.
    #[test]
    fn a_broker_joins_until_a_plan_has_given_it_a_share() {
        let seen = |third| -> BTreeMap<_, _> {
            let roles = [(1, WatchedRole::Shares), (2, WatchedRole::Shares), (3, third)];
            roles.map(|(id, role)| (BrokerId(id), role)).into()
        };
        let mut known = BTreeSet::from([1, 2].map(BrokerId));
        assert_eq!(newcomer(&mut known, &seen(WatchedRole::Shares)), Some(BrokerId(3)));
        // The plan shared among 1 and 2.
        known.extend([1, 2].map(BrokerId));
        assert_eq!(newcomer(&mut known, &seen(WatchedRole::Down)), None);
        assert_eq!(newcomer(&mut known, &seen(WatchedRole::Shares)), Some(BrokerId(3)));
        known.insert(BrokerId(3));
        assert_eq!(newcomer(&mut known, &seen(WatchedRole::Down)), None);
        assert_eq!(newcomer(&mut known, &seen(WatchedRole::Shares)), None);
    }
}
