//! A replica as the leader: appends records, serves consumers and followers, finds offsets, and proposes ISR changes
//! from the progress of its followers.

use std::io;

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, TimestampMs};
use ottla_protocol::record_batch::{BatchHeader, TimestampType};
use ottla_replication::fetch_session::{Fetcher, PartitionRequest};
use ottla_replication::leader::ISR_RETRY_BACKOFF;
use ottla_replication::{
    AppendTerms, Brokers, Divergence, EndMarker, EpochEnd, FollowerFetch, IsrOutcome, Leader, VerificationGuard,
    VerificationRequest,
};
use ottla_storage::{AbortedSearch, DiskFault, Env, Log, Read, TimeSearch, TimestampOffset};

use crate::ack_waiters::Ack;
use crate::effects::Effects;
use crate::replica::{LogState, Replica, Role, disk_fault, last_stable};

/// Batches to append.
pub struct Append<'a> {
    pub records: &'a mut [u8],
    /// The header of the only batch, if it is known.
    pub header: Option<BatchHeader>,
    pub acks_all: bool,
    pub terms: AppendTerms<'a>,
}

/// Records that are in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    pub first_offset: Offset,
    /// The offset after the last record.
    pub next_offset: Offset,
    pub log_end: Offset,
    pub log_start: Offset,
    /// The largest of the records, as they are in the log.
    pub max_timestamp: TimestampMs,
    /// A retry: the records were there already.
    pub is_duplicate: bool,
    /// The log began a segment.
    pub rolled: bool,
}

/// Records that are not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing was appended: this replica does not lead, or has too few followers.
    #[error("refused with {0:?}")]
    Refused(ErrorCode),
    /// Nothing was appended: the log refused it.
    #[error(transparent)]
    Log(#[from] ottla_storage::AppendError),
    /// Appended, but the sync that the topic requires failed: the content of the disk is unknown.
    #[error("cannot sync: {0}")]
    Sync(io::Error),
}

impl From<ErrorCode> for AppendError {
    fn from(error: ErrorCode) -> Self {
        Self::Refused(error)
    }
}

impl AppendError {
    /// The error that the producer is told.
    pub fn error_code(&self) -> ErrorCode {
        use ottla_storage::AppendError as LogError;
        match self {
            Self::Refused(error) => *error,
            Self::Sync(_) | Self::Log(LogError::Io(_) | LogError::Offline) => ErrorCode::KafkaStorageError,
            Self::Log(LogError::Invalid { .. }) => ErrorCode::CorruptMessage,
            Self::Log(LogError::LargerThanSegment { .. }) => ErrorCode::RecordListTooLarge,
            Self::Log(LogError::StaleEpoch { .. }) => ErrorCode::NotLeaderOrFollower,
            // Only a follower's append can see it.
            Self::Log(LogError::UnexpectedOffset { .. }) => ErrorCode::UnknownServerError,
            Self::Log(LogError::Producer(error)) => error.error_code(),
        }
    }

    /// Whether the disk is to blame; then with its error, for [`Replica::disk_fault`]. A log that is offline has none.
    pub fn disk_error(&self) -> Option<Option<&io::Error>> {
        match self {
            Self::Sync(error) => Some(Some(error)),
            Self::Log(error) => (self.error_code() == ErrorCode::KafkaStorageError).then(|| error.io()),
            Self::Refused(_) => None,
        }
    }
}

/// The kind of reader, which bounds the offsets that it may read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    Consumer(ConsumerTerms),
    /// As a consumer that reads followers too, whatever is near it.
    Debugger,
    /// `progress`: the fetch's offset is news from the follower, not a second look for the same request.
    Replica {
        id: BrokerId,
        epoch: BrokerEpoch,
        progress: bool,
    },
}

/// How a consumer reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumerTerms {
    pub read_committed: bool,
    /// It knows that followers serve too (KIP-392); others may be answered by the leader only.
    pub reads_followers: bool,
}

/// Which brokers are near the consumer, where the leader chooses a replica for it (`replica.selector.class`).
pub type IsNear<'a> = &'a dyn Fn(BrokerId) -> bool;

/// The request of a fetch for one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    pub reader: Reader,
    pub offset: Offset,
    pub log_start: Offset,
    /// [`LeaderEpoch::NONE`] if the fetcher does not send it.
    pub current_leader_epoch: LeaderEpoch,
    pub last_fetched_epoch: LeaderEpoch,
    pub max_bytes: usize,
    /// Return at least one whole batch, however large.
    pub min_one: bool,
}

impl Fetch {
    /// What a fetch session reads of the partition for its fetcher.
    pub fn of(fetcher: Fetcher, terms: ConsumerTerms, request: &PartitionRequest) -> Self {
        let reader = match fetcher {
            Fetcher::Consumer => Reader::Consumer(terms),
            Fetcher::Debugger => Reader::Debugger,
            Fetcher::Replica { id, epoch } => Reader::Replica { id, epoch, progress: request.is_progress },
        };
        let wanted = request.wanted;
        Self {
            reader,
            offset: wanted.offset,
            log_start: wanted.log_start,
            current_leader_epoch: wanted.current_leader_epoch,
            last_fetched_epoch: wanted.last_fetched_epoch,
            max_bytes: request.max_bytes,
            min_one: request.min_one,
        }
    }
}

/// The result of a fetch for one partition.
pub struct Fetched<E: Env> {
    pub leader_epoch: LeaderEpoch,
    pub high_watermark: Offset,
    pub last_stable: Offset,
    pub log_start: Offset,
    /// The point where the fetcher's log diverges from this one.
    pub diverging: Option<EpochEnd>,
    /// The follower that the consumer is to read from; then there are no records here.
    pub preferred_read_replica: Option<BrokerId>,
    /// This is a follower.
    pub is_follower: bool,
    /// Up to here the reader may read.
    pub upper: Offset,
    /// None if there are no records to read.
    pub records: Option<Read<E>>,
    /// For a reader of committed records: finds the aborted transactions of the records once these have been read. None
    /// if there are none.
    pub aborted: Option<AbortedSearch<E>>,
}

/// Why a fetch is not served.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("refused with {0:?}")]
    Refused(ErrorCode),
    #[error(transparent)]
    Log(#[from] ottla_storage::ReadError),
}

impl From<ErrorCode> for ReadError {
    fn from(error: ErrorCode) -> Self {
        Self::Refused(error)
    }
}

impl ReadError {
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::Refused(error) => *error,
            Self::Log(ottla_storage::ReadError::OutOfRange { .. }) => ErrorCode::OffsetOutOfRange,
            Self::Log(_) => ErrorCode::KafkaStorageError,
        }
    }
}

/// The request of ListOffsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetQuery {
    Earliest,
    Latest,
    /// The record with the largest timestamp.
    MaxTimestamp,
    /// The first record that is not older.
    At(TimestampMs),
}

/// How far the one who asks for an offset may see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visible {
    /// A follower.
    LogEnd,
    HighWatermark,
    /// A reader of committed records.
    LastStable,
}

/// The result of ListOffsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundOffset {
    pub timestamp: TimestampMs,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
}

impl FoundOffset {
    /// There is no such record.
    pub const NONE: Self =
        Self { timestamp: TimestampMs::NONE, offset: Offset::UNKNOWN, leader_epoch: LeaderEpoch::NONE };
}

/// A look-up of an offset.
pub enum OffsetLookup<E: Env> {
    Found(FoundOffset),
    /// Run it without the replica's lock, then report to [`Replica::offset_found`].
    Search(OffsetSearch<E>),
}

/// A search by time, of one leader epoch.
pub struct OffsetSearch<E: Env> {
    query: OffsetQuery,
    search: TimeSearch<E>,
    leader_epoch: LeaderEpoch,
    visible: Visible,
    /// How often it may begin anew because segments went while it ran.
    tries_left: u32,
}

/// A search begins anew if retention or compaction took one of its files. A file that is missing for another reason is
/// an error.
const SEARCH_TRIES_MAX: u32 = 10;

/// A piece of the leader's own log.
pub struct OwnRead<E: Env> {
    /// Where the piece begins; the first batch may begin before.
    pub from: Offset,
    /// Where the log ends.
    pub end: Offset,
    pub records: Read<E>,
}

impl<E: Env> OffsetSearch<E> {
    /// Waits for the disk.
    pub fn run(&self) -> Result<Option<TimestampOffset>, ottla_storage::ReadError> {
        self.search.run()
    }
}

impl<E: Env, A: Ack> Replica<E, A> {
    /// The leader and its log, or the error that a request for the leader is answered with.
    pub fn leading(&self) -> Result<(&Leader, &Log<E>), ErrorCode> {
        match (&self.role, &self.log) {
            (_, LogState::Offline | LogState::Waiting(_)) => Err(ErrorCode::KafkaStorageError),
            (Role::Leader(leader), LogState::Open(log)) => Ok((leader, log)),
            _ => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    fn leading_mut(&mut self) -> Result<(&mut Leader, &mut Log<E>), ErrorCode> {
        match (&mut self.role, &mut self.log) {
            (_, LogState::Offline | LogState::Waiting(_)) => Err(ErrorCode::KafkaStorageError),
            (Role::Leader(leader), LogState::Open(log)) => Ok((leader, log)),
            _ => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// Whether an append would write to the log now: then a disk that does not answer holds up its caller.
    pub fn writes(&self) -> bool {
        self.leading().is_ok()
    }

    /// As [`Self::leading`], in this very leader epoch.
    pub fn leading_in(&self, epoch: LeaderEpoch) -> Result<(&Leader, &Log<E>), ErrorCode> {
        let (leader, log) = self.leading()?;
        if leader.leader_epoch() == epoch { Ok((leader, log)) } else { Err(ErrorCode::NotLeaderOrFollower) }
    }

    /// Appends valid batches: assigns offsets in place and writes these bytes. Waits for the disk if the topic requires
    /// a sync of every batch.
    ///
    /// # Errors
    /// Nothing is acknowledged. [`AppendError`] describes the state of the log.
    pub fn append(
        &mut self,
        append: Append<'_>,
        now: MonotonicMs,
        wall: TimestampMs,
        brokers: &impl Brokers,
    ) -> Result<(Appended, Effects<A>), AppendError> {
        let Append { records, header, acks_all, terms } = append;
        let terms = AppendTerms { verifies: terms.verifies && !self.rules.no_verification, ..terms };
        let (leader, log) = self.leading_mut()?;
        leader.check_append(acks_all)?;
        let epoch = leader.leader_epoch();
        let written = match header {
            Some(header) => log.append_batch_as_leader(records, header, epoch, &terms, wall)?,
            None => log.append_on_terms(records, epoch, &terms, wall)?,
        };
        self.written(&written, now, brokers)
    }

    /// Appends the marker that ends a producer's transaction, as with acks=all. The caller answers the coordinator when
    /// the high watermark has passed it. `transaction_version` is that of the transaction: see
    /// [`ottla_replication::ProducerStates::check_marker`].
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_marker(
        &mut self,
        marker: &EndMarker,
        transaction_version: i8,
        timestamp_type: TimestampType,
        now: MonotonicMs,
        wall: TimestampMs,
        brokers: &impl Brokers,
    ) -> Result<(Appended, Effects<A>), AppendError> {
        let (leader, log) = self.leading_mut()?;
        leader.check_append(true)?;
        let written = log.append_marker(marker, transaction_version, leader.leader_epoch(), timestamp_type, wall)?;
        self.written(&written, now, brokers)
    }

    /// The log has the records of an append.
    fn written(
        &mut self,
        written: &ottla_storage::Appended,
        now: MonotonicMs,
        brokers: &impl Brokers,
    ) -> Result<(Appended, Effects<A>), AppendError> {
        let (leader, log) = self.leading_mut()?;
        let mut effects = Effects::default();
        // With flush.messages or flush.ms a batch must be on the disk before it is readable.
        if log.flush_due(now)
            && let Err(error) = log.flush(now)
        {
            if disk_fault(log, Some(&error)) == DiskFault::Failed {
                return Err(AppendError::Sync(error));
            }
            effects.disk_error = Some(error);
        }
        let appended = Appended {
            first_offset: written.first_offset,
            next_offset: written.last_offset.next(),
            log_end: written.log_end_offset,
            log_start: log.log_start_offset(),
            max_timestamp: written.max_timestamp,
            is_duplicate: written.is_duplicate,
            rolled: written.rolled,
        };
        if !written.is_duplicate {
            effects.appended = true;
            let led = leader.appended(now, written.log_end_offset, brokers);
            self.absorb(now, led, brokers, &mut effects);
        }
        Ok((appended, effects))
    }

    /// Whether the transaction coordinator must be asked before a transactional batch is appended (KIP-890): none if
    /// its transaction is open in this log. Otherwise the append brings the guard along, after the coordinator has
    /// confirmed the transaction.
    ///
    /// # Errors
    /// This replica does not lead, or the producer's epoch is fenced.
    pub fn begin_verification(
        &mut self,
        request: &VerificationRequest,
        wall: TimestampMs,
    ) -> Result<Option<VerificationGuard>, ErrorCode> {
        if self.rules.no_verification && !request.supports_epoch_bump {
            return Ok(None);
        }
        let (_, log) = self.leading_mut()?;
        log.begin_verification(request, wall).map_err(|refused| refused.error_code())
    }

    /// Whether everything below `next_offset` is replicated. If not, the answer that `ack` makes waits for it: a retry
    /// of a batch that is not replicated yet waits as the original does (scenario 15).
    pub fn wait_for_replicas(&mut self, next_offset: Offset, ack: impl FnOnce() -> A) -> bool {
        let is_replicated = self.high_watermark() >= next_offset;
        if !is_replicated {
            self.produces.push(next_offset, ack());
        }
        is_replicated
    }

    /// The number of produces that wait.
    pub fn waiting_produces(&self) -> usize {
        self.produces.len()
    }

    /// Serves a fetch. A follower's fetch first moves its progress, and thereby the high watermark, before the log is
    /// read: the response then carries the new one. The effects apply even if the read fails.
    ///
    /// `is_near`: the leader sends a consumer to a follower near it; none: consumers read where they ask.
    pub fn fetch(
        &mut self,
        fetch: &Fetch,
        now: MonotonicMs,
        brokers: &impl Brokers,
        is_near: Option<IsNear<'_>>,
    ) -> (Effects<A>, Result<Fetched<E>, ReadError>) {
        if fetch.reads_followers() && self.follower().is_some() {
            return self.serve_followed(fetch, now);
        }
        let diverging = match self.check_fetch(fetch, brokers) {
            Ok(diverging) => diverging,
            Err(error) => return (Effects::default(), Err(error.into())),
        };
        let effects = match self.follower_fetched(fetch, diverging, now, brokers) {
            Ok(effects) => effects,
            Err(error) => return (Effects::default(), Err(error.into())),
        };
        let preferred = is_near.filter(|_| diverging.is_none()).and_then(|is_near| match fetch.reader {
            Reader::Consumer(terms) if terms.reads_followers => {
                self.leader()?.preferred_read_replica(now, fetch.offset, is_near, brokers)
            }
            Reader::Consumer(_) | Reader::Debugger | Reader::Replica { .. } => None,
        });
        (effects, self.read(fetch, diverging, preferred))
    }

    /// Whether the fetch may be served; the point where the fetcher's log diverges from this one.
    fn check_fetch(&self, fetch: &Fetch, brokers: &impl Brokers) -> Result<Option<EpochEnd>, ErrorCode> {
        let (leader, log) = self.leading()?;
        match fetch.follower_fetch() {
            Some(follower) => leader.check_fetch(&follower, brokers),
            None => leader.check_leader_epoch(fetch.current_leader_epoch),
        }
        .map_err(|refused| refused.error_code())?;
        let (start, end) = (log.log_start_offset(), log.log_end_offset());
        match log.epoch_history().divergence(fetch.last_fetched_epoch, fetch.offset, start, end) {
            Divergence::At(end) => Ok(Some(end)),
            Divergence::None if (start..=end).contains(&fetch.offset) => Ok(None),
            Divergence::None | Divergence::OutOfRange => Err(ErrorCode::OffsetOutOfRange),
        }
    }

    /// Counts a follower's progress. A log that has parted from this one proves nothing by its length.
    fn follower_fetched(
        &mut self,
        fetch: &Fetch,
        diverging: Option<EpochEnd>,
        now: MonotonicMs,
        brokers: &impl Brokers,
    ) -> Result<Effects<A>, ErrorCode> {
        let counts = diverging.is_none() || self.rules.diverging_fetch_counts;
        let Some(follower) = fetch.follower_fetch().filter(|_| fetch.is_progress() && counts) else {
            return Ok(Effects::default());
        };
        let (leader, _) = self.leading_mut()?;
        let led = leader.follower_fetched(now, &follower, brokers).map_err(|refused| refused.error_code())?;
        let mut effects = Effects::default();
        if !led.is_empty() {
            self.absorb(now, led, brokers, &mut effects);
        }
        self.complete_deletions(brokers, &mut effects);
        Ok(effects)
    }

    /// Reads for a fetch that has passed its checks.
    fn read(
        &self,
        fetch: &Fetch,
        diverging: Option<EpochEnd>,
        preferred_read_replica: Option<BrokerId>,
    ) -> Result<Fetched<E>, ReadError> {
        let (leader, log) = self.leading()?;
        let last_stable = last_stable(log, leader.high_watermark(), self.rules);
        let upper = match fetch.reader {
            Reader::Consumer(ConsumerTerms { read_committed: true, .. }) => last_stable,
            Reader::Consumer(_) | Reader::Debugger => leader.high_watermark(),
            Reader::Replica { .. } => log.log_end_offset(),
        };
        let (records, aborted) = match diverging.is_none() && preferred_read_replica.is_none() {
            true => read_below(log, fetch, upper)?,
            false => (None, None),
        };
        Ok(Fetched {
            leader_epoch: leader.leader_epoch(),
            high_watermark: leader.high_watermark(),
            last_stable,
            log_start: log.log_start_offset(),
            diverging,
            preferred_read_replica,
            is_follower: false,
            upper,
            records,
            aborted,
        })
    }

    /// Continues a read that began in `leader_epoch` and found no more records in its segment.
    pub fn read_on(
        &self,
        leader_epoch: LeaderEpoch,
        from: Offset,
        max_bytes: usize,
        upper: Offset,
        min_one: bool,
    ) -> Result<Read<E>, ReadError> {
        let log = match self.leading_in(leader_epoch) {
            Ok((_, log)) => log,
            Err(error) => self.followed_in(leader_epoch).ok_or(error)?,
        };
        Ok(log.read_if_cached(from, max_bytes, upper, min_one)?)
    }

    /// The records of this leader of `leader_epoch` from `from` on, above the high watermark too: about `max_bytes` and
    /// never less than a batch.
    pub fn read_own(
        &self,
        leader_epoch: LeaderEpoch,
        from: Option<Offset>,
        max_bytes: usize,
    ) -> Result<OwnRead<E>, ReadError> {
        let (_, log) = self.leading_in(leader_epoch)?;
        let from = from.unwrap_or(Offset::ZERO).max(log.log_start_offset());
        let end = log.log_end_offset();
        Ok(OwnRead { from, end, records: log.read_if_cached(from, max_bytes, end, true)? })
    }

    /// ListOffsets.
    pub fn find_offset(
        &self,
        query: OffsetQuery,
        leader_epoch: LeaderEpoch,
        visible: Visible,
    ) -> Result<OffsetLookup<E>, ErrorCode> {
        let (leader, log) = self.leading()?;
        leader.check_leader_epoch(leader_epoch).map_err(|refused| refused.error_code())?;
        let search = match query {
            OffsetQuery::Latest => {
                check_settled(leader, visible)?;
                return Ok(OffsetLookup::Found(FoundOffset {
                    timestamp: TimestampMs::NONE,
                    offset: self.visible_end(leader, log, visible),
                    leader_epoch: leader.leader_epoch(),
                }));
            }
            OffsetQuery::Earliest => {
                let offset = log.log_start_offset();
                let leader_epoch = log.epoch_history().epoch_for_offset(offset).unwrap_or(LeaderEpoch::NONE);
                return Ok(OffsetLookup::Found(FoundOffset { timestamp: TimestampMs::NONE, offset, leader_epoch }));
            }
            OffsetQuery::MaxTimestamp => log.max_time_search(),
            OffsetQuery::At(timestamp) => log.time_search(timestamp),
        };
        let leader_epoch = leader.leader_epoch();
        Ok(OffsetLookup::Search(OffsetSearch { query, search, leader_epoch, visible, tries_left: SEARCH_TRIES_MAX }))
    }

    /// Converts the result of a search by time, or begins the search anew; only valid for the leader that began it.
    pub fn offset_found(
        &self,
        search: &OffsetSearch<E>,
        found: Result<Option<TimestampOffset>, ottla_storage::ReadError>,
    ) -> Result<OffsetLookup<E>, ReadError> {
        let (leader, log) = self.leading_in(search.leader_epoch)?;
        let found = match found {
            // Retention removed a segment during the search.
            Err(ottla_storage::ReadError::Io(error))
                if error.kind() == io::ErrorKind::NotFound && search.tries_left > 0 =>
            {
                let mut again = self.find_offset(search.query, search.leader_epoch, search.visible)?;
                if let OffsetLookup::Search(again) = &mut again {
                    again.tries_left = search.tries_left - 1;
                }
                return Ok(again);
            }
            found => found?,
        };
        match found.filter(|found| found.offset < self.visible_end(leader, log, search.visible)) {
            Some(found) => Ok(OffsetLookup::Found(FoundOffset {
                timestamp: found.timestamp,
                offset: found.offset,
                leader_epoch: log.epoch_history().epoch_for_offset(found.offset).unwrap_or(LeaderEpoch::NONE),
            })),
            None => {
                check_settled(leader, search.visible)?;
                Ok(OffsetLookup::Found(FoundOffset::NONE))
            }
        }
    }

    fn visible_end(&self, leader: &Leader, log: &Log<E>, visible: Visible) -> Offset {
        match visible {
            Visible::LogEnd => log.log_end_offset(),
            Visible::HighWatermark => leader.high_watermark(),
            Visible::LastStable => last_stable(log, leader.high_watermark(), self.rules),
        }
    }

    /// OffsetForLeaderEpoch: the largest epoch not above `epoch`, and its end offset; none if the log has no such
    /// epoch.
    pub fn epoch_end(&self, epoch: LeaderEpoch, current: LeaderEpoch) -> Result<Option<EpochEnd>, ErrorCode> {
        let (leader, log) = self.leading()?;
        leader.check_leader_epoch(current).map_err(|refused| refused.error_code())?;
        Ok(log.epoch_history().end_offset_for(epoch, log.log_end_offset()))
    }

    /// The outcome of an ISR proposal. Also returns the time of the leader's next tick, if it is soon.
    pub fn isr_decided(
        &mut self,
        now: MonotonicMs,
        number: u64,
        outcome: &IsrOutcome,
        brokers: &impl Brokers,
    ) -> (Effects<A>, Option<MonotonicMs>) {
        let Role::Leader(leader) = &mut self.role else { return (Effects::default(), None) };
        let led = leader.isr_decided(now, number, outcome, brokers);
        let effects = self.led(now, led, brokers);
        let is_decided = matches!(outcome, IsrOutcome::Decided { .. });
        (effects, (!is_decided).then(|| now + ISR_RETRY_BACKOFF))
    }

    /// Time passed, or a broker's registration changed: followers may have to leave or join the ISR.
    pub fn tick(&mut self, now: MonotonicMs, brokers: &impl Brokers) -> Effects<A> {
        let Role::Leader(leader) = &mut self.role else { return Effects::default() };
        let led = leader.tick(now, brokers);
        let mut effects = self.led(now, led, brokers);
        self.complete_deletions(brokers, &mut effects);
        effects
    }

    /// Whether [`Self::tick`] has nothing to do until something happens to this replica, or a broker registers, becomes
    /// eligible or leaves: a round of ticks passes by such replicas, which nearly all are where there are many.
    pub fn is_at_rest(&self, brokers: &impl Brokers) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.is_at_rest(brokers) && self.deletions.is_empty(),
            Role::Follower(_) | Role::Idle => true,
        }
    }
}

/// The records of a log from the fetch's offset on that begin below `upper`.
pub(crate) fn read_below<E: Env>(
    log: &Log<E>,
    fetch: &Fetch,
    upper: Offset,
) -> Result<UnfinishedRead<E>, ottla_storage::ReadError> {
    if fetch.offset >= upper {
        return Ok((None, None));
    }
    let records = log.read_if_cached(fetch.offset, fetch.max_bytes, upper, fetch.min_one)?;
    let aborted = fetch.reads_committed().then(|| log.aborted_search(fetch.offset, upper)).flatten();
    Ok((Some(records), aborted))
}

/// Records, and the search for the aborted transactions among them.
type UnfinishedRead<E> = (Option<Read<E>>, Option<AbortedSearch<E>>);

impl Fetch {
    fn reads_followers(&self) -> bool {
        match self.reader {
            Reader::Consumer(terms) => terms.reads_followers,
            Reader::Debugger => true,
            Reader::Replica { .. } => false,
        }
    }

    pub(crate) fn reads_committed(&self) -> bool {
        matches!(self.reader, Reader::Consumer(ConsumerTerms { read_committed: true, .. }))
    }

    fn follower_fetch(&self) -> Option<FollowerFetch> {
        match self.reader {
            Reader::Consumer(_) | Reader::Debugger => None,
            Reader::Replica { id, epoch, .. } => Some(FollowerFetch {
                replica: id,
                broker_epoch: epoch,
                leader_epoch: self.current_leader_epoch,
                fetch_offset: self.offset,
                log_start_offset: self.log_start,
            }),
        }
    }

    fn is_progress(&self) -> bool {
        matches!(self.reader, Reader::Replica { progress: true, .. })
    }
}

/// A new leader's high watermark may be below the one that its predecessor returned: "latest" must not go back.
fn check_settled(leader: &Leader, visible: Visible) -> Result<(), ErrorCode> {
    if visible == Visible::LogEnd || leader.are_offsets_available() {
        Ok(())
    } else {
        Err(ErrorCode::OffsetNotAvailable)
    }
}
