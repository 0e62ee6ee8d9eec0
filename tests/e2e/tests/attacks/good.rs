//! Clients that harm nobody, and must not be harmed.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ottla_e2e::wait;
use ottla_model::Offset;
use ottla_protocol::kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ottla_protocol::kafka_protocol::messages::{FindCoordinatorRequest, GroupId, OffsetCommitRequest, TopicName};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{self, FetchRequest, FetchTopic};
use ottla_protocol::record_batch::Batches;

use crate::wire::{call, connect, fetched, frame, produce_frame, refusals, text};

/// The topic of the good clients, with one partition.
pub const GOOD: &str = "good";
/// What a client must achieve after an attack, to prove that it goes on.
const MORE: u64 = 50;
const PAUSE: Duration = Duration::from_millis(5);
const FETCH_VERSION: i16 = 12;
const COMMIT_VERSION: i16 = 7;

/// A client that does the same again and again, until it is dropped; it comes back after whatever happens.
pub struct Good {
    name: &'static str,
    done: Arc<AtomicU64>,
    times: Arc<Mutex<Vec<Duration>>>,
    /// The last one of each broker.
    failures: Arc<Mutex<BTreeMap<SocketAddr, String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Good {
    /// `work` tells whether it was done; if not, the next broker is tried.
    fn start(
        name: &'static str,
        brokers: &[SocketAddr],
        mut work: impl FnMut(&mut TcpStream) -> Result<bool> + Send + 'static,
    ) -> Result<Self> {
        let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let times = Arc::new(Mutex::new(Vec::new()));
        let failures = Arc::new(Mutex::new(BTreeMap::new()));
        let (counted, stopped, measured) = (Arc::clone(&done), Arc::clone(&stop), Arc::clone(&times));
        let failed = Arc::clone(&failures);
        let brokers = brokers.to_vec();
        let thread = std::thread::spawn(move || {
            let goes_on = || !stopped.load(Ordering::Relaxed);
            for broker in brokers.iter().cycle().take_while(|_| goes_on()) {
                std::thread::sleep(PAUSE);
                let Ok(mut stream) = connect(*broker) else { continue };
                while goes_on() {
                    let begun = Instant::now();
                    match work(&mut stream) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => {
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.insert(*broker, format!("{error:#}"));
                            break;
                        }
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                    measured.lock().unwrap_or_else(PoisonError::into_inner).push(begun.elapsed());
                    std::thread::sleep(PAUSE);
                }
            }
        });
        let client = Self { name, done, times, failures, stop, thread: Some(thread) };
        client.goes_on("before the attack")?;
        Ok(client)
    }

    /// Writes one record after the other with acks=all.
    pub fn writer(brokers: &[SocketAddr]) -> Result<Self> {
        let record = produce_frame(GOOD, 0..1)?;
        Self::start("the writer", brokers, move |stream| {
            let refusals = refusals(stream, &record)?;
            ensure!(refusals.is_empty(), "{refusals:?}");
            Ok(true)
        })
    }

    /// Reads what the writer writes, without a gap.
    pub fn reader(brokers: &[SocketAddr]) -> Result<Self> {
        let mut next = Offset(0);
        Self::start("the reader", brokers, move |stream| {
            let response = Bytes::from(call(stream, &fetch_frame(next)?)?);
            let (_, response) = fetch::decode_response(FETCH_VERSION, &response)?;
            let mut has_read = false;
            for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
                for batch in Batches::new(partition.records.as_deref().unwrap_or_default()).map_while(Result::ok) {
                    ensure!(batch.header.base_offset == next, "{} after {next}", batch.header.base_offset);
                    next = batch.header.next_offset();
                    has_read = true;
                }
            }
            Ok(has_read)
        })
    }

    /// Commits offsets of a group.
    pub fn group(brokers: &[SocketAddr]) -> Result<Self> {
        // The first question for a coordinator makes the topic of offsets.
        let question = FindCoordinatorRequest::default().with_key(text(GOOD));
        let address = brokers.first().context("a broker")?;
        call(&mut connect(*address)?, &frame(2, &question)?)?;
        let commit = commit_frame(GOOD, 1, 0)?;
        Self::start("the group", brokers, move |stream| {
            let response = call(stream, &commit)?;
            let (_, response) =
                ottla_protocol::decode_response::<OffsetCommitRequest>(COMMIT_VERSION, response.into())?;
            let mut partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            ensure!(partitions.all(|partition| partition.error_code == 0), "{response:?}");
            Ok(true)
        })
    }

    /// Waits until the client has done more.
    pub fn goes_on(&self, when: &str) -> Result<()> {
        let enough = self.done.load(Ordering::Relaxed) + MORE;
        wait::until_ok(&format!("{} goes on {when}", self.name), || {
            let done = self.done.load(Ordering::Relaxed);
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            ensure!(done >= enough, "{done} of {enough}; its last failures: {failures:?}");
            Ok(())
        })
    }

    /// How long it took since the last call, for people: the machine may be busy with other things.
    pub fn latencies(&self) -> String {
        let mut times = std::mem::take(&mut *self.times.lock().unwrap_or_else(PoisonError::into_inner));
        times.sort_unstable();
        let at = |hundredths: usize| times.get((times.len() * hundredths / 100).min(times.len().saturating_sub(1)));
        format!("{}: {} times, p50 {:?}, p99 {:?}, max {:?}", self.name, times.len(), at(50), at(99), times.last())
    }
}

impl Drop for Good {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn fetch_frame(offset: Offset) -> Result<Bytes> {
    let partition = fetched(0, offset);
    let topics = vec![FetchTopic { topic: TopicRef::Name(GOOD.to_owned()), partitions: vec![partition] }];
    let request = FetchRequest { max_wait_ms: 500, min_bytes: 1, topics, ..FetchRequest::default() };
    Ok(fetch::encode_request(FETCH_VERSION, 7, Some("reader"), &request)?)
}

/// A commit by a group without members; `metadata` is the length of what is remembered with the offset.
pub fn commit_frame(group: &str, offset: i64, metadata: usize) -> Result<Bytes> {
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text(&"m".repeat(metadata))));
    let topic = OffsetCommitRequestTopic::default().with_name(TopicName(text(GOOD))).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    frame(COMMIT_VERSION, &request)
}
