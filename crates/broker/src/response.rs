//! What a handler gives back, and what a connection writes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use ottla_protocol::messages::fetch;
use ottla_storage::env::RealFile;

/// A range of a segment's file: goes from the page cache to the socket.
pub type RecordSlice = ottla_storage::log::LogSlice<RealFile>;

/// A piece of a response: bytes that are there, or records that are still in a file.
pub type Part = fetch::Part<RecordSlice>;

/// The outcome of a request, in the eyes of its connection.
pub enum Answer {
    Ready(Response),
    /// The response depends on something that has not happened yet. The connection reads and handles the next
    /// requests meanwhile; responses leave in the order of their requests. The future runs in the connection's task, and is
    /// dropped when the connection ends: it must not be what makes the change happen.
    Later(Pin<Box<dyn Future<Output = Response> + Send>>),
    /// The protocol has no answer here (Produce with acks=0).
    None,
    /// The connection cannot go on; says why, for one line in the log.
    Close(&'static str),
}

impl Answer {
    pub fn later(future: impl Future<Output = Response> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(response) => f.debug_tuple("Ready").field(&response.size_bytes()).finish(),
            Self::Later(_) => f.write_str("Later"),
            Self::None => f.write_str("None"),
            Self::Close(reason) => f.debug_tuple("Close").field(reason).finish(),
        }
    }
}

/// One whole response frame, its length prefix included.
#[derive(Default)]
pub struct Response {
    pub parts: Vec<Part>,
    /// The connection ends once this is written (ApiVersions of a version nobody knows keeps it; a broken session does not).
    pub close_after: bool,
}

impl Response {
    pub fn new(parts: Vec<Part>) -> Self {
        Self { parts, close_after: false }
    }

    pub fn bytes(frame: impl Into<Bytes>) -> Self {
        Self::new(vec![Part::Bytes(frame.into())])
    }

    /// The bytes that this puts on the wire.
    pub fn size_bytes(&self) -> usize {
        self.parts.iter().map(part_size_bytes).sum()
    }

    /// The bytes that this holds in memory until it is written.
    pub fn memory_bytes(&self) -> usize {
        self.parts.iter().map(|part| if let Part::Bytes(bytes) = part { bytes.len() } else { 0 }).sum()
    }
}

fn part_size_bytes(part: &Part) -> usize {
    match part {
        Part::Bytes(bytes) => bytes.len(),
        Part::Records(slice) => fetch::RecordSlice::size_bytes(slice),
    }
}
