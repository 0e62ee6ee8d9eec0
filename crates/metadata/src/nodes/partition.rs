//! `/brokers/topics/T/partitions/P/state`: the leader and the ISR of a partition. The replicas are in the topic's node.
//! Beside Kafka's fields it has the additions of Kafka 4: the ISR's broker epochs, the ELR, the last known leader.

use bytes::Bytes;
use ottla_model::{BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, PartitionEpoch, PartitionId, TopicName};
use prost::Message;
use serde::Serialize;

use super::{NodeError, to_json};
use crate::image::{Assignment, IsrMember, LeaderRecoveryState, PartitionState};
use crate::tree::Path;

#[derive(Clone, PartialEq, prost::Message)]
struct StatePayload {
    #[prost(sint32, tag = "1")]
    leader: i32,
    #[prost(int32, tag = "2")]
    leader_epoch: i32,
    #[prost(int32, tag = "3")]
    partition_epoch: i32,
    #[prost(int32, tag = "4")]
    controller_epoch: i32,
    #[prost(int32, repeated, tag = "5")]
    isr: Vec<i32>,
    /// Beside `isr`, member by member.
    #[prost(sint64, repeated, tag = "6")]
    isr_broker_epochs: Vec<i64>,
    #[prost(int32, repeated, tag = "7")]
    elr: Vec<i32>,
    #[prost(int32, repeated, tag = "8")]
    last_known_elr: Vec<i32>,
    /// None while the partition has a leader.
    #[prost(int32, optional, tag = "9")]
    last_known_leader: Option<i32>,
    #[prost(int32, tag = "10")]
    leader_recovery_state: i32,
    #[prost(int32, repeated, tag = "11")]
    offline: Vec<i32>,
    /// Beside `offline`, member by member.
    #[prost(sint64, repeated, tag = "12")]
    offline_broker_epochs: Vec<i64>,
}

pub fn path(topic: &TopicName, partition: PartitionId) -> Path {
    Path::built(format!("/brokers/topics/{topic}/partitions/{partition}/state"))
}

/// Whether a path is that of a partition's state.
pub fn is_state(path: &Path) -> bool {
    let partition = path.as_str().strip_prefix("/brokers/topics/").and_then(|rest| rest.strip_suffix("/state"));
    partition.is_some_and(|partition| partition.contains("/partitions/"))
}

/// The topic and the number in the path of a partition's state; none for a path of another kind. Whether the topic's
/// name is valid is not checked: no image has a topic of an invalid one.
pub fn parts(path: &Path) -> Option<(&str, PartitionId)> {
    let partition = path.as_str().strip_prefix("/brokers/topics/")?.strip_suffix("/state")?;
    let (topic, number) = partition.split_once("/partitions/")?;
    Some((topic, PartitionId(number.parse().ok()?)))
}

/// The parent of a topic's partitions, a node of no kind.
pub fn parent_path(topic: &TopicName) -> Path {
    Path::built(format!("/brokers/topics/{topic}/partitions"))
}

pub fn encode(state: &PartitionState) -> Bytes {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|broker| broker.0).collect();
    StatePayload {
        leader: state.leader.0,
        leader_epoch: state.leader_epoch.0,
        partition_epoch: state.partition_epoch.0,
        controller_epoch: state.controller_epoch.0,
        isr: state.isr.iter().map(|member| member.broker.0).collect(),
        isr_broker_epochs: state.isr.iter().map(|member| member.epoch.0).collect(),
        elr: ids(&state.elr),
        last_known_elr: ids(&state.last_known_elr),
        last_known_leader: (state.last_known_leader != BrokerId::NONE).then_some(state.last_known_leader.0),
        leader_recovery_state: match state.leader_recovery_state {
            LeaderRecoveryState::Recovered => 0,
            LeaderRecoveryState::Recovering => 1,
        },
        offline: state.offline.iter().map(|member| member.broker.0).collect(),
        offline_broker_epochs: state.offline.iter().map(|member| member.epoch.0).collect(),
    }
    .encode_to_vec()
    .into()
}

pub fn decode(payload: &Bytes, assignment: &Assignment) -> Result<PartitionState, NodeError> {
    let payload = StatePayload::decode(&**payload)?;
    let members = |field, brokers: &[i32], epochs: &[i64]| match brokers.len() == epochs.len() {
        true => Ok(brokers
            .iter()
            .zip(epochs)
            .map(|(broker, epoch)| IsrMember { broker: BrokerId(*broker), epoch: BrokerEpoch(*epoch) })
            .collect()),
        false => Err(NodeError::field(field, epochs)),
    };
    let ids = |brokers: Vec<i32>| brokers.into_iter().map(BrokerId).collect();
    Ok(PartitionState {
        leader: BrokerId(payload.leader),
        leader_epoch: LeaderEpoch(payload.leader_epoch),
        partition_epoch: PartitionEpoch(payload.partition_epoch),
        controller_epoch: ControllerEpoch(payload.controller_epoch),
        replicas: assignment.replicas.clone(),
        reassignment: assignment.reassignment.clone(),
        isr: members("isr_broker_epochs", &payload.isr, &payload.isr_broker_epochs)?,
        elr: ids(payload.elr),
        offline: members("offline_broker_epochs", &payload.offline, &payload.offline_broker_epochs)?,
        last_known_elr: ids(payload.last_known_elr),
        last_known_leader: payload.last_known_leader.map_or(BrokerId::NONE, BrokerId),
        leader_recovery_state: match payload.leader_recovery_state {
            0 => LeaderRecoveryState::Recovered,
            1 => LeaderRecoveryState::Recovering,
            unknown => return Err(NodeError::field("leader_recovery_state", unknown)),
        },
    })
}

/// Kafka's version 1 of it; the recovery state and the additions of Kafka 4 appear only if they are set.
#[derive(Serialize)]
struct Shown {
    controller_epoch: i32,
    leader: i32,
    version: u8,
    leader_epoch: i32,
    isr: Vec<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader_recovery_state: Option<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    elr: Vec<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    last_known_elr: Vec<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_known_leader: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    offline: Vec<i32>,
}

pub fn json(payload: &Bytes) -> Result<String, NodeError> {
    let state = decode(payload, &Assignment::default())?;
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|broker| broker.0).collect();
    to_json(&Shown {
        controller_epoch: state.controller_epoch.0,
        leader: state.leader.0,
        version: 1,
        leader_epoch: state.leader_epoch.0,
        isr: state.isr_ids().map(|broker| broker.0).collect(),
        leader_recovery_state: (state.leader_recovery_state == LeaderRecoveryState::Recovering).then_some(1),
        elr: ids(&state.elr),
        last_known_elr: ids(&state.last_known_elr),
        last_known_leader: (state.last_known_leader != BrokerId::NONE).then_some(state.last_known_leader.0),
        offline: state.offline.iter().map(|member| member.broker.0).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_kafka_kept_in_zookeeper() {
        let replicas = [3, 2, 1].map(BrokerId);
        let mut state = PartitionState {
            leader: BrokerId(3),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            controller_epoch: ControllerEpoch(1),
            replicas: replicas.to_vec(),
            reassignment: None,
            isr: replicas.map(|broker| IsrMember { broker, epoch: BrokerEpoch(40 + i64::from(broker.0)) }).to_vec(),
            elr: vec![],
            offline: vec![],
            last_known_elr: vec![],
            last_known_leader: BrokerId::NONE,
            leader_recovery_state: LeaderRecoveryState::Recovered,
        };
        assert_eq!(decode(&encode(&state), &replicas.to_vec().into()), Ok(state.clone()));
        // goldens: zookeeper-shell get /brokers/topics/a.b_c/partitions/0/state
        let golden = r#"{"controller_epoch":1,"leader":3,"version":1,"leader_epoch":0,"isr":[3,2,1]}"#;
        assert_eq!(json(&encode(&state)).as_deref(), Ok(golden));
        state.leader = BrokerId::NONE;
        state.isr.truncate(1);
        state.elr = vec![BrokerId(2)];
        state.last_known_elr = vec![BrokerId(1)];
        state.last_known_leader = BrokerId(3);
        state.offline = vec![IsrMember { broker: BrokerId(3), epoch: BrokerEpoch(43) }];
        assert_eq!(decode(&encode(&state), &replicas.to_vec().into()), Ok(state.clone()));
        let shown = json(&encode(&state)).expect("shows");
        assert!(
            shown.ends_with(r#""isr":[3],"elr":[2],"last_known_elr":[1],"last_known_leader":3,"offline":[3]}"#),
            "{shown}"
        );
    }

    /// A topic may be called `state`.
    #[test]
    fn the_path_of_a_state_is_known() {
        let topic = TopicName::new("state").expect("valid");
        assert!(is_state(&path(&topic, PartitionId(7))));
        assert!(!is_state(&super::super::topic::path(&topic)) && !is_state(&parent_path(&topic)));
    }

    #[test]
    fn the_parts_of_a_path_are_those_that_made_it() {
        for name in ["a.b_c", "state", "partitions"] {
            let topic = TopicName::new(name).expect("valid");
            assert_eq!(parts(&path(&topic, PartitionId(7))), Some((name, PartitionId(7))));
            assert_eq!((parts(&super::super::topic::path(&topic)), parts(&parent_path(&topic))), (None, None));
        }
        for other in ["/brokers/topics/t/partitions/x/state", "/brokers/topics/t/partitions/7", "/brokers/ids/7"] {
            assert_eq!(parts(&Path::new(other).expect("a path")), None);
        }
    }

    #[test]
    fn an_isr_without_its_epochs_is_refused() {
        let payload = StatePayload { isr: vec![1], ..StatePayload::default() };
        assert!(decode(&payload.encode_to_vec().into(), &Assignment::default()).is_err());
    }
}
