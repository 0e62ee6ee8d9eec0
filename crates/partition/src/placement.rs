//! Decides which replicas a broker has, from its image: the effect of each change of the tree on the replicas, and on
//! the logs that were found at the start.
//!
//! Invariants:
//! - no log is opened, created or renamed before the image has reached this broker's registration: an older image may
//!   lack partitions that the disk rightly has;
//! - the image is loaded once per process. A broker that is fenced and registers again has lost nothing, and continues
//!   with deltas;
//! - a replica that leaves frees its name before a new one uses it: one delta may delete a topic and create it again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_metadata::tree::REVISIONS_SKIPPED_BY_RESTORE;
use ottla_metadata::{BrokerChange, Delta, Image, PartitionState};
use ottla_model::{BrokerEpoch, BrokerId, Offset, Revision, TopicIdPartition, TopicName, TopicPartition};
use ottla_storage::{Env, LogDir, LogDirs};

use crate::found::FoundLog;
use crate::hosting::{AbsentLog, Hosting, LogFacts, choose_log, host, undecided};
use crate::resignation::Impairment;
use crate::rules::BrokenRules;

/// A log that a directory held at the start.
pub trait Found {
    fn partition(&self) -> &TopicPartition;
    /// The facts for the decision.
    fn facts(&self) -> LogFacts;
    /// It could not be opened because its disk has no room: it is opened again later.
    fn awaits_room(&self) -> bool;
}

/// What becomes of the log of a replica that leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Deleted,
    /// It is kept under another name, for people to look at. The quorum was restored from a snapshot that may be older
    /// than the topic, or than the move of the replica to here: nobody else may have the records.
    SetAside,
}

/// The actions for the replicas of this broker, in this order.
#[derive(Debug)]
pub enum Placement<L> {
    /// The tree has no place for it here any more.
    Remove { id: TopicIdPartition, fate: Fate },
    /// A replica that is here has a new state.
    Assume { id: TopicIdPartition, state: Arc<PartitionState> },
    /// The log is no partition's: it is kept under another name.
    SetAside(L),
    /// The log of a partition that was moved to other brokers while this one was down: it is deleted. The replicas of
    /// the partition have its records, and it must not be believed if the partition comes back.
    Discard(L),
    /// A new replica.
    Place { id: TopicIdPartition, topic: TopicName, state: Arc<PartitionState>, log: Place<L> },
    /// A replica without an open log begins a new one, after its state was assumed.
    StartOver(TopicIdPartition),
}

impl<L> Placement<L> {
    fn keep_log(&mut self) {
        if let Self::Remove { fate, .. } = self {
            *fate = Fate::SetAside;
        }
    }
}

/// The origin of a new replica's log.
#[derive(Debug)]
pub enum Place<L> {
    /// The log that was found.
    Found(L),
    /// A new log.
    New,
    /// No log: it cannot be opened, or may be in a missing directory. [`Replicas::unopened`] has the logs that were
    /// found.
    Offline(AbsentLog),
}

/// Whether a log that no replica here takes belongs to a partition that the tree has, by its topic's id.
fn was_moved_away(image: &Image, log: &impl Found) -> bool {
    let name = log.partition();
    let topic = image.topic(name.topic.as_str()).filter(|topic| log.facts().topic_id == Some(topic.id));
    topic.is_some_and(|topic| topic.partition(name.partition).is_some())
}

/// Whether the quorum was restored from a snapshot between two revisions of the tree. What is skipped is counted from
/// the snapshot, which is older than `former`.
fn is_restored(former: u64, now: u64) -> bool {
    former > 0 && now.saturating_sub(former) >= REVISIONS_SKIPPED_BY_RESTORE / 2
}

/// The epoch under which a broker may be in an ISR.
#[inline]
pub fn eligible_epoch(image: &Image, broker: BrokerId) -> Option<BrokerEpoch> {
    image.broker(broker).filter(|broker| broker.is_active()).map(|broker| broker.epoch)
}

/// The effect of a change of a broker's registration on the replicas here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokerNews {
    /// The process or the address is new: connections to it must be opened again.
    pub is_other: bool,
    /// Its replicas may have caught up while they were not eligible, and say nothing more: their leaders here are
    /// ticked.
    pub became_active: bool,
    /// It is not registered any more. What waits for its replicas would wait until the quorum has taken it out of all
    /// ISRs: leaders here for whose writes it counts are ticked.
    pub has_left: bool,
}

impl BrokerNews {
    pub fn of(local: BrokerId, change: &BrokerChange) -> Self {
        let Some(new) = change.new.as_ref().filter(|_| change.id != local) else {
            let has_left = change.id != local && change.new.is_none();
            return Self { is_other: false, became_active: false, has_left };
        };
        let old = change.old.as_ref();
        let is_other =
            old.is_none_or(|old| old.epoch != new.epoch || old.inter_broker_endpoint() != new.inter_broker_endpoint());
        let became_active = new.is_active() && old.is_none_or(|old| old.epoch != new.epoch || !old.is_active());
        Self { is_other, became_active, has_left: false }
    }
}

/// The facts that decide the directory of a new log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryUse {
    pub is_failed: bool,
    pub is_full: bool,
    /// KIP-1066: `cordoned.log.dirs` names it.
    pub is_cordoned: bool,
    /// Partitions that have their logs there.
    pub partitions: usize,
}

/// The number of the directory where a new log goes.
pub fn least_used<E: Env>(directories: &LogDirs<E>, is_cordoned: impl Fn(&LogDir<E>) -> bool) -> Option<usize> {
    directory_for_new_log(directories.all().iter().map(|directory| DirectoryUse {
        is_failed: directory.health().is_failed(),
        is_full: directory.health().is_full(),
        is_cordoned: is_cordoned(directory),
        partitions: directory.placed(),
    }))
}

/// The place of the directory where a new log goes: the one that works and holds the fewest; one that is full or
/// cordoned only if there is no other. None if none works.
pub fn directory_for_new_log(directories: impl Iterator<Item = DirectoryUse>) -> Option<usize> {
    let working = directories.enumerate().filter(|(_, directory)| !directory.is_failed);
    let cost = |directory: &DirectoryUse| (directory.is_cordoned, directory.is_full, directory.partitions);
    working.min_by_key(|(_, directory)| cost(directory)).map(|(place, _)| place)
}

/// A replica whose log could not be opened, or was lost.
#[derive(Debug)]
struct Unopened<L> {
    found: Option<L>,
    absent: AbsentLog,
    /// Other logs of the partition: which one is taken is decided at the next start, when all can be opened.
    others: Vec<L>,
}

impl<L: Found> Unopened<L> {
    fn impairment(&self) -> Impairment {
        match &self.found {
            // It is whole, and can be opened when there is room.
            Some(found) if found.awaits_room() => Impairment::Unwritable,
            // Its log went with its directory.
            None if self.absent == AbsentLog::DirectoryReplaced => Impairment::Lost,
            _ => Impairment::Unreadable,
        }
    }
}

/// Where a new replica's log is, or goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLocation<D> {
    /// None if no directory works.
    pub directory: Option<D>,
    /// The last known high watermark.
    pub high_watermark: Offset,
}

impl<E: Env, D: Clone> Replicas<FoundLog<E, D>> {
    /// Where the log of a replica that [`Placement::Place`] names is, or goes. `missing`: a directory that could not be
    /// opened at the start. `least_used`: the directory for a new log.
    pub fn locate(
        &self,
        id: &TopicIdPartition,
        log: &Place<FoundLog<E, D>>,
        missing: impl FnOnce() -> Option<D>,
        least_used: impl FnOnce() -> Option<D>,
    ) -> LogLocation<D> {
        match log {
            Place::Found(found) => {
                LogLocation { directory: Some(found.directory.clone()), high_watermark: found.high_watermark }
            }
            Place::New => LogLocation { directory: least_used(), high_watermark: Offset::ZERO },
            Place::Offline(absent) => {
                let found = self.unopened(id);
                // It cannot be opened, or was in the directory that is missing.
                let directory = found.map(|found| found.directory.clone());
                let missing = || if *absent == AbsentLog::DirectoryMissing { missing() } else { None };
                LogLocation {
                    directory: directory.or_else(missing).or_else(least_used),
                    high_watermark: found.map_or(Offset::ZERO, |found| found.high_watermark),
                }
            }
        }
    }
}

/// The broker, as it is registered now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
    /// As which the last process was registered; [`BrokerEpoch::NONE`] if that is unknown.
    pub last_epoch: BrokerEpoch,
    /// Why a replica may have no log here when the image is loaded.
    pub absent: AbsentLog,
    pub rules: BrokenRules,
}

/// The replicas of one broker. `L` is a log that was found.
pub struct Replicas<L> {
    /// The image has reached this broker's registration.
    is_current: bool,
    /// Of the last image.
    revision: Revision,
    /// The logs that were found at the start, until the image assigns them.
    found: BTreeMap<TopicPartition, Vec<L>>,
    hosted: BTreeSet<TopicIdPartition>,
    /// Those of them without an open log, nearly always none: they are looked at every second.
    unopened: BTreeMap<TopicIdPartition, Unopened<L>>,
}

impl<L> Default for Replicas<L> {
    fn default() -> Self {
        Self {
            is_current: false,
            revision: Revision(0),
            found: BTreeMap::new(),
            hosted: BTreeSet::new(),
            unopened: BTreeMap::new(),
        }
    }
}

impl<L: Found> Replicas<L> {
    /// Before the first image.
    pub fn add_found(&mut self, log: L) {
        // Nearly always the only one of its name.
        self.found.entry(log.partition().clone()).or_insert_with(|| Vec::with_capacity(1)).push(log);
    }

    /// The number of partitions with found logs that the image has not assigned.
    pub fn found_len(&self) -> usize {
        self.found.len()
    }

    /// The logs that were not assigned, for a process that ends before its image was loaded.
    pub fn take_found(&mut self) -> Vec<L> {
        std::mem::take(&mut self.found).into_values().flatten().collect()
    }

    /// Whether the image has been loaded.
    pub fn is_current(&self) -> bool {
        self.is_current
    }

    /// Whether the next image is to be loaded whole.
    pub fn loads(&self, local: BrokerEpoch, image: &Image) -> bool {
        !self.is_current && local.is_known() && BrokerEpoch::from(image.revision()) >= local
    }

    /// The image moved by `delta`. Deltas come in the order of their revisions.
    pub fn image_moved(&mut self, local: &Local, image: &Image, delta: &Delta) -> Vec<Placement<L>> {
        let former = std::mem::replace(&mut self.revision, image.revision());
        if self.is_current {
            let mut placed = self.apply(local, delta);
            if is_restored(former.0, image.revision().0) {
                placed.iter_mut().for_each(Placement::keep_log);
            }
            placed
        } else if self.loads(local.epoch, image) {
            self.load(local, image)
        } else {
            Vec::new()
        }
    }

    /// The first image that is as new as this broker's registration: everything that the tree places here.
    fn load(&mut self, local: &Local, image: &Image) -> Vec<Placement<L>> {
        self.is_current = true;
        let mut placed = Vec::with_capacity(self.found.len());
        for id in image.hosted_by(local.id) {
            let Some(topic) = image.topic_by_id(id.topic_id) else { continue };
            let Some(state) = topic.partition(id.partition) else { continue };
            self.place(local, local.absent, id, &topic.name, state, &mut placed);
        }
        let epoch = |epoch: BrokerEpoch| u64::try_from(epoch.0).unwrap_or(0);
        let is_restored = local.last_epoch.is_known() && is_restored(epoch(local.last_epoch), epoch(local.epoch));
        placed.extend(self.take_found().into_iter().map(|log| match was_moved_away(image, &log) && !is_restored {
            true => Placement::Discard(log),
            false => Placement::SetAside(log),
        }));
        placed
    }

    fn apply(&mut self, local: &Local, delta: &Delta) -> Vec<Placement<L>> {
        let mut placed = Vec::new();
        for change in &delta.partitions {
            let id = TopicIdPartition { topic_id: change.topic_id, partition: change.partition };
            let stays = change.new.as_ref().is_some_and(|state| state.is_replica(local.id));
            if !stays && self.hosted.remove(&id) {
                self.unopened.remove(&id);
                placed.push(Placement::Remove { id, fate: Fate::Deleted });
            }
        }
        for change in &delta.partitions {
            let Some(state) = change.new.as_ref().filter(|state| state.is_replica(local.id)) else { continue };
            let id = TopicIdPartition { topic_id: change.topic_id, partition: change.partition };
            if self.hosted.contains(&id) {
                placed.push(Placement::Assume { id, state: state.clone() });
                self.reconsider(local, id, state, &mut placed);
            } else {
                // It was placed here while this process runs.
                self.place(local, AbsentLog::NeverMade, id, &change.topic, state, &mut placed);
            }
        }
        placed
    }

    /// A replica that had no place here: takes the log that the disk held, or gets a new one.
    fn place(
        &mut self,
        local: &Local,
        absent: AbsentLog,
        id: TopicIdPartition,
        topic: &TopicName,
        state: &Arc<PartitionState>,
        placed: &mut Vec<Placement<L>>,
    ) {
        let name = TopicPartition::new(topic.clone(), id.partition);
        let mut logs = self.found.remove(&name).unwrap_or_default();
        let facts: Vec<_> = logs.iter().map(L::facts).collect();
        if let Some(at) = undecided(&facts, id.topic_id, local.rules) {
            let found = Some(logs.swap_remove(at));
            self.hosted.insert(id);
            self.unopened.insert(id, Unopened { found, absent: AbsentLog::NeverMade, others: logs });
            let log = Place::Offline(AbsentLog::NeverMade);
            placed.push(Placement::Place { id, topic: topic.clone(), state: state.clone(), log });
            return;
        }
        let found = choose_log(&facts, id.topic_id, absent, local.rules).map(|at| logs.swap_remove(at));
        // Of the name's former topic (KIP-516, scenario 11), or older copies of this one.
        placed.extend(logs.into_iter().map(Placement::SetAside));
        let decision = host(local.id, local.epoch, state, found.as_ref().map(L::facts), absent, local.rules);
        self.hosted.insert(id);
        let log = match (decision, found) {
            (Hosting::Take, Some(found)) => Place::Found(found),
            (Hosting::StayOffline, found) => {
                self.unopened.insert(id, Unopened { found, absent, others: Vec::new() });
                Place::Offline(absent)
            }
            (Hosting::Take | Hosting::StartOver, found) => {
                placed.extend(found.map(Placement::SetAside));
                Place::New
            }
        };
        placed.push(Placement::Place { id, topic: topic.clone(), state: state.clone(), log });
    }

    /// The replicas that have several logs, one of which cannot be opened now: the next start decides.
    pub fn undecided(&self) -> impl Iterator<Item = TopicIdPartition> {
        self.unopened.keys().copied().filter(|id| self.is_undecided(*id))
    }

    /// Whether the replica is one of [`Replicas::undecided`].
    pub fn is_undecided(&self, id: TopicIdPartition) -> bool {
        self.unopened.get(&id).is_some_and(|unopened| !unopened.others.is_empty())
    }

    /// A replica without an open log has a new state: it may start over now.
    fn reconsider(
        &mut self,
        local: &Local,
        id: TopicIdPartition,
        state: &PartitionState,
        placed: &mut Vec<Placement<L>>,
    ) {
        let Some(unopened) = self.unopened.get(&id) else { return };
        let (found, absent) = (unopened.found.as_ref().map(L::facts), unopened.absent);
        // An ISR entry of this very registration does not say that the log was made in this life: a last member that
        // registers again is elected under its new epoch, before it could say that its log is gone.
        let epoch = BrokerEpoch::NONE;
        if absent == AbsentLog::DirectoryMissing
            || host(local.id, epoch, state, found, absent, local.rules) != Hosting::StartOver
        {
            return;
        }
        let found = self.unopened.remove(&id).and_then(|unopened| unopened.found);
        placed.extend(found.map(Placement::SetAside));
        placed.push(Placement::StartOver(id));
    }

    /// The log that was found of a replica that could not open it.
    pub fn unopened(&self, id: &TopicIdPartition) -> Option<&L> {
        self.unopened.get(id)?.found.as_ref()
    }

    /// Replicas whose logs await room, and what was found of them.
    pub fn awaiting_room(&self) -> impl Iterator<Item = (TopicIdPartition, &L)> {
        let alone = self.unopened.iter().filter(|(_, unopened)| unopened.others.is_empty());
        alone
            .filter_map(|(id, unopened)| Some((*id, unopened.found.as_ref()?)))
            .filter(|(_, found)| found.awaits_room())
    }

    /// A log that awaited room was opened again, or refused again. Returns it if it is the replica's log from now on.
    pub fn opened_again(&mut self, id: &TopicIdPartition, log: L) -> Option<L> {
        let unopened = self.unopened.get_mut(id)?;
        if log.facts().reach.is_some() {
            self.unopened.remove(id);
            return Some(log);
        }
        unopened.found = Some(log);
        None
    }

    /// Replicas without an open log whose places are to be given up for this reason, if the tree still counts on them.
    pub fn impaired(&self, impairment: Impairment) -> Vec<TopicIdPartition> {
        let impaired = self.unopened.iter().filter(|(_, unopened)| unopened.impairment() == impairment);
        impaired.map(|(id, _)| *id).collect()
    }

    /// Whether directories that were replaced may become ordinary ones: the quorum counts on nothing that was lost with
    /// them. Until then every start finds that they are new (scenario 33).
    pub fn may_claim_replaced(&self) -> bool {
        self.is_current && self.impaired(Impairment::Lost).is_empty()
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
