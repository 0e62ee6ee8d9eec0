//! Which sessions live. A session owns nothing here (no ephemeral node, and watches end with the connection), so each
//! coordinator keeps its own list: a session that another coordinator opened is taken over when its client comes, and
//! only the coordinator that opened a session can say that it has expired.

use std::collections::HashMap;

use ottla_model::{CoordinatorId, MonotonicMs, TimestampMs};

use crate::connect::{ConnectRequest, PASSWORD_BYTES};

/// Sessions that one coordinator remembers. A monitor has one each; beyond that, those without a connection are
/// forgotten first, and then connections are refused.
pub const SESSIONS_MAX: usize = 4_096;
/// Bits of a session's id below the coordinator's: time and count.
const ID_BITS: u32 = 56;
/// Bits of the count within a millisecond.
const COUNT_BITS: u32 = 16;

/// The bounds between which a client's session timeout is taken: 2 and 20 ticks in ZooKeeper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeoutLimits {
    pub min_ms: i32,
    pub max_ms: i32,
}

/// What a client is told that wants a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    Session {
        id: i64,
        timeout_ms: i32,
        /// The connection with which the session went on until now: it has not ended yet, and is to be closed.
        replaced: Option<u64>,
    },
    Expired,
    /// Too many sessions, or the client has seen what this coordinator has not: it tries another one.
    Refused,
}

struct Session {
    timeout_ms: i32,
    last_heard: MonotonicMs,
    /// The newest one; none: it has ended. Only this one can end the session: a connection that its client has given
    /// up may stay half open for long.
    connection: Option<u64>,
}

pub struct Sessions {
    limits: TimeoutLimits,
    /// The time part of the first id of this process.
    first_id: i64,
    next_id: i64,
    live: HashMap<i64, Session>,
}

impl Sessions {
    /// `started_at` makes ids differ from those of the process before.
    pub fn new(coordinator: CoordinatorId, limits: TimeoutLimits, started_at: TimestampMs) -> Self {
        let time = (started_at.0 << COUNT_BITS) & ((1 << ID_BITS) - 1);
        let server = i64::try_from(coordinator.0 & 0x7f).unwrap_or_default() << ID_BITS;
        let first_id = server | time;
        Self { limits, first_id, next_id: first_id, live: HashMap::new() }
    }

    /// `connection` is a number that no other connection of this process has.
    pub fn open(&mut self, request: &ConnectRequest, connection: u64, revision: i64, now: MonotonicMs) -> Opened {
        self.forget_expired(now);
        if request.last_seen > revision || !self.has_room() {
            return Opened::Refused;
        }
        let timeout_ms = request.timeout_ms.clamp(self.limits.min_ms, self.limits.max_ms);
        let id = match request.session {
            0 => {
                self.next_id += 1;
                self.next_id
            }
            id if request.password != password(id) => return Opened::Expired,
            id if !self.live.contains_key(&id) && self.opened(id) => return Opened::Expired,
            id => id,
        };
        let session = Session { timeout_ms, last_heard: now, connection: Some(connection) };
        let replaced = self.live.insert(id, session).and_then(|former| former.connection);
        Opened::Session { id, timeout_ms, replaced }
    }

    /// Whether this process opened the session.
    fn opened(&self, id: i64) -> bool {
        (self.first_id..=self.next_id).contains(&id)
    }

    /// The session, if it goes on with this connection.
    fn of_connection(&mut self, id: i64, connection: u64) -> Option<&mut Session> {
        self.live.get_mut(&id).filter(|session| session.connection == Some(connection))
    }

    pub fn heard(&mut self, id: i64, connection: u64, now: MonotonicMs) {
        if let Some(session) = self.of_connection(id, connection) {
            session.last_heard = now;
        }
    }

    /// The connection ended, the session may be continued.
    pub fn disconnected(&mut self, id: i64, connection: u64) {
        if let Some(session) = self.of_connection(id, connection) {
            session.connection = None;
        }
    }

    /// The client closed the session by this connection, or was not heard of on it for the session's timeout.
    pub fn close(&mut self, id: i64, connection: u64) {
        if self.of_connection(id, connection).is_some() {
            self.live.remove(&id);
        }
    }

    /// Connected ones expire too: their connections end when they are not heard of for their timeout.
    fn forget_expired(&mut self, now: MonotonicMs) {
        self.live.retain(|_, session| now.0.saturating_sub(session.last_heard.0) < timeout(session.timeout_ms));
    }

    /// Makes room by forgetting the session without a connection that was heard of longest ago.
    fn has_room(&mut self) -> bool {
        if self.live.len() < SESSIONS_MAX {
            return true;
        }
        let idle = self.live.iter().filter(|(_, session)| session.connection.is_none());
        let oldest = idle.min_by_key(|(_, session)| session.last_heard).map(|(id, _)| *id);
        oldest.is_some_and(|id| self.live.remove(&id).is_some())
    }
}

fn timeout(timeout_ms: i32) -> u64 {
    u64::try_from(timeout_ms).unwrap_or_default()
}

/// Follows from the id, as in ZooKeeper, so that every coordinator knows it. It keeps clients from going on with a
/// session by mistake; it does not prevent attacks.
pub fn password(session: i64) -> [u8; PASSWORD_BYTES] {
    let mut bytes = [0; PASSWORD_BYTES];
    let mut state = session.cast_unsigned();
    for half in bytes.chunks_exact_mut(8) {
        // SplitMix64: spreads neighbouring ids.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        half.copy_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
    }
    bytes
}
