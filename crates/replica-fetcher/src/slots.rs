//! The partitions of one fetcher, and the positions that its source knows.
//!
//! Invariant: a partition that has changed since it was last sent to the source is in `unsent`; one that the source
//! must forget is in `forgotten`. So the cost of a request depends on the changes, not on the number of partitions.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{LeaderEpoch, MonotonicMs, Offset, TopicIdPartition};
use ottla_replication::FetchPosition;

/// Numbers the requests of a connection.
pub type RequestNumber = u64;

/// One of the two questions for a leader's bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// To be sent.
    Due,
    Asked(RequestNumber),
    /// None: the leader answered with an error.
    Answered(Option<Offset>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// The position of the next request.
    Fetching(FetchPosition),
    Paused {
        until: MonotonicMs,
    },
    /// A request for the leader's log start and end is pending.
    AskingBounds {
        start: Question,
        end: Question,
    },
}

pub struct Slot<H> {
    pub handle: H,
    pub leader_epoch: LeaderEpoch,
    activity: Activity,
    /// The position in the source's session and the request that sent it; and the position before, to which responses
    /// to earlier requests refer.
    sent: Option<(FetchPosition, RequestNumber)>,
    sent_before: Option<FetchPosition>,
    is_unsent: bool,
    /// Errors in a row.
    failures: u32,
    /// The request whose answer brought records last: partitions that got none for longer come first in a request.
    served_by: RequestNumber,
}

impl<H> Slot<H> {
    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// The position that the request with this number sent.
    pub fn asked(&self, request: RequestNumber) -> Option<FetchPosition> {
        match self.sent {
            Some((position, since)) if request >= since => Some(position),
            _ => self.sent_before,
        }
    }

    pub fn served(&mut self, request: RequestNumber) {
        self.served_by = request;
    }
}

/// The changes that the next request must send.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct News {
    pub partitions: Vec<(TopicIdPartition, FetchPosition)>,
    pub forgotten: Vec<TopicIdPartition>,
}

pub struct Slots<H> {
    slots: BTreeMap<TopicIdPartition, Slot<H>>,
    unsent: Vec<TopicIdPartition>,
    forgotten: Vec<TopicIdPartition>,
    paused: BTreeSet<(MonotonicMs, TopicIdPartition)>,
    asking: BTreeSet<TopicIdPartition>,
}

impl<H> Default for Slots<H> {
    fn default() -> Self {
        Self {
            slots: BTreeMap::new(),
            unsent: Vec::new(),
            forgotten: Vec::new(),
            paused: BTreeSet::new(),
            asking: BTreeSet::new(),
        }
    }
}

impl<H> Slots<H> {
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether there is a partition to fetch now.
    pub fn has_active(&self) -> bool {
        self.slots.len() > self.paused.len() + self.asking.len()
    }

    /// Whether the next request has something to say.
    pub fn has_news(&self) -> bool {
        !self.unsent.is_empty() || !self.forgotten.is_empty()
    }

    pub fn get(&self, id: &TopicIdPartition) -> Option<&Slot<H>> {
        self.slots.get(id)
    }

    pub fn get_mut(&mut self, id: &TopicIdPartition) -> Option<&mut Slot<H>> {
        self.slots.get_mut(id)
    }

    /// Adds a partition in this leader epoch; its state of another epoch is dropped. It is paused until now; the caller
    /// sets the next step.
    pub fn insert(&mut self, id: TopicIdPartition, handle: H, leader_epoch: LeaderEpoch, now: MonotonicMs) {
        self.leave_activity(id);
        let slot = Slot {
            handle,
            leader_epoch,
            activity: Activity::Paused { until: now },
            // The session may have it from an earlier leader epoch: naming it again replaces that.
            sent: None,
            sent_before: None,
            is_unsent: false,
            failures: 0,
            served_by: 0,
        };
        self.paused.insert((now, id));
        if self.slots.insert(id, slot).is_some_and(|before| before.sent.is_some()) {
            self.forgotten.push(id);
        }
    }

    /// Does not fetch the partition any more.
    pub fn remove(&mut self, id: TopicIdPartition) {
        self.leave_activity(id);
        if self.slots.remove(&id).is_some_and(|slot| slot.sent.is_some()) {
            self.forgotten.push(id);
        }
    }

    /// A response names a partition that is not fetched (any more): the source must forget it.
    pub fn forget(&mut self, id: TopicIdPartition) {
        self.forgotten.push(id);
    }

    fn leave_activity(&mut self, id: TopicIdPartition) {
        match self.slots.get(&id).map(|slot| slot.activity) {
            Some(Activity::Paused { until }) => {
                self.paused.remove(&(until, id));
            }
            Some(Activity::AskingBounds { .. }) => {
                self.asking.remove(&id);
            }
            Some(Activity::Fetching(_)) | None => {}
        }
    }

    /// The next request starts at `position`.
    pub fn fetch(&mut self, id: TopicIdPartition, position: FetchPosition) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        match std::mem::replace(&mut slot.activity, Activity::Fetching(position)) {
            Activity::Paused { until } => {
                self.paused.remove(&(until, id));
            }
            Activity::AskingBounds { .. } => {
                self.asking.remove(&id);
            }
            Activity::Fetching(_) => {}
        }
        let is_known = slot.sent.is_some_and(|(sent, _)| sent == position);
        if !is_known && !std::mem::replace(&mut slot.is_unsent, true) {
            self.unsent.push(id);
        }
    }

    /// A response succeeded: the pause after the next error is the first one again.
    pub fn recovered(&mut self, id: TopicIdPartition) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.failures = 0;
        }
    }

    /// One more error in a row; returns how many there were before.
    pub fn failed(&mut self, id: TopicIdPartition) -> u32 {
        let Some(slot) = self.slots.get_mut(&id) else { return 0 };
        let before = slot.failures;
        slot.failures = before.saturating_add(1);
        before
    }

    /// Leaves the partition out until `until`.
    pub fn pause(&mut self, id: TopicIdPartition, until: MonotonicMs) {
        if self.leave_out(id, Activity::Paused { until }) {
            self.paused.insert((until, id));
        }
    }

    /// Leaves the partition out until the leader's bounds are known.
    pub fn ask_bounds(&mut self, id: TopicIdPartition) {
        if self.leave_out(id, Activity::AskingBounds { start: Question::Due, end: Question::Due }) {
            self.asking.insert(id);
        }
    }

    /// The source forgets the partition meanwhile, or it would answer at once for ever.
    fn leave_out(&mut self, id: TopicIdPartition, activity: Activity) -> bool {
        self.leave_activity(id);
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        slot.activity = activity;
        slot.is_unsent = false;
        slot.sent_before = None;
        if slot.sent.take().is_some() {
            self.forgotten.push(id);
        }
        true
    }

    /// The partitions that wait for their leader's bounds.
    pub fn asking(&self) -> Vec<TopicIdPartition> {
        self.asking.iter().copied().collect()
    }

    pub fn is_asking(&self) -> bool {
        !self.asking.is_empty()
    }

    /// The two requests for a partition's bounds, if it waits for them.
    pub fn questions_mut(&mut self, id: &TopicIdPartition) -> Option<(&mut Question, &mut Question)> {
        match &mut self.slots.get_mut(id)?.activity {
            Activity::AskingBounds { start, end } => Some((start, end)),
            _ => None,
        }
    }

    /// The connection broke: requests without a response must be sent again.
    pub fn ask_again(&mut self) {
        for id in self.asking() {
            if let Some((start, end)) = self.questions_mut(&id) {
                (*start, *end) = (Question::Due, Question::Due);
            }
        }
    }

    /// When the first pause ends.
    pub fn next_resume(&self) -> Option<MonotonicMs> {
        self.paused.first().map(|(until, _)| *until)
    }

    /// The partitions whose pause is over.
    pub fn due(&self, now: MonotonicMs) -> Vec<TopicIdPartition> {
        self.paused.iter().take_while(|(until, _)| *until <= now).map(|(_, id)| *id).collect()
    }

    /// The source knows nothing (any more): the next request names everything.
    pub fn forget_sent(&mut self) {
        self.forgotten.clear();
        self.unsent.clear();
        for (id, slot) in &mut self.slots {
            slot.sent = None;
            slot.sent_before = None;
            slot.is_unsent = matches!(slot.activity, Activity::Fetching(_));
            if slot.is_unsent {
                self.unsent.push(*id);
            }
        }
    }

    /// The content of the request with this number: the partitions that are new or have moved, and those to forget.
    /// Partitions that have waited longest for records come first: the source fills its response in this order, and
    /// partitions that always have data must not exclude the others. Of partitions that the source does not know at
    /// most `added_max` are named; the next request has more. One that has moved is always named: the source would send
    /// its records again.
    pub fn take_news(&mut self, number: RequestNumber, added_max: usize) -> News {
        let mut unsent = std::mem::take(&mut self.unsent);
        let mut forgotten = std::mem::take(&mut self.forgotten);
        // The request names each partition once.
        unsent.sort_by_cached_key(|id| (self.slots.get(id).map_or(0, |slot| slot.served_by), *id));
        unsent.dedup();
        forgotten.sort_unstable();
        forgotten.dedup();
        let mut news = News { partitions: Vec::with_capacity(unsent.len()), forgotten: Vec::new() };
        let mut added = 0;
        // It keeps its memory: something is sent after every answer.
        unsent.retain(|id| {
            let Some(slot) = self.slots.get_mut(id) else { return false };
            let Activity::Fetching(position) = slot.activity else {
                slot.is_unsent = false;
                return false;
            };
            if slot.sent.is_none() {
                if added == added_max {
                    return true;
                }
                added += 1;
            }
            slot.is_unsent = false;
            slot.sent_before = slot.sent.map(|(position, _)| position);
            slot.sent = Some((position, number));
            news.partitions.push((*id, position));
            false
        });
        self.unsent = unsent;
        // Added again meanwhile: a source first adds the listed partitions, then forgets.
        forgotten.retain(|id| self.slots.get(id).is_none_or(|slot| slot.sent.is_none()));
        news.forgotten = forgotten;
        news
    }
}
