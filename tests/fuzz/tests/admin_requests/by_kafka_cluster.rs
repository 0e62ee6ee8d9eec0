//! As [`super::by_kafka`]: replicas, users, rules, quotas, groups and members of the quorum.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use bytes::Bytes;
use kafka_protocol::messages::add_raft_voter_request::Listener;
use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use kafka_protocol::messages::alter_user_scram_credentials_request::{
    ScramCredentialDeletion, ScramCredentialUpsertion,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::{
    AddRaftVoterRequest, AlterClientQuotasRequest, AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest,
    AlterUserScramCredentialsRequest, CreateAclsRequest, DeleteAclsRequest, DeleteGroupsRequest, DeleteRecordsRequest,
    ElectLeadersRequest, GroupId, OffsetDeleteRequest, RemoveRaftVoterRequest,
};
use ottla_fuzz::mutation::Random;
use ottla_protocol::Api;
use uuid::Uuid;

use super::by_kafka::{ask, brokers, some, string, topic_name, version};
use crate::words::{number, pick, text, topic};

/// The error codes of the response to a random request of this API.
pub fn send(api: Api, random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    match api {
        Api::AlterPartitionReassignments => reassign(random, at),
        Api::ElectLeaders => elect_leaders(random, at),
        Api::CreateAcls => create_acls(random, at),
        Api::DeleteAcls => delete_acls(random, at),
        Api::AlterClientQuotas => alter_quotas(random, at),
        Api::AlterUserScramCredentials => alter_users(random, at),
        Api::AlterReplicaLogDirs => alter_log_dirs(random, at),
        Api::DeleteRecords => delete_records(random, at),
        Api::DeleteGroups => delete_groups(random, at),
        Api::OffsetDelete => delete_offsets(random, at),
        Api::AddRaftVoter => add_voter(random, at),
        Api::RemoveRaftVoter => remove_voter(random, at),
        other => bail!("{other} is not sent"),
    }
}

fn delete_records(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let topics = some(random, |random| {
        let partitions = some(random, |random| {
            DeleteRecordsPartition::default()
                .with_partition_index(partition(random))
                .with_offset(pick(random, &[0, -1, 1, -2, i64::MAX, i64::MIN]))
        });
        DeleteRecordsTopic::default().with_name(topic_name(topic(random))).with_partitions(partitions)
    });
    let request = DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(20_000);
    let response = ask(version(random, Api::DeleteRecords), at, &request)?;
    let topics = response.into_iter().flat_map(|response| response.topics);
    Ok(topics.flat_map(|topic| topic.partitions).map(|one| one.error_code).collect())
}

fn group(random: &mut Random) -> GroupId {
    let name = if random.below(3) == 0 { text(random) } else { format!("group-{}", random.below(3)) };
    GroupId(string(name))
}

fn delete_groups(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let request = DeleteGroupsRequest::default().with_groups_names(some(random, group));
    let response = ask(version(random, Api::DeleteGroups), at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.results).map(|one| one.error_code).collect())
}

fn delete_offsets(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let topics = some(random, |random| {
        let partitions =
            some(random, |random| OffsetDeleteRequestPartition::default().with_partition_index(partition(random)));
        OffsetDeleteRequestTopic::default().with_name(topic_name(topic(random))).with_partitions(partitions)
    });
    let request = OffsetDeleteRequest::default().with_group_id(group(random)).with_topics(topics);
    let response = ask(version(random, Api::OffsetDelete), at, &request)?;
    let of_topics = |response: &kafka_protocol::messages::OffsetDeleteResponse| -> Vec<i16> {
        response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error_code).collect()
    };
    Ok(response.iter().flat_map(|response| [vec![response.error_code], of_topics(response)].concat()).collect())
}

/// Of a disk that no coordinator has.
fn disk(random: &mut Random) -> Uuid {
    Uuid::from_bytes([1 + random.below(250) as u8; 16])
}

/// Nobody who could be added answers at any of these.
fn add_voter(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let listeners = some(random, |random| {
        Listener::default()
            .with_name(string(text(random)))
            .with_host(string(pick(random, &["127.0.0.1", "::1", "", "a b"]).to_owned()))
            .with_port(pick(random, &[1, 0, 2]))
    });
    let request = AddRaftVoterRequest::default()
        .with_cluster_id(Some(string(text(random))).filter(|_| random.below(4) == 0))
        .with_timeout_ms(20_000)
        .with_voter_id(number(random))
        .with_voter_directory_id(if random.below(2) == 0 { Uuid::nil() } else { disk(random) })
        .with_listeners(listeners);
    let response = ask(version(random, Api::AddRaftVoter), at, &request)?;
    Ok(response.into_iter().map(|response| response.error_code).collect())
}

/// Never one of the three: they are to be compared.
fn remove_voter(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let request = RemoveRaftVoterRequest::default()
        .with_cluster_id(Some(string(text(random))).filter(|_| random.below(4) == 0))
        .with_voter_id(number(random))
        .with_voter_directory_id(disk(random));
    let response = ask(version(random, Api::RemoveRaftVoter), at, &request)?;
    Ok(response.into_iter().map(|response| response.error_code).collect())
}

fn partition(random: &mut Random) -> i32 {
    pick(random, &[0, 0, 1, 2, -1, i32::MAX])
}

fn reassign(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let topics = some(random, |random| {
        let partitions = some(random, |random| {
            let replicas = brokers(random);
            ReassignablePartition::default()
                .with_partition_index(partition(random))
                .with_replicas(Some(replicas).filter(|_| random.below(3) > 0))
        });
        ReassignableTopic::default().with_name(topic_name(topic(random))).with_partitions(partitions)
    });
    let request = AlterPartitionReassignmentsRequest::default().with_timeout_ms(20_000).with_topics(topics);
    let response = ask(version(random, Api::AlterPartitionReassignments), at, &request)?;
    let of_topics = |response: &kafka_protocol::messages::AlterPartitionReassignmentsResponse| -> Vec<i16> {
        response.responses.iter().flat_map(|topic| &topic.partitions).map(|one| one.error_code).collect()
    };
    Ok(response.iter().flat_map(|response| [vec![response.error_code], of_topics(response)].concat()).collect())
}

fn elect_leaders(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let topics = some(random, |random| {
        let partitions = some(random, partition);
        TopicPartitions::default().with_topic(topic_name(topic(random))).with_partitions(partitions)
    });
    let request = ElectLeadersRequest::default()
        .with_election_type(pick(random, &[0, 1, 2, -1]))
        .with_topic_partitions(Some(topics).filter(|_| random.below(4) > 0))
        .with_timeout_ms(20_000);
    let response = ask(version(random, Api::ElectLeaders), at, &request)?;
    let results = response.iter().flat_map(|response| &response.replica_election_results);
    Ok(results.flat_map(|topic| &topic.partition_result).map(|one| one.error_code).collect())
}

fn create_acls(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let creations = some(random, |random| {
        AclCreation::default()
            .with_resource_type(pick(random, &[2, 3, 4, 5, 0, 99]))
            .with_resource_name(string(text(random)))
            .with_resource_pattern_type(pick(random, &[3, 4, 1, 0]))
            .with_principal(string(format!("User:{}", text(random))))
            .with_host(string(pick(random, &["*", "127.0.0.1", "nobody's", ""]).to_owned()))
            .with_operation(pick(random, &[2, 3, 4, 1, 99]))
            .with_permission_type(pick(random, &[2, 3, 0]))
    });
    let request = CreateAclsRequest::default().with_creations(creations);
    let response = ask(version(random, Api::CreateAcls), at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.results).map(|one| one.error_code).collect())
}

fn delete_acls(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let filters = some(random, |random| {
        let name = text(random);
        DeleteAclsFilter::default()
            .with_resource_type_filter(pick(random, &[1, 2, 3, 0]))
            .with_resource_name_filter(Some(string(name)).filter(|_| random.below(2) > 0))
            .with_pattern_type_filter(pick(random, &[1, 2, 3, 4, 0]))
            .with_operation(pick(random, &[1, 2, 99]))
            .with_permission_type(pick(random, &[1, 2, 3]))
    });
    let request = DeleteAclsRequest::default().with_filters(filters);
    let response = ask(version(random, Api::DeleteAcls), at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.filter_results).map(|one| one.error_code).collect())
}

fn alter_quotas(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    // Whoever sends requests here must not be throttled for minutes: what is not only tried concerns nobody.
    let validate_only = random.below(4) > 0;
    let entries = some(random, |random| {
        let entity = some(random, |random| {
            let name = text(random);
            if !validate_only {
                let name = Some(string(format!("nobody {name}")));
                return EntityData::default().with_entity_type(string("user".to_owned())).with_entity_name(name);
            }
            EntityData::default()
                .with_entity_type(string(pick(random, &["user", "client-id", "ip", "nope"]).to_owned()))
                .with_entity_name(Some(string(name)).filter(|_| random.below(3) > 0))
        });
        let ops = some(random, |random| {
            let keys =
                ["producer_byte_rate", "consumer_byte_rate", "request_percentage", "connection_creation_rate", "x"];
            OpData::default()
                .with_key(string(pick(random, &keys).to_owned()))
                .with_value(pick(random, &[1.0, 1e6, 0.0, -1.0, f64::NAN, f64::INFINITY, 1e300]))
                .with_remove(random.below(4) == 0)
        });
        EntryData::default().with_entity(entity).with_ops(ops)
    });
    let request = AlterClientQuotasRequest::default().with_entries(entries).with_validate_only(validate_only);
    let response = ask(version(random, Api::AlterClientQuotas), at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.entries).map(|one| one.error_code).collect())
}

fn alter_users(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let user = |random: &mut Random| if random.below(3) == 0 { text(random) } else { "user".to_owned() };
    let deletions = some(random, |random| {
        ScramCredentialDeletion::default().with_name(string(user(random))).with_mechanism(pick(random, &[1, 2, 0]))
    });
    let upsertions = some(random, |random| {
        let bytes = |random: &mut Random| Bytes::from(vec![7; pick(random, &[32, 64, 0, 20, 5_000])]);
        ScramCredentialUpsertion::default()
            .with_name(string(user(random)))
            .with_mechanism(pick(random, &[1, 2, 0]))
            .with_iterations(pick(random, &[4096, 8192, 0, -1, i32::MAX]))
            .with_salt(bytes(random))
            .with_salted_password(bytes(random))
    });
    let request = AlterUserScramCredentialsRequest::default().with_deletions(deletions).with_upsertions(upsertions);
    let response = ask(version(random, Api::AlterUserScramCredentials), at, &request)?;
    Ok(response.into_iter().flat_map(|response| response.results).map(|one| one.error_code).collect())
}

fn alter_log_dirs(random: &mut Random, at: SocketAddr) -> Result<Vec<i16>> {
    let dirs = some(random, |random| {
        let topics = some(random, |random| {
            let mut partitions = some(random, partition);
            partitions.push(number(random));
            AlterReplicaLogDirTopic::default().with_name(topic_name(topic(random))).with_partitions(partitions)
        });
        AlterReplicaLogDir::default().with_path(string(text(random))).with_topics(topics)
    });
    let request = AlterReplicaLogDirsRequest::default().with_dirs(dirs);
    let response = ask(version(random, Api::AlterReplicaLogDirs), at, &request)?;
    let results = response.into_iter().flat_map(|response| response.results);
    Ok(results.flat_map(|topic| topic.partitions).map(|one| one.error_code).collect())
}
