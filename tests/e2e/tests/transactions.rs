//! Transactions with unchanged clients, on a real cluster: outcomes, isolation, fencing, offsets in transactions, and
//! records that are copied exactly once while brokers are killed.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ottla_client::{Connection, ConnectionConfig};
use ottla_e2e::cluster::ended_by;
use ottla_e2e::{Cluster, ClusterOptions, Node, clients};
use ottla_model::{PartitionId, ProducerEpoch, ProducerId, TimestampMs};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::produce::ProduceCall;
use ottla_protocol::record_batch::BatchBuilder;

/// Groups form at once: the tests wait for members otherwise.
fn options() -> ClusterOptions {
    ClusterOptions::default().with("group.initial.rebalance.delay.ms", "0")
}

#[test]
fn confluent_kafka_commits_aborts_and_fences() -> Result<()> {
    let cluster = Cluster::start_with(options())?;
    let out = clients::run_script("confluent_transactions.py", &[&cluster.bootstrap()])?;
    ensure!(out.trim().ends_with("ok"), "{out}");
    Ok(())
}

/// The Java client, which has an epoch for each transaction (KIP-890). The JDK runs the source.
#[test]
fn java_copies_each_record_once_while_brokers_are_killed() -> Result<()> {
    /// Afterwards it is left alone: a machine on which a broker takes as long to come back as it lives would never let
    /// it come to the end.
    const KILLS: usize = 9;
    let mut cluster = Cluster::start_with(options())?;
    let bootstrap = cluster.bootstrap();
    for topic in ["copied-from", "copied-to"] {
        clients::run_script("create_topic.py", &[&bootstrap, topic, "4"])?;
    }
    let source = clients::script("Transactions.java").to_string_lossy().into_owned();
    let arguments = [&bootstrap, "copier", "copied-from", "copied-to", "1500"];
    let Some(mut copier) = clients::java(&source, &arguments) else {
        ottla_test_support::skipped("the jars of Kafka's clients are not there");
        return Ok(());
    };
    let is_broker = |node: &Node| matches!(node, Node::Broker(_));
    let brokers: Vec<Node> = cluster.nodes().into_iter().filter(is_broker).collect();
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| {
            let out = clients::run(&mut copier);
            has_ended.store(true, Ordering::SeqCst);
            out
        });
        // Coordinators of transactions and of the group, and leaders, die in turn.
        for turn in 0.. {
            std::thread::sleep(Duration::from_secs(5));
            if has_ended.load(Ordering::SeqCst) {
                break;
            }
            if turn < KILLS {
                cluster.bounce(brokers[turn % brokers.len()])?;
            }
        }
        let out = copying.join().ok().context("the copier's thread")??;
        ensure!(out.trim().ends_with("ok"), "{out}");
        Ok(())
    })
}

/// As Kafka's system tests do it: Kafka's own copier reads a partition to its end and dies again and again, and so do
/// the brokers.
#[test]
fn kafkas_own_copier_bounces_and_copies_each_record_once() -> Result<()> {
    const RECORDS: usize = 40_000;
    const BOUNCES: i32 = 5;
    let mut cluster = Cluster::start_with(options())?;
    let at = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&at, "bounced-from", "1"])?;
    clients::run_script("create_topic.py", &[&at, "bounced-to", "3"])?;
    let arguments = [
        ["--broker-list", &at],
        ["--input-topic", "bounced-from"],
        ["--input-partition", "0"],
        ["--output-topic", "bounced-to"],
        ["--consumer-group", "bouncing"],
        ["--transactional-id", "bouncing"],
        ["--transaction-size", "40"],
    ];
    let arguments = [&arguments.concat()[..], &["--enable-random-aborts", "--use-group-metadata"]].concat();
    let Some(mut copier) = clients::java("org.apache.kafka.tools.TransactionalMessageCopier", &arguments) else {
        ottla_test_support::skipped("the jars of Kafka's clients are not there");
        return Ok(());
    };
    let lines: Vec<String> = (0..RECORDS).map(|number| format!("{number:05}")).collect();
    let mut producer = clients::tool("kafka-console-producer", &at, &["--topic", "bounced-from"])?;
    let mut writing = producer.stdin(Stdio::piped()).spawn()?;
    writing.stdin.take().context("its standard input")?.write_all((lines.join("\n") + "\n").as_bytes())?;
    ensure!(writing.wait()?.success(), "the records to copy are there");
    let log = cluster.folder().join("copier.log");
    copier.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
    let deadline = Instant::now() + Duration::from_secs(240);
    for turn in 0.. {
        let mut copying = copier.spawn()?;
        // After the bounces it may come to the end, on a slow machine too.
        let until = if turn < BOUNCES { Instant::now() + Duration::from_secs(6) } else { deadline };
        // One that died by itself, of a broker's death say, is started again like one that was killed.
        if ended_by(&mut copying, until)?.is_some_and(|status| status.success()) {
            break;
        }
        let is_late = Instant::now() > deadline;
        ensure!(!is_late, "the copier does not come to the end:\n{}", fs::read_to_string(&log).unwrap_or_default());
        let _ = copying.kill();
        copying.wait()?;
        // One that dies later is started again with all brokers there, which it needs to come to the end.
        if turn < BOUNCES {
            cluster.bounce(Node::Broker(turn % 3 + 1))?;
        }
    }
    let read = ["--from-beginning", "--isolation-level", "read_committed", "--timeout-ms", "10000", "--topic"];
    for topic in ["bounced-from", "bounced-to"] {
        let out = clients::tool("kafka-console-consumer", &at, &[&read[..], &[topic]].concat())?.output()?;
        let mut found: Vec<String> = String::from_utf8(out.stdout)?.lines().map(str::to_owned).collect();
        found.sort();
        let first = found.iter().zip(&lines).find(|(found, expected)| found != expected);
        let err = String::from_utf8_lossy(&out.stderr);
        let count = found.len();
        ensure!(found == lines, "{count} of {RECORDS} lines are in {topic}; first difference: {first:?}; {err}");
    }
    Ok(())
}

/// The lines of `kafka-transactions`, as cells without the blanks around them.
fn transactions(bootstrap: &str, arguments: &[&str]) -> Result<Vec<Vec<String>>> {
    let out = clients::run(&mut clients::tool("kafka-transactions", bootstrap, arguments)?)?;
    Ok(rows(&out))
}

fn rows(out: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_end_matches('\t').split('\t').map(|cell| cell.trim().to_owned()).collect();
    out.lines().map(cells).collect()
}

/// The same command by Kafka's own tool, where it can be had.
fn transactions_of_kafka(bootstrap: &str, arguments: &[&str]) -> Result<Option<Vec<Vec<String>>>> {
    let arguments = [&["--bootstrap-server", bootstrap], arguments].concat();
    let Some(mut command) = clients::java("org.apache.kafka.tools.TransactionsCommand", &arguments) else {
        ottla_test_support::skipped("the jars of Kafka's clients are not there");
        return Ok(None);
    };
    Ok(Some(rows(&clients::run(&mut command)?)))
}

#[test]
fn an_open_transaction_is_shown_and_ended_by_the_tool() -> Result<()> {
    let cluster = Cluster::start_with(options())?;
    let at = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&at, "paid", "2"])?;
    for id in ["killed-1", "killed-2"] {
        clients::run_script("open_transaction.py", &[&at, "paid", id])?;
    }
    for arguments in [
        &["list"][..],
        &["list", "--transactional-id-pattern", ".*-2"],
        &["describe-producers", "--topic", "paid", "--partition", "0"],
        // The coordinator will end them.
        &["find-hanging", "--topic", "paid", "--max-transaction-timeout", "0"],
    ] {
        let shown = transactions(&at, arguments)?;
        if let Some(expected) = transactions_of_kafka(&at, arguments)? {
            ensure!(shown == expected, "{arguments:?}: {shown:?} is not {expected:?}");
        }
    }
    let listed = transactions(&at, &["list", "--transactional-id-pattern", ".*-2"])?;
    ensure!(listed.len() == 2 && listed[1][0] == "killed-2" && listed[1][3] == "Ongoing", "{listed:?}");
    let described = transactions(&at, &["describe", "--transactional-id", "killed-1"])?;
    ensure!(described[1][4] == "Ongoing" && described[1][8] == "paid-0", "{described:?}");
    let hanging = transactions(&at, &["find-hanging", "--topic", "paid", "--max-transaction-timeout", "0"])?;
    ensure!(hanging.len() == 1, "{hanging:?}");

    transactions(&at, &["forceTerminateTransaction", "--transactionalId", "killed-1"])?;
    let state =
        |id: &str| Ok::<_, anyhow::Error>(transactions(&at, &["describe", "--transactional-id", id])?[1][4].clone());
    let ended = state("killed-1")?;
    // The abort is over before the id has its new producer epoch.
    ensure!(ended == "Empty", "{ended}");
    let open = |at: &str| -> Result<Vec<String>> {
        let producers = transactions(at, &["describe-producers", "--topic", "paid", "--partition", "0"])?;
        Ok(producers.into_iter().skip(1).map(|row| row[5].clone()).filter(|start| start != "None").collect())
    };
    let started = open(&at)?;
    ensure!(started.len() == 1, "{started:?}");
    let from = ["abort", "--topic", "paid", "--partition", "0", "--start-offset", &started[0]];
    transactions(&at, &from)?;
    ensure!(open(&at)?.is_empty(), "a marker ended the transaction in its partition");
    let refused = clients::tool("kafka-transactions", &at, &from)?.output()?;
    let text = String::from_utf8(refused.stderr)?;
    ensure!(!refused.status.success() && text.starts_with("Could not find any open transactions"), "{text}");
    Ok(())
}

/// A batch of a transaction that no coordinator knows, as clients and brokers of before KIP-890 could leave behind.
#[test]
fn a_hanging_transaction_is_found_and_aborted() -> Result<()> {
    let small = ClusterOptions { coordinators: 1, brokers: 1, ..options() };
    let cluster = Cluster::start_with(small.with("transaction.partition.verification.enable", "false"))?;
    let at = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&at, "stuck", "1", "1"])?;
    let batch = BatchBuilder::new().producer(ProducerId(77_777), ProducerEpoch(3), 0).transactional();
    let batch = batch.record(TimestampMs(1_700_000_000_000), None, Some(b"value")).build()?;
    let call = ProduceCall {
        transactional_id: Some("forgotten".to_owned()),
        acks: -1,
        timeout_ms: 30_000,
        topics: vec![(TopicRef::Name("stuck".to_owned()), vec![(PartitionId(0), batch.freeze())])],
    };
    let produced = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let address = at.split(',').next().unwrap_or_default();
        Connection::connect(address, ConnectionConfig::default()).await?.produce(3, &call).await
    });
    let response = produced?.context("an answer")?;
    let partitions: Vec<_> = response.topics.iter().flat_map(|topic| &topic.partitions).collect();
    ensure!(partitions.len() == 1 && partitions[0].error.is_ok(), "{partitions:?}");
    let search = ["find-hanging", "--topic", "stuck"];
    let found = transactions(&at, &search)?;
    ensure!(found.len() == 2 && found[1][..6] == ["stuck", "0", "77777", "3", "-1", "0"], "{found:?}");
    if let Some(expected) = transactions_of_kafka(&at, &search)? {
        ensure!(found[1][..7] == expected[1][..7], "{found:?} is not {expected:?}");
    }
    transactions(&at, &["abort", "--topic", "stuck", "--partition", "0", "--start-offset", "0"])?;
    ensure!(transactions(&at, &search)?.len() == 1, "it was ended");
    Ok(())
}
