//! Coordinators come, go and are replaced while the quorum runs.

use ottla_metadata::controller::Refusal;
use ottla_quorum_node::identity::Conflict;

use super::*;

/// Coordinators at a time.
const COORDINATORS_MAX: usize = 5;
const COORDINATORS_MIN: usize = 3;
/// A coordinator that starts asks its peers who it is until it has heard all, and decides by answers of this age at
/// most.
const ANSWER_AGE_MAX_MS: u64 = 500;

impl World {
    /// The members of the quorum, by the newest image.
    fn members(&self) -> BTreeSet<CoordinatorId> {
        let coordinators = self.image.coordinators();
        coordinators.filter(|(_, one)| one.node.standing != Standing::Removed).map(|(id, _)| id).collect()
    }

    /// Whether the newest quorum has no part for this coordinator any more.
    pub(super) fn is_retired(&self, node: NodeId) -> bool {
        let NodeId::Coordinator(id) = node else { return false };
        let disk = self.coordinators.get(&id).and_then(CoordinatorNode::disk_id);
        let recorded = self.image.coordinator(CoordinatorId(id)).map(|one| &one.node);
        recorded.is_some_and(|node| node.standing == Standing::Removed && Some(node.disk) == disk)
    }

    /// Whether the quorum has no part for this coordinator, whatever its disk is.
    pub(super) fn was_removed(&self, id: u64) -> bool {
        let recorded = self.image.coordinator(CoordinatorId(id)).map(|one| &one.node);
        recorded.is_some_and(|node| node.standing == Standing::Removed)
    }

    /// Whether members may be lost or removed: people do one thing at a time.
    pub fn is_quorum_whole(&self) -> bool {
        let is_changing = self.admin.iter().any(|task| matches!(task, AdminTask::ChangeQuorum(_)));
        let has_lost = self.coordinators.keys().any(|id| self.has_lost_disk(*id));
        !is_changing && !has_lost && self.members().len() > 2
    }

    fn change_quorum(&mut self, change: ChangeQuorum) {
        self.trace.line(self.now, format_args!("admin: {change:?}"));
        self.admin.push(AdminTask::ChangeQuorum(change));
    }

    fn add(&mut self, id: u64) {
        let Some(disk) = self.coordinators.get(&id).and_then(CoordinatorNode::disk_id) else { return };
        let coordinator = CoordinatorId(id);
        let address = coordinator_node::address_of(coordinator);
        self.change_quorum(ChangeQuorum::Add { coordinator, disk, address });
        self.start_after(NodeId::Coordinator(id), 20);
    }

    /// Another coordinator, if there is room: a new one, or one that was removed, with another disk.
    pub fn grow_quorum(&mut self) {
        // With fewer there is no quorum yet whose members a new one could be told.
        let is_possible = (COORDINATORS_MIN..COORDINATORS_MAX).contains(&self.members().len());
        if !self.is_admin_done() || !is_possible {
            return;
        }
        let retired = self.coordinators.keys().copied().find(|id| self.is_retired(NodeId::Coordinator(*id)));
        let id = match retired {
            Some(id) => {
                self.lose_disk(id);
                self.renew_list(id);
                id
            }
            None if self.coordinators.len() >= COORDINATORS_MAX => return,
            None => {
                let id = self.coordinators.last_key_value().map_or(1, |(id, _)| id + 1);
                let settings = self.config.coordinator_settings([]);
                let node = CoordinatorNode::new(CoordinatorId(id), settings, self.random.fork());
                self.coordinators.insert(id, node);
                self.renew_list(id);
                id
            }
        };
        self.add(id);
    }

    pub fn shrink_quorum(&mut self, id: u64) {
        if self.is_quorum_whole()
            && self.members().len() > COORDINATORS_MIN
            && self.members().contains(&CoordinatorId(id))
        {
            self.change_quorum(ChangeQuorum::Remove { coordinator: CoordinatorId(id), disk: None, force: false });
        }
    }

    /// The member that lost its disk gives way to one with an empty disk, under the same id.
    pub fn replace_member(&mut self) {
        let lost = self.coordinators.keys().copied().find(|id| self.has_lost_disk(*id));
        let Some(id) = lost.filter(|_| self.is_admin_done()) else { return };
        // The old list does too: members that it names name the others.
        if self.random.percent(50) || !self.finds_members(id) {
            self.renew_list(id);
        }
        let coordinator = CoordinatorId(id);
        // What the quorum knows: another disk that comes with this id must not be removed by a late repetition.
        let disk = self.image.coordinator(coordinator).map(|one| one.node.disk);
        self.change_quorum(ChangeQuorum::Remove { coordinator, disk, force: false });
        self.add(id);
    }

    /// A stranger who has reached a coordinator's port opens a stream there in the name of another coordinator: ids and
    /// disks are public.
    pub fn forge_stream(&mut self, to: u64) {
        let named = self.coordinators.iter().filter(|(id, node)| **id != to && node.is_member());
        let named: Vec<_> = named.filter_map(|(id, node)| Some((*id, node.disk_id()?))).collect();
        let Some((id, disk)) = self.random.pick(&named).copied() else { return };
        let (from, to) = (NodeId::Coordinator(id), NodeId::Coordinator(to));
        let stream = self.random.next_u64() | 1 << 63;
        self.forged_streams.insert(stream);
        let what = format_args!("a stranger opens stream {stream} to {to} in the name of {from}");
        self.trace.line(self.now, what);
        let (at, to_life) = (self.now.plus_us(100), self.life(to));
        let message = Message::Raft { stream, disk, bytes: bytes::Bytes::from_static(b"forged") };
        self.schedule(at, Event::Deliver { from, to, to_life, message });
    }

    /// Somebody asks to hand the quorum over.
    pub fn transfer_quorum(&mut self, to: u64) {
        if self.is_admin_done() {
            self.change_quorum(ChangeQuorum::TransferLeadership { to: Some(CoordinatorId(to)) });
        }
    }

    pub(super) fn quorum_changed(&mut self, refusal: Option<Refusal>) {
        use ottla_model::ErrorCode::{DuplicateVoter, InvalidVoterKey, VoterNotFound};
        let Some(AdminTask::ChangeQuorum(change)) = self.admin.first() else { return };
        if let Some(refusal) = &refusal {
            let is_done = matches!(refusal.error, VoterNotFound | InvalidVoterKey | DuplicateVoter);
            // A removal that names the disk is the first half of a replacement.
            let is_repeated = matches!(change, ChangeQuorum::Add { .. } | ChangeQuorum::Remove { disk: Some(_), .. });
            self.trace.line(self.now, format_args!("admin: {refusal}"));
            // People try again until it is done: others may be down or in the way.
            if is_repeated && !is_done {
                return;
            }
        }
        self.admin.remove(0);
        self.admin_sent = SimTime(0);
    }

    /// People write the list of servers of a coordinator: the members of today, and itself.
    fn renew_list(&mut self, id: u64) {
        let listed: BTreeSet<u64> = self.members().into_iter().map(|member| member.0).chain([id]).collect();
        let settings = self.config.coordinator_settings(listed);
        if let Some(node) = self.coordinators.get_mut(&id) {
            node.settings = CoordinatorSettings { levels: node.settings.levels, ..settings };
        }
    }

    /// Whether its list names another member of today. All that a broker's list names would have to answer.
    fn finds_members(&self, id: u64) -> bool {
        let members = self.members();
        let listed = self.coordinators.get(&id).into_iter().flat_map(|node| node.settings.listed.keys());
        listed.filter(|listed| listed.0 != id).any(|listed| members.contains(listed))
    }

    /// People write new lists of servers for coordinators that cannot find the quorum by theirs, and start them again.
    pub(super) fn renew_lists(&mut self) {
        if self.members().len() < COORDINATORS_MIN {
            return;
        }
        let all: Vec<u64> = self.coordinators.keys().copied().collect();
        for id in all {
            let waits = self.coordinators.get(&id).is_some_and(|node| !node.is_member() && !node.has_place());
            if waits && !self.finds_members(id) {
                self.trace.line(self.now, format_args!("c{id} gets a new list of servers"));
                self.renew_list(id);
                self.kill(NodeId::Coordinator(id));
            }
        }
    }

    /// Whether the host has another disk than the quorum knows of its member: it must not vote.
    pub(super) fn has_lost_disk(&self, id: u64) -> bool {
        let Some(node) = self.coordinators.get(&id) else { return false };
        match self.image.coordinator(CoordinatorId(id)).map(|one| &one.node) {
            Some(known) => known.standing != Standing::Removed && Some(known.disk) != node.disk_id(),
            None => node.replaces_member(),
        }
    }

    /// A coordinator must not end while the quorum counts on it.
    pub(super) fn check_ended(&self, id: u64, conflict: &Conflict) -> Result<(), Violation> {
        let (me, node) = (CoordinatorId(id), self.coordinators.get(&id));
        let Some(disk) = node.and_then(CoordinatorNode::disk_id) else { return Ok(()) };
        let known = self.image.coordinator(me).map(|one| &one.node);
        let is_known = known.is_some_and(|known| known.disk == disk);
        let is_right = match conflict {
            Conflict::Removed { .. } => is_known && self.is_retired(NodeId::Coordinator(id)),
            Conflict::LostDisk { .. } => !is_known || self.is_outvoted(me, disk),
            Conflict::OtherVoters { .. } => self.image.revision() == Revision(0),
            _ => false,
        };
        if is_right {
            return Ok(());
        }
        Err(Violation(format!("c{id} ends itself, though the quorum counts on it, or may: {conflict}")))
    }

    /// Whether so many members do not know yet that this disk belongs to the quorum that their word may end it, or
    /// whether nobody who knows it can be asked. They may have been asked just before they knew it.
    fn is_outvoted(&self, me: CoordinatorId, disk: IncarnationId) -> bool {
        if self.disks_since.get(&me).is_some_and(|since| self.now < since.plus_ms(ANSWER_AGE_MAX_MS)) {
            return true;
        }
        let members = self.members();
        let others: Vec<_> = members.iter().filter(|id| **id != me).collect();
        let knows = |id: &CoordinatorId| {
            let image = self.coordinators.get(&id.0).and_then(CoordinatorNode::image);
            image.and_then(|image| image.coordinator_disk(me)) == Some(disk)
        };
        let can_be_asked = |id: &CoordinatorId| {
            let node = NodeId::Coordinator(id.0);
            self.network.is_connected(NodeId::Coordinator(me.0), node) && !self.is_paused(node)
        };
        let lagging = others.iter().filter(|id| !knows(id)).count();
        let has_witness = others.iter().any(|id| knows(id) && can_be_asked(id));
        !has_witness || lagging > members.len() / 2 || lagging == others.len()
    }

    /// People turn off the coordinators that were removed.
    pub(super) fn turn_off_retired(&mut self) {
        let all: Vec<u64> = self.coordinators.keys().copied().collect();
        for id in all {
            let node = NodeId::Coordinator(id);
            if self.is_retired(node) && self.is_running(node) {
                self.trace.line(self.now, format_args!("{node} was removed, and is turned off"));
                self.kill(node);
            }
        }
    }
}
