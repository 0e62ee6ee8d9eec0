//! Which brokers may lead a topic's partitions, or be the one that clients take for the controller; and the effective
//! min.insync.replicas.

use ottla_model::{BrokerEpoch, BrokerId, Revision};

use super::BrokenRules;
use crate::election::Electorate;
use crate::image::{ConfigEntity, Image, IsrMember, MIN_INSYNC_REPLICAS, PartitionState, TopicImage};
use crate::liveness::Liveness;
use crate::topic_config::{self, Value};

const UNCLEAN_ELECTION: &str = "unclean.leader.election.enable";

/// The brokers of an image as candidates for one topic's partitions.
#[derive(Clone, Copy, Debug)]
pub struct TopicElectorate<'a> {
    pub image: &'a Image,
    /// Which revisions the brokers have heard of.
    pub liveness: &'a Liveness,
    pub topic: &'a TopicImage,
    pub rules: BrokenRules,
}

impl TopicElectorate<'_> {
    fn layers(&self, leader: BrokerId) -> [ConfigEntity; 3] {
        layers(self.topic, leader)
    }
}

/// The entities whose configuration decides where `leader` leads, those that win first.
fn layers(topic: &TopicImage, leader: BrokerId) -> [ConfigEntity; 3] {
    [ConfigEntity::topic(topic.name.as_str()), ConfigEntity::broker(leader), ConfigEntity::default_broker()]
}

impl Image {
    /// The members that the ISR must have for acks=all, as the partition's leader has it; without a leader, as the last
    /// one had it.
    pub fn min_insync_replicas(&self, topic: &TopicImage, state: &PartitionState) -> usize {
        let leader = if state.has_leader() { state.leader } else { state.last_known_leader };
        self.min_insync_replicas_at(topic, leader, state)
    }

    fn min_insync_replicas_at(&self, topic: &TopicImage, leader: BrokerId, state: &PartitionState) -> usize {
        let set_on = |entity: &ConfigEntity| min_insync_replicas_of(&self.config(entity)?.entries);
        // The entities' names take memory, and a fencing asks for each of a hundred thousand partitions.
        let set = if self.configs.is_empty() { None } else { layers(topic, leader).iter().find_map(set_on) };
        let of_registration = || self.broker(leader).map(|broker| broker.min_insync_replicas);
        let of_memory = || self.broker_memory(leader).map(|memory| memory.min_insync_replicas);
        let configured = set.or_else(of_registration).or_else(of_memory).unwrap_or(1);
        usize::try_from(configured).unwrap_or(1).clamp(1, state.established_replicas().max(1))
    }
}

/// The value in `entries`; none if it is not set.
pub(super) fn min_insync_replicas_of(entries: &std::collections::BTreeMap<String, String>) -> Option<i32> {
    match topic_config::key(MIN_INSYNC_REPLICAS)?.parse(entries.get(MIN_INSYNC_REPLICAS)?) {
        Ok(Value::Int(value)) => Some(value),
        _ => None,
    }
}

/// Whether `entries` let replicas lead that may lack committed records; none if they do not say so.
pub(super) fn unclean_election_of(entries: &std::collections::BTreeMap<String, String>) -> Option<bool> {
    match topic_config::key(UNCLEAN_ELECTION)?.parse(entries.get(UNCLEAN_ELECTION)?) {
        Ok(Value::Bool(enabled)) => Some(enabled),
        _ => None,
    }
}

impl Electorate for TopicElectorate<'_> {
    fn acceptable(&self, broker: BrokerId, state: &PartitionState) -> Option<BrokerEpoch> {
        let Some(registration) = self.image.broker(broker) else {
            let memory = self.image.broker_memory(broker).filter(|_| self.rules.fenced_stays_electable);
            return memory.map(|memory| memory.epoch);
        };
        let is_trusted = match state.isr_member(broker) {
            Some(member) if member.is_lost() => state.replicas.len() == 1 || self.rules.lost_log_may_lead,
            // As the last member it may return in a new incarnation.
            Some(member) if member.epoch != registration.epoch => state.is_sole_member(broker),
            _ => true,
        };
        let is_readable = self.rules.offline_log_may_lead || !state.is_offline(broker, registration.epoch);
        (registration.is_active() && is_trusted && is_readable).then_some(registration.epoch)
    }

    fn readable(&self, broker: BrokerId, state: &PartitionState) -> Option<BrokerEpoch> {
        let registration = self.image.broker(broker).filter(|registration| registration.is_active())?;
        (!state.is_offline(broker, registration.epoch)).then_some(registration.epoch)
    }

    fn may_lead_unclean(&self, broker: BrokerId) -> bool {
        let set =
            self.layers(broker).iter().find_map(|entity| unclean_election_of(&self.image.config(entity)?.entries));
        let of_registration = || self.image.broker(broker).is_some_and(|broker| broker.leaders.unclean_election);
        self.rules.unclean_is_always_enabled || set.unwrap_or_else(of_registration)
    }

    fn is_awaited(&self, broker: BrokerId) -> bool {
        self.image.broker(broker).is_some_and(|registration| registration.awaits_clients)
    }

    fn asks_last_known_first(&self) -> bool {
        !self.rules.unclean_takes_anybody
    }

    fn lives(&self, member: &IsrMember) -> bool {
        self.image.broker(member.broker).is_some_and(|broker| broker.ready && broker.epoch == member.epoch)
    }

    fn min_insync_replicas(&self, leader: BrokerId, state: &PartitionState) -> usize {
        self.image.min_insync_replicas_at(self.topic, leader, state)
    }

    fn knows_min_insync_replicas(&self, leader: BrokerId, _: &PartitionState) -> bool {
        // Without a leader the HW does not move.
        let Some(registration) = self.image.broker(leader) else { return leader == BrokerId::NONE };
        let registered = u64::try_from(registration.epoch.0).unwrap_or(0);
        let heard = self.liveness.session(leader).map_or(Revision(0), |session| session.image_revision);
        let known = heard.max(Revision(if registration.ready { registered } else { 0 }));
        let is_known = |entity: &ConfigEntity| {
            // The configuration that a topic was created with was known together with the topic.
            self.image.config(entity).is_none_or(|config| {
                let modified = config.min_insync_replicas_modified;
                modified <= known || (modified == self.topic.created && entity.name == self.topic.name.as_str())
            })
        };
        self.layers(leader).iter().all(is_known)
    }
}

/// The next broker for `/controller`: the lowest id among the active ones, else among all live ones.
pub(super) fn next_controller(image: &Image, leaving: BrokerId) -> Option<BrokerId> {
    let others = || image.brokers().filter(|broker| broker.id != leaving);
    let active = others().find(|broker| broker.is_active());
    active.or_else(|| others().next()).map(|broker| broker.id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ottla_model::{
        ControllerEpoch, IncarnationId, LeaderEpoch, ListenerName, MonotonicMs, PartitionEpoch, TimestampMs, TopicId,
        TopicName,
    };

    use super::*;
    use crate::image::{BrokerRegistration, LeaderRecoveryState, LeaderSettings};
    use crate::liveness::Reached;
    use crate::nodes;
    use crate::nodes::topic::TopicNode;
    use crate::transaction::{Change, Transaction};
    use crate::tree::Tree;

    const TOPIC: &str = "t";

    /// Broker 1, registered at revision 1, and a topic.
    fn image(ready: bool) -> Image {
        Image::from_tree(&tree(ready))
    }

    fn tree(ready: bool) -> Tree {
        let broker = BrokerRegistration {
            id: BrokerId(1),
            epoch: BrokerEpoch::NONE,
            incarnation: IncarnationId([1; 16]),
            endpoints: Vec::new(),
            inter_broker_listener: ListenerName::new("INTERNAL"),
            rack: None,
            ready,
            shutting_down: false,
            awaits_clients: false,
            min_insync_replicas: 1,
            leaders: LeaderSettings::default(),
            levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
            registered_at: TimestampMs(0),
        };
        let topic = TopicNode { id: TopicId([7; 16]), assignment: Vec::new(), grows_to: 0, queued: Default::default() };
        let name = TopicName::new(TOPIC).expect("a valid name");
        let changes = vec![
            Change::Create { path: nodes::broker::path(broker.id), payload: nodes::broker::encode(&broker) },
            Change::Create { path: nodes::topic::path(&name), payload: nodes::topic::encode(&topic) },
        ];
        let mut tree = Tree::new();
        tree.apply(Revision(1), &Transaction { changes }).expect("applies");
        tree
    }

    fn state(isr: &[(i32, i64)]) -> PartitionState {
        let member = |(broker, epoch): &(i32, i64)| IsrMember { broker: BrokerId(*broker), epoch: BrokerEpoch(*epoch) };
        PartitionState {
            leader: BrokerId::NONE,
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            controller_epoch: ControllerEpoch(1),
            replicas: vec![BrokerId(1), BrokerId(2)],
            reassignment: None,
            isr: isr.iter().map(member).collect(),
            elr: vec![],
            offline: vec![],
            last_known_elr: vec![],
            last_known_leader: BrokerId(1),
            leader_recovery_state: LeaderRecoveryState::Recovered,
        }
    }

    fn with<T>(image: &Image, use_it: impl FnOnce(&TopicElectorate<'_>) -> T) -> T {
        let times = (Duration::from_secs(3), Duration::from_secs(1), Duration::from_millis(50));
        let liveness = Liveness::new(MonotonicMs(0), times, Reached::new());
        let topic = image.topic(TOPIC).expect("is there");
        use_it(&TopicElectorate { image, liveness: &liveness, topic, rules: BrokenRules::default() })
    }

    /// KIP-903: the entry of a former life counts only where nobody else has what was committed.
    #[test]
    fn an_isr_entry_of_a_former_life_counts_as_the_last_one_only() {
        let (image, one) = (image(true), BrokerId(1));
        let acceptable = |isr: &[(i32, i64)]| with(&image, |electorate| electorate.acceptable(one, &state(isr)));
        assert_eq!(acceptable(&[(1, 1), (2, 9)]), Some(BrokerEpoch(1)));
        assert_eq!(acceptable(&[(1, 0)]), Some(BrokerEpoch(1)));
        assert_eq!(acceptable(&[(1, 0), (2, 9)]), None);
    }

    /// Seed 2367: a broker was drained, and a coordinator that had started since held its min.insync.replicas for
    /// unknown. A follower that ended was not remembered as eligible.
    #[test]
    fn scenario_52_a_configuration_that_never_had_min_insync_replicas_is_known_after_a_snapshot_too() {
        let path = ConfigEntity::broker(BrokerId(1)).path();
        let entries = |text: &str| nodes::config::encode(&[(text.to_owned(), "2".to_owned())].into());
        let knows = |changes: Vec<Change>| {
            let mut tree = tree(true);
            for (revision, change) in (2..).map(Revision).zip(changes) {
                tree.apply(revision, &Transaction { changes: vec![change] }).expect("applies");
            }
            let state = state(&[(1, 1)]);
            with(&Image::from_tree(&tree), |electorate| electorate.knows_min_insync_replicas(BrokerId(1), &state))
        };
        let drained = Change::Create { path: path.clone(), payload: entries("cordoned.log.dirs") };
        assert!(knows(vec![drained]));
        assert!(!knows(vec![Change::Create { path: path.clone(), payload: entries(MIN_INSYNC_REPLICAS) }]));
        // What 0.1 wrote does not tell since when it has none.
        let create = Change::Create { path: path.clone(), payload: entries("log.cleaner.threads") };
        let set = |payload| Change::Set { path, payload, expected: 0 };
        assert!(!knows(vec![create, set(entries("log.cleaner.threads"))]));
    }

    #[test]
    fn a_member_lives_in_the_epoch_in_which_it_is_ready() {
        let member = |broker: i32, epoch: i64| IsrMember { broker: BrokerId(broker), epoch: BrokerEpoch(epoch) };
        let lives = |image: &Image, member: IsrMember| with(image, |electorate| electorate.lives(&member));
        assert!(lives(&image(true), member(1, 1)));
        assert!(!lives(&image(true), member(1, 0)));
        assert!(!lives(&image(true), member(2, 1)));
        assert!(!lives(&image(false), member(1, 1)));
    }

    #[test]
    fn the_min_isr_is_the_leaders_or_without_one_the_last_leaders() {
        let path = ConfigEntity::broker(BrokerId(1)).path();
        let payload = nodes::config::encode(&[(MIN_INSYNC_REPLICAS.to_owned(), "2".to_owned())].into());
        let mut tree = tree(true);
        tree.apply(Revision(2), &Transaction { changes: vec![Change::Create { path, payload }] }).expect("applies");
        let image = Image::from_tree(&tree);
        let topic = image.topic(TOPIC).expect("is there");
        let leaderless = state(&[(1, 1), (2, 9)]);
        assert_eq!(image.min_insync_replicas(topic, &leaderless), 2);
        let led = PartitionState { leader: BrokerId(2), ..leaderless };
        assert_eq!(image.min_insync_replicas(topic, &led), 1, "nothing is known of broker 2");
    }

    /// Without a leader no high watermark moves.
    #[test]
    fn nobody_has_every_configuration_and_an_unknown_leader_none() {
        let knows =
            |leader| with(&image(true), |electorate| electorate.knows_min_insync_replicas(leader, &state(&[(1, 1)])));
        assert!(knows(BrokerId::NONE) && !knows(BrokerId(9)));
    }

    #[test]
    fn unclean_elections_ask_the_last_known_replicas_first_unless_the_rule_is_taken_out() {
        let rules = BrokenRules { unclean_takes_anybody: true, ..BrokenRules::default() };
        let asks = with(&image(true), |electorate| {
            [*electorate, TopicElectorate { rules, ..*electorate }].map(|one| one.asks_last_known_first())
        });
        assert_eq!(asks, [true, false]);
    }
}
