//! ISR changes and resignations.

use ottla_metadata::controller::{
    AlterPartition, AlterPartitions, AlteredPartition, AlteredPartitions, ResignLeadership, ResignReason, Resigned,
};
use ottla_metadata::image::IsrMember;
use ottla_model::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, PartitionId, TopicIdPartition};

use super::{InvalidField, code, topic_id};
use crate::cluster;

pub fn alter_partitions_from_proto(wire: cluster::AlterPartitionsRequest) -> Result<AlterPartitions, InvalidField> {
    let partitions = wire.partitions.into_iter().map(|partition| {
        Ok(AlterPartition {
            partition: TopicIdPartition {
                topic_id: topic_id(&partition.topic_id)?,
                partition: PartitionId(partition.partition),
            },
            leader_epoch: LeaderEpoch(partition.leader_epoch),
            partition_epoch: PartitionEpoch(partition.partition_epoch),
            isr: partition
                .isr
                .into_iter()
                .map(|member| IsrMember { broker: BrokerId(member.broker_id), epoch: BrokerEpoch(member.broker_epoch) })
                .collect(),
        })
    });
    Ok(AlterPartitions {
        broker: BrokerId(wire.broker_id),
        epoch: BrokerEpoch(wire.broker_epoch),
        partitions: partitions.collect::<Result<_, _>>()?,
    })
}

pub fn altered_partitions_to_proto(answer: AlteredPartitions) -> cluster::AlterPartitionsResponse {
    let result = |partition: AlteredPartition| cluster::AlterPartitionResult {
        topic_id: partition.partition.topic_id.0.to_vec().into(),
        partition: partition.partition.partition.0,
        error_code: code(partition.error),
        leader: partition.leader.0,
        leader_epoch: partition.leader_epoch.0,
        partition_epoch: partition.partition_epoch.0,
        isr: partition.isr.into_iter().map(|broker| broker.0).collect(),
    };
    cluster::AlterPartitionsResponse {
        error_code: code(answer.error),
        partitions: answer.partitions.into_iter().map(result).collect(),
        revision: answer.revision.0,
    }
}

pub fn resign_leadership_from_proto(wire: cluster::ResignLeadershipRequest) -> Result<ResignLeadership, InvalidField> {
    let partitions = wire.partitions.into_iter().map(|partition| {
        let topic_id = topic_id(&partition.topic_id)?;
        Ok(TopicIdPartition { topic_id, partition: PartitionId(partition.partition) })
    });
    Ok(ResignLeadership {
        broker: BrokerId(wire.broker_id),
        epoch: BrokerEpoch(wire.broker_epoch),
        partitions: partitions.collect::<Result<_, _>>()?,
        reason: resign_reason(wire.reason)?,
    })
}

fn resign_reason(wire: i32) -> Result<ResignReason, InvalidField> {
    match cluster::ResignReason::try_from(wire) {
        Ok(cluster::ResignReason::Stalled) => Ok(ResignReason::Stalled),
        Ok(cluster::ResignReason::Offline) => Ok(ResignReason::Offline),
        Ok(cluster::ResignReason::Lost) => Ok(ResignReason::Lost),
        Err(_) => Err(InvalidField::new("reason", format!("unknown reason {wire}"))),
    }
}

pub fn resign_reason_to_proto(reason: ResignReason) -> cluster::ResignReason {
    match reason {
        ResignReason::Stalled => cluster::ResignReason::Stalled,
        ResignReason::Offline => cluster::ResignReason::Offline,
        ResignReason::Lost => cluster::ResignReason::Lost,
    }
}

pub fn resigned_to_proto(answer: &Resigned) -> cluster::ResignLeadershipResponse {
    cluster::ResignLeadershipResponse { error_code: code(answer.error), revision: answer.revision.0 }
}
