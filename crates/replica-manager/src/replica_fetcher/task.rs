//! The task of one fetcher: connects, sends, receives and waits. What it asks for, and what an answer means, is decided
//! by [`ottla_replica_fetcher::Fetcher`].

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use ottla_model::{BrokerEpoch, BrokerId, LeaderEpoch, MonotonicMs, Offset, PartitionId, TopicIdPartition, rounded};
use ottla_protocol::kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::kafka_protocol::messages::{
    BrokerId as WireBrokerId, ListOffsetsRequest, TopicName as WireTopicName,
};
use ottla_protocol::kafka_protocol::protocol::StrBytes;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{self, FetchPartition, FetchTopic, ForgottenTopic};
use ottla_protocol::{CodecError, WireError, decode_response, encode_request};
use ottla_replica_fetcher::{
    BoundsQuestion, BrokenRules, Disconnect, Effect, FetchRequest, FetchResponse, Fetcher, Followers, LogEnd,
    RequestNumber,
};
use ottla_replication::{EpochEnd, FetchAnswer, FetchPosition, FollowerStep};
use ottla_resources::giving_way::give_way;

use super::stream::FetchStream;
use super::{Change, FetcherConfig, Mailbox};
use crate::clock;
use crate::identity::Identity;
use crate::metadata_cache::MetadataCache;
use crate::partition::Partition;
use crate::suspects;

/// Topic ids, the follower's broker epoch in the request, and the high watermark that a follower knows.
const FETCH_VERSION: i16 = 18;
const LIST_OFFSETS_VERSION: i16 = 7;

/// What one answer may have beyond `replica.fetch.response.max.bytes`: the first batch comes whole, and a topic may
/// allow batches of many megabytes.
const ANSWER_SLACK_BYTES: usize = 256 * 1024 * 1024;

/// Changes that are taken before other tasks of the thread get their turn: a start brings tens of thousands of them,
/// and is not over before the next change of the tree has had a thread.
const CHANGES_PER_TURN: usize = 500;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Codec(#[from] CodecError),
    #[error("an answer to another request")]
    OutOfOrder,
}

pub struct FetcherTask {
    core: Fetcher<Arc<Partition>>,
    config: FetcherConfig,
    identity: Arc<Identity>,
    metadata: Arc<MetadataCache>,
    mailbox: Arc<Mailbox>,
    connection: Option<Connection>,
    /// The source's registration that the last attempt to connect went to.
    source_epoch: BrokerEpoch,
    /// One line for an outage, not one for each attempt.
    logged_outage: bool,
}

struct Connection {
    stream: FetchStream,
    next_correlation: i32,
    underway: VecDeque<(i32, Underway)>,
}

/// A request without an answer yet.
#[derive(Clone, Copy)]
enum Underway {
    Fetch(RequestNumber),
    Bounds(RequestNumber),
}

impl Connection {
    fn begin(&mut self, request: Underway) -> i32 {
        self.next_correlation = self.next_correlation.wrapping_add(1);
        self.underway.push_back((self.next_correlation, request));
        self.next_correlation
    }
}

/// The partitions of this broker, for the fetcher, which looks at them at one time.
struct LocalFollowers {
    now: MonotonicMs,
}

impl Followers for LocalFollowers {
    type Handle = Arc<Partition>;

    fn next_step(&mut self, partition: &Arc<Partition>, leader_epoch: LeaderEpoch) -> FollowerStep {
        partition.next_step(leader_epoch)
    }

    fn fetched(
        &mut self,
        partition: &Arc<Partition>,
        asked: FetchPosition,
        answer: &FetchAnswer,
        records: &[u8],
    ) -> FollowerStep {
        partition.count_fetched(records.len(), self.now);
        partition.follower_answered(asked, answer, records, clock::wall())
    }

    fn held_until(&mut self, partition: &Arc<Partition>, now: MonotonicMs) -> Option<MonotonicMs> {
        partition.held_until(now)
    }

    fn leader_bounds(
        &mut self,
        partition: &Arc<Partition>,
        leader_epoch: LeaderEpoch,
        bounds: Option<(Offset, Offset)>,
    ) -> FollowerStep {
        partition.leader_bounds(leader_epoch, bounds)
    }
}

impl FetcherTask {
    pub fn new(
        source: BrokerId,
        config: FetcherConfig,
        identity: Arc<Identity>,
        metadata: Arc<MetadataCache>,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        let core = Fetcher::new(
            source,
            ottla_replica_fetcher::FetcherConfig {
                max_wait: config.max_wait,
                socket_timeout: config.socket_timeout,
                backoff_max: config.backoff_max,
                rules: BrokenRules::default(),
            },
        );
        Self {
            core,
            config,
            identity,
            metadata,
            mailbox,
            connection: None,
            source_epoch: BrokerEpoch::NONE,
            logged_outage: false,
        }
    }

    pub async fn run(mut self) {
        let mailbox = Arc::clone(&self.mailbox);
        let mut mail = pin!(mailbox.arrived.notified());
        // The deadline moves with each answer. The timer is set to it or to an earlier time, at which there is only
        // nothing to do: to set it costs as much as to send a request.
        let mut timer = pin!(tokio::time::sleep_until(clock::instant(MonotonicMs(0))));
        let mut timer_at: Option<MonotonicMs> = None;
        loop {
            self.take_changes().await;
            while self.execute_due().await {}
            if let Some(deadline) = self.core.deadline()
                && timer_at.is_none_or(|at| deadline < at)
            {
                timer.as_mut().reset(clock::instant(deadline));
                timer_at = Some(deadline);
            }
            let frame = async {
                match &mut self.connection {
                    Some(connection) if !connection.underway.is_empty() => connection.stream.receive().await,
                    _ => std::future::pending().await,
                }
            };
            let received = tokio::select! {
                biased;
                frame = frame => Some(frame),
                () = mail.as_mut() => {
                    mail.set(mailbox.arrived.notified());
                    None
                }
                () = timer.as_mut(), if timer_at.is_some() => {
                    timer_at = None;
                    None
                }
            };
            if let Some(received) = received
                && let Err(error) = received.map_err(ConnectionError::from).and_then(|frame| self.answered(frame))
            {
                self.disconnected(&error);
            }
        }
    }

    /// Executes what is due, and returns whether more may be due: a connection was made or has ended. A fetch that was
    /// sent makes nothing else due.
    async fn execute_due(&mut self) -> bool {
        let mut connection_changed = false;
        let now = clock::monotonic();
        for effect in self.core.tick(now, &mut LocalFollowers { now }) {
            connection_changed |= matches!(effect, Effect::Connect | Effect::Disconnect(_));
            if let Err(error) = self.execute(effect).await {
                self.disconnected(&error);
                connection_changed = true;
            }
        }
        connection_changed
    }

    async fn take_changes(&mut self) {
        let changes = self.mailbox.take();
        if changes.is_empty() {
            return;
        }
        let mut now = clock::monotonic();
        for (number, change) in changes.into_iter().enumerate() {
            if number > 0 && number % CHANGES_PER_TURN == 0 {
                give_way().await;
                now = clock::monotonic();
            }
            match change {
                Change::RoleChanged(partition) => {
                    let following = partition.following();
                    self.core.role_changed(now, partition.id(), partition, following);
                }
                Change::Leave(id) => self.core.leave(now, id),
                Change::Reconnect => self.core.reconnect(now),
            }
        }
    }

    fn disconnected(&mut self, error: &ConnectionError) {
        self.connection = None;
        self.core.disconnected(clock::monotonic());
        if let ConnectionError::Io(error) = error
            && suspects::is_gone(error)
        {
            self.metadata.suspects().suspect(self.core.source(), self.source_epoch);
        }
        self.log_outage(error);
    }

    fn log_outage(&mut self, reason: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.logged_outage, true) {
            tracing::info!(source = %self.core.source(), %reason, "fetching is interrupted");
        }
    }

    async fn execute(&mut self, effect: Effect) -> Result<(), ConnectionError> {
        match effect {
            Effect::Connect => {
                let stream = self.connect().await?;
                self.logged_outage = false;
                self.metadata.suspects().reached(self.core.source());
                self.connection = Some(Connection { stream, next_correlation: 0, underway: VecDeque::new() });
                self.core.connected(clock::monotonic());
                Ok(())
            }
            Effect::Disconnect(reason) => {
                self.connection = None;
                match reason {
                    Disconnect::NothingToFetch => {}
                    Disconnect::SourceRegistered => self.log_outage(&"the broker registered again"),
                    Disconnect::Silent => {
                        let timeout = self.config.socket_timeout;
                        self.log_outage(&format_args!("no answer within {}", rounded(timeout)));
                    }
                }
                Ok(())
            }
            Effect::AskBounds(question) => self.ask_bounds(question).await,
            Effect::Fetch(request) => self.fetch(request).await,
        }
    }

    async fn connect(&mut self) -> io::Result<FetchStream> {
        let found = {
            let image = self.metadata.current();
            image
                .broker(self.core.source())
                .and_then(|broker| Some((broker.epoch, broker.inter_broker_endpoint()?.clone())))
        };
        let Some((epoch, endpoint)) = found else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the broker is not registered"));
        };
        self.source_epoch = epoch;
        let frame_max_bytes = self.config.response_max_bytes.saturating_add(ANSWER_SLACK_BYTES);
        let config = &self.config;
        let receive_buffer_bytes = config.receive_buffer_bytes;
        FetchStream::connect(&endpoint.host, endpoint.port, &config.security, receive_buffer_bytes, frame_max_bytes)
            .await
    }

    async fn ask_bounds(&mut self, question: BoundsQuestion) -> Result<(), ConnectionError> {
        let (Some(connection), Some(partition)) = (&mut self.connection, self.core.handle(&question.partition)) else {
            return Ok(());
        };
        let request = bounds_request(partition, &question, self.identity.id());
        let client_id = format!("broker-{}-fetcher", self.identity.id());
        let correlation = connection.begin(Underway::Bounds(question.number));
        let frame = encode_request(LIST_OFFSETS_VERSION, correlation, Some(&client_id), &request)?;
        Ok(connection.stream.send(&frame, self.config.socket_timeout).await?)
    }

    async fn fetch(&mut self, request: FetchRequest) -> Result<(), ConnectionError> {
        // An earlier effect of the same tick may have broken it.
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let correlation = connection.begin(Underway::Fetch(request.number));
        let request = fetch_request(&request, &self.identity, &self.config);
        let frame = fetch::encode_request(FETCH_VERSION, correlation, None, &request).map_err(CodecError::from)?;
        Ok(connection.stream.send(&frame, self.config.socket_timeout).await?)
    }

    fn answered(&mut self, frame: Bytes) -> Result<(), ConnectionError> {
        let underway = self.connection.as_mut().and_then(|connection| connection.underway.pop_front());
        let (correlation, underway) = underway.ok_or(ConnectionError::OutOfOrder)?;
        let now = clock::monotonic();
        let mut followers = LocalFollowers { now };
        match underway {
            Underway::Fetch(number) => {
                let (answered, response) = fetch::decode_response(FETCH_VERSION, &frame)?;
                if answered != correlation {
                    return Err(ConnectionError::OutOfOrder);
                }
                let whole = FetchResponse { error: response.error, session_id: response.session_id };
                if whole.error != ottla_model::ErrorCode::None {
                    tracing::debug!(source = %self.core.source(), error = ?whole.error, "a fetch was refused");
                }
                let topics = response.topics.into_iter().filter_map(|topic| match topic.topic {
                    TopicRef::Id(topic_id) => Some((topic_id, topic.partitions)),
                    TopicRef::Name(_) => None,
                });
                let partitions = topics.flat_map(|(topic_id, answers)| {
                    answers.into_iter().map(move |answer| partition_answer(topic_id, answer))
                });
                self.core.fetched(now, number, whole, partitions, &mut followers);
            }
            Underway::Bounds(number) => {
                let (answered, response) = decode_response::<ListOffsetsRequest>(LIST_OFFSETS_VERSION, frame)?;
                if answered != correlation {
                    return Err(ConnectionError::OutOfOrder);
                }
                let answer = response.topics.first().and_then(|topic| topic.partitions.first());
                let offset = answer
                    .filter(|answer| answer.error_code == 0 && answer.offset >= 0)
                    .map(|answer| Offset(answer.offset));
                self.core.bounds_answered(now, number, offset, &mut followers);
            }
        }
        Ok(())
    }
}

fn partition_answer(
    topic_id: ottla_model::TopicId,
    answer: fetch::FetchPartitionResponse<Bytes>,
) -> (TopicIdPartition, FetchAnswer, Bytes) {
    let id = TopicIdPartition { topic_id, partition: answer.partition };
    let facts = FetchAnswer {
        error: answer.error,
        diverging: answer.diverging_epoch.map(|end| EpochEnd { epoch: end.epoch, end_offset: end.end_offset }),
        high_watermark: answer.high_watermark,
        log_start: answer.log_start_offset,
    };
    (id, facts, answer.records.unwrap_or_default())
}

fn fetch_request(request: &FetchRequest, identity: &Identity, config: &FetcherConfig) -> fetch::FetchRequest {
    let partition_max_bytes = i32::try_from(config.partition_max_bytes).unwrap_or(i32::MAX);
    let topics = request.partitions.chunk_by(|(one, _), (next, _)| one.topic_id == next.topic_id);
    let topics = topics.filter_map(|partitions| {
        let (id, _) = partitions.first()?;
        let asked =
            partitions.iter().map(|(id, position)| request_partition(id.partition, *position, partition_max_bytes));
        Some(FetchTopic { topic: TopicRef::Id(id.topic_id), partitions: asked.collect() })
    });
    let forgotten = request.forgotten.chunk_by(|one, next| one.topic_id == next.topic_id);
    let forgotten_topics = forgotten.filter_map(|partitions| {
        let topic = TopicRef::Id(partitions.first()?.topic_id);
        Some(ForgottenTopic { topic, partitions: partitions.iter().map(|id| id.partition).collect() })
    });
    fetch::FetchRequest {
        replica_id: identity.id(),
        replica_epoch: identity.epoch(),
        incarnation_key: Some(identity.key().clone()),
        max_wait_ms: i32::try_from(request.max_wait.as_millis()).unwrap_or(i32::MAX),
        min_bytes: i32::try_from(config.min_bytes).unwrap_or(i32::MAX),
        max_bytes: i32::try_from(config.response_max_bytes).unwrap_or(i32::MAX),
        session_id: request.session_id,
        session_epoch: request.session_epoch,
        topics: topics.collect(),
        forgotten_topics: forgotten_topics.collect(),
        ..fetch::FetchRequest::default()
    }
}

fn request_partition(partition: PartitionId, position: FetchPosition, max_bytes: i32) -> FetchPartition {
    FetchPartition {
        partition,
        current_leader_epoch: position.leader_epoch,
        fetch_offset: position.offset,
        last_fetched_epoch: position.last_fetched_epoch,
        log_start_offset: position.log_start,
        max_bytes,
        replica_directory_id: [0; 16],
        high_watermark: position.high_watermark,
    }
}

/// ListOffsets has no way to ask one partition for both ends in one request.
fn bounds_request(partition: &Partition, question: &BoundsQuestion, replica: BrokerId) -> ListOffsetsRequest {
    let timestamp = match question.end {
        LogEnd::Earliest => -2,
        LogEnd::Latest => -1,
    };
    let PartitionId(number) = question.partition.partition;
    ListOffsetsRequest::default().with_replica_id(WireBrokerId(replica.0)).with_topics(vec![
        ListOffsetsTopic::default()
            .with_name(WireTopicName(StrBytes::from_string(partition.topic.to_string())))
            .with_partitions(vec![
                ListOffsetsPartition::default()
                    .with_partition_index(number)
                    .with_current_leader_epoch(question.leader_epoch.0)
                    .with_timestamp(timestamp),
            ]),
    ])
}
