//! What the ceilings of `docs/resources.md` are worth: the page names what is measured, connections cost what it says,
//! and few descriptors serve many partitions.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ottla_e2e::{Cluster, ClusterOptions, Node, wait};
use ottla_model::Offset;
use ottla_protocol::kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, GroupId, MetadataRequest, TopicName};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{self, FetchRequest, FetchTopic};
use ottla_protocol::messages::produce;
use ottla_test_support::free_ports;

use crate::good::{GOOD, Good};
use crate::wire::{
    PRODUCE_VERSION, await_coordinator, call, connect, create_topic, fetched, frame, produce_frame, text,
};
use crate::{one_broker, raise_own_limit};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/resources.md");

fn metrics(http: SocketAddr) -> Result<String> {
    let mut stream = connect(http)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// The scarce things that a process shows: those that have a value in use, a ceiling above 0, and refusals.
fn shown(http: SocketAddr, service: &str) -> Result<BTreeSet<String>> {
    let page = metrics(http)?;
    let named = |column: &str, min: f64| -> BTreeSet<String> {
        let row = format!("ottla_{service}_resource_{column}{{resource=\"");
        let name = |line: &str| {
            let (name, value) = line.strip_prefix(&row)?.split_once("\"} ")?;
            value.trim().parse::<f64>().is_ok_and(|value| value >= min).then(|| name.to_owned())
        };
        page.lines().filter_map(name).collect()
    };
    let (used, ceiling, refused) = (named("used", 0.0), named("ceiling", 1.0), named("refused", 0.0));
    ensure!(used == ceiling && ceiling == refused, "{used:?} are used, {ceiling:?} bounded, {refused:?} refused");
    Ok(used)
}

/// The connections that a broker takes from clients: the ceiling follows from the limit of open files.
fn client_connections_max(http: SocketAddr) -> Result<usize> {
    const ROW: &str = "ottla_broker_resource_ceiling{resource=\"connections\"} ";
    let page = metrics(http)?;
    let ceiling = page.lines().find_map(|line| line.strip_prefix(ROW)).context("no ceiling of connections")?;
    let ceiling: usize = ceiling.trim().parse()?;
    // A quarter is kept for brokers.
    Ok(ceiling - (ceiling / 4).min(1_024))
}

/// The names in the last columns of the page's tables that have metrics there.
fn described() -> Result<BTreeSet<String>> {
    let page = fs::read_to_string(PAGE)?;
    let (mut names, mut has_metrics) = (BTreeSet::new(), false);
    for line in page.lines() {
        let Some(row) = line.strip_suffix('|') else {
            has_metrics = false;
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or_default().trim();
        has_metrics |= last == "metric";
        let name = last.trim_matches('`');
        // Others are metrics of their own, with their whole names.
        if has_metrics && last.starts_with('`') && !name.starts_with("ottla_") {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

#[test]
fn every_ceiling_of_the_page_is_in_the_metrics() -> Result<()> {
    let ports = free_ports(2)?;
    let http: Vec<SocketAddr> = ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect();
    let options = one_broker().with("http.port", &ports[0].to_string());
    let mut cluster = Cluster::prepare(&options)?;
    cluster.set_variable(Node::Coordinator(1), "COORDINATOR_HTTP_PORT", &ports[1].to_string())?;
    cluster.spawn_all()?;
    let mut served = shown(http[0], "broker")?;
    served.extend(shown(http[1], "quorum")?);
    let described = described()?;
    ensure!(described.len() > 10, "the page describes {described:?} only");
    ensure!(described == served, "described and not served, or served and not described: {described:?}, {served:?}");
    Ok(())
}

/// A fetch of ten partitions that opens a session.
fn session() -> Result<Bytes> {
    let partitions = (0..10).map(|partition| fetched(partition, Offset(0))).collect();
    let topics = vec![FetchTopic { topic: TopicRef::Name("ten".to_owned()), partitions }];
    let request = FetchRequest { session_epoch: 0, topics, ..FetchRequest::default() };
    Ok(fetch::encode_request(12, 7, Some("consumer"), &request)?)
}

/// Groups of 20 members.
fn membership(member: usize) -> Result<Bytes> {
    let beat = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text(&format!("group-{}", member / 20))))
        .with_member_id(text(&format!("member-{member:08}-with-an-id-as-long-as-uuids")))
        .with_member_epoch(0)
        .with_rebalance_timeout_ms(300_000)
        .with_subscribed_topic_names(Some(vec![TopicName(text("ten"))]))
        .with_topic_partitions(Some(Vec::new()));
    frame(1, &beat)
}

#[test]
fn ten_thousand_connections_cost_little() -> Result<()> {
    /// Connections of one kind: so many, or what the limit of open files allows.
    const IDLE: usize = 10_000;
    const BUSY: usize = 2_000;
    const WARM: usize = 500;
    /// Connections of this test for other purposes.
    const OTHERS: usize = 50;
    const IDLE_BYTES_MAX: u64 = 4 * 1024;
    const BUSY_BYTES_MAX: u64 = 16 * 1024;
    raise_own_limit()?;
    let http = SocketAddr::from(([127, 0, 0, 1], free_ports(1)?[0]));
    let options = one_broker()
        .with("max.incremental.fetch.session.cache.slots", "20000")
        .with("group.consumer.max.size", "10000")
        .with("max.connections", "20000")
        .with("http.port", &http.port().to_string());
    let cluster = Cluster::start_with(options)?;
    let address = cluster.broker_address(1);
    let idle_count = client_connections_max(http)?.saturating_sub(WARM + BUSY + OTHERS).min(IDLE);
    ensure!(idle_count >= BUSY, "the limit of open files leaves {idle_count} connections");
    create_topic(address, "ten", 10, 1)?;
    await_coordinator(address, 0)?;
    let metadata = frame(9, &MetadataRequest::default().with_topics(Some(Vec::new())))?;
    let (session, broker) = (session()?, Node::Broker(1));
    let idle = |_: usize| -> Result<TcpStream> {
        let mut stream = connect(address)?;
        call(&mut stream, &metadata)?;
        Ok(stream)
    };
    let busy = |member: usize| -> Result<TcpStream> {
        let mut stream = connect(address)?;
        let response = Bytes::from(call(&mut stream, &session)?);
        let (_, response) = fetch::decode_response(12, &response)?;
        ensure!(response.session_id != 0, "no session for {member}: {response:?}");
        let response = call(&mut stream, &membership(member)?)?;
        let (_, response) = ottla_protocol::decode_response::<ConsumerGroupHeartbeatRequest>(1, response.into())?;
        ensure!(response.error_code == 0, "no membership for {member}: {response:?}");
        Ok(stream)
    };
    // What the process allocates for its first clients is no client's cost.
    let warm: Vec<TcpStream> = (0..WARM).map(idle).collect::<Result<_>>()?;
    let cost = |what, count: usize, bytes_max: u64, one: &dyn Fn(usize) -> Result<TcpStream>| -> Result<_> {
        let before = cluster.resident_kib(broker)?;
        let open: Vec<TcpStream> = (0..count).map(one).collect::<Result<_>>()?;
        let bytes = cluster.resident_kib(broker)?.saturating_sub(before) * 1024 / count as u64;
        println!("{what} connection, of {count}: {bytes} bytes");
        ensure!(bytes <= bytes_max, "{what} connection takes {bytes} bytes");
        Ok(open)
    };
    let quiet = cost("an idle", idle_count, IDLE_BYTES_MAX, &idle)?;
    let members = cost("a member's", BUSY, BUSY_BYTES_MAX, &busy)?;
    // All of them are served.
    for stream in quiet.iter().chain(&members).step_by(100) {
        let mut stream = stream.try_clone()?;
        call(&mut stream, &metadata)?;
    }
    drop(warm);
    Ok(())
}

/// Writes a record to each of the partitions, whoever leads it.
fn write(brokers: &[SocketAddr], topic: &str, partitions: Range<i32>) -> Result<()> {
    let mut missing: BTreeSet<i32> = partitions.collect();
    wait::until_ok(&format!("all partitions of {topic} take records"), || {
        for address in brokers {
            let request = produce_frame(topic, missing.iter().copied())?;
            let response = call(&mut connect(*address)?, &request)?;
            let (_, response) = produce::decode_response(PRODUCE_VERSION, &response)?;
            for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
                if partition.error.is_ok() {
                    missing.remove(&partition.partition.0);
                }
            }
        }
        ensure!(missing.is_empty(), "{} take none", missing.len());
        Ok(())
    })
}

/// `OTTLA_ATTACK_PARTITIONS` says how many: 30,000 in `make soak`.
#[test]
fn g4_three_brokers_with_few_descriptors_and_many_partitions() -> Result<()> {
    const OPEN_FILES_MAX: u64 = 1_024;
    const DEFAULT_PARTITIONS: i32 = 3_000;
    const TOPICS: i32 = 3;
    const PER_REQUEST: i32 = 500;
    let partitions = match std::env::var("OTTLA_ATTACK_PARTITIONS") {
        Ok(partitions) => partitions.parse::<i32>().context("OTTLA_ATTACK_PARTITIONS")?,
        Err(_) => DEFAULT_PARTITIONS,
    };
    let options = ClusterOptions { open_files_max: Some(OPEN_FILES_MAX), ..ClusterOptions::default() };
    let mut cluster = Cluster::start_with(options.with("auto.create.topics.enable", "false"))?;
    let brokers: Vec<SocketAddr> = (1..=3).map(|id| cluster.broker_address(id)).collect();
    create_topic(brokers[0], GOOD, 1, 3)?;
    let writer = Good::writer(&brokers)?;
    let names: Vec<String> = (0..TOPICS).map(|at| format!("many-{at}")).collect();
    for name in &names {
        create_topic(brokers[0], name, partitions / TOPICS, 1)?;
    }
    let write_all = |cluster: &Cluster| -> Result<()> {
        for name in &names {
            for from in (0..partitions / TOPICS).step_by(PER_REQUEST as usize) {
                write(&brokers, name, from..(from + PER_REQUEST).min(partitions / TOPICS))?;
            }
        }
        for id in 1..=3 {
            let open = cluster.open_files(Node::Broker(id))? as u64;
            ensure!(open <= OPEN_FILES_MAX, "broker {id} has {open} open files");
            let log = cluster.log_text(Node::Broker(id))?;
            ensure!(!log.contains("out of use") && !log.contains("panicked"), "broker {id}:\n{log}");
        }
        Ok(())
    };
    write_all(&cluster)?;
    writer.goes_on("while all logs are written")?;
    let ended = cluster.ended()?;
    ensure!(ended.is_empty(), "{ended:?} ended");
    // A start opens every log.
    cluster.kill(Node::Broker(2))?;
    cluster.spawn(Node::Broker(2))?;
    cluster.wait_ready()?;
    write_all(&cluster)?;
    writer.goes_on("after a restart")?;
    let ended = cluster.ended()?;
    ensure!(ended.is_empty(), "{ended:?} ended");
    Ok(())
}
