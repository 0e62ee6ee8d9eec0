//! A small request must not make a large answer: whatever key a request repeats, its answer holds the key's data once
//! (an OffsetFetch of 38 KB that named one group 2,750 times took 4.4 GB).

use bytes::Bytes;
use ottla_model::PartitionId;
use ottla_protocol::Api;
use ottla_protocol::kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use ottla_protocol::kafka_protocol::messages::add_raft_voter_request::Listener as RaftListener;
use ottla_protocol::kafka_protocol::messages::alter_client_quotas_request::EntryData;
use ottla_protocol::kafka_protocol::messages::alter_configs_request::AlterConfigsResource as LegacyResource;
use ottla_protocol::kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use ottla_protocol::kafka_protocol::messages::alter_replica_log_dirs_request::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic,
};
use ottla_protocol::kafka_protocol::messages::alter_user_scram_credentials_request::ScramCredentialDeletion;
use ottla_protocol::kafka_protocol::messages::create_acls_request::AclCreation;
use ottla_protocol::kafka_protocol::messages::create_delegation_token_request::CreatableRenewers;
use ottla_protocol::kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use ottla_protocol::kafka_protocol::messages::create_topics_request::CreatableTopic;
use ottla_protocol::kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use ottla_protocol::kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use ottla_protocol::kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use ottla_protocol::kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use ottla_protocol::kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use ottla_protocol::kafka_protocol::messages::describe_delegation_token_request::DescribeDelegationTokenOwner;
use ottla_protocol::kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use ottla_protocol::kafka_protocol::messages::describe_producers_request::TopicRequest as ProducersTopic;
use ottla_protocol::kafka_protocol::messages::describe_quorum_request::{
    PartitionData as QuorumPartition, TopicData as QuorumTopic,
};
use ottla_protocol::kafka_protocol::messages::describe_topic_partitions_request::TopicRequest;
use ottla_protocol::kafka_protocol::messages::describe_user_scram_credentials_request::UserName;
use ottla_protocol::kafka_protocol::messages::elect_leaders_request::TopicPartitions as ElectTopic;
use ottla_protocol::kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use ottla_protocol::kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use ottla_protocol::kafka_protocol::messages::leave_group_request::MemberIdentity;
use ottla_protocol::kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use ottla_protocol::kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use ottla_protocol::kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use ottla_protocol::kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use ottla_protocol::kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use ottla_protocol::kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use ottla_protocol::kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use ottla_protocol::kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use ottla_protocol::kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use ottla_protocol::kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use ottla_protocol::kafka_protocol::messages::*;
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::api_versions::ApiVersionsResponse;
use ottla_protocol::messages::fetch::{self, FetchTopic};
use ottla_protocol::messages::produce::{self, ProduceCall};
use ottla_protocol::messages::write_txn_markers::{self, TxnMarker};
use ottla_protocol::record_batch::{BatchBuilder, Compression};

use super::harness::{CLIENT, Cluster, FETCH_VERSION, TestBroker, eventually, idempotent, topic_id, wanted};
use crate::groups::OFFSETS_TOPIC;

const LOGS: u8 = 2;
/// How often the requests repeat a key.
const REPEATED: usize = 2_000;
/// What an answer may have for each byte of its request: a name that is said again, codes, offsets, one error text.
const BYTES_PER_REQUEST_BYTE: usize = 24;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn logs() -> TopicName {
    TopicName(text("logs"))
}

fn frame<R: Request>(version: i16, request: &R) -> Bytes {
    ottla_protocol::encode_request(version, 7, Some("me"), request).expect("encodes")
}

/// In the newest version that is served.
fn newest<R: Request>(request: &R) -> Bytes {
    frame(Api::from_key(R::KEY).expect("served").served().max, request)
}

/// A request that says one key `times` times, wherever the API has a list: the key with the largest answer.
pub fn repeating(api: Api, times: usize) -> Bytes {
    let group = || GroupId(text("g"));
    match api {
        Api::Produce => {
            // Every record is refused: a compacted topic wants keys.
            let batch = BatchBuilder::new().compression(Compression::Zstd);
            let batch =
                (0..1_000).fold(batch, |batch, _| batch.record(ottla_replica_manager::clock::wall(), None, Some(b"")));
            let batch = batch.build().expect("a batch").freeze();
            let call = ProduceCall {
                transactional_id: None,
                acks: 1,
                timeout_ms: 1_000,
                topics: vec![(TopicRef::Id(topic_id(3)), vec![(PartitionId(0), batch); times.min(200)])],
            };
            produce::encode_request(13, 7, None, &call).expect("a small frame")
        }
        Api::Fetch => {
            let topics =
                vec![FetchTopic { topic: TopicRef::Id(topic_id(LOGS)), partitions: vec![wanted(0, 0); times] }];
            let request =
                fetch::FetchRequest { topics, max_bytes: 1 << 20, min_bytes: 1, ..fetch::FetchRequest::default() };
            fetch::encode_request(FETCH_VERSION, 7, None, &request).expect("a small frame")
        }
        Api::ListOffsets => {
            let partitions = vec![ListOffsetsPartition::default().with_timestamp(-1); times];
            let topic = ListOffsetsTopic::default().with_name(logs()).with_partitions(partitions);
            newest(&ListOffsetsRequest::default().with_topics(vec![topic]))
        }
        Api::Metadata => {
            let topic = MetadataRequestTopic::default().with_name(Some(logs()));
            newest(&MetadataRequest::default().with_topics(Some(vec![topic; times])))
        }
        Api::OffsetCommit => {
            let partitions = vec![OffsetCommitRequestPartition::default(); times];
            let topic = OffsetCommitRequestTopic::default().with_name(logs()).with_partitions(partitions);
            frame(8, &OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![topic]))
        }
        Api::OffsetFetch => {
            let topic = OffsetFetchRequestTopics::default().with_name(logs()).with_partition_indexes(vec![1; times]);
            let some = OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(vec![topic]));
            let all = OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(None);
            let groups = [vec![some], vec![all; times]].concat();
            frame(8, &OffsetFetchRequest::default().with_groups(groups))
        }
        Api::FindCoordinator => {
            newest(&FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g"); times]))
        }
        Api::JoinGroup => {
            let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
            let request = JoinGroupRequest::default().with_group_id(group()).with_protocol_type(text("consumer"));
            newest(&request.with_session_timeout_ms(10_000).with_protocols(vec![protocol; times]))
        }
        Api::Heartbeat => newest(&HeartbeatRequest::default().with_group_id(group())),
        Api::LeaveGroup => {
            let members = vec![MemberIdentity::default().with_member_id(text("m")); times];
            newest(&LeaveGroupRequest::default().with_group_id(group()).with_members(members))
        }
        Api::SyncGroup => {
            let assignments = vec![SyncGroupRequestAssignment::default().with_member_id(text("m")); times];
            newest(&SyncGroupRequest::default().with_group_id(group()).with_assignments(assignments))
        }
        Api::DescribeGroups => newest(&DescribeGroupsRequest::default().with_groups(vec![group(); times])),
        Api::ListGroups => newest(&ListGroupsRequest::default().with_states_filter(vec![text("Empty"); times])),
        Api::SaslHandshake => newest(&SaslHandshakeRequest::default().with_mechanism(text("PLAIN"))),
        Api::SaslAuthenticate => newest(&SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from_static(b"x"))),
        Api::ApiVersions => ApiVersionsResponse::encode_request(4, 7, None),
        Api::CreateTopics => {
            let topics = vec![CreatableTopic::default().with_name(logs()); times];
            newest(&CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(1_000))
        }
        Api::DeleteTopics => {
            let topics = vec![DeleteTopicState::default().with_name(Some(logs())); times];
            newest(&DeleteTopicsRequest::default().with_topics(topics).with_timeout_ms(1_000))
        }
        Api::DeleteRecords => {
            let partitions = vec![DeleteRecordsPartition::default(); times];
            let topic = DeleteRecordsTopic::default().with_name(logs()).with_partitions(partitions);
            newest(&DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000))
        }
        Api::InitProducerId => newest(&InitProducerIdRequest::default().with_transactional_id(None)),
        Api::OffsetForLeaderEpoch => {
            let partitions = vec![OffsetForLeaderPartition::default(); times];
            let topic = OffsetForLeaderTopic::default().with_topic(logs()).with_partitions(partitions);
            newest(&OffsetForLeaderEpochRequest::default().with_topics(vec![topic]))
        }
        Api::DescribeAcls => newest(&DescribeAclsRequest::default()),
        Api::CreateAcls => newest(&CreateAclsRequest::default().with_creations(vec![AclCreation::default(); times])),
        Api::DeleteAcls => newest(&DeleteAclsRequest::default().with_filters(vec![DeleteAclsFilter::default(); times])),
        Api::DescribeConfigs => {
            let broker = DescribeConfigsResource::default().with_resource_type(4).with_resource_name(text("1"));
            let request = DescribeConfigsRequest::default().with_resources(vec![broker; times]);
            newest(&request.with_include_synonyms(true).with_include_documentation(true))
        }
        Api::AlterConfigs => {
            let resource = LegacyResource::default().with_resource_type(2).with_resource_name(text("logs"));
            newest(&AlterConfigsRequest::default().with_resources(vec![resource; times]))
        }
        Api::IncrementalAlterConfigs => {
            let resource = AlterConfigsResource::default().with_resource_type(2).with_resource_name(text("logs"));
            newest(&IncrementalAlterConfigsRequest::default().with_resources(vec![resource; times]))
        }
        Api::GetTelemetrySubscriptions => newest(&GetTelemetrySubscriptionsRequest::default()),
        Api::PushTelemetry => newest(&PushTelemetryRequest::default().with_metrics(vec![0; times].into())),
        Api::ListConfigResources => newest(&ListConfigResourcesRequest::default().with_resource_types(vec![2; times])),
        Api::DescribeLogDirs => {
            let topic = DescribableLogDirTopic::default().with_topic(logs()).with_partitions(vec![0; times]);
            newest(&DescribeLogDirsRequest::default().with_topics(Some(vec![topic; 2])))
        }
        Api::AlterReplicaLogDirs => {
            let topic = AlterReplicaLogDirTopic::default().with_name(logs()).with_partitions(vec![0; times]);
            let directory = AlterReplicaLogDir::default().with_path(text("/nowhere")).with_topics(vec![topic]);
            newest(&AlterReplicaLogDirsRequest::default().with_dirs(vec![directory]))
        }
        Api::ElectLeaders => {
            let topics = vec![ElectTopic::default().with_topic(logs()).with_partitions(vec![0; times])];
            newest(&ElectLeadersRequest::default().with_topic_partitions(Some(topics)).with_timeout_ms(1_000))
        }
        Api::CreatePartitions => {
            let topics = vec![CreatePartitionsTopic::default().with_name(logs()).with_count(3); times];
            newest(&CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(1_000))
        }
        Api::DeleteGroups => newest(&DeleteGroupsRequest::default().with_groups_names(vec![group(); times])),
        Api::OffsetDelete => {
            let partitions = vec![OffsetDeleteRequestPartition::default(); times];
            let topic = OffsetDeleteRequestTopic::default().with_name(logs()).with_partitions(partitions);
            newest(&OffsetDeleteRequest::default().with_group_id(group()).with_topics(vec![topic]))
        }
        Api::AlterPartitionReassignments => {
            let topic = ReassignableTopic::default().with_name(logs());
            let topic = topic.with_partitions(vec![ReassignablePartition::default(); times]);
            newest(&AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000))
        }
        Api::ListPartitionReassignments => {
            let topic = ListPartitionReassignmentsTopics::default().with_name(logs());
            let topic = topic.with_partition_indexes(vec![0; times]);
            newest(&ListPartitionReassignmentsRequest::default().with_topics(Some(vec![topic])))
        }
        Api::DescribeClientQuotas => {
            let component = ComponentData::default().with_entity_type(text("user"));
            newest(&DescribeClientQuotasRequest::default().with_components(vec![component; times]))
        }
        Api::DescribeUserScramCredentials => {
            let users = vec![UserName::default().with_name(text("alice")); times];
            newest(&DescribeUserScramCredentialsRequest::default().with_users(Some(users)))
        }
        Api::AlterUserScramCredentials => {
            let deletions = vec![ScramCredentialDeletion::default().with_name(text("alice")).with_mechanism(1); times];
            newest(&AlterUserScramCredentialsRequest::default().with_deletions(deletions))
        }
        Api::AlterClientQuotas => {
            newest(&AlterClientQuotasRequest::default().with_entries(vec![EntryData::default(); times]))
        }
        Api::CreateDelegationToken => {
            let renewer = CreatableRenewers::default().with_principal_type(text("User"));
            newest(&CreateDelegationTokenRequest::default().with_renewers(vec![renewer; times]))
        }
        Api::RenewDelegationToken => newest(&RenewDelegationTokenRequest::default()),
        Api::ExpireDelegationToken => newest(&ExpireDelegationTokenRequest::default()),
        Api::DescribeDelegationToken => {
            let owner = DescribeDelegationTokenOwner::default().with_principal_type(text("User"));
            newest(&DescribeDelegationTokenRequest::default().with_owners(Some(vec![owner; times])))
        }
        Api::UpdateFeatures => {
            let update = FeatureUpdateKey::default().with_feature(text("f")).with_max_version_level(1);
            frame(1, &UpdateFeaturesRequest::default().with_feature_updates(vec![update; times]))
        }
        Api::DescribeQuorum => {
            let topic = QuorumTopic::default().with_topic_name(logs());
            let topic = topic.with_partitions(vec![QuorumPartition::default(); times]);
            newest(&DescribeQuorumRequest::default().with_topics(vec![topic; 2]))
        }
        Api::DescribeCluster => newest(&DescribeClusterRequest::default()),
        Api::DescribeProducers => {
            let topic = ProducersTopic::default().with_name(logs()).with_partition_indexes(vec![0; times]);
            newest(&DescribeProducersRequest::default().with_topics(vec![topic]))
        }
        Api::WriteTxnMarkers => {
            let marker = TxnMarker {
                producer_id: ottla_model::ProducerId(9),
                producer_epoch: ottla_model::ProducerEpoch(1),
                is_commit: false,
                topics: vec![("logs".to_owned(), vec![PartitionId(0); times])],
                coordinator_epoch: 0,
                transaction_version: 2,
            };
            write_txn_markers::encode_request(2, 7, None, &[marker]).expect("a small frame")
        }
        Api::AddPartitionsToTxn => {
            let topic = AddPartitionsToTxnTopic::default().with_name(logs()).with_partitions(vec![0; times]);
            let transaction = AddPartitionsToTxnTransaction::default().with_topics(vec![topic; 2]);
            newest(&AddPartitionsToTxnRequest::default().with_transactions(vec![transaction]))
        }
        Api::AddOffsetsToTxn => newest(&AddOffsetsToTxnRequest::default().with_group_id(group())),
        Api::EndTxn => newest(&EndTxnRequest::default()),
        Api::TxnOffsetCommit => {
            let partitions = vec![TxnOffsetCommitRequestPartition::default(); times];
            let topic = TxnOffsetCommitRequestTopic::default().with_name(logs()).with_partitions(partitions);
            newest(&TxnOffsetCommitRequest::default().with_group_id(group()).with_topics(vec![topic]))
        }
        Api::DescribeTransactions => {
            let ids = vec![TransactionalId(text("t")); times];
            newest(&DescribeTransactionsRequest::default().with_transactional_ids(ids))
        }
        Api::ListTransactions => {
            let request = ListTransactionsRequest::default().with_state_filters(vec![text("Ongoing"); times]);
            newest(&request.with_producer_id_filters(vec![ProducerId(1); times]))
        }
        Api::AddRaftVoter => {
            let listener = RaftListener::default().with_name(text("CONTROLLER")).with_host(text("nowhere"));
            newest(&AddRaftVoterRequest::default().with_voter_id(9).with_listeners(vec![listener; times]))
        }
        Api::RemoveRaftVoter => newest(&RemoveRaftVoterRequest::default().with_voter_id(9)),
        Api::UnregisterBroker => newest(&UnregisterBrokerRequest::default().with_broker_id(BrokerId(9))),
        Api::ConsumerGroupHeartbeat => {
            let request = ConsumerGroupHeartbeatRequest::default().with_group_id(group());
            newest(&request.with_subscribed_topic_names(Some(vec![logs(); times])))
        }
        Api::ConsumerGroupDescribe => {
            newest(&ConsumerGroupDescribeRequest::default().with_group_ids(vec![group(); times]))
        }
        Api::DescribeTopicPartitions => {
            let topics = vec![TopicRequest::default().with_name(logs()); times];
            let request = DescribeTopicPartitionsRequest::default().with_topics(topics);
            newest(&request.with_response_partition_limit(2_000).with_cursor(None))
        }
    }
}

/// A topic whose records have producers, and a group with an offset whose metadata are 4 KB.
pub fn cluster() -> (Cluster, Vec<TestBroker>) {
    let cluster = Cluster::new(&[]);
    let brokers = cluster.start_all(&[1]);
    cluster.quorum.create_topic(OFFSETS_TOPIC, topic_id(1), 1, &[1], &[("cleanup.policy", "compact")]);
    cluster.quorum.create_topic("logs", topic_id(LOGS), 50, &[1], &[]);
    cluster.quorum.create_topic("compacted", topic_id(3), 1, &[1], &[("cleanup.policy", "compact")]);
    for producer in 0..200 {
        let batch = idempotent(producer, 0, 0, &["value"]);
        eventually("the batch is appended", || {
            brokers[0].produce(TopicRef::Id(topic_id(LOGS)), 0, &batch, 1, 1_000).error.is_ok()
        });
    }
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(1)
        .with_committed_offset(7)
        .with_committed_metadata(Some(text(&"m".repeat(4_000))));
    let topic = OffsetCommitRequestTopic::default().with_name(logs()).with_partitions(vec![partition]);
    let commit = OffsetCommitRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    eventually("the group's offset is committed", || {
        let asked = brokers[0].dispatch(CLIENT, &frame(8, &commit));
        let (_, response) = ottla_protocol::decode_response::<OffsetCommitRequest>(8, asked.frame()).expect("decodes");
        response.topics[0].partitions[0].error_code == 0
    });
    (cluster, brokers)
}

#[test]
fn a_key_that_a_request_repeats_is_answered_once() {
    let (_cluster, brokers) = cluster();
    let mut amplified = Vec::new();
    for &api in Api::ALL {
        let once = brokers[0].dispatch(CLIENT, &repeating(api, 1)).wire_bytes();
        let request = repeating(api, REPEATED);
        let answer = brokers[0].dispatch(CLIENT, &request).wire_bytes();
        if answer > once + BYTES_PER_REQUEST_BYTE * request.len() {
            amplified.push(format!("{api}: {} bytes make {answer}, one key makes {once}", request.len()));
        }
    }
    assert!(amplified.is_empty(), "{amplified:#?}");
}

#[test]
fn the_test_asks_for_what_is_large() {
    let (_cluster, brokers) = cluster();
    let bytes = |api| brokers[0].dispatch(CLIENT, &repeating(api, 1)).wire_bytes();
    assert!(bytes(Api::DescribeConfigs) > 20_000);
    assert!(bytes(Api::OffsetFetch) > 4_000);
    assert!(bytes(Api::DescribeProducers) > 200 * 30);
    let produced = bytes(Api::Produce);
    assert!(produced > 20_000, "{produced}");
    assert!(bytes(Api::DescribeLogDirs) > 50);
}
