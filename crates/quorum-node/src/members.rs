//! The members of the quorum as this node knows them: who belongs to it, with which disk, and where it is reached.
//!
//! Raft's membership says who is a member; the tree says with which disk and at which address, in the same entry. For
//! members of the first quorum the configured list counts: its addresses may change without a change of the quorum.

use std::collections::BTreeMap;

use ottla_consensus::Membership;
use ottla_metadata::image::{Image, Standing};
use ottla_model::{CoordinatorId, FeatureLevel, IncarnationId, Revision};

use crate::disks::Voter;

/// One member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberInfo {
    pub address: String,
    /// The disk that it votes with; none if it was never seen.
    pub disk: Option<IncarnationId>,
    /// A learner has no vote yet.
    pub is_voter: bool,
}

/// A coordinator that this node does not know as a member, but another member does. It may have become one by entries
/// that this node does not have yet, and this node's vote may be needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vouched {
    pub disk: IncarnationId,
    /// Where this node's answers reach it.
    pub address: String,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    /// Of the last change of the running quorum; 0: there was none.
    pub revision: Revision,
    pub by_id: BTreeMap<CoordinatorId, MemberInfo>,
    /// The disks of those that were removed.
    pub removed: BTreeMap<CoordinatorId, IncarnationId>,
    /// None of them is in `by_id`.
    pub vouched: BTreeMap<CoordinatorId, Vouched>,
    /// The level of `ottla.version` at which all of them must work.
    pub finalized: FeatureLevel,
}

impl Default for Members {
    fn default() -> Self {
        Self {
            revision: Revision(0),
            by_id: BTreeMap::new(),
            removed: BTreeMap::new(),
            vouched: BTreeMap::new(),
            finalized: FeatureLevel::FIRST,
        }
    }
}

impl Members {
    pub fn new(membership: &Membership, image: &Image, configured: &BTreeMap<CoordinatorId, Voter>) -> Self {
        let info = |id: CoordinatorId| {
            let recorded = image.coordinator(id).map(|coordinator| &coordinator.node);
            let listed = configured.get(&id);
            let address = match (recorded, listed) {
                (Some(node), None) => node.address.clone(),
                (Some(node), Some(_)) if node.is_live_change => node.address.clone(),
                (_, Some(voter)) => voter.address.clone(),
                (None, None) => String::new(),
            };
            let disk = recorded.map(|node| node.disk).or_else(|| listed?.disk);
            (id, MemberInfo { address, disk, is_voter: membership.is_voter(id) })
        };
        // A member that joins knows only the list with which it was told to join.
        let by_id = match membership.is_empty() {
            true => configured.keys().copied().map(info).collect(),
            false => membership.members().map(info).collect(),
        };
        let live = image.coordinators().filter(|(_, coordinator)| coordinator.node.is_live_change);
        let revision = live.map(|(_, coordinator)| coordinator.modified).max().unwrap_or_default();
        let removed = image.coordinators().filter(|(_, coordinator)| coordinator.node.standing == Standing::Removed);
        let removed = removed.map(|(id, coordinator)| (id, coordinator.node.disk)).collect();
        Self { revision, by_id, removed, vouched: BTreeMap::new(), finalized: image.finalized().level }
    }

    pub fn get(&self, id: CoordinatorId) -> Option<&MemberInfo> {
        self.by_id.get(&id)
    }

    pub fn address(&self, id: CoordinatorId) -> Option<&str> {
        self.by_id.get(&id).map(|member| member.address.as_str())
    }

    /// Where messages go: to the members, and to those that others vouch for.
    pub fn destinations(&self) -> impl Iterator<Item = (CoordinatorId, &str)> + '_ {
        let members = self.by_id.iter().map(|(id, member)| (*id, member.address.as_str()));
        members.chain(self.vouched.iter().map(|(id, vouched)| (*id, vouched.address.as_str())))
    }

    pub fn voters(&self) -> impl Iterator<Item = CoordinatorId> + '_ {
        self.by_id.iter().filter(|(_, member)| member.is_voter).map(|(id, _)| *id)
    }

    /// Whether the quorum's state has not come yet: these are the members that told this one to join.
    pub fn is_hearsay(&self) -> bool {
        self.voters().next().is_none()
    }

    /// Whether this disk belonged to the quorum, and does no more.
    pub fn was_removed(&self, id: CoordinatorId, disk: IncarnationId) -> bool {
        !self.by_id.contains_key(&id) && self.removed.get(&id) == Some(&disk)
    }
}
