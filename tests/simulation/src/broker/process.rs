//! The process of a broker: its state, its turns, and what steps of its replicas lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ottla_broker_session::Session;
use ottla_metadata::controller::{AlterPartitions, AlteredPartitions, ResignLeadership, ResignReason};
use ottla_metadata::{Answer, Delta, Image, Request};
use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, IncarnationKey, MonotonicMs, TimestampMs, TopicIdPartition};
use ottla_partition::{
    CheckpointIntervals, CheckpointSchedule, Decided, DirectoryWatch, Effects, Errand, IsrProposals, Replicas,
    eligible_epoch,
};
use ottla_replication::IsrOutcome;
use ottla_storage::env::FaultyEnv;
use ottla_storage::{DiskFault, LastRun, LogCut, LogDirs};

use super::BrokerSettings;
use super::access::Access;
use super::disk::{FoundLog, OpenedLogs};
use super::fetching::{Fetchers, Received};
use super::moving::{Move, OldLog};
use super::replica::{Replica, Waiter, WaitingProduce};
use super::serving::ParkedFetch;
use super::session::{PendingCall, QuorumLink};
use super::sessions::FetchSessions;
use super::stall::{Stall, Waiting};
use crate::facts::Fact;
use crate::message::{CallId, Message};
use crate::network::NodeId;
use crate::outbox::{Members, Outbox};
use crate::random::Random;

/// How often high watermarks, recovery points and log starts are written down. Kafka: 5 s, and 60 s.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);
/// How often the system writes some logs back.
const WRITE_BACK_MS: u64 = 2_000;
/// Of a hundred logs, so many then.
const WRITE_BACK_PERCENT: u32 = 30;

/// For all attempts of a request to the quorum: as the broker has it.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a request to the quorum was about.
pub(super) enum Call {
    Register,
    Shutdown,
    Resign,
    AlterIsrs,
}

pub(super) struct Process {
    pub id: BrokerId,
    pub key: IncarnationKey,
    pub settings: Arc<BrokerSettings>,
    pub random: Random,
    pub image: Image,
    /// None: security is off.
    pub access: Option<Access>,
    pub session: Session,
    pub link: QuorumLink,
    /// Clients and followers are answered.
    pub is_serving: bool,
    /// What they have asked before that.
    unserved: Vec<(NodeId, Message)>,
    /// The epoch of the last registration of this process.
    pub identity: BrokerEpoch,
    pub log_dirs: LogDirs<FaultyEnv>,
    pub last_run: LastRun,
    /// Of each directory.
    pub watches: Vec<DirectoryWatch>,
    pub watch_at: MonotonicMs,
    /// A write failed: directories are looked at before that.
    pub look_at_directories: bool,
    /// Directories whose disks do not answer.
    pub stalls: BTreeMap<usize, Stall>,
    /// Which replicas the tree places here.
    pub placement: Replicas<FoundLog>,
    pub replicas: BTreeMap<TopicIdPartition, Replica>,
    /// Replicas that this process has had so far.
    pub placed: u64,
    /// A disk refused to open a log at the start, and is not asked again.
    pub could_not_open: bool,
    /// Replicas for whose logs a disk had no room.
    pub waiting_logs: BTreeSet<TopicIdPartition>,
    /// Replicas that ended or began anew in this process: what they held is not looked for again.
    pub forgotten: BTreeSet<TopicIdPartition>,
    /// Replicas that move to other directories.
    pub moves: BTreeMap<TopicIdPartition, Move>,
    pub old_logs: Vec<OldLog>,
    pub fetchers: Fetchers,
    pub fetch_sessions: FetchSessions,
    pub parked: Vec<ParkedFetch>,
    pub calls: BTreeMap<CallId, PendingCall>,
    next_call: u64,
    pub checkpoints: CheckpointSchedule,
    /// Some high watermark, since they were written down.
    pub high_watermarks_moved: bool,
    write_back_at: MonotonicMs,
    /// All leaders are ticked.
    round_at: MonotonicMs,
    /// ISR changes that leaders propose, and leaders that want to be ticked before that.
    proposals: IsrProposals,
    /// Produces by their deadlines.
    pub produces: BTreeMap<(MonotonicMs, u64), Rc<WaitingProduce>>,
}

impl Process {
    pub fn new(
        key: IncarnationKey,
        opened: OpenedLogs,
        settings: Arc<BrokerSettings>,
        session: Session,
        link: QuorumLink,
        mut random: Random,
        now: MonotonicMs,
    ) -> Self {
        // Answers to a former life's calls are nobody's.
        let next_call = random.next_u64() >> 1;
        let could_not_open = opened.found.iter().any(FoundLog::awaits_restart);
        let rules = settings.rules;
        let mut placement = Replicas::default();
        opened.found.into_iter().for_each(|log| placement.add_found(log));
        Self {
            id: session.id(),
            key,
            settings,
            random,
            image: Image::empty(),
            access: None,
            session,
            link,
            is_serving: false,
            unserved: Vec::new(),
            identity: BrokerEpoch::NONE,
            watches: opened.log_dirs.all().iter().map(|_| DirectoryWatch::default()).collect(),
            log_dirs: opened.log_dirs,
            last_run: opened.last_run,
            watch_at: MonotonicMs(0),
            look_at_directories: false,
            stalls: BTreeMap::new(),
            placement,
            replicas: BTreeMap::new(),
            placed: 0,
            could_not_open,
            waiting_logs: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            moves: BTreeMap::new(),
            old_logs: Vec::new(),
            fetchers: Fetchers::default(),
            fetch_sessions: FetchSessions::new(rules.replication.fetch_sessions),
            parked: Vec::new(),
            calls: BTreeMap::new(),
            next_call,
            checkpoints: CheckpointSchedule::new(
                now,
                CheckpointIntervals {
                    high_watermark: CHECKPOINT_INTERVAL,
                    recovery_point: CHECKPOINT_INTERVAL,
                    log_start: CHECKPOINT_INTERVAL,
                },
            ),
            high_watermarks_moved: false,
            write_back_at: now,
            round_at: MonotonicMs(0),
            proposals: IsrProposals::with_rules(rules),
            produces: BTreeMap::new(),
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
        if self.placement.loads(self.identity, &self.image) {
            self.image_moved(now, wall, &Delta::default(), out);
        }
        self.tick_calls(now, out);
        self.tick_leaders(now, out);
        self.time_out_produces(now, out);
        if now >= self.write_back_at {
            self.write_back_at = MonotonicMs(now.0 + WRITE_BACK_MS);
            self.sync(now, WRITE_BACK_PERCENT, out);
        }
        self.write_due_checkpoints(now, out);
        self.step_moves(now, wall, out);
        self.end_turn(now, wall, out);
    }

    pub fn receive(&mut self, now: MonotonicMs, wall: TimestampMs, from: NodeId, message: Message, out: &mut Outbox) {
        match message {
            Message::Produce { .. }
            | Message::EndTransaction { .. }
            | Message::Fetch { .. }
            | Message::Bounds { .. }
                if !self.is_serving =>
            {
                self.unserved.push((from, message));
            }
            Message::ClusterAnswer { call, answer, leader } => self.answered(now, from, call, answer, leader, out),
            Message::BeatAnswer { connection, answer, leader } => {
                self.beat_answered(now, from, connection, answer, leader, out);
            }
            Message::WatchEvent { stream, event } => self.watched(now, wall, stream, event, out),
            Message::WatchPong { stream } => self.watch_lives(now, stream),
            Message::FetchAnswer { call, error, session_id, partitions } => {
                let received = Received::Fetch { error, session_id, partitions };
                self.source_answered(now, wall, from, call, received, out);
            }
            Message::BoundsAnswer { call, offset } => {
                self.source_answered(now, wall, from, call, Received::Bounds(offset), out);
            }
            Message::ConnectionLost => self.connection_lost(now, from, out),
            message => self.answer_client(now, wall, from, message, out),
        }
        self.end_turn(now, wall, out);
    }

    pub(super) fn answer_client(
        &mut self,
        now: MonotonicMs,
        wall: TimestampMs,
        from: NodeId,
        message: Message,
        out: &mut Outbox,
    ) {
        let written = match &message {
            Message::Produce { produce, .. } => Some(produce.partition),
            Message::EndTransaction { partition, .. } => Some(*partition),
            _ => None,
        };
        if written.is_some_and(|id| self.write_waits(id, from, &message)) {
            return;
        }
        match message {
            Message::Produce { call, produce } => self.produce(now, wall, from, call, &produce, out),
            Message::EndTransaction { call, partition, marker } => {
                self.end_transaction(now, wall, from, call, partition, &marker, out);
            }
            Message::Fetch { call, fetch } => self.fetch(now, from, call, &fetch, out),
            Message::Bounds { call, question } => {
                let offset = self.bound(&question);
                out.send(from, Message::BoundsAnswer { call, offset });
            }
            _ => {}
        }
    }

    /// Clients and followers are answered from now on.
    pub(super) fn begin_to_serve(&mut self, out: &mut Outbox) {
        out.facts.push(Fact::Serves { incarnation: self.key.incarnation() });
        self.is_serving = true;
    }

    pub(super) fn end_turn(&mut self, now: MonotonicMs, wall: TimestampMs, out: &mut Outbox) {
        if self.is_serving {
            for (from, message) in std::mem::take(&mut self.unserved) {
                self.answer_client(now, wall, from, message, out);
            }
        }
        self.watch_directories(now, wall, out);
        self.send_proposals(now, out);
        self.serve_parked(now, out);
        self.run_fetchers(now, wall, out);
    }

    pub fn die(&mut self, error: &dyn std::fmt::Display, out: &mut Outbox) {
        out.note(format_args!("goes: {error}"));
        out.dies = true;
    }

    // ---- replicas

    /// Carries out what a step of a replica led to.
    pub fn execute(&mut self, id: TopicIdPartition, effects: Effects<Waiter>, out: &mut Outbox) {
        let local = self.id;
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        if effects.appended {
            replica.appended(out);
        }
        if let Some(cut) = &effects.truncated {
            replica.was_cut(cut, out);
        }
        if effects.role_changed {
            replica.tell_role(out);
        }
        if let Some(high_watermark) = effects.high_watermark {
            replica.publish(high_watermark, out);
            self.high_watermarks_moved = true;
        }
        if effects.appended || effects.changed || effects.high_watermark.is_some() {
            self.fetch_sessions.changed(id);
        }
        if effects.fetch_changed {
            self.fetchers.changed.push(id);
        }
        for ack in &effects.acknowledged {
            if let Waiter::Produce(produce) = ack {
                replica.acknowledge(produce, local, out);
            }
        }
        if effects.isr_changed {
            replica.tell_isr(out);
        }
        self.fail_all(&effects.failed, self.leader_of(id), out);
        if let Some(proposal) = effects.proposal {
            self.proposals.submit(id, proposal);
        }
        if let Some(cut) = effects.truncated {
            self.log_was_cut(id, cut.left(), out);
        }
        if let Some(error) = effects.disk_error {
            self.disk_refused(id, &error, Some(&error), out);
        }
    }

    /// Tells producers that wait that they will not get what they wait for.
    pub fn fail_all(&self, failed: &[(Waiter, ErrorCode)], leader: BrokerId, out: &mut Outbox) {
        for (waiter, error) in failed {
            if let Waiter::Produce(produce) = waiter
                && !produce.is_answered.replace(true)
            {
                out.answer_produce(produce.to, produce.call, Err(*error), leader);
            }
        }
    }

    pub(super) fn log_was_cut(&mut self, id: TopicIdPartition, cut: LogCut, out: &mut Outbox) {
        let Some(replica) = self.replicas.get(&id) else { return };
        let (number, name) = (replica.directory, replica.name.clone());
        self.in_directory(number, out, |directory| directory.log_was_cut(&name, cut));
    }

    /// The disk refused a change of the replica's log.
    pub(super) fn disk_refused(
        &mut self,
        id: TopicIdPartition,
        error: &dyn std::fmt::Display,
        cause: Option<&std::io::Error>,
        out: &mut Outbox,
    ) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let (fault, number) = (replica.core.disk_fault(cause), replica.directory);
        replica.is_out_of_room |= fault == DiskFault::Full;
        self.directory_fault(number, error, fault, out);
    }

    /// An append succeeded: there is room.
    pub(super) fn append_succeeded(&mut self, id: TopicIdPartition) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        replica.is_out_of_room = false;
        if let Some(directory) = self.log_dirs.get(replica.directory) {
            directory.health().has_room();
        }
    }

    // ---- leaders

    fn tick_leaders(&mut self, now: MonotonicMs, out: &mut Outbox) {
        if now >= self.round_at {
            let half = u64::try_from(self.settings.replica_lag_time_max.as_millis() / 2).unwrap_or(1);
            self.round_at = MonotonicMs(now.0 + half);
            let ids: Vec<_> = self.replicas.keys().copied().collect();
            ids.into_iter().for_each(|id| self.tick_if_free(now, id, Errand::Tick, out));
        }
        while let Some(id) = self.proposals.take_due(now) {
            self.tick_if_free(now, id, Errand::Tick, out);
        }
    }

    pub(super) fn tick_if_free(&mut self, now: MonotonicMs, id: TopicIdPartition, errand: Errand, out: &mut Outbox) {
        match self.when_held(id, errand) {
            Some(held) => self.wait_or_pass(id, held, |number| Waiting::Tick(id, number)),
            None => self.tick_leader(now, id, errand, out),
        }
    }

    pub(super) fn tick_leader(&mut self, now: MonotonicMs, id: TopicIdPartition, errand: Errand, out: &mut Outbox) {
        let image = &self.image;
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let brokers = |broker| eligible_epoch(image, broker);
        let rests = replica.core.is_at_rest(&brokers);
        let effects = replica.core.tick(now, &brokers);
        let is_idle = effects.proposal.is_none() && effects.high_watermark.is_none() && effects.acknowledged.is_empty();
        // The service's round of ticks passes by replicas at rest; news of a broker ticks them.
        let is_news = errand == Errand::BrokerNews;
        assert!(!rests || is_idle || is_news, "partition {id:?} was at rest, and had something to do");
        self.execute(id, effects, out);
    }

    fn time_out_produces(&mut self, now: MonotonicMs, out: &mut Outbox) {
        while let Some(entry) = self.produces.first_entry().filter(|entry| entry.key().0 <= now) {
            let produce = entry.remove();
            if !produce.is_answered.replace(true) {
                out.answer_produce(produce.to, produce.call, Err(ErrorCode::RequestTimedOut), self.id);
            }
        }
    }

    pub fn resign(
        &mut self,
        now: MonotonicMs,
        partitions: Vec<TopicIdPartition>,
        reason: ResignReason,
        out: &mut Outbox,
    ) {
        if self.identity == BrokerEpoch::NONE || self.is_calling(|call| matches!(call, Call::Resign)) {
            return;
        }
        let epoch = self.identity;
        out.note(format_args!("gives up {} places: {reason:?}", partitions.len()));
        let request = Request::ResignLeadership(ResignLeadership { broker: self.id, epoch, partitions, reason });
        self.call(now, Call::Resign, request, CALL_TIMEOUT, out);
    }

    fn send_proposals(&mut self, now: MonotonicMs, out: &mut Outbox) {
        while let Some(partitions) = self.proposals.next_request() {
            for change in &partitions {
                out.note(format_args!(
                    "asks for ISR {} of partition {} at {}",
                    Members(&change.isr),
                    change.partition.partition,
                    change.partition_epoch
                ));
            }
            let (broker, epoch) = (self.id, self.identity);
            if epoch == BrokerEpoch::NONE {
                self.isr_changes_answered(now, None, out);
                continue;
            }
            let request = Request::AlterPartitions(AlterPartitions { broker, epoch, partitions });
            self.call(now, Call::AlterIsrs, request, CALL_TIMEOUT, out);
        }
    }

    fn isr_changes_answered(&mut self, now: MonotonicMs, answer: Option<AlteredPartitions>, out: &mut Outbox) {
        for decided in self.proposals.answered(answer) {
            let id = decided.partition;
            match self.when_held(id, Errand::IsrDecided) {
                Some(held) => self.wait_or_pass(id, held, |number| Waiting::Decided(number, decided)),
                None => self.isr_decided(now, decided, out),
            }
        }
    }

    pub(super) fn isr_decided(&mut self, now: MonotonicMs, decided: Decided, out: &mut Outbox) {
        let Decided { partition, number, outcome } = decided;
        match &outcome {
            IsrOutcome::Decided { partition_epoch, isr, .. } => out.note(format_args!(
                "partition {}: the quorum decided ISR {}, partition epoch {partition_epoch}",
                partition.partition,
                Members(isr)
            )),
            other => out.note(format_args!("partition {}: ISR change {other:?}", partition.partition)),
        }
        let image = &self.image;
        let Some(replica) = self.replicas.get_mut(&partition) else { return };
        let (effects, tick_at) =
            replica.core.isr_decided(now, number, &outcome, &|broker| eligible_epoch(image, broker));
        self.execute(partition, effects, out);
        if let Some(at) = tick_at {
            self.proposals.tick_at(partition, at);
        }
    }

    pub(super) fn unanswered(&mut self, now: MonotonicMs, what: Call, out: &mut Outbox) {
        match what {
            Call::Register => self.session.registration_unanswered(now),
            Call::Shutdown => self.session.shutdown_unanswered(),
            Call::Resign => {}
            Call::AlterIsrs => self.isr_changes_answered(now, None, out),
        }
    }

    /// The quorum decided.
    pub(super) fn decided_call(&mut self, now: MonotonicMs, what: Call, answer: Answer, out: &mut Outbox) {
        match (what, answer) {
            (Call::Register, Answer::Register(result)) => {
                if let Err(refusal) = &result {
                    out.note(format_args!("is not registered: {refusal}"));
                }
                self.session.registration_answered(now, result);
                self.run_session(now, out);
            }
            (Call::Shutdown, Answer::ControlledShutdown(progress)) => {
                self.session.shutdown_answered(now, &progress);
                self.run_session(now, out);
            }
            (Call::AlterIsrs, Answer::AlterPartitions(altered)) => self.isr_changes_answered(now, Some(altered), out),
            (what, _) => self.unanswered(now, what, out),
        }
    }
}
