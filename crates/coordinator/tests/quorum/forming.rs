//! How coordinators find each other, and whom they refuse.

use std::time::Duration;

use crate::harness::{PATIENCE, Quorum, bind, register};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn differing_lists_and_duplicate_ids_are_refused_by_name() {
    let mut quorum = Quorum::new(3);
    let two = format!("1@127.0.0.1:{},2@127.0.0.1:{}", quorum.port(1), quorum.port(2));
    quorum.start(1).await;
    quorum.start_with(2, Some(two)).await;
    // The coordinator that asks first stops; the other one logs the conflict and keeps waiting.
    let one = quorum.processes.remove(&1).expect("started");
    let two = quorum.processes.remove(&2).expect("started");
    let (error, _, _) =
        tokio::time::timeout(PATIENCE, futures::future::select_all([one.task, two.task])).await.expect("in time");
    let line = error.expect("no panic").expect_err("refused").to_string();
    assert!(line.contains("the list of servers is"), "{line}");

    // Two processes that both call themselves 1.
    let mut quorum = Quorum::new(2);
    quorum.start(1).await;
    let data = tempfile::tempdir().expect("a directory");
    let mut config = quorum.config(1, data.path(), Some(quorum.servers()));
    config.client_port = Some(quorum.port(2));
    config.peer_port = None;
    let impostor = bind(config).await;
    let impostor = tokio::spawn(impostor.run(std::future::pending()));
    let error = tokio::time::timeout(PATIENCE, impostor).await.expect("in time").expect("no panic");
    let line = error.expect_err("refused").to_string();
    // It meets the real one, or, where its list has another, itself.
    assert!(line.contains("coordinator 1 is at") || line.contains("but coordinator 1 answers there"), "{line}");
}

/// Coordinators without a configured list, as in old compose files: the first broker sends its own list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untold_ensemble_forms_by_the_first_brokers_list() {
    let mut quorum = Quorum::new(3);
    for id in 1..=3 {
        quorum.start_with(id, None).await;
    }
    let client = quorum.client();
    register(&client, 1).await;
    let leader = quorum.leader().await;
    let status = quorum.status_of(leader).await.expect("a status");
    assert_eq!(status.members.len(), 3);
    for id in 1..=3 {
        quorum.caught_up(id, status.committed_revision).await;
    }
    // It stays formed.
    for id in 1..=3 {
        quorum.kill(id).await;
    }
    for id in 1..=3 {
        quorum.start_with(id, None).await;
    }
    quorum.leader().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untold_coordinator_forms_alone_by_a_list_of_one() {
    let mut quorum = Quorum::new(1);
    quorum.start_with(1, None).await;
    register(&quorum.client(), 1).await;
    assert_eq!(quorum.leader().await, 1);
}

/// If a coordinator of another cluster answers at a member's address, the members of this cluster continue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_coordinator_at_a_members_address_harms_nobody() {
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    let leader = quorum.leader().await;
    quorum.caught_up(3, 2).await;
    let gone = (1..=3).find(|id| *id != leader).expect("a follower");
    quorum.kill(gone).await;
    // Alone in its own cluster, under the same id, at the same address.
    let data = tempfile::tempdir().expect("a directory");
    let config = quorum.config(gone, data.path(), Some(format!("{gone}@127.0.0.1:{}", quorum.port(gone))));
    let alien = tokio::spawn(bind(config).await.run(std::future::pending()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    for (id, process) in &quorum.processes {
        assert!(!process.task.is_finished(), "coordinator {id} stopped");
    }
    alien.abort();
    let _ = alien.await;
    quorum.start(gone).await;
    let committed = quorum.status_of(quorum.leader().await).await.expect("a status").committed_revision;
    quorum.caught_up(gone, committed).await;
}
