//! Scenarios 44 and 47: a log directory whose disk does not answer, or fails.

use ottla_model::{BrokerId, ErrorCode, Offset};
use ottla_partition::BrokenRules;
use ottla_storage::env::Faults;

use crate::script::{Script, Step};
use crate::world::{World, WorldConfig};

/// Longer than a script waits for anything.
const STALL_MS: u64 = 90_000;

fn config(rules: BrokenRules) -> WorldConfig {
    WorldConfig { log_dirs: 2, rules, ..WorldConfig::small() }
}

/// The disk of the leader's directory does not answer, and a write waits for it.
fn leader_story(seed: u64, rules: BrokenRules) -> Step {
    let mut script = Script::new(seed, config(rules))?;
    script.write(5)?;
    let (leader, epoch) = (script.leader()?, script.leader_epoch()?);
    let directory = script.replica(leader)?.directory;
    script.world.stall_disk(leader, directory, STALL_MS);
    let batch = script.batch(2)?;
    let held = script.send(leader, -1, batch)?;
    script.wait_other_leader(leader)?;
    script.write(5)?;
    assert!(script.world.is_running(crate::network::NodeId::Broker(leader)), "it goes on with its other directory");
    assert_eq!(script.answer(held), None, "its write does not return");
    assert_eq!(script.replica(leader)?.core.leading_epoch(), epoch, "and holds its lock");
    script.world.stall_disk(leader, directory, 0);
    script.converge()?;
    let answer = script.answer(held).map(|answer| answer.error);
    assert_eq!(answer, Some(ErrorCode::NotLeaderOrFollower), "the write ended in an epoch that was over");
    assert_eq!(script.end_of(leader)?, Offset(20), "what it wrote is cut off");
    Ok(())
}

/// The disk of a follower's directory does not answer.
fn follower_story(seed: u64) -> Step {
    let mut script = Script::new(seed, config(BrokenRules::default()))?;
    script.write(2)?;
    let follower = script.followers()?[0];
    let directory = script.replica(follower)?.directory;
    script.world.stall_disk(follower, directory, STALL_MS);
    let leader = script.leader()?;
    script.write_hastily(leader, 5)?;
    script.wait("it to leave the ISR", |world| {
        let state = world.partitions().first().and_then(|id| world.newest_image()?.partition(*id));
        state.is_some_and(|state| !state.in_isr(BrokerId(follower)))
    })?;
    script.write(2)?;
    script.world.stall_disk(follower, directory, 0);
    script.converge()?;
    assert_eq!(script.end_of(follower)?, Offset(18), "it has caught up");
    Ok(())
}

#[test]
fn scenario_44_a_directory_that_does_not_answer_gives_up_its_leaderships() {
    ottla_test_support::each_seed(0..10, |seed| {
        leader_story(seed, BrokenRules::default()).unwrap_or_else(|error| panic!("seed {seed}, leader: {error}"));
        follower_story(seed).unwrap_or_else(|error| panic!("seed {seed}, follower: {error}"));
    });
    let rules = BrokenRules { stalled_directory_leads: true, ..BrokenRules::default() };
    let failure = leader_story(0, rules).expect_err("the rule is taken out");
    assert!(failure.0.contains("another leader than"), "{failure}");
}

/// A partition comes to a broker, to a directory that does not answer; it leaves, and comes back to another directory.
/// What waits for the first disk is of a replica that is gone (seed 17459).
fn comes_back_elsewhere_story(seed: u64) -> Step {
    let mut script = Script::new(seed, WorldConfig { brokers: 4, ..config(BrokenRules::default()) })?;
    script.write(5)?;
    let (partition, replicas) = (script.partition()?, script.state()?.replicas);
    let newcomer = (1..=4).find(|id| !replicas.contains(&BrokerId(*id))).unwrap_or(0);
    let with_newcomer: Vec<_> = replicas.iter().copied().chain([BrokerId(newcomer)]).collect();
    let directory_of = move |world: &World| {
        let replica = world.brokers.get(&newcomer).and_then(|broker| broker.replica(partition));
        replica.map(|replica| replica.directory)
    };
    script.world.stall_disk(newcomer, 0, STALL_MS);
    script.world.reassign(partition, Some(with_newcomer.clone()));
    script.wait("its first replica", |world| directory_of(world) == Some(0))?;
    script.world.reassign(partition, Some(replicas));
    script.wait("its end", |world| directory_of(world).is_none())?;
    script.world.reassign(partition, Some(with_newcomer));
    script.wait("its second replica", |world| directory_of(world) == Some(1))?;
    script.converge()?;
    script.write(5)?;
    script.world.stall_disk(newcomer, 0, 0);
    script.run_ms(3_000)?;
    script.converge()?;
    assert_eq!((script.replica(newcomer)?.directory, script.end_of(newcomer)?), (1, Offset(20)));
    Ok(())
}

#[test]
fn scenario_44_a_replica_that_left_a_directory_that_does_not_answer_is_gone_when_it_answers() {
    ottla_test_support::each_seed(0..10, |seed| {
        comes_back_elsewhere_story(seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    });
}

/// The disk of the leader's directory fails.
fn failed_leader_story(seed: u64, rules: BrokenRules) -> Step {
    let mut script = Script::new(seed, config(rules))?;
    script.write(5)?;
    let leader = script.leader()?;
    let directory = script.replica(leader)?.directory;
    let dead = Faults { io_error_ppm: 1_000_000, sync_error_ppm: 1_000_000, ..Faults::NONE };
    script.world.break_disk(leader, directory, dead, STALL_MS);
    let batch = script.batch(2)?;
    assert_eq!(script.produce(leader, 1, batch)?.error, ErrorCode::KafkaStorageError);
    script.wait_other_leader(leader)?;
    script.write(5)?;
    assert!(script.world.is_running(crate::network::NodeId::Broker(leader)), "it goes on with its other directory");
    script.kill(leader);
    script.world.break_disk(leader, directory, Faults::NONE, 0);
    script.start(leader);
    script.converge()?;
    assert_eq!(script.end_of(leader)?, Offset(20), "it has caught up");
    Ok(())
}

#[test]
fn scenario_47_a_directory_that_fails_gives_up_its_leaderships() {
    ottla_test_support::each_seed(0..10, |seed| {
        failed_leader_story(seed, BrokenRules::default()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    });
    let rules = BrokenRules { failed_directory_goes_on: true, ..BrokenRules::default() };
    let failure = failed_leader_story(0, rules).expect_err("the rule is taken out");
    assert!(failure.0.contains("another leader than"), "{failure}");
}
