//! The quorum's part of a partition of coordinators: the rules of elections and of ISR changes that ship
//! ([`ottla_metadata::election`], [`ottla_metadata::isr_change`]), over an image of the brokers that are live. The dice
//! of the world say which brokers are live, and whom an election prefers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_metadata::controller::{AlterPartition, AlteredPartition};
use ottla_metadata::election::{Electorate, PartitionChange};
use ottla_metadata::image::{BrokerRegistration, LeaderRecoveryState, LeaderSettings};
use ottla_metadata::nodes::broker;
use ottla_metadata::{Change, Image, IsrMember, PartitionState, Transaction, Tree};
use ottla_model::{
    BrokerEpoch, BrokerId, ControllerEpoch, IncarnationId, LeaderEpoch, ListenerName, PartitionEpoch, Revision,
    TimestampMs,
};
use ottla_partition::eligible_epoch;

use crate::random::Random;

pub(super) const MIN_ISR: usize = 2;

const CONTROLLER: ControllerEpoch = ControllerEpoch(1);

/// A broker registers once, at the revision that has its number.
pub(super) fn epoch_of(broker: i32) -> BrokerEpoch {
    BrokerEpoch(i64::from(broker))
}

/// Who is asked to lead: the candidates, from a random one on.
pub(super) fn election_order(candidates: &[i32], random: &mut Random) -> Vec<i32> {
    let first = usize::try_from(random.below(candidates.len() as u64)).unwrap_or(0);
    candidates.iter().cycle().skip(first).take(candidates.len()).copied().collect()
}

/// The state of a partition as the quorum has it.
pub fn state_of(
    leader: Option<i32>,
    replicas: impl IntoIterator<Item = i32>,
    isr: impl IntoIterator<Item = i32>,
) -> PartitionState {
    let member = |broker| IsrMember { broker: BrokerId(broker), epoch: epoch_of(broker) };
    PartitionState {
        leader: leader.map_or(BrokerId::NONE, BrokerId),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
        controller_epoch: CONTROLLER,
        replicas: replicas.into_iter().map(BrokerId).collect(),
        reassignment: None,
        isr: isr.into_iter().map(member).collect(),
        elr: vec![],
        offline: vec![],
        last_known_elr: vec![],
        last_known_leader: BrokerId::NONE,
        leader_recovery_state: LeaderRecoveryState::Recovered,
    }
}

/// The brokers that may be elected. Each has its only registration.
struct Candidates<'a>(&'a [i32]);

impl Electorate for Candidates<'_> {
    fn acceptable(&self, broker: BrokerId, _: &PartitionState) -> Option<BrokerEpoch> {
        self.0.contains(&broker.0).then(|| epoch_of(broker.0))
    }

    fn readable(&self, broker: BrokerId, state: &PartitionState) -> Option<BrokerEpoch> {
        self.acceptable(broker, state)
    }

    fn may_lead_unclean(&self, _: BrokerId) -> bool {
        false
    }

    fn lives(&self, member: &IsrMember) -> bool {
        self.0.contains(&member.broker.0)
    }

    fn min_insync_replicas(&self, _: BrokerId, _: &PartitionState) -> usize {
        MIN_ISR
    }

    fn knows_min_insync_replicas(&self, _: BrokerId, _: &PartitionState) -> bool {
        true
    }
}

/// What the quorum has of one partition.
pub(super) struct Quorum {
    pub state: Arc<PartitionState>,
    /// Without the brokers that are down, or that the world keeps from fetching.
    pub image: Image,
    registrations: BTreeMap<i32, Tree>,
    absent: BTreeSet<i32>,
}

impl Quorum {
    pub fn new(brokers: &[i32]) -> Self {
        let mut quorum = Self {
            state: Arc::new(state_of(None, brokers.iter().copied(), brokers.iter().copied())),
            image: Image::empty(),
            registrations: brokers.iter().map(|broker| (*broker, registration_of(*broker))).collect(),
            absent: BTreeSet::new(),
        };
        quorum.look();
        quorum
    }

    fn look(&mut self) {
        let live = self.registrations.iter().filter(|(broker, _)| !self.absent.contains(broker));
        let revision = Revision(self.registrations.len() as u64);
        self.image = Image::from_nodes(revision, live.flat_map(|(_, tree)| tree.iter())).0;
    }

    /// The broker is live, as far as this partition is concerned.
    pub fn is_back(&mut self, broker: i32) {
        if self.absent.remove(&broker) {
            self.look();
        }
    }

    pub fn leader(&self) -> Option<i32> {
        Some(self.state.leader.0).filter(|_| self.state.has_leader())
    }

    /// Another leader: the first of these in the ISR, else one that has all committed records; none if there is none.
    /// Says whether that is a change.
    pub fn elect(&mut self, order: &[i32]) -> bool {
        let mut state = PartitionState::clone(&self.state);
        let place = |broker: &BrokerId| order.iter().position(|candidate| *candidate == broker.0);
        state.replicas.sort_by_key(|broker| (place(broker).unwrap_or(usize::MAX), broker.0));
        let next = PartitionChange::new(&state).preferred(false).build(&Candidates(order), CONTROLLER);
        let Some(next) = next else { return false };
        self.state = Arc::new(next);
        if let Some(leader) = self.leader() {
            self.is_back(leader);
        }
        true
    }

    /// A broker is fenced. Who leads stays: the world says when it is elected anew.
    pub fn fence(&mut self, broker: i32) {
        if self.leader() == Some(broker) {
            return;
        }
        self.absent.insert(broker);
        self.look();
        let leader: Vec<i32> = self.leader().into_iter().collect();
        let change = PartitionChange::new(&self.state).without(BrokerId(broker));
        if let Some(next) = change.build(&Candidates(&leader), CONTROLLER) {
            self.state = Arc::new(next);
        }
    }

    /// A leader asks for an ISR.
    pub fn alter(&mut self, leader: i32, request: &AlterPartition) -> AlteredPartition {
        let live: Vec<i32> = self.image.brokers().map(|broker| broker.id.0).collect();
        let build = |change: PartitionChange<'_>| change.build(&Candidates(&live), CONTROLLER);
        let (altered, next) =
            ottla_metadata::isr_change::alter(&self.image, &self.state, BrokerId(leader), request, false, build);
        if let Some(next) = next {
            self.state = Arc::new(next);
        }
        altered
    }

    /// Which brokers may be in an ISR, as every broker sees it.
    pub fn eligible(&self) -> impl Fn(BrokerId) -> Option<BrokerEpoch> + '_ {
        |broker| eligible_epoch(&self.image, broker)
    }
}

/// The tree of a broker that has registered and is ready.
fn registration_of(id: i32) -> Tree {
    let registration = BrokerRegistration {
        id: BrokerId(id),
        epoch: BrokerEpoch::NONE,
        incarnation: IncarnationId([1; 16]),
        endpoints: Vec::new(),
        inter_broker_listener: ListenerName::new("INTERNAL"),
        rack: None,
        ready: true,
        shutting_down: false,
        min_insync_replicas: 1,
        leaders: LeaderSettings::default(),
        registered_at: TimestampMs(0),
    };
    let payload = broker::encode(&registration);
    let changes = vec![Change::Create { path: broker::path(registration.id), payload }];
    let mut tree = Tree::new();
    let revision = Revision(u64::try_from(id).unwrap_or(0));
    let _ = tree.apply(revision, &Transaction { changes });
    tree
}
