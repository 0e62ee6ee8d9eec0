//! Which replicas move so that the brokers hold their shares: goals in, a plan out.
//!
//! The goals, strongest first: no replica stays on a broker that leaves; the replicas of a partition are
//! on as many racks as possible; every broker holds its share of the bytes and of the replicas; every broker is
//! preferred as leader by its share of the partitions. A plan reaches them with few bytes moved, and never changes how
//! many replicas a partition has.
//!
//! The search is a descent: each step takes the move that repairs most, and every step repairs something, so that it
//! ends. Moves that the goals turn out not to need are taken back at the end.

mod leaders;
mod search;
#[cfg(test)]
mod tests;
mod waves;

use std::collections::BTreeMap;

use ottla_model::BrokerId;

pub use waves::{BrokenRules, Execution, WaveLimits};

/// How far a broker's share may be from the mean, in hundredths of it.
pub const TOLERANCE_PERCENT: u64 = 5;

/// A broker as the plan sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BalancedBroker {
    pub id: BrokerId,
    pub rack: Option<String>,
    pub role: BrokerRole,
}

/// What a plan may do with a broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BrokerRole {
    /// It gives and gets replicas: it counts for the shares.
    Shares,
    /// It keeps what it has and gets nothing: it is down for now, or gets no new replicas.
    Keeps,
    /// It gives up all that it has.
    Leaves,
}

/// A partition as the plan sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BalancedPartition {
    /// In order of preference; of one that is being reassigned: its target.
    pub replicas: Vec<BrokerId>,
    /// Of one replica; 0 if it is not known.
    pub bytes: u64,
}

/// What a plan is to reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goals {
    /// Only: no replicas on brokers that leave.
    Vacate,
    /// All of them.
    Balance,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster<K> {
    pub brokers: Vec<BalancedBroker>,
    pub partitions: BTreeMap<K, BalancedPartition>,
}

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BalanceError {
    #[error("no broker may take replicas")]
    NoTaker,
    #[error(
        "a partition has {factor} replicas, and only {takers} brokers may get replicas: lower its replication factor, \
         or add a broker"
    )]
    TooFewTakers { factor: usize, takers: usize },
}

/// One partition that gets other replicas, or the same in another order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedMove<K> {
    pub partition: K,
    pub from: Vec<BrokerId>,
    pub to: Vec<BrokerId>,
    /// What the new replicas copy.
    pub bytes: u64,
}

impl<K> PlannedMove<K> {
    /// The brokers that get a replica.
    pub fn added(&self) -> impl Iterator<Item = BrokerId> + '_ {
        self.to.iter().copied().filter(|broker| !self.from.contains(broker))
    }
}

/// What a broker holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    pub bytes: u64,
    pub replicas: u64,
    /// Partitions that prefer it as leader.
    pub leaders: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan<K> {
    /// By partition.
    pub moves: Vec<PlannedMove<K>>,
    pub before: BTreeMap<BrokerId, Load>,
    pub after: BTreeMap<BrokerId, Load>,
}

impl<K> Plan<K> {
    pub fn bytes(&self) -> u64 {
        self.moves.iter().map(|one| one.bytes).sum()
    }

    /// How many replicas are copied.
    pub fn replicas(&self) -> usize {
        self.moves.iter().map(|one| one.added().count()).sum()
    }
}

/// Between which values a broker's share is good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Band {
    pub floor: u64,
    pub ceiling: u64,
}

impl Band {
    /// Of things that cannot be divided, one more or less is good too where the mean is no whole number.
    pub fn of_count(total: u64, brokers: u64) -> Self {
        let (mean, brokers) = (total / brokers.max(1), brokers.max(1));
        let tolerant = Self::of_amount(total, brokers);
        let ceiling = tolerant.ceiling.max(total.div_ceil(brokers));
        // The floor of an amount rounds up, as what is below it is not enough.
        Self { floor: tolerant.floor.min(mean), ceiling }
    }

    pub fn of_amount(total: u64, brokers: u64) -> Self {
        let share = |percent: u64| u128::from(total) * u128::from(percent);
        let parts = u128::from(brokers.max(1)) * 100;
        let narrow = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
        Self {
            floor: narrow(share(100 - TOLERANCE_PERCENT).div_ceil(parts)),
            ceiling: narrow(share(100 + TOLERANCE_PERCENT) / parts),
        }
    }

    pub fn excess(&self, value: u64) -> u64 {
        value.saturating_sub(self.ceiling)
    }

    pub fn lack(&self, value: u64) -> u64 {
        self.floor.saturating_sub(value)
    }

    pub fn violation(&self, value: u64) -> u64 {
        self.excess(value) + self.lack(value)
    }
}

/// The plan that reaches the goals.
pub fn plan<K: Ord + Clone>(cluster: &Cluster<K>, goals: Goals) -> Result<Plan<K>, BalanceError> {
    let before = loads(cluster.brokers.iter().map(|broker| broker.id), cluster.partitions.values());
    let mut search = search::Search::new(cluster)?;
    search.vacate()?;
    if goals == Goals::Balance {
        search.spread_over_racks();
        search.balance();
        search.take_back();
    }
    let mut replicas = search.into_replicas();
    if goals == Goals::Balance {
        let takers = cluster.brokers.iter().filter(|broker| broker.role == BrokerRole::Shares).map(|broker| broker.id);
        leaders::balance(&mut replicas, &takers.collect());
    }
    let mut moves = Vec::new();
    let mut planned = Vec::with_capacity(replicas.len());
    for ((key, partition), to) in cluster.partitions.iter().zip(replicas) {
        if to != partition.replicas {
            let added = to.iter().filter(|broker| !partition.replicas.contains(broker)).count();
            let bytes = partition.bytes.saturating_mul(u64::try_from(added).unwrap_or(u64::MAX));
            let (partition, from) = (key.clone(), partition.replicas.clone());
            moves.push(PlannedMove { partition, from, to: to.clone(), bytes });
        }
        planned.push(BalancedPartition { replicas: to, bytes: partition.bytes });
    }
    let after = loads(cluster.brokers.iter().map(|broker| broker.id), &planned);
    Ok(Plan { moves, before, after })
}

fn loads<'a>(
    brokers: impl Iterator<Item = BrokerId>,
    partitions: impl IntoIterator<Item = &'a BalancedPartition>,
) -> BTreeMap<BrokerId, Load> {
    let mut loads: BTreeMap<BrokerId, Load> = brokers.map(|broker| (broker, Load::default())).collect();
    for partition in partitions {
        for (at, broker) in partition.replicas.iter().enumerate() {
            let load = loads.entry(*broker).or_default();
            load.bytes = load.bytes.saturating_add(partition.bytes);
            load.replicas += 1;
            load.leaders += u64::from(at == 0);
        }
    }
    loads
}

/// How far the worst broker is from the mean, in thousandths of it; 0 where there is nothing to share.
pub fn imbalance_permille(shares: impl IntoIterator<Item = u64>) -> u64 {
    let shares: Vec<u128> = shares.into_iter().map(u128::from).collect();
    let (total, count) = (shares.iter().sum::<u128>(), u128::try_from(shares.len()).unwrap_or(u128::MAX));
    let worst = shares.iter().map(|share| (share * count).abs_diff(total)).max().unwrap_or(0);
    u64::try_from((worst * 1000).checked_div(total).unwrap_or(0)).unwrap_or(u64::MAX)
}
