//! A client of a cluster: connections to its brokers, the versions of each, a view of its topics, and retries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use ottla_model::{BrokerId, ErrorCode, PartitionId};
use ottla_protocol::messages::api_versions::ApiVersionsResponse;
use ottla_protocol::messages::{CurrentLeader, NodeEndpoint};
use ottla_protocol::{Api, CodecError};
use tokio::time::Instant;

use crate::connection::{Connection, ConnectionConfig};
use crate::coordinator::CoordinatorKey;
use crate::error::ClientError;
use crate::metadata::{BrokerAddress, ClusterView, TopicView};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of some brokers; one that answers is enough.
    pub bootstrap: Vec<String>,
    pub connection: ConnectionConfig,
    /// How long an operation is tried again while its errors are of the kind that pass.
    pub retry_timeout: Duration,
    /// The first pause between two tries; each is twice the one before, up to `backoff_max`.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// How many times an operation is tried again within that time; none is as often as it allows.
    pub retries_max: Option<u32>,
    /// How many partitions one answer of DescribeTopicPartitions may hold.
    pub partitions_per_response: i32,
}

impl ClientConfig {
    /// The defaults for a comma-separated list of bootstrap addresses; blanks around commas are ignored, a missing port
    /// is 9092.
    pub fn new(bootstrap: &str) -> Self {
        let addresses = bootstrap.split(',').map(str::trim).filter(|address| !address.is_empty());
        Self {
            bootstrap: addresses.map(with_port).collect(),
            connection: ConnectionConfig::default(),
            retry_timeout: Duration::from_secs(30),
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_millis(500),
            retries_max: None,
            partitions_per_response: 2_000,
        }
    }
}

fn with_port(address: &str) -> String {
    let after_host = address.rsplit_once(']').map_or(address, |(_, rest)| rest);
    if after_host.contains(':') { address.to_owned() } else { format!("{address}:9092") }
}

/// A connection, with the broker's APIs and versions.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) versions: ApiVersionsResponse,
}

impl Link {
    pub(crate) async fn open(address: &str, config: &ConnectionConfig) -> Result<Arc<Self>, ClientError> {
        let connection = Connection::connect(address, config.clone()).await?;
        let versions = connection.api_versions().await?;
        Ok(Arc::new(Self { connection, versions }))
    }

    /// The newest version that both sides support.
    pub(crate) fn version(&self, api: Api) -> Result<i16, ClientError> {
        Ok(self.connection.newest(&self.versions, api)?.max)
    }

    /// Sends a request in the newest version.
    pub(crate) async fn call<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        self.call_up_to(i16::MAX, request).await
    }

    /// Sends a request in the newest version up to `newest`: later ones name topics in a way that the request does not.
    pub(crate) async fn call_up_to<R: Request>(&self, newest: i16, request: &R) -> Result<R::Response, ClientError> {
        let version = self.version(api_of::<R>()?)?.min(newest);
        self.connection.call(version, request).await
    }

    /// Sends a request that the broker may keep waiting for longer than others.
    pub(crate) async fn call_within<R: Request>(
        &self,
        timeout: Duration,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        let version = self.version(api_of::<R>()?)?;
        self.connection.call_within(timeout, version, request).await
    }
}

fn api_of<R: Request>() -> Result<Api, ClientError> {
    Api::from_key(R::KEY).ok_or(ClientError::Encode(CodecError::UnknownApi(R::KEY)))
}

#[derive(Default)]
struct State {
    view: ClusterView,
    links: BTreeMap<BrokerId, Arc<Link>>,
    /// Topics whose leaders must be requested before their next use.
    stale: BTreeSet<String>,
    /// Topics of which a refusal named a newer leader: the next try need not wait.
    learnt: BTreeSet<String>,
    /// The coordinator of each group and transactional id, from the last FindCoordinator.
    coordinators: BTreeMap<CoordinatorKey, BrokerId>,
    /// The last connection that was used for Metadata, as long as the brokers' own addresses are unknown or
    /// unreachable.
    bootstrap: Option<Arc<Link>>,
}

struct Inner {
    config: ClientConfig,
    state: Mutex<State>,
}

/// A client of a cluster. Clones share connections and the view of the cluster.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("bootstrap", &self.inner.config.bootstrap).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that has not yet connected to anything.
    pub fn new(config: ClientConfig) -> Self {
        Self { inner: Arc::new(Inner { config, state: Mutex::default() }) }
    }

    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Held for look-ups and replacements only, never across an await; nothing in between can fail half-way.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster as of the latest responses; sends no request.
    pub fn view(&self) -> ClusterView {
        self.state().view.clone()
    }

    /// Whether the latest responses name a leader of the partition, or say nothing of it; sends no request.
    pub fn may_have_leader(&self, topic: &str, partition: PartitionId) -> bool {
        let state = self.state();
        let known = state.view.topics.get(topic).and_then(|topic| topic.partitions.get(&partition));
        known.is_none_or(|partition| partition.leader != BrokerId::NONE)
    }

    /// Takes in a leader that a broker named along with a refusal.
    pub(crate) fn learn_leader(
        &self,
        topic: &str,
        partition: PartitionId,
        leader: CurrentLeader,
        endpoints: &[NodeEndpoint],
    ) {
        let mut state = self.state();
        if state.view.learn_leader(topic, partition, leader, endpoints) {
            state.learnt.insert(topic.to_owned());
        }
    }

    /// Requests the cluster's brokers and these topics, or all topics; the response updates the view. It never creates
    /// topics.
    pub async fn metadata(&self, topics: Option<&[&str]>) -> Result<ClusterView, ClientError> {
        self.metadata_with(topics, false).await
    }

    /// As [`Client::metadata`]; topics that do not exist are created where the brokers allow it.
    pub async fn metadata_creating(&self, topics: &[&str]) -> Result<ClusterView, ClientError> {
        self.metadata_with(Some(topics), true).await
    }

    async fn metadata_with(&self, topics: Option<&[&str]>, may_create: bool) -> Result<ClusterView, ClientError> {
        let named = topics.map(|topics| {
            let name = |topic: &&str| Some(TopicName(StrBytes::from_string((*topic).to_owned())));
            topics.iter().map(|topic| MetadataRequestTopic::default().with_name(name(topic))).collect()
        });
        let request = MetadataRequest::default().with_topics(named).with_allow_auto_topic_creation(may_create);
        let link = self.any_link().await?;
        let response = link.call(&request).await?;
        let mut state = self.state();
        if topics.is_none() {
            // A topic that is missing in the list of all topics does not exist any more.
            state.view.keep_listed(&response);
        }
        state.view.absorb(&response);
        for name in response.topics.iter().filter_map(|topic| topic.name.as_ref()) {
            state.stale.remove(name.0.as_str());
        }
        Ok(topics.map_or_else(|| state.view.clone(), |topics| state.view.of(topics)))
    }

    /// A connection to any broker: one that is open, else a known broker, else a bootstrap address.
    pub(crate) async fn any_link(&self) -> Result<Arc<Link>, ClientError> {
        let (open, known) = {
            let state = self.state();
            let mut open = state.links.values().chain(&state.bootstrap);
            let open = open.find(|link| !link.connection.is_closed()).cloned();
            let known: Vec<String> = state.view.brokers.values().map(|broker| broker.address()).collect();
            (open, known)
        };
        if let Some(open) = open {
            return Ok(open);
        }
        let bootstrap = &self.inner.config.bootstrap;
        let mut last = ClientError::NoBootstrap;
        // Bootstrap addresses first: they are the ones that are known to be reachable from here.
        for address in bootstrap.iter().chain(known.iter().filter(|address| !bootstrap.contains(address))) {
            match Link::open(address, &self.inner.config.connection).await {
                Ok(link) => {
                    self.state().bootstrap = Some(link.clone());
                    return Ok(link);
                }
                Err(error) => {
                    tracing::debug!(%address, %error, "a broker does not answer");
                    last = error;
                }
            }
        }
        match last {
            ClientError::NoBootstrap => Err(ClientError::NoBootstrap),
            last => Err(ClientError::NoBroker(Arc::new(last))),
        }
    }

    /// A connection to a broker that the view knows.
    pub(crate) async fn link_to(&self, broker: BrokerId) -> Result<Arc<Link>, ClientError> {
        let address = {
            let mut state = self.state();
            match state.links.get(&broker) {
                Some(link) if !link.connection.is_closed() => return Ok(link.clone()),
                _ => state.links.remove(&broker),
            };
            state.view.brokers.get(&broker).map(|broker| broker.address())
        };
        let address = address.ok_or(ClientError::refused(ErrorCode::LeaderNotAvailable))?;
        let link = Link::open(&address, &self.inner.config.connection).await?;
        self.state().links.insert(broker, link.clone());
        Ok(link)
    }

    /// A connection to the broker that Metadata names as the controller, else to any.
    pub(crate) async fn admin_link(&self) -> Result<Arc<Link>, ClientError> {
        if self.state().view.brokers.is_empty() {
            self.metadata(Some(&[])).await?;
        }
        let controller = self.state().view.controller;
        match controller {
            Some(controller) => match self.link_to(controller).await {
                Ok(link) => Ok(link),
                // It may just have died: every broker accepts admin requests.
                Err(error) if error.is_retriable() => {
                    self.metadata(Some(&[])).await?;
                    self.any_link().await
                }
                Err(error) => Err(error),
            },
            None => self.any_link().await,
        }
    }

    /// The coordinator of a group or transactional id, if this client knows it.
    pub(crate) fn known_coordinator(&self, key: &CoordinatorKey) -> Option<BrokerAddress> {
        let state = self.state();
        state.coordinators.get(key).and_then(|id| state.view.brokers.get(id)).cloned()
    }

    /// Stores the result of FindCoordinator.
    pub(crate) fn learn_coordinator(&self, key: CoordinatorKey, broker: BrokerAddress) {
        let mut state = self.state();
        state.coordinators.insert(key, broker.id);
        state.view.brokers.insert(broker.id, broker);
    }

    /// Causes a new FindCoordinator before this coordinator is used again.
    pub(crate) fn forget_coordinator(&self, key: &CoordinatorKey) {
        self.state().coordinators.remove(key);
    }

    /// Whether the view has the leaders of a topic, and none of them was refused since.
    pub(crate) fn knows_topic(&self, topic: &str) -> bool {
        let state = self.state();
        state.view.topics.get(topic).is_some_and(|known| known.error.is_ok()) && !state.stale.contains(topic)
    }

    /// A topic as the view has it, else as the cluster answers.
    pub(crate) async fn topic(&self, topic: &str) -> Result<TopicView, ClientError> {
        let known = {
            let state = self.state();
            let known = state.view.topics.get(topic).filter(|known| known.error.is_ok());
            known.filter(|_| !state.stale.contains(topic)).cloned()
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let view = self.metadata(Some(&[topic])).await?;
        let topic = view.topics.get(topic).cloned().ok_or(ClientError::Incomplete(Api::Metadata))?;
        if topic.error.is_ok() { Ok(topic) } else { Err(ClientError::refused(topic.error)) }
    }

    /// The leader of a partition: from the view if it has one, else from the cluster.
    pub async fn leader(&self, topic: &str, partition: PartitionId) -> Result<BrokerId, ClientError> {
        let mut view = self.topic(topic).await?;
        if !view.partitions.contains_key(&partition) {
            // The topic may have grown since the last request.
            self.forget(topic);
            view = self.topic(topic).await?;
        }
        let Some(found) = view.partitions.get(&partition) else {
            return Err(ClientError::NoSuchPartition { topic: topic.to_owned(), partition: partition.0 });
        };
        if found.leader == BrokerId::NONE {
            return Err(ClientError::refused(ErrorCode::LeaderNotAvailable));
        }
        Ok(found.leader)
    }

    /// Causes a new Metadata request for a topic before its leaders are used again.
    pub fn forget(&self, topic: &str) {
        self.state().stale.insert(topic.to_owned());
    }

    /// Runs `attempt` until it succeeds, fails with a definite error, or the retry timeout is over. Between two
    /// attempts it waits, and requests `topic`'s leaders again, unless the error response itself contained a newer
    /// leader.
    pub(crate) async fn retry<T, F>(
        &self,
        topic: Option<&str>,
        may_repeat: impl Fn(&ClientError) -> bool,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let began = Instant::now();
        let config = &self.inner.config;
        let mut pause = config.backoff;
        let mut retries = 0;
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if !error.is_retriable() || !may_repeat(&error) {
                return Err(error);
            }
            let waited = began.elapsed();
            let is_last = config.retries_max.is_some_and(|most| retries >= most);
            if is_last || waited + pause > config.retry_timeout {
                return Err(ClientError::GaveUp { waited, last: Arc::new(error) });
            }
            retries += 1;
            tracing::debug!(%error, ?pause, "trying again");
            // Each time it must be a newer epoch than the one before, so that brokers cannot send us in a circle.
            if topic.is_some_and(|topic| self.state().learnt.remove(topic)) {
                continue;
            }
            if let Some(topic) = topic {
                self.forget(topic);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(config.backoff_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_lists_are_trimmed_and_completed() {
        let config = ClientConfig::new(" kafka-1:29092, kafka-2 ,,[::1],[::1]:9,");
        assert_eq!(config.bootstrap, ["kafka-1:29092", "kafka-2:9092", "[::1]:9092", "[::1]:9"]);
        assert!(ClientConfig::new("").bootstrap.is_empty());
    }

    #[tokio::test]
    async fn a_cluster_that_is_not_there_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Client::new(ClientConfig::new(&address)).metadata(None).await.unwrap_err();
        assert!(matches!(error, ClientError::NoBroker(_)) && error.to_string().contains(&address), "{error}");
        let error = Client::new(ClientConfig::new("")).metadata(None).await.unwrap_err();
        assert!(matches!(error, ClientError::NoBootstrap));
    }
}
