//! Random relatives of the attacks, several at a time, beside a good writer, reader and group on a cluster with small
//! ceilings. `OTTLA_ATTACK_SECS` says how long.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use ottla_model::Offset;
use ottla_protocol::kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use ottla_protocol::kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use ottla_protocol::kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use ottla_protocol::kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::kafka_protocol::messages::{
    DeleteRecordsRequest, DescribeConfigsRequest, DescribeGroupsRequest, GroupId, InitProducerIdRequest,
    JoinGroupRequest, ListOffsetsRequest, MetadataRequest, TopicName,
};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{self, FetchRequest, FetchTopic};
use ottla_test_support::each_seed;

use crate::good::{GOOD, Good, commit_frame};
use crate::wire::{create_topic, fetched, frame, produce_frame, text};
use crate::{MEBIBYTE, raise_own_limit};

const OPEN_FILES_MAX: u64 = 1_024;
const MEMORY_MAX: u64 = 256 * MEBIBYTE;
const DEFAULT_SECS: u64 = 20;
/// The attackers' topic: more logs than there may be open files.
const MANY: &str = "many";
const PARTITIONS: i32 = 1_200;
/// How long an attacker waits for a broker that takes or gives nothing.
const BRIEF: Duration = Duration::from_millis(200);
/// Answers of one connection that are read, and an attacker's largest claim.
const READ_BYTES_MAX: usize = 64 << 20;
const CLAIM_BYTES_MAX: usize = 64 << 20;

/// SplitMix64: the attackers need no better numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What an attacker may reach.
struct Target {
    brokers: Vec<SocketAddr>,
    coordinators: Vec<SocketAddr>,
}

/// Returns the connections that it leaves open for a while. An error is a broker that defends itself.
type Attack = fn(&mut Random, &Target) -> Result<Vec<TcpStream>>;

const ATTACKS: [(&str, Attack); 8] = [
    ("giant answers", giant_answers),
    ("unread answers", unread_answers),
    ("slow large frames", slow_large_frames),
    ("idle connections", idle_connections),
    ("parked fetches", parked_fetches),
    ("groups and offsets", groups_and_offsets),
    ("storms", storms),
    ("spoilt frames", spoilt_frames),
];

fn attacker(address: SocketAddr) -> Result<TcpStream> {
    let stream = clients::connect(address)?;
    stream.set_read_timeout(Some(BRIEF))?;
    stream.set_write_timeout(Some(BRIEF))?;
    Ok(stream)
}

/// Sends the frames as far as they are taken, and reads the answers as far as they come.
fn exchange(mut stream: TcpStream, frames: &[Bytes]) -> TcpStream {
    let mut buffer = vec![0; 1 << 16];
    let mut left = READ_BYTES_MAX;
    for frame in frames {
        if stream.write_all(frame).is_err() {
            break;
        }
    }
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        left = left.saturating_sub(count);
        if left == 0 {
            break;
        }
    }
    stream
}

fn metadata_of_all() -> Result<Bytes> {
    frame(9, &MetadataRequest::default().with_topics(None))
}

fn giant_answers(random: &mut Random, target: &Target) -> Result<Vec<TcpStream>> {
    let resources = (0..1 + random.below(12_000)).map(|at| {
        let (kind, name) = if random.below(2) == 0 { (4, "1".to_owned()) } else { (2, format!("{MANY}-{at}")) };
        DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(&name))
    });
    let configs = DescribeConfigsRequest::default()
        .with_resources(resources.collect())
        .with_include_synonyms(true)
        .with_include_documentation(true);
    let group = |at| GroupId(text(&format!("group-{at}")));
    let groups = DescribeGroupsRequest::default().with_groups((0..1_500).map(group).collect());
    let frames = [frame(4, &configs)?, frame(5, &groups)?, metadata_of_all()?];
    Ok(vec![exchange(attacker(*random.pick(&target.brokers))?, &frames)])
}

fn unread_answers(random: &mut Random, target: &Target) -> Result<Vec<TcpStream>> {
    let requests = metadata_of_all()?.repeat(1 + random.below(200));
    let address = *random.pick(&target.brokers);
    let send = |_| -> Result<TcpStream> {
        let mut stream = attacker(address)?;
        let _ = stream.write_all(&requests);
        Ok(stream)
    };
    (0..1 + random.below(20)).map(send).collect()
}

fn slow_large_frames(random: &mut Random, target: &Target) -> Result<Vec<TcpStream>> {
    let address = *random.pick(&target.brokers);
    let count = 1 + random.below(6);
    let claim = |_| -> Result<TcpStream> {
        let mut stream = attacker(address)?;
        let bytes = 100_000 + random.below(CLAIM_BYTES_MAX);
        stream.write_all(&i32::try_from(bytes)?.to_be_bytes())?;
        let _ = stream.write_all(&vec![0; random.below(bytes)]);
        Ok(stream)
    };
    (0..count).map(claim).collect()
}

fn idle_connections(random: &mut Random, target: &Target) -> Result<Vec<TcpStream>> {
    let addresses = if random.below(4) == 0 { &target.coordinators } else { &target.brokers };
    let address = *random.pick(addresses);
    (0..1 + random.below(600)).map(|_| attacker(address)).collect()
}

fn parked_fetches(random: &mut Random, target: &Target) -> Result<Vec<TcpStream>> {
    let partition = |partition| fetched(partition, Offset(0));
    let partitions = (0..PARTITIONS).step_by(1 + random.below(4)).map(partition).collect();
    let request = FetchRequest {
        max_wait_ms: i32::MAX,
        min_bytes: i32::MAX,
        session_epoch: if random.below(2) == 0 { 0 } else { -1 },
        topics: vec![FetchTopic { topic: TopicRef::Name(MANY.to_owned()), partitions }],
        ..FetchRequest::default()
    };
    let requests = fetch::encode_request(12, 7, Some("attacker"), &request)?.repeat(1 + random.below(50));
    let address = *random.pick(&target.brokers);
    let send = |_| -> Result<TcpStream> {
        let mut stream = attacker(address)?;
        let _ = stream.write_all(&requests);
        Ok(stream)
    };
    (0..1 + random.below(10)).map(send).collect()
}

fn groups_and_offsets(random: &mut Random, target: &Target) -> Result<Vec<TcpStream>> {
    let group = random.next();
    let metadata = Bytes::from(vec![0; 1 + random.below(1 << 20)]);
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(metadata);
    let join = JoinGroupRequest::default()
        .with_group_id(GroupId(text(&format!("join-{group}"))))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let producer = InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
    let metadata = random.below(4_000);
    let commits = (0..random.below(2_000)).map(|at| commit_frame(&format!("commit-{group}-{at}"), 1, metadata));
    let mut frames: Vec<Bytes> = commits.collect::<Result<_>>()?;
    frames.extend((0..random.below(500)).map(|_| frame(2, &producer)).collect::<Result<Vec<_>>>()?);
    frames.push(frame(2, &join)?);
    Ok(vec![exchange(attacker(*random.pick(&target.brokers))?, &frames)])
}

fn storms(random: &mut Random, target: &Target) -> Result<Vec<TcpStream>> {
    let partition = |index| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(1);
    let topic = ListOffsetsTopic::default().with_name(TopicName(text(MANY)));
    let topic = topic.with_partitions((0..PARTITIONS).map(partition).collect());
    let list = ListOffsetsRequest::default().with_topics(vec![topic]);
    let partition = |index| DeleteRecordsPartition::default().with_partition_index(index).with_offset(-1);
    let topic = DeleteRecordsTopic::default().with_name(TopicName(text(MANY)));
    let topic = topic.with_partitions((0..PARTITIONS).map(partition).collect());
    let delete = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
    let produce = produce_frame(MANY, 0..PARTITIONS)?;
    let kinds = [frame(5, &list)?, frame(2, &delete)?, produce, metadata_of_all()?];
    let frames: Vec<Bytes> = (0..1 + random.below(40)).map(|_| random.pick(&kinds).clone()).collect();
    Ok(vec![exchange(attacker(*random.pick(&target.brokers))?, &frames)])
}

/// Requests with a few bytes that are others.
fn spoilt_frames(random: &mut Random, target: &Target) -> Result<Vec<TcpStream>> {
    let kinds = [metadata_of_all()?, produce_frame(MANY, 0..50)?, commit_frame("spoilt", 1, 100)?];
    let mut spoilt = || {
        let mut frame = random.pick(&kinds).to_vec();
        for _ in 0..1 + random.below(4) {
            // The length stays: a frame that does not come is another attack.
            let at = 4 + random.below(frame.len() - 4);
            frame[at] = random.next() as u8;
        }
        Bytes::from(frame)
    };
    let frames: Vec<Bytes> = (0..200).map(|_| spoilt()).collect();
    let mut connections = Vec::new();
    for some in frames.chunks(4) {
        connections.push(exchange(attacker(*random.pick(&target.brokers))?, &some[..1 + random.below(some.len())]));
    }
    Ok(connections)
}

/// Every process lives below its ceilings.
fn check(cluster: &mut Cluster, when: &str) -> Result<()> {
    let ended = cluster.ended()?;
    ensure!(ended.is_empty(), "{ended:?} ended {when}");
    for node in cluster.nodes() {
        let resident = cluster.resident_kib(node)? * 1024;
        ensure!(resident < MEMORY_MAX, "{node} takes {} MiB {when}", resident / MEBIBYTE);
        let open = cluster.open_files(node)? as u64;
        ensure!(open <= OPEN_FILES_MAX, "{node} has {open} open files {when}");
        ensure!(!cluster.log_text(node)?.contains("panicked"), "{node} {when}:\n{}", cluster.log_text(node)?);
    }
    Ok(())
}

/// Whether a broker has given back what the attackers took: so many connections are served at a time.
fn serves_many(address: SocketAddr) -> bool {
    const ENOUGH: usize = 200;
    let connections: Vec<TcpStream> = (0..ENOUGH).map_while(|_| clients::connect(address).ok()).collect();
    let Ok(request) = metadata_of_all() else { return false };
    let serves = |mut stream: &TcpStream| {
        let mut size = [0; 4];
        stream.write_all(&request).is_ok() && stream.read_exact(&mut size).is_ok() && i32::from_be_bytes(size) > 0
    };
    connections.len() == ENOUGH && connections.iter().all(serves)
}

fn attack(seed: u64) -> Result<()> {
    let options = ClusterOptions { open_files_max: Some(OPEN_FILES_MAX), ..ClusterOptions::default() }
        .with("max.memory.bytes", &MEMORY_MAX.to_string())
        .with("offsets.topic.num.partitions", "4")
        .with("auto.create.topics.enable", "false");
    let mut cluster = Cluster::start_with(options)?;
    let brokers: Vec<SocketAddr> = (1..=3).map(|id| cluster.broker_address(id)).collect();
    let address = |id| -> Result<SocketAddr> { Ok(cluster.coordinator_address(id).parse()?) };
    let coordinators = (1..=3).map(address).collect::<Result<Vec<_>>>()?;
    create_topic(brokers[0], GOOD, 1, 3)?;
    create_topic(brokers[0], MANY, PARTITIONS, 1)?;
    let good = [Good::writer(&brokers)?, Good::reader(&brokers)?, Good::group(&brokers)?];
    let target = Target { brokers, coordinators };
    let mut random = Random(seed);
    for client in &good {
        println!("quiet: {}", client.latencies());
    }
    let seconds = match std::env::var("OTTLA_ATTACK_SECS") {
        Ok(seconds) => seconds.parse::<u64>().context("OTTLA_ATTACK_SECS")?,
        Err(_) => DEFAULT_SECS,
    };
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        let chosen: Vec<_> = (0..3).map(|_| (*random.pick(&ATTACKS), Random(random.next()))).collect();
        let names = chosen.iter().map(|((name, _), _)| *name).collect::<Vec<_>>().join(", ");
        let left_open = std::thread::scope(|scope| {
            let target = &target;
            let running: Vec<_> = chosen
                .into_iter()
                .map(|((_, run), mut random)| scope.spawn(move || run(&mut random, target)))
                .collect();
            running.into_iter().filter_map(|attack| attack.join().ok()?.ok()).collect::<Vec<_>>()
        });
        let when = format!("during {names}");
        check(&mut cluster, &when)?;
        for client in &good {
            client.goes_on(&when)?;
        }
        drop(left_open);
    }
    for client in &good {
        println!("under attack: {}", client.latencies());
    }
    for address in &target.brokers {
        wait::until(&format!("{address} has given back its connections"), || Ok(serves_many(*address)))?;
    }
    for client in &good {
        client.goes_on("after the attack")?;
    }
    for node in cluster.nodes() {
        println!("{node}: {} MiB, {} open files", cluster.resident_kib(node)? / 1024, cluster.open_files(node)?);
    }
    let log = cluster.log_text(Node::Broker(1))?;
    ensure!(!log.contains("out of use"), "a directory was given up:\n{log}");
    check(&mut cluster, "after the attack")
}

#[test]
fn random_relatives_of_the_attacks() {
    raise_own_limit().expect("the limit of open files can be raised");
    each_seed(0..1, attack);
}
