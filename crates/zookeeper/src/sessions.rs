//! Which sessions live. A session owns nothing here (no ephemeral node, and watches end with the connection), so each
//! coordinator keeps its own list: a session that another coordinator opened is taken over when its client comes, and
//! only the coordinator that opened a session can say that it has expired.
//!
//! A session that lives here goes on only with its password ([`SessionKey`]): ids follow from time, and whoever took
//! over the session of another client would end that client's connection.

use std::collections::HashMap;

use ottla_model::{ClusterSecret, CoordinatorId, MonotonicMs, TimestampMs};
use sha2::{Digest as _, Sha256};

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

/// What passwords of sessions are made with. Nobody can compute them out of the session's id without it.
pub struct SessionKey {
    key: [u8; 32],
    /// Whether all coordinators have it, and can check what others gave out.
    is_shared: bool,
}

impl SessionKey {
    /// Of a quorum whose members share a secret.
    pub fn of_quorum(secret: &ClusterSecret) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"passwords of ZooKeeper's sessions\0");
        hash.update(secret.as_bytes());
        Self { key: hash.finalize().into(), is_shared: true }
    }

    /// Of this process alone, from 32 random bytes. It takes a session of another process, which it cannot check, as
    /// new, with the password that its client shows: nothing of that session is here.
    pub fn of_process(random: [u8; 32]) -> Self {
        Self { key: random, is_shared: false }
    }

    /// A part of the hash of inputs whose lengths are fixed: without the key it can neither be computed nor extended.
    fn password(&self, session: i64) -> Password {
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update(session.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut password = [0; PASSWORD_BYTES];
        password.copy_from_slice(&digest[..PASSWORD_BYTES]);
        password
    }
}

/// Of one session.
pub type Password = [u8; PASSWORD_BYTES];

/// Takes as long wherever the first difference is.
fn is_same(password: &Password, shown: &[u8]) -> bool {
    shown.len() == password.len() && password.iter().zip(shown).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// What a client is told that wants a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    Session {
        id: i64,
        password: Password,
        timeout_ms: i32,
        /// The connection with which the session went on until now: it has not ended yet, and is to be closed.
        replaced: Option<u64>,
    },
    Expired,
    /// Too many sessions, or the client has seen what this coordinator has not: it tries another one.
    Refused,
}

struct Session {
    password: Password,
    timeout_ms: i32,
    last_heard: MonotonicMs,
    /// The newest one; none: it has ended. Only this one can end the session: a connection that its client has given
    /// up may stay half open for long.
    connection: Option<u64>,
}

pub struct Sessions {
    limits: TimeoutLimits,
    key: SessionKey,
    /// The time part of the first id of this process.
    first_id: i64,
    next_id: i64,
    live: HashMap<i64, Session>,
}

impl Sessions {
    /// `started_at` makes ids differ from those of the process before.
    pub fn new(coordinator: CoordinatorId, limits: TimeoutLimits, key: SessionKey, started_at: TimestampMs) -> Self {
        let time = (started_at.0 << COUNT_BITS) & ((1 << ID_BITS) - 1);
        let server = i64::try_from(coordinator.0 & 0x7f).unwrap_or_default() << ID_BITS;
        let first_id = server | time;
        Self { limits, key, first_id, next_id: first_id, live: HashMap::new() }
    }

    /// `connection` is a number that no other connection of this process has.
    pub fn open(&mut self, request: &ConnectRequest, connection: u64, revision: i64, now: MonotonicMs) -> Opened {
        self.forget_expired(now);
        if request.last_seen > revision || !self.has_room() {
            return Opened::Refused;
        }
        let timeout_ms = request.timeout_ms.clamp(self.limits.min_ms, self.limits.max_ms);
        let (id, password) = match request.session {
            0 => {
                self.next_id += 1;
                (self.next_id, self.key.password(self.next_id))
            }
            id => match self.password_of(id, &request.password) {
                Some(password) if is_same(&password, &request.password) => (id, password),
                _ => return Opened::Expired,
            },
        };
        let session = Session { password, timeout_ms, last_heard: now, connection: Some(connection) };
        let replaced = self.live.insert(id, session).and_then(|former| former.connection);
        Opened::Session { id, password, timeout_ms, replaced }
    }

    /// The password that a client must show that goes on with a session; none: there is no such session.
    fn password_of(&self, id: i64, shown: &[u8]) -> Option<Password> {
        match self.live.get(&id) {
            Some(session) => Some(session.password),
            None if self.opened(id) => None,
            None if self.key.is_shared => Some(self.key.password(id)),
            None => shown.try_into().ok(),
        }
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
