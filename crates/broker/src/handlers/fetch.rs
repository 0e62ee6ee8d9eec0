//! Fetch, versions 4 to 18, for consumers and for the followers of other brokers. What a fetch looks at and remembers
//! is [`ottla_replica_manager::fetch_session`]'s; here is who asks, when an answer is due, and what it looks like.
//!
//! A fetch speaks as a replica only on the inter-broker listener, with an id and a broker epoch that the image
//! confirms, and with the key of the incarnation that registered: ids and epochs are known to everybody. Any other such
//! claim is refused, so that no client moves a high watermark or reads above it.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use ottla_authorizer::Operation;
use ottla_config::ReplicaSelector;
use ottla_model::{BrokerId, ErrorCode, MonotonicMs, PartitionId, TopicName, incarnation_key};
use ottla_network::response::{RecordSlice, Reply, Response};
use ottla_protocol::RequestHeader;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{
    self, AbortedTransaction, EpochEndOffset, FetchPartitionResponse, FetchRequest, FetchResponse, FetchTopic,
    FetchTopicResponse, ForgottenTopic, IsolationLevel,
};
use ottla_replica_manager::clock;
use ottla_replica_manager::fetch_session::{
    Entry, FetchLimits, FetchPartition, FetchResult, FetchSession, FetchTerms, Fetcher, FindPartition, ParkedRoom,
    PartitionKey, Reader, SessionId, SessionRequest, Slots,
};
use ottla_replica_manager::manager::ReplicaManager;
use ottla_replica_manager::partition::waiters::Wakes;
use ottla_replica_manager::partition::{ConsumerTerms, FetchRead, IsNear, Partition};
use tokio::time::{Instant, Sleep};

use crate::authorization::Access;
use crate::broker::Broker;
use crate::quotas::throttle::millis;
use crate::request::RequestContext;
use crate::request::leader_hint::{LeaderHints, names_leader};
use crate::request::slices::CROWDED_PAUSE;

/// The first version whose clients read zstd.
const ZSTD_FROM: i16 = 10;
/// The first version whose clients know KAFKA_STORAGE_ERROR.
const STORAGE_ERROR_FROM: i16 = 6;
/// The first version of consumers that read from followers (KIP-392).
const FOLLOWERS_FROM: i16 = 11;
/// The first version with topic ids.
const TOPIC_IDS_FROM: i16 = 13;
/// The first version whose clients are told who leads instead: it also tells where the leader listens. A client of an
/// older one may not know that broker (it has just come back, and the client's metadata is of the time without it):
/// kafka-python 3.0 then counts a fetch to it as on its way for ever. Kafka does not tell it either.
const LEADERS_FROM: i16 = 16;

/// The longest that a fetch waits, whatever it asks for: half of the default `connections.max.idle.ms`. Consumers ask
/// for half a second.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// How long a client is told to wait before its next fetch where there was no room for this one to park.
const NO_ROOM_THROTTLE_MS: i32 = 100;

pub fn handle(broker: &Arc<Broker>, context: &RequestContext, header: RequestHeader, body: BytesMut) -> Reply {
    let mut request = match fetch::parse(header.api_version, &body, 0) {
        Ok(request) => request,
        Err(error) => return Reply::close(format_args!("Fetch: {error}")),
    };
    drop(body);
    // A name is said again for each group of partitions in an answer: one that no topic can have must not be said at
    // length.
    let is_too_long = |topic: &TopicRef| matches!(topic, TopicRef::Name(name) if name.len() > TopicName::MAX_LENGTH);
    if request.topics.iter().any(|topic| is_too_long(&topic.topic)) {
        return Reply::close("Fetch: a topic name that is longer than any topic's");
    }
    let fetcher = match fetcher(broker, context, &request) {
        Ok(fetcher) => fetcher,
        Err(error) => return Reply::Ready(refuse(&header, error)),
    };
    let quota = match fetcher.is_replica() {
        true => None,
        false => broker.quotas.fetch_bytes_max(context, header.client_id.as_deref()),
    };
    let max_bytes = size(request.max_bytes).min(broker.config.fetch_max_bytes).min(quota.unwrap_or(usize::MAX));
    let limits = FetchLimits { max_bytes, min_bytes: size(request.min_bytes).min(max_bytes) };
    let consumer = ConsumerTerms {
        read_committed: request.isolation_level == IsolationLevel::ReadCommitted,
        reads_followers: header.api_version >= FOLLOWERS_FROM,
    };
    let rack = rack(broker, fetcher, &mut request);
    let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(MAX_WAIT);
    let mut wakes = Wakes::default();
    let now = clock::monotonic();
    let opened = match open(broker, fetcher, &header, request, now, &mut wakes) {
        Ok(opened) => opened,
        Err(error) => return Reply::Ready(refuse(&header, error)),
    };
    let terms = FetchTerms { limits, consumer, full: opened.full };
    let fetch = OpenFetch { header, context: context.clone(), terms, opened, rack };
    match fetch.first_look(broker, max_wait, now, &mut wakes) {
        FirstLook::Answered(response) => Reply::Ready(response),
        FirstLook::Parks(room) => Reply::later(parked(broker.clone(), fetch, tokio::time::sleep(max_wait), room)),
    }
}

/// Where the consumer stands, if leaders are to choose replicas near it.
fn rack(broker: &Broker, fetcher: Fetcher, request: &mut FetchRequest) -> Option<String> {
    let is_chosen = broker.config.replica_selector == ReplicaSelector::RackAware && fetcher == Fetcher::Consumer;
    Some(std::mem::take(&mut request.rack_id)).filter(|rack| is_chosen && !rack.is_empty())
}

enum FirstLook {
    Answered(Response),
    /// It has to wait for something to happen. A follower's fetch needs no room: there is one of each session. So it is
    /// with consumers, but sessions that were ended may have left fetches behind on a connection.
    Parks(Option<ParkedRoom>),
}

/// Whether a topic keeps its records as zstd, which Kafka decides by its configuration.
fn stores_zstd(broker: &Broker, topic: &TopicRef) -> bool {
    const KEY: &str = "compression.type";
    let TopicRef::Name(name) = topic else { return false };
    let layers = broker.live_config.layers();
    let image = broker.metadata.current();
    let overrides = image.topic_overrides(name);
    let value = overrides.get(KEY).or_else(|| layers.config.topic_defaults.get(KEY));
    value.is_some_and(|value| value.trim().eq_ignore_ascii_case("zstd"))
}

/// The error as clients of a version know it: those before KAFKA_STORAGE_ERROR look for another leader, as they should.
fn known_error(version: i16, error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::KafkaStorageError if version < STORAGE_ERROR_FROM => ErrorCode::NotLeaderOrFollower,
        error => error,
    }
}

fn size(bytes: i32) -> usize {
    usize::try_from(bytes).unwrap_or(0)
}

/// `FetchRequest.DEBUGGING_CONSUMER_ID`.
const DEBUGGING_CONSUMER: BrokerId = BrokerId(-2);

fn fetcher(broker: &Broker, context: &RequestContext, request: &FetchRequest) -> Result<Fetcher, ErrorCode> {
    let id = request.replica_id;
    if id == DEBUGGING_CONSUMER {
        return Ok(Fetcher::Debugger);
    }
    if id.0 < 0 {
        return Ok(Fetcher::Consumer);
    }
    // First: who may not follow learns nothing of brokers and their epochs.
    if !context.is_inter_broker_listener || !broker.access(context).cluster(Operation::ClusterAction) {
        return Err(ErrorCode::ClusterAuthorizationFailed);
    }
    // A follower that has just registered comes again in a moment: this broker's image will have it.
    let image = broker.metadata.peek();
    let registered = image.broker(id).ok_or(ErrorCode::BrokerIdNotRegistered)?;
    if registered.epoch != request.replica_epoch || id == broker.identity.id() {
        return Err(ErrorCode::StaleBrokerEpoch);
    }
    if !incarnation_key::is_proved(registered.incarnation, request.incarnation_key.as_ref()) {
        return Err(ErrorCode::ClusterAuthorizationFailed);
    }
    Ok(Fetcher::Replica { id, epoch: registered.epoch })
}

impl Opened {
    /// Partitions that the cache does not count, because the session does not live on.
    fn uncounted_partitions(&self, slots: &Slots) -> usize {
        if self.answered_id == SessionId::NONE { slots.partitions.len() } else { 0 }
    }
}

/// A fetch whose session, if any, has taken the request in.
struct Opened {
    session: Arc<FetchSession>,
    /// What the answer says: none also where the session ends with this request.
    answered_id: SessionId,
    turn: u64,
    /// The answer reports every partition, not only those with news.
    full: bool,
}

fn open(
    broker: &Broker,
    fetcher: Fetcher,
    header: &RequestHeader,
    request: FetchRequest,
    now: MonotonicMs,
    wakes: &mut Wakes,
) -> Result<Opened, ErrorCode> {
    let sessions = &broker.fetch_sessions;
    let named = SessionRequest {
        id: SessionId(request.session_id),
        epoch: request.session_epoch,
        uses_topic_ids: header.api_version >= TOPIC_IDS_FROM,
        partitions: request.topics.iter().map(|topic| topic.partitions.len()).sum(),
    };
    let found = sessions.find(now, fetcher, &named)?;
    let mut slots = found.session.lock();
    slots.take_in(&named, wanted(request.topics, fetcher), forgotten(request.forgotten_topics))?;
    // A request of this session that is still parked ends now: its client has sent the next one.
    if !found.is_full {
        found.session.signal().wake(wakes);
    }
    let (turn, partitions) = (slots.partitions.turn(), slots.partitions.len());
    drop(slots);
    let answered_id = sessions.taken_in(&found, now, partitions);
    Ok(Opened { session: found.session, answered_id, turn, full: found.is_full })
}

fn wanted(topics: Vec<FetchTopic>, fetcher: Fetcher) -> impl Iterator<Item = (PartitionKey, FetchPartition)> {
    topics.into_iter().flat_map(move |topic| {
        let name = Arc::new(topic.topic);
        topic.partitions.into_iter().map(move |partition| {
            let wanted = FetchPartition {
                offset: partition.fetch_offset,
                log_start: partition.log_start_offset,
                max_bytes: size(partition.max_bytes),
                current_leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
                // A consumer waits for records.
                high_watermark: partition.high_watermark.filter(|_| fetcher.is_replica()),
            };
            (PartitionKey { topic: name.clone(), partition: partition.partition }, wanted)
        })
    })
}

fn forgotten(topics: Vec<ForgottenTopic>) -> impl Iterator<Item = PartitionKey> {
    topics.into_iter().flat_map(|topic| {
        let name = Arc::new(topic.topic);
        topic.partitions.into_iter().map(move |partition| PartitionKey { topic: name.clone(), partition })
    })
}

struct OpenFetch {
    header: RequestHeader,
    context: RequestContext,
    terms: FetchTerms,
    opened: Opened,
    rack: Option<String>,
}

impl OpenFetch {
    fn first_look(&self, broker: &Broker, max_wait: Duration, now: MonotonicMs, wakes: &mut Wakes) -> FirstLook {
        let Opened { session, .. } = &self.opened;
        let mut slots = session.lock();
        let readable = self.readable(broker);
        let found = session.evaluate(&mut slots, &readable, &self.terms, now, wakes);
        if slots.partitions.answers(&found, max_wait.is_zero()) {
            return FirstLook::Answered(self.respond(broker, &mut slots, found, 0, now));
        }
        if session.id() != SessionId::NONE {
            // What the partitions take is counted with the session, and it was subscribed before it looked.
            let room = match session.is_replicas() {
                true => None,
                false => match broker.fetch_sessions.park(self.opened.uncounted_partitions(&slots)) {
                    Some(room) => Some(room),
                    None => {
                        let response = self.respond(broker, &mut slots, found, NO_ROOM_THROTTLE_MS, now);
                        return FirstLook::Answered(response);
                    }
                },
            };
            slots.partitions.put_back(&found.entries);
            return FirstLook::Parks(room);
        }
        let Some(room) = broker.fetch_sessions.park(slots.partitions.len()) else {
            return FirstLook::Answered(self.respond(broker, &mut slots, found, NO_ROOM_THROTTLE_MS, now));
        };
        slots.partitions.put_back(&found.entries);
        session.subscribe(&mut slots);
        // What happened between the first look and the subscription woke nobody.
        let found = session.evaluate(&mut slots, &readable, &self.terms, now, wakes);
        if found.is_due() {
            return FirstLook::Answered(self.respond(broker, &mut slots, found, 0, now));
        }
        slots.partitions.put_back(&found.entries);
        FirstLook::Parks(Some(room))
    }

    /// Looks again because something happened, or for the last time because the time is up.
    fn look_again(&self, broker: &Broker, time_is_up: bool) -> Option<Response> {
        let mut wakes = Wakes::default();
        let Opened { session, turn, .. } = &self.opened;
        let mut slots = session.lock();
        if slots.partitions.is_over(*turn) {
            return Some(self.encode(broker, Vec::new(), 0));
        }
        let (readable, now) = (self.readable(broker), clock::monotonic());
        let found = session.evaluate(&mut slots, &readable, &self.terms, now, &mut wakes);
        if slots.partitions.answers(&found, time_is_up) {
            return Some(self.respond(broker, &mut slots, found, 0, now));
        }
        slots.partitions.put_back(&found.entries);
        None
    }

    /// The partitions that the fetcher may read, by the rules that hold now.
    fn readable<'b>(&'b self, broker: &'b Broker) -> Readable<'b> {
        // A follower was checked with its request.
        let is_follower = self.opened.session.is_replicas();
        let access = if is_follower { Access::unlimited() } else { broker.access(&self.context) };
        let reader = access.grounds().map(|(requester, rules)| Reader {
            principal: requester.principal.clone(),
            address: requester.address,
            rules: Arc::downgrade(rules),
        });
        let near = self.rack.as_deref().map(|rack| {
            let image = broker.metadata.current();
            let listener = &self.context.listener;
            // One that the client cannot reach there is not near.
            Box::new(move |id| {
                let known = image.broker(id).filter(|known| known.rack.as_deref() == Some(rack));
                known.is_some_and(|known| known.endpoint(listener).is_some())
            }) as Box<dyn Fn(BrokerId) -> bool + 'b>
        });
        Readable { replicas: &broker.replicas, access, reader, near }
    }

    fn respond(
        &self,
        broker: &Broker,
        slots: &mut Slots,
        found: FetchResult,
        throttle_time_ms: i32,
        now: MonotonicMs,
    ) -> Response {
        slots.partitions.commit(&found.entries);
        broker.telemetry.records_bytes_out.add(found.bytes() as u64);
        // A consumer that is above its limit gets what it was to get, and waits for its next fetch.
        let wait = match self.opened.session.is_replicas() {
            true => {
                let throttled = found.entries.iter().filter(|entry| entry.read.is_throttled);
                let bytes = throttled.map(|entry| entry.read.records_bytes()).sum();
                broker.replicas.throttles().sent(now, bytes);
                Duration::ZERO
            }
            false => {
                let of_followers = found.entries.iter().filter(|entry| entry.read.is_followers);
                let bytes: usize = of_followers.map(|entry| entry.read.records_bytes()).sum();
                broker.telemetry.follower_records_bytes_out.add(bytes as u64);
                broker.quotas.fetched(&self.context, self.header.client_id.as_deref(), found.bytes())
            }
        };
        self.encode(broker, found.entries, throttle_time_ms.max(millis(wait))).muting(wait)
    }

    fn encode(&self, broker: &Broker, entries: Vec<Entry>, throttle_time_ms: i32) -> Response {
        let session_id = self.opened.answered_id.0;
        let mut response = FetchResponse::<RecordSlice> { session_id, throttle_time_ms, ..FetchResponse::default() };
        let version = self.header.api_version;
        let names_any = version >= LEADERS_FROM && entries.iter().any(|entry| names_leader(entry.read.error));
        let image = names_any.then(|| broker.metadata.current());
        let mut hints = image.as_deref().map(|image| LeaderHints::new(image, &self.context.listener));
        let reads_committed = self.terms.consumer.read_committed;
        let mut entries = entries.into_iter();
        while let Some(mut entry) = entries.next() {
            if version < ZSTD_FROM && stores_zstd(broker, &entry.key.topic) {
                entry.read = FetchRead::error(ErrorCode::UnsupportedCompressionType);
            }
            let current_leader = hints
                .as_mut()
                .filter(|_| names_leader(entry.read.error))
                .and_then(|hints| hints.leader(&entry.key.topic, entry.key.partition));
            let read = entry.read;
            let partition = FetchPartitionResponse {
                partition: entry.key.partition,
                error: known_error(version, read.error),
                high_watermark: read.high_watermark,
                last_stable_offset: read.last_stable,
                log_start_offset: read.log_start,
                diverging_epoch: read
                    .diverging
                    .map(|end| EpochEndOffset { epoch: end.epoch, end_offset: end.end_offset }),
                current_leader,
                aborted_transactions: reads_committed.then(|| read.aborted.iter().map(aborted).collect()),
                preferred_read_replica: read.preferred_read_replica.unwrap_or(BrokerId::NONE),
                records: read.records,
            };
            match response.topics.last_mut() {
                Some(last) if last.topic == *entry.key.topic => last.partitions.push(partition),
                _ => {
                    let topic = &entry.key.topic;
                    let more = entries.as_slice().iter().take_while(|next| next.key.topic == *topic).count();
                    let mut partitions = Vec::with_capacity(1 + more);
                    partitions.push(partition);
                    response.topics.push(FetchTopicResponse { topic: (**topic).clone(), partitions });
                }
            }
        }
        if let Some(hints) = hints {
            response.node_endpoints = hints.endpoints;
        }
        encode(&self.header, &response)
    }
}

/// The replicas of this broker that a fetcher may read.
struct Readable<'b> {
    replicas: &'b ReplicaManager,
    access: Access,
    reader: Option<Reader>,
    near: Option<Box<dyn Fn(BrokerId) -> bool + 'b>>,
}

impl FindPartition for Readable<'_> {
    fn find(&self, topic: &TopicRef, partition: PartitionId) -> Result<Arc<Partition>, ErrorCode> {
        // By name before the look for it: whether a topic exists is not told.
        self.access.topic_ref(Operation::Read, topic)?;
        self.replicas.find(topic, partition)
    }

    fn reader(&self) -> Option<&Reader> {
        self.reader.as_ref()
    }

    fn may_read(&self, topic: &TopicName) -> bool {
        self.access.topic(Operation::Read, topic.as_str())
    }

    fn near(&self) -> Option<IsNear<'_>> {
        self.near.as_deref()
    }
}

fn aborted(transaction: &ottla_storage::AbortedTransaction) -> AbortedTransaction {
    AbortedTransaction { producer_id: transaction.producer_id, first_offset: transaction.first_offset }
}

fn refuse(header: &RequestHeader, error: ErrorCode) -> Response {
    encode(header, &FetchResponse { error, ..FetchResponse::default() })
}

fn encode(header: &RequestHeader, response: &FetchResponse<RecordSlice>) -> Response {
    Response::or_close(fetch::encode(header.api_version, header.correlation_id, response).map(Response::new))
}

/// A fetch that waits for records, for its time to pass, or for the next request of its session. It holds its room
/// until it is answered. Nothing wakes it when it may read from a disk for which too many waited: it looks.
async fn parked(broker: Arc<Broker>, fetch: OpenFetch, timeout: Sleep, _room: Option<ParkedRoom>) -> Response {
    let (session, end) = (&fetch.opened.session, timeout.deadline());
    let mut timer = pin!(timeout);
    poll_fn(|context| {
        loop {
            if session.waits_for_disk() && timer.deadline() == end {
                timer.as_mut().reset(end.min(Instant::now() + CROWDED_PAUSE));
            }
            let rings = timer.as_mut().poll(context).is_ready();
            let time_is_up = rings && timer.deadline() == end;
            let awake = session.signal().poll_awake(context).is_ready();
            if !awake && !rings {
                return Poll::Pending;
            }
            if let Some(response) = fetch.look_again(&broker, time_is_up) {
                return Poll::Ready(response);
            }
            if rings {
                timer.as_mut().reset(end);
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_clients_look_for_another_leader_when_a_disk_fails() {
        assert_eq!(known_error(5, ErrorCode::KafkaStorageError), ErrorCode::NotLeaderOrFollower);
        assert_eq!(known_error(6, ErrorCode::KafkaStorageError), ErrorCode::KafkaStorageError);
        assert_eq!(known_error(4, ErrorCode::OffsetOutOfRange), ErrorCode::OffsetOutOfRange);
    }
}
