//! Partitions get other replicas while faults go on, and nothing is lost.

use crate::faults::{FaultPlan, Kind};
use crate::random::Random;
use crate::runner::run_with;
use crate::world::WorldConfig;

fn moves_lose_nothing(kinds: &[Kind], outage_ms: (u64, u64)) {
    let plan = FaultPlan::of(kinds, (30, 400), outage_ms);
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let config = WorldConfig { brokers: 5, ..WorldConfig::draw(&mut random) };
        let report = run_with(seed, config, &plan, random, false);
        assert_eq!(report.failure, None, "seed {seed}");
    }
}

/// Scenario 48: replicas come and go, and come again with an empty log, while brokers are killed, fenced and cut off.
#[test]
fn scenario_48_replicas_that_come_and_go_lose_nothing() {
    let moves = [Kind::Reassign, Kind::CancelReassignment];
    let faults = [Kind::KillBroker, Kind::FenceBroker, Kind::CutLink, Kind::PowerLossOfBroker, Kind::Weather];
    moves_lose_nothing(&[moves.as_slice(), faults.as_slice()].concat(), (100, 3_000));
}

/// Scenario 49: a broker is away while its replicas are moved elsewhere, and perhaps back: its old logs are not
/// believed.
#[test]
fn scenario_49_logs_of_replicas_that_were_moved_away_are_not_believed() {
    let kinds =
        [Kind::Reassign, Kind::CancelReassignment, Kind::KillBroker, Kind::ShutDownBroker, Kind::StallDirectory];
    moves_lose_nothing(&kinds, (2_000, 6_000));
}

/// Scenario 64: every broker takes one replica at a time, whatever is asked for, and the quorum's leaders change.
#[test]
fn scenario_64_large_plans_go_on_in_waves_whoever_leads_the_quorum() {
    let kinds = [Kind::ReassignAll, Kind::CancelReassignment, Kind::KillBroker, Kind::KillCoordinator, Kind::CutLink];
    let plan = FaultPlan::of(&kinds, (30, 800), (100, 2_000));
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let config = WorldConfig {
            brokers: 5,
            partitions: 3,
            reassignments_per_broker_max: 1,
            ..WorldConfig::draw(&mut random)
        };
        let report = run_with(seed, config, &plan, random, false);
        assert_eq!(report.failure, None, "seed {seed}");
    }
}
