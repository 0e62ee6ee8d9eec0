//! The simulation can fail: with a rule taken out, some seed of a bounded number must notice.

use ottla_metadata::controller::BrokenRules as ControllerRules;
use ottla_replication::Rules;

use crate::faults::{FaultPlan, Kind};
use crate::random::Random;
use crate::runner::{Options, Report, run_with};
use crate::world::WorldConfig;

/// Faults that come often, of the kinds that concern the rule: as a seed of the great number would have them by luck.
fn hunt(options: Options, kinds: &[Kind], outage_ms: (u64, u64), seeds_max: u64) -> Report {
    for seed in 0..seeds_max {
        let mut random = Random::new(seed ^ 0x0B0E);
        let config = WorldConfig {
            rules: options.rules,
            controller_rules: options.controller_rules,
            ..WorldConfig::draw(&mut random)
        };
        let plan = FaultPlan::of(kinds, (30, 400), outage_ms);
        let report = run_with(seed, config, &plan, random, false);
        if report.failure.is_some() {
            return report;
        }
    }
    panic!("{seeds_max} seeds noticed nothing");
}

fn what(report: &Report) -> &str {
    report.failure.as_ref().map_or("", |failure| failure.what.as_str())
}

#[test]
fn truncating_to_the_high_watermark_is_noticed() {
    let rules = Rules { truncate_to_high_watermark: true, ..Rules::default() };
    let report = hunt(Options { rules, ..Options::default() }, &[Kind::KillBroker, Kind::Weather], (10, 600), 60);
    assert!(what(&report).contains("without the record"), "{report}");
}

#[test]
fn a_high_watermark_over_the_committed_isr_only_is_noticed() {
    let rules = Rules { hw_over_committed_isr_only: true, ..Rules::default() };
    let report = hunt(
        Options { rules, ..Options::default() },
        &[Kind::KillBroker, Kind::Weather, Kind::CutLink, Kind::PauseBroker],
        (10, 1_200),
        200,
    );
    assert!(what(&report).contains("without the record") || what(&report).contains("two records"), "{report}");
}

#[test]
fn a_fenced_broker_that_stays_electable_is_noticed() {
    let controller_rules = ControllerRules { fenced_stays_electable: true, ..ControllerRules::default() };
    let report = hunt(
        Options { controller_rules, ..Options::default() },
        &[Kind::KillBroker, Kind::IsolateNode, Kind::PowerLossOfBroker],
        (500, 5_000),
        60,
    );
    assert!(!what(&report).is_empty(), "{report}");
}

#[test]
fn an_unclean_shutdown_that_counts_as_clean_is_noticed() {
    let controller_rules = ControllerRules { unclean_counts_as_clean: true, ..ControllerRules::default() };
    let report = hunt(
        Options { controller_rules, ..Options::default() },
        &[Kind::PowerLossOfBroker, Kind::KillBroker, Kind::IsolateNode],
        (20, 3_000),
        200,
    );
    assert!(what(&report).contains("without the record"), "{report}");
}

#[test]
fn an_unclean_sole_member_that_wins_over_the_elr_is_noticed() {
    let controller_rules = ControllerRules { unclean_sole_member_wins: true, ..ControllerRules::default() };
    let report = hunt(
        Options { controller_rules, ..Options::default() },
        &[Kind::PowerLossOfBroker, Kind::KillBroker, Kind::IsolateNode],
        (20, 3_000),
        300,
    );
    assert!(what(&report).contains("without the record"), "{report}");
}
