//! The command line: which seeds run, and with which options.

use clap::Parser;

use crate::runner::{Options, run};
use crate::transactions::runner::BrokenRules;
use crate::{groups, transactions};

#[derive(Parser)]
#[command(about = "Simulates whole clusters under faults, seed by seed")]
pub struct Arguments {
    /// Run this seed alone.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Print every step of it.
    #[arg(long)]
    pub steps: bool,
    /// Run so many seeds.
    #[arg(long, default_value_t = 200)]
    pub seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// Only the groups, which are the smaller part.
    #[arg(long)]
    pub groups: bool,
    /// Only the transactions, which are a small part too.
    #[arg(long, conflicts_with = "groups")]
    pub transactions: bool,
    /// So many producers of transactions in each cluster.
    #[arg(long, default_value_t = 0)]
    pub transactors: u32,
    /// Processes of two releases in each cluster.
    #[arg(long)]
    pub releases: bool,
    /// Only the clusters: brokers, coordinators and clients.
    #[arg(long, conflicts_with_all = ["groups", "transactions"])]
    pub clusters: bool,
    /// Threads, each with a seed of its own at a time.
    #[arg(long)]
    pub threads: Option<usize>,
}

impl Arguments {
    /// What a seed came to in each part, and whether it failed.
    pub fn reports_of(&self, seed: u64, prints: bool) -> Vec<(String, bool)> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::Failure;

    /// The line that replays a failure names the options without which the seed is another run.
    #[test]
    fn a_replay_has_the_options_of_the_run() {
        for (transactors, releases) in [(0, false), (2, false), (0, true), (3, true)] {
            let mut report = run(1, Options { transactors, releases, ..Options::default() });
            let (what, tail) = (String::new(), Vec::new());
            report.failure = Some(Failure { what, at: Default::default(), tail });
            let shown = report.to_string();
            let line = shown.lines().last().expect("the line");
            let options = line.strip_prefix("replay: make sim SEED=1").expect("the seed");
            let options =
                options.strip_prefix(" SIM_OPTIONS=\"").and_then(|rest| rest.strip_suffix('"')).unwrap_or(options);
            let arguments = Arguments::try_parse_from(std::iter::once("simulation").chain(options.split_whitespace()));
            let arguments = arguments.unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!((arguments.transactors, arguments.releases), (transactors, releases), "{line}");
        }
    }
}
