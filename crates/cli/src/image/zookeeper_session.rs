//! A session with a coordinator in ZooKeeper's protocol: what its admin API does not tell of a node, and the writes
//! that tools of a ZooKeeper-era Kafka do.

use std::io;
use std::time::Duration;

use ottla_rpc::Dialed;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client_security;

/// A node and its stat are at most so large: `jute.maxbuffer` of ZooKeeper, and the fields around it.
const ANSWER_BYTES_MAX: usize = 0x10_0000 + 1_024;
const SESSION_TIMEOUT_MS: i32 = 30_000;
const PASSWORD_BYTES: usize = 16;
const ANY_VERSION: i32 = -1;

mod code {
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const EXISTS: i32 = 3;
    pub const SET_DATA: i32 = 5;
    pub const CLOSE_SESSION: i32 = -11;
}

/// Why there is no answer, or which one; the texts are those of ZooKeeper's shell.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("{address}: {reason}")]
    Unreachable { address: String, reason: io::Error },
    #[error("{address}: no answer within {} ms", timeout.as_millis())]
    TimedOut { address: String, timeout: Duration },
    #[error("{address}: what listens there does not speak ZooKeeper's protocol")]
    Malformed { address: String },
    #[error("Node does not exist: {0}")]
    NoNode(String),
    #[error("Node already exists: {0}")]
    NodeExists(String),
    #[error("Node not empty: {0}")]
    NotEmpty(String),
    #[error("Not a read-only call: {0}")]
    NotReadOnly(String),
    #[error("Insufficient permission : {0}")]
    NoAuth(String),
    #[error("Arguments are not valid : {0}")]
    BadArguments(String),
    #[error("version No is not valid : {0}")]
    BadVersion(String),
    #[error("KeeperErrorCode = {code} for {path}")]
    Refused { code: i32, path: String },
}

fn refusal(code: i32, path: &str) -> SessionError {
    let path = path.to_owned();
    match code {
        -101 => SessionError::NoNode(path),
        -110 => SessionError::NodeExists(path),
        -111 => SessionError::NotEmpty(path),
        -119 => SessionError::NotReadOnly(path),
        -102 => SessionError::NoAuth(path),
        -8 => SessionError::BadArguments(path),
        -103 => SessionError::BadVersion(path),
        code => SessionError::Refused { code, path },
    }
}

/// ZooKeeper's `Stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    pub czxid: i64,
    pub mzxid: i64,
    pub ctime_ms: i64,
    pub mtime_ms: i64,
    pub version: i32,
    pub cversion: i32,
    pub acl_version: i32,
    pub ephemeral_owner: i64,
    pub data_length: i32,
    pub children: i32,
    pub pzxid: i64,
}

/// Takes integers off an answer.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn int(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn long(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn stat(&mut self) -> Option<Stat> {
        Some(Stat {
            czxid: self.long()?,
            mzxid: self.long()?,
            ctime_ms: self.long()?,
            mtime_ms: self.long()?,
            version: self.int()?,
            cversion: self.int()?,
            acl_version: self.int()?,
            ephemeral_owner: self.long()?,
            data_length: self.int()?,
            children: self.int()?,
            pzxid: self.long()?,
        })
    }
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    // A command line is far shorter than what the length can say.
    body.extend_from_slice(&i32::try_from(bytes.len()).unwrap_or(i32::MAX).to_be_bytes());
    body.extend_from_slice(bytes);
}

pub struct Session {
    stream: Dialed,
    address: String,
    /// Before every path: empty, or `/name`.
    chroot: String,
    timeout: Duration,
    xid: i32,
}

impl Session {
    /// With the first of these `host:port/chroot` that answers.
    pub async fn open(addresses: &[String], timeout: Duration) -> Result<Self, SessionError> {
        let mut failed = SessionError::Malformed { address: String::new() };
        for whole in addresses {
            let (address, chroot) = whole.split_once('/').map_or((whole.as_str(), ""), |(host, path)| (host, path));
            let chroot = if chroot.is_empty() { String::new() } else { format!("/{chroot}") };
            match Self::begin(address, chroot, timeout).await {
                Ok(session) => return Ok(session),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn begin(address: &str, chroot: String, timeout: Duration) -> Result<Self, SessionError> {
        let security = client_security::coordinators(None);
        let connected = within(address, timeout, security.dial(address)).await?;
        let mut session = Self { stream: connected, address: address.to_owned(), chroot, timeout, xid: 0 };
        let mut hello = Vec::new();
        hello.extend_from_slice(&0_i32.to_be_bytes());
        hello.extend_from_slice(&0_i64.to_be_bytes());
        hello.extend_from_slice(&SESSION_TIMEOUT_MS.to_be_bytes());
        hello.extend_from_slice(&0_i64.to_be_bytes());
        put_bytes(&mut hello, &[0; PASSWORD_BYTES]);
        // Not content with a server that only reads.
        hello.push(0);
        session.exchange(&hello).await?;
        Ok(session)
    }

    /// Sends a frame; the next one.
    async fn exchange(&mut self, frame: &[u8]) -> Result<Vec<u8>, SessionError> {
        let mut bytes = Vec::with_capacity(4 + frame.len());
        put_bytes(&mut bytes, frame);
        let (address, timeout) = (self.address.clone(), self.timeout);
        let stream = &mut self.stream;
        let length = within(&address, timeout, async {
            stream.write_all(&bytes).await?;
            stream.read_u32().await
        });
        let length = usize::try_from(length.await?).unwrap_or(usize::MAX);
        if length > ANSWER_BYTES_MAX {
            return Err(SessionError::Malformed { address });
        }
        let mut answer = vec![0; length];
        within(&address, timeout, stream.read_exact(&mut answer)).await?;
        Ok(answer)
    }

    /// A request about `path`; the body of its answer.
    async fn call(&mut self, operation: i32, path: &str, rest: &[u8]) -> Result<Vec<u8>, SessionError> {
        self.xid += 1;
        let mut frame = Vec::new();
        frame.extend_from_slice(&self.xid.to_be_bytes());
        frame.extend_from_slice(&operation.to_be_bytes());
        let whole = match path {
            "/" if !self.chroot.is_empty() => self.chroot.clone(),
            path => format!("{}{path}", self.chroot),
        };
        put_bytes(&mut frame, whole.as_bytes());
        frame.extend_from_slice(rest);
        let answer = self.exchange(&frame).await?;
        let mut reader = Reader(&answer);
        let head = (reader.int(), reader.long(), reader.int());
        match head {
            (Some(xid), Some(_), Some(0)) if xid == self.xid => Ok(reader.0.to_vec()),
            (Some(xid), Some(_), Some(code)) if xid == self.xid => Err(refusal(code, path)),
            _ => Err(self.malformed()),
        }
    }

    fn malformed(&self) -> SessionError {
        SessionError::Malformed { address: self.address.clone() }
    }

    pub async fn stat(&mut self, path: &str) -> Result<Stat, SessionError> {
        // Without a watch.
        let answer = self.call(code::EXISTS, path, &[0]).await?;
        Reader(&answer).stat().ok_or_else(|| self.malformed())
    }

    /// A node that stays, which everybody may read and write: that is ZooKeeper's default too.
    pub async fn create(&mut self, path: &str, data: &[u8]) -> Result<(), SessionError> {
        const ALL_PERMISSIONS: i32 = 31;
        let mut rest = Vec::new();
        put_bytes(&mut rest, data);
        rest.extend_from_slice(&1_i32.to_be_bytes());
        rest.extend_from_slice(&ALL_PERMISSIONS.to_be_bytes());
        put_bytes(&mut rest, b"world");
        put_bytes(&mut rest, b"anyone");
        rest.extend_from_slice(&0_i32.to_be_bytes());
        self.call(code::CREATE, path, &rest).await.map(drop)
    }

    pub async fn set(&mut self, path: &str, data: &[u8]) -> Result<(), SessionError> {
        let mut rest = Vec::new();
        put_bytes(&mut rest, data);
        rest.extend_from_slice(&ANY_VERSION.to_be_bytes());
        self.call(code::SET_DATA, path, &rest).await.map(drop)
    }

    pub async fn delete(&mut self, path: &str) -> Result<(), SessionError> {
        self.call(code::DELETE, path, &ANY_VERSION.to_be_bytes()).await.map(drop)
    }

    /// Ends the session, so that the coordinator need not wait for its timeout.
    pub async fn close(mut self) {
        self.xid += 1;
        let frame = [self.xid.to_be_bytes(), code::CLOSE_SESSION.to_be_bytes()].concat();
        // The connection ends anyway.
        let _ = self.exchange(&frame).await;
    }
}

async fn within<T>(
    address: &str,
    timeout: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, SessionError> {
    let address = address.to_owned();
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(reason)) => Err(SessionError::Unreachable { address, reason }),
        Err(_) => Err(SessionError::TimedOut { address, timeout }),
    }
}
