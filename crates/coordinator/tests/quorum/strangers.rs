//! Processes that do not belong to the cluster.

use bytes::Bytes;
use ottla_metadata::controller::{Beat, DeleteTopics, TopicRef};
use ottla_model::{BrokerId, ClusterSecret, Revision};
use ottla_rpc::admin::{CreateTopicRequest, DeleteTopicRequest, QuorumStatusRequest};
use ottla_rpc::cluster::WatchRequest;
use ottla_rpc::cluster::cluster_client::ClusterClient as WireClient;
use ottla_rpc::quorum::quorum_client::QuorumClient;
use ottla_rpc::quorum::{IdentifyRequest, RaftFrame};
use ottla_rpc::{AdminClient, CallError, ChannelSecurity, ClusterClient};
use tonic::Code;

use crate::harness::{PATIENCE, Quorum, incarnation, register};

/// G1: ids of coordinators and disks are public; with them a stranger could pose as a member, and end the quorum for
/// good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_cannot_speak_for_a_member() {
    let mut quorum = Quorum::new(3);
    quorum.start_all().await;
    let leader = quorum.leader().await;
    let (victim, claimed) = (leader, leader % 3 + 1);
    let connect = |id| QuorumClient::connect(format!("http://127.0.0.1:{}", quorum.port(id)));
    let asked = IdentifyRequest { coordinator_id: victim, ..IdentifyRequest::default() };
    let told = connect(claimed).await.expect("listens").identify(asked).await.expect("told").into_inner();
    let term = quorum.status_of(victim).await.expect("a status").term;
    for token in [Bytes::new(), Bytes::from_static(&[7; 16])] {
        // A heartbeat of a later term, in protobuf: type, to, from, term.
        let payload = vec![8, 8, 16, victim as u8, 24, claimed as u8, 32, term as u8 + 40];
        let frame = RaftFrame {
            from: claimed,
            disk_id: told.disk_id.clone(),
            payload: payload.into(),
            last: true,
            token: token.clone(),
            ..RaftFrame::default()
        };
        let refused = connect(victim).await.expect("listens").raft(tokio_stream::iter([frame])).await;
        assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied, "{token:?}");
    }
    let status = quorum.status_of(victim).await.expect("a status");
    assert_eq!((status.term, status.leader_id), (term, leader));
    register(&quorum.client(), 1).await;
}

/// Who does not know the cluster's secret can neither vote, register nor decide; people's tools still work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_processes_that_know_the_secret_take_part() {
    let mut quorum = Quorum::new(3);
    quorum.flags.push(("cluster.secret".to_owned(), "s3cret".to_owned()));
    quorum.start_all().await;
    let leader = quorum.leader().await;
    let secret = ClusterSecret::new("s3cret");
    let member =
        ClusterClient::secured(&quorum.addresses(), &ChannelSecurity::of_secret(Some(&secret))).expect("addresses");
    let registered = register(&member, 1).await;
    let wrong = ClusterSecret::new("guessed");
    let beat = Beat {
        broker: registered.broker,
        epoch: registered.epoch,
        incarnation: incarnation(1),
        image_revision: Revision(0),
    };
    for stranger in [None, Some(&wrong)] {
        let client =
            ClusterClient::secured(&quorum.addresses(), &ChannelSecurity::of_secret(stranger)).expect("addresses");
        let topics = DeleteTopics { topics: vec![TopicRef::Name("t".to_owned())] };
        for refused in
            [client.submit(topics, PATIENCE).await.map(drop), client.heartbeat(beat, PATIENCE).await.map(drop)]
        {
            let Err(CallError::Refused { status, .. }) = refused else { panic!("{refused:?}") };
            assert_eq!(status.code(), Code::Unauthenticated);
        }
        assert!(client.quorum_progress(PATIENCE).await.is_ok());
        let admin =
            AdminClient::secured(&quorum.addresses(), &ChannelSecurity::of_secret(stranger)).expect("addresses");
        let topic = CreateTopicRequest { name: "t".to_owned(), ..CreateTopicRequest::default() };
        let deletion = DeleteTopicRequest { name: "t".to_owned(), ..DeleteTopicRequest::default() };
        for refused in [
            admin.create_topic(topic, PATIENCE).await.map(drop),
            admin.delete_topic(deletion, PATIENCE).await.map(drop),
        ] {
            let Err(CallError::Refused { status, .. }) = refused else { panic!("{refused:?}") };
            assert_eq!(status.code(), Code::Unauthenticated);
        }
    }
    // The tree holds the credentials of users.
    let mut stranger = WireClient::connect(format!("http://127.0.0.1:{}", quorum.port(leader))).await.expect("listens");
    let watched = stranger.watch(WatchRequest::default()).await.map(drop);
    assert_eq!(watched.expect_err("refused").code(), Code::Unauthenticated);
    assert!(member.watch(Revision(0), BrokerId::NONE, None, PATIENCE).await.is_ok());
    let mut peer = QuorumClient::connect(format!("http://127.0.0.1:{}", quorum.port(leader))).await.expect("listens");
    let asked = peer.identify(IdentifyRequest::default()).await.map(drop);
    assert_eq!(asked.expect_err("refused").code(), Code::Unauthenticated);
    let stream = peer.raft(tokio_stream::iter([RaftFrame::default()])).await.map(drop);
    assert_eq!(stream.expect_err("refused").code(), Code::Unauthenticated);
    let admin = AdminClient::new(&quorum.addresses()).expect("addresses");
    assert!(admin.quorum_status(QuorumStatusRequest {}, PATIENCE).await.is_ok());
    let admin =
        AdminClient::secured(&quorum.addresses(), &ChannelSecurity::of_secret(Some(&secret))).expect("addresses");
    let deletion = DeleteTopicRequest { name: "t".to_owned(), ..DeleteTopicRequest::default() };
    let Err(CallError::Refused { status, .. }) = admin.delete_topic(deletion, PATIENCE).await else {
        panic!("deleted")
    };
    assert_eq!(status.code(), Code::NotFound, "decided");
    // A member that comes back is let in by the others.
    quorum.kill(leader).await;
    quorum.start(leader).await;
    quorum.leader().await;
}
