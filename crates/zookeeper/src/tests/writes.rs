//! The writes of Kafka's old tools: what the quorum is asked, and what the client is answered.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ottla_metadata::controller::{
    AlterConfig, AlterConfigs, AlterReassignments, Answer, ConfigOp, ConfigOutcomes, DeleteTopics, ElectLeaders,
    ElectionType, PartitionOutcome, PartitionOutcomes, Refusal, Request, TopicRef,
};
use ottla_metadata::transaction::Change;
use ottla_metadata::{ConfigEntity, ConfigKind, nodes};
use ottla_model::{BrokerId, ErrorCode as KafkaError, PartitionId, Revision};

use super::{World, agreed, ask, body_of, create_frame, frame, path, set_frame};
use crate::jute::Reader;
use crate::watches::WatchBudget;
use crate::{Client, ErrorCode, MayWrite, writes};

#[test]
fn writes_are_refused_but_for_those_of_kafkas_tools() {
    let mut world = World::default();
    world.create("/admin/delete_topics/going");
    world.create("/config/topics/t");
    let mut client = world.client();
    let config = Some(r#"{"version":1,"config":{}}"#);
    for (refused, error) in [
        (create_frame("/brokers/ids/9", None, 0), -119),
        (create_frame("/admin/reassign_partitions", Some("{}"), 0), -8),
        (create_frame("/config/topics/none", config, 0), -119),
        (create_frame("/config/groups/g", config, 0), -119),
        (create_frame("/config/changes/other_", None, 2), -119),
        (create_frame("/config/changes/config_change_", None, 0), -119),
        (create_frame("/admin/delete_topics/t", None, 1), -119),
        (create_frame("/admin/delete_topics/going", None, 0), -110),
        (create_frame("/config/changes", None, 0), -110),
        (create_frame("/config/topics/t", config, 0), -110),
        (set_frame("/config/topics/t", r#"{"version":1,"config":{}}"#, 0), -119),
        (set_frame("/config/topics/none", r#"{"version":1,"config":{}}"#, -1), -101),
        (set_frame("/controller", "{}", -1), -119),
        (frame(8, 14, |_| {}), -119),
    ] {
        assert_eq!(ask(&mut client, &world, &refused).1, error, "{:?}", String::from_utf8_lossy(&refused));
    }
    let (asked, answer) = agreed(&mut client, &world, &create_frame("/admin/delete_topics/t", None, 0));
    assert_eq!(asked, Request::DeleteTopics(DeleteTopics { topics: vec![TopicRef::Name("t".to_owned())] }));
    let body = body_of(answer);
    assert_eq!(Reader::new(&body).string(), Ok("/admin/delete_topics/t"));
}

#[test]
fn an_election_names_its_partitions() {
    const ELECTION: &str = "/admin/preferred_replica_election";
    let world = World::default();
    let mut client = world.client();
    let data = r#"{"version":1,"partitions":[{"topic":"t","partition":1},{"topic":"s","partition":0},
        {"topic":"t","partition":0}]}"#;
    let (asked, _) = agreed(&mut client, &world, &create_frame(ELECTION, Some(data), 0));
    let partitions = |ids: &[i32]| ids.iter().copied().map(PartitionId).collect::<Vec<_>>();
    let topics = Some(vec![("s".to_owned(), partitions(&[0])), ("t".to_owned(), partitions(&[1, 0]))]);
    assert_eq!(asked, Request::ElectLeaders(ElectLeaders { election: ElectionType::Preferred, topics }));
    let many = vec![r#"{"topic":"t","partition":0}"#; 10_001].join(",");
    let many = format!(r#"{{"version":1,"partitions":[{many}]}}"#);
    for data in [None, Some(""), Some("{}"), Some("[1"), Some(many.as_str())] {
        assert_eq!(ask(&mut client, &world, &create_frame(ELECTION, data, 0)).1, -8);
    }
}

#[test]
fn a_configuration_is_replaced_and_its_notification_taken() {
    let mut world = World::default();
    world.create("/brokers/topics/t");
    let mut client = world.client();
    let data = r#"{"version":1,"config":{"retention.ms":"1000","cleanup.policy":"compact"}}"#;
    let expected = |entity| {
        let set = |name: &str, value: &str| (name.to_owned(), ConfigOp::Set(value.to_owned()));
        let changes = vec![set("cleanup.policy", "compact"), set("retention.ms", "1000")];
        let alter = AlterConfig { entity, changes, replace_all: true };
        Request::AlterConfigs(AlterConfigs { entities: vec![alter], validate_only: false })
    };
    // The tool writes data first, and creates the node when there is none.
    assert_eq!(ask(&mut client, &world, &set_frame("/config/topics/t", data, -1)).1, -101);
    let (asked, answer) = agreed(&mut client, &world, &create_frame("/config/topics/t", Some(data), 0));
    assert_eq!(asked, expected(ConfigEntity::topic("t")));
    assert_eq!(Reader::new(&body_of(answer)).string(), Ok("/config/topics/t"));
    world.create("/config/topics/t");
    let (asked, answer) = agreed(&mut client, &world, &set_frame("/config/topics/t", data, -1));
    assert_eq!(asked, expected(ConfigEntity::topic("t")));
    assert_eq!(Reader::new(&body_of(answer)).long(), Ok(2), "the stat of the node that is there now");
    let default = create_frame("/config/brokers/<default>", Some(data), 0);
    assert_eq!(agreed(&mut client, &world, &default).0, expected(ConfigEntity::default_broker()));
    let notify = create_frame("/config/changes/config_change_", Some(r#"{"version":2,"entity_path":"topics/t"}"#), 2);
    let (_, error, body) = ask(&mut client, &world, &notify);
    assert_eq!((error, Reader::new(&body).string()), (0, Ok("/config/changes/config_change_0000000002")));
    for data in ["", "{}", r#"{"version":1,"config":{"a":1}}"#, "[[[[[[[["] {
        assert_eq!(ask(&mut client, &world, &set_frame("/config/topics/t", data, -1)).1, -8, "{data}");
    }
}

/// `kafka-configs --zookeeper` reads a configuration, changes an entry, and writes all of them.
#[test]
fn secrets_that_were_not_shown_are_not_lost() {
    let mut world = World::default();
    let name = "listener.name.client.ssl.keystore.password";
    let entries = [(name, "hunter2"), ("message.max.bytes", "1")];
    let entries = entries.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    world.change(Change::Create { path: path("/config/brokers/1"), payload: nodes::config::encode(&entries) });
    let mut client = world.client();
    let shown = format!(r#"{{"version":1,"config":{{"{name}":"[hidden]","message.max.bytes":"2"}}}}"#);
    let Request::AlterConfigs(asked) = agreed(&mut client, &world, &set_frame("/config/brokers/1", &shown, -1)).0
    else {
        panic!("another request")
    };
    let set = |name: &str, value: &str| (name.to_owned(), ConfigOp::Set(value.to_owned()));
    assert_eq!(asked.entities[0].changes, [set(name, "hunter2"), set("message.max.bytes", "2")]);
}

#[test]
fn where_a_secret_is_needed_a_client_may_write_nothing() {
    let mut world = World::default();
    world.create("/config/topics/t");
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let budget = WatchBudget::new(1_000);
    let mut client = Client::new(address, String::new(), world.tree.clone(), budget, Arc::default(), MayWrite::Nothing);
    for frame in [
        set_frame("/config/topics/t", r#"{"version":1,"config":{}}"#, -1),
        create_frame("/admin/preferred_replica_election", Some(r#"{"partitions":[]}"#), 0),
        create_frame("/config/changes/config_change_", None, 2),
        create_frame("/admin/delete_topics/t", None, 0),
    ] {
        assert_eq!(ask(&mut client, &world, &frame).1, -102);
    }
}

#[test]
fn a_refusal_becomes_zookeepers_error() {
    let alter = |refusal| {
        let entities = vec![(ConfigEntity::topic("t"), refusal)];
        Answer::AlterConfigs(ConfigOutcomes { entities, revision: Revision(9) })
    };
    let refused = |error| Some(Refusal::new(error, "no"));
    assert_eq!(writes::outcome(&alter(None)), (ErrorCode::Ok, None));
    assert_eq!(writes::decided_at(&alter(None)), Revision(9));
    assert_eq!(writes::outcome(&alter(refused(KafkaError::InvalidConfig))).0, ErrorCode::BadArguments);
    assert_eq!(writes::outcome(&alter(refused(KafkaError::UnknownTopicOrPartition))).0, ErrorCode::NoNode);
    assert_eq!(writes::outcome(&Answer::Unavailable).0, ErrorCode::OperationTimeout);
}

/// `kafka-configs --zookeeper` makes credentials itself, and the quotas of users, clients and both.
#[test]
fn users_and_clients_are_configured_and_names_decoded() {
    let mut world = World::default();
    let mut client = world.client();
    let credential = "salt=c2FsdA==,stored_key=a,server_key=b,iterations=4096";
    let data = format!(r#"{{"version":1,"config":{{"SCRAM-SHA-512":"{credential}"}}}}"#);
    let entity = |kind, name: &str| ConfigEntity { kind, name: name.to_owned() };
    assert_eq!(ask(&mut client, &world, &set_frame("/config/users/a%40b", &data, -1)).1, -101);
    for (path, expected) in [
        ("/config/users/a%40b", entity(ConfigKind::Users, "a@b")),
        ("/config/users/<default>", entity(ConfigKind::Users, "<default>")),
        ("/config/clients/app", entity(ConfigKind::Clients, "app")),
        ("/config/users/u/clients/app", ConfigEntity::user_client("u", "app")),
        ("/config/ips/10.0.0.1", entity(ConfigKind::Ips, "10.0.0.1")),
    ] {
        let Request::AlterConfigs(asked) = agreed(&mut client, &world, &create_frame(path, Some(&data), 0)).0 else {
            panic!("another request")
        };
        assert_eq!(asked.entities[0].entity, expected);
        assert_eq!(asked.entities[0].changes, [("SCRAM-SHA-512".to_owned(), ConfigOp::Set(credential.to_owned()))]);
    }
    // A quota is added to what the client is shown: the credential is still there.
    let entries = [("SCRAM-SHA-512".to_owned(), credential.to_owned())].into();
    world.change(Change::Create { path: path("/config/users/u"), payload: nodes::config::encode(&entries) });
    let shown = r#"{"version":1,"config":{"SCRAM-SHA-512":"[hidden]","producer_byte_rate":"1024"}}"#;
    let Request::AlterConfigs(asked) = agreed(&mut client, &world, &set_frame("/config/users/u", shown, -1)).0 else {
        panic!("another request")
    };
    let set = |name: &str, value: &str| (name.to_owned(), ConfigOp::Set(value.to_owned()));
    assert_eq!(asked.entities[0].changes, [set("SCRAM-SHA-512", credential), set("producer_byte_rate", "1024")]);
}

#[test]
fn a_reassignment_names_replicas() {
    const PATH: &str = "/admin/reassign_partitions";
    let world = World::default();
    let mut client = world.client();
    let data = r#"{"version":1,"partitions":[{"topic":"t","partition":1,"replicas":[3,1]},
        {"topic":"s","partition":0,"replicas":[2],"log_dirs":["any"]}]}"#;
    assert_eq!(ask(&mut client, &world, &set_frame(PATH, data, -1)).1, -101, "nothing is under way");
    let (asked, answer) = agreed(&mut client, &world, &create_frame(PATH, Some(data), 0));
    let target = |partition, replicas: &[i32]| {
        vec![(PartitionId(partition), Some(replicas.iter().copied().map(BrokerId).collect()))]
    };
    let topics = vec![("s".to_owned(), target(0, &[2])), ("t".to_owned(), target(1, &[3, 1]))];
    let expected = AlterReassignments { topics, allow_replication_factor_change: true };
    assert_eq!(asked, Request::AlterReassignments(expected));
    assert_eq!(Reader::new(&body_of(answer)).string(), Ok(PATH));
    let many = vec![r#"{"topic":"t","partition":0,"replicas":[1]}"#; 10_001].join(",");
    let many = format!(r#"{{"version":1,"partitions":[{many}]}}"#);
    for data in [None, Some(""), Some(r#"{"partitions":[{"topic":"t","partition":0}]}"#), Some(many.as_str())] {
        assert_eq!(ask(&mut client, &world, &create_frame(PATH, data, 0)).1, -8);
    }
}

/// As after a ZooKeeper-era controller, the tool looks at the partitions.
#[test]
fn a_reassignment_has_failed_if_nothing_of_it_was_done() {
    let answer = |refused: &[bool]| {
        let refusal = |refused: bool| refused.then(|| Refusal::new(KafkaError::InvalidReplicaAssignment, "no"));
        let outcome = |&refused: &bool| PartitionOutcome { partition: PartitionId(0), refusal: refusal(refused) };
        let topics = vec![("t".to_owned(), refused.iter().map(outcome).collect())];
        Answer::AlterReassignments(PartitionOutcomes { topics, revision: Revision(9) })
    };
    let outcome = |refused| {
        let answer = answer(refused);
        let (error, refusal) = writes::outcome(&answer);
        (error, refusal.is_some())
    };
    assert_eq!(outcome(&[false, true]), (ErrorCode::Ok, true));
    assert_eq!(outcome(&[true, true]), (ErrorCode::BadArguments, true));
    assert_eq!(outcome(&[]), (ErrorCode::Ok, false));
    assert_eq!(writes::decided_at(&answer(&[false])), Revision(9));
}
