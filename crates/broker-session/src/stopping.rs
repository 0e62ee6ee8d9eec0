//! The controlled shutdown: the quorum moves this broker's leaderships, for as long as it does and within bounds.

use std::time::Duration;

use ottla_metadata::controller::ShutdownProgress;
use ottla_model::{ErrorCode, MonotonicMs};

use crate::config::{CONTROLLED_SHUTDOWN_MAX, SHUTDOWN_ASK_INTERVAL};

/// Without any answer from the quorum for this long, nothing will move: longer than an election.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);

/// Why a broker that stops closes now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closing {
    /// Nothing more will move.
    Moved {
        remaining_leaderships: u32,
    },
    /// It has no leaderships to move: it is not registered, or was fenced.
    NotRegistered,
    /// `controlled.shutdown.enable=false`
    Disabled,
    Refused(ErrorCode),
    NoQuorum,
    TimedOut,
}

#[derive(Debug)]
enum Phase {
    AskAt(MonotonicMs),
    Asking,
    Ended(Closing),
}

#[derive(Debug)]
pub(crate) struct Stopping {
    deadline: MonotonicMs,
    phase: Phase,
}

pub(crate) enum Step {
    /// Ask, for at most this long.
    Ask(Duration),
    Close(Closing),
}

impl Stopping {
    pub fn new(now: MonotonicMs) -> Self {
        Self { deadline: now + CONTROLLED_SHUTDOWN_MAX, phase: Phase::AskAt(now) }
    }

    pub fn end(&mut self, closing: Closing) {
        if !matches!(self.phase, Phase::Ended(_)) {
            self.phase = Phase::Ended(closing);
        }
    }

    pub fn answered(&mut self, now: MonotonicMs, progress: &ShutdownProgress) {
        if progress.error != ErrorCode::None {
            self.end(Closing::Refused(progress.error));
        } else if progress.done {
            self.end(Closing::Moved { remaining_leaderships: progress.remaining_leaderships });
        } else if matches!(self.phase, Phase::Asking) {
            self.phase = Phase::AskAt(now + SHUTDOWN_ASK_INTERVAL);
        }
    }

    pub fn step(&mut self, now: MonotonicMs) -> Option<Step> {
        if now >= self.deadline {
            self.end(Closing::TimedOut);
        }
        match self.phase {
            Phase::Ended(closing) => Some(Step::Close(closing)),
            Phase::AskAt(at) if now >= at => {
                self.phase = Phase::Asking;
                Some(Step::Ask(self.deadline.since(now).min(SILENCE_MAX)))
            }
            Phase::AskAt(_) | Phase::Asking => None,
        }
    }

    pub fn deadline(&self) -> MonotonicMs {
        match self.phase {
            Phase::Ended(_) => MonotonicMs(0),
            Phase::AskAt(at) => at.min(self.deadline),
            Phase::Asking => self.deadline,
        }
    }
}
