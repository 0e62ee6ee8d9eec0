//! Some hundred seeds of transactions, and the rules without which a seed fails.

use ottla_transaction_coordinator::config::BrokenRules;

use super::runner::run;
use crate::scenarios::seeds::hold;

const SEEDS: u64 = 300;
/// A broken rule is noticed by one of so many seeds.
const SEEDS_UNTIL_NOTICED: u64 = 200;

#[test]
fn transaction_seeds_hold() {
    hold(SEEDS, |seed| {
        let report = run(seed, BrokenRules::default(), false);
        report.failure.is_some().then(|| report.to_string())
    });
}

#[test]
fn a_transaction_seed_replays_to_the_byte() {
    for seed in [3, 17] {
        let (first, second) = (run(seed, BrokenRules::default(), false), run(seed, BrokenRules::default(), false));
        assert_eq!(first, second);
        assert!(first.events > 1_000 && first.commits > 10 && first.aborts > 3 && first.markers > 20, "{first}");
    }
}

fn is_noticed(broken_rules: BrokenRules) -> bool {
    (0..SEEDS_UNTIL_NOTICED).any(|seed| run(seed, broken_rules, false).failure.is_some())
}

#[test]
fn markers_before_the_decision_is_replicated_are_noticed() {
    assert!(is_noticed(BrokenRules { marker_before_decision: true, ..BrokenRules::default() }));
}

#[test]
fn an_abort_that_leaves_the_epoch_is_noticed() {
    assert!(is_noticed(BrokenRules { no_epoch_bump: true, ..BrokenRules::default() }));
}
