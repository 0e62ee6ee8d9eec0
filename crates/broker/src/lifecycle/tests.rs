//! Registration, session and the way out, against a quorum that says what the test wants.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use ottla_broker_session::{Applicant, BrokenRules, SessionConfig};
use ottla_metadata::Image;
use ottla_metadata::controller::Registered;
use ottla_metadata::image::LeaderSettings;
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, ErrorCode, IncarnationKey, ListenerName, Revision};
use ottla_replica_manager::identity::Identity;
use ottla_replica_manager::manager::ReplicaManagerError;
use ottla_replica_manager::metadata_cache::MetadataCache;
use ottla_replica_manager::suspects::HOLD_MAX;
use ottla_rpc::ClusterClient;
use ottla_rpc::cluster::cluster_server::{Cluster, ClusterServer};
use ottla_rpc::cluster::*;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::RunError;
use super::session::{RegistrationDisk, SessionContext, SessionEvent, SessionRunner};
use crate::telemetry::Telemetry;
use crate::telemetry::readiness::Readiness;

type Reply<T> = Result<Response<T>, Status>;
type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers by what the test has put here; remembers what it was asked.
#[derive(Default)]
struct Script {
    /// What Register answers, the last one for ever.
    registers: Mutex<Vec<RegisterResponse>>,
    registered: Mutex<Vec<RegisterRequest>>,
    beats: Mutex<Vec<HeartbeatRequest>>,
    /// The next beat is answered "fenced".
    fence_next: Mutex<bool>,
    /// Beats are not answered.
    is_silent: Mutex<bool>,
    /// ControlledShutdown is not answered.
    is_unavailable: Mutex<bool>,
    address: Mutex<Option<SocketAddr>>,
    /// How many more times ControlledShutdown says that it is not done.
    shutdown_rounds: Mutex<u32>,
}

impl Script {
    fn register(&self, request: RegisterRequest) -> decide_response::Response {
        self.registered.lock().push(request);
        let mut answers = self.registers.lock();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers.first().cloned().unwrap_or_default() };
        decide_response::Response::Register(answer)
    }

    fn controlled_shutdown(&self) -> decide_response::Response {
        let mut rounds = self.shutdown_rounds.lock();
        let done = *rounds == 0;
        *rounds = rounds.saturating_sub(1);
        let progress = ControlledShutdownResponse { done, ..ControlledShutdownResponse::default() };
        decide_response::Response::ControlledShutdown(progress)
    }
}

#[derive(Clone)]
struct Quorum(Arc<Script>);

#[tonic::async_trait]
impl Cluster for Quorum {
    type HeartbeatStream = Responses<HeartbeatResponse>;
    type WatchStream = Responses<WatchEvent>;

    async fn decide(&self, request: Request<DecideRequest>) -> Reply<DecideResponse> {
        let response = match request.into_inner().request {
            Some(decide_request::Request::Register(request)) => self.0.register(request),
            Some(decide_request::Request::ControlledShutdown(_)) if *self.0.is_unavailable.lock() => {
                return Err(Status::unavailable("no leader"));
            }
            Some(decide_request::Request::ControlledShutdown(_)) => self.0.controlled_shutdown(),
            _ => return Err(Status::unimplemented("")),
        };
        Ok(Response::new(DecideResponse { response: Some(response) }))
    }

    async fn describe_quorum(
        &self,
        _: Request<DescribeQuorumRequest>,
    ) -> Result<Response<DescribeQuorumResponse>, Status> {
        Err(Status::unimplemented("not of this test"))
    }

    async fn heartbeat(&self, request: Request<Streaming<HeartbeatRequest>>) -> Reply<Self::HeartbeatStream> {
        let mut beats = request.into_inner();
        let (answers, responses) = mpsc::channel(4);
        let script = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Some(Ok(beat)) = beats.next().await {
                script.beats.lock().push(beat);
                if *script.is_silent.lock() {
                    continue;
                }
                let fenced = std::mem::take(&mut *script.fence_next.lock());
                let answer = HeartbeatResponse { committed_revision: 1, fenced, session_timeout_ms: 3000 };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Reply<Self::WatchStream> {
        Err(Status::unavailable("not in this test"))
    }
}

async fn serve(script: &Arc<Script>, socket: tokio::net::TcpListener) {
    let server = tonic::transport::Server::builder().add_service(ClusterServer::new(Quorum(Arc::clone(script))));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(socket);
    tokio::spawn(server.serve_with_incoming(incoming));
}

async fn quorum(registers: Vec<RegisterResponse>) -> (Arc<Script>, ClusterClient) {
    let script = Arc::new(Script { registers: Mutex::new(registers), ..Script::default() });
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    *script.address.lock() = Some(address);
    serve(&script, socket).await;
    (script, client(address))
}

fn client(address: SocketAddr) -> ClusterClient {
    ClusterClient::new(&[address.to_string()]).expect("an address")
}

fn identity() -> Arc<Identity> {
    Arc::new(Identity::new(IncarnationKey::new([3; 32]), BrokerId(1)))
}

fn applicant() -> Applicant {
    Applicant {
        id: BrokerId(1),
        incarnation: IncarnationKey::new([3; 32]).incarnation(),
        stored_cluster_id: Some(ClusterId::new("ours")),
        wanted_cluster_id: None,
        endpoints: Vec::new(),
        inter_broker_listener: ListenerName::new("PLAINTEXT"),
        rack: None,
        whole_since: BrokerEpoch::NONE,
        min_insync_replicas: 1,
        leaders: LeaderSettings::default(),
        levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
    }
}

/// What was written down: the first registration, and the later ones.
#[derive(Default)]
struct Disk {
    claimed: Mutex<Vec<BrokerEpoch>>,
    remembered: Mutex<Vec<BrokerEpoch>>,
}

impl RegistrationDisk for Disk {
    fn claim(&self, registered: &Registered) -> Result<(), ReplicaManagerError> {
        self.claimed.lock().push(registered.epoch);
        Ok(())
    }

    fn remember(&self, registered: &Registered) {
        self.remembered.lock().push(registered.epoch);
    }
}

struct Runner {
    runner: SessionRunner,
    identity: Arc<Identity>,
    metadata: Arc<MetadataCache>,
    disk: Arc<Disk>,
    readiness: Arc<Readiness>,
}

fn runner(client: &ClusterClient) -> Runner {
    let config = SessionConfig {
        // Only what the image causes is seen here.
        heartbeat_interval: Duration::from_secs(3600),
        session_timeout: Duration::from_millis(50),
        controlled_shutdown: true,
        rules: BrokenRules::default(),
    };
    let (identity, disk) = (identity(), Arc::new(Disk::default()));
    let metadata = Arc::new(MetadataCache::new(Arc::new(Image::empty()), HOLD_MAX));
    let readiness = Arc::new(Readiness::new(Duration::from_secs(3600)));
    let context = SessionContext {
        client: client.clone(),
        identity: Arc::clone(&identity),
        metadata: Arc::clone(&metadata),
        telemetry: Arc::new(Telemetry::default()),
        readiness: Arc::clone(&readiness),
        leave_watch: Arc::new(Notify::new()),
        disk: disk.clone(),
    };
    Runner { runner: SessionRunner::new(config, applicant(), context), identity, metadata, disk, readiness }
}

/// The first thing that a session comes to: a registration, or a reason to give up.
async fn register(client: &ClusterClient) -> Result<Registered, RunError> {
    match runner(client).runner.next().await {
        SessionEvent::Registered(registered) => Ok(registered),
        SessionEvent::GiveUp(error) => Err(error),
        event => panic!("{event:?}"),
    }
}

fn accepted(epoch: i64) -> RegisterResponse {
    RegisterResponse {
        broker_id: 1,
        broker_epoch: epoch,
        cluster_id: "ours".to_owned(),
        revision: 1,
        ..RegisterResponse::default()
    }
}

fn refused(error: ErrorCode, text: &str) -> RegisterResponse {
    RegisterResponse {
        error_code: i32::from(error.code()),
        error_message: text.to_owned(),
        ..RegisterResponse::default()
    }
}

#[tokio::test]
async fn waits_for_coordinators_that_come_late() {
    let script = Arc::new(Script { registers: Mutex::new(vec![accepted(5)]), ..Script::default() });
    let reserved = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = reserved.local_addr().expect("bound");
    drop(reserved);
    let late = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        serve(&script, tokio::net::TcpListener::bind(address).await.expect("still free")).await;
    };
    let client = client(address);
    let (registered, ()) = tokio::join!(register(&client), late);
    assert_eq!(registered.expect("registered").epoch, BrokerEpoch(5));
    assert_eq!(script.registered.lock()[0].cluster_id, "ours");
}

#[tokio::test]
async fn a_duplicate_id_is_tried_again_and_then_named() {
    let duplicate = refused(ErrorCode::DuplicateBrokerRegistration, "broker 1 lives at host:9092");
    let (_, client) = quorum(vec![duplicate.clone(), accepted(6)]).await;
    let registered = register(&client).await;
    assert_eq!(registered.expect("the holder went").epoch, BrokerEpoch(6));
    let (_, client) = quorum(vec![duplicate]).await;
    let error = register(&client).await.expect_err("the holder lives");
    assert_eq!(error.to_string(), "broker.id=1 is in use: broker 1 lives at host:9092");
}

#[tokio::test]
async fn another_cluster_is_refused_from_both_sides() {
    let (_, client) = quorum(vec![refused(ErrorCode::InconsistentClusterId, "this is cluster theirs")]).await;
    let error = register(&client).await.expect_err("refused by the quorum");
    let line = error.to_string();
    assert!(line.starts_with("another cluster: coordinator.connect=127.0.0.1:"), "{line}");
    assert!(line.ends_with(": this is cluster theirs"), "{line}");
    let theirs = RegisterResponse { cluster_id: "theirs".to_owned(), ..accepted(5) };
    let (_, client) = quorum(vec![theirs]).await;
    let error = register(&client).await.expect_err("refused here");
    assert!(matches!(error, RunError::OtherCluster { .. }), "{error}");
}

async fn until(what: &'static str, happened: impl Fn() -> bool) {
    for _ in 0..500 {
        if happened() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn beats_follow_the_image_and_a_fenced_broker_comes_back() {
    let (script, client) = quorum(vec![accepted(5), accepted(9)]).await;
    let Runner { mut runner, identity, metadata, disk, readiness } = runner(&client);
    let task = tokio::spawn(async move {
        loop {
            runner.next().await;
        }
    });
    let says = |part: &str| readiness.missing().is_some_and(|missing| missing.contains(part));
    until("it says that it has no image yet", || says("registered, and fenced")).await;
    until("the first beat", || script.beats.lock().len() == 1).await;
    assert_eq!(*disk.claimed.lock(), [BrokerEpoch(5)], "before the first beat");
    let show = |revision| {
        metadata.store(Arc::new(Image::empty().apply(Revision(revision), &[]).0));
        metadata.announce();
    };
    show(7);
    until("a beat with the revision", || script.beats.lock().last().is_some_and(|beat| beat.image_revision == 7)).await;
    *script.fence_next.lock() = true;
    show(8);
    until("a new epoch", || identity.epoch() == BrokerEpoch(9)).await;
    assert_eq!(script.registered.lock()[1].clean_shutdown_epoch, 5, "its log is whole up to the epoch it had");
    until("a beat in the new epoch", || script.beats.lock().last().is_some_and(|beat| beat.broker_epoch == 9)).await;
    until("the next process knows of it", || *disk.remembered.lock() == [BrokerEpoch(9)]).await;
    task.abort();
}

#[tokio::test]
async fn heartbeats_without_answers_are_sent_elsewhere() {
    let (silent, _) = quorum(Vec::new()).await;
    let (script, _) = quorum(Vec::new()).await;
    *silent.is_silent.lock() = true;
    silent.registers.lock().push(accepted(5));
    let addresses = [&silent, &script].map(|script| script.address.lock().expect("served").to_string());
    let client = ClusterClient::new(&addresses).expect("addresses");
    let mut runner = runner(&client).runner;
    let task = tokio::spawn(async move {
        loop {
            runner.next().await;
        }
    });
    until("a beat to the second coordinator", || !script.beats.lock().is_empty()).await;
    assert!(!silent.beats.lock().is_empty());
    task.abort();
}

/// Registers, and then asks it to stop.
async fn stop(client: &ClusterClient) {
    let mut runner = runner(client).runner;
    assert!(matches!(runner.next().await, SessionEvent::Registered(_)));
    runner.stop();
    let ended = tokio::time::timeout(Duration::from_secs(120), runner.next()).await.expect("bounded");
    assert!(matches!(ended, SessionEvent::Close), "{ended:?}");
}

#[tokio::test]
async fn the_way_out_ends_when_nothing_remains_and_when_no_coordinator_answers() {
    let (script, client) = quorum(vec![accepted(5)]).await;
    *script.shutdown_rounds.lock() = 3;
    stop(&client).await;
    assert_eq!(*script.shutdown_rounds.lock(), 0);
    *script.is_unavailable.lock() = true;
    stop(&client).await;
}
