//! One socket: frames in and answers out, with bounds for the bytes of all connections together.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use ottla_zookeeper::FRAME_BYTES_MAX;
use ottla_zookeeper::connect::{CONNECT_BYTES_MAX, ConnectRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::stream::Stream;

/// Frames up to this size need no part of [`LARGE_FRAMES_KIB`]: most requests have less than 200 bytes.
const SMALL_FRAME_BYTES_MAX: usize = 8 * 1024;
/// The larger frames of all connections together.
const LARGE_FRAMES_KIB: usize = 8 * 1024;
/// Answers up to this size, of one connection, need no part of [`LARGE_ANSWERS_KIB`].
const SMALL_ANSWERS_BYTES_MAX: usize = 16 * 1024;
/// The larger answers of all connections together.
const LARGE_ANSWERS_KIB: usize = 8 * 1024;
/// What must be free before a request is answered: nobody knows before how large the answer is, and few are larger.
const RESERVED_KIB: u32 = 2 * 1024;
/// A client that does not read keeps a part of [`LARGE_ANSWERS_KIB`] from others no longer than this.
const LARGE_ANSWERS_TIMEOUT: Duration = Duration::from_secs(5);

/// The bytes of large frames and answers, for all connections. Who waits for the room of an answer may hold that of a
/// frame; who holds the room of an answer waits for its client only.
#[derive(Clone)]
pub struct Budgets {
    frames: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            frames: Arc::new(Semaphore::new(LARGE_FRAMES_KIB)),
            answers: Arc::new(Semaphore::new(LARGE_ANSWERS_KIB)),
        }
    }
}

/// A socket, what was received of it, and what is to be sent.
pub struct Connection {
    stream: Stream,
    received: BytesMut,
    pub out: Vec<u8>,
    budgets: Budgets,
    /// Held while a large frame is received, and until what it asks for is done.
    large_frame: Option<OwnedSemaphorePermit>,
    /// Held while a request is answered, and, for what `out` takes, until it is written.
    answers: Option<OwnedSemaphorePermit>,
}

impl Connection {
    pub fn new(stream: Stream, budgets: Budgets) -> Self {
        Self { stream, received: BytesMut::new(), out: Vec::new(), budgets, large_frame: None, answers: None }
    }

    pub async fn connect_request(&mut self) -> io::Result<ConnectRequest> {
        while !self.has_frame() {
            if self.next_length().is_some_and(|length| length > CONNECT_BYTES_MAX) {
                return Err(invalid("a first frame that is no connect request"));
            }
            if self.receive().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let frame = self.frame()?.unwrap_or_default();
        ConnectRequest::parse(&frame).map_err(invalid)
    }

    fn next_length(&self) -> Option<usize> {
        let length = self.received.first_chunk::<4>()?;
        Some(usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX))
    }

    pub fn has_frame(&self) -> bool {
        self.next_length().is_some_and(|length| length > FRAME_BYTES_MAX || self.received.len() - 4 >= length)
    }

    /// The next frame, if it has come whole.
    pub fn frame(&mut self) -> io::Result<Option<BytesMut>> {
        let Some(length) = self.next_length().filter(|_| self.has_frame()) else { return Ok(None) };
        if length > FRAME_BYTES_MAX {
            return Err(invalid(format!("a frame of {length} bytes")));
        }
        self.received.advance(4);
        let frame = self.received.split_to(length);
        if length > SMALL_FRAME_BYTES_MAX {
            // The large buffer goes with its frame, whatever came behind that.
            self.received = BytesMut::from(&self.received[..]);
        }
        Ok(Some(frame))
    }

    /// What the last frame asked for is done, and the frame is dropped.
    pub fn release_frame(&mut self) {
        self.large_frame = None;
    }

    /// Receives some bytes; 0: the client has closed the connection. May be cancelled without losing any.
    pub async fn receive(&mut self) -> io::Result<usize> {
        let length = self.next_length().unwrap_or(0);
        if length > SMALL_FRAME_BYTES_MAX && self.large_frame.is_none() {
            let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
            let permit = self.budgets.frames.clone().acquire_many_owned(kib).await;
            self.large_frame = Some(permit.map_err(|_| io::ErrorKind::ConnectionAborted)?);
            // A buffer that grows as it is filled could take twice as much.
            self.received.reserve((4 + length).saturating_sub(self.received.len()));
        }
        self.stream.read_buf(&mut self.received).await
    }

    /// Waits until there is room for a large answer. What was answered before is small, or written.
    pub async fn reserve(&mut self, timeout: Duration) -> io::Result<()> {
        if self.answers.is_none() {
            let permit = self.budgets.answers.clone().acquire_many_owned(RESERVED_KIB);
            let permit = tokio::time::timeout(timeout, permit).await?;
            self.answers = Some(permit.map_err(|_| io::ErrorKind::ConnectionAborted)?);
        }
        Ok(())
    }

    /// Keeps as much of the room as `out` takes, or takes more. Where there is no more, the connection ends: a client
    /// that has been answered cannot be asked to wait.
    pub fn settle(&mut self) -> io::Result<()> {
        let wanted = if self.is_large() { self.out.capacity().div_ceil(1024) } else { 0 };
        let reserved = self.answers.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if wanted == 0 {
            self.answers = None;
        } else if let Some(unused) = reserved.checked_sub(wanted) {
            drop(self.answers.as_mut().and_then(|answers| answers.split(unused)));
        } else {
            let missing = u32::try_from(wanted - reserved).unwrap_or(u32::MAX);
            let more = self.budgets.answers.clone().try_acquire_many_owned(missing);
            let more = more.map_err(|_| io::Error::other(format!("no room for answers of {wanted} KiB")))?;
            match &mut self.answers {
                Some(answers) => answers.merge(more),
                none => *none = Some(more),
            }
        }
        Ok(())
    }

    /// Whether the answers are to be written before anything else is done.
    pub fn is_large(&self) -> bool {
        self.out.capacity() > SMALL_ANSWERS_BYTES_MAX
    }

    /// A client that does not read is disconnected after `timeout`, or earlier.
    pub async fn flush(&mut self, timeout: Duration) -> io::Result<()> {
        if !self.out.is_empty() {
            let timeout = if self.is_large() { timeout.min(LARGE_ANSWERS_TIMEOUT) } else { timeout };
            let sending = async {
                self.stream.write_all(&self.out).await?;
                // TLS may hold back what the socket did not take.
                self.stream.flush().await
            };
            tokio::time::timeout(timeout, sending).await??;
            self.out.clear();
        }
        self.out.shrink_to(SMALL_ANSWERS_BYTES_MAX);
        self.answers = None;
        Ok(())
    }
}

pub fn invalid(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);
    const KIB: usize = 1024;

    async fn pair(budgets: &Budgets) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("listens");
        let (stream, _) = listener.accept().await.expect("accepted");
        (Connection::new(stream.into(), budgets.clone()), client)
    }

    #[tokio::test]
    async fn large_answers_have_a_part_of_the_bound_until_they_are_written() {
        let budgets = Budgets::default();
        let (mut first, mut client) = pair(&budgets).await;
        first.reserve(TIMEOUT).await.expect("room");
        assert_eq!(budgets.answers.available_permits(), LARGE_ANSWERS_KIB - 2 * KIB);
        first.out = vec![7; KIB];
        first.settle().expect("room");
        assert_eq!(budgets.answers.available_permits(), LARGE_ANSWERS_KIB, "it is small");
        first.reserve(TIMEOUT).await.expect("room");
        first.out = vec![7; 64 * KIB];
        first.settle().expect("room");
        assert_eq!(budgets.answers.available_permits(), LARGE_ANSWERS_KIB - 64);
        // Larger than what was reserved.
        let (mut second, _client) = pair(&budgets).await;
        second.reserve(TIMEOUT).await.expect("room");
        second.out = vec![7; (LARGE_ANSWERS_KIB - 64) * KIB];
        second.settle().expect("room");
        assert_eq!(budgets.answers.available_permits(), 0);
        let (mut third, _other) = pair(&budgets).await;
        third.out = vec![7; 64 * KIB];
        third.settle().expect_err("no room");
        third.reserve(Duration::ZERO).await.expect_err("no room");
        drop(second);
        third.settle().expect("room");
        let mut received = vec![0; 64 * KIB];
        let (flushed, read) = tokio::join!(first.flush(TIMEOUT), client.read_exact(&mut received));
        flushed.expect("written");
        read.expect("received");
        assert_eq!(budgets.answers.available_permits(), LARGE_ANSWERS_KIB - 64, "that of the third");
        assert!(first.out.capacity() <= SMALL_ANSWERS_BYTES_MAX);
    }

    #[tokio::test]
    async fn large_frames_have_a_part_of_the_bound_and_take_no_more() {
        const LENGTH: usize = 512 * KIB;
        let budgets = Budgets::default();
        let (mut connection, mut client) = pair(&budgets).await;
        let sender = tokio::spawn(async move {
            for _ in 0..2 {
                client.write_all(&u32::try_from(LENGTH).expect("small").to_be_bytes()).await.expect("written");
                client.write_all(&vec![7; LENGTH]).await.expect("written");
            }
            client
        });
        for _ in 0..2 {
            while !connection.has_frame() {
                connection.receive().await.expect("received");
            }
            assert_eq!(budgets.frames.available_permits(), LARGE_FRAMES_KIB - LENGTH / KIB);
            let frame = connection.frame().expect("a frame").expect("whole");
            assert_eq!(frame.len(), LENGTH);
            assert!(connection.received.capacity() <= 16 * KIB, "{}", connection.received.capacity());
            drop(frame);
            connection.release_frame();
            assert_eq!(budgets.frames.available_permits(), LARGE_FRAMES_KIB);
        }
        sender.await.expect("no panic");
    }
}
