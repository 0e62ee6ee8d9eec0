//! What a step may cost: it must not grow with what other members subscribe by, nor with how many members go at once.

use std::sync::atomic::Ordering;

use ottla_model::{ErrorCode, PartitionId, TopicId};

use super::{SESSION_MS, World, assigned_names, beat, join, join_regex, owns};
use crate::group::Group;
use crate::request::ConsumerGroupHeartbeat;
use crate::topics::Topics as _;

fn scans(world: &World) -> usize {
    world.cluster.scans.load(Ordering::Relaxed)
}

fn lookups(world: &World) -> usize {
    world.cluster.lookups.load(Ordering::Relaxed)
}

/// The look-ups of the last join to a group of so many members, all of which read the same 50 topics.
fn lookups_of_the_last_join(members: usize) -> usize {
    let names: Vec<String> = (0..50).map(|number| format!("t{number:02}")).collect();
    let topics: Vec<(&str, i32)> = names.iter().map(|name| (name.as_str(), 2)).collect();
    let mut world = World::new(&topics);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut of_last = 0;
    for number in 0..members {
        let before = lookups(&world);
        let answer = world.beat(join(&format!("m{number:03}"), &names));
        assert_eq!(answer.error, ErrorCode::None);
        of_last = lookups(&world) - before;
    }
    of_last
}

#[test]
fn a_join_looks_each_topic_up_once_however_many_members_read_it() {
    let of_third = lookups_of_the_last_join(3);
    let of_hundredth = lookups_of_the_last_join(100);
    assert!(of_third >= 50, "{of_third}");
    assert!(of_hundredth <= of_third, "{of_third} with 3 members, {of_hundredth} with 100");
}

/// What a member was told last.
#[derive(Default)]
struct Told {
    epoch: i32,
    owned: Vec<(TopicId, Vec<i32>)>,
}

#[test]
fn a_heartbeat_without_news_looks_nothing_up_and_writes_nothing() {
    let mut world = World::new(&[("t1", 10), ("t2", 10)]);
    let names: Vec<String> = (0..10).map(|number| format!("m{number}")).collect();
    let mut members: Vec<Told> = Vec::new();
    for name in &names {
        let answer = world.beat(join(name, &["t1", "t2"]));
        members.push(Told { epoch: answer.member_epoch, ..Told::default() });
    }
    // Until each member has told that it has what it shall have.
    let mut rounds = 0;
    loop {
        let before = world.host.log.len();
        for (name, told) in names.iter().zip(&mut members) {
            let owned: Vec<_> = told.owned.iter().map(|(topic, of)| (*topic, of.as_slice())).collect();
            let answer = world.beat(owns(name, told.epoch, &owned));
            assert_eq!(answer.error, ErrorCode::None, "{answer:?}");
            told.epoch = answer.member_epoch;
            if let Some(assignment) = answer.assignment {
                let numbers = |of: Vec<PartitionId>| of.into_iter().map(|partition| partition.0).collect();
                told.owned = assignment.into_iter().map(|(topic, of)| (topic, numbers(of))).collect();
            }
        }
        rounds += 1;
        assert!(rounds < 50, "the group does not settle");
        let owned: usize = members.iter().flat_map(|told| &told.owned).map(|(_, of)| of.len()).sum();
        if world.host.log.len() == before && owned == 20 {
            break;
        }
        world.host.pass(1_000);
    }
    let (before, log) = (lookups(&world), world.host.log.len());
    for (name, told) in names.iter().zip(&members) {
        let answer = world.beat(beat(name, told.epoch));
        assert_eq!((answer.error, answer.assignment), (ErrorCode::None, None));
    }
    assert_eq!((lookups(&world), world.host.log.len()), (before, log));
}

/// Each expression of a group held its own copy of all names that it matches.
#[test]
fn resolved_expressions_hold_the_names_of_the_image() {
    let mut world = World::new(&[("topic-1", 1), ("topic-2", 1)]);
    for number in 0..3 {
        world.beat(join_regex(&format!("m{number}"), &format!("topic-(1|2|{number})")));
    }
    let mut of_image = Vec::new();
    world.cluster.names(&mut |name| of_image.push(name.as_str().as_ptr()));
    let Some(Group::Consumer(group)) = world.host.shard.group(&super::group()) else { panic!("no group") };
    assert_eq!(group.expressions.len(), 3);
    for resolved in group.expressions.values() {
        let held: Vec<_> = resolved.topics.iter().map(|name| name.as_str().as_ptr()).collect();
        assert_eq!(held, of_image);
    }
}

#[test]
fn a_new_expression_is_resolved_without_the_others() {
    let mut world = World::new(&[("topic-1", 1)]);
    world.beat(join_regex("first", "topic-.*"));
    for number in 0..50 {
        let before = scans(&world);
        let answer = world.beat(join_regex(&format!("m{number}"), &format!("topic-({number}|x)")));
        assert!(answer.member_epoch > 0);
        assert_eq!(scans(&world) - before, 1, "member {number}");
    }
}

#[test]
fn expressions_are_resolved_again_in_pieces_and_change_the_group_once() {
    let mut world = World::new(&[("topic-1", 1)]);
    for number in 0..20 {
        world.beat(join_regex(&format!("m{number:02}"), &format!("(new|topic-{number})")));
    }
    let epoch = world.describe().group_epoch;
    world.change(|cluster| cluster.set("new", 1));
    world.host.pass(1_000);
    let mut heartbeats = 0;
    while world.describe().group_epoch == epoch {
        let before = scans(&world);
        world.beat(beat(&format!("m{heartbeats:02}"), heartbeats + 1));
        assert!(scans(&world) - before <= 4);
        heartbeats += 1;
        assert!(heartbeats < 20, "the expressions are never resolved");
    }
    assert_eq!(world.describe().group_epoch, epoch + 1);
    let described = world.describe();
    let readers = described.members.iter().filter(|member| assigned_names(member).contains(&"new".to_owned()));
    assert_eq!(readers.count(), 1, "{described:?}");
    world.check_replay();
}

#[test]
fn members_that_fall_silent_together_leave_together() {
    let mut world = World::new(&[("topic", 4)]);
    for number in 0..300 {
        world.beat(join(&format!("m{number:03}"), &["topic"]));
    }
    let epoch = world.describe().group_epoch;
    world.host.pass(SESSION_MS + 1_000);
    let described = world.describe();
    assert_eq!((described.members.len(), described.state), (0, "Empty"));
    // At most so many timers run out in one tick.
    assert_eq!(described.group_epoch, epoch + 2);
    world.check_replay();
}

/// G10: groups of one member each held all partitions of the cluster, and each counted as one KiB.
#[test]
fn what_members_have_counts_in_the_budget() {
    let mut world = World::new(&[("t", 1_000)]);
    world.beat(join("a", &["t"]));
    assert!(world.host.config.budget.used().bytes > 64 * 1_000);
    // Whatever it subscribes by.
    let mut world = World::new(&[("t", 1)]);
    world.beat(join("a", &["t"]));
    let used = world.host.config.budget.used().bytes;
    let subscribed_regex = Some("x".repeat(1_000));
    assert_eq!(world.beat(ConsumerGroupHeartbeat { subscribed_regex, ..beat("a", 1) }).error, ErrorCode::None);
    assert!(world.host.config.budget.used().bytes >= used + 1_000);
}

/// Members of a hostile client named a quarter of a million partitions each, and all of them were kept.
#[test]
fn of_what_a_member_claims_only_what_it_was_given_is_kept() {
    let mut world = World::new(&[("t", 2)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    let claims: Vec<i32> = (0..1_000).collect();
    let answer = world.beat(owns("a", 1, &[(t, &claims), (TopicId([9; 16]), &claims)]));
    assert_eq!(answer.error, ErrorCode::None);
    let Some(Group::Consumer(found)) = world.host.shard.group(&super::group()) else { panic!("no group") };
    let kept: usize = found.soft.reports.values().map(|report| report.owned.len()).sum();
    assert_eq!(kept, 2);
}
