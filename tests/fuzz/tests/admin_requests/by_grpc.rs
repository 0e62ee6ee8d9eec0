//! Requests to the controller by gRPC, as a broker would send them, and as a forger would.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use ottla_authorizer::{
    AclBinding, AclEntry, AclFilter, EntryFilter, Operation, PatternFilter, PatternType, Permission, ResourceFilter,
    ResourcePattern, ResourceType,
};
use ottla_fuzz::mutation::Random;
use ottla_metadata::controller::{
    AllocateProducerIds, AlterConfig, AlterConfigs, AlterDelegationToken, AlterPartition, AlterPartitions,
    AlterReassignments, Answer, ChangeQuorum, ConfigOp, ControlledShutdown, CreateAcls, CreatePartitions, CreateTopics,
    DeleteAcls, DeleteTopics, ElectLeaders, ElectionType, FeatureChange, FeatureUpdate, NewPartitions, NewTopic,
    Refusal, Register, Request, ResignLeadership, ResignReason, TokenChange, TopicRef, UnregisterBroker,
    UpdateFeatures,
};
use ottla_metadata::{ConfigEntity, ConfigKind, Endpoint, IsrMember, LeaderSettings};
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, CoordinatorId, ErrorCode, IncarnationId, KafkaPrincipal, LeaderEpoch,
    ListenerName, PartitionEpoch, PartitionId, TopicId, TopicIdPartition,
};
use ottla_rpc::{CallError, ClusterClient};

use crate::words::{broker, config, number, pick, text, topic};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Sends one random request; returns its name and the error codes of its answer.
pub async fn send(random: &mut Random, quorum: &ClusterClient) -> Result<(&'static str, Vec<i16>)> {
    let request = request(random);
    let name = request.name();
    match quorum.decide(request, TIMEOUT).await {
        Ok(answer) => Ok((name, errors(answer))),
        // A definite refusal, by name.
        Err(CallError::Refused { .. }) => Ok((name, Vec::new())),
        Err(error) => bail!("{name}: {error}"),
    }
}

fn errors(answer: Answer) -> Vec<i16> {
    let of = |refusal: Option<Refusal>| refusal.map_or(ErrorCode::None, |refusal| refusal.error);
    let errors = match answer {
        Answer::Register(answer) => vec![of(answer.err())],
        Answer::UnregisterBroker(answer) => vec![of(answer.err())],
        Answer::AlterPartitions(answer) => {
            [answer.error].into_iter().chain(answer.partitions.iter().map(|one| one.error)).collect()
        }
        Answer::ResignLeadership(answer) => vec![answer.error],
        Answer::ControlledShutdown(answer) => vec![answer.error],
        Answer::AllocateProducerIds(answer) => vec![answer.err().unwrap_or(ErrorCode::None)],
        Answer::CreateTopics(answer) | Answer::DeleteTopics(answer) | Answer::CreatePartitions(answer) => {
            answer.topics.into_iter().map(|topic| of(topic.refusal)).collect()
        }
        Answer::AlterConfigs(answer) => answer.entities.into_iter().map(|(_, refusal)| of(refusal)).collect(),
        Answer::ElectLeaders(answer) | Answer::AlterReassignments(answer) => {
            answer.topics.into_iter().flat_map(|(_, outcomes)| outcomes).map(|outcome| of(outcome.refusal)).collect()
        }
        Answer::CreateAcls(answer) => answer.refusals.into_iter().map(of).collect(),
        Answer::DeleteAcls(answer) => answer.filters.into_iter().map(|filter| of(filter.err())).collect(),
        Answer::AlterDelegationToken(answer) => vec![of(answer.err())],
        Answer::UpdateFeatures(answer) => vec![of(answer.err())],
        Answer::ChangeQuorum(answer) => vec![of(answer.err())],
        Answer::AdmitCoordinator(_) | Answer::SetMember(()) | Answer::Unavailable => Vec::new(),
    };
    errors.into_iter().map(ErrorCode::code).collect()
}

#[test]
fn every_request_is_sent_or_is_of_coordinators_alone() {
    const OF_COORDINATORS: [&str; 2] = ["AdmitCoordinator", "SetMember"];
    let random = &mut Random::new(1);
    let sent: BTreeSet<&str> = (0..2_000).map(|_| request(random).name()).chain(OF_COORDINATORS).collect();
    let all: BTreeSet<&str> = Request::NAMES.iter().copied().collect();
    assert_eq!(sent, all);
}

fn request(random: &mut Random) -> Request {
    match random.below(17) {
        16 => Request::UpdateFeatures(update_features(random)),
        15 => Request::AlterDelegationToken(delegation_token(random)),
        14 => Request::ChangeQuorum(change_quorum(random)),
        0 | 1 => register(random),
        2 => Request::AlterPartitions(alter_partitions(random)),
        3 => Request::ResignLeadership(ResignLeadership {
            broker: BrokerId(broker(random)),
            epoch: epoch(random),
            partitions: some(random, partition),
            reason: pick(random, &[ResignReason::Stalled, ResignReason::Offline, ResignReason::Lost]),
        }),
        4 => Request::ControlledShutdown(ControlledShutdown {
            broker: BrokerId(broker(random)),
            epoch: epoch(random),
            incarnation: IncarnationId([random.below(250) as u8; 16]),
        }),
        5 => {
            Request::AllocateProducerIds(AllocateProducerIds { broker: BrokerId(broker(random)), epoch: epoch(random) })
        }
        6 | 7 => Request::CreateTopics(create_topics(random)),
        8 => Request::DeleteTopics(DeleteTopics {
            topics: some(random, |random| match random.below(3) {
                0 => TopicRef::Id(TopicId([random.below(4) as u8; 16])),
                _ => TopicRef::Name(topic(random)),
            }),
        }),
        9 => Request::CreatePartitions(CreatePartitions {
            topics: some(random, |random| NewPartitions {
                topic: topic(random),
                total: number(random),
                assignments: (random.below(3) == 0).then(|| some(random, brokers)),
            }),
            validate_only: random.below(4) == 0,
        }),
        10 => Request::ElectLeaders(ElectLeaders {
            election: pick(random, &[ElectionType::Preferred, ElectionType::Unclean]),
            topics: (random.below(4) > 0)
                .then(|| some(random, |random| (topic(random), some(random, |random| PartitionId(number(random)))))),
        }),
        11 => acls(random),
        12 => Request::AlterReassignments(AlterReassignments {
            topics: some(random, |random| (topic(random), some(random, target))),
            allow_replication_factor_change: random.below(2) == 0,
        }),
        _ if random.below(4) == 0 => {
            Request::UnregisterBroker(UnregisterBroker { broker: BrokerId(pick(random, &[3, 900, 901, -1])) })
        }
        _ => Request::AlterConfigs(alter_configs(random)),
    }
}

fn delegation_token(random: &mut Random) -> AlterDelegationToken {
    let principal = |random: &mut Random| KafkaPrincipal::new(text(random), text(random));
    let period_ms = |random: &mut Random| pick(random, &[-1, 0, 1, 60_000, i64::MIN, i64::MAX]);
    let change = match random.below(4) {
        0 => TokenChange::Create {
            owner: principal(random),
            requester: principal(random),
            renewers: some(random, principal),
            lifetime_ms: period_ms(random),
            renewal_ms: period_ms(random),
        },
        1 => TokenChange::Renew { by: principal(random), period_ms: period_ms(random) },
        2 => TokenChange::Expire { by: principal(random), period_ms: Some(period_ms(random)) },
        _ => TokenChange::RemoveExpired,
    };
    AlterDelegationToken { token_id: text(random), change }
}

/// The level stays what it is, or comes back.
fn update_features(random: &mut Random) -> UpdateFeatures {
    let update = |random: &mut Random| FeatureUpdate {
        name: pick(random, &["ottla.version", "group.version", "nope", ""]).to_owned(),
        level: pick(random, &[i16::MIN, -1, 0, 1, 2, 3, i16::MAX]),
        change: pick(random, &[FeatureChange::Upgrade, FeatureChange::SafeDowngrade, FeatureChange::UnsafeDowngrade]),
    };
    UpdateFeatures { updates: some(random, update), validate_only: random.below(2) == 0 }
}

/// The leader may be another one; the three stay, for they are to be compared.
fn change_quorum(random: &mut Random) -> ChangeQuorum {
    let disk = IncarnationId([1 + random.below(250) as u8; 16]);
    let coordinator = CoordinatorId(pick(random, &[1, 2, 3, 4, 0, 900, u64::MAX]));
    match random.below(3) {
        0 => ChangeQuorum::TransferLeadership { to: Some(coordinator).filter(|_| random.below(3) > 0) },
        1 => ChangeQuorum::Remove { coordinator, disk: Some(disk), force: random.below(2) == 0 },
        // Nobody who could be added answers at any of these.
        _ => ChangeQuorum::Add {
            coordinator,
            disk: if random.below(2) == 0 { IncarnationId::ZERO } else { disk },
            address: pick(random, &["127.0.0.1:1", "[::1]:2", "", "a b", "x:99999"]).to_owned(),
        },
    }
}

fn acls(random: &mut Random) -> Request {
    if random.below(3) == 0 {
        let filter = |random: &mut Random| AclFilter {
            pattern: ResourceFilter {
                resource_type: pick(random, &[None, Some(ResourceType::Topic)]),
                pattern: pick(random, &[PatternFilter::Any, PatternFilter::Match]),
                name: Some(topic(random)).filter(|_| random.below(2) == 0),
            },
            entry: EntryFilter::default(),
        };
        return Request::DeleteAcls(DeleteAcls { filters: some(random, filter) });
    }
    let binding = |random: &mut Random| AclBinding {
        pattern: ResourcePattern {
            resource_type: pick(random, ResourceType::ALL),
            pattern_type: pick(random, PatternType::ALL),
            name: topic(random),
        },
        entry: AclEntry {
            principal: KafkaPrincipal::new(text(random), text(random)),
            host: text(random),
            operation: pick(random, Operation::ALL),
            permission: pick(random, Permission::ALL),
        },
    };
    Request::CreateAcls(CreateAcls { bindings: some(random, binding) })
}

fn some<T>(random: &mut Random, mut make: impl FnMut(&mut Random) -> T) -> Vec<T> {
    (0..random.below(4)).map(|_| make(random)).collect()
}

fn target(random: &mut Random) -> (PartitionId, Option<Vec<BrokerId>>) {
    (PartitionId(number(random)), (random.below(4) > 0).then(|| brokers(random)))
}

fn brokers(random: &mut Random) -> Vec<BrokerId> {
    some(random, |random| BrokerId(broker(random)))
}

fn epoch(random: &mut Random) -> BrokerEpoch {
    BrokerEpoch(pick(random, &[-1, 0, 1, 5, 20, i64::MAX]))
}

fn partition(random: &mut Random) -> TopicIdPartition {
    TopicIdPartition { topic_id: TopicId([random.below(4) as u8; 16]), partition: PartitionId(number(random)) }
}

/// A broker that nobody started. It never sends a heartbeat and is fenced soon.
fn register(random: &mut Random) -> Request {
    let endpoint = |random: &mut Random| Endpoint {
        listener: ListenerName::new(pick(random, &["INTERNAL", "HOST", "X"])),
        host: text(random),
        port: random.below(65_536) as u16,
        security_protocol: pick(random, &["PLAINTEXT", "SSL", ""]).to_owned(),
    };
    Request::Register(Register {
        broker: BrokerId(pick(random, &[1, 2, 3, 900, 901, -1, -7])),
        incarnation: IncarnationId([random.below(250) as u8; 16]),
        cluster_id: pick(random, &[None, None, Some("another")]).map(ClusterId::new),
        endpoints: some(random, endpoint),
        inter_broker_listener: ListenerName::new("INTERNAL"),
        rack: Some(text(random)).filter(|_| random.below(2) == 0),
        clean_shutdown_epoch: epoch(random),
        min_insync_replicas: number(random),
        leaders: LeaderSettings::default(),
        levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
    })
}

fn alter_partitions(random: &mut Random) -> AlterPartitions {
    let change = |random: &mut Random| AlterPartition {
        partition: partition(random),
        leader_epoch: LeaderEpoch(number(random)),
        partition_epoch: PartitionEpoch(number(random)),
        isr: some(random, |random| IsrMember { broker: BrokerId(broker(random)), epoch: epoch(random) }),
    };
    AlterPartitions { broker: BrokerId(broker(random)), epoch: epoch(random), partitions: some(random, change) }
}

fn create_topics(random: &mut Random) -> CreateTopics {
    let topic = |random: &mut Random| NewTopic {
        name: topic(random),
        partitions: number(random),
        replication_factor: pick(random, &[1, 2, -1, 3, 0, 300, i32::MAX]),
        grows_to: pick(random, &[0, 0, 3, -1, i32::MAX]),
        assignments: Vec::new(),
        configs: some(random, |random| {
            let (name, value) = config(random);
            (name, Some(value).filter(|_| random.below(8) > 0))
        }),
    };
    CreateTopics {
        topics: some(random, topic),
        validate_only: random.below(4) == 0,
        default_partitions: 1,
        default_replication_factor: number(random),
    }
}

fn alter_configs(random: &mut Random) -> AlterConfigs {
    let entity = |random: &mut Random| AlterConfig {
        entity: ConfigEntity {
            kind: pick(random, &[ConfigKind::Topics, ConfigKind::Brokers, ConfigKind::Groups, ConfigKind::Users]),
            name: if random.below(2) == 0 { topic(random) } else { text(random) },
        },
        changes: some(random, |random| {
            let (name, value) = config(random);
            let op = match random.below(4) {
                0 => ConfigOp::Delete,
                1 => ConfigOp::Append(value),
                2 => ConfigOp::Subtract(value),
                _ => ConfigOp::Set(value),
            };
            (name, op)
        }),
        replace_all: random.below(3) == 0,
    };
    AlterConfigs { entities: some(random, entity), validate_only: random.below(4) == 0 }
}
