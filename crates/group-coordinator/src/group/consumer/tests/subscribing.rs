//! Topics that come, grow and go; expressions; assignors.

use super::*;
use crate::group::embedded::{self, Subscription};
use crate::request::JoinGroup;

fn assigned(answer: ConsumerHeartbeatAnswer) -> Vec<(TopicId, Vec<PartitionId>)> {
    answer.assignment.expect("an assignment")
}

#[test]
fn partitions_added_to_a_topic_are_picked_up() {
    let mut world = World::new(&[("t", 1), ("other", 1)]);
    let t = world.cluster.id("t");
    world.beat(join("a", &["t"]));
    world.change(|cluster| cluster.set("other", 5));
    let before = world.host.log.len();
    world.beat(beat("a", 1));
    assert_eq!(world.host.log.len(), before, "a topic that nobody here reads");
    world.change(|cluster| cluster.set("t", 3));
    let answer = world.beat(beat("a", 1));
    assert_eq!((answer.member_epoch, assigned(answer)), (2, partitions(&[(t, &[0, 1, 2])])));
    // What another coordinator finds has not changed since.
    world.host.fail_over(usize::MAX);
    let before = world.host.log.len();
    world.beat(beat("a", 2));
    assert_eq!(world.host.log.len(), before);
    world.check_replay();
}

#[test]
fn topics_that_do_not_exist_yet_are_read_once_they_do() {
    let mut world = World::new(&[]);
    let answer = world.beat(join("a", &["t"]));
    assert_eq!((answer.member_epoch, assigned(answer)), (1, vec![]));
    world.change(|cluster| cluster.set("t", 2));
    assert_eq!(assigned(world.beat(beat("a", 1))), partitions(&[(world.cluster.id("t"), &[0, 1])]));
    world.change(|cluster| cluster.delete("t"));
    assert_eq!(assigned(world.beat(beat("a", 2))), vec![]);
    assert_eq!(world.beat(owns("a", 2, &[])).member_epoch, 3);
}

#[test]
fn other_racks_raise_the_epoch_at_the_next_look() {
    let mut world = World::new(&[("t", 2)]);
    world.beat(join("a", &["t"]));
    world.change(|cluster| {
        cluster.racks = vec!["r".into()];
        cluster.version += 1;
    });
    world.host.fail_over(usize::MAX);
    assert_eq!(world.beat(beat("a", 1)).member_epoch, 2);
}

#[test]
fn a_change_of_subscription_moves_the_group() {
    let mut world = World::new(&[("t", 2), ("u", 1)]);
    let (t, u) = (world.cluster.id("t"), world.cluster.id("u"));
    world.beat(join("a", &["t"]));
    world.beat(join("b", &["u"]));
    assert_eq!(world.beat(beat("a", 1)).member_epoch, 2);
    assert_eq!(world.describe().members[1].assignment[0].0, u);
    let both = ConsumerGroupHeartbeat { subscribed_topics: Some(vec!["u".into(), "t".into()]), ..beat("b", 2) };
    world.beat(both.clone());
    assert_eq!(world.describe().group_epoch, 3);
    assert_eq!(world.describe().members[1].subscribed_topics, ["t", "u"]);
    let before = world.host.log.len();
    world.beat(ConsumerGroupHeartbeat { member_epoch: 3, ..both });
    assert_eq!(world.host.log.len(), before, "the same again");
    assert_eq!(world.beat(beat("a", 2)).member_epoch, 3, "two of t, one of u: nothing has to move");
    world.beat(ConsumerGroupHeartbeat { subscribed_topics: Some(vec![]), owned: Some(vec![]), ..beat("b", 3) });
    assert_eq!(world.beat(beat("a", 3)).member_epoch, 4);
    assert_eq!(world.describe().members[0].assignment, [(t, "t".to_owned(), vec![PartitionId(0), PartitionId(1)])]);
    world.check_replay();
}

#[test]
fn who_asks_for_an_assignor_gets_it_when_most_do() {
    let mut world = World::new(&[("t", 3), ("u", 3)]);
    let range = |request| ConsumerGroupHeartbeat { server_assignor: Some("range".into()), ..request };
    world.beat(range(join("a", &["t", "u"])));
    assert_eq!(world.describe().assignor, "range");
    world.beat(range(join("b", &["t", "u"])));
    let told = assigned(world.beat(beat("a", 1)));
    assert_eq!(told, partitions(&[(world.cluster.id("t"), &[0, 1]), (world.cluster.id("u"), &[0, 1])]));
}

#[test]
fn expressions_read_what_they_match_now_and_later() {
    let mut world = World::new(&[("foo-1", 1), ("bar", 1)]);
    let first = world.cluster.id("foo-1");
    let answer = world.beat(join_regex("a", "foo.*"));
    assert_eq!(assigned(answer), partitions(&[(first, &[0])]));
    assert_eq!(world.kinds(0), ["member", "regex", "epoch", "target", "target epoch", "current"]);
    world.change(|cluster| cluster.set("foo-2", 1));
    world.host.pass(100);
    let answer = world.beat(beat("a", 1));
    assert_eq!(assigned(answer), partitions(&[(first, &[0]), (world.cluster.id("foo-2"), &[0])]));
    // A topic that it does not match is no change.
    world.change(|cluster| cluster.set("baz", 1));
    world.host.pass(100);
    let before = world.host.log.len();
    world.beat(beat("a", 2));
    assert_eq!(world.host.log.len(), before);
    assert_eq!(world.describe().members[0].subscribed_regex.as_deref(), Some("foo.*"));
    world.host.fail_over(usize::MAX);
    world.beat(beat("a", 2));
    assert_eq!(world.host.log.len(), before, "the log knows what it matched");
    world.check_replay();
}

/// An assignment tells which topics there are, and how many partitions they have.
#[test]
fn expressions_match_no_topics_that_their_member_may_not_see() {
    let mut world = World::new(&[("foo-open", 1), ("foo-secret", 9)]);
    let open = world.cluster.id("foo-open");
    let limited = |request| {
        let visible_topics = VisibleTopics::only(|name| !name.contains("secret"));
        ConsumerGroupHeartbeat { visible_topics, ..request }
    };
    assert_eq!(assigned(world.beat(limited(join_regex("a", "foo.*")))), partitions(&[(open, &[0])]));
    // Nor later, by whatever step the topics are looked at.
    world.change(|cluster| cluster.set("foo-secret-2", 1));
    world.host.pass(100);
    let subscription = Subscription { version: 1, topics: vec!["foo-open".into()], ..Subscription::default() };
    let join_of_the_classic_protocol = JoinGroup {
        group: group(),
        member: MemberId::new(""),
        instance: None,
        client: ClientInfo { client_id: "old".into(), client_host: "/127.0.0.1".into() },
        fresh_id: "old-1".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 15_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), embedded::write_subscription(&subscription))],
        requires_known_member_id: false,
        supports_skip_assignment: false,
        reason: None,
    };
    world.host.ask(Request::JoinGroup(join_of_the_classic_protocol));
    assert_eq!(world.describe().members.len(), 2);
    world.host.pass(100);
    let answer = world.beat(limited(beat("a", 1)));
    assert!(answer.assignment.is_none_or(|assigned| assigned.iter().all(|(id, _)| *id == open)));
    let secret = |topic: &(TopicId, String, Vec<PartitionId>)| topic.1.contains("secret");
    assert!(!world.describe().members.iter().flat_map(|member| &member.target_assignment).any(secret));
}

#[test]
fn expressions_that_nobody_uses_are_forgotten() {
    let mut world = World::new(&[("foo", 2), ("bar", 1)]);
    world.beat(join_regex("a", "foo"));
    world.beat(join_regex("b", "foo"));
    let before = world.host.log.len();
    let other = ConsumerGroupHeartbeat { subscribed_regex: Some("bar".into()), ..beat("b", 2) };
    world.beat(other);
    assert!(world.kinds(before).contains(&"regex".to_owned()) && !world.kinds(before).contains(&"-regex".to_owned()));
    let before = world.host.log.len();
    world.beat(beat("b", -1));
    assert_eq!(world.kinds(before), ["-current", "-target", "-member", "-regex", "epoch"]);
    let before = world.host.log.len();
    let by_name = ConsumerGroupHeartbeat {
        subscribed_regex: Some(String::new()),
        subscribed_topics: Some(vec!["foo".into()]),
        ..beat("a", 1)
    };
    world.beat(by_name);
    assert!(world.kinds(before).contains(&"-regex".to_owned()));
    assert_eq!(world.describe().members[0].subscribed_regex, None);
    world.check_replay();
}

#[test]
fn an_expression_that_matches_nothing_yet_is_no_error() {
    let mut world = World::new(&[]);
    let answer = world.beat(join_regex("a", "foo.*"));
    assert_eq!((answer.member_epoch, assigned(answer)), (1, vec![]));
    world.change(|cluster| cluster.set("foo", 1));
    assert_eq!(assigned(world.beat(beat("a", 1))), partitions(&[(world.cluster.id("foo"), &[0])]));
}

#[test]
fn many_topics_are_looked_at_less_often() {
    let names: Vec<String> = (0..4_000).map(|number| format!("t{number}")).collect();
    let topics: Vec<(&str, i32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut world = World::new(&topics);
    world.beat(join_regex("a", "t.*"));
    world.change(|cluster| cluster.set("t-late", 1));
    world.host.pass(900);
    assert_eq!(world.beat(beat("a", 1)).assignment, None, "a second for 4,000 names");
    world.host.pass(200);
    assert!(world.beat(beat("a", 1)).assignment.is_some());
    // A member's own change is looked at with the topics as they are.
    world.change(|cluster| cluster.set("later", 1));
    let both = ConsumerGroupHeartbeat { subscribed_topics: Some(vec!["later".into()]), ..beat("a", 2) };
    let later = world.cluster.id("later");
    assert!(assigned(world.beat(both)).iter().any(|(id, _)| *id == later));
}

#[test]
fn a_group_that_kafka_4_0_wrote_loses_its_old_record_with_the_next_change() {
    let mut world = World::new(&[("t", 1)]);
    world.beat(join("a", &["t"]));
    let old = Record::PartitionMetadata { group: group(), value: Some(vec![]) }.encode();
    world.host.log.push(old);
    world.host.fail_over(usize::MAX);
    let before = world.host.log.len();
    world.beat(join("b", &["t"]));
    assert_eq!(world.kinds(before)[..3], ["member", "-partitions", "epoch"]);
    world.check_replay();
}
