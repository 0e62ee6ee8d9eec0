//! Seeds that failed once, and their stories. A change of the simulation changes what a seed does; the stories stay.

use std::collections::BTreeSet;

use super::stage::{PARTITIONS, SESSION_MS, Stage, TOPIC};
use crate::coordinator_log::{LogWorld as _, Weather};
use crate::groups::runner::run;

#[test]
fn seeds_that_failed_once_hold() {
    for seed in [100_058, 100_223, 100_273, 100_286, 100_553, 100_824, 202_811] {
        let report = run(seed, false);
        assert!(report.failure.is_none(), "{report}");
    }
}

/// Seed 477: a log was compacted while it was read. A member that had been put out and had joined again with its id
/// showed its former assignment, without the tombstone that ended it; the record of its second life made it the owner
/// of a partition that another member had not let go of, and the partition went to a third one.
#[test]
fn a_log_that_is_compacted_while_it_is_read_keeps_the_owners_of_partitions() {
    let report = run(477, false);
    assert!(report.failure.is_none(), "{report}");
}

/// Seeds 100058, 100223, 100273: a follower that had left the ISR came back only with the next append. In a group that
/// had become quiet nothing was appended, the log stayed below its minimum ISR, and members waited for ever.
#[test]
fn a_follower_comes_back_into_the_isr_when_nothing_is_appended() {
    let mut stage = Stage::new(100_058);
    stage.wait("the log to be whole", |stage| {
        let partition = &stage.world.logs.partitions[0];
        partition.high_watermark() == partition.end_of(stage.leader())
    });
    let followers: Vec<i32> = (1..=3).filter(|id| *id != stage.leader()).collect();
    for follower in &followers {
        stage.world.shrink_isr(0, *follower, 100);
    }
    assert_eq!(stage.world.logs.partitions[0].isr(), BTreeSet::from([stage.leader()]));
    stage.wait("the followers to be back", |stage| stage.world.logs.partitions[0].isr().len() == 3);
    let all = stage.all();
    let call = stage.commit(&all);
    stage.answered(call);
}

/// Seeds 100286, 100553, 100824: a leader that had been replaced and did not know it fetched from its successor, and
/// its log lost records that its groups had in memory. It follows nobody before it has heard of its successor.
#[test]
fn a_replaced_leader_that_does_not_know_it_keeps_its_log() {
    let mut stage = Stage::new(100_286);
    let all = stage.all();
    let call = stage.commit(&all);
    stage.answered(call);
    let before = stage.fetch();
    let replaced = stage.leader();
    stage.world.weather = Weather { image_lag_us: (300_000, 300_000), ..Weather::CALM };
    stage.world.elect(0, Some(replaced));
    stage.world.weather = Weather::CALM;
    // All others have heard of it.
    for other in (1..=3).filter(|id| *id != replaced) {
        stage.world.learn(other, 0).expect("the rules hold");
    }
    // The client knows only the former coordinator, which takes the commit and can never answer it.
    let call = stage.commit(&all);
    stage.run_ms(20);
    let end = stage.world.logs.partitions[0].end_of(replaced);
    stage.run_ms(200);
    assert_eq!(stage.world.logs.partitions[0].end_of(replaced), end);
    stage.run_ms(400);
    assert_eq!(stage.answer(call).map(crate::groups::client::error_of), Some(ottla_model::ErrorCode::NotCoordinator));
    assert_eq!(stage.fetch(), before);
    // Now it follows.
    let call = stage.commit(&all);
    stage.answered(call);
    stage.wait("the logs to be the same", |stage| {
        let partition = &stage.world.logs.partitions[0];
        partition.end_of(replaced) == partition.end_of(stage.leader())
    });
}

/// Seed 202811: a classic member stands still while a round begins without it and a KIP-848 member upgrades the group.
/// What it believes to own is of a generation before the upgrade; it is fenced when it next speaks, and reads nothing
/// twice.
#[test]
fn a_classic_member_that_missed_an_upgrade_owns_nothing() {
    let mut stage = Stage::new(202_811);
    let all = stage.all();
    let (stopped, other) = (stage.add_classic("a"), stage.add_classic("b"));
    stage.wait("both to own something", |stage| {
        let (one, two) = (stage.owned(stopped), stage.owned(other));
        !one.is_empty() && !two.is_empty() && one.union(&two).count() == all.len()
    });
    stage.world.pause_client(stopped, SESSION_MS * 4 / 5);
    let classic = stage.add_classic("c");
    stage.run_ms(200);
    let consumer = stage.add_consumer("d", 0);
    stage.wait("all four to share the topic", |stage| {
        let clients = [stopped, other, classic, consumer];
        let owned: Vec<_> = clients.iter().map(|client| stage.owned(*client)).collect();
        owned.iter().all(|owned| owned.len() == 1) && owned.iter().flatten().collect::<BTreeSet<_>>().len() == all.len()
    });
}

/// Seed 2764: a topic was deleted and created again between a cooperative member's JoinGroup and its SyncGroup. The
/// leader gave to nobody what the member had said that it owned. The member had nothing to give up any more, and joined
/// no further round: those partitions of the new topic had no reader.
#[test]
fn what_a_member_loses_during_a_round_is_assigned_in_the_next_one() {
    let report = run(2764, false);
    assert!(report.failure.is_none(), "{report}");
    for ms in (0..400).step_by(10) {
        let mut stage = Stage::new(2764);
        let all = stage.all();
        let members = ["a", "b"].map(|name| stage.add_cooperative(name));
        let owned = |stage: &Stage| members.iter().flat_map(|member| stage.owned(*member)).collect::<BTreeSet<_>>();
        stage.wait("all to be read", |stage| owned(stage) == all);
        let third = stage.add_cooperative("c");
        stage.run_ms(ms);
        stage.world.delete_topic(TOPIC);
        stage.world.create_topic(TOPIC, PARTITIONS);
        // Members have seen that the topic is another one.
        stage.run_ms(10);
        stage.wait("all to be read again", |stage| {
            owned(stage).into_iter().chain(stage.owned(third)).collect::<BTreeSet<_>>() == all
        });
    }
}

/// Seed 4500: a classic member's SyncGroup in a consumer group waits until its records are replicated. A topic is
/// deleted and created again meanwhile. What the member is given is of the former topic.
#[test]
fn an_assignment_that_waits_is_of_the_topics_that_were_assigned() {
    for ms in (0..400).step_by(8) {
        let mut stage = Stage::new(4_500);
        let all = stage.all();
        stage.world.weather =
            Weather { replication_us: (15_000, 40_000), image_lag_us: (1_000, 30_000), ..Weather::CALM };
        let mut members = vec![stage.add_consumer("a", 0), stage.add_cooperative("b")];
        let owned = |stage: &Stage, members: &[u32]| {
            members.iter().flat_map(|member| stage.owned(*member)).collect::<BTreeSet<_>>()
        };
        stage.wait("all to be read", |stage| owned(stage, &members) == all);
        members.push(stage.add_cooperative("c"));
        stage.run_ms(ms);
        stage.world.delete_topic(TOPIC);
        stage.world.create_topic(TOPIC, PARTITIONS);
        stage.run_ms(50);
        stage.wait("all to be read again", |stage| owned(stage, &members) == all);
    }
}

/// Seed 8224: two topics were deleted, and members were given partitions of them by name. Neither topic had an id any
/// more: partition 2 of the one counted as partition 2 of the other, with two owners. Nobody owns what does not exist.
#[test]
fn a_member_owns_nothing_of_a_topic_that_is_gone() {
    let report = run(8_224, false);
    assert!(report.failure.is_none(), "{report}");
    for ms in (0..400).step_by(8) {
        let mut stage = Stage::new(8_224);
        let all = stage.all();
        stage.world.weather = Weather { replication_us: (15_000, 40_000), ..Weather::CALM };
        let mut members = ["a", "b"].map(|name| stage.add_cooperative(name)).to_vec();
        let owned = |stage: &Stage, members: &[u32]| {
            members.iter().flat_map(|member| stage.owned(*member)).collect::<BTreeSet<_>>()
        };
        stage.wait("all to be read", |stage| owned(stage, &members) == all);
        // The round that the third one begins ends before or after the deletion.
        members.push(stage.add_cooperative("c"));
        stage.run_ms(ms);
        stage.world.delete_topic(TOPIC);
        for _ in 0..60 {
            stage.run_ms(10);
            assert_eq!(owned(&stage, &members), BTreeSet::new(), "deleted {ms} ms after the third one came");
        }
        stage.world.create_topic(TOPIC, PARTITIONS);
        stage.wait("all to be read again", |stage| owned(stage, &members) == all);
    }
}

/// Seed 10772: the leader of a classic round heard of a new topic before the coordinator did and gave its partitions to
/// members; the group became a consumer group before the coordinator had heard of it. These members owned nothing of
/// the topic there, and another one was given what they read.
#[test]
fn a_group_is_converted_with_what_its_members_were_given_of_a_new_topic() {
    let report = run(10_772, false);
    assert!(report.failure.is_none(), "{report}");
    for ms in (0..600).step_by(10) {
        let mut stage = Stage::new(10_772);
        let all = stage.all();
        let mut members = ["a", "b"].map(|name| stage.add_classic(name)).to_vec();
        let owned = |stage: &Stage, members: &[u32]| {
            members.iter().flat_map(|member| stage.owned(*member)).collect::<BTreeSet<_>>()
        };
        stage.wait("all to be read", |stage| owned(stage, &members) == all);
        stage.world.delete_topic(TOPIC);
        stage.run_ms(1_000);
        stage.world.weather = Weather { image_lag_us: (400_000, 400_000), ..Weather::CALM };
        stage.world.create_topic(TOPIC, PARTITIONS);
        stage.run_ms(ms);
        members.push(stage.add_consumer("c", 0));
        stage.wait("the new member to own something", |stage| !stage.owned(members[2]).is_empty());
        stage.wait("all to be read again", |stage| owned(stage, &members) == all);
    }
}
