//! From one target assignment to the next: nobody owns what somebody else has not let go.

use std::collections::BTreeSet;

use ottla_model::ErrorCode;

use super::*;
use crate::record::MemberState;
use crate::request::{CommitOffsets, CommitPartition, FetchOffsets, GroupTopic};

fn committed(world: &mut World, member: &str, epoch: i32, partition: i32) -> ErrorCode {
    let commit = CommitPartition {
        partition: PartitionId(partition),
        offset: ottla_model::Offset(1),
        leader_epoch: ottla_model::LeaderEpoch::NONE,
        metadata: None,
        timestamp: None,
        refused: None,
    };
    let request = CommitOffsets {
        group: group(),
        member: MemberId::new(member),
        instance: None,
        generation_or_epoch: epoch,
        knows_member_epochs: true,
        retention_ms: None,
        topics: vec![(GroupTopic { name: "t".into(), id: TopicId::ZERO }, vec![commit])],
    };
    match world.host.call(Request::CommitOffsets(request)) {
        GroupAnswer::CommitOffsets(topics) => topics[0].1[0].1,
        GroupAnswer::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

/// Scenario 54: a client drops an answer that comes late, does not know what it said, and says nothing.
#[test]
fn scenario_54_a_member_that_lost_an_answer_is_told_again() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    world.beat(owns("a", 1, &[(t, &[0, 1])]));
    world.beat(join("b", &["t"]));
    assert_eq!(world.beat(beat("a", 1)).assignment, Some(partitions(&[(t, &[0])])));
    assert_eq!(world.beat(beat("a", 1)).assignment, None, "it may be about to give up");
    world.host.pass(1_000);
    assert_eq!(world.beat(beat("a", 1)).assignment, Some(partitions(&[(t, &[0])])));
    assert_eq!(world.beat(beat("a", 1)).assignment, None);
    world.beat(owns("a", 1, &[(t, &[0])]));
    assert_eq!(world.beat(beat("b", 2)).assignment, Some(partitions(&[(t, &[1])])));
    world.host.pass(1_000);
    assert_eq!(world.beat(beat("b", 2)).assignment, Some(partitions(&[(t, &[1])])));
    world.beat(owns("b", 2, &[(t, &[1])]));
    world.host.pass(1_000);
    assert_eq!(world.beat(beat("a", 2)).assignment, None, "both have said so");
    assert_eq!(world.beat(beat("b", 2)).assignment, None);
    world.check_replay();
}

/// Scenario 29 (KIP-848): a partition goes to its next owner only after the former confirmed or was fenced.
#[test]
fn scenario_29_handing_over_before_letting_go() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    // b may not have its half while a reads it, however often it asks.
    let joined = world.beat(join("b", &["t"]));
    assert_eq!((joined.member_epoch, joined.assignment), (2, Some(vec![])));
    assert_eq!(world.beat(beat("b", 2)).assignment, None);
    // a is told to let go, and stays in its epoch.
    let told = world.beat(beat("a", 1));
    assert_eq!((told.member_epoch, told.assignment), (1, Some(partitions(&[(t, &[0])]))));
    assert_eq!(world.beat(beat("b", 2)).assignment, None, "told is not done");
    // Neither a heartbeat that does not say, nor one that still has it, nor another coordinator, is a confirmation.
    world.beat(beat("a", 1));
    world.beat(owns("a", 1, &[(t, &[0, 1])]));
    world.host.fail_over(usize::MAX);
    assert_eq!(world.beat(beat("b", 2)).assignment, None);
    assert_eq!(world.replayed_group().unwrap().members[&MemberId::new("a")].state, MemberState::UnrevokedPartitions);
    assert_eq!(world.state(), "Reconciling");
    // It is.
    assert_eq!(world.beat(owns("a", 1, &[(t, &[0])])).member_epoch, 2);
    assert_eq!(world.beat(beat("b", 2)).assignment, Some(partitions(&[(t, &[1])])));
    assert_eq!(world.state(), "Stable");
    world.check_replay();
}

#[test]
fn who_does_not_let_go_in_time_is_fenced() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    let slow = ConsumerGroupHeartbeat { rebalance_timeout_ms: 5_000, ..join("a", &["t"]) };
    world.beat(slow);
    world.beat(join("b", &["t"]));
    world.host.pass(10_000);
    world.beat(beat("a", 1));
    // Another coordinator begins its patience anew.
    world.host.pass(4_999);
    assert_eq!(world.beat(owns("a", 1, &[(t, &[0, 1])])).error, ErrorCode::None);
    world.host.fail_over(usize::MAX);
    world.host.pass(4_999);
    assert_eq!(world.beat(owns("a", 1, &[(t, &[0, 1])])).error, ErrorCode::None);
    world.host.pass(1);
    assert_eq!(world.refused(owns("a", 1, &[(t, &[0, 1])])).0, ErrorCode::UnknownMemberId);
    assert_eq!(world.beat(beat("b", 2)).assignment, Some(partitions(&[(t, &[0, 1])])));
    world.check_replay();
}

#[test]
fn who_lets_go_in_time_is_not_fenced() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(ConsumerGroupHeartbeat { rebalance_timeout_ms: 5_000, ..join("a", &["t"]) });
    world.beat(join("b", &["t"]));
    world.beat(beat("a", 1));
    world.beat(owns("a", 1, &[(t, &[0])]));
    world.host.pass(20_000);
    assert_eq!(world.beat(beat("a", 2)).error, ErrorCode::None);
}

#[test]
fn what_is_given_back_while_it_goes_comes_back_at_once() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    world.beat(join("b", &["t"]));
    world.beat(beat("a", 1));
    world.beat(beat("b", -1));
    // The confirmation of the old step brings the new target with it.
    let answer = world.beat(owns("a", 1, &[(t, &[0])]));
    assert_eq!((answer.member_epoch, answer.assignment), (3, Some(partitions(&[(t, &[0, 1])]))));
    assert_eq!(world.state(), "Stable");
}

#[test]
fn a_topic_that_is_gone_has_to_be_let_go_too() {
    let mut world = World::new(&[("t", 1)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    world.change(|cluster| cluster.delete("t"));
    assert_eq!(world.beat(beat("a", 1)).assignment, Some(vec![]));
    assert_eq!(world.beat(owns("a", 1, &[])).member_epoch, 2);
    world.change(|cluster| cluster.set("t", 1));
    assert_ne!(world.cluster.id("t"), t);
    assert_eq!(world.beat(beat("a", 2)).assignment, Some(partitions(&[(world.cluster.id("t"), &[0])])));
    world.check_replay();
}

/// Java's consumer says that it owns nothing while it looks for the topics of an expression that it was given, and then
/// takes them.
#[test]
fn what_was_never_owned_is_not_let_go_by_saying_so_once() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    world.beat(join("b", &["t"]));
    // On its way while a takes both.
    let told = world.beat(owns("a", 1, &[]));
    assert_eq!((told.member_epoch, told.assignment), (1, Some(partitions(&[(t, &[0])]))));
    assert_eq!(world.beat(beat("b", 2)).assignment, None);
    // It had; now it knows better.
    world.beat(owns("a", 1, &[(t, &[0, 1])]));
    assert_eq!(world.beat(beat("b", 2)).assignment, None);
    assert_eq!(world.beat(owns("a", 1, &[(t, &[0])])).member_epoch, 2);
    assert_eq!(world.beat(beat("b", 2)).assignment, Some(partitions(&[(t, &[1])])));
}

#[test]
fn who_never_takes_what_it_is_told_to_give_up_has_nothing_to_say() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    world.beat(join("b", &["t"]));
    world.beat(owns("a", 1, &[]));
    world.beat(beat("a", -1));
    world.beat(join("c", &["t"]));
    // What a member owns has not changed for it: it was given a partition and told to give it up before it took it.
    world.beat(beat("b", 2));
    world.beat(owns("b", 3, &[]));
    world.beat(join("d", &["t"]));
    let told = world.beat(beat("b", 3));
    let after = world.describe();
    assert_eq!(after.state, "Reconciling", "{told:?} {after:#?}");
    world.host.pass(1_000);
    for member in ["b", "c", "d"] {
        let epoch = world.describe().members.iter().find(|of| of.member.as_str() == member).unwrap().member_epoch;
        assert_eq!(world.beat(beat(member, epoch)).error, ErrorCode::None);
    }
    assert_eq!(world.describe().group_epoch, 5);
}

/// Seed 7005 of the groups' simulation: a member is given partitions, and more of them before it has said that it owns
/// the first. One of the latter is to be given up. What the member says next is about the first gift, and it may be
/// taking the second.
#[test]
fn a_late_word_about_the_first_gift_lets_nothing_of_the_second_go() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    let of = |answer: &ConsumerHeartbeatAnswer| -> BTreeSet<i32> {
        let partitions = answer.assignment.iter().flatten().flat_map(|(_, partitions)| partitions);
        partitions.map(|partition| partition.0).collect()
    };
    world.beat(join("a", &["t"]));
    world.beat(owns("a", 1, &[(t, &[0, 1])]));
    world.beat(join("b", &["t"]));
    world.beat(beat("a", 1));
    world.beat(owns("a", 1, &[(t, &[0])]));
    let first = of(&world.beat(beat("b", 2)));
    assert_eq!(first, BTreeSet::from([1]));
    world.change(|cluster| cluster.set("t", 6));
    world.beat(beat("a", 2));
    let second = world.beat(beat("b", 2));
    let given = of(&second);
    assert!(given.is_superset(&first) && given.len() == 3, "{given:?}");
    world.beat(join("c", &["t"]));
    let told = world.beat(beat("b", second.member_epoch));
    let gone: BTreeSet<i32> = given.difference(&of(&told)).copied().collect();
    assert_eq!(gone.len(), 1, "{told:?}");
    let is_given = |world: &mut World| {
        let epoch = world.describe().members.iter().find(|of| of.member.as_str() == "c").unwrap().member_epoch;
        of(&world.beat(beat("c", epoch))).is_superset(&gone)
    };
    world.beat(owns("b", told.member_epoch, &[(t, &[1])]));
    assert!(!is_given(&mut world), "it may be taking the second gift");
    // It is believed when it has had the time for both.
    world.host.pass(2_000);
    world.beat(beat("b", told.member_epoch));
    assert!(is_given(&mut world));
}

/// One that says nothing since it was given something may take its time to take it: for it the rebalance timeout
/// counts.
#[test]
fn silence_after_a_gift_is_no_confirmation() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    world.beat(join("b", &["t"]));
    for _ in 0..5 {
        world.host.pass(5_000);
        assert_eq!(world.beat(beat("a", 1)).member_epoch, 1);
        assert_eq!(world.beat(beat("b", 2)).assignment, None);
    }
}

/// Scenario 28: commits of a member that the group moved on without are refused; those of one that only has not heard
/// are not.
#[test]
fn scenario_28_stale_epoch_commits() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    assert_eq!(committed(&mut world, "a", 1, 0), ErrorCode::None);
    assert_eq!(committed(&mut world, "a", 2, 0), ErrorCode::StaleMemberEpoch, "an epoch that is not yet");
    assert_eq!(committed(&mut world, "b", 1, 0), ErrorCode::UnknownMemberId);
    assert_eq!(committed(&mut world, "", -1, 0), ErrorCode::UnknownMemberId, "from outside, while somebody reads");
    world.beat(join("b", &["t"]));
    world.beat(beat("a", 1));
    assert_eq!(committed(&mut world, "a", 1, 1), ErrorCode::None, "while it lets go it commits what it read");
    world.beat(owns("a", 1, &[(t, &[0])]));
    world.beat(beat("b", 2));
    assert_eq!(committed(&mut world, "a", 1, 0), ErrorCode::None, "its own since epoch 1, of which it knows");
    assert_eq!(committed(&mut world, "a", 1, 1), ErrorCode::StaleMemberEpoch, "another's by now");
    assert_eq!(committed(&mut world, "b", 1, 1), ErrorCode::StaleMemberEpoch, "since epoch 2 only");
    assert_eq!(committed(&mut world, "b", 2, 1), ErrorCode::None);
    // Stopped for longer than its session.
    world.host.pass(SESSION_MS - 1);
    world.beat(beat("b", 2));
    world.host.pass(1);
    assert_eq!(committed(&mut world, "a", 2, 0), ErrorCode::UnknownMemberId);
    world.beat(beat("b", -1));
    assert_eq!(committed(&mut world, "", -1, 0), ErrorCode::None, "nobody reads: an admin client may");
}

#[test]
fn old_clients_cannot_commit_for_new_members() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    let request = CommitOffsets {
        group: group(),
        member: MemberId::new("a"),
        instance: None,
        generation_or_epoch: 1,
        knows_member_epochs: false,
        retention_ms: None,
        topics: vec![],
    };
    let answer = world.host.call(Request::CommitOffsets(request));
    assert_eq!(answer, GroupAnswer::Failed(ErrorCode::UnsupportedVersion));
}

#[test]
fn fetches_of_a_member_carry_its_epoch() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    let mut fetch = |member: Option<&str>, member_epoch| {
        let member = member.map(MemberId::new);
        let request = FetchOffsets { group: group(), member, member_epoch, require_stable: false, topics: None };
        match world.host.call(Request::FetchOffsets(request)) {
            GroupAnswer::FetchOffsets(fetched) => fetched.error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fetch(None, -1), ErrorCode::None);
    assert_eq!(fetch(Some("a"), 1), ErrorCode::None);
    assert_eq!(fetch(Some("a"), 0), ErrorCode::StaleMemberEpoch);
    assert_eq!(fetch(Some("b"), 1), ErrorCode::UnknownMemberId);
}

#[test]
fn answers_wait_for_the_high_watermark() {
    let mut world = World::new(&[("t", 2)]);
    world.host.stalled = true;
    let joined = world.host.ask(Request::ConsumerGroupHeartbeat(join("a", &["t"])));
    let next = world.host.ask(Request::ConsumerGroupHeartbeat(beat("a", 1)));
    assert_eq!((world.host.answer(joined), world.host.answer(next)), (None, None), "the group is not replicated");
    world.host.replicate();
    assert!(world.host.answer(joined).is_some() && world.host.answer(next).is_some());
}

#[test]
fn a_refused_write_takes_the_group_back() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    world.host.refusing = Some(ErrorCode::NotEnoughReplicas);
    let id = world.host.ask(Request::ConsumerGroupHeartbeat(join("b", &["t"])));
    assert_eq!(world.host.answer(id), Some(GroupAnswer::Failed(ErrorCode::CoordinatorNotAvailable)));
    world.host.refusing = None;
    assert_eq!(world.describe().members.len(), 1);
    world.check_replay();
}

#[test]
fn a_member_that_always_says_everything_lets_go_of_what_it_never_had() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    let full = |epoch, owned: &[i32]| ConsumerGroupHeartbeat {
        member_epoch: epoch,
        owned: Some(partitions(&[(t, owned)])),
        ..join("a", &["t"])
    };
    // Its answer is lost, and what it was given is wanted elsewhere by the next heartbeat.
    world.beat(join("a", &["t"]));
    world.beat(join("b", &["t"]));
    assert_eq!(world.beat(full(1, &[])).assignment, Some(partitions(&[(t, &[0])])));
    for _ in 0..7 {
        world.host.pass(250);
        let answer = world.beat(full(1, &[0]));
        assert_eq!((answer.error, answer.member_epoch), (ErrorCode::None, 1));
        assert_eq!(world.beat(beat("b", 2)).assignment, None, "it may be about to take both");
    }
    world.host.pass(250);
    assert_eq!(world.beat(full(1, &[0])).member_epoch, 2);
    assert_eq!(world.beat(beat("b", 2)).assignment, Some(partitions(&[(t, &[1])])));
}
