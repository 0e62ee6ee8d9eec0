//! Some hundred seeds of transactions, and the rules without which a seed fails.

use ottla_model::{BrokerId, ErrorCode, LeaderEpoch, ProducerEpoch, ProducerId, TransactionalId};
use ottla_partition::BrokenRules as LeaderRules;
use ottla_transaction_coordinator::config::BrokenRules as CoordinatorRules;
use ottla_transaction_coordinator::{Marker, MarkerNumber, Producer, TransactionConfig, TransactionVersion};

use super::data::{DataBatch, DataPartition, Produced};
use super::runner::{BrokenRules, come_to_rest, go_on, heal, run};
use super::world::World;
use crate::coordinator_log::START;
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
        assert!(first.events > 1_000 && first.commits > 5 && first.aborts > 3 && first.markers > 20, "{first}");
    }
}

/// Each time the broker that coordinates and leads dies, with decisions, markers and epoch bumps under way.
#[test]
fn scenario_31_coordinator_and_leaders_fail_over_together() {
    for seed in 0..30 {
        let config = TransactionConfig { abort_timed_out_interval_ms: 200, ..TransactionConfig::default() };
        let mut world = World::new(seed, 3, 1, config, false);
        for at in 0..3 {
            world.add_client(&TransactionalId::new(format!("producer-{at}")));
        }
        let story = |world: &mut World| {
            for turn in 0..12 {
                world.run_for_ms(150 + 37 * turn)?;
                let Some(leader) = world.leader_of(0) else { continue };
                (0..world.data.len()).for_each(|index| world.move_data(index, leader));
                world.run_for_ms(20 + seed)?;
                world.kill_broker(leader);
                world.start_broker_after_ms(leader, 300);
            }
            heal(world);
            go_on(world)?;
            come_to_rest(world)
        };
        let result = story(&mut world);
        assert!(result.is_ok(), "seed {seed}: {result:?}\n{}", world.trace.tail().join("\n"));
        assert!(world.invariants.commits > 5, "seed {seed}");
    }
}

/// A batch is delayed until the marker of its aborted transaction is written: no transaction begins that no marker
/// would end.
#[test]
fn scenario_30_a_write_after_its_marker_begins_nothing() {
    let mut partition = DataPartition::new(0, 1, LeaderRules::default());
    let producer = Producer { id: ProducerId(7), epoch: ProducerEpoch(0) };
    let batch = |sequence| DataBatch { producer, sequence, transaction: 1, version: TransactionVersion::V0 };
    let Produced::Unverified(guard) = partition.produce(&batch(0), None, START) else { panic!("nothing is verified") };
    assert!(matches!(partition.produce(&batch(0), Some(&guard), START), Produced::Appended));
    let marker = Marker {
        number: MarkerNumber(1),
        broker: BrokerId(1),
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        coordinator_epoch: LeaderEpoch(1),
        is_commit: false,
        version: TransactionVersion::V0,
        partitions: vec![partition.name.clone()],
    };
    assert_eq!(partition.marker(&marker, START), Ok(vec![batch(0)]));
    let late = partition.produce(&batch(1), Some(&guard), START);
    let Produced::Refused(ErrorCode::InvalidTxnState) = late else { panic!("verified before the marker: {late:?}") };
    assert!(!partition.has_open());
}

/// A process that was fenced, and ends transactions with new epochs (KIP-890), asked for the end of one when its
/// successor, which does not, had ended its own. It was given the epoch of its successor, and the leaders took its
/// batches for repeated ones.
#[test]
fn seeds_with_two_producers_of_one_epoch_hold() {
    for seed in [838, 1071, 3797, 3925, 4394] {
        let report = run(seed, BrokenRules::default(), false);
        assert!(report.failure.is_none(), "{report}");
    }
}

/// Some seed is noticed by the invariant that says `named`.
fn is_noticed(broken_rules: BrokenRules, named: &[&str]) -> bool {
    let failures = (0..SEEDS_UNTIL_NOTICED).filter_map(|seed| run(seed, broken_rules, false).failure);
    failures.map(|failure| failure.what).any(|what| named.iter().any(|named| what.contains(named)))
}

#[test]
fn markers_before_the_decision_is_replicated_are_noticed() {
    let coordinators = CoordinatorRules { marker_before_decision: true, ..CoordinatorRules::default() };
    let broken_rules = BrokenRules { coordinators, ..BrokenRules::default() };
    assert!(is_noticed(broken_rules, &["is written, and the log has decided"]));
}

#[test]
fn an_abort_that_leaves_the_epoch_is_noticed() {
    let coordinators = CoordinatorRules { no_epoch_bump: true, ..CoordinatorRules::default() };
    let broken_rules = BrokenRules { coordinators, ..BrokenRules::default() };
    assert!(is_noticed(broken_rules, &["is committed here and aborted there"]));
}

/// A batch arrives after the marker of its transaction, and begins one that nobody ends.
#[test]
fn a_batch_that_nobody_verified_is_noticed() {
    let leaders = LeaderRules { no_verification: true, ..LeaderRules::default() };
    let broken_rules = BrokenRules { leaders, ..BrokenRules::default() };
    let named = ["has an open transaction", "one marker ends the transactions", "was told otherwise"];
    assert!(is_noticed(broken_rules, &named));
}
