//! Random inputs in a random order, with commits that lag and quorum leaders that change. The harness checks the
//! invariants after every entry; at the end everything heals and must come to rest.

use ottla_model::{BrokerEpoch, BrokerId, PartitionId, TopicIdPartition};

use super::harness::*;
use crate::controller::*;
use crate::image::{ConfigEntity, IsrMember};
use crate::placement::Seeded;

const BROKERS: usize = 5;
const TOPICS: usize = 4;
const STEPS: usize = 400;

fn seeded(seed: u64) -> Seeded {
    let mut entropy = [0; 16];
    entropy[..8].copy_from_slice(&seed.to_le_bytes());
    Seeded::new(entropy)
}

struct Run {
    cluster: Cluster,
    random: Seeded,
    incarnations: u8,
}

impl Run {
    fn broker(&mut self) -> i32 {
        i32::try_from(self.random.below(BROKERS) + 1).expect("small")
    }

    fn topic(&mut self) -> String {
        format!("topic-{}", self.random.below(TOPICS))
    }

    /// Some of the pending registrations are answered; those brokers then run.
    fn collect_registrations(&mut self) {
        let answers = std::mem::take(&mut self.cluster.answers);
        for answer in answers.into_values() {
            let Answer::Register(Ok(registered)) = answer else { continue };
            let Some(broker) = self.cluster.image.broker(registered.broker).cloned() else { continue };
            if broker.epoch == registered.epoch {
                self.cluster.joined(&registered, broker.incarnation.0[0]);
            }
        }
    }

    fn register(&mut self) {
        let id = self.broker();
        let known = self.cluster.brokers.get(&id).cloned();
        let is_same = self.random.below(4) == 0;
        self.incarnations = self.incarnations.wrapping_add(1);
        let incarnation = match &known {
            Some(broker) if is_same => broker.incarnation.0[0],
            _ => self.incarnations,
        };
        let clean = match &known {
            Some(broker) if self.random.below(2) == 0 => broker.epoch,
            _ => BrokerEpoch::NONE,
        };
        let register = self.cluster.registration(id, incarnation, clean);
        self.cluster.send(Request::Register(register));
    }

    fn alter_isr(&mut self) {
        let name = self.topic();
        let Some(topic) = self.cluster.image.topic(&name).cloned() else { return };
        let mut partitions = Vec::new();
        let mut leader = None;
        for (partition, state) in topic.partitions() {
            let Some(broker) = self.cluster.image.broker(state.leader) else { continue };
            if *leader.get_or_insert((broker.id, broker.epoch)) != (broker.id, broker.epoch) {
                continue;
            }
            let mut isr = vec![IsrMember { broker: broker.id, epoch: broker.epoch }];
            for replica in state.replicas.iter().filter(|replica| **replica != broker.id) {
                if let Some(other) = self.cluster.image.broker(*replica).filter(|_| self.random.below(3) > 0) {
                    isr.push(IsrMember { broker: other.id, epoch: other.epoch });
                }
            }
            partitions.push(AlterPartition {
                partition: TopicIdPartition { topic_id: topic.id, partition },
                leader_epoch: state.leader_epoch,
                partition_epoch: state.partition_epoch,
                isr,
            });
        }
        if let Some((broker, epoch)) = leader {
            self.cluster.send(Request::AlterPartitions(AlterPartitions { broker, epoch, partitions }));
        }
    }

    /// Some partition gets other replicas, mostly possible ones, or none.
    fn reassign(&mut self) {
        let name = self.topic();
        let target = match self.random.below(4) {
            0 => None,
            _ => {
                let mut brokers: Vec<_> = (1..=i32::try_from(BROKERS).expect("small")).map(BrokerId).collect();
                self.random.shuffle(&mut brokers);
                brokers.truncate(1 + self.random.below(3));
                Some(brokers)
            }
        };
        let partition = PartitionId(i32::try_from(self.random.below(3)).expect("small"));
        let topics = vec![(name, vec![(partition, target.clone()), (partition, target)])];
        let allow_replication_factor_change = self.random.below(4) > 0;
        self.cluster.send(Request::AlterReassignments(AlterReassignments { topics, allow_replication_factor_change }));
    }

    /// Every leader has all its replicas in the ISR.
    fn catch_up(&mut self) {
        let image = self.cluster.image.clone();
        for topic in image.topics() {
            for (partition, state) in topic.partitions().filter(|(_, state)| state.has_leader()) {
                let leader = image.broker(state.leader).expect("a leader lives");
                let member =
                    |broker: &BrokerId| image.broker(*broker).map(|b| IsrMember { broker: b.id, epoch: b.epoch });
                let change = AlterPartition {
                    partition: TopicIdPartition { topic_id: topic.id, partition },
                    leader_epoch: state.leader_epoch,
                    partition_epoch: state.partition_epoch,
                    isr: state.replicas.iter().filter_map(member).collect(),
                };
                let (broker, epoch, partitions) = (leader.id, leader.epoch, vec![change]);
                self.cluster.send(Request::AlterPartitions(AlterPartitions { broker, epoch, partitions }));
                self.cluster.commit_all();
            }
        }
    }

    fn step(&mut self) {
        let id = self.broker();
        let known = self.cluster.brokers.get(&id).cloned();
        match self.random.below(24) {
            0..=2 => self.register(),
            3 if known.as_ref().is_some_and(|broker| broker.runs) => self.cluster.stop_running(id),
            4..=7 => self.alter_isr(),
            8 => {
                let partitions = i32::try_from(1 + self.random.below(3)).expect("small");
                let factor = i32::try_from(1 + self.random.below(3)).expect("small");
                let mut topic = new_topic(&self.topic(), &[], &[]);
                (topic.partitions, topic.replication_factor) = (partitions, factor);
                let topics = vec![topic];
                let (default_partitions, default_replication_factor) = (1, 1);
                let request =
                    CreateTopics { topics, validate_only: false, default_partitions, default_replication_factor };
                self.cluster.send(Request::CreateTopics(request));
            }
            9 if self.random.below(3) == 0 => {
                let topics = vec![TopicRef::Name(self.topic())];
                self.cluster.send(Request::DeleteTopics(DeleteTopics { topics }));
            }
            10 => {
                let topic = self.topic();
                let count = self.cluster.image.topic(&topic).map_or(0, |topic| topic.partition_count());
                let total = i32::try_from(count + 1).expect("small");
                let topics = vec![NewPartitions { topic, total, assignments: None }];
                self.cluster.send(Request::CreatePartitions(CreatePartitions { topics, validate_only: false }));
            }
            11 => {
                let entity = match self.random.below(3) {
                    0 => ConfigEntity::default_broker(),
                    1 => ConfigEntity::broker(BrokerId(id)),
                    _ => ConfigEntity::topic(&self.topic()),
                };
                let value = (self.random.below(3) > 0).then(|| (1 + self.random.below(3)).to_string());
                let changes = vec![("min.insync.replicas".to_owned(), value.into())];
                let entities = vec![AlterConfig { entity, changes, replace_all: false }];
                self.cluster.send(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
            }
            12 => {
                if let Some(broker) = known {
                    let shutdown = ControlledShutdown {
                        broker: BrokerId(id),
                        epoch: broker.epoch,
                        incarnation: broker.incarnation,
                    };
                    self.cluster.send(Request::ControlledShutdown(shutdown));
                }
            }
            13 => {
                if let Some(broker) = known {
                    let partitions = self.cluster.image.in_sync_on(BrokerId(id)).collect();
                    let reason = match self.random.below(6) {
                        0 => ResignReason::Lost,
                        1 => ResignReason::Offline,
                        _ => ResignReason::Stalled,
                    };
                    let resign = ResignLeadership { broker: BrokerId(id), epoch: broker.epoch, partitions, reason };
                    self.cluster.send(Request::ResignLeadership(resign));
                }
            }
            22 => {
                // Rarely: it ends the ELR, which these runs are to see often.
                let election = match self.random.below(20) {
                    0 => ElectionType::Unclean,
                    _ => ElectionType::Preferred,
                };
                self.cluster.send(Request::ElectLeaders(ElectLeaders { election, topics: None }));
            }
            14 if self.random.below(4) == 0 => self.cluster.change_leader(),
            15 => self.cluster.reachable = self.random.below(3) > 0,
            16 => {
                if let Some(broker) = self.cluster.brokers.get_mut(&id) {
                    broker.follows = !broker.follows;
                }
            }
            17 => self.cluster.answer_probes(),
            18..=20 => self.cluster.beat(id),
            23 => self.reassign(),
            21 => {
                let ms = TICK_MS * u64::try_from(1 + self.random.below(40)).expect("small");
                self.cluster.run(ms);
            }
            _ => {}
        }
        for _ in 0..self.random.below(4) {
            self.cluster.commit_one();
        }
        self.collect_registrations();
    }

    /// All brokers return, cleanly if their process still runs; then every partition with a live ISR or ELR member has
    /// a leader.
    fn heal(&mut self) {
        self.cluster.commit_all();
        self.cluster.reachable = true;
        for broker in self.cluster.brokers.values_mut() {
            broker.follows = true;
        }
        // Brokers that do not run are silent for a session.
        self.cluster.run(4_500);
        self.collect_registrations();
        for id in 1..=i32::try_from(BROKERS).expect("small") {
            let is_live = self.cluster.image.broker(BrokerId(id)).is_some_and(|broker| !broker.shutting_down);
            let is_leaving = self.cluster.image.broker(BrokerId(id)).is_some_and(|broker| broker.shutting_down);
            if is_leaving {
                self.cluster.kill(id);
                self.cluster.run(4_000);
            }
            if !is_live {
                self.incarnations = self.incarnations.wrapping_add(1);
                let register = self.cluster.registration(id, self.incarnations, BrokerEpoch::NONE);
                self.cluster.send(Request::Register(register));
                self.cluster.commit_all();
                self.collect_registrations();
            }
        }
        self.cluster.run(2_000);
        assert_eq!(self.cluster.image.broker_count(), BROKERS);
        assert!(self.cluster.image.brokers().all(|broker| broker.ready));
        assert_eq!(self.cluster.controller.in_flight(), 0);
        let image = &self.cluster.image;
        for id in image.leaderless() {
            let state = image.partition(id).expect("it is indexed");
            let cannot_lead = |member: &IsrMember| {
                let epoch = image.broker_epoch(member.broker).unwrap_or(BrokerEpoch::NONE);
                member.is_lost() || state.is_offline(member.broker, epoch)
            };
            assert!(state.isr.iter().all(cannot_lead), "everybody is back and {id:?} has no leader: {state:?}");
        }
        assert_eq!(self.cluster.image.deleting().count(), 0);
        // Each wave has to end before the next one begins.
        let mut waves = 0;
        while waves < 100 && (waves == 0 || self.cluster.image.queued().next().is_some()) {
            self.catch_up();
            waves += 1;
        }
        self.catch_up();
        let image = &self.cluster.image;
        let under_way = image.reassigning().filter_map(|id| image.partition(id));
        let unfinished: Vec<_> = under_way.filter(|state| state.has_leader()).collect();
        assert!(unfinished.is_empty(), "everybody is in sync: {unfinished:?}");
        let waits = image.queued().next().filter(|_| image.reassigning().next().is_none());
        assert_eq!(waits, None, "it waits for nobody");
    }
}

#[test]
fn random_inputs_keep_every_invariant_and_everything_comes_to_rest() {
    let (mut elections, mut states_with_elr, mut reassignments) = (0, 0, 0);
    ottla_test_support::each_seed(0..80, |seed| {
        let most = [1, 2, 50][usize::try_from(seed % 3).expect("small")];
        let cluster = Cluster::with(|config| config.reassignments_per_broker_max = most);
        let mut run = Run { cluster, random: seeded(seed), incarnations: 0 };
        for _ in 0..STEPS {
            run.step();
        }
        run.heal();
        elections += run.cluster.elections;
        states_with_elr += run.cluster.states_with_elr;
        reassignments += run.cluster.completed_reassignments;
    });
    // The runs must reach the states that the test is about.
    assert!(
        !ottla_test_support::runs_at_least(80) || elections > 1_000 && states_with_elr > 500 && reassignments > 100,
        "{elections} elections, {states_with_elr} states with an ELR, {reassignments} reassignments"
    );
}

/// The same seed gives the same proposals, to the byte.
#[test]
fn a_seed_replays() {
    let play = || {
        let mut run = Run { cluster: Cluster::new(), random: seeded(7), incarnations: 0 };
        (0..STEPS).for_each(|_| run.step());
        (run.cluster.tree.clone(), run.cluster.transactions)
    };
    assert_eq!(play(), play());
}
