//! Admin requests at their limits, repeated, and without effect.

use std::collections::BTreeSet;

use ottla_model::{BrokerId, CoordinatorId, ErrorCode, IncarnationId, IncarnationKey, Revision, TimestampMs, TopicId};

use super::harness::*;
use crate::controller::*;
use crate::image::ConfigEntity;
use crate::leader_search::Repeat;
use crate::limits;
use crate::nodes;
use crate::nodes::decided_request::{self, DecidedRequest};
use crate::transaction::{Change, Transaction};

fn create(topic: NewTopic) -> Request {
    let (default_partitions, default_replication_factor) = (1, 1);
    let topics = vec![topic];
    Request::CreateTopics(CreateTopics { topics, validate_only: true, default_partitions, default_replication_factor })
}

fn outcome(answer: Answer) -> TopicOutcome {
    match answer {
        Answer::CreateTopics(mut outcomes) | Answer::DeleteTopics(mut outcomes) => outcomes.topics.remove(0),
        other => panic!("not the answer about topics: {other:?}"),
    }
}

fn refusal(cluster: &mut Cluster, request: Request) -> Option<(ErrorCode, String)> {
    outcome(cluster.ask(request)).refusal.map(|refusal| (refusal.error, refusal.message))
}

#[test]
fn a_topic_may_have_as_many_partitions_and_replicas_as_the_limits() {
    let mut cluster = Cluster::of(1);
    let placed = |partitions: usize, replication_factor: i32| {
        let partitions = i32::try_from(partitions).expect("small");
        create(NewTopic { partitions, replication_factor, ..new_topic("t", &[], &[]) })
    };
    assert_eq!(refusal(&mut cluster, placed(limits::MAX_ITEMS_PER_REQUEST, 1)), None);
    let most = limits::MAX_REPLICATION_FACTOR;
    let mut text = |factor| refusal(&mut cluster, placed(1, factor)).expect("one broker is there").1;
    assert!(text(most).starts_with("Unable to replicate the partition 256 time(s)"));
    assert_eq!(text(most + 2), "Replication factor must not be larger than 256.");
    let mut assigned = |count: i32| {
        let replicas: Vec<i32> = (1..=count).collect();
        refusal(&mut cluster, create(new_topic("t", &[&replicas], &[]))).expect("one broker is there").1
    };
    assert!(assigned(most).contains("includes broker 2, but no such broker is registered"));
    assert_eq!(assigned(most + 2), "The manual partition assignment includes 258 replicas; at most 256 are possible.");
}

/// Tools take a leading dash for an option; the bits are those of a random (version 4) UUID.
#[test]
fn topic_ids_are_random_uuids_without_a_leading_dash() {
    let mut cluster = Cluster::of(1);
    let mut ids = BTreeSet::new();
    for number in 0..200 {
        let name = format!("t{number}");
        cluster.create(&name, &[&[1]], &[]);
        let id = cluster.id_of(&name, 0).topic_id;
        assert_eq!((id.0[6] >> 4, id.0[8] >> 6), (4, 0b10), "version and variant");
        assert!(!id.to_string().starts_with('-'));
        ids.insert(id);
    }
    assert_eq!(ids.len(), 200);
    // The other bits are random.
    for byte in 0..16 {
        let values: BTreeSet<u8> = ids.iter().map(|id| id.0[byte]).collect();
        assert!(values.len() >= 8, "byte {byte}: {values:?}");
    }
}

#[test]
fn a_topic_that_is_not_there_is_named_by_the_id_that_was_asked_for_also_at_a_retry() {
    let mut cluster = Cluster::of(1);
    cluster.create("t", &[&[1]], &[]);
    cluster.create("u", &[&[1]], &[]);
    let unknown = TopicId([9; 16]);
    let (t, topics) = (cluster.id_of("t", 0).topic_id, |ids: &[TopicId]| DeleteTopics {
        topics: ids.iter().copied().map(TopicRef::Id).chain([TopicRef::Name("u".to_owned())]).collect(),
    });
    let delete = Request::Once(IdempotencyKey([7; 16]), Box::new(Request::DeleteTopics(topics(&[unknown, t]))));
    let Answer::DeleteTopics(first) = cluster.ask(delete.clone()) else { panic!("not the answer") };
    let told: Vec<_> = first.topics.iter().map(|topic| (topic.name.as_str(), topic.id)).collect();
    assert_eq!(told[..2], [("", unknown), ("t", t)]);
    assert_eq!(told[2].0, "u");
    let Answer::DeleteTopics(again) = cluster.ask(delete) else { panic!("not the answer") };
    let again: Vec<_> = again.topics.iter().map(|topic| (topic.name.as_str(), topic.id)).collect();
    assert_eq!(again, told);
}

#[test]
fn a_retry_of_unregister_broker_is_answered_as_the_first() {
    let mut cluster = Cluster::of(2);
    cluster.kill(2);
    let unregister = Request::UnregisterBroker(UnregisterBroker { broker: BrokerId(2) });
    let once = Request::Once(IdempotencyKey([7; 16]), Box::new(unregister.clone()));
    assert!(matches!(cluster.ask(once.clone()), Answer::UnregisterBroker(Ok(_))));
    assert!(matches!(cluster.ask(once), Answer::UnregisterBroker(Ok(_))));
    assert!(matches!(cluster.ask(unregister), Answer::UnregisterBroker(Err(_))), "another request");
}

#[test]
fn outcomes_are_remembered_up_to_a_number_of_bytes() {
    let mut cluster = Cluster::of(1);
    let parent = nodes::decided_request::parent_path();
    let bytes = |cluster: &Cluster| cluster.tree.below(&parent).map(|(_, node)| node.payload.len()).sum::<usize>();
    for key in 0..12_u8 {
        // Each item is remembered with about as many bytes as its name.
        let refused = (0..1_000).map(|number| TopicRef::Name(format!("{number:0>200}")));
        cluster.create(&format!("t{key}"), &[&[1]], &[]);
        let topics = refused.chain([TopicRef::Name(format!("t{key}"))]).collect();
        let delete = Request::DeleteTopics(DeleteTopics { topics });
        cluster.ask(Request::Once(IdempotencyKey([key; 16]), Box::new(delete)));
        assert!(bytes(&cluster) <= limits::MAX_REMEMBERED_BYTES, "{}", bytes(&cluster));
    }
    assert!(bytes(&cluster) > limits::MAX_REMEMBERED_BYTES / 2, "{}", bytes(&cluster));
}

#[test]
fn a_configuration_that_stays_the_same_is_written_for_brokers_only() {
    let mut cluster = Cluster::of(1);
    cluster.create("t", &[&[1]], &[("retention.ms", "60000")]);
    let mut set = |entity: ConfigEntity, name: &str, value: &str| {
        let changes = vec![(name.to_owned(), ConfigOp::Set(value.to_owned()))];
        let entities = vec![AlterConfig { entity: entity.clone(), changes, replace_all: false }];
        cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
        cluster.tree.get(&entity.path()).map(|node| node.version)
    };
    let topic = ConfigEntity::topic("t");
    assert_eq!(set(topic.clone(), "retention.ms", "60000"), Some(0));
    assert_eq!(set(topic, "retention.ms", "70000"), Some(1));
    // Its entries may point to files that changed.
    let broker = ConfigEntity::broker(BrokerId(1));
    assert_eq!(set(broker.clone(), "log.cleaner.threads", "2"), Some(0));
    assert_eq!(set(broker, "log.cleaner.threads", "2"), Some(1));
}

/// The ELRs that a lower min.insync.replicas invalidates are cleared in bounded batches.
#[test]
fn a_lower_min_isr_of_a_large_topic_is_decided_in_bounded_batches() {
    let mut cluster = Cluster::of(2);
    let replicas: &[i32] = &[1, 2];
    cluster.create("large", &vec![replicas; 1_800], &[("min.insync.replicas", "2")]);
    cluster.kill(2);
    let with_elr = |cluster: &Cluster| cluster.image.index.with_elr().count();
    assert_eq!(with_elr(&cluster), 1_800);
    let changes = vec![("min.insync.replicas".to_owned(), ConfigOp::Set("1".to_owned()))];
    let entities = vec![AlterConfig { entity: ConfigEntity::topic("large"), changes, replace_all: false }];
    cluster.send(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
    let sizes: Vec<_> = cluster.proposals.iter().map(|(_, transaction)| transaction.changes.len()).collect();
    let most = PARTITIONS_PER_TRANSACTION;
    assert_eq!(sizes, [most, most, most, 300 + 1], "the last one has the configuration, too");
    cluster.commit_all();
    assert_eq!(with_elr(&cluster), 0);
}

#[test]
fn the_same_partition_twice_in_one_isr_request_changes_once() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[]);
    cluster.create("u", &[&[1, 2]], &[]);
    let mut request = cluster.isr_request("t", vec![cluster.member(1)]);
    let other = cluster.isr_request("u", vec![cluster.member(1)]).partitions.remove(0);
    request.partitions.push(request.partitions[0].clone());
    request.partitions.push(other);
    let Answer::AlterPartitions(altered) = cluster.ask(Request::AlterPartitions(request)) else { panic!("another") };
    let errors: Vec<_> = altered.partitions.iter().map(|partition| partition.error).collect();
    assert_eq!(errors, [ErrorCode::None, ErrorCode::InvalidUpdateVersion, ErrorCode::None]);
}

/// A broker resigns what it has: nothing changes for the ISR and the ELR of others, nor by a repetition.
#[test]
fn resigning_without_a_part_changes_nothing() {
    let mut cluster = Cluster::of(4);
    cluster.create("t", &[&[1, 2, 3]], &[("min.insync.replicas", "3")]);
    let epoch_after = |cluster: &mut Cluster, id: i32, reason: ResignReason| {
        let me = cluster.member(id);
        let partitions = vec![cluster.id_of("t", 0)];
        let resign = ResignLeadership { broker: me.broker, epoch: me.epoch, partitions, reason };
        cluster.ask(Request::ResignLeadership(resign));
        cluster.state("t", 0).partition_epoch.0
    };
    let first = epoch_after(&mut cluster, 3, ResignReason::Stalled);
    assert_eq!(cluster.state("t", 0).elr, ids(&[3]));
    assert_eq!(epoch_after(&mut cluster, 3, ResignReason::Stalled), first, "an ELR member stays one");
    for reason in [ResignReason::Stalled, ResignReason::Offline, ResignReason::Lost] {
        assert_eq!(epoch_after(&mut cluster, 4, reason), first, "not a replica");
    }
    let second = epoch_after(&mut cluster, 2, ResignReason::Offline);
    assert!(second > first);
    assert_eq!(epoch_after(&mut cluster, 2, ResignReason::Offline), second, "it is known");
    assert_eq!(epoch_after(&mut cluster, 2, ResignReason::Lost), second, "neither in the ISR nor in the ELR");
    let stays = cluster.state("t", 0);
    assert_eq!((isr(&stays), stays.elr.clone()), (vec![1], ids(&[3])));
}

/// What keeps the outcome of a deletion of a topic whose name has this number of bytes: the node, if there is one, and
/// how many former outcomes are forgotten for it.
fn kept(cluster: &Cluster, name_bytes: usize) -> Option<(usize, usize)> {
    let outcome = TopicOutcome {
        name: "x".repeat(name_bytes),
        id: TopicId::ZERO,
        refusal: None,
        partitions: 0,
        replication_factor: 0,
    };
    let deleted = Answer::DeleteTopics(TopicOutcomes { topics: vec![outcome], revision: Revision(0) });
    let changes = cluster.controller.memory_of(IdempotencyKey([1; 16]), &deleted)?.into_transaction().changes;
    let forgotten = changes.iter().filter(|change| matches!(change, Change::Delete { .. })).count();
    let written = changes.iter().find_map(|change| match change {
        Change::Create { payload, .. } => Some(payload.len()),
        _ => None,
    });
    Some((written.expect("it is written"), forgotten))
}

/// An outcome that was remembered at this time.
fn remember(cluster: &mut Cluster, decided_at: TimestampMs) -> usize {
    let payload = decided_request::encode(&DecidedRequest { kind: 2, decided_at, items: Vec::new() });
    let bytes = payload.len();
    let path = decided_request::path(IdempotencyKey([9; 16]));
    cluster.apply(None, &Transaction { changes: vec![Change::Create { path, payload }] });
    bytes
}

#[test]
fn outcomes_may_have_as_many_bytes_as_the_limit_one_alone_and_all_together() {
    let mut cluster = Cluster::of(1);
    let (some, most) = (limits::MAX_REMEMBERED_BYTES - 1_000, limits::MAX_REMEMBERED_BYTES);
    let overhead = kept(&cluster, some).expect("it fits").0 - some;
    assert_eq!(kept(&cluster, most - overhead), Some((most, 0)));
    assert_eq!(kept(&cluster, most - overhead + 1), None);
    let now = cluster.now.wall;
    let room = most - remember(&mut cluster, now);
    assert_eq!(kept(&cluster, room - overhead), Some((room, 0)));
    assert_eq!(kept(&cluster, room - overhead + 1), Some((room + 1, 1)));
}

#[test]
fn an_outcome_is_remembered_whatever_the_wall_clock_says() {
    let mut cluster = Cluster::of(1);
    let now = cluster.now.wall;
    remember(&mut cluster, now);
    let mut forgotten_after = |ms| {
        cluster.now.wall.0 = now.0 + ms;
        cluster.tick();
        kept(&cluster, 1).expect("it fits").1
    };
    let year_ms = 365 * 24 * 3_600_000;
    assert_eq!((forgotten_after(600_001), forgotten_after(year_ms), forgotten_after(-year_ms)), (0, 0, 0));
}

#[test]
fn a_request_is_the_same_in_its_wrapping() {
    let cluster = Cluster::of(1);
    let (broker, epoch) = (BrokerId(1), cluster.brokers[&1].epoch);
    let register = Request::Register(cluster.registration(1, 1, epoch));
    let allocate = Request::AllocateProducerIds(AllocateProducerIds { broker, epoch });
    let update = Request::UpdateFeatures(UpdateFeatures { updates: Vec::new(), validate_only: true });
    let facts = |request: &Request| {
        (request.name(), request.broker().is_some(), request.registers(), request.asks_quorum_levels())
    };
    for (request, expected) in [
        (register, ("Register", true, Some(broker), false)),
        (allocate, ("AllocateProducerIds", true, None, false)),
        (update, ("UpdateFeatures", false, None, true)),
        (create(new_topic("t", &[], &[])), ("CreateTopics", false, None, false)),
    ] {
        let once = Request::Once(IdempotencyKey([7; 16]), Box::new(request.clone()));
        let proved = Request::Proved(IncarnationKey::new([7; 32]), Box::new(request.clone()));
        for wrapped in [&request, &once, &proved] {
            assert_eq!(facts(wrapped), expected);
        }
        // Whoever wraps a request has shown the key with it already.
        assert_eq!(request.is_in_own_name(), expected.1);
        assert!(!once.is_in_own_name() && !proved.is_in_own_name());
    }
}

/// A late second attempt must not undo what another client has done since.
#[test]
fn a_request_is_repeated_freely_if_the_quorum_recognises_it() {
    let cluster = Cluster::of(1);
    let (broker, epoch) = (BrokerId(1), cluster.brokers[&1].epoch);
    let coordinator = CoordinatorId(2);
    let remove = |disk| Request::ChangeQuorum(ChangeQuorum::Remove { coordinator, disk, force: false });
    let created = create(new_topic("t", &[], &[]));
    for request in [
        Request::Register(cluster.registration(1, 1, epoch)),
        Request::AllocateProducerIds(AllocateProducerIds { broker, epoch }),
        remove(Some(IncarnationId([1; 16]))),
        Request::ChangeQuorum(ChangeQuorum::TransferLeadership { to: None }),
        Request::Once(IdempotencyKey([7; 16]), Box::new(created.clone())),
    ] {
        assert_eq!(request.repeat(), Repeat::Freely, "{}", request.name());
    }
    let unregister = Request::UnregisterBroker(UnregisterBroker { broker });
    let update = Request::UpdateFeatures(UpdateFeatures { updates: Vec::new(), validate_only: true });
    for request in [created, remove(None), unregister, update] {
        assert_eq!(request.repeat(), Repeat::WhenAnswered, "{}", request.name());
    }
}

/// What only validates changes nothing, and is decided again.
#[test]
fn changes_that_must_not_be_made_twice_are_remembered() {
    let alter = |validate_only| Request::AlterConfigs(AlterConfigs { entities: Vec::new(), validate_only });
    for remembered in [
        create(new_topic("t", &[], &[])),
        Request::DeleteTopics(DeleteTopics { topics: Vec::new() }),
        Request::CreatePartitions(CreatePartitions { topics: Vec::new(), validate_only: false }),
        Request::UnregisterBroker(UnregisterBroker { broker: BrokerId(1) }),
        Request::CreateAcls(CreateAcls { bindings: Vec::new() }),
        Request::DeleteAcls(DeleteAcls { filters: Vec::new() }),
        alter(false),
    ] {
        assert!(remembered.is_remembered(), "{}", remembered.name());
    }
    let elect = Request::ElectLeaders(ElectLeaders { election: ElectionType::Preferred, topics: None });
    for free in [alter(true), elect] {
        assert!(!free.is_remembered(), "{}", free.name());
    }
}
