//! Coordinators that are reached by TLS alone, and speak nothing else to each other.

use std::time::Duration;

use ottla_metadata::controller::{DeleteTopics, TopicRef};
use ottla_model::{BrokerId, Revision};
use ottla_rpc::admin::{CreateTopicRequest, DeleteTopicRequest, QuorumStatusRequest};
use ottla_rpc::{AdminClient, CallError, ChannelSecurity, ClusterClient};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::certificates::Authority;
use crate::harness::{PATIENCE, Quorum, TestBroker, create, create_topic, register_request, until_revision};

/// A call that cannot succeed need not be waited for.
const BRIEFLY: Duration = Duration::from_secs(2);

struct Secure {
    files: TempDir,
    authority: Authority,
    quorum: Quorum,
}

async fn secure() -> Secure {
    secure_with(&[]).await
}

async fn secure_with(flags: &[(&str, &str)]) -> Secure {
    let files = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(files.path(), "ours");
    let mut quorum = Quorum::new(3);
    quorum.flags = authority.flags(&authority.sign("coordinator"));
    quorum.flags.push(("ssl.quorum".to_owned(), "true".to_owned()));
    quorum.flags.extend(flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    quorum.is_secure = true;
    quorum.security = authority.client(Some(&authority.sign("client")));
    quorum.start_all().await;
    quorum.leader().await;
    Secure { files, authority, quorum }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_by_tls_alone_does_all_that_one_in_plaintext_does() {
    let Secure { files: _files, mut quorum, .. } = secure().await;
    let client = quorum.client();
    let _broker = TestBroker::start(&client, 1).await;
    let revision = create_topic(&client, "t").await;
    let mut watch = client.watch(Revision(0), BrokerId::NONE, None, PATIENCE).await.expect("watched");
    until_revision(&mut watch, revision).await;
    let leader = quorum.leader().await;
    quorum.kill(leader).await;
    let next = quorum.leader().await;
    assert_ne!(next, leader);
    let revision = create_topic(&client, "u").await;
    quorum.start(leader).await;
    quorum.caught_up(leader, revision).await;
}

/// The code of a refusal, or none.
fn refused<T>(outcome: Result<T, CallError>) -> Option<Code> {
    match outcome {
        Ok(_) => None,
        Err(CallError::Refused { status, .. }) => Some(status.code()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_do_what_their_role_may() {
    let Secure { files: _files, authority, quorum } = secure_with(&[
        ("roles.member", "User:CN=coordinator; User:CN=client"),
        ("roles.read", "User:CN=reader"),
        ("roles.operate", "User:CN=operator"),
    ])
    .await;
    let _broker = TestBroker::start(&quorum.client(), 1).await;
    create_topic(&quorum.client(), "t").await;
    let denied = Some(Code::PermissionDenied);
    let topic = || CreateTopicRequest { name: "u".to_owned(), ..CreateTopicRequest::default() };
    let deletion = || DeleteTopicRequest { name: "t".to_owned(), ..DeleteTopicRequest::default() };
    for (name, reads, operates) in [("reader", None, denied), ("operator", None, None), ("nobody", denied, denied)] {
        let security = authority.client(Some(&authority.sign(name)));
        let admin = AdminClient::secured(&quorum.addresses(), &security).expect("addresses");
        let status = admin.quorum_status(QuorumStatusRequest {}, PATIENCE).await;
        assert_eq!(refused(status), reads, "{name}");
        assert_eq!(refused(admin.create_topic(topic(), PATIENCE).await), operates, "{name}");
        assert_eq!(refused(admin.delete_topic(deletion(), PATIENCE).await), denied, "{name}");
        let client = ClusterClient::secured(&quorum.addresses(), &security).expect("addresses");
        assert_eq!(refused(client.submit(create("v"), PATIENCE).await), operates, "{name}");
        let delete = DeleteTopics { topics: vec![TopicRef::Name("t".to_owned())] };
        assert_eq!(refused(client.submit(delete, PATIENCE).await), denied, "{name}");
        let register = register_request(7);
        assert_eq!(refused(client.submit(register, PATIENCE).await), denied, "{name}");
    }
    let member = quorum.client();
    let delete = DeleteTopics { topics: vec![TopicRef::Name("t".to_owned())] };
    assert!(member.submit(delete, PATIENCE).await.is_ok());
}

async fn status_by(quorum: &Quorum, security: &ChannelSecurity) -> Result<(), CallError> {
    let admin = AdminClient::secured(&quorum.addresses(), security).expect("addresses");
    admin.quorum_status(QuorumStatusRequest {}, BRIEFLY).await.map(drop)
}

/// What a port says to these bytes, until it ends the connection.
async fn answer(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("listens");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    // A connection that is reset has ended too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_stay_outside_and_disturb_nobody() {
    let Secure { files, authority, quorum } = secure().await;
    let other = Authority::new(files.path(), "other");
    for (who, security) in [
        ("plaintext", ChannelSecurity::default()),
        ("without a certificate", authority.client(None)),
        ("of another authority", authority.client(Some(&other.sign("client")))),
        ("expired", authority.client(Some(&authority.sign_until("late", 2_001)))),
        ("that does not trust the coordinators", other.client(Some(&authority.sign("wary")))),
    ] {
        let refused = status_by(&quorum, &security).await;
        assert!(matches!(refused, Err(CallError::Deadline { .. })), "{who}: {refused:?}");
    }
    let plain = |bytes: &'static [u8]| answer(quorum.port(1), bytes);
    assert_eq!(plain(b"ruok").await, b"", "a word in plaintext");
    assert_eq!(plain(b"GET /metrics HTTP/1.1\r\n\r\n").await, b"");
    status_by(&quorum, &quorum.security).await.expect("a status");
    create_by(&quorum).await;
}

async fn create_by(quorum: &Quorum) {
    let client = ClusterClient::secured(&quorum.addresses(), &quorum.security).expect("addresses");
    let _broker = TestBroker::start(&client, 1).await;
    create_topic(&client, "t").await;
}

/// ZooKeeper's words and the pages of health and metrics, by TLS too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secure_port_speaks_whatever_the_other_one_does() {
    let Secure { files: _files, quorum, .. } = secure().await;
    let tls = quorum.security.tls.clone().expect("TLS");
    let ask = async |bytes: &[u8]| {
        let stream = TcpStream::connect(("127.0.0.1", quorum.port(1))).await.expect("listens");
        let name = ottla_tls::ClientTls::server_name("127.0.0.1").expect("a name");
        let mut stream = tls.connect(name, stream).await.expect("TLS");
        stream.write_all(bytes).await.expect("sent");
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert_eq!(ask(b"ruok").await, "imok");
    assert!(ask(b"conf").await.contains(&format!("clientPort=-1\nsecureClientPort={}\n", quorum.port(1))));
    let page = ask(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("ottla_quorum_term 1"), "{page}");
}

/// A certificate that replaces another one in its file is shown without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_taken_up() {
    let files = tempfile::tempdir().expect("a directory");
    let (former, next) = (Authority::new(files.path(), "former"), Authority::new(files.path(), "next"));
    let mut quorum = Quorum::new(1);
    quorum.flags = former.flags(&former.sign("coordinator"));
    quorum.flags.push(("ssl.client.auth".to_owned(), "none".to_owned()));
    quorum.flags.push(("ssl.quorum".to_owned(), "true".to_owned()));
    quorum.is_secure = true;
    quorum.security = former.client(None);
    quorum.start(1).await;
    quorum.leader().await;
    assert!(status_by(&quorum, &next.client(None)).await.is_err());
    let open = AdminClient::secured(&quorum.addresses(), &quorum.security).expect("addresses");
    open.quorum_status(QuorumStatusRequest {}, PATIENCE).await.expect("a status");
    std::fs::copy(next.sign("coordinator"), files.path().join("former-coordinator.pem")).expect("copied");
    let start = std::time::Instant::now();
    while let Err(error) = status_by(&quorum, &next.client(None)).await {
        assert!(start.elapsed() < PATIENCE, "{error}");
    }
    open.quorum_status(QuorumStatusRequest {}, PATIENCE).await.expect("its connection goes on");
}

/// From plaintext to TLS and back, one coordinator at a time: members of two neighbouring steps hear each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_changes_to_tls_and_back_member_by_member() {
    let files = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(files.path(), "ours");
    let certified = authority.flags(&authority.sign("coordinator"));
    let by_tls = authority.client(Some(&authority.sign("client")));
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    quorum.leader().await;
    let broker = TestBroker::start(&quorum.client(), 1).await;

    let unified = [certified.clone(), flags(&[("port.unification", "true")])].concat();
    let dialling = [unified.clone(), flags(&[("ssl.quorum", "true")])].concat();
    let alone = [certified, flags(&[("ssl.quorum", "true")])].concat();
    let mut number = 0;
    let plain = ChannelSecurity::default();
    // Of each step: the flags, whether the port is by TLS alone, the client whom members of this step and of the
    // former one accept (either may lead while the step lasts), and the clients whom every member accepts afterwards.
    for (flags, is_secure, meanwhile, clients) in [
        (&unified, false, &plain, [&plain, &by_tls]),
        (&dialling, false, &plain, [&plain, &by_tls]),
        (&alone, true, &by_tls, [&by_tls, &by_tls]),
        (&dialling, false, &by_tls, [&plain, &by_tls]),
        (&unified, false, &by_tls, [&plain, &by_tls]),
        (&Vec::new(), false, &plain, [&plain, &plain]),
    ] {
        quorum.flags.clone_from(flags);
        quorum.is_secure = is_secure;
        quorum.security = meanwhile.clone();
        for id in 1..=3 {
            quorum.stop(id).await;
            quorum.start(id).await;
            number += 1;
            let revision = create_topic(&quorum.client(), &format!("t{number}")).await;
            quorum.caught_up(id, revision).await;
        }
        for security in clients {
            status_by(&quorum, security).await.expect("a status");
        }
    }
    drop(broker);
}

fn flags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
