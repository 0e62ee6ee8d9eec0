//! People's tools: any coordinator serves them, and ZooKeeper's four-letter words are answered.

use std::time::Duration;

use ottla_rpc::AdminClient;
use ottla_rpc::admin::{CreateTopicRequest, GetNodeRequest, QuorumStatusRequest};

use crate::harness::{PATIENCE, Quorum, TestBroker, create_topic, zookeeper_client};

/// Any coordinator accepts a change and forwards it to the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_need_not_know_who_leads() {
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    let client = quorum.client();
    let _broker = TestBroker::start(&client, 1).await;
    create_topic(&client, "first").await;
    for id in 1..=3 {
        let admin = AdminClient::new(&[format!("127.0.0.1:{}", quorum.port(id))]).expect("an address");
        let request = CreateTopicRequest { name: format!("by-{id}"), ..CreateTopicRequest::default() };
        let created = admin.create_topic(request.clone(), PATIENCE).await.expect("created");
        assert_eq!(created.topic.expect("described").partitions.len(), 1);
        // A read of the quorum sees it everywhere, also where it is not applied yet.
        for other in 1..=3 {
            let other = AdminClient::new(&[format!("127.0.0.1:{}", quorum.port(other))]).expect("an address");
            let get = GetNodeRequest { path: format!("/brokers/topics/by-{id}"), linearizable: true };
            other.get_node(get, PATIENCE).await.expect("visible");
        }
        let again = admin.create_topic(request, PATIENCE).await.expect_err("exists");
        assert!(again.to_string().contains("already exists"), "{again}");
    }
}

/// What a client hears that says this and ends its side, in `pieces`.
async fn say(address: &str, pieces: &[&str]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    for piece in pieces {
        stream.write_all(piece.as_bytes()).await.expect("written");
        stream.flush().await.expect("written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answer = String::new();
    // A connection that is turned away may be reset.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_letter_words_are_answered_as_zookeeper_does() {
    let mut quorum = Quorum::new(1);
    // It waits for a broker's list: it is well, and serves nothing yet.
    quorum.start_with(1, None).await;
    let address = quorum.addresses().remove(0);
    assert_eq!(say(&address, &["ruok"]).await, "imok");
    assert_eq!(say(&address, &["srvr\n"]).await, "This ZooKeeper instance is not currently serving requests\n");
    assert_eq!(say(&address, &["isro"]).await, "null");
    quorum.stop(1).await;

    quorum.disks.clear();
    quorum.start(1).await;
    let serving = async {
        while say(&address, &["isro"]).await != "rw" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, serving).await.expect("a leader");
    assert_eq!(say(&address, &["ru", "ok\n"]).await, "imok");
    let server = say(&address, &["srvr"]).await;
    let lines: Vec<_> = server.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    let expected = "Zookeeper version,Latency min/avg/max,Received,Sent,Connections,Outstanding,Zxid,Mode,Node count";
    assert_eq!(lines.join(","), expected);
    assert!(server.contains("\nMode: standalone\n"), "{server}");
    assert!(say(&address, &["stat"]).await.contains("\nClients:\n /127.0.0.1:"));
    let monitor = say(&address, &["mntr"]).await;
    assert!(monitor.lines().all(|line| line.starts_with("zk_") && line.contains('\t')), "{monitor}");
    assert!(monitor.contains("zk_server_state\tstandalone\n"), "{monitor}");
    assert!(say(&address, &["conf"]).await.contains(&format!("server.1={address}:participant\n")));
    let bounds = "\ntickTime=2000\nmaxClientCnxns=60\nminSessionTimeout=4000\nmaxSessionTimeout=40000\nserverId=1\n";
    assert!(say(&address, &["conf"]).await.contains(bounds));
    let other = zookeeper_client(&address, 0).await.expect("a session");
    let listed = format!(" /{}[1](queued=0,recved=0,sent=0)\n /127.0.0.1:", other.local_addr().expect("bound"));
    for word in ["cons", "stat"] {
        let connections = say(&address, &[word]).await;
        assert!(connections.contains(&listed), "{connections}");
    }
    for word in ["envi", "cons", "dirs", "wchs"] {
        assert!(!say(&address, &[word]).await.is_empty(), "{word}");
    }
    // What is no word is turned away, and gRPC still served.
    assert_eq!(say(&address, &["abcd"]).await, "");
    let client = AdminClient::new(&[&address]).expect("a client");
    assert!(client.quorum_status(QuorumStatusRequest {}, PATIENCE).await.is_ok());
    quorum.stop(1).await;
}
