//! Chroots: clusters that share coordinators and nothing else.

use ottla_rpc::admin::{GetNodeRequest, ListNodesRequest};
use ottla_rpc::{AdminClient, ClusterClient};

use crate::harness::{PATIENCE, Quorum, TestBroker, create_topic, zookeeper_client};

fn below(addresses: &[String], chroot: &str) -> Vec<String> {
    addresses.iter().map(|address| format!("{address}{chroot}")).collect()
}

fn client(addresses: &[String], chroot: &str) -> ClusterClient {
    ClusterClient::new(&below(addresses, chroot)).expect("addresses")
}

async fn topics(addresses: &[String], chroot: &str) -> Vec<String> {
    let admin = AdminClient::new(&below(addresses, chroot)).expect("addresses");
    let request = ListNodesRequest { path: "/brokers/topics".to_owned(), recursive: false, linearizable: true };
    admin.list_nodes(request, PATIENCE).await.expect("listed").names
}

async fn cluster_id(addresses: &[String], chroot: &str) -> String {
    let admin = AdminClient::new(&below(addresses, chroot)).expect("addresses");
    let request = GetNodeRequest { path: "/cluster/id".to_owned(), linearizable: true };
    admin.get_node(request, PATIENCE).await.expect("read").node.expect("is there").json
}

/// The same broker id in each; what one creates, no other one has; and all are there again after a restart of every
/// coordinator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_of_different_chroots_stay_apart() {
    const CHROOTS: [&str; 3] = ["", "/one", "/two/deep"];
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    let addresses = quorum.addresses();
    let mut ids = Vec::new();
    for chroot in CHROOTS {
        let client = client(&addresses, chroot);
        let _broker = TestBroker::start(&client, 1).await;
        create_topic(&client, &format!("of{}", chroot.replace('/', "-"))).await;
        ids.push(cluster_id(&addresses, chroot).await);
    }
    assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2], "{ids:?}");
    for id in 1..=3 {
        quorum.stop(id).await;
    }
    quorum.start_all().await;
    for (chroot, id) in CHROOTS.iter().zip(&ids) {
        assert_eq!(topics(&addresses, chroot).await, [format!("of{}", chroot.replace('/', "-"))]);
        assert_eq!(cluster_id(&addresses, chroot).await, *id);
    }
    for id in 1..=3 {
        quorum.stop(id).await;
    }
}

/// Coordinators without a list learn it from a broker of a chroot, also for the root, which monitors look at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_of_a_chroot_hands_over_the_list_of_coordinators() {
    let mut quorum = Quorum::new(3);
    for id in 1..=3 {
        quorum.start_with(id, None).await;
    }
    let addresses = quorum.addresses();
    let client = client(&addresses, "/kafka");
    let _broker = TestBroker::start(&client, 1).await;
    create_topic(&client, "t").await;
    assert_eq!(topics(&addresses, "/kafka").await, ["t"]);
    quorum.leader().await;
    assert!(topics(&addresses, "").await.is_empty());
    for id in 1..=3 {
        quorum.stop(id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_begin_no_cluster_and_a_coordinator_holds_a_bounded_number() {
    const CHROOTS_MAX: usize = 16;
    let mut quorum = Quorum::new(1);
    quorum.start_all().await;
    let addresses = quorum.addresses();
    let admin = AdminClient::new(&below(&addresses, "/nobody")).expect("addresses");
    let request = ListNodesRequest { path: "/".to_owned(), recursive: false, linearizable: true };
    let refused = admin.list_nodes(request, PATIENCE).await.expect_err("no broker has come").to_string();
    assert!(refused.contains("no broker has connected with the chroot /nobody"), "{refused}");
    for number in 0..CHROOTS_MAX {
        let client = client(&addresses, &format!("/c{number}"));
        client.quorum_progress(PATIENCE).await.expect("a quorum of its own");
    }
    let refused = client(&addresses, "/more").quorum_progress(PATIENCE).await.expect_err("one too many").to_string();
    assert!(refused.contains("hold 16 already"), "{refused}");
    quorum.stop(1).await;
}

/// A cluster below a chroot may have a larger revision than that of the root.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zookeeper_client_of_a_chroot_comes_back() {
    const TOPICS: usize = 20;
    let mut quorum = Quorum::new(1);
    quorum.start_all().await;
    quorum.leader().await;
    let addresses = quorum.addresses();
    let client = client(&addresses, "/one");
    let _broker = TestBroker::start(&client, 1).await;
    let mut revisions = Vec::new();
    for number in 0..TOPICS {
        revisions.push(create_topic(&client, &format!("t{number}")).await);
    }
    // The coordinator shows it: another topic was created after it.
    let seen = revisions[TOPICS - 2];
    let of_root = quorum.status_of(1).await.expect("a status").applied_revision;
    assert!(seen > of_root, "{seen} in the chroot, {of_root} at the root");
    assert!(zookeeper_client(&addresses[0], seen).await.is_some());
    let ahead = revisions[TOPICS - 1] + 1_000;
    assert!(zookeeper_client(&addresses[0], ahead).await.is_none(), "it has seen what is nowhere here");
    quorum.stop(1).await;
}
