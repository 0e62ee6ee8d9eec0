//! A consumer of the classic protocol. An eager one gives everything up before it joins a round. A cooperative one
//! joins with what it owns, gives up what it is not assigned any more, and then joins once more, so that another member
//! gets it.

use std::collections::{BTreeMap, BTreeSet};

use ottla_group_coordinator::answer::{Joined, JoinedMember, Synced};
use ottla_group_coordinator::request::{ClientInfo, Heartbeat, JoinGroup, LeaveGroup, LeavingMember, SyncGroup};
use ottla_group_coordinator::{GroupAnswer, Request, Topics as _};
use ottla_model::{ErrorCode, GroupId, MemberId, TopicId};

use super::client::{BACKOFF_MS, Behaviour, REQUEST_TIMEOUT_MS, Turn, error_of, is_about_the_coordinator};
use super::consumer_protocol;
use super::topics::{SimTopics, TopicIds, Tp};
use crate::clock::SimTime;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It joins as soon as it may.
    Unjoined,
    Joining,
    Syncing,
    Stable,
    /// It gives partitions up, and joins then: all of them, or those that it was not assigned.
    Revoking {
        until: SimTime,
    },
    /// It has left, or another has its instance id.
    Gone,
}

#[derive(Debug)]
pub struct ClassicMember {
    pub group: GroupId,
    pub member: MemberId,
    pub generation: i32,
    pub state: State,
    pub owned: BTreeSet<Tp>,
    /// Of the topics that it owns partitions of.
    pub topic_ids: TopicIds,
    /// The coordinator assigns, and no member leads.
    is_in_consumer_group: bool,
    pub behaviour: Behaviour,
    name: String,
    /// What it gives up while it is revoking.
    revokes: BTreeSet<Tp>,
    /// What it said that it owns when it joined the round.
    claims: BTreeSet<Tp>,
    is_leader: bool,
    /// What the leader assigned from.
    topics_version: u64,
    protocol: String,
    /// The request that is awaited, and until when.
    awaited: Option<(u64, SimTime)>,
    committing: Option<(u64, SimTime)>,
    assignments: Vec<(MemberId, bytes::Bytes)>,
    not_before: SimTime,
    next_heartbeat: SimTime,
    next_commit: SimTime,
}

impl ClassicMember {
    pub fn new(group: GroupId, name: String, behaviour: Behaviour) -> Self {
        Self {
            group,
            member: MemberId::new(""),
            generation: -1,
            state: State::Unjoined,
            owned: BTreeSet::new(),
            topic_ids: TopicIds::new(),
            is_in_consumer_group: false,
            revokes: BTreeSet::new(),
            claims: BTreeSet::new(),
            behaviour,
            name,
            is_leader: false,
            topics_version: 0,
            protocol: String::new(),
            awaited: None,
            committing: None,
            assignments: Vec::new(),
            not_before: SimTime(0),
            next_heartbeat: SimTime(0),
            next_commit: SimTime(0),
        }
    }

    pub fn is_stable(&self) -> bool {
        self.state == State::Stable
    }

    /// A round that began must be heard of in time to join it.
    fn heartbeat_interval_ms(&self) -> u64 {
        (self.behaviour.session_timeout_ms / 4).min(self.behaviour.rebalance_timeout_ms / 4)
    }

    pub fn tick(&mut self, turn: &mut Turn<'_>) {
        if self.committing.is_some_and(|(_, until)| until <= turn.now) {
            self.committing = None;
        }
        if let Some((call, until)) = self.awaited
            && until <= turn.now
        {
            self.lost(turn, call);
        }
        self.let_go_of_gone_topics(turn);
        if self.state == State::Stable && self.is_leader && self.topics_version != turn.topics.version() {
            self.rejoin(turn);
        }
        if let State::Revoking { until } = self.state
            && until <= turn.now
        {
            self.owned.retain(|tp| !self.revokes.contains(tp));
            self.state = State::Unjoined;
        }
        // A member that was paused commits before it learns that it was removed.
        self.commit(turn);
        if self.awaited.is_some() || turn.now < self.not_before {
            return;
        }
        let (request, patience_ms) = match self.state {
            State::Unjoined | State::Joining => {
                self.state = State::Joining;
                (self.join(turn), self.behaviour.rebalance_timeout_ms + 2 * REQUEST_TIMEOUT_MS)
            }
            State::Syncing => (self.sync(), self.behaviour.rebalance_timeout_ms + 2 * REQUEST_TIMEOUT_MS),
            State::Stable | State::Revoking { .. } if self.next_heartbeat <= turn.now => {
                self.next_heartbeat = turn.now.plus_ms(self.heartbeat_interval_ms());
                (self.heartbeat(), REQUEST_TIMEOUT_MS)
            }
            _ => return,
        };
        let call = turn.send(request);
        self.awaited = Some((call, turn.now.plus_ms(patience_ms)));
    }

    /// Partitions of a topic that is gone are not read any more, nor those of a topic that took its name. A topic that
    /// is gone has no id: without this two of them would count as one (seed 8224).
    fn let_go_of_gone_topics(&mut self, turn: &Turn<'_>) {
        let is_there = |topic: &str, known: TopicId| !known.is_zero() && turn.topics.id(topic) == known;
        self.owned.retain(|(topic, _)| self.topic_ids.get(topic).is_some_and(|known| is_there(topic, *known)));
    }

    fn commit(&mut self, turn: &mut Turn<'_>) {
        let owns = matches!(self.state, State::Stable | State::Revoking { .. }) && !self.owned.is_empty();
        if !owns || self.committing.is_some() || turn.now < self.next_commit {
            return;
        }
        let (low, high) = self.behaviour.commit_every_ms;
        self.next_commit = turn.now.plus_ms(turn.random.between(low, high));
        let instance = self.behaviour.instance.as_ref();
        let call = turn.commit(&self.group, &self.member, instance, self.generation, &self.owned, &self.topic_ids);
        self.committing = Some((call, turn.now.plus_ms(REQUEST_TIMEOUT_MS)));
    }

    fn join(&mut self, turn: &mut Turn<'_>) -> Request {
        self.claims.clone_from(&self.owned);
        let metadata = consumer_protocol::subscription(&self.behaviour.topics, &self.owned);
        let mut protocols: Vec<&str> = if self.behaviour.is_cooperative {
            vec!["cooperative-sticky", "cooperative-other"]
        } else {
            vec!["range", "roundrobin"]
        };
        if turn.random.percent(30) {
            protocols.reverse();
        }
        Request::JoinGroup(JoinGroup {
            group: self.group.clone(),
            member: self.member.clone(),
            instance: self.behaviour.instance.clone(),
            client: ClientInfo { client_id: self.name.clone(), client_host: "/127.0.0.1".to_owned() },
            fresh_id: format!("{:016x}", turn.random.next_u64()),
            session_timeout_ms: i32::try_from(self.behaviour.session_timeout_ms).unwrap_or(i32::MAX),
            rebalance_timeout_ms: i32::try_from(self.behaviour.rebalance_timeout_ms).unwrap_or(i32::MAX),
            protocol_type: "consumer".to_owned(),
            protocols: protocols.into_iter().map(|name| (name.to_owned(), metadata.clone())).collect(),
            requires_known_member_id: true,
            supports_skip_assignment: true,
            reason: None,
        })
    }

    fn sync(&self) -> Request {
        Request::SyncGroup(SyncGroup {
            group: self.group.clone(),
            generation: self.generation,
            member: self.member.clone(),
            instance: self.behaviour.instance.clone(),
            protocol_type: Some("consumer".to_owned()),
            protocol_name: Some(self.protocol.clone()),
            assignments: self.assignments.clone(),
        })
    }

    fn heartbeat(&self) -> Request {
        Request::Heartbeat(Heartbeat {
            group: self.group.clone(),
            generation: self.generation,
            member: self.member.clone(),
            instance: self.behaviour.instance.clone(),
        })
    }

    /// Leaves for good; a static member just goes.
    pub fn leave(&mut self, turn: &mut Turn<'_>) {
        if self.behaviour.instance.is_none() && !self.member.is_empty() {
            let leaving = LeavingMember { member: self.member.clone(), instance: None, reason: None };
            turn.send(Request::LeaveGroup(LeaveGroup { group: self.group.clone(), members: vec![leaving] }));
        }
        self.owned.clear();
        self.state = State::Gone;
    }

    /// `topic_ids`: the topics that the broker means by their names.
    pub fn answered(&mut self, turn: &mut Turn<'_>, call: u64, answer: GroupAnswer, topic_ids: &TopicIds) {
        let error = error_of(&answer);
        if self.committing.is_some_and(|(awaited, _)| awaited == call) {
            self.committing = None;
            turn.forgets_coordinator |= is_about_the_coordinator(error);
            return;
        }
        if self.awaited.is_none_or(|(awaited, _)| awaited != call) {
            return;
        }
        self.awaited = None;
        match (error, answer) {
            (ErrorCode::None, GroupAnswer::JoinGroup(joined)) => self.joined(turn, joined),
            (ErrorCode::None, GroupAnswer::SyncGroup(synced)) => self.synced(turn, &synced, topic_ids),
            (ErrorCode::None, _) => {}
            (ErrorCode::MemberIdRequired, GroupAnswer::JoinGroup(joined)) => {
                self.member = joined.member;
                self.state = State::Unjoined;
            }
            (ErrorCode::FencedInstanceId, _) => {
                turn.notes.push("fenced: another has the instance id".to_owned());
                self.owned.clear();
                self.state = State::Gone;
            }
            (ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration, _) => {
                // It is nobody's any more: nothing is left to give up in good order.
                self.owned.clear();
                self.generation = -1;
                if error == ErrorCode::UnknownMemberId {
                    self.member = MemberId::new("");
                }
                self.state = State::Unjoined;
            }
            (ErrorCode::RebalanceInProgress, _) => self.rejoin(turn),
            (error, _) => {
                turn.forgets_coordinator |= is_about_the_coordinator(error);
                self.not_before = turn.now.plus_ms(BACKOFF_MS);
                // A round that the coordinator does not know any more begins anew.
                if matches!(self.state, State::Syncing | State::Joining) {
                    self.state = State::Unjoined;
                }
            }
        }
    }

    /// No answer will come.
    pub fn lost(&mut self, turn: &mut Turn<'_>, call: u64) {
        if self.committing.is_some_and(|(awaited, _)| awaited == call) {
            self.committing = None;
        }
        if self.awaited.is_some_and(|(awaited, _)| awaited == call) {
            self.awaited = None;
            self.not_before = turn.now.plus_ms(BACKOFF_MS);
            if matches!(self.state, State::Syncing | State::Joining) {
                self.state = State::Unjoined;
            }
        }
        turn.forgets_coordinator = true;
    }

    fn rejoin(&mut self, turn: &mut Turn<'_>) {
        match self.state {
            State::Revoking { .. } | State::Gone => {}
            _ if self.owned.is_empty() || self.behaviour.is_cooperative => self.state = State::Unjoined,
            _ => self.revoke(turn, self.owned.clone()),
        }
    }

    /// Gives these up, and joins a round then.
    fn revoke(&mut self, turn: &mut Turn<'_>, revokes: BTreeSet<Tp>) {
        let (low, high) = self.behaviour.revocation_ms;
        self.state = State::Revoking { until: turn.now.plus_ms(turn.random.between(low, high)) };
        self.revokes = revokes;
    }

    fn joined(&mut self, turn: &mut Turn<'_>, joined: Joined) {
        self.member = joined.member;
        self.generation = joined.generation;
        self.protocol = joined.protocol_name.unwrap_or_default();
        self.is_leader = joined.leader == self.member;
        self.is_in_consumer_group = joined.leader.is_empty();
        self.state = State::Syncing;
        self.assignments = Vec::new();
        if !self.is_leader {
            return;
        }
        // A static leader that came back goes on with what was assigned; it cannot tell from which topics.
        self.topics_version = if joined.skip_assignment { 0 } else { turn.topics.version() };
        if joined.skip_assignment {
            return;
        }
        let shares = if self.behaviour.is_cooperative {
            cooperative_shares(&joined.members, turn.topics)
        } else {
            eager_shares(&joined.members, turn.topics)
        };
        self.assignments =
            shares.into_iter().map(|(member, share)| (member, consumer_protocol::assignment(&share))).collect();
    }

    fn synced(&mut self, turn: &mut Turn<'_>, synced: &Synced, topic_ids: &TopicIds) {
        let assigned = consumer_protocol::read_assignment(&synced.assignment).unwrap_or_default();
        self.next_heartbeat = turn.now.plus_ms(self.heartbeat_interval_ms());
        self.next_commit = turn.now.plus_ms(turn.random.between(0, self.behaviour.commit_every_ms.1));
        // An eager member owns nothing here. A cooperative one joins again also for what it has lost since it said that
        // it owns it: the round gave that to nobody (seed 2764).
        let revokes: BTreeSet<Tp> =
            self.owned.union(&self.claims).filter(|tp| !assigned.contains(tp)).cloned().collect();
        for (topic, _) in &assigned {
            // A consumer group assigns partitions of topic ids, and the protocol carries names. If the topic was
            // created again meanwhile, the member was given nothing of the new one (seeds 1642 and 2525).
            let meant = if self.is_in_consumer_group { topic_ids.get(topic).copied() } else { None };
            self.topic_ids.insert(topic.clone(), meant.unwrap_or_else(|| turn.topics.id(topic)));
        }
        self.owned.extend(assigned);
        self.let_go_of_gone_topics(turn);
        if revokes.is_empty() {
            self.state = State::Stable;
        } else {
            self.revoke(turn, revokes);
        }
    }
}

type Shares = BTreeMap<MemberId, BTreeSet<Tp>>;

/// Who subscribes to each topic.
fn subscribers(members: &[JoinedMember]) -> BTreeMap<String, Vec<&MemberId>> {
    let mut subscribers: BTreeMap<String, Vec<&MemberId>> = BTreeMap::new();
    for member in members {
        let (topics, _) = consumer_protocol::read_subscription(&member.metadata).unwrap_or_default();
        for topic in topics {
            subscribers.entry(topic).or_default().push(&member.member);
        }
    }
    subscribers
}

fn eager_shares(members: &[JoinedMember], topics: &SimTopics) -> Shares {
    let mut shares: Shares = members.iter().map(|member| (member.member.clone(), BTreeSet::new())).collect();
    for (topic, subscribers) in subscribers(members) {
        let partitions = topics.partitions_of([&topic]);
        for (partition, member) in partitions.into_iter().zip(subscribers.iter().cycle()) {
            shares.entry((*member).clone()).or_default().insert(partition);
        }
    }
    shares
}

/// As [`eager_shares`], but what a member owns goes to another one only in the round after it was given up.
fn cooperative_shares(members: &[JoinedMember], topics: &SimTopics) -> Shares {
    let mut shares = eager_shares(members, topics);
    for member in members {
        let (_, owned) = consumer_protocol::read_subscription(&member.metadata).unwrap_or_default();
        for (other, share) in &mut shares {
            if *other != member.member {
                share.retain(|tp| !owned.contains(tp));
            }
        }
    }
    shares
}
