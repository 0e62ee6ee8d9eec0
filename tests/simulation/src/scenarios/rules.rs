//! The simulation can fail: with a rule taken out, some seed of a bounded number must notice.

use ottla_authorizer::BrokenRules as AuthorizerRules;
use ottla_broker_session::BrokenRules as SessionRules;
use ottla_metadata::balance::BrokenRules as BalanceRules;
use ottla_metadata::controller::BrokenRules as ControllerRules;
use ottla_metadata::image::LeaderSettings;
use ottla_metadata::logins::BrokenRules as LoginRules;
use ottla_metadata::watch::BrokenRules as WatchRules;
use ottla_partition::BrokenRules;
use ottla_quorum_node::BrokenRules as NodeRules;
use ottla_replica_fetcher::BrokenRules as FetcherRules;
use ottla_replication::BrokenRules as ReplicationRules;
use ottla_replication::fetch_session::BrokenRules as FetchRules;
use ottla_storage::BrokenRules as LogDirRules;

use crate::faults::{FaultPlan, Kind};
use crate::message::FetchBytes;
use crate::random::Random;
use crate::runner::{Options, Report, run_with};
use crate::security::{SecurityConfig, SecurityRules};
use crate::world::WorldConfig;

/// Faults that come often, of the kinds that concern the rule: as a seed of the great number would have them by luck.
/// Some seed must be noticed by the invariant that says `named`.
fn hunt(options: Options, kinds: &[Kind], outage_ms: (u64, u64), seeds_max: u64, named: &[&str]) -> Report {
    hunt_in(options, |config| config, &FaultPlan::of(kinds, GAP_MS, outage_ms), seeds_max, named)
}

/// Between two faults.
const GAP_MS: (u64, u64) = (30, 400);

/// These kinds, more of them than records are promised to survive.
fn beyond_promise(kinds: &[Kind], outage_ms: (u64, u64)) -> FaultPlan {
    let mut plan = FaultPlan::of(kinds, GAP_MS, outage_ms);
    plan.keeps_promise = false;
    plan
}

/// As [`hunt`], in a cluster that `fit` makes fit for the rule.
fn hunt_in(
    options: Options,
    fit: impl Fn(WorldConfig) -> WorldConfig,
    plan: &FaultPlan,
    seeds_max: u64,
    named: &[&str],
) -> Report {
    for seed in 0..seeds_max {
        let mut random = Random::new(seed ^ 0x0B0E);
        let config = WorldConfig {
            rules: options.rules,
            fetcher_rules: options.fetcher_rules,
            session_rules: options.session_rules,
            controller_rules: options.controller_rules,
            node_rules: options.node_rules,
            balance_rules: options.balance_rules,
            // Small limits make followers slow, which hides what hurries.
            fetch_bytes: FetchBytes::WIDE,
            ..WorldConfig::draw(&mut random)
        };
        let report = run_with(seed, fit(config), plan, random, false);
        if let Some(failure) = &report.failure
            && named.iter().any(|named| failure.what.contains(named))
        {
            return report;
        }
    }
    panic!("{seeds_max} seeds noticed nothing");
}

const LOST: &[&str] = &["without the record", "two records"];

fn replication(replication: ReplicationRules) -> Options {
    partition(BrokenRules { replication, ..BrokenRules::default() })
}

fn partition(rules: BrokenRules) -> Options {
    Options { rules, ..Options::default() }
}

fn controller(controller_rules: ControllerRules) -> Options {
    Options { controller_rules, ..Options::default() }
}

#[test]
fn a_stream_in_another_ones_name_is_noticed() {
    let rules = NodeRules { streams_are_not_confirmed: true, ..NodeRules::default() };
    hunt(node(rules), &[Kind::ForgeStream], (100, 1_000), 20, &["which a stranger has opened"]);
}

// ---- two releases

/// Scenario 60.
fn hunt_releases(options: Options, seeds_max: u64, named: &str) {
    let plan = FaultPlan::of(Kind::OF_RELEASES, (100, 900), (20, 500));
    hunt_in(options, |config| WorldConfig { releases: true, ..config }, &plan, seeds_max, &[named]);
}

#[test]
fn a_level_that_is_finalized_before_all_know_it_is_noticed() {
    let rules = ControllerRules { levels_are_not_asked: true, ..ControllerRules::default() };
    hunt_releases(controller(rules), 20, "is registered and works at");
}

#[test]
fn a_broker_that_does_not_know_the_level_and_registers_is_noticed() {
    let rules = ControllerRules { unknown_levels_register: true, ..ControllerRules::default() };
    hunt_releases(controller(rules), 60, "is registered and works at");
}

#[test]
fn a_token_before_its_level_is_noticed() {
    let rules = ControllerRules { levels_gate_nothing: true, ..ControllerRules::default() };
    hunt_releases(controller(rules), 20, "there is a delegation token at level");
}

#[test]
fn a_coordinator_that_does_not_know_the_level_and_goes_on_is_noticed() {
    let rules = NodeRules { levels_are_not_compared: true, ..NodeRules::default() };
    hunt_releases(node(rules), 600, "which it does not know");
}

fn node(node_rules: NodeRules) -> Options {
    Options { node_rules, ..Options::default() }
}

fn fetcher(fetcher_rules: FetcherRules) -> Options {
    Options { fetcher_rules, ..Options::default() }
}

// ---- one partition

#[test]
fn truncating_to_the_high_watermark_is_noticed() {
    let rules = ReplicationRules { truncate_to_high_watermark: true, ..ReplicationRules::default() };
    hunt(replication(rules), &[Kind::KillBroker, Kind::Weather], (10, 600), 60, LOST);
}

#[test]
fn a_high_watermark_over_the_committed_isr_only_is_noticed() {
    let rules = ReplicationRules { hw_over_committed_isr_only: true, ..ReplicationRules::default() };
    let kinds = [Kind::FenceBroker, Kind::KillBroker, Kind::CutLink, Kind::Weather, Kind::PauseBroker];
    let hasty = |config| WorldConfig { hasty_producers: 2, ..config };
    hunt_in(replication(rules), hasty, &FaultPlan::of(&kinds, GAP_MS, (100, 1_000)), 1_000, LOST);
}

#[test]
fn a_follower_that_shows_what_is_not_committed_is_noticed() {
    let rules = ReplicationRules { followers_serve_to_their_end: true, ..ReplicationRules::default() };
    let reading = |config| WorldConfig { consumers: 2, ..config };
    let plan = FaultPlan::of(&[Kind::KillBroker, Kind::CutLink], GAP_MS, (100, 1_000));
    hunt_in(replication(rules), reading, &plan, 20, &["which is not committed"]);
}

/// Consumers near followers, in clusters whose partitions lose their last in-sync replicas often.
#[test]
fn a_follower_that_shows_what_its_new_leader_may_not_have_is_noticed() {
    let rules = ReplicationRules { followers_serve_unconfirmed: true, ..ReplicationRules::default() };
    let reading = |config| WorldConfig { unclean_election: Some(true), min_isr: 2, consumers: 6, ..config };
    let kinds = [Kind::PowerLossOfBroker, Kind::KillBroker, Kind::CutLink, Kind::FenceBroker];
    let named = &["gave up"];
    hunt_in(replication(rules), reading, &beyond_promise(&kinds, (500, 4_000)), 4_000, named);
}

#[test]
fn an_acknowledgement_that_outlives_its_leader_is_noticed() {
    let rules = BrokenRules { acks_outlive_leadership: true, ..BrokenRules::default() };
    let kinds = [Kind::FenceBroker, Kind::CutLink];
    hunt(partition(rules), &kinds, (500, 4_000), 150, &["acknowledged the record"]);
}

#[test]
fn progress_of_a_log_that_has_parted_is_noticed() {
    let rules = BrokenRules { diverging_fetch_counts: true, ..BrokenRules::default() };
    let hasty = |config| WorldConfig { hasty_producers: 1, ..config };
    let kinds = [Kind::KillBroker, Kind::Weather, Kind::CutLink];
    hunt_in(partition(rules), hasty, &FaultPlan::of(&kinds, GAP_MS, (10, 400)), 2_000, LOST);
}

#[test]
fn a_damaged_log_that_gives_way_too_early_is_noticed() {
    let rules = BrokenRules { damaged_log_starts_over: true, ..BrokenRules::default() };
    hunt(partition(rules), &[Kind::FlipByte, Kind::KillBroker, Kind::FenceBroker], (500, 5_000), 200, LOST);
}

#[test]
fn a_longer_log_of_another_topic_is_noticed() {
    let rules = BrokenRules { longest_log_wins: true, ..BrokenRules::default() };
    let two_disks = |config| WorldConfig { log_dirs: 2, ..config };
    let kinds = [Kind::FailDirectory, Kind::RecreateTopic, Kind::KillBroker, Kind::ShutDownBroker];
    let plan = FaultPlan::of(&kinds, GAP_MS, (1_500, 5_000));
    hunt_in(partition(rules), two_disks, &plan, 200, &["begins an empty log"]);
}

#[test]
fn a_last_member_that_cannot_read_its_log_and_stays_is_noticed() {
    let rules = BrokenRules { unreadable_last_member_stays: true, ..BrokenRules::default() };
    let plan = beyond_promise(&[Kind::FlipByte, Kind::KillBroker], (500, 5_000));
    hunt_in(partition(rules), |config| config, &plan, 200, &["s after the last fault"]);
}

#[test]
fn a_directory_that_does_not_answer_and_still_leads_is_noticed() {
    let rules = BrokenRules { stalled_directory_leads: true, ..BrokenRules::default() };
    let plan = FaultPlan::of(&[Kind::StallDirectory], (500, 3_000), (500, 5_000));
    hunt_in(partition(rules), |config| config, &plan, 60, &["its disk does not answer"]);
}

#[test]
fn an_empty_log_in_the_place_of_a_lost_one_is_noticed() {
    let rules = BrokenRules { lost_log_starts_over: true, ..BrokenRules::default() };
    let two_disks = |config| WorldConfig { log_dirs: 2, ..config };
    let kinds = [Kind::ReplaceDisk, Kind::KillBroker];
    let plan = beyond_promise(&kinds, (500, 5_000));
    hunt_in(partition(rules), two_disks, &plan, 200, &["in the place of one that is lost"]);
}

#[test]
fn a_replaced_directory_that_is_claimed_at_once_is_noticed() {
    let log_dirs = LogDirRules { claims_replaced_at_once: true, ..LogDirRules::default() };
    let rules = BrokenRules { log_dirs, ..BrokenRules::default() };
    let two_disks = |config| WorldConfig { log_dirs: 2, ..config };
    let plan = beyond_promise(&[Kind::ReplaceDisk, Kind::KillBroker, Kind::IsolateNode], (500, 5_000));
    hunt_in(partition(rules), two_disks, &plan, 300, &["in the place of one that is lost"]);
}

#[test]
fn a_move_that_ends_before_the_copy_has_caught_up_is_noticed() {
    let rules = BrokenRules { moves_before_caught_up: true, ..BrokenRules::default() };
    let two_disks = |config| WorldConfig { log_dirs: 2, ..config };
    let plan = FaultPlan::of(&[Kind::MoveReplica], GAP_MS, (100, 1_000));
    hunt_in(partition(rules), two_disks, &plan, 60, &["has moved"]);
}

#[test]
fn an_old_copy_of_a_log_that_is_found_first_and_wins_is_noticed() {
    let rules = BrokenRules { first_found_wins: true, ..BrokenRules::default() };
    let two_disks = |config| WorldConfig { log_dirs: 2, ..config };
    let plan = FaultPlan::of(&[Kind::CopyLog, Kind::MoveReplica], GAP_MS, (100, 1_000));
    hunt_in(partition(rules), two_disks, &plan, 100, &["was killed and lost records"]);
}

#[test]
fn an_old_copy_that_wins_over_a_log_without_room_is_noticed() {
    let rules = BrokenRules { unreadable_log_gives_way: true, ..BrokenRules::default() };
    let two_disks = |config| WorldConfig { log_dirs: 2, ..config };
    let plan = FaultPlan::of(&[Kind::CopyLog, Kind::FillDisk, Kind::KillBroker], GAP_MS, (100, 4_000));
    hunt_in(partition(rules), two_disks, &plan, 300, &["was killed and lost records"]);
}

#[test]
fn an_io_error_that_counts_as_lack_of_room_is_noticed() {
    let log_dirs = LogDirRules { failed_disk_counts_as_full: true, ..LogDirRules::default() };
    let rules = BrokenRules { log_dirs, ..BrokenRules::default() };
    let two_disks = |config| WorldConfig { log_dirs: 2, ..config };
    let plan = FaultPlan::of(&[Kind::FailDirectory], (500, 3_000), (500, 5_000));
    hunt_in(partition(rules), two_disks, &plan, 60, &["s after the last fault"]);
}

#[test]
fn records_that_found_no_room_and_are_forgotten_are_noticed() {
    let fetch_sessions = FetchRules { left_out_is_forgotten: true, ..FetchRules::default() };
    let narrow = |config| WorldConfig {
        partitions: 3,
        fetch_bytes: FetchBytes { answer_max: 200, partition_max: 200 },
        ..config
    };
    let plan = FaultPlan::of(&[Kind::KillBroker, Kind::Weather], GAP_MS, (100, 1_000));
    let rules = ReplicationRules { fetch_sessions, ..ReplicationRules::default() };
    hunt_in(replication(rules), narrow, &plan, 60, &["s after the last fault"]);
}

#[test]
fn reading_beyond_an_open_transaction_is_noticed() {
    let rules = BrokenRules { open_transactions_are_stable: true, ..BrokenRules::default() };
    let with_transactions = |config| WorldConfig { transactors: 2, ..config };
    let plan = FaultPlan::of(&[Kind::KillBroker], GAP_MS, (100, 1_000));
    hunt_in(partition(rules), with_transactions, &plan, 20, &["its transaction is open"]);
}

// ---- the fetchers

#[test]
fn a_change_that_drops_a_waiting_partition_is_noticed() {
    let rules = FetcherRules { change_drops_waiting: true, ..FetcherRules::default() };
    let kinds = [Kind::DeleteRecords, Kind::LateBounds, Kind::CutLink, Kind::KillBroker];
    hunt(fetcher(rules), &kinds, (500, 4_000), 1_000, &["does not fetch it any more"]);
}

#[test]
fn questions_that_a_broken_connection_takes_along_are_noticed() {
    let rules = FetcherRules { forget_questions_of_broken_connection: true, ..FetcherRules::default() };
    let kinds = [Kind::DeleteRecords, Kind::LateBounds, Kind::CutLink];
    hunt(fetcher(rules), &kinds, (1_000, 6_000), 300, &["may fetch"]);
}

// ---- the controller

#[test]
fn a_fenced_broker_that_stays_electable_is_noticed() {
    let rules = ControllerRules { fenced_stays_electable: true, ..ControllerRules::default() };
    let kinds = [Kind::KillBroker, Kind::IsolateNode, Kind::PowerLossOfBroker];
    hunt(controller(rules), &kinds, (500, 5_000), 60, &["s after the last fault", "both lead"]);
}

#[test]
fn an_unclean_shutdown_that_counts_as_clean_is_noticed() {
    let rules = ControllerRules { unclean_counts_as_clean: true, ..ControllerRules::default() };
    let kinds = [Kind::PowerLossOfBroker, Kind::KillBroker, Kind::IsolateNode];
    hunt(controller(rules), &kinds, (20, 3_000), 200, LOST);
}

#[test]
fn an_unclean_sole_member_that_wins_over_the_elr_is_noticed() {
    let rules = ControllerRules { unclean_sole_member_wins: true, ..ControllerRules::default() };
    let kinds = [Kind::PowerLossOfBroker, Kind::KillBroker, Kind::IsolateNode];
    hunt(controller(rules), &kinds, (20, 3_000), 300, LOST);
}

#[test]
fn a_leader_whose_log_was_lost_is_noticed() {
    let rules = ControllerRules { lost_log_may_lead: true, ..ControllerRules::default() };
    let kinds = [Kind::ReplaceDisk, Kind::KillBroker];
    let plan = beyond_promise(&kinds, (500, 5_000));
    hunt_in(controller(rules), |config| config, &plan, 200, &["in the place of one that is lost"]);
}

#[test]
fn a_leader_that_cannot_read_its_log_is_noticed() {
    let rules = ControllerRules { offline_log_may_lead: true, ..ControllerRules::default() };
    let kinds = [Kind::FlipByte, Kind::KillBroker];
    let plan = beyond_promise(&kinds, (500, 5_000));
    hunt_in(controller(rules), |config| config, &plan, 200, &["s after the last fault"]);
}

#[test]
fn a_preferred_leader_that_lags_is_noticed() {
    let rules = ControllerRules { preferred_may_lag: true, ..ControllerRules::default() };
    let leaders = LeaderSettings { rebalance_interval_s: 1, ..LeaderSettings::default() };
    // After any other end the broker leads again when it has been ready for longer than it takes to catch up.
    let plan = FaultPlan::of(&[Kind::ShutDownBroker, Kind::CutLink], GAP_MS, (500, 5_000));
    hunt_in(controller(rules), |config| WorldConfig { leaders, ..config }, &plan, 200, LOST);
}

#[test]
fn a_broker_that_leads_again_before_clients_find_it_is_noticed() {
    let rules = ControllerRules { abrupt_end_has_no_pause: true, ..ControllerRules::default() };
    let leaders = LeaderSettings { rebalance_interval_s: 1, ..LeaderSettings::default() };
    let plan = FaultPlan::of(&[Kind::KillBroker], GAP_MS, (500, 3_000));
    hunt_in(controller(rules), |config| WorldConfig { leaders, ..config }, &plan, 20, &["again by itself"]);
}

#[test]
fn an_unclean_election_that_nobody_allowed_is_noticed() {
    let rules = ControllerRules { unclean_is_always_enabled: true, ..ControllerRules::default() };
    let kinds = [Kind::KillBroker, Kind::CutLink, Kind::FenceBroker];
    hunt(controller(rules), &kinds, (500, 5_000), 60, &["that nobody allowed"]);
}

/// Clusters whose partitions lose their last in-sync replicas often.
fn hunt_unclean(rules: ControllerRules, named: &str) {
    let fit = |config| WorldConfig { unclean_election: Some(true), min_isr: 2, hasty_producers: 1, ..config };
    let kinds = [Kind::PowerLossOfBroker, Kind::KillBroker, Kind::CutLink, Kind::FenceBroker];
    hunt_in(controller(rules), fit, &beyond_promise(&kinds, (500, 4_000)), 400, &[named]);
}

#[test]
fn an_unclean_election_that_takes_anybody_is_noticed() {
    let rules = ControllerRules { unclean_takes_anybody: true, ..ControllerRules::default() };
    hunt_unclean(rules, "an unclean election takes");
}

#[test]
fn an_unclean_election_that_is_not_told_is_noticed() {
    let rules = ControllerRules { unclean_is_not_told: true, ..ControllerRules::default() };
    hunt_unclean(rules, "no coordinator tells");
}

#[test]
fn a_reassignment_that_completes_before_its_target_is_in_sync_is_noticed() {
    let rules = ControllerRules { reassignment_completes_early: true, ..ControllerRules::default() };
    hunt(controller(rules), &[Kind::Reassign, Kind::KillBroker], (100, 1_000), 20, &["ended half-way"]);
}

#[test]
fn a_plan_without_waves_is_noticed() {
    let rules = ControllerRules { reassignments_have_no_waves: true, ..ControllerRules::default() };
    let fit = |config| WorldConfig { brokers: 5, partitions: 3, reassignments_per_broker_max: 1, ..config };
    let plan = FaultPlan::of(&[Kind::ReassignAll, Kind::KillBroker], GAP_MS, (100, 1_000));
    hunt_in(controller(rules), fit, &plan, 20, &["at once, more than"]);
}

#[test]
fn a_topic_on_a_cordoned_broker_is_noticed() {
    let rules = ControllerRules { cordoned_gets_replicas: true, ..ControllerRules::default() };
    let five = |config| WorldConfig { brokers: 5, ..config };
    let plan = FaultPlan::of(&[Kind::DrainBroker, Kind::RecreateTopic], GAP_MS, (100, 1_000));
    hunt_in(controller(rules), five, &plan, 20, &["which is cordoned"]);
}

#[test]
fn a_wave_without_a_bound_is_noticed() {
    let balance_rules = BalanceRules { waves_forget_what_is_under_way: true };
    let options = Options { balance_rules, ..Options::default() };
    let five = |config| WorldConfig { brokers: 5, partitions: 3, ..config };
    let kinds = [Kind::DrainBroker, Kind::Rebalance, Kind::CutLink, Kind::KillBroker];
    let plan = FaultPlan::of(&kinds, GAP_MS, (500, 4_000));
    hunt_in(options, five, &plan, 60, &["of one wave move at once"]);
}

// ---- the quorum

#[test]
fn a_voter_without_the_log_is_noticed() {
    let rules = NodeRules { promotes_without_log: true, ..NodeRules::default() };
    let kinds = [Kind::GrowQuorum, Kind::ShrinkQuorum, Kind::CutLink, Kind::Weather];
    hunt(node(rules), &kinds, (500, 4_000), 60, &["before it became a learner"]);
}

#[test]
fn votes_and_acknowledgements_before_the_disk_has_them_are_noticed() {
    let rules = NodeRules { sends_before_persist: true, ..NodeRules::default() };
    let kinds = [Kind::CrashCoordinatorMidway, Kind::KillCoordinator, Kind::CutLink];
    hunt(node(rules), &kinds, (20, 1_500), 600, &["both lead term", "is another on coordinator"]);
}

#[test]
fn an_emptied_disk_that_votes_again_is_noticed() {
    let rules = NodeRules { emptied_disk_votes: true, ..NodeRules::default() };
    let kinds = [Kind::DiskLossOfCoordinator, Kind::KillCoordinator, Kind::CutLink, Kind::PauseCoordinator];
    let votes_again = "votes with an empty disk in the place of one that had a vote";
    hunt(node(rules), &kinds, (20, 1_500), 1_000, &[votes_again, "both lead term", "is another on coordinator"]);
}

/// A fourth coordinator ended because one of the first three had an empty disk and the list of the first three.
#[test]
fn another_list_on_an_empty_disk_that_ends_a_coordinator_is_noticed() {
    let rules = NodeRules { other_list_is_final: true, ..NodeRules::default() };
    let kinds = [Kind::DiskLossOfCoordinator, Kind::GrowQuorum, Kind::ShrinkQuorum, Kind::PauseCoordinator];
    hunt(node(rules), &kinds, (100, 3_000), 1_000, &["ends itself, though the quorum counts on it"]);
}

#[test]
fn a_leader_that_keeps_the_leadership_without_brokers_is_noticed() {
    let rules = NodeRules { keeps_lost_brokers: true, ..NodeRules::default() };
    let plan = FaultPlan::of(&[Kind::CutCoordinator], (4_000, 5_000), (500, 4_000));
    hunt_in(node(rules), |config| config, &plan, 40, &["and fewer reach it"]);
}

#[test]
fn a_controller_before_its_own_first_entry_is_noticed() {
    let rules = NodeRules { decides_before_own_entry: true, ..NodeRules::default() };
    let kinds = [Kind::CrashCoordinatorMidway, Kind::KillCoordinator, Kind::KillBroker, Kind::Weather];
    hunt(node(rules), &kinds, (20, 1_500), 1_000, &["does not apply"]);
}

#[test]
fn a_read_without_the_quorum_is_noticed() {
    let rules = NodeRules { reads_skip_the_quorum: true, ..NodeRules::default() };
    hunt(node(rules), &[Kind::KillBroker], (20, 1_500), 400, &["though"]);
}

#[test]
fn a_watch_that_goes_back_is_noticed() {
    let rules = NodeRules { watch_goes_back: true, ..NodeRules::default() };
    let kinds = [Kind::IsolateNode, Kind::PauseCoordinator, Kind::KillCoordinator, Kind::KillBroker];
    hunt(node(rules), &kinds, (20, 1_500), 300, &["went back"]);
}

#[test]
fn an_answer_before_the_commit_is_noticed() {
    let rules = NodeRules { answers_before_commit: true, ..NodeRules::default() };
    hunt(node(rules), &[Kind::KillCoordinator, Kind::KillBroker], (20, 1_500), 20, &["what it has not applied"]);
}

fn session(session_rules: SessionRules) -> Options {
    Options { session_rules, ..Options::default() }
}

#[test]
fn serving_before_the_registration_is_ready_is_noticed() {
    let rules = SessionRules { serves_before_ready: true, ..SessionRules::default() };
    hunt(session(rules), &[Kind::KillBroker], (500, 6_000), 20, &["serves clients"]);
}

#[test]
fn a_broker_that_ignores_its_fencing_is_noticed() {
    let rules = SessionRules { ignores_fencing: true, ..SessionRules::default() };
    let kinds = [Kind::PauseBroker, Kind::IsolateNode];
    hunt(session(rules), &kinds, (500, 6_000), 60, &["is not registered"]);
}

#[test]
fn heartbeats_with_the_epoch_that_was_fenced_are_noticed() {
    let rules = SessionRules { keeps_fenced_epoch: true, ..SessionRules::default() };
    let kinds = [Kind::PauseBroker, Kind::IsolateNode];
    hunt(session(rules), &kinds, (500, 6_000), 60, &["is not registered", "has ISR", "has no leader"]);
}

// ---- security

/// In clusters with security, by these rules.
fn hunt_secured(rules: SecurityRules, controller_rules: ControllerRules, kinds: &[Kind], named: &[&str]) -> Report {
    let secured = |config| {
        let mut random = Random::new(0x5EC);
        let security = SecurityConfig { allow_everyone_if_no_acl_found: false, ..SecurityConfig::draw(&mut random) };
        WorldConfig { security: Some(SecurityConfig { rules, ..security }), ..config }
    };
    let plan = FaultPlan::of(kinds, GAP_MS, (100, 2_000));
    hunt_in(controller(controller_rules), secured, &plan, 600, named)
}

#[test]
fn rules_that_a_snapshot_does_not_bring_are_noticed() {
    let watch = WatchRules { snapshots_keep_acls: true, ..WatchRules::default() };
    let rules = SecurityRules { watch, ..SecurityRules::default() };
    hunt_secured(rules, ControllerRules::default(), &[Kind::KillBroker, Kind::CutLink], &["its index has"]);
}

#[test]
fn users_that_a_snapshot_does_not_bring_are_noticed() {
    let watch = WatchRules { snapshots_keep_configs: true, ..WatchRules::default() };
    let rules = SecurityRules { watch, ..SecurityRules::default() };
    let named = &["its users and clients are not"];
    hunt_secured(rules, ControllerRules::default(), &[Kind::KillBroker, Kind::CutLink], named);
}

#[test]
fn a_prefix_that_does_not_deny_is_noticed() {
    let authorizer = AuthorizerRules { prefixes_do_not_deny: true, ..AuthorizerRules::default() };
    let rules = SecurityRules { authorizer, ..SecurityRules::default() };
    let named = &["a record of the intruder", "by the rules"];
    hunt_secured(rules, ControllerRules::default(), &[Kind::KillBroker], named);
}

#[test]
fn a_rule_that_allows_and_wins_over_one_that_denies_is_noticed() {
    let authorizer = AuthorizerRules { allowing_wins: true, ..AuthorizerRules::default() };
    let rules = SecurityRules { authorizer, ..SecurityRules::default() };
    let named = &["a record of the intruder", "by the rules"];
    hunt_secured(rules, ControllerRules::default(), &[Kind::KillBroker], named);
}

#[test]
fn a_token_that_logs_in_after_its_end_is_noticed() {
    let logins = LoginRules { expired_tokens_log_in: true };
    let rules = SecurityRules { logins, ..SecurityRules::default() };
    hunt_secured(rules, ControllerRules::default(), &[Kind::KillBroker, Kind::SetWallClock], &["took token-"]);
}

#[test]
fn a_request_in_the_name_of_a_broker_that_did_not_send_it_is_noticed() {
    let controller = ControllerRules { unproved_is_decided: true, ..ControllerRules::default() };
    let named = &["decided what only a broker may ask for"];
    hunt_secured(SecurityRules::default(), controller, &[Kind::KillBroker], named);
}

#[test]
fn rules_that_take_the_place_of_others_are_noticed() {
    let controller = ControllerRules { added_acls_replace: true, ..ControllerRules::default() };
    hunt_secured(SecurityRules::default(), controller, &[Kind::KillCoordinator], &["and may be"]);
}

#[test]
fn a_repeated_change_of_security_that_is_made_twice_is_noticed() {
    let controller = ControllerRules { changes_of_security_are_forgotten: true, ..ControllerRules::default() };
    let kinds = &[Kind::KillCoordinator, Kind::CutLink, Kind::IsolateNode];
    hunt_secured(SecurityRules::default(), controller, kinds, &["more often than that was asked for", "and may be"]);
}
