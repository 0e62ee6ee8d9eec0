//! The simulation can fail: with a rule taken out, some seed of a bounded number must notice.

use ottla_metadata::controller::BrokenRules as ControllerRules;
use ottla_partition::BrokenRules;
use ottla_quorum_node::BrokenRules as NodeRules;
use ottla_replica_fetcher::BrokenRules as FetcherRules;
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
            fetcher_rules: options.fetcher_rules,
            controller_rules: options.controller_rules,
            node_rules: options.node_rules,
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
    let report = hunt(
        Options { rules: BrokenRules { replication: rules, ..BrokenRules::default() }, ..Options::default() },
        &[Kind::KillBroker, Kind::Weather],
        (10, 600),
        60,
    );
    assert!(what(&report).contains("without the record"), "{report}");
}

#[test]
fn a_high_watermark_over_the_committed_isr_only_is_noticed() {
    let rules = Rules { hw_over_committed_isr_only: true, ..Rules::default() };
    let report = hunt(
        Options { rules: BrokenRules { replication: rules, ..BrokenRules::default() }, ..Options::default() },
        &[Kind::KillBroker, Kind::Weather, Kind::CutLink, Kind::PauseBroker],
        (10, 1_200),
        1_000,
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

fn hunt_node(node_rules: NodeRules, kinds: &[Kind], seeds_max: u64) -> Report {
    hunt(Options { node_rules, ..Options::default() }, kinds, (20, 1_500), seeds_max)
}

#[test]
fn votes_and_acknowledgements_before_the_disk_has_them_are_noticed() {
    let rules = NodeRules { sends_before_persist: true, ..NodeRules::default() };
    let report = hunt_node(rules, &[Kind::CrashCoordinatorMidway, Kind::KillCoordinator, Kind::CutLink], 200);
    assert!(!what(&report).is_empty(), "{report}");
}

#[test]
fn a_controller_before_its_own_first_entry_is_noticed() {
    let rules = NodeRules { decides_before_own_entry: true, ..NodeRules::default() };
    let kinds = [Kind::CrashCoordinatorMidway, Kind::KillCoordinator, Kind::KillBroker, Kind::Weather];
    let report = hunt_node(rules, &kinds, 1_000);
    assert!(what(&report).contains("does not apply"), "{report}");
}

#[test]
fn a_read_without_the_quorum_is_noticed() {
    let rules = NodeRules { reads_skip_the_quorum: true, ..NodeRules::default() };
    let report = hunt_node(rules, &[Kind::KillBroker], 20);
    assert!(what(&report).contains("though"), "{report}");
}

#[test]
fn a_watch_that_goes_back_is_noticed() {
    let rules = NodeRules { watch_goes_back: true, ..NodeRules::default() };
    let kinds = [Kind::IsolateNode, Kind::PauseCoordinator, Kind::KillCoordinator, Kind::KillBroker];
    let report = hunt_node(rules, &kinds, 300);
    assert!(what(&report).contains("went back"), "{report}");
}

#[test]
fn an_answer_before_the_commit_is_noticed() {
    let rules = NodeRules { answers_before_commit: true, ..NodeRules::default() };
    let kinds = [Kind::CrashCoordinatorMidway, Kind::KillCoordinator, Kind::KillBroker, Kind::Weather];
    let report = hunt_node(rules, &kinds, 300);
    assert!(!what(&report).is_empty(), "{report}");
}

#[test]
fn a_change_that_drops_a_waiting_partition_is_noticed() {
    let fetcher_rules = FetcherRules { change_drops_waiting: true, ..FetcherRules::default() };
    let report = hunt(
        Options { fetcher_rules, ..Options::default() },
        &[Kind::DeleteRecords, Kind::LateBounds, Kind::CutLink, Kind::KillBroker],
        (500, 4_000),
        100,
    );
    assert!(what(&report).contains("does not fetch it any more"), "{report}");
}

#[test]
fn questions_that_a_broken_connection_takes_along_are_noticed() {
    let fetcher_rules = FetcherRules { forget_questions_of_broken_connection: true, ..FetcherRules::default() };
    let report = hunt(
        Options { fetcher_rules, ..Options::default() },
        &[Kind::DeleteRecords, Kind::LateBounds, Kind::CutLink],
        (1_000, 6_000),
        300,
    );
    assert!(what(&report).contains("may fetch"), "{report}");
}
