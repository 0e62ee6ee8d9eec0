//! The table of APIs: what a sender must be allowed to do, as in Kafka. The handlers check it, because what follows
//! from a denial differs: an error of the request, of one of its items, or an item that is left out.

use ottla_authorizer::Operation::{self, *};
use ottla_authorizer::ResourceType::{self, *};
use ottla_protocol::Api;

/// What an API checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checked {
    /// Nothing: the API tells nothing of the cluster's content.
    Nothing,
    /// The operation on every resource of the type that the request names or the answer shows.
    Each(Operation, ResourceType),
    /// Any of the two is enough.
    Or(Operation, ResourceType, Operation, ResourceType),
}

use Checked::{Each, Nothing, Or};

/// What the API checks; several in the order in which they are checked.
pub fn requirements(api: Api) -> &'static [Checked] {
    match api {
        Api::ApiVersions
        | Api::SaslHandshake
        | Api::SaslAuthenticate
        | Api::GetTelemetrySubscriptions
        | Api::PushTelemetry => &[Nothing],
        Api::Produce => &[Each(Write, TransactionalId), Each(Write, Topic)],
        // Followers need the cluster action, consumers the topic.
        Api::Fetch => &[Or(ClusterAction, Cluster, Read, Topic)],
        Api::DescribeTopicPartitions => &[Each(Describe, Topic)],
        Api::ListOffsets | Api::OffsetForLeaderEpoch => &[Or(ClusterAction, Cluster, Describe, Topic)],
        // A topic that would be created needs more.
        Api::Metadata => &[Each(Describe, Topic), Or(Create, Cluster, Create, Topic)],
        Api::InitProducerId => &[
            Each(Write, TransactionalId),
            Each(TwoPhaseCommit, TransactionalId),
            Or(IdempotentWrite, Cluster, Write, Topic),
        ],
        Api::FindCoordinator => &[Each(Describe, Group), Each(Describe, TransactionalId)],
        Api::CreateTopics => &[Or(Create, Cluster, Create, Topic), Each(DescribeConfigs, Topic)],
        Api::DeleteTopics => &[Each(Describe, Topic), Or(Delete, Cluster, Delete, Topic)],
        Api::DeleteRecords => &[Each(Delete, Topic)],
        Api::CreatePartitions => &[Each(Alter, Topic)],
        Api::DescribeConfigs => {
            &[Each(DescribeConfigs, Topic), Each(DescribeConfigs, Cluster), Each(DescribeConfigs, Group)]
        }
        Api::AlterConfigs | Api::IncrementalAlterConfigs => {
            &[Each(AlterConfigs, Topic), Each(AlterConfigs, Cluster), Each(AlterConfigs, Group)]
        }
        Api::ListConfigResources | Api::DescribeClientQuotas => &[Each(DescribeConfigs, Cluster)],
        Api::AlterClientQuotas => &[Each(AlterConfigs, Cluster)],
        Api::DescribeLogDirs
        | Api::DescribeUserScramCredentials
        | Api::DescribeCluster
        | Api::DescribeAcls
        | Api::ListPartitionReassignments
        | Api::DescribeQuorum => &[Each(Describe, Cluster)],
        Api::ElectLeaders
        | Api::AlterUserScramCredentials
        | Api::AlterPartitionReassignments
        | Api::AlterReplicaLogDirs
        | Api::CreateAcls
        | Api::DeleteAcls
        | Api::UpdateFeatures
        | Api::UnregisterBroker
        | Api::AddRaftVoter
        | Api::RemoveRaftVoter => &[Each(Alter, Cluster)],
        // A token for another user.
        Api::CreateDelegationToken => &[Each(CreateTokens, User)],
        // Owners and renewers may, and nobody else.
        Api::RenewDelegationToken | Api::ExpireDelegationToken => &[Nothing],
        // The tokens of others.
        Api::DescribeDelegationToken => &[Or(Describe, DelegationToken, DescribeTokens, User)],
        Api::DescribeProducers => &[Each(Read, Topic)],
        Api::WriteTxnMarkers => &[Or(Alter, Cluster, ClusterAction, Cluster)],
        Api::ConsumerGroupDescribe => &[Each(Describe, Group), Each(Describe, Topic)],
        Api::DescribeGroups => &[Each(Describe, Group)],
        // A subscription needs its topics to be described.
        Api::ConsumerGroupHeartbeat => &[Each(Read, Group), Each(Describe, Topic)],
        Api::JoinGroup | Api::SyncGroup | Api::Heartbeat | Api::LeaveGroup => &[Each(Read, Group)],
        Api::DeleteGroups => &[Each(Delete, Group)],
        Api::ListGroups => &[Or(Describe, Cluster, Describe, Group)],
        Api::OffsetCommit => &[Each(Read, Group), Each(Read, Topic)],
        Api::OffsetFetch => &[Each(Describe, Group), Each(Describe, Topic)],
        Api::OffsetDelete => &[Each(Delete, Group), Each(Read, Topic)],
        // Clients of transactional ids; from version 4 on leaders of partitions.
        Api::AddPartitionsToTxn => &[Each(Write, TransactionalId), Each(Write, Topic), Each(ClusterAction, Cluster)],
        Api::AddOffsetsToTxn => &[Each(Write, TransactionalId), Each(Read, Group)],
        Api::EndTxn => &[Each(Write, TransactionalId)],
        Api::TxnOffsetCommit => &[Each(Write, TransactionalId), Each(Read, Group), Each(Read, Topic)],
        Api::DescribeTransactions => &[Each(Describe, TransactionalId), Each(Describe, Topic)],
        Api::ListTransactions => &[Each(Describe, TransactionalId)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tables know what an API changes, and both are written by hand: that of the APIs, by which later requests of
    /// a connection wait, and this one. An API that is new to either is compared here.
    #[test]
    fn requests_wait_for_every_api_that_needs_the_right_to_change_something() {
        let changes = |operation: Operation| {
            matches!(operation, Write | Create | Delete | Alter | AlterConfigs | ClusterAction | CreateTokens)
        };
        // Followers fetch and look for offsets by the cluster action; topics that Metadata creates come after its
        // response, in Kafka too.
        let reads = [Api::Fetch, Api::ListOffsets, Api::OffsetForLeaderEpoch, Api::Metadata];
        // They need less than what they change: a consumer may commit what it may read, and a token has its owner.
        let writes = [Api::OffsetCommit, Api::LeaveGroup, Api::RenewDelegationToken, Api::ExpireDelegationToken];
        for &api in Api::ALL {
            let needs_a_right = requirements(api).iter().any(|checked| match *checked {
                Nothing => false,
                Each(operation, _) => changes(operation),
                Or(one, _, other, _) => changes(one) || changes(other),
            });
            let expected = (needs_a_right && !reads.contains(&api)) || writes.contains(&api);
            assert_eq!(api.is_write(), expected, "{api}");
        }
    }
}
