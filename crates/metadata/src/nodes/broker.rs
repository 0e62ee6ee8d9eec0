//! `/brokers/ids/N`: a live broker. ZooKeeper's is ephemeral and its czxid is the broker epoch; here the quorum leader
//! deletes it when the session ends, and the revision of its creation is the broker epoch.

use bytes::Bytes;
use ottla_model::{BrokerId, FeatureLevels, IncarnationId, ListenerName, TimestampMs};
use prost::Message;
use serde::Serialize;

use super::{NodeError, Ordered, to_json};
use crate::image::{BrokerRegistration, Endpoint, LeaderSettings};
use crate::tree::{Node, Path};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EndpointPayload {
    #[prost(string, tag = "1")]
    listener: String,
    #[prost(string, tag = "2")]
    host: String,
    #[prost(uint32, tag = "3")]
    port: u32,
    #[prost(string, tag = "4")]
    security_protocol: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BrokerPayload {
    #[prost(bytes = "bytes", tag = "1")]
    incarnation: Bytes,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<EndpointPayload>,
    #[prost(string, tag = "3")]
    inter_broker_listener: String,
    #[prost(string, optional, tag = "4")]
    rack: Option<String>,
    #[prost(bool, tag = "5")]
    ready: bool,
    #[prost(bool, tag = "6")]
    shutting_down: bool,
    #[prost(int32, tag = "8")]
    min_insync_replicas: i32,
    #[prost(int64, tag = "9")]
    registered_at_ms: i64,
    #[prost(bool, tag = "10")]
    unclean_leader_election: bool,
    #[prost(uint32, tag = "11")]
    leader_rebalance_interval_s: u32,
    /// Of `ottla.version`; 0 and 0 in the nodes of releases that know no levels.
    #[prost(int32, tag = "12")]
    min_level: i32,
    #[prost(int32, tag = "13")]
    max_level: i32,
    #[prost(bool, tag = "14")]
    awaits_clients: bool,
    #[prost(uint32, tag = "15")]
    leader_imbalance_percent: u32,
}

pub(super) fn encode_endpoints(endpoints: &[Endpoint]) -> Vec<EndpointPayload> {
    let payload = |endpoint: &Endpoint| EndpointPayload {
        listener: endpoint.listener.as_str().to_owned(),
        host: endpoint.host.clone(),
        port: endpoint.port.into(),
        security_protocol: endpoint.security_protocol.clone(),
    };
    endpoints.iter().map(payload).collect()
}

pub(super) fn decode_endpoints(payload: Vec<EndpointPayload>) -> Result<Vec<Endpoint>, NodeError> {
    let endpoint = |payload: EndpointPayload| {
        Ok(Endpoint {
            listener: ListenerName::new(payload.listener),
            host: payload.host,
            port: u16::try_from(payload.port).map_err(|_| NodeError::field("port", payload.port))?,
            security_protocol: payload.security_protocol,
        })
    };
    payload.into_iter().map(endpoint).collect()
}

pub(super) fn decode_levels(min: i32, max: i32) -> Result<FeatureLevels, NodeError> {
    FeatureLevels::from_wire(min, max).map_err(|level| NodeError::field("level", level))
}

pub fn path(id: BrokerId) -> Path {
    Path::built(format!("/brokers/ids/{id}"))
}

pub fn encode(broker: &BrokerRegistration) -> Bytes {
    let (min_level, max_level) = broker.levels.to_wire();
    BrokerPayload {
        incarnation: Bytes::copy_from_slice(broker.incarnation.as_bytes()),
        endpoints: encode_endpoints(&broker.endpoints),
        inter_broker_listener: broker.inter_broker_listener.as_str().to_owned(),
        rack: broker.rack.clone(),
        ready: broker.ready,
        shutting_down: broker.shutting_down,
        min_insync_replicas: broker.min_insync_replicas,
        registered_at_ms: broker.registered_at.0,
        unclean_leader_election: broker.leaders.unclean_election,
        leader_rebalance_interval_s: broker.leaders.rebalance_interval_s,
        min_level,
        max_level,
        awaits_clients: broker.awaits_clients,
        leader_imbalance_percent: broker.leaders.imbalance_percent.into(),
    }
    .encode_to_vec()
    .into()
}

/// The node's creation gives the broker epoch.
pub fn decode(id: BrokerId, node: &Node) -> Result<BrokerRegistration, NodeError> {
    let payload = BrokerPayload::decode(node.payload.clone())?;
    Ok(BrokerRegistration {
        id,
        epoch: node.created.into(),
        incarnation: IncarnationId::from_slice(&payload.incarnation)
            .ok_or_else(|| NodeError::field("incarnation", &payload.incarnation))?,
        endpoints: decode_endpoints(payload.endpoints)?,
        inter_broker_listener: ListenerName::new(payload.inter_broker_listener),
        rack: payload.rack,
        ready: payload.ready,
        shutting_down: payload.shutting_down,
        awaits_clients: payload.awaits_clients,
        min_insync_replicas: payload.min_insync_replicas.max(1),
        leaders: LeaderSettings {
            unclean_election: payload.unclean_leader_election,
            rebalance_interval_s: payload.leader_rebalance_interval_s,
            imbalance_percent: u8::try_from(payload.leader_imbalance_percent).unwrap_or(100),
        },
        registered_at: TimestampMs(payload.registered_at_ms),
        levels: decode_levels(payload.min_level, payload.max_level)?,
    })
}

/// Kafka's version 5 of it.
#[derive(Serialize)]
struct Shown<'a> {
    features: Ordered<'a, String>,
    listener_security_protocol_map: Ordered<'a, String>,
    endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rack: Option<String>,
    jmx_port: i32,
    port: i32,
    host: String,
    version: u8,
    timestamp: String,
}

pub fn json(id: BrokerId, node: &Node) -> Result<String, NodeError> {
    let broker = decode(id, node)?;
    let protocols: Vec<_> = broker
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.listener.as_str().to_owned(), endpoint.security_protocol.clone()))
        .collect();
    // The old clients' host and port: of the first plaintext endpoint, as Kafka shows them.
    let plaintext = broker.endpoints.iter().find(|endpoint| endpoint.security_protocol == "PLAINTEXT");
    to_json(&Shown {
        features: Ordered(&[]),
        listener_security_protocol_map: Ordered(&protocols),
        endpoints: broker.endpoints.iter().map(|e| format!("{}://{}:{}", e.listener, e.host, e.port)).collect(),
        rack: broker.rack.clone(),
        jmx_port: -1,
        port: plaintext.map_or(-1, |endpoint| endpoint.port.into()),
        host: plaintext.map(|endpoint| endpoint.host.clone()).unwrap_or_default(),
        version: 5,
        timestamp: broker.registered_at.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_model::{BrokerEpoch, Revision};

    fn endpoint(listener: &str, port: u16) -> Endpoint {
        let (host, security_protocol) = ("127.0.0.1".to_owned(), "PLAINTEXT".to_owned());
        Endpoint { listener: ListenerName::new(listener), host, port, security_protocol }
    }

    #[test]
    fn shows_what_kafka_kept_in_zookeeper() {
        let broker = BrokerRegistration {
            id: BrokerId(1),
            epoch: BrokerEpoch(57),
            incarnation: IncarnationId([7; 16]),
            endpoints: vec![endpoint("INTERNAL", 19091), endpoint("HOST", 29092)],
            inter_broker_listener: ListenerName::new("INTERNAL"),
            rack: None,
            ready: true,
            shutting_down: false,
            levels: FeatureLevels::told(1, 2),
            awaits_clients: true,
            min_insync_replicas: 2,
            leaders: LeaderSettings { unclean_election: true, rebalance_interval_s: 300, imbalance_percent: 10 },
            registered_at: TimestampMs(1795250319983),
        };
        let node = Node { payload: encode(&broker), created: Revision(57), modified: Revision(58), version: 1 };
        assert_eq!(decode(BrokerId(1), &node), Ok(broker));
        // goldens: zookeeper-shell get /brokers/ids/1
        let golden = r#"{"features":{},"listener_security_protocol_map":{"INTERNAL":"PLAINTEXT","HOST":"PLAINTEXT"},"endpoints":["INTERNAL://127.0.0.1:19091","HOST://127.0.0.1:29092"],"jmx_port":-1,"port":19091,"host":"127.0.0.1","version":5,"timestamp":"1795250319983"}"#;
        assert_eq!(json(BrokerId(1), &node).as_deref(), Ok(golden));
        assert!(decode(BrokerId(1), &Node { payload: Bytes::from_static(b"\xff"), ..node }).is_err());
    }
}
