//! The authorizer: every API is checked, nothing is told of topics that one may not see, and rules hold from the image
//! that has them on, also for fetch sessions that are open.

use std::sync::Arc;

use ottla_authorizer::{AclEntry, Operation, PatternType, Permission, ResourcePattern, ResourceType};
use ottla_metadata::nodes;
use ottla_model::{ErrorCode, KafkaPrincipal, TopicId};
use ottla_protocol::kafka_protocol::messages::*;
use ottla_protocol::kafka_protocol::protocol::{Request, StrBytes};
use ottla_protocol::messages::TopicRef;
use ottla_protocol::messages::fetch::FetchRequest as Fetch;
use ottla_protocol::{Api, decode_response, encode_request};

use super::harness::*;
use crate::authorization::{Checked, requirements};

const AUTHORIZER: (&str, &str) = ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer");
const NEVER_MS: i32 = 60_000;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic_name(name: &'static str) -> TopicName {
    TopicName(text(name))
}

fn answer<R: Request>(broker: &TestBroker, version: i16, request: &R) -> R::Response {
    let frame = encode_request(version, 1, None, request).expect("a small frame");
    decode_response::<R>(version, broker.dispatch(CLIENT, &frame).frame()).expect("decodes").1
}

/// Rules for everybody about one resource; none removes them.
fn set_rules(cluster: &Cluster, pattern: &ResourcePattern, operations: &[Operation]) {
    let entry = |operation: &Operation| AclEntry {
        principal: KafkaPrincipal::user("*"),
        host: "*".to_owned(),
        operation: *operation,
        permission: Permission::Allow,
    };
    let rules = operations.iter().map(entry).collect();
    let payload = (!operations.is_empty()).then(|| nodes::acl::encode(&rules));
    cluster.quorum.commit(vec![(nodes::acl::path(pattern), payload)]);
}

fn allow(cluster: &Cluster, resource_type: ResourceType, name: &str, operations: &[Operation]) {
    set_rules(cluster, &ResourcePattern::literal(resource_type, name), operations);
}

/// The error codes of a request that asks for something of each thing that the API is about.
#[expect(clippy::too_many_lines, reason = "one arm for each API")]
fn errors(broker: &TestBroker, api: Api, topic: TopicId) -> Vec<i16> {
    let id = uuid::Uuid::from_bytes(topic.0);
    let (t, g) = (topic_name("t"), GroupId(text("g")));
    let x = TransactionalId(text("x"));
    match api {
        Api::ApiVersions | Api::SaslHandshake | Api::SaslAuthenticate => vec![],
        Api::Produce => {
            let batch = batch(&["a"]);
            vec![broker.produce(TopicRef::Id(topic), 0, &batch, 1, NEVER_MS).error.code()]
        }
        Api::Fetch => {
            let fetched = broker.fetch(&fetch_of(topic, vec![wanted(0, 0)]));
            vec![only(&fetched).error.code()]
        }
        Api::ListOffsets => {
            use list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
            let asked = ListOffsetsTopic::default()
                .with_name(t)
                .with_partitions(vec![ListOffsetsPartition::default().with_timestamp(-1)]);
            let response = answer(broker, 7, &ListOffsetsRequest::default().with_topics(vec![asked]));
            vec![response.topics[0].partitions[0].error_code]
        }
        Api::Metadata => {
            use metadata_request::MetadataRequestTopic;
            let asked = MetadataRequestTopic::default().with_name(Some(t));
            let response = answer(broker, 12, &MetadataRequest::default().with_topics(Some(vec![asked])));
            vec![response.topics[0].error_code]
        }
        Api::OffsetCommit => {
            use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
            let asked = OffsetCommitRequestTopic::default()
                .with_name(t)
                .with_partitions(vec![OffsetCommitRequestPartition::default()]);
            let request = OffsetCommitRequest::default().with_group_id(g).with_topics(vec![asked]);
            vec![answer(broker, 8, &request).topics[0].partitions[0].error_code]
        }
        Api::OffsetFetch => {
            use offset_fetch_request::OffsetFetchRequestGroup;
            let asked = OffsetFetchRequestGroup::default().with_group_id(g).with_topics(None);
            vec![answer(broker, 8, &OffsetFetchRequest::default().with_groups(vec![asked])).groups[0].error_code]
        }
        Api::FindCoordinator => (0..=1)
            .map(|kind| {
                let request =
                    FindCoordinatorRequest::default().with_key_type(kind).with_coordinator_keys(vec![text("k")]);
                answer(broker, 4, &request).coordinators[0].error_code
            })
            .collect(),
        Api::JoinGroup => vec![answer(broker, 5, &JoinGroupRequest::default().with_group_id(g)).error_code],
        Api::Heartbeat => vec![answer(broker, 4, &HeartbeatRequest::default().with_group_id(g)).error_code],
        Api::LeaveGroup => vec![answer(broker, 4, &LeaveGroupRequest::default().with_group_id(g)).error_code],
        Api::SyncGroup => vec![answer(broker, 4, &SyncGroupRequest::default().with_group_id(g)).error_code],
        Api::DescribeGroups => {
            let request = DescribeGroupsRequest::default().with_groups(vec![g]);
            vec![answer(broker, 5, &request).groups[0].error_code]
        }
        Api::ConsumerGroupDescribe => {
            let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![g]);
            vec![answer(broker, 0, &request).groups[0].error_code]
        }
        Api::ConsumerGroupHeartbeat => {
            let request = ConsumerGroupHeartbeatRequest::default().with_group_id(g).with_member_id(text("m"));
            vec![answer(broker, 0, &request).error_code]
        }
        // What may not be seen is left out.
        Api::ListGroups => vec![answer(broker, 4, &ListGroupsRequest::default()).error_code],
        Api::ListTransactions => vec![answer(broker, 0, &ListTransactionsRequest::default()).error_code],
        Api::CreateTopics => {
            use create_topics_request::CreatableTopic;
            let asked = CreatableTopic::default().with_name(topic_name("new")).with_num_partitions(1);
            vec![answer(broker, 5, &CreateTopicsRequest::default().with_topics(vec![asked])).topics[0].error_code]
        }
        Api::DeleteTopics => {
            use delete_topics_request::DeleteTopicState;
            let by_name = DeleteTopicState::default().with_name(Some(t));
            let by_id = DeleteTopicState::default().with_name(None).with_topic_id(id);
            let request = DeleteTopicsRequest::default().with_topics(vec![by_name, by_id]).with_timeout_ms(1_000);
            answer(broker, 6, &request).responses.iter().map(|one| one.error_code).collect()
        }
        Api::DeleteRecords => {
            use delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
            let partitions = vec![DeleteRecordsPartition::default()];
            let asked = DeleteRecordsTopic::default().with_name(t).with_partitions(partitions);
            let response = answer(broker, 2, &DeleteRecordsRequest::default().with_topics(vec![asked]));
            vec![response.topics[0].partitions[0].error_code]
        }
        Api::CreatePartitions => {
            use create_partitions_request::CreatePartitionsTopic;
            let asked = CreatePartitionsTopic::default().with_name(t).with_count(9);
            vec![answer(broker, 2, &CreatePartitionsRequest::default().with_topics(vec![asked])).results[0].error_code]
        }
        Api::InitProducerId => [None, Some(x)]
            .into_iter()
            .map(|id| answer(broker, 4, &InitProducerIdRequest::default().with_transactional_id(id)).error_code)
            .collect(),
        Api::OffsetForLeaderEpoch => {
            use offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
            let partitions = vec![OffsetForLeaderPartition::default()];
            let asked = OffsetForLeaderTopic::default().with_topic(t).with_partitions(partitions);
            let response = answer(broker, 3, &OffsetForLeaderEpochRequest::default().with_topics(vec![asked]));
            vec![response.topics[0].partitions[0].error_code]
        }
        Api::AddPartitionsToTxn => {
            use add_partitions_to_txn_request::AddPartitionsToTxnTopic;
            let asked = AddPartitionsToTxnTopic::default().with_name(t).with_partitions(vec![0]);
            let request = AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(x)
                .with_v3_and_below_topics(vec![asked]);
            let of_client = &answer(broker, 3, &request).results_by_topic_v3_and_below[0];
            let of_leader = answer(broker, 4, &AddPartitionsToTxnRequest::default());
            vec![of_client.results_by_partition[0].partition_error_code, of_leader.error_code]
        }
        Api::AddOffsetsToTxn => {
            vec![answer(broker, 3, &AddOffsetsToTxnRequest::default().with_transactional_id(x)).error_code]
        }
        Api::EndTxn => vec![answer(broker, 3, &EndTxnRequest::default().with_transactional_id(x)).error_code],
        Api::WriteTxnMarkers => {
            use write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
            let asked = WritableTxnMarkerTopic::default().with_name(t).with_partition_indexes(vec![0]);
            let marker = WritableTxnMarker::default().with_topics(vec![asked]);
            let response = answer(broker, 1, &WriteTxnMarkersRequest::default().with_markers(vec![marker]));
            vec![response.markers[0].topics[0].partitions[0].error_code]
        }
        Api::TxnOffsetCommit => {
            use txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic};
            let partitions = vec![TxnOffsetCommitRequestPartition::default()];
            let asked = TxnOffsetCommitRequestTopic::default().with_name(t).with_partitions(partitions);
            let request = TxnOffsetCommitRequest::default().with_transactional_id(x).with_topics(vec![asked]);
            vec![answer(broker, 3, &request).topics[0].partitions[0].error_code]
        }
        Api::DescribeAcls => vec![answer(broker, 3, &DescribeAclsRequest::default()).error_code],
        Api::CreateAcls => {
            let request = CreateAclsRequest::default().with_creations(vec![Default::default()]);
            vec![answer(broker, 3, &request).results[0].error_code]
        }
        Api::DeleteAcls => {
            let request = DeleteAclsRequest::default().with_filters(vec![Default::default()]);
            vec![answer(broker, 3, &request).filter_results[0].error_code]
        }
        Api::DescribeConfigs => {
            use describe_configs_request::DescribeConfigsResource;
            let asked = [(2, "t"), (4, "1"), (32, "g")].map(|(kind, name)| {
                DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name))
            });
            let response = answer(broker, 4, &DescribeConfigsRequest::default().with_resources(asked.to_vec()));
            response.results.iter().map(|result| result.error_code).collect()
        }
        Api::AlterConfigs => {
            use alter_configs_request::AlterConfigsResource;
            let asked = [(2, "t"), (4, "1"), (32, "g")].map(|(kind, name)| {
                AlterConfigsResource::default().with_resource_type(kind).with_resource_name(text(name))
            });
            let response = answer(broker, 2, &AlterConfigsRequest::default().with_resources(asked.to_vec()));
            response.responses.iter().map(|result| result.error_code).collect()
        }
        Api::IncrementalAlterConfigs => {
            use incremental_alter_configs_request::AlterConfigsResource;
            let asked = [(2, "t"), (4, "1"), (8, "1"), (32, "g")].map(|(kind, name)| {
                AlterConfigsResource::default().with_resource_type(kind).with_resource_name(text(name))
            });
            let request = IncrementalAlterConfigsRequest::default().with_resources(asked.to_vec());
            answer(broker, 1, &request).responses.iter().map(|result| result.error_code).collect()
        }
        Api::AlterReplicaLogDirs => {
            use alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
            let asked = AlterReplicaLogDirTopic::default().with_name(t).with_partitions(vec![0]);
            let directory = AlterReplicaLogDir::default().with_path(text("/tmp")).with_topics(vec![asked]);
            let response = answer(broker, 2, &AlterReplicaLogDirsRequest::default().with_dirs(vec![directory]));
            vec![response.results[0].partitions[0].error_code]
        }
        Api::DescribeLogDirs => vec![answer(broker, 3, &DescribeLogDirsRequest::default()).error_code],
        Api::DeleteGroups => {
            let request = DeleteGroupsRequest::default().with_groups_names(vec![g]);
            vec![answer(broker, 2, &request).results[0].error_code]
        }
        Api::ElectLeaders => vec![answer(broker, 2, &ElectLeadersRequest::default()).error_code],
        Api::AlterPartitionReassignments => {
            vec![answer(broker, 0, &AlterPartitionReassignmentsRequest::default()).error_code]
        }
        Api::ListPartitionReassignments => {
            vec![answer(broker, 0, &ListPartitionReassignmentsRequest::default()).error_code]
        }
        Api::OffsetDelete => vec![answer(broker, 0, &OffsetDeleteRequest::default().with_group_id(g)).error_code],
        Api::DescribeClientQuotas => vec![answer(broker, 1, &DescribeClientQuotasRequest::default()).error_code],
        Api::AlterClientQuotas => {
            let request = AlterClientQuotasRequest::default().with_entries(vec![Default::default()]);
            vec![answer(broker, 1, &request).entries[0].error_code]
        }
        Api::DescribeUserScramCredentials => {
            vec![answer(broker, 0, &DescribeUserScramCredentialsRequest::default()).error_code]
        }
        Api::AlterUserScramCredentials => {
            use alter_user_scram_credentials_request::ScramCredentialDeletion;
            let deletion = ScramCredentialDeletion::default().with_name(text("alice")).with_mechanism(1);
            let request = AlterUserScramCredentialsRequest::default().with_deletions(vec![deletion]);
            vec![answer(broker, 0, &request).results[0].error_code]
        }
        Api::CreateDelegationToken => vec![answer(broker, 3, &CreateDelegationTokenRequest::default()).error_code],
        Api::RenewDelegationToken => vec![answer(broker, 2, &RenewDelegationTokenRequest::default()).error_code],
        Api::ExpireDelegationToken => vec![answer(broker, 2, &ExpireDelegationTokenRequest::default()).error_code],
        Api::DescribeDelegationToken => {
            vec![answer(broker, 3, &DescribeDelegationTokenRequest::default()).error_code]
        }
        Api::DescribeQuorum => vec![answer(broker, 1, &DescribeQuorumRequest::default()).error_code],
        Api::UpdateFeatures => vec![answer(broker, 1, &UpdateFeaturesRequest::default()).error_code],
        // The operations on the cluster are none.
        Api::DescribeCluster => {
            let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
            let response = answer(broker, 0, &request);
            assert_eq!(response.cluster_authorized_operations, 0);
            vec![response.error_code]
        }
        Api::DescribeProducers => {
            use describe_producers_request::TopicRequest;
            let asked = TopicRequest::default().with_name(t).with_partition_indexes(vec![0]);
            let response = answer(broker, 0, &DescribeProducersRequest::default().with_topics(vec![asked]));
            vec![response.topics[0].partitions[0].error_code]
        }
        Api::AddRaftVoter => vec![answer(broker, 0, &AddRaftVoterRequest::default()).error_code],
        Api::RemoveRaftVoter => vec![answer(broker, 0, &RemoveRaftVoterRequest::default()).error_code],
        Api::UnregisterBroker => {
            vec![answer(broker, 0, &UnregisterBrokerRequest::default().with_broker_id(BrokerId(7))).error_code]
        }
        Api::DescribeTransactions => {
            let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![x]);
            vec![answer(broker, 0, &request).transaction_states[0].error_code]
        }
        Api::GetTelemetrySubscriptions => {
            vec![answer(broker, 0, &GetTelemetrySubscriptionsRequest::default()).error_code]
        }
        Api::PushTelemetry => {
            let subscribed = answer(broker, 0, &GetTelemetrySubscriptionsRequest::default());
            let request = PushTelemetryRequest::default()
                .with_client_instance_id(subscribed.client_instance_id)
                .with_subscription_id(subscribed.subscription_id);
            vec![answer(broker, 0, &request).error_code]
        }
        Api::ListConfigResources => vec![answer(broker, 1, &ListConfigResourcesRequest::default()).error_code],
        Api::DescribeTopicPartitions => {
            use describe_topic_partitions_request::TopicRequest;
            let asked = TopicRequest::default().with_name(t);
            let request =
                DescribeTopicPartitionsRequest::default().with_topics(vec![asked]).with_response_partition_limit(10);
            vec![answer(broker, 0, &request).topics[0].error_code]
        }
    }
}

const DENIALS: [ErrorCode; 4] = [
    ErrorCode::TopicAuthorizationFailed,
    ErrorCode::GroupAuthorizationFailed,
    ErrorCode::ClusterAuthorizationFailed,
    ErrorCode::TransactionalIdAuthorizationFailed,
];

/// Refused on a listener that does not know who asks, whatever the rules are.
const OF_TOKENS: [Api; 4] =
    [Api::CreateDelegationToken, Api::RenewDelegationToken, Api::ExpireDelegationToken, Api::DescribeDelegationToken];

/// The table says what is checked; this sends each request without any rule, and again with rules for everything.
#[test]
fn every_api_is_checked() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    let topic = topic_id(1);
    cluster.quorum.create_topic("t", topic, 1, &[1], &[]);
    let is_denial = |code: &i16| DENIALS.iter().any(|denial| denial.code() == *code);
    let left_out = [Api::ListGroups, Api::ListTransactions, Api::DescribeCluster];
    for &api in Api::ALL {
        let codes = errors(&broker, api, topic);
        if OF_TOKENS.contains(&api) {
            assert_eq!(codes, [ErrorCode::DelegationTokenRequestNotAllowed.code()], "{api:?}");
        } else if requirements(api) == [Checked::Nothing] || left_out.contains(&api) {
            assert!(codes.iter().all(|code| *code == 0), "{api:?}: {codes:?}");
        } else {
            assert!(!codes.is_empty() && codes.iter().all(is_denial), "{api:?}: {codes:?}");
        }
    }
    for resource_type in ResourceType::ALL {
        let name = if *resource_type == ResourceType::Cluster { "kafka-cluster" } else { "*" };
        allow(&cluster, *resource_type, name, &[Operation::All]);
    }
    // What the quorum of this harness does not decide is left out here.
    for api in [Api::Produce, Api::Fetch, Api::ListOffsets, Api::Metadata, Api::DescribeConfigs, Api::DescribeAcls] {
        let codes = errors(&broker, api, topic);
        assert!(!codes.iter().any(is_denial), "{api:?}: {codes:?}");
    }
}

#[test]
fn nothing_is_told_of_topics_that_one_may_not_see() {
    use metadata_request::MetadataRequestTopic;
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    for (at, name) in (1..).zip(["hidden", "team-a", "team-b"]) {
        cluster.quorum.create_topic(name, topic_id(at), 1, &[1], &[]);
    }
    let pattern = ResourcePattern {
        resource_type: ResourceType::Topic,
        pattern_type: PatternType::Prefixed,
        name: "team-".to_owned(),
    };
    set_rules(&cluster, &pattern, &[Operation::Read]);
    let ask = |names: Option<Vec<&'static str>>| {
        let topics = names.map(|names| {
            names.into_iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name)))).collect()
        });
        let request = MetadataRequest::default()
            .with_topics(topics)
            .with_include_topic_authorized_operations(true)
            .with_allow_auto_topic_creation(true);
        let mut topics: Vec<_> = answer(&broker, 9, &request)
            .topics
            .into_iter()
            .map(|topic| (topic.name.expect("named").to_string(), topic.error_code, topic.topic_authorized_operations))
            .collect();
        topics.sort();
        topics
    };
    let read = 1 << Operation::Read.code() | 1 << Operation::Describe.code();
    let shown = [("team-a".to_owned(), 0, read), ("team-b".to_owned(), 0, read)];
    assert_eq!(ask(None), shown);
    let denied = ErrorCode::TopicAuthorizationFailed.code();
    let of = |name: &str| (name.to_owned(), denied, i32::MIN);
    // One that is there, and one that is not: alike.
    assert_eq!(ask(Some(vec!["hidden", "missing"])), [of("hidden"), of("missing")]);
    // One that would be created needs more than to be described.
    assert_eq!(ask(Some(vec!["team-new"])), [of("team-new")]);
    // By id nothing but the id is told.
    let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(uuid::Uuid::from_bytes(topic_id(1).0));
    let response = answer(&broker, 12, &MetadataRequest::default().with_topics(Some(vec![by_id])));
    assert_eq!((response.topics[0].error_code, response.topics[0].name.clone()), (denied, None));
}

/// A session is not checked with each fetch, and yet a rule that goes or comes holds from the next fetch on.
#[test]
fn a_fetch_session_follows_the_rules() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    let topic = topic_id(1);
    cluster.quorum.create_topic("t", topic, 2, &[1], &[]);
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Read, Operation::Write]);
    let opening = Fetch { session_epoch: 0, ..fetch_of(topic, vec![wanted(0, 0), wanted(1, 0)]) };
    let opened = broker.fetch(&opening);
    assert!(opened.topics[0].partitions.iter().all(|partition| partition.error.is_ok()));
    let mut epoch = 0;
    let mut next = || {
        epoch += 1;
        let request = Fetch { session_id: opened.session_id, session_epoch: epoch, ..fetch_of(topic, vec![]) };
        let response = broker.fetch(&request);
        let errors = response.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error);
        errors.collect::<Vec<_>>()
    };
    assert_eq!(next(), []);
    allow(&cluster, ResourceType::Topic, "t", &[]);
    assert_eq!(next(), [ErrorCode::TopicAuthorizationFailed; 2]);
    // An error is told again, until it is none.
    assert_eq!(next(), [ErrorCode::TopicAuthorizationFailed; 2]);
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Read, Operation::Write]);
    broker.produce(TopicRef::Id(topic), 1, &batch(&["a"]), 1, NEVER_MS);
    assert!(next().iter().all(|error| error.is_ok()));
}

/// People's compose files: brokers talk without authentication, and are super users by that name.
#[test]
fn brokers_replicate_as_super_users() {
    let cluster = Cluster::new(&[AUTHORIZER, ("super.users", "User:ANONYMOUS")]);
    let brokers = cluster.start_all(&[1, 2]);
    let topic = topic_id(1);
    cluster.quorum.create_topic("t", topic, 1, &[1, 2], &[]);
    let produced = brokers[0].produce(TopicRef::Id(topic), 0, &batch(&["a"]), -1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);
    eventually("the follower has it", || brokers[1].log_end(topic, 0).0 == 1);
}

/// Followers that are not allowed the cluster action get nothing; with it they do.
#[test]
fn followers_need_the_cluster_action() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let brokers = cluster.start_all(&[1, 2]);
    let topic = topic_id(1);
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Write]);
    cluster.quorum.create_topic("t", topic, 1, &[1, 2], &[]);
    let produced = brokers[0].produce(TopicRef::Id(topic), 0, &batch(&["a"]), 1, NEVER_MS);
    assert_eq!(produced.error, ErrorCode::None);
    let held: Arc<_> = brokers[1].partition(topic, 0);
    assert_eq!(held.with_log(|log| log.log_end_offset().0), Some(0));
    allow(&cluster, ResourceType::Cluster, "kafka-cluster", &[Operation::ClusterAction]);
    eventually("the follower has it", || brokers[1].log_end(topic, 0).0 == 1);
}

#[test]
fn rules_are_described_by_filter() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    allow(&cluster, ResourceType::Cluster, "kafka-cluster", &[Operation::Describe]);
    allow(&cluster, ResourceType::Topic, "t", &[Operation::Read, Operation::Write]);
    let any = DescribeAclsRequest::default()
        .with_resource_type_filter(1)
        .with_pattern_type_filter(1)
        .with_resource_name_filter(None)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1);
    let response = answer(&broker, 3, &any);
    let named: Vec<_> = response.resources.iter().map(|one| (one.resource_name.as_str(), one.acls.len())).collect();
    assert_eq!(named, [("t", 2), ("kafka-cluster", 1)]);
    let of_topics = any.clone().with_resource_type_filter(2).with_operation(4);
    assert_eq!(answer(&broker, 3, &of_topics).resources[0].acls[0].principal.as_str(), "User:*");
    assert_eq!(answer(&broker, 3, &any.with_operation(99)).error_code, ErrorCode::InvalidRequest.code());
}

/// A produce request to several topics is refused for those that may not be written only.
#[test]
fn what_may_be_written_is_written() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    for (at, name) in (1..).zip(["a", "b"]) {
        cluster.quorum.create_topic(name, topic_id(at), 1, &[1], &[]);
    }
    allow(&cluster, ResourceType::Topic, "b", &[Operation::Write]);
    let produced = |at| broker.produce(TopicRef::Id(topic_id(at)), 0, &batch(&["v"]), 1, NEVER_MS);
    assert_eq!((produced(1).error, produced(2).error), (ErrorCode::TopicAuthorizationFailed, ErrorCode::None));
    assert_eq!((broker.log_end(topic_id(1), 0).0, broker.log_end(topic_id(2), 0).0), (0, 1));
    let named = broker.produce(TopicRef::Name("missing".to_owned()), 0, &batch(&["v"]), 1, NEVER_MS);
    assert_eq!(named.error, ErrorCode::TopicAuthorizationFailed, "whether it is there is not told");
    let transactional =
        broker.begin_produce_in(12, Some("x"), TopicRef::Name("b".to_owned()), 0, &batch(&["v"]), 1, NEVER_MS);
    assert_eq!(transactional.produced().error, ErrorCode::TransactionalIdAuthorizationFailed);
}

/// A name that may be described is known to be free or not; others are refused alike.
#[test]
fn deletions_tell_no_more_than_descriptions() {
    use delete_topics_request::DeleteTopicState;
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    cluster.quorum.create_topic("seen", topic_id(1), 1, &[1], &[]);
    cluster.quorum.create_topic("hidden", topic_id(2), 1, &[1], &[]);
    for name in ["seen", "free"] {
        allow(&cluster, ResourceType::Topic, name, &[Operation::Describe]);
    }
    let delete = |asked: DeleteTopicState| {
        let request = DeleteTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(1_000);
        let told = answer(&broker, 6, &request).responses.remove(0);
        (told.name.map(|name| name.to_string()), told.error_code)
    };
    let by_name = |name| delete(DeleteTopicState::default().with_name(Some(topic_name(name))));
    let by_id = |at| {
        let id = uuid::Uuid::from_bytes(topic_id(at).0);
        delete(DeleteTopicState::default().with_name(None).with_topic_id(id))
    };
    let denied = ErrorCode::TopicAuthorizationFailed.code();
    let named = |name: &str, code| (Some(name.to_owned()), code);
    assert_eq!(by_name("seen"), named("seen", denied));
    assert_eq!(by_name("free"), named("free", ErrorCode::UnknownTopicOrPartition.code()));
    assert_eq!(by_name("hidden"), named("hidden", denied));
    assert_eq!(by_name("missing"), named("missing", denied));
    assert_eq!((by_id(1), by_id(2)), (named("seen", denied), (None, denied)));
}

/// Who may not follow learns from a fetch as a replica neither which brokers there are nor their epochs.
#[test]
fn a_fetch_as_a_replica_tells_strangers_nothing() {
    let cluster = Cluster::new(&[AUTHORIZER]);
    let broker = cluster.start(1);
    let topic = topic_id(1);
    cluster.quorum.create_topic("t", topic, 1, &[1], &[]);
    for claimed in [1, 2, 900] {
        let request = Fetch { replica_id: ottla_model::BrokerId(claimed), ..fetch_of(topic, vec![wanted(0, 0)]) };
        let error = broker.begin_fetch(INTERNAL, &request).fetched().error;
        assert_eq!(error, ErrorCode::ClusterAuthorizationFailed, "{claimed}");
    }
}
