//! A request of every API, which asks for something of each thing that the API is about: for tests of what one may do.

use anyhow::{Context as _, Result};
use ottla_model::TimestampMs;
use ottla_protocol::Api;
use ottla_protocol::kafka_protocol::messages::*;
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::record_batch::BatchBuilder;
use uuid::Uuid;

/// Sends a request to a broker and returns the response.
pub trait Ask {
    /// # Errors
    /// The connection ended, or the response cannot be decoded.
    fn ask<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response>;
}

/// What the requests name.
pub struct Names {
    /// A topic with a partition 0.
    pub topic: &'static str,
    pub topic_id: Uuid,
    /// A topic that does not exist.
    pub new_topic: &'static str,
    pub group: &'static str,
    pub transactional_id: &'static str,
}

/// The error codes of a request that asks for something of each thing that the API is about; none for the APIs of the
/// connection itself.
///
/// # Errors
/// As [`Ask::ask`].
#[expect(clippy::too_many_lines, reason = "one arm for each API")]
pub fn errors(ask: &mut impl Ask, api: Api, names: &Names) -> Result<Vec<i16>> {
    let (t, g) = (TopicName(text(names.topic)), GroupId(text(names.group)));
    let x = TransactionalId(text(names.transactional_id));
    let codes = match api {
        Api::ApiVersions | Api::SaslHandshake | Api::SaslAuthenticate => vec![],
        Api::Produce => {
            use produce_request::{PartitionProduceData, TopicProduceData};
            let batch = BatchBuilder::new().record(TimestampMs(1), None, Some(b"value")).build()?.freeze();
            let partition = PartitionProduceData::default().with_records(Some(batch));
            let asked = TopicProduceData::default().with_name(t).with_partition_data(vec![partition]);
            let request = ProduceRequest::default().with_acks(1).with_timeout_ms(1_000).with_topic_data(vec![asked]);
            vec![first(&first(&ask.ask(9, &request)?.responses)?.partition_responses)?.error_code]
        }
        Api::Fetch => {
            use fetch_request::{FetchPartition, FetchTopic};
            let partition = FetchPartition::default().with_partition_max_bytes(1_000);
            let asked = FetchTopic::default().with_topic(t).with_partitions(vec![partition]);
            let request = FetchRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_max_bytes(1_000)
                .with_session_epoch(-1)
                .with_topics(vec![asked]);
            vec![first(&first(&ask.ask(12, &request)?.responses)?.partitions)?.error_code]
        }
        Api::ListOffsets => {
            use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
            let asked = ListOffsetsTopic::default()
                .with_name(t)
                .with_partitions(vec![ListOffsetsPartition::default().with_timestamp(-1)]);
            let response = ask.ask(7, &ListOffsetsRequest::default().with_topics(vec![asked]))?;
            vec![response.topics[0].partitions[0].error_code]
        }
        Api::Metadata => {
            use metadata_request::MetadataRequestTopic;
            let asked = MetadataRequestTopic::default().with_name(Some(t));
            let response = ask.ask(12, &MetadataRequest::default().with_topics(Some(vec![asked])))?;
            vec![response.topics[0].error_code]
        }
        Api::OffsetCommit => {
            use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
            let asked = OffsetCommitRequestTopic::default()
                .with_name(t)
                .with_partitions(vec![OffsetCommitRequestPartition::default()]);
            let request = OffsetCommitRequest::default().with_group_id(g).with_topics(vec![asked]);
            vec![ask.ask(8, &request)?.topics[0].partitions[0].error_code]
        }
        Api::OffsetFetch => {
            use offset_fetch_request::OffsetFetchRequestGroup;
            let asked = OffsetFetchRequestGroup::default().with_group_id(g).with_topics(None);
            vec![ask.ask(8, &OffsetFetchRequest::default().with_groups(vec![asked]))?.groups[0].error_code]
        }
        Api::FindCoordinator => {
            let mut codes = Vec::new();
            for (kind, key) in [(0, names.group), (1, names.transactional_id)] {
                let request =
                    FindCoordinatorRequest::default().with_key_type(kind).with_coordinator_keys(vec![text(key)]);
                codes.push(ask.ask(4, &request)?.coordinators[0].error_code);
            }
            codes
        }
        Api::JoinGroup => vec![ask.ask(5, &JoinGroupRequest::default().with_group_id(g))?.error_code],
        Api::Heartbeat => vec![ask.ask(4, &HeartbeatRequest::default().with_group_id(g))?.error_code],
        Api::LeaveGroup => vec![ask.ask(4, &LeaveGroupRequest::default().with_group_id(g))?.error_code],
        Api::SyncGroup => vec![ask.ask(4, &SyncGroupRequest::default().with_group_id(g))?.error_code],
        Api::DescribeGroups => {
            let request = DescribeGroupsRequest::default().with_groups(vec![g]);
            vec![ask.ask(5, &request)?.groups[0].error_code]
        }
        Api::ConsumerGroupDescribe => {
            let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![g]);
            vec![ask.ask(0, &request)?.groups[0].error_code]
        }
        Api::ConsumerGroupHeartbeat => {
            let request = ConsumerGroupHeartbeatRequest::default().with_group_id(g).with_member_id(text("m"));
            vec![ask.ask(0, &request)?.error_code]
        }
        // What may not be seen is left out.
        Api::ListGroups => vec![ask.ask(4, &ListGroupsRequest::default())?.error_code],
        Api::ListTransactions => vec![ask.ask(0, &ListTransactionsRequest::default())?.error_code],
        Api::CreateTopics => {
            use create_topics_request::CreatableTopic;
            let asked = CreatableTopic::default().with_name(TopicName(text(names.new_topic))).with_num_partitions(1);
            vec![ask.ask(5, &CreateTopicsRequest::default().with_topics(vec![asked]))?.topics[0].error_code]
        }
        Api::DeleteTopics => {
            use delete_topics_request::DeleteTopicState;
            let by_name = DeleteTopicState::default().with_name(Some(t));
            let by_id = DeleteTopicState::default().with_name(None).with_topic_id(names.topic_id);
            let request = DeleteTopicsRequest::default().with_topics(vec![by_name, by_id]).with_timeout_ms(1_000);
            ask.ask(6, &request)?.responses.iter().map(|one| one.error_code).collect()
        }
        Api::DeleteRecords => {
            use delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
            let partitions = vec![DeleteRecordsPartition::default()];
            let asked = DeleteRecordsTopic::default().with_name(t).with_partitions(partitions);
            let response = ask.ask(2, &DeleteRecordsRequest::default().with_topics(vec![asked]))?;
            vec![response.topics[0].partitions[0].error_code]
        }
        Api::CreatePartitions => {
            use create_partitions_request::CreatePartitionsTopic;
            let asked = CreatePartitionsTopic::default().with_name(t).with_count(9).with_assignments(None);
            let request = CreatePartitionsRequest::default().with_topics(vec![asked]).with_timeout_ms(10_000);
            vec![ask.ask(2, &request)?.results[0].error_code]
        }
        Api::InitProducerId => {
            let mut codes = Vec::new();
            for id in [None, Some(x)] {
                let request =
                    InitProducerIdRequest::default().with_transactional_id(id).with_transaction_timeout_ms(10_000);
                codes.push(ask.ask(4, &request)?.error_code);
            }
            codes
        }
        Api::OffsetForLeaderEpoch => {
            use offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
            let partitions = vec![OffsetForLeaderPartition::default()];
            let asked = OffsetForLeaderTopic::default().with_topic(t).with_partitions(partitions);
            let response = ask.ask(3, &OffsetForLeaderEpochRequest::default().with_topics(vec![asked]))?;
            vec![response.topics[0].partitions[0].error_code]
        }
        Api::AddPartitionsToTxn => {
            use add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
            let asked = AddPartitionsToTxnTopic::default().with_name(t).with_partitions(vec![0]);
            let request = AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(x)
                .with_v3_and_below_topics(vec![asked.clone()]);
            let of_client = &ask.ask(3, &request)?.results_by_topic_v3_and_below[0];
            let of_client = of_client.results_by_partition[0].partition_error_code;
            // Kafka never answers a leader that asks for no transaction.
            let transaction = AddPartitionsToTxnTransaction::default()
                .with_transactional_id(TransactionalId(text(names.transactional_id)))
                .with_verify_only(true)
                .with_topics(vec![asked]);
            let of_leader = ask.ask(4, &AddPartitionsToTxnRequest::default().with_transactions(vec![transaction]))?;
            let of_partition = of_leader
                .results_by_transaction
                .iter()
                .map(|one| one.topic_results[0].results_by_partition[0].partition_error_code);
            [of_client, of_leader.error_code].into_iter().chain(of_partition).collect()
        }
        Api::AddOffsetsToTxn => {
            vec![ask.ask(3, &AddOffsetsToTxnRequest::default().with_transactional_id(x))?.error_code]
        }
        Api::EndTxn => vec![ask.ask(3, &EndTxnRequest::default().with_transactional_id(x))?.error_code],
        Api::WriteTxnMarkers => {
            use write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
            let asked = WritableTxnMarkerTopic::default().with_name(t).with_partition_indexes(vec![0]);
            let marker = WritableTxnMarker::default().with_topics(vec![asked]);
            let response = ask.ask(1, &WriteTxnMarkersRequest::default().with_markers(vec![marker]))?;
            vec![response.markers[0].topics[0].partitions[0].error_code]
        }
        Api::TxnOffsetCommit => {
            use txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
            let partitions = vec![TxnOffsetCommitRequestPartition::default()];
            let asked = TxnOffsetCommitRequestTopic::default().with_name(t).with_partitions(partitions);
            let request = TxnOffsetCommitRequest::default().with_transactional_id(x).with_topics(vec![asked]);
            vec![ask.ask(3, &request)?.topics[0].partitions[0].error_code]
        }
        Api::DescribeAcls => {
            let any = DescribeAclsRequest::default()
                .with_resource_type_filter(1)
                .with_pattern_type_filter(1)
                .with_operation(1)
                .with_permission_type(1);
            vec![ask.ask(3, &any)?.error_code]
        }
        Api::CreateAcls => {
            use create_acls_request::AclCreation;
            let creation = AclCreation::default()
                .with_resource_type(2)
                .with_resource_name(text(names.topic))
                .with_resource_pattern_type(3)
                .with_principal(text("User:nobody"))
                .with_host(text("*"))
                .with_operation(8)
                .with_permission_type(3);
            vec![ask.ask(3, &CreateAclsRequest::default().with_creations(vec![creation]))?.results[0].error_code]
        }
        Api::DeleteAcls => {
            use delete_acls_request::DeleteAclsFilter;
            let filter = DeleteAclsFilter::default()
                .with_resource_type_filter(2)
                .with_resource_name_filter(Some(text("nobodys")))
                .with_pattern_type_filter(3)
                .with_operation(1)
                .with_permission_type(1);
            vec![ask.ask(3, &DeleteAclsRequest::default().with_filters(vec![filter]))?.filter_results[0].error_code]
        }
        Api::DescribeConfigs => {
            use describe_configs_request::DescribeConfigsResource;
            let asked = [(2, names.topic), (4, "1"), (32, names.group)].map(|(kind, name)| {
                DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name))
            });
            let response = ask.ask(4, &DescribeConfigsRequest::default().with_resources(asked.to_vec()))?;
            response.results.iter().map(|result| result.error_code).collect()
        }
        Api::AlterConfigs => {
            use alter_configs_request::AlterConfigsResource;
            let asked = [(2, names.topic), (4, "1"), (32, names.group)].map(|(kind, name)| {
                AlterConfigsResource::default().with_resource_type(kind).with_resource_name(text(name))
            });
            let response = ask.ask(2, &AlterConfigsRequest::default().with_resources(asked.to_vec()))?;
            response.responses.iter().map(|result| result.error_code).collect()
        }
        Api::IncrementalAlterConfigs => {
            use incremental_alter_configs_request::AlterConfigsResource;
            let asked = [(2, names.topic), (4, "1"), (8, "1"), (32, names.group)].map(|(kind, name)| {
                AlterConfigsResource::default().with_resource_type(kind).with_resource_name(text(name))
            });
            let request = IncrementalAlterConfigsRequest::default().with_resources(asked.to_vec());
            ask.ask(1, &request)?.responses.iter().map(|result| result.error_code).collect()
        }
        Api::AlterReplicaLogDirs => {
            use alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
            let asked = AlterReplicaLogDirTopic::default().with_name(t).with_partitions(vec![0]);
            let directory = AlterReplicaLogDir::default().with_path(text("/tmp")).with_topics(vec![asked]);
            let response = ask.ask(2, &AlterReplicaLogDirsRequest::default().with_dirs(vec![directory]))?;
            vec![response.results[0].partitions[0].error_code]
        }
        Api::DescribeLogDirs => vec![ask.ask(3, &DescribeLogDirsRequest::default())?.error_code],
        Api::DeleteGroups => {
            let request = DeleteGroupsRequest::default().with_groups_names(vec![g]);
            vec![ask.ask(2, &request)?.results[0].error_code]
        }
        Api::ElectLeaders => vec![ask.ask(2, &ElectLeadersRequest::default())?.error_code],
        Api::AlterPartitionReassignments => {
            vec![ask.ask(0, &AlterPartitionReassignmentsRequest::default())?.error_code]
        }
        Api::ListPartitionReassignments => {
            vec![ask.ask(0, &ListPartitionReassignmentsRequest::default())?.error_code]
        }
        Api::OffsetDelete => vec![ask.ask(0, &OffsetDeleteRequest::default().with_group_id(g))?.error_code],
        Api::DescribeClientQuotas => vec![ask.ask(1, &DescribeClientQuotasRequest::default())?.error_code],
        Api::AlterClientQuotas => {
            let request = AlterClientQuotasRequest::default().with_entries(vec![Default::default()]);
            vec![ask.ask(1, &request)?.entries[0].error_code]
        }
        Api::DescribeUserScramCredentials => {
            vec![ask.ask(0, &DescribeUserScramCredentialsRequest::default())?.error_code]
        }
        Api::AlterUserScramCredentials => {
            use alter_user_scram_credentials_request::ScramCredentialDeletion;
            let deletion = ScramCredentialDeletion::default().with_name(text("alice")).with_mechanism(1);
            let request = AlterUserScramCredentialsRequest::default().with_deletions(vec![deletion]);
            vec![ask.ask(0, &request)?.results[0].error_code]
        }
        Api::CreateDelegationToken => vec![ask.ask(3, &CreateDelegationTokenRequest::default())?.error_code],
        Api::RenewDelegationToken => vec![ask.ask(2, &RenewDelegationTokenRequest::default())?.error_code],
        Api::ExpireDelegationToken => vec![ask.ask(2, &ExpireDelegationTokenRequest::default())?.error_code],
        Api::DescribeDelegationToken => {
            vec![ask.ask(3, &DescribeDelegationTokenRequest::default())?.error_code]
        }
        Api::DescribeQuorum => vec![ask.ask(1, &DescribeQuorumRequest::default())?.error_code],
        Api::UpdateFeatures => vec![ask.ask(1, &UpdateFeaturesRequest::default())?.error_code],
        Api::DescribeCluster => vec![ask.ask(0, &DescribeClusterRequest::default())?.error_code],
        Api::DescribeProducers => {
            use describe_producers_request::TopicRequest;
            let asked = TopicRequest::default().with_name(t).with_partition_indexes(vec![0]);
            let response = ask.ask(0, &DescribeProducersRequest::default().with_topics(vec![asked]))?;
            vec![response.topics[0].partitions[0].error_code]
        }
        Api::AddRaftVoter => vec![ask.ask(0, &AddRaftVoterRequest::default())?.error_code],
        Api::RemoveRaftVoter => vec![ask.ask(0, &RemoveRaftVoterRequest::default())?.error_code],
        Api::UnregisterBroker => {
            vec![ask.ask(0, &UnregisterBrokerRequest::default().with_broker_id(BrokerId(7)))?.error_code]
        }
        Api::DescribeTransactions => {
            let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![x]);
            vec![ask.ask(0, &request)?.transaction_states[0].error_code]
        }
        Api::GetTelemetrySubscriptions => {
            vec![ask.ask(0, &GetTelemetrySubscriptionsRequest::default())?.error_code]
        }
        Api::PushTelemetry => {
            let subscribed = ask.ask(0, &GetTelemetrySubscriptionsRequest::default())?;
            let request = PushTelemetryRequest::default()
                .with_client_instance_id(subscribed.client_instance_id)
                .with_subscription_id(subscribed.subscription_id);
            vec![ask.ask(0, &request)?.error_code]
        }
        Api::ListConfigResources => vec![ask.ask(1, &ListConfigResourcesRequest::default())?.error_code],
        Api::DescribeTopicPartitions => {
            use describe_topic_partitions_request::TopicRequest;
            let asked = TopicRequest::default().with_name(t);
            let request =
                DescribeTopicPartitionsRequest::default().with_topics(vec![asked]).with_response_partition_limit(10);
            vec![ask.ask(0, &request)?.topics[0].error_code]
        }
    };
    Ok(codes)
}

/// What one may do with the cluster, the topic and the group, as bits of operations ([KIP-430]).
///
/// [KIP-430]: https://cwiki.apache.org/confluence/display/KAFKA/KIP-430
///
/// # Errors
/// As [`Ask::ask`].
pub fn authorized_operations(ask: &mut impl Ask, names: &Names) -> Result<[i32; 3]> {
    use metadata_request::MetadataRequestTopic;
    let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
    let cluster = ask.ask(0, &request)?.cluster_authorized_operations;
    let asked = MetadataRequestTopic::default().with_name(Some(TopicName(text(names.topic))));
    let request =
        MetadataRequest::default().with_topics(Some(vec![asked])).with_include_topic_authorized_operations(true);
    let topic = first(&ask.ask(9, &request)?.topics)?.topic_authorized_operations;
    let request = DescribeGroupsRequest::default()
        .with_groups(vec![GroupId(text(names.group))])
        .with_include_authorized_operations(true);
    let group = first(&ask.ask(5, &request)?.groups)?.authorized_operations;
    Ok([cluster, topic, group])
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn first<T>(items: &[T]) -> Result<&T> {
    items.first().context("the response has no item")
}
