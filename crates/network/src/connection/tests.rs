//! A connection against a peer that does what clients, broken clients and strangers do. The gate stays closed, so that
//! only ApiVersions is answered: everything here is about frames, order and bounds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use bytes::BytesMut;
use ottla_metrics::Registry;
use ottla_model::{IncarnationId, KafkaPrincipal, ListenerName, SecurityProtocol};
use ottla_protocol::frame;
use ottla_protocol::messages::api_versions::ApiVersionsResponse;
use ottla_resources::Ledger;
use ottla_sasl::oauth::{Bearer, TokenError};
use ottla_sasl::{Credentials, Mechanism, ScramCredential, ScramHash, TokenCredential};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::frame_budget::FrameBudget;
use crate::frame_reader::LOGIN_CHUNK_BYTES;
use crate::metrics::NetworkMetrics;
use crate::response::Response;

const FRAME_BYTES_MAX: usize = 1024 * 1024;
const INCARNATION: IncarnationId = IncarnationId([7; 16]);
/// Longer than anything here takes; a test that gets there has failed.
/// Reached only where something is wrong: a machine may be busy with other things, and its disk too.
const LONG: Duration = Duration::from_secs(110);

/// Answers ApiVersions from the first day, and everything else never.
pub(crate) struct Greeter;

impl Service for Greeter {
    type Identity = ();

    fn handle(self: &Arc<Self>, context: &RequestContext, frame: BytesMut) -> Reply {
        Self::handle_early(&(), context, &frame).unwrap_or(Reply::None)
    }

    fn handle_early((): &(), _: &RequestContext, frame: &BytesMut) -> Option<Reply> {
        let (header, _) = match frame::parse_header(frame) {
            Ok(parsed) => parsed,
            Err(error) => return Some(Reply::close(error)),
        };
        (header.api() == Some(Api::ApiVersions)).then(|| {
            let response = ApiVersionsResponse::of_this_broker(Some(INCARNATION));
            Reply::Ready(Response::bytes(response.encode(header.api_version, header.correlation_id)))
        })
    }
}

type Shared = ConnectionShared<Greeter>;

fn shared() -> Arc<Shared> {
    let idle = Some(Duration::from_secs(120));
    let budget = FrameBudget::new(8 * FRAME_BYTES_MAX);
    Arc::new(Shared::new(Arc::default(), metrics(), FRAME_BYTES_MAX, budget, responses(), idle))
}

/// Memory for responses.
fn responses() -> Arc<Ledger> {
    Ledger::new(8 << 20)
}

fn metrics() -> Arc<NetworkMetrics> {
    Arc::new(NetworkMetrics::new(&Registry::new("test")))
}

async fn connect<S: Service>(shared: &Arc<ConnectionShared<S>>) -> (TcpStream, JoinHandle<End>) {
    connect_to(shared, None).await
}

async fn connect_to<S: Service>(
    shared: &Arc<ConnectionShared<S>>,
    sasl: Option<Arc<SaslListener>>,
) -> (TcpStream, JoinHandle<End>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (server, peer) = accepted.expect("accepted");
    let context = RequestContext {
        listener: ListenerName::new("TEST"),
        security_protocol: SecurityProtocol::Plaintext,
        is_inter_broker_listener: false,
        principal: KafkaPrincipal::anonymous(),
        is_by_token: false,
        peer,
        connection_id: 0,
        opened: std::time::Instant::now(),
        software: Arc::default(),
    };
    let connection = Connection::new(Transport::Plain(server), context, sasl, Arc::clone(shared), None);
    let task = tokio::spawn(Box::new(connection).run());
    (client.expect("connected"), task)
}

async fn response(client: &mut TcpStream) -> Vec<u8> {
    let size = tokio::time::timeout(LONG, client.read_i32()).await.expect("in time").expect("a size");
    let mut frame = vec![0; usize::try_from(size).expect("positive")];
    client.read_exact(&mut frame).await.expect("a whole frame");
    frame
}

async fn ended(task: JoinHandle<End>) -> End {
    tokio::time::timeout(LONG, task).await.expect("in time").expect("no panic")
}

/// Sends bytes to a fresh connection and says how it ended; the client keeps its side open.
async fn end_after(bytes: &[u8]) -> End {
    let (mut client, task) = connect(&shared()).await;
    client.write_all(bytes).await.expect("sent");
    ended(task).await
}

/// Notes what it handles. A write is done when the test says so.
#[derive(Default)]
struct Recorder {
    handled: std::sync::Mutex<Vec<Option<Api>>>,
    done: Arc<tokio::sync::Notify>,
}

impl Recorder {
    async fn has_handled(&self, expected: &[Api]) {
        let expected: Vec<_> = expected.iter().copied().map(Some).collect();
        while self.handled.lock().expect("not poisoned").len() < expected.len() {
            tokio::task::yield_now().await;
        }
        // What is handled too early is handled now: it has arrived with the others.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*self.handled.lock().expect("not poisoned"), expected);
    }
}

impl Service for Recorder {
    type Identity = ();

    fn handle(self: &Arc<Self>, _: &RequestContext, frame: BytesMut) -> Reply {
        let api = api_of(&frame);
        self.handled.lock().expect("not poisoned").push(api);
        let mut response = 4i32.to_be_bytes().to_vec();
        response.extend_from_slice(&frame[4..8]);
        let response = Response::bytes(response);
        if !api.is_some_and(Api::is_write) {
            return Reply::Ready(response);
        }
        let done = self.done.clone();
        Reply::later(async move {
            done.notified().await;
            response
        })
    }

    fn handle_early((): &(), _: &RequestContext, _: &BytesMut) -> Option<Reply> {
        None
    }
}

/// A service, and the gate that is open to it.
fn opened<S: Service<Identity = ()> + Default>() -> (Arc<S>, Arc<ConnectionShared<S>>) {
    let budget = FrameBudget::new(1 << 20);
    let shared = ConnectionShared::new(Arc::default(), metrics(), FRAME_BYTES_MAX, budget, responses(), None);
    let service = Arc::new(S::default());
    shared.gate.open(service.clone());
    (service, Arc::new(shared))
}

/// The whole way, with frames that arrive in one piece: writes, reads between them, and a read behind a Produce that
/// waits for its replicas.
#[tokio::test]
async fn writes_of_one_connection_are_carried_out_one_after_another() {
    let (service, shared) = opened::<Recorder>();
    let (mut client, task) = connect(&shared).await;
    let sent = [
        Api::OffsetCommit,
        Api::OffsetCommit,
        Api::OffsetFetch,
        Api::DeleteRecords,
        Api::Produce,
        Api::Produce,
        Api::ListOffsets,
        Api::OffsetDelete,
    ];
    let mut frames = Vec::new();
    for (id, api) in (0i32..).zip(sent) {
        frames.extend(10i32.to_be_bytes());
        frames.extend(api.key().to_be_bytes());
        frames.extend(1i16.to_be_bytes());
        frames.extend(id.to_be_bytes());
        frames.extend((-1i16).to_be_bytes());
    }
    client.write_all(&frames).await.expect("sent");
    // The end of each write, and how many requests are handled then: one is not enough for the two appends.
    for handled in [1, 2, 4, 6, 6, 8] {
        service.has_handled(&sent[..handled]).await;
        service.done.notify_one();
    }
    for id in 0..8i32 {
        assert_eq!(response(&mut client).await, id.to_be_bytes(), "in order");
    }
    drop(client);
    assert!(matches!(ended(task).await, End::Closed));
}

/// A client that is above its quota is not read, and what it asked for is answered.
#[tokio::test]
async fn a_response_that_mutes_stops_the_reading_for_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (server, peer) = accepted.expect("accepted");
    let context = RequestContext {
        listener: ListenerName::new("TEST"),
        security_protocol: SecurityProtocol::Plaintext,
        is_inter_broker_listener: false,
        principal: KafkaPrincipal::anonymous(),
        is_by_token: false,
        peer,
        connection_id: 0,
        opened: std::time::Instant::now(),
        software: Arc::default(),
    };
    let mut connection = Connection::new(Transport::Plain(server), context, None, shared(), None);
    let answered = |connection: &mut Connection<Greeter>, mute| {
        let response = Reply::Ready(Response::default().muting(mute));
        connection.take_answer(Some(Api::Metadata), Instant::now(), 0, response).expect("goes on");
        connection.may_read()
    };
    assert!(answered(&mut connection, Duration::ZERO), "within its quota");
    assert!(!answered(&mut connection, Duration::from_secs(3_600)));
    assert!(!answered(&mut connection, Duration::from_secs(1)));
    poll_fn(|context| {
        connection.resolve(context);
        assert!(matches!(connection.poll_requests(context), Ok(Poll::Pending)));
        Poll::Ready(())
    })
    .await;
    assert!(connection.pending.is_empty(), "all of it is answered");
}

/// Holds its first request until it is released.
#[derive(Default)]
struct Holder {
    release: Arc<tokio::sync::Notify>,
    handled: std::sync::atomic::AtomicUsize,
}

impl Service for Holder {
    type Identity = ();

    fn handle(self: &Arc<Self>, context: &RequestContext, frame: BytesMut) -> Reply {
        let answer = Greeter::handle_early(&(), context, &frame).unwrap_or(Reply::None);
        if self.handled.fetch_add(1, Ordering::AcqRel) > 0 {
            return answer;
        }
        let release = self.release.clone();
        Reply::Held(Box::pin(async move {
            release.notified().await;
            answer
        }))
    }

    fn handle_early((): &(), _: &RequestContext, _: &BytesMut) -> Option<Reply> {
        None
    }
}

#[tokio::test]
async fn a_held_request_is_carried_out_before_the_next_one_is_handled() {
    let (service, shared) = opened::<Holder>();
    let (mut client, task) = connect(&shared).await;
    for id in 1..=3 {
        client.write_all(&ApiVersionsResponse::encode_request(4, id, None)).await.expect("sent");
    }
    // The others have arrived, and wait.
    while service.handled.load(Ordering::Acquire) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((service.handled.load(Ordering::Acquire), shared.pending()), (1, 1));
    service.release.notify_one();
    for id in 1..=3_i32 {
        assert_eq!(response(&mut client).await[..4], id.to_be_bytes(), "in order");
    }
    assert_eq!(service.handled.load(Ordering::Acquire), 3);
    drop(client);
    assert!(matches!(ended(task).await, End::Closed));
    assert_eq!(shared.pending(), 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    let mut wire = Vec::new();
    for id in 0..20 {
        wire.extend_from_slice(&ApiVersionsResponse::encode_request(id % 5, i32::from(id), Some("client")));
    }
    for piece in [1, 3, 7, wire.len()] {
        let (mut client, _task) = connect(&shared()).await;
        client.set_nodelay(true).expect("an option");
        for bytes in wire.chunks(piece) {
            client.write_all(bytes).await.expect("sent");
        }
        for id in 0..20 {
            let (correlation_id, said) =
                ApiVersionsResponse::decode(id % 5, &response(&mut client).await).expect("a response");
            assert_eq!(correlation_id, i32::from(id), "pieces of {piece}");
            assert_eq!(said.incarnation, (id % 5 >= 3).then_some(INCARNATION));
        }
    }
}

#[tokio::test]
async fn what_is_no_frame_ends_the_connection() {
    for bytes in [
        &(-1i32).to_be_bytes()[..],
        &0i32.to_be_bytes(),
        &i32::MAX.to_be_bytes(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\n\r\n",
        &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00],
    ] {
        assert!(matches!(end_after(bytes).await, End::BadFrame(_)), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_frame_that_the_service_refuses_ends_the_connection() {
    let body = [0x27, 0x0F, 0, 0, 0, 0, 0, 1, 255, 255];
    let mut frame = 10i32.to_be_bytes().to_vec();
    frame.extend(body);
    assert!(matches!(end_after(&frame).await, End::Refused(_)));
}

#[tokio::test]
async fn other_requests_wait_for_the_gate() {
    let (mut client, task) = connect(&shared()).await;
    let mut metadata = vec![0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 9, 255, 255, 0, 0, 0, 0];
    metadata.extend_from_slice(&ApiVersionsResponse::encode_request(3, 10, None));
    client.write_all(&metadata).await.expect("sent");
    let nothing = tokio::time::timeout(Duration::from_millis(50), client.read_u8()).await;
    assert!(nothing.is_err(), "order holds: what comes after waits too");
    assert!(!task.is_finished());
    drop(client);
    // Nobody reads a connection whose request waits; it ends with the broker or once the gate has opened.
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_and_silence_ends_the_connection() {
    let (mut client, task) = connect(&shared()).await;
    client.write_all(&1000i32.to_be_bytes()).await.expect("sent");
    client.write_all(&[0; 10]).await.expect("sent");
    assert!(matches!(task.await.expect("no panic"), End::HalfFrame));
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_ends_after_the_idle_time() {
    let (_client, task) = connect(&shared()).await;
    assert!(matches!(task.await.expect("no panic"), End::Idle));
}

#[tokio::test]
async fn draining_ends_connections_that_have_nothing_to_answer() {
    let shared = shared();
    let (mut client, task) = connect(&shared).await;
    client.write_all(&ApiVersionsResponse::encode_request(3, 1, None)).await.expect("sent");
    response(&mut client).await;
    shared.drain();
    client.write_all(&ApiVersionsResponse::encode_request(3, 2, None)).await.expect("sent");
    assert!(matches!(ended(task).await, End::Draining));
    assert_eq!(shared.pending(), 0);
}

#[tokio::test]
async fn frames_larger_than_a_chunk_come_through() {
    // An ApiVersions body may have 64 KiB: the names are padded.
    let mut body = 18i16.to_be_bytes().to_vec();
    body.extend(3i16.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend((-1i16).to_be_bytes());
    body.push(0);
    let name = vec![b'-'; 20_000];
    // Compact string: length + 1 as a varint.
    body.extend([0xA1, 0x9C, 0x01]);
    body.extend(&name);
    body.extend([2, b'1', 0]);
    let (mut client, _task) = connect(&shared()).await;
    for _ in 0..3 {
        client.write_i32(i32::try_from(body.len()).expect("small")).await.expect("sent");
        client.write_all(&body).await.expect("sent");
    }
    for _ in 0..3 {
        ApiVersionsResponse::decode(3, &response(&mut client).await).expect("an answer");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_gives_way_when_the_memory_for_responses_is_used_up() {
    let responses = responses();
    let shared = Shared::new(
        Arc::default(),
        metrics(),
        FRAME_BYTES_MAX,
        FrameBudget::new(8 * FRAME_BYTES_MAX),
        Arc::clone(&responses),
        None,
    );
    let shared = Arc::new(shared);
    let (mut greedy, greedy_task) = connect(&shared).await;
    let ask = |id| ApiVersionsResponse::encode_request(3, id, None);
    let flood = tokio::spawn(async move {
        // More than the sockets' buffers hold: a response has some 500 bytes.
        for id in 0..100_000 {
            if greedy.write_all(&ask(id)).await.is_err() {
                break;
            }
        }
        greedy
    });
    while responses.used() <= UNCOUNTED_BYTES as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!greedy_task.is_finished(), "there is room");
    drop(flood);
    greedy_task.abort();
    while responses.used() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let _all = responses.take(responses.ceiling()).expect("nothing is used any more");
    let (mut greedy, greedy_task) = connect(&shared).await;
    let flood = tokio::spawn(async move {
        for id in 0..100_000 {
            if greedy.write_all(&ask(id)).await.is_err() {
                break;
            }
        }
        greedy
    });
    let end = tokio::time::timeout(LONG, greedy_task).await.expect("in time").expect("no panic");
    assert!(matches!(&end, End::Refused(reason) if reason == NO_ROOM), "{end}");
    assert_eq!(responses.refused(), 1);
    drop(flood);
    // Who reads is served.
    let (mut modest, _task) = connect(&shared).await;
    for id in 0..100 {
        modest.write_all(&ask(id)).await.expect("sent");
        ApiVersionsResponse::decode(3, &response(&mut modest).await).expect("an answer");
    }
}

/// A Produce frame of this size: before the registration it is held, so it only has to arrive.
fn large_frame(size: usize) -> Vec<u8> {
    let mut frame = i32::try_from(size).expect("small").to_be_bytes().to_vec();
    frame.extend([0, 0, 0, 9, 0, 0, 0, 1, 255, 255]);
    frame.resize(4 + size, 0);
    frame
}

/// Until the connections have received so many bytes.
async fn received(metrics: &NetworkMetrics, at_least: usize) {
    let wait = async {
        while metrics.bytes_received.get() < at_least as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let came = tokio::time::timeout(LONG, wait).await.is_ok();
    assert!(came, "{at_least} bytes never came: {}", metrics.bytes_received.get());
}

pub(crate) fn shared_with(frame_bytes_max: usize, budget: FrameBudget) -> (Arc<Shared>, Arc<NetworkMetrics>) {
    let metrics = metrics();
    (Arc::new(Shared::new(Arc::default(), Arc::clone(&metrics), frame_bytes_max, budget, responses(), None)), metrics)
}

#[tokio::test]
async fn large_frames_wait_for_the_brokers_budget_and_not_for_each_other() {
    let size = 400 * 1024;
    let (shared, metrics) = shared_with(FRAME_BYTES_MAX, FrameBudget::patient(500 * 1024));
    let (mut first, first_task) = connect(&shared).await;
    first.write_all(&large_frame(size)[..200 * 1024]).await.expect("sent");
    received(&metrics, 200 * 1024).await;
    // The second one's probation is all that is read of it while the first holds the budget.
    let (mut second, second_task) = connect(&shared).await;
    let sending = tokio::spawn(async move {
        second.write_all(&large_frame(size)).await.expect("sent");
        second
    });
    received(&metrics, (200 + 64) * 1024).await;
    while shared.budget.waiting() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(metrics.bytes_received.get() < (200 + 64 + 16) * 1024);
    first_task.abort();
    received(&metrics, (200 + 400) * 1024).await;
    drop(sending.await.expect("no panic"));
    second_task.abort();
}

#[tokio::test]
async fn a_large_frame_that_stops_ends_when_another_waits() {
    let size = 400 * 1024;
    let (shared, metrics) = shared_with(FRAME_BYTES_MAX, FrameBudget::new(500 * 1024));
    let (mut first, first_task) = connect(&shared).await;
    first.write_all(&large_frame(size)[..200 * 1024]).await.expect("sent");
    received(&metrics, 200 * 1024).await;
    let (mut second, second_task) = connect(&shared).await;
    second.write_all(&large_frame(size)).await.expect("sent");
    assert!(matches!(ended(first_task).await, End::SlowFrame));
    received(&metrics, (200 + 400) * 1024).await;
    second_task.abort();
    assert!(ended_or_aborted(second_task).await);
    assert_eq!(shared.budget.used_bytes(), 0);
}

async fn ended_or_aborted(task: JoinHandle<End>) -> bool {
    tokio::time::timeout(LONG, task).await.is_ok()
}

/// G5: three clients that claimed 100 MiB each and went on slowly held the whole budget.
#[tokio::test]
async fn clients_that_only_claim_large_frames_do_not_hold_up_others() {
    const MIB: usize = 1024 * 1024;
    let (shared, metrics) = shared_with(100 * MIB, FrameBudget::patient(256 * MIB));
    let begun = &large_frame(100 * MIB)[..80 * 1024];
    let mut claiming = Vec::new();
    for _ in 0..3 {
        let (mut client, task) = connect(&shared).await;
        client.write_all(begun).await.expect("sent");
        claiming.push((client, task));
    }
    received(&metrics, 3 * begun.len()).await;
    let (mut good, good_task) = connect(&shared).await;
    good.write_all(&large_frame(200 * 1024)).await.expect("sent");
    received(&metrics, 3 * begun.len() + 200 * 1024).await;
    good_task.abort();
    claiming.iter().for_each(|(_, task)| task.abort());
}

/// Answers as [`Greeter`], and uses up a whole turn for each request.
struct Spinner;

impl Service for Spinner {
    type Identity = AtomicI64;

    fn handle(self: &Arc<Self>, _: &RequestContext, _: BytesMut) -> Reply {
        Reply::None
    }

    fn handle_early(handled: &AtomicI64, context: &RequestContext, frame: &BytesMut) -> Option<Reply> {
        let began = Instant::now();
        while began.elapsed() < TURN_MAX {
            std::hint::spin_loop();
        }
        handled.fetch_add(1, Ordering::Relaxed);
        Greeter::handle_early(&(), context, frame)
    }
}

/// G8: what one client sends in advance must not keep the others from their worker.
#[tokio::test]
async fn a_client_with_many_requests_lets_others_have_their_turn() {
    const MANY: i64 = 100;
    let handled = Arc::new(AtomicI64::new(0));
    let budget = FrameBudget::new(1024);
    let shared =
        ConnectionShared::<Spinner>::new(Arc::clone(&handled), metrics(), FRAME_BYTES_MAX, budget, responses(), None);
    let shared = Arc::new(shared);
    let request = ApiVersionsResponse::encode_request(3, 1, None);
    let (mut greedy, _greedy_task) = connect(&shared).await;
    let (mut modest, _modest_task) = connect(&shared).await;
    let all: Vec<u8> = (0..MANY).flat_map(|_| request.to_vec()).collect();
    // Both are there before the only thread of this test comes to the connections' tasks.
    greedy.try_write(&all).expect("room in an empty socket");
    modest.try_write(&request).expect("room in an empty socket");
    response(&mut modest).await;
    let before = handled.load(Ordering::Relaxed);
    assert!(before < MANY / 2, "{before} requests of the other client came first");
    for _ in 0..MANY {
        response(&mut greedy).await;
    }
}

/// Nobody can log in.
fn sasl_listener(receive_bytes_max: usize) -> Arc<SaslListener> {
    Arc::new(SaslListener {
        mechanisms: [Mechanism::Plain].into(),
        credentials: Arc::new(Nobody),
        watcher: None,
        reauth_max: None,
        receive_bytes_max,
        failure_delay: Duration::ZERO,
    })
}

struct Nobody;

impl Credentials for Nobody {
    fn password(&self, _: &str) -> Option<String> {
        None
    }

    fn scram(&self, _: ScramHash, _: &str) -> Option<ScramCredential> {
        None
    }

    fn token(&self, _: ScramHash, _: &str) -> Option<TokenCredential> {
        None
    }

    fn bearer(&self, _: &str) -> Result<Bearer, TokenError> {
        Err(TokenError::Signature)
    }

    fn nobody_secret(&self) -> [u8; 32] {
        [9; 32]
    }
}

/// A client that always has another request there was never asked for its login.
#[tokio::test(start_paused = true)]
async fn a_client_that_floods_has_no_longer_to_log_in_than_others() {
    const MANY: usize = 100;
    let budget = FrameBudget::new(1024);
    let shared =
        ConnectionShared::<Spinner>::new(Arc::default(), metrics(), FRAME_BYTES_MAX, budget, responses(), None);
    let (client, task) = connect_to(&Arc::new(shared), Some(sasl_listener(1_000))).await;
    let request = ApiVersionsResponse::encode_request(3, 1, None);
    let all: Vec<u8> = (0..MANY).flat_map(|_| request.to_vec()).collect();
    client.try_write(&all).expect("room in an empty socket");
    // A turn each, for a part of what was sent.
    for _ in 0..MANY / 2 {
        tokio::time::advance(CHECK_INTERVAL).await;
    }
    assert!(task.is_finished());
    assert!(matches!(ended(task).await, End::Refused(reason) if reason == NO_LOGIN));
}

/// Frames of half a megabyte that trickled before a login held what they had, each.
#[tokio::test]
async fn frames_before_a_login_are_counted_from_their_first_byte_and_leave_room_for_a_login() {
    const BUDGET_BYTES: usize = 600 * 1024;
    const HOSTILE: usize = 20;
    let (shared, metrics) = shared_with(FRAME_BYTES_MAX, FrameBudget::new(8 * FRAME_BYTES_MAX));
    let shared = Arc::into_inner(shared).expect("its only owner");
    let shared = Arc::new(shared.with_strangers(Arc::new(FrameBudget::of_strangers(BUDGET_BYTES))));
    let mut hostile = Vec::new();
    for _ in 0..HOSTILE {
        let (mut client, task) = connect_to(&shared, Some(sasl_listener(512 * 1024))).await;
        // Until the broker takes no more of it, or closes the connection.
        let sending = tokio::spawn(async move {
            let _ = client.write_all(&large_frame(500 * 1024)[..400 * 1024]).await;
            client
        });
        hostile.push((sending, task));
    }
    received(&metrics, BUDGET_BYTES / 2).await;
    // All of them wait for more than there is.
    while shared.strangers.evicted() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for id in 0..10 {
        let (mut good, _task) = connect_to(&shared, Some(sasl_listener(512 * 1024))).await;
        good.write_all(&ApiVersionsResponse::encode_request(3, id, None)).await.expect("sent");
        ApiVersionsResponse::decode(3, &response(&mut good).await).expect("an answer");
        let most = BUDGET_BYTES + (HOSTILE + 1) * LOGIN_CHUNK_BYTES;
        assert!(shared.strangers.used_bytes() <= most, "{}", shared.strangers.used_bytes());
    }
    assert_eq!(shared.budget.used_bytes(), 0, "they do not touch the room of clients that are known");
    hostile.iter().for_each(|(sending, task)| {
        sending.abort();
        task.abort();
    });
}

/// On a listener without a login too, until the first request is there.
#[tokio::test]
async fn the_first_request_of_a_plaintext_client_may_be_large_and_strangers_share_what_comes_before() {
    const BUDGET_BYTES: usize = 256 * 1024;
    let (shared, metrics) = shared_with(FRAME_BYTES_MAX, FrameBudget::new(8 * FRAME_BYTES_MAX));
    let shared = Arc::into_inner(shared).expect("its only owner");
    let shared = Arc::new(shared.with_strangers(Arc::new(FrameBudget::of_strangers(BUDGET_BYTES))));
    let mut hostile = Vec::new();
    for _ in 0..20 {
        let (mut client, task) = connect(&shared).await;
        let sending = tokio::spawn(async move {
            let _ = client.write_all(&large_frame(60 * 1024)[..50 * 1024]).await;
            client
        });
        hostile.push((sending, task));
    }
    received(&metrics, BUDGET_BYTES / 2).await;
    assert!(shared.strangers.used_bytes() <= BUDGET_BYTES);
    let before = metrics.bytes_received.get();
    let (mut good, good_task) = connect(&shared).await;
    good.write_all(&large_frame(900 * 1024)).await.expect("sent");
    received(&metrics, usize::try_from(before).expect("small") + 900 * 1024).await;
    good_task.abort();
    hostile.iter().for_each(|(sending, task)| {
        sending.abort();
        task.abort();
    });
}

#[tokio::test(start_paused = true)]
async fn a_frame_before_a_login_has_a_deadline() {
    let (mut client, task) = connect_to(&shared(), Some(sasl_listener(512 * 1024))).await;
    let began = tokio::time::Instant::now();
    let trickle = async {
        for piece in large_frame(400 * 1024).chunks(10 * 1024) {
            if client.write_all(piece).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        client
    };
    let (_client, end) = tokio::join!(trickle, ended(task));
    assert!(matches!(end, End::HalfFrame), "{end}");
    assert!(began.elapsed() < 2 * LOGIN_FRAME_MAX);
}

/// A stranger that asks and does not read held 64 KiB of responses that nobody counted.
#[tokio::test]
async fn few_responses_wait_before_a_login() {
    let responses = responses();
    let budget = FrameBudget::new(8 * FRAME_BYTES_MAX);
    let shared = Shared::new(Arc::default(), metrics(), FRAME_BYTES_MAX, budget, Arc::clone(&responses), None);
    let (mut client, task) = connect_to(&Arc::new(shared), Some(sasl_listener(1_000))).await;
    let ask = ApiVersionsResponse::encode_request(3, 1, None);
    // More than the sockets' buffers hold: until the broker reads no further request.
    while let Ok(sent) = tokio::time::timeout(Duration::from_millis(300), client.write_all(&ask)).await {
        sent.expect("the connection stays");
        assert_eq!(responses.used(), 0);
    }
    assert_eq!(responses.used(), 0);
    assert!(!task.is_finished());
    task.abort();
}
