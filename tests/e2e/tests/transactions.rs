//! Transactions with unchanged clients, on a real cluster: outcomes, isolation, fencing, offsets in transactions, and
//! records that are copied exactly once while brokers are killed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ottla_e2e::{Cluster, ClusterOptions, Node, clients};

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
            let node = brokers[turn % brokers.len()];
            cluster.kill(node)?;
            cluster.spawn(node)?;
            cluster.wait_ready()?;
        }
        let out = copying.join().ok().context("the copier's thread")??;
        ensure!(out.trim().ends_with("ok"), "{out}");
        Ok(())
    })
}
