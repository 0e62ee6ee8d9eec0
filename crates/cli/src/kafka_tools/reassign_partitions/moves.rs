//! Replicas in the log directories of their brokers: where they are, and which are on the way to another one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ottla_client::{Client, LogDir, LogDirReplica};
use ottla_model::{BrokerId, ErrorCode, TopicPartition};

use super::ReassignError;
use super::file::{Replica, joined};
use crate::out;

/// The pause before a replica that its broker does not have yet is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// The state of a replica whose directory a file names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MoveState {
    /// In no directory that works.
    Missing,
    Active {
        current: String,
        future: String,
    },
    Cancelled {
        current: String,
    },
    Completed,
}

impl MoveState {
    /// As Kafka's tool counts: also a replica that is nowhere yet may be on its way.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Cancelled { .. } | Self::Completed)
    }
}

/// The directories of these replicas, where their brokers tell them: what lies on a lost broker must still move.
pub async fn directories(
    client: &Client,
    assignment: &BTreeMap<TopicPartition, Vec<BrokerId>>,
) -> Result<BTreeMap<Replica, String>, ReassignError> {
    let there: BTreeSet<BrokerId> =
        client.describe_cluster().await?.brokers.iter().map(|broker| broker.address.id).collect();
    let brokers: BTreeSet<BrokerId> = assignment.values().flatten().copied().collect();
    let mut directories = BTreeMap::new();
    for broker in brokers.intersection(&there) {
        for directory in client.describe_log_dirs(*broker).await.unwrap_or_default() {
            let asked = |replica: &LogDirReplica| !replica.is_future && assignment.contains_key(&replica.at);
            let replicas = directory.replicas.into_iter().filter(asked);
            directories.extend(replicas.map(|replica| ((*broker, replica.at), directory.path.clone())));
        }
    }
    Ok(directories)
}

/// The states of these replicas.
pub async fn states(
    client: &Client,
    wanted: &BTreeMap<Replica, String>,
) -> Result<BTreeMap<Replica, MoveState>, ReassignError> {
    let mut states = BTreeMap::new();
    let brokers: BTreeSet<BrokerId> = wanted.keys().map(|(broker, _)| *broker).collect();
    for broker in brokers {
        let directories = client.describe_log_dirs(broker).await?;
        for ((id, at), target) in wanted.iter().filter(|((id, _), _)| *id == broker) {
            states.insert((*id, at.clone()), state(&directories, at, target));
        }
    }
    Ok(states)
}

fn state(directories: &[LogDir], at: &TopicPartition, target: &str) -> MoveState {
    let holding = |is_future: bool| {
        let has = |directory: &&LogDir| {
            directory.replicas.iter().any(|replica| replica.at == *at && replica.is_future == is_future)
        };
        directories.iter().find(has).map(|directory| directory.path.clone())
    };
    match (holding(false), holding(true)) {
        (None, _) => MoveState::Missing,
        (Some(current), Some(future)) => MoveState::Active { current, future },
        (Some(current), None) if current == target => MoveState::Completed,
        (Some(current), None) => MoveState::Cancelled { current },
    }
}

/// The lines about replicas on their way, by broker.
pub fn lines(states: &BTreeMap<Replica, MoveState>, wanted: &BTreeMap<Replica, String>) -> Vec<String> {
    let line = |(replica, state): (&Replica, &MoveState)| {
        let (broker, at) = replica;
        let target = wanted.get(replica).map(String::as_str).unwrap_or_default();
        match state {
            MoveState::Missing => format!(
                "Partition {at} is not found in any live log dir on broker {broker}. There is likely an offline log \
                 directory on the broker."
            ),
            MoveState::Active { future, .. } if future == target => {
                format!("Reassignment of replica {at}-{broker} is still in progress.")
            }
            MoveState::Active { future, .. } => {
                format!("Partition {at} on broker {broker} is being moved to log dir {future} instead of {target}.")
            }
            MoveState::Cancelled { current } => {
                format!("Partition {at} on broker {broker} is not being moved from log dir {current} to {target}.")
            }
            MoveState::Completed => format!("Reassignment of replica {at}-{broker} completed successfully."),
        }
    };
    states.iter().map(line).collect()
}

/// Begins the moves. A broker that does not have a replica yet is asked again until the time is over.
pub async fn execute(
    client: &Client,
    wanted: &BTreeMap<Replica, String>,
    timeout: Duration,
) -> Result<(), ReassignError> {
    let end = Instant::now() + timeout;
    let mut pending = wanted.clone();
    loop {
        let mut by_broker: BTreeMap<BrokerId, BTreeMap<TopicPartition, String>> = BTreeMap::new();
        for ((broker, at), directory) in &pending {
            by_broker.entry(*broker).or_default().insert(at.clone(), directory.clone());
        }
        for (broker, moves) in by_broker {
            for (at, error) in client.alter_replica_log_dirs(broker, &moves).await? {
                match error {
                    ErrorCode::None => {
                        if let Some(directory) = pending.remove(&(broker, at.clone())) {
                            out!(
                                "Successfully started moving log directory to {directory} for replica {at} with broker \
                                 {broker} "
                            );
                        }
                    }
                    ErrorCode::ReplicaNotAvailable => {}
                    code => {
                        let at = format!("{at}-{broker}");
                        return Err(ReassignError::Failed(format!("Failed to alter dir for {at}: {code:?}")));
                    }
                }
            }
        }
        if pending.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let plural = if pending.len() == 1 { "" } else { "s" };
            let replicas: Vec<_> = pending.keys().map(|(broker, at)| format!("{at}-{broker}")).collect();
            return Err(ReassignError::Terse(format!(
                "Timed out before log directory move{plural} could be started for: {}",
                joined(&replicas)
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_partitions::at;

    fn directory(path: &str, is_future: Option<bool>) -> LogDir {
        let replica = |is_future| LogDirReplica { at: at("t", 0), size_bytes: 1, offset_lag: 0, is_future };
        let replicas = is_future.map(replica).into_iter().collect();
        LogDir { path: path.to_owned(), error: ErrorCode::None, replicas, total_bytes: -1, usable_bytes: -1 }
    }

    #[test]
    fn states_are_told_as_kafkas_tool_does() {
        let told = |directories: &[LogDir]| {
            let replica = (BrokerId(2), at("t", 0));
            let wanted = BTreeMap::from([(replica.clone(), "/b".to_owned())]);
            let states = BTreeMap::from([(replica, state(directories, &at("t", 0), "/b"))]);
            lines(&states, &wanted).concat()
        };
        let (on_a, to_b) = (directory("/a", Some(false)), directory("/b", Some(true)));
        assert_eq!(told(&[on_a.clone(), to_b]), "Reassignment of replica t-0-2 is still in progress.");
        assert_eq!(told(&[directory("/b", Some(false))]), "Reassignment of replica t-0-2 completed successfully.");
        assert_eq!(
            told(&[on_a.clone(), directory("/c", Some(true))]),
            "Partition t-0 on broker 2 is being moved to log dir /c instead of /b."
        );
        let cancelled = "Partition t-0 on broker 2 is not being moved from log dir /a to /b.";
        assert_eq!(told(&[on_a, directory("/b", None)]), cancelled);
        // Kafka's client has an empty answer for each replica that it asked for, and never none.
        let missing = "Partition t-0 is not found in any live log dir on broker 2. There is likely an offline log \
                       directory on the broker.";
        assert_eq!(told(&[]), missing);
    }

    /// The throttles went while a replica had no directory yet; Kafka's tool keeps them then.
    #[test]
    fn a_replica_that_is_nowhere_is_not_done() {
        let current = || "/a".to_owned();
        let states = [
            MoveState::Missing,
            MoveState::Active { current: current(), future: "/b".to_owned() },
            MoveState::Cancelled { current: current() },
            MoveState::Completed,
        ];
        assert_eq!(states.map(|state| state.is_done()), [false, false, true, true]);
    }
}
