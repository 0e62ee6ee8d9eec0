//! Leaderships return to preferred replicas while faults go on, and nothing is lost.

use ottla_metadata::image::LeaderSettings;

use crate::faults::{FaultPlan, Kind};
use crate::random::Random;
use crate::runner::run_with;
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
