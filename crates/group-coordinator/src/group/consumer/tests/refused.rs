//! Steps whose records the log refuses: only the one step is undone.

use super::*;

fn foreseeing(config: GroupConfig) -> World {
    let mut world = World::with(&[("t", 4)], config);
    world.host.foresees = true;
    world
}

#[test]
fn while_the_log_refuses_members_read_on_and_only_what_would_be_written_fails() {
    let mut world = foreseeing(GroupConfig::default());
    let given = world.beat(join("a", &["t"])).assignment;
    let owns = ConsumerGroupHeartbeat { owned: given.clone(), ..beat("a", 1) };
    assert_eq!(world.beat(owns).error, ErrorCode::None);
    world.host.refusing = Some(ErrorCode::NotEnoughReplicas);

    let joining = world.host.call(Request::ConsumerGroupHeartbeat(join("b", &["t"])));
    assert_eq!(joining, GroupAnswer::Failed(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.beat(beat("a", 1)).error, ErrorCode::None, "nothing is written for it");
    let leaving = world.host.call(Request::ConsumerGroupHeartbeat(beat("a", -1)));
    assert_eq!(leaving, GroupAnswer::Failed(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.describe().members.len(), 1);
    assert_eq!(world.host.reloads, 0);

    world.host.refusing = None;
    assert_eq!(world.beat(join("b", &["t"])).error, ErrorCode::None);
    assert_eq!(world.describe().members.len(), 2);
}

#[test]
fn timers_and_deletions_wait_until_the_log_takes_records_again() {
    let mut world = foreseeing(GroupConfig::default());
    world.beat(join("a", &["t"]));
    let commit = crate::request::CommitPartition {
        partition: PartitionId(0),
        offset: ottla_model::Offset(7),
        leader_epoch: ottla_model::LeaderEpoch(0),
        metadata: None,
        timestamp: None,
        refused: None,
    };
    world.host.ask(Request::CommitOffsets(crate::request::CommitOffsets {
        group: group(),
        member: MemberId::new("a"),
        instance: None,
        generation_or_epoch: 1,
        knows_member_epochs: true,
        retention_ms: None,
        topics: vec![(crate::request::GroupTopic { name: "u".to_owned(), id: TopicId::ZERO }, vec![commit])],
    }));
    world.host.refusing = Some(ErrorCode::KafkaStorageError);
    world.host.look_at_log();
    let written = world.host.log.len();
    let deleted = [TopicName::new("u").unwrap()];
    let effects = world.host.shard.topics_deleted(world.host.now, &*world.host.topics, &deleted);
    world.host.execute(effects);
    world.host.pass(10 * SESSION_MS);
    assert_eq!(world.describe().members.len(), 1, "its session cannot be ended");
    assert_eq!((world.host.reloads, world.host.log.len()), (0, written));

    world.host.refusing = None;
    world.host.pass(1_000);
    assert_eq!(world.host.log.len(), written + 1, "the tombstone of the commit");
    world.host.pass(10_000);
    assert_eq!(world.state(), "Empty");
    world.check_replay();
}

#[test]
fn a_batch_that_is_too_large_undoes_one_step() {
    let mut world = foreseeing(GroupConfig { max_batch_bytes: 2_000, ..GroupConfig::default() });
    world.beat(join("a", &["t"]));
    let names: Vec<String> = (0..200).map(|number| format!("topic-{number:010}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let too_large = world.host.call(Request::ConsumerGroupHeartbeat(join("b", &names)));
    assert_eq!(too_large, GroupAnswer::Failed(ErrorCode::UnknownServerError));
    assert_eq!((world.host.reloads, world.describe().members.len()), (0, 1));
    assert_eq!(world.beat(join("c", &["t"])).error, ErrorCode::None);
    world.check_replay();
}

/// F2: the topic's own limit was not known here, so that each batch between the two limits cost the whole shard.
#[test]
fn the_logs_own_limit_of_a_batch_counts_too() {
    let mut world = foreseeing(GroupConfig::default());
    world.host.log_max_batch_bytes = 2_000;
    world.beat(join("a", &["t"]));
    let names: Vec<String> = (0..200).map(|number| format!("topic-{number:010}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let too_large = world.host.call(Request::ConsumerGroupHeartbeat(join("b", &names)));
    assert_eq!(too_large, GroupAnswer::Failed(ErrorCode::UnknownServerError));
    assert_eq!((world.host.reloads, world.describe().members.len()), (0, 1));
    world.host.log_max_batch_bytes = usize::MAX;
    assert_eq!(world.beat(join("b", &names)).error, ErrorCode::None, "the limit was raised");
    world.check_replay();
}

/// A member was told what it owns before the log had that for certain: the next coordinator might have given it to
/// somebody else.
#[test]
fn after_an_undone_step_answers_wait_for_the_change_before_it() {
    let mut world = foreseeing(GroupConfig { max_batch_bytes: 2_000, ..GroupConfig::default() });
    world.host.stalled = true;
    let first = world.host.ask(Request::ConsumerGroupHeartbeat(join("a", &["t"])));
    let names: Vec<String> = (0..200).map(|number| format!("topic-{number:010}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let too_large = world.host.call(Request::ConsumerGroupHeartbeat(join("b", &names)));
    assert_eq!(too_large, GroupAnswer::Failed(ErrorCode::UnknownServerError));
    let again = world.host.ask(Request::ConsumerGroupHeartbeat(join("a", &["t"])));
    assert_eq!((world.host.answer(first), world.host.answer(again)), (None, None));
    world.host.replicate();
    assert!(world.host.answer(first).is_some() && world.host.answer(again).is_some());
    world.check_replay();
}

/// A heartbeat without news writes everybody's target when topics have changed or members have gone. Where the log
/// would not take that, each heartbeat cost the whole shard.
#[test]
fn targets_that_are_too_large_are_put_off_and_members_read_on() {
    let mut world = foreseeing(GroupConfig::default());
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    world.beat(owns("a", 1, &[(t, &[0, 1, 2, 3])]));
    world.host.log_max_batch_bytes = 300;
    world.change(|cluster| cluster.set("t", 400));
    let answer = world.beat(beat("a", 1));
    assert_eq!((answer.error, answer.member_epoch, world.host.reloads), (ErrorCode::None, 1, 0));
    assert_eq!(world.describe().group_epoch, 1);
    world.host.log_max_batch_bytes = usize::MAX;
    assert_eq!(world.beat(beat("a", 1)).member_epoch, 1, "not yet");
    world.host.pass(10_000);
    assert_eq!(world.beat(beat("a", 1)).member_epoch, 2);
    world.check_replay();
}

/// A client says everything when an answer to it was lost. Such a heartbeat was refused, upon which clients give up.
#[test]
fn a_heartbeat_that_says_everything_puts_large_targets_off_too() {
    let mut world = foreseeing(GroupConfig::default());
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    world.host.log_max_batch_bytes = 300;
    world.change(|cluster| cluster.set("t", 400));
    let owned = Some(partitions(&[(t, &[0, 1, 2, 3])]));
    let answer = world.beat(ConsumerGroupHeartbeat { member_epoch: 1, owned, ..join("a", &["t"]) });
    assert_eq!((answer.error, answer.member_epoch, world.host.reloads), (ErrorCode::None, 1, 0));
    world.check_replay();
}

/// What a member has and what it gives up are one record, and may be more than the log takes though each target was
/// not: each heartbeat loaded the whole shard again.
#[test]
fn a_step_of_one_member_that_is_too_large_costs_its_group_alone() {
    let mut world = foreseeing(GroupConfig::default());
    world.change(|cluster| cluster.set("t", 400));
    world.beat(join("a", &["t"]));
    world.beat(join("b", &["t"]));
    world.host.log_max_batch_bytes = 1_000;
    for _ in 0..2 {
        let too_large = world.host.call(Request::ConsumerGroupHeartbeat(beat("a", 1)));
        assert_eq!(too_large, GroupAnswer::Failed(ErrorCode::UnknownServerError));
    }
    assert_eq!((world.host.reloads, world.describe().members.len()), (0, 2));
    world.host.log_max_batch_bytes = usize::MAX;
    assert_eq!(world.beat(beat("a", 1)).error, ErrorCode::None, "the limit was raised");
    world.check_replay();
}
