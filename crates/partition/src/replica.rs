//! The state of one replica; its role follows the tree.
//!
//! Invariants:
//! - the role follows the tree: leader and follower exist only for the leader epoch that the tree named last, and only
//!   with an open log; everything that waited in an earlier leader epoch has ended;
//! - a state is applied only if its partition epoch is not older than the last one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::PartitionState;
use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, MonotonicMs, Offset, TimestampMs};
use ottla_replication::{
    Brokers, Follower, FollowerAction, Following, IsrMember, Leader, LeaderConfig, LeaderEffects, LocalLog,
    PartitionView,
};
use ottla_storage::{CheckpointKind, DiskFault, Env, Log, LogConfig};

use crate::ack_waiters::{Ack, AckWaiters};
use crate::effects::Effects;
use crate::rules::BrokenRules;

/// Whether there is a log to work with.
pub enum LogState<E: Env> {
    /// It is being opened or created.
    Opening,
    Open(Box<Log<E>>),
    /// Its disk had no room to create it, or to give the one that was found its topic's id: to be tried again.
    Waiting(Option<Box<Log<E>>>),
    /// Its directory failed, or it cannot be read.
    Offline,
}

pub(crate) enum Role {
    Idle,
    Leader(Box<Leader>),
    Follower(Box<Follower>),
}

/// Facts about the broker that a replica needs when it assumes a role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaConfig {
    pub local: BrokerId,
    pub local_epoch: BrokerEpoch,
    /// `replica.lag.time.max.ms`
    pub replica_lag_time_max: Duration,
    /// The topic's `min.insync.replicas`.
    pub min_insync_replicas: usize,
    pub rules: BrokenRules,
}

/// One replica of a partition: see the [crate]. `A` is an answer that waits here.
pub struct Replica<E: Env, A> {
    pub(crate) log: LogState<E>,
    pub(crate) role: Role,
    /// The newest state that the tree had.
    assigned: Option<Arc<PartitionState>>,
    /// The last known high watermark while there is no role.
    pub(crate) idle_high_watermark: Offset,
    /// Produces with acks=all.
    pub(crate) produces: AckWaiters<A>,
    /// DeleteRecords.
    pub(crate) deletions: AckWaiters<A>,
    pub(crate) rules: BrokenRules,
}

/// The facts about a log that the replication core needs.
pub(crate) fn local_log<E: Env>(log: &Log<E>) -> LocalLog {
    LocalLog {
        start: log.log_start_offset(),
        end: log.log_end_offset(),
        latest_epoch: log.epoch_history().latest_epoch(),
    }
}

/// The offset up to which everything is replicated and decided.
pub(crate) fn last_stable<E: Env>(log: &Log<E>, high_watermark: Offset, rules: BrokenRules) -> Offset {
    if rules.open_transactions_are_stable { high_watermark } else { log.last_stable_offset(high_watermark) }
}

/// The meaning of an error for the log directory. An offline log is offline because of an earlier error.
pub(crate) fn disk_fault<E: Env>(log: &Log<E>, cause: Option<&io::Error>) -> DiskFault {
    DiskFault::of(cause.filter(|_| !log.is_offline()))
}

impl<E: Env, A: Ack> Replica<E, A> {
    /// A replica whose log is being opened; `high_watermark` comes from the checkpoint.
    pub fn new(high_watermark: Offset) -> Self {
        Self {
            log: LogState::Opening,
            role: Role::Idle,
            assigned: None,
            idle_high_watermark: high_watermark,
            produces: AckWaiters::default(),
            deletions: AckWaiters::default(),
            rules: BrokenRules::default(),
        }
    }

    // ---- queries

    pub fn log(&self) -> Option<&Log<E>> {
        if let LogState::Open(log) = &self.log { Some(log) } else { None }
    }

    pub fn log_mut(&mut self) -> Option<&mut Log<E>> {
        if let LogState::Open(log) = &mut self.log { Some(log) } else { None }
    }

    /// Whether its log failed or could not be opened.
    pub fn is_offline(&self) -> bool {
        matches!(self.log, LogState::Offline | LogState::Waiting(_))
    }

    pub fn leader(&self) -> Option<&Leader> {
        if let Role::Leader(leader) = &self.role { Some(leader) } else { None }
    }

    pub fn follower(&self) -> Option<&Follower> {
        if let Role::Follower(follower) = &self.role { Some(follower) } else { None }
    }

    /// See [`Follower::is_awaited`].
    pub fn is_awaited(&mut self, now: MonotonicMs, lag_max: Duration) -> bool {
        match &mut self.role {
            Role::Follower(follower) => follower.is_awaited(now, lag_max),
            _ => false,
        }
    }

    /// The leader that this replica follows, and the next step; none if it does not follow.
    pub fn following(&self) -> Option<Following> {
        self.follower().map(Follower::following)
    }

    /// The newest state that the tree had.
    pub fn assigned(&self) -> Option<&Arc<PartitionState>> {
        self.assigned.as_ref()
    }

    /// The leader epoch in which it leads, or none.
    pub fn leading_epoch(&self) -> LeaderEpoch {
        self.leader().map_or(LeaderEpoch::NONE, Leader::leader_epoch)
    }

    pub fn high_watermark(&self) -> Offset {
        match &self.role {
            Role::Leader(leader) => leader.high_watermark(),
            Role::Follower(follower) => follower.high_watermark(),
            Role::Idle => self.idle_high_watermark,
        }
    }

    /// Up to here a reader of committed records may read, and the cleaner may clean. None without an open log.
    pub fn last_stable_offset(&self) -> Option<Offset> {
        self.log().map(|log| last_stable(log, self.high_watermark(), self.rules))
    }

    /// The meaning of an error of this replica's disk.
    pub fn disk_fault(&self, cause: Option<&io::Error>) -> DiskFault {
        match &self.log {
            LogState::Open(log) => disk_fault(log, cause),
            LogState::Opening | LogState::Waiting(_) | LogState::Offline => DiskFault::of(cause),
        }
    }

    // ---- its log

    /// The log cannot be opened or written: every request is answered with KAFKA_STORAGE_ERROR from now on.
    pub fn log_failed(&mut self) -> Effects<A> {
        if let LogState::Open(log) | LogState::Waiting(Some(log)) = &mut self.log {
            log.abandon();
        }
        self.log = LogState::Offline;
        self.leave_role(ErrorCode::KafkaStorageError)
    }

    /// Its directory failed: as [`Self::log_failed`], if the log is open.
    pub fn directory_failed(&mut self) -> Option<Effects<A>> {
        self.log().is_some().then(|| self.log_failed())
    }

    /// The replica's offset for a checkpoint file; none if its log cannot be read now.
    pub fn checkpointed(&self, kind: CheckpointKind) -> Option<Offset> {
        match kind {
            CheckpointKind::HighWatermark => Some(self.high_watermark()),
            CheckpointKind::RecoveryPoint => self.log().map(Log::recovery_point),
            CheckpointKind::LogStart => self.log().map(Log::log_start_offset),
            // The cleaner's own.
            CheckpointKind::Cleaner => None,
        }
    }

    /// The replica ends; returns the log for its next use.
    pub fn close(&mut self, outcome: ErrorCode) -> (Option<Box<Log<E>>>, Effects<A>) {
        let effects = self.leave_role(outcome);
        match std::mem::replace(&mut self.log, LogState::Offline) {
            LogState::Open(log) => (Some(log), effects),
            LogState::Waiting(found) => (found, effects),
            LogState::Opening | LogState::Offline => (None, effects),
        }
    }

    /// The topic's configuration changed.
    pub fn set_config(
        &mut self,
        now: MonotonicMs,
        log_config: &Arc<LogConfig>,
        min_insync_replicas: usize,
        brokers: &impl Brokers,
    ) -> Effects<A> {
        if let LogState::Open(log) | LogState::Waiting(Some(log)) = &mut self.log {
            log.set_config(log_config.clone());
        }
        match &mut self.role {
            Role::Leader(leader) => {
                let led = leader.set_min_insync_replicas(now, min_insync_replicas, brokers);
                self.led(now, led, brokers)
            }
            Role::Follower(_) | Role::Idle => Effects::default(),
        }
    }

    // ---- its role

    /// The tree has a state for this partition: the role follows. A state that is older than the last one is ignored:
    /// it may have waited for a stalled disk.
    pub fn assume(
        &mut self,
        state: &Arc<PartitionState>,
        now: MonotonicMs,
        wall: TimestampMs,
        config: &ReplicaConfig,
        brokers: &impl Brokers,
    ) -> Effects<A> {
        if self.assigned.as_ref().is_some_and(|known| known.partition_epoch > state.partition_epoch) {
            return Effects::default();
        }
        self.assigned = Some(state.clone());
        self.take_role(state, now, wall, config, brokers)
    }

    pub(crate) fn take_role(
        &mut self,
        state: &PartitionState,
        now: MonotonicMs,
        wall: TimestampMs,
        config: &ReplicaConfig,
        brokers: &impl Brokers,
    ) -> Effects<A> {
        self.rules = config.rules;
        if !matches!(self.log, LogState::Open(_)) {
            return Effects::default();
        }
        if state.leader == config.local {
            self.lead(state, now, config, brokers)
        } else {
            self.follow_or_idle(state, wall, config)
        }
    }

    fn lead(
        &mut self,
        state: &PartitionState,
        now: MonotonicMs,
        config: &ReplicaConfig,
        brokers: &impl Brokers,
    ) -> Effects<A> {
        let isr = isr_of(state);
        let view = PartitionView {
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            replicas: &state.replicas,
            established_replicas: state.established_replicas(),
            isr: &isr,
        };
        if let Role::Leader(leader) = &mut self.role
            && leader.leader_epoch() == state.leader_epoch
        {
            let led = leader.state_changed(now, view, brokers);
            let mut effects = self.led(now, led, brokers);
            self.complete_deletions(brokers, &mut effects);
            return effects;
        }
        let high_watermark = self.high_watermark();
        // No other replica led in between: its records are still here, and what waits for them may wait on. A
        // reassignment that completes begins such an epoch.
        let leads_on = self.leader().is_some_and(|leader| leader.leader_epoch().next() == state.leader_epoch);
        let mut effects = match leads_on {
            true => Effects { changed: true, role_changed: true, ..Effects::default() },
            false => self.leave_role(ErrorCode::NotLeaderOrFollower),
        };
        let LogState::Open(log) = &mut self.log else { return effects };
        log.begin_leader_epoch(state.leader_epoch);
        let leader_config = LeaderConfig {
            local: config.local,
            local_epoch: config.local_epoch,
            replica_lag_time_max: config.replica_lag_time_max,
            min_insync_replicas: config.min_insync_replicas,
            rules: config.rules.replication,
        };
        let (start, end) = (log.log_start_offset(), log.log_end_offset());
        let (leader, led) = Leader::new(now, leader_config, view, start, end, high_watermark, brokers);
        if leader.is_under_min_isr() {
            let produces = self.produces.take_all();
            effects.fail(produces, ErrorCode::NotEnoughReplicasAfterAppend);
        }
        self.role = Role::Leader(Box::new(leader));
        effects.role_changed = true;
        self.absorb(now, led, brokers, &mut effects);
        effects
    }

    fn follow_or_idle(&mut self, state: &PartitionState, wall: TimestampMs, config: &ReplicaConfig) -> Effects<A> {
        if let Role::Follower(follower) = &self.role
            && follower.leader_epoch() == state.leader_epoch
            && follower.leader() == state.leader
        {
            return Effects::default();
        }
        let high_watermark = self.high_watermark();
        let mut effects = self.leave_role(ErrorCode::NotLeaderOrFollower);
        let LogState::Open(log) = &mut self.log else { return effects };
        if !state.has_leader() || !state.is_replica(config.local) {
            return effects;
        }
        let known = local_log(log);
        let rules = config.rules.replication;
        let (mut follower, first) = Follower::new(state.leader, state.leader_epoch, known, high_watermark, rules);
        // With unbroken rules there is never an action before the first fetch.
        if let Some(FollowerAction::Truncate(truncation)) = first {
            match crate::following::cut(log, &mut follower, truncation, wall) {
                Ok(truncated) => effects.truncated = Some(truncated),
                Err(error) => effects.disk_error = Some(io::Error::other(error.to_string())),
            }
        }
        self.role = Role::Follower(Box::new(follower));
        effects
    }

    /// Ends the role, and everything that waits for it.
    pub(crate) fn leave_role(&mut self, outcome: ErrorCode) -> Effects<A> {
        let mut effects = Effects { changed: true, role_changed: true, ..Effects::default() };
        self.idle_high_watermark = self.high_watermark();
        self.role = Role::Idle;
        if !self.rules.acks_outlive_leadership {
            let produces = self.produces.take_all();
            effects.fail(produces, outcome);
        }
        let deletions = self.deletions.take_all();
        effects.fail(deletions, outcome);
        effects
    }

    // ---- effects of the leader's steps

    pub(crate) fn led(&mut self, now: MonotonicMs, led: LeaderEffects, brokers: &impl Brokers) -> Effects<A> {
        let mut effects = Effects::default();
        self.absorb(now, led, brokers, &mut effects);
        effects
    }

    /// Adds the effects of a step of the leader.
    pub(crate) fn absorb(
        &mut self,
        now: MonotonicMs,
        led: LeaderEffects,
        brokers: &impl Brokers,
        effects: &mut Effects<A>,
    ) {
        if let Some(high_watermark) = led.high_watermark {
            self.leaders_high_watermark_moved(high_watermark, effects);
        }
        effects.proposal = led.alter.or(effects.proposal.take());
        if !led.isr_changed {
            return;
        }
        effects.isr_changed = true;
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.is_under_min_isr() {
            let produces = self.produces.take_all();
            effects.fail(produces, ErrorCode::NotEnoughReplicasAfterAppend);
        }
        // Another follower may have caught up while this change was in flight. It has nothing more to fetch, so no
        // fetch of it would trigger the next proposal.
        let next = leader.tick(now, brokers);
        effects.proposal = effects.proposal.take().or(next.alter);
        if let Some(high_watermark) = next.high_watermark {
            self.leaders_high_watermark_moved(high_watermark, effects);
        }
    }

    fn leaders_high_watermark_moved(&mut self, high_watermark: Offset, effects: &mut Effects<A>) {
        if let LogState::Open(log) = &mut self.log {
            log.high_watermark_moved(high_watermark);
        }
        effects.high_watermark = Some(high_watermark);
        effects.acknowledge(self.produces.complete_up_to(high_watermark));
    }

    /// A log start, or the set of live brokers, may have changed.
    pub(crate) fn complete_deletions(&mut self, brokers: &impl Brokers, effects: &mut Effects<A>) {
        if self.deletions.is_empty() {
            return;
        }
        if let Role::Leader(leader) = &self.role {
            effects.acknowledge(self.deletions.complete_up_to(leader.low_watermark(brokers)));
        }
    }
}

/// The image's ISR in the form of the replication core.
fn isr_of(state: &PartitionState) -> Vec<IsrMember> {
    state.isr.iter().map(|member| IsrMember { broker: member.broker, epoch: member.epoch }).collect()
}
