//! The fetcher's end of an incremental fetch session (KIP-227).

use crate::slots::RequestNumber;

/// The epoch that requests a new session.
const INITIAL_EPOCH: i32 = 0;

/// One session on one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Session {
    /// 0 until the source has given one.
    id: i32,
    /// The epoch of the next request.
    epoch: i32,
    /// The first request of the session: responses to earlier requests belong to another session.
    since: RequestNumber,
    /// The source gives no session: every request names everything.
    is_refused: bool,
}

impl Session {
    pub fn is_established(&self) -> bool {
        self.id != 0
    }

    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Whether the source may hold the next request back: not the first of a session, because others can follow only
    /// its answer.
    pub fn may_wait(&self) -> bool {
        self.is_established() || self.is_refused
    }

    /// The session id and epoch of the request with this number.
    pub fn next(&mut self, number: RequestNumber) -> (i32, i32) {
        let named = (self.id, self.epoch);
        if self.is_established() {
            // Wraps to 1: epoch 0 would request a new session.
            self.epoch = self.epoch.checked_add(1).unwrap_or(1);
        } else {
            self.since = number;
        }
        named
    }

    /// Whether a response to this request belongs to this session.
    pub fn covers(&self, number: RequestNumber) -> bool {
        number >= self.since
    }

    /// The response to the request with this number names a session. False if the source has another session: restart
    /// it.
    #[must_use]
    pub fn answered(&mut self, number: RequestNumber, id: i32) -> bool {
        if number == self.since && !self.is_established() {
            self.id = id;
            self.epoch = INITIAL_EPOCH + 1;
            self.is_refused = id == 0;
            if self.is_refused {
                self.epoch = INITIAL_EPOCH;
            }
            return true;
        }
        id == self.id
    }

    /// The next request, which will have this number, requests a new session.
    pub fn restart(&mut self, next: RequestNumber) {
        *self = Self { since: next, is_refused: self.is_refused, ..Self::default() };
    }
}
