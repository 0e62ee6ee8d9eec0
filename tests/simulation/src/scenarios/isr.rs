//! Scenarios 4–8, 52: who is in an ISR, and who stays eligible.

use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::ConfigEntity;
use ottla_metadata::controller::{AlterConfig, AlterConfigs, BrokenRules as ControllerRules, ConfigOp, Request};
use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, Offset};
use ottla_partition::BrokenRules;
use ottla_replication::FetchPosition;

use crate::invariants::Violation;
use crate::message::{CallId, Fetch, FetchBytes, Message, SessionRef};
use crate::network::NodeId;
use crate::script::{Script, Step};
use crate::world::{SCRIPT, WorldConfig};

#[test]
fn scenario_04_stale_follower_does_not_join_the_isr() {
    let story = || -> Step {
        let mut script = Script::new(4, WorldConfig::small())?;
        script.write(5)?;
        let (leader, follower) = (script.leader()?, script.followers()?[0]);
        let old_epoch = script.broker(follower)?.active_epoch();
        script.kill(follower);
        script.wait_fenced(follower)?;
        script.write(5)?;
        let end = script.end_of(leader)?;
        // It comes back, registered anew, but cannot reach the leader; a fetch of its former life arrives.
        script.cut_brokers(leader, follower);
        script.start(follower);
        script.wait("a new registration", |world| {
            world.brokers.get(&follower).and_then(|node| node.active_epoch()) > old_epoch
        })?;
        script.run_ms(500)?;
        let partition = script.partition()?;
        let position = FetchPosition {
            leader_epoch: script.leader_epoch()?,
            offset: end,
            last_fetched_epoch: LeaderEpoch::NONE,
            log_start: Offset(0),
            high_watermark: None,
        };
        let fetch = Fetch {
            replica: old_epoch.map(|epoch| (BrokerId(follower), epoch)),
            session: SessionRef::NONE,
            partitions: vec![(partition, position)],
            forgotten: Vec::new(),
            max_wait_ms: 100,
            bytes: FetchBytes::WIDE,
            reads_committed: false,
            rack: None,
        };
        script.world.send(SCRIPT, NodeId::Broker(leader), Message::Fetch { call: CallId(4_000), fetch });
        script.run_ms(500)?;
        let answer = script.world.inbox.iter().find_map(|(_, message)| match message {
            Message::FetchAnswer { call: CallId(4_000), partitions, .. } => {
                partitions.first().map(|(_, answer)| answer.error)
            }
            _ => None,
        });
        assert_eq!(answer, Some(ErrorCode::NotLeaderOrFollower));
        assert!(!script.isr()?.contains(&follower));
        script.heal();
        script.converge()
    };
    story().expect("the former life's fetch counts for nothing");
}

#[test]
fn scenario_05_a_fenced_replica_is_neither_counted_nor_waited_for() {
    let story = || -> Step {
        let mut script = Script::new(5, WorldConfig::small())?;
        let follower = script.followers()?[0];
        // It fetches on, but the quorum hears nothing of it.
        script.cut_from_quorum(follower);
        script.wait_fenced(follower)?;
        script.run_ms(300)?;
        script.write(10)?;
        assert!(!script.isr()?.contains(&follower));
        script.run_ms(2_000)?;
        assert!(!script.isr()?.contains(&follower), "the quorum refuses it while it is fenced");
        script.write(5)?;
        script.heal();
        script.converge()
    };
    story().expect("a fenced replica holds nobody up");
}

#[test]
fn scenario_06_last_replica_standing() {
    let story = || -> Step {
        let mut script = Script::new(6, WorldConfig::small())?;
        script.write(5)?;
        let (leader, followers) = (script.leader()?, script.followers()?);
        script.kill(followers[0]);
        script.kill(followers[1]);
        script.wait_fenced(followers[0])?;
        script.wait_fenced(followers[1])?;
        script.run_ms(300)?;
        let hw = script.hw_of(leader)?;
        // Alone and below min ISR: what it takes is not committed, and acks=all is refused.
        script.write_hastily(leader, 5)?;
        let batch = script.batch(1)?;
        assert_eq!(script.produce(leader, -1, batch)?.error, ErrorCode::NotEnoughReplicas);
        assert_eq!(script.hw_of(leader)?, hw, "the high watermark stands still");
        script.lose_power(leader);
        script.start(followers[0]);
        script.start(followers[1]);
        script.start(leader);
        script.converge()?;
        assert!(script.end_of(script.leader()?)? >= hw);
        Ok(())
    };
    story().expect("nothing that was committed is lost");
}

#[test]
fn scenario_06_an_eligible_replica_wins_over_a_sole_member_that_lost_its_tail() {
    let story = |seed| -> Step {
        let config = WorldConfig { brokers: 2, replication_factor: 2, ..WorldConfig::small() };
        let mut script = Script::new(seed, config)?;
        script.write(10)?;
        let (leader, follower) = (script.leader()?, script.followers()?[0]);
        script.kill(follower);
        script.wait_fenced(follower)?;
        script.run_ms(200)?;
        assert_eq!(script.state()?.elr, [BrokerId(follower)], "it has everything up to the high watermark");
        script.lose_power(leader);
        script.start(leader);
        script.start(follower);
        script.converge()?;
        assert!(script.end_of(follower)? >= Offset(20));
        Ok(())
    };
    ottla_test_support::each_seed(0..8, |seed| {
        story(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    });
}

/// The leader and one follower are cut off from the rest. The leader asks to be rid of the other follower, which the
/// quorum, without an answer to that, elects.
fn unanswered_shrink_story(seed: u64, rules: BrokenRules) -> Step {
    let config = WorldConfig { replica_lag_time_max: Duration::from_secs(1), rules, ..WorldConfig::small() };
    let mut script = Script::new(seed, config)?;
    script.write(3)?;
    let (leader, followers) = (script.leader()?, script.followers()?);
    let (loyal, other) = (followers[0], followers[1]);
    script.cut_from_quorum(leader);
    script.cut_from_quorum(loyal);
    script.cut_brokers(leader, other);
    script.cut_brokers(loyal, other);
    let mut sent = Vec::new();
    for _ in 0..10 {
        let batch = script.batch(2)?;
        sent.push(script.send(leader, -1, batch)?);
        script.run_ms(1_000)?;
    }
    assert_eq!(script.leader()?, other, "it alone is live");
    let errors: Vec<_> = sent.iter().filter_map(|call| script.answer(*call)).map(|answer| answer.error).collect();
    if errors.contains(&ErrorCode::None) {
        return Err(Violation(format!("a leader that the quorum has replaced acknowledged records: {errors:?}")));
    }
    script.heal();
    script.converge()
}

#[test]
fn scenario_07_an_isr_shrink_that_is_not_answered() {
    ottla_test_support::each_seed(0..5, |seed| {
        unanswered_shrink_story(seed, BrokenRules::default()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    });
    let rules = BrokenRules { silence_grants_isr_changes: true, ..BrokenRules::default() };
    let Violation(what) = unanswered_shrink_story(0, rules).expect_err("the rule is taken out");
    assert!(what.contains("acknowledged records"), "{what}");
}

#[test]
fn scenario_08_the_answer_of_an_isr_change_is_lost() {
    let story = || -> Step {
        let mut script = Script::new(8, WorldConfig::small())?;
        let (leader, follower) = (script.leader()?, script.followers()?[0]);
        script.kill(follower);
        script.wait_fenced(follower)?;
        script.write(3)?;
        // The follower is back, and the leader's image knows; it cannot fetch yet.
        script.cut_brokers(leader, follower);
        script.start(follower);
        script.wait("the leader's image to show the follower", |world| {
            let image = world.brokers.get(&leader).and_then(|node| node.image());
            image.and_then(|image| image.broker(BrokerId(follower))).is_some_and(|broker| broker.is_active())
        })?;
        // From now on the leader's requests arrive; the answers do not, and its image stands still.
        for id in 1..=3 {
            script.world.network.cut(NodeId::Coordinator(id), NodeId::Broker(leader));
        }
        script.world.network.heal_between(NodeId::Broker(leader), NodeId::Broker(follower));
        script.wait("the change to be decided", |world| {
            world.newest_image().is_some_and(|image| {
                image.topics().all(|topic| topic.partitions().all(|(_, state)| state.in_isr(BrokerId(follower))))
            })
        })?;
        let pending = script.replica(leader)?.leader().map(|leading| leading.isr().pending().is_some());
        assert_eq!(pending, Some(true), "the leader does not know");
        script.heal();
        script.converge()
    };
    story().expect("the retry recognises its own success");
}

/// The leader's configuration changed twice, but not its min.insync.replicas. It is cut off, coordinators start anew,
/// and the last follower ends before it. What was acknowledged is on that follower: it leads when it is back, though
/// the leader is not.
fn last_follower_story(seed: u64, controller_rules: ControllerRules) -> Step {
    let mut script = Script::new(seed, WorldConfig { controller_rules, ..WorldConfig::small() })?;
    let (leader, followers) = (script.leader()?, script.followers()?);
    let entity = ConfigEntity::broker(BrokerId(leader));
    for (call, op) in (52_000..).zip([ConfigOp::Set("2".to_owned()), ConfigOp::Set("3".to_owned())]) {
        let before = script.world.newest_image().map(|image| image.revision());
        let changes = vec![("log.cleaner.threads".to_owned(), op)];
        let alter = AlterConfig { entity: entity.clone(), changes, replace_all: false };
        let request = Request::AlterConfigs(AlterConfigs { entities: vec![alter], validate_only: false });
        let quorum_leader = NodeId::Coordinator(script.quorum_leader()?);
        let message = Message::Cluster { call: CallId(call), request: Arc::new(request) };
        script.world.send(SCRIPT, quorum_leader, message);
        script.wait("the configuration to change", |world| {
            let image = world.newest_image();
            image.is_some_and(|image| image.config(&entity).is_some_and(|config| Some(config.modified) > before))
        })?;
    }
    let [first, last] = followers[..] else { return Err(Violation(format!("two followers: {followers:?}"))) };
    script.kill(first);
    script.wait_fenced(first)?;
    script.write(5)?;
    script.cut_from_quorum(leader);
    for id in 1..=script.world.config.coordinators {
        script.world.kill(NodeId::Coordinator(id));
        script.world.start_after(NodeId::Coordinator(id), 10);
    }
    script.wait("a quorum leader", |world| world.coordinators.values().any(|node| node.is_leading()))?;
    script.kill(last);
    script.wait_fenced(last)?;
    script.lose_power(leader);
    script.start(last);
    script.wait_leads(last)
}

#[test]
fn scenario_52_the_last_follower_of_a_leader_whose_configuration_changed_stays_eligible() {
    ottla_test_support::each_seed(0..5, |seed| {
        last_follower_story(seed, ControllerRules::default()).expect("the follower leads");
    });
    let broken = ControllerRules { min_insync_replicas_revision_is_not_kept: true, ..ControllerRules::default() };
    let Violation(what) = last_follower_story(0, broken).expect_err("the rule is taken out");
    assert!(what.contains("waited in vain for"), "{what}");
}
