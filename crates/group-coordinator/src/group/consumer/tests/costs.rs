//! What a step may cost: it must not grow with what other members subscribe by, nor with how many members go at once.

use std::sync::atomic::Ordering;

use super::{SESSION_MS, World, assigned_names, beat, join, join_regex};

fn scans(world: &World) -> usize {
    world.cluster.scans.load(Ordering::Relaxed)
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
