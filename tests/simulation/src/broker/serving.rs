//! What a broker answers to producers, consumers and followers.

use bytes::Bytes;
use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, MonotonicMs, Offset, TimestampMs, TopicIdPartition};
use ottla_replica_fetcher::{BoundsQuestion, LogEnd};
use ottla_replication::{Divergence, FetchPosition, FollowerFetch};
use ottla_storage::AppendError;

use super::process::{Process, eligible_epoch};
use super::replica::{DiskFailed, Role, Waiter};
use super::sessions::Resolved;
use crate::facts::Fact;
use crate::message::{CallId, Fetch, FetchedPartition, Message, Produce, ProduceAnswer};
use crate::network::NodeId;
use crate::outbox::Outbox;

/// Records of one partition in one answer.
const FETCH_MAX_BYTES: usize = 16 * 1024;

/// Fetches that wait for something to read; one of each fetcher, and of each consumer.
const PARKED_MAX: usize = 64;

/// A fetch that found nothing yet.
pub(super) struct ParkedFetch {
    from: NodeId,
    call: CallId,
    replica: Option<(BrokerId, BrokerEpoch)>,
    about: Resolved,
    deadline: MonotonicMs,
}

impl Process {
    fn leader_of(&self, id: TopicIdPartition) -> BrokerId {
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
            let answer = ProduceAnswer { error, base_offset: Offset::UNKNOWN, leader };
            out.send(from, Message::ProduceAnswer { call, answer });
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
        let image = &self.image;
        let brokers = |broker| eligible_epoch(image, broker);
        let replica = self.replicas.get_mut(&id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let Role::Leader(leading) = &mut replica.role else { return Err(ErrorCode::NotLeaderOrFollower) };
        let acks_all = produce.acks == -1;
        leading.leader.check_append(acks_all)?;
        let mut batch = produce.batch.to_vec();
        let before = replica.log.log_end_offset();
        let appended = match replica.log.append_as_leader(&mut batch, leading.leader.leader_epoch(), wall) {
            Ok(appended) => appended,
            Err(AppendError::Producer(error)) => {
                out.note(format_args!("{error}"));
                return Err(error.error_code());
            }
            Err(error @ (AppendError::Io(_) | AppendError::Offline)) => {
                self.die(&DiskFailed(error.to_string()), out);
                return Err(ErrorCode::KafkaStorageError);
            }
            Err(error) => {
                out.facts.push(Fact::Broken { what: format!("a good batch was refused: {error}") });
                return Err(ErrorCode::UnknownServerError);
            }
        };
        let waiter = Waiter {
            to: from,
            call,
            first: appended.first_offset,
            next: appended.last_offset.next(),
            deadline: MonotonicMs(now.0 + produce.timeout_ms),
        };
        let mut effects = None;
        if !appended.is_duplicate {
            effects = Some(leading.leader.appended(now, appended.log_end_offset, &brokers));
        }
        let done = leading.leader.high_watermark() >= waiter.next;
        if acks_all && !done {
            leading.waiters.push(waiter.next, waiter);
        }
        if !appended.is_duplicate {
            replica.appended(before, &self.env, self.faults, out);
            self.news.insert(id);
        }
        if let Some(effects) = effects {
            self.led(now, id, effects, out);
        }
        if acks_all && done {
            self.acknowledge(id, &waiter, out);
        } else if !acks_all {
            let answer = ProduceAnswer { error: ErrorCode::None, base_offset: waiter.first, leader: self.id };
            out.send(from, Message::ProduceAnswer { call, answer });
        }
        Ok(())
    }

    pub(super) fn fetch(&mut self, now: MonotonicMs, from: NodeId, call: CallId, fetch: Fetch, out: &mut Outbox) {
        // A fetcher has one fetch parked at a time; the next one ends it.
        for parked in std::mem::take(&mut self.parked) {
            if parked.from == from {
                self.answer_fetch(&parked, Vec::new(), out);
            } else {
                self.parked.push(parked);
            }
        }
        let about = match self.fetch_sessions.resolve(from, &fetch) {
            Ok(about) => about,
            Err(error) => {
                let answer = Message::FetchAnswer { call, error, session_id: 0, partitions: Vec::new() };
                return out.send(from, answer);
            }
        };
        let deadline = MonotonicMs(now.0 + fetch.max_wait_ms);
        let parked = ParkedFetch { from, call, replica: fetch.replica, about, deadline };
        let (answers, is_ready) = self.look(now, &parked, true, out);
        if is_ready || fetch.max_wait_ms == 0 || self.parked.len() >= PARKED_MAX {
            self.answer_fetch(&parked, answers, out);
        } else {
            self.parked.push(parked);
        }
    }

    fn answer_fetch(
        &mut self,
        parked: &ParkedFetch,
        mut partitions: Vec<(TopicIdPartition, FetchedPartition)>,
        out: &mut Outbox,
    ) {
        let session_id = parked.about.session_id;
        self.fetch_sessions.report(parked.from, session_id, &mut partitions);
        let answer = Message::FetchAnswer { call: parked.call, error: ErrorCode::None, session_id, partitions };
        out.send(parked.from, answer);
    }

    /// Looks again at fetches whose partitions have news, or whose time is up.
    pub(super) fn serve_parked(&mut self, now: MonotonicMs, out: &mut Outbox) {
        let news = std::mem::take(&mut self.news);
        for parked in std::mem::take(&mut self.parked) {
            let is_late = now >= parked.deadline;
            let concerned = parked.about.partitions.iter().any(|(id, _)| news.contains(id));
            if !is_late && !concerned {
                self.parked.push(parked);
                continue;
            }
            let (answers, is_ready) = self.look(now, &parked, false, out);
            if is_late || is_ready {
                self.answer_fetch(&parked, answers, out);
            } else {
                self.parked.push(parked);
            }
        }
    }

    /// What there is for a fetch; whether it is worth an answer. The first look counts as the follower's progress.
    fn look(
        &mut self,
        now: MonotonicMs,
        fetch: &ParkedFetch,
        is_first: bool,
        out: &mut Outbox,
    ) -> (Vec<(TopicIdPartition, FetchedPartition)>, bool) {
        let mut answers = Vec::new();
        let mut is_ready = false;
        for (id, position) in &fetch.about.partitions {
            let counts = is_first && fetch.about.named.contains(id);
            let answer = self.look_at(now, fetch.replica, *id, *position, counts, out).unwrap_or_else(|error| {
                FetchedPartition {
                    error,
                    diverging: None,
                    high_watermark: Offset::UNKNOWN,
                    log_start: self.replicas.get(id).map_or(Offset::UNKNOWN, |replica| replica.log.log_start_offset()),
                    records: Bytes::new(),
                    position: *position,
                }
            });
            is_ready |= !answer.error.is_ok() || answer.diverging.is_some() || !answer.records.is_empty();
            answers.push((*id, answer));
        }
        (answers, is_ready)
    }

    fn look_at(
        &mut self,
        now: MonotonicMs,
        replica_of: Option<(BrokerId, BrokerEpoch)>,
        id: TopicIdPartition,
        position: FetchPosition,
        counts: bool,
        out: &mut Outbox,
    ) -> Result<FetchedPartition, ErrorCode> {
        let image = &self.image;
        let brokers = |broker| eligible_epoch(image, broker);
        let replica = self.replicas.get_mut(&id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let Role::Leader(leading) = &mut replica.role else { return Err(ErrorCode::NotLeaderOrFollower) };
        let follower_fetch = replica_of.map(|(replica, broker_epoch)| FollowerFetch {
            replica,
            broker_epoch,
            leader_epoch: position.leader_epoch,
            fetch_offset: position.offset,
            log_start_offset: position.log_start,
        });
        match &follower_fetch {
            Some(follower) => leading.leader.check_fetch(follower, &brokers).map_err(|error| error.error_code())?,
            None => leading.leader.check_leader_epoch(position.leader_epoch).map_err(|error| error.error_code())?,
        }
        let (start, end) = (replica.log.log_start_offset(), replica.log.log_end_offset());
        let history = replica.log.epoch_history();
        let diverging = match history.divergence(position.last_fetched_epoch, position.offset, start, end) {
            Divergence::None if position.offset < start || position.offset > end => {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            Divergence::None => None,
            Divergence::At(at) => Some(at),
            Divergence::OutOfRange => return Err(ErrorCode::OffsetOutOfRange),
        };
        let mut effects = None;
        if diverging.is_none()
            && counts
            && let Some(follower) = &follower_fetch
        {
            let step = leading.leader.follower_fetched(now, follower, &brokers);
            effects = Some(step.map_err(|error| error.error_code())?);
        }
        if let Some(effects) = effects {
            self.led(now, id, effects, out);
        }
        let replica = self.replicas.get(&id).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let high_watermark = replica.high_watermark();
        let upper = if replica_of.is_some() { end } else { high_watermark };
        let records = if diverging.is_none() && position.offset < upper {
            let slice = replica.log.read(position.offset, FETCH_MAX_BYTES, upper, true);
            slice.map_err(|_| ErrorCode::KafkaStorageError)?.read().map_err(|_| ErrorCode::KafkaStorageError)?
        } else {
            Bytes::new()
        };
        Ok(FetchedPartition { error: ErrorCode::None, diverging, high_watermark, log_start: start, records, position })
    }

    /// One end of a leader's log; none where this broker does not lead.
    pub(super) fn bound(&self, question: &BoundsQuestion) -> Option<Offset> {
        let replica = self.replicas.get(&question.partition)?;
        replica.leader()?.check_leader_epoch(question.leader_epoch).ok()?;
        Some(match question.end {
            LogEnd::Earliest => replica.log.log_start_offset(),
            LogEnd::Latest => replica.log.log_end_offset(),
        })
    }
}
