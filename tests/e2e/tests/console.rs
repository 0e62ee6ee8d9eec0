//! `kafka-console-producer` and `kafka-console-consumer` with real brokers: a file goes through a topic unchanged.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients, cluster};
use ottla_model::{Offset, PartitionId, TimestampMs};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{self, FetchPartition, FetchRequest, FetchTopic};
use ottla_protocol::messages::produce::{self, ProduceCall};
use ottla_protocol::record_batch::{BatchBuilder, Batches, HEADER_BYTES, Header, crc_of, decompress};

fn small() -> Result<Cluster> {
    Cluster::start_with(ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() })
}

fn produce(at: &str, arguments: &[&str], input: &[u8]) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), input)?;
    let mut tool = clients::tool("kafka-console-producer", at, arguments)?;
    let output = tool.stdin(File::open(file.path())?).output()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}

fn consume(at: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let mut tool = clients::tool("kafka-console-consumer", at, arguments)?;
    let output = tool.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(output.stdout)
}

#[test]
fn a_file_comes_back() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&at, "lines", "1", "1"])?;
    let large = ["--alter", "--entity-type", "topics", "--entity-name", "lines", "--add-config"];
    let large = [&large[..], &["max.message.bytes=4000000"]].concat();
    clients::run(&mut clients::tool("kafka-configs", &at, &large)?)?;
    let mut file = Vec::new();
    for number in 0..100_000 {
        file.extend_from_slice(format!("line {number}\n").as_bytes());
        if number % 1_000 == 0 {
            file.extend_from_slice(b"\n\xff\xfe not UTF-8 \x00\n");
        }
    }
    // Longer than a batch, amid short ones.
    file.extend(std::iter::repeat_n(b'x', 3_000_000));
    file.extend_from_slice(b"\nlast\n");
    // The last line has no end.
    produce(&at, &["--topic", "lines"], &file[..file.len() - 1])?;
    let count = (100_000 + 200 + 2).to_string();
    let read = consume(&at, &["--topic", "lines", "--from-beginning", "--max-messages", &count])?;
    ensure!(read == file, "{} bytes came back of {}", read.len(), file.len());

    // As Java reads lines.
    clients::run_script("create_topic.py", &[&at, "windows", "1", "1"])?;
    produce(&at, &["--topic", "windows"], b"a\r\n\r\nb\r\n")?;
    let read = consume(&at, &["--topic", "windows", "--from-beginning", "--max-messages", "3"])?;
    ensure!(read == b"a\n\nb\n", "{:?}", String::from_utf8_lossy(&read));

    // The warning of an outdated option is no record.
    let newest = ["--topic", "windows", "--from-beginning", "--max-messages", "1", "--property", "print.offset=true"];
    let mut tool = clients::tool("kafka-console-consumer", &at, &newest)?;
    let output = tool.stdin(Stdio::null()).output()?;
    let warning = b"Option --property is deprecated";
    ensure!(output.stdout == b"Offset:0\ta\n" && output.stderr.starts_with(warning), "{output:?}");
    Ok(())
}

#[test]
fn the_shell_of_the_metadata_looks_around() -> Result<()> {
    let cluster = small()?;
    clients::run_script("create_topic.py", &[&cluster.bootstrap(), "seen", "2", "1"])?;
    let coordinator = cluster.coordinator_address(1);
    let shell = |words: &[&str], input: &str| -> Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), input)?;
        let mut tool = std::process::Command::new(ottla_e2e::cluster::binary("ottla")?);
        tool.args(["as", "kafka-metadata-shell", "--controllers", &coordinator]).args(words);
        let output = tool.stdin(File::open(file.path())?).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    ensure!(shell(&["ls", "/brokers/topics"], "")? == "seen\n");
    let found = shell(&["find", "/brokers/topics/seen/partitions"], "")?;
    ensure!(found.lines().any(|path| path == "/brokers/topics/seen/partitions/1/state"), "{found}");
    let lines = "cd /brokers\npwd\nls nowhere\ncat ids/1\nexit\nls\n";
    let told = shell(&[], lines)?;
    let told: Vec<&str> = told.lines().collect();
    ensure!(told.len() == 3 && told[0] == "/brokers" && told[1].contains("nowhere"), "{told:?}");
    ensure!(told[2].contains("\"endpoints\""), "{told:?}");
    Ok(())
}

/// Batches are made for the usual limit; a topic may have a smaller one.
#[test]
fn batches_fit_the_topic() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&at, "narrow", "1", "1"])?;
    let narrow = ["--alter", "--entity-type", "topics", "--entity-name", "narrow", "--add-config"];
    let narrow = [&narrow[..], &["max.message.bytes=2000"]].concat();
    clients::run(&mut clients::tool("kafka-configs", &at, &narrow)?)?;
    let lines: String = (0..2_000).map(|number| format!("line {number}\n")).collect();
    produce(&at, &["--topic", "narrow"], lines.as_bytes())?;
    let read = consume(&at, &["--topic", "narrow", "--from-beginning", "--max-messages", "2000"])?;
    ensure!(read == lines.as_bytes(), "{} bytes came back of {}", read.len(), lines.len());
    Ok(())
}

#[test]
fn topics_are_included_by_an_expression() -> Result<()> {
    let cluster = small()?;
    let at = cluster.bootstrap();
    for topic in ["in-1", "in-2", "out"] {
        clients::run_script("create_topic.py", &[&at, topic, "1", "1"])?;
        produce(&at, &["--topic", topic], format!("of {topic}\n").as_bytes())?;
    }
    let read = |more: &[&str]| -> Result<Vec<String>> {
        let common = ["--include", "in-.*", "--from-beginning", "--max-messages", "2"];
        let read = String::from_utf8(consume(&at, &[&common, more].concat())?)?;
        let mut lines: Vec<String> = read.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    };
    ensure!(read(&[])? == ["of in-1", "of in-2"]);
    ensure!(read(&["--group", "g"])? == ["of in-1", "of in-2"]);

    let offsets = ["--topic", "__consumer_offsets", "--from-beginning", "--timeout-ms", "5000", "--formatter"];
    let formatter = |name: &str| -> Result<String> {
        let class = format!("org.apache.kafka.tools.consumer.{name}");
        Ok(String::from_utf8(consume(&at, &[&offsets[..], &[class.as_str()]].concat())?)?)
    };
    let committed = formatter("OffsetsMessageFormatter")?;
    let beginning = r#"{"key":{"type":1,"data":{"group":"g","topic":"in-1","partition":0}},"value":{"version":4,"#;
    ensure!(committed.contains(beginning) && !committed.contains('\n'), "{committed}");
    let groups = formatter("GroupMetadataMessageFormatter")?;
    ensure!(groups.contains(r#"{"key":{"type":2,"data":{"group":"g"}},"value":{"version":"#), "{groups}");
    Ok(())
}

/// `ÿþ` and `schlüssel` in Latin-1.
const ODD_KEYS: [&[u8]; 2] = [b"\xff\xfe", b"schl\xfcssel"];

/// One record whose header keys are [`ODD_KEYS`]. Our builder writes UTF-8 only: the keys are put in afterwards.
fn odd_batch() -> Result<BytesMut> {
    const CRC: std::ops::Range<usize> = 17..21;
    let stand_ins = ["#1", "schl#ssel"];
    let header = |(key, value): (&str, Option<&'static [u8]>)| Header {
        key: key.to_owned(),
        value: value.map(Bytes::from_static),
    };
    let headers: Vec<_> = stand_ins.into_iter().zip([Some(&b"one"[..]), None]).map(header).collect();
    let mut builder = BatchBuilder::new();
    builder.push(TimestampMs(1_700_000_000_000), Some(b"k"), Some(b"v"), &headers);
    let mut batch = builder.build()?;
    for (stand_in, odd) in stand_ins.into_iter().zip(ODD_KEYS) {
        let at = batch.windows(odd.len()).position(|window| window == stand_in.as_bytes()).context("the stand-in")?;
        batch[at..at + odd.len()].copy_from_slice(odd);
    }
    let crc = crc_of(&batch);
    batch[CRC].copy_from_slice(&crc.to_be_bytes());
    Ok(batch)
}

/// The records of a topic's first batch, unpacked, as a broker sends them.
fn fetched_raw(cluster: &Cluster, topic: &str) -> Result<Vec<u8>> {
    const VERSION: i16 = 12;
    let partition = FetchPartition::of_consumer(PartitionId(0), Offset(0), 1 << 20);
    let topics = vec![FetchTopic { topic: TopicRef::Name(topic.to_owned()), partitions: vec![partition] }];
    let request = FetchRequest { max_wait_ms: 10_000, min_bytes: 1, topics, ..FetchRequest::default() };
    let mut stream = clients::connect(cluster.broker_address(1))?;
    stream.write_all(&fetch::encode_request(VERSION, 7, None, &request)?)?;
    let (_, response) = fetch::decode_response(VERSION, &Bytes::from(clients::read_frame(&mut stream)?))?;
    let records = response.topics.into_iter().flat_map(|topic| topic.partitions).find_map(|found| found.records);
    let records = records.with_context(|| format!("records of {topic}"))?;
    let batch = Batches::new(&records).next().with_context(|| format!("a batch of {topic}"))??;
    Ok(decompress(batch.header.compression()?, &batch.bytes[HEADER_BYTES..], 1 << 20)?)
}

/// A key of a header is a string in Kafka's documents and bytes in a log: brokers keep what came, also where they pack
/// the records anew, and tools show U+FFFD for each part that is no UTF-8.
#[test]
fn keys_of_headers_that_are_no_utf_8_are_kept_and_shown() -> Result<()> {
    const SHOWN: &str = "\u{fffd}\u{fffd}:one,schl\u{fffd}ssel:null\tv\n";
    let cluster = small()?;
    let at = cluster.bootstrap();
    for (topic, compression) in [("kept", "producer"), ("packed", "gzip")] {
        let compression = format!("compression.type={compression}");
        let create = ["--create", "--topic", topic, "--config", &compression];
        clients::run(&mut clients::tool("kafka-topics", &at, &create)?)?;
        let topics = vec![(TopicRef::Name(topic.to_owned()), vec![(PartitionId(0), odd_batch()?.freeze())])];
        let call = ProduceCall { transactional_id: None, acks: -1, timeout_ms: 30_000, topics };
        let mut stream = clients::connect(cluster.broker_address(1))?;
        stream.write_all(&produce::encode_request(9, 7, None, &call)?)?;
        let (_, response) = produce::decode_response(9, &clients::read_frame(&mut stream)?)?;
        let partition = response.topics.iter().flat_map(|topic| &topic.partitions).next().context("an answer")?;
        ensure!(partition.error.is_ok(), "{topic}: {:?}", partition.error);

        let (sent, raw) = (&odd_batch()?[HEADER_BYTES..], fetched_raw(&cluster, topic)?);
        ensure!(raw == *sent, "{topic}: {raw:?} instead of {sent:?}");
        let read = ["--topic", topic, "--from-beginning", "--max-messages", "1"];
        let read = [&read[..], &["--formatter-property", "print.headers=true"]].concat();
        let shown = String::from_utf8(consume(&at, &read)?)?;
        ensure!(shown == SHOWN, "{topic}: {shown:?}");
        if let Some(mut theirs) = clients::java("org.apache.kafka.tools.consumer.ConsoleConsumer", &read) {
            let output = theirs.args(["--bootstrap-server", &at]).stdin(Stdio::null()).output()?;
            ensure!(output.stdout == SHOWN.as_bytes(), "{topic}: Kafka's shows {output:?}");
        }
        let log = cluster.data_folder(Node::Broker(1))?.join(format!("{topic}-0/00000000000000000000.log"));
        let mut dump = Command::new(cluster::binary("ottla")?);
        dump.args(["as", "kafka-dump-log", "--print-data-log", "--files"]).arg(log);
        let dumped = clients::run(&mut dump)?;
        ensure!(dumped.contains("headerKeys: [\u{fffd}\u{fffd},schl\u{fffd}ssel]"), "{topic}: {dumped}");
    }
    Ok(())
}

/// A client id is for logs, metrics and quotas, whatever its bytes.
#[test]
fn clients_of_any_id_are_served() -> Result<()> {
    let cluster = small()?;
    let address = cluster.broker_address(1);
    let long = [b'x'; 4_096];
    let ids: [Option<&[u8]>; 6] =
        [None, Some(b""), Some(b"m\xfcmmel"), Some(b"\xff\xfe\x00"), Some(&long), Some("клиент".as_bytes())];
    for id in ids {
        // Metadata of version 1, of no topic.
        let mut frame = [&3i16.to_be_bytes()[..], &1i16.to_be_bytes(), &7i32.to_be_bytes()].concat();
        frame.extend(id.map_or(Ok(-1), |id| i16::try_from(id.len()))?.to_be_bytes());
        frame.extend(id.unwrap_or_default());
        frame.extend(0i32.to_be_bytes());
        let mut stream = clients::connect(address)?;
        stream.write_all(&i32::try_from(frame.len())?.to_be_bytes())?;
        stream.write_all(&frame)?;
        let answer = clients::read_frame(&mut stream).with_context(|| format!("{id:?}"))?;
        ensure!(answer.starts_with(&[7i32.to_be_bytes(), 1i32.to_be_bytes()].concat()), "{id:?}: {answer:?}");
    }
    Ok(())
}
