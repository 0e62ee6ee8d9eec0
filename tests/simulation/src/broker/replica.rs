//! One partition's replica on a broker: its log, what the log holds, and its role.

use std::sync::Arc;

use ottla_metadata::PartitionState;
use ottla_model::{
    Deferred, LeaderEpoch, MonotonicMs, Offset, PartitionEpoch, TimestampMs, TopicIdPartition, TopicPartition,
};
use ottla_replication::{
    Brokers, Follower, FollowerAction, IsrMember, Leader, LeaderConfig, LeaderEffects, LocalLog, PartitionView, Rules,
    Truncation,
};
use ottla_storage::env::{Faults, FaultyEnv};
use ottla_storage::{Log, LogConfig, OpenError, OpenOptions};

use super::data;
use crate::content::Content;
use crate::facts::Fact;
use crate::message::CallId;
use crate::network::NodeId;
use crate::outbox::Outbox;

/// A produce with acks=all that waits for the high watermark.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    pub to: NodeId,
    pub call: CallId,
    pub first: Offset,
    pub next: Offset,
    pub deadline: MonotonicMs,
}

pub struct Leading {
    pub leader: Leader,
    pub waiters: Deferred<Offset, Waiter>,
}

pub enum Role {
    Idle,
    Leader(Box<Leading>),
    Follower(Box<Follower>),
}

pub struct Replica {
    pub id: TopicIdPartition,
    pub name: TopicPartition,
    pub log: Log<FaultyEnv>,
    pub content: Content,
    pub role: Role,
    /// The last leader epoch that was taken up.
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// While there is no role; a role knows better.
    idle_high_watermark: Offset,
}

/// The disk failed: the process goes.
#[derive(Debug, thiserror::Error)]
#[error("the disk failed: {0}")]
pub struct DiskFailed(pub String);

/// Why a log was not opened.
pub enum NotOpened {
    Disk(DiskFailed),
    /// What it holds cannot be trusted.
    Damaged(String),
}

impl Replica {
    fn new(id: TopicIdPartition, name: TopicPartition, log: Log<FaultyEnv>, high_watermark: Offset) -> Self {
        Self {
            id,
            name,
            log,
            content: Content::default(),
            role: Role::Idle,
            leader_epoch: LeaderEpoch::NONE,
            partition_epoch: PartitionEpoch(-1),
            idle_high_watermark: high_watermark,
        }
    }

    pub fn create(
        env: FaultyEnv,
        id: TopicIdPartition,
        name: TopicPartition,
        config: Arc<LogConfig>,
        wall: TimestampMs,
    ) -> Result<Self, DiskFailed> {
        let directory = data().join(name.to_string());
        let log = Log::create(env, directory, name.clone(), id.topic_id, config, wall)
            .map_err(|error| DiskFailed(error.to_string()))?;
        Ok(Self::new(id, name, log, Offset::ZERO))
    }

    /// None for an empty log that nothing is known of.
    pub fn open(
        env: &FaultyEnv,
        faults: Faults,
        name: TopicPartition,
        config: Arc<LogConfig>,
        options: OpenOptions<'_>,
    ) -> Result<Option<Self>, NotOpened> {
        let directory = data().join(name.to_string());
        let opened = Log::open(env.clone(), directory, name.clone(), config, options).map_err(|error| match error {
            OpenError::Io { .. } => NotOpened::Disk(DiskFailed(error.to_string())),
            error => NotOpened::Damaged(error.to_string()),
        })?;
        let log = opened.log;
        let Some(topic_id) = log.topic_id() else {
            // Its host lost its power before the new log's names were durable.
            let is_empty = log.log_end_offset() == log.log_start_offset();
            return if is_empty { Ok(None) } else { Err(NotOpened::Damaged("no topic id".to_owned())) };
        };
        let id = TopicIdPartition { topic_id, partition: name.partition };
        let mut replica = Self::new(id, name, log, opened.high_watermark);
        replica.content.restart(replica.log.log_start_offset());
        replica.look(env, faults).map_err(NotOpened::Damaged)?;
        Ok(Some(replica))
    }

    /// Reads for the invariants, which no fault of the disk concerns.
    fn look(&mut self, env: &FaultyEnv, faults: Faults) -> Result<(), String> {
        env.set_faults(Faults::NONE);
        let result = self.read_content();
        env.set_faults(faults);
        result
    }

    /// Reads what the log holds beyond the known content.
    fn read_content(&mut self) -> Result<(), String> {
        let end = self.log.log_end_offset();
        while self.content.end() < end {
            let before = self.content.end();
            let from = before.max(self.log.log_start_offset());
            let slice = self.log.read(from, usize::MAX, end, true).map_err(|error| error.to_string())?;
            let bytes = slice.read().map_err(|error| error.to_string())?;
            self.content.extend(&bytes)?;
            if self.content.end() == before {
                return Err(format!("the log ends at {end}, but nothing can be read at {before}"));
            }
        }
        Ok(())
    }

    pub fn local_log(&self) -> LocalLog {
        LocalLog {
            start: self.log.log_start_offset(),
            end: self.log.log_end_offset(),
            latest_epoch: self.log.epoch_history().latest_epoch(),
        }
    }

    pub fn high_watermark(&self) -> Offset {
        match &self.role {
            Role::Idle => self.idle_high_watermark,
            Role::Leader(leading) => leading.leader.high_watermark(),
            Role::Follower(follower) => follower.high_watermark(),
        }
    }

    pub fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leading) => Some(&leading.leader),
            _ => None,
        }
    }

    pub fn follower(&self) -> Option<&Follower> {
        match &self.role {
            Role::Follower(follower) => Some(follower),
            _ => None,
        }
    }

    fn publish(&self, offset: Offset, out: &mut Outbox) {
        out.facts.push(Fact::HighWatermark { partition: self.id, leader_epoch: self.leader_epoch, offset });
    }

    /// Ends the role; whoever waited is returned, to be told.
    fn leave_role(&mut self) -> Vec<Waiter> {
        self.idle_high_watermark = self.high_watermark();
        match std::mem::replace(&mut self.role, Role::Idle) {
            Role::Leader(mut leading) => leading.waiters.fail_all(),
            _ => Vec::new(),
        }
    }

    /// Leads, or goes on leading, as the image says.
    pub fn lead(
        &mut self,
        now: MonotonicMs,
        config: LeaderConfig,
        state: &PartitionState,
        brokers: &impl Brokers,
        out: &mut Outbox,
    ) -> (Vec<Waiter>, LeaderEffects) {
        let isr: Vec<IsrMember> =
            state.isr.iter().map(|member| IsrMember { broker: member.broker, epoch: member.epoch }).collect();
        let view = PartitionView {
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            replicas: &state.replicas,
            isr: &isr,
        };
        self.partition_epoch = state.partition_epoch;
        if let Role::Leader(leading) = &mut self.role
            && leading.leader.leader_epoch() == state.leader_epoch
        {
            return (Vec::new(), leading.leader.state_changed(now, view, brokers));
        }
        let failed = self.leave_role();
        self.leader_epoch = state.leader_epoch;
        self.log.begin_leader_epoch(state.leader_epoch);
        let (start, end) = (self.log.log_start_offset(), self.log.log_end_offset());
        let (leader, effects) = Leader::new(now, config, view, start, end, self.idle_high_watermark, brokers);
        out.note(format_args!(
            "leads {} in epoch {} from {end}, HW {}, min ISR {}, ISR {isr:?}",
            self.name,
            state.leader_epoch,
            leader.high_watermark(),
            leader.effective_min_isr()
        ));
        out.facts.push(Fact::Leads { partition: self.id, leader_epoch: state.leader_epoch });
        self.role = Role::Leader(Box::new(Leading { leader, waiters: Deferred::default() }));
        (failed, effects)
    }

    /// Follows, or goes on following, as the image says.
    pub fn follow(
        &mut self,
        state: &PartitionState,
        rules: Rules,
        wall: TimestampMs,
        out: &mut Outbox,
    ) -> Result<Vec<Waiter>, DiskFailed> {
        self.partition_epoch = state.partition_epoch;
        if let Role::Follower(follower) = &self.role
            && follower.leader_epoch() == state.leader_epoch
        {
            return Ok(Vec::new());
        }
        let failed = self.leave_role();
        self.leader_epoch = state.leader_epoch;
        let (follower, first) =
            Follower::new(state.leader, state.leader_epoch, self.local_log(), self.idle_high_watermark, rules);
        out.note(format_args!(
            "follows {} on b{} in epoch {} from {}, HW {}",
            self.name,
            state.leader,
            state.leader_epoch,
            follower.log_end(),
            follower.high_watermark()
        ));
        self.role = Role::Follower(Box::new(follower));
        if let Some(FollowerAction::Truncate(truncation)) = first {
            self.truncate(truncation, wall, out)?;
        }
        Ok(failed)
    }

    /// Neither leads nor follows: there is no leader.
    pub fn idle(&mut self, state: &PartitionState) -> Vec<Waiter> {
        self.partition_epoch = state.partition_epoch;
        self.leader_epoch = self.leader_epoch.max(state.leader_epoch);
        self.leave_role()
    }

    pub fn truncate(&mut self, truncation: Truncation, wall: TimestampMs, out: &mut Outbox) -> Result<(), DiskFailed> {
        let before = self.log.log_end_offset();
        // Also where the disk fails in the middle of it: these records are not counted on any more.
        match truncation {
            Truncation::To(offset) => {
                self.content.truncate(offset.max(self.content.start()));
                self.log.truncate_to(offset, wall).map_err(|error| DiskFailed(error.to_string()))?;
            }
            Truncation::FullyAndStartAt(offset) => {
                self.log.truncate_fully_and_start_at(offset, None).map_err(|error| DiskFailed(error.to_string()))?;
                self.content.restart(offset);
            }
        }
        let end = self.log.log_end_offset();
        if self.content.start() > end {
            self.content.restart(end);
        }
        self.content.truncate(end);
        out.note(format_args!("truncates {} from {before} to {end} ({truncation:?})", self.name));
        let local = self.local_log();
        let (mut hw, before_hw) = (self.high_watermark(), self.high_watermark());
        if let Role::Follower(follower) = &mut self.role {
            follower.truncated(local);
            hw = follower.high_watermark();
        }
        if hw != before_hw {
            self.publish(hw, out);
        }
        Ok(())
    }

    /// The content changed from `from` on.
    pub fn appended(&mut self, from: Offset, env: &FaultyEnv, faults: Faults, out: &mut Outbox) {
        match self.look(env, faults) {
            Ok(()) => out.facts.push(Fact::Appended { partition: self.id, from }),
            Err(what) => out.facts.push(Fact::Broken { what: format!("{}: {what}", self.name) }),
        }
    }

    /// Publishes what a step of the leader led to, and gives back who may be answered.
    pub fn leader_moved(&mut self, effects: &LeaderEffects, out: &mut Outbox) -> Vec<Waiter> {
        let Some(high_watermark) = effects.high_watermark else { return Vec::new() };
        self.publish(high_watermark, out);
        match &mut self.role {
            Role::Leader(leading) => leading.waiters.complete_up_to(high_watermark),
            _ => Vec::new(),
        }
    }

    pub fn follower_moved(&mut self, high_watermark: Offset, out: &mut Outbox) {
        self.publish(high_watermark, out);
    }

    /// Moves the log's start up to a part of the way to the high watermark.
    pub fn delete_records(&mut self, percent: u64, out: &mut Outbox) {
        let Role::Leader(leading) = &mut self.role else { return };
        let start = self.log.log_start_offset();
        let span = leading.leader.high_watermark().distance_from(start) * percent / 100;
        let to = start + i64::try_from(span).unwrap_or(0);
        if self.log.advance_log_start(to) {
            leading.leader.log_start_moved(to);
            out.note(format_args!("{} starts at {to} from now on", self.name));
        }
    }
}
