//! Some hundred seeds, and the promise that a seed tells the same story every time.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::runner::{Options, run};
use crate::security::{Counts, SecurityConfig};

/// As many as a minute or so allows on two busy cores.
const SEEDS: u64 = 2_500;

#[test]
fn seeds_hold() {
    hold(SEEDS, |seed| {
        let report = run(seed, Options::default());
        report.failure.is_some().then(|| report.to_string())
    });
}

#[test]
fn seeds_with_transactions_hold() {
    hold(SEEDS / 10, |seed| {
        let report = run(seed, Options { transactors: 2, ..Options::default() });
        report.failure.is_some().then(|| report.to_string())
    });
}

/// Processes of two releases side by side, and the level goes up and down.
#[test]
fn scenario_60_two_releases_run_side_by_side() {
    hold(SEEDS / 10, |seed| {
        let report = run(seed, Options { releases: true, ..Options::default() });
        report.failure.is_some().then(|| report.to_string())
    });
}

/// Runs every seed below `count` on all cores, or those that `SEED` and `SEEDS` name; `failure` tells what went wrong
/// with one.
pub(crate) fn hold(count: u64, failure: impl Fn(u64) -> Option<String> + Sync) {
    let seeds = ottla_test_support::seeds(0..count);
    let next = AtomicU64::new(seeds.start);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    if let Some(told) = failure(seed) {
                        failures.lock().push(told);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn a_seed_replays_to_the_byte() {
    // The last two have security.
    for seed in [3, 17, 42, 6, 7] {
        let (first, second) = (run(seed, Options::default()), run(seed, Options::default()));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first, second);
        assert!(first.events > 1_000 && first.checks > 100, "{first}");
    }
}

/// What the checks of security look at does happen.
#[test]
fn one_seed_of_four_has_security() {
    let secured: Vec<u64> = (0..4_000).filter(|seed| SecurityConfig::of_seed(*seed).is_some()).collect();
    assert!((900..1_100).contains(&secured.len()), "{}", secured.len());
    let mut total = Counts::default();
    for seed in secured.into_iter().take(20) {
        let report = run(seed, Options::default());
        let counts = report.security.unwrap_or_default();
        assert!(counts.changes > 0 && counts.compared > 0, "{report}");
        total.allowed += counts.allowed;
        total.refused += counts.refused;
        total.logins += counts.logins;
        total.refused_logins += counts.refused_logins;
        total.uncertain += counts.uncertain;
        total.forged += counts.forged;
    }
    for count in [total.allowed, total.refused, total.logins, total.refused_logins, total.uncertain, total.forged] {
        assert!(count > 0, "{total}");
    }
}
