//! What a broker fetches as a follower: from each leader's broker one fetch at a time, for all partitions that it leads.

use ottla_model::{BrokerId, MonotonicMs, Offset, TimestampMs, TopicIdPartition};
use ottla_replication::{FetchAnswer, FollowerAction};
use ottla_storage::AppendError;

use super::process::Process;
use super::replica::{DiskFailed, Role};
use crate::message::{CallId, Fetch, FetchedPartition, Message};
use crate::network::NodeId;
use crate::outbox::Outbox;

const MAX_WAIT_MS: u64 = 500;
/// An answer that does not come within this time is not waited for.
const ANSWER_MS: u64 = 1_500;
/// After an error. Kafka: 1 s.
const BACKOFF_MS: u64 = 100;

/// The fetches from one broker.
#[derive(Default)]
pub(super) struct Fetcher {
    outstanding: Option<(CallId, MonotonicMs)>,
    retry_at: MonotonicMs,
    /// A partition was added: what is on its way does not ask for it.
    pub has_news: bool,
}

impl Fetcher {
    pub fn lost(&mut self, now: MonotonicMs) {
        self.outstanding = None;
        self.retry_at = MonotonicMs(now.0 + BACKOFF_MS);
    }
}

impl Process {
    /// Sends what is due.
    pub(super) fn send_fetches(&mut self, now: MonotonicMs, out: &mut Outbox) {
        let Some(epoch) = self.session.epoch() else { return };
        let leaders: Vec<_> = self.fetchers.keys().copied().collect();
        for leader in leaders {
            let Some(fetcher) = self.fetchers.get(&leader) else { continue };
            let waits = fetcher.outstanding.is_some_and(|(_, sent)| now.0.saturating_sub(sent.0) < ANSWER_MS);
            if now < fetcher.retry_at || waits && !fetcher.has_news {
                continue;
            }
            let partitions: Vec<_> = self
                .replicas
                .iter()
                .filter(|(_, replica)| now >= replica.retry_at)
                .filter_map(|(id, replica)| {
                    let follower = replica.follower().filter(|follower| follower.leader() == leader)?;
                    Some((*id, follower.next_fetch()?))
                })
                .collect();
            if partitions.is_empty() {
                if !self.replicas.values().any(|replica| replica.follower().is_some_and(|f| f.leader() == leader)) {
                    self.fetchers.remove(&leader);
                }
                continue;
            }
            let call = self.call_id();
            let Some(fetcher) = self.fetchers.get_mut(&leader) else { continue };
            fetcher.outstanding = Some((call, now));
            fetcher.has_news = false;
            let fetch = Fetch { replica: Some((self.id, epoch)), partitions, max_wait_ms: MAX_WAIT_MS };
            out.send(NodeId::Broker(leader.0), Message::Fetch { call, fetch });
        }
    }

    /// An answer; one that comes late or twice is looked at like any other: the follower knows what it asked for.
    pub(super) fn fetched(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        from: NodeId,
        call: CallId,
        partitions: Vec<(TopicIdPartition, FetchedPartition)>,
        out: &mut Outbox,
    ) {
        let NodeId::Broker(leader) = from else { return };
        if let Some(fetcher) = self.fetchers.get_mut(&BrokerId(leader))
            && fetcher.outstanding.is_some_and(|(expected, _)| expected == call)
        {
            fetcher.outstanding = None;
        }
        for (id, answer) in partitions {
            if let Err(error) = self.fetched_partition(now, wall, from, id, &answer, out) {
                return self.die(&error, out);
            }
        }
    }

    fn fetched_partition(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        from: NodeId,
        id: TopicIdPartition,
        fetched: &FetchedPartition,
        out: &mut Outbox,
    ) -> Result<(), DiskFailed> {
        let Some(replica) = self.replicas.get_mut(&id) else { return Ok(()) };
        let Role::Follower(follower) = &mut replica.role else { return Ok(()) };
        if NodeId::Broker(follower.leader().0) != from {
            return Ok(());
        }
        let answer = FetchAnswer {
            error: fetched.error,
            diverging: fetched.diverging,
            high_watermark: fetched.high_watermark,
            log_start: fetched.log_start,
        };
        let action = follower.fetched(fetched.position, &answer, replica.log.epoch_history());
        match action {
            FollowerAction::Append => {
                let before = replica.log.log_end_offset();
                let leader_epoch = follower.leader_epoch();
                if !fetched.records.is_empty() {
                    match replica.log.append_as_follower(&fetched.records, leader_epoch, wall) {
                        Ok(_) => {}
                        Err(error @ (AppendError::Io(_) | AppendError::Offline)) => {
                            return Err(DiskFailed(error.to_string()));
                        }
                        Err(error) => {
                            out.note(format_args!("{}: the leader's records do not fit: {error}", replica.name));
                            if matches!(error, AppendError::UnexpectedOffset { .. })
                                && let FollowerAction::Truncate(truncation) = follower.records_do_not_follow(&answer)
                            {
                                replica.truncate(truncation, wall, out)?;
                                self.write_recovery_points(out);
                                return Ok(());
                            }
                            replica.retry_at = MonotonicMs(now.0 + BACKOFF_MS);
                            return Ok(());
                        }
                    }
                }
                if answer.log_start > replica.log.log_start_offset() {
                    replica.log.advance_log_start(answer.log_start);
                }
                let local = replica.local_log();
                let Role::Follower(follower) = &mut replica.role else { return Ok(()) };
                let moved = follower.appended(local, &answer);
                if local.end > before {
                    replica.appended(before, &self.env, self.faults, out);
                }
                if let Some(high_watermark) = moved {
                    replica.follower_moved(high_watermark, out);
                }
            }
            FollowerAction::Truncate(truncation) => {
                replica.truncate(truncation, wall, out)?;
                self.write_recovery_points(out);
            }
            FollowerAction::AskLeaderBounds => self.ask_bounds(now, id, out),
            FollowerAction::BackOff => replica.retry_at = MonotonicMs(now.0 + BACKOFF_MS),
            FollowerAction::FetchAgain | FollowerAction::AwaitNewEpoch | FollowerAction::Ignore => {}
        }
        Ok(())
    }

    /// Gives up questions for bounds that were not answered.
    pub(super) fn tick_bounds(&mut self, now: MonotonicMs) {
        for replica in self.replicas.values_mut() {
            if let Role::Follower(follower) = &mut replica.role
                && follower.awaits_bounds()
                && now.0.saturating_sub(replica.asked_bounds_at.0) >= ANSWER_MS
            {
                let _ = follower.leader_bounds(None);
            }
        }
    }

    fn ask_bounds(&mut self, now: MonotonicMs, id: TopicIdPartition, out: &mut Outbox) {
        let call = self.call_id();
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.asked_bounds_at = now;
        }
        let Some(follower) = self.replicas.get(&id).and_then(|replica| replica.follower()) else { return };
        let message = Message::Bounds { call, partition: id, leader_epoch: follower.leader_epoch() };
        out.send(NodeId::Broker(follower.leader().0), message);
    }

    pub(super) fn bounds_answered(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        id: TopicIdPartition,
        bounds: Option<(Offset, Offset)>,
        out: &mut Outbox,
    ) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let Role::Follower(follower) = &mut replica.role else { return };
        match follower.leader_bounds(bounds) {
            FollowerAction::Truncate(truncation) => {
                if let Err(error) = replica.truncate(truncation, wall, out) {
                    return self.die(&error, out);
                }
                self.write_recovery_points(out);
            }
            FollowerAction::BackOff => replica.retry_at = MonotonicMs(now.0 + BACKOFF_MS),
            _ => {}
        }
    }
}
