//! Admin requests of Kafka's protocol, in every served version.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use kafka_protocol::messages::alter_configs_request::{
    AlterConfigsResource as LegacyResource, AlterableConfig as LegacyConfig,
};
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    AlterConfigsRequest, BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, DescribeQuorumRequest, IncrementalAlterConfigsRequest, TopicName, UnregisterBrokerRequest,
    UpdateFeaturesRequest, describe_quorum_request,
};
use kafka_protocol::protocol::{Request, StrBytes};
use ottla_e2e::cluster::PATIENCE;
use ottla_fuzz::mutation::Random;
use ottla_model::ErrorCode;
use ottla_protocol::{Api, decode_response, encode_request};
use uuid::Uuid;

use super::by_kafka_cluster;
use crate::words::{broker, config, number, pick, text, topic};

/// The kinds of resources that have configurations, and kinds that there are not.
const RESOURCES: [i8; 7] = [2, 4, 8, 16, 32, 0, 99];

pub fn string(text: String) -> StrBytes {
    StrBytes::from_string(text)
}

pub fn topic_name(name: String) -> TopicName {
    TopicName(string(name))
}

/// What is sent, the more often the more often it stands here.
const SENT: &[Api] = &[
    Api::CreateTopics,
    Api::CreateTopics,
    Api::CreateTopics,
    Api::DeleteTopics,
    Api::CreatePartitions,
    Api::IncrementalAlterConfigs,
    Api::AlterConfigs,
    Api::DescribeConfigs,
    Api::UpdateFeatures,
    Api::DescribeQuorum,
    Api::UnregisterBroker,
    Api::DeleteRecords,
    Api::DeleteGroups,
    Api::OffsetDelete,
    Api::AddRaftVoter,
    Api::RemoveRaftVoter,
    Api::AlterPartitionReassignments,
    Api::ElectLeaders,
    Api::CreateAcls,
    Api::DeleteAcls,
    Api::AlterClientQuotas,
    Api::AlterUserScramCredentials,
    Api::AlterReplicaLogDirs,
];

/// Why an API is not sent here; none: it is. The bytes of every API are fuzzed in `tests/requests.rs`.
fn why_not(api: Api) -> Option<&'static str> {
    match api {
        Api::CreateTopics
        | Api::DeleteTopics
        | Api::CreatePartitions
        | Api::IncrementalAlterConfigs
        | Api::AlterConfigs
        | Api::DescribeConfigs
        | Api::UpdateFeatures
        | Api::DescribeQuorum
        | Api::UnregisterBroker
        | Api::DeleteRecords
        | Api::DeleteGroups
        | Api::OffsetDelete
        | Api::AddRaftVoter
        | Api::RemoveRaftVoter
        | Api::AlterPartitionReassignments
        | Api::ElectLeaders
        | Api::CreateAcls
        | Api::DeleteAcls
        | Api::AlterClientQuotas
        | Api::AlterUserScramCredentials
        | Api::AlterReplicaLogDirs => None,
        Api::Produce
        | Api::Fetch
        | Api::ListOffsets
        | Api::OffsetForLeaderEpoch
        | Api::OffsetCommit
        | Api::OffsetFetch
        | Api::FindCoordinator
        | Api::JoinGroup
        | Api::Heartbeat
        | Api::LeaveGroup
        | Api::SyncGroup
        | Api::ConsumerGroupHeartbeat
        | Api::InitProducerId
        | Api::AddPartitionsToTxn
        | Api::AddOffsetsToTxn
        | Api::EndTxn
        | Api::WriteTxnMarkers
        | Api::TxnOffsetCommit => Some("of producers, consumers and replicas: the quorum decides nothing of it"),
        Api::Metadata
        | Api::ApiVersions
        | Api::DescribeGroups
        | Api::ListGroups
        | Api::ConsumerGroupDescribe
        | Api::DescribeAcls
        | Api::DescribeLogDirs
        | Api::ListPartitionReassignments
        | Api::DescribeClientQuotas
        | Api::DescribeUserScramCredentials
        | Api::DescribeCluster
        | Api::DescribeProducers
        | Api::DescribeTransactions
        | Api::ListTransactions
        | Api::ListConfigResources
        | Api::DescribeTopicPartitions => Some("it reads the image or the state of a broker"),
        Api::CreateDelegationToken | Api::RenewDelegationToken | Api::ExpireDelegationToken => {
            Some("a connection without a login gets no token; by_grpc sends what the quorum decides of them")
        }
        Api::DescribeDelegationToken | Api::GetTelemetrySubscriptions | Api::PushTelemetry => {
            Some("it changes nothing that the quorum has")
        }
        Api::SaslHandshake | Api::SaslAuthenticate => Some("listeners have no SASL here"),
    }
}

#[test]
fn every_api_is_sent_or_says_why_not() {
    for api in Api::ALL {
        assert_eq!(SENT.contains(api), why_not(*api).is_none(), "{api}");
    }
}

/// Sends one random request; returns its name and the error codes of its response.
pub fn send(random: &mut Random, at: SocketAddr) -> Result<(&'static str, Vec<i16>)> {
    let api = pick(random, SENT);
    let errors = match api {
        Api::CreateTopics => create_topics(random, at)?,
        Api::DeleteTopics => delete_topics(random, at)?,
        Api::CreatePartitions => create_partitions(random, at)?,
        Api::IncrementalAlterConfigs => incremental_alter_configs(random, at)?,
        Api::AlterConfigs => alter_configs(random, at)?,
        Api::DescribeConfigs => describe_configs(random, at)?,
        Api::UpdateFeatures => update_features(random, at)?,
        Api::DescribeQuorum => describe_quorum(random, at)?,
        Api::UnregisterBroker if random.below(3) > 0 => describe_quorum(random, at)?,
        Api::UnregisterBroker => unregister_broker(random, at)?,
        other => by_kafka_cluster::send(other, random, at)?,
    };
    Ok((api.name(), errors))
}

/// A topic with a replica on each broker.
pub fn create_good_topic(at: SocketAddr) -> Result<()> {
    let topic = CreatableTopic::default()
        .with_name(topic_name("good".to_owned()))
        .with_num_partitions(3)
        .with_replication_factor(2);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(20_000);
    let response = ask(7, at, &request)?.context("the version has these fields")?;
    let error = response.topics.first().context("one topic")?.error_code;
    let made = [ErrorCode::None, ErrorCode::TopicAlreadyExists].map(ErrorCode::code);
    ensure!(made.contains(&error), "{:?}", ErrorCode::from_code(error));
    Ok(())
}

pub fn version(random: &mut Random, api: Api) -> i16 {
    let served = api.served();
    served.min + random.below((served.max - served.min) as usize + 1) as i16
}

/// None if the version cannot carry the request.
pub fn ask<R: Request>(version: i16, at: SocketAddr, request: &R) -> Result<Option<R::Response>> {
    let Ok(frame) = encode_request(version, 1, Some("fuzz"), request) else { return Ok(None) };
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&frame)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).with_context(|| format!("no response to API {} version {version}", R::KEY))?;
    let mut response = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut response)?;
    Ok(Some(decode_response::<R>(version, Bytes::from(response))?.1))
}

pub fn some<T>(random: &mut Random, mut make: impl FnMut(&mut Random) -> T) -> Vec<T> {
    (0..random.below(4)).map(|_| make(random)).collect()
}

pub fn brokers(random: &mut Random) -> Vec<BrokerId> {
    some(random, |random| BrokerId(broker(random)))
}

fn create_topics(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let topics = some(random, |random| {
        let configs = some(random, |random| {
            let (name, value) = config(random);
            CreatableTopicConfig::default().with_name(string(name)).with_value(Some(string(value)))
        });
        let topic = CreatableTopic::default()
            .with_name(topic_name(topic(random)))
            .with_num_partitions(number(random))
            .with_replication_factor(pick(random, &[1, 2, -1, 3, 0, 300, i16::MAX]))
            .with_configs(if random.below(3) == 0 { configs } else { Vec::new() });
        if random.below(4) > 0 {
            return topic;
        }
        let assignments = some(random, |random| {
            CreatableReplicaAssignment::default().with_partition_index(number(random)).with_broker_ids(brokers(random))
        });
        topic.with_num_partitions(-1).with_replication_factor(-1).with_assignments(assignments)
    });
    let request = CreateTopicsRequest::default()
        .with_topics(topics)
        .with_timeout_ms(20_000)
        .with_validate_only(random.below(4) == 0);
    let response = ask(version(random, Api::CreateTopics), at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.topics).map(|topic| topic.error_code).collect())
}

fn delete_topics(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let version = version(random, Api::DeleteTopics);
    let request = DeleteTopicsRequest::default().with_timeout_ms(20_000);
    let request = if version < 6 {
        request.with_topic_names(some(random, |random| topic_name(topic(random))))
    } else {
        request.with_topics(some(random, |random| {
            let topic = match random.below(3) {
                0 => return DeleteTopicState::default().with_name(None).with_topic_id(topic_id(random)),
                _ => DeleteTopicState::default().with_name(Some(topic_name(topic(random)))),
            };
            // Both at once are refused.
            if random.below(4) == 0 { topic.with_topic_id(topic_id(random)) } else { topic }
        }))
    };
    let response = ask(version, at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.responses).map(|topic| topic.error_code).collect())
}

/// No topic has one of these.
fn topic_id(random: &mut Random) -> Uuid {
    Uuid::from_bytes([random.below(4) as u8; 16])
}

fn create_partitions(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let topics = some(random, |random| {
        let assignments = some(random, |random| CreatePartitionsAssignment::default().with_broker_ids(brokers(random)));
        CreatePartitionsTopic::default()
            .with_name(topic_name(topic(random)))
            .with_count(number(random))
            .with_assignments(Some(assignments).filter(|_| random.below(3) == 0))
    });
    let request = CreatePartitionsRequest::default()
        .with_topics(topics)
        .with_timeout_ms(20_000)
        .with_validate_only(random.below(4) == 0);
    let response = ask(version(random, Api::CreatePartitions), at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.results).map(|topic| topic.error_code).collect())
}

/// The name that goes with the kind of a resource, mostly.
fn resource(random: &mut Random) -> (i8, StrBytes) {
    let kind = pick(random, &RESOURCES);
    let name = match (random.below(4), kind) {
        (0, _) => text(random),
        (_, 2) => topic(random),
        (_, 4 | 8) => pick(random, &["", "1", "2", "3"]).to_owned(),
        _ => format!("group-{}", random.below(3)),
    };
    (kind, string(name))
}

fn incremental_alter_configs(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let resources = some(random, |random| {
        let (kind, name) = resource(random);
        let configs = some(random, |random| {
            let (name, value) = config(random);
            AlterableConfig::default()
                .with_name(string(name))
                .with_config_operation(pick(random, &[0, 0, 1, 2, 3, 9]))
                .with_value(Some(string(value)).filter(|_| random.below(8) > 0))
        });
        AlterConfigsResource::default().with_resource_type(kind).with_resource_name(name).with_configs(configs)
    });
    let request =
        IncrementalAlterConfigsRequest::default().with_resources(resources).with_validate_only(random.below(4) == 0);
    let response = ask(version(random, Api::IncrementalAlterConfigs), at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.responses).map(|one| one.error_code).collect())
}

fn alter_configs(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let resources = some(random, |random| {
        let (kind, name) = resource(random);
        let configs = some(random, |random| {
            let (name, value) = config(random);
            LegacyConfig::default().with_name(string(name)).with_value(Some(string(value)))
        });
        LegacyResource::default().with_resource_type(kind).with_resource_name(name).with_configs(configs)
    });
    let request = AlterConfigsRequest::default().with_resources(resources).with_validate_only(random.below(4) == 0);
    let response = ask(version(random, Api::AlterConfigs), at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.responses).map(|one| one.error_code).collect())
}

fn describe_configs(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let resources = some(random, |random| {
        let (kind, name) = resource(random);
        DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(name)
            .with_configuration_keys(None)
    });
    let request = DescribeConfigsRequest::default().with_resources(resources);
    let response = ask(version(random, Api::DescribeConfigs), at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.results).map(|one| one.error_code).collect())
}

fn update_features(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let updates = some(random, |random| {
        FeatureUpdateKey::default()
            .with_feature(string(pick(random, &["metadata.version", "group.version", "nope"]).to_owned()))
            .with_max_version_level(pick(random, &[0, 1, 29, -1, i16::MAX]))
    });
    let request = UpdateFeaturesRequest::default().with_timeout_ms(20_000).with_feature_updates(updates);
    let response = ask(version(random, Api::UpdateFeatures), at, &request)?;
    Ok(response.into_iter().map(|response| response.error_code).collect())
}

fn describe_quorum(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    use describe_quorum_request::{PartitionData, TopicData};
    let topics = some(random, |random| {
        TopicData::default()
            .with_topic_name(topic_name(pick(random, &["__cluster_metadata", "topic-1"]).to_owned()))
            .with_partitions(some(random, |random| PartitionData::default().with_partition_index(number(random))))
    });
    let request = DescribeQuorumRequest::default().with_topics(topics);
    let response = ask(version(random, Api::DescribeQuorum), at, &request)?;
    Ok(response.into_iter().map(|response| response.error_code).collect())
}

fn unregister_broker(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(broker(random)));
    let response = ask(version(random, Api::UnregisterBroker), at, &request)?;
    Ok(response.into_iter().map(|response| response.error_code).collect())
}
