//! Tens of thousands of hostile frames and handshakes from clients that have not logged in: the broker stays, its
//! memory stays, and a client that has logged in is served as before. `make soak` sends 100,000.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ottla_e2e::certificates::Authority;
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use ottla_model::{PartitionId, TimestampMs};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::produce::{self, ProduceCall};
use ottla_protocol::record_batch::BatchBuilder;
use ottla_test_support::free_ports;
use ottla_tls::{ClientTls, TlsSettings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

const PLAIN_MODULE: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";
const TOPIC: &str = "beside-hostile-ones";
/// In `make test`; `OTTLA_HOSTILE_CONNECTIONS` sets another number.
const CONNECTIONS: u64 = 10_000;
/// Bound of the growth of the broker's resident memory.
const MEMORY_GROWTH_KIB: u64 = 64 * 1024;
/// One of so many connections waits for what the broker says.
const READ_EVERY: u64 = 8;
const READ_TIMEOUT: Duration = Duration::from_millis(20);
/// Between two records of the good client.
const PAUSE: Duration = Duration::from_millis(5);
const QUIET: Duration = Duration::from_secs(5);
/// Kafka's keys of APIs.
const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const SASL_HANDSHAKE: i16 = 17;
const API_VERSIONS: i16 = 18;
const SASL_AUTHENTICATE: i16 = 36;

/// SplitMix64: the same bytes for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    fn bytes(&mut self, length_max: usize) -> Vec<u8> {
        let length = 1 + self.below(length_max);
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

fn prefixed<const N: usize>(bytes: &[u8]) -> Vec<u8> {
    let mut whole = bytes.len().to_be_bytes()[8 - N..].to_vec();
    whole.extend(bytes);
    whole
}

fn handshake(version: i16, mechanism: &str) -> Vec<u8> {
    clients::request_frame(SASL_HANDSHAKE, version, 1, &prefixed::<2>(mechanism.as_bytes()))
}

fn authenticate(token: &[u8]) -> Vec<u8> {
    clients::request_frame(SASL_AUTHENTICATE, 0, 2, &prefixed::<4>(token))
}

/// A ClientHello that a server of TLS 1.3 answers.
fn client_hello(random: &mut Random) -> Vec<u8> {
    let mut fixed = |length: usize| (0..length).map(|_| random.next().to_le_bytes()[0]).collect::<Vec<u8>>();
    let extension = |kind: u8, body: &[u8]| [&[0, kind][..], &prefixed::<2>(body)].concat();
    let key_share = [&[0x00, 0x1d][..], &prefixed::<2>(&fixed(32))].concat();
    let extensions = [
        extension(10, &prefixed::<2>(&[0x00, 0x1d, 0x00, 0x17])),
        extension(13, &prefixed::<2>(&[0x04, 0x03, 0x08, 0x04, 0x04, 0x01, 0x05, 0x03, 0x08, 0x05])),
        extension(43, &prefixed::<1>(&[0x03, 0x04, 0x03, 0x03])),
        extension(51, &prefixed::<2>(&key_share)),
    ];
    let body = [
        vec![0x03, 0x03],
        fixed(32),
        prefixed::<1>(&fixed(32)),
        prefixed::<2>(&[0x13, 0x01, 0x13, 0x02, 0x13, 0x03, 0xc0, 0x2b, 0xc0, 0x2f]),
        vec![0x01, 0x00],
        prefixed::<2>(&extensions.concat()),
    ];
    let message = [&[0x01][..], &prefixed::<3>(&body.concat())].concat();
    [&[0x16, 0x03, 0x01][..], &prefixed::<2>(&message)].concat()
}

/// What a hostile client sends to the listener with SASL.
fn of_sasl(random: &mut Random) -> Vec<u8> {
    let mechanisms = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI", ""];
    let mechanism = mechanisms[random.below(mechanisms.len())];
    match random.below(8) {
        0 => random.bytes(200),
        1 => [&[0x7f, 0xff, 0xff, 0xff][..], &random.bytes(100)].concat(),
        2 => [handshake(1, mechanism), authenticate(&random.bytes(300))].concat(),
        3 => [handshake(0, mechanism), prefixed::<4>(&random.bytes(300))].concat(),
        4 => authenticate(b"\0alice\0alice-secret"),
        5 => {
            let api = i16::try_from(random.below(100)).unwrap_or(PRODUCE);
            clients::request_frame(api, i16::try_from(random.below(15)).unwrap_or(0), 3, &random.bytes(200))
        }
        6 => [clients::request_frame(API_VERSIONS, 0, 1, &[]), handshake(1, "PLAIN"), authenticate(b"\0alice\0wrong")]
            .concat(),
        _ => {
            let first = [b"n,,n=alice,r=".as_slice(), &random.bytes(40)].concat();
            let last = [b"c=biws,r=".as_slice(), &random.bytes(40), b",p=", &random.bytes(90)].concat();
            [handshake(1, "SCRAM-SHA-512"), authenticate(&first), authenticate(&last)].concat()
        }
    }
}

/// What a hostile client sends to the listener with TLS.
fn of_tls(random: &mut Random) -> Vec<u8> {
    let mut hello = client_hello(random);
    match random.below(5) {
        0 => random.bytes(300),
        1 => {
            let cut = random.below(hello.len());
            hello.truncate(cut);
            hello
        }
        2 => {
            for _ in 0..=random.below(4) {
                let at = random.below(hello.len());
                hello[at] = random.next().to_le_bytes()[0];
            }
            hello
        }
        3 => [hello, random.bytes(300)].concat(),
        _ => hello,
    }
}

struct Target {
    cluster: Cluster,
    sasl: SocketAddr,
    tls: SocketAddr,
    http: SocketAddr,
    /// That of the authority of its certificate.
    authority: PathBuf,
    _files: TempDir,
}

impl Target {
    fn start() -> Result<Self> {
        let files = TempDir::with_prefix("ottla-e2e-hostile-")?;
        let authority = Authority::new(files.path(), "ours")?;
        let broker = authority.sign("broker")?;
        let http = SocketAddr::from(([127, 0, 0, 1], free_ports(1)?[0]));
        let mut options = ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() }
            .listening("LOGIN", "SASL_PLAINTEXT")
            .listening("SECURE", "SASL_SSL");
        for (name, value) in [
            ("ssl.keystore.type", "PEM"),
            ("http.port", &http.port().to_string()),
            ("ssl.keystore.location", &broker.store.display().to_string()),
            ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
            ("plain.sasl.jaas.config", &format!("{PLAIN_MODULE} user_alice=\"alice-secret\";")),
        ] {
            options = options.with(name, value);
        }
        let cluster = Cluster::start_with(options)?;
        clients::run_script("create_topic.py", &[&cluster.bootstrap(), TOPIC, "1", "1"])?;
        let (sasl, tls) = (cluster.bootstrap_of("LOGIN").parse()?, cluster.bootstrap_of("SECURE").parse()?);
        Ok(Self { cluster, sasl, tls, http, authority: authority.certificate, _files: files })
    }

    /// Connections before their login: how many there are, and how many there may be.
    fn before_login(&self) -> Result<[u64; 2]> {
        let page = clients::http_get(self.http, "/metrics")?;
        let value = |column: &str| -> Result<u64> {
            let row = format!("ottla_broker_resource_{column}{{resource=\"connections_before_login\"}} ");
            let value = page.lines().find_map(|line| line.strip_prefix(&row)).with_context(|| format!("no {row}"))?;
            Ok(value.trim().parse::<f64>()? as u64)
        };
        Ok([value("used")?, value("ceiling")?])
    }
}

/// A client that has logged in, and writes a record at a time.
struct Good {
    stream: TcpStream,
    record: Bytes,
}

impl Good {
    fn log_in(address: SocketAddr) -> Result<Self> {
        let batch = BatchBuilder::new().record(TimestampMs(1), None, Some(b"value")).build()?.freeze();
        let topics = vec![(TopicRef::Name(TOPIC.to_owned()), vec![(PartitionId(0), batch)])];
        let call = ProduceCall { transactional_id: None, acks: 1, timeout_ms: 30_000, topics };
        let record = produce::encode_request(9, 7, Some("good"), &call)?;
        let mut stream = clients::connect(address)?;
        for frame in [handshake(1, "PLAIN"), authenticate(b"\0alice\0alice-secret")] {
            stream.write_all(&frame)?;
            let answer = clients::read_frame(&mut stream)?;
            ensure!(answer.get(4..6) == Some(&[0, 0]), "{answer:?}");
        }
        Ok(Self { stream, record })
    }

    /// How long a record takes until it is acknowledged.
    fn write(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.stream.write_all(&self.record)?;
        let response = clients::read_frame(&mut self.stream)?;
        let took = began.elapsed();
        let (_, response) = produce::decode_response(9, &response)?;
        let errors: Vec<_> = response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error).collect();
        ensure!(!errors.is_empty() && errors.iter().all(|error| error.is_ok()), "{errors:?}");
        Ok(took)
    }

    /// The 99th percentile, while it goes on.
    fn write_while(&mut self, goes_on: impl Fn() -> bool) -> Result<Duration> {
        let mut took = Vec::new();
        while goes_on() || took.len() < 100 {
            took.push(self.write()?);
            std::thread::sleep(PAUSE);
        }
        took.sort();
        took.get(took.len() * 99 / 100).copied().context("a record")
    }

    /// The 99th percentile while others work, and what their work returned.
    fn write_beside<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| self.write_while(|| !is_over.load(Ordering::Acquire)));
            let done = work();
            is_over.store(true, Ordering::Release);
            let percentile = writing.join().ok().context("the good client ended")??;
            Ok((percentile, done?))
        })
    }
}

/// Sends; returns whether the broker said anything.
fn send(address: SocketAddr, bytes: &[u8], waits: bool) -> Result<bool> {
    let mut stream = clients::connect(address)?;
    // A reset at the end: none of so many connections stays behind in this machine's tables.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    // The broker may close while this writes: that is one of the right answers.
    let _ = stream.write_all(bytes);
    if !waits {
        return Ok(false);
    }
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    Ok(stream.read(&mut [0; 256]).is_ok_and(|count| count > 0))
}

fn connections() -> Result<u64> {
    Ok(match std::env::var("OTTLA_HOSTILE_CONNECTIONS") {
        Ok(text) => text.parse()?,
        Err(_) => CONNECTIONS,
    })
}

fn raise_own_limit() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

#[test]
fn hostile_clients_before_their_login_harm_nobody() -> Result<()> {
    let count = connections()?;
    let target = Target::start()?;
    ottla_test_support::each_seed(0..1, |seed| run(&target, seed, count));
    Ok(())
}

/// A listener of this process that closes every connection at once, until the test ends.
fn close_at_once() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    Ok(address)
}

/// Sends to a listener with SASL and to one with TLS in turn; how many said something.
fn attack((sasl, tls): (SocketAddr, SocketAddr), random: &mut Random, count: u64) -> Result<[u64; 2]> {
    let mut answers = [0, 0];
    for at in 0..count {
        let is_tls = at % 2 == 1;
        let (address, bytes) = if is_tls { (tls, of_tls(random)) } else { (sasl, of_sasl(random)) };
        if send(address, &bytes, at / 2 % READ_EVERY == 0)? {
            answers[usize::from(is_tls)] += 1;
        }
    }
    Ok(answers)
}

fn run(target: &Target, seed: u64, count: u64) -> Result<()> {
    let mut good = wait::until_ok("a good client", || {
        let mut good = Good::log_in(target.sasl)?;
        good.write()?;
        Ok(good)
    })?;
    let until = Instant::now() + QUIET;
    let quiet = good.write_while(|| Instant::now() < until)?;
    // What the attack costs a client of this machine whose broker is not attacked.
    let other = close_at_once()?;
    let (elsewhere, _) = good.write_beside(|| attack((other, other), &mut Random(seed), count))?;
    let before = target.cluster.resident_kib(Node::Broker(1))?;
    let (beside, answers) = good.write_beside(|| attack((target.sasl, target.tls), &mut Random(seed), count))?;
    let grown = target.cluster.resident_kib(Node::Broker(1))?.saturating_sub(before);
    println!(
        "{count} connections, answers {answers:?}, p99 {quiet:?} before, {elsewhere:?} beside an attack on another \
         process and {beside:?} beside one on the broker, {grown} KiB more"
    );
    ensure!(answers.iter().all(|count| *count > 0), "both listeners answer hostile clients: {answers:?}");
    ensure!(grown < MEMORY_GROWTH_KIB, "resident memory grew by {grown} KiB");
    Good::log_in(target.sasl)?.write()?;
    ensure!(clients::call(target.cluster.broker_address(1), METADATA, 1, &0i32.to_be_bytes()).is_ok(), "Metadata");
    let log = target.cluster.log_text(Node::Broker(1))?;
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}

/// Connections whose frames do not end; what the broker does not take of them is in the buffers of the system.
struct Trickle(Vec<(TcpStream, usize)>);

impl Trickle {
    /// Frames of `frame_bytes` that lack their last byte.
    fn start(address: SocketAddr, connections: usize, frame_bytes: usize) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..connections {
            let mut stream = clients::connect(address)?;
            stream.write_all(&u32::try_from(frame_bytes)?.to_be_bytes())?;
            stream.write_all(&[0, 18, 0, 0, 0, 0, 0, 1])?;
            stream.set_nonblocking(true)?;
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            all.push((stream, frame_bytes - 9));
        }
        Ok(Self(all))
    }

    /// Sends what the broker takes, for so long, and opens another connection for each that the broker has ended.
    fn go_on(&mut self, address: SocketAddr, frame_bytes: usize, lasts: Duration) -> Result<usize> {
        let (until, piece) = (Instant::now() + lasts, [0; 64 * 1024]);
        let mut ended = 0;
        while Instant::now() < until {
            for (stream, missing) in &mut self.0 {
                match stream.write(&piece[..piece.len().min(*missing)]) {
                    Ok(count) => *missing -= count,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => *missing = usize::MAX,
                }
            }
            let before = self.0.len();
            self.0.retain(|(_, missing)| *missing != usize::MAX);
            let gone = before - self.0.len();
            ended += gone;
            self.0.extend(Self::start(address, gone, frame_bytes)?.0);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(ended)
    }
}

/// Before, 900 frames of half a megabyte cost a broker 297 MB, and 1,500 of 64 KiB 133 MB.
#[test]
fn frames_that_trickle_before_a_login_share_little_memory_and_a_login_goes_before_them() -> Result<()> {
    const LASTS: Duration = Duration::from_secs(4);
    const LOGIN_MAX: Duration = Duration::from_secs(5);
    raise_own_limit()?;
    let target = Target::start()?;
    wait::until_ok("a good client", || Good::log_in(target.sasl)?.write())?;
    let plaintext = target.cluster.broker_address(1);
    let attacks = [(target.sasl, 900, 520_000), (target.sasl, 1_500, 65_500), (plaintext, 1_500, 65_500)];
    for (address, connections, frame_bytes) in attacks {
        let before = target.cluster.resident_kib(Node::Broker(1))?;
        let mut trickle = Trickle::start(address, connections, frame_bytes)?;
        let (mut most, mut slowest, mut logins) = (0, Duration::ZERO, 0);
        let ended = std::thread::scope(|scope| -> Result<usize> {
            let attacking = scope.spawn(|| trickle.go_on(address, frame_bytes, LASTS));
            while !attacking.is_finished() {
                let began = Instant::now();
                Good::log_in(target.sasl)?.write()?;
                slowest = slowest.max(began.elapsed());
                logins += 1;
                most = most.max(target.cluster.resident_kib(Node::Broker(1))?);
                std::thread::sleep(PAUSE);
            }
            attacking.join().ok().context("the attack ended")?
        })?;
        let grown = most.saturating_sub(before);
        println!(
            "{connections} frames of {frame_bytes} bytes: {grown} KiB more, {ended} connections ended, {logins} logins \
             beside them took {slowest:?} at most"
        );
        ensure!(grown < MEMORY_GROWTH_KIB, "resident memory grew by {grown} KiB");
        ensure!(slowest < LOGIN_MAX, "a login took {slowest:?}");
    }
    Ok(())
}

/// Clients that connect and do nothing, or shake hands in TLS and do nothing then. The newest ones stay open.
struct Idlers {
    open: VecDeque<Idler>,
    runtime: tokio::runtime::Runtime,
    tls: ClientTls,
}

enum Idler {
    Plain { _socket: TcpStream },
    Tls { _stream: Box<dyn std::any::Any> },
}

impl Idlers {
    /// Of those that stay open: more than a broker lets wait for their login, of one address.
    const OPEN_MAX: usize = 3_000;
    /// One of so many shakes hands.
    const TLS_EVERY: u64 = 8;

    fn new(authority: &Path) -> Result<Self> {
        let authority = authority.display().to_string();
        let settings = TlsSettings::read(|name| match name {
            "ssl.truststore.type" => Some("PEM"),
            "ssl.truststore.location" => Some(authority.as_str()),
            _ => None,
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { open: VecDeque::new(), runtime, tls: ClientTls::new(settings)? })
    }

    /// Also where the broker ends it at once.
    fn add(&mut self, at: u64, sasl: SocketAddr, tls: SocketAddr) -> Result<()> {
        let idler = match at % Self::TLS_EVERY {
            0 => {
                let name = ClientTls::server_name("localhost")?;
                let shaken = self.runtime.block_on(async {
                    let socket = tokio::net::TcpStream::connect(tls).await?;
                    self.tls.connect(name, socket).await
                });
                match shaken {
                    Ok(stream) => Idler::Tls { _stream: Box::new(stream) },
                    Err(_) => return Ok(()),
                }
            }
            1 => Idler::Plain { _socket: clients::connect(tls)? },
            _ => Idler::Plain { _socket: clients::connect(sasl)? },
        };
        self.open.push_back(idler);
        if self.open.len() > Self::OPEN_MAX {
            self.open.pop_front();
        }
        Ok(())
    }
}

/// Before, each of them had 30 s, and only `max.connections` and the limit of open files bounded them: they took the
/// places of all others.
#[test]
fn clients_that_never_log_in_are_bounded_in_number_and_keep_nobody_out() -> Result<()> {
    const LOGIN_MAX: Duration = Duration::from_secs(5);
    let count = connections()?;
    raise_own_limit()?;
    let target = Target::start()?;
    wait::until_ok("a good client", || Good::log_in(target.sasl)?.write())?;
    let before = target.cluster.resident_kib(Node::Broker(1))?;
    let (mut most, mut slowest, mut logins, mut tries, mut waiting) = (0, Duration::ZERO, 0, 0, 0);
    let (sasl, tls, authority) = (target.sasl, target.tls, target.authority.clone());
    std::thread::scope(|scope| -> Result<()> {
        let attacking = scope.spawn(move || -> Result<u64> {
            let mut idlers = Idlers::new(&authority)?;
            (0..count).try_for_each(|at| idlers.add(at, sasl, tls))?;
            Ok(u64::try_from(idlers.open.len())?)
        });
        while !attacking.is_finished() || logins == 0 {
            let began = Instant::now();
            loop {
                tries += 1;
                match Good::log_in(sasl).and_then(|mut good| good.write()) {
                    Ok(_) => break,
                    // The broker has taken no more: clients try again.
                    Err(error) if began.elapsed() > LOGIN_MAX => return Err(error.context("no login")),
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
            slowest = slowest.max(began.elapsed());
            logins += 1;
            most = most.max(target.cluster.resident_kib(Node::Broker(1))?);
            waiting = waiting.max(target.before_login()?[0]);
            std::thread::sleep(PAUSE);
        }
        let open = attacking.join().ok().context("the attack ended")??;
        ensure!(open > 1_000, "{open} connections were open at the end");
        Ok(())
    })?;
    let grown = most.saturating_sub(before);
    println!(
        "{count} connections that do not log in: {waiting} open at most, {grown} KiB more; {logins} logins in {tries} \
         tries beside them took {slowest:?} at most"
    );
    let [_, ceiling] = target.before_login()?;
    ensure!(waiting > ceiling / 4, "{waiting} of {ceiling}: this was no attack");
    ensure!(waiting <= ceiling / 2, "{waiting} of {ceiling}: one address has half of them at most");
    ensure!(grown < MEMORY_GROWTH_KIB, "resident memory grew by {grown} KiB");
    Ok(())
}
