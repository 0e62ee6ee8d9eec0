//! A range of a segment file on its way to a socket.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::env::File;
use crate::env::real::RealFile;

/// Contiguous bytes of one segment that begin with a whole batch and may end within one.
///
/// Keeps the file open: rolling or deleting the segment does not affect the slice. A truncation of the log can cut the
/// file under it: a read above the high watermark may then be short ([`io::ErrorKind::UnexpectedEof`], or a `sendfile`
/// that returns 0), and the response must be dropped with its connection.
pub struct LogSlice<F> {
    /// None if empty.
    file: Option<Arc<F>>,
    /// Where the slice begins in the file.
    pub position: u64,
    /// In bytes.
    pub len: usize,
    /// Of an empty slice: about how much there is, of which not even the first batch fits. 0 if there is nothing.
    pub left_out_bytes: usize,
}

/// A range of a file of this machine: goes from the page cache to the socket.
pub type RecordSlice = LogSlice<RealFile>;

impl<F> Clone for LogSlice<F> {
    fn clone(&self) -> Self {
        Self { file: self.file.clone(), ..*self }
    }
}

impl<F> std::fmt::Debug for LogSlice<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogSlice").field("position", &self.position).field("len", &self.len).finish_non_exhaustive()
    }
}

impl<F> LogSlice<F> {
    pub fn empty() -> Self {
        Self { file: None, position: 0, len: 0, left_out_bytes: 0 }
    }

    /// Empty because not even the first batch, of this size, fits.
    pub fn left_out(left_out_bytes: usize) -> Self {
        Self { left_out_bytes, ..Self::empty() }
    }

    pub fn new(file: Arc<F>, position: u64, len: usize) -> Self {
        Self { file: Some(file), position, len, left_out_bytes: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The open file; none for an empty slice. A real file gives its descriptor by `AsFd`.
    pub fn file(&self) -> Option<&Arc<F>> {
        self.file.as_ref()
    }

    /// Shortens the slice to at most `len` bytes.
    #[must_use]
    pub fn truncated(mut self, len: usize) -> Self {
        self.len = self.len.min(len);
        self
    }
}

impl<F: File> LogSlice<F> {
    /// A copy of the bytes, from the page cache or the disk.
    pub fn read(&self) -> io::Result<Bytes> {
        match &self.file {
            Some(file) => file.read_bytes(self.position, self.len),
            None => Ok(Bytes::new()),
        }
    }

    /// Appends the bytes to `buffer`.
    pub fn read_into(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let start = buffer.len();
        buffer.resize(start + self.len, 0);
        let result = file.read_exact_at(buffer.get_mut(start..).unwrap_or_default(), self.position);
        if result.is_err() {
            buffer.truncate(start);
        }
        result
    }

    /// Appends the bytes to `buffer` and returns true, or returns false and leaves `buffer` unchanged if it would have
    /// to wait for the disk.
    pub fn read_into_if_cached(&self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(true) };
        let start = buffer.len();
        buffer.resize(start + self.len, 0);
        let result = file.read_at_if_cached(buffer.get_mut(start..).unwrap_or_default(), self.position);
        let outcome = match result {
            Ok(Some(count)) if count == self.len => return Ok(true),
            Ok(Some(_)) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        buffer.truncate(start);
        outcome
    }
}

impl<F> ottla_protocol::messages::fetch::RecordSlice for LogSlice<F> {
    fn size_bytes(&self) -> usize {
        self.len
    }
}
