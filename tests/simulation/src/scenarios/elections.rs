//! Leaderships return to preferred replicas while faults go on, and nothing is lost; unclean elections lose records,
//! and tell it.

use std::time::Duration;

use ottla_metadata::image::LeaderSettings;

use crate::faults::{FaultPlan, Kind};
use crate::random::Random;
use crate::runner::run_with;
use crate::script::{Script, Step};
use crate::world::WorldConfig;

/// Scenario 46: brokers are killed, fenced and cut off, and lead again as soon as they are in sync.
#[test]
fn scenario_46_leaderships_that_return_lose_nothing() {
    let kinds = [Kind::KillBroker, Kind::FenceBroker, Kind::CutLink, Kind::PowerLossOfBroker];
    let plan = FaultPlan::of(&kinds, (30, 400), (100, 3_000));
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let leaders = LeaderSettings { rebalance_interval_s: 2, ..LeaderSettings::default() };
        let config = WorldConfig { leaders, ..WorldConfig::draw(&mut random) };
        let report = run_with(seed, config, &plan, random, false);
        assert_eq!(report.failure, None, "seed {seed}");
    }
}

/// The leader alone has the last records that were acknowledged, and is killed. Returns who it was.
fn last_member_dies(script: &mut Script) -> Step<i32> {
    let leader = script.leader()?;
    script.write(3)?;
    for follower in script.followers()? {
        script.cut_brokers(leader, follower);
    }
    // Without a record that they lack they would stay in the ISR.
    script.write_hastily(leader, 1)?;
    script.wait("the leader to be alone", |world| {
        let state = world.partitions().first().and_then(|id| world.newest_image()?.partition(*id).cloned());
        state.is_some_and(|state| state.is_sole_member(state.leader))
    })?;
    script.write(2)?;
    script.kill(leader);
    Ok(leader)
}

fn alone(unclean_election: Option<bool>) -> WorldConfig {
    let replica_lag_time_max = Duration::from_secs(1);
    WorldConfig { min_isr: 1, replica_lag_time_max, unclean_election, ..WorldConfig::small() }
}

/// The story of seed 004: the others go on without the records; the former leader gives them up, and it is told.
#[test]
fn scenario_63_an_unclean_election_loses_what_it_tells_of() -> Step {
    let mut script = Script::new(71, alone(Some(true)))?;
    let former = last_member_dies(&mut script)?;
    let next = script.wait_other_leader(former)?;
    assert_eq!(script.world.unclean_elections(), 1);
    script.heal();
    script.write(2)?;
    script.start(former);
    script.converge()?;
    assert!(!script.state()?.is_recovering());
    assert_eq!(script.end_of(former)?, script.end_of(next)?);
    script.world.check_told()
}

/// Without it the partition waits, for its last member or for an operator.
#[test]
fn a_partition_waits_until_an_unclean_election_is_demanded() -> Step {
    let mut script = Script::new(72, alone(None))?;
    let former = last_member_dies(&mut script)?;
    script.wait_fenced(former)?;
    script.run_ms(5_000)?;
    assert!(!script.state()?.has_leader());
    assert_eq!((script.world.for_people(), script.world.unclean_elections()), (1, 0));
    script.world.elect_unclean();
    script.wait_other_leader(former)?;
    assert_eq!(script.world.unclean_elections(), 1);
    script.heal();
    script.start(former);
    script.converge()?;
    script.world.check_told()
}

/// Scenario 63 with everything that can happen meanwhile: what is lost was allowed to be, and was told.
#[test]
fn unclean_elections_under_faults_are_allowed_and_told() {
    let kinds = [Kind::KillBroker, Kind::FenceBroker, Kind::CutLink, Kind::PowerLossOfBroker, Kind::ElectUnclean];
    let kinds = [&kinds[..], &[Kind::KillCoordinator, Kind::CrashCoordinatorMidway, Kind::Reassign]].concat();
    let mut plan = FaultPlan::of(&kinds, (30, 400), (100, 3_000));
    plan.keeps_promise = false;
    let mut elections = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let unclean_election = (seed % 3 > 0).then_some(true);
        let config = WorldConfig { unclean_election, ..WorldConfig::draw(&mut random) };
        let report = run_with(seed, config, &plan, random, false);
        assert_eq!(report.failure, None, "seed {seed}");
        elections += report.unclean_elections;
    }
    assert!(elections > 30, "{elections} unclean elections");
}
