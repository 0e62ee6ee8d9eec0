//! Some hundred seeds of groups, and the promise that a seed tells the same story every time.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::groups::runner::run;

const SEEDS: u64 = 300;

#[test]
fn group_seeds_hold() {
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        break;
                    }
                    let report = run(seed, false);
                    if report.failure.is_some() {
                        failures.lock().push(report.to_string());
                    }
                }
            });
        }
    });
    let failures = failures.into_inner();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn a_group_seed_replays_to_the_byte() {
    for seed in [3, 17] {
        let (first, second) = (run(seed, false), run(seed, false));
        assert_eq!(first, second);
        assert!(first.events > 1_000 && first.acknowledged > 10 && first.fetches > 10, "{first}");
    }
}
