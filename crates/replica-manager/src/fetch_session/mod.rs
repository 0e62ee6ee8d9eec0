//! The broker's fetch sessions: [`ottla_replication::fetch_session`] decides what a session looks at and reports; here
//! are the lock, the subscriptions to partitions and the reads.
//!
//! A session subscribes to its partitions and looks only at those that have news or that a request named; a broker
//! that follows 4,000 quiet partitions sends an empty request and costs an empty answer. A fetch without a session
//! goes the same way with a session of its own that lives for one request.
//!
//! Lock order: session, then partition, then the signal.

pub mod cache;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use ottla_authorizer::AclIndex;
use ottla_model::{ErrorCode, KafkaPrincipal, MonotonicMs, PartitionId, TopicName};
use ottla_replication::fetch_session::{
    self as core, BrokenRules, PartitionRead, PartitionRequest, ReadFacts, ReadPartition, SessionPartitions,
};
use ottla_storage::RealEnv;
use parking_lot::{Mutex, MutexGuard};

use crate::partition::waiters::{FetchKind, FetchSignal, Subscription, Wakes};
use crate::partition::{ConsumerTerms, Fetch, FetchRead, IsNear, LeaderThrottle, Partition};

pub use cache::{FetchSessionCache, ParkedRoom};
/// A topic as a request names it: by name before version 13, then by id.
pub use ottla_protocol::messages::TopicRef;
pub use ottla_replication::FetchLimits;
pub use ottla_replication::fetch_session::{FetchPartition, Fetcher, Found, SessionId, SessionRequest};

/// A partition as a request names it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PartitionKey {
    pub topic: Arc<TopicRef>,
    pub partition: PartitionId,
}

/// One partition of an answer.
pub type Entry = core::Entry<PartitionKey, FetchRead>;

/// What a look at the partitions found.
pub type FetchResult = core::FetchResult<PartitionKey, FetchRead>;

fn kind_of(fetcher: Fetcher) -> FetchKind {
    if fetcher.is_replica() { FetchKind::Replica } else { FetchKind::Consumer }
}

/// How one fetch is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchTerms {
    pub limits: FetchLimits,
    pub consumer: ConsumerTerms,
    /// The answer reports every partition, not only those with news.
    pub full: bool,
}

/// A partition that a session has found.
pub struct SessionPartition {
    partition: Arc<Partition>,
    /// None in a fetch without a session that has not parked.
    subscription: Option<Arc<Subscription>>,
    /// The fetcher may not read the topic any more.
    is_denied: bool,
}

impl SessionPartition {
    fn leave(&self) {
        if let Some(subscription) = &self.subscription {
            self.partition.unsubscribe(subscription);
        }
    }
}

/// Where a broker's partitions are found.
pub trait FindPartition {
    /// The partition, if it is here and the fetcher may read it.
    fn find(&self, topic: &TopicRef, partition: PartitionId) -> Result<Arc<Partition>, ErrorCode>;

    /// Whom [`FindPartition::may_read`] is about; none if everything may be read.
    fn reader(&self) -> Option<&Reader> {
        None
    }

    /// Whether the fetcher may read a topic.
    fn may_read(&self, _topic: &TopicName) -> bool {
        true
    }

    /// Which brokers are near the consumer, if leaders choose its replicas.
    fn near(&self) -> Option<IsNear<'_>> {
        None
    }
}

/// For whom, and by which rules, a session has checked its partitions. They are checked again when any of it differs,
/// not with each fetch: a session of 1,000 quiet partitions costs one comparison. A session's id can be guessed, so
/// that the next fetch of it may be another client's.
#[derive(Clone, Debug)]
pub struct Reader {
    pub principal: KafkaPrincipal,
    pub address: IpAddr,
    /// Only compared.
    pub rules: Weak<AclIndex>,
}

impl PartialEq for Reader {
    fn eq(&self, other: &Self) -> bool {
        self.rules.ptr_eq(&other.rules) && self.principal == other.principal && self.address == other.address
    }
}

pub struct FetchSession {
    id: SessionId,
    fetcher: Fetcher,
    signal: Arc<FetchSignal>,
    slots: Mutex<Slots>,
    waits_for_disk: AtomicBool,
}

/// The partitions of a session, behind its lock.
pub struct Slots {
    pub partitions: SessionPartitions<PartitionKey, SessionPartition>,
    subscribes: bool,
    /// For whom the partitions that are there were checked.
    reader: Option<Reader>,
    /// Slots with news; kept for its memory.
    news: Vec<u32>,
}

impl FetchSession {
    /// It lives on between requests if it has an id; otherwise it serves one fetch.
    pub fn new(id: SessionId, fetcher: Fetcher, uses_topic_ids: bool) -> Self {
        let remembered = id != SessionId::NONE;
        let partitions = SessionPartitions::new(fetcher, uses_topic_ids, remembered, BrokenRules::default());
        let slots = Mutex::new(Slots { partitions, subscribes: remembered, reader: None, news: Vec::new() });
        Self { id, fetcher, signal: Arc::default(), slots, waits_for_disk: AtomicBool::new(false) }
    }

    pub fn id(&self) -> SessionId {
        self.id
    }

    pub fn is_replicas(&self) -> bool {
        self.fetcher.is_replica()
    }

    pub fn signal(&self) -> &FetchSignal {
        &self.signal
    }

    /// Whether the last look left out what too many others wait for: nothing wakes a fetch for it.
    pub fn waits_for_disk(&self) -> bool {
        self.waits_for_disk.load(Ordering::Relaxed)
    }

    pub fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock()
    }

    /// Releases the partitions now, not when the last holder goes: a parked fetch may wait for minutes. It is woken and
    /// answered without partitions.
    pub fn end(&self) {
        let mut wakes = Wakes::default();
        let mut slots = self.slots.lock();
        let former = slots.partitions.end();
        slots.news = Vec::new();
        drop(slots);
        former.iter().for_each(SessionPartition::leave);
        self.signal.wake(&mut wakes);
    }

    pub fn is_ended(&self) -> bool {
        self.slots.lock().partitions.is_ended()
    }

    /// From now on changes of the partitions wake the signal. Called before a fetch without a session parks.
    pub fn subscribe(&self, slots: &mut Slots) {
        slots.subscribes = true;
        for (at, hosted) in slots.partitions.handles_mut() {
            if hosted.subscription.is_none() {
                let subscription = self.new_subscription(at);
                // Otherwise the fetch learns of the partition's news when its time is up.
                hosted.subscription = hosted.partition.subscribe(subscription.clone()).then_some(subscription);
            }
        }
    }

    fn new_subscription(&self, at: u32) -> Arc<Subscription> {
        Arc::new(Subscription::new(self.signal.clone(), at, kind_of(self.fetcher)))
    }

    /// Reads the partitions that may have something to say: see [`SessionPartitions::evaluate`].
    pub fn evaluate(
        &self,
        slots: &mut Slots,
        partitions: &impl FindPartition,
        terms: &FetchTerms,
        now: MonotonicMs,
        wakes: &mut Wakes,
    ) -> FetchResult {
        let mut news = std::mem::take(&mut slots.news);
        self.signal.drain(&mut news);
        slots.check_access(partitions, &mut news);
        let subscribes = slots.subscribes;
        let mut reader = SessionReader {
            session: self,
            subscribes,
            partitions,
            terms,
            now,
            wakes,
            throttled_bytes: 0,
            waits_for_disk: false,
        };
        let found = slots.partitions.evaluate(news.drain(..), terms.limits, terms.full, &mut reader);
        self.waits_for_disk.store(reader.waits_for_disk, Ordering::Relaxed);
        slots.news = news;
        found
    }
}

impl Slots {
    /// See [`SessionPartitions::take_in`].
    pub fn take_in(
        &mut self,
        request: &SessionRequest,
        wanted: impl IntoIterator<Item = (PartitionKey, FetchPartition)>,
        forgotten: impl IntoIterator<Item = PartitionKey>,
    ) -> Result<(), ErrorCode> {
        let former = self.partitions.take_in(request, wanted, forgotten)?;
        former.iter().for_each(SessionPartition::leave);
        Ok(())
    }

    /// Checks what was found before, if it was for another reader or by other rules.
    fn check_access(&mut self, partitions: &impl FindPartition, news: &mut Vec<u32>) {
        let reader = partitions.reader();
        if self.reader.as_ref() == reader {
            return;
        }
        self.reader = reader.cloned();
        for (at, hosted) in self.partitions.handles_mut() {
            let is_denied = !partitions.may_read(&hosted.partition.topic);
            if std::mem::replace(&mut hosted.is_denied, is_denied) != is_denied {
                news.push(at);
            }
        }
    }
}

impl Drop for FetchSession {
    fn drop(&mut self) {
        for (_, hosted) in self.slots.get_mut().partitions.handles_mut() {
            hosted.leave();
        }
    }
}

/// Reads for one look at a session's partitions.
struct SessionReader<'a, F> {
    session: &'a FetchSession,
    subscribes: bool,
    partitions: &'a F,
    terms: &'a FetchTerms,
    now: MonotonicMs,
    wakes: &'a mut Wakes,
    /// Of throttled replicas, in this look.
    throttled_bytes: usize,
    /// Too many others wait for the disk of a partition.
    waits_for_disk: bool,
}

impl<F: FindPartition> ReadPartition<PartitionKey, SessionPartition> for SessionReader<'_, F> {
    type Read = FetchRead;

    fn read(
        &mut self,
        key: &PartitionKey,
        handle: &mut Option<SessionPartition>,
        request: &PartitionRequest,
    ) -> FetchRead {
        let closed = handle.take_if(|hosted| hosted.partition.is_closed());
        if let Some(closed) = closed {
            closed.leave();
        }
        let hosted = match handle {
            Some(hosted) => hosted,
            None => match self.host(key, request.slot) {
                Ok(hosted) => handle.insert(hosted),
                Err(error) => return FetchRead::error(error),
            },
        };
        if let Some(subscription) = &hosted.subscription {
            subscription.set_awaits_high_watermark(request.wanted.high_watermark.is_some());
            subscription.taken();
        }
        if hosted.is_denied {
            return FetchRead::error(ErrorCode::TopicAuthorizationFailed);
        }
        // Records leave from their files, each with a descriptor until it is sent.
        let is_crowded = !request.min_one && RealEnv::is_crowded();
        let request = PartitionRequest { max_bytes: if is_crowded { 0 } else { request.max_bytes }, ..*request };
        let throttle = match self.session.fetcher {
            Fetcher::Replica { id, .. } => hosted.partition.leader_throttle(id, self.now),
            Fetcher::Consumer | Fetcher::Debugger => LeaderThrottle::Free,
        };
        let room = match throttle {
            LeaderThrottle::Limited(allowance) => allowance.saturating_sub(self.throttled_bytes),
            LeaderThrottle::Free | LeaderThrottle::Counted => usize::MAX,
        };
        let request = PartitionRequest {
            max_bytes: request.max_bytes.min(room),
            min_one: request.min_one && room > 0,
            ..request
        };
        let fetch = Fetch::of(self.session.fetcher, self.terms.consumer, &request);
        let mut read = hosted.partition.fetch(&fetch, self.now, self.partitions.near(), self.wakes);
        self.waits_for_disk |= read.is_held_back;
        if throttle != LeaderThrottle::Free {
            read.is_throttled = true;
            self.throttled_bytes += read.records_bytes();
        }
        if room == 0 {
            read.is_held_back = std::mem::take(&mut read.left_out_bytes) > 0;
        }
        read
    }
}

impl<F: FindPartition> SessionReader<'_, F> {
    fn host(&self, key: &PartitionKey, at: u32) -> Result<SessionPartition, ErrorCode> {
        let partition = self.partitions.find(&key.topic, key.partition)?;
        let subscription = self.subscribes.then(|| self.session.new_subscription(at));
        // A session that is not told of the partition's news would not look at it again. With this error it looks, and
        // subscribes, with its next request.
        match &subscription {
            Some(wanted) if !partition.subscribe(wanted.clone()) => Err(ErrorCode::KafkaStorageError),
            _ => Ok(SessionPartition { partition, subscription, is_denied: false }),
        }
    }
}

impl PartitionRead for FetchRead {
    fn facts(&self) -> ReadFacts {
        ReadFacts {
            error: self.error,
            diverges: self.diverging.is_some(),
            is_redirected: self.preferred_read_replica.is_some(),
            bytes: self.records_bytes(),
            left_out_bytes: self.left_out_bytes,
            is_held_back: self.is_held_back,
            high_watermark: self.high_watermark,
            log_start: self.log_start,
        }
    }
}
