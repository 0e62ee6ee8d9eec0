//! A small cluster for the handlers' tests: brokers 1 and 2 are live, 3 has registered but is not ready; the topic `t`
//! (id 7) has partition 0 led by 1 with epoch 5 and replicas 1, 2, 3, and partition 1 without a leader and with 2 in
//! its ELR.

use ottla_metadata::image::{LeaderRecoveryState, LeaderSettings};
use ottla_metadata::nodes;
use ottla_metadata::{BrokerRegistration, ConfigEntity, Endpoint, Image, IsrMember, Node, PartitionState, Path};
use ottla_model::{
    BrokerEpoch, BrokerId, ControllerEpoch, IncarnationId, LeaderEpoch, ListenerName, PartitionEpoch, PartitionId,
    Revision, TimestampMs, TopicId, TopicName,
};

pub const CLIENT: &str = "CLIENT";
pub const INTERNAL: &str = "INTERNAL";

fn node(payload: bytes::Bytes) -> Node {
    Node { payload, created: Revision(10), modified: Revision(10), version: 0 }
}

fn broker(id: i32, ready: bool) -> BrokerRegistration {
    let port = u16::try_from(id).expect("small") * 10_000 + 9092;
    let endpoint = |listener: &str, port| Endpoint {
        listener: ListenerName::new(listener),
        host: "localhost".to_owned(),
        port,
        security_protocol: "PLAINTEXT".to_owned(),
    };
    BrokerRegistration {
        id: BrokerId(id),
        epoch: BrokerEpoch(10),
        incarnation: IncarnationId([u8::try_from(id).expect("small"); 16]),
        endpoints: vec![endpoint(CLIENT, port), endpoint(INTERNAL, port + 1)],
        inter_broker_listener: ListenerName::new(INTERNAL),
        rack: None,
        ready,
        shutting_down: false,
        awaits_clients: false,
        min_insync_replicas: 1,
        leaders: LeaderSettings::default(),
        levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
        registered_at: TimestampMs(0),
    }
}

pub fn image() -> Image {
    let topic = TopicName::new("t").expect("valid");
    let replicas = vec![BrokerId(1), BrokerId(2), BrokerId(3)];
    let member = |id| IsrMember { broker: BrokerId(id), epoch: BrokerEpoch(10) };
    let led = PartitionState {
        leader: BrokerId(1),
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(9),
        controller_epoch: ControllerEpoch(1),
        replicas: replicas.clone(),
        reassignment: None,
        isr: vec![member(1), member(2)],
        elr: vec![],
        offline: vec![],
        last_known_elr: vec![],
        last_known_leader: BrokerId::NONE,
        leader_recovery_state: LeaderRecoveryState::Recovered,
    };
    let leaderless = PartitionState {
        leader: BrokerId::NONE,
        isr: vec![member(3)],
        elr: vec![BrokerId(2)],
        offline: vec![],
        last_known_leader: BrokerId(3),
        ..led.clone()
    };
    let assignment = vec![(PartitionId(0), replicas.clone().into()), (PartitionId(1), replicas.into())];
    let topic_node = nodes::topic::TopicNode {
        id: TopicId(7u128.to_be_bytes()),
        assignment,
        grows_to: 0,
        queued: Default::default(),
    };
    let controller = nodes::controller::ControllerNode { broker: BrokerId(1), since: TimestampMs(0) };
    let overrides = [("retention.ms".to_owned(), "60000".to_owned())].into_iter().collect();
    let tree: Vec<(Path, Node)> = vec![
        (nodes::broker::path(BrokerId(1)), node(nodes::broker::encode(&broker(1, true)))),
        (nodes::broker::path(BrokerId(2)), node(nodes::broker::encode(&broker(2, true)))),
        (nodes::broker::path(BrokerId(3)), node(nodes::broker::encode(&broker(3, false)))),
        (nodes::controller::path(), node(nodes::controller::encode(controller))),
        (nodes::topic::path(&topic), node(nodes::topic::encode(&topic_node))),
        (nodes::partition::path(&topic, PartitionId(0)), node(nodes::partition::encode(&led))),
        (nodes::partition::path(&topic, PartitionId(1)), node(nodes::partition::encode(&leaderless))),
        (ConfigEntity::topic("t").path(), node(nodes::config::encode(&overrides))),
    ];
    Image::from_nodes(Revision(10), tree.iter().map(|(path, node)| (path, node))).0
}
