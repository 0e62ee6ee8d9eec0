//! What a group's step decides, and what it is told.

use std::cell::RefCell;
use std::time::Duration;

use ottla_model::{GroupId, MonotonicMs};

use crate::Now;
use crate::answer::GroupAnswer;
use crate::config::GroupConfig;
use crate::effects::RequestId;
use crate::group::Group;
use crate::group::consumer::RegexCache;
use crate::record::Record;
use crate::timer::{Timer, Timers};
use crate::topics::{Topics, VisibleTopics};

/// What one step of a group led to.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// One batch: all of them or none.
    pub(crate) records: Vec<Record>,
    /// Answers that promise nothing that the log does not hold.
    pub(crate) now: Vec<(RequestId, GroupAnswer)>,
    /// Answers that leave once the high watermark has passed `records`; without records, once it has passed the last
    /// change of the group that is in flight.
    pub(crate) after: Vec<(RequestId, GroupAnswer)>,
    /// What becomes of the group.
    pub(crate) fate: Fate,
}

/// What becomes of a group after a step.
#[derive(Debug, Default)]
pub(crate) enum Fate {
    #[default]
    Keep,
    /// The group goes on under the other protocol. Its timers are the successor's business: those of the predecessor
    /// have ended when the step returns, those of the successor run.
    Become(Box<Group>),
}

impl Decision {
    /// One answer that may leave at once.
    pub(crate) fn answer(id: RequestId, answer: GroupAnswer) -> Self {
        Self { now: vec![(id, answer)], ..Self::default() }
    }

    /// Adds what a further step of the same group led to; the later fate counts.
    pub(crate) fn extend(&mut self, further: Self) {
        self.records.extend(further.records);
        self.now.extend(further.now);
        self.after.extend(further.after);
        if !matches!(further.fate, Fate::Keep) {
            self.fate = further.fate;
        }
    }
}

/// What a group may look at, and its timers.
pub(crate) struct Context<'a> {
    pub(crate) now: Now,
    pub(crate) config: &'a GroupConfig,
    pub(crate) topics: &'a dyn Topics,
    pub(crate) group: &'a GroupId,
    pub(crate) timers: &'a mut Timers,
    pub(crate) regexes: &'a RefCell<RegexCache>,
    /// The topics that expressions may match now; none: no member asks, so that nothing is matched.
    pub(crate) visible: Option<VisibleTopics>,
    /// A change of this group is in flight: what its members wait for may be the log and not they.
    pub(crate) in_flight: bool,
}

impl Context<'_> {
    /// Sets the timer to `after_ms` from now; one that runs already is moved. It is never due in the step that sets it,
    /// whatever time a client has chosen: a step ends.
    pub(crate) fn schedule(&mut self, timer: Timer, after_ms: i32) {
        let at = self.in_ms(after_ms.max(1));
        self.timers.schedule(self.group, timer, at);
    }

    pub(crate) fn cancel(&mut self, timer: Timer) {
        self.timers.cancel(self.group, timer);
    }

    pub(crate) fn is_scheduled(&self, timer: Timer) -> bool {
        self.timers.deadline(self.group, timer).is_some()
    }

    /// Ends every timer of the group.
    pub(crate) fn cancel_all(&mut self) {
        self.timers.cancel_group(self.group);
    }

    /// The moment `after_ms` from now.
    pub(crate) fn in_ms(&self, after_ms: i32) -> MonotonicMs {
        self.now.monotonic + Duration::from_millis(u64::try_from(after_ms).unwrap_or(0))
    }
}
