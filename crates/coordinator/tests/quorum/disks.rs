//! Restarts, snapshots, disks that are lost or in use.

use ottla_coordinator::Coordinator;
use ottla_model::{BrokerId, Revision};
use ottla_rpc::{ClusterClient, WatchUpdate};

use crate::harness::{PATIENCE, Quorum, TestBroker, create_topic, until_revision};
use ottla_test_support::free_ports;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_restart_from_their_disks() {
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    let client = quorum.client();
    let broker = TestBroker::start(&client, 1).await;
    let revision = create_topic(&client, "kept").await;
    let cluster_id = quorum.status_of(quorum.leader().await).await.expect("a status").cluster_id;
    assert_eq!(cluster_id.len(), 22);
    drop(broker);
    for id in 1..=3 {
        quorum.kill(id).await;
    }
    quorum.start_all().await;
    quorum.leader().await;
    for id in 1..=3 {
        quorum.caught_up(id, revision).await;
        assert_eq!(quorum.status_of(id).await.expect("a status").cluster_id, cluster_id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_takes_a_snapshot() {
    let mut quorum = Quorum::new(3);
    // The log keeps next to nothing.
    quorum.flags.push(("snapshot.bytes".into(), "2000".into()));
    quorum.start_all().await;
    let client = quorum.client();
    let _broker = TestBroker::start(&client, 1).await;
    create_topic(&client, "first").await;
    let leader = quorum.leader().await;
    let lagging = (1..=3).find(|id| *id != leader).expect("a follower");
    quorum.kill(lagging).await;
    let mut revision = 0;
    for number in 0..40 {
        revision = create_topic(&client, &format!("topic-{number}")).await;
    }
    quorum.start(lagging).await;
    quorum.caught_up(lagging, revision).await;
    let at = ClusterClient::new(&[format!("127.0.0.1:{}", quorum.port(lagging))]).expect("an address");
    let mut watch = at.watch(Revision(0), BrokerId::NONE, None, PATIENCE).await.expect("watched");
    let seen = until_revision(&mut watch, revision).await;
    let WatchUpdate::Snapshot { nodes, .. } = &seen[0] else { panic!("a snapshot comes first") };
    let topics = nodes.iter().filter(|(path, _)| path.as_str().contains("topic-")).count();
    assert!(topics >= 40 * 3, "each topic and its two partitions: {topics}");
    // It continues from there.
    let revision = create_topic(&client, "afterwards").await;
    quorum.caught_up(lagging, revision).await;
}

/// Scenario 20: an empty vote memory under an id that has voted could elect two leaders in one term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_disk_is_refused_by_name() {
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    let leader = quorum.leader().await;
    let loser = (1..=3).find(|id| *id != leader).expect("a follower");
    quorum.caught_up(loser, 1).await;
    quorum.kill(loser).await;
    quorum.disks.remove(&loser);
    quorum.start(loser).await;
    let process = quorum.processes.remove(&loser).expect("started");
    let ended = tokio::time::timeout(PATIENCE, process.task).await.expect("it must not wait for ever");
    let error = ended.expect("no panic").expect_err("refused");
    let line = error.to_string();
    assert!(line.contains(&format!("coordinator {loser} voted with disk")), "{line}");
    assert!(!line.contains('\n'));
    // The others do without.
    quorum.leader().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_is_named() {
    let mut quorum = Quorum::new(1);
    quorum.start_all().await;
    quorum.leader().await;
    let same_disk = quorum.config(1, quorum.disks[&1].path(), None);
    let error = Coordinator::bind(same_disk).await.err().expect("in use").to_string();
    assert!(error.starts_with("data.dir=") && error.contains("another process"), "{error}");
    let other = tempfile::tempdir().expect("a directory");
    let same_port = quorum.config(1, other.path(), None);
    let error = Coordinator::bind(same_port).await.err().expect("in use").to_string();
    assert!(error.starts_with(&format!("client.port={}", quorum.port(1))), "{error}");
    quorum.stop(1).await;
    let mut other_id = quorum.config(1, quorum.disks[&1].path(), None);
    other_id.id = Some(ottla_model::CoordinatorId(7));
    let error = Coordinator::bind(other_id).await.err().expect("not its disk").to_string();
    assert!(error.starts_with("id=7") && error.contains("coordinator 1"), "{error}");
}

/// A process that ends while one of its threads uses RocksDB may crash on its way out; and whoever takes its place must
/// find the disk free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_uses_the_disk_once_a_coordinator_is_gone() {
    let mut quorum = Quorum::new(1);
    // Snapshots are made all the time.
    quorum.flags.push(("snapshot.bytes".into(), "500".into()));
    for round in 0..6 {
        quorum.start(1).await;
        let client = quorum.client();
        let broker = TestBroker::start(&client, 1).await;
        for number in 0..5 {
            create_topic(&client, &format!("topic-{round}-{number}")).await;
        }
        drop(broker);
        match round % 2 {
            0 => quorum.kill(1).await,
            _ => quorum.stop(1).await,
        }
        // Its port may not be free yet.
        let mut config = quorum.config(1, quorum.disks[&1].path(), None);
        config.client_port = Some(free_ports(1).expect("a free port")[0]);
        if let Err(error) = Coordinator::bind(config).await {
            panic!("round {round}: {error}");
        }
    }
}
