//! Plans reach the goals, and move little: compared with bounds that no plan can pass.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::BrokerId;
use ottla_test_support::each_seed;

use super::*;
use crate::placement::Seeded;

fn broker(id: i32, rack: Option<&str>, stays: bool) -> BalancedBroker {
    let role = if stays { BrokerRole::Shares } else { BrokerRole::Leaves };
    BalancedBroker { id: BrokerId(id), rack: rack.map(str::to_owned), role }
}

fn partition(replicas: &[i32], bytes: u64) -> BalancedPartition {
    BalancedPartition { replicas: replicas.iter().copied().map(BrokerId).collect(), bytes }
}

/// No partition of a random cluster is larger.
const LARGEST_BYTES: u64 = 150;

fn seeded(seed: u64) -> Seeded {
    let mut entropy = [0; 16];
    entropy[..8].copy_from_slice(&seed.to_le_bytes());
    Seeded::new(entropy)
}

/// A cluster whose partitions lie on the first `used` of `count` brokers.
fn random(seeded: &mut Seeded, count: usize, used: usize, partitions: usize, draining: &[i32]) -> Cluster<usize> {
    let brokers = (1..=count).map(|id| {
        let id = i32::try_from(id).expect("small");
        broker(id, None, !draining.contains(&id))
    });
    let placed = (0..partitions).map(|number| {
        let mut ids: Vec<i32> = (1..=i32::try_from(used).expect("small")).collect();
        seeded.shuffle(&mut ids);
        let factor = 1 + seeded.below(used.min(3));
        let bytes = LARGEST_BYTES / 3 + u64::try_from(seeded.below(100)).expect("small");
        (number, partition(&ids[..factor], bytes))
    });
    let partitions = placed.collect();
    Cluster { brokers: brokers.collect(), partitions }
}

/// What holds for every plan, whatever its goals.
fn check_plan(cluster: &Cluster<usize>, plan: &Plan<usize>) {
    let takes: BTreeSet<_> = cluster.brokers.iter().filter(|b| b.role == BrokerRole::Shares).map(|b| b.id).collect();
    for one in &plan.moves {
        let distinct: BTreeSet<_> = one.to.iter().collect();
        assert_eq!((distinct.len(), one.to.len()), (one.from.len(), one.from.len()), "the number of replicas stays");
        assert!(one.added().all(|broker| takes.contains(&broker)), "only those that may get replicas");
    }
    let moved: BTreeMap<_, _> = plan.moves.iter().map(|one| (one.partition, &one.to)).collect();
    for (key, partition) in &cluster.partitions {
        let replicas = moved.get(key).copied().unwrap_or(&partition.replicas);
        assert!(replicas.iter().all(|broker| takes.contains(broker)), "{key} stays where it must not");
    }
}

/// Bytes that every plan moves: those of brokers that must be empty, and then the larger of what is above the ceilings
/// and what is missing to the floors (what leaves the emptied brokers fills these gaps first).
fn least_bytes(cluster: &Cluster<usize>) -> u64 {
    let loads = loads(cluster.brokers.iter().map(|broker| broker.id), cluster.partitions.values());
    let total = loads.values().map(|load| load.bytes).sum();
    let takers = || cluster.brokers.iter().filter(|broker| broker.role == BrokerRole::Shares);
    let band = Band::of_amount(total, u64::try_from(takers().count()).expect("small"));
    let forced: u64 = cluster
        .brokers
        .iter()
        .filter(|broker| broker.role == BrokerRole::Leaves)
        .map(|broker| loads[&broker.id].bytes)
        .sum();
    let above: u64 = takers().map(|broker| band.excess(loads[&broker.id].bytes)).sum();
    let below: u64 = takers().map(|broker| band.lack(loads[&broker.id].bytes)).sum();
    (forced + above).max(below)
}

fn shares(cluster: &Cluster<usize>, plan: &Plan<usize>, of: impl Fn(&Load) -> u64) -> Vec<u64> {
    cluster.brokers.iter().filter(|b| b.role == BrokerRole::Shares).map(|b| of(&plan.after[&b.id])).collect()
}

/// One more or less than the mean is good where it is no whole number.
fn is_even(shares: &[u64]) -> bool {
    let band = Band::of_count(shares.iter().sum(), u64::try_from(shares.len()).expect("small"));
    shares.iter().all(|share| band.violation(*share) == 0)
}

#[test]
fn plans_reach_the_goals_with_the_least_bytes() {
    each_seed(0..200, |seed| {
        let mut seeded = seeded(seed);
        let used = 3 + seeded.below(4);
        let joined = seeded.below(3);
        let draining: &[i32] = if joined > 0 && seeded.below(2) == 0 { &[1] } else { &[] };
        let cluster = random(&mut seeded, used + joined, used, 40 * (used + joined), draining);
        let plan = plan(&cluster, Goals::Balance).expect("possible");
        check_plan(&cluster, &plan);
        let imbalance = imbalance_permille(shares(&cluster, &plan, |load| load.bytes));
        assert!(imbalance <= 50, "bytes: {imbalance} thousandths");
        for shares in [shares(&cluster, &plan, |load| load.replicas), shares(&cluster, &plan, |load| load.leaders)] {
            assert!(is_even(&shares), "{shares:?}");
        }
        let (moved, least) = (plan.bytes(), least_bytes(&cluster));
        // Where the bytes are nearly even, few replicas move for the counts alone: as many as the largest ones hold.
        let for_counts: u64 = count_moves(&cluster) * LARGEST_BYTES;
        // No plan passes below `least`, and one of whole replicas may have to pass it by one.
        let bound = least.max(for_counts) * 11 / 10 + LARGEST_BYTES;
        assert!(moved <= bound, "moved {moved}, least {least}, for counts {for_counts}");
        let again = Cluster {
            brokers: cluster.brokers.clone(),
            partitions: cluster
                .partitions
                .iter()
                .map(|(key, was)| {
                    let moved = plan.moves.iter().find(|one| one.partition == *key);
                    let replicas = moved.map_or_else(|| was.replicas.clone(), |one| one.to.clone());
                    (*key, BalancedPartition { replicas, bytes: was.bytes })
                })
                .collect(),
        };
        assert!(super::plan(&again, Goals::Balance).expect("possible").moves.is_empty(), "a plan is final");
    });
}

/// Replicas that every plan moves so that the counts are even.
fn count_moves(cluster: &Cluster<usize>) -> u64 {
    let loads = loads(cluster.brokers.iter().map(|broker| broker.id), cluster.partitions.values());
    let total = loads.values().map(|load| load.replicas).sum();
    let takers = || cluster.brokers.iter().filter(|broker| broker.role == BrokerRole::Shares);
    let band = Band::of_count(total, u64::try_from(takers().count()).expect("small"));
    let above: u64 = takers().map(|broker| band.excess(loads[&broker.id].replicas)).sum();
    let below: u64 = takers().map(|broker| band.lack(loads[&broker.id].replicas)).sum();
    above.max(below)
}

#[test]
fn a_drain_moves_what_must_move_and_nothing_else() {
    each_seed(0..200, |seed| {
        let mut seeded = seeded(seed);
        let used = 4 + seeded.below(3);
        let cluster = random(&mut seeded, used, used, 60, &[2]);
        let plan = plan(&cluster, Goals::Vacate).expect("possible");
        check_plan(&cluster, &plan);
        assert_eq!(plan.bytes(), plan.before[&BrokerId(2)].bytes);
        assert_eq!(plan.after[&BrokerId(2)], Load::default());
    });
}

#[test]
fn a_cluster_that_is_even_stays_as_it_is() {
    let brokers = [1, 2, 3].map(|id| broker(id, None, true)).to_vec();
    let partitions = [(0, partition(&[1, 2], 10)), (1, partition(&[2, 3], 10)), (2, partition(&[3, 1], 10))].into();
    let plan = plan(&Cluster { brokers, partitions }, Goals::Balance).expect("possible");
    assert_eq!(plan.moves, []);
}

#[test]
fn replicas_that_share_a_rack_move_to_a_free_one() {
    let racks = [(1, "a"), (2, "a"), (3, "b"), (4, "b")];
    let brokers: Vec<_> = racks.iter().map(|(id, rack)| broker(*id, Some(rack), true)).collect();
    let partitions = [(0, partition(&[1, 2], 10)), (1, partition(&[3, 4], 10))].into();
    let cluster = Cluster { brokers, partitions };
    let plan = plan(&cluster, Goals::Balance).expect("possible");
    assert_eq!(plan.bytes(), 20, "{plan:?}");
    for one in &plan.moves {
        let held: BTreeSet<_> = one.to.iter().map(|broker| (broker.0 - 1) / 2).collect();
        assert_eq!(held.len(), 2, "{one:?}");
    }
}

#[test]
fn a_drain_keeps_racks_apart() {
    let racks = [(1, "a"), (2, "a"), (3, "b"), (4, "b")];
    let brokers: Vec<_> = racks.iter().map(|(id, rack)| broker(*id, Some(rack), *id != 1)).collect();
    let partitions = (0..20).map(|number| (number, partition(&[1, 3], 10))).collect();
    let plan = plan(&Cluster { brokers, partitions }, Goals::Vacate).expect("possible");
    assert!(plan.moves.iter().all(|one| one.to == [BrokerId(2), BrokerId(3)]), "{:?}", plan.moves);
}

#[test]
fn leaders_follow_ways_over_several_brokers() {
    let brokers = [1, 2, 3].map(|id| broker(id, None, true)).to_vec();
    // Broker 3 shares no partition with 1: what 1 gives to 2, 2 gives to 3.
    let partitions = [(0, partition(&[1, 2], 0)), (1, partition(&[1, 2], 0)), (2, partition(&[2, 3], 0))].into();
    let mut replicas: Vec<_> =
        BTreeMap::<i32, BalancedPartition>::into_values(partitions).map(|p| p.replicas).collect();
    leaders::balance(&mut replicas, &brokers.iter().map(|broker| broker.id).collect());
    let firsts: BTreeSet<_> = replicas.iter().map(|list| list[0].0).collect();
    assert_eq!(firsts, [1, 2, 3].into(), "{replicas:?}");
}

#[test]
fn a_broker_that_keeps_its_replicas_is_left_alone() {
    let mut brokers = [1, 2, 3].map(|id| broker(id, None, true)).to_vec();
    brokers[0].role = BrokerRole::Keeps;
    let partitions = (0..20).map(|number| (number, partition(&[1, 2], 10))).collect();
    let plan = plan(&Cluster { brokers, partitions }, Goals::Balance).expect("possible");
    assert_eq!(plan.after[&BrokerId(1)], Load { bytes: 200, replicas: 20, leaders: 20 });
    assert!(plan.moves.iter().all(|one| one.added().all(|broker| broker == BrokerId(3))), "{:?}", plan.moves);
    assert_eq!(plan.after[&BrokerId(3)].replicas, 10);
}

/// A plan took the replica, and the leadership, of a broker that was only being restarted.
#[test]
fn a_broker_that_keeps_its_replicas_gives_none_for_the_racks_or_for_the_leaders_of_others() {
    let mut brokers = [(1, "a"), (2, "a"), (3, "b")].map(|(id, rack)| broker(id, Some(rack), true)).to_vec();
    brokers[1].role = BrokerRole::Keeps;
    let partitions = [(0, partition(&[1, 2], 10))].into();
    let plan = super::plan(&Cluster { brokers, partitions }, Goals::Balance).expect("possible");
    let moved: Vec<_> = plan.moves.iter().map(|one| one.to.clone()).collect();
    assert_eq!(moved, [[BrokerId(3), BrokerId(2)]]);

    let mut replicas = vec![vec![BrokerId(2), BrokerId(1)]; 5];
    replicas.extend(vec![vec![BrokerId(1), BrokerId(2), BrokerId(3)]; 4]);
    leaders::balance(&mut replicas, &[BrokerId(1), BrokerId(3)].into());
    let led = |broker| replicas.iter().filter(|list| list[0] == BrokerId(broker)).count();
    assert_eq!([1, 2, 3].map(led), [2, 5, 2]);
}

#[test]
fn impossible_plans_say_why() {
    let partitions: BTreeMap<_, _> = [(0, partition(&[1, 2], 1))].into();
    let fewer =
        Cluster { brokers: vec![broker(1, None, true), broker(2, None, false)], partitions: partitions.clone() };
    assert_eq!(plan(&fewer, Goals::Vacate), Err(BalanceError::TooFewTakers { factor: 2, takers: 1 }));
    let none = Cluster { brokers: vec![broker(1, None, false)], partitions };
    assert_eq!(plan(&none, Goals::Balance), Err(BalanceError::NoTaker));
}

#[test]
fn waves_are_bounded_and_always_go_on() {
    let limits = WaveLimits { partitions: 3, bytes: 100 };
    let execution = |sizes: &[u64]| {
        let one = |(partition, bytes): (usize, &u64)| PlannedMove {
            partition,
            from: vec![BrokerId(1)],
            to: vec![BrokerId(2)],
            bytes: *bytes,
        };
        Execution::new(sizes.iter().enumerate().map(one).collect(), limits, BrokenRules::default())
    };
    let mut moves = execution(&[60, 40, 1, 500, 0, 0, 0, 0]);
    let mut wave = |active: &[usize]| {
        let done = moves.still_active(&active.iter().copied().collect()).len();
        (done, moves.next_wave().iter().map(|one| one.partition).collect::<Vec<_>>())
    };
    assert_eq!(wave(&[]), (0, vec![0, 1]), "the bytes are used up");
    assert_eq!(wave(&[0, 1]), (0, vec![]));
    assert_eq!(wave(&[0]), (1, vec![2]), "500 has to wait");
    assert_eq!(wave(&[2]), (1, vec![]));
    assert_eq!(wave(&[]), (1, vec![3]), "alone it moves although it is larger");
    assert_eq!(wave(&[]), (1, vec![4, 5, 6]));
    assert_eq!(wave(&[5, 6]), (1, vec![7]));
    assert!(!moves.is_done());
    assert_eq!(moves.still_active(&BTreeSet::new()).len(), 3);
    assert!(moves.is_done() && moves.next_wave().is_empty());
}
