//! One TCP connection to one broker.
//!
//! Requests are written under a lock, in the order of their correlation ids. A reader task passes responses to the
//! waiting callers in the same order, in which Kafka's brokers send them. Any error ends the connection: a late
//! response could otherwise be matched with the wrong request. A caller that is dropped while it waits is harmless; one
//! that is dropped in the middle of a write ends the connection.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::Request;
use ottla_protocol::frame::{self, LENGTH_BYTES};
use ottla_protocol::messages::api_versions::ApiVersionsResponse;
use ottla_protocol::messages::fetch::{self, FetchRequest, FetchResponse};
use ottla_protocol::messages::produce::{self, ProduceCall, ProduceResponse};
use ottla_protocol::{Api, CodecError, VersionRange, WireError};
use ottla_secure_stream::{SecureError, SecureReadHalf, SecureStream, SecureWriteHalf, StreamSecurity};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::error::ClientError;

/// How a connection behaves.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// The client id in brokers' logs.
    pub client_id: Option<String>,
    pub connect_timeout: Duration,
    /// How long an answer may take, counted from when the request was written; its own waiting time (a fetch's
    /// `max_wait_ms`) included.
    pub request_timeout: Duration,
    /// How many requests may wait for answers; more wait to be sent.
    pub in_flight_max: usize,
    /// The largest accepted response. A broker never sends more than the requested size and one batch.
    pub response_max_bytes: usize,
    /// TLS and the login.
    pub security: StreamSecurity,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            client_id: Some("ottla".to_owned()),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            in_flight_max: 64,
            response_max_bytes: 256 * 1024 * 1024,
            security: StreamSecurity::default(),
        }
    }
}

/// The part of a login's time after which a new connection is made, as Kafka's clients log in again.
const LOGIN_USED: f64 = 0.85;
/// Small responses are read together into one buffer of this size; larger ones are read directly into their own buffer.
const READ_AHEAD_BYTES: usize = 16 * 1024;

/// The callers that wait for the next responses, in order.
struct Pending {
    correlation_id: i32,
    answer: oneshot::Sender<Result<Bytes, ClientError>>,
    /// Returned with the response: bounds the requests in flight.
    _permit: OwnedSemaphorePermit,
}

struct Writer {
    half: SecureWriteHalf,
    next_correlation_id: i32,
    /// Set while a frame is being written: a caller that went away in between leaves half a frame behind.
    is_broken: bool,
}

struct Shared {
    address: String,
    pending: parking::Queue,
    closed: AtomicBool,
}

/// The queue between writers and the reader: held for a push or a pop only.
mod parking {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::{Pending, VecDeque};

    #[derive(Default)]
    pub(super) struct Queue(Mutex<VecDeque<Pending>>);

    impl Queue {
        pub(super) fn lock(&self) -> MutexGuard<'_, VecDeque<Pending>> {
            // Nothing that runs under the lock can leave the queue half changed.
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends the connection: all waiting callers get the error.
    fn close(&self, error: &ClientError) {
        self.closed.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *self.pending.lock());
        for pending in waiting {
            let _ = pending.answer.send(Err(error.clone()));
        }
    }

    fn lost(&self, reason: io::Error) -> ClientError {
        ClientError::Lost { address: self.address.clone(), reason: Arc::new(reason) }
    }

    fn closed_error(&self) -> ClientError {
        ClientError::Closed { address: self.address.clone() }
    }
}

/// A connection to a broker. It is closed when dropped.
pub struct Connection {
    config: ConnectionConfig,
    shared: Arc<Shared>,
    writer: Mutex<Writer>,
    in_flight: Arc<Semaphore>,
    reader: AbortHandle,
    /// From then on the broker closes the connection at the next request; it counts as closed.
    login_ends: Option<Instant>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("address", &self.shared.address)
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.shared.close(&self.shared.closed_error());
    }
}

impl Connection {
    /// Connects to `host:port`; every address of the name is tried. Needs a tokio runtime, on which it spawns its
    /// reader.
    pub async fn connect(address: &str, config: ConnectionConfig) -> Result<Self, ClientError> {
        let connecting = tokio::time::timeout(config.connect_timeout, TcpStream::connect(address)).await;
        let stream = match connecting {
            Ok(Ok(stream)) => stream,
            Ok(Err(reason)) => {
                return Err(ClientError::Connect { address: address.to_owned(), reason: Arc::new(reason) });
            }
            Err(_) => {
                return Err(ClientError::ConnectTimeout {
                    address: address.to_owned(),
                    timeout: config.connect_timeout,
                });
            }
        };
        let failed = |reason: io::Error| ClientError::Connect { address: address.to_owned(), reason: Arc::new(reason) };
        refuse_itself(&stream).map_err(failed)?;
        // Frames are written whole: waiting to fill a segment would only delay them.
        stream.set_nodelay(true).map_err(failed)?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let securing = tokio::time::timeout(config.request_timeout, config.security.secure(stream, host));
        match securing.await {
            Ok(Ok((stream, lifetime))) => Ok(Self::secured(stream, address, config, lifetime)),
            Ok(Err(SecureError::Io(reason))) => Err(failed(reason)),
            Ok(Err(error)) => {
                Err(ClientError::NotTrusted { address: address.to_owned(), reason: Arc::from(error.to_string()) })
            }
            Err(_) => Err(ClientError::ConnectTimeout { address: address.to_owned(), timeout: config.request_timeout }),
        }
    }

    /// Takes over a plaintext stream that is connected to `address`.
    pub fn over(stream: TcpStream, address: &str, config: ConnectionConfig) -> Result<Self, ClientError> {
        let failed = |reason: io::Error| ClientError::Connect { address: address.to_owned(), reason: Arc::new(reason) };
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self::secured(SecureStream::Plain(stream), address, config, None))
    }

    fn secured(stream: SecureStream, address: &str, config: ConnectionConfig, lifetime: Option<Duration>) -> Self {
        let (read_half, write_half) = stream.into_split();
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            pending: parking::Queue::default(),
            closed: AtomicBool::new(false),
        });
        let reader = tokio::spawn(read_answers(read_half, shared.clone(), config.response_max_bytes)).abort_handle();
        Self {
            in_flight: Arc::new(Semaphore::new(config.in_flight_max.max(1))),
            writer: Mutex::new(Writer { half: write_half, next_correlation_id: 0, is_broken: false }),
            config,
            shared,
            reader,
            login_ends: lifetime.map(|lifetime| Instant::now() + lifetime.mul_f64(LOGIN_USED)),
        }
    }

    /// The configured address.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    pub fn config(&self) -> &ConnectionConfig {
        &self.config
    }

    /// Whether the connection has ended; it does not come back.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed() || self.login_ends.is_some_and(|end| Instant::now() >= end)
    }

    /// Sends the frame that `encode` makes for a correlation id (length prefix included) and returns the answer's frame
    /// (without it).
    pub async fn send(&self, encode: impl FnOnce(i32) -> Result<Bytes, CodecError>) -> Result<Bytes, ClientError> {
        self.send_within(self.config.request_timeout, encode).await
    }

    /// As [`Connection::send`], with another time-out than the configured one. A time-out ends the connection.
    pub async fn send_within(
        &self,
        timeout: Duration,
        encode: impl FnOnce(i32) -> Result<Bytes, CodecError>,
    ) -> Result<Bytes, ClientError> {
        let waiting = async {
            let answer = self.write(encode).await?;
            // The reader drops a waiting caller without a response only at the end of the runtime.
            answer.await.map_err(|_| self.shared.lost(io::ErrorKind::ConnectionAborted.into()))?
        };
        match tokio::time::timeout(timeout, waiting).await {
            Ok(result) => result,
            Err(_) => {
                let error = ClientError::TimedOut { address: self.shared.address.clone(), timeout };
                self.shared.close(&error);
                self.reader.abort();
                Err(error)
            }
        }
    }

    /// Writes one request and takes its place among those that wait.
    async fn write(
        &self,
        encode: impl FnOnce(i32) -> Result<Bytes, CodecError>,
    ) -> Result<oneshot::Receiver<Result<Bytes, ClientError>>, ClientError> {
        let permit = self.in_flight.clone().acquire_owned().await.map_err(|_| self.shared.closed_error())?;
        let mut writer = self.writer.lock().await;
        let correlation_id = self.begin(&mut writer)?;
        let request = match encode(correlation_id) {
            Ok(request) => request,
            Err(error) => {
                writer.is_broken = false;
                return Err(ClientError::Encode(error));
            }
        };
        let (answer, waiting) = oneshot::channel();
        self.shared.pending.lock().push_back(Pending { correlation_id, answer, _permit: permit });
        // Closed between the check and the push: the reader would never remove this caller again.
        if self.shared.is_closed() {
            self.shared.close(&self.shared.closed_error());
        }
        self.finish(&mut writer, &request).await?;
        Ok(waiting)
    }

    fn begin(&self, writer: &mut Writer) -> Result<i32, ClientError> {
        if writer.is_broken || self.shared.is_closed() {
            self.shared.close(&self.shared.closed_error());
            return Err(self.shared.closed_error());
        }
        writer.is_broken = true;
        let correlation_id = writer.next_correlation_id;
        writer.next_correlation_id = correlation_id.wrapping_add(1);
        Ok(correlation_id)
    }

    async fn finish(&self, writer: &mut Writer, request: &[u8]) -> Result<(), ClientError> {
        let written = match writer.half.write_all(request).await {
            // TLS may keep the end of a frame back.
            Ok(()) => writer.half.flush().await,
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => {
                writer.is_broken = false;
                Ok(())
            }
            Err(reason) => {
                let error = self.shared.lost(reason);
                self.shared.close(&error);
                Err(error)
            }
        }
    }

    /// Sends a request that has no answer (Produce with acks 0). It returns once the bytes are handed to the system.
    pub async fn send_without_answer(
        &self,
        encode: impl FnOnce(i32) -> Result<Bytes, CodecError>,
    ) -> Result<(), ClientError> {
        let sending = async {
            let mut writer = self.writer.lock().await;
            let correlation_id = self.begin(&mut writer)?;
            match encode(correlation_id) {
                Ok(request) => self.finish(&mut writer, &request).await,
                Err(error) => {
                    writer.is_broken = false;
                    Err(ClientError::Encode(error))
                }
            }
        };
        let timeout = self.config.request_timeout;
        match tokio::time::timeout(timeout, sending).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::TimedOut { address: self.shared.address.clone(), timeout }),
        }
    }

    /// Sends a request through the codec and decodes its answer.
    pub async fn call<R: Request>(&self, version: i16, request: &R) -> Result<R::Response, ClientError> {
        self.call_within(self.config.request_timeout, version, request).await
    }

    /// As [`Connection::call`], with another time-out than the configured one: some requests wait on purpose.
    pub async fn call_within<R: Request>(
        &self,
        timeout: Duration,
        version: i16,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        let client_id = self.config.client_id.as_deref();
        let encode = |correlation_id| ottla_protocol::encode_request(version, correlation_id, client_id, request);
        let frame = self.send_within(timeout, encode).await?;
        let (_, response) = ottla_protocol::decode_response::<R>(version, frame).map_err(ClientError::Decode)?;
        Ok(response)
    }

    /// The broker's APIs and versions, and its incarnation. A broker that does not support our newest version of
    /// ApiVersions answers in version 0.
    pub async fn api_versions(&self) -> Result<ApiVersionsResponse, ClientError> {
        let client_id = self.config.client_id.as_deref();
        let mut version = Api::ApiVersions.served().max;
        loop {
            let encode = |id| Ok(ApiVersionsResponse::encode_request(version, id, client_id));
            let frame = self.send(encode).await?;
            let (_, response) = ApiVersionsResponse::decode(version, &frame)?;
            let lower = response.common(Api::ApiVersions).map_or(0, |versions| versions.max);
            if response.error.is_ok() {
                return Ok(response);
            }
            if lower >= version {
                return Err(ClientError::refused(response.error));
            }
            version = lower;
        }
    }

    /// Fetches; the records of the answer are slices of its frame. `replica_timeout` semantics are the caller's: the
    /// broker may take `max_wait_ms` of the request before it answers.
    pub async fn fetch(&self, version: i16, request: &FetchRequest) -> Result<FetchResponse<Bytes>, ClientError> {
        let client_id = self.config.client_id.as_deref();
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        let encode = |id| fetch::encode_request(version, id, client_id, request).map_err(CodecError::from);
        let frame = self.send_within(self.config.request_timeout + wait, encode).await?;
        Ok(fetch::decode_response(version, &frame)?.1)
    }

    /// Produces; none for acks 0, which is not answered.
    pub async fn produce(&self, version: i16, call: &ProduceCall) -> Result<Option<ProduceResponse>, ClientError> {
        let client_id = self.config.client_id.as_deref();
        let encode = |id| produce::encode_request(version, id, client_id, call).map_err(CodecError::from);
        if call.acks == 0 {
            self.send_without_answer(encode).await?;
            return Ok(None);
        }
        let wait = Duration::from_millis(u64::try_from(call.timeout_ms).unwrap_or(0));
        let frame = self.send_within(self.config.request_timeout + wait, encode).await?;
        Ok(Some(produce::decode_response(version, &frame)?.1))
    }

    /// The newest version of an API that both sides support, from the broker's list.
    pub fn newest(&self, versions: &ApiVersionsResponse, api: Api) -> Result<VersionRange, ClientError> {
        let none = || ClientError::NoCommonVersion { address: self.shared.address.clone(), api };
        versions.common(api).ok_or_else(none)
    }
}

/// Reads responses until the connection ends, and passes each to the first waiting caller.
async fn read_answers(half: SecureReadHalf, shared: Arc<Shared>, response_max_bytes: usize) {
    let mut frames = FrameReader::new(half);
    let error = loop {
        let frame = match frames.next(response_max_bytes).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(reason)) => break ClientError::Frame { address: shared.address.clone(), reason },
            Err(reason) => break shared.lost(reason),
        };
        let Some(correlation_id) = frame.first_chunk().map(|bytes| i32::from_be_bytes(*bytes)) else {
            let reason = frame::FrameError::TooShort(frame.len());
            break ClientError::Frame { address: shared.address.clone(), reason };
        };
        let next = shared.pending.lock().pop_front();
        match next {
            Some(pending) if pending.correlation_id == correlation_id => {
                // The caller may be gone.
                let _ = pending.answer.send(Ok(frame));
            }
            other => {
                let reason = WireError::InvalidField { name: "correlation_id", value: i64::from(correlation_id) };
                let error = ClientError::Frame { address: shared.address.clone(), reason: reason.into() };
                if let Some(pending) = other {
                    let _ = pending.answer.send(Err(error.clone()));
                }
                break error;
            }
        }
    };
    tracing::debug!(address = %shared.address, %error, "connection ended");
    shared.close(&error);
}

/// Cuts a stream into frames: small ones are read many at a time, large ones straight into a buffer of their size.
struct FrameReader<R> {
    input: R,
    ahead: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    fn new(input: R) -> Self {
        Self { input, ahead: BytesMut::with_capacity(READ_AHEAD_BYTES) }
    }

    /// The next frame without its length prefix.
    async fn next(&mut self, max_bytes: usize) -> io::Result<Result<Bytes, frame::FrameError>> {
        self.fill(LENGTH_BYTES).await?;
        let prefix: [u8; LENGTH_BYTES] = self.ahead.first_chunk().copied().unwrap_or_default();
        let length = match frame::parse_length(prefix, max_bytes) {
            Ok(length) => length,
            Err(error) => return Ok(Err(error)),
        };
        if LENGTH_BYTES + length <= READ_AHEAD_BYTES {
            self.fill(LENGTH_BYTES + length).await?;
            let mut frame = self.ahead.split_to(LENGTH_BYTES + length);
            return Ok(Ok(frame.split_off(LENGTH_BYTES).freeze()));
        }
        let head = self.ahead.len().min(LENGTH_BYTES + length);
        let head = self.ahead.split_to(head);
        let mut frame = BytesMut::with_capacity(length);
        frame.put_slice(head.get(LENGTH_BYTES..).unwrap_or_default());
        while frame.len() < length {
            let missing = length - frame.len();
            if self.input.read_buf(&mut (&mut frame).limit(missing)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Ok(frame.freeze()))
    }

    /// Reads until `count` bytes are there.
    async fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.ahead.len() < count {
            self.ahead.reserve(READ_AHEAD_BYTES);
            let room = READ_AHEAD_BYTES.max(count - self.ahead.len());
            if self.input.read_buf(&mut (&mut self.ahead).limit(room)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// A connection to a port of this machine on which nobody listens may get that port as its own: TCP then connects it to
/// itself, and a listener cannot have the port. Such a connection counts as refused, and gives the port back at once.
fn refuse_itself(stream: &TcpStream) -> io::Result<()> {
    if stream.local_addr()? != stream.peer_addr()? {
        return Ok(());
    }
    // Without this the port would stay in TIME_WAIT for a minute.
    stream.set_zero_linger()?;
    Err(io::ErrorKind::ConnectionRefused.into())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(config: ConnectionConfig) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (connection, accepted) = tokio::join!(Connection::connect(&address, config), listener.accept());
        (connection.unwrap(), accepted.unwrap().0)
    }

    /// A request of a correlation id and some bytes; the peer of these tests sends it back as the answer.
    fn frame_of(correlation_id: i32, body: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u32(4 + body.len() as u32);
        out.put_i32(correlation_id);
        out.put_slice(body);
        out.freeze()
    }

    async fn read_frame(peer: &mut TcpStream) -> Vec<u8> {
        let length = peer.read_u32().await.unwrap();
        let mut frame = vec![0; length as usize];
        peer.read_exact(&mut frame).await.unwrap();
        frame
    }

    #[tokio::test]
    async fn answers_of_every_size_come_in_order() {
        let (connection, mut peer) = pair(ConnectionConfig::default()).await;
        let peer = tokio::spawn(async move {
            for _ in 0..4 {
                let frame = read_frame(&mut peer).await;
                peer.write_u32(frame.len() as u32).await.unwrap();
                peer.write_all(&frame).await.unwrap();
            }
        });
        let sizes = [0, 10, READ_AHEAD_BYTES * 3, 10 * 1024 * 1024];
        let send = |size: usize| connection.send(move |id| Ok(frame_of(id, &vec![7; size])));
        let (a, b, c, d) = tokio::join!(send(sizes[0]), send(sizes[1]), send(sizes[2]), send(sizes[3]));
        for (answer, size) in [a, b, c, d].into_iter().zip(sizes) {
            assert_eq!(answer.unwrap().len(), 4 + size);
        }
        peer.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_in_flight_is_bounded() {
        let config = ConnectionConfig { in_flight_max: 2, ..ConnectionConfig::default() };
        let (connection, mut peer) = pair(config).await;
        let connection = Arc::new(connection);
        let mut sends = Vec::new();
        for _ in 0..3 {
            let connection = connection.clone();
            sends.push(tokio::spawn(async move { connection.send(|id| Ok(frame_of(id, b"x"))).await }));
        }
        let first = read_frame(&mut peer).await;
        let second = read_frame(&mut peer).await;
        tokio::task::yield_now().await;
        assert!(matches!(peer.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock));
        for frame in [&first, &second] {
            peer.write_u32(frame.len() as u32).await.unwrap();
            peer.write_all(frame).await.unwrap();
        }
        let third = read_frame(&mut peer).await;
        peer.write_u32(third.len() as u32).await.unwrap();
        peer.write_all(&third).await.unwrap();
        for send in sends {
            send.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_fails_who_waits_with_an_unknown_outcome() {
        let (connection, mut peer) = pair(ConnectionConfig::default()).await;
        let (answer, ()) = tokio::join!(connection.send(|id| Ok(frame_of(id, b"x"))), async move {
            read_frame(&mut peer).await;
            drop(peer);
        });
        let error = answer.unwrap_err();
        assert_eq!(error.outcome(), crate::Outcome::Unknown);
        assert!(error.is_retriable() && connection.is_closed());
        let error = connection.send(|id| Ok(frame_of(id, b"x"))).await.unwrap_err();
        assert_eq!(error.outcome(), crate::Outcome::NotSent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_out_ends_the_connection() {
        let (connection, _peer) = pair(ConnectionConfig::default()).await;
        let error = connection.send(|id| Ok(frame_of(id, b"x"))).await.unwrap_err();
        assert!(matches!(error, ClientError::TimedOut { .. }));
        assert!(connection.is_closed());
    }

    #[tokio::test]
    async fn an_answer_to_another_request_or_of_absurd_size_ends_the_connection() {
        for bytes in [&frame_of(99, b"x")[..], b"GET / HTTP/1.1\r\n", &[0xff; 8], &[0, 0, 0, 2, 1, 1]] {
            let (connection, mut peer) = pair(ConnectionConfig::default()).await;
            let (answer, ()) = tokio::join!(connection.send(|id| Ok(frame_of(id, b"x"))), async {
                read_frame(&mut peer).await;
                peer.write_all(bytes).await.unwrap();
            });
            assert!(matches!(answer, Err(ClientError::Frame { .. })), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_refused_port_says_that_nothing_was_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Connection::connect(&address, ConnectionConfig::default()).await.unwrap_err();
        assert_eq!(error.outcome(), crate::Outcome::NotSent);
        assert!(error.to_string().contains(&address));
    }

    #[tokio::test]
    async fn a_connection_to_itself_counts_as_refused_and_gives_its_port_back() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = socket.local_addr().unwrap();
        let stream = socket.connect(address).await.unwrap();
        assert_eq!(refuse_itself(&stream).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(stream);
        tokio::net::TcpListener::bind(address).await.unwrap();
    }
}
