//! Joining, leaving, fencing: who is in the group.

use ottla_model::{ErrorCode, InstanceId};

use super::*;
use crate::config::{GroupOverrides, MigrationPolicy};

#[test]
fn the_first_member_makes_the_group_and_gets_everything() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    let answer = world.beat(join("a", &["t"]));
    assert_eq!(answer.member, Some(MemberId::new("a")));
    assert_eq!((answer.error, answer.member_epoch), (ErrorCode::None, 1));
    assert_eq!(answer.assignment, Some(partitions(&[(t, &[0, 1])])));
    assert_eq!(world.kinds(0), ["member", "epoch", "target", "target epoch", "current"]);
    let described = world.describe();
    assert_eq!((described.state, described.group_epoch, described.assignment_epoch), ("Stable", 1, 1));
    assert_eq!(described.assignor, "uniform");
    assert_eq!(described.members[0].assignment, vec![(t, "t".to_owned(), vec![PartitionId(0), PartitionId(1)])]);
    assert_eq!(described.members[0].target_assignment, described.members[0].assignment);
    // Nothing new: nothing is written, and no assignment told.
    let before = world.host.log.len();
    let answer = world.beat(beat("a", 1));
    assert_eq!((answer.member_epoch, answer.assignment), (1, None));
    assert_eq!(world.host.log.len(), before);
    world.check_replay();
}

#[test]
fn requests_are_checked_with_kafkas_texts() {
    let mut world = World::new(&[("t", 2)]);
    let mut refused = |request: ConsumerGroupHeartbeat, error, text: &str| {
        assert_eq!(world.refused(request), (error, text.to_owned()));
    };
    let invalid = ErrorCode::InvalidRequest;
    let base = || join("a", &["t"]);
    refused(join("", &["t"]), invalid, "MemberId can't be empty.");
    refused(
        ConsumerGroupHeartbeat { instance: Some(InstanceId::new("")), ..base() },
        invalid,
        "InstanceId can't be empty.",
    );
    refused(ConsumerGroupHeartbeat { rack: Some(" ".into()), ..base() }, invalid, "RackId can't be empty.");
    refused(
        ConsumerGroupHeartbeat { rebalance_timeout_ms: -1, ..base() },
        invalid,
        "RebalanceTimeoutMs must be provided in first request.",
    );
    let text = "TopicPartitions must be empty when (re-)joining.";
    refused(ConsumerGroupHeartbeat { owned: None, ..base() }, invalid, text);
    refused(ConsumerGroupHeartbeat { owned: Some(partitions(&[(TopicId::ZERO, &[0])])), ..base() }, invalid, text);
    refused(
        ConsumerGroupHeartbeat { subscribed_topics: None, ..base() },
        invalid,
        "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
    );
    refused(beat("a", -3), invalid, "MemberEpoch is invalid.");
    refused(beat("a", -2), invalid, "InstanceId can't be null.");
    refused(
        ConsumerGroupHeartbeat { server_assignor: Some("sticky".into()), ..base() },
        ErrorCode::UnsupportedAssignor,
        "ServerAssignor sticky is not supported. Supported assignors: uniform, range.",
    );
    refused(
        ConsumerGroupHeartbeat { subscribed_regex: Some("(".into()), ..base() },
        ErrorCode::InvalidRegularExpression,
        "SubscribedTopicRegex `(` is not a valid regular expression: unclosed group.",
    );
    refused(beat("a", 1), ErrorCode::GroupIdNotFound, "Consumer group g not found.");
    refused(beat("a", -1), ErrorCode::GroupIdNotFound, "Group g not found.");
    assert!(world.host.log.is_empty());
    assert_eq!(world.describe().error, ErrorCode::GroupIdNotFound, "no group comes of a refused member");
}

#[test]
fn members_of_version_0_are_given_an_id() {
    let mut world = World::new(&[("t", 2)]);
    let answer = world.beat(ConsumerGroupHeartbeat { fresh_id: "fresh".into(), ..join("", &["t"]) });
    assert_eq!(answer.member, Some(MemberId::new("fresh")));
    assert_eq!(world.beat(beat("fresh", 1)).error, ErrorCode::None);
}

#[test]
fn a_full_group_takes_nobody() {
    let config = GroupConfig { consumer_max_size: 1, ..GroupConfig::default() };
    let mut world = World::with(&[("t", 2)], config);
    world.beat(join("a", &["t"]));
    assert_eq!(
        world.refused(join("b", &["t"])),
        (
            ErrorCode::GroupMaxSizeReached,
            "The consumer group has reached its maximum capacity of 1 members.".to_owned()
        )
    );
    assert_eq!(world.beat(beat("a", 1)).error, ErrorCode::None);
}

#[test]
fn wrong_epochs_are_fenced() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    assert_eq!(
        world.refused(beat("b", 1)),
        (ErrorCode::UnknownMemberId, "Member b is not a member of group g.".to_owned())
    );
    assert_eq!(
        world.refused(beat("a", 2)),
        (
            ErrorCode::FencedMemberEpoch,
            "The consumer group member has a greater member epoch (2) than the one known by the group coordinator (1). The member \
             must abandon all its partitions and rejoin."
                .to_owned()
        )
    );
    // The answer to its join was lost: it joins again, with nothing.
    assert_eq!(world.beat(join("a", &["t"])).member_epoch, 1);
    world.beat(join("b", &["t"]));
    world.beat(owns("a", 1, &[(t, &[0])]));
    // Moved to epoch 2. The epoch before counts once more, while the member may not have heard, with no more than it
    // should own.
    assert_eq!(world.beat(owns("a", 1, &[(t, &[0])])).member_epoch, 2);
    assert_eq!(world.refused(owns("a", 1, &[(t, &[0, 1])])).0, ErrorCode::FencedMemberEpoch);
    assert_eq!(world.refused(beat("a", 1)).0, ErrorCode::FencedMemberEpoch);
    // A member that was fenced joins again under its id and is told all that it shall own.
    let rejoined = world.beat(join("a", &["t"]));
    assert_eq!((rejoined.member_epoch, rejoined.assignment), (2, Some(partitions(&[(t, &[0])]))));
    assert!(world.refused(beat("a", 0x7fff_ffff)).1.contains("greater"));
}

#[test]
fn who_leaves_frees_its_partitions() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    world.beat(owns("a", 1, &[(t, &[0, 1])]));
    world.beat(join("b", &["t"]));
    // It saw that coming and let go before it was told: it owned both.
    assert_eq!(world.beat(owns("a", 1, &[(t, &[0])])).member_epoch, 2);
    assert_eq!(world.beat(beat("b", 2)).assignment, Some(partitions(&[(t, &[1])])));
    let before = world.host.log.len();
    let answer = world.beat(beat("a", -1));
    assert_eq!((answer.member_epoch, answer.member.unwrap()), (-1, MemberId::new("a")));
    assert_eq!(world.kinds(before), ["-current", "-target", "-member", "epoch"]);
    assert_eq!(world.state(), "Assigning");
    let answer = world.beat(beat("b", 2));
    assert_eq!((answer.member_epoch, answer.assignment), (3, Some(partitions(&[(t, &[0, 1])]))));
    assert_eq!(world.refused(beat("a", 2)).0, ErrorCode::UnknownMemberId);
    world.beat(beat("b", -1));
    assert_eq!(world.state(), "Empty");
    assert_eq!(world.host.shard.next_deadline().filter(|at| at.0 < 100_000), None, "no timer of a member is left");
    world.check_replay();
}

#[test]
fn silence_ends_a_session() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    world.beat(join("b", &["t"]));
    world.host.pass(SESSION_MS - 1);
    assert_eq!(world.beat(beat("b", 2)).error, ErrorCode::None);
    world.host.pass(1);
    let described = world.describe();
    assert_eq!(described.members.len(), 1, "a was silent for its session");
    assert_eq!(described.group_epoch, 3);
    assert_eq!(world.beat(beat("b", 2)).assignment, Some(partitions(&[(world.cluster.id("t"), &[0, 1])])));
    // Another coordinator grants every member a fresh session.
    world.host.pass(SESSION_MS - 1);
    world.host.fail_over(usize::MAX);
    world.host.pass(SESSION_MS - 1);
    assert_eq!(world.describe().members.len(), 1);
    world.host.pass(1);
    assert_eq!(world.state(), "Empty");
    world.check_replay();
}

#[test]
fn sessions_and_intervals_can_be_set_for_one_group() {
    let own = GroupOverrides { consumer_session_timeout_ms: Some(60_000), consumer_heartbeat_interval_ms: Some(90) };
    let config = GroupConfig { overrides: [(group(), own)].into(), ..GroupConfig::default() };
    let mut world = World::with(&[("t", 2)], config);
    assert_eq!(world.beat(join("a", &["t"])).heartbeat_interval_ms, 90);
    world.host.pass(59_999);
    assert_eq!(world.state(), "Stable");
    world.host.pass(1);
    assert_eq!(world.state(), "Empty");
}

#[test]
fn static_members_come_back_to_what_they_had() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    let mine = |request| ConsumerGroupHeartbeat { instance: Some(InstanceId::new("i")), ..request };
    world.beat(join_static("a", "i", &["t"]));
    assert_eq!(
        world.refused(join_static("b", "i", &["t"])),
        (
            ErrorCode::UnreleasedInstanceId,
            "Static member b with instance id i cannot join the group because the instance id is owned by a member."
                .to_owned()
        )
    );
    assert_eq!(
        world.refused(mine(beat("b", 1))),
        (ErrorCode::FencedInstanceId, "Static member b with instance id i was fenced by member a.".to_owned())
    );
    let other = ConsumerGroupHeartbeat { instance: Some(InstanceId::new("j")), ..beat("a", 1) };
    assert_eq!(world.refused(other), (ErrorCode::UnknownMemberId, "Instance id j is unknown.".to_owned()));

    let before = world.host.log.len();
    assert_eq!(world.beat(mine(beat("a", -2))).member_epoch, -2);
    assert_eq!(world.kinds(before), ["current"]);
    let before = world.host.log.len();
    let answer = world.beat(join_static("b", "i", &["t"]));
    assert_eq!((answer.member_epoch, answer.assignment), (1, Some(partitions(&[(t, &[0, 1])]))));
    assert_eq!(
        world.kinds(before),
        ["-current", "-target", "-member", "member", "target", "current", "current"],
        "the group does not move"
    );
    assert_eq!(world.describe().group_epoch, 1);
    assert_eq!(world.refused(mine(beat("a", 1))).0, ErrorCode::FencedInstanceId);
    // Its session goes on under the new id only.
    world.host.pass(SESSION_MS - 1);
    assert_eq!(world.beat(mine(beat("b", 1))).error, ErrorCode::None);
    world.host.pass(SESSION_MS - 1);
    assert_eq!(world.beat(mine(beat("b", -2))).error, ErrorCode::None);
    // It stays away for longer than its session.
    world.host.pass(SESSION_MS);
    assert_eq!(world.state(), "Empty");
    world.check_replay();
}

#[test]
fn a_static_member_that_leaves_for_good_is_gone() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join_static("a", "i", &["t"]));
    let leaving = ConsumerGroupHeartbeat { instance: Some(InstanceId::new("i")), ..beat("a", -1) };
    assert_eq!(world.beat(leaving).member_epoch, -1);
    assert_eq!(world.state(), "Empty");
    assert_eq!(world.beat(join_static("b", "i", &["t"])).member_epoch, 3);
    world.check_replay();
}

#[test]
fn an_empty_classic_group_gives_way() {
    let mut world = World::new(&[("t", 2)]);
    let config = GroupConfig { consumer_migration_policy: MigrationPolicy::Disabled, ..GroupConfig::default() };
    world.host.config = config.into();
    // A commit from outside makes a group that only has offsets.
    world.host.ask(Request::CommitOffsets(crate::request::CommitOffsets {
        group: group(),
        member: MemberId::new(""),
        instance: None,
        generation_or_epoch: -1,
        knows_member_epochs: true,
        retention_ms: None,
        topics: vec![crate::shard::testing::one_offset()],
    }));
    let before = world.host.log.len();
    assert_eq!(world.beat(join("a", &["t"])).member_epoch, 1);
    assert_eq!(world.kinds(before)[0], "-classic");
    world.check_replay();
}

#[test]
fn intervals_follow_the_number_of_members_and_the_configured_one_bounds_them() {
    let mut world = World::new(&[("t", 200)]);
    assert_eq!(world.beat(join("m", &["t"])).heartbeat_interval_ms, 250, "alone, and settled at once");
    let joined = world.beat(join("n", &["t"]));
    assert_eq!(joined.heartbeat_interval_ms, 100, "m has yet to give up its half");
    // It takes its time: nobody hurries for ever.
    world.host.pass(10_000);
    assert_eq!(world.beat(beat("n", 2)).heartbeat_interval_ms, 250);
    for number in 0..198 {
        let joined = world.beat(join(&format!("m{number}"), &["t"]));
        assert!((100..=200).contains(&joined.heartbeat_interval_ms));
    }
    world.host.pass(10_000);
    let answer = world.beat(beat("n", 2));
    assert_eq!(answer.heartbeat_interval_ms / 100, 10, "200 members at 200 a second");
    world.host.config = GroupConfig { consumer_heartbeat_interval_ms: 300, ..GroupConfig::default() }.into();
    let config = std::sync::Arc::clone(&world.host.config);
    world.host.shard.set_config(config);
    assert_eq!(world.beat(beat("n", answer.member_epoch)).heartbeat_interval_ms, 300);
}

/// A member whose leave was lost, or which is known to a new coordinator only, and a static one of the same id, join
/// again.
#[test]
fn a_known_member_joins_again_with_epoch_0() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    world.beat(owns("a", 1, &[(t, &[0, 1])]));
    world.host.fail_over(usize::MAX);
    let again = world.beat(join("a", &["t"]));
    assert_eq!((again.member_epoch, again.assignment), (1, Some(partitions(&[(t, &[0, 1])]))));
    // It begins with nothing: what it was told to give up is given up.
    world.beat(owns("a", 1, &[(t, &[0, 1])]));
    world.beat(join_static("b", "i", &["t"]));
    assert_eq!(world.beat(beat("a", 1)).assignment, Some(partitions(&[(t, &[0])])));
    assert_eq!(world.beat(join("a", &["t"])).assignment, Some(partitions(&[(t, &[0])])));
    let joined = world.beat(join_static("b", "i", &["t"]));
    assert_eq!((joined.member_epoch, joined.assignment), (2, Some(partitions(&[(t, &[1])]))));
    assert_eq!(world.state(), "Stable");
    world.check_replay();
}

#[test]
fn a_static_member_that_left_for_a_while_has_its_session_to_come_back() {
    let mut world = World::new(&[("t", 2)]);
    let mine = |request| ConsumerGroupHeartbeat { instance: Some(InstanceId::new("i")), ..request };
    world.beat(ConsumerGroupHeartbeat { rebalance_timeout_ms: 5_000, ..join_static("a", "i", &["t"]) });
    world.beat(join("b", &["t"]));
    // It is told to give up a half, and leaves instead.
    world.beat(mine(beat("a", 1)));
    world.beat(mine(beat("a", -2)));
    world.host.pass(10_000);
    assert_eq!(world.describe().members.len(), 2, "its session has not ended");
    world.host.fail_over(usize::MAX);
    world.host.pass(10_000);
    assert_eq!(world.describe().members.len(), 2, "nor at the next coordinator");
}

#[test]
fn the_grace_of_a_late_tick_is_given_once() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    world.host.stand_still(SESSION_MS + 1_000);
    world.host.pass(0);
    assert_eq!(world.describe().members.len(), 1, "its heartbeats may have been held up");
    world.host.stand_still(3_000);
    world.host.pass(0);
    assert_eq!(world.state(), "Empty");
    world.host.stand_still(600_000);
    // Whoever was heard in between gets it again.
    world.beat(join("a", &["t"]));
    for _ in 0..3 {
        world.host.stand_still(SESSION_MS + 1_000);
        world.host.pass(0);
        assert_eq!(world.beat(join("a", &["t"])).error, ErrorCode::None);
    }
}

#[test]
fn a_heartbeat_interval_that_was_set_is_what_members_are_told() {
    let set = GroupConfig { consumer_heartbeat_interval_is_set: true, ..GroupConfig::default() };
    let mut world = World::with(&[("t", 2)], set.clone());
    assert_eq!(world.beat(join("a", &["t"])).heartbeat_interval_ms, 5_000);
    assert_eq!(world.beat(join("b", &["t"])).heartbeat_interval_ms, 5_000, "while partitions move, too");
    let own = GroupOverrides { consumer_session_timeout_ms: None, consumer_heartbeat_interval_ms: Some(7_000) };
    for config in [set, GroupConfig::default()] {
        let mut world = World::with(&[("t", 2)], GroupConfig { overrides: [(group(), own)].into(), ..config });
        assert_eq!(world.beat(join("a", &["t"])).heartbeat_interval_ms, 7_000);
    }
}
