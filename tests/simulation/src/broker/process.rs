//! The process of a broker: its state, its turns, and how the image becomes roles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_metadata::controller::{AlterPartition, AlterPartitions};
use ottla_metadata::{Answer, Delta, Image, IsrMember, PartitionState, Request};
use ottla_model::{
    BrokerEpoch, BrokerId, ErrorCode, IncarnationId, MonotonicMs, Offset, TimestampMs, TopicIdPartition, TopicName,
    TopicPartition,
};
use ottla_replication::{IsrOutcome, IsrProposal, LeaderConfig, LeaderEffects};
use ottla_storage::env::{Env, Faults, FaultyEnv};

use super::fetching::{Fetchers, Received};
use super::replica::{DiskFailed, Replica, Role, Waiter};
use super::serving::ParkedFetch;
use super::session::Session;
use super::sessions::FetchSessions;
use super::{BrokerSettings, path};
use crate::facts::Fact;
use crate::message::{CallId, Message, ProduceAnswer};
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;

/// How often high watermarks and log starts are written down. Kafka: 5 s.
pub(super) const CHECKPOINT_MS: u64 = 2_000;

/// An answer of the quorum that does not come within this time is not waited for.
pub(super) const CALL_TIMEOUT_MS: u64 = 1_000;

/// What a request to the quorum was about.
pub(super) enum Call {
    Register,
    Shutdown,
    Alter { partition: TopicIdPartition, proposal: IsrProposal },
}

pub(super) struct Process {
    pub id: BrokerId,
    pub incarnation: IncarnationId,
    pub boot: u64,
    pub settings: Arc<BrokerSettings>,
    pub env: FaultyEnv,
    pub faults: Faults,
    pub random: Random,
    pub image: Image,
    /// The image has shown this process's registration, and roles follow it.
    pub is_active: bool,
    pub session: Session,
    pub replicas: BTreeMap<TopicIdPartition, Replica>,
    /// Logs that cannot be opened. They give way to a copy of the leader's, but never to an empty log that leads.
    pub damaged: BTreeSet<TopicPartition>,
    pub fetchers: Fetchers,
    pub fetch_sessions: FetchSessions,
    pub parked: Vec<ParkedFetch>,
    /// Partitions with news for parked fetches.
    pub news: BTreeSet<TopicIdPartition>,
    pub calls: BTreeMap<CallId, (MonotonicMs, Call)>,
    next_call: u64,
    checkpoint_at: MonotonicMs,
}

impl Process {
    pub fn new(
        id: BrokerId,
        incarnation: IncarnationId,
        boot: u64,
        clean_epoch: BrokerEpoch,
        settings: Arc<BrokerSettings>,
        env: FaultyEnv,
        mut random: Random,
    ) -> Self {
        // Answers to a former life's calls are nobody's.
        let next_call = random.next_u64() >> 1;
        let session = Session::new(&settings.coordinators, clean_epoch, &mut random);
        Self {
            id,
            incarnation,
            boot,
            settings,
            env,
            faults: Faults::NONE,
            random,
            image: Image::empty(),
            is_active: false,
            session,
            replicas: BTreeMap::new(),
            damaged: BTreeSet::new(),
            fetchers: Fetchers::default(),
            fetch_sessions: FetchSessions::default(),
            parked: Vec::new(),
            news: BTreeSet::new(),
            calls: BTreeMap::new(),
            next_call,
            checkpoint_at: MonotonicMs(0),
        }
    }

    pub fn call_id(&mut self) -> CallId {
        self.next_call += 1;
        CallId(self.next_call)
    }

    /// The epoch of the registration, once the image shows it.
    pub fn active_epoch(&self) -> Option<BrokerEpoch> {
        let epoch = self.session.epoch()?;
        (self.image.broker_epoch(self.id) == Some(epoch)).then_some(epoch)
    }

    pub fn tick(&mut self, now: MonotonicMs, wall: TimestampMs, out: &mut Outbox) {
        self.tick_session(now, out);
        // The image may have shown the registration before its answer came.
        if !self.is_active && self.active_epoch().is_some() {
            self.image_moved(now, wall, &Delta::default(), out);
        }
        self.tick_calls(now, out);
        self.tick_replicas(now, out);
        self.tick_shutdown(now, wall, out);
        if now >= self.checkpoint_at {
            self.checkpoint_at = MonotonicMs(now.0 + CHECKPOINT_MS);
            self.write_checkpoints(now, out);
        }
        self.end_turn(now, wall, out);
    }

    pub fn receive(&mut self, now: MonotonicMs, wall: TimestampMs, from: NodeId, message: Message, out: &mut Outbox) {
        match message {
            Message::ClusterAnswer { call, answer, leader } => self.answered(now, call, answer, leader, out),
            Message::BeatAnswer { connection, answer, leader } => {
                self.beat_answered(now, from, connection, answer, leader, out);
            }
            Message::WatchEvent { stream, event } => self.watched(now, wall, stream, event, out),
            Message::Produce { call, produce } => self.produce(now, wall, from, call, &produce, out),
            Message::Fetch { call, fetch } => self.fetch(now, from, call, fetch, out),
            Message::Bounds { call, question } => {
                let offset = self.bound(&question);
                out.send(from, Message::BoundsAnswer { call, offset });
            }
            Message::FetchAnswer { call, error, session_id, partitions } => {
                let received = Received::Fetch { error, session_id, partitions };
                self.source_answered(now, wall, from, call, received, out);
            }
            Message::BoundsAnswer { call, offset } => {
                self.source_answered(now, wall, from, call, Received::Bounds(offset), out);
            }
            Message::ConnectionLost => self.connection_lost(now, from),
            _ => {}
        }
        self.end_turn(now, wall, out);
    }

    fn end_turn(&mut self, now: MonotonicMs, wall: TimestampMs, out: &mut Outbox) {
        self.serve_parked(now, out);
        self.run_fetchers(now, wall, out);
    }

    pub fn die(&mut self, error: &DiskFailed, out: &mut Outbox) {
        out.note(format_args!("goes: {error}"));
        out.dies = true;
    }

    // ---- from the image to roles

    /// The image moved by `delta`.
    pub fn image_moved(&mut self, now: MonotonicMs, wall: TimestampMs, delta: &Delta, out: &mut Outbox) {
        for topic in &delta.topics_deleted {
            for (partition, _) in topic.partitions() {
                self.remove_replica(TopicIdPartition { topic_id: topic.id, partition }, out);
            }
        }
        for change in &delta.brokers {
            let is_other =
                change.new.as_ref().is_some_and(|new| change.old.as_ref().is_none_or(|old| old.epoch != new.epoch));
            if is_other {
                self.fetchers.reconnect(now, change.id);
            }
        }
        let was_active = self.is_active;
        self.is_active = self.active_epoch().is_some();
        if !self.is_active {
            // An image from before the registration speaks of a former life of this broker. What leads goes on until the
            // image says something else of it: it may be cut off, and must not know better than a zombie does.
            for change in &delta.partitions {
                let id = TopicIdPartition { topic_id: change.topic_id, partition: change.partition };
                if let Some(state) = change.new.as_ref().filter(|state| state.leader != self.id) {
                    self.step_down(id, state, out);
                }
            }
            return;
        }
        if was_active {
            for change in &delta.partitions {
                if let Some(state) = &change.new {
                    let id = TopicIdPartition { topic_id: change.topic_id, partition: change.partition };
                    self.assume(now, wall, id, &change.topic, &state.clone(), out);
                }
            }
        } else {
            self.remove_strays(out);
            let hosted: Vec<_> = self.image.hosted_by(self.id).collect();
            for id in hosted {
                let Some(topic) = self.image.topic_by_id(id.topic_id).cloned() else { continue };
                if let Some(state) = topic.partition(id.partition) {
                    self.assume(now, wall, id, &topic.name, &state.clone(), out);
                }
            }
        }
        if !delta.brokers.is_empty() {
            self.tick_replicas(now, out);
        }
    }

    fn step_down(&mut self, id: TopicIdPartition, state: &PartitionState, out: &mut Outbox) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        if matches!(replica.role, Role::Leader(_)) && state.leader_epoch > replica.leader_epoch {
            let failed = replica.idle(state);
            self.news.insert(id);
            self.fetchers.changed.push(id);
            fail(&failed, ErrorCode::NotLeaderOrFollower, state.leader, out);
        }
    }

    /// Logs of topics that are gone, or of which this broker is no replica any more.
    fn remove_strays(&mut self, out: &mut Outbox) {
        let strays: Vec<_> = self
            .replicas
            .keys()
            .filter(|id| self.image.partition(**id).is_none_or(|state| !state.is_replica(self.id)))
            .copied()
            .collect();
        for id in strays {
            self.remove_replica(id, out);
        }
    }

    fn remove_replica(&mut self, id: TopicIdPartition, out: &mut Outbox) {
        let Some(mut replica) = self.replicas.remove(&id) else { return };
        replica.log.abandon();
        self.fetchers.changed.push(id);
        out.note(format_args!("removes {}", replica.name));
        out.facts.push(Fact::Removed { partition: id });
        if let Role::Leader(leading) = &mut replica.role {
            fail(&leading.waiters.fail_all(), ErrorCode::UnknownTopicOrPartition, BrokerId::NONE, out);
        }
        let _ = self.env.remove_directory(&path(&replica.name.to_string()));
        self.news.insert(id);
        // Another topic of the same name must not be opened with what was known of this one.
        self.write_all_checkpoints(out);
    }

    fn assume(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        id: TopicIdPartition,
        topic: &TopicName,
        state: &PartitionState,
        out: &mut Outbox,
    ) {
        if !state.is_replica(self.id) {
            return;
        }
        if !self.replicas.contains_key(&id) {
            // A log of the same name that is left is another topic's (scenario 11).
            let name = TopicPartition::new(topic.clone(), id.partition);
            if self.damaged.contains(&name) {
                if !state.has_leader() || state.leader == self.id || state.in_isr(self.id) {
                    return;
                }
                out.note(format_args!("takes a copy of {name} in the place of the damaged log"));
                self.damaged.remove(&name);
                let _ = self.env.remove_directory(&path(&name.to_string()));
            }
            let former: Vec<_> =
                self.replicas.iter().filter(|(_, replica)| replica.name == name).map(|(id, _)| *id).collect();
            for former in former {
                self.remove_replica(former, out);
            }
            let config = self.settings.log_config.clone();
            match Replica::create(self.env.clone(), id, name, config, wall) {
                Ok(replica) => {
                    self.replicas.insert(id, replica);
                }
                Err(error) => return self.die(&error, out),
            }
        }
        let config = LeaderConfig {
            local: self.id,
            local_epoch: self.session.epoch().unwrap_or(BrokerEpoch::NONE),
            replica_lag_time_max: self.settings.replica_lag_time_max,
            min_insync_replicas: self.min_isr(topic),
            rules: self.settings.rules,
        };
        let image = &self.image;
        let brokers = |broker| eligible_epoch(image, broker);
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        if state.partition_epoch < replica.partition_epoch || state.leader_epoch < replica.leader_epoch {
            return;
        }
        self.news.insert(id);
        if state.leader == self.id {
            let (failed, effects) = replica.lead(now, config, state, &brokers, out);
            fail(&failed, ErrorCode::NotLeaderOrFollower, state.leader, out);
            self.led(now, id, effects, out);
        } else if state.has_leader() {
            match replica.follow(state, self.settings.rules, wall, out) {
                Ok(failed) => fail(&failed, ErrorCode::NotLeaderOrFollower, state.leader, out),
                Err(error) => return self.die(&error, out),
            }
        } else {
            let failed = replica.idle(state);
            fail(&failed, ErrorCode::NotLeaderOrFollower, BrokerId::NONE, out);
        }
        self.fetchers.changed.push(id);
        if self.replicas.get(&id).is_some_and(|replica| replica.log.recovery_point() == Offset::ZERO) {
            self.write_recovery_points(out);
        }
    }

    pub fn min_isr(&self, topic: &TopicName) -> usize {
        self.image
            .topic_overrides(topic.as_str())
            .get("min.insync.replicas")
            .and_then(|text| text.parse().ok())
            .unwrap_or(1)
    }

    // ---- leaders

    /// A step of a leader led to this.
    pub fn led(&mut self, now: MonotonicMs, id: TopicIdPartition, effects: LeaderEffects, out: &mut Outbox) {
        if effects.high_watermark.is_some() {
            self.news.insert(id);
        }
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let done = replica.leader_moved(&effects, out);
        for waiter in done {
            self.acknowledge(id, &waiter, out);
        }
        if effects.isr_changed
            && let Some(replica) = self.replicas.get(&id)
            && let Some(leader) = replica.leader()
        {
            out.note(format_args!("{} has ISR {:?}", replica.name, leader.isr().committed()));
        }
        if let Some(proposal) = effects.alter {
            self.send_proposal(now, id, proposal, out);
        }
    }

    fn send_proposal(&mut self, now: MonotonicMs, id: TopicIdPartition, proposal: IsrProposal, out: &mut Outbox) {
        let Some(epoch) = self.session.epoch() else {
            return self.decided(now, id, proposal.number, &IsrOutcome::Unknown, out);
        };
        out.note(format_args!(
            "asks for ISR {:?} of partition {} at {}",
            proposal.isr.iter().map(|member| member.broker.0).collect::<Vec<_>>(),
            id.partition,
            proposal.partition_epoch
        ));
        let request = Request::AlterPartitions(AlterPartitions {
            broker: self.id,
            epoch,
            partitions: vec![AlterPartition {
                partition: id,
                leader_epoch: proposal.leader_epoch,
                partition_epoch: proposal.partition_epoch,
                isr: proposal
                    .isr
                    .iter()
                    .map(|member| IsrMember { broker: member.broker, epoch: member.epoch })
                    .collect(),
            }],
        });
        let call = self.call_id();
        self.calls.insert(call, (now, Call::Alter { partition: id, proposal }));
        out.send(self.session.leader_node(), Message::Cluster { call, request: Arc::new(request) });
    }

    pub fn decided(
        &mut self,
        now: MonotonicMs,
        id: TopicIdPartition,
        number: u32,
        outcome: &IsrOutcome,
        out: &mut Outbox,
    ) {
        let image = &self.image;
        let brokers = |broker| eligible_epoch(image, broker);
        let Some(Role::Leader(leading)) = self.replicas.get_mut(&id).map(|replica| &mut replica.role) else { return };
        let effects = leading.leader.isr_decided(now, number, outcome, &brokers);
        self.led(now, id, effects, out);
    }

    fn tick_replicas(&mut self, now: MonotonicMs, out: &mut Outbox) {
        let ids: Vec<_> = self.replicas.keys().copied().collect();
        for id in ids {
            let image = &self.image;
            let brokers = |broker| eligible_epoch(image, broker);
            let Some(Role::Leader(leading)) = self.replicas.get_mut(&id).map(|replica| &mut replica.role) else {
                continue;
            };
            let mut late = Vec::new();
            leading.waiters.retain(|waiter| {
                let is_late = now >= waiter.deadline;
                if is_late {
                    late.push(*waiter);
                }
                !is_late
            });
            let effects = leading.leader.tick(now, &brokers);
            fail(&late, ErrorCode::RequestTimedOut, self.id, out);
            self.led(now, id, effects, out);
        }
    }

    fn tick_calls(&mut self, now: MonotonicMs, out: &mut Outbox) {
        let late: Vec<_> = self
            .calls
            .iter()
            .filter(|(_, (sent, _))| now.0.saturating_sub(sent.0) >= CALL_TIMEOUT_MS)
            .map(|(call, _)| *call)
            .collect();
        for call in late {
            if let Some((_, what)) = self.calls.remove(&call) {
                self.session.try_another_coordinator(&mut self.random);
                self.unanswered(now, what, out);
            }
        }
    }

    fn unanswered(&mut self, now: MonotonicMs, what: Call, out: &mut Outbox) {
        match what {
            Call::Register => self.session.registration_failed(now),
            Call::Shutdown => {}
            Call::Alter { partition, proposal } => {
                self.decided(now, partition, proposal.number, &IsrOutcome::Unknown, out);
            }
        }
    }

    fn answered(
        &mut self,
        now: MonotonicMs,
        call: CallId,
        answer: Option<Box<Answer>>,
        leader: Option<ottla_model::CoordinatorId>,
        out: &mut Outbox,
    ) {
        let Some((_, what)) = self.calls.remove(&call) else { return };
        let Some(answer) = answer else {
            self.session.not_leader(leader, &mut self.random);
            return self.unanswered(now, what, out);
        };
        match (what, *answer) {
            (Call::Register, Answer::Register(result)) => self.registered(now, result, out),
            (Call::Shutdown, Answer::ControlledShutdown(progress)) => self.session.shutdown_progress(&progress),
            (Call::Alter { partition, proposal }, Answer::AlterPartitions(altered)) => {
                let outcome = match altered.partitions.first() {
                    Some(state) if altered.error.is_ok() && state.error.is_ok() => {
                        let isr = state.isr.iter().map(|broker| member_of(*broker, &proposal)).collect();
                        IsrOutcome::Decided {
                            leader_epoch: state.leader_epoch,
                            partition_epoch: state.partition_epoch,
                            isr,
                        }
                    }
                    Some(state) if altered.error.is_ok() => IsrOutcome::Refused(state.error),
                    _ => IsrOutcome::Unknown,
                };
                out.note(format_args!("partition {}: ISR change {outcome:?}", partition.partition));
                self.decided(now, partition, proposal.number, &outcome, out);
            }
            (what, _) => self.unanswered(now, what, out),
        }
    }

    /// Answers a produce that waited: its records are below the high watermark.
    pub fn acknowledge(&mut self, id: TopicIdPartition, waiter: &Waiter, out: &mut Outbox) {
        let Some(replica) = self.replicas.get(&id) else { return };
        let Some(leader) = replica.leader() else { return };
        let error = match leader.ack_state(waiter.next) {
            ottla_replication::AckState::Acknowledged => ErrorCode::None,
            ottla_replication::AckState::NotEnoughReplicas => ErrorCode::NotEnoughReplicasAfterAppend,
            ottla_replication::AckState::Waiting => ErrorCode::UnknownServerError,
        };
        if error.is_ok() {
            out.facts.push(Fact::Acknowledged {
                partition: id,
                leader_epoch: leader.leader_epoch(),
                first: waiter.first,
                next: waiter.next,
                min_isr: leader.effective_min_isr(),
            });
        }
        let base_offset = if error.is_ok() { waiter.first } else { Offset::UNKNOWN };
        let answer = ProduceAnswer { error, base_offset, leader: self.id };
        out.send(waiter.to, Message::ProduceAnswer { call: waiter.call, answer });
    }
}

/// The epoch under which a broker may be in an ISR.
pub(super) fn eligible_epoch(image: &Image, broker: BrokerId) -> Option<BrokerEpoch> {
    image.broker(broker).filter(|registration| registration.is_active()).map(|registration| registration.epoch)
}

/// The answer names brokers alone; their epochs are those that were asked for.
fn member_of(broker: BrokerId, proposal: &IsrProposal) -> ottla_replication::IsrMember {
    proposal
        .isr
        .iter()
        .copied()
        .find(|member| member.broker == broker)
        .unwrap_or(ottla_replication::IsrMember { broker, epoch: BrokerEpoch::NONE })
}

/// Tells producers that wait that they will not get what they wait for.
pub(super) fn fail(waiters: &[Waiter], error: ErrorCode, leader: BrokerId, out: &mut Outbox) {
    for waiter in waiters {
        let answer = ProduceAnswer { error, base_offset: Offset::UNKNOWN, leader };
        out.send(waiter.to, Message::ProduceAnswer { call: waiter.call, answer });
    }
}
