//! The quorum's part of a partition of coordinators: the rules of elections and of ISR changes that ship
//! ([`TopicElectorate`], [`ottla_metadata::isr_change`]), over an image of the topic and of the brokers that are live.
//! The dice of the world say which brokers are live, and whom an election prefers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_metadata::controller::{AlterPartition, AlteredPartition, BrokenRules, TopicElectorate};
use ottla_metadata::election::PartitionChange;
use ottla_metadata::image::{BrokerRegistration, LeaderRecoveryState, LeaderSettings, MIN_INSYNC_REPLICAS};
use ottla_metadata::liveness::{Liveness, Reached};
use ottla_metadata::nodes::topic::{self, TopicNode};
use ottla_metadata::nodes::{broker, config};
use ottla_metadata::{Change, ConfigEntity, Image, IsrMember, PartitionState, Path, Transaction, Tree};
use ottla_model::{
    BrokerEpoch, BrokerId, ControllerEpoch, IncarnationId, LeaderEpoch, ListenerName, MonotonicMs, PartitionEpoch,
    Revision, TimestampMs, TopicName,
};
use ottla_partition::eligible_epoch;

use super::TOPIC_ID;
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

/// What the quorum has of one partition.
pub(super) struct Quorum {
    pub state: Arc<PartitionState>,
    /// Without the brokers that are down, or that the world keeps from fetching.
    pub image: Image,
    topic_name: TopicName,
    topic: Tree,
    registrations: BTreeMap<i32, Tree>,
    absent: BTreeSet<i32>,
    /// Nobody is late: what a leader knows of its topic it knows since the topic was created.
    liveness: Liveness,
}

impl Quorum {
    pub fn new(topic_name: TopicName, brokers: &[i32]) -> Self {
        let times = (Duration::from_secs(3), Duration::from_secs(1), Duration::from_millis(50));
        let mut quorum = Self {
            topic: topic_of(&topic_name, brokers),
            topic_name,
            liveness: Liveness::new(MonotonicMs(0), times, Reached::new()),
            state: Arc::new(state_of(None, brokers.iter().copied(), brokers.iter().copied())),
            image: Image::empty(),
            registrations: brokers.iter().map(|broker| (*broker, registration_of(*broker))).collect(),
            absent: BTreeSet::new(),
        };
        quorum.look();
        quorum
    }

    fn look(&mut self) {
        self.image = self.image_of(|broker| !self.absent.contains(&broker));
    }

    /// The topic, and the brokers that live.
    fn image_of(&self, lives: impl Fn(i32) -> bool) -> Image {
        let live = self.registrations.iter().filter(|(broker, _)| lives(**broker));
        let trees = live.map(|(_, tree)| tree).chain([&self.topic]);
        Image::from_nodes(self.topic.revision(), trees.flat_map(Tree::iter)).0
    }

    /// The state after a change, as the quorum decides it where these brokers live.
    fn decide(&self, image: &Image, change: PartitionChange<'_>) -> Option<PartitionState> {
        let topic = image.topic(self.topic_name.as_str())?;
        let rules = BrokenRules::default();
        change.build(&TopicElectorate { image, liveness: &self.liveness, topic, rules }, CONTROLLER)
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
        let candidates = self.image_of(|broker| order.contains(&broker));
        let next = self.decide(&candidates, PartitionChange::new(&state).preferred(false));
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
        let leader = self.leader();
        let stays = self.image_of(|broker| Some(broker) == leader);
        let state = self.state.clone();
        if let Some(next) = self.decide(&stays, PartitionChange::new(&state).without(BrokerId(broker))) {
            self.state = Arc::new(next);
        }
    }

    /// A leader asks for an ISR.
    pub fn alter(&mut self, leader: i32, request: &AlterPartition) -> AlteredPartition {
        let build = |change: PartitionChange<'_>| self.decide(&self.image, change);
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

/// The tree of the topic, which is created after every broker has registered.
fn topic_of(name: &TopicName, brokers: &[i32]) -> Tree {
    let node = TopicNode { id: TOPIC_ID, assignment: Vec::new(), grows_to: 0, queued: Default::default() };
    let entries = BTreeMap::from([(MIN_INSYNC_REPLICAS.to_owned(), MIN_ISR.to_string())]);
    let topic = (topic::path(name), topic::encode(&node));
    let config = (ConfigEntity::topic(name.as_str()).path(), config::encode(&entries));
    let newest = brokers.iter().max().map_or(0, |broker| u64::try_from(*broker).unwrap_or(0));
    tree_of(Revision(newest + 1), [topic, config])
}

fn tree_of(revision: Revision, nodes: impl IntoIterator<Item = (Path, Bytes)>) -> Tree {
    let changes = nodes.into_iter().map(|(path, payload)| Change::Create { path, payload }).collect();
    let mut tree = Tree::new();
    let _ = tree.apply(revision, &Transaction { changes });
    tree
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
        awaits_clients: false,
        min_insync_replicas: 1,
        leaders: LeaderSettings::default(),
        levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
        registered_at: TimestampMs(0),
    };
    let revision = Revision(u64::try_from(id).unwrap_or(0));
    tree_of(revision, [(broker::path(registration.id), broker::encode(&registration))])
}
