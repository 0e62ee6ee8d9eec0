//! Brokers are emptied and get their shares, as `ottla broker drain`, `undrain` and `rebalance` do it.

use ottla_metadata::ConfigEntity;
use ottla_metadata::balance::{
    self, BalancedBroker, BalancedPartition, BrokerRole, Cluster, Execution, Goals, WaveLimits,
};
use ottla_metadata::broker_config::CordonedLogDirs;
use ottla_metadata::controller::{AlterConfig, AlterConfigs, ConfigOp};

use super::*;

/// Partitions that move at once: the topics have up to three.
const WAVE_PARTITIONS: usize = 1;
/// A plan that others undo is made again so often.
const PLANS_MAX: usize = 20;

/// What the admin is about.
pub(super) struct Balancing {
    /// The broker that is to hold nothing; none: all get their shares.
    drained: Option<BrokerId>,
    execution: Execution<TopicIdPartition>,
    plans: usize,
}

impl World {
    fn execution(&self, moves: Vec<balance::PlannedMove<TopicIdPartition>>) -> Execution<TopicIdPartition> {
        let limits = WaveLimits { partitions: WAVE_PARTITIONS, ..WaveLimits::default() };
        Execution::new(moves, limits, self.config.balance_rules)
    }

    /// The cluster as the newest image has it; every partition of the same size.
    fn observe(&self, leaving: Option<BrokerId>) -> Cluster<TopicIdPartition> {
        let role = |id: BrokerId| match self.image.broker(id).is_some_and(|broker| broker.is_active()) {
            _ if leaving == Some(id) => BrokerRole::Leaves,
            true if !self.image.is_cordoned(id) => BrokerRole::Shares,
            _ => BrokerRole::Keeps,
        };
        let ids = self.brokers.keys().copied().map(BrokerId);
        let brokers = ids.map(|id| BalancedBroker { id, rack: None, role: role(id) }).collect();
        let mut partitions = BTreeMap::new();
        for partition in self.partitions() {
            let Some(state) = self.image.partition(partition) else { continue };
            partitions.insert(partition, BalancedPartition { replicas: state.assignment().target(), bytes: 1_000 });
        }
        Cluster { brokers, partitions }
    }

    /// Empties a broker, if another one is not cordoned already and the rest can hold everything.
    pub fn drain(&mut self, broker: i32) {
        let broker = BrokerId(broker);
        let is_free = self.balancing.is_none() && self.is_admin_done() && self.cordoned().next().is_none();
        if !is_free || self.config.brokers <= self.config.replication_factor {
            return;
        }
        match balance::plan(&self.observe(Some(broker)), Goals::Vacate) {
            Err(error) => self.trace.line(self.now, format_args!("admin: b{broker} is not drained: {error}")),
            Ok(_) => {
                self.trace.line(self.now, format_args!("admin: drains b{broker}"));
                self.admin.push(AdminTask::Cordon { broker, is_cordoned: true });
                let execution = self.execution(Vec::new());
                self.balancing = Some(Balancing { drained: Some(broker), execution, plans: 0 });
            }
        }
    }

    /// Gives every broker its share, also those that were drained.
    pub fn rebalance(&mut self) {
        if self.balancing.is_some() || !self.is_admin_done() {
            return;
        }
        self.trace.line(self.now, format_args!("admin: rebalances"));
        let cordoned: Vec<_> = self.cordoned().collect();
        self.admin.extend(cordoned.into_iter().map(|broker| AdminTask::Cordon { broker, is_cordoned: false }));
        let execution = self.execution(Vec::new());
        self.balancing = Some(Balancing { drained: None, execution, plans: 0 });
    }

    fn cordoned(&self) -> impl Iterator<Item = BrokerId> + '_ {
        self.brokers.keys().copied().map(BrokerId).filter(|broker| self.image.is_cordoned(*broker))
    }

    /// One step of the plan: what is done, and the next wave.
    pub(super) fn step_balancing(&mut self) {
        if !self.is_admin_done() {
            return;
        }
        let Some(mut balancing) = self.balancing.take() else { return };
        let active: BTreeSet<_> = self.reassigning().into_iter().collect();
        balancing.execution.still_active(&active);
        if balancing.execution.is_done() {
            let goals = if balancing.drained.is_some() { Goals::Vacate } else { Goals::Balance };
            let plan = balance::plan(&self.observe(balancing.drained), goals);
            balancing.plans += 1;
            match plan {
                Ok(plan) if !plan.moves.is_empty() && balancing.plans <= PLANS_MAX => {
                    self.trace.line(self.now, format_args!("admin: {} partitions are to move", plan.moves.len()));
                    balancing.execution = self.execution(plan.moves);
                }
                // Nothing is left to do; or replicas are given to the broker again and again, or brokers are down.
                _ => {
                    self.trace.line(self.now, format_args!("admin: the plans are carried out"));
                    return;
                }
            }
        }
        let wave = balancing.execution.next_wave();
        let wave: Vec<_> = wave.iter().map(|one| (one.partition, one.to.clone())).collect();
        for (partition, target) in wave {
            self.reassign(partition, Some(target));
        }
        self.balancing = Some(balancing);
    }

    pub fn is_balancing(&self) -> bool {
        self.balancing.is_some()
    }

    pub(super) fn cordon_request(broker: BrokerId, is_cordoned: bool) -> AlterConfigs {
        let op = if is_cordoned { ConfigOp::Set("*".to_owned()) } else { ConfigOp::Delete };
        let changes = vec![(CordonedLogDirs::KEY.to_owned(), op)];
        let entity = AlterConfig { entity: ConfigEntity::broker(broker), changes, replace_all: false };
        AlterConfigs { entities: vec![entity], validate_only: false }
    }

    /// What a plan moves at once stays within its bound, whatever others move.
    pub(super) fn check_waves(&self, now: &Image) -> Result<(), Violation> {
        let Some(balancing) = &self.balancing else { return Ok(()) };
        let under_way = balancing.execution.under_way().iter();
        let moving = under_way.filter(|one| now.partition(one.partition).is_some_and(|state| state.is_reassigning()));
        match moving.count() {
            count if count > WAVE_PARTITIONS => Err(Violation(format!("{count} partitions of one wave move at once"))),
            _ => Ok(()),
        }
    }
}

/// A topic that is created gets no replica on a broker that is cordoned.
pub(super) fn check_new_topics(before: &Image, now: &Image) -> Result<(), Violation> {
    for topic in now.topics().filter(|topic| before.topic_by_id(topic.id).is_none()) {
        for (number, state) in topic.partitions() {
            let is_cordoned = |broker: &&BrokerId| before.is_cordoned(**broker) && now.is_cordoned(**broker);
            if let Some(broker) = state.replicas.iter().find(is_cordoned) {
                let name = &topic.name;
                return Err(Violation(format!("{name}-{number} was created on b{broker}, which is cordoned")));
            }
        }
    }
    Ok(())
}

/// A learner votes only when its disk has the log up to the entry that made it a learner.
pub(super) fn check_new_voters(
    before: &Image,
    now: &Image,
    coordinators: &BTreeMap<u64, CoordinatorNode>,
) -> Result<(), Violation> {
    for (id, voter) in now.coordinators().filter(|(_, one)| one.node.standing == Standing::Voter) {
        let Some(learner) = before.coordinator(id).filter(|one| one.node.standing == Standing::Learner) else {
            continue;
        };
        let Some(node) = coordinators.get(&id.0).filter(|node| node.disk_id() == Some(voter.node.disk)) else {
            continue;
        };
        if let Some(end) = node.log_end().filter(|end| *end < learner.modified)
            && learner.node.disk == voter.node.disk
        {
            return Err(Violation(format!(
                "c{id} votes, and its log ends at {end}, before it became a learner at {}",
                learner.modified
            )));
        }
    }
    Ok(())
}
