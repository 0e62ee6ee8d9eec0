//! Coordinators come, go and are replaced while the quorum runs.

use ottla_metadata::controller::Refusal;

use super::*;

/// Coordinators at a time.
const COORDINATORS_MAX: usize = 5;

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

    /// Whether members may be lost or removed: people do one thing at a time.
    pub fn is_quorum_whole(&self) -> bool {
        let is_changing = self.admin.iter().any(|task| matches!(task, AdminTask::ChangeQuorum(_)));
        !is_changing && !self.coordinators.values().any(CoordinatorNode::lost_its_disk) && self.members().len() > 2
    }

    fn change_quorum(&mut self, change: ChangeQuorum) {
        self.trace.line(self.now, format_args!("admin: {change:?}"));
        self.admin.push(AdminTask::ChangeQuorum(change));
    }

    fn add(&mut self, id: u64) {
        let members = self.members();
        let Some(node) = self.coordinators.get_mut(&id) else { return };
        node.join(members.into_iter());
        let Some(disk) = node.disk_id() else { return };
        let (coordinator, address) = (CoordinatorId(id), format!("c{id}"));
        self.change_quorum(ChangeQuorum::Add { coordinator, disk, address });
        self.start_after(NodeId::Coordinator(id), 20);
    }

    /// Another coordinator, if there is room: a new one, or one that was removed, with another disk.
    pub fn grow_quorum(&mut self) {
        if !self.is_admin_done() || self.members().len() >= COORDINATORS_MAX {
            return;
        }
        let retired = self.coordinators.keys().copied().find(|id| self.is_retired(NodeId::Coordinator(*id)));
        let id = match retired {
            Some(id) => {
                self.lose_disk(id);
                id
            }
            None if self.coordinators.len() >= COORDINATORS_MAX => return,
            None => {
                let id = self.coordinators.last_key_value().map_or(1, |(id, _)| id + 1);
                let (rules, node_rules) = (self.config.controller_rules, self.config.node_rules);
                let node = CoordinatorNode::new(CoordinatorId(id), rules, node_rules, self.random.fork());
                self.coordinators.insert(id, node);
                id
            }
        };
        self.add(id);
    }

    pub fn shrink_quorum(&mut self, id: u64) {
        if self.is_quorum_whole() && self.members().len() > 3 && self.members().contains(&CoordinatorId(id)) {
            self.change_quorum(ChangeQuorum::Remove { coordinator: CoordinatorId(id), disk: None, force: false });
        }
    }

    /// The member that lost its disk gives way to one with an empty disk, under the same id.
    pub fn replace_member(&mut self) {
        let lost = self.coordinators.iter().find(|(_, node)| node.lost_its_disk()).map(|(id, _)| *id);
        let Some(id) = lost.filter(|_| self.is_admin_done()) else { return };
        let coordinator = CoordinatorId(id);
        // What the quorum knows: another disk that comes with this id must not be removed by a late repetition.
        let disk = self.image.coordinator(coordinator).map(|one| one.node.disk);
        self.change_quorum(ChangeQuorum::Remove { coordinator, disk, force: false });
        self.add(id);
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

    /// A coordinator that hears of one that it does not know asks the members that it knows.
    pub(super) fn vouch(&mut self, from: NodeId, to: NodeId, message: &Message) {
        let (NodeId::Coordinator(sender), NodeId::Coordinator(receiver), Message::Raft { disk, .. }) =
            (from, to, message)
        else {
            return;
        };
        let (sender, disk) = (CoordinatorId(sender), *disk);
        if self.coordinators.get(&receiver).is_none_or(|node| node.knows(sender, disk)) {
            return;
        }
        let is_known = self.coordinators.iter().any(|(id, node)| {
            let other = NodeId::Coordinator(*id);
            other != from && other != to && self.network.is_connected(to, other) && node.knows(sender, disk)
        });
        if is_known && let Some(node) = self.coordinators.get_mut(&receiver) {
            node.vouch(sender, disk);
        }
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
