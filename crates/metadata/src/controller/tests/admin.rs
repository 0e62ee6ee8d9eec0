//! Topics, partitions, configurations, producer ids: decisions and Kafka's texts.

use std::collections::BTreeMap;

use ottla_model::{BrokerEpoch, BrokerId, ErrorCode, PartitionId, TopicId};

use super::harness::*;
use crate::controller::*;
use crate::image::{ConfigEntity, ConfigKind};
use crate::limits;
use crate::nodes;
use crate::tree::Path;

fn create(topics: Vec<NewTopic>) -> CreateTopics {
    CreateTopics { topics, validate_only: false, default_partitions: 2, default_replication_factor: 3 }
}

fn placed(name: &str, partitions: i32, replication_factor: i32) -> NewTopic {
    NewTopic { partitions, replication_factor, ..new_topic(name, &[], &[]) }
}

fn outcomes(answer: Answer) -> TopicOutcomes {
    match answer {
        Answer::CreateTopics(outcomes) | Answer::DeleteTopics(outcomes) | Answer::CreatePartitions(outcomes) => {
            outcomes
        }
        other => panic!("not the answer about topics: {other:?}"),
    }
}

fn refusals(outcomes: &TopicOutcomes) -> Vec<(ErrorCode, &str)> {
    outcomes
        .topics
        .iter()
        .map(|topic| topic.refusal.as_ref().map_or((ErrorCode::None, ""), |r| (r.error, r.message.as_str())))
        .collect()
}

#[test]
fn topics_are_created_with_defaults_and_spread() {
    let mut cluster = Cluster::of(3);
    let created =
        outcomes(cluster.ask(Request::CreateTopics(create(vec![placed("my-topic", -1, -1), placed("six", 6, 2)]))));
    assert_eq!(refusals(&created), [(ErrorCode::None, ""); 2]);
    assert_eq!((created.topics[0].partitions, created.topics[0].replication_factor), (2, 3));
    let topic = cluster.image.topic("my-topic").expect("is there").clone();
    assert_eq!((topic.partition_count(), topic.replication_factor(), topic.id), (2, 3, created.topics[0].id));
    assert!(!topic.id.is_zero() && topic.id != created.topics[1].id);
    let mut leaders = BTreeMap::<_, usize>::new();
    for (_, state) in cluster.image.topic("six").expect("is there").partitions() {
        *leaders.entry(state.leader).or_default() += 1;
        assert_eq!(state.leader, state.replicas[0]);
        assert_eq!((state.leader_epoch.0, state.partition_epoch.0, state.isr.len()), (0, 0, 2));
    }
    assert_eq!(leaders.into_values().collect::<Vec<_>>(), [2, 2, 2]);
    let shown = |path: &str| nodes::json_at(&cluster.tree, &Path::new(path).expect("a path")).expect("shows");
    assert!(shown("/brokers/topics/my-topic").contains(&format!(r#""topic_id":"{}""#, topic.id)));
    assert_eq!(shown("/config/topics/my-topic"), r#"{"version":1,"config":{}}"#);
    let children = |path: &str| cluster.tree.children(&Path::new(path).expect("a path"));
    assert_eq!(children("/brokers/topics/six/partitions"), ["0", "1", "2", "3", "4", "5"]);
}

#[test]
fn topics_are_refused_in_kafkas_words() {
    let mut cluster = Cluster::of(3);
    cluster.create("my-topic", &[&[1]], &[]);
    cluster.create("a.b", &[&[1]], &[]);
    let topics = vec![
        placed("my-topic", 2, 3),
        placed("too.many", 2, 4),
        placed("ba/d", 1, 1),
        placed("a_b", 1, 1),
        new_topic("bad", &[], &[("retention.ms", "soon")]),
        new_topic("worse", &[], &[("no.such.config", "1")]),
        placed("none", 0, 1),
        placed("nobody", 1, 0),
        placed("twice", 1, 1),
        placed("twice", 1, 1),
        NewTopic { configs: vec![("retention.ms".to_owned(), None)], ..placed("null", 1, 1) },
        placed("huge", 10_001, 1),
    ];
    let answer = outcomes(cluster.ask(Request::CreateTopics(create(topics))));
    let invalid = ErrorCode::InvalidTopicException;
    // goldens: kafka-4.3-kraft.txt, where it shows the text.
    let expected = [
        (ErrorCode::TopicAlreadyExists, "Topic 'my-topic' already exists."),
        (
            ErrorCode::InvalidReplicationFactor,
            "Unable to replicate the partition 4 time(s): The target replication factor of 4 cannot be reached because only 3 broker(s) are registered or some brokers have all their log directories cordoned.",
        ),
        (
            invalid,
            "Topic name is invalid: 'ba/d' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'",
        ),
        (invalid, "Topic 'a_b' collides with existing topic: a.b"),
        (ErrorCode::InvalidConfig, "Invalid value soon for configuration retention.ms: Not a number of type LONG"),
        (ErrorCode::InvalidConfig, "Unknown topic config name: no.such.config"),
        (ErrorCode::InvalidPartitions, "Number of partitions was set to an invalid non-positive value."),
        (
            ErrorCode::InvalidReplicationFactor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ),
        (ErrorCode::InvalidRequest, "Duplicate topic name."),
        (ErrorCode::InvalidRequest, "Duplicate topic name."),
        (ErrorCode::InvalidConfig, "Null value not supported for topic configs: retention.ms"),
        (ErrorCode::PolicyViolation, "Unable to perform excessively large batch operation."),
    ];
    assert_eq!(refusals(&answer), expected);
    assert_eq!(cluster.image.topic_count(), 2);
}

#[test]
fn assignments_by_hand_are_checked() {
    let mut cluster = Cluster::of(2);
    let mut error = |assignments: &[&[i32]], change: &dyn Fn(&mut NewTopic)| {
        let mut topic = new_topic("t", assignments, &[]);
        change(&mut topic);
        let answer = outcomes(cluster.ask(Request::CreateTopics(create(vec![topic]))));
        let refusal = answer.topics[0].refusal.clone().expect("refused");
        (refusal.error, refusal.message)
    };
    let none = |_: &mut NewTopic| {};
    let refused = ErrorCode::InvalidReplicaAssignment;
    let text = |text: &str| (refused, text.to_owned());
    assert_eq!(
        error(&[&[1, 7]], &none),
        text("The manual partition assignment includes broker 7, but no such broker is registered.")
    );
    assert_eq!(error(&[&[1, 1]], &none), text("The manual partition assignment includes the broker 1 more than once."));
    assert_eq!(error(&[&[]], &none), text("The manual partition assignment includes an empty replica list."));
    assert!(error(&[&[1, 2], &[1]], &none).1.contains("not consistent with previous partitions"));
    let gap = |topic: &mut NewTopic| topic.assignments[0].0 = PartitionId(1);
    assert_eq!(error(&[&[1]], &gap), text("partitions should be a consecutive 0-based integer sequence"));
    assert_eq!(error(&[&[1]], &|topic| topic.partitions = 1).0, ErrorCode::InvalidRequest);
    assert_eq!(error(&[&[1]], &|topic| topic.replication_factor = 1).0, ErrorCode::InvalidRequest);
}

#[test]
fn validation_alone_changes_nothing() {
    let mut cluster = Cluster::of(3);
    let request = CreateTopics { validate_only: true, ..create(vec![placed("t", 2, 3), placed("t.t", 1, 9)]) };
    let before = cluster.tree.clone();
    let answer = outcomes(cluster.ask(Request::CreateTopics(request)));
    assert_eq!(answer.topics[0].refusal, None);
    assert_eq!((answer.topics[0].partitions, answer.topics[0].id), (2, TopicId::ZERO));
    assert!(answer.topics[1].refusal.is_some());
    assert_eq!(cluster.tree, before);
}

#[test]
fn answers_about_topics_in_flight_wait_for_them() {
    let mut cluster = Cluster::of(1);
    let first = cluster.send(Request::CreateTopics(create(vec![placed("t", 1, 1)])));
    let second = cluster.send(Request::CreateTopics(create(vec![placed("t", 1, 1)])));
    assert!(cluster.answers.is_empty());
    cluster.commit_all();
    let answers = [first, second].map(|id| outcomes(cluster.answers.remove(&id).expect("answered")));
    assert_eq!(refusals(&answers[0]), [(ErrorCode::None, "")]);
    assert_eq!(refusals(&answers[1])[0].0, ErrorCode::TopicAlreadyExists);
}

#[test]
fn topics_are_deleted_by_name_and_id_and_come_back_as_others() {
    let mut cluster = Cluster::of(2);
    cluster.create("a", &[&[1, 2]], &[("retention.ms", "1")]);
    cluster.create("b", &[&[1, 2]], &[]);
    let (a, b) = (cluster.id_of("a", 0).topic_id, cluster.id_of("b", 0).topic_id);
    let unknown = TopicId([9; 16]);
    let topics = vec![
        TopicRef::Name("a".to_owned()),
        TopicRef::Id(b),
        TopicRef::Name("nope".to_owned()),
        TopicRef::Id(unknown),
        TopicRef::Name("twice".to_owned()),
        TopicRef::Name("twice".to_owned()),
    ];
    // By name and by id in one request.
    let both = vec![TopicRef::Name("a".to_owned()), TopicRef::Id(a), TopicRef::Id(unknown)];
    let answer = outcomes(cluster.ask(Request::DeleteTopics(DeleteTopics { topics: both })));
    let errors: Vec<_> = refusals(&answer).into_iter().map(|(error, _)| error).collect();
    assert_eq!(errors, [ErrorCode::InvalidRequest, ErrorCode::InvalidRequest, ErrorCode::UnknownTopicId]);
    assert_eq!(cluster.image.topic_count(), 2);
    let answer = outcomes(cluster.ask(Request::DeleteTopics(DeleteTopics { topics })));
    let errors: Vec<_> = refusals(&answer).into_iter().map(|(error, _)| error).collect();
    let (unknown_name, invalid) = (ErrorCode::UnknownTopicOrPartition, ErrorCode::InvalidRequest);
    assert_eq!(errors, [ErrorCode::None, ErrorCode::None, unknown_name, ErrorCode::UnknownTopicId, invalid, invalid]);
    assert_eq!(answer.topics[1].name, "b");
    assert_eq!(cluster.image.topic_count(), 0);
    assert_eq!(cluster.tree.children(&Path::new("/brokers/topics").expect("a path")), [] as [&str; 0]);
    assert_eq!(cluster.image.topic_overrides("a"), BTreeMap::new());
    cluster.create("a", &[&[1]], &[]);
    assert_ne!(cluster.id_of("a", 0).topic_id, a);
    assert_eq!(cluster.image.topic_overrides("a"), BTreeMap::new());
}

#[test]
fn a_large_topic_is_deleted_in_pieces_over_a_leader_change() {
    let mut cluster = Cluster::of(1);
    let replicas: &[i32] = &[1];
    cluster.create("large", &vec![replicas; 5_500], &[]);
    cluster.largest_transaction = 0;
    let topics = vec![TopicRef::Name("large".to_owned())];
    let id = cluster.send(Request::DeleteTopics(DeleteTopics { topics }));
    cluster.commit_one();
    assert!(cluster.answers.contains_key(&id), "gone for everybody with the first piece");
    assert_eq!((cluster.image.topic_count(), cluster.image.hosted_by(BrokerId(1)).count()), (0, 0));
    cluster.commit_one();
    let again = outcomes(cluster.ask_uncommitted(Request::CreateTopics(create(vec![placed("large", 1, 1)]))));
    assert_eq!(refusals(&again), [(ErrorCode::TopicAlreadyExists, "Topic 'large' is marked for deletion.")]);
    cluster.change_leader();
    cluster.commit_all();
    assert!(cluster.largest_transaction <= PARTITIONS_PER_TRANSACTION + 4);
    for path in ["/brokers/topics", "/admin/delete_topics"] {
        assert_eq!(cluster.tree.children(&Path::new(path).expect("a path")), [] as [&str; 0]);
    }
    cluster.create("large", &[&[1]], &[]);
}

#[test]
fn partitions_are_added_in_kafkas_words() {
    let mut cluster = Cluster::of(3);
    let created = create(vec![placed("my-topic", 4, 3)]);
    cluster.ask(Request::CreateTopics(created));
    let mut add = |topic: &str, total, assignments: Option<&[&[i32]]>| {
        let assignments = assignments.map(|added| added.iter().map(|replicas| ids(replicas)).collect());
        let topics = vec![NewPartitions { topic: topic.to_owned(), total, assignments }];
        let request = CreatePartitions { topics, validate_only: false };
        let answer = outcomes(cluster.ask(Request::CreatePartitions(request)));
        let refusal = answer.topics[0].refusal.clone();
        refusal.map_or((ErrorCode::None, String::new()), |refusal| (refusal.error, refusal.message))
    };
    // goldens: kafka-topics --alter --partitions 3
    let text = "The topic my-topic currently has 4 partition(s); 3 would not be an increase.";
    assert_eq!(add("my-topic", 3, None), (ErrorCode::InvalidPartitions, text.to_owned()));
    assert_eq!(add("my-topic", 4, None).1, "Topic already has 4 partition(s).");
    assert_eq!(add("nope", 4, None).0, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(
        add("my-topic", 6, Some(&[&[1, 2, 3]])).1,
        "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified."
    );
    assert_eq!(add("my-topic", 5, Some(&[&[1, 2]])).0, ErrorCode::InvalidReplicaAssignment);
    let text = "Attempted to add 2 additional partition(s), but only 0 assignment(s) were specified.";
    assert_eq!(add("my-topic", 6, Some(&[])), (ErrorCode::InvalidReplicaAssignment, text.to_owned()));
    assert_eq!(add("my-topic", 6, None).0, ErrorCode::None);
    assert_eq!(add("my-topic", 7, Some(&[&[3, 1, 2]])).0, ErrorCode::None);
    let topic = cluster.image.topic("my-topic").expect("is there");
    assert_eq!(topic.partition_count(), 7);
    assert_eq!(cluster.state("my-topic", 6).replicas, ids(&[3, 1, 2]));
}

#[test]
fn configurations_are_merged_replaced_and_refused() {
    let mut cluster = Cluster::of(1);
    cluster.create("t", &[&[1]], &[("retention.ms", "60000")]);
    let mut alter = |entity: ConfigEntity, changes: &[(&str, Option<&str>)], replace_all| {
        let changes = changes.iter().map(|(n, v)| (String::from(*n), v.map(str::to_owned).into())).collect();
        let entities = vec![AlterConfig { entity, changes, replace_all }];
        match cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false })) {
            Answer::AlterConfigs(outcomes) => {
                outcomes.entities[0].1.clone().map(|refusal| (refusal.error, refusal.message))
            }
            other => panic!("not the answer: {other:?}"),
        }
    };
    let topic = || ConfigEntity::topic("t");
    assert_eq!(alter(topic(), &[("max.message.bytes", Some("2000000"))], false), None);
    assert_eq!(
        alter(topic(), &[("retention.ms", Some("soon"))], false),
        Some((
            ErrorCode::InvalidConfig,
            "Invalid value soon for configuration retention.ms: Not a number of type LONG".to_owned()
        ))
    );
    assert_eq!(alter(topic(), &[("retention.ms", None)], false), None);
    assert_eq!(
        alter(ConfigEntity::topic("nope"), &[], false).map(|(error, _)| error),
        Some(ErrorCode::UnknownTopicOrPartition)
    );
    assert_eq!(alter(ConfigEntity::topic(""), &[], false).map(|(error, _)| error), Some(ErrorCode::InvalidRequest));
    let broker = |name: &str| ConfigEntity { kind: ConfigKind::Brokers, name: name.to_owned() };
    assert_eq!(alter(broker(""), &[("log.cleaner.threads", Some("2"))], false), None);
    assert_eq!(alter(broker("x"), &[], false).map(|(error, _)| error), Some(ErrorCode::InvalidRequest));
    let group = |bytes: usize| ConfigEntity::group(&"g".repeat(bytes));
    let session = [("consumer.session.timeout.ms", Some("45000"))];
    assert_eq!(alter(group(limits::MAX_ENTITY_NAME_BYTES), &session, false), None, "the longest name");
    let longer = alter(group(limits::MAX_ENTITY_NAME_BYTES + 1), &session, false);
    assert_eq!(longer.map(|(error, _)| error), Some(ErrorCode::InvalidRequest));
    assert_eq!(
        alter(broker("1"), &[("min.insync.replicas", Some("0"))], false).map(|(error, _)| error),
        Some(ErrorCode::InvalidConfig)
    );
    let overrides = |entries: &[(&str, &str)]| -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect()
    };
    let users = ConfigEntity { kind: ConfigKind::Users, name: "a/b".to_owned() };
    assert_eq!(alter(users.clone(), &[("producer_byte_rate", Some("1"))], false), None);
    assert_eq!(cluster.image.topic_overrides("t"), overrides(&[("max.message.bytes", "2000000")]));
    assert!(cluster.image.config(&ConfigEntity::default_broker()).is_some());
    assert!(cluster.image.config(&users).is_some());
    // goldens: zookeeper-shell get /config/brokers/<default>
    let path = Path::new("/config/brokers/<default>").expect("a path");
    assert_eq!(
        nodes::json_at(&cluster.tree, &path).as_deref(),
        Some(r#"{"version":1,"config":{"log.cleaner.threads":"2"}}"#)
    );
    let entities = vec![AlterConfig {
        entity: topic(),
        changes: vec![("segment.ms".to_owned(), ConfigOp::Set("9".to_owned()))],
        replace_all: true,
    }];
    cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
    assert_eq!(cluster.image.topic_overrides("t"), overrides(&[("segment.ms", "9")]));
}

#[test]
fn cordoned_brokers_get_no_new_replicas() {
    let mut cluster = Cluster::of(3);
    let cordon = |cluster: &mut Cluster, entity: ConfigEntity, op: ConfigOp| {
        let changes = vec![("cordoned.log.dirs".to_owned(), op)];
        let entities = vec![AlterConfig { entity, changes, replace_all: false }];
        cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
    };
    let three = || ConfigEntity::broker(BrokerId(3));
    cordon(&mut cluster, three(), ConfigOp::Set("*".to_owned()));
    let created = outcomes(cluster.ask(Request::CreateTopics(create(vec![placed("t", 6, 2), placed("u", 1, 3)]))));
    assert_eq!(created.topics[0].refusal, None);
    let refusal = created.topics[1].refusal.as_ref().expect("two are too few");
    assert!(
        refusal
            .message
            .ends_with("only 2 broker(s) are registered or some brokers have all their log directories cordoned.")
    );
    let topic = cluster.image.topic("t").expect("is there").clone();
    assert!(topic.partitions().all(|(_, state)| !state.replicas.contains(&BrokerId(3))));
    // A path is a matter of that broker alone.
    cordon(&mut cluster, three(), ConfigOp::Set("/a".to_owned()));
    let created = outcomes(cluster.ask(Request::CreateTopics(create(vec![placed("u", 1, 3)]))));
    assert_eq!(created.topics[0].refusal, None);
}

/// A broker's static values are not known to the quorum: only a list with a default of Kafka's starts from one.
#[test]
fn lists_of_brokers_grow_from_kafkas_default_or_from_nothing() {
    let mut cluster = Cluster::of(1);
    let (all, one) = (ConfigEntity::default_broker(), ConfigEntity::broker(BrokerId(1)));
    for (entity, name, added, expected) in
        [(all, "log.cleanup.policy", "compact", "delete,compact"), (one, "cordoned.log.dirs", "/a", "/a")]
    {
        let changes = vec![(name.to_owned(), ConfigOp::Append(added.to_owned()))];
        let entities = vec![AlterConfig { entity: entity.clone(), changes, replace_all: false }];
        cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
        let set = cluster.image.config(&entity).and_then(|set| set.entries.get(name).cloned());
        assert_eq!(set.as_deref(), Some(expected), "{name}");
    }
}

#[test]
fn lists_grow_from_the_default_and_shrink_where_it_is_decided() {
    let mut cluster = Cluster::of(1);
    cluster.create("t", &[&[1]], &[]);
    let mut alter = |entity: ConfigEntity, name: &str, op: ConfigOp, validate_only| {
        let entities = vec![AlterConfig { entity, changes: vec![(name.to_owned(), op)], replace_all: false }];
        let Answer::AlterConfigs(outcomes) =
            cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only }))
        else {
            panic!("not the answer")
        };
        let set = cluster.image.topic_overrides("t").get("cleanup.policy").cloned();
        (outcomes.entities[0].1.clone().map(|refusal| (refusal.error, refusal.message)), set)
    };
    let topic = || ConfigEntity::topic("t");
    let append = |value: &str| ConfigOp::Append(value.to_owned());
    assert_eq!(alter(topic(), "cleanup.policy", append("compact"), true), (None, None));
    assert_eq!(alter(topic(), "cleanup.policy", append("compact"), false), (None, Some("delete,compact".to_owned())));
    let subtracted = alter(topic(), "cleanup.policy", ConfigOp::Subtract("delete".to_owned()), false);
    assert_eq!(subtracted, (None, Some("compact".to_owned())));
    let refused = "Can't APPEND to key retention.ms because its type is not LIST.";
    assert_eq!(
        alter(topic(), "retention.ms", append("1"), false).0,
        Some((ErrorCode::InvalidConfig, refused.to_owned()))
    );
    let group = ConfigEntity::group;
    let set = |value: &str| ConfigOp::Set(value.to_owned());
    assert_eq!(alter(group("g/1"), "consumer.session.timeout.ms", set("50000"), false).0, None);
    let refused = "Unknown group config name: retention.ms";
    assert_eq!(
        alter(group("g/1"), "retention.ms", set("1"), false).0,
        Some((ErrorCode::InvalidConfig, refused.to_owned()))
    );
    let refused = "Default group resources are not allowed.";
    assert_eq!(
        alter(group(""), "consumer.session.timeout.ms", set("50000"), false).0,
        Some((ErrorCode::InvalidRequest, refused.to_owned()))
    );
    let everybody = ConfigEntity::default_broker;
    assert_eq!(
        alter(everybody(), "listeners", set("x"), false).0.map(|(error, _)| error),
        Some(ErrorCode::InvalidRequest)
    );
    assert_eq!(
        alter(everybody(), "message.max.bytes", set("-1"), false).0.map(|(error, _)| error),
        Some(ErrorCode::InvalidConfig)
    );
    assert!(cluster.image.config(&group("g/1")).is_some());
}

#[test]
fn producer_ids_are_given_once() {
    let mut cluster = Cluster::of(2);
    let mut block = |broker: i32, epoch: Option<BrokerEpoch>| {
        let epoch = epoch.unwrap_or_else(|| cluster.brokers[&broker].epoch);
        let request = AllocateProducerIds { broker: BrokerId(broker), epoch };
        match cluster.ask(Request::AllocateProducerIds(request)) {
            Answer::AllocateProducerIds(result) => result.map(|block| (block.first, block.count)),
            other => panic!("not the answer: {other:?}"),
        }
    };
    assert_eq!(block(1, None), Ok((0, 1000)));
    assert_eq!(block(2, None), Ok((1000, 1000)));
    assert_eq!(block(1, Some(BrokerEpoch(1))), Err(ErrorCode::StaleBrokerEpoch));
    cluster.change_leader();
    let path = Path::new("/latest_producer_id_block").expect("a path");
    let golden = r#"{"version":1,"broker":2,"block_start":"1000","block_end":"1999"}"#;
    assert_eq!(nodes::json_at(&cluster.tree, &path).as_deref(), Some(golden));
}

#[test]
fn a_topic_that_grows_gets_replicas_as_brokers_join_and_elections_do_not_stop_it() {
    const TOPIC: &str = "__consumer_offsets";
    let mut cluster = Cluster::of(1);
    let growing = NewTopic { grows_to: 3, ..placed(TOPIC, 50, -1) };
    let created = outcomes(cluster.ask(Request::CreateTopics(create(vec![growing, placed("fixed", 1, 1)]))));
    assert_eq!(refusals(&created), [(ErrorCode::None, ""); 2]);
    assert_eq!(created.topics[0].replication_factor, 1);
    cluster.start(2);
    assert_eq!(cluster.image.topic(TOPIC).expect("is there").replication_factor(), 2);
    // A leader that was elected between two brokers finds the remaining work.
    cluster.change_leader();
    cluster.start(3);
    cluster.start(4);
    let topic = cluster.image.topic(TOPIC).expect("is there").clone();
    assert_eq!(topic.grows_to, 3);
    let mut preferred = BTreeMap::<_, usize>::new();
    for (_, state) in topic.partitions() {
        assert_eq!(state.replicas.len(), 3);
        assert_eq!(
            (state.leader, state.leader_epoch.0, isr(state)),
            (BrokerId(1), 0, vec![1]),
            "it follows only so far"
        );
        assert!(state.replicas.iter().all(|broker| (1..=3).contains(&broker.0)), "no more than it grows to");
        *preferred.entry(state.replicas[0]).or_default() += 1;
    }
    assert!(preferred.len() > 1, "{preferred:?}");
    assert_eq!(cluster.image.topic("fixed").expect("is there").replication_factor(), 1);
    // The new replicas join like any other.
    let members = [1, 2, 3].map(|id| cluster.member(id)).to_vec();
    assert_eq!(cluster.alter_isr(TOPIC, members), ErrorCode::None);
}

/// Fault B12: the request that a client repeats after a change of quorum leader was decided already.
#[test]
fn a_retry_is_answered_as_the_try_that_was_decided() {
    let mut cluster = Cluster::of(2);
    let mut key = 0;
    let outcome = |answer: Answer| match answer {
        Answer::CreateTopics(o) | Answer::DeleteTopics(o) | Answer::CreatePartitions(o) => o
            .topics
            .into_iter()
            .map(|topic| (topic.name, topic.id, topic.refusal.map(|refusal| refusal.error), topic.partitions))
            .collect::<Vec<_>>(),
        other => panic!("not an answer about topics: {other:?}"),
    };
    let revision = |answer: &Answer| match answer {
        Answer::CreateTopics(o) | Answer::DeleteTopics(o) | Answer::CreatePartitions(o) => o.revision,
        other => panic!("not an answer about topics: {other:?}"),
    };
    let mut twice = |cluster: &mut Cluster, request: Request| {
        key += 1;
        let once = Request::Once(IdempotencyKey([key; 16]), Box::new(request));
        // The second while the first is in flight, the third after it was committed, by another quorum leader.
        let ids = [cluster.send(once.clone()), cluster.send(once.clone())];
        cluster.commit_all();
        let [first, second] = ids.map(|id| cluster.answers.remove(&id).expect("answered"));
        assert_eq!(outcome(first.clone()), outcome(second.clone()));
        cluster.change_leader();
        cluster.commit_all();
        let third = cluster.ask(once);
        // The broker waits for its image after a retry too: until it holds what was decided.
        assert!(revision(&first) <= revision(&second) && revision(&second) <= revision(&third));
        assert!(revision(&first).0 > 0);
        (first, third)
    };
    let topics = vec![new_topic("t", &[&[1, 2]], &[]), new_topic("?", &[], &[])];
    let create = CreateTopics { topics, validate_only: false, default_partitions: 1, default_replication_factor: 1 };
    let (first, again) = twice(&mut cluster, Request::CreateTopics(create.clone()));
    let (first, again) = (outcome(first), outcome(again));
    assert_eq!(first[0], again[0]);
    assert_eq!(again[1].2, Some(ErrorCode::InvalidTopicException));
    assert_eq!(cluster.image.topic("t").map(|topic| topic.id), Some(again[0].1));
    cluster.beat(1);
    cluster.beat(2);
    let grown = vec![NewPartitions { topic: "t".to_owned(), total: 2, assignments: None }];
    let grow = Request::CreatePartitions(CreatePartitions { topics: grown, validate_only: false });
    let (first, again) = twice(&mut cluster, grow);
    assert_eq!(outcome(first), outcome(again));
    assert_eq!(cluster.image.topic("t").map(|topic| topic.partition_count()), Some(2));
    // Deleted, and created by another client before the retry: the new topic stays.
    let delete = Request::DeleteTopics(DeleteTopics { topics: vec![TopicRef::Name("t".to_owned())] });
    let once = Request::Once(IdempotencyKey([99; 16]), Box::new(delete.clone()));
    let first = outcome(cluster.ask(once.clone()));
    cluster.create("t", &[&[1, 2]], &[]);
    assert_eq!(outcome(cluster.ask(once)), first);
    assert!(cluster.image.topic("t").is_some());
    // Without a key it is another request.
    assert_eq!(outcome(cluster.ask(delete))[0].2, None);
    assert!(cluster.image.topic("t").is_none());
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut cluster = Cluster::of(1);
    let remembered = |cluster: &Cluster| cluster.tree.below(&crate::nodes::decided_request::parent_path()).count();
    for key in 0..300_u128 {
        let topics = vec![new_topic(&format!("t{key}"), &[&[1]], &[])];
        let create =
            CreateTopics { topics, validate_only: false, default_partitions: 1, default_replication_factor: 1 };
        let once = Request::Once(IdempotencyKey(key.to_be_bytes()), Box::new(Request::CreateTopics(create)));
        cluster.ask(once);
    }
    assert_eq!(remembered(&cluster), limits::MAX_REMEMBERED_REQUESTS);
    // The oldest have gone: the first key's request is decided again.
    let known = |key: u128| {
        let path = crate::nodes::decided_request::path(IdempotencyKey(key.to_be_bytes()));
        cluster.tree.get(&path).is_some()
    };
    let newest = 300 - limits::MAX_REMEMBERED_REQUESTS as u128;
    assert_eq!((known(newest - 1), known(newest), known(299)), (false, true, true));
}

#[test]
fn a_request_may_have_as_many_items_as_the_limit_and_no_more() {
    let mut cluster = Cluster::of(1);
    for (items, is_refused) in [(limits::MAX_ITEMS_PER_REQUEST, false), (limits::MAX_ITEMS_PER_REQUEST + 2, true)] {
        let named = NewPartitions { topic: "nope".to_owned(), total: 2, assignments: None };
        let grown = CreatePartitions { topics: vec![named; items], validate_only: false };
        for request in [
            Request::CreateTopics(create(vec![placed("twice", 1, 1); items])),
            Request::DeleteTopics(DeleteTopics { topics: vec![TopicRef::Name("nope".to_owned()); items] }),
            Request::CreatePartitions(grown),
        ] {
            let name = request.name();
            let answer = outcomes(cluster.ask(request));
            let error = answer.topics[0].refusal.as_ref().map(|refusal| refusal.error);
            assert_eq!(answer.topics.len(), items);
            assert_eq!(error == Some(ErrorCode::PolicyViolation), is_refused, "{name} {items} {error:?}");
        }
        let entity = ConfigEntity::topic("nope");
        let alter = AlterConfig { entity, changes: vec![], replace_all: false };
        let alter = AlterConfigs { entities: vec![alter; items], validate_only: false };
        let Answer::AlterConfigs(answer) = cluster.ask(Request::AlterConfigs(alter)) else { panic!("another answer") };
        let error = answer.entities[0].1.as_ref().map(|refusal| refusal.error);
        assert_eq!(error == Some(ErrorCode::PolicyViolation), is_refused, "{items} {error:?}");
        let (name, first) = ("nope".to_owned(), PartitionId(0));
        let topics = Some(vec![(name.clone(), vec![first; items])]);
        let elect = Request::ElectLeaders(ElectLeaders { election: ElectionType::Preferred, topics });
        let topics = vec![(name, vec![(first, None); items])];
        let alter = AlterReassignments { topics, allow_replication_factor_change: true };
        for request in [elect, Request::AlterReassignments(alter)] {
            let (Answer::ElectLeaders(answer) | Answer::AlterReassignments(answer)) = cluster.ask(request) else {
                panic!("another answer")
            };
            let error = answer.topics[0].1[0].refusal.as_ref().map(|refusal| refusal.error);
            assert_eq!(error == Some(ErrorCode::PolicyViolation), is_refused, "{items} {error:?}");
        }
    }
}

#[test]
fn outcomes_tell_the_size_of_what_was_changed_and_nothing_of_what_was_refused() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[]);
    let size = |answer: Answer| {
        let topic = outcomes(answer).topics.remove(0);
        (topic.partitions, topic.replication_factor)
    };
    let mut add = |total| {
        let topics = vec![NewPartitions { topic: "t".to_owned(), total, assignments: None }];
        size(cluster.ask(Request::CreatePartitions(CreatePartitions { topics, validate_only: false })))
    };
    assert_eq!(add(3), (3, 2));
    assert_eq!(add(3), (-1, -1));
    let topics = vec![TopicRef::Name("t".to_owned())];
    assert_eq!(size(cluster.ask(Request::DeleteTopics(DeleteTopics { topics }))), (3, 2));
}

#[test]
fn ids_of_topics_that_are_named_twice_are_refused() {
    let mut cluster = Cluster::of(1);
    let topics = vec![TopicRef::Id(TopicId([9; 16])); 2];
    let answer = outcomes(cluster.ask(Request::DeleteTopics(DeleteTopics { topics })));
    assert_eq!(refusals(&answer), [(ErrorCode::InvalidRequest, "Duplicate topic id."); 2]);
}

#[test]
fn brokers_have_no_negative_ids_and_quotas_have_a_default() {
    let mut cluster = Cluster::of(1);
    let mut alter = |kind, name: &str| {
        let entity = ConfigEntity { kind, name: name.to_owned() };
        let quota = if kind == ConfigKind::Ips { "connection_creation_rate" } else { "producer_byte_rate" };
        let changes = vec![(quota.to_owned(), ConfigOp::Set("1".to_owned()))];
        let entities = vec![AlterConfig { entity, changes, replace_all: false }];
        match cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false })) {
            Answer::AlterConfigs(answer) => answer.entities[0].1.clone().map(|refusal| refusal.message),
            other => panic!("not the answer: {other:?}"),
        }
    };
    assert_eq!(alter(ConfigKind::Brokers, "-1").as_deref(), Some("Invalid negative broker ID."));
    for kind in [ConfigKind::Clients, ConfigKind::Users, ConfigKind::Ips] {
        assert_eq!(alter(kind, ""), None);
    }
    for kind in [ConfigKind::Clients, ConfigKind::Users, ConfigKind::Ips] {
        let default = ConfigEntity { kind, name: "<default>".to_owned() };
        assert!(cluster.image.config(&default).is_some(), "{kind:?}");
    }
}

#[test]
fn a_user_and_a_client_have_a_quota_together_if_their_names_make_a_path() {
    let mut cluster = Cluster::of(1);
    let mut alter = |entity: ConfigEntity| {
        let changes = vec![("producer_byte_rate".to_owned(), ConfigOp::Set("1000".to_owned()))];
        let entities = vec![AlterConfig { entity, changes, replace_all: false }];
        match cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false })) {
            Answer::AlterConfigs(answer) => answer.entities[0].1.clone().map(|refusal| refusal.message),
            other => panic!("not the answer: {other:?}"),
        }
    };
    let short = ConfigEntity::user_client("alice", "app");
    assert_eq!(alter(short.clone()), None);
    let half = "x".repeat(limits::MAX_PATH_BYTES / 2);
    let refused = "The names of the user and the client make no path of the tree.";
    assert_eq!(alter(ConfigEntity::user_client(&half, &half)).as_deref(), Some(refused));
    assert!(cluster.image.config(&short).is_some());
}
