//! The task of one fetcher: connects, keeps one fetch under way, hands the records to the partitions.
//!
//! Usually one request is under way. A second one follows it only to name partitions that came or went while the source
//! holds the first one back; the source then ends that one at once.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::{BrokerId, ErrorCode, MonotonicMs, Offset, PartitionId, TopicIdPartition};
use ottla_protocol::kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::kafka_protocol::messages::{
    BrokerId as WireBrokerId, ListOffsetsRequest, TopicName as WireTopicName,
};
use ottla_protocol::kafka_protocol::protocol::StrBytes;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{self, FetchPartitionResponse, FetchRequest, FetchResponse};
use ottla_protocol::{CodecError, WireError, decode_response, encode_request};
use ottla_replication::{EpochEnd, FetchAnswer};

use super::slots::{RequestNumber, Slots};
use super::stream::FetchStream;
use super::{BACKOFF_MIN, Change, FetcherConfig, Mailbox, RECONNECT_MAX, RECONNECT_MIN};
use crate::broker::Identity;
use crate::clock;
use crate::fetch_session::next_epoch;
use crate::metadata_cache::MetadataCache;
use crate::partition::FollowerStep;

/// Topic ids, and the follower's broker epoch in the request. Version 18 adds only the high watermark that a follower knows.
const FETCH_VERSION: i16 = 17;
const LIST_OFFSETS_VERSION: i16 = 7;
/// ListOffsets' names for the two ends of a log.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// Fetches under way at a time: one that the source holds, one that ends it.
const FETCHES_MAX: usize = 2;

/// The pause after the source refused a request as a whole: its image does not have this broker's registration yet, or
/// its sessions are used up.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// What one answer may have beyond `replica.fetch.response.max.bytes`: the first batch comes whole, and a topic may allow
/// batches of many megabytes.
const ANSWER_SLACK_BYTES: usize = 256 * 1024 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Codec(#[from] CodecError),
    #[error("an answer to another request")]
    OutOfOrder,
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the broker registered again")]
    Registered,
}

pub struct Fetcher {
    source: BrokerId,
    config: FetcherConfig,
    identity: Arc<Identity>,
    metadata: Arc<MetadataCache>,
    mailbox: Arc<Mailbox>,
    slots: Slots,
    reconnect: bool,
    /// Whether the last attempt's failure has been logged: one line for an outage.
    logged_outage: bool,
}

/// A request without an answer yet.
enum Underway {
    Fetch { number: RequestNumber },
    Bounds { id: TopicIdPartition, end: i64 },
}

/// One connection to the source.
struct Link {
    stream: FetchStream,
    session_id: i32,
    session_epoch: i32,
    /// The first request of the session: answers to earlier ones speak of another.
    session_since: RequestNumber,
    /// The source gives no session: every request names everything.
    without_session: bool,
    next_number: RequestNumber,
    next_correlation: i32,
    underway: VecDeque<(i32, Underway)>,
    fetches_underway: usize,
    /// No fetch before.
    paused_until: Option<MonotonicMs>,
    /// Partitions to ask the bounds of, and the first half of the answers.
    ask_bounds: Vec<TopicIdPartition>,
    starts: HashMap<TopicIdPartition, Option<Offset>>,
    last_answer: MonotonicMs,
}

impl Fetcher {
    pub fn new(
        source: BrokerId,
        config: FetcherConfig,
        identity: Arc<Identity>,
        metadata: Arc<MetadataCache>,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        let slots = Slots::default();
        Self { source, config, identity, metadata, mailbox, slots, reconnect: false, logged_outage: false }
    }

    pub async fn run(mut self) {
        let mut pause = RECONNECT_MIN;
        loop {
            self.take_changes();
            self.reconnect = false;
            if self.slots.is_empty() {
                self.mailbox.arrived.notified().await;
                continue;
            }
            let broken = match self.connect().await {
                Ok(stream) => {
                    self.logged_outage = false;
                    let broken = self.fetch_over(stream).await;
                    pause = RECONNECT_MIN;
                    broken
                }
                Err(error) => Err(Broken::Io(error)),
            };
            let Err(broken) = broken else { continue };
            if !self.logged_outage {
                tracing::info!(source = %self.source, %broken, "fetching is interrupted");
                self.logged_outage = true;
            }
            self.end_questions();
            // A change may mean that the source can be reached again.
            let _ = tokio::time::timeout(pause, self.mailbox.arrived.notified()).await;
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    fn take_changes(&mut self) {
        for change in self.mailbox.take() {
            match change {
                Change::Follow(partition) => match partition.following() {
                    Some((leader, FollowerStep::Fetch(position))) if leader == self.source => {
                        self.slots.follow(partition, position);
                    }
                    _ => self.slots.leave(partition.id()),
                },
                Change::Leave(id) => self.slots.leave(id),
                Change::Reconnect => self.reconnect = true,
            }
        }
    }

    /// Partitions that asked for the leader's bounds will get no answer by the connection that broke.
    fn end_questions(&mut self) {
        for id in self.slots.paused() {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.partition.leader_bounds(slot.leader_epoch, None);
            }
        }
    }

    async fn connect(&self) -> io::Result<FetchStream> {
        let endpoint = {
            let image = self.metadata.current();
            image.broker(self.source).and_then(|broker| broker.inter_broker_endpoint().cloned())
        };
        let Some(endpoint) = endpoint else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the broker is not registered"));
        };
        let frame_max_bytes = self.config.response_max_bytes.saturating_add(ANSWER_SLACK_BYTES);
        FetchStream::connect(&endpoint.host, endpoint.port, self.config.receive_buffer_bytes, frame_max_bytes).await
    }

    /// Fetches until the connection breaks, or nothing is left to fetch.
    async fn fetch_over(&mut self, stream: FetchStream) -> Result<(), Broken> {
        self.slots.forget_sent();
        let mut link = Link {
            stream,
            session_id: 0,
            session_epoch: 0,
            session_since: 0,
            without_session: false,
            next_number: 0,
            next_correlation: 0,
            underway: VecDeque::new(),
            fetches_underway: 0,
            paused_until: None,
            ask_bounds: Vec::new(),
            starts: HashMap::new(),
            last_answer: clock::monotonic(),
        };
        loop {
            if self.slots.is_empty() {
                return Ok(());
            }
            if self.reconnect {
                return Err(Broken::Registered);
            }
            self.send(&mut link).await?;
            let waits = !link.underway.is_empty();
            let silent_at = link.last_answer + self.config.socket_timeout + self.config.max_wait;
            let deadlines = [self.slots.next_resume(), link.paused_until, waits.then_some(silent_at)];
            let wake_at = deadlines.into_iter().flatten().min();
            let timer = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(clock::instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                frame = link.stream.receive(), if waits => self.answered(&mut link, frame?)?,
                () = self.mailbox.arrived.notified() => self.take_changes(),
                () = timer => {
                    if waits && clock::monotonic() >= silent_at {
                        return Err(Broken::Silent(self.config.socket_timeout));
                    }
                }
            }
            self.resume_paused();
        }
    }

    fn resume_paused(&mut self) {
        if self.slots.next_resume().is_none() {
            return;
        }
        for id in self.slots.due(clock::monotonic()) {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            match slot.partition.next_fetch(slot.leader_epoch) {
                FollowerStep::Fetch(position) => self.slots.want(id, position),
                FollowerStep::BackOff | FollowerStep::AskLeaderBounds => self.pause(id),
                FollowerStep::Stop => self.slots.leave(id),
            }
        }
    }

    /// Pauses a partition for longer with each failure in a row.
    fn pause(&mut self, id: TopicIdPartition) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let pause = BACKOFF_MIN.saturating_mul(1 << slot.failures.min(10)).min(self.config.backoff_max);
        slot.failures = slot.failures.saturating_add(1);
        self.slots.pause(id, clock::monotonic() + pause);
    }

    async fn send(&mut self, link: &mut Link) -> Result<(), Broken> {
        // Before the next fetch: behind one that the source holds they would wait.
        for id in std::mem::take(&mut link.ask_bounds) {
            for end in [EARLIEST, LATEST] {
                let Some(slot) = self.slots.get_mut(&id) else { continue };
                let request = bounds_request(&slot.partition, slot.leader_epoch.0, self.identity.id(), end);
                let correlation = link.next_correlation();
                let frame = encode_request(LIST_OFFSETS_VERSION, correlation, Some(&self.client_id()), &request)?;
                link.begin(correlation, Underway::Bounds { id, end });
                link.stream.send(&frame).await?;
            }
        }
        let now = clock::monotonic();
        if link.paused_until.is_some_and(|until| now < until) || !self.slots.has_active() {
            return Ok(());
        }
        link.paused_until = None;
        let has_session = link.session_id != 0;
        // Without a session a second request would be another one of the same.
        let may_overtake = has_session && link.fetches_underway < FETCHES_MAX && self.slots.has_news();
        if link.fetches_underway > 0 && !may_overtake {
            return Ok(());
        }
        if !has_session {
            self.slots.forget_sent();
        }
        let number = link.next_number;
        link.next_number += 1;
        let (topics, forgotten_topics) =
            self.slots.take_news(number, i32::try_from(self.config.partition_max_bytes).unwrap_or(i32::MAX));
        // The first request of a session is answered at once: only then can others follow it.
        let max_wait = if has_session || link.without_session { self.config.max_wait } else { Duration::ZERO };
        let request = FetchRequest {
            replica_id: self.identity.id(),
            replica_epoch: self.identity.epoch(),
            max_wait_ms: i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: i32::try_from(self.config.min_bytes).unwrap_or(i32::MAX),
            max_bytes: i32::try_from(self.config.response_max_bytes).unwrap_or(i32::MAX),
            session_id: link.session_id,
            session_epoch: link.session_epoch,
            topics,
            forgotten_topics,
            ..FetchRequest::default()
        };
        if has_session {
            link.session_epoch = next_epoch(link.session_epoch);
        } else {
            link.session_since = number;
        }
        let correlation = link.next_correlation();
        let frame = fetch::encode_request(FETCH_VERSION, correlation, None, &request);
        if link.underway.is_empty() {
            link.last_answer = now;
        }
        link.begin(correlation, Underway::Fetch { number });
        link.fetches_underway += 1;
        link.stream.send(&frame).await?;
        Ok(())
    }

    fn client_id(&self) -> String {
        format!("broker-{}-fetcher", self.identity.id())
    }

    fn answered(&mut self, link: &mut Link, frame: Bytes) -> Result<(), Broken> {
        link.last_answer = clock::monotonic();
        let (correlation, underway) = link.underway.pop_front().ok_or(Broken::OutOfOrder)?;
        match underway {
            Underway::Fetch { number } => {
                link.fetches_underway -= 1;
                let (answered, response) = fetch::decode_response(FETCH_VERSION, &frame)?;
                if answered != correlation {
                    return Err(Broken::OutOfOrder);
                }
                self.fetched(link, number, response);
            }
            Underway::Bounds { id, end } => {
                let (answered, response) = decode_response::<ListOffsetsRequest>(LIST_OFFSETS_VERSION, frame)?;
                if answered != correlation {
                    return Err(Broken::OutOfOrder);
                }
                let answer = response.topics.first().and_then(|topic| topic.partitions.first());
                let offset = answer
                    .filter(|answer| answer.error_code == 0 && answer.offset >= 0)
                    .map(|answer| Offset(answer.offset));
                if end == EARLIEST {
                    link.starts.insert(id, offset);
                } else {
                    let start = link.starts.remove(&id).flatten();
                    let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
                    let step = slot.partition.leader_bounds(slot.leader_epoch, start.zip(offset));
                    self.carry_out(link, id, step);
                }
            }
        }
        Ok(())
    }

    fn fetched(&mut self, link: &mut Link, number: RequestNumber, response: FetchResponse<Bytes>) {
        if number < link.session_since {
            return;
        }
        if response.error != ErrorCode::None {
            tracing::debug!(source = %self.source, error = ?response.error, "a fetch was refused; the session starts anew");
            self.start_session_anew(link);
            link.paused_until = Some(clock::monotonic() + REFUSED_PAUSE);
            return;
        }
        if number == link.session_since && link.session_id == 0 {
            link.session_id = response.session_id;
            link.session_epoch = 1;
            link.without_session = response.session_id == 0;
        } else if response.session_id != link.session_id {
            self.start_session_anew(link);
        }
        let wall = clock::wall();
        for topic in response.topics {
            let TopicRef::Id(topic_id) = topic.topic else { continue };
            for answer in topic.partitions {
                let id = TopicIdPartition { topic_id, partition: answer.partition };
                self.partition_fetched(link, number, id, &answer, wall);
            }
        }
    }

    fn partition_fetched(
        &mut self,
        link: &mut Link,
        number: RequestNumber,
        id: TopicIdPartition,
        answer: &FetchPartitionResponse<Bytes>,
        wall: ottla_model::TimestampMs,
    ) {
        let Some(slot) = self.slots.get_mut(&id) else {
            self.slots.forget(id);
            return;
        };
        let Some(asked) = slot.asked(number) else { return };
        if answer.error == ErrorCode::None {
            slot.failures = 0;
        }
        let facts = FetchAnswer {
            error: answer.error,
            diverging: answer.diverging_epoch.map(|end| EpochEnd { epoch: end.epoch, end_offset: end.end_offset }),
            high_watermark: answer.high_watermark,
            log_start: answer.log_start_offset,
        };
        let records = answer.records.as_deref().unwrap_or_default();
        let step = slot.partition.follower_answered(asked, &facts, records, wall);
        self.carry_out(link, id, step);
    }

    fn carry_out(&mut self, link: &mut Link, id: TopicIdPartition, step: FollowerStep) {
        match step {
            FollowerStep::Fetch(position) => self.slots.want(id, position),
            FollowerStep::BackOff => self.pause(id),
            FollowerStep::Stop => self.slots.leave(id),
            FollowerStep::AskLeaderBounds => {
                // Should the answers not come, the connection is broken, and the next one starts from here again.
                self.pause(id);
                link.ask_bounds.push(id);
            }
        }
    }

    fn start_session_anew(&mut self, link: &mut Link) {
        link.session_id = 0;
        link.session_epoch = 0;
        link.session_since = link.next_number;
        self.slots.forget_sent();
    }
}

impl Link {
    fn next_correlation(&mut self) -> i32 {
        self.next_correlation = self.next_correlation.wrapping_add(1);
        self.next_correlation
    }

    fn begin(&mut self, correlation: i32, underway: Underway) {
        self.underway.push_back((correlation, underway));
    }
}

fn bounds_request(
    partition: &crate::partition::Partition,
    leader_epoch: i32,
    replica: BrokerId,
    end: i64,
) -> ListOffsetsRequest {
    let PartitionId(number) = partition.id().partition;
    ListOffsetsRequest::default().with_replica_id(WireBrokerId(replica.0)).with_topics(vec![
        ListOffsetsTopic::default()
            .with_name(WireTopicName(StrBytes::from_string(partition.topic.to_string())))
            .with_partitions(vec![
                ListOffsetsPartition::default()
                    .with_partition_index(number)
                    .with_current_leader_epoch(leader_epoch)
                    .with_timestamp(end),
            ]),
    ])
}
