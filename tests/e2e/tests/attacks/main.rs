//! One bad client harms nobody else: each test sends what such a client sends, beside a good writer whose records go on
//! being acknowledged. No process ends, and memory and open files stay below their ceilings.

mod by_fault;
mod by_member;
mod ceilings;
mod good;
mod random;
mod wire;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, wait};
use ottla_protocol::kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use ottla_protocol::kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use ottla_protocol::kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use ottla_protocol::kafka_protocol::messages::{
    DeleteRecordsRequest, DescribeConfigsRequest, DescribeGroupsRequest, GroupId, ListOffsetsRequest, MetadataRequest,
    OffsetFetchRequest, TopicName,
};
use ottla_test_support::free_ports;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use good::{GOOD, Good};
use wire::{call, connect, create_topic, frame, produce_frame, produced, text};

const MEBIBYTE: u64 = 1024 * 1024;

fn one_broker() -> ClusterOptions {
    ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() }
        .with("offsets.topic.num.partitions", "4")
        .with("auto.create.topics.enable", "false")
}

/// A writer of a topic with one replica.
fn writer(address: SocketAddr) -> Result<Good> {
    create_topic(address, GOOD, 1, 1)?;
    Good::writer(&[address])
}

/// Nobody has died, and the broker takes no more memory than `ceiling_bytes`.
fn check(cluster: &Cluster, ceiling_bytes: u64) -> Result<()> {
    for node in cluster.nodes() {
        let resident = cluster.resident_kib(node).with_context(|| format!("{node} has ended"))? * 1024;
        ensure!(resident < ceiling_bytes, "{node} takes {} MiB", resident / MEBIBYTE);
        ensure!(!cluster.log_text(node)?.contains("panicked"), "{}", cluster.log_text(node)?);
    }
    Ok(())
}

/// This process holds the attacker's connections.
fn raise_own_limit() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(())
}

#[test]
fn g3_small_requests_that_ask_for_much() -> Result<()> {
    let cluster = Cluster::start_with(one_broker())?;
    let address = cluster.broker_address(1);
    let writer = writer(address)?;
    let group = || GroupId(text("group"));
    let broker = DescribeConfigsResource::default().with_resource_type(4).with_resource_name(text("1"));
    let configs = DescribeConfigsRequest::default()
        .with_resources(vec![broker; 12_000])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    let offsets = OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(None);
    let offsets = OffsetFetchRequest::default().with_groups(vec![offsets; 2_750]);
    let groups = DescribeGroupsRequest::default().with_groups(vec![group(); 1_500]);
    let topic = MetadataRequestTopic::default().with_name(Some(TopicName(text(GOOD))));
    let metadata = MetadataRequest::default().with_topics(Some(vec![topic; 20_000]));
    let requests = [frame(4, &configs)?, frame(8, &offsets)?, frame(5, &groups)?, frame(9, &metadata)?];
    for _ in 0..20 {
        for request in &requests {
            let response = call(&mut connect(address)?, request)?;
            ensure!(response.len() < 128 * 1024, "{} bytes make {}", request.len(), response.len());
        }
    }
    writer.goes_on("after small requests that ask for much")?;
    check(&cluster, 256 * MEBIBYTE)
}

#[test]
fn g4_few_descriptors_many_partitions_and_many_connections() -> Result<()> {
    const OPEN_FILES_MAX: u64 = 512;
    const PARTITIONS: i32 = 1_500;
    raise_own_limit()?;
    let http_port = free_ports(1)?[0];
    let options = ClusterOptions { open_files_max: Some(OPEN_FILES_MAX), ..one_broker() };
    let cluster = Cluster::start_with(options.with("http.port", &http_port.to_string()))?;
    let address = cluster.broker_address(1);
    let writer = writer(address)?;
    create_topic(address, "many", PARTITIONS, 1)?;
    let mut attacker = connect(address)?;
    // Three times as many logs as there may be open files: all of them take records.
    for from in (0..PARTITIONS).step_by(250) {
        let request = produce_frame("many", from..from + 250)?;
        wait::until(&format!("partitions from {from} take records"), || produced(&mut attacker, &request))?;
    }
    writer.goes_on("while more logs take records than there may be open files")?;

    let http = SocketAddr::from(([127, 0, 0, 1], http_port));
    let mut idle = Vec::new();
    for _ in 0..600 {
        idle.extend(clients::connect(address));
        idle.extend(clients::connect(http));
    }
    for from in (0..PARTITIONS).step_by(250) {
        let request = produce_frame("many", from..from + 250)?;
        ensure!(produced(&mut attacker, &request)?, "partitions from {from} take no records beside idle connections");
    }
    writer.goes_on("beside idle connections")?;
    let mut probe = connect(http)?;
    probe.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let mut health = String::new();
    probe.read_to_string(&mut health)?;
    ensure!(health.starts_with("HTTP/1.1 200"), "{health}");
    let open = cluster.open_files(Node::Broker(1))? as u64;
    ensure!(open <= OPEN_FILES_MAX, "{open} open files");
    let log = cluster.log_text(Node::Broker(1))?;
    ensure!(!log.contains("out of use"), "a directory was given up:\n{log}");
    drop(idle);
    check(&cluster, 512 * MEBIBYTE)
}

#[test]
fn g9_responses_that_nobody_reads() -> Result<()> {
    const MEMORY_MAX: u64 = 256 * MEBIBYTE;
    raise_own_limit()?;
    let cluster = Cluster::start_with(one_broker().with("max.memory.bytes", &MEMORY_MAX.to_string()))?;
    let address = cluster.broker_address(1);
    let writer = writer(address)?;
    create_topic(address, "many", 1_000, 1)?;
    let all = frame(9, &MetadataRequest::default().with_topics(None))?;
    let requests = all.repeat(200);
    let mut unread = Vec::new();
    for _ in 0..300 {
        let mut stream = clients::connect(address)?;
        // The broker stops reading at its bound, or closes: both are right.
        stream.set_write_timeout(Some(Duration::from_millis(200)))?;
        let _ = stream.write_all(&requests);
        unread.push(stream);
        check(&cluster, MEMORY_MAX)?;
    }
    writer.goes_on("while responses are not read")?;
    drop(unread);
    writer.goes_on("after the attack")?;
    check(&cluster, MEMORY_MAX)
}

#[test]
fn g8_a_storm_of_list_offsets() -> Result<()> {
    let cluster = Cluster::start_with(one_broker())?;
    let address = cluster.broker_address(1);
    let writer = writer(address)?;
    create_topic(address, "many", 1_000, 1)?;
    let partition = |index| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(1);
    let topic = ListOffsetsTopic::default().with_name(TopicName(text("many")));
    let topic = topic.with_partitions((0..1_000).map(partition).collect());
    let request = frame(5, &ListOffsetsRequest::default().with_topics(vec![topic]))?;
    let storm = storm(&[address; 8], &[request]);
    writer.goes_on("during a storm of ListOffsets")?;
    join(storm)?;
    check(&cluster, 256 * MEBIBYTE)
}

/// Each names a thousand partitions: once a request held its worker until all of them had their batch.
#[test]
fn g8_a_storm_of_produce() -> Result<()> {
    const MEMORY_MAX: u64 = 256 * MEBIBYTE;
    const PARTITIONS: i32 = 1_000;
    let options = ClusterOptions::default()
        .with("max.memory.bytes", &MEMORY_MAX.to_string())
        .with("auto.create.topics.enable", "false");
    let cluster = Cluster::start_with(options)?;
    let brokers: Vec<SocketAddr> = (1..=3).map(|id| cluster.broker_address(id)).collect();
    create_topic(brokers[0], GOOD, 1, 3)?;
    let writer = Good::writer(&brokers)?;
    create_topic(brokers[0], "many", PARTITIONS, 3)?;
    println!("produce, quiet: {}", writer.latencies());
    // Brokers refuse the partitions that they do not lead.
    let storm = storm(&[&brokers[..], &brokers[..]].concat(), &[produce_frame("many", 0..PARTITIONS)?]);
    writer.goes_on("during a storm of Produce")?;
    join(storm)?;
    println!("produce, under attack: {}", writer.latencies());
    writer.goes_on("after the attack")?;
    check(&cluster, MEMORY_MAX)
}

/// Each waits until the followers know the new beginning of every partition.
#[test]
fn g8_a_storm_of_delete_records() -> Result<()> {
    const MEMORY_MAX: u64 = 256 * MEBIBYTE;
    const PARTITIONS: i32 = 300;
    const VERSION: i16 = 2;
    let options = ClusterOptions::default()
        .with("max.memory.bytes", &MEMORY_MAX.to_string())
        .with("auto.create.topics.enable", "false");
    let cluster = Cluster::start_with(options)?;
    let brokers: Vec<SocketAddr> = (1..=3).map(|id| cluster.broker_address(id)).collect();
    create_topic(brokers[0], GOOD, 1, 3)?;
    let writer = Good::writer(&brokers)?;
    create_topic(brokers[0], "many", PARTITIONS, 3)?;
    // -1: everything that is replicated.
    let partition = |index| DeleteRecordsPartition::default().with_partition_index(index).with_offset(-1);
    let topic = DeleteRecordsTopic::default().with_name(TopicName(text("many")));
    let topic = topic.with_partitions((0..PARTITIONS).map(partition).collect());
    let delete = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let delete = frame(VERSION, &delete)?;
    // Brokers refuse the partitions that they do not lead.
    let storm = storm(&[&brokers[..], &brokers[..]].concat(), &[produce_frame("many", 0..PARTITIONS)?, delete.clone()]);
    writer.goes_on("during a storm of DeleteRecords")?;
    join(storm)?;
    let mut deleted = 0;
    for address in &brokers {
        let response = call(&mut connect(*address)?, &delete)?;
        let (_, response) = ottla_protocol::decode_response::<DeleteRecordsRequest>(VERSION, response.into())?;
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        deleted += partitions.filter(|partition| partition.error_code == 0 && partition.low_watermark > 0).count();
    }
    ensure!(deleted == PARTITIONS as usize, "records of {deleted} partitions were deleted");
    writer.goes_on("after the attack")?;
    check(&cluster, MEMORY_MAX)
}

type Storm = Vec<JoinHandle<Result<()>>>;

/// One client for each of `targets`: it sends the same requests again and again, and reads the answers.
fn storm(targets: &[SocketAddr], requests: &[Bytes]) -> Storm {
    const ROUNDS: usize = 100;
    let client = |address: &SocketAddr| {
        let (address, requests) = (*address, requests.to_vec());
        std::thread::spawn(move || -> Result<()> {
            let mut stream = connect(address)?;
            for _ in 0..ROUNDS {
                for request in &requests {
                    call(&mut stream, request)?;
                }
            }
            Ok(())
        })
    };
    targets.iter().map(client).collect()
}

fn join(storm: Storm) -> Result<()> {
    for client in storm {
        let ended = client.join();
        ensure!(matches!(ended, Ok(Ok(()))), "{ended:?}");
    }
    Ok(())
}
