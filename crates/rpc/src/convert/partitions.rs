//! ISR changes and resignations.

use ottla_metadata::controller::{
    AlterPartition, AlterPartitions, AlteredPartition, AlteredPartitions, ResignLeadership, ResignReason, Resigned,
};
use ottla_metadata::image::IsrMember;
use ottla_model::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, PartitionId, Revision, TopicIdPartition};

use super::{InvalidField, Wire, code, error, topic_id, topic_id_to_proto};
use crate::cluster;

impl Wire for AlterPartition {
    type Message = cluster::AlterPartition;

    fn into_proto(self) -> Self::Message {
        let member =
            |member: IsrMember| cluster::IsrMember { broker_id: member.broker.0, broker_epoch: member.epoch.0 };
        cluster::AlterPartition {
            topic_id: topic_id_to_proto(self.partition.topic_id),
            partition: self.partition.partition.0,
            leader_epoch: self.leader_epoch.0,
            partition_epoch: self.partition_epoch.0,
            isr: self.isr.into_iter().map(member).collect(),
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let member = |member: cluster::IsrMember| IsrMember {
            broker: BrokerId(member.broker_id),
            epoch: BrokerEpoch(member.broker_epoch),
        };
        Ok(Self {
            partition: TopicIdPartition {
                topic_id: topic_id(&message.topic_id)?,
                partition: PartitionId(message.partition),
            },
            leader_epoch: LeaderEpoch(message.leader_epoch),
            partition_epoch: PartitionEpoch(message.partition_epoch),
            isr: message.isr.into_iter().map(member).collect(),
        })
    }
}

impl Wire for AlterPartitions {
    type Message = cluster::AlterPartitionsRequest;

    fn into_proto(self) -> Self::Message {
        cluster::AlterPartitionsRequest {
            broker_id: self.broker.0,
            broker_epoch: self.epoch.0,
            partitions: self.partitions.into_iter().map(Wire::into_proto).collect(),
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self {
            broker: BrokerId(message.broker_id),
            epoch: BrokerEpoch(message.broker_epoch),
            partitions: message.partitions.into_iter().map(Wire::from_proto).collect::<Result<_, _>>()?,
        })
    }
}

impl Wire for AlteredPartition {
    type Message = cluster::AlterPartitionResult;

    fn into_proto(self) -> Self::Message {
        cluster::AlterPartitionResult {
            topic_id: topic_id_to_proto(self.partition.topic_id),
            partition: self.partition.partition.0,
            error_code: code(self.error),
            leader: self.leader.0,
            leader_epoch: self.leader_epoch.0,
            partition_epoch: self.partition_epoch.0,
            isr: self.isr.into_iter().map(|broker| broker.0).collect(),
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self {
            partition: TopicIdPartition {
                topic_id: topic_id(&message.topic_id)?,
                partition: PartitionId(message.partition),
            },
            error: error(message.error_code),
            leader: BrokerId(message.leader),
            leader_epoch: LeaderEpoch(message.leader_epoch),
            partition_epoch: PartitionEpoch(message.partition_epoch),
            isr: message.isr.into_iter().map(BrokerId).collect(),
        })
    }
}

impl Wire for AlteredPartitions {
    type Message = cluster::AlterPartitionsResponse;

    fn into_proto(self) -> Self::Message {
        cluster::AlterPartitionsResponse {
            error_code: code(self.error),
            partitions: self.partitions.into_iter().map(Wire::into_proto).collect(),
            revision: self.revision.0,
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self {
            error: error(message.error_code),
            partitions: message.partitions.into_iter().map(Wire::from_proto).collect::<Result<_, _>>()?,
            revision: Revision(message.revision),
        })
    }
}

fn reason_from_proto(message: i32) -> Result<ResignReason, InvalidField> {
    match cluster::ResignReason::try_from(message) {
        Ok(cluster::ResignReason::Stalled) => Ok(ResignReason::Stalled),
        Ok(cluster::ResignReason::Offline) => Ok(ResignReason::Offline),
        Ok(cluster::ResignReason::Lost) => Ok(ResignReason::Lost),
        Err(_) => Err(InvalidField::new("reason", format!("unknown reason {message}"))),
    }
}

fn reason_to_proto(reason: ResignReason) -> cluster::ResignReason {
    match reason {
        ResignReason::Stalled => cluster::ResignReason::Stalled,
        ResignReason::Offline => cluster::ResignReason::Offline,
        ResignReason::Lost => cluster::ResignReason::Lost,
    }
}

impl Wire for ResignLeadership {
    type Message = cluster::ResignLeadershipRequest;

    fn into_proto(self) -> Self::Message {
        let partition = |partition: TopicIdPartition| cluster::TopicIdPartition {
            topic_id: topic_id_to_proto(partition.topic_id),
            partition: partition.partition.0,
        };
        cluster::ResignLeadershipRequest {
            broker_id: self.broker.0,
            broker_epoch: self.epoch.0,
            partitions: self.partitions.into_iter().map(partition).collect(),
            reason: reason_to_proto(self.reason).into(),
        }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        let partitions = message.partitions.into_iter().map(|partition| {
            let topic_id = topic_id(&partition.topic_id)?;
            Ok(TopicIdPartition { topic_id, partition: PartitionId(partition.partition) })
        });
        Ok(Self {
            broker: BrokerId(message.broker_id),
            epoch: BrokerEpoch(message.broker_epoch),
            partitions: partitions.collect::<Result<_, _>>()?,
            reason: reason_from_proto(message.reason)?,
        })
    }
}

impl Wire for Resigned {
    type Message = cluster::ResignLeadershipResponse;

    fn into_proto(self) -> Self::Message {
        cluster::ResignLeadershipResponse { error_code: code(self.error), revision: self.revision.0 }
    }

    fn from_proto(message: Self::Message) -> Result<Self, InvalidField> {
        Ok(Self { error: error(message.error_code), revision: Revision(message.revision) })
    }
}
