//! Hostile and broken input against a running broker: the process stays, its memory stays, and others are served.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients};

/// Bound of the growth of one broker's resident memory over everything that a test sends.
const MEMORY_GROWTH_KIB: u64 = 64 * 1024;

struct Target {
    cluster: Cluster,
    resident_before_kib: u64,
}

impl Target {
    fn start() -> Result<Self> {
        let cluster = Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
        let resident_before_kib = cluster.resident_kib(Node::Broker(1))?;
        Ok(Self { cluster, resident_before_kib })
    }

    fn connect(&self) -> Result<TcpStream> {
        clients::connect(self.cluster.broker_address(1))
    }

    /// Sends bytes on a separate connection. Any response is allowed; the test waits no longer than the socket's
    /// timeout.
    fn send(&self, bytes: &[u8]) -> Result<()> {
        let mut stream = self.connect()?;
        // The broker may close while we write: that is one of the right answers.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        let _ = stream.read(&mut [0; 256]);
        Ok(())
    }

    /// Others are served as before, and memory has not run away.
    fn check(&self) -> Result<()> {
        ensure!(clients::broker_ids(self.cluster.broker_address(1))? == [1], "no Metadata");
        let now = self.cluster.resident_kib(Node::Broker(1))?;
        let grown = now.saturating_sub(self.resident_before_kib);
        ensure!(grown < MEMORY_GROWTH_KIB, "resident memory grew by {grown} KiB");
        let log = self.cluster.log_text(Node::Broker(1))?;
        ensure!(!log.contains("panicked"), "{log}");
        Ok(())
    }
}

#[test]
fn sizes_that_are_none() -> Result<()> {
    let target = Target::start()?;
    for size in [-1, 0, i32::MIN, i32::MAX, 104_857_601] {
        target.send(&size.to_be_bytes())?;
    }
    for text in ["GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}"] {
        target.send(text.as_bytes())?;
    }
    target.check()
}

#[test]
fn connections_that_claim_much_and_send_nothing() -> Result<()> {
    let target = Target::start()?;
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut stream = target.connect()?;
        stream.write_all(&100_000_000i32.to_be_bytes())?;
        stream.write_all(&[0; 100])?;
        held.push(stream);
    }
    target.check()
}

#[test]
fn a_frame_cut_at_every_byte() -> Result<()> {
    let target = Target::start()?;
    let frame = clients::request_frame(3, 1, 1, &0i32.to_be_bytes());
    for cut in 0..frame.len() {
        let mut stream = target.connect()?;
        stream.write_all(&frame[..cut])?;
    }
    target.check()
}

#[test]
fn headers_that_lie() -> Result<()> {
    let target = Target::start()?;
    let header = |key: i16, version: i16, client_id_length: i16, rest: &[u8]| {
        let mut payload = Vec::new();
        payload.extend(key.to_be_bytes());
        payload.extend(version.to_be_bytes());
        payload.extend(1i32.to_be_bytes());
        payload.extend(client_id_length.to_be_bytes());
        payload.extend(rest);
        let mut frame = i32::try_from(payload.len()).unwrap_or(i32::MAX).to_be_bytes().to_vec();
        frame.extend(payload);
        frame
    };
    for length in [-7530, i16::MAX, 500, -1] {
        target.send(&header(3, 1, length, b""))?;
        target.send(&header(3, 1, length, &0i32.to_be_bytes()))?;
    }
    for (key, version) in [(9_999, 0), (-5, 0), (3, 999), (3, -1), (0, 100), (1, 0), (4, 0), (7, 0)] {
        target.send(&header(key, version, -1, &[0; 16]))?;
    }
    // Every API and version with array lengths that promise the world.
    for key in 0..=80 {
        for version in 0..=18 {
            for length in [i32::MAX.to_be_bytes(), (-2i32).to_be_bytes(), [0xff; 4]] {
                target.send(&header(key, version, -1, &length))?;
            }
        }
    }
    target.check()
}

#[test]
fn api_versions_of_the_future_is_answered() -> Result<()> {
    let target = Target::start()?;
    let frame = clients::call(target.cluster.broker_address(1), 18, 99, &[])?;
    let error = i16::from_be_bytes(frame.get(4..6).context("an error code")?.try_into()?);
    ensure!(error == 35, "UNSUPPORTED_VERSION, not {error}");
    target.check()
}

/// A frame that arrives one byte at a time is served, and delays no other client.
#[test]
fn a_slow_writer() -> Result<()> {
    let target = Target::start()?;
    let mut stream = target.connect()?;
    for byte in clients::request_frame(3, 1, 9, &0i32.to_be_bytes()) {
        stream.write_all(&[byte])?;
        clients::broker_ids(target.cluster.broker_address(1))?;
    }
    let frame = clients::read_frame(&mut stream)?;
    ensure!(frame.get(..4) == Some(&9i32.to_be_bytes()[..]), "the answer to request 9");
    target.check()
}

#[test]
fn thousands_of_idle_connections() -> Result<()> {
    let target = Target::start()?;
    // Both ends are descriptors on this machine; most limits are 1,024 in the test's own process.
    let held: Vec<TcpStream> = (0..800).map(|_| target.connect()).collect::<Result<_>>()?;
    target.check()?;
    drop(held);
    target.check()
}

/// One batch by hand, each test case with one lie in it.
struct Batch {
    base_offset: i64,
    length_error: i32,
    magic: i8,
    crc_error: u32,
    attributes: i16,
    last_offset_delta: i32,
    producer: (i64, i16, i32),
    count: i32,
    records: Vec<u8>,
}

impl Default for Batch {
    fn default() -> Self {
        // One record: length 7, attributes, timestamp delta, offset delta, null key, value "v", no headers.
        Self {
            base_offset: 0,
            length_error: 0,
            magic: 2,
            crc_error: 0,
            attributes: 0,
            last_offset_delta: 0,
            producer: (-1, -1, -1),
            count: 1,
            records: vec![14, 0, 0, 0, 1, 2, b'v', 0],
        }
    }
}

impl Batch {
    fn bytes(&self) -> Vec<u8> {
        let mut tail = Vec::new();
        tail.extend(self.attributes.to_be_bytes());
        tail.extend(self.last_offset_delta.to_be_bytes());
        tail.extend(1_700_000_000_000i64.to_be_bytes());
        tail.extend(1_700_000_000_000i64.to_be_bytes());
        tail.extend(self.producer.0.to_be_bytes());
        tail.extend(self.producer.1.to_be_bytes());
        tail.extend(self.producer.2.to_be_bytes());
        tail.extend(self.count.to_be_bytes());
        tail.extend(&self.records);
        let crc = crc32c(&tail).wrapping_add(self.crc_error);
        let mut batch = self.base_offset.to_be_bytes().to_vec();
        let length = i32::try_from(tail.len() + 9).unwrap_or(i32::MAX) + self.length_error;
        batch.extend(length.to_be_bytes());
        batch.extend((-1i32).to_be_bytes());
        batch.extend(self.magic.to_be_bytes());
        batch.extend(crc.to_be_bytes());
        batch.extend(tail);
        batch
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { 0x82F6_3B78 ^ (c >> 1) } else { c >> 1 })
    })
}

/// Produce version 3, acks=1, of these bytes to partition 0 of `topic`; the partition's error code.
fn produce(target: &Target, topic: &str, records: &[u8]) -> Result<i16> {
    let mut body = (-1i16).to_be_bytes().to_vec();
    body.extend(1i16.to_be_bytes());
    body.extend(1_000i32.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend(i16::try_from(topic.len())?.to_be_bytes());
    body.extend(topic.as_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend(0i32.to_be_bytes());
    body.extend(i32::try_from(records.len())?.to_be_bytes());
    body.extend(records);
    let frame = clients::call(target.cluster.broker_address(1), 0, 3, &body)?;
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    Ok(i16::from_be_bytes(frame.get(at..at + 2).context("an error code")?.try_into()?))
}

#[test]
fn batches_that_lie() -> Result<()> {
    let target = Target::start()?;
    let topic = "hostile";
    clients::run_script("create_topic.py", &[&target.cluster.bootstrap(), topic, "1", "1"])?;
    ensure!(produce(&target, topic, &Batch::default().bytes())? == 0, "the honest batch is taken");
    let record = Batch::default().records;
    let with = |change: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::default();
        change(&mut batch);
        batch.bytes()
    };
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("crc", with(&|b| b.crc_error = 1)),
        ("magic 0", with(&|b| b.magic = 0)),
        ("magic 1", with(&|b| b.magic = 1)),
        ("magic 3", with(&|b| b.magic = 3)),
        ("length beyond", with(&|b| b.length_error = 1_000)),
        ("length short", with(&|b| b.length_error = -4)),
        ("length tiny", with(&|b| b.length_error = -60)),
        ("last offset delta", with(&|b| b.last_offset_delta = 5)),
        ("count 0", with(&|b| (b.count, b.last_offset_delta) = (0, -1))),
        ("count negative", with(&|b| b.count = -3)),
        ("count too high", with(&|b| (b.count, b.last_offset_delta) = (2, 1))),
        ("count too low", with(&|b| b.records = [record.clone(), record.clone()].concat())),
        ("control batch", with(&|b| b.attributes = 0x20)),
        ("transactional without a producer", with(&|b| b.attributes = 0x10)),
        ("producer without an epoch", with(&|b| b.producer = (7, -1, -1))),
        ("record length", with(&|b| b.records[0] = 126)),
        ("record length negative", with(&|b| b.records[0] = 1)),
        ("key length", with(&|b| b.records[4] = 120)),
        ("value length", with(&|b| b.records[5] = 120)),
        ("header count", with(&|b| b.records[7] = 120)),
        ("endless varint", with(&|b| b.records = vec![0xff; 12])),
        ("codec 7", with(&|b| b.attributes = 7)),
        ("gzip of nothing", with(&|b| b.attributes = 1)),
        (
            "snappy chunk −1",
            with(&|b| {
                b.attributes = 2;
                b.records = [&b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"[..], &[0xff; 4]].concat();
            }),
        ),
        (
            "snappy chunk 2^31−1",
            with(&|b| {
                b.attributes = 2;
                b.records = [&b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"[..], &[0x7f, 0xff, 0xff, 0xff]].concat();
            }),
        ),
        (
            "lz4 rubbish",
            with(&|b| {
                b.attributes = 3;
                b.records = [&[0x04, 0x22, 0x4d, 0x18][..], &[0x60, 0x70, 0x73, 0xff, 0xff, 0xff, 0x7f]].concat();
            }),
        ),
        ("zstd below Produce 7", with(&|b| b.attributes = 4)),
        ("two batches", [Batch::default().bytes(), Batch::default().bytes()].concat()),
        ("cut short", Batch::default().bytes()[..40].to_vec()),
        ("nothing", Vec::new()),
    ];
    for (name, bytes) in lies {
        let error = produce(&target, topic, &bytes).with_context(|| name.to_owned())?;
        ensure!(error != 0, "{name} was taken");
    }
    ensure!(produce(&target, topic, &Batch::default().bytes())? == 0, "the honest batch is taken again");
    target.check()
}
