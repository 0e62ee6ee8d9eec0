//! From classic to consumer group and back, while members read on.

use bytes::Bytes;
use ottla_model::ErrorCode;

use super::classic_members::{assigned, classic_join, sync};
use super::*;
use crate::config::MigrationPolicy;
use crate::effects::RequestId;
use crate::group::embedded;
use crate::request::{JoinGroup, SyncGroup};

fn known(member: &str, owned: &[i32]) -> JoinGroup {
    JoinGroup { requires_known_member_id: false, fresh_id: member.to_owned(), ..classic_join("", owned) }
}

fn given(partitions: &[i32]) -> Bytes {
    let partitions = partitions.iter().map(|partition| PartitionId(*partition)).collect();
    embedded::write_assignment(1, &vec![("t".to_owned(), partitions)])
}

/// A classic group of two that has settled: its members, and its generation.
fn two_classic(world: &mut World) -> ([String; 2], i32) {
    let joins: Vec<RequestId> =
        ["a", "b"].map(|member| world.host.ask(Request::JoinGroup(known(member, &[])))).to_vec();
    // The initial delay, once more for the second member.
    world.host.pass(6_000);
    let joined: Vec<_> = joins
        .into_iter()
        .map(|id| match world.host.answer(id) {
            Some(GroupAnswer::JoinGroup(joined)) => joined,
            other => panic!("{other:?}"),
        })
        .collect();
    let members = [0, 1].map(|at: usize| joined[at].member.to_string());
    let generation = joined[0].generation;
    let mut syncs = Vec::new();
    for (member, joined) in members.iter().zip(&joined) {
        let assignments = if joined.leader.as_str() == member {
            vec![
                (MemberId::new(members[0].as_str()), given(&[0, 1])),
                (MemberId::new(members[1].as_str()), given(&[2])),
            ]
        } else {
            vec![]
        };
        syncs.push(world.host.ask(Request::SyncGroup(SyncGroup { assignments, ..sync(member, generation) })));
    }
    let shares: Vec<Vec<i32>> = syncs
        .into_iter()
        .map(|id| match world.host.answer(id) {
            Some(GroupAnswer::SyncGroup(synced)) => assigned(&synced).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(shares, [vec![0, 1], vec![2]]);
    (members, generation)
}

#[test]
fn a_classic_group_becomes_a_consumer_group_and_nobody_reads_anything_twice() {
    let mut world = World::new(&[("t", 3)]);
    let t = world.cluster.id("t");
    let ([a, b], generation) = two_classic(&mut world);
    let before = world.host.log.len();
    let joined = world.beat(join("new", &["t"]));
    assert_eq!((joined.error, joined.assignment), (ErrorCode::None, Some(vec![])), "{:?}", joined.message);
    assert_eq!(
        world.kinds(before),
        [
            "-classic",
            "member",
            "member",
            "epoch",
            "target",
            "target",
            "target epoch",
            "current",
            "current",
            "member",
            "epoch",
            "target",
            "target",
            "target epoch",
            "current"
        ]
    );
    assert_eq!(world.describe().group_epoch, generation + 1);
    // b keeps what it has; a gives one up.
    assert_eq!(world.classic_beat(&b, generation), ErrorCode::RebalanceInProgress);
    assert_eq!(world.classic_join(classic_join(&b, &[2])).generation, generation + 1);
    assert_eq!(world.sync(&b, generation + 1), Ok(vec![2]));
    assert_eq!(world.beat(beat("new", generation + 1)).assignment, None);
    assert_eq!(world.classic_beat(&a, generation), ErrorCode::RebalanceInProgress);
    assert_eq!(world.classic_join(classic_join(&a, &[0, 1])).generation, generation);
    assert_eq!(world.sync(&a, generation), Ok(vec![0]));
    assert_eq!(world.beat(beat("new", generation + 1)).assignment, None, "not before a says so");
    assert_eq!(world.classic_join(classic_join(&a, &[0])).generation, generation + 1);
    assert_eq!(world.sync(&a, generation + 1), Ok(vec![0]));
    assert_eq!(world.beat(beat("new", generation + 1)).assignment, Some(partitions(&[(t, &[1])])));
    assert_eq!(world.state(), "Stable");
    world.check_replay();

    // The classic members are replaced one by one: the group stays a consumer group.
    assert_eq!(world.classic_leave(&a, None), ErrorCode::None);
    world.beat(join("newer", &["t"]));
    assert_eq!(world.classic_leave(&b, None), ErrorCode::None);
    assert_eq!(world.describe().members.len(), 2);
    world.check_replay();
}

#[test]
fn members_that_wait_in_a_round_are_told_of_the_next() {
    let mut world = World::new(&[("t", 3)]);
    let ([a, b], generation) = two_classic(&mut world);
    // b wants another round, a has not joined it yet.
    let waits = world.host.ask(Request::JoinGroup(JoinGroup {
        protocols: vec![("cooperative-sticky".into(), super::classic_members::subscription(vec![]))],
        ..classic_join(&b, &[])
    }));
    assert_eq!(world.host.answer(waits), None);
    world.beat(join("new", &["t"]));
    let Some(GroupAnswer::JoinGroup(told)) = world.host.answer(waits) else { panic!() };
    assert_eq!(told.error, ErrorCode::RebalanceInProgress);
    assert_eq!(world.classic_join(classic_join(&b, &[2])).error, ErrorCode::None);
    assert_eq!(world.classic_beat(&a, generation), ErrorCode::RebalanceInProgress);
    // Sessions go on with their own length.
    world.host.pass(10_000);
    assert_eq!(world.classic_beat(&a, generation), ErrorCode::UnknownMemberId);
    world.check_replay();
}

#[test]
fn what_cannot_be_converted_is_refused_and_stays() {
    let mut world = World::new(&[("t", 3)]);
    let (_, generation) = two_classic(&mut world);
    let before = world.host.log.len();
    let set = |world: &mut World, config: GroupConfig| {
        world.host.config = config.into();
        let config = std::sync::Arc::clone(&world.host.config);
        world.host.shard.set_config(config);
    };
    for policy in [MigrationPolicy::Disabled, MigrationPolicy::Downgrade] {
        set(&mut world, GroupConfig { consumer_migration_policy: policy, ..GroupConfig::default() });
        assert_eq!(
            world.refused(join("new", &["t"])),
            (
                ErrorCode::GroupIdNotFound,
                "Cannot upgrade classic group g to consumer group because online upgrade is disabled.".to_owned()
            )
        );
    }
    set(&mut world, GroupConfig { consumer_max_size: 1, ..GroupConfig::default() });
    assert!(world.refused(join("new", &["t"])).1.ends_with("the group size exceeds the consumer group maximum size."));
    set(&mut world, GroupConfig::default());
    assert_eq!(
        world.refused(beat("new", 1)),
        (ErrorCode::GroupIdNotFound, "Group g is not a consumer group.".to_owned())
    );
    assert_eq!(world.host.log.len(), before);
    assert_eq!(world.classic_beat("nobody", generation), ErrorCode::UnknownMemberId);
    assert!(matches!(world.host.shard.group(&group()), Some(Group::Classic(_))));
}

/// See `a_group_is_converted_with_what_its_members_were_given_of_a_new_topic` of the simulation.
#[test]
fn an_assignment_of_a_topic_that_is_not_known_yet_is_awaited() {
    let mut world = World::new(&[("t", 3)]);
    world.change(|cluster| cluster.delete("t"));
    let ([a, _], generation) = two_classic(&mut world);
    assert_eq!(world.refused(join("new", &["t"])).0, ErrorCode::CoordinatorLoadInProgress);
    world.change(|cluster| cluster.set("t", 3));
    let t = world.cluster.id("t");
    assert_eq!(world.beat(join("new", &["t"])).assignment, Some(vec![]));
    let described = world.describe();
    let member = described.members.iter().find(|member| member.member.as_str() == a).unwrap();
    assert_eq!(member.member_epoch, generation);
    assert_eq!(member.assignment, [(t, "t".to_owned(), vec![PartitionId(0), PartitionId(1)])]);

    // It was deleted: nobody waits for ever.
    let mut world = World::new(&[("t", 3), ("u", 1)]);
    world.change(|cluster| cluster.delete("t"));
    two_classic(&mut world);
    assert_eq!(world.refused(join("new", &["u"])).0, ErrorCode::CoordinatorLoadInProgress);
    world.host.pass(1_000);
    assert_eq!(world.beat(join("new", &["u"])).error, ErrorCode::None);
    world.check_replay();
}

/// A cooperative member reads what its next assignment takes from it until it has that one.
#[test]
fn what_cooperative_members_read_of_a_topic_that_is_not_known_yet_is_awaited() {
    let mut world = World::new(&[("t", 3)]);
    world.change(|cluster| cluster.delete("t"));
    let ([a, b], generation) = two_classic(&mut world);
    let joins = [(&a, vec![0, 1]), (&b, vec![2])]
        .map(|(member, owned)| world.host.ask(Request::JoinGroup(classic_join(member, &owned))));
    let mut leader = String::new();
    for id in joins {
        let Some(GroupAnswer::JoinGroup(joined)) = world.host.answer(id) else { panic!("all have joined") };
        leader = joined.leader.to_string();
    }
    // Nobody is assigned anything of the topic before its reader has let go of it.
    let assignments = vec![(MemberId::new(leader.as_str()), given(&[]))];
    world.host.call(Request::SyncGroup(SyncGroup { assignments, ..sync(&leader, generation + 1) }));
    assert_eq!(world.refused(join("new", &["t"])).0, ErrorCode::CoordinatorLoadInProgress);
    world.change(|cluster| cluster.set("t", 3));
    assert_eq!(world.beat(join("new", &["t"])).assignment, Some(vec![]), "all of it is read");
    world.check_replay();
}

#[test]
fn other_protocols_and_user_data_are_not_converted() {
    let mut world = World::new(&[("t", 3)]);
    let connect = JoinGroup { protocol_type: "connect".into(), ..known("c", &[]) };
    world.host.ask(Request::JoinGroup(connect));
    world.host.pass(3_000);
    assert!(world.refused(join("new", &["t"])).1.ends_with("the group does not use the consumer embedded protocol."));

    let mut world = World::new(&[("t", 3)]);
    let garbage = JoinGroup { protocols: vec![("range".into(), Bytes::from_static(b"\0"))], ..known("c", &[]) };
    world.host.ask(Request::JoinGroup(garbage));
    world.host.pass(3_000);
    assert!(world.refused(join("new", &["t"])).1.ends_with("the embedded consumer protocol is malformed."));

    // librdkafka's sticky assignors hand user data back that nobody reads.
    for (name, converts) in [("custom", false), ("cooperative-sticky", true)] {
        let mut world = World::new(&[("t", 3)]);
        let protocols = vec![(name.to_owned(), super::classic_members::subscription(vec![]))];
        let id = world.host.ask(Request::JoinGroup(JoinGroup { protocols, ..known("c", &[]) }));
        world.host.pass(3_000);
        let Some(GroupAnswer::JoinGroup(joined)) = world.host.answer(id) else { panic!() };
        let mut assignment = given(&[0]).to_vec();
        assignment.truncate(assignment.len() - 4);
        assignment.extend([0, 0, 0, 1, 42]);
        let member = joined.member.to_string();
        let assignments = vec![(joined.member, Bytes::from(assignment))];
        let protocol_name = Some(name.to_owned());
        let request = SyncGroup { assignments, protocol_name, ..sync(&member, joined.generation) };
        world.host.call(Request::SyncGroup(request));
        let answer = world.beat(join("new", &["t"]));
        assert_eq!(answer.error == ErrorCode::None, converts);
        if !converts {
            assert!(answer.message.unwrap().contains("an unsupported custom assignor is in use"));
            assert_eq!(world.classic_beat(&member, joined.generation), ErrorCode::None);
        }
    }
}

#[test]
fn the_last_consumer_member_leaves_a_classic_group_behind() {
    let mut world = World::new(&[("t", 3)]);
    let ([a, b], generation) = two_classic(&mut world);
    world.beat(join("new", &["t"]));
    let before = world.host.log.len();
    assert_eq!(world.beat(beat("new", -1)).error, ErrorCode::None);
    let kinds = world.kinds(before);
    assert_eq!(kinds.last().map(String::as_str), Some("classic"));
    assert_eq!(kinds[kinds.len() - 2], "-epoch");
    world.check_replay();
    let Some(Group::Classic(classic)) = world.host.shard.group(&group()) else { panic!("still a consumer group") };
    assert_eq!(classic.generation(), generation + 1);
    // A round has begun, which the members join.
    assert_eq!(world.classic_beat(&a, generation + 1), ErrorCode::RebalanceInProgress);
    let joins = [&a, &b].map(|member| world.host.ask(Request::JoinGroup(classic_join(member, &[]))));
    for id in joins {
        let Some(GroupAnswer::JoinGroup(joined)) = world.host.answer(id) else { panic!() };
        // The log has the generation in between.
        assert_eq!((joined.error, joined.generation), (ErrorCode::None, generation + 3));
    }
    // And up again.
    assert_eq!(world.beat(join("new", &["t"])).error, ErrorCode::None);
    world.check_replay();
}

#[test]
fn a_consumer_member_whose_session_ends_leaves_a_classic_group_behind() {
    let mut world = World::new(&[("t", 3)]);
    let ([a, _], generation) = two_classic(&mut world);
    world.beat(join("new", &["t"]));
    let policy = GroupConfig { consumer_migration_policy: MigrationPolicy::Upgrade, ..GroupConfig::default() };
    world.host.shard.set_config(policy.into());
    assert_eq!(world.classic_join(classic_join(&a, &[0, 1])).generation, generation);
    assert!(world.sync(&a, generation).is_ok());
    world.host.shard.set_config(GroupConfig::default().into());
    for _ in 0..5 {
        world.host.pass(9_000);
        if let Some(Group::Consumer(_)) = world.host.shard.group(&group()) {
            world.classic_join(classic_join(&a, &[0]));
        }
    }
    assert!(matches!(world.host.shard.group(&group()), Some(Group::Classic(_))), "45 s of silence");
    world.check_replay();
}

#[test]
fn without_the_policy_it_stays_a_consumer_group() {
    let mut world = World::new(&[("t", 3)]);
    let ([a, b], generation) = two_classic(&mut world);
    world.beat(join("new", &["t"]));
    let policy = GroupConfig { consumer_migration_policy: MigrationPolicy::Upgrade, ..GroupConfig::default() };
    world.host.shard.set_config(policy.into());
    world.beat(beat("new", -1));
    assert_eq!(world.describe().members.len(), 2);
    assert_eq!(world.classic_join(classic_join(&a, &[0, 1])).generation, generation + 2);
    assert_eq!(world.sync(&a, generation + 2), Ok(vec![0, 1]));
    assert_eq!(world.classic_join(classic_join(&b, &[2])).generation, generation + 2);
    assert_eq!(world.state(), "Stable");
    world.check_replay();
}

#[test]
fn a_static_member_takes_its_assignment_back_to_the_classic_protocol() {
    let mut world = World::new(&[("t", 3)]);
    world.beat(join_static("a", "i", &["t"]));
    // It starts again with the other protocol, without having said that it leaves.
    let again = JoinGroup { instance: Some(InstanceId::new("i")), ..known("b", &[]) };
    let joined = world.classic_join(again);
    assert_eq!((joined.error, joined.generation, joined.member.as_str()), (ErrorCode::None, 1, "b"));
    assert!(matches!(world.host.shard.group(&group()), Some(Group::Classic(_))));
    // Nobody leads yet: it joins the round that has begun, and leads.
    let request = SyncGroup { instance: Some(InstanceId::new("i")), ..sync("b", 1) };
    let answer = world.host.call(Request::SyncGroup(request));
    assert_eq!(answer, GroupAnswer::SyncGroup(crate::answer::Synced::refused(ErrorCode::RebalanceInProgress)));
    let again = JoinGroup { instance: Some(InstanceId::new("i")), ..classic_join("b", &[0, 1, 2]) };
    let joined = world.classic_join(again);
    assert_eq!((joined.error, joined.generation, joined.leader.as_str()), (ErrorCode::None, 3, "b"));
    let assignments = vec![(MemberId::new("b"), given(&[0, 1, 2]))];
    let request = SyncGroup { instance: Some(InstanceId::new("i")), assignments, ..sync("b", 3) };
    let GroupAnswer::SyncGroup(synced) = world.host.call(Request::SyncGroup(request)) else { panic!() };
    assert_eq!(assigned(&synced), Ok(vec![0, 1, 2]));
    world.check_replay();
}

#[test]
fn members_join_a_round_after_a_downgrade_also_at_the_next_coordinator() {
    let mut world = World::new(&[("t", 3)]);
    let ([a, b], generation) = two_classic(&mut world);
    world.beat(join("new", &["t"]));
    world.beat(beat("new", -1));
    // Nobody has heard of the round yet. What "new" has had would be read by nobody if the next coordinator took this
    // for a stable group.
    world.host.fail_over(usize::MAX);
    for member in [&a, &b] {
        assert_eq!(world.classic_beat(member, generation + 1), ErrorCode::IllegalGeneration);
    }
    let joins = [&a, &b].map(|member| world.host.ask(Request::JoinGroup(classic_join(member, &[]))));
    for id in joins {
        let Some(GroupAnswer::JoinGroup(joined)) = world.host.answer(id) else { panic!() };
        assert_eq!((joined.error, joined.generation), (ErrorCode::None, generation + 3));
    }
}

/// F2: the last member of the consumer protocol never went, and nobody read what it had.
#[test]
fn a_downgrade_that_no_batch_can_hold_leaves_a_consumer_group_of_classic_members() {
    for end in ["leaves", "is removed", "falls silent"] {
        let mut world = World::new(&[("t", 3)]);
        world.host.foresees = true;
        let ([a, b], _) = two_classic(&mut world);
        world.beat(join("new", &["t"]));
        world.host.log_max_batch_bytes = 600;
        if end == "leaves" {
            let left = world.beat(beat("new", -1));
            assert_eq!(left.error, ErrorCode::None);
        } else if end == "is removed" {
            assert_eq!(world.classic_leave("new", None), ErrorCode::None);
        } else {
            for _ in 0..20 {
                world.host.pass(9_000);
                for member in [&a, &b] {
                    let joined = world.classic_join(classic_join(member, &[]));
                    let _ = world.sync(member, joined.generation);
                }
            }
        }
        let members = world.describe().members;
        assert!(members.iter().all(|member| member.is_classic), "{members:?}");
        assert_eq!((members.len(), world.host.reloads), (2, 0), "the last one {end}");
        world.check_replay();
    }
}

/// Between the batches that hold the member and those that hold the whole group as well.
#[test]
fn a_static_member_comes_back_with_the_classic_protocol_where_no_batch_can_hold_the_downgrade() {
    let mut stayed = 0;
    for limit in (100..4_000).step_by(50) {
        let mut world = World::new(&[("t", 3)]);
        world.host.foresees = true;
        let _ = two_classic(&mut world);
        world.beat(join_static("new", "i", &["t"]));
        world.host.log_max_batch_bytes = limit;
        let again = JoinGroup { instance: Some(InstanceId::new("i")), ..known("c", &[]) };
        match world.host.call(Request::JoinGroup(again)) {
            GroupAnswer::JoinGroup(joined) => assert_eq!(joined.error, ErrorCode::None),
            refused => assert_eq!(refused, GroupAnswer::Failed(ErrorCode::UnknownServerError)),
        }
        if matches!(world.host.shard.group(&group()), Some(Group::Consumer(_))) {
            stayed += u32::from(world.describe().members.iter().all(|member| member.is_classic));
        }
        assert_eq!(world.host.reloads, 0);
        world.check_replay();
    }
    assert!(stayed > 0);
}

#[test]
fn what_cooperative_members_read_while_their_leader_is_awaited_is_given_to_nobody_else() {
    let mut world = World::new(&[("t", 3)]);
    let ([a, b], generation) = two_classic(&mut world);
    // A round in which everybody joined, still reading, and whose leader has not answered; then another member begins
    // the next one.
    let joins = [(&a, vec![0, 1]), (&b, vec![2])]
        .map(|(member, owned)| world.host.ask(Request::JoinGroup(classic_join(member, &owned))));
    for id in joins {
        assert!(
            matches!(world.host.answer(id), Some(GroupAnswer::JoinGroup(joined)) if joined.generation == generation + 1)
        );
    }
    world.host.ask(Request::JoinGroup(known("c", &[])));
    let joined = world.beat(join("new", &["t"]));
    assert_eq!((joined.error, joined.assignment), (ErrorCode::None, Some(vec![])), "all of it is read");
    // They hear of it, let go of what is not theirs any more, and say so.
    for (member, owned) in [(&a, vec![0, 1]), (&b, vec![2])] {
        assert_eq!(world.classic_beat(member, generation + 1), ErrorCode::RebalanceInProgress);
        assert_eq!(world.classic_join(classic_join(member, &owned)).error, ErrorCode::None);
        assert_eq!(world.beat(beat("new", joined.member_epoch)).assignment, None);
    }
    for member in [&a, &b] {
        assert!(world.classic_join(classic_join(member, &[])).generation > generation + 1);
    }
    assert!(world.beat(beat("new", joined.member_epoch)).assignment.is_some_and(|given| !given.is_empty()));
    world.check_replay();
}
