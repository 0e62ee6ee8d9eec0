//! Coordinators of this process and the brokers and clients that talk to them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ottla_config::{CoordinatorConfig, Sources};
use ottla_coordinator::{Coordinator, CoordinatorError};
use ottla_metadata::controller::{Beat, CreateTopics, NewTopic, Register, Registered};
use ottla_metadata::image::{Endpoint, LeaderSettings};
use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, IncarnationId, ListenerName};
use ottla_rpc::admin::{QuorumStatusRequest, QuorumStatusResponse};
use ottla_rpc::{AdminClient, ChannelSecurity, ClusterClient, WatchStream, WatchUpdate};
use ottla_test_support::free_ports;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Reached only where something is wrong: a machine may be busy with other things, and its disk too.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Process {
    pub task: JoinHandle<Result<(), CoordinatorError>>,
    pub stop: Option<oneshot::Sender<()>>,
}

/// Three coordinators (or as many as there are ports).
pub struct Quorum {
    pub ports: Vec<u16>,
    pub disks: BTreeMap<u64, TempDir>,
    pub processes: BTreeMap<u64, Process>,
    pub flags: Vec<(String, String)>,
    /// The ports are by TLS.
    pub is_secure: bool,
    /// Of the clients of this harness.
    pub security: ChannelSecurity,
}

impl Quorum {
    pub fn new(members: usize) -> Self {
        Self {
            ports: free_ports(members).expect("free ports"),
            disks: BTreeMap::new(),
            processes: BTreeMap::new(),
            flags: Vec::new(),
            is_secure: false,
            security: ChannelSecurity::default(),
        }
    }

    pub fn port(&self, id: u64) -> u16 {
        self.ports[usize::try_from(id).expect("small") - 1]
    }

    pub fn addresses(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    pub fn servers(&self) -> String {
        let servers = self.addresses().into_iter().enumerate().map(|(at, address)| format!("{}@{address}", at + 1));
        servers.collect::<Vec<_>>().join(",")
    }

    pub fn config(&self, id: u64, data: &Path, servers: Option<String>) -> CoordinatorConfig {
        let mut flags = vec![
            ("id".to_owned(), id.to_string()),
            ("client.host".to_owned(), "127.0.0.1".to_owned()),
            (if self.is_secure { "secure.client.port" } else { "client.port" }.to_owned(), self.port(id).to_string()),
            ("data.dir".to_owned(), data.display().to_string()),
        ];
        flags.extend(servers.map(|servers| ("servers".to_owned(), servers)));
        flags.extend(self.flags.iter().cloned());
        CoordinatorConfig::load(&Sources { flags, ..Sources::default() }).expect("a configuration").config
    }

    pub async fn start(&mut self, id: u64) {
        let servers = Some(self.servers());
        self.start_with(id, servers).await;
    }

    pub async fn start_with(&mut self, id: u64, servers: Option<String>) {
        let data = self.disks.entry(id).or_insert_with(|| tempfile::tempdir().expect("a directory")).path().to_owned();
        let config = self.config(id, &data, servers);
        let bound = bind(config).await;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(bound.run(async move {
            let _ = stopped.await;
        }));
        self.processes.insert(id, Process { task, stop: Some(stop) });
    }

    pub async fn start_all(&mut self) {
        for id in 1..=self.ports.len() as u64 {
            self.start(id).await;
        }
    }

    /// Like a process that receives SIGTERM.
    pub async fn stop(&mut self, id: u64) {
        let mut process = self.processes.remove(&id).expect("running");
        let _ = process.stop.take().map(|stop| stop.send(()));
        process.task.await.expect("no panic").expect("a clean end");
    }

    /// As a process that is killed.
    pub async fn kill(&mut self, id: u64) {
        let process = self.processes.remove(&id).expect("running");
        process.task.abort();
        let _ = process.task.await;
    }

    pub fn client(&self) -> ClusterClient {
        ClusterClient::secured(&self.addresses(), &self.security).expect("addresses")
    }

    pub async fn status_of(&self, id: u64) -> Option<QuorumStatusResponse> {
        let address = format!("127.0.0.1:{}", self.port(id));
        let admin = AdminClient::secured(&[address], &self.security).expect("an address");
        admin.quorum_status(QuorumStatusRequest {}, Duration::from_millis(500)).await.ok()
    }

    /// The leader that some living member names and that names itself.
    pub async fn leader(&self) -> u64 {
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

    pub async fn caught_up(&self, id: u64, revision: u64) {
        let start = Instant::now();
        while self.status_of(id).await.is_none_or(|status| status.applied_revision < revision) {
            assert!(start.elapsed() < PATIENCE, "coordinator {id} does not reach {revision}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The port may still be in use by the former process for a moment.
pub async fn bind(config: CoordinatorConfig) -> Coordinator {
    let start = Instant::now();
    loop {
        match Coordinator::bind(config.clone()).await {
            Ok(bound) => return bound,
            Err(error) if start.elapsed() > PATIENCE => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

pub fn incarnation(broker: i32) -> IncarnationId {
    IncarnationId([u8::try_from(broker).expect("small"); 16])
}

pub fn register_request(broker: i32) -> Register {
    Register {
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
        leaders: LeaderSettings::default(),
        levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
    }
}

pub async fn register(client: &ClusterClient, broker: i32) -> Registered {
    client.submit(register_request(broker), PATIENCE).await.expect("an answer").expect("registered")
}

/// A broker that lives as long as this: registered, with heartbeats from an image that is always the newest.
pub struct TestBroker {
    pub task: JoinHandle<()>,
}

impl TestBroker {
    pub async fn start(client: &ClusterClient, broker: i32) -> Self {
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

pub fn create(name: &str) -> CreateTopics {
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
pub async fn create_topic(client: &ClusterClient, name: &str) -> u64 {
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

pub async fn until_revision(watch: &mut WatchStream, revision: u64) -> Vec<WatchUpdate> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|update: &WatchUpdate| update.revision().0 < revision) {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
        seen.push(next.expect("the stream goes on"));
    }
    seen
}

/// A ZooKeeper client that begins a session, after it has seen a revision at another server. None: it was turned away.
pub async fn zookeeper_client(address: &str, last_seen: u64) -> Option<TcpStream> {
    let mut connect = 45_i32.to_be_bytes().to_vec();
    connect.extend(0_i32.to_be_bytes());
    connect.extend(last_seen.to_be_bytes());
    connect.extend(10_000_i32.to_be_bytes());
    connect.extend(0_i64.to_be_bytes());
    connect.extend(16_i32.to_be_bytes());
    connect.extend([0; 17]);
    let mut stream = TcpStream::connect(address).await.expect("listens");
    stream.write_all(&connect).await.expect("written");
    // Length, version and timeout; then the session, which is 0 for one that has expired.
    let mut answer = [0; 12 + 8];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time");
    read.ok()?;
    assert_ne!(answer[12..], [0; 8]);
    Some(stream)
}
