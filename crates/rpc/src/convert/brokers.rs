//! Requests of a broker about itself: registration, heartbeats, shutdown, producer ids.

use std::time::Duration;

use bytes::Bytes;
use ottla_metadata::controller::{
    AllocateProducerIds, AllocatedProducerIds, Beat, BeatAnswer, ControlledShutdown, Refusal, Register, Registered,
    ShutdownProgress, UnregisterBroker, Unregistered,
};
use ottla_metadata::image::{Endpoint, LeaderSettings};
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, ErrorCode, FeatureLevels, IncarnationId, IncarnationKey, ListenerName, Revision,
    incarnation_key,
};

use super::{InvalidField, Wire, code, error, id_16, refusal_from_proto, refusal_to_proto};
use crate::cluster;

fn incarnation(bytes: &[u8]) -> Result<IncarnationId, InvalidField> {
    id_16("incarnation_id", bytes).map(IncarnationId)
}

fn incarnation_to_proto(incarnation: IncarnationId) -> Bytes {
    Bytes::copy_from_slice(incarnation.as_bytes())
}

pub fn key_to_proto(key: &IncarnationKey) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

/// None where the message has none.
pub fn key_from_proto(bytes: &[u8]) -> Result<Option<IncarnationKey>, InvalidField> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let wrong = |_| InvalidField::new("incarnation_key", format!("{} bytes where a key has 32", bytes.len()));
    bytes.try_into().map(|bytes| Some(IncarnationKey::new(bytes))).map_err(wrong)
}

fn endpoint_to_proto(endpoint: Endpoint) -> cluster::Endpoint {
    cluster::Endpoint {
        listener: endpoint.listener.as_str().to_owned(),
        host: endpoint.host,
        port: u32::from(endpoint.port),
        security_protocol: endpoint.security_protocol,
    }
}

fn endpoint_from_proto(message: cluster::Endpoint) -> Result<Endpoint, InvalidField> {
    let port = u16::try_from(message.port)
        .map_err(|_| InvalidField::new("endpoints.port", format!("{} is no port", message.port)))?;
    Ok(Endpoint {
        listener: ListenerName::new(message.listener),
        host: message.host,
        port,
        security_protocol: message.security_protocol,
    })
}

pub fn levels_from_proto(min: i32, max: i32) -> Result<FeatureLevels, InvalidField> {
    FeatureLevels::from_wire(min, max).map_err(|level| InvalidField::new("level", level.to_string()))
}

impl Wire for Register {
    type Message = cluster::RegisterRequest;

    fn into_proto(self) -> Self::Message {
        let (min_level, max_level) = self.levels.to_wire();
        cluster::RegisterRequest {
            broker_id: self.broker.0,
            incarnation_id: incarnation_to_proto(self.incarnation),
            cluster_id: self.cluster_id.map(|id| id.as_str().to_owned()).unwrap_or_default(),
            endpoints: self.endpoints.into_iter().map(endpoint_to_proto).collect(),
            inter_broker_listener: self.inter_broker_listener.as_str().to_owned(),
            rack: self.rack,
            clean_shutdown_epoch: self.clean_shutdown_epoch.0,
            min_insync_replicas: self.min_insync_replicas,
            unclean_leader_election: self.leaders.unclean_election,
            leader_rebalance_interval_s: self.leaders.rebalance_interval_s,
            min_level,
            max_level,
            leader_imbalance_percent: self.leaders.imbalance_percent.into(),
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self {
            broker: BrokerId(message.broker_id),
            incarnation: incarnation(&message.incarnation_id)?,
            cluster_id: Some(message.cluster_id).filter(|id| !id.is_empty()).map(ClusterId::new),
            endpoints: message.endpoints.into_iter().map(endpoint_from_proto).collect::<Result<_, _>>()?,
            inter_broker_listener: ListenerName::new(message.inter_broker_listener),
            rack: message.rack,
            clean_shutdown_epoch: BrokerEpoch(message.clean_shutdown_epoch),
            min_insync_replicas: message.min_insync_replicas,
            leaders: LeaderSettings {
                unclean_election: message.unclean_leader_election,
                rebalance_interval_s: message.leader_rebalance_interval_s,
                imbalance_percent: u8::try_from(message.leader_imbalance_percent).unwrap_or(100).min(100),
            },
            levels: levels_from_proto(message.min_level, message.max_level)?,
        })
    }
}

impl Wire for Result<Registered, Refusal> {
    type Message = cluster::RegisterResponse;

    fn into_proto(self) -> Self::Message {
        match self {
            Ok(registered) => cluster::RegisterResponse {
                broker_id: registered.broker.0,
                broker_epoch: registered.epoch.0,
                cluster_id: registered.cluster_id.as_str().to_owned(),
                revision: registered.revision.0,
                error_code: 0,
                error_message: String::new(),
            },
            Err(refusal) => cluster::RegisterResponse {
                broker_id: BrokerId::NONE.0,
                broker_epoch: BrokerEpoch::NONE.0,
                error_code: code(refusal.error),
                error_message: refusal.message,
                ..cluster::RegisterResponse::default()
            },
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        if let Some(refusal) = refusal_from_proto(message.error_code, message.error_message) {
            return Ok(Err(refusal));
        }
        Ok(Ok(Registered {
            broker: BrokerId(message.broker_id),
            epoch: BrokerEpoch(message.broker_epoch),
            cluster_id: ClusterId::new(message.cluster_id),
            revision: Revision(message.revision),
        }))
    }
}

pub fn beat_to_proto(beat: &Beat) -> cluster::HeartbeatRequest {
    cluster::HeartbeatRequest {
        broker_id: beat.broker.0,
        broker_epoch: beat.epoch.0,
        incarnation_id: incarnation_to_proto(beat.incarnation),
        image_revision: beat.image_revision.0,
        incarnation_key: Bytes::new(),
    }
}

/// The first beat of a stream shows the key of its incarnation.
pub fn first_beat_to_proto(beat: &Beat, key: Option<&IncarnationKey>) -> cluster::HeartbeatRequest {
    cluster::HeartbeatRequest { incarnation_key: key.map(key_to_proto).unwrap_or_default(), ..beat_to_proto(beat) }
}

/// The first beat of a stream, if it is of the incarnation that it names.
pub fn first_beat_from_proto(message: &cluster::HeartbeatRequest) -> Result<Beat, tonic::Status> {
    let (beat, key) = (beat_from_proto(message)?, key_from_proto(&message.incarnation_key)?);
    match incarnation_key::is_proved(beat.incarnation, key.as_ref()) {
        true => Ok(beat),
        false => Err(tonic::Status::permission_denied("the heartbeat does not show the key of its incarnation")),
    }
}

pub fn beat_from_proto(message: &cluster::HeartbeatRequest) -> Result<Beat, InvalidField> {
    Ok(Beat {
        broker: BrokerId(message.broker_id),
        epoch: BrokerEpoch(message.broker_epoch),
        incarnation: incarnation(&message.incarnation_id)?,
        image_revision: Revision(message.image_revision),
    })
}

pub fn beat_answer_to_proto(answer: &BeatAnswer) -> cluster::HeartbeatResponse {
    cluster::HeartbeatResponse {
        committed_revision: answer.committed_revision.0,
        fenced: answer.fenced,
        session_timeout_ms: u32::try_from(answer.session_timeout.as_millis()).unwrap_or(u32::MAX),
    }
}

pub fn beat_answer_from_proto(message: &cluster::HeartbeatResponse) -> BeatAnswer {
    BeatAnswer {
        committed_revision: Revision(message.committed_revision),
        fenced: message.fenced,
        session_timeout: Duration::from_millis(u64::from(message.session_timeout_ms)),
    }
}

impl Wire for ControlledShutdown {
    type Message = cluster::ControlledShutdownRequest;

    fn into_proto(self) -> Self::Message {
        cluster::ControlledShutdownRequest {
            broker_id: self.broker.0,
            broker_epoch: self.epoch.0,
            incarnation_id: incarnation_to_proto(self.incarnation),
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self {
            broker: BrokerId(message.broker_id),
            epoch: BrokerEpoch(message.broker_epoch),
            incarnation: incarnation(&message.incarnation_id)?,
        })
    }
}

impl Wire for UnregisterBroker {
    type Message = cluster::UnregisterBrokerRequest;

    fn into_proto(self) -> Self::Message {
        cluster::UnregisterBrokerRequest { broker_id: self.broker.0 }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self { broker: BrokerId(message.broker_id) })
    }
}

impl Wire for Result<Unregistered, Refusal> {
    type Message = cluster::UnregisterBrokerResponse;

    fn into_proto(self) -> Self::Message {
        let (revision, refusal) = match self {
            Ok(unregistered) => (unregistered.revision, None),
            Err(refusal) => (Revision::default(), Some(refusal)),
        };
        let (error_code, error_message) = refusal_to_proto(refusal);
        cluster::UnregisterBrokerResponse { error_code, error_message, revision: revision.0 }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let revision = Revision(message.revision);
        let refusal = refusal_from_proto(message.error_code, message.error_message);
        Ok(refusal.map_or(Ok(Unregistered { revision }), Err))
    }
}

impl Wire for ShutdownProgress {
    type Message = cluster::ControlledShutdownResponse;

    fn into_proto(self) -> Self::Message {
        cluster::ControlledShutdownResponse {
            error_code: code(self.error),
            remaining_leaderships: self.remaining_leaderships,
            revision: self.revision.0,
            done: self.done,
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self {
            error: error(message.error_code),
            remaining_leaderships: message.remaining_leaderships,
            revision: Revision(message.revision),
            done: message.done,
        })
    }
}

impl Wire for AllocateProducerIds {
    type Message = cluster::AllocateProducerIdsRequest;

    fn into_proto(self) -> Self::Message {
        cluster::AllocateProducerIdsRequest { broker_id: self.broker.0, broker_epoch: self.epoch.0 }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self { broker: BrokerId(message.broker_id), epoch: BrokerEpoch(message.broker_epoch) })
    }
}

impl Wire for Result<AllocatedProducerIds, ErrorCode> {
    type Message = cluster::AllocateProducerIdsResponse;

    fn into_proto(self) -> Self::Message {
        match self {
            Ok(block) => cluster::AllocateProducerIdsResponse {
                error_code: 0,
                first_producer_id: block.first,
                count: block.count,
            },
            Err(error) => {
                cluster::AllocateProducerIdsResponse { error_code: code(error), first_producer_id: -1, count: 0 }
            }
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(match message.error_code {
            0 => Ok(AllocatedProducerIds { first: message.first_producer_id, count: message.count }),
            refused => Err(error(refused)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_read() {
        let message = cluster::RegisterRequest {
            broker_id: -1,
            incarnation_id: vec![7; 16].into(),
            endpoints: vec![cluster::Endpoint {
                listener: "PLAINTEXT".into(),
                host: "kafka-1".into(),
                port: 9092,
                security_protocol: "PLAINTEXT".into(),
            }],
            inter_broker_listener: "PLAINTEXT".into(),
            clean_shutdown_epoch: -1,
            min_level: 1,
            max_level: 2,
            ..cluster::RegisterRequest::default()
        };
        let read = Register::from_proto(message.clone()).expect("well formed");
        assert_eq!((read.broker, &read.cluster_id, &read.rack), (BrokerId::NONE, &None, &None));
        assert_eq!(read.into_proto(), message);
        let mut bad = message.clone();
        bad.incarnation_id = vec![7; 15].into();
        assert!(Register::from_proto(bad).is_err());
        let mut bad = message.clone();
        bad.endpoints[0].port = 65_536;
        assert!(Register::from_proto(bad).is_err());
        let untold = cluster::RegisterRequest { min_level: 0, max_level: 0, ..message.clone() };
        assert_eq!(Register::from_proto(untold).map(|read| read.levels), Ok(FeatureLevels::UNTOLD));
        let bad = cluster::RegisterRequest { max_level: 40_000, ..message };
        assert!(Register::from_proto(bad).is_err());
    }
}
