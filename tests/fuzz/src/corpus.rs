//! Valid messages to spoil: one request body for every version of every API, with something in every array.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};
use ottla_model::{
    BrokerEpoch, BrokerId as ModelBrokerId, IncarnationKey, LeaderEpoch, Offset, PartitionId, ProducerEpoch,
    TimestampMs, TopicId,
};
use ottla_protocol::Api;
use ottla_protocol::frame::LENGTH_BYTES;
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::{self, FetchPartition, FetchTopic, ForgottenTopic};
use ottla_protocol::messages::produce::{self, ProduceCall};
use ottla_protocol::messages::write_txn_markers;
use ottla_protocol::record_batch::{BatchBuilder, Compression, Header};

/// Every API with every version that is served.
pub fn served() -> impl Iterator<Item = (Api, i16)> {
    let versions = |api: Api| (api.served().min..=api.served().max).map(move |version| (api, version));
    Api::ALL.iter().copied().flat_map(versions)
}

/// Those that are decoded by `kafka_protocol`.
pub fn served_by_codec() -> impl Iterator<Item = (Api, i16)> {
    served().filter(|(api, _)| {
        !matches!(api, Api::Produce | Api::Fetch | Api::OffsetCommit | Api::OffsetFetch | Api::WriteTxnMarkers)
    })
}

/// A whole valid request without its length prefix.
pub fn request(api: Api, version: i16) -> Bytes {
    let topic = |version_of_ids| {
        if version >= version_of_ids { TopicRef::Id(TopicId([7; 16])) } else { TopicRef::Name("logs".to_owned()) }
    };
    let frame = match api {
        Api::Produce => {
            let partitions = vec![(PartitionId(0), batch(Compression::None)), (PartitionId(1), Bytes::new())];
            let call = ProduceCall {
                transactional_id: Some("tx".to_owned()),
                acks: -1,
                timeout_ms: 1_000,
                topics: vec![(topic(13), partitions), (topic(13), Vec::new())],
            };
            produce::encode_request(version, 1, Some("fuzz"), &call).expect("a small frame")
        }
        Api::Fetch => {
            let partition = FetchPartition {
                partition: PartitionId(1),
                current_leader_epoch: LeaderEpoch(3),
                fetch_offset: Offset(10),
                last_fetched_epoch: LeaderEpoch(2),
                log_start_offset: Offset(0),
                max_bytes: 1_048_576,
                replica_directory_id: [9; 16],
                high_watermark: Some(Offset(5)),
            };
            let request = fetch::FetchRequest {
                cluster_id: Some("cluster".to_owned()),
                replica_id: ModelBrokerId(2),
                replica_epoch: BrokerEpoch(77),
                incarnation_key: Some(IncarnationKey::new([5; IncarnationKey::BYTES])),
                topics: vec![FetchTopic { topic: topic(13), partitions: vec![partition; 3] }],
                forgotten_topics: vec![ForgottenTopic { topic: topic(13), partitions: vec![PartitionId(4); 2] }],
                rack_id: "rack".to_owned(),
                ..fetch::FetchRequest::default()
            };
            fetch::encode_request(version, 1, Some("fuzz"), &request).expect("a small frame")
        }
        Api::WriteTxnMarkers => {
            let marker = write_txn_markers::TxnMarker {
                producer_id: ottla_model::ProducerId(7),
                producer_epoch: ProducerEpoch(1),
                is_commit: true,
                topics: vec![("logs".to_owned(), vec![PartitionId(0), PartitionId(1)]); 2],
                coordinator_epoch: 3,
                transaction_version: 2,
            };
            write_txn_markers::encode_request(version, 1, Some("fuzz"), &[marker.clone(), marker])
                .expect("a small frame")
        }
        api => {
            let body = body(api, version);
            let mut frame = ottla_protocol::frame::begin_request(api, version, 1, Some("fuzz"), body.len());
            frame.extend_from_slice(&body);
            ottla_protocol::frame::finish(&mut frame, 0).expect("a small frame");
            frame.freeze()
        }
    };
    frame.slice(LENGTH_BYTES..)
}

/// A valid batch of a few records.
pub fn batch(compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new().compression(compression);
    let headers = [Header { key: "h".to_owned(), value: Some(Bytes::from_static(b"x")) }];
    for number in 0..5_i64 {
        let value = vec![b'v'; 10 * number as usize];
        builder.push(TimestampMs(1_700_000_000_000 + number), Some(b"key"), Some(&value), &headers);
    }
    builder.push(TimestampMs(1_700_000_000_000), None, None, &[]);
    builder.build().map(BytesMut::freeze).unwrap_or_default()
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn encoded(message: &impl Encodable, version: i16) -> Option<Bytes> {
    let mut out = BytesMut::new();
    message.encode(&mut out, version).ok().map(|()| out.freeze())
}

/// Encodes by names, and puts ids in their places where the version has them: `kafka_protocol` does not know it.
fn by_id(version: i16, encode: impl Fn(i16) -> Option<Bytes>) -> Option<Bytes> {
    const NAME: &[u8] = b"\x05logs";
    if version < 10 {
        return encode(version);
    }
    let by_name = encode(9)?;
    let mut out = BytesMut::new();
    let mut rest = &by_name[..];
    while let Some(at) = rest.windows(NAME.len()).position(|bytes| bytes == NAME) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[7; 16]);
        rest = &rest[at + NAME.len()..];
    }
    out.extend_from_slice(rest);
    Some(out.freeze())
}

/// The body of a request; empty for Produce, Fetch and WriteTxnMarkers.
pub fn body(api: Api, version: i16) -> Bytes {
    let schema = api.schema_version(version);
    let topic = |name| TopicName(text(name));
    let group = GroupId(text("group"));
    let found = match api {
        Api::Produce | Api::Fetch | Api::WriteTxnMarkers => None,
        Api::ListOffsets => {
            use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
            let partitions = vec![ListOffsetsPartition::default().with_partition_index(7).with_timestamp(-1); 3];
            let topics = vec![ListOffsetsTopic::default().with_name(topic("logs")).with_partitions(partitions); 2];
            encoded(&ListOffsetsRequest::default().with_topics(topics), schema)
        }
        Api::Metadata => {
            let topics = vec![metadata_request::MetadataRequestTopic::default().with_name(Some(topic("logs"))); 3];
            encoded(&MetadataRequest::default().with_topics(Some(topics)), schema)
        }
        Api::FindCoordinator => {
            let request = FindCoordinatorRequest::default();
            if version >= 4 {
                encoded(&request.with_coordinator_keys(vec![text("a"), text("group")]), schema)
            } else {
                encoded(&request.with_key(text("group")), schema)
            }
        }
        Api::OffsetCommit => {
            use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
            let partitions = vec![OffsetCommitRequestPartition::default().with_committed_offset(9); 3];
            let topics =
                vec![OffsetCommitRequestTopic::default().with_name(topic("logs")).with_partitions(partitions); 2];
            let request = OffsetCommitRequest::default().with_group_id(group).with_member_id(text("m"));
            by_id(version, |version| encoded(&request.clone().with_topics(topics.clone()), version))
        }
        Api::OffsetFetch => {
            use offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
            let request = OffsetFetchRequest::default();
            if version >= 8 {
                let topics =
                    OffsetFetchRequestTopics::default().with_name(topic("logs")).with_partition_indexes(vec![0; 3]);
                let group = OffsetFetchRequestGroup::default().with_group_id(group).with_topics(Some(vec![topics; 2]));
                by_id(version, |version| encoded(&request.clone().with_groups(vec![group.clone(); 2]), version))
            } else {
                let topics =
                    OffsetFetchRequestTopic::default().with_name(topic("logs")).with_partition_indexes(vec![0; 3]);
                encoded(&request.with_group_id(group).with_topics(Some(vec![topics; 2])), schema)
            }
        }
        Api::JoinGroup => {
            use join_group_request::JoinGroupRequestProtocol;
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(text("range"))
                .with_metadata(Bytes::from_static(b"metadata"));
            let request = JoinGroupRequest::default()
                .with_group_id(group)
                .with_member_id(text("m"))
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol; 3]);
            encoded(&request, schema)
        }
        Api::Heartbeat => encoded(&HeartbeatRequest::default().with_group_id(group).with_member_id(text("m")), schema),
        Api::LeaveGroup => {
            let request = LeaveGroupRequest::default().with_group_id(group);
            if version >= 3 {
                let member = leave_group_request::MemberIdentity::default().with_member_id(text("m"));
                encoded(&request.with_members(vec![member; 3]), schema)
            } else {
                encoded(&request.with_member_id(text("m")), schema)
            }
        }
        Api::SyncGroup => {
            let assignment = sync_group_request::SyncGroupRequestAssignment::default()
                .with_member_id(text("m"))
                .with_assignment(Bytes::from_static(b"assignment"));
            let request = SyncGroupRequest::default().with_group_id(group).with_assignments(vec![assignment; 3]);
            encoded(&request, schema)
        }
        Api::DescribeGroups => encoded(&DescribeGroupsRequest::default().with_groups(vec![group; 3]), schema),
        Api::ListGroups => {
            let mut request = ListGroupsRequest::default();
            if version >= 4 {
                request = request.with_states_filter(vec![text("Stable"); 2]);
            }
            if version >= 5 {
                request = request.with_types_filter(vec![text("classic"); 2]);
            }
            encoded(&request, schema)
        }
        Api::DeleteGroups => encoded(&DeleteGroupsRequest::default().with_groups_names(vec![group; 3]), schema),
        Api::OffsetDelete => {
            use offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
            let partitions = vec![OffsetDeleteRequestPartition::default().with_partition_index(1); 3];
            let topics =
                vec![OffsetDeleteRequestTopic::default().with_name(topic("logs")).with_partitions(partitions); 2];
            encoded(&OffsetDeleteRequest::default().with_group_id(group).with_topics(topics), schema)
        }
        Api::ConsumerGroupHeartbeat => {
            let owned = consumer_group_heartbeat_request::TopicPartitions::default().with_partitions(vec![1, 2]);
            let request = ConsumerGroupHeartbeatRequest::default()
                .with_group_id(group)
                .with_member_id(text("m"))
                .with_subscribed_topic_names(Some(vec![topic("logs"); 2]))
                .with_server_assignor(Some(text("uniform")))
                .with_topic_partitions(Some(vec![owned; 2]));
            encoded(&request, schema)
        }
        Api::ConsumerGroupDescribe => {
            encoded(&ConsumerGroupDescribeRequest::default().with_group_ids(vec![group; 3]), schema)
        }
        Api::ApiVersions => {
            let request = ApiVersionsRequest::default();
            let named =
                request.clone().with_client_software_name(text("librdkafka")).with_client_software_version(text("2.6"));
            encoded(&named, schema).or_else(|| encoded(&request, schema))
        }
        Api::CreateTopics => {
            use create_topics_request::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig};
            let assignment = CreatableReplicaAssignment::default()
                .with_partition_index(0)
                .with_broker_ids(vec![BrokerId(1), BrokerId(2)]);
            let config = CreatableTopicConfig::default().with_name(text("cleanup.policy")).with_value(None);
            let topic = CreatableTopic::default()
                .with_name(topic("logs"))
                .with_num_partitions(1)
                .with_replication_factor(2)
                .with_assignments(vec![assignment; 2])
                .with_configs(vec![config; 2]);
            encoded(&CreateTopicsRequest::default().with_topics(vec![topic; 2]), schema)
        }
        Api::DeleteTopics => {
            if version >= 6 {
                let by_name = delete_topics_request::DeleteTopicState::default().with_name(Some(topic("logs")));
                let by_id = delete_topics_request::DeleteTopicState::default().with_name(None);
                encoded(&DeleteTopicsRequest::default().with_topics(vec![by_name, by_id]), schema)
            } else {
                encoded(&DeleteTopicsRequest::default().with_topic_names(vec![topic("logs"), topic("b")]), schema)
            }
        }
        Api::DeleteRecords => {
            use delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
            let topic = DeleteRecordsTopic::default()
                .with_name(topic("logs"))
                .with_partitions(vec![DeleteRecordsPartition::default(); 3]);
            encoded(&DeleteRecordsRequest::default().with_topics(vec![topic; 2]), schema)
        }
        Api::InitProducerId => {
            let id = Some(TransactionalId(text("tx")));
            encoded(&InitProducerIdRequest::default().with_transactional_id(id), schema)
        }
        Api::OffsetForLeaderEpoch => {
            use offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
            let topic = OffsetForLeaderTopic::default()
                .with_topic(topic("logs"))
                .with_partitions(vec![OffsetForLeaderPartition::default(); 3]);
            encoded(&OffsetForLeaderEpochRequest::default().with_topics(vec![topic; 2]), schema)
        }
        Api::DescribeConfigs => {
            let resource = describe_configs_request::DescribeConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("logs"));
            let all = resource.clone().with_configuration_keys(None);
            let some = resource.with_configuration_keys(Some(vec![text("a"), text("b")]));
            encoded(&DescribeConfigsRequest::default().with_resources(vec![all, some]), schema)
        }
        Api::AlterConfigs => {
            use alter_configs_request::{AlterConfigsResource, AlterableConfig};
            let config = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("1")));
            let resource = AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("logs"))
                .with_configs(vec![config; 2]);
            encoded(&AlterConfigsRequest::default().with_resources(vec![resource; 2]), schema)
        }
        Api::IncrementalAlterConfigs => {
            use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
            let set = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("1")));
            let delete = AlterableConfig::default().with_name(text("segment.ms")).with_config_operation(1);
            let resource = AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("logs"))
                .with_configs(vec![set, delete]);
            encoded(&IncrementalAlterConfigsRequest::default().with_resources(vec![resource; 2]), schema)
        }
        Api::GetTelemetrySubscriptions => encoded(&GetTelemetrySubscriptionsRequest::default(), schema),
        Api::PushTelemetry => {
            let request = PushTelemetryRequest::default().with_metrics(Bytes::from_static(&[10, 4, 18, 2, 18, 0]));
            encoded(&request, schema)
        }
        Api::ListConfigResources => {
            let types = if version >= 1 { vec![2, 4, 32] } else { Vec::new() };
            encoded(&ListConfigResourcesRequest::default().with_resource_types(types), schema)
        }
        Api::DescribeLogDirs => {
            let topic = describe_log_dirs_request::DescribableLogDirTopic::default()
                .with_topic(topic("logs"))
                .with_partitions(vec![0, 1, 2]);
            encoded(&DescribeLogDirsRequest::default().with_topics(Some(vec![topic; 2])), schema)
        }
        Api::AlterReplicaLogDirs => {
            use alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
            let topic = AlterReplicaLogDirTopic::default().with_name(topic("logs")).with_partitions(vec![0, 1]);
            let dir = AlterReplicaLogDir::default().with_path(text("/data")).with_topics(vec![topic; 2]);
            encoded(&AlterReplicaLogDirsRequest::default().with_dirs(vec![dir; 2]), schema)
        }
        Api::CreatePartitions => {
            use create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
            let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1); 3]);
            let topic = CreatePartitionsTopic::default()
                .with_name(topic("logs"))
                .with_count(5)
                .with_assignments(Some(vec![assignment; 2]));
            let other = CreatePartitionsTopic::default().with_assignments(None);
            encoded(&CreatePartitionsRequest::default().with_topics(vec![topic, other]), schema)
        }
        Api::ElectLeaders => {
            use elect_leaders_request::TopicPartitions;
            let topic = TopicPartitions::default().with_topic(topic("logs")).with_partitions(vec![0, 1, 2]);
            encoded(&ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic; 2])), schema)
        }
        Api::SaslHandshake => encoded(&SaslHandshakeRequest::default().with_mechanism(text("PLAIN")), schema),
        Api::SaslAuthenticate => {
            encoded(&SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from_static(b"\0a\0b")), schema)
        }
        Api::DescribeUserScramCredentials => {
            let user = describe_user_scram_credentials_request::UserName::default().with_name(text("a"));
            encoded(&DescribeUserScramCredentialsRequest::default().with_users(Some(vec![user; 2])), schema)
        }
        Api::AlterUserScramCredentials => {
            use alter_user_scram_credentials_request::{ScramCredentialDeletion, ScramCredentialUpsertion};
            let deletion = ScramCredentialDeletion::default().with_name(text("a")).with_mechanism(1);
            let upsertion = ScramCredentialUpsertion::default()
                .with_name(text("b"))
                .with_mechanism(2)
                .with_iterations(4096)
                .with_salt(Bytes::from_static(b"salt"))
                .with_salted_password(Bytes::from_static(&[7; 64]));
            let request = AlterUserScramCredentialsRequest::default().with_deletions(vec![deletion; 2]);
            encoded(&request.with_upsertions(vec![upsertion; 2]), schema)
        }
        Api::CreateDelegationToken => {
            let renewer = create_delegation_token_request::CreatableRenewers::default()
                .with_principal_type(text("User"))
                .with_principal_name(text("a"));
            encoded(&CreateDelegationTokenRequest::default().with_renewers(vec![renewer; 2]), schema)
        }
        Api::RenewDelegationToken => {
            encoded(&RenewDelegationTokenRequest::default().with_hmac(Bytes::from_static(&[7; 64])), schema)
        }
        Api::ExpireDelegationToken => {
            encoded(&ExpireDelegationTokenRequest::default().with_hmac(Bytes::from_static(&[7; 64])), schema)
        }
        Api::DescribeDelegationToken => {
            let owner = describe_delegation_token_request::DescribeDelegationTokenOwner::default()
                .with_principal_type(text("User"))
                .with_principal_name(text("a"));
            encoded(&DescribeDelegationTokenRequest::default().with_owners(Some(vec![owner; 2])), schema)
        }
        Api::DescribeAcls => {
            let request = DescribeAclsRequest::default().with_resource_name_filter(Some(text("logs")));
            encoded(&request.with_principal_filter(Some(text("User:a"))), schema)
        }
        Api::CreateAcls => {
            let creation = create_acls_request::AclCreation::default()
                .with_resource_name(text("logs"))
                .with_principal(text("User:a"))
                .with_host(text("*"));
            encoded(&CreateAclsRequest::default().with_creations(vec![creation; 3]), schema)
        }
        Api::DeleteAcls => {
            let filter = delete_acls_request::DeleteAclsFilter::default().with_resource_name_filter(Some(text("logs")));
            encoded(&DeleteAclsRequest::default().with_filters(vec![filter; 3]), schema)
        }
        Api::AlterPartitionReassignments => {
            use alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
            let moved = ReassignablePartition::default().with_replicas(Some(vec![BrokerId(1), BrokerId(2)]));
            let cancelled = ReassignablePartition::default().with_partition_index(1).with_replicas(None);
            let topic = ReassignableTopic::default().with_name(topic("logs")).with_partitions(vec![moved, cancelled]);
            encoded(&AlterPartitionReassignmentsRequest::default().with_topics(vec![topic; 2]), schema)
        }
        Api::ListPartitionReassignments => {
            let topic = list_partition_reassignments_request::ListPartitionReassignmentsTopics::default()
                .with_name(topic("logs"))
                .with_partition_indexes(vec![0, 1]);
            encoded(&ListPartitionReassignmentsRequest::default().with_topics(Some(vec![topic; 2])), schema)
        }
        Api::DescribeClientQuotas => {
            let component = describe_client_quotas_request::ComponentData::default()
                .with_entity_type(text("user"))
                .with_match(Some(text("a")));
            encoded(&DescribeClientQuotasRequest::default().with_components(vec![component; 2]), schema)
        }
        Api::AlterClientQuotas => {
            use alter_client_quotas_request::{EntityData, EntryData, OpData};
            let entity = EntityData::default().with_entity_type(text("user")).with_entity_name(Some(text("a")));
            let op = OpData::default().with_key(text("producer_byte_rate")).with_value(1e6);
            let entry = EntryData::default().with_entity(vec![entity; 2]).with_ops(vec![op; 2]);
            encoded(&AlterClientQuotasRequest::default().with_entries(vec![entry; 2]), schema)
        }
        Api::UpdateFeatures => {
            let update = update_features_request::FeatureUpdateKey::default()
                .with_feature(text("metadata.version"))
                .with_max_version_level(30);
            encoded(&UpdateFeaturesRequest::default().with_feature_updates(vec![update; 2]), schema)
        }
        Api::DescribeProducers => {
            let topic = describe_producers_request::TopicRequest::default()
                .with_name(topic("logs"))
                .with_partition_indexes(vec![0, 1]);
            encoded(&DescribeProducersRequest::default().with_topics(vec![topic; 2]), schema)
        }
        Api::DescribeQuorum => {
            use describe_quorum_request::{PartitionData, TopicData};
            let topic = TopicData::default()
                .with_topic_name(topic("__cluster_metadata"))
                .with_partitions(vec![PartitionData::default(); 2]);
            encoded(&DescribeQuorumRequest::default().with_topics(vec![topic; 2]), schema)
        }
        Api::AddPartitionsToTxn => {
            use add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
            let topic = AddPartitionsToTxnTopic::default().with_name(topic("logs")).with_partitions(vec![0, 1]);
            let request = AddPartitionsToTxnRequest::default();
            let request = if version >= 4 {
                let transaction = AddPartitionsToTxnTransaction::default()
                    .with_transactional_id(TransactionalId(text("tx")))
                    .with_topics(vec![topic; 2]);
                request.with_transactions(vec![transaction; 2])
            } else {
                request
                    .with_v3_and_below_transactional_id(TransactionalId(text("tx")))
                    .with_v3_and_below_topics(vec![topic; 2])
            };
            encoded(&request, schema)
        }
        Api::AddOffsetsToTxn => encoded(&AddOffsetsToTxnRequest::default().with_group_id(group), schema),
        Api::EndTxn => encoded(&EndTxnRequest::default().with_committed(true), schema),
        Api::TxnOffsetCommit => {
            use txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
            let partition = TxnOffsetCommitRequestPartition::default().with_committed_metadata(Some(text("note")));
            let topic =
                TxnOffsetCommitRequestTopic::default().with_name(topic("logs")).with_partitions(vec![partition; 2]);
            let request = TxnOffsetCommitRequest::default().with_group_id(group).with_topics(vec![topic; 2]);
            encoded(&request, schema)
        }
        Api::DescribeTransactions => {
            let ids = vec![TransactionalId(text("tx")); 2];
            encoded(&DescribeTransactionsRequest::default().with_transactional_ids(ids), schema)
        }
        Api::ListTransactions => {
            let request = ListTransactionsRequest::default()
                .with_state_filters(vec![text("Ongoing"); 2])
                .with_producer_id_filters(vec![ProducerId(1); 2]);
            encoded(&request, schema)
        }
        Api::AddRaftVoter => {
            let listener =
                add_raft_voter_request::Listener::default().with_name(text("CONTROLLER")).with_host(text("c4"));
            encoded(&AddRaftVoterRequest::default().with_voter_id(4).with_listeners(vec![listener; 2]), schema)
        }
        Api::RemoveRaftVoter => encoded(&RemoveRaftVoterRequest::default().with_voter_id(4), schema),
        Api::UnregisterBroker => encoded(&UnregisterBrokerRequest::default(), schema),
        Api::DescribeCluster => encoded(&DescribeClusterRequest::default(), schema),
        Api::DescribeTopicPartitions => {
            let topics = vec![describe_topic_partitions_request::TopicRequest::default().with_name(topic("logs")); 2];
            let cursor = describe_topic_partitions_request::Cursor::default().with_topic_name(topic("logs"));
            let request = DescribeTopicPartitionsRequest::default().with_topics(topics).with_cursor(Some(cursor));
            encoded(&request, schema)
        }
    };
    found.unwrap_or_default()
}
