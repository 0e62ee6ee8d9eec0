//! What the scenarios have in common: three brokers, one partition, one topic, and members that a test leads.

use std::collections::BTreeSet;

use ottla_coordinator_partition::BrokenRules;
use ottla_group_coordinator::answer::FetchedOffsets;
use ottla_group_coordinator::request::{FetchOffsets, GroupTopic};
use ottla_group_coordinator::{GroupAnswer, GroupConfig, Request};
use ottla_model::{GroupId, MemberId, PartitionId};

use crate::groups::classic_member::ClassicMember;
use crate::groups::client::Behaviour;
use crate::groups::consumer_member::ConsumerMember;
use crate::groups::topics::Tp;
use crate::groups::world::{Kind, World};

pub const TOPIC: &str = "topic";
pub const PARTITIONS: i32 = 4;
/// Members that are silent for longer are put out.
pub const SESSION_MS: u64 = 1_000;
const PATIENCE_MS: u64 = 20_000;

pub struct Stage {
    pub world: World,
    script: u32,
}

impl Stage {
    pub fn new(seed: u64) -> Self {
        Self::with_rules(seed, BrokenRules::default())
    }

    pub fn with_rules(seed: u64, rules: BrokenRules) -> Self {
        let config = GroupConfig {
            group_min_session_timeout_ms: 100,
            group_initial_rebalance_delay_ms: 100,
            consumer_session_timeout_ms: i32::try_from(SESSION_MS).expect("small"),
            consumer_min_session_timeout_ms: 100,
            consumer_heartbeat_interval_ms: 200,
            ..GroupConfig::default()
        };
        let mut world = World::new(seed, 3, 1, config, rules, false);
        world.create_topic(TOPIC, PARTITIONS);
        let script = world.add_client(Kind::Script { group: Self::group(), answers: Default::default() });
        let mut stage = Self { world, script };
        stage.run_ms(100);
        stage
    }

    pub fn group() -> GroupId {
        GroupId::new("g")
    }

    pub fn all(&self) -> BTreeSet<Tp> {
        (0..PARTITIONS).map(|partition| (TOPIC.to_owned(), partition)).collect()
    }

    /// Time passes; the invariants hold.
    pub fn run_ms(&mut self, ms: u64) {
        let result = self.world.run_for_ms(ms);
        self.hold(result);
    }

    pub fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.world.now.plus_ms(PATIENCE_MS);
        while !done(self) {
            assert!(self.world.now < end, "{}\nwaited in vain for {what}", self.world.trace.tail().join("\n"));
            self.run_ms(1);
        }
    }

    fn hold(&self, result: Result<(), crate::invariants::Violation>) {
        if let Err(violation) = result {
            panic!("{}\n{violation}", self.world.trace.tail().join("\n"));
        }
    }

    fn behaviour(revocation_ms: u64) -> Behaviour {
        Behaviour {
            instance: None,
            topics: BTreeSet::from([TOPIC.to_owned()]),
            regex: None,
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: 2_000,
            revocation_ms: (revocation_ms, revocation_ms),
            taking_ms: (0, 0),
            rack: None,
            assignor: None,
            says_all: false,
            is_cooperative: false,
            commit_every_ms: (20, 20),
        }
    }

    pub fn add_consumer(&mut self, name: &str, revocation_ms: u64) -> u32 {
        let behaviour = Self::behaviour(revocation_ms);
        let member = ConsumerMember::new(Self::group(), name.to_owned(), MemberId::new(name), behaviour);
        self.world.add_client(Kind::Consumer(member))
    }

    pub fn add_classic(&mut self, name: &str) -> u32 {
        self.world.add_client(Kind::Classic(ClassicMember::new(Self::group(), name.to_owned(), Self::behaviour(0))))
    }

    pub fn add_cooperative(&mut self, name: &str) -> u32 {
        let behaviour = Behaviour { is_cooperative: true, ..Self::behaviour(0) };
        self.world.add_client(Kind::Classic(ClassicMember::new(Self::group(), name.to_owned(), behaviour)))
    }

    pub fn owned(&self, client: u32) -> BTreeSet<Tp> {
        self.world.clients.get(&client).and_then(|client| client.owned()).cloned().unwrap_or_default()
    }

    /// Member id, and generation or epoch.
    pub fn identity(&self, client: u32) -> (MemberId, i32) {
        match self.world.clients.get(&client).map(|client| &client.kind) {
            Some(Kind::Classic(member)) => (member.member.clone(), member.generation),
            Some(Kind::Consumer(member)) => (member.member.clone(), member.epoch),
            other => panic!("no member: {other:?}"),
        }
    }

    pub fn leader(&self) -> i32 {
        self.world.leader_of(0).expect("a leader")
    }

    // ---- what the test asks itself

    /// Commits the next number for these partitions, as one that is in no group.
    pub fn commit(&mut self, partitions: &BTreeSet<Tp>) -> u64 {
        let mut call = 0;
        let result = self.world.with_client(self.script, |kind, turn| {
            if let Kind::Script { group, .. } = kind {
                let ids = turn.topics.ids();
                call = turn.commit(group, &MemberId::new(""), None, -1, partitions, &ids);
            }
        });
        self.hold(result);
        call
    }

    pub fn answer(&self, call: u64) -> Option<&GroupAnswer> {
        match &self.world.clients.get(&self.script)?.kind {
            Kind::Script { answers, .. } => answers.get(&call),
            _ => None,
        }
    }

    pub fn answered(&mut self, call: u64) -> GroupAnswer {
        self.wait("an answer", |stage| stage.answer(call).is_some());
        self.answer(call).cloned().expect("it has come")
    }

    /// What the group has committed for all partitions of the topic, in their order; from whoever serves it, as soon as
    /// somebody does.
    pub fn fetch(&mut self) -> Vec<i64> {
        let end = self.world.now.plus_ms(PATIENCE_MS);
        loop {
            assert!(self.world.now < end, "nobody serves the group");
            let partitions = (0..PARTITIONS).map(PartitionId).collect();
            let topic = GroupTopic { name: TOPIC.to_owned(), id: self.world.topics.id(TOPIC) };
            let request = Request::FetchOffsets(FetchOffsets {
                group: Self::group(),
                member: None,
                member_epoch: -1,
                require_stable: false,
                topics: Some(vec![(topic, partitions)]),
            });
            let mut call = 0;
            let result = self.world.with_client(self.script, |_, turn| call = turn.send(request));
            self.hold(result);
            self.run_ms(20);
            if let Some(GroupAnswer::FetchOffsets(FetchedOffsets { topics, .. })) = self.answer(call) {
                return topics.iter().flat_map(|(_, found)| found).map(|found| found.offset.0).collect();
            }
        }
    }
}
