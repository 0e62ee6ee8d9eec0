//! Members of both protocols in one group, which becomes a consumer group and a classic one again as they come and go.
//!
//! Always: no partition is read by two members that are in the group. In the end, with or without members of the
//! consumer protocol: everything is read by exactly one.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::ErrorCode;
use proptest::prelude::*;

use super::random::{CONSUMERS, Event, Read, Run};
use super::*;
use crate::answer::{Joined, Synced};
use crate::effects::RequestId;
use crate::group::embedded::{self, Subscription};
use crate::request::{Heartbeat, JoinGroup, LeaveGroup, LeavingMember, SyncGroup};

/// A consumer of the classic protocol that lets go of everything before it joins (eager), and assigns ranges when it
/// leads.
#[derive(Clone, Debug, Default)]
struct Old {
    lives: usize,
    id: String,
    generation: i32,
    reads: Read,
    /// The request that it waits for.
    waits: Option<RequestId>,
    is_in: bool,
}

const OLDS: usize = 3;

#[derive(Clone, Debug)]
enum Happening {
    New(Event),
    Poll(usize),
    Leave(usize),
    Crash(usize),
    AllNewLeave,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let (new, old) = (|| 0..CONSUMERS, || 0..OLDS);
    let happening = prop_oneof![
        8 => new().prop_map(|number| Happening::New(Event::Beat(number))),
        4 => new().prop_map(|number| Happening::New(Event::LetGo(number))),
        4 => new().prop_map(|number| Happening::New(Event::Take(number))),
        1 => new().prop_map(|number| Happening::New(Event::Leave(number))),
        1 => new().prop_map(|number| Happening::New(Event::Crash(number))),
        1 => Just(Happening::New(Event::Grow(0))),
        1 => (0..20_000u64).prop_map(|ms| Happening::New(Event::Pass(ms))),
        1 => Just(Happening::New(Event::FailOver)),
        12 => old().prop_map(Happening::Poll),
        1 => old().prop_map(Happening::Leave),
        1 => old().prop_map(Happening::Crash),
        1 => Just(Happening::AllNewLeave),
    ];
    proptest::collection::vec(happening, 1..150)
}

struct Mixed {
    run: Run,
    olds: Vec<Old>,
}

impl Mixed {
    fn topics() -> Vec<String> {
        vec!["t".into(), "u".into()]
    }

    fn join(&mut self, number: usize) {
        let old = &mut self.olds[number];
        old.reads.clear();
        let subscription = Subscription { version: 1, topics: Self::topics(), ..Subscription::default() };
        let request = JoinGroup {
            group: group(),
            member: MemberId::new(old.id.as_str()),
            instance: None,
            client: ClientInfo { client_id: "old".into(), client_host: "/127.0.0.1".into() },
            fresh_id: format!("o{number}-{}", old.lives),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 15_000,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), embedded::write_subscription(&subscription))],
            requires_known_member_id: true,
            supports_skip_assignment: false,
            reason: None,
        };
        let id = self.run.world.host.ask(Request::JoinGroup(request));
        self.olds[number].waits = Some(id);
    }

    /// What the leader gives its members: each partition to one of them.
    fn assignments(&self, members: &[MemberId]) -> Vec<(MemberId, bytes::Bytes)> {
        let mut shares: BTreeMap<usize, BTreeMap<String, Vec<PartitionId>>> = BTreeMap::new();
        for (at, (topic, partition)) in self.run.everything().into_iter().enumerate() {
            let name = self.run.world.cluster.by_id(topic).unwrap().name.to_string();
            shares.entry(at % members.len()).or_default().entry(name).or_default().push(partition);
        }
        let of = |at: usize| shares.get(&at).cloned().unwrap_or_default().into_iter().collect();
        let members = members.iter().enumerate();
        members.map(|(at, member)| (member.clone(), embedded::write_assignment(1, &of(at)))).collect()
    }

    fn joined(&mut self, number: usize, joined: Joined) {
        match joined.error {
            ErrorCode::None => {
                let old = &mut self.olds[number];
                (old.generation, old.id) = (joined.generation, joined.member.to_string());
                let members: Vec<MemberId> = joined.members.iter().map(|member| member.member.clone()).collect();
                let request = SyncGroup {
                    group: group(),
                    generation: joined.generation,
                    member: joined.member,
                    instance: None,
                    protocol_type: Some("consumer".into()),
                    protocol_name: Some("range".into()),
                    assignments: if members.is_empty() { vec![] } else { self.assignments(&members) },
                };
                let id = self.run.world.host.ask(Request::SyncGroup(request));
                self.olds[number].waits = Some(id);
            }
            ErrorCode::MemberIdRequired => {
                self.olds[number].id = joined.member.to_string();
                self.join(number);
            }
            ErrorCode::RebalanceInProgress => self.join(number),
            ErrorCode::UnknownMemberId | ErrorCode::NotCoordinator | ErrorCode::IllegalGeneration => self.stop(number),
            other => panic!("{other:?}"),
        }
    }

    fn synced(&mut self, number: usize, synced: Synced) {
        match synced.error {
            ErrorCode::None => {
                let given =
                    embedded::Assignment::read(&synced.assignment).map(|read| read.partitions).unwrap_or_default();
                let old = &mut self.olds[number];
                old.is_in = true;
                for (name, partitions) in given {
                    // Of a topic that is gone by now there is nothing to read.
                    if let Some(topic) = self.run.world.cluster.by_name(&name) {
                        old.reads.extend(partitions.into_iter().map(|partition| (topic.id, partition)));
                    }
                }
            }
            ErrorCode::RebalanceInProgress => self.join(number),
            _ => self.stop(number),
        }
    }

    fn stop(&mut self, number: usize) {
        let lives = self.olds[number].lives + 1;
        self.olds[number] = Old { lives, ..Old::default() };
    }

    /// Takes an answer if there is one, sends a heartbeat, or joins.
    fn poll(&mut self, number: usize) {
        let old = self.olds[number].clone();
        if let Some(id) = old.waits {
            match self.run.world.host.answer(id) {
                None => {}
                Some(answer) => {
                    self.olds[number].waits = None;
                    self.olds[number].is_in = false;
                    match answer {
                        GroupAnswer::JoinGroup(joined) => self.joined(number, joined),
                        GroupAnswer::SyncGroup(synced) => self.synced(number, synced),
                        GroupAnswer::Failed(_) => self.stop(number),
                        other => panic!("{other:?}"),
                    }
                }
            }
        } else if old.is_in {
            let member = MemberId::new(old.id.as_str());
            let request = Heartbeat { group: group(), generation: old.generation, member, instance: None };
            match self.run.world.host.call(Request::Heartbeat(request)) {
                GroupAnswer::Heartbeat(ErrorCode::None) => {}
                GroupAnswer::Heartbeat(ErrorCode::RebalanceInProgress) => self.join(number),
                GroupAnswer::Heartbeat(_) => self.stop(number),
                other => panic!("{other:?}"),
            }
        } else {
            self.join(number);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::New(event) => self.run.happen(event),
            Happening::Poll(number) => self.poll(number),
            Happening::Leave(number) => {
                let leaving = LeavingMember {
                    member: MemberId::new(self.olds[number].id.as_str()),
                    instance: None,
                    reason: None,
                };
                self.run.world.host.ask(Request::LeaveGroup(LeaveGroup { group: group(), members: vec![leaving] }));
                self.stop(number);
            }
            Happening::Crash(number) => self.stop(number),
            Happening::AllNewLeave => {
                for number in 0..CONSUMERS {
                    self.run.happen(Event::Leave(number));
                }
            }
        }
        self.readers();
    }

    fn readers(&mut self) -> BTreeMap<(TopicId, PartitionId), String> {
        let described = self.run.world.describe();
        if described.error != ErrorCode::None {
            self.run.forget_epochs();
        }
        let mut readers = self.run.readers(&described);
        let mut members: BTreeSet<String> = described.members.iter().map(|member| member.member.to_string()).collect();
        if let GroupAnswer::DescribeGroup(classic) = self.run.world.host.call(Request::DescribeGroup(group())) {
            members.extend(classic.members.iter().map(|member| member.member.to_string()));
        }
        for old in self.olds.iter().filter(|old| members.contains(&old.id)) {
            for read in &old.reads {
                let other = readers.insert(*read, old.id.clone());
                assert_eq!(other, None, "{read:?} is read by two, the other is {}", old.id);
            }
        }
        readers
    }

    fn settle(&mut self, with_new: bool) {
        if !with_new {
            // Static members only go for a while; their sessions run out below.
            self.happen(Happening::AllNewLeave);
        }
        for _ in 0..40 {
            if with_new {
                self.run.round();
            }
            for number in 0..OLDS {
                self.happen(Happening::Poll(number));
            }
            self.happen(Happening::New(Event::Pass(2_000)));
        }
        let readers = self.readers();
        let read: Read = readers.keys().copied().collect();
        assert_eq!(read, self.run.everything(), "{:#?}", self.olds);
        let is_classic = matches!(self.run.world.host.shard.group(&group()), Some(Group::Classic(_)));
        assert_eq!(is_classic, !with_new);
        assert!(self.olds.iter().all(|old| old.is_in));
        self.run.world.check_replay();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_way_up_and_down_hands_nothing_over_too_early(happenings in happenings(), with_new in any::<bool>()) {
        let mut mixed = Mixed { run: Run::new(), olds: vec![Old::default(); OLDS] };
        for happening in happenings {
            mixed.happen(happening);
        }
        mixed.settle(with_new);
    }
}
