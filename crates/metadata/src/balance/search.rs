//! The descent to a placement that reaches the goals.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::BrokerId;

use super::{BalanceError, Band, BrokerRole, Cluster};

/// How many replicas around the wanted size a step looks at, for each pair of brokers: a broker may hold many
/// thousands, and some that do not fit (the other broker has a replica already, or is in the wrong rack) must be passed
/// over.
const LOOKED_AT: usize = 32;

/// How many smaller replicas on each side of the fitting size an exchange looks at, for each larger one.
const EXCHANGED_AT: usize = 4;

struct Held {
    id: BrokerId,
    rack: Option<usize>,
    role: BrokerRole,
    bytes: u64,
    replicas: u64,
    /// Size and number of each partition that has a replica here.
    by_size: BTreeSet<(u64, usize)>,
}

struct Item {
    bytes: u64,
    original: Vec<usize>,
    /// Positions in `brokers`.
    replicas: Vec<usize>,
}

pub(super) struct Search {
    brokers: Vec<Held>,
    items: Vec<Item>,
    takers: usize,
    racks: usize,
    bytes: Band,
    counts: Band,
    /// Weights that make bytes and replicas comparable: of each the other's total.
    total_bytes: u128,
    total_replicas: u128,
}

#[derive(Clone, Copy)]
struct Step {
    item: usize,
    from: usize,
    to: usize,
}

impl Search {
    pub fn new<K: Ord>(cluster: &Cluster<K>) -> Result<Self, BalanceError> {
        let takers = cluster.brokers.iter().filter(|broker| broker.role == BrokerRole::Shares).count();
        if takers == 0 {
            return Err(BalanceError::NoTaker);
        }
        // As in placement, racks count only where every broker names one.
        let has_racks = cluster.brokers.iter().all(|broker| broker.rack.is_some());
        let names: BTreeSet<&str> = cluster.brokers.iter().filter_map(|broker| broker.rack.as_deref()).collect();
        let rack_of = |name: Option<&str>| names.iter().position(|other| Some(*other) == name).filter(|_| has_racks);
        let mut brokers: Vec<Held> = Vec::with_capacity(cluster.brokers.len());
        let mut places: BTreeMap<BrokerId, usize> = BTreeMap::new();
        let held = |id, rack, role| Held { id, rack, role, bytes: 0, replicas: 0, by_size: BTreeSet::new() };
        for broker in &cluster.brokers {
            places.insert(broker.id, brokers.len());
            brokers.push(held(broker.id, rack_of(broker.rack.as_deref()), broker.role));
        }
        let mut items = Vec::with_capacity(cluster.partitions.len());
        for (number, partition) in cluster.partitions.values().enumerate() {
            let mut replicas = Vec::with_capacity(partition.replicas.len());
            for id in &partition.replicas {
                // A broker that the cluster does not know any more cannot keep anything.
                let place = *places.entry(*id).or_insert_with(|| {
                    brokers.push(held(*id, None, BrokerRole::Leaves));
                    brokers.len() - 1
                });
                replicas.push(place);
                if let Some(broker) = brokers.get_mut(place) {
                    broker.by_size.insert((partition.bytes, number));
                    broker.bytes = broker.bytes.saturating_add(partition.bytes);
                    broker.replicas += 1;
                }
            }
            items.push(Item { bytes: partition.bytes, original: replicas.clone(), replicas });
        }
        // What stays where it is belongs to nobody's share.
        let shared = || brokers.iter().filter(|broker| broker.role != BrokerRole::Keeps);
        let bytes = shared().map(|broker| broker.bytes).fold(0, u64::saturating_add);
        let replicas = shared().map(|broker| broker.replicas).sum();
        let share_holders = u64::try_from(takers).unwrap_or(u64::MAX);
        let racks = brokers.iter().filter(|broker| broker.role == BrokerRole::Shares).filter_map(|broker| broker.rack);
        Ok(Self {
            takers,
            racks: racks.collect::<BTreeSet<_>>().len(),
            bytes: Band::of_amount(bytes, share_holders),
            counts: Band::of_count(replicas, share_holders),
            total_bytes: u128::from(bytes.max(1)),
            total_replicas: u128::from(replicas.max(1)),
            brokers,
            items,
        })
    }

    pub fn into_replicas(self) -> Vec<Vec<BrokerId>> {
        let id = |place: &usize| self.brokers.get(*place).map(|broker| broker.id);
        self.items.iter().map(|item| item.replicas.iter().filter_map(id).collect()).collect()
    }

    /// Every replica of a broker that leaves goes where it repairs most; large ones first, as small ones fill gaps.
    pub fn vacate(&mut self) -> Result<(), BalanceError> {
        let leaving = |held: &(usize, &Held)| held.1.role == BrokerRole::Leaves;
        let mut forced: Vec<(u64, usize, usize)> = Vec::new();
        for (from, held) in self.brokers.iter().enumerate().filter(leaving) {
            forced.extend(held.by_size.iter().map(|(bytes, item)| (*bytes, *item, from)));
        }
        forced.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)).then(one.2.cmp(&other.2)));
        for (_, item, from) in forced {
            let fits = |to: &usize| self.is_possible(Step { item, from, to: *to });
            let best = (0..self.brokers.len()).filter(fits).min_by_key(|to| {
                let held = self.brokers.get(*to);
                let (bytes, replicas) = held.map_or((0, 0), |held| (held.bytes, held.replicas));
                (usize::MAX - self.spread(Step { item, from, to: *to }), self.weighed(bytes, replicas), *to)
            });
            let Some(to) = best else {
                let factor = self.items.get(item).map_or(0, |item| item.replicas.len());
                return Err(BalanceError::TooFewTakers { factor, takers: self.takers });
            };
            self.carry_out(Step { item, from, to });
        }
        Ok(())
    }

    /// A partition that shares a rack although another is free moves one of the replicas that share.
    pub fn spread_over_racks(&mut self) {
        for item in 0..self.items.len() {
            while let Some(step) = self.spreading(item) {
                self.carry_out(step);
            }
        }
    }

    fn spreading(&self, number: usize) -> Option<Step> {
        let item = self.items.get(number)?;
        let now = self.racks_of(item, None);
        if now >= self.racks.min(item.replicas.len()) {
            return None;
        }
        let keeps = |place: usize| self.brokers.get(place).is_some_and(|held| held.role == BrokerRole::Keeps);
        let steps = item
            .replicas
            .iter()
            .filter(|from| !keeps(**from))
            .flat_map(|from| (0..self.brokers.len()).map(move |to| Step { item: number, from: *from, to }));
        steps
            .filter(|step| self.is_possible(*step) && self.spread(*step) > now)
            .max_by_key(|step| (self.gain(*step), usize::MAX - step.to))
    }

    /// Steps that repair, until none does. Where no single step repairs, two replicas that change places may.
    pub fn balance(&mut self) {
        loop {
            if let Some(step) = self.best_step() {
                self.carry_out(step);
            } else if let Some((there, back)) = self.best_exchange() {
                self.carry_out(there);
                self.carry_out(back);
            } else {
                return;
            }
        }
    }

    /// Brokers between which a step or an exchange may repair something.
    fn pairs(&self) -> impl Iterator<Item = (usize, &Held, usize, &Held)> {
        let sharing = || self.brokers.iter().enumerate().filter(|(_, held)| held.role == BrokerRole::Shares);
        let pairs = sharing().flat_map(move |(from, giver)| sharing().map(move |(to, taker)| (from, giver, to, taker)));
        pairs.filter(|(from, giver, to, taker)| {
            let violation = |held: &Held| self.violation(held.bytes, held.replicas);
            from != to && (violation(giver) > 0 || violation(taker) > 0)
        })
    }

    /// The exchange of a larger replica for a smaller one that repairs the bytes most; the counts stay.
    fn best_exchange(&self) -> Option<(Step, Step)> {
        let mut best: Option<(i128, u64, (Step, Step))> = None;
        for (from, giver, to, taker) in self.pairs() {
            let wanted = self.bytes.lack(taker.bytes).max(self.bytes.excess(giver.bytes));
            if wanted == 0 {
                continue;
            }
            for (large, item) in
                giver.by_size.iter().rev().take(LOOKED_AT).copied().chain(self.candidates(giver, taker))
            {
                let there = Step { item, from, to };
                if !self.is_possible(there) || !self.keeps_racks(there) {
                    continue;
                }
                let around = (large.saturating_sub(wanted), usize::MAX);
                let below = taker.by_size.range(..=around).rev().take(EXCHANGED_AT);
                for (small, item) in below.chain(taker.by_size.range(around..).take(EXCHANGED_AT)).copied() {
                    let back = Step { item, from: to, to: from };
                    let gain = self.gain_of(giver, taker, i128::from(large) - i128::from(small), 0);
                    let moved = large.saturating_add(small);
                    let is_better =
                        best.is_none_or(|(most, least, _)| (gain, u64::MAX - moved) > (most, u64::MAX - least));
                    if gain > 0 && is_better && self.is_possible(back) && self.keeps_racks(back) {
                        best = Some((gain, moved, (there, back)));
                    }
                }
            }
        }
        best.map(|(_, _, steps)| steps)
    }

    fn best_step(&self) -> Option<Step> {
        let mut best: Option<(i128, u64, Step)> = None;
        for (from, giver, to, taker) in self.pairs() {
            for (bytes, item) in self.candidates(giver, taker) {
                let step = Step { item, from, to };
                let gain = self.gain(step);
                let is_better = best.is_none_or(|(most, least, _)| (gain, least) > (most, bytes));
                // The cheap questions first: a step looks at many replicas.
                if gain > 0 && is_better && self.is_possible(step) && self.keeps_racks(step) {
                    best = Some((gain, bytes, step));
                }
            }
        }
        best.map(|(_, _, step)| step)
    }

    /// Replicas of the giver whose sizes may suit: around what is to move in bytes, around that divided by the number
    /// that is to move, and the smallest.
    fn candidates<'a>(&self, giver: &'a Held, taker: &Held) -> impl Iterator<Item = (u64, usize)> + 'a {
        let bytes = self.bytes.lack(taker.bytes).max(self.bytes.excess(giver.bytes));
        let counts = self.counts.lack(taker.replicas).max(self.counts.excess(giver.replicas));
        let each = bytes / counts.max(1);
        let mut found = BTreeSet::new();
        for size in [bytes, each] {
            found.extend(giver.by_size.range(..=(size, usize::MAX)).rev().take(LOOKED_AT));
            found.extend(giver.by_size.range((size, usize::MAX)..).take(LOOKED_AT));
        }
        found.extend(giver.by_size.iter().take(LOOKED_AT));
        found.into_iter()
    }

    /// Replicas that moved and need not have: they go back, large ones first. Violations never grow by it.
    pub fn take_back(&mut self) {
        let mut moved: Vec<(u64, usize)> = self.items.iter().enumerate().map(|(at, item)| (item.bytes, at)).collect();
        moved.retain(|(_, at)| self.items.get(*at).is_some_and(|item| item.replicas != item.original));
        moved.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
        for (_, number) in moved {
            let Some(item) = self.items.get(number) else { continue };
            let pairs: Vec<(usize, usize)> = item
                .replicas
                .iter()
                .copied()
                .zip(item.original.iter().copied())
                .filter(|(now, was)| now != was)
                .collect();
            for (from, to) in pairs {
                let step = Step { item: number, from, to };
                if self.is_possible(step) && self.keeps_racks(step) && self.gain(step) >= 0 {
                    self.carry_out(step);
                }
            }
        }
    }

    fn is_possible(&self, step: Step) -> bool {
        let holds = |item: &Item| item.replicas.contains(&step.from) && !item.replicas.contains(&step.to);
        self.brokers.get(step.to).is_some_and(|held| held.role == BrokerRole::Shares)
            && self.items.get(step.item).is_some_and(holds)
    }

    fn keeps_racks(&self, step: Step) -> bool {
        self.items.get(step.item).is_none_or(|item| self.spread(step) >= self.racks_of(item, None))
    }

    /// On how many racks the partition is after the step.
    fn spread(&self, step: Step) -> usize {
        self.items.get(step.item).map_or(0, |item| self.racks_of(item, Some(step)))
    }

    fn racks_of(&self, item: &Item, step: Option<Step>) -> usize {
        let now = |place: &usize| match step {
            Some(step) if step.from == *place => step.to,
            _ => *place,
        };
        let racks = item.replicas.iter().filter_map(|place| self.brokers.get(now(place))?.rack);
        racks.collect::<BTreeSet<_>>().len()
    }

    /// A sum in which bytes and replicas count alike.
    fn weighed(&self, bytes: u64, replicas: u64) -> u128 {
        let takers = u128::try_from(self.takers).unwrap_or(1);
        // Fits: a replica's bytes are below 2^63, and the totals of a cluster below 2^90 together.
        u128::from(bytes)
            .saturating_mul(self.total_replicas)
            .saturating_add(u128::from(replicas).saturating_mul(self.total_bytes))
            .saturating_mul(takers)
    }

    fn violation(&self, bytes: u64, replicas: u64) -> u128 {
        self.weighed(self.bytes.violation(bytes), self.counts.violation(replicas))
    }

    /// By how much a step lowers the violations of the two brokers.
    fn gain(&self, step: Step) -> i128 {
        let moved = self.items.get(step.item).map_or(0, |item| item.bytes);
        let (Some(giver), Some(taker)) = (self.brokers.get(step.from), self.brokers.get(step.to)) else { return 0 };
        self.gain_of(giver, taker, i128::from(moved), 1)
    }

    fn gain_of(&self, giver: &Held, taker: &Held, bytes: i128, replicas: u64) -> i128 {
        let changed = |of: u64, by: i128| u64::try_from((i128::from(of) + by).max(0)).unwrap_or(u64::MAX);
        let before =
            self.violation(giver.bytes, giver.replicas).saturating_add(self.violation(taker.bytes, taker.replicas));
        let after = self
            .violation(changed(giver.bytes, -bytes), giver.replicas.saturating_sub(replicas))
            .saturating_add(self.violation(changed(taker.bytes, bytes), taker.replicas + replicas));
        let narrow = |value: u128| i128::try_from(value).unwrap_or(i128::MAX);
        narrow(before) - narrow(after)
    }

    fn carry_out(&mut self, step: Step) {
        let Some(item) = self.items.get_mut(step.item) else { return };
        let bytes = item.bytes;
        for place in item.replicas.iter_mut().filter(|place| **place == step.from) {
            *place = step.to;
        }
        if let Some(giver) = self.brokers.get_mut(step.from) {
            giver.by_size.remove(&(bytes, step.item));
            giver.bytes = giver.bytes.saturating_sub(bytes);
            giver.replicas = giver.replicas.saturating_sub(1);
        }
        if let Some(taker) = self.brokers.get_mut(step.to) {
            taker.by_size.insert((bytes, step.item));
            taker.bytes = taker.bytes.saturating_add(bytes);
            taker.replicas += 1;
        }
    }
}
