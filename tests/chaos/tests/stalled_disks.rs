//! A log directory whose disk stops to answer in the middle of writes, and the clients that have nothing to do with it:
//! they are served by the same threads. Requests by hand, each on a connection of its own, so that it is seen how long
//! each waits; many more connections write to the directory than the broker has threads.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ottla_chaos::{DiskState, FaultyDisk, report, two_log_directories};
use ottla_e2e::{Access, Cluster, ClusterOptions, Node, clients, wait};
use ottla_model::{PartitionId, TimestampMs};
use ottla_protocol::kafka_protocol::messages::MetadataRequest;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::produce::{self, ProduceCall};
use ottla_protocol::record_batch::BatchBuilder;
use ottla_protocol::{decode_response, encode_request};

const TOPIC: &str = "t";
const PARTITIONS: i32 = 16;
const PRODUCE_VERSION: i16 = 9;
const METADATA_VERSION: i16 = 9;
/// Connections of each kind of client that is to be served throughout.
const SERVED: usize = 8;
/// Connections that write to the disk while it does not answer: more than a runtime has threads for what blocks (512).
const HELD_UP: usize = 700;
const PAUSE: Duration = Duration::from_millis(5);
const STALL: Duration = Duration::from_secs(12);
/// Of a client that has nothing to do with the disk, beside what the machine lets everybody wait
/// ([`Asking::machine`]). A stall is noticed after some tenths of a second.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A request passes some threads, each of which may wait for the machine.
const THREADS_OF_A_REQUEST: u32 = 4;

fn produce_frame(partition: i32) -> Result<Bytes> {
    let batch = BatchBuilder::new().record(TimestampMs(1), None, Some(b"value")).build()?.freeze();
    let topics = vec![(TopicRef::Name(TOPIC.to_owned()), vec![(PartitionId(partition), batch)])];
    let call = ProduceCall { transactional_id: None, acks: -1, timeout_ms: 30_000, topics };
    Ok(produce::encode_request(PRODUCE_VERSION, 7, Some("writer"), &call)?)
}

fn metadata_frame() -> Result<Bytes> {
    Ok(encode_request(METADATA_VERSION, 7, Some("asker"), &MetadataRequest::default().with_topics(None))?)
}

/// A connection that waits for longer than a stall.
fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = clients::connect(address)?;
    stream.set_read_timeout(Some(3 * STALL))?;
    Ok(stream)
}

fn call(stream: &mut TcpStream, frame: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(frame)?;
    clients::read_frame(stream)
}

/// Clients that each ask the same again and again.
struct Asking {
    /// Of a request with its answer.
    longest_ms: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Asking {
    fn start(address: SocketAddr, frames: &[Bytes], check: fn(&[u8]) -> Result<()>) -> Result<Self> {
        let mut asking = Self { longest_ms: Arc::default(), is_over: Arc::default(), threads: Vec::new() };
        for frame in frames.iter().cycle().take(SERVED) {
            let (mut stream, frame) = (connect(address)?, frame.clone());
            let (longest_ms, is_over) = (asking.longest_ms.clone(), asking.is_over.clone());
            asking.threads.push(std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    check(&call(&mut stream, &frame)?)?;
                    longest_ms.fetch_max(u64::try_from(began.elapsed().as_millis())?, Ordering::Relaxed);
                    sleep(PAUSE);
                }
                Ok(())
            }));
        }
        Ok(asking)
    }

    /// In place of a client: writes to a disk that works, and pauses. What it waits for is the machine's own.
    fn machine(folder: &std::path::Path) -> Result<Self> {
        let mut asking = Self { longest_ms: Arc::default(), is_over: Arc::default(), threads: Vec::new() };
        let mut file = fs::File::create(folder.join("machine"))?;
        let (longest_ms, is_over) = (asking.longest_ms.clone(), asking.is_over.clone());
        asking.threads.push(std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let began = Instant::now();
                file.write_all(&[0; 100])?;
                sleep(PAUSE);
                let waited = began.elapsed().saturating_sub(PAUSE);
                longest_ms.fetch_max(u64::try_from(waited.as_millis())?, Ordering::Relaxed);
            }
            Ok(())
        }));
        Ok(asking)
    }

    fn finish(self) -> Result<Duration> {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a client ended by a panic"))??;
        }
        Ok(Duration::from_millis(self.longest_ms.load(Ordering::Relaxed)))
    }
}

fn acknowledged(answer: &[u8]) -> Result<()> {
    let (_, answer) = produce::decode_response(PRODUCE_VERSION, answer)?;
    let errors: Vec<_> = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error).collect();
    ensure!(errors.iter().all(|error| error.is_ok()), "{errors:?}");
    Ok(())
}

fn answered(_: &[u8]) -> Result<()> {
    Ok(())
}

/// The partitions of the topic whose logs are in a directory.
fn partitions_in(directory: &std::path::Path) -> Result<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        found.extend(name.strip_prefix(&format!("{TOPIC}-")).and_then(|number| number.parse::<i32>().ok()));
    }
    Ok(found)
}

/// Writes to the disk by many connections, and does not wait for the answers.
fn write_to(address: SocketAddr, partitions: &BTreeSet<i32>) -> Result<Vec<TcpStream>> {
    let frames = partitions.iter().map(|number| produce_frame(*number)).collect::<Result<Vec<_>>>()?;
    ensure!(!frames.is_empty(), "no partition is on the disk");
    let mut streams = Vec::new();
    for frame in frames.iter().cycle().take(HELD_UP) {
        let mut stream = connect(address)?;
        stream.write_all(frame)?;
        streams.push(stream);
    }
    Ok(streams)
}

/// How long somebody waits who comes while the disk does not answer.
fn newcomer(address: SocketAddr) -> Result<Duration> {
    let began = Instant::now();
    call(&mut connect(address)?, &metadata_frame()?)?;
    Ok(began.elapsed())
}

fn leaders(answer: Vec<u8>) -> Result<Vec<i32>> {
    let (_, answer) = decode_response::<MetadataRequest>(METADATA_VERSION, answer.into())?;
    let topic = answer.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|name| name.0.as_str() == TOPIC));
    Ok(topic.context("the topic")?.partitions.iter().map(|partition| partition.leader_id.0).collect())
}

fn create_topic(cluster: &Cluster, replicas: i32) -> Result<()> {
    let (partitions, replicas) = (PARTITIONS.to_string(), replicas.to_string());
    let arguments = ["--create", "--topic", TOPIC, "--partitions", &partitions, "--replication-factor", &replicas];
    Access::plaintext(cluster.bootstrap()).run_tool("kafka-topics", &arguments).map(drop)
}

/// One of two directories stalls: clients of the other one and those that ask for what needs no disk are served on.
#[test]
fn a_directory_that_stalls_holds_up_no_client_of_another_one() -> Result<()> {
    let mut cluster = Cluster::prepare(&ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })?;
    let (faulty, sound) = two_log_directories(&mut cluster, Node::Broker(1))?;
    let Some(disk) = FaultyDisk::mount(&faulty)? else { return Ok(()) };
    cluster.spawn_all()?;
    create_topic(&cluster, 1)?;
    let address = cluster.broker_address(1);
    let (on_faulty, on_sound) = (partitions_in(&faulty)?, partitions_in(&sound)?);
    let good = on_sound.iter().map(|number| produce_frame(*number)).collect::<Result<Vec<_>>>()?;
    let bad = on_faulty.iter().map(|number| produce_frame(*number)).collect::<Result<Vec<_>>>()?;
    for frame in good.iter().chain(&bad) {
        wait::until_ok("the partitions are led", || acknowledged(&call(&mut connect(address)?, frame)?))?;
    }
    let writers = Asking::start(address, &good, acknowledged)?;
    let askers = Asking::start(address, &[metadata_frame()?], answered)?;
    let held_up = Asking::start(address, &bad, answered)?;
    sleep(Duration::from_secs(1));
    let machine = Asking::machine(cluster.folder())?;
    let began = Instant::now();
    disk.set(DiskState::Stalled);
    let streams = write_to(address, &on_faulty)?;
    let mut newest = Duration::ZERO;
    while began.elapsed() < STALL {
        newest = newest.max(newcomer(address)?);
        sleep(Duration::from_millis(100));
    }
    disk.set(DiskState::Works);
    let machine = machine.finish()?;
    let (writers, askers, held_up) = (writers.finish()?, askers.finish()?, held_up.finish()?);
    let told = format!(
        "a stall of {STALL:?}: the other directory's writers waited for {writers:?} at most, askers for {askers:?}, \
         newcomers for {newest:?}; writers to the disk for {held_up:?}, the machine's own {machine:?}"
    );
    report(&told);
    let wait_max = WAIT_MAX + THREADS_OF_A_REQUEST * machine;
    ensure!(writers.max(askers).max(newest) < wait_max, "clients waited for a disk that is not theirs: {told}");
    drop(streams);
    Ok(())
}

/// The only directory of a broker stalls: it tells its clients who leads instead.
#[test]
fn a_broker_whose_only_directory_stalls_tells_who_leads() -> Result<()> {
    let mut cluster = Cluster::prepare(&ClusterOptions::default())?;
    let Some(disk) = FaultyDisk::mount(&cluster.data_folder(Node::Broker(1))?)? else { return Ok(()) };
    cluster.spawn_all()?;
    create_topic(&cluster, 3)?;
    let address = cluster.broker_address(1);
    wait::until(
        "broker 1 leads some",
        || Ok(leaders(call(&mut connect(address)?, &metadata_frame()?)?)?.contains(&1)),
    )?;
    let led = leaders(call(&mut connect(address)?, &metadata_frame()?)?)?;
    let led: BTreeSet<i32> = (0..).zip(led).filter(|(_, leader)| *leader == 1).map(|(number, _)| number).collect();
    let askers = Asking::start(address, &[metadata_frame()?], answered)?;
    sleep(Duration::from_secs(1));
    let machine = Asking::machine(cluster.folder())?;
    let began = Instant::now();
    disk.set(DiskState::Stalled);
    let streams = write_to(address, &led)?;
    let mut told = None;
    let mut newest = Duration::ZERO;
    while began.elapsed() < STALL {
        newest = newest.max(newcomer(address)?);
        if told.is_none() && !leaders(call(&mut connect(address)?, &metadata_frame()?)?)?.contains(&1) {
            told = Some(began.elapsed());
        }
        sleep(Duration::from_millis(100));
    }
    disk.set(DiskState::Works);
    let machine = machine.finish()?;
    let askers = askers.finish()?;
    let waits = format!(
        "a stall of {STALL:?}: askers waited for {askers:?} at most, newcomers for {newest:?}, the machine's own \
         {machine:?}; other leaders were told after {told:?}"
    );
    report(&waits);
    let wait_max = WAIT_MAX + THREADS_OF_A_REQUEST * machine;
    ensure!(askers.max(newest) < wait_max, "Metadata waited for the disk: {waits}");
    ensure!(told.is_some(), "the former leader was named for as long as the disk stalled");
    drop(streams);
    Ok(())
}
