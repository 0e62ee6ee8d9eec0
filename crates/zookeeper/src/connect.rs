//! The first frame of a connection, and the answer to it.

use crate::jute::{Malformed, Reader, Writer};

/// Bytes of a connect request without its length: 44 or 45, and room for what later clients add.
pub const CONNECT_BYTES_MAX: usize = 1024;
/// The bytes of a session's password.
pub const PASSWORD_BYTES: usize = 16;

/// A client's wish to begin a session, or to go on with one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectRequest {
    /// The newest revision that the client has seen, at whichever server.
    pub last_seen: i64,
    pub timeout_ms: i32,
    /// 0: a new session.
    pub session: i64,
    pub password: Vec<u8>,
    /// Clients since 3.4 say whether a read-only server would do, and are told whether this is one.
    pub knows_read_only: bool,
}

impl ConnectRequest {
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(frame);
        let _protocol_version = reader.int()?;
        Ok(Self {
            last_seen: reader.long()?,
            timeout_ms: reader.int()?,
            session: reader.long()?,
            password: reader.buffer()?.to_vec(),
            knows_read_only: !reader.is_empty(),
        })
    }

    /// The session was opened.
    pub fn accepted(&self, session: i64, timeout_ms: i32, password: &[u8], out: &mut Vec<u8>) {
        self.answer(session, timeout_ms, password, out);
    }

    /// The session that the client wants to go on with has expired: it begins a new one.
    pub fn expired(&self, out: &mut Vec<u8>) {
        self.answer(0, 0, &[0; PASSWORD_BYTES], out);
    }

    fn answer(&self, session: i64, timeout_ms: i32, password: &[u8], out: &mut Vec<u8>) {
        let mut writer = Writer::frame(out);
        writer.int(0);
        writer.int(timeout_ms);
        writer.long(session);
        writer.buffer(Some(password));
        if self.knows_read_only {
            writer.bool(false);
        }
        writer.finish();
    }
}
