//! What a broker answers to producers, consumers and followers.

use std::cell::Cell;
use std::rc::Rc;

use ottla_authorizer::Operation;
use ottla_model::{BrokerId, ErrorCode, MonotonicMs, Offset, TimestampMs, TopicIdPartition};
use ottla_partition::{
    Append, AppendError, Appended, ConsumerTerms, Effects, Errand, IsNear, OffsetLookup, OffsetQuery, Visible,
    eligible_epoch, finish_fetch,
};
use ottla_protocol::record_batch::{BatchHeader, TimestampType};
use ottla_replica_fetcher::{BoundsQuestion, LogEnd};
use ottla_replication::fetch_session::{Fetcher, PartitionRead, PartitionRequest, ReadFacts, ReadPartition};
use ottla_replication::{AppendTerms, EndMarker, FetchLimits, VerificationRequest};

use super::process::Process;
use super::replica::{Waiter, WaitingProduce};
use super::sessions::OpenFetch;
use crate::at_once::AtOnce;
use crate::facts::Fact;
use crate::message::{CallId, Fetch, FetchedPartition, Message, Produce, Rack};
use crate::network::NodeId;
use crate::outbox::Outbox;

/// Fetches that wait for something to read.
const PARKED_MAX: usize = 64;

/// How long a marker waits for its replicas.
const MARKER_TIMEOUT_MS: u64 = 2_000;

/// An append that is to be answered.
struct Appending {
    from: NodeId,
    call: CallId,
    id: TopicIdPartition,
    acks_all: bool,
    timeout_ms: u64,
}

/// A fetch that found nothing yet.
pub(super) struct ParkedFetch {
    from: NodeId,
    call: CallId,
    open: OpenFetch,
    limits: FetchLimits,
    terms: ConsumerTerms,
    rack: Option<Rack>,
    deadline: MonotonicMs,
}

/// What was read of one partition.
struct PartitionAnswer {
    answer: FetchedPartition,
    left_out_bytes: usize,
}

impl PartitionRead for PartitionAnswer {
    fn facts(&self) -> ReadFacts {
        ReadFacts {
            error: self.answer.error,
            diverges: self.answer.diverging.is_some(),
            is_redirected: self.answer.preferred_read_replica.is_some(),
            bytes: self.answer.records.len(),
            is_held_back: false,
            left_out_bytes: self.left_out_bytes,
            high_watermark: self.answer.high_watermark,
            log_start: self.answer.log_start,
        }
    }
}

/// Reads for one look at a session's partitions.
struct LogReader<'a> {
    process: &'a mut Process,
    now: MonotonicMs,
    fetcher: Fetcher,
    terms: ConsumerTerms,
    rack: Option<Rack>,
    out: &'a mut Outbox,
}

impl ReadPartition<TopicIdPartition, ()> for LogReader<'_> {
    type Read = PartitionAnswer;

    fn read(&mut self, id: &TopicIdPartition, _: &mut Option<()>, request: &PartitionRequest) -> PartitionAnswer {
        let fetch = ottla_partition::Fetch::of(self.fetcher, self.terms, request);
        self.process
            .read(self.now, *id, &fetch, self.rack, self.out)
            .unwrap_or_else(|error| PartitionAnswer { answer: FetchedPartition::refused(error), left_out_bytes: 0 })
    }
}

fn send_answer(fetch: &ParkedFetch, partitions: Vec<(TopicIdPartition, FetchedPartition)>, out: &mut Outbox) {
    let session_id = fetch.open.answered_id.0;
    let answer = Message::FetchAnswer { call: fetch.call, error: ErrorCode::None, session_id, partitions };
    out.send(fetch.from, answer);
}

impl Process {
    pub(super) fn leader_of(&self, id: TopicIdPartition) -> BrokerId {
        self.image.partition(id).map_or(BrokerId::NONE, |state| state.leader)
    }

    pub(super) fn produce(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        from: NodeId,
        call: CallId,
        produce: &Produce,
        out: &mut Outbox,
    ) {
        if let Err(error) = self.try_produce(now, wall, from, call, produce, out) {
            let leader = self.leader_of(produce.partition);
            out.answer_produce(from, call, Err(error), leader);
        }
    }

    fn try_produce(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        from: NodeId,
        call: CallId,
        produce: &Produce,
        out: &mut Outbox,
    ) -> Result<(), ErrorCode> {
        let id = produce.partition;
        self.check_topic(now, from, Operation::Write, id, out)?;
        let image = &self.image;
        let brokers = |broker| eligible_epoch(image, broker);
        let replica = self.replicas.get_mut(&id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if let Some(directory) = self.log_dirs.get(replica.directory) {
            Errand::Append.check(directory.health())?;
        }
        let acks_all = produce.acks == -1;
        let mut batch = produce.batch.to_vec();
        let guard = match BatchHeader::parse(&batch) {
            Ok(header) if header.is_transactional() => {
                let wanted = VerificationRequest {
                    producer_id: header.producer_id,
                    producer_epoch: header.producer_epoch,
                    base_sequence: header.base_sequence,
                    supports_epoch_bump: true,
                };
                replica.core.begin_verification(&wanted, wall)?
            }
            _ => None,
        };
        if guard.is_some() && !produce.is_confirmed {
            return Err(ErrorCode::InvalidTxnState);
        }
        let terms = AppendTerms { guard: guard.as_ref(), ..AppendTerms::CLIENT };
        let append = Append { records: &mut batch, header: None, acks_all, terms };
        let done = replica.core.append(append, now, wall, &brokers);
        let request = Appending { from, call, id, acks_all, timeout_ms: produce.timeout_ms };
        self.appended(now, &request, done, out)
    }

    /// A transaction's coordinator ends it.
    #[expect(clippy::too_many_arguments, reason = "the fields of a message")]
    pub(super) fn end_transaction(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        from: NodeId,
        call: CallId,
        id: TopicIdPartition,
        marker: &EndMarker,
        out: &mut Outbox,
    ) {
        if let Err(error) = self.try_end_transaction(now, wall, from, call, id, marker, out) {
            let leader = self.leader_of(id);
            out.answer_produce(from, call, Err(error), leader);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a message")]
    fn try_end_transaction(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        from: NodeId,
        call: CallId,
        id: TopicIdPartition,
        marker: &EndMarker,
        out: &mut Outbox,
    ) -> Result<(), ErrorCode> {
        let image = &self.image;
        let brokers = |broker| eligible_epoch(image, broker);
        let replica = self.replicas.get_mut(&id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if let Some(directory) = self.log_dirs.get(replica.directory) {
            Errand::Append.check(directory.health())?;
        }
        let done = replica.core.append_marker(marker, 2, TimestampType::CreateTime, now, wall, &brokers);
        let request = Appending { from, call, id, acks_all: true, timeout_ms: MARKER_TIMEOUT_MS };
        self.appended(now, &request, done, out)
    }

    /// Answers an append, or waits until it is replicated.
    fn appended(
        &mut self,
        now: MonotonicMs,
        request: &Appending,
        done: Result<(Appended, Effects<Waiter>), AppendError>,
        out: &mut Outbox,
    ) -> Result<(), ErrorCode> {
        let Appending { from, call, id, acks_all, timeout_ms } = *request;
        let (appended, effects) = match done {
            Ok(done) => done,
            Err(error) => return Err(self.append_refused(id, &error, out)),
        };
        self.append_succeeded(id);
        self.execute(id, effects, out);
        let local = self.id;
        let replica = self.replicas.get_mut(&id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if !acks_all {
            out.answer_produce(from, call, Ok(appended.first_offset), local);
            return Ok(());
        }
        let waiting = Rc::new(WaitingProduce {
            to: from,
            call,
            first: appended.first_offset,
            next: appended.next_offset,
            record: replica.content.get(appended.first_offset).copied(),
            deadline: MonotonicMs(now.0 + timeout_ms),
            is_answered: Cell::new(false),
        });
        if replica.core.wait_for_replicas(appended.next_offset, || Waiter::Produce(waiting.clone())) {
            replica.acknowledge(&waiting, local, out);
        } else {
            let number = self.call_id().0;
            self.produces.insert((waiting.deadline, number), waiting);
        }
        Ok(())
    }

    fn append_refused(&mut self, id: TopicIdPartition, error: &AppendError, out: &mut Outbox) -> ErrorCode {
        use ottla_storage::AppendError as LogError;
        match error {
            AppendError::Log(LogError::Producer(refused)) => out.note(format_args!("{refused}")),
            error => match error.disk_error() {
                Some(cause) => self.disk_refused(id, error, cause, out),
                None if matches!(error, AppendError::Log(_)) => {
                    out.facts.push(Fact::Broken { what: format!("a good batch was refused: {error}") });
                }
                None => {}
            },
        }
        error.error_code()
    }

    pub(super) fn fetch(&mut self, now: MonotonicMs, from: NodeId, call: CallId, fetch: &Fetch, out: &mut Outbox) {
        if fetch.replica.is_some() {
            if let Err(error) = self.check_broker(now, from, out) {
                let answer = Message::FetchAnswer { call, error, session_id: 0, partitions: Vec::new() };
                return out.send(from, answer);
            }
        } else {
            let mut refused = Vec::new();
            for (id, _) in &fetch.partitions {
                if let Err(error) = self.check_topic(now, from, Operation::Read, *id, out) {
                    refused.push((*id, FetchedPartition::refused(error)));
                }
            }
            // Consumers here ask for one partition at a time.
            if !refused.is_empty() {
                let error = ErrorCode::None;
                let answer = Message::FetchAnswer { call, error, session_id: 0, partitions: refused };
                return out.send(from, answer);
            }
        }
        let open = match self.fetch_sessions.open(now, fetch) {
            Ok(open) => open,
            Err(error) => {
                let answer = Message::FetchAnswer { call, error, session_id: 0, partitions: Vec::new() };
                return out.send(from, answer);
            }
        };
        let limits = FetchLimits { max_bytes: fetch.bytes.answer_max, min_bytes: 1 };
        let deadline = MonotonicMs(now.0 + fetch.max_wait_ms);
        let terms = ConsumerTerms { read_committed: fetch.reads_committed, reads_followers: true };
        let parked = ParkedFetch { from, call, open, limits, terms, rack: fetch.rack, deadline };
        let time_is_up = fetch.max_wait_ms == 0 || self.parked.len() >= PARKED_MAX;
        if !self.look(now, &parked, time_is_up, out) {
            self.parked.push(parked);
        }
    }

    pub(super) fn serve_parked(&mut self, now: MonotonicMs, out: &mut Outbox) {
        for parked in std::mem::take(&mut self.parked) {
            let time_is_up = now >= parked.deadline;
            if !(time_is_up || self.fetch_sessions.is_awake(&parked.open)) || !self.look(now, &parked, time_is_up, out)
            {
                self.parked.push(parked);
            }
        }
    }

    /// Looks at a fetch's partitions, and says whether it was answered.
    fn look(&mut self, now: MonotonicMs, fetch: &ParkedFetch, time_is_up: bool, out: &mut Outbox) -> bool {
        let mut session = fetch.open.session.borrow_mut();
        if session.partitions.is_over(fetch.open.turn) {
            send_answer(fetch, Vec::new(), out);
            return true;
        }
        let news = self.fetch_sessions.take_news(&mut session);
        let mut reader = LogReader {
            process: self,
            now,
            fetcher: fetch.open.fetcher,
            terms: fetch.terms,
            rack: fetch.rack,
            out: &mut *out,
        };
        let found = session.partitions.evaluate(news, fetch.limits, fetch.open.full, &mut reader);
        if !session.partitions.answers(&found, time_is_up) {
            session.partitions.put_back(&found.entries);
            return false;
        }
        session.partitions.commit(&found.entries);
        let partitions = found.entries.into_iter().map(|entry| (entry.key, entry.read.answer)).collect();
        send_answer(fetch, partitions, out);
        true
    }

    fn read(
        &mut self,
        now: MonotonicMs,
        id: TopicIdPartition,
        fetch: &ottla_partition::Fetch,
        rack: Option<Rack>,
        out: &mut Outbox,
    ) -> Result<PartitionAnswer, ErrorCode> {
        let image = &self.image;
        // A thread that waits for the only directory would bring no answer either: its client's time is up before.
        let is_passed_by = self.when_held(id, Errand::Fetch).is_some();
        let replica = self.replicas.get_mut(&id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if let Some(directory) = self.log_dirs.get(replica.directory) {
            Errand::Fetch.check(directory.health())?;
        }
        if is_passed_by {
            return Err(ErrorCode::KafkaStorageError);
        }
        let is_near = |broker| rack == Some(Rack::of(broker));
        let is_near: Option<IsNear<'_>> = if rack.is_some() { Some(&is_near) } else { None };
        let (effects, fetched) = replica.core.fetch(fetch, now, &|broker| eligible_epoch(image, broker), is_near);
        self.execute(id, effects, out);
        let fetched = fetched.map_err(|error| error.error_code())?;
        let Some(replica) = self.replicas.get(&id) else { return Err(ErrorCode::UnknownTopicOrPartition) };
        let (leader_epoch, upper) = (fetched.leader_epoch, fetched.upper);
        let read_on = |from| replica.core.read_on(leader_epoch, from, fetch.max_bytes, upper, fetch.min_one);
        let read = finish_fetch(fetched.records, fetched.aborted, &AtOnce, read_on);
        let (slice, aborted) = read.map_err(|error| error.error_code())?;
        let records = slice.read().map_err(|_| ErrorCode::KafkaStorageError)?;
        let answer = FetchedPartition {
            error: ErrorCode::None,
            diverging: fetched.diverging,
            preferred_read_replica: fetched.preferred_read_replica,
            is_followers: fetched.is_follower,
            leader_epoch,
            high_watermark: fetched.high_watermark,
            log_start: fetched.log_start,
            records,
            aborted: aborted.iter().map(|it| (it.producer_id, it.first_offset)).collect(),
        };
        Ok(PartitionAnswer { answer, left_out_bytes: slice.left_out_bytes })
    }

    /// DeleteRecords up to a part of the way to the high watermark.
    pub fn delete_records(&mut self, now: MonotonicMs, id: TopicIdPartition, percent: u64, out: &mut Outbox) {
        let image = &self.image;
        let brokers = |broker| eligible_epoch(image, broker);
        let is_held = self.when_held(id, Errand::Append).is_some();
        let Some(replica) = self.replicas.get_mut(&id).filter(|_| !is_held) else { return };
        let span = replica.high_watermark().distance_from(replica.log_start()) * percent / 100;
        let to = replica.log_start() + i64::try_from(span).unwrap_or(0);
        if let Ok((effects, has_moved)) = replica.core.delete_records(to, || Waiter::Deletion, &brokers) {
            out.note(format_args!("{} starts at {to} from now on", replica.name));
            if has_moved {
                self.checkpoints.log_start_moved(now);
            }
            self.execute(id, effects, out);
        }
    }

    /// One end of a leader's log; none where this broker does not lead.
    pub(super) fn bound(&self, question: &BoundsQuestion) -> Option<Offset> {
        let query = match question.end {
            LogEnd::Earliest => OffsetQuery::Earliest,
            LogEnd::Latest => OffsetQuery::Latest,
        };
        let is_held = self.when_held(question.partition, Errand::Fetch).is_some();
        let replica = self.replicas.get(&question.partition).filter(|_| !is_held)?;
        match replica.core.find_offset(query, question.leader_epoch, Visible::LogEnd).ok()? {
            OffsetLookup::Found(found) => Some(found.offset),
            OffsetLookup::Search(_) => None,
        }
    }
}
