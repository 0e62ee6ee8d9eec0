//! Other people's clients against a real cluster of three coordinators and three brokers.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Cluster, clients};

/// Tests of this file that run at the same time share one cluster; it ends with the last of them.
fn cluster() -> Result<Arc<Cluster>> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return Ok(running);
    }
    let cluster = Arc::new(Cluster::start()?);
    *shared = Arc::downgrade(&cluster);
    Ok(cluster)
}

#[test]
fn confluent_kafka_round_trips() -> Result<()> {
    let cluster = cluster()?;
    let out = clients::run_script("confluent_roundtrip.py", &[&cluster.bootstrap()])?;
    ensure!(out.trim().ends_with("ok"), "{out}");
    Ok(())
}

#[test]
fn kafka_python_round_trips() -> Result<()> {
    let cluster = cluster()?;
    let out = clients::run_script("kafka_python_roundtrip.py", &[&cluster.bootstrap()])?;
    ensure!(out.trim().ends_with("ok"), "{out}");
    Ok(())
}

#[test]
fn kcat_round_trips_with_every_codec() -> Result<()> {
    ensure!(clients::have("kcat"), "kcat is not installed: `make test` installs it");
    let cluster = cluster()?;
    let bootstrap = cluster.bootstrap();
    clients::run_script("create_topic.py", &[&bootstrap, "kcat-topic", "2"])?;
    cluster.settle()?;
    let listing = clients::run(&mut clients::kcat(&["-b", &bootstrap, "-L", "-t", "kcat-topic"]))?;
    ensure!(listing.contains("3 brokers:") && listing.contains("topic \"kcat-topic\" with 2 partitions"), "{listing}");
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let send = format!(
            "seq 1 100 | sed 's/^/{codec}-/' | kcat -b {bootstrap} -P -t kcat-topic -p 0 -z {codec} -X acks=all"
        );
        clients::run(Command::new("sh").args(["-c", &send]))?;
    }
    let read = clients::run(&mut clients::kcat(&[
        "-b",
        &bootstrap,
        "-C",
        "-t",
        "kcat-topic",
        "-p",
        "0",
        "-e",
        "-q",
        "-o",
        "beginning",
    ]))?;
    let expected: Vec<String> = ["none", "gzip", "snappy", "lz4", "zstd"]
        .iter()
        .flat_map(|codec| (1..=100).map(move |n| format!("{codec}-{n}")))
        .collect();
    ensure!(read.lines().eq(expected.iter().map(String::as_str)), "kcat read {} lines", read.lines().count());
    Ok(())
}

/// B19: librdkafka asks once for the stored offset of a partition that was assigned by hand. In a fresh cluster the
/// coordinator is being made at that moment.
#[test]
fn the_first_consumer_of_ten_fresh_clusters_reads() -> Result<()> {
    for _ in 0..10 {
        let cluster = Cluster::start()?;
        let at = cluster.bootstrap();
        let send = format!("echo hello | kcat -b {at} -P -t fresh -p 0 -X acks=all");
        clients::run(Command::new("sh").args(["-c", &send]))?;
        let group = ["-X", "group.id=first", "-X", "auto.offset.reset=earliest"];
        let partition = ["-b", &at, "-C", "-t", "fresh", "-p", "0", "-o", "stored", "-c", "1", "-q"];
        let read = clients::run(clients::kcat(&partition).args(group))?;
        ensure!(read == "hello\n", "{read}");
    }
    Ok(())
}

/// Kafka's own tools and Java producer, where the Makefile could bring their jars (`OTTLA_KAFKA_JARS`).
#[test]
fn kafkas_own_tools_round_trip() -> Result<()> {
    if std::env::var_os("OTTLA_KAFKA_JARS").is_none() {
        ottla_test_support::skipped("OTTLA_KAFKA_JARS names no folder with Apache Kafka's jars");
        return Ok(());
    }
    let cluster = cluster()?;
    let bootstrap = cluster.bootstrap();
    let java = |class: &str, arguments: &[&str]| -> Result<String> {
        clients::run(&mut clients::java(class, arguments).context("the jars were there")?)
    };
    let topics = "org.apache.kafka.tools.TopicCommand";
    let server = ["--bootstrap-server", &bootstrap];
    let created = java(
        topics,
        &[&server[..], &["--create", "--topic", "java-topic", "--partitions", "2", "--replication-factor", "3"]]
            .concat(),
    )?;
    ensure!(created.contains("Created topic java-topic."), "{created}");
    cluster.settle()?;
    let list = java(topics, &[&server[..], &["--list"]].concat())?;
    ensure!(list.lines().any(|line| line == "java-topic"), "{list}");
    let described = java(topics, &[&server[..], &["--describe", "--topic", "java-topic"]].concat())?;
    ensure!(described.contains("PartitionCount: 2\tReplicationFactor: 3"), "{described}");
    ensure!(described.lines().filter(|line| line.contains("Leader: ")).count() == 2, "{described}");
    let properties = format!("bootstrap.servers={bootstrap}");
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let compression = format!("compression.type={codec}");
        let out = java(
            "org.apache.kafka.tools.ProducerPerformance",
            &[
                "--topic",
                "java-topic",
                "--num-records",
                "1000",
                "--record-size",
                "100",
                "--throughput",
                "-1",
                "--producer-props",
                &properties,
                &compression,
                "acks=all",
            ],
        )?;
        ensure!(out.contains("1000 records sent"), "{out}");
    }
    let ends = java("org.apache.kafka.tools.GetOffsetShell", &[&server[..], &["--topic", "java-topic"]].concat())?;
    let total: i64 = ends.lines().filter_map(|line| line.rsplit(':').next()?.parse::<i64>().ok()).sum();
    ensure!(total == 5000, "{ends}");
    let read = clients::run(&mut clients::kcat(&[
        "-b",
        &bootstrap,
        "-C",
        "-t",
        "java-topic",
        "-e",
        "-q",
        "-o",
        "beginning",
        "-f",
        "%S\n",
    ]))?;
    ensure!(read.lines().count() == 5000 && read.lines().all(|size| size == "100"), "{} lines", read.lines().count());
    java(topics, &[&server[..], &["--delete", "--topic", "java-topic"]].concat())?;
    cluster.settle()?;
    let list = java(topics, &[&server[..], &["--list"]].concat())?;
    ensure!(!list.lines().any(|line| line == "java-topic"), "{list}");
    Ok(())
}
