//! `ottla-simulation --seed N [--steps]` replays one seed; `--seeds N [--from K]` runs many.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser as _;
use ottla_simulation::arguments::Arguments;

#[allow(clippy::print_stdout, reason = "a tool's output")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let reports = arguments.reports_of(seed, arguments.steps);
        reports.iter().for_each(|(report, _)| println!("{report}"));
        let failed = reports.iter().any(|(_, failed)| *failed);
        return if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let threads =
        arguments.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let end = arguments.from + arguments.seeds;
    let next = AtomicU64::new(arguments.from);
    let failures = AtomicU64::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    for (report, failed) in arguments.reports_of(seed, false) {
                        if failed {
                            failures.fetch_add(1, Ordering::Relaxed);
                            println!("{report}\n");
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner();
    println!(
        "{} seeds from {}, {failures} failed, {:.1} s",
        arguments.seeds,
        arguments.from,
        begun.elapsed().as_secs_f64()
    );
    if failures > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
