//! `ottla-simulation --seed N [--steps]` replays one seed; `--seeds N [--from K]` runs many.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use ottla_simulation::runner::{Options, run};
use ottla_simulation::transactions::runner::BrokenRules;
use ottla_simulation::{groups, transactions};

#[derive(Parser)]
#[command(about = "Simulates whole clusters under faults, seed by seed")]
struct Arguments {
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every step of it.
    #[arg(long)]
    steps: bool,
    /// Run so many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only the groups, which are the smaller part.
    #[arg(long)]
    groups: bool,
    /// Only the transactions, which are a small part too.
    #[arg(long, conflicts_with = "groups")]
    transactions: bool,
    /// So many producers of transactions in each cluster.
    #[arg(long, default_value_t = 0)]
    transactors: u32,
    /// Processes of two releases in each cluster.
    #[arg(long)]
    releases: bool,
    /// Only the clusters: brokers, coordinators and clients.
    #[arg(long, conflicts_with_all = ["groups", "transactions"])]
    clusters: bool,
    /// Threads, each with a seed of its own at a time.
    #[arg(long)]
    threads: Option<usize>,
}

impl Arguments {
    /// What a seed came to in each part, and whether it failed.
    fn reports_of(&self, seed: u64, prints: bool) -> Vec<(String, bool)> {
        let (all, mut reports) = (!self.groups && !self.transactions && !self.clusters, Vec::new());
        if all || self.clusters {
            let options =
                Options { prints, transactors: self.transactors, releases: self.releases, ..Options::default() };
            let report = run(seed, options);
            reports.push((report.to_string(), report.failure.is_some()));
        }
        if all || self.groups {
            let report = groups::runner::run(seed, prints);
            reports.push((report.to_string(), report.failure.is_some()));
        }
        if all || self.transactions {
            let report = transactions::runner::run(seed, BrokenRules::default(), prints);
            reports.push((report.to_string(), report.failure.is_some()));
        }
        reports
    }
}

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
