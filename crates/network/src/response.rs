//! What a handler gives back, and what a connection writes.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ottla_protocol::kafka_protocol::protocol::Request;
use ottla_protocol::messages::fetch;
use ottla_protocol::{CodecError, RequestHeader, decode_request, encode_response};
use ottla_storage::env::File as _;
use rustix::fs::{AtFlags, StatxFlags, statx};

pub use ottla_storage::slice::RecordSlice;

/// A piece of a response: bytes that are there, or records that are still in a file.
pub type Part = fetch::Part<RecordSlice>;

/// The outcome of a request, in the eyes of its connection.
pub enum Reply {
    Ready(Response),
    /// The response depends on something that has not happened yet. The connection reads and handles the next requests
    /// meanwhile; responses leave in the order of their requests. The future runs in the connection's task, and is
    /// dropped when the connection ends: it must not be what makes the change happen.
    Later(Pin<Box<dyn Future<Output = Response> + Send>>),
    /// The request has not been carried out yet: the connection handles no further request before it has. Used where
    /// the order of appends matters. The future gives the reply that handling the request gives; it is dropped when
    /// the connection ends.
    Held(Pin<Box<dyn Future<Output = Reply> + Send>>),
    /// The protocol has no answer here (Produce with acks=0).
    None,
    /// The connection cannot go on; says why, for one line in the log.
    Close(String),
}

impl Reply {
    pub fn later(future: impl Future<Output = Response> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }

    pub fn close(reason: impl fmt::Display) -> Self {
        Self::Close(reason.to_string())
    }

    /// Decodes a request and encodes the response that is made of it at once. A body that does not decode ends the
    /// connection.
    pub fn respond<R: Request>(header: &RequestHeader, body: BytesMut, make: impl FnOnce(&R) -> R::Response) -> Self {
        match decode_request::<R>(header.api_version, body.freeze()) {
            Ok(request) => Self::encode::<R>(header, &make(&request)),
            Err(error) => Self::close(error),
        }
    }

    /// A response through the codec. One that does not encode is a fault of this broker: the connection ends, and says
    /// so.
    pub fn encode<R: Request>(header: &RequestHeader, response: &R::Response) -> Self {
        match Response::encode::<R>(header, response) {
            Ok(response) => Self::Ready(response),
            Err(error) => Self::close(error),
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(response) => f.debug_tuple("Ready").field(&response.size_bytes()).finish(),
            Self::Later(_) => f.write_str("Later"),
            Self::Held(_) => f.write_str("Held"),
            Self::None => f.write_str("None"),
            Self::Close(reason) => f.debug_tuple("Close").field(reason).finish(),
        }
    }
}

/// One whole response frame, its length prefix included.
#[derive(Default)]
pub struct Response {
    pub parts: Vec<Part>,
    /// The connection ends once this is written.
    pub close_after: bool,
    /// No further request of the connection is read for so long (a client that is above its quota).
    pub mute: Duration,
}

impl Response {
    pub fn new(parts: Vec<Part>) -> Self {
        Self { parts, close_after: false, mute: Duration::ZERO }
    }

    pub fn bytes(frame: impl Into<Bytes>) -> Self {
        Self::new(vec![Part::Bytes(frame.into())])
    }

    pub fn encode<R: Request>(header: &RequestHeader, response: &R::Response) -> Result<Self, CodecError> {
        encode_response::<R>(header.api_version, header.correlation_id, response).map(Self::bytes)
    }

    /// Nothing; the connection ends.
    pub fn closing() -> Self {
        Self { parts: Vec::new(), close_after: true, mute: Duration::ZERO }
    }

    /// As [`Response::encode`], where there is no answer left but to end the connection.
    pub fn encode_or_close<R: Request>(header: &RequestHeader, response: &R::Response) -> Self {
        Self::or_close(Self::encode::<R>(header, response))
    }

    /// The response, or the end of the connection if it could not be encoded.
    pub fn or_close(encoded: Result<Self, impl fmt::Display>) -> Self {
        encoded.unwrap_or_else(|error| {
            tracing::error!(%error, "a response does not encode; the connection is closed");
            Self::closing()
        })
    }

    /// The connection is muted once this is answered.
    pub fn muting(mut self, wait: Duration) -> Self {
        self.mute = self.mute.max(wait);
        self
    }

    /// The bytes that this puts on the wire.
    pub fn size_bytes(&self) -> usize {
        self.parts.iter().map(Part::size_bytes).sum()
    }

    /// The bytes that this holds in memory until it is written.
    pub fn memory_bytes(&self) -> usize {
        self.parts.iter().map(|part| if let Part::Bytes(bytes) = part { bytes.len() } else { 0 }).sum()
    }
}

/// What the connection does with a slice.
pub trait SliceAccess: Sized {
    /// The descriptor to send from; an error for an empty slice.
    fn fd(&self) -> io::Result<BorrowedFd<'_>>;
    /// Drops `count` bytes from the front.
    fn skip(&mut self, count: usize);
    /// Whether the first and the last page of the first `piece` bytes are in the page cache: a sendfile of them hardly
    /// waits for the disk.
    fn is_cached(&self, piece: usize) -> bool;
    /// What the file is on. Does not wait for it.
    fn disk(&self) -> (u32, u32);
    /// Reads the first `count` bytes into the page cache. Blocks.
    fn read_through(&self, count: usize) -> io::Result<()>;
}

impl SliceAccess for RecordSlice {
    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.file().map(|file| file.as_fd()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }

    fn skip(&mut self, count: usize) {
        let count = count.min(self.len);
        self.position += count as u64;
        self.len -= count;
    }

    fn is_cached(&self, piece: usize) -> bool {
        let Some(file) = self.file() else { return true };
        let last = self.position + (piece.min(self.len).saturating_sub(1)) as u64;
        let mut byte = [0];
        [self.position, last].into_iter().all(|at| !matches!(file.read_at_if_cached(&mut byte, at), Ok(None)))
    }

    fn disk(&self) -> (u32, u32) {
        let Some(file) = self.file() else { return (0, 0) };
        // The number is known to the kernel: a file system of the network is not asked.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = statx(file, c"", flags, StatxFlags::empty());
        found.map_or((0, 0), |found| (found.stx_dev_major, found.stx_dev_minor))
    }

    fn read_through(&self, count: usize) -> io::Result<()> {
        const STEP_BYTES: usize = 128 * 1024;
        let Some(file) = self.file() else { return Ok(()) };
        let mut scratch = vec![0; STEP_BYTES];
        let end = self.position + count.min(self.len) as u64;
        let mut at = self.position;
        while at < end {
            let read = file.read_at(&mut scratch, at)?;
            if read == 0 {
                break;
            }
            at += read as u64;
        }
        Ok(())
    }
}
