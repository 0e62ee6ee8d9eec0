//! Single attacks, each beside a good writer on a broker with small memory. The names begin with the fault that the
//! attack once showed. What it cost is printed: `docs/resources.md` has a table of it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ottla_e2e::cluster::PATIENCE;
use ottla_e2e::{Cluster, Node, clients, wait};
use ottla_model::{Offset, PartitionId};
use ottla_protocol::kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use ottla_protocol::kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use ottla_protocol::kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, DescribeGroupsRequest, GroupId, InitProducerIdRequest, JoinGroupRequest,
    SyncGroupRequest, TransactionalId,
};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{self, FetchRequest, FetchTopic};
use ottla_test_support::free_ports;

use crate::good::{Good, commit_frame};
use crate::wire::{
    await_coordinator, call, connect, create_topic, fetched, frame, produce_frame, produced, refusals, text,
};
use crate::{MEBIBYTE, one_broker, raise_own_limit, writer};

const MEMORY_MAX: u64 = 256 * MEBIBYTE;
const FETCH_VERSION: i16 = 12;
/// A broker closes a connection or takes nothing more: both defend it.
const BRIEF: Duration = Duration::from_millis(200);
/// What holds memory only as long as its connection.
const GIVEN_BACK: [&str; 2] = ["parked_fetch_bytes", "response_bytes"];

struct Scene {
    fault: &'static str,
    cluster: Cluster,
    address: SocketAddr,
    http: SocketAddr,
    writer: Good,
}

impl Scene {
    fn start(fault: &'static str) -> Result<Self> {
        raise_own_limit()?;
        let http = SocketAddr::from(([127, 0, 0, 1], free_ports(1)?[0]));
        let options = one_broker()
            .with("max.memory.bytes", &MEMORY_MAX.to_string())
            .with("transaction.state.log.num.partitions", "4")
            .with("group.initial.rebalance.delay.ms", "0")
            .with("http.port", &http.port().to_string());
        let cluster = Cluster::start_with(options)?;
        let address = cluster.broker_address(1);
        let writer = writer(address)?;
        println!("{fault}, quiet: {}", writer.latencies());
        Ok(Self { fault, cluster, address, http, writer })
    }

    /// Asks until the answer says that the coordinator's topic is there.
    fn wait_for_coordinator(&self, kind: i8) -> Result<()> {
        await_coordinator(self.address, kind)
    }

    fn check(&mut self) -> Result<u64> {
        let ended = self.cluster.ended()?;
        ensure!(ended.is_empty(), "{}: {ended:?} ended", self.fault);
        let peak = self.cluster.peak_resident_kib(Node::Broker(1))? * 1024;
        ensure!(peak < MEMORY_MAX, "{}: the broker took {} MiB", self.fault, peak / MEBIBYTE);
        for node in self.cluster.nodes() {
            ensure!(!self.cluster.log_text(node)?.contains("panicked"), "{}: {node} panicked", self.fault);
        }
        Ok(peak)
    }

    /// The attacker is still there: the writer goes on, and the broker has stayed below its memory.
    fn holds(&mut self) -> Result<()> {
        self.writer.goes_on("under attack")?;
        let peak = self.check()?;
        println!("{}, under attack: {}; peak {} MiB", self.fault, self.writer.latencies(), peak / MEBIBYTE);
        Ok(())
    }

    /// The attacker has left: what belonged to its connections is given back.
    fn ends(mut self) -> Result<()> {
        for resource in GIVEN_BACK {
            wait::until(&format!("{}: {resource} is given back", self.fault), || Ok(used(self.http, resource)? == 0))?;
        }
        self.writer.goes_on("after the attack")?;
        self.check()?;
        let resident = self.cluster.resident_kib(Node::Broker(1))? / 1024;
        let coordinator = self.cluster.peak_resident_kib(Node::Coordinator(1))? / 1024;
        println!("{}, afterwards: {resident} MiB; the coordinator's peak {coordinator} MiB", self.fault);
        Ok(())
    }
}

/// `ottla_broker_resource_used` of a resource.
fn used(http: SocketAddr, resource: &str) -> Result<u64> {
    let mut stream = connect(http)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let row = format!("ottla_broker_resource_used{{resource=\"{resource}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&row)).with_context(|| format!("no {row}"))?;
    Ok(value.trim().parse::<f64>()? as u64)
}

fn attacker(address: SocketAddr) -> Result<TcpStream> {
    let stream = clients::connect(address)?;
    stream.set_read_timeout(Some(BRIEF))?;
    stream.set_write_timeout(Some(BRIEF))?;
    Ok(stream)
}

/// Sends frames in windows, and reads the answers; ends where the broker ends it. Returns how many were answered.
fn pipelined(address: SocketAddr, frames: impl Iterator<Item = Result<Bytes>>) -> Result<usize> {
    const WINDOW: usize = 50;
    let mut stream = connect(address)?;
    let (mut waiting, mut answered) = (0, 0);
    for frame in frames {
        if stream.write_all(&frame?).is_err() {
            return Ok(answered);
        }
        waiting += 1;
        if waiting == WINDOW {
            for _ in 0..std::mem::take(&mut waiting) {
                if clients::read_frame(&mut stream).is_err() {
                    return Ok(answered);
                }
                answered += 1;
            }
        }
    }
    Ok(answered)
}

#[test]
fn g5_large_frames_that_trickle() -> Result<()> {
    let mut scene = Scene::start("G5")?;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = attacker(scene.address)?;
        stream.write_all(&(60i32 << 20).to_be_bytes())?;
        let _ = stream.write_all(&vec![0; 20 << 20]);
        slow.push(stream);
    }
    scene.holds()?;
    drop(slow);
    scene.ends()
}

#[test]
fn g7_a_group_of_many_expressions() -> Result<()> {
    let mut scene = Scene::start("G7")?;
    scene.wait_for_coordinator(0)?;
    create_topic(scene.address, "many", 1_000, 1)?;
    let join = |member: usize| {
        let beat = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text("expressions")))
            .with_member_id(text(&format!("member-{member}")))
            .with_member_epoch(0)
            .with_rebalance_timeout_ms(300_000)
            .with_subscribed_topic_regex(Some(text(&format!("(topic|many)-[a-z]{{1,50}}{member}.*"))))
            .with_topic_partitions(Some(Vec::new()));
        frame(1, &beat)
    };
    let answered = pipelined(scene.address, (0..850).map(join))?;
    ensure!(answered == 850, "{answered} heartbeats were answered");
    scene.holds()?;
    scene.ends()
}

#[test]
fn g8_requests_that_name_very_much() -> Result<()> {
    let mut scene = Scene::start("G8")?;
    scene.wait_for_coordinator(0)?;
    let names = (0..60_000).map(|at| GroupId(text(&format!("v{at}")))).collect();
    let request = frame(5, &DescribeGroupsRequest::default().with_groups(names))?;
    let mut open = Vec::new();
    for _ in 0..30 {
        let mut stream = attacker(scene.address)?;
        let _ = stream.write_all(&request);
        open.push(stream);
    }
    scene.holds()?;
    for mut stream in open {
        // Answered, or closed for want of room: the next ones come.
        stream.set_read_timeout(Some(PATIENCE))?;
        let _ = clients::read_frame(&mut stream);
    }
    scene.holds()?;
    scene.ends()
}

#[test]
fn g9_fetches_parked_for_sessions_that_were_ended() -> Result<()> {
    const PARTITIONS: i32 = 1_000;
    let mut scene = Scene::start("G9")?;
    create_topic(scene.address, "many", PARTITIONS, 1)?;
    let partition = |partition| fetched(partition, Offset(0));
    let request = |session_id, session_epoch, partitions: i32, max_wait_ms| {
        let partitions: Vec<_> = (0..partitions).map(partition).collect();
        let topics = match partitions.is_empty() {
            true => Vec::new(),
            false => vec![FetchTopic { topic: TopicRef::Name("many".to_owned()), partitions }],
        };
        let request =
            FetchRequest { max_wait_ms, min_bytes: 1, session_id, session_epoch, topics, ..FetchRequest::default() };
        fetch::encode_request(FETCH_VERSION, 7, Some("attacker"), &request)
    };
    let mut control = connect(scene.address)?;
    let begin = request(0, 0, PARTITIONS, 0)?;
    let mut parked: Vec<TcpStream> = Vec::new();
    for round in 0..1_000 {
        let response = Bytes::from(call(&mut control, &begin)?);
        let (_, response) = fetch::decode_response(FETCH_VERSION, &response)?;
        let session = response.session_id;
        if round % 500 == 0 {
            parked.push(attacker(scene.address)?);
        }
        if let Some(stream) = parked.last_mut() {
            let _ = stream.write_all(&request(session, 1, 0, i32::MAX)?);
        }
        call(&mut control, &request(session, -1, 0, 0)?)?;
    }
    scene.holds()?;
    drop(parked);
    scene.ends()
}

#[test]
fn g10_groups_offsets_and_ids_without_end() -> Result<()> {
    let mut scene = Scene::start("G10")?;
    scene.wait_for_coordinator(0)?;
    scene.wait_for_coordinator(1)?;
    let transactional = |at: usize| {
        let id = TransactionalId(text(&format!("{at}-{}", "x".repeat(1_000))));
        let request = InitProducerIdRequest::default().with_transactional_id(Some(id));
        frame(2, &request.with_transaction_timeout_ms(60_000))
    };
    let ids = pipelined(scene.address, (0..20_000).map(transactional))?;
    scene.holds()?;
    let commits = pipelined(scene.address, (0..20_000).map(|at| commit_frame(&format!("commit-{at}"), 1, 2_000)))?;
    scene.holds()?;
    println!("G10: {ids} transactional ids, {commits} commits of new groups were answered");

    // A group with members still comes in, and its leader cannot assign more than there is room for.
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::new());
    let (mut joined, mut refused) = (0, 0);
    for at in 0..150 {
        let group = GroupId(text(&format!("members-{at}")));
        let join = JoinGroupRequest::default()
            .with_group_id(group.clone())
            .with_session_timeout_ms(30_000)
            .with_rebalance_timeout_ms(30_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol.clone()]);
        let mut stream = connect(scene.address)?;
        let response = call(&mut stream, &frame(2, &join)?)?;
        let (_, response) = ottla_protocol::decode_response::<JoinGroupRequest>(2, response.into())?;
        if response.error_code != 0 {
            refused += 1;
            continue;
        }
        joined += 1;
        let assignment = SyncGroupRequestAssignment::default()
            .with_member_id(response.member_id.clone())
            .with_assignment(Bytes::from(vec![0; 900_000]));
        let sync = SyncGroupRequest::default()
            .with_group_id(group)
            .with_generation_id(response.generation_id)
            .with_member_id(response.member_id)
            .with_assignments(vec![assignment]);
        call(&mut stream, &frame(1, &sync)?)?;
    }
    println!("G10: {joined} joined, {refused} were refused");
    ensure!(joined > 0, "no consumer comes in");
    scene.holds()?;
    scene.ends()
}

/// Calls that never end, as far as the coordinator takes them: HTTP/2 by hand.
#[test]
fn g12_calls_to_the_coordinator_that_never_end() -> Result<()> {
    const DATA_BYTES: usize = 16_000;
    let mut scene = Scene::start("G12")?;
    let address: SocketAddr = scene.cluster.coordinator_address(1).parse()?;
    let http2 = |kind: u8, flags: u8, stream: u32, payload: &[u8]| -> Result<Vec<u8>> {
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        Ok(frame)
    };
    let literal = |name: &str, value: &str| {
        let mut field = vec![0, u8::try_from(name.len()).unwrap_or(0)];
        field.extend(name.as_bytes());
        field.push(u8::try_from(value.len()).unwrap_or(0));
        field.extend(value.as_bytes());
        field
    };
    let mut open = Vec::new();
    for path in ["/ottla.cluster.v1.Cluster/Decide", "/ottla.admin.v1.Admin/CreateTopic"] {
        let headers: Vec<u8> = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        .iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect();
        for _ in 0..100 {
            let mut stream = attacker(address)?;
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend(http2(4, 0, 0, &[])?);
            for call in 0..60u32 {
                bytes.extend(http2(1, 4, 2 * call + 1, &headers)?);
            }
            let mut begun = vec![0, 0, 0xef, 0, 0];
            begun.resize(DATA_BYTES, 0);
            for call in 0..60u32 {
                bytes.extend(http2(0, 0, 2 * call + 1, &begun)?);
            }
            let _ = stream.write_all(&bytes);
            open.push(stream);
        }
    }
    scene.holds()?;
    let coordinator = scene.cluster.peak_resident_kib(Node::Coordinator(1))? * 1024;
    ensure!(coordinator < 512 * MEBIBYTE, "the coordinator took {} MiB", coordinator / MEBIBYTE);
    drop(open);
    scene.ends()
}

/// A client that keeps producers' states at many partitions, each under new ids.
#[test]
fn g10_idempotent_producers_without_end() -> Result<()> {
    use ottla_model::{ProducerEpoch, ProducerId, TimestampMs};
    use ottla_protocol::messages::produce::{self, ProduceCall};
    use ottla_protocol::record_batch::BatchBuilder;
    const PARTITIONS: i32 = 300;
    let mut scene = Scene::start("G10")?;
    create_topic(scene.address, "many", PARTITIONS, 1)?;
    // Logs are opened after the answer: a leader that has none yet would keep no producers, and the attack be none.
    let good = produce_frame("many", 0..PARTITIONS)?;
    wait::until("all partitions take records", || produced(&mut connect(scene.address)?, &good))?;
    let request = |id: i64| -> Result<Bytes> {
        let batch = BatchBuilder::new().producer(ProducerId(5_000_000_000 + id), ProducerEpoch(0), 0);
        let batch = batch.record(TimestampMs(1), None, Some(b"v")).build()?.freeze();
        let partitions = (0..PARTITIONS).map(|partition| (PartitionId(partition), batch.clone())).collect();
        let topics = vec![(TopicRef::Name("many".to_owned()), partitions)];
        let call = ProduceCall { transactional_id: None, acks: 1, timeout_ms: 30_000, topics };
        Ok(produce::encode_request(9, 7, Some("attacker"), &call)?)
    };
    let answered = pipelined(scene.address, (0..1_500).map(request))?;
    println!("G10: {} producers at {PARTITIONS} partitions", answered * PARTITIONS as usize);
    scene.holds()?;
    let producers = used(scene.http, "producers")?;
    ensure!(producers < 2 * MEMORY_MAX / 32 / 320, "{producers} are remembered");
    let refused = refusals(&mut connect(scene.address)?, &good)?;
    ensure!(refused.is_empty(), "no more records: {refused:?}");
    scene.ends()
}
