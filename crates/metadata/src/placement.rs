//! Placement of the replicas of new partitions: evenly over brokers, leaders, and racks.
//!
//! Kafka's striped placement: racks alternate, within a rack its brokers do, and the start is drawn at random, so that
//! topics with one partition are not all placed on the first broker. The first replica of a partition (its preferred
//! leader) is always an active broker; inactive brokers come last.

use std::collections::BTreeMap;

use ottla_model::BrokerId;

/// A broker that replicas may be placed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsableBroker {
    pub id: BrokerId,
    pub rack: Option<String>,
    /// Ready and not shutting down.
    pub is_active: bool,
}

/// Why replicas cannot be placed; the texts are Kafka's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlacementError {
    #[error("All brokers are currently fenced.")]
    AllFenced,
    #[error(
        "The target replication factor of {replication_factor} cannot be reached because only {registered} broker(s) are registered or some brokers have all their log directories cordoned."
    )]
    TooFewBrokers { replication_factor: usize, registered: usize },
}

/// A small generator of numbers (splitmix64) for choices that must come out the same on every run with the same seed.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    pub fn new(entropy: [u8; 16]) -> Self {
        let (mut low, mut high) = ([0; 8], [0; 8]);
        low.copy_from_slice(&entropy[..8]);
        high.copy_from_slice(&entropy[8..]);
        Self(u64::from_le_bytes(low) ^ u64::from_le_bytes(high).rotate_left(32))
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        usize::try_from(self.next_u64().checked_rem(bound).unwrap_or(0)).unwrap_or(0)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// Brokers that take turns. Each partition that is placed is one round.
#[derive(Default)]
struct Turns {
    brokers: Vec<BrokerId>,
    start: usize,
    taken: usize,
    round: usize,
    /// Whose turn it is to lead, counted apart: racks lead every few rounds only, and their brokers must still
    /// alternate.
    lead: usize,
}

impl Turns {
    /// The broker whose turn it is to lead; begins the round here.
    fn next_leader(&mut self, round: usize) -> Option<BrokerId> {
        (self.round, self.taken, self.start) = (round, 0, self.lead);
        self.lead += 1;
        self.next(round)
    }

    /// The next broker that this round has not had yet.
    fn next(&mut self, round: usize) -> Option<BrokerId> {
        if self.round != round {
            self.round = round;
            self.taken = 0;
            self.start += 1;
        }
        if self.taken >= self.brokers.len() {
            return None;
        }
        let broker = self.brokers.get((self.start + self.taken) % self.brokers.len()).copied();
        self.taken += 1;
        broker
    }
}

#[derive(Default)]
struct Rack {
    active: Turns,
    inactive: Turns,
}

impl Rack {
    fn next(&mut self, round: usize) -> Option<BrokerId> {
        self.active.next(round).or_else(|| self.inactive.next(round))
    }
}

/// Replicas for `partitions` partitions, each in order of preference.
pub fn place(
    brokers: impl IntoIterator<Item = UsableBroker>,
    partitions: usize,
    replication_factor: usize,
    seeded: &mut Seeded,
) -> Result<Vec<Vec<BrokerId>>, PlacementError> {
    let mut by_rack: BTreeMap<Option<String>, Rack> = BTreeMap::new();
    let (mut registered, mut active) = (0, 0);
    for broker in brokers {
        registered += 1;
        active += usize::from(broker.is_active);
        let rack = by_rack.entry(broker.rack).or_default();
        let turns = if broker.is_active { &mut rack.active } else { &mut rack.inactive };
        turns.brokers.push(broker.id);
    }
    if active == 0 {
        return Err(PlacementError::AllFenced);
    }
    if replication_factor > registered {
        return Err(PlacementError::TooFewBrokers { replication_factor, registered });
    }
    let mut racks: Vec<Rack> = by_rack.into_values().collect();
    for turns in racks.iter_mut().flat_map(|rack| [&mut rack.active, &mut rack.inactive]) {
        turns.brokers.sort();
        turns.start = seeded.below(turns.brokers.len());
        turns.lead = turns.start;
    }
    let mut first_rack = seeded.below(racks.len());
    let mut since_dealt = 0;
    let mut placed = Vec::with_capacity(partitions);
    for round in 1..=partitions {
        // After as many partitions as there are brokers the pattern would repeat: the same brokers would always follow
        // the same leaders. Therefore the order is shuffled again.
        if since_dealt == active && active > 1 {
            seeded.shuffle(&mut racks);
            for rack in &mut racks {
                seeded.shuffle(&mut rack.active.brokers);
                seeded.shuffle(&mut rack.inactive.brokers);
            }
            since_dealt = 0;
        }
        since_dealt += 1;
        placed.push(place_one(&mut racks, first_rack, round, replication_factor));
        first_rack = (first_rack + 1) % racks.len();
    }
    Ok(placed)
}

fn place_one(racks: &mut [Rack], first_rack: usize, round: usize, replication_factor: usize) -> Vec<BrokerId> {
    let mut replicas = Vec::with_capacity(replication_factor);
    // The leader: from the first rack, from its turn on, that has an active broker.
    let count = racks.len();
    let turns = (0..count).map(|step| (first_rack + step) % count);
    let mut leader_rack = first_rack;
    for at in turns {
        if let Some(broker) = racks.get_mut(at).and_then(|rack| rack.active.next_leader(round)) {
            replicas.push(broker);
            leader_rack = at;
            break;
        }
    }
    // The others: racks in turn, the leader's again only after all others have had theirs.
    let mut at = first_rack;
    let mut skip = Some(leader_rack);
    let mut barren = 0;
    while replicas.len() < replication_factor && barren <= racks.len() {
        if skip == Some(at) {
            skip = None;
        } else if let Some(broker) = racks.get_mut(at).and_then(|rack| rack.next(round)) {
            replicas.push(broker);
            barren = 0;
        } else {
            barren += 1;
        }
        at = (at + 1) % racks.len();
    }
    replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brokers(racks: &[Option<&str>]) -> Vec<UsableBroker> {
        (1..)
            .zip(racks)
            .map(|(id, rack)| UsableBroker { id: BrokerId(id), rack: rack.map(str::to_owned), is_active: true })
            .collect()
    }

    fn counts(of: impl Iterator<Item = BrokerId>) -> Vec<usize> {
        let mut counts = BTreeMap::<_, usize>::new();
        for broker in of {
            *counts.entry(broker).or_default() += 1;
        }
        counts.into_values().collect()
    }

    #[test]
    fn leaders_and_replicas_are_even() {
        for seed in 0..50 {
            let mut seeded = Seeded::new([seed; 16]);
            let placed = place(brokers(&[None; 3]), 300, 2, &mut seeded).expect("three brokers");
            assert_eq!(counts(placed.iter().map(|replicas| replicas[0])), [100; 3]);
            assert_eq!(counts(placed.iter().flatten().copied()), [200; 3]);
            assert!(placed.iter().all(|replicas| replicas[0] != replicas[1]));
        }
    }

    #[test]
    fn replicas_spread_over_racks() {
        let racks = [Some("a"), Some("a"), Some("b"), Some("b"), Some("c"), Some("c")];
        for seed in 0..50 {
            let placed = place(brokers(&racks), 24, 3, &mut Seeded::new([seed; 16])).expect("six brokers");
            for replicas in &placed {
                let mut held: Vec<_> = replicas.iter().map(|broker| (broker.0 - 1) / 2).collect();
                held.sort_unstable();
                assert_eq!(held, [0, 1, 2], "one replica a rack: {replicas:?}");
            }
            assert_eq!(counts(placed.iter().map(|replicas| replicas[0])), [4; 6]);
        }
    }

    #[test]
    fn the_brokers_of_a_rack_alternate_as_leaders() {
        let racks = [Some("a"), Some("a"), Some("b"), Some("b")];
        let placed = place(brokers(&racks), 40, 2, &mut Seeded::new([7; 16])).expect("four brokers");
        assert_eq!(counts(placed.iter().map(|replicas| replicas[0])), [10; 4]);
    }

    #[test]
    fn inactive_brokers_follow_and_never_lead() {
        let mut usable = brokers(&[None; 3]);
        usable[0].is_active = false;
        let placed = place(usable, 20, 3, &mut Seeded::new([3; 16])).expect("three brokers");
        assert!(placed.iter().all(|replicas| replicas.len() == 3 && replicas[2] == BrokerId(1)));
    }

    #[test]
    fn refuses_in_kafkas_words() {
        let refused =
            |usable, factor| place(usable, 2, factor, &mut Seeded::new([0; 16])).expect_err("refused").to_string();
        // goldens: kafka-topics --create --replication-factor 4
        assert_eq!(
            refused(brokers(&[None; 3]), 4),
            "The target replication factor of 4 cannot be reached because only 3 broker(s) are registered or some brokers have all their log directories cordoned."
        );
        assert_eq!(refused(vec![], 1), "All brokers are currently fenced.");
        let one = place(brokers(&[None]), 5, 1, &mut Seeded::new([0; 16])).expect("one broker");
        assert_eq!(one, vec![vec![BrokerId(1)]; 5]);
    }
}
