//! Scenarios 1–16, 37 and 39: leaders and followers.

use std::time::Duration;

use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, Offset};
use ottla_partition::BrokenRules;
use ottla_protocol::record_batch::Batches;
use ottla_replica_fetcher::BrokenRules as FetcherRules;
use ottla_replication::fetch_session::BrokenRules as FetchRules;
use ottla_replication::{BrokenRules as ReplicationRules, FetchPosition, Follower};

use crate::invariants::Violation;
use crate::message::{CallId, Fetch, FetchBytes, Message, Produce, SessionRef};
use crate::network::NodeId;
use crate::script::{Script, Step};
use crate::world::{SCRIPT, WorldConfig};

/// The story of scenario 1 under `rules`: two leaders die one after the other before a follower, whose high watermark
/// is behind, has fetched from the second.
fn truncation_story(seed: u64, rules: ReplicationRules) -> Step {
    let mut script = Script::new(
        seed,
        WorldConfig { rules: BrokenRules { replication: rules, ..BrokenRules::default() }, ..WorldConfig::small() },
    )?;
    script.write(10)?;
    let (leader, followers) = (script.leader()?, script.followers()?);
    script.cut_brokers(followers[0], followers[1]);
    // Acknowledged, but no follower was told of the new high watermark.
    script.write(1)?;
    script.kill(leader);
    let second = script.wait_other_leader(leader)?;
    let last = if second == followers[0] { followers[1] } else { followers[0] };
    script.wait("the other to follow it", |world| {
        let Some(partition) = world.partitions().first().copied() else { return false };
        world
            .brokers
            .get(&last)
            .and_then(|node| node.replica(partition))
            .is_some_and(|replica| replica.follower().is_some_and(|follower| follower.leader().0 == second))
    })?;
    script.kill(second);
    script.wait_leads(last)?;
    assert_eq!(script.end_of(last)?, Offset(22), "11 batches of 2 records were acknowledged");
    script.heal();
    script.converge()
}

#[test]
fn scenario_01_truncating_to_the_high_watermark() {
    ottla_test_support::each_seed(0..5, |seed| {
        truncation_story(seed, ReplicationRules::default()).expect("acknowledged records stay");
    });
    let broken = ReplicationRules { truncate_to_high_watermark: true, ..ReplicationRules::default() };
    let Violation(what) = truncation_story(0, broken).expect_err("the rule is taken out");
    assert!(what.contains("leads partition"), "{what}");
}

#[test]
fn scenario_02_same_offset_different_records() {
    let story = |seed| -> Step {
        let config = WorldConfig { brokers: 2, replication_factor: 2, min_isr: 1, ..WorldConfig::small() };
        let mut script = Script::new(seed, config)?;
        script.write(5)?;
        let (leader, follower) = (script.leader()?, script.followers()?[0]);
        script.world.sync(leader)?;
        script.world.sync(follower)?;
        script.write(20)?;
        let last_epoch = script.broker(leader)?.active_epoch().max(script.broker(follower)?.active_epoch());
        script.lose_power(leader);
        script.lose_power(follower);
        // Whoever may lead comes back first, with what the disk kept, and writes on.
        script.start(leader);
        script.start(follower);
        script
            .wait("both to be back", |world| world.brokers.values().all(|broker| broker.active_epoch() > last_epoch))?;
        script.wait("a leader", |world| {
            world.partitions().first().is_some_and(|partition| world.leader_of(*partition).is_some())
        })?;
        let first = script.leader()?;
        script.wait_leads(first)?;
        script.write_hastily(first, 5)?;
        script.converge()
    };
    ottla_test_support::each_seed(0..12, |seed| {
        story(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    });
}

#[test]
fn scenario_09_zombie_leader() {
    let story = || -> Step {
        let mut script = Script::new(9, WorldConfig::small())?;
        script.write(5)?;
        let zombie = script.leader()?;
        let hw = script.hw_of(zombie)?;
        script.isolate(zombie);
        let calls: Vec<_> = (0..3)
            .map(|_| {
                let batch = script.batch(2)?;
                script.send(zombie, -1, batch)
            })
            .collect::<Step<_>>()?;
        script.write_hastily(zombie, 3)?;
        script.wait_other_leader(zombie)?;
        script.write(5)?;
        script.run_ms(3_000)?;
        assert_eq!(script.hw_of(zombie)?, hw, "nobody follows it");
        for call in calls {
            let error = script.answer(call).map(|answer| answer.error);
            assert!(error.is_some_and(|error| !error.is_ok()), "{error:?}");
        }
        script.heal();
        script.converge()?;
        assert_eq!(script.end_of(zombie)?, Offset(20), "what nobody acknowledged is cut");
        Ok(())
    };
    story().expect("a zombie does no harm");
}

#[test]
fn scenario_10_deposed_in_the_middle_of_a_produce() {
    let story = || -> Step {
        let mut script = Script::new(10, WorldConfig::small())?;
        script.write(2)?;
        let (leader, followers) = (script.leader()?, script.followers()?);
        script.cut_brokers(leader, followers[0]);
        script.cut_brokers(leader, followers[1]);
        let batch = script.batch(1)?;
        let call = script.send(leader, -1, batch)?;
        script.run_ms(20)?;
        assert_eq!(script.answer(call), None, "appended, and waiting");
        // The quorum loses sight of it, then it learns that another leads.
        script.world.freeze_clock(NodeId::Broker(leader), 10_000);
        script.cut_from_quorum(leader);
        script.wait_other_leader(leader)?;
        script.heal();
        script.wait("an answer", |world| {
            world.inbox.iter().any(
                |(_, message)| matches!(message, Message::ProduceAnswer { call: answered, .. } if *answered == call),
            )
        })?;
        let error = script.answer(call).map(|answer| answer.error);
        assert!(matches!(error, Some(ErrorCode::NotLeaderOrFollower | ErrorCode::RequestTimedOut)), "{error:?}");
        script.converge()
    };
    story().expect("never success");
}

#[test]
fn scenario_11_topic_deleted_and_created_again_while_a_broker_was_away() {
    let story = || -> Step {
        let mut script = Script::new(11, WorldConfig::small())?;
        script.write(5)?;
        let former = script.partition()?;
        let away = script.followers()?[0];
        script.kill(away);
        script.wait_fenced(away)?;
        script.world.delete_topic("t");
        script.wait("the deletion", |world| world.is_admin_done() && world.partitions().is_empty())?;
        script.start(away);
        script.world.create_topic("t");
        script.wait("the creation", |world| world.is_admin_done() && !world.partitions().is_empty())?;
        script.converge()?;
        assert_ne!(script.partition()?, former);
        script.write(1)?;
        script.converge()?;
        assert_eq!(script.end_of(away)?, Offset(2), "nothing of the former topic");
        assert!(script.broker(away)?.replica(former).is_none());
        Ok(())
    };
    story().expect("topic ids tell them apart");
}

#[test]
fn scenario_12_follower_behind_the_leaders_log_start() {
    let story = || -> Step {
        let mut script = Script::new(12, WorldConfig::small())?;
        script.write(3)?;
        let away = script.followers()?[0];
        script.kill(away);
        script.wait_fenced(away)?;
        script.write(10)?;
        let partition = script.partition()?;
        script.world.delete_records(partition, 100)?;
        let start = script.replica(script.leader()?)?.log_start();
        assert_eq!(start, Offset(26));
        script.write(3)?;
        script.start(away);
        script.converge()?;
        let replica = script.replica(away)?;
        assert_eq!(replica.log_start(), start);
        assert_eq!(replica.log_end(), Offset(32));
        Ok(())
    };
    story().expect("it starts over at the leader's log start");
}

#[test]
fn scenario_13_checkpoints_ahead_of_the_log() {
    let story = |seed| -> Step {
        let mut script = Script::new(seed, WorldConfig { segment_bytes: 1_000, ..WorldConfig::small() })?;
        script.write(20)?;
        // High watermarks are written down durably; the records were not.
        script.run_ms(2_500)?;
        let victim = script.followers()?[0];
        script.lose_power(victim);
        script.wait_fenced(victim)?;
        script.start(victim);
        script.write(5)?;
        script.converge()
    };
    ottla_test_support::each_seed(0..8, |seed| {
        story(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    });
}

#[test]
fn scenario_15_idempotence_across_failover() {
    let story = || -> Step {
        let mut script = Script::new(15, WorldConfig::small())?;
        let leader = script.leader()?;
        let mut batches = Vec::new();
        for _ in 0..5 {
            let batch = script.idempotent_batch(2)?;
            let answer = script.produce(leader, -1, batch.clone())?;
            assert_eq!(answer.error, ErrorCode::None);
            batches.push((batch, answer.base_offset));
        }
        script.kill(leader);
        let next = script.wait_other_leader(leader)?;
        for (batch, first) in &batches {
            let answer = script.produce(next, -1, batch.clone())?;
            assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, *first), "the original's answer");
        }
        assert_eq!(script.end_of(next)?, Offset(10), "and nothing twice");
        // A retry of a batch that is above the high watermark waits like the original.
        let followers = script.followers()?;
        for follower in &followers {
            script.cut_brokers(next, *follower);
        }
        let batch = script.idempotent_batch(1)?;
        let (original, retry) = (script.send(next, -1, batch.clone())?, script.send(next, -1, batch)?);
        script.run_ms(300)?;
        assert_eq!((script.answer(original), script.answer(retry)), (None, None));
        script.heal();
        script.run_ms(2_000)?;
        let told = (script.answer(original), script.answer(retry));
        assert_eq!(told.0, told.1);
        assert_eq!(told.0.map(|answer| (answer.error, answer.base_offset)), Some((ErrorCode::None, Offset(10))));
        script.converge()
    };
    story().expect("the new leader knows every producer");
}

#[test]
fn scenario_16_one_way_networks() {
    // From the leader to the quorum; from the quorum to it; to its peers; from its peers.
    for way in 0..4 {
        let story = || -> Step {
            let config =
                WorldConfig { replica_lag_time_max: std::time::Duration::from_secs(2), ..WorldConfig::small() };
            let mut script = Script::new(16 + way, config)?;
            script.write(3)?;
            let leader = NodeId::Broker(script.leader()?);
            let epoch = script.leader_epoch()?;
            let others: Vec<_> = script.world.all_servers().filter(|other| *other != leader).collect();
            for other in others {
                let is_quorum = matches!(other, NodeId::Coordinator(_));
                match (way, is_quorum) {
                    (0, true) | (2, false) => script.world.network.cut(leader, other),
                    (1, true) | (3, false) => script.world.network.cut(other, leader),
                    _ => {}
                }
            }
            script.run_ms(15_000)?;
            let changes = script.leader_epoch()?.0 - epoch.0;
            assert!(changes <= 2, "way {way}: leadership flaps, {changes} changes in 15 s");
            script.heal();
            script.converge()?;
            script.write(3)
        };
        story().unwrap_or_else(|error| panic!("way {way}: {error}"));
    }
}

#[test]
fn scenario_19_wall_clocks_jump() {
    let story = || -> Step {
        let mut script = Script::new(19, WorldConfig::small())?;
        script.write(2)?;
        let epoch = script.leader_epoch()?;
        let nodes: Vec<_> = script.world.all_servers().collect();
        for (number, node) in nodes.into_iter().enumerate() {
            let sign = if number % 2 == 0 { 1 } else { -1 };
            script.world.set_wall_clock(node, sign * 400 * 24 * 3_600_000);
            script.write(1)?;
            script.run_ms(1_000)?;
        }
        assert_eq!(script.leader_epoch()?, epoch, "sessions and elections do not look at the wall");
        script.converge()
    };
    story().expect("a wall clock moves nothing");
}

/// The story of scenario 37 under `rules`: another replica's ISR change arrives between a follower's question for its
/// leader's bounds and the answers.
fn news_between_question_and_answer(seed: u64, fetcher_rules: FetcherRules) -> Step {
    let replica_lag_time_max = Duration::from_secs(1);
    let config = WorldConfig { fetcher_rules, replica_lag_time_max, min_isr: 1, ..WorldConfig::small() };
    let mut script = Script::new(seed, config)?;
    script.write(5)?;
    let (leader, followers) = (script.leader()?, script.followers()?);
    let (behind, other) = (followers[0], followers[1]);
    script.cut_brokers(leader, behind);
    let partition = script.partition()?;
    script.write_hastily(leader, 1)?;
    script.wait("the ISR to shrink", move |world| {
        let state = world.newest_image().and_then(|image| image.partition(partition));
        state.is_some_and(|state| !state.in_isr(BrokerId(behind)))
    })?;
    script.write(5)?;
    script.run_ms(500)?;
    script.world.delete_records(partition, 100)?;
    script.world.late_bounds_until = script.world.now.plus_ms(60_000);
    script.world.network.heal();
    script.wait("the follower to ask for bounds", move |world| {
        let replica = world.brokers.get(&behind).and_then(|node| node.replica(partition));
        replica.and_then(|replica| replica.follower()).is_some_and(Follower::awaits_bounds)
    })?;
    script.kill(other);
    script.wait_fenced(other)?;
    script.run_ms(2_500)?;
    script.start(other);
    script.heal();
    script.converge()
}

#[test]
fn scenario_37_news_between_a_question_and_its_answer() {
    for seed in 0..10 {
        news_between_question_and_answer(seed, FetcherRules::default()).expect("the follower fetches again");
    }
    let broken = FetcherRules { change_drops_waiting: true, ..FetcherRules::default() };
    let noticed = (0..10).find_map(|seed| news_between_question_and_answer(seed, broken).err());
    let Violation(what) = noticed.expect("the rule is taken out");
    assert!(what.contains("does not fetch it any more"), "{what}");
}

/// The partitions of `answers` answers in one session whose limits are smaller than any batch, under `rules`. Both
/// partitions always have records.
fn served_in_turn(rules: FetchRules, answers: i32) -> Step<Vec<i32>> {
    let replication = ReplicationRules { fetch_sessions: rules, ..ReplicationRules::default() };
    let rules = BrokenRules { replication, ..BrokenRules::default() };
    let one =
        WorldConfig { brokers: 1, partitions: 2, replication_factor: 1, min_isr: 1, rules, ..WorldConfig::small() };
    let mut script = Script::new(39, one)?;
    let broker = NodeId::Broker(script.leader()?);
    let partitions = script.world.partitions();
    for (number, partition) in (0..).zip(partitions.iter().cycle().take(40)) {
        let batch = script.batch(2)?;
        let produce = Produce { partition: *partition, acks: 1, batch, timeout_ms: 1_000, is_confirmed: false };
        script.world.send(SCRIPT, broker, Message::Produce { call: CallId(5_000 + number), produce });
        script.run_ms(20)?;
    }
    let position = |offset| FetchPosition {
        leader_epoch: LeaderEpoch::NONE,
        offset,
        last_fetched_epoch: LeaderEpoch::NONE,
        log_start: Offset::UNKNOWN,
        high_watermark: None,
    };
    let (mut session, mut served) = (SessionRef { id: 0, epoch: 0 }, Vec::new());
    let mut named: Vec<_> = partitions.iter().map(|partition| (*partition, position(Offset(0)))).collect();
    for number in 0..answers {
        let call = CallId(6_000 + u64::from(number.unsigned_abs()));
        let fetch = Fetch {
            replica: None,
            session,
            partitions: std::mem::take(&mut named),
            forgotten: Vec::new(),
            max_wait_ms: 100,
            bytes: FetchBytes { answer_max: 10, partition_max: 10 },
            reads_committed: false,
            rack: None,
        };
        script.world.send(SCRIPT, broker, Message::Fetch { call, fetch });
        script.run_ms(300)?;
        for (_, message) in std::mem::take(&mut script.world.inbox) {
            let Message::FetchAnswer { call: answered, session_id, partitions, .. } = message else { continue };
            if answered != call {
                continue;
            }
            session = SessionRef { id: session_id, epoch: number + 1 };
            for (partition, answer) in partitions {
                if let Some(last) = Batches::new(&answer.records).map_while(Result::ok).last() {
                    served.push(partition.partition.0);
                    named.push((partition, position(last.header.next_offset())));
                }
            }
        }
    }
    Ok(served)
}

#[test]
fn scenario_39_a_partition_that_waits_comes_before_one_that_was_served() {
    let fair = served_in_turn(FetchRules::default(), 6).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fair, [0, 1, 0, 1, 0, 1]);
    // Fault A2: the first one always has records, so the other is never reached.
    let rules = FetchRules { served_keeps_its_place: true, ..FetchRules::default() };
    let unfair = served_in_turn(rules, 6).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(unfair, [0; 6]);
}
