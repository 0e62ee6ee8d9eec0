//! Requests with random names, sizes and values (faults A1 and A6): every proposal survives its entry form, stays
//! within the limits, and makes the same tree and image on a second member; every refusal is one of Kafka's.

use std::collections::BTreeSet;

use ottla_authorizer::{
    AclBinding, AclEntry, AclFilter, EntryFilter, Operation, PatternFilter, PatternType, Permission, ResourceFilter,
    ResourcePattern, ResourceType,
};
use ottla_model::{
    BrokerEpoch, BrokerId, CoordinatorId, ErrorCode, IncarnationId, IncarnationKey, KafkaPrincipal, LeaderEpoch,
    ListenerName, OTTLA_VERSION, PartitionEpoch, PartitionId, TopicId, TopicIdPartition,
};

use super::harness::*;
use crate::controller::*;
use crate::image::{ConfigEntity, ConfigKind, CoordinatorNode, Endpoint, IsrMember};
use crate::limits;
use crate::placement::Seeded;

const SEEDS: u64 = 30;
const STEPS: usize = 60;

struct Hostile {
    sent: BTreeSet<&'static str>,
    cluster: Cluster,
    random: Seeded,
    refusals: usize,
}

impl Hostile {
    fn new(seed: u64) -> Self {
        let mut entropy = [0; 16];
        entropy[..8].copy_from_slice(&seed.to_le_bytes());
        let mut hostile =
            Self { sent: BTreeSet::new(), cluster: Cluster::new(), random: Seeded::new(entropy), refusals: 0 };
        for id in 1..=3 {
            hostile.cluster.start(id);
        }
        hostile
    }

    /// Sizes around every limit, most of them small.
    fn size(&mut self) -> usize {
        const SIZES: [usize; 16] = [0, 1, 1, 2, 3, 7, 30, 249, 250, 299, 300, 301, 1_010, 1_025, 40_000, 1_100_000];
        SIZES[self.random.below(SIZES.len())]
    }

    fn text(&mut self) -> String {
        const WORDS: [&str; 12] = ["a", "g", "/", ".", "..", "ü", "\u{0}", "%", "<default>", " ", "\u{7f}", "0"];
        let (word, size) = (WORDS[self.random.below(WORDS.len())], self.size());
        word.repeat(size.div_ceil(word.len()))
    }

    fn number(&mut self) -> i32 {
        const NUMBERS: [i32; 14] = [i32::MIN, -2, -1, 0, 1, 1, 2, 3, 4, 100, 9_999, 10_001, 1_000_000, i32::MAX];
        NUMBERS[self.random.below(NUMBERS.len())]
    }

    fn few(&mut self) -> usize {
        [0, 1, 1, 1, 2, 3, 40][self.random.below(7)]
    }

    fn name(&mut self) -> String {
        match self.random.below(3) {
            0 => self.text(),
            1 => "t".repeat(1 + self.random.below(249)),
            _ => format!("topic-{}", self.random.below(4)),
        }
    }

    fn replicas(&mut self) -> Vec<BrokerId> {
        let count = self.few();
        (0..count)
            .map(|_| BrokerId(if self.random.below(4) > 0 { 1 + self.random.below(3) as i32 } else { self.number() }))
            .collect()
    }

    fn config(&mut self) -> (String, String) {
        const KNOWN: [&str; 5] =
            ["retention.ms", "min.insync.replicas", "consumer.session.timeout.ms", "cleanup.policy", "listeners"];
        let name = match self.random.below(2) {
            0 => KNOWN[self.random.below(KNOWN.len())].to_owned(),
            _ => self.text(),
        };
        let value = match self.random.below(3) {
            0 => self.text(),
            1 => self.number().to_string(),
            _ => "60000".to_owned(),
        };
        (name, value)
    }

    fn request(&mut self) -> Request {
        match self.random.below(21) {
            0 | 1 => self.create_topics(),
            2 => self.create_partitions(),
            3 => {
                let count = self.few();
                let topics = (0..count).map(|_| match self.random.below(3) {
                    0 => TopicRef::Id(TopicId([self.random.below(3) as u8; 16])),
                    _ => TopicRef::Name(self.name()),
                });
                Request::DeleteTopics(DeleteTopics { topics: topics.collect() })
            }
            4 | 5 => self.alter_configs(),
            6 => self.register(),
            7 => Request::UnregisterBroker(UnregisterBroker { broker: self.broker() }),
            8 => self.alter_partitions(),
            9 => Request::ResignLeadership(ResignLeadership {
                broker: self.broker(),
                epoch: self.epoch(),
                partitions: self.partitions(),
                reason: [ResignReason::Stalled, ResignReason::Offline, ResignReason::Lost][self.random.below(3)],
            }),
            10 => {
                let broker = self.broker();
                let known = self.cluster.brokers.get(&broker.0).map(|broker| broker.incarnation);
                let incarnation = known.unwrap_or(IncarnationId([1; 16]));
                Request::ControlledShutdown(ControlledShutdown { broker, epoch: self.epoch(), incarnation })
            }
            11 => Request::AllocateProducerIds(AllocateProducerIds { broker: self.broker(), epoch: self.epoch() }),
            12 => {
                let partitions = (0..self.few()).map(|_| PartitionId(self.number())).collect();
                let topics = (self.random.below(4) > 0).then(|| vec![(self.name(), partitions)]);
                let election = [ElectionType::Preferred, ElectionType::Unclean][self.random.below(2)];
                Request::ElectLeaders(ElectLeaders { election, topics })
            }
            13 => {
                let targets = (0..self.few()).map(|_| {
                    let target = (self.random.below(4) > 0).then(|| self.replicas());
                    (PartitionId([0, 0, 1, self.number()][self.random.below(4)]), target)
                });
                let targets = targets.collect();
                let allow_replication_factor_change = self.random.below(4) > 0;
                let topics = vec![(self.name(), targets)];
                Request::AlterReassignments(AlterReassignments { topics, allow_replication_factor_change })
            }
            14 | 15 => self.acls(),
            16 => Request::SetMember(SetMember {
                coordinator: CoordinatorId(u64::from(self.number().unsigned_abs())),
                node: CoordinatorNode::first(IncarnationId([2; 16]), self.text()),
            }),
            17 => {
                let to = Some(CoordinatorId(u64::from(self.number().unsigned_abs())));
                Request::ChangeQuorum(ChangeQuorum::TransferLeadership { to })
            }
            18 => self.delegation_token(),
            19 => self.update_features(),
            _ => Request::AdmitCoordinator(AdmitCoordinator {
                coordinator: CoordinatorId(u64::from(self.number().unsigned_abs())),
                disk: IncarnationId([1; 16]),
                address: self.text(),
            }),
        }
    }

    fn update_features(&mut self) -> Request {
        let updates = (0..self.few()).map(|_| FeatureUpdate {
            name: if self.random.below(2) == 0 { OTTLA_VERSION.to_owned() } else { self.text() },
            level: [0, 1, 2, 3, self.number() as i16][self.random.below(5)],
            change: [FeatureChange::Upgrade, FeatureChange::SafeDowngrade, FeatureChange::UnsafeDowngrade]
                [self.random.below(3)],
        });
        Request::UpdateFeatures(UpdateFeatures { updates: updates.collect(), validate_only: self.random.below(4) == 0 })
    }

    fn delegation_token(&mut self) -> Request {
        let principal = |text: String| KafkaPrincipal::new("User", text);
        let by = principal(self.text());
        let period_ms = i64::from(self.number()) << self.random.below(33);
        let change = match self.random.below(4) {
            0 | 1 => TokenChange::Create {
                owner: by,
                requester: principal(self.text()),
                renewers: (0..self.few()).map(|_| principal(self.text())).collect(),
                lifetime_ms: period_ms,
                renewal_ms: i64::from(self.number()),
            },
            2 => TokenChange::Renew { by, period_ms },
            _ => TokenChange::Expire { by, period_ms: (period_ms >= 0).then_some(period_ms) },
        };
        Request::AlterDelegationToken(AlterDelegationToken { token_id: self.text(), change })
    }

    /// Mostly one that is not among the three that beat: an unregistered broker beats no more.
    fn broker(&mut self) -> BrokerId {
        BrokerId([4, 4, 1 + self.random.below(3) as i32, self.number()][self.random.below(4)])
    }

    fn epoch(&mut self) -> BrokerEpoch {
        let id = BrokerId(1 + self.random.below(3) as i32);
        match self.random.below(3) {
            0 => BrokerEpoch(i64::from(self.number())),
            _ => self.cluster.image.broker(id).map_or(BrokerEpoch::NONE, |broker| broker.epoch),
        }
    }

    fn partitions(&mut self) -> Vec<TopicIdPartition> {
        let known: Vec<TopicId> = self.cluster.image.topics().map(|topic| topic.id).collect();
        let count = self.few();
        (0..count)
            .map(|_| TopicIdPartition {
                topic_id: match known.is_empty() || self.random.below(3) == 0 {
                    true => TopicId([self.random.below(3) as u8; 16]),
                    false => known[self.random.below(known.len())],
                },
                partition: PartitionId([0, 0, 1, self.number()][self.random.below(4)]),
            })
            .collect()
    }

    fn alter_partitions(&mut self) -> Request {
        let partitions = self.partitions().into_iter().map(|partition| AlterPartition {
            partition,
            leader_epoch: LeaderEpoch(self.random.below(3) as i32),
            partition_epoch: PartitionEpoch(self.random.below(3) as i32),
            isr: self.replicas().into_iter().map(|broker| IsrMember { broker, epoch: self.epoch() }).collect(),
        });
        let partitions = partitions.collect();
        Request::AlterPartitions(AlterPartitions { broker: self.broker(), epoch: self.epoch(), partitions })
    }

    fn create_topics(&mut self) -> Request {
        let count = self.few();
        let topics = (0..count).map(|_| {
            let assignments = match self.random.below(2) {
                0 => Vec::new(),
                _ => {
                    let count = self.few();
                    (0..).map(PartitionId).zip((0..count).map(|_| self.replicas()).collect::<Vec<_>>()).collect()
                }
            };
            let configs = (0..self.few()).map(|_| self.config()).collect::<Vec<_>>();
            NewTopic {
                name: self.name(),
                partitions: self.number(),
                replication_factor: [1, 2, 3, -1, self.number()][self.random.below(5)],
                grows_to: [0, 0, 3, self.number()][self.random.below(4)],
                assignments,
                configs: match self.random.below(2) {
                    0 => vec![("retention.ms".to_owned(), Some("1000".to_owned()))],
                    _ => configs.into_iter().map(|(name, value)| (name, Some(value))).collect(),
                },
            }
        });
        Request::CreateTopics(CreateTopics {
            topics: topics.collect(),
            validate_only: self.random.below(5) == 0,
            default_partitions: self.number(),
            default_replication_factor: self.number(),
        })
    }

    fn create_partitions(&mut self) -> Request {
        let count = self.few();
        let topics = (0..count).map(|_| {
            let count = self.few();
            NewPartitions {
                topic: self.name(),
                total: self.number(),
                assignments: (self.random.below(3) > 0).then(|| (0..count).map(|_| self.replicas()).collect()),
            }
        });
        Request::CreatePartitions(CreatePartitions { topics: topics.collect(), validate_only: false })
    }

    fn alter_configs(&mut self) -> Request {
        let count = self.few();
        let entities = (0..count).map(|_| {
            let kind = ConfigKind::ALL[self.random.below(ConfigKind::ALL.len())];
            let name = match (kind, self.random.below(2)) {
                (ConfigKind::Brokers, 0) => self.number().to_string(),
                (ConfigKind::Topics, 0) => self.name(),
                _ => self.text(),
            };
            let changes = (0..self.few()).map(|_| {
                let (name, value) = self.config();
                let op = match self.random.below(4) {
                    0 => ConfigOp::Delete,
                    1 => ConfigOp::Append(value),
                    2 => ConfigOp::Subtract(value),
                    _ => ConfigOp::Set(value),
                };
                (name, op)
            });
            let changes = changes.collect();
            AlterConfig { entity: ConfigEntity { kind, name }, changes, replace_all: self.random.below(2) == 0 }
        });
        Request::AlterConfigs(AlterConfigs { entities: entities.collect(), validate_only: false })
    }

    fn acls(&mut self) -> Request {
        let count = self.few();
        if self.random.below(3) > 0 {
            let bindings = (0..count).map(|_| AclBinding {
                pattern: ResourcePattern {
                    resource_type: ResourceType::ALL[self.random.below(ResourceType::ALL.len())],
                    pattern_type: PatternType::ALL[self.random.below(2)],
                    name: self.name(),
                },
                entry: AclEntry {
                    principal: KafkaPrincipal::new(self.text(), self.text()),
                    host: self.text(),
                    operation: Operation::ALL[self.random.below(Operation::ALL.len())],
                    permission: Permission::ALL[self.random.below(2)],
                },
            });
            return Request::CreateAcls(CreateAcls { bindings: bindings.collect() });
        }
        let filters = (0..count).map(|_| AclFilter {
            pattern: ResourceFilter {
                resource_type: [None, Some(ResourceType::Topic)][self.random.below(2)],
                pattern: [PatternFilter::Any, PatternFilter::Match][self.random.below(2)],
                name: (self.random.below(2) == 0).then(|| self.name()),
            },
            entry: EntryFilter {
                operation: [None, Some(Operation::Read)][self.random.below(2)],
                ..EntryFilter::default()
            },
        });
        Request::DeleteAcls(DeleteAcls { filters: filters.collect() })
    }

    fn register(&mut self) -> Request {
        let count = self.few();
        let mut endpoints: Vec<_> = (0..count)
            .map(|_| Endpoint {
                listener: ListenerName::new(self.text()),
                host: self.text(),
                port: 9092,
                security_protocol: self.text(),
            })
            .collect();
        let mut register = self.cluster.registration(1, 9, ottla_model::BrokerEpoch::NONE);
        if self.random.below(2) == 0 {
            endpoints.append(&mut register.endpoints);
        }
        register.broker = BrokerId([-1, 4, self.number().max(-2)][self.random.below(3)]);
        register.inter_broker_listener =
            endpoints.last().map_or_else(|| ListenerName::new("X"), |endpoint| endpoint.listener.clone());
        register.endpoints = endpoints;
        register.incarnation = IncarnationId([self.random.below(200) as u8; 16]);
        register.rack = (self.random.below(2) == 0).then(|| self.text());
        register.min_insync_replicas = self.number();
        Request::Register(register)
    }

    fn check(&mut self, response: Answer) {
        let refusals: Vec<Refusal> = match response {
            Answer::CreateTopics(outcomes) | Answer::DeleteTopics(outcomes) | Answer::CreatePartitions(outcomes) => {
                outcomes.topics.into_iter().filter_map(|topic| topic.refusal).collect()
            }
            Answer::AlterConfigs(outcomes) => {
                outcomes.entities.into_iter().filter_map(|(_, refusal)| refusal).collect()
            }
            Answer::Register(Err(refusal))
            | Answer::UnregisterBroker(Err(refusal))
            | Answer::AlterDelegationToken(Err(refusal))
            | Answer::UpdateFeatures(Err(refusal)) => vec![refusal],
            Answer::AlterPartitions(altered) => {
                let errors = altered.partitions.into_iter().map(|partition| partition.error).chain([altered.error]);
                errors.filter_map(refusal_of).collect()
            }
            Answer::ElectLeaders(outcomes) | Answer::AlterReassignments(outcomes) => {
                let outcomes = outcomes.topics.into_iter().flat_map(|(_, outcomes)| outcomes);
                outcomes.filter_map(|outcome| outcome.refusal).collect()
            }
            Answer::CreateAcls(created) => created.refusals.into_iter().flatten().collect(),
            Answer::DeleteAcls(deleted) => deleted.filters.into_iter().filter_map(Result::err).collect(),
            Answer::ResignLeadership(resigned) => refusal_of(resigned.error).into_iter().collect(),
            Answer::ControlledShutdown(progress) => refusal_of(progress.error).into_iter().collect(),
            Answer::AllocateProducerIds(Err(error)) => refusal_of(error).into_iter().collect(),
            Answer::Register(Ok(_))
            | Answer::UnregisterBroker(Ok(_))
            | Answer::AlterDelegationToken(Ok(_))
            | Answer::UpdateFeatures(Ok(_))
            | Answer::AllocateProducerIds(Ok(_))
            | Answer::AdmitCoordinator(_)
            | Answer::SetMember(())
            | Answer::ChangeQuorum(Ok(_)) => Vec::new(),
            Answer::ChangeQuorum(Err(refusal)) => vec![refusal],
            Answer::Unavailable => panic!("nothing is lost here, and it is not decided"),
        };
        self.refusals += refusals.len();
        for refusal in refusals {
            let is_kafkas = !matches!(refusal.error, ErrorCode::None | ErrorCode::UnknownServerError);
            assert!(is_kafkas && refusal.message.len() <= limits::MAX_ERROR_TEXT_BYTES, "{:?}", refusal.error);
        }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            let request = self.request();
            self.sent.insert(request.name());
            // Some under a key, and some of the keys twice.
            let request = match self.random.below(4) {
                0 => Request::Once(IdempotencyKey([self.random.below(20) as u8; 16]), Box::new(request)),
                1 => Request::Proved(IncarnationKey::new([self.random.below(20) as u8; 32]), Box::new(request)),
                _ => request,
            };
            let id = self.cluster.send(request);
            self.cluster.commit_all();
            // A registration may wait for the holder of its id.
            while !self.cluster.answers.contains_key(&id) {
                self.cluster.run(TICK_MS);
            }
            let response = self.cluster.answers.remove(&id).expect("there is one");
            self.check(response);
            (1..=3).for_each(|id| self.cluster.beat(id));
        }
        for (path, node) in self.cluster.tree.iter() {
            assert!(node.payload.len() <= limits::MAX_NODE_BYTES, "{path} holds {} bytes", node.payload.len());
        }
    }
}

fn refusal_of(error: ErrorCode) -> Option<Refusal> {
    (error != ErrorCode::None).then(|| Refusal::new(error, String::new()))
}

#[test]
fn what_is_proposed_for_any_request_applies_on_every_member() {
    let (mut refusals, mut decided) = (0, 0);
    let mut sent = BTreeSet::new();
    ottla_test_support::each_seed(0..SEEDS, |seed| {
        let mut hostile = Hostile::new(seed);
        hostile.run();
        refusals += hostile.refusals;
        sent.append(&mut hostile.sent);
        decided += hostile.cluster.transactions;
    });
    assert!(
        !ottla_test_support::runs_at_least(SEEDS) || refusals > 1_000 && decided > 500,
        "{refusals} refusals, {decided} transactions"
    );
    // A request that is new in the controller has to be sent here too.
    let all: BTreeSet<&str> = Request::NAMES.iter().copied().collect();
    assert!(!ottla_test_support::runs_at_least(SEEDS) || sent == all, "only {sent:?} of {all:?}");
}

/// Fault A1 as it was observed: `kafka-configs --alter --entity-type groups --entity-name <1,010 × g>`.
#[test]
fn a_group_whose_name_makes_no_path_is_refused() {
    let mut cluster = Cluster::of(1);
    let entity = ConfigEntity::group(&"g".repeat(1_010));
    let changes = vec![("consumer.session.timeout.ms".to_owned(), ConfigOp::Set("45000".to_owned()))];
    let entities = vec![AlterConfig { entity, changes, replace_all: false }];
    let answer = cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
    let Answer::AlterConfigs(outcomes) = answer else { panic!("not the answer: {answer:?}") };
    let refusal = outcomes.entities[0].1.as_ref().expect("refused");
    assert_eq!(refusal.error, ErrorCode::InvalidRequest);
}

/// Fault A6 as it was observed: IncrementalAlterConfigs of 3.9 MB each on one broker with unknown keys.
#[test]
fn configurations_of_one_broker_do_not_grow_past_what_a_watch_event_holds() {
    let mut cluster = Cluster::of(1);
    let mut refused = 0;
    for at in 0..5 {
        let changes = vec![(format!("plugin.{at}"), ConfigOp::Set("x".repeat(3_900_000)))];
        let entities = vec![AlterConfig { entity: ConfigEntity::broker(BrokerId(1)), changes, replace_all: false }];
        let answer = cluster.ask(Request::AlterConfigs(AlterConfigs { entities, validate_only: false }));
        let Answer::AlterConfigs(outcomes) = answer else { panic!("not the answer: {answer:?}") };
        refused += usize::from(outcomes.entities[0].1.is_some());
    }
    assert_eq!(refused, 5);
    let largest = cluster.tree.iter().map(|(_, node)| node.payload.len()).max();
    assert!(largest.is_some_and(|bytes| bytes <= limits::MAX_NODE_BYTES));
}

/// G12: topics and configurations could be added until no coordinator had memory for them.
#[test]
fn g12_a_tree_that_is_full_takes_nothing_more_on_request_and_all_else_goes_on() {
    let mut cluster = Cluster::of(2);
    cluster.create("t", &[&[1, 2]], &[("retention.ms", "60000")]);
    cluster.fill(limits::MAX_TREE_BYTES / limits::MAX_NODE_BYTES);
    let topic = |name: &str| NewTopic {
        name: name.to_owned(),
        partitions: 1,
        replication_factor: 1,
        grows_to: 0,
        assignments: Vec::new(),
        configs: Vec::new(),
    };
    let create = CreateTopics {
        topics: vec![topic("more")],
        validate_only: false,
        default_partitions: 1,
        default_replication_factor: 1,
    };
    let Answer::CreateTopics(outcomes) = cluster.ask(Request::CreateTopics(create)) else { panic!("not the answer") };
    assert_eq!(outcomes.topics[0].refusal.as_ref().map(|refusal| refusal.error), Some(ErrorCode::PolicyViolation));
    let grown = vec![NewPartitions { topic: "t".to_owned(), total: 2, assignments: None }];
    let grow = Request::CreatePartitions(CreatePartitions { topics: grown, validate_only: false });
    let Answer::CreatePartitions(outcomes) = cluster.ask(grow) else { panic!("not the answer") };
    assert_eq!(outcomes.topics[0].refusal.as_ref().map(|refusal| refusal.error), Some(ErrorCode::PolicyViolation));
    let user = || KafkaPrincipal::user("alice");
    let change = TokenChange::Create {
        owner: user(),
        requester: user(),
        renewers: Vec::new(),
        lifetime_ms: 1_000,
        renewal_ms: 1_000,
    };
    let token = AlterDelegationToken { token_id: "t".to_owned(), change };
    let Answer::AlterDelegationToken(Err(refusal)) = cluster.ask(Request::AlterDelegationToken(token)) else {
        panic!("there is a token")
    };
    assert_eq!(refusal.error, ErrorCode::PolicyViolation);
    // A configuration may change if it takes no more room.
    for (value, error) in [("600000", Some(ErrorCode::PolicyViolation)), ("70000", None), ("1000", None)] {
        let changes = vec![("retention.ms".to_owned(), ConfigOp::Set(value.to_owned()))];
        let alter = AlterConfig { entity: ConfigEntity::topic("t"), changes, replace_all: false };
        let alter = AlterConfigs { entities: vec![alter], validate_only: false };
        let Answer::AlterConfigs(outcomes) = cluster.ask(Request::AlterConfigs(alter)) else {
            panic!("not the answer")
        };
        assert_eq!(outcomes.entities[0].1.as_ref().map(|refusal| refusal.error), error, "{value}");
    }
    let delete = DeleteTopics { topics: vec![TopicRef::Name("t".to_owned())] };
    let Answer::DeleteTopics(outcomes) = cluster.ask(Request::DeleteTopics(delete)) else { panic!("not the answer") };
    assert_eq!(outcomes.topics[0].refusal, None);
}
