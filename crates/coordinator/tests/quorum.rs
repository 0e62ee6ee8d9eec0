//! Coordinators in one process, on loopback, with their own disks: elections, decisions, restarts, snapshots, lost
//! disks.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_config::{CoordinatorConfig, Sources};
use ottla_coordinator::{Coordinator, CoordinatorError};
use ottla_metadata::controller::{
    Beat, CreatePartitions, CreateTopics, DeleteTopics, NewPartitions, NewTopic, Register, Registered, TopicOutcomes,
    TopicRef,
};
use ottla_metadata::image::Endpoint;
use ottla_model::{BrokerEpoch, BrokerId, ClusterSecret, ErrorCode, IncarnationId, ListenerName, Revision};
use ottla_rpc::admin::{CreateTopicRequest, GetNodeRequest, QuorumStatusRequest, QuorumStatusResponse};
use ottla_rpc::quorum::quorum_client::QuorumClient;
use ottla_rpc::quorum::{IdentifyRequest, RaftFrame};
use ottla_rpc::{AdminClient, CallError, ClusterClient, WatchStream, WatchUpdate};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(20);

struct Process {
    task: JoinHandle<Result<(), CoordinatorError>>,
    stop: Option<oneshot::Sender<()>>,
}

/// Three coordinators (or as many as there are ports).
struct Quorum {
    ports: Vec<u16>,
    disks: BTreeMap<u64, TempDir>,
    processes: BTreeMap<u64, Process>,
    flags: Vec<(String, String)>,
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
}

impl Quorum {
    fn new(members: usize) -> Self {
        Self { ports: free_ports(members), disks: BTreeMap::new(), processes: BTreeMap::new(), flags: Vec::new() }
    }

    fn port(&self, id: u64) -> u16 {
        self.ports[usize::try_from(id).expect("small") - 1]
    }

    fn addresses(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    fn servers(&self) -> String {
        let servers = self.addresses().into_iter().enumerate().map(|(at, address)| format!("{}@{address}", at + 1));
        servers.collect::<Vec<_>>().join(",")
    }

    fn config(&self, id: u64, data: &Path, servers: Option<String>) -> CoordinatorConfig {
        let mut flags = vec![
            ("id".to_owned(), id.to_string()),
            ("client.host".to_owned(), "127.0.0.1".to_owned()),
            ("client.port".to_owned(), self.port(id).to_string()),
            ("data.dir".to_owned(), data.display().to_string()),
        ];
        flags.extend(servers.map(|servers| ("servers".to_owned(), servers)));
        flags.extend(self.flags.iter().cloned());
        CoordinatorConfig::load(&Sources { flags, ..Sources::default() }).expect("a configuration").config
    }

    async fn start(&mut self, id: u64) {
        let servers = Some(self.servers());
        self.start_with(id, servers).await;
    }

    async fn start_with(&mut self, id: u64, servers: Option<String>) {
        let data = self.disks.entry(id).or_insert_with(|| tempfile::tempdir().expect("a directory")).path().to_owned();
        let config = self.config(id, &data, servers);
        let bound = bind(config).await;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(bound.run(async move {
            let _ = stopped.await;
        }));
        self.processes.insert(id, Process { task, stop: Some(stop) });
    }

    async fn start_all(&mut self) {
        for id in 1..=self.ports.len() as u64 {
            self.start(id).await;
        }
    }

    /// Like a process that receives SIGTERM.
    async fn stop(&mut self, id: u64) {
        let mut process = self.processes.remove(&id).expect("running");
        let _ = process.stop.take().map(|stop| stop.send(()));
        process.task.await.expect("no panic").expect("a clean end");
    }

    /// As a process that is killed.
    async fn kill(&mut self, id: u64) {
        let process = self.processes.remove(&id).expect("running");
        process.task.abort();
        let _ = process.task.await;
    }

    fn client(&self) -> ClusterClient {
        ClusterClient::new(&self.addresses()).expect("addresses")
    }

    async fn status_of(&self, id: u64) -> Option<QuorumStatusResponse> {
        let admin = AdminClient::new(&[format!("127.0.0.1:{}", self.port(id))]).expect("an address");
        admin.quorum_status(QuorumStatusRequest {}, Duration::from_millis(500)).await.ok()
    }

    /// The leader that some living member names and that names itself.
    async fn leader(&self) -> u64 {
        let start = Instant::now();
        loop {
            for &id in self.processes.keys() {
                if let Some(status) = self.status_of(id).await
                    && status.leader_id == id
                    && status.applied_revision > 0
                {
                    return id;
                }
            }
            assert!(start.elapsed() < PATIENCE, "no leader");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn caught_up(&self, id: u64, revision: u64) {
        let start = Instant::now();
        while self.status_of(id).await.is_none_or(|status| status.applied_revision < revision) {
            assert!(start.elapsed() < PATIENCE, "coordinator {id} does not reach {revision}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The port may still be in use by the former process for a moment.
async fn bind(config: CoordinatorConfig) -> Coordinator {
    let start = Instant::now();
    loop {
        match Coordinator::bind(config.clone()).await {
            Ok(bound) => return bound,
            Err(error) if start.elapsed() > PATIENCE => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn incarnation(broker: i32) -> IncarnationId {
    IncarnationId([u8::try_from(broker).expect("small"); 16])
}

async fn register(client: &ClusterClient, broker: i32) -> Registered {
    let request = Register {
        broker: BrokerId(broker),
        incarnation: incarnation(broker),
        cluster_id: None,
        endpoints: vec![Endpoint {
            listener: ListenerName::new("PLAINTEXT"),
            host: "192.0.2.1".into(),
            port: 9092,
            security_protocol: "PLAINTEXT".into(),
        }],
        inter_broker_listener: ListenerName::new("PLAINTEXT"),
        rack: None,
        clean_shutdown_epoch: BrokerEpoch::NONE,
        min_insync_replicas: 1,
    };
    client.submit(request, PATIENCE).await.expect("an answer").expect("registered")
}

/// A broker that lives as long as this: registered, with heartbeats from an image that is always the newest.
struct TestBroker {
    task: JoinHandle<()>,
}

impl TestBroker {
    async fn start(client: &ClusterClient, broker: i32) -> Self {
        let registered = register(client, broker).await;
        let client = client.clone();
        let beat = move |revision| Beat {
            broker: BrokerId(broker),
            epoch: registered.epoch,
            incarnation: incarnation(broker),
            image_revision: revision,
        };
        let mut known = registered.revision;
        let task = tokio::spawn(async move {
            loop {
                let Ok(mut stream) = client.heartbeat(beat(known), PATIENCE).await else { continue };
                loop {
                    tokio::select! {
                        answer = stream.next() => match answer {
                            Ok(answer) => known = known.max(answer.committed_revision),
                            Err(_) => break,
                        },
                        () = tokio::time::sleep(Duration::from_millis(50)) => {
                            stream.beat(&beat(known));
                        }
                    }
                }
            }
        });
        Self { task }
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn create(name: &str) -> CreateTopics {
    let topic = NewTopic {
        name: name.to_owned(),
        partitions: 2,
        replication_factor: 1,
        grows_to: 0,
        assignments: Vec::new(),
        configs: Vec::new(),
    };
    CreateTopics { topics: vec![topic], validate_only: false, default_partitions: 1, default_replication_factor: 1 }
}

/// Creates a topic as soon as a broker is available.
async fn create_topic(client: &ClusterClient, name: &str) -> u64 {
    let start = Instant::now();
    loop {
        let mut outcomes = client.submit(create(name), PATIENCE).await.expect("an answer");
        match outcomes.topics.remove(0).refusal {
            None => return outcomes.revision.0,
            // No broker is ready yet.
            Some(refusal) if refusal.error == ErrorCode::InvalidReplicationFactor => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // A try before this one was decided, and its answer lost.
            Some(refusal) if refusal.error == ErrorCode::TopicAlreadyExists => return outcomes.revision.0,
            Some(other) => panic!("{other}"),
        }
        assert!(start.elapsed() < PATIENCE, "no topic");
    }
}

async fn until_revision(watch: &mut WatchStream, revision: u64) -> Vec<WatchUpdate> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|update: &WatchUpdate| update.revision().0 < revision) {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
        seen.push(next.expect("the stream goes on"));
    }
    seen
}

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
        let grown = NewPartitions { topic: name.clone(), total: 3, assignments: Vec::new() };
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
    config.client_port = quorum.port(2);
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
    let member = ClusterClient::with_secret(&quorum.addresses(), Some(&secret)).expect("addresses");
    let registered = register(&member, 1).await;
    let wrong = ClusterSecret::new("guessed");
    let beat = Beat {
        broker: registered.broker,
        epoch: registered.epoch,
        incarnation: incarnation(1),
        image_revision: Revision(0),
    };
    for stranger in [None, Some(&wrong)] {
        let client = ClusterClient::with_secret(&quorum.addresses(), stranger).expect("addresses");
        let topics = DeleteTopics { topics: vec![TopicRef::Name("t".to_owned())] };
        for refused in
            [client.submit(topics, PATIENCE).await.map(drop), client.heartbeat(beat, PATIENCE).await.map(drop)]
        {
            let Err(CallError::Refused { status, .. }) = refused else { panic!("{refused:?}") };
            assert_eq!(status.code(), Code::Unauthenticated);
        }
        assert!(client.watch(Revision(0), BrokerId::NONE, None, PATIENCE).await.is_ok());
        assert!(client.quorum_progress(PATIENCE).await.is_ok());
    }
    let mut peer = QuorumClient::connect(format!("http://127.0.0.1:{}", quorum.port(leader))).await.expect("listens");
    let asked = peer.identify(IdentifyRequest::default()).await.map(drop);
    assert_eq!(asked.expect_err("refused").code(), Code::Unauthenticated);
    let stream = peer.raft(tokio_stream::iter([RaftFrame::default()])).await.map(drop);
    assert_eq!(stream.expect_err("refused").code(), Code::Unauthenticated);
    let admin = AdminClient::new(&quorum.addresses()).expect("addresses");
    assert!(admin.quorum_status(QuorumStatusRequest {}, PATIENCE).await.is_ok());
    // A member that comes back is let in by the others.
    quorum.kill(leader).await;
    quorum.start(leader).await;
    quorum.leader().await;
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
    for word in ["envi", "cons", "dirs", "wchs"] {
        assert!(!say(&address, &[word]).await.is_empty(), "{word}");
    }
    // What is no word is turned away, and gRPC still served.
    assert_eq!(say(&address, &["abcd"]).await, "");
    let client = AdminClient::new(&[&address]).expect("a client");
    assert!(client.quorum_status(QuorumStatusRequest {}, PATIENCE).await.is_ok());
    quorum.stop(1).await;
}
