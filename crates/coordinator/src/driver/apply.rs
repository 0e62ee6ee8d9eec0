//! Committed entries → tree, image, disk, watchers, controller; in this order.

use std::sync::Arc;

use ottla_consensus::{Committed, LogStore, Role};
use ottla_metadata::controller::{AdmitCoordinator, ControllerConfig, Input};
use ottla_metadata::image::Image;
use ottla_metadata::transaction::TransactionRefused;
use ottla_metadata::tree::NodeChange;
use ottla_model::Revision;

use super::event::Event;
use super::{Driver, Fatal, LOG_TAIL_DIVISOR, leadership};
use crate::view::View;
use crate::watch::Applied;

/// How one entry went.
struct Step {
    revision: Revision,
    term: u64,
    is_empty: bool,
    result: Result<(), TransactionRefused>,
    changes: Arc<[NodeChange]>,
}

impl Driver {
    pub(super) fn apply(&mut self, committed: Vec<Committed>) -> Result<(), Fatal> {
        let Some(last) = committed.last().map(|entry| (entry.revision.0, entry.term)) else { return Ok(()) };
        let mut steps = Vec::with_capacity(committed.len());
        for entry in committed {
            // After a crash the log may hand out again what the tree on the disk already has.
            if entry.revision.0 > self.applied.0 {
                steps.push(self.apply_entry(entry)?);
            }
        }
        self.applied = self.applied.max(last);
        self.disk.apply(steps.iter().flat_map(|step| step.changes.iter()), self.applied)?;
        self.member.applied(Revision(self.applied.0));
        let published =
            steps.iter().map(|step| Applied { revision: step.revision, changes: step.changes.clone() }).collect();
        self.feed.publish(View::new(self.tree.clone(), self.image.clone()), published);
        self.config.metrics.applied(self.tree.revision(), self.member.committed());
        for step in steps {
            self.tell_controller(step);
        }
        self.compact()
    }

    fn apply_entry(&mut self, entry: Committed) -> Result<Step, Fatal> {
        let revision = entry.revision;
        let is_empty = entry.data.is_empty();
        let mut result = Ok(());
        let mut changes = Vec::new();
        if is_empty {
            self.tree.advance(revision);
        } else {
            let transaction =
                leadership::decode(&entry.data).map_err(|problem| Fatal::Entry { revision: revision.0, problem })?;
            match self.tree.apply(revision, &transaction) {
                Ok(made) => changes = made,
                Err(refused) => {
                    tracing::debug!(revision = revision.0, "a transaction was refused: {refused}");
                    result = Err(refused);
                }
            }
        }
        let changes: Arc<[NodeChange]> = changes.into();
        let (image, delta) = self.image.apply(revision, &changes);
        self.image = image;
        if self.leadership.is_none() {
            for new in delta.brokers.iter().filter_map(|change| change.new.as_ref()) {
                if !self.reached.has(new.id, new.incarnation) {
                    self.probe_broker(new);
                }
            }
        }
        for path in &delta.undecodable {
            tracing::warn!("{path} cannot be read by this release");
        }
        Ok(Step { revision, term: entry.term, is_empty, result, changes })
    }

    fn tell_controller(&mut self, step: Step) {
        let now = self.now();
        let Some(leadership) = &mut self.leadership else { return };
        if leadership.is_deciding() {
            let entry = leadership.applied(step.revision.0);
            leadership.step(
                now,
                Input::Applied { entry, revision: step.revision, result: step.result, changes: step.changes },
            );
        } else if step.is_empty && step.term == leadership.term && self.member.role().role == Role::Leader {
            // This leader's own first entry: the tree now has everything that was ever committed. Later entries of the same batch
            // cannot exist, because only this controller would have proposed them.
            let config = self.controller_config();
            let (tree, image) = (self.tree.clone(), self.image.clone());
            if let Some(leadership) = &mut self.leadership {
                leadership.begin(now, config, tree, image, std::mem::take(&mut self.reached));
            }
        }
    }

    fn controller_config(&self) -> ControllerConfig {
        let liveness = &self.config.liveness;
        let coordinators = self.config.voters.iter().filter_map(|(&coordinator, voter)| {
            Some(AdmitCoordinator { coordinator, disk: voter.disk?, address: voter.address.clone() })
        });
        ControllerConfig {
            coordinators: coordinators.collect(),
            session_timeout: liveness.session_timeout,
            reconnect_grace: liveness.reconnect_grace,
            tick_interval: liveness.tick_interval,
            reserved_broker_max_id: liveness.reserved_broker_max_id,
            ..ControllerConfig::new(self.config.cluster_id.clone())
        }
    }

    /// A snapshot replaced what was on the disk.
    pub(super) fn reload(&mut self) -> Result<(), Fatal> {
        self.tree = self.disk.tree()?;
        self.applied = self.disk.applied()?;
        self.image = Image::from_tree(&self.tree);
        tracing::info!("took over a snapshot at revision {}, {} nodes", self.applied.0, self.tree.len());
        self.feed.reset(View::new(self.tree.clone(), self.image.clone()));
        self.config.metrics.applied(self.tree.revision(), self.member.committed());
        Ok(())
    }

    /// The tree on the disk stands for everything that was applied: the log need not keep it.
    fn compact(&mut self) -> Result<(), Fatal> {
        let limit = self.config.compact_bytes;
        if self.member.store().log_bytes() <= limit {
            return Ok(());
        }
        let through = self.member.store().index_with_tail(limit / LOG_TAIL_DIVISOR).min(self.applied.0);
        self.member.store_mut().compact(through)?;
        tracing::debug!("the log begins behind {through} now");
        Ok(())
    }

    /// On a thread of its own: the tree may be large, and heartbeats must not wait for it.
    pub(super) fn make_snapshot(&mut self) {
        if self.snapshot_in_work {
            return;
        }
        let disk = self.disk.clone();
        let conf_state = self.member.store().conf_state().clone();
        let handle = self.handle.clone();
        let thread = std::thread::Builder::new().name("snapshot".to_owned());
        let spawned = thread.spawn(move || {
            let _ = handle.send_blocking(Event::SnapshotMade(disk.make_snapshot(conf_state)));
        });
        match spawned {
            Ok(_) => self.snapshot_in_work = true,
            // Raft asks again with the next heartbeat.
            Err(error) => tracing::warn!("no thread for a snapshot: {error}"),
        }
    }
}
