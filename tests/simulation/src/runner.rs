//! A run: a seed's cluster and faults, then healing, then the demand that everything comes together.

use std::fmt;

use ottla_broker_session::BrokenRules as SessionRules;
use ottla_metadata::balance::BrokenRules as BalanceRules;
use ottla_metadata::controller::BrokenRules as ControllerRules;
use ottla_model::BrokerId;
use ottla_partition::BrokenRules;
use ottla_quorum_node::BrokenRules as NodeRules;
use ottla_replica_fetcher::BrokenRules as FetcherRules;

use ottla_storage::env::Faults;

use crate::broker::BrokerNode;
use crate::clock::SimTime;
use crate::faults::{FaultPlan, Kind};
use crate::invariants::Violation;
use crate::network::NodeId;
use crate::random::Random;
use crate::security::{Counts, SecurityConfig};
use crate::world::{self, World, WorldConfig};

/// How long faults last, in simulated seconds.
const FAULTS_SECS: (u64, u64) = (6, 16);
/// Producers go on after the healing, for this long at least, until each has an answer.
const CALM_MS: u64 = 1_500;
/// How often the calm is looked at.
const CALM_LOOK_MS: u64 = 250;
/// Longer than a session of a broker.
const FENCED_MS: u64 = 4_000;
/// How long a disk does not answer: sometimes longer than faults last.
const STALL_MS: (u64, u64) = (200, 25_000);
/// How long brokers and a coordinator do not reach each other: as long as faults last, or less.
const CUT_COORDINATOR_MS: (u64, u64) = (2_000, 16_000);
/// Everything has come together by then.
const CONVERGENCE_MS: u64 = 60_000;

/// What may be set for a run besides its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Print every step.
    pub prints: bool,
    pub rules: BrokenRules,
    pub fetcher_rules: FetcherRules,
    pub session_rules: SessionRules,
    pub controller_rules: ControllerRules,
    pub node_rules: NodeRules,
    pub balance_rules: BalanceRules,
    /// Producers of transactions.
    pub transactors: u32,
    /// Processes of two releases side by side.
    pub releases: bool,
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub seed: u64,
    pub trace_hash: u64,
    pub events: u64,
    pub checks: u64,
    pub acknowledged: usize,
    pub committed: usize,
    pub exempt_partitions: u64,
    pub unclean_elections: usize,
    /// Of the seeds with security.
    pub security: Option<Counts>,
    pub failure: Option<Failure>,
    /// The options of the command line that the run had.
    pub sim_options: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub what: String,
    pub at: SimTime,
    /// The last lines of the trace.
    pub tail: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            None => write!(
                f,
                "seed {}: {} events, {} records committed, {} batches acknowledged, trace {:016x}",
                self.seed, self.events, self.committed, self.acknowledged, self.trace_hash
            )
            .and_then(|()| match &self.security {
                Some(counts) => write!(f, "; security: {counts}"),
                None => Ok(()),
            }),
            Some(failure) => {
                for line in &failure.tail {
                    writeln!(f, "{line}")?;
                }
                writeln!(f, "seed {}: at {}: {}", self.seed, failure.at, failure.what)?;
                write!(f, "replay: make sim SEED={}", self.seed)?;
                match self.sim_options.as_str() {
                    "" => Ok(()),
                    options => write!(f, " SIM_OPTIONS=\"{options}\""),
                }
            }
        }
    }
}

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Report {
    let mut random = Random::new(seed ^ 0x5EED_0F0F_A017_5EED);
    let config = WorldConfig {
        rules: options.rules,
        fetcher_rules: options.fetcher_rules,
        session_rules: options.session_rules,
        controller_rules: options.controller_rules,
        node_rules: options.node_rules,
        balance_rules: options.balance_rules,
        transactors: options.transactors,
        security: SecurityConfig::of_seed(seed),
        releases: options.releases,
        ..WorldConfig::draw(&mut random).drawn_aside(seed, options.transactors == 0)
    };
    let mut plan = FaultPlan::draw(&mut random);
    if options.releases {
        plan = plan.with(Kind::OF_RELEASES);
    }
    run_with(seed, config, &plan, random, options.prints)
}

/// Runs one seed with a cluster and faults that are given.
pub fn run_with(seed: u64, config: WorldConfig, plan: &FaultPlan, mut random: Random, prints: bool) -> Report {
    let sim_options = sim_options(&config);
    let mut world = World::new(seed, config, prints);
    let result = Run { world: &mut world, plan, random: &mut random }.all();
    Report {
        seed,
        trace_hash: world.trace.hash(),
        events: world.events,
        checks: world.invariants.checks,
        acknowledged: world.invariants.acknowledged_batches(),
        committed: world.invariants.committed_records(),
        exempt_partitions: world.invariants.exempt_partitions,
        unclean_elections: world.unclean_elections(),
        security: world.security.as_ref().map(|security| security.counts),
        failure: result.err().map(|violation| Failure { what: violation.0, at: world.now, tail: world.trace.tail() }),
        sim_options,
    }
}

/// Without them the command line would run another cluster from the same seed.
fn sim_options(config: &WorldConfig) -> String {
    let mut options = Vec::new();
    if config.transactors > 0 {
        options.push(format!("--transactors {}", config.transactors));
    }
    if config.releases {
        options.push("--releases".to_owned());
    }
    if !options.is_empty() {
        options.insert(0, "--clusters".to_owned());
    }
    options.join(" ")
}

struct Run<'a> {
    world: &'a mut World,
    plan: &'a FaultPlan,
    random: &'a mut Random,
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), Violation> {
        let plan = format!("{:?}", self.plan);
        self.world.trace.line(self.world.now, format_args!("{:?}; {plan}", self.world.config));
        self.world.create_topic("t");
        // Most seeds begin with a whole cluster, some with faults while it forms.
        if self.random.percent(80) {
            self.world.run_for_ms(3_000)?;
        }
        let end = self.world.now.plus_ms(self.random.between(FAULTS_SECS.0, FAULTS_SECS.1) * 1_000);
        while self.world.now < end {
            let gap = self.random.between(self.plan.gap_ms.0, self.plan.gap_ms.1);
            self.world.run_for_ms(gap)?;
            if let Some(kind) = self.plan.next_kind(self.random) {
                self.strike(kind)?;
            }
        }
        self.world.heal();
        let before: Vec<_> = self.world.producers.values().map(|producer| producer.acknowledged).collect();
        let end = self.world.now.plus_ms(CONVERGENCE_MS);
        loop {
            self.run_calmly(CALM_MS)?;
            if self.world.is_admin_done() && self.world.partitions().is_empty() {
                // A deletion that came late took the new topic.
                self.world.create_topic("t");
            }
            let now = self.world.producers.values().map(|producer| producer.acknowledged);
            if now.zip(&before).all(|(now, before)| now > *before) {
                break;
            }
            if self.world.now >= end && self.world.for_people() == 0 {
                let missing = self.world.what_is_missing().unwrap_or_default();
                return Err(Violation(format!(
                    "{} s after the last fault nothing is acknowledged ({missing})",
                    CONVERGENCE_MS / 1_000
                )));
            }
            if self.world.now >= end {
                break;
            }
        }
        for producer in self.world.producers.values_mut() {
            producer.is_stopping = true;
        }
        for transactor in self.world.transactors.values_mut() {
            transactor.is_stopping = true;
        }
        self.converge()
    }

    fn converge(&mut self) -> Result<(), Violation> {
        let end = self.world.now.plus_ms(CONVERGENCE_MS);
        let mut missing = String::new();
        while self.world.now < end {
            self.run_calmly(CALM_LOOK_MS)?;
            let busy = self.world.producers.values().any(|producer| !producer.is_idle())
                || self.world.transactors.values().any(|transactor| !transactor.is_idle());
            match self.world.what_is_missing() {
                Some(what) => missing = what,
                // What only people can mend shows only in the end: it may be on its way.
                None if self.world.for_people() > 0 => missing.clear(),
                None if busy => "a producer has no answer".clone_into(&mut missing),
                None => return self.finish(),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Violation(format!("{} s after the last fault: {missing}", CONVERGENCE_MS / 1_000)))
    }

    /// Time passes without faults, but for disks that do not answer yet.
    fn run_calmly(&mut self, ms: u64) -> Result<(), Violation> {
        let end = self.world.now.plus_ms(ms);
        while self.world.now < end {
            self.world.run_for_ms(CALM_LOOK_MS)?;
            self.world.check_stalled()?;
            self.world.restart_undecided();
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Violation> {
        self.world.check_told()?;
        for partition in self.world.partitions() {
            let Some(leader) = self.world.leader_of(partition) else { continue };
            let Some(replica) = self.world.brokers.get(&leader).and_then(|broker| broker.replica(partition)) else {
                continue;
            };
            self.world.invariants.finished(partition, &replica.content)?;
            for replica in self.world.brokers.values().filter_map(|broker| broker.replica(partition)) {
                let hidden = replica.hidden().map_err(Violation)?;
                let log_start = replica.log_start();
                self.world.invariants.finished_transactions(partition, &replica.content, log_start, &hidden)?;
            }
        }
        Ok(())
    }

    fn outage(&mut self) -> u64 {
        self.random.between(self.plan.outage_ms.0, self.plan.outage_ms.1)
    }

    fn a_broker(&mut self) -> i32 {
        let ids: Vec<_> = self.world.brokers.keys().copied().collect();
        self.random.pick(&ids).copied().unwrap_or(1)
    }

    /// Often the one that leads: there it hurts.
    fn an_important_broker(&mut self) -> i32 {
        let partitions = self.world.partitions();
        if self.random.percent(60)
            && let Some(partition) = self.random.pick(&partitions)
            && let Some(leader) = self.world.leader_of(*partition)
        {
            return leader;
        }
        self.a_broker()
    }

    /// Brokers in any order, as many as the promises need or more.
    fn some_replicas(&mut self) -> Vec<BrokerId> {
        let mut brokers: Vec<_> = self.world.brokers.keys().copied().map(BrokerId).collect();
        let most = brokers.len().min(4);
        let least = self.world.config.min_isr.min(most);
        let count = usize::try_from(self.random.between(least as u64, most as u64)).unwrap_or(least);
        let mut replicas = Vec::new();
        while replicas.len() < count {
            let at = usize::try_from(self.random.below(brokers.len() as u64)).unwrap_or(0);
            replicas.push(brokers.swap_remove(at));
        }
        replicas
    }

    fn a_disk(&mut self, broker: i32) -> usize {
        let disks = self.world.brokers.get(&broker).map_or(1, BrokerNode::disks);
        usize::try_from(self.random.below(disks as u64)).unwrap_or(0)
    }

    fn a_coordinator(&mut self) -> u64 {
        let leading = self.world.coordinators.iter().find(|(_, node)| node.is_leading()).map(|(id, _)| *id);
        let ids: Vec<_> = self.world.coordinators.keys().copied().collect();
        match leading {
            Some(leader) if self.random.percent(50) => leader,
            _ => self.random.pick(&ids).copied().unwrap_or(1),
        }
    }

    fn a_server(&mut self) -> NodeId {
        if self.random.percent(70) {
            NodeId::Broker(self.a_broker())
        } else {
            NodeId::Coordinator(self.a_coordinator())
        }
    }

    fn strike(&mut self, kind: Kind) -> Result<(), Violation> {
        let outage = self.outage();
        match kind {
            Kind::ChangeRelease => {
                let node = self.a_server();
                self.world.change_release(node);
                self.world.start_after(node, outage);
            }
            Kind::ChangeLevel => {
                let level = if self.random.percent(70) { world::NEWER.max } else { world::OLDER.max };
                self.world.change_level(level);
            }
            Kind::ChangeToken => self.world.change_token(),
            Kind::Weather => {
                let weather = FaultPlan::weather(self.random);
                self.world.trace.line(self.world.now, format_args!("{weather:?}"));
                self.world.network.set_weather(weather);
            }
            Kind::CutLink => {
                let (from, to) = (self.a_server(), self.a_server());
                let both = self.random.percent(60);
                if from != to {
                    self.world.cut(from, to, both, outage);
                }
            }
            Kind::IsolateNode => {
                let node = self.a_server();
                // From everybody, from the quorum, or from its peers (scenario 16).
                let from_coordinators = self.random.percent(70);
                let from_brokers = !from_coordinators || self.random.percent(60);
                let one_way = self.random.percent(30);
                let others: Vec<_> = self.world.all_servers().filter(|other| *other != node).collect();
                for other in others {
                    let is_concerned = match other {
                        NodeId::Coordinator(_) => from_coordinators,
                        _ => from_brokers,
                    };
                    if is_concerned {
                        self.world.cut(node, other, !one_way, outage);
                    }
                }
            }
            Kind::KillBroker => {
                let node = NodeId::Broker(self.an_important_broker());
                self.world.kill(node);
                self.world.start_after(node, outage);
            }
            Kind::PowerLossOfBroker => {
                let id = self.an_important_broker();
                if !self.plan.keeps_promise || self.world.may_lose_power(id) {
                    self.world.lose_power(NodeId::Broker(id));
                    self.world.start_after(NodeId::Broker(id), outage);
                }
            }
            Kind::ShutDownBroker => {
                let id = self.an_important_broker();
                self.world.shut_down(id);
            }
            Kind::PauseBroker => {
                let node = NodeId::Broker(self.an_important_broker());
                self.world.pause(node, outage);
            }
            Kind::KillCoordinator => {
                let node = NodeId::Coordinator(self.a_coordinator());
                self.world.kill(node);
                self.world.start_after(node, outage);
            }
            Kind::PowerLossOfCoordinator => {
                let node = NodeId::Coordinator(self.a_coordinator());
                self.world.lose_power(node);
                self.world.start_after(node, outage);
            }
            Kind::PauseCoordinator => {
                let node = NodeId::Coordinator(self.a_coordinator());
                self.world.pause(node, outage);
            }
            Kind::CrashCoordinatorMidway => {
                let id = self.a_coordinator();
                let steps = u32::try_from(self.random.below(12)).unwrap_or(0);
                if let Some(node) = self.world.coordinators.get_mut(&id) {
                    node.arm_crash(steps);
                }
            }
            Kind::DiskLossOfCoordinator => {
                if self.world.is_quorum_whole() {
                    let id = self.a_coordinator();
                    self.world.lose_disk(id);
                    self.world.start_after(NodeId::Coordinator(id), outage);
                }
            }
            Kind::GrowQuorum => self.world.grow_quorum(),
            Kind::ShrinkQuorum => {
                let id = self.a_coordinator();
                self.world.shrink_quorum(id);
            }
            Kind::ReplaceCoordinator => self.world.replace_member(),
            Kind::TransferQuorum => {
                let id = self.a_coordinator();
                self.world.transfer_quorum(id);
            }
            Kind::ForgeStream => {
                let id = self.a_coordinator();
                self.world.forge_stream(id);
            }
            Kind::FreezeClock => {
                let node = self.a_server();
                self.world.freeze_clock(node, outage);
            }
            Kind::SetWallClock => {
                let node = self.a_server();
                // Less than `producer.id.expiration.ms`: further jumps end idempotence, as they do in Kafka.
                let offset = i64::try_from(self.random.between(0, 60_000_000)).unwrap_or(0) - 30_000_000;
                self.world.set_wall_clock(node, offset);
            }
            Kind::DiskErrors => {
                let id = self.an_important_broker();
                if self.plan.keeps_promise && !self.world.may_lose_power(id) {
                    return Ok(());
                }
                let ppm = u32::try_from(self.random.between(500, 30_000)).unwrap_or(0);
                let faults = Faults { io_error_ppm: ppm, no_space_ppm: ppm, sync_error_ppm: ppm, ..Faults::NONE };
                let directory = self.a_disk(id);
                self.world.break_disk(id, directory, faults, outage);
            }
            Kind::FailDirectory => {
                let id = self.an_important_broker();
                if self.plan.keeps_promise && !self.world.may_lose_power(id) {
                    return Ok(());
                }
                let directory = self.a_disk(id);
                let faults = Faults { io_error_ppm: 1_000_000, sync_error_ppm: 1_000_000, ..Faults::NONE };
                self.world.break_disk(id, directory, faults, outage);
                if self.random.percent(50) {
                    self.world.kill(NodeId::Broker(id));
                    self.world.start_after(NodeId::Broker(id), outage / 4);
                }
            }
            Kind::FillDisk => {
                let id = self.an_important_broker();
                let directory = self.a_disk(id);
                let faults = Faults { no_space_ppm: 1_000_000, ..Faults::NONE };
                self.world.break_disk(id, directory, faults, outage);
            }
            Kind::StallDirectory => {
                let id = self.an_important_broker();
                let directory = self.a_disk(id);
                let ms = self.random.between(STALL_MS.0, STALL_MS.1);
                self.world.stall_disk(id, directory, ms);
            }
            Kind::MoveReplica => {
                let id = self.an_important_broker();
                let directory = self.a_disk(id);
                let held: Vec<_> = match self.world.brokers.get(&id) {
                    Some(broker) => broker.replicas().map(|(partition, _)| *partition).collect(),
                    None => Vec::new(),
                };
                if let Some(partition) = self.random.pick(&held).copied() {
                    self.world.move_replica(id, partition, directory)?;
                }
            }
            Kind::CopyLog => {
                let id = self.an_important_broker();
                let is_old = self.random.percent(60);
                self.world.copy_log(id, is_old);
                self.world.start_after(NodeId::Broker(id), outage);
            }
            Kind::ReplaceDisk => {
                let id = self.an_important_broker();
                if !self.plan.keeps_promise || self.world.may_lose_power(id) {
                    let directory = self.random.percent(60).then(|| self.a_disk(id));
                    self.world.replace_disks(id, directory);
                    self.world.start_after(NodeId::Broker(id), outage);
                }
            }
            Kind::FlipByte => {
                let id = self.an_important_broker();
                if self.world.is_running(NodeId::Broker(id))
                    && (!self.plan.keeps_promise || self.world.may_lose_power(id))
                {
                    let loses_power = self.random.percent(50);
                    self.world.flip_byte(id, loses_power);
                    self.world.start_after(NodeId::Broker(id), outage);
                }
            }
            Kind::FenceBroker => {
                let node = NodeId::Broker(self.an_important_broker());
                // Sometimes the quorum still hears the broker, whose ISR changes are decided then; it does not learn of
                // them.
                let is_deaf = self.random.percent(40);
                let ms = if is_deaf { outage } else { outage.max(FENCED_MS) };
                let coordinators: Vec<_> = self.world.coordinators.keys().copied().collect();
                for id in coordinators {
                    self.world.cut(NodeId::Coordinator(id), node, !is_deaf, ms);
                }
            }
            Kind::CutCoordinator => {
                let coordinator = NodeId::Coordinator(self.a_coordinator());
                let percent = if self.random.percent(50) { 100 } else { 60 };
                let ms = self.random.between(CUT_COORDINATOR_MS.0, CUT_COORDINATOR_MS.1);
                let brokers: Vec<_> = self.world.brokers.keys().map(|id| NodeId::Broker(*id)).collect();
                for broker in brokers {
                    if self.random.percent(percent) {
                        let is_one_way = self.random.percent(30);
                        let (from, to) =
                            if self.random.percent(50) { (broker, coordinator) } else { (coordinator, broker) };
                        self.world.cut(from, to, !is_one_way, ms);
                    }
                }
            }
            Kind::DeleteRecords => {
                let partitions = self.world.partitions();
                if let Some(partition) = self.random.pick(&partitions).copied() {
                    let percent = self.random.between(10, 100);
                    self.world.delete_records(partition, percent)?;
                }
            }
            Kind::LateBounds => {
                self.world.trace.line(self.world.now, format_args!("bounds are answered late for {outage} ms"));
                self.world.late_bounds_until = self.world.now.plus_ms(outage);
            }
            Kind::RecreateTopic => {
                if self.world.is_admin_done() {
                    self.world.delete_topic("t");
                    self.world.create_topic("t");
                }
            }
            Kind::Reassign => {
                let partitions = self.world.partitions();
                if let Some(partition) = self.random.pick(&partitions).copied() {
                    let target = self.some_replicas();
                    self.world.reassign(partition, Some(target));
                }
            }
            Kind::CancelReassignment => {
                let partitions = self.world.reassigning();
                if let Some(partition) = self.random.pick(&partitions).copied() {
                    self.world.reassign(partition, None);
                }
            }
            Kind::ReassignAll => {
                let target = self.some_replicas();
                self.world.reassign_all(&target);
            }
            Kind::ElectPreferred => self.world.elect_preferred(),
            // Transactions are not promised to be whole then.
            Kind::ElectUnclean if self.world.config.transactors > 0 => {}
            Kind::ElectUnclean => self.world.elect_unclean(),
            Kind::DrainBroker => {
                let broker = self.a_broker();
                self.world.drain(broker);
            }
            Kind::Rebalance => self.world.rebalance(),
            Kind::KillAll => {
                let nodes: Vec<_> = self.world.all_servers().collect();
                for node in nodes {
                    self.world.kill(node);
                    let delay = self.random.between(0, 500);
                    self.world.start_after(node, delay);
                }
            }
        }
        Ok(())
    }
}
