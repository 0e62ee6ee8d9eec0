//! One member of the quorum: input → [`Effects`]. See [`crate::effects`] for the order in which the owner carries them
//! out.
//!
//! Invariants: no input between [`Member::effects`] and [`Member::persisted`]; pre-vote and check-quorum are on, so
//! that a member that was cut off neither deposes a leader when it returns nor stays the leader alone; every number
//! that Raft would draw from the thread's entropy comes from the seed instead.

use bytes::Bytes;
use ottla_model::{CoordinatorId, Revision};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};
use raft::{RawNode, Ready, SnapshotStatus, StateRole};

use crate::effects::{Committed, Effects, MemberChange, Outgoing, Persist, ReadConfirmed, Role, RoleChange};
use crate::incoming::{self, Incoming, MessageError};
use crate::jitter::Jitter;
use crate::log_store::{Bridge, LogStore, StoreError};
use crate::membership::Membership;

/// How many ticks at most a member waits before it campaigns once it *knows* that there is no leader: a few, so that
/// the members do not all campaign in the same instant.
const LEADER_GONE_TICKS_MAX: usize = 4;
/// Number of these short-timeout campaigns: the votes may be split, and the other members may not know yet that the
/// leader is gone.
const HURRIED_CAMPAIGNS_MAX: u32 = 4;

/// The configuration of a member. Times are in ticks; the owner defines their length.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    pub id: CoordinatorId,
    /// The leader sends a heartbeat after this number of ticks.
    pub heartbeat_ticks: usize,
    /// A member without a leader campaigns after a number of ticks in `election_ticks + 1..=election_ticks_max`, drawn
    /// again for each term. A leader without a majority steps down after `election_ticks`.
    pub election_ticks: usize,
    pub election_ticks_max: usize,
    /// Bytes of the entries in one append message.
    pub message_bytes_max: u64,
    /// Append messages to one member that are on their way.
    pub inflight_messages_max: usize,
    /// Entries that were proposed and not committed, in bytes: more are refused.
    pub uncommitted_bytes_max: u64,
    /// The last revision that the state machine has applied.
    pub applied: Revision,
    /// Of the election jitter: two members must not share it.
    pub jitter_seed: u64,
    /// The store is empty because this member joins a quorum that runs: it learns the members from a snapshot.
    pub joins: bool,
    /// A member that starts campaigns sooner than one that has just lost its leader, so that a quorum that starts as a
    /// whole has a leader quickly. If a leader exists, pre-vote protects it.
    pub hurry_at_start: bool,
    /// The Raft library's own log.
    pub logger: slog::Logger,
}

impl MemberConfig {
    /// With a tick of 50 ms: heartbeats every 100 ms, elections after 500–1,000 ms.
    pub fn new(id: CoordinatorId, jitter_seed: u64) -> Self {
        Self {
            id,
            heartbeat_ticks: 2,
            election_ticks: 10,
            election_ticks_max: 20,
            message_bytes_max: 1024 * 1024,
            inflight_messages_max: 128,
            uncommitted_bytes_max: 64 * 1024 * 1024,
            applied: Revision(0),
            jitter_seed,
            joins: false,
            hurry_at_start: true,
            logger: slog::Logger::root(slog::Discard, slog::o!()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error("the store has no membership")]
    NoMembership,
    #[error("coordinator {id} is not one of the members {members:?}")]
    NotAMember { id: CoordinatorId, members: Vec<u64> },
    #[error("a peer's message was refused: {0}")]
    Refused(#[from] MessageError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
}

/// Nothing was proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    #[error("this member does not lead")]
    NotLeader,
    #[error("a leadership transfer is in progress, or too many proposals are in flight")]
    Busy,
}

/// The revisions of the proposed entries, if they commit. An entry of another term at one of these revisions proves
/// that they did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proposed {
    pub term: u64,
    pub first: Revision,
}

/// A member as the leader knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    pub id: CoordinatorId,
    pub matched: Revision,
    pub recently_active: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub id: CoordinatorId,
    pub role: RoleChange,
    pub committed: Revision,
    pub applied: Revision,
    pub last: Revision,
    /// The leader's view of every member; empty elsewhere.
    pub peers: Vec<PeerStatus>,
}

pub struct Member<S: LogStore> {
    node: RawNode<Bridge<S>>,
    membership: Membership,
    jitter: Jitter,
    election_ticks: usize,
    election_ticks_max: usize,
    /// Without a sign of a leader for this many ticks, this member campaigns.
    election_timeout: usize,
    /// The role for which the time-out was drawn.
    drawn_for: Option<RoleChange>,
    /// Campaigns that are left before the ordinary time-outs count again; 0 as soon as there is a leader.
    hurried_campaigns: u32,
    /// Handed out as effects, not yet persisted.
    pending: Option<Ready>,
    /// As last handed out.
    role: Option<RoleChange>,
}

impl<S: LogStore> Member<S> {
    /// Continues from the state in `store`. A store that was never bootstrapped is refused.
    pub fn new(config: &MemberConfig, store: S) -> Result<Self, MemberError> {
        let initial = store.initial_state()?;
        let membership = match Membership::from_conf_state(&initial.conf_state) {
            Some(membership) if membership.contains(config.id) => membership,
            Some(membership) => {
                let members = membership.members().map(|id| id.0).collect();
                return Err(MemberError::NotAMember { id: config.id, members });
            }
            None if config.joins && initial.conf_state == ConfState::default() => Membership::default(),
            None => return Err(MemberError::NoMembership),
        };
        let raft_config = raft::Config {
            id: config.id.0,
            election_tick: config.election_ticks,
            heartbeat_tick: config.heartbeat_ticks,
            applied: config.applied.0,
            max_size_per_msg: config.message_bytes_max,
            max_inflight_msgs: config.inflight_messages_max,
            check_quorum: true,
            pre_vote: true,
            // One wide: the library's draw is this very number, after which `tick` has campaigned by the seed's.
            min_election_tick: config.election_ticks_max + 1,
            max_election_tick: config.election_ticks_max + 2,
            batch_append: true,
            max_uncommitted_size: config.uncommitted_bytes_max,
            max_committed_size_per_ready: config.uncommitted_bytes_max,
            ..raft::Config::default()
        };
        raft_config.validate()?;
        let node = RawNode::new(&raft_config, Bridge::new(store, config.applied), &config.logger)?;
        let mut member = Self {
            node,
            membership,
            jitter: Jitter::new(config.jitter_seed),
            election_ticks: config.election_ticks,
            election_ticks_max: config.election_ticks_max,
            election_timeout: 0,
            drawn_for: None,
            hurried_campaigns: if config.hurry_at_start { HURRIED_CAMPAIGNS_MAX } else { 0 },
            pending: None,
            role: None,
        };
        member.redraw();
        Ok(member)
    }

    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    pub fn store(&self) -> &S {
        &self.node.store().store
    }

    pub fn store_mut(&mut self) -> &mut S {
        &mut self.node.mut_store().store
    }

    /// Gives the store back.
    pub fn into_store(self) -> S {
        self.node.raft.r.raft_log.store.store
    }

    /// Draws another election timeout if the role, the leader or the term has changed.
    fn redraw(&mut self) {
        let role = self.role();
        if role.leader.is_some() {
            self.hurried_campaigns = 0;
        }
        if self.drawn_for.replace(role) != Some(role) {
            self.election_timeout = match self.hurried_campaigns {
                0 => self.jitter.draw(self.election_ticks + 1, self.election_ticks_max),
                _ => self.jitter.draw(1, LEADER_GONE_TICKS_MAX),
            };
        }
    }

    fn assert_nothing_pending(&self) {
        debug_assert!(self.pending.is_none(), "input between effects() and persisted()");
    }

    /// One tick of the owner's clock passed.
    pub fn tick(&mut self) {
        self.assert_nothing_pending();
        let raft = &mut self.node.raft;
        if raft.state != StateRole::Leader && raft.election_elapsed + 1 >= self.election_timeout {
            raft.election_elapsed = 0;
            // A learner only waits: the library's own check of this is in the time-out that is replaced here.
            if !raft.promotable() {
                // It may have been told of a leader that is gone.
                self.redraw();
                return;
            }
            // As the library does on its own timeout; it refuses only if this member already leads.
            let _ = self.node.campaign();
            // Also if the role stays the same (a second campaign in the same term): a split vote must not repeat
            // itself.
            self.drawn_for = None;
            self.hurried_campaigns = self.hurried_campaigns.saturating_sub(1);
        } else {
            self.node.tick();
        }
        self.redraw();
    }

    /// A message from another member came.
    pub fn step(&mut self, message: &Bytes) -> Result<(), MemberError> {
        self.receive(Incoming::parse(message)?)
    }

    /// Whether [`Self::receive`] would take the message now.
    pub fn check(&self, incoming: &Incoming) -> Result<(), MessageError> {
        incoming::check(&self.node.raft, &self.membership, &incoming.message)
    }

    /// A message from another member came, and its snapshot, if it carries one, can become the state machine.
    pub fn receive(&mut self, incoming: Incoming) -> Result<(), MemberError> {
        self.assert_nothing_pending();
        self.check(&incoming)?;
        let result = self.node.step(incoming.message);
        self.redraw();
        match result {
            // Late messages without a receiver; not an error.
            Err(raft::Error::StepPeerNotFound | raft::Error::ProposalDropped) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Proposes `entries`, in order, as one message: they commit together, or, after a change of leader, only a prefix
    /// of them commits.
    pub fn propose(&mut self, entries: Vec<Bytes>) -> Result<Proposed, ProposeError> {
        self.assert_nothing_pending();
        if !self.is_leader() {
            return Err(ProposeError::NotLeader);
        }
        let proposed =
            Proposed { term: self.node.raft.term, first: Revision(self.node.raft.raft_log.last_index() + 1) };
        if entries.is_empty() {
            return Ok(proposed);
        }
        let entries: Vec<Entry> = entries.into_iter().map(|data| Entry { data, ..Entry::default() }).collect();
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        message.set_entries(entries.into());
        match self.node.step(message) {
            Ok(()) => Ok(proposed),
            Err(_) => Err(ProposeError::Busy),
        }
    }

    /// Proposes a change of the membership, with the entry's own data. It must not be called while an earlier change is
    /// not applied ([`Self::is_changing`]), in which case nothing is proposed.
    pub fn propose_change(&mut self, change: MemberChange, data: Bytes) -> Result<Proposed, ProposeError> {
        self.assert_nothing_pending();
        if !self.is_leader() {
            return Err(ProposeError::NotLeader);
        }
        if self.is_changing() {
            return Err(ProposeError::Busy);
        }
        let proposed =
            Proposed { term: self.node.raft.term, first: Revision(self.node.raft.raft_log.last_index() + 1) };
        match self.node.propose_conf_change(data.to_vec(), change.to_raft()) {
            Ok(()) => Ok(proposed),
            Err(_) => Err(ProposeError::Busy),
        }
    }

    /// Whether an entry may change the membership that is not applied yet.
    pub fn is_changing(&self) -> bool {
        self.node.raft.has_pending_conf()
    }

    /// Applies a committed change of the membership. The owner stores the result in the batch that holds the rest of
    /// the entry. An impossible change (it would leave no voter) is refused, and every member refuses it.
    pub fn change_membership(&mut self, change: MemberChange) -> Result<ConfState, MemberError> {
        self.assert_nothing_pending();
        self.node.apply_conf_change(&change.to_raft())?;
        self.membership_changed();
        // Not the library's own form: that has the order of a hash set.
        Ok(self.membership.to_conf_state())
    }

    /// The membership is not that of the first start: see [`Bridge::membership_changed`].
    pub fn membership_changed(&mut self) {
        self.node.mut_store().membership_changed = true;
        self.read_membership();
    }

    fn read_membership(&mut self) {
        let state = self.node.raft.prs().conf().to_conf_state();
        self.membership = Membership::from_conf_state(&state).unwrap_or_default();
    }

    /// Requests the revision that a linearizable read must see. The answer is an effect. Without a leader, or before
    /// the leader's first entry is committed, there is no answer, and the caller must repeat the request. `context`
    /// must be unique among all members and all their incarnations.
    pub fn read_index(&mut self, context: Vec<u8>) {
        self.assert_nothing_pending();
        self.node.read_index(context);
    }

    /// Campaigns now, if this member is a voter.
    pub fn campaign(&mut self) -> Result<(), MemberError> {
        self.assert_nothing_pending();
        if !self.node.raft.promotable() {
            return Ok(());
        }
        self.node.campaign()?;
        self.redraw();
        Ok(())
    }

    /// The owner knows that this coordinator's process has ended (its address refuses connections). If it was the
    /// leader, the election does not wait for its timeout. A false alarm costs one pre-vote, which the other members
    /// refuse because they still hear the leader.
    pub fn leader_gone(&mut self, id: CoordinatorId) {
        self.assert_nothing_pending();
        let raft = &mut self.node.raft;
        if raft.leader_id != id.0 || raft.state != StateRole::Follower {
            return;
        }
        let term = raft.term;
        raft.become_follower(term, raft::INVALID_ID);
        self.hurried_campaigns = HURRIED_CAMPAIGNS_MAX;
        self.redraw();
    }

    /// Transfers the leadership to the voter with the most complete log. None if this member does not lead, or no other
    /// voter answers.
    pub fn transfer_leadership(&mut self) -> Option<CoordinatorId> {
        self.assert_nothing_pending();
        if !self.is_leader() {
            return None;
        }
        let me = self.id();
        let heir = self
            .status()
            .peers
            .into_iter()
            .filter(|peer| peer.id != me && peer.recently_active && self.membership.is_voter(peer.id))
            .max_by_key(|peer| (peer.matched, peer.id))?;
        self.node.transfer_leader(heir.id.0);
        Some(heir.id)
    }

    /// Transfers the leadership to this voter. The library gives it up if the voter does not take over within an
    /// election timeout. Nothing happens if this member does not lead.
    pub fn transfer_leadership_to(&mut self, heir: CoordinatorId) {
        self.assert_nothing_pending();
        if self.is_leader() && self.membership.is_voter(heir) {
            self.node.transfer_leader(heir.0);
        }
    }

    /// A message to this member could not be sent.
    pub fn report_unreachable(&mut self, id: CoordinatorId) {
        self.assert_nothing_pending();
        self.node.report_unreachable(id.0);
    }

    /// A snapshot to this member was sent, or was not.
    pub fn report_snapshot(&mut self, id: CoordinatorId, sent: bool) {
        self.assert_nothing_pending();
        self.node.report_snapshot(id.0, if sent { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// Whether Raft needs a snapshot for a member that the store did not have. The owner makes one; Raft requests it
    /// again by itself.
    pub fn take_snapshot_wanted(&mut self) -> bool {
        self.node.mut_store().snapshot_wanted.take()
    }

    /// The effects to execute now; none if there are none. The owner must call [`Member::persisted`] afterwards.
    pub fn effects(&mut self) -> Option<Effects> {
        self.assert_nothing_pending();
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let snapshot = Some(ready.snapshot().clone()).filter(|snapshot| !snapshot.is_empty());
        let effects = Effects {
            messages: outgoing(ready.take_messages()),
            persist: Persist {
                snapshot,
                entries: ready.take_entries(),
                hard_state: ready.hs().cloned(),
                must_sync: ready.must_sync(),
            },
            messages_after_persist: outgoing(ready.take_persisted_messages()),
            committed: committed(ready.take_committed_entries()),
            reads: reads(ready.take_read_states()),
            role: self.role_change(),
        };
        self.pending = Some(ready);
        Some(effects)
    }

    /// The last effects' batch is written, and synced if required; a snapshot in it has replaced the state machine.
    pub fn persisted(&mut self) -> Effects {
        let Some(ready) = self.pending.take() else {
            return Effects::default();
        };
        let snapshot_index = ready.snapshot().get_metadata().index;
        let mut light = self.node.advance_append(ready);
        if snapshot_index != 0 {
            self.node.advance_apply_to(snapshot_index);
            self.read_membership();
        }
        Effects {
            messages: outgoing(light.take_messages()),
            committed: committed(light.take_committed_entries()),
            role: self.role_change(),
            ..Effects::default()
        }
    }

    /// Every committed entry up to `revision` is applied.
    pub fn applied(&mut self, revision: Revision) {
        if revision.0 > self.node.raft.raft_log.applied {
            self.node.advance_apply_to(revision.0);
        }
    }

    fn role_change(&mut self) -> Option<RoleChange> {
        let now = self.role();
        let changed = self.role.replace(now) != Some(now);
        changed.then_some(now)
    }

    pub fn id(&self) -> CoordinatorId {
        CoordinatorId(self.node.raft.id)
    }

    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub fn role(&self) -> RoleChange {
        let raft = &self.node.raft;
        RoleChange {
            role: match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            },
            leader: (raft.leader_id != raft::INVALID_ID).then_some(CoordinatorId(raft.leader_id)),
            term: raft.term,
        }
    }

    /// Whether a voter has the whole log of this leader. False if this member does not lead.
    pub fn has_whole_log(&self, voter: CoordinatorId) -> bool {
        let raft = &self.node.raft;
        self.is_leader()
            && raft.prs().get(voter.0).is_some_and(|progress| progress.matched >= raft.raft_log.last_index())
    }

    /// Whether this member leads, every member has its whole log, and no transfer of the leadership is under way.
    pub fn is_settled(&self) -> bool {
        let raft = &self.node.raft;
        let last = raft.raft_log.last_index();
        self.is_leader() && raft.lead_transferee.is_none() && raft.prs().iter().all(|(_, it)| it.matched >= last)
    }

    /// The number of ticks after which [`Self::tick`] campaigns, if this member does not lead and hears no leader.
    pub fn ticks_to_campaign(&self) -> u32 {
        let left = self.election_timeout.saturating_sub(self.node.raft.election_elapsed).max(1);
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    pub fn status(&self) -> Status {
        let raft = &self.node.raft;
        let mut peers: Vec<PeerStatus> = if self.is_leader() {
            raft.prs()
                .iter()
                .map(|(&id, progress)| PeerStatus {
                    id: CoordinatorId(id),
                    matched: Revision(progress.matched),
                    recently_active: progress.recent_active,
                })
                .collect()
        } else {
            Vec::new()
        };
        // The library keeps them in a hash map.
        peers.sort_by_key(|peer| peer.id);
        Status {
            id: self.id(),
            role: self.role(),
            committed: Revision(raft.raft_log.committed),
            applied: Revision(raft.raft_log.applied),
            last: Revision(raft.raft_log.last_index()),
            peers,
        }
    }

    pub fn committed(&self) -> Revision {
        Revision(self.node.raft.raft_log.committed)
    }

    /// Whether an entry of this leader's own term is committed: before that, it must not decide anything.
    pub fn has_committed_in_term(&self) -> bool {
        self.is_leader() && self.node.raft.commit_to_current_term()
    }
}

fn outgoing(messages: Vec<Message>) -> Vec<Outgoing> {
    // Writing to memory fails only for a message above 2 GiB, which the limits above exclude.
    let mut outgoing: Vec<Outgoing> = messages.into_iter().filter_map(Outgoing::new).collect();
    // The library iterates over a hash map of members: the order of members differs from run to run, the order of one
    // member's messages does not.
    outgoing.sort_by_key(|message| message.to);
    outgoing
}

fn committed(entries: Vec<Entry>) -> Vec<Committed> {
    entries
        .into_iter()
        .map(|entry| {
            let (revision, term) = (Revision(entry.index), entry.term);
            match entry.get_entry_type() {
                EntryType::EntryNormal => Committed { revision, term, data: entry.data, member_change: None },
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    let member_change = MemberChange::from_entry(&entry);
                    Committed { revision, term, data: entry.context, member_change }
                }
            }
        })
        .collect()
}

fn reads(states: Vec<raft::ReadState>) -> Vec<ReadConfirmed> {
    states
        .into_iter()
        .map(|state| ReadConfirmed { context: state.request_ctx, revision: Revision(state.index) })
        .collect()
}
