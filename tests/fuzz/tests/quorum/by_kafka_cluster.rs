//! As [`super::by_kafka`]: replicas, users, rules and quotas.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use kafka_protocol::messages::alter_user_scram_credentials_request::{
    ScramCredentialDeletion, ScramCredentialUpsertion,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterPartitionReassignmentsRequest, AlterReplicaLogDirsRequest,
    AlterUserScramCredentialsRequest, CreateAclsRequest, DeleteAclsRequest, ElectLeadersRequest,
};
use ottla_fuzz::mutation::Random;
use ottla_protocol::Api;

use super::by_kafka::{ask, brokers, some, string, topic_name, version};
use crate::words::{number, pick, text, topic};

/// As [`super::by_kafka::send`].
pub fn send(random: &mut Random, at: SocketAddr) -> Result<(&'static str, Vec<i16>)> {
    Ok(match random.below(7) {
        0 => ("AlterPartitionReassignments", reassign(random, at)?),
        1 => ("ElectLeaders", elect_leaders(random, at)?),
        2 => ("CreateAcls", create_acls(random, at)?),
        3 => ("DeleteAcls", delete_acls(random, at)?),
        4 => ("AlterClientQuotas", alter_quotas(random, at)?),
        5 => ("AlterUserScramCredentials", alter_users(random, at)?),
        _ => ("AlterReplicaLogDirs", alter_log_dirs(random, at)?),
    })
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
