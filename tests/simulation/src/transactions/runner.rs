//! A run: a seed's producers and faults, then healing, then the demand that producers go on and every transaction ends.

use std::fmt;

use ottla_model::TransactionalId;
use ottla_partition::BrokenRules as LeaderRules;
use ottla_transaction_coordinator::TransactionConfig;
use ottla_transaction_coordinator::config::BrokenRules as CoordinatorRules;

use super::world::{Habits, World};
use crate::coordinator_log::{LogWorld as _, Weather};
use crate::invariants::Violation;
use crate::random::Random;
use crate::runner::Failure;

/// How long faults last, in simulated seconds.
const FAULTS_SECS: (u64, u64) = (5, 30);
/// Every transaction has ended by then: the longest time-out, an election, and a few tries.
const ENDING_MS: u64 = 20_000;
const BROKERS: i32 = 3;

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub seed: u64,
    pub trace_hash: u64,
    pub events: u64,
    pub commits: u64,
    pub aborts: u64,
    pub markers: u64,
    pub failure: Option<Failure>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            None => write!(
                f,
                "transactions, seed {}: {} events, {} commits and {} aborts, {} markers, trace {:016x}",
                self.seed, self.events, self.commits, self.aborts, self.markers, self.trace_hash
            ),
            Some(failure) => {
                for line in &failure.tail {
                    writeln!(f, "{line}")?;
                }
                writeln!(f, "transactions, seed {}: at {}: {}", self.seed, failure.at, failure.what)?;
                write!(f, "replay: make sim SEED={}", self.seed)
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Weather,
    KillBroker,
    MoveCoordinator,
    MoveLeader,
    ShrinkIsr,
    CrashClient,
    Zombie,
    DeletePartition,
}

const FAULTS: &[Fault] = &[
    Fault::Weather,
    Fault::KillBroker,
    Fault::MoveCoordinator,
    Fault::MoveLeader,
    Fault::ShrinkIsr,
    Fault::CrashClient,
    Fault::Zombie,
    Fault::DeletePartition,
];

/// The rules of transactions that a run breaks; by default none.
#[derive(Clone, Copy, Debug, Default)]
pub struct BrokenRules {
    pub coordinators: CoordinatorRules,
    pub leaders: LeaderRules,
}

pub fn run(seed: u64, broken_rules: BrokenRules, prints: bool) -> Report {
    let mut random = Random::new(seed ^ 0x3C6E_F372_FE94_F82B);
    let config = TransactionConfig {
        abort_timed_out_interval_ms: 200,
        remove_expired_interval_ms: 500,
        id_expiration_ms: if random.percent(20) { 2_000 } else { 600_000 },
        broken_rules: broken_rules.coordinators,
        ..TransactionConfig::default()
    };
    let partitions = i32::try_from(random.between(1, 2)).unwrap_or(1);
    // No dice: those of the odd seeds, some of which are named, fall as before there were such clients.
    let habits = if seed.is_multiple_of(2) { Habits::GivesUp } else { Habits::Patient };
    let mut world = World::new(seed, BROKERS, partitions, config, prints);
    world.habits = habits;
    world.break_leaders(broken_rules.leaders);
    let result = all(&mut world, &mut random);
    Report {
        seed,
        trace_hash: world.trace.hash(),
        events: world.events,
        commits: world.invariants.commits,
        aborts: world.invariants.aborts,
        markers: world.invariants.markers,
        failure: result.err().map(|violation| Failure { what: violation.0, at: world.now, tail: world.trace.tail() }),
    }
}

fn all(world: &mut World, random: &mut Random) -> Result<(), Violation> {
    let faults: Vec<Fault> = FAULTS.iter().copied().filter(|_| random.percent(60)).collect();
    let outage_ms = random.between(300, 4_000);
    world.note(format_args!("{faults:?} {outage_ms}"));
    for at in 0..random.between(1, 5) {
        world.add_client(&TransactionalId::new(format!("producer-{at}")));
    }
    let end = world.now.plus_ms(random.between(FAULTS_SECS.0, FAULTS_SECS.1) * 1_000);
    let gap = random.between(50, 1_000);
    while world.now < end {
        world.run_for_ms(random.between(gap / 2, gap * 2))?;
        if let Some(fault) = random.pick(&faults).copied() {
            strike(world, random, fault, outage_ms);
        }
    }
    heal(world);
    go_on(world)?;
    come_to_rest(world)
}

fn strike(world: &mut World, random: &mut Random, fault: Fault, outage_ms: u64) {
    let outage = random.between(20, outage_ms);
    let broker = i32::try_from(random.between(1, BROKERS.unsigned_abs().into())).unwrap_or(1);
    let partition = i32::try_from(random.below(world.logs.partitions.len() as u64)).unwrap_or(0);
    let leader = world.leader_of(partition);
    let data = usize::try_from(random.below(world.data.len() as u64)).unwrap_or(0);
    let client = u32::try_from(random.below(world.clients.len() as u64)).unwrap_or(0);
    match fault {
        Fault::Weather => {
            world.weather = Weather {
                latency_us: (50, random.between(500, 150_000)),
                lost_ppm: u32::try_from(random.between(0, 100_000)).unwrap_or(0),
                replication_us: (200, random.between(1_000, 400_000)),
                image_lag_us: (500, random.between(1_000, 1_500_000)),
                load_us: (50, random.between(500, 100_000)),
            };
            world.refused_ppm = u32::try_from(random.between(0, 50_000)).unwrap_or(0);
            if random.percent(30) {
                (world.weather, world.refused_ppm) = (Weather::CALM, 0);
            }
            let weather = world.weather;
            world.note(format_args!("{weather:?}"));
        }
        Fault::KillBroker => {
            let id = leader.filter(|_| random.percent(70)).unwrap_or(broker);
            if world.brokers.get(&id).is_some_and(|broker| broker.is_running) {
                world.kill_broker(id);
                world.start_broker_after_ms(id, outage);
            }
        }
        Fault::MoveCoordinator => world.elect(partition, leader),
        Fault::MoveLeader => world.move_data(data, broker),
        Fault::ShrinkIsr => {
            if leader != Some(broker) {
                world.shrink_isr(partition, broker, outage);
            }
        }
        Fault::CrashClient => world.crash_client(client),
        Fault::Zombie => {
            // A second process under the same id, while the first goes on.
            if world.clients.len() < 12
                && let Some(id) = world.clients.get(&client).map(|client| client.id.clone())
            {
                world.note(format_args!("another process calls itself {id}"));
                world.add_client(&id);
            }
        }
        Fault::DeletePartition => {
            let left = world.data.iter().filter(|data| !data.is_deleted).count();
            if left > 2 && random.percent(20) {
                world.delete_data(data);
            }
        }
    }
}

pub(super) fn heal(world: &mut World) {
    world.note(format_args!("faults are over"));
    (world.weather, world.refused_ppm) = (Weather::CALM, 0);
    for id in 1..=BROKERS {
        world.start_broker_after_ms(id, 0);
    }
}

/// Clients go on: somebody ends a transaction of each id.
pub(super) fn go_on(world: &mut World) -> Result<(), Violation> {
    let of_id = |world: &World, id: &TransactionalId| -> u64 {
        world.clients.values().filter(|client| client.id == *id).map(|client| client.ended).sum()
    };
    let ids: Vec<TransactionalId> = world.clients.values().map(|client| client.id.clone()).collect();
    let before: Vec<u64> = ids.iter().map(|id| of_id(world, id)).collect();
    let end = world.now.plus_ms(ENDING_MS);
    loop {
        world.run_for_ms(100)?;
        let waiting = ids.iter().zip(&before).find(|(id, before)| of_id(world, id) == **before);
        match waiting {
            None => return Ok(()),
            Some((id, _)) if world.now >= end => {
                return Err(Violation(format!("{ENDING_MS} ms after the last fault no transaction of {id} has ended")));
            }
            Some(_) => {}
        }
    }
}

/// Clients begin nothing more: every transaction ends, and what was committed is there.
pub(super) fn come_to_rest(world: &mut World) -> Result<(), Violation> {
    for client in world.clients.values_mut() {
        client.stops = true;
    }
    let end = world.now.plus_ms(ENDING_MS);
    loop {
        world.run_for_ms(100)?;
        let busy = world.clients.values().find(|client| !client.is_at_rest());
        let unrest = world.unrest().or(busy.map(|client| format!("{client:?}")));
        match unrest {
            None => return world.invariants.finished(),
            Some(unrest) if world.now >= end => {
                return Err(Violation(format!("{ENDING_MS} ms after the last client stopped: {unrest}")));
            }
            Some(_) => {}
        }
    }
}
