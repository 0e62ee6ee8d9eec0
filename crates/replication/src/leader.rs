//! The leader of one partition: the progress of its followers, the in-sync replicas, and the high watermark (HW).
//!
//! Owns the progress of each follower, the ISR ([`Isr`]) and the HW for one leader epoch; a new leader epoch begins
//! with a new [`Leader`]. The log is the caller's: it appends, then reports the log's end.
//!
//! Invariants:
//! - HW = min log end over the maximal ISR and over caught-up followers that may join it (Kafka's
//!   `Partition.maybeIncrementLeaderHW`); it never falls, and does not move while the committed ISR is smaller than the
//!   effective min ISR (KIP-966);
//! - an ISR member's progress counts only under the broker epoch of its ISR entry (KIP-903). This is stricter than
//!   Kafka's check against the image, which may be stale: a member that has been restarted holds the HW until the
//!   metadata shows the new state;
//! - at most one ISR proposal is undecided.

use std::cmp::Reverse;
use std::time::Duration;

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, PartitionEpoch};

use crate::effects::{FetchError, IsrOutcome, IsrProposal, LeaderEffects, check_leader_epoch};
use crate::high_watermark::HighWatermark;
use crate::isr::{ChangeKind, Isr, IsrMember};
use crate::rules::BrokenRules;

/// The pause before a leader repeats an ISR proposal with an unknown outcome, or proposes again after a refusal: long
/// enough not to flood a quorum that elects (500–1,000 ms), short compared with `replica.lag.time.max.ms`.
pub const ISR_RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// The image's facts about brokers at the time of a call.
pub trait Brokers {
    /// The epoch of the broker's registration, if it may be in an ISR: registered, not fenced, not shutting down. None
    /// otherwise. A replaced epoch never returns.
    fn eligible_epoch(&self, broker: BrokerId) -> Option<BrokerEpoch>;
}

impl<F: Fn(BrokerId) -> Option<BrokerEpoch>> Brokers for F {
    fn eligible_epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self(broker)
    }
}

/// The settings of a leader; only the min ISR changes while it leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaderConfig {
    pub local: BrokerId,
    /// This broker's own epoch, for its own ISR entry.
    pub local_epoch: BrokerEpoch,
    /// `replica.lag.time.max.ms`.
    pub replica_lag_time_max: Duration,
    /// The topic's `min.insync.replicas`; the effective one is at most the number of replicas.
    pub min_insync_replicas: usize,
    pub rules: BrokenRules,
}

/// The image's state of the partition.
#[derive(Clone, Copy, Debug)]
pub struct PartitionView<'a> {
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// All replicas, the leader among them.
    pub replicas: &'a [BrokerId],
    /// How many of them are not just being added by a reassignment.
    pub established_replicas: usize,
    pub isr: &'a [IsrMember],
}

/// The fields of a follower's fetch that the leader uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FollowerFetch {
    pub replica: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// The leader epoch that the follower believes in; [`LeaderEpoch::NONE`] if it does not say.
    pub leader_epoch: LeaderEpoch,
    /// Everything below is in the follower's log.
    pub fetch_offset: Offset,
    pub log_start_offset: Offset,
}

/// How far one follower is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaProgress {
    pub broker: BrokerId,
    /// The incarnation that reported; [`BrokerEpoch::NONE`] before the first fetch in this leader epoch.
    pub broker_epoch: BrokerEpoch,
    /// [`Offset::UNKNOWN`] before the first fetch in this leader epoch.
    pub log_end: Offset,
    pub log_start: Offset,
    /// The largest time t at which the follower had everything that the leader had at t.
    pub last_caught_up: Option<MonotonicMs>,
    last_fetch: Option<MonotonicMs>,
    /// The leader's log end at the time of the last fetch.
    last_fetch_leader_end: Offset,
    /// The follower resigned from the ISR: it may rejoin only after it has fetched up to this offset, the leader's log
    /// end at that time. Otherwise a follower with a full disk, which is in sync up to the record that it cannot store,
    /// would rejoin at once.
    must_reach: Offset,
}

impl ReplicaProgress {
    fn new(broker: BrokerId, last_caught_up: Option<MonotonicMs>) -> Self {
        Self {
            broker,
            broker_epoch: BrokerEpoch::NONE,
            log_end: Offset::UNKNOWN,
            log_start: Offset::UNKNOWN,
            last_caught_up,
            last_fetch: None,
            last_fetch_leader_end: Offset::UNKNOWN,
            must_reach: Offset::UNKNOWN,
        }
    }

    fn is_caught_up(&self, leader_end: Offset, now: MonotonicMs, lag_max: Duration) -> bool {
        let is_recent = self.last_caught_up.is_some_and(|at| now.since(at) <= lag_max);
        self.log_end == leader_end || (is_recent && self.log_end >= self.must_reach)
    }

    /// Kafka's `Replica.updateFetchStateOrThrow`: a follower that always fetches up to the log end of its previous
    /// fetch is in sync, although it never reaches the current end of a log that grows all the time.
    fn fetched(&mut self, now: MonotonicMs, fetch: &FollowerFetch, leader_end: Offset) {
        if self.broker_epoch != fetch.broker_epoch {
            // Another incarnation of the broker: the former one's progress does not count. Before the first fetch of a
            // leader epoch the time granted at the election stays.
            let granted = if self.broker_epoch.is_known() { None } else { self.last_caught_up };
            *self = Self::new(self.broker, granted);
            self.broker_epoch = fetch.broker_epoch;
        }
        if fetch.fetch_offset >= leader_end {
            self.last_caught_up = self.last_caught_up.max(Some(now));
        } else if self.last_fetch.is_some() && fetch.fetch_offset >= self.last_fetch_leader_end {
            self.last_caught_up = self.last_caught_up.max(self.last_fetch);
        }
        self.log_end = fetch.fetch_offset;
        self.log_start = fetch.log_start_offset;
        self.last_fetch = Some(now);
        self.last_fetch_leader_end = self.last_fetch_leader_end.max(leader_end);
    }
}

/// The leader's view of one partition in one leader epoch.
#[derive(Clone, Debug)]
pub struct Leader {
    config: LeaderConfig,
    leader_epoch: LeaderEpoch,
    partition_epoch: PartitionEpoch,
    /// The log end when this leader was elected.
    epoch_start: Offset,
    log_start: Offset,
    log_end: Offset,
    high_watermark: HighWatermark,
    isr: Isr,
    /// All replicas but this one.
    followers: Box<[ReplicaProgress]>,
    /// What the min ISR is bounded by.
    established_replicas: usize,
    /// Begins anew with each leader epoch, and never repeats: the outcome of a proposal that this replica made in an
    /// earlier epoch may come late, and says nothing of the present one.
    last_proposal: u64,
    /// No proposal leaves before; after an unknown outcome, the time of the retry.
    proposal_not_before: MonotonicMs,
}

impl Leader {
    /// Begins to lead in `view.leader_epoch`. The log spans `log_start..log_end`; `high_watermark` is the last one that
    /// this replica knew.
    ///
    /// The caller has assigned `log_end` to the new epoch in the log's [`EpochHistory`](crate::EpochHistory) before it
    /// answers any fetch: a follower may ask about epochs later than any record here (scenario 3).
    pub fn new(
        now: MonotonicMs,
        config: LeaderConfig,
        view: PartitionView<'_>,
        log_start: Offset,
        log_end: Offset,
        high_watermark: Offset,
        brokers: &impl Brokers,
    ) -> (Self, LeaderEffects) {
        let mut leader = Self {
            config,
            leader_epoch: view.leader_epoch,
            partition_epoch: view.partition_epoch,
            epoch_start: log_end,
            log_start,
            log_end,
            high_watermark: HighWatermark::known(high_watermark, log_start, log_end),
            isr: Isr::committed_as(view.isr),
            followers: Box::default(),
            established_replicas: view.established_replicas,
            last_proposal: u64::try_from(view.leader_epoch.0).unwrap_or(0) << 32,
            proposal_not_before: MonotonicMs(0),
        };
        leader.set_replicas(view.replicas, Some(now));
        // A leader that is the only member need not wait for a fetch.
        let high_watermark = leader.advance_high_watermark(now, brokers);
        (leader, LeaderEffects { high_watermark, ..LeaderEffects::default() })
    }

    fn set_replicas(&mut self, replicas: &[BrokerId], granted: Option<MonotonicMs>) {
        let known = std::mem::take(&mut self.followers);
        self.followers = replicas
            .iter()
            .filter(|&&broker| broker != self.config.local)
            .map(|&broker| {
                known.iter().find(|progress| progress.broker == broker).copied().unwrap_or_else(|| {
                    // ISR members get time to fetch for the first time; others must first fetch.
                    ReplicaProgress::new(broker, granted.filter(|_| self.isr.committed_member(broker).is_some()))
                })
            })
            .collect();
    }

    fn has_replicas(&self, replicas: &[BrokerId]) -> bool {
        let is_known = |broker: &BrokerId| *broker == self.config.local || self.progress(*broker).is_some();
        replicas.len() == self.followers.len() + 1 && replicas.iter().all(is_known)
    }

    /// The image has a new state of this partition under the same leader epoch (another ISR, other replicas). An older
    /// state than the one known is ignored, and so is the ISR of the same one: answers to proposals arrive before their
    /// metadata, and a proposal that is under way stays so.
    pub fn state_changed(
        &mut self,
        now: MonotonicMs,
        view: PartitionView<'_>,
        brokers: &impl Brokers,
    ) -> LeaderEffects {
        if view.leader_epoch != self.leader_epoch || view.partition_epoch < self.partition_epoch {
            return LeaderEffects::default();
        }
        let is_known = view.partition_epoch == self.partition_epoch;
        if is_known && view.established_replicas == self.established_replicas && self.has_replicas(view.replicas) {
            return LeaderEffects::default();
        }
        self.established_replicas = view.established_replicas;
        if is_known {
            // A decision that was made on top of other replicas came before them.
            self.set_replicas(view.replicas, Some(now));
            let high_watermark = self.advance_high_watermark(now, brokers);
            return LeaderEffects { high_watermark, ..LeaderEffects::default() };
        }
        self.partition_epoch = view.partition_epoch;
        for follower in &mut self.followers {
            let stays = view.isr.iter().any(|member| member.broker == follower.broker);
            if !stays && self.isr.committed_member(follower.broker).is_some() {
                follower.must_reach = self.log_end;
            }
        }
        let isr_changed = self.isr.commit(view.isr);
        self.set_replicas(view.replicas, Some(now));
        LeaderEffects { high_watermark: self.advance_high_watermark(now, brokers), alter: None, isr_changed }
    }

    /// The topic's `min.insync.replicas` changed.
    pub fn set_min_insync_replicas(
        &mut self,
        now: MonotonicMs,
        min_insync_replicas: usize,
        brokers: &impl Brokers,
    ) -> LeaderEffects {
        self.config.min_insync_replicas = min_insync_replicas;
        LeaderEffects { high_watermark: self.advance_high_watermark(now, brokers), ..LeaderEffects::default() }
    }

    /// The log now ends at `log_end`.
    pub fn appended(&mut self, now: MonotonicMs, log_end: Offset, brokers: &impl Brokers) -> LeaderEffects {
        debug_assert!(log_end >= self.log_end, "a leader's log never shrinks");
        // A follower that had all records until now counts as caught up until now. Its fetch session may have been
        // silent because this partition had no news.
        if log_end > self.log_end {
            for follower in self.followers.iter_mut().filter(|follower| follower.log_end == self.log_end) {
                follower.last_caught_up = follower.last_caught_up.max(Some(now));
            }
        }
        self.log_end = self.log_end.max(log_end);
        LeaderEffects { high_watermark: self.advance_high_watermark(now, brokers), ..LeaderEffects::default() }
    }

    /// The log now starts at `log_start` (retention, DeleteRecords); never beyond the HW.
    pub fn log_start_moved(&mut self, log_start: Offset) {
        self.log_start = self.log_start.max(log_start.min(self.high_watermark.get()));
    }

    /// Whether a fetch may be served and counted. Call it before reading the log or comparing epochs.
    ///
    /// # Errors
    /// The fetch is answered with [`FetchError::error_code`].
    pub fn check_fetch(&self, fetch: &FollowerFetch, brokers: &impl Brokers) -> Result<(), FetchError> {
        self.check_leader_epoch(fetch.leader_epoch)?;
        if self.progress(fetch.replica).is_none() {
            return Err(FetchError::NotAReplica { with_leader_epoch: fetch.leader_epoch.is_known() });
        }
        if let Some(registered) = brokers.eligible_epoch(fetch.replica)
            && registered > fetch.broker_epoch
        {
            return Err(FetchError::StaleBrokerEpoch { fetched: fetch.broker_epoch, registered });
        }
        Ok(())
    }

    /// Compares the leader epoch that a request carries with this one; a request without one always passes.
    ///
    /// # Errors
    /// The request names another leader epoch.
    #[inline]
    pub fn check_leader_epoch(&self, asked: LeaderEpoch) -> Result<(), FetchError> {
        check_leader_epoch(asked, self.leader_epoch)
    }

    /// The follower that a consumer which wants records from `offset` on is sent to (KIP-392): an ISR member near it
    /// that has the offset, the one that is the furthest. None: the consumer stays here. A follower outside the ISR may
    /// lag for ever, and a consumer that reads there would come back again and again.
    pub fn preferred_read_replica(
        &self,
        now: MonotonicMs,
        offset: Offset,
        is_near: impl Fn(BrokerId) -> bool,
        brokers: &impl Brokers,
    ) -> Option<BrokerId> {
        if is_near(self.config.local) {
            return None;
        }
        let has_offset = |follower: &&ReplicaProgress| {
            let member = self.isr.committed_member(follower.broker);
            member.is_some_and(|member| member.is_incarnation(follower.broker_epoch))
                && (follower.log_start..=follower.log_end).contains(&offset)
        };
        let near = self.followers.iter().filter(has_offset).filter(|follower| is_near(follower.broker));
        let near = near.filter(|follower| is_eligible(follower, brokers));
        let lag = |follower: &ReplicaProgress| follower.last_caught_up.map_or(Duration::MAX, |at| now.since(at));
        let furthest = near.max_by_key(|follower| (follower.log_end, Reverse(lag(follower)), follower.broker));
        furthest.map(|follower| follower.broker)
    }

    /// A follower fetched from `fetch.fetch_offset` and its log up to there is this log: the caller has compared the
    /// epochs ([`EpochHistory::divergence`](crate::EpochHistory::divergence)) and does not call this for a fetch that
    /// diverges or is out of range. On the hot path; allocates only when the follower is about to join the ISR.
    ///
    /// # Errors
    /// As [`Self::check_fetch`]; nothing has changed.
    pub fn follower_fetched(
        &mut self,
        now: MonotonicMs,
        fetch: &FollowerFetch,
        brokers: &impl Brokers,
    ) -> Result<LeaderEffects, FetchError> {
        self.check_fetch(fetch, brokers)?;
        let (log_end, high_watermark) = (self.log_end, self.high_watermark.get());
        let not_a_replica = FetchError::NotAReplica { with_leader_epoch: fetch.leader_epoch.is_known() };
        let progress =
            self.followers.iter_mut().find(|progress| progress.broker == fetch.replica).ok_or(not_a_replica)?;
        if fetch.broker_epoch < progress.broker_epoch || fetch.fetch_offset > log_end {
            // A delayed fetch of a former incarnation, after the new one has fetched; or a fetch that no leader's log
            // contains.
            return Ok(LeaderEffects::default());
        }
        let (former_end, former_epoch) = (progress.log_end, progress.broker_epoch);
        progress.fetched(now, fetch, log_end);
        let progress = *progress;
        let alter = self.expansion_by(now, &progress, high_watermark, brokers);
        let moved = progress.log_end != former_end || progress.broker_epoch != former_epoch;
        let high_watermark = if moved { self.advance_high_watermark(now, brokers) } else { None };
        Ok(LeaderEffects { high_watermark, alter, isr_changed: false })
    }

    /// Proposes `follower` for the ISR if it has all committed records: up to the HW, and up to the start of this
    /// leader epoch, because the HW of a new leader may be below records that were acknowledged before.
    fn expansion_by(
        &mut self,
        now: MonotonicMs,
        follower: &ReplicaProgress,
        high_watermark: Offset,
        brokers: &impl Brokers,
    ) -> Option<IsrProposal> {
        if self.isr.pending().is_some()
            || now < self.proposal_not_before
            || self.isr.committed_member(follower.broker).is_some()
            || follower.log_end < high_watermark
            || follower.log_end < self.epoch_start
            || follower.log_end < follower.must_reach
            || !is_eligible(follower, brokers)
        {
            return None;
        }
        let number = self.next_proposal();
        self.isr.expand(number, IsrMember { broker: follower.broker, epoch: follower.broker_epoch });
        self.proposal()
    }

    /// Time passed: proposes to remove followers that have not caught up for `replica.lag.time.max.ms`, repeats a
    /// proposal whose outcome is unknown, and stops holding the HW for followers that no longer need it.
    pub fn tick(&mut self, now: MonotonicMs, brokers: &impl Brokers) -> LeaderEffects {
        let high_watermark = self.advance_high_watermark(now, brokers);
        let mut effects = LeaderEffects { high_watermark, ..LeaderEffects::default() };
        if now < self.proposal_not_before {
            return effects;
        }
        if self.isr.pending().is_some() {
            let retries = self.isr.pending().is_some_and(|pending| pending.is_uncertain && !pending.awaits_metadata);
            if retries && self.proposal_not_before != MonotonicMs(0) {
                self.proposal_not_before = MonotonicMs(0);
                effects.alter = self.proposal();
            }
            return effects;
        }
        let leaving: Vec<_> = self.lagging(now, brokers).collect();
        if !leaving.is_empty() {
            let number = self.next_proposal();
            self.isr.shrink(number, leaving);
            effects.alter = self.proposal();
            return effects;
        }
        // A follower that was refused for a while does not have to move to be proposed again.
        let high_watermark = self.high_watermark.get();
        for at in 0..self.followers.len() {
            let Some(follower) = self.followers.get(at).copied() else { break };
            if follower.is_caught_up(self.log_end, now, self.config.replica_lag_time_max) {
                effects.alter = self.expansion_by(now, &follower, high_watermark, brokers);
            }
            if effects.alter.is_some() {
                break;
            }
        }
        effects
    }

    /// The time when [`Self::tick`] has something to do after `now` if nothing else happens; none while the partition
    /// is idle and in sync. Also call `tick` after a change in `brokers`.
    pub fn next_deadline(&self, now: MonotonicMs) -> Option<MonotonicMs> {
        if self.isr.pending().is_some() {
            return (self.proposal_not_before != MonotonicMs(0)).then_some(self.proposal_not_before);
        }
        let lag_ends = |follower: &ReplicaProgress| {
            let since = follower.last_caught_up.unwrap_or(MonotonicMs(0));
            since + self.config.replica_lag_time_max + Duration::from_millis(1)
        };
        self.followers
            .iter()
            .filter(|follower| follower.log_end != self.log_end)
            .filter(|follower| self.isr.committed_member(follower.broker).is_some() || lag_ends(follower) > now)
            .map(|follower| lag_ends(follower).max(self.proposal_not_before))
            .min()
    }

    /// Whether [`Self::tick`] has nothing to do until something happens to this partition, or a broker becomes
    /// eligible: the ISR has everything, no change of it is undecided, and no other follower may join it.
    pub fn is_at_rest(&self, brokers: &impl Brokers) -> bool {
        let has_everything = |broker| self.progress(broker).is_some_and(|progress| progress.log_end == self.log_end);
        let is_outside = |follower: &&ReplicaProgress| self.isr.committed_member(follower.broker).is_none();
        let mut members = self.isr.committed().iter().map(|member| member.broker);
        self.isr.pending().is_none()
            && members.all(|broker| broker == self.config.local || has_everything(broker))
            && !self.followers.iter().filter(is_outside).any(|follower| is_eligible(follower, brokers))
    }

    /// The members of the ISR that do not keep up. One whose broker has gone, or shuts down, gets no time: the quorum
    /// takes such a broker out of tens of thousands of ISRs one after the other, and writes wait here.
    fn lagging<'a>(&'a self, now: MonotonicMs, brokers: &'a impl Brokers) -> impl Iterator<Item = BrokerId> + 'a {
        let lag_max = self.config.replica_lag_time_max;
        self.isr.committed().iter().map(|member| member.broker).filter(move |&broker| {
            let keeps_up = |progress: &ReplicaProgress| {
                progress.is_caught_up(self.log_end, now, lag_max)
                    && (progress.log_end == self.log_end || brokers.eligible_epoch(broker).is_some())
            };
            broker != self.config.local && !self.progress(broker).is_some_and(keeps_up)
        })
    }

    fn next_proposal(&mut self) -> u64 {
        self.last_proposal = self.last_proposal.wrapping_add(1);
        self.proposal_not_before = MonotonicMs(0);
        self.last_proposal
    }

    fn proposal(&self) -> Option<IsrProposal> {
        let pending = self.isr.pending()?;
        let mut isr = self.isr.proposed();
        for member in &mut isr {
            if member.broker == self.config.local {
                member.epoch = self.config.local_epoch;
            }
        }
        isr.sort_unstable();
        Some(IsrProposal {
            number: pending.number,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            isr,
        })
    }

    /// The outcome of proposal `number`. Outcomes of proposals that newer metadata has overtaken are ignored.
    pub fn isr_decided(
        &mut self,
        now: MonotonicMs,
        number: u64,
        outcome: &IsrOutcome,
        brokers: &impl Brokers,
    ) -> LeaderEffects {
        if self.isr.pending().is_none_or(|pending| pending.number != number) {
            return LeaderEffects::default();
        }
        let mut isr_changed = false;
        match outcome {
            IsrOutcome::Decided { leader_epoch, partition_epoch, isr } => {
                if *leader_epoch != self.leader_epoch || *partition_epoch < self.partition_epoch {
                    return LeaderEffects::default();
                }
                self.partition_epoch = *partition_epoch;
                self.proposal_not_before = MonotonicMs(0);
                // The change may have completed a reassignment, and the quorum bounds the min ISR by more replicas now.
                // Until the image shows that state, the larger bound holds: the quorum must not take a replica for
                // eligible while the HW moves without it.
                self.established_replicas = self.followers.len() + 1;
                isr_changed = self.isr.commit(isr);
            }
            IsrOutcome::Refused(error) => self.refused(now, *error, brokers),
            IsrOutcome::Unknown => self.retry_later(now),
        }
        LeaderEffects { high_watermark: self.advance_high_watermark(now, brokers), alter: None, isr_changed }
    }

    fn retry_later(&mut self, now: MonotonicMs) {
        self.proposal_not_before = now + ISR_RETRY_BACKOFF;
        if let Some(pending) = self.isr.pending_mut() {
            pending.is_uncertain = true;
        }
    }

    fn refused(&mut self, now: MonotonicMs, error: ErrorCode, brokers: &impl Brokers) {
        match error {
            // The quorum has not applied this attempt and never will.
            ErrorCode::IneligibleReplica | ErrorCode::OperationNotAttempted => {
                if self.may_still_happen(brokers) {
                    self.retry_later(now);
                } else {
                    self.isr.revert();
                    self.proposal_not_before = now + ISR_RETRY_BACKOFF;
                }
            }
            // The quorum has a later state than this leader: the image will show whether it includes the proposal.
            ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::InvalidUpdateVersion
            | ErrorCode::InvalidRequest
            | ErrorCode::NewLeaderElected => {
                self.proposal_not_before = MonotonicMs(0);
                if let Some(pending) = self.isr.pending_mut() {
                    pending.awaits_metadata = true;
                }
            }
            _ => self.retry_later(now),
        }
    }

    /// An earlier attempt at the same proposal, without a response, may reach the quorum after this refusal (a stalled
    /// connection). If the leader treated it as failed, the HW could pass a follower that is in the ISR. The attempt
    /// can no longer succeed once the incarnation that it would add has ended.
    fn may_still_happen(&self, brokers: &impl Brokers) -> bool {
        self.isr.pending().is_some_and(|pending| {
            pending.is_uncertain
                && match &pending.kind {
                    ChangeKind::Expand(member) => brokers.eligible_epoch(member.broker) == Some(member.epoch),
                    // A removed member still counts while this is pending and also after going back.
                    ChangeKind::Shrink(_) => false,
                }
        })
    }

    fn advance_high_watermark(&mut self, now: MonotonicMs, brokers: &impl Brokers) -> Option<Offset> {
        if self.is_under_min_isr() {
            return None;
        }
        let mut lowest = self.log_end;
        for follower in &self.followers {
            let end = match self.isr.maximal_member(follower.broker) {
                Some(member) => {
                    let is_counted = !self.config.rules.hw_over_committed_isr_only
                        || self.isr.committed_member(follower.broker).is_some();
                    if !is_counted {
                        continue;
                    }
                    if member.is_incarnation(follower.broker_epoch) { follower.log_end } else { Offset::UNKNOWN }
                }
                // A follower that is about to join holds the HW: otherwise a log that grows all the time would never
                // let it join.
                None if !self.config.rules.hw_over_committed_isr_only
                    && follower.log_end < lowest
                    && follower.is_caught_up(self.log_end, now, self.config.replica_lag_time_max)
                    && is_eligible(follower, brokers) =>
                {
                    follower.log_end
                }
                None => continue,
            };
            lowest = lowest.min(end);
        }
        self.high_watermark.advance(lowest, self.log_end)
    }

    /// Whether a produce may be appended.
    ///
    /// # Errors
    /// `NOT_ENOUGH_REPLICAS`: acks=all is required and the committed ISR is below `min.insync.replicas`.
    #[inline]
    pub fn check_append(&self, acks_all: bool) -> Result<(), ErrorCode> {
        if acks_all && self.is_under_min_isr() { Err(ErrorCode::NotEnoughReplicas) } else { Ok(()) }
    }

    /// `min.insync.replicas`, but at most the number of replicas: a topic with one replica can be written to, also
    /// while it gets more.
    #[inline]
    pub fn effective_min_isr(&self) -> usize {
        self.config.min_insync_replicas.min(self.established_replicas)
    }

    #[inline]
    pub fn is_under_min_isr(&self) -> bool {
        self.isr.committed().len() < self.effective_min_isr()
    }

    /// Whether the HW has reached the start of this leader epoch. Before that a "latest" offset would go back behind
    /// one that was answered by the former leader (`OFFSET_NOT_AVAILABLE`).
    pub fn are_offsets_available(&self) -> bool {
        self.high_watermark.get() >= self.epoch_start
    }

    #[inline]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark.get()
    }

    /// The lowest log start offset of this replica and the other live ones: no live replica has records below it.
    /// [`Offset::UNKNOWN`] while a live one has not fetched in this leader epoch (Kafka's `lowWatermarkIfLeader`).
    pub fn low_watermark(&self, brokers: &impl Brokers) -> Offset {
        let alive = self.followers.iter().filter(|follower| brokers.eligible_epoch(follower.broker).is_some());
        alive.map(|follower| follower.log_start).fold(self.log_start, Offset::min)
    }

    #[inline]
    pub fn log_end(&self) -> Offset {
        self.log_end
    }

    #[inline]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    pub fn partition_epoch(&self) -> PartitionEpoch {
        self.partition_epoch
    }

    /// The log end when this leader was elected.
    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    pub fn isr(&self) -> &Isr {
        &self.isr
    }

    /// Whether the HW waits for this follower, which is not in the ISR yet: it must not be held back.
    pub fn is_about_to_join(&self, broker: BrokerId, now: MonotonicMs) -> bool {
        self.progress(broker)
            .is_some_and(|follower| follower.is_caught_up(self.log_end, now, self.config.replica_lag_time_max))
    }

    #[inline]
    pub fn progress(&self, broker: BrokerId) -> Option<&ReplicaProgress> {
        self.followers.iter().find(|progress| progress.broker == broker)
    }

    pub fn followers(&self) -> &[ReplicaProgress] {
        &self.followers
    }
}

/// Whether the incarnation that fetches is the one that is registered.
fn is_eligible(follower: &ReplicaProgress, brokers: &impl Brokers) -> bool {
    follower.broker_epoch.is_known() && brokers.eligible_epoch(follower.broker) == Some(follower.broker_epoch)
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
