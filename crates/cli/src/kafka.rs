//! The cluster as the tools use it: the client crate, with messages for people and patience at the start.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ottla_client::{Client, ClientConfig, ClientError};
use ottla_model::{BrokerId, ErrorCode, PartitionId};

use crate::client_security;
use crate::err;
use crate::kafka_tools::exceptions;
use crate::progress::Progress;
use crate::quorum;

/// How long a tool waits for brokers that do not answer yet: a command right after the start of a cluster should wait.
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a tool waits for brokers that a new topic needs and that have not registered yet. Scripts rely on the
/// seconds that a tool of Java takes to start: they create topics as soon as one broker of a new cluster answers.
pub const REGISTRATION_PATIENCE: Duration = Duration::from_secs(3);
/// How long a topic may be new to a broker. Who misspelt a name waits as long.
const NEW_TOPIC_PATIENCE: Duration = Duration::from_secs(1);
/// How long a tool waits for the leaders of some partitions where others have theirs.
const LEADERS_PATIENCE: Duration = Duration::from_secs(5);
/// How often the line of a tool that waits may name another reason: where standard error is a file, each is a new line.
const REASON_PERIOD: Duration = Duration::from_secs(10);
/// Between two tries to connect.
pub const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long brokers may take over an admin request; Kafka's tools allow as much.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Kafka's `ConfigSource` of a value that is not set.
const SOURCE_DEFAULT: i8 = 5;

/// Why an operation failed, as text for users.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KafkaError {
    /// A broker returned an error.
    #[error("{message}")]
    Refused { code: ErrorCode, message: String },
    #[error("{0}")]
    Failed(ClientError),
}

impl KafkaError {
    pub fn refused(code: ErrorCode, message: &impl ToString) -> Self {
        Self::Refused { code, message: message.to_string() }
    }

    pub fn is(&self, wanted: ErrorCode) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }

    /// Whether the same may succeed later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused { code, .. } => code.is_retriable(),
            Self::Failed(error) => error.may_pass(),
        }
    }
}

impl From<ClientError> for KafkaError {
    fn from(error: ClientError) -> Self {
        match error {
            // An operation that was refused until its timeout counts as refused.
            ClientError::GaveUp { ref last, .. } if last.code().is_some() => ClientError::clone(last).into(),
            // Why nobody is reached counts, not that it was tried.
            ClientError::NoBroker(last) if last.is_distrust() => ClientError::clone(&last).into(),
            ClientError::GaveUp { last, .. } if last.is_distrust() => ClientError::clone(&last).into(),
            ClientError::Refused { code, message } => {
                let message = message.filter(|text| !text.is_empty()).unwrap_or_else(|| exceptions::message(code));
                Self::Refused { code, message }
            }
            other => Self::Failed(other),
        }
    }
}

/// How long nobody may answer before it is asked whether that can change; then how often it is asked.
const DIAGNOSIS_AFTER: Duration = Duration::from_secs(3);
const DIAGNOSIS_EVERY: Duration = Duration::from_secs(10);
/// A coordinator answers at once.
const COORDINATOR_TIMEOUT: Duration = Duration::from_millis(500);

/// Refuses addresses where waiting is in vain.
async fn refuse_hopeless(
    progress: &mut Progress,
    addresses: &[String],
    error: Option<&ClientError>,
) -> Result<(), KafkaError> {
    let Some(message) = hopeless(addresses, error).await else { return Ok(()) };
    progress.clear();
    Err(KafkaError::refused(ErrorCode::InvalidConfig, &message))
}

/// Why no broker will ever answer at these addresses; none if one may.
async fn hopeless(addresses: &[String], error: Option<&ClientError>) -> Option<String> {
    let mut unknown = None;
    for address in addresses {
        match tokio::net::lookup_host(address).await {
            Ok(_) => {
                unknown = None;
                break;
            }
            Err(reason) => unknown = Some(reason),
        }
    }
    if let Some(reason) = unknown {
        // Kafka's words, and why.
        return Some(format!(
            "No resolvable bootstrap urls given in bootstrap.servers: {}: {reason}",
            addresses.join(",")
        ));
    }
    if let Some(error @ (ClientError::Frame { .. } | ClientError::Decode(_))) = error.map(ClientError::innermost) {
        return Some(format!("{error}: what listens there is no broker"));
    }
    for address in addresses {
        if quorum::status(std::slice::from_ref(address), COORDINATOR_TIMEOUT).await.is_err() {
            return None;
        }
    }
    let address = addresses.first()?;
    Some(format!("{address} is a coordinator's port, not a broker's: a command for coordinators has --coordinators"))
}

/// Whether a text can be `host:port` at all.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
}

pub struct NewTopic {
    pub name: String,
    /// None: the cluster's default.
    pub partitions: Option<i32>,
    /// None: the cluster's default.
    pub replication_factor: Option<i16>,
    /// The brokers of each partition; empty: the cluster chooses.
    pub assignments: Vec<Vec<i32>>,
    pub configs: Vec<(String, String)>,
}

impl NewTopic {
    /// As the cluster makes topics of which nothing is said.
    pub fn with_defaults(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, partitions: None, replication_factor: None, assignments: Vec::new(), configs: Vec::new() }
    }
}

pub struct ListedTopic {
    pub name: String,
    /// As tools show it.
    pub id: String,
    pub is_internal: bool,
}

pub struct TopicDescription {
    pub name: String,
    pub topic_id: String,
    /// By number.
    pub partitions: Vec<PartitionDescription>,
    /// Values that are not the default, in the broker's order.
    pub configs: Vec<(String, String)>,
    pub min_insync_replicas: usize,
}

#[derive(Clone)]
pub struct PartitionDescription {
    pub partition: i32,
    pub leader: Option<i32>,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
    /// None if the broker does not send it.
    pub elr: Option<Vec<i32>>,
    pub last_known_elr: Option<Vec<i32>>,
    /// The replicas that a reassignment under way adds and removes.
    pub reassignment: Option<(Vec<i32>, Vec<i32>)>,
}

/// Where a cluster is, and how it is spoken to; what is none is the client's default.
#[derive(Clone, Debug, Default)]
pub struct Connecting {
    pub bootstrap: String,
    /// What brokers log, show among the members of groups, and find quotas by.
    pub client_id: Option<String>,
    /// How many times a request is tried again at most.
    pub retries_max: Option<u32>,
    /// The first pause between two tries.
    pub backoff: Option<Duration>,
    /// How many partitions one answer may describe.
    pub partitions_per_response: Option<i32>,
}

impl Connecting {
    pub fn to(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned(), ..Self::default() }
    }

    fn client_config(self) -> ClientConfig {
        let mut config = ClientConfig::new(&self.bootstrap);
        config.connection.security = client_security::security();
        if self.client_id.is_some() {
            config.connection.client_id = self.client_id;
        }
        config.retries_max = self.retries_max;
        if let Some(backoff) = self.backoff {
            config.backoff = backoff;
            config.backoff_max = config.backoff_max.max(backoff);
        }
        if let Some(most) = self.partitions_per_response {
            config.partitions_per_response = most;
        }
        config
    }
}

/// A cluster that answered.
#[derive(Clone)]
pub struct Kafka {
    client: Client,
}

impl Kafka {
    /// Waits, with a progress line, until one of the brokers answers.
    pub async fn connect(bootstrap: &str) -> Result<Self, KafkaError> {
        Self::connect_with(Connecting::to(bootstrap)).await
    }

    /// As `connect`.
    pub async fn connect_with(how: Connecting) -> Result<Self, KafkaError> {
        let bootstrap = how.bootstrap.clone();
        let mut progress = Progress::new(Duration::from_secs(1));
        let config = how.client_config();
        if let Some(address) = config.bootstrap.iter().find(|address| !is_address(address)) {
            // Kafka's words. Waiting would not make it an address.
            let message = format!("Invalid url in bootstrap.servers: {address}");
            return Err(KafkaError::refused(ErrorCode::InvalidConfig, &message));
        }
        let addresses = config.bootstrap.clone();
        let client = Client::new(config);
        let (mut line, mut told_at) = (String::new(), Instant::now());
        let mut last: Option<ClientError> = None;
        let mut next_diagnosis = tokio::time::Instant::now() + DIAGNOSIS_AFTER;
        loop {
            let attempt = client.metadata(Some(&[]));
            tokio::pin!(attempt);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut attempt => break outcome.map(drop),
                    // What is no broker may take a request and never answer.
                    () = tokio::time::sleep_until(next_diagnosis) => {
                        next_diagnosis = tokio::time::Instant::now() + DIAGNOSIS_EVERY;
                        refuse_hopeless(&mut progress, &addresses, last.as_ref()).await?;
                    }
                }
            };
            let Err(error) = outcome else {
                progress.clear();
                return Ok(Self { client: client.clone() });
            };
            if !error.is_retriable() || progress.elapsed() > CONNECT_PATIENCE {
                progress.clear();
                return Err(error.into());
            }
            if tokio::time::Instant::now() >= next_diagnosis {
                next_diagnosis = tokio::time::Instant::now() + DIAGNOSIS_EVERY;
                refuse_hopeless(&mut progress, &addresses, Some(&error)).await?;
            }
            if line.is_empty() || told_at.elapsed() > REASON_PERIOD {
                line = format!("waiting up to {} s for {bootstrap}: {error}", CONNECT_PATIENCE.as_secs());
                told_at = Instant::now();
            }
            progress.show(&line);
            last = Some(error);
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }

    /// The same cluster, with another time for which errors that pass are tried again.
    pub fn with_patience(&self, retry_timeout: Duration) -> Self {
        Self { client: Client::new(ClientConfig { retry_timeout, ..self.client.config().clone() }) }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub async fn topics(&self) -> Result<Vec<ListedTopic>, KafkaError> {
        let topics = self.client.list_topics().await?;
        let listed = topics.into_iter().map(|topic| ListedTopic {
            id: topic.id.to_string(),
            name: topic.name,
            is_internal: topic.is_internal,
        });
        Ok(listed.collect())
    }

    pub async fn create_topic(&self, topic: &NewTopic) -> Result<(), KafkaError> {
        let assignments: BTreeMap<PartitionId, Vec<BrokerId>> = (0..)
            .map(PartitionId)
            .zip(topic.assignments.iter().map(|brokers| brokers.iter().copied().map(BrokerId).collect()))
            .collect();
        let wanted = ottla_client::NewTopic {
            name: topic.name.clone(),
            partition_count: topic.partitions.unwrap_or(-1),
            replication_factor: topic.replication_factor.unwrap_or(-1),
            assignments,
            configs: topic.configs.iter().cloned().collect(),
        };
        let end = Instant::now() + REGISTRATION_PATIENCE;
        loop {
            let outcome = each(self.client.create_topics(std::slice::from_ref(&wanted), ADMIN_TIMEOUT, false).await?);
            match outcome {
                Err(error) if error.is(ErrorCode::InvalidReplicationFactor) && Instant::now() < end => {
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// `assignments` are the brokers of each partition, those that there are included; empty: the cluster chooses.
    pub async fn grow_topic(&self, name: &str, total: i32, assignments: &[Vec<i32>]) -> Result<(), KafkaError> {
        let existing = match assignments {
            [] => 0,
            _ => self.partitions(name).await?.len(),
        };
        let brokers = |ids: &Vec<i32>| ids.iter().copied().map(BrokerId).collect();
        let added = assignments.iter().skip(existing).map(brokers).collect();
        let assignments = (!assignments.is_empty()).then_some(added);
        let wanted = ottla_client::NewPartitions { topic: name.to_owned(), total, assignments };
        each(self.client.create_partitions(&[wanted], ADMIN_TIMEOUT, false).await?)
    }

    pub async fn delete_topic(&self, name: &str) -> Result<(), KafkaError> {
        each(self.client.delete_topics(&[name], ADMIN_TIMEOUT).await?)
    }

    /// Describes topics in the order given; the first that does not exist is the error.
    pub async fn describe(&self, names: &[String]) -> Result<Vec<TopicDescription>, KafkaError> {
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut described: BTreeMap<String, _> = self
            .client
            .describe_topics(Some(&asked))
            .await?
            .into_iter()
            .map(|topic| (topic.name.clone(), topic))
            .collect();
        // A broker that does not know reassignments has none.
        let reassignments = self.client.list_partition_reassignments(None).await.unwrap_or_default();
        let mut descriptions = Vec::new();
        for name in names {
            let Some(topic) = described.remove(name) else {
                return Err(KafkaError::refused(ErrorCode::UnknownTopicOrPartition, &format!("{name} does not exist")));
            };
            if topic.error == ErrorCode::UnknownTopicOrPartition {
                return Err(KafkaError::refused(topic.error, &format!("{name} does not exist")));
            }
            if !topic.error.is_ok() {
                return Err(KafkaError::refused(topic.error, &format!("{name}: {:?}", topic.error)));
            }
            let configs = self.client.describe_topic_configs(name).await?;
            let value = |wanted: &str| configs.iter().find(|entry| entry.name == wanted).and_then(|e| e.value.clone());
            let min_insync_replicas = value("min.insync.replicas").and_then(|text| text.parse().ok()).unwrap_or(1);
            let configs = configs
                .into_iter()
                .filter(|entry| entry.source != SOURCE_DEFAULT)
                .map(|entry| (entry.name, entry.value.unwrap_or_default()))
                .collect();
            let mut partitions: Vec<_> = topic.partitions.into_iter().map(partition_description).collect();
            partitions.sort_by_key(|partition| partition.partition);
            for one in reassignments.iter().filter(|one| one.at.topic.as_str() == topic.name) {
                let described = partitions.iter_mut().find(|described| described.partition == one.at.partition.0);
                if let Some(described) = described {
                    described.reassignment = Some((ids(&one.adding), ids(&one.removing)));
                }
            }
            let topic_id = topic.id.to_string();
            descriptions.push(TopicDescription {
                name: topic.name,
                topic_id,
                partitions,
                configs,
                min_insync_replicas,
            });
        }
        Ok(descriptions)
    }

    /// Whether there is a topic; it is not created. A broker may hear of a new topic a moment later than its creator.
    pub async fn has_topic(&self, topic: &str) -> Result<bool, KafkaError> {
        let began = Instant::now();
        loop {
            let view = self.client.metadata(Some(&[topic])).await?;
            match view.topics.get(topic).map(|found| found.error) {
                Some(ErrorCode::UnknownTopicOrPartition) | None if began.elapsed() < NEW_TOPIC_PATIENCE => {}
                Some(ErrorCode::UnknownTopicOrPartition) | None => return Ok(false),
                Some(error @ (ErrorCode::InvalidTopicException | ErrorCode::TopicAuthorizationFailed)) => {
                    return Err(KafkaError::refused(error, &format!("{topic}: {}", exceptions::message(error))));
                }
                // What else may be wrong with it passes, or is told by who uses it.
                Some(_) => return Ok(true),
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }

    /// The partitions of a topic, which is created where it does not exist and the brokers allow it. All have a leader,
    /// or some had none for a while: these do not hold up the others.
    pub async fn partitions(&self, topic: &str) -> Result<Vec<PartitionId>, KafkaError> {
        self.partitions_led(topic, true).await
    }

    /// As `partitions`. Who can go on with a topic that has no leader at all does not wait for any.
    pub async fn partitions_led(&self, topic: &str, waits: bool) -> Result<Vec<PartitionId>, KafkaError> {
        let patience = self.client.config().retry_timeout;
        let mut progress = Progress::new(Duration::from_secs(1));
        loop {
            let view = self.client.metadata_creating(&[topic]).await?;
            let Some(found) = view.topics.get(topic) else {
                return Err(ClientError::Incomplete(ottla_protocol::Api::Metadata).into());
            };
            let (all, led) = (found.partitions.len(), found.led().count());
            if found.error.is_ok() && is_usable(led, all, waits.then(|| progress.elapsed())) {
                progress.clear();
                if waits && led < all {
                    err!("{} of {all} partitions of {topic} have no leader", all - led);
                }
                return Ok(found.partitions.keys().copied().collect());
            }
            let error = if found.error.is_ok() { ErrorCode::LeaderNotAvailable } else { found.error };
            if !error.is_retriable() || progress.elapsed() > patience {
                progress.clear();
                return Err(KafkaError::refused(error, &format!("{topic}: {error:?}")));
            }
            progress.show(&format!("waiting for the leaders of {topic}"));
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }
}

/// Whether a topic with so many partitions, of which some have a leader, is waited for no longer. `waited`: none where
/// leaders are not waited for.
fn is_usable(led: usize, all: usize, waited: Option<Duration>) -> bool {
    match waited {
        None => all > 0,
        Some(waited) => led > 0 && (led == all || waited > LEADERS_PATIENCE),
    }
}

fn each(outcomes: Vec<ottla_client::TopicOutcome>) -> Result<(), KafkaError> {
    for outcome in outcomes {
        outcome.into_result()?;
    }
    Ok(())
}

fn ids(ids: &[BrokerId]) -> Vec<i32> {
    ids.iter().map(|id| id.0).collect()
}

fn partition_description(partition: ottla_client::DescribedPartition) -> PartitionDescription {
    PartitionDescription {
        partition: partition.partition.0,
        leader: Some(partition.leader).filter(|leader| *leader != BrokerId::NONE).map(|leader| leader.0),
        replicas: ids(&partition.replicas),
        isr: ids(&partition.isr),
        elr: partition.elr.as_deref().map(ids),
        last_known_elr: partition.last_known_elr.as_deref().map(ids),
        reassignment: None,
    }
}

/// The ids of all brokers, as the one at `address` knows them. One try.
pub async fn broker_ids(address: &str) -> Result<Vec<i32>, KafkaError> {
    let view = Client::new(config_of(address)).metadata(Some(&[])).await?;
    Ok(view.brokers.keys().map(|id| id.0).collect())
}

/// With the security of this process.
fn config_of(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new(address);
    config.connection.security = client_security::security();
    config
}

/// The controller, as the broker at `address` knows it. One try.
pub async fn controller_id(address: &str) -> Result<Option<i32>, KafkaError> {
    let view = Client::new(config_of(address)).metadata(Some(&[])).await?;
    Ok(view.controller.map(|id| id.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readers of a pattern read nothing as long as one topic had no leader at all.
    #[test]
    fn who_reads_on_without_leaders_does_not_wait_for_them() {
        assert!(is_usable(0, 1, None) && is_usable(1, 3, None) && !is_usable(0, 0, None));
        let (now, later) = (Some(Duration::ZERO), Some(2 * LEADERS_PATIENCE));
        assert!(is_usable(3, 3, now) && !is_usable(2, 3, now) && is_usable(2, 3, later) && !is_usable(0, 3, later));
    }
}
