//! Responses onto a socket, in order.
//!
//! Bytes leave by one vectored write for as many parts as are ready. Records go from the page cache to the socket by
//! sendfile, in pieces; a slice that is small is read into memory instead, so that it leaves in one write with its
//! header.
//! Records that are not in the page cache are read by a thread that may block, before they are sent ([`ColdReads`]).
//! Under TLS everything is encrypted in memory: records are read there in pieces, and there is no sendfile.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use ottla_tls::ServerTlsStream;
use rustix::fs::sendfile;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::AsyncWrite as _;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::cold_reads::{ColdRead, ColdReads};
use crate::response::{Part, RecordSlice, Response, SliceAccess as _};
use crate::transport::Transport;

/// A slice up to here is read into memory: below it, a system call of its own costs more than the copy.
const COPY_BYTES_MAX: usize = 64 * 1024;
/// One sendfile. Larger pieces bring nothing, and keep a worker from other connections for longer.
const SENDFILE_BYTES_MAX: usize = 1024 * 1024;
/// Parts of one vectored write.
const WRITE_PARTS_MAX: usize = 64;
/// Sent at a time; then other connections of the worker have their turn.
const TURN_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of records that one vectored write copies at most.
const COPY_BYTES_PER_WRITE_MAX: usize = 256 * 1024;

#[derive(Default)]
pub struct ResponseWriter {
    queue: VecDeque<Part>,
    /// Reads cold records into the page cache.
    warming: Option<ColdRead>,
    memory_bytes: usize,
    sent_bytes: u64,
    /// Of `sent_bytes`: in this turn.
    turn_bytes: u64,
}

enum Step {
    Wrote,
    /// The records at the front are not in the page cache.
    Cold,
}

impl ResponseWriter {
    pub fn push(&mut self, response: Response) {
        self.memory_bytes += response.memory_bytes();
        self.queue.extend(response.parts.into_iter().filter(|part| match part {
            Part::Bytes(bytes) => !bytes.is_empty(),
            Part::Records(slice) => !slice.is_empty(),
        }));
    }

    /// Memory that waits to be written.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// What was sent since the last call.
    pub fn take_sent_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.sent_bytes)
    }

    /// Writes until everything is sent or the socket takes no more.
    pub fn poll_flush(
        &mut self,
        stream: &mut Transport,
        cold_reads: &ColdReads,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match stream {
            Transport::Plain(stream) => self.poll_flush_plain(stream, cold_reads, context),
            Transport::Tls(tls) => self.poll_flush_tls(tls.stream(), cold_reads, context),
        }
    }

    /// Ready when the records at the front may be looked at, and this turn may send more.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(warming) = &mut self.warming {
            let result = ready!(Pin::new(warming).poll(context));
            self.warming = None;
            result?;
        }
        if self.turn_bytes >= TURN_BYTES_MAX && !self.queue.is_empty() {
            self.turn_bytes = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush_tls(
        &mut self,
        stream: &mut ServerTlsStream,
        cold_reads: &ColdReads,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_turn(context))?;
            if self.queue.is_empty() {
                return Pin::new(stream).poll_flush(context);
            }
            if !(self.copy_front_piece()? && self.copy_small_slices()?) {
                self.warm_front(cold_reads);
                continue;
            }
            let (slices, count, _) = self.ready_parts();
            let sent = ready!(Pin::new(&mut *stream).poll_write_vectored(context, &slices[..count]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent(sent);
            self.consume(sent);
        }
    }

    /// Reads a piece of the large slice at the front, if there is one. False: it is not in the page cache.
    fn copy_front_piece(&mut self) -> io::Result<bool> {
        let Some(Part::Records(slice)) = self.queue.front_mut() else { return Ok(true) };
        if slice.len <= COPY_BYTES_MAX {
            return Ok(true);
        }
        let mut piece = slice.clone();
        piece.len = slice.len.min(COPY_BYTES_PER_WRITE_MAX);
        let mut bytes = Vec::with_capacity(piece.len);
        if !piece.read_into_if_cached(&mut bytes)? {
            return Ok(false);
        }
        slice.skip(piece.len);
        if slice.is_empty() {
            self.queue.pop_front();
        }
        self.memory_bytes += bytes.len();
        self.queue.push_front(Part::Bytes(Bytes::from(bytes)));
        Ok(true)
    }

    fn poll_flush_plain(
        &mut self,
        stream: &TcpStream,
        cold_reads: &ColdReads,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_turn(context))?;
            if self.queue.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(stream.poll_write_ready(context))?;
            match self.write_some(stream) {
                Ok(Step::Wrote) => {}
                Ok(Step::Cold) => self.warm_front(cold_reads),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.turn_bytes += bytes as u64;
    }

    fn write_some(&mut self, stream: &TcpStream) -> io::Result<Step> {
        if let Some(Part::Records(slice)) = self.queue.front()
            && slice.len > COPY_BYTES_MAX
        {
            let piece = slice.len.min(SENDFILE_BYTES_MAX);
            if !slice.is_cached(piece) {
                return Ok(Step::Cold);
            }
            let mut position = slice.position;
            let sent =
                stream.try_io(Interest::WRITABLE, || Ok(sendfile(stream, slice.fd()?, Some(&mut position), piece)?))?;
            if sent == 0 {
                return Err(truncated());
            }
            self.sent(sent);
            if let Some(Part::Records(slice)) = self.queue.front_mut() {
                slice.skip(sent);
                if slice.is_empty() {
                    self.queue.pop_front();
                }
            }
            return Ok(Step::Wrote);
        }
        if !self.copy_small_slices()? {
            return Ok(Step::Cold);
        }
        let (slices, count, records_follow) = self.ready_parts();
        // A header that goes out alone would wake the receiver twice.
        let flags = if records_follow { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        let sent = stream.try_io(Interest::WRITABLE, || {
            Ok(sendmsg(stream, &slices[..count], &mut SendAncillaryBuffer::default(), flags)?)
        })?;
        self.sent(sent);
        self.consume(sent);
        Ok(Step::Wrote)
    }

    /// The parts at the front that are in memory, how many they are, and whether records come after them.
    fn ready_parts(&self) -> ([IoSlice<'_>; WRITE_PARTS_MAX], usize, bool) {
        let mut slices = [IoSlice::new(&[]); WRITE_PARTS_MAX];
        let mut count = 0;
        for part in self.queue.iter() {
            match part {
                Part::Bytes(bytes) if count < WRITE_PARTS_MAX => {
                    slices[count] = IoSlice::new(bytes);
                    count += 1;
                }
                Part::Bytes(_) => break,
                Part::Records(_) => return (slices, count, true),
            }
        }
        (slices, count, false)
    }

    /// Replaces the small slices that the next write reaches by their bytes. False if the very first one is not in the
    /// page cache.
    fn copy_small_slices(&mut self) -> io::Result<bool> {
        let mut copied = 0;
        for at in 0..self.queue.len().min(WRITE_PARTS_MAX) {
            let Some(Part::Records(slice)) = self.queue.get(at) else { continue };
            let size = slice.len;
            if size > COPY_BYTES_MAX || copied + size > COPY_BYTES_PER_WRITE_MAX {
                break;
            }
            let mut bytes = Vec::with_capacity(size);
            if !slice.read_into_if_cached(&mut bytes)? {
                return Ok(at > 0);
            }
            copied += size;
            self.memory_bytes += size;
            if let Some(part) = self.queue.get_mut(at) {
                *part = Part::Bytes(Bytes::from(bytes));
            }
        }
        Ok(true)
    }

    fn consume(&mut self, mut sent: usize) {
        self.memory_bytes = self.memory_bytes.saturating_sub(sent);
        while sent > 0 {
            let Some(Part::Bytes(bytes)) = self.queue.front_mut() else { return };
            if sent < bytes.len() {
                bytes.advance(sent);
                return;
            }
            sent -= bytes.len();
            self.queue.pop_front();
        }
    }

    fn warm_front(&mut self, cold_reads: &ColdReads) {
        if let Some(Part::Records(slice)) = self.queue.front() {
            let slice: RecordSlice = slice.clone();
            self.warming = Some(cold_reads.begin(slice.disk(), move || slice.read_through(SENDFILE_BYTES_MAX)));
        }
    }
}

/// The file ended before the slice did: it was truncated under the reader, and the frame cannot be completed.
fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a segment was truncated while it was sent")
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;
    use std::sync::Arc;

    use ottla_storage::env::{Env as _, OpenMode, RealEnv};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.expect("connected"), accepted.expect("accepted").0)
    }

    fn file(content: &[u8]) -> (tempfile::NamedTempFile, Arc<ottla_storage::env::real::RealFile>) {
        let mut named = tempfile::NamedTempFile::new().expect("a temporary file");
        named.write_all(content).expect("written");
        let open = RealEnv.open(named.path(), OpenMode::Read).expect("opened");
        (named, Arc::new(open))
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at % 251) as u8).collect()
    }

    #[tokio::test]
    async fn bytes_and_records_arrive_in_order() {
        let (mut client, server) = pair().await;
        let content = content(3 * 1024 * 1024 + 17);
        let (_named, open) = file(&content);
        let slice = |from: usize, len| Part::Records(RecordSlice::new(Arc::clone(&open), from as u64, len));
        let mut writer = ResponseWriter::default();
        let mut expected = Vec::new();
        for (header, from, len) in
            [(&b"one"[..], 0, 100), (b"two", 5, 3 * 1024 * 1024), (b"", 9, 64 * 1024), (b"four", 1, 64 * 1024 + 1)]
        {
            expected.extend_from_slice(header);
            expected.extend_from_slice(&content[from..from + len]);
            writer.push(Response::new(vec![Part::Bytes(Bytes::copy_from_slice(header)), slice(from, len)]));
        }
        let whole = expected.len();
        let reading = tokio::spawn(async move {
            let mut got = vec![0; whole];
            client.read_exact(&mut got).await.expect("everything");
            got
        });
        let mut server = Transport::Plain(server);
        poll_fn(|context| writer.poll_flush(&mut server, &ColdReads::default(), context)).await.expect("sent");
        assert!(writer.queue.is_empty());
        assert_eq!(writer.memory_bytes(), 0);
        assert_eq!(writer.take_sent_bytes(), whole as u64);
        assert!(reading.await.expect("read") == expected);
    }

    #[tokio::test]
    async fn a_truncated_segment_is_an_error_and_not_a_hang() {
        for len in [1000, 200 * 1024] {
            let (_client, server) = pair().await;
            let (_named, open) = file(&[1; 10]);
            let mut writer = ResponseWriter::default();
            writer.push(Response::new(vec![Part::Records(RecordSlice::new(open, 0, len))]));
            let mut server = Transport::Plain(server);
            let error = poll_fn(|context| writer.poll_flush(&mut server, &ColdReads::default(), context))
                .await
                .expect_err("too short");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
