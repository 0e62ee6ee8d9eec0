//! Leaders that are elected, killed, and hand over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ottla_metadata::controller::{CreatePartitions, DeleteTopics, NewPartitions, TopicOutcomes, TopicRef};
use ottla_model::{BrokerId, ErrorCode, Revision};
use ottla_rpc::admin::GetNodeRequest;
use ottla_rpc::{AdminClient, CallError, ClusterClient, WatchUpdate};

use crate::harness::{PATIENCE, Quorum, TestBroker, create, create_topic, until_revision};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_alone_leads_at_once_and_survives_a_restart() {
    let mut quorum = Quorum::new(1);
    quorum.start_all().await;
    let client = quorum.client();
    let _broker = TestBroker::start(&client, 1).await;
    let revision = create_topic(&client, "kept").await;
    quorum.stop(1).await;
    quorum.start_all().await;
    quorum.leader().await;
    let admin = AdminClient::new(&quorum.addresses()).expect("addresses");
    let get = GetNodeRequest { path: "/brokers/topics/kept".into(), linearizable: true };
    let node = admin.get_node(get, PATIENCE).await.expect("still there");
    assert!(node.revision > revision, "a new term has its own first entry");
    assert!(node.node.expect("a node").json.contains("\"partitions\""));
    let myid = std::fs::read_to_string(quorum.disks[&1].path().join("myid")).expect("written");
    assert_eq!(myid.trim(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_decide_and_go_on_after_their_leader_is_killed() {
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    let client = quorum.client();
    let _broker = TestBroker::start(&client, 1).await;
    let first = create_topic(&client, "before").await;
    let leader = quorum.leader().await;
    let watched = (1..=3).find(|id| *id != leader).expect("a follower");
    let follower = ClusterClient::new(&[format!("127.0.0.1:{}", quorum.port(watched))]).expect("an address");
    let mut watch = follower.watch(Revision(0), BrokerId(1), None, PATIENCE).await.expect("any member serves it");
    let seen = until_revision(&mut watch, first).await;
    assert!(matches!(seen[0], WatchUpdate::Snapshot { .. }));

    quorum.kill(leader).await;
    let killed = Instant::now();
    let second = create_topic(&client, "after").await;
    let took = killed.elapsed();
    eprintln!("a topic was created {took:?} after the leader was killed");
    assert!(second > first);
    let next = quorum.leader().await;
    assert_ne!(next, leader);
    // The watch of a surviving member continued, without a gap.
    let seen = until_revision(&mut watch, second).await;
    assert!(seen.iter().all(|update| matches!(update, WatchUpdate::Changes { .. })));

    quorum.start(leader).await;
    quorum.caught_up(leader, second).await;
    // A watcher continues from its revision, also on another member.
    let back = ClusterClient::new(&[format!("127.0.0.1:{}", quorum.port(leader))]).expect("an address");
    let mut watch = back.watch(Revision(second), BrokerId(1), None, PATIENCE).await.expect("watched");
    let third = create_topic(&client, "later").await;
    let seen = until_revision(&mut watch, third).await;
    assert!(seen.iter().all(|update| update.revision().0 > second));
}

/// Fault B12: a request whose first try was decided by a leader that was then killed is answered as decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_the_leader_was_killed_finds_its_own_work_done() {
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    let client = quorum.client();
    let _broker = TestBroker::start(&client, 1).await;
    create_topic(&client, "first").await;
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> =
        (0..4).map(|worker| tokio::spawn(create_grow_delete(client.clone(), worker, Arc::clone(&stop)))).collect();
    for _ in 0..5 {
        let leader = quorum.leader().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        quorum.kill(leader).await;
        quorum.start(leader).await;
    }
    quorum.leader().await;
    stop.store(true, Ordering::Release);
    for worker in workers {
        assert!(worker.await.expect("no refusal") > 0);
    }
}

/// Topics of its own, each created, enlarged and deleted. Nobody else touches them, so any refusal of an existing or a
/// missing topic would be of the worker's own earlier try. Returns how many it made.
async fn create_grow_delete(client: ClusterClient, worker: usize, stop: Arc<AtomicBool>) -> usize {
    let mut made = 0;
    while !stop.load(Ordering::Acquire) {
        let name = format!("topic-{worker}-{made}");
        until_taken(|| client.submit(create(&name), PATIENCE)).await;
        let grown = NewPartitions { topic: name.clone(), total: 3, assignments: None };
        let grow = CreatePartitions { topics: vec![grown], validate_only: false };
        until_taken(|| client.submit(grow.clone(), PATIENCE)).await;
        let delete = DeleteTopics { topics: vec![TopicRef::Name(name.clone())] };
        until_taken(|| client.submit(delete.clone(), PATIENCE)).await;
        made += 1;
    }
    made
}

/// A new request for as long as the quorum refuses it because the only broker is not ready after an election.
async fn until_taken<F>(request: impl Fn() -> F)
where
    F: Future<Output = Result<TopicOutcomes, CallError>>,
{
    loop {
        let mut outcomes = request().await.expect("decided within the deadline");
        match outcomes.topics.remove(0).refusal {
            None => return,
            Some(refusal) if refusal.error == ErrorCode::InvalidReplicationFactor => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Some(refusal) => panic!("{refusal}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_leader_hands_over() {
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    let leader = quorum.leader().await;
    let stopping = Instant::now();
    quorum.stop(leader).await;
    let next = quorum.leader().await;
    assert_ne!(next, leader);
    eprintln!("handed over and stopped in {:?}", stopping.elapsed());
    for _ in 0..2 {
        let leader = quorum.leader().await;
        quorum.stop(leader).await;
        quorum.start(leader).await;
    }
    quorum.leader().await;
}
