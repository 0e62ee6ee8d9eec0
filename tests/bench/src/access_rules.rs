//! What rules cost: requests and bytes for each second of a broker's CPU, of a user whom 1,000 rules concern or not,
//! beside the same user at a broker without an authorizer. Both log in by PLAIN.
//!
//! The two brokers work in turns of less than a second, and the CPU of each is that of a whole round: what the machine
//! does meanwhile, and what brokers do without requests, falls on both.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ottla_e2e::{Cluster, ClusterOptions, Node, clients};
use ottla_model::{Offset, PartitionId, TimestampMs};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{self, FetchPartition, FetchRequest, FetchTopic};
use ottla_protocol::messages::produce::{self, ProduceCall};
use ottla_protocol::record_batch::BatchBuilder;

use crate::report::{self, Round};

const RULES: usize = 1_000;
const SMALL_REQUESTS: usize = 200_000;
const RECORD_BYTES: usize = 1_000;
const RECORDS_OF_A_LARGE_BATCH: usize = 1_000;
/// Requests without an answer: the broker always has work.
const UNDER_WAY: usize = 64;
/// Turns of each broker in a round.
const TURNS: usize = 20;
/// Of the fetches from the page cache, which cost less than writes.
const READS: usize = 16;
const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;
const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;
/// Written by requests of one record, and of [`RECORDS_OF_A_LARGE_BATCH`].
const SMALL: &str = "small";
const LARGE: &str = "large";
/// Read again and again: one batch of a record, and one of as many as in a large one.
const SMALL_READ: &str = "small-read";
const LARGE_READ: &str = "large-read";
const TOPICS: [&str; 4] = [SMALL, LARGE, SMALL_READ, LARGE_READ];
/// What is written goes soon: a disk is not what is measured.
const SMALL_LOGS: [(&str, &str); 5] = [
    // The records are of 1970.
    ("log.retention.ms", "-1"),
    ("log.segment.bytes", "67108864"),
    ("log.retention.bytes", "67108864"),
    ("log.retention.check.interval.ms", "500"),
    ("log.segment.delete.delay.ms", "500"),
];

pub fn run(rounds: usize, mib: usize) -> Result<()> {
    let (with, without) = (Target::start(true)?, Target::start(false)?);
    let large_requests = mib.max(1) * 1024 * 1024 / (RECORD_BYTES * RECORDS_OF_A_LARGE_BATCH);
    let [small, large] = [produce_request(SMALL, 1)?, produce_request(LARGE, RECORDS_OF_A_LARGE_BATCH)?];
    for target in [&with, &without] {
        target.requests_of(&produce_request(SMALL_READ, 1)?, 1)?;
        target.requests_of(&produce_request(LARGE_READ, RECORDS_OF_A_LARGE_BATCH)?, 1)?;
    }
    // Whatever it asks for, it gets a whole batch.
    let [small_fetch, large_fetch] = [fetch_request(SMALL_READ, 1)?, fetch_request(LARGE_READ, 1)?];
    for (what, request, count) in [
        ("produce, a record a request, 1,000 rules", &small, SMALL_REQUESTS),
        ("fetch, a record a request, 1,000 rules", &small_fetch, SMALL_REQUESTS),
        ("produce, 1 MB a request, 1,000 rules", &large, large_requests),
        ("fetch, 1 MB a request, 1,000 rules", &large_fetch, large_requests * READS),
    ] {
        let mut figures = Vec::new();
        for round in 0..rounds.max(1) {
            let [ours, machine] = in_turn([&with, &without], round, request, count.div_ceil(TURNS))?;
            figures.push(Round { ours, machine });
        }
        report::row(what, "no authorizer", "1/CPU s", &figures);
    }
    Ok(())
}

/// Requests for each second of a broker's CPU, of two that work in turn. Each is the first of every other pair.
fn in_turn(targets: [&Target; 2], round: usize, request: &Bytes, count: usize) -> Result<[f64; 2]> {
    let cpu_s = || -> Result<[f64; 2]> {
        let [first, second] = targets.map(|target| target.cluster.cpu_time(Node::Broker(1)));
        Ok([first?.as_secs_f64(), second?.as_secs_f64()])
    };
    let streams = [targets[0].log_in()?, targets[1].log_in()?];
    let before = cpu_s()?;
    for turn in 0..TURNS {
        let first = (round + turn) % 2;
        for at in [first, 1 - first] {
            exchange(&streams[at], request, count)?;
        }
    }
    let after = cpu_s()?;
    let spent = [after[0] - before[0], after[1] - before[1]];
    ensure!(spent.iter().all(|spent_s| *spent_s > 0.0), "too few requests to measure");
    Ok(spent.map(|spent_s| (count * TURNS) as f64 / spent_s))
}

struct Target {
    cluster: Cluster,
}

impl Target {
    fn start(has_rules: bool) -> Result<Self> {
        const MODULE: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";
        let mut options = ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() }
            .listening("LOGIN", "SASL_PLAINTEXT")
            .with("sasl.enabled.mechanisms", "PLAIN")
            .with("plain.sasl.jaas.config", &format!("{MODULE} user_app=\"app-secret\";"));
        if has_rules {
            options = options
                .with("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
                .with("super.users", "User:ANONYMOUS");
        }
        let options = SMALL_LOGS.iter().fold(options, |options, (name, value)| options.with(name, value));
        let cluster = Cluster::start_with(options)?;
        for topic in TOPICS {
            clients::run_script("create_topic.py", &[&cluster.bootstrap(), topic, "1", "1"])?;
        }
        if has_rules {
            add_rules(&cluster.bootstrap())?;
        }
        Ok(Self { cluster })
    }

    fn requests_of(&self, request: &Bytes, count: usize) -> Result<()> {
        exchange(&self.log_in()?, request, count)
    }

    fn log_in(&self) -> Result<TcpStream> {
        let mut stream = clients::connect(self.cluster.bootstrap_of("LOGIN").parse()?)?;
        let token = b"\0app\0app-secret";
        let frames = [
            clients::request_frame(SASL_HANDSHAKE, 1, 1, &[&[0, 5], &b"PLAIN"[..]].concat()),
            clients::request_frame(SASL_AUTHENTICATE, 0, 2, &[&[0, 0, 0, 15], &token[..]].concat()),
        ];
        for frame in frames {
            stream.write_all(&frame)?;
            let answer = clients::read_frame(&mut stream)?;
            ensure!(answer.get(4..6) == Some(&[0, 0]), "{answer:?}");
        }
        Ok(stream)
    }
}

/// Eight rules allow what the user does; the others are about other resources, literal and prefixed, for this user, for
/// another one and for all.
fn add_rules(bootstrap: &str) -> Result<()> {
    let add = |who: [&str; 2], operations: &[&str], names: &[String], pattern: &str| -> Result<()> {
        let mut arguments = vec!["--add", "--resource-pattern-type", pattern];
        arguments.extend(who);
        arguments.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
        arguments.extend(names.iter().flat_map(|name| ["--topic", name]));
        clients::run(&mut clients::tool("kafka-acls", bootstrap, &arguments)?).map(drop)
    };
    for (who, names, pattern) in [
        (["--allow-principal", "User:other"], "topic", "literal"),
        (["--allow-principal", "User:app"], "team", "prefixed"),
        (["--deny-principal", "User:app"], "secret", "literal"),
        (["--deny-principal", "User:*"], "private", "prefixed"),
    ] {
        let names: Vec<String> = (0..(RULES - 8) / 4).map(|number| format!("{names}-{number}-")).collect();
        add(who, &["Read"], &names, pattern)?;
    }
    let own = TOPICS.map(str::to_owned);
    add(["--allow-principal", "User:app"], &["Write", "Read"], &own, "literal")
}

fn produce_request(topic: &str, records: usize) -> Result<Bytes> {
    let value = vec![b'x'; RECORD_BYTES];
    let builder = (0..records).fold(BatchBuilder::new(), |batch, _| batch.record(TimestampMs(1), None, Some(&value)));
    let batch = builder.build()?.freeze();
    let topics = vec![(TopicRef::Name(topic.to_owned()), vec![(PartitionId(0), batch)])];
    let call = ProduceCall { transactional_id: None, acks: 1, timeout_ms: 30_000, topics };
    Ok(produce::encode_request(PRODUCE_VERSION, 7, Some("bench"), &call)?)
}

fn fetch_request(topic: &str, max_bytes: i32) -> Result<Bytes> {
    let partition = FetchPartition::of_consumer(PartitionId(0), Offset(0), max_bytes);
    let topics = vec![FetchTopic { topic: TopicRef::Name(topic.to_owned()), partitions: vec![partition] }];
    let request = FetchRequest { topics, max_bytes, ..FetchRequest::default() };
    Ok(fetch::encode_request(FETCH_VERSION, 7, Some("bench"), &request)?)
}

/// Sends a request so often, and reads the answers; the first one is looked at.
fn exchange(stream: &TcpStream, request: &Bytes, count: usize) -> Result<()> {
    let (mut writing, mut reading) = (stream.try_clone()?, BufReader::with_capacity(1 << 20, stream.try_clone()?));
    let window = UNDER_WAY.min(count);
    let several: Vec<u8> = std::iter::repeat_n(&request[..], window).flatten().copied().collect();
    let is_large = request.len() > RECORD_BYTES * 10;
    let mut sent = 0;
    let mut send = |most: usize| -> Result<usize> {
        let now = most.min(count - sent);
        writing.write_all(several.get(..now * request.len()).context("as many as that")?)?;
        sent += now;
        Ok(now)
    };
    // Large ones one by one: answers are read while the next request is written.
    let mut under_way = send(if is_large { 2 } else { window })?;
    for read in 0..count {
        let answer_bytes = answer(&mut reading, read == 0, request)?;
        ensure!(answer_bytes > 0, "an answer");
        under_way -= 1;
        if is_large {
            under_way += send(1)?;
        } else if under_way <= window / 2 {
            under_way += send(window / 2)?;
        }
    }
    Ok(())
}

/// Reads one answer; its bytes.
fn answer(reading: &mut BufReader<TcpStream>, is_looked_at: bool, request: &Bytes) -> Result<usize> {
    let mut size = [0; 4];
    reading.read_exact(&mut size)?;
    let size = usize::try_from(i32::from_be_bytes(size))?;
    if !is_looked_at {
        let skipped = std::io::copy(&mut reading.by_ref().take(u64::try_from(size)?), &mut std::io::sink())?;
        ensure!(usize::try_from(skipped)? == size, "the broker ended the connection");
        return Ok(size);
    }
    let mut whole = vec![0; size];
    reading.read_exact(&mut whole)?;
    let whole = Bytes::from(whole);
    let key = i16::from_be_bytes([request[4], request[5]]);
    if key == 0 {
        let (_, response) = produce::decode_response(PRODUCE_VERSION, &whole)?;
        let mut errors = response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error);
        ensure!(errors.all(|error| error.is_ok()), "{response:?}");
    } else {
        let (_, response) = fetch::decode_response(FETCH_VERSION, &whole)?;
        ensure!(size > RECORD_BYTES, "{response:?}");
    }
    Ok(size)
}
