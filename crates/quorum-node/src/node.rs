//! The node: events in, outputs out, in an order that no crash can make wrong.
//!
//! [`Node::step`] accepts one event; [`Node::flush`] then proposes the decisions and executes Raft's effects. The owner
//! passes all events that have arrived before it flushes: requests that arrive together become one proposal, one synced
//! write, one round trip.
//!
//! A failed store ends the node: a member that continues after a lost write may break its promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_consensus::{
    Effects, Incoming, Member, MemberError, MessageError, Outgoing, Reads, Role, RoleChange, Status, StoreError,
};
use ottla_metadata::controller::{AdmitCoordinator, ControllerConfig, Input, Now, Probe, Request};
use ottla_metadata::image::{BrokerRegistration, Image};
use ottla_metadata::liveness::{LEARN_INTERVAL, Reached};
use ottla_metadata::quorum_progress::{self, Progress, QuorumProgress};
use ottla_metadata::tree::Tree;
use ottla_model::{BrokerId, CoordinatorId, FeatureLevel, FeatureLevels, IncarnationId, MonotonicMs, Revision};

use crate::broken_rules::BrokenRules;
use crate::disks::{self, SenderError, Voter};
use crate::event::{Event, Output, RequestError, Sink, note};
use crate::leadership::{Leadership, PeerTimes};
use crate::members::{MemberInfo, Members, Vouched};
use crate::snapshot::{self, SnapshotError};
use crate::store::{AppliedPlace, QuorumStore};
use crate::view::View;
use crate::watchers::{HistoryLimits, Watchers};

/// Interval of the log line with the number of refused messages.
const REFUSALS_NOTED_EVERY: Duration = Duration::from_secs(10);

/// Bound of the coordinators that other members vouch for: more of them do not join at a time.
const VOUCHED_MAX: usize = 16;

/// The configuration of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The members of the first quorum, this one included; on one that joins, the members that told it to.
    pub voters: BTreeMap<CoordinatorId, Voter>,
    /// `coordinators` is filled in from `voters`.
    pub controller: ControllerConfig,
    /// Bytes of log after which its beginning is dropped.
    pub compact_bytes: u64,
    pub history: HistoryLimits,
    /// A new one for each start of the process: see [`Reads::new`].
    pub nonce: u64,
    pub broken_rules: BrokenRules,
}

/// Why a node must stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("raft: {0}")]
    Member(#[from] MemberError),
    #[error("a snapshot cannot be read: {0}")]
    Snapshot(#[from] SnapshotError),
    #[error(
        "the cluster is at ottla.version {finalized}, and this coordinator works at {ours}: it needs another release"
    )]
    LacksLevel { ours: FeatureLevels, finalized: FeatureLevel },
}

/// Why a peer's message was not taken; for the log.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Sender(#[from] SenderError),
    #[error("it names coordinator {0} as its sender")]
    OtherSender(CoordinatorId),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("its snapshot cannot be read: {0}")]
    Snapshot(#[from] SnapshotError),
}

/// A node that does not know what the tree may have must not decide, nor show the tree to brokers.
fn check_level(config: &NodeConfig, image: &Image) -> Result<(), NodeError> {
    let (ours, finalized) = (config.controller.levels, image.finalized().level);
    match ours.includes(finalized) || config.broken_rules.levels_are_not_compared {
        true => Ok(()),
        false => Err(NodeError::LacksLevel { ours, finalized }),
    }
}

/// The levels of all members: none of one that has not told them.
fn quorum_levels(
    members: &Members,
    (id, own): (CoordinatorId, FeatureLevels),
    peers: &BTreeMap<CoordinatorId, FeatureLevels>,
) -> BTreeMap<CoordinatorId, Option<FeatureLevels>> {
    let of = |member: CoordinatorId| if member == id { Some(own) } else { peers.get(&member).copied() };
    members.by_id.keys().map(|member| (*member, of(*member))).collect()
}

/// See the module.
pub struct Node<S: QuorumStore> {
    pub(crate) config: NodeConfig,
    pub(crate) member: Member<S>,
    pub(crate) tree: Tree,
    pub(crate) image: Image,
    /// The last entry that `tree` holds.
    pub(crate) applied: AppliedPlace,
    pub(crate) view: Arc<View>,
    pub(crate) leadership: Option<Leadership>,
    pub(crate) members: Arc<Members>,
    /// The brokers that this coordinator has reached; lent to the controller while there is one.
    pub(crate) reached: Reached,
    /// The time to dial again the brokers that were not reached.
    learn_at: MonotonicMs,
    reads: Reads<crate::ReadId>,
    pub(crate) watchers: Watchers,
    role: RoleChange,
    /// The tree of the last received snapshot, with its index and term, until Raft wants it written.
    pub(crate) received_snapshot: Option<(u64, u64, Tree)>,
    is_snapshot_in_work: bool,
    /// Messages that the sink had no room for. Raft cannot be called while its effects are executed, but must learn of
    /// the loss, or it would assume that the peer has them.
    lost: Vec<(CoordinatorId, bool)>,
    /// Number of peers' messages that were refused since the last log line.
    refused_messages: u64,
    refusals_noted_at: MonotonicMs,
    proposals: u64,
    /// Of the peers that have told theirs since this process began; bounded as the members are.
    peer_levels: BTreeMap<CoordinatorId, FeatureLevels>,
    /// Brokers of the image that asked here for the leader since the last tick.
    pub(crate) asking: BTreeSet<BrokerId>,
}

impl<S: QuorumStore> Node<S> {
    /// Continues from the state in the member's store.
    pub fn new(config: NodeConfig, member: Member<S>) -> Result<Self, NodeError> {
        let tree = member.store().tree()?;
        let applied = member.store().applied()?;
        let image = Image::from_tree(&tree);
        let mut member = member;
        if image.coordinators().any(|(_, coordinator)| coordinator.node.is_live_change) {
            member.membership_changed();
        }
        let members = Members::new(member.membership(), &image, &config.voters);
        check_level(&config, &image)?;
        Ok(Self {
            members: Arc::new(members),
            reads: Reads::new(member.id(), config.nonce),
            watchers: Watchers::new(config.history, config.broken_rules.watch_goes_back),
            role: member.role(),
            view: Arc::new(View::new(tree.clone(), image.clone())),
            config,
            member,
            tree,
            image,
            applied,
            leadership: None,
            reached: Reached::new(),
            learn_at: MonotonicMs(0),
            received_snapshot: None,
            is_snapshot_in_work: false,
            lost: Vec::new(),
            refused_messages: 0,
            refusals_noted_at: MonotonicMs(0),
            proposals: 0,
            peer_levels: BTreeMap::new(),
            asking: BTreeSet::new(),
        })
    }

    /// To be called once, before the first event.
    pub fn start(&mut self) -> Result<(), NodeError> {
        // A quorum of one can campaign at once.
        let membership = self.member.membership();
        if membership.voter_count() == 1 && membership.is_voter(self.member.id()) {
            self.member.campaign()?;
        }
        Ok(())
    }

    /// `ticks` of Raft's clock have passed. Call this after all events that have arrived: one of them may be the
    /// message whose absence the tick would detect.
    pub fn tick(&mut self, now: Now, ticks: u32, out: &mut impl Sink) {
        for _ in 0..ticks {
            self.member.tick();
        }
        // First: who hands the leadership over has no broker to fence.
        self.hand_over_if_lost(now, out);
        if let Some(leadership) = &mut self.leadership {
            leadership.tick(now, out);
        }
        self.pass_on_asking(out);
        self.advance_members(now, out);
        if now.monotonic >= self.learn_at {
            self.learn_at = now.monotonic + LEARN_INTERVAL;
            self.probe_all_unreached(out);
        }
        if now.monotonic >= self.refusals_noted_at + REFUSALS_NOTED_EVERY {
            self.refusals_noted_at = now.monotonic;
            if self.refused_messages > 1 {
                note(out, true, format!("{} more messages of peers were refused", self.refused_messages - 1));
            }
            self.refused_messages = 0;
        }
    }

    /// Whether nothing happens between two heartbeats of Raft, so that the owner may sleep through the ticks between
    /// them.
    pub fn may_sleep(&self) -> bool {
        self.member.role().leader.is_some() && !self.leadership.as_ref().is_some_and(Leadership::is_unsettled)
    }

    /// Whether this node follows a leader, whose heartbeats wake it.
    pub fn follows(&self) -> bool {
        self.member.role().leader.is_some() && !self.member.is_leader()
    }

    /// The number of ticks after which this node campaigns if it hears no leader.
    pub fn ticks_to_campaign(&self) -> u32 {
        self.member.ticks_to_campaign()
    }

    /// Whether nothing waits for the answers to heartbeats: every member has the whole log, no read waits for a quorum,
    /// and no change of the members is under way. Then they only say that the members are there, which is asked with
    /// the next tick.
    pub fn answers_may_wait(&self) -> bool {
        self.leadership.as_ref().is_some_and(|leadership| !leadership.is_unsettled())
            && self.reads.is_empty()
            && self.member.is_settled()
    }

    /// Accepts one event. [`Self::flush`] executes its consequences.
    pub fn step(&mut self, now: Now, event: Event, out: &mut impl Sink) -> Result<(), NodeError> {
        match event {
            Event::Raft { sender, disk, message } => self.receive(now, sender, disk, &message, out)?,
            Event::PeerUnreachable(peer) => self.member.report_unreachable(peer),
            Event::PeerGone(peer) => {
                if self.member.role().leader == Some(peer) {
                    let text =
                        format!("the quorum leader, coordinator {peer}, has ended: starting an election at once");
                    note(out, false, text);
                }
                self.member.leader_gone(peer);
            }
            Event::BrokerAsked(broker) => self.broker_asked(broker),
            Event::PeerWasAsked { sender, disk, brokers } => self.peer_was_asked(now, sender, disk, brokers, out),
            Event::SnapshotSent { to, sent } => {
                self.member.report_snapshot(to, sent);
                if sent {
                    self.member.store_mut().forget_snapshot();
                }
            }
            Event::SnapshotMade(made) => {
                self.is_snapshot_in_work = false;
                // One that names former members would be refused by a new one. Raft requests it again.
                if made.get_metadata().get_conf_state() == self.member.store().conf_state() {
                    self.member.store_mut().set_snapshot(made);
                }
            }
            // Raft requests the snapshot again with the next heartbeat.
            Event::SnapshotFailed => self.is_snapshot_in_work = false,
            Event::PeerIdentified { id, disk, levels } => {
                self.peer_identified(now, id, disk, out);
                if self.members.get(id).is_some() {
                    self.peer_levels.insert(id, levels);
                }
            }
            Event::Vouched { id, disk, address } => self.vouch(id, Vouched { disk, address }, out),
            Event::Request { call, request: Request::ChangeQuorum(change), .. } => {
                self.change_quorum(now, call, change, out);
            }
            Event::Request { call, request, entropy } => match &mut self.leadership {
                Some(leadership) => {
                    if request.asks_quorum_levels() {
                        let own = (self.member.id(), self.config.controller.levels);
                        let levels = quorum_levels(&self.members, own, &self.peer_levels);
                        leadership.step(now, Input::QuorumLevels(levels), out);
                    }
                    leadership.request(now, Some(call), request, entropy, out);
                }
                None => {
                    if let Some(broker) = request.registers() {
                        self.broker_asked(broker);
                    }
                    let leader = self.other_leader();
                    out.put(Output::Respond { call, outcome: Err(RequestError::NotLeader { leader }) });
                }
            },
            Event::StreamOpened { stream, beat } => match &mut self.leadership {
                Some(leadership) => {
                    leadership.stream_opened(stream);
                    leadership.step(now, Input::StreamOpened { stream, beat }, out);
                }
                None => {
                    self.broker_asked(beat.broker);
                    out.put(Output::EndStream { stream, leader: self.other_leader() });
                }
            },
            Event::StreamBeat { stream, beat } => {
                if let Some(leadership) = self.leadership.as_mut().filter(|held| held.has_stream(stream)) {
                    leadership.step(now, Input::StreamBeat { stream, beat }, out);
                }
            }
            Event::StreamClosed { stream } => {
                if let Some(leadership) = self.leadership.as_mut().filter(|held| held.has_stream(stream)) {
                    leadership.stream_closed(stream);
                    leadership.step(now, Input::StreamClosed { stream }, out);
                }
            }
            Event::Probed { broker, incarnation, result } => {
                match self.leadership.as_mut().filter(|held| held.is_deciding()) {
                    Some(leadership) => leadership.step(now, Input::Probed { broker, incarnation, result }, out),
                    None => self.reached.note(broker, incarnation, result),
                }
            }
            Event::Read(read) if self.config.broken_rules.reads_skip_the_quorum => out.put(Output::Read(read)),
            Event::Read(read) => self.reads.push(read),
            Event::ReadClosed(closed) => self.reads.retain(|read| *read != closed),
            Event::WatchOpened { watcher, from } => self.watchers.open(watcher, from, &self.view, out),
            Event::WatchClosed(watcher) => self.watchers.close(watcher),
        }
        Ok(())
    }

    /// A peer's message that is not taken is dropped and noted: it ends nothing here.
    fn receive(
        &mut self,
        now: Now,
        sender: CoordinatorId,
        disk: IncarnationId,
        message: &Bytes,
        out: &mut impl Sink,
    ) -> Result<(), NodeError> {
        let refused = match self.check_message(sender, disk, message) {
            Ok(incoming) => match self.member.receive(incoming) {
                Ok(()) => {
                    if let Some(leadership) = &mut self.leadership {
                        leadership.heard(sender, now, self.member.has_whole_log(sender));
                    }
                    return Ok(());
                }
                Err(MemberError::Refused(refused)) => Refused::Message(refused),
                Err(error) => return Err(error.into()),
            },
            Err(refused) => refused,
        };
        if self.refused_messages == 0 {
            note(out, true, format!("a message of coordinator {sender} was refused: {refused}"));
        }
        self.refused_messages += 1;
        Ok(())
    }

    /// Whether messages of this coordinator, with this disk, are listened to.
    pub fn check_sender(&self, sender: CoordinatorId, disk: IncarnationId) -> Result<(), SenderError> {
        if self.config.broken_rules.emptied_disk_votes {
            return Ok(());
        }
        let vouched = self.members.vouched.get(&sender).map(|vouched| vouched.disk);
        disks::check_sender(&self.members, self.member.id(), sender, disk, vouched)
    }

    fn check_message(
        &mut self,
        sender: CoordinatorId,
        disk: IncarnationId,
        message: &Bytes,
    ) -> Result<Incoming, Refused> {
        self.check_sender(sender, disk)?;
        let incoming = Incoming::parse(message)?;
        if incoming.from() != sender {
            return Err(Refused::OtherSender(incoming.from()));
        }
        self.member.check(&incoming)?;
        // A snapshot that is not a valid tree must not reach the disk. Raft ignores a snapshot of already committed
        // entries anyway.
        if let Some(snapshot) = incoming.snapshot()
            && snapshot.get_metadata().index > self.member.committed().0
        {
            let metadata = snapshot.get_metadata();
            let tree = snapshot::decode(Revision(metadata.index), snapshot.data.clone())?;
            self.received_snapshot = Some((metadata.index, metadata.term, tree));
        }
        Ok(incoming)
    }

    /// Another member knows this coordinator as a member.
    fn vouch(&mut self, id: CoordinatorId, by_others: Vouched, out: &mut impl Sink) {
        let known = &self.members;
        let is_full = known.vouched.len() >= VOUCHED_MAX && !known.vouched.contains_key(&id);
        let is_told = known.vouched.get(&id) == Some(&by_others);
        let is_known = known.get(id).is_some() || known.was_removed(id, by_others.disk) || id == self.member.id();
        if is_full || is_told || is_known {
            return;
        }
        Arc::make_mut(&mut self.members).vouched.insert(id, by_others);
        out.put(Output::Members(self.members.clone()));
    }

    /// The tree records every voter's disk, so that a member that lost its disk is detected when it returns.
    fn peer_identified(&mut self, now: Now, id: CoordinatorId, disk: IncarnationId, out: &mut impl Sink) {
        let Some(address) = self.members.address(id).map(str::to_owned) else { return };
        if let Some(voter) = self.config.voters.get_mut(&id).filter(|voter| voter.disk.is_none()) {
            voter.disk = Some(disk);
            self.publish_members(out);
        }
        if self.image.coordinator_disk(id).is_none()
            && let Some(leadership) = &mut self.leadership
        {
            let admit = Request::AdmitCoordinator(AdmitCoordinator { coordinator: id, disk, address });
            leadership.request(now, None, admit, [0; 16], out);
        }
    }

    /// Dials a broker that this node has not reached: only then does a refused connection prove anything later.
    pub(crate) fn probe_unreached(&self, broker: &BrokerRegistration, out: &mut impl Sink) {
        if self.reached.has(broker.id, broker.incarnation) {
            return;
        }
        if let Some(endpoint) = broker.inter_broker_endpoint() {
            let (broker, incarnation, endpoint) = (broker.id, broker.incarnation, endpoint.clone());
            out.put(Output::Probe(Probe { broker, incarnation, endpoint }));
        }
    }

    fn probe_all_unreached(&self, out: &mut impl Sink) {
        if self.leadership.is_none() {
            for broker in self.image.brokers() {
                self.probe_unreached(broker, out);
            }
        }
    }

    /// Proposes the decisions, and executes Raft's effects until there are none.
    pub fn flush(&mut self, now: Now, out: &mut impl Sink) -> Result<(), NodeError> {
        loop {
            if let Some(leadership) = &mut self.leadership {
                self.proposals += leadership.propose(&mut self.member);
            }
            if let Some(question) = self.reads.question(now.monotonic) {
                self.member.read_index(question);
            }
            for (to, is_snapshot) in std::mem::take(&mut self.lost) {
                match is_snapshot {
                    true => self.member.report_snapshot(to, false),
                    false => self.member.report_unreachable(to),
                }
            }
            let Some(effects) = self.member.effects() else { break };
            self.execute(now, effects, out)?;
        }
        if self.member.take_snapshot_wanted() && !self.is_snapshot_in_work {
            self.is_snapshot_in_work = true;
            out.put(Output::MakeSnapshot);
        }
        Ok(())
    }

    /// See [`ottla_consensus::effects`] for the order.
    fn execute(&mut self, now: Now, mut effects: Effects, out: &mut impl Sink) -> Result<(), NodeError> {
        self.send(effects.messages, out);
        if self.config.broken_rules.sends_before_persist {
            self.send(std::mem::take(&mut effects.messages_after_persist), out);
        }
        let installed = match &effects.persist.snapshot {
            Some(snapshot) => Some((self.snapshot_tree(snapshot)?, snapshot.get_metadata().term)),
            None => None,
        };
        self.member.store_mut().persist(&effects.persist)?;
        let after = self.member.persisted();
        self.send(after.messages, out);
        self.send(effects.messages_after_persist, out);
        for role in effects.role.into_iter().chain(after.role) {
            self.role_changed(now, role, out);
        }
        if let Some((tree, term)) = installed {
            self.install(tree, term, out);
        }
        for read in &effects.reads {
            self.reads.confirmed(read);
        }
        let mut committed = effects.committed;
        committed.extend(after.committed);
        self.apply(now, committed, out)?;
        check_level(&self.config, &self.image)?;
        for read in self.reads.complete_up_to(self.tree.revision()) {
            out.put(Output::Read(read));
        }
        Ok(())
    }

    fn send(&mut self, messages: Vec<Outgoing>, out: &mut impl Sink) {
        for message in messages {
            let (to, is_snapshot) = (message.to, message.is_snapshot());
            if !out.send(message) {
                self.lost.push((to, is_snapshot));
            }
        }
    }

    fn role_changed(&mut self, now: Now, role: RoleChange, out: &mut impl Sink) {
        let before = std::mem::replace(&mut self.role, role);
        out.put(Output::Role(role));
        if role.role == Role::Leader {
            if self.leadership.as_ref().is_none_or(|leadership| leadership.term != role.term) {
                self.end_leadership(out);
                note(out, false, format!("leads the quorum in term {}", role.term));
                self.leadership = Some(Leadership::new(role.term, self.config.broken_rules));
                if self.config.broken_rules.decides_before_own_entry {
                    self.begin_deciding(now, out);
                }
            }
            return;
        }
        if self.leadership.is_some() {
            note(out, false, format!("no longer leads the quorum (term {})", role.term));
            self.end_leadership(out);
        }
        if let Some(leader) = role.leader
            && before.leader != Some(leader)
        {
            note(out, false, format!("follows coordinator {leader} in term {}", role.term));
        }
    }

    /// Answers all waiting requests with the new leader.
    pub fn end_leadership(&mut self, out: &mut impl Sink) {
        let leader = self.other_leader();
        self.end_changes(leader, out);
        if let Some(leadership) = self.leadership.take()
            && let Some(reached) = leadership.end(leader, out)
        {
            self.reached = reached;
        }
    }

    /// Transfers the leadership. None if this node does not lead, or if no other member can lead.
    pub fn hand_over(&mut self) -> Option<CoordinatorId> {
        self.member.transfer_leadership()
    }

    /// The leader, unless it is this node.
    pub(crate) fn other_leader(&self) -> Option<CoordinatorId> {
        self.member.role().leader.filter(|leader| *leader != self.member.id())
    }

    pub fn id(&self) -> CoordinatorId {
        self.member.id()
    }

    pub fn role(&self) -> RoleChange {
        self.member.role()
    }

    pub fn is_leader(&self) -> bool {
        self.member.is_leader()
    }

    /// Whether the controller is at work here.
    pub fn is_deciding(&self) -> bool {
        self.leadership.as_ref().is_some_and(Leadership::is_deciding)
    }

    pub fn status(&self) -> Status {
        self.member.status()
    }

    /// How far every replica of the log has got; none if this node does not lead.
    pub fn progress(&self, now: Now) -> Option<QuorumProgress> {
        let leadership = self.leadership.as_ref()?;
        let status = self.member.status();
        let voter = |(&id, member): (&CoordinatorId, &MemberInfo)| {
            let peer = status.peers.iter().find(|peer| peer.id == id);
            let times = match id == status.id {
                true => PeerTimes { heard_at: now.wall, caught_up_at: now.wall, heard: Some(now.monotonic) },
                false => leadership.times_of(id),
            };
            quorum_progress::Voter {
                id,
                address: member.address.clone(),
                disk: member.disk,
                is_voter: member.is_voter,
                progress: Progress {
                    end: peer.map_or(Revision(0), |peer| peer.matched),
                    heard_at: times.heard_at,
                    caught_up_at: times.caught_up_at,
                },
            }
        };
        Some(QuorumProgress {
            leader: status.id,
            term: status.role.term,
            committed: status.committed,
            voters: self.members.by_id.iter().map(voter).collect(),
            observers: leadership.observers(now),
        })
    }

    /// Who belongs to the quorum, as far as this node knows.
    pub fn members(&self) -> &Arc<Members> {
        &self.members
    }

    pub fn committed(&self) -> Revision {
        self.member.committed()
    }

    /// The state after everything that was applied.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Transactions that were proposed here since the last call.
    pub fn take_proposals(&mut self) -> u64 {
        std::mem::take(&mut self.proposals)
    }

    pub fn store(&self) -> &S {
        self.member.store()
    }

    pub fn store_mut(&mut self) -> &mut S {
        self.member.store_mut()
    }

    /// Gives the store back.
    pub fn into_store(self) -> S {
        self.member.into_store()
    }
}
