//! What concerns a broker's own life: registration, heartbeats, shutdown, producer ids.

use ottla_metadata::controller::{
    AllocateProducerIds, AllocatedProducerIds, Beat, BeatAnswer, ControlledShutdown, Refusal, Register, Registered,
    ShutdownProgress,
};
use ottla_metadata::image::Endpoint;
use ottla_model::{BrokerEpoch, BrokerId, ClusterId, ErrorCode, IncarnationId, ListenerName, Revision};

use super::{InvalidField, code, id_16};
use crate::cluster;

fn incarnation(bytes: &[u8]) -> Result<IncarnationId, InvalidField> {
    id_16("incarnation_id", bytes).map(IncarnationId)
}

pub fn endpoint_to_proto(endpoint: &Endpoint) -> cluster::Endpoint {
    cluster::Endpoint {
        listener: endpoint.listener.as_str().to_owned(),
        host: endpoint.host.clone(),
        port: u32::from(endpoint.port),
        security_protocol: endpoint.security_protocol.clone(),
    }
}

fn endpoint_from_proto(wire: cluster::Endpoint) -> Result<Endpoint, InvalidField> {
    let port = u16::try_from(wire.port)
        .map_err(|_| InvalidField::new("endpoints.port", format!("{} is no port", wire.port)))?;
    Ok(Endpoint {
        listener: ListenerName::new(wire.listener),
        host: wire.host,
        port,
        security_protocol: wire.security_protocol,
    })
}

pub fn register_from_proto(wire: cluster::RegisterRequest) -> Result<Register, InvalidField> {
    Ok(Register {
        broker: BrokerId(wire.broker_id),
        incarnation: incarnation(&wire.incarnation_id)?,
        cluster_id: Some(wire.cluster_id).filter(|id| !id.is_empty()).map(ClusterId::new),
        endpoints: wire.endpoints.into_iter().map(endpoint_from_proto).collect::<Result<_, _>>()?,
        inter_broker_listener: ListenerName::new(wire.inter_broker_listener),
        rack: wire.rack,
        clean_shutdown_epoch: BrokerEpoch(wire.clean_shutdown_epoch),
        min_insync_replicas: wire.min_insync_replicas,
    })
}

pub fn registered_to_proto(answer: Result<Registered, Refusal>) -> cluster::RegisterResponse {
    match answer {
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

pub fn beat_from_proto(wire: &cluster::HeartbeatRequest) -> Result<Beat, InvalidField> {
    Ok(Beat {
        broker: BrokerId(wire.broker_id),
        epoch: BrokerEpoch(wire.broker_epoch),
        incarnation: incarnation(&wire.incarnation_id)?,
        image_revision: Revision(wire.image_revision),
    })
}

pub fn beat_answer_to_proto(answer: &BeatAnswer) -> cluster::HeartbeatResponse {
    cluster::HeartbeatResponse {
        committed_revision: answer.committed_revision.0,
        fenced: answer.fenced,
        session_timeout_ms: u32::try_from(answer.session_timeout.as_millis()).unwrap_or(u32::MAX),
    }
}

pub fn controlled_shutdown_from_proto(
    wire: &cluster::ControlledShutdownRequest,
) -> Result<ControlledShutdown, InvalidField> {
    Ok(ControlledShutdown {
        broker: BrokerId(wire.broker_id),
        epoch: BrokerEpoch(wire.broker_epoch),
        incarnation: incarnation(&wire.incarnation_id)?,
    })
}

pub fn shutdown_progress_to_proto(answer: &ShutdownProgress) -> cluster::ControlledShutdownResponse {
    cluster::ControlledShutdownResponse {
        error_code: code(answer.error),
        remaining_leaderships: answer.remaining_leaderships,
        revision: answer.revision.0,
        done: answer.done,
    }
}

pub fn allocate_producer_ids_from_proto(wire: &cluster::AllocateProducerIdsRequest) -> AllocateProducerIds {
    AllocateProducerIds { broker: BrokerId(wire.broker_id), epoch: BrokerEpoch(wire.broker_epoch) }
}

pub fn allocated_producer_ids_to_proto(
    answer: &Result<AllocatedProducerIds, ErrorCode>,
) -> cluster::AllocateProducerIdsResponse {
    match answer {
        Ok(block) => {
            cluster::AllocateProducerIdsResponse { error_code: 0, first_producer_id: block.first, count: block.count }
        }
        Err(error) => {
            cluster::AllocateProducerIdsResponse { error_code: code(*error), first_producer_id: -1, count: 0 }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_read() {
        let wire = cluster::RegisterRequest {
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
            ..cluster::RegisterRequest::default()
        };
        let read = register_from_proto(wire.clone()).expect("well formed");
        assert_eq!((read.broker, read.cluster_id, read.rack), (BrokerId::NONE, None, None));
        assert_eq!(endpoint_to_proto(&read.endpoints[0]), wire.endpoints[0]);
        let mut bad = wire.clone();
        bad.incarnation_id = vec![7; 15].into();
        assert!(register_from_proto(bad).is_err());
        let mut bad = wire;
        bad.endpoints[0].port = 65_536;
        assert!(register_from_proto(bad).is_err());
    }
}
