//! Some hundred seeds of groups, and the promise that a seed tells the same story every time.

use crate::groups::runner::run;
use crate::scenarios::seeds::hold;

const SEEDS: u64 = 300;

#[test]
fn group_seeds_hold() {
    hold(SEEDS, |seed| {
        let report = run(seed, false);
        report.failure.is_some().then(|| report.to_string())
    });
}

#[test]
fn a_group_seed_replays_to_the_byte() {
    for seed in [3, 17] {
        let (first, second) = (run(seed, false), run(seed, false));
        assert_eq!(first, second);
        assert!(first.events > 1_000 && first.acknowledged > 10 && first.fetches > 10, "{first}");
    }
}
