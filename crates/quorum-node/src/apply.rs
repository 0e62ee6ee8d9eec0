//! Committed entries → tree, image, store, watchers, controller; in this order.

use std::sync::Arc;

use ottla_consensus::log_store::ConfState;
use ottla_consensus::{Committed, Role};
use ottla_metadata::controller::{AdmitCoordinator, ControllerConfig, Now};
use ottla_metadata::delta::Delta;
use ottla_metadata::image::Image;
use ottla_metadata::transaction::{Transaction, TransactionError};
use ottla_metadata::tree::{NodeChange, Tree};
use ottla_model::Revision;

use crate::event::{AppliedEntry, Output, Sink, note};
use crate::leadership::Applied;
use crate::members::Members;
use crate::node::{Node, NodeError};
use crate::snapshot;
use crate::store::{AppliedPlace, QuorumStore};
use crate::view::View;
use crate::watchers::Changes;

/// The part of the log that a compaction keeps, as a fraction of the size that triggers it: a member that was away for
/// a short time then needs no snapshot.
const LOG_TAIL_DIVISOR: u64 = 4;

/// How one entry went.
struct Step {
    revision: Revision,
    term: u64,
    is_empty: bool,
    result: Result<(), TransactionError>,
    changes: Arc<[NodeChange]>,
    /// The members from here on, if the entry changed them.
    conf_state: Option<ConfState>,
    touches_members: bool,
    delta: Arc<Delta>,
    tree: Tree,
    image: Image,
}

impl<S: QuorumStore> Node<S> {
    pub(crate) fn apply(&mut self, now: Now, committed: Vec<Committed>, out: &mut impl Sink) -> Result<(), NodeError> {
        let Some(last) = committed.last().map(|entry| AppliedPlace { revision: entry.revision, term: entry.term })
        else {
            return Ok(());
        };
        let mut steps = Vec::with_capacity(committed.len());
        let mut conf_state = None;
        for entry in committed {
            // After a crash the log may return entries again that the tree on the disk already contains.
            if entry.revision > self.applied.revision {
                let step = self.apply_entry(entry, out);
                conf_state = step.conf_state.clone().or(conf_state);
                steps.push(step);
            }
        }
        self.applied = self.applied.max(last);
        let changes = steps.iter().flat_map(|step| step.changes.iter());
        self.member.store_mut().apply(changes, self.applied, conf_state.as_ref())?;
        self.member.applied(self.applied.revision);
        self.publish(out);
        let touches_members = steps.iter().any(|step| step.touches_members);
        if touches_members {
            self.publish_members(out);
        }
        for step in &steps {
            let changes = Changes { revision: step.revision, changes: step.changes.clone() };
            self.watchers.publish(changes, out);
        }
        for step in steps {
            self.tell_controller(now, step, out);
        }
        if touches_members {
            self.advance_members(now, out);
        }
        self.compact()
    }

    /// An entry that cannot be decoded or applied changes only the revision. Every member decides this from the same
    /// bytes, and no member may end because of another member's proposal.
    fn apply_entry(&mut self, entry: Committed, out: &mut impl Sink) -> Step {
        let revision = entry.revision;
        let is_empty = entry.data.is_empty() && entry.member_change.is_none();
        let mut problem = None;
        let mut result = Ok(());
        let mut changes = Vec::new();
        let mut conf_state = None;
        let before = self.tree.clone();
        if is_empty {
            self.tree.advance(revision);
        } else {
            let applied = match Transaction::decode(&entry.data) {
                Ok(transaction) => self.tree.apply(revision, &transaction),
                Err(error) => {
                    self.tree.advance(revision);
                    problem = Some(format!("entry {revision} cannot be decoded and is skipped: {error}"));
                    Err(TransactionError::Unreadable)
                }
            };
            match applied {
                Ok(made) => changes = made,
                Err(refused) => {
                    problem.get_or_insert_with(|| format!("entry {revision} changes nothing: {refused}"));
                    result = Err(refused);
                }
            }
        }
        if let Some(change) = entry.member_change.filter(|_| result.is_ok()) {
            match self.member.change_membership(change) {
                Ok(changed) => conf_state = Some(changed),
                // As above: one decision of all members.
                Err(refused) => {
                    problem = Some(format!("entry {revision} changes no member: {refused}"));
                    result = Err(TransactionError::Unreadable);
                    (self.tree, changes) = (before, Vec::new());
                    self.tree.advance(revision);
                }
            }
        }
        if let Some(text) = &problem {
            note(out, true, text.clone());
        }
        let changes: Arc<[NodeChange]> = changes.into();
        let (image, delta) = self.image.apply(revision, &changes);
        self.image = image;
        if self.leadership.is_none() {
            // A member that does not lead may have to, and must by then know which brokers it can reach.
            for new in delta.brokers.iter().filter_map(|change| change.new.as_ref()) {
                self.probe_unreached(new, out);
            }
        }
        for path in &delta.undecodable {
            note(out, true, format!("{path} cannot be decoded by this release"));
        }
        out.put(Output::Applied(AppliedEntry { revision, tree: self.tree.clone(), problem }));
        Step {
            revision,
            term: entry.term,
            is_empty,
            result,
            changes,
            conf_state,
            touches_members: delta.coordinators_changed || delta.finalized_changed,
            delta: Arc::new(delta),
            tree: self.tree.clone(),
            image: self.image.clone(),
        }
    }

    fn publish(&mut self, out: &mut impl Sink) {
        self.view = Arc::new(View::new(self.tree.clone(), self.image.clone()));
        out.put(Output::Published(self.view.clone()));
    }

    /// The members, or what is known of them, may have changed.
    pub(crate) fn publish_members(&mut self, out: &mut impl Sink) {
        let is_changed = self.image.coordinators().any(|(_, coordinator)| coordinator.node.is_live_change);
        if is_changed {
            self.member.membership_changed();
        }
        let mut members = Members::new(self.member.membership(), &self.image, &self.config.voters);
        let vouched = self.members.vouched.clone().into_iter();
        let vouched = vouched.filter(|(id, one)| members.get(*id).is_none() && !members.was_removed(*id, one.disk));
        members.vouched = vouched.collect();
        if *self.members == members {
            return;
        }
        if is_changed && !members.by_id.contains_key(&self.member.id()) && !self.member.membership().is_empty() {
            note(out, true, "was removed from the quorum".to_owned());
            out.put(Output::Removed);
        }
        self.members = Arc::new(members);
        out.put(Output::Members(self.members.clone()));
    }

    fn tell_controller(&mut self, now: Now, step: Step, out: &mut impl Sink) {
        let Some(leadership) = &mut self.leadership else { return };
        if leadership.is_deciding() {
            let Step { revision, result, changes, delta, tree, image, .. } = step;
            let state = Box::new((tree, image));
            leadership.applied(now, Applied { revision, result, changes, delta, state }, out);
        } else if step.is_empty && step.term == leadership.term && self.member.role().role == Role::Leader {
            // This leader's own first entry: the tree now has everything that was ever committed. Later entries of the
            // same batch cannot exist, because only this controller would have proposed them.
            self.begin_deciding(now, out);
        }
    }

    pub(crate) fn begin_deciding(&mut self, now: Now, out: &mut impl Sink) {
        let config = self.controller_config();
        let state = (self.tree.clone(), self.image.clone());
        let reached = std::mem::take(&mut self.reached);
        if let Some(leadership) = &mut self.leadership {
            leadership.begin(now, config, state, reached, out);
        }
    }

    fn controller_config(&self) -> ControllerConfig {
        let coordinators = self.members.by_id.iter().filter_map(|(&coordinator, member)| {
            Some(AdmitCoordinator { coordinator, disk: member.disk?, address: member.address.clone() })
        });
        ControllerConfig { coordinators: coordinators.collect(), ..self.config.controller.clone() }
    }

    /// A snapshot replaced the state on the disk.
    pub(crate) fn install(&mut self, tree: Tree, term: u64, out: &mut impl Sink) {
        self.applied = AppliedPlace { revision: tree.revision(), term };
        self.image = Image::from_tree(&tree);
        self.tree = tree;
        let text = format!("installed a snapshot at revision {}, {} nodes", self.applied.revision, self.tree.len());
        note(out, false, text);
        out.put(Output::Applied(AppliedEntry {
            revision: self.applied.revision,
            tree: self.tree.clone(),
            problem: None,
        }));
        self.publish(out);
        self.publish_members(out);
        self.watchers.reset(&self.view, out);
    }

    /// The tree of a snapshot that Raft wants to write. It was decoded when the snapshot arrived; if another snapshot
    /// arrived since, it is decoded again.
    pub(crate) fn snapshot_tree(&mut self, snapshot: &ottla_consensus::Snapshot) -> Result<Tree, NodeError> {
        let metadata = snapshot.get_metadata();
        if let Some((index, term, tree)) = self.received_snapshot.take()
            && (index, term) == (metadata.index, metadata.term)
        {
            return Ok(tree);
        }
        Ok(snapshot::decode(Revision(metadata.index), snapshot.data.clone())?)
    }

    /// The tree on the disk contains all applied entries: the log can drop them.
    fn compact(&mut self) -> Result<(), NodeError> {
        let limit = self.config.compact_bytes;
        let store = self.member.store_mut();
        if store.log_bytes() <= limit {
            return Ok(());
        }
        let through = store.index_with_tail(limit / LOG_TAIL_DIVISOR).min(self.applied.revision.0);
        Ok(store.compact(through)?)
    }
}
