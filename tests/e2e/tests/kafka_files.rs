//! Files: Apache Kafka's DumpLogSegments over the files of clients, retention and compaction; and directories that
//! Kafka wrote, also those of a killed Kafka.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ottla_e2e::clients::{run_script, start_script};
use ottla_e2e::cluster::{Cluster, ClusterOptions, Node};
use ottla_e2e::kafka::{self, KafkaBroker};
use ottla_e2e::wait;
use ottla_model::{
    LeaderEpoch, MonotonicMs, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicId, TopicName,
    TopicPartition, TransactionResult,
};
use ottla_protocol::record_batch::{BatchBuilder, Batches, Compression, Record, Records, TimestampType};
use ottla_replication::{AppendTerms, EndMarker};
use ottla_storage::checkpoint::offsets;
use ottla_storage::compaction::CleanerLimits;
use ottla_storage::directory::PartitionDirectoryKind;
use ottla_storage::{AbortedTransaction, Log, LogConfig, LogDirectory, OpenOptions, RealEnv};
use rustix::process::Signal;

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// Writes to a topic; returns the state that a reader must end with: the length of each key's value.
fn write(
    bootstrap: &str,
    topic: &str,
    codec: &str,
    records: usize,
    value_bytes: usize,
    config: &[&str],
) -> Result<BTreeMap<String, usize>> {
    let (records, value_bytes) = (records.to_string(), value_bytes.to_string());
    let arguments = [&[bootstrap, topic, codec, &records, &value_bytes], config].concat();
    let printed = run_script("keyed_records.py", &arguments)?;
    serde_json::from_str(printed.trim()).with_context(|| printed.clone())
}

fn table<'r>(records: impl IntoIterator<Item = &'r Record>) -> BTreeMap<String, usize> {
    let mut table = BTreeMap::new();
    for record in records {
        let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
        match &record.value {
            Some(value) => table.insert(key, value.len()),
            None => table.remove(&key),
        };
    }
    table
}

/// Whether the cleaner's checkpoint says that the topic is clean up to its last segment.
fn is_clean(data: &Path, topic: &str) -> Result<bool> {
    let last = kafka::files(&data.join(format!("{topic}-0")), &["log"])?.pop().context("a segment")?;
    let base = last.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<i64>().ok());
    let checkpoint = std::fs::read_to_string(data.join("cleaner-offset-checkpoint")).unwrap_or_default();
    let clean = checkpoint.lines().find_map(|line| line.strip_prefix(&format!("{topic} 0 "))?.parse::<i64>().ok());
    Ok(clean.is_some() && clean >= base)
}

#[test]
fn kafkas_dump_log_segments_verifies_what_is_written_here() -> Result<()> {
    let Some(jars) = kafka::broker_jars() else { return Ok(()) };
    let options = ClusterOptions { coordinators: 1, brokers: 1, ..ClusterOptions::default() }
        .with("log.cleaner.backoff.ms", "100")
        .with("log.retention.check.interval.ms", "200");
    let mut cluster = Cluster::start_with(options)?;
    let (bootstrap, data) = (cluster.bootstrap(), cluster.data_folder(Node::Broker(1))?);
    let compact = [
        "cleanup.policy=compact",
        "segment.bytes=1048576",
        "min.cleanable.dirty.ratio=0.01",
        "file.delete.delay.ms=100",
    ];
    let mut expected = BTreeMap::new();
    for codec in CODECS {
        expected.insert(format!("plain-{codec}"), write(&bootstrap, &format!("plain-{codec}"), codec, 300, 300, &[])?);
        let topic = format!("compacted-{codec}");
        let written = write(&bootstrap, &topic, codec, 1_500, 4_000, &compact)?;
        wait::until(&format!("{topic} is clean"), || is_clean(&data, &topic))?;
        expected.insert(topic, written);
    }
    let retention = ["segment.bytes=1048576", "retention.bytes=1500000", "file.delete.delay.ms=100"];
    write(&bootstrap, "retained", "lz4", 3_000, 4_000, &retention)?;
    let first = data.join("retained-0/00000000000000000000.log");
    wait::until("retention has taken the first segment", || Ok(!first.exists()))?;
    cluster.signal(Node::Broker(1), Signal::TERM)?;
    cluster.wait(Node::Broker(1))?;
    let directories =
        expected.keys().map(String::as_str).chain(["retained"]).map(|topic| data.join(format!("{topic}-0")));
    let dumps = kafka::dump(&jars, &directories.collect::<Vec<_>>())?;
    for ((topic, expected), dumped) in expected.iter().zip(&dumps) {
        let lines: Vec<&str> = dumped.lines().filter(|line| line.starts_with("| offset:")).collect();
        let mut keys = BTreeMap::new();
        for line in &lines {
            let key = line.split(" key: ").nth(1).context("a key")?.split(" payload: ").next().unwrap_or_default();
            ensure!(line.contains("headerKeys: [h,h,g,h]"), "{line}");
            let size: i64 =
                line.split("valueSize: ").nth(1).and_then(|rest| rest.split(' ').next()).context("a size")?.parse()?;
            match usize::try_from(size) {
                Ok(size) => keys.insert(key.to_owned(), size),
                Err(_) => keys.remove(key),
            };
        }
        ensure!(keys == *expected, "{topic}: {keys:?} instead of {expected:?}");
        let codec = topic.rsplit('-').next().unwrap_or_default();
        ensure!(dumped.contains(&format!("compresscodec: {codec}")), "{topic}: not {codec}");
        if topic.starts_with("compacted") {
            ensure!(lines.len() < 1_000, "{topic}: {} records are left", lines.len());
            ensure!(
                dumped.contains("isDeleteHorizonMs") || dumped.contains("deleteHorizonMs: "),
                "{topic}: no tombstone has a horizon"
            );
        }
    }
    ensure!(dumps.last().is_some_and(|dumped| dumped.contains("| offset:")), "retention leaves something");
    Ok(())
}

fn open(directory: &Path, topic: &str, clean_shutdown: bool) -> Result<Log<RealEnv>> {
    let partition = TopicPartition::new(TopicName::new(topic)?, PartitionId(0));
    let options = OpenOptions { clean_shutdown, ..OpenOptions::unclean(TimestampMs(1)) };
    // Kafka's cleaner leaves offsets out between segments.
    let config = LogConfig { compact: true, may_have_gaps: true, segment_bytes: 1 << 20, ..LogConfig::default() };
    let opened = Log::open(RealEnv, directory.to_owned(), partition, Arc::new(config), options)?;
    ensure!(opened.cut_bytes == 0, "{} bytes were cut", opened.cut_bytes);
    ensure!(clean_shutdown == (opened.scanned_bytes == 0), "{} bytes were scanned", opened.scanned_bytes);
    Ok(opened.log)
}

fn read(log: &Log<RealEnv>) -> Result<Vec<Record>> {
    let (mut records, mut next) = (Vec::new(), log.log_start_offset());
    loop {
        let bytes = log.read(next, 1 << 20, log.log_end_offset(), true)?.read()?;
        if bytes.is_empty() {
            return Ok(records);
        }
        for batch in Batches::new(&bytes).map_while(Result::ok) {
            next = batch.header.next_offset();
            for record in Records::new(&Bytes::copy_from_slice(batch.bytes), 1 << 26)? {
                records.push(record?);
            }
        }
    }
}

#[test]
fn a_directory_that_kafka_wrote_opens_here() -> Result<()> {
    let Some(jars) = kafka::broker_jars() else { return Ok(()) };
    let folder = tempfile::TempDir::with_prefix("ottla-e2e-kafka-")?;
    let properties =
        ["log.cleaner.backoff.ms=200", "log.cleaner.dedupe.buffer.size=4000000", "offsets.topic.num.partitions=1"];
    let kafka = KafkaBroker::start(&jars, folder.path(), &properties)?;
    let (bootstrap, data) = (kafka.bootstrap(), kafka.data());
    let compact = [
        "cleanup.policy=compact",
        "segment.bytes=100000",
        "min.cleanable.dirty.ratio=0.01",
        "file.delete.delay.ms=100",
    ];
    let mut expected = BTreeMap::new();
    for codec in CODECS {
        let topic = format!("plain-{codec}");
        expected.insert(topic.clone(), write(&bootstrap, &topic, codec, 300, 1_000, &["segment.bytes=50000"])?);
        let topic = format!("compacted-{codec}");
        let written = write(&bootstrap, &topic, codec, 900, 1_000, &compact)?;
        wait::until(&format!("{topic} is clean"), || is_clean(&data, &topic))?;
        expected.insert(topic, written);
    }
    kafka.stop()?;
    let directories: Vec<_> = expected.keys().map(|topic| data.join(format!("{topic}-0"))).collect();
    let before = kafka::dump(&jars, &directories)?;
    for (((topic, expected), directory), dumped) in expected.iter().zip(&directories).zip(&before) {
        let count = dumped.lines().filter(|line| line.starts_with("| offset:")).count();
        let log = open(directory, topic, true)?;
        ensure!(log.topic_id().is_some() && log.epoch_history().latest_epoch().0 >= 0, "{topic}: ids and epochs");
        ensure!(!log.producers().is_empty(), "{topic}: the producer is known");
        let end = log.log_end_offset();
        let records = read(&log)?;
        ensure!(records.len() == count, "{topic}: {} records instead of {count}", records.len());
        ensure!(records.is_sorted_by_key(|record| record.offset), "{topic}: in order");
        ensure!(records.iter().all(|record| record.headers.len() == 4), "{topic}: headers");
        ensure!(table(&records) == *expected, "{topic}: {:?} instead of {expected:?}", table(&records));
        // Every index answers as a scan would.
        for wanted in records.iter().step_by(7) {
            let found = log.offset_for_timestamp(wanted.timestamp)?.context("a record that is not older")?;
            let first = records.iter().find(|record| record.timestamp >= wanted.timestamp).context("itself")?;
            ensure!(found.offset == first.offset, "{topic}: {} instead of {}", found.offset, first.offset);
        }
        drop(log);
        // As after a kill: everything is read and checked, and the indexes are rebuilt. Then Ottla's cleaner cleans it.
        let mut log = open(directory, topic, false)?;
        ensure!(log.log_end_offset() == end && read(&log)? == records, "{topic}: another log after recovery");
        log.flush(MonotonicMs(1))?;
        let now = TimestampMs(i64::MAX / 4);
        let dirt = log.dirt(None, end, now)?;
        if let Some(job) = log.begin_cleaning(&dirt, now) {
            let pace = &mut |_| ControlFlow::Continue(());
            let mut cleaning = job.index(CleanerLimits::default(), pace)?;
            while let Some(cleaned) = cleaning.next(pace)? {
                log.swap_in(cleaned)?.remove(&RealEnv)?;
            }
            cleaning.finish()?;
        }
        ensure!(table(&read(&log)?) == *expected, "{topic}: another table after cleaning");
        ensure!(log.log_end_offset() == end, "{topic}: another end after cleaning");
        log.close(MonotonicMs(1))?;
    }
    // Cleaned by us, their names say that offsets may be missing.
    let renamed: Vec<_> = directories
        .iter()
        .zip(expected.keys())
        .map(|(directory, topic)| {
            let to = data.join(format!("compacted-here-{topic}-0"));
            std::fs::rename(directory, &to).map(|()| to)
        })
        .collect::<std::io::Result<_>>()?;
    for (topic, dumped) in expected.keys().zip(kafka::dump(&jars, &renamed)?) {
        let codec = topic.rsplit('-').next().and_then(Compression::from_name).context("a codec")?;
        ensure!(dumped.contains(&format!("compresscodec: {}", codec.name())), "{topic}: packed otherwise");
    }
    Ok(())
}

/// `written_until_killed.py`: the records that it wrote and Kafka acknowledged.
struct Load(Child);

impl Load {
    fn start(bootstrap: &str, topic: &str, codec: &str, config: &[&str]) -> Result<Self> {
        let arguments = [&[bootstrap, topic, codec], config].concat();
        let mut child = start_script("written_until_killed.py", &arguments)?;
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().context("its output is a pipe")?).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the producer said {line:?}");
        Ok(Self(child))
    }

    /// The numbers of the records by their offsets.
    fn stop(mut self) -> Result<BTreeMap<Offset, u64>> {
        writeln!(self.0.stdin.take().context("its input is a pipe")?, "stop")?;
        let mut out = String::new();
        self.0.stdout.take().context("its output is a pipe")?.read_to_string(&mut out)?;
        ensure!(self.0.wait()?.success(), "the producer failed: {out}");
        let acknowledged: BTreeMap<String, u64> = serde_json::from_str(out.trim())?;
        acknowledged.into_iter().map(|(offset, number)| Ok((Offset(offset.parse()?), number))).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn number_of(record: &Record) -> Result<u64> {
    let value = record.value.as_deref().context("a value")?;
    Ok(String::from_utf8_lossy(value).split(':').next().unwrap_or_default().parse()?)
}

/// Opens a log as a broker does after an unclean end, with Kafka's checkpoints.
fn open_after_a_kill(data: &Path, topic: &str) -> Result<Log<RealEnv>> {
    let partition = TopicPartition::new(TopicName::new(topic)?, PartitionId(0));
    let checkpoint = |name: &str| -> Result<Offset> {
        let content = std::fs::read(data.join(name)).unwrap_or_else(|_| b"0\n0\n".to_vec());
        Ok(offsets::decode(name, &content)?.get(&partition).copied().unwrap_or(Offset::ZERO))
    };
    let options = OpenOptions {
        recovery_point: checkpoint("recovery-point-offset-checkpoint")?,
        log_start: checkpoint("log-start-offset-checkpoint")?,
        ..OpenOptions::unclean(TimestampMs(1))
    };
    let config = LogConfig { compact: true, may_have_gaps: true, segment_bytes: 1 << 20, ..LogConfig::default() };
    let directory = data.join(format!("{topic}-0"));
    Ok(Log::open(RealEnv, directory, partition, Arc::new(config), options)?.log)
}

/// Every record that Kafka acknowledged is there (in a compacted log: it, or a later one of its key), and every index
/// answers as a scan.
fn check_after_a_kill(log: &Log<RealEnv>, acknowledged: &BTreeMap<Offset, u64>, compacted: bool) -> Result<()> {
    let records = read(log)?;
    ensure!(records.is_sorted_by_key(|record| record.offset), "in order");
    let (mut by_offset, mut by_key) = (BTreeMap::new(), BTreeMap::new());
    for record in &records {
        let number = number_of(record)?;
        by_offset.insert(record.offset, number);
        by_key.insert(number % 23, number);
    }
    for (offset, number) in acknowledged {
        let is_there = by_offset.get(offset) == Some(number);
        let is_replaced = compacted && by_key.get(&(number % 23)).is_some_and(|last| last > number);
        ensure!(is_there || is_replaced, "record {number} at {offset} is lost");
    }
    for wanted in records.iter().step_by(53) {
        let found = log.offset_for_timestamp(wanted.timestamp)?.context("a record that is not older")?;
        let first = records.iter().find(|record| record.timestamp >= wanted.timestamp).context("itself")?;
        ensure!(found.offset == first.offset, "{} instead of {}", found.offset, first.offset);
    }
    Ok(())
}

/// The names that Kafka gives to a partition's directory that is deleted, misplaced, or not complete yet.
const KINDS: [(&str, PartitionDirectoryKind); 3] = [
    ("delete", PartitionDirectoryKind::Deleted),
    ("stray", PartitionDirectoryKind::Stray),
    ("future", PartitionDirectoryKind::Future),
];

/// Copies what Kafka left of a topic: without its indexes, and beside directories of every other kind with the same
/// files in them.
fn copy_without_indexes(data: &Path, topic: &str, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for checkpoint in ["recovery-point-offset-checkpoint", "log-start-offset-checkpoint"] {
        if data.join(checkpoint).exists() {
            std::fs::copy(data.join(checkpoint), to.join(checkpoint))?;
        }
    }
    let live = to.join(format!("{topic}-0"));
    let others = KINDS.map(|(suffix, _)| to.join(format!("{topic}-0.0123456789abcdef0123456789abcdef-{suffix}")));
    for directory in others.iter().chain([&live]) {
        std::fs::create_dir(directory)?;
        for entry in std::fs::read_dir(data.join(format!("{topic}-0")))? {
            let path = entry?.path();
            let is_index = path.extension().is_some_and(|kind| kind == "index" || kind == "timeindex");
            if let Some(name) = path.file_name().filter(|_| !is_index || *directory != live) {
                std::fs::copy(&path, directory.join(name))?;
            }
        }
    }
    Ok(())
}

/// Only the live directory counts as the partition's.
fn check_kinds_of_directories(data: &Path) -> Result<()> {
    let mut found: Vec<_> = LogDirectory::open(RealEnv, data.to_owned())?
        .partitions()?
        .into_iter()
        .map(|found| (found.partition.to_string(), found.kind))
        .collect();
    let mut expected = vec![("plain-0".to_owned(), PartitionDirectoryKind::Live)];
    expected.extend(KINDS.map(|(_, kind)| ("plain-0".to_owned(), kind)));
    let by_kind = |(_, kind): &(String, PartitionDirectoryKind)| format!("{kind:?}");
    found.sort_by_key(by_kind);
    expected.sort_by_key(by_kind);
    ensure!(found == expected, "{found:?}");
    Ok(())
}

/// Kafka's index files are padded when it is killed, and its cleaner leaves files of work that was under way.
fn directories_of_a_killed_kafka_open(jars: &Path) -> Result<()> {
    let folder = tempfile::TempDir::with_prefix("ottla-e2e-kafka-")?;
    let properties = ["log.cleaner.backoff.ms=50", "log.cleaner.dedupe.buffer.size=4000000", "log.roll.ms=600000"];
    let kafka = KafkaBroker::start(jars, folder.path(), &properties)?;
    let (bootstrap, data) = (kafka.bootstrap(), kafka.data());
    // The smallest segments that Kafka 4.3 lets a topic have.
    let compact = ["cleanup.policy=compact", "segment.bytes=1048576", "min.cleanable.dirty.ratio=0.01"];
    let plain = Load::start(&bootstrap, "plain", "none", &["segment.bytes=1048576"])?;
    let compacted = Load::start(&bootstrap, "compacted", "none", &compact)?;
    let segments = |topic: &str| kafka::files(&data.join(format!("{topic}-0")), &["log"]).map(|files| files.len());
    // A new segment has no index before its second batch, and the closed one's was cut: that is 200 bytes.
    let is_padded = |topic: &str| -> Result<bool> {
        let active: Option<PathBuf> = kafka::files(&data.join(format!("{topic}-0")), &["index"])?.pop();
        Ok(std::fs::metadata(active.context("an index")?)?.len() > 1_000_000)
    };
    wait::until("one has segments, the other was cleaned, and the active segments have padded indexes", || {
        let cleaned = std::fs::read_to_string(data.join("cleaner-offset-checkpoint")).unwrap_or_default();
        let is_ready = segments("plain")? > 5 && cleaned.contains("compacted 0 ");
        Ok(is_ready && is_padded("plain")? && is_padded("compacted")?)
    })?;
    kafka.kill()?;
    // The kill may meet a new segment of one of them.
    ensure!(is_padded("plain")? || is_padded("compacted")?, "Kafka padded no index of an active segment");
    let bare = folder.path().join("bare");
    copy_without_indexes(&data, "plain", &bare)?;
    for (topic, load) in [("plain", plain), ("compacted", compacted)] {
        let acknowledged = load.stop()?;
        if topic == "plain" {
            check_kinds_of_directories(&bare)?;
            let log = open_after_a_kill(&bare, topic)?;
            check_after_a_kill(&log, &acknowledged, false).context("without indexes")?;
        }
        ensure!(acknowledged.len() > 100, "{topic}: {} records were acknowledged", acknowledged.len());
        let log = open_after_a_kill(&data, topic)?;
        ensure!(log.topic_id().is_some(), "{topic}: its id is known");
        check_after_a_kill(&log, &acknowledged, topic == "compacted").context(topic)?;
        let left: Vec<_> = kafka::files(&data.join(format!("{topic}-0")), &["cleaned", "swap", "deleted"])?;
        ensure!(left.is_empty(), "{topic}: {left:?} are left");
    }
    Ok(())
}

#[test]
fn directories_of_a_kafka_3_9_that_was_killed_open_here() -> Result<()> {
    kafka::broker_jars().map_or(Ok(()), |jars| directories_of_a_killed_kafka_open(&jars))
}

#[test]
fn directories_of_a_kafka_4_3_that_was_killed_open_here() -> Result<()> {
    kafka::broker_4_jars().map_or(Ok(()), |jars| directories_of_a_killed_kafka_open(&jars))
}

/// A log with three producers: one commits, one aborts, one has an open transaction at the end. Returns the aborted
/// transactions and the first offset of the open one.
fn write_transactions(directory: &Path) -> Result<(Vec<AbortedTransaction>, Offset)> {
    let now = TimestampMs(1_700_000_000_000);
    let config = LogConfig { segment_bytes: 3_000, index_interval_bytes: 300, ..LogConfig::default() };
    let partition = TopicPartition::new(TopicName::new("payments")?, PartitionId(0));
    let mut log = Log::create(RealEnv, directory.to_owned(), partition, TopicId([5; 16]), Arc::new(config), now)?;
    let terms = AppendTerms { verifies: false, ..AppendTerms::CLIENT };
    let write = |log: &mut Log<RealEnv>, producer: i64, epoch: i16, sequence: i32| -> Result<Offset> {
        let batch = BatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(epoch), sequence).transactional();
        let mut batch = batch.record(now, Some(b"key"), Some(b"value")).build()?;
        Ok(log.append_on_terms(&mut batch, LeaderEpoch(2), &terms, now)?.first_offset)
    };
    let mut aborted = Vec::new();
    for epoch in 0..40 {
        let first = write(&mut log, 1, epoch, 0)?;
        write(&mut log, 2, epoch, 0)?;
        write(&mut log, 1, epoch, 1)?;
        for (producer, result) in [(1, TransactionResult::Abort), (2, TransactionResult::Commit)] {
            let marker = EndMarker {
                producer_id: ProducerId(producer),
                producer_epoch: ProducerEpoch(epoch + 1),
                result,
                coordinator_epoch: 7,
            };
            log.append_marker(&marker, 2, LeaderEpoch(2), TimestampType::CreateTime, now)?;
        }
        aborted.push(AbortedTransaction {
            producer_id: ProducerId(1),
            first_offset: first,
            last_offset: first + 3,
            // The other producer's transaction is still open.
            last_stable: first + 1,
        });
    }
    let open = write(&mut log, 3, 0, 0)?;
    log.close(MonotonicMs(1))?;
    Ok((aborted, open))
}

#[test]
fn kafka_reads_the_transactions_that_are_written_here() -> Result<()> {
    let Some(jars) = kafka::broker_jars() else { return Ok(()) };
    let folder = tempfile::TempDir::with_prefix("ottla-e2e-transactions-")?;
    let directory = folder.path().join("payments-0");
    let (aborted, open) = write_transactions(&directory)?;
    ensure!(kafka::files(&directory, &["log"])?.len() > 4, "several segments");
    let dumped = kafka::dump(&jars, std::slice::from_ref(&directory))?.pop().context("a dump")?;
    for kind in ["ABORT", "COMMIT"] {
        let markers = dumped.matches(&format!("endTxnMarker: {kind} coordinatorEpoch: 7")).count();
        ensure!(markers == aborted.len(), "{markers} markers of {kind}");
    }
    let index = kafka::dump_kind(&jars, &directory, "txnindex")?;
    let listed: Vec<&str> = index.lines().filter(|line| line.starts_with("version: ")).collect();
    let expected: Vec<String> = aborted
        .iter()
        .map(|it| {
            format!(
                "version: 0 producerId: {} firstOffset: {} lastOffset: {} lastStableOffset: {}",
                it.producer_id, it.first_offset, it.last_offset, it.last_stable
            )
        })
        .collect();
    ensure!(listed == expected, "{index}");
    let snapshots = kafka::dump_kind(&jars, &directory, "snapshot")?;
    let newest = snapshots.rsplit("Dumping ").next().unwrap_or_default();
    let of = |producer: i64| newest.lines().find(|line| line.starts_with(&format!("producerId: {producer} ")));
    let ended = of(1).context("producer 1")?;
    ensure!(
        ended.contains("producerEpoch: 40 coordinatorEpoch: 7 currentTxnFirstOffset: OptionalLong.empty"),
        "{ended}"
    );
    let ongoing = of(3).context("producer 3")?;
    ensure!(ongoing.contains(&format!("currentTxnFirstOffset: OptionalLong[{open}]")), "{ongoing}");
    Ok(())
}
