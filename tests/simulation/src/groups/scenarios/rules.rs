//! The groups' simulation can fail: with a rule taken out, some seed of a bounded number must notice.

use ottla_coordinator_partition::BrokenRules;

use crate::groups::runner::run_with;

/// Some seed must be noticed by the invariant that says `named`.
fn hunt(rules: BrokenRules, seeds_max: u64, named: &[&str]) {
    let noticed = (0..seeds_max).any(|seed| {
        let failure = run_with(seed, rules, false).failure;
        failure.is_some_and(|failure| named.iter().any(|named| failure.what.contains(named)))
    });
    assert!(noticed, "{seeds_max} seeds noticed nothing");
}

#[test]
fn groups_served_before_their_log_is_replicated_are_noticed() {
    let rules = BrokenRules { serves_before_replicated: true, ..BrokenRules::default() };
    hunt(rules, 300, &["was answered"]);
}

#[test]
fn a_request_that_overtakes_others_is_noticed() {
    let rules = BrokenRules { requests_overtake: true, ..BrokenRules::default() };
    hunt(rules, 300, &["after one that came later"]);
}

#[test]
fn a_failed_load_that_keeps_its_place_is_noticed() {
    let rules = BrokenRules { failed_loads_keep_places: true, ..BrokenRules::default() };
    hunt(rules, 300, &["is unread since"]);
}

#[test]
fn a_log_that_is_given_up_is_noticed() {
    let rules = BrokenRules { gives_up_loading: true, ..BrokenRules::default() };
    hunt(rules, 300, &["is unread since"]);
}
