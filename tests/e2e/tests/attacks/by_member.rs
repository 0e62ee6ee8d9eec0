//! Attacks of a client that poses as a coordinator, as a broker or as a replica, and of one whose batches unpack to a
//! thousand times their size: at a cluster of three coordinators and three brokers with small memory, without a secret.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ottla_e2e::cluster::PATIENCE;
use ottla_e2e::{Cluster, ClusterOptions, Node, wait};
use ottla_metadata::controller::{
    AllocateProducerIds, AlterPartition, AlterPartitions, Beat, ControlledShutdown, Register, ResignLeadership,
    ResignReason,
};
use ottla_metadata::image::{Endpoint, IsrMember, LeaderSettings};
use ottla_model::{
    BrokerEpoch, BrokerId, ErrorCode, IncarnationId, IncarnationKey, LeaderEpoch, ListenerName, Offset, PartitionEpoch,
    PartitionId, Revision, TimestampMs, TopicId, TopicIdPartition,
};
use ottla_protocol::kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use ottla_protocol::kafka_protocol::messages::{ListOffsetsRequest, MetadataRequest, TopicName};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::api_versions::ApiVersionsResponse;
use ottla_protocol::messages::fetch::{self, FetchPartition, FetchRequest, FetchTopic};
use ottla_protocol::messages::produce::{self, ProduceCall};
use ottla_protocol::record_batch::{BatchBuilder, Compression};
use ottla_rpc::admin::{ListBrokersRequest, QuorumStatusRequest, QuorumStatusResponse};
use ottla_rpc::quorum::quorum_client::QuorumClient;
use ottla_rpc::quorum::{IdentifyRequest, RaftFrame};
use ottla_rpc::{AdminClient, ClusterClient, HeartbeatStream};
use tokio::runtime::Runtime;

use crate::good::{GOOD, Good};
use crate::wire::{PRODUCE_VERSION, call, connect, create_topic, create_topic_with, fetched, frame, text};
use crate::{MEBIBYTE, raise_own_limit};

const MEMORY_MAX: u64 = 256 * MEBIBYTE;
const MEMBERS: u64 = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// For a call that may be left without an answer.
const BRIEF: Duration = Duration::from_secs(5);
/// Versions of requests: topics by id, and a replica's epoch with its key.
const METADATA_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 17;

struct Scene {
    fault: &'static str,
    cluster: Cluster,
    brokers: Vec<SocketAddr>,
    coordinators: Vec<String>,
    runtime: Runtime,
    quorum: ClusterClient,
    admin: AdminClient,
    writer: Good,
}

impl Scene {
    fn start(fault: &'static str) -> Result<Self> {
        raise_own_limit()?;
        let options = ClusterOptions::default()
            .with("max.memory.bytes", &MEMORY_MAX.to_string())
            .with("min.insync.replicas", "2")
            .with("auto.create.topics.enable", "false");
        let cluster = Cluster::start_with(options)?;
        let brokers: Vec<SocketAddr> = (1..=3).map(|id| cluster.broker_address(id)).collect();
        let coordinators: Vec<String> = (1..=MEMBERS).map(|id| cluster.coordinator_address(id)).collect();
        create_topic(cluster.broker_address(1), GOOD, 1, 3)?;
        let writer = Good::writer(&brokers)?;
        println!("{fault}, quiet: {}", writer.latencies());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (quorum, admin) = {
            let _inside = runtime.enter();
            (ClusterClient::new(&coordinators)?, AdminClient::new(&coordinators)?)
        };
        Ok(Self { fault, cluster, brokers, coordinators, runtime, quorum, admin, writer })
    }

    fn check(&mut self) -> Result<()> {
        let ended = self.cluster.ended()?;
        ensure!(ended.is_empty(), "{}: {ended:?} ended", self.fault);
        for node in self.cluster.nodes() {
            let peak = self.cluster.peak_resident_kib(node)? * 1024;
            ensure!(peak < MEMORY_MAX, "{}: {node} took {} MiB", self.fault, peak / MEBIBYTE);
            let log = self.cluster.log_text(node)?;
            ensure!(!log.contains("panicked"), "{}: {node} panicked:\n{log}", self.fault);
        }
        Ok(())
    }

    /// The attacker is still there: the writer goes on, and every process has stayed below its memory.
    fn holds(&mut self) -> Result<()> {
        self.writer.goes_on("under attack")?;
        println!("{}, under attack: {}", self.fault, self.writer.latencies());
        self.check()
    }

    /// The attacker has left: all replicas are in sync, and the quorum decides.
    fn ends(mut self) -> Result<()> {
        self.until("every replica is in sync", |scene| {
            let topic = scene.describe(GOOD)?;
            let partition = topic.partitions.first().context("a partition")?;
            Ok(partition.isr_nodes.len() == scene.brokers.len())
        })?;
        let mut tries = 0;
        self.until("the quorum decides", |scene| {
            tries += 1;
            Ok(create_topic(scene.address(0)?, &format!("after-{tries}"), 3, 3).is_ok())
        })?;
        self.writer.goes_on("after the attack")?;
        self.check()
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        wait::until(&format!("{}: {what}", self.fault), || holds(self))
    }

    fn address(&self, index: usize) -> Result<SocketAddr> {
        self.brokers.get(index).copied().context("a broker")
    }

    fn describe(&self, topic: &str) -> Result<MetadataResponseTopic> {
        let asked = MetadataRequestTopic::default().with_name(Some(TopicName(text(topic))));
        let request = frame(METADATA_VERSION, &MetadataRequest::default().with_topics(Some(vec![asked])))?;
        let response = call(&mut connect(self.address(0)?)?, &request)?;
        let (_, response) = ottla_protocol::decode_response::<MetadataRequest>(METADATA_VERSION, response.into())?;
        response.topics.into_iter().next().context("the topic")
    }

    fn status_of(&self, coordinator: &str) -> Result<QuorumStatusResponse> {
        self.runtime.block_on(async {
            let admin = AdminClient::new(&[coordinator])?;
            Ok(admin.quorum_status(QuorumStatusRequest {}, PATIENCE).await?)
        })
    }

    /// The ids and epochs of brokers, which everybody may read.
    fn epochs(&self) -> Result<Vec<(BrokerId, BrokerEpoch)>> {
        let listed = self.runtime.block_on(self.admin.list_brokers(ListBrokersRequest {}, PATIENCE))?;
        Ok(listed.brokers.iter().map(|broker| (BrokerId(broker.id), BrokerEpoch(broker.epoch))).collect())
    }

    /// Sends one message as `claimed` would, with what the quorum tells everybody. The coordinator must refuse it.
    fn pose(&self, victim: u64, claimed: u64, message: Vec<u8>) -> Result<()> {
        let coordinator = |id: u64| {
            let index = usize::try_from(id - 1)?;
            Ok::<_, anyhow::Error>(format!("http://{}", self.coordinators.get(index).context("a coordinator")?))
        };
        let (asked, target) = (coordinator(claimed)?, coordinator(victim)?);
        self.runtime.block_on(async {
            let request = IdentifyRequest { coordinator_id: victim, ..IdentifyRequest::default() };
            let told = QuorumClient::connect(asked).await?.identify(request).await?.into_inner();
            for token in [Bytes::new(), Bytes::from_static(&[7; 16])] {
                let frame = RaftFrame {
                    from: claimed,
                    disk_id: told.disk_id.clone(),
                    payload: message.clone().into(),
                    last: true,
                    token,
                    asking_brokers: vec![1, 2, 3],
                };
                let taken = QuorumClient::connect(target.clone()).await?.raft(tokio_stream::iter([frame])).await;
                ensure!(taken.is_err(), "coordinator {victim} took a stranger's message {message:?}");
            }
            Ok(())
        })
    }
}

/// A message in protobuf: numbers by field.
fn numbers(fields: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (field, value) in fields {
        for mut number in [field << 3, *value] {
            while number >= 0x80 {
                bytes.push(number as u8 | 0x80);
                number >>= 7;
            }
            bytes.push(number as u8);
        }
    }
    bytes
}

/// Raft messages each of which makes raft-rs panic, truncate, or begin an election, where it is believed. The fields:
/// 1 type, 2 to, 3 from, 4 term, 5 log term, 6 index, 7 entries, 8 commit, 10 reject.
fn forged(to: u64, from: u64, term: u64) -> Vec<Vec<u8>> {
    const FAR: u64 = 1_000_000_000_000;
    let head = |kind, term| [(1, kind), (2, to), (3, from), (4, term)];
    let with = |kind, term, more: &[(u64, u64)]| numbers(&[&head(kind, term)[..], more].concat());
    // An entry of a later term at the beginning of the log: type, term, index.
    let mut append = with(3, term + 1, &[(5, term), (6, 1), (8, FAR)]);
    let entry = numbers(&[(2, term + 1), (3, 2)]);
    append.extend([0x3a, entry.len() as u8]);
    append.extend(entry);
    vec![
        with(8, u64::MAX, &[]),
        with(8, term, &[(8, FAR)]),
        with(8, term + 1, &[(8, FAR)]),
        append,
        with(4, term, &[(6, FAR)]),
        with(4, term, &[(6, 0), (10, 1)]),
        with(5, term + 1_000, &[(5, term), (6, FAR)]),
        with(14, term, &[]),
        vec![0xff; 64],
    ]
}

#[test]
fn g1_messages_of_a_coordinator_that_a_stranger_forges() -> Result<()> {
    /// Elections of the quorum itself, on a busy machine, stay far below.
    const TERMS: u64 = 500;
    let mut scene = Scene::start("G1")?;
    let term = scene.status_of(&scene.coordinators[0])?.term;
    for victim in 1..=MEMBERS {
        let claimed = victim % MEMBERS + 1;
        for message in forged(victim, claimed, term) {
            scene.pose(victim, claimed, message)?;
        }
    }
    scene.holds()?;
    // What was believed would be on the disks.
    for id in 1..=MEMBERS {
        scene.cluster.kill(Node::Coordinator(id))?;
        scene.cluster.spawn(Node::Coordinator(id))?;
    }
    for coordinator in &scene.coordinators {
        let status = scene.status_of(coordinator)?;
        ensure!(status.term < term + TERMS, "term {} after {term}", status.term);
    }
    scene.ends()
}

#[test]
fn g2_shutdowns_that_a_stranger_asks_for() -> Result<()> {
    let mut scene = Scene::start("G2")?;
    for round in 0..20u8 {
        for (broker, epoch) in scene.epochs()? {
            let incarnation = IncarnationId([round; 16]);
            let forged = ControlledShutdown { broker, epoch, incarnation };
            let answer = scene.runtime.block_on(scene.quorum.submit(forged, PATIENCE))?;
            ensure!(answer.error == ErrorCode::ClusterAuthorizationFailed, "{answer:?}");
            // Nor does a beat count that another process sends.
            let beat = Beat { broker, epoch, incarnation, image_revision: Revision(u64::MAX) };
            let answer = scene.runtime.block_on(async {
                let mut stream = scene.quorum.heartbeat(beat, BRIEF).await?;
                stream.next().await
            });
            ensure!(!matches!(&answer, Ok(answer) if !answer.fenced), "{answer:?}");
        }
    }
    scene.holds()?;
    for (broker, epoch) in scene.epochs()? {
        forge_all(&scene, broker, epoch)?;
    }
    scene.holds()?;
    let state = scene.describe(GOOD)?;
    let isr = state.partitions.first().context("a partition")?.isr_nodes.len();
    ensure!(isr == scene.brokers.len(), "{isr} of the replicas are in sync");
    scene.ends()
}

/// Everything that a broker asks the quorum in its own name, with all that can be read of it, and with a wrong key.
fn forge_all(scene: &Scene, broker: BrokerId, epoch: BrokerEpoch) -> Result<()> {
    let address = scene.cluster.broker_address(broker.0);
    let incarnation = incarnation_of(address)?;
    let described = scene.describe(GOOD)?;
    let partition = TopicIdPartition { topic_id: TopicId(*described.topic_id.as_bytes()), partition: PartitionId(0) };
    let leader_epoch = LeaderEpoch(described.partitions.first().context("a partition")?.leader_epoch);
    let wrong = scene.quorum.clone().showing(IncarnationKey::new([7; IncarnationKey::BYTES]));
    let refused = |error: ErrorCode| {
        ensure!(error == ErrorCode::ClusterAuthorizationFailed, "broker {broker}: {error:?}");
        Ok(())
    };
    for quorum in [&scene.quorum, &wrong] {
        scene.runtime.block_on(async {
            let shutdown = ControlledShutdown { broker, epoch, incarnation };
            refused(quorum.submit(shutdown, PATIENCE).await?.error)?;
            for partition_epoch in (0..20).map(PartitionEpoch) {
                let isr = vec![IsrMember { broker, epoch }];
                let alone = AlterPartition { partition, leader_epoch, partition_epoch, isr };
                let alter = AlterPartitions { broker, epoch, partitions: vec![alone] };
                refused(quorum.submit(alter, PATIENCE).await?.error)?;
            }
            let (partitions, reason) = (vec![partition], ResignReason::Lost);
            let resign = ResignLeadership { broker, epoch, partitions, reason };
            refused(quorum.submit(resign, PATIENCE).await?.error)?;
            let allocated = quorum.submit(AllocateProducerIds { broker, epoch }, PATIENCE).await?;
            refused(allocated.err().unwrap_or(ErrorCode::None))?;
            let elsewhere = Register { incarnation, ..forged_broker(broker.0, 1, None) };
            let registered = quorum.submit(elsewhere, PATIENCE).await?;
            refused(registered.err().map_or(ErrorCode::None, |refused| refused.error))?;
            let beat = Beat { broker, epoch, incarnation, image_revision: Revision(u64::MAX) };
            ensure!(quorum.heartbeat(beat, BRIEF).await.is_err(), "a stream for broker {broker} is taken");
            Ok(())
        })?;
    }
    Ok(())
}

/// Which start of the broker this is, as it tells everybody.
fn incarnation_of(address: SocketAddr) -> Result<IncarnationId> {
    const VERSION: i16 = 4;
    let request = ApiVersionsResponse::encode_request(VERSION, 5, Some("attacker"));
    let response = call(&mut connect(address)?, &request)?;
    let (_, said) = ApiVersionsResponse::decode(VERSION, &response)?;
    said.incarnation.context("an incarnation")
}

/// A registration that names the address of a broker that runs.
fn forged_broker(id: i32, port: u16, rack: Option<String>) -> Register {
    let endpoint = |listener: &str| Endpoint {
        listener: ListenerName::new(listener),
        host: "127.0.0.1".to_owned(),
        port,
        security_protocol: "PLAINTEXT".to_owned(),
    };
    Register {
        broker: BrokerId(id),
        incarnation: IncarnationId([u8::try_from(id % 200).unwrap_or(0); 16]),
        cluster_id: None,
        endpoints: vec![endpoint("INTERNAL"), endpoint("HOST")],
        inter_broker_listener: ListenerName::new("INTERNAL"),
        rack,
        clean_shutdown_epoch: BrokerEpoch::NONE,
        min_insync_replicas: 1,
        leaders: LeaderSettings::default(),
        levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
    }
}

#[test]
fn g6_brokers_that_do_not_exist() -> Result<()> {
    let mut scene = Scene::start("G6")?;
    let port = scene.address(0)?.port();
    let large = forged_broker(900, port, Some("r".repeat(40_000)));
    let refused = scene.runtime.block_on(scene.quorum.submit(large, PATIENCE))?;
    ensure!(refused.is_err(), "a rack of 40 KB is taken");
    let taken = scene.runtime.block_on(scene.quorum.submit(forged_broker(1, port, None), PATIENCE))?;
    ensure!(taken.is_err(), "the id of a broker that lives is given away");
    let mut streams: Vec<(HeartbeatStream, Beat)> = Vec::new();
    for id in 901..906 {
        let registered = scene.runtime.block_on(scene.quorum.submit(forged_broker(id, port, None), PATIENCE))??;
        let beat = Beat {
            broker: registered.broker,
            epoch: registered.epoch,
            incarnation: IncarnationId([u8::try_from(id % 200)?; 16]),
            image_revision: Revision(1 << 40),
        };
        streams.push((scene.runtime.block_on(scene.quorum.heartbeat(beat, PATIENCE))?, beat));
    }
    // For twice as long as a session lasts: what is ready by then stays so.
    for _ in 0..60 {
        for (stream, beat) in &streams {
            stream.beat(beat);
        }
        std::thread::sleep(PAUSE);
    }
    create_topic(scene.address(0)?, "others", 30, 1)?;
    let real = |id: i32| (1..=3).contains(&id);
    scene.until("brokers that exist lead", |scene| {
        let placed = scene.describe("others")?;
        for partition in &placed.partitions {
            ensure!(partition.replica_nodes.iter().all(|id| real(id.0)), "a forged broker has {partition:?}");
        }
        let led = placed.partitions.iter().filter(|partition| real(partition.leader_id.0)).count();
        Ok(led == 30)
    })?;
    scene.holds()?;
    drop(streams);
    scene.ends()
}

/// Ids, epochs and incarnations of brokers are public: none of them lets a client speak for a replica.
#[test]
fn forged_fetches_of_replicas_move_nothing() -> Result<()> {
    let mut scene = Scene::start("forged fetches")?;
    let topic = TopicRef::Id(TopicId(*scene.describe(GOOD)?.topic_id.as_bytes()));
    let epochs = scene.epochs()?;
    for id in 1..=3 {
        let environment = scene.cluster.environment(Node::Broker(id))?;
        let listeners = environment.get("KAFKA_LISTENERS").context("listeners")?;
        let internal = listeners.split(',').find_map(|listener| listener.strip_prefix("INTERNAL://"));
        let internal: SocketAddr = internal.context("a listener for brokers")?.parse()?;
        for (address, key) in [(internal, None), (internal, Some([3; 32])), (scene.cluster.broker_address(id), None)] {
            for &(replica_id, replica_epoch) in epochs.iter().filter(|(broker, _)| broker.0 != id) {
                let partition = FetchPartition { log_start_offset: Offset(0), ..fetched(0, Offset(1 << 40)) };
                let request = FetchRequest {
                    replica_id,
                    replica_epoch,
                    incarnation_key: key.map(IncarnationKey::new),
                    topics: vec![FetchTopic { topic: topic.clone(), partitions: vec![partition] }],
                    ..FetchRequest::default()
                };
                let request = fetch::encode_request(FETCH_VERSION, 7, Some("attacker"), &request)?;
                let response = Bytes::from(call(&mut connect(address)?, &request)?);
                let (_, response) = fetch::decode_response(FETCH_VERSION, &response)?;
                ensure!(response.error == ErrorCode::ClusterAuthorizationFailed, "broker {id}: {response:?}");
            }
        }
    }
    scene.holds()?;
    scene.ends()
}

/// Zeros, of which zstd makes a ten-thousandth.
fn bomb(topic: &str, unpacked: usize) -> Result<Bytes> {
    let value = vec![0; 1 << 20];
    let mut batch = BatchBuilder::new().compression(Compression::Zstd);
    for _ in 0..unpacked >> 20 {
        batch.push(TimestampMs(1), None, Some(&value[..]), &[]);
    }
    let topics = vec![(TopicRef::Name(topic.to_owned()), vec![(PartitionId(0), batch.build()?.freeze())])];
    let call = ProduceCall { transactional_id: None, acks: 1, timeout_ms: 30_000, topics };
    Ok(produce::encode_request(PRODUCE_VERSION, 7, Some("attacker"), &call)?)
}

/// Sends a bomb several times at once. Returns the errors.
fn throw(address: SocketAddr, bomb: &Bytes, times: usize) -> Result<Vec<ErrorCode>> {
    let throw_one = || -> Result<ErrorCode> {
        let response = call(&mut connect(address)?, bomb)?;
        let (_, response) = produce::decode_response(PRODUCE_VERSION, &response)?;
        let mut partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        Ok(partitions.next().context("a partition")?.error)
    };
    std::thread::scope(|scope| {
        let thrown: Vec<_> = (0..times).map(|_| scope.spawn(throw_one)).collect();
        thrown.into_iter().map(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a thrower panicked"))).collect()
    })
}

#[test]
fn g11_batches_that_unpack_to_a_thousand_times_their_size() -> Result<()> {
    const AT_A_TIME: usize = 6;
    const SEARCHES_AT_A_TIME: usize = 40;
    let mut scene = Scene::start("G11")?;
    let address = scene.address(0)?;
    let large = ("max.message.bytes", "2147483647");
    for (topic, kept) in [("repacked", "gzip"), ("unpacked", "uncompressed"), ("as-it-comes", "producer")] {
        create_topic_with(address, topic, (1, 1), &[large, ("compression.type", kept)])?;
        let leader = scene.describe(topic)?.partitions.first().context("a partition")?.leader_id.0;
        let leader = scene.cluster.broker_address(leader);
        let (allowed, too_large) = (bomb(topic, 15 << 20)?, bomb(topic, 200 << 20)?);
        for _ in 0..3 {
            let refused = throw(leader, &too_large, AT_A_TIME)?;
            ensure!(refused.iter().all(|error| *error == ErrorCode::MessageTooLarge), "{topic}: {refused:?}");
            let taken = throw(leader, &allowed, AT_A_TIME / 3)?;
            ensure!(taken.iter().all(|error| *error == ErrorCode::None), "{topic}: {taken:?}");
        }
        // Each search once held a whole batch, unpacked.
        let partition = ListOffsetsPartition::default().with_partition_index(0).with_timestamp(1);
        let asked = ListOffsetsTopic::default().with_name(TopicName(text(topic))).with_partitions(vec![partition]);
        let search = frame(5, &ListOffsetsRequest::default().with_topics(vec![asked]))?;
        let searched: Result<Vec<Vec<u8>>> = std::thread::scope(|scope| {
            let search_one = || call(&mut connect(leader)?, &search);
            let running: Vec<_> = (0..SEARCHES_AT_A_TIME).map(|_| scope.spawn(search_one)).collect();
            running.into_iter().map(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a search panicked"))).collect()
        });
        searched?;
        scene.holds()?;
    }
    scene.ends()
}
